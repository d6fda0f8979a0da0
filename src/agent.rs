//! What runs beside an engine, under `skep join`: it keeps the lease of its node, and stops what may
//! run elsewhere by the time it has none.
//!
//! ```text
//! renewed through the store, or through any manager        valid for the lease's time from the
//! "hold": the manager has lost the store itself            moment it was asked for
//! neither for that long                                    containers that may be made again
//!                                                          elsewhere are killed
//! ```
//!
//! A manager that cannot reach the engine watches the lease: it makes nothing again elsewhere before
//! the lease did not change for its whole time, by the manager's own clock, and a margin. Each
//! clock starts no later than the agent's, so none has to agree with another.
//!
//! An agent stops nothing unless a manager told it, or left word in the store, that leases count,
//! and unless it knows a manager to turn to: a store that is down must not stop a container.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use http::Method;
use rand::RngExt;
use serde::Deserialize;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::{
    engine::{
        client::{Client, encode},
        transport::{Fence, Limits, Transport},
    },
    model::directive::{Directives, Kind, ReschedulePolicy},
    store::{
        Store, StoreError,
        agents::{Answer, Lease, Word, cluster_key, lease_key, managers_key},
    },
    tls,
};

/// Wait before a renewal that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How often containers are killed again that somebody starts while there is no lease.
const FENCE_INTERVAL: Duration = Duration::from_secs(1);

/// How long the engine may take for one call.
const ENGINE: Duration = Duration::from_secs(10);

/// Most managers that are remembered.
const MAX_MANAGERS: usize = 16;

/// What a lease is kept with.
pub struct Options {
    /// The engine's address as managers know it.
    pub addr: String,
    /// How the engine is reached from here.
    pub engine: Client,
    /// How long a lease is valid.
    pub ttl: Duration,
    /// The managers' store and the key that everything of theirs is below, if it can be reached.
    pub store: Option<(Arc<dyn Store>, String)>,
    /// Addresses of managers, `host:port`; more are learned.
    pub managers: Vec<String>,
    /// How managers are spoken to, if over TLS.
    pub tls: Option<tls::Client>,
}

/// Keeps the lease until `shutdown`, and gives it back then: whoever ends the agent in order does not
/// ask for containers to be stopped.
pub async fn keep_lease(options: Options, shutdown: CancellationToken) {
    let mut keeper = Keeper::new(options);
    loop {
        let wait = tokio::select! {
            () = shutdown.cancelled() => break,
            wait = keeper.step() => wait,
        };
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = sleep_until(wait) => {}
        }
    }
    keeper.give_back().await;
}

struct Keeper {
    options: Options,
    lease: Lease,
    /// Until when the lease is valid for sure.
    valid_until: Instant,
    /// Whether leases count, as far as it was said.
    counts: bool,
    managers: BTreeSet<String>,
    /// Containers that were stopped for want of a lease.
    fenced: BTreeSet<String>,
    fenced_at: Option<Instant>,
}

/// A container as its engine lists it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    id: String,
    #[serde(default)]
    state: String,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

impl Keeper {
    fn new(options: Options) -> Self {
        let managers = options.managers.iter().cloned().collect();
        let lease = Lease {
            ttl: options.ttl,
            boot: rand::rng().random(),
            beat: 0,
        };
        let valid_until = Instant::now() + options.ttl;
        Self {
            options,
            lease,
            valid_until,
            counts: false,
            managers,
            fenced: BTreeSet::new(),
            fenced_at: None,
        }
    }

    /// Renews the lease or bears the consequences; returns when to come again.
    async fn step(&mut self) -> Instant {
        let asked_at = Instant::now();
        let ttl = self.options.ttl;
        self.lease.beat += 1;
        if let Some(answer) = self.renew().await {
            let was_lost = self.fenced_at.take().is_some();
            if was_lost {
                info!("the lease of this node is renewed again");
            }
            self.valid_until = asked_at + ttl;
            self.learn(answer);
            self.hand_in_fenced().await;
            return asked_at + ttl / 4;
        }
        let now = Instant::now();
        if now < self.valid_until {
            return self.valid_until.min(now + RETRY);
        }
        if self.counts && !self.managers.is_empty() {
            self.fence().await;
        }
        Instant::now() + FENCE_INTERVAL
    }

    fn learn(&mut self, answer: Answer) {
        if self.counts != answer.counts {
            match answer.counts {
                true => info!(
                    "containers that may run elsewhere are stopped if neither the store nor a manager can be reached for {:?}",
                    self.options.ttl
                ),
                false => info!("fencing is switched off in this cluster: nothing is stopped here"),
            }
        }
        self.counts = answer.counts;
        for manager in answer.managers {
            if self.managers.len() < MAX_MANAGERS {
                self.managers.insert(manager);
            }
        }
    }

    /// Renews the lease through the store, else through any manager.
    async fn renew(&self) -> Option<Answer> {
        let patience = self.options.ttl / 4;
        if let Some((store, prefix)) = &self.options.store {
            match timeout(patience, self.renew_in(&**store, prefix)).await {
                Ok(Some(answer)) => return Some(answer),
                Ok(None) => {}
                Err(_) => debug!("the store is silent"),
            }
        }
        let body = Bytes::from(self.lease.to_json());
        let path = format!("/skep/agents/{}/lease", encode(&self.options.addr));
        let mut asked: FuturesUnordered<_> = self
            .managers
            .iter()
            .filter_map(|manager| self.client(manager))
            .map(|client| {
                let (path, body) = (path.clone(), body.clone());
                async move { timeout(patience, client.post(&path, body)).await }
            })
            .collect();
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(Ok(answer)) => match Answer::parse(&answer) {
                    Ok(answer) => {
                        if answer.word == Word::Hold {
                            debug!("the manager has lost the store and says to hold");
                        }
                        return Some(answer);
                    }
                    Err(error) => warn!(%error, "a manager's answer makes no sense"),
                },
                Ok(Err(error)) => debug!(%error, "the manager does not renew the lease"),
                Err(_) => debug!("the manager is silent"),
            }
        }
        None
    }

    /// `None` if the store does not answer, or is not one where managers look for leases.
    async fn renew_in(&self, store: &dyn Store, prefix: &str) -> Option<Answer> {
        let failed = |error: StoreError| debug!(%error, "no renewal in the store");
        let word = store.get(&cluster_key(prefix)).await;
        let word = word.map_err(failed).ok()??;
        let mut answer = Answer::parse(&word.value).ok()?;
        let key = lease_key(prefix, &self.options.addr);
        let value = Bytes::from(self.lease.to_json());
        store.put(&key, value).await.map_err(failed).ok()?;
        let prefix = managers_key(prefix);
        if let Ok(listing) = store.list(&prefix).await {
            let names = listing.entries.iter();
            let names = names.filter_map(|entry| entry.key.strip_prefix(&format!("{prefix}/")));
            answer.managers.extend(names.map(str::to_owned));
        }
        Some(answer)
    }

    /// Stops what may run elsewhere by now.
    async fn fence(&mut self) {
        if self.fenced_at.is_none() {
            error!(
                "neither the store nor a manager was reached for {:?}: containers that may be made again \
                 elsewhere are stopped",
                self.options.ttl
            );
        }
        self.fenced_at = Some(Instant::now());
        let listed = match self.running().await {
            Ok(listed) => listed,
            Err(reason) => {
                error!(reason, "the engine cannot be asked what runs");
                return;
            }
        };
        let mut kills: FuturesUnordered<_> = listed
            .into_iter()
            .map(|container| {
                let engine = self.options.engine.clone();
                async move {
                    let id = container.id;
                    if container.state == "paused" {
                        // A frozen process does not die.
                        let path = format!("/containers/{id}/unpause");
                        let _ = timeout(ENGINE, engine.call(Method::POST, &path)).await;
                    }
                    let path = format!("/containers/{id}/kill");
                    (timeout(ENGINE, engine.call(Method::POST, &path)).await, id)
                }
            })
            .collect();
        while let Some((killed, id)) = kills.next().await {
            match killed {
                Ok(Ok(_)) => {
                    warn!(container = id, "stopped: this node has no lease");
                    self.fenced.insert(id);
                }
                Ok(Err(error)) => error!(container = id, %error, "cannot be stopped"),
                Err(_) => error!(container = id, "cannot be stopped: the engine is silent"),
            }
        }
    }

    /// The containers that run and may be made again elsewhere.
    async fn running(&self) -> Result<Vec<Listed>, String> {
        let filters = format!(
            r#"{{"label":["{}"],"status":["running","paused","restarting"]}}"#,
            Kind::Reschedule.label()
        );
        let path = format!("/containers/json?filters={}", encode(&filters));
        let answer = timeout(ENGINE, self.options.engine.call(Method::GET, &path)).await;
        let answer = answer.map_err(|_| "it is silent".to_owned())?;
        let answer = answer.map_err(|error| error.to_string())?;
        let listed: Vec<Listed> =
            serde_json::from_slice(&answer).map_err(|error| error.to_string())?;
        let is_fenced = |container: &Listed| {
            let labels = container.labels.as_ref();
            let policy = labels.map(Directives::policy_of).unwrap_or_default();
            matches!(policy, ReschedulePolicy::OnNodeFailure(moves) if moves.is_fenced)
        };
        Ok(listed.into_iter().filter(is_fenced).collect())
    }

    /// Tells the manager that leads what was stopped, until it runs again or is gone.
    async fn hand_in_fenced(&mut self) {
        let mut settled = Vec::new();
        for id in &self.fenced {
            let asked = self.options.engine.inspect(id);
            match timeout(ENGINE, asked).await {
                Ok(Ok(document)) if is_running(&document) => settled.push(id.clone()),
                Ok(Err(error)) if error.status() == Some(http::StatusCode::NOT_FOUND) => {
                    settled.push(id.clone());
                }
                _ => {}
            }
        }
        for id in settled {
            self.fenced.remove(&id);
        }
        if self.fenced.is_empty() {
            return;
        }
        let path = format!("/skep/agents/{}/fenced", encode(&self.options.addr));
        let body = Bytes::from(serde_json::to_vec(&self.fenced).unwrap_or_default());
        for client in self.managers.iter().filter_map(|name| self.client(name)) {
            let told = timeout(ENGINE, client.post(&path, body.clone())).await;
            match told {
                Ok(Ok(_)) => return,
                Ok(Err(error)) => debug!(%error, "the manager does not hear what was stopped"),
                Err(_) => debug!("the manager is silent"),
            }
        }
    }

    fn client(&self, manager: &str) -> Option<Client> {
        let addr = manager.parse().ok()?;
        let limits = Limits {
            connect_timeout: self.options.ttl / 4,
            max_connections: 1,
            max_idle: 0,
        };
        let tls = self.options.tls.clone();
        let transport = Transport::with_tls(addr, &limits, tls, Fence::default());
        Some(Client::new(Arc::new(transport), ENGINE))
    }

    /// Managers need not wait for this node any more.
    async fn give_back(&self) {
        let Some((store, prefix)) = &self.options.store else {
            return;
        };
        let key = lease_key(prefix, &self.options.addr);
        let deleted = timeout(RETRY, store.delete(&key, None)).await;
        if !matches!(deleted, Ok(Ok(_))) {
            debug!("the lease runs out by itself");
        }
    }
}

fn is_running(document: &[u8]) -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Document {
        state: State,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct State {
        running: bool,
    }
    let document: Result<Document, _> = serde_json::from_slice(document);
    document.is_ok_and(|document| document.state.running)
}
