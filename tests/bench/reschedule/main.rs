//! How long a fleet takes to run again what ran on a tenth of it, and what that costs the manager.
//!
//! Engines of a simulated fleet die all at once; each create and start takes as long as on a quick
//! real engine. The time is from the death to the moment when the last container runs elsewhere,
//! detection and the grace period of a second included. Beside it are the busiest second, in
//! containers started, and the manager's load: its processor time, its busiest second, and the most
//! memory it ever held. The dead engines then come back, and it is an error if anything runs twice.
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
use skep_fleet::{Engine, Fault, Fleet, daemon::Daemon, process};
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
    let cpu = || process::cpu_time(daemon.pid()).as_secs_f64();
    let before = cpu();
    let begin = Instant::now();
    for engine in &fleet.engines()[..dead] {
        engine.die();
    }
    let (mut busiest, mut last, mut second) = (0, 0, Instant::now());
    let (mut peak_load, mut used) = (0.0_f64, before);
    loop {
        let running = running_on(&fleet.engines()[dead..]);
        assert_eq!(twice(&running), None, "it runs twice");
        let running = running.len();
        let moved = running - (wanted - moving).min(running);
        let elapsed = second.elapsed();
        if elapsed >= Duration::from_secs(1) {
            busiest = busiest.max(moved - last);
            let now = cpu();
            peak_load = peak_load.max((now - used) * 100.0 / elapsed.as_secs_f64());
            (last, second, used) = (moved, Instant::now(), now);
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
        cpu() - before,
        (cpu() - before) * 1000.0 / moving as f64
    );
    println!("peak load          {peak_load:.0} % of one core");
    println!(
        "peak memory        {} MB",
        process::peak(daemon.pid()) >> 20
    );
    come_back(&fleet, dead, wanted).await;
    println!("nothing ran twice, and the old copies are gone");
    let _ = fs::remove_dir_all(&directory);
}

/// The names of the containers that run, sorted.
fn running_on(engines: &[Arc<Engine>]) -> Vec<String> {
    let containers = engines.iter().flat_map(|engine| engine.containers());
    let running = containers.filter(|container| container.phase.is_running());
    let mut names: Vec<_> = running
        .map(|container| container.name.into_string())
        .collect();
    names.sort_unstable();
    names
}

/// A name that is there twice.
fn twice(names: &[String]) -> Option<&String> {
    let pair = names.windows(2).find(|pair| pair[0] == pair[1]);
    pair.map(|pair| &pair[0])
}

/// Brings the dead engines back, and waits until each container is there once.
async fn come_back(fleet: &Fleet, dead: usize, wanted: usize) {
    for engine in &fleet.engines()[..dead] {
        engine.come_back();
    }
    let begin = Instant::now();
    loop {
        let all = fleet.engines().iter();
        let count: usize = all.map(|engine| engine.containers().len()).sum();
        if count == wanted {
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "{count} of {wanted} are left");
        sleep(Duration::from_millis(50)).await;
    }
    let running = running_on(fleet.engines());
    assert_eq!((running.len(), twice(&running)), (wanted, None));
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
