//! When a plugin that failed is tried again.
//!
//! The first failure costs nothing but a new instance. From the second on, calls are refused for
//! 200 ms, 400 ms, … up to 30 s; after five failures in ten minutes for 60 s at a time, with a
//! single call let through in between. A minute of good answers makes up for everything; one that
//! passed without a call does not.
//!
//! No clock is read here: each function takes the time it is.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

const FIRST_DELAY: Duration = Duration::from_millis(200);
const MAX_DELAY: Duration = Duration::from_secs(30);
const WINDOW: Duration = Duration::from_secs(600);
const MAX_FAILURES: usize = 5;
const PROBE_EVERY: Duration = Duration::from_secs(60);
const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// The failures of one plugin.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    // Invariant: oldest first, all since the plugin was last healthy.
    failures: VecDeque<Instant>,
    /// When the first call since the last failure was answered.
    healthy_since: Option<Instant>,
    state: State,
    reason: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Closed,
    Waiting {
        until: Instant,
    },
    Quarantined {
        until: Instant,
    },
}

/// Whether a call may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// Yes, and once more on a new instance if it fails.
    Call,
    /// Once, to find out whether the plugin works again.
    Probe,
    /// Not before this time has passed.
    Refuse(Duration),
}

impl Breaker {
    pub(super) fn admit(&self, now: Instant) -> Admission {
        match self.state {
            State::Waiting { until } | State::Quarantined { until } if now < until => {
                Admission::Refuse(until - now)
            }
            State::Quarantined { .. } => Admission::Probe,
            State::Closed | State::Waiting { .. } => Admission::Call,
        }
    }

    /// Takes note of a call that was answered.
    pub(super) fn succeeded(&mut self, now: Instant) {
        self.state = State::Closed;
        if self.failures.is_empty() {
            return;
        }
        // A request takes several calls: the one that fails may come after one that does not, so
        // the time in quarantine must not count as good health.
        let since = *self.healthy_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= HEALTHY_AFTER {
            self.failures.clear();
        }
    }

    /// Takes note of a failure. `jitter`, 0 to 1, spreads the delay between half and all of it.
    pub(super) fn failed(&mut self, now: Instant, reason: &str, jitter: f64) {
        self.healthy_since = None;
        self.failures.push_back(now);
        while self
            .failures
            .front()
            .is_some_and(|first| now.saturating_duration_since(*first) > WINDOW)
        {
            self.failures.pop_front();
        }
        reason.clone_into(&mut self.reason);
        self.state = match self.failures.len() {
            count if count >= MAX_FAILURES => State::Quarantined {
                until: now + PROBE_EVERY,
            },
            0 | 1 => State::Closed,
            count => {
                let exponent = u32::try_from(count - 2).unwrap_or(u32::MAX).min(16);
                let delay = (FIRST_DELAY * 2_u32.pow(exponent)).min(MAX_DELAY);
                State::Waiting {
                    until: now + delay.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0),
                }
            }
        };
    }

    /// Whether another try at the same request is pointless.
    pub(super) fn is_quarantined(&self) -> bool {
        matches!(self.state, State::Quarantined { .. })
    }

    /// Why calls fail at the moment, or failed lately.
    pub(super) fn reason(&self) -> &str {
        &self.reason
    }

    /// What is wrong, for an operator; nothing a while after the last failure.
    pub(super) fn trouble(&self, now: Instant) -> Option<String> {
        let last = *self.failures.back()?;
        let count = self.failures.len();
        let reason = &self.reason;
        match self.state {
            State::Quarantined { until } => Some(format!(
                "quarantined after {count} failures, tried again in {} s: {reason}",
                until.saturating_duration_since(now).as_secs()
            )),
            State::Waiting { until } if now < until => Some(format!(
                "failed {count} times, tried again in {} ms: {reason}",
                until.saturating_duration_since(now).as_millis()
            )),
            _ if now.saturating_duration_since(last) < HEALTHY_AFTER => {
                Some(format!("replaced after a failure: {reason}"))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails `count` times in a row and returns how long calls are refused after each.
    fn delays(breaker: &mut Breaker, mut now: Instant, count: usize) -> Vec<Duration> {
        (0..count)
            .map(|_| {
                breaker.failed(now, "trapped", 1.0);
                match breaker.admit(now) {
                    Admission::Refuse(delay) => {
                        now += delay;
                        delay
                    }
                    Admission::Call | Admission::Probe => Duration::ZERO,
                }
            })
            .collect()
    }

    #[test]
    fn the_first_failure_is_free_and_the_fifth_quarantines() {
        let ms = Duration::from_millis;
        let mut breaker = Breaker::default();
        let now = Instant::now();
        assert_eq!(
            delays(&mut breaker, now, 5),
            [ms(0), ms(200), ms(400), ms(800), ms(60_000)]
        );
        assert!(breaker.is_quarantined());
    }

    #[test]
    fn a_quarantined_plugin_is_probed_each_minute() {
        let mut breaker = Breaker::default();
        let start = Instant::now();
        for _ in 0..5 {
            breaker.failed(start, "trapped", 0.0);
        }
        let minute = Duration::from_secs(60);
        assert_eq!(breaker.admit(start), Admission::Refuse(minute));
        assert_eq!(breaker.admit(start + minute), Admission::Probe);
        breaker.failed(start + minute, "trapped", 0.0);
        assert_eq!(breaker.admit(start + minute), Admission::Refuse(minute));
        assert_eq!(breaker.admit(start + 2 * minute), Admission::Probe);
        breaker.succeeded(start + 2 * minute);
        assert_eq!(breaker.admit(start + 2 * minute), Admission::Call);
    }

    #[test]
    fn a_healthy_minute_makes_up_for_everything() {
        let mut breaker = Breaker::default();
        let start = Instant::now();
        delays(&mut breaker, start, 3);
        let later = start + Duration::from_secs(120);
        assert!(breaker.trouble(start).is_some());
        breaker.succeeded(start + Duration::from_secs(60));
        breaker.succeeded(later);
        assert_eq!(breaker.trouble(later), None);
        breaker.failed(later, "trapped", 0.0);
        assert_eq!(breaker.admit(later), Admission::Call);
    }

    #[test]
    fn a_minute_without_calls_is_no_good_health() {
        let mut breaker = Breaker::default();
        let start = Instant::now();
        for _ in 0..5 {
            breaker.failed(start, "trapped", 0.0);
        }
        let minute = Duration::from_secs(60);
        breaker.succeeded(start + minute);
        breaker.failed(start + minute, "trapped", 0.0);
        assert_eq!(breaker.admit(start + minute), Admission::Refuse(minute));
    }

    #[test]
    fn jitter_never_makes_the_delay_longer() {
        for jitter in [0.0, 0.5, 1.0] {
            let mut breaker = Breaker::default();
            let now = Instant::now();
            breaker.failed(now, "trapped", jitter);
            breaker.failed(now, "trapped", jitter);
            let Admission::Refuse(delay) = breaker.admit(now) else {
                panic!("the second failure is not free");
            };
            assert!((FIRST_DELAY / 2..=FIRST_DELAY).contains(&delay));
        }
    }
}
