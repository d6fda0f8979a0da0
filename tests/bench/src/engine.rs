//! One stand-in engine: its address, its state behind a lock, and the switches tests turn.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::container::{Container, Phase, Spec};
use crate::event::{Event, EventLog};
use crate::fault::{Fault, Faults};
use crate::ident::{Ident, engine_id};
use crate::state::{Image, Network, State};
use crate::volume::{Installed, VolumeDriver};

/// What all engines of a fleet have in common.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Newest API version offered. Default: 1.41.
    pub api_version: String,
    /// Version of the engine. Default: 20.10.24.
    pub server_version: String,
    /// CPUs of each engine. Default: 4.
    pub cpus: u32,
    /// Memory of each engine in bytes. Default: 8 GiB.
    pub memory_bytes: u64,
    /// Labels of each engine, `key=value`. Default: `storage=ssd`.
    pub labels: Vec<String>,
    /// Images each engine has at first. Default: `busybox:latest`.
    pub images: Vec<String>,
    /// Events kept for `since`, per engine. Default: 256.
    pub events_kept: usize,
    /// Create bodies kept per engine; older ones are forgotten. Default: 1024.
    pub create_bodies_kept: usize,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            api_version: "1.41".to_owned(),
            server_version: "20.10.24".to_owned(),
            cpus: 4,
            memory_bytes: 8 << 30,
            labels: vec!["storage=ssd".to_owned()],
            images: vec!["busybox:latest".to_owned()],
            events_kept: 256,
            create_bodies_kept: 1024,
        }
    }
}

/// What the engines of a fleet share in memory until one of them changes it.
pub(crate) struct Seed {
    pub shape: Shape,
    pub spec: Arc<Spec>,
    pub images: Arc<Vec<Image>>,
    pub networks: Arc<Vec<Network>>,
}

/// One stand-in engine of a [`Fleet`](crate::Fleet).
pub struct Engine {
    pub(crate) seed: Arc<Seed>,
    index: usize,
    addr: SocketAddr,
    state: Mutex<State>,
    faults: Mutex<Faults>,
    counts: Mutex<HashMap<&'static str, u64>>,
    /// Cancelled when the engine dies; each life has its own.
    life: Mutex<CancellationToken>,
    changed: Notify,
    skew_nanos: AtomicI64,
    open: AtomicUsize,
    peak: AtomicUsize,
    accepted: AtomicU64,
}

impl Engine {
    pub(crate) fn new(
        seed: Arc<Seed>,
        index: usize,
        addr: SocketAddr,
        containers: usize,
        life: CancellationToken,
    ) -> Self {
        let owner = index as u64 + 1;
        let created_nanos = clock() - 3_600_000_000_000;
        let containers: Vec<_> = (0..containers)
            .map(|at| Container {
                id: Ident::derive(owner, at as u64 + 1),
                name: format!("seed-{index}-{at}").into(),
                spec: Arc::clone(&seed.spec),
                phase: Phase::Running,
                exit_code: 0,
                oom_killed: false,
                exits: 0,
                created_nanos,
                started_nanos: created_nanos + 400_000_000,
                finished_nanos: 0,
                host_number: u16::try_from(at + 2).unwrap_or(u16::MAX),
            })
            .collect();
        let state = State {
            engine_id: engine_id(owner).into(),
            serial: containers.len() as u64,
            containers,
            images: Arc::clone(&seed.images),
            networks: Arc::clone(&seed.networks),
            volumes: Vec::new(),
            volume_drivers: Vec::new(),
            execs: Vec::new(),
            outputs: HashMap::new(),
            files: HashMap::new(),
            departed: VecDeque::new(),
            events: EventLog::new(seed.shape.events_kept),
            suppress_events: false,
            create_bodies: Vec::new(),
            owner,
        };
        Self {
            seed,
            index,
            addr,
            state: Mutex::new(state),
            faults: Mutex::default(),
            counts: Mutex::default(),
            life: Mutex::new(life),
            changed: Notify::new(),
            skew_nanos: AtomicI64::new(0),
            open: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
        }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its host name: `node-` and its place in the fleet.
    pub fn name(&self) -> String {
        format!("node-{}", self.index)
    }

    /// The ID it reports in `/info`.
    pub fn id(&self) -> String {
        self.state().engine_id.to_string()
    }

    /// Reports another ID from now on, as after a reinstallation.
    pub fn set_id(&self, id: &str) {
        self.state().engine_id = id.into();
    }

    /// Adds a fault on every route; one of the same kind is replaced.
    pub fn set_fault(&self, fault: Fault) {
        self.add_fault(None, fault);
    }

    /// Adds a fault on one route, named as in [`requests`](Self::requests).
    ///
    /// Faults of connections ([`Fault::RefuseConnections`], [`Fault::NotHttp`]) and
    /// [`Fault::SuppressEvents`] know no route: set them with [`set_fault`](Self::set_fault).
    pub fn set_fault_on(&self, route: &str, fault: Fault) {
        self.add_fault(Some(route), fault);
    }

    /// Ends all faults. Calls that already hang stay so; the clock, the ID and a death stay as well.
    pub fn clear_faults(&self) {
        lock(&self.faults).clear();
        self.state().suppress_events = false;
    }

    /// Gives the engine a volume driver, which it finds when something makes it look.
    pub fn add_volume_driver(&self, driver: &VolumeDriver) {
        self.state().volume_drivers.push(Installed {
            driver: driver.clone(),
            is_found: false,
        });
    }

    /// The names of its volumes, those that it shares with others too.
    pub fn volumes(&self) -> Vec<String> {
        let volumes = self.state().all_volumes().into_iter();
        volumes.map(|volume| volume.name).collect()
    }

    /// Moves the engine's clock by so many seconds from the true time.
    pub fn set_clock_skew(&self, seconds: i64) {
        self.skew_nanos
            .store(seconds.saturating_mul(1_000_000_000), Ordering::Relaxed);
    }

    /// Cuts every connection and resets new ones until [`come_back`](Self::come_back). Containers live on.
    pub fn die(&self) {
        lock(&self.life).cancel();
        self.state().events.drop_readers();
    }

    /// Ends a death. Without one, nothing changes.
    pub fn come_back(&self) {
        let mut life = lock(&self.life);
        if life.is_cancelled() {
            *life = CancellationToken::new();
        }
    }

    /// Ends the open event streams; clients may open new ones.
    pub fn drop_event_streams(&self) {
        self.state().events.drop_readers();
    }

    /// Event streams open now.
    pub fn event_streams(&self) -> usize {
        self.state().events.readers()
    }

    /// Its containers, oldest first.
    pub fn containers(&self) -> Vec<Container> {
        self.state().containers.clone()
    }

    /// The container with this ID, ID prefix or name.
    pub fn container(&self, wanted: &str) -> Option<Container> {
        let state = self.state();
        state.find(wanted).map(|at| state.containers[at].clone())
    }

    /// The bodies of the successful and failed create calls, byte for byte, oldest first.
    pub fn create_bodies(&self) -> Vec<Bytes> {
        self.state().create_bodies.clone()
    }

    /// Tells an event without anything having happened.
    pub fn emit(&self, event: Event) {
        let now = self.now();
        self.state().emit(event, now);
    }

    /// Puts a container into `phase` without telling anybody, as if the event was lost.
    ///
    /// Returns whether there is such a container.
    pub fn mutate_silently(&self, wanted: &str, phase: Phase) -> bool {
        let now = self.now();
        self.change(|state| {
            let Some(at) = state.find(wanted) else {
                return false;
            };
            let container = &mut state.containers[at];
            match (container.phase.is_running(), phase.is_running()) {
                (true, false) => container.finished_nanos = now,
                (false, true) => container.started_nanos = now,
                _ => {}
            }
            container.phase = phase;
            true
        })
    }

    /// Removes a container without telling anybody. Returns whether there was one.
    pub fn remove_silently(&self, wanted: &str) -> bool {
        self.change(|state| {
            let found = state.find(wanted);
            found.map(|at| state.containers.remove(at)).is_some()
        })
    }

    /// Lets a running container end with `exit_code`, and tells so. Returns whether one was running.
    pub fn exit(&self, wanted: &str, exit_code: i64) -> bool {
        let now = self.now();
        self.change(|state| {
            let at = state
                .find(wanted)
                .filter(|&at| state.containers[at].phase.is_running());
            at.map(|at| state.die(at, exit_code, now)).is_some()
        })
    }

    /// Lets a container run out of memory. Returns whether one was running.
    pub fn oom(&self, wanted: &str) -> bool {
        let now = self.now();
        self.change(|state| {
            let at = state
                .find(wanted)
                .filter(|&at| state.containers[at].phase.is_running());
            at.map(|at| {
                state.containers[at].oom_killed = true;
                state.emit_container(at, "oom", &[], now);
                state.die(at, 137, now);
            })
            .is_some()
        })
    }

    /// Lets a container write to its standard output. Returns whether there is one.
    pub fn write_output(&self, wanted: &str, text: &str) -> bool {
        let now = self.now();
        self.change(|state| {
            let id = state.find(wanted).map(|at| state.containers[at].id);
            id.map(|id| state.write(id, (1, text.to_owned().into()), now))
                .is_some()
        })
    }

    /// How many calls of a route came in, such as `GET /containers/{id}/json`. Unknown routes count
    /// as `other`. Calls count when they arrive, also those a fault swallows.
    pub fn requests(&self, route: &str) -> u64 {
        lock(&self.counts).get(route).copied().unwrap_or(0)
    }

    /// How many calls came in altogether.
    pub fn total_requests(&self) -> u64 {
        lock(&self.counts).values().sum()
    }

    /// Connections open now, upgraded ones included.
    pub fn open_connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// The most connections that were open at once.
    pub fn peak_connections(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }

    /// Connections accepted so far, refused ones included.
    pub fn accepted_connections(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Waits until `check` finds what it looks for, looking again after each change.
    ///
    /// # Cancel safety
    ///
    /// Safe: nothing is changed by waiting.
    pub async fn wait_for(&self, check: impl Fn(&Self) -> bool) {
        self.until(|| check(self).then_some(())).await;
    }

    /// Waits until `check` finds what it looks for in the state.
    pub(crate) async fn until_state<T>(&self, mut check: impl FnMut(&mut State) -> Option<T>) -> T {
        self.until(|| check(&mut self.state())).await
    }

    async fn until<T>(&self, mut check: impl FnMut() -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Listen before looking, or a change in between would be slept through.
            changed.as_mut().enable();
            if let Some(found) = check() {
                return found;
            }
            changed.await;
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Changes the state and wakes those who wait for a change.
    pub(crate) fn change<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let result = act(&mut self.state());
        self.changed.notify_waiters();
        result
    }

    /// The engine's own time, nanoseconds since the epoch.
    pub(crate) fn now(&self) -> i64 {
        clock() + self.skew_nanos.load(Ordering::Relaxed)
    }

    pub(crate) fn index(&self) -> usize {
        self.index
    }

    pub(crate) fn life(&self) -> CancellationToken {
        lock(&self.life).clone()
    }

    pub(crate) fn faults_on(&self, route: &str) -> Vec<Fault> {
        lock(&self.faults).on(route)
    }

    pub(crate) fn has_fault(&self, route: &str, fault: &Fault) -> bool {
        lock(&self.faults).has(route, fault)
    }

    pub(crate) fn count(&self, route: &'static str) {
        *lock(&self.counts).entry(route).or_default() += 1;
        self.changed.notify_waiters();
    }

    pub(crate) fn accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn opened(self: &Arc<Self>) -> Open {
        let open = self.open.fetch_add(1, Ordering::Relaxed) + 1;
        self.peak.fetch_max(open, Ordering::Relaxed);
        self.changed.notify_waiters();
        Open(Arc::clone(self))
    }

    fn add_fault(&self, route: Option<&str>, fault: Fault) {
        match fault {
            Fault::SuppressEvents => self.state().suppress_events = true,
            Fault::DropEventStreams => self.drop_event_streams(),
            _ => {}
        }
        lock(&self.faults).set(route, fault);
    }
}

/// Counts a connection as open until dropped.
pub(crate) struct Open(Arc<Engine>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.changed.notify_waiters();
    }
}

/// Locks; what a panicking test left behind is still worth looking at.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn clock() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
