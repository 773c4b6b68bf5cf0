//! mount_setattr(2), which rustix lacks.

use crate::check;
use rustix::io::Errno;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `MOUNT_ATTR_*` of `<linux/mount.h>`.
pub mod attr {
    #![allow(missing_docs, reason = "the kernel's names")]
    pub const RDONLY: u64 = 0x1;
    pub const NOSUID: u64 = 0x2;
    pub const NODEV: u64 = 0x4;
    pub const NOEXEC: u64 = 0x8;
    /// The field of the three values below; must be cleared before one is set.
    pub const ATIME: u64 = 0x70;
    pub const RELATIME: u64 = 0x00;
    pub const NOATIME: u64 = 0x10;
    pub const STRICTATIME: u64 = 0x20;
    pub const NODIRATIME: u64 = 0x80;
    pub const IDMAP: u64 = 0x0010_0000;
    pub const NOSYMFOLLOW: u64 = 0x0020_0000;
}

/// A change of mount attributes.
#[derive(Debug, Clone, Copy, Default)]
pub struct SetAttr<'a> {
    /// Attributes to set.
    pub set: u64,
    /// Attributes to clear.
    pub clear: u64,
    /// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`, `MS_UNBINDABLE` or 0 for no change.
    pub propagation: u64,
    /// The user namespace of an idmapped mount ([`attr::IDMAP`] must be in `set`).
    pub user_namespace: Option<BorrowedFd<'a>>,
    /// The whole tree below too.
    pub recursive: bool,
}

/// Changes the attributes of the mount that `fd` is the root of.
pub fn set_attributes(fd: BorrowedFd<'_>, change: SetAttr<'_>) -> Result<(), Errno> {
    #[repr(C)]
    struct MountAttr {
        set: u64,
        clear: u64,
        propagation: u64,
        userns_fd: u64,
    }
    const AT_RECURSIVE: libc::c_int = 0x8000;
    let attributes = MountAttr {
        set: change.set,
        clear: change.clear,
        propagation: change.propagation,
        userns_fd: change.user_namespace.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    let flags = libc::AT_EMPTY_PATH | if change.recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: the structure is the kernel's first version and lives across the call; the path is the empty string.
    check(unsafe {
        libc::syscall(libc::SYS_mount_setattr, fd.as_raw_fd(), c"".as_ptr(), flags, &raw const attributes, size_of::<MountAttr>())
    })
    .map(drop)
}
