//! Putting right what a check found: files again from their blob where that is sound, blobs again from where they came.
//!
//! A layer that containers may be using is not taken away under them: its files are put right one by one.

use crate::check::{Damage, Scratch, text};
use crate::compare::{Difference, Wrong, compare};
use crate::config::{ImageConfig, MAX_METADATA};
use crate::copy::{CopyOptions, copy_tree};
use crate::error::{At, Error, Result, printable};
use crate::index::{LayerBlob, StoredImage};
use crate::ingest::random_name;
use crate::manifest::OCI_CONFIG;
use crate::pipeline::{Keep, Outcome};
use crate::root::{open_dir, open_no_links, remove_tree};
use crate::store::Store;
use crate::stream::Compression;
use crate::{copy, manifest};
use naru_types::{Digest, ImageRef};
use rustix::fs::OFlags;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

/// Gives the bytes of a blob again: the blob, and the names under which images that need it came. For a config, manifest or
/// index the blob has that digest twice and its media type.
pub type Refetch<'a> = &'a mut dyn FnMut(&LayerBlob, &[ImageRef]) -> Result<Box<dyn Read>>;

/// What became of a damage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repaired {
    /// It is as it should be again.
    Yes,
    /// It could not be repaired.
    No {
        /// Why not.
        reason: String,
    },
}

impl Store {
    /// Repairs one damage. An error means that the host failed, not that there was no way.
    pub fn repair(self: &Arc<Self>, damage: &Damage, refetch: Refetch<'_>) -> Result<Repaired> {
        self.forget_ahead(None)?;
        let result = match damage {
            Damage::Orphan { path } => self.remove_orphan(path),
            Damage::Record { image, .. } => self.repair_record(image, refetch),
            Damage::Metadata { digest, media_type, image, .. } => self.repair_metadata(digest, media_type, image, refetch),
            Damage::Blob { layer, .. } => self.repair_by_refetch(layer, refetch),
            Damage::Layer { layer, repairable: true, .. } => self.repair_layer(layer, None),
            Damage::Layer { layer, .. } => self.repair_by_refetch(layer, refetch),
        };
        match result {
            Ok(()) => Ok(Repaired::Yes),
            Err(error @ (Error::NoSpace { .. } | Error::Database { .. })) => Err(error),
            Err(error) => Ok(Repaired::No { reason: text(&error) }),
        }
    }

    /// Removes a file without a record, unless it got one.
    fn remove_orphan(&self, path: &Path) -> Result<()> {
        let _order = self.database.lock().expect("a database write does not panic");
        let live = {
            let index = self.index.read().expect("the index is not poisoned");
            let name = path.file_name().and_then(|name| name.to_str()).and_then(crate::blobs::digest_of_file);
            name.is_some_and(|digest| index.live_blobs().contains(&digest) || index.live_layers().contains(&digest))
        };
        // It has just been listed below the store's directory: it cannot lead elsewhere.
        if live { Ok(()) } else { self.discard(&self.root.join(path)) }
    }

    /// Gets the config of an image that is left out again, and lists the image.
    fn repair_record(&self, image: &Digest, refetch: Refetch<'_>) -> Result<()> {
        let broken = self.index.read().expect("the index is not poisoned").broken.get(image).cloned();
        let advice = || Error::invalid(format!("image {}", image.short()), "its record is damaged; load or pull it again");
        let record = broken.ok_or_else(advice)?;
        let names = self.database.lock().expect("a database write does not panic").references()?;
        let names: Vec<ImageRef> = names.into_iter().filter(|(_, id)| id == image).map(|(name, _)| name).collect();
        let bytes = self.metadata_again(image, OCI_CONFIG, &names, refetch)?;
        let config = Arc::new(ImageConfig::parse(&bytes)?);
        let mut index = self.index.write().expect("the index is not poisoned");
        index.broken.remove(image);
        for name in names {
            index.name(name, image.clone());
        }
        index.images.insert(image.clone(), StoredImage { record, config });
        Ok(())
    }

    fn repair_metadata(&self, digest: &Digest, media_type: &str, image: &Digest, refetch: Refetch<'_>) -> Result<()> {
        let known = {
            let index = self.index.read().expect("the index is not poisoned");
            let stored = index.images.get(image).ok_or_else(|| Error::NoSuchImage { query: image.to_string() })?;
            let config = stored.config.raw().to_vec();
            let composed = manifest::compose(image, config.len() as u64, &stored.record.layers);
            [config, composed].into_iter().find(|bytes| Digest::of(bytes) == *digest)
        };
        match known {
            Some(bytes) => self.put_metadata(digest, &bytes),
            None => self.metadata_again(digest, media_type, &self.names_of(image), refetch).map(drop),
        }
    }

    fn metadata_again(&self, digest: &Digest, media_type: &str, names: &[ImageRef], refetch: Refetch<'_>) -> Result<Vec<u8>> {
        let blob = LayerBlob { diff_id: digest.clone(), digest: digest.clone(), size: 0, media_type: media_type.to_owned() };
        let mut bytes = Vec::new();
        refetch(&blob, names)?.take(MAX_METADATA).read_to_end(&mut bytes).map_err(Error::from_read)?;
        self.put_metadata(digest, &bytes)?;
        Ok(bytes)
    }

    fn put_metadata(&self, digest: &Digest, bytes: &[u8]) -> Result<()> {
        let found = Digest::of(bytes);
        if found != *digest {
            return Err(Error::DigestMismatch { what: "what came again".into(), expected: digest.clone(), found });
        }
        let path = self.root.join("staging").join(random_name());
        std::fs::write(&path, bytes).at("write", path.display())?;
        self.put_durably(&path, &self.blob_path(digest))
    }

    /// Names under which images with this layer or id came.
    fn names_of(&self, digest: &Digest) -> Vec<ImageRef> {
        let index = self.index.read().expect("the index is not poisoned");
        let needs = |id: &Digest| {
            id == digest || index.images.get(id).is_some_and(|image| image.record.layers.iter().any(|layer| layer.digest == *digest))
        };
        // Names with digests first: they say exactly where it came from.
        let names = index.digests.iter().chain(&index.tags).filter(|(_, id)| needs(id));
        names.map(|(name, _)| name.clone()).collect()
    }

    /// Gets the blob again and, when its files are not what it says, unpacks it.
    fn repair_by_refetch(self: &Arc<Self>, layer: &LayerBlob, refetch: Refetch<'_>) -> Result<()> {
        let mut source = refetch(layer, &self.names_of(&layer.digest))?;
        let scratch = Scratch::new(self)?;
        let (blob, unpacked) = (scratch.path.join("blob"), scratch.path.join("layer"));
        let outcome = self.unpack_stream(&mut source, Keep::New(&blob), &unpacked)?;
        for (expected, found) in [(&layer.digest, &outcome.digest), (&layer.diff_id, &outcome.diff_id)] {
            if expected != found {
                return Err(Error::DigestMismatch { what: "what came again".into(), expected: expected.clone(), found: found.clone() });
            }
        }
        if outcome.compression != Compression::None {
            self.put_durably(&blob, &self.blob_path(&layer.digest))?;
        }
        self.repair_layer(layer, Some((&unpacked, outcome)))
    }

    /// Makes the unpacked layer what its blob says; `fresh` has that already.
    fn repair_layer(self: &Arc<Self>, layer: &LayerBlob, fresh: Option<(&Path, Outcome)>) -> Result<()> {
        let scratch = Scratch::new(self)?;
        let place = scratch.path.join("layer");
        let (unpacked, outcome) = match fresh {
            Some((path, outcome)) => (path, outcome),
            None => (place.as_path(), self.unpack_blob(layer, &place)?),
        };
        if outcome.diff_id != layer.diff_id {
            return Err(Error::DigestMismatch { what: "layer".into(), expected: layer.diff_id.clone(), found: outcome.diff_id });
        }
        let path = self.layer_path(&layer.diff_id);
        let used = {
            let index = self.index.read().expect("the index is not poisoned");
            let uses = |image: &Digest| index.images.get(image).is_some_and(|i| i.config.rootfs.diff_ids.contains(&layer.diff_id));
            index.containers.values().flatten().any(uses)
        };
        if used && path.is_dir() {
            let open = |path: &Path| open_dir(path).at("open", path.display());
            let (is, should) = (open(&path)?, open(unpacked)?);
            put_right(is.as_fd(), should.as_fd(), &compare(is.as_fd(), should.as_fd())?.named)?;
            let left = compare(is.as_fd(), should.as_fd())?;
            // What was put in place has a second name there, which must be gone when the layer is looked at again.
            remove_tree(rustix::fs::CWD, unpacked.as_os_str().as_bytes()).at("delete", unpacked.display())?;
            if left.count > 0 {
                let reason = format!("{} files differ still; remove the containers that use it and repair again", left.count);
                return Err(Error::invalid(format!("layer {}", layer.diff_id), reason));
            }
        } else {
            let open = open_dir(unpacked).at("open", unpacked.display())?;
            rustix::fs::syncfs(&open).at("sync", unpacked.display())?;
            let _order = self.database.lock().expect("a database write does not panic");
            self.discard(&path)?;
            std::fs::rename(unpacked, &path).at("put in place", path.display())?;
        }
        self.discard_trees(&layer.diff_id)?;
        self.layer_blocks.lock().expect("counting does not panic").remove(&layer.diff_id);
        let recipe = unpacked.with_extension("parts");
        if outcome.compression == Compression::None && recipe.exists() && !self.packed_path(&layer.digest).exists() {
            self.replace_recipe(&layer.digest, &recipe)?;
        }
        self.sync_places()
    }

    fn put_durably(&self, from: &Path, to: &Path) -> Result<()> {
        let file = std::fs::File::open(from).at("open", from.display())?;
        file.sync_all().at("sync", from.display())?;
        std::fs::rename(from, to).at("put in place", to.display())?;
        self.sync_places()
    }
}

/// Makes the named files what they should be.
fn put_right(is: BorrowedFd<'_>, should: BorrowedFd<'_>, differences: &[Difference]) -> Result<()> {
    let mut directories: Vec<&[u8]> = Vec::new();
    for Difference { path, wrong } in differences {
        let (above, name) = match path.iter().rposition(|b| *b == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&b""[..], path.as_slice()),
        };
        let open = |root: BorrowedFd<'_>| open_no_links(root, above, crate::root::DIR_FLAGS).at("open", printable(above));
        let (to, from) = (open(is)?, open(should)?);
        directories.push(above);
        let stat = crate::root::stat_opt(&from, name).at("look at", printable(path))?;
        let is_dir = stat.is_some_and(|stat| crate::root::file_type(&stat) == rustix::fs::FileType::Directory);
        if *wrong == Wrong::Metadata && is_dir {
            directories.push(path);
            continue;
        }
        remove_tree(to.as_fd(), name).at("remove", printable(path))?;
        if *wrong == Wrong::Extra {
            continue;
        }
        if is_dir {
            rustix::fs::mkdirat(&to, name, rustix::fs::Mode::from_raw_mode(0o700)).at("create", printable(path))?;
            let open = |dir: &std::os::fd::OwnedFd| {
                rustix::fs::openat(dir, name, crate::root::DIR_FLAGS, rustix::fs::Mode::empty()).at("open", printable(path))
            };
            copy_tree(open(&from)?.as_fd(), open(&to)?.as_fd(), CopyOptions { overlay: false })?;
            directories.push(path);
        } else {
            rustix::fs::renameat(&from, name, &to, name).at("put in place", printable(path))?;
            // Compared again afterwards: the same file must not be missing there.
            rustix::fs::linkat(&to, name, &from, name, rustix::fs::AtFlags::empty()).at("link", printable(path))?;
        }
    }
    // Deepest first, once nothing is made in them any more.
    directories.sort_by_key(|path| std::cmp::Reverse(path.len()));
    directories.dedup();
    for path in directories.into_iter().filter(|path| !path.is_empty()) {
        let (above, name) = path.iter().rposition(|b| *b == b'/').map_or((&b""[..], path), |at| (&path[..at], &path[at + 1..]));
        let open = |root: BorrowedFd<'_>| open_no_links(root, above, OFlags::DIRECTORY | OFlags::RDONLY).at("open", printable(above));
        let (to, from) = (open(is)?, open(should)?);
        let stat = rustix::fs::statat(&from, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).at("look at", printable(path))?;
        copy::dress(from.as_fd(), to.as_fd(), name, &stat, path)?;
    }
    Ok(())
}
