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
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use rand::RngExt;
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, debug, info, info_span, warn};

use crate::{
    engine::{
        client::{Client, ClientError},
        event::{Event, NodeEvent},
        health::{Health, Status, Transition},
        inventory::{Inventory, container::CpuShares},
        lines::Lines,
        transport::{Limits, Transport},
    },
    model::address::EngineAddr,
};

mod listing;
mod specs;

/// How often an engine is asked again what it is.
const SPECS_INTERVAL: Duration = Duration::from_secs(300);

/// How many engines may be validated at once; more would only queue in the kernel.
const CONCURRENT_VALIDATIONS: usize = 128;

/// How many events are handled with one look at the engine.
const EVENT_BATCH: usize = 512;

/// What every monitor needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bounds on connections to each engine.
    pub limits: Limits,
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
    /// All containers.
    Containers,
    /// All images.
    Images,
    /// All networks.
    Networks,
    /// All volumes.
    Volumes,
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
    running: Mutex<HashMap<EngineAddr, Handle>>,
    validations: Arc<Semaphore>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

struct Handle {
    commands: mpsc::Sender<Command>,
    stop: CancellationToken,
}

impl Monitors {
    /// Starts without engines; what is found goes to `updates`.
    pub fn new(
        options: Options,
        updates: mpsc::Sender<Update>,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                options,
                updates,
                running: Mutex::default(),
                validations: Arc::new(Semaphore::new(CONCURRENT_VALIDATIONS)),
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
        let transport = Arc::new(Transport::new(addr.clone(), &options.limits));
        let monitor = Monitor {
            base: Client::new(transport, options.request_timeout),
            client: None,
            health: Health::new(options.failure_limit),
            inventory: Inventory::pending(addr.clone()),
            options,
            updates: self.inner.updates.clone(),
            commands: received,
            validations: Arc::clone(&self.inner.validations),
            stop: stop.clone(),
            specs_at: Instant::now(),
            last_event_nano: None,
            waiting: Vec::new(),
        };
        let span = info_span!("engine", %addr);
        self.inner.tasks.spawn(monitor.run().instrument(span));
        running.insert(addr, Handle { commands, stop });
    }

    /// Stops watching an engine.
    pub fn remove(&self, addr: &EngineAddr) {
        if let Some(handle) = self.running().remove(addr) {
            handle.stop.cancel();
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
        self.inner
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// One engine's monitor; see the module.
struct Monitor {
    options: Options,
    /// Speaks no version in particular.
    base: Client,
    /// Speaks the negotiated version; `None` before first contact.
    client: Option<Client>,
    health: Health,
    inventory: Inventory,
    updates: mpsc::Sender<Update>,
    commands: mpsc::Receiver<Command>,
    validations: Arc<Semaphore>,
    stop: CancellationToken,
    specs_at: Instant,
    last_event_nano: Option<i64>,
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
        self.publish(Vec::new()).await;
        let stop = self.stop.clone();
        loop {
            let end = tokio::select! {
                biased;
                () = stop.cancelled() => End::Stopped,
                end = self.connect_and_follow() => end,
            };
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
        match self.validate().await {
            Ok(events) => self.follow(events).await,
            Err(error) => End::Failed(error),
        }
    }

    /// Learns everything about the engine and publishes it.
    async fn validate(&mut self) -> Result<Lines, MonitorError> {
        let permit = Arc::clone(&self.validations).acquire_owned().await;
        self.learn_specs().await?;
        let client = self.client().clone();
        // The stream is opened before the lists are read, so that no change falls between them.
        let events = Lines::new(client.events(self.last_event_nano).await?);
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

    /// Follows events and commands until contact is lost.
    async fn follow(&mut self, mut events: Lines) -> End {
        let mut next_list = Instant::now() + self.refresh_wait();
        loop {
            let outcome = tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => return End::Stopped,
                },
                batch = events.next_batch(EVENT_BATCH) => match batch {
                    Ok(batch) if batch.is_empty() => {
                        debug!("event stream ended");
                        return End::Again;
                    }
                    Ok(batch) => self.handle_events(&batch).await,
                    Err(error) => {
                        debug!(%error, "event stream broke");
                        return End::Again;
                    }
                },
                () = tokio::time::sleep_until(next_list) => {
                    next_list = Instant::now() + self.refresh_wait();
                    self.relist().await
                }
            };
            match outcome {
                Ok(()) => {}
                // The engine said no to something; it is there.
                Err(MonitorError::Client(error)) if !error.is_contact_failure() => {
                    warn!(%error, "engine refresh failed, keeping its last inventory");
                }
                Err(error) => return End::Failed(error),
            }
        }
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
            Refresh::Containers => self.list_containers().await,
            Refresh::Images => self.list_images().await,
            Refresh::Networks => self.list_networks().await,
            Refresh::Volumes => self.list_volumes().await,
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
        for line in lines {
            match Event::parse(line, &self.inventory) {
                Ok(event) => {
                    touched.add(&event);
                    self.last_event_nano = Some(event.time_nano + 1);
                    events.push(event);
                }
                Err(error) => warn!(%error, "engine sent an event that is none"),
            }
        }
        let looked = self.look_at(touched).await;
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
        let base = self.health.back_off();
        let jitter = rand::rng().random_range(0.75..1.25);
        let until = Instant::now()
            + base
                .mul_f64(jitter)
                .min(crate::engine::health::MAX_BACK_OFF);
        loop {
            let command = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Wait::Stopped,
                () = tokio::time::sleep_until(until) => return Wait::Over,
                command = self.commands.recv() => command,
            };
            match command {
                None => return Wait::Stopped,
                Some(Command::Failure(_)) => {}
                // The engine is down, and what is known of it is public already. Whoever waits
                // must not wait for the back-off; dropping the sender lets it go on.
                Some(Command::Refresh(..)) => {}
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
            client: self.client().clone(),
            events,
            done: std::mem::take(&mut self.waiting),
        };
        // At shutdown nobody listens any more.
        let _ = self.updates.send(update).await;
    }

    fn node_event(&self, event: NodeEvent) -> Event {
        Event::of_node(event, &self.inventory, chrono::Utc::now())
    }

    fn client(&self) -> &Client {
        self.client.as_ref().unwrap_or(&self.base)
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
