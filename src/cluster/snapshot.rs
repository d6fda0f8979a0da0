//! The whole cluster at one moment.
//!
//! A request takes one snapshot and passes it down, so it never sees two versions of the cluster.
//! Snapshots share what did not change: a new one costs in proportion to the change, not to the
//! fleet.

use std::{ops::RangeInclusive, sync::Arc};

use chrono::{DateTime, Utc};

use crate::{
    engine::{
        client::Client,
        inventory::{Container, Inventory},
    },
    model::address::EngineAddr,
};

mod lookup;

/// One engine: what it holds, and how to talk to it.
#[derive(Clone)]
pub struct Node {
    /// What it held at the moment of the snapshot.
    pub inventory: Arc<Inventory>,
    /// How it is reached; speaks the version negotiated with it.
    pub client: Client,
}

/// A container and the node it is on.
#[derive(Clone)]
pub struct Found {
    /// The node.
    pub node: Arc<Node>,
    /// The container.
    pub container: Arc<Container>,
}

/// Where a container is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    addr: EngineAddr,
    id: Arc<str>,
}

/// Major and minor.
type ApiVersion = (u32, u32);

/// A container's place in the order of age.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Age {
    created: DateTime<Utc>,
    id: Arc<str>,
    addr: EngineAddr,
}

/// Every node and container, with indexes for look-ups by reference.
#[derive(Clone, Default)]
pub struct Snapshot {
    nodes: imbl::OrdMap<EngineAddr, Arc<Node>>,
    /// How many healthy nodes speak each range of API versions.
    spoken: imbl::OrdMap<(ApiVersion, ApiVersion), usize>,
    // Invariant: these four hold exactly the containers of `nodes`.
    by_age: imbl::OrdSet<Age>,
    by_id: imbl::OrdMap<Arc<str>, EngineAddr>,
    by_swarm_id: imbl::OrdMap<Arc<str>, Vec<Place>>,
    by_name: imbl::OrdMap<Arc<str>, Vec<Place>>,
}

impl Node {
    /// The node as it would be without a container.
    pub(super) fn without(&self, id: &str) -> Self {
        let mut inventory = Inventory::clone(&self.inventory);
        inventory.containers.remove(id);
        Self {
            inventory: Arc::new(inventory),
            client: self.client.clone(),
        }
    }
}

impl Snapshot {
    /// The nodes, by address.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    /// The nodes that were validated once, healthy or not, in the natural order of their names.
    pub fn validated(&self) -> Vec<&Arc<Node>> {
        let mut nodes: Vec<_> = self
            .nodes()
            .filter(|node| node.inventory.is_validated())
            .collect();
        sort_by_name(&mut nodes);
        nodes
    }

    /// The validated nodes that can be talked to, in the same order.
    pub fn healthy(&self) -> Vec<Arc<Node>> {
        let nodes = self.validated().into_iter();
        let healthy = nodes.filter(|node| node.inventory.is_healthy());
        healthy.cloned().collect()
    }

    /// Every node in the natural order of names; `node9` comes before `node10`.
    pub fn by_name(&self) -> Vec<&Arc<Node>> {
        let mut nodes: Vec<_> = self.nodes().collect();
        sort_by_name(&mut nodes);
        nodes
    }

    /// Every container of validated nodes, newest first, from the one after `last`; those of the
    /// same age by descending ID.
    pub fn newest_first(&self, last: Option<&Age>) -> impl Iterator<Item = (&Age, Found)> {
        let older = match last {
            Some(last) => self.by_age.range::<_, Age>(..last),
            None => self.by_age.range::<_, Age>(..),
        };
        older.rev().filter_map(|age| {
            let node = self.nodes.get(&age.addr)?;
            let container = node.inventory.containers.get(&age.id)?;
            let found = || Found {
                node: Arc::clone(node),
                container: Arc::clone(container),
            };
            node.inventory.is_validated().then(|| (age, found()))
        })
    }

    /// The API versions that every healthy node speaks, from the oldest to the newest; empty if they
    /// have none in common, and `None` if no node is healthy.
    pub fn api_versions(&self) -> Option<RangeInclusive<ApiVersion>> {
        let oldest = self.spoken.keys().map(|(oldest, _)| *oldest).max()?;
        let newest = self.spoken.keys().map(|(_, newest)| *newest).min()?;
        Some(oldest..=newest)
    }

    /// The node at an address.
    pub fn node(&self, addr: &EngineAddr) -> Option<&Arc<Node>> {
        self.nodes.get(addr)
    }

    /// The validated nodes with this name or ID.
    pub fn nodes_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Arc<Node>> {
        self.nodes().filter(move |node| {
            node.inventory.is_validated()
                && (node.inventory.name() == name || node.inventory.node_id() == name)
        })
    }

    /// Resolves a container reference; the first rule that hits wins:
    ///
    /// 1. full ID or its first 12 characters,
    /// 2. full cluster-wide ID or its first 12 characters,
    /// 3. a name, bare, with a leading `/`, or behind `<node name>/` or `<node ID>/`; a name that
    ///    several containers have resolves to none, unless one was made again for the others,
    /// 4. a prefix that exactly one ID or cluster-wide ID has.
    ///
    /// Cost: logarithmic in the number of containers.
    pub fn container(&self, reference: &str) -> Option<Found> {
        if reference.is_empty() {
            return None;
        }
        self.by_full_id(reference)
            .or_else(|| self.by_full_swarm_id(reference))
            .or_else(|| match self.named(reference).as_slice() {
                [] => self.by_prefix(reference),
                [one] => Some(one.clone()),
                several => newest_copy(several),
            })
    }

    /// Every container with a cluster-wide ID: several only while one is being moved.
    pub fn copies(&self, swarm_id: &str) -> Vec<Found> {
        let places = self.by_swarm_id.get(swarm_id).into_iter().flatten();
        places.filter_map(|place| self.at(place)).collect()
    }

    /// Every container whose name a reference is.
    fn named(&self, reference: &str) -> Vec<Found> {
        let bare = reference.strip_prefix('/').unwrap_or(reference);
        let mut places: Vec<Place> = self.by_name.get(bare).cloned().unwrap_or_default();
        if let Some((node, name)) = bare.split_once('/') {
            for place in self.by_name.get(name).into_iter().flatten() {
                let on_node = self.nodes.get(&place.addr).is_some_and(|candidate| {
                    candidate.inventory.name() == node || candidate.inventory.node_id() == node
                });
                if on_node && !places.contains(place) {
                    places.push(place.clone());
                }
            }
        }
        places.iter().filter_map(|place| self.at(place)).collect()
    }

    fn by_full_id(&self, reference: &str) -> Option<Found> {
        let (id, addr) = self.by_id.range(Arc::<str>::from(reference)..).next()?;
        is_id_or_short(id, reference).then_some(())?;
        self.at(&Place {
            addr: addr.clone(),
            id: Arc::clone(id),
        })
    }

    fn by_full_swarm_id(&self, reference: &str) -> Option<Found> {
        let (id, places) = self
            .by_swarm_id
            .range(Arc::<str>::from(reference)..)
            .next()?;
        is_id_or_short(id, reference).then_some(())?;
        let copies: Vec<_> = places.iter().filter_map(|place| self.at(place)).collect();
        newest_copy(&copies).or_else(|| copies.into_iter().next())
    }

    fn by_prefix(&self, reference: &str) -> Option<Found> {
        let ids = self
            .by_id
            .range(Arc::<str>::from(reference)..)
            .take_while(|(id, _)| id.starts_with(reference))
            .map(|(id, addr)| Place {
                addr: addr.clone(),
                id: Arc::clone(id),
            });
        let swarm_ids = self
            .by_swarm_id
            .range(Arc::<str>::from(reference)..)
            .take_while(|(id, _)| id.starts_with(reference))
            .flat_map(|(_, places)| places.iter().cloned());
        let mut hits = ids.chain(swarm_ids);
        let first = hits.next()?;
        if hits.any(|other| other != first) {
            return None;
        }
        self.at(&first)
    }

    fn at(&self, place: &Place) -> Option<Found> {
        let node = self.nodes.get(&place.addr)?;
        let container = node.inventory.containers.get(&place.id)?;
        Some(Found {
            node: Arc::clone(node),
            container: Arc::clone(container),
        })
    }

    /// Puts a node in, or replaces what is known of it. Cost: by what changed in the node.
    pub(super) fn put(&mut self, node: Node) {
        let addr = node.inventory.addr.clone();
        let before = self
            .nodes
            .get(&addr)
            .map(|old| old.inventory.containers.clone())
            .unwrap_or_default();
        let after = node.inventory.containers.clone();
        for change in before.diff(&after) {
            match change {
                imbl::ordmap::DiffItem::Add(_, container) => self.index(&addr, container),
                imbl::ordmap::DiffItem::Remove(_, container) => self.unindex(&addr, container),
                imbl::ordmap::DiffItem::Update { old, new } => {
                    self.unindex(&addr, old.1);
                    self.index(&addr, new.1);
                }
            }
        }
        if let Some(versions) = spoken_by(&node) {
            *self.spoken.entry(versions).or_insert(0) += 1;
        }
        let before = self.nodes.insert(addr, Arc::new(node));
        self.forget_versions(before.as_deref());
    }

    fn forget_versions(&mut self, node: Option<&Node>) {
        let Some(versions) = node.and_then(spoken_by) else {
            return;
        };
        match self.spoken.get_mut(&versions) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                self.spoken.remove(&versions);
            }
        }
    }

    /// Takes a node out.
    pub(super) fn remove(&mut self, addr: &EngineAddr) -> Option<Arc<Node>> {
        let node = self.nodes.remove(addr)?;
        self.forget_versions(Some(&node));
        for container in node.inventory.containers.values() {
            self.unindex(addr, container);
        }
        Some(node)
    }

    fn index(&mut self, addr: &EngineAddr, container: &Container) {
        let place = Place {
            addr: addr.clone(),
            id: Arc::clone(&container.id),
        };
        self.by_id.insert(Arc::clone(&container.id), addr.clone());
        self.by_age.insert(Age::of(addr, container));
        if let Some(swarm_id) = &container.swarm_id {
            add(&mut self.by_swarm_id, swarm_id, place.clone());
        }
        for name in &container.names {
            add(&mut self.by_name, name, place.clone());
        }
    }

    fn unindex(&mut self, addr: &EngineAddr, container: &Container) {
        let place = Place {
            addr: addr.clone(),
            id: Arc::clone(&container.id),
        };
        if self.by_id.get(&container.id) == Some(addr) {
            self.by_id.remove(&container.id);
        }
        self.by_age.remove(&Age::of(addr, container));
        if let Some(swarm_id) = &container.swarm_id {
            take(&mut self.by_swarm_id, swarm_id, &place);
        }
        for name in &container.names {
            take(&mut self.by_name, name, &place);
        }
    }
}

impl Age {
    fn of(addr: &EngineAddr, container: &Container) -> Self {
        Self {
            created: container.created,
            id: Arc::clone(&container.id),
            addr: addr.clone(),
        }
    }
}

/// The oldest and the newest API version of a healthy node.
fn spoken_by(node: &Node) -> Option<(ApiVersion, ApiVersion)> {
    let inventory = &node.inventory;
    let specs = inventory
        .specs
        .as_ref()
        .filter(|_| inventory.is_healthy())?;
    Some((specs.min_api_version, specs.api_version))
}

/// The container that was made again in place of all the others, if they are copies.
fn newest_copy(found: &[Found]) -> Option<Found> {
    let newest = found.iter().max_by_key(|copy| copy.container.fence())?;
    let is_for_all = found.iter().all(|copy| {
        let is_it = Arc::ptr_eq(&copy.container, &newest.container);
        let is_older = copy.container.fence() < newest.container.fence();
        copy.container.swarm_id == newest.container.swarm_id && (is_it || is_older)
    });
    (is_for_all && newest.container.swarm_id.is_some()).then(|| newest.clone())
}

/// Whether `reference` is all of `id` or its first 12 characters.
fn is_id_or_short(id: &str, reference: &str) -> bool {
    id == reference || (reference.len() == 12 && id.starts_with(reference))
}

fn add(map: &mut imbl::OrdMap<Arc<str>, Vec<Place>>, key: &Arc<str>, place: Place) {
    match map.get_mut(key) {
        Some(places) => places.push(place),
        None => {
            map.insert(Arc::clone(key), vec![place]);
        }
    }
}

fn take(map: &mut imbl::OrdMap<Arc<str>, Vec<Place>>, key: &str, place: &Place) {
    let Some(places) = map.get_mut(key) else {
        return;
    };
    places.retain(|other| other != place);
    if places.is_empty() {
        map.remove(key);
    }
}

fn sort_by_name(nodes: &mut [&Arc<Node>]) {
    nodes.sort_by(|a, b| {
        natord::compare(a.inventory.name(), b.inventory.name())
            .then_with(|| a.inventory.addr.cmp(&b.inventory.addr))
    });
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engine::{
        inventory::Specs,
        transport::{Limits, Transport},
    };

    /// A healthy node with containers given as (ID, names, cluster-wide ID).
    pub(crate) fn node(name: &str, addr: &str, containers: &[(&str, &[&str], &str)]) -> Node {
        let addr: EngineAddr = addr.parse().unwrap();
        let limits = Limits::new(Duration::from_secs(1), 1, 1);
        let transport = Arc::new(Transport::new(addr.clone(), &limits));
        let mut inventory = Inventory::pending(addr);
        inventory.status = crate::engine::health::Status::Healthy;
        inventory.specs = Some(Arc::new(Specs {
            id: format!("{name}-id"),
            name: name.to_owned(),
            ..Specs::default()
        }));
        for (id, names, swarm_id) in containers {
            let container = container(id, names, swarm_id);
            inventory
                .containers
                .insert(Arc::clone(&container.id), Arc::new(container));
        }
        Node {
            inventory: Arc::new(inventory),
            client: Client::new(transport, Duration::from_secs(1)),
        }
    }

    // U-ENG-16
    #[tokio::test]
    async fn nodes_are_in_the_natural_order_of_their_names() {
        let names = ["machine10", "machine9", "machine11", "machine1"];
        let nodes = names
            .iter()
            .enumerate()
            .map(|(index, name)| node(name, &format!("127.0.0.1:{}", index + 1), &[]));
        let snapshot = cluster(nodes);
        for nodes in [snapshot.by_name(), snapshot.validated()] {
            let names: Vec<&str> = nodes.iter().map(|node| node.inventory.name()).collect();
            assert_eq!(names, ["machine1", "machine9", "machine10", "machine11"]);
        }
    }

    /// A cluster of these nodes.
    pub(crate) fn cluster(nodes: impl IntoIterator<Item = Node>) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for node in nodes {
            snapshot.put(node);
        }
        snapshot
    }

    pub(crate) fn container(id: &str, names: &[&str], swarm_id: &str) -> Container {
        Container {
            id: Arc::from(id),
            names: names.iter().map(|name| Arc::from(*name)).collect(),
            swarm_id: (!swarm_id.is_empty()).then(|| Arc::from(swarm_id)),
            image: "busybox".into(),
            ..Container::default()
        }
    }

    fn check(snapshot: &Snapshot, reference: &str, expected: Option<&str>) {
        let found = snapshot
            .container(reference)
            .map(|f| f.container.id.to_string());
        assert_eq!(found.as_deref(), expected, "`{reference}`");
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    }

    #[test]
    fn resolves_references_as_classic_swarm_did() {
        let _guard = runtime().enter();
        let mut snapshot = Snapshot::default();
        snapshot.put(node(
            "test-engine",
            "127.0.0.1:1",
            &[
                (
                    "container1-id",
                    &["container1-name1", "container1-name2"],
                    "swarm1-id",
                ),
                ("container2-id", &["con"], "swarm2-id"),
            ],
        ));
        for (reference, expected) in [
            ("container1-id", Some("container1-id")),
            ("container1-", Some("container1-id")),
            ("container1-name1", Some("container1-id")),
            ("/container1-name2", Some("container1-id")),
            ("test-engine/container1-name1", Some("container1-id")),
            ("test-engine-id|127.0.0.1:1/con", Some("container2-id")),
            ("swarm1-id", Some("container1-id")),
            ("swarm1-", Some("container1-id")),
            ("con", Some("container2-id")),
            ("container", None),
            ("swarm", None),
            ("other/con", None),
            ("", None),
            ("unknown", None),
        ] {
            check(&snapshot, reference, expected);
        }
    }

    #[test]
    fn a_name_on_two_nodes_needs_the_node() {
        let _guard = runtime().enter();
        let mut snapshot = Snapshot::default();
        snapshot.put(node("n1", "127.0.0.1:1", &[("aaa", &["web"], "")]));
        snapshot.put(node("n2", "127.0.0.1:2", &[("bbb", &["web"], "")]));
        check(&snapshot, "web", None);
        check(&snapshot, "n2/web", Some("bbb"));
    }

    #[test]
    fn containers_are_in_the_order_of_their_age() {
        let _guard = runtime().enter();
        let mut snapshot = Snapshot::default();
        for (name, addr, ids) in [
            ("n1", "127.0.0.1:1", [("a", 5), ("b", 1)]),
            ("n2", "127.0.0.1:2", [("c", 3), ("d", 5)]),
        ] {
            let mut node = node(name, addr, &[]);
            let mut inventory = (*node.inventory).clone();
            for (id, seconds) in ids {
                let mut container = container(id, &[], "");
                container.created = DateTime::from_timestamp(seconds, 0).unwrap();
                inventory
                    .containers
                    .insert(Arc::from(id), Arc::new(container));
            }
            node.inventory = Arc::new(inventory);
            snapshot.put(node);
        }
        let ids = |snapshot: &Snapshot, last: Option<&Age>| -> Vec<String> {
            let rest = snapshot.newest_first(last);
            rest.map(|(_, found)| found.container.id.to_string())
                .collect()
        };
        assert_eq!(ids(&snapshot, None), ["d", "a", "c", "b"]);
        let (second, _) = snapshot.newest_first(None).nth(1).unwrap();
        assert_eq!(ids(&snapshot, Some(second)), ["c", "b"]);
        snapshot.remove(&"127.0.0.1:2".parse().unwrap());
        assert_eq!(ids(&snapshot, None), ["a", "b"]);
    }

    #[test]
    fn versions_are_those_of_the_healthy_nodes_that_are_there() {
        let _guard = runtime().enter();
        let speaking = |addr: &str, oldest: u32, newest: u32| {
            let mut node = node("n", addr, &[]);
            let mut inventory = (*node.inventory).clone();
            inventory.specs = Some(Arc::new(Specs {
                min_api_version: (1, oldest),
                api_version: (1, newest),
                ..Specs::default()
            }));
            node.inventory = Arc::new(inventory);
            node
        };
        let mut snapshot = Snapshot::default();
        assert_eq!(snapshot.api_versions(), None);
        snapshot.put(speaking("127.0.0.1:1", 12, 41));
        snapshot.put(speaking("127.0.0.1:2", 24, 44));
        assert_eq!(snapshot.api_versions(), Some((1, 24)..=(1, 41)));
        snapshot.put(speaking("127.0.0.1:1", 12, 48));
        assert_eq!(snapshot.api_versions(), Some((1, 24)..=(1, 44)));
        let mut down = speaking("127.0.0.1:2", 24, 44);
        let mut inventory = (*down.inventory).clone();
        inventory.status = crate::engine::health::Status::Unhealthy;
        down.inventory = Arc::new(inventory);
        snapshot.put(down);
        assert_eq!(snapshot.api_versions(), Some((1, 12)..=(1, 48)));
        snapshot.remove(&"127.0.0.1:1".parse().unwrap());
        assert_eq!(snapshot.api_versions(), None);
    }

    #[test]
    fn follows_renames_and_removals() {
        let _guard = runtime().enter();
        let mut snapshot = Snapshot::default();
        snapshot.put(node("n1", "127.0.0.1:1", &[("aaa", &["web"], "s1")]));
        let before = snapshot.clone();
        snapshot.put(node("n1", "127.0.0.1:1", &[("aaa", &["www"], "s1")]));
        check(&snapshot, "web", None);
        check(&snapshot, "www", Some("aaa"));
        check(&before, "web", Some("aaa"));
        snapshot.remove(&"127.0.0.1:1".parse().unwrap());
        check(&snapshot, "www", None);
        check(&snapshot, "s1", None);
        check(&snapshot, "aaa", None);
    }
}
