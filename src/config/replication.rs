//! The `[replication]` table.

use std::time::Duration;

use serde::Serialize;

use super::advertise::is_advertisable;
use super::duration;
use super::section::Section;

/// Several managers, of which one leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Replication {
    /// Default: false.
    pub enabled: bool,
    /// Where the others reach this manager, `host:port`. Needed if enabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertise: Option<String>,
    /// How long a leader leads that is not heard of. Default: 20s.
    #[serde(serialize_with = "duration::serialize")]
    pub ttl: Duration,
    /// Whether a replica answers reads from what it sees itself. Default: false.
    pub local_reads: bool,
}

impl Replication {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        let default = Self::default();
        let replication = Self {
            enabled: section.get("enabled", default.enabled),
            advertise: section.text("advertise", default.advertise, |text| {
                if is_advertisable(text) && !text.starts_with(':') {
                    Ok(Some(text.to_owned()))
                } else {
                    Err("must be of the form ip:port or hostname:port")
                }
            }),
            ttl: section.text("ttl", default.ttl, duration::parse),
            local_reads: section.get("local-reads", default.local_reads),
        };
        if replication.ttl < Duration::from_secs(1) {
            section.refuse("ttl", "must be at least one second");
        }
        if replication.enabled && replication.advertise.is_none() && !section.has("advertise") {
            section.refuse("advertise", "missing, and needed by the other managers");
        }
        replication
    }
}

impl Default for Replication {
    fn default() -> Self {
        Self {
            enabled: false,
            advertise: None,
            ttl: Duration::from_secs(20),
            local_reads: false,
        }
    }
}
