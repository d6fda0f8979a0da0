//! Prefers the node with the least room that is still enough.
//!
//! The fuller a node would be with the container, in percent of its processors plus percent of its
//! memory, the earlier it comes; a resource that is not asked for counts as 100 for every node.
//! Ten times the node's health is added, so a node that failed recently comes last whatever its
//! load. Equal nodes come by their number of containers, most first, and then by name.

use skep_plugin_sdk::strategy::{Ranked, best, loads};
use skep_plugin_sdk::{NoSettings, NodeSet, Nodes, Request, Result, Strategy};

const HEALTH_FACTOR: i64 = 10;

struct Binpack;

impl Strategy for Binpack {
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
            let fullest_first = (b.weight, b.containers).cmp(&(a.weight, a.containers));
            fullest_first.then(a.name_rank.cmp(&b.name_rank))
        });
        Ok(best
            .into_iter()
            .map(|load| Ranked {
                slot: load.slot,
                score: load.weight,
            })
            .collect())
    }
}

skep_plugin_sdk::export_strategy!(Binpack);

#[cfg(test)]
mod tests;
