//! The btrfs driver: an image's layers merged once in a subvolume, of which every container has a writable snapshot.
//!
//! The subvolume is `init/<image id>.tree`. Its files are clones of those in `layers`, so their data is on disk once; and it
//! starts as a snapshot of the tree of an image that has the lowest of its layers, where there is one. It comes into place
//! by a rename, which btrfs never makes durable before what was written into the subvolume.

use crate::copy::{CopyOptions, copy_tree};
use crate::error::{At, Error, Result};
use crate::ingest::random_name;
use crate::root::open_dir;
use crate::store::{Driver, Store};
use naru_sys::btrfs;
use naru_types::Digest;
use rustix::fs::Mode;
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

/// What the name of an image's tree ends with.
pub(crate) const TREE: &str = ".tree";

/// File systems whose files overlayfs cannot change: overlayfs, NFS, eCryptfs (`<linux/magic.h>`).
const NOT_UNDER_OVERLAY: [u64; 3] = [0x794c_7630, 0x6969, 0xf15f];

impl Driver {
    /// The driver for a store in `root`, which need not exist yet: that of the containers in it, else the one that suits the
    /// file system.
    pub fn for_root(root: &Path) -> Driver {
        of_containers(&root.join("containers")).unwrap_or_else(|| of_file_system(root))
    }
}

fn of_containers(containers: &Path) -> Option<Driver> {
    std::fs::read_dir(containers).ok()?.flatten().find_map(|container| {
        if container.path().join("upper").is_dir() {
            return Some(Driver::Overlay);
        }
        let root = open_dir(&container.path().join("root")).ok()?;
        Some(if btrfs::is_subvolume(&root).is_ok_and(|is| is) { Driver::Btrfs } else { Driver::Vfs })
    })
}

fn of_file_system(root: &Path) -> Driver {
    let root = std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
    // A link to a directory is followed, as by who will use it.
    let found = root.ancestors().find_map(|path| std::fs::File::open(path).ok());
    let Some(found) = found else { return Driver::Overlay };
    if btrfs::is_btrfs(&found).is_ok_and(|is| is) {
        return Driver::Btrfs;
    }
    let magic = rustix::fs::fstatfs(&found).map_or(0, |stat| stat.f_type as u64 & 0xffff_ffff);
    if NOT_UNDER_OVERLAY.contains(&magic) { Driver::Vfs } else { Driver::Overlay }
}

/// Refuses a root where the driver cannot work.
pub(crate) fn check_root(root: &Path) -> Result<()> {
    let open = open_dir(root).at("open", root.display())?;
    if btrfs::is_btrfs(&open).at("look at", root.display())? {
        return Ok(());
    }
    let reason = format!("{} is on another file system; choose another driver or another data root", root.display());
    Err(Error::invalid("storage driver btrfs", reason))
}

/// Makes `name` in `parent` a writable snapshot of the tree.
pub(crate) fn snapshot(tree: &Path, parent: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
    btrfs::snapshot(open_dir(tree)?.as_fd(), parent, name.as_bytes())
}

impl Store {
    /// The tree of an image, which is made when it is not there yet. `init` is its init layer.
    pub(crate) fn image_tree(&self, image: Option<&Digest>, layers: &[PathBuf], init: &Path) -> Result<PathBuf> {
        let path = self.tree_path(image);
        if path.exists() {
            return Ok(path);
        }
        // Several first containers at once: one of them makes it.
        let _one_at_a_time = self.building.lock().expect("making a tree does not panic");
        if path.exists() {
            return Ok(path);
        }
        let name = random_name();
        let staging = self.root.join("staging");
        let staged = staging.join(&name);
        let made = self.make_tree(image, layers, init, &staging, &name).and_then(|()| {
            // Its name says that it is whole.
            std::fs::rename(&staged, &path).at("put in place", path.display())
        });
        if made.is_err() {
            self.discard(&staged)?;
        }
        made.map(|()| path)
    }

    fn make_tree(&self, image: Option<&Digest>, layers: &[PathBuf], init: &Path, staging: &Path, name: &str) -> Result<()> {
        let parent = open_dir(staging).at("open", staging.display())?;
        let staged = staging.join(name);
        let base = self.nearest_tree(image);
        let done = match base.map(|(tree, layers)| snapshot(&tree, parent.as_fd(), name).map(|()| layers)) {
            Some(Ok(layers)) => layers,
            // Also when that image was removed a moment ago.
            Some(Err(_)) | None => {
                btrfs::create(parent.as_fd(), name.as_bytes()).at("create the subvolume", staged.display())?;
                0
            }
        };
        let root = open_dir(&staged).at("open", staged.display())?;
        rustix::fs::fchmod(&root, Mode::from_raw_mode(0o755)).at("change the mode of", staged.display())?;
        for layer in layers[done..].iter().map(PathBuf::as_path).chain([init]) {
            let layer = open_dir(layer).at("open", layer.display())?;
            copy_tree(layer.as_fd(), root.as_fd(), CopyOptions { overlay: true })?;
        }
        Ok(())
    }

    /// The tree of the image with the most of this one's lowest layers and no other, and how many these are.
    fn nearest_tree(&self, image: Option<&Digest>) -> Option<(PathBuf, usize)> {
        let index = self.index.read().expect("the index is not poisoned");
        let layers = index.images.get(image?)?.config.rootfs.diff_ids.clone();
        let mut shorter: Vec<(usize, &Digest)> = index
            .images
            .iter()
            .map(|(id, stored)| (stored.config.rootfs.diff_ids.as_slice(), id))
            .filter(|(other, _)| !other.is_empty() && layers.starts_with(other))
            .map(|(other, id)| (other.len(), id))
            .collect();
        shorter.sort_unstable_by(|a, b| b.cmp(a));
        let mut trees = shorter.into_iter().map(|(layers, id)| (self.tree_path(Some(id)), layers));
        trees.find(|(tree, _)| tree.exists())
    }

    /// Discards the trees made of a layer that was not what it should be; what containers have of it stays with them.
    pub(crate) fn discard_trees(&self, layer: &Digest) -> Result<()> {
        let _one_at_a_time = self.building.lock().expect("making a tree does not panic");
        let index = self.index.read().expect("the index is not poisoned");
        let made_of_it = index.images.iter().filter(|(_, stored)| stored.config.rootfs.diff_ids.contains(layer));
        let trees: Vec<PathBuf> = made_of_it.map(|(id, _)| self.tree_path(Some(id))).collect();
        drop(index);
        trees.iter().try_for_each(|tree| self.discard(tree))
    }

    pub(crate) fn tree_path(&self, image: Option<&Digest>) -> PathBuf {
        let init = self.init_path(image);
        let mut name = init.file_name().expect("an init layer has a name").to_owned();
        name.push(TREE);
        init.with_file_name(name)
    }
}
