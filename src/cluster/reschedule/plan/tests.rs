use std::time::SystemTime;

use bytes::Bytes;
use serde_json::{Value, json};

use super::*;
use crate::{
    cluster::snapshot::tests::{cluster, node},
    engine::inventory::container::State,
    model::directive::{FENCE_LABEL, Kind},
};

/// A failed node with containers given as (name, reschedule policy, inspect document).
fn failed(containers: &[(&str, &str, Value)]) -> Node {
    let mut failed = node("n0", "127.0.0.1:1", &[]);
    let mut inventory = Inventory::clone(&failed.inventory);
    for (name, policy, document) in containers {
        let mut container = Container {
            id: format!("{name}{}", "0".repeat(16)).as_str().into(),
            names: vec![(*name).into()],
            swarm_id: Some(format!("swarm-{name}").as_str().into()),
            ..Container::default()
        };
        if !policy.is_empty() {
            let label = json!([policy]).to_string();
            container.labels.insert(Kind::Reschedule.label(), &label);
            container.document = Bytes::from(document.to_string());
        }
        let mounts = document["Mounts"].clone();
        container.mounts = serde_json::from_value(mounts).unwrap_or_default();
        inventory
            .containers
            .insert(Arc::clone(&container.id), Arc::new(container));
    }
    failed.inventory = Arc::new(inventory);
    failed
}

fn plan(failed: Node, others: impl IntoIterator<Item = Node>) -> Plan {
    let failed = Arc::new(failed);
    let mut snapshot = cluster(others);
    snapshot.put(Node::clone(&failed));
    Plan::new(&failed, &snapshot, |_| false)
}

fn names(group: &Group) -> Vec<&str> {
    group
        .members
        .iter()
        .map(|member| member.found.container.name())
        .collect()
}

const MOVES: &str = "on-node-failure";

#[tokio::test]
async fn providers_go_first_and_groups_stay_apart() {
    let links = json!({"HostConfig": {"Links": ["/db:/app/db"], "VolumesFrom": ["data:ro"]}});
    let plan = plan(
        failed(&[
            ("app", MOVES, links),
            ("db", MOVES, json!({})),
            ("data", MOVES, json!({})),
            ("other", MOVES, json!({})),
            ("off", "", json!({})),
        ]),
        [],
    );
    let mut groups: Vec<_> = plan.groups.iter().map(|group| names(group)).collect();
    groups.sort_by_key(Vec::len);
    assert_eq!(groups[0], ["other"]);
    assert_eq!(groups[1].len(), 3);
    assert_eq!(groups[1].last(), Some(&"app"));
    assert!(plan.stay.is_empty());
}

#[tokio::test]
async fn who_needs_what_stays_stays_too() {
    let volume =
        json!({"Mounts": [{"Type": "volume", "Name": "data", "Driver": "local", "RW": true}]});
    let needs = |name: &str| json!({"HostConfig": {"NetworkMode": format!("container:{name}")}});
    let plan = plan(
        failed(&[
            ("db", MOVES, volume),
            ("app", MOVES, needs(&format!("db{}", "0".repeat(16)))),
            ("proxy", MOVES, needs("app")),
        ]),
        [],
    );
    assert!(plan.groups.is_empty());
    let reasons: BTreeMap<_, _> = plan
        .stay
        .iter()
        .map(|(id, why)| (&id[..2], why.as_str()))
        .collect();
    let lost = "the volume data is on its node alone";
    assert_eq!(reasons["db"], lost);
    assert_eq!(reasons["ap"], format!("it needs db, which stays: {lost}"));
    assert_eq!(
        reasons["pr"],
        format!("it needs app, which stays: it needs db, which stays: {lost}")
    );
}

#[tokio::test]
async fn a_circle_is_not_followed() {
    let needs = |name: &str| json!({"HostConfig": {"VolumesFrom": [name]}});
    let plan = plan(
        failed(&[("a", MOVES, needs("b")), ("b", MOVES, needs("a"))]),
        [],
    );
    assert!(plan.groups.is_empty());
    assert_eq!(plan.stay.len(), 2);
}

#[tokio::test]
async fn data_that_other_nodes_reach_goes_with_its_container() {
    let mounts =
        json!({"Mounts": [{"Type": "volume", "Name": "data", "Driver": "nfs", "RW": true}]});
    let with_volume = |scope: &str, driver: &str| {
        let mut other = node("n1", "127.0.0.1:2", &[]);
        let mut inventory = Inventory::clone(&other.inventory);
        let volume = json!({"Name": "data", "Driver": driver, "Scope": scope});
        let volume = crate::engine::raw::RawObject::parse(volume.to_string().as_bytes()).unwrap();
        let volume = crate::engine::inventory::Volume::parse(volume);
        inventory.volumes = Arc::new(vec![Arc::new(volume)]);
        other.inventory = Arc::new(inventory);
        other
    };
    for (policy, scope, driver, goes) in [
        (MOVES, "global", "nfs", true),
        (MOVES, "local", "nfs", false),
        (MOVES, "global", "other", false),
        ("on-node-failure,stateful=wait", "global", "nfs", false),
        ("on-node-failure,stateful=force", "local", "nfs", true),
    ] {
        let failed = failed(&[("db", policy, mounts.clone())]);
        let plan = plan(failed, [with_volume(scope, driver)]);
        assert_eq!(
            plan.groups.len(),
            usize::from(goes),
            "{policy} {scope} {driver}"
        );
        assert_eq!(plan.stay.len(), usize::from(!goes));
    }
}

#[tokio::test]
async fn a_newer_copy_is_all_that_is_needed_and_an_older_one_is_not() {
    let copy = |fence: &str| {
        let mut other = node("n1", "127.0.0.1:2", &[("copy", &["web"], "swarm-web")]);
        let mut inventory = Inventory::clone(&other.inventory);
        let mut container = Container::clone(&inventory.containers[&Arc::<str>::from("copy")]);
        container.labels.insert(FENCE_LABEL, fence);
        inventory
            .containers
            .insert("copy".into(), Arc::new(container));
        other.inventory = Arc::new(inventory);
        other
    };
    let newer = plan(failed(&[("web", MOVES, json!({}))]), [copy("3")]);
    assert!(newer.groups.is_empty());
    assert_eq!(newer.done.len(), 1);
    let equal = plan(failed(&[("web", MOVES, json!({}))]), [copy("no number")]);
    assert_eq!(equal.groups[0].members[0].fence, 1);
}

#[tokio::test]
async fn what_ended_just_before_its_engine_was_stopped_with_it() {
    let runs = |status: &str, seconds_before: i64, was_stopped: bool| {
        let mut failed = failed(&[("web", MOVES, json!({}))]);
        let mut inventory = Inventory::clone(&failed.inventory);
        let down = SystemTime::now();
        inventory.down_since = Some(down);
        let finished = DateTime::<Utc>::from(down) - chrono::TimeDelta::seconds(seconds_before);
        let id = inventory.containers.keys().next().unwrap().clone();
        let mut container = Container::clone(&inventory.containers[&id]);
        container.state = State {
            status: status.into(),
            running: status == "running",
            finished_at: Some(finished),
            ..State::default()
        };
        inventory.containers.insert(id, Arc::new(container.clone()));
        failed.inventory = Arc::new(inventory);
        let found = Found {
            node: Arc::new(failed),
            container: Arc::new(container),
        };
        shall_run(&found, was_stopped)
    };
    assert!(runs("running", 1000, false));
    assert!(runs("exited", 5, false));
    assert!(!runs("exited", 60, false));
    assert!(!runs("exited", 5, true));
}

#[tokio::test]
async fn who_needs_what_has_gone_follows_it() {
    let links = json!({"HostConfig": {"Links": ["/db:/web/db", "/cache:/web/cache"]}});
    let mut there = node("n1", "127.0.0.1:2", &[("copy", &["db"], "swarm-db")]);
    let mut inventory = Inventory::clone(&there.inventory);
    let mut copy = Container::clone(&inventory.containers[&Arc::<str>::from("copy")]);
    copy.labels.insert(FENCE_LABEL, "1");
    inventory.containers.insert("copy".into(), Arc::new(copy));
    there.inventory = Arc::new(inventory);
    let plan = plan(
        failed(&[
            ("web", MOVES, links),
            ("db", MOVES, json!({})),
            ("cache", MOVES, json!({})),
        ]),
        [there],
    );
    assert!(plan.stay.is_empty(), "{:?}", plan.stay);
    assert_eq!(plan.groups.len(), 1);
    assert_eq!(names(&plan.groups[0]), ["cache", "web"]);
    let follows = plan.groups[0].follows.as_ref().map(ToString::to_string);
    assert_eq!(follows.as_deref(), Some("127.0.0.1:2"));
}

#[tokio::test]
async fn data_goes_where_it_can_be_reached() {
    let mounts =
        json!({"Mounts": [{"Type": "volume", "Name": "data", "Driver": "nfs", "RW": true}]});
    let other = |name: &str, addr: &str, shows: bool, drivers: &[&str]| {
        let mut other = node(name, addr, &[]);
        let mut inventory = Inventory::clone(&other.inventory);
        let mut specs = (**inventory.specs.as_ref().unwrap()).clone();
        specs.volume_drivers = drivers.iter().map(|&name| name.to_owned()).collect();
        inventory.specs = Some(Arc::new(specs));
        if shows {
            let volume = br#"{"Name":"data","Driver":"nfs","Scope":"global"}"#;
            let volume = crate::engine::raw::RawObject::parse(volume).unwrap();
            let volume = crate::engine::inventory::Volume::parse(volume);
            inventory.volumes = Arc::new(vec![Arc::new(volume)]);
        }
        other.inventory = Arc::new(inventory);
        other
    };
    let mut snapshot = cluster([
        other("n1", "127.0.0.1:2", true, &["local"]),
        other("n2", "127.0.0.1:3", false, &["local"]),
        other("n3", "127.0.0.1:4", false, &["local", "nfs"]),
    ]);
    let failed = Arc::new(failed(&[("db", MOVES, mounts), ("web", MOVES, json!({}))]));
    snapshot.put(Node::clone(&failed));
    let plan = Plan::new(&failed, &snapshot, |_| false);
    let mut reach = plan.groups.iter().map(|group| group.reach(&snapshot));
    let bound = reach.find_map(|bound| bound).unwrap();
    let nodes: Vec<_> = bound.nodes.iter().map(ToString::to_string).collect();
    assert_eq!(nodes, ["127.0.0.1:2", "127.0.0.1:4"]);
    assert_eq!(bound.reason, "other nodes do not reach the volume data");
    assert_eq!(plan.groups.len(), 2);
}
