//! Directories that may take no more than so many bytes: project quotas, as ext4 and xfs have them.
//!
//! A directory with a limit is a project of its own, and what is made in it belongs to the project.
//! Projects have numbers; which are taken is what the file system itself says.

use std::{
    mem,
    os::fd::{AsRawFd as _, OwnedFd},
    thread::sleep,
    time::Duration,
};

use nix::libc;
use rustix::{
    io::Errno,
    ioctl::{self, Getter, Setter, opcode},
};

use super::{Error, Inner};

/// Quotas of projects, beside those of users and groups.
const PRJQUOTA: libc::c_int = 2;

/// Asks how quotas are kept.
const Q_XGETQSTAT: libc::c_int = 0x5805;

/// In the answer: quotas of projects are enforced.
const PROJECTS_ENFORCED: u16 = 1 << 5;

/// What is made in a directory belongs to the directory's project.
const INHERITED: u32 = 0x200;

/// Numbers of projects that people choose are below.
const FIRST_PROJECT: u32 = 1 << 24;

/// How many numbers are tried, of which nearly all are free.
const TRIES: usize = 16;

/// How long to wait between two looks at whether a project is empty, as often as that.
const GIVEN_BACK: Duration = Duration::from_millis(10);

/// The kernel's `fsxattr`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

/// The kernel's `fs_quota_stat`, as far as it is read.
#[repr(C)]
#[derive(Clone, Copy)]
struct State {
    version: i8,
    flags: u16,
    rest: [u64; 16],
}

impl Inner {
    /// Holds a new directory, and all that will be in it, to a size.
    pub(super) fn limit(&self, directory: &OwnedFd, max_bytes: u64) -> Result<(), Error> {
        if !self.has_quotas {
            let text = "holding a directory to a size is not allowed by the configuration";
            return Err(Error::Denied(text.to_owned()));
        }
        if !is_enforced(directory) {
            return Err(Error::Unsupported(format!(
                "a size cannot be enforced here: the file system of `{}` has no project quotas in \
                 force, such as ext4 and xfs mounted with `prjquota`",
                self.path.display()
            )));
        }
        let failed = |error: Errno| Error::Unavailable(format!("setting a quota: {error}"));
        let project = free_project(directory).map_err(failed)?;
        set_limit(directory, project, max_bytes)
            .and_then(|()| join(directory, project))
            .inspect_err(|_| forget(directory, project))
            .map_err(failed)
    }
}

/// The project that a directory was made one by [`Inner::limit`], if it was.
pub(super) fn project(directory: &OwnedFd) -> Option<u32> {
    let attributes = attributes(directory).ok()?;
    let is_ours = attributes.flags & INHERITED != 0 && attributes.project >= FIRST_PROJECT;
    is_ours.then_some(attributes.project)
}

/// Forgets the limit of a project whose directory is gone. One in which something is left keeps it:
/// who owns a directory may have given it another one's number.
pub(super) fn forget(file_system: &OwnedFd, project: u32) {
    for _ in 0..TRIES {
        match quota(file_system, project) {
            // Nobody is held up by the limit of an empty project, if it cannot be taken away.
            Ok(quota) if quota.dqb_curinodes == 0 => {
                let _ = set_limit(file_system, project, 0);
                return;
            }
            Ok(_) => {}
            Err(_) => return,
        }
        // xfs gives back what was removed a moment later; this has it begin.
        let _ = rustix::fs::fstatfs(file_system);
        sleep(GIVEN_BACK);
    }
}

/// Whether a project has a limit.
#[cfg(test)]
pub(super) fn has_limit(file_system: &OwnedFd, project: u32) -> bool {
    quota(file_system, project).is_ok_and(|quota| quota.dqb_bhardlimit != 0)
}

/// A number that no project has.
fn free_project(file_system: &OwnedFd) -> Result<u32, Errno> {
    for _ in 0..TRIES {
        let number = rand::random_range(FIRST_PROJECT..=i32::MAX.cast_unsigned());
        match quota(file_system, number) {
            // xfs knows nothing of it.
            Err(Errno::NOENT) => return Ok(number),
            Err(error) => return Err(error),
            Ok(quota) if quota.dqb_curinodes == 0 => return Ok(number),
            Ok(_) => {}
        }
    }
    Err(Errno::USERS)
}

/// Makes a directory, and what will be made in it, part of a project.
pub(super) fn join(directory: &OwnedFd, project: u32) -> Result<(), Errno> {
    let mut attributes = attributes(directory)?;
    attributes.flags |= INHERITED;
    attributes.project = project;
    #[expect(
        unsafe_code,
        reason = "FS_IOC_FSSETXATTR reads a `struct fsxattr`, which this is"
    )]
    unsafe {
        let set = Setter::<{ opcode::write::<Attributes>(b'X', 32) }, _>::new(attributes);
        ioctl::ioctl(directory, set)
    }
}

fn attributes(directory: &OwnedFd) -> Result<Attributes, Errno> {
    #[expect(
        unsafe_code,
        reason = "FS_IOC_FSGETXATTR writes a `struct fsxattr`, which this is"
    )]
    unsafe {
        let get = Getter::<{ opcode::read::<Attributes>(b'X', 31) }, Attributes>::new();
        ioctl::ioctl(directory, get)
    }
}

/// Whether quotas of projects are enforced where a directory is.
fn is_enforced(directory: &OwnedFd) -> bool {
    let mut state = State {
        version: 1,
        flags: 0,
        rest: [0; 16],
    };
    #[expect(
        unsafe_code,
        reason = "the answer, a `struct fs_quota_stat`, is not longer than `State`"
    )]
    let asked = unsafe { quotactl(directory, Q_XGETQSTAT, 0, &raw mut state) };
    asked.is_ok() && state.flags & PROJECTS_ENFORCED != 0
}

/// What a project takes, and may.
fn quota(file_system: &OwnedFd, project: u32) -> Result<libc::dqblk, Errno> {
    #[expect(
        unsafe_code,
        reason = "`dqblk` is made of integers, and what the kernel answers with"
    )]
    unsafe {
        let mut quota: libc::dqblk = mem::zeroed();
        quotactl(file_system, libc::Q_GETQUOTA, project, &raw mut quota)?;
        Ok(quota)
    }
}

/// Says how much a project may take; 0 for any amount.
fn set_limit(file_system: &OwnedFd, project: u32, max_bytes: u64) -> Result<(), Errno> {
    #[expect(
        unsafe_code,
        reason = "`dqblk` is made of integers, and what the kernel asks for"
    )]
    unsafe {
        let mut quota: libc::dqblk = mem::zeroed();
        // In blocks of 1 KiB.
        quota.dqb_bhardlimit = max_bytes.div_ceil(1024);
        quota.dqb_bsoftlimit = quota.dqb_bhardlimit;
        quota.dqb_valid = libc::QIF_BLIMITS;
        quotactl(file_system, libc::Q_SETQUOTA, project, &raw mut quota)
    }
}

/// The system call `quotactl_fd`, for quotas of projects.
#[expect(
    unsafe_code,
    reason = "no crate has the call; what `data` must be depends on the command"
)]
unsafe fn quotactl<T>(
    file_system: &OwnedFd,
    command: libc::c_int,
    project: u32,
    data: *mut T,
) -> Result<(), Errno> {
    let command = (command << 8) | PRJQUOTA;
    let fd = file_system.as_raw_fd();
    let answer = unsafe { libc::syscall(libc::SYS_quotactl_fd, fd, command, project, data) };
    match answer {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}
