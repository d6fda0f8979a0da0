//! The Docker API in front of the cluster.
//!
//! ```text
//! server    connections: accepted, served, drained
//! router    method and path -> route
//! handlers  one file for each kind of object
//! primary   what another manager has to answer, as it leads
//! proxy     a request to the engine that owns the object, bytes in, bytes out
//! builders  which engine the parts of one build go to
//! fanout    one question to many engines, bounded
//! progress  what many engines tell of a long job, as one stream
//! tunnel    an upgraded connection (attach, exec) to that engine
//! entries   a container's list entry as the cluster shows it
//! error     the one place that knows HTTP statuses
//! ```
//!
//! A request takes one snapshot of the cluster and works on that. What an engine answers is passed
//! on as it came; what the cluster adds (the node, addresses, a status after the engine died) is
//! put into the engine's JSON without decoding the rest.

use std::{num::NonZeroUsize, time::Duration};

mod builders;
mod duration;
mod entries;
mod error;
mod event_filter;
mod fanout;
mod handlers;
mod list_filters;
mod primary;
mod progress;
mod proxy;
mod query;
mod router;
mod server;
mod tunnel;

pub use self::handlers::tokens::{Tokens, new_token};
pub use self::primary::Options as PeerOptions;
pub use self::server::{BindError, Listener, bind, serve};

/// The newest API version that is advertised, whatever the engines speak.
pub const MAX_API_VERSION: (u32, u32) = (1, 51);

/// Advertised while no engine is healthy.
pub const DEFAULT_API_VERSION: (u32, u32) = (1, 41);

/// What the API needs to know from the configuration.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether browsers of other origins may use the API.
    pub cors: bool,
    /// The longest body of a request that is held in memory.
    pub max_body_bytes: usize,
    /// How long requests may go on after shutdown began.
    pub grace_period: Duration,
    /// Most client connections at a time on each address, tunnels included.
    pub max_connections: NonZeroUsize,
    /// How long the head of a request may take, from its first byte; for the first request from
    /// when the client connected.
    pub head_timeout: Duration,
    /// How long a connection may idle between two requests.
    pub idle_timeout: Duration,
    /// Whether the daemon shows itself as experimental.
    pub experimental: bool,
    /// Whether a list of containers with the filter `node` first asks those nodes anew.
    pub refresh_on_node_filter: bool,
    /// The value of the filter `name` for which all nodes are asked anew; empty if there is none.
    pub refresh_name_filter: String,
    /// How other managers are spoken to.
    pub peers: PeerOptions,
    /// Where lists of engines under tokens are kept, if they are served.
    pub tokens: Option<Tokens>,
}
