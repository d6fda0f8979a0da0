//! Containers that were made again elsewhere.

use std::sync::Arc;

use bytes::Bytes;

use super::Memory;
use crate::{
    engine::raw::RawObject,
    model::address::EngineAddr,
    store::{StoreError, agents},
};

impl Memory {
    /// A container was made again elsewhere: it has to be removed when its engine is back, and its
    /// record is not needed any more.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn supersede(
        &self,
        addr: &EngineAddr,
        id: &Arc<str>,
        name: &str,
    ) -> Result<(), StoreError> {
        let key = self.superseded_key(addr, id);
        let mut record = RawObject::default();
        record.set("Name", name);
        let value = Bytes::from(record.to_bytes());
        self.within(self.inner.store.put(&key, value)).await?;
        self.delete(addr, id).await
    }

    /// Such a container was removed.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn removed_superseded(&self, addr: &EngineAddr, id: &str) -> Result<(), StoreError> {
        let key = self.superseded_key(addr, id);
        self.within(self.inner.store.delete(&key, None)).await?;
        Ok(())
    }

    /// The containers that were made again elsewhere and are not known to be removed, with names.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn superseded(&self) -> Result<Vec<(EngineAddr, Arc<str>, String)>, StoreError> {
        let prefix = format!("{}/superseded", self.inner.options.prefix);
        let listing = self.within(self.inner.store.list(&prefix)).await?;
        let places = listing.entries.iter().filter_map(|entry| {
            let (before, id) = entry.key.rsplit_once('/')?;
            let (_, addr) = before.rsplit_once('/')?;
            let record = RawObject::parse(&entry.value).ok()?;
            let name = record.parsed("Name").ok().flatten().unwrap_or_default();
            Some((addr.parse().ok()?, Arc::from(id), name))
        });
        Ok(places.collect())
    }

    fn superseded_key(&self, addr: &EngineAddr, id: &str) -> String {
        let below = agents::superseded_key(&self.inner.options.prefix, &addr.to_string());
        format!("{below}/{id}")
    }
}
