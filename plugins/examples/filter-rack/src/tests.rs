use super::*;
use skep_plugin_sdk::testing::{NodeFixture, Outcome, node, request, run_filter};

#[track_caller]
fn check(fleet: impl IntoIterator<Item = NodeFixture>, expected: &[u32]) {
    let outcome = run_filter::<Rack>(r#"{"label":"rack"}"#, fleet, request());
    assert_eq!(outcome, Ok(Outcome::Passed(expected.to_vec())));
}

#[test]
fn keeps_every_node_of_the_emptiest_rack() {
    let fleet = [
        node(0, "a1").label("rack", "a").used(0, 0, 1),
        node(1, "a2").label("rack", "a").used(0, 0, 2),
        node(2, "b1").label("rack", "b").used(0, 0, 2),
        node(3, "b2").label("rack", "b"),
    ];
    check(fleet, &[2, 3]);
}

#[test]
fn racks_with_equal_counts_all_stay() {
    check(
        [
            node(0, "a").label("rack", "a"),
            node(1, "b").label("rack", "b"),
        ],
        &[0, 1],
    );
}

#[test]
fn nodes_without_the_label_are_one_rack() {
    check(
        [
            node(0, "a").used(0, 0, 1),
            node(1, "b"),
            node(2, "c").label("rack", "c").used(0, 0, 2),
        ],
        &[0, 1],
    );
    check([], &[]);
}
