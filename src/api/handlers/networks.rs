//! Networks of all nodes as one list.

use std::collections::BTreeMap;

use http::Request;
use hyper::body::Incoming;

use super::{Answer, Context, compose, engine_path, json};
use crate::{
    api::{
        error::ApiError,
        list_filters::{ListFilters, matches_name},
        proxy::Aftermath,
        query::Query,
    },
    cluster::snapshot::{Node, Snapshot},
    engine::{inventory::Network, raw::RawObject},
};

pub mod change;

/// The filters this list knows.
const KNOWN: [&str; 8] = [
    "name", "id", "type", "label", "driver", "node", "scope", "dangling",
];

/// Networks that every engine has.
const BUILT_IN: [&str; 3] = ["none", "host", "bridge"];

/// `GET /networks`: a local network is shown as `<node>/<name>`, a global one once, and all by their
/// bare names if Compose asks.
pub fn list(context: &Context, query: &Query) -> Answer {
    let snapshot = context.cluster.snapshot();
    let filters = ListFilters::parse(query.get("filters"), &KNOWN)?;
    for value in filters.get("type") {
        if !["custom", "builtin"].contains(&value.as_str()) {
            return Err(ApiError::bad_request(format!(
                "Invalid filter: 'type'='{value}'"
            )));
        }
    }
    let dangling = filters.boolean("dangling")?;
    let for_compose = compose::asks(&filters);
    let mut entries: Vec<RawObject> = Vec::new();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for node in snapshot.validated() {
        for network in node.inventory.networks.iter() {
            let is_asked_for = wants(&filters, node, network)
                && dangling.is_none_or(|wanted| is_dangling(&snapshot, network) == wanted);
            if !is_asked_for {
                continue;
            }
            if let Some(index) = seen.get(&network.id) {
                merge_endpoints(&mut entries[*index], network)?;
                continue;
            }
            let mut entry = network.entry.clone();
            if network.scope == "local" && !for_compose {
                entry.set(
                    "Name",
                    &format!("{}/{}", node.inventory.name(), network.name),
                );
            }
            seen.insert(network.id.clone(), entries.len());
            entries.push(entry);
        }
    }
    Ok(json(&entries))
}

fn wants(filters: &ListFilters, node: &Node, network: &Network) -> bool {
    let builtin = BUILT_IN.contains(&network.name.as_str());
    let names = filters.get("name");
    let ids = filters.get("id");
    let identified = (names.is_empty() && ids.is_empty())
        || names.iter().any(|name| {
            matches_name(name, &network.name)
                || format!("{}/{}", node.inventory.name(), network.name) == *name
        })
        || ids.iter().any(|id| {
            !id.is_empty() && (network.id.starts_with(id) || matches_name(id, &network.id))
        });
    identified
        && filters.any("type", |value| (value == "builtin") == builtin)
        && filters.labels("label", |key| network.labels.get(key))
        && filters.any("driver", |value| network.driver == value)
        && filters.any("scope", |value| network.scope == value)
        && filters.any("node", |value| node.inventory.name() == value)
}

/// Whether nothing uses a network, as engines understand it: their own three never dangle.
fn is_dangling(snapshot: &Snapshot, network: &Network) -> bool {
    let mut containers = snapshot
        .validated()
        .into_iter()
        .flat_map(|node| node.inventory.containers.values());
    !BUILT_IN.contains(&network.name.as_str())
        && !containers.any(|container| {
            let mut networks = container.networks.iter();
            networks.any(|(_, id)| **id == *network.id)
        })
}

/// Adds the endpoints that another node knows of the same network.
fn merge_endpoints(entry: &mut RawObject, other: &Network) -> Result<(), ApiError> {
    let mut endpoints = entry.object("Containers")?;
    let more = other.entry.object("Containers")?;
    for (id, endpoint) in more.iter() {
        endpoints.set(id, &endpoint);
    }
    if !endpoints.is_empty() {
        entry.set("Containers", &endpoints);
    }
    Ok(())
}

/// `GET /networks/{name}`: the engine's own document, byte for byte.
pub async fn inspect(
    context: &Context,
    version: Option<&str>,
    name: &str,
    query: &Query,
    request: Request<Incoming>,
) -> Answer {
    let snapshot = context.cluster.snapshot();
    let (node, network) = snapshot
        .network(name)
        .ok_or_else(|| ApiError::not_found(format!("No such network: {name}")))?;
    let path = engine_path(&node, version, &format!("/networks/{}", network.id), query);
    context
        .proxy
        .forward(&node, request, &path, Aftermath::None)
        .await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn snapshot() -> Snapshot {
        let mut nodes = Vec::new();
        for (name, addr, ids) in [("n0", "127.0.0.1:1", "a"), ("n1", "127.0.0.1:2", "b")] {
            let mut node = crate::cluster::snapshot::tests::node(name, addr, &[]);
            let mut inventory = (*node.inventory).clone();
            let network =
                |json: String| Arc::new(Network::parse(RawObject::parse(json.as_bytes()).unwrap()));
            inventory.networks = Arc::new(vec![
                network(format!(
                    r#"{{"Name":"bridge","Id":"{ids}111111111111","Scope":"local"}}"#
                )),
                network(r#"{"Name":"ov","Id":"c2222","Scope":"global"}"#.to_owned()),
            ]);
            node.inventory = Arc::new(inventory);
            nodes.push(node);
        }
        crate::cluster::snapshot::tests::cluster(nodes)
    }

    #[tokio::test]
    async fn an_id_filter_alone_narrows_the_list() {
        let snapshot = snapshot();
        let filters = ListFilters::parse(r#"{"id":["a1"]}"#, &KNOWN).unwrap();
        let wanted: Vec<_> = snapshot
            .nodes()
            .flat_map(|node| node.inventory.networks.iter().map(move |n| (node, n)))
            .filter(|(node, network)| wants(&filters, node, network))
            .map(|(_, network)| network.name.clone())
            .collect();
        assert_eq!(wanted, ["bridge"]);
    }
}
