//! What runs where: the indexes behind the questions filters ask.
//!
//! Kept up to date by differences, so that no question scans the fleet. Containers of placements
//! under way are in here like any other.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use smallvec::SmallVec;

use crate::{
    engine::inventory::{self, Container, Image, container::Mount, resources::split_reference},
    model::{directive::ID_LABEL, pattern::Pattern, port::is_unspecified, shared::shared},
    scheduler::{Inventory, bounds::VolumeHolder, node_set::NodeSet},
};

mod volumes;

use self::volumes::Volumes;

/// How often something occurs on each node.
type Counts = HashMap<u32, u32>;

/// Who is known by a text, by node. Two entries of one node are two containers.
type Slots = SmallVec<[u32; 2]>;

/// Indexes over every container, image, and volume of the cluster.
#[derive(Clone, Debug, Default)]
pub struct Index {
    ids: BTreeMap<Arc<str>, Slots>,
    swarm_ids: BTreeMap<Arc<str>, Slots>,
    names: HashMap<Arc<str>, Slots>,
    /// Of `names` those that are no container's own: links give one more names.
    aliases: HashMap<Arc<str>, Slots>,
    labels: HashMap<Arc<str>, Label>,
    images: HashMap<Arc<str>, Counts>,
    ports: HashMap<(u16, String), Vec<(u32, String)>>,
    host_mode_ports: HashMap<Arc<str>, Counts>,
    containers: Counts,
    volumes: Volumes,
}

/// One label key: its values, and how many containers of each node have it.
#[derive(Clone, Debug, Default)]
struct Label {
    values: HashMap<Arc<str>, Counts>,
    present: Counts,
}

impl Index {
    /// Whether some container, or a placement under way, has this name.
    pub fn is_taken(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// Adds a container of a node.
    pub fn add(&mut self, slot: u32, container: &Container) {
        *self.containers.entry(slot).or_default() += 1;
        if !container.id.is_empty() {
            self.ids
                .entry(Arc::clone(&container.id))
                .or_default()
                .push(slot);
        }
        for mount in claims(container) {
            self.volumes.claim(slot, mount);
        }
        if let Some(id) = &container.swarm_id {
            self.swarm_ids.entry(Arc::clone(id)).or_default().push(slot);
        }
        for name in &container.names {
            self.names.entry(Arc::clone(name)).or_default().push(slot);
        }
        for name in container.names.iter().skip(1) {
            self.aliases.entry(Arc::clone(name)).or_default().push(slot);
        }
        for (key, value) in indexed_labels(container) {
            let label = self.labels.entry(Arc::clone(key)).or_default();
            *label.present.entry(slot).or_default() += 1;
            increment(&mut label.values, value, slot);
        }
        for binding in &container.bindings {
            // A range that is only asked for takes no port in particular yet.
            if binding.first == binding.last {
                self.ports
                    .entry((binding.first, binding.protocol.clone()))
                    .or_default()
                    .push((slot, binding.host_ip.clone()));
            }
        }
        if *container.network_mode == *"host" {
            for port in &container.exposed_ports {
                increment(&mut self.host_mode_ports, port, slot);
            }
        }
    }

    /// Removes a container of a node, given as it was added.
    pub fn remove(&mut self, slot: u32, container: &Container) {
        decrement_count(&mut self.containers, slot);
        if !container.id.is_empty() {
            take_sorted(&mut self.ids, &container.id, slot);
        }
        for mount in claims(container) {
            self.volumes.disclaim(slot, mount);
        }
        if let Some(id) = &container.swarm_id {
            take_sorted(&mut self.swarm_ids, id, slot);
        }
        for name in &container.names {
            take(&mut self.names, name, slot);
        }
        for name in container.names.iter().skip(1) {
            take(&mut self.aliases, name, slot);
        }
        for (key, value) in indexed_labels(container) {
            if let Some(label) = self.labels.get_mut(key) {
                decrement_count(&mut label.present, slot);
                decrement(&mut label.values, value, slot);
                if label.present.is_empty() {
                    self.labels.remove(key);
                }
            }
        }
        for binding in &container.bindings {
            let key = (binding.first, binding.protocol.clone());
            if let Some(taken) = self.ports.get_mut(&key) {
                let entry = (slot, binding.host_ip.clone());
                if let Some(position) = taken.iter().position(|other| *other == entry) {
                    taken.swap_remove(position);
                }
                if taken.is_empty() {
                    self.ports.remove(&key);
                }
            }
        }
        if *container.network_mode == *"host" {
            for port in &container.exposed_ports {
                decrement(&mut self.host_mode_ports, port, slot);
            }
        }
    }

    /// Takes a node's images, volumes, and volume drivers as they are now instead of those before.
    pub fn update(
        &mut self,
        slot: u32,
        before: Option<&inventory::Inventory>,
        now: Option<&inventory::Inventory>,
    ) {
        let images = |inventory: Option<&inventory::Inventory>| {
            let images = inventory.map(|inventory| &inventory.images);
            images.cloned().unwrap_or_default()
        };
        let (old, new) = (images(before), images(now));
        if !Arc::ptr_eq(&old, &new) {
            for image in old.iter() {
                self.remove_image(slot, image);
            }
            for image in new.iter() {
                self.add_image(slot, image);
            }
        }
        self.volumes.update(slot, before, now);
    }

    /// Inserts the nodes of containers whose own name it is.
    fn insert_owners(&self, found: &mut NodeSet, name: &Arc<str>, slots: &Slots) {
        let Some(aliases) = self.aliases.get(name) else {
            return insert_all(found, Some(slots));
        };
        let count = |slots: &Slots, slot| slots.iter().filter(|other| **other == slot).count();
        for slot in slots {
            if count(slots, *slot) > count(aliases, *slot) {
                found.insert(*slot);
            }
        }
    }

    /// Adds an image of a node.
    fn add_image(&mut self, slot: u32, image: &Image) {
        for text in image_texts(image) {
            increment(&mut self.images, &shared(text), slot);
        }
    }

    /// Removes an image of a node, given as it was added.
    fn remove_image(&mut self, slot: u32, image: &Image) {
        for text in image_texts(image) {
            decrement(&mut self.images, text, slot);
        }
    }
}

impl Inventory for Index {
    fn nodes_with_reference(&self, reference: &str) -> NodeSet {
        let reference = reference.strip_prefix('/').unwrap_or(reference);
        let mut found = NodeSet::default();
        if reference.is_empty() {
            return found;
        }
        insert_all(&mut found, self.names.get(reference));
        for ids in [&self.ids, &self.swarm_ids] {
            let mut hits: HashMap<u32, u32> = HashMap::new();
            for (id, slots) in ids
                .range::<str, _>((
                    std::ops::Bound::Included(reference),
                    std::ops::Bound::Unbounded,
                ))
                .take_while(|(id, _)| id.starts_with(reference))
            {
                let certain = id.len() == reference.len() || reference.len() == 12;
                for slot in slots {
                    *hits.entry(*slot).or_default() += 1;
                    if certain {
                        found.insert(*slot);
                    }
                }
            }
            // A shorter prefix must be the node's only one.
            for (slot, count) in hits {
                if count == 1 {
                    found.insert(slot);
                }
            }
        }
        found
    }

    fn nodes_with_container(&self, pattern: &Pattern) -> NodeSet {
        let mut found = NodeSet::default();
        if let Pattern::Exact(text) = pattern {
            insert_all(&mut found, self.ids.get(text.as_str()));
            if let Some((name, slots)) = self.names.get_key_value(text.as_str()) {
                self.insert_owners(&mut found, name, slots);
            }
            return found;
        }
        for (id, slots) in &self.ids {
            if pattern.matches(id) {
                insert_all(&mut found, Some(slots));
            }
        }
        for (name, slots) in &self.names {
            if pattern.matches(name) {
                self.insert_owners(&mut found, name, slots);
            }
        }
        found
    }

    fn nodes_with_label(&self, key: &str, pattern: &Pattern) -> NodeSet {
        let mut found = NodeSet::default();
        if key == ID_LABEL {
            for (id, slots) in &self.swarm_ids {
                if pattern.matches(id) {
                    insert_all(&mut found, Some(slots));
                }
            }
            return found;
        }
        let label = self.labels.get(key);
        if let Some(label) = label {
            match pattern {
                Pattern::Exact(text) => insert_counts(&mut found, label.values.get(text.as_str())),
                _ => {
                    for (value, counts) in &label.values {
                        if pattern.matches(value) {
                            insert_counts(&mut found, Some(counts));
                        }
                    }
                }
            }
        }
        if pattern.matches("") {
            for (slot, containers) in &self.containers {
                let present = label.and_then(|label| label.present.get(slot));
                if present.copied().unwrap_or(0) < *containers {
                    found.insert(*slot);
                }
            }
        }
        found
    }

    fn nodes_with_image(&self, pattern: &Pattern) -> NodeSet {
        let mut found = NodeSet::default();
        if let Pattern::Exact(text) = pattern {
            insert_counts(&mut found, self.images.get(text.as_str()));
            return found;
        }
        for (text, counts) in &self.images {
            if pattern.matches(text) {
                insert_counts(&mut found, Some(counts));
            }
        }
        found
    }

    fn nodes_with_host_ports(
        &self,
        host_ip: &str,
        first: u16,
        last: u16,
        protocol: &str,
    ) -> NodeSet {
        let taken = |port: u16| -> NodeSet {
            self.ports
                .get(&(port, protocol.to_owned()))
                .into_iter()
                .flatten()
                .filter(|(_, ip)| ip == host_ip || is_unspecified(ip) || is_unspecified(host_ip))
                .map(|(slot, _)| *slot)
                .collect()
        };
        let mut found = taken(first);
        for port in first.saturating_add(1)..=last {
            if found.is_empty() {
                break;
            }
            found.intersect_with(&taken(port));
        }
        found
    }

    fn nodes_with_host_mode_port(&self, port: &str) -> NodeSet {
        let mut found = NodeSet::default();
        insert_counts(&mut found, self.host_mode_ports.get(port));
        found
    }

    fn nodes_with_volume_driver(&self, driver: &str) -> NodeSet {
        self.volumes.with_driver(driver)
    }

    fn volumes(&self, name: &str) -> Vec<VolumeHolder> {
        self.volumes.named(name)
    }
}

/// The volumes that must be where a container is: those of a placement under way, which no inventory
/// has yet, and those of the engine's own driver, which a node that is down may not have told.
fn claims(container: &Container) -> impl Iterator<Item = &Mount> {
    container.mounts.iter().filter(|mount| {
        let is_volume = *mount.kind == *"volume" && !mount.name.is_empty();
        is_volume && (container.id.is_empty() || *mount.driver == *"local")
    })
}

/// Every label but the cluster-wide ID, which has an index of its own and would make this one as
/// large as the fleet.
fn indexed_labels(container: &Container) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
    container
        .labels
        .iter()
        .filter(|(key, _)| ***key != *ID_LABEL)
}

/// What an affinity may call an image: its ID, each tag, each tag's repository, each digest.
fn image_texts(image: &Image) -> impl Iterator<Item = &str> {
    let repositories = image.tags.iter().map(|tag| split_reference(tag).0);
    std::iter::once(image.id.as_str())
        .chain(image.tags.iter().map(String::as_str))
        .chain(repositories)
        .chain(image.digests.iter().map(String::as_str))
}

fn insert_all(set: &mut NodeSet, slots: Option<&Slots>) {
    for slot in slots.into_iter().flatten() {
        set.insert(*slot);
    }
}

fn insert_counts(set: &mut NodeSet, counts: Option<&Counts>) {
    for slot in counts.into_iter().flat_map(HashMap::keys) {
        set.insert(*slot);
    }
}

fn increment(map: &mut HashMap<Arc<str>, Counts>, key: &Arc<str>, slot: u32) {
    match map.get_mut(key) {
        Some(counts) => *counts.entry(slot).or_default() += 1,
        None => {
            map.insert(Arc::clone(key), HashMap::from([(slot, 1)]));
        }
    }
}

fn decrement(map: &mut HashMap<Arc<str>, Counts>, key: &str, slot: u32) {
    if let Some(counts) = map.get_mut(key) {
        decrement_count(counts, slot);
        if counts.is_empty() {
            map.remove(key);
        }
    }
}

fn decrement_count(counts: &mut Counts, slot: u32) {
    if let Some(count) = counts.get_mut(&slot) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&slot);
        }
    }
}

fn take(map: &mut HashMap<Arc<str>, Slots>, key: &str, slot: u32) {
    if let Some(slots) = map.get_mut(key) {
        take_one(slots, slot);
        if slots.is_empty() {
            map.remove(key);
        }
    }
}

fn take_sorted(map: &mut BTreeMap<Arc<str>, Slots>, key: &str, slot: u32) {
    if let Some(slots) = map.get_mut(key) {
        take_one(slots, slot);
        if slots.is_empty() {
            map.remove(key);
        }
    }
}

fn take_one(slots: &mut Slots, slot: u32) {
    if let Some(position) = slots.iter().position(|other| *other == slot) {
        slots.swap_remove(position);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cluster::snapshot::tests::container, engine::raw::RawObject, model::port::PortBinding,
    };

    fn check(found: &NodeSet, expected: &[u32]) {
        assert_eq!(found.iter().collect::<Vec<_>>(), expected);
    }

    fn pattern(value: &str) -> Pattern {
        Pattern::of_value(value)
    }

    fn publishing(ip: &str, port: u16, protocol: &str) -> Container {
        let mut publishing = container("p", &[], "");
        publishing.bindings.push(PortBinding {
            host_ip: ip.to_owned(),
            first: port,
            last: port,
            protocol: protocol.to_owned(),
        });
        publishing
    }

    #[test]
    fn what_is_removed_leaves_nothing_behind() {
        let mut full = container("abc", &["web", "db/web"], "swarm");
        full.labels.insert("a", "b");
        full.network_mode = "host".into();
        full.exposed_ports.push("80/tcp".into());
        full.bindings = publishing("", 80, "tcp").bindings;
        let image = Image::parse(
            RawObject::parse(br#"{"Id":"sha256:1","RepoTags":["a:1","a:2"]}"#).unwrap(),
        );
        let mut index = Index::default();
        index.add(3, &full);
        index.add_image(3, &image);
        index.remove_image(3, &image);
        index.remove(3, &full);
        assert_eq!(format!("{index:?}"), format!("{:?}", Index::default()));
    }

    #[test]
    fn references_resolve_within_each_node() {
        let mut index = Index::default();
        index.add(0, &container("aaa1", &["web"], "sss1"));
        index.add(1, &container("aaa2", &["db"], "sss2"));
        index.add(1, &container("aaa3", &["x"], ""));
        check(&index.nodes_with_reference("/web"), &[0]);
        check(&index.nodes_with_reference("aaa"), &[0]);
        check(&index.nodes_with_reference("sss"), &[0, 1]);
        check(&index.nodes_with_reference("aaa3"), &[1]);
        check(&index.nodes_with_reference("nope"), &[]);
    }

    #[test]
    fn containers_are_known_by_full_id_and_first_name_only() {
        let mut index = Index::default();
        index.add(0, &container("abc", &["web", "alias"], ""));
        check(&index.nodes_with_container(&pattern("web")), &[0]);
        check(&index.nodes_with_container(&pattern("abc")), &[0]);
        check(&index.nodes_with_container(&pattern("ab")), &[]);
        check(&index.nodes_with_container(&pattern("ab*")), &[0]);
        check(&index.nodes_with_container(&pattern("alias")), &[]);
        check(&index.nodes_with_container(&pattern("al*")), &[]);
    }

    #[test]
    fn a_name_may_be_one_containers_own_and_another_ones_alias() {
        let mut index = Index::default();
        let (own, linked) = (
            container("a", &["db"], ""),
            container("b", &["web", "db"], ""),
        );
        index.add(0, &own);
        index.add(0, &linked);
        index.add(1, &linked);
        check(&index.nodes_with_container(&pattern("db")), &[0]);
        check(&index.nodes_with_container(&pattern("d*")), &[0]);
        index.remove(0, &own);
        check(&index.nodes_with_container(&pattern("db")), &[]);
        check(&index.nodes_with_reference("db"), &[0, 1]);
    }

    #[test]
    fn a_container_without_the_label_has_the_empty_value() {
        let mut index = Index::default();
        let mut labelled = container("a", &[], "");
        labelled.labels.insert("tier", "front");
        index.add(0, &labelled);
        index.add(1, &labelled);
        index.add(1, &container("b", &[], ""));
        check(&index.nodes_with_label("tier", &pattern("front")), &[0, 1]);
        check(&index.nodes_with_label("tier", &pattern("*")), &[0, 1]);
        check(&index.nodes_with_label("tier", &pattern("/^$/")), &[1]);
        check(&index.nodes_with_label("none", &pattern("*")), &[0, 1]);
    }

    #[test]
    fn ports_conflict_by_address_and_protocol() {
        let mut index = Index::default();
        index.add(0, &publishing("127.0.0.1", 80, "tcp"));
        index.add(1, &publishing("", 80, "tcp"));
        index.add(2, &publishing("", 53, "udp"));
        let taken = |ip: &str, first, last, protocol: &str| {
            index
                .nodes_with_host_ports(ip, first, last, protocol)
                .iter()
                .collect::<Vec<_>>()
        };
        assert_eq!(taken("", 80, 80, "tcp"), [0, 1]);
        assert_eq!(taken("192.168.1.1", 80, 80, "tcp"), [1]);
        assert_eq!(taken("127.0.0.1", 80, 80, "tcp"), [0, 1]);
        assert_eq!(taken("", 53, 53, "tcp"), [] as [u32; 0]);
        assert_eq!(taken("", 80, 81, "tcp"), [] as [u32; 0]);
    }

    #[test]
    fn images_are_known_by_id_tag_repository_and_digest() {
        let mut index = Index::default();
        index.add_image(
            0,
            &Image::parse(
                RawObject::parse(
                    br#"{"Id":"sha256:1","RepoTags":["image-0:tag1"],"RepoDigests":["image-0@sha256:d"]}"#,
                )
                .unwrap(),
            ),
        );
        for (text, expected) in [
            ("sha256:1", &[0][..]),
            ("image-0:tag1", &[0]),
            ("image-0", &[0]),
            ("image-0@sha256:d", &[0]),
            ("image-*", &[0]),
            ("image", &[]),
        ] {
            check(&index.nodes_with_image(&pattern(text)), expected);
        }
    }
}
