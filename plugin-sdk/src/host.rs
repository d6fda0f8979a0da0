//! What the daemon answers and does: which nodes hold what, the clock, random bytes, files, a store,
//! other servers, names; for volume drivers records, secrets, directories and mounts.
//!
//! The answers about containers and images come from the daemon's indexes as of the call under
//! way, with placements that are not finished yet. They cost one call for each question, whatever
//! the number of nodes. In native tests `testing::Host` answers instead.

use std::time::Duration;

pub use crate::bindings::imports::skep::plugin::directories::Entry;
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
/// answer, of whatever status. Only discovery backends and volume drivers may.
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

/// Returns a record that this driver kept on this node. Only volume drivers may.
///
/// # Errors
///
/// It cannot be read.
pub fn record(key: &str) -> Result<Option<Vec<u8>>> {
    answer::state::get(key)
}

/// Keeps a record on this node; it is there after a power failure. Keys have at most 255 bytes,
/// records at most 1 MiB. Only volume drivers may.
///
/// # Errors
///
/// It is too large, or cannot be written: what was there before is there still.
pub fn keep_record(key: &str, value: &[u8]) -> Result<()> {
    answer::state::put(key, value)
}

/// Forgets a record, if it is there. Only volume drivers may.
///
/// # Errors
///
/// It cannot be deleted.
pub fn forget_record(key: &str) -> Result<()> {
    answer::state::delete(key)
}

/// Returns all records that this driver keeps on this node, ordered by key. Only volume drivers
/// may.
///
/// # Errors
///
/// They cannot be read.
pub fn records() -> Result<Vec<(String, Vec<u8>)>> {
    let pairs = answer::state::list()?.into_iter();
    Ok(pairs.map(|pair| (pair.key, pair.value)).collect())
}

/// Returns the content of a file that the configuration names under `secrets`. Only volume drivers
/// may.
///
/// # Errors
///
/// There is no such name, or the file cannot be read.
pub fn secret(name: &str) -> Result<String> {
    answer::secrets::get(name)
}

/// Makes a directory below the driver's root with this mode and these owners, and returns whether
/// it was not there. The directory above it must be there. With `max_bytes` it may take no more than
/// that with all in it. Only volume drivers may.
///
/// # Errors
///
/// The path leads elsewhere, or it cannot be made. [`Error::Unsupported`](crate::Error::Unsupported)
/// if the file system cannot hold it to a size.
pub fn make_directory(
    path: &str,
    mode: u32,
    uid: u32,
    gid: u32,
    max_bytes: Option<u64>,
) -> Result<bool> {
    answer::directories::make(path, mode, uid, gid, max_bytes)
}

/// Removes a directory below the driver's root and all in it, if it is there; what is mounted in it
/// is left alone, and then so is the directory. Only volume drivers may.
///
/// # Errors
///
/// The path leads elsewhere, or not all could be removed.
pub fn remove_directory(path: &str) -> Result<()> {
    answer::directories::remove(path)
}

/// Returns a directory below the driver's root, if it is there. Only volume drivers may.
///
/// # Errors
///
/// The path leads elsewhere, or it cannot be read.
pub fn directory(path: &str) -> Result<Option<Entry>> {
    answer::directories::find(path)
}

/// Returns the directories in one below the driver's root, sorted by name; `""` is the root. Only
/// volume drivers may.
///
/// # Errors
///
/// The path leads elsewhere, or it cannot be read.
pub fn directories(path: &str) -> Result<Vec<Entry>> {
    answer::directories::list(path)
}

/// Copies a directory below the driver's root and all in it, sharing blocks where the file system
/// can. Only volume drivers may.
///
/// # Errors
///
/// [`Error::Denied`](crate::Error::Denied) if the target is there; there is no part of a copy.
pub fn copy_directory(source: &str, target: &str) -> Result<()> {
    answer::directories::copy(source, target)
}

/// Gives a directory below the driver's root another path. Only volume drivers may.
///
/// # Errors
///
/// [`Error::Denied`](crate::Error::Denied) if the target is there.
pub fn rename_directory(source: &str, target: &str) -> Result<()> {
    answer::directories::rename(source, target)
}

/// Returns whether the driver's root is where a file system is mounted. Only volume drivers may.
///
/// # Errors
///
/// It cannot be told.
pub fn root_is_mounted() -> Result<bool> {
    answer::directories::root_is_mounted()
}

/// Mounts on a directory below the driver's root what the configuration allows, with options as
/// mount(8) knows them. Nothing happens if the same is mounted there. Only volume drivers may.
///
/// # Errors
///
/// It is not allowed, or the system refuses.
pub fn mount(kind: &str, source: &str, target: &str, options: &[String]) -> Result<()> {
    answer::mounts::mount(kind, source, target, options)
}

/// Takes away what is mounted on a directory below the driver's root, if anything is. Only volume
/// drivers may.
///
/// # Errors
///
/// Somebody uses it.
pub fn unmount(target: &str) -> Result<()> {
    answer::mounts::unmount(target)
}

/// Returns whether something is mounted on a directory below the driver's root. Only volume drivers
/// may.
///
/// # Errors
///
/// It cannot be told.
pub fn is_mounted(target: &str) -> Result<bool> {
    answer::mounts::is_mounted(target)
}

/// Returns whether a container has a volume of this driver mounted. Only volume drivers may.
pub fn in_use(volume: &str) -> bool {
    answer::mounts::in_use(volume)
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
