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
    let ranked = rank::<Spread>("{}", nodes.iter().cloned(), request, 100).unwrap();
    assert_eq!(
        ranked.iter().map(|ranked| ranked.slot).collect::<Vec<_>>(),
        expected
    );
}

/// Places `count` equal containers one after the other; returns how many each node got.
fn place(nodes: &mut [NodeFixture], request: &Request, count: usize) -> Vec<u32> {
    for _ in 0..count {
        let ranked = rank::<Spread>("{}", nodes.iter().cloned(), request, 1).unwrap();
        let usage = &mut nodes[ranked[0].slot as usize].usage;
        usage.containers += 1;
        usage.reserved.cpu_nano += request.need.cpu_nano;
        usage.reserved.memory_bytes += request.need.memory_bytes;
    }
    nodes.iter().map(|node| node.usage.containers).collect()
}

#[test]
fn fewest_containers_come_first_when_nothing_is_asked() {
    let nodes = [
        node(0, "a").used(0, 0, 2),
        node(1, "b").used(3, GIB, 1),
        node(2, "c").used(0, 0, 3),
    ];
    check(&nodes, &request(), &[1, 0, 2]);
}

#[test]
fn equal_nodes_come_by_name_in_natural_order() {
    let nodes = [node(0, "n10"), node(1, "n9"), node(2, "n1")];
    check(&nodes, &request(), &[2, 1, 0]);
}

#[test]
fn the_emptiest_node_comes_first() {
    let nodes = [
        node(0, "a").total(4, 4 * GIB).used(0, 2 * GIB, 1),
        node(1, "b").total(4, 4 * GIB),
    ];
    check(&nodes, &asking(0, GIB), &[1, 0]);
    let nodes = [node(0, "a").used(3, 0, 1), node(1, "b").used(2, 0, 5)];
    check(&nodes, &asking(1, 0), &[1, 0]);
}

#[test]
fn fractions_of_a_percent_count() {
    let nodes = [
        node(0, "a").total(4, 1000 * GIB).used(0, 4 * GIB, 0),
        node(1, "b").total(4, 1000 * GIB).used(0, 3 * GIB, 9),
    ];
    check(&nodes, &asking(0, GIB), &[1, 0]);
}

#[test]
fn nodes_without_room_are_left_out() {
    let nodes = [
        node(0, "a").total(2, GIB),
        node(1, "b").total(4, GIB).used(1, 0, 1),
    ];
    check(&nodes, &asking(3, 0), &[1]);
    check(&nodes, &asking(4, 0), &[]);
    check(&nodes, &asking(0, GIB), &[0, 1]);
    check(&nodes, &asking(0, GIB + 1), &[]);
}

#[test]
fn a_full_node_has_room_for_what_asks_nothing() {
    check(
        &[node(0, "a").total(1, GIB).used(2, 2 * GIB, 4)],
        &request(),
        &[0],
    );
}

#[test]
fn a_recent_failure_outweighs_any_load() {
    let nodes = [
        node(0, "a").health(NodeStatus::Healthy, 67),
        node(1, "b").total(4, 4 * GIB).used(3, 3 * GIB, 90),
    ];
    check(&nodes, &asking(1, GIB), &[1, 0]);
}

#[test]
fn sixty_containers_that_ask_nothing_are_halved() {
    let mut nodes = [node(0, "a").total(21, GIB), node(1, "b").total(42, 2 * GIB)];
    assert_eq!(place(&mut nodes, &request(), 60), [30, 30]);
}

#[test]
fn sixty_containers_that_ask_for_cores_follow_the_cores() {
    let mut nodes = [node(0, "a").total(21, GIB), node(1, "b").total(42, 2 * GIB)];
    assert_eq!(place(&mut nodes, &asking(1, 0), 60), [20, 40]);
}

#[test]
fn a_full_fleet_takes_exactly_what_fits() {
    let mut nodes: Vec<_> = (0..100)
        .map(|slot| node(slot, &format!("n{slot}")).total(100, 100 * GIB))
        .collect();
    assert!(
        place(&mut nodes, &asking(25, 25 * GIB), 400)
            .iter()
            .all(|count| *count == 4)
    );
    check(&nodes, &asking(1, 0), &[]);
    check(&nodes, &asking(0, 1), &[]);
}

#[test]
fn a_container_goes_where_less_is_taken() {
    let nodes = [
        node(0, "a").total(4, 4 * GIB).used(0, 2 * GIB, 1),
        node(1, "b").total(4, 4 * GIB).used(0, 3 * GIB, 1),
    ];
    check(&nodes, &asking(0, GIB), &[0, 1]);
}

#[test]
fn a_limit_gives_the_first_of_the_whole_order() {
    let nodes: Vec<_> = (0..50)
        .map(|slot| node(slot, &format!("n{slot}")).used(0, 0, slot * 7 % 50))
        .collect();
    let all = rank::<Spread>("{}", nodes.iter().cloned(), &request(), 100).unwrap();
    for limit in [0, 1, 7, 50] {
        let first = rank::<Spread>("{}", nodes.iter().cloned(), &request(), limit).unwrap();
        assert_eq!(first, all[..limit as usize]);
    }
    assert!(all.is_sorted_by_key(|ranked| -ranked.score));
}
