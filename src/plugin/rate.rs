//! How many lines a plugin may log.

use std::time::Instant;

/// Seconds' worth of lines that may come at once.
const BURST_SECONDS: f64 = 5.0;

/// A token bucket that counts what it held back.
#[derive(Debug)]
pub(super) struct LineGate {
    per_second: f64,
    tokens: f64,
    filled: Option<Instant>,
    suppressed: u64,
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
            suppressed: 0,
        }
    }

    pub(super) fn admit(&mut self, now: Instant) -> Verdict {
        if let Some(filled) = self.filled {
            let gained = now.saturating_duration_since(filled).as_secs_f64() * self.per_second;
            self.tokens = (self.tokens + gained).min(self.per_second * BURST_SECONDS);
        }
        self.filled = Some(now);
        if self.tokens < 1.0 {
            self.suppressed += 1;
            return Verdict::Drop;
        }
        self.tokens -= 1.0;
        Verdict::Keep {
            suppressed: std::mem::take(&mut self.suppressed),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
}
