//! Which nodes have which volumes and which volume drivers.

use std::{collections::HashMap, sync::Arc};

use super::{Slots, insert_all, take};
use crate::{
    engine::inventory::{Inventory, Volume, container::Mount, resources::driver_name},
    model::shared::shared,
    scheduler::{bounds::VolumeHolder, node_set::NodeSet},
};

/// Indexes over every volume and volume driver of the cluster.
#[derive(Clone, Debug, Default)]
pub(super) struct Volumes {
    by_name: HashMap<String, Vec<Entry>>,
    drivers: HashMap<Arc<str>, Slots>,
    scopes: HashMap<String, Scopes>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    slot: u32,
    driver: String,
    /// `None` for one that a placement under way will make: only its driver knows.
    is_shared: Option<bool>,
}

/// How many volumes of a driver are of one node, and how many are shared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Scopes {
    local: usize,
    shared: usize,
}

impl Volumes {
    /// Takes a node's volumes and drivers as they are now instead of those before.
    pub(super) fn update(
        &mut self,
        slot: u32,
        before: Option<&Inventory>,
        now: Option<&Inventory>,
    ) {
        let volumes = |inventory: Option<&Inventory>| {
            let volumes = inventory.map(|inventory| &inventory.volumes);
            volumes.cloned().unwrap_or_default()
        };
        let (old, new) = (volumes(before), volumes(now));
        if !Arc::ptr_eq(&old, &new) {
            for volume in old.iter() {
                self.remove(slot, volume);
            }
            for volume in new.iter() {
                self.add(slot, volume);
            }
        }
        let (old, new) = (drivers(before), drivers(now));
        if old != new {
            for driver in old {
                take(&mut self.drivers, driver_name(driver), slot);
            }
            for driver in new {
                let slots = self.drivers.entry(shared(driver_name(driver)));
                slots.or_default().push(slot);
            }
        }
    }

    fn add(&mut self, slot: u32, volume: &Volume) {
        let entry = Entry::of(slot, volume);
        self.scopes
            .entry(entry.driver.clone())
            .or_default()
            .count(volume, 1);
        self.insert(&volume.name, entry);
    }

    fn remove(&mut self, slot: u32, volume: &Volume) {
        if let Some(scopes) = self.scopes.get_mut(driver_name(&volume.driver)) {
            scopes.count(volume, -1);
            if *scopes == Scopes::default() {
                self.scopes.remove(driver_name(&volume.driver));
            }
        }
        self.take(&volume.name, &Entry::of(slot, volume));
    }

    /// Adds a volume that a placement under way will make, or has found.
    pub(super) fn claim(&mut self, slot: u32, mount: &Mount) {
        self.insert(&mount.name, Entry::claimed(slot, mount));
    }

    /// Removes what [`Volumes::claim`] added.
    pub(super) fn disclaim(&mut self, slot: u32, mount: &Mount) {
        self.take(&mount.name, &Entry::claimed(slot, mount));
    }

    pub(super) fn named(&self, name: &str) -> Vec<VolumeHolder> {
        let entries = self.by_name.get(name).into_iter().flatten();
        let holders = entries.map(|entry| VolumeHolder {
            slot: entry.slot,
            driver: entry.driver.clone(),
            is_shared: entry.is_shared.unwrap_or_else(|| {
                let scopes = self.scopes.get(&entry.driver);
                scopes.is_some_and(|scopes| scopes.shared > scopes.local)
            }),
        });
        holders.collect()
    }

    pub(super) fn with_driver(&self, driver: &str) -> NodeSet {
        let mut found = NodeSet::default();
        insert_all(&mut found, self.drivers.get(driver_name(driver)));
        found
    }

    fn insert(&mut self, name: &str, entry: Entry) {
        match self.by_name.get_mut(name) {
            Some(entries) => entries.push(entry),
            None => {
                self.by_name.insert(name.to_owned(), vec![entry]);
            }
        }
    }

    fn take(&mut self, name: &str, entry: &Entry) {
        if let Some(entries) = self.by_name.get_mut(name) {
            if let Some(position) = entries.iter().position(|other| other == entry) {
                entries.swap_remove(position);
            }
            if entries.is_empty() {
                self.by_name.remove(name);
            }
        }
    }
}

impl Entry {
    fn of(slot: u32, volume: &Volume) -> Self {
        Self {
            slot,
            driver: driver_name(&volume.driver).to_owned(),
            is_shared: Some(volume.is_shared()),
        }
    }

    fn claimed(slot: u32, mount: &Mount) -> Self {
        Self {
            slot,
            driver: driver_name(&mount.driver).to_owned(),
            is_shared: None,
        }
    }
}

impl Scopes {
    fn count(&mut self, volume: &Volume, by: isize) {
        let counter = match volume.is_shared() {
            true => &mut self.shared,
            false => &mut self.local,
        };
        *counter = counter.saturating_add_signed(by);
    }
}

fn drivers(inventory: Option<&Inventory>) -> &[String] {
    let specs = inventory.and_then(|inventory| inventory.specs.as_ref());
    specs.map_or(&[], |specs| &specs.volume_drivers)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{cluster::snapshot::tests::node, engine::raw::RawObject};

    fn inventory(addr: &str, drivers: &[&str], volumes: &[(&str, &str, &str)]) -> Inventory {
        let mut inventory = (*node(addr, addr, &[]).inventory).clone();
        let specs = Arc::make_mut(inventory.specs.as_mut().unwrap());
        specs.volume_drivers = drivers.iter().map(|name| (*name).to_owned()).collect();
        let volumes = volumes.iter().map(|(name, driver, scope)| {
            let entry = format!(r#"{{"Name":"{name}","Driver":"{driver}","Scope":"{scope}"}}"#);
            Arc::new(Volume::parse(RawObject::parse(entry.as_bytes()).unwrap()))
        });
        inventory.volumes = Arc::new(volumes.collect());
        inventory
    }

    fn mount(name: &str, driver: &str) -> Mount {
        Mount {
            name: name.into(),
            driver: driver.into(),
            ..Mount::default()
        }
    }

    #[tokio::test]
    async fn what_is_removed_leaves_nothing_behind() {
        let mut index = Volumes::default();
        let first = inventory("a:1", &["local", "nfs"], &[("data", "local", "local")]);
        let second = inventory("a:1", &["nfs"], &[("files", "nfs", "global")]);
        index.update(0, None, Some(&first));
        index.claim(0, &mount("data", "local"));
        assert_eq!(index.named("data").len(), 2);
        index.update(0, Some(&first), Some(&second));
        assert!(index.with_driver("local").is_empty());
        assert!(index.with_driver("nfs").contains(0));
        assert!(index.named("files")[0].is_shared);
        index.disclaim(0, &mount("data", "local"));
        index.update(0, Some(&second), None);
        assert_eq!(format!("{index:?}"), format!("{:?}", Volumes::default()));
    }

    #[tokio::test]
    async fn a_volume_to_come_is_shared_if_others_of_its_driver_are() {
        let mut index = Volumes::default();
        let drivers = ["local", "nfs", "snapshot", "vieux/sshfs:latest"];
        let node = inventory("a:1", &drivers, &[("files", "nfs", "global")]);
        index.update(0, None, Some(&node));
        for (driver, expected) in [("local", false), ("snapshot", false), ("nfs", true)] {
            index.claim(1, &mount("new", driver));
            assert_eq!(index.named("new")[0].is_shared, expected, "{driver}");
            index.disclaim(1, &mount("new", driver));
        }
        assert!(index.with_driver("vieux/sshfs").contains(0));
    }
}
