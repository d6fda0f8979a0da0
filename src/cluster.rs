//! Many engines as one: membership, the snapshot, placement, and what changes the fleet.
//!
//! ```text
//! membership  discovery's answers -> engines added and removed
//! state       the one writer of the snapshot; hands changes to placement, events to the feed
//! snapshot    the whole cluster at one moment, with look-ups
//! placement   choosing a node and reserving its room, ports, and name, in one step
//! index       what runs where, for the questions filters ask
//! create      the life of one create request
//! election    which of several managers leads
//! memory      records of nodes and containers in the store
//! nodes       what operators say of nodes
//! rebalance   containers go where the strategy would put them now
//! reschedule  what ran on nodes that failed is made again on others
//! build       where a build runs
//! feed        the cluster's events
//! ```
//!
//! [`Cluster`] is the handle that the API works with. Policies come in through the traits of
//! `scheduler` and `discovery`; nothing here knows that they are WASM.

use std::{
    collections::{HashMap, VecDeque},
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::debug;

use crate::{
    config::volumes::Copies,
    discovery::Backend,
    engine::{
        inventory::container::CpuShares,
        monitor::{Monitors, Recall, Refresh},
        pool::Pool,
        transport::{Fence, Limits},
    },
    model::address::EngineAddr,
    registry::Registries,
    scheduler::Scheduler,
    store::agents::{Answer, FencedContainer, Lease},
    tls,
};

pub mod build;
pub mod create;
pub mod election;
pub mod feed;
pub mod index;
pub mod membership;
pub mod memory;
pub mod nodes;
pub mod placement;
pub mod rebalance;
pub mod reschedule;
pub mod snapshot;
pub mod state;
pub mod volumes;

use self::{
    election::Leadership,
    feed::{Feed, Subscription},
    membership::Source,
    memory::Memory,
    nodes::AllSettings,
    placement::Placement,
    reschedule::Board,
    snapshot::{Found, Snapshot},
    volumes::Looks,
};

/// What the cluster needs to know from the configuration.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bounds on connections to each engine.
    pub limits: Limits,
    /// The connections of all engines together.
    pub pool: Pool,
    /// Which engines are spoken to over TLS.
    pub tls: tls::Engines,
    /// Deadline of the manager's own calls to an engine.
    pub request_timeout: Duration,
    /// Shortest wait between two re-lists of a healthy engine.
    pub refresh_min: Duration,
    /// Longest wait between two re-lists of a healthy engine.
    pub refresh_max: Duration,
    /// Failures in a row that make an engine unhealthy.
    pub failure_limit: NonZeroU32,
    /// Fraction of a node's room that is given away beyond what there is.
    pub overcommit: f64,
    /// How often a failed create is tried again.
    pub create_retries: u32,
    /// How long an engine that answers may take to come up with a container that was asked for,
    /// when its answer was lost.
    pub settle_after: Duration,
    /// What `--cpu-shares` means.
    pub cpu_shares: CpuShares,
    /// How far behind a follower of events may be.
    pub event_queue: usize,
    /// How long one step of discovery may wait for news.
    pub heartbeat: Duration,
    /// How long a node that discovery no longer lists stays.
    pub removal_delay: Duration,
    /// Credentials for registries, where clients send none.
    pub registries: Arc<Registries>,
    /// Whether this manager leads.
    pub leadership: Leadership,
    /// What is done about nodes that fail.
    pub reschedule: reschedule::Options,
    /// How often containers are moved to better nodes, and how many at most; `None`: only when
    /// somebody asks for it.
    pub rebalance: Option<(Duration, usize)>,
    /// Where volumes are made that one node alone has.
    pub volume_copies: Copies,
    /// The strategy's name.
    pub strategy: String,
    /// The filters' names, in order.
    pub filters: Vec<String>,
}

/// The running cluster. Cheap to clone; all clones are the same cluster.
#[derive(Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
}

struct Inner {
    options: Options,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    feed: Arc<Feed>,
    placement: Placement,
    monitors: Monitors,
    sources: mpsc::Sender<Source>,
    memory: Option<Memory>,
    board: Arc<Board>,
    settings: Arc<AllSettings>,
    execs: Mutex<Execs>,
    looks: Looks,
    tasks: TaskTracker,
}

/// Which engine an exec instance is on. Bounded; the oldest are forgotten first.
#[derive(Default)]
struct Execs {
    owners: HashMap<String, EngineAddr>,
    order: VecDeque<String>,
}

/// Lets changes through to engines while this manager leads.
fn fence(leadership: &Leadership) -> Fence {
    if !leadership.is_contested() {
        return Fence::default();
    }
    let leadership = leadership.clone();
    Fence::new(move || leadership.may_change())
}

/// Wait before a manager tries again to leave word where it is.
const ANNOUNCE_PAUSE: Duration = Duration::from_secs(1);

/// How many exec instances are remembered.
const MAX_EXECS: usize = 16_384;

impl Cluster {
    /// Starts the cluster's tasks; they end when `shutdown` is cancelled.
    ///
    /// # Errors
    ///
    /// The placement thread cannot be started.
    pub fn start(
        options: Options,
        scheduler: Scheduler,
        backend: Box<dyn Backend>,
        memory: Option<Memory>,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> std::io::Result<Self> {
        let feed = Arc::new(Feed::new(options.event_queue));
        let placement = Placement::start(scheduler, options.overcommit, shutdown.clone())?;
        let board = Arc::<Board>::default();
        let settings = Arc::<AllSettings>::default();
        let (state, updates) = state::State::new(
            placement.clone(),
            Arc::clone(&feed),
            memory.clone(),
            Arc::clone(&board),
        );
        let snapshot = state.snapshot();
        let monitors = Monitors::new(
            crate::engine::monitor::Options {
                limits: options.limits.clone(),
                pool: options.pool.clone(),
                tls: options.tls.clone(),
                request_timeout: options.request_timeout,
                refresh_min: options.refresh_min,
                refresh_max: options.refresh_max,
                failure_limit: options.failure_limit,
                cpu_shares: options.cpu_shares,
                keeps_documents: memory.is_some(),
                fence: fence(&options.leadership),
            },
            updates,
            memory
                .clone()
                .map(|memory| Arc::new(memory) as Arc<dyn Recall>),
            tasks.clone(),
            shutdown.clone(),
        );
        tasks.spawn(state.run(shutdown.clone()));
        if let Some(memory) = &memory {
            tasks.spawn(memory.clone().run(
                placement.clone(),
                Arc::clone(&settings),
                monitors.clone(),
                options.leadership.clone(),
                shutdown.clone(),
            ));
        }
        let source = Source {
            backend,
            heartbeat: options.heartbeat,
            removal_delay: options.removal_delay,
        };
        let (sources, later) = mpsc::channel(1);
        tasks.spawn(membership::follow(
            source,
            later,
            monitors.clone(),
            shutdown.clone(),
        ));
        let rules = options.reschedule.clone();
        let cluster = Self {
            inner: Arc::new(Inner {
                options,
                snapshot,
                feed,
                placement,
                monitors,
                sources,
                memory,
                board,
                settings,
                execs: Mutex::default(),
                looks: Looks::default(),
                tasks: tasks.clone(),
            }),
        };
        if let (Some(memory), Some(advertise)) = (
            cluster.memory().cloned(),
            cluster.leadership().advertise().map(str::to_owned),
        ) {
            let ttl = cluster.leadership().ttl();
            tasks.spawn(shutdown.clone().run_until_cancelled_owned(async move {
                loop {
                    if let Err(error) = memory.announce_manager(&advertise, ttl).await {
                        debug!(%error, "cannot leave word where this manager is yet");
                    }
                    tokio::time::sleep(ANNOUNCE_PAUSE).await;
                }
            }));
        }
        if let Some((period, max_moves)) = cluster.options().rebalance {
            let run = rebalance::run(cluster.clone(), period, max_moves, shutdown.clone());
            tasks.spawn(run);
        }
        tasks.spawn(reschedule::run(cluster.clone(), rules, shutdown.clone()));
        Ok(cluster)
    }

    /// The cluster at this moment.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.inner.snapshot.borrow())
    }

    /// A receiver that tells of every new snapshot.
    pub fn watch(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.inner.snapshot.clone()
    }

    /// What the cluster was started with.
    pub fn options(&self) -> &Options {
        &self.inner.options
    }

    /// Follows another discovery backend from now on. Nodes that both list stay as they are;
    /// containers and streams are not touched.
    pub async fn follow(&self, source: Source) {
        // At shutdown nobody follows any more.
        let _ = self.inner.sources.send(source).await;
    }

    /// Whether this manager leads.
    pub fn leadership(&self) -> &Leadership {
        &self.inner.options.leadership
    }

    /// What outlives this process; `None` if nothing does.
    pub fn memory(&self) -> Option<&Memory> {
        self.inner.memory.as_ref()
    }

    /// What is wrong with scheduling plugins, and why nothing is rescheduled, one line each.
    pub fn troubles(&self) -> Vec<String> {
        let mut troubles = self.inner.placement.troubles();
        troubles.extend(self.inner.board.halted());
        troubles
    }

    /// Why a container of a node that failed waits for it, although it has a policy to be made again
    /// elsewhere.
    pub fn why_waiting(&self, addr: &EngineAddr, id: &Arc<str>) -> Option<Arc<str>> {
        let place = (addr.clone(), Arc::clone(id));
        self.inner.board.why_waiting(&place)
    }

    /// Renews the lease of a node's agent. Any manager may be asked; one without a memory renews
    /// nothing.
    pub async fn renew_lease(&self, addr: &EngineAddr, lease: &Lease) -> Option<Answer> {
        let counts = self.inner.options.reschedule.fencing;
        let memory = self.inner.memory.as_ref()?;
        let answer = memory.renew_lease(addr, lease, counts).await;
        // The agent may take this for a renewal whatever the store has.
        self.inner.board.heard(addr.clone(), lease.ttl);
        Some(answer)
    }

    /// A node's agent has a lease again, and stopped these containers while it had none: what was
    /// not made again elsewhere shall run again.
    pub fn note_fenced(&self, addr: &EngineAddr, containers: Vec<FencedContainer>) {
        self.inner.board.fenced(addr.clone(), containers);
    }

    /// A client stops or starts a container: what was stopped shall not be started elsewhere if
    /// its node fails.
    pub fn note_wish(&self, addr: &EngineAddr, id: &Arc<str>, runs: bool) {
        let place = (addr.clone(), Arc::clone(id));
        if runs {
            self.inner.board.started(&place);
        } else {
            self.inner.board.stopped(place);
        }
    }

    /// Starts following the cluster's events.
    pub fn subscribe(&self) -> Subscription {
        self.inner.feed.subscribe()
    }

    /// How many clients follow events.
    pub fn subscribers(&self) -> usize {
        self.inner.feed.subscribers()
    }

    /// Brings a part of what is known of an engine up to date, and returns when the snapshot
    /// shows it. An engine that does not answer is only noted; the wait is bounded by the
    /// deadline of the manager's own calls.
    pub async fn refresh(&self, addr: &EngineAddr, what: Refresh) {
        self.inner.monitors.refresh(addr, what).await;
    }

    /// Tells that a proxied call could not reach an engine, so that its health shows it.
    pub fn report_failure(&self, addr: &EngineAddr, error: &dyn std::fmt::Display) {
        self.inner.monitors.report_failure(addr, error.to_string());
    }

    /// The nodes that the filters leave for `request`, best first, for what takes no room there.
    ///
    /// # Errors
    ///
    /// [`placement::PlaceError`]; there is at least one node otherwise.
    pub async fn rank(
        &self,
        request: crate::scheduler::request::Request,
    ) -> Result<Vec<Arc<snapshot::Node>>, placement::PlaceError> {
        let ranked = self.inner.placement.rank(request.clone()).await;
        let addrs = match ranked {
            Err(placement::PlaceError::Schedule(_)) if self.look_again(&request).await => {
                self.inner.placement.rank(request).await?
            }
            ranked => ranked?,
        };
        let snapshot = self.snapshot();
        let nodes: Vec<_> = addrs
            .iter()
            .filter_map(|addr| snapshot.node(addr).cloned())
            .collect();
        if nodes.is_empty() {
            return Err(crate::scheduler::ScheduleError::NoNodes.into());
        }
        Ok(nodes)
    }

    /// Gives a container another name that nobody in the cluster has.
    ///
    /// # Errors
    ///
    /// [`create::CreateError::NameTaken`], or the engine's refusal.
    pub async fn rename(&self, found: &Found, name: &str) -> Result<(), create::CreateError> {
        create::rename(self, found, name).await
    }

    /// Remembers where an exec instance is.
    pub fn remember_exec(&self, id: &str, addr: &EngineAddr) {
        let mut execs = self.execs();
        if execs.owners.insert(id.to_owned(), addr.clone()).is_none() {
            execs.order.push_back(id.to_owned());
        }
        while execs.order.len() > MAX_EXECS {
            if let Some(oldest) = execs.order.pop_front() {
                execs.owners.remove(&oldest);
            }
        }
    }

    /// The engine an exec instance is on: as remembered, else as some container's inspect
    /// document says, else as a healthy engine answers when asked.
    pub async fn find_exec(&self, id: &str) -> Option<Arc<snapshot::Node>> {
        let snapshot = self.snapshot();
        let remembered = self.execs().owners.get(id).cloned();
        if let Some(node) = remembered.and_then(|addr| snapshot.node(&addr).cloned()) {
            return Some(node);
        }
        let seen = snapshot.nodes().find(|node| {
            node.inventory
                .containers
                .values()
                .any(|container| container.exec_ids.iter().any(|exec| exec == id))
        });
        if let Some(node) = seen {
            return Some(Arc::clone(node));
        }
        self.ask_for_exec(&snapshot, id).await
    }

    async fn ask_for_exec(&self, snapshot: &Snapshot, id: &str) -> Option<Arc<snapshot::Node>> {
        use futures_util::StreamExt;

        let path = format!("/exec/{}/json", crate::engine::client::encode(id));
        let healthy: Vec<_> = snapshot
            .nodes()
            .filter(|node| node.inventory.is_healthy())
            .cloned()
            .collect();
        let mut answers = futures_util::stream::iter(healthy.into_iter().map(|node| {
            let path = path.clone();
            async move {
                let answer = node.client.call(http::Method::GET, &path).await;
                answer.is_ok().then_some(node)
            }
        }))
        .buffer_unordered(16);
        while let Some(answer) = answers.next().await {
            if let Some(node) = answer {
                self.remember_exec(id, &node.inventory.addr);
                return Some(node);
            }
        }
        None
    }

    fn execs(&self) -> std::sync::MutexGuard<'_, Execs> {
        self.inner
            .execs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
