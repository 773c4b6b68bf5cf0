//! The kernel, safely: the system calls that rustix lacks, each behind a function that no caller can misuse.
//!
//! This is the only crate with `unsafe`. What rustix offers is used from rustix directly; nothing is wrapped twice.
//!
//! - [`process`] has clone3 and fork of a single-threaded process, exec, signals, wait
//! - [`mount`] has mount_setattr
//! - [`btrfs`] has subvolumes and their snapshots
//! - [`seccomp`], [`bpf`]: load a filter, a program of a cgroup or of a link
//! - [`memory`] gives memory back, which the per-container monitor needs to stay small
//! - [`net`] sets up the loopback interface of a fresh network namespace, and more of sockets
//! - [`xtables`] reads and replaces tables of iptables-legacy

#![allow(unsafe_code, reason = "system calls; every block states the invariant that makes it sound")]

pub mod bpf;
pub mod btrfs;
pub mod memory;
pub mod mount;
pub mod net;
pub mod process;
pub mod seccomp;
pub mod xtables;

use rustix::io::Errno;

/// The result of a raw libc call: -1 means errno.
pub(crate) fn check(result: libc::c_long) -> Result<libc::c_long, Errno> {
    if result == -1 { Err(last_errno()) } else { Ok(result) }
}

/// The errno of the libc call just made.
pub(crate) fn last_errno() -> Errno {
    let code = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    Errno::from_raw_os_error(code)
}
