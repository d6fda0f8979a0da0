//! Volumes and their drivers: where they are made, and where the containers that use them go.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use skep::{config::volumes::Copies, engine::health::Status};
use skep_fleet::{Fault, VolumeDriver};

use crate::{
    api::{Daemon, message},
    cluster::Bench,
};

async fn daemon(engines: usize, copies: Copies) -> Daemon {
    let bench = Bench::start_with(engines, 0, |options| options.volume_copies = copies).await;
    Daemon::over(bench).await
}

/// A create body with a volume at `/data`.
fn using(volume: &str, driver: &str) -> String {
    let host = json!({ "Binds": [format!("{volume}:/data")], "VolumeDriver": driver });
    json!({ "Image": "busybox", "HostConfig": host }).to_string()
}

/// Where a container was made, or why it was not.
async fn place(daemon: &Daemon, name: &str, body: &str) -> Result<String, String> {
    let path = format!("/containers/create?name={name}");
    let (status, answer) = daemon.json(Method::POST, &path, body).await;
    if status != StatusCode::CREATED {
        return Err(message(&answer).to_owned());
    }
    let found = daemon.bench.cluster.snapshot().container(name).unwrap();
    Ok(found.node.inventory.name().to_owned())
}

async fn make(daemon: &Daemon, body: Value) -> Result<Value, String> {
    let body = body.to_string();
    let (status, answer) = daemon.json(Method::POST, "/volumes/create", &body).await;
    match status {
        StatusCode::CREATED => Ok(answer),
        _ => Err(message(&answer).to_owned()),
    }
}

async fn list(daemon: &Daemon) -> Vec<String> {
    let (_, list) = daemon.json(Method::GET, "/volumes", "").await;
    let entries = list["Volumes"].as_array().unwrap().iter();
    let names = entries.map(|entry| entry["Name"].as_str().unwrap().to_owned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

/// On which engines a volume is.
fn holders(daemon: &Daemon, volume: &str) -> Vec<String> {
    let engines = daemon.bench.fleet.engines().iter();
    let holders = engines.filter(|engine| engine.volumes().iter().any(|name| name == volume));
    holders.map(|engine| engine.name()).collect()
}

#[tokio::test]
async fn a_container_goes_where_its_volume_driver_is() {
    let daemon = daemon(3, Copies::Explicit).await;
    let fleet = &daemon.bench.fleet;
    fleet
        .engine(2)
        .add_volume_driver(&VolumeDriver::local("disk"));
    // The manager has not heard of the driver, and the engine has not either.
    assert_eq!(
        place(&daemon, "one", &using("data", "disk")).await,
        Ok("node-2".to_owned())
    );
    let mount = json!({
        "Type": "volume", "Target": "/data", "VolumeOptions": { "DriverConfig": { "Name": "disk" } }
    });
    let body = json!({ "Image": "busybox", "HostConfig": { "Mounts": [mount] } });
    assert_eq!(
        place(&daemon, "two", &body.to_string()).await,
        Ok("node-2".to_owned())
    );
    let wrong = using("node-0/data", "disk");
    let error = place(&daemon, "three", &wrong).await.unwrap_err();
    assert_eq!(
        error,
        "Unable to find a node that satisfies the following conditions \n\
         [volume node-0/data]\n[volume driver disk]"
    );
}

#[tokio::test]
async fn a_driver_that_no_node_has_is_named_with_the_nodes_and_no_engine_is_asked() {
    let daemon = daemon(2, Copies::Explicit).await;
    let expected = "error looking up volume plugin nowhere: \
                    plugin \"nowhere\" not found on node-0, node-1";
    let error = place(&daemon, "web", &using("data", "nowhere")).await;
    assert_eq!(error.unwrap_err(), expected);
    let error = make(&daemon, json!({ "Name": "data", "Driver": "nowhere" })).await;
    assert_eq!(error.unwrap_err(), expected);
    for engine in daemon.bench.fleet.engines() {
        for route in ["POST /containers/create", "POST /volumes/create"] {
            assert_eq!(engine.requests(route), 0, "{route}");
        }
    }
}

#[tokio::test]
async fn nodes_are_not_asked_for_a_driver_by_each_request_that_needs_it() {
    let daemon = daemon(2, Copies::Explicit).await;
    let engine = daemon.bench.fleet.engine(0);
    let before = engine.requests("GET /volumes");
    let creates = (0..20).map(|number| {
        let daemon = &daemon;
        async move {
            let name = format!("web-{number}");
            place(daemon, &name, &using("data", "nowhere")).await
        }
    });
    for created in futures_util::future::join_all(creates).await {
        assert!(created.unwrap_err().contains("not found on node-0"));
    }
    let asked = engine.requests("GET /volumes") - before;
    assert!((1..20).contains(&asked), "{asked}");
}

#[tokio::test]
async fn a_driver_is_found_while_another_node_does_not_answer() {
    let bench = Bench::start_with(2, 0, |options| {
        options.request_timeout = Duration::from_secs(2);
    })
    .await;
    let daemon = Daemon::over(bench).await;
    let fleet = &daemon.bench.fleet;
    fleet
        .engine(1)
        .add_volume_driver(&VolumeDriver::local("disk"));
    fleet.engine(0).set_fault_on("GET /volumes", Fault::Hang);
    assert_eq!(
        place(&daemon, "web", &using("data", "disk")).await,
        Ok("node-1".to_owned())
    );
}

#[tokio::test]
async fn a_volume_of_one_node_keeps_its_containers_there() {
    let daemon = daemon(3, Copies::Explicit).await;
    let there = using("node-1/data", "");
    place(&daemon, "first", &there).await.unwrap();
    for name in ["second", "third"] {
        let place = place(&daemon, name, &using("data", "")).await;
        assert_eq!(place, Ok("node-1".to_owned()));
    }
    // Others do not care.
    let other = place(&daemon, "other", &using("files", "")).await;
    assert_eq!(other, Ok("node-0".to_owned()));
    // Who names a node wants a volume there.
    let prefixed = place(&daemon, "prefixed", &using("node-0/data", "")).await;
    assert_eq!(prefixed, Ok("node-0".to_owned()));
    assert_eq!(holders(&daemon, "data"), ["node-0", "node-1"]);
    let body = &daemon.bench.fleet.engine(0).create_bodies()[1];
    let sent: Value = serde_json::from_slice(body).unwrap();
    assert_eq!(sent["HostConfig"]["Binds"], json!(["data:/data"]));
}

#[tokio::test]
async fn a_container_whose_volume_is_on_a_node_that_is_down_is_refused_with_the_reason() {
    let daemon = daemon(2, Copies::Explicit).await;
    let there = using("node-1/data", "");
    place(&daemon, "first", &there).await.unwrap();
    daemon.bench.fleet.engine(1).die();
    let is_down = |_: &_| daemon.bench.status(1) == Some(Status::Unhealthy);
    daemon.bench.until("the node is unhealthy", is_down).await;
    let body = using("data", "");
    let error = place(&daemon, "second", &body).await.unwrap_err();
    assert!(error.contains("[volume data is on node-1]"), "{error}");
    let path = "/skep/explain?name=second";
    let (_, explained) = daemon.json(Method::POST, path, &body).await;
    let step = &explained["Filters"][0];
    assert_eq!(step["Filter"], "volume");
    assert_eq!(step["Conditions"], json!(["volume data is on node-1"]));
    assert_eq!(step["Refused"][0]["Name"], "node-0");
}

#[tokio::test]
async fn creates_that_arrive_together_share_the_volume_that_one_of_them_makes() {
    let daemon = daemon(3, Copies::Explicit).await;
    let creates = (0..9).map(|number| {
        let daemon = &daemon;
        async move {
            let name = format!("web-{number}");
            place(daemon, &name, &using("data", "")).await.unwrap()
        }
    });
    let places = futures_util::future::join_all(creates).await;
    assert!(places.iter().all(|place| *place == places[0]), "{places:?}");
    assert_eq!(holders(&daemon, "data"), places[..1]);
}

#[tokio::test]
async fn with_copies_on_every_node_nothing_keeps_a_container() {
    let daemon = daemon(2, Copies::EveryNode).await;
    let mut places = Vec::new();
    for name in ["one", "two"] {
        let body = using("data", "");
        places.push(place(&daemon, name, &body).await.unwrap());
    }
    places.sort();
    assert_eq!(places, ["node-0", "node-1"]);
    make(&daemon, json!({ "Name": "made" })).await.unwrap();
    assert_eq!(holders(&daemon, "made"), ["node-0", "node-1"]);
}

#[tokio::test]
async fn with_one_copy_a_volume_is_made_once_and_found_again() {
    let daemon = daemon(3, Copies::One).await;
    place(&daemon, "first", r#"{"Image":"busybox"}"#)
        .await
        .unwrap();
    let creates = (0..6).map(|_| make(&daemon, json!({ "Name": "data" })));
    for made in futures_util::future::join_all(creates).await {
        assert_eq!(made.unwrap()["Name"], "data");
    }
    // The strategy prefers an empty node.
    assert_eq!(holders(&daemon, "data"), ["node-1"]);
    let place = place(&daemon, "web", &using("data", "")).await;
    assert_eq!(place, Ok("node-1".to_owned()));
    make(&daemon, json!({ "Name": "node-2/data" }))
        .await
        .unwrap();
    assert_eq!(holders(&daemon, "data"), ["node-1", "node-2"]);
}

#[tokio::test]
async fn with_one_copy_the_volumes_of_a_compose_project_are_with_its_network() {
    let daemon = daemon(3, Copies::One).await;
    let labels = json!({ "com.docker.compose.project": "shop" });
    let body = json!({ "Name": "node-2/front", "Driver": "bridge", "Labels": labels });
    let path = "/networks/create";
    let (status, answer) = daemon.json(Method::POST, path, &body.to_string()).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    for name in ["data", "files"] {
        let order = json!({ "Name": name, "Labels": labels });
        make(&daemon, order).await.unwrap();
        assert_eq!(holders(&daemon, name), ["node-2"]);
    }
}

#[tokio::test]
async fn a_shared_volume_is_made_listed_and_removed_once() {
    let daemon = daemon(3, Copies::Explicit).await;
    let fleet = &daemon.bench.fleet;
    let driver = VolumeDriver::global("shared");
    for index in [1, 2] {
        fleet.engine(index).add_volume_driver(&driver);
    }
    let order = json!({ "Name": "data", "Driver": "shared" });
    let volume = make(&daemon, order.clone()).await.unwrap();
    assert_eq!(volume["Scope"], "global");
    let asked = |route: &str| -> u64 {
        let engines = fleet.engines().iter();
        engines.map(|engine| engine.requests(route)).sum()
    };
    assert_eq!(asked("POST /volumes/create"), 1);
    assert_eq!(list(&daemon).await, ["data"]);
    // Without a driver the volume that is there is meant, and not one of another driver.
    make(&daemon, json!({ "Name": "data" })).await.unwrap();
    assert_eq!(fleet.engine(0).requests("POST /volumes/create"), 0);
    assert_eq!(list(&daemon).await, ["data"]);

    for name in ["one", "two"] {
        let body = using("data", "");
        let place = place(&daemon, name, &body).await.unwrap();
        assert_ne!(place, "node-0");
    }
    let (status, answer) = daemon.json(Method::DELETE, "/volumes/data", "").await;
    assert_eq!(status, StatusCode::CONFLICT, "{answer}");
    assert_eq!(holders(&daemon, "data"), ["node-1", "node-2"]);
    for name in ["one", "two"] {
        let path = format!("/containers/{name}");
        let (status, answer) = daemon.json(Method::DELETE, &path, "").await;
        assert_eq!(status, StatusCode::NO_CONTENT, "{answer}");
    }
    let (status, answer) = daemon.json(Method::DELETE, "/volumes/data", "").await;
    assert_eq!(status, StatusCode::NO_CONTENT, "{answer}");
    assert!(list(&daemon).await.is_empty());
}

#[tokio::test]
async fn a_volume_of_a_local_driver_is_made_on_every_node_that_has_it() {
    let daemon = daemon(3, Copies::Explicit).await;
    for index in [0, 2] {
        let engine = daemon.bench.fleet.engine(index);
        engine.add_volume_driver(&VolumeDriver::local("disk"));
    }
    let order = json!({ "Name": "data", "Driver": "disk" });
    make(&daemon, order).await.unwrap();
    assert_eq!(list(&daemon).await, ["node-0/data", "node-2/data"]);
}

#[tokio::test]
async fn what_some_nodes_cannot_make_stays_on_none() {
    let daemon = daemon(3, Copies::Explicit).await;
    make(&daemon, json!({ "Name": "node-2/data" }))
        .await
        .unwrap();
    daemon.bench.fleet.engine(0).set_fault_on(
        "POST /volumes/create",
        Fault::Error500("disk full".to_owned()),
    );
    let error = make(&daemon, json!({ "Name": "data" })).await.unwrap_err();
    assert_eq!(error, "node-0: disk full");
    assert_eq!(list(&daemon).await, ["node-2/data"]);
    assert_eq!(holders(&daemon, "data"), ["node-2"]);
}

#[tokio::test]
async fn a_volume_that_one_node_uses_stays_on_all() {
    let daemon = daemon(2, Copies::Explicit).await;
    make(&daemon, json!({ "Name": "data" })).await.unwrap();
    let there = using("node-1/data", "");
    place(&daemon, "web", &there).await.unwrap();
    let (status, answer) = daemon.json(Method::DELETE, "/volumes/data", "").await;
    assert_eq!(status, StatusCode::CONFLICT);
    let text = message(&answer);
    assert!(
        text.starts_with("node-1: remove data: volume is in use"),
        "{text}"
    );
    assert_eq!(holders(&daemon, "data"), ["node-0", "node-1"]);
}
