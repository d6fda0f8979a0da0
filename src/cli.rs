//! The command line: options and commands, compatible with classic Swarm.
//!
//! Options may stand anywhere, with one dash or two. [`parse`] turns a command line into an
//! [`Invocation`]: the effective configuration, or a text to print. It reads the config file, and
//! what that names if it shall be checked, and does nothing else; `main` acts on the result.

mod argv;
mod ask;
mod container;
mod manage;
mod nodes;
mod simulate;
mod tls;
mod usage;

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

use crate::app;
use crate::app::Membership;
use crate::cli::ask::{ExplainArgs, RebalanceArgs};
use crate::cli::manage::ManageArgs;
use crate::cli::nodes::{CreateArgs, JoinArgs, ListArgs};
use crate::cli::simulate::SimulateArgs;
use crate::config::log::{LogFormat, LogLevel};
use crate::config::{Config, ConfigError};

pub use crate::cli::manage::OptionError;
pub use crate::cli::nodes::NodesError;
pub use crate::cli::tls::TlsOptionError;

/// What the command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// Print this text and succeed.
    Print(String),
    /// Run the daemon.
    Manage(Box<Manage>),
    /// Print the discovered nodes.
    List(Box<List>),
    /// Register a node until told to stop.
    Join(Box<Join>),
    /// Ask a manager, and print what it says.
    Ask(Box<app::Ask>),
    /// Run a workload without engines, and print what became of it.
    Simulate(Box<app::Simulate>),
}

/// What `skep list` is to do.
#[derive(Debug)]
pub struct List {
    /// It has a discovery URL.
    pub config: Config,
    /// How long to wait for the first answer.
    pub timeout: Duration,
}

/// What `skep join` is to do.
#[derive(Debug)]
pub struct Join {
    /// It has a discovery URL.
    pub config: Config,
    /// What is registered, and how.
    pub membership: Membership,
}

/// The daemon's configuration, from the file and the command line.
#[derive(Debug)]
pub struct Manage {
    /// The options on top of the file on top of the defaults. It has a discovery URL.
    pub config: Config,
    /// What the operator should know once logging works.
    pub warnings: Vec<String>,
}

/// The environment variables that matter, read once so that tests need not set any.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `DEBUG`.
    pub debug: Option<String>,
    /// `SWARM_HOST`, a comma-separated list of addresses to listen on.
    pub swarm_host: Option<String>,
    /// `SWARM_DISCOVERY`, a discovery URL.
    pub swarm_discovery: Option<String>,
    /// `SWARM_ADVERTISE`, the address of `skep join`.
    pub swarm_advertise: Option<String>,
    /// `DOCKER_HOST`, where `skep explain` finds the manager.
    pub docker_host: Option<String>,
    /// `DOCKER_TLS_VERIFY`: TLS is spoken with it if this is set.
    pub docker_tls_verify: Option<String>,
    /// `DOCKER_CERT_PATH`, the directory of `ca.pem`, `cert.pem`, and `key.pem`.
    pub docker_cert_path: Option<String>,
}

/// What the options are read against.
struct Context<'a> {
    /// The name the program was started by, without its directory.
    program: &'a str,
    environment: &'a Environment,
    /// Where relative paths start.
    here: &'a Path,
}

/// Why the command line cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The line itself is wrong: unknown option or command, missing value.
    #[error("{0}")]
    Usage(String),
    /// An option's value is wrong.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// An option of `list`, `join` or `create` is wrong.
    #[error(transparent)]
    Nodes(#[from] NodesError),
    /// The file of `--config` is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// `--check-config` misses files, one line each.
    #[error("{}", .0.join("\n"))]
    MissingFiles(Vec<String>),
    /// `--check-config` cannot use a certificate or its key.
    #[error("{0}")]
    Certificates(String),
    /// The configuration cannot be printed.
    #[error("cannot print the configuration: {0}")]
    Dump(#[from] toml::ser::Error),
}

/// One Docker API endpoint over a fleet of Docker engines.
#[derive(Debug, Parser)]
#[command(
    name = "skep",
    version = VERSION,
    disable_version_flag = true,
    arg_required_else_help = true,
    max_term_width = 100
)]
struct Cli {
    /// Log at level debug [env: DEBUG]
    #[arg(long, global = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool)]
    debug: Option<bool>,

    /// error, warn, info, debug, trace, or directives such as info,skep::engine=debug
    #[arg(long, short, global = true, value_name = "LEVEL")]
    log_level: Option<String>,

    /// Show the daemon as experimental; nothing else changes
    #[arg(long, global = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool)]
    experimental: Option<bool>,

    /// Shape of a log line: text or json [default: text]
    #[arg(long, global = true, value_name = "FORMAT", value_parser = parse_log_format)]
    log_format: Option<LogFormat>,

    /// Print the version
    #[arg(long, short = 'v', global = true, action = clap::ArgAction::Version)]
    version: Option<bool>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the manager
    #[command(visible_alias = "m")]
    Manage(Box<ManageArgs>),
    /// Register this node in discovery until told to stop
    #[command(visible_alias = "j")]
    Join(JoinArgs),
    /// Print the discovered nodes
    #[command(visible_alias = "l")]
    List(ListArgs),
    /// Print a new token, for a list of nodes that a manager keeps
    #[command(visible_alias = "c")]
    Create(CreateArgs),
    /// Tell where a container goes, and why: skep explain -- -e constraint:rack==r1 nginx
    Explain(Box<ExplainArgs>),
    /// Move containers to where the strategy would put them now
    Rebalance(RebalanceArgs),
    /// Try strategies on a workload, without engines
    Simulate(Box<SimulateArgs>),
}

// Scripts look for `version X.Y.Z` after the name of the program.
const VERSION: &str = concat!("version ", env!("CARGO_PKG_VERSION"), " (HEAD)");

/// Returns what the command line `args`, program name first, asks for.
///
/// # Errors
///
/// [`CliError`], whose message is for the terminal.
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    environment: &Environment,
) -> Result<Invocation, CliError> {
    let command = Cli::command();
    let args = argv::normalize(args, &command);
    let program = usage::program(&args);
    if let Some((second, first)) = argv::two_forms(&args, &command) {
        return Err(CliError::Usage(format!(
            "Cannot use two forms of the same flag: {second} {first}"
        )));
    }
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error)
            if error.use_stderr()
                && error.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand =>
        {
            return Err(CliError::Usage(usage::mistake(&error)));
        }
        Err(error) if error.kind() == ErrorKind::DisplayVersion => {
            return Ok(Invocation::Print(format!("{program} {VERSION}")));
        }
        // Help is an error to clap only.
        Err(error) => return Ok(Invocation::Print(error.to_string())),
    };
    let here = std::path::absolute(".").unwrap_or_else(|_| Path::new("/").to_owned());
    let context = Context {
        program: &program,
        environment,
        here: &here,
    };
    match &cli.command {
        Command::Manage(args) => manage(&cli, args, &context),
        Command::List(args) => {
            let mut list = args.apply(&context)?;
            cli.apply_log(environment, &mut list.config)?;
            Ok(Invocation::List(Box::new(list)))
        }
        Command::Join(args) => {
            let mut join = args.apply(&context)?;
            cli.apply_log(environment, &mut join.config)?;
            Ok(Invocation::Join(Box::new(join)))
        }
        Command::Create(args) => Ok(Invocation::Print(args.token(&context)?)),
        Command::Explain(args) => Ok(Invocation::Ask(Box::new(args.apply(&context)?))),
        Command::Rebalance(args) => Ok(Invocation::Ask(Box::new(args.apply(&context)))),
        Command::Simulate(args) => {
            let mut simulate = args.apply()?;
            cli.apply_log(environment, &mut simulate.config)?;
            Ok(Invocation::Simulate(Box::new(simulate)))
        }
    }
}

fn manage(cli: &Cli, args: &ManageArgs, context: &Context<'_>) -> Result<Invocation, CliError> {
    let mut config = match &args.config {
        Some(path) => Config::load(path)?,
        None => Config::default(),
    };
    cli.apply_log(context.environment, &mut config)?;
    if let Some(experimental) = cli.experimental {
        config.api.experimental = experimental;
    }
    let warnings = args.apply(context, &mut config)?;

    if args.check_config {
        let missing = config.missing_files();
        if !missing.is_empty() {
            return Err(CliError::MissingFiles(missing));
        }
        app::check_certificates(&config)
            .map_err(|error| CliError::Certificates(error.to_string()))?;
        return Ok(Invocation::Print("config is valid".to_owned()));
    }
    if args.dump_config {
        return Ok(Invocation::Print(config.dump()?));
    }
    Ok(Invocation::Manage(Box::new(Manage { config, warnings })))
}

impl Cli {
    /// Puts the logging options on top of `config`.
    fn apply_log(&self, environment: &Environment, config: &mut Config) -> Result<(), OptionError> {
        let debug = self.debug.or_else(|| {
            // A DEBUG that is meant for another program must not stop this one.
            parse_bool(environment.debug.as_deref()?).ok()
        });
        if debug == Some(true) {
            config.log.level = LogLevel::debug();
        }
        if let Some(level) = &self.log_level {
            config.log.level = level.parse().map_err(OptionError::LogLevel)?;
        }
        if let Some(format) = self.log_format {
            config.log.format = format;
        }
        Ok(())
    }
}

impl Environment {
    /// Reads the variables of this process. A value that is not UTF-8 counts as absent.
    pub fn from_process() -> Self {
        let read = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
        Self {
            debug: read("DEBUG"),
            swarm_host: read("SWARM_HOST"),
            swarm_discovery: read("SWARM_DISCOVERY"),
            swarm_advertise: read("SWARM_ADVERTISE"),
            docker_host: read("DOCKER_HOST"),
            docker_tls_verify: read("DOCKER_TLS_VERIFY"),
            docker_cert_path: read("DOCKER_CERT_PATH"),
        }
    }
}

fn parse_log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("write text or json".to_owned()),
    }
}

/// Parses a truth value as Go's `strconv.ParseBool` does.
fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("write true or false".to_owned()),
    }
}

#[cfg(test)]
mod tests;
