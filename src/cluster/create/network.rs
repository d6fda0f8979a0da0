//! Networks that a create request names.
//!
//! A network of local scope exists on one node only, so a container that joins it must go there.
//! Clients see such networks as `<node>/<name>` and may write them so.

use crate::{
    cluster::snapshot::Snapshot,
    engine::raw::{MemberError, RawObject},
    model::{
        directive::Kind,
        expression::{Expression, Operator, Softness},
    },
    scheduler::request::Request,
};

/// A local network and the nodes that have one of that name.
#[derive(Debug)]
pub(super) struct LocalNetwork {
    /// The name without the node.
    pub name: String,
    /// Node names, never empty.
    nodes: Vec<String>,
}

/// Network modes that are no network's name, and networks that every node has.
const BUILT_IN: [&str; 5] = ["", "default", "bridge", "host", "none"];

/// Finds the local network that a network mode names, if it names one.
pub(super) fn resolve(snapshot: &Snapshot, mode: &str) -> Option<LocalNetwork> {
    if BUILT_IN.contains(&mode) || mode.starts_with("container:") {
        return None;
    }
    let mut found: Option<LocalNetwork> = None;
    for node in snapshot.validated() {
        let node_name = node.inventory.name();
        for network in node.inventory.networks.iter() {
            let prefixed = mode
                .strip_prefix(node_name)
                .and_then(|rest| rest.strip_prefix('/'));
            let named = network.name == mode
                || network.id == mode
                || (mode.len() == 12 && network.id.starts_with(mode))
                || prefixed == Some(network.name.as_str());
            if !named || network.scope != "local" {
                continue;
            }
            found
                .get_or_insert_with(|| LocalNetwork {
                    name: network.name.clone(),
                    nodes: Vec::new(),
                })
                .nodes
                .push(node_name.to_owned());
        }
    }
    found
}

impl LocalNetwork {
    /// Lets the container go only where the network is.
    pub(super) fn pin(&self, request: &mut Request) {
        let expression = |key: &str, value: String| Expression {
            key: key.to_owned(),
            operator: Operator::Equal,
            value,
            softness: Softness::Hard,
        };
        match self.nodes.as_slice() {
            [one] => {
                request.add_expression(Kind::Constraint, expression("node", one.clone()));
            }
            many => {
                request.add_expression(Kind::Whitelist, expression("node", many.join("|")));
            }
        }
    }
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
    use super::*;
    use crate::cluster::snapshot::tests::node;

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
