//! Containers of nodes that failed are made again on others.
//!
//! One task compares, again and again, what is with what should be; nothing is driven by an event
//! that could be missed. So it makes no difference whether this manager saw the node die, took over
//! in the middle of a move, or was started long after:
//!
//! ```text
//! node out of reach --grace--> failed --> which of its containers go, in which order   [plan]
//!                                          |
//!   newer copy is there already -----------+--> make it again elsewhere                [remake]
//!                                          |    join its other networks, start it
//!                                          '--> the old one is superseded: never shown again,
//!                                               removed without its volumes when its node is back
//! ```
//!
//! Each copy carries a fencing token in the label
//! [`FENCE_LABEL`](crate::model::directive::FENCE_LABEL), greater than that of the copy
//! before. Where two copies meet, the one with the greater token stays.
//!
//! A node has failed when it was out of reach for the grace period, counted by the manager that
//! leads, and does not answer when it is asked once more. A node that leaves discovery is not out
//! of reach: its engine is asked directly, and while it answers its containers stay. When more of the
//! fleet is out of reach than is allowed, nothing is moved at all: most likely it is this manager
//! that is cut off. What comes back then does not do so all at once: the grace period of those that
//! are still missing begins anew. Nodes that left the cluster long ago do not count.
//!
//! Containers that need each other go to one node, all or none of them. One that has data goes where
//! the data can be reached, and one that cannot join a network is not started.
//!
//! Without an agent on the node, the grace period is all that stands between a partition and two
//! running copies: containers on a node that is cut off go on running there.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use chrono::TimeDelta;
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

mod board;
mod copies;
mod lost;
mod moving;
mod networks;
pub(super) mod plan;
pub(super) mod remake;

pub use self::board::{Board, Superseded};
use self::{
    board::Ordered,
    lost::{LEASE_INTERVAL, PROBE_INTERVAL, SAMPLE_LIFE},
    moving::{Bounds, Manner},
    plan::{Group, Member, Plan},
};
use super::{
    Cluster,
    election::Term,
    memory::Memory,
    nodes::Availability,
    snapshot::{Found, Node, Snapshot},
};
use crate::{
    engine::{inventory::Container, monitor::Refresh},
    model::address::EngineAddr,
    store::{StoreError, agents::Lease},
};

/// How containers of failed nodes are dealt with.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long a node may be out of reach.
    pub grace: Duration,
    /// Whether the leases of agents are waited for.
    pub fencing: bool,
    /// How long after the end of a lease its agent may take to stop containers.
    pub lease_margin: Duration,
    /// Most moves at a time.
    pub max_moves: usize,
    /// Percentage of the fleet that may be out of reach; beyond it nothing is moved.
    pub max_failed_percent: u8,
}

/// Shortest time between two looks at what is and what should be.
const TICK: Duration = Duration::from_millis(250);

/// Longest time between two plans: some of what they depend on is not told of.
const PLAN_LIFE: Duration = Duration::from_secs(5);

/// How soon more is done when something ended.
const REFILL: Duration = Duration::from_millis(50);

/// Wait before a move that failed is tried again, doubling from the first to the second.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How long a node that left discovery and answers is asked whether it still does.
const DEPARTED_LIFE: Duration = Duration::from_secs(3600);

/// How long ago a node may have been seen last that discovery does not list when this manager
/// begins to lead, to be asked at all.
const ABSENT_LIFE: TimeDelta = TimeDelta::hours(24);

/// Most nodes that are remembered where a container could not be made.
const MAX_AVOIDED: usize = 16;

/// Why containers stay whose node may keep them running.
const LEASED: &str = "the agent of its node has a lease, and may keep it running";

/// A container of one engine.
pub type Place = (EngineAddr, Arc<str>);

/// Keeps what should be until `shutdown`, while this manager leads.
///
/// There is work when something changed, a job ended, or a wait is over; never more often than
/// [`TICK`], but for jobs that make room for others.
pub(super) async fn run(cluster: Cluster, options: Options, shutdown: CancellationToken) {
    let board = Arc::clone(&cluster.inner.board);
    let mut snapshots = cluster.watch();
    let mut desk = Desk::new(cluster, options);
    let mut next_at = Instant::now();
    let mut stepped_at = next_at;
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(ended) = desk.jobs.join_next(), if !desk.jobs.is_empty() => {
                if let Ok(ended) = ended {
                    desk.take(ended);
                }
                next_at = next_at.min(Instant::now() + REFILL);
                continue;
            }
            () = tokio::time::sleep_until(next_at) => {}
            changed = snapshots.changed() => {
                if changed.is_err() {
                    break;
                }
                desk.plan_soon();
                next_at = next_at.min(stepped_at + TICK);
                continue;
            }
            () = board.changed() => {
                desk.plan_soon();
                next_at = next_at.min(stepped_at + TICK);
                continue;
            }
        }
        stepped_at = Instant::now();
        if !desk.is_in_office() {
            next_at = stepped_at + TICK;
            continue;
        }
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            () = desk.step() => {}
        }
        next_at = desk.next_step(stepped_at);
    }
    board.close();
}

/// A node that is out of reach.
struct Failing {
    node: Arc<Node>,
    since: Instant,
    /// Whether its containers were dealt with once.
    is_planned: bool,
}

/// A node that left discovery with containers that may have to move.
struct Departed {
    node: Arc<Node>,
    left_at: Instant,
    /// Since when it does not answer, or since when that counts.
    silent_since: Option<Instant>,
    /// Since when it does not answer.
    lost_since: Option<Instant>,
    asked_at: Option<Instant>,
}

/// A lease as it was seen last.
struct Seen {
    lease: Option<Lease>,
    /// When the look ended that found it changed.
    since: Instant,
    /// When the last look began that found it so: what came later is not known.
    confirmed_at: Instant,
    /// What was made of it at that look.
    was_leased: bool,
}

/// What failed before, and shall be tried again.
struct Try {
    count: u32,
    next_at: Instant,
    /// Nodes where it did not work.
    avoid: Vec<EngineAddr>,
}

/// Why something could not be done about a container.
#[derive(Clone)]
struct Failure {
    reason: String,
    /// The node where it did not work, if another one may do.
    node: Option<EngineAddr>,
}

impl Failure {
    fn new(reason: String) -> Self {
        Self { reason, node: None }
    }
}

/// How it ended for one container.
type Outcome = (Place, Result<(), Failure>);

/// What a job came to.
enum Ended {
    /// Something was done about containers.
    Done(Vec<Outcome>),
    /// Engines were asked whether they are there.
    Asked(Vec<(EngineAddr, bool)>),
    /// The share of engines that seemed well and were silent.
    Sampled(f64),
}

/// What is being done about a container.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    /// It is made again elsewhere.
    Move,
    /// What was begun is ended, an old copy is removed, or it is started where it is.
    Rest,
}

/// An engine's last answer.
struct Answer {
    asked_at: Instant,
    is_silent: bool,
}

struct Desk {
    cluster: Cluster,
    options: Options,
    /// The term for which all of this was found out.
    term: Option<Term>,
    /// Whether what earlier leaders did is known.
    is_ready: bool,
    /// The snapshot that was looked at last.
    seen: Arc<Snapshot>,
    healthy: HashSet<EngineAddr>,
    failing: BTreeMap<EngineAddr, Failing>,
    departed: BTreeMap<EngineAddr, Departed>,
    /// What nodes said that failed, or left, when they were asked once more.
    answers: HashMap<EngineAddr, Answer>,
    /// Nodes that are being asked.
    asking: HashSet<EngineAddr>,
    /// The leases of the agents of nodes that are out of reach; `None` if there is no agent.
    leases: HashMap<EngineAddr, Seen>,
    /// Nodes that shall be empty.
    draining: HashSet<EngineAddr>,
    /// Cluster-wide IDs of containers of which there are several copies.
    copied: BTreeSet<Arc<str>>,
    tries: HashMap<Place, Try>,
    under_way: HashMap<Place, Work>,
    /// Whether a group waits for room: none that comes later goes before it.
    is_full: bool,
    /// When plans are made again at the latest.
    plans_at: Instant,
    jobs: JoinSet<Ended>,
    /// When a part of the fleet was asked last, and which share of it was silent.
    sampled: Option<(Instant, f64)>,
    is_sampling: bool,
}

impl Desk {
    fn new(cluster: Cluster, options: Options) -> Self {
        Self {
            cluster,
            options,
            term: None,
            is_ready: false,
            seen: Arc::default(),
            healthy: HashSet::new(),
            failing: BTreeMap::new(),
            departed: BTreeMap::new(),
            answers: HashMap::new(),
            asking: HashSet::new(),
            leases: HashMap::new(),
            draining: HashSet::new(),
            copied: BTreeSet::new(),
            tries: HashMap::new(),
            under_way: HashMap::new(),
            is_full: false,
            plans_at: Instant::now(),
            jobs: JoinSet::new(),
            sampled: None,
            is_sampling: false,
        }
    }

    fn board(&self) -> &Board {
        &self.cluster.inner.board
    }

    /// Whether this manager leads; what it was about in an earlier term is dropped.
    fn is_in_office(&mut self) -> bool {
        let leadership = self.cluster.leadership();
        let term = leadership.term();
        let term = term.filter(|term| leadership.is_current(*term));
        if term.is_none() || self.term != term {
            self.stand_down();
        }
        self.term = term;
        term.is_some()
    }

    /// What plans depend on changed.
    fn plan_soon(&mut self) {
        self.plans_at = Instant::now();
    }

    /// When there is more to do, if nothing happens before.
    fn next_step(&self, stepped_at: Instant) -> Instant {
        let soon = stepped_at + TICK;
        if !self.is_ready || self.trouble().is_some() {
            return soon;
        }
        let mut next = self.plans_at;
        let is_lost = !self.failing.is_empty() || !self.departed.is_empty();
        if is_lost && self.options.fencing && self.cluster.memory().is_some() {
            next = next.min(stepped_at + LEASE_INTERVAL);
        }
        let asked = self.departed.values().filter_map(|one| one.asked_at);
        let next = asked.fold(next, |next, at| next.min(at + PROBE_INTERVAL));
        next.max(soon)
    }

    /// When plans are to be made again if nothing changes.
    fn next_plans(&self) -> Instant {
        let now = Instant::now();
        let silent = self.departed.values().filter_map(|one| one.silent_since);
        let since = self.failing.values().map(|failing| failing.since);
        let grace = since.chain(silent).map(|since| since + self.options.grace);
        let tries = self.tries.values().map(|tried| tried.next_at);
        let answers = self.answers.values();
        let asks = answers.map(|answer| answer.asked_at + SAMPLE_LIFE);
        let waits = grace.chain(tries).chain(asks);
        let next = waits.filter(|at| *at > now).min();
        next.map_or(now + PLAN_LIFE, |next| next.min(now + PLAN_LIFE))
    }

    fn trouble(&self) -> Option<StoreError> {
        self.cluster.memory().and_then(Memory::trouble)
    }

    /// Tells those who ordered moves that nothing comes of them.
    fn refuse_orders(&self, reason: &str) {
        for Ordered { done, .. } in self.board().take_orders() {
            // Whoever ordered it may have given up.
            let _ = done.send(Err(reason.to_owned()));
        }
    }

    /// Another manager leads: what this one was about to do is its business now.
    fn stand_down(&mut self) {
        self.refuse_orders("this manager does not lead");
        if !self.is_ready {
            return;
        }
        let cluster = self.cluster.clone();
        *self = Self::new(cluster, self.options.clone());
        let mut notes = self.board().notes();
        notes.waiting.clear();
        notes.halted = None;
        notes.superseded.clear();
    }

    async fn step(&mut self) {
        if self.trouble().is_some() {
            // What is moved has to be remembered.
            self.refuse_orders("the store cannot be used");
            return;
        }
        if !self.is_ready && !self.get_ready().await {
            self.refuse_orders("this manager has only begun to lead");
            return;
        }
        let snapshot = self.cluster.snapshot();
        self.observe(&snapshot);
        self.ask_departed();
        self.look_at_leases().await;
        if self.plans_at > Instant::now() {
            return;
        }
        self.is_full = false;
        self.forget_gone(&snapshot);
        self.settle_copies(&snapshot);
        self.start_fenced(&snapshot);
        self.remove_superseded(&snapshot);
        self.deal_with_failed(&snapshot);
        self.drain(&snapshot);
        self.shift(&snapshot);
        self.plans_at = self.next_plans();
    }

    /// Learns what earlier leaders did.
    async fn get_ready(&mut self) -> bool {
        if self.cluster.names_known().await.is_err() {
            return false;
        }
        if let Some(memory) = self.cluster.memory().cloned() {
            match memory.superseded().await {
                Ok(places) => {
                    for (addr, id, name) in places {
                        self.board()
                            .supersede((addr.clone(), Arc::clone(&id)), name);
                        self.cluster.refresh(&addr, Refresh::Container(id)).await;
                    }
                }
                Err(error) => {
                    debug!(%error, "cannot read which containers were moved");
                    return false;
                }
            }
        }
        if let Some(memory) = self.cluster.memory().cloned()
            && (memory.announce(self.options.fencing).await.is_err()
                || self.look_for_absent(&memory).await.is_err())
        {
            return false;
        }
        self.is_ready = true;
        true
    }

    /// Looks for nodes that left discovery while no manager saw it: with a backend that drops those
    /// that do not register, that is how nodes die.
    async fn look_for_absent(&self, memory: &Memory) -> Result<(), StoreError> {
        let snapshot = self.cluster.snapshot();
        let is_listed = |addr: &EngineAddr| snapshot.node(addr).is_some();
        for mut inventory in memory.others(is_listed, ABSENT_LIFE).await? {
            let addr = inventory.addr.clone();
            for id in self.board().superseded_on(&addr).keys() {
                inventory.containers.remove(id);
            }
            debug!(%addr, "node is on record, and discovery does not list it");
            let client = self.cluster.inner.monitors.client(addr);
            self.board().departed(Arc::new(Node {
                inventory: Arc::new(inventory),
                client,
            }));
        }
        Ok(())
    }

    /// Takes note of which nodes are out of reach, back, or gone.
    fn observe(&mut self, snapshot: &Arc<Snapshot>) {
        let now = Instant::now();
        for node in snapshot.nodes() {
            let addr = &node.inventory.addr;
            self.departed.remove(addr);
            if node.inventory.is_healthy() {
                if let Some(back) = self.failing.remove(addr) {
                    debug!(node = node.inventory.name(), "node is in reach again");
                    self.forget(&back.node);
                }
                let before = match self.healthy.insert(addr.clone()) {
                    true => None,
                    false => self.seen.node(addr).cloned(),
                };
                self.look_for_copies(snapshot, node, before.as_deref());
            } else if node.inventory.is_validated() {
                self.healthy.remove(addr);
                let failing = self.failing.entry(addr.clone()).or_insert_with(|| Failing {
                    node: Arc::clone(node),
                    since: now,
                    is_planned: false,
                });
                failing.node = Arc::clone(node);
            }
        }
        let departed = std::mem::take(&mut self.board().notes().departed);
        for (addr, (node, left_at)) in departed {
            if let Some(there) = snapshot.node(&addr) {
                // It is back, or this snapshot is from before it left.
                if Arc::ptr_eq(there, &node) {
                    self.board().notes().departed.insert(addr, (node, left_at));
                }
                continue;
            }
            self.healthy.remove(&addr);
            let failing = self.failing.remove(&addr);
            let since = failing.map(|failing| failing.since);
            let departed = Departed {
                node,
                left_at,
                silent_since: since,
                lost_since: since,
                asked_at: None,
            };
            self.departed.insert(addr, departed);
        }
        self.failing.retain(|addr, _| snapshot.node(addr).is_some());
        self.healthy.retain(|addr| snapshot.node(addr).is_some());
        self.seen = Arc::clone(snapshot);
    }

    /// Drops what is remembered of containers and nodes that are gone for good.
    fn forget_gone(&mut self, snapshot: &Snapshot) {
        let departed = &self.departed;
        let is_known =
            |addr: &EngineAddr| snapshot.node(addr).is_some() || departed.contains_key(addr);
        let mut notes = self.cluster.inner.board.notes();
        let superseded = &notes.superseded;
        let is_there = |(addr, id): &Place| match snapshot.node(addr) {
            Some(node) if node.inventory.is_healthy() => {
                let of_node = superseded.get(addr);
                let is_superseded = of_node.is_some_and(|ids| ids.contains_key(id));
                is_superseded || node.inventory.containers.contains_key(id)
            }
            _ => is_known(addr),
        };
        self.tries.retain(|place, _| is_there(place));
        let gone: Vec<Place> = notes
            .waiting
            .keys()
            .filter(|place| !is_there(place))
            .cloned()
            .collect();
        for place in gone {
            notes.waiting.remove(&place);
        }
        notes.fenced.retain(|addr, _| is_known(addr));
    }

    fn deal_with_failed(&mut self, snapshot: &Arc<Snapshot>) {
        let failed = self.failed();
        let Some(reason) = self.reason_to_halt(snapshot, failed.len()) else {
            return;
        };
        if self.halt(reason) {
            return;
        }
        for node in failed {
            let addr = &node.inventory.addr;
            let mut plan = Plan::new(&node, snapshot, |place| self.board().was_stopped(place));
            if self.is_leased(addr) {
                let is_fenced = |group: &mut Group| group.members.iter().any(Member::is_fenced);
                let fenced = plan.groups.extract_if(.., is_fenced);
                for member in fenced.flat_map(|group| group.members) {
                    let id = Arc::clone(&member.found.container.id);
                    plan.stay.push((id, LEASED.to_owned()));
                }
            }
            self.carry_out(&node, plan, Manner::Failed);
            if let Some(failing) = self.failing.get_mut(&node.inventory.addr) {
                failing.is_planned = true;
            }
        }
        self.departed.retain(|_, departed| {
            movable(&departed.node.inventory.containers)
                .next()
                .is_some()
        });
    }

    /// Moves what may be moved away from nodes that are well and shall be empty.
    fn drain(&mut self, snapshot: &Arc<Snapshot>) {
        let halted = self.board().halted();
        for node in snapshot.nodes() {
            let addr = &node.inventory.addr;
            let availability = self.cluster.settings(addr).availability;
            if availability != Availability::Drain || !node.inventory.is_healthy() {
                if self.draining.remove(addr) && node.inventory.is_healthy() {
                    self.forget(node);
                }
                continue;
            }
            self.draining.insert(addr.clone());
            // One group at a time.
            let mut under_way = self.under_way.iter();
            if under_way.any(|((on, _), work)| on == addr && *work == Work::Move) {
                continue;
            }
            let mut plan = Plan::new(node, snapshot, |_| false);
            if let Some(reason) = &halted {
                let groups = std::mem::take(&mut plan.groups);
                for member in groups.into_iter().flat_map(|group| group.members) {
                    self.wait(place_of(&member.found), reason.as_str().into());
                }
                continue;
            }
            plan.groups.retain(|group| {
                let mut places = group.members.iter().map(|member| place_of(&member.found));
                places.all(|place| self.is_due(&place))
            });
            plan.groups.truncate(1);
            self.carry_out(node, plan, Manner::Orderly);
        }
    }

    /// Moves containers to better nodes, as ordered.
    fn shift(&mut self, snapshot: &Arc<Snapshot>) {
        if let Some(reason) = self.board().halted() {
            self.refuse_orders(&reason);
            return;
        }
        for Ordered { shift, done } in self.board().take_orders() {
            let (addr, id) = &shift.place;
            let node = snapshot.node(addr);
            let node = node.filter(|node| node.inventory.is_healthy());
            // What may move is judged once more: it may have changed since.
            let plan = node.map(|node| Plan::new(node, snapshot, |_| false));
            let groups = plan.into_iter().flat_map(|plan| plan.groups);
            let mut alone = groups.filter(|group| group.members.len() == 1);
            let group = alone.find(|group| group.members[0].found.container.id == *id);
            let (Some(group), true) = (group, self.is_due(&shift.place)) else {
                let _ = done.send(Err("it may not be moved any more".to_owned()));
                continue;
            };
            self.under_way.insert(shift.place.clone(), Work::Move);
            let bounds = Bounds {
                manner: Manner::Orderly,
                failed: HashSet::new(),
                avoid: Vec::new(),
                only: Some(shift.to),
            };
            let cluster = self.cluster.clone();
            self.jobs.spawn(async move {
                let mut outcomes = moving::move_group(&cluster, &group, &bounds).await;
                let failed = outcomes.iter_mut().find_map(|(_, outcome)| {
                    let failure = std::mem::replace(outcome, Ok(())).err()?;
                    Some(failure.reason)
                });
                // Nobody waits for it where it is; a failure is told to who ordered the move.
                let _ = done.send(failed.map_or(Ok(()), Err));
                Ended::Done(outcomes)
            });
        }
    }

    fn carry_out(&mut self, node: &Arc<Node>, plan: Plan, manner: Manner) {
        let addr = &node.inventory.addr;
        for (id, reason) in plan.stay {
            self.wait((addr.clone(), id), reason.into());
        }
        for (old, new) in plan.done {
            self.settle(old, new, manner);
        }
        for group in plan.groups {
            let members = group.members.iter();
            let places: Vec<Place> = members.map(|member| place_of(&member.found)).collect();
            if !places.iter().all(|place| self.is_due(place)) {
                continue;
            }
            let moves = self.under_way.values();
            let moves = moves.filter(|work| **work == Work::Move).count();
            // A group that is larger than the limit goes alone, and smaller ones do not overtake it.
            let fits = moves == 0 || moves + places.len() <= self.options.max_moves;
            if self.is_full || !fits {
                self.is_full = true;
                break;
            }
            let tried = places.iter().filter_map(|place| self.tries.get(place));
            let avoid: Vec<_> = tried.flat_map(|tried| tried.avoid.clone()).collect();
            self.under_way
                .extend(places.into_iter().map(|place| (place, Work::Move)));
            let bounds = Bounds {
                manner,
                failed: self.failing.keys().cloned().collect(),
                avoid,
                only: None,
            };
            let cluster = self.cluster.clone();
            self.jobs.spawn(async move {
                Ended::Done(moving::move_group(&cluster, &group, &bounds).await)
            });
        }
    }

    /// Whether something may be done about a container now.
    fn is_due(&self, place: &Place) -> bool {
        let tried = self.tries.get(place);
        !self.under_way.contains_key(place)
            && tried.is_none_or(|tried| tried.next_at <= Instant::now())
    }

    fn take(&mut self, ended: Ended) {
        self.plan_soon();
        match ended {
            Ended::Done(outcomes) => self.note_outcomes(outcomes),
            Ended::Asked(answers) => {
                for (addr, answers) in answers {
                    self.note_answer(addr, answers);
                }
            }
            Ended::Sampled(share) => {
                self.is_sampling = false;
                self.sampled = Some((Instant::now(), share));
            }
        }
    }

    fn note_outcomes(&mut self, outcomes: Vec<Outcome>) {
        for (place, outcome) in outcomes {
            self.under_way.remove(&place);
            match outcome {
                Ok(()) => {
                    self.tries.remove(&place);
                    if let Some(departed) = self.departed.get_mut(&place.0) {
                        departed.node = Arc::new(departed.node.without(&place.1));
                    }
                }
                Err(failure) => self.try_again(place, failure),
            }
        }
    }

    fn try_again(&mut self, place: Place, failure: Failure) {
        let Failure { reason, node } = failure;
        if self.wait(place.clone(), reason.as_str().into()) {
            let (addr, id) = &place;
            warn!(node = %addr, "Failed to reschedule container {id}: {reason}");
        }
        let now = Instant::now();
        let tried = self.tries.entry(place).or_insert(Try {
            count: 0,
            next_at: now,
            avoid: Vec::new(),
        });
        let wait = BACK_OFF.0.saturating_mul(1 << tried.count.min(16));
        tried.count = tried.count.saturating_add(1);
        tried.next_at = now + wait.min(BACK_OFF.1);
        if let Some(node) = node.filter(|node| !tried.avoid.contains(node)) {
            if tried.avoid.len() >= MAX_AVOIDED {
                tried.avoid.remove(0);
            }
            tried.avoid.push(node);
        }
    }

    /// Tells why a container waits; returns whether that is new.
    fn wait(&self, place: Place, reason: Arc<str>) -> bool {
        let mut notes = self.board().notes();
        let before = notes.waiting.insert(place, Arc::clone(&reason));
        before.is_none_or(|before| before != reason)
    }

    /// A node is back: nothing of it waits any more.
    fn forget(&mut self, node: &Node) {
        let addr = &node.inventory.addr;
        self.tries.retain(|(on, _), _| on != addr);
        self.board().notes().waiting.retain(|(on, _), _| on != addr);
    }
}

/// The containers that may have to be made again elsewhere.
fn movable(
    containers: &imbl::OrdMap<Arc<str>, Arc<Container>>,
) -> impl Iterator<Item = &Arc<Container>> {
    let containers = containers.values();
    containers.filter(|container| !container.document.is_empty())
}

fn place_of(found: &Found) -> Place {
    let addr = found.node.inventory.addr.clone();
    (addr, Arc::clone(&found.container.id))
}
