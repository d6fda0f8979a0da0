//! A list of engines that never changes, from `config.toml` or the command line.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;

use skep_plugin_sdk::discovery::{Batch, unchanged, whole_list};
use skep_plugin_sdk::{Discovery, Error, Result, address};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Settings {
    /// Addresses between commas, with ranges: `10.0.0.[1:9]:2375,spare:2375`. Default: none.
    #[serde(default)]
    location: String,
    /// More addresses, with ranges. Default: none.
    #[serde(default)]
    addresses: Vec<String>,
}

struct Nodes {
    addresses: Vec<String>,
}

impl Discovery for Nodes {
    type Settings = Settings;
    const SETTINGS_SCHEMA: Option<&'static str> = Some(
        r#"{"type":"object","additionalProperties":false,"properties":{"location":{"type":"string"},"addresses":{"type":"array","items":{"type":"string"}}}}"#,
    );

    fn new(settings: Settings) -> Result<Self> {
        let listed = settings
            .location
            .split(',')
            .chain(settings.addresses.iter().map(String::as_str));
        let mut seen = BTreeSet::new();
        let mut addresses = Vec::new();
        for pattern in listed.map(str::trim).filter(|pattern| !pattern.is_empty()) {
            for address in address::parse(pattern).map_err(with_advice)? {
                if seen.insert(address.clone()) {
                    addresses.push(address);
                }
            }
        }
        if addresses.is_empty() {
            return Err(Error::InvalidConfig("`location` lists no address".into()));
        }
        Ok(Self { addresses })
    }

    fn next(&mut self, cursor: Option<&[u8]>, max_wait: Duration) -> Result<Batch> {
        Ok(match cursor {
            None => whole_list(self.addresses.iter().cloned(), b"all".to_vec()),
            // Nothing will ever change: the daemon does the waiting.
            Some(cursor) => unchanged(cursor, Some(max_wait)),
        })
    }
}

skep_plugin_sdk::export_discovery!(Nodes);

/// Users who forget the scheme of another backend end up here.
fn with_advice(error: Error) -> Error {
    match error {
        Error::InvalidConfig(reason) => Error::InvalidConfig(format!(
            "{reason}, please check you are using the correct discovery (missing token:// ?)"
        )),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_plugin_sdk::discovery::{Entry, configure};
    use skep_plugin_sdk::testing::addresses;

    fn listed(settings: &str) -> Result<Vec<String>> {
        let batch = configure::<Nodes>(settings)?.next(None, Duration::from_secs(1))?;
        assert!(batch.full);
        Ok(addresses(&batch).into_iter().map(str::to_owned).collect())
    }

    #[track_caller]
    fn check_refused(settings: &str, part: &str) {
        match listed(settings) {
            Err(Error::InvalidConfig(reason)) => assert!(reason.contains(part), "{reason}"),
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    #[test]
    fn lists_addresses_and_ranges_in_order() {
        assert_eq!(
            listed(r#"{"location":"b:1, a[1:2]:2375,"}"#).unwrap(),
            ["b:1", "a1:2375", "a2:2375"]
        );
        assert_eq!(
            listed(r#"{"addresses":["a[09:10]:2375","unix:///run/docker.sock"]}"#).unwrap(),
            ["a09:2375", "a10:2375", "unix:///run/docker.sock"]
        );
    }

    #[test]
    fn an_address_listed_twice_is_one_engine() {
        assert_eq!(
            listed(r#"{"location":"a1:1,a[1:2]:1"}"#).unwrap(),
            ["a1:1", "a2:1"]
        );
    }

    #[test]
    fn mistakes_are_refused_at_start() {
        check_refused("{}", "lists no address");
        check_refused(
            r#"{"location":"a"}"#,
            "`a` is not of the form host:port, please check",
        );
        check_refused(r#"{"location":"a[2:1]:1"}"#, "[2:1]");
        check_refused(r#"{"locations":"a:1"}"#, "`locations`");
        check_refused(r#"{"location":1}"#, "`location`");
    }

    #[test]
    fn nothing_changes_after_the_first_list() {
        let mut nodes = configure::<Nodes>(r#"{"location":"a:1"}"#).unwrap();
        let first = nodes.next(None, Duration::ZERO).unwrap();
        let next = nodes
            .next(Some(&first.cursor), Duration::from_secs(9))
            .unwrap();
        assert!(!next.full && next.changes.is_empty());
        assert_eq!(
            (next.retry_after_ms, next.cursor),
            (Some(9_000), first.cursor)
        );
    }

    #[test]
    fn engines_cannot_announce_themselves() {
        let mut nodes = configure::<Nodes>(r#"{"location":"a:1"}"#).unwrap();
        let me = Entry {
            address: "b:1".into(),
            meta: Vec::new(),
        };
        let refusal = Error::Unsupported("not implemented in this discovery service".into());
        assert_eq!(
            nodes.register(&me, Duration::from_secs(1)),
            Err(refusal.clone())
        );
        assert_eq!(nodes.heartbeat(&[]), Err(refusal.clone()));
        assert_eq!(nodes.deregister(&[]), Err(refusal));
    }
}
