//! Stops what may run elsewhere by the time there is no lease, and what was made again elsewhere.
//!
//! Nothing that has to be waited for is waited for here: calls to the engine and to managers are
//! jobs, and the one thing that the guard itself sleeps for is the end of the lease.
//!
//! A container that is removed when it ends is frozen instead: its data would be lost with it.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use http::{Method, StatusCode};
use serde::Deserialize;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{
    ENGINE, Options, REPRIEVE,
    note::{Fenced, Keeper, Standing},
    renewal,
};
use crate::{
    boot,
    engine::client::{Client, ClientError, encode},
    model::directive::{Directives, Kind, ReschedulePolicy},
    store::agents::FencedContainer,
};

/// How often the clock is looked at: that of timers stands still while the host is suspended.
const LOOK: Duration = Duration::from_millis(250);

/// How often the engine is asked what runs while there is no lease, or soon will be none: somebody
/// may start a container.
const LIST_INTERVAL: Duration = Duration::from_secs(1);

/// How long the engine may take to say whether a container would be removed when it ends.
const ASK: Duration = Duration::from_secs(2);

/// The guard was not there when it slept this much longer than it meant to.
const ABSENT: Duration = Duration::from_secs(1);

pub(super) struct Guard {
    options: Arc<Options>,
    standings: watch::Receiver<Standing>,
    keeper: Keeper,
    /// What was stopped for want of a lease and is not known to run again.
    fenced: Fenced,
    /// Whether there is no lease now, and that counts.
    is_alone: bool,
    /// Until when nothing is stopped, since nobody was there when the lease ended.
    reprieved_until: Duration,
    looked_at: Duration,
    /// What ran when the engine was asked last.
    running: Vec<Running>,
    listed_at: Option<Duration>,
    is_listing: bool,
    stopping: HashSet<String>,
    /// Containers that were made again elsewhere and are dealt with; with the renewal after which
    /// that failed, if it did.
    settled: BTreeMap<String, Option<u64>>,
    /// Which renewal was the last one that managers were told of what was stopped.
    told: u64,
    is_telling: bool,
    jobs: JoinSet<Ended>,
}

/// A container that runs and may be made again elsewhere.
struct Running {
    id: String,
    /// Whether it would be removed when it ends.
    vanishes: bool,
}

/// When a container ended, by its engine's word; `None` if it was frozen.
type Mark = Option<String>;

/// Why a container is stopped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    NoLease,
    Superseded,
}

/// What became of a job.
enum Ended {
    Listed(Result<Vec<Running>, String>),
    /// `None` if it did not run.
    Stopped(String, Cause, Result<Option<Mark>, String>),
    /// These need not be told of any more.
    Told(Vec<String>),
    Saved,
}

/// A container as its engine lists it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    id: String,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

/// The part of an inspect document that is looked at.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    state: State,
    host_config: HostConfig,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct State {
    running: bool,
    paused: bool,
    finished_at: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HostConfig {
    #[serde(default)]
    auto_remove: bool,
}

impl Guard {
    pub fn new(
        options: Arc<Options>,
        standings: watch::Receiver<Standing>,
        keeper: Keeper,
        fenced: Fenced,
    ) -> Self {
        Self {
            options,
            standings,
            keeper,
            fenced,
            is_alone: false,
            reprieved_until: Duration::ZERO,
            looked_at: boot::elapsed(),
            running: Vec::new(),
            listed_at: None,
            is_listing: false,
            stopping: HashSet::new(),
            settled: BTreeMap::new(),
            told: 0,
            is_telling: false,
            jobs: JoinSet::new(),
        }
    }

    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let wait = self.look();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = sleep(wait) => {}
                Some(ended) = self.jobs.join_next(), if !self.jobs.is_empty() => {
                    if let Ok(ended) = ended {
                        self.take(ended);
                    }
                }
                changed = self.standings.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Does what is to be done now, and returns how long that will do.
    fn look(&mut self) -> Duration {
        let standing = self.standings.borrow_and_update().clone();
        let now = boot::elapsed();
        if now.saturating_sub(self.looked_at) > LOOK + ABSENT && standing.valid_until < now {
            // It ended while this process, or the host, stood still: there may be no copy at all.
            self.reprieved_until = now + REPRIEVE;
        }
        self.looked_at = now;
        let ends_at = standing.valid_until.max(self.reprieved_until);
        let counts = standing.counts && !standing.managers.is_empty();
        if counts && ends_at <= now {
            self.fence();
            return LOOK;
        }
        if std::mem::take(&mut self.is_alone) {
            info!("the lease of this node is renewed again");
        }
        if counts {
            self.stop_superseded(&standing);
        }
        self.tell(&standing);
        let left = ends_at.saturating_sub(now);
        if counts && (left < self.options.ttl / 2 || standing.renewals == 0) {
            // An engine that is slow shall not be waited for when the time has come.
            self.list();
        }
        if counts { left.min(LOOK) } else { LOOK }
    }

    /// Stops what may run elsewhere by now.
    fn fence(&mut self) {
        if !self.is_alone {
            error!(
                "neither the store nor a manager was reached for {:?}: containers that may be made again \
                 elsewhere are stopped",
                self.options.ttl
            );
        }
        self.is_alone = true;
        for container in std::mem::take(&mut self.running) {
            self.stop(container.id, Some(container.vanishes), Cause::NoLease);
        }
        self.list();
    }

    /// Asks the engine what runs, unless it was asked just now.
    fn list(&mut self) {
        let is_due = self
            .listed_at
            .is_none_or(|at| boot::elapsed() - at >= LIST_INTERVAL);
        if self.is_listing || !is_due {
            return;
        }
        self.is_listing = true;
        let engine = self.options.engine.clone();
        self.jobs
            .spawn(async move { Ended::Listed(running(&engine).await) });
    }

    fn stop(&mut self, id: String, vanishes: Option<bool>, cause: Cause) {
        if !self.stopping.insert(id.clone()) {
            return;
        }
        let engine = self.options.engine.clone();
        self.jobs.spawn(async move {
            let stopped = stop(&engine, &id, vanishes).await;
            Ended::Stopped(id, cause, stopped)
        });
    }

    /// Stops at once what runs elsewhere by now; it is not to be started again.
    fn stop_superseded(&mut self, standing: &Standing) {
        self.settled
            .retain(|id, _| standing.superseded.contains(id));
        let before = self.fenced.len();
        self.fenced
            .retain(|id, _| !standing.superseded.contains(id));
        if self.fenced.len() != before {
            self.save();
        }
        for id in &standing.superseded {
            let is_new = match self.settled.get(id) {
                None => true,
                Some(failed_at) => failed_at.is_some_and(|at| at != standing.renewals),
            };
            if is_new {
                self.settled.insert(id.clone(), None);
                self.stop(id.clone(), None, Cause::Superseded);
            }
        }
    }

    /// Tells the manager that leads what was stopped, once with each renewal, until it runs again or
    /// is gone.
    fn tell(&mut self, standing: &Standing) {
        let is_news = self.told != standing.renewals;
        if self.is_telling || !is_news || self.fenced.is_empty() || standing.managers.is_empty() {
            return;
        }
        self.told = standing.renewals;
        self.is_telling = true;
        let options = Arc::clone(&self.options);
        let (fenced, managers) = (self.fenced.clone(), standing.managers.clone());
        self.jobs.spawn(async move {
            let clients = managers.iter();
            let clients = clients.filter_map(|name| renewal::client(&options, name));
            Ended::Told(tell(&options, fenced, clients.collect()).await)
        });
    }

    fn take(&mut self, ended: Ended) {
        match ended {
            Ended::Listed(listed) => {
                self.is_listing = false;
                self.listed_at = Some(boot::elapsed());
                match listed {
                    Ok(running) => self.running = running,
                    Err(reason) if self.is_alone => {
                        error!(reason, "the engine cannot be asked what runs");
                    }
                    Err(reason) => debug!(reason, "the engine cannot be asked what runs"),
                }
            }
            Ended::Stopped(id, cause, stopped) => {
                self.stopping.remove(&id);
                self.note_stopped(id, cause, stopped);
            }
            Ended::Saved => {}
            Ended::Told(over) => {
                self.is_telling = false;
                self.fenced.retain(|id, _| !over.contains(id));
                if !over.is_empty() {
                    self.save();
                }
            }
        }
    }

    fn note_stopped(&mut self, id: String, cause: Cause, stopped: Result<Option<Mark>, String>) {
        match (stopped, cause) {
            (Ok(Some(ended_at)), Cause::NoLease) => {
                warn!(container = id, "stopped: this node has no lease");
                self.fenced.insert(id, ended_at);
                self.save();
            }
            (Ok(Some(_)), Cause::Superseded) => {
                warn!(container = id, "stopped: it was made again elsewhere");
            }
            (Ok(None), _) => {}
            (Err(reason), cause) => {
                error!(container = id, reason, "cannot be stopped");
                if cause == Cause::Superseded {
                    let renewals = self.standings.borrow().renewals;
                    self.settled.insert(id, Some(renewals));
                }
            }
        }
    }

    fn save(&mut self) {
        let (keeper, fenced) = (self.keeper.clone(), self.fenced.clone());
        self.jobs.spawn(async move {
            keeper.fenced(&fenced).await;
            Ended::Saved
        });
    }
}

/// The containers that run and may be made again elsewhere. Those that a user froze do nothing.
async fn running(engine: &Client) -> Result<Vec<Running>, String> {
    let filters = format!(
        r#"{{"label":["{}"],"status":["running","restarting"]}}"#,
        Kind::Reschedule.label()
    );
    let path = format!("/containers/json?filters={}", encode(&filters));
    let answer = timeout(ENGINE, engine.call(Method::GET, &path)).await;
    let answer = answer.map_err(|_| "it is silent".to_owned())?;
    let answer = answer.map_err(|error| error.to_string())?;
    let listed: Vec<Listed> = serde_json::from_slice(&answer).map_err(|error| error.to_string())?;
    let is_fenced = |container: &Listed| {
        let labels = container.labels.as_ref();
        let label = labels.and_then(|labels| labels.get(Kind::Reschedule.label()));
        let policy = Directives::policy_of(label.map(String::as_str));
        matches!(policy, ReschedulePolicy::OnNodeFailure(moves) if moves.is_fenced)
    };
    let fenced = listed.into_iter().filter(is_fenced);
    let looked: FuturesUnordered<_> = fenced
        .map(|container| async move {
            let document = inspect(engine, &container.id).await;
            Running {
                // What is not known shall not be lost.
                vanishes: document.is_none_or(|document| document.host_config.auto_remove),
                id: container.id,
            }
        })
        .collect();
    Ok(looked.collect().await)
}

async fn inspect(engine: &Client, id: &str) -> Option<Document> {
    let document = timeout(ASK, engine.inspect(id)).await.ok()?.ok()?;
    serde_json::from_slice(&document).ok()
}

/// Kills a container, or freezes one that would be removed then; `None` if it does not run.
async fn stop(engine: &Client, id: &str, vanishes: Option<bool>) -> Result<Option<Mark>, String> {
    let vanishes = match vanishes {
        Some(vanishes) => vanishes,
        None => match inspect(engine, id).await {
            Some(document) if !document.state.running || document.state.paused => return Ok(None),
            document => document.is_none_or(|document| document.host_config.auto_remove),
        },
    };
    let what = if vanishes { "pause" } else { "kill" };
    let path = format!("/containers/{id}/{what}");
    match timeout(ENGINE, engine.call(Method::POST, &path)).await {
        Ok(Ok(_)) if vanishes => Ok(Some(None)),
        Ok(Ok(_)) => {
            let document = inspect(engine, id).await;
            let ended_at = document.map(|document| document.state.finished_at);
            Ok(Some(Some(ended_at.unwrap_or_default())))
        }
        Ok(Err(error)) if is_settled(&error) => Ok(None),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the engine is silent".to_owned()),
    }
}

/// Whether a container is gone or does not run.
fn is_settled(error: &ClientError) -> bool {
    matches!(
        error.status(),
        Some(StatusCode::NOT_FOUND | StatusCode::CONFLICT)
    )
}

/// Tells the manager that leads what was stopped and did not run since, and returns the others.
async fn tell(options: &Options, fenced: Fenced, managers: Vec<Client>) -> Vec<String> {
    let (mut over, mut left) = (Vec::new(), Vec::new());
    for (id, ended_at) in fenced {
        match timeout(ENGINE, options.engine.inspect(&id)).await {
            Ok(Ok(document)) if is_over(&document, ended_at.as_deref()) => over.push(id),
            Ok(Err(error)) if error.status() == Some(StatusCode::NOT_FOUND) => over.push(id),
            _ => left.push(FencedContainer { id, ended_at }),
        }
    }
    if left.is_empty() {
        return over;
    }
    let path = format!("/skep/agents/{}/fenced", encode(&options.addr));
    let body = Bytes::from(serde_json::to_vec(&left).unwrap_or_default());
    for client in managers {
        match timeout(ENGINE, client.post(&path, body.clone())).await {
            Ok(Ok(_)) => break,
            Ok(Err(error)) => debug!(%error, "the manager does not hear what was stopped"),
            Err(_) => debug!("the manager is silent"),
        }
    }
    over
}

/// Whether a container is not as it was when it was stopped: somebody started it since.
fn is_over(document: &[u8], ended_at: Option<&str>) -> bool {
    let Ok(Document { state, .. }) = serde_json::from_slice(document) else {
        return false;
    };
    match ended_at {
        None => !state.paused,
        Some("") => state.running,
        Some(ended_at) => state.running || state.finished_at != ended_at,
    }
}
