//! Where a request can go for the sake of what it uses: networks, volumes, and their drivers.
//!
//! This is asked before any filter, because it is no policy: elsewhere the engine could not make
//! the container, or would make it without its data.

use std::collections::{BTreeSet, HashSet};

use super::{
    Call, ScheduleError,
    node_set::NodeSet,
    request::{Request, VolumeUse},
};
use crate::model::{directive::Kind, pattern::Pattern};

/// How many nodes a message names.
const NAMED: usize = 5;

/// A volume that a node has, or that a placement under way will make there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeHolder {
    /// The node.
    pub slot: u32,
    /// The volume's driver.
    pub driver: String,
    /// Whether a volume of this name on another node is the same one.
    pub is_shared: bool,
}

/// The nodes that one thing leaves.
pub(super) struct Limit {
    /// What it is: `network`.
    pub about: &'static str,
    /// The nodes.
    pub nodes: NodeSet,
    /// Why no other will do.
    pub reason: String,
}

/// Everything that limits where a request can go.
///
/// # Errors
///
/// [`ScheduleError::NoDriver`] if no node has a driver that it names.
pub(super) fn of(request: &Request, call: &Call<'_>) -> Result<Vec<Limit>, ScheduleError> {
    let mut limits = Vec::new();
    for bound in &request.bounds {
        let wanted: HashSet<String> = bound.nodes.iter().map(ToString::to_string).collect();
        let nodes = call.nodes.iter();
        let nodes = nodes.filter(|(_, node)| wanted.contains(&node.address));
        limits.push(Limit {
            about: bound.about,
            nodes: nodes.map(|(slot, _)| slot).collect(),
            reason: bound.reason.clone(),
        });
    }
    for volume in &request.volumes {
        limits.extend(of_driver(volume, call)?);
        limits.extend(of_data(volume, request, call));
    }
    Ok(limits)
}

/// Nodes that have the driver which a request names.
fn of_driver(volume: &VolumeUse, call: &Call<'_>) -> Result<Option<Limit>, ScheduleError> {
    if !volume.needs_driver() {
        return Ok(None);
    }
    let driver = &volume.driver;
    let nodes = call.inventory.nodes_with_volume_driver(driver);
    if nodes.is_empty() && !call.nodes.is_empty() {
        let names = call.nodes.iter().map(|(_, node)| node.name.as_str());
        return Err(ScheduleError::no_driver(driver, names));
    }
    Ok(Some(Limit {
        about: "volume",
        nodes,
        reason: format!("volume driver {driver}"),
    }))
}

/// Nodes from which the volume can be reached that there is, if there is one.
fn of_data(volume: &VolumeUse, request: &Request, call: &Call<'_>) -> Option<Limit> {
    if volume.name.is_empty() {
        return None;
    }
    let mut found = call.inventory.volumes(&volume.name);
    found.retain(|holder| volume.driver.is_empty() || volume.driver == holder.driver);
    let name = &volume.name;
    let mut nodes: NodeSet = found.iter().map(|holder| holder.slot).collect();
    let shared: BTreeSet<&str> = found
        .iter()
        .filter(|holder| holder.is_shared)
        .map(|holder| holder.driver.as_str())
        .collect();
    if !shared.is_empty() {
        for driver in &shared {
            nodes.union_with(&call.inventory.nodes_with_volume_driver(driver));
        }
        let drivers: Vec<&str> = shared.into_iter().collect();
        let reason = format!("volume {name} is of the driver {}", drivers.join(", "));
        return Some(Limit {
            about: "volume",
            nodes,
            reason,
        });
    }
    if !volume.is_pinned || nodes.is_empty() || insists_on_another(request, call, &nodes) {
        return None;
    }
    let holders = nodes.iter().filter_map(|slot| call.nodes.node(slot));
    let holders = listed(holders.map(|node| node.name.as_str()));
    Some(Limit {
        about: "volume",
        nodes,
        reason: format!("volume {name} is on {holders}"),
    })
}

/// Whether the request names a node, and none of these is the one.
fn insists_on_another(request: &Request, call: &Call<'_>, nodes: &NodeSet) -> bool {
    let expressions = request.expressions(Kind::Constraint).iter();
    let wanted: Vec<Pattern> = expressions
        .filter(|expression| expression.is_hard_node())
        .map(|expression| Pattern::of_value(&expression.value))
        .collect();
    let mut nodes = nodes.iter().filter_map(|slot| call.nodes.node(slot));
    !nodes.any(|node| {
        let is_meant = |pattern: &Pattern| pattern.matches(&node.name) || pattern.matches(&node.id);
        wanted.iter().all(is_meant)
    })
}

/// Nodes' names in natural order; of many only the first few, and how many more there are.
pub fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut names: Vec<&str> = names.collect();
    names.sort_by(|a, b| natord::compare(a, b));
    let more = names.len().saturating_sub(NAMED);
    names.truncate(NAMED);
    match more {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_nodes_a_few_are_named() {
        let names = ["n10", "n2", "n1", "n3", "n4", "n5", "n6"];
        assert_eq!(listed(names.into_iter()), "n1, n2, n3, n4, n5 and 2 more");
        assert_eq!(listed(["b", "a"].into_iter()), "a, b");
    }
}
