//! Whether an engine can be used: the state machine behind a node's status.
//!
//! ```text
//! Pending --validated--> Healthy --`limit` failures in a row--> Unhealthy
//!    ^                      ^------------any success--------------'
//!    '---the engine shows up with another ID, or is found anew
//!
//! An engine that an earlier process knew goes from Pending to Unhealthy at its first failure.
//! ```

use std::{fmt, num::NonZeroU32, time::Duration};

/// A node's status as `docker info` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Found but not validated yet.
    Pending,
    /// Validated and reachable.
    Healthy,
    /// Too many connection failures in a row.
    Unhealthy,
    /// Removed from discovery.
    Disconnected,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending => "Pending",
            Self::Healthy => "Healthy",
            Self::Unhealthy => "Unhealthy",
            Self::Disconnected => "Disconnected",
        })
    }
}

/// What a change of health means to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// First contact, or contact with another engine at the same address.
    Connected,
    /// Became unhealthy.
    Lost,
    /// Recovered.
    Recovered,
}

/// The failures of one engine and what follows from them.
#[derive(Clone, Debug)]
pub struct Health {
    status: Status,
    failures: u32,
    /// Failures and complaints in a row.
    attempts: u32,
    limit: NonZeroU32,
    error: Option<String>,
    /// Known from before, and not heard yet.
    is_remembered: bool,
}

/// The longest wait between two tries to reach an engine that does not answer.
pub const MAX_BACK_OFF: Duration = Duration::from_secs(30);

/// The shortest wait between two tries.
const MIN_BACK_OFF: Duration = Duration::from_millis(500);

impl Health {
    /// An engine that was just found; `limit` failures in a row make it unhealthy.
    pub fn new(limit: NonZeroU32) -> Self {
        Self {
            status: Status::Pending,
            failures: 0,
            attempts: 0,
            limit,
            error: None,
            is_remembered: false,
        }
    }

    /// The engine is known from an earlier process: the first failure makes it unhealthy, be it
    /// one that was counted already.
    pub fn remember(&mut self) {
        if self.status != Status::Pending {
            return;
        }
        self.is_remembered = true;
        if self.failures > 0 {
            self.status = Status::Unhealthy;
        }
    }

    /// The status.
    pub fn status(&self) -> Status {
        self.status
    }

    /// Why the last contact failed; `None` after a success.
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// 0 if the engine must not be used, 100 if nothing failed recently, less after failures.
    pub fn indicator(&self) -> u32 {
        let limit = self.limit.get();
        match self.status {
            Status::Healthy if self.failures < limit => 100 - self.failures * 100 / limit,
            _ => 0,
        }
    }

    /// The engine was validated: its specs and containers are known.
    pub fn validated(&mut self) -> Option<Transition> {
        let transition = match self.status {
            Status::Pending => Some(Transition::Connected),
            Status::Unhealthy => Some(Transition::Recovered),
            Status::Healthy | Status::Disconnected => None,
        };
        self.status = Status::Healthy;
        self.is_remembered = false;
        self.failures = 0;
        self.attempts = 0;
        self.error = None;
        transition
    }

    /// The engine could not be reached, or did not answer in time.
    pub fn failed(&mut self, error: impl Into<String>) -> Option<Transition> {
        self.failures = self.failures.saturating_add(1);
        self.attempts = self.attempts.saturating_add(1);
        self.error = Some(error.into());
        if self.is_remembered && self.status == Status::Pending {
            self.status = Status::Unhealthy;
        }
        if self.status == Status::Healthy && self.failures >= self.limit.get() {
            self.status = Status::Unhealthy;
            return Some(Transition::Lost);
        }
        None
    }

    /// Something is wrong that is no connection failure; the status stays.
    pub fn complain(&mut self, error: impl Into<String>) {
        self.attempts = self.attempts.saturating_add(1);
        self.error = Some(error.into());
    }

    /// Another engine answers at this address: it must be validated from scratch.
    pub fn reset(&mut self) {
        *self = Self::new(self.limit);
    }

    /// How long to wait before the engine is tried again.
    pub fn back_off(&self) -> Duration {
        back_off(self.attempts)
    }
}

/// A wait that doubles with each failed try, bounded by [`MAX_BACK_OFF`]. Classic Swarm's grew to
/// hours.
pub fn back_off(tries: u32) -> Duration {
    let doublings = tries.saturating_sub(1).min(16);
    (MIN_BACK_OFF * (1 << doublings)).min(MAX_BACK_OFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(limit: u32) -> Health {
        Health::new(NonZeroU32::new(limit).unwrap())
    }

    #[test]
    fn becomes_unhealthy_exactly_at_the_limit() {
        let mut health = health(3);
        assert_eq!(health.validated(), Some(Transition::Connected));
        assert_eq!(health.failed("a"), None);
        assert_eq!(health.failed("b"), None);
        assert_eq!(health.status(), Status::Healthy);
        assert_eq!(health.failed("c"), Some(Transition::Lost));
        assert_eq!(health.failed("d"), None);
        assert_eq!(health.status(), Status::Unhealthy);
        assert_eq!(health.error(), Some("d"));
        assert_eq!(health.validated(), Some(Transition::Recovered));
        assert_eq!((health.failures(), health.error()), (0, None));
    }

    #[test]
    fn the_indicator_falls_with_each_failure() {
        let mut health = health(3);
        assert_eq!(health.indicator(), 0);
        health.validated();
        assert_eq!(health.indicator(), 100);
        health.failed("a");
        assert_eq!(health.indicator(), 67);
        health.failed("b");
        health.failed("c");
        assert_eq!(health.indicator(), 0);
    }

    #[test]
    fn a_pending_engine_stays_pending_however_often_it_fails() {
        let mut health = health(1);
        for _ in 0..5 {
            assert_eq!(health.failed("refused"), None);
        }
        assert_eq!(health.status(), Status::Pending);
    }

    #[test]
    fn a_remembered_engine_is_unhealthy_at_the_first_failure() {
        let mut health = health(3);
        health.remember();
        assert_eq!(health.status(), Status::Pending);
        assert_eq!(health.failed("refused"), None);
        assert_eq!(health.status(), Status::Unhealthy);
        assert_eq!(health.validated(), Some(Transition::Recovered));
        assert_eq!(health.failed("refused"), None);
        assert_eq!(health.status(), Status::Healthy);
    }

    #[test]
    fn a_failing_engine_that_is_remembered_is_unhealthy() {
        let mut health = health(3);
        health.failed("refused");
        health.remember();
        assert_eq!(health.status(), Status::Unhealthy);
    }

    #[test]
    fn the_back_off_is_bounded() {
        let mut health = health(3);
        let mut last = Duration::ZERO;
        for _ in 0..1000 {
            health.failed("x");
            assert!(health.back_off() >= last);
            last = health.back_off();
        }
        assert_eq!(last, MAX_BACK_OFF);
    }
}
