//! Makes filters, strategies, backends, and drivers out of specs.

use std::{
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tracing::{debug, warn};
use wasmtime::component::{Component, InstancePre, Linker, Resource, ResourceType};
use wasmtime_wasi::{
    WasiView as _,
    p2::{DynPollable, bindings::sync::io::poll::HostPollable},
};

use super::{
    Kind, LoadError, LoadFailure, Spec,
    artifact::Artifact,
    bindings::{scheduling, waiting as bindings},
    cache::{self, Cache, Origin},
    convert,
    discovery::DiscoveryPlugin,
    filter::FilterPlugin,
    grants::Grants,
    host::{Host, OwnHost},
    instance::{Exports, Instance, StartError, Template},
    runtime::{Runtime, Ticking},
    strategy::StrategyPlugin,
    supervisor::{Clock, Supervisor},
    volume::VolumePlugin,
    waiting,
};
use crate::{
    discovery::Backend,
    scheduler::{Filter, Strategy},
    volume::Driver,
};

/// Loads plugins. Cheap to keep; plugins live on without it.
pub struct Loader {
    runtime: Runtime,
    cache: Option<Cache>,
    clock: Clock,
}

/// Loaded plugins, of each kind in the order of their specs.
#[derive(Default)]
pub struct Plugins {
    /// To be asked in this order.
    pub filters: Vec<Box<dyn Filter>>,
    /// Usually one.
    pub strategies: Vec<Box<dyn Strategy>>,
    /// Usually one.
    pub backends: Vec<Box<dyn Backend>>,
    /// Each under a name of its own.
    pub drivers: Vec<Arc<dyn Driver>>,
    /// One line for each plugin loaded, fallbacks included.
    pub report: Vec<Loaded>,
}

/// How the loading of one plugin went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The name in the configuration.
    pub name: String,
    /// Whether its code had to be compiled.
    pub origin: Origin,
    /// From the first byte read to the settings accepted.
    pub took: Duration,
}

/// One plugin, whatever its kind.
enum Plugin {
    Filter(Box<dyn Filter>),
    Strategy(Box<dyn Strategy>),
    Discovery(Box<dyn Backend>),
    Volume(Arc<dyn Driver>),
}

impl Loader {
    /// Sets up the WebAssembly runtime, and the cache of compiled code below `cache_dir`.
    ///
    /// All plugins together get at most `total_memory_bytes` of linear memory.
    ///
    /// A cache that cannot be used is reported in the log and done without.
    ///
    /// # Errors
    ///
    /// [`LoadFailure::Runtime`] if this machine cannot run guests.
    pub fn try_new(
        cache_dir: Option<&Path>,
        total_memory_bytes: usize,
    ) -> Result<Self, LoadFailure> {
        let runtime = Runtime::try_new(total_memory_bytes)
            .map_err(|error| LoadFailure::Runtime(format!("{error:#}")))?;
        let cache = cache_dir.and_then(|directory| match Cache::try_open(directory) {
            Ok(cache) => Some(cache),
            Err(error) => {
                warn!(directory = %directory.display(), %error, "compiled plugins are not kept");
                None
            }
        });
        Ok(Self {
            runtime,
            cache,
            clock: Arc::new(Instant::now),
        })
    }

    /// Loads, starts, and configures every plugin, all at once.
    ///
    /// Blocks, and must not be called on an asynchronous worker. About 70 ms of processor time
    /// for each plugin that has to be compiled, and 1 ms for one that is in the cache.
    ///
    /// # Errors
    ///
    /// The first plugin, in the order of `specs`, that cannot be loaded.
    pub fn load(&self, specs: &[Spec]) -> Result<Plugins, LoadError> {
        let results: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = specs
                .iter()
                .map(|spec| scope.spawn(move || self.load_one(spec)))
                .collect();
            threads
                .into_iter()
                .map(|thread| {
                    thread
                        .join()
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })
                .collect()
        });
        let mut plugins = Plugins::default();
        for result in results {
            let (plugin, report) = result?;
            match plugin {
                Plugin::Filter(filter) => plugins.filters.push(filter),
                Plugin::Strategy(strategy) => plugins.strategies.push(strategy),
                Plugin::Discovery(backend) => plugins.backends.push(backend),
                Plugin::Volume(driver) => plugins.drivers.push(driver),
            }
            plugins.report.extend(report);
        }
        Ok(plugins)
    }

    fn load_one(&self, spec: &Spec) -> Result<(Plugin, Vec<Loaded>), LoadError> {
        let mut report = Vec::new();
        let plugin = match spec.kind {
            Kind::Filter => Plugin::Filter(Box::new(self.filter(spec, &mut report)?)),
            Kind::Strategy => Plugin::Strategy(Box::new(self.strategy(spec, &mut report)?)),
            Kind::Discovery => Plugin::Discovery(Box::new(self.discovery(spec, &mut report)?)),
            Kind::Volume => Plugin::Volume(Arc::new(self.volume(spec, &mut report)?)),
        };
        Ok((plugin, report))
    }

    fn filter(&self, spec: &Spec, report: &mut Vec<Loaded>) -> Result<FilterPlugin, LoadError> {
        let (supervisor, description) = self.scheduling(spec, report)?;
        let expressions = convert::kinds(description.expressions);
        Ok(FilterPlugin::new(supervisor, expressions, spec.on_failure))
    }

    fn strategy(&self, spec: &Spec, report: &mut Vec<Loaded>) -> Result<StrategyPlugin, LoadError> {
        let (supervisor, _) = self.scheduling(spec, report)?;
        let fallback = spec
            .fallback
            .as_deref()
            .map(|fallback| self.strategy(fallback, report).map(Box::new))
            .transpose()?;
        Ok(StrategyPlugin::new(supervisor, fallback))
    }

    /// Loads and starts a filter or strategy.
    fn scheduling<G: Exports>(
        &self,
        spec: &Spec,
        report: &mut Vec<Loaded>,
    ) -> Result<(Supervisor<G>, Description), LoadError> {
        let started = (self.clock)();
        let fail = |reason| LoadError::new(spec, reason);
        let runtime = &self.runtime.scheduling;
        let (component, origin) = self.component(spec, runtime).map_err(fail)?;
        let pre = link_scheduling(spec.kind, &component).map_err(fail)?;
        let template = Template::try_new(
            spec.name.as_str().into(),
            spec.limits,
            &spec.settings,
            runtime.clone(),
            self.runtime.pool.clone(),
            pre,
        )
        .map_err(|error| fail(LoadFailure::Interface(format!("{error:#}"))))?;
        let (instance, description): (Instance<G>, _) = template
            .start(started)
            .map_err(start_failure)
            .map_err(fail)?;
        self.reported(spec, origin, started, report);
        let supervisor = Supervisor::new(template, instance, self.clock.clone());
        Ok((supervisor, description))
    }

    fn discovery(
        &self,
        spec: &Spec,
        report: &mut Vec<Loaded>,
    ) -> Result<DiscoveryPlugin, LoadError> {
        self.waiting(spec, report, link_discovery, |template| {
            let mut plugin = DiscoveryPlugin::new(template);
            async move {
                plugin.try_start().await?;
                Ok(plugin)
            }
        })
    }

    fn volume(&self, spec: &Spec, report: &mut Vec<Loaded>) -> Result<VolumePlugin, LoadError> {
        self.waiting(spec, report, link_volume, VolumePlugin::try_start)
    }

    /// Loads and starts a plugin whose calls may wait.
    fn waiting<G: Exports, P, F: Future<Output = Result<P, StartError>>>(
        &self,
        spec: &Spec,
        report: &mut Vec<Loaded>,
        link: impl FnOnce(&Component) -> Result<InstancePre<Host>, LoadFailure>,
        start: impl FnOnce(waiting::Template<G>) -> F,
    ) -> Result<P, LoadError> {
        let started = (self.clock)();
        let fail = |reason| LoadError::new(spec, reason);
        let runtime = &self.runtime.waiting;
        let (component, origin) = self.component(spec, runtime).map_err(fail)?;
        let pre = link(&component).map_err(fail)?;
        let template = waiting::Template::try_new(
            spec.name.as_str().into(),
            spec.limits,
            &spec.settings,
            runtime.clone(),
            self.runtime.pool.clone(),
            Grants::new(&spec.allow),
            pre,
        )
        .map_err(|error| fail(LoadFailure::Interface(format!("{error:#}"))))?;
        // The guest is started here so that refused settings stop the start of the daemon. The
        // loader's threads are not asynchronous workers, so they wait on a runtime of their own.
        let plugin = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(|error| fail(LoadFailure::Runtime(error.to_string())))?
            .block_on(start(template))
            .map_err(start_failure)
            .map_err(fail)?;
        self.reported(spec, origin, started, report);
        Ok(plugin)
    }

    /// Reads, checks, and compiles.
    fn component(
        &self,
        spec: &Spec,
        runtime: &Ticking,
    ) -> Result<(Component, Origin), LoadFailure> {
        let artifact = Artifact::read(spec)?;
        let (component, origin) = match &self.cache {
            Some(cache) => cache.load(&runtime.wasm, &artifact)?,
            None => (cache::compile(&runtime.wasm, &artifact)?, Origin::Compiled),
        };
        artifact.check(spec.kind, &runtime.wasm, &component)?;
        Ok((component, origin))
    }

    fn reported(&self, spec: &Spec, origin: Origin, started: Instant, report: &mut Vec<Loaded>) {
        let took = (self.clock)().saturating_duration_since(started);
        debug!(plugin = spec.name, kind = %spec.kind, ?origin, ?took, "loaded plugin");
        report.push(Loaded {
            name: spec.name.clone(),
            origin,
            took,
        });
    }

    /// The same loader with another idea of time.
    #[cfg(test)]
    pub(super) fn with_clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }
}

type Description = scheduling::exports::skep::plugin::plugin::Description;

fn start_failure(error: StartError) -> LoadFailure {
    match error {
        StartError::Broken(reason) => LoadFailure::Start(reason),
        StartError::Settings(reason) => LoadFailure::Settings(reason),
    }
}

fn link_scheduling(kind: Kind, component: &Component) -> Result<InstancePre<Host>, LoadFailure> {
    use scheduling::skep::plugin::{clock, inventory, log, random};

    let mut linker = Linker::new(component.engine());
    let linked = (|| {
        log::add_to_linker::<_, OwnHost>(&mut linker, |host| host)?;
        clock::add_to_linker::<_, OwnHost>(&mut linker, |host| host)?;
        inventory::add_to_linker::<_, OwnHost>(&mut linker, |host| host)?;
        if kind == Kind::Strategy {
            random::add_to_linker::<_, OwnHost>(&mut linker, |host| host)?;
        }
        if needs_wasi(component) {
            wasmtime_wasi::p2::add_to_linker_sync(&mut linker)?;
            forbid_waiting(&mut linker)?;
        }
        linker.instantiate_pre(component)
    })();
    linked.map_err(|error| LoadFailure::Interface(format!("{error:#}")))
}

/// Makes waiting a trap: no deadline reaches a guest that waits in the host, and placements of
/// everybody else wait with it.
fn forbid_waiting(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    fn refuse<T>() -> wasmtime::Result<T> {
        Err(wasmtime::Error::msg("a scheduling plugin cannot wait"))
    }

    linker.allow_shadowing(true);
    let mut poll = linker.instance("wasi:io/poll@0.2.12")?;
    poll.resource(
        "pollable",
        ResourceType::host::<DynPollable>(),
        |mut context, id| HostPollable::drop(context.data_mut().ctx().table, Resource::new_own(id)),
    )?;
    poll.func_wrap(
        "[method]pollable.ready",
        |_, (_,): (Resource<DynPollable>,)| refuse::<(bool,)>(),
    )?;
    poll.func_wrap(
        "[method]pollable.block",
        |_, (_,): (Resource<DynPollable>,)| refuse::<()>(),
    )?;
    poll.func_wrap("poll", |_, (_,): (Vec<Resource<DynPollable>>,)| {
        refuse::<(Vec<u32>,)>()
    })?;
    linker.allow_shadowing(false);
    Ok(())
}

fn link_discovery(component: &Component) -> Result<InstancePre<Host>, LoadFailure> {
    use bindings::skep::plugin::{files, names, store};

    link_waiting(component, |linker| {
        files::add_to_linker::<_, OwnHost>(linker, |host| host)?;
        store::add_to_linker::<_, OwnHost>(linker, |host| host)?;
        names::add_to_linker::<_, OwnHost>(linker, |host| host)
    })
}

fn link_volume(component: &Component) -> Result<InstancePre<Host>, LoadFailure> {
    use bindings::skep::plugin::{directories, mounts, secrets, state};

    link_waiting(component, |linker| {
        state::add_to_linker::<_, OwnHost>(linker, |host| host)?;
        secrets::add_to_linker::<_, OwnHost>(linker, |host| host)?;
        directories::add_to_linker::<_, OwnHost>(linker, |host| host)?;
        mounts::add_to_linker::<_, OwnHost>(linker, |host| host)
    })
}

/// Links what all plugins may import whose calls may wait, and what `own` adds.
fn link_waiting(
    component: &Component,
    own: impl FnOnce(&mut Linker<Host>) -> wasmtime::Result<()>,
) -> Result<InstancePre<Host>, LoadFailure> {
    use bindings::skep::plugin::{clock, http, log, random};

    let mut linker = Linker::new(component.engine());
    let linked = (|| {
        log::add_to_linker::<_, OwnHost>(&mut linker, |host| host)?;
        clock::add_to_linker::<_, OwnHost>(&mut linker, |host| host)?;
        random::add_to_linker::<_, OwnHost>(&mut linker, |host| host)?;
        http::add_to_linker::<_, OwnHost>(&mut linker, |host| host)?;
        own(&mut linker)?;
        if needs_wasi(component) {
            wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        }
        linker.instantiate_pre(component)
    })();
    linked.map_err(|error| LoadFailure::Interface(format!("{error:#}")))
}

fn needs_wasi(component: &Component) -> bool {
    component
        .component_type()
        .imports(component.engine())
        .any(|(name, _)| name.starts_with("wasi:"))
}
