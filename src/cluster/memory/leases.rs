//! What agents of nodes and managers tell each other through the store.

use std::time::Duration;

use bytes::Bytes;
use tracing::warn;

use super::Memory;
use crate::{
    model::address::EngineAddr,
    store::{
        StoreError,
        agents::{self, Answer, Lease, Word},
    },
};

impl Memory {
    /// Leaves word for agents: whether leases count.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn announce(&self, counts: bool) -> Result<(), StoreError> {
        let word = Answer {
            word: Word::Renewed,
            counts,
            managers: None,
            superseded: None,
        };
        let key = agents::cluster_key(&self.inner.options.prefix);
        let value = Bytes::from(word.to_json());
        self.within(self.inner.store.put(&key, value)).await?;
        Ok(())
    }

    /// Leaves word where this manager can be asked, for as long as it is there; returns when the
    /// word is lost. It is gone `ttl` after this manager is.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future takes the word back, at the latest after `ttl`.
    pub async fn announce_manager(&self, advertise: &str, ttl: Duration) -> Result<(), StoreError> {
        let key = agents::managers_key(&self.inner.options.prefix);
        let key = format!("{key}/{advertise}");
        let value = Bytes::from_static(b"{}");
        let session = self.within(self.inner.store.session(ttl)).await?;
        self.within(session.put(&key, value)).await?;
        session.lost().cancelled().await;
        Ok(())
    }

    /// Renews the lease of a node's agent, or says to hold if the store cannot be used.
    pub async fn renew_lease(&self, addr: &EngineAddr, lease: &Lease, counts: bool) -> Answer {
        let prefix = &self.inner.options.prefix;
        let addr = addr.to_string();
        let key = agents::lease_key(prefix, &addr);
        let value = Bytes::from(lease.to_json());
        let patience = lease.ttl / 8;
        let written = tokio::time::timeout(patience, self.inner.store.put(&key, value)).await;
        let mut answer = Answer {
            word: Word::Hold,
            counts,
            managers: None,
            superseded: None,
        };
        if matches!(written, Ok(Ok(_))) {
            answer.word = Word::Renewed;
            answer.managers = self.names_below(&agents::managers_key(prefix)).await;
            let below = agents::superseded_key(prefix, &addr);
            answer.superseded = self.names_below(&below).await;
        }
        answer
    }

    /// The last segments of the keys below one; `None` if the store does not say.
    async fn names_below(&self, key: &str) -> Option<Vec<String>> {
        let listing = self.within(self.inner.store.list(key)).await.ok()?;
        Some(listing.names())
    }

    /// The lease of a node's agent; `None` if there is no agent.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn lease(&self, addr: &EngineAddr) -> Result<Option<Lease>, StoreError> {
        let key = agents::lease_key(&self.inner.options.prefix, &addr.to_string());
        let found = self.within(self.inner.store.get(&key)).await?;
        Ok(found.and_then(|entry| {
            Lease::parse(&entry.value)
                .inspect_err(|error| warn!(key, %error, "lease cannot be read, it does not count"))
                .ok()
        }))
    }
}
