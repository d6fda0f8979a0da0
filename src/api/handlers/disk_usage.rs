//! What all nodes together have on their disks.

use http::Method;
use serde_json::value::RawValue;
use tracing::warn;

use super::{Answer, Context, engine_path, json};
use crate::{
    api::{error::ApiError, fanout, query::Query},
    cluster::snapshot::Node,
    engine::{inventory::resources::is_shared, raw::RawObject},
};

/// Members that are lists, one entry for each thing on a node.
const LISTS: [&str; 4] = ["Images", "Containers", "Volumes", "BuildCache"];

/// Members that are bytes.
const SIZES: [&str; 2] = ["LayersSize", "BuilderSize"];

/// `GET /system/df`, asked of every healthy node at this moment. The parameter `type` goes to the
/// engines.
///
/// Images are not merged: two copies take the room of two, and clients compute what can be
/// reclaimed from the sum. A node that fails is left out and logged, because the answer has no
/// place for a warning; if all fail, so does the request.
pub async fn measure(context: &Context, version: Option<&str>, query: &Query) -> Answer {
    let nodes = fanout::healthy(&context.cluster.snapshot());
    let mut outcomes = fanout::on_each(&context.cluster, nodes, |node| {
        let path = engine_path(&node, version, "/system/df", query);
        async move {
            let client = node.client.patient();
            client.json_at::<RawObject>(Method::GET, &path).await
        }
    })
    .await;
    if outcomes.iter().any(|outcome| outcome.result.is_ok()) {
        outcomes.retain(|outcome| {
            if let Err(error) = &outcome.result {
                let node = outcome.node.inventory.name();
                warn!(node, %error, "node is left out of the disk usage");
            }
            outcome.result.is_ok()
        });
    }
    let mut sum = RawObject::default();
    for (node, answer) in fanout::all(outcomes)? {
        add(&mut sum, &node, &answer)?;
    }
    Ok(json(&sum))
}

/// Adds what one node answered. Members that were not asked for are absent and stay so.
fn add(sum: &mut RawObject, node: &Node, answer: &RawObject) -> Result<(), ApiError> {
    for member in SIZES {
        if let Some(bytes) = answer.parsed::<i64>(member)? {
            let so_far = sum.parsed::<i64>(member)?.unwrap_or_default();
            sum.set(member, &so_far.saturating_add(bytes));
        }
    }
    for member in LISTS {
        let Some(entries) = answer.parsed::<Vec<RawObject>>(member)? else {
            continue;
        };
        let mut all: Vec<Box<RawValue>> = sum.parsed(member)?.unwrap_or_default();
        for mut entry in entries {
            show_node(member, node, &mut entry)?;
            if let Ok(raw) = serde_json::value::to_raw_value(&entry) {
                all.push(raw);
            }
        }
        sum.set(member, &all);
    }
    Ok(())
}

/// Puts the node before names, as the lists of containers and volumes do.
fn show_node(member: &str, node: &Node, entry: &mut RawObject) -> Result<(), ApiError> {
    let node = node.inventory.name();
    match member {
        "Containers" => {
            let names: Vec<String> = entry.parsed("Names")?.unwrap_or_default();
            let names: Vec<String> = names
                .iter()
                .map(|name| format!("/{node}/{}", name.trim_start_matches('/')))
                .collect();
            entry.set("Names", &names);
        }
        "Volumes" => {
            let driver: Option<String> = entry.parsed("Driver")?;
            let scope: Option<String> = entry.parsed("Scope")?;
            let name: Option<String> = entry.parsed("Name")?;
            let is_shared = is_shared(&driver.unwrap_or_default(), &scope.unwrap_or_default());
            if let Some(name) = name.filter(|_| !is_shared) {
                entry.set("Name", &format!("{node}/{name}"));
            }
        }
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nodes_are_added_up_and_what_was_not_asked_stays_absent() {
        let mut sum = RawObject::default();
        for (name, addr) in [("n0", "127.0.0.1:1"), ("n1", "127.0.0.1:2")] {
            let node = crate::cluster::snapshot::tests::node(name, addr, &[]);
            let answer = RawObject::parse(
                br#"{"LayersSize":10,"Containers":[{"Names":["/web"],"SizeRw":1}],
                    "Volumes":[{"Name":"v","Driver":"local"},{"Name":"s","Driver":"nfs"}],"Images":null}"#,
            )
            .unwrap();
            add(&mut sum, &node, &answer).unwrap();
        }
        assert_eq!(
            String::from_utf8(sum.to_bytes()).unwrap(),
            concat!(
                r#"{"LayersSize":20,"Containers":[{"Names":["/n0/web"],"SizeRw":1},{"Names":["/n1/web"],"SizeRw":1}],"#,
                r#""Volumes":[{"Name":"n0/v","Driver":"local"},{"Name":"s","Driver":"nfs"},"#,
                r#"{"Name":"n1/v","Driver":"local"},{"Name":"s","Driver":"nfs"}]}"#
            )
        );
    }
}
