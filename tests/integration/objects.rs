//! Networks and volumes made and removed through the API.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use skep_fleet::Fault;

use crate::{
    api::{Daemon, message},
    cluster::Bench,
};

async fn names(daemon: &Daemon, path: &str, member: &str) -> Vec<String> {
    let (_, list) = daemon.json(Method::GET, path, "").await;
    let list = if member.is_empty() {
        &list
    } else {
        &list[member]
    };
    let entries = list.as_array().cloned().unwrap_or_default();
    entries
        .iter()
        .filter_map(|entry| entry["Name"].as_str().map(str::to_owned))
        .collect()
}

#[tokio::test]
async fn a_volume_without_a_name_has_the_same_one_on_all_nodes() {
    let daemon = Daemon::start(3).await;
    let (status, volume) = daemon.json(Method::POST, "/volumes/create", "{}").await;
    assert_eq!(status, StatusCode::CREATED, "{volume}");
    let name = volume["Name"].as_str().unwrap();
    assert_eq!(name.len(), 64);
    let mut expected: Vec<String> = (0..3)
        .map(|index| format!("{}/{name}", daemon.bench.fleet.engine(index).name()))
        .collect();
    expected.sort();
    let mut shown = names(&daemon, "/volumes", "Volumes").await;
    shown.sort();
    assert_eq!(shown, expected);
    let path = format!("/volumes/{name}");
    let (status, _) = daemon.json(Method::DELETE, &path, "").await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    assert!(names(&daemon, "/volumes", "Volumes").await.is_empty());
}

// I-VOL-2 changed: what a client made without a node, on every node, it can inspect and remove by
// the name it gave. Classic Swarm found such a name ambiguous and answered an inspect with 404.
#[tokio::test]
async fn a_volume_made_on_all_nodes_is_inspected_by_its_bare_name() {
    let daemon = Daemon::start(3).await;
    let body = r#"{"Name":"data","Labels":{"a":"b"}}"#;
    daemon.json(Method::POST, "/volumes/create", body).await;
    let (status, volume) = daemon.json(Method::GET, "/volumes/data", "").await;
    assert_eq!(status, StatusCode::OK, "{volume}");
    assert_eq!(volume["Name"], "data");
    assert_eq!(volume["Labels"]["a"], "b");
    daemon.json(Method::DELETE, "/volumes/data", "").await;
    let (status, _) = daemon.json(Method::GET, "/volumes/data", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_network_is_shown_before_its_create_is_answered() {
    let daemon = Daemon::start(2).await;
    let body = r#"{"Name":"front","Driver":"bridge","Future":1}"#;
    let (status, answer) = daemon.json(Method::POST, "/networks/create", body).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    let filters = "/networks?filters=%7B%22name%22%3A%5B%22front%22%5D%7D";
    let shown = names(&daemon, filters, "").await;
    assert_eq!(shown.len(), 1, "{shown:?}");
    assert!(shown[0].ends_with("/front"), "{shown:?}");
    let path = format!("/networks/{}", shown[0]);
    let (status, _) = daemon.json(Method::DELETE, &path, "").await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    assert!(names(&daemon, filters, "").await.is_empty());
}

#[tokio::test]
async fn a_network_without_a_driver_is_made_where_no_engine_makes_overlays() {
    let daemon = Daemon::start(2).await;
    let (status, answer) = daemon
        .json(Method::POST, "/networks/create", r#"{"Name":"plain"}"#)
        .await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    let path = format!("/networks/{}", answer["Id"].as_str().unwrap());
    let (_, network) = daemon.json(Method::GET, &path, "").await;
    assert_eq!(network["Driver"], "bridge");
}

#[tokio::test]
async fn a_compose_project_has_its_networks_on_one_node_and_finds_them_by_name() {
    let daemon = Daemon::start(3).await;
    let last = daemon.bench.fleet.engine(2).name().to_owned();
    let first = format!("{last}/front");
    for name in [&*first, "back", "side"] {
        let labels = json!({ "com.docker.compose.project": "shop" });
        let body = json!({ "Name": name, "Driver": "bridge", "Labels": labels });
        let path = "/networks/create";
        let (status, answer) = daemon.json(Method::POST, path, &body.to_string()).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
    }
    let filters = "/networks?filters=%7B%22type%22%3A%5B%22custom%22%5D%7D";
    let shown = names(&daemon, filters, "").await;
    assert_eq!(shown.len(), 3, "{shown:?}");
    let apart = |name: &&String| !name.starts_with(&format!("{last}/"));
    assert_eq!(shown.iter().find(apart), None, "{shown:?}");

    // Compose compares the names in a list with those it gave.
    let filters = "filters=%7B%22label%22%3A%5B%22com.docker.compose.project%3Dshop%22%5D%7D";
    let mut shown = names(&daemon, &format!("/networks?{filters}"), "").await;
    shown.sort();
    assert_eq!(shown, ["back", "front", "side"]);
    let labels = json!({ "com.docker.compose.project": "shop" });
    let body = json!({ "Name": "data", "Labels": labels }).to_string();
    let path = "/volumes/create";
    let (status, answer) = daemon.json(Method::POST, path, &body).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    let shown = names(&daemon, &format!("/volumes?{filters}"), "Volumes").await;
    assert_eq!(shown, ["data"]);
}

#[tokio::test]
async fn a_network_is_joined_on_the_containers_engine() {
    let daemon = Daemon::start(2).await;
    let id = daemon.run("web").await;
    // Every node has a bridge; the one meant is that of the container's node.
    let body = json!({ "Container": "web" }).to_string();
    // As an engine does; classic Swarm answered a disconnect with 204, on which dockerode fails.
    for action in ["connect", "disconnect"] {
        let path = format!("/networks/bridge/{action}");
        let (status, answer) = daemon.json(Method::POST, &path, &body).await;
        assert_eq!(status, StatusCode::OK, "{action}: {answer}");
    }
    let (_, list) = daemon.json(Method::GET, "/containers/json", "").await;
    assert_eq!(list[0]["Id"], Value::from(id));
}

#[tokio::test]
async fn a_node_that_falls_silent_while_it_pulls_is_named_and_the_others_pull() {
    let change = |options: &mut skep::cluster::Options| {
        options.request_timeout = Duration::from_millis(300);
    };
    let daemon = Daemon::over(Bench::start_with(2, 0, change).await).await;
    let silent = daemon.bench.fleet.engine(0);
    let fault = Fault::SlowBody {
        per_byte: Duration::from_secs(3600),
    };
    silent.set_fault_on("POST /images/create", fault);
    let path = "/images/create?fromImage=busybox&tag=latest";
    let (status, progress) = daemon.text(Method::POST, path).await;
    assert_eq!(status, StatusCode::OK);
    let last: Value = serde_json::from_str(progress.lines().last().unwrap()).unwrap();
    let error = last["error"].as_str().unwrap();
    assert!(
        error.starts_with(&format!("{}: ", silent.name())),
        "{error}"
    );
    assert!(error.contains("did not answer within 3s"), "{error}");
    let other = daemon.bench.fleet.engine(1).name();
    let done = format!("\"id\":\"{other}\"");
    assert!(
        progress
            .lines()
            .any(|line| line.contains(&done) && line.contains("downloaded")),
        "{progress}"
    );
}

#[tokio::test]
async fn networks_and_volumes_that_are_not_there_say_so() {
    let daemon = Daemon::start(1).await;
    daemon.run("web").await;
    let web = r#"{"Container":"web"}"#;
    for (method, path, body, status, text) in [
        (Method::DELETE, "/networks/x", "", 404, "No such network x"),
        (
            Method::POST,
            "/networks/x/connect",
            web,
            404,
            "No such network: x",
        ),
        (
            Method::POST,
            "/networks/bridge/connect",
            "{",
            404,
            "Container is not specified",
        ),
        (
            Method::POST,
            "/networks/bridge/disconnect",
            r#"{"Container":"nobody"}"#,
            404,
            "No such container: nobody",
        ),
        (Method::DELETE, "/volumes/x", "", 404, "No such volume x"),
        (
            Method::PUT,
            "/volumes/x?version=1",
            "{}",
            503,
            "volume update only valid for cluster volumes, but swarm is unavailable",
        ),
    ] {
        let (actual, answer) = daemon.json(method, path, body).await;
        assert_eq!(
            (actual.as_u16(), message(&answer)),
            (status, text),
            "{path}"
        );
    }
    let (status, _) = daemon.json(Method::DELETE, "/volumes/x?force=1", "").await;
    assert_eq!(status, StatusCode::NO_CONTENT);
}
