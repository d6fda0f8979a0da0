//! Clients that are broken, careless, or hostile.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Handle,
    time::Instant,
};

use crate::{
    api::{Daemon, message},
    cluster::{Bench, PATIENCE},
};

const ATTACH: &[u8] = b"POST /containers/web/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\n\
Host: a\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";

impl Daemon {
    /// Sends bytes as they are on a connection of their own.
    async fn raw(&self, bytes: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        // The daemon may have answered and closed before all was sent.
        let _ = stream.write_all(bytes).await;
        stream
    }

    /// Sends bytes as they are and returns the status of the answer, and all of its text.
    async fn exchange(&self, bytes: &[u8]) -> (u16, String) {
        let mut stream = self.raw(bytes).await;
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        // A reset after the answer is as good as an end.
        let _ = tokio::time::timeout(PATIENCE, read)
            .await
            .expect("the connection ends");
        let text = String::from_utf8_lossy(&answer).into_owned();
        let status = text
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        (status.unwrap_or(0), text)
    }

    async fn is_fine(&self) {
        let (status, _) = self.json(Method::GET, "/info", "").await;
        assert_eq!(status, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_head_that_is_too_long_is_refused() {
    let daemon = Daemon::start(1).await;
    let long = "x".repeat(1024 * 1024);
    let head = format!("GET /info HTTP/1.1\r\nHost: a\r\nX-Long: {long}\r\n\r\n");
    let (status, text) = daemon.exchange(head.as_bytes()).await;
    assert_eq!(status, 431, "{text}");
    let head = format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n");
    let (status, text) = daemon.exchange(head.as_bytes()).await;
    assert!(matches!(status, 414 | 431), "{text}");
    let many = "X: y\r\n".repeat(1000);
    let head = format!("GET /info HTTP/1.1\r\nHost: a\r\n{many}\r\n");
    let (status, text) = daemon.exchange(head.as_bytes()).await;
    assert_eq!(status, 431, "{text}");
    daemon.is_fine().await;
}

#[tokio::test]
async fn what_is_not_http_is_refused() {
    let daemon = Daemon::start(1).await;
    for bytes in [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice(),
        b"GET\r\n\r\n",
        b"GET /info HTTP/1.1\r\nHost a\r\n\r\n",
        b"GET /\xff HTTP/9.9\r\n\r\n",
        b"POST /containers/create HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /containers/create HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let (status, text) = daemon.exchange(bytes).await;
        assert!(matches!(status, 0 | 400), "{bytes:?}: {text}");
    }
    daemon.is_fine().await;
}

#[tokio::test]
async fn a_body_that_is_too_long_is_refused_where_it_would_be_kept() {
    let daemon = Daemon::start(1).await;
    daemon.run("web").await;
    let long = format!(r#"{{"Name":"{}"}}"#, "x".repeat(2 * 1024 * 1024));
    for path in [
        "/containers/create",
        "/containers/web/exec",
        "/networks/create",
        "/networks/bridge/connect",
        "/volumes/create",
    ] {
        let (status, answer) = daemon.json(Method::POST, path, &long).await;
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{path}: {answer}");
        assert!(message(&answer).contains("1048576 bytes"), "{answer}");
    }
}

#[tokio::test]
async fn a_body_that_is_no_json_object_is_refused() {
    let daemon = Daemon::start(1).await;
    daemon.run("web").await;
    for path in [
        "/containers/create",
        "/containers/web/exec",
        "/networks/create",
        "/volumes/create",
    ] {
        for body in ["", "{", "[]", "\"text\"", r#"{"a":1}}"#, "{'a':1}"] {
            let (status, answer) = daemon.json(Method::POST, path, body).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{path} {body}: {answer}");
            assert_ne!(message(&answer), "", "{path} {body}");
        }
    }
    for (path, body) in [
        ("/containers/create", r#"{"Image":7}"#),
        (
            "/containers/create",
            r#"{"Image":"busybox","HostConfig":[]}"#,
        ),
        ("/containers/create", r#"{"Image":"busybox","Labels":"x"}"#),
        ("/containers/web/exec", r#"{"Cmd":{}}"#),
        ("/networks/create", r#"{"Name":{}}"#),
        ("/volumes/create", r#"{"Labels":[1]}"#),
    ] {
        let (status, answer) = daemon.json(Method::POST, path, body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path} {body}: {answer}");
    }
    for filters in ["%7B", "[]", "%22x%22", "%7B%22name%22:7%7D"] {
        let path = format!("/containers/json?filters={filters}");
        let (status, answer) = daemon.json(Method::GET, &path, "").await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{filters}: {answer}");
    }
}

#[tokio::test]
async fn bytes_that_are_no_utf_8_are_refused_or_found_nowhere() {
    let daemon = Daemon::start(1).await;
    let (status, _) = daemon
        .json(Method::GET, "/containers/%ff%fe/json", "")
        .await;
    assert!(matches!(status.as_u16(), 400 | 404), "{status}");
    let mut request =
        b"POST /containers/create?name=a HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 20\r\n\r\n"
            .to_vec();
    request.extend_from_slice(b"{\"Image\":\"bus\xff\xfeybox\"}");
    let end = request.len();
    let (status, text) = daemon.exchange(&request[..end]).await;
    assert_eq!(status, 400, "{text}");
    let (status, _) = daemon.json(Method::GET, "/info?x=%ff", "").await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn versions_that_are_none_are_no_routes() {
    let daemon = Daemon::start(1).await;
    for version in [
        "v", "vx", "v1", "v1.", "v.41", "v1.2.3", "v-1.41", "v1.41x", "V1.41",
    ] {
        let path = format!("/{version}/info");
        let (status, answer) = daemon.json(Method::GET, &path, "").await;
        assert!(
            matches!(status.as_u16(), 400 | 404),
            "{version}: {status} {answer}"
        );
        assert_ne!(message(&answer), "", "{version}");
    }
    for version in ["v0.1", "v1.0", "v1.99", "v99999999999.1"] {
        let path = format!("/{version}/info");
        let (status, answer) = daemon.json(Method::GET, &path, "").await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{version}: {answer}");
        assert!(message(&answer).contains("client version"), "{answer}");
    }
}

#[tokio::test]
async fn a_path_does_not_lead_out_of_its_route() {
    let daemon = Daemon::start(1).await;
    daemon.run("web").await;
    for path in [
        "/containers/web%2F..%2F..%2Fimages/json",
        "/containers/..%2Fweb/json",
        "/containers/%2e%2e%2fweb/json",
        "/containers/web%00/json",
        "/containers/web%3Fa=b/json",
        "/containers/web%23/json",
        "/containers/web%0d%0aX: y/json",
        "/exec/..%2Fcontainers%2Fweb/json",
        "/networks/..%2Fcontainers",
        "/volumes/..%2F..%2Finfo",
        "/images/..%2F..%2Fcontainers%2Fweb/json",
    ] {
        let path = path.replace(' ', "%20");
        let (status, answer) = daemon.json(Method::GET, &path, "").await;
        assert!(
            matches!(status.as_u16(), 301 | 400 | 404),
            "{path}: {status} {answer}"
        );
    }
    let (status, _) = daemon
        .json(Method::POST, "/containers/web%2F..%2Fweb/stop", "")
        .await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (_, list) = daemon.json(Method::GET, "/containers/json", "").await;
    assert_eq!(list.as_array().unwrap().len(), 1, "{list}");
}

/// A daemon that keeps no connections to its engines open for later, each of which is a task.
async fn without_idle_connections(engines: usize) -> Daemon {
    let change = |options: &mut skep::cluster::Options| options.limits.max_idle = 0;
    Daemon::over(Bench::start_with(engines, 0, change).await).await
}

/// Runs `storm` twice: the second time it must leave no task behind that was not there before.
async fn leaves_nothing_behind(daemon: &Daemon, storm: impl AsyncFn()) {
    let alive = || Handle::current().metrics().num_alive_tasks();
    storm().await;
    daemon.is_fine().await;
    // What ends by itself has ended once the count stands still.
    let settle = async || {
        let mut last = alive();
        let mut since = Instant::now();
        while since.elapsed() < Duration::from_millis(500) {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if alive() != last {
                last = alive();
                since = Instant::now();
            }
        }
        last
    };
    let before = tokio::time::timeout(PATIENCE, settle())
        .await
        .expect("tasks settle");
    storm().await;
    let back = async {
        while alive() > before {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, back)
        .await
        .unwrap_or_else(|_| panic!("{} tasks are left where there were {before}", alive()));
    daemon.is_fine().await;
}

#[tokio::test]
async fn clients_that_vanish_in_the_middle_leave_nothing_behind() {
    let daemon = without_idle_connections(2).await;
    let body = r#"{"Image":"busybox","OpenStdin":true}"#;
    let (_, created) = daemon
        .json(Method::POST, "/containers/create?name=web", body)
        .await;
    assert_ne!(created["Id"], Value::Null, "{created}");
    let requests: [&[u8]; 7] = [
        b"GET /containers/web/logs?stdout=1&follow=1 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /containers/web/stats HTTP/1.1\r\nHost: a\r\n\r\n",
        ATTACH,
        b"POST /containers/web/wait HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        b"POST /images/load HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"PUT /containers/web/archive?path=/ HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nhalf",
    ];
    leaves_nothing_behind(&daemon, async || {
        let (status, _) = daemon.json(Method::POST, "/containers/web/start", "").await;
        assert_eq!(status, StatusCode::NO_CONTENT);
        for request in requests {
            let mut streams = Vec::new();
            for _ in 0..5 {
                streams.push(daemon.raw(request).await);
            }
            // Half of them are there long enough to be served, the others go at once.
            for stream in streams.iter_mut().take(2) {
                let first = stream.readable();
                let _ = tokio::time::timeout(Duration::from_millis(50), first).await;
            }
        }
        // Who attached may have ended the input alone, and waits for output as long as there may be
        // some.
        let (status, _) = daemon.json(Method::POST, "/containers/web/stop", "").await;
        assert_eq!(status, StatusCode::NO_CONTENT);
    })
    .await;
}

#[tokio::test]
async fn an_attached_client_that_is_cut_off_gives_its_place_at_the_engine_back() {
    let change = |options: &mut skep::cluster::Options| options.limits.max_connections = 2;
    let daemon = Daemon::over(Bench::start_with(1, 0, change).await).await;
    let body = r#"{"Image":"busybox","OpenStdin":true}"#;
    daemon
        .json(Method::POST, "/containers/create?name=web", body)
        .await;
    let (status, _) = daemon.json(Method::POST, "/containers/web/start", "").await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    for _ in 0..6 {
        let mut stream = daemon.raw(ATTACH).await;
        let mut answer = [0; 12];
        let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut answer)).await;
        read.expect("an answer comes").unwrap();
        assert_eq!(&answer, b"HTTP/1.1 101");
        socket2::SockRef::from(&stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }
}

#[tokio::test]
async fn clients_that_vanish_before_their_request_is_whole_leave_nothing_behind() {
    let daemon = without_idle_connections(1).await;
    leaves_nothing_behind(&daemon, async || {
        let request =
            b"POST /containers/create HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\n{\"Image\":";
        for length in (1..request.len()).step_by(7) {
            drop(daemon.raw(&request[..length]).await);
        }
    })
    .await;
    let (_, list) = daemon.json(Method::GET, "/containers/json?all=1", "").await;
    assert_eq!(list.as_array().unwrap().len(), 0, "{list}");
}

#[tokio::test]
async fn a_hundred_slow_clients_do_not_hold_up_others() {
    let daemon = Daemon::start(1).await;
    let mut slow = Vec::new();
    for _ in 0..100 {
        slow.push(
            daemon
                .raw(b"GET /info HTTP/1.1\r\nHost: a\r\nX-Slow: ")
                .await,
        );
    }
    for stream in &mut slow {
        stream.write_all(b"x").await.unwrap();
    }
    daemon.is_fine().await;
    daemon.run("web").await;
}
