//! What Compose needs that an engine gives and a fleet would not.
//!
//! Compose makes the networks of a project one by one and puts containers on several of them. A
//! network of local scope exists on one node only, so a project whose networks are apart, or apart
//! from the image that Compose has built for it, could never start. Therefore such a network
//! follows what the project has already, as does a volume that is made on one node alone; only the
//! first thing of a project is placed freely. Classic Swarm did not do so, and asked for an overlay
//! network instead.
//!
//! When it takes a project down, Compose lists networks and volumes by its labels and skips those
//! whose name is not the one it gave. A list that is asked for so shows names without their node.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    api::list_filters::ListFilters,
    cluster::snapshot::{Node, Snapshot},
    model::{address::EngineAddr, pairs::Pairs},
};

/// The label that Compose puts on all it makes.
const LABEL: &str = "com.docker.compose.project";

/// What all labels of Compose begin with.
const LABELS: &str = "com.docker.compose.";

/// Whether a list is asked for by a label of Compose.
pub fn asks(filters: &ListFilters) -> bool {
    filters
        .get("label")
        .iter()
        .any(|label| label.starts_with(LABELS))
}

/// Puts the nodes first that have something of the project which `labels` name; equals stay in
/// their order. A network without a project's label changes nothing.
pub fn prefer(snapshot: &Snapshot, labels: &BTreeMap<String, String>, nodes: &mut [Arc<Node>]) {
    if let Some(project) = labels.get(LABEL) {
        nodes.sort_by_cached_key(|node| {
            let current = snapshot.node(&node.inventory.addr).unwrap_or(node);
            Reverse(ties(current, project))
        });
    }
}

/// The nodes that the project which `labels` name is tied to most; none if it has nothing yet.
pub fn home(snapshot: &Snapshot, labels: &BTreeMap<String, String>) -> BTreeSet<EngineAddr> {
    let Some(project) = labels.get(LABEL) else {
        return BTreeSet::new();
    };
    let nodes = snapshot.healthy().into_iter();
    let tied: Vec<_> = nodes
        .map(|node| (ties(&node, project), node.inventory.addr.clone()))
        .filter(|(ties, _)| *ties != Ties::default())
        .collect();
    let most = tied.iter().map(|(ties, _)| *ties).max();
    let home = tied.into_iter().filter(|(ties, _)| Some(*ties) == most);
    home.map(|(_, addr)| addr).collect()
}

/// Whether a node has networks of a project, its containers, its volumes, its images.
type Ties = (bool, bool, bool, bool);

/// How strongly a node is tied to a project: by its networks, else by its containers, else by its
/// volumes, else by its images.
fn ties(node: &Node, project: &str) -> Ties {
    let belongs = |labels: &Pairs| labels.get(LABEL) == Some(project);
    let held = &node.inventory;
    (
        held.networks
            .iter()
            .any(|network| network.scope == "local" && belongs(&network.labels)),
        held.containers
            .values()
            .any(|container| belongs(&container.labels)),
        held.volumes.iter().any(|volume| belongs(&volume.labels)),
        held.images.iter().any(|image| belongs(&image.labels)),
    )
}
