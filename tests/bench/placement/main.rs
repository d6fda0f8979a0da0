//! What a placement costs: the default filters, one constraint, and the spread strategy.
//!
//! The same decision is made twice: by the built-in plugins, and by a native twin of each, plain
//! Rust over the same node table. Between two decisions the usage of the chosen node changes, as
//! it does in the daemon, so keeping the plugins' node tables up to date is part of the price.
//!
//! ```text
//! cargo bench --bench placement
//! ```
//!
//! After Criterion's figures a table says how many times the native decision the sandboxed one
//! takes.

mod native;

use std::{hint::black_box, path::Path, sync::Arc, time::Instant};

use criterion::{BenchmarkId, Criterion};
use skep::{
    model::{
        directive::{Directives, Kind},
        pattern::Pattern,
        resource::Amount,
    },
    plugin::{self, DEFAULT_TOTAL_MEMORY_BYTES, Loader, Source, Spec},
    scheduler::{
        Call, Filter, Inventory, Scheduler, Strategy,
        bounds::VolumeHolder,
        node_set::NodeSet,
        request::Request,
        table::{Node, NodeStatus, NodeTable, Usage},
    },
};

const FLEETS: [u32; 3] = [100, 1_000, 10_000];
const FILTERS: [&str; 7] = [
    "health",
    "port",
    "dependency",
    "affinity",
    "constraint",
    "containerslots",
    "whitelist",
];
/// How many nodes a placement wants to know, best first.
const LIMIT: usize = 10;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for nodes in FLEETS {
        let mut group = criterion.benchmark_group("placement");
        for (name, scheduler) in [("plugins", plugins()), ("native", native())] {
            let mut decision = Decision::new(nodes, scheduler);
            group.bench_function(BenchmarkId::new(name, nodes), |bencher| {
                bencher.iter(|| decision.make());
            });
        }
        group.finish();
    }
    criterion.final_summary();

    print_start();
    println!(
        "{:>8} {:>12} {:>12} {:>8}",
        "nodes", "plugins", "native", "ratio"
    );
    for nodes in FLEETS {
        let plugins = median_micros(&mut Decision::new(nodes, plugins()));
        let native = median_micros(&mut Decision::new(nodes, native()));
        println!(
            "{nodes:>8} {plugins:>9.1} µs {native:>9.1} µs {:>7.2}x",
            plugins / native
        );
    }
}

/// One fleet and the request that is placed on it over and over.
struct Decision {
    scheduler: Scheduler,
    nodes: NodeTable,
    inventory: Arc<dyn Inventory>,
    request: Request,
}

impl Decision {
    fn new(nodes: u32, scheduler: Scheduler) -> Self {
        Self {
            scheduler,
            nodes: fleet(nodes),
            inventory: Arc::new(Idle),
            request: request(),
        }
    }

    fn make(&mut self) {
        let call = Call {
            nodes: &self.nodes,
            inventory: &self.inventory,
            seed: 0,
        };
        let ranking = self
            .scheduler
            .schedule(&self.request, &call, LIMIT)
            .expect("the fleet has room");
        let slot = black_box(ranking)[0].slot;
        let mut usage = self.nodes.usage(slot);
        usage.containers += 1;
        // Memory is given back now and then: the bench must not fill the fleet.
        usage.reserved.memory_bytes = (usage.reserved.memory_bytes + (64 << 20)) % (4 << 30);
        self.nodes.set_usage(slot, usage);
    }
}

/// Says how long the default plugins take to load, without and with compiled code in the cache.
fn print_start() {
    let cache = tempfile::tempdir().expect("a temporary directory");
    for what in ["first", "second"] {
        let started = Instant::now();
        let loader = loader(Some(cache.path()));
        let loaded = loader.load(&specs()).expect("the built-in plugins load");
        let took = started.elapsed();
        println!(
            "{what} start: {} plugins in {took:.0?}",
            loaded.report.len()
        );
    }
}

fn median_micros(decision: &mut Decision) -> f64 {
    let mut samples: Vec<f64> = (0..500)
        .map(|_| {
            let started = Instant::now();
            decision.make();
            started.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

fn specs() -> Vec<Spec> {
    let builtin = |kind, role: &str, name: &str| {
        Spec::new(name, kind, Source::Builtin(format!("{role}-{name}")))
    };
    let mut specs: Vec<_> = FILTERS
        .iter()
        .map(|name| builtin(plugin::Kind::Filter, "filter", name))
        .collect();
    specs.push(builtin(plugin::Kind::Strategy, "strategy", "spread"));
    specs
}

fn loader(cache: Option<&Path>) -> Loader {
    Loader::try_new(cache, DEFAULT_TOTAL_MEMORY_BYTES).expect("this machine runs WebAssembly")
}

fn plugins() -> Scheduler {
    let mut plugins = loader(None)
        .load(&specs())
        .expect("the built-in plugins load");
    let strategy = plugins.strategies.remove(0);
    Scheduler::new(plugins.filters, strategy)
}

fn native() -> Scheduler {
    let filters: Vec<Box<dyn Filter>> = vec![
        Box::new(native::Health),
        Box::new(native::Port::default()),
        Box::new(native::Dependency::default()),
        Box::new(native::Affinity::default()),
        Box::new(native::Constraint::default()),
        Box::new(native::ContainerSlots),
        Box::new(native::Whitelist::default()),
    ];
    let strategy: Box<dyn Strategy> = Box::new(native::Spread);
    Scheduler::new(filters, strategy)
}

fn fleet(count: u32) -> NodeTable {
    let mut nodes = NodeTable::default();
    for i in 0..count {
        let mut labels: Vec<_> = [
            ("node", format!("node-{i}")),
            ("storagedriver", "overlay2".to_owned()),
            ("executiondriver", "native".to_owned()),
            ("kernelversion", "6.1.0-18-amd64".to_owned()),
            ("operatingsystem", "Debian GNU/Linux 12".to_owned()),
            ("ostype", "linux".to_owned()),
            ("rack", format!("rack-{}", i / 40)),
            ("zone", format!("zone-{}", i % 3)),
            ("disk", ["ssd", "hdd"][(i % 2) as usize].to_owned()),
            ("owner", format!("team-{}", i % 7)),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .to_vec();
        labels.sort();
        let slot = nodes.insert(Node {
            id: format!("ID{i:062}|10.0.{}.{}:2375", i / 250, i % 250),
            name: format!("node-{i}"),
            address: format!("10.0.{}.{}:2375", i / 250, i % 250),
            status: NodeStatus::Healthy,
            health: 100,
            total: Amount {
                cpu_nano: 16_000_000_000,
                memory_bytes: 64 << 30,
            },
            labels,
        });
        nodes.set_usage(
            slot,
            Usage {
                reserved: Amount {
                    cpu_nano: 0,
                    memory_bytes: u64::from(i % 50) << 28,
                },
                containers: i % 50,
            },
        );
    }
    nodes
}

fn request() -> Request {
    let mut directives = Directives::default();
    directives.push(Kind::Constraint, "disk==ssd");
    let mut request = Request::default();
    request.id = "0f".repeat(32);
    request.name = "web".to_owned();
    request.image = "nginx:1.27".to_owned();
    request.need = Amount {
        cpu_nano: 100_000_000,
        memory_bytes: 64 << 20,
    };
    request.network_mode = "bridge".to_owned();
    request.exposed_ports = vec!["80/tcp".to_owned()];
    request.labels = vec![("com.example.team".to_owned(), "web".to_owned())];
    request.set_directives(&directives);
    request
}

/// An inventory of nothing: this request asks it no question.
struct Idle;

impl Inventory for Idle {
    fn nodes_with_reference(&self, _: &str) -> NodeSet {
        NodeSet::default()
    }
    fn nodes_with_container(&self, _: &Pattern) -> NodeSet {
        NodeSet::default()
    }
    fn nodes_with_label(&self, _: &str, _: &Pattern) -> NodeSet {
        NodeSet::default()
    }
    fn nodes_with_image(&self, _: &Pattern) -> NodeSet {
        NodeSet::default()
    }
    fn nodes_with_host_ports(&self, _: &str, _: u16, _: u16, _: &str) -> NodeSet {
        NodeSet::default()
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
