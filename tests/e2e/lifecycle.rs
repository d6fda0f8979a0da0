//! One container from create to rm, by every command that changes or watches it.

use crate::{bed::Bed, fleet::IMAGE, manager::eventually};

#[test]
fn container_is_created_started_stopped_and_removed() {
    Bed::with_each_client(|bed| {
        bed.docker
            .ok(&["create", "--name", "box", IMAGE, "sleep", "1d"]);
        assert_eq!(bed.inspect("box", "{{.State.Status}}"), "created");
        bed.docker.ok(&["start", "box"]);
        let started = bed.inspect("box", "{{.State.StartedAt}}");
        bed.docker.ok(&["restart", "-t", "1", "box"]);
        assert_ne!(bed.inspect("box", "{{.State.StartedAt}}"), started);
        bed.docker.ok(&["stop", "-t", "1", "box"]);
        bed.await_state("box", "exited");
        bed.docker.ok(&["start", "box"]);
        let error = bed.docker.refused(&["rm", "box"]);
        assert!(error.contains("running container"), "{error}");
        bed.docker.ok(&["rm", "-f", "box"]);
        bed.docker.refused(&["container", "inspect", "box"]);
        assert_eq!(bed.ps(&["-a"]), [""; 0]);
    });
}

#[test]
fn killed_container_tells_the_signal() {
    Bed::with_each_client(|bed| {
        bed.sleeper("box", &[]);
        bed.docker.ok(&["kill", "box"]);
        bed.await_state("box", "exited");
        assert_eq!(bed.inspect("box", "{{.State.ExitCode}}"), "137");
        assert_eq!(bed.ps(&["-a", "--filter", "exited=137"]).len(), 1);
    });
}

#[test]
fn container_is_paused_and_unpaused() {
    Bed::with_each_client(|bed| {
        bed.sleeper("box", &[]);
        bed.docker.ok(&["pause", "box"]);
        assert_eq!(bed.inspect("box", "{{.State.Status}}"), "paused");
        assert_eq!(bed.ps(&["--filter", "status=paused"]).len(), 1);
        bed.docker.ok(&["unpause", "box"]);
        assert_eq!(bed.inspect("box", "{{.State.Status}}"), "running");
        assert_eq!(bed.ps(&["--filter", "status=paused"]).len(), 0);
    });
}

#[test]
fn wait_returns_the_exit_code() {
    Bed::with_each_client(|bed| {
        bed.script("box", &[], "sleep 1; exit 5");
        assert_eq!(bed.docker.ok(&["wait", "box"]), "5");
        assert_eq!(
            bed.docker.ok(&["wait", "box"]),
            "5",
            "a container that has ended is not waited for"
        );
    });
}

#[test]
fn name_is_unique_in_the_whole_fleet() {
    Bed::with_each_client(|bed| {
        bed.sleeper("web", &["-e", "constraint:node==node-0"]);
        let outcome = bed.try_sleeper("web", &["-e", "constraint:node==node-1"]);
        assert_ne!(outcome.code, 0);
        let wanted = "Conflict: The name web is already assigned. You have to delete (or rename) that \
                      container to be able to assign web to a container again.";
        assert!(outcome.stderr.contains(wanted), "{}", outcome.stderr);
        bed.docker.ok(&["rm", "-f", "web"]);
        bed.sleeper("web", &["-e", "constraint:node==node-1"]);
    });
}

#[test]
fn name_conflict_is_a_409() {
    let bed = Bed::new(&[]);
    bed.sleeper("web", &[]);
    bed.sleeper("db", &[]);
    let error = bed.docker.refused(&["rename", "db", "web"]);
    assert!(
        error.contains("Conflict: The name web is already assigned."),
        "{error}"
    );
    bed.docker.ok(&["rename", "db", "store"]);
    assert_eq!(bed.inspect("store", "{{.Name}}"), "/store");
    // The bare inspect would also find a network whose id begins with "db".
    bed.docker.refused(&["container", "inspect", "db"]);
    bed.sleeper("db", &[]);
}

#[test]
fn id_prefix_of_another_container_is_a_free_name() {
    let bed = Bed::new(&[]);
    bed.sleeper("web", &[]);
    let id = bed.inspect("web", "{{.Id}}");
    bed.sleeper(&id[..4], &[]);
    assert_eq!(
        bed.inspect(&id[..4], "{{.Name}}"),
        format!("/{}", &id[..4]),
        "a name wins over a prefix"
    );
}

#[test]
fn update_changes_what_the_node_has_reserved() {
    let bed = Bed::new(&[]);
    bed.sleeper("box", &["-m", "10m", "-e", "constraint:node==node-0"]);
    let reserved = |wanted: &str| {
        eventually(wanted, || {
            let nodes = bed.manager.nodes();
            nodes[0].rows["Reserved Memory"]
                .starts_with(wanted)
                .then_some(())
        });
    };
    reserved("10 MiB / ");
    bed.docker
        .ok(&["update", "-m", "100m", "--memory-swap", "200m", "box"]);
    assert_eq!(bed.inspect("box", "{{.HostConfig.Memory}}"), "104857600");
    reserved("100 MiB / ");
    bed.docker.ok(&["rm", "-f", "box"]);
    reserved("0 B / ");

    // I-RES-1
    let here = "constraint:node==node-0";
    bed.sleeper("runs", &["-m", "20m", "-e", here]);
    reserved("20 MiB / ");
    bed.script("ended", &["-m", "22m", "-e", here], "exit 0");
    bed.await_state("ended", "exited");
    reserved("42 MiB / ");
    bed.docker.ok(&["rm", "-f", "runs"]);
    reserved("22 MiB / ");
    bed.docker.ok(&["rm", "ended"]);
    reserved("0 B / ");
}

// I-RUN-1
#[test]
fn image_that_looks_like_an_id_is_refused() {
    Bed::with_each_client(|bed| {
        let image = "0123456789abcdef".repeat(4);
        let error = bed.docker.refused(&["run", &image]);
        assert!(
            error.contains("cannot specify 64-byte hexadecimal strings"),
            "{error}"
        );
    });
}

#[test]
fn cores_are_reserved_by_shares_and_by_cpus() {
    let bed = Bed::new(&[]);
    let error = bed.refused(&["-c", "10240"]);
    assert!(
        error.contains("no resources available to schedule container"),
        "{error}"
    );
    bed.sleeper("box", &["-c", "1", "-e", "constraint:node==node-0"]);
    eventually("one core is reserved", || {
        bed.manager.nodes()[0].rows["Reserved CPUs"]
            .starts_with("1 / ")
            .then_some(())
    });
}

#[test]
fn processes_usage_and_ports_of_a_container_are_shown() {
    Bed::with_each_client(|bed| {
        bed.docker.ok(&[
            "run", "-d", "--name", "box", "-p", "8000:80", IMAGE, "sleep", "500",
        ]);
        let processes = bed.docker.ok(&["top", "box"]);
        assert!(processes.contains("sleep 500"), "{processes}");
        let usage = bed.docker.lines(&["stats", "--no-stream", "box"]);
        assert!(
            usage[0].contains("MEM USAGE / LIMIT") && usage.len() == 2,
            "{usage:#?}"
        );
        let node = bed.node_of("box");
        let index: usize = node
            .trim_start_matches("node-")
            .parse()
            .expect("a node number");
        let ip = bed.fleet.addresses()[index]
            .split(':')
            .next()
            .expect("an address");
        // The wildcard address of the engine is shown as the node's own.
        assert!(
            bed.docker
                .lines(&["port", "box"])
                .contains(&format!("80/tcp -> {ip}:8000"))
        );
    });
}

#[test]
fn changed_files_are_listed() {
    let bed = Bed::new(&[]);
    bed.sleeper("box", &[]);
    bed.docker.ok(&["exec", "box", "touch", "/home/diff.txt"]);
    assert!(
        bed.docker
            .lines(&["diff", "box"])
            .contains(&"A /home/diff.txt".to_owned())
    );
}

#[test]
fn missing_container_is_a_404_by_name() {
    let bed = Bed::new(&[]);
    for command in [
        "logs", "start", "stop", "kill", "rm", "pause", "top", "inspect",
    ] {
        let error = bed.docker.refused(&[command, "nobody"]);
        assert!(error.contains("nobody"), "{command}: {error}");
    }
    let (status, body) = bed.manager.get("/containers/nobody/json");
    assert_eq!(status, 404);
    assert!(body.contains("No such container nobody"), "{body}");
    let (status, body) = bed.manager.get("/containers/nobody/logs?stdout=1");
    assert_eq!(status, 404);
    assert!(body.contains("No such container: nobody"), "{body}");
}

// I-REN-1, I-REN-2
#[test]
fn container_is_renamed_unless_the_name_is_taken() {
    let bed = Bed::new(&[]);
    for name in ["one", "two"] {
        bed.docker.ok(&["create", "--name", name, IMAGE]);
    }
    let id = bed.inspect("two", "{{.Id}}");
    let error = bed.docker.refused(&["rename", "one", "two"]);
    assert!(error.contains("Conflict"), "{error}");
    bed.docker.refused(&["rename", "one", &id]);
    bed.docker.ok(&["rename", "one", &id[..4]]);
    assert_eq!(bed.inspect("two", "{{.Id}}"), id);
    bed.docker.ok(&["rename", &id[..4], "three"]);
    assert_eq!(bed.inspect("three", "{{.Name}}"), "/three");
}
