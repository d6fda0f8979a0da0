//! What has to be known of a workload before it is run.

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    MAX_ARRIVALS, Micros, SimulateError,
    timeline::{Event, Timeline, micros},
};
use crate::{config::workload::Workload, model::resource::Amount};

/// Of how many containers the medians are taken; of more, this many are drawn.
const SAMPLE: usize = 65_536;

/// What one pass through a workload tells.
#[derive(Debug)]
pub(super) struct Survey {
    /// When the simulation ends; above zero.
    pub end: Micros,
    /// The median of processor time, and that of memory, that containers ask for.
    pub median: Amount,
    /// The largest of each.
    pub largest: Amount,
}

impl Survey {
    pub fn of(
        mut timeline: Timeline,
        workload: &Workload,
        seed: u64,
    ) -> Result<Self, SimulateError> {
        let mut random = StdRng::seed_from_u64(seed);
        let limit = workload.duration.map_or(Micros::MAX, micros);
        let mut sample: Vec<Amount> = Vec::new();
        let mut largest = Amount::default();
        let mut last = 0;
        let mut arrivals = 0;
        while let Some(event) = timeline.next()? {
            if event.at() > limit {
                // What follows in the trace is checked all the same.
                continue;
            }
            last = event.at();
            let Event::Arrives(arrival) = event else {
                continue;
            };
            let need = arrival.request.need;
            arrivals += 1;
            if arrivals > MAX_ARRIVALS {
                return Err(SimulateError::TooManyArrivals);
            }
            largest.cpu_nano = largest.cpu_nano.max(need.cpu_nano);
            largest.memory_bytes = largest.memory_bytes.max(need.memory_bytes);
            // Every container is in the sample as likely as any other.
            if sample.len() < SAMPLE {
                sample.push(need);
            } else if let Some(place) = sample.get_mut(random.random_range(0..arrivals) as usize) {
                *place = need;
            }
        }
        if arrivals == 0 {
            return Err(SimulateError::NoArrivals);
        }
        Ok(Self {
            end: workload.duration.map_or(last, micros).max(1),
            median: Amount {
                cpu_nano: median(sample.iter().map(|need| need.cpu_nano)),
                memory_bytes: median(sample.iter().map(|need| need.memory_bytes)),
            },
            largest,
        })
    }
}

/// The middle one; of an even number the higher of the two.
fn median(values: impl Iterator<Item = u64>) -> u64 {
    let mut values: Vec<u64> = values.collect();
    let middle = values.len() / 2;
    *values.select_nth_unstable(middle).1
}
