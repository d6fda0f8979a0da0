//! The options of `skep list`, `skep join` and `skep create`.
//!
//! Names, checks, their order and the error texts are classic Swarm's.

use std::path::PathBuf;
use std::time::Duration;

use crate::app::{Fencing, Membership, new_token};
use crate::cli::manage::{OptionError, check_discovery};
use crate::cli::{CliError, Context, Join, List};
use crate::config::Config;
use crate::config::advertise::is_advertisable;
use crate::config::discovery::DiscoveryUrl;
use crate::config::duration::{self, DurationError};

/// Where the membership is kept.
#[derive(Debug, clap::Args)]
struct DiscoveryArgs {
    /// Where the engines are: [nodes://]<ip1>,<ip2>, file://path/to/file [env: SWARM_DISCOVERY]
    #[arg(value_name = "DISCOVERY")]
    discovery: Vec<String>,

    /// Configuration file, for the plugins in it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Option for the discovery plugin; repeat it
    #[arg(long, value_name = "KEY=VALUE")]
    discovery_opt: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    from: DiscoveryArgs,

    /// How long to wait for the first answer
    #[arg(
        long,
        value_name = "DURATION",
        allow_hyphen_values = true,
        default_value = "10s"
    )]
    timeout: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct JoinArgs {
    #[command(flatten)]
    to: DiscoveryArgs,

    /// Address of this node's engine, as the manager reaches it [env: SWARM_ADVERTISE]
    #[arg(long, visible_alias = "addr", value_name = "HOST:PORT")]
    advertise: Option<String>,

    /// Longest random wait before the first registration
    #[arg(
        long,
        value_name = "DURATION",
        allow_hyphen_values = true,
        default_value = "0s"
    )]
    delay: String,

    /// Time between two registrations
    #[arg(
        long,
        value_name = "DURATION",
        allow_hyphen_values = true,
        default_value = "60s"
    )]
    heartbeat: String,

    /// How long a registration is good for
    #[arg(
        long,
        value_name = "DURATION",
        allow_hyphen_values = true,
        default_value = "180s"
    )]
    ttl: String,

    /// Register without looking whether an engine answers at that address
    #[arg(long)]
    no_engine_check: bool,

    /// Where a manager can be asked, if the store cannot: host:port, repeatable; more are learned
    #[arg(long, value_name = "HOST:PORT")]
    manager: Vec<String>,

    /// How this node's engine is reached from here, if not at the advertised address:
    /// host:port or unix:///var/run/docker.sock
    #[arg(long, value_name = "HOST")]
    engine: Option<String>,

    /// How long this node's lease is valid: without one, containers that may be made again
    /// elsewhere are stopped here
    #[arg(
        long,
        value_name = "DURATION",
        allow_hyphen_values = true,
        default_value = "20s"
    )]
    lease_ttl: String,

    /// Directory of what outlives the agent, its lease and its volumes among it
    /// [default: $XDG_STATE_HOME/skep, else /var/lib/skep for root, else ~/.local/state/skep]
    #[arg(long, value_name = "DIRECTORY")]
    state_dir: Option<PathBuf>,

    /// Keep no lease, and never stop a container
    #[arg(long)]
    no_fencing: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct CreateArgs {
    #[arg(hide = true)]
    rest: Vec<String>,
}

/// Why one of these commands cannot be followed. The texts are classic Swarm's where it had one.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what each variant is")]
pub enum NodesError {
    #[error("invalid --timeout: {0}")]
    Timeout(DurationError),
    #[error("--timeout should be a positive number")]
    TimeoutNotPositive,
    #[error("missing mandatory --advertise flag")]
    NoAdvertise,
    #[error("--advertise should be of the form ip:port or hostname:port")]
    Advertise,
    #[error("invalid --delay: {0}")]
    Delay(DurationError),
    #[error("--delay should not be a negative number")]
    DelayNegative,
    #[error("invalid --ttl: {0}")]
    Ttl(DurationError),
    #[error("--ttl must be strictly superior to the heartbeat value")]
    TtlTooShort,
    #[error("invalid --lease-ttl: {0}")]
    LeaseTtl(DurationError),
    #[error("--lease-ttl should be at least two seconds")]
    LeaseTtlTooShort,
    #[error("--manager {0} should be of the form ip:port or hostname:port")]
    Manager(String),
    #[error("the `create` command takes no arguments. See '{0} create --help'.")]
    CreateArguments(String),
}

impl DiscoveryArgs {
    /// Returns the discovery argument, or what stands for it in the environment.
    fn url(&self, command: &'static str, context: &Context<'_>) -> Result<String, CliError> {
        // Classic Swarm takes the argument only if there is exactly one.
        let given = match self.discovery.as_slice() {
            [url] => Some(url),
            _ => context.environment.swarm_discovery.as_ref(),
        };
        let given = given.filter(|url| !url.is_empty()).cloned();
        given.ok_or_else(|| {
            let program = context.program.to_owned();
            OptionError::NoDiscovery { command, program }.into()
        })
    }

    /// Returns a configuration that knows where the membership is kept.
    fn config(&self, url: &str, context: &Context<'_>) -> Result<Config, CliError> {
        let mut config = match &self.config {
            Some(path) => Config::load(path)?,
            None => Config::default(),
        };
        for option in &self.discovery_opt {
            let (key, value) = option.split_once('=').ok_or(OptionError::DiscoveryOpt)?;
            let (key, value) = (key.to_owned(), value.to_owned());
            config.discovery.options.insert(key, value);
        }
        let url: DiscoveryUrl = url.parse().map_err(|_| OptionError::DiscoveryService)?;
        config.discovery.url = Some(url.relative_to(context.here));
        check_discovery(&config)?;
        Ok(config)
    }
}

impl ListArgs {
    pub(super) fn apply(&self, context: &Context<'_>) -> Result<List, CliError> {
        let url = self.from.url("list", context)?;
        let timeout =
            positive(&self.timeout, NodesError::Timeout)?.ok_or(NodesError::TimeoutNotPositive)?;
        let config = self.from.config(&url, context)?;
        Ok(List { config, timeout })
    }
}

impl JoinArgs {
    pub(super) fn apply(&self, context: &Context<'_>) -> Result<Join, CliError> {
        let url = self.to.url("join", context)?;
        let advertise = self.advertise.as_ref();
        let advertise = advertise
            .or(context.environment.swarm_advertise.as_ref())
            .filter(|address| !address.is_empty())
            .ok_or(NodesError::NoAdvertise)?;
        if !is_advertisable(advertise) {
            return Err(NodesError::Advertise.into());
        }
        let delay = duration::parse_nanos(&self.delay).map_err(NodesError::Delay)?;
        if delay < 0 {
            return Err(NodesError::DelayNegative.into());
        }
        let heartbeat = positive(&self.heartbeat, OptionError::Heartbeat)?
            .filter(|heartbeat| *heartbeat >= Duration::from_secs(1))
            .ok_or(OptionError::HeartbeatTooShort)?;
        let ttl = positive(&self.ttl, NodesError::Ttl)?
            .filter(|ttl| *ttl > heartbeat)
            .ok_or(NodesError::TtlTooShort)?;
        let mut config = self.to.config(&url, context)?;
        if let Some(directory) = &self.state_dir {
            config.agent.state_directory = context.here.join(directory);
        }
        let lease_ttl = positive(&self.lease_ttl, NodesError::LeaseTtl)?
            .filter(|ttl| *ttl >= Duration::from_secs(2))
            .ok_or(NodesError::LeaseTtlTooShort)?;
        let mut managers = Vec::new();
        for manager in &self.manager {
            let bare = manager.strip_prefix("tcp://").unwrap_or(manager);
            if !is_advertisable(bare) {
                return Err(NodesError::Manager(manager.clone()).into());
            }
            managers.push(bare.to_owned());
        }
        let engine = self.engine.as_ref().unwrap_or(advertise);
        let engine = engine.strip_prefix("tcp://").unwrap_or(engine).to_owned();
        Ok(Join {
            membership: Membership {
                fencing: (!self.no_fencing).then_some(Fencing {
                    managers,
                    ttl: lease_ttl,
                    state_dir: config.agent.state_directory.clone(),
                }),
                advertise: advertise.clone(),
                engine,
                ttl,
                delay: Duration::from_nanos(u64::try_from(delay).unwrap_or(u64::MAX)),
                heartbeat,
                check_engine: !self.no_engine_check,
            },
            config,
        })
    }
}

impl CreateArgs {
    /// Returns a new token. Whoever knows it may see and change its list, so it cannot be guessed;
    /// no server has to be asked.
    pub(super) fn token(&self, context: &Context<'_>) -> Result<String, NodesError> {
        if self.rest.is_empty() {
            Ok(new_token())
        } else {
            Err(NodesError::CreateArguments(context.program.to_owned()))
        }
    }
}

/// Parses a duration; `None` means that it is not above zero.
fn positive<E: Into<CliError>>(
    text: &str,
    invalid: impl FnOnce(DurationError) -> E,
) -> Result<Option<Duration>, CliError> {
    let nanos = duration::parse_nanos(text).map_err(|error| invalid(error).into())?;
    let nanos = u64::try_from(nanos).ok().filter(|nanos| *nanos > 0);
    Ok(nanos.map(Duration::from_nanos))
}
