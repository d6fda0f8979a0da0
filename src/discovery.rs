//! Which engines exist: the seam between the cluster and a discovery backend.
//!
//! A backend is driven in steps. Each step waits until the membership changed, or for a time the
//! caller sets, and answers with the whole membership or with the difference to the last answer.
//! Backing off after an error and keeping the last good membership are the caller's business.

use std::time::Duration;

use async_trait::async_trait;

/// A source of engine addresses.
#[async_trait]
pub trait Backend: Send {
    /// The name in the configuration.
    fn name(&self) -> &str;

    /// Waits for news for at most `max_wait` and returns it.
    ///
    /// The first call, and the first after an error, returns the whole membership.
    ///
    /// # Errors
    ///
    /// [`BackendError`]; the membership told so far stays in force.
    ///
    /// # Cancel safety
    ///
    /// A call that is dropped loses nothing: the next one starts from the whole membership.
    async fn next(&mut self, max_wait: Duration) -> Result<Batch, BackendError>;

    /// Announces an engine, until nothing is heard of this process for `ttl`. Returns a lease.
    /// Announcing the same engine again replaces the first lease.
    ///
    /// # Errors
    ///
    /// [`BackendError`], also if this backend takes no announcements.
    async fn register(&mut self, address: &str, ttl: Duration) -> Result<Vec<u8>, BackendError> {
        let _ = (address, ttl);
        Err(self.takes_none())
    }

    /// Keeps an announcement for another `ttl`.
    ///
    /// # Errors
    ///
    /// [`BackendError`]; the engine may have to be announced again.
    async fn heartbeat(&mut self, lease: &[u8]) -> Result<(), BackendError> {
        let _ = lease;
        Err(self.takes_none())
    }

    /// Takes an announcement back.
    ///
    /// # Errors
    ///
    /// [`BackendError`]; it lapses by itself then.
    async fn deregister(&mut self, lease: &[u8]) -> Result<(), BackendError> {
        let _ = lease;
        Err(self.takes_none())
    }

    /// The error of a backend that takes no announcements.
    fn takes_none(&self) -> BackendError {
        BackendError {
            backend: self.name().to_owned(),
            reason: "not implemented in this discovery service".to_owned(),
        }
    }
}

/// One answer of a backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Whether `changes` is the whole membership rather than a difference.
    pub full: bool,
    /// Additions and removals, in order.
    pub changes: Vec<Change>,
    /// How long to wait before the next step.
    pub retry_after: Option<Duration>,
}

/// One change of the membership. Addresses are as the backend wrote them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The engine is a member.
    Put(String),
    /// The engine is no longer a member.
    Delete(String),
}

/// Why a backend has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("discovery backend `{backend}`: {reason}")]
pub struct BackendError {
    /// The backend's name in the configuration.
    pub backend: String,
    /// What went wrong.
    pub reason: String,
}
