//! What a plugin's copy of the node table lacks, in order.

use super::{
    bindings::scheduling::{
        exports::skep::plugin::{mirror::Delta, plugin::Feeds},
        skep::plugin::types::AttrParam,
    },
    convert,
    limits::MAX_DELTAS,
};
use crate::scheduler::{
    node_set::NodeSet,
    table::{Change, NodeTable},
};

/// Where a plugin's copy stands.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Position {
    /// How far the log of changes was read.
    seen: Option<u64>,
    /// What the plugin was told: changes it did not ask for do not move it.
    told: u64,
}

/// What has to be sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// The plugin has all it asked for.
    Nothing,
    /// These changes.
    Some(Vec<Change>),
    /// Everything, from nothing.
    All(Vec<Change>),
}

impl Position {
    /// The generation the plugin believes in.
    pub(super) fn told(self) -> u64 {
        self.told
    }

    /// Forgets what was sent.
    pub(super) fn reset(&mut self) {
        self.seen = None;
    }

    /// Whether nothing at all happened since the last time.
    pub(super) fn is_current(self, nodes: &NodeTable) -> bool {
        self.seen == Some(nodes.generation())
    }

    /// The changes the plugin lacks among those it asked for.
    pub(super) fn missing(self, nodes: &NodeTable, feeds: Feeds) -> Missing {
        let Some(changes) = self.seen.and_then(|seen| nodes.changes_since(seen)) else {
            return Missing::All(everything(nodes, feeds));
        };
        let mut kept = Vec::new();
        // The newest usage is sent in place of the first change; later ones would repeat it,
        // unless the slot changed hands in between.
        let mut sent = NodeSet::default();
        for change in changes {
            let wanted = match change {
                Change::Usage(slot) => {
                    let fresh = feeds.contains(Feeds::USAGE) && !sent.contains(slot);
                    if fresh {
                        sent.insert(slot);
                    }
                    fresh
                }
                Change::Deleted(slot) => {
                    sent.remove(slot);
                    feeds.contains(Feeds::NODES) || feeds.contains(Feeds::USAGE)
                }
                Change::Node(_) => feeds.contains(Feeds::NODES),
            };
            if wanted {
                kept.push(change);
            }
        }
        if kept.is_empty() {
            Missing::Nothing
        } else {
            Missing::Some(kept)
        }
    }

    /// Takes note that the plugin has everything it asked for; `sent` if it was told so.
    pub(super) fn advance(&mut self, nodes: &NodeTable, sent: bool) {
        self.seen = Some(nodes.generation());
        if sent {
            self.told = nodes.generation();
        }
    }
}

/// The whole table as changes.
fn everything(nodes: &NodeTable, feeds: Feeds) -> Vec<Change> {
    let mut changes = Vec::new();
    for (slot, _) in nodes.iter() {
        if feeds.contains(Feeds::NODES) {
            changes.push(Change::Node(slot));
        }
        if feeds.contains(Feeds::USAGE) {
            changes.push(Change::Usage(slot));
        }
    }
    changes
}

/// Hands changes over as deltas with the values of now, in pieces of bounded length.
///
/// # Errors
///
/// The first error of `send`.
pub(super) fn deliver<E>(
    nodes: &NodeTable,
    changes: &[Change],
    mut send: impl FnMut(&[Delta<'_>]) -> Result<(), E>,
) -> Result<(), E> {
    for chunk in changes.chunks(MAX_DELTAS) {
        let labels: Vec<Vec<AttrParam<'_>>> = chunk
            .iter()
            .map(|change| match change {
                Change::Node(slot) => nodes
                    .node(*slot)
                    .map_or_else(Vec::new, |node| convert::attrs(&node.labels)),
                Change::Deleted(_) | Change::Usage(_) => Vec::new(),
            })
            .collect();
        let deltas: Vec<Delta<'_>> = chunk
            .iter()
            .zip(&labels)
            .filter_map(|(change, labels)| match *change {
                // A node that is gone by now has its own entry later in the log.
                Change::Node(slot) => nodes
                    .node(slot)
                    .map(|node| Delta::NodePut(convert::node(slot, node, labels))),
                Change::Deleted(slot) => Some(Delta::NodeDelete(slot)),
                Change::Usage(slot) => Some(Delta::Usage(convert::usage(slot, nodes.usage(slot)))),
            })
            .collect();
        send(&deltas)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::resource::Amount,
        scheduler::table::{Node, NodeStatus, Usage},
    };

    fn node(name: &str) -> Node {
        Node {
            id: String::new(),
            name: name.to_owned(),
            address: String::new(),
            status: NodeStatus::Healthy,
            health: 100,
            total: Amount::default(),
            labels: Vec::new(),
        }
    }

    fn using(containers: u32) -> Usage {
        Usage {
            containers,
            ..Usage::default()
        }
    }

    /// A table of two nodes and a position that is up to date with it.
    fn synced() -> (NodeTable, Position) {
        let mut nodes = NodeTable::default();
        nodes.insert(node("a"));
        nodes.insert(node("b"));
        let mut position = Position::default();
        position.advance(&nodes, true);
        (nodes, position)
    }

    #[test]
    fn a_new_instance_gets_everything_it_asked_for() {
        let (nodes, _) = synced();
        let fresh = Position::default();
        assert_eq!(
            fresh.missing(&nodes, Feeds::NODES),
            Missing::All(vec![Change::Node(0), Change::Node(1)])
        );
        assert_eq!(
            fresh.missing(&nodes, Feeds::USAGE),
            Missing::All(vec![Change::Usage(0), Change::Usage(1)])
        );
    }

    #[test]
    fn changes_nobody_asked_for_are_not_sent() {
        let (mut nodes, mut position) = synced();
        let told = position.told();
        nodes.set_usage(0, using(1));
        assert!(!position.is_current(&nodes));
        assert_eq!(position.missing(&nodes, Feeds::NODES), Missing::Nothing);
        position.advance(&nodes, false);
        assert!(position.is_current(&nodes));
        assert_eq!(position.told(), told);
    }

    #[test]
    fn usage_is_sent_once_unless_the_slot_changed_hands() {
        let (mut nodes, position) = synced();
        nodes.set_usage(0, using(1));
        nodes.set_usage(0, using(2));
        assert_eq!(
            position.missing(&nodes, Feeds::USAGE),
            Missing::Some(vec![Change::Usage(0)])
        );
        nodes.remove(0);
        nodes.insert(node("c"));
        nodes.set_usage(0, using(3));
        assert_eq!(
            position.missing(&nodes, Feeds::NODES | Feeds::USAGE),
            Missing::Some(vec![
                Change::Usage(0),
                Change::Deleted(0),
                Change::Node(0),
                Change::Usage(0)
            ])
        );
    }

    #[test]
    fn deliveries_are_cut_into_pieces() {
        let mut nodes = NodeTable::default();
        let slot = nodes.insert(node("a"));
        let changes = vec![Change::Usage(slot); MAX_DELTAS * 2 + 1];
        let mut lengths = Vec::new();
        deliver::<()>(&nodes, &changes, |deltas| {
            lengths.push(deltas.len());
            Ok(())
        })
        .unwrap();
        assert_eq!(lengths, [MAX_DELTAS, MAX_DELTAS, 1]);
    }
}
