//! Pruning on all nodes as one answer.

use std::collections::BTreeSet;

use http::Method;
use serde_json::{Map, Value, value::RawValue};

use super::{Answer, Context, engine_path, json};
use crate::{
    api::{error::ApiError, fanout, query::Query, router::Prunable},
    cluster::snapshot::Node,
    engine::{client::encode, monitor::Refresh, raw::RawObject},
};

impl Prunable {
    fn path(self) -> &'static str {
        match self {
            Self::BuildCache => "/build/prune",
            Self::Containers => "/containers/prune",
            Self::Images => "/images/prune",
            Self::Networks => "/networks/prune",
            Self::Volumes => "/volumes/prune",
        }
    }

    /// The member of an engine's answer that lists what is gone.
    fn member(self) -> &'static str {
        match self {
            Self::BuildCache => "CachesDeleted",
            Self::Containers => "ContainersDeleted",
            Self::Images => "ImagesDeleted",
            Self::Networks => "NetworksDeleted",
            Self::Volumes => "VolumesDeleted",
        }
    }

    /// What of the node's inventory is out of date then.
    fn refresh(self) -> Option<Refresh> {
        match self {
            Self::BuildCache => None,
            Self::Containers => Some(Refresh::Containers),
            Self::Images => Some(Refresh::Images),
            Self::Networks => Some(Refresh::Networks),
            Self::Volumes => Some(Refresh::Volumes),
        }
    }

    /// Whether the node has a thing of this name that is its own, which clients see behind the
    /// node's name.
    fn is_local(self, node: &Node, name: &str) -> bool {
        let inventory = &node.inventory;
        match self {
            Self::BuildCache | Self::Containers | Self::Images => false,
            Self::Networks => !inventory
                .networks
                .iter()
                .any(|network| network.name == name && network.scope != "local"),
            Self::Volumes => !inventory
                .volumes
                .iter()
                .any(|volume| volume.name == name && volume.is_shared()),
        }
    }
}

/// `POST /{build,containers,images,networks,volumes}/prune` on every healthy node. The filter `node`,
/// which engines do not know, restricts it to nodes of these names; all others go to the engines.
///
/// If a node fails, so does the request; what the others removed stays removed, and the text names
/// them.
pub async fn prune(
    context: &Context,
    version: Option<&str>,
    what: Prunable,
    query: &Query,
) -> Answer {
    let (filters, names) = take_nodes(query.get("filters"))?;
    let mut raw = query.without("filters");
    if !filters.is_empty() {
        raw = format!("{raw}&filters={}", encode(&filters));
    }
    let query = Query::parse(Some(raw.trim_start_matches('&')));
    let mut nodes = fanout::some_healthy(&context.cluster.snapshot())?;
    nodes.retain(|node| names.is_empty() || names.iter().any(|name| name == node.inventory.name()));
    let outcomes = fanout::on_each(&context.cluster, nodes, |node| {
        let path = engine_path(&node, version, what.path(), &query);
        async move {
            let client = node.client.patient();
            let answer = client.json_at::<RawObject>(Method::POST, &path).await;
            if let Some(outdated) = what.refresh() {
                let addr = &node.inventory.addr;
                context.cluster.refresh(addr, outdated).await;
            }
            answer
        }
    })
    .await;
    let pruned: Vec<String> = outcomes
        .iter()
        .filter(|outcome| outcome.result.is_ok())
        .map(|outcome| outcome.node.inventory.name().to_owned())
        .collect();
    let answers = fanout::all(outcomes).map_err(|error| {
        if pruned.is_empty() {
            error
        } else {
            error.with_line(&format!("pruned all the same: {}", pruned.join(", ")))
        }
    })?;
    let mut merged = Merged::default();
    for (node, answer) in &answers {
        merged.add(what, node, answer)?;
    }
    Ok(json(&merged.into_object(what)))
}

/// The answers of all nodes.
#[derive(Default)]
struct Merged {
    gone: Vec<Box<RawValue>>,
    shared: BTreeSet<String>,
    reclaimed_bytes: u64,
}

impl Merged {
    fn add(&mut self, what: Prunable, node: &Node, answer: &RawObject) -> Result<(), ApiError> {
        let gone: Option<Vec<Box<RawValue>>> = answer.parsed(what.member())?;
        for entry in gone.unwrap_or_default() {
            // Only names of networks and volumes are texts that need their node.
            let name: Option<String> = match what {
                Prunable::Networks | Prunable::Volumes => serde_json::from_str(entry.get()).ok(),
                Prunable::BuildCache | Prunable::Containers | Prunable::Images => None,
            };
            let Some(name) = name else {
                self.gone.push(entry);
                continue;
            };
            let shown = if what.is_local(node, &name) {
                format!("{}/{name}", node.inventory.name())
            } else if self.shared.insert(name.clone()) {
                name
            } else {
                continue;
            };
            if let Ok(shown) = serde_json::value::to_raw_value(&shown) {
                self.gone.push(shown);
            }
        }
        let reclaimed_bytes: u64 = answer.parsed("SpaceReclaimed")?.unwrap_or_default();
        self.reclaimed_bytes = self.reclaimed_bytes.saturating_add(reclaimed_bytes);
        Ok(())
    }

    fn into_object(self, what: Prunable) -> RawObject {
        let mut object = RawObject::default();
        if self.gone.is_empty() {
            object.set(what.member(), &Value::Null);
        } else {
            object.set(what.member(), &self.gone);
        }
        if what != Prunable::Networks {
            object.set("SpaceReclaimed", &self.reclaimed_bytes);
        }
        object
    }
}

/// Takes the filter `node` out and returns the rest, encoded as it came, and the nodes.
fn take_nodes(filters: &str) -> Result<(String, Vec<String>), ApiError> {
    if filters.trim().is_empty() {
        return Ok((String::new(), Vec::new()));
    }
    let mut filters: Map<String, Value> = serde_json::from_str(filters)
        .map_err(|error| ApiError::bad_request(format!("invalid filters: {error}")))?;
    let names = match filters.remove("node") {
        Some(Value::Array(names)) => names
            .into_iter()
            .filter_map(|name| name.as_str().map(str::to_owned))
            .collect(),
        Some(Value::Object(names)) => names.into_iter().map(|(name, _)| name).collect(),
        Some(_) => return Err(ApiError::bad_request("invalid filter 'node'")),
        None => Vec::new(),
    };
    Ok((Value::Object(filters).to_string(), names))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_filter_stays_here_and_the_others_go_on() {
        for (text, rest, nodes) in [
            ("", "", vec![]),
            (
                r#"{"label":["a"],"node":["n0"]}"#,
                r#"{"label":["a"]}"#,
                vec!["n0"],
            ),
            (
                r#"{"node":{"n1":true},"until":{"1h":true}}"#,
                r#"{"until":{"1h":true}}"#,
                vec!["n1"],
            ),
        ] {
            let (kept, names) = take_nodes(text).unwrap();
            assert_eq!((kept.as_str(), names.len()), (rest, nodes.len()), "{text}");
            assert!(names.iter().eq(nodes), "{text}");
        }
        assert!(take_nodes("{").is_err());
    }
}
