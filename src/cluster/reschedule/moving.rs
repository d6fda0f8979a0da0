//! One move: made again elsewhere, joined to its networks, started; the old one is superseded.
//!
//! Each step can be the last one that a manager takes, and the next manager goes on from there: a
//! create under way is on record, a copy that was made is told by its token, and what is left to do
//! shows by comparing it with the old one.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use http::Method;
use tracing::{info, warn};

use super::{
    Failure, Outcome, networks, place_of,
    plan::{Group, Member},
    remake::Remake,
};
use crate::{
    cluster::{
        Cluster,
        create::{CreateRequest, Instead},
        snapshot::{Found, Node},
    },
    engine::{client::ClientError, monitor::Refresh, raw::RawObject},
    model::{address::EngineAddr, directive::FENCE_LABEL, resource::Amount},
    scheduler::request::Bound,
};

/// How containers leave a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// It failed, and nothing is asked of it.
    Failed,
    /// It is well, and so are they: the old ones are stopped once the new ones run.
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
/// old ones go, providers last. If one cannot be made none is.
pub(super) async fn move_group(cluster: &Cluster, group: &Group, bounds: &Bounds) -> Vec<Outcome> {
    match copy_all(cluster, group, bounds).await {
        Ok(made) => {
            let mut outcomes = Vec::new();
            for (old, new) in made.into_iter().rev() {
                finish(cluster, old, &new, bounds.manner).await;
                outcomes.push((place_of(old), Ok(())));
            }
            outcomes
        }
        Err((culprit, failure)) => share(group, culprit, failure),
    }
}

/// What one failure means for each of a group.
fn share(group: &Group, culprit: &Found, failure: Failure) -> Vec<Outcome> {
    let reason = format!(
        "{}, which moves with it, cannot be moved: {}",
        culprit.container.name(),
        failure.reason
    );
    let culprit = place_of(culprit);
    let members = group.members.iter();
    let outcomes = members.map(|member| {
        let place = place_of(&member.found);
        let failure = if place == culprit {
            failure.clone()
        } else {
            Failure {
                reason: reason.clone(),
                node: failure.node.clone(),
            }
        };
        (place, Err(failure))
    });
    outcomes.collect()
}

/// Makes copies of all, on one node, or of none.
async fn copy_all<'a>(
    cluster: &Cluster,
    group: &'a Group,
    bounds: &Bounds,
) -> Result<Vec<(&'a Found, Found)>, (&'a Found, Failure)> {
    let mut made: Vec<(&Found, Found)> = Vec::new();
    let companions = group.members.iter().skip(1);
    let mut companions = companions.fold(Amount::default(), |sum, member| {
        sum + member.found.container.reserved
    });
    let mut only = bound_of(cluster, group, bounds);
    for member in &group.members {
        // The first one takes room for the others on its node.
        let companions = std::mem::take(&mut companions);
        match copy_one(cluster, member, companions, bounds, only.clone()).await {
            Ok(new) => {
                let addr = new.node.inventory.addr.clone();
                let name = new.node.inventory.name();
                only = Some(Bound {
                    about: "group",
                    reason: format!("what it needs, or what needs it, is on {name} by now"),
                    nodes: [addr].into(),
                });
                made.push((&member.found, new));
            }
            Err(mut failure) => {
                if let Some((_, first)) = made.first() {
                    let addr = &first.node.inventory.addr;
                    failure.node.get_or_insert_with(|| addr.clone());
                }
                for (_, new) in made.drain(..).rev() {
                    discard(cluster, &new).await;
                }
                return Err((&member.found, failure));
            }
        }
    }
    Ok(made)
}

/// The nodes that will do for a group, if not all do.
fn bound_of(cluster: &Cluster, group: &Group, bounds: &Bounds) -> Option<Bound> {
    let reach = group.reach(&cluster.snapshot());
    let one = bounds.only.as_ref().or(group.follows.as_ref());
    let Some(addr) = one else {
        return reach;
    };
    let does_reach = |bound: &Bound| bound.nodes.contains(addr);
    match reach {
        Some(reach) if !does_reach(&reach) => Some(Bound {
            about: reach.about,
            nodes: BTreeSet::new(),
            reason: reach.reason,
        }),
        _ => Some(Bound {
            about: "move",
            nodes: [addr.clone()].into(),
            reason: format!("it has to go to {addr}"),
        }),
    }
}

/// Makes one container again, joins it to its networks, and starts it.
async fn copy_one(
    cluster: &Cluster,
    member: &Member,
    companions: Amount,
    bounds: &Bounds,
    only: Option<Bound>,
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
    let mut remake = remake(cluster, old)?;
    networks::free_endpoints(cluster, old, bounds.manner, &mut remake).await?;
    let networks = remake.networks.iter();
    let networks = networks.map(|(name, _)| name.clone()).collect();
    let request = CreateRequest {
        name: old.container.name().to_owned(),
        body: fenced(remake.body, fence)?,
        version: None,
        query: String::new(),
        auth: None,
    };
    let instead = Instead {
        place: Some(place_of(old)),
        companions,
        networks,
        avoid: bounds.avoid.clone(),
        only,
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
    complete(cluster, old, &new, remake.networks, member.runs).await?;
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
    if !was_started(new) {
        let networks = remake(cluster, old)?.networks;
        complete(cluster, old, new, networks, runs).await?;
    }
    finish(cluster, old, new, manner).await;
    Ok(())
}

fn was_started(new: &Found) -> bool {
    let state = &new.container.state;
    state.running || *state.status != *"created"
}

/// Joins a copy to its networks and starts it. One that is not in all of its networks is not
/// started.
async fn complete(
    cluster: &Cluster,
    old: &Found,
    new: &Found,
    networks: Vec<(String, RawObject)>,
    runs: bool,
) -> Result<(), Failure> {
    let client = &new.node.client;
    let id = &new.container.id;
    for (name, wishes) in networks {
        if !new.container.networks.contains_key(&name)
            && let Err(error) = networks::join(new, &name, wishes).await
        {
            let what = format!("it cannot join the network {name}");
            return Err(give_up(cluster, new, &what, &error).await);
        }
    }
    if runs {
        info!(
            "Container {} was running, starting container {id}",
            old.container.id
        );
        let path = format!("/containers/{id}/start");
        if let Err(error) = client.call(Method::POST, &path).await {
            return Err(give_up(cluster, new, "it cannot be started", &error).await);
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

/// A copy that is of no use makes way for one on another node. An engine that cannot be asked keeps
/// it: it may be running.
async fn give_up(cluster: &Cluster, new: &Found, what: &str, error: &ClientError) -> Failure {
    let inventory = &new.node.inventory;
    let reason = format!("{what} on {}: {error}", inventory.name());
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
