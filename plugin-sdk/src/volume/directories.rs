//! Volumes that are directories below the driver's root, each under its name.
//!
//! The directory is the volume: nothing else says that it is there. So the list is right after any
//! crash, and where the root is the same on several nodes, so are the volumes.

use super::{Info, Options, no_such_volume};
use crate::{Error, Result, host};

/// What begins with it is no volume: names of volumes begin with a letter or digit.
const GOING: &str = ".going-";

/// Who owns a new directory, and who may do what in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// Permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Ownership {
    /// Takes the options `mode`, `uid` and `gid`; by default everybody may read what root owns, as
    /// in the volumes of an engine.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidRequest`] if one makes no sense.
    pub fn take(options: &mut Options) -> Result<Self> {
        Ok(Self {
            uid: options.number("uid")?.unwrap_or(0),
            gid: options.number("gid")?.unwrap_or(0),
            mode: options.mode("mode")?.unwrap_or(0o755),
        })
    }
}

/// Makes a volume; one that is there stays as it is.
///
/// # Errors
///
/// The directory cannot be made.
pub fn create(name: &str, owner: Ownership) -> Result<()> {
    create_within(name, owner, None)
}

/// Makes a volume that takes at most `max_bytes`, if there is a most; one that is there stays as it
/// is.
///
/// # Errors
///
/// The directory cannot be made. [`Error::Unsupported`] if the file system cannot hold it to a size.
pub fn create_within(name: &str, owner: Ownership, max_bytes: Option<u64>) -> Result<()> {
    host::make_directory(name, owner.mode, owner.uid, owner.gid, max_bytes)?;
    Ok(())
}

/// Removes a volume with what is in it. It is gone from the list at once; what a crash leaves of it
/// goes with the next one.
///
/// # Errors
///
/// The directory cannot be moved away, or not all in it can be removed.
pub fn remove(name: &str) -> Result<()> {
    let going = format!("{GOING}{name}");
    host::remove_directory(&going)?;
    match host::rename_directory(name, &going) {
        Ok(()) => host::remove_directory(&going),
        Err(Error::NotFound(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Returns a volume that is there.
///
/// # Errors
///
/// [`Error::NotFound`] if it is not.
pub fn get(name: &str) -> Result<Info> {
    let found = host::directory(name)?.filter(is_volume);
    found.map(info).ok_or_else(|| no_such_volume(name))
}

/// Returns all volumes.
///
/// # Errors
///
/// The root cannot be read.
pub fn list() -> Result<Vec<Info>> {
    let all = host::directories("")?.into_iter();
    Ok(all.filter(is_volume).map(info).collect())
}

fn is_volume(directory: &host::Entry) -> bool {
    let first = directory.name.chars().next();
    first.is_some_and(|first| first.is_ascii_alphanumeric())
}

fn info(directory: host::Entry) -> Info {
    Info {
        name: directory.name,
        created_at_ms: directory.made_at_ms,
        status: Vec::new(),
    }
}
