//! The `[scheduler]` table.

use serde::{Deserialize, Serialize};

use super::section::Section;

/// The filters that run unless the configuration names others, in their order.
pub const DEFAULT_FILTERS: [&str; 7] = [
    "health",
    "port",
    "containerslots",
    "dependency",
    "affinity",
    "constraint",
    "whitelist",
];

/// Which plugins place containers, and how capacity is counted.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Scheduler {
    /// Name of a strategy plugin. Default: `spread`.
    pub strategy: String,
    /// Names of filter plugins in the order they run. Default: [`DEFAULT_FILTERS`].
    pub filters: Vec<String>,
    /// Share by which a node may be filled beyond what it has; above -1. Default: 0.05.
    pub overcommit: f64,
    /// How often a create that failed on one node is tried on another. Default: 0.
    pub create_retry: u32,
    /// What `docker run -c N` means. Default: `cores`.
    pub cpu_shares: CpuShares,
}

/// What the number in `docker run --cpu-shares N` means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CpuShares {
    /// N cores are reserved, as in classic Swarm.
    Cores,
    /// Docker's relative weight; scheduling ignores it.
    Shares,
}

impl Scheduler {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        let default = Self::default();
        let scheduler = Self {
            strategy: section.get("strategy", default.strategy),
            filters: section.get("filters", default.filters),
            overcommit: section.get("overcommit", default.overcommit),
            create_retry: section.get("create-retry", default.create_retry),
            cpu_shares: section.get("cpu-shares", default.cpu_shares),
        };
        if !is_valid_overcommit(scheduler.overcommit) {
            section.refuse("overcommit", "must be a finite number above -1");
        }
        scheduler
    }
}

impl Default for Scheduler {
    fn default() -> Self {
        Self {
            strategy: "spread".to_owned(),
            filters: DEFAULT_FILTERS.map(str::to_owned).to_vec(),
            overcommit: 0.05,
            create_retry: 0,
            cpu_shares: CpuShares::Cores,
        }
    }
}

/// Returns whether nodes can be overcommitted by `share`.
fn is_valid_overcommit(share: f64) -> bool {
    share.is_finite() && share > -1.0
}
