//! `skep simulate`, with the built-in plugins and the workloads that are shipped.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("config/workloads")
        .join(name)
}

/// What the command prints, or what it says when it fails.
fn simulate(workload: &Path, options: &[&str]) -> Result<String, String> {
    let output = Command::new(env!("CARGO_BIN_EXE_skep"))
        .args(["simulate", "--no-timing", "--workload"])
        .arg(workload)
        .args(options)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    match output.status.success() {
        true => Ok(text(output.stdout)),
        false => Err(text(output.stderr)),
    }
}

fn report(workload: &Path, options: &[&str]) -> Value {
    let mut options = options.to_vec();
    options.extend(["--format", "json"]);
    serde_json::from_str(&simulate(workload, &options).unwrap()).unwrap()
}

/// A file with this text.
fn workload(text: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("workload.toml");
    fs::write(&path, text).unwrap();
    (directory, path)
}

#[test]
fn one_seed_gives_one_report_whatever_the_strategy_draws() {
    let bursts = shipped("bursts.toml");
    let run = |seed| {
        simulate(
            &bursts,
            &["--strategy", "random", "--format", "json", "--seed", seed],
        )
    };
    let first = run("7").unwrap();
    assert_eq!(first, run("7").unwrap());
    assert_ne!(first, run("8").unwrap());
}

#[test]
fn binpack_uses_fewer_nodes_than_spread_and_spread_is_more_even() {
    let report = report(
        &shipped("steady.toml"),
        &["--strategy", "spread", "--strategy", "binpack"],
    );
    let [spread, binpack] = report["runs"].as_array().unwrap().as_slice() else {
        panic!("two strategies were asked for");
    };
    let mean = |run: &Value, figure: &str| run["mean"][figure].as_f64().unwrap();
    assert_eq!(spread["arrivals"], binpack["arrivals"]);
    assert!(
        mean(binpack, "nodes_used") < 0.9 * mean(spread, "nodes_used"),
        "{report:#}"
    );
    assert!(mean(spread, "load_deviation") < mean(binpack, "load_deviation"));
    assert!(mean(spread, "fairness") > mean(binpack, "fairness"));
    assert_eq!(spread["refused"], 0);
}

#[test]
fn an_overloaded_fleet_refuses_and_tells_who_did() {
    let report = report(&shipped("bursts.toml"), &[]);
    let run = &report["runs"][0];
    assert_eq!(run["strategy"], "spread");
    let refused = run["refused"].as_u64().unwrap();
    let refusals = run["refusals"].as_array().unwrap();
    let counts = refusals
        .iter()
        .map(|refusal| refusal["count"].as_u64().unwrap());
    assert_eq!(counts.sum::<u64>(), refused);
    let first = |by: &str| {
        let refusal = refusals.iter().find(|refusal| refusal["by"] == by);
        refusal.map(|refusal| refusal["first"].as_str().unwrap())
    };
    assert_eq!(
        first("strategy spread"),
        Some("no resources available to schedule container")
    );
    assert_eq!(
        first("filter port"),
        Some("port 80 (Bridge mode) port 443 (Bridge mode)")
    );
    assert!(run["peak"]["cpu"].as_f64().unwrap() > 0.9);
}

#[test]
fn a_constraint_holds_as_in_the_daemon() {
    let (_directory, path) = workload(
        r#"
        duration = "1m"
        [[nodes]]
        name = "a"
        count = 3
        cpus = 4
        memory = "8g"
        labels = { rack = ["r1", "r2"] }
        [[containers]]
        name = "here"
        env = ["constraint:rack==r2", "affinity:kind!=x"]
        labels = { kind = "x" }
        arrivals = { process = "even", every = "1s" }
        count = 2
        [[containers]]
        name = "there"
        env = ["constraint:node==a-9"]
        arrivals = { process = "even", every = "1s" }
        count = 1
        "#,
    );
    let report = report(&path, &[]);
    let run = &report["runs"][0];
    assert_eq!(run["running_at_end"], 1, "{run:#}");
    assert_eq!(run["peak"]["nodes_used"], 1.0);
    let refusals = run["refusals"].as_array().unwrap();
    assert_eq!(refusals.len(), 1);
    assert_eq!(refusals[0]["by"], "filter constraint");
    assert_eq!(refusals[0]["count"], 2);
}

#[test]
fn a_picture_and_a_table_come_of_one_run() {
    let (directory, path) = workload(
        "duration = \"1m\"\n[[nodes]]\nname = \"a\"\ncount = 3\ncpus = 4\nmemory = \"8g\"\n\
         [[containers]]\nname = \"c\"\ncpus = 1\narrivals = { process = \"even\", every = \"1s\" }\n",
    );
    let svg = directory.path().join("chart.svg");
    let options = [
        "--strategy",
        "spread",
        "--nodes",
        "5",
        "--svg",
        svg.to_str().unwrap(),
    ];
    let table = simulate(&path, &options).unwrap();
    assert!(
        table.starts_with("workload.toml: 5 nodes, 60s, seed 1\n"),
        "{table}"
    );
    let refused = table
        .lines()
        .find(|line| line.starts_with("refused"))
        .unwrap();
    assert_eq!(refused.split_whitespace().last(), Some("41"), "{table}");
    assert!(fs::read_to_string(svg).unwrap().starts_with("<svg"));
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let (_directory, path) = workload("duration = \"soon\"\n[[nodes]]\nname = \"a\"\n");
    let error = simulate(&path, &[]).unwrap_err();
    let place = format!(
        "skep: {}: line 1: duration: invalid duration `soon`",
        path.display()
    );
    assert!(error.contains(&place), "{error}");
    let missing = simulate(Path::new("/nowhere.toml"), &[]).unwrap_err();
    assert!(missing.contains("cannot read `/nowhere.toml`"), "{missing}");
    let steady = shipped("steady.toml");
    let strategy = simulate(&steady, &["--strategy", "best"]).unwrap_err();
    assert_eq!(strategy, "skep: strategy not supported\n");
    let nodes = simulate(&steady, &["--nodes", "0"]).unwrap_err();
    assert_eq!(nodes, "skep: --nodes must be from 1 to 20000, not 0\n");
}
