//! Instances of plugins whose calls may wait: discovery backends and volume drivers.
//!
//! A guest computes for its share of time and yields at each tick; while it waits in a host call no
//! time is counted. The whole call has a deadline on the wall clock. An instance whose call failed
//! or was dropped is not used again.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::time::{error::Elapsed, timeout};
use wasmtime::{Store, UpdateDeadline, component::InstancePre};

use super::{
    bindings::scheduling::skep::plugin::log::Level,
    bindings::waiting::{
        exports::skep::plugin::plugin,
        skep::plugin::{log, types},
    },
    fault,
    grants::Grants,
    host::{self, Host},
    instance::{Exports, StartError},
    limits::Limits,
    quota::{Pool, Quota},
    runtime::Ticking,
};

/// A guest's answer, as wasmtime gives it.
pub(super) type Asked<'a, T> = BoxFuture<'a, wasmtime::Result<Result<T, types::Error>>>;

/// Why there is no answer.
pub(super) enum Failure {
    /// The guest says why, in order.
    Refused(types::Error),
    /// It trapped, or took too long; the instance is gone.
    Broken(String),
}

/// Everything needed to make an instance.
pub(super) struct Template<G: Exports> {
    pub(super) name: Arc<str>,
    pub(super) limits: Limits,
    pub(super) grants: Grants,
    settings: String,
    runtime: Ticking,
    pool: Pool,
    pre: InstancePre<Host>,
    plugin: plugin::GuestIndices,
    exports: G::Indices,
}

/// A running guest.
pub(super) struct Instance<G> {
    pub(super) store: Store<Host>,
    pub(super) guest: G,
}

impl<G: Exports> Template<G> {
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
            exports: G::find(&pre)?,
            pre,
        })
    }

    /// Makes an instance and gives it its settings.
    pub(super) async fn start(&self) -> Result<Instance<G>, StartError> {
        let mut store = self.store();
        let start = async {
            let instance = self.pre.instantiate_async(&mut store).await?;
            let plugin = self.plugin.load(&mut store, &instance)?;
            let guest = G::load(&self.exports, &mut store, &instance)?;
            let configured = plugin.call_configure(&mut store, &self.settings).await?;
            Ok((guest, configured))
        };
        let limit = self.limits.start;
        let started: wasmtime::Result<_> = match self.within(limit, start).await {
            Ok(started) => started,
            Err(_) => return Err(StartError::Broken(format!("took longer than {limit:?}"))),
        };
        let (guest, configured) = started.map_err(|error| {
            let said = store.data_mut().take_last_error();
            StartError::Broken(fault::describe(&error, limit, said))
        })?;
        configured.map_err(|error| StartError::Settings(fault::clip(error_text(error))))?;
        store.data_mut().is_configured = true;
        Ok(Instance { store, guest })
    }

    /// Runs a guest for at most `limit`, waits of its own included.
    pub(super) async fn within<F: Future>(
        &self,
        limit: Duration,
        guest: F,
    ) -> Result<F::Output, Elapsed> {
        timeout(limit, self.runtime.while_polled(guest)).await
    }

    /// Gives an instance the time for one call.
    pub(super) fn arm(&self, instance: &mut Instance<G>) {
        let store = &mut instance.store;
        store.data_mut().ticks = self.runtime.ticks(self.limits.call);
        store.set_epoch_deadline(1);
    }

    /// What a call answered, or why there is no answer.
    pub(super) fn conclude<T>(
        &self,
        store: &mut Store<Host>,
        wall: Duration,
        answer: Result<wasmtime::Result<Result<T, types::Error>>, Elapsed>,
    ) -> Result<T, Failure> {
        let answer = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                let said = store.data_mut().take_last_error();
                let reason = fault::describe(&error, self.limits.call, said);
                return Err(Failure::Broken(reason));
            }
            Err(_) => return Err(Failure::Broken(format!("took longer than {wall:?}"))),
        };
        store.data_mut().end_call();
        answer.map_err(Failure::Refused)
    }

    fn store(&self) -> Store<Host> {
        let quota = Quota::new(self.limits, self.pool.clone());
        let host = Host::new(self.name.clone(), quota, self.grants.clone());
        let mut store = Store::new(&self.runtime.wasm, host);
        store.limiter(|host| &mut host.quota);
        store.set_hostcall_fuel(self.limits.output_bytes);
        store.data_mut().ticks = self.runtime.ticks(self.limits.start);
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

impl Failure {
    /// The reason in words.
    pub(super) fn text(self) -> String {
        match self {
            Self::Refused(error) => fault::clip(error_text(error)),
            Self::Broken(reason) => reason,
        }
    }
}

impl StartError {
    /// The reason in words.
    pub(super) fn text(self) -> String {
        match self {
            Self::Broken(reason) => reason,
            Self::Settings(reason) => format!("refuses its settings: {reason}"),
        }
    }
}

/// An error of a guest in words.
pub(super) fn error_text(error: types::Error) -> String {
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
