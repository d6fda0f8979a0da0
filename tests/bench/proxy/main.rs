//! What the daemon adds to a call, and what it takes from a stream.
//!
//! A stand-in engine runs in this process, the daemon is a process of its own, and each measurement
//! is made of both in turn: engine, daemon, engine, daemon. Only the comparison counts; the engine
//! alone answers faster than a real one.
//!
//! ```text
//! cargo bench --bench proxy
//! ```

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use skep_fleet::{Fleet, client::Client, daemon::Daemon};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Calls of each kind to each side.
const CALLS: usize = 5_000;

/// How much each stream carries, and how often it is measured.
const STREAM_BYTES: usize = 256 * 1024 * 1024;
const STREAM_ROUNDS: usize = 5;

/// How long anything may take to be ready.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    runtime.block_on(run());
}

async fn run() {
    let fleet = Fleet::builder()
        .engines(1)
        .start()
        .await
        .expect("the engine starts");
    let engine = &fleet.engines()[0];
    let discovery = format!("nodes://{}", engine.addr());
    let daemon = Daemon::start(env!("CARGO_BIN_EXE_skep"), &["--store", "none", &discovery]);
    let sides = [engine.addr(), daemon.addr()];
    prepare(daemon.addr()).await;

    println!(
        "{:<28} {:>10} {:>10} {:>10}",
        "call", "engine", "daemon", "added"
    );
    for (name, path) in [
        ("GET …/top", "/v1.41/containers/web/top"),
        ("GET …/json (inspect)", "/v1.41/containers/web/json"),
    ] {
        let [direct, proxied] = latencies(sides, path).await;
        println!(
            "{name:<28} {direct:>7.1} µs {proxied:>7.1} µs {:>7.1} µs",
            proxied - direct
        );
    }

    println!(
        "{:<28} {:>10} {:>10} {:>10}",
        "stream", "engine", "daemon", "ratio"
    );
    let mut copies = [Vec::new(), Vec::new()];
    let mut uploads = [Vec::new(), Vec::new()];
    let mut terminals = [Vec::new(), Vec::new()];
    for _ in 0..STREAM_ROUNDS {
        for side in 0..2 {
            uploads[side].push(upload(sides[side]).await);
            copies[side].push(download(sides[side]).await);
            terminals[side].push(echo(sides[side]).await);
        }
    }
    for (name, rates) in [
        ("cp to the container", uploads),
        ("cp from the container", copies),
        ("attach, both ways", terminals),
    ] {
        let [direct, proxied] = rates.map(median);
        println!(
            "{name:<28} {direct:>5.0} MB/s {proxied:>5.0} MB/s {:>8.0} %",
            100.0 * proxied / direct
        );
    }
}

/// Runs a container as soon as the node is there.
async fn prepare(daemon: SocketAddr) {
    let body = r#"{"Image":"busybox","Tty":true,"OpenStdin":true}"#;
    let until = Instant::now() + PATIENCE;
    loop {
        let mut client = Client::connect(daemon).await;
        let path = "/v1.41/containers/create?name=web";
        let (status, answer) = client.call(Method::POST, path, body).await;
        if status == 201 {
            break;
        }
        assert!(Instant::now() < until, "no container is made: {answer:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut client = Client::connect(daemon).await;
    let (status, _) = client
        .call(Method::POST, "/v1.41/containers/web/start", "")
        .await;
    assert_eq!(status, 204);
}

/// Median microseconds of a call to each side.
async fn latencies(sides: [SocketAddr; 2], path: &str) -> [f64; 2] {
    let mut clients = [
        Client::connect(sides[0]).await,
        Client::connect(sides[1]).await,
    ];
    let mut micros = [Vec::new(), Vec::new()];
    for round in 0..CALLS + CALLS / 10 {
        for side in 0..2 {
            let start = Instant::now();
            let (status, _) = clients[side].call(Method::GET, path, "").await;
            assert_eq!(status, 200);
            // The first tenth fills caches and pools.
            if round >= CALLS / 10 {
                micros[side].push(start.elapsed().as_secs_f64() * 1e6);
            }
        }
    }
    micros.map(median)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn rate(start: Instant) -> f64 {
    STREAM_BYTES as f64 / 1e6 / start.elapsed().as_secs_f64()
}

const ARCHIVE: &str = "/v1.41/containers/web/archive?path=/data";

async fn upload(side: SocketAddr) -> f64 {
    let mut client = Client::connect(side).await;
    let content = Bytes::from(vec![7; STREAM_BYTES]);
    let start = Instant::now();
    let answer = client.send(Method::PUT, ARCHIVE, content).await;
    assert_eq!(answer.status(), 200);
    rate(start)
}

async fn download(side: SocketAddr) -> f64 {
    let mut client = Client::connect(side).await;
    let start = Instant::now();
    let mut body = client.send(Method::GET, ARCHIVE, "").await.into_body();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame
            .expect("the stream lasts")
            .data_ref()
            .map_or(0, Bytes::len);
    }
    assert_eq!(length, STREAM_BYTES);
    rate(start)
}

/// What is written to the attached container comes back as it is.
async fn echo(side: SocketAddr) -> f64 {
    let mut stream = TcpStream::connect(side).await.expect("a connection");
    let request = "POST /v1.41/containers/web/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\n\
                   Host: bench\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
    stream
        .write_all(request.as_bytes())
        .await
        .expect("it is sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a head"));
    }
    assert!(
        head.starts_with(b"HTTP/1.1 101"),
        "{}",
        String::from_utf8_lossy(&head)
    );
    let (mut from, mut to) = stream.into_split();
    let start = Instant::now();
    let writer = tokio::spawn(async move {
        let chunk = vec![7; 32 * 1024];
        for _ in 0..STREAM_BYTES / chunk.len() {
            to.write_all(&chunk).await.expect("input is taken");
        }
        to
    });
    let mut buffer = vec![0; 256 * 1024];
    let mut length = 0;
    while length < STREAM_BYTES {
        let read = from.read(&mut buffer).await.expect("output comes");
        assert_ne!(read, 0, "the stream ended");
        length += read;
    }
    let rate = rate(start);
    drop(writer.await);
    rate
}
