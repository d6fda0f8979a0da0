//! Keeps the nodes that are healthy.
//!
//! A node is usable while its status is healthy and its health, which falls with each recent
//! failure, is above 0. Unlike other filters this one refuses the request itself when no node is
//! left, because clients know its message.

use skep_plugin_sdk::filter::Feeds;
use skep_plugin_sdk::{Error, Filter, NoSettings, NodeSet, Nodes, Request, Result};

struct Health;

impl Filter for Health {
    type Settings = NoSettings;
    const FEEDS: Feeds = Feeds::NODES;

    fn new(_settings: NoSettings) -> Result<Self> {
        Ok(Self)
    }

    fn filter(&self, _request: &Request, nodes: &Nodes, keep: &mut NodeSet) -> Result<()> {
        keep.intersect(nodes.usable());
        if keep.is_empty() {
            return Err(Error::Denied(
                "No healthy node available in the cluster".into(),
            ));
        }
        Ok(())
    }
}

skep_plugin_sdk::export_filter!(Health);

#[cfg(test)]
mod tests {
    use super::*;
    use skep_plugin_sdk::NodeStatus;
    use skep_plugin_sdk::NodeStatus::{Disconnected, Draining, Healthy, Pending, Unhealthy};
    use skep_plugin_sdk::testing::{Outcome, node, request, run_filter};

    #[track_caller]
    fn check(nodes: &[(NodeStatus, u32)], expected: Result<&[u32]>) {
        let fixtures = nodes.iter().zip(0..).map(|(&(status, health), slot)| {
            node(slot, &format!("n{slot}")).health(status, health)
        });
        let outcome = run_filter::<Health>("{}", fixtures, request());
        assert_eq!(
            outcome,
            expected.map(|slots| Outcome::Passed(slots.to_vec()))
        );
    }

    #[test]
    fn keeps_all_when_all_are_healthy() {
        check(&[(Healthy, 100), (Healthy, 100)], Ok(&[0, 1]));
    }

    #[test]
    fn keeps_healthy_nodes_only() {
        check(
            &[
                (Pending, 100),
                (Healthy, 33),
                (Unhealthy, 100),
                (Draining, 100),
                (Disconnected, 100),
            ],
            Ok(&[1]),
        );
    }

    #[test]
    fn a_healthy_node_without_health_is_not_used() {
        check(&[(Healthy, 0), (Healthy, 1)], Ok(&[1]));
    }

    #[test]
    fn refuses_the_request_when_no_node_is_left() {
        let refusal = "No healthy node available in the cluster";
        check(
            &[(Healthy, 0), (Unhealthy, 0)],
            Err(Error::Denied(refusal.into())),
        );
        check(&[], Err(Error::Denied(refusal.into())));
    }
}
