//! How long a fleet takes to run again what ran on a tenth of it, and what that costs the manager.
//!
//! Engines of a simulated fleet die all at once; each create and start takes as long as on a quick
//! real engine. The time is from the death to the moment when the last container runs elsewhere,
//! detection and the grace period of a second included. Beside it are the busiest second, in
//! containers started, and the manager's processor time and memory.
//!
//! ```text
//! cargo bench --bench reschedule [-- ENGINES CONTAINERS-PER-ENGINE]
//! ```

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use bollard::{
    API_DEFAULT_VERSION, Docker, models::ContainerCreateBody,
    query_parameters::CreateContainerOptionsBuilder,
};
use futures_util::{StreamExt, stream};
use skep_fleet::{Fault, Fleet, daemon::Daemon};
use tokio::time::sleep;

/// Of how many engines one dies.
const SHARE: usize = 10;

/// How long engines take for a create, and for a start.
const ENGINE: Duration = Duration::from_millis(100);

const PATIENCE: Duration = Duration::from_secs(600);

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let numbers: Vec<usize> = std::env::args()
        .skip(1)
        .filter_map(|text| text.parse().ok())
        .collect();
    let engines = numbers.first().copied().unwrap_or(1000);
    let each = numbers.get(1).copied().unwrap_or(10);
    runtime.block_on(measure(engines, each));
}

async fn measure(engines: usize, each: usize) {
    let fleet = Fleet::builder().engines(engines);
    let fleet = Arc::new(fleet.start().await.expect("the engines start"));
    let nodes = format!("nodes://{}", fleet.address_patterns().join(","));
    let directory = std::env::temp_dir().join(format!("skep-bench-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("a directory");
    let store = format!("embedded://{}/store.redb", directory.display());
    let daemon = Daemon::start(
        env!("CARGO_BIN_EXE_skep"),
        &[
            "--engine-refresh-min-interval=1s",
            "--engine-refresh-max-interval=30s",
            "--engine-failure-retry=1",
            "--store",
            &store,
            &nodes,
        ],
    );
    let addr = format!("tcp://{}", daemon.addr());
    let docker = Docker::connect_with_http(&addr, 60, API_DEFAULT_VERSION).expect("a client");
    let wanted = engines * each;
    stream::iter(0..wanted)
        .for_each_concurrent(16, |number| {
            let docker = docker.clone();
            async move { run(&docker, &format!("c{number}")).await }
        })
        .await;
    let dead = engines.div_ceil(SHARE);
    let moving: usize = fleet.engines()[..dead]
        .iter()
        .map(|engine| engine.containers().len())
        .sum();
    for engine in fleet.engines() {
        let fault = Fault::Latency {
            base: ENGINE,
            jitter: ENGINE,
        };
        for route in ["POST /containers/create", "POST /containers/{id}/start"] {
            engine.set_fault_on(route, fault.clone());
        }
    }
    let before = cpu_seconds(daemon.pid());
    let begin = Instant::now();
    for engine in &fleet.engines()[..dead] {
        engine.die();
    }
    let (mut busiest, mut last, mut second) = (0, 0, Instant::now());
    loop {
        let alive = fleet.engines()[dead..].iter();
        let running: usize = alive
            .map(|engine| {
                let containers = engine.containers();
                let running = containers.iter().filter(|one| one.phase.is_running());
                running.count()
            })
            .sum();
        let moved = running - (wanted - moving).min(running);
        if second.elapsed() >= Duration::from_secs(1) {
            busiest = busiest.max(moved - last);
            (last, second) = (moved, Instant::now());
        }
        if moved >= moving {
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "{moved} of {moving} moved");
        sleep(Duration::from_millis(50)).await;
    }
    let time = begin.elapsed().as_secs_f64();
    println!("engines            {engines}, of which {dead} die");
    println!("containers moved   {moving} of {wanted}");
    println!("all run again      {time:.1} s");
    println!("on average         {:.0} moves/s", moving as f64 / time);
    println!("busiest second     {busiest} moves");
    println!(
        "processor time     {:.1} s, {:.1} ms a move",
        cpu_seconds(daemon.pid()) - before,
        (cpu_seconds(daemon.pid()) - before) * 1000.0 / moving as f64
    );
    println!("resident memory    {} MB", resident_megabytes(daemon.pid()));
    let _ = fs::remove_dir_all(&directory);
}

async fn run(docker: &Docker, name: &str) {
    let until = Instant::now() + PATIENCE;
    let body = ContainerCreateBody {
        image: Some("busybox".to_owned()),
        env: Some(vec!["reschedule:on-node-failure".to_owned()]),
        ..ContainerCreateBody::default()
    };
    loop {
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        // Engines are heard one after the other when the manager starts.
        match docker.create_container(Some(options), body.clone()).await {
            Ok(_) => break,
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
        sleep(Duration::from_millis(100)).await;
    }
    docker.start_container(name, None).await.expect("it starts");
}

/// What a process has used so far, in user and kernel mode.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields: Vec<&str> = stat
        .rsplit(") ")
        .next()
        .unwrap_or_default()
        .split(' ')
        .collect();
    let ticks = |at: usize| fields[at].parse::<f64>().unwrap_or(0.0);
    // Linux counts in hundredths of a second.
    (ticks(11) + ticks(12)) / 100.0
}

fn resident_megabytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    number.unwrap_or(0) / 1024
}
