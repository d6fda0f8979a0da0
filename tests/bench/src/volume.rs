//! Volumes and their drivers. A driver of global scope shows its volumes to every engine that has it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use crate::event::Event;
use crate::state::State;

/// A volume an engine has.
#[derive(Clone, Debug)]
pub(crate) struct Volume {
    pub name: String,
    pub driver: String,
    pub scope: &'static str,
    pub labels: Value,
    pub created_nanos: i64,
}

/// A volume driver that engines can be given; clones are one driver.
#[derive(Clone, Debug)]
pub struct VolumeDriver {
    name: String,
    /// `None` if each engine keeps its own volumes.
    shared: Option<Arc<Mutex<Vec<Volume>>>>,
}

impl VolumeDriver {
    /// A driver whose volumes are on one engine each.
    pub fn local(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            shared: None,
        }
    }

    /// A driver whose volumes are the same on every engine.
    pub fn global(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            shared: Some(Arc::default()),
        }
    }

    fn volumes(&self) -> Option<MutexGuard<'_, Vec<Volume>>> {
        let shared = self.shared.as_ref()?;
        Some(shared.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A driver that an engine has.
pub(crate) struct Installed {
    pub driver: VolumeDriver,
    /// Whether `/info` tells: dockerd finds a new driver when volumes are listed, or when it is used.
    pub is_found: bool,
}

impl State {
    /// The drivers that `/info` tells.
    pub fn found_drivers(&self) -> Vec<&str> {
        let found = self.volume_drivers.iter().filter(|one| one.is_found);
        let names = found.map(|one| one.driver.name.as_str());
        std::iter::once("local").chain(names).collect()
    }

    /// All volumes, after a look for new drivers.
    pub fn list_volumes(&mut self) -> Vec<Volume> {
        for one in &mut self.volume_drivers {
            one.is_found = true;
        }
        self.all_volumes()
    }

    /// All volumes.
    pub fn all_volumes(&self) -> Vec<Volume> {
        let shared = self.volume_drivers.iter().flat_map(|one| {
            let volumes = one.driver.volumes();
            volumes.map(|all| all.clone()).unwrap_or_default()
        });
        self.volumes.iter().cloned().chain(shared).collect()
    }

    /// Makes a volume, or finds the one there is, as dockerd does.
    ///
    /// # Errors
    ///
    /// dockerd's words if the driver is missing, or that of the volume is another one.
    pub fn make_volume(
        &mut self,
        name: &str,
        driver: &str,
        labels: &Value,
        now: i64,
    ) -> Result<Volume, String> {
        let all = self.all_volumes();
        if let Some(volume) = all.into_iter().find(|volume| volume.name == name) {
            if !driver.is_empty() && volume.driver != driver {
                return Err(format!(
                    "create {name}: conflict: volume name must be unique"
                ));
            }
            return Ok(volume);
        }
        let driver = if driver.is_empty() { "local" } else { driver };
        let mut installed = self.volume_drivers.iter();
        let installed = installed.find(|one| one.driver.name == driver);
        let installed = installed.map(|one| one.driver.clone());
        if installed.is_none() && driver != "local" {
            return Err(format!(
                "error looking up volume plugin {driver}: plugin \"{driver}\" not found"
            ));
        }
        let shared = installed.as_ref().and_then(VolumeDriver::volumes);
        let volume = Volume {
            name: name.to_owned(),
            driver: driver.to_owned(),
            scope: if shared.is_some() { "global" } else { "local" },
            labels: labels.clone(),
            created_nanos: now,
        };
        match shared {
            Some(mut shared) => shared.push(volume.clone()),
            None => self.volumes.push(volume.clone()),
        }
        self.emit_volume("create", &volume, now);
        Ok(volume)
    }

    /// Removes a volume and returns whether there was one.
    pub fn remove_volume(&mut self, name: &str, now: i64) -> bool {
        let mut all = self.all_volumes().into_iter();
        let Some(volume) = all.find(|volume| volume.name == name) else {
            return false;
        };
        self.volumes.retain(|one| one.name != name);
        for one in &self.volume_drivers {
            if let Some(mut shared) = one.driver.volumes() {
                shared.retain(|one| one.name != name);
            }
        }
        self.emit_volume("destroy", &volume, now);
        true
    }

    /// The ID of a container that uses a volume.
    pub fn volume_user(&self, name: &str) -> Option<String> {
        let mut containers = self.containers.iter();
        let user = containers.find(|container| {
            let mut volumes = container.spec.volumes.iter();
            volumes.any(|(volume, _)| volume == name)
        })?;
        Some(user.id.to_string())
    }

    fn emit_volume(&mut self, action: &'static str, volume: &Volume, now: i64) {
        let event = Event::new("volume", action, &volume.name).with("driver", &volume.driver);
        self.emit(event, now);
    }
}

/// The named volumes of a host configuration, each with the driver asked for.
pub(crate) fn named(host: &serde_json::Map<String, Value>) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |member: &str| host.get(member).and_then(Value::as_array).cloned();
    let driver = host.get("VolumeDriver").map(text).unwrap_or_default();
    let binds = list("Binds").unwrap_or_default().into_iter();
    let binds = binds.filter_map(|bind| {
        let (source, _) = bind.as_str()?.split_once(':')?;
        (!source.starts_with('/')).then(|| (source.to_owned(), driver.clone()))
    });
    let mounts = list("Mounts").unwrap_or_default().into_iter();
    let mounts = mounts.filter(|mount| mount["Type"] == json!("volume"));
    let mounts = mounts.map(|mount| {
        let driver = &mount["VolumeOptions"]["DriverConfig"]["Name"];
        (text(&mount["Source"]), text(driver))
    });
    binds
        .chain(mounts.filter(|(name, _)| !name.is_empty()))
        .collect()
}
