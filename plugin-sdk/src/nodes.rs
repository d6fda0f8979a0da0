//! The plugin's own copy of the node table.
//!
//! The daemon sends changes before it calls the plugin, so a call carries no nodes, only the
//! number of the version it means: a plugin that lags answers [`Error::Stale`] and gets the whole
//! table again.

mod column;
mod natural;

use std::collections::BTreeMap;

use crate::bindings::imports::skep::plugin::types::{Node, NodeStatus, Usage};
use crate::bindings::mirror::exports::skep::plugin::mirror::Delta;
use crate::{Amount, Error, NodeSet, Pattern, Result};

use column::Column;

/// One change of the node table.
#[derive(Clone, Debug)]
pub enum Change {
    /// A node is new or differs.
    Put(Node),
    /// A node is gone.
    Delete(u32),
    /// What is taken on a node has changed.
    Usage(Usage),
}

impl From<Delta> for Change {
    fn from(delta: Delta) -> Self {
        match delta {
            Delta::NodePut(node) => Self::Put(node),
            Delta::NodeDelete(slot) => Self::Delete(slot),
            Delta::Usage(usage) => Self::Usage(usage),
        }
    }
}

/// The figures of one node, for arithmetic over many nodes.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// What may be given away, over-commitment included.
    pub total: Amount,
    /// What is taken, by containers in any state and by placements under way.
    pub reserved: Amount,
    /// How many containers there are, in any state, placements under way included.
    pub containers: u32,
    /// 0 (must not be used) to 100 (no recent failure).
    pub health: u32,
    /// The place of the node's name among all names in natural order (`node9` before `node10`).
    /// Kept for strategies only.
    pub name_rank: u32,
}

impl Figures {
    const NONE: Self = Self {
        total: Amount {
            cpu_nano: 0,
            memory_bytes: 0,
        },
        reserved: Amount {
            cpu_nano: 0,
            memory_bytes: 0,
        },
        containers: 0,
        health: 0,
        name_rank: 0,
    };
}

/// The node table, indexed by slot, with an index over labels, names and IDs.
///
/// What is in it depends on the feeds the plugin asked for: `nodes` for everything but
/// [`Figures::reserved`] and [`Figures::containers`], which come with `usage`.
#[derive(Debug, Default)]
pub struct Nodes {
    generation: u64,
    nodes: Vec<Option<Node>>,
    // As long as `nodes`; apart from it, so that loops over figures touch little memory.
    figures: Vec<Figures>,
    usable: NodeSet,
    labels: BTreeMap<String, Column>,
    names: Column,
    ids: Column,
    // Slots by name. Invariant: complete and sorted unless `unsorted`.
    order: Vec<u32>,
    unsorted: bool,
}

impl Nodes {
    /// Returns an empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets everything; about `expected` nodes follow.
    pub fn reset(&mut self, expected: u32) {
        *self = Self::default();
        // The number is advice: a wrong one must not take the plugin's memory.
        let expected = expected.min(65_536) as usize;
        self.nodes.reserve(expected);
        self.figures.reserve(expected);
    }

    /// Applies changes in order; the table is then at `generation`.
    pub fn apply(&mut self, generation: u64, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            match change {
                Change::Put(node) => self.put(node),
                Change::Delete(slot) => self.delete(slot),
                Change::Usage(usage) => {
                    self.make_room(usage.slot);
                    let figures = &mut self.figures[usage.slot as usize];
                    figures.reserved = usage.reserved;
                    figures.containers = usage.containers;
                }
            }
        }
        self.generation = generation;
    }

    /// Checks that the table is the version a call means.
    ///
    /// # Errors
    ///
    /// [`Error::Stale`] with the version it is at.
    pub fn check(&self, generation: u64) -> Result<()> {
        if self.generation == generation {
            Ok(())
        } else {
            Err(Error::Stale(self.generation))
        }
    }

    /// Returns the node at `slot`, its labels sorted by key.
    pub fn get(&self, slot: u32) -> Option<&Node> {
        self.nodes.get(slot as usize)?.as_ref()
    }

    /// Returns the figures of the node at `slot`; all zero for an unknown one.
    #[inline]
    pub fn figures(&self, slot: u32) -> &Figures {
        self.figures.get(slot as usize).unwrap_or(&Figures::NONE)
    }

    /// Iterates over all nodes, by slot.
    pub fn iter(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().flatten()
    }

    /// Returns the value of a node's label, or the empty text.
    pub fn label(&self, slot: u32, key: &str) -> &str {
        self.get(slot)
            .and_then(|node| {
                let at = node
                    .labels
                    .binary_search_by(|label| label.key.as_str().cmp(key))
                    .ok()?;
                Some(node.labels[at].value.as_str())
            })
            .unwrap_or("")
    }

    /// Returns the nodes that are healthy, with a health above 0.
    pub fn usable(&self) -> &NodeSet {
        &self.usable
    }

    /// Returns the nodes whose label `key` matches; a node without the label has the empty value.
    ///
    /// The pattern is compared once with each distinct value.
    pub fn with_label(&self, key: &str, pattern: &Pattern) -> NodeSet {
        let column = self.labels.get(key);
        let mut matching = column
            .map(|column| column.matching(pattern))
            .unwrap_or_default();
        if pattern.matches("") {
            let mut unlabelled = self.names.all().clone();
            if let Some(column) = column {
                unlabelled.subtract(column.all());
            }
            matching.union(&unlabelled);
        }
        matching
    }

    /// Tells whether any node has the label `key`.
    pub fn has_label(&self, key: &str) -> bool {
        self.labels.contains_key(key)
    }

    /// Returns each distinct value of the label `key` with the nodes that have it, by value.
    pub fn label_values(&self, key: &str) -> impl Iterator<Item = (&str, NodeSet)> {
        self.labels.get(key).into_iter().flat_map(Column::values)
    }

    /// Returns the nodes whose name matches.
    pub fn with_name(&self, pattern: &Pattern) -> NodeSet {
        self.names.matching(pattern)
    }

    /// Returns the nodes whose ID matches.
    pub fn with_id(&self, pattern: &Pattern) -> NodeSet {
        self.ids.matching(pattern)
    }

    /// Brings [`Figures::name_rank`] up to date after nodes came, went or were renamed.
    pub(crate) fn rank_names(&mut self) {
        if !std::mem::take(&mut self.unsorted) {
            return;
        }
        let Self {
            nodes,
            order,
            figures,
            ..
        } = self;
        let name = |slot: &u32| nodes[*slot as usize].as_ref().map_or("", |node| &node.name);
        // Nearly sorted already: the sort finds the long run and merges what is new.
        order.sort_by(|a, b| natural::compare(name(a), name(b)).then(a.cmp(b)));
        for (rank, slot) in order.iter().enumerate() {
            figures[*slot as usize].name_rank = rank as u32;
        }
    }

    fn make_room(&mut self, slot: u32) {
        let needed = slot as usize + 1;
        if self.figures.len() < needed {
            self.figures.resize(needed, Figures::NONE);
            self.nodes.resize_with(needed, || None);
        }
    }

    fn put(&mut self, mut node: Node) {
        let slot = node.slot;
        self.make_room(slot);
        node.labels.sort_by(|a, b| a.key.cmp(&b.key));
        node.labels.dedup_by(|later, first| later.key == first.key);

        let figures = &mut self.figures[slot as usize];
        figures.total = node.total;
        figures.health = node.health;
        if node.status == NodeStatus::Healthy && node.health > 0 {
            self.usable.insert(slot);
        } else {
            self.usable.remove(slot);
        }

        let old = self.nodes[slot as usize].take();
        // Most changes are of health: the indexes stay as they are then.
        if old.as_ref().is_none_or(|old| old.labels != node.labels) {
            if let Some(old) = &old {
                self.forget_labels(old);
            }
            for label in &node.labels {
                if !self.labels.contains_key(&label.key) {
                    self.labels.insert(label.key.clone(), Column::default());
                }
                if let Some(column) = self.labels.get_mut(&label.key) {
                    column.insert(&label.value, slot);
                }
            }
        }
        if old.as_ref().is_none_or(|old| old.name != node.name) {
            match &old {
                Some(old) => self.names.remove(&old.name, slot),
                None => self.order.push(slot),
            }
            self.names.insert(&node.name, slot);
            self.unsorted = true;
        }
        if old.as_ref().is_none_or(|old| old.id != node.id) {
            if let Some(old) = &old {
                self.ids.remove(&old.id, slot);
            }
            self.ids.insert(&node.id, slot);
        }
        self.nodes[slot as usize] = Some(node);
    }

    fn delete(&mut self, slot: u32) {
        let Some(figures) = self.figures.get_mut(slot as usize) else {
            return;
        };
        *figures = Figures::NONE;
        self.usable.remove(slot);
        if let Some(old) = self.nodes[slot as usize].take() {
            self.forget_labels(&old);
            self.names.remove(&old.name, slot);
            self.ids.remove(&old.id, slot);
            self.order.retain(|other| *other != slot);
        }
    }

    fn forget_labels(&mut self, node: &Node) {
        for label in &node.labels {
            if let Some(column) = self.labels.get_mut(&label.key) {
                column.remove(&label.value, node.slot);
                if column.is_empty() {
                    self.labels.remove(&label.key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, nodes};

    fn slots(set: &NodeSet) -> Vec<u32> {
        set.iter().collect()
    }

    #[track_caller]
    fn check(nodes: &Nodes, key: &str, value: &str, expected: &[u32]) {
        assert_eq!(
            slots(&nodes.with_label(key, &Pattern::parse(value))),
            expected,
            "{key}=={value}"
        );
    }

    fn fleet() -> Nodes {
        nodes([
            node(0, "n0").label("region", "us-west").label("group", "1"),
            node(1, "n1").label("region", "us-east").label("group", "1"),
            node(2, "n2").label("region", "eu"),
            node(3, "n3"),
        ])
    }

    #[test]
    fn labels_are_found_by_pattern() {
        check(&fleet(), "region", "us*", &[0, 1]);
        check(&fleet(), "region", "eu", &[2]);
        check(&fleet(), "region", "/e/", &[0, 1, 2]);
        check(&fleet(), "unknown", "x", &[]);
    }

    #[test]
    fn a_missing_label_is_the_empty_text() {
        check(&fleet(), "group", "*", &[0, 1, 2, 3]);
        check(&fleet(), "group", "/^$/", &[2, 3]);
        check(&fleet(), "unknown", "*", &[0, 1, 2, 3]);
    }

    #[test]
    fn a_change_of_labels_moves_the_node_in_the_index() {
        let mut nodes = fleet();
        let moved = node(0, "n0").label("region", "eu").build();
        nodes.apply(2, [Change::Put(moved)]);
        check(&nodes, "region", "us-west", &[]);
        check(&nodes, "region", "eu", &[0, 2]);
        check(&nodes, "group", "1", &[1]);
        assert_eq!(nodes.label(0, "region"), "eu");
        assert_eq!(nodes.label(0, "group"), "");
    }

    #[test]
    fn a_deleted_node_leaves_every_index() {
        let mut nodes = fleet();
        nodes.apply(2, [Change::Delete(1), Change::Delete(900)]);
        check(&nodes, "group", "*", &[0, 2, 3]);
        assert_eq!(slots(&nodes.with_name(&Pattern::parse("n*"))), [0, 2, 3]);
        assert_eq!(slots(nodes.usable()), [0, 2, 3]);
        nodes.apply(3, [Change::Delete(2)]);
        assert!(
            nodes
                .label_values("region")
                .all(|(value, _)| value == "us-west")
        );
    }

    #[test]
    fn many_nodes_share_one_value() {
        let many = nodes((0..500).map(|slot| node(slot, &format!("n{slot}")).label("os", "linux")));
        assert_eq!(many.with_label("os", &Pattern::parse("linux")).len(), 500);
        assert_eq!(many.label_values("os").count(), 1);
        assert_eq!(many.with_label("os", &Pattern::parse("l*")).len(), 500);
    }

    #[test]
    fn usage_survives_a_change_of_the_node() {
        let mut nodes = fleet();
        let reserved = Amount {
            cpu_nano: 5,
            memory_bytes: 6,
        };
        nodes.apply(
            2,
            [Change::Usage(Usage {
                slot: 2,
                reserved,
                containers: 7,
            })],
        );
        nodes.apply(3, [Change::Put(node(2, "n2").build())]);
        assert_eq!(nodes.figures(2).containers, 7);
        assert_eq!(nodes.figures(2).reserved, reserved);
        nodes.apply(4, [Change::Delete(2)]);
        assert_eq!(nodes.figures(2).containers, 0);
    }

    #[test]
    fn names_are_ranked_in_natural_order() {
        let mut nodes = nodes(
            ["m10", "m9", "m1", "m11"]
                .iter()
                .zip(0..)
                .map(|(n, s)| node(s, n)),
        );
        nodes.rank_names();
        assert_eq!(
            [0, 1, 2, 3].map(|slot| nodes.figures(slot).name_rank),
            [2, 1, 0, 3]
        );
        nodes.apply(2, [Change::Put(node(2, "m99").build()), Change::Delete(0)]);
        nodes.rank_names();
        assert_eq!(
            [1, 3, 2].map(|slot| nodes.figures(slot).name_rank),
            [0, 1, 2]
        );
    }

    #[test]
    fn another_generation_is_stale() {
        let nodes = fleet();
        assert_eq!(nodes.check(1), Ok(()));
        assert_eq!(nodes.check(2), Err(Error::Stale(1)));
    }
}
