//! Engines listed in etcd, Consul or ZooKeeper, each under a key of its own.
//!
//! The layout is classic Swarm's: a directory, `docker/swarm/nodes` unless told otherwise, with a
//! key for each engine, named and filled with its address. The daemon grants the directory, so
//! this plugin never learns where it is. What others put there is left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;

use skep_plugin_sdk::discovery::{Batch, Entry, unchanged, whole_list};
use skep_plugin_sdk::host::Pair;
use skep_plugin_sdk::{Discovery, Error, Result, address, host, log};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[expect(dead_code, reason = "the daemon follows them")]
struct Settings {
    /// The servers, for the daemon.
    #[serde(default)]
    location: String,
    /// `kv.path` and others, for the daemon.
    #[serde(default)]
    options: BTreeMap<String, String>,
}

/// How many keys are complained about.
const MAX_COMPLAINTS: usize = 1000;

struct Kv {
    /// Keys that were complained about, so that each is complained about once.
    foreign: BTreeSet<String>,
}

impl Discovery for Kv {
    type Settings = Settings;
    const SETTINGS_SCHEMA: Option<&'static str> = Some(
        r#"{"type":"object","additionalProperties":false,"properties":{"location":{"type":"string"},"options":{"type":"object","additionalProperties":{"type":"string"}}}}"#,
    );

    fn new(_settings: Settings) -> Result<Self> {
        Ok(Self {
            foreign: BTreeSet::new(),
        })
    }

    fn next(&mut self, cursor: Option<&[u8]>, max_wait: Duration) -> Result<Batch> {
        // The cursor is the version of the state that was read.
        let seen = cursor.and_then(number);
        if let (Some(seen), Some(cursor)) = (seen, cursor)
            && host::wait_for_store(seen, max_wait)? == seen
        {
            return Ok(unchanged(cursor, None));
        }
        let (pairs, version) = host::read_store()?;
        let addresses: Vec<String> = pairs.iter().filter_map(|pair| self.address(pair)).collect();
        Ok(whole_list(addresses, version.to_le_bytes().to_vec()))
    }

    fn register(&mut self, me: &Entry, ttl: Duration) -> Result<Vec<u8>> {
        let lease = host::hold_key(&me.address, me.address.as_bytes(), ttl)?;
        Ok(lease.to_le_bytes().to_vec())
    }

    fn heartbeat(&mut self, lease: &[u8]) -> Result<()> {
        host::renew_key(lease_number(lease)?)
    }

    fn deregister(&mut self, lease: &[u8]) -> Result<()> {
        host::release_key(lease_number(lease)?)
    }
}

skep_plugin_sdk::export_discovery!(Kv);

impl Kv {
    /// The address in a value; `None` if it is none, which is somebody else's then.
    fn address(&mut self, pair: &Pair) -> Option<String> {
        let key = &pair.key;
        // Keys below an engine's own are no engines.
        if key.contains('/') {
            return None;
        }
        let text = str::from_utf8(&pair.value).ok().map(str::trim);
        let address = text.filter(|text| is_engine(text));
        let is_known = || self.foreign.contains(key) || self.foreign.len() >= MAX_COMPLAINTS;
        if address.is_none() && !is_known() {
            log::warn(
                "what a key holds is no address of the form host:port, left alone",
                &[("key", key)],
            );
            self.foreign.insert(key.clone());
        }
        address.map(str::to_owned)
    }
}

/// No socket of the manager's own machine: whoever writes to the store may not be trusted so far.
fn is_engine(text: &str) -> bool {
    !text.starts_with('/') && !text.contains("://") && address::validate(text).is_ok()
}

fn number(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_le_bytes)
}

fn lease_number(lease: &[u8]) -> Result<u64> {
    number(lease).ok_or_else(|| Error::NotFound("no such lease".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_plugin_sdk::discovery::configure;
    use skep_plugin_sdk::testing::{Host, addresses};

    const WAIT: Duration = Duration::from_secs(1);

    fn kv() -> Kv {
        configure(r#"{"location":"h:1/x","options":{"kv.path":"y"}}"#).unwrap()
    }

    fn me() -> Entry {
        Entry {
            address: "a:1".into(),
            meta: Vec::new(),
        }
    }

    #[test]
    fn lists_the_values_and_waits_for_others() {
        let host = Host::install();
        host.put_key("a:1", "a:1\n");
        let mut kv = kv();
        let first = kv.next(None, WAIT).unwrap();
        assert!(first.full);
        assert_eq!(addresses(&first), ["a:1"]);
        let same = kv.next(Some(&first.cursor), WAIT).unwrap();
        assert!(!same.full && same.changes.is_empty());
        host.put_key("b:1", "b:1");
        let second = kv.next(Some(&same.cursor), WAIT).unwrap();
        assert_eq!(addresses(&second), ["a:1", "b:1"]);
    }

    #[test]
    fn what_is_no_engine_is_left_alone_and_told_once() {
        let host = Host::install();
        host.put_key("a:1", "a:1");
        host.put_key("a:1/load", "7");
        host.put_key("readme", "for humans");
        host.put_key("range", "b[1:2]:1");
        host.put_key("socket", "unix:///run/docker.sock");
        let mut kv = kv();
        for _ in 0..2 {
            let batch = kv.next(None, WAIT).unwrap();
            assert_eq!(addresses(&batch), ["a:1"]);
        }
        assert_eq!(host.log().len(), 3, "{:?}", host.log());
        assert_eq!(host.keys().len(), 5);
    }

    #[test]
    fn an_engine_is_announced_kept_and_taken_back() {
        let host = Host::install();
        let mut kv = kv();
        let lease = kv.register(&me(), WAIT).unwrap();
        let listed = ("a:1".to_owned(), "a:1".to_owned());
        assert_eq!(host.keys(), std::slice::from_ref(&listed));
        host.delete_key("a:1");
        kv.heartbeat(&lease).unwrap();
        assert_eq!(host.keys(), [listed]);
        kv.deregister(&lease).unwrap();
        assert_eq!(host.keys(), []);
    }

    #[test]
    fn a_lease_that_is_over_is_an_error() {
        let host = Host::install();
        let mut kv = kv();
        let lease = kv.register(&me(), WAIT).unwrap();
        host.end_leases();
        assert!(matches!(kv.heartbeat(&lease), Err(Error::NotFound(_))));
        assert!(matches!(kv.heartbeat(b"x"), Err(Error::NotFound(_))));
    }

    #[test]
    fn a_store_that_is_away_is_an_error() {
        let host = Host::install();
        let error = Error::Unavailable("away".into());
        host.break_store(Some(error.clone()));
        assert_eq!(kv().next(None, WAIT), Err(error.clone()));
        assert_eq!(kv().register(&me(), WAIT), Err(error));
    }
}
