//! What an engine says of itself, and whether it is still the same engine.

use std::{collections::BTreeMap, sync::Arc};

use tokio::time::Instant;
use tracing::warn;

use super::{Monitor, MonitorError};
use crate::engine::{
    health::Status,
    inventory::{CLOCK_TOLERANCE, Inventory, Specs, SwarmMember, container::parse_time},
    raw::RawObject,
};

/// Used when an engine does not tell its API version.
const OLDEST_API: (u32, u32) = (1, 24);

impl Monitor {
    /// Asks the engine what it is. An engine with another ID at the same address is a new one: what
    /// was known of the old one is forgotten, and validation goes on.
    pub(super) async fn learn_specs(&mut self) -> Result<(), MonitorError> {
        let info = self.base.info().await?;
        let version = self.base.version().await?;
        let specs = read(&info, &version, &self.inventory)?;
        if let Some(before) = &self.inventory.specs
            && before.id != specs.id
        {
            warn!(
                old = before.id,
                new = specs.id,
                "engine shows up with another ID"
            );
            let fresh = Inventory::pending(self.inventory.addr.clone());
            self.inventory = fresh;
            self.last_event_nano = None;
            let seen = self.health.status() != Status::Pending;
            self.health.reset();
            self.inventory.specs = Some(Arc::new(specs));
            if seen {
                return Err(MonitorError::Unusable(
                    "the engine shows up with another ID, validating it anew".to_owned(),
                ));
            }
        } else {
            self.inventory.specs = Some(Arc::new(specs));
        }
        self.api_version = self.inventory.specs.as_ref().map(|specs| specs.api_version);
        self.specs_at = Instant::now();
        match self.base.transport().resolve().await {
            Ok(ip) => self.inventory.ip = Some(ip),
            Err(error) => warn!(%error, "the engine's address cannot be resolved"),
        }
        Ok(())
    }
}

fn read(info: &RawObject, version: &RawObject, known: &Inventory) -> Result<Specs, MonitorError> {
    let text = |object: &RawObject, name: &str| -> String {
        object.parsed(name).ok().flatten().unwrap_or_default()
    };
    let specs = Specs {
        id: text(info, "ID"),
        name: text(info, "Name"),
        cpus: info.parsed("NCPU").ok().flatten().unwrap_or_default(),
        memory_bytes: info.parsed("MemTotal").ok().flatten().unwrap_or_default(),
        labels: BTreeMap::new(),
        server_version: text(version, "Version"),
        api_version: parse_version(&text(version, "ApiVersion")).unwrap_or(OLDEST_API),
        min_api_version: parse_version(&text(version, "MinAPIVersion")).unwrap_or(OLDEST_API),
        os_type: text(info, "OSType"),
        architecture: text(info, "Architecture"),
        clock_delta_ms: clock_delta_ms(&text(info, "SystemTime")),
        swarm: swarm(info),
        has_cluster_store: !text(info, "ClusterStore").is_empty(),
        volume_drivers: volume_drivers(info),
    };
    if specs.cpus == 0 || specs.memory_bytes == 0 {
        return Err(MonitorError::Unusable(format!(
            "cannot get resources for this engine, make sure {} is a Docker Engine, not a Swarm manager",
            known.addr
        )));
    }
    Ok(Specs {
        labels: labels(info, &specs, &known.addr.to_string())?,
        ..specs
    })
}

/// What `/info` lists below `Plugins`.
fn volume_drivers(info: &RawObject) -> Vec<String> {
    let plugins = info.object("Plugins").unwrap_or_default();
    plugins.parsed("Volume").ok().flatten().unwrap_or_default()
}

/// The engine's labels and the built-in ones; the latter win.
fn labels(
    info: &RawObject,
    specs: &Specs,
    addr: &str,
) -> Result<BTreeMap<String, String>, MonitorError> {
    let text = |name: &str| -> String { info.parsed(name).ok().flatten().unwrap_or_default() };
    let mut labels: BTreeMap<String, String> = [
        ("storagedriver", text("Driver")),
        ("kernelversion", text("KernelVersion")),
        ("operatingsystem", text("OperatingSystem")),
        ("ostype", text("OSType")),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
    .map(|(key, value)| (key.to_owned(), value))
    .collect();
    let own: Vec<String> = info.parsed("Labels").ok().flatten().unwrap_or_default();
    for label in own {
        let Some((key, value)) = label.split_once('=') else {
            return Err(MonitorError::Unusable(format!(
                "Engine (ID: {}, Addr: {addr}) contains an invalid label ({label}) not formatted as \"key=value\".",
                specs.id
            )));
        };
        if key == "node" || labels.contains_key(key) {
            warn!(label, "engine label ignored, the name is taken");
            continue;
        }
        labels.insert(key.to_owned(), value.to_owned());
    }
    Ok(labels)
}

/// The engine's part in a swarm, if it is an active member of one.
fn swarm(info: &RawObject) -> Option<SwarmMember> {
    let swarm = info.object("Swarm").ok()?;
    let state: String = swarm.parsed("LocalNodeState").ok().flatten()?;
    if state != "active" {
        return None;
    }
    let managers: Vec<RawObject> = swarm
        .parsed("RemoteManagers")
        .ok()
        .flatten()
        .unwrap_or_default();
    Some(SwarmMember {
        manager: swarm
            .parsed("ControlAvailable")
            .ok()
            .flatten()
            .unwrap_or_default(),
        managers: managers
            .iter()
            .filter_map(|manager| manager.parsed("NodeID").ok().flatten())
            .collect(),
    })
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Manager's clock minus engine's; 0 if they agree well enough or the engine does not tell.
fn clock_delta_ms(system_time: &str) -> i64 {
    let Some(engine) = parse_time(system_time) else {
        return 0;
    };
    let delta = chrono::Utc::now() - engine;
    if delta
        .abs()
        .to_std()
        .is_ok_and(|delta| delta < CLOCK_TOLERANCE)
    {
        return 0;
    }
    warn!(
        delta_ms = delta.num_milliseconds(),
        "the engine's clock differs from ours"
    );
    delta.num_milliseconds()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(info: &str, expected: Result<&[(&str, &str)], &str>) {
        let info = RawObject::parse(info.as_bytes()).unwrap();
        let version = RawObject::parse(br#"{"Version":"20.10.24","ApiVersion":"1.41"}"#).unwrap();
        let known = Inventory::pending("127.0.0.1:2375".parse().unwrap());
        match (read(&info, &version, &known), expected) {
            (Ok(specs), Ok(labels)) => {
                let labels: BTreeMap<_, _> = labels
                    .iter()
                    .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                    .collect();
                assert_eq!(specs.labels, labels);
                assert_eq!(specs.api_version, (1, 41));
            }
            (Err(error), Err(text)) => assert_eq!(error.to_string(), text),
            (got, _) => panic!("unexpected: {got:?}"),
        }
    }

    #[test]
    fn labels_are_the_engines_and_the_built_in_ones() {
        check(
            r#"{"ID":"i","NCPU":1,"MemTotal":1,"Driver":"overlay2","OSType":"linux","KernelVersion":"",
               "Labels":["foo=bar","node=x","ostype=windows","empty="]}"#,
            Ok(&[
                ("empty", ""),
                ("foo", "bar"),
                ("ostype", "linux"),
                ("storagedriver", "overlay2"),
            ]),
        );
    }

    #[test]
    fn refuses_what_is_no_engine() {
        check(
            r#"{"ID":"","NCPU":0,"MemTotal":0}"#,
            Err(
                "cannot get resources for this engine, make sure 127.0.0.1:2375 is a Docker Engine, not a Swarm manager",
            ),
        );
        check(
            r#"{"ID":"i","NCPU":1,"MemTotal":1,"Labels":["x"]}"#,
            Err(
                "Engine (ID: i, Addr: 127.0.0.1:2375) contains an invalid label (x) not formatted as \"key=value\".",
            ),
        );
    }
}
