//! What SIGHUP changes while the daemon runs.

use std::{collections::BTreeSet, fs, path::Path};

use bollard::{
    API_DEFAULT_VERSION, Docker, container::LogOutput, query_parameters::LogsOptionsBuilder,
};
use futures_util::StreamExt;
use skep_fleet::{Fleet, daemon::Daemon};

use crate::{cluster::PATIENCE, kills::eventually};

/// A daemon with a configuration file, over a fleet.
struct Stage {
    fleet: Fleet,
    daemon: Daemon,
    docker: Docker,
    directory: tempfile::TempDir,
}

impl Stage {
    async fn start(engines: usize, listed: &[usize]) -> Self {
        let fleet = Fleet::builder().engines(engines).containers(1);
        let fleet = fleet.start().await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let url = format!("nodes://{}", addresses(&fleet, listed).join(","));
        let config = write_config(directory.path(), &url);
        let daemon = Daemon::start(env!("CARGO_BIN_EXE_skep"), &["--config", &config]);
        let addr = format!("tcp://{}", daemon.addr());
        let docker = Docker::connect_with_http(&addr, 20, API_DEFAULT_VERSION).unwrap();
        let stage = Self {
            fleet,
            daemon,
            docker,
            directory,
        };
        stage.until_nodes(listed).await;
        stage
    }

    /// Waits until the containers of exactly these engines are listed.
    async fn until_nodes(&self, indexes: &[usize]) {
        let wanted: BTreeSet<String> = indexes.iter().map(|index| self.container(*index)).collect();
        eventually("the nodes are listed", async || {
            let options = bollard::query_parameters::ListContainersOptionsBuilder::new();
            let list = self.docker.list_containers(Some(options.all(true).build()));
            let listed = list.await.unwrap_or_default();
            let ids: BTreeSet<String> = listed.into_iter().filter_map(|entry| entry.id).collect();
            ids == wanted
        })
        .await;
    }

    /// The ID of an engine's container.
    fn container(&self, index: usize) -> String {
        self.fleet.engine(index).containers()[0].id.to_string()
    }

    fn reload(&self, url: &str, logged: &str) {
        write_config(self.directory.path(), url);
        self.daemon.signal("HUP");
        self.daemon.await_log(logged, PATIENCE);
    }
}

fn addresses(fleet: &Fleet, indexes: &[usize]) -> Vec<String> {
    let addrs = indexes.iter().map(|index| fleet.engine(*index).addr());
    addrs.map(|addr| addr.to_string()).collect()
}

fn write_config(directory: &Path, url: &str) -> String {
    let path = directory.join("config.toml");
    let text =
        format!("[discovery]\nurl = \"{url}\"\nremoval-delay = \"0s\"\n[store]\nurl = \"none\"\n");
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_discovery_takes_over_and_what_both_list_is_untouched() {
    let stage = Stage::start(3, &[0, 1]).await;
    let engine = stage.fleet.engine(1);
    let id = stage.container(1);
    let options = LogsOptionsBuilder::new().follow(true).stdout(true).build();
    let mut logs = stage.docker.logs(&id, Some(options));
    assert!(engine.write_output(&id, "before\n"));
    let text = |output: Option<Result<LogOutput, _>>| output.unwrap().unwrap().to_string();
    while !text(logs.next().await).contains("before") {}
    let streams = engine.event_streams();

    let list = stage.directory.path().join("nodes");
    fs::write(&list, addresses(&stage.fleet, &[1, 2]).join("\n")).unwrap();
    stage.reload(
        &format!("file://{}", list.display()),
        "discovery is replaced",
    );
    stage.until_nodes(&[1, 2]).await;
    assert_eq!(engine.event_streams(), streams);
    assert!(engine.write_output(&id, "after\n"));
    while !text(logs.next().await).contains("after") {}

    // The file is followed, too.
    fs::write(&list, addresses(&stage.fleet, &[0]).join("\n")).unwrap();
    stage.until_nodes(&[0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_that_is_wrong_changes_nothing() {
    let stage = Stage::start(2, &[0]).await;
    stage.reload("carrier-pigeon://coop", "keeping the last one");
    stage.until_nodes(&[0]).await;
    let all = format!("nodes://{}", addresses(&stage.fleet, &[0, 1]).join(","));
    stage.reload(&all, "discovery is replaced");
    stage.until_nodes(&[0, 1]).await;
}
