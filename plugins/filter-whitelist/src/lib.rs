//! Keeps the nodes in a list of names.
//!
//! The value lists names between `|`: `==` keeps the nodes in the list, `!=` those that are not.
//! The key does not matter. Several lists must all hold.

use skep_plugin_sdk::filter::{Expressions, Feeds};
use skep_plugin_sdk::{Filter, NoSettings, NodeSet, Nodes, Operator, Pattern, Request, Result};

struct Whitelist;

impl Filter for Whitelist {
    type Settings = NoSettings;
    const FEEDS: Feeds = Feeds::NODES;
    const EXPRESSIONS: Expressions = Expressions::WHITELISTS;

    fn new(_settings: NoSettings) -> Result<Self> {
        Ok(Self)
    }

    fn applies(&self, request: &Request, _nodes: &Nodes) -> Result<bool> {
        Ok(!request.whitelists.is_empty())
    }

    fn filter(&self, request: &Request, nodes: &Nodes, keep: &mut NodeSet) -> Result<()> {
        for expression in &request.whitelists {
            let mut listed = NodeSet::new();
            for name in expression.value.split('|') {
                listed.union(&nodes.with_name(&Pattern::Exact(name.to_owned())));
            }
            match expression.operator {
                Operator::Equal => keep.intersect(&listed),
                Operator::NotEqual => keep.subtract(&listed),
            }
        }
        Ok(())
    }

    fn explain(&self, request: &Request) -> Vec<String> {
        let texts = request.whitelists.iter();
        texts
            .map(|expression| format!("{expression} (soft={})", expression.soft))
            .collect()
    }
}

skep_plugin_sdk::export_filter!(Whitelist);

#[cfg(test)]
mod tests {
    use super::*;
    use skep_plugin_sdk::Expression;
    use skep_plugin_sdk::testing::{Outcome, node, request, run_filter};

    fn asking(lists: &[&str]) -> Request {
        Request {
            whitelists: lists.iter().map(|text| Expression::parse(text)).collect(),
            ..request()
        }
    }

    #[track_caller]
    fn check(lists: &[&str], expected: Outcome) {
        let nodes = (0..3).map(|slot| node(slot, &format!("node-{slot}")));
        assert_eq!(
            run_filter::<Whitelist>("{}", nodes, asking(lists)),
            Ok(expected),
            "{lists:?}"
        );
    }

    #[test]
    fn has_nothing_to_say_without_a_list() {
        check(&[], Outcome::Skipped);
    }

    #[test]
    fn keeps_the_nodes_in_the_list() {
        check(&["node==node-1"], Outcome::Passed(vec![1]));
        check(&["node==node-0|node-2"], Outcome::Passed(vec![0, 2]));
        check(&["node==node-0|absent"], Outcome::Passed(vec![0]));
        check(&["node==absent"], Outcome::Passed(vec![]));
        check(&["node==node-*"], Outcome::Passed(vec![]));
    }

    #[test]
    fn several_lists_must_all_hold() {
        check(
            &["node==node-0|node-1", "node==node-1|node-2"],
            Outcome::Passed(vec![1]),
        );
        check(&["node==node-0", "node==node-1"], Outcome::Passed(vec![]));
    }

    #[test]
    fn a_negated_list_keeps_the_others() {
        check(&["node!=node-0|absent"], Outcome::Passed(vec![1, 2]));
    }

    #[test]
    fn explains_each_list_with_its_softness() {
        let explained = Whitelist.explain(&asking(&["node==~a|b", "node!=c"]));
        assert_eq!(explained, ["node==a|b (soft=true)", "node!=c (soft=false)"]);
    }
}
