//! Engines that die, are cut off or come late, and the daemon's own end.

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use crate::{
    bed::Bed,
    docker::Docker,
    fleet::Fleet,
    manager::{FAST_FAIL, Manager, eventually},
};

#[test]
fn killed_node_is_left_out_until_it_is_back() {
    let bed = Bed::new(&FAST_FAIL);
    let address = bed.fleet.addresses()[1].clone();
    bed.sleeper("gone", &["-e", "constraint:node==node-1"]);
    bed.sleeper("here", &["-e", "constraint:node==node-0"]);

    bed.fleet.kill(1);
    bed.manager.await_status(&address, "Unhealthy");
    assert_eq!(bed.ps(&[]), ["node-0/here"]);
    assert_eq!(bed.ps(&["-a"]), ["node-0/here", "node-1/gone"]);
    let status = bed.docker.ok(&[
        "ps",
        "-a",
        "--filter",
        "name=gone",
        "--format",
        "{{.Status}}",
    ]);
    assert_eq!(status, "Host Down");
    let error = bed.docker.refused(&["logs", "gone"]);
    assert!(
        error.contains(" running on unhealthy node node-1"),
        "{error}"
    );
    for name in ["c-a", "c-b", "c-c", "c-d"] {
        assert_ne!(bed.placed(name, &[]), "node-1");
    }
    let error = bed.refused(&["-e", "constraint:node==node-1"]);
    assert!(error.contains("[node==node-1]"), "{error}");
    let outcome = bed.try_sleeper("gone", &[]);
    assert!(
        outcome
            .stderr
            .contains("Conflict: The name gone is already assigned."),
        "{outcome:?}"
    );

    bed.fleet.revive(1);
    bed.manager.await_status(&address, "Healthy");
    // The plug was pulled, so the container is there and does not run.
    eventually("the container is listed as ended", || {
        (bed.ps(&["-a", "--filter", "status=exited"]) == ["node-1/gone"]).then_some(())
    });
    assert_eq!(bed.placed("after", &[]), "node-1");
    bed.docker.ok(&["start", "gone"]);
}

#[test]
fn engine_that_shuts_down_and_starts_again_is_followed() {
    let bed = Bed::new(&FAST_FAIL);
    let address = bed.fleet.addresses()[2].clone();
    bed.sleeper("web", &["-e", "constraint:node==node-2"]);
    bed.fleet.stop(2);
    bed.manager.await_status(&address, "Unhealthy");
    bed.fleet.revive(2);
    bed.manager.await_status(&address, "Healthy");
    eventually("the container is listed as ended", || {
        (bed.ps(&["-a", "--filter", "status=exited"]) == ["node-2/web"]).then_some(())
    });
    // Events of the engine's new life arrive.
    bed.docker.ok(&["start", "web"]);
    assert_eq!(bed.ps(&[]), ["node-2/web"]);
    bed.fleet.engine(2).ok(&["kill", "web"]);
    eventually("the end of the container is seen", || {
        bed.ps(&[]).is_empty().then_some(())
    });
}

#[test]
fn node_behind_a_cut_link_does_not_hold_up_the_rest() {
    let bed = Bed::new(&FAST_FAIL);
    let address = bed.fleet.addresses()[0].clone();
    bed.sleeper("web", &["-e", "constraint:node==node-1"]);
    bed.fleet.cut(0);
    bed.manager.await_status(&address, "Unhealthy");
    let begin = Instant::now();
    assert_eq!(bed.ps(&[]), ["node-1/web"]);
    bed.docker.ok(&["images"]);
    bed.docker.ok(&["network", "ls"]);
    assert_ne!(bed.placed("other", &[]), "node-0");
    assert!(
        begin.elapsed() < Duration::from_secs(15),
        "it took {:?}",
        begin.elapsed()
    );
    bed.fleet.mend(0);
    bed.manager.await_status(&address, "Healthy");
}

#[test]
fn daemon_notices_what_happens_behind_its_back() {
    let bed = Bed::new(&[]);
    bed.fleet.engine(1).ok(&[
        "run",
        "-d",
        "--name",
        "direct",
        crate::fleet::IMAGE,
        "sleep",
        "1d",
    ]);
    eventually("the container is listed", || {
        (bed.ps(&[]) == ["node-1/direct"]).then_some(())
    });
    bed.fleet.engine(1).ok(&["rm", "-f", "direct"]);
    eventually("the container is gone", || {
        bed.ps(&["-a"]).is_empty().then_some(())
    });
}

#[test]
fn node_that_is_down_at_the_start_joins_later() {
    let fleet = Fleet::of_this_slot();
    let late = fleet.addresses()[1].clone();
    fleet.kill(1);
    let manager = Manager::start(&fleet, &FAST_FAIL);
    manager.await_status(&fleet.addresses()[0], "Healthy");
    manager.await_status(&late, "Pending");
    let node = manager
        .nodes()
        .into_iter()
        .find(|node| node.address == late)
        .expect("the node");
    assert_eq!(node.name, "(unknown)");
    assert!(node.rows.contains_key("Error"), "{node:#?}");
    fleet.revive(1);
    manager.await_status(&late, "Healthy");
    let names: Vec<String> = manager.nodes().into_iter().map(|node| node.name).collect();
    assert_eq!(names, ["node-0", "node-1", "node-2"]);
}

#[test]
fn restarted_daemon_knows_the_fleet_from_its_labels() {
    let mut bed = Bed::new(&[]);
    bed.sleeper("web", &["-e", "constraint:node==node-2"]);
    let id = bed.inspect("web", r#"{{index .Config.Labels "com.docker.swarm.id"}}"#);
    bed.manager.terminate();
    assert!(bed.manager.ended().success());
    let bed = Bed::over(bed.fleet, &[]);
    assert_eq!(bed.ps(&[]), ["node-2/web"]);
    assert_eq!(bed.inspect(&id, "{{.Name}}"), "/web");
}

#[test]
fn sigterm_lets_a_request_finish_and_exits_with_0() {
    let mut bed = Bed::new(&[]);
    bed.script("job", &[], "sleep 3; exit 4");
    let waiting = bed.docker.follow(&["wait", "job"]);
    // The request is under way once the daemon holds the client's connection.
    eventually("the client waits", || {
        (connections(bed.manager.address()) > 0).then_some(())
    });
    bed.manager.terminate();
    eventually("no new connection is accepted", || {
        TcpStream::connect(bed.manager.address())
            .is_err()
            .then_some(())
    });
    assert_eq!(waiting.rest(), ["4"]);
    assert_eq!(bed.manager.ended().code(), Some(0));
}

#[test]
fn sigterm_ends_streams_that_have_no_end() {
    let mut bed = Bed::new(&[]);
    bed.sleeper("box", &[]);
    let logs = bed.docker.follow(&["logs", "-f", "box"]);
    let events = bed.docker.follow(&["events"]);
    eventually("the clients wait", || {
        (connections(bed.manager.address()) > 1).then_some(())
    });
    bed.manager.terminate();
    assert_eq!(bed.manager.ended().code(), Some(0));
    logs.rest();
    events.rest();
}

#[test]
fn route_that_is_not_served_is_named() {
    for program in Docker::programs() {
        let bed = Bed::new(&[]);
        let docker = bed.docker.with_program(program);
        let error = docker.refused(&["plugin", "inspect", "sponge"]);
        assert!(error.contains("/plugins/sponge/json"), "{error}");
        let (status, body) = bed.manager.get("/v1.40/plugins/sponge/json");
        assert_eq!(status, 501);
        assert!(body.contains("GET") && body.contains("/plugins"), "{body}");
    }
}

/// How many established connections the listener at `address` has.
fn connections(address: &str) -> usize {
    let port: u16 = address
        .rsplit(':')
        .next()
        .and_then(|port| port.parse().ok())
        .expect("a port");
    let local = format!(":{port:04X}");
    let table =
        std::fs::read_to_string("/proc/net/tcp").expect("the kernel's table of connections");
    table
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields[1].ends_with(&local) && fields[3] == "01")
        .count()
}
