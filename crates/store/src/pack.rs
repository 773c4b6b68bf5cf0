//! Trees into tar streams: one walk, names in byte order, hard links kept, the same tree gives the same bytes.
//!
//! Works on descriptors: every step is (directory, name) without following links, so a tree that changes meanwhile gives
//! an archive of what was seen, and nothing outside it.

use crate::error::{At, Error, Result, printable};
use crate::root::{DIR_FLAGS, MAX_DEPTH, file_type, names, xattrs};
use crate::tar::{Entry, Kind, Writer};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Writes files to an archive, remembering hard links.
pub(crate) struct Packer<W> {
    pub writer: Writer<W>,
    /// First name of each file with several links.
    links: HashMap<(u64, u64), Vec<u8>>,
    /// Other mounts are not entered: their directories and files are empty.
    pub one_mount: bool,
    /// Names start with a slash.
    pub rooted: bool,
}

/// The header for a file; `None` for what a tar cannot hold (sockets).
pub(crate) fn entry_of(dir: BorrowedFd<'_>, name: &[u8], stat: &Stat, path: Vec<u8>) -> Result<Option<Entry>> {
    let kind = match file_type(stat) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Dir,
        FileType::Symlink => Kind::Symlink,
        FileType::CharacterDevice => Kind::Char,
        FileType::BlockDevice => Kind::Block,
        FileType::Fifo => Kind::Fifo,
        _ => return Ok(None),
    };
    let mut entry = Entry::new(path, kind, stat.st_mode & 0o7777);
    if kind == Kind::Dir && !entry.path.ends_with(b"/") {
        entry.path.push(b'/');
    }
    entry.uid = i64::from(stat.st_uid);
    entry.gid = i64::from(stat.st_gid);
    // Whole seconds, as Docker's archives: finer times would make equal layers differ by file system.
    entry.mtime = stat.st_mtime;
    if kind == Kind::File {
        entry.size = stat.st_size.cast_unsigned();
    }
    if matches!(kind, Kind::Char | Kind::Block) {
        entry.device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    }
    if kind == Kind::Symlink {
        let target = rustix::fs::readlinkat(dir, name, Vec::new()).at("read the link", printable(&entry.path))?;
        entry.link = target.into_bytes();
        entry.mode = 0o777;
    }
    entry.xattrs = xattrs(dir, name).at("read the attributes of", printable(&entry.path))?;
    Ok(Some(entry))
}

impl<W: Write> Packer<W> {
    pub fn new(sink: W) -> Self {
        Packer { writer: Writer::new(sink), links: HashMap::new(), one_mount: false, rooted: false }
    }

    fn open(&self, dir: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        if !self.one_mount {
            return rustix::fs::openat(dir, name, flags, Mode::empty());
        }
        rustix::fs::openat2(dir, name, flags, Mode::empty(), ResolveFlags::NO_XDEV)
    }

    /// One file, without what is below a directory. False when it vanished or is a socket.
    pub fn one(&mut self, dir: BorrowedFd<'_>, name: &[u8], stat: &Stat, path: &[u8]) -> Result<bool> {
        let Some(mut entry) = entry_of(dir, name, stat, path.to_vec())? else { return Ok(false) };
        if entry.kind != Kind::Dir && stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                entry.kind = Kind::Link;
                entry.link.clone_from(first);
                entry.xattrs.clear();
                self.writer.entry(&entry)?;
                return Ok(true);
            }
            self.links.insert((stat.st_dev, stat.st_ino), entry.path.clone());
        }
        if entry.kind != Kind::File {
            self.writer.entry(&entry)?;
            return Ok(true);
        }
        // NONBLOCK: what was a file may be a pipe now.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = match self.open(dir, name, flags) {
            Ok(file) => file,
            Err(Errno::XDEV) => {
                entry.size = 0;
                self.writer.entry(&entry)?;
                return Ok(true);
            }
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(false),
            Err(errno) => return Err(errno).at("open", printable(path)),
        };
        let now = rustix::fs::fstat(&file).at("look at", printable(path))?;
        if file_type(&now) != FileType::RegularFile {
            return Ok(false);
        }
        entry.size = now.st_size.cast_unsigned();
        self.writer.file(&entry, &mut File::from(file))?;
        Ok(true)
    }

    /// Everything below `dir`, whose name in the archive is `path` (empty for the root).
    pub fn below(&mut self, dir: BorrowedFd<'_>, path: &[u8], depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(Error::TooLarge {
                what: format!("nesting of directories at {}", printable(path)),
                limit: format!("{MAX_DEPTH} levels"),
            });
        }
        for name in names(dir).at("list", printable(path))? {
            let stat = match rustix::fs::statat(dir, name.as_slice(), rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(errno).at("look at", printable(&name)),
            };
            let path = if path.is_empty() && !self.rooted { name.clone() } else { [path, b"/", &name].concat() };
            if !self.one(dir, &name, &stat, &path)? || file_type(&stat) != FileType::Directory {
                continue;
            }
            match self.open(dir, &name, DIR_FLAGS) {
                Ok(child) => self.below(child.as_fd(), &path, depth + 1)?,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => {}
                Err(errno) => return Err(errno).at("open", printable(&path)),
            }
        }
        Ok(())
    }
}
