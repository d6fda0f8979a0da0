//! What remembering costs: creates per second with and without the embedded store.
//!
//! Each side is a daemon of its own over a simulated fleet of its own; they take turns, and only
//! their ratio counts. Stand-in engines answer at once, which shows the cost at its greatest, and
//! then after 5 ms, which is still sooner than real ones do. The store is on the disk of the build
//! directory, or where `SKEP_BENCH_DIR` says.
//!
//! ```text
//! cargo bench --bench records
//! ```

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use http::Method;
use skep_fleet::{Fault, Fleet, client::Client, daemon::Daemon};

const ENGINES: usize = 10;
const ROUNDS: usize = 7;

/// Creates of each client in each round.
const CREATES: usize = 100;

/// How many clients create at once.
const CLIENTS: [usize; 2] = [1, 32];

/// How long an engine takes to create a container.
const ENGINE_TIMES: [Duration; 2] = [Duration::ZERO, Duration::from_millis(5)];

const BODY: &str = r#"{"Image":"busybox","Cmd":["sleep","1d"],"Env":["A=1","B=2"]}"#;

/// How long the nodes may take to be healthy.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    runtime.block_on(run());
}

async fn run() {
    let parent = std::env::var_os("SKEP_BENCH_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let directory = tempfile::tempdir_in(parent).expect("a directory for the store");
    let store = format!("embedded://{}/store.redb", directory.path().display());
    let mut without = Side::start("none").await;
    let mut with = Side::start(&store).await;
    println!(
        "{:>8} {:>8} {:>16} {:>16} {:>8}",
        "engine", "clients", "no store", "embedded", "ratio"
    );
    for time in ENGINE_TIMES {
        if !time.is_zero() {
            without.take(time);
            with.take(time);
        }
        for clients in CLIENTS {
            let mut rates = [Vec::new(), Vec::new()];
            for _ in 0..ROUNDS {
                rates[0].push(without.round(clients).await);
                rates[1].push(with.round(clients).await);
            }
            let [without, with] = rates.map(median);
            println!(
                "{time:>8.0?} {clients:>8} {without:>14.0}/s {with:>14.0}/s {:>7.0}%",
                100.0 * with / without
            );
        }
    }
}

/// A daemon with its fleet.
struct Side {
    daemon: Daemon,
    fleet: Fleet,
    created: usize,
}

impl Side {
    async fn start(store: &str) -> Self {
        let fleet = Fleet::builder().engines(ENGINES);
        let fleet = fleet.start().await.expect("the engines start");
        let addrs: Vec<String> = fleet
            .engines()
            .iter()
            .map(|e| e.addr().to_string())
            .collect();
        let discovery = format!("nodes://{}", addrs.join(","));
        let daemon = Daemon::start(env!("CARGO_BIN_EXE_skep"), &["--store", store, &discovery]);
        let side = Self {
            daemon,
            fleet,
            created: 0,
        };
        let mut client = Client::connect(side.daemon.addr()).await;
        let until = Instant::now() + PATIENCE;
        while create(&mut client, "first").await != 201 {
            assert!(Instant::now() < until, "no container is made");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        side
    }

    /// Has the engines take a time to create a container.
    fn take(&self, base: Duration) {
        let jitter = Duration::ZERO;
        for engine in self.fleet.engines() {
            engine.set_fault_on("POST /containers/create", Fault::Latency { base, jitter });
        }
    }

    /// Creates per second.
    async fn round(&mut self, clients: usize) -> f64 {
        let addr = self.daemon.addr();
        let first = self.created;
        self.created += clients * CREATES;
        let begin = Instant::now();
        join_all((0..clients).map(|index| async move {
            let mut client = Client::connect(addr).await;
            for number in 0..CREATES {
                let name = format!("c{}", first + index * CREATES + number);
                assert_eq!(create(&mut client, &name).await, 201);
            }
        }))
        .await;
        (clients * CREATES) as f64 / begin.elapsed().as_secs_f64()
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

async fn create(client: &mut Client, name: &str) -> u16 {
    let path = format!("/v1.41/containers/create?name={name}");
    client.call(Method::POST, &path, BODY).await.0
}
