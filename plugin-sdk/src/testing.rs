//! Doubles for native unit tests: a daemon that answers, nodes, requests.
//!
//! ```
//! use skep_plugin_sdk::testing::{Container, Host};
//! use skep_plugin_sdk::{host, pattern};
//!
//! let daemon = Host::install();
//! daemon.run(0, Container::named("web").label("tier", "front"));
//! let nodes = host::nodes_with_label("tier", &pattern::query("fr*")).unwrap();
//! assert!(nodes.contains(0));
//! ```

pub(crate) mod answer;
mod fixture;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;

pub use fixture::{
    Container, NodeFixture, Outcome, addresses, attrs, node, nodes, rank, request, run_filter,
};

use crate::{Error, Result, host};

thread_local! {
    static STATE: RefCell<Option<State>> = const { RefCell::new(None) };
}

#[derive(Debug, Default)]
struct State {
    containers: Vec<(u32, Container)>,
    images: Vec<(u32, Vec<String>)>,
    files: BTreeMap<String, (Result<Vec<u8>>, u64)>,
    waited: Vec<(String, u64)>,
    store: Keys,
    servers: Vec<Server>,
    sent: Vec<host::Request>,
    addresses: BTreeMap<String, Vec<String>>,
    services: BTreeMap<String, Vec<host::Service>>,
    records: BTreeMap<String, Vec<u8>>,
    secrets: BTreeMap<String, String>,
    root: Root,
    now_ms: u64,
    random: u64,
    log: Vec<String>,
}

/// The root of a volume driver as a test has it.
#[derive(Debug, Default)]
struct Root {
    /// What the next change fails with.
    error: Option<Error>,
    is_mounted: bool,
    /// Names of volumes.
    in_use: BTreeSet<String>,
    /// By path.
    directories: BTreeMap<String, Directory>,
    /// By target: type, source and options.
    mounts: BTreeMap<String, Mounted>,
}

/// A directory below the root of a volume driver as a test has it.
#[derive(Clone, Copy, Debug)]
struct Directory {
    mode: u32,
    uid: u32,
    gid: u32,
    max_bytes: Option<u64>,
    made_at_ms: u64,
}

/// What is mounted somewhere in a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// The type of file system.
    pub kind: String,
    /// What was mounted.
    pub source: String,
    /// As mount(8) knows them.
    pub options: Vec<String>,
}

/// A store as a test has it.
#[derive(Debug, Default)]
struct Keys {
    error: Option<Error>,
    pairs: BTreeMap<String, Vec<u8>>,
    version: u64,
    leases: BTreeMap<u64, (String, Vec<u8>)>,
    next_lease: u64,
}

/// What answers requests for URLs that start with a text.
struct Server {
    prefix: String,
    answer: Box<Answer>,
}

type Answer = dyn Fn(&host::Request) -> Result<host::Response>;

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Server").field(&self.prefix).finish()
    }
}

/// The daemon's side of a test, for the current thread, until it is dropped.
///
/// Without one, the log is discarded, the clock stands at 0, random bytes are zero, and questions
/// about nodes and files panic.
#[derive(Debug)]
pub struct Host {
    // Answers are found through a thread local, so the guard must stay on its thread.
    thread: PhantomData<*const ()>,
}

impl Host {
    /// Starts answering on this thread, with nothing on any node.
    pub fn install() -> Self {
        STATE.set(Some(State {
            random: 0x9e37_79b9_7f4a_7c15,
            ..State::default()
        }));
        Self {
            thread: PhantomData,
        }
    }

    /// Puts a container on a node.
    pub fn run(&self, slot: u32, container: Container) {
        self.with(|state| state.containers.push((slot, container)));
    }

    /// Puts an image on a node, under everything it is called: its ID and each `repository:tag`.
    /// Names without their tags are understood.
    pub fn image(&self, slot: u32, names: &[&str]) {
        let mut all: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        for name in names.iter().filter(|name| !name.starts_with("sha256:")) {
            if let Some((repository, tag)) = name.rsplit_once(':')
                && !tag.contains('/')
            {
                all.push(repository.to_owned());
            }
        }
        self.with(|state| state.images.push((slot, all)));
    }

    /// Gives a file new content and a new revision.
    pub fn write_file(&self, path: &str, content: &str) {
        self.set_file(path, Ok(content.as_bytes().to_vec()));
    }

    /// Makes a file unreadable, with this error.
    pub fn break_file(&self, path: &str, error: Error) {
        self.set_file(path, Err(error));
    }

    /// Returns the files that were waited for, with the revisions that had been seen.
    pub fn waited(&self) -> Vec<(String, u64)> {
        self.with(|state| state.waited.clone())
    }

    /// Sets a key of the store.
    pub fn put_key(&self, key: &str, value: &str) {
        self.with(|state| {
            state.store.put(key, value.as_bytes());
        });
    }

    /// Deletes a key of the store.
    pub fn delete_key(&self, key: &str) {
        self.with(|state| {
            state.store.pairs.remove(key);
            state.store.version += 1;
        });
    }

    /// Returns the keys of the store with their values.
    pub fn keys(&self) -> Vec<(String, String)> {
        self.with(|state| {
            let pairs = state.store.pairs.iter();
            let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
            pairs
                .map(|(key, value)| (key.clone(), text(value)))
                .collect()
        })
    }

    /// Makes the store fail with this error, or work again.
    pub fn break_store(&self, error: Option<Error>) {
        self.with(|state| state.store.error = error);
    }

    /// Ends all leases as if their time were over.
    pub fn end_leases(&self) {
        self.with(|state| {
            for (key, _) in std::mem::take(&mut state.store.leases).into_values() {
                state.store.pairs.remove(&key);
            }
            state.store.version += 1;
        });
    }

    /// Has requests for URLs that start with `prefix` answered.
    pub fn serve(
        &self,
        prefix: &str,
        answer: impl Fn(&host::Request) -> Result<host::Response> + 'static,
    ) {
        self.with(|state| {
            state.servers.insert(
                0,
                Server {
                    prefix: prefix.to_owned(),
                    answer: Box::new(answer),
                },
            );
        });
    }

    /// Returns the requests that were sent.
    pub fn sent(&self) -> Vec<host::Request> {
        self.with(|state| state.sent.clone())
    }

    /// Gives a host addresses.
    pub fn set_addresses(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| (*address).to_owned());
        let addresses = addresses.collect();
        self.with(|state| state.addresses.insert(name.to_owned(), addresses));
    }

    /// Gives a name SRV records.
    pub fn set_services(&self, name: &str, services: &[host::Service]) {
        self.with(|state| state.services.insert(name.to_owned(), services.to_vec()));
    }

    /// Returns the records that a driver keeps.
    pub fn records(&self) -> Vec<(String, String)> {
        self.with(|state| {
            let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
            let records = state.records.iter();
            records
                .map(|(key, value)| (key.clone(), text(value)))
                .collect()
        })
    }

    /// Grants a secret.
    pub fn set_secret(&self, name: &str, value: &str) {
        self.with(|state| state.secrets.insert(name.to_owned(), value.to_owned()));
    }

    /// Makes the next change of a record, a directory or a mount fail.
    pub fn fail_next_change(&self, error: Error) {
        self.with(|state| state.root.error = Some(error));
    }

    /// Says whether the driver's root is where a file system is mounted.
    pub fn set_root_is_mounted(&self, is_mounted: bool) {
        self.with(|state| state.root.is_mounted = is_mounted);
    }

    /// Says whether a container has a volume mounted.
    pub fn set_in_use(&self, volume: &str, is_used: bool) {
        self.with(|state| match is_used {
            true => state.root.in_use.insert(volume.to_owned()),
            false => state.root.in_use.remove(volume),
        });
    }

    /// Makes a directory below the driver's root, and those above it.
    pub fn make_directory(&self, path: &str) {
        self.with(|state| {
            for (end, _) in path.match_indices('/').chain([(path.len(), "")]) {
                let all = &mut state.root.directories;
                let made = Directory {
                    mode: 0o755,
                    uid: 0,
                    gid: 0,
                    max_bytes: None,
                    made_at_ms: state.now_ms,
                };
                all.entry(path[..end].to_owned()).or_insert(made);
            }
        });
    }

    /// Returns the directories below the driver's root, with mode and owners.
    pub fn directories(&self) -> Vec<(String, (u32, u32, u32))> {
        self.with(|state| {
            let all = state.root.directories.iter();
            all.map(|(path, made)| (path.clone(), (made.mode, made.uid, made.gid)))
                .collect()
        })
    }

    /// Returns the most bytes that a directory below the driver's root may take, if there is a most.
    pub fn max_bytes(&self, path: &str) -> Option<u64> {
        self.with(|state| state.root.directories.get(path)?.max_bytes)
    }

    /// Returns what is mounted on a directory below the driver's root.
    pub fn mounted(&self, target: &str) -> Option<Mounted> {
        self.with(|state| state.root.mounts.get(target).cloned())
    }

    /// Sets the clock, in milliseconds since 1970.
    pub fn set_now_ms(&self, now_ms: u64) {
        self.with(|state| state.now_ms = now_ms);
    }

    /// Sets what random bytes follow from.
    pub fn seed(&self, seed: u64) {
        self.with(|state| state.random = seed);
    }

    /// Returns the lines that were logged, each with its fields as `key=value`.
    pub fn log(&self) -> Vec<String> {
        self.with(|state| state.log.clone())
    }

    fn set_file(&self, path: &str, content: Result<Vec<u8>>) {
        self.with(|state| {
            let revision = state
                .files
                .get(path)
                .map_or(1, |(_, revision)| revision + 1);
            state.files.insert(path.to_owned(), (content, revision));
        });
    }

    fn with<T>(&self, call: impl FnOnce(&mut State) -> T) -> T {
        STATE.with_borrow_mut(|state| {
            call(
                state
                    .as_mut()
                    .expect("another `Host` was installed and dropped on this thread"),
            )
        })
    }
}

impl Keys {
    fn put(&mut self, key: &str, value: &[u8]) {
        self.pairs.insert(key.to_owned(), value.to_vec());
        self.version += 1;
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        STATE.set(None);
    }
}
