//! The options of `skep explain` and `skep rebalance`, which ask a manager.
//!
//! What follows `--` is written as for `docker create`, as far as it bears on where a container
//! goes. Options that do not are accepted and left out, so that a command line can be pasted.

use std::path::PathBuf;

use clap::Parser;
use serde_json::{Map, Value, json};

use super::{CliError, Context};
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

/// The part of `docker create` that bears on where a container goes, and what may stand beside it.
#[derive(Debug, Parser)]
#[command(
    name = "skep explain --",
    no_binary_name = true,
    disable_help_flag = true,
    disable_version_flag = true
)]
struct CreateArgs {
    #[arg(long)]
    name: Option<String>,
    #[arg(long, short)]
    env: Vec<String>,
    #[arg(long, short)]
    label: Vec<String>,
    #[arg(long, short, value_parser = parse_port)]
    publish: Vec<(String, Value)>,
    #[arg(long, value_parser = parse_exposed)]
    expose: Vec<String>,
    #[arg(long = "network", visible_alias = "net")]
    network: Option<String>,
    #[arg(long)]
    link: Vec<String>,
    #[arg(long)]
    volumes_from: Vec<String>,
    #[arg(long, short)]
    volume: Vec<String>,
    #[arg(long, short, value_parser = parse_memory)]
    memory: Option<u64>,
    #[arg(long, value_parser = parse_memory)]
    memory_reservation: Option<u64>,
    #[arg(long, value_parser = parse_cpus)]
    cpus: Option<u64>,
    #[arg(long, short)]
    cpu_shares: Option<u64>,

    #[arg(long, short, hide = true)]
    detach: bool,
    #[arg(long, short, hide = true)]
    interactive: bool,
    #[arg(long, short, hide = true)]
    tty: bool,
    #[arg(long, hide = true)]
    rm: bool,
    #[arg(long, hide = true)]
    init: bool,
    #[arg(long, hide = true)]
    privileged: bool,
    #[arg(long, hide = true)]
    restart: Option<String>,
    #[arg(long, short, hide = true)]
    user: Option<String>,
    #[arg(long, short, hide = true)]
    workdir: Option<String>,
    #[arg(long, short = 'h', hide = true)]
    hostname: Option<String>,
    #[arg(long, hide = true)]
    entrypoint: Option<String>,

    image: String,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
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
        let args = CreateArgs::try_parse_from(&self.create);
        let args = args.map_err(|error| CliError::Usage(super::usage::mistake(&error)))?;
        Ok(What::ExplainCreate {
            name: args.name.clone().unwrap_or_default(),
            body: args.body().to_string(),
        })
    }
}

impl CreateArgs {
    /// The body of the create request.
    fn body(&self) -> Value {
        let labels = self.label.iter().map(|label| {
            let (key, value) = label.split_once('=').unwrap_or((label, ""));
            (key.to_owned(), json!(value))
        });
        let mut ports = Map::new();
        let mut exposed: Map<String, Value> = Map::new();
        for (port, binding) in &self.publish {
            exposed.insert(port.clone(), json!({}));
            let bindings = ports.entry(port.clone()).or_insert_with(|| json!([]));
            if let Some(bindings) = bindings.as_array_mut() {
                bindings.push(binding.clone());
            }
        }
        exposed.extend(self.expose.iter().map(|port| (port.clone(), json!({}))));
        json!({
            "Image": self.image,
            "Cmd": self.command,
            "Env": self.env,
            "Labels": labels.collect::<Map<_, _>>(),
            "ExposedPorts": exposed,
            "HostConfig": {
                "PortBindings": ports,
                "NetworkMode": self.network.as_deref().unwrap_or("default"),
                "Links": self.link,
                "VolumesFrom": self.volumes_from,
                "Binds": self.volume,
                "Memory": self.memory.unwrap_or(0),
                "MemoryReservation": self.memory_reservation.unwrap_or(0),
                "NanoCpus": self.cpus.unwrap_or(0),
                "CpuShares": self.cpu_shares.unwrap_or(0),
            },
        })
    }
}

/// `[[IP:]HOST:]CONTAINER[/PROTOCOL]`: the container's port and its binding.
fn parse_port(text: &str) -> Result<(String, Value), String> {
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    let (ip, host) = host.rsplit_once(':').unwrap_or(("", host));
    if !host.is_empty() && host.parse::<u16>().is_err() {
        return Err(format!("`{host}` is no port"));
    }
    let binding = json!({"HostIp": ip.trim_matches(['[', ']']), "HostPort": host});
    Ok((parse_exposed(port)?, binding))
}

/// `PORT[/PROTOCOL]`
fn parse_exposed(text: &str) -> Result<String, String> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    match (port.parse::<u16>(), protocol) {
        (Ok(port), "tcp" | "udp" | "sctp") => Ok(format!("{port}/{protocol}")),
        _ => Err(format!("`{text}` is no port")),
    }
}

/// Bytes, with `b`, `k`, `m`, or `g` behind them.
fn parse_memory(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let number = lower.trim_end_matches('b');
    let (number, unit) = match number.char_indices().next_back() {
        Some((at, 'k')) => (&number[..at], 1 << 10),
        Some((at, 'm')) => (&number[..at], 1 << 20),
        Some((at, 'g')) => (&number[..at], 1 << 30),
        _ => (number, 1),
    };
    let bytes = number.parse::<u64>().ok();
    let bytes = bytes.and_then(|number| number.checked_mul(unit));
    bytes.ok_or_else(|| format!("`{text}` is no size such as 512m"))
}

/// Cores as billionths.
fn parse_cpus(text: &str) -> Result<u64, String> {
    let cores = text.parse::<f64>().ok();
    let cores = cores.filter(|cores| cores.is_finite() && *cores >= 0.0);
    let cores = cores.ok_or_else(|| format!("`{text}` is no number of cores"))?;
    Ok((cores * 1e9).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(arguments: &str) -> Result<Value, String> {
        let args = CreateArgs::try_parse_from(arguments.split_whitespace());
        let args = args.map_err(|error| error.to_string())?;
        Ok(args.body())
    }

    #[test]
    fn a_pasted_command_line_is_what_docker_would_ask_for() {
        let body = body(
            "-d --rm -it -e constraint:rack==r1 -l tier=front --net front -p 8080:80 -p 127.0.0.1::53/udp \
             -m 512m --cpus 1.5 -c 2 --link db:db --volumes-from data -v /srv:/srv nginx -g daemon --name=x",
        );
        let body = body.unwrap();
        assert_eq!(body["Image"], "nginx");
        assert_eq!(body["Cmd"], json!(["-g", "daemon", "--name=x"]));
        assert_eq!(body["Env"], json!(["constraint:rack==r1"]));
        assert_eq!(body["Labels"], json!({"tier": "front"}));
        assert_eq!(body["ExposedPorts"], json!({"80/tcp": {}, "53/udp": {}}));
        let host = &body["HostConfig"];
        let port = |ip: &str, port: &str| json!([{"HostIp": ip, "HostPort": port}]);
        assert_eq!(host["PortBindings"]["80/tcp"], port("", "8080"));
        assert_eq!(host["PortBindings"]["53/udp"], port("127.0.0.1", ""));
        assert_eq!(host["Memory"], 512 << 20);
        assert_eq!(host["NanoCpus"], 1_500_000_000);
        assert_eq!(host["CpuShares"], 2);
        assert_eq!(host["NetworkMode"], "front");
        assert_eq!(host["Links"], json!(["db:db"]));
        assert_eq!(host["VolumesFrom"], json!(["data"]));
        assert_eq!(host["Binds"], json!(["/srv:/srv"]));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (arguments, named) in [
            ("-p http:80 nginx", "http"),
            ("-p 80:99999 nginx", "99999"),
            ("-m lots nginx", "lots"),
            ("--cpus -1 nginx", "-1"),
            ("--gpus all nginx", "--gpus"),
            ("-e A=b", "IMAGE"),
        ] {
            let error = body(arguments).unwrap_err();
            assert!(error.contains(named), "{arguments}: {error}");
        }
    }
}
