//! Which containers of a failed node go elsewhere, which stay, and in which order they go.
//!
//! A container may need others of its node: it uses their network or their volumes, or links to
//! them. Those go first, and if one of them stays, so does it. Containers that hang together this
//! way are one group, which goes to one node.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use petgraph::{algo::toposort, graph::DiGraph, unionfind::UnionFind, visit::EdgeRef};
use serde::Deserialize;

use super::{Place, movable};
use crate::{
    cluster::snapshot::{Found, Node, Snapshot},
    engine::{
        inventory::{Container, Inventory, container::Mount},
        raw::null_as_default,
    },
    model::{
        address::EngineAddr,
        directive::{ReschedulePolicy, Stateful},
    },
    scheduler::request::Bound,
};

/// Containers that ended this shortly before their node was lost were stopped with it. Engines
/// give containers 10 s to stop unless they are told otherwise.
const SHUTDOWN: Duration = Duration::from_secs(30);

/// What shall happen to the containers of a failed node that have a policy for it.
#[derive(Default)]
pub(in crate::cluster) struct Plan {
    /// Those that go.
    pub groups: Vec<Group>,
    /// Those of which there is a newer copy elsewhere, and the copy.
    pub done: Vec<(Found, Found)>,
    /// IDs of those that stay, with reasons.
    pub stay: Vec<(Arc<str>, String)>,
}

/// Containers that hang together.
#[derive(Clone, Default)]
pub(in crate::cluster) struct Group {
    /// In the order in which they have to be made.
    pub members: Vec<Member>,
    /// Where those of them are that went before.
    pub follows: Option<EngineAddr>,
}

impl Group {
    /// The nodes where all of its data can be reached; `None` if it has none, or all will do.
    pub(in crate::cluster) fn reach(&self, snapshot: &Snapshot) -> Option<Bound> {
        let data: Vec<&Mount> = self.members.iter().flat_map(|one| &one.data).collect();
        if data.is_empty() {
            return None;
        }
        let names: Vec<&str> = data.iter().map(|mount| &*mount.name).collect();
        let nodes = snapshot.nodes().filter(|node| {
            let reaches = |mount: &&Mount| {
                shows(node, mount) || node.inventory.has_volume_driver(&mount.driver)
            };
            data.iter().all(reaches)
        });
        Some(Bound {
            about: "volume",
            nodes: nodes.map(|node| node.inventory.addr.clone()).collect(),
            reason: format!("other nodes do not reach the volume {}", names.join(", ")),
        })
    }
}

impl Member {
    /// Whether it may be running until its node has no lease any more.
    pub(super) fn is_fenced(&self) -> bool {
        let policy = self.found.container.reschedule_policy();
        matches!(policy, ReschedulePolicy::OnNodeFailure(moves) if moves.is_fenced)
    }
}

/// One container that goes.
#[derive(Clone)]
pub(in crate::cluster) struct Member {
    /// Where it is, or was.
    pub found: Found,
    /// The token of its next copy.
    pub fence: u64,
    /// Whether it shall run.
    pub runs: bool,
    /// Its volumes that have to be reached from where it goes.
    pub data: Vec<Mount>,
}

impl Plan {
    /// Plans for one node. `was_stopped` tells whether a client stopped a container lately.
    pub(in crate::cluster) fn new(
        node: &Arc<Node>,
        snapshot: &Snapshot,
        was_stopped: impl Fn(&Place) -> bool,
    ) -> Self {
        let mut plan = Self::default();
        let mut going: BTreeMap<Arc<str>, Member> = BTreeMap::new();
        let mut staying: BTreeMap<Arc<str>, String> = BTreeMap::new();
        let mut gone: BTreeMap<Arc<str>, EngineAddr> = BTreeMap::new();
        let inventory = &node.inventory;
        for container in movable(&inventory.containers) {
            let id = Arc::clone(&container.id);
            let found = Found {
                node: Arc::clone(node),
                container: Arc::clone(container),
            };
            match judge(&found, snapshot) {
                Verdict::Done(copy) => {
                    gone.insert(id, copy.node.inventory.addr.clone());
                    plan.done.push((found, copy));
                }
                Verdict::Stays(reason) => {
                    staying.insert(id, reason);
                }
                Verdict::Gone => {}
                Verdict::Goes(fence) => {
                    let place = (inventory.addr.clone(), Arc::clone(&id));
                    let runs = shall_run(&found, was_stopped(&place));
                    let data = data_of(&found);
                    let member = Member {
                        found,
                        fence,
                        runs,
                        data,
                    };
                    going.insert(id, member);
                }
            }
        }
        let went = plan.done.iter().map(|(old, _)| &old.container);
        let goes = going.values().map(|member| &member.found.container);
        let needs = needs(inventory, goes.chain(went));
        keep_with_providers(inventory, &needs, &gone, &mut going, &mut staying);
        plan.groups = groups(going, &needs, &gone, &mut staying);
        plan.stay = staying.into_iter().collect();
        plan
    }
}

enum Verdict {
    /// There is a newer copy.
    Done(Found),
    /// It waits for its node.
    Stays(String),
    /// The engine was about to remove it.
    Gone,
    /// It is made again, with this token.
    Goes(u64),
}

fn judge(found: &Found, snapshot: &Snapshot) -> Verdict {
    let container = &found.container;
    if container.state.dead || *container.state.status == *"removing" {
        return Verdict::Gone;
    }
    let Some(swarm_id) = &container.swarm_id else {
        return Verdict::Stays(
            "it was not created through the cluster and has no cluster-wide ID".to_owned(),
        );
    };
    let own = container.fence();
    let copies = snapshot.copies(swarm_id).into_iter();
    let newest = copies.max_by_key(|copy| copy.container.fence());
    let newer = newest.filter(|copy| copy.container.fence() > own);
    match (newer, left_behind(found, snapshot)) {
        (Some(copy), _) => Verdict::Done(copy),
        (None, Some(reason)) => Verdict::Stays(reason),
        (None, None) => Verdict::Goes(own + 1),
    }
}

/// Why a container must not go without its data, if so.
fn left_behind(found: &Found, snapshot: &Snapshot) -> Option<String> {
    let ReschedulePolicy::OnNodeFailure(moves) = found.container.reschedule_policy() else {
        return Some("it has no reschedule policy".to_owned());
    };
    match moves.stateful {
        Stateful::Force => None,
        Stateful::Judge => found
            .container
            .mounts
            .iter()
            .find_map(|mount| stays_with(mount, snapshot)),
        Stateful::Wait => found
            .container
            .mounts
            .iter()
            .find_map(describe)
            .map(|what| format!("it has {what} and is told to wait with its data")),
    }
}

/// Why a mount keeps its container on its node, if it does.
fn stays_with(mount: &Mount, snapshot: &Snapshot) -> Option<String> {
    let is_elsewhere = || {
        let mut nodes = snapshot.nodes().filter(|node| node.inventory.is_healthy());
        nodes.any(|node| shows(node, mount))
    };
    if is_volume(mount) && is_elsewhere() {
        return None;
    }
    describe(mount).map(|what| format!("{what} is on its node alone"))
}

/// The volumes that have to be reached from where a container goes; none if it is told to go without.
fn data_of(found: &Found) -> Vec<Mount> {
    match found.container.reschedule_policy() {
        ReschedulePolicy::OnNodeFailure(moves) if moves.stateful == Stateful::Judge => {
            let mounts = found.container.mounts.iter();
            mounts.filter(|mount| is_volume(mount)).cloned().collect()
        }
        _ => Vec::new(),
    }
}

fn is_volume(mount: &Mount) -> bool {
    *mount.kind == *"volume" || (mount.kind.is_empty() && !mount.name.is_empty())
}

/// Whether a node has a volume that other nodes have too.
fn shows(node: &Node, mount: &Mount) -> bool {
    let mut volumes = node.inventory.volumes.iter();
    volumes.any(|volume| {
        let is_same = *volume.name == *mount.name && *volume.driver == *mount.driver;
        is_same && volume.scope == "global"
    })
}

/// What of a container's data is in a mount, if any.
fn describe(mount: &Mount) -> Option<String> {
    match &*mount.kind {
        "tmpfs" | "npipe" => None,
        "volume" => Some(format!("the volume {}", mount.name)),
        "" if !mount.name.is_empty() => Some(format!("the volume {}", mount.name)),
        _ if mount.is_writable => Some(format!("the writable directory {}", mount.source)),
        _ => None,
    }
}

/// Whether a container should be running, which is not always what it did when it was last seen:
/// an engine that shuts down stops its containers first, and a client may have stopped it.
pub(super) fn shall_run(found: &Found, was_stopped: bool) -> bool {
    let (state, inventory) = (&found.container.state, &found.node.inventory);
    if state.running || was_stopped {
        return state.running;
    }
    let (Some(finished), Some(down)) = (state.finished_at, inventory.down_since) else {
        return false;
    };
    let delta = inventory.specs.as_ref();
    let delta = delta.map_or(chrono::TimeDelta::zero(), |specs| specs.clock_delta());
    let down: DateTime<Utc> = down.into();
    let earliest = down - chrono::TimeDelta::from_std(SHUTDOWN).unwrap_or_default();
    finished + delta >= earliest
}

/// The part of a host configuration that names other containers.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Needs {
    #[serde(deserialize_with = "null_as_default")]
    host_config: Neighbours,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Neighbours {
    #[serde(deserialize_with = "null_as_default")]
    volumes_from: Vec<String>,
    #[serde(deserialize_with = "null_as_default")]
    links: Vec<String>,
    #[serde(deserialize_with = "null_as_default")]
    network_mode: String,
    #[serde(deserialize_with = "null_as_default")]
    ipc_mode: String,
    #[serde(deserialize_with = "null_as_default")]
    pid_mode: String,
}

/// For each of some containers, the IDs of those on its node that it needs.
fn needs<'a>(
    inventory: &Inventory,
    containers: impl Iterator<Item = &'a Arc<Container>>,
) -> BTreeMap<Arc<str>, Vec<Arc<str>>> {
    let needs = containers.map(|container| {
        let id = &container.id;
        let needs: Needs = serde_json::from_slice(&container.document).unwrap_or_default();
        let host = needs.host_config;
        let modes = [&host.network_mode, &host.ipc_mode, &host.pid_mode];
        let modes = modes
            .into_iter()
            .filter_map(|mode| mode.strip_prefix("container:"));
        let named = host
            .volumes_from
            .iter()
            .chain(&host.links)
            .filter_map(|text| text.split(':').next());
        let needed = named
            .chain(modes)
            .filter_map(|reference| find(inventory, reference))
            .filter(|needed| needed != id);
        (Arc::clone(id), needed.collect())
    });
    needs.collect()
}

/// A container of one engine by name or ID.
pub(super) fn find(inventory: &Inventory, reference: &str) -> Option<Arc<str>> {
    let bare = reference.trim_start_matches('/');
    let containers = &inventory.containers;
    let by_name = || {
        let mut all = containers.values();
        all.find(|container| container.names.iter().any(|name| **name == *bare))
    };
    let by_id = || {
        let mut from = containers.range(Arc::<str>::from(bare)..);
        let (_, first) = from.next()?;
        let is_id = first.id.starts_with(bare) && bare.len() >= 12;
        is_id.then_some(first)
    };
    let found = containers.get(bare).or_else(by_name).or_else(by_id)?;
    Some(Arc::clone(&found.id))
}

/// Keeps those that need one that neither goes nor has gone.
fn keep_with_providers(
    inventory: &Inventory,
    needs: &BTreeMap<Arc<str>, Vec<Arc<str>>>,
    gone: &BTreeMap<Arc<str>, EngineAddr>,
    going: &mut BTreeMap<Arc<str>, Member>,
    staying: &mut BTreeMap<Arc<str>, String>,
) {
    loop {
        let kept: Vec<_> = going
            .keys()
            .filter_map(|id| {
                let missing = needs
                    .get(id)?
                    .iter()
                    .find(|need| !going.contains_key(*need) && !gone.contains_key(*need))?;
                let name = inventory.containers.get(missing)?.name();
                let reason = match staying.get(missing) {
                    Some(reason) => format!("it needs {name}, which stays: {reason}"),
                    None => format!("it needs {name}, which has no reschedule policy"),
                };
                Some((Arc::clone(id), reason))
            })
            .collect();
        if kept.is_empty() {
            return;
        }
        for (id, reason) in kept {
            going.remove(&id);
            staying.insert(id, reason);
        }
    }
}

/// Those that hang together, each group with providers first. Those that have gone are of their
/// groups too, and say where these go.
fn groups(
    mut going: BTreeMap<Arc<str>, Member>,
    needs: &BTreeMap<Arc<str>, Vec<Arc<str>>>,
    gone: &BTreeMap<Arc<str>, EngineAddr>,
    staying: &mut BTreeMap<Arc<str>, String>,
) -> Vec<Group> {
    let mut graph = DiGraph::<Arc<str>, ()>::new();
    let mut indexes = BTreeMap::new();
    for id in going.keys().chain(gone.keys()) {
        indexes.insert(Arc::clone(id), graph.add_node(Arc::clone(id)));
    }
    for (id, needed) in needs {
        for provider in needed {
            if let (Some(from), Some(to)) = (indexes.get(provider), indexes.get(id)) {
                graph.add_edge(*from, *to, ());
            }
        }
    }
    let Ok(order) = toposort(&graph, None) else {
        // An engine cannot have made such containers; their records were tampered with.
        let reason = "containers of its node need each other in a circle";
        staying.extend(going.into_keys().map(|id| (id, reason.to_owned())));
        return Vec::new();
    };
    let mut sets = UnionFind::<usize>::new(graph.node_count());
    for edge in graph.edge_references() {
        sets.union(edge.source().index(), edge.target().index());
    }
    let mut groups: BTreeMap<usize, Group> = BTreeMap::new();
    for index in order {
        let group = groups.entry(sets.find(index.index())).or_default();
        let id = &graph[index];
        group.members.extend(going.remove(id));
        if let Some(addr) = gone.get(id) {
            group.follows = Some(addr.clone());
        }
    }
    let groups = groups.into_values();
    groups.filter(|group| !group.members.is_empty()).collect()
}

#[cfg(test)]
mod tests;
