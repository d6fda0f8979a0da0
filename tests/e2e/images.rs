//! Images on many nodes: uploaded to all, named and removed on all, read from one that has them.

use std::fs;

use crate::{bed::Bed, docker::Docker, fleet::IMAGE, manager::eventually};

/// The names of an engine's images, sorted.
fn names(engine: &Docker) -> Vec<String> {
    let mut names = engine.lines(&["images", "--format", "{{.Repository}}:{{.Tag}}"]);
    names.sort();
    names
}

// I-LOA-1, I-LOA-2, I-SAV-1
#[test]
fn a_saved_image_is_loaded_on_every_node() {
    Bed::with_each_client(|bed| {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let archive = directory.path().join("image.tar");
        let path = archive.to_str().expect("a path as text");
        bed.fleet.engine(1).ok(&["tag", IMAGE, "travels:1"]);
        bed.await_image("travels:1");
        bed.docker.ok(&["save", "-o", path, "travels:1"]);
        bed.fleet.engine(1).ok(&["rmi", "travels:1"]);

        bed.docker.ok(&["load", "-i", path]);
        for node in 0..3 {
            let names = names(&bed.fleet.engine(node));
            assert!(names.contains(&"travels:1".to_owned()), "{node}: {names:?}");
        }
        assert!(names(&bed.docker).contains(&"travels:1".to_owned()));

        fs::write(&archive, "").expect("the file is written");
        bed.docker.refused(&["load", "-i", path]);
    });
}

// I-IMP-1, I-IMP-2, I-EXP-1
#[test]
fn an_exported_container_is_imported_on_every_node() {
    Bed::with_each_client(|bed| {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let archive = directory.path().join("container.tar");
        let path = archive.to_str().expect("a path as text");
        bed.docker.ok(&["create", "--name", "box", IMAGE]);
        bed.docker.ok(&["export", "-o", path, "box"]);
        assert!(fs::metadata(&archive).expect("the archive").len() > 0);

        let change = r#"CMD ["echo", "imported"]"#;
        bed.docker.ok(&["import", "-c", change, path, "imported:1"]);
        for node in 0..3 {
            let names = names(&bed.fleet.engine(node));
            assert!(
                names.contains(&"imported:1".to_owned()),
                "{node}: {names:?}"
            );
        }
        assert_eq!(bed.docker.ok(&["run", "--rm", "imported:1"]), "imported");

        fs::write(&archive, "no archive at all").expect("the file is written");
        let error = bed.docker.refused(&["import", path, "garbage:1"]);
        for node in ["node-0", "node-1", "node-2"] {
            assert!(error.contains(node), "{error}");
        }
    });
}

// I-SAV-2
#[test]
fn images_are_saved_together_from_a_node_that_has_them_all() {
    let bed = Bed::new(&[]);
    bed.fleet.engine(0).ok(&["tag", IMAGE, "first:1"]);
    bed.fleet.engine(1).ok(&["tag", IMAGE, "second:1"]);
    bed.await_image("first:1");
    bed.await_image("second:1");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let archive = directory.path().join("images.tar");
    let path = archive.to_str().expect("a path as text");
    let error = bed
        .docker
        .refused(&["save", "-o", path, "first:1", "second:1"]);
    let expected = "Unable to find a healthy engine containing all images: [first:1 second:1]";
    assert!(error.contains(expected), "{error}");
    bed.docker.ok(&["save", "-o", path, IMAGE, "second:1"]);
    assert!(fs::metadata(&archive).expect("the archive").len() > 0);
}

// I-TAG-1, I-TAG-2, I-RMI-1, I-RMI-2, I-RMI-3, I-RMI-7
#[test]
fn names_are_given_and_taken_on_every_node_that_has_the_image() {
    Bed::with_each_client(|bed| {
        bed.docker.ok(&["tag", IMAGE, "named:1"]);
        bed.docker.ok(&["tag", IMAGE, "named:2"]);
        for node in 0..3 {
            let names = names(&bed.fleet.engine(node));
            assert!(names.contains(&"named:2".to_owned()), "{node}: {names:?}");
        }
        // One node lacks the name: that must not matter.
        bed.fleet.engine(2).ok(&["rmi", "named:1"]);
        let removed = bed.docker.ok(&["rmi", "-f", "named:1"]);
        assert!(removed.contains("Untagged: named:1"), "{removed}");
        for node in 0..3 {
            let names = names(&bed.fleet.engine(node));
            assert!(!names.contains(&"named:1".to_owned()), "{node}: {names:?}");
            assert!(names.contains(&"named:2".to_owned()), "{node}: {names:?}");
        }
        assert!(!names(&bed.docker).contains(&"named:1".to_owned()));

        let error = bed.docker.refused(&["rmi", "nam"]);
        assert!(error.contains("No such image"), "{error}");
        let error = bed.docker.refused(&["tag", "nothing:1", "named:3"]);
        assert!(error.contains("No such image: nothing:1"), "{error}");
    });
}

// I-RMI-4, I-RMI-6
#[test]
fn an_image_is_removed_by_its_short_id_with_all_its_names() {
    let bed = Bed::new(&[]);
    bed.docker.ok(&["create", "--name", "box", IMAGE, "true"]);
    let node: usize = bed
        .node_of("box")
        .strip_prefix("node-")
        .and_then(|number| number.parse().ok())
        .expect("a node");
    let engine = bed.fleet.engine(node);
    let id = engine.ok(&["commit", "-m", "unlike any other", "box", "copy:1"]);
    engine.ok(&["tag", "copy:1", "copy:2"]);
    bed.await_image("copy:2");
    let short = &id.strip_prefix("sha256:").unwrap_or(&id)[..12];
    bed.docker.ok(&["rmi", "-f", short]);
    let names = names(&engine);
    assert!(
        !names.iter().any(|name| name.starts_with("copy")),
        "{names:?}"
    );
}

// I-HIS-1
#[test]
fn history_is_asked_of_a_node_that_has_the_image() {
    let bed = Bed::new(&[]);
    bed.fleet.engine(2).ok(&["tag", IMAGE, "only-here:1"]);
    bed.await_image("only-here:1");
    let history = bed.docker.ok(&["history", "only-here:1"]);
    assert!(history.contains("CREATED BY"), "{history}");
}

#[test]
fn uploads_pass_by_a_dead_node_and_name_it() {
    let bed = Bed::new(&["--engine-failure-retry", "1"]);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let archive = directory.path().join("image.tar");
    let path = archive.to_str().expect("a path as text");
    bed.docker.ok(&["save", "-o", path, IMAGE]);
    bed.fleet.kill(2);
    bed.manager
        .await_status(&bed.fleet.addresses()[2], "Unhealthy");
    let outcome = bed.docker.run(&["import", path, "raw:1"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let told = format!("{}{}", outcome.stdout, outcome.stderr);
    assert!(
        told.contains("node-2") && told.contains("skipped"),
        "{told}"
    );
    for node in 0..2 {
        let names = names(&bed.fleet.engine(node));
        assert!(names.contains(&"raw:1".to_owned()), "{node}: {names:?}");
    }
}

/// Waits for the next second of the clock, which is what images are ordered by.
fn a_second_passes() {
    let seconds = || {
        std::time::UNIX_EPOCH
            .elapsed()
            .expect("the clock is past 1970")
            .as_secs()
    };
    let now = seconds();
    eventually("a second passes", || (seconds() > now).then_some(()));
}

// I-IMG-1, I-IMG-2, I-IMG-3, U-IMG-5, U-IMG-6
#[test]
fn images_are_listed_by_age_node_label_and_name() {
    let bed = Bed::new(&[]);
    let engine = bed.fleet.engine(1);
    // 1024 zeros are an archive of nothing.
    let import = |name: &str, label: &str| {
        a_second_passes();
        let label = format!("LABEL age={label}");
        let imported = engine.run_with_input([0; 1024], &["import", "-c", &label, "-", name]);
        assert_eq!(imported.code, 0, "{imported:?}");
    };
    for (name, label) in [("one:1", "1"), ("two:1", "2"), ("three:1", "3")] {
        import(name, label);
    }
    bed.await_image("three:1");
    let list = |filters: &[&str]| {
        let mut arguments = vec!["images", "--format", "{{.Repository}}:{{.Tag}}"];
        for filter in filters {
            arguments.extend(["--filter", filter]);
        }
        bed.docker.lines(&arguments)
    };
    assert_eq!(list(&["before=three:1"]), ["two:1", "one:1", IMAGE]);
    assert_eq!(list(&["before=one:1"]), [IMAGE]);
    assert_eq!(list(&["since=one:1"]), ["three:1", "two:1"]);
    assert_eq!(list(&["since=busybox"]), ["three:1", "two:1", "one:1"]);
    assert_eq!(list(&["since=one:1", "before=three:1"]), ["two:1"]);
    for filter in ["before=nothing", "since=nothing"] {
        let error = bed.docker.refused(&["images", "--filter", filter]);
        assert!(error.contains("nothing"), "{error}");
    }
    assert_eq!(list(&["node=node-0"]), [IMAGE]);
    assert_eq!(list(&["node=node-1"]), ["three:1", "two:1", "one:1", IMAGE]);
    assert_eq!(list(&["label=age=2"]), ["two:1"]);
    assert_eq!(list(&["label=age"]).len(), 3);
    assert_eq!(list(&["reference=t*"]), ["three:1", "two:1"]);
    assert_eq!(bed.docker.lines(&["images", "-q", "two"]).len(), 1);

    // Another image takes the name, and the old one has none.
    assert!(list(&["dangling=true"]).is_empty());
    import("one:1", "4");
    eventually("an image dangles", || {
        (list(&["dangling=true"]) == ["<none>:<none>"]).then_some(())
    });
    assert_eq!(list(&["dangling=false"]).len(), 4);
}
