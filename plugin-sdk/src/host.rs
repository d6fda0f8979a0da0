//! What the daemon answers: which nodes hold what, the clock, random bytes, files.
//!
//! The answers about containers and images come from the daemon's indexes as of the call under
//! way, with placements that are not finished yet. They cost one call for each question, whatever
//! the number of nodes. In native tests `testing::Host` answers instead.

use std::time::Duration;

pub use crate::bindings::imports::skep::plugin::files::Stamp;
pub use crate::bindings::imports::skep::plugin::inventory::Pattern as Query;

use crate::log::Level;
use crate::{Attr, NodeSet, Result};

#[cfg(target_family = "wasm")]
use crate::bindings::imports::skep::plugin as answer;
#[cfg(not(target_family = "wasm"))]
use crate::testing::answer;

/// Returns the nodes where this container reference (name, ID, cluster-wide ID or unique prefix)
/// resolves.
///
/// # Errors
///
/// Whatever the daemon answers; pass it on with `?`.
pub fn nodes_with_reference(reference: &str) -> Result<NodeSet> {
    answer::inventory::nodes_with_reference(reference).map(NodeSet::from_words)
}

/// Returns the nodes with a container whose full ID or first name matches.
///
/// # Errors
///
/// Whatever the daemon answers; pass it on with `?`.
pub fn nodes_with_container(query: &Query) -> Result<NodeSet> {
    answer::inventory::nodes_with_container(query).map(NodeSet::from_words)
}

/// Returns the nodes with a container whose label `key` matches. A container without the label
/// has the empty value.
///
/// # Errors
///
/// Whatever the daemon answers; pass it on with `?`.
pub fn nodes_with_label(key: &str, query: &Query) -> Result<NodeSet> {
    answer::inventory::nodes_with_label(key, query).map(NodeSet::from_words)
}

/// Returns the nodes with an image whose ID, `repository:tag` or repository matches.
///
/// # Errors
///
/// Whatever the daemon answers; pass it on with `?`.
pub fn nodes_with_image(query: &Query) -> Result<NodeSet> {
    answer::inventory::nodes_with_image(query).map(NodeSet::from_words)
}

/// Returns the nodes where all host ports `first..=last` are taken for this address and protocol.
///
/// # Errors
///
/// Whatever the daemon answers; pass it on with `?`.
pub fn nodes_with_host_ports(
    host_ip: &str,
    first: u16,
    last: u16,
    protocol: &str,
) -> Result<NodeSet> {
    answer::inventory::nodes_with_host_ports(host_ip, first, last, protocol)
        .map(NodeSet::from_words)
}

/// Returns the nodes where a container on the host's network exposes this port (`80/tcp`).
///
/// # Errors
///
/// Whatever the daemon answers; pass it on with `?`.
pub fn nodes_with_host_mode_port(port: &str) -> Result<NodeSet> {
    answer::inventory::nodes_with_host_mode_port(port).map(NodeSet::from_words)
}

/// Returns the time since 1970, UTC.
pub fn now() -> Duration {
    Duration::from_millis(answer::clock::now_ms())
}

/// Returns the time since an arbitrary start; it never goes back.
pub fn monotonic() -> Duration {
    Duration::from_nanos(answer::clock::monotonic_ns())
}

/// Returns random bytes, at most 1 MiB.
///
/// Only strategies, discovery backends and volume drivers may. In a strategy the bytes follow
/// from the seed of the call: equal calls get equal bytes.
pub fn random_bytes(count: u32) -> Vec<u8> {
    answer::random::bytes(count)
}

/// Reads a file that the configuration names under `allow.files`, at most 16 MiB, and returns it
/// with its revision. Only discovery backends may.
///
/// # Errors
///
/// Not found, not allowed, too large, or not readable.
pub fn read_file(path: &str) -> Result<(Vec<u8>, u64)> {
    answer::files::read(path)
}

/// Waits until the revision of a file is not `seen`, at most `max_wait`. Only discovery backends
/// may.
///
/// # Errors
///
/// Not allowed, or not readable.
pub fn wait_for_file(path: &str, seen: u64, max_wait: Duration) -> Result<Stamp> {
    let max_wait_ms = u32::try_from(max_wait.as_millis()).unwrap_or(u32::MAX);
    answer::files::wait(path, seen, max_wait_ms)
}

pub(crate) fn log_enabled(level: Level) -> bool {
    answer::log::enabled(level)
}

pub(crate) fn log(level: Level, message: &str, fields: &[Attr]) {
    answer::log::log(level, message, fields);
}
