//! Many clients at once: placements and names stay right.

use std::{collections::BTreeMap, thread};

use crate::{bed::Bed, docker::Outcome};

/// Starts `count` sleeping containers at the same time, named and placed by `options`.
fn at_once(
    bed: &Bed,
    count: usize,
    name: impl Fn(usize) -> String,
    options: &[&str],
) -> Vec<Outcome> {
    thread::scope(|scope| {
        let names: Vec<String> = (0..count).map(name).collect();
        let threads: Vec<_> = names
            .into_iter()
            .map(|name| scope.spawn(move || bed.try_sleeper(&name, options)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("docker ends"))
            .collect()
    })
}

fn successes(outcomes: &[Outcome]) -> usize {
    outcomes.iter().filter(|outcome| outcome.code == 0).count()
}

#[test]
fn thirty_containers_at_once_spread_evenly() {
    let bed = Bed::new(&[]);
    let outcomes = at_once(&bed, 30, |index| format!("box-{index}"), &[]);
    assert_eq!(successes(&outcomes), 30, "{outcomes:#?}");
    let mut per_node: BTreeMap<String, usize> = BTreeMap::new();
    for name in bed.ps(&[]) {
        *per_node
            .entry(name.split('/').next().expect("a node").to_owned())
            .or_default() += 1;
    }
    let wanted = ["node-0", "node-1", "node-2"].map(|node| (node.to_owned(), 10));
    assert_eq!(per_node, wanted.into());
}

#[test]
fn one_of_many_creates_gets_the_name() {
    let bed = Bed::new(&[]);
    let outcomes = at_once(&bed, 6, |_| "web".to_owned(), &[]);
    assert_eq!(successes(&outcomes), 1, "{outcomes:#?}");
    for outcome in outcomes.iter().filter(|outcome| outcome.code != 0) {
        assert!(
            outcome
                .stderr
                .contains("Conflict: The name web is already assigned."),
            "{outcome:?}"
        );
    }
    assert_eq!(bed.ps(&["-a"]).len(), 1);
}

#[test]
fn a_port_is_never_given_twice_on_a_node() {
    let bed = Bed::new(&[]);
    let outcomes = at_once(&bed, 5, |index| format!("web-{index}"), &["-p", "8080:80"]);
    assert_eq!(successes(&outcomes), 3, "{outcomes:#?}");
    for outcome in outcomes.iter().filter(|outcome| outcome.code != 0) {
        assert!(
            outcome.stderr.contains("[port 8080 (Bridge mode)]"),
            "{outcome:?}"
        );
    }
}

#[test]
fn an_affinity_sees_containers_that_are_just_being_created() {
    let bed = Bed::new(&[]);
    let options = [
        "--label",
        "test.label=true",
        "-e",
        "affinity:test.label!=true",
    ];
    let outcomes = at_once(&bed, 5, |index| format!("web-{index}"), &options);
    assert_eq!(successes(&outcomes), 3, "{outcomes:#?}");
    for outcome in outcomes.iter().filter(|outcome| outcome.code != 0) {
        assert!(
            outcome.stderr.contains("[test.label!=true (soft=false)]"),
            "{outcome:?}"
        );
    }
}
