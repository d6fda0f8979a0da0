//! What `skep simulate` does: it runs a workload with the plugins of the configuration.

use std::path::PathBuf;

use anyhow::{Context as _, anyhow};

use super::{load_plugins, scheduling_specs};
use crate::{
    config::{
        Config,
        workload::{MAX_NODES, Workload},
    },
    scheduler::Scheduler,
    simulate::{Simulation, draw},
};

/// What is simulated, and what shall be made of it.
#[derive(Debug)]
pub struct Simulate {
    /// The filters, the strategies, and how far nodes are filled.
    pub config: Config,
    /// The workload file.
    pub workload: PathBuf,
    /// How many nodes there shall be, if not as many as the workload says.
    pub nodes: Option<u32>,
    /// The names of strategy plugins, each of which runs the workload.
    pub strategies: Vec<String>,
    /// What all randomness follows from.
    pub seed: u64,
    /// What is printed.
    pub format: ReportFormat,
    /// Whether it is told how long decisions took.
    pub is_timed: bool,
    /// Where the course of time is drawn.
    pub svg: Option<PathBuf>,
}

/// How a report is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportFormat {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Runs the workload with one strategy after the other, and returns what is to be printed.
///
/// # Errors
///
/// The workload or its trace is wrong, a plugin cannot be loaded, the picture cannot be written.
pub fn simulate(what: Simulate) -> anyhow::Result<String> {
    let Simulate {
        config,
        workload: path,
        ..
    } = &what;
    let missing = config.missing_files();
    if !missing.is_empty() {
        return Err(anyhow!(missing.join("\n")));
    }
    let mut workload = Workload::load(path)?;
    if let Some(nodes) = what.nodes {
        if !(1..=MAX_NODES).contains(&nodes) {
            return Err(anyhow!(
                "--nodes must be from 1 to {MAX_NODES}, not {nodes}"
            ));
        }
        workload.scale_nodes(nodes);
    }
    let simulation = Simulation::try_new(workload, what.seed)?;
    let name = path.file_name().unwrap_or(path.as_os_str());
    let filters = config.scheduler.filters.clone();
    let mut report = simulation.report(name.to_string_lossy().into_owned(), filters);
    for strategy in &what.strategies {
        let mut plugins = load_plugins(config, &scheduling_specs(config, strategy)?)?;
        let plugin = plugins.strategies.pop();
        let plugin = plugin.ok_or_else(|| anyhow!("no strategy is configured"))?;
        let scheduler = Scheduler::new(plugins.filters, plugin);
        let mut run = simulation.run(strategy, scheduler, config.scheduler.overcommit)?;
        if !what.is_timed {
            run.decisions = None;
        }
        report.runs.push(run);
    }
    if let Some(svg) = &what.svg {
        let written = std::fs::write(svg, draw(&report)?);
        written.with_context(|| format!("cannot write `{}`", svg.display()))?;
    }
    match what.format {
        ReportFormat::Table => Ok(report.table()),
        ReportFormat::Json => Ok(serde_json::to_string_pretty(&report)?),
    }
}
