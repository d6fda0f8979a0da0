//! How full and how even the fleet is over time.
//!
//! Every figure is kept up to date by what changes, so it costs the same for every number of nodes
//! and containers. Loads are added up in whole millionths, so nothing drifts.

use serde::{Serialize, Serializer};

use super::{Micros, Run, fits, share};
use crate::model::resource::{Amount, Sum};

/// How many points the time is divided into.
const POINTS: u64 = 200;

/// A load of 1.
const FULL: f64 = 1e6;

/// How full and how even a fleet is: at a moment, or on average.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Share of all processor time that is set aside.
    #[serde(serialize_with = "rounded")]
    pub cpu: f64,
    /// Share of all memory that is set aside.
    #[serde(serialize_with = "rounded")]
    pub memory: f64,
    /// Standard deviation of the nodes' loads. A node's load is the larger of its two shares.
    #[serde(serialize_with = "rounded")]
    pub load_deviation: f64,
    /// Jain's index of the nodes' loads: 1 if all are equal, 1/n if one of n nodes has it all.
    #[serde(serialize_with = "rounded")]
    pub fairness: f64,
    /// Share of the free processor time that is where the median container does not fit.
    #[serde(serialize_with = "rounded")]
    pub stranded_cpu_median: f64,
    /// Share of the free memory that is where the median container does not fit.
    #[serde(serialize_with = "rounded")]
    pub stranded_memory_median: f64,
    /// Share of the free processor time that is where the largest container does not fit.
    #[serde(serialize_with = "rounded")]
    pub stranded_cpu_largest: f64,
    /// Share of the free memory that is where the largest container does not fit.
    #[serde(serialize_with = "rounded")]
    pub stranded_memory_largest: f64,
    /// Nodes with a container.
    #[serde(serialize_with = "rounded")]
    pub nodes_used: f64,
    /// Containers.
    #[serde(serialize_with = "rounded")]
    pub running: f64,
}

/// A part of the time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Point {
    /// Seconds from the begin to the end of this part.
    #[serde(serialize_with = "rounded")]
    pub until_seconds: f64,
    /// Averages over this part.
    #[serde(flatten)]
    pub figures: Figures,
    /// How many containers were refused so far.
    pub refused: u64,
}

/// Reads the figures off a fleet while containers come and go.
pub(super) struct Meter {
    nodes: Vec<Node>,
    capacity: Sum,
    used: Sum,
    free: Sum,
    /// The median and the largest container.
    references: [Amount; 2],
    /// What is free where each of them does not fit.
    stranded: [Sum; 2],
    // Invariant: the sums of the nodes' loads, and of their squares.
    loads: u64,
    squares: u128,
    nodes_used: u64,
    running: u64,
    refused: u64,
    time: Time,
}

struct Node {
    capacity: Amount,
    used: Sum,
    containers: u64,
}

/// Averages over time.
struct Time {
    end: Micros,
    /// Up to when everything is in the parts.
    now: Micros,
    parts: Vec<Part>,
    peak: Figures,
}

#[derive(Clone, Default)]
struct Part {
    /// Each figure times how long it was so.
    weighted: Figures,
    refused: u64,
}

impl Meter {
    /// A fleet of nodes that have these capacities and no containers, until `end`.
    pub fn new(capacities: Vec<Amount>, references: [Amount; 2], end: Micros) -> Self {
        let mut meter = Self {
            nodes: Vec::with_capacity(capacities.len()),
            capacity: Sum::default(),
            used: Sum::default(),
            free: Sum::default(),
            references,
            stranded: Default::default(),
            loads: 0,
            squares: 0,
            nodes_used: 0,
            running: 0,
            refused: 0,
            time: Time {
                end,
                now: 0,
                parts: vec![Part::default(); POINTS as usize],
                peak: Figures {
                    fairness: 1.0,
                    ..Figures::default()
                },
            },
        };
        for capacity in capacities {
            meter.capacity.add(capacity);
            meter.nodes.push(Node {
                capacity,
                used: Sum::default(),
                containers: 0,
            });
            meter.count_in(meter.nodes.len() - 1);
        }
        meter
    }

    /// How many containers there are.
    pub fn running(&self) -> u64 {
        self.running
    }

    /// A container came.
    pub fn add(&mut self, at: Micros, node: usize, need: Amount) {
        self.advance(at);
        self.count_out(node);
        self.nodes[node].used.add(need);
        self.nodes[node].containers += 1;
        self.running += 1;
        self.count_in(node);
    }

    /// A container left.
    pub fn take(&mut self, at: Micros, node: usize, need: Amount) {
        self.advance(at);
        self.count_out(node);
        self.nodes[node].used.take(need);
        self.nodes[node].containers -= 1;
        self.running -= 1;
        self.count_in(node);
    }

    /// A container was refused.
    pub fn refuse(&mut self, at: Micros) {
        self.advance(at);
        self.refused += 1;
    }

    /// Writes down what there was until the end.
    pub fn finish(mut self, run: &mut Run) {
        self.advance(self.time.end);
        let end = self.time.end;
        let mut total = Figures::default();
        for (index, part) in (0..POINTS).zip(&self.time.parts) {
            let (from, until) = (bound(end, index), bound(end, index + 1));
            if from == until {
                continue;
            }
            total = total.zip(part.weighted, |sum, weighted| sum + weighted);
            let length = (until - from) as f64;
            run.series.push(Point {
                until_seconds: until as f64 / 1e6,
                figures: part
                    .weighted
                    .zip(part.weighted, |weighted, _| weighted / length),
                refused: part.refused,
            });
        }
        // Nothing is later than what is refused at the very end.
        if let Some(last) = run.series.last_mut() {
            last.refused = self.refused;
        }
        run.mean = total.zip(total, |sum, _| sum / end as f64);
        run.peak = self.time.peak;
    }

    fn advance(&mut self, at: Micros) {
        if at > self.time.now {
            self.time.advance(at, self.figures(), self.refused);
        }
    }

    fn figures(&self) -> Figures {
        let nodes = self.nodes.len() as f64;
        let mean = self.loads as f64 / nodes;
        let mean_square = self.squares as f64 / nodes;
        let capacity = self.capacity.amount();
        let used = self.used.amount();
        let free = self.free.amount();
        let [median, largest] = self.stranded.map(Sum::amount);
        Figures {
            cpu: share(used.cpu_nano, capacity.cpu_nano),
            memory: share(used.memory_bytes, capacity.memory_bytes),
            load_deviation: (mean_square - mean * mean).max(0.0).sqrt() / FULL,
            fairness: match self.squares {
                0 => 1.0,
                _ => mean * mean / mean_square,
            },
            stranded_cpu_median: share(median.cpu_nano, free.cpu_nano),
            stranded_memory_median: share(median.memory_bytes, free.memory_bytes),
            stranded_cpu_largest: share(largest.cpu_nano, free.cpu_nano),
            stranded_memory_largest: share(largest.memory_bytes, free.memory_bytes),
            nodes_used: self.nodes_used as f64,
            running: self.running as f64,
        }
    }

    /// Adds a node's part to the sums.
    fn count_in(&mut self, node: usize) {
        let node = &self.nodes[node];
        let (free, load) = (node.free(), node.load());
        self.used.add(node.used.amount());
        self.free.add(free);
        for (reference, stranded) in self.references.iter().zip(&mut self.stranded) {
            if !fits(*reference, free) {
                stranded.add(free);
            }
        }
        self.loads += load;
        self.squares += u128::from(load) * u128::from(load);
        self.nodes_used += u64::from(node.containers > 0);
    }

    /// Takes a node's part from the sums.
    fn count_out(&mut self, node: usize) {
        let node = &self.nodes[node];
        let (free, load) = (node.free(), node.load());
        self.used.take(node.used.amount());
        self.free.take(free);
        for (reference, stranded) in self.references.iter().zip(&mut self.stranded) {
            if !fits(*reference, free) {
                stranded.take(free);
            }
        }
        self.loads -= load;
        self.squares -= u128::from(load) * u128::from(load);
        self.nodes_used -= u64::from(node.containers > 0);
    }
}

impl Node {
    fn free(&self) -> Amount {
        let used = self.used.amount();
        let Amount {
            cpu_nano,
            memory_bytes,
        } = self.capacity;
        Amount {
            cpu_nano: cpu_nano.saturating_sub(used.cpu_nano),
            memory_bytes: memory_bytes.saturating_sub(used.memory_bytes),
        }
    }

    /// In millionths. A node without capacity has none.
    fn load(&self) -> u64 {
        let used = self.used.amount();
        let cpu = share(used.cpu_nano, self.capacity.cpu_nano);
        let memory = share(used.memory_bytes, self.capacity.memory_bytes);
        (cpu.max(memory) * FULL).round() as u64
    }
}

impl Time {
    /// Since the last time everything was as it is now.
    fn advance(&mut self, until: Micros, figures: Figures, refused: u64) {
        let fairness = self.peak.fairness.min(figures.fairness);
        self.peak = Figures {
            fairness,
            ..self.peak.zip(figures, f64::max)
        };
        let until = until.min(self.end);
        while self.now < until {
            let index = part_of(self.end, self.now);
            let step = bound(self.end, index + 1).min(until);
            let length = (step - self.now) as f64;
            let part = &mut self.parts[index as usize];
            part.weighted = part
                .weighted
                .zip(figures, |sum, figure| sum + figure * length);
            part.refused = refused;
            self.now = step;
        }
    }
}

/// When a part begins.
fn bound(end: Micros, index: u64) -> Micros {
    (u128::from(end) * u128::from(index) / u128::from(POINTS)) as Micros
}

/// The part that a moment before the end is in.
fn part_of(end: Micros, at: Micros) -> u64 {
    let mut index = (u128::from(at) * u128::from(POINTS) / u128::from(end)) as u64;
    // Bounds are whole microseconds, so a part may begin a little earlier, or be empty.
    while bound(end, index + 1) <= at {
        index += 1;
    }
    index
}

impl Figures {
    /// Puts two together, figure by figure.
    fn zip(self, other: Self, with: impl Fn(f64, f64) -> f64) -> Self {
        let with = |figure: fn(&Self) -> f64| with(figure(&self), figure(&other));
        Self {
            cpu: with(|f| f.cpu),
            memory: with(|f| f.memory),
            load_deviation: with(|f| f.load_deviation),
            fairness: with(|f| f.fairness),
            stranded_cpu_median: with(|f| f.stranded_cpu_median),
            stranded_memory_median: with(|f| f.stranded_memory_median),
            stranded_cpu_largest: with(|f| f.stranded_cpu_largest),
            stranded_memory_largest: with(|f| f.stranded_memory_largest),
            nodes_used: with(|f| f.nodes_used),
            running: with(|f| f.running),
        }
    }
}

/// Six digits are more than any of them is worth.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "this is how serde calls it"
)]
pub(super) fn rounded<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64((value * 1e6).round() / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amount(cpu_nano: u64, memory_bytes: u64) -> Amount {
        Amount {
            cpu_nano,
            memory_bytes,
        }
    }

    #[test]
    fn what_is_free_is_stranded_where_a_container_does_not_fit() {
        let references = [amount(1, 10), amount(4, 0)];
        let mut meter = Meter::new(vec![amount(4, 100); 2], references, 1000);
        let figures = meter.figures();
        assert_eq!(figures.stranded_cpu_median, 0.0);
        assert_eq!(figures.stranded_cpu_largest, 0.0);
        // The first node has no memory left, and 3 of 7 cores that are free.
        meter.add(0, 0, amount(1, 100));
        let figures = meter.figures();
        assert_eq!(figures.stranded_cpu_median, 3.0 / 7.0);
        assert_eq!(figures.stranded_memory_median, 0.0);
        assert_eq!(figures.stranded_cpu_largest, 3.0 / 7.0);
        // Neither node has 4 cores left; the largest container needs no memory.
        meter.add(0, 1, amount(1, 0));
        assert_eq!(meter.figures().stranded_memory_largest, 1.0);
        meter.take(0, 0, amount(1, 100));
        meter.take(0, 1, amount(1, 0));
        assert_eq!(meter.figures().stranded_cpu_largest, 0.0);
        assert_eq!(meter.figures().cpu, 0.0);
    }

    #[test]
    fn an_even_fleet_is_fair() {
        let mut meter = Meter::new(vec![amount(4, 100); 4], [Amount::default(); 2], 1000);
        assert_eq!(meter.figures().fairness, 1.0);
        meter.add(0, 0, amount(2, 0));
        assert_eq!(meter.figures().fairness, 0.25);
        for node in 1..4 {
            meter.add(0, node, amount(0, 50));
        }
        let figures = meter.figures();
        assert_eq!((figures.fairness, figures.load_deviation), (1.0, 0.0));
        assert_eq!(figures.nodes_used, 4.0);
    }

    #[test]
    fn every_moment_is_in_the_part_that_holds_it() {
        for end in [1, 3, 199, 200, 1_001, u64::MAX] {
            for at in [0, 1, end / 3, end / 2, end - 1] {
                if at < end {
                    let part = part_of(end, at);
                    let range = bound(end, part)..bound(end, part + 1);
                    assert!(range.contains(&at), "{at} of {end}: {range:?}");
                }
            }
        }
    }
}
