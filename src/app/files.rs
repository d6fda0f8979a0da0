//! How many files, sockets included, the process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::debug;

/// Kept for clients, the store, plugins, and all that is no connection to an engine.
const FEWEST_OTHERS: u64 = 256;

/// Of all files, the part that is kept for them.
const OTHERS: u64 = 8;

/// Asks for as many files as this process may have at most, as programs written in Go do, and
/// returns how many it got.
pub fn raise_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            debug!(%error, "the limit of open files stays as it is");
        }
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// How many of so many files connections to engines may take.
pub fn for_engines(files: u64) -> usize {
    let others = (files / OTHERS).max(FEWEST_OTHERS);
    let connections = files.saturating_sub(others).max(1);
    usize::try_from(connections)
        .unwrap_or(usize::MAX)
        .min(tokio::sync::Semaphore::MAX_PERMITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_files_are_for_engines_and_some_are_not() {
        for (files, expected) in [(64, 1), (1024, 768), (20_000, 17_500)] {
            assert_eq!(for_engines(files), expected, "{files}");
        }
        assert!(for_engines(u64::MAX) > 1 << 40);
    }
}
