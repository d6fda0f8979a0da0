//! The figures, with what is needed to read them, as text and as JSON.

use std::{fmt::Write, fs, process::Command};

use serde::{Deserialize, Serialize};

use super::measure::Size;

/// One column of the table.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Report {
    pub engines: usize,
    pub containers_per_engine: usize,
    /// UTC.
    pub date: String,
    pub commit: String,
    pub machine: String,
    pub creates_per_second: f64,
    pub create_p50_ms: f64,
    pub create_p99_ms: f64,
    pub own_share_p50_ms: f64,
    pub own_share_p99_ms: f64,
    pub healthy_seconds: f64,
    /// Until the records of what was found were written too; idle begins here.
    #[serde(default)]
    pub settled_seconds: f64,
    pub list_first_byte_ms: f64,
    pub list_whole_ms: f64,
    pub inspections_per_second: f64,
    pub inspect_p99_ms: f64,
    /// Resident memory before any load, after all loads, and at most.
    pub idle_bytes: u64,
    pub loaded_bytes: u64,
    pub peak_bytes: u64,
    /// Of one core.
    pub idle_percent: f64,
    pub limits: Limits,
}

/// What one engine of the fleet answers to the same clients without a daemon in between.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Limits {
    pub creates_per_second: f64,
    pub inspections_per_second: f64,
}

/// What a figure may be, if the project has said: at least or at most.
enum Target {
    Least(f64),
    Most(f64),
}

impl Report {
    /// One without figures: what is measured, where and when.
    pub fn about(size: Size) -> Self {
        Self {
            engines: size.engines,
            containers_per_engine: size.containers,
            date: chrono::Utc::now().format("%Y-%m-%d %H:%M").to_string(),
            commit: output("git", &["describe", "--always", "--dirty"]),
            machine: machine(),
            ..Self::default()
        }
    }

    /// The column as text, each figure with its target where there is one.
    pub fn table(&self) -> String {
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        let rows = [
            ("creates/s, 8 clients", self.creates_per_second),
            ("  latency, median ms", self.create_p50_ms),
            ("  latency, p99 ms", self.create_p99_ms),
            ("create, own share, median ms", self.own_share_p50_ms),
            ("create, own share, p99 ms", self.own_share_p99_ms),
            ("all nodes healthy, s", self.healthy_seconds),
            ("  and their records written, s", self.settled_seconds),
            ("list, first byte, ms", self.list_first_byte_ms),
            ("list, whole, ms", self.list_whole_ms),
            ("inspect/s, 16 clients", self.inspections_per_second),
            ("  latency, p99 ms", self.inspect_p99_ms),
            ("resident memory, idle, MB", megabytes(self.idle_bytes)),
            ("  after all loads, MB", megabytes(self.loaded_bytes)),
            ("  at most, MB", megabytes(self.peak_bytes)),
            ("idle CPU, % of one core", self.idle_percent),
            ("fleet alone, creates/s", self.limits.creates_per_second),
            ("fleet alone, inspect/s", self.limits.inspections_per_second),
        ];
        let mut text = format!(
            "{} engines x {} containers, {}, {}\n{}\n",
            self.engines, self.containers_per_engine, self.commit, self.date, self.machine
        );
        for (name, figure) in rows {
            let _ = write!(text, "{name:<32} {figure:>10.1}");
            if let Some(target) = self.target(name) {
                let (sign, limit, is_met) = match target {
                    Target::Least(limit) => ("≥", limit, figure >= limit),
                    Target::Most(limit) => ("≤", limit, figure <= limit),
                };
                let _ = write!(
                    text,
                    "  {sign} {limit}{}",
                    if is_met { "" } else { "  missed" }
                );
            }
            text.push('\n');
        }
        text
    }

    fn target(&self, name: &str) -> Option<Target> {
        let column = match (self.engines, self.containers_per_engine) {
            (100, 30) => 0,
            (1_000, 30) => 1,
            (10_000, 50) => 2,
            _ => return None,
        };
        let least = |limits: [f64; 3]| Some(Target::Least(limits[column]));
        let most = |limits: [f64; 3]| Some(Target::Most(limits[column]));
        match name {
            "creates/s, 8 clients" => least([1500.0, 1200.0, 600.0]),
            "create, own share, p99 ms" => most([5.0, 8.0, 20.0]),
            "all nodes healthy, s" => most([0.5, 3.0, 45.0]),
            "list, first byte, ms" => most([2.0, 5.0, 20.0]),
            "list, whole, ms" => most([8.0, 60.0, 1500.0]),
            "inspect/s, 16 clients" => least([8000.0, 7000.0, 5000.0]),
            "resident memory, idle, MB" => most([60.0, 150.0, 1500.0]),
            "idle CPU, % of one core" => most([0.5, 3.0, 30.0]),
            _ => None,
        }
    }
}

fn machine() -> String {
    let field = |file: &str, name: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_once(':'));
        value.map_or_else(String::new, |(_, value)| value.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{cores} cores, {}, {} of memory, Linux {}",
        field("/proc/cpuinfo", "model name"),
        field("/proc/meminfo", "MemTotal"),
        output("uname", &["-r"])
    )
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}
