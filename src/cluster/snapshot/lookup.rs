//! What a network or volume reference means.

use std::sync::Arc;

use super::{Node, Snapshot};
use crate::engine::inventory::{Network, Volume};

impl Snapshot {
    /// Resolves a network reference; the first rule that hits wins:
    ///
    /// 1. full ID or its first 12 characters,
    /// 2. a name, bare, with a leading `/`, or behind `<node name>/` or `<node ID>/`; a name that
    ///    several networks have resolves to none,
    /// 3. a prefix that one ID only has.
    ///
    /// Of several nodes that know the same network, a healthy one is returned, and among those one
    /// that manages the swarm, because workers cannot change the swarm's networks.
    pub fn network(&self, reference: &str) -> Option<(Arc<Node>, Arc<Network>)> {
        if reference.is_empty() {
            return None;
        }
        let by_id = self.networks_where(|_, network| {
            network.id == reference || (reference.len() == 12 && network.id.starts_with(reference))
        });
        if !by_id.is_empty() {
            return single(&by_id);
        }
        let bare = reference.strip_prefix('/').unwrap_or(reference);
        let by_name = self.networks_where(|node, network| names(bare, node, &network.name));
        if !by_name.is_empty() {
            return single(&by_name);
        }
        single(&self.networks_where(|_, network| network.id.starts_with(reference)))
    }

    /// Resolves a volume reference, bare or behind its node: of several, one that all nodes
    /// share, else one of a healthy node, else the first in the order of the nodes' names.
    ///
    /// A volume that is made without a node is on every node under one name, so the bare name has
    /// to find it again: whoever made it knows no other.
    pub fn volume(&self, reference: &str) -> Option<(Arc<Node>, Arc<Volume>)> {
        // The minimum is the first of equals, and the hits are in the order of the nodes' names.
        self.volumes(reference)
            .into_iter()
            .min_by_key(|(node, volume)| (!volume.is_shared(), !node.inventory.is_healthy()))
    }

    /// Every volume that a reference means, bare or behind its node, with its node.
    pub fn volumes(&self, reference: &str) -> Vec<(Arc<Node>, Arc<Volume>)> {
        let mut hits = Vec::new();
        for node in self.validated() {
            for volume in node.inventory.volumes.iter() {
                if names(reference, node, &volume.name) {
                    hits.push((Arc::clone(node), Arc::clone(volume)));
                }
            }
        }
        hits
    }

    fn networks_where(
        &self,
        rule: impl Fn(&Node, &Network) -> bool,
    ) -> Vec<(Arc<Node>, Arc<Network>)> {
        let mut hits: Vec<(Arc<Node>, Arc<Network>)> = Vec::new();
        for node in self.validated() {
            for network in node.inventory.networks.iter() {
                if rule(node, network) {
                    hits.push((Arc::clone(node), Arc::clone(network)));
                }
            }
        }
        hits.sort_by_key(|(node, _)| {
            (
                !node.inventory.is_healthy(),
                !node.inventory.makes_overlays(),
            )
        });
        hits
    }
}

/// Whether a reference is an object's name, bare or behind its node's name or ID.
fn names(reference: &str, node: &Node, name: &str) -> bool {
    reference == name
        || reference
            .strip_suffix(name)
            .and_then(|rest| rest.strip_suffix('/'))
            .is_some_and(|prefix| {
                prefix == node.inventory.name() || prefix == node.inventory.node_id()
            })
}

/// The first hit, if all are copies of one network.
fn single(hits: &[(Arc<Node>, Arc<Network>)]) -> Option<(Arc<Node>, Arc<Network>)> {
    let first = hits.first()?;
    hits.iter()
        .all(|(_, network)| network.id == first.1.id)
        .then(|| first.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cluster::snapshot::tests, engine::raw::RawObject};

    fn snapshot() -> Snapshot {
        let mut nodes = Vec::new();
        for (name, addr, id) in [("n0", "127.0.0.1:1", "a"), ("n1", "127.0.0.1:2", "b")] {
            let mut node = tests::node(name, addr, &[]);
            let mut inventory = (*node.inventory).clone();
            let network =
                |json: &str| Arc::new(Network::parse(RawObject::parse(json.as_bytes()).unwrap()));
            inventory.networks = Arc::new(vec![
                network(&format!(
                    r#"{{"Name":"bridge","Id":"{id}111111111111","Scope":"local"}}"#
                )),
                network(r#"{"Name":"ov","Id":"c2222","Scope":"global"}"#),
            ]);
            let volume =
                |json: &str| Arc::new(Volume::parse(RawObject::parse(json.as_bytes()).unwrap()));
            inventory.volumes = Arc::new(vec![
                volume(r#"{"Name":"t1","Driver":"local"}"#),
                volume(r#"{"Name":"t3","Driver":"rexray"}"#),
            ]);
            node.inventory = Arc::new(inventory);
            nodes.push(node);
        }
        tests::cluster(nodes)
    }

    #[tokio::test]
    async fn a_network_name_must_mean_one_network() {
        let snapshot = snapshot();
        let check = |reference: &str, expected: Option<&str>| {
            let found = snapshot
                .network(reference)
                .map(|(_, network)| network.id.clone());
            assert_eq!(found.as_deref(), expected, "{reference}");
        };
        check("bridge", None);
        check("n0/bridge", Some("a111111111111"));
        check("n1-id|127.0.0.1:2/bridge", Some("b111111111111"));
        check("ov", Some("c2222"));
        check("a1", Some("a111111111111"));
        check("", None);
        check("nope", None);
    }

    // U-VOL-1 changed: the bare name of a local volume on several nodes means the first one. The
    // classic answer, not found, made a client fail to inspect what it had just created.
    #[tokio::test]
    async fn a_local_volume_on_two_nodes_is_found_on_the_first_or_the_one_that_is_named() {
        let snapshot = snapshot();
        let node_of = |reference: &str| {
            snapshot
                .volume(reference)
                .map(|(node, _)| node.inventory.name().to_owned())
        };
        assert_eq!(node_of("t1").as_deref(), Some("n0"));
        assert_eq!(node_of("t2"), None);
        assert_eq!(node_of("n1/t1").as_deref(), Some("n1"));
        assert_eq!(node_of("n0-id|127.0.0.1:1/t1").as_deref(), Some("n0"));
        assert_eq!(node_of("t3").as_deref(), Some("n0"));
        assert_eq!(snapshot.volumes("t1").len(), 2);
    }
}
