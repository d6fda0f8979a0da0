//! Nodes that fail: what ran on them runs again elsewhere, once.

use std::{sync::Arc, time::Duration};

use http::Method;
use serde_json::{Value, json};
use skep::{
    cluster::{
        nodes::{Availability, UpdateError},
        snapshot::{Found, Snapshot},
    },
    engine::monitor::Refresh,
    store::{Store, agents::Lease},
};
use skep_fleet::{Engine, Fault, Fleet};

use crate::{
    cluster::{BODY, Bench, PATIENCE},
    memory::Stage,
};

/// Long enough for a node to come back in it.
const GRACE: Duration = Duration::from_secs(2);

/// A fleet of which discovery lists the first engine only, so that creates go there.
pub async fn start_on_first(engines: usize, grace: Duration) -> Bench {
    let fleet = Fleet::builder().engines(engines).start().await.unwrap();
    let bench = Bench::over(fleet, |options| options.reschedule.grace = grace);
    bench.list(&[0]);
    until_healthy(&bench, 1).await;
    bench
}

/// Has discovery list all engines.
pub async fn list_all(bench: &Bench) {
    let all: Vec<usize> = (0..bench.fleet.engines().len()).collect();
    bench.list(&all);
    until_healthy(bench, all.len()).await;
}

pub async fn until_healthy(bench: &Bench, count: usize) {
    bench
        .until("all engines are healthy", |snapshot| {
            let nodes: Vec<_> = snapshot.nodes().collect();
            nodes.len() == count && nodes.iter().all(|node| node.inventory.is_healthy())
        })
        .await;
}

/// The body of a container with a reschedule policy.
pub fn body(policy: &str, host_config: Value) -> String {
    let body = json!({
        "Image": "busybox", "Cmd": ["sleep", "1000"], "Env": [format!("reschedule:{policy}"), "A=b"],
        "Labels": {"tier": "front"}, "HostConfig": host_config,
    });
    body.to_string()
}

pub fn movable() -> String {
    body("on-node-failure", json!({}))
}

/// Creates and starts a container.
pub async fn run(bench: &Bench, name: &str, body: &str) -> String {
    let id = bench.create(name, body).await.unwrap();
    call(bench, name, Method::POST, "start").await;
    let is_running = |snapshot: &Snapshot| {
        let found = snapshot.container(&id);
        found.is_some_and(|found| found.container.state.running)
    };
    bench.until("the container runs", is_running).await;
    id
}

pub async fn call(bench: &Bench, name: &str, method: Method, what: &str) {
    let Found { node, container } = find(bench, name);
    let path = format!("/containers/{}/{what}", container.id);
    node.client.call(method, &path).await.unwrap();
}

pub fn find(bench: &Bench, name: &str) -> Found {
    bench.cluster.snapshot().container(name).unwrap()
}

/// The engine that the snapshot shows a container on.
pub fn engine_of(bench: &Bench, name: &str) -> Arc<Engine> {
    let addr = find(bench, name).node.inventory.addr.to_string();
    let mut engines = bench.fleet.engines().iter();
    let engine = engines.find(|engine| engine.addr().to_string() == addr);
    Arc::clone(engine.unwrap())
}

/// Waits until a container is on another engine than `old` and nowhere else, started or not.
pub async fn until_moved(bench: &Bench, name: &str, old: &Engine, runs: bool) -> Arc<Engine> {
    let addr = old.addr().to_string();
    bench
        .until(&format!("{name} is elsewhere"), |snapshot| {
            let nodes = snapshot.nodes();
            let all = nodes.flat_map(|node| node.inventory.containers.values());
            let count = all.filter(|container| container.name() == name).count();
            let found = snapshot.container(name);
            let is_there = found.is_some_and(|found| {
                let is_elsewhere = found.node.inventory.addr.to_string() != addr;
                is_elsewhere && found.container.state.running == runs
            });
            is_there && count == 1
        })
        .await;
    engine_of(bench, name)
}

/// Waits until the cluster says why a container waits.
pub async fn until_waiting(bench: &Bench, name: &str) -> Arc<str> {
    let wait = async {
        loop {
            let Found { node, container } = find(bench, name);
            let addr = &node.inventory.addr;
            if let Some(reason) = bench.cluster.why_waiting(addr, &container.id) {
                return reason;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    waited.unwrap_or_else(|_| panic!("never said why {name} waits"))
}

/// How many create requests all engines have had.
pub fn creates(fleet: &Fleet) -> usize {
    let engines = fleet.engines().iter();
    engines.map(|engine| engine.create_bodies().len()).sum()
}

// I-RSC-1, I-RSC-4
#[tokio::test]
async fn what_ran_on_a_node_that_failed_runs_on_another() {
    let bench = start_on_first(3, Duration::ZERO).await;
    let old_id = run(&bench, "web", &movable()).await;
    run(&bench, "stays", BODY).await;
    let old = engine_of(&bench, "web");
    let before = find(&bench, "web").container;
    list_all(&bench).await;

    old.die();
    let new = until_moved(&bench, "web", &old, true).await;
    let after = find(&bench, "web").container;
    assert_eq!(after.swarm_id, before.swarm_id);
    assert_eq!(after.labels.get("tier"), Some("front"));
    assert_eq!((before.fence(), after.fence()), (0, 1));
    assert_eq!(engine_of(&bench, "stays").addr(), old.addr());
    let swarm_id = before.swarm_id.clone().unwrap();
    assert_eq!(find(&bench, &swarm_id).container.id, after.id);
    assert!(bench.cluster.snapshot().container(&old_id).is_none());
    let asked: Value = serde_json::from_slice(new.create_bodies().last().unwrap()).unwrap();
    assert!(asked["Env"].as_array().unwrap().contains(&json!("A=b")));

    // The old one goes when its node is back, and is not shown before.
    old.come_back();
    old.wait_for(|engine| engine.container(&old_id).is_none())
        .await;
    until_healthy(&bench, 3).await;
    assert_eq!(find(&bench, "web").container.id, after.id);
    assert!(old.container("stays").unwrap().phase.is_running());

    // It moves once more, with a greater token.
    new.die();
    until_moved(&bench, "web", &new, true).await;
    assert_eq!(find(&bench, "web").container.fence(), 2);
}

#[tokio::test]
async fn a_node_that_is_back_within_the_grace_period_keeps_its_containers() {
    let bench = start_on_first(3, GRACE).await;
    run(&bench, "web", &movable()).await;
    let old = engine_of(&bench, "web");
    list_all(&bench).await;
    for _ in 0..5 {
        old.die();
        bench
            .until("the node is down", |snapshot| {
                snapshot.nodes().any(|node| !node.inventory.is_healthy())
            })
            .await;
        old.come_back();
        until_healthy(&bench, 3).await;
    }
    assert_eq!(engine_of(&bench, "web").addr(), old.addr());
    old.die();
    until_moved(&bench, "web", &old, true).await;
    assert_eq!(creates(&bench.fleet), 2);
}

#[tokio::test]
async fn a_container_with_data_waits_for_its_node_unless_told_otherwise() {
    let bench = start_on_first(3, Duration::ZERO).await;
    let policy = "on-node-failure";
    for (name, policy, binds) in [
        ("volume", policy, "data:/data"),
        ("writable", policy, "/srv:/srv"),
        ("readonly", policy, "/srv:/srv:ro"),
        ("forced", "on-node-failure,stateful=force", "more:/data"),
    ] {
        run(&bench, name, &body(policy, json!({"Binds": [binds]}))).await;
    }
    let old = engine_of(&bench, "volume");
    list_all(&bench).await;
    old.die();
    until_moved(&bench, "readonly", &old, true).await;
    until_moved(&bench, "forced", &old, true).await;
    let reason = until_waiting(&bench, "volume").await;
    assert_eq!(&*reason, "the volume data is on its node alone");
    let reason = until_waiting(&bench, "writable").await;
    assert_eq!(&*reason, "the writable directory /srv is on its node alone");
    for name in ["volume", "writable"] {
        assert_eq!(engine_of(&bench, name).addr(), old.addr());
    }
    // What waited is as it was when its node is back.
    old.come_back();
    until_healthy(&bench, 3).await;
    let Found { node, container } = find(&bench, "volume");
    assert!(container.state.running);
    let waits = || {
        bench
            .cluster
            .why_waiting(&node.inventory.addr, &container.id)
    };
    let forgotten = async {
        while waits().is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, forgotten).await.unwrap();
}

#[tokio::test]
async fn nothing_moves_while_most_of_the_fleet_is_out_of_reach() {
    let bench = start_on_first(4, Duration::ZERO).await;
    run(&bench, "web", &movable()).await;
    let old = engine_of(&bench, "web");
    list_all(&bench).await;
    // The others seem well for a while: nobody asks them.
    for engine in &bench.fleet.engines()[1..3] {
        engine.set_fault(Fault::Hang);
    }
    old.die();
    let halted = async {
        while bench.cluster.troubles().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, halted).await.unwrap();
    let trouble = bench.cluster.troubles().remove(0);
    assert!(
        trouble.starts_with("3 of 4 nodes are out of reach, more than 50 %"),
        "{trouble}"
    );
    assert_eq!(creates(&bench.fleet), 1);
    for engine in &bench.fleet.engines()[1..3] {
        engine.clear_faults();
    }
    until_moved(&bench, "web", &old, true).await;
    assert!(bench.cluster.troubles().is_empty());
}

#[tokio::test]
async fn what_was_out_of_reach_together_has_the_grace_period_to_come_back() {
    let bench = start_on_first(4, GRACE).await;
    run(&bench, "web", &movable()).await;
    let last = engine_of(&bench, "web");
    list_all(&bench).await;
    let mut others: Vec<_> = bench.fleet.engines().to_vec();
    others.retain(|engine| engine.addr() != last.addr());
    last.die();
    for engine in &others[..2] {
        engine.die();
    }
    let is_halted = |expected: bool| {
        let cluster = &bench.cluster;
        let changed = async move {
            while cluster.troubles().is_empty() == expected {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, changed)
    };
    is_halted(true).await.unwrap();
    // Long enough for each of them to have failed on its own.
    tokio::time::sleep(GRACE).await;
    others[0].come_back();
    is_halted(false).await.unwrap();
    tokio::time::sleep(GRACE / 2).await;
    others[1].come_back();
    last.come_back();
    until_healthy(&bench, 4).await;
    assert_eq!(engine_of(&bench, "web").addr(), last.addr());
    assert_eq!(creates(&bench.fleet), 1);
}

#[tokio::test]
async fn what_was_stopped_is_not_started_elsewhere_but_what_went_down_with_its_engine_is() {
    let bench = start_on_first(3, Duration::ZERO).await;
    for name in ["stopped", "shut-down", "never-ran"] {
        match name {
            "never-ran" => bench.create(name, &movable()).await.unwrap(),
            _ => run(&bench, name, &movable()).await,
        };
    }
    let old = engine_of(&bench, "stopped");
    list_all(&bench).await;
    let Found { node, container } = find(&bench, "stopped");
    bench
        .cluster
        .note_wish(&node.inventory.addr, &container.id, false);
    for name in ["stopped", "shut-down"] {
        assert!(old.exit(name, 137));
        bench
            .until("it has ended", |snapshot| {
                !snapshot.container(name).unwrap().container.state.running
            })
            .await;
    }
    old.die();
    until_moved(&bench, "shut-down", &old, true).await;
    until_moved(&bench, "stopped", &old, false).await;
    until_moved(&bench, "never-ran", &old, false).await;
}

#[tokio::test]
async fn containers_that_need_each_other_move_together_in_order() {
    let bench = start_on_first(4, Duration::ZERO).await;
    run(&bench, "net", &movable()).await;
    let id = find(&bench, "net").container.id.to_string();
    let joined = json!({"NetworkMode": format!("container:{id}")});
    run(&bench, "app", &body("on-node-failure", joined)).await;
    let from = json!({"VolumesFrom": ["app:ro"]});
    run(&bench, "backup", &body("on-node-failure", from)).await;
    // It needs one that has no policy.
    run(&bench, "anchor", BODY).await;
    let from = json!({"VolumesFrom": ["anchor"]});
    run(&bench, "bound", &body("on-node-failure", from)).await;
    let old = engine_of(&bench, "net");
    list_all(&bench).await;

    old.die();
    for name in ["net", "app", "backup"] {
        until_moved(&bench, name, &old, true).await;
    }
    let Found { node, container } = find(&bench, "app");
    assert_eq!(&*container.network_mode, "container:net");
    let made: Vec<String> = node
        .inventory
        .containers
        .values()
        .map(|container| container.name().to_owned())
        .collect();
    let bodies = engine_of(&bench, "app").create_bodies();
    let modes: Vec<Value> = bodies
        .iter()
        .map(|body| serde_json::from_slice::<Value>(body).unwrap())
        .map(|body| body["HostConfig"]["NetworkMode"].clone())
        .collect();
    let position = |wanted: &Value| modes.iter().position(|mode| mode == wanted);
    assert!(
        position(&json!("default")) < position(&json!("container:net")),
        "{made:?}"
    );
    let reason = until_waiting(&bench, "bound").await;
    assert_eq!(&*reason, "it needs anchor, which has no reschedule policy");
}

#[tokio::test]
async fn a_copy_that_cannot_be_started_is_made_elsewhere() {
    let bench = start_on_first(3, Duration::ZERO).await;
    run(&bench, "web", &movable()).await;
    let old = engine_of(&bench, "web");
    let broken = bench.fleet.engine(1);
    let fault = Fault::Error500("no such device".to_owned());
    broken.set_fault_on("POST /containers/{id}/start", fault);
    list_all(&bench).await;
    old.die();
    let new = until_moved(&bench, "web", &old, true).await;
    assert_eq!(new.addr(), bench.fleet.engine(2).addr());
    assert!(broken.containers().is_empty());
    assert_eq!(broken.create_bodies().len(), 1);
}

#[tokio::test]
async fn a_node_that_only_left_discovery_keeps_its_containers_while_it_answers() {
    let bench = start_on_first(4, Duration::ZERO).await;
    run(&bench, "web", &movable()).await;
    let old = engine_of(&bench, "web");
    list_all(&bench).await;
    let pings = old.requests("GET /_ping");
    bench.list(&[1, 2, 3]);
    until_healthy(&bench, 3).await;
    let asked = async {
        while old.requests("GET /_ping") < pings + 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.unwrap();
    assert_eq!(creates(&bench.fleet), 1);
    // When it dies after all, its containers do not die with it.
    old.die();
    until_moved(&bench, "web", &old, true).await;
    old.come_back();
    bench.list(&[0, 1, 2, 3]);
    old.wait_for(|engine| engine.container("web").is_none())
        .await;
}

#[tokio::test]
async fn a_manager_that_was_not_there_when_the_node_died_catches_up() {
    let stage = Stage::new(3, 0).await;
    let options = |options: &mut skep::cluster::Options| {
        options.reschedule.grace = Duration::ZERO;
    };
    let bench = stage.start_with(false, options);
    until_healthy(&bench, 3).await;
    run(&bench, "web", &movable()).await;
    let old = engine_of(&bench, "web");
    bench.stop().await;
    drop(bench);

    old.die();
    let bench = stage.start_with(false, options);
    let new = until_moved(&bench, "web", &old, true).await;
    bench.stop().await;
    drop(bench);

    // The next one knows that the old container has to go, wherever the new one is.
    new.die();
    old.come_back();
    let bench = stage.start_with(false, |options| {
        options.reschedule.grace = Duration::from_secs(3600);
    });
    old.wait_for(|engine| engine.container("web").is_none())
        .await;
    until_waiting_for_node(&bench, "web").await;
    assert!(new.container("web").unwrap().phase.is_running());
}

#[tokio::test]
async fn a_node_that_died_and_left_while_no_manager_ran_is_looked_for() {
    let stage = Stage::new(4, 0).await;
    let options = |options: &mut skep::cluster::Options| {
        options.reschedule.grace = Duration::ZERO;
    };
    let bench = stage.start_with(false, options);
    until_healthy(&bench, 4).await;
    for name in ["one", "two", "three", "four"] {
        run(&bench, name, &movable()).await;
    }
    let all = &stage.fleet.engines();
    let name_on = |engine: &Engine| {
        let names = ["one", "two", "three", "four"].into_iter();
        let mut there = names.filter(|name| engine.container(name).is_some());
        there.next().unwrap()
    };
    let (dead, taken_out) = (Arc::clone(&all[0]), Arc::clone(&all[1]));
    let (moves, stays) = (name_on(&dead), name_on(&taken_out));
    bench.stop().await;
    drop(bench);

    // Discovery has neither any more; one of them is well.
    dead.die();
    let bench = stage.start_with(false, options);
    bench.list(&[2, 3]);
    bench
        .until("what was lost runs again", |snapshot| {
            let found = snapshot.container(moves);
            found.is_some_and(|found| found.container.state.running)
        })
        .await;
    assert_eq!(creates(&stage.fleet), 5);
    assert!(taken_out.container(stays).unwrap().phase.is_running());

    // When it is listed again, what was made anew has to go there.
    dead.come_back();
    bench.list(&[0, 1, 2, 3]);
    dead.wait_for(|engine| engine.container(moves).is_none())
        .await;
    until_healthy(&bench, 4).await;
    assert_eq!(creates(&stage.fleet), 5);
}

/// Waits until a container is known to be on a node that is down.
async fn until_waiting_for_node(bench: &Bench, name: &str) {
    bench
        .until("its node is known to be down", |snapshot| {
            let found = snapshot.container(name);
            found.is_some_and(|found| !found.node.inventory.is_healthy())
        })
        .await;
}

#[tokio::test]
async fn what_a_manager_left_half_done_is_ended_by_the_next() {
    let stage = Stage::new(3, 0).await;
    let options = |options: &mut skep::cluster::Options| {
        options.reschedule.grace = Duration::ZERO;
    };
    let bench = stage.start_with(false, options);
    until_healthy(&bench, 3).await;
    run(&bench, "web", &movable()).await;
    let old = engine_of(&bench, "web");
    let others = || bench_others(&stage.fleet, &old);
    for engine in others() {
        engine.set_fault_on("POST /containers/{id}/start", Fault::Hang);
    }
    old.die();
    bench
        .until("the copy is made", |snapshot| {
            snapshot.nodes().any(|node| {
                let mut containers = node.inventory.containers.values();
                containers.any(|container| container.fence() == 1)
            })
        })
        .await;
    bench.stop().await;
    drop(bench);

    for engine in others() {
        engine.clear_faults();
    }
    let bench = stage.start_with(false, options);
    until_moved(&bench, "web", &old, true).await;
    assert_eq!(creates(&stage.fleet), 2);
    assert_eq!(find(&bench, "web").container.fence(), 1);
}

fn bench_others(fleet: &Fleet, old: &Engine) -> Vec<Arc<Engine>> {
    let engines = fleet.engines().iter();
    engines
        .filter(|engine| engine.addr() != old.addr())
        .cloned()
        .collect()
}

/// Says what a node is good for.
pub async fn make(bench: &Bench, engine: &Engine, availability: Availability) {
    let addr = engine.addr().to_string().parse().unwrap();
    let before = bench.cluster.settings(&addr);
    let updated = bench
        .cluster
        .update_settings(&addr, before.version, availability, before.labels);
    updated.await.unwrap();
}

/// How many engines run a container of this name.
pub fn running(fleet: &Fleet, name: &str) -> usize {
    let engines = fleet.engines().iter();
    let containers = engines.filter_map(|engine| engine.container(name));
    let running = containers.filter(|container| container.phase.is_running());
    running.count()
}

#[tokio::test]
async fn a_drained_node_loses_what_may_move_which_never_stops_running() {
    let bench = start_on_first(3, Duration::ZERO).await;
    run(&bench, "net", &movable()).await;
    let joined = json!({"NetworkMode": "container:net"});
    run(&bench, "app", &body("on-node-failure", joined)).await;
    let data = json!({"Binds": ["data:/data"]});
    run(&bench, "db", &body("on-node-failure", data)).await;
    run(&bench, "stays", BODY).await;
    let old = engine_of(&bench, "net");
    list_all(&bench).await;

    let fleet = Arc::clone(&bench.fleet);
    let sampler = tokio::spawn(async move {
        loop {
            for name in ["net", "app", "db", "stays"] {
                assert!(running(&fleet, name) >= 1, "{name} does not run");
            }
            tokio::task::yield_now().await;
        }
    });
    make(&bench, &old, Availability::Drain).await;
    for name in ["net", "app"] {
        until_moved(&bench, name, &old, true).await;
        old.wait_for(|engine| engine.container(name).is_none())
            .await;
    }
    assert_eq!(old.requests("POST /containers/{id}/stop"), 2);
    let reason = until_waiting(&bench, "db").await;
    assert_eq!(&*reason, "the volume data is on its node alone");
    assert!(!sampler.is_finished());
    sampler.abort();

    // It takes none while it is drained, and takes some again afterwards: it has the fewest.
    bench.create("new", BODY).await.unwrap();
    assert_ne!(engine_of(&bench, "new").addr(), old.addr());
    make(&bench, &old, Availability::Active).await;
    for name in ["db", "stays"] {
        old.remove_silently(name);
    }
    let addr = old.addr().to_string().parse().unwrap();
    bench.cluster.refresh(&addr, Refresh::Containers).await;
    bench.create("newer", BODY).await.unwrap();
    assert_eq!(engine_of(&bench, "newer").addr(), old.addr());
}

#[tokio::test]
async fn a_group_of_which_one_cannot_run_elsewhere_stays_as_it_is() {
    let bench = start_on_first(2, Duration::ZERO).await;
    run(&bench, "net", &movable()).await;
    let joined = json!({"NetworkMode": "container:net"});
    run(&bench, "app", &body("on-node-failure", joined)).await;
    let (old, other) = (engine_of(&bench, "net"), bench.fleet.engine(1));
    list_all(&bench).await;
    let fault = Fault::Error500("no space left".to_owned());
    make(&bench, &old, Availability::Pause).await;
    // Whatever is created as the second one fails.
    other.set_fault_on("POST /containers/{id}/start", fault);
    make(&bench, &old, Availability::Drain).await;
    let reason = until_waiting(&bench, "net").await;
    assert!(reason.contains("no space left"), "{reason}");
    let reason = until_waiting(&bench, "app").await;
    assert!(reason.starts_with("net, which moves with it,"), "{reason}");
    for name in ["net", "app"] {
        assert!(old.container(name).unwrap().phase.is_running());
    }
    other
        .wait_for(|engine| engine.containers().is_empty())
        .await;
    other.clear_faults();
    for name in ["net", "app"] {
        until_moved(&bench, name, &old, true).await;
    }
}

#[tokio::test]
async fn what_is_said_of_a_node_outlives_the_manager() {
    let stage = Stage::new(2, 0).await;
    let bench = stage.start_with(false, |_| {});
    until_healthy(&bench, 2).await;
    let engine = Arc::clone(bench.fleet.engine(0));
    let addr = engine.addr().to_string().parse().unwrap();
    let labels = [("rack".to_owned(), "a".to_owned())].into();
    let said = bench
        .cluster
        .update_settings(&addr, 0, Availability::Pause, labels);
    said.await.unwrap();
    let late = bench
        .cluster
        .update_settings(&addr, 0, Availability::Active, Default::default());
    let error = late.await.unwrap_err();
    assert!(matches!(error, UpdateError::OutOfSequence), "{error}");
    bench.stop().await;
    drop(bench);

    let bench = stage.start_with(false, |_| {});
    until_healthy(&bench, 2).await;
    for name in ["a1", "b2", "c3"] {
        bench.create(name, BODY).await.unwrap();
        assert_ne!(engine_of(&bench, name).addr(), engine.addr());
    }
    let said = bench.cluster.settings(&addr);
    assert_eq!((said.version, said.availability), (1, Availability::Pause));
    assert_eq!(said.labels["rack"], "a");
}

#[tokio::test]
async fn nothing_moves_while_the_agent_of_its_node_has_a_lease() {
    let stage = Stage::new(3, 0).await;
    let bench = stage.start_with(false, |_| {});
    until_healthy(&bench, 3).await;
    run(&bench, "web", &movable()).await;
    let old = engine_of(&bench, "web");
    let key = format!("test/agents/{}", old.addr());
    let store = Arc::clone(&stage.store);
    let renewed = tokio_util::sync::CancellationToken::new();
    let agent = renewed.clone().run_until_cancelled_owned(async move {
        for beat in 0.. {
            let lease = Lease {
                ttl: Duration::from_secs(1),
                boot: 1,
                beat,
            };
            store.store.put(&key, lease.to_json().into()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    let agent = tokio::spawn(agent);
    let written = async {
        let key = format!("test/agents/{}", old.addr());
        while stage.store.store.get(&key).await.unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, written).await.unwrap();
    // An engine may run another one that is not fenced.
    run(&bench, "a1", BODY).await;
    run(&bench, "b2", BODY).await;
    let loose = body("on-node-failure,fence=off", json!({}));
    run(&bench, "loose", &loose).await;
    assert_eq!(engine_of(&bench, "loose").addr(), old.addr());
    old.die();
    until_moved(&bench, "loose", &old, true).await;
    let reason = until_waiting(&bench, "web").await;
    assert!(reason.contains("has a lease"), "{reason}");
    // Longer than one lease lasts.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(running(&bench.fleet, "web"), 1);
    renewed.cancel();
    agent.await.unwrap();
    until_moved(&bench, "web", &old, true).await;
}

#[tokio::test]
async fn a_rebalance_moves_what_gains_and_then_nothing() {
    let bench = start_on_first(3, Duration::ZERO).await;
    run(&bench, "stays", BODY).await;
    for name in ["a1", "b2", "c3", "d4", "e5", "f6"] {
        run(&bench, name, &movable()).await;
    }
    let old = engine_of(&bench, "stays");
    list_all(&bench).await;
    let plan = bench.cluster.plan_rebalance(10).await;
    assert_eq!(plan.len(), 4, "7, 0, 0 becomes 3, 2, 2");
    assert_eq!(creates(&bench.fleet), 7, "a plan moves nothing");
    let gains: Vec<u32> = plan.iter().map(|one| one.shift.containers).collect();
    assert_eq!(gains, [6, 5, 3, 2]);

    let fleet = Arc::clone(&bench.fleet);
    let sampler = tokio::spawn(async move {
        loop {
            for name in ["a1", "b2", "c3", "d4", "e5", "f6", "stays"] {
                assert!(running(&fleet, name) >= 1, "{name} does not run");
            }
            tokio::task::yield_now().await;
        }
    });
    for count in [1, 3] {
        let moved = bench.cluster.rebalance(count).await;
        assert_eq!(moved.len(), count);
        for one in moved {
            assert_eq!(one.error, None);
        }
    }
    assert!(bench.cluster.plan_rebalance(10).await.is_empty());
    assert!(!sampler.is_finished());
    sampler.abort();
    for engine in bench.fleet.engines() {
        let count = if engine.addr() == old.addr() { 3 } else { 2 };
        engine
            .wait_for(|engine| engine.containers().len() == count)
            .await;
    }
    assert_eq!(engine_of(&bench, "stays").addr(), old.addr());
}

#[tokio::test]
async fn a_fleet_can_be_kept_in_balance() {
    let fleet = Fleet::builder().engines(2).start().await.unwrap();
    let bench = Bench::over(fleet, |options| {
        options.rebalance = Some((Duration::from_millis(100), 5));
    });
    bench.list(&[0]);
    until_healthy(&bench, 1).await;
    for name in ["a1", "b2", "c3", "d4"] {
        run(&bench, name, &movable()).await;
    }
    bench.list(&[0, 1]);
    for engine in bench.fleet.engines() {
        engine
            .wait_for(|engine| engine.containers().len() == 2)
            .await;
    }
}
