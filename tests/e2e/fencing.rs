//! Agents on their nodes: whatever is cut, no container runs twice, and none stops without need.

use std::{
    fs,
    net::TcpListener,
    process::{Child, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{JoinHandle, sleep},
    time::{Duration, Instant},
};

use skep::config::store::Access;
use skep_fleet::stores::{Extra, Kind, Server};

use crate::{
    bed::Bed,
    fleet::{Fleet, IMAGE},
    manager::{FAST_FAIL, eventually},
};

const SKEP: &str = env!("CARGO_BIN_EXE_skep");

/// How long leases are valid here; short, so that tests are.
const TTL: Duration = Duration::from_secs(4);

/// A manager, agents beside its engines, and a store that all of them reach over the network.
struct Stage {
    agents: Vec<Child>,
    bed: Bed,
    server: Server,
    _directory: tempfile::TempDir,
}

impl Stage {
    fn new(fencing: bool) -> Self {
        let fleet = Fleet::of_this_slot();
        let gateway = fleet.gateway();
        let server = Server::start_with(
            Kind::Etcd,
            Extra {
                host: Some(gateway.clone()),
                ..Extra::default()
            },
        );
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("config.toml");
        let text = format!(
            "[engine]\nrequest-timeout = \"3s\"\n[reschedule]\nlease-margin = \"2s\"\nfencing = {fencing}\n"
        );
        fs::write(&config, text).unwrap();
        let port = TcpListener::bind((gateway.as_str(), 0)).unwrap();
        let advertise = port.local_addr().unwrap().to_string();
        drop(port);
        let store = format!("--store={}/test", server.url());
        let mut options = vec!["--config", config.to_str().unwrap(), &store];
        let listen = format!("tcp://{advertise}");
        options.extend(["-H", &listen, "--replication", "--advertise", &advertise]);
        options.extend(["--replication-ttl", "4s"]);
        options.extend(FAST_FAIL);
        let bed = Bed::over(fleet, &options);
        let mut stage = Self {
            agents: Vec::new(),
            bed,
            server,
            _directory: directory,
        };
        for index in 0..3 {
            let agent = stage.start_agent(index);
            stage.agents.push(agent);
        }
        if fencing {
            stage.await_leases();
        }
        stage
    }

    /// Waits until each agent has a lease: from then on its node is waited for.
    fn await_leases(&self) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let store = crate::stores::open(&self.server.url(), &Access::default());
            let end = Instant::now() + Duration::from_secs(60);
            loop {
                let listing = store.list("test").await.unwrap();
                let mut leases = listing.entries;
                leases.retain(|entry| entry.key.contains("/agents/"));
                if leases.len() == 3 {
                    return;
                }
                assert!(Instant::now() < end, "{} leases", leases.len());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
    }

    fn start_agent(&self, index: usize) -> Child {
        let advertise = &self.bed.fleet.addresses()[index];
        let mut command = self.bed.fleet.command(index, SKEP);
        command
            .args(["join", "--advertise", advertise, "--heartbeat", "5s"])
            .args([
                "--ttl",
                "60s",
                "--lease-ttl",
                &format!("{}s", TTL.as_secs()),
            ])
            .arg(format!("{}/test", self.server.url()))
            .stdin(Stdio::null());
        command.spawn().unwrap()
    }

    /// Starts a container on a node, which is made again elsewhere if that fails, and watches how
    /// many copies of it run.
    fn watched(&self, name: &str, node: &str, policy: &str) -> Watched {
        // Long enough to be told from all other processes of the machine.
        let seconds = format!("9{:09}", rand::random_range(0..1_000_000_000_u32));
        let (policy, wish) = (
            format!("reschedule:{policy}"),
            format!("constraint:node==~{node}"),
        );
        let run = [
            "run", "-d", "--name", name, "-e", &policy, "-e", &wish, IMAGE, "sleep", &seconds,
        ];
        self.bed.docker.ok(&run);
        assert_eq!(self.bed.node_of(name), node);
        let watched = Watched::new(&seconds);
        eventually("it runs", || (watched.now() == 1).then_some(()));
        watched
    }

    fn await_elsewhere(&self, name: &str, node: &str) {
        let old = format!("{node}/{name}");
        eventually("it runs elsewhere", || {
            let names = self.bed.ps(&[]);
            let new = |full: &String| full.ends_with(&format!("/{name}")) && *full != old;
            names.iter().any(new).then_some(())
        });
    }

    /// Waits until there is one copy again, and the node that was out of reach has none.
    fn await_one(&self, watched: &Watched, index: usize) {
        let address = self.bed.fleet.addresses()[index].clone();
        self.bed.manager.await_status(&address, "Healthy");
        eventually("the old copy is removed", || {
            let left = self.bed.fleet.engine(index).lines(&["ps", "-aq"]);
            left.is_empty().then_some(())
        });
        assert_eq!(watched.now(), 1);
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for agent in &mut self.agents {
            // `enter` replaces itself by the agent or waits for it; both end with the signal.
            let _ = agent.kill();
            let _ = agent.wait();
        }
        for index in 0..3 {
            let killed = self.bed.fleet.command(index, "pkill");
            let mut killed = killed;
            let _ = killed.args(["-9", "-f", "skep join"]).status();
        }
    }
}

/// Counts, all the time, how many processes of a container run on this machine.
struct Watched {
    seconds: String,
    most: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    sampler: Option<JoinHandle<()>>,
}

impl Watched {
    fn new(seconds: &str) -> Self {
        let most = Arc::new(AtomicUsize::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let sampler = {
            let (seconds, most, stop) = (seconds.to_owned(), Arc::clone(&most), Arc::clone(&stop));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    most.fetch_max(count(&seconds), Ordering::Relaxed);
                    sleep(Duration::from_millis(5));
                }
            })
        };
        Self {
            seconds: seconds.to_owned(),
            most,
            stop,
            sampler: Some(sampler),
        }
    }

    fn now(&self) -> usize {
        count(&self.seconds)
    }

    /// Sees for a while that exactly one copy runs.
    fn runs_on_for(&self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            assert_eq!(self.now(), 1);
            sleep(Duration::from_millis(5));
        }
    }

    /// The most copies that ever ran at one moment.
    fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(sampler) = self.sampler.take() {
            let _ = sampler.join();
        }
    }
}

/// How many processes sleep for so many seconds.
fn count(seconds: &str) -> usize {
    let wanted = format!("sleep\0{seconds}\0");
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    lines.filter(|line| line == wanted.as_bytes()).count()
}

#[test]
fn a_container_of_a_node_that_is_cut_off_never_runs_twice() {
    let stage = Stage::new(true);
    let watched = stage.watched("web", "node-2", "on-node-failure");
    stage.bed.fleet.cut(2);
    stage.await_elsewhere("web", "node-2");
    eventually("it runs", || (watched.now() == 1).then_some(()));
    stage.bed.fleet.mend(2);
    stage.await_one(&watched, 2);
    assert_eq!(watched.most(), 1);
}

#[test]
fn what_an_agent_stopped_runs_again_if_nobody_made_it_elsewhere() {
    let stage = Stage::new(true);
    let watched = stage.watched("web", "node-2", "on-node-failure");
    let id = stage.bed.inspect("web", "{{.Id}}");
    // Nobody may make it elsewhere: there is no other node.
    for node in ["node-0", "node-1"] {
        stage
            .bed
            .docker
            .ok(&["node", "update", "--availability", "pause", node]);
    }
    stage.bed.fleet.cut(2);
    eventually("the agent stops it", || (watched.now() == 0).then_some(()));
    stage.bed.fleet.mend(2);
    eventually("it runs again", || (watched.now() == 1).then_some(()));
    assert_eq!(stage.bed.inspect("web", "{{.Id}}"), id);
    assert_eq!(watched.most(), 1);
}

#[test]
fn a_node_whose_engine_alone_is_out_of_reach_keeps_its_containers() {
    let stage = Stage::new(true);
    let watched = stage.watched("web", "node-2", "on-node-failure");
    let unfenced = stage.watched("loose", "node-2", "on-node-failure,fence=off");
    let drop_rule = ["INPUT", "-p", "tcp", "--dport", "2375", "-j", "DROP"];
    let rule = |action: &str| {
        let mut command = stage.bed.fleet.command(2, "iptables");
        let done = command.arg(action).args(drop_rule).status().unwrap();
        assert!(done.success());
    };
    rule("-I");
    // The agent renews its lease: only what opted out of that is made elsewhere.
    stage.await_elsewhere("loose", "node-2");
    eventually("the manager says why", || {
        let status = stage.bed.docker.ok(&[
            "ps",
            "-a",
            "--filter",
            "name=web",
            "--format",
            "{{.Status}}",
        ]);
        status.contains("has a lease").then_some(())
    });
    watched.runs_on_for(3 * TTL);
    rule("-D");
    let address = stage.bed.fleet.addresses()[2].clone();
    stage.bed.manager.await_status(&address, "Healthy");
    assert_eq!(stage.bed.node_of("web"), "node-2");
    assert_eq!((watched.now(), watched.most()), (1, 1));
    eventually("one copy of the other is left", || {
        (unfenced.now() == 1).then_some(())
    });
}

#[test]
fn agents_stop_nothing_where_fencing_is_switched_off() {
    let stage = Stage::new(false);
    let watched = stage.watched("web", "node-2", "on-node-failure");
    stage.bed.fleet.cut(2);
    stage.await_elsewhere("web", "node-2");
    eventually("both run", || (watched.now() == 2).then_some(()));
    stage.bed.fleet.mend(2);
    stage.await_one(&watched, 2);
}

#[test]
fn neither_a_dead_agent_nor_a_dead_store_stops_a_container() {
    let mut stage = Stage::new(true);
    let watched = stage.watched("web", "node-2", "on-node-failure");
    let id = stage.bed.inspect("web", "{{.Id}}");
    let killed = stage
        .bed
        .fleet
        .command(2, "pkill")
        .args(["-9", "-f", "skep join"])
        .status();
    assert!(killed.unwrap().success());
    watched.runs_on_for(3 * TTL);
    let agent = stage.start_agent(2);
    stage.agents.push(agent);
    watched.runs_on_for(TTL);

    stage.server.kill();
    watched.runs_on_for(4 * TTL);
    stage.server.restart();
    eventually("the manager leads again", || {
        let renamed = stage.bed.docker.run(&["rename", "web", "web2"]);
        (renamed.code == 0).then_some(())
    });
    watched.runs_on_for(TTL);
    assert_eq!(
        stage.bed.inspect("web2", "{{.Id}} {{.Node.Name}}"),
        format!("{id} node-2")
    );
}
