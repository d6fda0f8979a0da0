//! Shuffles the nodes.
//!
//! Nodes without room for the request are left out, unless `check-resources = false` says to
//! shuffle all of them.

use serde::Deserialize;

use skep_plugin_sdk::strategy::{Ranked, has_room};
use skep_plugin_sdk::{NodeSet, Nodes, Request, Result, Strategy, host};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Settings {
    /// Leave out nodes without room. Default: true.
    #[serde(default = "Settings::default_check_resources")]
    check_resources: bool,
}

impl Settings {
    fn default_check_resources() -> bool {
        true
    }
}

struct Random {
    settings: Settings,
}

impl Strategy for Random {
    type Settings = Settings;
    const SETTINGS_SCHEMA: Option<&'static str> = Some(
        r#"{"type":"object","additionalProperties":false,"properties":{"check-resources":{"type":"boolean","default":true}}}"#,
    );

    fn new(settings: Settings) -> Result<Self> {
        Ok(Self { settings })
    }

    fn rank(
        &self,
        request: &Request,
        nodes: &Nodes,
        candidates: &NodeSet,
        limit: usize,
    ) -> Result<Vec<Ranked>> {
        let mut slots: Vec<u32> = candidates
            .iter()
            .filter(|slot| {
                !self.settings.check_resources || has_room(request.need, nodes.figures(*slot))
            })
            .collect();
        let count = limit.min(slots.len());
        let bytes = host::random_bytes(count as u32 * 8);
        // Fisher and Yates, stopped after `count` places.
        for (place, random) in bytes.as_chunks::<8>().0.iter().enumerate() {
            let left = (slots.len() - place) as u64;
            // The bias is below one in 10^14 for any fleet.
            let chosen = place + (u64::from_le_bytes(*random) % left) as usize;
            slots.swap(place, chosen);
        }
        slots.truncate(count);
        Ok(slots
            .into_iter()
            .map(|slot| Ranked { slot, score: 0 })
            .collect())
    }
}

skep_plugin_sdk::export_strategy!(Random);

#[cfg(test)]
mod tests {
    use super::*;
    use skep_plugin_sdk::testing::{Host, NodeFixture, node, rank, request};
    use skep_plugin_sdk::{Amount, Error};

    fn fleet() -> impl Iterator<Item = NodeFixture> {
        (0..10).map(|slot| node(slot, &format!("n{slot}")).total(u64::from(slot), 1 << 30))
    }

    fn slots(settings: &str, cores: u64, limit: u32) -> Vec<u32> {
        let need = Amount {
            cpu_nano: cores * 1_000_000_000,
            memory_bytes: 0,
        };
        let ranked =
            rank::<Random>(settings, fleet(), &Request { need, ..request() }, limit).unwrap();
        ranked.iter().map(|ranked| ranked.slot).collect()
    }

    #[test]
    fn every_node_comes_once() {
        let _host = Host::install();
        let mut shuffled = slots("{}", 0, 100);
        assert_ne!(shuffled, (0..10).collect::<Vec<_>>());
        shuffled.sort_unstable();
        assert_eq!(shuffled, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn every_node_may_come_first() {
        let host = Host::install();
        let first: NodeSet = (1..200)
            .map(|seed: u64| {
                host.seed(seed << 32);
                slots("{}", 0, 1)[0]
            })
            .collect();
        assert_eq!(first.len(), 10);
    }

    #[test]
    fn nodes_without_room_are_left_out() {
        let _host = Host::install();
        let mut with_room = slots("{}", 8, 100);
        with_room.sort_unstable();
        assert_eq!(with_room, [8, 9]);
        assert!(slots("{}", 10, 100).is_empty());
    }

    #[test]
    fn resources_are_not_checked_if_the_settings_say_so() {
        let _host = Host::install();
        assert_eq!(slots(r#"{"check-resources":false}"#, 10, 100).len(), 10);
        assert_eq!(slots(r#"{"check-resources":false}"#, 10, 3).len(), 3);
    }

    #[test]
    fn an_unknown_setting_is_refused_by_name() {
        let refusal = rank::<Random>(r#"{"chek":1}"#, fleet(), &request(), 1);
        let Err(Error::InvalidConfig(reason)) = refusal else {
            panic!("{refusal:?}")
        };
        assert!(reason.contains("`chek`"), "{reason}");
    }
}
