//! Keeps nodes by what they hold.
//!
//! | key | compared with |
//! |---|---|
//! | `container` | the full ID and the first name of each container |
//! | `image` | the ID, each `repository:tag` and each repository of the images |
//! | any other | that label of each container; empty if it lacks the label |
//!
//! `==` holds if anything on the node matches, `!=` if nothing does.

use skep_plugin_sdk::filter::{Expressions, Feeds};
use skep_plugin_sdk::{
    Error, Expression, Filter, NoSettings, NodeSet, Nodes, Operator, Request, Result, host, log,
    pattern,
};

struct Affinity;

impl Filter for Affinity {
    type Settings = NoSettings;
    const FEEDS: Feeds = Feeds::empty();
    const EXPRESSIONS: Expressions = Expressions::AFFINITIES;

    fn new(_settings: NoSettings) -> Result<Self> {
        Ok(Self)
    }

    fn applies(&self, request: &Request, _nodes: &Nodes) -> Result<bool> {
        Ok(!request.affinities.is_empty())
    }

    fn filter(&self, request: &Request, _nodes: &Nodes, keep: &mut NodeSet) -> Result<()> {
        for expression in &request.affinities {
            let matching = matching(expression)?;
            match expression.operator {
                Operator::Equal => keep.intersect(&matching),
                Operator::NotEqual => keep.subtract(&matching),
            }
        }
        Ok(())
    }

    fn explain(&self, request: &Request) -> Vec<String> {
        let texts = request.affinities.iter();
        texts
            .map(|expression| format!("{expression} (soft={})", expression.soft))
            .collect()
    }
}

skep_plugin_sdk::export_filter!(Affinity);

/// The nodes that hold something that matches the value.
fn matching(expression: &Expression) -> Result<NodeSet> {
    let query = pattern::query(&expression.value);
    let answer = match expression.key.as_str() {
        "container" => host::nodes_with_container(&query),
        "image" => host::nodes_with_image(&query),
        key => host::nodes_with_label(key, &query),
    };
    match answer {
        // A pattern that makes no sense matches nothing, as everywhere else.
        Err(Error::InvalidRequest(reason)) => {
            log::warn(
                "affinity matches nothing",
                &[("value", &expression.value), ("error", &reason)],
            );
            Ok(NodeSet::new())
        }
        answer => answer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_plugin_sdk::testing::{Container, Host, Outcome, node, request, run_filter};

    /// Two containers on each of two nodes, and a third node that is empty.
    fn fleet() -> Host {
        let host = Host::install();
        host.run(0, Container::named("container-n0-0").label("tier", "front"));
        host.run(0, Container::named("container-n0-1"));
        host.run(1, Container::named("container-n1-0").label("tier", "back"));
        host.run(1, Container::named("container-n1-1").label("tier", "back"));
        host.image(0, &["sha256:image-0-id", "image-0:tag1", "image-0:tag2"]);
        host.image(
            1,
            &[
                "sha256:image-1-id",
                "image-1:tag1",
                "image-0:tag3",
                "image-1:tag2",
            ],
        );
        host
    }

    fn asking(expressions: &[&str]) -> Request {
        let affinities = expressions
            .iter()
            .map(|text| Expression::parse(text))
            .collect();
        Request {
            affinities,
            ..request()
        }
    }

    #[track_caller]
    fn check(expressions: &[&str], expected: &[u32]) {
        let _host = fleet();
        let nodes = (0..3).map(|slot| node(slot, &format!("n{slot}")));
        let outcome = run_filter::<Affinity>("{}", nodes, asking(expressions));
        assert_eq!(
            outcome,
            Ok(Outcome::Passed(expected.to_vec())),
            "{expressions:?}"
        );
    }

    #[test]
    fn has_nothing_to_say_without_affinities() {
        assert_eq!(
            run_filter::<Affinity>("{}", [node(0, "n")], request()),
            Ok(Outcome::Skipped)
        );
    }

    #[test]
    fn containers_are_found_by_name_id_and_glob() {
        check(&["container==container-n0-0"], &[0]);
        check(&["container==container-n1-0-id"], &[1]);
        check(&["container==container-n0*"], &[0]);
        check(&["container==/n[01]-1/"], &[0, 1]);
        check(&["container==does_not_exist"], &[]);
    }

    #[test]
    fn negated_containers_leave_nodes_without_them() {
        check(&["container!=container-n0-0"], &[1, 2]);
        check(&["container!=container-n*"], &[2]);
        check(&["container!=does_not_exist"], &[0, 1, 2]);
        check(
            &["container!=container-n0-1-id", "container!=container-n1-0"],
            &[2],
        );
    }

    #[test]
    fn a_contradiction_leaves_no_node() {
        check(
            &["container==container-n0-0", "container!=container-n0-0"],
            &[],
        );
        check(
            &["container==container-n0-0", "container==container-n1-0"],
            &[],
        );
    }

    #[test]
    fn images_are_found_by_id_tag_and_repository() {
        check(&["image==sha256:image-0-id"], &[0]);
        check(&["image==image-0:tag3"], &[1]);
        check(&["image==image-0"], &[0, 1]);
        check(&["image==image-1"], &[1]);
        check(&[r"image==/image-\d*/"], &[0, 1]);
        check(&["image==ima~ge-0:tag3"], &[]);
        check(&["image!=image-0:tag1"], &[1, 2]);
        check(&["image!=image-0:tag1", "image!=image-1:tag1"], &[2]);
    }

    #[test]
    fn other_keys_are_container_labels() {
        check(&["tier==front"], &[0]);
        check(&["tier!=front"], &[1, 2]);
        check(&["tier!=back"], &[0, 2]);
        // Container n0-1 lacks the label; the third node has no container at all.
        check(&["tier==/^$/"], &[0]);
        check(&["unknown==*"], &[0, 1]);
    }

    #[test]
    fn a_broken_regular_expression_matches_nothing() {
        check(&["container==/(/"], &[]);
        check(&["container!=/(/"], &[0, 1, 2]);
    }

    #[test]
    fn explains_each_expression_with_its_softness() {
        let explained = Affinity.explain(&asking(&["image==~a*", "tier!=back"]));
        assert_eq!(
            explained,
            ["image==a* (soft=true)", "tier!=back (soft=false)"]
        );
    }
}
