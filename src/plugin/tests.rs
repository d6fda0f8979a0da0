//! Real components through the scheduler: the built-in ones, and those under `tests/guests` that
//! misbehave as their settings say.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::json;

use super::*;
use crate::{
    discovery::{Batch, Change},
    model::{
        directive::{Directives, Kind as Directive},
        pattern::Pattern,
        port::PortBinding,
        resource::Amount,
    },
    scheduler::{
        Call, Inventory, Scheduler,
        bounds::VolumeHolder,
        node_set::NodeSet,
        request::{Reference, Request},
        table::{Node, NodeStatus, NodeTable, Usage},
    },
};

mod drivers;
mod unruly;

const DEFAULT_FILTERS: [&str; 7] = [
    "health",
    "port",
    "dependency",
    "affinity",
    "constraint",
    "containerslots",
    "whitelist",
];

/// Time that passes when a test says so.
#[derive(Clone)]
struct Watch(Arc<Mutex<Instant>>);

impl Watch {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    fn advance(&self, time: Duration) {
        *self.0.lock().unwrap() += time;
    }

    fn loader(&self) -> Loader {
        let now = self.0.clone();
        loader().with_clock(Arc::new(move || *now.lock().unwrap()))
    }
}

/// A loader with a cache that all tests share: compiling takes longer than most of them.
fn loader() -> Loader {
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-plugins");
    Loader::try_new(Some(&cache), DEFAULT_TOTAL_MEMORY_BYTES).unwrap()
}

/// Containers and images by the slot they are on.
#[derive(Default)]
struct Fleet {
    containers: Vec<(u32, &'static str)>,
    ports: Vec<(u32, u16)>,
}

impl Inventory for Fleet {
    fn nodes_with_reference(&self, reference: &str) -> NodeSet {
        self.nodes_with_container(&Pattern::Exact(reference.to_owned()))
    }
    fn nodes_with_container(&self, pattern: &Pattern) -> NodeSet {
        let found = self.containers.iter().filter(|(_, c)| pattern.matches(c));
        found.map(|(slot, _)| *slot).collect()
    }
    fn nodes_with_label(&self, _: &str, _: &Pattern) -> NodeSet {
        NodeSet::default()
    }
    fn nodes_with_image(&self, _: &Pattern) -> NodeSet {
        NodeSet::default()
    }
    fn nodes_with_host_ports(&self, _: &str, first: u16, last: u16, _: &str) -> NodeSet {
        let taken = self
            .ports
            .iter()
            .filter(|(_, p)| (first..=last).contains(p));
        taken.map(|(slot, _)| *slot).collect()
    }
    fn nodes_with_volume_driver(&self, _: &str) -> NodeSet {
        NodeSet::default()
    }
    fn volumes(&self, _: &str) -> Vec<VolumeHolder> {
        Vec::new()
    }
    fn nodes_with_host_mode_port(&self, _: &str) -> NodeSet {
        NodeSet::default()
    }
}

/// Three nodes of growing load: `a` and `b` in rack r1, `c` in r2.
fn nodes() -> NodeTable {
    let mut nodes = NodeTable::default();
    for (name, rack, gigabytes) in [("a", "r1", 1), ("b", "r1", 2), ("c", "r2", 3)] {
        let slot = nodes.insert(Node {
            id: format!("{name}-id|10.0.0.1:2375"),
            name: name.to_owned(),
            address: "10.0.0.1:2375".to_owned(),
            status: NodeStatus::Healthy,
            health: 100,
            total: Amount {
                cpu_nano: 8_000_000_000,
                memory_bytes: 16 << 30,
            },
            labels: vec![("rack".to_owned(), rack.to_owned())],
        });
        nodes.set_usage(
            slot,
            Usage {
                reserved: Amount {
                    cpu_nano: 0,
                    memory_bytes: gigabytes << 30,
                },
                containers: 1,
            },
        );
    }
    nodes
}

fn builtin(kind: Kind, name: &str) -> Spec {
    Spec {
        // A busy test machine must not look like a slow plugin.
        limits: Limits {
            call: Duration::from_secs(30),
            ..Limits::for_kind(kind)
        },
        ..Spec::new(name, kind, Source::Builtin(format!("{kind}-{name}")))
    }
}

fn guest(kind: Kind, mode: &str) -> Spec {
    let file = format!("tests/guests/dist/unruly-{kind}.wasm");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    Spec {
        settings: json!({ "mode": mode }),
        limits: Limits {
            memory_bytes: 16 << 20,
            call: match mode {
                mode if mode.starts_with("loop") => Duration::from_millis(100),
                _ => Duration::from_secs(30),
            },
            ..Limits::for_kind(kind)
        },
        ..Spec::new("unruly", kind, Source::File(path))
    }
}

fn scheduler(loader: &Loader, specs: &[Spec]) -> Scheduler {
    let mut plugins = loader.load(specs).unwrap();
    Scheduler::new(plugins.filters, plugins.strategies.remove(0))
}

/// The default scheduler with `spec` in front of its filters.
fn with_filter(loader: &Loader, spec: Spec) -> Scheduler {
    scheduler(
        loader,
        &[
            spec,
            builtin(Kind::Filter, "constraint"),
            builtin(Kind::Strategy, "spread"),
        ],
    )
}

/// The names of the nodes for `request`, best first, or the message.
fn place(
    scheduler: &mut Scheduler,
    nodes: &NodeTable,
    fleet: Fleet,
    request: &Request,
) -> Result<Vec<String>, String> {
    let inventory: Arc<dyn Inventory> = Arc::new(fleet);
    let call = Call {
        nodes,
        inventory: &inventory,
        seed: 7,
    };
    let ranking = scheduler
        .schedule(request, &call, 10)
        .map_err(|error| error.to_string())?;
    let name = |slot| nodes.node(slot).unwrap().name.clone();
    Ok(ranking.iter().map(|ranked| name(ranked.slot)).collect())
}

fn place_any(scheduler: &mut Scheduler) -> Result<Vec<String>, String> {
    place(scheduler, &nodes(), Fleet::default(), &Request::default())
}

fn wanting(directives: &[(Directive, &str)]) -> Request {
    let mut all = Directives::default();
    for (kind, text) in directives {
        all.push(*kind, *text);
    }
    let mut request = Request::default();
    request.need.memory_bytes = 1 << 30;
    request.set_directives(&all);
    request
}

fn everything() -> Vec<Spec> {
    let filters = DEFAULT_FILTERS.map(|name| builtin(Kind::Filter, name));
    let strategy = builtin(Kind::Strategy, "spread");
    filters.into_iter().chain([strategy]).collect()
}

#[test]
fn the_default_plugins_place_containers() {
    use Directive::{Affinity, Constraint, Whitelist};

    let mut scheduler = scheduler(&loader(), &everything());
    let mut check = |directives: &[(Directive, &str)], expected: Result<&[&str], &str>| {
        let fleet = Fleet {
            containers: vec![(1, "db")],
            ports: vec![(0, 80)],
        };
        let placed = place(&mut scheduler, &nodes(), fleet, &wanting(directives));
        let expected = expected
            .map(|names| names.iter().map(|name| (*name).to_owned()).collect())
            .map_err(str::to_owned);
        assert_eq!(placed, expected, "{directives:?}");
    };
    check(&[], Ok(&["a", "b", "c"]));
    check(&[(Constraint, "rack==r1")], Ok(&["a", "b"]));
    check(&[(Constraint, "rack!=r1")], Ok(&["c"]));
    check(&[(Constraint, "node==/^[bc]$/")], Ok(&["b", "c"]));
    check(&[(Constraint, "rack==~r9")], Ok(&["a", "b", "c"]));
    check(&[(Affinity, "container==db")], Ok(&["b"]));
    check(&[(Affinity, "container!=d*")], Ok(&["a", "c"]));
    check(&[(Whitelist, "node==a|c")], Ok(&["a", "c"]));
    check(
        &[(Constraint, "rack==r2"), (Affinity, "container==db")],
        Err(
            "Unable to find a node that satisfies the following conditions \n\
             [container==db (soft=false)]\n[rack==r2]",
        ),
    );
}

#[test]
fn filters_ask_the_inventory_of_the_call() {
    let mut scheduler = scheduler(&loader(), &everything());
    let fleet = || Fleet {
        containers: vec![(1, "db"), (2, "db2")],
        ports: vec![(0, 80)],
    };
    let mut request = Request {
        bindings: vec![PortBinding {
            host_ip: String::new(),
            first: 80,
            last: 80,
            protocol: "tcp".to_owned(),
        }],
        ..Request::default()
    };
    let placed = place(&mut scheduler, &nodes(), fleet(), &request);
    assert_eq!(placed.unwrap(), ["b", "c"]);
    request.references = vec![Reference {
        container: "db2".to_owned(),
        text: "--link=db2:db".to_owned(),
    }];
    let placed = place(&mut scheduler, &nodes(), fleet(), &request);
    assert_eq!(placed.unwrap(), ["c"]);
}

#[test]
fn plugins_follow_the_node_table() {
    let loader = loader();
    let mut scheduler = scheduler(&loader, &everything());
    let mut nodes = nodes();
    let mut check = |nodes: &NodeTable, expected: &[&str]| {
        let request = wanting(&[(Directive::Constraint, "rack==r1")]);
        let placed = place(&mut scheduler, nodes, Fleet::default(), &request);
        assert_eq!(placed.unwrap(), expected);
    };
    check(&nodes, &["a", "b"]);

    let mut usage = nodes.usage(0);
    usage.reserved.memory_bytes = 8 << 30;
    nodes.set_usage(0, usage);
    check(&nodes, &["b", "a"]);

    nodes.remove(0);
    check(&nodes, &["b"]);

    let moved = Node {
        labels: vec![("rack".to_owned(), "r1".to_owned())],
        ..Node::clone(nodes.node(2).unwrap())
    };
    nodes.update(2, moved);
    check(&nodes, &["b", "c"]);

    let mut fresh = Node::clone(nodes.node(1).unwrap());
    fresh.name = "d".to_owned();
    assert_eq!(nodes.insert(fresh), 0);
    check(&nodes, &["d", "b", "c"]);

    // More changes than the log remembers: the plugins get the whole table again.
    for containers in 0..70_000 {
        let mut usage = nodes.usage(1);
        usage.containers = containers;
        nodes.set_usage(1, usage);
    }
    nodes.remove(0);
    check(&nodes, &["b", "c"]);
}

#[test]
fn the_seed_decides_what_is_random() {
    let loader = loader();
    let specs = [builtin(Kind::Strategy, "random")];
    let mut first = scheduler(&loader, &specs);
    let mut second = scheduler(&loader, &specs);
    let placed = place_any(&mut first).unwrap();
    assert_eq!(placed.len(), 3);
    assert_eq!(place_any(&mut first).unwrap(), placed);
    assert_eq!(place_any(&mut second).unwrap(), placed);
}

#[test]
fn a_plugin_that_cannot_be_loaded_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| -> Source {
        let path = directory.path().join(name);
        fs::write(&path, bytes).unwrap();
        Source::File(path)
    };
    let unruly = guest(Kind::Filter, "behave").source;
    let check = |spec: Spec, expected: &str| {
        let error = loader().load(&[spec]).err().expect("it is not loaded");
        let reason = error.reason().to_string();
        assert!(reason.contains(expected), "{reason}");
    };
    let spec = |kind, source| Spec::new("broken", kind, source);

    let absent = Source::File(PathBuf::from("/nonexistent/x.wasm"));
    check(spec(Kind::Filter, absent), "cannot be read");
    check(
        spec(Kind::Filter, Source::Builtin("filter-luck".to_owned())),
        "is not built in; built in are filter-health, ",
    );
    check(
        spec(Kind::Filter, file("text.wasm", b"#!/bin/sh\nexit\n")),
        "does not start as WebAssembly does",
    );
    check(
        spec(Kind::Filter, file("empty.wasm", b"\0asm\x01\0\0\0")),
        "is a core module without component metadata",
    );
    check(
        spec(Kind::Strategy, unruly.clone()),
        "is a filter plugin, not a strategy plugin",
    );
    check(
        Spec {
            sha256: Some([0; 32]),
            ..spec(Kind::Filter, unruly.clone())
        },
        "the configuration wants `0000",
    );
    check(
        Spec {
            settings: json!({ "mode": ["not", "a", "mode"] }),
            ..spec(Kind::Filter, unruly.clone())
        },
        "refuses its settings",
    );
    check(
        spec(Kind::Volume, unruly),
        "is a filter plugin, not a volume plugin",
    );
}

#[test]
fn compiled_code_is_kept_and_repaired() {
    let cache = tempfile::tempdir().unwrap();
    let specs = [builtin(Kind::Filter, "health")];
    let origin = || {
        let loader = Loader::try_new(Some(cache.path()), DEFAULT_TOTAL_MEMORY_BYTES).unwrap();
        loader.load(&specs).unwrap().report[0].origin
    };
    assert_eq!(origin(), Origin::Compiled);
    assert_eq!(origin(), Origin::Cached);

    let code = cached_files(&cache.path().join("wasm"))
        .into_iter()
        .find(|path| path.extension().is_some_and(|e| e == "cwasm"))
        .unwrap();
    let mut bytes = fs::read(&code).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&code, &bytes).unwrap();
    assert_eq!(
        origin(),
        Origin::Compiled,
        "code that was changed is not run"
    );
    assert_eq!(origin(), Origin::Cached);

    fs::write(&code, b"short").unwrap();
    assert_eq!(origin(), Origin::Compiled);
    assert_eq!(origin(), Origin::Cached);

    fs::remove_file(cache.path().join("wasm/key")).unwrap();
    assert_eq!(origin(), Origin::Compiled, "code of another key is not run");
}

fn cached_files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .flat_map(|path| match path.is_dir() {
            true => cached_files(&path),
            false => vec![path],
        })
        .collect()
}

/// Says which engines the file names, and keeps saying so.
fn file_backend(path: &Path) -> Box<dyn crate::discovery::Backend> {
    let spec = Spec {
        settings: json!({ "location": path }),
        allow: Allow {
            files: vec![path.to_owned()],
            ..Allow::default()
        },
        ..Spec::new(
            "engines",
            Kind::Discovery,
            Source::Builtin("discovery-file".to_owned()),
        )
    };
    loader().load(&[spec]).unwrap().backends.remove(0)
}

fn membership(batch: &Batch) -> Vec<&str> {
    let puts = batch.changes.iter().filter_map(|change| match change {
        Change::Put(address) => Some(address.as_str()),
        Change::Delete(_) => None,
    });
    puts.collect()
}

#[tokio::test]
async fn a_file_backend_tells_the_membership_again_after_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("engines");
    fs::write(&path, "10.0.0.1:2375\n10.0.0.2:2375\n").unwrap();
    let mut backend = tokio::task::spawn_blocking({
        let path = path.clone();
        move || file_backend(&path)
    })
    .await
    .unwrap();
    let first = backend.next(Duration::ZERO).await.unwrap();
    assert!(first.full);
    assert_eq!(membership(&first), ["10.0.0.1:2375", "10.0.0.2:2375"]);

    let quiet = backend.next(Duration::ZERO).await.unwrap();
    assert!(!quiet.full && quiet.changes.is_empty(), "{quiet:?}");

    fs::remove_file(&path).unwrap();
    let gone = backend.next(Duration::from_secs(5)).await.unwrap_err();
    assert_eq!(gone.backend, "engines");
    fs::write(&path, "10.0.0.3:2375\n").unwrap();
    let again = backend.next(Duration::ZERO).await.unwrap();
    assert!(again.full);
    assert_eq!(membership(&again), ["10.0.0.3:2375"]);
}

#[tokio::test]
async fn a_step_that_is_dropped_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("engines");
    fs::write(&path, "10.0.0.1:2375\n").unwrap();
    let mut backend = tokio::task::spawn_blocking({
        let path = path.clone();
        move || file_backend(&path)
    })
    .await
    .unwrap();
    backend.next(Duration::ZERO).await.unwrap();
    {
        let waiting = backend.next(Duration::from_secs(3600));
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
    }
    let again = backend.next(Duration::ZERO).await.unwrap();
    assert!(again.full);
    assert_eq!(membership(&again), ["10.0.0.1:2375"]);
}
