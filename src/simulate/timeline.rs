//! What happens when, in the order of time.

use std::{sync::Arc, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use rand_distr::{Exp1, StandardNormal};

use super::{
    Micros,
    trace::{TraceError, TraceReader},
};
use crate::{
    config::workload::{Arrivals, ContainerClass, Lifetime, Shape, Workload},
    scheduler::request::Request,
};

/// A container comes, or one of the trace leaves.
pub(super) enum Event {
    Arrives(Arrival),
    Leaves { at: Micros, task: Task },
}

/// A container that comes.
pub(super) struct Arrival {
    pub at: Micros,
    /// The number of its class; that of the trace is the last.
    pub class: usize,
    /// What it asks for, without name and ID.
    pub request: Arc<Request>,
    pub stay: Stay,
}

/// How long a container stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stay {
    Endless,
    For(Micros),
    /// Until the trace says that the task leaves.
    Task(Task),
}

/// A job of a trace, and the number of its task.
pub(super) type Task = (u64, u64);

/// All events of a workload, generated and read while they are asked for.
pub(super) struct Timeline {
    generators: Vec<Generator>,
    trace: Option<TraceReader>,
    /// The next event of the trace.
    ahead: Option<Event>,
    class_names: Vec<String>,
}

/// The arrivals of one class.
struct Generator {
    class: usize,
    request: Arc<Request>,
    arrivals: Arrivals,
    lifetime: Lifetime,
    random: StdRng,
    /// When the next one comes; `None` if none comes any more.
    next_at: Option<Micros>,
    /// How many of a burst came already.
    of_burst: u32,
    left: u64,
    end: Micros,
}

impl Event {
    pub fn at(&self) -> Micros {
        match self {
            Self::Arrives(arrival) => arrival.at,
            Self::Leaves { at, .. } => *at,
        }
    }
}

impl Timeline {
    /// Starts at the begin. Each class draws from a generator of its own, so another class behind it
    /// changes nothing.
    pub fn open(workload: &Workload, seed: u64) -> Result<Self, TraceError> {
        let mut seeds = StdRng::seed_from_u64(seed);
        let end = workload.duration.map_or(Micros::MAX, micros);
        let generators = workload.containers.iter().enumerate();
        let generators = generators
            .map(|(class, from)| Generator::new(class, from, seeds.random(), end))
            .collect();
        let mut class_names: Vec<String> = workload
            .containers
            .iter()
            .map(|class| class.name.clone())
            .collect();
        let mut trace = None;
        if let Some(from) = &workload.trace {
            trace = Some(TraceReader::open(from, class_names.len())?);
            class_names.push("trace".to_owned());
        }
        let mut timeline = Self {
            generators,
            trace,
            ahead: None,
            class_names,
        };
        timeline.read_ahead()?;
        Ok(timeline)
    }

    /// The names of the classes, by their numbers.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// The next event; of several at the same moment that of the first class, and that of the trace
    /// last.
    pub fn next(&mut self) -> Result<Option<Event>, TraceError> {
        let generators = self.generators.iter_mut();
        let generated = generators
            .filter_map(|generator| Some((generator.next_at?, generator)))
            .min_by_key(|(at, generator)| (*at, generator.class));
        match (generated, &self.ahead) {
            (Some((at, generator)), ahead) if ahead.as_ref().is_none_or(|e| at <= e.at()) => {
                Ok(Some(Event::Arrives(generator.arrive(at))))
            }
            _ => {
                let event = self.ahead.take();
                self.read_ahead()?;
                Ok(event)
            }
        }
    }

    fn read_ahead(&mut self) -> Result<(), TraceError> {
        if let Some(trace) = &mut self.trace {
            self.ahead = trace.next()?;
        }
        Ok(())
    }
}

impl Generator {
    fn new(class: usize, from: &ContainerClass, seed: u64, end: Micros) -> Self {
        let mut generator = Self {
            class,
            request: Arc::new(request(&from.shape)),
            arrivals: from.arrivals,
            lifetime: from.lifetime,
            random: StdRng::seed_from_u64(seed),
            next_at: None,
            of_burst: 0,
            left: from.count.unwrap_or(u64::MAX),
            end,
        };
        let start = micros(from.start);
        let first = match from.arrivals {
            Arrivals::Poisson(_) => start.saturating_add(generator.gap()),
            Arrivals::Even(_) | Arrivals::Bursts { .. } => start,
        };
        generator.expect(first);
        generator
    }

    fn arrive(&mut self, at: Micros) -> Arrival {
        self.left -= 1;
        let stay = self.stay();
        let next = at.saturating_add(self.gap());
        self.expect(next);
        Arrival {
            at,
            class: self.class,
            request: Arc::clone(&self.request),
            stay,
        }
    }

    fn expect(&mut self, next: Micros) {
        self.next_at = (self.left > 0 && next <= self.end).then_some(next);
    }

    /// Time until the next one.
    fn gap(&mut self) -> Micros {
        match self.arrivals {
            Arrivals::Poisson(mean) => {
                let times: f64 = self.random.sample(Exp1);
                stretched(mean, times)
            }
            Arrivals::Even(every) => micros(every),
            Arrivals::Bursts { size, every } => {
                self.of_burst = (self.of_burst + 1) % size;
                match self.of_burst {
                    0 => micros(every),
                    _ => 0,
                }
            }
        }
    }

    fn stay(&mut self) -> Stay {
        Stay::For(match self.lifetime {
            Lifetime::Endless => return Stay::Endless,
            Lifetime::Fixed(mean) => micros(mean),
            Lifetime::Exponential(mean) => {
                let times: f64 = self.random.sample(Exp1);
                stretched(mean, times)
            }
            Lifetime::Uniform(shortest, longest) => {
                self.random.random_range(micros(shortest)..=micros(longest))
            }
            Lifetime::LogNormal { median, sigma } => {
                let deviation: f64 = self.random.sample(StandardNormal);
                stretched(median, (sigma * deviation).exp())
            }
        })
    }
}

/// What a container of this shape asks for, without name and ID.
pub(super) fn request(shape: &Shape) -> Request {
    let mut labels = shape.labels.clone();
    shape.directives.write_labels(&mut labels);
    let mut request = Request {
        image: shape.image.clone(),
        need: shape.need,
        network_mode: "bridge".to_owned(),
        bindings: shape.ports.clone(),
        exposed_ports: shape
            .ports
            .iter()
            .map(|port| format!("{}/{}", port.first, port.protocol))
            .collect(),
        labels: labels.into_iter().collect(),
        ..Request::default()
    };
    request.exposed_ports.sort();
    request.set_directives(&shape.directives);
    request
}

pub(super) fn micros(duration: Duration) -> Micros {
    Micros::try_from(duration.as_micros()).unwrap_or(Micros::MAX)
}

fn stretched(duration: Duration, times: f64) -> Micros {
    // A cast takes what is too large to the largest number.
    (duration.as_secs_f64() * 1e6 * times).round() as Micros
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const NODES: &str =
        "duration = \"1h\"\n[[nodes]]\nname = \"n\"\ncount = 1\ncpus = 1\nmemory = \"1g\"\n";

    fn arrivals(classes: &str, seed: u64) -> Vec<(Micros, usize, Stay)> {
        let workload = Workload::parse(&format!("{NODES}{classes}"), Path::new(".")).unwrap();
        let mut timeline = Timeline::open(&workload, seed).unwrap();
        let mut found = Vec::new();
        while let Some(event) = timeline.next().unwrap() {
            match event {
                Event::Arrives(arrival) => found.push((arrival.at, arrival.class, arrival.stay)),
                Event::Leaves { .. } => panic!("nothing leaves without a trace"),
            }
        }
        found
    }

    fn class(name: &str, rest: &str) -> String {
        format!("[[containers]]\nname = \"{name}\"\n{rest}\n")
    }

    #[test]
    fn classes_come_in_the_order_of_time_and_then_of_the_file() {
        let even = "arrivals = { process = \"even\", every = \"20m\" }\ncount = 2";
        let bursts =
            "arrivals = { process = \"bursts\", size = 2, every = \"30m\" }\nstart = \"20m\"";
        let found = arrivals(&(class("a", even) + &class("b", bursts)), 1);
        let minutes: Vec<_> = found
            .iter()
            .map(|(at, class, _)| (at / 60_000_000, *class))
            .collect();
        assert_eq!(
            minutes,
            [(0, 0), (20, 0), (20, 1), (20, 1), (50, 1), (50, 1)]
        );
    }

    #[test]
    fn gaps_and_lifetimes_have_the_means_that_were_asked_for() {
        let random = "arrivals = { process = \"poisson\", every = \"100ms\" }\n\
            lifetime = { distribution = \"exponential\", mean = \"10s\" }";
        let found = arrivals(&class("a", random), 1);
        assert!((35_000..37_000).contains(&found.len()), "{}", found.len());
        let lifetimes = found.iter().map(|(_, _, stay)| match stay {
            Stay::For(lifetime) => *lifetime as f64,
            other => panic!("{other:?}"),
        });
        let mean = lifetimes.sum::<f64>() / found.len() as f64;
        assert!((9.8e6..10.2e6).contains(&mean), "{mean}");
    }

    #[test]
    fn another_class_changes_nothing_for_those_before_it() {
        let random = "arrivals = { process = \"poisson\", every = \"1m\" }\n\
            lifetime = { distribution = \"uniform\", shortest = \"1s\", longest = \"9s\" }";
        let alone = arrivals(&class("a", random), 5);
        let mut both = arrivals(&(class("a", random) + &class("b", random)), 5);
        both.retain(|(_, class, _)| *class == 0);
        assert_eq!(alone, both);
        assert_ne!(alone, arrivals(&class("a", random), 6));
    }
}
