//! The event stream: live and from the past, decorated with the node.

use std::{
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::Value;

use crate::{bed::Bed, fleet::IMAGE, manager::eventually};

/// Seconds since the epoch, by the clock that the engines share with this machine.
fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock after 1970")
        .as_secs()
}

/// The events between two moments, parsed line by line.
fn events_between(bed: &Bed, since: u64, until: u64) -> Vec<Value> {
    let (status, body) = bed
        .manager
        .get(&format!("/events?since={since}&until={until}"));
    assert_eq!(status, 200, "{body}");
    body.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

#[test]
fn events_tell_the_node_in_every_form_that_tools_read() {
    let bed = Bed::new(&[]);
    let since = now();
    bed.docker.ok(&[
        "run",
        "--name",
        "job",
        "-e",
        "constraint:node==node-1",
        IMAGE,
        "true",
    ]);
    let id = bed.inspect("job", "{{.Id}}");
    let events = events_between(&bed, since, now() + 1);
    let of_job: Vec<&Value> = events
        .iter()
        .filter(|event| event["Type"] == "container" && event["Actor"]["ID"] == *id)
        .collect();
    let actions: Vec<&str> = of_job
        .iter()
        .filter_map(|event| event["Action"].as_str())
        .collect();
    for action in ["create", "start", "die"] {
        assert!(actions.contains(&action), "{action}: {actions:?}");
    }
    let address = &bed.fleet.addresses()[1];
    let ip = address.split(':').next().expect("an address");
    for event in of_job {
        assert_eq!(event["from"], format!("{IMAGE} node:node-1"), "{event}");
        let attributes = &event["Actor"]["Attributes"];
        assert_eq!(attributes["node.name"], "node-1", "{event}");
        assert_eq!(attributes["node.addr"], **address, "{event}");
        assert_eq!(attributes["node.ip"], ip, "{event}");
        assert_eq!(event["node"]["Name"], "node-1", "{event}");
        assert_eq!(event["node"]["Addr"], **address, "{event}");
        assert_eq!(event["node"]["Id"], attributes["node.id"], "{event}");
    }
}

#[test]
fn live_events_match_the_filters_of_the_client() {
    Bed::with_each_client(|bed| {
        let events = bed.docker.follow(&[
            "events",
            "--filter",
            "event=start",
            "--filter",
            "container=wanted",
        ]);
        // Nothing tells that the client listens, so containers start until it has seen one.
        let seen = thread::scope(|scope| {
            let seen = scope.spawn(move || events.line(|_| true));
            eventually("an event arrives", || {
                bed.docker
                    .ok(&["run", "--rm", "--name", "other", IMAGE, "true"]);
                bed.docker.ok(&["run", "--name", "wanted", IMAGE, "true"]);
                bed.docker.ok(&["rm", "wanted"]);
                seen.is_finished().then_some(())
            });
            seen.join().expect("an event")
        });
        assert!(
            seen.contains("container start ") && seen.contains("name=wanted"),
            "{seen}"
        );
        assert!(seen.contains("node.name=node-"), "{seen}");
    });
}

#[test]
fn events_of_the_past_end_at_until() {
    Bed::with_each_client(|bed| {
        let since = now();
        bed.docker.ok(&["run", "--name", "job", IMAGE, "true"]);
        let (since, until) = (since.to_string(), (now() + 1).to_string());
        let filters = [
            "--filter",
            "container=job",
            "--filter",
            "event=create",
            "--filter",
            "event=die",
        ];
        let mut arguments = vec!["events", "--since", &since, "--until", &until];
        arguments.extend(filters);
        let events = bed.docker.lines(&arguments);
        assert_eq!(events.len(), 2, "{events:#?}");
        assert!(
            events[0].contains(" create ") && events[1].contains(" die "),
            "{events:#?}"
        );
    });
}

#[test]
fn events_until_a_moment_before_the_daemon_are_none() {
    let bed = Bed::new(&[]);
    assert_eq!(
        bed.docker
            .lines(&["events", "--until", &(now() - 3600).to_string()]),
        [""; 0]
    );
}

#[test]
fn container_of_an_event_is_already_in_ps() {
    let bed = Bed::new(&[]);
    let events = bed
        .docker
        .follow(&["events", "--filter", "event=start", "--format", "{{.ID}}"]);
    let (listed, id) = thread::scope(|scope| {
        let bed = &bed;
        let first = scope.spawn(move || {
            let id = events.line(|_| true);
            (
                bed.ps(&["-a", "--no-trunc", "--filter", &format!("id={id}")]),
                id,
            )
        });
        let mut number = 0;
        eventually("an event arrives", || {
            number += 1;
            bed.sleeper(&format!("box-{number}"), &[]);
            first.is_finished().then_some(())
        });
        first.join().expect("an event")
    });
    assert_eq!(
        listed.len(),
        1,
        "the client saw {id} start, and `docker ps` lacks it"
    );
}
