//! What agents stop, and what they leave alone.

use crate::{
    manager::eventually,
    stage::{MOVES, Setup, Stage, TTL},
    watched::run_on_for,
};

#[test]
fn what_an_agent_stopped_runs_again_if_nobody_made_it_elsewhere() {
    let stage = Stage::new(Setup::default());
    let watched = stage.watched("web", "node-2", &["-e", MOVES]);
    let id = stage.bed.inspect("web", "{{.Id}}");
    // Nobody may make it elsewhere: there is no other node.
    for node in ["node-0", "node-1"] {
        let update = ["node", "update", "--availability", "pause", node];
        stage.bed.docker.ok(&update);
    }
    stage.bed.fleet.cut(2);
    watched.await_count(0);
    stage.bed.fleet.mend(2);
    watched.await_count(1);
    assert_eq!(stage.bed.inspect("web", "{{.Id}}"), id);
    assert_eq!(watched.most(), 1);
}

#[test]
fn a_node_whose_engine_alone_is_out_of_reach_keeps_its_containers() {
    let stage = Stage::new(Setup::default());
    let watched = stage.watched("web", "node-2", &["-e", MOVES]);
    let opted_out = format!("{MOVES},fence=off");
    let unfenced = stage.watched("loose", "node-2", &["-e", &opted_out]);
    let rule = ["INPUT", "-p", "tcp", "--dport", "2375"];
    stage.bed.fleet.drop_packets(2, &rule);
    // The agent renews its lease: only what opted out of that is made elsewhere.
    stage.await_elsewhere("loose", "node-2");
    eventually("the manager says why", || {
        let filter = ["--filter", "name=web", "--format", "{{.Status}}"];
        let status = stage.bed.docker.ok(&[&["ps", "-a"], &filter[..]].concat());
        status.contains("has a lease").then_some(())
    });
    run_on_for(&[&watched], 3 * TTL);
    stage.bed.fleet.mend(2);
    stage.await_status(2, "Healthy");
    assert_eq!(stage.bed.node_of("web"), "node-2");
    assert_eq!((watched.now(), watched.most()), (1, 1));
    unfenced.await_count(1);
}

#[test]
fn agents_stop_nothing_where_fencing_is_switched_off() {
    let stage = Stage::new(Setup {
        fencing: false,
        ..Setup::default()
    });
    let watched = stage.watched("web", "node-2", &["-e", MOVES]);
    stage.bed.fleet.cut(2);
    stage.await_elsewhere("web", "node-2");
    watched.await_count(2);
    stage.bed.fleet.mend(2);
    stage.await_one(&watched, 2);
}

#[test]
fn what_vanishes_when_it_stops_is_paused_and_runs_again_afterwards() {
    let stage = Stage::new(Setup::default());
    let watched = stage.watched("web", "node-2", &["-e", MOVES, "--rm"]);
    let id = stage.bed.inspect("web", "{{.Id}}");
    // Nobody may make it elsewhere: there is no other node.
    for node in ["node-0", "node-1"] {
        let update = ["node", "update", "--availability", "pause", node];
        stage.bed.docker.ok(&update);
    }
    stage.bed.fleet.cut(2);
    watched.await_count(0);
    stage.bed.fleet.mend(2);
    watched.await_count(1);
    stage.await_status(2, "Healthy");
    assert_eq!(stage.bed.inspect("web", "{{.Id}}"), id);
    assert_eq!(watched.most(), 1);
}
