//! One column of the table of scale: what a fleet of so many engines with so many containers costs.
//!
//! The daemon, a simulated fleet and the load generator are three processes on the same machine.
//! Every placement is made by the WASM plugins, with the default filters and one constraint; the
//! embedded store keeps records as it does by default. Creates come last, as they grow the fleet.
//!
//! ```text
//! cargo bench --bench scale -- 100x30 [--json FILE]
//! cargo bench --bench scale -- draw FILE.svg JSON-FILE...
//! ```
//!
//! What the fleet answers without a daemon, asked the same way, is the limit of what can be
//! measured, and is told with the table. A create's own share is its latency as one client sees it,
//! less what the chosen engine alone takes for a create and an inspection (median).

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

mod chart;
mod fleet;
mod load;
mod measure;
mod report;

use self::{measure::Size, report::Report};

/// Measures one column of the table of scale.
#[derive(Debug, Parser)]
struct Options {
    #[command(subcommand)]
    role: Option<Role>,
    /// Engines and containers of each, `1000x30`.
    #[arg(default_value = "100x30")]
    size: Size,
    /// Seconds of each load, and of idling.
    #[arg(long, global = true, default_value_t = 20)]
    seconds: u64,
    /// Where the figures go as JSON, besides the table.
    #[arg(long)]
    json: Option<PathBuf>,
    /// What cargo tells every bench.
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// What the bench runs as a process of its own.
    #[command(hide = true)]
    Fleet {
        /// Its size.
        size: Size,
    },
    /// Creates containers through a daemon that runs already, for profiles of it.
    Create {
        /// Where it listens.
        addr: std::net::SocketAddr,
        /// How many clients.
        #[arg(default_value_t = 8)]
        clients: usize,
    },
    /// Draws what was measured before.
    Draw {
        /// The picture.
        picture: PathBuf,
        /// Figures as `--json` writes them.
        #[arg(required = true)]
        figures: Vec<PathBuf>,
    },
}

fn main() -> ExitCode {
    match run(Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scale: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Runtime::new()?;
    match options.role {
        Some(Role::Fleet { size }) => runtime.block_on(fleet::serve(size)),
        Some(Role::Create { addr, clients }) => {
            let time = std::time::Duration::from_secs(options.seconds);
            let prefix = format!("load-{}-", std::process::id());
            let creates = runtime.block_on(load::creates(addr, clients, time, &prefix));
            println!("{:.1} creates/s", creates.rate);
        }
        Some(Role::Draw { picture, figures }) => {
            let reports: Result<Vec<_>, Box<dyn Error>> =
                figures.iter().map(|path| read(path)).collect();
            let drawn = chart::draw(&picture, reports?);
            drawn.map_err(|error| error.to_string())?;
        }
        None => {
            let report = runtime.block_on(measure::column(options.size, options.seconds));
            print!("{}", report.table());
            if let Some(path) = options.json {
                let json = serde_json::to_string_pretty(&report)? + "\n";
                fs::write(&path, json)
                    .map_err(|error| format!("cannot write `{}`: {error}", path.display()))?;
            }
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Report, Box<dyn Error>> {
    let text = fs::read_to_string(path)
        .map_err(|error| format!("cannot read `{}`: {error}", path.display()))?;
    let report = serde_json::from_str(&text);
    Ok(report.map_err(|error| format!("`{}`: {error}", path.display()))?)
}
