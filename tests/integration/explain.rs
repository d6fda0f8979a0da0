//! Why containers go where they go, as `/skep/explain` tells it.

use http::{Method, StatusCode};
use serde_json::{Value, json};
use skep::engine::health::Status;

use crate::{api::Daemon, cluster::BODY};

fn names(list: &Value) -> Vec<&str> {
    let list = list.as_array().unwrap().iter();
    list.map(|node| node["Name"].as_str().unwrap()).collect()
}

async fn explain(daemon: &Daemon, method: Method, path: &str, body: &str) -> Value {
    let (status, explanation) = daemon.json(method, path, body).await;
    assert_eq!(status, StatusCode::OK, "{explanation}");
    explanation
}

#[tokio::test]
async fn a_create_is_explained_and_not_made() {
    let daemon = Daemon::start(3).await;
    let engines = daemon.bench.fleet.engines();
    let all: Vec<String> = engines.iter().map(|engine| engine.name()).collect();
    engines[0].die();
    let is_down = |_: &_| daemon.bench.status(0) == Some(Status::Unhealthy);
    daemon.bench.until("the node is unhealthy", is_down).await;
    let explained = explain(&daemon, Method::POST, "/skep/explain?name=web", BODY).await;
    assert_eq!(explained["Chosen"]["Name"], all[1]);
    assert_eq!(explained["Chosen"]["Addr"], engines[1].addr().to_string());
    assert_eq!(explained["Error"], Value::Null);
    assert_eq!(names(&explained["Ranking"]), all[1..]);
    let [step] = &explained["Filters"].as_array().unwrap()[..] else {
        panic!("{explained}");
    };
    assert_eq!(step["Filter"], "health");
    assert_eq!(names(&step["Refused"]), all[..1]);
    assert_eq!(
        (&step["Soft"], &step["Dropped"]),
        (&json!(false), &json!(false))
    );
    assert_eq!(
        engines[1].containers().len() + engines[2].containers().len(),
        0
    );

    daemon.bench.create("web", BODY).await.unwrap();
    let path = "/skep/explain?name=web";
    let (status, refused) = daemon.json(Method::POST, path, BODY).await;
    assert_eq!(status, StatusCode::CONFLICT, "{refused}");
}

#[tokio::test]
async fn a_container_is_explained_as_if_it_were_not_there() {
    let daemon = Daemon::start(2).await;
    for name in ["web-1", "web-2"] {
        daemon.bench.create(name, BODY).await.unwrap();
    }
    for name in ["web-1", "web-2"] {
        let own = daemon.bench.cluster.snapshot().container(name).unwrap();
        let path = format!("/skep/explain?container={name}");
        let explained = explain(&daemon, Method::GET, &path, "").await;
        // Without itself its node has the fewest.
        assert_eq!(
            explained["Chosen"]["Name"],
            own.node.inventory.name(),
            "{name}"
        );
    }
    // Nothing is left of the questions.
    for name in ["web-3", "web-4"] {
        daemon.bench.create(name, BODY).await.unwrap();
    }
    for engine in daemon.bench.fleet.engines() {
        assert_eq!(engine.containers().len(), 2);
    }
}

#[tokio::test]
async fn what_cannot_be_explained_is_refused_with_the_reason() {
    let daemon = Daemon::start(1).await;
    for (method, path, body, wanted, reason) in [
        (
            Method::GET,
            "/skep/explain",
            "",
            StatusCode::BAD_REQUEST,
            "`container` is missing",
        ),
        (
            Method::GET,
            "/skep/explain?container=x",
            "",
            StatusCode::NOT_FOUND,
            "x",
        ),
        (
            Method::POST,
            "/skep/explain",
            "no",
            StatusCode::BAD_REQUEST,
            "invalid JSON",
        ),
        (
            Method::DELETE,
            "/skep/explain",
            "",
            StatusCode::NOT_FOUND,
            "not found",
        ),
    ] {
        let (status, answer) = daemon.json(method, path, body).await;
        assert_eq!(status, wanted, "{path}: {answer}");
        assert!(
            answer["message"].as_str().unwrap().contains(reason),
            "{path}: {answer}"
        );
    }
    daemon.bench.fleet.engine(0).die();
    let is_down = |_: &_| daemon.bench.status(0) == Some(Status::Unhealthy);
    daemon.bench.until("the node is unhealthy", is_down).await;
    let explained = explain(&daemon, Method::POST, "/skep/explain", BODY).await;
    assert_eq!(explained["Chosen"], Value::Null);
    let error = explained["Error"].as_str().unwrap();
    assert!(error.starts_with("Unable to find a node"), "{error}");
}
