//! Looking up paths in a stack of layers without mounting it: what overlayfs would show.

use crate::apply::OPAQUE;
use crate::error::{At, Result};
use crate::root::{DIR_FLAGS, file_type, is_whiteout, names, open_dir, open_no_links, stat_opt};
use rustix::fs::{FileType, Stat};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// Layers, the highest first.
#[derive(Debug)]
pub(crate) struct Layered(Vec<OwnedFd>);

impl Layered {
    /// Opens the layers, given lowest first.
    pub fn open(lowest_first: &[PathBuf]) -> Result<Layered> {
        let open = |path: &PathBuf| open_dir(path).at("open", path.display());
        Ok(Layered(lowest_first.iter().rev().map(open).collect::<Result<_>>()?))
    }

    /// The stat of a path (no leading slash, no links followed), if the stack shows it.
    pub fn stat(&self, path: &[u8]) -> Result<Option<Stat>> {
        for layer in &self.0 {
            match look(layer.as_fd(), path)? {
                Look::Found(stat) => return Ok(Some(stat)),
                Look::Hidden => return Ok(None),
                Look::Below => {}
            }
        }
        Ok(None)
    }

    /// The names the stack shows in a directory.
    pub fn list(&self, path: &[u8]) -> Result<BTreeSet<Vec<u8>>> {
        let (mut shown, mut hidden) = (BTreeSet::new(), BTreeSet::new());
        for layer in &self.0 {
            match look(layer.as_fd(), path)? {
                Look::Found(stat) if file_type(&stat) == FileType::Directory => {
                    let dir = open_no_links(layer.as_fd(), path, DIR_FLAGS).at("open", "a directory of a layer")?;
                    for name in names(&dir).at("list", "a directory of a layer")? {
                        if hidden.contains(&name) || shown.contains(&name) {
                            continue;
                        }
                        let whiteout = stat_opt(&dir, &name).at("look at", "a file of a layer")?.is_some_and(|stat| is_whiteout(&stat));
                        if whiteout {
                            hidden.insert(name)
                        } else {
                            shown.insert(name)
                        };
                    }
                    if path_is_opaque(layer.as_fd(), path)? {
                        break;
                    }
                }
                Look::Found(_) | Look::Hidden => break,
                Look::Below => {}
            }
        }
        Ok(shown)
    }
}

enum Look {
    Found(Stat),
    /// Deleted here, or hidden by something that is no directory.
    Hidden,
    /// Not here: lower layers decide.
    Below,
}

fn look(layer: BorrowedFd<'_>, path: &[u8]) -> Result<Look> {
    let parts: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|part| !part.is_empty()).collect();
    if parts.is_empty() {
        let stat = rustix::fs::fstat(layer).at("look at", "a layer")?;
        return Ok(Look::Found(stat));
    }
    // The whole path at once: mostly it is there, with nothing hidden on the way.
    if let Some(stat) = whole(layer, path)? {
        return Ok(if is_whiteout(&stat) { Look::Hidden } else { Look::Found(stat) });
    }
    let mut opaque = false;
    for end in 1..parts.len() + 1 {
        let prefix = parts[..end].join(&b'/');
        match whole(layer, &prefix)? {
            None => return Ok(if opaque { Look::Hidden } else { Look::Below }),
            Some(stat) if file_type(&stat) == FileType::Directory => opaque |= path_is_opaque(layer, &prefix)?,
            Some(_) => return Ok(Look::Hidden),
        }
    }
    Ok(Look::Hidden)
}

/// The stat of a path whose directories are no links.
fn whole(layer: BorrowedFd<'_>, path: &[u8]) -> Result<Option<Stat>> {
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::NOFOLLOW;
    // RESOLVE_NO_SYMLINKS refuses a last link too: so the directory is opened and the name looked at in it.
    let (above, name) = match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&b""[..], path),
    };
    match open_no_links(layer, above, flags) {
        Ok(dir) => stat_opt(&dir, name).at("look at", "a file of a layer"),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(errno) => Err(errno).at("look at", "a directory of a layer"),
    }
}

fn path_is_opaque(layer: BorrowedFd<'_>, path: &[u8]) -> Result<bool> {
    let dir = match open_no_links(layer, path, DIR_FLAGS) {
        Ok(dir) => dir,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(false),
        Err(errno) => return Err(errno).at("open", "a directory of a layer"),
    };
    is_opaque(dir.as_fd())
}

/// True for a directory that hides what lower layers have under its name.
pub(crate) fn is_opaque(dir: BorrowedFd<'_>) -> Result<bool> {
    let mut value = [0u8; 4];
    match rustix::fs::fgetxattr(dir, OPAQUE, &mut value[..]) {
        Ok(length) => Ok(&value[..length] == b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
        Err(errno) => Err(errno).at("read the attributes of", "a directory of a layer"),
    }
}
