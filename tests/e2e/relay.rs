//! What a manager that does not lead passes on: streams of real engines, both ways.

use std::net::TcpListener;

use skep_fleet::stores::{Kind, Server};

use crate::{
    fleet::{Fleet, IMAGE},
    manager::{Manager, eventually},
};

/// Starts a manager that may lead, and waits until it knows who does.
fn manager(fleet: &Fleet, server: &Server) -> Manager {
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let advertise = port.local_addr().unwrap().to_string();
    drop(port);
    let store = format!("--store={}/test", server.url());
    let listen = format!("tcp://{advertise}");
    let advertise = format!("--advertise={advertise}");
    let replication = ["--replication", "--replication-ttl=4s"];
    let options = [&["-H", &listen, &advertise, &store][..], &replication].concat();
    let manager = Manager::start_at(&fleet.discovery(), &options);
    eventually("somebody leads", || {
        let status = manager.system_status();
        let is_known = |(key, value): &(String, String)| match key.trim() {
            "Role" => value == "primary",
            "Primary" => !value.is_empty(),
            _ => false,
        };
        status.iter().any(is_known).then_some(())
    });
    for address in fleet.addresses() {
        manager.await_status(address, "Healthy");
    }
    manager
}

#[test]
fn streams_pass_through_a_replica_and_end_with_the_leader() {
    let fleet = Fleet::of_this_slot().narrowed(1);
    let server = Server::start(Kind::Etcd);
    let mut leader = manager(&fleet, &server);
    let replica = manager(&fleet, &server);
    let docker = replica.docker();

    let ticks = "while true; do echo tick; sleep 0.1; done";
    docker.ok(&["run", "-d", "--name", "web", IMAGE, "sh", "-c", ticks]);
    let echoed = docker.run_with_input("there and back", &["exec", "-i", "web", "cat"]);
    assert_eq!(echoed.stdout, "there and back");
    let attached = docker.follow(&["attach", "--no-stdin", "--sig-proxy=false", "web"]);
    let logs = docker.follow(&["logs", "-f", "web"]);
    let events = docker.follow(&["events", "--filter", "container=web"]);
    attached.line(|line| line == "tick");
    logs.line(|line| line == "tick");
    docker.ok(&["exec", "web", "true"]);
    events.line(|line| line.contains("exec_start"));

    leader.signal("KILL");
    leader.ended();
    // None of them waits for what will never come.
    attached.rest();
    logs.rest();
    events.rest();
    eventually("the replica leads and goes on", || {
        let said = docker.run(&["exec", "web", "echo", "again"]);
        (said.stdout == "again\n").then_some(())
    });
    let logs = docker.follow(&["logs", "-f", "--tail", "1", "web"]);
    logs.line(|line| line == "tick");
}
