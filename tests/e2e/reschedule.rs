//! Nodes that die, are cut off, or are drained, and what becomes of their containers.

use std::fs;

use crate::{
    bed::Bed,
    fleet::Fleet,
    manager::{FAST_FAIL, Manager, eventually},
};

const MOVES: &str = "reschedule:on-node-failure";

/// The names of all containers of one engine.
fn names_on(fleet: &Fleet, index: usize, options: &[&str]) -> Vec<String> {
    let mut arguments = vec!["ps", "--format", "{{.Names}}"];
    arguments.extend(options);
    let mut names = fleet.engine(index).lines(&arguments);
    names.sort();
    names
}

fn await_moved(bed: &Bed, name: &str, node: &str) {
    eventually(&format!("{name} runs on {node}"), || {
        let template = "{{.Node.Name}} {{.State.Running}}";
        let seen = bed.docker.run(&["inspect", "--format", template, name]);
        (seen.stdout.trim() == format!("{node} true")).then_some(())
    });
}

// I-RSC-1, I-RSC-4, I-RSC-5
#[test]
fn containers_of_an_engine_that_is_stopped_run_on_another() {
    let bed = Bed::over(Fleet::of_this_slot().narrowed(2), &FAST_FAIL);
    let label = r#"com.docker.swarm.reschedule-policies=["on-node-failure"]"#;
    let on = |node: &'static str| ["-e", node];
    let [first, second] = ["constraint:node==~node-0", "constraint:node==~node-1"];
    let mut options = vec!["-l", label, "-p", "8095:80"];
    options.extend(on(first));
    bed.sleeper("c1", &options);
    bed.sleeper("c2", &on("constraint:node==node-0"));
    bed.sleeper("c3", &["-e", MOVES, "-e", second]);
    assert_eq!(bed.node_of("c1"), "node-0");
    let template = r#"{{index .Config.Labels "com.docker.swarm.id"}}"#;
    let swarm_id = bed.inspect("c1", template);

    bed.fleet.stop(0);
    await_moved(&bed, "c1", "node-1");
    assert_eq!(bed.inspect("c1", template), swarm_id);
    assert_eq!(bed.inspect(&swarm_id, "{{.Name}}"), "/c1");
    assert_eq!(bed.ps(&[]), ["node-1/c1", "node-1/c3"]);
    assert_eq!(bed.ps(&["-a"]), ["node-0/c2", "node-1/c1", "node-1/c3"]);
    let port = bed.docker.ok(&["port", "c1"]);
    assert!(port.contains(":8095"), "{port}");

    // No duplicates when it is back.
    bed.fleet.revive(0);
    let address = bed.fleet.addresses()[0].clone();
    bed.manager.await_status(&address, "Healthy");
    eventually("the old copy is removed", || {
        (names_on(&bed.fleet, 0, &["-a"]) == ["c2"]).then_some(())
    });
    assert_eq!(bed.ps(&["-aq", "--no-trunc"]).len(), 3);

    bed.fleet.stop(1);
    for name in ["c1", "c3"] {
        await_moved(&bed, name, "node-0");
    }
    bed.fleet.revive(1);
    eventually("the old copies are removed", || {
        names_on(&bed.fleet, 1, &["-a"]).is_empty().then_some(())
    });
    assert_eq!(bed.inspect("c1", template), swarm_id);
}

// I-RSC-2
#[test]
fn who_insists_on_a_node_waits_for_it_and_says_so() {
    let bed = Bed::new(&FAST_FAIL);
    bed.sleeper("bound", &["-e", MOVES, "-e", "constraint:node==node-1"]);
    bed.sleeper("free", &["-e", MOVES, "-e", "constraint:node==~node-1"]);
    let volume = [
        "-e",
        MOVES,
        "-e",
        "constraint:node==~node-1",
        "-v",
        "data:/data",
    ];
    bed.sleeper("db", &volume);
    bed.fleet.kill(1);
    eventually("the free one is elsewhere", || {
        (bed.node_of("free") != "node-1").then_some(())
    });
    let status = |name: &str| {
        let filter = format!("name={name}");
        bed.docker
            .ok(&["ps", "-a", "--filter", &filter, "--format", "{{.Status}}"])
    };
    eventually("ps says why", || {
        (status("db") == "Host Down (the volume data is on its node alone)").then_some(())
    });
    eventually("ps says why", || {
        status("bound").contains("node==node-1").then_some(())
    });
    let waiting = bed.inspect_json("db")["Node"]["Waiting"].clone();
    assert_eq!(waiting, "the volume data is on its node alone");
    bed.fleet.revive(1);
    eventually("both are there again", || {
        let names = bed.ps(&["-a"]);
        let all = ["node-1/bound", "node-1/db"];
        all.iter()
            .all(|name| names.iter().any(|seen| seen == name))
            .then_some(())
    });
}

#[test]
fn the_copy_on_a_node_that_was_cut_off_goes_and_its_data_stays() {
    let bed = Bed::new(&FAST_FAIL);
    let policy = "reschedule:on-node-failure,stateful=force";
    let options = [
        "-e",
        policy,
        "-e",
        "constraint:node==~node-2",
        "-v",
        "data:/data",
    ];
    bed.sleeper("web", &options);
    assert_eq!(bed.node_of("web"), "node-2");
    bed.fleet.cut(2);
    eventually("it runs elsewhere", || {
        // The engine is not asked for this.
        let names = bed.ps(&[]);
        let is_moved = ["node-0/web", "node-1/web"]
            .iter()
            .any(|name| names == [*name]);
        is_moved.then_some(())
    });
    let new = bed.node_of("web");
    bed.fleet.mend(2);
    eventually("the old copy is removed", || {
        names_on(&bed.fleet, 2, &["-a"]).is_empty().then_some(())
    });
    assert_eq!(bed.node_of("web"), new);
    assert_eq!(bed.ps(&["-a"]), [format!("{new}/web")]);
    let volumes = bed.fleet.engine(2).lines(&["volume", "ls", "-q"]);
    assert_eq!(volumes, ["data"]);
}

#[test]
fn containers_that_share_a_network_move_to_one_node() {
    let bed = Bed::new(&FAST_FAIL);
    bed.sleeper("net", &["-e", MOVES, "-e", "constraint:node==~node-1"]);
    bed.sleeper("app", &["-e", MOVES, "--net", "container:net"]);
    bed.fleet.kill(1);
    eventually("both run elsewhere", || {
        let seen =
            ["net", "app"].map(|name| bed.inspect(name, "{{.Node.Name}} {{.State.Running}}"));
        let is_moved =
            seen[0] == seen[1] && seen[0].ends_with("true") && !seen[0].starts_with("node-1");
        is_moved.then_some(())
    });
    let mode = bed.inspect("app", "{{.HostConfig.NetworkMode}}");
    assert!(mode.starts_with("container:"), "{mode}");
    bed.fleet.revive(1);
    eventually("the old copies are removed", || {
        names_on(&bed.fleet, 1, &["-a"]).is_empty().then_some(())
    });
}

#[test]
fn docker_node_shows_nodes_drains_them_and_gives_them_labels() {
    Bed::with_each_client(|bed| {
        let nodes = bed.docker.lines(&[
            "node",
            "ls",
            "--format",
            "{{.Hostname}} {{.Status}} {{.Availability}}",
        ]);
        assert_eq!(
            nodes,
            [
                "node-0 Ready Active",
                "node-1 Ready Active",
                "node-2 Ready Active"
            ]
        );
        let update = |arguments: &[&str]| {
            let mut all = vec!["node", "update"];
            all.extend(arguments);
            bed.docker.ok(&all);
        };
        update(&["--label-add", "shelf=b", "node-1"]);
        bed.sleeper("labelled", &["-e", "constraint:shelf==b"]);
        assert_eq!(bed.node_of("labelled"), "node-1");
        let label = bed.docker.ok(&[
            "node",
            "inspect",
            "--format",
            "{{.Spec.Labels.shelf}}",
            "node-1",
        ]);
        assert_eq!(label, "b");

        bed.sleeper("moves", &["-e", MOVES, "-e", "constraint:node==~node-1"]);
        update(&["--availability", "drain", "node-1"]);
        eventually("it runs elsewhere", || {
            (bed.node_of("moves") != "node-1").then_some(())
        });
        eventually("the old one is gone", || {
            (names_on(&bed.fleet, 1, &["-a"]) == ["labelled"]).then_some(())
        });
        let template = "{{.Spec.Availability}}: {{.Status.Message}}";
        let said = bed
            .docker
            .ok(&["node", "inspect", "--format", template, "node-1"]);
        assert_eq!(said, "drain: 1 left: labelled: it has no reschedule policy");
        let error = bed.refused(&["-e", "constraint:node==node-1"]);
        assert!(error.contains("node==node-1"), "{error}");

        update(&["--availability", "active", "--label-rm", "shelf", "node-1"]);
        assert_eq!(
            bed.placed("back", &["-e", "constraint:node==node-1"]),
            "node-1"
        );
        let error = bed.refused(&["-e", "constraint:shelf==b"]);
        assert!(error.contains("shelf==b"), "{error}");
        let error = bed.docker.refused(&["node", "inspect", "nobody"]);
        assert!(error.to_lowercase().contains("nobody"), "{error}");
        let error = bed.docker.refused(&["node", "rm", "node-1"]);
        assert!(error.contains("discovery"), "{error}");
        let error = bed.docker.refused(&["node", "promote", "node-1"]);
        assert!(error.contains("worker"), "{error}");
        // It is none, and that is no error.
        bed.docker.ok(&["node", "demote", "node-1"]);
        let filtered = ["node", "ls", "-q", "--filter", "role=worker"];
        assert_eq!(bed.docker.lines(&filtered).len(), 3);
        let format = "{{.Name}} {{.Image}} {{.Node}} {{.DesiredState}} {{.CurrentState}}";
        let tasks = bed
            .docker
            .lines(&["node", "ps", "--format", format, "node-1"]);
        assert_eq!(tasks.len(), 2, "{tasks:?}");
        for name in ["back.1", "labelled.1"] {
            let start = format!("{name} busybox:latest node-1 Running Running ");
            let is_shown = tasks.iter().any(|task| task.starts_with(&start));
            assert!(is_shown, "{tasks:?}");
        }
    });
}

#[test]
fn a_rebalance_spreads_what_was_piled_up() {
    let bed = Bed::new(&[]);
    let rebalance = |arguments: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_skep"))
            .arg("rebalance")
            .args(arguments)
            .env("DOCKER_HOST", format!("tcp://{}", bed.manager.address()))
            .output()
            .expect("skep starts");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let make = |node: &str, availability: &str| {
        let update = ["node", "update", "--availability", availability, node];
        bed.docker.ok(&update);
    };
    for node in ["node-1", "node-2"] {
        make(node, "pause");
    }
    for name in ["c1", "c2", "c3", "c4"] {
        bed.sleeper(name, &["-e", MOVES]);
    }
    bed.sleeper("bound", &["-e", MOVES, "-e", "constraint:node==node-0"]);
    bed.sleeper("fixed", &[]);
    for node in ["node-1", "node-2"] {
        make(node, "active");
    }
    let plan = rebalance(&["--dry-run"]);
    let lines: Vec<&str> = plan.lines().collect();
    assert!(lines[0].starts_with("CONTAINER  FROM"), "{plan}");
    assert_eq!(lines.len(), 5, "{plan}");
    assert!(
        lines[1].contains("node-0") && lines[1].contains("5 containers"),
        "{plan}"
    );
    assert_eq!(names_on(&bed.fleet, 0, &[]).len(), 6);

    let moved = rebalance(&["--max-moves", "20"]);
    assert_eq!(moved.matches("moved").count(), 4, "{moved}");
    for index in 0..3 {
        eventually("two are left on each", || {
            (names_on(&bed.fleet, index, &["-a"]).len() == 2).then_some(())
        });
    }
    assert_eq!(names_on(&bed.fleet, 0, &[]), ["bound", "fixed"]);
    assert_eq!(bed.ps(&[]).len(), 6);
    assert_eq!(rebalance(&[]).trim(), "Nothing would be better elsewhere.");
}

#[test]
fn a_node_that_comes_and_goes_keeps_its_containers() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.toml");
    fs::write(&config, "[reschedule]\ngrace = \"15s\"\n").unwrap();
    let config = config.to_str().unwrap();
    let bed = Bed::new(&[&FAST_FAIL[..], &["--config", config]].concat());
    bed.sleeper("web", &["-e", MOVES, "-e", "constraint:node==~node-1"]);
    let id = bed.inspect("web", "{{.Id}}");
    let address = bed.fleet.addresses()[1].clone();
    for _ in 0..3 {
        bed.fleet.kill(1);
        bed.manager.await_status(&address, "Unhealthy");
        bed.fleet.revive(1);
        bed.manager.await_status(&address, "Healthy");
    }
    assert_eq!(
        bed.inspect("web", "{{.Id}} {{.Node.Name}}"),
        format!("{id} node-1")
    );
    for index in [0, 2] {
        assert!(names_on(&bed.fleet, index, &["-a"]).is_empty());
    }
}

#[test]
fn a_manager_and_a_node_that_die_together_lose_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = format!(
        "--store=embedded://{}/store.redb",
        directory.path().display()
    );
    let options = [&FAST_FAIL[..], &[&store]].concat();
    let mut bed = Bed::new(&options);
    bed.sleeper("web", &["-e", MOVES, "-e", "constraint:node==~node-1"]);
    bed.sleeper(
        "db",
        &[
            "-e",
            MOVES,
            "-e",
            "constraint:node==~node-1",
            "-v",
            "data:/data",
        ],
    );
    bed.manager.signal("KILL");
    bed.fleet.kill(1);
    bed.manager.ended();

    bed.manager = Manager::start(&bed.fleet, &options);
    bed.docker = bed.manager.docker();
    eventually("it runs elsewhere", || {
        let names = bed.ps(&[]);
        let is_moved = ["node-0/web", "node-2/web"]
            .iter()
            .any(|name| names == [*name]);
        is_moved.then_some(())
    });
    let copies = [0, 2]
        .map(|index| names_on(&bed.fleet, index, &["-a"]))
        .concat();
    assert_eq!(copies, ["web"]);
    bed.fleet.revive(1);
    eventually("only what waited is left", || {
        (names_on(&bed.fleet, 1, &["-a"]) == ["db"]).then_some(())
    });
}

#[test]
fn three_of_four_nodes_cut_off_move_nothing() {
    let fleet = Fleet::start("quorum", 4, "");
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.toml");
    fs::write(&config, "[engine]\nrequest-timeout = \"3s\"\n").unwrap();
    let config = config.to_str().unwrap();
    let bed = Bed::over(fleet, &[&FAST_FAIL[..], &["--config", config]].concat());
    for name in ["c0", "c1", "c2", "c3"] {
        bed.sleeper(name, &["-e", MOVES]);
    }
    let before = bed.ps(&[]);
    for index in 1..4 {
        bed.fleet.cut(index);
    }
    let warnings = || bed.manager.get_json("/info")["Warnings"].to_string();
    eventually("the manager says that it does nothing", || {
        warnings()
            .contains("3 of 4 nodes are out of reach")
            .then_some(())
    });
    for index in 1..4 {
        let address = &bed.fleet.addresses()[index];
        bed.manager.await_status(address, "Unhealthy");
    }
    assert_eq!(names_on(&bed.fleet, 0, &["-a"]).len(), 1);
    for index in 1..4 {
        bed.fleet.mend(index);
    }
    eventually("all is as it was", || {
        let is_quiet = !warnings().contains("out of reach");
        (bed.ps(&[]) == before && is_quiet).then_some(())
    });
}

#[test]
fn a_container_has_its_networks_again_where_nodes_have_them() {
    let bed = Bed::new(&FAST_FAIL);
    for node in ["node-1", "node-2"] {
        for (name, subnet) in [("lan", "10.99.1.0/24"), ("back", "10.99.2.0/24")] {
            let full = format!("{node}/{name}");
            bed.docker.ok(&[
                "network", "create", "-d", "bridge", "--subnet", subnet, &full,
            ]);
        }
    }
    bed.docker
        .ok(&["network", "create", "-d", "bridge", "node-1/only"]);
    let wish = ["-e", MOVES, "-e", "constraint:node==~node-1"];
    let first = ["--net", "lan", "--ip", "10.99.1.50"];
    let aliases = ["--network-alias", "www", "--network-alias", "front"];
    bed.sleeper("web", &[&wish[..], &first, &aliases].concat());
    assert_eq!(bed.node_of("web"), "node-1");
    bed.docker
        .ok(&["network", "connect", "--alias", "api", "node-1/back", "web"]);
    bed.sleeper("bound", &[&wish[..], &["--net", "node-1/only"]].concat());

    bed.fleet.kill(1);
    await_moved(&bed, "web", "node-2");
    let networks = bed.inspect_json("web")["NetworkSettings"]["Networks"].clone();
    let aliases = |name: &str| networks[name]["Aliases"].to_string();
    assert_eq!(networks["lan"]["IPAddress"], "10.99.1.50");
    for alias in ["www", "front"] {
        assert!(aliases("lan").contains(alias), "{networks}");
    }
    assert!(aliases("back").contains("api"), "{networks}");
    let address = networks["back"]["IPAddress"].as_str().unwrap();
    assert!(address.starts_with("10.99.2."), "{networks}");
    let lookup = ["run", "--rm", "--net", "node-2/back", "busybox:latest"];
    bed.docker
        .ok(&[&lookup[..], &["ping", "-c", "1", "-W", "2", "api"]].concat());

    eventually("inspect says why the other one stays", || {
        let waiting = bed.inspect_json("bound")["Node"]["Waiting"].to_string();
        waiting.contains("node-1").then_some(())
    });
}
