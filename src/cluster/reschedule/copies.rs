//! Containers of nodes that are well: what agents stopped there runs again, and of several copies the
//! one with the greatest token stays.

use std::{collections::HashMap, sync::Arc};

use futures_util::{StreamExt, stream};
use imbl::ordmap::DiffItem;

use super::{
    Desk, Ended, Place, Work,
    moving::{self, Manner},
    place_of, plan,
};
use crate::{
    cluster::{
        nodes::Availability,
        snapshot::{Found, Node, Snapshot},
    },
    engine::inventory::container::{self, State},
    model::address::EngineAddr,
};

/// How many containers are removed at once from nodes that are back.
const CONCURRENT_REMOVALS: usize = 16;

impl Desk {
    /// Starts what agents stopped while they had no lease, and nobody made again elsewhere.
    pub(super) fn start_fenced(&mut self, snapshot: &Snapshot) {
        let fenced: Vec<(Place, Option<String>)> = {
            let notes = self.board().notes();
            let of_node = |(addr, ids): (&EngineAddr, &HashMap<Arc<str>, Option<String>>)| {
                let addr = addr.clone();
                let ids = ids.clone().into_iter();
                ids.map(move |(id, ended_at)| ((addr.clone(), id), ended_at))
            };
            notes.fenced.iter().flat_map(of_node).collect()
        };
        for (place, ended_at) in fenced {
            let (addr, id) = &place;
            let node = snapshot
                .node(addr)
                .filter(|node| node.inventory.is_healthy());
            let Some(node) = node else {
                continue;
            };
            let found = node.inventory.containers.get(id).map(|container| Found {
                node: Arc::clone(node),
                container: Arc::clone(container),
            });
            let found = found.filter(|found| {
                // Otherwise it has a copy that runs in its place, or somebody said what it shall do.
                let state = &found.container.state;
                let is_as_left = was_left_so(state, ended_at.as_deref());
                is_as_left && !is_copied(found, snapshot) && !self.board().was_stopped(&place)
            });
            let Some(found) = found else {
                self.board().settle_fenced(&place);
                continue;
            };
            if self.is_due(&place) {
                self.under_way.insert(place.clone(), Work::Rest);
                let board = Arc::clone(&self.cluster.inner.board);
                self.jobs.spawn(async move {
                    let ended = moving::start_again(&found).await;
                    if ended.is_ok() {
                        // Once is enough, whatever becomes of it.
                        board.settle_fenced(&place);
                    }
                    Ended::Done(vec![(place, ended)])
                });
            }
        }
    }

    /// Removes containers that were made again elsewhere from nodes that are back.
    pub(super) fn remove_superseded(&mut self, snapshot: &Snapshot) {
        let board = self.board();
        let known: Vec<EngineAddr> = board.notes().superseded.keys().cloned().collect();
        for addr in known {
            let Some(node) = snapshot.node(&addr) else {
                continue;
            };
            let ids: Vec<_> = self
                .board()
                .superseded_on(&addr)
                .into_keys()
                .filter(|id| self.is_due(&(addr.clone(), Arc::clone(id))))
                .collect();
            if !node.inventory.is_healthy() || ids.is_empty() {
                continue;
            }
            let places = ids.iter().map(|id| (addr.clone(), Arc::clone(id)));
            self.under_way
                .extend(places.map(|place| (place, Work::Rest)));
            let (cluster, node) = (self.cluster.clone(), Arc::clone(node));
            self.jobs.spawn(async move {
                let removed = stream::iter(ids)
                    .map(|id| moving::remove_old(&cluster, &node, id))
                    .buffer_unordered(CONCURRENT_REMOVALS)
                    .collect();
                Ended::Done(removed.await)
            });
        }
    }

    /// Looks among the containers that a node has and did not have before for copies that met.
    pub(super) fn look_for_copies(
        &mut self,
        snapshot: &Snapshot,
        node: &Arc<Node>,
        before: Option<&Node>,
    ) {
        if before.is_some_and(|before| Arc::ptr_eq(&before.inventory, &node.inventory)) {
            return;
        }
        let known = before.map(|before| before.inventory.containers.clone());
        let known = known.unwrap_or_default();
        for change in known.diff(&node.inventory.containers) {
            if let DiffItem::Add(_, container) = change
                && let Some(swarm_id) = &container.swarm_id
                && snapshot.copies(swarm_id).len() > 1
            {
                self.copied.insert(Arc::clone(swarm_id));
            }
        }
    }

    /// Has copies sorted out that met: a node is back, or came up late with what was asked for, or a
    /// move was interrupted.
    pub(super) fn settle_copies(&mut self, snapshot: &Arc<Snapshot>) {
        for swarm_id in std::mem::take(&mut self.copied) {
            let copies = snapshot.copies(&swarm_id);
            let newest = copies.iter().max_by_key(|copy| copy.container.fence());
            let Some(new) = newest.filter(|_| copies.len() > 1) else {
                continue;
            };
            let token = new.container.fence();
            let mut is_left = false;
            for old in copies.iter().filter(|old| old.container.fence() < token) {
                is_left = true;
                if !old.node.inventory.is_healthy() {
                    // It is dealt with as one of a node that failed.
                    continue;
                }
                let said = self.cluster.settings(&old.node.inventory.addr);
                let manner = match said.availability {
                    Availability::Drain => Manner::Orderly,
                    _ => Manner::Failed,
                };
                self.settle(old.clone(), new.clone(), manner);
            }
            if is_left {
                self.copied.insert(swarm_id);
            }
        }
    }

    /// Ends what was begun: a newer copy is there.
    pub(super) fn settle(&mut self, old: Found, new: Found, manner: Manner) {
        let place = place_of(&old);
        if !self.is_due(&place) || !new.node.inventory.is_healthy() {
            return;
        }
        self.under_way.insert(place.clone(), Work::Rest);
        let cluster = self.cluster.clone();
        let runs = plan::shall_run(&old, self.board().was_stopped(&place));
        self.jobs.spawn(async move {
            let ended = moving::settle(&cluster, &old, &new, runs, manner).await;
            Ended::Done(vec![(place, ended)])
        });
    }
}

/// Whether there is a newer copy of a container.
fn is_copied(found: &Found, snapshot: &Snapshot) -> bool {
    let swarm_id = found.container.swarm_id.as_ref();
    let copies = swarm_id.map_or_else(Vec::new, |id| snapshot.copies(id));
    let own = found.container.fence();
    copies.iter().any(|copy| copy.container.fence() > own)
}

/// Whether a container is as its node's agent left it, see
/// [`FencedContainer`](crate::store::agents::FencedContainer).
fn was_left_so(state: &State, ended_at: Option<&str>) -> bool {
    match ended_at {
        None => state.paused,
        Some("") => !state.running,
        Some(ended_at) => !state.running && state.finished_at == container::parse_moment(ended_at),
    }
}
