//! Starts the daemon and stops it: the one place where `cluster` and `plugin` meet.
//!
//! Everything that can go wrong at start does so before the daemon says it is ready: the
//! configuration is complete, every plugin is loaded and configured, every socket is bound.

mod ask;
mod files;
mod nodes;
mod reload;
mod simulate;
mod volumes;

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use crate::{
    api,
    cluster::{
        self, Cluster,
        election::{self, Leadership},
        memory::{self, Memory},
    },
    config::{
        Config,
        plugin::{self as plugin_config, Plugin},
        scheduler::CpuShares,
        store::{self as store_config, StoreUrl},
    },
    discovery::Backend,
    engine::{inventory::container, pool::Pool, transport},
    plugin::{self, Kind, Loader, Plugins, Spec},
    registry::Registries,
    scheduler::Scheduler,
    signal::Shutdown,
    store::{Store, embedded::Embedded, servers},
    tls,
};

pub use crate::api::new_token;
pub use ask::{Ask, Manager, What, ask};
pub use nodes::{Fencing, Membership, join, list};
pub use reload::ReadConfig;
pub use simulate::{ReportFormat, Simulate, simulate};

/// How often the files of TLS are looked at for changes.
const RELOAD_PAUSE: Duration = Duration::from_secs(5);

/// How long the name of a create that was under way when the last manager ended is kept, if its
/// engine answers and has no such container.
const SETTLE_AFTER: Duration = Duration::from_secs(15);

/// Runs the daemon until `shutdown`, then lets requests finish. `read` gives the configuration
/// anew when it shall be read again.
///
/// # Errors
///
/// What keeps the daemon from starting: a certificate that cannot be used, a plugin that cannot be
/// loaded, an address that cannot be bound, no discovery.
pub async fn run(config: Config, read: ReadConfig, shutdown: Shutdown) -> anyhow::Result<()> {
    let Certificates {
        reloader,
        server,
        peers,
        engines,
    } = Certificates::read(&config)?;
    let group = config.api.socket_group.as_deref();
    let listeners = config
        .listen
        .iter()
        .map(|address| api::bind(address, server.as_ref(), group))
        .collect::<Result<Vec<_>, _>>()?;
    let missing = config.missing_files();
    if !missing.is_empty() {
        return Err(anyhow!(missing.join("\n")));
    }
    let mut plugins = load(&config, specs(&config)?).await?;
    for loaded in &plugins.report {
        debug!(plugin = loaded.name, origin = ?loaded.origin, took = ?loaded.took, "loaded plugin");
    }
    let strategy = plugins
        .strategies
        .pop()
        .ok_or_else(|| anyhow!("no strategy is configured"))?;
    let backend = plugins
        .backends
        .pop()
        .ok_or_else(|| anyhow!("no discovery is configured"))?;
    let store = open_store(&config).await?;
    let memory = store.clone().map(|store| memory(&config, store));
    let tokens = token_lists(&config, store.as_ref())?;
    let leadership = leadership(&config);
    let tasks = TaskTracker::new();
    // Cancelled after the API has drained: requests under way still need the cluster.
    let stop_cluster = CancellationToken::new();
    let cluster = Cluster::start(
        cluster_options(&config, engines, leadership.clone()),
        Scheduler::new(plugins.filters, strategy),
        backend,
        memory,
        &tasks,
        &stop_cluster,
    )
    .context("cannot start the cluster's threads")?;
    if let Some(store) = store {
        // Resigns as soon as shutdown begins: the others need not wait for what is still open.
        let path = match config.effective_store().0 {
            StoreUrl::Servers(url) => url.path,
            _ => String::new(),
        };
        tasks.spawn(leadership.run(store, path, shutdown.token()));
    }
    let certificates = Arc::new(Notify::new());
    tasks.spawn(reloader.run(
        RELOAD_PAUSE,
        Arc::clone(&certificates),
        stop_cluster.clone(),
    ));
    tasks.spawn(reload::follow(
        config.clone(),
        read,
        cluster.clone(),
        shutdown.reload(),
        certificates,
        stop_cluster.clone(),
    ));
    let options = api::Options {
        cors: config.api.cors,
        max_body_bytes: usize::try_from(config.api.max_body_bytes).unwrap_or(usize::MAX),
        grace_period: config.grace_period,
        max_connections: config.api.max_connections,
        head_timeout: config.api.head_timeout,
        idle_timeout: config.api.idle_timeout,
        experimental: config.api.experimental,
        refresh_on_node_filter: config.api.refresh_on_node_filter,
        refresh_name_filter: config.api.refresh_name_filter.clone(),
        peers: api::PeerOptions {
            tls: peers,
            local_reads: config.replication.local_reads,
        },
        tokens,
    };
    info!(
        version = env!("CARGO_PKG_VERSION"),
        strategy = config.scheduler.strategy,
        filters = config.scheduler.filters.join(", "),
        "manager started"
    );
    api::serve(listeners, cluster, options, shutdown.token()).await;
    stop_cluster.cancel();
    tasks.close();
    if tokio::time::timeout(config.grace_period, tasks.wait())
        .await
        .is_err()
    {
        warn!("some tasks did not end in time");
    }
    info!("manager stopped");
    Ok(())
}

/// Says what is wrong with the files of TLS, which the configuration itself does not look into.
///
/// # Errors
///
/// What would keep the daemon from starting.
pub fn check_certificates(config: &Config) -> anyhow::Result<()> {
    Certificates::read(config)?;
    Ok(())
}

/// What the files of TLS hold.
struct Certificates {
    reloader: tls::Reloader,
    server: Option<tls::Server>,
    peers: Option<tls::Client>,
    engines: tls::Engines,
}

impl Certificates {
    fn read(config: &Config) -> Result<Self, tls::TlsError> {
        let mut reloader = tls::Reloader::default();
        let server = config.api.tls.as_ref();
        let server = server.map(|files| reloader.server(files)).transpose()?;
        let peers = match config.api.tls.as_ref() {
            Some(files) if config.replication.enabled => reloader.peers(files)?,
            _ => None,
        };
        let engines = reloader.engines(&config.engine)?;
        Ok(Self {
            reloader,
            server,
            peers,
            engines,
        })
    }
}

/// The discovery backend alone, loaded and configured.
async fn load_discovery(config: &Config) -> anyhow::Result<Box<dyn Backend>> {
    let missing = config.missing_files();
    if !missing.is_empty() {
        return Err(anyhow!(missing.join("\n")));
    }
    let plugin = config
        .discovery_plugin()
        .ok_or_else(|| anyhow!("no discovery is configured"))?;
    let specs = [spec(config, &plugin)?];
    let mut plugins = load(config, specs.into()).await?;
    plugins
        .backends
        .pop()
        .ok_or_else(|| anyhow!("no discovery is configured"))
}

/// Loads plugins where blocking is allowed.
async fn load(config: &Config, specs: Vec<Spec>) -> anyhow::Result<Plugins> {
    let config = config.clone();
    tokio::task::spawn_blocking(move || load_plugins(&config, &specs))
        .await
        .context("the plugin loader panicked")?
}

fn load_plugins(config: &Config, specs: &[Spec]) -> anyhow::Result<Plugins> {
    let total_memory = usize::try_from(config.plugin_host.total_memory_bytes).unwrap_or(usize::MAX);
    let loader = Loader::try_new(Some(&config.plugin_host.cache_dir), total_memory)?;
    Ok(loader.load(specs)?)
}

/// What the cluster remembers, and where.
fn memory(config: &Config, store: Arc<dyn Store>) -> Memory {
    info!(store = store.name(), "remembering nodes and containers");
    let options = memory::Options {
        prefix: store_prefix(config),
        optional: config.store.when_away == store_config::WhenAway::Continue,
        forget_after: config.store.forget_after,
        settle_after: SETTLE_AFTER,
        cpu_shares: cpu_shares(config),
    };
    Memory::new(store, options)
}

/// The key that everything is kept below.
fn store_prefix(config: &Config) -> String {
    match config.effective_store().0 {
        StoreUrl::Servers(url) => url.key(&config.store.prefix),
        _ => config.store.prefix.clone(),
    }
}

/// Where the lists of engines under tokens are kept, if they are served.
fn token_lists(
    config: &Config,
    store: Option<&Arc<dyn Store>>,
) -> anyhow::Result<Option<api::Tokens>> {
    if !config.api.token_lists {
        return Ok(None);
    }
    let store = store.ok_or_else(|| anyhow!("api.token-lists needs a store: set store.url"))?;
    Ok(Some(api::Tokens {
        store: Arc::clone(store),
        prefix: format!("{}/tokens", store_prefix(config)),
    }))
}

/// Whether this manager leads: for ever, or if it is elected.
fn leadership(config: &Config) -> Leadership {
    match &config.replication.advertise {
        Some(advertise) if config.replication.enabled => Leadership::contested(election::Options {
            advertise: advertise.clone(),
            ttl: config.replication.ttl,
        }),
        _ => Leadership::alone(),
    }
}

/// The store of the configuration, if there is one.
async fn open_store(config: &Config) -> anyhow::Result<Option<Arc<dyn Store>>> {
    let (url, access) = config.effective_store();
    let (path, is_required) = match url {
        StoreUrl::None => return Ok(None),
        StoreUrl::Servers(url) => return Ok(Some(servers::open(&url, &access)?)),
        StoreUrl::Embedded(path) => (path, true),
        StoreUrl::Auto => (store_config::default_path(), false),
    };
    let opened = tokio::task::spawn_blocking(move || Embedded::open(&path))
        .await
        .context("opening the store panicked")?;
    match opened {
        Ok(store) => Ok(Some(Arc::new(store))),
        // What is there is not to be lost, nor to be gone without by accident.
        Err(error) if is_required || error.is_damaged() => Err(error.into()),
        Err(error) => {
            warn!(%error, "this manager remembers nothing, set store.url to choose another file");
            Ok(None)
        }
    }
}

fn cpu_shares(config: &Config) -> container::CpuShares {
    match config.scheduler.cpu_shares {
        CpuShares::Cores => container::CpuShares::Cores,
        CpuShares::Shares => container::CpuShares::Shares,
    }
}

fn cluster_options(config: &Config, tls: tls::Engines, leadership: Leadership) -> cluster::Options {
    cluster::Options {
        limits: transport::Limits::new(
            config.engine.connect_timeout,
            config.engine.max_connections.get(),
            config.engine.max_idle_connections,
        ),
        pool: Pool::new(files::for_engines(files::raise_limit())),
        tls,
        request_timeout: config.engine.request_timeout,
        refresh_min: config.engine.refresh_min_interval,
        refresh_max: config.engine.refresh_max_interval,
        failure_limit: config.engine.failure_retry,
        overcommit: config.scheduler.overcommit,
        create_retries: config.scheduler.create_retry,
        settle_after: SETTLE_AFTER,
        cpu_shares: cpu_shares(config),
        event_queue: NonZeroUsize::get(config.api.event_queue),
        heartbeat: config.discovery.heartbeat,
        removal_delay: config.discovery.removal_delay,
        registries: Arc::new(Registries::new(config.registries.clone())),
        leadership,
        reschedule: cluster::reschedule::Options {
            grace: config.effective_grace(),
            fencing: config.reschedule.fencing,
            lease_margin: config.reschedule.lease_margin,
            max_moves: config.reschedule.max_moves.get(),
            max_failed_percent: config.reschedule.max_failed_percent,
        },
        rebalance: {
            let max_moves = config.rebalance.max_moves.get();
            config.rebalance.period.map(|period| (period, max_moves))
        },
        volume_copies: config.volumes.copies,
        strategy: config.scheduler.strategy.clone(),
        filters: config.scheduler.filters.clone(),
    }
}

/// The plugins that take part: the filters in order, the strategy, the discovery backend.
fn specs(config: &Config) -> anyhow::Result<Vec<Spec>> {
    let mut specs = scheduling_specs(config, &config.scheduler.strategy)?;
    let discovery = config.discovery_plugin().ok_or_else(|| {
        anyhow!("discovery required to manage a cluster: give a URL, or set discovery.url")
    })?;
    specs.push(spec(config, &discovery)?);
    Ok(specs)
}

/// The filters in order, and a strategy.
fn scheduling_specs(config: &Config, strategy: &str) -> anyhow::Result<Vec<Spec>> {
    let named = |name: &str| {
        config
            .plugin(name)
            .ok_or_else(|| anyhow!("no plugin `{name}` is configured"))
    };
    let mut specs = Vec::new();
    for name in &config.scheduler.filters {
        specs.push(spec(config, named(name)?)?);
    }
    specs.push(spec(config, named(strategy)?)?);
    Ok(specs)
}

/// One plugin's configuration in the host's words.
fn spec(config: &Config, from: &Plugin) -> anyhow::Result<Spec> {
    let kind = match from.kind {
        plugin_config::PluginKind::Filter => Kind::Filter,
        plugin_config::PluginKind::Strategy => Kind::Strategy,
        plugin_config::PluginKind::Discovery => Kind::Discovery,
        plugin_config::PluginKind::Volume => Kind::Volume,
    };
    let source = match &from.source {
        plugin_config::Source::Builtin(name) => plugin::Source::Builtin(format!("{kind}-{name}")),
        plugin_config::Source::File(path) => plugin::Source::File(path.clone()),
    };
    let mut spec = Spec::new(&from.name, kind, source);
    spec.sha256 = from.sha256.as_deref().map(digest).transpose()?;
    spec.settings = from.settings_json();
    spec.limits = limits(kind, &from.limits);
    spec.on_failure = match from.on_failure {
        Some(plugin_config::OnFailure::Skip) => plugin::OnFailure::Skip,
        Some(plugin_config::OnFailure::Deny) | None => plugin::OnFailure::Deny,
    };
    spec.fallback = match &from.fallback {
        Some(name) => {
            let fallback = config
                .plugin(name)
                .ok_or_else(|| anyhow!("no plugin `{name}` is configured"))?;
            // A fallback's own fallback is left out: two may name each other.
            let alone = Plugin {
                fallback: None,
                ..fallback.clone()
            };
            Some(Box::new(self::spec(config, &alone)?))
        }
        None => None,
    };
    spec.allow = allow(config, &from.allow)?;
    Ok(spec)
}

/// What a plugin may reach, with what is needed to reach it.
fn allow(config: &Config, from: &plugin_config::Allow) -> anyhow::Result<plugin::Allow> {
    let store = match &from.store {
        Some(url) => Some(plugin::StoreGrant {
            store: servers::open(url, &config.discovery.access())?,
            prefix: url.path.clone(),
        }),
        None => None,
    };
    let is_secure = |origin: &String| origin.starts_with("https:");
    let tls = if from.http.iter().any(is_secure) {
        let (ca, pair) = (config.discovery.token_ca(), config.discovery.token_pair());
        Some(Arc::new(tls::web(ca.as_deref(), pair.as_ref())?))
    } else {
        None
    };
    Ok(plugin::Allow {
        files: from.files.clone(),
        store,
        http: plugin::HttpGrant {
            origins: from.http.clone(),
            tls,
        },
        names: plugin::NamesGrant {
            names: from.names.clone(),
            server: config.discovery.name_server(),
        },
        driver: None,
    })
}

fn limits(kind: Kind, from: &plugin_config::Limits) -> plugin::Limits {
    let bytes = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let count = |value: std::num::NonZeroU32| value.get() as usize;
    plugin::Limits {
        memory_bytes: bytes(from.memory_bytes),
        call: from.call,
        start: from.startup,
        output_bytes: bytes(from.output_bytes),
        memories: count(from.memories),
        tables: count(from.tables),
        table_elements: count(from.table_elements),
        instances: count(from.instances),
        log_lines_per_second: from.log_lines_per_second.get(),
        ..plugin::Limits::for_kind(kind)
    }
}

/// 64 hexadecimal digits as bytes.
fn digest(text: &str) -> anyhow::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return Err(anyhow!("`{text}` is no SHA-256 digest"));
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16)
            .with_context(|| format!("`{text}` is no SHA-256 digest"))?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_64_hexadecimal_digits() {
        assert_eq!(digest(&"0f".repeat(32)).unwrap(), [15; 32]);
        assert!(digest("0f").is_err());
        assert!(digest(&"zz".repeat(32)).is_err());
    }
}
