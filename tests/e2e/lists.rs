//! Answers that are put together from all engines: ps, info, images, networks, volumes.

use serde_json::Value;

use crate::{bed::Bed, fleet::IMAGE, manager::eventually};

#[test]
fn ps_names_the_node_before_the_container() {
    Bed::with_each_client(|bed| {
        bed.sleeper("web", &["-e", "constraint:node==node-0"]);
        bed.sleeper("db", &["-e", "constraint:node==node-2"]);
        assert_eq!(bed.ps(&[]), ["node-0/web", "node-2/db"]);
        bed.docker.ok(&["stop", "node-0/web"]);
        assert_eq!(bed.ps(&[]), ["node-2/db"]);
        assert_eq!(bed.ps(&["-a"]), ["node-0/web", "node-2/db"]);
    });
}

#[test]
fn ps_filters_by_what_the_client_asks() {
    let bed = Bed::new(&[]);
    bed.sleeper(
        "web-1",
        &[
            "-e",
            "constraint:node==node-0",
            "--label",
            "tier=web",
            "--label",
            "env=test",
        ],
    );
    bed.sleeper(
        "web-2",
        &["-e", "constraint:node==node-1", "--label", "tier=web"],
    );
    bed.script("job", &["-e", "constraint:node==node-1"], "exit 3");
    bed.docker.ok(&["wait", "job"]);
    let id = bed.inspect("web-1", "{{.Id}}");
    let by_id = format!("id={id}");
    let cases: &[(&[&str], &[&str])] = &[
        (&["name=web-1"], &["node-0/web-1"]),
        (&["name=web"], &["node-0/web-1", "node-1/web-2"]),
        (&["name=nobody"], &[]),
        (&[&by_id], &["node-0/web-1"]),
        (&["status=exited"], &["node-1/job"]),
        (&["status=running"], &["node-0/web-1", "node-1/web-2"]),
        (&["exited=3"], &["node-1/job"]),
        (&["label=tier"], &["node-0/web-1", "node-1/web-2"]),
        (&["label=tier=web", "label=env=test"], &["node-0/web-1"]),
        (&["node=node-1"], &["node-1/web-2"]),
        (&["ancestor=busybox"], &["node-0/web-1", "node-1/web-2"]),
        (&["ancestor=nothing"], &[]),
    ];
    for (filters, wanted) in cases {
        let mut options: Vec<&str> = filters
            .iter()
            .flat_map(|&filter| ["--filter", filter])
            .collect();
        if filters[0].starts_with("exited") {
            options.push("-a");
        }
        assert_eq!(bed.ps(&options), *wanted, "{filters:?}");
    }
}

#[test]
fn ps_limits_to_the_newest() {
    let bed = Bed::new(&[]);
    for name in ["first", "second", "third"] {
        bed.sleeper(name, &[]);
    }
    bed.docker.ok(&["stop", "third"]);
    let newest = |option: &[&str]| -> Vec<String> {
        let names = bed.ps(option);
        names
            .iter()
            .filter_map(|name| name.split('/').nth(1))
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(newest(&["-l"]), ["third"]);
    let mut two = newest(&["-n", "2"]);
    two.sort();
    assert_eq!(two, ["second", "third"]);
}

#[test]
fn ps_shows_the_port_at_the_node() {
    let bed = Bed::new(&[]);
    bed.sleeper("web", &["-p", "8080:80", "-e", "constraint:node==node-1"]);
    let ip = bed.fleet.addresses()[1]
        .split(':')
        .next()
        .expect("an address");
    let ports = bed.docker.ok(&["ps", "--format", "{{.Ports}}"]);
    assert!(ports.contains(&format!("{ip}:8080->80/tcp")), "{ports}");
}

#[test]
fn inspect_tells_the_node() {
    Bed::with_each_client(|bed| {
        bed.sleeper(
            "web",
            &["-e", "constraint:node==node-1", "--hostname", "web.example"],
        );
        let address = &bed.fleet.addresses()[1];
        assert_eq!(
            bed.inspect("web", "{{.Node.Name}} {{.Node.Addr}}"),
            format!("node-1 {address}")
        );
        assert_eq!(
            bed.inspect("web", "{{.Node.IP}}"),
            address.split(':').next().expect("an address")
        );
        assert_eq!(bed.inspect("web", "{{.Node.Labels.disk}}"), "hdd");
        let id = bed.fleet.engine(1).ok(&["info", "--format", "{{.ID}}"]);
        assert_eq!(
            bed.inspect("web", "{{.Node.ID}}"),
            format!("{id}|{address}")
        );
        assert_eq!(
            bed.inspect("web", "{{.Config.Hostname}} {{.Name}}"),
            "web.example /web"
        );
    });
}

#[test]
fn inspect_keeps_every_field_of_the_engine() {
    let bed = Bed::new(&[]);
    bed.sleeper("web", &["-e", "constraint:node==node-1"]);
    let mut through = bed.inspect_json("web");
    through
        .as_object_mut()
        .expect("an object")
        .remove("Node")
        .expect("a node");
    let id = bed.inspect("web", "{{.Id}}");
    let direct = bed.fleet.engine(1).ok(&["inspect", &id]);
    let direct: Value = serde_json::from_str(&direct).expect("JSON");
    for (key, value) in direct[0].as_object().expect("an object") {
        assert_eq!(&through[key], value, "{key}");
    }
}

#[test]
fn info_has_the_layout_that_tools_parse() {
    let bed = Bed::new(&[]);
    bed.sleeper("web", &["-m", "10m", "-e", "constraint:node==node-0"]);
    let rows = bed.manager.system_status();
    let head: Vec<(&str, &str)> = rows
        .iter()
        .take(4)
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    let filters = "health, port, containerslots, dependency, affinity, constraint, whitelist";
    assert_eq!(
        head,
        [
            ("Role", "primary"),
            ("Strategy", "spread"),
            ("Filters", filters),
            ("Nodes", "3")
        ]
    );
    // Rows that an error in the daemon's own parts adds come after the nodes.
    let nodes: Vec<&(String, String)> = rows[4..]
        .iter()
        .filter(|(key, _)| key.starts_with(' '))
        .collect();
    let keys: Vec<&str> = nodes[..9].iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(
        keys,
        [
            " node-0",
            "  └ ID",
            "  └ Status",
            "  └ Containers",
            "  └ Reserved CPUs",
            "  └ Reserved Memory",
            "  └ Labels",
            "  └ UpdatedAt",
            "  └ ServerVersion"
        ]
    );
    let names: Vec<String> = bed
        .manager
        .nodes()
        .into_iter()
        .map(|node| node.name)
        .collect();
    assert_eq!(names, ["node-0", "node-1", "node-2"]);
    let node = &bed.manager.nodes()[0];
    assert_eq!(node.address, bed.fleet.addresses()[0]);
    assert_eq!(node.rows["Status"], "Healthy");
    assert_eq!(
        node.rows["Containers"],
        "1 (1 Running, 0 Paused, 0 Stopped)"
    );
    assert!(node.rows["Reserved CPUs"].starts_with("0 / "), "{node:#?}");
    assert!(
        node.rows["Reserved Memory"].starts_with("10 MiB / "),
        "{node:#?}"
    );
    let labels: Vec<&str> = node.rows["Labels"].split(", ").collect();
    assert!(
        labels.contains(&"disk=ssd") && labels.contains(&"ostype=linux"),
        "{labels:?}"
    );
    assert!(labels.is_sorted(), "{labels:?}");
    let version = bed
        .fleet
        .engine(0)
        .ok(&["version", "--format", "{{.Server.Version}}"]);
    assert_eq!(node.rows["ServerVersion"], version);
}

#[test]
fn info_counts_containers_by_state() {
    Bed::with_each_client(|bed| {
        bed.sleeper("c-a", &[]);
        bed.sleeper("c-b", &[]);
        bed.sleeper("c-c", &[]);
        bed.docker.ok(&["pause", "c-b"]);
        bed.docker.ok(&["kill", "c-c"]);
        bed.await_state("c-c", "exited");
        let format =
            "{{.Containers}} {{.ContainersRunning}} {{.ContainersPaused}} {{.ContainersStopped}}";
        assert_eq!(bed.docker.ok(&["info", "--format", format]), "3 1 1 1");
        let shown = bed.docker.ok(&["info"]);
        assert!(shown.contains(" Nodes: 3\n"), "{shown}");
        bed.docker.ok(&["unpause", "c-b"]);
    });
}

#[test]
fn version_is_that_of_a_swarm() {
    Bed::with_each_client(|bed| {
        let version = bed
            .docker
            .ok(&["version", "--format", "{{.Server.Version}}"]);
        assert!(version.starts_with("swarm/"), "{version}");
    });
}

#[test]
fn image_on_every_engine_is_listed_once() {
    Bed::with_each_client(|bed| {
        let images = bed
            .docker
            .lines(&["images", "--format", "{{.Repository}}:{{.Tag}}"]);
        assert_eq!(images, [IMAGE]);
        let id = bed
            .docker
            .ok(&["image", "inspect", "--format", "{{.Id}}", IMAGE]);
        assert_eq!(
            id,
            bed.fleet
                .engine(2)
                .ok(&["image", "inspect", "--format", "{{.Id}}", IMAGE])
        );
        let error = bed.docker.refused(&["image", "inspect", "no-such-image"]);
        assert!(error.contains("No such image"), "{error}");
    });
}

#[test]
fn image_pull_that_fails_says_why_for_each_node() {
    let bed = Bed::new(&[]);
    // The engines' look-ups fail at once: they have no way out.
    let outcome = bed.docker.run(&["pull", "registry.invalid/nothing:1"]);
    assert_ne!(outcome.code, 0, "{outcome:?}");
    let shown = outcome.stdout + &outcome.stderr;
    for node in ["node-0", "node-1", "node-2"] {
        assert!(shown.contains(node), "{node}: {shown}");
    }
}

#[test]
fn local_networks_carry_their_node() {
    Bed::with_each_client(|bed| {
        let mut names = bed
            .docker
            .lines(&["network", "ls", "--format", "{{.Name}}"]);
        names.sort();
        let mut wanted = Vec::new();
        for node in ["node-0", "node-1", "node-2"] {
            for network in ["bridge", "host", "none"] {
                wanted.push(format!("{node}/{network}"));
            }
        }
        assert_eq!(names, wanted);
        bed.docker.refused(&["network", "inspect", "bridge"]);
        let format = "{{.Id}} {{.Name}} {{.Driver}}";
        let through = bed
            .docker
            .ok(&["network", "inspect", "--format", format, "node-1/bridge"]);
        let direct = bed
            .fleet
            .engine(1)
            .ok(&["network", "inspect", "--format", format, "bridge"]);
        assert_eq!(through, direct);
    });
}

#[test]
fn network_filters_are_honoured() {
    let bed = Bed::new(&[]);
    bed.fleet.engine(1).ok(&["network", "create", "custom"]);
    let names = |filter: &str| {
        bed.docker
            .lines(&["network", "ls", "-q", "--filter", filter])
            .len()
    };
    eventually("the new network is seen", || {
        (names("type=custom") == 1).then_some(())
    });
    assert_eq!(names("type=builtin"), 9);
    assert_eq!(names("name=custom"), 1);
    assert_eq!(names("driver=bridge"), 4);
    assert_eq!(names("node=node-1"), 4);
    let id = bed
        .fleet
        .engine(1)
        .ok(&["network", "inspect", "--format", "{{.Id}}", "custom"]);
    // Classic Swarm returned every network for this one.
    assert_eq!(names(&format!("id={id}")), 1);
}

#[test]
fn local_volumes_carry_their_node() {
    Bed::with_each_client(|bed| {
        bed.sleeper(
            "web",
            &["-v", "data:/data", "-e", "constraint:node==node-2"],
        );
        let volumes = || bed.docker.lines(&["volume", "ls", "-q"]);
        eventually("the volume is seen", || {
            (volumes() == ["node-2/data"]).then_some(())
        });
        let format = "{{.Driver}} {{.Mountpoint}}";
        let through = bed
            .docker
            .ok(&["volume", "inspect", "--format", format, "node-2/data"]);
        let direct = bed
            .fleet
            .engine(2)
            .ok(&["volume", "inspect", "--format", format, "data"]);
        assert_eq!(through, direct);
        let error = bed.docker.refused(&["volume", "inspect", "nothing"]);
        assert!(
            error.to_lowercase().contains("no such volume: nothing"),
            "{error}"
        );
    });
}

// I-PS-8, I-PS-9
#[test]
fn ps_filters_by_health_and_task() {
    let bed = Bed::new(&[]);
    let check = |command: &'static str| {
        [
            "--health-interval=1s",
            "--health-retries=1",
            "--health-cmd",
            command,
        ]
    };
    bed.sleeper("well", &check("true"));
    bed.sleeper("ill", &check("false"));
    bed.sleeper("none", &["--label", "com.docker.swarm.task=t"]);
    let names = |filter: &str| -> Vec<String> {
        let names = bed.ps(&["--filter", filter]);
        names
            .iter()
            .filter_map(|name| Some(name.split_once('/')?.1.to_owned()))
            .collect()
    };
    for (health, name) in [("healthy", "well"), ("unhealthy", "ill")] {
        eventually(&format!("{name} is {health}"), || {
            (names(&format!("health={health}")) == [name]).then_some(())
        });
    }
    assert_eq!(names("health=none"), ["none"]);
    assert_eq!(names("is-task=true"), ["none"]);
    let mut others = names("is-task=false");
    others.sort();
    assert_eq!(others, ["ill", "well"]);
}
