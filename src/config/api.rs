//! The `[api]` table.

use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::duration;
use super::section::Section;
use super::size;
use super::tls::ApiTls;

/// How the Docker API is served.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Api {
    /// Whether answers carry CORS headers. Default: false.
    pub cors: bool,
    /// Largest JSON body held in memory; streamed bodies are not limited. Default: 4MiB.
    #[serde(rename = "max-body", serialize_with = "size::serialize")]
    pub max_body_bytes: u64,
    /// Events kept for one slow subscriber before it is cut off. Default: 10000.
    pub event_queue: NonZeroUsize,
    /// Most client connections at a time on each address; more wait to be accepted. Default: 10000.
    pub max_connections: NonZeroUsize,
    /// Longest time from the first byte of a request to the end of its head. Default: 30s.
    #[serde(serialize_with = "duration::serialize")]
    pub head_timeout: Duration,
    /// Longest time a connection may idle between two requests. Default: 5m.
    #[serde(serialize_with = "duration::serialize")]
    pub idle_timeout: Duration,
    /// Whether the daemon shows itself as experimental, as classic Swarm's option did. Default:
    /// false.
    pub experimental: bool,
    /// Whether a list of containers with the filter `node` first asks those nodes anew. Default:
    /// false.
    pub refresh_on_node_filter: bool,
    /// A list of containers with this value of the filter `name` first asks all nodes anew.
    /// Default: empty, none does.
    pub refresh_name_filter: String,
    /// Whether lists of engines under tokens are kept and served, at `/v1/clusters`. Default: false.
    pub token_lists: bool,
    /// Group, by name or number, that may use Unix sockets. Default: `docker` if it exists, else
    /// that of the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket_group: Option<String>,
    /// TLS of the TCP listeners. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ApiTls>,
}

impl Api {
    pub(super) fn read(section: &mut Section<'_, '_>, base: &Path) -> Self {
        let default = Self::default();
        let has_tls = section.has("tls");
        Self {
            cors: section.get("cors", default.cors),
            max_body_bytes: section.text("max-body", default.max_body_bytes, size::parse),
            event_queue: section.get("event-queue", default.event_queue),
            max_connections: section.get("max-connections", default.max_connections),
            head_timeout: section.duration("head-timeout", default.head_timeout),
            idle_timeout: section.duration("idle-timeout", default.idle_timeout),
            experimental: section.get("experimental", default.experimental),
            refresh_on_node_filter: section
                .get("refresh-on-node-filter", default.refresh_on_node_filter),
            refresh_name_filter: section.get("refresh-name-filter", default.refresh_name_filter),
            token_lists: section.get("token-lists", default.token_lists),
            socket_group: section.get("socket-group", default.socket_group),
            tls: has_tls
                .then(|| section.table("tls", |table| ApiTls::read(table, base)))
                .flatten(),
        }
    }
}

impl Default for Api {
    fn default() -> Self {
        Self {
            cors: false,
            max_body_bytes: 4 << 20,
            event_queue: const { NonZeroUsize::new(10_000).unwrap() },
            max_connections: const { NonZeroUsize::new(10_000).unwrap() },
            head_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(300),
            experimental: false,
            refresh_on_node_filter: false,
            refresh_name_filter: String::new(),
            token_lists: false,
            socket_group: None,
            tls: None,
        }
    }
}
