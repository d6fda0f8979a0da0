//! What directories there are.

use rustix::fs::{AtFlags, Dir, FileType, StatxFlags};

use super::{CONFINED, DIRECTORY, Error, Inner, OWN, failed, names, open};
use crate::plugin::bindings::waiting::skep::plugin::directories::Entry;

impl Inner {
    pub(super) fn find(&self, path: &str) -> Result<Option<Entry>, Error> {
        let (above, name) = self.above(path)?;
        entry(&above, name).map_err(|error| failed(path, error))
    }

    pub(super) fn list(&self, path: &str) -> Result<Vec<Entry>, Error> {
        let names = names(path)?;
        let mut directory = self.open()?;
        if !names.is_empty() {
            directory = open(&directory, &names.join("/"), DIRECTORY, CONFINED)
                .map_err(|error| failed(path, error))?;
        }
        let mut found = Vec::new();
        let entries = Dir::read_from(&directory).map_err(|error| failed(path, error))?;
        for known in entries {
            let known = known.map_err(|error| failed(path, error))?;
            let Ok(name) = known.file_name().to_str() else {
                continue;
            };
            let may_be_one = matches!(known.file_type(), FileType::Directory | FileType::Unknown);
            if !may_be_one || name.starts_with(OWN) || name == "." || name == ".." {
                continue;
            }
            // One that is removed meanwhile is not there, and one that cannot be read is no other's
            // trouble.
            found.extend(entry(&directory, name).unwrap_or_default());
        }
        found.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        Ok(found)
    }
}

/// A directory, if the name is that of one. Asks no server.
fn entry(above: &rustix::fd::OwnedFd, name: &str) -> rustix::io::Result<Option<Entry>> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    let wanted = StatxFlags::TYPE | StatxFlags::BTIME;
    let stat = match rustix::fs::statx(above, name, flags, wanted) {
        Ok(stat) => stat,
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error),
    };
    if FileType::from_raw_mode(stat.stx_mode.into()) != FileType::Directory {
        return Ok(None);
    }
    let is_known = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
    let made_at_ms = u64::try_from(stat.stx_btime.tv_sec)
        .ok()
        .filter(|_| is_known)
        .map(|seconds| seconds * 1000 + u64::from(stat.stx_btime.tv_nsec) / 1_000_000);
    Ok(Some(Entry {
        name: name.to_owned(),
        made_at_ms,
    }))
}
