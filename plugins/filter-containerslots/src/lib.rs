//! Keeps the nodes with fewer containers than their label `containerslots` allows.
//!
//! Containers count in any state, with placements under way. A node without the label, or whose
//! label is not a whole number, has no limit.

use skep_plugin_sdk::{Filter, NoSettings, NodeSet, Nodes, Request, Result};

const LABEL: &str = "containerslots";

struct ContainerSlots;

impl Filter for ContainerSlots {
    type Settings = NoSettings;

    fn new(_settings: NoSettings) -> Result<Self> {
        Ok(Self)
    }

    fn applies(&self, _request: &Request, nodes: &Nodes) -> Result<bool> {
        Ok(nodes.has_label(LABEL))
    }

    fn filter(&self, _request: &Request, nodes: &Nodes, keep: &mut NodeSet) -> Result<()> {
        for (value, limited) in nodes.label_values(LABEL) {
            if let Ok(slots) = value.parse::<i64>() {
                keep.retain(|node| {
                    !limited.contains(node) || i64::from(nodes.figures(node).containers) < slots
                });
            }
        }
        Ok(())
    }

    fn explain(&self, _request: &Request) -> Vec<String> {
        vec!["available container slots".into()]
    }
}

skep_plugin_sdk::export_filter!(ContainerSlots);

#[cfg(test)]
mod tests {
    use super::*;
    use skep_plugin_sdk::testing::{Outcome, node, request, run_filter};

    #[track_caller]
    fn check(nodes: &[(Option<&str>, u32)], expected: Outcome) {
        let fixtures = nodes.iter().zip(0..).map(|(&(label, containers), slot)| {
            let node = node(slot, &format!("n{slot}")).used(0, 0, containers);
            match label {
                Some(value) => node.label(LABEL, value),
                None => node,
            }
        });
        assert_eq!(
            run_filter::<ContainerSlots>("{}", fixtures, request()),
            Ok(expected)
        );
    }

    #[test]
    fn has_nothing_to_say_when_no_node_has_the_label() {
        check(&[(None, 7), (None, 0)], Outcome::Skipped);
    }

    #[test]
    fn keeps_nodes_with_free_slots() {
        check(
            &[(Some("3"), 0), (Some("3"), 2)],
            Outcome::Passed(vec![0, 1]),
        );
        check(
            &[(Some("3"), 3), (Some("3"), 2), (Some("4"), 3)],
            Outcome::Passed(vec![1, 2]),
        );
        check(
            &[(Some("3"), 3), (Some("1"), 5), (Some("-1"), 0)],
            Outcome::Passed(vec![]),
        );
    }

    #[test]
    fn a_node_without_a_number_has_no_limit() {
        check(
            &[(Some("3"), 3), (None, 900), (Some("many"), 900)],
            Outcome::Passed(vec![1, 2]),
        );
    }
}
