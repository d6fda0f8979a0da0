//! Forgets nodes that were not heard of for long.
//!
//! Only what can be read as a record of ours is deleted, at the revision at which it was read: what
//! others keep below our keys stays, and so does what was changed meanwhile.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use tracing::info;

use super::{
    Memory,
    records::{NodeRecord, parse_node},
};
use crate::{
    engine::raw::RawObject,
    model::address::EngineAddr,
    store::{Entry, StoreError},
};

/// How often old nodes are looked for.
pub(super) const INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// Wait before that is tried again.
pub(super) const RETRY: Duration = Duration::from_secs(60);

impl Memory {
    /// Drops records of nodes that were not heard of for long; returns how long to wait before they
    /// are looked for again.
    pub(super) async fn forget_old_nodes(&self) -> Duration {
        match self.try_forget().await {
            Ok(()) => INTERVAL,
            Err(error) => {
                self.failed(error);
                RETRY
            }
        }
    }

    async fn try_forget(&self) -> Result<(), StoreError> {
        let Ok(limit) = TimeDelta::from_std(self.inner.options.forget_after) else {
            return Ok(());
        };
        let prefix = format!("{}/nodes", self.inner.options.prefix);
        let listing = self.within(self.inner.store.list(&prefix)).await?;
        for entry in listing.entries {
            let below = entry.key.strip_prefix(&prefix);
            let addr = below.and_then(|below| below.strip_prefix('/')?.parse().ok());
            let (Some(addr), Some(record)) = (addr, parse_node(&entry)) else {
                continue;
            };
            let is_there = self.desk().latest.contains_key(&addr);
            if !is_there && Utc::now() - record.seen_at >= limit {
                info!(%addr, seen_at = %record.seen_at, "node is forgotten");
                self.forget(&addr, &record).await?;
                self.delete_if_same(&entry).await?;
            }
        }
        Ok(())
    }

    async fn forget(&self, addr: &EngineAddr, record: &NodeRecord) -> Result<(), StoreError> {
        let is_container = |entry: &Entry| self.parse_container(entry, record.specs.cpus).is_ok();
        self.forget_below("containers", addr, is_container).await?;
        self.forget_below("superseded", addr, is_superseded).await
    }

    async fn forget_below(
        &self,
        kind: &str,
        addr: &EngineAddr,
        is_ours: impl Fn(&Entry) -> bool,
    ) -> Result<(), StoreError> {
        let below = format!("{}/{kind}/{addr}", self.inner.options.prefix);
        let listing = self.within(self.inner.store.list(&below)).await?;
        for entry in listing.entries.iter().filter(|entry| is_ours(entry)) {
            self.delete_if_same(entry).await?;
        }
        Ok(())
    }

    async fn delete_if_same(&self, entry: &Entry) -> Result<(), StoreError> {
        let at = Some(entry.revision);
        match self.within(self.inner.store.delete(&entry.key, at)).await {
            Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn is_superseded(entry: &Entry) -> bool {
    let record = RawObject::parse(&entry.value).ok();
    let name = record.map(|record| record.parsed::<String>("Name"));
    matches!(name, Some(Ok(Some(_))))
}
