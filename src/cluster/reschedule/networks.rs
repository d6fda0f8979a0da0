//! Networks of a container that is made again: its old endpoints, and how the new one joins.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::json;
use tracing::{debug, warn};

use super::{Failure, moving::Manner, remake::Remake};
use crate::{
    cluster::{
        Cluster,
        snapshot::{Found, Node, Snapshot},
    },
    engine::{
        client::{ClientError, encode},
        raw::{MemberError, RawObject},
    },
};

/// Takes the dead endpoints of a container out of networks that other nodes have too. An address
/// that is not free is not asked for: the old container has it while it runs, and goes on with it.
pub(super) async fn free_endpoints(
    cluster: &Cluster,
    old: &Found,
    manner: Manner,
    remake: &mut Remake,
) -> Result<(), Failure> {
    let odd = |error: MemberError| Failure::new(error.to_string());
    let mut config = remake.body.object("NetworkingConfig").map_err(odd)?;
    let first: Option<BTreeMap<String, RawObject>> =
        config.parsed("EndpointsConfig").map_err(odd)?;
    let mut first = first.unwrap_or_default();
    let snapshot = cluster.snapshot();
    let is_held = manner == Manner::Orderly && old.container.state.running;
    let others = remake.networks.iter_mut();
    let others = others.map(|(name, wishes)| (&*name, wishes));
    for (name, wishes) in first.iter_mut().chain(others) {
        let Some(node) = shared_on(&snapshot, old, name) else {
            continue;
        };
        if is_held || !free(node, old, name).await {
            wishes.remove("IPAMConfig");
        }
    }
    if !first.is_empty() {
        config.set("EndpointsConfig", &first);
        remake.body.set("NetworkingConfig", &config);
    }
    Ok(())
}

/// A node that can take an endpoint of another node out of a network, if the network is not of one
/// node alone.
fn shared_on<'a>(snapshot: &'a Snapshot, old: &Found, network: &str) -> Option<&'a Node> {
    let has_it = |node: &Node| {
        let mut networks = node.inventory.networks.iter();
        networks.any(|one| one.name == network && one.scope != "local")
    };
    // An endpoint goes by its container's name, and another container's must not go.
    let name = old.container.name();
    let has_name = |node: &Node| {
        let mut containers = node.inventory.containers.values();
        containers.any(|container| container.name() == name)
    };
    let nodes = snapshot.nodes().filter(|node| {
        node.inventory.is_healthy()
            && node.inventory.addr != old.node.inventory.addr
            && has_it(node)
            && !has_name(node)
    });
    // Workers cannot change the networks of a swarm.
    let node = nodes.max_by_key(|node| node.inventory.makes_overlays())?;
    Some(node)
}

/// Returns whether nothing is left of an endpoint.
async fn free(node: &Node, old: &Found, network: &str) -> bool {
    let what = json!({"Container": old.container.name(), "Force": true});
    let path = format!("/networks/{}/disconnect", encode(network));
    let freed = node.client.post(&path, what.to_string().into()).await;
    if let Err(error) = &freed {
        debug!(network, %error, "the old endpoint cannot be freed");
    }
    freed.is_ok()
}

/// Joins a container to a network, with another address if its own is not to be had.
pub(super) async fn join(
    new: &Found,
    network: &str,
    mut wishes: RawObject,
) -> Result<(), ClientError> {
    let id = &*new.container.id;
    let client = &new.node.client;
    let path = format!("/networks/{}/connect", encode(network));
    let document = |wishes: &RawObject| {
        let mut document = RawObject::default();
        document.set("Container", id);
        document.set("EndpointConfig", wishes);
        Bytes::from(document.to_bytes())
    };
    let joined = client.post(&path, document(&wishes)).await;
    match joined {
        Err(error) if !error.is_contact_failure() && wishes.get("IPAMConfig").is_some() => {
            warn!(container = id, network, %error, "the old address is not free, taking another one");
            wishes.remove("IPAMConfig");
            client.post(&path, document(&wishes)).await.map(drop)
        }
        joined => joined.map(drop),
    }
}
