//! Drivers whose root is on a file system that is made for the test, in a file.

use std::os::unix::fs::MetadataExt as _;

use skep_fleet::image::{Image, is_known};

use super::*;

/// Checks that volumes of the driver `local` take no more than their size on a file system.
fn check_sizes(test: &str, kind: &str) {
    let Some(image) = Image::with_quotas(test, kind) else {
        return;
    };
    let fleet = engines(test, 1);
    let drivers = format!(
        "[volume-drivers.data]\ndriver = \"local\"\nroot = \"{}\"\n",
        image.root().display()
    );
    let _nodes = Nodes::start(&fleet, 1, &drivers);
    let engine = fleet.engine(0);
    let create = |name: &str, size: &str| {
        let size = format!("size={size}");
        engine.ok(&["volume", "create", "-d", "data", "-o", &size, name]);
    };
    let write = |volume: &str| {
        let fill = "dd if=/dev/zero of=/data/file bs=64k count=64 2>/dev/null && echo whole; sync; \
                    stat -c %s /data/file";
        script(&engine, "data", volume, fill)
    };
    create("small", "1m");
    create("large", "8m");
    let written: u64 = write("small").parse().expect("dd fails");
    assert!((1..=1 << 20).contains(&written), "{written} bytes");
    assert_eq!(write("large"), "whole\n4194304");
    assert_eq!(write("boundless"), "whole\n4194304");
    // What is removed takes its limit along.
    engine.ok(&["volume", "rm", "small"]);
    create("small", "8m");
    assert_eq!(write("small"), "whole\n4194304");
    engine.ok(&["volume", "rm", "small", "large", "boundless"]);
    end(&fleet, 0, "-TERM");
}

#[test]
fn a_volume_takes_no_more_than_its_size_on_ext4() {
    check_sizes("size-ext4", "ext4");
}

#[test]
fn a_volume_takes_no_more_than_its_size_on_xfs() {
    check_sizes("size-xfs", "xfs");
}

#[test]
fn snapshots_are_subvolumes_on_btrfs() {
    let name = "snapshots_are_subvolumes_on_btrfs";
    let Some(image) = Image::mounted(name, "btrfs", &["-q"], "loop") else {
        return;
    };
    let root = image.root();
    // A volume from before, when the root was elsewhere.
    fs::create_dir_all(root.join("old/sub")).unwrap();
    fs::write(root.join("old/sub/file"), "old").unwrap();
    let fleet = engines("btrfs", 1);
    let drivers = format!("[volume-drivers.snapshot]\nroot = \"{}\"\n", root.display());
    let _nodes = Nodes::start(&fleet, 1, &drivers);
    let engine = fleet.engine(0);
    let create = |option: &str, name: &str| {
        engine.ok(&["volume", "create", "-d", "snapshot", "-o", option, name]);
    };
    let read = |volume: &str| script(&engine, "snapshot", volume, "cat /data/sub/file");
    let is_subvolume = |volume: &str| {
        let metadata = fs::metadata(root.join(volume)).unwrap();
        metadata.ino() == 256
    };

    create("mode=0751", "db");
    let write = "mkdir /data/sub; echo one > /data/sub/file; \
                 dd if=/dev/urandom of=/data/bulk bs=1M count=100 2>/dev/null";
    script(&engine, "snapshot", "db", write);
    // Ten copies would not have room.
    for number in 0..10 {
        create("snapshot-of=db", &format!("s{number}"));
    }
    script(&engine, "snapshot", "db", "echo two > /data/sub/file");
    create("restore=s0", "before");
    create("snapshot-of=old", "copy");
    for (volume, content) in [
        ("db", "one"),
        ("s9", "one"),
        ("before", "two"),
        ("copy", "old"),
    ] {
        assert_eq!(read(volume), content, "{volume}");
        assert!(is_subvolume(volume), "{volume}");
    }
    assert!(!is_subvolume("old"));
    let mode = script(&engine, "snapshot", "s5", "stat -c %a /data");
    assert_eq!(mode, "751");

    let all = engine.lines(&["volume", "ls", "-q"]);
    let all: Vec<_> = all.iter().map(String::as_str).collect();
    engine.ok(&[&["volume", "rm"][..], &all].concat());
    assert!(entries(&root).is_empty());
    end(&fleet, 0, "-TERM");
}

/// Without a kernel that knows NFS or SMB, whoever starts a container reads so.
#[test]
fn a_kernel_without_a_client_says_so() {
    let fleet = engines("clients", 1);
    let share = fleet.gateway();
    let drivers = format!(
        "[volume-drivers.nfs]\nsettings = {{ share = \"{share}:/exports\" }}\n\
         [volume-drivers.cifs]\nsettings = {{ share = \"//{share}/exports\" }}\n"
    );
    let nodes = Nodes::start(&fleet, 1, &drivers);
    let engine = fleet.engine(0);
    for driver in ["nfs", "cifs"] {
        if is_known(driver) {
            eprintln!("left out: a_kernel_without_a_client_says_so: this kernel has {driver}");
            continue;
        }
        eprintln!("left out: what is in a volume of {driver}: this kernel has no client of it");
        let volume = format!("{driver}:/data");
        let run = [
            "run",
            "--rm",
            "--volume-driver",
            driver,
            "-v",
            &volume,
            IMAGE,
            "true",
        ];
        let refused = engine.refused(&run);
        let reason = format!("this host cannot mount file systems of type `{driver}`");
        assert!(refused.contains(&reason), "{refused}");
        engine.ok(&["volume", "rm", driver]);
        assert!(entries(&nodes.root(0, driver)).is_empty());
    }
    assert!(mounts(&fleet, 0, &nodes.state(0)).is_empty());
    end(&fleet, 0, "-TERM");
}
