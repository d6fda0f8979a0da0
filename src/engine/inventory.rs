//! What one engine holds, parsed as far as lists, look-ups, and placement need.
//!
//! Everything is immutable and shared: a new state is a new [`Inventory`] that shares what did not
//! change with the one before.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{
    engine::{
        health::Status,
        raw::{RawObject, SharedPairs},
    },
    model::{address::EngineAddr, pairs::Pairs, resource::Amount},
};

pub mod container;
pub mod entry;
pub mod resources;

pub use container::Container;
pub use resources::{Image, Network, Volume};

/// One engine at one moment.
#[derive(Clone, Debug)]
pub struct Inventory {
    /// Where the engine listens.
    pub addr: EngineAddr,
    /// The address containers' published ports are reached at, if it is known.
    pub ip: Option<IpAddr>,
    /// The node's status.
    pub status: Status,
    /// 0 (must not be used) to 100 (no recent failure).
    pub health: u32,
    /// Why the last contact failed.
    pub error: Option<String>,
    /// When the engine was last heard, or last failed.
    pub updated_at: SystemTime,
    /// What the engine says of itself; `None` before first contact.
    pub specs: Option<Arc<Specs>>,
    /// Containers by full ID.
    pub containers: imbl::OrdMap<Arc<str>, Arc<Container>>,
    /// Images, in the engine's order.
    pub images: Arc<Vec<Arc<Image>>>,
    /// Networks, in the engine's order.
    pub networks: Arc<Vec<Arc<Network>>>,
    /// Volumes, in the engine's order.
    pub volumes: Arc<Vec<Arc<Volume>>>,
    /// When the engine last listed all its containers; `None` if it never did.
    pub listed_at: Option<Instant>,
    /// When contact was lost, while it is.
    pub down_since: Option<SystemTime>,
    /// Whether all this is what an earlier process saw, and nothing was heard since.
    pub is_recalled: bool,
}

/// What an engine says of itself in `/info` and `/version`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Specs {
    /// The engine's own ID.
    pub id: String,
    /// Its host name.
    pub name: String,
    /// Processor cores.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// The engine's labels with the built-in ones, sorted.
    pub labels: BTreeMap<String, String>,
    /// Docker version.
    pub server_version: String,
    /// Newest API version the engine speaks, as (major, minor).
    pub api_version: (u32, u32),
    /// Oldest API version the engine speaks.
    pub min_api_version: (u32, u32),
    /// `linux`.
    pub os_type: String,
    /// `x86_64`.
    pub architecture: String,
    /// Manager's clock minus engine's, in milliseconds; 0 below two seconds.
    pub clock_delta_ms: i64,
    /// The swarm the engine is an active member of.
    pub swarm: Option<SwarmMember>,
    /// Whether the engine shares its networks through a cluster store, as engines before 23 could.
    pub has_cluster_store: bool,
    /// The volume drivers that the engine has.
    pub volume_drivers: Vec<String>,
}

/// An engine's part in a swarm, as its `/info` tells it under `Swarm`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct SwarmMember {
    /// Whether it manages the swarm: only such an engine changes the swarm's networks.
    pub manager: bool,
    /// Node IDs of the swarm's managers, the only thing that all members know of their swarm.
    pub managers: Vec<String>,
}

impl SwarmMember {
    /// Whether the other engine is in the same swarm.
    pub fn shares_swarm(&self, other: &Self) -> bool {
        self.managers.iter().any(|id| other.managers.contains(id))
    }
}

impl Inventory {
    /// An engine that was just found.
    pub fn pending(addr: EngineAddr) -> Self {
        Self {
            addr,
            ip: None,
            status: Status::Pending,
            health: 0,
            error: None,
            updated_at: SystemTime::now(),
            specs: None,
            containers: imbl::OrdMap::new(),
            images: Arc::default(),
            networks: Arc::default(),
            volumes: Arc::default(),
            listed_at: None,
            down_since: None,
            is_recalled: false,
        }
    }

    /// The node's name; empty before first contact.
    pub fn name(&self) -> &str {
        self.specs.as_ref().map_or("", |specs| &specs.name)
    }

    /// The node's ID: the engine's ID, a `|`, and its address. Empty before first contact.
    pub fn node_id(&self) -> String {
        self.specs
            .as_ref()
            .map_or_else(String::new, |specs| format!("{}|{}", specs.id, self.addr))
    }

    /// Whether the engine was validated, by this process or an earlier one: its containers are
    /// known, though it may be down now.
    pub fn is_validated(&self) -> bool {
        (self.status != Status::Pending || self.is_recalled) && self.specs.is_some()
    }

    /// Whether the engine can be talked to.
    pub fn is_healthy(&self) -> bool {
        self.status == Status::Healthy
    }

    /// The swarm the engine is an active member of, as of its last specs.
    pub fn swarm(&self) -> Option<&SwarmMember> {
        self.specs.as_ref()?.swarm.as_ref()
    }

    /// Whether the engine can make a network of several nodes: it manages a swarm, or it has a
    /// cluster store.
    pub fn makes_overlays(&self) -> bool {
        self.swarm().is_some_and(|member| member.manager)
            || self
                .specs
                .as_ref()
                .is_some_and(|specs| specs.has_cluster_store)
    }

    /// Whether the engine was seen to have a volume driver.
    pub fn has_volume_driver(&self, driver: &str) -> bool {
        let wanted = resources::driver_name(driver);
        let specs = self.specs.as_ref();
        specs.is_some_and(|specs| {
            let mut names = specs.volume_drivers.iter();
            names.any(|name| resources::driver_name(name) == wanted)
        })
    }

    /// What containers in any state have set aside.
    pub fn reserved(&self) -> Amount {
        self.containers
            .values()
            .fold(Amount::default(), |sum, container| sum + container.reserved)
    }

    /// What there is, without over-commitment.
    pub fn total(&self) -> Amount {
        self.specs
            .as_ref()
            .map_or(Amount::default(), |specs| Amount {
                cpu_nano: u64::from(specs.cpus) * crate::model::resource::NANO,
                memory_bytes: specs.memory_bytes,
            })
    }

    /// The text that replaces an unspecified address in published ports.
    pub fn ip_text(&self) -> String {
        self.ip.map_or_else(String::new, |ip| ip.to_string())
    }
}

impl Specs {
    /// The difference between the manager's clock and the engine's.
    pub fn clock_delta(&self) -> chrono::TimeDelta {
        chrono::TimeDelta::milliseconds(self.clock_delta_ms)
    }
}

/// A clock difference below this is no difference.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(2);

/// Copies an entry's text members that several kinds of object have.
fn text(object: &RawObject, name: &str) -> String {
    object.parsed(name).ok().flatten().unwrap_or_default()
}

/// An object's labels; none if they are absent or odd.
fn labels(object: &RawObject) -> Pairs {
    let labels: Option<SharedPairs> = object.parsed("Labels").ok().flatten();
    labels.unwrap_or_default().0
}
