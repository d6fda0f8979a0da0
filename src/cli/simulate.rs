//! The options of `skep simulate`.

use std::path::PathBuf;

use clap::ValueEnum;

use super::{CliError, OptionError};
use crate::app::{ReportFormat, Simulate};
use crate::config::Config;
use crate::config::plugin::PluginKind;

#[derive(Debug, clap::Args)]
pub(super) struct SimulateArgs {
    /// Workload file: nodes, and containers that come and go
    #[arg(long, value_name = "FILE")]
    workload: PathBuf,

    /// Configuration file, for the filters, the strategy, and the plugins in it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// How many nodes there are, in the proportions of the workload [default: as many as it says]
    #[arg(long, value_name = "N")]
    nodes: Option<u32>,

    /// Strategy to use; repeat it to compare several [default: that of the configuration]
    #[arg(long, value_name = "NAME")]
    strategy: Vec<String>,

    /// What all randomness follows from
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,

    /// What is printed
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "table")]
    format: Format,

    /// Do not tell how long decisions took, so that equal runs print the same
    #[arg(long)]
    no_timing: bool,

    /// Draw the course of time as an SVG picture
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Table,
    Json,
}

impl SimulateArgs {
    pub(super) fn apply(&self) -> Result<Simulate, CliError> {
        let config = match &self.config {
            Some(path) => Config::load(path)?,
            None => Config::default(),
        };
        let mut strategies = self.strategy.clone();
        if strategies.is_empty() {
            strategies.push(config.scheduler.strategy.clone());
        }
        let is_known = |name: &String| config.has_plugin(name, PluginKind::Strategy);
        if !strategies.iter().all(is_known) {
            return Err(OptionError::Strategy.into());
        }
        Ok(Simulate {
            config,
            workload: self.workload.clone(),
            nodes: self.nodes,
            strategies,
            seed: self.seed,
            format: match self.format {
                Format::Table => ReportFormat::Table,
                Format::Json => ReportFormat::Json,
            },
            is_timed: !self.no_timing,
            svg: self.svg.clone(),
        })
    }
}
