//! What the daemon answers: which nodes hold what, the clock, random bytes, files, a store, other
//! servers, names.
//!
//! The answers about containers and images come from the daemon's indexes as of the call under
//! way, with placements that are not finished yet. They cost one call for each question, whatever
//! the number of nodes. In native tests `testing::Host` answers instead.

use std::time::Duration;

pub use crate::bindings::imports::skep::plugin::files::Stamp;
pub use crate::bindings::imports::skep::plugin::http::{Request, Response};
pub use crate::bindings::imports::skep::plugin::inventory::Pattern as Query;
pub use crate::bindings::imports::skep::plugin::names::Service;
pub use crate::bindings::imports::skep::plugin::store::Pair;

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
    answer::files::wait(path, seen, millis(max_wait))
}

/// Returns everything in the part of the store that the configuration grants, ordered by key, and
/// the version of this state. Only discovery backends may, and not while they are made.
///
/// # Errors
///
/// No store is granted, or it cannot be read.
pub fn read_store() -> Result<(Vec<Pair>, u64)> {
    answer::store::read()
}

/// Waits until the version of the store's part is not `seen`, at most `max_wait`, and returns it.
/// Only discovery backends may.
///
/// # Errors
///
/// No store is granted, or it cannot be followed any more: read it again.
pub fn wait_for_store(seen: u64, max_wait: Duration) -> Result<u64> {
    answer::store::wait(seen, millis(max_wait))
}

/// Sets a key of the store that vanishes `ttl` after the daemon has died, and returns the lease.
/// Only discovery backends may.
///
/// # Errors
///
/// No store is granted, or it does not take the key.
pub fn hold_key(key: &str, value: &[u8], ttl: Duration) -> Result<u64> {
    answer::store::hold(key, value, millis(ttl))
}

/// Sets the key of a lease again, in case somebody else deleted it.
///
/// # Errors
///
/// [`Error::NotFound`](crate::Error::NotFound) if the lease is over, or the store is away.
pub fn renew_key(lease: u64) -> Result<()> {
    answer::store::renew(lease)
}

/// Ends a lease; its key is gone then.
///
/// # Errors
///
/// The store is away: the key goes when its time is over.
pub fn release_key(lease: u64) -> Result<()> {
    answer::store::release(lease)
}

/// Sends a request to a server that the configuration names under `allow.http`, and returns the
/// answer, of whatever status. Only discovery backends may.
///
/// # Errors
///
/// Not allowed, or no answer within `max_wait`.
pub fn send(request: &Request, max_wait: Duration) -> Result<Response> {
    answer::http::send(request, millis(max_wait))
}

/// Returns the addresses of a host, and for how long they may be kept. Only discovery backends may.
///
/// # Errors
///
/// Not allowed under `allow.names`, [`Error::NotFound`](crate::Error::NotFound) if there are none,
/// or the name server cannot say.
pub fn addresses_of(name: &str) -> Result<(Vec<String>, Duration)> {
    let (addresses, seconds) = answer::names::addresses(name)?;
    Ok((addresses, Duration::from_secs(seconds.into())))
}

/// Returns the SRV records of a name, and for how long they may be kept. Only discovery backends
/// may.
///
/// # Errors
///
/// As [`addresses_of`].
pub fn services_of(name: &str) -> Result<(Vec<Service>, Duration)> {
    let (services, seconds) = answer::names::services(name)?;
    Ok((services, Duration::from_secs(seconds.into())))
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

pub(crate) fn log_enabled(level: Level) -> bool {
    answer::log::enabled(level)
}

pub(crate) fn log(level: Level, message: &str, fields: &[Attr]) {
    answer::log::log(level, message, fields);
}
