//! What the placement thread owns, and does one command at a time.
//!
//! Whoever has all the time to himself, as a simulation has, uses a [`Desk`] without a thread.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use rand::{RngExt, rngs::StdRng};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Command, PlaceError, Settled, Shift, Wanted};
use crate::{
    cluster::{
        index::Index,
        nodes::{Availability, Settings},
    },
    engine::{
        health::Status,
        inventory::{Container, Inventory},
    },
    model::{address::EngineAddr, resource::Sum},
    scheduler::{
        Call, ScheduleError, Scheduler,
        explain::Explanation,
        request::Request,
        table::{Node, NodeStatus, NodeTable, Usage},
    },
};

/// What one key holds.
enum Held {
    /// Room, ports, and a name on a node.
    Place {
        slot: u32,
        container: Arc<Container>,
    },
    /// A name alone.
    Name(String),
}

/// A node as it was seen last.
struct Seen {
    inventory: Arc<Inventory>,
    /// What its containers have set aside: adding them up for each create would cost by their
    /// number.
    reserved: Sum,
}

/// What the placement thread owns.
pub struct Desk {
    scheduler: Scheduler,
    overcommit: f64,
    /// Where the seeds of decisions come from.
    seeds: StdRng,
    table: NodeTable,
    slots: HashMap<EngineAddr, u32>,
    settings: HashMap<EngineAddr, Settings>,
    seen: HashMap<u32, Seen>,
    /// How many of a node's containers are left out of account for the moment.
    absent: HashMap<u32, u32>,
    // Invariant: nobody else holds this while it is changed, so changes never copy it.
    index: Arc<Index>,
    held: HashMap<u64, Held>,
    // Invariant: the names of `Held::Name`, and how many hold each.
    names: HashMap<String, usize>,
    next_key: u64,
    troubles: Arc<Mutex<Vec<String>>>,
}

impl Desk {
    /// A desk without nodes. Nodes are filled beyond what they have by `overcommit`, a fraction.
    ///
    /// Equal calls of a desk with equal seeds, and of plugins that look at nothing else, give equal
    /// answers.
    pub fn new(scheduler: Scheduler, overcommit: f64, seeds: StdRng) -> Self {
        Self {
            troubles: Arc::new(Mutex::new(scheduler.troubles())),
            scheduler,
            overcommit,
            seeds,
            table: NodeTable::default(),
            slots: HashMap::new(),
            settings: HashMap::new(),
            seen: HashMap::new(),
            absent: HashMap::new(),
            index: Arc::default(),
            held: HashMap::new(),
            names: HashMap::new(),
            next_key: 0,
        }
    }

    /// What is wrong with the plugins, as of the last placement.
    pub(super) fn troubles(&self) -> Arc<Mutex<Vec<String>>> {
        Arc::clone(&self.troubles)
    }

    pub(super) fn run(
        mut self,
        runtime: &tokio::runtime::Handle,
        mut commands: mpsc::Receiver<Command>,
        shutdown: &CancellationToken,
    ) {
        while let Some(command) = runtime.block_on(async {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => None,
                command = commands.recv() => command,
            }
        }) {
            self.obey(command);
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Put(inventory) => self.put(&inventory),
            Command::Remove(addr) => self.remove(&addr),
            Command::Set(addr, settings) => self.set(addr, settings),
            Command::Place(wanted, reply) => {
                let answer = self.place(&wanted);
                *self.troubles.lock().unwrap_or_else(PoisonError::into_inner) =
                    self.scheduler.troubles();
                let key = answer.as_ref().ok().map(|(_, key)| *key);
                if reply.send(answer).is_err()
                    && let Some(key) = key
                {
                    self.release(key);
                }
            }
            Command::Rank(request, reply) => {
                // Nobody needs the answer of a request that was dropped.
                let _ = reply.send(self.rank(&request, usize::MAX));
            }
            Command::Explain(request, instead_of, reply) => {
                let _ = reply.send(self.explain(&request, instead_of));
            }
            Command::BestShift(shifts, settled, reply) => {
                let _ = reply.send(self.best_shift(&shifts, &settled));
            }
            Command::ReserveName(name, reply) => {
                let answer = self.reserve_name(name);
                let key = answer.as_ref().ok().copied();
                if reply.send(answer).is_err()
                    && let Some(key) = key
                {
                    self.release(key);
                }
            }
            Command::HoldName(name, reply) => {
                let key = self.hold_name(name);
                if reply.send(key).is_err() {
                    self.release(key);
                }
            }
            Command::Release(key) => self.release(key),
        }
    }

    /// Takes what is known of a node. A container that was placed and is seen now is no longer held.
    pub fn put(&mut self, inventory: &Arc<Inventory>) {
        let node = self.node(inventory);
        let slot = match self.slots.get(&inventory.addr) {
            Some(slot) => {
                self.table.update(*slot, node);
                *slot
            }
            None => {
                let slot = self.table.insert(node);
                self.slots.insert(inventory.addr.clone(), slot);
                slot
            }
        };
        let index = Arc::make_mut(&mut self.index);
        let (before, mut reserved) = match self.seen.remove(&slot) {
            Some(seen) => (Some(seen.inventory), seen.reserved),
            None => (None, Sum::default()),
        };
        let old = before
            .as_ref()
            .map(|old| old.containers.clone())
            .unwrap_or_default();
        for change in old.diff(&inventory.containers) {
            use imbl::ordmap::DiffItem;
            match change {
                DiffItem::Add(_, container) => {
                    fulfil(&mut self.held, index, slot, container);
                    index.add(slot, container);
                    reserved.add(container.reserved);
                }
                DiffItem::Remove(_, container) => {
                    index.remove(slot, container);
                    reserved.take(container.reserved);
                }
                DiffItem::Update { old, new } => {
                    index.remove(slot, old.1);
                    index.add(slot, new.1);
                    reserved.take(old.1.reserved);
                    reserved.add(new.1.reserved);
                }
            }
        }
        index.update(slot, before.as_deref(), Some(inventory));
        let seen = Seen {
            inventory: Arc::clone(inventory),
            reserved,
        };
        self.seen.insert(slot, seen);
        self.update_usage(slot);
    }

    fn set(&mut self, addr: EngineAddr, settings: Settings) {
        self.settings.insert(addr.clone(), settings);
        let slot = self.slots.get(&addr).copied();
        let Some((slot, seen)) = slot.and_then(|slot| Some((slot, self.seen.get(&slot)?))) else {
            return;
        };
        let node = self.node(&Arc::clone(&seen.inventory));
        self.table.update(slot, node);
    }

    fn remove(&mut self, addr: &EngineAddr) {
        let Some(slot) = self.slots.remove(addr) else {
            return;
        };
        let index = Arc::make_mut(&mut self.index);
        if let Some(Seen { inventory, .. }) = self.seen.remove(&slot) {
            for container in inventory.containers.values() {
                index.remove(slot, container);
            }
            index.update(slot, Some(&inventory), None);
        }
        // Creates under way on the node keep their names until they end.
        for held in self.held.values_mut() {
            if let Held::Place {
                slot: on,
                container,
            } = held
                && *on == slot
            {
                index.remove(slot, container);
                let name = container.name().to_owned();
                *self.names.entry(name.clone()).or_default() += 1;
                *held = Held::Name(name);
            }
        }
        self.table.remove(slot);
    }

    /// Chooses a node and holds what the container needs there, until it is seen there or the key
    /// is released.
    ///
    /// # Errors
    ///
    /// [`PlaceError`]; never that of a shutdown.
    pub fn place(&mut self, wanted: &Wanted) -> Result<(EngineAddr, u64), PlaceError> {
        let limit = 1 + wanted.avoid.len();
        let ranked = match &wanted.instead_of {
            Some(place) => self.without(place, |desk| {
                // Other creates under way cannot have the name, since the container that goes has it.
                if desk.is_taken_by_others(wanted) {
                    return Err(PlaceError::NameTaken(wanted.request.name.clone()));
                }
                desk.rank(&wanted.request, limit)
            })?,
            None => {
                self.check_name(&wanted.request.name)?;
                self.rank(&wanted.request, limit)?
            }
        };
        let addr = ranked
            .iter()
            .find(|addr| !wanted.avoid.contains(addr))
            .or(ranked.first())
            .cloned()
            .ok_or(ScheduleError::NoNodes)?;
        let slot = *self.slots.get(&addr).ok_or(ScheduleError::NoNodes)?;
        let container = Arc::clone(&wanted.container);
        Arc::make_mut(&mut self.index).add(slot, &container);
        let key = self.hold(Held::Place { slot, container });
        self.update_usage(slot);
        Ok((addr, key))
    }

    fn rank(&mut self, request: &Request, limit: usize) -> Result<Vec<EngineAddr>, PlaceError> {
        let inventory: Arc<dyn crate::scheduler::Inventory> = Arc::clone(&self.index) as _;
        let call = Call {
            nodes: &self.table,
            inventory: &inventory,
            seed: self.seeds.random(),
        };
        let ranking = self.scheduler.schedule(request, &call, limit)?;
        let addrs = ranking
            .iter()
            .filter_map(|node| Some(self.seen.get(&node.slot)?.inventory.addr.clone()));
        Ok(addrs.collect())
    }

    /// How a container would be placed now; nothing is held. With `instead_of`, as if that
    /// container were not there.
    ///
    /// # Errors
    ///
    /// [`PlaceError::NameTaken`], unless a container stands in for itself.
    pub fn explain(
        &mut self,
        request: &Request,
        instead_of: Option<(EngineAddr, Arc<str>)>,
    ) -> Result<Explanation, PlaceError> {
        match instead_of {
            Some(place) => Ok(self.without(&place, |desk| desk.explain_now(request))),
            None => {
                self.check_name(&request.name)?;
                Ok(self.explain_now(request))
            }
        }
    }

    /// Does something as if a container were not there.
    fn without<T>(
        &mut self,
        place: &(EngineAddr, Arc<str>),
        work: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let taken = self.take_out(place);
        let done = work(self);
        if let Some((slot, container)) = taken {
            self.put_back(slot, &container);
        }
        done
    }

    /// Whether something has a name that is not what is wanted: a create of the same container
    /// whose end is unknown is no reason to wait, and what comes of it has a smaller token.
    fn is_taken_by_others(&mut self, wanted: &Wanted) -> bool {
        let own: Vec<(u32, Arc<Container>)> = self
            .held
            .values()
            .filter_map(|held| match held {
                Held::Place { slot, container }
                    if container.swarm_id == wanted.container.swarm_id =>
                {
                    Some((*slot, Arc::clone(container)))
                }
                _ => None,
            })
            .collect();
        let index = Arc::make_mut(&mut self.index);
        for (slot, container) in &own {
            index.remove(*slot, container);
        }
        let is_taken = index.is_taken(&wanted.request.name);
        for (slot, container) in &own {
            index.add(*slot, container);
        }
        is_taken
    }

    /// Leaves a container out of account.
    fn take_out(&mut self, (addr, id): &(EngineAddr, Arc<str>)) -> Option<(u32, Arc<Container>)> {
        let (slot, container) = self.find(addr, id)?;
        Arc::make_mut(&mut self.index).remove(slot, &container);
        if let Some(seen) = self.seen.get_mut(&slot) {
            seen.reserved.take(container.reserved);
        }
        *self.absent.entry(slot).or_default() += 1;
        self.update_usage(slot);
        Some((slot, container))
    }

    fn put_back(&mut self, slot: u32, container: &Arc<Container>) {
        Arc::make_mut(&mut self.index).add(slot, container);
        if let Some(seen) = self.seen.get_mut(&slot) {
            seen.reserved.add(container.reserved);
        }
        if let Some(count) = self.absent.get_mut(&slot) {
            *count -= 1;
            if *count == 0 {
                self.absent.remove(&slot);
            }
        }
        self.update_usage(slot);
    }

    fn best_shift(&mut self, shifts: &[Shift], settled: &[Settled]) -> Option<Shift> {
        let mut undo = Vec::new();
        for shift in shifts {
            let to = self.slots.get(&shift.to).copied();
            if let Some(slot) = to
                && let Some((from, container)) = self.take_out(&shift.place)
            {
                Arc::make_mut(&mut self.index).add(slot, &container);
                let held = Arc::clone(&container);
                let key = self.hold(Held::Place {
                    slot,
                    container: held,
                });
                self.update_usage(slot);
                undo.push((from, container, key));
            }
        }
        let mut best: Option<(Shift, &Settled)> = None;
        for one in settled {
            let gain = |shift: &Shift| (shift.score, shift.containers);
            let shift = self.without(&one.place, |desk| desk.shift(one, 0));
            if let Some(shift) = shift
                && best
                    .as_ref()
                    .is_none_or(|(best, _)| gain(best) < gain(&shift))
            {
                best = Some((shift, one));
            }
        }
        // A strategy that draws lots prefers another node the next time.
        let best = best.filter(|(shift, one)| {
            let again = self.without(&one.place, |desk| desk.shift(one, 1));
            again.as_ref() == Some(shift)
        });
        for (slot, container, key) in undo.into_iter().rev() {
            self.release(key);
            self.put_back(slot, &container);
        }
        best.map(|(shift, _)| shift)
    }

    /// Where a container that was taken out would be better than where it was.
    fn shift(&mut self, settled: &Settled, seed: u64) -> Option<Shift> {
        let inventory: Arc<dyn crate::scheduler::Inventory> = Arc::clone(&self.index) as _;
        let call = Call {
            nodes: &self.table,
            inventory: &inventory,
            seed,
        };
        let ranking = self
            .scheduler
            .schedule(&settled.request, &call, usize::MAX)
            .ok()?;
        let own = *self.slots.get(&settled.place.0)?;
        let first = ranking.first()?;
        // Where it does not fit any more it is not moved either: somebody wanted it there.
        let now = ranking.iter().find(|ranked| ranked.slot == own)?;
        let count = |slot: u32| self.table.usage(slot).containers;
        let score = first.score.abs_diff(now.score);
        let containers = count(first.slot).abs_diff(count(own));
        let is_better = first.slot != own && (score > 0 || containers > 0);
        is_better.then_some(())?;
        Some(Shift {
            place: settled.place.clone(),
            to: self.seen.get(&first.slot)?.inventory.addr.clone(),
            score,
            containers,
        })
    }

    fn explain_now(&mut self, request: &Request) -> Explanation {
        let inventory: Arc<dyn crate::scheduler::Inventory> = Arc::clone(&self.index) as _;
        let call = Call {
            nodes: &self.table,
            inventory: &inventory,
            seed: self.seeds.random(),
        };
        self.scheduler.explain(request, &call)
    }

    fn find(&self, addr: &EngineAddr, id: &str) -> Option<(u32, Arc<Container>)> {
        let slot = *self.slots.get(addr)?;
        let container = self.seen.get(&slot)?.inventory.containers.get(id)?;
        Some((slot, Arc::clone(container)))
    }

    fn reserve_name(&mut self, name: String) -> Result<u64, PlaceError> {
        self.check_name(&name)?;
        Ok(self.hold_name(name))
    }

    /// Holds a name whoever has it.
    fn hold_name(&mut self, name: String) -> u64 {
        *self.names.entry(name.clone()).or_default() += 1;
        self.hold(Held::Name(name))
    }

    /// An empty name is always free: the engine will invent one.
    fn check_name(&self, name: &str) -> Result<(), PlaceError> {
        if !name.is_empty() && (self.index.is_taken(name) || self.names.contains_key(name)) {
            return Err(PlaceError::NameTaken(name.to_owned()));
        }
        Ok(())
    }

    fn hold(&mut self, held: Held) -> u64 {
        let key = self.next_key;
        self.next_key += 1;
        self.held.insert(key, held);
        key
    }

    /// Gives up what a key holds; nothing happens if the container was seen meanwhile.
    fn release(&mut self, key: u64) {
        match self.held.remove(&key) {
            Some(Held::Place { slot, container }) => {
                Arc::make_mut(&mut self.index).remove(slot, &container);
                self.update_usage(slot);
            }
            Some(Held::Name(name)) => {
                if let Some(count) = self.names.get_mut(&name) {
                    *count -= 1;
                    if *count == 0 {
                        self.names.remove(&name);
                    }
                }
            }
            None => {}
        }
    }

    fn update_usage(&mut self, slot: u32) {
        let mut usage = Usage::default();
        if let Some(seen) = self.seen.get(&slot) {
            usage.reserved = seen.reserved.amount();
            let absent = self.absent.get(&slot).copied().unwrap_or(0);
            usage.containers = (seen.inventory.containers.len() as u32).saturating_sub(absent);
        }
        for held in self.held.values() {
            if let Held::Place {
                slot: on,
                container,
            } = held
                && *on == slot
            {
                usage.reserved += container.reserved;
                usage.containers += 1;
            }
        }
        self.table.set_usage(slot, usage);
    }

    fn node(&self, inventory: &Inventory) -> Node {
        let settings = self.settings.get(&inventory.addr);
        let takes_none = settings.is_some_and(|said| said.availability != Availability::Active);
        let specs = inventory.specs.as_ref();
        let mut labels = specs.map_or_else(BTreeMap::new, |specs| specs.labels.clone());
        if let Some(said) = settings {
            labels.extend(said.labels.clone());
        }
        Node {
            id: inventory.node_id(),
            name: inventory.name().to_owned(),
            address: inventory.addr.to_string(),
            status: match inventory.status {
                Status::Pending => NodeStatus::Pending,
                Status::Healthy if takes_none => NodeStatus::Draining,
                Status::Healthy => NodeStatus::Healthy,
                Status::Unhealthy => NodeStatus::Unhealthy,
                Status::Disconnected => NodeStatus::Disconnected,
            },
            health: inventory.health,
            total: inventory.total().overcommitted(self.overcommit),
            labels: labels.into_iter().collect(),
        }
    }
}

/// Drops the reservation that a container which is now seen was made for.
fn fulfil(held: &mut HashMap<u64, Held>, index: &mut Index, slot: u32, seen: &Container) {
    let Some(swarm_id) = &seen.swarm_id else {
        return;
    };
    held.retain(|_, held| match held {
        Held::Place {
            slot: on,
            container,
        } if *on == slot && container.swarm_id.as_ref() == Some(swarm_id) => {
            index.remove(slot, container);
            false
        }
        _ => true,
    });
}
