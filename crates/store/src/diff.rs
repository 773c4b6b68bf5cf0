//! What a container changed: against the layers of its image, for `docker diff` and for the layer of a commit.

use crate::error::{At, Error, Result, printable};
use crate::layered::{Layered, is_opaque};
use crate::pack::Packer;
use crate::root::{DIR_FLAGS, MAX_DEPTH, file_type, is_whiteout, names, stat_opt};
use crate::tar::{Entry, Kind};
use rustix::fs::{FileType, Mode, Stat};
use rustix::io::Errno;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It was changed, or something in it was.
    Modified,
    /// It is new.
    Added,
    /// It is gone.
    Deleted,
}

impl ChangeKind {
    /// Docker's letter.
    pub fn letter(self) -> char {
        match self {
            ChangeKind::Modified => 'C',
            ChangeKind::Added => 'A',
            ChangeKind::Deleted => 'D',
        }
    }
}

/// A changed path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What happened.
    pub kind: ChangeKind,
    /// The path, with a leading slash; bytes, as names need not be text.
    pub path: Vec<u8>,
}

/// Changes in the order of their paths.
#[derive(Default)]
struct Changes(Vec<Change>);

impl Changes {
    fn push(&mut self, kind: ChangeKind, path: &[u8]) {
        self.0.push(Change { kind, path: [b"/", path].concat() });
    }

    /// A change below a directory shows on the directory too.
    fn mark_parents(mut self) -> Vec<Change> {
        let mut known: std::collections::HashSet<Vec<u8>> = self.0.iter().map(|change| change.path.clone()).collect();
        let mut parents = Vec::new();
        for change in &self.0 {
            let mut path = change.path.as_slice();
            while let Some(at) = path.iter().rposition(|b| *b == b'/').filter(|at| *at > 0) {
                path = &path[..at];
                if !known.insert(path.to_vec()) {
                    break;
                }
                parents.push(Change { kind: ChangeKind::Modified, path: path.to_vec() });
            }
        }
        self.0.extend(parents);
        self.0.sort_by(|a, b| a.path.cmp(&b.path));
        self.0
    }
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}

/// Same as far as a directory is concerned: its size and links say nothing about what the user did.
fn same_directory(a: &Stat, b: &Stat) -> bool {
    (a.st_mode, a.st_uid, a.st_gid, a.st_mtime, a.st_mtime_nsec) == (b.st_mode, b.st_uid, b.st_gid, b.st_mtime, b.st_mtime_nsec)
}

fn open_child(dir: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<Option<OwnedFd>> {
    match rustix::fs::openat(dir, name, DIR_FLAGS, Mode::empty()) {
        Ok(child) => Ok(Some(child)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(errno) => Err(errno).at("open", printable(path)),
    }
}

fn check_depth(depth: usize, path: &[u8]) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Error::TooLarge {
            what: format!("nesting of directories at {}", printable(path)),
            limit: format!("{MAX_DEPTH} levels"),
        });
    }
    Ok(())
}

/// The changes an overlay's upper directory holds.
pub(crate) fn of_upper(upper: BorrowedFd<'_>, lower: &Layered) -> Result<Vec<Change>> {
    let mut changes = Changes::default();
    walk_upper(upper, b"", lower, &mut changes, 0)?;
    Ok(changes.mark_parents())
}

fn walk_upper(dir: BorrowedFd<'_>, path: &[u8], lower: &Layered, changes: &mut Changes, depth: usize) -> Result<()> {
    check_depth(depth, path)?;
    let present = names(dir).at("list", printable(path))?;
    if is_opaque(dir)? {
        for name in lower.list(path)?.iter().filter(|name| present.binary_search(name).is_err()) {
            changes.push(ChangeKind::Deleted, &join(path, name));
        }
    }
    for name in present {
        let Some(stat) = stat_opt(dir, &name).at("look at", printable(&name))? else { continue };
        let path = join(path, &name);
        let before = lower.stat(&path)?;
        if is_whiteout(&stat) {
            if before.is_some() {
                changes.push(ChangeKind::Deleted, &path);
            }
            continue;
        }
        let is_dir = file_type(&stat) == FileType::Directory;
        match &before {
            None => changes.push(ChangeKind::Added, &path),
            Some(before) if is_dir && file_type(before) == FileType::Directory && same_directory(&stat, before) => {}
            Some(_) => changes.push(ChangeKind::Modified, &path),
        }
        if is_dir && let Some(child) = open_child(dir, &name, &path)? {
            walk_upper(child.as_fd(), &path, lower, changes, depth + 1)?;
        }
    }
    Ok(())
}

/// The changes of a full copy.
pub(crate) fn of_copy(root: BorrowedFd<'_>, lower: &Layered) -> Result<Vec<Change>> {
    let mut changes = Changes::default();
    walk_copy(root, b"", lower, true, &mut changes, 0)?;
    Ok(changes.mark_parents())
}

fn walk_copy(dir: BorrowedFd<'_>, path: &[u8], lower: &Layered, was_dir: bool, changes: &mut Changes, depth: usize) -> Result<()> {
    check_depth(depth, path)?;
    let present = names(dir).at("list", printable(path))?;
    if was_dir {
        for name in lower.list(path)?.iter().filter(|name| present.binary_search(name).is_err()) {
            changes.push(ChangeKind::Deleted, &join(path, name));
        }
    }
    for name in present {
        let Some(stat) = stat_opt(dir, &name).at("look at", printable(&name))? else { continue };
        let path = join(path, &name);
        let before = if was_dir { lower.stat(&path)? } else { None };
        let is_dir = file_type(&stat) == FileType::Directory;
        let same = before.as_ref().is_some_and(|before| {
            same_directory(&stat, before) && (is_dir || (stat.st_size, stat.st_rdev) == (before.st_size, before.st_rdev))
        });
        match before {
            None => changes.push(ChangeKind::Added, &path),
            Some(_) if !same => changes.push(ChangeKind::Modified, &path),
            Some(_) => {}
        }
        if is_dir {
            let was_dir = before.is_some_and(|before| file_type(&before) == FileType::Directory);
            if let Some(child) = open_child(dir, &name, &path)? {
                walk_copy(child.as_fd(), &path, lower, was_dir, changes, depth + 1)?;
            }
        }
    }
    Ok(())
}

/// The changes as the tar of a layer; `root` holds the present state of what was added and modified.
pub(crate) fn write_layer(changes: &[Change], root: BorrowedFd<'_>, sink: &mut dyn Write) -> Result<()> {
    let mut packer = Packer::new(sink);
    for change in changes {
        let path = change.path.strip_prefix(b"/").unwrap_or(&change.path);
        let (above, name) = match path.iter().rposition(|b| *b == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&b""[..], path),
        };
        if change.kind == ChangeKind::Deleted {
            let mark = [b".wh.", name].concat();
            let entry = Entry::new(join(above, &mark), Kind::File, 0o600);
            packer.writer.file(&entry, &mut &b""[..])?;
            continue;
        }
        let dir = match crate::root::open_no_links(root, above, DIR_FLAGS) {
            Ok(dir) => dir,
            // It went away since the walk.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
            Err(errno) => return Err(errno).at("open", printable(above)),
        };
        if let Some(stat) = stat_opt(&dir, name).at("look at", printable(path))? {
            packer.one(dir.as_fd(), name, &stat, path)?;
        }
    }
    packer.writer.finish()?;
    Ok(())
}
