//! The `[rebalance]` table.

use std::num::NonZeroUsize;
use std::time::Duration;

use serde::Serialize;

use super::duration;
use super::section::Section;

/// Moving containers to better nodes by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Rebalance {
    /// How often. Default: never.
    #[serde(
        serialize_with = "duration::serialize_some",
        skip_serializing_if = "Option::is_none"
    )]
    pub period: Option<Duration>,
    /// Most moves each time. Default: 5.
    pub max_moves: NonZeroUsize,
}

impl Rebalance {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        let default = Self::default();
        let rebalance = Self {
            period: section.text("period", default.period, |text| {
                duration::parse(text).map(Some)
            }),
            max_moves: section.get("max-moves", default.max_moves),
        };
        if rebalance
            .period
            .is_some_and(|period| period < Duration::from_secs(1))
        {
            section.refuse("period", "must be at least one second");
        }
        rebalance
    }
}

impl Default for Rebalance {
    fn default() -> Self {
        Self {
            period: None,
            max_moves: NonZeroUsize::new(5).unwrap_or(NonZeroUsize::MIN),
        }
    }
}
