//! Volumes made and removed on all nodes, or on some.

use crate::bed::Bed;

fn names(bed: &Bed, filter: &str) -> Vec<String> {
    bed.docker
        .lines(&["volume", "ls", "-q", "--filter", filter])
}

// I-VOL-3
#[test]
fn a_volume_is_made_on_every_node_or_on_the_one_its_name_says() {
    Bed::with_each_client(|bed| {
        bed.docker.ok(&["volume", "create", "everywhere"]);
        assert_eq!(
            names(bed, "name=everywhere"),
            [
                "node-0/everywhere",
                "node-1/everywhere",
                "node-2/everywhere"
            ]
        );
        // I-VOL-2 changed: classic Swarm did not find a bare name that several nodes have.
        let inspect = ["volume", "inspect", "--format", "{{.Name}}", "everywhere"];
        assert_eq!(bed.docker.ok(&inspect), "everywhere");
        bed.docker.ok(&["volume", "create", "node-0/single"]);
        assert_eq!(names(bed, "name=single"), ["node-0/single"]);
        let error = bed.docker.refused(&["volume", "create", "node-9/single"]);
        assert!(error.contains("Unable to find a node"), "{error}");
        let unnamed = bed.docker.ok(&["volume", "create"]);
        assert_eq!(names(bed, &format!("name={unnamed}")).len(), 3);
    });
}

// I-VOL-4
#[test]
fn a_volume_in_use_stays_until_its_container_is_gone() {
    let bed = Bed::new(&[]);
    let error = bed.docker.refused(&["volume", "rm", "nothing"]);
    assert!(error.contains("No such volume nothing"), "{error}");
    bed.sleeper(
        "web",
        &["-v", "data:/data", "-e", "constraint:node==node-1"],
    );
    let error = bed.docker.refused(&["volume", "rm", "data"]);
    assert!(
        error.contains("node-1") && error.contains("in use"),
        "{error}"
    );
    bed.docker.ok(&["rm", "-f", "web"]);
    bed.docker.ok(&["volume", "rm", "data"]);
    assert!(names(&bed, "name=data").is_empty());
}

// I-VOL-5, I-VOL-6
#[test]
fn a_whitelist_label_says_which_nodes_get_the_volume() {
    let bed = Bed::new(&[]);
    let label = r#"com.docker.swarm.whitelists=["node==node-1|node-2"]"#;
    bed.docker
        .ok(&["volume", "create", "--label", label, "some"]);
    let filter = "label=com.docker.swarm.whitelists";
    assert_eq!(names(&bed, filter), ["node-1/some", "node-2/some"]);
    assert!(names(&bed, "label=other").is_empty());
}

// I-VOL-1, I-PS-6
#[test]
fn volumes_are_counted_where_they_are() {
    let bed = Bed::new(&[]);
    bed.sleeper(
        "one",
        &["-v", "/anonymous", "-e", "constraint:node==node-0"],
    );
    bed.sleeper(
        "two",
        &["-v", "named:/data", "-e", "constraint:node==node-1"],
    );
    bed.docker.ok(&["volume", "create", "testsubstrvol"]);
    assert_eq!(names(&bed, "name=substr").len(), 3);
    assert_eq!(names(&bed, "node=node-0").len(), 2);
    assert_eq!(names(&bed, "node=node-1").len(), 2);
    assert_eq!(names(&bed, "node=node-2"), ["node-2/testsubstrvol"]);
    for filter in ["volume=named", "volume=/data"] {
        assert_eq!(bed.ps(&["--filter", filter]), ["node-1/two"]);
    }
    assert_eq!(bed.ps(&["--filter", "volume=/anonymous"]), ["node-0/one"]);
}

// I-RUN-11
#[test]
fn a_volume_driver_that_no_engine_has_is_refused_in_the_engines_words() {
    let bed = Bed::new(&[]);
    let unknown = ["--volume-driver", "nothere", "-v", "data:/data"];
    let error = bed.refused(&unknown);
    let expected = "plugin \"nothere\" not found on node-0, node-1, node-2";
    assert!(error.contains(expected), "{error}");
    let create = ["volume", "create", "-d", "nothere", "data"];
    let error = bed.docker.refused(&create);
    assert!(error.contains(expected), "{error}");
}

#[test]
fn a_container_goes_where_its_volume_is() {
    let bed = Bed::new(&[]);
    let volume = ["-v", "data:/data"];
    let there = ["-e", "constraint:node==node-1"];
    bed.sleeper("first", &[&volume[..], &there].concat());
    for name in ["second", "third"] {
        assert_eq!(bed.placed(name, &volume), "node-1");
    }
    assert_eq!(names(&bed, "name=data"), ["node-1/data"]);
    // Two rules that no node meets.
    let port = ["-p", "8091:80"];
    bed.sleeper("port", &[&port[..], &there].concat());
    let error = bed.refused(&[&port[..], &volume].concat());
    assert!(error.contains("[volume data is on node-1]"), "{error}");
    assert!(error.contains("[port 8091 (Bridge mode)]"), "{error}");
    // Who names a node gets a volume of that name there.
    let elsewhere = ["-e", "constraint:node==node-2"];
    let fourth = bed.placed("fourth", &[&volume[..], &elsewhere].concat());
    assert_eq!(fourth, "node-2");
    assert_eq!(bed.placed("fifth", &["-v", "node-0/data:/data"]), "node-0");
    let all = ["node-0/data", "node-1/data", "node-2/data"];
    assert_eq!(names(&bed, "name=data"), all);
}
