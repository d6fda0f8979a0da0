//! Volumes that can be copied, kept as they are at a moment, and restored.
//!
//! Volumes and snapshots are directories below the driver's root, and each snapshot is a volume of
//! its own that can be listed, mounted and removed like any other:
//!
//! - `docker volume create -d snapshot data` makes a volume; `uid`, `gid` and `mode` are known.
//! - `... -o snapshot-of=data monday` makes `monday`, a copy of `data` as it is. With `keep=7` the
//!   oldest snapshots of `data` are removed until there are seven.
//! - `... -o from=monday other` makes a volume with the content of `monday`.
//! - `... -o restore=monday before` gives `data` the content of `monday`; `before` becomes a
//!   snapshot of what `data` was. `data` must not be in use.
//!
//! Copies share blocks where the file system can (btrfs, xfs), and cost time and room elsewhere.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use skep_plugin_sdk::volume::directories::{self, Ownership};
use skep_plugin_sdk::volume::{Info, Options, Scope, no_such_volume, records};
use skep_plugin_sdk::{Attr, Error, NoSettings, Result, Volume, host, log};

/// Where the copy of a volume waits to take its place.
const COMING: &str = ".coming-";

struct Snapshots;

/// What is known of a volume besides its content.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct Origin {
    /// The volume it is a snapshot of.
    snapshot_of: Option<String>,
}

impl Volume for Snapshots {
    type Settings = NoSettings;
    const SCOPE: Scope = Scope::Local;

    fn new(_settings: NoSettings) -> Result<Self> {
        Ok(Self)
    }

    fn create(&mut self, name: &str, options: &[Attr]) -> Result<()> {
        let mut options = Options::new(options)?;
        let snapshot_of = options.text("snapshot-of");
        let from = options.text("from");
        let restore = options.text("restore");
        let keep = options.number("keep")?;
        let is_new = snapshot_of.is_none() && from.is_none() && restore.is_none();
        let owner = is_new.then(|| Ownership::take(&mut options)).transpose()?;
        options.finish()?;
        if keep.is_some() && snapshot_of.is_none() || keep == Some(0) {
            let text = "option `keep` is a number above zero, and comes with `snapshot-of`";
            return Err(Error::InvalidRequest(text.into()));
        }
        if directories::get(name).is_ok() {
            // A request that was made before, and whose answer was lost.
            return Ok(());
        }
        match (owner, snapshot_of, from, restore) {
            (Some(owner), ..) => {
                describe(name, None)?;
                directories::create(name, owner)
            }
            (None, Some(of), None, None) => {
                directories::get(&of)?;
                describe(name, Some(of.clone()))?;
                host::copy_directory(&of, name)?;
                prune(&of, name, keep)
            }
            (None, None, Some(from), None) => {
                directories::get(&from)?;
                describe(name, None)?;
                host::copy_directory(&from, name)
            }
            (None, None, None, Some(snapshot)) => bring_back(&snapshot, name),
            _ => {
                let text = "only one of `snapshot-of`, `from` and `restore` can be done at a time";
                Err(Error::InvalidRequest(text.into()))
            }
        }
    }

    fn remove(&mut self, name: &str) -> Result<()> {
        directories::remove(name)?;
        host::forget_record(name)
    }

    fn mount(&mut self, name: &str) -> Result<String> {
        Ok(directories::get(name)?.name)
    }

    fn path(&mut self, name: &str) -> Result<Option<String>> {
        Ok(Some(directories::get(name)?.name))
    }

    fn get(&mut self, name: &str) -> Result<Info> {
        directories::get(name)?;
        info(name)
    }

    fn list(&mut self) -> Result<Vec<Info>> {
        let all = directories::list()?;
        all.iter().map(|volume| info(&volume.name)).collect()
    }
}

/// Puts a copy of a snapshot in the place of its volume, whose content becomes `before`.
fn bring_back(snapshot: &str, before: &str) -> Result<()> {
    directories::get(snapshot)?;
    let origin = records::find::<Origin>(snapshot)?;
    let volume = origin.and_then(|record| record.volume.snapshot_of);
    let volume = volume.ok_or_else(|| {
        Error::InvalidRequest(format!("volume {snapshot} is no snapshot of another one"))
    })?;
    if host::in_use(&volume) {
        return Err(Error::Denied(format!("volume {volume} is in use")));
    }
    let coming = format!("{COMING}{volume}");
    host::remove_directory(&coming)?;
    host::copy_directory(snapshot, &coming)?;
    describe(before, Some(volume.clone()))?;
    match host::rename_directory(&volume, before) {
        // It was removed, or a restore was cut off here: there is nothing to keep.
        Ok(()) | Err(Error::NotFound(_)) => {}
        Err(error) => return Err(error),
    }
    host::rename_directory(&coming, &volume).inspect_err(|_| {
        // Nobody has the volume now but `before`.
        let _ = host::rename_directory(before, &volume);
    })
}

/// Keeps what a new volume is.
fn describe(name: &str, snapshot_of: Option<String>) -> Result<()> {
    records::put(name, Origin { snapshot_of })
}

/// Removes the oldest snapshots of a volume until `keep` are left.
fn prune(of: &str, newest: &str, keep: Option<u32>) -> Result<()> {
    let Some(keep) = keep else {
        return Ok(());
    };
    let there: BTreeSet<String> = directories::list()?
        .into_iter()
        .map(|info| info.name)
        .collect();
    let mut snapshots: Vec<(u64, String)> = records::all::<Origin>()?
        .into_iter()
        .filter(|(_, record)| record.volume.snapshot_of.as_deref() == Some(of))
        .map(|(name, record)| (record.created_at_ms, name))
        .filter(|(_, name)| there.contains(name) && name != newest)
        .collect();
    snapshots.sort();
    let others = usize::try_from(keep - 1).unwrap_or(usize::MAX);
    let excess = snapshots.len().saturating_sub(others);
    for (_, name) in &snapshots[..excess] {
        log::info(
            "removing an old snapshot",
            &[("volume", of), ("snapshot", name)],
        );
        directories::remove(name)?;
        host::forget_record(name)?;
    }
    Ok(())
}

fn info(name: &str) -> Result<Info> {
    let Some(record) = records::find::<Origin>(name)? else {
        return directories::get(name).map_err(|_| no_such_volume(name));
    };
    let mut info = record.info(name);
    if let Some(of) = record.volume.snapshot_of {
        info.status.push(Attr {
            key: "snapshot-of".into(),
            value: of,
        });
    }
    Ok(info)
}

skep_plugin_sdk::export_volume!(Snapshots);

#[cfg(test)]
mod tests {
    use super::*;
    use skep_plugin_sdk::testing::{Host, attrs};
    use skep_plugin_sdk::volume::configure;

    fn names(driver: &mut Snapshots) -> Vec<String> {
        let all = driver.list().unwrap();
        all.into_iter().map(|info| info.name).collect()
    }

    /// A driver with the volume `data`, in which is a directory of this name.
    fn driver(host: &Host, content: &str) -> Snapshots {
        let mut driver: Snapshots = configure("{}").unwrap();
        driver.create("data", &[]).unwrap();
        host.make_directory(&format!("data/{content}"));
        driver
    }

    fn content(host: &Host, volume: &str) -> Vec<String> {
        let prefix = format!("{volume}/");
        let all = host.directories().into_iter();
        all.filter_map(|(path, _)| path.strip_prefix(&prefix).map(str::to_owned))
            .collect()
    }

    #[test]
    fn a_snapshot_is_a_volume_with_the_content_of_its_moment() {
        let host = Host::install();
        let mut driver = driver(&host, "old");
        driver
            .create("monday", &attrs(&[("snapshot-of", "data")]))
            .unwrap();
        host.make_directory("data/new");
        assert_eq!(content(&host, "monday"), ["old"]);
        let status = driver.get("monday").unwrap().status;
        assert_eq!(status, attrs(&[("snapshot-of", "data")]));
        driver
            .create("other", &attrs(&[("from", "monday")]))
            .unwrap();
        assert_eq!(content(&host, "other"), ["old"]);
        assert_eq!(driver.get("other").unwrap().status, []);
        assert_eq!(names(&mut driver), ["data", "monday", "other"]);
    }

    #[test]
    fn a_volume_is_restored_and_what_it_was_is_kept() {
        let host = Host::install();
        let mut driver = driver(&host, "old");
        driver
            .create("monday", &attrs(&[("snapshot-of", "data")]))
            .unwrap();
        host.make_directory("data/new");
        driver
            .create("before", &attrs(&[("restore", "monday")]))
            .unwrap();
        assert_eq!(content(&host, "data"), ["old"]);
        assert_eq!(content(&host, "before"), ["new", "old"]);
        assert_eq!(content(&host, "monday"), ["old"]);
        let status = driver.get("before").unwrap().status;
        assert_eq!(status, attrs(&[("snapshot-of", "data")]));
    }

    #[test]
    fn a_volume_in_use_is_not_restored() {
        let host = Host::install();
        let mut driver = driver(&host, "old");
        driver
            .create("monday", &attrs(&[("snapshot-of", "data")]))
            .unwrap();
        host.set_in_use("data", true);
        let restore = attrs(&[("restore", "monday")]);
        assert!(driver.create("before", &restore).is_err());
        host.set_in_use("data", false);
        driver.create("before", &restore).unwrap();
        assert!(
            driver
                .create("again", &attrs(&[("restore", "data")]))
                .is_err()
        );
    }

    #[test]
    fn old_snapshots_are_pruned() {
        let host = Host::install();
        let mut driver = driver(&host, "old");
        for (day, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
            host.set_now_ms(day as u64);
            let options = attrs(&[("snapshot-of", "data"), ("keep", "2")]);
            driver.create(name, &options).unwrap();
        }
        assert_eq!(names(&mut driver), ["c", "d", "data"]);
        assert_eq!(host.records().len(), 3);
    }

    #[test]
    fn a_copy_that_fails_is_no_volume() {
        let host = Host::install();
        let mut driver = driver(&host, "old");
        for options in [
            [("snapshot-of", "none"), ("keep", "2")],
            [("snapshot-of", "data"), ("from", "data")],
            [("from", "data"), ("keep", "2")],
            [("snapshot-of", "data"), ("keep", "0")],
            [("snapshot-of", "data"), ("uid", "1")],
        ] {
            assert!(driver.create("x", &attrs(&options)).is_err(), "{options:?}");
        }
        assert_eq!(names(&mut driver), ["data"]);
    }
}
