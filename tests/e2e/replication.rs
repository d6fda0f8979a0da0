//! Several managers over one fleet of stand-in engines, with a real store between them.

use std::{
    net::TcpListener,
    sync::{Arc, Mutex},
    time::Duration,
};

use bollard::{
    API_DEFAULT_VERSION, Docker,
    errors::Error,
    models::ContainerCreateBody,
    query_parameters::{CreateContainerOptionsBuilder, ListContainersOptionsBuilder},
};
use rand::RngExt;
use skep_fleet::{
    Fault, Fleet,
    daemon::{Daemon, own_host},
    island::Island,
    ledger::{Ledger, create, work},
    stores::{Extra, Kind, Server},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

const MANAGERS: usize = 3;
const CLIENTS: usize = 4;

/// How long something may take that takes no time.
const PATIENCE: Duration = Duration::from_secs(60);

/// A manager's own word on what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Role {
    Primary,
    Replica(String),
}

struct Manager {
    addr: String,
    daemon: Daemon,
}

struct Stage {
    fleet: Fleet,
    /// Of one store.
    servers: Vec<Server>,
    /// Where the server is, if each manager has a way of its own to it.
    island: Option<Arc<Island>>,
    ttl: String,
    /// More options of every manager.
    more: Vec<&'static str>,
    managers: Vec<Manager>,
}

impl Manager {
    fn start_with(addr: &str, options: &[String]) -> Self {
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        Self::start(addr, &options)
    }

    fn start(addr: &str, options: &[&str]) -> Self {
        let host = format!("tcp://{addr}");
        let daemon = Daemon::start(
            env!("CARGO_BIN_EXE_skep"),
            &[
                &["-H", &host, "--replication", "--advertise", addr],
                options,
            ]
            .concat(),
        );
        Self {
            addr: addr.to_owned(),
            daemon,
        }
    }

    fn docker(&self) -> Docker {
        docker(&self.addr)
    }

    /// What it says it is; `None` if it says nothing.
    async fn role(&self) -> Option<Role> {
        let asked = timeout(Duration::from_secs(2), info(&self.addr)).await;
        let info = asked.ok()??;
        let rows = info["SystemStatus"].as_array()?;
        let row = |name: &str| {
            let row = rows.iter().find(|row| row[0] == name)?;
            row[1].as_str().map(str::to_owned)
        };
        match row("Role")?.as_str() {
            "primary" => Some(Role::Primary),
            "replica" => Some(Role::Replica(row("Primary")?)),
            other => panic!("role {other}"),
        }
    }

    async fn await_role(&self, role: Role, patience: Duration) {
        let end = Instant::now() + patience;
        loop {
            let now = self.role().await;
            if now.as_ref() == Some(&role) {
                return;
            }
            assert!(
                Instant::now() < end,
                "{} is {now:?}, not {role:?}",
                self.addr
            );
            sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Stage {
    async fn new(kind: Kind, ttl: &str) -> Self {
        Self::over(vec![Server::start(kind)], ttl).await
    }

    async fn over(servers: Vec<Server>, ttl: &str) -> Self {
        Self {
            fleet: Fleet::builder().engines(4).start().await.unwrap(),
            servers,
            island: None,
            ttl: ttl.to_owned(),
            more: Vec::new(),
            managers: Vec::new(),
        }
    }

    /// A stage with managers, the first of which leads.
    async fn with_managers(kind: Kind, ttl: &str) -> Self {
        let mut stage = Self::new(kind, ttl).await;
        stage.add_all().await;
        stage
    }

    /// Managers, the first of which leads, each with a way of its own to the store.
    async fn with_ways(kind: Kind, ttl: &str) -> Self {
        let island = Arc::new(Island::new(MANAGERS as u8));
        let extra = Extra {
            island: Some(Arc::clone(&island)),
            ..Extra::default()
        };
        let mut stage = Self::over(vec![Server::start_with(kind, extra)], ttl).await;
        stage.island = Some(island);
        stage.add_all().await;
        stage
    }

    /// Managers, the first of which leads, each on a server of its own of one store.
    async fn with_servers(kind: Kind, ttl: &str) -> Self {
        let mut stage = Self::over(Server::start_several(kind, MANAGERS), ttl).await;
        stage.add_all().await;
        stage
    }

    async fn add_all(&mut self) {
        for _ in 0..MANAGERS {
            self.add();
            let first = self.managers[0].addr.clone();
            let role = match self.managers.len() {
                1 => Role::Primary,
                _ => Role::Replica(first),
            };
            let last = self.managers.last().unwrap();
            last.await_role(role, PATIENCE).await;
        }
    }

    fn options(&self) -> Vec<String> {
        let engines = self.fleet.engines();
        let addrs: Vec<String> = engines.iter().map(|e| e.addr().to_string()).collect();
        let number = self.managers.len();
        let server = &self.servers[number % self.servers.len()];
        let mut options = vec![
            "--store".to_owned(),
            match &self.island {
                Some(_) => format!("{}/test", server.url_by(number as u8)),
                None => format!("{}/test", server.url()),
            },
            "--replication-ttl".to_owned(),
            self.ttl.clone(),
            format!("nodes://{}", addrs.join(",")),
        ];
        options.extend(self.more.iter().map(ToString::to_string));
        options
    }

    fn add(&mut self) {
        let manager = self.start_at(&free_addr());
        self.managers.push(manager);
    }

    fn start_at(&self, addr: &str) -> Manager {
        let options = self.options();
        Manager::start_with(addr, &options)
    }

    /// Waits until one manager leads and all others follow it, and returns which one does.
    async fn await_agreement(&self) -> usize {
        let end = Instant::now() + PATIENCE;
        loop {
            let mut roles = Vec::new();
            for manager in &self.managers {
                roles.push(manager.role().await);
            }
            let leader = roles.iter().position(|role| *role == Some(Role::Primary));
            if let Some(leader) = leader {
                let followed = Some(Role::Replica(self.managers[leader].addr.clone()));
                let agree = |(at, role): (usize, &Option<Role>)| at == leader || *role == followed;
                if roles.iter().enumerate().all(agree) {
                    return leader;
                }
            }
            assert!(Instant::now() < end, "no agreement: {roles:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until a leader has seen that it is none any more, and another leads.
    async fn await_replaced(&self, leader: usize) {
        let nobody = Role::Replica(String::new());
        self.managers[leader].await_role(nobody, PATIENCE).await;
        let end = Instant::now() + PATIENCE;
        loop {
            let mut roles = Vec::new();
            for at in (0..MANAGERS).filter(|at| *at != leader) {
                roles.push(self.managers[at].role().await);
            }
            if roles.contains(&Some(Role::Primary)) {
                return;
            }
            assert!(Instant::now() < end, "nobody takes over: {roles:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Clients that work on random managers until they are told to stop.
    fn load(&self, ledger: &Arc<Mutex<Ledger>>) -> Load {
        for engine in self.fleet.engines() {
            // So that there are always creates under way.
            let fault = Fault::Latency {
                base: Duration::from_millis(1),
                jitter: Duration::from_millis(40),
            };
            engine.set_fault_on("POST /containers/create", fault);
        }
        let stop = CancellationToken::new();
        let addrs: Vec<String> = self.managers.iter().map(|m| m.addr.clone()).collect();
        let clients = (0..CLIENTS).map(|_| {
            let (addrs, ledger, stop) = (addrs.clone(), Arc::clone(ledger), stop.clone());
            tokio::spawn(stop.run_until_cancelled_owned(async move {
                loop {
                    let at = rand::rng().random_range(0..addrs.len());
                    // Ends with the connection; a manager that is gone must not be asked at once.
                    let turn = Duration::from_millis(rand::rng().random_range(200..1500));
                    let _ = timeout(turn, work(docker(&addrs[at]), Arc::clone(&ledger))).await;
                    sleep(Duration::from_millis(20)).await;
                }
            }))
        });
        Load {
            clients: clients.collect(),
            stop,
        }
    }
}

struct Load {
    clients: Vec<JoinHandle<Option<()>>>,
    stop: CancellationToken,
}

impl Load {
    async fn stop(self) {
        self.stop.cancel();
        for client in self.clients {
            client.await.unwrap();
        }
    }
}

pub(crate) fn docker(addr: &str) -> Docker {
    Docker::connect_with_http(&format!("tcp://{addr}"), 20, API_DEFAULT_VERSION).unwrap()
}

/// `GET /info`, with what is in it for the cluster alone.
pub(crate) async fn info(addr: &str) -> Option<serde_json::Value> {
    let mut stream = TcpStream::connect(addr).await.ok()?;
    let request = b"GET /info HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let start = answer.find('{')?;
    let end = answer.rfind('}')?;
    serde_json::from_str(&answer[start..=end]).ok()
}

pub(crate) fn free_addr() -> String {
    let listener = TcpListener::bind((own_host(), 0)).unwrap();
    listener.local_addr().unwrap().to_string()
}

async fn names(docker: &Docker) -> Vec<String> {
    let options = ListContainersOptionsBuilder::new().all(true).build();
    let list = docker.list_containers(Some(options)).await.unwrap();
    let names = list.into_iter().flat_map(|entry| entry.names.unwrap());
    names.collect()
}

fn has(names: &[String], name: &str) -> bool {
    names.iter().any(|full| full.ends_with(&format!("/{name}")))
}

/// Creates a container as soon as a manager leads that can. One that failed in between may keep the
/// name until it is sure that there is no container.
pub(crate) async fn create_soon(docker: &Docker, name: &str) {
    let end = Instant::now() + PATIENCE;
    while let Err(error) = create(docker, name).await {
        let is_passing = matches!(
            error,
            Error::DockerResponseServerError {
                status_code: 503 | 409,
                ..
            }
        );
        assert!(is_passing && Instant::now() < end, "{name}: {error}");
        sleep(Duration::from_millis(50)).await;
    }
}

async fn await_created(ledger: &Mutex<Ledger>, more: usize) {
    let before = ledger.lock().unwrap().created;
    let end = Instant::now() + PATIENCE;
    while ledger.lock().unwrap().created < before + more {
        assert!(Instant::now() < end, "creates do not go on");
        sleep(Duration::from_millis(10)).await;
    }
}

async fn replicas_pass_on_and_take_over(kind: Kind) {
    let mut stage = Stage::with_managers(kind, "40s").await;
    // Through a replica.
    create(&stage.managers[1].docker(), "xx").await.unwrap();
    assert!(has(&names(&stage.managers[2].docker()).await, "xx"));
    assert!(has(&names(&stage.managers[0].docker()).await, "xx"));
    // A leader that is asked to end resigns: nobody waits for its time to be over.
    stage.managers[0].daemon.signal("TERM");
    let stopped = stage.managers.remove(0);
    let soon = Duration::from_secs(10);
    let leader = timeout(soon, stage.await_agreement()).await;
    let leader = leader.expect("the lock is not given back");
    drop(stopped);
    for manager in &stage.managers {
        assert!(has(&names(&manager.docker()).await, "xx"));
        let taken = create(&manager.docker(), "xx").await.unwrap_err();
        assert!(taken.to_string().contains("Conflict"), "{taken}");
    }
    create(&stage.managers[1 - leader].docker(), "yy")
        .await
        .unwrap();
}

async fn nothing_is_lost_or_doubled_when_leaders_die(kind: Kind) {
    let mut stage = Stage::with_managers(kind, "4s").await;
    let ledger = Arc::default();
    let load = stage.load(&ledger);
    await_created(&ledger, 20).await;
    for round in 0..3 {
        let leader = stage.await_agreement().await;
        if round % 2 == 0 {
            stage.managers[leader].daemon.kill();
        } else {
            stage.managers[leader].daemon.signal("TERM");
        }
        let addr = stage.managers[leader].addr.clone();
        await_created(&ledger, 20).await;
        // The address is free again when the old one is gone.
        stage.managers[leader].daemon.kill();
        stage.managers[leader] = stage.start_at(&addr);
    }
    stage.await_agreement().await;
    load.stop().await;
    ledger.lock().unwrap().check(&stage.fleet);
}

async fn a_leader_that_was_stopped_for_long_creates_nothing(kind: Kind) {
    let stage = Stage::with_managers(kind, "4s").await;
    let ledger = Arc::default();
    let load = stage.load(&ledger);
    await_created(&ledger, 20).await;
    for _ in 0..2 {
        let leader = stage.await_agreement().await;
        let paused = &stage.managers[leader];
        // Asked while it is stopped, and answered by it when it goes on.
        paused.daemon.signal("STOP");
        let asked: Vec<_> = (0..8)
            .map(|number| {
                let docker = paused.docker();
                tokio::spawn(async move { create(&docker, &format!("late{number}")).await })
            })
            .collect();
        let end = Instant::now() + PATIENCE;
        let mut others = Vec::new();
        while !others.contains(&Some(Role::Primary)) {
            assert!(Instant::now() < end, "nobody takes over: {others:?}");
            others.clear();
            for (at, manager) in stage.managers.iter().enumerate() {
                if at != leader {
                    others.push(manager.role().await);
                }
            }
        }
        await_created(&ledger, 20).await;
        // With the names that the stopped one was asked for.
        let made: Vec<_> = stage
            .managers
            .iter()
            .enumerate()
            .filter(|(at, _)| *at != leader)
            .map(|(_, manager)| manager.docker())
            .collect();
        for number in 0..8 {
            let name = format!("late{number}");
            // A container that was removed moments ago may not be settled.
            create_soon(&made[number % 2], &name).await;
        }
        paused.daemon.signal("CONT");
        for asked in asked {
            let answer = asked.await.unwrap();
            let error = answer.expect_err("the name is taken");
            let text = error.to_string();
            assert!(
                ["Conflict", "primary", "no container is created"]
                    .iter()
                    .any(|part| text.contains(part)),
                "{text}"
            );
        }
        stage.await_agreement().await;
        await_created(&ledger, 20).await;
        for number in 0..8 {
            let name = format!("late{number}");
            let removed = made[number % 2].remove_container(&name, None).await;
            removed.unwrap();
        }
    }
    load.stop().await;
    ledger.lock().unwrap().check(&stage.fleet);
}

async fn managers_that_start_together_agree(kind: Kind) {
    let mut stage = Stage::new(kind, "10s").await;
    let options = stage.options();
    let starting: Vec<_> = (0..MANAGERS)
        .map(|_| {
            let options = options.clone();
            std::thread::spawn(move || Manager::start_with(&free_addr(), &options))
        })
        .collect();
    let managers = starting.into_iter().map(|thread| thread.join().unwrap());
    stage.managers = managers.collect();
    stage.await_agreement().await;
    create(&stage.managers[0].docker(), "xx").await.unwrap();
}

async fn a_store_that_comes_back_empty_has_one_leader(kind: Kind) {
    let mut stage = Stage::with_managers(kind, "4s").await;
    create(&stage.managers[0].docker(), "xx").await.unwrap();
    stage.servers[0].wipe();
    stage.servers[0].restart();
    stage.await_agreement().await;
    for manager in &stage.managers {
        assert!(has(&names(&manager.docker()).await, "xx"));
    }
    create_soon(&stage.managers[1].docker(), "yy").await;
}

async fn without_the_store_nobody_leads_for_long(kind: Kind) {
    let mut stage = Stage::with_managers(kind, "4s").await;
    create(&stage.managers[0].docker(), "xx").await.unwrap();
    stage.servers[0].signal("STOP");
    let nobody = Role::Replica(String::new());
    stage.managers[0].await_role(nobody.clone(), PATIENCE).await;
    // A create waits for a leader rather than to be refused or made by a manager that is none.
    let docker = stage.managers[0].docker();
    let asked = tokio::spawn(async move { create_soon(&docker, "yy").await });
    assert!(
        timeout(
            Duration::from_millis(500),
            stage.managers[1].docker().version()
        )
        .await
        .is_err()
    );
    let count = || -> usize {
        stage
            .fleet
            .engines()
            .iter()
            .map(|e| e.containers().len())
            .sum()
    };
    assert_eq!(count(), 1);
    // A read is answered for all that.
    let seen = timeout(PATIENCE, names(&stage.managers[1].docker())).await;
    assert!(has(&seen.expect("reads hang"), "xx"));
    stage.servers[0].signal("CONT");
    stage.await_agreement().await;
    asked.await.unwrap();
    assert_eq!(count(), 2);
    stage.servers[0].kill();
    stage.servers[0].restart();
    stage.await_agreement().await;
    create_soon(&stage.managers[2].docker(), "zz").await;
}

async fn a_leader_cut_off_from_the_store_gives_way(kind: Kind) {
    let stage = Stage::with_ways(kind, "4s").await;
    let island = stage.island.as_ref().unwrap();
    let ledger = Arc::default();
    let load = stage.load(&ledger);
    await_created(&ledger, 20).await;
    for _ in 0..2 {
        let leader = stage.await_agreement().await;
        let way = leader as u8;
        island.cut(way);
        stage.await_replaced(leader).await;
        await_created(&ledger, 20).await;
        island.mend(way);
        stage.await_agreement().await;
        await_created(&ledger, 20).await;
    }
    load.stop().await;
    ledger.lock().unwrap().check(&stage.fleet);
}

async fn managers_on_a_server_each_outlive_one_of_them(kind: Kind) {
    let mut stage = Stage::with_servers(kind, "4s").await;
    let ledger = Arc::default();
    let load = stage.load(&ledger);
    await_created(&ledger, 20).await;
    for _ in 0..2 {
        let leader = stage.await_agreement().await;
        stage.servers[leader].kill();
        stage.await_replaced(leader).await;
        await_created(&ledger, 20).await;
        stage.servers[leader].restart();
        stage.await_agreement().await;
        await_created(&ledger, 20).await;
    }
    load.stop().await;
    ledger.lock().unwrap().check(&stage.fleet);
}

/// The engines that have a container of this name, the one at `dead` apart.
fn copies(fleet: &Fleet, dead: usize, name: &str) -> Vec<bool> {
    let engines = fleet.engines().iter().enumerate();
    engines
        .filter(|(at, _)| *at != dead)
        .filter_map(|(_, engine)| engine.container(name))
        .map(|container| container.phase.is_running())
        .collect()
}

// I-HA-3
async fn a_node_that_dies_is_rescheduled_once_whoever_leads(kind: Kind) {
    const DEAD: usize = 0;
    let mut stage = Stage::new(kind, "4s").await;
    stage.more = crate::manager::FAST_FAIL.to_vec();
    stage.add_all().await;
    let docker = stage.managers[1].docker();
    let mut names = Vec::new();
    for number in 0..60 {
        let name = format!("web{number}");
        let options = CreateContainerOptionsBuilder::new().name(&name).build();
        let body = ContainerCreateBody {
            image: Some("busybox".to_owned()),
            env: Some(vec!["reschedule:on-node-failure".to_owned()]),
            ..ContainerCreateBody::default()
        };
        docker.create_container(Some(options), body).await.unwrap();
        docker.start_container(&name, None).await.unwrap();
        if stage.fleet.engine(DEAD).container(&name).is_some() {
            names.push(name);
        }
    }
    assert!(names.len() >= 10, "{names:?}");
    for engine in stage.fleet.engines() {
        // So that leaders die in the middle of it.
        let fault = Fault::Latency {
            base: Duration::from_millis(100),
            jitter: Duration::from_millis(300),
        };
        for route in ["POST /containers/create", "POST /containers/{id}/start"] {
            engine.set_fault_on(route, fault.clone());
        }
    }
    stage.fleet.engine(DEAD).die();
    let moved = |least: usize| {
        let all = names.iter().map(|name| copies(&stage.fleet, DEAD, name));
        all.filter(|copies| copies.contains(&true)).count() >= least
    };
    let end = Instant::now() + PATIENCE;
    while !moved(2) {
        assert!(Instant::now() < end, "nothing moves");
        sleep(Duration::from_millis(5)).await;
    }
    let leader = stage.await_agreement().await;
    stage.managers[leader].daemon.kill();
    stage.managers.remove(leader);
    let end = Instant::now() + PATIENCE;
    while !moved(names.len()) {
        assert!(Instant::now() < end, "something does not move");
        sleep(Duration::from_millis(20)).await;
    }
    stage.fleet.engine(DEAD).come_back();
    let back = Arc::clone(stage.fleet.engine(DEAD));
    let gone = timeout(PATIENCE, async {
        for name in &names {
            back.wait_for(|engine| engine.container(name).is_none())
                .await;
        }
    });
    gone.await.expect("old copies stay");
    for name in &names {
        assert_eq!(copies(&stage.fleet, DEAD, name), [true], "{name}");
    }
}

macro_rules! suite {
    ($($name:ident($kind:expr): [$($test:ident),* $(,)?])*) => {$(
        mod $name {
            use super::*;

            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test($kind).await;
                }
            )*
        }
    )*};
}

macro_rules! all {
    ($($name:ident($kind:expr))*) => {
        suite!($($name($kind): [
            replicas_pass_on_and_take_over,
            nothing_is_lost_or_doubled_when_leaders_die,
            a_leader_that_was_stopped_for_long_creates_nothing,
            managers_that_start_together_agree,
            a_store_that_comes_back_empty_has_one_leader,
            without_the_store_nobody_leads_for_long,
            a_leader_cut_off_from_the_store_gives_way,
            managers_on_a_server_each_outlive_one_of_them,
            a_node_that_dies_is_rescheduled_once_whoever_leads,
        ])*);
    };
}

all!(
    etcd(Kind::Etcd)
    consul(Kind::Consul)
    zookeeper(Kind::ZooKeeper)
);
