//! Consul, over its HTTP API.
//!
//! Changes are transactions, which tell the index of the change; Consul does not count a change
//! that changes nothing, so a value that is put twice keeps its revision. Watches are blocking
//! queries of everything below a prefix. Keys of a session are locked by it, and deleted with it.
//!
//! Consul lets a session live for up to twice its TTL, so it is asked for half. It takes no TTL
//! below its `session_ttl_min`, 10 s unless told otherwise; less than 20 s is not to be had then.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header::HeaderValue};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use tokio::{
    task::AbortHandle,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    Change, Entry, Expected, Known, Listing, Revision, Session, Store, StoreError, Watch,
    check_key, check_value, is_below,
    lease::{Lease, Renewed},
    servers::{Credentials, Endpoints, Options},
};
use crate::{model::cause::innermost, tls};

/// The largest value, in bytes. A transaction takes 512 KiB of JSON unless told otherwise, in which
/// a value is a third longer.
const MAX_VALUE: usize = 380_000;

/// The longest answer, in bytes: everything below a prefix.
const MAX_ANSWER: usize = 1 << 30;

/// How long a blocking query waits for a change; Consul adds up to a sixteenth.
const WAIT: Duration = Duration::from_secs(55);

/// The shortest TTL that Consul takes unless told otherwise.
const MIN_TTL: Duration = Duration::from_secs(10);

/// The pause after a failed attempt.
const PAUSE: Duration = Duration::from_millis(100);

/// The longest pause before a watch asks again.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// What needs no encoding in the segments of a path.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');

/// A Consul cluster. Clones share connections.
#[derive(Clone)]
pub struct Consul {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    scheme: &'static str,
    endpoints: Endpoints,
    token: Option<HeaderValue>,
    timeout: Duration,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// An answer that came.
struct Answer {
    status: StatusCode,
    /// `X-Consul-Index`, 0 if there is none.
    index: u64,
    body: Bytes,
}

/// Why no answer came.
struct Silence {
    reason: String,
    /// Whether the server may have done what it was asked.
    sent: bool,
}

/// One part of a transaction.
#[derive(Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Verb<'a> {
    verb: &'static str,
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "UPPERCASE")]
struct Operation<'a> {
    kv: Verb<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Done {
    results: Option<Vec<DoneOperation>>,
    errors: Option<Vec<Refusal>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
struct DoneOperation {
    kv: Pair,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Refusal {
    op_index: usize,
    what: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Pair {
    key: String,
    value: Option<String>,
    modify_index: u64,
    #[serde(default)]
    session: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct NewSession {
    name: &'static str,
    behavior: &'static str,
    #[serde(rename = "TTL")]
    ttl: String,
    lock_delay: &'static str,
    /// None, not even that of the agent that is asked: the session is ours, not its.
    checks: [&'static str; 0],
}

#[derive(Deserialize)]
struct MadeSession {
    #[serde(rename = "ID")]
    id: String,
}

impl Consul {
    /// A store at these servers. They are asked when the store is, so that one that is away now is
    /// no error.
    pub fn new(options: Options) -> Self {
        let (scheme, config) = match &options.tls {
            Some(pems) => ("https", Some(pems.config())),
            None => ("http", None),
        };
        let connector = tls::connector(config, options.timeout);
        let token = match &options.credentials {
            Some(Credentials::Token(token)) => HeaderValue::from_str(token).ok().map(secret),
            _ => None,
        };
        Self {
            inner: Arc::new(Inner {
                name: format!("consul://{}", options.endpoints.join(",")),
                scheme,
                endpoints: Endpoints::new(options.endpoints),
                token,
                timeout: options.timeout,
                client: Client::builder(TokioExecutor::new()).build(connector),
            }),
        }
    }

    /// Asks one server, once, until `deadline`.
    async fn ask(
        &self,
        endpoint: &str,
        method: &Method,
        path: &str,
        body: &Bytes,
        deadline: Instant,
    ) -> Result<Answer, Silence> {
        let inner = &*self.inner;
        let uri = format!("{}://{endpoint}/v1/{path}", inner.scheme);
        let unsent = |reason: String| Silence {
            reason,
            sent: false,
        };
        let uri: Uri = uri
            .parse()
            .map_err(|_| unsent(format!("`{uri}` is no URL")))?;
        let mut request = Request::new(Full::new(body.clone()));
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri;
        if let Some(token) = &inner.token {
            request
                .headers_mut()
                .insert("x-consul-token", token.clone());
        }
        let exchange = async {
            let response = inner.client.request(request).await.map_err(|error| {
                let sent = !error.is_connect();
                let reason = innermost(&error);
                Silence { reason, sent }
            })?;
            let status = response.status();
            let index = response.headers().get("x-consul-index");
            let index = index.and_then(|index| index.to_str().ok()?.parse().ok());
            let body = Limited::new(response.into_body(), MAX_ANSWER);
            let body = body.collect().await.map_err(|error| Silence {
                reason: innermost(&*error),
                sent: true,
            })?;
            Ok(Answer {
                status,
                index: index.unwrap_or(0),
                body: body.to_bytes(),
            })
        };
        timeout_at(deadline, exchange).await.unwrap_or_else(|_| {
            Err(Silence {
                reason: "no answer in time".to_owned(),
                sent: true,
            })
        })
    }

    /// Asks the servers in turn. An error of a server counts as silence: it has no leader, or
    /// cannot reach it.
    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        may_repeat: bool,
    ) -> Result<Answer, StoreError> {
        let inner = &*self.inner;
        let deadline = Instant::now() + inner.timeout;
        loop {
            let end = deadline.min(Instant::now() + inner.endpoints.share(inner.timeout));
            let (at, endpoint) = inner.endpoints.current();
            let silence = match self.ask(endpoint, &method, path, &body, end).await {
                Ok(answer) if answer.status == StatusCode::FORBIDDEN => {
                    return Err(StoreError::Denied {
                        store: inner.name.clone(),
                        reason: text(&answer.body),
                    });
                }
                Ok(answer) if answer.status.is_server_error() && !answer.is_refusal() => Silence {
                    reason: text(&answer.body),
                    sent: true,
                },
                Ok(answer) => return Ok(answer),
                Err(silence) => silence,
            };
            inner.endpoints.failed(at);
            let Silence { reason, sent } = silence;
            if (sent && !may_repeat) || Instant::now() + PAUSE >= deadline {
                return Err(self.unavailable(reason));
            }
            debug!(store = inner.name, reason, "asking again");
            sleep(PAUSE).await;
        }
    }

    /// Does all of `verbs` or nothing.
    async fn transact(
        &self,
        verbs: Vec<Verb<'_>>,
    ) -> Result<Result<Vec<Pair>, Refusal>, StoreError> {
        let key = verbs.first().map_or("", |verb| verb.key).to_owned();
        let operations: Vec<_> = verbs.into_iter().map(|kv| Operation { kv }).collect();
        let body = serde_json::to_vec(&operations).unwrap_or_default();
        let answer = self.call(Method::PUT, "txn", body.into(), false).await?;
        if answer.status == StatusCode::PAYLOAD_TOO_LARGE {
            return Err(StoreError::TooLarge {
                store: self.inner.name.clone(),
                key,
                reason: text(&answer.body),
            });
        }
        let done: Done = self.read(&answer)?;
        let refusal = done.errors.into_iter().flatten().next();
        match (refusal, done.results) {
            (Some(refusal), _) => {
                if refusal.what.contains("Permission denied") {
                    return Err(StoreError::Denied {
                        store: self.inner.name.clone(),
                        reason: refusal.what,
                    });
                }
                Ok(Err(refusal))
            }
            (None, results) => Ok(Ok(results
                .into_iter()
                .flatten()
                .map(|done| done.kv)
                .collect())),
        }
    }

    fn read<'a, T: Deserialize<'a>>(&self, answer: &'a Answer) -> Result<T, StoreError> {
        serde_json::from_slice(&answer.body).map_err(|error| {
            self.unavailable(format!(
                "an answer that is none: {error}, {}",
                answer.status
            ))
        })
    }

    fn listing(&self, prefix: &str, answer: &Answer) -> Result<Listing, StoreError> {
        let pairs: Vec<Pair> = match answer.status {
            StatusCode::NOT_FOUND => Vec::new(),
            _ => self.read(answer)?,
        };
        let mut entries: Vec<Entry> = pairs
            .into_iter()
            .filter(|pair| is_below(&pair.key, prefix))
            .filter_map(entry)
            .collect();
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Listing {
            prefix: prefix.to_owned(),
            entries,
            revision: answer.index,
        })
    }

    /// Locks a key for a session.
    async fn lock(&self, session: &str, key: &str, value: &[u8]) -> Result<Revision, StoreError> {
        let lock = || Verb {
            session: Some(session),
            ..Verb::with_value("lock", key, value)
        };
        let refusal = match self.transact(vec![lock()]).await? {
            Ok(pairs) => return self.revision(&pairs),
            Err(refusal) => refusal,
        };
        if refusal.what.contains("already held") {
            // Another session has it. Ours is newer.
            let again = self
                .transact(vec![Verb::new("delete", key), lock()])
                .await?;
            return match again {
                Ok(pairs) => self.revision(&pairs),
                Err(refusal) => Err(self.refused(key, refusal)),
            };
        }
        Err(self.refused(key, refusal))
    }

    fn revision(&self, pairs: &[Pair]) -> Result<Revision, StoreError> {
        pairs
            .last()
            .map(|pair| pair.modify_index)
            .ok_or_else(|| self.unavailable("an empty answer".to_owned()))
    }

    fn refused(&self, key: &str, refusal: Refusal) -> StoreError {
        let what = refusal.what;
        if what.contains("invalid session") {
            return StoreError::SessionEnded {
                store: self.inner.name.clone(),
            };
        }
        if what.contains("stale") {
            return StoreError::Conflict {
                key: key.to_owned(),
            };
        }
        self.unavailable(what)
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

    /// Starts a session of Consul's with this TTL.
    async fn start_session(&self, ttl: Duration) -> Result<Result<String, String>, StoreError> {
        let session = NewSession {
            name: "skep",
            behavior: "delete",
            ttl: format!("{}ms", ttl.as_millis()),
            lock_delay: "0s",
            checks: [],
        };
        let body = serde_json::to_vec(&session).unwrap_or_default();
        // A session that was made unseen ends by itself.
        let answer = self
            .call(Method::PUT, "session/create", body.into(), true)
            .await?;
        if !answer.status.is_success() {
            return Ok(Err(text(&answer.body)));
        }
        let made: MadeSession = self.read(&answer)?;
        Ok(Ok(made.id))
    }

    async fn renew(&self, id: &str, ttl: Duration) -> Result<Renewed, StoreError> {
        let path = format!("session/renew/{id}");
        let answer = self.call(Method::PUT, &path, Bytes::new(), true).await?;
        match answer.status {
            StatusCode::OK => Ok(Renewed::For(ttl)),
            StatusCode::NOT_FOUND => Ok(Renewed::Gone),
            _ => Err(self.unavailable(text(&answer.body))),
        }
    }
}

impl Answer {
    /// Whether this is a server's refusal of what it was asked, although it calls it its own error.
    fn is_refusal(&self) -> bool {
        self.body.starts_with(b"Invalid Session TTL")
    }
}

impl<'a> Verb<'a> {
    fn new(verb: &'static str, key: &'a str) -> Self {
        Self {
            verb,
            key,
            value: None,
            index: None,
            session: None,
        }
    }

    fn with_value(verb: &'static str, key: &'a str, value: &[u8]) -> Self {
        Self {
            value: Some(BASE64_STANDARD.encode(value)),
            ..Self::new(verb, key)
        }
    }
}

#[async_trait]
impl Store for Consul {
    fn name(&self) -> &str {
        &self.inner.name
    }

    fn max_value(&self) -> usize {
        MAX_VALUE
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        check_key(key)?;
        let path = format!("kv/{}?consistent", encoded(key));
        let answer = self.call(Method::GET, &path, Bytes::new(), true).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let pairs: Vec<Pair> = self.read(&answer)?;
        Ok(pairs.into_iter().find_map(entry))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        check_key(prefix)?;
        let path = format!("kv/{}/?recurse&consistent", encoded(prefix));
        let answer = self.call(Method::GET, &path, Bytes::new(), true).await?;
        self.listing(prefix, &answer)
    }

    async fn put(&self, key: &str, value: Bytes) -> Result<Revision, StoreError> {
        self.check(key, &value)?;
        let set = || Verb::with_value("set", key, &value);
        let pairs = match self.transact(vec![set()]).await? {
            Ok(pairs) => pairs,
            Err(refusal) => return Err(self.refused(key, refusal)),
        };
        let Some(session) = pairs.last().and_then(|pair| pair.session.as_deref()) else {
            return self.revision(&pairs);
        };
        let unlock = Verb {
            session: Some(session),
            ..Verb::with_value("unlock", key, &value)
        };
        match self.transact(vec![unlock]).await? {
            Ok(pairs) => self.revision(&pairs),
            // Its session has ended since, and took the key along.
            Err(_) => match self.transact(vec![Verb::new("delete", key), set()]).await? {
                Ok(pairs) => self.revision(&pairs),
                Err(refusal) => Err(self.refused(key, refusal)),
            },
        }
    }

    async fn swap(
        &self,
        key: &str,
        expected: Expected,
        value: Bytes,
    ) -> Result<Revision, StoreError> {
        self.check(key, &value)?;
        let index = match expected {
            Expected::Absent => 0,
            Expected::At(0) => {
                return Err(StoreError::Conflict {
                    key: key.to_owned(),
                });
            }
            Expected::At(at) => at,
        };
        let cas = Verb {
            index: Some(index),
            ..Verb::with_value("cas", key, &value)
        };
        match self.transact(vec![cas]).await? {
            Ok(pairs) => self.revision(&pairs),
            Err(refusal) => Err(self.refused(key, refusal)),
        }
    }

    async fn delete(&self, key: &str, at: Option<Revision>) -> Result<bool, StoreError> {
        check_key(key)?;
        let delete = match at {
            None => Verb::new("delete", key),
            Some(at) => Verb {
                index: Some(at),
                ..Verb::new("delete-cas", key)
            },
        };
        match self.transact(vec![Verb::new("get", key), delete]).await? {
            Ok(_) => Ok(true),
            Err(Refusal { op_index: 0, what }) if what.contains("doesn't exist") => Ok(false),
            Err(refusal) => Err(self.refused(key, refusal)),
        }
    }

    async fn watch(&self, from: Listing) -> Result<Box<dyn Watch>, StoreError> {
        check_key(&from.prefix)?;
        Ok(Box::new(Follower {
            store: self.clone(),
            known: Known::new(&from),
            index: from.revision,
            prefix: from.prefix,
            pause: PAUSE,
        }))
    }

    async fn session(&self, ttl: Duration) -> Result<Box<dyn Session>, StoreError> {
        let mut ttl = ttl / 2;
        let mut sent = Instant::now();
        let mut made = self.start_session(ttl).await?;
        if made.is_err() && ttl < MIN_TTL {
            let asked = humantime::format_duration(ttl * 2).to_string();
            warn!(
                store = self.inner.name,
                asked,
                "Consul allows no session this short, it lasts 20 s now; see session_ttl_min"
            );
            ttl = MIN_TTL;
            sent = Instant::now();
            made = self.start_session(ttl).await?;
        }
        let id: Arc<str> = made.map_err(|reason| self.unavailable(reason))?.into();
        let lease = Lease::new(sent, ttl);
        let (store, name) = (self.clone(), Arc::clone(&id));
        let renew = move || {
            let (store, name) = (store.clone(), Arc::clone(&name));
            async move { store.renew(&name, ttl).await }
        };
        let keeper = tokio::spawn(lease.clone().keep(ttl, renew)).abort_handle();
        Ok(Box::new(ConsulSession {
            store: self.clone(),
            id,
            lease,
            keeper,
        }))
    }
}

/// A watch: a query that Consul answers when something has changed.
struct Follower {
    store: Consul,
    prefix: String,
    known: Known,
    index: u64,
    pause: Duration,
}

#[async_trait]
impl Watch for Follower {
    async fn next(&mut self) -> Result<Vec<Change>, StoreError> {
        loop {
            let inner = &*self.store.inner;
            let path = format!(
                "kv/{}/?recurse&consistent&index={}&wait={}s",
                encoded(&self.prefix),
                self.index,
                WAIT.as_secs()
            );
            let (at, endpoint) = inner.endpoints.current();
            let deadline = Instant::now() + WAIT + WAIT / 16 + inner.timeout;
            let body = Bytes::new();
            let asked = self
                .store
                .ask(endpoint, &Method::GET, &path, &body, deadline);
            let reason = match asked.await {
                Ok(answer) if answer.status == StatusCode::FORBIDDEN => {
                    return Err(StoreError::Denied {
                        store: inner.name.clone(),
                        reason: text(&answer.body),
                    });
                }
                Ok(answer) if answer.status.is_server_error() => text(&answer.body),
                Ok(answer) => match self.store.listing(&self.prefix, &answer) {
                    Ok(listing) => {
                        self.pause = PAUSE;
                        // An index that goes back is that of another cluster, or of a restored one.
                        let is_older = answer.index < self.index;
                        self.index = if is_older { 0 } else { answer.index };
                        let changes = self.known.advance_to(listing);
                        if !changes.is_empty() {
                            return Ok(changes);
                        }
                        continue;
                    }
                    Err(error) => error.to_string(),
                },
                Err(silence) => silence.reason,
            };
            debug!(store = inner.name, reason, "watching again later");
            inner.endpoints.failed(at);
            self.index = 0;
            sleep(self.pause).await;
            self.pause = (self.pause * 2).min(MAX_PAUSE);
        }
    }
}

struct ConsulSession {
    store: Consul,
    id: Arc<str>,
    lease: Lease,
    keeper: AbortHandle,
}

impl ConsulSession {
    fn check(&self) -> Result<(), StoreError> {
        if self.lease.is_lost() {
            return Err(StoreError::SessionEnded {
                store: self.store.inner.name.clone(),
            });
        }
        Ok(())
    }

    fn note<T>(&self, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        if matches!(outcome, Err(StoreError::SessionEnded { .. })) {
            self.lease.lose();
        }
        outcome
    }
}

#[async_trait]
impl Session for ConsulSession {
    fn lost(&self) -> CancellationToken {
        self.lease.lost()
    }

    fn valid_until(&self) -> Instant {
        self.lease.valid_until()
    }

    async fn put(&self, key: &str, value: Bytes) -> Result<Revision, StoreError> {
        self.check()?;
        self.store.check(key, &value)?;
        self.note(self.store.lock(&self.id, key, &value).await)
    }

    async fn create(&self, key: &str, value: Bytes) -> Result<Revision, StoreError> {
        self.check()?;
        self.store.check(key, &value)?;
        let make = Verb {
            index: Some(0),
            ..Verb::with_value("cas", key, &value)
        };
        let lock = Verb {
            session: Some(&self.id),
            ..Verb::with_value("lock", key, &value)
        };
        let made = match self.store.transact(vec![make, lock]).await {
            Ok(Ok(pairs)) => self.store.revision(&pairs),
            Ok(Err(refusal)) => Err(self.store.refused(key, refusal)),
            Err(error) => Err(error),
        };
        self.note(made)
    }

    async fn end(self: Box<Self>) -> Result<(), StoreError> {
        self.keeper.abort();
        self.lease.lose();
        let path = format!("session/destroy/{}", self.id);
        let answer = self.store.call(Method::PUT, &path, Bytes::new(), true);
        let answer = answer.await?;
        if answer.status.is_success() {
            return Ok(());
        }
        Err(self.store.unavailable(text(&answer.body)))
    }
}

impl Drop for ConsulSession {
    fn drop(&mut self) {
        self.keeper.abort();
        self.lease.lose();
    }
}

/// `None` for a foreign key that is none of ours, such as the folders that Consul's own pages make.
fn entry(pair: Pair) -> Option<Entry> {
    check_key(&pair.key).ok()?;
    let value = pair.value.unwrap_or_default();
    Some(Entry {
        key: pair.key,
        value: BASE64_STANDARD.decode(value).ok()?.into(),
        revision: pair.modify_index,
    })
}

fn encoded(key: &str) -> String {
    utf8_percent_encode(key, PLAIN).to_string()
}

fn text(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(500)]);
    text.trim().to_owned()
}

fn secret(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}
