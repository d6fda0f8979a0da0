//! Volumes of all nodes as one list.

use std::{collections::BTreeSet, sync::Arc};

use http::Request;
use hyper::body::Incoming;
use serde_json::json;

use super::{Answer, Context, engine_path};
use crate::{
    api::{
        error::ApiError,
        list_filters::{ListFilters, matches_name},
        proxy::Aftermath,
        query::Query,
    },
    cluster::snapshot::{Node, Snapshot},
    engine::{inventory::Volume, raw::RawObject},
};

/// The filters this list knows.
const KNOWN: [&str; 5] = ["name", "label", "node", "driver", "dangling"];

/// `GET /volumes`: a local volume is shown as `<node>/<name>`, one of a shared driver once.
pub fn list(context: &Context, query: &Query) -> Answer {
    let snapshot = context.cluster.snapshot();
    let filters = ListFilters::parse(query.get("filters"), &KNOWN)?;
    let dangling = filters.boolean("dangling")?;
    let mut shared = BTreeSet::new();
    let mut entries: Vec<RawObject> = Vec::new();
    for node in snapshot.validated() {
        for volume in node.inventory.volumes.iter() {
            let wanted = wants(&filters, node, volume)
                && dangling.is_none_or(|dangling| is_used(node, volume) != dangling);
            if !wanted {
                continue;
            }
            let mut entry = volume.entry.clone();
            if volume.driver == "local" {
                entry.set(
                    "Name",
                    &format!("{}/{}", node.inventory.name(), volume.name),
                );
            } else if !shared.insert((volume.driver.clone(), volume.name.clone())) {
                continue;
            }
            entries.push(entry);
        }
    }
    Ok(super::json(
        &json!({ "Volumes": entries, "Warnings": null }),
    ))
}

fn wants(filters: &ListFilters, node: &Node, volume: &Volume) -> bool {
    let full_name = format!("{}/{}", node.inventory.name(), volume.name);
    filters.any("name", |value| {
        volume.name.contains(value) || full_name == value || matches_name(value, &volume.name)
    }) && filters.labels("label", &volume.labels)
        && filters.any("driver", |value| volume.driver == value)
        && filters.any("node", |value| node.inventory.name() == value)
}

fn is_used(node: &Node, volume: &Volume) -> bool {
    node.inventory.containers.values().any(|container| {
        container
            .mounts
            .iter()
            .any(|mount| mount.name == volume.name)
    })
}

/// `GET /volumes/{name}`: the engine's own document.
pub async fn inspect(
    context: &Context,
    version: Option<&str>,
    name: &str,
    query: &Query,
    request: Request<Incoming>,
) -> Answer {
    let snapshot = context.cluster.snapshot();
    let (node, volume) = find(&snapshot, name)
        .ok_or_else(|| ApiError::not_found(format!("No such volume: {name}")))?;
    let own_name = crate::engine::client::encode(&volume.name);
    let path = engine_path(&node, version, &format!("/volumes/{own_name}"), query);
    context
        .proxy
        .forward(&node, request, &path, Aftermath::None)
        .await
}

/// Resolves a volume: the only one of that name, bare or behind its node; of several, the first
/// of a driver that is not local.
fn find(snapshot: &Snapshot, reference: &str) -> Option<(Arc<Node>, Arc<Volume>)> {
    let mut hits: Vec<(Arc<Node>, Arc<Volume>)> = Vec::new();
    for node in snapshot.validated() {
        for volume in node.inventory.volumes.iter() {
            let named = volume.name == reference
                || reference == format!("{}/{}", node.inventory.name(), volume.name)
                || reference == format!("{}/{}", node.inventory.node_id(), volume.name);
            if named {
                hits.push((Arc::clone(node), Arc::clone(volume)));
            }
        }
    }
    match hits.as_slice() {
        [one] => Some(one.clone()),
        _ => hits
            .into_iter()
            .find(|(_, volume)| volume.driver != "local" && volume.name == reference),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_local_volume_on_two_nodes_needs_the_node() {
        let mut nodes = Vec::new();
        for (name, addr) in [("n0", "127.0.0.1:1"), ("n1", "127.0.0.1:2")] {
            let mut node = crate::cluster::snapshot::tests::node(name, addr, &[]);
            let mut inventory = (*node.inventory).clone();
            let volume =
                |json: &str| Arc::new(Volume::parse(RawObject::parse(json.as_bytes()).unwrap()));
            inventory.volumes = Arc::new(vec![
                volume(r#"{"Name":"t1","Driver":"local"}"#),
                volume(r#"{"Name":"t3","Driver":"rexray"}"#),
            ]);
            node.inventory = Arc::new(inventory);
            nodes.push(node);
        }
        let snapshot = crate::cluster::snapshot::tests::cluster(nodes);
        let node_of = |reference: &str| {
            find(&snapshot, reference).map(|(node, _)| node.inventory.name().to_owned())
        };
        assert_eq!(node_of("t1"), None);
        assert_eq!(node_of("n1/t1").as_deref(), Some("n1"));
        assert_eq!(node_of("n0-id|127.0.0.1:1/t1").as_deref(), Some("n0"));
        assert_eq!(node_of("t3").as_deref(), Some("n0"));
    }
}
