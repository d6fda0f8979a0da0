//! ZooKeeper 3.6 and later.
//!
//! The key `a/b` is the node `/a/b`. Revisions are the transaction ids of the nodes' data, which
//! order all changes of all keys. Nodes above a key that hold nothing themselves are made as
//! container nodes, which ZooKeeper removes when they are empty; an empty node that is a container
//! or has children is no key. Watches are persistent and recursive. A session is a connection of
//! its own, whose keys are ephemeral nodes; the server decides how long it lasts, between 2 and 20
//! of its ticks.

use std::{future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, timeout, timeout_at},
};
use tracing::debug;
use zookeeper_client::{
    Acls, Client, CreateMode, CreateOptions, Error, MultiWriteError, MultiWriteResult,
    SessionState, Stat, TlsOptions,
};

use self::{session::OwnSession, watch::Follower};
use super::{
    Entry, Expected, Listing, Revision, Session, Store, StoreError, Watch, check_key, check_value,
    servers::{Credentials, Options},
};

mod session;
mod watch;

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
        Ok(Box::new(Follower::start(self.clone(), from).await?))
    }

    async fn session(&self, ttl: Duration) -> Result<Box<dyn Session>, StoreError> {
        Ok(Box::new(OwnSession::start(self.clone(), ttl).await?))
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
