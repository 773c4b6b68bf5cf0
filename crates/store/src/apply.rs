//! Applies tar streams: of a layer to an empty directory, in the form overlayfs wants a lower directory, and of a copy to
//! a directory of a container's root.
//!
//! In a layer `.wh.x` becomes a character device 0:0 named `x`, `.wh..wh..opq` the attribute `trusted.overlay.opaque` of
//! its directory. Every path is resolved inside the root; a name with `..` is refused, an absolute one starts at the
//! directory. Of entries with one name the last counts. After an error what was made is still there: a
//! layer's directory is then removed by the caller.
//!
//! A container may change its root while we copy: every step is (directory, name), and no last component is followed.

use crate::error::{At, Error, Result, printable};
use crate::limits::{Names, Space};
use crate::recipe::Tape;
use crate::root::{
    DIR_FLAGS, PATH_MAX, chmod_no_follow, file_type, is_whiteout, keeps_xattr, open_in, open_no_links, proc_path, remove_tree, stat_opt,
};
use crate::tar::{Entry, Kind, Reader};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Name of overlayfs' mark of a directory that hides what is below it.
pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE_NAME: &[u8] = b".wh..wh..opq";
/// AUFS kept its own bookkeeping under these; old images still carry it.
const AUFS: [&[u8]; 3] = [b".wh..wh.plnk", b".wh..wh.orph", b".wh..wh.aufs"];

/// Owner and mode of an image's root directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RootMeta {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// What was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Applied {
    /// Sum of the sizes of the files, with holes.
    pub size: u64,
    /// Attributes of `/`, when the layer has an entry for it.
    pub root: Option<RootMeta>,
}

/// Applies all entries of `reader` to the empty directory `root`.
///
/// With a `tape`, which the reader's stream must record to, the data that goes to files is named there.
pub(crate) fn apply_layer<R: Read>(reader: &mut Reader<R>, root: BorrowedFd<'_>, space: &mut Space, tape: Option<Tape>) -> Result<Applied> {
    let mut applier = Applier::new(root, b"", Purpose::Layer, space);
    applier.tape = tape;
    applier.all(reader)?;
    Ok(Applied { size: applier.size, root: applier.root_meta })
}

/// Applies all entries of `reader` to the existing directory `directory` of `root`.
pub(crate) fn apply_copy<R: Read>(reader: &mut Reader<R>, root: BorrowedFd<'_>, directory: &[u8], options: UnpackOptions) -> Result<()> {
    let mut space = Space::unlimited();
    Applier::new(root, directory, Purpose::Copy(options), &mut space).all(reader)
}

/// How `docker cp` puts files into a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UnpackOptions {
    /// Do not replace a directory by something else, nor the other way round.
    pub no_overwrite_dir_non_dir: bool,
    /// Owner of everything; as the archive says when absent.
    pub owner: Option<(u32, u32)>,
}

#[derive(Debug, Clone, Copy)]
enum Purpose {
    Layer,
    Copy(UnpackOptions),
}

struct Applier<'a> {
    root: BorrowedFd<'a>,
    /// Where in the root the entries' names start.
    base: &'a [u8],
    purpose: Purpose,
    tape: Option<Tape>,
    /// The directory of the entry before: most entries are in the same one.
    parent: Option<Parent>,
    /// Times of directories are set at the end: each new file in them changes them.
    dirs: Vec<(Vec<u8>, Timespec)>,
    names: Names,
    /// Something had the name of the present entry.
    replaced: bool,
    /// The present directory is looked up again for the next entry.
    stale: bool,
    /// New files are of root, with the mode asked for but for the umask: not so below a directory with a default ACL or the
    /// setgid bit.
    inherits_nothing: bool,
    space: &'a mut Space,
    size: u64,
    root_meta: Option<RootMeta>,
    buffer: Vec<u8>,
}

/// The directory that entries are made in.
struct Parent {
    /// As the entries name it.
    path: Vec<u8>,
    /// Without links on the way, when a tape wants to know.
    real: Vec<u8>,
    dir: OwnedFd,
}

/// What had the name before.
enum Before {
    Nothing,
    Whiteout,
    Dir,
}

/// The components of an entry's name, without `.` and empty ones.
pub(crate) fn components(path: &[u8]) -> Result<Vec<&[u8]>> {
    if path.len() > PATH_MAX {
        return Err(Error::entry(path, "its name is longer than 4095 bytes"));
    }
    if path.contains(&0) {
        return Err(Error::entry(path, "its name contains a NUL"));
    }
    let mut parts = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(Error::entry(path, "its name contains ..")),
            part if part.len() > 255 => return Err(Error::entry(path, "a part of its name is longer than 255 bytes")),
            part => parts.push(part),
        }
    }
    Ok(parts)
}

pub(crate) fn owner(entry: &Entry) -> Result<(Uid, Gid)> {
    // -1 means "do not change" to the kernel, so the largest id is one less.
    let id = |value: i64| u32::try_from(value).ok().filter(|id| *id != u32::MAX);
    match (id(entry.uid), id(entry.gid)) {
        (Some(uid), Some(gid)) => Ok((Uid::from_raw(uid), Gid::from_raw(gid))),
        _ => Err(Error::entry(&entry.path, format!("its owner {}:{} is out of range", entry.uid, entry.gid))),
    }
}

/// The entry's time, clamped to what every file system holds (year 2446 on ext4).
pub(crate) fn modified(entry: &Entry) -> Timespec {
    Timespec { tv_sec: entry.mtime.clamp(-(1 << 31), (1 << 34) - 1), tv_nsec: i64::from(entry.mtime_nanos.min(999_999_999)) }
}

fn times(modified: Timespec) -> Timestamps {
    Timestamps { last_access: modified, last_modification: modified }
}

impl<'a> Applier<'a> {
    fn new(root: BorrowedFd<'a>, base: &'a [u8], purpose: Purpose, space: &'a mut Space) -> Self {
        Applier {
            root,
            base,
            purpose,
            tape: None,
            parent: None,
            dirs: Vec::new(),
            names: Names::default(),
            replaced: false,
            stale: false,
            inherits_nothing: matches!(purpose, Purpose::Layer),
            space,
            size: 0,
            root_meta: None,
            buffer: vec![0; 128 << 10],
        }
    }

    fn all<R: Read>(&mut self, reader: &mut Reader<R>) -> Result<()> {
        while let Some(mut entry) = reader.next_entry()? {
            if let Purpose::Copy(UnpackOptions { owner: Some((uid, gid)), .. }) = self.purpose {
                (entry.uid, entry.gid) = (uid.into(), gid.into());
            }
            self.entry(&entry, reader)?;
            self.space.made()?;
        }
        self.directory_times()
    }

    fn is_layer(&self) -> bool {
        matches!(self.purpose, Purpose::Layer)
    }

    fn entry<R: Read>(&mut self, entry: &Entry, reader: &mut Reader<R>) -> Result<()> {
        if entry.kind == Kind::Dir {
            let gives = entry.mode & 0o2000 != 0 || entry.xattrs.iter().any(|(key, _)| key == b"system.posix_acl_default");
            self.inherits_nothing &= !gives;
        }
        let parts = components(&entry.path)?;
        let Some((name, above)) = parts.split_last() else { return self.root_entry(entry) };
        if self.is_layer() && parts.iter().any(|part| AUFS.contains(part)) {
            return Ok(());
        }
        if self.is_layer() && above.iter().any(|part| part.starts_with(WHITEOUT)) {
            return Err(Error::entry(&entry.path, "a directory has a name that is reserved for deletions"));
        }
        let above = self.under_base(&above.join(&b'/'));
        self.enter(&above, &entry.path)?;
        if let Some(hidden) = name.strip_prefix(WHITEOUT).filter(|_| self.is_layer()) {
            return self.whiteout(entry, name, hidden);
        }
        if entry.kind == Kind::File {
            return self.file(entry, name, reader);
        }
        let before = self.make_room(entry, name)?;
        let replaced = self.replaced;
        self.make(entry, name, &before)?;
        if replaced {
            // What was there may have been on the way to where a path leads.
            self.parent = None;
        }
        Ok(())
    }

    fn under_base(&self, path: &[u8]) -> Vec<u8> {
        match (self.base, path) {
            (b"", path) => path.to_vec(),
            (base, b"") => base.to_vec(),
            (base, path) => [base, b"/", path].concat(),
        }
    }

    fn root_entry(&mut self, entry: &Entry) -> Result<()> {
        if entry.kind != Kind::Dir {
            return Err(Error::entry(&entry.path, "the root can only be a directory"));
        }
        let (uid, gid) = owner(entry)?;
        self.root_meta = Some(RootMeta { mode: entry.mode, uid: uid.as_raw(), gid: gid.as_raw() });
        let at = |e| refused(e, entry);
        // The base of a copy may be reached through a link.
        let dir = open_in(self.root, self.base, DIR_FLAGS.difference(OFlags::NOFOLLOW)).map_err(at)?;
        self.dress(dir.as_fd(), entry)?;
        self.remember(self.base.to_vec(), modified(entry))?;
        Ok(())
    }

    /// Makes `above` the present directory, creating what is missing of it.
    fn enter(&mut self, above: &[u8], path: &[u8]) -> Result<()> {
        if self.parent.as_ref().is_some_and(|parent| parent.path == above) {
            return Ok(());
        }
        let refuse = |errno| refused_for(errno, path, || "cannot reach its directory: ".into());
        let flags = OFlags::DIRECTORY | OFlags::PATH;
        let dir = match open_in(self.root, above, flags) {
            Err(Errno::NOENT | Errno::NOTDIR) => {
                self.make_parents(above, path)?;
                open_in(self.root, above, flags).map_err(refuse)?
            }
            result => result.map_err(refuse)?,
        };
        let real = match &self.tape {
            Some(_) => self.real_path(above, dir.as_fd()).map_err(refuse)?,
            None => Vec::new(),
        };
        self.parent = Some(Parent { path: above.to_vec(), real, dir });
        Ok(())
    }

    /// Where a directory of the root is, whatever links led to it.
    fn real_path(&self, path: &[u8], dir: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
        match open_no_links(self.root, path, OFlags::DIRECTORY | OFlags::PATH) {
            Err(Errno::LOOP) => {}
            result => return result.map(|_| path.to_vec()),
        }
        let name = |fd: BorrowedFd<'_>| rustix::fs::readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::new());
        let (root, dir) = (name(self.root)?, name(dir)?);
        let below = dir.to_bytes().strip_prefix(root.to_bytes()).ok_or(Errno::STALE)?;
        Ok(below.strip_prefix(b"/").unwrap_or(below).to_vec())
    }

    /// The name in the present directory as a path without links.
    fn real(&self, name: &[u8]) -> Vec<u8> {
        match self.parent.as_ref().map(|parent| parent.real.as_slice()) {
            None | Some(b"") => name.to_vec(),
            Some(above) => [above, b"/", name].concat(),
        }
    }

    fn make_parents(&mut self, above: &[u8], path: &[u8]) -> Result<()> {
        let refuse = |errno| refused_for(errno, path, || "cannot make its directory: ".into());
        // Where a copy goes was there when it began: it is not for the archive to make it.
        if !self.base.is_empty() {
            open_in(self.root, self.base, OFlags::DIRECTORY | OFlags::PATH).map_err(|errno| match errno {
                Errno::NOENT | Errno::NOTDIR => Error::NoSuchPath { path: format!("/{}", printable(self.base)) },
                errno => refuse(errno),
            })?;
        }
        let mut done = if self.base.is_empty() { 0 } else { self.base.len() + 1 };
        while done < above.len() {
            let end = above[done..].iter().position(|b| *b == b'/').map_or(above.len(), |at| done + at);
            let name = &above[done..end];
            let parent = open_in(self.root, &above[..done], OFlags::DIRECTORY | OFlags::PATH).map_err(refuse)?;
            match stat_opt(&parent, name).map_err(refuse)? {
                None => {
                    rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)).map_err(refuse)?;
                    if self.is_layer() {
                        // Nothing says when: the same layer gives the same tree everywhere.
                        self.remember(above[..end].to_vec(), Timespec { tv_sec: 0, tv_nsec: 0 })?;
                    }
                }
                Some(stat) if is_whiteout(&stat) && self.is_layer() => {
                    // Deleted below, made anew here: what was below stays hidden.
                    rustix::fs::unlinkat(&parent, name, AtFlags::empty()).map_err(refuse)?;
                    rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)).map_err(refuse)?;
                    set_opaque(parent.as_fd(), name).map_err(refuse)?;
                }
                Some(_) => {}
            }
            done = end + 1;
        }
        Ok(())
    }

    fn dir(&self) -> BorrowedFd<'_> {
        self.parent.as_ref().map_or(self.root, |parent| parent.dir.as_fd())
    }

    fn whiteout(&mut self, entry: &Entry, name: &[u8], hidden: &[u8]) -> Result<()> {
        let at = |e| refused(e, entry);
        if name == OPAQUE_NAME {
            let dir = rustix::fs::openat(self.dir(), ".", DIR_FLAGS, Mode::empty()).map_err(at)?;
            return rustix::fs::fsetxattr(&dir, OPAQUE, b"y", XattrFlags::empty()).map_err(at);
        }
        if matches!(hidden, b"" | b"." | b"..") || hidden.starts_with(WHITEOUT) {
            return Err(Error::entry(&entry.path, "it is not a valid name of a deletion"));
        }
        // A deletion speaks of the layers below: what this layer itself has under the name stays.
        match stat_opt(self.dir(), hidden).map_err(at)? {
            None => {
                let device = rustix::fs::makedev(0, 0);
                rustix::fs::mknodat(self.dir(), hidden, FileType::CharacterDevice, Mode::empty(), device).map_err(at)
            }
            Some(stat) if file_type(&stat) == FileType::Directory => set_opaque(self.dir(), hidden).map_err(at),
            Some(_) => Ok(()),
        }
    }

    /// Removes what has the entry's name, unless both are directories.
    fn make_room(&mut self, entry: &Entry, name: &[u8]) -> Result<Before> {
        let at = |e| refused(e, entry);
        self.replaced = false;
        let Some(stat) = stat_opt(self.dir(), name).map_err(at)? else { return Ok(Before::Nothing) };
        self.replaced = true;
        let was_dir = file_type(&stat) == FileType::Directory;
        if was_dir && entry.kind == Kind::Dir {
            return Ok(Before::Dir);
        }
        if let Purpose::Copy(UnpackOptions { no_overwrite_dir_non_dir: true, .. }) = self.purpose {
            let path = printable(&entry.path);
            if was_dir {
                return Err(Error::BadPath { path, reason: "cannot overwrite directory with non-directory".into() });
            }
            if entry.kind == Kind::Dir {
                return Err(Error::BadPath { path, reason: "cannot overwrite non-directory with directory".into() });
            }
        }
        match &self.tape {
            Some(tape) => tape.set_aside(self.dir(), name, &self.real(name))?,
            None => remove_tree(self.dir(), name).map_err(at)?,
        }
        Ok(if is_whiteout(&stat) && self.is_layer() { Before::Whiteout } else { Before::Nothing })
    }

    fn make(&mut self, entry: &Entry, name: &[u8], before: &Before) -> Result<()> {
        let at = |e| refused(e, entry);
        let dir = self.dir();
        let mode = Mode::from_raw_mode(entry.mode);
        match entry.kind {
            Kind::Dir => {
                let (uid, gid) = owner(entry)?;
                let plain = entry.xattrs.is_empty() && self.comes_plain(uid, gid, entry.mode);
                if !matches!(before, Before::Dir) {
                    let first = if plain { mode } else { Mode::from_raw_mode(0o700) };
                    rustix::fs::mkdirat(dir, name, first).map_err(at)?;
                }
                if matches!(before, Before::Whiteout) {
                    set_opaque(dir, name).map_err(at)?;
                }
                if !plain || matches!(before, Before::Dir) {
                    let fd = rustix::fs::openat(dir, name, DIR_FLAGS, Mode::empty()).map_err(at)?;
                    self.dress(fd.as_fd(), entry)?;
                }
                let path = self.parent.as_ref().map_or(&b""[..], |parent| parent.path.as_slice());
                self.remember([path, b"/", name].concat(), modified(entry))?;
                return Ok(());
            }
            Kind::Symlink => {
                if entry.link.is_empty() || entry.link.len() > PATH_MAX || entry.link.contains(&0) {
                    return Err(Error::entry(&entry.path, "its target is not valid"));
                }
                rustix::fs::symlinkat(entry.link.as_slice(), dir, name).map_err(at)?;
            }
            Kind::Link => return self.hard_link(entry, name),
            Kind::Char | Kind::Block => {
                let kind = if entry.kind == Kind::Char { FileType::CharacterDevice } else { FileType::BlockDevice };
                // The kernel's numbers have 12 bits for the major and 20 for the minor.
                if entry.device.0 > 0xfff || entry.device.1 > 0xf_ffff {
                    return Err(Error::entry(&entry.path, "its device number is out of range"));
                }
                rustix::fs::mknodat(dir, name, kind, mode, rustix::fs::makedev(entry.device.0, entry.device.1)).map_err(at)?;
            }
            Kind::Fifo => rustix::fs::mknodat(dir, name, FileType::Fifo, mode, 0).map_err(at)?,
            Kind::File => unreachable!("files have data and go another way"),
        }
        let (uid, gid) = owner(entry)?;
        if !(self.inherits_nothing && uid.is_root() && gid.is_root()) {
            rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(at)?;
        }
        if entry.kind != Kind::Symlink {
            chmod_no_follow(dir, name, mode).map_err(at)?;
        }
        let path = proc_path(dir, name);
        for (key, value) in entry.xattrs.iter().filter(|(key, _)| keeps_xattr(key)) {
            tolerate(rustix::fs::lsetxattr(path.as_slice(), key.as_slice(), value, XattrFlags::empty()), key).map_err(at)?;
        }
        rustix::fs::utimensat(dir, name, &times(modified(entry)), AtFlags::SYMLINK_NOFOLLOW).map_err(at)
    }

    fn hard_link(&self, entry: &Entry, name: &[u8]) -> Result<()> {
        let refuse = |reason: String| Error::entry(&entry.path, reason);
        let parts = components(&entry.link).map_err(|_| refuse(format!("its target {:?} is not valid", printable(&entry.link))))?;
        let Some((target, above)) = parts.split_last() else { return Err(refuse("it is a hard link to the root".into())) };
        let failed = |errno| refused_for(errno, &entry.path, || format!("cannot link to {:?}: ", printable(&entry.link)));
        let above = self.under_base(&above.join(&b'/'));
        let from = open_in(self.root, &above, OFlags::DIRECTORY | OFlags::PATH).map_err(failed)?;
        rustix::fs::linkat(&from, *target, self.dir(), name, AtFlags::empty()).map_err(failed)
    }

    fn file<R: Read>(&mut self, entry: &Entry, name: &[u8], reader: &mut Reader<R>) -> Result<()> {
        let at = |e| refused(e, entry);
        let (uid, gid) = owner(entry)?;
        self.size = self.size.saturating_add(entry.size);
        // Announced sizes count before anything is written, holes too.
        self.space.announce(self.size)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mode = Mode::from_raw_mode(entry.mode);
        // Most files can be made with their final mode. In a container nobody may open one before it is complete.
        let plain = self.comes_plain(uid, gid, entry.mode);
        let make = |dir: BorrowedFd<'_>| rustix::fs::openat(dir, name, flags, if plain { mode } else { Mode::from_raw_mode(0o600) });
        // Mostly nothing has the name.
        let file = match make(self.dir()) {
            Err(Errno::EXIST) => {
                self.make_room(entry, name)?;
                let file = make(self.dir()).map_err(at)?;
                // Its path may have led through what was replaced. The file itself is where it should be.
                self.stale = self.replaced;
                file
            }
            result => result.map_err(at)?,
        };
        match &entry.sparse {
            None => {
                self.name_data(name, 0, entry.size)?;
                self.copy(&file, entry.size, reader, entry)?;
            }
            Some(extents) => {
                for extent in extents {
                    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(extent.offset)).map_err(at)?;
                    self.name_data(name, extent.offset, extent.length)?;
                    self.copy(&file, extent.length, reader, entry)?;
                }
                rustix::fs::ftruncate(&file, entry.size).map_err(at)?;
            }
        }
        if !plain {
            rustix::fs::fchown(&file, Some(uid), Some(gid)).map_err(at)?;
            // After chown, which takes setuid bits and capabilities away.
            rustix::fs::fchmod(&file, mode).map_err(at)?;
        }
        for (key, value) in entry.xattrs.iter().filter(|(key, _)| keeps_xattr(key)) {
            tolerate(rustix::fs::fsetxattr(&file, key.as_slice(), value, XattrFlags::empty()), key).map_err(at)?;
        }
        rustix::fs::futimens(&file, &times(modified(entry))).map_err(at)?;
        if std::mem::take(&mut self.stale) {
            self.parent = None;
        }
        Ok(())
    }

    /// True when a new file or directory has exactly this owner and mode.
    fn comes_plain(&self, uid: Uid, gid: Gid, mode: u32) -> bool {
        self.inherits_nothing && uid.is_root() && gid.is_root() && mode & (umask() | 0o7000) == 0
    }

    /// What is copied next goes there.
    fn name_data(&self, name: &[u8], offset: u64, length: u64) -> Result<()> {
        match &self.tape {
            Some(tape) if length > 0 => tape.data(&self.real(name), offset, length),
            _ => Ok(()),
        }
    }

    fn copy<R: Read>(&mut self, file: &OwnedFd, length: u64, reader: &mut Reader<R>, entry: &Entry) -> Result<()> {
        let mut left = length;
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            let got = reader.read_data(&mut self.buffer[..want])?;
            if got == 0 {
                return Err(Error::entry(&entry.path, "its data ends early"));
            }
            let mut rest = &self.buffer[..got];
            while !rest.is_empty() {
                let put = rustix::io::retry_on_intr(|| rustix::io::write(file, rest)).map_err(|e| refused(e, entry))?;
                rest = &rest[put..];
            }
            self.space.wrote(got as u64)?;
            left -= got as u64;
        }
        if let Some(tape) = &self.tape {
            tape.data_ends();
        }
        Ok(())
    }

    /// Owner, mode and attributes of a directory.
    fn dress(&self, dir: BorrowedFd<'_>, entry: &Entry) -> Result<()> {
        let at = |e| refused(e, entry);
        let (uid, gid) = owner(entry)?;
        rustix::fs::fchown(dir, Some(uid), Some(gid)).map_err(at)?;
        rustix::fs::fchmod(dir, Mode::from_raw_mode(entry.mode)).map_err(at)?;
        for (key, value) in entry.xattrs.iter().filter(|(key, _)| keeps_xattr(key)) {
            tolerate(rustix::fs::fsetxattr(dir, key.as_slice(), value, XattrFlags::empty()), key).map_err(at)?;
        }
        Ok(())
    }

    fn remember(&mut self, path: Vec<u8>, modified: Timespec) -> Result<()> {
        self.names.remember(&path, "directories of a layer")?;
        self.dirs.push((path, modified));
        Ok(())
    }

    fn directory_times(&mut self) -> Result<()> {
        // In the order of the entries: of several for one directory the last counts.
        for (path, modified) in self.dirs.drain(..) {
            // A later entry may have replaced the directory: then its own times count.
            if let Ok(dir) = open_in(self.root, &path, DIR_FLAGS) {
                let times = Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification: modified };
                rustix::fs::futimens(&dir, &times).at("set the times of", printable(&path))?;
            }
        }
        Ok(())
    }
}

/// The umask of this process; umask(2) could only tell it by changing it for all threads.
fn umask() -> u32 {
    static UMASK: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    *UMASK.get_or_init(|| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let value = status.lines().find_map(|line| line.strip_prefix("Umask:")).and_then(|text| u32::from_str_radix(text.trim(), 8).ok());
        // Unknown: nothing is left to it.
        value.unwrap_or(0o777)
    })
}

pub(crate) fn set_opaque(dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    rustix::fs::lsetxattr(proc_path(dir, name).as_slice(), OPAQUE, b"y", XattrFlags::empty())
}

/// A file system without attributes, or one that has none on links and devices, does not make an image unusable.
fn tolerate(result: Result<(), Errno>, key: &[u8]) -> Result<(), Errno> {
    match result {
        Err(Errno::OPNOTSUPP) => Ok(()),
        Err(Errno::PERM) if key.starts_with(b"user.") => Ok(()),
        result => result,
    }
}

/// The kernel's refusal, as one of the entry; what the host lacks is not the entry's fault.
fn refused(errno: Errno, entry: &Entry) -> Error {
    refused_for(errno, &entry.path, String::new)
}

/// The same of an entry's path, with what was attempted.
fn refused_for(errno: Errno, path: &[u8], attempt: impl FnOnce() -> String) -> Error {
    match errno {
        Errno::NOSPC | Errno::DQUOT | Errno::IO | Errno::ROFS | Errno::MFILE | Errno::NFILE | Errno::NOMEM => {
            Error::Io { action: "write", path: printable(path), source: errno.into() }
        }
        errno => Error::entry(path, attempt() + &std::io::Error::from(errno).to_string()),
    }
}
