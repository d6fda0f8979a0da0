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
        inventory::{
            Container, Inventory,
            entry::{Part, Piece},
        },
        raw::RawObject,
    },
    model::port::is_unspecified,
};

/// The text clients get instead of a status while the node is down.
pub const HOST_DOWN: &str = "Host Down";

/// Appends the entry of a container on a node to `out`, with `more` members in it. `waiting` is why
/// it waits for its node, if that is known.
pub fn encode(
    out: &mut Vec<u8>,
    container: &Container,
    node: &Inventory,
    waiting: Option<&str>,
    more: Option<&RawObject>,
    now: DateTime<Utc>,
) {
    let start = out.len();
    let tell = |out: &mut Vec<u8>, part| match part {
        Part::Names => put_names(out, container, node),
        Part::State => put(out, state(container)),
        Part::Status => match waiting {
            Some(reason) => put(out, &format_args!("{HOST_DOWN} ({reason})")),
            None => put(out, &status(container, node, now)),
        },
        Part::NodeIp => put(out, &node.ip_text()),
    };
    for piece in container.entry.pieces() {
        match piece {
            Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
            Piece::Own(Part::NodeIp, own) if node.ip.is_none() => {
                out.extend_from_slice(own.as_bytes());
            }
            Piece::Own(part, _) => tell(out, part),
        }
    }
    let ours = [
        ("Names", Part::Names),
        ("State", Part::State),
        ("Status", Part::Status),
    ];
    let mut missing = ours
        .into_iter()
        .filter(|(_, part)| !container.entry.has(*part))
        .peekable();
    if missing.peek().is_none() && more.is_none() {
        return;
    }
    // An engine that tells less, or a client that asks for more.
    let mut entry = RawObject::parse(&out[start..]).unwrap_or_default();
    for (name, part) in missing {
        let mut value = Vec::new();
        tell(&mut value, part);
        let value: Option<&RawValue> = serde_json::from_slice(&value).ok();
        entry.set(name, &value);
    }
    for (name, value) in more.into_iter().flat_map(RawObject::iter) {
        entry.set(name, &value);
    }
    out.truncate(start);
    out.extend(entry.to_bytes());
}

fn put_names(out: &mut Vec<u8>, container: &Container, node: &Inventory) {
    out.push(b'[');
    for (at, name) in container.names.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        put(out, &format_args!("/{}/{name}", node.name()));
    }
    out.push(b']');
}

/// Appends a value as JSON.
fn put(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    // Writing to memory cannot fail, and text always encodes.
    let _ = serde_json::to_writer(out, value);
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
    if *state.status == *"removing" {
        return "removing";
    }
    if state.started_at.is_none() {
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
    let since = |time: Option<DateTime<Utc>>| {
        time.map_or(chrono::TimeDelta::zero(), |time| now - (time + delta))
    };
    let inner = &container.state;
    match state(container) {
        "paused" => format!("Up {} (Paused)", words(since(inner.started_at))),
        "restarting" => format!(
            "Restarting ({}) {} ago",
            inner.exit_code,
            words(since(inner.finished_at))
        ),
        "running" => {
            let up = words(since(inner.started_at));
            match inner.health.as_ref().map(|health| &*health.status) {
                None | Some("" | "none") => format!("Up {up}"),
                Some("starting") => format!("Up {up} (health: starting)"),
                Some(health) => format!("Up {up} ({health})"),
            }
        }
        "removing" => "Removal In Progress".to_owned(),
        "dead" => "Dead".to_owned(),
        "created" => "Created".to_owned(),
        _ if inner.finished_at.is_none() => String::new(),
        _ => format!(
            "Exited ({}) {} ago",
            inner.exit_code,
            words(since(inner.finished_at))
        ),
    }
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
    use crate::engine::inventory::container::parse_moment;
    use crate::engine::{
        health::Status,
        inventory::{Specs, container::State, entry::ListEntry},
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
        container.state.started_at = parse_moment("2026-11-22T10:00:00Z");
        container.state.finished_at = parse_moment("2026-11-22T11:00:00Z");
        change(&mut container.state);
        let now = parse_moment("2026-11-22T12:00:00Z").unwrap();
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
            |s| s.started_at = parse_moment("0001-01-01T00:00:00Z"),
            ("created", "Created"),
        );
        check(
            |s| {
                s.running = true;
                s.health = Some(crate::engine::inventory::container::HealthCheck {
                    status: "starting".into(),
                });
            },
            ("running", "Up 2 hours (health: starting)"),
        );
    }

    fn shown(entry: &str, node: &Inventory, more: Option<&RawObject>) -> String {
        let entry = RawObject::parse(entry.as_bytes()).unwrap();
        let container = Container {
            names: vec!["web".into()],
            entry: ListEntry::new(&entry).unwrap(),
            ..Container::default()
        };
        let mut out = b"before".to_vec();
        encode(&mut out, &container, node, None, more, Utc::now());
        String::from_utf8(out.split_off("before".len())).unwrap()
    }

    #[test]
    fn an_entry_keeps_what_we_do_not_know() {
        let mut down = node();
        down.status = Status::Unhealthy;
        let entry = r#"{"Id":"c","Names":["/web"],"Status":"Up 1 second","State":"running","Ports":[{"IP":"0.0.0.0","PublicPort":80,"X":1}],"Future":[1, 2]}"#;
        assert_eq!(
            shown(entry, &down, None),
            r#"{"Id":"c","Names":["/n0/web"],"Status":"Host Down","State":"created","Ports":[{"IP":"10.0.0.7","PublicPort":80,"X":1}],"Future":[1, 2]}"#
        );
        down.ip = None;
        assert!(shown(entry, &down, None).contains(r#""IP":"0.0.0.0""#));
    }

    #[test]
    fn an_entry_gets_what_its_engine_does_not_tell() {
        assert_eq!(
            shown(r#"{"Id":"c","Status":"Exited"}"#, &node(), None),
            r#"{"Id":"c","Status":"Created","Names":["/n0/web"],"State":"created"}"#
        );
        let more = RawObject::parse(br#"{"SizeRw":7}"#).unwrap();
        let entry = r#"{"Names":[],"State":"","Status":"","SizeRw":0}"#;
        assert_eq!(
            shown(entry, &node(), Some(&more)),
            r#"{"Names":["/n0/web"],"State":"created","Status":"Created","SizeRw":7}"#
        );
    }
}
