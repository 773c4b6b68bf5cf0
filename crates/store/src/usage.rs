//! What the store occupies: as images say it (bytes in files), and as the disk has it (blocks).
//!
//! Layers are never written again, so the blocks of each are counted once in the life of the process.

use crate::ahead::DIRECTORY as AHEAD;
use crate::blobs::digest_of_file;
use crate::btrfs::TREE;
use crate::error::{At, Result};
use crate::root::{DIR_FLAGS, MAX_DEPTH, file_type, names, open_dir, stat_opt};
use crate::store::{Driver, Store};
use naru_types::{ContainerId, Digest};
use rustix::fs::{FileType, Mode};
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What the store occupies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Sizes of all layers, each once, as images count them: bytes in files.
    pub layers: u64,
    /// The part of `layers` in images that no container uses.
    pub reclaimable: u64,
    /// Number of images.
    pub images: usize,
    /// Number of images that containers use.
    pub active: usize,
    /// Blocks on disk.
    pub on_disk: OnDisk,
}

/// Bytes of blocks that files and directories occupy; a file with several names counts once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OnDisk {
    /// Unpacked layers and the mount points beside them.
    pub layers: u64,
    /// Blobs: layers as they travel, manifests, configs.
    pub blobs: u64,
    /// What of `layers` and `blobs` goes when all images go that no container uses.
    pub reclaimable: u64,
    /// What containers wrote.
    pub containers: u64,
    /// Blobs that arrived in part, and what is not taken in or not deleted yet.
    pub unfinished: u64,
    /// The database and the directories themselves.
    pub other: u64,
}

impl OnDisk {
    /// Everything: what `du` says of the store; on btrfs without what is shared.
    pub fn total(&self) -> u64 {
        self.layers + self.blobs + self.containers + self.unfinished + self.other
    }
}

impl Store {
    /// What the store occupies.
    pub fn disk_usage(&self) -> Result<DiskUsage> {
        let (mut usage, active_layers, active_blobs) = {
            let index = self.index.read().expect("the index is not poisoned");
            let mut usage = DiskUsage { layers: index.layers.values().map(|layer| layer.size).sum(), ..DiskUsage::default() };
            let (mut layers, mut blobs): (HashSet<Digest>, HashSet<Digest>) = (HashSet::new(), HashSet::new());
            for (id, image) in &index.images {
                usage.images += usize::from(!image.record.hidden);
                if index.is_used(id) {
                    usage.active += 1;
                    layers.extend(image.config.rootfs.diff_ids.iter().cloned());
                    blobs.extend([id.clone(), image.record.manifest.clone()]);
                    blobs.extend(image.record.indexes.iter().map(|index| index.digest.clone()));
                    blobs.extend(image.record.layers.iter().map(|layer| layer.digest.clone()));
                }
            }
            let active: u64 = layers.iter().filter_map(|id| index.layers.get(id)).map(|layer| layer.size).sum();
            usage.reclaimable = usage.layers - active;
            (usage, layers, blobs)
        };
        let disk = &mut usage.on_disk;
        let known = std::mem::take(&mut *self.layer_blocks.lock().expect("counting does not panic"));
        let mut counted = HashMap::new();
        self.each_in("layers", &mut |name, dir| {
            let digest = digest_of_file(name);
            let blocks = match digest.as_ref().and_then(|digest| known.get(digest)) {
                Some(blocks) => *blocks,
                None => blocks_of(dir, name.as_bytes())?,
            };
            disk.layers += blocks;
            if digest.as_ref().is_none_or(|digest| !active_layers.contains(digest)) {
                disk.reclaimable += blocks;
            }
            counted.extend(digest.map(|digest| (digest, blocks)));
            Ok(())
        })?;
        *self.layer_blocks.lock().expect("counting does not panic") = counted;
        self.each_in("blobs/sha256", &mut |name, dir| {
            let blocks = blocks_of(dir, name.as_bytes())?;
            disk.blobs += blocks;
            if digest_of_file(name).is_none_or(|digest| !active_blobs.contains(&digest)) {
                disk.reclaimable += blocks;
            }
            Ok(())
        })?;
        for (directory, sum) in [("init", 0), ("containers", 1), ("partial", 2), ("staging", 2), (AHEAD, 2), ("trash", 2)] {
            let sum = [&mut disk.layers, &mut disk.containers, &mut disk.unfinished].into_iter().nth(sum).expect("one of three");
            self.each_in(directory, &mut |name, dir| {
                *sum += match directory {
                    // Its data is that of the layers.
                    "init" if name.ends_with(TREE) => 0,
                    "containers" if self.driver == Driver::Btrfs => self.written(dir, name)?,
                    _ => blocks_of(dir, name.as_bytes())?,
                };
                Ok(())
            })?;
        }
        for name in [
            "blobs",
            "blobs/sha256",
            "layers",
            "init",
            "containers",
            AHEAD,
            "partial",
            "staging",
            "trash",
            "lock",
            "store.db",
            "store.db-wal",
            "store.db-shm",
        ] {
            let root = open_dir(&self.root).at("open", self.root.display())?;
            let stat = stat_opt(&root, name.as_bytes()).at("look at", name)?;
            disk.other += stat.map_or(0, |stat| blocks(&stat));
        }
        Ok(usage)
    }

    /// What a container takes of the disk: what `containers` of [`OnDisk`] is the sum of.
    pub fn container_usage(&self, id: &ContainerId) -> Result<u64> {
        match self.driver {
            Driver::Btrfs => Ok(self.sizes(id)?.rw),
            Driver::Overlay | Driver::Vfs => blocks_below(&self.container_path(id)),
        }
    }

    /// Bytes in the files that a container changed: blocks say nothing where they are shared with its image.
    fn written(&self, dir: BorrowedFd<'_>, container: &str) -> Result<u64> {
        match container.parse::<ContainerId>().map(|id| self.sizes(&id)) {
            Ok(Ok(size)) => Ok(size.rw),
            // Removed meanwhile, or no container: then what is there counts.
            Ok(Err(_)) | Err(_) => blocks_of(dir, container.as_bytes()),
        }
    }

    /// Sizes of all layers, each once.
    pub(crate) fn layers_size(&self) -> u64 {
        self.index.read().expect("the index is not poisoned").layers.values().map(|layer| layer.size).sum()
    }

    fn each_in(&self, directory: &str, work: &mut dyn FnMut(&str, BorrowedFd<'_>) -> Result<()>) -> Result<()> {
        let path = self.root.join(directory);
        let open = open_dir(&path).at("open", path.display())?;
        for name in self.names_in(directory)? {
            work(&name, open.as_fd())?;
        }
        Ok(())
    }

    /// Size of the part of an image that it shares with other images.
    pub fn shared_size(&self, id: &Digest) -> u64 {
        let index = self.index.read().expect("the index is not poisoned");
        let Some(image) = index.images.get(id) else { return 0 };
        let others: HashSet<&Digest> =
            index.images.iter().filter(|(other, _)| *other != id).flat_map(|(_, image)| &image.config.rootfs.diff_ids).collect();
        let shared = image.config.rootfs.diff_ids.iter().filter(|layer| others.contains(layer));
        shared.filter_map(|layer| index.layers.get(layer)).map(|layer| layer.size).sum()
    }
}

fn blocks(stat: &rustix::fs::Stat) -> u64 {
    stat.st_blocks.unsigned_abs() * 512
}

/// Bytes of the blocks of a file, or of a directory with all that is below it, as `du` counts them. What is not there takes none.
pub fn blocks_below(path: &Path) -> Result<u64> {
    blocks_of(rustix::fs::CWD, path.as_os_str().as_bytes())
}

/// Blocks of a file, or of a directory with all that is below it. What vanishes meanwhile counts as nothing.
fn blocks_of(dir: BorrowedFd<'_>, name: &[u8]) -> Result<u64> {
    fn add(dir: BorrowedFd<'_>, name: &[u8], depth: usize, seen: &mut HashSet<(u64, u64)>) -> Result<u64, Errno> {
        let Some(stat) = stat_opt(dir, name)? else { return Ok(0) };
        let directory = file_type(&stat) == FileType::Directory;
        if !directory && stat.st_nlink > 1 && !seen.insert((stat.st_dev, stat.st_ino)) {
            return Ok(0);
        }
        let mut total = blocks(&stat);
        if directory && depth < MAX_DEPTH {
            let child = match rustix::fs::openat(dir, name, DIR_FLAGS, Mode::empty()) {
                Ok(child) => child,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(total),
                Err(errno) => return Err(errno),
            };
            for name in names(&child)? {
                total += add(child.as_fd(), &name, depth + 1, seen)?;
            }
        }
        Ok(total)
    }
    add(dir, name, 0, &mut HashSet::new()).at("count the blocks of", crate::error::printable(name))
}
