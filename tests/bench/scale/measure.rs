//! The measurements, in the order in which they disturb one another least.

use std::{
    fmt,
    net::SocketAddr,
    str::FromStr,
    time::{Duration, Instant},
};

use http::Method;
use serde_json::Value;
use skep_fleet::{client::Client, daemon::Daemon, process};

use super::{
    fleet, load,
    report::{Limits, Report},
};

/// How many clients create and inspect.
const CREATORS: usize = 8;
const READERS: usize = 16;

/// How long the whole fleet may take to be healthy.
const PATIENCE: Duration = Duration::from_secs(300);

/// Lists of all containers that are timed.
const LISTS: usize = 21;

/// For how long the daemon settles at least before it counts as idle.
const SETTLING: Duration = Duration::from_secs(5);

/// A daemon that uses less than this part of a core has written the records of what it found.
const SETTLED: f64 = 0.5;

/// How big a fleet is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub engines: usize,
    /// Containers of each engine.
    pub containers: usize,
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('x').and_then(|(engines, containers)| {
            Some(Self {
                engines: engines.parse().ok().filter(|&engines| engines > 0)?,
                containers: containers
                    .parse()
                    .ok()
                    .filter(|&containers| containers > 0)?,
            })
        });
        parsed.ok_or_else(|| "write engines and containers of each as `1000x30`".to_owned())
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.engines, self.containers)
    }
}

/// Measures everything over a fresh fleet and a fresh daemon; each load lasts `seconds`.
pub async fn column(size: Size, seconds: u64) -> Report {
    let time = Duration::from_secs(seconds);
    let fleet = fleet::Process::start(size);
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let store = format!("embedded://{}/store.redb", directory.path().display());
    let nodes = format!("nodes://{}", fleet.patterns.join(","));
    let begin = Instant::now();
    let daemon = Daemon::start(env!("CARGO_BIN_EXE_skep"), &["--store", &store, &nodes]);
    let (addr, pid) = (daemon.addr(), daemon.pid());
    daemon.await_healthy(size.engines, PATIENCE).await;
    let healthy_seconds = begin.elapsed().as_secs_f64();

    tokio::time::sleep(SETTLING).await;
    while begin.elapsed() < PATIENCE && use_of_core(pid, Duration::from_secs(1)).await > SETTLED {}
    let settled_seconds = begin.elapsed().as_secs_f64();
    let idle_bytes = process::resident(pid);
    let idle_percent = 100.0 * use_of_core(pid, time).await;

    let (list_first, list_whole) = load::lists(addr, LISTS).await;
    let names = names(addr).await;
    let inspections = load::inspections(addr, READERS, time, &names).await;

    let engine = first_engine(&fleet.patterns[0]);
    let alone = load::engine_alone(engine, Duration::from_secs(2)).await;
    let single = load::creates(addr, 1, time / 2, "single-").await;
    let creates = load::creates(addr, CREATORS, time, "many-").await;
    let loaded_bytes = process::resident(pid);
    let own = |quantile| single.quantile(quantile).saturating_sub(alone);

    let limits = Limits {
        inspections_per_second: load::inspections(engine, READERS, time / 4, &["seed-0-0".into()])
            .await
            .rate,
        creates_per_second: load::creates(engine, CREATORS, time / 4, "direct-")
            .await
            .rate,
    };
    Report {
        creates_per_second: creates.rate,
        create_p50_ms: millis(creates.quantile(0.5)),
        create_p99_ms: millis(creates.quantile(0.99)),
        own_share_p50_ms: millis(own(0.5)),
        own_share_p99_ms: millis(own(0.99)),
        healthy_seconds,
        settled_seconds,
        list_first_byte_ms: millis(list_first),
        list_whole_ms: millis(list_whole),
        inspections_per_second: inspections.rate,
        inspect_p99_ms: millis(inspections.quantile(0.99)),
        idle_bytes,
        loaded_bytes,
        peak_bytes: process::peak(pid),
        idle_percent,
        limits,
        ..Report::about(size)
    }
}

/// The part of one core that a process uses for some time.
async fn use_of_core(pid: u32, time: Duration) -> f64 {
    let (began, used) = (Instant::now(), process::cpu_time(pid));
    tokio::time::sleep(time).await;
    let used = process::cpu_time(pid) - used;
    used.as_secs_f64() / began.elapsed().as_secs_f64()
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The first address of a range, `127.1.0.[1:250]:4243`.
fn first_engine(pattern: &str) -> SocketAddr {
    let mut text = pattern.to_owned();
    if let (Some(open), Some(colon), Some(close)) = (text.find('['), text.find(':'), text.find(']'))
    {
        text.replace_range(colon..=close, "");
        text.remove(open);
    }
    text.parse().expect("an address")
}

/// Full IDs of all containers.
async fn names(addr: SocketAddr) -> Vec<String> {
    let mut client = Client::connect(addr).await;
    let path = "/v1.41/containers/json?all=1";
    let (_, answer) = client.call(Method::GET, path, "").await;
    let list: Vec<Value> = serde_json::from_slice(&answer).expect("a list");
    list.iter()
        .filter_map(|entry| Some(entry["Id"].as_str()?.to_owned()))
        .collect()
}
