//! The `[api]` table.

use std::num::NonZeroUsize;

use serde::Serialize;

use super::section::Section;
use super::size;

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
}

impl Api {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        let default = Self::default();
        Self {
            cors: section.get("cors", default.cors),
            max_body_bytes: section.text("max-body", default.max_body_bytes, size::parse),
            event_queue: section.get("event-queue", default.event_queue),
        }
    }
}

impl Default for Api {
    fn default() -> Self {
        Self {
            cors: false,
            max_body_bytes: 4 << 20,
            event_queue: const { NonZeroUsize::new(10_000).unwrap() },
        }
    }
}
