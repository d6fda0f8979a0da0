//! The options of `skep explain` and `skep rebalance`, which ask a manager.
//!
//! What follows `--` is written as for `docker create`, so that a command line can be pasted; see
//! [`container`].

use std::path::PathBuf;

use super::{CliError, Context, container};
use crate::app::{Ask, Manager, What};
use crate::config::tls::{EngineTls, EngineTlsMode};

/// Where the manager is asked unless something else is said.
const DEFAULT_HOST: &str = "tcp://127.0.0.1:2375";

/// Who is asked, and how it is told.
#[derive(Debug, clap::Args)]
struct AskArgs {
    /// Where the manager listens [env: DOCKER_HOST] [default: tcp://127.0.0.1:2375]
    #[arg(long, short = 'H', value_name = "HOST")]
    host: Option<String>,

    /// Print the manager's answer as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct RebalanceArgs {
    #[command(flatten)]
    ask: AskArgs,

    /// Only tell what would be moved
    #[arg(long)]
    dry_run: bool,

    /// Most containers that are moved, from 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    max_moves: u32,
}

#[derive(Debug, clap::Args)]
pub(super) struct ExplainArgs {
    #[command(flatten)]
    ask: AskArgs,

    /// A container that is there, by name or ID
    #[arg(long, value_name = "NAME", conflicts_with = "create")]
    container: Option<String>,

    /// What would be given to `docker create`: options, image, command
    #[arg(
        last = true,
        value_name = "CREATE",
        required_unless_present = "container"
    )]
    create: Vec<String>,
}

impl AskArgs {
    fn ask(&self, context: &Context<'_>, what: What) -> Ask {
        let environment = context.environment;
        let host = self.host.as_ref().or(environment.docker_host.as_ref());
        let host = host.map_or(DEFAULT_HOST, String::as_str);
        let directory = environment.docker_cert_path.as_ref().map(PathBuf::from);
        let tls = match (&environment.docker_tls_verify, directory) {
            (Some(_), Some(directory)) => Some(EngineTls {
                mode: EngineTlsMode::Verify,
                ca: Some(directory.join("ca.pem")),
                cert: Some(directory.join("cert.pem")),
                key: Some(directory.join("key.pem")),
            }),
            _ => None,
        };
        let host = host.strip_prefix("tcp://").unwrap_or(host).to_owned();
        Ask {
            manager: Manager { host, tls },
            what,
            json: self.json,
        }
    }
}

impl RebalanceArgs {
    pub(super) fn apply(&self, context: &Context<'_>) -> Ask {
        let what = What::Rebalance {
            dry_run: self.dry_run,
            max_moves: self.max_moves,
        };
        self.ask.ask(context, what)
    }
}

impl ExplainArgs {
    pub(super) fn apply(&self, context: &Context<'_>) -> Result<Ask, CliError> {
        let what = match &self.container {
            Some(name) => What::ExplainContainer(name.clone()),
            None => self.create()?,
        };
        Ok(self.ask.ask(context, what))
    }

    fn create(&self) -> Result<What, CliError> {
        let lookup = |name: &str| std::env::var(name).ok();
        let create = container::parse(&self.create, &lookup).map_err(CliError::Usage)?;
        Ok(What::ExplainCreate {
            name: create.name,
            body: create.body.to_string(),
        })
    }
}
