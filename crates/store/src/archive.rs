//! `docker cp`: looking at, packing and unpacking paths of a container's root.
//!
//! The root is any descriptor: a detached mount of a stopped container, or `/proc/<pid>/root` of a running one, whose
//! processes may change it at any moment. Links lead inside the root only.

pub use crate::apply::UnpackOptions;
use crate::apply::apply_copy;
use crate::copy::{CopyOptions, copy_tree};
use crate::error::{At, Error, Result, printable};
use crate::pack::Packer;
use crate::root::{DIR_FLAGS, chmod_no_follow, file_type, names, open_in};
use crate::stream::{BUFFER, plain};
use crate::tar::Reader;
use jiff::Timestamp;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;
use std::io::{BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// What a path is (`X-Docker-Container-Path-Stat`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathStat {
    /// The last part of the path.
    pub name: String,
    /// Size in bytes.
    pub size: i64,
    /// Type and permission bits as the kernel has them; see [`PathStat::go_mode`].
    pub mode: u32,
    /// When it was changed.
    pub modified: Timestamp,
    /// Where a symbolic link leads: a path from the root; empty for what is no link.
    pub link_target: String,
}

impl PathStat {
    /// True for a directory.
    pub fn is_dir(&self) -> bool {
        FileType::from_raw_mode(self.mode) == FileType::Directory
    }

    /// The mode in the bits of Go's `os.FileMode`, which Docker's API shows.
    pub fn go_mode(&self) -> u32 {
        let kind = match FileType::from_raw_mode(self.mode) {
            FileType::Directory => 1 << 31,
            FileType::Symlink => 1 << 27,
            FileType::BlockDevice => 1 << 26,
            FileType::CharacterDevice => 1 << 26 | 1 << 21,
            FileType::Fifo => 1 << 25,
            FileType::Socket => 1 << 24,
            _ => 0,
        };
        let special = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
        special.into_iter().filter(|(bit, _)| self.mode & bit != 0).fold(kind | (self.mode & 0o777), |mode, (_, go)| mode | go)
    }
}

/// A path as `cp` understands it: `/dir/` and `/dir/.` mean what a link leads to, `/link` the link itself.
struct Split {
    above: Vec<u8>,
    /// Absent for the root, and when the path itself is to be followed.
    name: Option<Vec<u8>>,
    /// What the path is called in an archive.
    called: Vec<u8>,
}

fn split(path: &str) -> Result<Split> {
    if path.contains('\0') {
        return Err(Error::BadPath { path: printable(path.as_bytes()), reason: "it contains a NUL".into() });
    }
    let mut parts: Vec<&[u8]> = Vec::new();
    // As Docker: `..` is taken off the text, before any link is looked at.
    for part in path.as_bytes().split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let whole = parts.join(&b'/');
    let Some((name, above)) = parts.split_last() else {
        let called = if path.ends_with("/.") || path == "." { &b"."[..] } else { b"/" };
        return Ok(Split { above: whole, name: None, called: called.to_vec() });
    };
    if path.ends_with("/.") {
        return Ok(Split { above: whole, name: None, called: b".".to_vec() });
    }
    if path.ends_with('/') {
        return Ok(Split { above: whole.clone(), name: None, called: name.to_vec() });
    }
    Ok(Split { above: above.join(&b'/'), name: Some(name.to_vec()), called: name.to_vec() })
}

fn absent(path: &str, errno: Errno) -> Error {
    match errno {
        Errno::NOENT | Errno::NOTDIR => Error::NoSuchPath { path: printable(path.as_bytes()) },
        Errno::NAMETOOLONG | Errno::LOOP => {
            Error::BadPath { path: printable(path.as_bytes()), reason: std::io::Error::from(errno).to_string() }
        }
        errno => Error::Io { action: "look at", path: printable(path.as_bytes()), source: errno.into() },
    }
}

/// The directory a path lies in, the name in it, and what that is.
fn locate(root: BorrowedFd<'_>, path: &str) -> Result<(OwnedFd, Vec<u8>, Stat, Split)> {
    let split = split(path)?;
    let failed = |errno| absent(path, errno);
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let dir = open_in(root, &split.above, flags).map_err(failed)?;
    let name = split.name.clone().unwrap_or_else(|| b".".to_vec());
    let stat = rustix::fs::statat(&dir, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
    Ok((dir, name, stat, split))
}

/// Looks at a path. The last part is not followed unless the path ends with a slash.
pub fn stat(root: BorrowedFd<'_>, path: &str) -> Result<PathStat> {
    let (dir, name, stat, split) = locate(root, path)?;
    let mut link_target = String::new();
    if file_type(&stat) == FileType::Symlink {
        let target = rustix::fs::readlinkat(&dir, name.as_slice(), Vec::new()).map_err(|errno| absent(path, errno))?;
        link_target = resolved(root, &split.above, target.as_bytes());
    }
    let nanos = i32::try_from(stat.st_mtime_nsec).unwrap_or(0);
    Ok(PathStat {
        name: String::from_utf8_lossy(&split.called).into_owned(),
        size: stat.st_size,
        mode: stat.st_mode,
        modified: Timestamp::new(stat.st_mtime, nanos).unwrap_or(Timestamp::UNIX_EPOCH),
        link_target,
    })
}

/// Where a link in the directory `above` leads: the real path where it exists, else its text from the root.
fn resolved(root: BorrowedFd<'_>, above: &[u8], target: &[u8]) -> String {
    let text = if target.starts_with(b"/") { target.to_vec() } else { [above, b"/", target].concat() };
    let real = open_in(root, &text, OFlags::PATH).ok().and_then(|file| path_below(root, file.as_fd()));
    let path = real.unwrap_or_else(|| {
        let mut parts: Vec<&[u8]> = Vec::new();
        for part in text.split(|b| *b == b'/') {
            match part {
                b"" | b"." => {}
                b".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        [b"/", parts.join(&b'/').as_slice()].concat()
    });
    String::from_utf8_lossy(&path).into_owned()
}

/// The path of an open file from `root`, as procfs tells it. Of a detached mount procfs tells the path from its root.
fn path_below(root: BorrowedFd<'_>, file: BorrowedFd<'_>) -> Option<Vec<u8>> {
    let name = |fd: BorrowedFd<'_>| {
        let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
        rustix::fs::readlinkat(rustix::fs::CWD, link, Vec::new()).ok().map(std::ffi::CString::into_bytes)
    };
    let (root, file) = (name(root)?, name(file)?);
    let below = if root == b"/" { &file[..] } else { file.strip_prefix(root.as_slice())? };
    match below {
        b"" => Some(b"/".to_vec()),
        path if path.starts_with(b"/") => Some(path.to_vec()),
        _ => None,
    }
}

/// Writes a file, or a directory with everything below it, as a tar stream; entries start with the last part of the path
/// (`.` when it ends with `/.`, nothing for the root).
pub fn pack(root: BorrowedFd<'_>, path: &str, sink: &mut dyn Write) -> Result<PathStat> {
    let about = stat(root, path)?;
    let (dir, name, stat, split) = locate(root, path)?;
    let mut packer = Packer::new(sink);
    if file_type(&stat) != FileType::Directory {
        packer.one(dir.as_fd(), &name, &stat, &split.called)?;
    } else {
        let flags = DIR_FLAGS;
        let inside = rustix::fs::openat(&dir, name.as_slice(), flags, Mode::empty()).map_err(|errno| absent(path, errno))?;
        packer.one(inside.as_fd(), b".", &stat, &split.called)?;
        // The root's own entry is `/`, those below start with one slash.
        let prefix = if split.called == b"/" { &b""[..] } else { &split.called };
        packer.rooted = split.called == b"/";
        packer.below(inside.as_fd(), prefix, 0)?;
    }
    packer.writer.finish()?;
    Ok(about)
}

/// Unpacks a tar stream (plain, gzip or zstd) into a directory, which must exist.
pub fn unpack(root: BorrowedFd<'_>, directory: &str, source: &mut dyn Read, options: UnpackOptions) -> Result<()> {
    let split = split(directory)?;
    let mut base = split.above;
    if let Some(name) = split.name {
        if !base.is_empty() {
            base.push(b'/');
        }
        base.extend(name);
    }
    match open_in(root, &base, OFlags::PATH) {
        Ok(found) => {
            let stat = rustix::fs::fstat(&found).at("look at", printable(&base))?;
            if file_type(&stat) != FileType::Directory {
                return Err(Error::BadPath { path: directory.into(), reason: "extraction point is not a directory".into() });
            }
        }
        Err(errno) => return Err(absent(directory, errno)),
    }
    let (stream, _) = plain(source)?;
    let mut reader = Reader::new(BufReader::with_capacity(BUFFER, stream));
    apply_copy(&mut reader, root, &base, options)
}

/// Fills an empty directory (a new volume) with what an image has at `path`, owner and mode of the directory included.
/// False when there is nothing to copy, or the destination has content.
pub fn copy_up(root: BorrowedFd<'_>, path: &str, destination: BorrowedFd<'_>) -> Result<bool> {
    let source = match open_in(root, path.as_bytes(), DIR_FLAGS.difference(OFlags::NOFOLLOW)) {
        Ok(source) => source,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(false),
        Err(errno) => return Err(absent(path, errno)),
    };
    let destination = rustix::fs::openat(destination, ".", DIR_FLAGS, Mode::empty()).at("open", "a volume")?;
    if !names(&destination).at("list", "a volume")?.is_empty() {
        return Ok(false);
    }
    let stat = rustix::fs::fstat(&source).at("look at", path)?;
    copy_tree(source.as_fd(), destination.as_fd(), CopyOptions::default())?;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::fchown(&destination, Some(uid), Some(gid)).at("change the owner of", "a volume")?;
    chmod_no_follow(destination.as_fd(), b".", Mode::from_raw_mode(stat.st_mode & 0o7777)).at("change the mode of", "a volume")?;
    Ok(true)
}
