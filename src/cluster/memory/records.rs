//! Records of nodes and containers: read, compared, and understood.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{Memory, Saved};
use crate::{
    engine::{
        inventory::{Container, Inventory, Specs},
        monitor::Recall,
        raw::RawObject,
    },
    model::address::EngineAddr,
    store::{Entry, StoreError},
};

/// The record of a node.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct NodeRecord {
    pub(super) specs: Specs,
    #[serde(default)]
    pub(super) ip: Option<IpAddr>,
    pub(super) seen_at: DateTime<Utc>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) down_since: Option<DateTime<Utc>>,
}

impl Memory {
    /// Reads once what the store has of a node.
    pub(super) async fn load(&self, addr: &EngineAddr) -> Result<(), StoreError> {
        let is_loaded = self.desk().saved.contains_key(addr);
        if is_loaded {
            return Ok(());
        }
        self.read(addr).await.map(drop)
    }

    /// Nodes that are on record and not among `known`, as they were seen last, if that is less
    /// than `within` ago.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn others(
        &self,
        known: impl Fn(&EngineAddr) -> bool,
        within: TimeDelta,
    ) -> Result<Vec<Inventory>, StoreError> {
        let prefix = format!("{}/nodes", self.inner.options.prefix);
        let listing = self.within(self.inner.store.list(&prefix)).await?;
        let mut others = Vec::new();
        for entry in listing.entries {
            let below = entry.key.strip_prefix(&prefix);
            let addr = below.and_then(|below| below.strip_prefix('/')?.parse().ok());
            let Some(addr) = addr else {
                continue;
            };
            let is_recent = |record: NodeRecord| Utc::now() - record.seen_at < within;
            if known(&addr) || !parse_node(&entry).is_some_and(is_recent) {
                continue;
            }
            others.extend(self.read(&addr).await?);
            // It is not among those whose records are kept up to date.
            self.desk().saved.remove(&addr);
        }
        Ok(others)
    }

    /// Reads all records of a node.
    pub(super) async fn read(&self, addr: &EngineAddr) -> Result<Option<Inventory>, StoreError> {
        let leads_since = self.desk().leads_since;
        let prefix = format!("{}/containers/{addr}", self.inner.options.prefix);
        let listing = self.within(self.inner.store.list(&prefix)).await?;
        let key = self.node_key(addr);
        let node = self.within(self.inner.store.get(&key)).await?;
        let mut saved = Saved::default();
        let record = node.as_ref().and_then(parse_node);
        saved.is_foreign = node.is_some() && record.is_none();
        if let Some(record) = &record {
            saved.node = Some((record.digest(), record.seen_at));
            saved.inherited = Some(record.seen_at);
        }
        let cpus = record.as_ref().map_or(0, |record| record.specs.cpus);
        let mut containers = imbl::OrdMap::new();
        for entry in &listing.entries {
            match self.parse_container(entry, cpus) {
                Ok((container, digest)) => {
                    saved.containers.insert(Arc::clone(&container.id), digest);
                    containers.insert(Arc::clone(&container.id), Arc::new(container));
                }
                Err(reason) => {
                    warn!(key = entry.key, reason, "record cannot be read, left alone");
                }
            }
        }
        let inventory = record.map(|record| Inventory {
            specs: Some(Arc::new(record.specs)),
            ip: record.ip,
            updated_at: record.seen_at.into(),
            down_since: record.down_since.map(Into::into),
            containers,
            is_recalled: true,
            ..Inventory::pending(addr.clone())
        });
        let mut desk = self.desk();
        // What was read before this manager took over is too old to compare with.
        if desk.leads_since == leads_since {
            desk.saved.entry(addr.clone()).or_insert(saved);
        }
        Ok(inventory)
    }

    pub(super) fn parse_container(
        &self,
        entry: &Entry,
        cpus: u32,
    ) -> Result<(Container, u64), String> {
        let record = RawObject::parse(&entry.value).map_err(|error| error.to_string())?;
        let list_entry = record.object("Entry").map_err(|error| error.to_string())?;
        let inspect = record
            .get("Inspect")
            .ok_or("it has no member `Inspect`")?
            .get()
            .as_bytes();
        let shares = self.inner.options.cpu_shares;
        let container = Container::parse(&list_entry, inspect, cpus, shares)
            .map_err(|error| error.to_string())?;
        if !entry.key.ends_with(&*container.id) || container.id.is_empty() {
            return Err(format!("it is of container `{}`", container.id));
        }
        let digest = digest(&container, inspect);
        Ok((container, digest))
    }
}

#[async_trait]
impl Recall for Memory {
    async fn recall(&self, addr: &EngineAddr) -> Result<Option<Inventory>, String> {
        match self.read(addr).await {
            Ok(inventory) => Ok(inventory),
            Err(error) => {
                let reason = error.to_string();
                self.failed(error);
                Err(reason)
            }
        }
    }
}

impl NodeRecord {
    /// Equal for records that differ in time alone.
    pub(super) fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        serde_json::to_vec(&self.specs)
            .unwrap_or_default()
            .hash(&mut hasher);
        self.ip.hash(&mut hasher);
        self.down_since.hash(&mut hasher);
        hasher.finish()
    }
}

pub(super) fn parse_node(entry: &Entry) -> Option<NodeRecord> {
    serde_json::from_slice(&entry.value)
        .inspect_err(|error| warn!(key = entry.key, %error, "record cannot be read, left alone"))
        .ok()
}

/// The record of a container. Its parts were read as JSON before and are put together as they are.
pub(super) fn container(
    container: &Container,
    inspect: &[u8],
    create: Option<&RawObject>,
) -> Bytes {
    let entry = or_null(container.entry.text().as_bytes());
    let inspect = or_null(inspect);
    let mut record = Vec::with_capacity(entry.len() + inspect.len() + 32);
    record.extend_from_slice(br#"{"Entry":"#);
    record.extend_from_slice(entry);
    record.extend_from_slice(br#","Inspect":"#);
    record.extend_from_slice(inspect);
    if let Some(create) = create {
        record.extend_from_slice(br#","Create":"#);
        record.extend(create.to_bytes());
    }
    record.push(b'}');
    record.into()
}

fn or_null(json: &[u8]) -> &[u8] {
    match json.trim_ascii() {
        [] => b"null",
        json => json,
    }
}

/// Equal for containers whose records need not be written again.
pub(super) fn digest(container: &Container, inspect: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    container.names.hash(&mut hasher);
    // Space around a document is not kept in records.
    inspect.trim_ascii().hash(&mut hasher);
    hasher.finish()
}
