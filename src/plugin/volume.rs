//! A volume driver that is a plugin.
//!
//! Several instances may work at once, so that one volume whose server does not answer holds up no
//! other. An instance is made when all are busy, and kept for the next call if its answer was good.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::{Duration, UNIX_EPOCH},
};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use tokio::sync::Semaphore;
use tracing::warn;
use wasmtime::Store;

use super::{
    bindings::waiting::{
        exports::skep::plugin::volume,
        skep::plugin::types::{Attr, Error},
    },
    fault,
    host::Host,
    instance::{StartError, exports},
    waiting::{Asked, Failure, Instance, Template, error_text},
};
use crate::volume::{Driver, DriverError, Info, Scope};

/// How many instances work at once.
const CONCURRENT: usize = 16;

/// How many are kept that have nothing to do.
const IDLE: usize = 4;

/// The longest a call may take, waiting included; whoever calls may give up sooner.
const WALL: Duration = Duration::from_secs(300);

/// A volume driver in the sandbox.
pub(super) struct VolumePlugin {
    template: Template<volume::Guest>,
    scope: Scope,
    idle: Mutex<Vec<Instance<volume::Guest>>>,
    working: Semaphore,
}

exports!(volume);

impl VolumePlugin {
    /// Starts an instance, asks for its scope, and keeps it for the first call.
    pub(super) async fn try_start(template: Template<volume::Guest>) -> Result<Self, StartError> {
        let mut instance = template.start().await?;
        template.arm(&mut instance);
        let Instance { store, guest } = &mut instance;
        let limit = template.limits.start;
        let answer = template
            .within(limit, guest.call_capabilities(&mut *store))
            .await;
        let answer = answer.map(|answer| answer.map(Ok));
        let capability = template.conclude(store, limit, answer);
        let capability = capability.map_err(|failure| StartError::Broken(failure.text()))?;
        Ok(Self {
            template,
            scope: match capability.scope {
                volume::Scope::Local => Scope::Local,
                volume::Scope::Global => Scope::Global,
            },
            idle: Mutex::new(vec![instance]),
            working: Semaphore::new(CONCURRENT),
        })
    }

    /// Asks an instance that has nothing to do.
    async fn ask<T>(
        &self,
        call: impl for<'a> FnOnce(&'a volume::Guest, &'a mut Store<Host>) -> Asked<'a, T>,
    ) -> Result<T, DriverError> {
        // The semaphore is never closed.
        let _working = self.working.acquire().await;
        let mut instance = match self.take_idle() {
            Some(instance) => instance,
            None => {
                let started = self.template.start().await;
                started.map_err(|error| self.failed(error.text()))?
            }
        };
        self.template.arm(&mut instance);
        let Instance { store, guest } = &mut instance;
        let answer = self.template.within(WALL, call(guest, store)).await;
        let answer = self.template.conclude(store, WALL, answer);
        match answer {
            Ok(answer) => {
                self.keep(instance);
                Ok(answer)
            }
            Err(Failure::Refused(error)) => {
                self.keep(instance);
                Err(refusal(error))
            }
            Err(Failure::Broken(reason)) => {
                warn!(
                    driver = &*self.template.name,
                    reason, "volume driver failed"
                );
                Err(DriverError::Lost(format!(
                    "volume driver `{}` failed: {reason}",
                    self.template.name
                )))
            }
        }
    }

    fn failed(&self, reason: String) -> DriverError {
        let name = &self.template.name;
        DriverError::Failed(format!("volume driver `{name}` failed: {reason}"))
    }

    fn take_idle(&self) -> Option<Instance<volume::Guest>> {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
    }

    fn keep(&self, instance: Instance<volume::Guest>) {
        let quota = &instance.store.data().quota;
        // Linear memory never shrinks: one that has grown much is worth replacing.
        let is_large = quota.used() > quota.limits().memory_bytes / 2;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE && !is_large {
            idle.push(instance);
        }
    }

    fn set_in_use(&self, name: &str, is_used: bool) {
        if let Some(root) = &self.template.grants.root {
            root.set_in_use(name, is_used);
        }
    }

    /// Where a path of the guest is on this host.
    async fn locate(&self, path: String) -> Result<PathBuf, DriverError> {
        let Some(root) = &self.template.grants.root else {
            return Err(self.failed("it has no root".to_owned()));
        };
        let located = root.locate(path).await;
        located.map_err(|error| self.failed(format!("answered with a path: {}", error_text(error))))
    }

    async fn mount_and_locate(&self, name: &str) -> Result<PathBuf, DriverError> {
        let volume = name.to_owned();
        let path = self
            .ask(|guest, store| async move { guest.call_mount(store, &volume).await }.boxed())
            .await?;
        self.locate(path).await
    }
}

#[async_trait]
impl Driver for VolumePlugin {
    fn name(&self) -> &str {
        &self.template.name
    }

    fn scope(&self) -> Scope {
        self.scope
    }

    async fn create(
        &self,
        name: &str,
        options: &BTreeMap<String, String>,
    ) -> Result<(), DriverError> {
        let name = name.to_owned();
        let options: Vec<_> = options
            .iter()
            .map(|(key, value)| Attr {
                key: key.clone(),
                value: value.clone(),
            })
            .collect();
        self.ask(|guest, store| {
            async move { guest.call_create(store, &name, &options).await }.boxed()
        })
        .await
    }

    async fn remove(&self, name: &str) -> Result<(), DriverError> {
        let name = name.to_owned();
        self.ask(|guest, store| async move { guest.call_remove(store, &name).await }.boxed())
            .await
    }

    async fn mount(&self, name: &str) -> Result<PathBuf, DriverError> {
        // Before the driver is asked: nothing it does meanwhile shall take the volume for unused.
        self.set_in_use(name, true);
        let mounted = self.mount_and_locate(name).await;
        if mounted.is_err() {
            self.set_in_use(name, false);
        }
        mounted
    }

    async fn unmount(&self, name: &str) -> Result<(), DriverError> {
        let volume = name.to_owned();
        let unmounted = self
            .ask(|guest, store| async move { guest.call_unmount(store, &volume).await }.boxed())
            .await;
        if unmounted.is_ok() {
            self.set_in_use(name, false);
        }
        unmounted
    }

    async fn path(&self, name: &str) -> Result<Option<PathBuf>, DriverError> {
        let name = name.to_owned();
        let path = self
            .ask(|guest, store| async move { guest.call_path(store, &name).await }.boxed())
            .await?;
        match path {
            // It may not be there before the volume is mounted.
            Some(path) => Ok(self.locate(path).await.ok()),
            None => Ok(None),
        }
    }

    async fn get(&self, name: &str) -> Result<Info, DriverError> {
        let name = name.to_owned();
        let info = self
            .ask(|guest, store| async move { guest.call_get(store, &name).await }.boxed())
            .await?;
        Ok(info.into())
    }

    async fn list(&self) -> Result<Vec<Info>, DriverError> {
        let all = self
            .ask(|guest, store| async move { guest.call_list(store).await }.boxed())
            .await?;
        Ok(all.into_iter().map(Into::into).collect())
    }
}

impl From<volume::Info> for Info {
    fn from(info: volume::Info) -> Self {
        let created_at = info.created_at_ms.map(Duration::from_millis);
        let status = info.status.into_iter();
        Self {
            name: info.name,
            created_at: created_at.and_then(|since| UNIX_EPOCH.checked_add(since)),
            status: status.map(|attr| (attr.key, attr.value)).collect(),
        }
    }
}

fn refusal(error: Error) -> DriverError {
    match error {
        Error::NotFound(text) if text.starts_with("no such volume") => DriverError::NotFound,
        other => DriverError::Failed(fault::clip(error_text(other))),
    }
}
