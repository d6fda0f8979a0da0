//! Managers that take over, or win the lead again: what they go by.

use super::*;

/// A replica that may come to lead, and its election.
struct Replica {
    bench: Bench,
    leadership: Leadership,
    stop: CancellationToken,
}

impl Replica {
    fn start(stage: &Stage, change: impl FnOnce(&mut skep::cluster::Options)) -> Self {
        let leadership = Leadership::contested(election::Options {
            advertise: "127.0.0.1:1".to_owned(),
            ttl: Duration::from_secs(60),
        });
        let bench = stage.start_with(false, |options| {
            options.leadership = leadership.clone();
            change(options);
        });
        Self {
            bench,
            leadership,
            stop: CancellationToken::new(),
        }
    }

    /// One that saw a container on a node that went down since; returns the container's ID.
    async fn that_lost_a_node(stage: &Stage) -> (Self, String) {
        let replica = Self::start(stage, |_| {});
        let down = stage.fleet.engine(1);
        let seen = down.containers()[0].id.to_string();
        let bench = &replica.bench;
        bench
            .until("all containers are seen", |snapshot| {
                snapshot.container(&seen).is_some() && bench.status(0) == Some(Status::Healthy)
            })
            .await;
        down.die();
        bench
            .until("the node is unhealthy", |_| {
                bench.status(1) == Some(Status::Unhealthy)
            })
            .await;
        (replica, seen)
    }

    /// Stands for election, and returns once it leads.
    async fn take_over(&self, stage: &Stage) -> tokio::task::JoinHandle<()> {
        let store: Arc<dyn Store> = Arc::clone(&stage.store) as _;
        let leadership = self.leadership.clone();
        let mut roles = leadership.watch();
        let run = leadership.run(store, "test".to_owned(), self.stop.clone());
        let election = tokio::spawn(run);
        let leads = roles.wait_for(|role| *role == election::Role::Primary);
        let leads = tokio::time::timeout(PATIENCE, leads).await;
        assert!(leads.is_ok_and(|role| role.is_ok()), "it does not lead");
        election
    }

    async fn stop(self, election: tokio::task::JoinHandle<()>) {
        self.stop.cancel();
        election.await.unwrap();
    }
}

#[tokio::test]
async fn who_takes_over_knows_what_the_leader_made_on_a_node_that_is_down() {
    let stage = Stage::new(2, 1).await;
    let (replica, seen) = Replica::that_lost_a_node(&stage).await;
    let bench = &replica.bench;
    // The leader saw a container that its replica did not see; the other one it did not record.
    let addr = stage.fleet.engine(1).addr().to_string();
    let before = chrono::Utc::now() - chrono::TimeDelta::hours(1);
    let id = stage.record_late(&addr, before).await;
    let election = replica.take_over(&stage).await;
    let snapshot = bench
        .until("the container is known", |snapshot| {
            snapshot.container("late").is_some()
        })
        .await;
    assert!(snapshot.container(&seen).is_some());
    let error = bench.create("late", BODY).await.unwrap_err();
    assert!(matches!(error, CreateError::NameTaken(_)), "{error}");
    // Records were written by now, and the one that this manager never saw is not taken for old.
    bench.create("more", BODY).await.unwrap();
    stage.until_settled().await;
    let key = format!("test/containers/{addr}/{id}");
    assert!(stage.store.get(&key).await.unwrap().is_some());
    replica.stop(election).await;
}

#[tokio::test]
async fn who_takes_over_goes_by_records_that_are_younger_than_what_it_saw() {
    let stage = Stage::new(2, 1).await;
    let (replica, seen) = Replica::that_lost_a_node(&stage).await;
    // The leader heard the node for longer: one container was removed, another one made.
    let addr = stage.fleet.engine(1).addr().to_string();
    stage.record_late(&addr, chrono::Utc::now()).await;
    let election = replica.take_over(&stage).await;
    let snapshot = replica
        .bench
        .until("the container is known", |snapshot| {
            snapshot.container("late").is_some()
        })
        .await;
    assert!(snapshot.container(&seen).is_none());
    replica.stop(election).await;
}

#[tokio::test]
async fn what_a_silent_engine_held_is_known_while_it_is_still_waited_for() {
    let stage = Stage::new(2, 0).await;
    let silent = stage.fleet.engine(1);
    silent.set_fault(Fault::Hang);
    let replica = Replica::start(&stage, |options| {
        options.request_timeout = Duration::from_secs(3600);
    });
    let asked = silent.wait_for(|engine| engine.requests("GET /info") > 0);
    tokio::time::timeout(PATIENCE, asked).await.unwrap();
    let addr = silent.addr().to_string();
    stage.record_late(&addr, chrono::Utc::now()).await;
    let election = replica.take_over(&stage).await;
    replica
        .bench
        .until("the container is known", |snapshot| {
            snapshot.container("late").is_some()
        })
        .await;
    replica.stop(election).await;
}

#[tokio::test]
async fn no_name_is_given_while_what_a_dead_node_held_cannot_be_read() {
    let stage = Stage::new(2, 0).await;
    let dead = stage.fleet.engine(1);
    dead.die();
    let addr = dead.addr().to_string();
    stage.record_late(&addr, chrono::Utc::now()).await;
    stage.store.hide(Some("test/containers"));
    let bench = stage.start(false);
    bench
        .until("one engine is healthy", |_| {
            bench.status(0) == Some(Status::Healthy)
        })
        .await;
    let error = bench.create("late", BODY).await.unwrap_err();
    let is_refused = matches!(error, CreateError::Store(_) | CreateError::Unheard(1));
    assert!(is_refused, "{error}");
    stage.store.hide(None);
    bench
        .until("the container is known", |snapshot| {
            snapshot.container("late").is_some()
        })
        .await;
    let create = async {
        loop {
            match bench.create("late", BODY).await.unwrap_err() {
                CreateError::NameTaken(_) => return,
                CreateError::Store(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                error => panic!("{error}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, create).await.unwrap();
}

#[tokio::test]
async fn who_loses_the_lead_and_wins_it_again_while_nothing_happens_gives_names_again() {
    let stage = Stage::new(2, 0).await;
    let replica = Replica::start(&stage, |options| {
        // Nothing but the change of the leader wakes anybody.
        options.refresh_min = Duration::from_secs(3600);
        options.refresh_max = Duration::from_secs(3600);
    });
    let (bench, leadership) = (&replica.bench, &replica.leadership);
    let election = replica.take_over(&stage).await;
    bench
        .until("both engines are healthy", |_| {
            bench.status(0) == Some(Status::Healthy) && bench.status(1) == Some(Status::Healthy)
        })
        .await;
    stage.fleet.engine(1).die();
    bench
        .until("one engine is not", |_| {
            bench.status(1) == Some(Status::Unhealthy)
        })
        .await;
    bench.create("before", BODY).await.unwrap();
    stage.until_settled().await;

    let first = leadership.term().unwrap();
    let key = "test/docker/swarm/leader";
    stage.store.put(key, "elsewhere:1".into()).await.unwrap();
    let over = leadership.over(first);
    tokio::time::timeout(PATIENCE, over).await.unwrap();
    // Whoever leads meanwhile begins a create on a node that is down now.
    let addr = stage.fleet.engine(1).addr();
    let record = format!(r#"{{"Node":"{addr}","Create":{{"Name":"theirs","Body":{BODY}}}}}"#);
    let intent = "test/creates/0123";
    stage.store.put(intent, record.into()).await.unwrap();
    let error = bench.create("ours", BODY).await.unwrap_err();
    assert!(matches!(error, CreateError::NotPrimary), "{error}");
    stage.store.delete(key, None).await.unwrap();
    let mut roles = leadership.watch();
    let again = roles.wait_for(|role| *role == election::Role::Primary);
    tokio::time::timeout(PATIENCE, again)
        .await
        .unwrap()
        .unwrap();

    let error = bench.create("theirs", BODY).await.unwrap_err();
    assert!(matches!(error, CreateError::NameTaken(_)), "{error}");
    bench.create("ours", BODY).await.unwrap();
    replica.stop(election).await;
}
