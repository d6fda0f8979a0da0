//! How many lines a plugin may log.

use std::time::Instant;

/// Lines each second in the long run.
const PER_SECOND: f64 = 100.0;
/// Lines at once.
const BURST: f64 = 500.0;

/// A token bucket that counts what it held back.
#[derive(Debug)]
pub(super) struct LineGate {
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
    pub(super) fn new() -> Self {
        Self {
            tokens: BURST,
            filled: None,
            suppressed: 0,
        }
    }

    pub(super) fn admit(&mut self, now: Instant) -> Verdict {
        if let Some(filled) = self.filled {
            let gained = now.saturating_duration_since(filled).as_secs_f64() * PER_SECOND;
            self.tokens = (self.tokens + gained).min(BURST);
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
        let mut gate = LineGate::new();
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
