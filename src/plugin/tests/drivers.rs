//! Volume drivers: the built-in ones on a directory of this machine, and one that misbehaves.

use std::{collections::BTreeMap, fs};

use tempfile::TempDir;

use super::*;
use crate::{
    plugin::{DriverGrant, MountsGrant, RootGrant},
    volume::{Driver, DriverError, Scope},
};

struct Bed {
    driver: Arc<dyn Driver>,
    directory: TempDir,
}

impl Bed {
    fn try_new(source: Source, settings: serde_json::Value) -> Result<Self, LoadError> {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        fs::create_dir(&root).unwrap();
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let mut spec = Spec::new("data", Kind::Volume, source);
        spec.settings = settings;
        spec.allow.driver = Some(DriverGrant {
            root: RootGrant {
                path: root,
                mounts: MountsGrant {
                    kinds: texts(&["tmpfs"]),
                    sources: texts(&["tmpfs"]),
                    options: texts(&["size", "mode", "uid", "gid"]),
                },
                ..RootGrant::default()
            },
            records: directory.path().join("records"),
            secrets: BTreeMap::new(),
        });
        let driver = loader().load(&[spec])?.drivers.pop().unwrap();
        Ok(Self { driver, directory })
    }

    fn builtin(name: &str) -> Self {
        Self::try_new(Source::Builtin(format!("volume-{name}")), json!({})).unwrap()
    }

    fn unruly() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests/dist");
        Self::try_new(Source::File(path.join("unruly-volume.wasm")), json!({})).unwrap()
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    async fn create(&self, name: &str, options: &[(&str, &str)]) -> Result<(), DriverError> {
        let options = options.iter();
        let options = options.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        self.driver.create(name, &options.collect()).await
    }

    async fn names(&self) -> Vec<String> {
        let all = self.driver.list().await.unwrap();
        all.into_iter().map(|info| info.name).collect()
    }
}

#[tokio::test]
async fn a_local_volume_is_a_directory() {
    let bed = Bed::builtin("local");
    assert_eq!(bed.driver.scope(), Scope::Local);
    bed.create("data", &[("mode", "0700")]).await.unwrap();
    assert_eq!(bed.names().await, ["data"]);
    let path = bed.driver.mount("data").await.unwrap();
    assert_eq!(path, bed.root().join("data"));
    fs::write(path.join("file"), "x").unwrap();
    assert_eq!(bed.driver.path("data").await.unwrap(), Some(path.clone()));
    bed.driver.unmount("data").await.unwrap();
    assert!(path.join("file").exists());
    bed.driver.remove("data").await.unwrap();
    assert!(!path.exists());
    assert_eq!(bed.driver.get("data").await, Err(DriverError::NotFound));
    let error = bed.create("data", &[("size", "1g")]).await.unwrap_err();
    assert!(error.to_string().contains("size"), "{error}");
}

#[tokio::test]
async fn a_snapshot_keeps_files() {
    let bed = Bed::builtin("snapshot");
    bed.create("data", &[]).await.unwrap();
    let path = bed.driver.mount("data").await.unwrap();
    fs::write(path.join("file"), "old").unwrap();
    bed.create("monday", &[("snapshot-of", "data")])
        .await
        .unwrap();
    fs::write(path.join("file"), "new").unwrap();
    let restore = [("restore", "monday")];
    let error = bed.create("before", &restore).await.unwrap_err();
    assert!(error.to_string().contains("in use"), "{error}");
    bed.driver.unmount("data").await.unwrap();
    bed.create("before", &restore).await.unwrap();
    assert_eq!(fs::read(path.join("file")).unwrap(), b"old");
    let before = bed.driver.mount("before").await.unwrap();
    assert_eq!(fs::read(before.join("file")).unwrap(), b"new");
    assert_eq!(bed.names().await, ["before", "data", "monday"]);
}

#[tokio::test]
async fn a_driver_without_its_file_system_says_so() {
    let bed = Bed::builtin("shared");
    assert_eq!(bed.driver.scope(), Scope::Global);
    let error = bed.create("data", &[]).await.unwrap_err();
    assert!(
        error.to_string().contains("no file system is mounted"),
        "{error}"
    );
}

#[tokio::test]
async fn settings_that_make_no_sense_are_refused() {
    let source = Source::Builtin("volume-tmpfs".to_owned());
    let error = Bed::try_new(source, json!({"size": "big"})).err().unwrap();
    assert!(error.reason().to_string().contains("big"), "{error:?}");
}

#[tokio::test]
async fn a_driver_that_misbehaves_fails_that_one_mount() {
    let bed = Bed::unruly();
    let names = [
        "good", "trap", "loop", "bomb", "fail", "escape", "absolute", "proc", "secret",
    ];
    for name in names {
        bed.create(name, &[]).await.unwrap();
    }
    for (name, reason) in [
        ("trap", "this volume traps"),
        ("loop", "ran longer than 1s"),
        ("bomb", "wants more memory than its limit of 64 MiB"),
        ("fail", "this volume fails"),
        ("escape", "is no path below the driver's root"),
        ("absolute", "is no path below the driver's root"),
        (
            "proc",
            "mounting file systems of type `proc` is not allowed",
        ),
        ("secret", "no secret `none` is allowed"),
    ] {
        let error = bed.driver.mount(name).await.unwrap_err().to_string();
        assert!(error.contains(reason), "{name}: {error}");
        let path = bed.driver.mount("good").await.unwrap();
        assert_eq!(path, bed.root().join("good"), "after {name}");
    }
    assert_eq!(bed.names().await.len(), names.len());
}

#[tokio::test]
async fn a_mount_that_takes_long_holds_up_no_other() {
    let bed = Bed::unruly();
    bed.create("good", &[]).await.unwrap();
    bed.create("loop", &[]).await.unwrap();
    let slow = {
        let driver = Arc::clone(&bed.driver);
        tokio::spawn(async move { driver.mount("loop").await })
    };
    for _ in 0..20 {
        bed.driver.mount("good").await.unwrap();
    }
    assert!(slow.await.unwrap().is_err());
}

#[tokio::test]
async fn many_volumes_at_once_leave_nothing_behind() {
    let bed = Bed::builtin("snapshot");
    let all = (0..100).map(|number| {
        let driver = Arc::clone(&bed.driver);
        async move {
            let name = format!("v{number}");
            driver.create(&name, &BTreeMap::new()).await?;
            driver.mount(&name).await?;
            driver.unmount(&name).await?;
            driver.remove(&name).await
        }
    });
    for result in futures_util::future::join_all(all).await {
        result.unwrap();
    }
    assert!(bed.names().await.is_empty());
    assert_eq!(fs::read_dir(bed.root()).unwrap().count(), 0);
    let records = fs::read_dir(bed.directory.path().join("records")).unwrap();
    assert_eq!(records.count(), 0);
}
