//! Volumes of all nodes as one list.

use std::{cell::LazyCell, collections::BTreeSet};

use http::Request;
use hyper::body::Incoming;
use serde_json::json;

use super::{Answer, Context, compose, engine_path};
use crate::{
    api::{
        error::ApiError,
        list_filters::{ListFilters, matches_name},
        proxy::Aftermath,
        query::Query,
    },
    cluster::snapshot::Node,
    engine::{inventory::Volume, raw::RawObject},
};

pub mod change;

/// The filters this list knows.
const KNOWN: [&str; 5] = ["name", "label", "node", "driver", "dangling"];

/// `GET /volumes`: a volume of one node is shown as `<node>/<name>`, one that is shared once, and all
/// once by their bare names if Compose asks.
pub fn list(context: &Context, query: &Query) -> Answer {
    let snapshot = context.cluster.snapshot();
    let filters = ListFilters::parse(query.get("filters"), &KNOWN)?;
    let dangling = filters.boolean("dangling")?;
    let for_compose = compose::asks(&filters);
    let mut shared = BTreeSet::new();
    // A look at every container, which only that filter and a shared volume need.
    let used = LazyCell::new(|| -> BTreeSet<&str> {
        let nodes = snapshot.nodes();
        nodes
            .flat_map(|node| node.inventory.containers.values())
            .flat_map(|container| container.mounts.iter().map(|mount| &*mount.name))
            .collect()
    });
    let mut entries: Vec<RawObject> = Vec::new();
    for node in snapshot.validated() {
        for volume in node.inventory.volumes.iter() {
            let wanted = wants(&filters, node, volume)
                && dangling.is_none_or(|dangling| {
                    let is_used = match volume.is_shared() {
                        true => used.contains(volume.name.as_str()),
                        false => is_used(node, volume),
                    };
                    is_used != dangling
                });
            if !wanted {
                continue;
            }
            let mut entry = volume.entry.clone();
            if !volume.is_shared() && !for_compose {
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
    }) && filters.labels("label", |key| volume.labels.get(key))
        && filters.any("driver", |value| volume.driver == value)
        && filters.any("node", |value| node.inventory.name() == value)
}

fn is_used(node: &Node, volume: &Volume) -> bool {
    node.inventory.containers.values().any(|container| {
        container
            .mounts
            .iter()
            .any(|mount| *mount.name == *volume.name)
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
    let (node, volume) = snapshot
        .volume(name)
        .ok_or_else(|| ApiError::not_found(format!("No such volume: {name}")))?;
    let own_name = crate::engine::client::encode(&volume.name);
    let path = engine_path(&node, version, &format!("/volumes/{own_name}"), query);
    context
        .proxy
        .forward(&node, request, &path, Aftermath::None)
        .await
}
