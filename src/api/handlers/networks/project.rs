//! Where the networks of a Compose project go.
//!
//! Compose makes the networks of a project one by one and puts containers on several of them. A
//! network of local scope exists on one node only, so a project whose networks are apart, or apart
//! from the image that Compose has built for it, could never start. Therefore such a network
//! follows what the project has already; only the first thing of a project is placed freely. Classic
//! Swarm did not do so, and asked for an overlay network instead.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use super::super::Context;
use crate::{
    api::builders::{Key, Peer},
    cluster::snapshot::Node,
    engine::monitor::Refresh,
};

/// The label that Compose puts on all it makes.
const LABEL: &str = "com.docker.compose.project";

/// Puts the nodes first that have something of the project which `labels` name; equals stay in
/// their order. A network without a project's label changes nothing.
pub(super) async fn prefer(
    context: &Context,
    peer: Option<Peer>,
    labels: &BTreeMap<String, String>,
    nodes: &mut [Arc<Node>],
) {
    let Some(project) = labels.get(LABEL) else {
        return;
    };
    // A build of Compose ends without a word to the daemon, and its networks follow at once.
    let builder = Key::Client(peer.unwrap_or(Peer(None)));
    if let Some(addr) = context.builders.find(&builder) {
        context.cluster.refresh(&addr, Refresh::Images).await;
    }
    let snapshot = context.cluster.snapshot();
    nodes.sort_by_cached_key(|node| {
        let current = snapshot.node(&node.inventory.addr).unwrap_or(node);
        Reverse(ties(current, project))
    });
}

/// How strongly a node is tied to a project: by its networks, else by its containers, else by its
/// images.
fn ties(node: &Node, project: &str) -> (bool, bool, bool) {
    let belongs =
        |labels: &BTreeMap<String, String>| labels.get(LABEL).is_some_and(|p| p == project);
    let held = &node.inventory;
    (
        held.networks
            .iter()
            .any(|network| network.scope == "local" && belongs(&network.labels)),
        held.containers
            .values()
            .any(|container| belongs(&container.labels)),
        held.images.iter().any(|image| belongs(&image.labels)),
    )
}
