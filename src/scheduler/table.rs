//! The nodes as the scheduler sees them, with a log of what changed.
//!
//! Every plugin keeps its own copy of the table; the log tells it what to send to catch up. A
//! plugin that is further behind than the log reaches starts again from the whole table.

use std::{collections::VecDeque, sync::Arc};

use crate::{model::resource::Amount, scheduler::node_set::NodeSet};

/// How many changes the log remembers.
const LOG_LIMIT: usize = 65_536;

/// A node's condition as plugins see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeStatus {
    /// Found, not validated yet.
    Pending,
    /// In order.
    Healthy,
    /// Too many failures in a row.
    Unhealthy,
    /// Gone from discovery.
    Disconnected,
    /// In order, and takes no containers: its operator said so.
    Draining,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The engine's ID, a `|`, and its address.
    pub id: String,
    /// The host name the engine reports.
    pub name: String,
    /// `host:port` or `unix:///path`.
    pub address: String,
    /// The node's condition.
    pub status: NodeStatus,
    /// 0 (must not be used) to 100 (no recent failure).
    pub health: u32,
    /// What may be given away, over-commitment included.
    pub total: Amount,
    /// Engine labels and the built-in ones, sorted by key.
    pub labels: Vec<(String, String)>,
}

/// What is taken on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// By containers in any state and by placements under way.
    pub reserved: Amount,
    /// How many those are.
    pub containers: u32,
}

/// One entry of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The node at this slot is new or different.
    Node(u32),
    /// The node at this slot is gone.
    Deleted(u32),
    /// The usage at this slot is different.
    Usage(u32),
}

/// All nodes, by slot.
#[derive(Debug, Default)]
pub struct NodeTable {
    nodes: Vec<Option<Arc<Node>>>,
    usage: Vec<Usage>,
    // Invariant: has room for every slot, and holds those whose node takes containers.
    schedulable: NodeSet,
    free: Vec<u32>,
    generation: u64,
    // Invariant: entry `i` led to generation `generation - log.len() + 1 + i`.
    log: VecDeque<Change>,
}

impl NodeTable {
    /// Adds a node and returns its slot, the lowest free one.
    pub fn insert(&mut self, node: Node) -> u32 {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.nodes.push(None);
                self.usage.push(Usage::default());
                (self.nodes.len() - 1) as u32
            }
        };
        self.nodes[slot as usize] = Some(Arc::new(node));
        self.mark(slot);
        self.record(Change::Node(slot));
        slot
    }

    /// Replaces the node at `slot`; nothing is logged if it is the same.
    pub fn update(&mut self, slot: u32, node: Node) {
        let place = &mut self.nodes[slot as usize];
        if place.as_deref() != Some(&node) {
            *place = Some(Arc::new(node));
            self.mark(slot);
            self.record(Change::Node(slot));
        }
    }

    /// Removes the node at `slot`.
    pub fn remove(&mut self, slot: u32) {
        if self.nodes[slot as usize].take().is_some() {
            self.usage[slot as usize] = Usage::default();
            self.mark(slot);
            self.free.push(slot);
            self.free.sort_unstable_by(|a, b| b.cmp(a));
            self.record(Change::Deleted(slot));
        }
    }

    /// Sets what is taken at `slot`; nothing is logged if it is the same.
    pub fn set_usage(&mut self, slot: u32, usage: Usage) {
        let place = &mut self.usage[slot as usize];
        if *place != usage {
            *place = usage;
            self.record(Change::Usage(slot));
        }
    }

    /// The node at `slot`.
    pub fn node(&self, slot: u32) -> Option<&Arc<Node>> {
        self.nodes.get(slot as usize)?.as_ref()
    }

    /// What is taken at `slot`.
    pub fn usage(&self, slot: u32) -> Usage {
        self.usage.get(slot as usize).copied().unwrap_or_default()
    }

    /// One more than the highest slot ever used.
    pub fn slots(&self) -> usize {
        self.nodes.len()
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.nodes.len() - self.free.len()
    }

    /// Whether there is no node.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The nodes with their slots, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Arc<Node>)> {
        self.nodes
            .iter()
            .enumerate()
            .filter_map(|(slot, node)| Some((slot as u32, node.as_ref()?)))
    }

    /// Every node that was validated once and takes containers: what filters start from. The set has
    /// room for every slot.
    pub fn schedulable(&self) -> &NodeSet {
        &self.schedulable
    }

    /// Grows with every change.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The changes after `generation`, oldest first; `None` if the log does not reach back so far.
    pub fn changes_since(&self, generation: u64) -> Option<impl Iterator<Item = Change> + '_> {
        let missing = usize::try_from(self.generation.checked_sub(generation)?).ok()?;
        let skip = self.log.len().checked_sub(missing)?;
        Some(self.log.iter().skip(skip).copied())
    }

    /// Notes whether the node at `slot` takes containers, which no decision should find out anew.
    fn mark(&mut self, slot: u32) {
        let takes_containers = self
            .node(slot)
            .is_some_and(|node| matches!(node.status, NodeStatus::Healthy | NodeStatus::Unhealthy));
        // Makes room, too.
        self.schedulable.insert(slot);
        if !takes_containers {
            self.schedulable.remove(slot);
        }
    }

    fn record(&mut self, change: Change) {
        self.generation += 1;
        if self.log.len() == LOG_LIMIT {
            self.log.pop_front();
        }
        self.log.push_back(change);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> Node {
        Node {
            id: format!("{name}-id"),
            name: name.to_owned(),
            address: "127.0.0.1:2375".to_owned(),
            status: NodeStatus::Healthy,
            health: 100,
            total: Amount::default(),
            labels: Vec::new(),
        }
    }

    #[test]
    fn tells_what_changed_since_a_generation() {
        let mut table = NodeTable::default();
        let a = table.insert(node("a"));
        let seen = table.generation();
        let b = table.insert(node("b"));
        table.update(a, node("a"));
        table.remove(a);
        let changes: Vec<_> = table.changes_since(seen).unwrap().collect();
        assert_eq!(changes, [Change::Node(b), Change::Deleted(a)]);
        assert!(table.changes_since(table.generation() + 1).is_none());
    }

    #[test]
    fn reuses_the_slot_of_a_removed_node() {
        let mut table = NodeTable::default();
        let a = table.insert(node("a"));
        table.insert(node("b"));
        table.remove(a);
        assert_eq!(table.insert(node("c")), a);
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn knows_which_nodes_take_containers() {
        let with = |status| Node {
            status,
            ..node("a")
        };
        let mut table = NodeTable::default();
        let healthy = table.insert(with(NodeStatus::Healthy));
        let unhealthy = table.insert(with(NodeStatus::Unhealthy));
        for _ in 2..65 {
            table.insert(with(NodeStatus::Pending));
        }
        let all = |table: &NodeTable| table.schedulable().iter().collect::<Vec<_>>();
        assert_eq!(all(&table), [healthy, unhealthy]);
        assert_eq!(table.schedulable().words().len(), 2, "room for every slot");
        table.update(healthy, with(NodeStatus::Draining));
        table.remove(unhealthy);
        assert!(all(&table).is_empty());
        table.update(64, with(NodeStatus::Healthy));
        assert_eq!(all(&table), [64]);
    }

    #[test]
    fn forgets_changes_beyond_its_limit() {
        let mut table = NodeTable::default();
        let slot = table.insert(node("a"));
        for containers in 1..=LOG_LIMIT as u32 {
            table.set_usage(
                slot,
                Usage {
                    containers,
                    ..Usage::default()
                },
            );
        }
        assert!(table.changes_since(0).is_none());
        assert_eq!(table.changes_since(1).unwrap().count(), LOG_LIMIT);
    }
}
