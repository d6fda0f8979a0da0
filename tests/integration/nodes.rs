//! Nodes and what they run, as the routes behind `docker node` tell it.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    api::{Daemon, message},
    cluster::BODY,
};

/// A list with a filter.
async fn list(daemon: &Daemon, what: &str, filters: &Value) -> (StatusCode, Value) {
    let filters = percent_encoding::utf8_percent_encode(
        &filters.to_string(),
        percent_encoding::NON_ALPHANUMERIC,
    )
    .to_string();
    let path = format!("/{what}?filters={filters}");
    daemon.json(Method::GET, &path, "").await
}

fn hosts(nodes: &Value) -> Vec<&str> {
    let nodes = nodes.as_array().unwrap().iter();
    let mut hosts: Vec<_> = nodes
        .map(|node| node["Description"]["Hostname"].as_str().unwrap())
        .collect();
    hosts.sort_unstable();
    hosts
}

async fn node(daemon: &Daemon, name: &str) -> Value {
    let path = format!("/nodes/{name}");
    daemon.json(Method::GET, &path, "").await.1
}

/// Gives a node labels and an availability.
async fn update(daemon: &Daemon, name: &str, spec: &Value) -> (StatusCode, Value) {
    let version = node(daemon, name).await["Version"]["Index"].clone();
    let path = format!("/nodes/{name}/update?version={version}");
    daemon.json(Method::POST, &path, &spec.to_string()).await
}

#[tokio::test]
async fn an_update_does_not_change_when_a_node_was_created() {
    let daemon = Daemon::start(1).await;
    let before = node(&daemon, "node-0").await;
    for availability in ["drain", "active"] {
        let spec = json!({"Availability": availability, "Role": "worker"});
        assert_eq!(update(&daemon, "node-0", &spec).await.0, StatusCode::OK);
        let after = node(&daemon, "node-0").await;
        assert_eq!(after["CreatedAt"], before["CreatedAt"]);
        assert_ne!(after["UpdatedAt"], before["UpdatedAt"]);
    }
}

#[tokio::test]
async fn lists_of_nodes_are_filtered_as_engines_do() {
    let daemon = Daemon::start(3).await;
    let spec = json!({"Labels": {"shelf": "b", "row": ""}});
    update(&daemon, "node-1", &spec).await;
    let id = node(&daemon, "node-2").await["ID"].clone();
    let all = ["node-0", "node-1", "node-2"];
    for (filters, wanted) in [
        (json!({}), &all[..]),
        (json!({"name": ["node-1"]}), &["node-1"]),
        (json!({"name": ["node-"]}), &all),
        (
            json!({"name": {"node-0": true, "node-2": true}}),
            &["node-0", "node-2"],
        ),
        (json!({"name": ["ode-1"]}), &[]),
        (json!({"id": [id]}), &["node-2"]),
        (json!({"role": ["worker"]}), &all),
        (json!({"role": ["manager"]}), &[]),
        (json!({"role": ["manager", "Worker"]}), &all),
        (json!({"membership": ["accepted"]}), &all),
        (json!({"membership": ["pending"]}), &[]),
        (json!({"node.label": ["shelf"]}), &["node-1"]),
        (json!({"node.label": ["shelf="]}), &["node-1"]),
        (json!({"node.label": ["shelf=b", "row"]}), &["node-1"]),
        (json!({"node.label": ["shelf=c"]}), &[]),
        (json!({"label": ["shelf=b"]}), &[]),
        (json!({"label": ["operatingsystem"]}), &all),
        (
            json!({"label": ["operatingsystem"], "name": ["node-0"]}),
            &["node-0"],
        ),
    ] {
        let (status, nodes) = list(&daemon, "nodes", &filters).await;
        assert_eq!(status, StatusCode::OK, "{filters}: {nodes}");
        assert_eq!(hosts(&nodes), wanted, "{filters}");
    }
    for (filters, named) in [
        (json!({"role": ["boss"]}), "invalid role filter: 'boss'"),
        (
            json!({"membership": ["x"]}),
            "invalid membership filter: 'x'",
        ),
        (json!({"colour": ["red"]}), "invalid filter 'colour'"),
    ] {
        let (status, answer) = list(&daemon, "nodes", &filters).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert_eq!(message(&answer), named);
    }
}

#[tokio::test]
async fn roles_and_odd_words_are_refused() {
    let daemon = Daemon::start(1).await;
    for (spec, named) in [
        (json!({"Role": "manager"}), "worker"),
        (json!({"Availability": "asleep"}), "asleep"),
    ] {
        let (status, answer) = update(&daemon, "node-0", &spec).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(message(&answer).contains(named), "{answer}");
    }
    let (status, answer) = daemon.json(Method::DELETE, "/nodes/node-0", "").await;
    assert_eq!(status, StatusCode::NOT_IMPLEMENTED);
    assert!(message(&answer).contains("discovery"), "{answer}");
    let (status, _) = daemon.json(Method::GET, "/nodes/nobody", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let stale = daemon.json(Method::POST, "/nodes/node-0/update?version=7", "{}");
    let (_, answer) = stale.await;
    assert!(message(&answer).contains("out of sequence"), "{answer}");
}

#[tokio::test]
async fn containers_are_the_tasks_of_their_node() {
    let daemon = Daemon::start(2).await;
    daemon.run("web").await;
    daemon.bench.create("idle", BODY).await.unwrap();
    let found = daemon.bench.cluster.snapshot().container("web").unwrap();
    let name = found.node.inventory.name().to_owned();
    let id = node(&daemon, &name).await["ID"].clone();

    let (_, all) = list(&daemon, "tasks", &json!({})).await;
    assert_eq!(all.as_array().unwrap().len(), 2, "{all}");
    let filters = json!({"node": [id], "desired-state": ["running"]});
    let (status, tasks) = list(&daemon, "tasks", &filters).await;
    assert_eq!(status, StatusCode::OK);
    let task = &tasks[0];
    assert_eq!(tasks.as_array().unwrap().len(), 1, "{tasks}");
    assert_eq!(task["ID"], *found.container.id);
    assert_eq!(task["NodeID"], id);
    assert_eq!(task["ServiceID"], "web");
    assert_eq!(task["Status"]["State"], "running");
    assert_eq!(task["Spec"]["ContainerSpec"]["Image"], "busybox");

    let (status, same) = daemon.json(Method::GET, "/tasks/web", "").await;
    assert_eq!((status, &same), (StatusCode::OK, task));
    let (status, _) = daemon.json(Method::GET, "/tasks/nobody", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    for (filters, wanted) in [
        (json!({"node": ["nobody"]}), StatusCode::NOT_FOUND),
        (json!({"desired-state": ["x"]}), StatusCode::BAD_REQUEST),
    ] {
        assert_eq!(list(&daemon, "tasks", &filters).await.0, wanted);
    }
}
