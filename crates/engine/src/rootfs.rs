//! Small works on a container's root file system: every path is resolved inside it by openat2 (RESOLVE_IN_ROOT), so
//! that no link of the image leads out.

use crate::error::{EngineError, Result};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, mkdirat, openat2};
use rustix::io::Errno;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

const PATH_ONLY: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

fn inside() -> ResolveFlags {
    ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS
}

fn failed(what: &'static str, path: &str) -> impl FnOnce(Errno) -> EngineError {
    let path = path.to_owned();
    move |errno| EngineError::io(what, path)(errno.into())
}

/// Opens a directory inside `root`.
pub fn open_dir(root: BorrowedFd<'_>, path: &str) -> Result<OwnedFd> {
    openat2(root, path, PATH_ONLY | OFlags::DIRECTORY, Mode::empty(), inside()).map_err(failed("open in the container", path))
}

/// Opens a directory or a regular file inside `root`, as a path.
pub fn open_part(root: BorrowedFd<'_>, path: &str) -> Result<OwnedFd> {
    let part = openat2(root, path, PATH_ONLY, Mode::empty(), inside()).map_err(failed("open in the volume", path))?;
    let status = rustix::fs::fstat(&part).map_err(failed("look at", path))?;
    match FileType::from_raw_mode(status.st_mode) {
        FileType::Directory | FileType::RegularFile => Ok(part),
        _ => Err(EngineError::invalid(format!("{path} is neither a directory nor a file"))),
    }
}

/// Makes the directory `path` and its parents inside `root`, mode 0755; one that exists is fine.
pub fn make_dirs(root: BorrowedFd<'_>, path: &str) -> Result<OwnedFd> {
    match openat2(root, path, PATH_ONLY | OFlags::DIRECTORY, Mode::empty(), inside()) {
        Ok(dir) => return Ok(dir),
        Err(Errno::NOENT) => {}
        Err(Errno::NOTDIR) => {
            return Err(EngineError::invalid(format!("Cannot mkdir: {path} is not a directory")));
        }
        Err(errno) => return Err(failed("open in the container", path)(errno)),
    }
    let mut done = String::from("/");
    let mut current = open_dir(root, "/")?;
    for part in Path::new(path).components() {
        let std::path::Component::Normal(name) = part else { continue };
        done = format!("{}/{}", done.trim_end_matches('/'), name.to_string_lossy());
        match mkdirat(&current, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed("make in the container", &done)(errno)),
        }
        current = open_dir(root, &done)?;
    }
    Ok(current)
}

/// Opens a host directory as the root of later look-ups.
pub fn open_root(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, PATH_ONLY | OFlags::DIRECTORY, Mode::empty()).map_err(|errno| EngineError::io("open", path)(errno.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn directories_are_made_inside_the_root_only() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("link")).unwrap();
        let root = open_root(dir.path()).unwrap();
        make_dirs(root.as_fd(), "/a/b/../c").unwrap();
        assert!(dir.path().join("a/c").is_dir() || dir.path().join("a/b/c").is_dir());
        // The link leads to a path of that name inside the root, which does not exist.
        assert!(make_dirs(root.as_fd(), "/link/x").is_err());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert!(make_dirs(root.as_fd(), "/file").is_err());
    }
}
