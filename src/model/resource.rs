//! Amounts of processor time and memory.

use std::ops::{Add, AddAssign};

/// Billionths of a core in one core.
pub const NANO: u64 = 1_000_000_000;

/// Processor time in billionths of a core and memory in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Billionths of a core.
    pub cpu_nano: u64,
    /// Bytes.
    pub memory_bytes: u64,
}

impl Amount {
    /// Returns this amount grown by `overcommit`, a fraction: 0.05 adds five hundredths.
    ///
    /// Classic Swarm computed with whole cores and so added nothing below twenty of them.
    pub fn overcommitted(self, overcommit: f64) -> Self {
        let grow = |value: u64| (value as f64 * (1.0 + overcommit)).max(0.0) as u64;
        Self {
            cpu_nano: grow(self.cpu_nano),
            memory_bytes: grow(self.memory_bytes),
        }
    }
}

impl Add for Amount {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            cpu_nano: self.cpu_nano.saturating_add(other.cpu_nano),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
        }
    }
}

impl AddAssign for Amount {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// A sum that amounts are added to and taken from again: wider than an amount, so that a huge one
/// that comes and goes leaves the others as they were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    cpu_nano: u128,
    memory_bytes: u128,
}

impl Sum {
    /// Adds an amount.
    pub fn add(&mut self, amount: Amount) {
        self.cpu_nano += u128::from(amount.cpu_nano);
        self.memory_bytes += u128::from(amount.memory_bytes);
    }

    /// Takes an amount away that was added.
    pub fn take(&mut self, amount: Amount) {
        self.cpu_nano -= u128::from(amount.cpu_nano);
        self.memory_bytes -= u128::from(amount.memory_bytes);
    }

    /// The sum, or the largest amount there is.
    pub fn amount(self) -> Amount {
        Amount {
            cpu_nano: self.cpu_nano.try_into().unwrap_or(u64::MAX),
            memory_bytes: self.memory_bytes.try_into().unwrap_or(u64::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overcommit_is_a_real_fraction() {
        let two_cores = Amount {
            cpu_nano: 2 * NANO,
            memory_bytes: 1024,
        };
        let grown = two_cores.overcommitted(0.05);
        assert_eq!(grown.memory_bytes, 1075);
        assert_eq!(grown.cpu_nano, 2_100_000_000);
    }

    #[test]
    fn a_huge_amount_leaves_no_trace_in_a_sum() {
        let small = Amount {
            cpu_nano: 1,
            memory_bytes: 2,
        };
        let huge = Amount {
            cpu_nano: u64::MAX,
            memory_bytes: u64::MAX,
        };
        let mut sum = Sum::default();
        sum.add(small);
        sum.add(huge);
        assert_eq!(sum.amount(), huge);
        sum.take(huge);
        assert_eq!(sum.amount(), small);
    }
}
