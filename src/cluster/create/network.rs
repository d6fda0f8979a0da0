//! Networks that a create request names.
//!
//! A network of local scope exists on one node only, so a container that joins it must go there.
//! Clients see such networks as `<node>/<name>` and may write them so.

use crate::{
    cluster::snapshot::{Node, Snapshot},
    engine::{
        inventory::Network,
        raw::{MemberError, RawObject},
    },
    scheduler::{bounds::listed, request::Bound},
};

/// A network that only some nodes can join, and those nodes.
#[derive(Debug)]
pub(super) struct BoundNetwork {
    /// The name without the node.
    pub name: String,
    /// The nodes that can join it.
    pub bound: Bound,
}

/// Network modes that are no network's name, and networks that every node has.
const BUILT_IN: [&str; 5] = ["", "default", "bridge", "host", "none"];

/// Finds the network that a network mode names, if not every node can join it.
///
/// A network of local scope binds to the nodes that have one of that name; one of a swarm to the
/// members of that swarm, whether or not they show it yet: a worker does so only once a container
/// is on it. A network of global scope is on every node.
pub(super) fn resolve(snapshot: &Snapshot, mode: &str) -> Option<BoundNetwork> {
    if BUILT_IN.contains(&mode) || mode.starts_with("container:") {
        return None;
    }
    let holders = |scope: &str| -> Vec<(&Node, &Network)> {
        let mut holders = Vec::new();
        for node in snapshot.validated() {
            for network in node.inventory.networks.iter() {
                if network.scope == scope && is_named(mode, node, network) {
                    holders.push((&**node, &**network));
                }
            }
        }
        holders
    };
    let local = holders("local");
    let (found, nodes): (_, Vec<&Node>) = if local.is_empty() {
        let found = holders("swarm");
        let members = snapshot.validated().into_iter().map(|node| &**node);
        let members = members.filter(|node| found.iter().any(|(one, _)| is_member(node, one)));
        let members = members.collect();
        (found, members)
    } else {
        let nodes = local.iter().map(|(node, _)| *node).collect();
        (local, nodes)
    };
    let (_, network) = found.first()?;
    let names = listed(nodes.iter().map(|node| node.inventory.name()));
    Some(BoundNetwork {
        name: network.name.clone(),
        bound: Bound {
            about: "network",
            nodes: nodes.iter().map(|one| one.inventory.addr.clone()).collect(),
            reason: format!("network {} is on {names}", network.name),
        },
    })
}

/// Whether a mode is the network's name, bare or behind its node, its ID, or the short form of it.
fn is_named(mode: &str, node: &Node, network: &Network) -> bool {
    let prefixed = mode
        .strip_prefix(node.inventory.name())
        .and_then(|rest| rest.strip_prefix('/'));
    network.name == mode
        || network.id == mode
        || (mode.len() == 12 && network.id.starts_with(mode))
        || prefixed == Some(network.name.as_str())
}

/// Whether a node can join the swarm networks that `holder` has.
fn is_member(node: &Node, holder: &Node) -> bool {
    node.inventory.addr == holder.inventory.addr
        || node
            .inventory
            .swarm()
            .zip(holder.inventory.swarm())
            .is_some_and(|(own, other)| own.shares_swarm(other))
}

/// The networks besides its mode that a container joins at its creation, by the names of its
/// endpoints.
pub(super) fn endpoints(
    snapshot: &Snapshot,
    body: &RawObject,
) -> Result<Vec<BoundNetwork>, MemberError> {
    let config = body.object("NetworkingConfig")?;
    let endpoints = config.object("EndpointsConfig")?;
    Ok(endpoints
        .iter()
        .filter_map(|(name, _)| resolve(snapshot, name))
        .collect())
}

/// Removes the node from the names of endpoints: `n0/net` becomes `net` if there is a node `n0`.
pub(super) fn strip_endpoints(
    snapshot: &Snapshot,
    body: &mut RawObject,
) -> Result<(), MemberError> {
    let mut config = body.object("NetworkingConfig")?;
    let mut endpoints = config.object("EndpointsConfig")?;
    let known = |name: &str| snapshot.nodes_named(name).next().is_some();
    let bare = |name: &str| match name.split_once('/') {
        Some((node, rest)) if known(node) => rest.to_owned(),
        _ => name.to_owned(),
    };
    if endpoints.iter().all(|(name, _)| bare(name) == name) {
        return Ok(());
    }
    endpoints.rename_members(bare);
    config.set("EndpointsConfig", &endpoints);
    body.set("NetworkingConfig", &config);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        cluster::snapshot::tests::node,
        engine::inventory::{Specs, SwarmMember},
    };

    #[tokio::test]
    async fn a_swarms_network_binds_to_the_members_of_the_swarm() {
        let mut snapshot = Snapshot::default();
        for (name, addr, managers, networks) in [
            (
                "manager",
                "127.0.0.1:1",
                "m1",
                r#"{"Name":"ov","Id":"o1","Scope":"swarm"}"#,
            ),
            ("worker", "127.0.0.1:2", "m1", "{}"),
            ("stranger", "127.0.0.1:3", "m2", "{}"),
            (
                "alone",
                "127.0.0.1:4",
                "",
                r#"{"Name":"lan","Id":"l1","Scope":"local"}"#,
            ),
        ] {
            let mut node = node(name, addr, &[]);
            let mut inventory = (*node.inventory).clone();
            let mut specs = Specs::clone(inventory.specs.as_ref().unwrap());
            specs.swarm = (!managers.is_empty()).then(|| SwarmMember {
                manager: name == "manager",
                managers: vec![managers.to_owned()],
            });
            inventory.specs = Some(Arc::new(specs));
            let network = Network::parse(RawObject::parse(networks.as_bytes()).unwrap());
            inventory.networks = Arc::new(vec![Arc::new(network)]);
            node.inventory = Arc::new(inventory);
            snapshot.put(node);
        }
        for (mode, nodes, reason) in [
            (
                "ov",
                &["127.0.0.1:1", "127.0.0.1:2"][..],
                "network ov is on manager, worker",
            ),
            (
                "o1",
                &["127.0.0.1:1", "127.0.0.1:2"],
                "network ov is on manager, worker",
            ),
            ("alone/lan", &["127.0.0.1:4"], "network lan is on alone"),
        ] {
            let bound = resolve(&snapshot, mode).unwrap().bound;
            let found = bound.nodes.iter().map(ToString::to_string);
            assert!(found.eq(nodes.iter().copied()), "{mode}: {bound:?}");
            assert_eq!(bound.reason, reason);
        }
        assert!(resolve(&snapshot, "bridge").is_none());
        assert!(resolve(&snapshot, "elsewhere").is_none());
    }

    #[test]
    fn only_a_known_node_is_stripped_and_only_once() {
        let _runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let mut snapshot = Snapshot::default();
        snapshot.put(node("nodename", "127.0.0.1:1", &[]));
        let mut body = RawObject::parse(
            br#"{"NetworkingConfig":{"EndpointsConfig":{"testnet1":{},"nodename/testnet2":{},
                "nodename/test/net3":{},"foo/test/net4":{},"nodename/nodename/net5":{}}}}"#,
        )
        .unwrap();
        strip_endpoints(&snapshot, &mut body).unwrap();
        let endpoints = body
            .object("NetworkingConfig")
            .unwrap()
            .object("EndpointsConfig")
            .unwrap();
        let names: Vec<_> = endpoints.iter().map(|(name, _)| name).collect();
        assert_eq!(
            names,
            [
                "testnet1",
                "testnet2",
                "test/net3",
                "foo/test/net4",
                "nodename/net5"
            ]
        );
    }
}
