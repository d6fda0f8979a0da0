//! ZooKeeper 3.6 and later.
//!
//! The key `a/b` is the node `/a/b`. Revisions are the transaction ids of the nodes' data, which
//! order all changes of all keys. Nodes above a key that hold nothing themselves are made as
//! container nodes, which ZooKeeper removes when they are empty; an empty node that is a container
//! or has children is no key. Watches are persistent and recursive. A session is a connection of
//! its own, whose keys are ephemeral nodes; the server decides how long it lasts, between 2 and 20
//! of its ticks.

use std::{collections::BTreeSet, future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream};
use tokio::{
    sync::Mutex,
    task::JoinHandle,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;
use zookeeper_client::{
    Acls, AddWatchMode, Client, CreateMode, CreateOptions, Error, EventType, MultiWriteError,
    MultiWriteResult, PersistentWatcher, SessionState, Stat, TlsOptions, WatchedEvent,
};

use super::{
    Change, Entry, Expected, Known, Listing, Revision, Session, Store, StoreError, Watch,
    check_key, check_value, is_below,
    lease::{Lease, Renewed},
    servers::{Credentials, Options},
};

/// The largest value, in bytes. A server takes 1 MiB less one byte in one packet unless told
/// otherwise, with the path in it.
const MAX_VALUE: usize = 1_000_000;

/// How long the servers keep the session of ordinary calls, which owns nothing.
const SESSION: Duration = Duration::from_secs(10);

/// How long a broken connection of ordinary calls is waited for before there is a new session.
const RECONNECT: Duration = Duration::from_secs(1);

/// How many nodes are asked for at a time.
const IN_FLIGHT: usize = 64;

/// The pause after a failed attempt.
const PAUSE: Duration = Duration::from_millis(100);

/// The longest pause before a watch is started again.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// The owner of container nodes.
const CONTAINER: i64 = i64::MIN;

/// A ZooKeeper ensemble. Clones share the connection.
#[derive(Clone)]
pub struct ZooKeeper {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    /// As the client library writes it.
    servers: String,
    credentials: Option<(String, String)>,
    tls: Option<TlsOptions>,
    timeout: Duration,
    client: Mutex<Option<Client>>,
}

impl ZooKeeper {
    /// A store at these servers. They are asked when the store is, so that one that is away now is
    /// no error.
    ///
    /// # Errors
    ///
    /// Certificates that cannot be used.
    pub fn new(options: Options) -> Result<Self, StoreError> {
        let name = format!("zk://{}", options.endpoints.join(","));
        let unusable = |error: Error| StoreError::Unavailable {
            store: name.clone(),
            reason: error.to_string(),
        };
        let tls = match &options.tls {
            Some(pems) => {
                let text = |pem: &[u8]| String::from_utf8_lossy(pem).into_owned();
                let mut tls = TlsOptions::new()
                    .with_pem_ca(&text(&pems.ca))
                    .map_err(unusable)?;
                if let Some((cert, key)) = &pems.identity {
                    tls = tls
                        .with_pem_identity(&text(cert), &text(key))
                        .map_err(unusable)?;
                }
                Some(tls)
            }
            None => None,
        };
        let credentials = match options.credentials {
            Some(Credentials::User { name, password }) => Some((name, password)),
            _ => None,
        };
        Ok(Self {
            inner: Arc::new(Inner {
                servers: options.endpoints.join(","),
                name,
                credentials,
                tls,
                timeout: options.timeout,
                client: Mutex::new(None),
            }),
        })
    }

    async fn connect(&self, session: Duration) -> Result<Client, Error> {
        let inner = &*self.inner;
        let mut connector = Client::connector()
            .with_session_timeout(session)
            .with_fail_eagerly();
        if let Some((name, password)) = &inner.credentials {
            connector = connector.with_auth("digest", format!("{name}:{password}").as_bytes());
        }
        match &inner.tls {
            Some(tls) => {
                let connector = connector.with_tls(tls.clone());
                connector.secure_connect(&inner.servers).await
            }
            None => connector.connect(&inner.servers).await,
        }
    }

    /// The connection of ordinary calls.
    async fn client(&self) -> Result<Client, Error> {
        let mut held = self.inner.client.lock().await;
        if let Some(client) = held
            .as_ref()
            .filter(|client| !client.state().is_terminated())
        {
            return Ok(client.clone());
        }
        *held = None;
        let client = self.connect(SESSION).await?;
        *held = Some(client.clone());
        Ok(client)
    }

    /// Has the next call make a connection of its own. A server whose state was restored from an
    /// older one takes no session that has seen a newer one, however often it is tried.
    async fn forget(&self, client: &Client) {
        let mut held = self.inner.client.lock().await;
        held.take_if(|held| held.session_id() == client.session_id());
    }

    /// Does something that may be done twice.
    async fn read<T, F, R>(&self, action: F) -> Result<T, StoreError>
    where
        F: Fn(Client) -> R + Send + Sync,
        R: Future<Output = Result<T, Error>> + Send,
        T: Send,
    {
        self.call(true, action).await
    }

    /// Does something that must not be done twice.
    async fn change<T, F, R>(&self, action: F) -> Result<T, StoreError>
    where
        F: Fn(Client) -> R + Send + Sync,
        R: Future<Output = Result<T, Error>> + Send,
        T: Send,
    {
        self.call(false, action).await
    }

    async fn call<T, F, R>(&self, may_repeat: bool, action: F) -> Result<T, StoreError>
    where
        F: Fn(Client) -> R + Send + Sync,
        R: Future<Output = Result<T, Error>> + Send,
        T: Send,
    {
        let deadline = Instant::now() + self.inner.timeout;
        let silent = || {
            let time = humantime::format_duration(self.inner.timeout);
            self.unavailable(format!("no answer within {time}"))
        };
        loop {
            let (reason, sent) = match timeout_at(deadline, self.ready()).await {
                Err(_) => return Err(silent()),
                Ok(Err(error)) => (error, false),
                Ok(Ok(client)) => match timeout_at(deadline, action(client)).await {
                    Err(_) => return Err(silent()),
                    Ok(Ok(done)) => return Ok(done),
                    Ok(Err(error)) => (error, true),
                },
            };
            if !is_passing(&reason) || (sent && !may_repeat) || Instant::now() + PAUSE >= deadline {
                return Err(self.failed("", reason));
            }
            debug!(store = self.inner.name, %reason, "asking again");
            sleep(PAUSE).await;
        }
    }

    /// A connection that is connected: what is asked of one that is not waits in it, and may be
    /// done long after it was given up.
    async fn ready(&self) -> Result<Client, Error> {
        let client = self.client().await?;
        let mut states = client.state_watcher();
        let mut state = states.peek_state();
        while state == SessionState::Disconnected {
            let Ok(next) = timeout(RECONNECT, states.changed()).await else {
                self.forget(&client).await;
                return Err(Error::ConnectionLoss);
            };
            state = next;
        }
        if state.is_terminated() {
            return Err(Error::SessionExpired);
        }
        Ok(client)
    }

    fn failed(&self, key: &str, error: Error) -> StoreError {
        let store = || self.inner.name.clone();
        match error {
            Error::NoAuth | Error::AuthFailed | Error::InvalidAcl => StoreError::Denied {
                store: store(),
                reason: error.to_string(),
            },
            Error::BadVersion | Error::NodeExists => StoreError::Conflict {
                key: key.to_owned(),
            },
            error => self.unavailable(error.to_string()),
        }
    }

    fn unavailable(&self, reason: String) -> StoreError {
        StoreError::Unavailable {
            store: self.inner.name.clone(),
            reason,
        }
    }

    fn check(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        check_key(key)?;
        check_value(self, key, value)
    }

    fn acls(&self) -> Acls<'static> {
        if self.inner.credentials.is_some() {
            Acls::creator_all()
        } else {
            Acls::anyone_all()
        }
    }

    fn persistent(&self) -> CreateOptions<'static> {
        CreateMode::Persistent.with_acls(self.acls())
    }

    /// Makes what is above a node.
    async fn make_parents(&self, client: &Client, path: &str) -> Result<(), Error> {
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        if parent.is_empty() {
            return Ok(());
        }
        let container = CreateMode::Container.with_acls(self.acls());
        client.mkdir(parent, &container).await
    }

    /// Makes a node, and what is above it.
    async fn make(
        &self,
        client: &Client,
        path: &str,
        value: &[u8],
        options: &CreateOptions<'_>,
    ) -> Result<Stat, Error> {
        loop {
            match client.create(path, value, options).await {
                Ok((stat, _)) => return Ok(stat),
                Err(Error::NoNode) => self.make_parents(client, path).await?,
                Err(error) => return Err(error),
            }
        }
    }

    /// Replaces a node of a session by one of none, or the other way round.
    async fn replace(
        &self,
        client: &Client,
        path: &str,
        value: &[u8],
        before: &Stat,
        options: &CreateOptions<'_>,
    ) -> Result<Stat, Error> {
        let mut writer = client.new_multi_writer();
        writer.add_delete(path, Some(before.version))?;
        writer.add_create(path, value, options)?;
        let done = writer.commit().await.map_err(|error| match error {
            MultiWriteError::RequestFailed { source }
            | MultiWriteError::OperationFailed { source, .. } => source,
        })?;
        let made = done.into_iter().find_map(|result| match result {
            MultiWriteResult::Create { stat, .. } => Some(stat),
            _ => None,
        });
        made.ok_or_else(|| Error::UnexpectedError("a create without an answer".to_owned()))
    }

    async fn put_at(&self, client: &Client, path: &str, value: &[u8]) -> Result<Stat, Error> {
        loop {
            let outcome = match client.set_data(path, value, None).await {
                Ok(stat) if is_owned(&stat) => {
                    let options = self.persistent();
                    self.replace(client, path, value, &stat, &options).await
                }
                Err(Error::NoNode) => self.make(client, path, value, &self.persistent()).await,
                other => other,
            };
            // Somebody was faster.
            if !matches!(
                outcome,
                Err(Error::NoNode | Error::NodeExists | Error::BadVersion)
            ) {
                return outcome;
            }
        }
    }

    /// Makes a key that does not exist, whether or not there is an empty node for what is below.
    async fn create_at(&self, client: &Client, path: &str, value: &[u8]) -> Result<Stat, Error> {
        match self.make(client, path, value, &self.persistent()).await {
            Err(Error::NodeExists) => {}
            other => return other,
        }
        match client.check_stat(path).await? {
            Some(stat) if is_parent(&stat) => {
                client.set_data(path, value, Some(stat.version)).await
            }
            _ => Err(Error::NodeExists),
        }
    }

    async fn swap_at(
        &self,
        client: &Client,
        path: &str,
        at: Revision,
        value: &[u8],
    ) -> Result<Stat, Error> {
        let stat = client.check_stat(path).await?;
        let Some(stat) = stat.filter(|stat| revision(stat) == at && !is_parent(stat)) else {
            return Err(Error::BadVersion);
        };
        let done = if is_owned(&stat) {
            let options = self.persistent();
            self.replace(client, path, value, &stat, &options).await
        } else {
            client.set_data(path, value, Some(stat.version)).await
        };
        done.map_err(|error| match error {
            Error::NoNode => Error::BadVersion,
            other => other,
        })
    }

    async fn delete_at(
        &self,
        client: &Client,
        path: &str,
        at: Option<Revision>,
    ) -> Result<bool, Error> {
        let stat = client.check_stat(path).await?;
        let Some(stat) = stat.filter(|stat| !is_parent(stat)) else {
            return Ok(false);
        };
        if at.is_some_and(|at| at != revision(&stat)) {
            return Err(Error::BadVersion);
        }
        let version = at.map(|_| stat.version);
        let done = match client.delete(path, version).await {
            Err(Error::NotEmpty) => client.set_data(path, &[], version).await.map(drop),
            other => other,
        };
        match done {
            Ok(()) => Ok(true),
            Err(Error::NoNode) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl Store for ZooKeeper {
    fn name(&self) -> &str {
        &self.inner.name
    }

    fn max_value(&self) -> usize {
        MAX_VALUE
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        check_key(key)?;
        self.read(|client| async move { read_key(&client, key, true).await })
            .await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        check_key(prefix)?;
        // The deadline is that of a step: a large tree takes its time.
        self.read(|client| async move { client.sync(&path_of(prefix)).await })
            .await?;
        let mut listing = Listing {
            prefix: prefix.to_owned(),
            ..Listing::default()
        };
        let mut parents = vec![prefix.to_owned()];
        while let Some(parent) = parents.pop() {
            let children = self
                .read(|client| {
                    let path = path_of(&parent);
                    async move { or_none(client.get_children(&path).await) }
                })
                .await?;
            let Some((children, stat)) = children else {
                continue;
            };
            listing.revision = listing.revision.max(unsigned(stat.pzxid));
            let keys = children
                .into_iter()
                .map(|child| format!("{parent}/{child}"))
                .filter(|key| check_key(key).is_ok());
            let mut found = stream::iter(keys)
                .map(|key| async move {
                    let node = self
                        .read(|client| {
                            let path = path_of(&key);
                            async move { or_none(client.get_data(&path).await) }
                        })
                        .await;
                    (key, node)
                })
                .buffer_unordered(IN_FLIGHT);
            while let Some((key, node)) = found.next().await {
                let Some((value, stat)) = node? else {
                    continue;
                };
                if stat.num_children > 0 {
                    parents.push(key.clone());
                }
                listing.revision = listing.revision.max(revision(&stat));
                listing.entries.extend(entry(key, value, &stat));
            }
        }
        listing.entries.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(listing)
    }

    async fn put(&self, key: &str, value: Bytes) -> Result<Revision, StoreError> {
        self.check(key, &value)?;
        let (path, value) = (&path_of(key), &value);
        // Twice is as good as once.
        let stat = self
            .read(|client| async move { self.put_at(&client, path, value).await })
            .await?;
        Ok(revision(&stat))
    }

    async fn swap(
        &self,
        key: &str,
        expected: Expected,
        value: Bytes,
    ) -> Result<Revision, StoreError> {
        self.check(key, &value)?;
        let (path, value) = (&path_of(key), &value);
        let done = self
            .change(|client| async move {
                match expected {
                    Expected::Absent => self.create_at(&client, path, value).await,
                    Expected::At(at) => self.swap_at(&client, path, at, value).await,
                }
            })
            .await;
        done.map(|stat| revision(&stat))
            .map_err(|error| named(error, key))
    }

    async fn delete(&self, key: &str, at: Option<Revision>) -> Result<bool, StoreError> {
        check_key(key)?;
        let path = &path_of(key);
        self.change(|client| async move { self.delete_at(&client, path, at).await })
            .await
            .map_err(|error| named(error, key))
    }

    async fn watch(&self, from: Listing) -> Result<Box<dyn Watch>, StoreError> {
        check_key(&from.prefix)?;
        let mut watch = Follower {
            store: self.clone(),
            known: Known::new(&from),
            prefix: from.prefix,
            watcher: None,
            touched: BTreeSet::new(),
            found: Vec::new(),
            pause: PAUSE,
        };
        watch.catch_up().await?;
        Ok(Box::new(watch))
    }

    async fn session(&self, ttl: Duration) -> Result<Box<dyn Session>, StoreError> {
        let sent = Instant::now();
        let connected = timeout(self.inner.timeout, self.connect(ttl)).await;
        let client = match connected {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => return Err(self.failed("", error)),
            Err(_) => return Err(self.unavailable("no answer in time".to_owned())),
        };
        let ttl = client.session_timeout();
        let lease = Lease::new(sent, ttl);
        let (store, own) = (self.clone(), client.clone());
        let renew = move || {
            let (store, client) = (store.clone(), own.clone());
            async move {
                // Its library keeps the session alive; this tells us that it is.
                match client.check_stat("/").await {
                    Ok(_) => Ok(Renewed::For(ttl)),
                    Err(Error::SessionExpired | Error::ClientClosed | Error::AuthFailed) => {
                        Ok(Renewed::Gone)
                    }
                    Err(error) => Err(store.failed("", error)),
                }
            }
        };
        let keeper = tokio::spawn(lease.clone().keep(ttl, renew));
        Ok(Box::new(OwnSession {
            store: self.clone(),
            client: Some(client),
            lease,
            keeper,
        }))
    }
}

/// A watch: events of all nodes below a prefix, and a listing wherever some may be missing.
struct Follower {
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

struct OwnSession {
    store: ZooKeeper,
    /// There until the session ends.
    client: Option<Client>,
    lease: Lease,
    keeper: JoinHandle<()>,
}

impl OwnSession {
    fn ended(&self) -> StoreError {
        StoreError::SessionEnded {
            store: self.store.inner.name.clone(),
        }
    }

    /// Does something with the session's own connection.
    async fn call<T, F, R>(&self, key: &str, action: F) -> Result<T, StoreError>
    where
        F: FnOnce(Client) -> R + Send,
        R: Future<Output = Result<T, Error>> + Send,
    {
        let Some(client) = self.client.clone().filter(|_| !self.lease.is_lost()) else {
            return Err(self.ended());
        };
        match timeout(self.store.inner.timeout, action(client)).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(Error::SessionExpired | Error::ClientClosed)) => {
                self.lease.lose();
                Err(self.ended())
            }
            Ok(Err(error)) => Err(self.store.failed(key, error)),
            Err(_) => Err(self.store.unavailable("no answer in time".to_owned())),
        }
    }
}

#[async_trait]
impl Session for OwnSession {
    fn lost(&self) -> CancellationToken {
        self.lease.lost()
    }

    fn valid_until(&self) -> Instant {
        self.lease.valid_until()
    }

    async fn put(&self, key: &str, value: Bytes) -> Result<Revision, StoreError> {
        self.store.check(key, &value)?;
        let options = CreateMode::Ephemeral.with_acls(self.store.acls());
        let (store, path, value, options) = (&self.store, &path_of(key), &value, &options);
        let stat = self
            .call(key, |client| async move {
                loop {
                    let outcome = match client.check_stat(path).await? {
                        None => store.make(&client, path, value, options).await,
                        Some(stat) if stat.ephemeral_owner == client.session_id().0 => {
                            client.set_data(path, value, Some(stat.version)).await
                        }
                        Some(stat) => store.replace(&client, path, value, &stat, options).await,
                    };
                    if !matches!(
                        outcome,
                        Err(Error::NoNode | Error::NodeExists | Error::BadVersion)
                    ) {
                        return outcome;
                    }
                }
            })
            .await?;
        Ok(revision(&stat))
    }

    async fn create(&self, key: &str, value: Bytes) -> Result<Revision, StoreError> {
        self.store.check(key, &value)?;
        let options = CreateMode::Ephemeral.with_acls(self.store.acls());
        let (store, path, value, options) = (&self.store, &path_of(key), &value, &options);
        let stat = self
            .call(key, |client| async move {
                store.make(&client, path, value, options).await
            })
            .await?;
        Ok(revision(&stat))
    }

    async fn end(mut self: Box<Self>) -> Result<(), StoreError> {
        self.lease.lose();
        self.keeper.abort();
        let _ = (&mut self.keeper).await;
        let Some(client) = self.client.take() else {
            return Ok(());
        };
        // The last handle closes the session.
        let mut states = client.state_watcher();
        drop(client);
        let closed = async { while !states.changed().await.is_terminated() {} };
        timeout(self.store.inner.timeout, closed)
            .await
            .map_err(|_| self.store.unavailable("no answer in time".to_owned()))
    }
}

impl Drop for OwnSession {
    fn drop(&mut self) {
        self.lease.lose();
        self.keeper.abort();
    }
}

/// Whether another moment may do better.
fn is_passing(error: &Error) -> bool {
    matches!(
        error,
        Error::NoHosts
            | Error::Timeout
            | Error::ConnectionLoss
            | Error::SessionExpired
            | Error::SessionMoved
            | Error::ClientClosed
            | Error::Throttled
            | Error::NotReadOnly
    )
}

fn named(error: StoreError, key: &str) -> StoreError {
    match error {
        StoreError::Conflict { .. } => StoreError::Conflict {
            key: key.to_owned(),
        },
        other => other,
    }
}

async fn read_key(client: &Client, key: &str, fresh: bool) -> Result<Option<Entry>, Error> {
    let path = path_of(key);
    // Both are on their way before the first is answered, in this order.
    let sync = fresh.then(|| client.sync(&path));
    let get = client.get_data(&path);
    if let Some(sync) = sync {
        sync.await?;
    }
    let found = or_none(get.await)?;
    Ok(found.and_then(|(value, stat)| entry(key.to_owned(), value, &stat)))
}

fn or_none<T>(outcome: Result<T, Error>) -> Result<Option<T>, Error> {
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(Error::NoNode) => Ok(None),
        Err(error) => Err(error),
    }
}

fn entry(key: String, value: Vec<u8>, stat: &Stat) -> Option<Entry> {
    if is_parent(stat) {
        return None;
    }
    Some(Entry {
        key,
        value: value.into(),
        revision: revision(stat),
    })
}

/// Whether a node is there for those below it only.
fn is_parent(stat: &Stat) -> bool {
    stat.data_length == 0 && (stat.ephemeral_owner == CONTAINER || stat.num_children > 0)
}

/// Whether a node belongs to a session.
fn is_owned(stat: &Stat) -> bool {
    stat.ephemeral_owner != 0 && stat.ephemeral_owner != CONTAINER
}

fn revision(stat: &Stat) -> Revision {
    unsigned(stat.mzxid)
}

fn unsigned(zxid: i64) -> Revision {
    u64::try_from(zxid).unwrap_or_default()
}

fn path_of(key: &str) -> String {
    format!("/{key}")
}
