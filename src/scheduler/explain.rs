//! How a decision comes about, for people who ask.

use std::sync::Arc;

use super::{
    Call, Ranked, ScheduleError,
    node_set::NodeSet,
    table::{Node, NodeTable},
};
use crate::model::expression::Softness;

/// What became of the nodes on the way to a ranking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Nodes that no filter is asked about: their status forbids new containers.
    pub closed: Vec<Arc<Node>>,
    /// What the request uses that not every node has, then the filters that had something to say,
    /// in the order they were asked; wishes come last.
    pub steps: Vec<Step>,
    /// Nodes that passed the filters and have no room.
    pub full: Vec<Arc<Node>>,
    /// The nodes that are left, best first, with the strategy's scores; or why there are none.
    pub outcome: Result<Vec<(Arc<Node>, i64)>, ScheduleError>,
}

/// What one bound or filter did to the nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its name in the configuration; of a bound what it is about.
    pub filter: String,
    /// What the request asks of it, in its own words.
    pub conditions: Vec<String>,
    /// Whether this is about a wish.
    pub softness: Softness,
    /// The nodes that do not meet the conditions. If none does, a wish is dropped.
    pub refused: Vec<Arc<Node>>,
    /// Whether the step left no node.
    pub left_none: bool,
}

/// Takes notes of a decision while it is made, if somebody wants to know.
#[derive(Default)]
pub(super) struct Trace {
    is_wanted: bool,
    steps: Vec<Step>,
    full: Option<Vec<Arc<Node>>>,
}

impl Trace {
    pub(super) fn wanted() -> Self {
        Self {
            is_wanted: true,
            ..Self::default()
        }
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.is_wanted
    }

    pub(super) fn step(
        &mut self,
        call: &Call<'_>,
        filter: &str,
        softness: Softness,
        conditions: Vec<String>,
        [before, after]: [&NodeSet; 2],
    ) {
        if !self.is_wanted {
            return;
        }
        let refused = without(call.nodes, before, after);
        // A filter that does not apply says nothing.
        if refused.is_empty() && conditions.is_empty() {
            return;
        }
        self.steps.push(Step {
            filter: filter.to_owned(),
            conditions,
            softness,
            refused,
            left_none: after.is_empty(),
        });
    }

    /// The first ranking is the one that every node took part in which the filters left.
    pub(super) fn ranked(&mut self, call: &Call<'_>, candidates: &NodeSet, ranking: &[Ranked]) {
        if self.is_wanted && self.full.is_none() {
            let with_room: NodeSet = ranking.iter().map(|node| node.slot).collect();
            self.full = Some(without(call.nodes, candidates, &with_room));
        }
    }

    pub(super) fn into_explanation(
        self,
        nodes: &NodeTable,
        outcome: Result<Vec<Ranked>, ScheduleError>,
    ) -> Explanation {
        let all: NodeSet = nodes.iter().map(|(slot, _)| slot).collect();
        let named = |ranked: Ranked| Some((Arc::clone(nodes.node(ranked.slot)?), ranked.score));
        Explanation {
            closed: without(nodes, &all, nodes.schedulable()),
            steps: self.steps,
            full: self.full.unwrap_or_default(),
            outcome: outcome.map(|ranking| ranking.into_iter().filter_map(named).collect()),
        }
    }
}

/// The nodes of `before` that are not in `after`.
fn without(nodes: &NodeTable, before: &NodeSet, after: &NodeSet) -> Vec<Arc<Node>> {
    let gone = before.iter().filter(|slot| !after.contains(*slot));
    gone.filter_map(|slot| nodes.node(slot).cloned()).collect()
}
