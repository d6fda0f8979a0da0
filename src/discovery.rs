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
