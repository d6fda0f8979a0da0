//! How much a plugin may take.

use std::time::Duration;

use super::Kind;

/// The most changes of the node table handed over in one call.
pub(super) const MAX_DELTAS: usize = 1024;
/// Linear memory of all plugins together, unless the configuration says otherwise.
pub const DEFAULT_TOTAL_MEMORY_BYTES: usize = 1 << 30;

/// The limits of one plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Linear memory of one instance. Default: 128 MiB, 64 MiB for discovery and volumes.
    pub memory_bytes: usize,
    /// Longest one call may compute. Default: 100 ms, 1 s for discovery and volumes.
    pub call: Duration,
    /// Longest instantiation, `describe`, and `configure` may take. Default: 5 s, 15 s for
    /// discovery and volumes.
    pub start: Duration,
    /// Longest one batch of node changes may take. Default: 1 s.
    pub apply: Duration,
    /// How much longer than asked to a waiting call may take, waiting included. Default: 10 s.
    pub grace: Duration,
    /// Bytes one call may hand to the daemon. Default: 8 MiB, 16 MiB for discovery and volumes.
    pub output_bytes: usize,
    /// Linear memories. Default: 8.
    pub memories: usize,
    /// Tables. Default: 64.
    pub tables: usize,
    /// Elements of one table. Default: 100,000.
    pub table_elements: usize,
    /// Core instances; components made from Python need more than 16. Default: 200.
    pub instances: usize,
    /// Log lines each second in the long run, five times as many at once. Default: 100.
    pub log_lines_per_second: u32,
}

impl Limits {
    /// The defaults for one kind of plugin.
    pub fn for_kind(kind: Kind) -> Self {
        let scheduling = Self {
            memory_bytes: 128 << 20,
            call: Duration::from_millis(100),
            start: Duration::from_secs(5),
            apply: Duration::from_secs(1),
            grace: Duration::from_secs(10),
            output_bytes: 8 << 20,
            memories: 8,
            tables: 64,
            table_elements: 100_000,
            instances: 200,
            log_lines_per_second: 100,
        };
        match kind {
            Kind::Filter | Kind::Strategy => scheduling,
            Kind::Discovery | Kind::Volume => Self {
                memory_bytes: 64 << 20,
                call: Duration::from_secs(1),
                start: Duration::from_secs(15),
                output_bytes: 16 << 20,
                ..scheduling
            },
        }
    }
}
