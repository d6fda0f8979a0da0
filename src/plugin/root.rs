//! What a volume driver may do below its own root: directories and mounts.
//!
//! A path of a guest is made of plain names, and the kernel resolves it: below the root, over no
//! link, into no other file system (`openat2`). Nothing is checked first and used later, so nobody
//! who can write there can lead the daemon elsewhere. What is mounted is mounted on a directory
//! that is held open.
//!
//! The kernel cannot be told to stop waiting. A call whose deadline passed goes on in its thread: it
//! keeps its turn for the volume, so that no later call comes in between, and takes back what it
//! mounted.

use std::{
    collections::BTreeSet,
    fmt,
    os::fd::{AsRawFd as _, OwnedFd},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::{
    fs::{
        AtFlags, CWD, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, StatxAttributes,
        StatxFlags, Uid,
    },
    io::Errno,
};
use tokio::{sync::Semaphore, time::timeout};
use tracing::{info, warn};

use super::{
    bindings::waiting::skep::plugin::{
        directories::{Entry, Host as DirectoriesHost},
        mounts::Host as MountsHost,
        types::Error,
    },
    host::Host,
    mounting::{Mounting, MountsGrant},
};
use crate::volume::turns::{Turn, Turns};

mod copy;
mod limit;
mod list;
mod remove;
mod subvolume;

/// How many calls of one driver may wait for a file system at once.
const CONCURRENT: usize = 16;

/// How long a call waits for an earlier one for the same volume.
const PATIENCE: Duration = Duration::from_secs(10);

/// The most names in a path.
const MAX_NAMES: usize = 32;

/// What the daemon itself makes below a root begins with this: names of volumes do not.
const OWN: &str = ".skep-";

/// Where a driver's volumes are, and what may be mounted there.
#[derive(Clone, Debug, Default)]
pub struct RootGrant {
    /// An absolute path.
    pub path: PathBuf,
    /// What may be mounted below it.
    pub mounts: MountsGrant,
    /// Whether directories in it may be held to a size.
    pub quotas: Quotas,
    /// What directories in it are.
    pub directories: Directories,
}

/// Whether a driver may hold directories to a size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quotas {
    /// It may not.
    #[default]
    Denied,
    /// It may, where the file system can.
    Allowed,
}

/// What the directories of a driver's volumes are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Directories {
    /// Directories.
    #[default]
    Plain,
    /// Subvolumes where the root is on btrfs, directories elsewhere.
    Subvolumes,
}

/// A grant in use. Clones share it.
#[derive(Clone)]
pub(super) struct Root {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    mounting: Mounting,
    has_quotas: bool,
    has_subvolumes: bool,
    /// Volumes that a container has mounted.
    in_use: Mutex<BTreeSet<String>>,
    waiting: Arc<Semaphore>,
    turns: Arc<Turns>,
}

/// Tells work in another thread that nobody waits for it any more.
#[derive(Clone, Default)]
struct Abandoned(Arc<AtomicBool>);

struct AbandonOnDrop(Abandoned);

impl Drop for AbandonOnDrop {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

impl Abandoned {
    fn check(&self) -> Result<(), Error> {
        match self.0.load(Ordering::Relaxed) {
            true => Err(Error::Timeout),
            false => Ok(()),
        }
    }
}

impl Root {
    pub(super) fn new(grant: &RootGrant) -> Self {
        Self {
            inner: Arc::new(Inner {
                path: grant.path.clone(),
                mounting: Mounting::new(&grant.mounts),
                has_quotas: grant.quotas == Quotas::Allowed,
                has_subvolumes: grant.directories == Directories::Subvolumes,
                in_use: Mutex::default(),
                waiting: Arc::new(Semaphore::new(CONCURRENT)),
                turns: Arc::default(),
            }),
        }
    }

    /// Notes whether a container has a volume mounted.
    pub(super) fn set_in_use(&self, volume: &str, is_used: bool) {
        let in_use = self.inner.in_use.lock();
        let mut in_use = in_use.unwrap_or_else(PoisonError::into_inner);
        match is_used {
            true => in_use.insert(volume.to_owned()),
            false => in_use.remove(volume),
        };
    }

    /// Where a path of a guest is on this host, if it is a directory below the root.
    pub(super) async fn locate(&self, path: String) -> Result<PathBuf, Error> {
        self.look(move |root, _| {
            let names = names(&path)?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            open(&root.open()?, &names.join("/"), flags, CONFINED)
                .map_err(|error| failed(&path, error))?;
            Ok(root.path.join(path))
        })
        .await
    }

    /// Does something below `path` and nowhere else, when it is its turn.
    async fn work<T: Send + 'static>(
        &self,
        path: String,
        call: impl FnOnce(&Inner, &str, &Abandoned) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let turns = self.turns([&*path]).await?;
        self.look(move |root, abandoned| {
            let answer = call(root, &path, abandoned);
            drop(turns);
            answer
        })
        .await
    }

    /// The same below two paths.
    async fn work_between<T: Send + 'static>(
        &self,
        paths: [String; 2],
        call: impl FnOnce(&Inner, [&str; 2], &Abandoned) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let turns = self.turns(paths.each_ref().map(String::as_str)).await?;
        self.look(move |root, abandoned| {
            let answer = call(root, paths.each_ref().map(String::as_str), abandoned);
            drop(turns);
            answer
        })
        .await
    }

    /// Waits until no call is under way for the volumes of these paths.
    async fn turns<const N: usize>(&self, paths: [&str; N]) -> Result<Vec<Turn>, Error> {
        let mut volumes = paths.map(|path| path.split('/').next().unwrap_or_default());
        // In order, so that two calls never wait for each other.
        volumes.sort_unstable();
        let mut turns = Vec::new();
        for (index, volume) in volumes.iter().enumerate() {
            if volumes[..index].contains(volume) {
                continue;
            }
            let turn = timeout(PATIENCE, self.inner.turns.take(volume)).await;
            turns.push(turn.map_err(|_| {
                let text =
                    format!("an earlier call for `{volume}` still waits for the file system");
                Error::Unavailable(text)
            })?);
        }
        Ok(turns)
    }

    /// Does something that may wait for a file system where waiting is allowed. What nobody waits
    /// for any more still counts until it ends.
    async fn look<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Inner, &Abandoned) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let waiting = Arc::clone(&self.inner.waiting).try_acquire_owned();
        let permit = waiting.map_err(|_| {
            Error::Unavailable(format!("{CONCURRENT} calls wait for the file system"))
        })?;
        let inner = Arc::clone(&self.inner);
        let abandoned = Abandoned::default();
        let guard = AbandonOnDrop(abandoned.clone());
        let task = tokio::task::spawn_blocking(move || {
            let answer = call(&inner, &abandoned);
            drop(permit);
            answer
        });
        let answer = task.await;
        drop(guard);
        answer.unwrap_or_else(|error| Err(Error::Other(error.to_string())))
    }
}

/// Below where it starts, over no link.
const CONFINED: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

/// And into no other file system.
const OWN_FILE_SYSTEM: ResolveFlags = CONFINED.union(ResolveFlags::NO_XDEV);

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

impl Inner {
    /// The root as it is now: a file system may have been mounted since the last call.
    fn open(&self) -> Result<OwnedFd, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, &self.path, flags, Mode::empty()).map_err(|error| {
            Error::Unavailable(format!(
                "the driver's root `{}`: {error}",
                self.path.display()
            ))
        })
    }

    /// A directory, and the directory above it.
    fn above<'a>(&self, path: &'a str) -> Result<(OwnedFd, &'a str), Error> {
        let names = names(path)?;
        let (name, above) = names.split_last().ok_or_else(|| {
            Error::Denied("the driver's root itself cannot be changed".to_owned())
        })?;
        let root = self.open()?;
        if above.is_empty() {
            return Ok((root, name));
        }
        let above = open(&root, &above.join("/"), DIRECTORY, OWN_FILE_SYSTEM);
        Ok((above.map_err(|error| failed(path, error))?, name))
    }

    fn make(
        &self,
        path: &str,
        mode: u32,
        uid: u32,
        gid: u32,
        max_bytes: Option<u64>,
    ) -> Result<bool, Error> {
        let (above, name) = self.above(path)?;
        if is_directory(&above, name).map_err(|error| failed(path, error))? {
            return Ok(false);
        }
        // It gets its name when it is as it shall be.
        let draft = format!("{OWN}{:016x}", rand::random::<u64>());
        let system = |error| failed(path, error);
        let made = (|| {
            let directory = self.draft(&above, &draft, path).map_err(system)?;
            if let Some(max_bytes) = max_bytes {
                self.limit(&directory, max_bytes)?;
            }
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            rustix::fs::fchown(&directory, Some(uid), Some(gid)).map_err(system)?;
            rustix::fs::fchmod(&directory, Mode::from_raw_mode(mode & 0o7777)).map_err(system)?;
            match rename(&above, &draft, &above, name) {
                Err(Errno::EXIST) if is_directory(&above, name).unwrap_or(false) => Ok(false),
                renamed => renamed.map(|()| true).map_err(system),
            }
        })();
        if !matches!(made, Ok(true)) {
            // What cannot be removed now has a name that is no volume's.
            let _ = remove::remove(&above, &draft, &Abandoned::default());
        }
        made
    }

    /// Makes and opens a directory that will be at `path`.
    fn draft(&self, above: &OwnedFd, draft: &str, path: &str) -> rustix::io::Result<OwnedFd> {
        if self.makes_subvolume(above, path) {
            subvolume::create(above, draft)?;
        } else {
            rustix::fs::mkdirat(above, draft, Mode::RWXU)?;
        }
        open(above, draft, DIRECTORY, OWN_FILE_SYSTEM)
    }

    /// Whether what is made at `path` is to be a subvolume: those of a volume are.
    fn makes_subvolume(&self, above: &OwnedFd, path: &str) -> bool {
        self.has_subvolumes && !path.contains('/') && subvolume::are_known(above)
    }

    fn rename(&self, source: &str, target: &str) -> Result<(), Error> {
        let (from, name) = self.above(source)?;
        let (to, new_name) = self.above(target)?;
        match is_directory(&from, name) {
            Ok(true) => {}
            Ok(false) => return Err(failed(source, Errno::NOENT)),
            Err(error) => return Err(failed(source, error)),
        }
        rename(&from, name, &to, new_name).map_err(|error| failed(target, error))
    }

    fn is_mounted(&self, path: &str) -> Result<bool, Error> {
        let (above, name) = self.above(path)?;
        match is_mount_point(&above, name) {
            Err(Errno::NOENT) => Ok(false),
            answer => answer.map_err(|error| failed(path, error)),
        }
    }

    fn root_is_mounted(&self) -> Result<bool, Error> {
        is_mount_point(CWD, &self.path).map_err(|error| {
            Error::Unavailable(format!(
                "the driver's root `{}`: {error}",
                self.path.display()
            ))
        })
    }

    fn mount(
        &self,
        kind: &str,
        source: &str,
        target: &str,
        options: &[String],
        abandoned: &Abandoned,
    ) -> Result<(), Error> {
        let mount = self.mounting.permit(kind, source, options)?;
        let (above, name) = self.above(target)?;
        if is_mount_point(&above, name).map_err(|error| failed(target, error))? {
            return mount.check(&self.path.join(target));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = open(&above, name, flags, OWN_FILE_SYSTEM);
        let directory = directory.map_err(|error| failed(target, error))?;
        abandoned.check()?;
        mount.mount(&held(&directory))?;
        self.keep_unless(target, abandoned)
    }

    /// Takes back what was just mounted on a directory if nobody waits for it any more.
    fn keep_unless(&self, target: &str, abandoned: &Abandoned) -> Result<(), Error> {
        abandoned.check().inspect_err(|_| {
            let path = self.path.join(target);
            let path = path.display();
            match self.unmount(target) {
                Ok(()) => info!(%path, "mounted too late, and taken back"),
                Err(error) => warn!(%path, ?error, "mounted too late, and cannot be taken back"),
            }
        })
    }

    fn unmount(&self, target: &str) -> Result<(), Error> {
        let (above, name) = self.above(target)?;
        match is_mount_point(&above, name) {
            Ok(false) | Err(Errno::NOENT) => return Ok(()),
            Ok(true) => {}
            Err(error) => return Err(failed(target, error)),
        }
        // By its name in the directory above it: held open it would be in use.
        let path = held(&above).join(name);
        nix::mount::umount2(&path, nix::mount::MntFlags::UMOUNT_NOFOLLOW)
            .map_err(|error| Error::Unavailable(format!("unmounting `{target}`: {error}")))
    }
}

/// The path of what is held open.
fn held(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// The names in a path; none for the root itself.
fn names(path: &str) -> Result<Vec<&str>, Error> {
    if path.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<_> = path.split('/').collect();
    let is_plain = |name: &&str| {
        !matches!(*name, "" | "." | "..") && !name.contains('\0') && !name.starts_with(OWN)
    };
    if names.len() > MAX_NAMES || !names.iter().all(is_plain) {
        let text = format!("`{path}` is no path below the driver's root");
        return Err(Error::Denied(text));
    }
    Ok(names)
}

fn open(
    directory: &OwnedFd,
    path: &str,
    flags: OFlags,
    resolve: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    loop {
        // The kernel cannot tell while somebody renames directories.
        match rustix::fs::openat2(directory, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            answer => return answer,
        }
    }
}

/// Renames where nothing is in the way.
fn rename(from: &OwnedFd, name: &str, to: &OwnedFd, new_name: &str) -> rustix::io::Result<()> {
    match rustix::fs::renameat_with(from, name, to, new_name, RenameFlags::NOREPLACE) {
        // Some network file systems do not know the flag.
        Err(Errno::INVAL | Errno::NOSYS) => {
            match rustix::fs::statat(to, new_name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => rustix::fs::renameat(from, name, to, new_name),
                Err(error) => Err(error),
                Ok(_) => Err(Errno::EXIST),
            }
        }
        answer => answer,
    }
}

/// Whether a name is that of a directory; an error if it is something else.
fn is_directory(above: &OwnedFd, name: &str) -> rustix::io::Result<bool> {
    match rustix::fs::statat(above, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => Ok(true),
        Ok(_) => Err(Errno::NOTDIR),
    }
}

/// Whether a file system is mounted on a directory. Asks no server.
fn is_mount_point(
    above: impl rustix::fd::AsFd,
    path: impl rustix::path::Arg,
) -> rustix::io::Result<bool> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    let stat = rustix::fs::statx(above, path, flags, StatxFlags::TYPE)?;
    Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

fn failed(path: &str, error: Errno) -> Error {
    let text = |what: &str| format!("`{path}` {what}");
    match error {
        Errno::NOENT => Error::NotFound(text("is not there")),
        Errno::EXIST | Errno::NOTEMPTY => Error::Denied(text("is there")),
        Errno::LOOP | Errno::NOTDIR => Error::Denied(text("leads over what is no directory")),
        Errno::XDEV => Error::Denied(text("has something mounted on it or in it")),
        error => Error::Unavailable(format!("`{path}`: {error}")),
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Root").field(&self.inner.path).finish()
    }
}

impl DirectoriesHost for Host {
    async fn make(
        &mut self,
        path: String,
        mode: u32,
        uid: u32,
        gid: u32,
        max_bytes: Option<u64>,
    ) -> Result<bool, Error> {
        self.granted_root()?
            .work(path, move |root, path, _| {
                root.make(path, mode, uid, gid, max_bytes)
            })
            .await
    }

    async fn remove(&mut self, path: String) -> Result<(), Error> {
        self.granted_root()?.work(path, Inner::remove).await
    }

    async fn find(&mut self, path: String) -> Result<Option<Entry>, Error> {
        self.granted_root()?
            .look(move |root, _| root.find(&path))
            .await
    }

    async fn list(&mut self, path: String) -> Result<Vec<Entry>, Error> {
        self.granted_root()?
            .look(move |root, _| root.list(&path))
            .await
    }

    async fn copy(&mut self, source: String, target: String) -> Result<(), Error> {
        self.granted_root()?
            .work_between([source, target], |root, [source, target], abandoned| {
                root.copy(source, target, abandoned)
            })
            .await
    }

    async fn rename(&mut self, source: String, target: String) -> Result<(), Error> {
        self.granted_root()?
            .work_between([source, target], |root, [source, target], _| {
                root.rename(source, target)
            })
            .await
    }

    async fn root_is_mounted(&mut self) -> Result<bool, Error> {
        self.granted_root()?
            .look(|root, _| root.root_is_mounted())
            .await
    }
}

impl MountsHost for Host {
    async fn mount(
        &mut self,
        kind: String,
        source: String,
        target: String,
        options: Vec<String>,
    ) -> Result<(), Error> {
        self.granted_root()?
            .work(target, move |root, target, abandoned| {
                root.mount(&kind, &source, target, &options, abandoned)
            })
            .await
    }

    async fn unmount(&mut self, target: String) -> Result<(), Error> {
        self.granted_root()?
            .work(target, |root, target, _| root.unmount(target))
            .await
    }

    async fn is_mounted(&mut self, target: String) -> Result<bool, Error> {
        self.granted_root()?
            .work(target, |root, target, _| root.is_mounted(target))
            .await
    }

    fn in_use(&mut self, volume: String) -> bool {
        let Ok(root) = self.granted_root() else {
            return false;
        };
        let in_use = root.inner.in_use.lock();
        in_use
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&volume)
    }
}

#[cfg(test)]
mod tests;
