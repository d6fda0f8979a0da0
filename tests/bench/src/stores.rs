//! Real servers of stores as processes of their own: etcd, Consul, ZooKeeper.
//!
//! Servers of one store know each other: what one is told, all know.
//!
//! A server listens on free ports of the loopback address and keeps its data in a directory of its
//! own. It can be killed, stopped as SIGSTOP does, and started again on the same ports with the
//! same data or with none.

use std::{
    env, fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::island::Island;

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `etcd`, from the PATH.
    Etcd,
    /// `consul`, from the PATH or from where `config/unpack` puts it.
    Consul,
    /// The jar of the package `zookeeper`, with `java` from the PATH.
    ZooKeeper,
}

/// What a server is started with beside the defaults.
#[derive(Clone, Debug, Default)]
pub struct Extra {
    /// Certificate, key, and CA files: it speaks TLS, and wants a certificate of its clients.
    pub tls: Option<(PathBuf, PathBuf, PathBuf)>,
    /// Consul's management token: without it nothing is allowed.
    pub token: Option<String>,
    /// It runs there, instead of where the test does.
    pub island: Option<Arc<Island>>,
    /// The address it listens at, if not loopback.
    pub host: Option<String>,
}

/// A running server; killed, and its data deleted, when dropped.
#[derive(Debug)]
pub struct Server {
    kind: Kind,
    directory: PathBuf,
    /// The ports of all servers of the store.
    members: Vec<[u16; 4]>,
    /// Which of them this one is.
    number: usize,
    extra: Extra,
    child: Option<Child>,
}

/// How long a server may take until it answers. A JVM on two busy cores takes its time.
const PATIENCE: Duration = Duration::from_secs(60);

impl Kind {
    /// The scheme of its URLs.
    pub fn scheme(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Consul => "consul",
            Self::ZooKeeper => "zk",
        }
    }

    /// The shortest time, in seconds, after which it may give up a session that is silent.
    ///
    /// Consul counts in halves, ZooKeeper takes two of its ticks at least, etcd an election.
    pub fn shortest_session(self) -> u64 {
        match self {
            Self::Consul | Self::Etcd => 2,
            Self::ZooKeeper => 1,
        }
    }
}

impl Server {
    /// Starts a server and returns once it answers.
    ///
    /// # Panics
    ///
    /// It cannot be started, or does not answer within a minute.
    pub fn start(kind: Kind) -> Self {
        Self::start_with(kind, Extra::default())
    }

    /// The same with options.
    ///
    /// # Panics
    ///
    /// It cannot be started, or does not answer within a minute.
    pub fn start_with(kind: Kind, extra: Extra) -> Self {
        let mut server = Self::prepare(kind, extra);
        server.restart();
        server
    }

    /// A server that is not started yet, so that nothing answers where it will.
    ///
    /// # Panics
    ///
    /// There is no place for its data.
    pub fn prepare(kind: Kind, extra: Extra) -> Self {
        Self::member(kind, extra, &free_ports(1), 0)
    }

    /// Starts several servers of one store, and returns once all of them answer.
    ///
    /// # Panics
    ///
    /// They cannot be started, or do not agree within a minute each.
    pub fn start_several(kind: Kind, size: usize) -> Vec<Self> {
        let members = free_ports(size);
        let servers = 0..size;
        let mut servers: Vec<Self> = servers
            .map(|number| Self::member(kind, Extra::default(), &members, number))
            .collect();
        // None answers before most of them run.
        for server in &mut servers {
            server.spawn();
        }
        for server in &mut servers {
            server.await_answer();
        }
        servers
    }

    fn member(kind: Kind, extra: Extra, members: &[[u16; 4]], number: usize) -> Self {
        let first = members[number][0];
        let name = format!("skep-{}-{}-{first}", kind.scheme(), std::process::id());
        let directory = env::temp_dir().join(name);
        fs::create_dir_all(&directory).expect("a directory");
        Self {
            kind,
            directory,
            members: members.to_vec(),
            number,
            extra,
            child: None,
        }
    }

    fn ports(&self) -> [u16; 4] {
        self.members[self.number]
    }

    /// Where clients reach it.
    pub fn addr(&self) -> String {
        format!("{}:{}", self.host(), self.ports()[0])
    }

    /// Its URL by one way to the island that it is on.
    ///
    /// # Panics
    ///
    /// It is on none.
    pub fn url_by(&self, way: u8) -> String {
        let island = self.extra.island.as_ref().expect("an island");
        let (scheme, host) = (self.kind.scheme(), island.host(way));
        format!("{scheme}://{host}:{}", self.ports()[0])
    }

    fn host(&self) -> String {
        match &self.extra.island {
            Some(island) => island.host(0).to_string(),
            None => self.listens_at().to_owned(),
        }
    }

    /// Where it listens for clients.
    fn listens_at(&self) -> &str {
        match (&self.extra.island, &self.extra.host) {
            (Some(_), _) => "0.0.0.0",
            (None, Some(host)) => host,
            (None, None) => "127.0.0.1",
        }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("{}://{}", self.kind.scheme(), self.addr())
    }

    /// Its process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Kills it, as `kill -9` does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Kills it and deletes its data.
    ///
    /// # Panics
    ///
    /// The data cannot be deleted.
    pub fn wipe(&mut self) {
        self.kill();
        fs::remove_dir_all(&self.directory).expect("the data is deleted");
        fs::create_dir_all(&self.directory).expect("a directory");
    }

    /// Sends it a signal, `STOP` or `CONT`. After `STOP` none of its threads runs any more: they
    /// stop one by one, some after the signal was sent.
    ///
    /// # Panics
    ///
    /// It does not run, or does not stop within ten seconds.
    pub fn signal(&self, name: &str) {
        let pid = self.pid().expect("the server runs").to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(status.is_ok_and(|status| status.success()), "{name}");
        let until = Instant::now() + Duration::from_secs(10);
        while name == "STOP" && !is_stopped(&pid) {
            assert!(Instant::now() < until, "it does not stop");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Starts it, again perhaps, and returns once it answers.
    ///
    /// # Panics
    ///
    /// It cannot be started, or does not answer within a minute.
    pub fn restart(&mut self) {
        self.kill();
        self.spawn();
        self.await_answer();
    }

    fn spawn(&mut self) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.directory.join("log"))
            .expect("a log");
        let errors = log.try_clone().expect("a log");
        let mut command = match self.kind {
            Kind::Etcd => self.etcd(),
            Kind::Consul => self.consul(),
            Kind::ZooKeeper => self.zookeeper(),
        };
        if let Some(island) = &self.extra.island {
            command = island.on_it(&command);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn();
        self.child = Some(child.unwrap_or_else(|error| panic!("{command:?}: {error}")));
    }

    fn etcd(&self) -> Command {
        let [client, peer, metrics, _] = self.ports();
        let scheme = if self.extra.tls.is_some() {
            "https"
        } else {
            "http"
        };
        let advertised = format!("{scheme}://{}:{client}", self.host());
        let client = format!("{scheme}://{}:{client}", self.listens_at());
        let peer = format!("http://127.0.0.1:{peer}");
        let members = self.members.iter().enumerate();
        let members: Vec<String> = members
            .map(|(number, [_, peer, ..])| format!("m{number}=http://127.0.0.1:{peer}"))
            .collect();
        let mut command = Command::new("etcd");
        command
            .arg("--name")
            .arg(format!("m{}", self.number))
            .args(["--initial-cluster", &members.join(",")])
            .args(["--listen-client-urls", &client])
            .args(["--advertise-client-urls", &advertised])
            .args(["--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer])
            .arg("--listen-metrics-urls")
            .arg(format!("http://{}:{metrics}", self.listens_at()))
            .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
            .arg("--data-dir")
            .arg(self.directory.join("data"));
        if let Some((cert, key, ca)) = &self.extra.tls {
            command.arg("--client-cert-auth");
            command.arg("--cert-file").arg(cert);
            command.arg("--key-file").arg(key);
            command.arg("--trusted-ca-file").arg(ca);
        }
        command
    }

    fn consul(&self) -> Command {
        let [http, server, lan, wan] = self.ports();
        let (plain, protected) = match self.extra.tls {
            Some(_) => (-1, i32::from(http)),
            None => (i32::from(http), -1),
        };
        let members = self.members.iter();
        let others: Vec<String> = members
            .filter(|ports| **ports != self.ports())
            .map(|[_, _, lan, _]| format!("127.0.0.1:{lan}"))
            .collect();
        let mut config = serde_json::json!({
            "server": true,
            "bootstrap_expect": self.members.len(),
            "retry_join": others,
            "retry_interval": "100ms",
            "node_name": format!("m{}", self.number),
            "bind_addr": "127.0.0.1",
            "client_addr": self.listens_at(),
            "data_dir": self.directory.join("data"),
            "session_ttl_min": "500ms",
            "performance": {"raft_multiplier": 1},
            "leave_on_terminate": false,
            "disable_update_check": true,
            "ports": {
                "http": plain, "https": protected, "dns": -1, "grpc": -1,
                "server": server, "serf_lan": lan, "serf_wan": wan,
            },
        });
        if let Some(token) = &self.extra.token {
            config["acl"] = serde_json::json!({
                "enabled": true,
                "default_policy": "deny",
                "tokens": {"master": token},
            });
        }
        if let Some((cert, key, ca)) = &self.extra.tls {
            config["cert_file"] = serde_json::json!(cert);
            config["key_file"] = serde_json::json!(key);
            config["ca_file"] = serde_json::json!(ca);
            config["verify_incoming_https"] = true.into();
        }
        let file = self.directory.join("consul.json");
        fs::write(&file, config.to_string()).expect("a configuration");
        let mut command = Command::new(consul());
        command.arg("agent").arg("-config-file").arg(file);
        command
    }

    fn zookeeper(&self) -> Command {
        let [client, ..] = self.ports();
        let (port, class) = match self.extra.tls {
            Some(_) => (
                "secureClientPort",
                "org.apache.zookeeper.server.NettyServerCnxnFactory",
            ),
            None => (
                "clientPort",
                "org.apache.zookeeper.server.NIOServerCnxnFactory",
            ),
        };
        let data = self.directory.join("data");
        let mut config = format!(
            "dataDir={}\n{port}={client}\n{port}Address={}\ntickTime=500\n\
             serverCnxnFactory={class}\nadmin.enableServer=false\nmaxClientCnxns=0\n\
             4lw.commands.whitelist=*\n",
            data.display(),
            self.listens_at(),
        );
        if self.members.len() > 1 {
            config.push_str("initLimit=20\nsyncLimit=10\n");
            for (number, [_, peer, election, _]) in self.members.iter().enumerate() {
                let member = format!("server.{number}=127.0.0.1:{peer}:{election}\n");
                config.push_str(&member);
            }
            fs::create_dir_all(&data).expect("a directory");
            fs::write(data.join("myid"), self.number.to_string()).expect("a number");
        }
        if let Some((cert, key, ca)) = &self.extra.tls {
            let pem = self.directory.join("server.pem");
            let both = [fs::read(cert), fs::read(key)].map(|file| file.expect("a PEM file"));
            fs::write(&pem, both.concat()).expect("a PEM file");
            config.push_str(&format!(
                "ssl.keyStore.location={}\nssl.keyStore.type=PEM\nssl.trustStore.location={}\n\
                 ssl.trustStore.type=PEM\nssl.clientAuth=need\n",
                pem.display(),
                ca.display()
            ));
        }
        let file = self.directory.join("zoo.cfg");
        fs::write(&file, config).expect("a configuration");
        let mut command = Command::new("java");
        command
            .args(["-Xmx192m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .args(["-cp", &zookeeper_jars()])
            .arg("org.apache.zookeeper.server.quorum.QuorumPeerMain")
            .arg(file);
        command
    }

    fn await_answer(&mut self) {
        let end = Instant::now() + PATIENCE;
        while !self.answers() {
            let ended = self
                .child
                .as_mut()
                .is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
            if ended || Instant::now() > end {
                let log = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
                panic!("{:?} does not answer: {log}", self.kind);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether it does what it is there for, as far as it says.
    fn answers(&self) -> bool {
        let [client, _, metrics, _] = self.ports();
        let host = self.host();
        let ask = |port, text| ask((&host, port), text);
        match self.kind {
            Kind::Etcd => ask(metrics, "GET /health HTTP/1.0\r\n\r\n").contains("\"true\""),
            // What follows needs a client with a certificate, and retries by itself.
            _ if self.extra.tls.is_some() => TcpStream::connect((&*host, client)).is_ok(),
            Kind::Consul => {
                let answer = ask(client, "GET /v1/status/leader HTTP/1.0\r\n\r\n");
                answer.contains("\"127.0.0.1:")
            }
            Kind::ZooKeeper => ask(client, "srvr").contains("Mode: "),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

/// The program `consul`.
fn consul() -> PathBuf {
    let unpacked = env::var_os("SKEP_UNPACK_DIR")
        .map_or_else(|| PathBuf::from("/var/tmp/skep-unpacked"), PathBuf::from)
        .join("bullseye-consul/usr/bin/consul");
    if unpacked.exists() {
        return unpacked;
    }
    Path::new("consul").to_owned()
}

/// ZooKeeper's jar, which names most of what it needs, and what TLS needs beside that.
fn zookeeper_jars() -> String {
    let directory = fs::read_dir("/usr/share/java").expect("the package zookeeper is installed");
    let names = directory.flatten().map(|entry| entry.file_name());
    let netty = names
        .filter_map(|name| name.into_string().ok())
        .filter(|name| name.starts_with("netty-") && !name.contains("-4."));
    let mut jars = String::from("/usr/share/java/zookeeper.jar");
    for jar in netty {
        jars.push_str(":/usr/share/java/");
        jars.push_str(&jar);
    }
    jars
}

/// Sends a text and returns what comes back until the end; nothing if there is no answer.
fn ask(server: (&str, u16), text: &str) -> String {
    let mut answer = Vec::new();
    let exchange = || -> std::io::Result<()> {
        let mut stream = TcpStream::connect(server)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(text.as_bytes())?;
        stream.read_to_end(&mut answer)?;
        Ok(())
    };
    let mut exchange = exchange;
    let _ = exchange();
    String::from_utf8_lossy(&answer).into_owned()
}

/// Ports that nothing listens on, for each of some servers.
fn free_ports(servers: usize) -> Vec<[u16; 4]> {
    // All are held until all are found, so that they differ.
    let listener = || TcpListener::bind("127.0.0.1:0").expect("a free port");
    let listeners: Vec<_> = (0..servers).map(|_| [(); 4].map(|()| listener())).collect();
    let port = |listener: TcpListener| listener.local_addr().expect("an address").port();
    listeners.into_iter().map(|four| four.map(port)).collect()
}

/// Whether all threads of a process are stopped.
fn is_stopped(pid: &str) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    threads.into_iter().flatten().flatten().all(|thread| {
        // The state follows the name, which is in parentheses.
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        let state = stat.rsplit(") ").next().unwrap_or_default();
        state.starts_with(['T', 't'])
    })
}
