//! One indexed property of the nodes: each distinct value, and the nodes that have it.

use std::collections::BTreeMap;

use crate::{NodeSet, Pattern};

/// More slots than this are kept as bits; fewer as a list, since a value of one node alone (a
/// name) must not take a bit for every node.
const LIST_LIMIT: usize = 32;

#[derive(Clone, Debug)]
enum Slots {
    List(Vec<u32>),
    Bits(NodeSet),
}

/// The values of a property. Each node has at most one.
#[derive(Debug, Default)]
pub(super) struct Column {
    // Ordered, not hashed: labels come from engines, and a plugin has no random hash key.
    values: BTreeMap<String, Slots>,
    all: NodeSet,
}

impl Column {
    pub(super) fn insert(&mut self, value: &str, slot: u32) {
        self.all.insert(slot);
        match self.values.get_mut(value) {
            None => {
                self.values
                    .insert(value.to_owned(), Slots::List(vec![slot]));
            }
            Some(Slots::Bits(bits)) => bits.insert(slot),
            Some(slots @ Slots::List(_)) => {
                let Slots::List(list) = slots else { return };
                list.push(slot);
                if list.len() > LIST_LIMIT {
                    *slots = Slots::Bits(list.iter().copied().collect());
                }
            }
        }
    }

    pub(super) fn remove(&mut self, value: &str, slot: u32) {
        self.all.remove(slot);
        let gone = match self.values.get_mut(value) {
            None => false,
            Some(Slots::List(list)) => {
                list.retain(|other| *other != slot);
                list.is_empty()
            }
            Some(Slots::Bits(bits)) => {
                bits.remove(slot);
                bits.is_empty()
            }
        };
        if gone {
            self.values.remove(value);
        }
    }

    /// The nodes that have a value.
    pub(super) fn all(&self) -> &NodeSet {
        &self.all
    }

    pub(super) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    pub(super) fn matching(&self, pattern: &Pattern) -> NodeSet {
        let mut matching = NodeSet::new();
        if let Pattern::Exact(value) = pattern {
            if let Some(slots) = self.values.get(value) {
                add(&mut matching, slots);
            }
            return matching;
        }
        for (value, slots) in &self.values {
            if pattern.matches(value) {
                add(&mut matching, slots);
            }
        }
        matching
    }

    pub(super) fn values(&self) -> impl Iterator<Item = (&str, NodeSet)> {
        self.values.iter().map(|(value, slots)| {
            let mut set = NodeSet::new();
            add(&mut set, slots);
            (value.as_str(), set)
        })
    }
}

fn add(set: &mut NodeSet, slots: &Slots) {
    match slots {
        Slots::List(list) => set.extend(list.iter().copied()),
        Slots::Bits(bits) => set.union(bits),
    }
}
