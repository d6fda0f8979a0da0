//! Copying a directory and all in it: contents, owners, permissions, times, extended attributes,
//! links. Sockets and devices are left out. A subvolume is copied by the file system, as it is at one
//! moment.

use std::{
    collections::HashMap,
    ffi::{CStr, CString},
    fs::File,
    os::fd::OwnedFd,
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};

use super::{
    Abandoned, DIRECTORY, Error, Inner, OWN, OWN_FILE_SYSTEM, failed, is_directory, open,
    remove::{self, Reason},
    rename, subvolume,
};

/// Directories nested deeper are refused.
const MAX_DEPTH: usize = 128;

/// How much is copied between two looks at whether anybody waits.
const CHUNK: u64 = 16 << 20;

impl Inner {
    pub(super) fn copy(
        &self,
        source: &str,
        target: &str,
        abandoned: &Abandoned,
    ) -> Result<(), Error> {
        let (from, name) = self.above(source)?;
        let (to, new_name) = self.above(target)?;
        let from = open(&from, name, DIRECTORY, OWN_FILE_SYSTEM);
        let from = from.map_err(|error| failed(source, error))?;
        if is_directory(&to, new_name).map_err(|error| failed(target, error))? {
            return Err(failed(target, Errno::EXIST));
        }
        let draft = format!("{OWN}{:016x}", rand::random::<u64>());
        let copied = (|| {
            if self.makes_subvolume(&to, target) && subvolume::is_one(&from) {
                subvolume::snapshot(&from, &to, &draft)?;
                rename(&to, &draft, &to, new_name)?;
                return Ok(());
            }
            let directory = self.draft(&to, &draft, target)?;
            let mut copy = Copy {
                root: directory.try_clone().map_err(|_| Errno::MFILE)?,
                linked: HashMap::new(),
                path: Vec::new(),
                abandoned,
            };
            copy.directory(&from, &directory)?;
            rename(&to, &draft, &to, new_name)?;
            Ok(())
        })();
        if copied.is_err() {
            // What cannot be removed now has a name that is no volume's.
            let _ = remove::remove(&to, &draft, &Abandoned::default());
        }
        copied.map_err(|reason| match reason {
            Reason::Abandoned(error) => error,
            Reason::System(Errno::NAMETOOLONG) => {
                Error::Unsupported(format!("directories in `{source}` are nested too deeply"))
            }
            Reason::System(error) => failed(target, error),
        })
    }
}

struct Copy<'a> {
    /// The copy of the whole.
    root: OwnedFd,
    /// Where in the copy a file is that has several names, by device and number.
    linked: HashMap<(u64, u64), CString>,
    /// The names of the directory under way, below the root.
    path: Vec<CString>,
    abandoned: &'a Abandoned,
}

impl Copy<'_> {
    fn directory(&mut self, from: &OwnedFd, to: &OwnedFd) -> Result<(), Reason> {
        if self.path.len() > MAX_DEPTH {
            return Err(Errno::NAMETOOLONG.into());
        }
        for entry in Dir::read_from(from)? {
            self.abandoned.check().map_err(Reason::Abandoned)?;
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if self.link(&stat, to, name)? {
                continue;
            }
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    let below =
                        rustix::fs::openat2(from, name, DIRECTORY, Mode::empty(), OWN_FILE_SYSTEM)?;
                    rustix::fs::mkdirat(to, name, Mode::RWXU)?;
                    let copy = rustix::fs::openat(to, name, DIRECTORY, Mode::empty())?;
                    self.path.push(name.to_owned());
                    self.directory(&below, &copy)?;
                    self.path.pop();
                }
                FileType::RegularFile => self.file(from, to, name, &stat)?,
                FileType::Symlink => {
                    let target = rustix::fs::readlinkat(from, name, Vec::new())?;
                    rustix::fs::symlinkat(&target, to, name)?;
                    let (uid, gid) = owners(&stat);
                    rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
                }
                FileType::Fifo => {
                    let mode = Mode::from_raw_mode(stat.st_mode);
                    rustix::fs::mknodat(to, name, FileType::Fifo, mode, 0)?;
                    let (uid, gid) = owners(&stat);
                    rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
                }
                _ => {}
            }
        }
        let stat = rustix::fs::fstat(from)?;
        finish(from, to, &stat)
    }

    /// Gives a file another name if it has been copied under one. Returns whether it was.
    fn link(&mut self, stat: &Stat, to: &OwnedFd, name: &CStr) -> Result<bool, Reason> {
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if !is_file || stat.st_nlink < 2 {
            return Ok(false);
        }
        let identity = (stat.st_dev, stat.st_ino);
        if let Some(first) = self.linked.get(&identity) {
            rustix::fs::linkat(&self.root, first.as_c_str(), to, name, AtFlags::empty())?;
            return Ok(true);
        }
        let mut path: Vec<u8> = Vec::new();
        for above in &self.path {
            path.extend_from_slice(above.as_bytes());
            path.push(b'/');
        }
        path.extend_from_slice(name.to_bytes());
        // Names have no zero byte.
        if let Ok(path) = CString::new(path) {
            self.linked.insert(identity, path);
        }
        Ok(false)
    }

    fn file(&self, from: &OwnedFd, to: &OwnedFd, name: &CStr, stat: &Stat) -> Result<(), Reason> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let source = rustix::fs::openat(from, name, flags, Mode::empty())?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let target = rustix::fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
        if rustix::fs::ioctl_ficlone(&target, &source).is_err() {
            self.content(&source, &target)?;
        }
        finish(&source, &target, stat)
    }

    /// Copies what is in a file, by the kernel if it can.
    fn content(&self, source: &OwnedFd, target: &OwnedFd) -> Result<(), Reason> {
        let fail = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        let mut from = File::from(source.try_clone().map_err(fail)?);
        let mut to = File::from(target.try_clone().map_err(fail)?);
        loop {
            self.abandoned.check().map_err(Reason::Abandoned)?;
            let mut part = std::io::Read::take(&mut from, CHUNK);
            if std::io::copy(&mut part, &mut to).map_err(fail)? == 0 {
                return Ok(());
            }
        }
    }
}

fn owners(stat: &Stat) -> (Uid, Gid) {
    (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid))
}

/// Gives a copy the attributes of what it was copied from.
fn finish(from: &OwnedFd, to: &OwnedFd, stat: &Stat) -> Result<(), Reason> {
    let (uid, gid) = owners(stat);
    rustix::fs::fchown(to, Some(uid), Some(gid))?;
    // After the owners, which take away set-user-ID.
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
    attributes(from, to)?;
    let time = |seconds, nanoseconds| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec.cast_signed()),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec.cast_signed()),
    };
    rustix::fs::futimens(to, &times)?;
    Ok(())
}

/// Copies extended attributes; a file system that has none, or not these, is no failure.
fn attributes(from: &OwnedFd, to: &OwnedFd) -> Result<(), Reason> {
    let mut names = vec![0_u8; 64 << 10];
    let length = match rustix::fs::flistxattr(from, &mut names) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let mut value = vec![0_u8; 64 << 10];
    for name in names[..length].split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else {
            continue;
        };
        let length = match rustix::fs::fgetxattr(from, name, &mut value) {
            Ok(length) => length,
            Err(Errno::NODATA | Errno::NOTSUP) => continue,
            Err(error) => return Err(error.into()),
        };
        match rustix::fs::fsetxattr(to, name, &value[..length], XattrFlags::empty()) {
            Ok(()) | Err(Errno::NOTSUP | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
