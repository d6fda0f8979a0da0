//! The list of what classic Swarm's tests checked names tests that exist.

use std::{collections::BTreeSet, fs, path::Path};

const STATES: [&str; 4] = ["covered", "changed", "later", "missing"];

/// How many rows the list has; none may be lost.
const ROWS: usize = 206;

/// Whether a source text has a test of this name: a function with the attribute, or one in the list
/// of a macro that makes tests for each kind of store.
fn is_test(text: &str, name: &str) -> bool {
    let head = format!("fn {name}(");
    let has_attribute = |(at, _): (usize, &str)| {
        let lines = text[..at].rsplit('\n').skip(1);
        let mut attributes = lines.take_while(|line| !line.trim().is_empty() && line.trim() != "}");
        attributes.any(|line| line.trim_start().starts_with("#[") && line.contains("test"))
    };
    let is_listed = || text.lines().any(|line| line.trim() == format!("{name},"));
    text.match_indices(&head).any(has_attribute) || (text.contains(&head) && is_listed())
}

/// What stands between backquotes in a text.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn every_row_of_the_list_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let list = fs::read_to_string(root.join("tests/conformance.md")).unwrap();
    let mut rows = BTreeSet::new();
    for line in list.lines().filter(|line| line.starts_with("| ")).skip(1) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [row, what, state, reason] = cells[..] else {
            panic!("not four cells: {line}");
        };
        assert!(rows.insert(row.to_owned()), "{row} is there twice");
        assert!(!what.is_empty() && !reason.is_empty(), "{row} says nothing");
        assert!(STATES.contains(&state), "{row}: {state}");
        let mut tests = 0;
        for name in quoted(reason) {
            let (file, test) = match name.split_once("::") {
                Some((file, test)) => (file, Some(test)),
                None => (name, None),
            };
            if !file.contains('/') {
                continue;
            }
            let text = fs::read_to_string(root.join(file))
                .unwrap_or_else(|error| panic!("{row}: {file}: {error}"));
            let exists = test.is_none_or(|test| is_test(&text, test));
            assert!(exists, "{row}: {name} does not exist");
            tests += 1;
        }
        assert!(state != "covered" || tests > 0, "{row} names no test");
    }
    assert_eq!(rows.len(), ROWS, "a row was lost or added");
}
