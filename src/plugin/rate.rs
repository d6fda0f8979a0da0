//! How many lines a plugin may log.

use std::time::{Duration, Instant};

/// Seconds' worth of lines that may come at once.
const BURST_SECONDS: f64 = 5.0;

/// How often it is said at most that lines are missing.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// A token bucket that counts what it held back.
#[derive(Debug)]
pub(super) struct LineGate {
    per_second: f64,
    tokens: f64,
    filled: Option<Instant>,
    /// Lines are held back until a second's worth of them may come again: letting single ones
    /// through would say of each how many are missing.
    shut: bool,
    suppressed: u64,
    reported: Option<Instant>,
}

/// What to do with a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Log it, after saying how many lines before it were not logged.
    Keep { suppressed: u64 },
    /// Do not log it.
    Drop,
}

impl LineGate {
    pub(super) fn new(per_second: u32) -> Self {
        let per_second = f64::from(per_second);
        Self {
            per_second,
            tokens: per_second * BURST_SECONDS,
            filled: None,
            shut: false,
            suppressed: 0,
            reported: None,
        }
    }

    pub(super) fn admit(&mut self, now: Instant) -> Verdict {
        if let Some(filled) = self.filled {
            let gained = now.saturating_duration_since(filled).as_secs_f64() * self.per_second;
            self.tokens = (self.tokens + gained).min(self.per_second * BURST_SECONDS);
        }
        self.filled = Some(now);
        let needed = if self.shut {
            self.per_second.max(1.0)
        } else {
            1.0
        };
        self.shut = self.tokens < needed;
        if self.shut {
            self.suppressed += 1;
            return Verdict::Drop;
        }
        self.tokens -= 1.0;
        Verdict::Keep {
            suppressed: self.report(now),
        }
    }

    /// How many lines were held back and not told of, if it is time to tell.
    pub(super) fn overdue(&mut self, now: impl FnOnce() -> Instant) -> Option<u64> {
        if self.suppressed == 0 {
            return None;
        }
        let now = now();
        let early = self
            .reported
            .is_some_and(|last| now.saturating_duration_since(last) < REPORT_EVERY);
        (!early).then(|| self.report(now))
    }

    /// How many lines were held back and not told of.
    pub(super) fn rest(&self) -> u64 {
        self.suppressed
    }

    fn report(&mut self, now: Instant) -> u64 {
        if self.suppressed > 0 {
            self.reported = Some(now);
        }
        std::mem::take(&mut self.suppressed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let mut gate = LineGate::new(100);
        let start = Instant::now();
        let kept = (0..1000)
            .filter(|_| gate.admit(start) != Verdict::Drop)
            .count();
        assert_eq!(kept, 500);
        assert_eq!(
            gate.admit(start + Duration::from_secs(1)),
            Verdict::Keep { suppressed: 500 }
        );
        let later = start + Duration::from_secs(1);
        let kept = (0..1000)
            .filter(|_| gate.admit(later) != Verdict::Drop)
            .count();
        assert_eq!(kept, 99);
    }

    #[test]
    fn what_is_missing_is_told_once_a_second() {
        let mut gate = LineGate::new(10);
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        assert_eq!(gate.overdue(|| start), None);
        for _ in 0..60 {
            gate.admit(start);
        }
        assert_eq!(gate.overdue(|| start), Some(10));
        assert_eq!(gate.overdue(|| after(5000)), None);
        // Room for a few lines is no reason to let single ones through.
        assert_eq!(gate.admit(after(500)), Verdict::Drop);
        assert_eq!(gate.overdue(|| after(900)), None);
        assert_eq!(gate.rest(), 1);
        assert_eq!(gate.admit(after(1100)), Verdict::Keep { suppressed: 1 });
    }
}
