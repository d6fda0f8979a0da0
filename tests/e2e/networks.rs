//! Networks made, removed, and joined, on one node and across nodes.

use crate::{bed::Bed, fleet::Fleet, http::exchange, manager::eventually};

// I-NET-6, I-NET-7
#[test]
fn networks_are_made_and_removed_where_their_name_says() {
    Bed::with_each_client(|bed| {
        let docker = &bed.docker;
        docker.ok(&["network", "create", "-d", "bridge", "anywhere"]);
        docker.ok(&["network", "create", "-d", "bridge", "node-1/test2"]);
        let error = docker.refused(&["network", "create", "-d", "bridge", "node-9/test3"]);
        assert!(error.contains("Unable to find a node"), "{error}");
        let names = || {
            docker.lines(&[
                "network",
                "ls",
                "--filter",
                "type=custom",
                "--format",
                "{{.Name}}",
            ])
        };
        assert_eq!(names().len(), 2, "{:?}", names());
        assert!(names().contains(&"node-1/test2".to_owned()));
        let error = docker.refused(&["network", "rm", "nothing"]);
        // Docker 20.10 puts it in words of its own.
        assert!(error.contains("No such network"), "{error}");
        docker.refused(&["network", "rm", "bridge"]);
        docker.ok(&["network", "rm", "node-1/test2", "anywhere"]);
        assert!(names().is_empty(), "{:?}", names());
    });
}

// I-NET-8, I-NET-11
#[test]
fn a_container_joins_and_leaves_a_network_of_its_node() {
    let bed = Bed::new(&[]);
    bed.docker
        .ok(&["network", "create", "-d", "bridge", "node-1/lan"]);
    let node = bed.placed("web", &["--net", "node-1/lan", "--network-alias", "www"]);
    assert_eq!(node, "node-1");
    let labels = bed.inspect("web", "{{json .Config.Labels}}");
    assert!(!labels.contains("constraints"), "{labels}");
    let on_bridge = || {
        let format = "{{range .Containers}}{{.Name}}{{end}}";
        bed.docker
            .ok(&["network", "inspect", "--format", format, "node-1/bridge"])
    };
    assert_eq!(on_bridge(), "");
    bed.docker
        .ok(&["network", "connect", "node-1/bridge", "web"]);
    assert_eq!(on_bridge(), "web");
    bed.docker
        .ok(&["network", "disconnect", "node-1/bridge", "web"]);
    assert_eq!(on_bridge(), "");
}

#[test]
fn containers_on_two_nodes_reach_each_other_by_name_over_a_swarms_overlay() {
    // Of its own, so that no other test finds its engines in a swarm.
    let fleet = Fleet::start("overlay", 2, "0:role=manager 1:role=worker");
    let host = |index: usize| {
        fleet.addresses()[index]
            .split(':')
            .next()
            .unwrap()
            .to_owned()
    };
    let manager = fleet.engine(0);
    manager.ok(&["swarm", "init", "--advertise-addr", &host(0)]);
    let token = manager.ok(&["swarm", "join-token", "-q", "worker"]);
    let address = format!("{}:2377", host(0));
    fleet
        .engine(1)
        .ok(&["swarm", "join", "--token", &token, &address]);
    let bed = Bed::over(fleet, &[]);
    bed.docker
        .ok(&["network", "create", "-d", "overlay", "--attachable", "span"]);
    for node in ["0", "1"] {
        let name = format!("web-{node}");
        let constraint = format!("constraint:node==node-{node}");
        bed.sleeper(&name, &["--net", "span", "-e", &constraint]);
    }
    for (from, to) in [("web-0", "web-1"), ("web-1", "web-0")] {
        eventually(&format!("{from} reaches {to}"), || {
            let ping = ["exec", from, "ping", "-c", "1", "-W", "2", to];
            (bed.docker.run(&ping).code == 0).then_some(())
        });
    }
}

// I-RUN-6, I-RUN-7, I-NET-9, I-NET-10
#[test]
fn a_container_has_the_addresses_and_aliases_it_asked_for() {
    let bed = Bed::new(&[]);
    for (name, subnet) in [
        ("node-1/lan", "10.99.1.0/24"),
        ("node-1/far", "10.99.2.0/24"),
    ] {
        let create = [
            "network", "create", "-d", "bridge", "--subnet", subnet, name,
        ];
        bed.docker.ok(&create);
    }
    let options = [
        "--net",
        "node-1/lan",
        "--ip",
        "10.99.1.42",
        "--network-alias",
        "www",
    ];
    bed.sleeper("web", &options);
    let options = ["--ip", "10.99.2.43", "--alias", "distant"];
    let mut connect = vec!["network", "connect"];
    connect.extend(options);
    connect.extend(["node-1/far", "web"]);
    bed.docker.ok(&connect);
    let networks = bed.inspect_json("web")["NetworkSettings"]["Networks"].clone();
    for (network, address, alias) in [
        ("lan", "10.99.1.42", "www"),
        ("far", "10.99.2.43", "distant"),
    ] {
        assert_eq!(networks[network]["IPAddress"], address, "{networks}");
        let aliases = networks[network]["Aliases"].as_array().expect("aliases");
        assert!(aliases.iter().any(|own| own == alias), "{networks}");
    }
    // I-PS-7
    assert_eq!(bed.ps(&["--filter", "network=far"]), ["node-1/web"]);
    assert!(bed.ps(&["--filter", "network=host"]).is_empty());
    // I-NET-4, and what is in use does not dangle.
    let list = |filter: &str| {
        let mut names =
            bed.docker
                .lines(&["network", "ls", "--format", "{{.Name}}", "--filter", filter]);
        names.sort();
        names
    };
    bed.docker
        .ok(&["network", "create", "-d", "bridge", "node-0/farm"]);
    assert_eq!(list("name=far"), ["node-0/farm", "node-1/far"]);
    assert_eq!(list("dangling=true"), ["node-0/farm"]);
    // I-NET-5
    let error = bed.docker.refused(&["network", "inspect", "bridge"]);
    assert!(error.to_lowercase().contains("no such network"), "{error}");
    let (engine, skep) = (&*bed.fleet.addresses()[1], bed.manager.address());
    let own = exchange(engine, "GET", "/networks/bridge", "");
    let shown = exchange(skep, "GET", "/networks/node-1/bridge", "");
    assert_eq!((own.status, own.body), (shown.status, shown.body));
    // I-NET-2
    let error = bed
        .docker
        .refused(&["network", "ls", "--filter", "type=foo"]);
    assert!(error.contains("foo"), "{error}");
}
