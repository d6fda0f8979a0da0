//! Whatever dies or is cut off: with agents on, no container runs twice at any moment, and none stops
//! without need.

use crate::{
    fleet::Fleet,
    manager::eventually,
    stage::{MOVES, Setup, Stage, TTL},
    watched::{Watched, run_on_for},
};

/// Takes node 2 out of reach and puts it back once its container runs elsewhere.
fn check_cut(cut: impl Fn(&Fleet)) {
    let stage = Stage::new(Setup::default());
    let watched = stage.watched("web", "node-2", &["-e", MOVES]);
    cut(&stage.bed.fleet);
    stage.await_elsewhere("web", "node-2");
    watched.await_count(1);
    stage.bed.fleet.mend(2);
    stage.await_one(&watched, 2);
    assert_eq!(watched.most(), 1);
}

#[test]
fn a_container_of_a_node_that_is_cut_off_never_runs_twice() {
    check_cut(|fleet| fleet.cut(2));
}

#[test]
fn a_container_of_a_node_that_cannot_send_never_runs_twice() {
    check_cut(|fleet| fleet.drop_packets(2, &["OUTPUT", "-o", "eth0"]));
}

#[test]
fn a_container_of_a_node_that_cannot_receive_never_runs_twice() {
    check_cut(|fleet| fleet.drop_packets(2, &["INPUT", "-i", "eth0"]));
}

#[test]
fn a_container_of_a_node_that_dies_with_its_agent_runs_elsewhere_once() {
    let mut stage = Stage::new(Setup::default());
    let watched = stage.watched("web", "node-2", &["-e", MOVES]);
    stage.bed.fleet.kill(2);
    stage.await_elsewhere("web", "node-2");
    watched.await_count(1);
    stage.bed.fleet.revive(2);
    stage.start_agent(2);
    stage.await_one(&watched, 2);
    assert_eq!(watched.most(), 1);
}

#[test]
fn a_manager_that_dies_with_a_node_is_succeeded_by_one_that_moves_its_containers() {
    let mut stage = Stage::new(Setup::default());
    let watched = stage.watched("web", "node-2", &["-e", MOVES]);
    let other = stage.watched("other", "node-1", &["-e", MOVES]);
    stage.kill_manager();
    stage.bed.fleet.kill(2);
    watched.await_count(0);
    // The others reach the store, so their leases last.
    run_on_for(&[&other], 2 * TTL);
    stage.start_manager();
    stage.await_elsewhere("web", "node-2");
    watched.await_count(1);
    stage.bed.fleet.revive(2);
    stage.start_agent(2);
    stage.await_one(&watched, 2);
    assert_eq!((watched.most(), other.now(), other.most()), (1, 1, 1));
    assert_eq!(stage.bed.node_of("other"), "node-1");
}

#[test]
fn an_agent_that_is_dead_takes_its_node_from_the_list_and_nothing_else() {
    let mut stage = Stage::new(Setup {
        registered: true,
        ..Setup::default()
    });
    let watched = stage.watched("web", "node-2", &["-e", MOVES]);
    let id = stage.bed.inspect("web", "{{.Id}}");
    stage.kill_agent(2);
    eventually("the node is not listed any more", || {
        (stage.bed.manager.nodes().len() == 2).then_some(())
    });
    run_on_for(&[&watched], 4 * TTL);
    for index in [0, 1] {
        let made = stage.bed.fleet.engine(index).lines(&["ps", "-aq"]);
        assert!(made.is_empty(), "{made:?}");
    }
    stage.start_agent(2);
    stage.await_status(2, "Healthy");
    assert_eq!(stage.bed.inspect("web", "{{.Id}}"), id);
    assert_eq!((watched.now(), watched.most()), (1, 1));
}

#[test]
fn a_store_that_is_down_stops_and_moves_nothing() {
    let mut stage = Stage::new(Setup {
        registered: true,
        ..Setup::default()
    });
    let names = ["c0", "c1", "c2"];
    let nodes = ["node-0", "node-1", "node-2"];
    let watched = std::array::from_fn::<_, 3, _>(|index| {
        stage.watched(names[index], nodes[index], &["-e", MOVES])
    });
    let ids = names.map(|name| stage.bed.inspect(name, "{{.Id}} {{.Node.Name}}"));
    let all: Vec<&Watched> = watched.iter().collect();
    stage.server.kill();
    // Longer than leases, registrations, and the manager's own lock are valid.
    run_on_for(&all, 4 * TTL);
    stage.server.restart();
    eventually("the manager leads again", || {
        let renamed = stage.bed.docker.run(&["rename", "c0", "renamed"]);
        (renamed.code == 0).then_some(())
    });
    run_on_for(&all, TTL);
    stage.bed.docker.ok(&["rename", "renamed", "c0"]);
    let after = names.map(|name| stage.bed.inspect(name, "{{.Id}} {{.Node.Name}}"));
    assert_eq!(after, ids);
    assert!(all.iter().all(|watched| watched.most() == 1));
}

#[test]
fn a_node_that_comes_and_goes_loses_its_container_at_most_once() {
    let stage = Stage::new(Setup::default());
    let watched = stage.watched("web", "node-2", &["-e", MOVES]);
    for _ in 0..5 {
        stage.bed.fleet.cut(2);
        stage.await_status(2, "Unhealthy");
        stage.bed.fleet.mend(2);
        stage.await_status(2, "Healthy");
    }
    watched.await_count(1);
    let token = r#"{{index .Config.Labels "com.docker.swarm.fence"}}"#;
    let token = stage.bed.inspect("web", token);
    assert!(["", "1"].contains(&token.as_str()), "token {token}");
    eventually("one copy is left", || {
        let copies = (0..3).flat_map(|index| stage.bed.fleet.engine(index).lines(&["ps", "-aq"]));
        (copies.count() == 1).then_some(())
    });
    assert_eq!((watched.now(), watched.most()), (1, 1));
}

#[test]
fn an_engine_that_is_restarted_in_order_keeps_its_containers() {
    let mut stage = Stage::new(Setup {
        reschedule: "grace = \"30s\"",
        ..Setup::default()
    });
    let options = ["-e", MOVES, "--restart", "always"];
    let watched = stage.watched("web", "node-2", &options);
    let id = stage.bed.inspect("web", "{{.Id}}");
    stage.bed.fleet.stop(2);
    stage.await_status(2, "Unhealthy");
    stage.bed.fleet.revive(2);
    stage.start_agent(2);
    stage.await_status(2, "Healthy");
    watched.await_count(1);
    run_on_for(&[&watched], TTL);
    let seen = stage.bed.inspect("web", "{{.Id}} {{.Node.Name}}");
    assert_eq!(seen, format!("{id} node-2"));
    assert_eq!(watched.most(), 1);
    for index in [0, 1] {
        let made = stage.bed.fleet.engine(index).lines(&["ps", "-aq"]);
        assert!(made.is_empty(), "{made:?}");
    }
}

#[test]
fn three_of_four_nodes_that_are_cut_off_stop_and_go_on_where_they_were() {
    let stage = Stage::new(Setup {
        fleet: Some(Fleet::start("majority", 4, "")),
        ..Setup::default()
    });
    let nodes = ["node-0", "node-1", "node-2", "node-3"];
    let watched = nodes.map(|node| stage.watched(&format!("on-{node}"), node, &["-e", MOVES]));
    let ids = || nodes.map(|node| stage.bed.inspect(&format!("on-{node}"), "{{.Id}}"));
    let before = ids();
    for index in 1..4 {
        stage.bed.fleet.cut(index);
    }
    eventually("the manager says that it does nothing", || {
        let warnings = stage.bed.manager.get_json("/info")["Warnings"].to_string();
        let wanted = "3 of 4 nodes are out of reach";
        warnings.contains(wanted).then_some(())
    });
    for cut_off in &watched[1..] {
        cut_off.await_count(0);
    }
    run_on_for(&[&watched[0]], 2 * TTL);
    let made = stage.bed.fleet.engine(0).lines(&["ps", "-aq"]);
    assert_eq!(made.len(), 1);
    for index in 1..4 {
        stage.bed.fleet.mend(index);
    }
    for watched in &watched {
        watched.await_count(1);
    }
    for index in 1..4 {
        stage.await_status(index, "Healthy");
    }
    assert_eq!(ids(), before);
    assert!(watched.iter().all(|watched| watched.most() == 1));
}
