//! Chooses the nodes a new container may run on, best first.
//!
//! A request passes every filter in the configured order, then one strategy ranks what is left:
//!
//! ```text
//! Request + NodeTable + Inventory -> bounds -> filter -> filter -> ... -> strategy -> Vec<Ranked>
//! ```
//!
//! Bounds are what no policy decides: networks, volumes, and volume drivers are where they are.
//!
//! This module does no I/O, reads no clock, and draws no random number of its own: a placement
//! depends on its arguments alone. Nothing here knows HTTP, Docker, or WASM; `plugin` implements
//! [`Filter`] and [`Strategy`] from outside, and tests implement them in plain Rust.
//!
//! Soft expressions are wishes. The hard part of the request is placed first; then each soft
//! expression, in filter order and in the order it was written, narrows the nodes further unless
//! that would leave none. Classic Swarm dropped all of them when one could not be met.

pub mod bounds;
pub mod explain;
pub mod node_set;
pub mod request;
pub mod table;

use std::sync::Arc;

use crate::{
    model::{directive::Kind, expression::Softness, pattern::Pattern},
    scheduler::{
        bounds::{VolumeHolder, listed},
        explain::{Explanation, Trace},
        node_set::NodeSet,
        request::Request,
        table::NodeTable,
    },
};

/// What a filter or strategy may look at during one call.
pub struct Call<'a> {
    /// The nodes and what is taken on them.
    pub nodes: &'a NodeTable,
    /// What runs where.
    pub inventory: &'a Arc<dyn Inventory>,
    /// The only source of randomness.
    pub seed: u64,
}

/// Questions about containers and images, answered from indexes.
///
/// Every answer is a set over the slots of the [`NodeTable`] of the same call and counts
/// placements under way. No answer may cost more with more containers, patterns aside.
pub trait Inventory: Send + Sync {
    /// Nodes where a container reference resolves: name, ID, cluster-wide ID, unique ID prefix.
    fn nodes_with_reference(&self, reference: &str) -> NodeSet;
    /// Nodes with a container whose full ID or first name matches.
    fn nodes_with_container(&self, pattern: &Pattern) -> NodeSet;
    /// Nodes with a container whose label matches; a container without it has the empty text.
    fn nodes_with_label(&self, key: &str, pattern: &Pattern) -> NodeSet;
    /// Nodes with an image whose ID, `repository:tag`, or repository matches.
    fn nodes_with_image(&self, pattern: &Pattern) -> NodeSet;
    /// Nodes where every host port of `first..=last` is taken for this address and protocol.
    fn nodes_with_host_ports(
        &self,
        host_ip: &str,
        first: u16,
        last: u16,
        protocol: &str,
    ) -> NodeSet;
    /// Nodes with a volume driver.
    fn nodes_with_volume_driver(&self, driver: &str) -> NodeSet;
    /// The volumes of a name, one for each node that has it.
    fn volumes(&self, name: &str) -> Vec<VolumeHolder>;
    /// Nodes where a container on the host's network exposes the port, written `80/tcp`.
    fn nodes_with_host_mode_port(&self, port: &str) -> NodeSet;
}

/// Narrows the nodes a container may run on.
pub trait Filter: Send {
    /// The name in the configuration.
    fn name(&self) -> &str;
    /// The expressions this filter is there for; empty if it is asked about every request.
    fn expressions(&self) -> &[Kind];
    /// Takes the request that the next calls are about.
    ///
    /// # Errors
    ///
    /// [`PolicyError`] if the request is not understood or the filter failed.
    fn prepare(&mut self, call: &Call<'_>, request: &Request) -> Result<Applies, PolicyError>;
    /// Returns the candidates that pass: a subset of `candidates`, of the same length.
    ///
    /// # Errors
    ///
    /// [`PolicyError`] if the filter refuses in its own words or failed.
    fn filter(&mut self, call: &Call<'_>, candidates: &NodeSet) -> Result<NodeSet, PolicyError>;
    /// What the prepared request asks of this filter, for the message when no node is left.
    fn explain(&mut self) -> Vec<String>;
    /// What is wrong with the filter now, if anything.
    fn trouble(&self) -> Option<String> {
        None
    }
}

/// Ranks the nodes that passed every filter.
pub trait Strategy: Send {
    /// The name in the configuration.
    fn name(&self) -> &str;
    /// Returns the candidates with room for the request, best first, at most `limit`.
    ///
    /// # Errors
    ///
    /// [`PolicyError`] if the strategy refuses in its own words or failed.
    fn rank(
        &mut self,
        call: &Call<'_>,
        request: &Request,
        candidates: &NodeSet,
        limit: usize,
    ) -> Result<Vec<Ranked>, PolicyError>;
    /// What is wrong with the strategy now, if anything.
    fn trouble(&self) -> Option<String> {
        None
    }
}

/// Whether a filter has anything to say to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applies {
    /// It must be called.
    Yes,
    /// Every node passes.
    No,
}

/// One node of a ranking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranked {
    /// The node's slot in the table.
    pub slot: u32,
    /// The strategy's score, for explanation only.
    pub score: i64,
}

/// Why a filter or strategy gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The request cannot be understood.
    #[error("{0}")]
    InvalidRequest(String),
    /// The request is refused; the text is the whole message.
    #[error("{0}")]
    Denied(String),
    /// The plugin trapped, ran out of time or memory, or answered nonsense.
    #[error("{0}")]
    Failed(String),
}

/// Why no node could be chosen. The messages are the ones clients of classic Swarm match.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Nothing was left although no filter refused.
    #[error("No nodes available in the cluster")]
    NoNodes,
    /// A filter refused in its own words.
    #[error("{0}")]
    Denied(String),
    /// No node has a volume driver. The words before the nodes are an engine's.
    #[error("error looking up volume plugin {driver}: plugin \"{driver}\" not found on {nodes}")]
    NoDriver {
        /// The driver.
        driver: String,
        /// The nodes' names, in words.
        nodes: String,
    },
    /// A bound or a filter left no node; one line for each up to that one.
    #[error("Unable to find a node that satisfies the following conditions {}", lines(.0))]
    Unsatisfiable(Vec<String>),
    /// The strategy found no room.
    #[error("no resources available to schedule container")]
    NoRoom,
    /// A plugin failed, and the request is refused rather than placed without it.
    #[error("{role} plugin `{name}` failed: {reason}")]
    Plugin {
        /// `filter` or `strategy`.
        role: &'static str,
        /// Its name in the configuration.
        name: String,
        /// What went wrong.
        reason: String,
    },
}

impl ScheduleError {
    /// None of these nodes has a volume driver.
    pub fn no_driver<'a>(driver: &str, nodes: impl Iterator<Item = &'a str>) -> Self {
        Self::NoDriver {
            driver: driver.to_owned(),
            nodes: listed(nodes),
        }
    }
}

/// The configured filters and strategy.
pub struct Scheduler {
    filters: Vec<Box<dyn Filter>>,
    strategy: Box<dyn Strategy>,
}

impl Scheduler {
    /// Puts filters, in the order they are asked, and a strategy together.
    pub fn new(filters: Vec<Box<dyn Filter>>, strategy: Box<dyn Strategy>) -> Self {
        Self { filters, strategy }
    }

    /// Returns the nodes that can run `request`, best first, at most `limit`.
    ///
    /// Cost: one call per filter that applies and one of the strategy; with soft expressions one
    /// more call for each and a second ranking.
    ///
    /// # Errors
    ///
    /// [`ScheduleError`]; a plugin that fails refuses the request, it is never skipped here.
    pub fn schedule(
        &mut self,
        request: &Request,
        call: &Call<'_>,
        limit: usize,
    ) -> Result<Vec<Ranked>, ScheduleError> {
        self.decide(request, call, limit, &mut Trace::default())
    }

    /// Decides as [`Self::schedule`] does, and tells how the decision came about.
    ///
    /// Cost: that of [`Self::schedule`] without a limit, and twice as many calls of filters.
    pub fn explain(&mut self, request: &Request, call: &Call<'_>) -> Explanation {
        let mut trace = Trace::wanted();
        let outcome = self.decide(request, call, usize::MAX, &mut trace);
        trace.into_explanation(call.nodes, outcome)
    }

    fn decide(
        &mut self,
        request: &Request,
        call: &Call<'_>,
        limit: usize,
        trace: &mut Trace,
    ) -> Result<Vec<Ranked>, ScheduleError> {
        let soft = self.soft_requests(request);
        if soft.is_empty() {
            let candidates = self.filter(request, request, call, trace)?;
            return self.rank(request, call, &candidates, limit, trace);
        }
        let hard = request.retain_expressions(|e| e.softness == Softness::Hard);
        let candidates = self.filter(&hard, request, call, trace)?;
        let with_room = self.rank(&hard, call, &candidates, usize::MAX, trace)?;
        let mut kept = NodeSet::with_slots(call.nodes.slots());
        for node in &with_room {
            kept.insert(node.slot);
        }
        for (filter, wish) in soft {
            let narrowed = self.ask(filter, &wish, call, &kept)?;
            self.note(filter, &wish, call, [&kept, &narrowed], trace);
            if !narrowed.is_empty() {
                kept = narrowed;
            }
        }
        self.rank(&hard, call, &kept, limit, trace)
    }

    /// What is wrong with the plugins now, one line each.
    pub fn troubles(&self) -> Vec<String> {
        let filters = self
            .filters
            .iter()
            .filter_map(|f| Some(format!("filter plugin `{}`: {}", f.name(), f.trouble()?)));
        let strategy = self
            .strategy
            .trouble()
            .map(|trouble| format!("strategy plugin `{}`: {trouble}", self.strategy.name()));
        filters.chain(strategy).collect()
    }

    /// One request for each soft expression, with the filter it is for.
    fn soft_requests(&self, request: &Request) -> Vec<(usize, Request)> {
        let mut wishes = Vec::new();
        for (index, filter) in self.filters.iter().enumerate() {
            for kind in filter.expressions() {
                for expression in request.expressions(*kind) {
                    if expression.softness == Softness::Soft {
                        wishes.push((index, request.only_expression(*kind, expression)));
                    }
                }
            }
        }
        wishes
    }

    fn filter(
        &mut self,
        request: &Request,
        original: &Request,
        call: &Call<'_>,
        trace: &mut Trace,
    ) -> Result<NodeSet, ScheduleError> {
        let mut candidates = call.nodes.schedulable().clone();
        let mut lines = Vec::new();
        for limit in bounds::of(request, call)? {
            let mut left = candidates.clone();
            left.intersect_with(&limit.nodes);
            lines.push(format!("[{}]", limit.reason));
            let sets = [&candidates, &left];
            trace.step(call, limit.about, Softness::Hard, vec![limit.reason], sets);
            if left.is_empty() {
                return Err(ScheduleError::Unsatisfiable(lines));
            }
            candidates = left;
        }
        let filtered = self.run_filters(request, original, call, candidates, trace);
        filtered.map_err(|error| match error {
            ScheduleError::Unsatisfiable(more) => {
                lines.extend(more);
                ScheduleError::Unsatisfiable(lines)
            }
            // What a filter says of all nodes, it has only said of those that were left to it.
            ScheduleError::Denied(words) if !lines.is_empty() => {
                lines.push(format!("[{words}]"));
                ScheduleError::Unsatisfiable(lines)
            }
            other => other,
        })
    }

    fn run_filters(
        &mut self,
        request: &Request,
        original: &Request,
        call: &Call<'_>,
        mut candidates: NodeSet,
        trace: &mut Trace,
    ) -> Result<NodeSet, ScheduleError> {
        for index in 0..self.filters.len() {
            let filter = &self.filters[index];
            if let Some(error) = request.malformed(filter.expressions()) {
                let error = format!("error from {} filter: {error}", filter.name());
                let mut lines = self.conditions_before(index, original, call);
                lines.push(error);
                return Err(ScheduleError::Unsatisfiable(lines));
            }
            let left = match self.ask(index, request, call, &candidates) {
                Err(ScheduleError::Unsatisfiable(error)) => {
                    let mut lines = self.conditions_before(index, original, call);
                    lines.extend(error);
                    return Err(ScheduleError::Unsatisfiable(lines));
                }
                other => other?,
            };
            self.note(index, request, call, [&candidates, &left], trace);
            candidates = left;
            if candidates.is_empty() {
                let lines = self.conditions_before(index + 1, original, call);
                return Err(ScheduleError::Unsatisfiable(lines));
            }
        }
        if candidates.is_empty() {
            return Err(ScheduleError::NoNodes);
        }
        Ok(candidates)
    }

    /// Asks one filter, if it applies.
    fn ask(
        &mut self,
        index: usize,
        request: &Request,
        call: &Call<'_>,
        candidates: &NodeSet,
    ) -> Result<NodeSet, ScheduleError> {
        let filter = &mut self.filters[index];
        let wanted = filter.expressions();
        if !wanted.is_empty()
            && wanted
                .iter()
                .all(|kind| request.expressions(*kind).is_empty())
        {
            return Ok(candidates.clone());
        }
        let answer = match filter.prepare(call, request) {
            Ok(Applies::No) => return Ok(candidates.clone()),
            Ok(Applies::Yes) => filter.filter(call, candidates),
            Err(error) => Err(error),
        };
        answer.map_err(|error| match error {
            PolicyError::Denied(text) => ScheduleError::Denied(text),
            PolicyError::InvalidRequest(text) => ScheduleError::Unsatisfiable(vec![format!(
                "error from {} filter: {text}",
                filter.name()
            )]),
            PolicyError::Failed(reason) => ScheduleError::Plugin {
                role: "filter",
                name: filter.name().to_owned(),
                reason,
            },
        })
    }

    /// Notes what a filter did, if somebody wants to know.
    fn note(
        &mut self,
        index: usize,
        request: &Request,
        call: &Call<'_>,
        sets: [&NodeSet; 2],
        trace: &mut Trace,
    ) {
        if !trace.is_wanted() {
            return;
        }
        let conditions = self.conditions(index, request, call);
        let filter = &self.filters[index];
        let is_wish = filter.expressions().iter().any(|kind| {
            let mut expressions = request.expressions(*kind).iter();
            expressions.any(|expression| expression.softness == Softness::Soft)
        });
        let softness = if is_wish {
            Softness::Soft
        } else {
            Softness::Hard
        };
        trace.step(call, filter.name(), softness, conditions, sets);
    }

    /// What the first `count` filters were asked, each as `[a b]`.
    fn conditions_before(
        &mut self,
        count: usize,
        request: &Request,
        call: &Call<'_>,
    ) -> Vec<String> {
        let all = (0..count).map(|index| self.conditions(index, request, call));
        all.filter(|conditions| !conditions.is_empty())
            .map(|conditions| format!("[{}]", conditions.join(" ")))
            .collect()
    }

    /// What a filter is asked; nothing if it has nothing to say.
    fn conditions(&mut self, index: usize, request: &Request, call: &Call<'_>) -> Vec<String> {
        let filter = &mut self.filters[index];
        let wanted = filter.expressions();
        let is_silent = !wanted.is_empty()
            && wanted
                .iter()
                .all(|kind| request.expressions(*kind).is_empty());
        if is_silent || filter.prepare(call, request).is_err() {
            return Vec::new();
        }
        filter.explain()
    }

    fn rank(
        &mut self,
        request: &Request,
        call: &Call<'_>,
        candidates: &NodeSet,
        limit: usize,
        trace: &mut Trace,
    ) -> Result<Vec<Ranked>, ScheduleError> {
        let ranking = self.strategy.rank(call, request, candidates, limit);
        if let Ok(ranking) = &ranking {
            trace.ranked(call, candidates, ranking);
        }
        match ranking {
            Ok(ranking) if ranking.is_empty() => Err(ScheduleError::NoRoom),
            Ok(ranking) => Ok(ranking),
            Err(PolicyError::Denied(text) | PolicyError::InvalidRequest(text)) => {
                Err(ScheduleError::Denied(text))
            }
            Err(PolicyError::Failed(reason)) => Err(ScheduleError::Plugin {
                role: "strategy",
                name: self.strategy.name().to_owned(),
                reason,
            }),
        }
    }
}

/// Each line on its own, after a line break.
fn lines(lines: &[String]) -> String {
    lines.iter().flat_map(|line| ["\n", line]).collect()
}

#[cfg(test)]
mod tests;
