//! Following what changes.

use std::{collections::BTreeSet, time::Duration};

use async_trait::async_trait;
use futures_util::FutureExt;
use tokio::time::sleep;
use tracing::debug;
use zookeeper_client::{AddWatchMode, EventType, PersistentWatcher, WatchedEvent};

use super::{PAUSE, ZooKeeper, path_of, read_key};
use crate::store::{Change, Known, Listing, Store, StoreError, Watch, check_key, is_below};

/// The longest pause before a watch is started again.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// A watch: events of all nodes below a prefix, and a listing wherever some may be missing.
pub(super) struct Follower {
    store: ZooKeeper,
    prefix: String,
    known: Known,
    watcher: Option<PersistentWatcher>,
    /// Keys of nodes that events have named, and that were not looked at since.
    touched: BTreeSet<String>,
    /// Found and not told yet.
    found: Vec<Change>,
    pause: Duration,
}

impl Follower {
    /// Tells what changed since a listing.
    pub(super) async fn start(store: ZooKeeper, from: Listing) -> Result<Self, StoreError> {
        let mut watch = Self {
            store,
            known: Known::new(&from),
            prefix: from.prefix,
            watcher: None,
            touched: BTreeSet::new(),
            found: Vec::new(),
            pause: PAUSE,
        };
        watch.catch_up().await?;
        Ok(watch)
    }

    async fn catch_up(&mut self) -> Result<(), StoreError> {
        let path = path_of(&self.prefix);
        let watcher = self
            .store
            .read(|client| {
                let path = path.clone();
                async move { client.watch(&path, AddWatchMode::PersistentRecursive).await }
            })
            .await?;
        let listing = self.store.list(&self.prefix).await?;
        self.touched.clear();
        self.found.extend(self.known.advance_to(listing));
        self.watcher = Some(watcher);
        Ok(())
    }

    /// Notes what an event is about. An event of the connection means that others may be missing.
    fn note(&mut self, event: &WatchedEvent) {
        if event.event_type == EventType::Session {
            self.watcher = None;
            return;
        }
        let key = event.path.trim_start_matches('/');
        if is_below(key, &self.prefix) && check_key(key).is_ok() {
            self.touched.insert(key.to_owned());
        }
    }

    /// Looks at the keys that events have named.
    async fn look(&mut self) -> Result<(), StoreError> {
        while let Some(key) = self.touched.first().cloned() {
            let entry = self
                .store
                .read(|client| {
                    let key = key.clone();
                    // The server that told of the change knows it.
                    async move { read_key(&client, &key, false).await }
                })
                .await?;
            let change = match entry {
                Some(entry) => Change::Put(entry),
                None => Change::Deleted(key.clone()),
            };
            if self.known.note(&change) {
                self.found.push(change);
            }
            self.touched.remove(&key);
        }
        Ok(())
    }
}

#[async_trait]
impl Watch for Follower {
    async fn next(&mut self) -> Result<Vec<Change>, StoreError> {
        loop {
            let outcome = if self.watcher.is_none() {
                self.catch_up().await
            } else {
                self.look().await
            };
            match outcome {
                Ok(()) => self.pause = PAUSE,
                Err(error @ StoreError::Unavailable { .. }) => {
                    debug!(%error, "watching again later");
                    self.watcher = None;
                    sleep(self.pause).await;
                    self.pause = (self.pause * 2).min(MAX_PAUSE);
                    continue;
                }
                Err(error) => return Err(error),
            }
            if !self.found.is_empty() {
                return Ok(std::mem::take(&mut self.found));
            }
            let mut event = match &mut self.watcher {
                Some(watcher) => Some(watcher.changed().await),
                None => None,
            };
            while let Some(next) = event.take() {
                self.note(&next);
                let watcher = self.watcher.as_mut();
                event = watcher.and_then(|watcher| watcher.changed().now_or_never());
            }
        }
    }
}
