//! Much at once, against the daemon as a process: it stays within its bounds, and says no to what is
//! too much.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
};

use futures_util::{StreamExt, future::join_all, stream};
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::Value;
use skep_fleet::{Event, Fleet, Shape, client::Client, daemon::Daemon, process};

use crate::{cluster::PATIENCE, kills::eventually};

/// The most memory that the daemon may hold in any of these storms, in bytes.
const MEMORY: u64 = 400 << 20;

struct Storm {
    fleet: Fleet,
    daemon: Daemon,
}

impl Storm {
    async fn over(fleet: Fleet) -> Self {
        raise_limit_of_files();
        let addrs: Vec<_> = fleet
            .engines()
            .iter()
            .map(|e| e.addr().to_string())
            .collect();
        let nodes = format!("nodes://{}", addrs.join(","));
        // An engine takes what it has and no more.
        let options = [
            "--cluster-opt",
            "swarm.overcommit=0",
            "--store",
            "none",
            &nodes,
        ];
        let daemon = Daemon::start(env!("CARGO_BIN_EXE_skep"), &options);
        let storm = Self { fleet, daemon };
        storm.await_healthy().await;
        storm
    }

    async fn client(&self) -> Client {
        Client::connect(self.daemon.addr()).await
    }

    async fn await_healthy(&self) {
        let engines = self.fleet.engines().len();
        self.daemon.await_healthy(engines, PATIENCE).await;
    }

    /// The containers that the daemon lists as running.
    async fn running(&self) -> usize {
        let (_, list) = self
            .client()
            .await
            .call(Method::GET, "/containers/json", "")
            .await;
        let list: Vec<Value> = serde_json::from_slice(&list).unwrap();
        list.len()
    }

    fn check_memory(&self) {
        let peak = process::peak(self.daemon.pid());
        assert!(peak < MEMORY, "{} MB", peak >> 20);
    }
}

/// Clients, engines and all their connections are in this process.
fn raise_limit_of_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_engines_restart_at_once() {
    let fleet = Fleet::builder().engines(100).containers(5);
    let storm = Storm::over(fleet.start().await.unwrap()).await;
    for engine in storm.fleet.engines() {
        engine.die();
    }
    for engine in storm.fleet.engines() {
        engine.come_back();
    }
    for engine in storm.fleet.engines() {
        let listens = engine.wait_for(|engine| engine.event_streams() == 1);
        let waited = tokio::time::timeout(PATIENCE, listens).await;
        assert!(waited.is_ok(), "{} is not followed again", engine.name());
    }
    storm.await_healthy().await;
    assert_eq!(storm.running().await, 500);
    storm.check_memory();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_containers_end_at_once() {
    let fleet = Fleet::builder().engines(10).containers(100);
    let storm = Storm::over(fleet.start().await.unwrap()).await;
    let inspections = || -> u64 {
        let engines = storm.fleet.engines().iter();
        engines
            .map(|engine| engine.requests("GET /containers/{id}/json"))
            .sum()
    };
    let before = inspections();
    for engine in storm.fleet.engines() {
        for container in engine.containers() {
            assert!(engine.exit(&container.id.to_string(), 1));
        }
    }
    eventually("none runs", async || storm.running().await == 0).await;
    let asked = inspections() - before;
    assert!(
        asked <= 3 * 1000,
        "{asked} inspections of a thousand containers"
    );
    storm.check_memory();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_floods_events_holds_up_no_other() {
    let fleet = Fleet::builder().engines(2).containers(1);
    let storm = Storm::over(fleet.start().await.unwrap()).await;
    let (loud, quiet) = (storm.fleet.engine(0), storm.fleet.engine(1));
    let before = loud.total_requests();
    for number in 0..50_000 {
        let id = format!("sha256:{number}");
        loud.emit(Event::new("image", "tag", id));
        if number % 1000 == 0 {
            // The flood goes on while others are served.
            tokio::task::yield_now().await;
        }
    }
    let id = quiet.containers()[0].id.to_string();
    quiet.exit(&id, 3);
    let mut client = storm.client().await;
    eventually("an event of the other engine is seen", async || {
        let path = format!("/containers/{id}/json");
        let (_, document) = client.call(Method::GET, &path, "").await;
        let document: Value = serde_json::from_slice(&document).unwrap();
        document["State"]["ExitCode"] == 3
    })
    .await;
    let asked = loud.total_requests() - before;
    assert!(asked < 5_000, "asked {asked} times for 50,000 events");
    storm.check_memory();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_of_events_that_never_reads_costs_the_others_nothing() {
    const FOLLOWERS: usize = 200;
    const EVENTS: usize = 5_000;
    let fleet = Fleet::builder().engines(2).containers(1);
    let storm = Storm::over(fleet.start().await.unwrap()).await;
    let mut deaf = storm.client().await;
    let unread = deaf.send(Method::GET, "/events", "").await;
    let mut followers = Vec::new();
    for _ in 1..FOLLOWERS {
        let mut client = storm.client().await;
        let stream = client.send(Method::GET, "/events", "").await;
        followers.push((client, stream.into_body()));
    }
    let engine = storm.fleet.engine(0);
    let heard = join_all(followers.into_iter().map(|(client, body)| async move {
        let count = count_until_last(body).await;
        drop(client);
        count
    }));
    let telling = async {
        for number in 1..=EVENTS {
            let name = if number == EVENTS { "last" } else { "image" };
            engine.emit(Event::new("image", "tag", name));
            if number % 50 == 0 {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        }
    };
    let both = async { tokio::join!(heard, telling) };
    let (counts, ()) = tokio::time::timeout(PATIENCE, both)
        .await
        .expect("all hear the last");
    assert!(counts.iter().all(|count| *count == EVENTS), "{counts:?}");
    storm.check_memory();
    drop(unread);
}

/// How many lines a stream of events has, up to the one of the image `last`.
async fn count_until_last(mut body: Incoming) -> usize {
    let (mut count, mut rest) = (0, Vec::new());
    loop {
        let frame = body.frame().await.expect("the stream lasts").unwrap();
        rest.extend_from_slice(frame.data_ref().map_or(&[], |data| &data[..]));
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            count += 1;
            if String::from_utf8_lossy(&line).contains("\"last\"") {
                return count;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_thousand_creates_those_that_fit_are_made() {
    const ENGINES: usize = 20;
    const FIT: usize = 1_000;
    const BODY: &str = r#"{"Image":"busybox","HostConfig":{"Memory":104857600}}"#;
    let shape = Shape {
        memory_bytes: (FIT / ENGINES) as u64 * (100 << 20),
        ..Shape::default()
    };
    let fleet = Fleet::builder().engines(ENGINES).shape(shape);
    let storm = Storm::over(fleet.start().await.unwrap()).await;
    let (made, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    stream::iter(0..2 * FIT)
        .for_each_concurrent(2 * FIT, async |number| {
            let path = format!("/containers/create?name=c{number}");
            let (status, answer) = storm.client().await.call(Method::POST, &path, BODY).await;
            let answer = String::from_utf8_lossy(&answer);
            match status {
                201 => made.fetch_add(1, Ordering::Relaxed),
                _ if answer.contains("no resources available to schedule container") => {
                    refused.fetch_add(1, Ordering::Relaxed)
                }
                _ => panic!("{status}: {answer}"),
            };
        })
        .await;
    assert_eq!((made.into_inner(), refused.into_inner()), (FIT, FIT));
    let engines = storm.fleet.engines().iter();
    let counts: BTreeMap<_, _> = engines.map(|e| (e.name(), e.containers().len())).collect();
    assert!(
        counts.values().all(|count| *count == FIT / ENGINES),
        "{counts:?}"
    );
    storm.check_memory();
}
