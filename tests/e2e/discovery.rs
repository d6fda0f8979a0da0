//! Discovery backends over a fleet of stand-in engines: agents that register, managers that
//! follow, backends that go away, and one that takes over from another.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use bollard::{models::EventMessage, query_parameters::EventsOptions};
use futures_util::StreamExt;
use hickory_resolver::proto::{
    op::{Message, MessageType, OpCode, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata},
};
use skep_fleet::{
    Fleet,
    daemon::Daemon,
    ledger::create,
    stores::{Extra, Kind, Server},
};
use tokio::{
    net::UdpSocket,
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use crate::replication::{docker, free_addr, info};

const SKEP: &str = env!("CARGO_BIN_EXE_skep");

/// How long something may take that takes no time.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running `skep join`; killed when dropped.
pub(crate) struct Agent {
    child: Child,
}

impl Agent {
    pub(crate) fn start(advertise: &str, options: &[&str]) -> Self {
        Self::start_with(advertise, options, Stdio::null())
    }

    fn start_with(advertise: &str, options: &[&str], log: Stdio) -> Self {
        let child = Command::new(SKEP)
            .args(["join", "--advertise", advertise, "--heartbeat", "1s"])
            .args(options)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child }
    }

    /// Starts one, and tells of each line of its log that has `text`.
    fn start_watched(
        advertise: &str,
        options: &[&str],
        text: &'static str,
    ) -> (Self, mpsc::UnboundedReceiver<()>) {
        let mut agent = Self::start_with(advertise, options, Stdio::piped());
        let log = BufReader::new(agent.child.stderr.take().unwrap());
        let (said, saying) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            // To the end: an agent whose log nobody reads would wait.
            for line in log.lines().map_while(Result::ok) {
                if line.contains(text) {
                    let _ = said.send(());
                }
            }
        });
        (agent, saying)
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends it as an operator does.
    fn stop(&mut self) -> ExitStatus {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", "TERM", &pid]).status();
        assert!(sent.unwrap().success());
        self.child.wait().unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn addrs(fleet: &Fleet) -> Vec<String> {
    let engines = fleet.engines().iter();
    engines.map(|engine| engine.addr().to_string()).collect()
}

pub(crate) async fn fleet(engines: usize) -> Fleet {
    Fleet::builder().engines(engines).start().await.unwrap()
}

/// The engines a manager shows.
async fn shown(manager: SocketAddr, fleet: &Fleet) -> BTreeSet<String> {
    let all: BTreeSet<String> = addrs(fleet).into_iter().collect();
    let Some(info) = info(&manager.to_string()).await else {
        return BTreeSet::new();
    };
    let rows = info["SystemStatus"].as_array().unwrap();
    let values = rows.iter().filter_map(|row| row[1].as_str());
    let values = values.map(str::to_owned);
    values.filter(|value| all.contains(value)).collect()
}

/// Waits until a manager shows these engines.
pub(crate) async fn await_shown(manager: SocketAddr, fleet: &Fleet, wanted: &[&str]) {
    let wanted: BTreeSet<String> = wanted.iter().map(|addr| (*addr).to_owned()).collect();
    let end = Instant::now() + PATIENCE;
    loop {
        let now = shown(manager, fleet).await;
        if now == wanted {
            return;
        }
        assert!(Instant::now() < end, "{now:?} are shown, not {wanted:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// What `skep list` prints.
pub(crate) fn listed(url: &str, options: &[&str]) -> Result<BTreeSet<String>, String> {
    let output = Command::new(SKEP)
        .args(["list", url])
        .args(options)
        .output()
        .unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let text = String::from_utf8(output.stdout).unwrap();
    Ok(text.lines().map(str::to_owned).collect())
}

pub(crate) async fn await_listed(url: &str, options: &[&str], wanted: &[&str]) {
    let wanted: BTreeSet<String> = wanted.iter().map(|addr| (*addr).to_owned()).collect();
    let end = Instant::now() + PATIENCE;
    loop {
        let now = listed(url, options);
        if now.as_ref() == Ok(&wanted) {
            return;
        }
        assert!(Instant::now() < end, "{now:?} are listed, not {wanted:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// A manager that forgets at once who is not listed, and keeps no records.
fn manager(url: &str, directory: &tempfile::TempDir) -> Daemon {
    let config = directory.path().join("skep.toml");
    let text = "store.url = \"none\"\ndiscovery.removal-delay = \"100ms\"\n";
    fs::write(&config, text).unwrap();
    let config = config.to_str().unwrap();
    Daemon::start(SKEP, &["--config", config, url])
}

async fn agents_register_and_managers_follow(kind: Kind) {
    let fleet = fleet(3).await;
    let engines = addrs(&fleet);
    let [one, two, three] = [&*engines[0], &*engines[1], &*engines[2]];
    let mut server = Server::start_with(kind, Extra::default());
    let url = format!("{}/fleet", server.url());
    // 10 s is what the shortest session of Consul needs, of which it is asked for half.
    let ttl = ["--ttl", "20s", &url];
    let mut first = Agent::start(one, &ttl);
    let mut second = Agent::start(two, &ttl);
    let mut third = Agent::start(three, &ttl);
    let directory = tempfile::tempdir().unwrap();
    let manager = manager(&url, &directory);
    await_shown(manager.addr(), &fleet, &[one, two, three]).await;
    assert_eq!(
        listed(&url, &[]).unwrap(),
        engines.iter().cloned().collect()
    );
    // One that is asked to end takes its registration back; nobody waits for its time to be over.
    assert!(first.stop().success());
    await_shown(manager.addr(), &fleet, &[two, three]).await;
    // The store may go away for a while.
    server.kill();
    let docker = docker(&manager.addr().to_string());
    create(&docker, "meanwhile").await.unwrap();
    assert_eq!(
        shown(manager.addr(), &fleet).await,
        BTreeSet::from([two.to_owned(), three.to_owned()])
    );
    server.restart();
    let mut again = Agent::start(one, &ttl);
    await_shown(manager.addr(), &fleet, &[one, two, three]).await;
    // One that dies is gone when its time is over.
    third.kill();
    await_shown(manager.addr(), &fleet, &[one, two]).await;
    // When the last one goes, so does the fleet, once that is confirmed.
    assert!(second.stop().success());
    assert!(again.stop().success());
    await_shown(manager.addr(), &fleet, &[]).await;
}

async fn an_agent_without_engine_or_store_goes_on_trying(kind: Kind) {
    let fleet = fleet(1).await;
    let engine = &addrs(&fleet)[0];
    let mut server = Server::prepare(kind, Extra::default());
    let url = format!("{}/fleet", server.url());
    fleet.engines()[0].die();
    let text = "no engine answers at";
    let (agent, mut said) = Agent::start_watched(engine, &["--ttl", "20s", &url], text);
    let first = timeout(PATIENCE, said.recv()).await;
    first.expect("not said").unwrap();
    server.restart();
    // It does not register what does not answer.
    while said.try_recv().is_ok() {}
    let again = timeout(PATIENCE, said.recv()).await;
    again.expect("not said again").unwrap();
    assert_eq!(listed(&url, &[]).unwrap(), BTreeSet::new());
    fleet.engines()[0].come_back();
    await_listed(&url, &[], &[engine]).await;
    drop(agent);
}

macro_rules! all {
    ($($name:ident($kind:expr))*) => {$(
        mod $name {
            use super::*;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn agents_register_and_managers_follow() {
                super::agents_register_and_managers_follow($kind).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn an_agent_without_engine_or_store_goes_on_trying() {
                super::an_agent_without_engine_or_store_goes_on_trying($kind).await;
            }
        }
    )*};
}

all!(
    etcd(Kind::Etcd)
    consul(Kind::Consul)
    zookeeper(Kind::ZooKeeper)
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_backend_takes_over_and_nothing_else_changes() {
    let fleet = fleet(3).await;
    let engines = addrs(&fleet);
    let [one, two, three] = [&*engines[0], &*engines[1], &*engines[2]];
    let server = Server::start(Kind::Etcd);
    let etcd = format!("{}/fleet", server.url());
    let _agents: Vec<Agent> = [one, two, three]
        .iter()
        .map(|addr| Agent::start(addr, &["--ttl", "60s", &etcd]))
        .collect();
    await_listed(&etcd, &[], &[one, two, three]).await;
    let directory = tempfile::tempdir().unwrap();
    let list = directory.path().join("nodes");
    fs::write(&list, engines.join("\n")).unwrap();
    let config = directory.path().join("skep.toml");
    let write = |url: &str| {
        let text = format!(
            "store.url = \"none\"\n[discovery]\nurl = \"{url}\"\nremoval-delay = \"100ms\"\n"
        );
        fs::write(&config, text).unwrap();
    };
    write(&format!("nodes://{}", engines.join(",")));
    let manager = Daemon::start(SKEP, &["--config", config.to_str().unwrap()]);
    await_shown(manager.addr(), &fleet, &[one, two, three]).await;
    let docker = docker(&manager.addr().to_string());
    let end = Instant::now() + PATIENCE;
    while let Err(error) = create(&docker, "before").await {
        assert!(Instant::now() < end, "{error}");
        sleep(Duration::from_millis(50)).await;
    }
    // A stream that lasts through all changes, and whatever happens to nodes is in it.
    let seen: Arc<Mutex<Vec<EventMessage>>> = Arc::default();
    let mut events = docker.events(None::<EventsOptions>);
    let kept = Arc::clone(&seen);
    let follow = tokio::spawn(async move {
        while let Some(event) = events.next().await {
            kept.lock().unwrap().push(event.unwrap());
        }
    });
    let streams = |fleet: &Fleet| -> u64 {
        let engines = fleet.engines().iter();
        engines.map(|engine| engine.requests("GET /events")).sum()
    };
    let before = streams(&fleet);
    let urls = [etcd, format!("file://{}", list.display())];
    for (number, url) in (1..).zip(urls) {
        write(&url);
        manager.signal("HUP");
        let scheme = url.split(':').next().unwrap();
        let told = format!("\"backend\":\"{scheme}\"");
        tokio::task::block_in_place(|| manager.await_log(&told, PATIENCE));
        await_shown(manager.addr(), &fleet, &[one, two, three]).await;
        create(&docker, &format!("after{number}")).await.unwrap();
    }
    let names = docker
        .list_containers(Some(
            bollard::query_parameters::ListContainersOptionsBuilder::new()
                .all(true)
                .build(),
        ))
        .await
        .unwrap();
    assert_eq!(names.len(), 3);
    assert_eq!(streams(&fleet), before, "nodes were connected to again");
    assert!(!follow.is_finished(), "the stream was cut");
    let actions: Vec<_> = seen.lock().unwrap().iter().cloned().collect();
    let actions: Vec<_> = actions.into_iter().filter_map(|e| e.action).collect();
    assert!(
        !actions.iter().any(|action| action.contains("engine")),
        "{actions:?}"
    );
    follow.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_keeps_lists_under_tokens() {
    let fleet = fleet(2).await;
    let engines = addrs(&fleet);
    let [one, two] = [&*engines[0], &*engines[1]];
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("keeper.toml");
    let store = directory.path().join("store");
    let text = format!(
        "store.url = \"embedded://{}\"\napi.token-lists = true\n",
        store.display()
    );
    fs::write(&config, text).unwrap();
    let addr = free_addr();
    let options = [
        "-H",
        &format!("tcp://{addr}"),
        "--config",
        config.to_str().unwrap(),
        "nodes://127.0.0.1:1",
    ];
    let mut keeper = Daemon::start(SKEP, &options);
    let made = Command::new(SKEP).arg("create").output().unwrap();
    let token = String::from_utf8(made.stdout).unwrap();
    let url = format!("token://{addr}/v1/{}", token.trim());
    let http = ["--discovery-opt", "token.scheme=http"];
    assert_eq!(listed(&url, &http).unwrap(), BTreeSet::new());
    let options = ["--ttl", "5s", http[0], http[1], &*url];
    let mut first = Agent::start(one, &options);
    let mut second = Agent::start(two, &options);
    await_listed(&url, &http, &[one, two]).await;
    // What it was told outlives it.
    keeper.kill();
    assert!(listed(&url, &http).unwrap_err().contains("refused"));
    let again = [
        "-H",
        &format!("tcp://{addr}"),
        "--config",
        config.to_str().unwrap(),
        "nodes://127.0.0.1:1",
    ];
    let _keeper = Daemon::start(SKEP, &again);
    await_listed(&url, &http, &[one, two]).await;
    let plain = tempfile::tempdir().unwrap();
    let file = plain.path().join("skep.toml");
    let text = format!(
        "store.url = \"none\"\n[discovery]\nurl = \"{url}\"\nheartbeat = \"1s\"\n\
         removal-delay = \"100ms\"\noptions = {{ \"token.scheme\" = \"http\" }}\n"
    );
    fs::write(&file, text).unwrap();
    let manager = Daemon::start(SKEP, &["--config", file.to_str().unwrap()]);
    await_shown(manager.addr(), &fleet, &[one, two]).await;
    first.kill();
    await_shown(manager.addr(), &fleet, &[two]).await;
    assert!(second.stop().success());
    await_listed(&url, &http, &[]).await;
    // Somebody else's list is not to be had, and a bad one is refused.
    let other = format!("token://{addr}/v1/{}", "0".repeat(32));
    assert_eq!(listed(&other, &http).unwrap(), BTreeSet::new());
    let short = format!("token://{addr}/v1/short");
    assert!(listed(&short, &http).unwrap_err().contains("400"));
}

/// A name server that knows what it is told.
struct NameServer {
    addr: SocketAddr,
    records: Arc<Mutex<Records>>,
    task: JoinHandle<()>,
}

type Records = BTreeMap<(String, RecordType), Vec<RData>>;

impl NameServer {
    async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = socket.local_addr().unwrap();
        let records: Arc<Mutex<Records>> = Arc::default();
        let known = Arc::clone(&records);
        let task = tokio::spawn(async move {
            let mut packet = [0; 1500];
            loop {
                let (length, from) = socket.recv_from(&mut packet).await.unwrap();
                let asked = Message::from_vec(&packet[..length]).unwrap();
                let query = asked.queries[0].clone();
                let mut answer =
                    Message::new(asked.metadata.id, MessageType::Response, OpCode::Query);
                answer.metadata.recursion_available = true;
                answer.add_query(query.clone());
                let name = query.name().to_string();
                let key = (name.trim_end_matches('.').to_owned(), query.query_type());
                match known.lock().unwrap().get(&key) {
                    Some(found) => {
                        for data in found {
                            let name = query.name().clone();
                            answer.add_answer(Record::from_rdata(name, 1, data.clone()));
                        }
                    }
                    None => answer.metadata.response_code = ResponseCode::NXDomain,
                }
                let bytes = answer.to_vec().unwrap();
                socket.send_to(&bytes, from).await.unwrap();
            }
        });
        Self {
            addr,
            records,
            task,
        }
    }

    fn set(&self, name: &str, kind: RecordType, data: Vec<RData>) {
        let mut records = self.records.lock().unwrap();
        records.insert((name.to_owned(), kind), data);
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn address(text: &str) -> RData {
    RData::A(rdata::A(text.parse().unwrap()))
}

fn service(port: u16, host: &str) -> RData {
    let host = Name::from_ascii(format!("{host}.")).unwrap();
    RData::SRV(rdata::SRV::new(0, 0, port, host))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn engines_are_found_in_the_dns() {
    let fleet = fleet(2).await;
    let engines = addrs(&fleet);
    let [one, two] = [&*engines[0], &*engines[1]];
    let port = |addr: &str| -> u16 { addr.rsplit_once(':').unwrap().1.parse().unwrap() };
    let server = NameServer::start().await;
    let name = "_docker._tcp.fleet.example";
    server.set("a.fleet.example", RecordType::A, vec![address("127.0.0.1")]);
    server.set(
        name,
        RecordType::SRV,
        vec![service(port(one), "a.fleet.example")],
    );
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("skep.toml");
    let text = format!(
        "store.url = \"none\"\n[discovery]\nurl = \"dns://{name}\"\nremoval-delay = \"100ms\"\n\
         options = {{ \"dns.server\" = \"{}\", \"dns.targets\" = \"addresses\" }}\n",
        server.addr
    );
    fs::write(&config, text).unwrap();
    let manager = Daemon::start(SKEP, &["--config", config.to_str().unwrap()]);
    await_shown(manager.addr(), &fleet, &[one]).await;
    // The records' time is short, so that changes are seen soon.
    let both = [one, two].map(|addr| service(port(addr), "a.fleet.example"));
    server.set(name, RecordType::SRV, both.to_vec());
    await_shown(manager.addr(), &fleet, &[one, two]).await;
    let server_option = format!("dns.server={}", server.addr);
    let options = ["--discovery-opt", &*server_option];
    let by_name = listed(&format!("dns://{name}"), &options).unwrap();
    assert!(
        by_name.contains(&format!("a.fleet.example:{}", port(one))),
        "{by_name:?}"
    );
    let plain = format!("dns://a.fleet.example:{}", port(two));
    assert_eq!(
        listed(&plain, &options).unwrap(),
        BTreeSet::from([two.to_owned()])
    );
    let absent = listed("dns://b.fleet.example:2375", &options).unwrap_err();
    assert!(absent.contains("b.fleet.example"), "{absent}");
}

#[test]
fn urls_that_cannot_be_are_refused_with_the_reason() {
    for (url, options, reason) in [
        ("etcd://", &[][..], "discovery service not supported"),
        ("etcd://u:p@h/x", &[], "credentials are not part of the URL"),
        ("zk://h:1/a//b", &[], "empty segment"),
        (
            "consul://h",
            &["--discovery-opt", "kv.user=ann"],
            "Consul knows tokens",
        ),
        (
            "etcd://h",
            &["--discovery-opt", "kv.path=a/../b"],
            "kv.path",
        ),
        (
            "dns://e:1",
            &["--discovery-opt", "dns.server=x"],
            "dns.server",
        ),
        ("token://0123456789abcdef", &[], "was shut down"),
        ("eureka://h", &[], "discovery service not supported"),
    ] {
        let refused = listed(url, options).unwrap_err();
        assert!(refused.contains(reason), "{url}: {refused}");
    }
}
