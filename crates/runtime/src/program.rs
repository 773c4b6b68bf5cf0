//! This program as something no container can write to (CVE-2019-5736): until a process of ours has executed the
//! container's program, `/proc/<pid>/exe` leads to us.

use crate::error::{Error, Result};
use naru_sys::mount::{SetAttr, attr, set_attributes};
use naru_sys::process::{StringArray, execveat};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, StatVfsMountFlags};
use rustix::mount::OpenTreeFlags;
use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// This program on a read-only mount of its own that nobody else can reach, so that its pages are shared with every other
/// process of it; a sealed copy in memory where that cannot be made.
pub(crate) fn protected(name: &str) -> Result<OwnedFd> {
    let own = rustix::fs::open("/proc/self/exe", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(Error::path("open", "/proc/self/exe"))?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let mounted = rustix::mount::open_tree(&own, "", flags)
        .and_then(|tree| set_attributes(tree.as_fd(), SetAttr { set: attr::RDONLY, ..SetAttr::default() }).map(|()| tree));
    mounted.or_else(|_| sealed_copy(name))
}

/// A copy in memory, sealed.
fn sealed_copy(name: &str) -> Result<OwnedFd> {
    let mut program = std::fs::File::open("/proc/self/exe").map_err(Error::io("open /proc/self/exe"))?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Before Linux 6.3 there is no MFD_EXEC, and every memfd is executable.
    let copy = rustix::fs::memfd_create(name, flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create(name, flags))
        .map_err(Error::system("make a memfd"))?;
    let mut copy = std::fs::File::from(copy);
    std::io::copy(&mut program, &mut copy).map_err(Error::io("copy the program"))?;
    rustix::fs::fcntl_add_seals(&copy, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)
        .map_err(Error::system("seal the program's copy"))?;
    // Executing a file that is open for writing is ETXTBSY, so the writable descriptor is traded for another.
    let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(Error::system("reopen the program's copy"))
}

/// Makes sure that this process runs from something read-only, by executing itself again from a read-only detached mount
/// of its file (or a sealed copy where that cannot be made). Comes back when it already does.
pub(crate) fn ensure_protected(args: &[OsString]) -> Result<()> {
    let own = rustix::fs::open("/proc/self/exe", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(Error::path("open", "/proc/self/exe"))?;
    let sealed = rustix::fs::fcntl_get_seals(&own).is_ok_and(|seals| seals.contains(SealFlags::WRITE));
    let readonly = rustix::fs::fstatvfs(&own).is_ok_and(|status| status.f_flag.contains(StatVfsMountFlags::RDONLY));
    if sealed || readonly {
        return Ok(());
    }
    let program = protected("naru")?;
    let strings = |list: Vec<Vec<u8>>| list.into_iter().filter_map(|text| CString::new(text).ok()).collect::<Vec<_>>();
    let arguments = StringArray::new(strings(args.iter().map(|arg| arg.as_bytes().to_vec()).collect()));
    let environment = std::env::vars_os().map(|(name, value)| [name.into_vec(), value.into_vec()].join(&b'='));
    let environment = StringArray::new(strings(environment.collect()));
    Err(Error::system("execute the protected program")(execveat(program.as_fd(), &arguments, &environment)))
}
