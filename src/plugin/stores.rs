//! The part of a store that a discovery backend may see and change.
//!
//! The host follows the store on the guest's behalf: a guest that waits for news costs the store
//! nothing, and every instance finds what the last one had. Leases outlive an instance as well.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::watch, time::timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};

use super::{
    bindings::waiting::skep::plugin::{
        store::{Host as StoreHost, Pair},
        types::Error,
    },
    host::Host,
};
use crate::store::{Change, Listing, Session, Store, StoreError, Watch};

/// The most leases of one plugin.
const MAX_LEASES: usize = 16;

/// The largest state handed to a guest, in bytes of keys and values.
const MAX_STATE_BYTES: usize = 8 << 20;

/// Keys below a prefix of a store.
#[derive(Clone)]
pub struct StoreGrant {
    /// The store.
    pub store: Arc<dyn Store>,
    /// What the guest sees is below this key.
    pub prefix: String,
}

impl fmt::Debug for StoreGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.store.name(), self.prefix)
    }
}

/// A grant in use. Clones share it.
#[derive(Clone)]
pub(super) struct Keys {
    inner: Arc<Inner>,
}

struct Inner {
    grant: StoreGrant,
    /// The last version given to a state.
    version: AtomicU64,
    /// Follows the store once somebody has read it.
    mirror: tokio::sync::Mutex<Option<Mirror>>,
    leases: Mutex<Leases>,
}

struct Mirror {
    state: watch::Receiver<State>,
    _task: AbortOnDropHandle<()>,
}

/// What is below the prefix, as far as it was heard.
#[derive(Clone, Default)]
struct State {
    pairs: imbl::OrdMap<String, Bytes>,
    version: u64,
    /// Why nothing more will be heard.
    over: Option<StoreError>,
}

#[derive(Default)]
struct Leases {
    last: u64,
    held: HashMap<u64, Arc<Lease>>,
}

/// A key that a session holds.
struct Lease {
    key: String,
    value: Bytes,
    session: tokio::sync::Mutex<Option<Box<dyn Session>>>,
}

impl Keys {
    pub(super) fn new(grant: StoreGrant) -> Self {
        Self {
            inner: Arc::new(Inner {
                grant,
                version: AtomicU64::new(0),
                mirror: tokio::sync::Mutex::new(None),
                leases: Mutex::default(),
            }),
        }
    }

    /// What is there, followed from now on.
    async fn state(&self) -> Result<watch::Receiver<State>, StoreError> {
        let mut mirror = self.inner.mirror.lock().await;
        if let Some(mirror) = &*mirror {
            let over = mirror.state.borrow().over.clone();
            match over {
                None => return Ok(mirror.state.clone()),
                Some(error) => debug!(%error, "following the store again"),
            }
        }
        *mirror = None;
        let StoreGrant { store, prefix } = &self.inner.grant;
        let listing = store.list(prefix).await?;
        let state = State {
            pairs: self.pairs(&listing),
            version: self.next_version(),
            over: None,
        };
        let watch = store.watch(listing).await?;
        let (sender, state) = watch::channel(state);
        let follow = self.clone().follow(watch, sender);
        *mirror = Some(Mirror {
            state: state.clone(),
            _task: AbortOnDropHandle::new(tokio::spawn(follow)),
        });
        Ok(state)
    }

    async fn follow(self, mut watch: Box<dyn Watch>, state: watch::Sender<State>) {
        loop {
            let changes = match watch.next().await {
                Ok(changes) => changes,
                Err(error) => {
                    warn!(%error, "the store cannot be followed");
                    state.send_modify(|state| state.over = Some(error));
                    return;
                }
            };
            // What was put again unchanged is no news: agents do that all the time.
            state.send_if_modified(|state| {
                let mut is_changed = false;
                for change in changes {
                    is_changed |= match change {
                        Change::Put(entry) => self.relative(&entry.key).is_some_and(|key| {
                            let before = state.pairs.insert(key, entry.value.clone());
                            before.as_ref() != Some(&entry.value)
                        }),
                        Change::Deleted(key) => self
                            .relative(&key)
                            .is_some_and(|key| state.pairs.remove(&key).is_some()),
                    };
                }
                if is_changed {
                    state.version = self.next_version();
                }
                is_changed
            });
        }
    }

    fn pairs(&self, listing: &Listing) -> imbl::OrdMap<String, Bytes> {
        let entries = listing.entries.iter();
        let pairs =
            entries.filter_map(|entry| Some((self.relative(&entry.key)?, entry.value.clone())));
        pairs.collect()
    }

    fn relative(&self, key: &str) -> Option<String> {
        let rest = key.strip_prefix(&self.inner.grant.prefix)?;
        rest.strip_prefix('/').map(str::to_owned)
    }

    fn next_version(&self) -> u64 {
        self.inner.version.fetch_add(1, Ordering::Relaxed) + 1
    }

    async fn hold(&self, key: &str, value: Vec<u8>, ttl: Duration) -> Result<u64, Error> {
        let StoreGrant { store, prefix } = &self.inner.grant;
        let key = format!("{prefix}/{key}");
        crate::store::check_key(&key).map_err(|error| Error::InvalidRequest(error.to_string()))?;
        let earlier: Vec<u64> = {
            let leases = self.leases();
            let same = leases.held.iter().filter(|(_, lease)| lease.key == key);
            let earlier: Vec<u64> = same.map(|(id, _)| *id).collect();
            if leases.held.len() - earlier.len() >= MAX_LEASES {
                return Err(Error::Denied(format!("it holds {MAX_LEASES} keys already")));
            }
            earlier
        };
        for id in earlier {
            // What cannot be ended now ends by itself.
            let _ = self.release(id).await;
        }
        let value = Bytes::from(value);
        let session = store.session(ttl).await.map_err(said)?;
        if let Err(error) = session.put(&key, value.clone()).await {
            let _ = session.end().await;
            return Err(said(error));
        }
        let mut leases = self.leases();
        leases.last += 1;
        let id = leases.last;
        let lease = Lease {
            key,
            value,
            session: tokio::sync::Mutex::new(Some(session)),
        };
        leases.held.insert(id, Arc::new(lease));
        Ok(id)
    }

    async fn renew(&self, id: u64) -> Result<(), Error> {
        let lease = self.lease(id)?;
        let session = lease.session.lock().await;
        let Some(session) = session.as_ref().filter(|s| !s.lost().is_cancelled()) else {
            self.leases().held.remove(&id);
            return Err(over());
        };
        let found = self.inner.grant.store.get(&lease.key).await.map_err(said)?;
        if found.is_some_and(|entry| entry.value == lease.value) {
            return Ok(());
        }
        let put = session.put(&lease.key, lease.value.clone()).await;
        put.map(|_| ()).map_err(said)
    }

    async fn release(&self, id: u64) -> Result<(), Error> {
        let lease = self.lease(id)?;
        self.leases().held.remove(&id);
        let session = lease.session.lock().await.take();
        match session {
            Some(session) => session.end().await.map_err(said),
            None => Ok(()),
        }
    }

    fn lease(&self, id: u64) -> Result<Arc<Lease>, Error> {
        self.leases().held.get(&id).cloned().ok_or_else(over)
    }

    fn leases(&self) -> MutexGuard<'_, Leases> {
        let leases = self.inner.leases.lock();
        leases.unwrap_or_else(PoisonError::into_inner)
    }
}

impl StoreHost for Host {
    async fn read(&mut self) -> Result<(Vec<Pair>, u64), Error> {
        let keys = self.granted_store()?;
        let state = keys.state().await.map_err(said)?.borrow().clone();
        let size: usize = state.pairs.iter().map(|(k, v)| k.len() + v.len()).sum();
        if size > MAX_STATE_BYTES {
            let grant = &keys.inner.grant;
            return Err(Error::Unavailable(format!(
                "there are {size} bytes below {grant:?}, more than the {MAX_STATE_BYTES} allowed"
            )));
        }
        let pairs = state.pairs.iter().map(|(key, value)| Pair {
            key: key.clone(),
            value: value.to_vec(),
        });
        Ok((pairs.collect(), state.version))
    }

    async fn wait(&mut self, seen: u64, max_wait_ms: u32) -> Result<u64, Error> {
        let mut state = self.granted_store()?.state().await.map_err(said)?;
        let news = state.wait_for(|state| state.version != seen || state.over.is_some());
        let max_wait = Duration::from_millis(max_wait_ms.into());
        match timeout(max_wait, news).await {
            Ok(Ok(state)) => match &state.over {
                Some(error) => Err(said(error.clone())),
                None => Ok(state.version),
            },
            Ok(Err(_)) => Err(Error::Unavailable(
                "the store is not followed any more".into(),
            )),
            Err(_) => Ok(seen),
        }
    }

    async fn hold(&mut self, key: String, value: Vec<u8>, ttl_ms: u32) -> Result<u64, Error> {
        let ttl = Duration::from_millis(ttl_ms.into());
        self.granted_store()?.hold(&key, value, ttl).await
    }

    async fn renew(&mut self, lease: u64) -> Result<(), Error> {
        self.granted_store()?.renew(lease).await
    }

    async fn release(&mut self, lease: u64) -> Result<(), Error> {
        self.granted_store()?.release(lease).await
    }
}

fn over() -> Error {
    Error::NotFound("the lease is over".to_owned())
}

fn said(error: StoreError) -> Error {
    match error {
        StoreError::SessionEnded { .. } => over(),
        StoreError::Denied { .. } => Error::Denied(error.to_string()),
        error => Error::Unavailable(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        plugin::{
            Allow, Kind, Limits,
            grants::Grants,
            quota::{Pool, Quota},
        },
        store::embedded::Embedded,
    };

    const TTL: u32 = 60_000;

    struct Bed {
        store: Arc<dyn Store>,
        grants: Grants,
        _directory: tempfile::TempDir,
    }

    impl Bed {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let store = Embedded::open(&directory.path().join("store")).unwrap();
            let store: Arc<dyn Store> = Arc::new(store);
            let allow = Allow {
                store: Some(StoreGrant {
                    store: Arc::clone(&store),
                    prefix: "x/nodes".to_owned(),
                }),
                ..Allow::default()
            };
            Self {
                store,
                grants: Grants::new(&allow),
                _directory: directory,
            }
        }

        /// The host of an instance that runs.
        fn host(&self) -> Host {
            let mut host = self.new_host();
            host.is_configured = true;
            host
        }

        fn new_host(&self) -> Host {
            let quota = Quota::new(Limits::for_kind(Kind::Discovery), Pool::new(0));
            Host::new("kv".into(), quota, self.grants.clone())
        }

        async fn put(&self, key: &str, value: &str) {
            let value = Bytes::from(value.to_owned());
            self.store.put(key, value).await.unwrap();
        }
    }

    fn keys(pairs: &[Pair]) -> Vec<&str> {
        pairs.iter().map(|pair| pair.key.as_str()).collect()
    }

    #[tokio::test]
    async fn a_guest_sees_what_is_below_its_prefix_and_hears_of_changes() {
        let bed = Bed::new();
        bed.put("x/nodes/a:1", "a:1").await;
        bed.put("x/other", "secret").await;
        bed.put("x/nodesmore/b:1", "secret").await;
        let mut host = bed.host();
        let (pairs, first) = host.read().await.unwrap();
        assert_eq!(keys(&pairs), ["a:1"]);
        assert_eq!(host.wait(first, 0).await.unwrap(), first);
        bed.put("x/nodes/b:1", "b:1").await;
        let second = host.wait(first, 60_000).await.unwrap();
        assert_ne!(second, first);
        // Another instance knows as much.
        let (pairs, version) = bed.host().read().await.unwrap();
        assert_eq!((keys(&pairs), version), (vec!["a:1", "b:1"], second));
    }

    #[tokio::test]
    async fn what_is_put_again_is_no_news() {
        let bed = Bed::new();
        bed.put("x/nodes/a:1", "a:1").await;
        let mut host = bed.host();
        let (_, first) = host.read().await.unwrap();
        bed.put("x/nodes/a:1", "a:1").await;
        bed.put("x/nodes/b:1", "b:1").await;
        let second = host.wait(first, 60_000).await.unwrap();
        assert_eq!(second, first + 1);
    }

    #[tokio::test]
    async fn a_key_is_held_renewed_and_released() {
        let bed = Bed::new();
        let mut host = bed.host();
        let lease = host.hold("a:1".into(), b"a:1".to_vec(), TTL).await.unwrap();
        let key = "x/nodes/a:1";
        assert!(bed.store.get(key).await.unwrap().is_some());
        bed.store.delete(key, None).await.unwrap();
        // Whichever instance is asked.
        bed.host().renew(lease).await.unwrap();
        assert!(bed.store.get(key).await.unwrap().is_some());
        host.release(lease).await.unwrap();
        assert!(bed.store.get(key).await.unwrap().is_none());
        assert!(matches!(host.renew(lease).await, Err(Error::NotFound(_))));
    }

    #[tokio::test]
    async fn a_key_held_twice_is_one_lease() {
        let bed = Bed::new();
        let mut host = bed.host();
        let mut last = 0;
        for _ in 0..2 * MAX_LEASES {
            last = host.hold("a:1".into(), Vec::new(), TTL).await.unwrap();
        }
        host.renew(last).await.unwrap();
        for number in 1..MAX_LEASES {
            let key = format!("b:{number}");
            host.hold(key, Vec::new(), TTL).await.unwrap();
        }
        let more = host.hold("c:1".into(), Vec::new(), TTL).await;
        assert!(matches!(more, Err(Error::Denied(_))), "{more:?}");
        host.hold("a:1".into(), Vec::new(), TTL).await.unwrap();
    }

    #[tokio::test]
    async fn what_was_not_granted_is_refused() {
        let bed = Bed::new();
        let mut host = bed.host();
        for key in ["../other", "a//b", ""] {
            let held = host.hold(key.to_owned(), Vec::new(), TTL).await;
            assert!(matches!(held, Err(Error::InvalidRequest(_))), "{key}");
        }
        let early = bed.new_host().read().await;
        assert!(matches!(early, Err(Error::Unavailable(_))), "{early:?}");
        let quota = Quota::new(Limits::for_kind(Kind::Discovery), Pool::new(0));
        let mut poor = Host::new("kv".into(), quota, Grants::default());
        poor.is_configured = true;
        assert!(matches!(poor.read().await, Err(Error::Unavailable(_))));
    }
}
