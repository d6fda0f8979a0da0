//! Engines listed in the DNS: the addresses of a name, or the SRV records of a service.
//!
//! `dns://engines.example.org:2375` is each address of that name, with this port.
//! `dns://_docker._tcp.example.org` is each host and port of these SRV records, under the host's
//! name, or under its addresses with the option `dns.targets=addresses`. The name is looked up
//! again when its records' time is over, and at least once each heartbeat. A name that has no
//! records is an error and not an empty fleet.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;

use skep_plugin_sdk::discovery::{Batch, polled};
use skep_plugin_sdk::{Discovery, Error, Result, host};

/// Records that may not be kept at all are kept this long.
const MIN_TTL: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Settings {
    /// `name:port`, or the name of SRV records.
    location: String,
    /// `dns.targets`: `names` or `addresses`; others are for the daemon. Default: none.
    #[serde(default)]
    options: BTreeMap<String, String>,
}

enum Dns {
    Addresses { name: String, port: u16 },
    Services { name: String, by_address: bool },
}

impl Discovery for Dns {
    type Settings = Settings;
    const SETTINGS_SCHEMA: Option<&'static str> = Some(
        r#"{"type":"object","additionalProperties":false,"required":["location"],"properties":{"location":{"type":"string"},"options":{"type":"object","additionalProperties":{"type":"string"}}}}"#,
    );

    fn new(settings: Settings) -> Result<Self> {
        let by_address = match settings.options.get("dns.targets").map(String::as_str) {
            None | Some("names") => false,
            Some("addresses") => true,
            Some(_) => {
                return Err(Error::InvalidConfig(
                    "`dns.targets` is names or addresses".into(),
                ));
            }
        };
        let location = settings.location;
        if location.starts_with('_') && !location.contains(':') {
            return Ok(Self::Services {
                name: location,
                by_address,
            });
        }
        let parsed = location
            .rsplit_once(':')
            .and_then(|(name, port)| Some((name, port.parse().ok()?)))
            .filter(|(name, _)| !name.is_empty());
        match parsed {
            Some((name, port)) => Ok(Self::Addresses {
                name: name.to_owned(),
                port,
            }),
            None => Err(Error::InvalidConfig(format!(
                "`{location}` is neither a name with a port, engines.example.org:2375, nor the \
                 name of SRV records, _docker._tcp.example.org"
            ))),
        }
    }

    fn next(&mut self, cursor: Option<&[u8]>, max_wait: Duration) -> Result<Batch> {
        let (found, ttl) = self.look_up()?;
        Ok(polled(&found, cursor, ttl.max(MIN_TTL).min(max_wait)))
    }
}

skep_plugin_sdk::export_discovery!(Dns);

impl Dns {
    fn look_up(&self) -> Result<(BTreeSet<String>, Duration)> {
        match self {
            Self::Addresses { name, port } => {
                let (addresses, ttl) = host::addresses_of(name)?;
                let engines = addresses.iter().map(|address| join(address, *port));
                Ok((engines.collect(), ttl))
            }
            Self::Services { name, by_address } => {
                let (services, mut ttl) = host::services_of(name)?;
                let mut engines = BTreeSet::new();
                for service in services {
                    let host = if *by_address {
                        let (addresses, of_host) = host::addresses_of(&service.host)?;
                        ttl = ttl.min(of_host);
                        // One engine, however many addresses it has.
                        addresses
                            .into_iter()
                            .min_by_key(|a| (a.contains(':'), a.clone()))
                    } else {
                        Some(service.host)
                    };
                    engines.extend(host.map(|host| join(&host, service.port)));
                }
                Ok((engines, ttl))
            }
        }
    }
}

fn join(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_plugin_sdk::discovery::configure;
    use skep_plugin_sdk::host::Service;
    use skep_plugin_sdk::testing::{Host, addresses};

    const WAIT: Duration = Duration::from_secs(60);

    fn dns(settings: &str) -> Dns {
        configure(settings).unwrap()
    }

    fn service(host: &str, port: u16) -> Service {
        Service {
            host: host.into(),
            port,
            priority: 0,
            weight: 0,
        }
    }

    #[test]
    fn lists_the_addresses_of_a_name_until_their_time_is_over() {
        let host = Host::install();
        host.set_addresses("e.example", &["10.0.0.2", "10.0.0.1", "fd00::1"]);
        let mut dns = dns(r#"{"location":"e.example:2375"}"#);
        let first = dns.next(None, WAIT).unwrap();
        assert!(first.full);
        assert_eq!(
            addresses(&first),
            ["10.0.0.1:2375", "10.0.0.2:2375", "[fd00::1]:2375"]
        );
        assert_eq!(first.retry_after_ms, Some(30_000));
        let same = dns
            .next(Some(&first.cursor), Duration::from_secs(5))
            .unwrap();
        assert!(!same.full && same.changes.is_empty());
        assert_eq!(same.retry_after_ms, Some(5_000));
        host.set_addresses("e.example", &["10.0.0.2"]);
        let fewer = dns.next(Some(&same.cursor), WAIT).unwrap();
        assert_eq!(addresses(&fewer), ["10.0.0.2:2375"]);
    }

    #[test]
    fn lists_the_hosts_of_a_service_by_name_or_by_address() {
        let host = Host::install();
        let services = [service("b.example", 2376), service("a.example", 2375)];
        host.set_services("_docker._tcp.example", &services);
        host.set_addresses("a.example", &["fd00::1", "10.0.0.1"]);
        host.set_addresses("b.example", &["10.0.0.2"]);
        let location = r#""location":"_docker._tcp.example""#;
        let batch = dns(&format!("{{{location}}}")).next(None, WAIT).unwrap();
        assert_eq!(addresses(&batch), ["a.example:2375", "b.example:2376"]);
        let options = r#""options":{"dns.targets":"addresses"}"#;
        let batch = dns(&format!("{{{location},{options}}}"))
            .next(None, WAIT)
            .unwrap();
        assert_eq!(addresses(&batch), ["10.0.0.1:2375", "10.0.0.2:2376"]);
    }

    #[test]
    fn a_name_without_records_is_an_error() {
        let _host = Host::install();
        for location in ["e.example:1", "_docker._tcp.example"] {
            let mut dns = dns(&format!(r#"{{"location":"{location}"}}"#));
            assert!(matches!(dns.next(None, WAIT), Err(Error::NotFound(_))));
        }
    }

    #[test]
    fn the_location_is_a_name_with_a_port_or_a_service() {
        for settings in [
            r#"{"location":"e.example"}"#,
            r#"{"location":":2375"}"#,
            r#"{"location":"e.example:99999"}"#,
            r#"{"location":"_docker._tcp.example","options":{"dns.targets":"both"}}"#,
        ] {
            assert!(
                matches!(configure::<Dns>(settings), Err(Error::InvalidConfig(_))),
                "{settings}"
            );
        }
    }
}
