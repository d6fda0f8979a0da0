//! A manager that is killed again and again under load: what it acknowledged stays true.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use bollard::{API_DEFAULT_VERSION, Docker, query_parameters::ListContainersOptionsBuilder};
use rand::RngExt;
use skep_fleet::{
    Fault, Fleet,
    daemon::Daemon,
    ledger::{Ledger, NAMES, create, work},
};
use tokio::task::JoinHandle;

use crate::cluster::PATIENCE;

/// How often the manager is killed, unless the variable says otherwise.
const KILLS: usize = 20;
const KILLS_VARIABLE: &str = "SKEP_TEST_KILLS";

const ENGINES: usize = 4;
const CLIENTS: usize = 6;

fn client(daemon: &Daemon) -> Docker {
    let addr = format!("tcp://{}", daemon.addr());
    Docker::connect_with_http(&addr, 20, API_DEFAULT_VERSION).unwrap()
}

async fn listed(docker: &Docker) -> BTreeSet<String> {
    let options = ListContainersOptionsBuilder::new().all(true).build();
    let list = docker.list_containers(Some(options)).await.unwrap();
    list.into_iter().filter_map(|entry| entry.id).collect()
}

/// Waits until `check` holds.
pub async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !check().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    assert!(waited.is_ok(), "not in time: {what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_or_doubled_when_the_manager_is_killed() {
    let kills = std::env::var(KILLS_VARIABLE).map_or(KILLS, |kills| kills.parse().unwrap());
    let fleet = Fleet::builder().engines(ENGINES).start().await.unwrap();
    for engine in fleet.engines() {
        // So that engines are often in the middle of a create when the manager dies.
        let fault = Fault::Latency {
            base: Duration::from_millis(1),
            jitter: Duration::from_millis(40),
        };
        engine.set_fault_on("POST /containers/create", fault);
    }
    let directory = tempfile::tempdir().unwrap();
    let store = format!("embedded://{}/store.redb", directory.path().display());
    let addrs: Vec<String> = fleet
        .engines()
        .iter()
        .map(|e| e.addr().to_string())
        .collect();
    let discovery = format!("nodes://{}", addrs.join(","));
    let start = || Daemon::start(env!("CARGO_BIN_EXE_skep"), &["--store", &store, &discovery]);
    let ledger = Arc::new(Mutex::new(Ledger::default()));

    for kill in 0..kills {
        let dead = (kill % 4 == 3).then(|| fleet.engine(kill % ENGINES));
        if let Some(engine) = dead {
            engine.die();
        }
        let mut daemon = start();
        let docker = client(&daemon);
        let staying = ledger.lock().unwrap().staying();
        if dead.is_none() {
            eventually("everything that was acknowledged is listed", async || {
                let listed = listed(&docker).await;
                staying.keys().all(|id| listed.contains(id))
            })
            .await;
        }
        let before = ledger.lock().unwrap().created;
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| tokio::spawn(work(client(&daemon), Arc::clone(&ledger))))
            .collect();
        eventually("a container is created", async || {
            ledger.lock().unwrap().created > before || clients.iter().any(JoinHandle::is_finished)
        })
        .await;
        let more = rand::rng().random_range(0..150);
        tokio::time::sleep(Duration::from_millis(more)).await;
        daemon.kill();
        for client in clients {
            client.await.unwrap();
        }
        if let Some(engine) = dead {
            engine.come_back();
        }
        let ledger = ledger.lock().unwrap();
        ledger.check(&fleet);
        ledger.sweep(&fleet);
    }

    // Names of creates that came to nothing are free again.
    let daemon = start();
    let docker = client(&daemon);
    for name in (0..NAMES).map(|number| format!("n{number}")) {
        let is_taken = fleet
            .engines()
            .iter()
            .any(|engine| engine.container(&name).is_some());
        if !is_taken {
            eventually(&name, async || create(&docker, &name).await.is_ok()).await;
        }
    }
    let ledger = ledger.lock().unwrap();
    ledger.check(&fleet);
    println!(
        "{kills} kills, {} creates, {} refused",
        ledger.created, ledger.refused
    );
    assert!(ledger.created > kills);
}
