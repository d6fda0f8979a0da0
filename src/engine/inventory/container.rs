//! One container, from its list entry and its inspect document.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use chrono::{DateTime, Datelike, Utc};
use serde::{Deserialize, Deserializer};

use crate::{
    engine::{
        inventory::entry::ListEntry,
        raw::{MemberError, RawObject, null_as_default, shared_pairs, shared_text},
    },
    model::{
        directive::{Directives, FENCE_LABEL, ID_LABEL, Kind, ReschedulePolicy},
        pairs::Pairs,
        port::PortBinding,
        resource::{Amount, NANO},
        shared::shared,
    },
};

/// How `--cpu-shares` is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CpuShares {
    /// `-c N` asks for N cores, as in classic Swarm.
    #[default]
    Cores,
    /// They are Linux shares and say nothing about room.
    Shares,
}

/// One container of one engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Container {
    /// Full ID.
    pub id: Arc<str>,
    /// Names without the leading slash, the container's own first, then link aliases.
    pub names: Vec<Arc<str>>,
    /// The cluster-wide ID, if the container has one.
    pub swarm_id: Option<Arc<str>>,
    /// The image as it was asked for.
    pub image: Arc<str>,
    /// The image's ID.
    pub image_id: Arc<str>,
    /// Labels, directives among them.
    pub labels: Pairs,
    /// When it was created, by the engine's clock.
    pub created: DateTime<Utc>,
    /// What it is doing.
    pub state: State,
    /// What it sets aside.
    pub reserved: Amount,
    /// `bridge`, `host`, a network's name.
    pub network_mode: Arc<str>,
    /// Host ports asked for or taken.
    pub bindings: Vec<PortBinding>,
    /// `80/tcp`, from the image and the request.
    pub exposed_ports: Vec<Arc<str>>,
    /// Networks by name, with their IDs.
    pub networks: Pairs,
    /// Volume names and mount destinations.
    pub mounts: Vec<Mount>,
    /// Exec instances that were seen.
    pub exec_ids: Vec<String>,
    /// The engine's own list entry, `Status` and `Names` included.
    pub entry: ListEntry,
    /// The inspect document of a container that may have to be made again elsewhere; empty for
    /// others.
    pub document: Bytes,
}

/// A mount as list filters look at it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Mount {
    /// `volume`, `bind`, `tmpfs`.
    #[serde(rename = "Type", deserialize_with = "shared_text")]
    pub kind: Arc<str>,
    /// The volume's driver; empty for a bind mount.
    #[serde(deserialize_with = "shared_text")]
    pub driver: Arc<str>,
    /// Whether the container may write to it.
    #[serde(rename = "RW")]
    pub is_writable: bool,
    /// The volume's name; empty for a bind mount.
    #[serde(deserialize_with = "null_as_default")]
    pub name: Box<str>,
    /// The path on the host.
    #[serde(deserialize_with = "null_as_default")]
    pub source: Box<str>,
    /// The path in the container.
    #[serde(deserialize_with = "shared_text")]
    pub destination: Arc<str>,
}

/// A container's state, from its inspect document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct State {
    /// `created`, `running`, `paused`, `restarting`, `removing`, `exited`, `dead`.
    #[serde(deserialize_with = "shared_text")]
    pub status: Arc<str>,
    /// Its process runs; true while paused and while restarting.
    pub running: bool,
    /// Frozen.
    pub paused: bool,
    /// Between two starts.
    pub restarting: bool,
    /// Could not be removed.
    pub dead: bool,
    /// Of the last run.
    pub exit_code: i64,
    /// `None` if never.
    #[serde(deserialize_with = "moment")]
    pub started_at: Option<DateTime<Utc>>,
    /// `None` if never.
    #[serde(deserialize_with = "moment")]
    pub finished_at: Option<DateTime<Utc>>,
    /// Absent if the container has no health check.
    pub health: Option<HealthCheck>,
}

/// The outcome of health checks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HealthCheck {
    /// `none`, `starting`, `healthy`, `unhealthy`.
    #[serde(deserialize_with = "shared_text")]
    pub status: Arc<str>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Inspect {
    id: String,
    name: String,
    created: String,
    #[serde(deserialize_with = "shared_text")]
    image: Arc<str>,
    #[serde(deserialize_with = "null_as_default")]
    state: State,
    #[serde(deserialize_with = "null_as_default")]
    config: Config,
    #[serde(deserialize_with = "null_as_default")]
    host_config: HostConfig,
    #[serde(deserialize_with = "null_as_default")]
    network_settings: NetworkSettings,
    #[serde(deserialize_with = "null_as_default")]
    mounts: Vec<Mount>,
    #[serde(rename = "ExecIDs", deserialize_with = "null_as_default")]
    exec_ids: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Config {
    #[serde(deserialize_with = "shared_text")]
    image: Arc<str>,
    #[serde(deserialize_with = "shared_pairs")]
    labels: Pairs,
    #[serde(deserialize_with = "null_as_default")]
    exposed_ports: BTreeMap<String, serde::de::IgnoredAny>,
}

/// The part of a host configuration that placement reads.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HostConfig {
    /// Limit, bytes.
    #[serde(deserialize_with = "null_as_default")]
    pub memory: i64,
    /// Soft limit, bytes.
    #[serde(deserialize_with = "null_as_default")]
    pub memory_reservation: i64,
    /// `--cpus`, billionths.
    #[serde(deserialize_with = "null_as_default")]
    pub nano_cpus: i64,
    /// `--cpu-shares`.
    #[serde(deserialize_with = "null_as_default")]
    pub cpu_shares: i64,
    /// `bridge`, `host`, `container:web`, a network's name.
    #[serde(deserialize_with = "null_as_default")]
    pub network_mode: String,
    /// `private`, `host`, `container:web`.
    #[serde(deserialize_with = "null_as_default")]
    pub ipc_mode: String,
    /// `host`, `container:web`.
    #[serde(deserialize_with = "null_as_default")]
    pub pid_mode: String,
    /// By container port, `80/tcp`.
    #[serde(deserialize_with = "null_as_default")]
    pub port_bindings: PortMap,
    /// `web`, `web:ro`.
    #[serde(deserialize_with = "null_as_default")]
    pub volumes_from: Vec<String>,
    /// `db:alias`.
    #[serde(deserialize_with = "null_as_default")]
    pub links: Vec<String>,
    /// `data:/path`, `/host:/path:ro`.
    #[serde(deserialize_with = "null_as_default")]
    pub binds: Vec<String>,
    /// The driver of the volumes in `binds` and of nameless ones.
    #[serde(deserialize_with = "null_as_default")]
    pub volume_driver: String,
}

/// Host bindings by container port.
pub type PortMap = BTreeMap<String, Option<Vec<HostPort>>>;

/// One host binding.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HostPort {
    /// Empty for all addresses.
    #[serde(deserialize_with = "null_as_default")]
    pub host_ip: String,
    /// A number, a range, or empty.
    #[serde(deserialize_with = "null_as_default")]
    pub host_port: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct NetworkSettings {
    #[serde(deserialize_with = "null_as_default")]
    ports: PortMap,
    #[serde(deserialize_with = "null_as_default")]
    networks: BTreeMap<String, Option<Endpoint>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Endpoint {
    #[serde(rename = "NetworkID", deserialize_with = "shared_text")]
    network_id: Arc<str>,
}

impl Container {
    /// Builds a container from the engine's list entry and inspect document.
    ///
    /// `cpus` is the engine's number of cores, which scales CPU shares.
    ///
    /// # Errors
    ///
    /// One of the two is not the JSON an engine sends.
    pub fn parse(
        entry: &RawObject,
        inspect: &[u8],
        cpus: u32,
        shares: CpuShares,
    ) -> Result<Self, ParseError> {
        let document = inspect;
        let inspect: Inspect = serde_json::from_slice(document)?;
        let listed: Vec<String> = entry.parsed("Names")?.unwrap_or_default();
        let listed = listed.iter().map(|name| name.trim_start_matches('/'));
        let own = inspect.name.trim_start_matches('/');
        // The engine lists names in no order; the container's own name goes first.
        let first = (!own.is_empty()).then_some(own);
        let others = listed.filter(|name| *name != own);
        let names: Vec<Arc<str>> = first.into_iter().chain(others).map(Arc::from).collect();
        let labels = inspect.config.labels;
        let swarm_id = labels.get_arc(ID_LABEL).filter(|id| !id.is_empty());
        let mut bindings = host_ports(&inspect.host_config.port_bindings);
        for binding in host_ports(&inspect.network_settings.ports) {
            if !bindings.contains(&binding) {
                bindings.push(binding);
            }
        }
        let document = match policy_of(&labels) {
            ReschedulePolicy::Off => Bytes::new(),
            ReschedulePolicy::OnNodeFailure(_) => Bytes::copy_from_slice(document),
        };
        let exposed = inspect.config.exposed_ports.keys();
        let networks = inspect.network_settings.networks;
        Ok(Self {
            id: Arc::from(inspect.id.as_str()),
            names,
            swarm_id: swarm_id.cloned(),
            image: inspect.config.image,
            image_id: inspect.image,
            labels,
            created: parse_time(&inspect.created).unwrap_or_default(),
            state: inspect.state,
            reserved: inspect.host_config.reserved(cpus, shares),
            network_mode: shared(&inspect.host_config.network_mode),
            bindings: exact(bindings),
            exposed_ports: exposed.map(|port| shared(port)).collect(),
            networks: networks
                .into_iter()
                .map(|(name, endpoint)| (shared(&name), endpoint.unwrap_or_default().network_id))
                .collect(),
            mounts: exact(inspect.mounts),
            exec_ids: exact(inspect.exec_ids),
            entry: ListEntry::new(entry)?,
            document,
        })
    }

    /// The token of a container that was made again in place of another: greater than that of any
    /// copy before; 0 if it never was.
    pub fn fence(&self) -> u64 {
        let token = self.labels.get(FENCE_LABEL);
        token.and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// What shall become of the container when its node fails.
    pub fn reschedule_policy(&self) -> ReschedulePolicy {
        policy_of(&self.labels)
    }

    /// The container's own name, without the slash; empty if it has none.
    pub fn name(&self) -> &str {
        self.names.first().map_or("", |name| name)
    }
}

fn policy_of(labels: &Pairs) -> ReschedulePolicy {
    Directives::policy_of(labels.get(Kind::Reschedule.label()))
}

/// The list without room for more: it stays as long as the container.
fn exact<T>(mut list: Vec<T>) -> Vec<T> {
    list.shrink_to_fit();
    list
}

impl HostConfig {
    /// What a running container with this configuration sets aside on an engine with `cpus` cores.
    ///
    /// Shares were scaled by [`shares_of_cores`] when the container was created through a manager;
    /// the way back truncates, which gives the number that was asked for.
    pub fn reserved(&self, cpus: u32, shares: CpuShares) -> Amount {
        let cpu_nano = match (self.nano_cpus, shares) {
            (1.., _) => self.nano_cpus.unsigned_abs(),
            (_, CpuShares::Cores) => {
                let shares = self.cpu_shares.max(0).unsigned_abs();
                (shares.saturating_mul(u64::from(cpus)) / 1024).saturating_mul(NANO)
            }
            (_, CpuShares::Shares) => 0,
        };
        Amount {
            cpu_nano,
            memory_bytes: self.memory_need(),
        }
    }

    /// What a request with this configuration asks for: shares are cores.
    pub fn need(&self, shares: CpuShares) -> Amount {
        let cpu_nano = match (self.nano_cpus, shares) {
            (1.., _) => self.nano_cpus.unsigned_abs(),
            (_, CpuShares::Cores) => self.cpu_shares.max(0).unsigned_abs().saturating_mul(NANO),
            (_, CpuShares::Shares) => 0,
        };
        Amount {
            cpu_nano,
            memory_bytes: self.memory_need(),
        }
    }

    /// The reservation if there is one, else the limit.
    fn memory_need(&self) -> u64 {
        let bytes = if self.memory_reservation > 0 {
            self.memory_reservation
        } else {
            self.memory
        };
        bytes.max(0).unsigned_abs()
    }
}

/// The shares that stand for `cores` cores of an engine that has `cpus`: rounded up.
pub fn shares_of_cores(cores: u64, cpus: u32) -> u64 {
    cores.saturating_mul(1024).div_ceil(u64::from(cpus.max(1)))
}

/// The bindings that name a host port.
pub fn host_ports(map: &PortMap) -> Vec<PortBinding> {
    let mut bindings = Vec::new();
    for (port, hosts) in map {
        let protocol = port.split_once('/').map_or("tcp", |(_, protocol)| protocol);
        for host in hosts.iter().flatten() {
            if let Some((first, last)) = parse_range(&host.host_port) {
                bindings.push(PortBinding {
                    host_ip: host.host_ip.clone(),
                    first,
                    last,
                    protocol: protocol.to_owned(),
                });
            }
        }
    }
    bindings
}

/// Parses `80` or `8000-8010`; empty, 0, and anything else ask for no port in particular.
fn parse_range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first != 0 && first <= last).then_some((first, last))
}

/// Parses an engine's timestamp.
pub fn parse_time(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text)
        .ok()
        .map(|time| time.with_timezone(&Utc))
}

/// Parses an engine's timestamp of something that may not have been yet, which is in the year 1.
pub fn parse_moment(text: &str) -> Option<DateTime<Utc>> {
    parse_time(text).filter(|time| time.year() > 1)
}

fn moment<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<DateTime<Utc>>, D::Error> {
    let text: Option<String> = Option::deserialize(deserializer)?;
    Ok(text.as_deref().and_then(parse_moment))
}

/// An engine's answer about a container is not what engines send.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// The inspect document.
    #[error("the inspect document is not what an engine sends")]
    Inspect(#[from] serde_json::Error),
    /// The list entry.
    #[error("the list entry is not what an engine sends")]
    Entry(#[from] MemberError),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(entry: &str, inspect: &str) -> Container {
        Container::parse(
            &RawObject::parse(entry.as_bytes()).unwrap(),
            inspect.as_bytes(),
            4,
            CpuShares::Cores,
        )
        .unwrap()
    }

    #[test]
    fn puts_the_own_name_before_link_aliases() {
        let container = parse(
            r#"{"Names":["/web/db","/db"],"Future":1}"#,
            r#"{"Id":"abc","Name":"/db","Config":{"Labels":null}}"#,
        );
        assert_eq!(container.names, ["db".into(), "web/db".into()]);
        assert_eq!(
            container.entry.text(),
            r#"{"Names":["/web/db","/db"],"Future":1}"#
        );
    }

    #[test]
    fn reads_requested_and_actual_host_ports() {
        let container = parse(
            "{}",
            r#"{"Id":"abc","Name":"/a","HostConfig":{"PortBindings":{"80/tcp":[{"HostIp":"","HostPort":""}],
               "53/udp":[{"HostPort":"53"}]}},
               "NetworkSettings":{"Ports":{"80/tcp":[{"HostIp":"0.0.0.0","HostPort":"32768"}],"81/tcp":null}}}"#,
        );
        let ports: Vec<_> = container
            .bindings
            .iter()
            .map(|b| (b.first, b.protocol.as_str()))
            .collect();
        assert_eq!(ports, [(53, "udp"), (32768, "tcp")]);
    }

    #[test]
    fn cores_survive_the_round_trip_through_shares() {
        let cores = [1, 2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47];
        for cpus in [1, 2, 4, 8, 10, 12, 16, 20, 32, 36, 40, 48] {
            for wanted in cores.into_iter().filter(|c| *c <= u64::from(cpus)) {
                let config = HostConfig {
                    cpu_shares: shares_of_cores(wanted, cpus) as i64,
                    ..HostConfig::default()
                };
                assert_eq!(
                    config.reserved(cpus, CpuShares::Cores).cpu_nano,
                    wanted * NANO,
                    "{wanted} of {cpus}"
                );
            }
        }
    }

    #[test]
    fn a_reservation_counts_instead_of_the_limit() {
        let config = HostConfig {
            memory: 100,
            memory_reservation: 30,
            nano_cpus: 1_500_000_000,
            cpu_shares: 512,
            ..HostConfig::default()
        };
        let need = config.need(CpuShares::Cores);
        assert_eq!((need.memory_bytes, need.cpu_nano), (30, 1_500_000_000));
    }

    #[test]
    fn a_range_keeps_both_ends() {
        assert_eq!(parse_range("8000-8010"), Some((8000, 8010)));
        assert_eq!(parse_range("80"), Some((80, 80)));
        for none in ["", "0", "8010-8000", "x", "70000"] {
            assert_eq!(parse_range(none), None, "{none}");
        }
    }
}
