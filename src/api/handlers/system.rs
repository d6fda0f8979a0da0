//! `_ping`, `info`, `version`.

use std::time::SystemTime;

use chrono::{DateTime, SecondsFormat, Utc};
use http::{HeaderValue, Method, Response, header};
use serde_json::{Value, json};

use super::{Context, api_version, json, version_text, versions};
use crate::{
    api::{duration::size, entries},
    cluster::{election::Role, snapshot::Node},
    engine::transport::{self, Body},
    model::resource::{Amount, NANO},
};

/// The version clients see; tools tell a cluster from an engine by the part before the slash.
const SERVER_VERSION: &str = concat!("swarm/", env!("CARGO_PKG_VERSION"));

/// `OK`, for whoever wants to know whether somebody is there.
pub fn ping(method: &Method) -> Response<Body> {
    let body = if *method == Method::HEAD {
        transport::empty()
    } else {
        transport::full("OK")
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache, no-store, must-revalidate"),
        (header::PRAGMA, "no-cache"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert("Builder-Version", HeaderValue::from_static("1"));
    headers.insert("Swarm", HeaderValue::from_static("inactive"));
    response
}

/// Who answers, and in which dialect.
pub fn version(context: &Context) -> Response<Body> {
    let snapshot = context.cluster.snapshot();
    let min_version = versions::oldest(&snapshot);
    json(&json!({
        "Platform": { "Name": "Skep" },
        "Components": [{
            "Name": "Engine",
            "Version": SERVER_VERSION,
            "Details": {
                "ApiVersion": version_text(api_version(&snapshot)),
                "Arch": arch(),
                "GitCommit": "HEAD",
                "GoVersion": "none",
                "Os": "linux",
                "KernelVersion": kernel_version(),
                "MinAPIVersion": version_text(min_version),
            },
        }],
        "Version": SERVER_VERSION,
        "ApiVersion": version_text(api_version(&snapshot)),
        "MinAPIVersion": version_text(min_version),
        "GitCommit": "HEAD",
        "GoVersion": "none",
        "Os": "linux",
        "Arch": arch(),
        "KernelVersion": kernel_version(),
        "BuildTime": "<unknown>",
    }))
}

/// The cluster as one big engine, and its nodes in `SystemStatus`.
pub fn info(context: &Context) -> Response<Body> {
    let snapshot = context.cluster.snapshot();
    let options = context.cluster.options();
    let validated = snapshot.validated();
    let mut containers = Containers::default();
    let mut images = 0;
    let mut total = Amount::default();
    for node in &validated {
        containers.add(node);
        images += node
            .inventory
            .images
            .iter()
            .filter(|image| !image.tags.is_empty() || !image.digests.is_empty())
            .count();
        total += node.inventory.total().overcommitted(options.overcommit);
    }
    let env = |name: &str| std::env::var(name).unwrap_or_default();
    let mut info = json!({
        "ID": "",
        "Containers": containers.all,
        "ContainersRunning": containers.running,
        "ContainersPaused": containers.paused,
        "ContainersStopped": containers.stopped(),
        "Images": images,
        "Driver": "",
        "DriverStatus": null,
        "SystemStatus": system_status(context, &snapshot.by_name()),
        "Plugins": { "Volume": null, "Network": null, "Authorization": null, "Log": null },
        "MemoryLimit": true,
        "SwapLimit": true,
        "KernelMemory": false,
        "CpuCfsPeriod": true,
        "CpuCfsQuota": true,
        "CPUShares": true,
        "CPUSet": true,
        "PidsLimit": false,
        "IPv4Forwarding": true,
        "BridgeNfIptables": true,
        "BridgeNfIp6tables": true,
        "Debug": false,
        "NFd": 0,
        "OomKillDisable": true,
        "NGoroutines": 0,
        "SystemTime": Utc::now().to_rfc3339_opts(SecondsFormat::Nanos, true),
        "LoggingDriver": "",
        "CgroupDriver": "",
        "NEventsListener": context.cluster.subscribers(),
        "KernelVersion": kernel_version(),
        "OperatingSystem": "linux",
        "OSType": "linux",
        "Architecture": arch(),
        "IndexServerAddress": "",
        "RegistryConfig": null,
        "NCPU": total.cpu_nano / NANO,
        "MemTotal": total.memory_bytes,
        "DockerRootDir": "",
        "HttpProxy": env("http_proxy"),
        "HttpsProxy": env("https_proxy"),
        "NoProxy": env("no_proxy"),
        "Name": host_name(),
        "Labels": null,
        "ExperimentalBuild": context.options.experimental,
        "ServerVersion": SERVER_VERSION,
    });
    let more = json!({
        "Runtimes": null,
        "DefaultRuntime": "",
        "Swarm": {
            "NodeID": "",
            "NodeAddr": "",
            "LocalNodeState": "inactive",
            "ControlAvailable": false,
            "Error": "",
            "RemoteManagers": null,
        },
        "LiveRestoreEnabled": false,
        "Isolation": "",
        "InitBinary": "",
        "ContainerdCommit": { "ID": "", "Expected": "" },
        "RuncCommit": { "ID": "", "Expected": "" },
        "InitCommit": { "ID": "", "Expected": "" },
        "SecurityOptions": [],
        "Warnings": context.cluster.troubles(),
    });
    if let (Value::Object(info), Value::Object(more)) = (&mut info, more) {
        info.extend(more);
    }
    json(&info)
}

/// How many containers there are, and what they do.
#[derive(Default)]
struct Containers {
    all: usize,
    running: usize,
    paused: usize,
}

impl Containers {
    fn add(&mut self, node: &Node) {
        for container in node.inventory.containers.values() {
            self.all += 1;
            match entries::state(container) {
                "paused" => self.paused += 1,
                "running" | "restarting" => self.running += 1,
                _ => {}
            }
        }
    }

    fn stopped(&self) -> usize {
        self.all - self.running - self.paused
    }
}

/// The rows that `docker info` prints and that tools parse; leading spaces count.
fn system_status(context: &Context, nodes: &[&std::sync::Arc<Node>]) -> Vec<[String; 2]> {
    let options = context.cluster.options();
    let mut rows = role_rows(&context.cluster.leadership().role());
    rows.extend([
        ["Strategy".to_owned(), options.strategy.clone()],
        ["Filters".to_owned(), options.filters.join(", ")],
        ["Nodes".to_owned(), nodes.len().to_string()],
    ]);
    for node in nodes {
        node_rows(node, options.overcommit, &mut rows);
    }
    rows
}

/// What this manager is, and where the one is that leads.
fn role_rows(role: &Role) -> Vec<[String; 2]> {
    let row = |key: &str, value: &str| [key.to_owned(), value.to_owned()];
    match role {
        Role::Primary => vec![row("Role", "primary")],
        Role::Replica(primary) => vec![
            row("Role", "replica"),
            row("Primary", primary.as_deref().unwrap_or_default()),
        ],
    }
}

fn node_rows(node: &Node, overcommit: f64, rows: &mut Vec<[String; 2]>) {
    let inventory = &node.inventory;
    let addr = inventory.addr.to_string();
    let mut row = |key: &str, value: String| rows.push([format!("  └ {key}"), value]);
    let name = match inventory.name() {
        "" => "(unknown)",
        name => name,
    };
    let mut count = Containers::default();
    count.add(node);
    let reserved = inventory.reserved();
    let total = inventory.total().overcommitted(overcommit);
    let labels = inventory.specs.as_ref().map_or_else(String::new, |specs| {
        let pairs: Vec<String> = specs
            .labels
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        pairs.join(", ")
    });
    row("ID", inventory.node_id());
    row("Status", inventory.status.to_string());
    row(
        "Containers",
        if inventory.is_healthy() {
            format!(
                "{} ({} Running, {} Paused, {} Stopped)",
                count.all,
                count.running,
                count.paused,
                count.stopped()
            )
        } else {
            count.all.to_string()
        },
    );
    row(
        "Reserved CPUs",
        format!("{} / {}", cores(reserved.cpu_nano), total.cpu_nano / NANO),
    );
    row(
        "Reserved Memory",
        format!(
            "{} / {}",
            size(reserved.memory_bytes),
            size(total.memory_bytes)
        ),
    );
    row("Labels", labels);
    if let Some(error) = &inventory.error {
        row("Error", error.clone());
    }
    row("UpdatedAt", rfc3339(inventory.updated_at));
    row(
        "ServerVersion",
        inventory
            .specs
            .as_ref()
            .map_or_else(String::new, |specs| specs.server_version.clone()),
    );
    // The node's own row goes before its details.
    let details = if inventory.error.is_some() { 9 } else { 8 };
    rows.insert(rows.len() - details, [format!(" {name}"), addr]);
}

/// Whole cores as classic Swarm showed them, fractions where there are any.
fn cores(cpu_nano: u64) -> String {
    if cpu_nano.is_multiple_of(NANO) {
        (cpu_nano / NANO).to_string()
    } else {
        let text = format!("{:.3}", cpu_nano as f64 / NANO as f64);
        text.trim_end_matches('0').to_owned()
    }
}

fn rfc3339(time: SystemTime) -> String {
    DateTime::<Utc>::from(time).to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// The architecture in Go's words, as Docker tells it.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn kernel_version() -> String {
    proc_text("/proc/sys/kernel/osrelease")
}

fn host_name() -> String {
    proc_text("/proc/sys/kernel/hostname")
}

/// A line the kernel tells; empty on a system that does not.
fn proc_text(path: &str) -> String {
    std::fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_whole_where_they_can_be() {
        for (nano, expected) in [(0, "0"), (2 * NANO, "2"), (1_500_000_000, "1.5")] {
            assert_eq!(cores(nano), expected);
        }
    }

    #[tokio::test]
    async fn a_node_has_the_rows_that_tools_parse() {
        let node = crate::cluster::snapshot::tests::node("n0", "127.0.0.1:39100", &[]);
        let mut rows = Vec::new();
        node_rows(&node, 0.0, &mut rows);
        let keys: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
        assert_eq!(
            keys,
            [
                " n0",
                "  └ ID",
                "  └ Status",
                "  └ Containers",
                "  └ Reserved CPUs",
                "  └ Reserved Memory",
                "  └ Labels",
                "  └ UpdatedAt",
                "  └ ServerVersion"
            ]
        );
        assert_eq!(rows[0][1], "127.0.0.1:39100");
        assert_eq!(rows[1][1], "n0-id|127.0.0.1:39100");
        assert_eq!(rows[3][1], "0 (0 Running, 0 Paused, 0 Stopped)");
    }
}
