//! One event of an engine, and how it looks to clients of the cluster.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;

use crate::engine::{
    inventory::Inventory,
    raw::{RawObject, null_as_default},
};

/// An event, as list filters look at it and as it is sent.
#[derive(Clone, Debug)]
pub struct Event {
    /// `container`, `image`, `network`, `volume`, `daemon`, `swarm`.
    pub kind: String,
    /// `start`, `exec_create: ls`.
    pub action: String,
    /// The ID or name of what it happened to.
    pub actor_id: String,
    /// The actor's attributes, the node's among them.
    pub attributes: BTreeMap<String, String>,
    /// `local` or `swarm`.
    pub scope: String,
    /// Nanoseconds since 1970, by the engine's clock.
    pub time_nano: i64,
    /// The JSON that clients get, without a line break.
    pub json: Bytes,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Wire {
    #[serde(deserialize_with = "null_as_default")]
    status: String,
    #[serde(deserialize_with = "null_as_default")]
    id: String,
    #[serde(deserialize_with = "null_as_default")]
    from: String,
    #[serde(rename = "Type", deserialize_with = "null_as_default")]
    kind: String,
    #[serde(rename = "Action", deserialize_with = "null_as_default")]
    action: String,
    #[serde(rename = "Actor", deserialize_with = "null_as_default")]
    actor: Actor,
    #[serde(deserialize_with = "null_as_default")]
    scope: String,
    time: i64,
    #[serde(rename = "timeNano")]
    time_nano: i64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Actor {
    #[serde(rename = "ID", deserialize_with = "null_as_default")]
    id: String,
    #[serde(rename = "Attributes", deserialize_with = "null_as_default")]
    attributes: BTreeMap<String, String>,
}

/// What happened to the manager's view of an engine, told to clients as an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeEvent {
    /// First contact.
    Connect,
    /// Became unhealthy, or left discovery.
    Disconnect,
    /// Recovered.
    Reconnect,
}

impl NodeEvent {
    fn action(self) -> &'static str {
        match self {
            Self::Connect => "engine_connect",
            Self::Disconnect => "engine_disconnect",
            Self::Reconnect => "engine_reconnect",
        }
    }
}

impl Event {
    /// Reads an engine's event and names the node in it.
    ///
    /// The node is added where classic Swarm put it: ` node:<name>` behind `from`, `node.*`
    /// attributes, and a trailing `node` object.
    ///
    /// # Errors
    ///
    /// The text is not a JSON object.
    pub fn parse(line: &[u8], node: &Inventory) -> serde_json::Result<Self> {
        let wire: Wire = serde_json::from_slice(line)?;
        let mut json = RawObject::parse(line)?;
        let mut actor = json.object("Actor").unwrap_or_default();
        let mut attributes = wire.actor.attributes;
        add_node(&mut attributes, node);
        actor.set("Attributes", &attributes);
        json.set("Actor", &actor);
        json.set(
            "from",
            &format!("{} node:{}", wire.from, node.name()).trim_start(),
        );
        json.set("node", &node_object(node));
        let or = |first: String, second: String| if first.is_empty() { second } else { first };
        Ok(Self {
            kind: or(wire.kind, "container".to_owned()),
            action: or(wire.action, wire.status),
            actor_id: or(wire.actor.id, wire.id),
            attributes,
            scope: or(wire.scope, "local".to_owned()),
            time_nano: match wire.time_nano {
                0 => wire.time.saturating_mul(1_000_000_000),
                nano => nano,
            },
            json: Bytes::from(json.to_bytes()),
        })
    }

    /// An event about the node itself.
    pub fn of_node(event: NodeEvent, node: &Inventory, now: chrono::DateTime<chrono::Utc>) -> Self {
        let mut attributes = BTreeMap::new();
        add_node(&mut attributes, node);
        let time_nano = now.timestamp_nanos_opt().unwrap_or_default();
        let mut actor = RawObject::default();
        actor.set("ID", &"");
        actor.set("Attributes", &attributes);
        let mut json = RawObject::default();
        json.set("status", &event.action());
        json.set("from", &format!("swarm node:{}", node.name()));
        json.set("Type", &"swarm");
        json.set("Action", &event.action());
        json.set("Actor", &actor);
        json.set("time", &now.timestamp());
        json.set("timeNano", &time_nano);
        json.set("node", &node_object(node));
        Self {
            kind: "swarm".to_owned(),
            action: event.action().to_owned(),
            actor_id: String::new(),
            attributes,
            scope: "local".to_owned(),
            time_nano,
            json: Bytes::from(json.to_bytes()),
        }
    }

    /// The action without what follows its colon: `exec_create`.
    pub fn verb(&self) -> &str {
        self.action
            .split_once(':')
            .map_or(self.action.as_str(), |(verb, _)| verb)
    }

    /// Whether a container was made, which `actor_id` is.
    pub fn tells_of_new_container(&self) -> bool {
        self.kind == "container" && self.verb() == "create"
    }
}

fn add_node(attributes: &mut BTreeMap<String, String>, node: &Inventory) {
    for (key, value) in [
        ("node.name", node.name().to_owned()),
        ("node.id", node.node_id()),
        ("node.addr", node.addr.to_string()),
        ("node.ip", node.ip_text()),
    ] {
        attributes.insert(key.to_owned(), value);
    }
}

fn node_object(node: &Inventory) -> RawObject {
    let mut object = RawObject::default();
    object.set("Name", &node.name());
    object.set("Id", &node.node_id());
    object.set("Addr", &node.addr.to_string());
    object.set("Ip", &node.ip_text());
    object
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::inventory::Specs;

    #[test]
    fn an_event_names_its_node_where_classic_swarm_did() {
        let mut node = Inventory::pending("127.0.0.1:39100".parse().unwrap());
        node.ip = Some("127.0.0.1".parse().unwrap());
        node.specs = Some(Arc::new(Specs {
            id: "ID-n0".to_owned(),
            name: "n0".to_owned(),
            ..Specs::default()
        }));
        let line = br#"{"status":"start","id":"c1","from":"busybox","Type":"container","Action":"start","Actor":{"ID":"c1","Attributes":{"image":"busybox","name":"x"}},"scope":"local","time":1,"timeNano":1000000001}"#;
        let event = Event::parse(line, &node).unwrap();
        assert_eq!(
            std::str::from_utf8(&event.json).unwrap(),
            r#"{"status":"start","id":"c1","from":"busybox node:n0","Type":"container","Action":"start","Actor":{"ID":"c1","Attributes":{"image":"busybox","name":"x","node.addr":"127.0.0.1:39100","node.id":"ID-n0|127.0.0.1:39100","node.ip":"127.0.0.1","node.name":"n0"}},"scope":"local","time":1,"timeNano":1000000001,"node":{"Name":"n0","Id":"ID-n0|127.0.0.1:39100","Addr":"127.0.0.1:39100","Ip":"127.0.0.1"}}"#
        );
        assert_eq!((event.verb(), event.time_nano), ("start", 1_000_000_001));
    }
}
