//! Paths inside a tree that is not trusted: every resolution is one openat2 with RESOLVE_IN_ROOT, so that symbolic links
//! (absolute, relative, changing while we look) end inside the tree; and removal of whole trees without recursion.

use naru_sys::btrfs;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::{Errno, Result};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Longest path the kernel takes, without its NUL.
pub(crate) const PATH_MAX: usize = 4095;

/// Directories nested deeper than this are not walked: each level holds a file descriptor.
pub(crate) const MAX_DEPTH: usize = 400;

pub(crate) const DIR_FLAGS: OFlags = OFlags::DIRECTORY.union(OFlags::RDONLY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// Opens `path` in `root`, following links inside it; with `NOFOLLOW` in the flags not the last one.
pub(crate) fn open_in(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
    open_with(root, path, flags, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
}

/// As [`open_in`], but a symbolic link anywhere in the path is an error (ELOOP).
pub(crate) fn open_no_links(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
    open_with(root, path, flags, ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS)
}

fn open_with(root: BorrowedFd<'_>, path: &[u8], flags: OFlags, resolve: ResolveFlags) -> Result<OwnedFd> {
    let path = if path.is_empty() { &b"."[..] } else { path };
    // EAGAIN: something was renamed while `..` was resolved, the kernel cannot tell whether we are still inside.
    for _ in 0..64 {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

/// Opens a directory of our own by path.
pub(crate) fn open_dir(path: &Path) -> Result<OwnedFd> {
    rustix::fs::openat(CWD, path, DIR_FLAGS, Mode::empty())
}

/// The stat of `name` in `dir`, never following it; `None` when it is absent.
pub(crate) fn stat_opt(dir: impl AsFd, name: &[u8]) -> Result<Option<Stat>> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

pub(crate) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Overlayfs marks a deleted name with a character device 0:0.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    file_type(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// The names in a directory, sorted by bytes; the descriptor's position is not used.
pub(crate) fn names(dir: impl AsFd) -> Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    let mut entries = Dir::read_from(dir)?;
    while let Some(entry) = entries.read() {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Removes `name` in `dir` with everything below it. Absent is fine.
///
/// A container can nest directories deeper than there are descriptors or stack: what lies deeper than 64 levels is
/// first moved up to `dir`.
pub(crate) fn remove_tree(dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    remove_tree_until(dir, name, &AtomicBool::new(false))
}

/// As [`remove_tree`]; ends with EINTR soon after `stop` is set.
pub(crate) fn remove_tree_until(dir: BorrowedFd<'_>, name: &[u8], stop: &AtomicBool) -> Result<()> {
    let mut pending = vec![name.to_vec()];
    let mut moved = 0u64;
    while let Some(name) = pending.pop() {
        remove_levels(dir, &name, 0, stop, &mut |parent, child| {
            moved += 1;
            let up = format!(".removing-{}-{moved}", std::process::id()).into_bytes();
            rustix::fs::renameat(parent, child, dir, up.as_slice())?;
            pending.push(up);
            Ok(())
        })?;
    }
    Ok(())
}

type MoveUp<'a> = dyn FnMut(BorrowedFd<'_>, &[u8]) -> Result<()> + 'a;

fn remove_levels(dir: BorrowedFd<'_>, name: &[u8], depth: usize, stop: &AtomicBool, move_up: &mut MoveUp<'_>) -> Result<()> {
    if stop.load(Ordering::Relaxed) {
        return Err(Errno::INTR);
    }
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(errno) => return Err(errno),
    }
    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    if depth >= 64 {
        return move_up(dir, name);
    }
    let child = rustix::fs::openat(dir, name, DIR_FLAGS, Mode::empty())?;
    if btrfs::is_subvolume(&child)? {
        match btrfs::delete(dir, name) {
            // A container made subvolumes in it, and may have made it read-only: its files go one by one.
            Err(Errno::NOTEMPTY) => btrfs::set_writable(child.as_fd())?,
            result => return result,
        }
    }
    for entry in names(&child)? {
        remove_levels(child.as_fd(), &entry, depth + 1, stop, move_up)?;
    }
    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// The path `name` of `dir` through procfs, for calls that take no descriptor (xattrs of links and devices).
pub(crate) fn proc_path(dir: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    use std::os::fd::AsRawFd;
    [format!("/proc/self/fd/{}/", dir.as_raw_fd()).as_bytes(), name].concat()
}

/// chmod that does not follow a link: the name may be changed by a container while we work.
pub(crate) fn chmod_no_follow(dir: BorrowedFd<'_>, name: &[u8], mode: Mode) -> Result<()> {
    use std::os::fd::AsRawFd;
    let file = rustix::fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if file_type(&rustix::fs::fstat(&file)?) == FileType::Symlink {
        return Ok(());
    }
    // The link in procfs leads to the opened file itself, whatever its name leads to now.
    rustix::fs::chmodat(CWD, format!("/proc/self/fd/{}", file.as_raw_fd()), mode, AtFlags::empty())
}

/// Extended attributes that belong to the content: capabilities, ACLs and the user's own. Overlayfs' own attributes would
/// redirect or hide files, others mean something to this host only.
pub(crate) fn keeps_xattr(name: &[u8]) -> bool {
    match name {
        b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default" => true,
        name => name.starts_with(b"user.") && !name.starts_with(b"user.overlay."),
    }
}

/// The kept attributes of `name` in `dir`, sorted. A file system without attributes has none.
pub(crate) fn xattrs(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let path = proc_path(dir, name);
    let mut list = vec![0u8; 1024];
    let length = loop {
        match rustix::fs::llistxattr(path.as_slice(), list.as_mut_slice()) {
            Ok(length) => break length,
            Err(Errno::RANGE) if list.len() < 64 << 10 => list.resize(64 << 10, 0),
            Err(Errno::OPNOTSUPP | Errno::NOENT) => return Ok(Vec::new()),
            Err(errno) => return Err(errno),
        }
    };
    let mut found = Vec::new();
    for key in list[..length].split(|b| *b == 0).filter(|key| !key.is_empty() && keeps_xattr(key)) {
        let mut value = vec![0u8; 64 << 10];
        match rustix::fs::lgetxattr(path.as_slice(), key, value.as_mut_slice()) {
            Ok(length) => value.truncate(length),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => continue,
            Err(errno) => return Err(errno),
        }
        found.push((key.to_vec(), value));
    }
    found.sort();
    Ok(found)
}
