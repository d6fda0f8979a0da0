//! Moves that meet trouble on their way.

use std::{sync::Arc, time::Duration};

use http::Method;
use serde_json::json;
use skep::cluster::nodes::Availability;
use skep_fleet::{Engine, Fault, Fleet};

use crate::{
    cluster::{BODY, Bench, PATIENCE},
    memory::Stage,
    reschedule::{
        body, creates, engine_of, find, list_all, make, movable, run, running, start_on_first,
        until_healthy, until_moved, until_waiting,
    },
};

async fn until(what: &str, check: impl Fn() -> bool) {
    let wait = async {
        while !check() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    waited.unwrap_or_else(|_| panic!("not seen in time: {what}"));
}

#[tokio::test]
async fn containers_that_one_needs_go_to_one_node_with_it() {
    let bench = start_on_first(4, Duration::ZERO).await;
    for name in ["db", "cache", "data"] {
        run(&bench, name, &movable()).await;
    }
    let needs = json!({
        "Links": ["db:db", "cache:cache"], "VolumesFrom": ["data"], "PidMode": "container:cache",
    });
    run(&bench, "web", &body("on-node-failure", needs)).await;
    let old = engine_of(&bench, "web");
    list_all(&bench).await;
    // It is the first choice, and the third one of them cannot be made there.
    let first = bench.fleet.engine(1);
    let starts = "POST /containers/{id}/start";
    old.die();
    first.wait_for(|engine| engine.requests(starts) >= 2).await;
    first.set_fault_on(starts, Fault::Error500("no such device".to_owned()));
    let new = until_moved(&bench, "web", &old, true).await;
    for name in ["db", "cache", "data"] {
        let place = until_moved(&bench, name, &old, true).await;
        assert_eq!(place.addr(), new.addr(), "{name}");
    }
    if new.addr() != first.addr() {
        first
            .wait_for(|engine| engine.containers().is_empty())
            .await;
    }
}

#[tokio::test]
async fn a_group_larger_than_the_limit_is_moved_too() {
    let fleet = Fleet::builder().engines(3).start().await.unwrap();
    let bench = Bench::over(fleet, |options| options.reschedule.max_moves = 2);
    bench.list(&[0]);
    until_healthy(&bench, 1).await;
    for name in ["a1", "b2", "c3", "net"] {
        run(&bench, name, &movable()).await;
    }
    for name in ["app", "log", "sum"] {
        let joined = json!({"NetworkMode": "container:net"});
        run(&bench, name, &body("on-node-failure", joined)).await;
    }
    let old = engine_of(&bench, "net");
    list_all(&bench).await;
    old.die();
    for name in ["net", "app", "log", "sum", "a1", "b2", "c3"] {
        until_moved(&bench, name, &old, true).await;
    }
    assert_eq!(creates(&bench.fleet), 14);
}

#[tokio::test]
async fn a_target_that_dies_in_the_middle_of_a_create_does_not_keep_the_name() {
    let bench = start_on_first(5, Duration::ZERO).await;
    run(&bench, "web", &movable()).await;
    let old = engine_of(&bench, "web");
    list_all(&bench).await;
    let others = &bench.fleet.engines()[1..];
    let create = "POST /containers/create";
    for engine in others {
        engine.set_fault_on(create, Fault::Hang);
    }
    old.die();
    let asked = |engine: &&Arc<Engine>| engine.requests(create) > 0;
    until("one is asked", || others.iter().any(|one| asked(&one))).await;
    let target = others.iter().find(asked).unwrap();
    target.die();
    for engine in others.iter().filter(|one| one.addr() != target.addr()) {
        engine.clear_faults();
    }
    let new = until_moved(&bench, "web", &old, true).await;
    assert_ne!(new.addr(), target.addr());
}

#[tokio::test]
async fn orders_and_drains_are_told_that_nothing_is_moved() {
    let bench = start_on_first(5, Duration::from_secs(3600)).await;
    for name in ["a1", "b2", "c3", "d4"] {
        run(&bench, name, &movable()).await;
    }
    list_all(&bench).await;
    for engine in &bench.fleet.engines()[2..] {
        engine.die();
    }
    until("nothing is moved", || !bench.cluster.troubles().is_empty()).await;
    let moved = bench.cluster.rebalance(1);
    let moved = tokio::time::timeout(PATIENCE, moved).await.unwrap();
    let error = moved[0].error.as_ref().unwrap();
    assert!(error.contains("nothing is rescheduled"), "{error}");
    make(&bench, bench.fleet.engine(0), Availability::Drain).await;
    let reason = until_waiting(&bench, "a1").await;
    assert!(reason.contains("nothing is rescheduled"), "{reason}");
    make(&bench, bench.fleet.engine(0), Availability::Active).await;

    // Nor does anybody wait for a manager that has ended.
    let snapshot = bench.cluster.snapshot();
    assert!(snapshot.container("a1").is_some());
    let plan = bench.cluster.plan_rebalance(1).await;
    assert_eq!(plan.len(), 1);
    let moved = bench.cluster.rebalance(1);
    let (moved, ()) = tokio::time::timeout(PATIENCE, async { tokio::join!(moved, bench.stop()) })
        .await
        .unwrap();
    assert!(moved.iter().all(|one| one.error.is_some()));
}

#[tokio::test]
async fn a_drain_that_a_manager_left_in_the_middle_is_ended_by_the_next() {
    let stage = Stage::new(2, 0).await;
    let bench = stage.start_with(false, |_| {});
    until_healthy(&bench, 2).await;
    run(&bench, "web", &movable()).await;
    let old = engine_of(&bench, "web");
    old.set_fault_on("POST /containers/{id}/stop", Fault::Hang);
    make(&bench, &old, Availability::Drain).await;
    old.wait_for(|engine| engine.requests("POST /containers/{id}/stop") > 0)
        .await;
    bench.stop().await;
    drop(bench);
    // The engine did what it was asked for, and nobody heard.
    old.clear_faults();
    assert!(old.exit("web", 0));

    let bench = stage.start_with(false, |_| {});
    until_moved(&bench, "web", &old, true).await;
    old.wait_for(|engine| engine.container("web").is_none())
        .await;
    assert_eq!(creates(&stage.fleet), 2);
    assert_eq!(running(&stage.fleet, "web"), 1);
}

#[tokio::test]
async fn an_older_copy_that_comes_up_late_is_removed() {
    let bench = start_on_first(3, Duration::ZERO).await;
    run(&bench, "web", &movable()).await;
    let old = engine_of(&bench, "web");
    list_all(&bench).await;
    old.die();
    let new = until_moved(&bench, "web", &old, true).await;
    let swarm_id = find(&bench, "web").container.swarm_id.clone().unwrap();
    let mut engines = bench.fleet.engines().iter();
    let third = engines.find(|engine| engine.addr() != old.addr() && engine.addr() != new.addr());
    let third = Arc::clone(third.unwrap());
    let addr = third.addr().to_string().parse().unwrap();
    let client = bench.cluster.snapshot().node(&addr).unwrap().client.clone();
    let late = json!({"Image": "busybox", "Labels": {"com.docker.swarm.id": &*swarm_id}});
    let made = client.create(None, "?name=web", late.to_string().into());
    made.await.unwrap();
    third
        .wait_for(|engine| engine.requests("DELETE /containers/{id}") > 0)
        .await;
    third
        .wait_for(|engine| engine.container("web").is_none())
        .await;
    assert!(new.container("web").unwrap().phase.is_running());
}

#[tokio::test]
async fn what_cannot_be_moved_for_long_is_forgotten_when_it_is_removed() {
    let bench = start_on_first(2, Duration::ZERO).await;
    let data = json!({"Binds": ["data:/data"]});
    run(&bench, "db", &body("on-node-failure", data)).await;
    run(&bench, "stays", BODY).await;
    let engine = engine_of(&bench, "db");
    list_all(&bench).await;
    make(&bench, &engine, Availability::Drain).await;
    until_waiting(&bench, "db").await;
    let place = find(&bench, "db");
    let path = format!("/containers/{}?force=1", place.container.id);
    place.node.client.call(Method::DELETE, &path).await.unwrap();
    let addr = &place.node.inventory.addr;
    let waits = || bench.cluster.why_waiting(addr, &place.container.id);
    until("it does not wait any more", || waits().is_none()).await;
}
