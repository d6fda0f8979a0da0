//! What a simulation found: as JSON, whose members stay what they are, and as a table.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{
    meter::{Figures, Point, rounded},
    survey::Survey,
};
use crate::{
    config::{duration, size, workload::Workload},
    model::resource::{Amount, NANO},
};

/// Changes when a member of the JSON gets another meaning or goes.
const VERSION: u32 = 1;

/// A workload, and what became of it with each strategy.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Of this format: 1.
    pub version: u32,
    /// What the workload is called.
    pub workload: String,
    /// What all randomness follows from.
    pub seed: u64,
    /// How many nodes there are.
    pub nodes: u32,
    /// Simulated time.
    #[serde(serialize_with = "rounded")]
    pub duration_seconds: f64,
    /// The filters, in their order.
    pub filters: Vec<String>,
    /// What the median container asks for, each resource by itself.
    pub median_container: Need,
    /// The most that containers ask for, each resource by itself.
    pub largest_container: Need,
    /// One for each strategy.
    pub runs: Vec<Run>,
}

/// What a container asks for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Need {
    /// Cores.
    #[serde(serialize_with = "rounded")]
    pub cpus: f64,
    /// Bytes.
    pub memory_bytes: u64,
}

/// What became of a workload with one strategy.
#[derive(Debug, PartialEq, Serialize)]
pub struct Run {
    /// The strategy's name.
    pub strategy: String,
    /// Containers that came.
    pub arrivals: u64,
    /// Those that got no node.
    pub refused: u64,
    /// Those that left before the end.
    pub left: u64,
    /// Those that were there at the end.
    pub running_at_end: u64,
    /// The same by class, in the order of the workload.
    pub classes: Vec<ClassCounts>,
    /// Who refused how many, most first.
    pub refusals: Vec<Refusal>,
    /// Averages over time.
    pub mean: Figures,
    /// The highest at any time; of `fairness`, the lowest.
    pub peak: Figures,
    /// The course of time in at most 200 parts of equal length.
    pub series: Vec<Point>,
    /// What decisions took, which is another thing with each run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decisions: Option<Decisions>,
}

/// The containers of one class.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct ClassCounts {
    /// The class, or `trace`.
    pub name: String,
    /// Containers that came.
    pub arrivals: u64,
    /// Those that got no node.
    pub refused: u64,
}

/// Containers that were refused by the same filter or strategy.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// `filter constraint`, `strategy spread`.
    pub by: String,
    /// How many.
    pub count: u64,
    /// What was asked of the filter, or said, the first time.
    pub first: String,
}

/// How long decisions took, refusals among them, and nothing but decisions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Decisions {
    /// By the time of the whole run, modelled nodes and figures included.
    #[serde(serialize_with = "rounded")]
    pub per_second: f64,
    /// Of one decision.
    #[serde(serialize_with = "rounded")]
    pub mean_us: f64,
    /// Half took less.
    #[serde(serialize_with = "rounded")]
    pub p50_us: f64,
    /// 90 of 100 took less.
    #[serde(serialize_with = "rounded")]
    pub p90_us: f64,
    /// 99 of 100 took less.
    #[serde(serialize_with = "rounded")]
    pub p99_us: f64,
    /// The longest, if it was no longer than a minute.
    #[serde(serialize_with = "rounded")]
    pub max_us: f64,
}

impl Report {
    pub(super) fn new(
        workload: String,
        seed: u64,
        from: &Workload,
        filters: Vec<String>,
        survey: &Survey,
    ) -> Self {
        Self {
            version: VERSION,
            workload,
            seed,
            nodes: from.node_count(),
            duration_seconds: survey.end as f64 / 1e6,
            filters,
            median_container: Need::of(survey.median),
            largest_container: Need::of(survey.largest),
            runs: Vec::new(),
        }
    }

    /// The report as a table with a column for each strategy.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{}: {} nodes, {}, seed {}\nmedian container: {}; largest: {}\n",
            self.workload,
            self.nodes,
            duration::format(Duration::from_secs_f64(self.duration_seconds.round())),
            self.seed,
            self.median_container.in_words(),
            self.largest_container.in_words(),
        );
        write_rows(&mut text, &self.rows());
        for run in &self.runs {
            for refusal in &run.refusals {
                // Writing to a text cannot fail; the same below.
                _ = writeln!(
                    text,
                    "\n{}: {} refused by {}, the first: {}",
                    run.strategy,
                    refusal.count,
                    refusal.by,
                    refusal.first.replace('\n', " ")
                );
            }
        }
        text
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let mut rows = Vec::new();
        let mut row = |label: &str, cell: &dyn Fn(&Run) -> String| {
            let cells = self.runs.iter().map(cell);
            rows.push(std::iter::once(label.to_owned()).chain(cells).collect());
        };
        row("", &|run| run.strategy.clone());
        row("containers", &|run| run.arrivals.to_string());
        row("refused", &|run| run.refused.to_string());
        row("running at the end", &|run| run.running_at_end.to_string());
        // Mean and peak of one figure.
        let mut both = |label: &str, figure: fn(&Figures) -> f64, unit: fn(f64) -> String| {
            row(label, &|run| {
                format!("{} / {}", unit(figure(&run.mean)), unit(figure(&run.peak)))
            });
        };
        both("CPU, mean / peak", |f| f.cpu, percent);
        both("memory, mean / peak", |f| f.memory, percent);
        both("nodes used, mean / peak", |f| f.nodes_used, whole);
        both("load deviation, mean / peak", |f| f.load_deviation, percent);
        both(
            "CPU stranded for the median, mean / peak",
            |f| f.stranded_cpu_median,
            percent,
        );
        both(
            "memory stranded for the median, mean / peak",
            |f| f.stranded_memory_median,
            percent,
        );
        both(
            "CPU stranded for the largest, mean / peak",
            |f| f.stranded_cpu_largest,
            percent,
        );
        both(
            "memory stranded for the largest, mean / peak",
            |f| f.stranded_memory_largest,
            percent,
        );
        row("fairness, mean", &|run| format!("{:.3}", run.mean.fairness));
        if self.runs.iter().all(|run| run.decisions.is_some()) {
            let mut took = |label: &str, figure: fn(&Decisions) -> f64| {
                row(label, &|run| {
                    run.decisions
                        .as_ref()
                        .map(figure)
                        .map_or_else(String::new, whole)
                });
            };
            took("decisions per second", |d| d.per_second);
            took("decision, p50 in µs", |d| d.p50_us);
            took("decision, p90 in µs", |d| d.p90_us);
            took("decision, p99 in µs", |d| d.p99_us);
            took("decision, max in µs", |d| d.max_us);
        }
        rows
    }
}

impl Need {
    fn of(amount: Amount) -> Self {
        Self {
            cpus: amount.cpu_nano as f64 / NANO as f64,
            memory_bytes: amount.memory_bytes,
        }
    }

    fn in_words(self) -> String {
        let cpus = (self.cpus * 1e3).round() / 1e3;
        format!("{cpus} cpus, {}", size::format(self.memory_bytes))
    }
}

impl Run {
    pub(super) fn new(strategy: &str, classes: &[String]) -> Self {
        let classes = classes.iter().map(|name| ClassCounts {
            name: name.clone(),
            arrivals: 0,
            refused: 0,
        });
        Self {
            strategy: strategy.to_owned(),
            arrivals: 0,
            refused: 0,
            left: 0,
            running_at_end: 0,
            classes: classes.collect(),
            refusals: Vec::new(),
            mean: Figures::default(),
            peak: Figures::default(),
            series: Vec::new(),
            decisions: None,
        }
    }

    pub(super) fn arrive(&mut self, class: usize) {
        self.arrivals += 1;
        self.classes[class].arrivals += 1;
    }

    pub(super) fn refuse(&mut self, class: usize, by: String, first: String) {
        self.refused += 1;
        self.classes[class].refused += 1;
        // There are as many as there are plugins, and a few more.
        match self.refusals.iter_mut().find(|refusal| refusal.by == by) {
            Some(refusal) => refusal.count += 1,
            None => self.refusals.push(Refusal {
                by,
                count: 1,
                first,
            }),
        }
    }
}

impl Decisions {
    pub(super) fn new(latencies: &Histogram<u64>, took: Duration) -> Self {
        let micros = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            per_second: latencies.len() as f64 / took.as_secs_f64(),
            mean_us: latencies.mean() / 1e3,
            p50_us: micros(0.5),
            p90_us: micros(0.9),
            p99_us: micros(0.99),
            max_us: latencies.max() as f64 / 1e3,
        }
    }
}

/// Writes rows in columns, the first to the left and the others to the right.
fn write_rows(text: &mut String, rows: &[Vec<String>]) {
    let mut widths = BTreeMap::new();
    for (column, cell) in rows.iter().flat_map(|row| row.iter().enumerate()) {
        let width = widths.entry(column).or_insert(0);
        *width = cell.chars().count().max(*width);
    }
    for row in rows {
        text.push('\n');
        for (column, cell) in row.iter().enumerate() {
            let width = widths[&column];
            _ = match column {
                0 => write!(text, "{cell:width$}"),
                _ => write!(text, "  {cell:>width$}"),
            };
        }
    }
    text.push('\n');
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn whole(number: f64) -> String {
    format!("{number:.0}")
}
