//! Paths inside a root file system that must never lead out of it.
//!
//! Every function takes the root as a descriptor; symbolic links are followed as if the root were `/`. Nothing here joins
//! a root's path and another path into a string.

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path};

/// The kernel's own limit of links in one path.
const MAX_LINKS: usize = 40;
/// openat2 answers EAGAIN when something was renamed while it resolved `..`.
const MAX_ATTEMPTS: usize = 64;

/// Opens `path` inside `root`.
pub fn open_in(root: BorrowedFd<'_>, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    open_with(root, path, flags, mode, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
}

/// Opens `path` inside `root`, whose components must not be symbolic links.
pub(crate) fn open_plain(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    open_with(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS)
}

fn open_with(root: BorrowedFd<'_>, path: &Path, flags: OFlags, mode: Mode, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    for _ in 0..MAX_ATTEMPTS {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, mode, resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// What a missing last component becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Make {
    Directory,
    File,
}

/// Makes a directory and its parents inside `root` where they are missing; returns it opened as a path.
pub fn create_dir_all(root: BorrowedFd<'_>, path: &Path, mode: Mode) -> Result<OwnedFd, Errno> {
    create(root, path, Make::Directory, mode)
}

/// Makes an empty file (and its parent directories) inside `root` where it is missing; returns it opened as a path.
pub fn create_file(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    create(root, path, Make::File, Mode::from_raw_mode(0o755))
}

fn create(root: BorrowedFd<'_>, path: &Path, make: Make, mode: Mode) -> Result<OwnedFd, Errno> {
    let flags = if make == Make::Directory { OFlags::PATH | OFlags::DIRECTORY } else { OFlags::PATH };
    match open_in(root, path, flags, Mode::empty()) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    // Component by component: each is opened without following, links are expanded here, `..` never goes above the root.
    let mut pending: Vec<OsString> = parts(path);
    let mut stack: Vec<OwnedFd> = Vec::new();
    let mut links = 0;
    while let Some(part) = pending.pop() {
        if part == ".." {
            stack.pop();
            continue;
        }
        let directory = stack.last().map_or(root, AsFd::as_fd);
        let last = pending.is_empty();
        let opened = match open_part(directory, &part) {
            Err(Errno::NOENT) => {
                make_part(directory, &part, if last { make } else { Make::Directory }, mode)?;
                open_part(directory, &part)?
            }
            other => other?,
        };
        match FileType::from_raw_mode(rustix::fs::fstat(&opened)?.st_mode) {
            FileType::Symlink => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP);
                }
                let target = OsString::from_vec(rustix::fs::readlinkat(&opened, "", Vec::new())?.into_bytes());
                if Path::new(&target).is_absolute() {
                    stack.clear();
                }
                pending.extend(parts(Path::new(&target)));
            }
            FileType::Directory => stack.push(opened),
            _ if last && make == Make::File => return Ok(opened),
            _ => return Err(Errno::NOTDIR),
        }
    }
    match stack.pop() {
        Some(found) => Ok(found),
        None => open_in(root, Path::new("."), OFlags::PATH, Mode::empty()),
    }
}

/// The normal and parent components, last first.
fn parts(path: &Path) -> Vec<OsString> {
    let mut parts: Vec<OsString> = path
        .components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            _ => None,
        })
        .collect();
    parts.reverse();
    parts
}

fn open_part(directory: BorrowedFd<'_>, part: &OsStr) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(directory, part.as_bytes(), OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

fn make_part(directory: BorrowedFd<'_>, part: &OsStr, make: Make, mode: Mode) -> Result<(), Errno> {
    let made = match make {
        Make::Directory => rustix::fs::mkdirat(directory, part.as_bytes(), mode),
        Make::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(directory, part.as_bytes(), flags, Mode::from_raw_mode(0o644)).map(drop)
        }
    };
    match made {
        // Another container sharing the volume made it meanwhile.
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}

/// Copies what is below the directory `from` into `to`, owners and modes included. For tmpfs mounts that start with the
/// content of the directory they cover.
pub(crate) fn copy_tree(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: usize) -> Result<(), Errno> {
    const MAX_DEPTH: usize = 64;
    if depth > MAX_DEPTH {
        return Err(Errno::LOOP);
    }
    let listing = rustix::fs::Dir::read_from(from)?;
    for entry in listing {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let status = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let mode = Mode::from_raw_mode(status.st_mode & 0o7777);
        let kind = FileType::from_raw_mode(status.st_mode);
        match kind {
            FileType::Directory => {
                rustix::fs::mkdirat(to, name, mode)?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let below_from = rustix::fs::openat(from, name, flags, Mode::empty())?;
                let below_to = rustix::fs::openat(to, name, flags, Mode::empty())?;
                copy_tree(below_from.as_fd(), below_to.as_fd(), depth + 1)?;
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new())?;
                rustix::fs::symlinkat(&target, to, name)?;
            }
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let source = rustix::fs::openat(from, name, flags, Mode::empty())?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let target = rustix::fs::openat(to, name, flags, mode)?;
                std::io::copy(&mut std::fs::File::from(source), &mut std::fs::File::from(target))
                    .map_err(|error| crate::error::errno_of(&error))?;
            }
            FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice => {
                rustix::fs::mknodat(to, name, kind, mode, status.st_rdev)?;
            }
            _ => continue,
        }
        let owner = (rustix::fs::Uid::from_raw(status.st_uid), rustix::fs::Gid::from_raw(status.st_gid));
        rustix::fs::chownat(to, name, Some(owner.0), Some(owner.1), AtFlags::SYMLINK_NOFOLLOW)?;
        if kind != FileType::Symlink {
            // The mode of creation went through the umask, and chown drops set-id bits.
            rustix::fs::chmodat(to, name, mode, AtFlags::empty())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn root() -> (tempfile::TempDir, OwnedFd, std::path::PathBuf) {
        let holder = tempfile::tempdir().unwrap();
        let path = holder.path().join("root");
        std::fs::create_dir(&path).unwrap();
        let fd = rustix::fs::open(&path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        (holder, fd, path)
    }

    #[test]
    fn links_stay_inside() {
        let (holder, root, path) = root();
        let outside = holder.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        symlink(&outside, path.join("absolute")).unwrap();
        symlink("../../outside", path.join("relative")).unwrap();
        symlink("loop", path.join("loop")).unwrap();
        for (link, expected) in [("absolute", outside.strip_prefix("/").unwrap()), ("relative", Path::new("outside"))] {
            create_dir_all(root.as_fd(), &Path::new(link).join("made"), Mode::from_raw_mode(0o755)).unwrap();
            assert!(path.join(expected).join("made").is_dir(), "{link}");
        }
        assert_eq!(create_dir_all(root.as_fd(), Path::new("loop/x"), Mode::from_raw_mode(0o755)).unwrap_err(), Errno::LOOP);
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    }

    #[test]
    fn missing_parts_are_made_and_parents_end_at_the_root() {
        let (_holder, root, path) = root();
        create_file(root.as_fd(), Path::new("/a/b/../../../c/file")).unwrap();
        assert!(path.join("c/file").is_file());
        create_file(root.as_fd(), Path::new("/c/file")).unwrap();
        assert_eq!(create_dir_all(root.as_fd(), Path::new("/c/file/x"), Mode::from_raw_mode(0o755)).unwrap_err(), Errno::NOTDIR);
        create_dir_all(root.as_fd(), Path::new("/"), Mode::from_raw_mode(0o755)).unwrap();
    }
}
