//! The options of `skep manage`, put on top of a configuration.
//!
//! Names, checks, their order and the error texts are classic Swarm's: its users' scripts and
//! tests rely on which mistake is reported first.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::tls::TlsArgs;
use crate::cli::{Context, Environment, TlsOptionError, parse_bool};
use crate::config::Config;
use crate::config::advertise::is_advertisable;
use crate::config::discovery::DiscoveryUrl;
use crate::config::duration::{self, DurationError};
use crate::config::listen::{ListenAddr, ListenAddrError};
use crate::config::log::LogLevelError;
use crate::config::plugin::PluginKind;
use crate::config::store::{StoreUrl, StoreUrlError};

const DEPRECATED_RETRY: &str = "3";

#[derive(Debug, Default, clap::Args)]
pub(super) struct ManageArgs {
    /// Where the engines are: [nodes://]<ip1>,<ip2>, file://path/to/file [env: SWARM_DISCOVERY]
    #[arg(value_name = "DISCOVERY")]
    discovery: Vec<String>,

    /// Configuration file; the options below win over it
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,

    /// Report all mistakes in the configuration and exit
    #[arg(long)]
    pub(super) check_config: bool,

    /// Print the configuration in force and exit
    #[arg(long, conflicts_with = "check_config")]
    pub(super) dump_config: bool,

    /// Placement strategy: spread, binpack, random, or a plugin [default: spread]
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    strategy: Option<String>,

    /// Filter to use, in the order given; repeat it [default: all seven]
    #[arg(long, short, value_name = "NAME")]
    filter: Vec<String>,

    /// Address to listen on; repeat it [env: SWARM_HOST] [default: tcp://127.0.0.1:2375]
    #[arg(long, short = 'H', value_name = "ADDRESS")]
    host: Vec<String>,

    /// Shortest time between two refreshes of an engine [default: 30s]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    engine_refresh_min_interval: Option<String>,

    /// Longest time between two refreshes of an engine [default: 60s]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    engine_refresh_max_interval: Option<String>,

    /// Failures after which an engine is unhealthy [default: 3]
    #[arg(long, value_name = "COUNT", allow_hyphen_values = true)]
    engine_failure_retry: Option<String>,

    /// Deprecated, use --engine-failure-retry
    #[arg(long, value_name = "COUNT", allow_hyphen_values = true, hide = true)]
    engine_refresh_retry: Option<String>,

    /// How often discovery is asked again [default: 60s]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    heartbeat: Option<String>,

    /// swarm.overcommit=0.05 or swarm.createretry=0; repeat it
    #[arg(long, value_name = "KEY=VALUE")]
    cluster_opt: Vec<String>,

    /// Only swarm exists [default: swarm]
    #[arg(long, short, value_name = "NAME")]
    cluster_driver: Option<String>,

    /// Where the manager remembers nodes and containers: auto, none, or embedded:///path
    /// [default: auto]
    #[arg(long, value_name = "URL")]
    store: Option<String>,

    /// Option for the discovery plugin; repeat it
    #[arg(long, value_name = "KEY=VALUE")]
    discovery_opt: Vec<String>,

    /// Answer with CORS headers
    #[arg(long, visible_alias = "cors", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool)]
    api_enable_cors: Option<bool>,

    #[command(flatten)]
    tls: TlsArgs,

    /// Ask a node anew before a list of containers with the filter node=NAME is answered
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool)]
    refresh_on_node_filter: Option<bool>,

    /// Ask all nodes anew before a list of containers with the filter name=NAME is answered
    #[arg(long, value_name = "NAME")]
    container_name_refresh_filter: Option<String>,

    /// Elect a primary among several managers (no discovery that exists so far can do it)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool)]
    replication: Option<bool>,

    /// How long an elected primary may be silent [default: 20s]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    replication_ttl: Option<String>,

    /// With --replication: address of this manager for the others [env: SWARM_ADVERTISE]
    #[arg(long, visible_alias = "addr", value_name = "HOST:PORT")]
    advertise: Option<String>,
}

/// Why an option cannot be followed. The texts are classic Swarm's where it had one.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what each variant is")]
pub enum OptionError {
    #[error(transparent)]
    Tls(#[from] TlsOptionError),
    #[error(transparent)]
    LogLevel(LogLevelError),
    #[error("min refresh interval should be a positive number")]
    RefreshMin,
    #[error("max refresh interval cannot be less than min refresh interval")]
    RefreshMax,
    #[error("--engine-refresh-retry is deprecated. Use --engine-failure-retry")]
    RefreshRetry,
    #[error("invalid failure retry count")]
    FailureRetry,
    #[error("discovery required to {command} a cluster. See '{program} {command} --help'.")]
    NoDiscovery {
        command: &'static str,
        program: String,
    },
    #[error("invalid --store: {0}")]
    Store(StoreUrlError),
    #[error("invalid --heartbeat: {0}")]
    Heartbeat(DurationError),
    #[error("--heartbeat should be at least one second")]
    HeartbeatTooShort,
    #[error("--discovery-opt must contain key=value strings")]
    DiscoveryOpt,
    #[error("discovery service not supported")]
    DiscoveryService,
    #[error("invalid discovery: {0}")]
    Discovery(String),
    #[error("strategy not supported")]
    Strategy,
    #[error("filter not supported")]
    Filter,
    #[error("unsupported cluster \"{0}\"")]
    ClusterDriver(String),
    #[error("--cluster-opt {0} must be of the form {0}=value")]
    ClusterOptForm(&'static str),
    #[error("{key} should be a number, {value} is invalid")]
    ClusterOptNumber { key: &'static str, value: String },
    #[error("swarm.overcommit should be larger than -1, {0:.6} is invalid")]
    Overcommit(f64),
    #[error("swarm.createretry can not be negative, {0} is invalid")]
    CreateRetry(i64),
    #[error("--advertise address must be provided when using --leader-election")]
    ReplicationAdvertise,
    #[error("--advertise should be of the form ip:port or hostname:port")]
    Advertise,
    #[error("invalid --replication-ttl: {0}")]
    ReplicationTtl(DurationError),
    #[error("--replication-ttl should be a positive number")]
    ReplicationTtlNotPositive,
    #[error("--replication-ttl must be at least one second")]
    ReplicationTtlTooShort,
    #[error("Leader election is only supported with consul, etcd and zookeeper discovery.")]
    LeaderElection,
    #[error(transparent)]
    Host(#[from] ListenAddrError),
}

impl ManageArgs {
    /// Puts the options on top of `config` and returns warnings for the log.
    ///
    /// Relative paths start at `context.here`. A missing discovery URL is an error only if the daemon is
    /// to run.
    ///
    /// # Errors
    ///
    /// The first [`OptionError`] in the order of classic Swarm's checks.
    pub(super) fn apply(
        &self,
        context: &Context<'_>,
        config: &mut Config,
    ) -> Result<Vec<String>, OptionError> {
        self.tls.apply(context.here, config)?;
        self.apply_engine(config)?;
        self.apply_discovery(context, config)?;
        self.apply_store(context, config)?;
        self.apply_scheduler(config)?;
        let warnings = self.apply_cluster(config)?;
        self.apply_replication(context.environment, config)?;
        if let Some(cors) = self.api_enable_cors {
            config.api.cors = cors;
        }
        if let Some(refresh) = self.refresh_on_node_filter {
            config.api.refresh_on_node_filter = refresh;
        }
        if let Some(name) = &self.container_name_refresh_filter {
            config.api.refresh_name_filter.clone_from(name);
        }
        self.apply_listen(context.environment, context.here, config)?;
        Ok(warnings)
    }

    fn apply_engine(&self, config: &mut Config) -> Result<(), OptionError> {
        let engine = &mut config.engine;
        if let Some(text) = &self.engine_refresh_min_interval {
            engine.refresh_min_interval = duration::parse(text)
                .ok()
                .filter(|interval| !interval.is_zero())
                .ok_or(OptionError::RefreshMin)?;
        }
        if let Some(text) = &self.engine_refresh_max_interval {
            engine.refresh_max_interval =
                duration::parse(text).map_err(|_| OptionError::RefreshMax)?;
        }
        if engine.refresh_max_interval < engine.refresh_min_interval {
            return Err(OptionError::RefreshMax);
        }
        if self
            .engine_refresh_retry
            .as_ref()
            .is_some_and(|count| count != DEPRECATED_RETRY)
        {
            return Err(OptionError::RefreshRetry);
        }
        if let Some(text) = &self.engine_failure_retry {
            engine.failure_retry = text
                .parse::<NonZeroU32>()
                .map_err(|_| OptionError::FailureRetry)?;
        }
        Ok(())
    }

    fn apply_discovery(
        &self,
        context: &Context<'_>,
        config: &mut Config,
    ) -> Result<(), OptionError> {
        // Classic Swarm takes the argument only if there is exactly one.
        let given = match self.discovery.as_slice() {
            [url] => Some(url),
            _ => context.environment.swarm_discovery.as_ref(),
        };
        let given = given
            .filter(|url| !url.is_empty())
            .map(|url| url.parse::<DiscoveryUrl>());
        let needs_discovery = !self.check_config && !self.dump_config;
        if given.is_none() && config.discovery.url.is_none() && needs_discovery {
            return Err(OptionError::NoDiscovery {
                command: "manage",
                program: context.program.to_owned(),
            });
        }
        if let Some(text) = &self.heartbeat {
            let nanos = duration::parse_nanos(text).map_err(OptionError::Heartbeat)?;
            config.discovery.heartbeat = u64::try_from(nanos)
                .map(Duration::from_nanos)
                .ok()
                .filter(|heartbeat| *heartbeat >= Duration::from_secs(1))
                .ok_or(OptionError::HeartbeatTooShort)?;
        }
        for option in &self.discovery_opt {
            let (key, value) = option.split_once('=').ok_or(OptionError::DiscoveryOpt)?;
            config
                .discovery
                .options
                .insert(key.to_owned(), value.to_owned());
        }
        if let Some(url) = given {
            let url = url.map_err(|_| OptionError::DiscoveryService)?;
            config.discovery.url = Some(url.relative_to(context.here));
        }
        check_discovery(config)
    }

    fn apply_store(&self, context: &Context<'_>, config: &mut Config) -> Result<(), OptionError> {
        if let Some(text) = &self.store {
            let url: StoreUrl = text.parse().map_err(OptionError::Store)?;
            config.store.url = url.relative_to(context.here);
        }
        Ok(())
    }

    fn apply_scheduler(&self, config: &mut Config) -> Result<(), OptionError> {
        if let Some(name) = &self.strategy {
            let name = if name == "binpacking" {
                "binpack"
            } else {
                name
            };
            if !config.has_plugin(name, PluginKind::Strategy) {
                return Err(OptionError::Strategy);
            }
            config.scheduler.strategy = name.to_owned();
        }
        if !self.filter.is_empty() {
            let known = |name: &String| config.has_plugin(name, PluginKind::Filter);
            if !self.filter.iter().all(known) {
                return Err(OptionError::Filter);
            }
            config.scheduler.filters.clone_from(&self.filter);
        }
        Ok(())
    }

    fn apply_cluster(&self, config: &mut Config) -> Result<Vec<String>, OptionError> {
        match self.cluster_driver.as_deref() {
            None | Some("swarm") => {}
            Some(other) => return Err(OptionError::ClusterDriver(other.to_owned())),
        }
        let mut warnings = Vec::new();
        if let Some(text) = self.cluster_opt("swarm.overcommit")? {
            let number = || OptionError::ClusterOptNumber {
                key: "swarm.overcommit",
                value: text.to_owned(),
            };
            let share: f64 = text.parse().map_err(|_| number())?;
            if share <= -1.0 {
                return Err(OptionError::Overcommit(share));
            }
            if !share.is_finite() {
                return Err(number());
            }
            if share < 0.0 {
                warnings.push(format!(
                    "swarm.overcommit is {share}: less than the real resources will be used"
                ));
            }
            config.scheduler.overcommit = share;
        }
        if let Some(text) = self.cluster_opt("swarm.createretry")? {
            let number = || OptionError::ClusterOptNumber {
                key: "swarm.createretry",
                value: text.to_owned(),
            };
            let count = parse_integer(text).ok_or_else(number)?;
            if count < 0 {
                return Err(OptionError::CreateRetry(count));
            }
            config.scheduler.create_retry = u32::try_from(count).map_err(|_| number())?;
        }
        for option in &self.cluster_opt {
            let key = option.split('=').next().unwrap_or(option);
            if key != "swarm.overcommit" && key != "swarm.createretry" {
                warnings.push(format!("unknown --cluster-opt `{key}` has no effect"));
            }
        }
        Ok(warnings)
    }

    /// Without `--replication` the other options of replication mean nothing, as in classic Swarm.
    fn apply_replication(
        &self,
        environment: &Environment,
        config: &mut Config,
    ) -> Result<(), OptionError> {
        match self.replication {
            Some(true) => config.replication.enabled = true,
            Some(false) => config.replication.enabled = false,
            None => {}
        }
        if self.replication != Some(true) {
            return Self::check_replication(config);
        }
        let advertise = self.advertise.as_ref();
        let advertise = advertise
            .or(environment.swarm_advertise.as_ref())
            .filter(|address| !address.is_empty())
            .ok_or(OptionError::ReplicationAdvertise)?;
        if !is_advertisable(advertise) {
            return Err(OptionError::Advertise);
        }
        if let Some(text) = &self.replication_ttl {
            let nanos = duration::parse_nanos(text).map_err(OptionError::ReplicationTtl)?;
            let nanos = u64::try_from(nanos).ok().filter(|nanos| *nanos > 0);
            let nanos = nanos.ok_or(OptionError::ReplicationTtlNotPositive)?;
            let ttl = Duration::from_nanos(nanos);
            if ttl < Duration::from_secs(1) {
                return Err(OptionError::ReplicationTtlTooShort);
            }
            config.replication.ttl = ttl;
        }
        config.replication.advertise = Some(advertise.clone());
        Self::check_replication(config)
    }

    /// A lock is worth something only in a store that managers share.
    fn check_replication(config: &Config) -> Result<(), OptionError> {
        let is_shared = matches!(config.effective_store().0, StoreUrl::Servers(_));
        if config.replication.enabled && !is_shared {
            return Err(OptionError::LeaderElection);
        }
        Ok(())
    }

    /// Returns the value of the first `--cluster-opt` called `key`.
    fn cluster_opt(&self, key: &'static str) -> Result<Option<&str>, OptionError> {
        for option in &self.cluster_opt {
            match option.split_once('=') {
                Some((name, value)) if name == key => return Ok(Some(value)),
                None if option == key => return Err(OptionError::ClusterOptForm(key)),
                _ => {}
            }
        }
        Ok(None)
    }

    fn apply_listen(
        &self,
        environment: &Environment,
        here: &Path,
        config: &mut Config,
    ) -> Result<(), OptionError> {
        let from_environment = environment
            .swarm_host
            .iter()
            .flat_map(|list| list.split(','));
        let given: Vec<&str> = if self.host.is_empty() {
            from_environment
                .map(str::trim)
                .filter(|host| !host.is_empty())
                .collect()
        } else {
            self.host.iter().map(String::as_str).collect()
        };
        if !given.is_empty() {
            config.listen = given
                .into_iter()
                .map(|text| {
                    text.parse::<ListenAddr>()
                        .map(|address| address.relative_to(here))
                })
                .collect::<Result<_, _>>()?;
        }
        Ok(())
    }
}

/// Refuses a URL that no discovery plugin is for, and options that cannot be.
pub(super) fn check_discovery(config: &Config) -> Result<(), OptionError> {
    let url = config.discovery.url.as_ref();
    if url.is_some_and(|url| !config.has_plugin(&url.scheme, PluginKind::Discovery)) {
        return Err(OptionError::DiscoveryService);
    }
    match config.discovery.mistake() {
        Some((_, reason)) => Err(OptionError::Discovery(reason)),
        None => Ok(()),
    }
}

/// Parses an integer whose prefix names its base, as Go's `strconv.ParseInt(s, 0, 64)` does.
fn parse_integer(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let lower = digits.to_ascii_lowercase();
    let (base, digits) = if let Some(hex) = lower.strip_prefix("0x") {
        (16, hex)
    } else if let Some(octal) = lower.strip_prefix('0').filter(|rest| !rest.is_empty()) {
        (8, octal)
    } else {
        (10, lower.as_str())
    };
    Some(sign * i64::from_str_radix(digits, base).ok()?)
}
