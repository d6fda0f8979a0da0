use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt as _, path::Path};

use hyper::client::conn::http1 as client;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::Notify,
    task::JoinHandle,
};

use super::*;
use crate::volume::{
    Driver,
    double::{Double, Step},
    ledger::Ledger,
    service::Limits,
};

/// A driver that is served.
struct Served {
    double: Arc<Double>,
    directory: tempfile::TempDir,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
}

fn service(double: &Arc<Double>, directory: &Path) -> Service {
    let driver: Arc<dyn Driver> = Arc::clone(double) as _;
    let ledger = Ledger::open(&directory.join("mounts")).unwrap();
    Service::try_new(driver, ledger, Limits::default()).unwrap()
}

fn options(directory: &Path) -> Options {
    Options {
        directory: directory.join("plugins"),
        ..Options::default()
    }
}

impl Served {
    fn start() -> Self {
        Self::start_with(|_| {})
    }

    fn start_with(change: impl FnOnce(&mut Options)) -> Self {
        let double = Double::new();
        let directory = tempfile::tempdir().unwrap();
        let mut options = options(directory.path());
        change(&mut options);
        let endpoints = bind(vec![service(&double, directory.path())], options).unwrap();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(endpoints.serve(shutdown.clone()));
        Self {
            double,
            directory,
            shutdown,
            serving,
        }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("plugins/double.sock")
    }

    /// Calls as dockerd does: no type, and a body that ends with a line.
    async fn call(&self, path: &str, body: Value) -> (u16, Value) {
        let request = Request::post(format!("/{path}"))
            .header(header::HOST, "plugin.moby.localhost")
            .header(header::ACCEPT, "application/vnd.docker.plugins.v1.2+json")
            .body(Full::from(format!("{body}\n")))
            .unwrap();
        self.send(request).await
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> (u16, Value) {
        let stream = UnixStream::connect(self.socket()).await.unwrap();
        let (mut sender, connection) = client::handshake(TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let response = sender.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        let media_type = response.headers()[header::CONTENT_TYPE].to_str().unwrap();
        assert_eq!(media_type, "application/vnd.docker.plugins.v1.2+json");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        connection.abort();
        (status, serde_json::from_slice(&body).unwrap())
    }

    /// Checks a call that is answered well.
    async fn check(&self, path: &str, body: Value, expected: Value) {
        assert_eq!(self.call(path, body).await, (200, expected), "{path}");
    }
}

#[tokio::test]
async fn a_driver_speaks_dockers_protocol() {
    let served = Served::start();
    let activated = Request::post("/Plugin.Activate").body(Full::default());
    let (status, answer) = served.send(activated.unwrap()).await;
    assert_eq!(
        (status, answer),
        (200, json!({ "Implements": ["VolumeDriver"] }))
    );
    let local = json!({ "Capabilities": { "Scope": "local" }, "Err": "" });
    served
        .check("VolumeDriver.Capabilities", json!({}), local)
        .await;
    let none = json!({ "Volumes": [], "Err": "" });
    served
        .check("VolumeDriver.List", json!({}), none.clone())
        .await;

    let done = json!({ "Err": "" });
    let data = json!({ "Name": "data" });
    let create = json!({ "Name": "data", "Opts": { "size": "1g" } });
    served
        .check("VolumeDriver.Create", create, done.clone())
        .await;
    let mut volume = json!({
        "Name": "data",
        "Mountpoint": "",
        "CreatedAt": "1970-01-02T00:00:00Z",
        "Status": { "size": "1g" },
    });
    let get = json!({ "Volume": volume, "Err": "" });
    served.check("VolumeDriver.Get", data.clone(), get).await;

    let user = json!({ "Name": "data", "ID": "0123abcd" });
    let mounted = json!({ "Mountpoint": "/mnt/data", "Err": "" });
    served
        .check("VolumeDriver.Mount", user.clone(), mounted.clone())
        .await;
    served
        .check("VolumeDriver.Path", data.clone(), mounted)
        .await;
    volume["Mountpoint"] = "/mnt/data".into();
    let list = json!({ "Volumes": [volume], "Err": "" });
    served.check("VolumeDriver.List", json!({}), list).await;
    let (status, answer) = served.call("VolumeDriver.Remove", data.clone()).await;
    assert_eq!(
        (status, answer),
        (500, json!({ "Err": "volume is in use" }))
    );

    served
        .check("VolumeDriver.Unmount", user, done.clone())
        .await;
    let nowhere = json!({ "Mountpoint": "", "Err": "" });
    served
        .check("VolumeDriver.Path", data.clone(), nowhere)
        .await;
    served
        .check("VolumeDriver.Remove", data.clone(), done.clone())
        .await;
    served.check("VolumeDriver.List", json!({}), none).await;
    for call in ["Get", "Path"] {
        let (status, answer) = served
            .call(&format!("VolumeDriver.{call}"), data.clone())
            .await;
        assert_eq!((status, answer), (500, json!({ "Err": "no such volume" })));
    }
    // What engines send that have no options to send.
    let create = json!({ "Name": "data", "Opts": null });
    served.check("VolumeDriver.Create", create, done).await;
}

#[tokio::test]
async fn what_is_no_call_is_refused() {
    let served = Served::start();
    let post = |path: &str| Request::post(path.to_owned());
    let check = async |request: Request<Full<Bytes>>, expected: u16, text: &str| {
        let (status, answer) = served.send(request).await;
        assert_eq!(status, expected, "{answer}");
        let answer = answer["Err"].as_str().unwrap().to_owned();
        assert!(answer.contains(text), "{answer}");
    };
    let body = Full::from(r#"{"Name":"data"}"#);

    let request = post("/VolumeDriver.Snapshot").body(body.clone()).unwrap();
    check(request, 404, "no such call: `/VolumeDriver.Snapshot`").await;
    let request = Request::get("/VolumeDriver.List")
        .body(body.clone())
        .unwrap();
    check(request, 405, "POST").await;
    let request = post("/VolumeDriver.Get")
        .header(header::CONTENT_TYPE, "text/plain")
        .body(body)
        .unwrap();
    check(request, 415, "application/vnd.docker.plugins.v1.2+json").await;

    for body in ["", "{", "[]", r#"{"ID":"a"}"#, r#"{"Name":7}"#] {
        let request = post("/VolumeDriver.Mount").body(Full::from(body)).unwrap();
        check(request, 400, "cannot read the request: ").await;
    }
    let request = post("/VolumeDriver.Create").body(Full::from(r#"{"Name":"../etc"}"#));
    check(request.unwrap(), 400, "`../etc` is no name of a volume").await;
    let request = post("/VolumeDriver.Mount").body(Full::from(r#"{"Name":"data"}"#));
    check(request.unwrap(), 400, "needs an ID").await;

    let big = format!(r#"{{"Name":"{}"}}"#, "x".repeat(MAX_BODY_BYTES));
    let request = post("/VolumeDriver.Get").body(Full::from(big)).unwrap();
    check(request, 413, "1048576 bytes").await;
    assert_eq!(served.double.asked(), [""; 0]);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let served = Served::start_with(|options| {
        options.request_timeout = Duration::from_millis(500);
    });
    let mut stream = UnixStream::connect(served.socket()).await.unwrap();
    let head = b"POST /VolumeDriver.Get HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");

    // Neither is a head.
    let mut stream = UnixStream::connect(served.socket()).await.unwrap();
    stream.write_all(b"POST /Volume").await.unwrap();
    stream.read_to_end(&mut Vec::new()).await.unwrap();
}

#[tokio::test]
async fn an_engine_is_told_from_the_one_before() {
    let us = i32::try_from(std::process::id()).unwrap();
    let identity = engine::identity(us).unwrap();
    assert!(identity.starts_with(&format!("{us}:")), "{identity}");
    assert_eq!(engine::identity(0), None);

    let served = Served::start();
    let data = json!({ "Name": "data", "ID": "a" });
    served.call("Plugin.Activate", json!({})).await;
    served.call("VolumeDriver.Create", data.clone()).await;
    served.call("VolumeDriver.Mount", data.clone()).await;
    served.call("Plugin.Activate", json!({})).await;
    let (status, _) = served.call("VolumeDriver.Remove", data).await;
    assert_eq!(status, 500, "the process is the same");
}

#[tokio::test]
async fn a_socket_is_roots_alone_and_goes_with_the_agent() {
    let served = Served::start();
    let socket = served.socket();
    assert_eq!(fs::metadata(&socket).unwrap().mode() & 0o777, 0o600);
    served.shutdown.cancel();
    served.serving.await.unwrap();
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_socket_is_taken_from_nobody() {
    let served = Served::start();
    let bind_again = || {
        let double = Double::new();
        let other = tempfile::tempdir().unwrap();
        let service = service(&double, other.path());
        bind(vec![service], options(served.directory.path())).map(drop)
    };
    let error = bind_again().unwrap_err().to_string();
    let socket = served.socket();
    let expected = format!(
        "volume driver `double` is served by another process on `{}`",
        socket.display()
    );
    assert_eq!(error, expected);
    let list = served.call("VolumeDriver.List", json!({})).await;
    assert_eq!(list.0, 200);

    served.shutdown.cancel();
    served.serving.await.unwrap();
    fs::write(&socket, "precious").unwrap();
    let error = bind(
        vec![service(&served.double, served.directory.path())],
        options(served.directory.path()),
    );
    assert!(matches!(error, Err(BindError::Socket { .. })));
    assert_eq!(fs::read_to_string(&socket).unwrap(), "precious");
    fs::remove_file(&socket).unwrap();

    // One whose process was killed.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let bound = bind(
        vec![service(&served.double, served.directory.path())],
        options(served.directory.path()),
    );
    assert!(bound.is_ok());
}

#[tokio::test]
async fn a_call_that_is_under_way_at_shutdown_is_answered() {
    let served = Served::start();
    let data = json!({ "Name": "data", "ID": "a" });
    served.call("VolumeDriver.Create", data.clone()).await;
    let go = Arc::new(Notify::new());
    served.double.next("mount", Step::Waits(Arc::clone(&go)));
    let mounting = served.call("VolumeDriver.Mount", data);
    let ending = async {
        while !served.double.asked().contains(&"mount data".to_owned()) {
            tokio::task::yield_now().await;
        }
        served.shutdown.cancel();
        go.notify_one();
    };
    let ((status, answer), ()) = tokio::join!(mounting, ending);
    assert_eq!((status, &answer["Mountpoint"]), (200, &json!("/mnt/data")));
    served.serving.await.unwrap();
}

#[tokio::test]
async fn a_driver_that_hangs_does_not_keep_the_agent() {
    let served = Served::start_with(|options| options.grace_period = Duration::from_millis(10));
    served.double.next("create", Step::HangsBefore);
    let mut stream = UnixStream::connect(served.socket()).await.unwrap();
    let body = r#"{"Name":"data"}"#;
    let request = format!(
        "POST /VolumeDriver.Create HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    while served.double.asked().is_empty() {
        tokio::task::yield_now().await;
    }
    served.shutdown.cancel();
    served.serving.await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, [0; 0]);
}

#[tokio::test]
async fn connections_are_bounded() {
    let served = Served::start_with(|options| options.max_connections = 1);
    let first = UnixStream::connect(served.socket()).await.unwrap();
    let second = served.call("VolumeDriver.List", json!({}));
    let mut second = std::pin::pin!(second);
    // Accepted or not, it is not answered before the first one goes.
    for _ in 0..100 {
        assert!(futures_util::poll!(second.as_mut()).is_pending());
        tokio::task::yield_now().await;
    }
    drop(first);
    assert_eq!(second.await.0, 200);
}

#[tokio::test]
async fn what_an_agent_left_is_put_right_at_start() {
    let double = Double::new();
    let directory = tempfile::tempdir().unwrap();
    let killed = service(&double, directory.path());
    killed.create("kept", BTreeMap::new()).await.unwrap();
    killed.create("lost", BTreeMap::new()).await.unwrap();
    killed.mount("kept", "a").await.unwrap();
    double.next("mount", Step::Traps);
    killed.mount("lost", "b").await.unwrap_err();
    assert_eq!(double.mounted(), ["kept", "lost"]);
    double.asked();

    let shutdown = CancellationToken::new();
    let services = vec![service(&double, directory.path())];
    let serving = serve(services, options(directory.path()), shutdown.clone());
    let ending = async {
        while double.mounted() != ["kept"] {
            tokio::task::yield_now().await;
        }
        shutdown.cancel();
    };
    let (served, ()) = tokio::join!(serving, ending);
    served.unwrap();
    assert_eq!(double.mounted(), ["kept"]);
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let double = Double::new();
    let service = service(&double, directory.path());
    fs::write(directory.path().join("plugins"), "").unwrap();
    let error = bind(vec![service], options(directory.path())).map(drop);
    assert!(
        matches!(error, Err(BindError::Directory { .. })),
        "{error:?}"
    );
}
