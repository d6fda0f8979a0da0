//! What the rescheduler and the rest of the cluster tell each other.
//!
//! The rescheduler writes down why containers wait and which were made again elsewhere; others
//! write down what it has to know: wishes of clients, nodes that left, moves that are ordered.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use super::{DEPARTED_LIFE, Place, movable};
use crate::{
    cluster::{placement::Shift, snapshot::Node},
    model::address::EngineAddr,
    store::agents::FencedContainer,
};

/// How long it is remembered that a client stopped a container.
const STOPS_LIFE: Duration = Duration::from_secs(600);

/// Most of them.
const MAX_STOPS: usize = 100_000;

/// Most agents that are remembered to have been answered.
const MAX_HEARD: usize = 100_000;

/// The longest lease that is believed.
const MAX_TTL: Duration = Duration::from_secs(3600);

/// What others know of the rescheduler.
#[derive(Default)]
pub struct Board {
    notes: Mutex<Notes>,
    changed: Notify,
}

/// A shift that somebody waits for.
pub(super) struct Ordered {
    pub shift: Shift,
    pub done: oneshot::Sender<Result<(), String>>,
}

/// Containers of one engine that were made again elsewhere: their IDs and names.
pub type Superseded = BTreeMap<Arc<str>, String>;

#[derive(Default)]
pub(super) struct Notes {
    /// Why containers of failed nodes are not moved.
    pub waiting: HashMap<Place, Arc<str>>,
    /// Why nothing at all is moved.
    pub halted: Option<String>,
    /// Containers that a client stopped lately.
    pub stops: HashMap<Place, Instant>,
    /// Containers that were made again elsewhere.
    pub superseded: HashMap<EngineAddr, Superseded>,
    /// Containers that shall go to better nodes.
    shifts: Vec<Ordered>,
    /// Whether nobody looks at these notes any more.
    is_closed: bool,
    /// Containers that agents stopped while they had no lease: when they ended, see
    /// [`FencedContainer`].
    pub fenced: HashMap<EngineAddr, HashMap<Arc<str>, Option<String>>>,
    /// Until when agents may take their leases for valid that this manager answered.
    pub heard: HashMap<EngineAddr, Instant>,
    /// Nodes that left discovery with containers that may have to move, and when.
    pub departed: BTreeMap<EngineAddr, (Arc<Node>, Instant)>,
}

impl Board {
    /// Why a container waits for its node.
    pub(in crate::cluster) fn why_waiting(&self, place: &Place) -> Option<Arc<str>> {
        self.notes().waiting.get(place).cloned()
    }

    /// Why nothing is moved, if so.
    pub(in crate::cluster) fn halted(&self) -> Option<String> {
        self.notes().halted.clone()
    }

    /// A client stops a container: it shall not run elsewhere.
    pub(in crate::cluster) fn stopped(&self, place: Place) {
        let mut notes = self.notes();
        if notes.stops.len() >= MAX_STOPS {
            notes.stops.retain(|_, at| at.elapsed() < STOPS_LIFE);
        }
        if notes.stops.len() < MAX_STOPS {
            notes.stops.insert(place, Instant::now());
        }
    }

    /// A client starts it again.
    pub(in crate::cluster) fn started(&self, place: &Place) {
        self.notes().stops.remove(place);
    }

    pub(super) fn was_stopped(&self, place: &Place) -> bool {
        let notes = self.notes();
        let stopped = notes.stops.get(place);
        stopped.is_some_and(|at| at.elapsed() < STOPS_LIFE)
    }

    /// The containers of an engine that were made again elsewhere; empty for nearly all.
    pub(in crate::cluster) fn superseded_on(&self, addr: &EngineAddr) -> Superseded {
        self.notes()
            .superseded
            .get(addr)
            .cloned()
            .unwrap_or_default()
    }

    /// An agent stopped containers while it had no lease.
    pub(in crate::cluster) fn fenced(&self, addr: EngineAddr, containers: Vec<FencedContainer>) {
        let containers = containers.into_iter();
        let containers = containers.map(|one| (Arc::from(one.id), one.ended_at));
        {
            let mut notes = self.notes();
            notes.fenced.entry(addr).or_default().extend(containers);
        }
        self.wake();
    }

    /// An agent asked for its lease of `ttl`, and was answered.
    pub(in crate::cluster) fn heard(&self, addr: EngineAddr, ttl: Duration) {
        let mut notes = self.notes();
        let now = Instant::now();
        if notes.heard.len() >= MAX_HEARD {
            notes.heard.retain(|_, until| *until > now);
        }
        if notes.heard.len() < MAX_HEARD {
            notes.heard.insert(addr, now + ttl.min(MAX_TTL));
        }
    }

    /// Has a container moved to a better node; the answer comes when that is done or impossible.
    pub(in crate::cluster) fn order(&self, shift: Shift) -> oneshot::Receiver<Result<(), String>> {
        let (done, answer) = oneshot::channel();
        {
            let mut notes = self.notes();
            if !notes.is_closed {
                notes.shifts.push(Ordered { shift, done });
            }
        }
        self.wake();
        answer
    }

    pub(super) fn take_orders(&self) -> Vec<Ordered> {
        std::mem::take(&mut self.notes().shifts)
    }

    /// Nothing is ordered any more, and nothing comes of what was.
    pub(super) fn close(&self) {
        let mut notes = self.notes();
        notes.is_closed = true;
        notes.shifts.clear();
    }

    /// Something changed that the rescheduler has to look at.
    pub(in crate::cluster) fn wake(&self) {
        self.changed.notify_one();
    }

    /// Waits until something has changed.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// A node left discovery.
    pub(in crate::cluster) fn departed(&self, node: Arc<Node>) {
        let mut notes = self.notes();
        let departed = &mut notes.departed;
        departed.retain(|_, (_, at)| at.elapsed() < DEPARTED_LIFE);
        if movable(&node.inventory.containers).next().is_some() {
            departed.insert(node.inventory.addr.clone(), (node, Instant::now()));
        }
        drop(notes);
        self.wake();
    }

    pub(super) fn supersede(&self, (addr, id): Place, name: String) {
        let mut notes = self.notes();
        notes.waiting.remove(&(addr.clone(), Arc::clone(&id)));
        notes.superseded.entry(addr).or_default().insert(id, name);
    }

    pub(super) fn settle_fenced(&self, (addr, id): &Place) {
        let mut notes = self.notes();
        if let Some(ids) = notes.fenced.get_mut(addr) {
            ids.remove(id);
            if ids.is_empty() {
                notes.fenced.remove(addr);
            }
        }
    }

    pub(super) fn removed(&self, addr: &EngineAddr, id: &str) {
        let mut notes = self.notes();
        if let Some(ids) = notes.superseded.get_mut(addr) {
            ids.remove(id);
            if ids.is_empty() {
                notes.superseded.remove(addr);
            }
        }
    }

    pub(super) fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
