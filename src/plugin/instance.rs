//! One instance of a filter or strategy: its store, its deadlines, its copy of the node table.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::warn;
use wasmtime::{
    Store,
    component::{Instance as WasmInstance, InstancePre},
};

use super::{
    bindings::scheduling::{
        exports::skep::plugin::{filter, mirror, plugin, strategy},
        skep::plugin::types::Error,
    },
    convert,
    fault::{self, Fault},
    grants::Grants,
    host::Host,
    limits::Limits,
    mirror::{Missing, Position, deliver},
    quota::{Pool, Quota},
    runtime::Ticking,
};
use crate::scheduler::{Call, table::NodeTable};

/// A call that takes longer is worth a warning, once; its deadline is far above.
const SLOW_CALL: Duration = Duration::from_millis(5);

/// What a kind of plugin exports besides what every plugin does.
pub(super) trait Exports: Sized + Send {
    /// Where the functions are, found once for each component.
    type Indices: Send + Sync;
    /// Finds the functions in a component.
    fn find(pre: &InstancePre<Host>) -> wasmtime::Result<Self::Indices>;
    /// Takes the functions of an instance.
    fn load(
        indices: &Self::Indices,
        store: &mut Store<Host>,
        instance: &WasmInstance,
    ) -> wasmtime::Result<Self>;
}

/// Implements [`Exports`] for an interface with what `bindgen!` makes of every one.
macro_rules! exports {
    ($($interface:ident),+) => {$(
        impl super::instance::Exports for $interface::Guest {
            type Indices = $interface::GuestIndices;

            fn find(
                pre: &wasmtime::component::InstancePre<super::host::Host>,
            ) -> wasmtime::Result<Self::Indices> {
                $interface::GuestIndices::new(pre)
            }

            fn load(
                indices: &Self::Indices,
                store: &mut wasmtime::Store<super::host::Host>,
                instance: &wasmtime::component::Instance,
            ) -> wasmtime::Result<Self> {
                indices.load(store, instance)
            }
        }
    )+};
}

pub(super) use exports;

exports!(filter, strategy);

/// Everything needed to make an instance.
pub(super) struct Template<G: Exports> {
    name: Arc<str>,
    limits: Limits,
    settings: String,
    runtime: Ticking,
    pool: Pool,
    pre: InstancePre<Host>,
    plugin: plugin::GuestIndices,
    mirror: mirror::GuestIndices,
    exports: G::Indices,
}

/// A running guest.
pub(super) struct Instance<G> {
    store: Store<Host>,
    runtime: Ticking,
    limits: Limits,
    name: Arc<str>,
    mirror: mirror::Guest,
    exports: G,
    feeds: plugin::Feeds,
    position: Position,
    born: Instant,
    /// Whether a slow call was reported.
    slow: bool,
    /// Whether the filter knows the request under way.
    pub(super) prepared: bool,
}

/// Why an instance did not start.
#[derive(Debug)]
pub(super) enum StartError {
    /// It trapped, ran out of something, or could not be linked.
    Broken(String),
    /// It refuses its settings.
    Settings(String),
}

impl<G: Exports> Template<G> {
    pub(super) fn try_new(
        name: Arc<str>,
        limits: Limits,
        settings: &serde_json::Value,
        runtime: Ticking,
        pool: Pool,
        pre: InstancePre<Host>,
    ) -> wasmtime::Result<Self> {
        Ok(Self {
            name,
            limits,
            settings: settings.to_string(),
            runtime,
            pool,
            plugin: plugin::GuestIndices::new(&pre)?,
            mirror: mirror::GuestIndices::new(&pre)?,
            exports: G::find(&pre)?,
            pre,
        })
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Makes an instance, asks what it is, and gives it its settings.
    pub(super) fn start(
        &self,
        now: Instant,
    ) -> Result<(Instance<G>, plugin::Description), StartError> {
        let quota = Quota::new(self.limits, self.pool.clone());
        let host = Host::new(self.name.clone(), quota, Grants::default());
        let mut store = Store::new(&self.runtime.wasm, host);
        store.limiter(|host| &mut host.quota);
        store.set_hostcall_fuel(self.limits.output_bytes);
        store.epoch_deadline_trap();
        // Instantiation runs guest code too, so the clock must be armed before it.
        let _running = self.runtime.run();
        store.set_epoch_deadline(self.runtime.ticks(self.limits.start));
        let started = (|| {
            let instance = self.pre.instantiate(&mut store)?;
            let plugin = self.plugin.load(&mut store, &instance)?;
            let mirror = self.mirror.load(&mut store, &instance)?;
            let exports = G::load(&self.exports, &mut store, &instance)?;
            let description = plugin.call_describe(&mut store)?;
            let configured = plugin.call_configure(&mut store, &self.settings)?;
            Ok((mirror, exports, description, configured))
        })();
        let (mirror, exports, description, configured) =
            started.map_err(|error: wasmtime::Error| {
                let said = store.data_mut().take_last_error();
                StartError::Broken(fault::describe(&error, self.limits.start, said))
            })?;
        configured
            .map_err(|error| StartError::Settings(fault::clip(convert::error_text(error))))?;
        let instance = Instance {
            store,
            runtime: self.runtime.clone(),
            limits: self.limits,
            name: self.name.clone(),
            mirror,
            exports,
            feeds: description.feeds,
            position: Position::default(),
            born: now,
            slow: false,
            prepared: false,
        };
        Ok((instance, description))
    }
}

impl<G> Instance<G> {
    /// When the instance was made.
    pub(super) fn born(&self) -> Instant {
        self.born
    }

    /// Bytes of linear memory in use, and the most there may be.
    pub(super) fn memory(&self) -> (usize, usize) {
        (self.store.data().quota.used(), self.limits.memory_bytes)
    }

    /// Calls a function of the guest with its deadline armed and the inventory within reach.
    pub(super) fn call<T>(
        &mut self,
        call: Option<&Call<'_>>,
        run: impl FnOnce(&G, &mut Store<Host>) -> wasmtime::Result<T>,
    ) -> Result<T, Fault> {
        let limit = self.limits.call;
        self.store.data_mut().inventory = call.map(|call| Arc::clone(call.inventory));
        let started = Instant::now();
        let _running = self.runtime.run();
        self.store.set_epoch_deadline(self.runtime.ticks(limit));
        let answer = run(&self.exports, &mut self.store);
        let host = self.store.data_mut();
        host.inventory = None;
        host.end_call();
        let taken = started.elapsed();
        if taken > SLOW_CALL && !self.slow {
            self.slow = true;
            warn!(
                plugin = &*self.name,
                ?taken,
                "plugin is slow, every placement waits for it"
            );
        }
        self.finish(answer, limit)
    }

    /// Asks with the node table up to date, and again after sending all of it if the guest says
    /// that its copy lacks something.
    pub(super) fn call_synced<T>(
        &mut self,
        call: &Call<'_>,
        run: impl Fn(&G, &mut Store<Host>, u64) -> wasmtime::Result<Result<T, Error>>,
    ) -> Result<T, Fault> {
        self.sync(call.nodes)?;
        let generation = self.position.told();
        let mut answer = self.call(Some(call), |guest, store| run(guest, store, generation))?;
        if let Err(Error::Stale(at)) = answer {
            warn!(
                plugin = &*self.name,
                at, generation, "plugin lost node changes, sending all nodes again"
            );
            self.position.reset();
            self.sync(call.nodes)?;
            let generation = self.position.told();
            answer = self.call(Some(call), |guest, store| run(guest, store, generation))?;
        }
        answer.map_err(|error| match error {
            Error::Stale(_) => Fault::Broken(
                "says its node table is stale right after it got all of it".to_owned(),
            ),
            other => Fault::Refused(convert::refusal(other)),
        })
    }

    /// Brings the guest's copy of the node table up to date.
    pub(super) fn sync(&mut self, nodes: &NodeTable) -> Result<(), Fault> {
        if self.feeds == plugin::Feeds::empty() || self.position.is_current(nodes) {
            return Ok(());
        }
        let (changes, from_nothing) = match self.position.missing(nodes, self.feeds) {
            Missing::Nothing => {
                self.position.advance(nodes, false);
                return Ok(());
            }
            Missing::Some(changes) => (changes, false),
            Missing::All(changes) => (changes, true),
        };
        let limit = self.limits.apply;
        let _running = self.runtime.run();
        if from_nothing {
            self.store.set_epoch_deadline(self.runtime.ticks(limit));
            let expected = u32::try_from(nodes.len()).unwrap_or(u32::MAX);
            let answer = self.mirror.call_reset(&mut self.store, expected);
            self.finish(answer, limit)?;
        }
        let generation = nodes.generation();
        let (store, mirror, runtime) = (&mut self.store, &self.mirror, &self.runtime);
        let mut send = |deltas: &[mirror::Delta<'_>]| {
            store.set_epoch_deadline(runtime.ticks(limit));
            mirror.call_apply(&mut *store, generation, deltas)
        };
        let answer = if changes.is_empty() {
            send(&[])
        } else {
            deliver(nodes, &changes, send)
        };
        self.finish(answer, limit)?;
        self.position.advance(nodes, true);
        Ok(())
    }

    fn finish<T>(&mut self, answer: wasmtime::Result<T>, limit: Duration) -> Result<T, Fault> {
        answer.map_err(|error| {
            let said = self.store.data_mut().take_last_error();
            Fault::Broken(fault::describe(&error, limit, said))
        })
    }
}
