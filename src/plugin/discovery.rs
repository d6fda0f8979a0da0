//! A discovery backend that is a plugin.
//!
//! Each step takes the instance out, and puts it back only with a good answer. A step that fails
//! or is dropped thus takes its instance along, and the next one starts anew, without a cursor,
//! from the whole membership. Waiting between tries is the caller's business.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt as _;
use tokio::time::Instant;
use wasmtime::Store;

use super::{
    bindings::waiting::exports::skep::plugin::discovery,
    host::Host,
    instance::{StartError, exports},
    waiting::{Asked, Failure, Instance, Template},
};
use crate::discovery::{Backend, BackendError, Batch, Change};

/// Longest address taken from a guest.
const MAX_ADDRESS_BYTES: usize = 1024;

/// A step that answers sooner than this is followed by a pause: a guest that never waits must not
/// keep a worker busy for ever.
const SHORTEST_STEP: Duration = Duration::from_millis(100);

/// A running guest, and where it left off.
struct Running {
    instance: Instance<discovery::Guest>,
    cursor: Option<Vec<u8>>,
}

/// A discovery backend in the sandbox.
pub(super) struct DiscoveryPlugin {
    template: Template<discovery::Guest>,
    running: Option<Running>,
}

exports!(discovery);

impl DiscoveryPlugin {
    pub(super) fn new(template: Template<discovery::Guest>) -> Self {
        Self {
            template,
            running: None,
        }
    }

    /// Starts an instance and keeps it for the first step.
    pub(super) async fn try_start(&mut self) -> Result<(), StartError> {
        self.running = Some(Running {
            instance: self.template.start().await?,
            cursor: None,
        });
        Ok(())
    }

    /// Takes the instance out for one call, or makes one.
    async fn take(&mut self) -> Result<Running, String> {
        let mut running = match self.running.take() {
            Some(running) => running,
            None => Running {
                instance: self.template.start().await.map_err(StartError::text)?,
                cursor: None,
            },
        };
        self.template.arm(&mut running.instance);
        Ok(running)
    }

    /// Asks an instance something that it need not wait long for.
    async fn ask<T>(
        &mut self,
        call: impl for<'a> FnOnce(&'a discovery::Guest, &'a mut Store<Host>) -> Asked<'a, T>,
    ) -> Result<T, BackendError> {
        let wall = self.template.limits.grace;
        let answer = match self.take().await {
            Ok(mut running) => {
                let Instance { store, guest } = &mut running.instance;
                let answer = self.template.within(wall, call(guest, store)).await;
                let answer = self.template.conclude(store, wall, answer);
                if answer.is_ok() {
                    self.running = Some(running);
                }
                answer.map_err(Failure::text)
            }
            Err(reason) => Err(reason),
        };
        answer.map_err(|reason| self.failed(reason))
    }

    fn failed(&self, reason: String) -> BackendError {
        BackendError {
            backend: self.template.name.to_string(),
            reason,
        }
    }

    async fn step(&mut self, max_wait: Duration) -> Result<Batch, String> {
        let mut running = self.take().await?;
        let Running { instance, cursor } = &mut running;
        let Instance { store, guest } = instance;
        let first = cursor.is_none();
        let started = Instant::now();
        let max_wait_ms = u32::try_from(max_wait.as_millis()).unwrap_or(u32::MAX);
        let next = guest.call_next(&mut *store, cursor.as_deref(), max_wait_ms);
        let wall = max_wait.saturating_add(self.template.limits.grace);
        let answer = self.template.within(wall, next).await;
        // The instance goes with an error: the next step must tell the whole membership.
        let batch = self.template.conclude(store, wall, answer);
        let batch = batch.map_err(Failure::text)?;
        if first && !batch.full {
            return Err("answered the first step with a difference".to_owned());
        }
        let changes = batch
            .changes
            .into_iter()
            .map(change)
            .collect::<Result<_, _>>()?;
        let wanted = batch
            .retry_after_ms
            .map(|ms| Duration::from_millis(ms.into()));
        let owed = SHORTEST_STEP.saturating_sub(started.elapsed());
        let retry_after = wanted.max((!owed.is_zero()).then_some(owed));
        *cursor = Some(batch.cursor);
        self.running = Some(running);
        Ok(Batch {
            full: batch.full,
            changes,
            retry_after,
        })
    }
}

#[async_trait]
impl Backend for DiscoveryPlugin {
    fn name(&self) -> &str {
        &self.template.name
    }

    async fn next(&mut self, max_wait: Duration) -> Result<Batch, BackendError> {
        let step = self.step(max_wait).await;
        step.map_err(|reason| self.failed(reason))
    }

    async fn register(&mut self, address: &str, ttl: Duration) -> Result<Vec<u8>, BackendError> {
        let ttl_ms = u32::try_from(ttl.as_millis()).unwrap_or(u32::MAX);
        let me = discovery::Entry {
            address: address.to_owned(),
            meta: Vec::new(),
        };
        self.ask(|guest, store| {
            async move { guest.call_register(store, &me, ttl_ms).await }.boxed()
        })
        .await
    }

    async fn heartbeat(&mut self, lease: &[u8]) -> Result<(), BackendError> {
        let lease = lease.to_vec();
        self.ask(|guest, store| async move { guest.call_heartbeat(store, &lease).await }.boxed())
            .await
    }

    async fn deregister(&mut self, lease: &[u8]) -> Result<(), BackendError> {
        let lease = lease.to_vec();
        self.ask(|guest, store| async move { guest.call_deregister(store, &lease).await }.boxed())
            .await
    }
}

fn change(change: discovery::Change) -> Result<Change, String> {
    let (address, make): (_, fn(String) -> Change) = match change {
        discovery::Change::Put(entry) => (entry.address, Change::Put),
        discovery::Change::Delete(address) => (address, Change::Delete),
    };
    if address.len() > MAX_ADDRESS_BYTES {
        return Err(format!(
            "answered with an address of {} bytes",
            address.len()
        ));
    }
    Ok(make(address))
}
