//! etcd, version 3 of its API.
//!
//! Keys are stored as they are, without a slash in front. Revisions are etcd's own, which order all
//! changes of all keys. Sessions are leases. One server is asked until it fails; calls that may be
//! repeated are then repeated at the next one.

use std::{future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, DeleteOptions, Error, EventType,
    GetOptions, Identity, KeyValue, PutOptions, TlsOptions, Txn, TxnOp, TxnOpResponse,
    WatchOptions, WatchStream,
};
use tokio::{
    sync::Mutex,
    task::AbortHandle,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    Change, Entry, Expected, Known, Listing, Revision, Session, Store, StoreError, Watch,
    check_key, check_value,
    lease::{Lease, Renewed},
    servers::{Credentials, Endpoints, Options},
};
use crate::model::cause::innermost;

/// The largest value, in bytes; a server takes 1.5 MiB in one request unless told otherwise.
const MAX_VALUE: usize = 1 << 20;

/// How many keys are listed with one request.
const PAGE: i64 = 1000;

/// A connection is checked this often, and given up if there is no answer for as long.
const KEEP_ALIVE: Duration = Duration::from_secs(3);

/// The pause after a failed attempt.
const PAUSE: Duration = Duration::from_millis(100);

/// The longest pause before a watch is started again.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// An etcd cluster. Clones share the connection.
#[derive(Clone)]
pub struct Etcd {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    endpoints: Endpoints,
    options: ConnectOptions,
    timeout: Duration,
    /// The server that is asked now, once it has been.
    client: Mutex<Option<(usize, Client)>>,
}

/// What an error means.
enum Verdict {
    /// Another server, or another moment, may do better.
    Away {
        reason: String,
        /// Whether the server may have done what it was asked.
        sent: bool,
    },
    /// Nothing will.
    Final(StoreError),
}

impl Etcd {
    /// A store at these servers. They are asked when the store is, so that one that is away now is
    /// no error.
    pub fn new(options: Options) -> Self {
        let scheme = if options.tls.is_some() {
            "https"
        } else {
            "http"
        };
        let mut connect = ConnectOptions::new()
            .with_connect_timeout(options.timeout)
            .with_keep_alive(KEEP_ALIVE, KEEP_ALIVE)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true);
        if let Some(Credentials::User { name, password }) = options.credentials {
            connect = connect.with_user(name, password);
        }
        if let Some(pems) = options.tls {
            let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(pems.ca));
            if let Some((cert, key)) = pems.identity {
                tls = tls.identity(Identity::from_pem(cert, key));
            }
            connect = connect.with_tls(tls);
        }
        let urls = options
            .endpoints
            .iter()
            .map(|endpoint| format!("{scheme}://{endpoint}"));
        Self {
            inner: Arc::new(Inner {
                name: format!("etcd://{}", options.endpoints.join(",")),
                endpoints: Endpoints::new(urls.collect()),
                options: connect,
                timeout: options.timeout,
                client: Mutex::new(None),
            }),
        }
    }

    /// Does something that may be done twice.
    async fn read<T, F, R>(&self, key: &str, action: F) -> Result<T, StoreError>
    where
        F: Fn(Client) -> R + Send + Sync,
        R: Future<Output = Result<T, Error>> + Send,
        T: Send,
    {
        self.call(key, true, action).await
    }

    /// Does something that must not be done twice.
    async fn change<T, F, R>(&self, key: &str, action: F) -> Result<T, StoreError>
    where
        F: Fn(Client) -> R + Send + Sync,
        R: Future<Output = Result<T, Error>> + Send,
        T: Send,
    {
        self.call(key, false, action).await
    }

    async fn call<T, F, R>(&self, key: &str, may_repeat: bool, action: F) -> Result<T, StoreError>
    where
        F: Fn(Client) -> R + Send + Sync,
        R: Future<Output = Result<T, Error>> + Send,
        T: Send,
    {
        let inner = &*self.inner;
        let deadline = Instant::now() + inner.timeout;
        loop {
            let end = deadline.min(Instant::now() + inner.endpoints.share(inner.timeout));
            let (at, _) = inner.endpoints.current();
            let connected = timeout_at(end, self.client()).await;
            let (verdict, at) = match connected {
                Ok(Ok((at, client))) => match timeout_at(end, action(client)).await {
                    Ok(Ok(done)) => return Ok(done),
                    Ok(Err(error)) => (self.judge(key, error), at),
                    Err(_) => (self.silent(true), at),
                },
                Ok(Err(error)) => match self.judge(key, error) {
                    // Nothing was asked yet.
                    Verdict::Away { reason, .. } => {
                        let sent = false;
                        (Verdict::Away { reason, sent }, at)
                    }
                    end => (end, at),
                },
                Err(_) => (self.silent(false), at),
            };
            let (reason, sent) = match verdict {
                Verdict::Final(error) => return Err(error),
                Verdict::Away { reason, sent } => (reason, sent),
            };
            self.leave(at).await;
            if (sent && !may_repeat) || Instant::now() + PAUSE >= deadline {
                return Err(self.unavailable(reason));
            }
            debug!(store = inner.name, reason, "asking again");
            sleep(PAUSE).await;
        }
    }

    /// A connection to the current server.
    async fn client(&self) -> Result<(usize, Client), Error> {
        let mut held = self.inner.client.lock().await;
        if let Some((at, client)) = &*held {
            return Ok((*at, client.clone()));
        }
        let (at, url) = self.inner.endpoints.current();
        let options = Some(self.inner.options.clone());
        let client = Client::connect([url], options).await?;
        *held = Some((at, client.clone()));
        Ok((at, client))
    }

    /// Leaves the server at `at` for the next one.
    async fn leave(&self, at: usize) {
        self.inner.endpoints.failed(at);
        let mut held = self.inner.client.lock().await;
        if held.as_ref().is_some_and(|(of, _)| *of == at) {
            *held = None;
        }
    }

    fn silent(&self, sent: bool) -> Verdict {
        let timeout = humantime::format_duration(self.inner.timeout);
        Verdict::Away {
            reason: format!("no answer within {timeout}"),
            sent,
        }
    }

    fn judge(&self, key: &str, error: Error) -> Verdict {
        let store = || self.inner.name.clone();
        let Error::GRpcStatus(status) = &error else {
            return match error {
                Error::TransportError(_) | Error::IoError(_) => Verdict::Away {
                    reason: innermost(&error),
                    sent: true,
                },
                // What a lease's stream says, and nothing else.
                Error::WatchError(reason) => Verdict::Away { reason, sent: true },
                _ => Verdict::Final(self.unavailable(error.to_string())),
            };
        };
        let message = status.message();
        let denied = || {
            Verdict::Final(StoreError::Denied {
                store: store(),
                reason: message.to_owned(),
            })
        };
        match Code::from(status.code() as i32) {
            // A token that has expired, or that this server does not know; a new connection gets
            // a new one.
            Code::Unauthenticated => Verdict::Away {
                reason: message.to_owned(),
                sent: false,
            },
            Code::InvalidArgument if message.contains("old revision") => Verdict::Away {
                reason: message.to_owned(),
                sent: false,
            },
            Code::PermissionDenied => denied(),
            Code::InvalidArgument if message.contains("too large") => {
                Verdict::Final(StoreError::TooLarge {
                    store: store(),
                    key: key.to_owned(),
                    reason: message.to_owned(),
                })
            }
            Code::InvalidArgument if message.contains("user") => denied(),
            Code::FailedPrecondition if message.contains("authentication") => denied(),
            Code::NotFound if message.contains("lease") => {
                Verdict::Final(StoreError::SessionEnded { store: store() })
            }
            Code::Transient => {
                let reason = innermost(status);
                // The only errors that say for sure that nothing was sent.
                let sent = !(reason.contains("refused")
                    || reason.contains("unreachable")
                    || reason.contains("lookup"));
                Verdict::Away { reason, sent }
            }
            _ => Verdict::Final(self.unavailable(message.to_owned())),
        }
    }

    fn unavailable(&self, reason: String) -> StoreError {
        StoreError::Unavailable {
            store: self.inner.name.clone(),
            reason,
        }
    }

    /// Sets a key as a transaction, if it is as expected.
    async fn swap_with(
        &self,
        key: &str,
        expected: Expected,
        value: Bytes,
        lease: i64,
    ) -> Result<Revision, StoreError> {
        self.check(key, &value)?;
        let compare = match expected {
            Expected::Absent => Compare::create_revision(key, CompareOp::Equal, 0),
            Expected::At(at) => Compare::mod_revision(key, CompareOp::Equal, signed(at)),
        };
        let put = TxnOp::put(
            key,
            value.to_vec(),
            Some(PutOptions::new().with_lease(lease)),
        );
        let txn = Txn::new().when([compare]).and_then([put]);
        let done = self
            .change(key, |mut client| {
                let txn = txn.clone();
                async move { client.txn(txn).await }
            })
            .await?;
        if !done.succeeded() {
            return Err(StoreError::Conflict {
                key: key.to_owned(),
            });
        }
        Ok(revision_of(done.header()))
    }

    async fn put_with(&self, key: &str, value: Bytes, lease: i64) -> Result<Revision, StoreError> {
        self.check(key, &value)?;
        let done = self
            .change(key, |mut client| {
                let value = value.to_vec();
                let options = PutOptions::new().with_lease(lease);
                async move { client.put(key, value, Some(options)).await }
            })
            .await?;
        Ok(revision_of(done.header()))
    }

    fn check(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        check_key(key)?;
        check_value(self, key, value)
    }
}

#[async_trait]
impl Store for Etcd {
    fn name(&self) -> &str {
        &self.inner.name
    }

    fn max_value(&self) -> usize {
        MAX_VALUE
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        check_key(key)?;
        let mut found = self
            .read(key, |mut client| async move { client.get(key, None).await })
            .await?;
        Ok(found.take_kvs().into_iter().find_map(entry))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        check_key(prefix)?;
        let end = end_of(prefix);
        let mut listing = Listing {
            prefix: prefix.to_owned(),
            ..Listing::default()
        };
        let mut from = start_of(prefix);
        loop {
            // All pages are of the moment of the first one.
            let options = GetOptions::new()
                .with_range(end.clone())
                .with_limit(PAGE)
                .with_revision(signed(listing.revision));
            let mut page = self
                .read(prefix, |client| {
                    let (from, options) = (from.clone(), options.clone());
                    let mut kv = client.kv_client().max_decoding_message_size(usize::MAX);
                    async move { kv.get(from, Some(options)).await }
                })
                .await?;
            if listing.revision == 0 {
                listing.revision = revision_of(page.header());
            }
            let more = page.more();
            let kvs = page.take_kvs();
            let Some(last) = kvs.last() else {
                return Ok(listing);
            };
            from = [last.key(), &[0]].concat();
            listing.entries.extend(kvs.into_iter().filter_map(entry));
            if !more {
                return Ok(listing);
            }
        }
    }

    async fn put(&self, key: &str, value: Bytes) -> Result<Revision, StoreError> {
        self.put_with(key, value, 0).await
    }

    async fn swap(
        &self,
        key: &str,
        expected: Expected,
        value: Bytes,
    ) -> Result<Revision, StoreError> {
        self.swap_with(key, expected, value, 0).await
    }

    async fn delete(&self, key: &str, at: Option<Revision>) -> Result<bool, StoreError> {
        check_key(key)?;
        let Some(at) = at else {
            let done = self
                .change(key, |mut client| async move {
                    client.delete(key, Some(DeleteOptions::new())).await
                })
                .await?;
            return Ok(done.deleted() > 0);
        };
        let txn = Txn::new()
            .when([Compare::mod_revision(key, CompareOp::Equal, signed(at))])
            .and_then([TxnOp::delete(key, None)])
            .or_else([TxnOp::get(key, Some(GetOptions::new().with_keys_only()))]);
        let done = self
            .change(key, |mut client| {
                let txn = txn.clone();
                async move { client.txn(txn).await }
            })
            .await?;
        if done.succeeded() {
            return Ok(true);
        }
        let is_there = done.op_responses().iter().any(
            |response| matches!(response, TxnOpResponse::Get(found) if !found.kvs().is_empty()),
        );
        if is_there {
            return Err(StoreError::Conflict {
                key: key.to_owned(),
            });
        }
        Ok(false)
    }

    async fn watch(&self, from: Listing) -> Result<Box<dyn Watch>, StoreError> {
        check_key(&from.prefix)?;
        let mut watch = Follower {
            store: self.clone(),
            known: Known::new(&from),
            prefix: from.prefix,
            stream: None,
            found: Vec::new(),
            pause: PAUSE,
        };
        let (at, stream) = watch.open(from.revision).await?;
        watch.stream = Some(Stream {
            at,
            revision: from.revision,
            stream,
        });
        Ok(Box::new(watch))
    }

    async fn session(&self, ttl: Duration) -> Result<Box<dyn Session>, StoreError> {
        let seconds = i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
        let sent = Instant::now();
        let granted = self
            .change("", |mut client| async move {
                client.lease_grant(seconds, None).await
            })
            .await?;
        let id = granted.id();
        let ttl = time(granted.ttl());
        let lease = Lease::new(sent, ttl);
        let store = self.clone();
        let renew = move || {
            let store = store.clone();
            async move { store.renew(id, ttl).await }
        };
        let keeper = tokio::spawn(lease.clone().keep(ttl, renew)).abort_handle();
        Ok(Box::new(LeaseSession {
            store: self.clone(),
            id,
            lease,
            keeper,
        }))
    }
}

impl Etcd {
    /// Renews a lease, which lasts for `ttl` each time.
    async fn renew(&self, id: i64, ttl: Duration) -> Result<Renewed, StoreError> {
        self.read("", |client| async move {
            match client.lease_client().keep_alive(id).await {
                Ok(_) => Ok(Renewed::For(ttl)),
                Err(Error::LeaseKeepAliveError(_)) => Ok(Renewed::Gone),
                Err(error) => Err(error),
            }
        })
        .await
    }
}

/// A watch: a stream of changes, and a listing wherever it broke.
struct Follower {
    store: Etcd,
    prefix: String,
    known: Known,
    stream: Option<Stream>,
    /// Found and not told yet.
    found: Vec<Change>,
    pause: Duration,
}

struct Stream {
    /// The server.
    at: usize,
    /// What it starts after.
    revision: Revision,
    stream: WatchStream,
}

impl Follower {
    async fn open(&self, after: Revision) -> Result<(usize, WatchStream), StoreError> {
        let options = WatchOptions::new()
            .with_range(end_of(&self.prefix))
            .with_start_revision(signed(after + 1))
            .with_fragment();
        let start = start_of(&self.prefix);
        let (at, _) = self.store.inner.endpoints.current();
        let stream = self
            .store
            .read(&self.prefix, |client| {
                let (start, options) = (start.clone(), options.clone());
                let mut watch = client.watch_client().max_decoding_message_size(usize::MAX);
                async move { watch.watch(start, Some(options)).await }
            })
            .await?;
        Ok((at, stream))
    }

    /// Lists, and starts again from there.
    async fn catch_up(&mut self) -> Result<(), StoreError> {
        let listing = self.store.list(&self.prefix).await?;
        let revision = listing.revision;
        let (at, stream) = self.open(revision).await?;
        self.found.extend(self.known.advance_to(listing));
        self.stream = Some(Stream {
            at,
            revision,
            stream,
        });
        Ok(())
    }
}

#[async_trait]
impl Watch for Follower {
    async fn next(&mut self) -> Result<Vec<Change>, StoreError> {
        loop {
            if !self.found.is_empty() {
                return Ok(std::mem::take(&mut self.found));
            }
            let Some(stream) = &mut self.stream else {
                match self.catch_up().await {
                    Ok(()) => self.pause = PAUSE,
                    Err(error @ StoreError::Unavailable { .. }) => {
                        debug!(%error, "watching again later");
                        sleep(self.pause).await;
                        self.pause = (self.pause * 2).min(MAX_PAUSE);
                    }
                    Err(error) => return Err(error),
                }
                continue;
            };
            let Ok(Some(response)) = stream.stream.message().await else {
                let at = stream.at;
                self.stream = None;
                self.store.leave(at).await;
                continue;
            };
            if response.canceled() && response.cancel_reason().contains("permission denied") {
                return Err(StoreError::Denied {
                    store: self.store.inner.name.clone(),
                    reason: response.cancel_reason().to_owned(),
                });
            }
            // The history we need is gone, or the store is another one, which counts anew.
            let is_other = response.created() && revision_of(response.header()) < stream.revision;
            if response.canceled() || is_other {
                self.stream = None;
                continue;
            }
            for event in response.events() {
                let Some(change) = event.kv().and_then(|kv| change(event.event_type(), kv)) else {
                    continue;
                };
                if self.known.note(&change) {
                    self.found.push(change);
                }
            }
        }
    }
}

struct LeaseSession {
    store: Etcd,
    id: i64,
    lease: Lease,
    keeper: AbortHandle,
}

impl LeaseSession {
    fn check(&self) -> Result<(), StoreError> {
        if self.lease.is_lost() {
            return Err(StoreError::SessionEnded {
                store: self.store.inner.name.clone(),
            });
        }
        Ok(())
    }

    /// A lease that the server does not know is lost.
    fn note<T>(&self, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        if matches!(outcome, Err(StoreError::SessionEnded { .. })) {
            self.lease.lose();
        }
        outcome
    }
}

#[async_trait]
impl Session for LeaseSession {
    fn lost(&self) -> CancellationToken {
        self.lease.lost()
    }

    fn valid_until(&self) -> Instant {
        self.lease.valid_until()
    }

    async fn put(&self, key: &str, value: Bytes) -> Result<Revision, StoreError> {
        self.check()?;
        self.note(self.store.put_with(key, value, self.id).await)
    }

    async fn create(&self, key: &str, value: Bytes) -> Result<Revision, StoreError> {
        self.check()?;
        let made = self.store.swap_with(key, Expected::Absent, value, self.id);
        self.note(made.await)
    }

    async fn end(self: Box<Self>) -> Result<(), StoreError> {
        self.keeper.abort();
        self.lease.lose();
        let id = self.id;
        let revoked = self.store.read(
            "",
            |mut client| async move { client.lease_revoke(id).await },
        );
        match revoked.await {
            Ok(_) | Err(StoreError::SessionEnded { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Drop for LeaseSession {
    fn drop(&mut self) {
        self.keeper.abort();
        self.lease.lose();
    }
}

/// The status codes of gRPC that we tell apart, by their numbers.
enum Code {
    InvalidArgument,
    NotFound,
    PermissionDenied,
    FailedPrecondition,
    Unauthenticated,
    /// Cancelled, unknown, deadline exceeded, aborted, internal, unavailable.
    Transient,
    Other,
}

impl From<i32> for Code {
    fn from(code: i32) -> Self {
        match code {
            3 => Self::InvalidArgument,
            5 => Self::NotFound,
            7 => Self::PermissionDenied,
            9 => Self::FailedPrecondition,
            16 => Self::Unauthenticated,
            1 | 2 | 4 | 10 | 13 | 14 => Self::Transient,
            _ => Self::Other,
        }
    }
}

fn start_of(prefix: &str) -> Vec<u8> {
    format!("{prefix}/").into_bytes()
}

/// The first key after all that are below a prefix: `0` follows the slash.
fn end_of(prefix: &str) -> Vec<u8> {
    format!("{prefix}0").into_bytes()
}

fn change(kind: EventType, kv: &KeyValue) -> Option<Change> {
    match kind {
        EventType::Put => entry(kv.clone()).map(Change::Put),
        EventType::Delete => Some(Change::Deleted(kv.key_str().ok()?.to_owned())),
    }
}

/// `None` for a foreign key that is none of ours.
fn entry(kv: KeyValue) -> Option<Entry> {
    let revision = unsigned(kv.mod_revision());
    let (key, value) = kv.into_key_value();
    let key = String::from_utf8(key).ok()?;
    check_key(&key).ok()?;
    Some(Entry {
        key,
        value: value.into(),
        revision,
    })
}

fn revision_of(header: Option<&etcd_client::ResponseHeader>) -> Revision {
    header.map_or(0, |header| unsigned(header.revision()))
}

fn unsigned(revision: i64) -> Revision {
    u64::try_from(revision).unwrap_or_default()
}

fn signed(revision: Revision) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

fn time(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
}
