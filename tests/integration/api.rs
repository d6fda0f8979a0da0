//! The Docker API over HTTP, as clients see it.

use std::{net::SocketAddr, num::NonZeroUsize, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use skep::{
    api::{self, Listener},
    engine::{
        pool::Pool,
        transport::{Fence, Limits, Transport, full},
    },
    tls,
};
use skep_fleet::Fault;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::cluster::{Bench, PATIENCE};

/// The API over a cluster over a fleet.
pub struct Daemon {
    pub bench: Bench,
    pub addr: SocketAddr,
    client: Transport,
    shutdown: CancellationToken,
    served: JoinHandle<()>,
}

impl Daemon {
    pub async fn start(engines: usize) -> Self {
        let bench = Bench::start(engines, 0).await;
        Self::over(bench).await
    }

    /// Serves the API of `bench` on a plain socket.
    pub async fn over(bench: Bench) -> Self {
        Self::listening(bench, Listener::Tcp, None, |_| {}).await
    }

    /// Serves the API of `bench`, with the socket that `listener` makes; `tls` is the client's.
    pub async fn listening(
        bench: Bench,
        listener: impl FnOnce(TcpListener) -> Listener,
        tls: Option<tls::Client>,
        change: impl FnOnce(&mut api::Options),
    ) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = socket.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let mut options = api::Options {
            cors: false,
            max_body_bytes: 1024 * 1024,
            grace_period: Duration::from_millis(200),
            max_connections: NonZeroUsize::new(1000).unwrap(),
            head_timeout: PATIENCE,
            idle_timeout: PATIENCE,
            experimental: false,
            refresh_on_node_filter: false,
            refresh_name_filter: String::new(),
            peers: api::PeerOptions::default(),
            tokens: None,
        };
        change(&mut options);
        let served = tokio::spawn(api::serve(
            vec![listener(socket)],
            bench.cluster.clone(),
            options,
            shutdown.clone(),
        ));
        let limits = Limits::new(PATIENCE, 100, 8);
        let client = Transport::with_tls(
            addr.to_string().parse().unwrap(),
            &limits,
            tls,
            Fence::default(),
            &Pool::default(),
        );
        Self {
            bench,
            addr,
            client,
            shutdown,
            served,
        }
    }

    pub async fn open(&self, method: Method, path: &str, body: &str) -> Response<Incoming> {
        let mut request = Request::new(full(body.to_owned()));
        *request.method_mut() = method;
        self.client.send(request, path).await.unwrap()
    }

    async fn call(&self, method: Method, path: &str, body: &str) -> (StatusCode, HeaderMap, Bytes) {
        let exchange = async {
            let (head, body) = self.open(method, path, body).await.into_parts();
            (head.status, head.headers, body.collect().await.unwrap())
        };
        let (status, headers, body) = tokio::time::timeout(PATIENCE, exchange).await.unwrap();
        (status, headers, body.to_bytes())
    }

    pub async fn json(&self, method: Method, path: &str, body: &str) -> (StatusCode, Value) {
        let (status, _, body) = self.call(method, path, body).await;
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    /// Attaches to container `web`, says something, ends the input, and returns the output.
    pub async fn attach_and_say(&self, input: &[u8]) -> Vec<u8> {
        let mut request = Request::new(full(""));
        *request.method_mut() = Method::POST;
        for (name, value) in [("connection", "Upgrade"), ("upgrade", "tcp")] {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let path = "/v1.41/containers/web/attach?stream=1&stdin=1&stdout=1";
        let mut response = self.client.send(request, path).await.unwrap();
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(response.headers()["upgrade"], "tcp");
        let mut stream = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
        stream.write_all(input).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut read = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut read))
            .await
            .expect("the engine ends the stream once its input has ended")
            .unwrap();
        read
    }

    pub async fn text(&self, method: Method, path: &str) -> (StatusCode, String) {
        let (status, _, body) = self.call(method, path, "").await;
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    pub async fn run(&self, name: &str) -> String {
        let path = format!("/v1.41/containers/create?name={name}");
        let (status, created) = self.json(Method::POST, &path, BODY).await;
        assert_eq!(status, StatusCode::CREATED, "{created}");
        let path = format!("/v1.41/containers/{name}/start");
        let (status, refusal) = self.json(Method::POST, &path, "").await;
        assert_eq!(status, StatusCode::NO_CONTENT, "{refusal}");
        created["Id"].as_str().unwrap().to_owned()
    }
}

const BODY: &str = r#"{"Image":"busybox","Cmd":["sleep","1000"],"OpenStdin":true,"StdinOnce":true,"Future":{"a":[1]}}"#;

pub fn message(answer: &Value) -> &str {
    answer["message"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn members_of_a_create_that_nobody_knows_reach_the_engine() {
    let daemon = Daemon::start(1).await;
    daemon.run("web").await;
    let body = daemon.bench.fleet.engine(0).create_bodies().remove(0);
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["Future"], json!({"a": [1]}));
}

#[tokio::test]
async fn a_started_container_is_listed_and_inspected_with_its_node() {
    let daemon = Daemon::start(2).await;
    let id = daemon.run("web").await;
    let (_, list) = daemon.json(Method::GET, "/containers/json", "").await;
    let node = daemon.bench.fleet.engine(0).name();
    assert_eq!(list[0]["Names"], json!([format!("/{node}/web")]));
    assert_eq!(list[0]["State"], "running");
    let path = format!("/containers/{node}/web/json");
    let (_, document) = daemon.json(Method::GET, &path, "").await;
    assert_eq!(document["Id"], id);
    assert_eq!(document["Node"]["Name"], node);
    let (_, _, _) = daemon
        .call(Method::POST, "/containers/web/stop?t=0", "")
        .await;
    let (_, list) = daemon.json(Method::GET, "/containers/json", "").await;
    assert_eq!(list, json!([]), "a stopped container is not shown any more");
}

#[tokio::test]
async fn names_that_look_like_parts_of_a_path_work() {
    let daemon = Daemon::start(1).await;
    for name in ["con", "v1", "containers", "json", "exec"] {
        daemon.run(name).await;
        let path = format!("/v1.41/containers/{name}/logs?stdout=1");
        let (status, _, _) = daemon.call(Method::GET, &path, "").await;
        assert_eq!(status, StatusCode::OK, "{name}");
        let path = format!("/containers/{name}?force=1");
        let (status, _, _) = daemon.call(Method::DELETE, &path, "").await;
        assert_eq!(status, StatusCode::NO_CONTENT, "{name}");
    }
}

#[tokio::test]
async fn every_answer_has_one_api_version() {
    let daemon = Daemon::start(1).await;
    daemon.run("web").await;
    for path in ["/_ping", "/info", "/containers/web/top", "/nothing"] {
        let (_, headers, _) = daemon.call(Method::GET, path, "").await;
        assert_eq!(headers.get_all("api-version").iter().count(), 1, "{path}");
        assert_eq!(headers["ostype"], "linux", "{path}");
    }
}

// The words are those of an engine 20.10.
#[tokio::test]
async fn versions_that_not_every_engine_speaks_are_refused() {
    let daemon = Daemon::start(1).await;
    for (path, refusal) in [
        (
            "/v1.99/info",
            "client version 1.99 is too new. Maximum supported API version is 1.41",
        ),
        (
            "/v1.99999999999/_ping",
            "client version 1.99999999999 is too new. Maximum supported API version is 1.41",
        ),
        (
            "/v1.12/containers/json",
            "client version 1.12 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version",
        ),
    ] {
        let (status, answer) = daemon.json(Method::GET, path, "").await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}");
        assert_eq!(answer["message"], refusal, "{path}");
    }
    for path in ["/v1.24/info", "/v1.41/info", "/info"] {
        let (status, _) = daemon.json(Method::GET, path, "").await;
        assert_eq!(status, StatusCode::OK, "{path}");
    }
    let (_, answer) = daemon.json(Method::GET, "/version", "").await;
    assert_eq!(
        (&answer["ApiVersion"], &answer["MinAPIVersion"]),
        (&json!("1.41"), &json!("1.24"))
    );
}

#[tokio::test]
async fn what_is_not_there_says_so() {
    let daemon = Daemon::start(1).await;
    for (method, path, status, text) in [
        (
            Method::POST,
            "/plugins/pull",
            501,
            "POST /plugins/pull is not supported yet",
        ),
        (Method::GET, "/nothing", 404, "page not found"),
        (
            Method::GET,
            "/images/viz",
            501,
            "Not supported in clustering mode.",
        ),
        (
            Method::GET,
            "/containers/x/logs",
            404,
            "No such container: x",
        ),
        (
            Method::DELETE,
            "/containers/x",
            404,
            "Container x not found",
        ),
        (Method::GET, "/exec/x/json", 404, "Exec x not found"),
    ] {
        let (actual, answer) = daemon.json(method, path, "").await;
        assert_eq!(
            (actual.as_u16(), message(&answer)),
            (status, text),
            "{path}"
        );
    }
}

#[tokio::test]
async fn an_engine_keeps_its_status_and_its_words() {
    let daemon = Daemon::start(1).await;
    daemon.run("web").await;
    let (status, answer) = daemon.json(Method::DELETE, "/containers/web", "").await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(message(&answer).contains("running container"), "{answer}");
}

#[tokio::test]
async fn an_attached_client_may_end_its_input_and_still_reads() {
    let daemon = Daemon::start(1).await;
    daemon.run("web").await;
    assert_eq!(
        daemon.attach_and_say(b"hello").await,
        b"\x01\0\0\0\0\0\0\x05hello"
    );
}

#[tokio::test]
async fn logs_follow_and_end_with_the_client() {
    let daemon = Daemon::start(1).await;
    daemon.run("web").await;
    let engine = daemon.bench.fleet.engine(0);
    let path = "/containers/web/logs?stdout=1&follow=1";
    let mut logs = daemon.open(Method::GET, path, "").await;
    assert!(engine.write_output("web", "one\n"));
    let frame = tokio::time::timeout(PATIENCE, logs.body_mut().frame()).await;
    let data = frame.unwrap().unwrap().unwrap().into_data().unwrap();
    assert!(data.ends_with(b"one\n"));
    let open = engine.open_connections();
    drop(logs);
    tokio::time::timeout(PATIENCE, engine.wait_for(|e| e.open_connections() < open))
        .await
        .expect("the request to the engine ends with the client's");
}

#[tokio::test]
async fn a_stream_whose_engine_dies_does_not_end_cleanly() {
    let daemon = Daemon::start(1).await;
    daemon.run("web").await;
    let logs = daemon
        .open(Method::GET, "/containers/web/logs?stdout=1&follow=1", "")
        .await;
    daemon.bench.fleet.engine(0).die();
    let ended = tokio::time::timeout(PATIENCE, logs.into_body().collect()).await;
    assert!(ended.expect("the stream ends").is_err());
}

#[tokio::test]
async fn an_engine_that_hangs_does_not_hold_up_the_others() {
    let daemon = Daemon::start(2).await;
    daemon.run("one").await;
    daemon.run("two").await;
    let name = daemon.bench.fleet.engine(0).name();
    daemon.bench.fleet.engine(0).set_fault(Fault::Hang);
    let (_, list) = daemon.json(Method::GET, "/containers/json?all=1", "").await;
    assert_eq!(list.as_array().unwrap().len(), 2);
    for entry in list.as_array().unwrap() {
        let full_name = entry["Names"][0].as_str().unwrap();
        if !full_name.starts_with(&format!("/{name}/")) {
            let path = format!("/containers{full_name}/json");
            let (status, _) = daemon.json(Method::GET, &path, "").await;
            assert_eq!(status, StatusCode::OK);
        }
    }
}

#[tokio::test]
async fn an_event_tells_its_node_and_comes_after_the_list_shows_it() {
    let daemon = Daemon::start(2).await;
    let filters = "/events?filters=%7B%22event%22%3A%5B%22start%22%5D%7D";
    let mut events = daemon.open(Method::GET, filters, "").await;
    let id = daemon.run("web").await;
    let frame = tokio::time::timeout(PATIENCE, events.body_mut().frame()).await;
    let line = frame.unwrap().unwrap().unwrap().into_data().unwrap();
    assert!(line.ends_with(b"}\n"));
    let event: Value = serde_json::from_slice(&line).unwrap();
    let node = daemon.bench.fleet.engine(0).name();
    assert_eq!(event["id"], id);
    assert_eq!(event["from"], format!("busybox node:{node}"));
    assert_eq!(event["Actor"]["Attributes"]["node.name"], node);
    assert_eq!(event["node"]["Name"], node);
    let (_, list) = daemon.json(Method::GET, "/containers/json", "").await;
    assert_eq!(list[0]["Id"], id);
}

#[tokio::test]
async fn shutdown_cuts_streams_after_the_grace_period() {
    let mut daemon = Daemon::start(1).await;
    daemon.run("web").await;
    let logs = daemon
        .open(Method::GET, "/containers/web/logs?stdout=1&follow=1", "")
        .await;
    daemon.shutdown.cancel();
    tokio::time::timeout(PATIENCE, &mut daemon.served)
        .await
        .expect("serving ends")
        .unwrap();
    assert!(logs.into_body().collect().await.is_err());
    assert!(tokio::net::TcpStream::connect(daemon.addr).await.is_err());
}

#[tokio::test]
async fn bollard_runs_a_command_in_a_container() {
    use bollard::{Docker, exec::StartExecResults, models::ExecConfig};
    use futures_util::TryStreamExt;

    let daemon = Daemon::start(1).await;
    daemon.run("web").await;
    let url = format!("http://{}", daemon.addr);
    let docker = Docker::connect_with_http(&url, 30, bollard::API_DEFAULT_VERSION)
        .unwrap()
        .negotiate_version()
        .await
        .unwrap();
    let list = docker.list_containers(None).await.unwrap();
    assert_eq!(list.len(), 1);
    let config = ExecConfig {
        attach_stdout: Some(true),
        cmd: Some(vec!["echo".to_owned(), "hello".to_owned()]),
        ..ExecConfig::default()
    };
    let exec = docker.create_exec("web", config).await.unwrap();
    let started = docker.start_exec(&exec.id, None).await.unwrap();
    let StartExecResults::Attached { output, .. } = started else {
        panic!("the exec is not attached");
    };
    let output: Vec<_> = output.try_collect().await.unwrap();
    assert_eq!(output.len(), 1);
    assert_eq!(output[0].clone().into_bytes(), "hello\n");
    let version = docker.version().await.unwrap();
    assert!(version.version.unwrap().starts_with("swarm/"));
}

#[tokio::test]
async fn only_routes_of_the_docker_api_are_not_supported_yet() {
    let daemon = Daemon::start(1).await;
    for (method, path) in [
        (Method::PUT, "/v1.41/info"),
        (Method::POST, "/version"),
        (Method::GET, "/build"),
        (Method::DELETE, "/containers/json"),
        (Method::GET, "/containers/web/stop"),
        (Method::GET, "/swarm/nonsense"),
    ] {
        let (status, _) = daemon.json(method.clone(), path, "").await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{method} {path}");
    }
    let (status, answer) = daemon.json(Method::POST, "/v1.41/plugins/create", "").await;
    assert_eq!(status, StatusCode::NOT_IMPLEMENTED);
    assert_eq!(
        message(&answer),
        "POST /plugins/create is not supported yet"
    );
}

// U-API-1
#[tokio::test]
async fn browsers_of_other_origins_are_answered_if_that_is_wanted() {
    for cors in [true, false] {
        let bench = Bench::start(1, 0).await;
        let daemon = Daemon::listening(bench, Listener::Tcp, None, |options| {
            options.cors = cors;
        })
        .await;
        let (status, headers, _) = daemon.call(Method::OPTIONS, "/version", "").await;
        let expected = if cors {
            StatusCode::OK
        } else {
            StatusCode::NOT_FOUND
        };
        assert_eq!(status, expected);
        assert_eq!(headers.contains_key("access-control-allow-origin"), cors);
        let (_, _, body) = daemon.call(Method::GET, "/_ping", "").await;
        assert_eq!(body, "OK");
    }
}

#[tokio::test]
async fn nodes_are_asked_anew_before_a_list_if_that_is_wanted() {
    let bench = Bench::start(2, 0).await;
    let daemon = Daemon::listening(bench, Listener::Tcp, None, |options| {
        options.refresh_on_node_filter = true;
        options.refresh_name_filter = "fresh".to_owned();
    })
    .await;
    daemon.run("web").await;
    let engine = daemon
        .bench
        .fleet
        .engines()
        .iter()
        .find(|engine| engine.container("web").is_some())
        .unwrap();
    let list = async |name: &str, value: &str| {
        let filters = format!("%7B%22{name}%22%3A%5B%22{value}%22%5D%7D");
        let path = format!("/containers/json?all=1&filters={filters}");
        let (status, list) = daemon.json(Method::GET, &path, "").await;
        assert_eq!(status, StatusCode::OK, "{list}");
        list.as_array().unwrap().len()
    };
    // No event tells of it.
    assert!(engine.remove_silently("web"));
    assert_eq!(list("name", "web").await, 1);
    assert_eq!(list("node", engine.name().as_str()).await, 0);

    daemon.run("fresh").await;
    let engines = daemon.bench.fleet.engines();
    assert!(engines.iter().any(|engine| engine.remove_silently("fresh")));
    assert_eq!(list("name", "fresh").await, 0);
}

#[tokio::test]
async fn sizes_are_asked_of_the_engines_that_answer() {
    let daemon = Daemon::start(2).await;
    daemon.run("one").await;
    daemon.run("two").await;
    let (status, list) = daemon
        .json(Method::GET, "/v1.41/containers/json?all=1&size=1", "")
        .await;
    assert_eq!(status, StatusCode::OK, "{list}");
    for entry in list.as_array().unwrap() {
        assert_eq!(entry["SizeRw"], 4096, "{entry}");
        assert!(entry["Names"][0].as_str().unwrap().len() > 2);
    }
    daemon.bench.fleet.engine(1).set_fault_on(
        "GET /containers/json",
        Fault::Error500("no sizes".to_owned()),
    );
    let (_, list) = daemon
        .json(Method::GET, "/v1.41/containers/json?all=1&size=1", "")
        .await;
    let sizes: Vec<_> = list.as_array().unwrap().iter().collect();
    assert_eq!(sizes.len(), 2);
    assert_eq!(
        sizes.iter().filter(|e| e["SizeRw"] == 4096).count(),
        1,
        "{list}"
    );
}
