//! The cluster without its API: engines that fail, lie, and change.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use skep::{
    cluster::{
        Cluster, Options,
        create::{CreateError, CreateRequest},
        election::Leadership,
        memory::Memory,
        reschedule,
        snapshot::Snapshot,
    },
    config::volumes::Copies,
    discovery::{Backend, BackendError, Batch, Change},
    engine::{
        health::Status, inventory::container::CpuShares, monitor::Refresh, pool::Pool,
        raw::RawObject, transport::Limits,
    },
    model::directive::Kind,
    scheduler::{
        Applies, Call, Filter, PolicyError, Ranked, Scheduler, Strategy, node_set::NodeSet,
        request::Request, table::NodeStatus,
    },
    tls,
};
use skep_fleet::{Fault, Fleet, container::Phase};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Long enough for any machine; tests end as soon as what they wait for is there.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Members that a test changes.
struct Members(watch::Receiver<Vec<String>>);

#[async_trait]
impl Backend for Members {
    fn name(&self) -> &str {
        "members"
    }

    async fn next(&mut self, max_wait: Duration) -> Result<Batch, BackendError> {
        // A closed channel or an over-long wait only repeats the membership.
        let _ = tokio::time::timeout(max_wait, self.0.changed()).await;
        let members = self.0.borrow_and_update().clone();
        Ok(Batch {
            full: true,
            changes: members.into_iter().map(Change::Put).collect(),
            retry_after: None,
        })
    }
}

/// Keeps healthy nodes.
struct Healthy;

impl Filter for Healthy {
    fn name(&self) -> &str {
        "health"
    }
    fn expressions(&self) -> &[Kind] {
        &[]
    }
    fn prepare(&mut self, _: &Call<'_>, _: &Request) -> Result<Applies, PolicyError> {
        Ok(Applies::Yes)
    }
    fn filter(&mut self, call: &Call<'_>, candidates: &NodeSet) -> Result<NodeSet, PolicyError> {
        let mut kept = NodeSet::with_slots(call.nodes.slots());
        for slot in candidates.iter() {
            let healthy = call
                .nodes
                .node(slot)
                .is_some_and(|node| node.status == NodeStatus::Healthy);
            if healthy {
                kept.insert(slot);
            }
        }
        Ok(kept)
    }
    fn explain(&mut self) -> Vec<String> {
        Vec::new()
    }
}

/// Fewest containers first, then by name.
struct Fewest;

impl Strategy for Fewest {
    fn name(&self) -> &str {
        "fewest"
    }
    fn rank(
        &mut self,
        call: &Call<'_>,
        _: &Request,
        candidates: &NodeSet,
        limit: usize,
    ) -> Result<Vec<Ranked>, PolicyError> {
        let mut slots: Vec<u32> = candidates.iter().collect();
        slots.sort_by_key(|slot| {
            let name = call.nodes.node(*slot).map(|node| node.name.clone());
            (call.nodes.usage(*slot).containers, name)
        });
        slots.truncate(limit);
        Ok(slots
            .into_iter()
            .map(|slot| Ranked { slot, score: 0 })
            .collect())
    }
}

/// A cluster over a fleet, stopped when dropped.
pub struct Bench {
    pub fleet: Arc<Fleet>,
    pub cluster: Cluster,
    members: watch::Sender<Vec<String>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Bench {
    /// Starts `engines` engines with `containers` containers each and waits until all are healthy.
    pub async fn start(engines: usize, containers: usize) -> Self {
        Self::start_with(engines, containers, |_| {}).await
    }

    pub async fn start_with(
        engines: usize,
        containers: usize,
        change: impl FnOnce(&mut Options),
    ) -> Self {
        let fleet = Fleet::builder().engines(engines).containers(containers);
        let bench = Self::over(fleet.start().await.unwrap(), change);
        bench
            .until("all engines are healthy", |snapshot| {
                let healthy = |s: &Snapshot| s.nodes().filter(|n| n.inventory.is_healthy()).count();
                healthy(snapshot) == engines
            })
            .await;
        bench
    }

    /// Starts over a fleet that is there, and waits for nothing.
    pub fn over(fleet: Fleet, change: impl FnOnce(&mut Options)) -> Self {
        Self::over_with(fleet, None, change)
    }

    /// As [`Bench::over`], with a memory.
    pub fn over_with(
        fleet: impl Into<Arc<Fleet>>,
        memory: Option<Memory>,
        change: impl FnOnce(&mut Options),
    ) -> Self {
        let fleet = fleet.into();
        let addrs = fleet
            .engines()
            .iter()
            .map(|e| e.addr().to_string())
            .collect();
        let (members, received) = watch::channel(addrs);
        received.has_changed().unwrap();
        let mut options = options();
        change(&mut options);
        let stop = CancellationToken::new();
        let mut received = received;
        received.mark_changed();
        let tasks = TaskTracker::new();
        let cluster = Cluster::start(
            options,
            Scheduler::new(vec![Box::new(Healthy)], Box::new(Fewest)),
            Box::new(Members(received)),
            memory,
            &tasks,
            &stop,
        )
        .unwrap();
        Self {
            fleet,
            cluster,
            members,
            tasks,
            stop,
        }
    }

    /// Stops the cluster and waits until nothing of it runs any more.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Waits until the snapshot is as wanted.
    pub async fn until(&self, what: &str, check: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        let mut watch = self.cluster.watch();
        let seen = tokio::time::timeout(PATIENCE, watch.wait_for(|snapshot| check(snapshot)))
            .await
            .unwrap_or_else(|_| panic!("not seen in time: {what}"))
            .unwrap();
        Arc::clone(&seen)
    }

    pub async fn create(&self, name: &str, body: &str) -> Result<String, CreateError> {
        let created = self
            .cluster
            .create(CreateRequest {
                name: name.to_owned(),
                body: RawObject::parse(body.as_bytes()).unwrap(),
                version: None,
                query: String::new(),
                auth: None,
            })
            .await?;
        Ok(id_of(&created.body))
    }

    /// Has discovery list these engines.
    pub fn list(&self, indexes: &[usize]) {
        let engines = indexes.iter().map(|index| self.fleet.engine(*index));
        let addrs = engines.map(|engine| engine.addr().to_string());
        self.members.send_replace(addrs.collect());
    }

    pub fn status(&self, index: usize) -> Option<Status> {
        let addr = self.fleet.engine(index).addr().to_string().parse().unwrap();
        let snapshot = self.cluster.snapshot();
        snapshot.node(&addr).map(|node| node.inventory.status)
    }
}

fn options() -> Options {
    Options {
        limits: Limits::new(Duration::from_secs(5), 64, 4),
        pool: Pool::default(),
        tls: tls::Engines::default(),
        request_timeout: Duration::from_secs(5),
        refresh_min: Duration::from_secs(3600),
        refresh_max: Duration::from_secs(3600),
        failure_limit: NonZeroU32::MIN,
        overcommit: 0.0,
        create_retries: 0,
        settle_after: Duration::from_millis(100),
        cpu_shares: CpuShares::Cores,
        event_queue: 1000,
        heartbeat: Duration::from_secs(3600),
        removal_delay: Duration::ZERO,
        registries: Arc::default(),
        leadership: Leadership::alone(),
        reschedule: reschedule::Options {
            grace: Duration::ZERO,
            fencing: true,
            lease_margin: Duration::ZERO,
            max_moves: 10,
            max_failed_percent: 50,
        },
        rebalance: None,
        volume_copies: Copies::Explicit,
        strategy: "fewest".to_owned(),
        filters: vec!["health".to_owned()],
    }
}

fn id_of(body: &Bytes) -> String {
    let answer = RawObject::parse(body).unwrap();
    answer.parsed("Id").unwrap().unwrap()
}

pub const BODY: &str = r#"{"Image":"busybox","Cmd":["sleep","1000"]}"#;

#[tokio::test]
async fn creates_that_arrive_together_are_spread_and_all_seen() {
    let bench = Bench::start(3, 0).await;
    let creates = (0..30).map(|n| {
        let bench = &bench;
        async move { bench.create(&format!("c{n}"), BODY).await }
    });
    for created in futures_util::future::join_all(creates).await {
        let id = created.unwrap();
        assert!(bench.cluster.snapshot().container(&id).is_some());
    }
    for engine in bench.fleet.engines() {
        assert_eq!(engine.containers().len(), 10, "{}", engine.name());
    }
}

#[tokio::test]
async fn of_many_creates_with_one_name_exactly_one_wins() {
    let bench = Bench::start(3, 0).await;
    let creates = (0..20).map(|_| bench.create("web", BODY));
    let results = futures_util::future::join_all(creates).await;
    let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 19));
    for error in lost {
        assert!(matches!(error, Err(CreateError::NameTaken(name)) if name == "web"));
    }
}

#[tokio::test]
async fn a_missed_event_is_repaired_by_the_next_list() {
    let bench = Bench::start(1, 0).await;
    let id = bench.create("web", BODY).await.unwrap();
    let engine = bench.fleet.engine(0);
    assert!(engine.mutate_silently(&id, Phase::Running));
    let found = bench.cluster.snapshot().container("web").unwrap();
    assert_eq!(&*found.container.state.status, "created");
    let addr = engine.addr().to_string().parse().unwrap();
    bench.cluster.refresh(&addr, Refresh::Containers).await;
    let found = bench.cluster.snapshot().container("web").unwrap();
    assert_eq!(&*found.container.state.status, "running");
    assert!(engine.remove_silently(&id));
    bench.cluster.refresh(&addr, Refresh::Containers).await;
    assert!(bench.cluster.snapshot().container("web").is_none());
}

#[tokio::test]
async fn a_list_does_not_inspect_what_did_not_change() {
    let bench = Bench::start(1, 20).await;
    let engine = bench.fleet.engine(0);
    let before = engine.requests("GET /containers/{id}/json");
    let addr = engine.addr().to_string().parse().unwrap();
    bench.cluster.refresh(&addr, Refresh::Containers).await;
    assert_eq!(engine.requests("GET /containers/{id}/json"), before);
}

#[tokio::test]
async fn a_container_that_was_made_is_looked_at_once_for_its_event_and_its_create() {
    let bench = Bench::start(1, 0).await;
    let engine = bench.fleet.engine(0);
    let asked = || {
        let paths = ["GET /containers/json", "GET /containers/{id}/json"];
        paths.map(|path| engine.requests(path))
    };
    let before = asked();
    for round in 1..=5 {
        let mut events = bench.cluster.subscribe().future;
        let id = bench.create(&format!("web-{round}"), BODY).await.unwrap();
        assert!(bench.cluster.snapshot().container(&id).is_some());
        let told = async { while events.recv().await.unwrap().actor_id != id {} };
        tokio::time::timeout(PATIENCE, told).await.unwrap();
        assert_eq!(asked(), before.map(|count| count + round));
    }
}

#[tokio::test]
async fn an_engine_that_dies_is_unhealthy_and_keeps_its_containers_until_it_is_back() {
    let bench = Bench::start(2, 3).await;
    bench.fleet.engine(0).die();
    let addr = bench.fleet.engine(0).addr().to_string().parse().unwrap();
    bench
        .until("the dead engine is unhealthy", |snapshot| {
            snapshot
                .node(&addr)
                .is_some_and(|node| node.inventory.status == Status::Unhealthy)
        })
        .await;
    let snapshot = bench.cluster.snapshot();
    assert_eq!(snapshot.node(&addr).unwrap().inventory.containers.len(), 3);
    for n in 0..3 {
        bench.create(&format!("c{n}"), BODY).await.unwrap();
    }
    assert_eq!(bench.fleet.engine(1).containers().len(), 6);
    bench.fleet.engine(0).come_back();
    bench
        .until("the engine is healthy again", |snapshot| {
            snapshot
                .node(&addr)
                .is_some_and(|node| node.inventory.is_healthy())
        })
        .await;
}

#[tokio::test]
async fn an_engine_that_changes_its_id_recovers() {
    let bench = Bench::start(1, 2).await;
    let engine = bench.fleet.engine(0);
    let addr = engine.addr().to_string().parse().unwrap();
    engine.set_id("ANOTHER");
    engine.drop_event_streams();
    bench
        .until("the engine is healthy under its new ID", |snapshot| {
            snapshot.node(&addr).is_some_and(|node| {
                node.inventory.is_healthy() && node.inventory.node_id().starts_with("ANOTHER|")
            })
        })
        .await;
    assert_eq!(
        bench
            .cluster
            .snapshot()
            .node(&addr)
            .unwrap()
            .inventory
            .containers
            .len(),
        2
    );
}

#[tokio::test]
async fn a_hanging_engine_does_not_hold_up_the_others() {
    let bench = Bench::start_with(2, 0, |options| {
        options.request_timeout = Duration::from_millis(500);
    })
    .await;
    bench.fleet.engine(0).set_fault(Fault::Hang);
    let first = bench.create("first", BODY).await;
    let second = bench.create("second", BODY).await;
    assert!(
        first.is_ok() != second.is_ok() || (first.is_err() && second.is_err()),
        "one of the two was placed on the engine that hangs"
    );
    bench
        .until("the hanging engine is unhealthy", |_| {
            bench.status(0) == Some(Status::Unhealthy)
        })
        .await;
    bench.create("third", BODY).await.unwrap();
    bench.create("fourth", BODY).await.unwrap();
}

#[tokio::test]
async fn a_failed_create_gives_its_name_and_room_back() {
    let bench = Bench::start(1, 0).await;
    let engine = bench.fleet.engine(0);
    engine.set_fault_on(
        "POST /containers/create",
        Fault::Error500("disk full".to_owned()),
    );
    let error = bench.create("web", BODY).await.unwrap_err();
    assert_eq!(error.to_string(), "disk full");
    engine.clear_faults();
    bench.create("web", BODY).await.unwrap();
}

#[tokio::test]
async fn a_failed_create_is_tried_again_as_often_as_configured() {
    let bench = Bench::start_with(2, 0, |options| options.create_retries = 1).await;
    bench.fleet.engine(0).die();
    bench.create("web", BODY).await.unwrap();
    assert_eq!(bench.fleet.engine(1).containers().len(), 1);
}

#[tokio::test]
async fn the_body_reaches_the_engine_with_what_we_do_not_know() {
    let bench = Bench::start(1, 0).await;
    let body = r#"{"Image":"busybox","Env":["constraint:node==~x","A=1"],"Future":{"a":[1, 2]}}"#;
    bench.create("web", body).await.unwrap();
    let bodies = bench.fleet.engine(0).create_bodies();
    let sent = RawObject::parse(&bodies[0]).unwrap();
    assert_eq!(sent.get("Future").unwrap().get(), r#"{"a":[1, 2]}"#);
    assert_eq!(sent.get("Env").unwrap().get(), r#"["A=1"]"#);
}

#[tokio::test]
async fn discovery_adds_and_removes_engines() {
    let bench = Bench::start(2, 1).await;
    let second = bench.fleet.engine(1).addr().to_string();
    bench.members.send(vec![second]).unwrap();
    let snapshot = bench
        .until("the first engine is gone", |s| s.nodes().count() == 1)
        .await;
    let id = bench.fleet.engine(0).containers()[0].id.to_string();
    assert!(snapshot.container(&id).is_none());
}

#[tokio::test]
async fn events_come_after_the_snapshot_shows_them() {
    let bench = Bench::start(1, 0).await;
    let id = bench.create("web", BODY).await.unwrap();
    let mut events = bench.cluster.subscribe().future;
    let addr = bench.fleet.engine(0).addr().to_string().parse().unwrap();
    let snapshot = bench.cluster.snapshot();
    let node = snapshot.node(&addr).unwrap();
    node.client
        .call(http::Method::POST, &format!("/containers/{id}/start"))
        .await
        .unwrap();
    loop {
        let event = tokio::time::timeout(PATIENCE, events.recv())
            .await
            .unwrap()
            .unwrap();
        if event.action == "start" {
            break;
        }
    }
    let found = bench.cluster.snapshot().container("web").unwrap();
    assert!(found.container.state.running);
}
