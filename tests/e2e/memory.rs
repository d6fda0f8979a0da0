//! What a manager remembers when it, or its disk, dies.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    bed::Bed,
    manager::{FAST_FAIL, Manager, eventually},
};

/// The options of a manager whose store is in `directory`.
fn options(directory: &Path) -> Vec<String> {
    let store = format!("--store=embedded://{}/store.redb", directory.display());
    FAST_FAIL
        .iter()
        .map(ToString::to_string)
        .chain([store])
        .collect()
}

#[test]
fn a_manager_that_was_killed_knows_what_a_node_that_died_since_ran() {
    let directory = tempfile::tempdir().unwrap();
    let options = options(directory.path());
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let mut bed = Bed::new(&options);
    bed.sleeper("gone", &["-e", "constraint:node==node-1"]);
    bed.sleeper("here", &["-e", "constraint:node==node-0"]);
    let id = bed.inspect("gone", "{{.Id}}");
    bed.manager.signal("KILL");
    bed.manager.ended();
    bed.fleet.kill(1);

    bed.manager = Manager::start(&bed.fleet, &options);
    bed.docker = bed.manager.docker();
    let address = bed.fleet.addresses()[1].clone();
    bed.manager.await_status(&address, "Unhealthy");
    let here = bed.fleet.addresses()[0].clone();
    bed.manager.await_status(&here, "Healthy");
    assert_eq!(bed.ps(&["-a"]), ["node-0/here", "node-1/gone"]);
    let status = bed.docker.ok(&[
        "ps",
        "-a",
        "--filter",
        "name=gone",
        "--format",
        "{{.Status}}",
    ]);
    assert_eq!(status, "Host Down");
    assert_eq!(
        bed.inspect("gone", "{{.Id}} {{.Node.Name}}"),
        format!("{id} node-1")
    );
    let outcome = bed.try_sleeper("gone", &[]);
    assert!(
        outcome.stderr.contains("The name gone is already assigned"),
        "{outcome:?}"
    );

    bed.fleet.revive(1);
    bed.manager.await_status(&address, "Healthy");
    bed.docker.ok(&["start", "gone"]);
    assert_eq!(
        bed.inspect("gone", "{{.Id}} {{.State.Status}}"),
        format!("{id} running")
    );
}

/// A small disk, unmounted when dropped.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new(megabytes: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let size = format!("size={megabytes}m");
        run(
            "mount",
            &["-t", "tmpfs", "-o", &size, "skep-test"],
            directory.path(),
        );
        Self(directory)
    }

    /// Takes all the room that is left; the room is free again when the file is removed.
    fn fill(&self) -> PathBuf {
        let path = self.0.path().join("ballast");
        let block = vec![1; 1 << 16];
        let mut file = fs::File::create(&path).unwrap();
        while std::io::Write::write_all(&mut file, &block).is_ok() {}
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: the manager may still have the store open.
        run("umount", &["-l"], self.0.path());
    }
}

fn run(program: &str, arguments: &[&str], path: &Path) {
    let status = Command::new(program).args(arguments).arg(path).status();
    assert!(status.unwrap().success(), "{program} {arguments:?}");
}

#[test]
fn a_full_disk_refuses_creates_and_nothing_else() {
    let disk = Disk::new(16);
    let options = options(disk.0.path());
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let bed = Bed::new(&options);
    bed.sleeper("before", &[]);
    let ballast = disk.fill();
    // The file may have a little room inside.
    let refusal = eventually("a create is refused", || {
        let outcome = bed.docker.run(&["create", crate::fleet::IMAGE, "true"]);
        (outcome.code != 0).then_some(outcome.stderr)
    });
    assert!(refusal.contains("without a record"), "{refusal}");
    assert!(refusal.contains("store.redb"), "{refusal}");
    let error = bed.refused(&["--name", "during"]);
    assert!(error.contains("without a record"), "{error}");
    assert!(bed.ps(&[]).iter().any(|name| name.ends_with("/before")));
    assert_eq!(bed.docker.ok(&["exec", "before", "echo", "hello"]), "hello");

    fs::remove_file(ballast).unwrap();
    eventually("creates work again", || {
        let outcome = bed.try_sleeper("during", &[]);
        (outcome.code == 0).then_some(())
    });
}
