//! Containers' file systems.
//!
//! overlay: the image's layers, above them the init layer, above it the container's `upper`. Making one is three
//! directories and a link; nothing is synced or recorded in the database. The mount is detached: it is in no mount table
//! and vanishes with its last descriptor.
//!
//! vfs: a copy of all layers. btrfs: a snapshot of what they are merged to, see there.
//!
//! The init layer holds the mount points every container needs (`/proc`, `/etc/hosts`, …) as far as the image lacks
//! them, so that they show neither in a diff nor in a commit. There is one for each image, made with its first container.

use crate::apply::{RootMeta, apply_layer};
use crate::btrfs;
use crate::copy::{CopyOptions, copy_tree};
use crate::diff::{self, Change};
use crate::error::{At, Error, Result};
use crate::ingest::random_name;
use crate::layered::Layered;
use crate::limits::Space;
use crate::overlay::{self, MountOptions};
use crate::root::{DIR_FLAGS, MAX_DEPTH, file_type, names, open_dir, stat_opt};
use crate::store::{Driver, Store};
use crate::tar::{Entry, Kind, Reader, Writer};
use naru_types::{ContainerId, Digest};
use rustix::fs::{CWD, FileType, Gid, Mode, Uid};
use rustix::mount::{OpenTreeFlags, open_tree};
use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Size of a container's file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SnapshotSize {
    /// What the container wrote.
    pub rw: u64,
    /// That and its image.
    pub root_fs: u64,
}

/// What every container gets, as Docker's init layer has it.
const MOUNT_POINTS: [(&str, Kind, &str); 10] = [
    ("dev/pts", Kind::Dir, ""),
    ("dev/shm", Kind::Dir, ""),
    ("proc", Kind::Dir, ""),
    ("sys", Kind::Dir, ""),
    (".dockerenv", Kind::File, ""),
    ("etc/resolv.conf", Kind::File, ""),
    ("etc/hosts", Kind::File, ""),
    ("etc/hostname", Kind::File, ""),
    ("dev/console", Kind::File, ""),
    ("etc/mtab", Kind::Symlink, "/proc/mounts"),
];

/// Where the files of a container or an image lie on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directories {
    /// Read-only layers, highest first.
    pub lower: Vec<PathBuf>,
    /// The topmost directory.
    pub upper: PathBuf,
    /// What overlayfs works in.
    pub work: Option<PathBuf>,
}

impl Store {
    /// Makes the file system of a container; without an image it is empty.
    pub fn prepare(&self, id: &ContainerId, image: Option<&Digest>) -> Result<()> {
        if self.has_snapshot(id) {
            return Err(Error::SnapshotExists { id: id.to_string() });
        }
        let (layers, meta) = self.layers_of(image)?;
        // From here on a removal of the image leaves its layers alone.
        self.index.write().expect("the index is not poisoned").containers.insert(id.clone(), image.cloned());
        if self.take_ahead(id, image) {
            return Ok(());
        }
        let made = self.make_files(self.containers.as_fd(), id.as_str(), image, &layers, meta);
        if made.is_err() {
            self.remove_snapshot(id)?;
        }
        made
    }

    /// An image's layers, lowest first, and whose the root directory is.
    pub(crate) fn layers_of(&self, image: Option<&Digest>) -> Result<(Vec<PathBuf>, Option<RootMeta>)> {
        let index = self.index.read().expect("the index is not poisoned");
        let diff_ids = match image {
            Some(image) => match index.images.get(image) {
                Some(stored) => stored.config.rootfs.diff_ids.as_slice(),
                None => return Err(Error::NoSuchImage { query: image.to_string() }),
            },
            None => &[],
        };
        let meta = diff_ids.iter().rev().find_map(|layer| index.layers.get(layer).and_then(|layer| layer.root));
        Ok((diff_ids.iter().map(|layer| self.layer_path(layer)).collect(), meta))
    }

    /// Makes the directories of a container's file system in `parent`.
    pub(crate) fn make_files(
        &self,
        parent: BorrowedFd<'_>,
        name: &str,
        image: Option<&Digest>,
        layers: &[PathBuf],
        meta: Option<RootMeta>,
    ) -> Result<()> {
        let init = self.init_layer(image, layers)?;
        let tree = match self.driver {
            Driver::Btrfs => self.image_tree(image, layers, &init)?,
            Driver::Overlay | Driver::Vfs => PathBuf::new(),
        };
        let made = || format!("the files of container {name}");
        let make = |mode: u32, place: BorrowedFd<'_>, name: &str| {
            rustix::fs::mkdirat(place, name, Mode::from_raw_mode(mode)).at("make", made())?;
            rustix::fs::openat(place, name, DIR_FLAGS, Mode::empty()).at("open", made())
        };
        let directory = make(0o700, parent, name)?;
        if let Some(image) = image {
            rustix::fs::symlinkat(image.to_string(), &directory, "image").at("make", made())?;
        }
        let top = self.top_name();
        let root = match self.driver {
            Driver::Overlay => {
                rustix::fs::mkdirat(&directory, "work", Mode::from_raw_mode(0o700)).at("make", made())?;
                make(0o755, directory.as_fd(), top)?
            }
            Driver::Vfs => {
                let root = make(0o755, directory.as_fd(), top)?;
                for layer in layers.iter().chain([&init]) {
                    let layer = open_dir(layer).at("open", layer.display())?;
                    copy_tree(layer.as_fd(), root.as_fd(), CopyOptions { overlay: true })?;
                }
                root
            }
            Driver::Btrfs => {
                btrfs::snapshot(&tree, directory.as_fd(), top).at("make a snapshot for", made())?;
                rustix::fs::openat(&directory, top, DIR_FLAGS, Mode::empty()).at("open", made())?
            }
        };
        let meta = meta.unwrap_or(RootMeta { mode: 0o755, uid: 0, gid: 0 });
        if (meta.uid, meta.gid) != (0, 0) {
            let (uid, gid) = (Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)));
            rustix::fs::fchown(&root, uid, gid).at("change the owner of", made())?;
        }
        // mkdir's mode is subject to the umask.
        rustix::fs::fchmod(&root, Mode::from_raw_mode(meta.mode)).at("change the mode of", made())
    }

    /// The container's file system as a detached mount: move it where it is needed, or read through it.
    ///
    /// Two mounts of one container at a time are to be avoided: overlayfs does not define what happens.
    pub fn mount(&self, id: &ContainerId) -> Result<OwnedFd> {
        self.mount_with(id, MountOptions::default())
    }

    /// The same, with options. Drivers without a mount of their own leave labels to the caller, see
    /// [`Driver::labels_mounts`].
    pub fn mount_with(&self, id: &ContainerId, options: MountOptions<'_>) -> Result<OwnedFd> {
        let path = self.snapshot(id)?;
        match self.driver {
            Driver::Vfs | Driver::Btrfs => {
                let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
                open_tree(CWD, path.join("root"), flags).at("mount", path.join("root").display())
            }
            Driver::Overlay => match self.ahead.mount(id, options) {
                Some(mount) => Ok(mount),
                None => overlay::mount(&self.lower(id)?, &path.join("upper"), &path.join("work"), options),
            },
        }
    }

    /// The directories a container's overlay is made of; nothing with the drivers that have one directory for all.
    pub fn container_directories(&self, id: &ContainerId) -> Result<Option<Directories>> {
        if self.driver != Driver::Overlay {
            return Ok(None);
        }
        let path = self.snapshot(id)?;
        let mut lower = self.lower(id)?;
        lower.reverse();
        Ok(Some(Directories { lower, upper: path.join("upper"), work: Some(path.join("work")) }))
    }

    /// The same for an image: its highest layer is the upper one, which nobody writes.
    pub fn image_directories(&self, layers: &[Digest]) -> Option<Directories> {
        let mut lower: Vec<PathBuf> = layers.iter().rev().map(|layer| self.layer_path(layer)).collect();
        if self.driver != Driver::Overlay || lower.is_empty() {
            return None;
        }
        let upper = lower.remove(0);
        Some(Directories { lower, upper, work: None })
    }

    /// True when the container has a file system here.
    pub fn has_snapshot(&self, id: &ContainerId) -> bool {
        self.index.read().expect("the index is not poisoned").containers.contains_key(id)
    }

    /// All containers with a file system here; those the engine does not know are leftovers.
    pub fn snapshots(&self) -> Vec<ContainerId> {
        self.index.read().expect("the index is not poisoned").containers.keys().cloned().collect()
    }

    /// The image a container's file system is made of.
    pub fn snapshot_image(&self, id: &ContainerId) -> Result<Option<Digest>> {
        let index = self.index.read().expect("the index is not poisoned");
        index.containers.get(id).cloned().ok_or_else(|| Error::NoSuchSnapshot { id: id.to_string() })
    }

    /// What the container changed, in the order of the paths. `root` is not needed by any driver yet: all see the files
    /// where they are kept, also while the container runs.
    pub fn changes(&self, id: &ContainerId, _root: Option<BorrowedFd<'_>>) -> Result<Vec<Change>> {
        let path = self.snapshot(id)?;
        let lower = Layered::open(&self.lower(id)?)?;
        let top = self.top(&path)?;
        match self.driver {
            Driver::Overlay => diff::of_upper(top.as_fd(), &lower),
            Driver::Vfs | Driver::Btrfs => diff::of_copy(top.as_fd(), &lower),
        }
    }

    /// The size of what the container wrote, and of all it sees.
    pub fn sizes(&self, id: &ContainerId) -> Result<SnapshotSize> {
        let path = self.snapshot(id)?;
        let image = self.snapshot_image(id)?;
        let image_size = match image {
            Some(image) => self.image(&image)?.size,
            None => 0,
        };
        let top = self.top(&path)?;
        let rw = match self.driver {
            Driver::Overlay => tree_size(top.as_fd())?,
            Driver::Vfs | Driver::Btrfs => match self.changes(id, None) {
                Ok(changes) => changes.iter().map(|change| file_size(top.as_fd(), &change.path)).sum(),
                // Nested too deeply to be compared.
                Err(Error::TooLarge { .. }) => tree_size(top.as_fd())?.saturating_sub(image_size),
                Err(error) => return Err(error),
            },
        };
        Ok(SnapshotSize { rw, root_fs: image_size + rw })
    }

    /// Removes a container's file system, when nobody holds it any more; its space is freed in the background. Absent is fine.
    pub fn remove_snapshot(&self, id: &ContainerId) -> Result<()> {
        let orphaned = {
            let mut holders = self.holders.0.lock().expect("holders are counted without a panic");
            if let Some(holder) = holders.get_mut(id) {
                holder.removed = true;
                return Ok(());
            }
            self.ahead.forget(id);
            self.discard(&self.container_path(id))?;
            let mut index = self.index.write().expect("the index is not poisoned");
            let image = index.containers.remove(id).flatten();
            image.filter(|image| index.images.get(image).is_some_and(|stored| stored.record.hidden) && !index.is_used(image))
        };
        if let Some(image) = orphaned {
            self.forget_image(&image)?;
        }
        Ok(())
    }

    /// Writes everything below `root` (a detached mount, or `/proc/<pid>/root`) as a tar stream; other mounts in it are
    /// empty directories.
    pub fn export(&self, root: BorrowedFd<'_>, sink: &mut dyn std::io::Write) -> Result<()> {
        let mut packer = crate::pack::Packer::new(sink);
        packer.one_mount = true;
        let root = rustix::fs::openat(root, ".", DIR_FLAGS, Mode::empty()).at("open", "the root of a container")?;
        packer.below(root.as_fd(), b"", 0)?;
        packer.writer.finish()?;
        Ok(())
    }

    pub(crate) fn snapshot(&self, id: &ContainerId) -> Result<PathBuf> {
        if !self.has_snapshot(id) {
            return Err(Error::NoSuchSnapshot { id: id.to_string() });
        }
        Ok(self.container_path(id))
    }

    fn top_name(&self) -> &'static str {
        match self.driver {
            Driver::Overlay => "upper",
            Driver::Vfs | Driver::Btrfs => "root",
        }
    }

    /// The directory with the container's own files.
    pub(crate) fn top(&self, snapshot: &Path) -> Result<OwnedFd> {
        let top = snapshot.join(self.top_name());
        open_dir(&top).at("open", top.display())
    }

    /// What lies below the container's own files, lowest first.
    pub(crate) fn lower(&self, id: &ContainerId) -> Result<Vec<PathBuf>> {
        let index = self.index.read().expect("the index is not poisoned");
        let image = index.containers.get(id).ok_or_else(|| Error::NoSuchSnapshot { id: id.to_string() })?;
        let tree = self.tree_path(image.as_ref());
        // Without it the layers show the same.
        if self.driver == Driver::Btrfs && tree.exists() {
            return Ok(vec![tree]);
        }
        let mut layers: Vec<PathBuf> = match image {
            Some(image) => {
                let stored = index.images.get(image).ok_or_else(|| Error::NoSuchImage { query: image.to_string() })?;
                stored.config.rootfs.diff_ids.iter().map(|layer| self.layer_path(layer)).collect()
            }
            None => Vec::new(),
        };
        layers.push(self.init_path(image.as_ref()));
        Ok(layers)
    }

    pub(crate) fn init_path(&self, image: Option<&Digest>) -> PathBuf {
        self.root.join("init").join(image.map_or_else(|| "none".to_owned(), Digest::hex))
    }

    fn init_layer(&self, image: Option<&Digest>, layers: &[PathBuf]) -> Result<PathBuf> {
        let path = self.init_path(image);
        if path.exists() {
            return Ok(path);
        }
        let staged = self.root.join("staging").join(random_name());
        std::fs::create_dir(&staged).at("create", staged.display())?;
        let root = open_dir(&staged).at("open", staged.display())?;
        rustix::fs::fchmod(&root, Mode::from_raw_mode(0o755)).at("change the mode of", staged.display())?;
        let tar = init_tar(&Layered::open(layers)?)?;
        apply_layer(&mut Reader::new(tar.as_slice()), root.as_fd(), &mut Space::unlimited(), None)?;
        match std::fs::rename(&staged, &path) {
            // Two first containers at once: one is enough.
            Err(_) if path.exists() => self.discard(&staged)?,
            result => result.at("put in place", path.display())?,
        }
        Ok(path)
    }
}

/// The init layer for an image: what it lacks, in directories with the attributes they have in the image.
fn init_tar(image: &Layered) -> Result<Vec<u8>> {
    let mut writer = Writer::new(Vec::new());
    let mut made: HashSet<&str> = HashSet::new();
    for (path, kind, target) in MOUNT_POINTS {
        if image.stat(path.as_bytes())?.is_some() {
            continue;
        }
        if let Some((above, _)) = path.split_once('/') {
            let parent = image.stat(above.as_bytes())?;
            if parent.is_some_and(|stat| file_type(&stat) != FileType::Directory) {
                // A link or file of the image in the way: it stays.
                continue;
            }
            if made.insert(above) {
                let mut entry = Entry::new(above, Kind::Dir, 0o755);
                if let Some(stat) = parent {
                    entry.mode = stat.st_mode & 0o7777;
                    (entry.uid, entry.gid) = (i64::from(stat.st_uid), i64::from(stat.st_gid));
                    (entry.mtime, entry.mtime_nanos) = (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0));
                }
                writer.entry(&entry)?;
            }
        }
        writer.entry(&Entry { link: target.into(), ..Entry::new(path, kind, 0o755) })?;
    }
    writer.finish()
}

/// Size of a file, 0 for what is none.
fn file_size(root: BorrowedFd<'_>, path: &[u8]) -> u64 {
    let file = crate::root::open_no_links(root, path, rustix::fs::OFlags::PATH);
    let stat = file.and_then(|file| rustix::fs::fstat(&file));
    stat.map_or(0, |stat| if file_type(&stat) == FileType::RegularFile { stat.st_size.cast_unsigned() } else { 0 })
}

/// Bytes in the files of a tree, each file once.
fn tree_size(root: BorrowedFd<'_>) -> Result<u64> {
    fn add(dir: BorrowedFd<'_>, depth: usize, seen: &mut HashSet<(u64, u64)>) -> Result<u64> {
        let mut total = 0u64;
        for name in names(dir).at("list", "a container's files")? {
            let Some(stat) = stat_opt(dir, &name).at("look at", "a container's file")? else { continue };
            match file_type(&stat) {
                FileType::RegularFile if stat.st_nlink == 1 || seen.insert((stat.st_dev, stat.st_ino)) => {
                    total = total.saturating_add(stat.st_size.cast_unsigned());
                }
                // What is nested deeper counts as nothing rather than as an error of `ps`.
                FileType::Directory if depth < MAX_DEPTH => {
                    if let Ok(child) = rustix::fs::openat(dir, name.as_slice(), DIR_FLAGS, Mode::empty()) {
                        total = total.saturating_add(add(child.as_fd(), depth + 1, seen)?);
                    }
                }
                _ => {}
            }
        }
        Ok(total)
    }
    add(root, 0, &mut HashSet::new())
}
