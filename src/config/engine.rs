//! The `[engine]` table.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::duration;
use super::section::Section;
use super::tls::{self, EngineTls};
use crate::model::address::EngineAddr;

/// How Skep talks to the Docker engines.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Engine {
    /// Longest time to open a connection. Default: 10s.
    #[serde(serialize_with = "duration::serialize")]
    pub connect_timeout: Duration,
    /// Longest time for one of Skep's own calls; a client's call may take longer. Default: 30s.
    #[serde(serialize_with = "duration::serialize")]
    pub request_timeout: Duration,
    /// Shortest time between two full refreshes of one engine. Default: 30s.
    #[serde(serialize_with = "duration::serialize")]
    pub refresh_min_interval: Duration,
    /// Longest time between two full refreshes, never below the shortest. Default: 60s.
    #[serde(serialize_with = "duration::serialize")]
    pub refresh_max_interval: Duration,
    /// Failed calls in a row after which an engine is unhealthy. Default: 3.
    pub failure_retry: NonZeroU32,
    /// Most connections to one engine, streams included. Default: 256.
    pub max_connections: NonZeroUsize,
    /// Most idle connections kept per engine. Default: 4.
    pub max_idle_connections: usize,
    /// How engines are spoken to, unless `tls_for` says otherwise. Default: without TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<EngineTls>,
    /// How single engines are spoken to. Default: like all the others.
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        serialize_with = "tls::serialize_each"
    )]
    pub tls_for: BTreeMap<EngineAddr, EngineTls>,
}

impl Engine {
    pub(super) fn read(section: &mut Section<'_, '_>, base: &Path) -> Self {
        let default = Self::default();
        let engine = Self {
            connect_timeout: section.duration("connect-timeout", default.connect_timeout),
            request_timeout: section.duration("request-timeout", default.request_timeout),
            refresh_min_interval: section
                .duration("refresh-min-interval", default.refresh_min_interval),
            refresh_max_interval: section
                .duration("refresh-max-interval", default.refresh_max_interval),
            failure_retry: section.get("failure-retry", default.failure_retry),
            max_connections: section.get("max-connections", default.max_connections),
            max_idle_connections: section.get("max-idle-connections", default.max_idle_connections),
            tls: EngineTls::read_all(section, "tls", base),
            tls_for: section.table("tls-for", |tables| EngineTls::read_each(tables, base)),
        };
        if engine.refresh_max_interval < engine.refresh_min_interval {
            section.refuse(
                "refresh-max-interval",
                "cannot be less than `refresh-min-interval`",
            );
        }
        engine
    }
}

impl Default for Engine {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            refresh_min_interval: Duration::from_secs(30),
            refresh_max_interval: Duration::from_secs(60),
            failure_retry: const { NonZeroU32::new(3).unwrap() },
            max_connections: const { NonZeroUsize::new(256).unwrap() },
            max_idle_connections: 4,
            tls: None,
            tls_for: BTreeMap::new(),
        }
    }
}
