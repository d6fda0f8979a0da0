//! Nodes, containers and requests in few words.

use std::collections::BTreeMap;

use crate::bindings::imports::skep::plugin::types::Usage;
use crate::nodes::Change;
use crate::strategy::{self, Ranked, Strategy};
use crate::{
    Amount, Attr, Error, Expression, Filter, Node, NodeSet, NodeStatus, Nodes, Operator, Request,
    Result, discovery, filter,
};

/// A node and what is taken on it.
#[derive(Clone, Debug)]
pub struct NodeFixture {
    /// The node.
    pub node: Node,
    /// What is taken.
    pub usage: Usage,
}

/// Returns a healthy node without labels, with 4 cores and 4 GiB, nothing taken.
pub fn node(slot: u32, name: &str) -> NodeFixture {
    let nothing = Amount {
        cpu_nano: 0,
        memory_bytes: 0,
    };
    NodeFixture {
        node: Node {
            slot,
            id: format!("{name}-id|10.0.0.{slot}:2375"),
            name: name.to_owned(),
            address: format!("10.0.0.{slot}:2375"),
            status: NodeStatus::Healthy,
            health: 100,
            total: Amount {
                cpu_nano: 4_000_000_000,
                memory_bytes: 4 << 30,
            },
            labels: Vec::new(),
            extra: Vec::new(),
        },
        usage: Usage {
            slot,
            reserved: nothing,
            containers: 0,
        },
    }
}

impl NodeFixture {
    /// Adds a label.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.node.labels.push(Attr {
            key: key.to_owned(),
            value: value.to_owned(),
        });
        self
    }

    /// Sets the ID.
    pub fn id(mut self, id: &str) -> Self {
        id.clone_into(&mut self.node.id);
        self
    }

    /// Sets the status and the health.
    pub fn health(mut self, status: NodeStatus, health: u32) -> Self {
        (self.node.status, self.node.health) = (status, health);
        self
    }

    /// Sets what may be given away, in cores and bytes.
    pub fn total(mut self, cores: u64, memory_bytes: u64) -> Self {
        self.node.total = Amount {
            cpu_nano: cores * 1_000_000_000,
            memory_bytes,
        };
        self
    }

    /// Sets what is taken, in cores and bytes, by how many containers.
    pub fn used(mut self, cores: u64, memory_bytes: u64, containers: u32) -> Self {
        let reserved = Amount {
            cpu_nano: cores * 1_000_000_000,
            memory_bytes,
        };
        self.usage = Usage {
            slot: self.node.slot,
            reserved,
            containers,
        };
        self
    }

    /// Returns the node alone.
    pub fn build(self) -> Node {
        self.node
    }

    fn changes(self) -> [Change; 2] {
        [Change::Put(self.node), Change::Usage(self.usage)]
    }
}

impl From<NodeFixture> for [Change; 2] {
    fn from(fixture: NodeFixture) -> Self {
        fixture.changes()
    }
}

/// Returns a node table at generation 1, names ranked.
pub fn nodes(fixtures: impl IntoIterator<Item = NodeFixture>) -> Nodes {
    let mut nodes = Nodes::new();
    nodes.apply(1, fixtures.into_iter().flat_map(NodeFixture::changes));
    nodes.rank_names();
    nodes
}

/// Returns a request that asks for nothing.
pub fn request() -> Request {
    Request {
        id: "c0ffee".into(),
        name: "web".into(),
        image: "busybox".into(),
        need: Amount {
            cpu_nano: 0,
            memory_bytes: 0,
        },
        network_mode: "default".into(),
        bindings: Vec::new(),
        exposed_ports: Vec::new(),
        references: Vec::new(),
        constraints: Vec::new(),
        affinities: Vec::new(),
        whitelists: Vec::new(),
        labels: Vec::new(),
        extra: Vec::new(),
    }
}

impl Expression {
    /// Reads `key==value` or `key!=value`, as the daemon does; for tests.
    ///
    /// # Panics
    ///
    /// If there is no operator in the text.
    pub fn parse(text: &str) -> Self {
        let (key, operator, value) = match (text.split_once("=="), text.split_once("!=")) {
            (Some((key, value)), _) => (key, Operator::Equal, value),
            (None, Some((key, value))) => (key, Operator::NotEqual, value),
            (None, None) => panic!("no operator in `{text}`"),
        };
        let hard = value.strip_prefix('~');
        Self {
            key: key.to_owned(),
            operator,
            value: hard.unwrap_or(value).to_owned(),
            soft: hard.is_some(),
        }
    }
}

/// What a filter made of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It does not apply.
    Skipped,
    /// The slots that passed, in order.
    Passed(Vec<u32>),
}

/// Runs a filter as the daemon would, with every node a candidate.
///
/// # Errors
///
/// What the filter answers.
pub fn run_filter<F: Filter>(
    settings: &str,
    fixtures: impl IntoIterator<Item = NodeFixture>,
    request: Request,
) -> Result<Outcome> {
    let mut instance = filter::Instance::<F>::new();
    instance.configure(settings)?;
    let fixtures: Vec<_> = fixtures.into_iter().collect();
    let candidates: NodeSet = fixtures.iter().map(|fixture| fixture.node.slot).collect();
    instance.apply(1, fixtures.into_iter().flat_map(NodeFixture::changes));
    if !instance.prepare(request)? {
        return Ok(Outcome::Skipped);
    }
    let passed = instance.filter(1, candidates.into_words())?;
    Ok(Outcome::Passed(
        NodeSet::from_words(passed).iter().collect(),
    ))
}

/// Returns the addresses that a batch adds.
///
/// # Panics
///
/// It deletes one.
pub fn addresses(batch: &discovery::Batch) -> Vec<&str> {
    let addresses = batch.changes.iter().map(|change| match change {
        discovery::Change::Put(entry) => entry.address.as_str(),
        discovery::Change::Delete(address) => panic!("deletes `{address}`"),
    });
    addresses.collect()
}

/// Runs a strategy as the daemon would, with every node a candidate.
///
/// # Errors
///
/// What the strategy answers.
pub fn rank<S: Strategy>(
    settings: &str,
    fixtures: impl IntoIterator<Item = NodeFixture>,
    request: &Request,
    limit: u32,
) -> Result<Vec<Ranked>, Error> {
    let mut instance = strategy::Instance::<S>::new();
    instance.configure(settings)?;
    let fixtures: Vec<_> = fixtures.into_iter().collect();
    let candidates: NodeSet = fixtures.iter().map(|fixture| fixture.node.slot).collect();
    instance.apply(1, fixtures.into_iter().flat_map(NodeFixture::changes));
    instance.rank(request, 1, candidates.into_words(), limit)
}

/// A container on a node of [`super::Host`].
#[derive(Clone, Debug, Default)]
pub struct Container {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) ports: Vec<(String, u16, String)>,
    pub(super) host_mode_ports: Vec<String>,
}

impl Container {
    /// Returns a container with this name and the ID `NAME-id`.
    pub fn named(name: &str) -> Self {
        Self {
            id: format!("{name}-id"),
            name: name.to_owned(),
            ..Self::default()
        }
    }

    /// Adds a label.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Takes a host port.
    pub fn port(mut self, host_ip: &str, port: u16, protocol: &str) -> Self {
        self.ports
            .push((host_ip.to_owned(), port, protocol.to_owned()));
        self
    }

    /// Exposes a port (`80/tcp`) on the host's network.
    pub fn host_mode_port(mut self, port: &str) -> Self {
        self.host_mode_ports.push(port.to_owned());
        self
    }
}

/// Keys and values, as the options of a volume are given.
pub fn attrs(pairs: &[(&str, &str)]) -> Vec<Attr> {
    let attr = |(key, value): &(&str, &str)| Attr {
        key: (*key).to_owned(),
        value: (*value).to_owned(),
    };
    pairs.iter().map(attr).collect()
}
