//! A tenth of a large fleet fails at once; `cargo bench --bench reschedule` measures the same.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use serde_json::json;
use skep_fleet::Engine;

use crate::cluster::{Bench, PATIENCE};

const ENGINES: usize = 100;
const DEAD: usize = 10;
const EACH: usize = 3;

/// How often each container runs on some engines.
fn running(engines: &[Arc<Engine>]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    let containers = engines.iter().flat_map(|engine| engine.containers());
    for container in containers.filter(|container| container.phase.is_running()) {
        *counts.entry(container.name.into_string()).or_default() += 1;
    }
    counts
}

/// Waits until all of the containers run on these engines, none of them twice at any moment.
async fn until_all_run(engines: &[Arc<Engine>], wanted: usize) {
    let all_run = async {
        loop {
            let counts = running(engines);
            assert!(counts.values().all(|count| *count == 1), "{counts:?}");
            if counts.len() == wanted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, all_run).await;
    waited.unwrap_or_else(|_| panic!("{} of {wanted} run", running(engines).len()));
}

#[tokio::test]
async fn what_ran_on_a_tenth_of_the_fleet_runs_again_once() {
    let grace = |options: &mut skep::cluster::Options| {
        options.reschedule.grace = Duration::from_millis(200);
    };
    let bench = Bench::start_with(ENGINES, 0, grace).await;
    let moving = json!({"Image": "busybox", "Env": ["reschedule:on-node-failure"]}).to_string();
    let wanted = ENGINES * EACH;
    stream::iter(0..wanted)
        .for_each_concurrent(16, |number| {
            let (bench, moving) = (&bench, &moving);
            async move {
                let name = format!("c{number}");
                bench.create(&name, moving).await.unwrap();
                let found = bench.cluster.snapshot().container(&name).unwrap();
                let path = format!("/containers/{}/start", found.container.id);
                let client = &found.node.client;
                client.call(http::Method::POST, &path).await.unwrap();
            }
        })
        .await;
    let engines = bench.fleet.engines();
    until_all_run(engines, wanted).await;
    bench
        .until("the manager knows that all run", |snapshot| {
            let nodes = snapshot.nodes();
            let all = nodes.flat_map(|node| node.inventory.containers.values());
            all.filter(|one| one.state.running).count() == wanted
        })
        .await;
    let (dead, alive) = engines.split_at(DEAD);
    let stayed: BTreeMap<_, _> = running(alive);
    assert!(stayed.len() < wanted);

    for engine in dead {
        engine.die();
    }
    until_all_run(alive, wanted).await;
    for engine in dead {
        engine.come_back();
    }
    for engine in dead {
        engine
            .wait_for(|engine| engine.containers().is_empty())
            .await;
    }
    until_all_run(engines, wanted).await;
}
