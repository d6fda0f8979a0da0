//! A discovery backend that is a plugin.
//!
//! Each step takes the instance out, and puts it back only with a good answer. A step that fails
//! or is dropped thus takes its instance along, and the next one starts anew, without a cursor,
//! from the whole membership. Waiting between tries is the caller's business.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::time::{Instant, timeout};
use wasmtime::{Store, UpdateDeadline, component::InstancePre};

use super::{
    bindings::discovery::{
        exports::skep::plugin::{discovery, plugin},
        skep::plugin::{log, types},
    },
    bindings::scheduling::skep::plugin::log::Level,
    fault,
    files::Files,
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
    files: Files,
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
        files: Files,
        pre: InstancePre<Host>,
    ) -> wasmtime::Result<Self> {
        Ok(Self {
            name,
            limits,
            settings: settings.to_string(),
            runtime,
            pool,
            files,
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
        Ok(Instance {
            store,
            guest,
            cursor: None,
        })
    }

    fn store(&self, first_limit: Duration) -> Store<Host> {
        let quota = Quota::new(self.limits, self.pool.clone());
        let host = Host::new(self.name.clone(), quota, self.files.clone());
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

    async fn step(&mut self, max_wait: Duration) -> Result<Batch, String> {
        let template = &self.template;
        let mut instance = match self.instance.take() {
            Some(instance) => instance,
            None => template.start().await.map_err(|error| match error {
                StartError::Broken(reason) => reason,
                StartError::Settings(reason) => format!("refuses its settings: {reason}"),
            })?,
        };
        let Instance {
            store,
            guest,
            cursor,
        } = &mut instance;
        let limits = template.limits;
        store.data_mut().ticks = template.runtime.ticks(limits.call);
        store.set_epoch_deadline(1);
        let first = cursor.is_none();
        let started = Instant::now();
        let max_wait_ms = u32::try_from(max_wait.as_millis()).unwrap_or(u32::MAX);
        let next = guest.call_next(&mut *store, cursor.as_deref(), max_wait_ms);
        let wall = max_wait.saturating_add(limits.grace);
        let answer = match timeout(wall, next).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                let said = store.data_mut().take_last_error();
                return Err(fault::describe(&error, limits.call, said));
            }
            Err(_) => return Err(format!("took longer than {wall:?}")),
        };
        store.data_mut().end_call();
        let batch = match answer {
            Ok(batch) => batch,
            // The instance goes with the error: the next step must tell the whole membership.
            Err(error) => return Err(fault::clip(error_text(error))),
        };
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
        self.step(max_wait).await.map_err(|reason| BackendError {
            backend: self.template.name.to_string(),
            reason,
        })
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
        types::Error::Unsupported(text) => format!("unsupported: {text}"),
    }
}
