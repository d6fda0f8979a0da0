//! Records of nodes and containers: written when they say something new.

use std::{collections::HashMap, sync::Arc};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{StreamExt, stream};

use super::{
    Document, Memory, Pending,
    records::{self, NodeRecord, digest},
};
use crate::{
    engine::{
        inventory::{Container, Inventory},
        raw::RawObject,
    },
    model::address::EngineAddr,
    store::StoreError,
};

/// How many nodes are brought up to date at once.
const CONCURRENT_NODES: usize = 8;

/// How many records of one node are written at once.
const CONCURRENT_WRITES: usize = 32;

/// How often it is noted that a node is there.
const SEEN_INTERVAL: TimeDelta = TimeDelta::hours(1);

/// A record that has to be written.
struct Writing<'a> {
    container: &'a Container,
    document: Document,
    digest: u64,
}

impl Memory {
    /// Whether there was anything to do, and more may be.
    pub(super) async fn write_pending(&self) -> bool {
        let work: Vec<_> = {
            let mut desk = self.desk();
            let desk = &mut *desk;
            let latest = &desk.latest;
            desk.pending
                .extract_if(|addr, _| latest.contains_key(addr))
                .map(|(addr, pending)| (Arc::clone(&latest[&addr]), pending))
                .collect()
        };
        let took = !work.is_empty();
        stream::iter(work)
            .for_each_concurrent(CONCURRENT_NODES, |(inventory, pending)| async move {
                self.write_node(&inventory, pending).await;
            })
            .await;
        took && self.trouble().is_none()
    }

    async fn write_node(&self, inventory: &Inventory, mut pending: Pending) {
        let addr = &inventory.addr;
        if self.trouble().is_some() {
            self.put_back(addr, pending);
            return;
        }
        if let Err(error) = self.load(addr).await {
            self.failed(error);
            self.put_back(addr, pending);
            return;
        }
        self.write_specs(inventory).await;
        let gone = self.gone(inventory, &mut pending);
        stream::iter(&gone)
            .for_each_concurrent(CONCURRENT_WRITES, |id| async move {
                if let Err(error) = self.delete(addr, id).await {
                    self.failed(error);
                }
            })
            .await;
        let writes = self.writings(inventory, &mut pending);
        let is_news = !gone.is_empty() || !writes.is_empty();
        stream::iter(writes)
            .for_each_concurrent(CONCURRENT_WRITES, |writing| async move {
                let Err(error) = self.write(addr, &writing).await else {
                    return;
                };
                let is_lasting = matches!(error, StoreError::TooLarge { .. });
                self.failed(error);
                if !is_lasting {
                    let id = Arc::clone(&writing.container.id);
                    let documents = HashMap::from([(id, writing.document)]);
                    let pending = Pending {
                        documents,
                        ..Pending::default()
                    };
                    self.put_back(addr, pending);
                }
            })
            .await;
        if is_news && self.trouble().is_none() {
            self.write_seen(inventory).await;
        }
        // Deletions and specs that failed are found again by comparing.
        if self.trouble().is_some() {
            if let Some(saved) = self.desk().saved.get_mut(addr) {
                saved.is_compared = false;
            }
            self.put_back(addr, pending);
        }
    }

    /// Takes the containers whose records have to go. Records of an earlier process are compared
    /// once, with a list that is younger than all of them: what an older one lacks may have been
    /// made since. From then on inventories tell what went.
    fn gone(&self, inventory: &Inventory, pending: &mut Pending) -> Vec<Arc<str>> {
        let told = std::mem::take(&mut pending.gone);
        let is_gone = |id: &Arc<str>| !inventory.containers.contains_key(id);
        let mut desk = self.desk();
        let leads_since = desk.leads_since;
        let Some(saved) = desk.saved.get_mut(&inventory.addr) else {
            return Vec::new();
        };
        let known = &saved.containers;
        let is_young = inventory.listed_at.is_some_and(|at| at >= leads_since);
        if is_young && !saved.is_compared {
            saved.is_compared = true;
            known.keys().filter(|id| is_gone(id)).cloned().collect()
        } else {
            let told = told.into_iter();
            told.filter(|id| known.contains_key(id) && is_gone(id))
                .collect()
        }
    }

    /// Takes the documents that say something new.
    fn writings<'a>(&self, inventory: &'a Inventory, pending: &mut Pending) -> Vec<Writing<'a>> {
        let mut writings = Vec::new();
        for (id, mut document) in pending.documents.drain() {
            let Some(container) = inventory.containers.get(&id) else {
                continue;
            };
            let swarm_id = container.swarm_id.as_ref();
            if let Some(create) = self.intended(swarm_id, &inventory.addr) {
                document.create = Some(create);
            }
            if self.is_outdated(&document, &inventory.addr) {
                continue;
            }
            let digest = digest(container, &document.inspect);
            let is_known = || {
                let desk = self.desk();
                let saved = desk.saved.get(&inventory.addr);
                saved.and_then(|saved| saved.containers.get(&id)) == Some(&digest)
            };
            if document.create.is_some() || !is_known() {
                writings.push(Writing {
                    container,
                    document,
                    digest,
                });
            }
        }
        writings
    }

    /// Whether whoever led before saw a node that is down now after the document was made.
    fn is_outdated(&self, document: &Document, addr: &EngineAddr) -> bool {
        let desk = self.desk();
        let saved = desk
            .saved
            .get(addr)
            .filter(|_| desk.down.contains_key(addr));
        let Some(seen_at) = saved.and_then(|saved| saved.inherited) else {
            return false;
        };
        let age = TimeDelta::from_std(document.noted_at.elapsed()).unwrap_or(TimeDelta::MAX);
        Utc::now() - seen_at < age
    }

    /// Writes what a node is, if that is news.
    async fn write_specs(&self, inventory: &Inventory) {
        let Some(record) = self.node_record(inventory) else {
            return;
        };
        let digest = record.digest();
        let is_due = self.desk().saved.get(&inventory.addr).is_none_or(|saved| {
            let is_same = |(known, at)| known == digest && record.seen_at - at < SEEN_INTERVAL;
            !saved.node.is_some_and(is_same)
        });
        if is_due {
            self.put_node(&inventory.addr, &record).await;
        }
    }

    /// Writes how young the records of a node's containers are, now that some have changed: whoever
    /// takes over goes by them if it has not heard the node since.
    async fn write_seen(&self, inventory: &Inventory) {
        if let Some(record) = self.node_record(inventory) {
            self.put_node(&inventory.addr, &record).await;
        }
    }

    /// The record of a node, unless what stands in its place is foreign.
    fn node_record(&self, inventory: &Inventory) -> Option<NodeRecord> {
        let specs = inventory.specs.as_ref()?;
        let desk = self.desk();
        let saved = desk.saved.get(&inventory.addr);
        if saved.is_some_and(|saved| saved.is_foreign) {
            return None;
        }
        let seen_at = DateTime::<Utc>::from(inventory.updated_at);
        let known = saved.and_then(|saved| saved.node);
        Some(NodeRecord {
            specs: (**specs).clone(),
            ip: inventory.ip,
            seen_at: known.map_or(seen_at, |(_, at)| at.max(seen_at)),
            down_since: desk.down.get(&inventory.addr).copied(),
        })
    }

    async fn put_node(&self, addr: &EngineAddr, record: &NodeRecord) {
        let Ok(value) = serde_json::to_vec(record) else {
            return;
        };
        let key = self.node_key(addr);
        match self.within(self.inner.store.put(&key, value.into())).await {
            Ok(_) => {
                if let Some(saved) = self.desk().saved.get_mut(addr) {
                    saved.node = Some((record.digest(), record.seen_at));
                }
            }
            Err(error) => self.failed(error),
        }
    }

    /// Writes a container's record, with the create request it had if there is no other.
    async fn write(&self, addr: &EngineAddr, writing: &Writing<'_>) -> Result<(), StoreError> {
        let Writing {
            container,
            document,
            digest,
        } = writing;
        let key = self.container_key(addr, &container.id);
        let create = match &document.create {
            Some(create) => Some(create.clone()),
            None if !self.is_recorded(addr, &container.id) => None,
            None => self
                .within(self.inner.store.get(&key))
                .await?
                .and_then(|entry| RawObject::parse(&entry.value).ok())
                .and_then(|record| record.object("Create").ok())
                .filter(|create| !create.is_empty()),
        };
        let value = records::container(container, &document.inspect, create.as_ref());
        self.within(self.inner.store.put(&key, value)).await?;
        if let Some(saved) = self.desk().saved.get_mut(addr) {
            saved.containers.insert(Arc::clone(&container.id), *digest);
        }
        self.recorded(container.swarm_id.as_ref(), addr);
        Ok(())
    }

    /// Whether the store may have a record of a container.
    fn is_recorded(&self, addr: &EngineAddr, id: &str) -> bool {
        let desk = self.desk();
        let saved = desk.saved.get(addr);
        saved.is_none_or(|saved| saved.containers.contains_key(id))
    }

    pub(super) async fn delete(&self, addr: &EngineAddr, id: &Arc<str>) -> Result<(), StoreError> {
        let key = self.container_key(addr, id);
        self.within(self.inner.store.delete(&key, None)).await?;
        if let Some(saved) = self.desk().saved.get_mut(addr) {
            saved.containers.remove(id);
        }
        Ok(())
    }

    /// Has another go at what could not be written, unless there is something newer.
    fn put_back(&self, addr: &EngineAddr, older: Pending) {
        let mut desk = self.desk();
        let pending = desk.pending.entry(addr.clone()).or_default();
        pending.gone.extend(older.gone);
        for (id, document) in older.documents {
            let newer = pending
                .documents
                .entry(id)
                .or_insert_with(|| document.clone());
            newer.create = newer.create.take().or(document.create);
        }
    }
}
