//! A container's list entry as the cluster shows it.
//!
//! The engine's own entry with four members replaced: names carry the node, published ports the
//! node's address, and status and state are told as of now, also when the engine is down.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::duration::words;
use crate::{
    engine::{
        inventory::{Container, Inventory, container::parse_time},
        raw::RawObject,
    },
    model::port::is_unspecified,
};

/// The text clients get instead of a status while the node is down.
pub const HOST_DOWN: &str = "Host Down";

/// Encodes the entry of a container on a node, with `more` members in it. `waiting` is why it waits
/// for its node, if that is known.
pub fn encode(
    container: &Container,
    node: &Inventory,
    waiting: Option<&str>,
    more: Option<&RawObject>,
    now: DateTime<Utc>,
) -> Vec<u8> {
    // The monitor parsed the entry once, so it is an object.
    let mut entry = RawObject::parse(&container.entry).unwrap_or_default();
    let names: Vec<String> = container
        .names
        .iter()
        .map(|name| format!("/{}/{name}", node.name()))
        .collect();
    entry.set("Names", &names);
    entry.set("State", &state(container));
    let status = match waiting {
        Some(reason) => format!("{HOST_DOWN} ({reason})"),
        None => status(container, node, now),
    };
    entry.set("Status", &status);
    if let Some(ports) = entry
        .get("Ports")
        .and_then(|ports| with_node_ip(ports, node))
    {
        entry.set("Ports", &ports);
    }
    for (name, value) in more.into_iter().flat_map(RawObject::iter) {
        entry.set(name, &value);
    }
    entry.to_bytes()
}

/// Published ports with the node's address where the engine listens on all.
fn with_node_ip(ports: &RawValue, node: &Inventory) -> Option<Vec<RawObject>> {
    let mut ports: Vec<RawObject> = serde_json::from_str(ports.get()).ok()?;
    let mut changed = false;
    for port in &mut ports {
        let ip: Option<String> = port.parsed("IP").ok().flatten();
        if ip.is_some_and(|ip| is_unspecified(&ip)) && node.ip.is_some() {
            port.set("IP", &node.ip_text());
            changed = true;
        }
    }
    changed.then_some(ports)
}

/// `created`, `running`, `paused`, `restarting`, `exited`, `dead`.
pub fn state(container: &Container) -> &'static str {
    let state = &container.state;
    if state.running {
        return match (state.paused, state.restarting) {
            (true, _) => "paused",
            (_, true) => "restarting",
            _ => "running",
        };
    }
    if state.dead {
        return "dead";
    }
    if state.status == "removing" {
        return "removing";
    }
    if is_never(&state.started_at) {
        return "created";
    }
    "exited"
}

/// `Up 3 minutes (healthy)`, `Exited (0) 2 hours ago`, `Host Down`.
pub fn status(container: &Container, node: &Inventory, now: DateTime<Utc>) -> String {
    if !node.is_healthy() {
        return HOST_DOWN.to_owned();
    }
    let delta = node
        .specs
        .as_ref()
        .map_or(chrono::TimeDelta::zero(), |specs| specs.clock_delta());
    let since =
        |time: &str| parse_time(time).map_or(chrono::TimeDelta::zero(), |t| now - (t + delta));
    let inner = &container.state;
    match state(container) {
        "paused" => format!("Up {} (Paused)", words(since(&inner.started_at))),
        "restarting" => format!(
            "Restarting ({}) {} ago",
            inner.exit_code,
            words(since(&inner.finished_at))
        ),
        "running" => {
            let up = words(since(&inner.started_at));
            match inner.health.as_ref().map(|health| health.status.as_str()) {
                None | Some("" | "none") => format!("Up {up}"),
                Some("starting") => format!("Up {up} (health: starting)"),
                Some(health) => format!("Up {up} ({health})"),
            }
        }
        "removing" => "Removal In Progress".to_owned(),
        "dead" => "Dead".to_owned(),
        "created" => "Created".to_owned(),
        _ if is_never(&inner.finished_at) => String::new(),
        _ => format!(
            "Exited ({}) {} ago",
            inner.exit_code,
            words(since(&inner.finished_at))
        ),
    }
}

/// Whether an engine's timestamp stands for "not yet".
fn is_never(time: &str) -> bool {
    time.is_empty() || time.starts_with("0001-")
}

/// One host binding of an inspect document.
#[derive(Deserialize, Serialize)]
#[serde(transparent)]
pub struct Binding(RawObject);

impl Binding {
    /// Replaces an unspecified host address by the node's.
    pub fn set_node_ip(&mut self, ip: &str) {
        let own: String = self.0.parsed("HostIp").ok().flatten().unwrap_or_default();
        if is_unspecified(&own) {
            self.0.set("HostIp", &ip);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::{
        health::Status,
        inventory::{Specs, container::State},
    };

    fn node() -> Inventory {
        let mut node = Inventory::pending("10.0.0.7:2375".parse().unwrap());
        node.status = Status::Healthy;
        node.ip = Some("10.0.0.7".parse().unwrap());
        node.specs = Some(Arc::new(Specs {
            name: "n0".to_owned(),
            ..Specs::default()
        }));
        node
    }

    fn check(change: impl FnOnce(&mut State), expected: (&str, &str)) {
        let mut container = Container::default();
        container.state.started_at = "2026-11-22T10:00:00Z".to_owned();
        container.state.finished_at = "2026-11-22T11:00:00Z".to_owned();
        change(&mut container.state);
        let now = parse_time("2026-11-22T12:00:00Z").unwrap();
        assert_eq!(
            (state(&container), status(&container, &node(), now).as_str()),
            expected
        );
    }

    #[test]
    fn a_status_is_told_as_of_now() {
        check(|s| s.running = true, ("running", "Up 2 hours"));
        check(
            |s| {
                s.running = true;
                s.paused = true;
            },
            ("paused", "Up 2 hours (Paused)"),
        );
        check(
            |s| s.exit_code = 137,
            ("exited", "Exited (137) About an hour ago"),
        );
        check(
            |s| s.started_at = "0001-01-01T00:00:00Z".to_owned(),
            ("created", "Created"),
        );
        check(
            |s| {
                s.running = true;
                s.health = Some(crate::engine::inventory::container::HealthCheck {
                    status: "starting".to_owned(),
                });
            },
            ("running", "Up 2 hours (health: starting)"),
        );
    }

    #[test]
    fn an_entry_keeps_what_we_do_not_know() {
        let container = Container {
            names: vec!["web".to_owned()],
            entry: bytes::Bytes::from_static(
                br#"{"Id":"c","Names":["/web"],"Status":"Up 1 second","State":"running","Ports":[{"IP":"0.0.0.0","PublicPort":80,"X":1}],"Future":[1, 2]}"#,
            ),
            ..Container::default()
        };
        let mut down = node();
        down.status = Status::Unhealthy;
        let bytes = encode(&container, &down, None, None, Utc::now());
        assert_eq!(
            String::from_utf8(bytes).unwrap(),
            r#"{"Id":"c","Names":["/n0/web"],"Status":"Host Down","State":"created","Ports":[{"IP":"10.0.0.7","PublicPort":80,"X":1}],"Future":[1, 2]}"#
        );
    }
}
