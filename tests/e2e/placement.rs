//! Which node a container lands on.

use crate::{
    bed::Bed,
    fleet::{Fleet, IMAGE},
    manager::eventually,
};

/// The first line of every refusal by a filter; the reasons follow line by line.
pub const REFUSAL: &str = "Unable to find a node that satisfies the following conditions \n";

#[test]
fn spread_gives_each_node_one_container() {
    Bed::with_each_client(|bed| {
        let mut nodes = ["c-a", "c-b", "c-c"].map(|name| bed.placed(name, &[]));
        nodes.sort();
        assert_eq!(nodes, ["node-0", "node-1", "node-2"]);
    });
}

#[test]
fn spread_counts_stopped_containers() {
    let bed = Bed::new(&[]);
    bed.sleeper("stopped", &["-e", "constraint:node==node-0"]);
    bed.docker.ok(&["stop", "stopped"]);
    let mut nodes = ["c-a", "c-b"].map(|name| bed.placed(name, &[]));
    nodes.sort();
    assert_eq!(nodes, ["node-1", "node-2"]);
}

#[test]
fn binpack_fills_one_node_first() {
    let bed = Bed::new(&["--strategy", "binpack"]);
    let first = bed.placed("first", &[]);
    for name in ["second", "third"] {
        assert_eq!(bed.placed(name, &[]), first);
    }
}

#[test]
fn constraint_chooses_a_node_by_its_name() {
    Bed::with_each_client(|bed| {
        // More than one on the same node: spread alone would not do that.
        for name in ["c-a", "c-b", "c-c"] {
            assert_eq!(
                bed.placed(name, &["-e", "constraint:node==node-1"]),
                "node-1"
            );
        }
        let label = r#"com.docker.swarm.constraints=["node==node-2"]"#;
        for name in ["c-d", "c-e"] {
            assert_eq!(bed.placed(name, &["--label", label]), "node-2");
        }
    });
}

#[test]
fn constraint_chooses_nodes_by_an_engine_label() {
    let bed = Bed::new(&[]);
    for name in ["c-a", "c-b"] {
        assert_eq!(bed.placed(name, &["-e", "constraint:disk==ssd"]), "node-0");
    }
    let both = ["-e", "constraint:disk==hdd", "-e", "constraint:rack!=b"];
    for name in ["c-c", "c-d"] {
        assert_eq!(bed.placed(name, &both), "node-1");
    }
    let label = r#"com.docker.swarm.constraints=["disk==h*","rack==/^b$/"]"#;
    for name in ["c-e", "c-f"] {
        assert_eq!(bed.placed(name, &["--label", label]), "node-2");
    }
}

#[test]
fn refusal_names_the_constraint_that_no_node_meets() {
    Bed::with_each_client(|bed| {
        let error = bed.refused(&["-e", "constraint:node==nowhere"]);
        let wanted = format!("{REFUSAL}[available container slots]\n[node==nowhere]");
        assert!(error.contains(&wanted), "{error}");
        assert_eq!(bed.ps(&["-a"]), [""; 0], "nothing was created");
    });
}

#[test]
fn value_of_a_single_slash_is_an_error_and_harms_nothing() {
    let bed = Bed::new(&[]);
    let error = bed.refused(&["-e", "constraint:node==/"]);
    assert!(error.contains("\n[node==/]"), "{error}");
    // Classic Swarm never scheduled anything again after this.
    bed.sleeper("after", &["-e", "constraint:node==node-0"]);
}

#[test]
fn soft_rules_are_dropped_one_by_one() {
    let bed = Bed::new(&[]);
    // node-0 is the last that spread would choose.
    for name in ["c-a", "c-b"] {
        bed.sleeper(name, &["-e", "constraint:node==node-0"]);
    }
    // As a label: of two environment entries with the same text before the `=`, the docker
    // command sends the last one alone.
    let both = r#"com.docker.swarm.constraints=["disk==~ssd","disk==~tape"]"#;
    assert_eq!(
        bed.placed("soft", &["--label", both]),
        "node-0",
        "the rule that can be met still counts"
    );
    let contradicted = r#"com.docker.swarm.constraints=["disk==hdd","disk==~ssd"]"#;
    assert_ne!(
        bed.placed("hard", &["--label", contradicted]),
        "node-0",
        "a soft rule yields to a hard one"
    );
}

#[test]
fn affinity_follows_and_avoids_a_container() {
    let bed = Bed::new(&[]);
    bed.sleeper("web", &["-e", "constraint:node==node-1"]);
    for (name, option) in [("c-a", "-e"), ("c-b", "--label")] {
        let rule = match option {
            "-e" => "affinity:container==web",
            _ => r#"com.docker.swarm.affinities=["container==web"]"#,
        };
        assert_eq!(bed.placed(name, &[option, rule]), "node-1");
    }
    for name in ["c-c", "c-d", "c-e", "c-f"] {
        assert_ne!(
            bed.placed(name, &["-e", "affinity:container!=web"]),
            "node-1"
        );
    }
    let error = bed.refused(&["-e", "affinity:container==nobody"]);
    let wanted = format!("{REFUSAL}[available container slots]\n[container==nobody (soft=false)]");
    assert!(error.contains(&wanted), "{error}");
}

#[test]
fn affinity_follows_and_avoids_a_label() {
    let bed = Bed::new(&[]);
    bed.sleeper(
        "db",
        &["-e", "constraint:node==node-2", "--label", "tier=data"],
    );
    for name in ["c-a", "c-b"] {
        assert_eq!(bed.placed(name, &["-e", "affinity:tier==data"]), "node-2");
    }
    let label = r#"com.docker.swarm.affinities=["tier!=data"]"#;
    for name in ["c-c", "c-d", "c-e"] {
        assert_ne!(bed.placed(name, &["--label", label]), "node-2");
    }
}

#[test]
fn affinity_follows_an_image() {
    let bed = Bed::new(&[]);
    bed.fleet.engine(2).ok(&["tag", IMAGE, "special:1"]);
    eventually("the new tag is seen", || {
        bed.docker
            .lines(&["images", "-q", "special:1"])
            .first()
            .cloned()
    });
    for (name, rule) in [
        ("c-a", "affinity:image==special:1"),
        ("c-b", "affinity:image==special"),
    ] {
        assert_eq!(bed.placed(name, &["-e", rule]), "node-2");
    }
    for name in ["c-c", "c-d", "c-e"] {
        assert_ne!(
            bed.placed(name, &["-e", "affinity:image!=special"]),
            "node-2"
        );
    }
}

#[test]
fn published_port_is_free_once_per_node_and_protocol() {
    let bed = Bed::new(&[]);
    let mut nodes = ["c-a", "c-b", "c-c"].map(|name| bed.placed(name, &["-p", "8080:80"]));
    nodes.sort();
    assert_eq!(nodes, ["node-0", "node-1", "node-2"]);
    // A stopped container keeps its port: it may be started again.
    bed.docker.ok(&["stop", "c-a"]);
    let error = bed.refused(&["-p", "8080:80"]);
    assert!(
        error.contains(&format!("{REFUSAL}[port 8080 (Bridge mode)]")),
        "{error}"
    );
    bed.sleeper("udp", &["-p", "8080:80/udp"]);
    bed.docker.ok(&["rm", "c-a"]);
    bed.sleeper("again", &["-p", "8080:80"]);
}

#[test]
fn exposed_port_in_host_mode_is_free_once_per_node() {
    let bed = Bed::new(&[]);
    let options = ["--net", "host", "--expose", "80"];
    for name in ["c-a", "c-b", "c-c"] {
        bed.sleeper(name, &options);
    }
    let error = bed.refused(&options);
    assert!(
        error.contains(&format!("{REFUSAL}[port 80/tcp (Host mode)]")),
        "{error}"
    );
}

#[test]
fn container_lands_where_what_it_depends_on_is() {
    let bed = Bed::new(&[]);
    bed.sleeper("base", &["-e", "constraint:node==node-2", "-v", "/data"]);
    for (name, option) in [
        ("c-a", "--volumes-from=base"),
        ("c-b", "--volumes-from=/base:ro"),
        ("c-c", "--link=base:alias"),
        ("c-d", "--net=container:base"),
    ] {
        assert_eq!(bed.placed(name, &[option]), "node-2", "{option}");
    }
    let error = bed.refused(&["--volumes-from=nobody"]);
    let wanted = format!("{REFUSAL}[available container slots]\n[--volumes-from=nobody]");
    assert!(error.contains(&wanted), "{error}");
}

#[test]
fn memory_beyond_every_node_is_refused() {
    let bed = Bed::new(&[]);
    let error = bed.refused(&["-m", "1000g"]);
    assert!(
        error.contains("no resources available to schedule container"),
        "{error}"
    );
    assert_eq!(bed.ps(&["-a"]), [""; 0], "nothing was created");
}

#[test]
fn slots_bound_the_number_of_containers() {
    let bed = Bed::over(Fleet::start("slots", 2, "containerslots=2"), &[]);
    for name in ["c-a", "c-b", "c-c", "c-d"] {
        bed.sleeper(name, &[]);
    }
    let error = bed.refused(&[]);
    assert!(
        error.contains(&format!("{REFUSAL}[available container slots]")),
        "{error}"
    );
    assert_eq!(bed.ps(&[]).len(), 4);
}

#[test]
fn random_places_somewhere() {
    let bed = Bed::new(&["--strategy", "random"]);
    bed.sleeper("c-a", &[]);
    assert!(bed.node_of("c-a").starts_with("node-"));
}

// I-RUN-8, I-RUN-9
#[test]
fn a_soft_constraint_gives_way_to_the_node_that_holds_the_image() {
    let bed = Bed::new(&[]);
    bed.fleet.engine(0).ok(&["tag", IMAGE, "only-here:1"]);
    bed.await_image("only-here:1");
    let run = |name: &str, constraint: &str| {
        let constraint = format!("constraint:{constraint}");
        bed.docker.run(&[
            "run",
            "-d",
            "--name",
            name,
            "-e",
            &constraint,
            "only-here:1",
            "true",
        ])
    };
    // No registry has it, so that the pull on node-1 fails.
    let soft = run("soft", "node==~node-1");
    assert_eq!(soft.code, 0, "{soft:?}");
    assert_eq!(bed.node_of("soft"), "node-0");
    let labels = bed.inspect("soft", "{{json .Config.Labels}}");
    assert!(!labels.contains("image=="), "{labels}");

    let hard = run("hard", "node==node-1");
    assert_ne!(hard.code, 0, "{hard:?}");
    assert!(!hard.stderr.contains("Unable to find a node"), "{hard:?}");
}

// I-RUN-10, I-AFF-6, I-CON-2
#[test]
fn hard_rules_beat_soft_ones_of_another_kind() {
    let bed = Bed::new(&[]);
    bed.sleeper("c0", &["-e", "constraint:rack==b"]);
    let near = "affinity:container==~c0";
    assert_eq!(
        bed.placed("c1", &["-e", "constraint:rack==b", "-e", near]),
        "node-2"
    );
    assert_eq!(
        bed.placed("c2", &["-e", "constraint:disk==ssd", "-e", near]),
        "node-0"
    );
    bed.fleet.engine(1).ok(&["tag", IMAGE, "test:1"]);
    bed.await_image("test:1");
    let images = [
        "-e",
        "affinity:image==~not_exist",
        "-e",
        "affinity:image==test:1",
    ];
    assert_eq!(bed.placed("c3", &images), "node-1");
    let rules = [
        "-e",
        "constraint:storagedriver==~not_exist",
        "-e",
        "constraint:node==node-2",
    ];
    assert_eq!(bed.placed("c4", &rules), "node-2");
}
