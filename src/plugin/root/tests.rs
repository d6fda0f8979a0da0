use std::{
    fs,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, symlink},
        process::CommandExt as _,
    },
    path::Path,
};

use tempfile::TempDir;

use super::*;

struct Bed {
    root: Root,
    directory: TempDir,
}

impl Bed {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("root")).unwrap();
        let root = Root::new(&RootGrant {
            path: directory.path().join("root"),
            ..RootGrant::default()
        });
        Self { root, directory }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.inner.path.join(path)
    }

    fn make(&self, path: &str) -> Result<bool, Error> {
        self.root.inner.make(path, 0o750, 0, 0, None)
    }

    fn remove(&self, path: &str) -> Result<(), Error> {
        self.root.inner.remove(path, &Abandoned::default())
    }

    fn copy(&self, source: &str, target: &str) -> Result<(), Error> {
        self.root.inner.copy(source, target, &Abandoned::default())
    }

    fn list(&self, path: &str) -> Vec<String> {
        let listed = self.root.inner.list(path).unwrap().into_iter();
        listed.map(|entry| entry.name).collect()
    }

    /// All names in the root, those of the daemon's own included.
    fn entries(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.root.inner.path).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }
}

#[test]
fn a_directory_is_made_as_it_shall_be() {
    let bed = Bed::new();
    assert!(bed.make("data").unwrap());
    assert!(!bed.make("data").unwrap());
    let metadata = fs::metadata(bed.at("data")).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o750);
    assert!(bed.make("data/sub").unwrap());
    assert!(matches!(bed.make("none/sub"), Err(Error::NotFound(_))));
    fs::write(bed.at("file"), "").unwrap();
    assert!(matches!(bed.make("file"), Err(Error::Denied(_))));
    assert_eq!(bed.list(""), ["data"]);
    assert_eq!(bed.list("data"), ["sub"]);
    let found = bed.root.inner.find("data/sub").unwrap().unwrap();
    assert_eq!(found.name, "sub");
    for none in ["none", "file", "data/none"] {
        assert!(bed.root.inner.find(none).unwrap().is_none(), "{none}");
    }
    assert_eq!(bed.entries(), ["data", "file"]);
}

#[test]
fn no_path_leads_out_of_the_root() {
    let bed = Bed::new();
    let outside = bed.directory.path().join("outside");
    fs::create_dir_all(outside.join("kept")).unwrap();
    bed.make("data").unwrap();
    symlink(&outside, bed.at("link")).unwrap();
    symlink(&outside, bed.at("data/link")).unwrap();
    symlink("../../outside", bed.at("data/relative")).unwrap();
    let absolute = outside.to_str().unwrap().to_owned();
    for path in [
        "..",
        "../outside",
        "data/../../outside",
        &absolute,
        "link",
        "link/kept",
        "data/link",
        "data/link/kept",
        "data/relative",
        "data/relative/kept",
        "data//sub",
        "data/",
        "/",
        "./data",
        "data/.",
        "a\0b",
        ".skep-x",
    ] {
        assert!(bed.make(path).is_err(), "make {path}");
        assert!(bed.root.inner.list(path).is_err(), "list {path}");
        assert!(
            !matches!(bed.root.inner.find(path), Ok(Some(_))),
            "find {path}"
        );
        assert!(bed.copy(path, "copy").is_err(), "copy {path}");
        assert!(bed.copy("data", path).is_err(), "copy to {path}");
        assert!(bed.root.inner.rename(path, "new").is_err(), "rename {path}");
        // What is not there is removed; nothing else must be.
        let _ = bed.remove(path);
        let _ = bed.root.inner.unmount(path);
    }
    assert!(matches!(bed.remove(""), Err(Error::Denied(_))));
    assert!(outside.join("kept").is_dir());
    assert!(bed.at("data").is_dir());
    bed.remove("data").unwrap();
    assert!(outside.join("kept").is_dir());
    assert_eq!(bed.entries(), ["link"]);
}

#[test]
fn a_directory_that_becomes_a_link_leads_nowhere() {
    let bed = Bed::new();
    let outside = bed.directory.path().join("outside");
    fs::create_dir_all(outside.join("sub/kept")).unwrap();
    let inner = bed.root.inner.clone();
    let (real, link) = (bed.at("real"), bed.at("data"));
    fs::create_dir_all(real.join("sub")).unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let _ = fs::rename(&real, &link);
                let _ = fs::rename(&link, &real);
                let _ = symlink(&outside, &link);
                let _ = fs::remove_file(&link);
            }
        });
        for round in 0..2000 {
            let _ = inner.remove("data/sub", &Abandoned::default());
            let _ = inner.make(&format!("data/{round}"), 0o700, 0, 0, None);
        }
        is_over.store(true, Ordering::Relaxed);
    });
    assert!(outside.join("sub/kept").is_dir());
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}

#[test]
fn a_deep_tree_is_removed() {
    let bed = Bed::new();
    bed.make("data").unwrap();
    let mut below = open(
        &bed.root.inner.open().unwrap(),
        "data",
        DIRECTORY,
        OWN_FILE_SYSTEM,
    )
    .unwrap();
    for _ in 0..3000 {
        rustix::fs::mkdirat(&below, "d", Mode::RWXU).unwrap();
        below = open(&below, "d", DIRECTORY, OWN_FILE_SYSTEM).unwrap();
    }
    drop(below);
    bed.remove("data").unwrap();
    bed.remove("data").unwrap();
    assert!(bed.entries().is_empty());
}

#[test]
fn a_copy_is_whole() {
    let bed = Bed::new();
    bed.make("data").unwrap();
    fs::create_dir(bed.at("data/sub")).unwrap();
    fs::write(bed.at("data/sub/file"), "content").unwrap();
    fs::set_permissions(bed.at("data/sub/file"), fs::Permissions::from_mode(0o4711)).unwrap();
    fs::hard_link(bed.at("data/sub/file"), bed.at("data/other")).unwrap();
    symlink("/etc/passwd", bed.at("data/link")).unwrap();
    bed.copy("data", "copy").unwrap();
    assert_eq!(fs::read(bed.at("copy/sub/file")).unwrap(), b"content");
    let metadata = fs::metadata(bed.at("copy/sub/file")).unwrap();
    let original = fs::metadata(bed.at("data/sub/file")).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o4711);
    assert_eq!(metadata.mtime_nsec(), original.mtime_nsec());
    assert_ne!(metadata.ino(), original.ino());
    assert_eq!(
        metadata.ino(),
        fs::metadata(bed.at("copy/other")).unwrap().ino()
    );
    let link = fs::read_link(bed.at("copy/link")).unwrap();
    assert_eq!(link, Path::new("/etc/passwd"));
    assert!(matches!(bed.copy("data", "copy"), Err(Error::Denied(_))));
    assert!(matches!(bed.copy("none", "new"), Err(Error::NotFound(_))));
    assert_eq!(bed.entries(), ["copy", "data"]);
}

#[test]
fn a_copy_that_nobody_waits_for_leaves_nothing() {
    let bed = Bed::new();
    bed.make("data").unwrap();
    fs::write(bed.at("data/file"), "content").unwrap();
    let abandoned = Abandoned::default();
    abandoned.0.store(true, Ordering::Relaxed);
    let copied = bed.root.inner.copy("data", "copy", &abandoned);
    assert!(matches!(copied, Err(Error::Timeout)));
    assert_eq!(bed.entries(), ["data"]);
}

#[test]
fn nothing_is_replaced_by_a_rename() {
    let bed = Bed::new();
    bed.make("one").unwrap();
    bed.make("other").unwrap();
    let rename = |source: &str, target: &str| bed.root.inner.rename(source, target);
    assert!(matches!(rename("one", "other"), Err(Error::Denied(_))));
    assert!(matches!(rename("none", "new"), Err(Error::NotFound(_))));
    rename("one", "new").unwrap();
    assert_eq!(bed.entries(), ["new", "other"]);
}

#[test]
fn a_root_that_is_no_mount_point_says_so() {
    let bed = Bed::new();
    assert!(!bed.root.inner.root_is_mounted().unwrap());
    let proc = Root::new(&RootGrant {
        path: "/proc".into(),
        ..RootGrant::default()
    });
    assert!(proc.inner.root_is_mounted().unwrap());
    let none = Root::new(&RootGrant {
        path: bed.at("none"),
        ..RootGrant::default()
    });
    assert!(matches!(
        none.inner.root_is_mounted(),
        Err(Error::Unavailable(_))
    ));
}

#[tokio::test]
async fn what_a_guest_answers_is_found_below_the_root_alone() {
    let bed = Bed::new();
    bed.make("data").unwrap();
    symlink("/etc", bed.at("link")).unwrap();
    let found = bed.root.locate("data".to_owned()).await.unwrap();
    assert_eq!(found, bed.at("data"));
    for path in ["link", "..", "/etc", "none"] {
        assert!(bed.root.locate(path.to_owned()).await.is_err(), "{path}");
    }
}

/// A mount whose deadline passes while the kernel waits is taken back when it comes, and nobody
/// comes in between.
#[tokio::test]
async fn a_mount_that_comes_too_late_is_taken_back() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("left out: a_mount_that_comes_too_late_is_taken_back: only root mounts");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let texts = |text: &str| vec![text.to_owned()];
    let root = Root::new(&RootGrant {
        path: directory.path().to_owned(),
        mounts: MountsGrant {
            kinds: texts("tmpfs"),
            sources: texts("tmpfs"),
            options: Vec::new(),
        },
        ..RootGrant::default()
    });
    root.inner.make("data", 0o700, 0, 0, None).unwrap();
    let mount = |root: &Inner, path: &str, abandoned: &Abandoned| {
        root.mount("tmpfs", "tmpfs", path, &[], abandoned)
    };

    let (mounted, told) = std::sync::mpsc::channel();
    let (go, going) = std::sync::mpsc::channel::<()>();
    let late = root.work("data".to_owned(), move |root, path, abandoned| {
        // The system call: it does not look up while it waits.
        mount(root, path, &Abandoned::default())?;
        mounted.send(()).unwrap();
        let _ = going.recv();
        root.keep_unless(path, abandoned)
    });
    let mut late = Box::pin(late);
    assert!(futures_util::poll!(late.as_mut()).is_pending());
    told.recv().unwrap();
    drop(late);

    let is_mounted = root.work("data".to_owned(), |root, path, _| root.is_mounted(path));
    let mut is_mounted = Box::pin(is_mounted);
    assert!(futures_util::poll!(is_mounted.as_mut()).is_pending());
    // Others need not wait.
    root.work("other".to_owned(), |root, path, _| root.is_mounted(path))
        .await
        .unwrap();
    go.send(()).unwrap();
    assert!(!is_mounted.await.unwrap(), "nobody asked for it any more");

    // Before the kernel is asked.
    let abandoned = Abandoned::default();
    abandoned.0.store(true, Ordering::Relaxed);
    assert!(matches!(
        mount(&root.inner, "data", &abandoned),
        Err(Error::Timeout)
    ));
    assert!(!root.inner.is_mounted("data").unwrap());
}

#[test]
fn it_is_known_when_a_directory_was_made() {
    let bed = Bed::new();
    let before = std::time::SystemTime::now();
    bed.make("data").unwrap();
    // The kernel counts in ticks.
    let before = before - Duration::from_secs(1);
    let since = before.duration_since(std::time::UNIX_EPOCH).unwrap();
    let made_at = |path: &str| bed.root.inner.find(path).unwrap().unwrap().made_at_ms;
    let Some(made_at_ms) = made_at("data") else {
        eprintln!("left out: it_is_known_when_a_directory_was_made: the file system does not tell");
        return;
    };
    assert!(u128::from(made_at_ms) >= since.as_millis());
    fs::write(bed.at("data/file"), "").unwrap();
    bed.root.inner.rename("data", "other").unwrap();
    assert_eq!(made_at("other"), Some(made_at_ms));
    assert_eq!(
        bed.root.inner.list("").unwrap()[0].made_at_ms,
        Some(made_at_ms)
    );
}

#[test]
fn a_size_is_refused_where_it_is_not_granted_or_not_enforced() {
    let bed = Bed::new();
    let make = |root: &Root| root.inner.make("data", 0o700, 0, 0, Some(1 << 20));
    assert!(matches!(make(&bed.root), Err(Error::Denied(_))));
    // Wherever tests keep what they need for a moment, no project quotas are in force.
    let granted = Root::new(&RootGrant {
        path: bed.root.inner.path.clone(),
        quotas: Quotas::Allowed,
        ..RootGrant::default()
    });
    let refused = make(&granted);
    let Err(Error::Unsupported(text)) = refused else {
        panic!("{refused:?}");
    };
    assert!(text.contains("has no project quotas in force"), "{text}");
    assert!(bed.entries().is_empty());
}

/// The bytes in a file that somebody other than root, whom no quota holds, tries to make of 4 MiB.
fn fill(directory: &Path) -> u64 {
    let file = directory.join("file");
    let mut dd = std::process::Command::new("dd");
    dd.args(["if=/dev/zero", "bs=64k", "count=64", "conv=fsync"])
        .arg(format!("of={}", file.display()))
        .uid(65_534)
        .gid(65_534);
    let output = dd.output().unwrap();
    let len = fs::metadata(&file).unwrap().len();
    assert_eq!(output.status.success(), len == 4 << 20, "{output:?}");
    len
}

#[test]
fn a_directory_takes_no_more_than_its_size() {
    let name = "a_directory_takes_no_more_than_its_size";
    for kind in ["ext4", "xfs"] {
        let Some(image) = skep_fleet::image::Image::with_quotas(name, kind) else {
            continue;
        };
        // dd has to get there.
        let above = image.root().parent().unwrap().to_owned();
        fs::set_permissions(above, fs::Permissions::from_mode(0o755)).unwrap();
        let root = Root::new(&RootGrant {
            path: image.root(),
            quotas: Quotas::Allowed,
            ..RootGrant::default()
        });
        let make = |path: &str, max_bytes: Option<u64>| {
            let made = root.inner.make(path, 0o755, 65_534, 65_534, max_bytes);
            assert!(made.unwrap(), "{kind}: {path}");
            image.root().join(path)
        };
        let project = |path: &Path| {
            let directory = rustix::fs::open(path, DIRECTORY, Mode::empty()).unwrap();
            limit::project(&directory)
        };
        let small = make("small", Some(1 << 20));
        assert!((1..=1 << 20).contains(&fill(&small)), "{kind}");
        for (path, max_bytes) in [("large", Some(8 << 20)), ("boundless", None)] {
            assert_eq!(fill(&make(path, max_bytes)), 4 << 20, "{kind}: {path}");
        }
        let first = project(&small).unwrap();
        assert_ne!(Some(first), project(&image.root().join("large")));
        assert_eq!(project(&image.root().join("boundless")), None);

        // What is removed takes its limit along.
        root.inner.remove("small", &Abandoned::default()).unwrap();
        let there = root.inner.open().unwrap();
        assert!(!limit::has_limit(&there, first), "{kind}");
        let small = make("small", Some(8 << 20));
        assert_eq!(fill(&small), 4 << 20, "{kind}");

        // Who claims another one's project takes no limit from it.
        let second = project(&small).unwrap();
        let thief = make("thief", Some(1 << 20));
        let thief = rustix::fs::open(thief, DIRECTORY, Mode::empty()).unwrap();
        limit::join(&thief, second).unwrap();
        root.inner.remove("thief", &Abandoned::default()).unwrap();
        assert!(limit::has_limit(&there, second), "{kind}");
    }
}
