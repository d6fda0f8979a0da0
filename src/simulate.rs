//! Replays a workload against modelled nodes: the real placement and plugins, and no engines.
//!
//! ```text
//! config::workload -> timeline   what comes when, of classes and of a trace
//!                  -> survey     once through it: when it ends, what a usual container asks for
//!                  -> run        -> fleet -> cluster::placement::desk -> scheduler -> plugins
//!                                -> meter -> report -> table, JSON, chart
//! ```
//!
//! Time is virtual and goes on from event to event. At the same moment containers leave before
//! others come; generated ones come in the order of their classes, then those of the trace in the
//! order of its lines. The randomness of arrivals, lifetimes, and strategies follows from one seed,
//! and the arrivals are the same for every strategy. So one seed gives one report, but for what
//! decisions took.
//!
//! A container is refused once and does not come again. Nothing here knows WASM: `app` brings the
//! scheduler.

mod chart;
mod fleet;
mod meter;
mod report;
mod survey;
mod timeline;
mod trace;

use std::{
    cmp::{Ordering, Reverse},
    collections::{BinaryHeap, HashMap},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{config::workload::Workload, model::resource::Amount, scheduler::Scheduler};

use self::{
    fleet::{Fleet, Place},
    meter::Meter,
    report::Decisions,
    survey::Survey,
    timeline::{Arrival, Event, Stay, Task, Timeline},
};

pub use self::{
    chart::{ChartError, draw},
    report::{Report, Run},
    trace::TraceError,
};

/// Most containers of a workload that may come.
pub const MAX_ARRIVALS: u64 = 100_000_000;

/// Most containers that may run at once: each takes about a kilobyte.
pub const MAX_RUNNING: u64 = 2_000_000;

/// The longest decision that is told from longer ones.
const LONGEST_DECISION: Duration = Duration::from_secs(60);

/// Microseconds since the begin.
type Micros = u64;

/// A workload that can be run.
pub struct Simulation {
    workload: Workload,
    seed: u64,
    survey: Survey,
}

/// Why a workload cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    /// The trace is wrong, or cannot be read.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// Nothing comes.
    #[error("no container comes before the workload ends")]
    NoArrivals,
    /// More come than can be counted on to end some day.
    #[error("more than {MAX_ARRIVALS} containers come")]
    TooManyArrivals,
    /// Memory is bounded by bounding them.
    #[error("more than {MAX_RUNNING} containers run at once")]
    TooManyRunning,
}

impl Simulation {
    /// Goes once through the workload, which checks the whole trace.
    ///
    /// # Errors
    ///
    /// [`SimulateError`]
    pub fn try_new(workload: Workload, seed: u64) -> Result<Self, SimulateError> {
        let (_, timeline_seed) = seeds(seed);
        let survey = Survey::of(Timeline::open(&workload, timeline_seed)?, &workload, seed)?;
        Ok(Self {
            workload,
            seed,
            survey,
        })
    }

    /// Runs the workload with a scheduler whose strategy is called `strategy`. Nodes are filled
    /// beyond what they have by `overcommit`, a fraction.
    ///
    /// Memory grows with the nodes and with the containers that run at once, not with those that
    /// come.
    ///
    /// # Errors
    ///
    /// [`SimulateError`]
    pub fn run(
        &self,
        strategy: &str,
        scheduler: Scheduler,
        overcommit: f64,
    ) -> Result<Run, SimulateError> {
        let (placement_seed, timeline_seed) = seeds(self.seed);
        let mut timeline = Timeline::open(&self.workload, timeline_seed)?;
        let fleet = Fleet::new(
            &self.workload,
            strategy,
            scheduler,
            overcommit,
            placement_seed,
        );
        let capacities = fleet.capacities(overcommit);
        let references = [self.survey.median, self.survey.largest];
        let mut world = World {
            meter: Meter::new(capacities, references, self.survey.end),
            fleet,
            leaving: BinaryHeap::new(),
            tasks: HashMap::new(),
            serial: 0,
            run: Run::new(strategy, timeline.class_names()),
            latencies: Histogram::new_with_max(LONGEST_DECISION.as_nanos() as u64, 3)
                .expect("three digits of up to a minute are no odd bounds"),
        };
        let started = Instant::now();
        while let Some(event) = timeline.next()? {
            if event.at() > self.survey.end {
                break;
            }
            world.let_leave_until(event.at());
            match event {
                Event::Arrives(arrival) => world.arrive(arrival)?,
                Event::Leaves { at, task } => world.end_task(at, task),
            }
        }
        world.let_leave_until(self.survey.end);
        Ok(world.finish(started.elapsed()))
    }

    /// A report without runs; `name` is what the workload is called.
    pub fn report(&self, name: String, filters: Vec<String>) -> Report {
        Report::new(name, self.seed, &self.workload, filters, &self.survey)
    }
}

/// The seeds of placements and of arrivals.
fn seeds(seed: u64) -> (u64, u64) {
    let mut random = StdRng::seed_from_u64(seed);
    (random.random(), random.random())
}

/// A container that leaves at a known time. The first to leave is the greatest.
struct Leaving {
    at: Micros,
    /// Grows with each: those that leave at the same moment leave in the order they came.
    serial: u64,
    place: Place,
}

/// A run under way.
struct World {
    fleet: Fleet,
    meter: Meter,
    leaving: BinaryHeap<Leaving>,
    tasks: HashMap<Task, Place>,
    /// How many containers left, or will leave, at a known time.
    serial: u64,
    run: Run,
    latencies: Histogram<u64>,
}

impl World {
    fn arrive(&mut self, arrival: Arrival) -> Result<(), SimulateError> {
        let Arrival {
            at,
            class,
            request,
            stay,
        } = arrival;
        // A task that comes again before it left has left.
        if let Stay::Task(task) = stay {
            self.end_task(at, task);
        }
        let (outcome, took) = self.fleet.place(&self.run.classes[class].name, &request);
        self.latencies.saturating_record(took.as_nanos() as u64);
        self.run.arrive(class);
        let place = match outcome {
            Ok(place) => place,
            Err((by, message)) => {
                self.run.refuse(class, by, message);
                self.meter.refuse(at);
                return Ok(());
            }
        };
        self.meter.add(at, place.node, place.need);
        if self.meter.running() > MAX_RUNNING {
            return Err(SimulateError::TooManyRunning);
        }
        match stay {
            Stay::Endless => {}
            Stay::For(lifetime) => {
                self.serial += 1;
                self.leaving.push(Leaving {
                    at: at.saturating_add(lifetime),
                    serial: self.serial,
                    place,
                });
            }
            Stay::Task(task) => _ = self.tasks.insert(task, place),
        }
        Ok(())
    }

    fn let_leave_until(&mut self, until: Micros) {
        while let Some(next) = self.leaving.peek()
            && next.at <= until
            && let Some(Leaving { at, place, .. }) = self.leaving.pop()
        {
            self.leave(at, place);
        }
    }

    /// A task that was refused does not end.
    fn end_task(&mut self, at: Micros, task: Task) {
        if let Some(place) = self.tasks.remove(&task) {
            self.leave(at, place);
        }
    }

    fn leave(&mut self, at: Micros, place: Place) {
        self.meter.take(at, place.node, place.need);
        self.fleet.remove(&place);
        self.run.left += 1;
    }

    fn finish(self, took: Duration) -> Run {
        let mut run = self.run;
        run.running_at_end = self.meter.running();
        run.refusals.sort_by_key(|refusal| Reverse(refusal.count));
        run.decisions = Some(Decisions::new(&self.latencies, took));
        self.meter.finish(&mut run);
        run
    }
}

impl Ord for Leaving {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.serial).cmp(&(self.at, self.serial))
    }
}

impl PartialOrd for Leaving {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Leaving {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Leaving {}

/// What part of `total` a part is; 0 of nothing.
fn share(part: u64, total: u64) -> f64 {
    match total {
        0 => 0.0,
        total => part as f64 / total as f64,
    }
}

/// Whether a container that needs `need` has room where `free` is left. What is not asked for needs
/// no room.
fn fits(need: Amount, free: Amount) -> bool {
    (need.cpu_nano == 0 || need.cpu_nano <= free.cpu_nano)
        && (need.memory_bytes == 0 || need.memory_bytes <= free.memory_bytes)
}

#[cfg(test)]
mod tests;
