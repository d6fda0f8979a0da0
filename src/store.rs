//! What several managers share and what outlives them: keys with values, watched and leased.
//!
//! ```text
//! Store      get, list, put, swap, delete, watch from a listing, sessions
//! Session    keys that vanish with their owner: registrations and locks
//! embedded   one file on this machine, for a manager that is alone
//! etcd       servers that several managers share
//! consul     the same
//! zookeeper  the same
//! servers    how such servers are reached, and which one is asked
//! lease      the time that a session has left
//! ```
//!
//! Keys are texts of segments between slashes, `skep/containers/4f2a`, without a slash at either
//! end. A prefix is a whole number of segments: the prefix `skep/con` has nothing to do with the
//! key `skep/containers/4f2a`. A key that has keys below it may have a value as well.
//!
//! Every change gets a revision that is greater than that of every earlier change of the same key;
//! a key that is deleted and made again goes on counting. Revisions of different keys are in the
//! order of the changes where the server orders them, which all but foreign writers can rely on.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use crate::model::key::{KeyError, check_key};

pub mod agents;
pub mod consul;
pub mod embedded;
pub mod etcd;
mod lease;
pub mod servers;
pub mod zookeeper;

/// When something changed, in the store's own count.
pub type Revision = u64;

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The whole key.
    pub key: String,
    /// What it holds.
    pub value: Bytes,
    /// When the value was put.
    pub revision: Revision,
}

/// Everything below a prefix at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// What was listed.
    pub prefix: String,
    /// Ordered by key.
    pub entries: Vec<Entry>,
    /// The moment.
    pub revision: Revision,
}

/// What a key must be for a swap to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The key does not exist.
    Absent,
    /// Its value was put at this revision.
    At(Revision),
}

/// A change below a watched prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The key has this value now.
    Put(Entry),
    /// The key is gone.
    Deleted(String),
}

/// Why a store did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The key is not as expected; nothing was changed.
    #[error("key `{key}` was changed by somebody else")]
    Conflict {
        /// The key.
        key: String,
    },
    /// The store cannot be reached or does not answer. Whether a change was made is unknown.
    #[error("store {store}: {reason}")]
    Unavailable {
        /// The store, as its URL names it.
        store: String,
        /// What went wrong.
        reason: String,
    },
    /// The store does not know us, or does not let us do this.
    #[error("store {store}: access denied: {reason}")]
    Denied {
        /// The store, as its URL names it.
        store: String,
        /// The server's words.
        reason: String,
    },
    /// The value is larger than the store takes.
    #[error("store {store} does not take the value of key `{key}`: {reason}")]
    TooLarge {
        /// The store, as its URL names it.
        store: String,
        /// The key.
        key: String,
        /// Sizes, or the server's words.
        reason: String,
    },
    /// The key is none.
    #[error(transparent)]
    BadKey(#[from] KeyError),
    /// The session has ended, and its keys with it.
    #[error("the session with store {store} has ended")]
    SessionEnded {
        /// The store, as its URL names it.
        store: String,
    },
}

/// A place for shared, durable state.
///
/// All calls end within a deadline of the store's own, with [`StoreError::Unavailable`] if the
/// server is silent.
#[async_trait]
pub trait Store: Send + Sync {
    /// The store as messages name it: its URL without credentials.
    fn name(&self) -> &str;

    /// The largest value it takes, in bytes.
    fn max_value(&self) -> usize;

    /// A key's value, as of the last acknowledged change.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError>;

    /// Everything below a prefix, the prefix itself not included.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError>;

    /// Sets a key, which then belongs to no session.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; after [`StoreError::Unavailable`] the value may have been put.
    ///
    /// # Cancel safety
    ///
    /// A call that is dropped may or may not have happened, here and in all other changes.
    async fn put(&self, key: &str, value: Bytes) -> Result<Revision, StoreError>;

    /// Sets a key if it is as expected.
    ///
    /// # Errors
    ///
    /// [`StoreError::Conflict`] if it is not.
    async fn swap(
        &self,
        key: &str,
        expected: Expected,
        value: Bytes,
    ) -> Result<Revision, StoreError>;

    /// Deletes a key, if it is still at a revision where one is given. What is below it stays.
    /// `false` if there was no such key.
    ///
    /// # Errors
    ///
    /// [`StoreError::Conflict`] if the key is at another revision.
    async fn delete(&self, key: &str, at: Option<Revision>) -> Result<bool, StoreError>;

    /// Follows what is below a prefix, from a listing on.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    async fn watch(&self, from: Listing) -> Result<Box<dyn Watch>, StoreError>;

    /// Starts a session that ends when nothing was heard of this process for `ttl`.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    async fn session(&self, ttl: Duration) -> Result<Box<dyn Session>, StoreError>;
}

/// Follows what is below a prefix.
#[async_trait]
pub trait Watch: Send {
    /// Waits for the next changes: for each key its last state, never an older one after a newer
    /// one. Changes in between may be left out. Connections that break are mended inside, without
    /// loss; while the store is away the call waits.
    ///
    /// # Errors
    ///
    /// What waiting does not mend, such as [`StoreError::Denied`]. The watch is over then.
    ///
    /// # Cancel safety
    ///
    /// A call that is dropped loses nothing.
    async fn next(&mut self) -> Result<Vec<Change>, StoreError>;
}

/// Keys that vanish with their owner.
///
/// A session that is dropped without [`Session::end`] ends when its time is over, or sooner.
#[async_trait]
pub trait Session: Send + Sync {
    /// Cancelled once the session must be taken for lost: the server said so, or no renewal
    /// succeeded for the session's time, counted from when the last good one was *sent*. The
    /// clock goes on while the process is stopped.
    fn lost(&self) -> CancellationToken;

    /// Until when the session lasts for sure if nothing more is heard; in the past once it is
    /// lost. This is for those who must know right now, and cannot wait for a task to be told.
    fn valid_until(&self) -> Instant;

    /// Sets a key for as long as the session lasts.
    ///
    /// # Errors
    ///
    /// [`StoreError::SessionEnded`] once it is lost.
    async fn put(&self, key: &str, value: Bytes) -> Result<Revision, StoreError>;

    /// Makes a key for as long as the session lasts. The revision serves as a fencing token: it
    /// is greater than that of everyone who made this key before.
    ///
    /// # Errors
    ///
    /// [`StoreError::Conflict`] if the key exists.
    async fn create(&self, key: &str, value: Bytes) -> Result<Revision, StoreError>;

    /// Ends the session; its keys are gone when this returns.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; the keys are gone when the session's time is over.
    async fn end(self: Box<Self>) -> Result<(), StoreError>;
}

/// Checks a value's size.
///
/// # Errors
///
/// [`StoreError::TooLarge`].
pub fn check_value(store: &dyn Store, key: &str, value: &[u8]) -> Result<(), StoreError> {
    let limit = store.max_value();
    if value.len() <= limit {
        return Ok(());
    }
    Err(StoreError::TooLarge {
        store: store.name().to_owned(),
        key: key.to_owned(),
        reason: format!("it has {} bytes, the limit is {limit}", value.len()),
    })
}

/// Whether a key is below a prefix.
pub fn is_below(key: &str, prefix: &str) -> bool {
    key.strip_prefix(prefix)
        .is_some_and(|rest| rest.starts_with('/'))
}

impl Listing {
    /// The keys without the prefix that was listed.
    pub fn names(&self) -> Vec<String> {
        let below = format!("{}/", self.prefix);
        let names = self.entries.iter();
        let names = names.filter_map(|entry| entry.key.strip_prefix(&below));
        names.map(str::to_owned).collect()
    }
}

/// What a watch has told so far, for backends that find changes by comparing.
#[derive(Debug, Default)]
pub struct Known {
    revisions: BTreeMap<String, Revision>,
}

impl Known {
    /// A watch that starts at a listing.
    pub fn new(listing: &Listing) -> Self {
        let revisions = listing
            .entries
            .iter()
            .map(|entry| (entry.key.clone(), entry.revision))
            .collect();
        Self { revisions }
    }

    /// The changes that lead from what is known to a listing, deletions first.
    pub fn advance_to(&mut self, listing: Listing) -> Vec<Change> {
        let next = Self::new(&listing);
        let gone = self
            .revisions
            .keys()
            .filter(|key| !next.revisions.contains_key(*key));
        let mut changes: Vec<Change> = gone.cloned().map(Change::Deleted).collect();
        let new = listing
            .entries
            .into_iter()
            .filter(|entry| self.revisions.get(&entry.key) != Some(&entry.revision));
        changes.extend(new.map(Change::Put));
        *self = next;
        changes
    }

    /// Notes a change; `false` if it is older than what is known, and must not be told.
    pub fn note(&mut self, change: &Change) -> bool {
        match change {
            Change::Put(entry) => {
                let known = self.revisions.get(&entry.key);
                if known.is_some_and(|known| *known >= entry.revision) {
                    return false;
                }
                self.revisions.insert(entry.key.clone(), entry.revision);
                true
            }
            Change::Deleted(key) => self.revisions.remove(key).is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, revision: Revision) -> Entry {
        Entry {
            key: key.to_owned(),
            value: Bytes::new(),
            revision,
        }
    }

    fn listing(entries: &[(&str, Revision)]) -> Listing {
        Listing {
            entries: entries.iter().map(|(key, at)| entry(key, *at)).collect(),
            ..Listing::default()
        }
    }

    #[test]
    fn a_prefix_is_whole_segments() {
        assert!(is_below("a/b", "a"));
        assert!(!is_below("ab", "a"));
        assert!(!is_below("a", "a"));
    }

    #[test]
    fn comparing_listings_finds_what_changed() {
        let mut known = Known::new(&listing(&[("a", 1), ("b", 2), ("c", 3)]));
        let changes = known.advance_to(listing(&[("b", 4), ("c", 3), ("d", 5)]));
        let expected = [
            Change::Deleted("a".to_owned()),
            Change::Put(entry("b", 4)),
            Change::Put(entry("d", 5)),
        ];
        assert_eq!(changes, expected);
        assert_eq!(
            known.advance_to(listing(&[("b", 4), ("c", 3), ("d", 5)])),
            []
        );
    }

    #[test]
    fn an_older_change_is_not_told() {
        let mut known = Known::new(&listing(&[("a", 3)]));
        assert!(!known.note(&Change::Put(entry("a", 2))));
        assert!(known.note(&Change::Put(entry("a", 4))));
        assert!(known.note(&Change::Deleted("a".to_owned())));
        assert!(!known.note(&Change::Deleted("a".to_owned())));
    }
}
