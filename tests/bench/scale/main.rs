//! One column of the table of scale: what a fleet of so many engines with so many containers costs.
//!
//! The daemon, a simulated fleet and the load generator are three processes on the same machine.
//! Every placement is made by the WASM plugins, with the default filters and one constraint; the
//! embedded store keeps records as it does by default. Creates come last, as they grow the fleet.
//!
//! ```text
//! cargo bench --bench scale -- 100x30 [--json FILE]
//! ```
//!
//! What the fleet answers without a daemon, asked the same way, is the limit of what can be
//! measured, and is told with the table. A create's own share is its latency as one client sees it,
//! less what the chosen engine alone takes for a create and an inspection (median).

use std::{fs, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

mod fleet;
mod load;
mod measure;
mod report;

use self::measure::Size;

/// Measures one column of the table of scale.
#[derive(Debug, Parser)]
struct Options {
    #[command(subcommand)]
    role: Option<Role>,
    /// Engines and containers of each, `1000x30`.
    #[arg(default_value = "100x30")]
    size: Size,
    /// Seconds of each load, and of idling.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Where the figures go as JSON, besides the table.
    #[arg(long)]
    json: Option<PathBuf>,
    /// What cargo tells every bench.
    #[arg(long, hide = true)]
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
}

fn main() -> ExitCode {
    let options = Options::parse();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    if let Some(Role::Fleet { size }) = options.role {
        runtime.block_on(fleet::serve(size));
        return ExitCode::SUCCESS;
    }
    let report = runtime.block_on(measure::column(options.size, options.seconds));
    print!("{}", report.table());
    if let Some(path) = options.json {
        let json = serde_json::to_string_pretty(&report).expect("figures are JSON");
        if let Err(error) = fs::write(&path, json + "\n") {
            eprintln!("scale: cannot write `{}`: {error}", path.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
