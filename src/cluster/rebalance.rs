//! Containers go where the strategy would put them now.
//!
//! The strategy scores and the filters forbid; this only asks them, container by container, as if
//! it were not there: the one that gains most goes first, and the rest are looked at as if it had
//! gone. A strategy that draws lots has no ideal, and nothing is moved for it.
//!
//! Only containers that may be made again elsewhere are looked at, none that others need or that
//! has data on its node alone. Each move starts the new one before it stops the old one.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    Cluster,
    placement::{Settled, Shift},
    reschedule::plan::Plan,
    snapshot::Found,
};
use crate::{cluster::nodes::Availability, engine::raw::RawObject};

/// How many containers are looked at with one command to placement: creates wait as long.
const BATCH: usize = 64;

/// How long a plan may take.
const PLANNING: Duration = Duration::from_secs(30);

/// A move that brings the fleet closer to the strategy's ideal.
#[derive(Clone)]
pub struct Move {
    /// What moves, and where it is.
    pub found: Found,
    /// Where it goes, and what that gains.
    pub shift: Shift,
    /// Why it was not moved, if so.
    pub error: Option<String>,
}

impl Cluster {
    /// The moves, at most `max_moves`, that bring the fleet closer to the strategy's ideal, those
    /// that gain most first. Nothing is moved. A plan that takes long ends with those that were
    /// found by then.
    pub async fn plan_rebalance(&self, max_moves: usize) -> Vec<Move> {
        let deadline = Instant::now() + PLANNING;
        let mut settled = self.movable();
        let mut moves: Vec<Move> = Vec::new();
        'moves: while moves.len() < max_moves {
            let shifts: Vec<Shift> = moves.iter().map(|one| one.shift.clone()).collect();
            let mut best: Option<Shift> = None;
            for batch in settled.chunks(BATCH) {
                if Instant::now() >= deadline {
                    info!("planning takes long, going by what was found so far");
                    break 'moves;
                }
                let batch = batch.iter().map(|(_, settled)| settled.clone()).collect();
                let shift = self.inner.placement.best_shift(shifts.clone(), batch).await;
                let gain = |shift: &Shift| (shift.score, shift.containers);
                if let Some(shift) = shift
                    && best.as_ref().is_none_or(|best| gain(best) < gain(&shift))
                {
                    best = Some(shift);
                }
            }
            let Some(shift) = best else {
                break;
            };
            let at = settled
                .iter()
                .position(|(_, settled)| settled.place == shift.place);
            let Some(at) = at else {
                break;
            };
            let (found, _) = settled.swap_remove(at);
            moves.push(Move {
                found,
                shift,
                error: None,
            });
        }
        moves
    }

    /// Plans and moves, one after the other, and tells what came of it.
    pub async fn rebalance(&self, max_moves: usize) -> Vec<Move> {
        let mut moves = self.plan_rebalance(max_moves).await;
        for one in &mut moves {
            let answer = self.inner.board.order(one.shift.clone()).await;
            let answer = answer.unwrap_or_else(|_| Err("this manager does not lead".to_owned()));
            one.error = answer.err();
        }
        moves
    }

    /// The containers that may be moved for a better place.
    fn movable(&self) -> Vec<(Found, Settled)> {
        let snapshot = self.snapshot();
        let mut movable = Vec::new();
        for node in snapshot.nodes() {
            let addr = &node.inventory.addr;
            let is_active = self.settings(addr).availability == Availability::Active;
            if !node.inventory.is_healthy() || !is_active {
                continue;
            }
            let plan = Plan::new(node, &snapshot, |_| false);
            for group in plan.groups {
                let only = group.reach(&snapshot);
                let [member] = group.members.as_slice() else {
                    continue;
                };
                let found = member.found.clone();
                let Ok(document) = RawObject::parse(&found.container.document) else {
                    continue;
                };
                let Ok((place, mut request)) = self.request_of(&found, &document) else {
                    continue;
                };
                if let Some(only) = only {
                    request.bind(only);
                }
                let settled = Settled { place, request };
                movable.push((found, settled));
            }
        }
        movable
    }
}

/// Rebalances every `period` until `shutdown`, while this manager leads.
pub(super) async fn run(
    cluster: Cluster,
    period: Duration,
    max_moves: usize,
    shutdown: CancellationToken,
) {
    let mut next = Instant::now() + period;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep_until(next) => {}
        }
        next = Instant::now() + period;
        if !cluster.leadership().may_change() || !cluster.troubles().is_empty() {
            continue;
        }
        let moves = tokio::select! {
            () = shutdown.cancelled() => return,
            moves = cluster.rebalance(max_moves) => moves,
        };
        for one in moves {
            let container = Arc::clone(&one.found.container.id);
            match one.error {
                None => info!(container = &*container, to = %one.shift.to, "rebalanced"),
                Some(reason) => warn!(container = &*container, reason, "cannot be rebalanced"),
            }
        }
    }
}
