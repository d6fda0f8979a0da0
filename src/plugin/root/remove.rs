//! Removing a directory and all in it, whatever somebody put there.

use std::os::fd::OwnedFd;

use rustix::{
    fs::{AtFlags, Dir},
    io::Errno,
};

use super::{
    Abandoned, DIRECTORY, Error, Inner, OWN, OWN_FILE_SYSTEM, failed, limit, open, subvolume,
};

/// What is nested deeper is brought up first: the stack and the table of open files are bounded.
const MAX_DEPTH: usize = 64;

impl Inner {
    pub(super) fn remove(&self, path: &str, abandoned: &Abandoned) -> Result<(), Error> {
        let (above, name) = self.above(path)?;
        remove(&above, name, abandoned).or_else(|reason| match reason {
            Reason::Abandoned(error) => Err(error),
            Reason::System(Errno::NOENT) => Ok(()),
            Reason::System(error) => Err(failed(path, error)),
        })
    }
}

/// Why not all was removed.
pub(super) enum Reason {
    Abandoned(Error),
    System(Errno),
}

impl From<Errno> for Reason {
    fn from(error: Errno) -> Self {
        Self::System(error)
    }
}

/// Removes the directory `name` and all in it, over no link and from no other file system.
pub(super) fn remove(above: &OwnedFd, name: &str, abandoned: &Abandoned) -> Result<(), Reason> {
    let top = open(above, name, DIRECTORY, OWN_FILE_SYSTEM)?;
    // One with subvolumes below it is removed like any other directory.
    if subvolume::is_one(&top) && subvolume::remove(above, name).is_ok() {
        return Ok(());
    }
    let project = limit::project(&top);
    while clear(&top, &top, 0, abandoned)? {}
    rustix::fs::unlinkat(above, name, AtFlags::REMOVEDIR)?;
    if let Some(project) = project {
        drop(top);
        limit::forget(above, project);
    }
    Ok(())
}

/// Empties a directory. Returns whether something was brought up to `top`, which is to be cleared
/// again then.
fn clear(
    top: &OwnedFd,
    directory: &OwnedFd,
    depth: usize,
    abandoned: &Abandoned,
) -> Result<bool, Reason> {
    let mut brought_up = false;
    for entry in Dir::read_from(directory)? {
        abandoned.check().map_err(Reason::Abandoned)?;
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
            // The first is Linux, the second POSIX.
            Err(Errno::ISDIR | Errno::PERM) => {}
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(error) => return Err(error.into()),
        }
        if depth == MAX_DEPTH {
            let nearer = format!("{OWN}{:016x}", rand::random::<u64>());
            rustix::fs::renameat(directory, name, top, nearer)?;
            brought_up = true;
            continue;
        }
        let flags = DIRECTORY;
        let below = rustix::fs::openat2(
            directory,
            name,
            flags,
            rustix::fs::Mode::empty(),
            OWN_FILE_SYSTEM,
        )?;
        brought_up |= clear(top, &below, depth + 1, abandoned)?;
        rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR)?;
    }
    Ok(brought_up)
}
