//! What the cluster remembers beyond this process: nodes and containers, as last seen.
//!
//! ```text
//! monitor --inventory, inspect documents--> note --> keeper --> store     what changed
//! create  --intend---------------------------------------------> store     before an engine is asked
//! monitor <--recall--------------------------------------------- store     a node not heard yet
//! ```
//!
//! Keys, below the cluster's prefix:
//!
//! - `nodes/<addr>`: what the engine said of itself, and when it was last heard.
//! - `containers/<addr>/<id>`: the engine's list entry (`Entry`) and inspect document (`Inspect`),
//!   and for a container made through us the create request (`Create`), directives included.
//! - `creates/<cluster-wide ID>`: a create under way, see [`intents`].
//! - `settings/<addr>`: what an operator said of a node, see [`nodes`](super::nodes).
//! - `probe`: written to see whether the store takes changes again.
//! - `superseded/<addr>/<id>`: a container that was made again elsewhere and has to be removed when
//!   its engine is back.
//!
//! The engines are the truth for what they hold; records are for when they cannot be asked. A
//! container that a healthy engine no longer lists is forgotten. A node that leaves the cluster is
//! not: it may have died, and come back. What cannot be read under our keys is left alone.
//!
//! Of several managers only the one that leads writes. The others note what they see for a while,
//! so that one that takes over can write what its predecessor no longer could, and then compares
//! all records with what it sees.
//!
//! A store that is away holds up nothing but creates: what changes meanwhile waits here, at most
//! one document for each container that is there, and is written when the store is back.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use imbl::ordmap::DiffItem;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

mod forget;
pub mod intents;
mod leases;
mod records;
mod superseded;
mod writing;

use self::intents::Intent;
use crate::{
    cluster::{
        election::{Leadership, Term},
        nodes::{AllSettings, Settings},
        placement::Placement,
    },
    engine::{
        health::Status,
        inventory::{Inventory, container::CpuShares},
        monitor::Monitors,
        raw::RawObject,
    },
    model::address::EngineAddr,
    store::{Store, StoreError},
};

/// Longest time for one call to the store.
const DEADLINE: Duration = Duration::from_secs(10);

/// Wait before a store that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How long changes gather before they are written: many of them cost one flush of the store, and
/// creates, which wait for theirs, find it free.
const GATHER: Duration = Duration::from_millis(50);

/// How often creates whose end is unknown are looked at.
const SETTLE_INTERVAL: Duration = Duration::from_secs(1);

/// How many containers of one node that are gone are noted while the store is away; beyond that its
/// records are compared with what there is.
const MAX_GONE: usize = 1024;

/// How long a manager that does not lead keeps what it saw: longer than it takes to take over.
const STAND_BY: Duration = Duration::from_secs(120);

/// How often it looks for what it need not keep any more.
const STAND_BY_INTERVAL: Duration = Duration::from_secs(10);

/// What the memory needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// Everything is kept below this key.
    pub prefix: String,
    /// Whether containers may be created without a record while the store is away.
    pub optional: bool,
    /// How long a node is remembered that is not heard of.
    pub forget_after: Duration,
    /// How long an engine that answers may take to come up with a container that was asked for by
    /// a manager that died, or whose answer was lost.
    pub settle_after: Duration,
    /// What `--cpu-shares` means.
    pub cpu_shares: CpuShares,
}

/// The cluster's memory. Cheap to clone.
#[derive(Clone)]
pub struct Memory {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn Store>,
    options: Options,
    desk: Mutex<Desk>,
    work: Notify,
    /// Why the store cannot be used, while it cannot.
    trouble: watch::Sender<Option<StoreError>>,
    /// The term in which the creates of whoever led before were read.
    ready: watch::Sender<Option<Term>>,
}

/// What waits to be written, and what is known to be written.
struct Desk {
    /// Since when nobody else writes records.
    leads_since: Instant,
    pending: HashMap<EngineAddr, Pending>,
    /// Each node as a healthy engine showed it last.
    latest: HashMap<EngineAddr, Arc<Inventory>>,
    /// Since when nodes are down that were seen before.
    down: HashMap<EngineAddr, DateTime<Utc>>,
    /// Creates that are not settled, by cluster-wide ID.
    intents: HashMap<Arc<str>, Intent>,
    /// When engines were last asked what they hold for the sake of such creates.
    asked: HashMap<EngineAddr, Instant>,
    saved: HashMap<EngineAddr, Saved>,
}

/// What is new of one node, besides what its inventory tells.
#[derive(Default)]
struct Pending {
    /// By container ID.
    documents: HashMap<Arc<str>, Document>,
    /// IDs of containers that are gone.
    gone: Vec<Arc<str>>,
}

/// What a container's record is made of, besides its list entry.
#[derive(Clone)]
struct Document {
    inspect: Bytes,
    noted_at: Instant,
    /// `None`: as the record has it.
    create: Option<RawObject>,
}

/// What the store has of one node: a digest of each record.
#[derive(Default)]
struct Saved {
    node: Option<(u64, DateTime<Utc>)>,
    /// When whoever led before saw the node last.
    inherited: Option<DateTime<Utc>>,
    /// Whether what stands in the node's place is not ours to overwrite.
    is_foreign: bool,
    containers: HashMap<Arc<str>, u64>,
    /// Whether what was gone when this was read has been deleted.
    is_compared: bool,
}

/// The request that made a container, for its record.
#[derive(Clone, Debug)]
pub struct CreateRecord {
    /// The name asked for; empty if none.
    pub name: String,
    /// The body with its directives as labels, not yet scaled to an engine.
    pub body: RawObject,
}

impl Desk {
    fn new() -> Self {
        Self {
            leads_since: Instant::now(),
            pending: HashMap::new(),
            latest: HashMap::new(),
            down: HashMap::new(),
            intents: HashMap::new(),
            asked: HashMap::new(),
            saved: HashMap::new(),
        }
    }
}

impl Memory {
    /// A memory in a store; nothing is written before [`Memory::run`].
    pub fn new(store: Arc<dyn Store>, options: Options) -> Self {
        Self {
            inner: Arc::new(Inner {
                store,
                options,
                desk: Mutex::new(Desk::new()),
                work: Notify::new(),
                trouble: watch::Sender::new(None),
                ready: watch::Sender::new(None),
            }),
        }
    }

    /// Why the store cannot be used, while it cannot.
    pub fn trouble(&self) -> Option<StoreError> {
        self.inner.trouble.borrow().clone()
    }

    /// Whether containers may be created without a record while the store is away.
    pub fn is_optional(&self) -> bool {
        self.inner.options.optional
    }

    /// Takes note of what a monitor found; never waits. Documents are those of containers that
    /// were inspected since the last note.
    pub fn note(&self, inventory: &Arc<Inventory>, documents: Vec<(Arc<str>, Bytes)>) {
        let addr = &inventory.addr;
        let mut desk = self.desk();
        let desk = &mut *desk;
        let is_lost = inventory.status == Status::Unhealthy && desk.latest.contains_key(addr);
        let was_down = match inventory.down_since.filter(|_| is_lost) {
            Some(since) => desk.down.insert(addr.clone(), since.into()),
            None => desk.down.remove(addr),
        };
        let is_news = was_down.is_some() != desk.down.contains_key(addr);
        if documents.is_empty() && !inventory.is_healthy() && !is_news {
            return;
        }
        let pending = desk.pending.entry(addr.clone()).or_default();
        for (id, inspect) in documents {
            let before = pending.documents.remove(&id);
            let create = before.and_then(|document| document.create);
            let noted_at = Instant::now();
            pending.documents.insert(
                id,
                Document {
                    inspect,
                    noted_at,
                    create,
                },
            );
        }
        if inventory.is_healthy() {
            let before = desk.latest.insert(addr.clone(), Arc::clone(inventory));
            let before = before.map(|before| before.containers.clone());
            let before = before.unwrap_or_default();
            for change in before.diff(&inventory.containers) {
                if let DiffItem::Remove(id, container) = change {
                    // Its document would wait for ever if the store is away.
                    pending.documents.remove(id);
                    pending.gone.push(Arc::clone(id));
                    let swarm_id = container.swarm_id.as_ref();
                    if let Some(intent) = swarm_id.and_then(|id| desk.intents.get_mut(id)) {
                        intent.removed(addr);
                    }
                }
            }
        }
        if pending.gone.len() > MAX_GONE {
            pending.gone.clear();
            if let Some(saved) = desk.saved.get_mut(addr) {
                saved.is_compared = false;
            }
        }
        self.inner.work.notify_one();
    }

    /// A node left the cluster: what waits to be written of it is dropped, its records stay.
    pub fn drop_node(&self, addr: &EngineAddr) {
        let mut desk = self.desk();
        desk.pending.remove(addr);
        desk.latest.remove(addr);
        desk.down.remove(addr);
        desk.saved.remove(addr);
    }

    /// The inspect document of a container as last seen; `None` if there is no record.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn inspect(
        &self,
        addr: &EngineAddr,
        id: &str,
    ) -> Result<Option<RawObject>, StoreError> {
        let key = self.container_key(addr, id);
        let found = self.within(self.inner.store.get(&key)).await?;
        Ok(found
            .and_then(|entry| RawObject::parse(&entry.value).ok())
            .and_then(|record| record.object("Inspect").ok())
            .filter(|inspect| !inspect.is_empty()))
    }

    /// Writes what changes while this manager leads, until `shutdown`; what waits then is written
    /// first, if the store is there.
    pub async fn run(
        self,
        placement: Placement,
        settings: Arc<AllSettings>,
        monitors: Monitors,
        leadership: Leadership,
        shutdown: CancellationToken,
    ) {
        let (mut is_tidy, mut forget_at) = (false, Instant::now());
        // Nobody else wrote meanwhile where nobody else may lead.
        let mut known = leadership.term().filter(|_| !leadership.is_contested());
        let mut roles = leadership.watch();
        loop {
            let is_last = shutdown.is_cancelled();
            roles.mark_unchanged();
            let Some(term) = leadership.term() else {
                if is_last {
                    self.settle_own().await;
                    return;
                }
                self.stand_by();
                let pause = if self.settle_own().await {
                    STAND_BY_INTERVAL
                } else {
                    RETRY
                };
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    _ = roles.changed() => {}
                    () = tokio::time::sleep(pause) => {}
                }
                continue;
            };
            // Somebody else may have led in between, even if this task was told of nothing.
            if known.replace(term) != Some(term) {
                is_tidy = false;
                forget_at = Instant::now();
                self.stand_by();
                self.take_over();
                monitors.recall_again();
            }
            if !is_tidy && !is_last {
                is_tidy = self.start(term, &placement, &settings).await;
            }
            if is_tidy && !is_last && forget_at <= Instant::now() {
                forget_at = Instant::now() + self.forget_old_nodes().await;
            }
            let took = self.write_pending().await;
            let waits = self.settle_rest(&monitors).await;
            if is_last {
                return;
            }
            if self.trouble().is_some() || !is_tidy {
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    _ = roles.changed() => continue,
                    () = tokio::time::sleep(RETRY) => {}
                }
                self.probe().await;
            } else {
                if !took {
                    tokio::select! {
                        () = shutdown.cancelled() => {}
                        _ = roles.changed() => continue,
                        () = self.inner.work.notified() => {}
                        () = tokio::time::sleep_until(forget_at) => {}
                        () = tokio::time::sleep(SETTLE_INTERVAL), if waits => {}
                    }
                }
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = tokio::time::sleep(GATHER) => {}
                }
            }
        }
    }

    /// Drops what the manager that leads has written by now, and what only a leader knows.
    fn stand_by(&self) {
        self.inner.ready.send_replace(None);
        let mut desk = self.desk();
        desk.intents
            .retain(|_, intent| intent.is_for_us_to_settle());
        for pending in desk.pending.values_mut() {
            let documents = &mut pending.documents;
            documents.retain(|_, document| document.noted_at.elapsed() < STAND_BY);
            // Whoever takes over compares.
            pending.gone.clear();
        }
        desk.pending
            .retain(|_, pending| !pending.documents.is_empty());
    }

    /// Has all records compared with what is there: whoever wrote them may not have written all.
    fn take_over(&self) {
        // Whoever was elected has a store.
        self.inner.trouble.send_replace(None);
        let mut desk = self.desk();
        let desk = &mut *desk;
        desk.leads_since = Instant::now();
        desk.saved.clear();
        for addr in desk.latest.keys() {
            desk.pending.entry(addr.clone()).or_default();
        }
    }

    /// What has to be done once, as soon as the store is there.
    async fn start(&self, term: Term, placement: &Placement, settings: &AllSettings) -> bool {
        let work = async {
            self.recall_settings(placement, settings).await?;
            self.recall_intents(placement).await?;
            self.inner.ready.send_replace(Some(term));
            Ok(())
        };
        work.await.map_err(|error| self.failed(error)).is_ok()
    }

    /// Reads what operators said of nodes.
    async fn recall_settings(
        &self,
        placement: &Placement,
        settings: &AllSettings,
    ) -> Result<(), StoreError> {
        let prefix = format!("{}/settings", self.inner.options.prefix);
        let listing = self.within(self.inner.store.list(&prefix)).await?;
        for entry in listing.entries {
            let addr = entry.key.rsplit('/').next().unwrap_or_default().parse();
            let (Ok(addr), Ok(said)) = (addr, serde_json::from_slice::<Settings>(&entry.value))
            else {
                warn!(key = entry.key, "record cannot be read, left alone");
                continue;
            };
            settings.set(EngineAddr::clone(&addr), said.clone());
            placement.set(addr, said).await;
        }
        Ok(())
    }

    /// Keeps what an operator says of a node.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn put_settings(
        &self,
        addr: &EngineAddr,
        settings: &Settings,
    ) -> Result<(), StoreError> {
        let key = format!("{}/settings/{addr}", self.inner.options.prefix);
        let value = serde_json::to_vec(settings).unwrap_or_default();
        self.within(self.inner.store.put(&key, value.into()))
            .await?;
        Ok(())
    }

    /// Sees whether the store is back: whether it takes changes, that is.
    async fn probe(&self) {
        let key = format!("{}/probe", self.inner.options.prefix);
        let value = Bytes::from_static(b"{}");
        match self.within(self.inner.store.put(&key, value)).await {
            Ok(_) => {
                if self.inner.trouble.send_replace(None).is_some() {
                    info!(store = self.inner.store.name(), "store is back");
                }
            }
            Err(error) => debug!(%error, "store is still away"),
        }
    }

    /// Notes a failure. One that concerns a single record does not make the store unusable.
    fn failed(&self, error: StoreError) {
        match error {
            StoreError::Unavailable { .. } | StoreError::Denied { .. } => {
                let before = self.inner.trouble.send_replace(Some(error.clone()));
                if before.is_none() {
                    warn!(%error, "store cannot be used");
                }
                self.inner.work.notify_one();
            }
            error => warn!(%error, "record cannot be written"),
        }
    }

    async fn within<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        tokio::time::timeout(DEADLINE, call)
            .await
            .unwrap_or_else(|_| {
                Err(StoreError::Unavailable {
                    store: self.inner.store.name().to_owned(),
                    reason: format!("no answer within {DEADLINE:?}"),
                })
            })
    }

    fn node_key(&self, addr: &EngineAddr) -> String {
        format!("{}/nodes/{addr}", self.inner.options.prefix)
    }

    fn container_key(&self, addr: &EngineAddr, id: &str) -> String {
        format!("{}/containers/{addr}/{id}", self.inner.options.prefix)
    }

    fn desk(&self) -> std::sync::MutexGuard<'_, Desk> {
        self.inner
            .desk
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
