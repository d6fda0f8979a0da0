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
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{StreamExt, stream};
use imbl::ordmap::DiffItem;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

mod forget;
pub mod intents;

use self::intents::Intent;
use crate::{
    cluster::{
        election::{Leadership, Term},
        nodes::{AllSettings, Settings},
        placement::Placement,
    },
    engine::{
        health::Status,
        inventory::{Container, Inventory, Specs, container::CpuShares},
        monitor::{Monitors, Recall},
        raw::RawObject,
    },
    model::address::EngineAddr,
    store::{
        Entry, Store, StoreError,
        agents::{self, Answer, Lease, Word},
    },
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

/// How many nodes are brought up to date at once.
const CONCURRENT_NODES: usize = 8;

/// How many records of one node are written at once.
const CONCURRENT_WRITES: usize = 32;

/// How many containers of one node that are gone are noted while the store is away; beyond that its
/// records are compared with what there is.
const MAX_GONE: usize = 1024;

/// How long a manager that does not lead keeps what it saw: longer than it takes to take over.
const STAND_BY: Duration = Duration::from_secs(120);

/// How often it looks for what it need not keep any more.
const STAND_BY_INTERVAL: Duration = Duration::from_secs(10);

/// How often it is noted that a node is there.
const SEEN_INTERVAL: TimeDelta = TimeDelta::hours(1);

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

/// A record that has to be written.
struct Writing<'a> {
    container: &'a Container,
    document: Document,
    digest: u64,
}

/// The record of a node.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NodeRecord {
    specs: Specs,
    #[serde(default)]
    ip: Option<IpAddr>,
    seen_at: DateTime<Utc>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    down_since: Option<DateTime<Utc>>,
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

    /// A container was made again elsewhere: it has to be removed when its engine is back, and its
    /// record is not needed any more.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn supersede(
        &self,
        addr: &EngineAddr,
        id: &Arc<str>,
        name: &str,
    ) -> Result<(), StoreError> {
        let key = self.superseded_key(addr, id);
        let mut record = RawObject::default();
        record.set("Name", name);
        let value = Bytes::from(record.to_bytes());
        self.within(self.inner.store.put(&key, value)).await?;
        self.delete(addr, id).await
    }

    /// Such a container was removed.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn removed_superseded(&self, addr: &EngineAddr, id: &str) -> Result<(), StoreError> {
        let key = self.superseded_key(addr, id);
        self.within(self.inner.store.delete(&key, None)).await?;
        Ok(())
    }

    /// The containers that were made again elsewhere and are not known to be removed, with names.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn superseded(&self) -> Result<Vec<(EngineAddr, Arc<str>, String)>, StoreError> {
        let prefix = format!("{}/superseded", self.inner.options.prefix);
        let listing = self.within(self.inner.store.list(&prefix)).await?;
        let places = listing.entries.iter().filter_map(|entry| {
            let (before, id) = entry.key.rsplit_once('/')?;
            let (_, addr) = before.rsplit_once('/')?;
            let record = RawObject::parse(&entry.value).ok()?;
            let name = record.parsed("Name").ok().flatten().unwrap_or_default();
            Some((addr.parse().ok()?, Arc::from(id), name))
        });
        Ok(places.collect())
    }

    /// Nodes that are on record and not among `known`, as they were seen last, if that is less
    /// than `within` ago.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn others(
        &self,
        known: impl Fn(&EngineAddr) -> bool,
        within: TimeDelta,
    ) -> Result<Vec<Inventory>, StoreError> {
        let prefix = format!("{}/nodes", self.inner.options.prefix);
        let listing = self.within(self.inner.store.list(&prefix)).await?;
        let mut others = Vec::new();
        for entry in listing.entries {
            let below = entry.key.strip_prefix(&prefix);
            let addr = below.and_then(|below| below.strip_prefix('/')?.parse().ok());
            let Some(addr) = addr else {
                continue;
            };
            let is_recent = |record: NodeRecord| Utc::now() - record.seen_at < within;
            if known(&addr) || !parse_node(&entry).is_some_and(is_recent) {
                continue;
            }
            others.extend(self.read(&addr).await?);
            // It is not among those whose records are kept up to date.
            self.desk().saved.remove(&addr);
        }
        Ok(others)
    }

    /// Leaves word for agents: whether leases count.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn announce(&self, counts: bool) -> Result<(), StoreError> {
        let word = Answer {
            word: Word::Renewed,
            counts,
            managers: Vec::new(),
        };
        let key = agents::cluster_key(&self.inner.options.prefix);
        let value = Bytes::from(word.to_json());
        self.within(self.inner.store.put(&key, value)).await?;
        Ok(())
    }

    /// Leaves word where this manager can be asked, for as long as it is there; returns when the
    /// word is lost. It is gone `ttl` after this manager is.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future takes the word back, at the latest after `ttl`.
    pub async fn announce_manager(&self, advertise: &str, ttl: Duration) -> Result<(), StoreError> {
        let key = agents::managers_key(&self.inner.options.prefix);
        let key = format!("{key}/{advertise}");
        let value = Bytes::from_static(b"{}");
        let session = self.within(self.inner.store.session(ttl)).await?;
        self.within(session.put(&key, value)).await?;
        session.lost().cancelled().await;
        Ok(())
    }

    /// Renews the lease of a node's agent, or says to hold if the store cannot be used.
    pub async fn renew_lease(&self, addr: &EngineAddr, lease: &Lease, counts: bool) -> Answer {
        let prefix = &self.inner.options.prefix;
        let key = agents::lease_key(prefix, &addr.to_string());
        let value = Bytes::from(lease.to_json());
        let patience = lease.ttl / 8;
        let written = tokio::time::timeout(patience, self.inner.store.put(&key, value)).await;
        let mut managers = Vec::new();
        let word = match written {
            Ok(Ok(_)) => {
                let below = agents::managers_key(prefix);
                if let Ok(listing) = self.within(self.inner.store.list(&below)).await {
                    let keys = listing.entries.iter();
                    let below = format!("{below}/");
                    let names = keys.filter_map(|entry| entry.key.strip_prefix(&below));
                    managers.extend(names.map(str::to_owned));
                }
                Word::Renewed
            }
            _ => Word::Hold,
        };
        Answer {
            word,
            counts,
            managers,
        }
    }

    /// The lease of a node's agent; `None` if there is no agent.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn lease(&self, addr: &EngineAddr) -> Result<Option<Lease>, StoreError> {
        let key = agents::lease_key(&self.inner.options.prefix, &addr.to_string());
        let found = self.within(self.inner.store.get(&key)).await?;
        Ok(found.and_then(|entry| {
            Lease::parse(&entry.value)
                .inspect_err(|error| warn!(key, %error, "lease cannot be read, it does not count"))
                .ok()
        }))
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

    /// Whether there was anything to do, and more may be.
    async fn write_pending(&self) -> bool {
        let work: Vec<_> = {
            let mut desk = self.desk();
            let desk = &mut *desk;
            let latest = &desk.latest;
            desk.pending
                .extract_if(|addr, _| latest.contains_key(addr))
                .map(|(addr, pending)| (Arc::clone(&latest[&addr]), pending))
                .collect()
        };
        let took = !work.is_empty();
        stream::iter(work)
            .for_each_concurrent(CONCURRENT_NODES, |(inventory, pending)| async move {
                self.write_node(&inventory, pending).await;
            })
            .await;
        took && self.trouble().is_none()
    }

    async fn write_node(&self, inventory: &Inventory, mut pending: Pending) {
        let addr = &inventory.addr;
        if self.trouble().is_some() {
            self.put_back(addr, pending);
            return;
        }
        if let Err(error) = self.load(addr).await {
            self.failed(error);
            self.put_back(addr, pending);
            return;
        }
        self.write_specs(inventory).await;
        let gone = self.gone(inventory, &mut pending);
        stream::iter(&gone)
            .for_each_concurrent(CONCURRENT_WRITES, |id| async move {
                if let Err(error) = self.delete(addr, id).await {
                    self.failed(error);
                }
            })
            .await;
        let writes = self.writings(inventory, &mut pending);
        let is_news = !gone.is_empty() || !writes.is_empty();
        stream::iter(writes)
            .for_each_concurrent(CONCURRENT_WRITES, |writing| async move {
                let Err(error) = self.write(addr, &writing).await else {
                    return;
                };
                let is_lasting = matches!(error, StoreError::TooLarge { .. });
                self.failed(error);
                if !is_lasting {
                    let id = Arc::clone(&writing.container.id);
                    let documents = HashMap::from([(id, writing.document)]);
                    let pending = Pending {
                        documents,
                        ..Pending::default()
                    };
                    self.put_back(addr, pending);
                }
            })
            .await;
        if is_news && self.trouble().is_none() {
            self.write_seen(inventory).await;
        }
        // Deletions and specs that failed are found again by comparing.
        if self.trouble().is_some() {
            if let Some(saved) = self.desk().saved.get_mut(addr) {
                saved.is_compared = false;
            }
            self.put_back(addr, pending);
        }
    }

    /// Takes the containers whose records have to go. Records of an earlier process are compared
    /// once, with a list that is younger than all of them: what an older one lacks may have been
    /// made since. From then on inventories tell what went.
    fn gone(&self, inventory: &Inventory, pending: &mut Pending) -> Vec<Arc<str>> {
        let told = std::mem::take(&mut pending.gone);
        let is_gone = |id: &Arc<str>| !inventory.containers.contains_key(id);
        let mut desk = self.desk();
        let leads_since = desk.leads_since;
        let Some(saved) = desk.saved.get_mut(&inventory.addr) else {
            return Vec::new();
        };
        let known = &saved.containers;
        let is_young = inventory.listed_at.is_some_and(|at| at >= leads_since);
        if is_young && !saved.is_compared {
            saved.is_compared = true;
            known.keys().filter(|id| is_gone(id)).cloned().collect()
        } else {
            let told = told.into_iter();
            told.filter(|id| known.contains_key(id) && is_gone(id))
                .collect()
        }
    }

    /// Takes the documents that say something new.
    fn writings<'a>(&self, inventory: &'a Inventory, pending: &mut Pending) -> Vec<Writing<'a>> {
        let mut writings = Vec::new();
        for (id, mut document) in pending.documents.drain() {
            let Some(container) = inventory.containers.get(&id) else {
                continue;
            };
            let swarm_id = container.swarm_id.as_ref();
            if let Some(create) = self.intended(swarm_id, &inventory.addr) {
                document.create = Some(create);
            }
            if self.is_outdated(&document, &inventory.addr) {
                continue;
            }
            let digest = digest(container, &document.inspect);
            let is_known = || {
                let desk = self.desk();
                let saved = desk.saved.get(&inventory.addr);
                saved.and_then(|saved| saved.containers.get(&id)) == Some(&digest)
            };
            if document.create.is_some() || !is_known() {
                writings.push(Writing {
                    container,
                    document,
                    digest,
                });
            }
        }
        writings
    }

    /// Whether whoever led before saw a node that is down now after the document was made.
    fn is_outdated(&self, document: &Document, addr: &EngineAddr) -> bool {
        let desk = self.desk();
        let saved = desk
            .saved
            .get(addr)
            .filter(|_| desk.down.contains_key(addr));
        let Some(seen_at) = saved.and_then(|saved| saved.inherited) else {
            return false;
        };
        let age = TimeDelta::from_std(document.noted_at.elapsed()).unwrap_or(TimeDelta::MAX);
        Utc::now() - seen_at < age
    }

    /// Writes what a node is, if that is news.
    async fn write_specs(&self, inventory: &Inventory) {
        let Some(record) = self.node_record(inventory) else {
            return;
        };
        let digest = record.digest();
        let is_due = self.desk().saved.get(&inventory.addr).is_none_or(|saved| {
            let is_same = |(known, at)| known == digest && record.seen_at - at < SEEN_INTERVAL;
            !saved.node.is_some_and(is_same)
        });
        if is_due {
            self.put_node(&inventory.addr, &record).await;
        }
    }

    /// Writes how young the records of a node's containers are, now that some have changed: whoever
    /// takes over goes by them if it has not heard the node since.
    async fn write_seen(&self, inventory: &Inventory) {
        if let Some(record) = self.node_record(inventory) {
            self.put_node(&inventory.addr, &record).await;
        }
    }

    /// The record of a node, unless what stands in its place is foreign.
    fn node_record(&self, inventory: &Inventory) -> Option<NodeRecord> {
        let specs = inventory.specs.as_ref()?;
        let desk = self.desk();
        let saved = desk.saved.get(&inventory.addr);
        if saved.is_some_and(|saved| saved.is_foreign) {
            return None;
        }
        let seen_at = DateTime::<Utc>::from(inventory.updated_at);
        let known = saved.and_then(|saved| saved.node);
        Some(NodeRecord {
            specs: (**specs).clone(),
            ip: inventory.ip,
            seen_at: known.map_or(seen_at, |(_, at)| at.max(seen_at)),
            down_since: desk.down.get(&inventory.addr).copied(),
        })
    }

    async fn put_node(&self, addr: &EngineAddr, record: &NodeRecord) {
        let Ok(value) = serde_json::to_vec(record) else {
            return;
        };
        let key = self.node_key(addr);
        match self.within(self.inner.store.put(&key, value.into())).await {
            Ok(_) => {
                if let Some(saved) = self.desk().saved.get_mut(addr) {
                    saved.node = Some((record.digest(), record.seen_at));
                }
            }
            Err(error) => self.failed(error),
        }
    }

    /// Writes a container's record, with the create request it had if there is no other.
    async fn write(&self, addr: &EngineAddr, writing: &Writing<'_>) -> Result<(), StoreError> {
        let Writing {
            container,
            document,
            digest,
        } = writing;
        let key = self.container_key(addr, &container.id);
        let create = match &document.create {
            Some(create) => Some(create.clone()),
            None => self
                .within(self.inner.store.get(&key))
                .await?
                .and_then(|entry| RawObject::parse(&entry.value).ok())
                .and_then(|record| record.object("Create").ok())
                .filter(|create| !create.is_empty()),
        };
        let mut record = RawObject::default();
        if let Ok(entry) = serde_json::from_slice::<&RawValue>(&container.entry) {
            record.set("Entry", entry);
        }
        if let Ok(inspect) = serde_json::from_slice::<&RawValue>(&document.inspect) {
            record.set("Inspect", inspect);
        }
        if let Some(create) = create {
            record.set("Create", &create);
        }
        let value = Bytes::from(record.to_bytes());
        self.within(self.inner.store.put(&key, value)).await?;
        if let Some(saved) = self.desk().saved.get_mut(addr) {
            saved.containers.insert(Arc::clone(&container.id), *digest);
        }
        self.recorded(container.swarm_id.as_ref(), addr);
        Ok(())
    }

    async fn delete(&self, addr: &EngineAddr, id: &Arc<str>) -> Result<(), StoreError> {
        let key = self.container_key(addr, id);
        self.within(self.inner.store.delete(&key, None)).await?;
        if let Some(saved) = self.desk().saved.get_mut(addr) {
            saved.containers.remove(id);
        }
        Ok(())
    }

    /// Reads once what the store has of a node.
    async fn load(&self, addr: &EngineAddr) -> Result<(), StoreError> {
        let is_loaded = self.desk().saved.contains_key(addr);
        if is_loaded {
            return Ok(());
        }
        self.read(addr).await.map(drop)
    }

    /// Reads all records of a node.
    async fn read(&self, addr: &EngineAddr) -> Result<Option<Inventory>, StoreError> {
        let leads_since = self.desk().leads_since;
        let prefix = format!("{}/containers/{addr}", self.inner.options.prefix);
        let listing = self.within(self.inner.store.list(&prefix)).await?;
        let key = self.node_key(addr);
        let node = self.within(self.inner.store.get(&key)).await?;
        let mut saved = Saved::default();
        let record = node.as_ref().and_then(parse_node);
        saved.is_foreign = node.is_some() && record.is_none();
        if let Some(record) = &record {
            saved.node = Some((record.digest(), record.seen_at));
            saved.inherited = Some(record.seen_at);
        }
        let cpus = record.as_ref().map_or(0, |record| record.specs.cpus);
        let mut containers = imbl::OrdMap::new();
        for entry in &listing.entries {
            match self.parse_container(entry, cpus) {
                Ok((container, digest)) => {
                    saved.containers.insert(Arc::clone(&container.id), digest);
                    containers.insert(Arc::clone(&container.id), Arc::new(container));
                }
                Err(reason) => {
                    warn!(key = entry.key, reason, "record cannot be read, left alone");
                }
            }
        }
        let inventory = record.map(|record| Inventory {
            specs: Some(Arc::new(record.specs)),
            ip: record.ip,
            updated_at: record.seen_at.into(),
            down_since: record.down_since.map(Into::into),
            containers,
            is_recalled: true,
            ..Inventory::pending(addr.clone())
        });
        let mut desk = self.desk();
        // What was read before this manager took over is too old to compare with.
        if desk.leads_since == leads_since {
            desk.saved.entry(addr.clone()).or_insert(saved);
        }
        Ok(inventory)
    }

    fn parse_container(&self, entry: &Entry, cpus: u32) -> Result<(Container, u64), String> {
        let record = RawObject::parse(&entry.value).map_err(|error| error.to_string())?;
        let list_entry = record.object("Entry").map_err(|error| error.to_string())?;
        let inspect = record
            .get("Inspect")
            .ok_or("it has no member `Inspect`")?
            .get()
            .as_bytes();
        let shares = self.inner.options.cpu_shares;
        let container = Container::parse(&list_entry, inspect, cpus, shares)
            .map_err(|error| error.to_string())?;
        if !entry.key.ends_with(&*container.id) || container.id.is_empty() {
            return Err(format!("it is of container `{}`", container.id));
        }
        let digest = digest(&container, inspect);
        Ok((container, digest))
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

    /// Has another go at what could not be written, unless there is something newer.
    fn put_back(&self, addr: &EngineAddr, older: Pending) {
        let mut desk = self.desk();
        let pending = desk.pending.entry(addr.clone()).or_default();
        pending.gone.extend(older.gone);
        for (id, document) in older.documents {
            let newer = pending
                .documents
                .entry(id)
                .or_insert_with(|| document.clone());
            newer.create = newer.create.take().or(document.create);
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

    fn superseded_key(&self, addr: &EngineAddr, id: &str) -> String {
        format!("{}/superseded/{addr}/{id}", self.inner.options.prefix)
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

#[async_trait]
impl Recall for Memory {
    async fn recall(&self, addr: &EngineAddr) -> Result<Option<Inventory>, String> {
        match self.read(addr).await {
            Ok(inventory) => Ok(inventory),
            Err(error) => {
                let reason = error.to_string();
                self.failed(error);
                Err(reason)
            }
        }
    }
}

impl NodeRecord {
    /// Equal for records that differ in time alone.
    fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        serde_json::to_vec(&self.specs)
            .unwrap_or_default()
            .hash(&mut hasher);
        self.ip.hash(&mut hasher);
        self.down_since.hash(&mut hasher);
        hasher.finish()
    }
}

fn parse_node(entry: &Entry) -> Option<NodeRecord> {
    serde_json::from_slice(&entry.value)
        .inspect_err(|error| warn!(key = entry.key, %error, "record cannot be read, left alone"))
        .ok()
}

/// Equal for containers whose records need not be written again.
fn digest(container: &Container, inspect: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    container.names.hash(&mut hasher);
    // Space around a document is not kept in records.
    inspect.trim_ascii().hash(&mut hasher);
    hasher.finish()
}
