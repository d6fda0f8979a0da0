//! Agents beside their engines, and what managers make of their leases.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::json;
use skep::{
    agent,
    engine::{
        client::Client,
        transport::{Limits, Transport},
    },
    store::{
        Store,
        agents::{Answer, FencedContainer, Lease, Word},
    },
};
use skep_fleet::{Engine, Fault, Fleet, container::Phase};
use tokio::{net::TcpListener, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    cluster::{BODY, PATIENCE},
    memory::Stage,
    reschedule::{body, engine_of, find, movable, run, start_on_first, until_healthy, until_moved},
};

/// Short, so that tests are.
const TTL: Duration = Duration::from_secs(2);

/// A manager as an agent sees it.
struct Manager {
    addr: String,
    is_silent: AtomicBool,
    answer: Mutex<Answer>,
    renewals: AtomicUsize,
    told: Mutex<Vec<Vec<FencedContainer>>>,
}

impl Manager {
    async fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let manager = Arc::new(Self {
            addr: listener.local_addr().unwrap().to_string(),
            is_silent: AtomicBool::new(false),
            answer: Mutex::new(Answer {
                word: Word::Renewed,
                counts: true,
                managers: None,
                superseded: None,
            }),
            renewals: AtomicUsize::new(0),
            told: Mutex::default(),
        });
        let served = Arc::clone(&manager);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let manager = Arc::clone(&served);
                let service = service_fn(move |request| Arc::clone(&manager).serve(request));
                let connection =
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(async move {
                    let _ = connection.await;
                });
            }
        });
        manager
    }

    async fn serve(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> hyper::Result<Response<Full<Bytes>>> {
        let is_renewal = request.uri().path().ends_with("/lease");
        let body = request.into_body().collect().await?.to_bytes();
        if self.is_silent.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let answer = if is_renewal {
            self.renewals.fetch_add(1, Ordering::SeqCst);
            self.answer.lock().unwrap().to_json()
        } else {
            let told = serde_json::from_slice(&body).unwrap();
            self.told.lock().unwrap().push(told);
            Vec::new()
        };
        Ok(Response::new(Full::new(answer.into())))
    }

    fn renewals(&self) -> usize {
        self.renewals.load(Ordering::SeqCst)
    }

    fn told(&self) -> Vec<Vec<FencedContainer>> {
        self.told.lock().unwrap().clone()
    }

    fn set_silent(&self, is_silent: bool) {
        self.is_silent.store(is_silent, Ordering::SeqCst);
    }

    fn set_answer(&self, change: impl FnOnce(&mut Answer)) {
        change(&mut self.answer.lock().unwrap());
    }

    /// Waits for so many more renewals.
    async fn await_renewals(&self, more: usize) {
        let wanted = self.renewals() + more;
        until("the lease is renewed", || self.renewals() >= wanted).await;
    }
}

async fn until(what: &str, check: impl Fn() -> bool) {
    let wait = async {
        while !check() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    waited.unwrap_or_else(|_| panic!("not seen in time: {what}"));
}

/// An engine, and a directory for its agent's note.
struct Node {
    fleet: Fleet,
    directory: tempfile::TempDir,
}

/// Runs until this is dropped.
struct Agent {
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Agent {
    /// Ends it in order.
    async fn stop(mut self) {
        self.shutdown.cancel();
        (&mut self.task).await.unwrap();
    }
}

impl Node {
    async fn new() -> Self {
        Self {
            fleet: Fleet::builder().engines(1).start().await.unwrap(),
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn engine(&self) -> &Arc<Engine> {
        self.fleet.engine(0)
    }

    fn client(&self) -> Client {
        let limits = Limits::new(TTL, 16, 1);
        let addr = self.engine().addr().to_string().parse().unwrap();
        Client::new(Arc::new(Transport::new(addr, &limits)), TTL)
    }

    async fn run(&self, name: &str, auto_remove: bool) -> String {
        let client = self.client();
        let body = json!({
            "Image": "busybox", "Cmd": ["sleep", "1000"],
            "Labels": {"com.docker.swarm.reschedule-policies": r#"["on-node-failure"]"#},
            "HostConfig": {"AutoRemove": auto_remove},
        });
        let query = format!("?name={name}");
        let created = client.create(None, &query, body.to_string().into());
        let created: serde_json::Value = serde_json::from_slice(&created.await.unwrap()).unwrap();
        self.call(name, "start").await;
        created["Id"].as_str().unwrap().to_owned()
    }

    async fn call(&self, name: &str, what: &str) {
        let path = format!("/containers/{name}/{what}");
        self.client().call(Method::POST, &path).await.unwrap();
    }

    async fn until_phase(&self, name: &str, phase: Phase) {
        let check = |engine: &Engine| {
            let container = engine.container(name);
            container.is_some_and(|container| container.phase == phase)
        };
        let waited = tokio::time::timeout(PATIENCE, self.engine().wait_for(check)).await;
        waited.unwrap_or_else(|_| panic!("{name} is not {phase} in time"));
    }

    fn start_agent(&self, managers: &[&str]) -> Agent {
        self.start_agent_in(self.directory.path(), managers)
    }

    fn start_agent_in(&self, state: &Path, managers: &[&str]) -> Agent {
        let options = agent::Options {
            addr: self.engine().addr().to_string(),
            engine: self.client(),
            ttl: TTL,
            store: None,
            managers: managers.iter().map(|&addr| addr.to_owned()).collect(),
            tls: None,
            state_dir: Some(state.to_owned()),
        };
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(agent::keep_lease(options, shutdown.clone()));
        Agent { shutdown, task }
    }
}

#[tokio::test]
async fn an_agent_stops_when_its_lease_ends_whatever_it_waits_for() {
    let node = Node::new().await;
    let manager = Manager::start().await;
    node.run("first", false).await;
    let _agent = node.start_agent(&[&manager.addr]);
    manager.await_renewals(1).await;
    manager.set_silent(true);
    node.until_phase("first", Phase::Exited).await;

    // Now it has something to tell, and its engine does not answer.
    node.run("second", false).await;
    node.until_phase("second", Phase::Exited).await;
    node.engine()
        .set_fault_on("GET /containers/{id}/json", Fault::Hang);
    manager.set_silent(false);
    manager.await_renewals(1).await;
    node.run("third", false).await;
    manager.set_silent(true);
    let silent_at = Instant::now();
    let stopped = node.engine().wait_for(|engine| {
        let container = engine.container("third");
        container.is_some_and(|container| container.phase != Phase::Running)
    });
    tokio::time::timeout(PATIENCE, stopped).await.unwrap();
    // The engine is waited for three times as long for each of two containers.
    assert!(silent_at.elapsed() < 5 * TTL);
}

#[tokio::test]
async fn what_would_be_removed_when_it_ends_is_frozen() {
    let node = Node::new().await;
    let manager = Manager::start().await;
    let id = node.run("once", true).await;
    let _agent = node.start_agent(&[&manager.addr]);
    manager.await_renewals(1).await;
    manager.set_silent(true);
    node.until_phase("once", Phase::Paused).await;
    manager.set_silent(false);
    until("the manager is told", || !manager.told().is_empty()).await;
    let frozen = FencedContainer { id, ended_at: None };
    assert_eq!(manager.told()[0], [frozen]);
    // Nothing more is to be said of it once it goes on.
    node.call("once", "unpause").await;
    manager.await_renewals(2).await;
    let count = manager.told().len();
    manager.await_renewals(2).await;
    assert_eq!(manager.told().len(), count);
    assert_eq!(
        node.engine().container("once").unwrap().phase,
        Phase::Running
    );
}

#[tokio::test]
async fn what_a_user_stopped_again_is_not_told_of_any_more() {
    let node = Node::new().await;
    let manager = Manager::start().await;
    let id = node.run("web", false).await;
    let _agent = node.start_agent(&[&manager.addr]);
    manager.await_renewals(1).await;
    manager.set_silent(true);
    node.until_phase("web", Phase::Exited).await;
    manager.set_silent(false);
    until("the manager is told", || !manager.told().is_empty()).await;
    let told = manager.told()[0].clone();
    assert_eq!(told[0].id, id);
    assert!(told[0].ended_at.as_ref().is_some_and(|at| !at.is_empty()));
    node.call("web", "start").await;
    node.call("web", "stop").await;
    manager.await_renewals(2).await;
    let count = manager.told().len();
    manager.await_renewals(2).await;
    assert_eq!(manager.told().len(), count);
}

#[tokio::test]
async fn what_was_made_again_elsewhere_is_stopped_at_once_and_for_good() {
    let node = Node::new().await;
    let manager = Manager::start().await;
    let moved = node.run("moved", false).await;
    let stopped = node.run("stopped", false).await;
    let stays = node.run("stays", false).await;
    let once = node.run("once", true).await;
    manager.set_answer(|answer| answer.superseded = Some(vec![moved.clone(), once, "gone".into()]));
    let _agent = node.start_agent(&[&manager.addr]);
    node.until_phase("moved", Phase::Exited).await;
    node.until_phase("once", Phase::Paused).await;
    let phase = |name: &str| node.engine().container(name).unwrap().phase;
    assert_eq!(
        (phase("stopped"), phase("stays")),
        (Phase::Running, Phase::Running)
    );
    // What it stopped itself is not started again either when it turns out to be elsewhere.
    manager.set_silent(true);
    node.until_phase("stopped", Phase::Exited).await;
    node.until_phase("stays", Phase::Exited).await;
    manager.set_answer(|answer| answer.superseded = Some(vec![moved, stopped]));
    manager.set_silent(false);
    until("the manager is told", || !manager.told().is_empty()).await;
    let ids: Vec<_> = manager.told()[0].iter().map(|one| one.id.clone()).collect();
    assert_eq!(ids, [stays]);
}

#[tokio::test]
async fn a_node_that_boots_while_it_is_cut_off_stops_what_its_engine_started() {
    let node = Node::new().await;
    let manager = Manager::start().await;
    let agent = node.start_agent(&[&manager.addr]);
    manager.await_renewals(2).await;
    agent.stop().await;

    // The engine has started it before the agent is there again.
    node.run("web", false).await;
    manager.set_silent(true);
    let agent = node.start_agent(&[&manager.addr]);
    node.until_phase("web", Phase::Exited).await;
    agent.stop().await;

    // One that knows nothing of its cluster stops nothing.
    node.call("web", "start").await;
    let elsewhere = tempfile::tempdir().unwrap();
    let _agent = node.start_agent_in(elsewhere.path(), &[&manager.addr]);
    tokio::time::sleep(2 * TTL).await;
    assert_eq!(
        node.engine().container("web").unwrap().phase,
        Phase::Running
    );
}

#[tokio::test]
async fn an_agent_that_was_away_for_long_has_time_to_renew_its_lease() {
    let node = Node::new().await;
    let manager = Manager::start().await;
    let agent = node.start_agent(&[&manager.addr]);
    manager.await_renewals(1).await;
    node.run("web", false).await;
    drop(agent);
    tokio::time::sleep(2 * TTL).await;
    let _agent = node.start_agent(&[&manager.addr]);
    manager.await_renewals(2).await;
    assert_eq!(node.engine().requests("POST /containers/{id}/kill"), 0);
}

#[tokio::test]
async fn managers_that_went_are_not_asked_any_more() {
    let node = Node::new().await;
    let (first, second) = (Manager::start().await, Manager::start().await);
    let both = vec![first.addr.clone(), second.addr.clone()];
    first.set_answer(|answer| answer.managers = Some(both.clone()));
    second.set_answer(|answer| answer.managers = Some(both));
    let _agent = node.start_agent(&[&first.addr]);
    second.await_renewals(2).await;
    let alone = vec![first.addr.clone()];
    first.set_answer(|answer| answer.managers = Some(alone.clone()));
    second.set_answer(|answer| answer.managers = Some(alone));
    first.await_renewals(2).await;
    let count = second.renewals();
    first.await_renewals(3).await;
    assert_eq!(second.renewals(), count);
    // One without the store lists none, which says nothing.
    first.set_answer(|answer| answer.managers = Some(vec![second.addr.clone()]));
    second.set_answer(|answer| answer.managers = None);
    second.await_renewals(2).await;
    first.set_answer(|answer| {
        answer.word = Word::Hold;
        answer.managers = None;
    });
    second.await_renewals(3).await;
}

#[tokio::test]
async fn a_manager_waits_for_the_leases_that_it_answered_without_a_store() {
    let stage = Stage::new(3, 0).await;
    let bench = stage.start_with(false, |_| {});
    until_healthy(&bench, 3).await;
    run(&bench, "web", &movable()).await;
    let old = engine_of(&bench, "web");
    let addr = old.addr().to_string().parse().unwrap();
    let lease = |beat| Lease {
        ttl: TTL,
        boot: 1,
        beat,
    };
    let answer = bench.cluster.renew_lease(&addr, &lease(1)).await.unwrap();
    assert_eq!(answer.word, Word::Renewed);
    assert_eq!(answer.superseded, Some(Vec::new()));
    old.die();
    tokio::time::sleep(TTL / 2).await;
    stage.store.set_away(true);
    let asked_at = Instant::now();
    let answer = bench.cluster.renew_lease(&addr, &lease(2)).await.unwrap();
    assert_eq!((answer.word, answer.managers), (Word::Hold, None));
    stage.store.set_away(false);
    until_moved(&bench, "web", &old, true).await;
    assert!(asked_at.elapsed() >= TTL);

    // When the agent is heard of again, it is told what is elsewhere.
    let wait = async {
        loop {
            let answer = bench.cluster.renew_lease(&addr, &lease(3)).await.unwrap();
            if answer.superseded.is_some_and(|ids| ids.len() == 1) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap();
}

#[tokio::test]
async fn a_look_at_the_store_that_failed_proves_nothing_of_a_lease() {
    let stage = Stage::new(3, 0).await;
    let bench = stage.start_with(false, |_| {});
    until_healthy(&bench, 3).await;
    run(&bench, "web", &movable()).await;
    let old = engine_of(&bench, "web");
    let key = format!("test/agents/{}", old.addr());
    let renew = |beat| {
        let lease = Lease {
            ttl: TTL,
            boot: 1,
            beat,
        };
        stage.store.store.put(&key, lease.to_json().into())
    };
    renew(1).await.unwrap();
    old.die();
    bench
        .until("the node is down", |snapshot| {
            snapshot.nodes().any(|node| !node.inventory.is_healthy())
        })
        .await;
    // The lease is renewed all the time, and this manager cannot see it.
    stage.store.set_away(true);
    tokio::time::sleep(2 * TTL).await;
    renew(2).await.unwrap();
    let renewed_at = Instant::now();
    stage.store.set_away(false);
    until_moved(&bench, "web", &old, true).await;
    assert!(renewed_at.elapsed() >= TTL);
}

#[tokio::test]
async fn what_an_agent_stopped_is_started_once_and_only_as_it_left_it() {
    let bench = start_on_first(2, Duration::from_secs(3600)).await;
    let once = body("on-node-failure", json!({"AutoRemove": true}));
    let mut ids = Vec::new();
    for (name, body) in [
        ("web", movable()),
        ("again", movable()),
        ("wished", movable()),
        ("once", once),
    ] {
        ids.push(run(&bench, name, &body).await);
    }
    let engine = engine_of(&bench, "web");
    let addr = engine.addr().to_string().parse().unwrap();
    for name in ["web", "again", "wished"] {
        assert!(engine.exit(name, 137));
    }
    assert!(engine.mutate_silently("once", Phase::Paused));
    bench
        .cluster
        .refresh(&addr, skep::engine::monitor::Refresh::Containers)
        .await;
    bench
        .until("all are stopped", |snapshot| {
            let state = |name: &str| snapshot.container(name).unwrap().container.state.clone();
            let have_ended = ["web", "again", "wished"].iter();
            have_ended.clone().all(|name| !state(name).running) && state("once").paused
        })
        .await;
    let ended_at = |name: &str| {
        let state = find(&bench, name).container.state.clone();
        state.finished_at.map(|moment| moment.to_rfc3339())
    };
    bench
        .cluster
        .note_wish(&addr, &ids[2].as_str().into(), false);
    let left = |id: &str, ended_at: Option<String>| FencedContainer {
        id: id.to_owned(),
        ended_at,
    };
    let told = vec![
        left(&ids[0], ended_at("web")),
        // Somebody started it since, and it ended again.
        left(&ids[1], Some("2020-01-01T00:00:00Z".to_owned())),
        left(&ids[2], ended_at("wished")),
        left(&ids[3], None),
        left("gone", Some(String::new())),
    ];
    bench.cluster.note_fenced(&addr, told.clone());
    bench
        .until("what may run runs again", |snapshot| {
            let state = |name: &str| snapshot.container(name).unwrap().container.state.clone();
            state("web").running && state("once").running && !state("once").paused
        })
        .await;
    // Told once more, which was under way, it is not started once more.
    assert!(engine.exit("web", 0));
    bench
        .until("it has ended", |snapshot| {
            !snapshot.container("web").unwrap().container.state.running
        })
        .await;
    let starts = engine.requests("POST /containers/{id}/start");
    bench.cluster.note_fenced(&addr, told);
    run(&bench, "later", BODY).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(engine.requests("POST /containers/{id}/start"), starts + 1);
    for name in ["again", "wished"] {
        assert!(!find(&bench, name).container.state.running, "{name}");
    }
}
