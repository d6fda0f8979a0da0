//! Subvolumes of btrfs: directories that are copied and removed as a whole, at once.

use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::{
    io::Errno,
    ioctl::{self, Setter, opcode},
};

/// What statfs(2) says of btrfs.
const BTRFS: u64 = 0x9123_683E;

/// The number of the directory that a subvolume begins with.
const TOP: u64 = 256;

/// The kernel's `btrfs_ioctl_vol_args`.
#[repr(C)]
struct Named {
    fd: i64,
    name: [u8; 4088],
}

/// The kernel's `btrfs_ioctl_vol_args_v2`.
#[repr(C)]
struct Snapshot {
    fd: i64,
    transaction: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}

/// Whether subvolumes can be made in a directory.
pub(super) fn are_known(directory: &OwnedFd) -> bool {
    rustix::fs::fstatfs(directory).is_ok_and(|stat| u64::try_from(stat.f_type) == Ok(BTRFS))
}

/// Whether a directory is one.
pub(super) fn is_one(directory: &OwnedFd) -> bool {
    are_known(directory) && rustix::fs::fstat(directory).is_ok_and(|stat| stat.st_ino == TOP)
}

/// Makes an empty one.
pub(super) fn create(above: &OwnedFd, name: &str) -> Result<(), Errno> {
    let named = Named {
        fd: 0,
        name: bytes(name)?,
    };
    #[expect(
        unsafe_code,
        reason = "SUBVOL_CREATE reads a `btrfs_ioctl_vol_args`, which this is"
    )]
    unsafe {
        let set = Setter::<{ opcode::write::<Named>(0x94, 14) }, _>::new(named);
        ioctl::ioctl(above, set)
    }
}

/// Makes one with the content of another, but for what is in subvolumes below that one.
pub(super) fn snapshot(source: &OwnedFd, above: &OwnedFd, name: &str) -> Result<(), Errno> {
    let snapshot = Snapshot {
        fd: source.as_raw_fd().into(),
        transaction: 0,
        flags: 0,
        unused: [0; 4],
        name: bytes(name)?,
    };
    #[expect(
        unsafe_code,
        reason = "SNAP_CREATE_V2 reads a `btrfs_ioctl_vol_args_v2`, which this is"
    )]
    unsafe {
        let set = Setter::<{ opcode::write::<Snapshot>(0x94, 23) }, _>::new(snapshot);
        ioctl::ioctl(above, set)
    }
}

/// Removes one with all that is in it. Fails if there are subvolumes below it.
pub(super) fn remove(above: &OwnedFd, name: &str) -> Result<(), Errno> {
    let named = Named {
        fd: 0,
        name: bytes(name)?,
    };
    #[expect(
        unsafe_code,
        reason = "SNAP_DESTROY reads a `btrfs_ioctl_vol_args`, which this is"
    )]
    unsafe {
        let set = Setter::<{ opcode::write::<Named>(0x94, 15) }, _>::new(named);
        ioctl::ioctl(above, set)
    }
}

/// A name as the kernel reads it, with a zero byte at its end.
fn bytes<const N: usize>(name: &str) -> Result<[u8; N], Errno> {
    let mut bytes = [0; N];
    let room = bytes.get_mut(..name.len()).filter(|_| name.len() < N);
    room.ok_or(Errno::NAMETOOLONG)?
        .copy_from_slice(name.as_bytes());
    Ok(bytes)
}
