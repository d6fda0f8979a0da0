//! Prefers the node with the most room.
//!
//! The fuller a node would be with the container, in percent of its processors plus percent of its
//! memory, the later it comes; a resource that is not asked for counts as 100 for every node. Ten
//! times the node's health is taken off, so a node that failed recently comes last whatever its
//! load. Equal nodes come by their number of containers, fewest first, and then by name.

use std::cmp::Ordering;

use skep_plugin_sdk::strategy::{self, Ranked};
use skep_plugin_sdk::{NoSettings, NodeSet, Nodes, Request, Result, Strategy};

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
        Ok(strategy::by_load(request, nodes, candidates, limit, -10, |a, b| {
            let load: Ordering = a.weight.cmp(&b.weight);
            load.then(a.containers.cmp(&b.containers))
        }))
    }
}

skep_plugin_sdk::export_strategy!(Spread);
