//! The task that keeps one engine's inventory true.
//!
//! It validates the engine, follows its events, and from time to time lists everything again to
//! repair what an event missed. It is the only writer of the inventory; everyone else asks it, by
//! [`Monitors::refresh`], and reads what it publishes.
//!
//! ```text
//! validate --ok--> follow (events, commands, re-list) --contact lost--+
//!    ^                                                                |
//!    '------ wait: back-off, at most 30 s; a command ends it ---------'
//! ```

use std::{
    collections::{HashMap, VecDeque},
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use rand::RngExt;
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, debug, info, info_span, warn};

use crate::{
    engine::{
        client::{Client, ClientError},
        event::{Event, NodeEvent},
        health::{Health, MAX_BACK_OFF, Status, Transition, back_off},
        inventory::{Inventory, container::CpuShares},
        lines::Lines,
        pool::Pool,
        transport::{Fence, Limits, Transport},
    },
    model::address::EngineAddr,
    tls,
};

mod listing;
mod recall;
mod specs;

pub use self::recall::Recall;
use self::recall::{Recalls, Slot};

/// How often an engine is asked again what it is.
const SPECS_INTERVAL: Duration = Duration::from_secs(300);

/// How many engines may be validated at once; more would only queue in the kernel.
const CONCURRENT_VALIDATIONS: usize = 128;

/// How many events are handled with one look at the engine.
const EVENT_BATCH: usize = 512;

/// Connections for the monitor alone, so that no number of clients can starve it: the event
/// stream, the inspections of a listing, and a few to spare.
const OWN_CONNECTIONS: usize = 12;

/// How long one of them is kept: re-lists are far apart, and in between there are only events.
const OWN_IDLE: Duration = Duration::from_secs(2);

/// How much a monitor reads at a time. A connection keeps so much memory for as long as it lasts.
const OWN_READ_BYTES: usize = 16 * 1024;

/// An event stream that lasted this long was good; shorter ones are reopened ever more slowly.
const GOOD_STREAM: Duration = Duration::from_secs(10);

/// What every monitor needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bounds on connections to each engine.
    pub limits: Limits,
    /// The connections of all engines together.
    pub pool: Pool,
    /// Which engines are spoken to over TLS.
    pub tls: tls::Engines,
    /// Deadline of each own call.
    pub request_timeout: Duration,
    /// Shortest wait between two re-lists.
    pub refresh_min: Duration,
    /// Longest wait between two re-lists.
    pub refresh_max: Duration,
    /// Failures in a row that make an engine unhealthy.
    pub failure_limit: NonZeroU32,
    /// What `--cpu-shares` means.
    pub cpu_shares: CpuShares,
    /// Whether updates carry inspect documents.
    pub keeps_documents: bool,
    /// Whether engines may be changed.
    pub fence: Fence,
}

impl Options {
    fn client(&self, addr: EngineAddr, limits: &Limits) -> Client {
        let tls = self.tls.client(&addr);
        let transport = Transport::with_tls(addr, limits, tls, self.fence.clone(), &self.pool);
        Client::new(Arc::new(transport), self.request_timeout)
    }
}

/// What a monitor found.
pub enum Update {
    /// The engine's inventory, and the events that led to it, in order.
    Changed {
        /// All there is to know.
        inventory: Arc<Inventory>,
        /// How the engine is reached.
        client: Client,
        /// To be handed out once the inventory is public.
        events: Vec<Event>,
        /// Told when the inventory is public.
        done: Vec<oneshot::Sender<()>>,
        /// Inspect documents of the containers that were inspected since the last update, if
        /// anybody remembers them.
        documents: Vec<(Arc<str>, Bytes)>,
        /// To be dropped once the inventory is public.
        unheard: Option<Unheard>,
    },
    /// The engine's inventory is as it was told last.
    Same {
        /// To be handed out once that is public.
        events: Vec<Event>,
        /// Told when it is public.
        done: Vec<oneshot::Sender<()>>,
    },
    /// The engine left the cluster.
    Removed {
        /// Where it was.
        addr: EngineAddr,
        /// To be handed out once it is gone.
        event: Option<Event>,
    },
}

/// A part of an inventory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refresh {
    /// One container, by full ID.
    Container(Arc<str>),
    /// A container that was made just now, by full ID: that it was looked at since is enough.
    Made(Arc<str>),
    /// All containers.
    Containers,
    /// All images.
    Images,
    /// All networks.
    Networks,
    /// All volumes.
    Volumes,
    /// The volume drivers, and with them all volumes and what the engine says of itself.
    Drivers,
    /// Everything.
    All,
}

enum Command {
    Refresh(Refresh, oneshot::Sender<()>),
    Failure(String),
}

/// The monitors of all engines of the cluster.
#[derive(Clone)]
pub struct Monitors {
    inner: Arc<Inner>,
}

struct Inner {
    options: Options,
    updates: mpsc::Sender<Update>,
    recall: Option<Arc<dyn Recall>>,
    running: Mutex<HashMap<EngineAddr, Handle>>,
    /// Monitors that were told to stop and may still have a last word; a new one for the same
    /// address waits for it.
    leaving: Mutex<HashMap<EngineAddr, CancellationToken>>,
    validations: Arc<Semaphore>,
    hearing: watch::Sender<Hearing>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// Whether everything is known that was known before.
#[derive(Clone, Copy, Default)]
struct Hearing {
    /// Whether it is known which engines there are.
    is_listed: bool,
    /// How many engines were neither heard nor recalled yet.
    unheard: usize,
}

/// An engine that was neither heard nor recalled yet, as long as this lives.
pub struct Unheard {
    monitors: Weak<Inner>,
}

impl Drop for Unheard {
    fn drop(&mut self) {
        if let Some(monitors) = self.monitors.upgrade() {
            monitors.hearing.send_modify(|hearing| hearing.unheard -= 1);
        }
    }
}

struct Handle {
    commands: mpsc::Sender<Command>,
    recall: Arc<Slot>,
    stop: CancellationToken,
    ended: CancellationToken,
}

impl Monitors {
    /// Starts without engines; what is found goes to `updates`.
    pub fn new(
        options: Options,
        updates: mpsc::Sender<Update>,
        recall: Option<Arc<dyn Recall>>,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                options,
                updates,
                recall,
                running: Mutex::default(),
                leaving: Mutex::default(),
                validations: Arc::new(Semaphore::new(CONCURRENT_VALIDATIONS)),
                hearing: watch::Sender::default(),
                tasks,
                shutdown,
            }),
        }
    }

    /// Starts to watch an engine; nothing happens if it is watched already.
    pub fn add(&self, addr: EngineAddr) {
        let mut running = self.running();
        if running.contains_key(&addr) {
            return;
        }
        let (commands, received) = mpsc::channel(256);
        let stop = self.inner.shutdown.child_token();
        let options = self.inner.options.clone();
        let own_limits = Limits {
            max_connections: OWN_CONNECTIONS,
            max_idle: options.limits.max_idle.min(1),
            idle_timeout: OWN_IDLE,
            read_bytes: Some(OWN_READ_BYTES),
            ..options.limits.clone()
        };
        let recall = Arc::new(Slot::new(self.unheard()));
        let monitor = Monitor {
            base: options.client(addr.clone(), &own_limits),
            shared: options.client(addr.clone(), &options.limits),
            api_version: None,
            health: Health::new(options.failure_limit),
            inventory: Inventory::pending(addr.clone()),
            options,
            updates: self.inner.updates.clone(),
            recalls: Recalls::new(self.inner.recall.clone(), Arc::clone(&recall)),
            heard_at: None,
            documents: Vec::new(),
            made: Made::default(),
            commands: received,
            validations: Arc::clone(&self.inner.validations),
            stop: stop.clone(),
            specs_at: Instant::now(),
            last_event_nano: None,
            short_streams: 0,
            waiting: Vec::new(),
        };
        let span = info_span!("engine", %addr);
        let before = lock(&self.inner.leaving).remove(&addr);
        let ended = CancellationToken::new();
        let guard = ended.clone().drop_guard();
        let run = async move {
            if let Some(before) = before {
                before.cancelled().await;
            }
            monitor.run().await;
            drop(guard);
        };
        self.inner.tasks.spawn(run.instrument(span));
        let handle = Handle {
            commands,
            recall,
            stop,
            ended,
        };
        running.insert(addr, handle);
    }

    /// A way to speak to an engine that nobody watches, in any version that it speaks.
    pub fn client(&self, addr: EngineAddr) -> Client {
        let options = &self.inner.options;
        options.client(addr, &options.limits)
    }

    /// It is known which engines there are: all have been added.
    pub fn all_added(&self) {
        self.inner
            .hearing
            .send_if_modified(|hearing| !std::mem::replace(&mut hearing.is_listed, true));
    }

    /// Waits until of each engine it is public what it holds, or what it held when it was last
    /// heard. That an engine is found later makes this wait again.
    pub async fn heard(&self) {
        let mut hearing = self.inner.hearing.subscribe();
        let all = hearing.wait_for(|hearing| hearing.is_listed && hearing.unheard == 0);
        // The sender is ours.
        let _ = all.await;
    }

    /// How many engines were neither heard nor recalled yet.
    pub fn unheard_count(&self) -> usize {
        self.inner.hearing.borrow().unheard
    }

    /// Has engines that are down recalled again: somebody else may have seen them later than this
    /// process did. [`Monitors::heard`] waits for it.
    pub fn recall_again(&self) {
        if self.inner.recall.is_none() {
            return;
        }
        for handle in self.running().values() {
            handle.recall.ask(|| self.unheard());
        }
    }

    fn unheard(&self) -> Unheard {
        let hearing = &self.inner.hearing;
        hearing.send_modify(|hearing| hearing.unheard += 1);
        Unheard {
            monitors: Arc::downgrade(&self.inner),
        }
    }

    /// Stops watching an engine.
    pub fn remove(&self, addr: &EngineAddr) {
        if let Some(handle) = self.running().remove(addr) {
            handle.stop.cancel();
            let mut leaving = lock(&self.inner.leaving);
            leaving.retain(|_, ended| !ended.is_cancelled());
            leaving.insert(addr.clone(), handle.ended);
        }
    }

    /// Brings a part of an inventory up to date and returns when it is public.
    ///
    /// # Cancel safety
    ///
    /// The refresh happens whether or not anyone waits for it.
    pub async fn refresh(&self, addr: &EngineAddr, what: Refresh) {
        let Some(commands) = self.commands(addr) else {
            return;
        };
        let (done, wait) = oneshot::channel();
        let deadline = self.inner.options.request_timeout;
        let ask = async {
            if commands.send(Command::Refresh(what, done)).await.is_ok() {
                // An error means the monitor ended, and the engine is gone.
                let _ = wait.await;
            }
        };
        if tokio::time::timeout(deadline, ask).await.is_err() {
            debug!(%addr, "engine refresh takes too long, not waiting for it");
        }
    }

    /// Counts a failure that somebody else saw, and makes the monitor look for itself.
    pub fn report_failure(&self, addr: &EngineAddr, error: String) {
        if let Some(commands) = self.commands(addr) {
            // A full queue means the monitor is busy finding out by itself.
            let _ = commands.try_send(Command::Failure(error));
        }
    }

    fn commands(&self, addr: &EngineAddr) -> Option<mpsc::Sender<Command>> {
        self.running()
            .get(addr)
            .map(|handle| handle.commands.clone())
    }

    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<EngineAddr, Handle>> {
        lock(&self.inner.running)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Containers that were looked at since they were made, by ID. Of each such container a monitor
/// hears twice, from the engine and from whoever had it made, in any order: the second time there
/// is nothing to look for.
#[derive(Default)]
struct Made(VecDeque<Arc<str>>);

impl Made {
    /// How many may be heard of for the first time before one is heard of again. Beyond that some
    /// are looked at twice.
    const CAPACITY: usize = 64;

    fn looked_at(&mut self, id: &Arc<str>) {
        if self.0.len() == Self::CAPACITY {
            self.0.pop_front();
        }
        self.0.push_back(Arc::clone(id));
    }

    /// Whether it was looked at already; a third time is none.
    fn is_second(&mut self, id: &str) -> bool {
        let position = self.0.iter().position(|known| **known == *id);
        position.is_some_and(|position| self.0.remove(position).is_some())
    }
}

/// One engine's monitor; see the module.
struct Monitor {
    options: Options,
    /// For the monitor's own calls; speaks no version in particular.
    base: Client,
    /// For everybody else, with connections of its own; speaks no version in particular.
    shared: Client,
    /// What the engine speaks; `None` before first contact.
    api_version: Option<(u32, u32)>,
    health: Health,
    inventory: Inventory,
    updates: mpsc::Sender<Update>,
    recalls: Recalls,
    /// When the engine itself was heard last; `None` if it never was.
    heard_at: Option<SystemTime>,
    documents: Vec<(Arc<str>, Bytes)>,
    made: Made,
    commands: mpsc::Receiver<Command>,
    validations: Arc<Semaphore>,
    stop: CancellationToken,
    specs_at: Instant,
    last_event_nano: Option<i64>,
    /// Event streams in a row that ended soon after they began.
    short_streams: u32,
    /// Who waits for the next publication.
    waiting: Vec<oneshot::Sender<()>>,
}

/// Why following an engine ended.
enum End {
    /// The monitor shall stop.
    Stopped,
    /// The engine must be validated again, at once.
    Again,
    /// Contact was lost.
    Failed(MonitorError),
}

/// What can go wrong with an engine.
#[derive(Debug, thiserror::Error)]
enum MonitorError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("{0}")]
    Unusable(String),
}

impl Monitor {
    async fn run(mut self) {
        let stop = self.stop.clone();
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = Box::pin(self.recall_first()) => {}
        }
        self.publish(Vec::new()).await;
        loop {
            let end = tokio::select! {
                biased;
                () = stop.cancelled() => End::Stopped,
                end = self.connect_and_follow() => end,
            };
            self.recalls.lose();
            match end {
                End::Stopped => break,
                End::Again => {}
                End::Failed(error) => {
                    self.fail(&error).await;
                    if self.wait_to_retry().await.is_stopped() {
                        break;
                    }
                }
            }
        }
        self.leave().await;
    }

    async fn connect_and_follow(&mut self) -> End {
        match Box::pin(self.validate()).await {
            Ok(events) => self.follow(events).await,
            Err(error) => End::Failed(error),
        }
    }

    /// Learns everything about the engine and publishes it.
    async fn validate(&mut self) -> Result<Lines, MonitorError> {
        // An engine that does not answer fails here, before it takes a place from one that does.
        self.make_contact().await?;
        let permit = Arc::clone(&self.validations).acquire_owned().await;
        let client = self.client();
        // The stream is opened before the lists are read, so that no change falls between them.
        let events = client.events(self.last_event_nano).await?;
        self.list_containers().await?;
        self.list_images().await?;
        // Engines with odd network or volume plugins are still good for containers.
        if let Err(error) = self.list_networks().await {
            warn!(%error, "networks cannot be listed");
        }
        if let Err(error) = self.list_volumes().await {
            warn!(%error, "volumes cannot be listed");
        }
        drop(permit);
        self.inventory.is_recalled = false;
        self.inventory.down_since = None;
        self.heard_at = Some(SystemTime::now());
        self.recalls.follow();
        let event = match self.health.validated() {
            Some(Transition::Connected) => {
                info!(node = self.inventory.name(), "registered engine");
                Some(NodeEvent::Connect)
            }
            Some(Transition::Recovered) => {
                info!(node = self.inventory.name(), "engine is back");
                Some(NodeEvent::Reconnect)
            }
            _ => None,
        };
        self.publish(
            event
                .map(|event| self.node_event(event))
                .into_iter()
                .collect(),
        )
        .await;
        Ok(events)
    }

    /// Follows events and commands until contact is lost. What is done on them takes memory of its
    /// own while it lasts: most of the time there are ten thousand monitors that only wait.
    async fn follow(&mut self, mut events: Lines) -> End {
        let opened = Instant::now();
        let mut next_list = opened + self.refresh_wait();
        let mut reopen_at = None;
        loop {
            // In no fixed order, so that callers who never pause do not hold up events.
            let outcome = tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => Box::pin(self.obey(command)).await,
                    None => return End::Stopped,
                },
                batch = events.next_batch(EVENT_BATCH), if reopen_at.is_none() => match batch {
                    Ok(batch) if !batch.is_empty() => {
                        Box::pin(self.handle_events(&batch)).await
                    }
                    ended => {
                        debug!(?ended, "event stream ended");
                        reopen_at = Some(Instant::now() + self.reopen_wait(opened.elapsed()));
                        Ok(())
                    }
                },
                () = tokio::time::sleep_until(reopen_at.unwrap_or(next_list)),
                    if reopen_at.is_some() => return End::Again,
                () = tokio::time::sleep_until(next_list) => {
                    next_list = Instant::now() + self.refresh_wait();
                    Box::pin(self.relist()).await
                }
            };
            match outcome {
                Ok(()) => self.heard_at = Some(SystemTime::now()),
                // The engine said no to something; it is there.
                Err(MonitorError::Client(error)) if !error.is_contact_failure() => {
                    warn!(%error, "engine refresh failed, keeping its last inventory");
                }
                Err(error) => return End::Failed(error),
            }
        }
    }

    /// How long to do without an event stream after one that lasted for `lasted`. The first one
    /// that breaks is reopened at once: most likely the engine died, and that must be noticed.
    fn reopen_wait(&mut self, lasted: Duration) -> Duration {
        if lasted >= GOOD_STREAM {
            self.short_streams = 0;
        }
        let wait = match self.short_streams {
            0 => Duration::ZERO,
            streams => back_off(streams),
        };
        self.short_streams = self.short_streams.saturating_add(1);
        wait
    }

    /// Repairs what events missed.
    async fn relist(&mut self) -> Result<(), MonitorError> {
        if self.specs_at.elapsed() >= SPECS_INTERVAL {
            self.learn_specs().await?;
        }
        self.list_containers().await?;
        self.list_images().await?;
        self.list_networks().await?;
        self.list_volumes().await?;
        self.publish(Vec::new()).await;
        Ok(())
    }

    async fn obey(&mut self, command: Command) -> Result<(), MonitorError> {
        match command {
            Command::Refresh(Refresh::Made(id), done) if self.made.is_second(&id) => {
                self.repeat(Vec::new(), vec![done]).await;
                Ok(())
            }
            Command::Refresh(what, done) => {
                self.waiting.push(done);
                self.refresh(&what).await?;
                self.publish(Vec::new()).await;
                Ok(())
            }
            // Whoever saw the failure may be wrong; asking settles it, and counts it if not.
            Command::Failure(error) => {
                debug!(error, "a call to the engine failed, looking for ourselves");
                self.learn_specs().await
            }
        }
    }

    async fn refresh(&mut self, what: &Refresh) -> Result<(), MonitorError> {
        match what {
            Refresh::Container(id) => self.list_one(&[Arc::clone(id)]).await,
            Refresh::Made(id) => {
                self.list_one(&[Arc::clone(id)]).await?;
                self.made.looked_at(id);
                Ok(())
            }
            Refresh::Containers => self.list_containers().await,
            Refresh::Images => self.list_images().await,
            Refresh::Networks => self.list_networks().await,
            Refresh::Volumes => self.list_volumes().await,
            Refresh::Drivers => {
                // An engine looks for new drivers when it lists volumes, and tells them after that.
                self.list_volumes().await?;
                self.learn_specs().await
            }
            Refresh::All => {
                self.list_containers().await?;
                self.list_images().await?;
                self.list_networks().await?;
                self.list_volumes().await
            }
        }
    }

    /// Looks at everything a batch of events touched, then publishes it with the events.
    async fn handle_events(&mut self, lines: &[Vec<u8>]) -> Result<(), MonitorError> {
        let mut events = Vec::with_capacity(lines.len());
        let mut touched = listing::Touched::default();
        let mut made = Vec::new();
        for line in lines {
            match Event::parse(line, &self.inventory) {
                Ok(event) => {
                    let is_known =
                        event.tells_of_new_container() && self.made.is_second(&event.actor_id);
                    if !is_known {
                        touched.add(&event);
                        if event.tells_of_new_container() {
                            made.push(Arc::from(event.actor_id.as_str()));
                        }
                    }
                    // Events may come slightly out of order, and without a time.
                    if event.time_nano > 0 {
                        let next = Some(event.time_nano.saturating_add(1));
                        self.last_event_nano = self.last_event_nano.max(next);
                    }
                    events.push(event);
                }
                Err(error) => warn!(%error, "engine sent an event that is none"),
            }
        }
        if touched.is_empty() {
            self.repeat(events, Vec::new()).await;
            return Ok(());
        }
        let looked = self.look_at(touched).await;
        if looked.is_ok() {
            made.iter().for_each(|id| self.made.looked_at(id));
        }
        // Events are handed out even if the look failed: they happened.
        self.publish(events).await;
        looked
    }

    /// Notes a failure and tells the others if it changes the node's status.
    async fn fail(&mut self, error: &MonitorError) {
        let was = self.health.status();
        let transition = match error {
            MonitorError::Client(client) if !client.is_contact_failure() => {
                self.health.complain(error.to_string());
                None
            }
            MonitorError::Client(_) => self.health.failed(error.to_string()),
            MonitorError::Unusable(_) => {
                self.health.complain(error.to_string());
                None
            }
        };
        debug!(%error, failures = self.health.failures(), "engine cannot be reached");
        if self.health.failures() > 0 {
            self.inventory
                .down_since
                .get_or_insert_with(SystemTime::now);
        }
        let mut events = Vec::new();
        if transition == Some(Transition::Lost) {
            warn!(node = self.inventory.name(), %error, "engine is unhealthy");
            events.push(self.node_event(NodeEvent::Disconnect));
        } else if was == Status::Pending && self.health.failures() == 1 {
            warn!(%error, "engine does not answer yet, trying on");
        }
        self.publish(events).await;
    }

    /// Waits until the engine shall be tried again; a refresh that somebody wants ends the wait.
    async fn wait_to_retry(&mut self) -> Wait {
        let addr = self.inventory.addr.clone();
        let base = self.health.back_off();
        let jitter = rand::rng().random_range(0.75..1.25);
        let until = Instant::now() + base.mul_f64(jitter).min(MAX_BACK_OFF);
        loop {
            let command = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Wait::Stopped,
                () = tokio::time::sleep_until(until) => return Wait::Over,
                seen = self.recalls.next(&addr) => {
                    self.show_seen(seen).await;
                    continue;
                }
                command = self.commands.recv() => command,
            };
            match command {
                None => return Wait::Stopped,
                Some(Command::Failure(_)) => {}
                // The engine is down. Whoever waits must not wait for the back-off, only until
                // everybody knows.
                Some(Command::Refresh(_, done)) => {
                    self.waiting.push(done);
                    self.publish(Vec::new()).await;
                }
            }
        }
    }

    /// Tells the others that the engine is no longer part of the cluster.
    async fn leave(mut self) {
        let validated = self.inventory.is_validated();
        self.inventory.status = Status::Disconnected;
        let event = validated.then(|| self.node_event(NodeEvent::Disconnect));
        info!(node = self.inventory.name(), "removed engine");
        let addr = self.inventory.addr.clone();
        // At shutdown nobody listens any more.
        let _ = self.updates.send(Update::Removed { addr, event }).await;
    }

    async fn publish(&mut self, events: Vec<Event>) {
        self.inventory.status = self.health.status();
        self.inventory.health = self.health.indicator();
        self.inventory.error = self.health.error().map(str::to_owned);
        self.inventory.updated_at = SystemTime::now();
        let update = Update::Changed {
            inventory: Arc::new(self.inventory.clone()),
            client: self.speaking(&self.shared),
            events,
            done: std::mem::take(&mut self.waiting),
            documents: std::mem::take(&mut self.documents),
            unheard: self.recalls.heard(),
        };
        // At shutdown nobody listens any more.
        let _ = self.updates.send(update).await;
    }

    /// Tells that nothing is new since the last publication.
    async fn repeat(&mut self, events: Vec<Event>, done: Vec<oneshot::Sender<()>>) {
        // At shutdown nobody listens any more.
        let _ = self.updates.send(Update::Same { events, done }).await;
    }

    fn node_event(&self, event: NodeEvent) -> Event {
        Event::of_node(event, &self.inventory, chrono::Utc::now())
    }

    /// The monitor's own client, at the negotiated version.
    fn client(&self) -> Client {
        self.speaking(&self.base)
    }

    fn speaking(&self, client: &Client) -> Client {
        match self.api_version {
            Some(version) => client.at_version(version),
            None => client.clone(),
        }
    }

    fn refresh_wait(&self) -> Duration {
        let spread = self
            .options
            .refresh_max
            .saturating_sub(self.options.refresh_min);
        self.options.refresh_min + spread.mul_f64(rand::rng().random_range(0.0..1.0))
    }
}

/// How a wait ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    Over,
    Stopped,
}

impl Wait {
    fn is_stopped(self) -> bool {
        self == Self::Stopped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_heard_of_a_second_time_once() {
        let mut made = Made::default();
        assert!(!made.is_second("a"));
        made.looked_at(&"a".into());
        assert!(!made.is_second("b"));
        assert!(made.is_second("a"));
        assert!(!made.is_second("a"));
    }

    #[test]
    fn the_oldest_is_forgotten_when_too_many_were_made() {
        let mut made = Made::default();
        for number in 0..=Made::CAPACITY {
            made.looked_at(&number.to_string().into());
        }
        assert!(!made.is_second("0"));
        assert!(made.is_second("1"));
    }
}
