//! Engines that answer oddly, late, or not at all, and callers that crowd them.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use http::{Method, Request};
use http_body_util::BodyExt;
use skep::engine::{
    monitor::Refresh,
    transport::{TransportError, empty},
};
use skep_fleet::{Event, Fault, container::Phase};

use crate::cluster::{BODY, Bench, PATIENCE};

#[tokio::test]
async fn an_engine_whose_event_stream_ends_at_once_is_not_asked_in_a_hot_loop() {
    let bench = Bench::start(1, 0).await;
    let engine = bench.fleet.engine(0);
    engine.set_fault(Fault::DropEventStreams);
    let before = engine.requests("GET /info");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let asked = engine.requests("GET /info") - before;
    assert!(asked < 10, "asked {asked} times in two seconds");
}

#[tokio::test]
async fn an_engine_without_an_event_stream_still_refreshes_on_demand() {
    let bench = Bench::start(1, 1).await;
    let engine = bench.fleet.engine(0);
    engine.set_fault(Fault::DropEventStreams);
    let id = engine.containers()[0].id.to_string();
    for _ in 0..20 {
        engine.remove_silently(&id);
        bench
            .cluster
            .refresh(
                &engine.addr().to_string().parse().unwrap(),
                Refresh::Containers,
            )
            .await;
        assert!(bench.cluster.snapshot().container(&id).is_none());
    }
}

#[tokio::test]
async fn a_container_that_cannot_be_inspected_for_now_stays_known() {
    let bench = Bench::start(1, 1).await;
    let engine = bench.fleet.engine(0);
    let id = engine.containers()[0].id.to_string();
    engine.set_fault_on(
        "GET /containers/{id}/json",
        Fault::Error500("broken layer".to_owned()),
    );
    engine.mutate_silently(&id, Phase::Exited);
    let addr = engine.addr().to_string().parse().unwrap();
    for what in [Refresh::Containers, Refresh::Container(Arc::from(&*id))] {
        bench.cluster.refresh(&addr, what).await;
        let found = bench.cluster.snapshot().container(&id);
        assert!(found.is_some(), "its name would be free to take");
    }
}

#[tokio::test]
async fn a_create_whose_answer_is_lost_succeeds_if_the_container_is_there() {
    let bench = Bench::start_with(2, 0, |options| {
        options.request_timeout = Duration::from_secs(1);
        options.create_retries = 3;
    })
    .await;
    for engine in bench.fleet.engines() {
        engine.set_fault_on("POST /containers/create", Fault::LoseAnswer);
    }
    let id = bench.create("web", BODY).await.unwrap();
    let all: Vec<_> = bench
        .fleet
        .engines()
        .iter()
        .flat_map(|engine| engine.containers())
        .collect();
    assert_eq!(all.len(), 1, "never created twice");
    assert_eq!(all[0].id.to_string(), id);
}

#[tokio::test]
async fn streams_of_clients_leave_the_monitor_its_own_connections() {
    let bench = Bench::start_with(1, 1, |options| options.limits.max_connections = 2).await;
    let engine = bench.fleet.engine(0);
    let addr = engine.addr().to_string().parse().unwrap();
    let node = bench.cluster.snapshot().node(&addr).cloned().unwrap();
    let transport = node.client.transport();
    let mut streams = Vec::new();
    for _ in 0..2 {
        let request = Request::new(empty());
        streams.push(transport.send(request, "/events").await.unwrap());
    }
    let id = engine.containers()[0].id.to_string();
    engine.remove_silently(&id);
    bench.cluster.refresh(&addr, Refresh::Containers).await;
    assert!(bench.cluster.snapshot().container(&id).is_none());
    drop(streams);
}

#[tokio::test]
async fn a_burst_of_calls_waits_for_its_turn() {
    let bench = Bench::start_with(1, 0, |options| options.limits.max_connections = 2).await;
    let engine = bench.fleet.engine(0);
    let addr = engine.addr().to_string().parse().unwrap();
    let node = bench.cluster.snapshot().node(&addr).cloned().unwrap();
    engine.set_fault_on(
        "GET /version",
        Fault::Latency {
            base: Duration::from_millis(20),
            jitter: Duration::ZERO,
        },
    );
    let calls = (0..50).map(|_| async {
        let mut request = Request::new(empty());
        *request.method_mut() = Method::GET;
        let answer = node.client.transport().send(request, "/version").await?;
        answer.into_body().collect().await.unwrap();
        Ok::<_, TransportError>(())
    });
    for answer in join_all(calls).await {
        answer.unwrap();
    }
}

#[tokio::test]
async fn callers_that_never_pause_do_not_hold_up_events() {
    let bench = Bench::start(1, 1).await;
    let engine = bench.fleet.engine(0);
    let addr = engine.addr().to_string().parse().unwrap();
    let mut events = bench.cluster.subscribe();
    let seen = async {
        engine.emit(Event::new("image", "tag", "sha256:1"));
        events.future.recv().await.unwrap();
    };
    let callers = join_all((0..64).map(|_| async {
        loop {
            bench.cluster.refresh(&addr, Refresh::Containers).await;
        }
    }));
    tokio::select! {
        seen = tokio::time::timeout(PATIENCE, seen) => seen.unwrap(),
        _ = callers => unreachable!("they never end"),
    }
}

#[tokio::test]
async fn a_pull_that_hangs_ends_the_create_and_gives_the_name_back() {
    let bench = Bench::start_with(1, 0, |options| {
        options.request_timeout = Duration::from_millis(100);
    })
    .await;
    let engine = bench.fleet.engine(0);
    engine.set_fault_on("POST /images/create", Fault::Hang);
    let body = r#"{"Image":"not-there-yet"}"#;
    let error = tokio::time::timeout(PATIENCE, bench.create("web", body))
        .await
        .expect("the create ends")
        .unwrap_err();
    assert!(
        error.to_string().contains("did not answer within 1s"),
        "{error}"
    );
    engine.clear_faults();
    bench
        .until("the engine is healthy again", |snapshot| {
            snapshot.nodes().all(|node| node.inventory.is_healthy())
        })
        .await;
    bench.create("web", body).await.unwrap();
}

// U-ENG-12
#[tokio::test]
async fn a_container_that_vanishes_before_it_is_inspected_does_not_spoil_the_list() {
    const INSPECT: &str = "GET /containers/{id}/json";
    let bench = Bench::start(1, 0).await;
    bench.create("stays", BODY).await.unwrap();
    let engine = bench.fleet.engine(0);
    let fault = Fault::Latency {
        base: Duration::from_millis(500),
        jitter: Duration::ZERO,
    };
    engine.set_fault_on(INSPECT, fault);
    let before = engine.requests(INSPECT);
    let vanish = async {
        // It counts as it arrives, and is answered later.
        engine
            .wait_for(|engine| {
                // The event of the first create may have it inspected once more.
                engine.container("goes").is_some() && engine.requests(INSPECT) > before
            })
            .await;
        assert!(engine.remove_silently("goes"));
    };
    let both = async { tokio::join!(bench.create("goes", BODY), vanish) };
    let (created, ()) = tokio::time::timeout(PATIENCE, both).await.unwrap();
    created.unwrap();
    bench
        .until("the other container alone is left", |snapshot| {
            snapshot.container("goes").is_none() && snapshot.container("stays").is_some()
        })
        .await;
    assert!(
        bench
            .cluster
            .snapshot()
            .nodes()
            .all(|node| node.inventory.is_healthy())
    );
}
