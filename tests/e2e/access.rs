//! Who may reach whom: agents and managers that show stores, lists and each other who they are, and
//! plugins that reach what they are allowed to.

use std::{fs, path::Path, process::Command, time::Duration};

use skep::config::store::Access;
use skep_fleet::{
    certificates::{Authority, Certificate, Issued},
    daemon::Daemon,
    stores::{Extra, Kind, Server},
};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::{
    discovery::{Agent, addrs, await_listed, await_shown, fleet, listed},
    replication::{create_soon, docker, free_addr},
    stores::{encrypted, guarded},
};

const SKEP: &str = env!("CARGO_BIN_EXE_skep");

const PATIENCE: Duration = Duration::from_secs(60);

/// How a store is reached, as options of discovery.
fn options(access: &Access) -> Vec<String> {
    let mut given = Vec::new();
    let mut give = |key: &str, value: String| {
        given.extend(["--discovery-opt".to_owned(), format!("{key}={value}")]);
    };
    let text = |path: &Path| path.display().to_string();
    if let (Some(user), Some(file)) = (&access.user, &access.password_file) {
        give("kv.user", user.clone());
        give("kv.passwordfile", text(file));
    }
    if let Some(file) = &access.token_file {
        give("kv.tokenfile", text(file));
    }
    if let Some(tls) = &access.tls {
        give("kv.cacertfile", text(&tls.ca));
        if let Some((cert, key)) = &tls.pair {
            give("kv.certfile", text(cert));
            give("kv.keyfile", text(key));
        }
    }
    given
}

fn strs(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

/// An agent, `skep list` and a manager, all of which reach the store in the same way.
async fn all_meet_in(server: &Server, access: &Access) {
    let fleet = fleet(1).await;
    let engines = addrs(&fleet);
    let url = format!("{}/fleet", server.url());
    let access = options(access);
    let access = strs(&access);
    let _agent = Agent::start(
        &engines[0],
        &[&access[..], &["--ttl", "20s", &url]].concat(),
    );
    await_listed(&url, &access, &[&engines[0]]).await;
    let own = [&access[..], &["--store", "none", &url]].concat();
    let manager = Daemon::start(SKEP, &own);
    await_shown(manager.addr(), &fleet, &[&engines[0]]).await;
    // Managers that share the store reach it in the same way.
    let leading = ["--replication", "--advertise", "127.0.0.1:1"];
    let leader = Daemon::start(SKEP, &[&access[..], &leading, &[&*url]].concat());
    await_shown(leader.addr(), &fleet, &[&engines[0]]).await;
    create_soon(&docker(&leader.addr().to_string()), "kept").await;
}

async fn a_store_is_told_who_asks(kind: Kind) {
    let directory = tempfile::tempdir().unwrap();
    let (server, good, bad) = guarded(kind, &directory).await;
    all_meet_in(&server, &good).await;
    let url = format!("{}/fleet", server.url());
    let refused = listed(&url, &strs(&options(&bad))).unwrap_err();
    assert!(refused.contains("access denied"), "{refused}");
}

async fn a_store_is_shown_certificates(kind: Kind) {
    let directory = tempfile::tempdir().unwrap();
    let (server, good, [distrustful, _]) = encrypted(kind, &directory);
    all_meet_in(&server, &good).await;
    let url = format!("{}/fleet", server.url());
    let refused = listed(&url, &strs(&options(&distrustful))).unwrap_err();
    assert!(refused.contains(&server.url()), "{refused}");
}

macro_rules! all {
    ($($name:ident($kind:expr))*) => {$(
        mod $name {
            use super::*;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn a_store_is_told_who_asks() {
                super::a_store_is_told_who_asks($kind).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn a_store_is_shown_certificates() {
                super::a_store_is_shown_certificates($kind).await;
            }
        }
    )*};
}

all!(
    etcd(Kind::Etcd)
    consul(Kind::Consul)
    zookeeper(Kind::ZooKeeper)
);

/// Files of certificates for a listener, and for whoever asks it.
struct Listener {
    directory: TempDir,
    addr: String,
}

impl Listener {
    /// One that wants a certificate of its clients; so do those of the same authority.
    fn new(authority: &Authority) -> Self {
        let addr = free_addr();
        let (host, _) = addr.split_once(':').unwrap();
        let listener = Self {
            directory: tempfile::tempdir().unwrap(),
            addr: addr.clone(),
        };
        let own = authority.issue(&Certificate::server(&[host]).both_ways());
        listener.write("own", &own);
        listener.write("client", &authority.issue(&Certificate::client()));
        fs::write(listener.path("ca.pem"), &authority.cert).unwrap();
        listener
    }

    fn write(&self, name: &str, issued: &Issued) {
        fs::write(self.path(&format!("{name}.pem")), &issued.cert).unwrap();
        fs::write(self.path(&format!("{name}-key.pem")), &issued.key).unwrap();
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    fn start(&self, config: &str, options: &[&str]) -> Daemon {
        let [cert, key, ca] = ["own.pem", "own-key.pem", "ca.pem"].map(|name| self.path(name));
        let tls = format!("[api.tls]\ncert = \"{cert}\"\nkey = \"{key}\"\nclient-ca = \"{ca}\"\n");
        let file = self.path("skep.toml");
        fs::write(&file, format!("{config}\n{tls}")).unwrap();
        let host = format!("tcp://{}", self.addr);
        Daemon::start(SKEP, &[&["-H", &host, "--config", &file], options].concat())
    }

    /// Asks as a client that is let in; the answer's status and body.
    fn ask(&self, path: &str, options: &[&str]) -> (String, String) {
        let [cert, key, ca] = ["client.pem", "client-key.pem", "ca.pem"].map(|n| self.path(n));
        let output = Command::new("curl")
            .args(["-s", "--max-time", "20", "-w", "\n%{http_code}"])
            .args(["--cacert", &ca, "--cert", &cert, "--key", &key])
            .args(options)
            .arg(format!("https://{}{path}", self.addr))
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (body, status) = text.rsplit_once('\n').unwrap();
        (status.to_owned(), body.to_owned())
    }

    async fn await_answer(&self, path: &str, wanted: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            let (status, body) = self.ask(path, &[]);
            if body.contains(wanted) {
                return;
            }
            assert!(Instant::now() < end, "{path}: {status} {body}");
            sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_under_a_token_is_kept_where_certificates_are_asked_for() {
    let fleet = fleet(1).await;
    let engines = addrs(&fleet);
    let keeper = Listener::new(&Authority::new("ours"));
    let store = keeper.path("store");
    let config = format!("store.url = \"embedded://{store}\"\napi.token-lists = true");
    let _keeper = keeper.start(&config, &["nodes://127.0.0.1:1"]);
    let (status, token) = keeper.ask("/v1/clusters", &["-X", "POST"]);
    assert_eq!((&*status, token.len()), ("201", 32), "{token}");
    let path = format!("/v1/clusters/{token}");
    for (query, body) in [("?ttl=soon", &*engines[0]), ("", "no address"), ("", "")] {
        let (status, answer) = keeper.ask(&format!("{path}{query}"), &["-X", "POST", "-d", body]);
        assert_eq!(status, "400", "{query} {body}: {answer}");
    }

    let url = format!("token://{}/v1/{token}", keeper.addr);
    let file = |key: &str, name: &str| format!("token.{key}={}", keeper.path(name));
    let (ca, cert, key) = (
        file("cacertfile", "ca.pem"),
        file("certfile", "client.pem"),
        file("keyfile", "client-key.pem"),
    );
    let trusting = ["--discovery-opt", &*ca];
    let access = [
        &trusting[..],
        &["--discovery-opt", &cert, "--discovery-opt", &key],
    ]
    .concat();
    let _agent = Agent::start(&engines[0], &[&access[..], &["--ttl", "5s", &url]].concat());
    await_listed(&url, &access, &[&engines[0]]).await;
    // What an operator knows to be there needs no proof.
    let nothing = ["--no-engine-check", "--ttl", "5s", &*url];
    let _blind = Agent::start("127.0.0.1:1", &[&access[..], &nothing].concat());
    await_listed(&url, &access, &[&engines[0], "127.0.0.1:1"]).await;

    assert!(listed(&url, &trusting).is_err());
    assert!(listed(&url, &[]).is_err());
    let half = [&trusting[..], &["--discovery-opt", &cert]].concat();
    let refused = listed(&url, &half).unwrap_err();
    assert!(refused.contains("need each other"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn managers_show_each_other_certificates() {
    let fleet = fleet(1).await;
    let nodes = format!("nodes://{}", addrs(&fleet)[0]);
    let server = Server::start(Kind::Etcd);
    let store = format!("{}/test", server.url());
    let ours = Authority::new("ours");
    let (leader, replica) = (Listener::new(&ours), Listener::new(&ours));
    let start = |listener: &Listener, config: &str| {
        let own = ["--replication", "--advertise", &listener.addr];
        let options = [&own[..], &["--store", &store, &nodes]].concat();
        listener.start(config, &options)
    };
    let first = start(&leader, "");
    leader.await_answer("/info", r#"["Role","primary"]"#).await;
    let _second = start(&replica, "replication.local-reads = true");
    let followed = format!(r#"["Primary","{}"]"#, leader.addr);
    replica.await_answer("/info", &followed).await;
    let body = r#"{"Image":"busybox","Cmd":["sleep","1d"]}"#;
    let post = [
        "-X",
        "POST",
        "-H",
        "Content-Type: application/json",
        "-d",
        body,
    ];
    let made = |name: &str| replica.ask(&format!("/containers/create?name={name}"), &post);
    let (status, answer) = made("xx");
    assert_eq!(status, "201", "{answer}");
    leader.await_answer("/containers/json?all=1", "/xx").await;

    // Managers that do not trust each other pass nothing on.
    let stranger = Listener::new(&Authority::new("strangers"));
    let _third = start(&stranger, "");
    stranger.await_answer("/info", &followed).await;
    let (status, answer) = stranger.ask("/containers/create?name=yy", &post);
    assert!(
        status.starts_with('5') && answer.contains("certificate"),
        "{status} {answer}"
    );

    // Reads may be local: they are answered while the leader is not.
    replica.await_answer("/containers/json?all=1", "/xx").await;
    first.signal("STOP");
    let (status, answer) = replica.ask("/containers/json?all=1", &[]);
    assert!(status == "200" && answer.contains("/xx"), "{answer}");
    first.signal("CONT");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_reaches_what_it_is_allowed_to() {
    const COMPONENT: &str = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/plugins/dist/discovery-kv.wasm"
    );
    let fleet = fleet(1).await;
    let engines = addrs(&fleet);
    let server = Server::start_with(Kind::Etcd, Extra::default());
    let url = format!("{}/fleet", server.url());
    let _agent = Agent::start(&engines[0], &["--ttl", "20s", &url]);
    await_listed(&url, &[], &[&engines[0]]).await;
    let directory = tempfile::tempdir().unwrap();
    let start = |name: &str, allow: &str| {
        let file = directory.path().join(name);
        let text = format!(
            "store.url = \"none\"\ndiscovery.url = \"inventory://x\"\n\
             [plugins.inventory]\nkind = \"discovery\"\npath = \"{COMPONENT}\"\n{allow}\n"
        );
        fs::write(&file, text).unwrap();
        Daemon::start(SKEP, &["--config", file.to_str().unwrap()])
    };
    let granted = format!("allow.store = \"{url}/docker/swarm/nodes\"");
    let allowed = start("allowed.toml", &granted);
    await_shown(allowed.addr(), &fleet, &[&engines[0]]).await;
    let denied = start("denied.toml", "");
    denied.await_log("no store", PATIENCE);
    await_shown(denied.addr(), &fleet, &[]).await;
}
