//! Prefers the node with the most room.
//!
//! The fuller a node would be with the container, in percent of its processors plus percent of its
//! memory, the later it comes; a resource that is not asked for counts as 100 for every node. Ten
//! times the node's health is taken off, so a node that failed recently comes last whatever its
//! load. Equal nodes come by their number of containers, fewest first, and then by name.

use skep_plugin_sdk::strategy::{Ranked, best, loads};
use skep_plugin_sdk::{NoSettings, NodeSet, Nodes, Request, Result, Strategy};

const HEALTH_FACTOR: i64 = -10;

struct Spread;

impl Strategy for Spread {
    type Settings = NoSettings;

    fn new(_settings: NoSettings) -> Result<Self> {
        Ok(Self)
    }

    fn rank(
        &self,
        request: &Request,
        nodes: &Nodes,
        candidates: &NodeSet,
        limit: usize,
    ) -> Result<Vec<Ranked>> {
        let loads = loads(request, nodes, candidates, HEALTH_FACTOR);
        let best = best(loads, limit, |a, b| {
            (a.weight, a.containers, a.name_rank).cmp(&(b.weight, b.containers, b.name_rank))
        });
        Ok(best
            .into_iter()
            .map(|load| Ranked {
                slot: load.slot,
                score: -load.weight,
            })
            .collect())
    }
}

skep_plugin_sdk::export_strategy!(Spread);

#[cfg(test)]
mod tests;
