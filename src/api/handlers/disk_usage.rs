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
/// reclaimed from the sum. A volume that nodes share is there once, with the references of all. A node that fails is left out and logged, because the answer has no
/// place for a warning; if all fail, so does the request.
pub async fn measure(context: &Context, version: Option<&str>, query: &Query) -> Answer {
    let nodes = context.cluster.snapshot().healthy();
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
        let mut all: Vec<RawObject> = sum.parsed(member)?.unwrap_or_default();
        for mut entry in entries {
            if member == "Volumes" && is_shared_volume(&entry)? {
                let same = all.iter_mut().find(|one| is_same_volume(one, &entry));
                if let Some(same) = same {
                    add_references(same, &entry)?;
                    continue;
                }
            } else {
                show_node(member, node, &mut entry)?;
            }
            all.push(entry);
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
            if let Some(name) = entry.parsed::<String>("Name")? {
                entry.set("Name", &format!("{node}/{name}"));
            }
        }
        _ => {}
    }
    Ok(())
}

fn is_shared_volume(entry: &RawObject) -> Result<bool, ApiError> {
    let driver: Option<String> = entry.parsed("Driver")?;
    let scope: Option<String> = entry.parsed("Scope")?;
    Ok(is_shared(
        &driver.unwrap_or_default(),
        &scope.unwrap_or_default(),
    ))
}

fn is_same_volume(one: &RawObject, other: &RawObject) -> bool {
    let is_same =
        |member| one.get(member).map(RawValue::get) == other.get(member).map(RawValue::get);
    is_same("Name") && is_same("Driver")
}

/// Adds the containers that refer to a volume on another node.
fn add_references(sum: &mut RawObject, entry: &RawObject) -> Result<(), ApiError> {
    let references = |entry: &RawObject| -> Result<i64, ApiError> {
        let usage = entry.object("UsageData")?;
        // -1 means that the engine does not know.
        Ok(usage.parsed::<i64>("RefCount")?.unwrap_or(0).max(0))
    };
    let both = references(sum)?.saturating_add(references(entry)?);
    if both > 0 {
        let mut usage = sum.object("UsageData")?;
        usage.set("RefCount", &both);
        sum.set("UsageData", &usage);
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
                    "Volumes":[{"Name":"v","Driver":"local"},
                        {"Name":"s","Driver":"nfs","UsageData":{"Size":5,"RefCount":1}}],"Images":null}"#,
            )
            .unwrap();
            add(&mut sum, &node, &answer).unwrap();
        }
        assert_eq!(
            String::from_utf8(sum.to_bytes()).unwrap(),
            concat!(
                r#"{"LayersSize":20,"Containers":[{"Names":["/n0/web"],"SizeRw":1},{"Names":["/n1/web"],"SizeRw":1}],"#,
                r#""Volumes":[{"Name":"n0/v","Driver":"local"},"#,
                r#"{"Name":"s","Driver":"nfs","UsageData":{"Size":5,"RefCount":2}},"#,
                r#"{"Name":"n1/v","Driver":"local"}]}"#
            )
        );
    }
}
