//! What a volume of a driver under `skep join` costs: the calls that an engine makes for one
//! container with one volume, on the driver's socket, as an engine makes them.
//!
//! An engine's built-in driver answers the same calls from memory and the disk, so what is measured
//! here is at least what we add. The volumes are on the disk of the build directory, or where
//! `SKEP_BENCH_DIR` says.
//!
//! ```text
//! cargo bench --bench volumes
//! ```

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixStream;

/// Cycles for each driver.
const CYCLES: usize = 500;

const DRIVERS: [&str; 2] = ["local", "tmpfs"];

/// What an engine asks for, in this order.
const CALLS: [&str; 4] = ["Create", "Mount", "Unmount", "Remove"];

/// How long the agent may take to serve its drivers.
const PATIENCE: Duration = Duration::from_secs(60);

/// An agent that is ended with the value.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    runtime.block_on(run());
}

async fn run() {
    let parent = std::env::var_os("SKEP_BENCH_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let directory = tempfile::tempdir_in(parent).expect("a directory for the volumes");
    let _agent = start(directory.path());
    println!(
        "{:>8} {:>10} {:>10} {:>10} {:>10} {:>12} {:>12}",
        "driver", "create", "mount", "unmount", "remove", "all, median", "all, p99"
    );
    for driver in DRIVERS {
        let socket = directory.path().join(format!("bench-{driver}.sock"));
        let mut client = connect(&socket).await;
        let mut times: [Vec<Duration>; 5] = Default::default();
        for cycle in 0..CYCLES {
            let name = format!("v{cycle}");
            let mut sum = Duration::ZERO;
            for (call, times) in CALLS.iter().zip(&mut times) {
                let body = json!({ "Name": name, "ID": "bench", "Opts": {} });
                let begin = Instant::now();
                ask(&mut client, &format!("/VolumeDriver.{call}"), &body).await;
                let time = begin.elapsed();
                times.push(time);
                sum += time;
            }
            times[4].push(sum);
        }
        let shown = |times: &mut Vec<Duration>, part: f64| {
            times.sort_unstable();
            let index = (times.len() as f64 * part) as usize;
            format!("{:.2} ms", times[index].as_secs_f64() * 1e3)
        };
        let [create, mount, unmount, remove, all] = &mut times;
        println!(
            "{driver:>8} {:>10} {:>10} {:>10} {:>10} {:>12} {:>12}",
            shown(create, 0.5),
            shown(mount, 0.5),
            shown(unmount, 0.5),
            shown(remove, 0.5),
            shown(all, 0.5),
            shown(all, 0.99),
        );
    }
}

/// Starts an agent that serves the drivers.
fn start(directory: &Path) -> Agent {
    let place = directory.display();
    let mut config =
        format!("[agent]\nplugin-directory = \"{place}\"\nstate-directory = \"{place}/state\"\n");
    for driver in DRIVERS {
        config += &format!("[volume-drivers.bench-{driver}]\ndriver = \"{driver}\"\n");
    }
    let file = directory.join("config.toml");
    fs::write(&file, config).expect("a configuration is written");
    let agent = Command::new(env!("CARGO_BIN_EXE_skep"))
        .args([
            "join",
            "--no-engine-check",
            "--no-fencing",
            "--advertise",
            "127.0.0.1:1",
        ])
        .arg(format!("--config={}", file.display()))
        // This list takes no registrations; drivers are served all the same.
        .arg("nodes://127.0.0.1:1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    Agent(agent.expect("the agent starts"))
}

async fn connect(socket: &Path) -> SendRequest<Full<Bytes>> {
    let begin = Instant::now();
    let stream = loop {
        match UnixStream::connect(socket).await {
            Ok(stream) => break stream,
            Err(error) => assert!(begin.elapsed() < PATIENCE, "{}: {error}", socket.display()),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let (mut client, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .expect("the agent speaks HTTP");
    tokio::spawn(connection);
    ask(&mut client, "/Plugin.Activate", &json!({})).await;
    client
}

async fn ask(client: &mut SendRequest<Full<Bytes>>, path: &str, body: &Value) {
    let request = Request::post(path)
        .header("Host", "")
        .header("Accept", "application/vnd.docker.plugins.v1.2+json")
        .body(Full::new(body.to_string().into()))
        .expect("the request is one");
    client.ready().await.expect("the agent is there");
    let answer = client.send_request(request).await.expect("an answer");
    let status = answer.status();
    let text = answer
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    let text = String::from_utf8_lossy(&text);
    assert!(
        status.is_success()
            && serde_json::from_str::<Value>(&text)
                .is_ok_and(|answer| answer["Err"].as_str().unwrap_or_default().is_empty()),
        "{path}: {status} {text}"
    );
}
