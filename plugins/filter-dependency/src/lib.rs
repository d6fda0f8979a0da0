//! Keeps the nodes that hold every container the request refers to, by `--volumes-from`, `--link`
//! or `--net=container:`. Such a container shares its files or network, so it must be on the same
//! node; its state does not matter.

use skep_plugin_sdk::filter::Feeds;
use skep_plugin_sdk::{Filter, NoSettings, NodeSet, Nodes, Request, Result, host};

struct Dependency;

impl Filter for Dependency {
    type Settings = NoSettings;
    const FEEDS: Feeds = Feeds::empty();

    fn new(_settings: NoSettings) -> Result<Self> {
        Ok(Self)
    }

    fn applies(&self, request: &Request, _nodes: &Nodes) -> Result<bool> {
        Ok(!request.references.is_empty())
    }

    fn filter(&self, request: &Request, _nodes: &Nodes, keep: &mut NodeSet) -> Result<()> {
        for reference in &request.references {
            let container = &reference.container;
            let name = container.strip_prefix('/').unwrap_or(container);
            keep.intersect(&host::nodes_with_reference(name)?);
        }
        Ok(())
    }

    fn explain(&self, request: &Request) -> Vec<String> {
        request
            .references
            .iter()
            .map(|reference| reference.text.clone())
            .collect()
    }
}

skep_plugin_sdk::export_filter!(Dependency);

#[cfg(test)]
mod tests {
    use super::*;
    use skep_plugin_sdk::Reference;
    use skep_plugin_sdk::testing::{Container, Host, Outcome, node, request, run_filter};

    fn referring(containers: &[&str]) -> Request {
        let reference = |container: &&str| Reference {
            container: (*container).into(),
            text: format!("--link={container}"),
        };
        Request {
            references: containers.iter().map(reference).collect(),
            ..request()
        }
    }

    #[track_caller]
    fn check(containers: &[&str], expected: Outcome) {
        let host = Host::install();
        host.run(0, Container::named("c0"));
        host.run(1, Container::named("c1"));
        host.run(1, Container::named("c2"));
        let nodes = (0..3).map(|slot| node(slot, &format!("n{slot}")));
        assert_eq!(
            run_filter::<Dependency>("{}", nodes, referring(containers)),
            Ok(expected)
        );
    }

    #[test]
    fn has_nothing_to_say_without_references() {
        check(&[], Outcome::Skipped);
    }

    #[test]
    fn keeps_the_node_that_holds_the_container() {
        check(&["c0"], Outcome::Passed(vec![0]));
        check(&["/c0"], Outcome::Passed(vec![0]));
        check(&["c2-id"], Outcome::Passed(vec![1]));
        check(&["unknown"], Outcome::Passed(vec![]));
    }

    #[test]
    fn all_containers_must_be_on_one_node() {
        check(&["c1", "c2"], Outcome::Passed(vec![1]));
        check(&["c0", "c2"], Outcome::Passed(vec![]));
    }

    #[test]
    fn explains_with_what_the_user_wrote() {
        assert_eq!(
            Dependency.explain(&referring(&["a", "b"])),
            ["--link=a", "--link=b"]
        );
    }
}
