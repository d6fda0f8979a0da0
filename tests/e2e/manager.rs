//! The daemon under test: one `skep manage` process over a fleet.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{docker::Docker, fleet::Fleet, http::exchange};

/// Longest wait for anything that the daemon does on its own.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Options that make the daemon notice within seconds what engines do, as the issue reports of
/// classic Swarm's own tests did.
pub const FAST_FAIL: [&str; 3] = [
    "--engine-refresh-min-interval=1s",
    "--engine-refresh-max-interval=1s",
    "--engine-failure-retry=1",
];

/// A running daemon; it is ended with the value, and its log is shown if the test failed.
pub struct Manager {
    child: Child,
    address: String,
    log: PathBuf,
    _directory: TempDir,
}

/// One node as `GET /info` shows it.
#[derive(Debug)]
pub struct NodeStatus {
    /// The node's name, `(unknown)` until the first contact.
    pub name: String,
    /// `host:port` of its engine.
    pub address: String,
    /// The rows below the node: `Status`, `Containers`, `Labels`, ...
    pub rows: BTreeMap<String, String>,
}

impl Manager {
    /// Starts the daemon with `options` and returns once it listens.
    pub fn start(fleet: &Fleet, options: &[&str]) -> Self {
        Self::start_at(&fleet.discovery(), options)
    }

    /// The same where the engines are found at `discovery`.
    pub fn start_at(discovery: &str, options: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let log = directory.path().join("skep.log");
        let output = fs::File::create(&log).expect("the log file");
        let child = Command::new(env!("CARGO_BIN_EXE_skep"))
            .args(["manage", "-H", "tcp://127.0.0.1:0"])
            .args(options)
            .arg(discovery)
            // One cache for all tests, so only the first one compiles the plugins.
            .env(
                "XDG_CACHE_HOME",
                Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"),
            )
            .env("XDG_STATE_HOME", directory.path())
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stderr(output.try_clone().expect("the log file"))
            .stdout(output)
            .spawn()
            .expect("skep starts");
        let mut manager = Self {
            child,
            address: String::new(),
            log,
            _directory: directory,
        };
        manager.address = eventually("skep listens", || {
            if let Ok(Some(status)) = manager.child.try_wait() {
                panic!("skep ended at start: {status}");
            }
            listening_address(&fs::read_to_string(&manager.log).unwrap_or_default())
        });
        manager
    }

    /// Waits until the log has a line with `wanted` in it.
    #[track_caller]
    pub fn await_log(&self, wanted: &str) {
        eventually(&format!("`{wanted}` is logged"), || {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            log.lines().any(|line| line.contains(wanted)).then_some(())
        });
    }

    /// `host:port` of the API.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The docker command for this daemon.
    pub fn docker(&self) -> Docker {
        Docker::current(&self.address)
    }

    /// Sends a plain `GET` and returns the status code and the whole body.
    pub fn get(&self, path: &str) -> (u16, String) {
        let reply = exchange(&self.address, "GET", path, "");
        (reply.status, reply.body)
    }

    /// Sends a plain `GET` that has to succeed and returns the body as JSON.
    #[track_caller]
    pub fn get_json(&self, path: &str) -> Value {
        let (status, body) = self.get(path);
        assert_eq!(status, 200, "GET {path}: {body}");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("GET {path}: {error}: {body}"))
    }

    /// The rows of `SystemStatus` in the order of the answer.
    pub fn system_status(&self) -> Vec<(String, String)> {
        serde_json::from_value(self.get_json("/info")["SystemStatus"].clone())
            .expect("pairs of text")
    }

    /// The nodes that `GET /info` lists, in its order.
    pub fn nodes(&self) -> Vec<NodeStatus> {
        let mut nodes: Vec<NodeStatus> = Vec::new();
        for (key, value) in self.system_status() {
            if let Some(row) = key.strip_prefix("  └ ") {
                nodes
                    .last_mut()
                    .expect("a row follows its node")
                    .rows
                    .insert(row.to_owned(), value);
            } else if let Some(name) = key.strip_prefix(' ') {
                nodes.push(NodeStatus {
                    name: name.to_owned(),
                    address: value,
                    rows: BTreeMap::new(),
                });
            }
        }
        nodes
    }

    /// Waits until the node at `address` has the status word `wanted`.
    #[track_caller]
    pub fn await_status(&self, address: &str, wanted: &str) {
        eventually(&format!("{address} is {wanted}"), || {
            let nodes = self.nodes();
            let node = nodes.iter().find(|node| node.address == address)?;
            (node.rows.get("Status")? == wanted).then_some(())
        });
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends the signal of this name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("bash")
            .args([
                "-c",
                "kill -\"$1\" \"$2\"",
                "kill",
                name,
                &self.child.id().to_string(),
            ])
            .status()
            .expect("bash starts");
        assert!(status.success(), "skep has ended already");
    }

    /// Waits until the process has ended.
    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        eventually("skep ends", || {
            self.child.try_wait().expect("skep can be waited for")
        })
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        // Both fail only if the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "--- the end of skep's log\n{}",
                lines[lines.len().saturating_sub(60)..].join("\n")
            );
        }
    }
}

/// Waits until `condition` gives a value.
#[track_caller]
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(
            begin.elapsed() < DEADLINE,
            "waited {DEADLINE:?} in vain: {what}"
        );
        thread::sleep(Duration::from_millis(50));
    }
}

/// Finds the address that the daemon says it listens on.
fn listening_address(log: &str) -> Option<String> {
    let line = log
        .lines()
        .find(|line| line.contains("Listening for HTTP") && line.contains("tcp"))?;
    let address = line.split("addr=").nth(1)?.trim_start_matches('"');
    let end = address.find(|byte: char| byte != '.' && byte != ':' && !byte.is_ascii_digit());
    Some(address[..end.unwrap_or(address.len())].to_owned())
}
