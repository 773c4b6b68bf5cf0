//! Two trees of files side by side: what one has and the other has not, and what differs. For the question whether an
//! unpacked layer is still what its blob says.

use crate::apply::OPAQUE;
use crate::error::{At, Error, Result, printable};
use crate::root::{DIR_FLAGS, MAX_DEPTH, file_type, is_whiteout, names, stat_opt, xattrs};
use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What is wrong with a file of an unpacked layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// It is not there.
    Missing,
    /// It should not be there.
    Extra,
    /// It is of another kind: a directory where a file should be, another device.
    Kind,
    /// Owner, permissions, time or attributes differ.
    Metadata,
    /// The content, or the target of a link, differs.
    Content,
    /// It should be the same file as another one, or should not be.
    Links,
}

/// A file of an unpacked layer that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The path in the layer, without a leading slash.
    pub path: Vec<u8>,
    /// What is wrong.
    pub wrong: Wrong,
}

/// More differences are counted, but not named.
pub(crate) const MAX_NAMED: usize = 10_000;

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Differences {
    pub named: Vec<Difference>,
    pub count: u64,
}

/// Compares what is with what should be.
pub(crate) fn compare(is: BorrowedFd<'_>, should: BorrowedFd<'_>) -> Result<Differences> {
    let mut walk = Walk { found: Differences::default(), links: HashMap::new() };
    walk.below(is, should, b"", 0)?;
    Ok(walk.found)
}

struct Walk {
    found: Differences,
    /// Files with several names: the inode that is, for the inode that should be.
    links: HashMap<(u64, u64), (u64, u64)>,
}

impl Walk {
    fn add(&mut self, path: &[u8], wrong: Wrong) {
        self.found.count += 1;
        if self.found.named.len() < MAX_NAMED {
            self.found.named.push(Difference { path: path.to_vec(), wrong });
        }
    }

    fn below(&mut self, is: BorrowedFd<'_>, should: BorrowedFd<'_>, path: &[u8], depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            let what = format!("nesting of directories at {}", printable(path));
            return Err(Error::TooLarge { what, limit: format!("{MAX_DEPTH} levels") });
        }
        let (present, wanted) = (names(is).at("list", printable(path))?, names(should).at("list", printable(path))?);
        let join = |name: &[u8]| if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() };
        for name in present.iter().filter(|name| wanted.binary_search(name).is_err()) {
            self.add(&join(name), Wrong::Extra);
        }
        for name in &wanted {
            let path = join(name);
            let Some(right) = stat_opt(should, name).at("look at", printable(&path))? else { continue };
            match stat_opt(is, name).at("look at", printable(&path))? {
                None => self.add(&path, Wrong::Missing),
                Some(left) => self.one((is, &left), (should, &right), name, &path, depth)?,
            }
        }
        Ok(())
    }

    fn one(
        &mut self,
        (is, left): (BorrowedFd<'_>, &Stat),
        (should, right): (BorrowedFd<'_>, &Stat),
        name: &[u8],
        path: &[u8],
        depth: usize,
    ) -> Result<()> {
        if file_type(left) != file_type(right) || left.st_rdev != right.st_rdev {
            self.add(path, Wrong::Kind);
            return Ok(());
        }
        if is_whiteout(right) {
            // What else it has means nothing.
            return Ok(());
        }
        let kind = file_type(left);
        let dressed = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_mtime, stat.st_mtime_nsec);
        let mut same = dressed(left) == dressed(right);
        same &= xattrs(is, name).at("read the attributes of", printable(path))?
            == xattrs(should, name).at("read the attributes of", printable(path))?;
        if kind == FileType::Directory {
            let open = |dir: BorrowedFd<'_>| rustix::fs::openat(dir, name, DIR_FLAGS, Mode::empty()).at("open", printable(path));
            let (is, should) = (open(is)?, open(should)?);
            same &= opaque(&is)? == opaque(&should)?;
            if !same {
                self.add(path, Wrong::Metadata);
            }
            return self.below(is.as_fd(), should.as_fd(), path, depth + 1);
        }
        let content = match kind {
            FileType::RegularFile => left.st_size == right.st_size && same_content(is, should, name, path)?,
            FileType::Symlink => {
                let target = |dir| rustix::fs::readlinkat(dir, name, Vec::new()).at("read the link", printable(path));
                target(is)? == target(should)?
            }
            _ => true,
        };
        let inode = |stat: &Stat| (stat.st_dev, stat.st_ino);
        let linked = left.st_nlink == right.st_nlink
            && (right.st_nlink == 1 || *self.links.entry(inode(right)).or_insert_with(|| inode(left)) == inode(left));
        if !content {
            self.add(path, Wrong::Content);
        } else if !same {
            self.add(path, Wrong::Metadata);
        } else if !linked {
            self.add(path, Wrong::Links);
        }
        Ok(())
    }
}

fn opaque(dir: &OwnedFd) -> Result<Vec<u8>> {
    let mut value = [0; 16];
    match rustix::fs::fgetxattr(dir, OPAQUE, &mut value[..]) {
        Ok(length) => Ok(value[..length].to_vec()),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(Vec::new()),
        Err(errno) => Err(errno).at("read the attributes of", "a directory of a layer"),
    }
}

fn same_content(is: BorrowedFd<'_>, should: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<bool> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let open = |dir| rustix::fs::openat(dir, name, flags, Mode::empty()).map(File::from).at("open", printable(path));
    let (mut left, mut right) = (open(is)?, open(should)?);
    let (mut a, mut b) = ([0; 32 << 10], [0; 32 << 10]);
    loop {
        // A block that cannot be read is damage, not a failure of the check.
        let Ok(got) = left.read(&mut a) else { return Ok(false) };
        if got == 0 {
            return Ok(right.read(&mut b).at("read", printable(path))? == 0);
        }
        match right.read_exact(&mut b[..got]) {
            Ok(()) if a[..got] == b[..got] => {}
            Ok(()) => return Ok(false),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error).at("read", printable(path)),
        }
    }
}
