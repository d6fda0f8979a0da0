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
}
