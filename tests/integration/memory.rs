//! What a cluster knows after a restart, and what it does while its store is away.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use skep::{
    cluster::{
        create::{CreateError, CreateRequest},
        election::{self, Leadership},
        memory::{Memory, Options},
    },
    engine::{health::Status, inventory::container::CpuShares, raw::RawObject},
    store::{
        Entry, Expected, Listing, Revision, Session, Store, StoreError, Watch, embedded::Embedded,
    },
};
use skep_fleet::{Fault, Fleet};
use tokio_util::sync::CancellationToken;

use crate::cluster::{BODY, Bench, PATIENCE};

mod takeover;

/// A store that can be away.
pub struct Shaky {
    pub store: Embedded,
    is_away: AtomicBool,
    /// Whether it can be read, but not changed.
    is_full: AtomicBool,
    /// How many changes were refused for that.
    refused: AtomicUsize,
    /// What cannot be listed.
    hidden: Mutex<Option<&'static str>>,
}

impl Shaky {
    fn new(path: &Path) -> Arc<Self> {
        Arc::new(Self {
            store: Embedded::open(path).unwrap(),
            is_away: AtomicBool::new(false),
            is_full: AtomicBool::new(false),
            refused: AtomicUsize::new(0),
            hidden: Mutex::default(),
        })
    }

    pub fn set_away(&self, is_away: bool) {
        self.is_away.store(is_away, Ordering::SeqCst);
    }

    /// Has everything fail that lists keys below a prefix.
    fn hide(&self, prefix: Option<&'static str>) {
        *self.hidden.lock().unwrap() = prefix;
    }

    fn check_change(&self) -> Result<(), StoreError> {
        if self.is_full.load(Ordering::SeqCst) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return Err(away());
        }
        self.check()
    }

    fn check(&self) -> Result<(), StoreError> {
        if self.is_away.load(Ordering::SeqCst) {
            return Err(away());
        }
        Ok(())
    }
}

fn away() -> StoreError {
    StoreError::Unavailable {
        store: "shaky".to_owned(),
        reason: "gone fishing".to_owned(),
    }
}

#[async_trait]
impl Store for Shaky {
    fn name(&self) -> &str {
        "shaky"
    }
    fn max_value(&self) -> usize {
        self.store.max_value()
    }
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.check()?;
        self.store.get(key).await
    }
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        self.check()?;
        let hidden = *self.hidden.lock().unwrap();
        if hidden.is_some_and(|hidden| prefix.starts_with(hidden)) {
            return Err(away());
        }
        self.store.list(prefix).await
    }
    async fn put(&self, key: &str, value: Bytes) -> Result<Revision, StoreError> {
        self.check_change()?;
        self.store.put(key, value).await
    }
    async fn swap(
        &self,
        key: &str,
        expected: Expected,
        value: Bytes,
    ) -> Result<Revision, StoreError> {
        self.check_change()?;
        self.store.swap(key, expected, value).await
    }
    async fn delete(&self, key: &str, at: Option<Revision>) -> Result<bool, StoreError> {
        self.check_change()?;
        self.store.delete(key, at).await
    }
    async fn watch(&self, from: Listing) -> Result<Box<dyn Watch>, StoreError> {
        self.check()?;
        self.store.watch(from).await
    }
    async fn session(&self, ttl: Duration) -> Result<Box<dyn Session>, StoreError> {
        self.check()?;
        self.store.session(ttl).await
    }
}

/// A fleet, a store, and one cluster after the other over both.
pub struct Stage {
    pub fleet: Arc<Fleet>,
    pub store: Arc<Shaky>,
    _directory: tempfile::TempDir,
}

impl Stage {
    pub async fn new(engines: usize, containers: usize) -> Self {
        let fleet = Fleet::builder().engines(engines).containers(containers);
        let directory = tempfile::tempdir().unwrap();
        Self {
            fleet: Arc::new(fleet.start().await.unwrap()),
            store: Shaky::new(&directory.path().join("store.redb")),
            _directory: directory,
        }
    }

    fn start(&self, optional: bool) -> Bench {
        self.start_with(optional, |_| {})
    }

    pub fn start_with(
        &self,
        optional: bool,
        change: impl FnOnce(&mut skep::cluster::Options),
    ) -> Bench {
        let options = Options {
            prefix: "test".to_owned(),
            optional,
            forget_after: Duration::from_secs(3600),
            settle_after: Duration::from_millis(100),
            cpu_shares: CpuShares::Cores,
        };
        let store: Arc<dyn Store> = Arc::clone(&self.store) as _;
        let memory = Memory::new(store, options);
        Bench::over_with(Arc::clone(&self.fleet), Some(memory), change)
    }

    async fn start_healthy(&self) -> Bench {
        let bench = self.start(false);
        let all = self.fleet.engines().len();
        bench
            .until("all engines are healthy", |snapshot| {
                let healthy = snapshot.nodes().filter(|node| node.inventory.is_healthy());
                healthy.count() == all
            })
            .await;
        bench
    }

    async fn records(&self) -> Vec<RawObject> {
        let listing = self.store.store.list("test/containers").await.unwrap();
        let values = listing.entries.iter().map(|entry| &entry.value);
        values
            .map(|value| RawObject::parse(value).unwrap())
            .collect()
    }

    /// Waits until the store has no create under way.
    async fn until_settled(&self) {
        let wait = async {
            while !self
                .store
                .store
                .list("test/creates")
                .await
                .unwrap()
                .entries
                .is_empty()
            {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .expect("never settled");
    }

    /// Waits until the store has this many records of containers.
    async fn until_recorded(&self, count: usize) -> Vec<RawObject> {
        let wait = async {
            let mut watch = self
                .store
                .store
                .watch(Listing {
                    prefix: "test".to_owned(),
                    ..Listing::default()
                })
                .await
                .unwrap();
            loop {
                let records = self.records().await;
                if records.len() == count {
                    return records;
                }
                watch.next().await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .unwrap_or_else(|_| panic!("never {count} records"))
    }

    /// Records of a node and of a container `late` on it, whose ID is returned.
    async fn record_late(&self, addr: &str, seen_at: chrono::DateTime<chrono::Utc>) -> String {
        let id = "f".repeat(64);
        let seen_at = seen_at.to_rfc3339();
        let node = format!(r#"{{"Specs":{{"Id":"e","Name":"node-2"}},"SeenAt":"{seen_at}"}}"#);
        let entry =
            format!(r#"{{"Id":"{id}","Names":["/late"],"Image":"busybox","State":"running"}}"#);
        let inspect = format!(r#"{{"Id":"{id}","Name":"/late","Config":{{}},"HostConfig":{{}}}}"#);
        let container = format!(r#"{{"Entry":{entry},"Inspect":{inspect}}}"#);
        for (key, value) in [
            (format!("test/nodes/{addr}"), node),
            (format!("test/containers/{addr}/{id}"), container),
        ] {
            self.store.put(&key, value.into()).await.unwrap();
        }
        id
    }
}

#[tokio::test]
async fn what_runs_on_a_node_that_is_down_is_known_after_a_restart() {
    let stage = Stage::new(2, 0).await;
    let bench = stage.start_healthy().await;
    for name in ["one", "two"] {
        bench.create(name, BODY).await.unwrap();
    }
    let lost = stage.fleet.engine(1).containers()[0].clone();
    let name = lost.name.trim_start_matches('/').to_owned();
    bench.stop().await;
    drop(bench);

    stage.fleet.engine(1).die();
    let bench = stage.start(false);
    let snapshot = bench
        .until("the container is there at once", |snapshot| {
            snapshot.container(&name).is_some()
        })
        .await;
    let found = snapshot.container(&name).unwrap();
    let id = lost.id.to_string();
    assert_eq!(*found.container.id, *id);
    assert!(found.node.inventory.is_validated());
    assert!(!found.node.inventory.is_healthy());
    let error = bench.create(&name, BODY).await.unwrap_err();
    assert!(matches!(error, CreateError::NameTaken(_)), "{error}");
    bench
        .until("the node is unhealthy", |_| {
            bench.status(1) == Some(Status::Unhealthy)
        })
        .await;
    let memory = bench.cluster.memory().unwrap();
    let addr = &found.node.inventory.addr;
    let inspect = memory.inspect(addr, &id).await.unwrap().unwrap();
    assert_eq!(inspect.parsed::<String>("Id").unwrap().unwrap(), id);

    // What happened while it was away counts once it is back.
    stage.fleet.engine(1).remove_silently(&id);
    stage.fleet.engine(1).come_back();
    bench
        .until("the container is gone", |snapshot| {
            snapshot.container(&name).is_none() && bench.status(1) == Some(Status::Healthy)
        })
        .await;
    stage.until_recorded(1).await;
    bench.create(&name, BODY).await.unwrap();
}

#[tokio::test]
async fn a_create_is_on_record_before_an_engine_is_asked() {
    let stage = Stage::new(1, 0).await;
    let bench = stage.start_healthy().await;
    stage
        .fleet
        .engine(0)
        .set_fault_on("POST /containers/create", Fault::Hang);
    let cluster = bench.cluster.clone();
    let create = tokio::spawn(async move {
        let request = CreateRequest {
            name: "web".to_owned(),
            body: RawObject::parse(BODY.as_bytes()).unwrap(),
            version: None,
            query: String::new(),
            auth: None,
        };
        cluster.create(request).await
    });
    let engine = stage.fleet.engine(0);
    let asked = engine.wait_for(|engine| engine.requests("POST /containers/create") > 0);
    tokio::time::timeout(PATIENCE, asked).await.unwrap();
    let intents = stage
        .store
        .store
        .list("test/creates")
        .await
        .unwrap()
        .entries;
    let [intent] = intents.try_into().unwrap();
    let intent = RawObject::parse(&intent.value).unwrap();
    let create_request = intent.object("Create").unwrap();
    let name: String = create_request.parsed("Name").unwrap().unwrap();
    assert_eq!(name, "web");
    create.abort();
}

#[tokio::test]
async fn the_name_of_a_create_that_a_dead_manager_began_is_kept_until_that_is_settled() {
    let stage = Stage::new(1, 0).await;
    let addr = stage.fleet.engine(0).addr();
    let key = "test/creates/0123";
    let record = format!(r#"{{"Node":"{addr}","Create":{{"Name":"web","Body":{BODY}}}}}"#);
    stage.store.put(key, record.into()).await.unwrap();
    stage.fleet.engine(0).die();
    let bench = stage.start(false);
    let error = bench.create("web", BODY).await.unwrap_err();
    // Names are looked at before nodes.
    assert!(matches!(error, CreateError::NameTaken(_)), "{error}");
    stage.fleet.engine(0).come_back();
    let create = async {
        loop {
            match bench.create("web", BODY).await {
                Ok(id) => return id,
                Err(CreateError::NameTaken(_) | CreateError::Schedule(_)) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, create).await.unwrap();
    assert_eq!(stage.store.get(key).await.unwrap(), None);
}

#[tokio::test]
async fn the_name_of_a_create_whose_answer_was_lost_is_kept_until_the_engine_answers() {
    let stage = Stage::new(2, 0).await;
    let bench = stage.start_healthy().await;
    for engine in stage.fleet.engines() {
        engine.set_fault_on("POST /containers/create", Fault::Hang);
    }
    let lost = async {
        let error = bench.create("web", BODY).await.unwrap_err();
        assert!(matches!(error, CreateError::Engine(_)), "{error}");
    };
    let engines = stage.fleet.engines();
    let asked = |at: &usize| engines[*at].requests("POST /containers/create") > 0;
    let death = async {
        let at = loop {
            match (0..2).find(asked) {
                Some(at) => break at,
                None => tokio::task::yield_now().await,
            }
        };
        engines[at].die();
        at
    };
    let both = async { tokio::join!(lost, death) };
    let ((), dead) = tokio::time::timeout(PATIENCE, both).await.unwrap();
    for engine in stage.fleet.engines() {
        engine.clear_faults();
    }
    bench
        .until("the node is unhealthy", |_| {
            bench.status(dead) == Some(Status::Unhealthy)
        })
        .await;
    let error = bench.create("web", BODY).await.unwrap_err();
    assert!(matches!(error, CreateError::NameTaken(_)), "{error}");
    let intents = stage.store.store.list("test/creates").await.unwrap();
    assert_eq!(intents.entries.len(), 1);

    stage.fleet.engine(dead).come_back();
    stage.until_settled().await;
    let create = async {
        while let Err(error) = bench.create("web", BODY).await {
            assert!(matches!(error, CreateError::NameTaken(_)), "{error}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, create).await.unwrap();
}

#[tokio::test]
async fn the_record_of_a_container_has_the_request_that_made_it() {
    let stage = Stage::new(1, 0).await;
    let bench = stage.start_healthy().await;
    let body = r#"{"Image":"busybox","Env":["A=1","constraint:node!=elsewhere"],"Future":[1]}"#;
    bench.create("web", body).await.unwrap();
    let [record] = stage.until_recorded(1).await.try_into().unwrap();
    stage.until_settled().await;
    let create = record.object("Create").unwrap();
    assert_eq!(create.parsed::<String>("Name").unwrap().unwrap(), "web");
    let request = create.object("Body").unwrap();
    assert_eq!(request.get("Future").unwrap().get(), "[1]");
    let labels = request.get("Labels").unwrap().get();
    assert!(labels.contains("node!=elsewhere"), "{labels}");
    assert!(!record.object("Inspect").unwrap().is_empty());
    assert!(!record.object("Entry").unwrap().is_empty());
}

#[tokio::test]
async fn the_request_stays_in_the_record_when_the_container_changes() {
    let stage = Stage::new(1, 0).await;
    let bench = stage.start_healthy().await;
    let id = bench.create("web", BODY).await.unwrap();
    let state = |record: &RawObject| {
        let inspect = record.object("Inspect").unwrap();
        let state = inspect.object("State").unwrap();
        state.parsed::<String>("Status").unwrap().unwrap()
    };
    let found = bench.cluster.snapshot().container(&id).unwrap();
    let start = format!("/containers/{id}/start");
    let client = &found.node.client;
    client.call(http::Method::POST, &start).await.unwrap();
    let wait = async {
        loop {
            let [record] = stage.until_recorded(1).await.try_into().unwrap();
            if state(&record) == "running" {
                return record;
            }
            tokio::task::yield_now().await;
        }
    };
    let record = tokio::time::timeout(PATIENCE, wait).await.unwrap();
    assert!(!record.object("Create").unwrap().is_empty());
}

#[tokio::test]
async fn containers_made_by_others_are_recorded_too() {
    let stage = Stage::new(2, 3).await;
    let _bench = stage.start_healthy().await;
    for record in stage.until_recorded(6).await {
        assert!(record.object("Create").unwrap().is_empty());
        assert!(!record.object("Inspect").unwrap().is_empty());
    }
}

#[tokio::test]
async fn nothing_is_written_again_after_a_restart() {
    let stage = Stage::new(1, 5).await;
    let bench = stage.start_healthy().await;
    stage.until_recorded(5).await;
    bench.stop().await;
    let before = stage.store.store.list("test/containers").await.unwrap();
    let bench = stage.start_healthy().await;
    bench.stop().await;
    let after = stage.store.store.list("test/containers").await.unwrap();
    assert_eq!(before.entries, after.entries);
}

#[tokio::test]
async fn no_container_is_made_while_the_store_is_away() {
    let stage = Stage::new(2, 0).await;
    let bench = stage.start_healthy().await;
    stage.store.set_away(true);
    // The first one finds out, the second one knows.
    for _ in 0..2 {
        let error = bench.create("web", BODY).await.unwrap_err();
        assert!(matches!(error, CreateError::Store(_)), "{error}");
        assert!(error.to_string().contains("gone fishing"), "{error}");
        for engine in stage.fleet.engines() {
            assert!(engine.containers().is_empty());
        }
    }
    stage.store.set_away(false);
    let create = async {
        loop {
            match bench.create("web", BODY).await {
                Ok(id) => return id,
                Err(CreateError::Store(_)) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, create).await.unwrap();
    stage.until_recorded(1).await;
    stage.until_settled().await;
}

#[tokio::test]
async fn who_does_not_insist_on_records_gets_them_later() {
    let stage = Stage::new(1, 0).await;
    let bench = stage.start(true);
    bench
        .until("the engine is healthy", |_| {
            bench.status(0) == Some(Status::Healthy)
        })
        .await;
    stage.store.set_away(true);
    bench.create("web", BODY).await.unwrap();
    assert!(stage.records().await.is_empty());
    stage.store.set_away(false);
    let [record] = stage.until_recorded(1).await.try_into().unwrap();
    assert!(!record.object("Create").unwrap().is_empty());
}

#[tokio::test]
async fn a_store_that_is_away_at_the_start_is_read_when_it_is_back() {
    let stage = Stage::new(1, 0).await;
    let bench = stage.start_healthy().await;
    bench.create("web", BODY).await.unwrap();
    bench.stop().await;
    drop(bench);
    stage.fleet.engine(0).die();
    stage.store.set_away(true);
    let bench = stage.start(false);
    bench
        .until("the node is tried", |snapshot| {
            snapshot.nodes().any(|node| node.inventory.error.is_some())
        })
        .await;
    assert!(bench.cluster.snapshot().container("web").is_none());
    stage.store.set_away(false);
    bench
        .until("the container is recalled", |snapshot| {
            snapshot.container("web").is_some()
        })
        .await;
}

#[tokio::test]
async fn records_that_cannot_be_read_are_left_alone() {
    let stage = Stage::new(1, 0).await;
    let addr = stage.fleet.engine(0).addr();
    let foreign = [
        format!("test/containers/{addr}/mine"),
        format!("test/nodes/{addr}"),
    ];
    for key in &foreign {
        stage.store.put(key, "not yours".into()).await.unwrap();
    }
    let bench = stage.start_healthy().await;
    bench.create("web", BODY).await.unwrap();
    bench.stop().await;
    for key in &foreign {
        let left = stage.store.get(key).await.unwrap().unwrap();
        assert_eq!(left.value, "not yours", "{key}");
    }
    assert!(bench.cluster.snapshot().container("mine").is_none());
}

#[tokio::test]
async fn a_create_whose_record_is_too_large_is_refused_before_an_engine_is_asked() {
    for optional in [false, true] {
        let stage = Stage::new(1, 0).await;
        let bench = stage.start(optional);
        bench
            .until("the engine is healthy", |_| {
                bench.status(0) == Some(Status::Healthy)
            })
            .await;
        let value = "v".repeat(stage.store.max_value() / 2);
        let body = format!(r#"{{"Image":"busybox","Env":["A={value}"]}}"#);
        let error = bench.create("web", &body).await.unwrap_err();
        let CreateError::Store(StoreError::TooLarge { key, reason, .. }) = &error else {
            panic!("{error}");
        };
        assert!(key.starts_with("test/creates/"), "{key}");
        let limit = stage.store.max_value().to_string();
        assert!(reason.ends_with(&limit), "{reason}");
        let engine = stage.fleet.engine(0);
        assert_eq!(engine.requests("POST /containers/create"), 0);
        bench.create("web", BODY).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_not_ours_below_a_node_that_is_forgotten_is_left_alone() {
    let stage = Stage::new(1, 0).await;
    let addr = "10.9.8.7:2375";
    let long_ago = chrono::Utc::now() - chrono::TimeDelta::hours(2);
    let id = stage.record_late(addr, long_ago).await;
    let ours = [
        format!("test/superseded/{addr}/{id}"),
        format!("test/containers/{addr}/{id}"),
        format!("test/nodes/{addr}"),
    ];
    let superseded = r#"{"Name":"old"}"#;
    stage.store.put(&ours[0], superseded.into()).await.unwrap();
    let foreign = [
        format!("test/superseded/{addr}/mine"),
        format!("test/containers/{addr}/mine"),
    ];
    for key in &foreign {
        stage.store.put(key, "not yours".into()).await.unwrap();
    }
    let bench = stage.start_healthy().await;
    let wait = async {
        while stage.store.get(&ours[2]).await.unwrap().is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap();
    bench.stop().await;
    for key in &ours {
        assert_eq!(stage.store.get(key).await.unwrap(), None, "{key}");
    }
    for key in &foreign {
        let left = stage.store.get(key).await.unwrap().unwrap();
        assert_eq!(left.value, "not yours", "{key}");
    }
}

#[tokio::test]
async fn a_store_that_can_only_be_read_is_not_back() {
    let stage = Stage::new(1, 0).await;
    let bench = stage.start_healthy().await;
    stage.store.is_full.store(true, Ordering::SeqCst);
    let error = bench.create("web", BODY).await.unwrap_err();
    assert!(matches!(error, CreateError::Store(_)), "{error}");
    let before = stage.store.refused.load(Ordering::SeqCst);
    let tried = async {
        while stage.store.refused.load(Ordering::SeqCst) < before + 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, tried).await.unwrap();
    assert!(bench.cluster.memory().unwrap().trouble().is_some());
    stage.store.is_full.store(false, Ordering::SeqCst);
    let create = async {
        while let Err(error) = bench.create("web", BODY).await {
            assert!(matches!(error, CreateError::Store(_)), "{error}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, create).await.unwrap();
}
