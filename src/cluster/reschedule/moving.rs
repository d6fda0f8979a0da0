//! One move: made again elsewhere, joined to its networks, started; the old one is superseded.
//!
//! Each step can be the last one that a manager takes, and the next manager goes on from there: a
//! create under way is on record, a copy that was made is told by its token, and what is left to do
//! shows by comparing it with the old one.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use http::Method;
use serde_json::json;
use tracing::{info, warn};

use super::{Failure, Outcome, place_of, plan::Member, remake::Remake};
use crate::{
    cluster::{
        Cluster,
        create::{CreateRequest, Instead},
        snapshot::{Found, Node},
    },
    engine::{
        client::{Client, ClientError, encode},
        monitor::Refresh,
        raw::RawObject,
    },
    model::{address::EngineAddr, directive::FENCE_LABEL, resource::Amount},
};

/// How containers leave a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// It failed: all that can be made again elsewhere is made.
    Failed,
    /// It is well, and so are they: a group moves as a whole or stays, and the old ones are stopped
    /// once the new ones run.
    Orderly,
}

/// Where a group may go.
pub(super) struct Bounds {
    /// How its containers leave.
    pub manner: Manner,
    /// Nodes that no create is waited for on.
    pub failed: HashSet<EngineAddr>,
    /// Nodes that are the last choice.
    pub avoid: Vec<EngineAddr>,
    /// The one node that will do, if only one does.
    pub only: Option<EngineAddr>,
}

/// Moves containers that hang together: all are made again and started, providers first, then the
/// old ones go, providers last.
pub(super) async fn move_group(
    cluster: &Cluster,
    group: &[Member],
    bounds: &Bounds,
) -> Vec<Outcome> {
    let mut made = Vec::new();
    let mut failure = None;
    let mut companions = group.iter().skip(1).fold(Amount::default(), |sum, member| {
        sum + member.found.container.reserved
    });
    for member in group {
        match copy_one(cluster, member, companions, bounds).await {
            Ok(new) => made.push((&member.found, new)),
            Err(error) => {
                failure = Some((&member.found, error));
                break;
            }
        }
        // The first one took the others to its node.
        companions = Amount::default();
    }
    if failure.is_some() && bounds.manner == Manner::Orderly {
        for (_, new) in made.drain(..).rev() {
            discard(cluster, &new).await;
        }
    }
    let mut outcomes = Vec::new();
    let mut left: Vec<_> = group.iter().map(|member| place_of(&member.found)).collect();
    for (old, new) in made.into_iter().rev() {
        let place = place_of(old);
        left.retain(|other| *other != place);
        finish(cluster, old, &new, bounds.manner).await;
        outcomes.push((place, Ok(())));
    }
    let Some((culprit, failure)) = failure else {
        return outcomes;
    };
    let name = culprit.container.name();
    let reason = format!(
        "{name}, which moves with it, cannot be moved: {}",
        failure.reason
    );
    let culprit = place_of(culprit);
    left.retain(|other| *other != culprit);
    outcomes.push((culprit, Err(failure)));
    let rest = left.into_iter();
    outcomes.extend(rest.map(|place| (place, Err(Failure::new(reason.clone())))));
    outcomes
}

/// Makes one container again, joins it to its networks, and starts it.
async fn copy_one(
    cluster: &Cluster,
    member: &Member,
    companions: Amount,
    bounds: &Bounds,
) -> Result<Found, Failure> {
    let old = &member.found;
    let mut fence = member.fence;
    let swarm_id = old.container.swarm_id.as_deref().unwrap_or_default();
    if let Some(memory) = cluster.memory()
        && let Some((addr, begun)) = memory.under_way(swarm_id)
    {
        // Nobody can tell what became of it while its node is down, and nobody has to: what comes
        // of it has a smaller token.
        if !bounds.failed.contains(&addr) && cluster.snapshot().node(&addr).is_some() {
            let reason = format!("a create of it is under way on {addr}");
            return Err(Failure::new(reason));
        }
        fence = fence.max(begun + 1);
    }
    let remake = remake(cluster, old)?;
    let networks: Vec<String> = remake
        .networks
        .iter()
        .map(|(name, _)| name.clone())
        .collect();
    let body = fenced(remake.body, fence)?;
    let body = free_addresses(cluster, old, body).await?;
    let request = CreateRequest {
        name: old.container.name().to_owned(),
        body,
        version: None,
        query: String::new(),
        auth: None,
    };
    let instead = Instead {
        place: Some(place_of(old)),
        companions,
        networks,
        avoid: bounds.avoid.clone(),
        only: bounds.only.clone(),
    };
    let created = cluster.create_instead(request, instead).await;
    let created = created.map_err(|error| Failure::new(error.to_string()))?;
    let id = RawObject::parse(&created.body)
        .ok()
        .and_then(|answer| answer.parsed::<String>("Id").ok().flatten())
        .unwrap_or_default();
    let Some(new) = cluster.snapshot().container(&id) else {
        return Err(Failure::new("its new engine does not show it".to_owned()));
    };
    complete(cluster, old, &new, member.runs).await?;
    Ok(new)
}

/// Does what is left to do when there is a newer copy.
pub(super) async fn settle(
    cluster: &Cluster,
    old: &Found,
    new: &Found,
    runs: bool,
    manner: Manner,
) -> Result<(), Failure> {
    complete(cluster, old, new, runs).await?;
    finish(cluster, old, new, manner).await;
    Ok(())
}

/// Joins a copy to its networks and starts it, unless it was started before.
async fn complete(cluster: &Cluster, old: &Found, new: &Found, runs: bool) -> Result<(), Failure> {
    let client = &new.node.client;
    let id = &new.container.id;
    if new.container.state.running || new.container.state.status != "created" {
        return Ok(());
    }
    for (name, wishes) in remake(cluster, old)?.networks {
        if !new.container.networks.contains_key(&name) {
            join(client, id, &name, wishes).await;
        }
    }
    if runs {
        info!(
            "Container {} was running, starting container {id}",
            old.container.id
        );
        let path = format!("/containers/{id}/start");
        if let Err(error) = client.call(Method::POST, &path).await {
            return Err(give_up(cluster, new, &error).await);
        }
    }
    let addr = &new.node.inventory.addr;
    let what = Refresh::Container(Arc::clone(id));
    cluster.refresh(addr, what).await;
    Ok(())
}

/// The old container goes, now that there is a copy.
async fn finish(cluster: &Cluster, old: &Found, new: &Found, manner: Manner) {
    if manner == Manner::Orderly && old.container.state.running {
        let id = &old.container.id;
        let path = format!("/containers/{id}/stop");
        let stopped = old.node.client.patient().call(Method::POST, &path).await;
        if let Err(error) = stopped {
            warn!(container = &**id, %error, "container that was moved cannot be stopped, killing it");
        }
    }
    supersede(cluster, old).await;
    info!(
        "Rescheduled container {} from {} to {} as {}",
        old.container.id,
        old.node.inventory.name(),
        new.node.inventory.name(),
        new.container.id,
    );
}

/// Starts a container that its node's agent stopped for want of a lease.
pub(super) async fn start_again(found: &Found) -> Result<(), Failure> {
    let id = &found.container.id;
    let node = &found.node.inventory;
    // One that is removed when it ends was frozen instead.
    let what = match found.container.state.paused {
        true => "unpause",
        false => "start",
    };
    let path = format!("/containers/{id}/{what}");
    let started = found.node.client.call(Method::POST, &path).await;
    started.map_err(|error| {
        let name = node.name();
        Failure::new(format!(
            "it was stopped for want of a lease and cannot be started on {name}: {error}"
        ))
    })?;
    info!(
        container = &**id,
        node = node.name(),
        "started what the agent stopped for want of a lease"
    );
    Ok(())
}

/// A copy that cannot be started makes way for one on another node. An engine that cannot be asked
/// keeps it: it may be running.
async fn give_up(cluster: &Cluster, new: &Found, error: &ClientError) -> Failure {
    let inventory = &new.node.inventory;
    let reason = format!("it cannot be started on {}: {error}", inventory.name());
    if error.is_contact_failure() {
        cluster.report_failure(&inventory.addr, error);
        return Failure::new(reason);
    }
    discard(cluster, new).await;
    Failure {
        reason,
        node: Some(inventory.addr.clone()),
    }
}

/// Removes a copy that nobody used yet, with its volumes, which are new and empty.
async fn discard(cluster: &Cluster, new: &Found) {
    let (id, addr) = (&new.container.id, &new.node.inventory.addr);
    let path = format!("/containers/{id}?force=1&v=1");
    if let Err(error) = new.node.client.call(Method::DELETE, &path).await {
        warn!(container = &**id, %error, "copy that is not needed cannot be removed");
    }
    let what = Refresh::Container(Arc::clone(id));
    cluster.refresh(addr, what).await;
}

/// The old container is not shown any more, and removed as soon as its engine can be asked.
async fn supersede(cluster: &Cluster, old: &Found) {
    let place = place_of(old);
    let (addr, id) = place.clone();
    let name = old.container.name();
    cluster.inner.board.supersede(place, name.to_owned());
    if let Some(memory) = cluster.memory()
        && let Err(error) = memory.supersede(&addr, &id, name).await
    {
        // It shows again by its token.
        warn!(container = &*id, %error, "it cannot be noted that a container was moved");
    }
    cluster.refresh(&addr, Refresh::Container(id)).await;
}

/// Removes a container that was made again elsewhere, and keeps its volumes.
pub(super) async fn remove_old(cluster: &Cluster, node: &Node, id: Arc<str>) -> Outcome {
    let addr = node.inventory.addr.clone();
    let path = format!("/containers/{id}?force=1&v=0");
    let removed = node.client.patient().call(Method::DELETE, &path).await;
    let outcome = match removed {
        Err(error) if error.status() != Some(http::StatusCode::NOT_FOUND) => {
            let name = node.inventory.name();
            Err(Failure::new(format!(
                "Failed to remove duplicate container {id} on node {name}: {error}"
            )))
        }
        _ => {
            // It must be gone before it may be shown.
            cluster
                .refresh(&addr, Refresh::Container(Arc::clone(&id)))
                .await;
            cluster.inner.board.removed(&addr, &id);
            if let Some(memory) = cluster.memory()
                && let Err(error) = memory.removed_superseded(&addr, &id).await
            {
                // It will be asked for once more, in vain.
                warn!(container = &*id, %error, "record of a moved container cannot be deleted");
            }
            info!(
                container = &*id,
                node = node.inventory.name(),
                "removed the old copy of a container that was moved"
            );
            Ok(())
        }
    };
    ((addr, id), outcome)
}

fn remake(cluster: &Cluster, old: &Found) -> Result<Remake, Failure> {
    let read = || {
        let document = RawObject::parse(&old.container.document).ok()?;
        let shares = cluster.options().cpu_shares;
        let inventory = &old.node.inventory;
        let gone = cluster.inner.board.superseded_on(&inventory.addr);
        Remake::read(&document, &old.container, inventory, &gone, shares).ok()
    };
    read().ok_or_else(|| Failure::new("what it was made of cannot be read".to_owned()))
}

/// The body with its new token.
fn fenced(mut body: RawObject, fence: u64) -> Result<RawObject, Failure> {
    let labels: Result<Option<BTreeMap<String, String>>, _> = body.parsed("Labels");
    let labels = labels.map_err(|error| Failure::new(error.to_string()))?;
    let mut labels = labels.unwrap_or_default();
    labels.insert(FENCE_LABEL.to_owned(), fence.to_string());
    body.set("Labels", &labels);
    Ok(body)
}

/// Takes the dead endpoint of a fixed address out of a network that other nodes have too; if that
/// fails, the container gets another address.
async fn free_addresses(
    cluster: &Cluster,
    old: &Found,
    mut body: RawObject,
) -> Result<RawObject, Failure> {
    let odd = |error: crate::engine::raw::MemberError| Failure::new(error.to_string());
    let mut config = body.object("NetworkingConfig").map_err(odd)?;
    let endpoints: Option<BTreeMap<String, RawObject>> =
        config.parsed("EndpointsConfig").map_err(odd)?;
    let mut endpoints = endpoints.unwrap_or_default();
    let snapshot = cluster.snapshot();
    for (name, wishes) in &mut endpoints {
        if wishes.get("IPAMConfig").is_none() {
            continue;
        }
        let other = snapshot.nodes().find(|node| {
            let mut networks = node.inventory.networks.iter();
            node.inventory.is_healthy()
                && networks.any(|network| network.name == *name && network.scope != "local")
        });
        let Some(other) = other else {
            continue;
        };
        let what = json!({"Container": old.container.name(), "Force": true});
        let path = format!("/networks/{}/disconnect", encode(name));
        let freed = other.client.post(&path, what.to_string().into()).await;
        if let Err(error) = freed {
            warn!(network = name, %error, "the old address cannot be freed, taking another one");
            wishes.remove("IPAMConfig");
        }
    }
    if !endpoints.is_empty() {
        config.set("EndpointsConfig", &endpoints);
        body.set("NetworkingConfig", &config);
    }
    Ok(body)
}

/// Joins a container to a network, with another address if its own is not to be had.
async fn join(client: &Client, id: &str, network: &str, mut wishes: RawObject) {
    let path = format!("/networks/{}/connect", encode(network));
    let document = |wishes: &RawObject| {
        let mut document = RawObject::default();
        document.set("Container", id);
        document.set("EndpointConfig", wishes);
        Bytes::from(document.to_bytes())
    };
    let mut joined = client.post(&path, document(&wishes)).await;
    if joined.is_err() && wishes.get("IPAMConfig").is_some() {
        wishes.remove("IPAMConfig");
        joined = client.post(&path, document(&wishes)).await;
    }
    if let Err(error) = joined {
        warn!(container = id, network, %error, "container cannot join a network that it was in");
    }
}
