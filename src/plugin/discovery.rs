//! A discovery backend that is a plugin.
//!
//! Each step takes the instance out, and puts it back only with a good answer. A step that fails
//! or is dropped thus takes its instance along, and the next one starts anew, without a cursor,
//! from the whole membership. Waiting between tries is the caller's business.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::time::{Instant, error::Elapsed, timeout};
use wasmtime::{Store, UpdateDeadline, component::InstancePre};

use super::{
    bindings::discovery::{
        exports::skep::plugin::{discovery, plugin},
        skep::plugin::{log, types},
    },
    bindings::scheduling::skep::plugin::log::Level,
    fault,
    grants::Grants,
    host::{self, Host},
    instance::StartError,
    limits::Limits,
    quota::{Pool, Quota},
    runtime::Ticking,
};
use crate::discovery::{Backend, BackendError, Batch, Change};

/// Longest address taken from a guest.
const MAX_ADDRESS_BYTES: usize = 1024;

/// A step that answers sooner than this is followed by a pause: a guest that never waits must not
/// keep a worker busy for ever.
const SHORTEST_STEP: Duration = Duration::from_millis(100);

/// Everything needed to make an instance.
pub(super) struct Template {
    name: Arc<str>,
    limits: Limits,
    settings: String,
    runtime: Ticking,
    pool: Pool,
    grants: Grants,
    pre: InstancePre<Host>,
    plugin: plugin::GuestIndices,
    discovery: discovery::GuestIndices,
}

/// A running guest.
struct Instance {
    store: Store<Host>,
    guest: discovery::Guest,
    /// Where the guest left off.
    cursor: Option<Vec<u8>>,
}

/// A guest's answer, as wasmtime gives it.
type Asked<'a, T> = BoxFuture<'a, wasmtime::Result<Result<T, types::Error>>>;

/// A discovery backend in the sandbox.
pub(super) struct DiscoveryPlugin {
    template: Template,
    instance: Option<Instance>,
}

impl Template {
    pub(super) fn try_new(
        name: Arc<str>,
        limits: Limits,
        settings: &serde_json::Value,
        runtime: Ticking,
        pool: Pool,
        grants: Grants,
        pre: InstancePre<Host>,
    ) -> wasmtime::Result<Self> {
        Ok(Self {
            name,
            limits,
            settings: settings.to_string(),
            runtime,
            pool,
            grants,
            plugin: plugin::GuestIndices::new(&pre)?,
            discovery: discovery::GuestIndices::new(&pre)?,
            pre,
        })
    }

    /// Makes an instance and gives it its settings.
    async fn start(&self) -> Result<Instance, StartError> {
        let mut store = self.store(self.limits.start);
        let start = async {
            let instance = self.pre.instantiate_async(&mut store).await?;
            let plugin = self.plugin.load(&mut store, &instance)?;
            let guest = self.discovery.load(&mut store, &instance)?;
            let configured = plugin.call_configure(&mut store, &self.settings).await?;
            Ok((guest, configured))
        };
        let limit = self.limits.start;
        let started: wasmtime::Result<_> = match timeout(limit, start).await {
            Ok(started) => started,
            Err(_) => return Err(StartError::Broken(format!("took longer than {limit:?}"))),
        };
        let (guest, configured) = started.map_err(|error| {
            let said = store.data_mut().take_last_error();
            StartError::Broken(fault::describe(&error, limit, said))
        })?;
        configured.map_err(|error| StartError::Settings(fault::clip(error_text(error))))?;
        store.data_mut().is_configured = true;
        Ok(Instance {
            store,
            guest,
            cursor: None,
        })
    }

    /// What a call answered, or why there is no answer.
    fn conclude<T>(
        &self,
        store: &mut Store<Host>,
        wall: Duration,
        answer: Result<wasmtime::Result<Result<T, types::Error>>, Elapsed>,
    ) -> Result<T, String> {
        let answer = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                let said = store.data_mut().take_last_error();
                return Err(fault::describe(&error, self.limits.call, said));
            }
            Err(_) => return Err(format!("took longer than {wall:?}")),
        };
        store.data_mut().end_call();
        answer.map_err(|error| fault::clip(error_text(error)))
    }

    fn store(&self, first_limit: Duration) -> Store<Host> {
        let quota = Quota::new(self.limits, self.pool.clone());
        let host = Host::new(self.name.clone(), quota, self.grants.clone());
        let mut store = Store::new(&self.runtime.wasm, host);
        store.limiter(|host| &mut host.quota);
        store.set_hostcall_fuel(self.limits.output_bytes);
        store.data_mut().ticks = self.runtime.ticks(first_limit);
        store.set_epoch_deadline(1);
        // At each tick the guest lets others run. Ticks pass unseen while it waits in a host call,
        // so this counts the time it computes.
        store.epoch_deadline_callback(|mut context| {
            let left = &mut context.data_mut().ticks;
            *left = left.saturating_sub(1);
            Ok(match *left {
                0 => UpdateDeadline::Interrupt,
                _ => UpdateDeadline::Yield(1),
            })
        });
        store
    }
}

impl DiscoveryPlugin {
    pub(super) fn new(template: Template) -> Self {
        Self {
            template,
            instance: None,
        }
    }

    /// Starts an instance and keeps it for the first step.
    pub(super) async fn try_start(&mut self) -> Result<(), StartError> {
        self.instance = Some(self.template.start().await?);
        Ok(())
    }

    /// Takes the instance out for one call, or makes one.
    async fn take(&mut self) -> Result<Instance, String> {
        let template = &self.template;
        let mut instance = match self.instance.take() {
            Some(instance) => instance,
            None => template.start().await.map_err(|error| match error {
                StartError::Broken(reason) => reason,
                StartError::Settings(reason) => format!("refuses its settings: {reason}"),
            })?,
        };
        let store = &mut instance.store;
        store.data_mut().ticks = template.runtime.ticks(template.limits.call);
        store.set_epoch_deadline(1);
        Ok(instance)
    }

    /// Asks an instance something that it need not wait long for.
    async fn ask<T>(
        &mut self,
        call: impl for<'a> FnOnce(&'a discovery::Guest, &'a mut Store<Host>) -> Asked<'a, T>,
    ) -> Result<T, BackendError> {
        let wall = self.template.limits.grace;
        let answer = match self.take().await {
            Ok(mut instance) => {
                let answer = timeout(wall, call(&instance.guest, &mut instance.store)).await;
                let answer = self.template.conclude(&mut instance.store, wall, answer);
                if answer.is_ok() {
                    self.instance = Some(instance);
                }
                answer
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
        let mut instance = self.take().await?;
        let Instance {
            store,
            guest,
            cursor,
        } = &mut instance;
        let first = cursor.is_none();
        let started = Instant::now();
        let max_wait_ms = u32::try_from(max_wait.as_millis()).unwrap_or(u32::MAX);
        let next = guest.call_next(&mut *store, cursor.as_deref(), max_wait_ms);
        let wall = max_wait.saturating_add(self.template.limits.grace);
        let answer = timeout(wall, next).await;
        // The instance goes with an error: the next step must tell the whole membership.
        let batch = self.template.conclude(store, wall, answer)?;
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
        self.instance = Some(instance);
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

impl types::Host for Host {}

impl log::Host for Host {
    fn enabled(&mut self, level: log::Level) -> bool {
        host::enabled(level.into())
    }

    fn log(&mut self, level: log::Level, message: String, fields: Vec<types::Attr>) {
        let fields = fields.iter().map(|f| (f.key.as_str(), f.value.as_str()));
        Self::log(self, level.into(), message, fields);
    }
}

impl From<log::Level> for Level {
    fn from(level: log::Level) -> Self {
        match level {
            log::Level::Error => Self::Error,
            log::Level::Warn => Self::Warn,
            log::Level::Info => Self::Info,
            log::Level::Debug => Self::Debug,
            log::Level::Trace => Self::Trace,
        }
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

fn error_text(error: types::Error) -> String {
    match error {
        types::Error::InvalidConfig(text)
        | types::Error::InvalidRequest(text)
        | types::Error::Denied(text)
        | types::Error::Other(text) => text,
        types::Error::Stale(_) => "says it lacks changes".to_owned(),
        types::Error::NotFound(text) => format!("not found: {text}"),
        types::Error::Unavailable(text) => format!("unavailable: {text}"),
        types::Error::Timeout => "a wait of its own ran out".to_owned(),
        types::Error::Unsupported(text) => text,
    }
}
