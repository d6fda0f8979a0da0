//! Engines that are ended while containers use volumes, and start again beside the same agent.

use super::*;

/// A fleet of one engine whose agent serves `tmpfs` and `data`, with containers that use volumes:
/// `kept` is started again by its engine whenever it ends, `rest` and `gone` are not.
fn with_volumes_in_use(purpose: &str, options: &str) -> (Nodes, Fleet) {
    let fleet = Fleet::start_with(&format!("drivers-{purpose}"), 1, options);
    let drivers = "[volume-drivers.tmpfs]\n[volume-drivers.data]\ndriver = \"local\"\n";
    let nodes = Nodes::start(&fleet, 1, drivers);
    let engine = fleet.engine(0);
    engine.ok(&["volume", "create", "-d", "data", "disk"]);
    for name in ["kept", "rest", "gone"] {
        engine.ok(&["volume", "create", "-d", "tmpfs", name]);
        let memory = format!("{name}:/memory");
        let policy = if name == "kept" { "always" } else { "no" };
        let run = [
            "run",
            "-d",
            "--restart",
            policy,
            "--name",
            name,
            "-v",
            &memory,
        ];
        let command = ["-v", "disk:/disk", IMAGE, "sleep", "600"];
        engine.ok(&[&run[..], &command].concat());
        let write = "echo $0 > /memory/file; echo $0 >> /disk/file";
        engine.ok(&["exec", name, "sh", "-c", write, name]);
    }
    assert_eq!(in_memory(&nodes, &fleet), ["gone", "kept", "rest"]);
    (nodes, fleet)
}

/// The volumes of `tmpfs` that are mounted.
fn in_memory(nodes: &Nodes, fleet: &Fleet) -> Vec<String> {
    let root = nodes.root(0, "tmpfs");
    let mounted = mounts(fleet, 0, &root).into_iter();
    let mut names: Vec<_> = mounted
        .filter_map(|path| path.rsplit('/').next().map(str::to_owned))
        .collect();
    names.sort();
    names
}

fn await_in_memory(nodes: &Nodes, fleet: &Fleet, names: &[&str]) {
    eventually("only these are mounted", || {
        (in_memory(nodes, fleet) == names).then_some(())
    });
}

/// Whether a container finds in its volumes what it wrote there.
fn check_data(engine: &Docker, name: &str) {
    let read = "cat /memory/file; grep -x $0 /disk/file";
    assert_eq!(
        engine.ok(&["exec", name, "sh", "-c", read, name]),
        format!("{name}\n{name}")
    );
}

/// Removes all there is and checks that nothing is left of it.
fn check_nothing_is_left(nodes: &Nodes, fleet: &Fleet) {
    let engine = fleet.engine(0);
    engine.ok(&["rm", "-f", "kept", "rest", "gone"]);
    engine.ok(&["volume", "rm", "disk", "kept", "rest", "gone"]);
    assert!(mounts(fleet, 0, &nodes.state(0)).is_empty());
    for driver in ["tmpfs", "data"] {
        assert!(entries(&nodes.root(0, driver)).is_empty(), "{driver}");
        let kept = nodes.state(0).join("volume-drivers").join(driver);
        assert!(entries(&kept.join("records")).is_empty(), "{driver}");
        assert_eq!(entries(&kept.join("mounts")), [".engine"], "{driver}");
    }
    end(fleet, 0, "-TERM");
}

#[test]
fn volumes_of_containers_that_died_with_their_engine_are_unmounted() {
    let (nodes, fleet) = with_volumes_in_use("killed", "");
    let engine = fleet.engine(0);
    fleet.restart_daemon(0, "KILL");
    eventually("what is always started runs again", || {
        let running = engine.ok(&["ps", "--format", "{{.Names}}"]);
        (running == "kept").then_some(())
    });
    // The engine says nothing of the mounts of the dead.
    await_in_memory(&nodes, &fleet, &["kept"]);
    check_data(&engine, "kept");
    // It counts from one again.
    engine.ok(&["stop", "-t", "0", "kept"]);
    await_in_memory(&nodes, &fleet, &[]);
    engine.ok(&["start", "rest"]);
    assert_eq!(in_memory(&nodes, &fleet), ["rest"]);
    check_nothing_is_left(&nodes, &fleet);
}

#[test]
fn volumes_of_containers_that_outlive_their_engine_stay_mounted() {
    for signal in ["TERM", "KILL"] {
        let purpose = format!("live-{}", signal.to_lowercase());
        let (mut nodes, fleet) = with_volumes_in_use(&purpose, "--live-restore");
        let engine = fleet.engine(0);
        let started = [
            "inspect",
            "-f",
            "{{.State.StartedAt}}",
            "kept",
            "rest",
            "gone",
        ];
        let before = engine.ok(&started);
        fleet.restart_daemon(0, signal);
        assert_eq!(engine.ok(&started), before, "they are the same as before");
        // Newer engines do not say when one of these ends. Once that is found out, the others have
        // been looked at as well.
        engine.ok(&["kill", "gone"]);
        await_in_memory(&nodes, &fleet, &["kept", "rest"]);
        for name in ["kept", "rest"] {
            check_data(&engine, name);
        }
        // Another container joins and leaves.
        let joined = [
            "run",
            "--rm",
            "-v",
            "rest:/memory",
            IMAGE,
            "cat",
            "/memory/file",
        ];
        assert_eq!(engine.ok(&joined), "rest");
        check_data(&engine, "rest");
        // Once more, with an agent that comes later: the engine waits for its drivers.
        end(&fleet, 0, "-9");
        thread::scope(|scope| {
            scope.spawn(|| fleet.restart_daemon(0, signal));
            nodes.agent(&fleet, 0);
            nodes.await_drivers(&fleet, 0);
        });
        assert_eq!(in_memory(&nodes, &fleet), ["kept", "rest"]);
        check_data(&engine, "kept");
        check_nothing_is_left(&nodes, &fleet);
    }
}
