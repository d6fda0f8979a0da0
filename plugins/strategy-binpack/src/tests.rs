use super::*;
use skep_plugin_sdk::testing::{NodeFixture, node, rank, request};
use skep_plugin_sdk::{Amount, NodeStatus};

const GIB: u64 = 1 << 30;

fn asking(cores: u64, memory_bytes: u64) -> Request {
    Request {
        need: Amount {
            cpu_nano: cores * 1_000_000_000,
            memory_bytes,
        },
        ..request()
    }
}

#[track_caller]
fn check(nodes: &[NodeFixture], request: &Request, expected: &[u32]) {
    let ranked = rank::<Binpack>("{}", nodes.iter().cloned(), request, 100).unwrap();
    assert_eq!(
        ranked.iter().map(|ranked| ranked.slot).collect::<Vec<_>>(),
        expected
    );
}

#[test]
fn most_containers_come_first_when_nothing_is_asked() {
    let nodes = [
        node(0, "a").used(0, 0, 2),
        node(1, "b"),
        node(2, "c").used(0, 0, 3),
    ];
    check(&nodes, &request(), &[2, 0, 1]);
}

#[test]
fn equal_nodes_come_by_name_in_natural_order() {
    check(
        &[node(0, "n10"), node(1, "n9"), node(2, "n1")],
        &request(),
        &[2, 1, 0],
    );
}

#[test]
fn the_fullest_node_with_room_comes_first() {
    let fleet = [
        node(0, "a").total(4, 4 * GIB).used(0, 2 * GIB, 1),
        node(1, "b").total(4, 4 * GIB).used(0, 3 * GIB, 1),
        node(2, "c").total(4, 4 * GIB).used(0, 4 * GIB, 1),
    ];
    check(&fleet, &asking(0, GIB), &[1, 0]);
    check(&fleet, &asking(0, 2 * GIB), &[0]);
    check(&fleet, &asking(0, 3 * GIB), &[]);
}

#[test]
fn over_commitment_is_in_what_the_node_offers() {
    let fleet = [node(0, "a").total(4, 105 * GIB)];
    check(&fleet, &asking(0, 90 * GIB), &[0]);
    check(&fleet, &asking(0, 105 * GIB), &[0]);
    check(&fleet, &asking(0, 106 * GIB), &[]);
}

#[test]
fn a_node_that_failed_recently_comes_last() {
    let fleet = [
        node(0, "a")
            .used(3, 3 * GIB, 9)
            .health(NodeStatus::Healthy, 67),
        node(1, "b"),
    ];
    check(&fleet, &asking(1, GIB), &[1, 0]);
}

#[test]
fn a_limit_gives_the_first_of_the_whole_order() {
    let nodes: Vec<_> = (0..50)
        .map(|slot| node(slot, &format!("n{slot}")).used(0, 0, slot % 5))
        .collect();
    let all = rank::<Binpack>("{}", nodes.iter().cloned(), &request(), 100).unwrap();
    let first = rank::<Binpack>("{}", nodes.iter().cloned(), &request(), 7).unwrap();
    assert_eq!(first, all[..7]);
    assert!(all.is_sorted_by_key(|ranked| -ranked.score));
}
