//! Keeps the nodes of the racks that run the fewest containers.
use std::collections::BTreeMap;

use serde::Deserialize;
use skep_plugin_sdk::{Filter, NodeSet, Nodes, Request, Result};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The node label that names the rack.
    label: String,
}

struct Rack(Settings);

impl Filter for Rack {
    type Settings = Settings;

    fn new(settings: Settings) -> Result<Self> {
        Ok(Self(settings))
    }

    fn filter(&self, _request: &Request, nodes: &Nodes, keep: &mut NodeSet) -> Result<()> {
        let rack = |slot| nodes.label(slot, &self.0.label);
        let mut containers = BTreeMap::new();
        for slot in keep.iter() {
            *containers.entry(rack(slot)).or_insert(0) += nodes.figures(slot).containers;
        }
        let fewest = containers.values().min().copied();
        keep.retain(|slot| containers.get(rack(slot)).copied() == fewest);
        Ok(())
    }

    fn explain(&self, _request: &Request) -> Vec<String> {
        vec![format!(
            "rack with the fewest containers (label {})",
            self.0.label
        )]
    }
}

skep_plugin_sdk::export_filter!(Rack);

#[cfg(test)]
mod tests;
