//! Copies trees on the same host: for the vfs driver, and to fill a new volume from an image.

use crate::error::{At, Error, Result, printable};
use crate::layered::is_opaque;
use crate::root::{DIR_FLAGS, MAX_DEPTH, chmod_no_follow, file_type, is_whiteout, names, proc_path, remove_tree, stat_opt, xattrs};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// How to copy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct CopyOptions {
    /// The source is a layer: its whiteouts and opaque directories delete in the destination.
    pub overlay: bool,
}

/// Copies what is below `from` into `to`, which may have content: files replace files, directories are merged.
pub(crate) fn copy_tree(from: BorrowedFd<'_>, to: BorrowedFd<'_>, options: CopyOptions) -> Result<()> {
    let mut copier = Copier { options, root: to, links: HashMap::new() };
    copier.below(from, to, b"", 0)
}

struct Copier<'a> {
    options: CopyOptions,
    root: BorrowedFd<'a>,
    links: HashMap<(u64, u64), Vec<u8>>,
}

/// Owner, mode, attributes and times of `stat` for `name` in `dir`.
pub(crate) fn dress(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &[u8], stat: &Stat, path: &[u8]) -> Result<()> {
    let at = |result: Result<(), Errno>| result.at("copy the attributes of", printable(path));
    at(rustix::fs::chownat(to, name, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)), AtFlags::SYMLINK_NOFOLLOW))?;
    if file_type(stat) != FileType::Symlink {
        at(chmod_no_follow(to, name, Mode::from_raw_mode(stat.st_mode & 0o7777)))?;
    }
    let target = proc_path(to, name);
    for (key, value) in xattrs(from, name).at("read the attributes of", printable(path))? {
        match rustix::fs::lsetxattr(target.as_slice(), key.as_slice(), &value, XattrFlags::empty()) {
            Err(Errno::OPNOTSUPP) => {}
            result => at(result)?,
        }
    }
    let time = |sec, nsec: u64| Timespec { tv_sec: sec, tv_nsec: nsec.cast_signed() };
    let times =
        Timestamps { last_access: time(stat.st_atime, stat.st_atime_nsec), last_modification: time(stat.st_mtime, stat.st_mtime_nsec) };
    at(rustix::fs::utimensat(to, name, &times, AtFlags::SYMLINK_NOFOLLOW))
}

impl Copier<'_> {
    fn below(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, path: &[u8], depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(Error::TooLarge {
                what: format!("nesting of directories at {}", printable(path)),
                limit: format!("{MAX_DEPTH} levels"),
            });
        }
        for name in names(from).at("list", printable(path))? {
            let Some(stat) = stat_opt(from, &name).at("look at", printable(&name))? else { continue };
            let path = if path.is_empty() { name.clone() } else { [path, b"/", &name].concat() };
            self.one(from, to, &name, &stat, &path, depth)?;
        }
        Ok(())
    }

    fn one(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &[u8], stat: &Stat, path: &[u8], depth: usize) -> Result<()> {
        let at = |result: Result<(), Errno>| result.at("copy", printable(path));
        let kind = file_type(stat);
        let before = stat_opt(to, name).at("look at", printable(path))?;
        if self.options.overlay && is_whiteout(stat) {
            return at(remove_tree(to, name));
        }
        if kind == FileType::Directory {
            let source = rustix::fs::openat(from, name, DIR_FLAGS, Mode::empty()).at("open", printable(path))?;
            let keep = before.is_some_and(|before| file_type(&before) == FileType::Directory)
                && !(self.options.overlay && is_opaque(source.as_fd())?);
            if !keep {
                at(remove_tree(to, name))?;
                at(rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o700)))?;
            }
            let target = rustix::fs::openat(to, name, DIR_FLAGS, Mode::empty()).at("open", printable(path))?;
            self.below(source.as_fd(), target.as_fd(), path, depth + 1)?;
            return dress(from, to, name, stat, path);
        }
        if before.is_some() {
            at(remove_tree(to, name))?;
        }
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                return at(rustix::fs::linkat(self.root, first.as_slice(), to, name, AtFlags::empty()));
            }
            self.links.insert((stat.st_dev, stat.st_ino), path.to_vec());
        }
        match kind {
            FileType::RegularFile => copy_file(from, to, name, path)?,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new()).at("read the link", printable(path))?;
                at(rustix::fs::symlinkat(target.as_c_str(), to, name))?;
            }
            FileType::Socket => return Ok(()),
            kind => at(rustix::fs::mknodat(to, name, kind, Mode::from_raw_mode(stat.st_mode & 0o7777), stat.st_rdev))?,
        }
        dress(from, to, name, stat, path)
    }
}

/// Copies the data, sharing it where the file system can.
fn copy_file(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<()> {
    let flags = OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let source = rustix::fs::openat(from, name, flags | OFlags::RDONLY, Mode::empty()).at("open", printable(path))?;
    let create = flags | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let target = rustix::fs::openat(to, name, create, Mode::from_raw_mode(0o600)).at("create", printable(path))?;
    if rustix::fs::ioctl_ficlone(&target, &source).is_ok() {
        return Ok(());
    }
    copy_data(&source, &target).at("copy", printable(path))
}

fn copy_data(source: &OwnedFd, target: &OwnedFd) -> Result<(), Errno> {
    let size = rustix::fs::fstat(source)?.st_size.cast_unsigned();
    let mut at = 0u64;
    // Holes stay holes.
    while at < size {
        let start = match rustix::fs::seek(source, rustix::fs::SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno),
        };
        let end = rustix::fs::seek(source, rustix::fs::SeekFrom::Hole(start))?;
        let (mut input, mut output) = (start, start);
        while input < end {
            let want = usize::try_from(end - input).unwrap_or(usize::MAX).min(1 << 30);
            match rustix::fs::copy_file_range(source, Some(&mut input), target, Some(&mut output), want) {
                Ok(0) => break,
                Ok(_) | Err(Errno::INTR) => {}
                // Not between these two file systems.
                Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                    copy_piecewise(source, target, input, end)?;
                    break;
                }
                Err(errno) => return Err(errno),
            }
        }
        at = end;
    }
    rustix::fs::ftruncate(target, size)
}

fn copy_piecewise(source: &OwnedFd, target: &OwnedFd, start: u64, end: u64) -> Result<(), Errno> {
    let mut buffer = vec![0; 128 << 10];
    let mut at = start;
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        let got = rustix::io::retry_on_intr(|| rustix::io::pread(source, &mut buffer[..want], at))?;
        if got == 0 {
            break;
        }
        let mut done = 0;
        while done < got {
            done += rustix::io::retry_on_intr(|| rustix::io::pwrite(target, &buffer[done..got], at + done as u64))?;
        }
        at += got as u64;
    }
    Ok(())
}
