//! What becomes of the rules a client sends: they are taken out of the environment and kept as
//! labels, and every container gets an id that outlives a move.

use std::collections::BTreeSet;

use serde_json::json;

use crate::{bed::Bed, http::exchange};

#[test]
fn rules_move_from_the_environment_to_labels() {
    let bed = Bed::new(&[]);
    let options = [
        "-e",
        "constraint:node==node-1",
        "-e",
        "affinity:container!=~nobody",
        "-e",
        "COLOUR=blue",
        "--label",
        r#"com.docker.swarm.constraints=["disk==hdd"]"#,
    ];
    bed.sleeper("web", &options);
    let config = &bed.inspect_json("web")["Config"];
    let environment = config["Env"].as_array().expect("an environment");
    assert!(environment.contains(&json!("COLOUR=blue")));
    assert!(
        !environment
            .iter()
            .any(|entry| entry.as_str().is_some_and(|entry| entry.contains("node==")))
    );
    let labels = &config["Labels"];
    assert_eq!(
        labels["com.docker.swarm.constraints"],
        r#"["disk==hdd","node==node-1"]"#
    );
    assert_eq!(
        labels["com.docker.swarm.affinities"],
        r#"["container!=~nobody"]"#
    );
}

#[test]
fn container_has_a_cluster_id_that_works_as_a_reference() {
    let bed = Bed::new(&[]);
    bed.script("web", &[], "echo hello");
    let id = bed.inspect("web", r#"{{index .Config.Labels "com.docker.swarm.id"}}"#);
    assert_eq!(id.len(), 64);
    assert!(id.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_ne!(id, bed.inspect("web", "{{.Id}}"));
    assert_eq!(bed.inspect(&id, "{{.Name}}"), "/web");
    bed.await_state("web", "exited");
    assert_eq!(bed.docker.ok(&["logs", &id]), "hello");
    let filter = format!("label=com.docker.swarm.id={id}");
    assert_eq!(bed.ps(&["-a", "--filter", &filter]).len(), 1);
    bed.docker.ok(&["commit", &id, "kept:1"]);
    assert_eq!(
        bed.docker.ok(&["run", "--rm", "kept:1", "echo", "again"]),
        "again"
    );
    let path = format!("/containers/{id}/attach?logs=1&stdout=1");
    let attached = exchange(bed.manager.address(), "POST", &path, "");
    assert_eq!(attached.status, 200, "{attached:?}");
    assert!(attached.body.ends_with("hello\n"), "{attached:?}");
}

#[test]
fn container_is_found_by_every_reference() {
    let bed = Bed::new(&[]);
    bed.sleeper("web", &["-e", "constraint:node==node-1"]);
    let id = bed.inspect("web", "{{.Id}}");
    let references = ["web", "/web", "node-1/web", &id, &id[..12], &id[..8]];
    let found: BTreeSet<String> = references
        .map(|reference| bed.inspect(reference, "{{.Id}}"))
        .into();
    assert_eq!(found, [id].into());
    bed.docker.refused(&["inspect", "node-0/web"]);
}

#[test]
fn options_of_the_client_reach_the_engine() {
    let bed = Bed::new(&[]);
    let options = [
        "--hostname=web.example",
        "--add-host=db:10.0.0.7",
        "--cap-add=NET_ADMIN",
        "--read-only",
        "--ulimit=nofile=100:200",
        "--tmpfs=/scratch",
        "--stop-signal=SIGUSR1",
        "--oom-score-adj=350",
        "--cgroupns=host",
        "--restart=on-failure:2",
        "--health-cmd=true",
    ];
    bed.sleeper("web", &options);
    let document = bed.inspect_json("web");
    let (config, host) = (&document["Config"], &document["HostConfig"]);
    assert_eq!(config["Hostname"], "web.example");
    assert_eq!(config["StopSignal"], "SIGUSR1");
    assert_eq!(config["Healthcheck"]["Test"], json!(["CMD-SHELL", "true"]));
    assert_eq!(host["ExtraHosts"], json!(["db:10.0.0.7"]));
    assert_eq!(host["ReadonlyRootfs"], true);
    assert_eq!(
        host["Ulimits"],
        json!([{"Name": "nofile", "Hard": 200, "Soft": 100}])
    );
    assert_eq!(host["Tmpfs"], json!({"/scratch": ""}));
    assert_eq!(host["OomScoreAdj"], 350);
    assert_eq!(host["CgroupnsMode"], "host");
    assert_eq!(
        host["RestartPolicy"],
        json!({"Name": "on-failure", "MaximumRetryCount": 2})
    );
    assert!(
        host["CapAdd"][0]
            .as_str()
            .is_some_and(|capability| capability.ends_with("NET_ADMIN"))
    );
}
