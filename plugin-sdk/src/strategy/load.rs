//! How full a node would be.

use crate::nodes::Figures;
use crate::{Amount, NodeSet, Nodes, Request};

/// One percent of a resource, in the unit of [`Load::weight`].
const PERCENT: f64 = 1_000_000.0;

/// A node with room for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// The node.
    pub slot: u32,
    /// Percent of the processors plus percent of the memory that would be taken with the request,
    /// in millionths. A resource that is not asked for counts as 100 percent on every node.
    pub weight: i64,
    /// How many containers the node has.
    pub containers: u32,
    /// The place of the node's name in natural order; different for different nodes.
    pub name_rank: u32,
}

/// Returns how full each candidate would be with the request, without those that lack the room.
///
/// `health_factor` percent are added for each point of a node's health, so a negative factor moves
/// nodes without recent failures to lower weights.
pub fn loads(
    request: &Request,
    nodes: &Nodes,
    candidates: &NodeSet,
    health_factor: i64,
) -> Vec<Load> {
    let mut loads = Vec::with_capacity(candidates.len());
    for slot in candidates.iter() {
        let figures = nodes.figures(slot);
        if let Some(weight) = weight(request.need, figures) {
            loads.push(Load {
                slot,
                weight: weight + health_factor * i64::from(figures.health) * PERCENT as i64,
                containers: figures.containers,
                name_rank: figures.name_rank,
            });
        }
    }
    loads
}

/// Tells whether a node has room for `need`. What is not asked for needs no room, even on a node
/// that is over-full.
pub fn has_room(need: Amount, figures: &Figures) -> bool {
    weight(need, figures).is_some()
}

fn weight(need: Amount, figures: &Figures) -> Option<i64> {
    let Figures {
        total, reserved, ..
    } = figures;
    let processors = percent(need.cpu_nano, reserved.cpu_nano, total.cpu_nano)?;
    let memory = percent(need.memory_bytes, reserved.memory_bytes, total.memory_bytes)?;
    Some(processors + memory)
}

/// What would be taken of `total`, in millionths of a percent; none if that is more than all.
fn percent(need: u64, reserved: u64, total: u64) -> Option<i64> {
    if need == 0 {
        return Some(100 * PERCENT as i64);
    }
    let taken = reserved.saturating_add(need);
    (taken <= total).then(|| (taken as f64 * 100.0 * PERCENT / total as f64) as i64)
}
