//! Pruning and disk usage over all nodes.

use crate::bed::Bed;

#[test]
fn prune_removes_what_nothing_uses_on_every_node() {
    Bed::with_each_client(|bed| {
        for node in ["0", "1", "2"] {
            let constraint = format!("constraint:node==node-{node}");
            let name = format!("idle-{node}");
            bed.docker
                .ok(&["create", "--name", &name, "-e", &constraint, "busybox"]);
            let network = format!("node-{node}/lan");
            bed.docker
                .ok(&["network", "create", "-d", "bridge", &network]);
        }
        bed.sleeper("web", &[]);
        let gone = bed.docker.ok(&["container", "prune", "-f"]);
        assert_eq!(
            gone.lines().filter(|line| line.len() == 64).count(),
            3,
            "{gone}"
        );
        assert_eq!(bed.ps(&["-a"]).len(), 1);
        let gone = bed.docker.ok(&["network", "prune", "-f"]);
        for node in ["0", "1", "2"] {
            assert!(gone.contains(&format!("node-{node}/lan")), "{gone}");
        }
        let custom = ["network", "ls", "-q", "--filter", "type=custom"];
        assert!(bed.docker.lines(&custom).is_empty());
        bed.docker.ok(&["image", "prune", "-f"]);
        bed.docker.ok(&["volume", "prune", "-f"]);
    });
}

#[test]
fn disk_usage_adds_the_nodes_up() {
    Bed::with_each_client(|bed| {
        bed.sleeper("web", &["-e", "constraint:node==node-1"]);
        bed.docker.ok(&["volume", "create", "data"]);
        let usage = bed.docker.ok(&["system", "df", "-v"]);
        for shown in ["node-1/web", "node-0/data", "node-1/data", "node-2/data"] {
            assert!(usage.contains(shown), "{shown}: {usage}");
        }
        let format = "{{.Type}}: {{.TotalCount}}";
        let totals = bed.docker.lines(&["system", "df", "--format", format]);
        // Every node has the one image.
        assert!(totals.contains(&"Images: 3".to_owned()), "{totals:?}");
        assert!(
            totals.contains(&"Local Volumes: 3".to_owned()),
            "{totals:?}"
        );
    });
}
