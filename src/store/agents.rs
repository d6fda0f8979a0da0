//! What agents and managers tell each other about leases.
//!
//! Keys, below the managers' prefix in the store: `agents/<addr>` has the lease of a node's agent,
//! `cluster` says whether leases count, `managers/<host:port>` is where managers can be asked, for as
//! long as they live, and `superseded/<addr>/<id>` a container that was made again elsewhere.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The lease of one node's agent. It lives for as long as it changes in time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Lease {
    /// How long it is valid after each change.
    #[serde(rename = "TtlMillis", with = "millis")]
    pub ttl: Duration,
    /// Which run of the agent it is of.
    pub boot: u64,
    /// Grows with each renewal.
    pub beat: u64,
}

/// What an agent hears that wants its lease renewed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Answer {
    /// Whether it is.
    #[serde(default)]
    pub word: Word,
    /// Whether leases count in this cluster.
    pub counts: bool,
    /// Where managers can be asked, `host:port`; `None` if that is not known.
    #[serde(default)]
    pub managers: Option<Vec<String>>,
    /// IDs of the node's containers that were made again elsewhere; `None` if that is not known.
    #[serde(default)]
    pub superseded: Option<Vec<String>>,
}

/// A container that an agent stopped while it had no lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct FencedContainer {
    /// Its full ID.
    pub id: String,
    /// When it ended, as its engine says, empty if that is not known; `None` if it was frozen.
    pub ended_at: Option<String>,
}

/// A manager's word on a lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    /// It is renewed.
    #[default]
    Renewed,
    /// The manager has lost the store, and so cannot lead: it is as if it were renewed.
    Hold,
}

impl Lease {
    /// The lease as it is kept and sent.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads one.
    ///
    /// # Errors
    ///
    /// It is something else.
    pub fn parse(json: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(json)
    }
}

impl Answer {
    /// The answer as it is kept and sent.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads one.
    ///
    /// # Errors
    ///
    /// It is something else.
    pub fn parse(json: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(json)
    }
}

/// Where the lease of an engine's agent is.
pub fn lease_key(prefix: &str, addr: &str) -> String {
    format!("{prefix}/agents/{addr}")
}

/// Where it is said whether leases count.
pub fn cluster_key(prefix: &str) -> String {
    format!("{prefix}/cluster")
}

/// Below which the containers of an engine are listed that were made again elsewhere.
pub fn superseded_key(prefix: &str, addr: &str) -> String {
    format!("{prefix}/superseded/{addr}")
}

/// Below which managers are listed.
pub fn managers_key(prefix: &str) -> String {
    format!("{prefix}/managers")
}

mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}
