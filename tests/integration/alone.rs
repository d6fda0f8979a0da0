//! A manager that nobody helps: no leader, no reader of its log, a store that was torn.

use std::{
    io::{BufRead, BufReader},
    process::{Child, ChildStderr, Command, Stdio},
};

use bollard::{
    API_DEFAULT_VERSION, Docker,
    models::ContainerCreateBody,
    query_parameters::{CreateContainerOptions, ListContainersOptionsBuilder},
};
use skep_fleet::{
    Fleet,
    daemon::{Daemon, own_host},
};

use crate::kills::eventually;

/// A manager that may not come to listen.
struct Manager {
    child: Child,
    /// Read as long as it is there.
    log: Option<BufReader<ChildStderr>>,
    addr: String,
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Manager {
    /// Starts one; its log if it ends instead.
    fn start(store: &str, discovery: &str) -> Result<Self, String> {
        let child = Command::new(env!("CARGO_BIN_EXE_skep"))
            .args(["--log-format", "json", "manage", "-H"])
            .arg(format!("tcp://{}:0", own_host()))
            .args(["--store", store, discovery])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut manager = Self {
            child,
            log: None,
            addr: String::new(),
        };
        let mut log = BufReader::new(manager.child.stderr.take().unwrap());
        let mut seen = String::new();
        loop {
            let mut line = String::new();
            if log.read_line(&mut line).unwrap() == 0 {
                assert!(!manager.child.wait().unwrap().success());
                return Err(seen);
            }
            seen.push_str(&line);
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            if let Some(addr) = line["fields"]["addr"].as_str() {
                manager.addr = addr.to_owned();
                manager.log = Some(log);
                return Ok(manager);
            }
        }
    }
}

async fn fleet() -> (Fleet, String) {
    let fleet = Fleet::builder().engines(1).containers(1);
    let fleet = fleet.start().await.unwrap();
    let discovery = format!("nodes://{}", fleet.engine(0).addr());
    (fleet, discovery)
}

fn client(addr: impl std::fmt::Display) -> Docker {
    Docker::connect_with_http(&format!("tcp://{addr}"), 60, API_DEFAULT_VERSION).unwrap()
}

/// Why no container is created.
async fn refusal(docker: &Docker) -> (u16, String) {
    let body = ContainerCreateBody {
        image: Some("busybox".to_owned()),
        ..ContainerCreateBody::default()
    };
    match docker
        .create_container(None::<CreateContainerOptions>, body)
        .await
    {
        Err(bollard::errors::Error::DockerResponseServerError {
            status_code,
            message,
        }) => (status_code, message),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn while_nobody_leads_reads_are_answered_and_changes_are_refused() {
    let (fleet, discovery) = fleet().await;
    // Nobody listens there.
    let store = format!("etcd://{}:1/test", own_host());
    let daemon = Daemon::start(
        env!("CARGO_BIN_EXE_skep"),
        &[
            "--replication",
            "--advertise",
            "127.0.0.1:1",
            "--replication-ttl",
            "1s",
            "--store",
            &store,
            &discovery,
        ],
    );
    let docker = client(daemon.addr());
    let id = fleet.engine(0).containers()[0].id.to_string();
    eventually("the container is listed", async || {
        let options = ListContainersOptionsBuilder::new().all(true).build();
        let listed = docker.list_containers(Some(options)).await.unwrap();
        listed.iter().any(|entry| entry.id.as_ref() == Some(&id))
    })
    .await;
    let (status, message) = refusal(&docker).await;
    assert_eq!(status, 503, "{message}");
    assert!(message.contains("No elected primary"), "{message}");
}

#[tokio::test]
async fn a_log_that_nobody_reads_does_not_end_the_daemon() {
    let (fleet, discovery) = fleet().await;
    let mut manager = Manager::start("none", &discovery).unwrap();
    manager.log = None;
    let docker = client(&manager.addr);
    // That the engine is lost is logged before it is known.
    fleet.engine(0).die();
    eventually("the engine is lost", async || {
        let (_, message) = refusal(&docker).await;
        message.contains("No healthy node") || message.contains("no healthy node")
    })
    .await;
    docker.ping().await.unwrap();
    assert_eq!(manager.child.try_wait().unwrap(), None);
}

#[tokio::test]
async fn a_store_that_was_cut_short_is_refused_or_served_whole() {
    let (fleet, discovery) = fleet().await;
    let id = fleet.engine(0).containers()[0].id.to_string();
    let is_listed = async |docker: &Docker| {
        let options = ListContainersOptionsBuilder::new().all(true).build();
        let listed = docker.list_containers(Some(options)).await.unwrap();
        listed.iter().any(|entry| entry.id.as_ref() == Some(&id))
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let store = format!("embedded://{}", path.display());
    let manager = Manager::start(&store, &discovery).unwrap();
    let docker = client(&manager.addr);
    eventually("the container is listed", async || is_listed(&docker).await).await;
    let whole = {
        // What is written at the end says that all is there.
        let written = || std::fs::read(&path).unwrap();
        eventually("the record is written", async || {
            let bytes = written();
            bytes.windows(id.len()).any(|part| part == id.as_bytes())
        })
        .await;
        drop(manager);
        written()
    };
    fleet.engine(0).die();
    for quarter in 1..=3 {
        std::fs::write(&path, &whole[..whole.len() / 4 * quarter]).unwrap();
        match Manager::start(&store, &discovery) {
            Ok(manager) => {
                let docker = client(&manager.addr);
                eventually("the container is recalled", async || {
                    is_listed(&docker).await
                })
                .await;
            }
            Err(log) => {
                assert!(log.contains("store.redb"), "{log}");
                assert!(!log.contains("panicked"), "{log}");
            }
        }
    }
}
