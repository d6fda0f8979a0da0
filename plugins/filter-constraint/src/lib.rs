//! Keeps nodes by what they are.
//!
//! The key `node` is compared with the node's ID and with its name, any other key with the label
//! of that name; a node without the label has the empty text. `==` holds if the value matches,
//! `!=` if it does not.

use skep_plugin_sdk::filter::{Expressions, Feeds};
use skep_plugin_sdk::{Filter, NoSettings, NodeSet, Nodes, Operator, Pattern, Request, Result};

struct Constraint;

impl Filter for Constraint {
    type Settings = NoSettings;
    const FEEDS: Feeds = Feeds::NODES;
    const EXPRESSIONS: Expressions = Expressions::CONSTRAINTS;

    fn new(_settings: NoSettings) -> Result<Self> {
        Ok(Self)
    }

    fn applies(&self, request: &Request, _nodes: &Nodes) -> Result<bool> {
        Ok(!request.constraints.is_empty())
    }

    fn filter(&self, request: &Request, nodes: &Nodes, keep: &mut NodeSet) -> Result<()> {
        for expression in &request.constraints {
            let pattern = Pattern::parse(&expression.value);
            let matching = if expression.key == "node" {
                let mut either = nodes.with_name(&pattern);
                either.union(&nodes.with_id(&pattern));
                either
            } else {
                nodes.with_label(&expression.key, &pattern)
            };
            match expression.operator {
                Operator::Equal => keep.intersect(&matching),
                Operator::NotEqual => keep.subtract(&matching),
            }
        }
        Ok(())
    }

    fn explain(&self, request: &Request) -> Vec<String> {
        request
            .constraints
            .iter()
            .map(ToString::to_string)
            .collect()
    }
}

skep_plugin_sdk::export_filter!(Constraint);

#[cfg(test)]
mod tests {
    use super::*;
    use skep_plugin_sdk::Expression;
    use skep_plugin_sdk::testing::{NodeFixture, Outcome, node, request, run_filter};

    fn fleet() -> [NodeFixture; 4] {
        let fixture = |slot: u32| {
            node(slot, &format!("node-{slot}-name"))
                .id(&format!("node-{slot}-id|10.0.0.{slot}:2375"))
        };
        [
            fixture(0)
                .label("name", "node0")
                .label("group", "1")
                .label("region", "us-west"),
            fixture(1)
                .label("name", "node1")
                .label("group", "1")
                .label("region", "us-east"),
            fixture(2)
                .label("name", "node2")
                .label("group", "2")
                .label("region", "eu"),
            fixture(3),
        ]
    }

    #[track_caller]
    fn check(expressions: &[&str], expected: &[u32]) {
        let constraints = expressions
            .iter()
            .map(|text| Expression::parse(text))
            .collect();
        let outcome = run_filter::<Constraint>(
            "{}",
            fleet(),
            Request {
                constraints,
                ..request()
            },
        );
        assert_eq!(
            outcome,
            Ok(Outcome::Passed(expected.to_vec())),
            "{expressions:?}"
        );
    }

    #[test]
    fn has_nothing_to_say_without_constraints() {
        assert_eq!(
            run_filter::<Constraint>("{}", fleet(), request()),
            Ok(Outcome::Skipped)
        );
    }

    #[test]
    fn labels_must_be_equal() {
        check(&["does_not_exist==true"], &[]);
        check(&["name==node1"], &[1]);
        check(&["group==1"], &[0, 1]);
        check(&["group==1", "name==node1"], &[1]);
        check(&["region==us"], &[]);
    }

    #[test]
    fn nodes_are_found_by_id_and_name() {
        check(&["node==node-0-id|10.0.0.0:2375"], &[0]);
        check(&["node==node-0-id*"], &[0]);
        check(&["node==node-0-name"], &[0]);
        check(&["node!=/node-[01]-id/"], &[2, 3]);
        check(&["node!=node-1-name"], &[0, 2, 3]);
    }

    #[test]
    fn an_asterisk_stands_for_any_text() {
        check(&["region==us*"], &[0, 1]);
        check(&["region==*us*"], &[0, 1]);
        check(&["region!=us*"], &[2, 3]);
        check(&["region!=can*"], &[0, 1, 2, 3]);
    }

    #[test]
    fn a_missing_label_is_the_empty_text() {
        check(&["name!=node0"], &[1, 2, 3]);
        check(&["name!=does_not_exist"], &[0, 1, 2, 3]);
        check(&["name!=n*"], &[3]);
        check(&["does_not_exist==*"], &[0, 1, 2, 3]);
    }

    #[test]
    fn slashes_make_a_regular_expression() {
        check(&[r"name==/node\d/"], &[0, 1, 2]);
        check(&["name==/node[12]/"], &[1, 2]);
        check(&["name!=/node[12]/"], &[0, 3]);
        check(&["name==/NODE1/"], &[]);
        check(&["name==/(?i)NODE1/"], &[1]);
        check(&["name!=/(?i)NODE1*/"], &[3]);
    }

    #[test]
    fn metacharacters_outside_slashes_stand_for_themselves() {
        check(&["name==node."], &[]);
        check(&["name==node0|node1"], &[]);
        check(&["name==node[01]"], &[]);
    }

    #[test]
    fn a_lone_slash_harms_nobody() {
        check(&["node==/"], &[]);
        check(&["node!=/"], &[0, 1, 2, 3]);
    }

    #[test]
    fn a_broken_regular_expression_matches_nothing() {
        check(&["name==/(/"], &[]);
        check(&["name!=/(/"], &[0, 1, 2, 3]);
    }

    #[test]
    fn soft_expressions_are_enforced_like_hard_ones() {
        check(&["node==~node-1-name"], &[1]);
        check(&["region!=~us*"], &[2, 3]);
        check(&["region==~us~"], &[]);
    }

    #[test]
    fn explains_each_expression_without_its_softness() {
        let constraints = ["region==~us*", "node!=a"].map(Expression::parse).to_vec();
        let explained = Constraint.explain(&Request {
            constraints,
            ..request()
        });
        assert_eq!(explained, ["region==us*", "node!=a"]);
    }
}
