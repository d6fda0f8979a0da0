//! How the work of one create and of one list grows with the fleet, counted in instructions.
//!
//! The daemon runs under callgrind over a simulated fleet, and its instructions are counted while a
//! client makes containers, which are placed by the WASM plugins, and while it lists all. Counts
//! differ little from run to run and from machine to machine, so CI runs this: it fails if ten times
//! the nodes cost more than [`LIMITS`] times the instructions.
//!
//! ```text
//! cargo bench --bench growth
//! ```

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use http::Method;
use skep_fleet::{Fleet, client::Client, daemon::Daemon};

/// The fleets that are compared, in engines, and the containers of each engine.
const FLEETS: [usize; 2] = [100, 1_000];
const CONTAINERS: usize = 3;

/// How much more work ten times the nodes may be: a placement looks at few of them, a list at all.
const LIMITS: [(&str, f64); 2] = [("create", 2.0), ("list", 12.0)];

/// How often each thing is done while instructions are counted.
const CREATES: usize = 50;
const LISTS: usize = 5;

/// How long the fleet may take to be healthy; the daemon is some fifty times as slow as usual.
const PATIENCE: Duration = Duration::from_secs(600);

const BODY: &str = r#"{"Image":"busybox","Env":["constraint:storage==ssd"]}"#;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let counts = FLEETS.map(|engines| runtime.block_on(measure(engines)));
    println!(
        "{:<8} {:>14} {:>14} {:>8} {:>8}",
        "", "100 nodes", "1,000 nodes", "ratio", "limit"
    );
    let mut is_within = true;
    for (at, (name, limit)) in LIMITS.into_iter().enumerate() {
        let [few, many] = counts.map(|counts| counts[at]);
        let ratio = many as f64 / few as f64;
        println!("{name:<8} {few:>14} {many:>14} {ratio:>8.2} {limit:>8}");
        is_within &= ratio <= limit;
    }
    if is_within {
        ExitCode::SUCCESS
    } else {
        eprintln!("growth: the work grows faster with the fleet than it may");
        ExitCode::FAILURE
    }
}

/// Instructions of one create and of one list.
async fn measure(engines: usize) -> [u64; 2] {
    let fleet = Fleet::builder().engines(engines).containers(CONTAINERS);
    let fleet = fleet.start().await.expect("the engines start");
    let nodes = format!("nodes://{}", fleet.address_patterns().join(","));
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let output = directory.path().join("callgrind.out");
    let daemon = Daemon::start_with(
        Command::new("valgrind")
            .args(["--quiet", "--tool=callgrind", "--instr-atstart=no"])
            .arg(format!("--callgrind-out-file={}", output.display()))
            .arg(env!("CARGO_BIN_EXE_skep")),
        &["--store", "none", &nodes],
    );
    let counter = Counter {
        pid: daemon.pid(),
        output,
    };
    daemon.await_healthy(engines, PATIENCE).await;
    let mut client = Client::connect(daemon.addr()).await;
    // What is done for the first time only does not count.
    create(&mut client, "first").await;
    counter.start();
    for number in 0..CREATES {
        create(&mut client, &format!("c{number}")).await;
    }
    let creates = counter.stop(1);
    list(&mut client).await;
    counter.start();
    for _ in 0..LISTS {
        list(&mut client).await;
    }
    let lists = counter.stop(2);
    [creates / CREATES as u64, lists / LISTS as u64]
}

async fn create(client: &mut Client, name: &str) {
    let path = format!("/v1.41/containers/create?name={name}");
    let (status, answer) = client.call(Method::POST, &path, BODY).await;
    assert_eq!(status, 201, "{}", String::from_utf8_lossy(&answer));
}

async fn list(client: &mut Client) {
    let path = "/v1.41/containers/json?all=1";
    let (status, _) = client.call(Method::GET, path, "").await;
    assert_eq!(status, 200);
}

/// Counts the instructions of a process that runs under callgrind.
struct Counter {
    pid: u32,
    output: PathBuf,
}

impl Counter {
    fn start(&self) {
        self.control(&["--instr=on"]);
        self.control(&["--zero"]);
    }

    /// Stops and returns the count; `round` is how often that was done, this time included.
    fn stop(&self, round: u32) -> u64 {
        self.control(&["--dump"]);
        self.control(&["--instr=off"]);
        let path = format!("{}.{round}", self.output.display());
        total(Path::new(&path))
    }

    fn control(&self, options: &[&str]) {
        let output = Command::new("callgrind_control")
            .args(options)
            .arg(self.pid.to_string())
            .output()
            .expect("valgrind is installed");
        assert!(
            output.status.success(),
            "callgrind does not obey: {output:?}"
        );
    }
}

/// The instructions in a dump.
fn total(path: &Path) -> u64 {
    let text = fs::read_to_string(path).expect("callgrind has written");
    let line = text.lines().find_map(|line| line.strip_prefix("totals: "));
    let count = line.and_then(|count| count.trim().parse().ok());
    count.expect("a dump has a total")
}
