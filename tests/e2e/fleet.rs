//! Real engines for one test: `config/engines` as a value.

use std::{
    env,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use crate::docker::Docker;

/// What the engines of a test's fleet are labelled with, in the words of `config/engines --labels`.
const LABELS: &str = "0:disk=ssd 1:disk=hdd 2:disk=hdd 0:rack=a 1:rack=a 2:rack=b";

/// The image that every engine has.
pub const IMAGE: &str = "busybox:latest";

/// Several engines with the host names `node-0`, `node-1`, ... that one test has to itself.
pub struct Fleet {
    name: String,
    addresses: Vec<String>,
    lifetime: Lifetime,
}

/// Who takes a fleet down.
enum Lifetime {
    /// `tests/run`, after the last test: starting engines for every test would double its time.
    Run,
    /// The test, when it drops the value.
    Test,
}

impl Fleet {
    /// Returns the fleet of this test's slot: three engines, all up, with nothing but [`IMAGE`].
    ///
    /// Nextest gives each test of the group `engines` a slot that no other running test has. The
    /// first test in a slot starts the slot's fleet.
    pub fn of_this_slot() -> Self {
        let slot = env::var("NEXTEST_TEST_GROUP_SLOT")
            .ok()
            .filter(|slot| slot != "none");
        let slot = slot.expect("run the e2e tests with `tests/run --only e2e`");
        let name = format!("{}-{slot}", prefix());
        let fleet = match engines(&name, &["addrs"]).stderr(Stdio::null()).output() {
            Ok(output) if output.status.success() => {
                Self::from_addrs(name, &output.stdout, Lifetime::Run)
            }
            _ => Self::up(name, 3, LABELS, Lifetime::Run),
        };
        fleet.clear();
        fleet
    }

    /// Starts a fleet for this test alone, with labels of its own; it ends with the value.
    pub fn start(purpose: &str, count: usize, labels: &str) -> Self {
        Self::up(
            format!("{}-{purpose}", prefix()),
            count,
            labels,
            Lifetime::Test,
        )
    }

    /// The same with more options for each daemon.
    pub fn start_with(purpose: &str, count: usize, options: &str) -> Self {
        let options = ["--options".to_owned(), options.to_owned()];
        Self::up_with(
            format!("{}-{purpose}", prefix()),
            count,
            &options,
            Lifetime::Test,
        )
    }

    /// Starts a fleet for this test alone in which some engines are those of unpacked packages.
    pub fn start_mixed(purpose: &str, count: usize, unpacked: &[(usize, &Path)]) -> Self {
        let mut options = Vec::new();
        for (index, root) in unpacked {
            options.push("--unpacked".to_owned());
            options.push(format!("{index}={}", root.display()));
        }
        let name = format!("{}-{purpose}", prefix());
        Self::up_with(name, count, &options, Lifetime::Test)
    }

    fn up(name: String, count: usize, labels: &str, lifetime: Lifetime) -> Self {
        let options = ["--labels".to_owned(), labels.to_owned()];
        Self::up_with(name, count, &options, lifetime)
    }

    fn up_with(name: String, count: usize, options: &[String], lifetime: Lifetime) -> Self {
        // What a run that was killed has left.
        call(&name, &["down"]);
        let count = count.to_string();
        let mut arguments = vec!["up", &count];
        arguments.extend(options.iter().map(String::as_str));
        let addrs = call(&name, &arguments);
        call(&name, &["image", IMAGE]);
        Self::from_addrs(name, addrs.as_bytes(), lifetime)
    }

    fn from_addrs(name: String, addrs: &[u8], lifetime: Lifetime) -> Self {
        let addresses = String::from_utf8_lossy(addrs)
            .lines()
            .map(str::to_owned)
            .collect();
        Self {
            name,
            addresses,
            lifetime,
        }
    }

    /// `host:port` of every engine; the position is the number in the node's name.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The list of all engines in view, as a manager takes it.
    pub fn discovery(&self) -> String {
        format!("nodes://{}", self.addresses.join(","))
    }

    /// This machine's address on the fleet's bridge, where the engines reach it.
    pub fn gateway(&self) -> String {
        let (network, _) = self.addresses[0].rsplit_once('.').expect("an IPv4 address");
        format!("{network}.1")
    }

    /// Keeps only the first `count` engines in view; the others stay up.
    pub fn narrowed(mut self, count: usize) -> Self {
        self.addresses.truncate(count);
        self
    }

    /// Whether engine `index` runs a process whose command line contains `text`.
    pub fn runs(&self, index: usize, text: &str) -> bool {
        // The brackets keep the search from finding itself.
        let (first, rest) = text.split_at(1);
        let pattern = format!("[{first}]{rest}");
        let search = ["exec", &index.to_string(), "pgrep", "-f", &pattern];
        engines(&self.name, &search)
            .stdout(Stdio::null())
            .status()
            .expect("`config/engines` starts")
            .success()
    }

    /// A command that runs where engine `index` does, and ends with it.
    pub fn command(&self, index: usize, program: &str) -> Command {
        engines(&self.name, &["exec", &index.to_string(), program])
    }

    /// The docker command for engine `index` itself, past the daemon under test.
    pub fn engine(&self, index: usize) -> Docker {
        Docker::current(&self.addresses[index])
    }

    /// Shuts engine `index` down in order, containers first.
    pub fn stop(&self, index: usize) {
        call(&self.name, &["stop", &index.to_string()]);
    }

    /// Ends engine `index` and its containers at once, as a power cut does.
    pub fn kill(&self, index: usize) {
        call(&self.name, &["kill", &index.to_string()]);
    }

    /// Brings engine `index` back and returns once it answers.
    pub fn revive(&self, index: usize) {
        call(&self.name, &["start", &index.to_string()]);
    }

    /// Ends the daemon of engine `index` with a signal and starts it again in the same place: its host
    /// stays, and whatever else runs there. Returns once it answers.
    pub fn restart_daemon(&self, index: usize, signal: &str) {
        call(&self.name, &["restart", &index.to_string(), signal]);
    }

    /// Restarts engine `index` with TLS and the certificates in `directory`; it asks every client for
    /// one. [`Fleet::engine`] does not reach it any more.
    pub fn speak_tls(&self, index: usize, directory: &Path) {
        let directory = directory.display().to_string();
        call(&self.name, &["tls", &index.to_string(), &directory]);
    }

    /// Takes the network link of engine `index` down.
    pub fn cut(&self, index: usize) {
        call(&self.name, &["cut", &index.to_string()]);
    }

    /// Drops the packets of engine `index` that fit a rule of iptables, such as `INPUT -i eth0`.
    pub fn drop_packets(&self, index: usize, rule: &[&str]) {
        let index = index.to_string();
        call(&self.name, &[&["drop", &index], rule].concat());
    }

    /// Puts the network link of engine `index` back, and drops no packets any more.
    pub fn mend(&self, index: usize) {
        call(&self.name, &["mend", &index.to_string()]);
    }

    /// Undoes whatever the last test did to the engines.
    fn clear(&self) {
        thread::scope(|scope| {
            for index in 0..self.addresses.len() {
                scope.spawn(move || {
                    self.mend(index);
                    self.revive(index);
                    let engine = self.engine(index);
                    remove(&engine, &["ps", "-aq"], &["rm", "-f", "-v"]);
                    remove(&engine, &["volume", "ls", "-q"], &["volume", "rm", "-f"]);
                    engine.ok(&["network", "prune", "-f"]);
                    let images = engine.ok(&["images", "--format", "{{.Repository}}:{{.Tag}}"]);
                    for image in images.lines().filter(|&image| image != IMAGE) {
                        // A name without a tag is an image that a build has left.
                        if !image.contains('<') {
                            engine.ok(&["rmi", "-f", image]);
                        }
                    }
                    engine.ok(&["image", "prune", "-f"]);
                });
            }
        });
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if let Lifetime::Test = self.lifetime {
            call(&self.name, &["down"]);
        }
    }
}

/// The root that packages of another release of the distribution are unpacked in, see
/// `config/unpack`. `tests/run` leaves the tests out that need one where it cannot be had.
pub fn unpacked(release: &str, packages: &[&str]) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/unpack");
    let output = Command::new(script)
        .arg(release)
        .args(packages)
        .stdin(Stdio::null())
        .output()
        .expect("`config/unpack` starts");
    assert!(
        output.status.success(),
        "config/unpack {release} {packages:?} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim_end())
}

/// Removes what `list` prints the ids of.
fn remove(engine: &Docker, list: &[&str], removal: &[&str]) {
    let ids = engine.ok(list);
    if !ids.is_empty() {
        let removal: Vec<&str> = removal.iter().copied().chain(ids.lines()).collect();
        engine.ok(&removal);
    }
}

/// The start of every fleet's name; `tests/run` takes down all fleets that have it.
fn prefix() -> String {
    env::var("SKEP_E2E_FLEET").unwrap_or_else(|_| "e2e".to_owned())
}

fn engines(fleet: &str, arguments: &[&str]) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/engines");
    let root = std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    let mut command = Command::new(if root { "bash" } else { "sudo" });
    if !root {
        command.args(["-n", "bash"]);
    }
    command
        .arg(script)
        .args(["--fleet", fleet])
        .args(arguments)
        .stdin(Stdio::null());
    command
}

fn call(fleet: &str, arguments: &[&str]) -> String {
    let output = engines(fleet, arguments)
        .output()
        .expect("`config/engines` starts");
    assert!(
        output.status.success(),
        "config/engines --fleet {fleet} {arguments:?} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
