//! Engines of several releases in one fleet: what is offered is what all of them understand.

use serde_json::Value;

use crate::{
    bed::Bed,
    fleet::{Fleet, unpacked},
    http::{Reply, exchange},
    manager::{FAST_FAIL, eventually},
};

/// An API version, such as 1.41, in a form that compares.
type Version = (u32, u32);

fn version(text: &str) -> Version {
    let (major, minor) = text.split_once('.').expect("a version has a dot");
    let number = |text: &str| text.parse().expect("a version has numbers");
    (number(major), number(minor))
}

/// One version out of what `GET /version` answers.
fn speaks(address: &str, member: &str) -> Version {
    let reply = exchange(address, "GET", "/version", "");
    let answer: Value = serde_json::from_str(&reply.body).expect("/version is JSON");
    version(answer[member].as_str().expect("a version is text"))
}

/// The version in the header of a ping, which is what clients settle on.
fn advertised(address: &str) -> Version {
    let reply = exchange(address, "HEAD", "/_ping", "");
    let line = reply.head.lines().find_map(|line| {
        line.to_ascii_lowercase()
            .strip_prefix("api-version: ")
            .map(str::to_owned)
    });
    version(&line.expect("a ping tells the version"))
}

fn list(address: &str, (major, minor): Version) -> Reply {
    let path = format!("/v{major}.{minor}/containers/json");
    exchange(address, "GET", &path, "")
}

#[test]
fn engines_of_three_releases_work_as_one_fleet() {
    let newer = unpacked("trixie", &["docker.io"]);
    let newest = unpacked("sid", &["docker.io"]);
    let fleet = Fleet::start_mixed("mixed", 3, &[(1, &newer), (2, &newest)]);
    let bed = Bed::over(fleet, &FAST_FAIL);
    let skep = bed.manager.address();
    let engines = bed.fleet.addresses();
    let of_all = |member: &str| -> Vec<Version> {
        engines
            .iter()
            .map(|address| speaks(address, member))
            .collect()
    };
    let (highest, lowest) = (of_all("ApiVersion"), of_all("MinAPIVersion"));
    assert!(
        highest.is_sorted() && highest[0] < highest[2],
        "{highest:?}"
    );
    assert_eq!(advertised(skep), highest[0]);
    assert_eq!(speaks(skep, "ApiVersion"), highest[0]);

    // What an engine refuses, Skep refuses with its words.
    let refusal = |address: &str, version: Version| {
        let reply = list(address, version);
        // To versions as old as that an engine speaks plain text.
        let message = reply.error_message();
        (
            reply.status,
            message.unwrap_or(reply.body.trim().to_owned()),
        )
    };
    assert_eq!(refusal(skep, highest[2]), refusal(&engines[0], highest[2]));
    assert_eq!(refusal(skep, highest[2]).0, 400);
    let strictest = (0..3)
        .max_by_key(|&index| lowest[index])
        .expect("three engines");
    let too_old = (lowest[strictest].0, lowest[strictest].1 - 1);
    assert_eq!(
        refusal(skep, too_old),
        refusal(&engines[strictest], too_old)
    );
    assert_eq!(refusal(skep, too_old).0, 400);

    for program in crate::docker::Docker::programs() {
        let docker = bed.docker.with_program(program);
        for node in ["node-0", "node-1", "node-2"] {
            let (name, constraint) = (format!("on-{node}"), format!("constraint:node=={node}"));
            let script = "echo started; sleep 86400";
            docker.ok(&[
                "run",
                "-d",
                "--name",
                &name,
                "-e",
                &constraint,
                "busybox",
                "sh",
                "-c",
                script,
            ]);
            assert_eq!(bed.node_of(&name), node);
            assert_eq!(docker.ok(&["exec", &name, "echo", "inside"]), "inside");
            eventually("the log is there", || {
                (docker.ok(&["logs", &name]) == "started").then_some(())
            });
            assert!(
                docker
                    .lines(&["ps", "--format", "{{.Names}}"])
                    .contains(&format!("{node}/{name}"))
            );
            docker.ok(&["rm", "-f", &name]);
        }
        docker.ok(&["volume", "create", "everywhere"]);
        docker.ok(&["volume", "rm", "everywhere"]);
        docker.ok(&["network", "create", "-d", "bridge", "node-2/lan"]);
        docker.ok(&["network", "rm", "node-2/lan"]);
    }

    // Without the oldest engine more is on offer.
    bed.fleet.kill(0);
    bed.manager.await_status(&engines[0], "Unhealthy");
    assert_eq!(advertised(skep), highest[1]);
    assert_eq!(list(skep, highest[1]).status, 200);
}
