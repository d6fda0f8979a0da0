//! The `[reschedule]` table.

use std::num::NonZeroUsize;
use std::time::Duration;

use serde::Serialize;

use super::duration;
use super::section::Section;

/// What is done about nodes that fail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Reschedule {
    /// How long a node may be out of reach. Default: see
    /// [`effective_grace`](super::Config::effective_grace).
    #[serde(
        serialize_with = "duration::serialize_some",
        skip_serializing_if = "Option::is_none"
    )]
    pub grace: Option<Duration>,
    /// Whether the leases of agents are waited for, and agents stop containers without one.
    /// Default: true.
    pub fencing: bool,
    /// How long after the end of a lease its agent may take to stop containers. Default: 5s.
    #[serde(serialize_with = "duration::serialize")]
    pub lease_margin: Duration,
    /// Most containers that are moved at a time. Default: 10.
    pub max_moves: NonZeroUsize,
    /// Percentage of the fleet that may be out of reach; beyond it nothing is moved. Default: 50.
    pub max_failed_percent: u8,
}

impl Reschedule {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        let default = Self::default();
        let reschedule = Self {
            grace: section.text("grace", default.grace, |text| {
                duration::parse(text).map(Some)
            }),
            fencing: section.get("fencing", default.fencing),
            lease_margin: section.duration("lease-margin", default.lease_margin),
            max_moves: section.get("max-moves", default.max_moves),
            max_failed_percent: section.get("max-failed-percent", default.max_failed_percent),
        };
        if reschedule.max_failed_percent > 100 {
            section.refuse("max-failed-percent", "must be a number from 0 to 100");
        }
        reschedule
    }
}

impl Default for Reschedule {
    fn default() -> Self {
        Self {
            grace: None,
            fencing: true,
            lease_margin: Duration::from_secs(5),
            max_moves: NonZeroUsize::new(10).unwrap_or(NonZeroUsize::MIN),
            max_failed_percent: 50,
        }
    }
}
