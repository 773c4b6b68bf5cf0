//! Subvolumes of btrfs: made, snapshotted and deleted by ioctls of their parent directory.

use rustix::io::Errno;
use rustix::ioctl::{Opcode, Setter, ioctl, opcode};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// `BTRFS_IOCTL_MAGIC` of `<linux/btrfs.h>`.
const GROUP: u8 = 0x94;
const SNAP_CREATE_V2: Opcode = opcode::write::<Arguments>(GROUP, 23);
const SUBVOL_CREATE_V2: Opcode = opcode::write::<Arguments>(GROUP, 24);
const SUBVOL_SETFLAGS: Opcode = opcode::write::<u64>(GROUP, 26);
const SNAP_DESTROY_V2: Opcode = opcode::write::<Arguments>(GROUP, 63);

/// `BTRFS_SUPER_MAGIC` of `<linux/magic.h>`.
const MAGIC: u64 = 0x9123_683e;
/// `BTRFS_FIRST_FREE_OBJECTID`: the inode number of every subvolume's root.
const ROOT_INODE: u64 = 256;
/// `BTRFS_SUBVOL_NAME_MAX` and a NUL.
const NAME_SIZE: usize = 4040;

/// `struct btrfs_ioctl_vol_args_v2`.
#[repr(C)]
struct Arguments {
    fd: i64,
    transid: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; NAME_SIZE],
}

const _: () = assert!(size_of::<Arguments>() == 4096, "the size is a part of the ioctls' numbers");

impl Arguments {
    /// One component of a path; the kernel refuses others.
    fn new(name: &[u8]) -> Result<Arguments, Errno> {
        if name.len() > 255 {
            return Err(Errno::NAMETOOLONG);
        }
        if name.is_empty() || name.contains(&0) {
            return Err(Errno::INVAL);
        }
        let mut arguments = Arguments { fd: 0, transid: 0, flags: 0, unused: [0; 4], name: [0; NAME_SIZE] };
        arguments.name[..name.len()].copy_from_slice(name);
        Ok(arguments)
    }
}

/// True for a file system that has subvolumes.
pub fn is_btrfs(file: impl AsFd) -> Result<bool, Errno> {
    // The kernel's field is signed on some machines.
    Ok(rustix::fs::fstatfs(file)?.f_type as u64 & 0xffff_ffff == MAGIC)
}

/// True for the root of a subvolume.
pub fn is_subvolume(directory: impl AsFd) -> Result<bool, Errno> {
    Ok(rustix::fs::fstat(&directory)?.st_ino == ROOT_INODE && is_btrfs(directory)?)
}

/// Makes an empty subvolume `name` in `parent`.
pub fn create(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    let arguments = Arguments::new(name)?;
    // SAFETY: the ioctl takes this structure and reads nothing else.
    unsafe { ioctl(parent, Setter::<SUBVOL_CREATE_V2, _>::new(arguments)) }
}

/// Makes `name` in `parent` a writable snapshot of the subvolume `source`; subvolumes in it become empty directories.
pub fn snapshot(source: BorrowedFd<'_>, parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    let arguments = Arguments { fd: source.as_raw_fd().into(), ..Arguments::new(name)? };
    // SAFETY: the ioctl takes this structure and reads nothing else; the descriptor is open across the call.
    unsafe { ioctl(parent, Setter::<SNAP_CREATE_V2, _>::new(arguments)) }
}

/// Deletes the subvolume `name` of `parent` with all its files at once; ENOTEMPTY when it has subvolumes in it.
pub fn delete(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    let arguments = Arguments::new(name)?;
    // SAFETY: the ioctl takes this structure and reads nothing else.
    unsafe { ioctl(parent, Setter::<SNAP_DESTROY_V2, _>::new(arguments)) }
}

/// Makes a subvolume writable.
pub fn set_writable(subvolume: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: the ioctl takes 64 bits of flags and reads nothing else.
    unsafe { ioctl(subvolume, Setter::<SUBVOL_SETFLAGS, u64>::new(0)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_kernels() {
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
        assert_eq!(
            [SNAP_CREATE_V2, SUBVOL_CREATE_V2, SUBVOL_SETFLAGS, SNAP_DESTROY_V2],
            [0x5000_9417, 0x5000_9418, 0x4008_941a, 0x5000_943f]
        );
    }

    #[test]
    fn names_are_one_component() {
        assert_eq!(Arguments::new(&[b'a'; 256]).err(), Some(Errno::NAMETOOLONG));
        assert_eq!(Arguments::new(b"").err(), Some(Errno::INVAL));
        assert_eq!(Arguments::new(b"a\0b").err(), Some(Errno::INVAL));
        let arguments = Arguments::new(b"ab").unwrap();
        assert_eq!(&arguments.name[..3], b"ab\0");
    }

    #[test]
    fn other_file_systems_have_no_subvolumes() {
        let proc = std::fs::File::open("/proc").unwrap();
        assert_eq!((is_btrfs(&proc), is_subvolume(&proc)), (Ok(false), Ok(false)));
        assert!(create(proc.as_fd(), b"x").is_err());
    }
}
