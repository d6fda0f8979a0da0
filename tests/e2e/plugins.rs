//! Policies of an operator's own, loaded without rebuilding the daemon.

use std::{fs, path::Path};

use tempfile::TempDir;

use crate::{bed::Bed, manager::eventually};

/// A configuration file with one more filter, and the directory it lives in.
fn with_filter(component: &str, settings: &str) -> (TempDir, String) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let component = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/guests/dist")
        .join(component);
    let path = directory.path().join("config.toml");
    let text = format!(
        r#"
[scheduler]
filters = ["health", "port", "containerslots", "dependency", "affinity", "constraint", "whitelist", "mine"]

[plugins.mine]
kind = "filter"
path = "{}"
settings = {settings}
"#,
        component.display()
    );
    fs::write(&path, text).expect("the configuration is written");
    let path = path.display().to_string();
    (directory, path)
}

#[test]
fn filter_of_ones_own_changes_placements() {
    // Rack `b` has node-2 alone, rack `a` the other two. Spread alone fills node by node; with
    // the example filter the racks take turns, so rack `b` gets every second container.
    let (_directory, config) = with_filter("example-rack.wasm", r#"{ label = "rack" }"#);
    let bed = Bed::new(&["--config", &config]);
    let nodes: Vec<String> = ["c-a", "c-b", "c-c", "c-d"]
        .iter()
        .map(|name| bed.placed(name, &[]))
        .collect();
    let in_rack_b = nodes.iter().filter(|node| *node == "node-2").count();
    assert_eq!(in_rack_b, 2, "{nodes:?}");
}

#[test]
fn filter_that_fails_is_named_and_harms_nobody_else() {
    let (_directory, config) = with_filter("unruly-filter.wasm", r#"{ mode = "trap-on-poison" }"#);
    let bed = Bed::new(&["--config", &config]);
    bed.sleeper("before", &[]);
    let error = bed.refused(&["--name", "poison"]);
    assert!(error.contains("filter plugin `mine` failed"), "{error}");
    eventually("the next request is served", || {
        (bed.try_sleeper("after", &[]).code == 0).then_some(())
    });
    assert_eq!(bed.docker.ok(&["exec", "before", "echo", "alive"]), "alive");
}

#[test]
fn filter_that_never_ends_is_stopped_and_shown_in_info() {
    let (_directory, config) = with_filter("unruly-filter.wasm", r#"{ mode = "loop" }"#);
    let bed = Bed::new(&["--config", &config]);
    let error = bed.refused(&[]);
    assert!(error.contains("filter plugin `mine` failed"), "{error}");
    let warnings = bed.manager.get_json("/info")["Warnings"].to_string();
    assert!(warnings.contains("filter plugin `mine`"), "{warnings}");
}
