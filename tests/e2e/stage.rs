//! What tests of fencing stand on: agents beside the engines, a manager, and a store that all of them
//! reach over the fleet's network.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use skep::config::store::Access;
use skep_fleet::stores::{Extra, Kind, Server};

use crate::{
    bed::Bed,
    fleet::Fleet,
    manager::{FAST_FAIL, Manager, eventually},
    watched::Watched,
};

/// How long leases are valid here; short, so that tests are.
pub const TTL: Duration = Duration::from_secs(4);

/// What makes containers move.
pub const MOVES: &str = "reschedule:on-node-failure";

const SKEP: &str = env!("CARGO_BIN_EXE_skep");

/// A manager, agents beside its engines, and a store that all of them reach over the network.
pub struct Stage {
    agents: Vec<Child>,
    pub bed: Bed,
    pub server: Server,
    options: Vec<String>,
    discovery: String,
    directory: tempfile::TempDir,
}

/// What a stage is like.
pub struct Setup<'a> {
    /// Whether agents may stop containers.
    pub fencing: bool,
    /// Whether nodes are those that agents have registered of late, instead of a fixed list.
    pub registered: bool,
    /// More lines of the table `[reschedule]`.
    pub reschedule: &'a str,
    /// The engines, if not those of the test's slot.
    pub fleet: Option<Fleet>,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Self {
            fencing: true,
            registered: false,
            reschedule: "",
            fleet: None,
        }
    }
}

impl Stage {
    pub fn new(setup: Setup<'_>) -> Self {
        let fleet = setup.fleet.unwrap_or_else(Fleet::of_this_slot);
        let gateway = fleet.gateway();
        let extra = Extra {
            host: Some(gateway.clone()),
            ..Extra::default()
        };
        let server = Server::start_with(Kind::Etcd, extra);
        let store = format!("{}/test", server.url());
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("config.toml");
        let text = format!(
            "[engine]\nrequest-timeout = \"3s\"\n[reschedule]\nlease-margin = \"2s\"\nfencing = {}\n{}\n",
            setup.fencing, setup.reschedule
        );
        fs::write(&config, text).unwrap();
        let port = TcpListener::bind((gateway.as_str(), 0)).unwrap();
        let advertise = port.local_addr().unwrap().to_string();
        drop(port);
        let mut options = vec![
            format!("--config={}", config.display()),
            format!("--store={store}"),
            "-H".to_owned(),
            format!("tcp://{advertise}"),
            "--replication".to_owned(),
            format!("--advertise={advertise}"),
            "--replication-ttl=4s".to_owned(),
        ];
        options.extend(FAST_FAIL.map(str::to_owned));
        let discovery = match setup.registered {
            true => store.clone(),
            false => fleet.discovery(),
        };
        let agents = 0..fleet.addresses().len();
        let agents = agents.map(|index| start_agent(&fleet, &store, directory.path(), index));
        let agents = agents.collect();
        let bed = Bed::at(fleet, &discovery, &borrowed(&options));
        let stage = Self {
            agents,
            bed,
            server,
            options,
            discovery,
            directory,
        };
        if setup.fencing {
            stage.await_leases();
        }
        stage
    }

    /// Waits until each agent has a lease: from then on its node is waited for.
    fn await_leases(&self) {
        let wanted = self.bed.fleet.addresses().len();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let store = crate::stores::open(&self.server.url(), &Access::default());
            let end = Instant::now() + Duration::from_secs(60);
            loop {
                let listing = store.list("test").await.unwrap();
                let mut leases = listing.entries;
                leases.retain(|entry| entry.key.contains("/agents/"));
                if leases.len() == wanted {
                    return;
                }
                assert!(Instant::now() < end, "{} leases", leases.len());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
    }

    /// Starts the agent of a node again.
    pub fn start_agent(&mut self, index: usize) {
        let store = format!("{}/test", self.server.url());
        let agent = start_agent(&self.bed.fleet, &store, self.directory.path(), index);
        self.agents.push(agent);
    }

    /// Ends the agent of a node without a word.
    pub fn kill_agent(&self, index: usize) {
        let mut command = self.bed.fleet.command(index, "pkill");
        let killed = command.args(["-9", "-f", "skep join"]).status();
        assert!(killed.unwrap().success());
    }

    /// Ends the manager without a word.
    pub fn kill_manager(&mut self) {
        self.bed.manager.signal("KILL");
        self.bed.manager.ended();
    }

    /// Starts another manager like the first one.
    pub fn start_manager(&mut self) {
        self.bed.manager = Manager::start_at(&self.discovery, &borrowed(&self.options));
        self.bed.docker = self.bed.manager.docker();
    }

    /// Starts a container on a node, which is made again elsewhere if that fails, and watches how
    /// many copies of it run.
    pub fn watched(&self, name: &str, node: &str, options: &[&str]) -> Watched {
        let wish = format!("constraint:node==~{node}");
        let mut all = vec!["-e", &wish];
        all.extend(options);
        let watched = Watched::start(&self.bed, name, &all);
        assert_eq!(self.bed.node_of(name), node);
        watched
    }

    /// Waits until the manager shows a container on another node, running.
    pub fn await_elsewhere(&self, name: &str, node: &str) {
        let old = format!("{node}/{name}");
        eventually("it runs elsewhere", || {
            let names = self.bed.ps(&[]);
            let new = |full: &String| full.ends_with(&format!("/{name}")) && *full != old;
            names.iter().any(new).then_some(())
        });
    }

    /// Waits until a node has a status word, such as `Healthy`.
    pub fn await_status(&self, index: usize, wanted: &str) {
        let address = &self.bed.fleet.addresses()[index];
        self.bed.manager.await_status(address, wanted);
    }

    /// Waits until the node that was out of reach is back and has no copy, and sees that there is one.
    pub fn await_one(&self, watched: &Watched, index: usize) {
        self.await_status(index, "Healthy");
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
            // This ends what entered the namespaces, and not the agent inside.
            let _ = agent.kill();
            let _ = agent.wait();
        }
        for index in 0..self.bed.fleet.addresses().len() {
            let mut command = self.bed.fleet.command(index, "pkill");
            command.args(["-9", "-f", "skep join"]);
            // There may be no agent left, nor an engine.
            let _ = command.stderr(Stdio::null()).status();
        }
    }
}

fn borrowed(options: &[String]) -> Vec<&str> {
    options.iter().map(String::as_str).collect()
}

fn start_agent(fleet: &Fleet, store: &str, state: &Path, index: usize) -> Child {
    let advertise = &fleet.addresses()[index];
    let lease = format!("--lease-ttl={}s", TTL.as_secs());
    let mut command = fleet.command(index, SKEP);
    command
        .args(["join", "--advertise", advertise, "--heartbeat", "1s"])
        .args(["--ttl", "4s", &lease, store])
        // Addresses of fleets come again in other tests.
        .arg(format!("--state-dir={}", state.display()))
        .stdin(Stdio::null());
    command.spawn().unwrap()
}
