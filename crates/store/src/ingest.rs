//! Bringing an image in: layers are streamed, checked and unpacked, then recorded all at once.
//!
//! A layer that was taken in lies at its place, unpacked, before any record speaks of it; the ingests that count on it pin
//! it, so several of them share what one of them took in, and a collection at the same time leaves it alone. When the last
//! pin goes and no image has come of it, it is deleted; what a crash leaves, [`Store::open`] deletes. A blob that was
//! fetched by its digest stays in `partial` until then, see there.

use crate::config::{ImageConfig, MAX_METADATA};
use crate::error::{At, Error, Result};
use crate::index::{ImageRecord, IndexBlob, LayerBlob, LayerRecord, StoredImage, Write as Change, settled};
use crate::limits::Space;
use crate::manifest::{self, Document, OCI_INDEX, OCI_LAYER, OCI_MANIFEST};
use crate::partial::{Resuming, keeps};
use crate::pipeline::{self, Keep, Outcome, Plan};
use crate::recipe::aside_of;
use crate::root::open_dir;
use crate::store::Store;
use crate::stream::{BUFFER, Compression, decompress};
use jiff::Timestamp;
use naru_types::{Digest, ImageRef};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// What is being done with a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Its bytes come from outside.
    Downloading,
    /// Its bytes are here and are unpacked.
    Extracting,
}

/// How far a layer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The layer's diff id, where it is known beforehand.
    pub layer: Option<Digest>,
    /// The blob's digest, where it is known beforehand.
    pub blob: Option<Digest>,
    /// What is being done.
    pub phase: Phase,
    /// Bytes of the blob that have passed.
    pub current: u64,
    /// Size of the blob, 0 when it is not known.
    pub total: u64,
}

/// Takes news of progress, from several threads.
pub type Report<'a> = &'a (dyn Fn(Progress) + Sync);

/// Bytes between two reports: often enough for an eye, not so often that it costs.
const REPORT_EVERY: u64 = 512 << 10;

/// What a layer is announced to be; all that is given is checked.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// Digest of the blob.
    pub digest: Option<Digest>,
    /// Size of the blob.
    pub size: Option<u64>,
    /// Digest of the plain tar.
    pub diff_id: Option<Digest>,
    /// Media type; derived from the content when absent.
    pub media_type: Option<String>,
}

/// An image about to be recorded.
#[derive(Debug, Clone, Default)]
pub struct NewImage {
    /// The config as it came: its digest is the image's id.
    pub config: Vec<u8>,
    /// The manifest as it came and its media type; composed when absent.
    pub manifest: Option<(Vec<u8>, String)>,
    /// The index through which the manifest was found and its media type; kept whole.
    pub index: Option<(Vec<u8>, String)>,
    /// The layers, lowest first, as this ingest returned them.
    pub layers: Vec<LayerBlob>,
    /// Names it gets: `name:tag` and `name@digest`.
    pub references: Vec<ImageRef>,
}

/// Blobs and layers that must stay although no image needs them (any more); dropping it lets them go.
#[derive(Debug)]
pub(crate) struct Pins {
    store: Arc<Store>,
    pinned: Mutex<Vec<Digest>>,
    /// What has arrived in part shall not wait for another attempt.
    spoilt: AtomicBool,
}

impl Pins {
    pub fn new(store: &Arc<Store>) -> Pins {
        Pins { store: Arc::clone(store), pinned: Mutex::new(Vec::new()), spoilt: AtomicBool::new(false) }
    }

    /// Pins what `choose` finds in the index; nothing can be collected between its look and the pins.
    pub fn pin<T>(&self, choose: impl FnOnce(&mut crate::index::Index) -> (Vec<Digest>, T)) -> T {
        let mut index = self.store.index.write().expect("the index is not poisoned");
        let (digests, found) = choose(&mut index);
        let mut pinned = self.pinned.lock().expect("pinning does not panic");
        for digest in digests {
            *index.pins.entry(digest.clone()).or_default() += 1;
            self.store.partials.hold(&digest);
            pinned.push(digest);
        }
        found
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let pinned = std::mem::take(self.pinned.get_mut().expect("pinning does not panic"));
        let spoilt = *self.spoilt.get_mut();
        // In one step with the collection: nobody sees what is neither pinned nor needed.
        let mut database = self.store.database.lock().expect("a database write does not panic");
        let orphans = {
            let mut index = self.store.index.write().expect("the index is not poisoned");
            for digest in &pinned {
                self.store.partials.release(digest, spoilt);
                if let Some(count) = index.pins.get_mut(digest) {
                    *count -= 1;
                    if *count == 0 {
                        index.pins.remove(digest);
                    }
                }
            }
            let (layers, blobs) = (index.live_layers(), index.live_blobs());
            let dead_layers = pinned.iter().any(|digest| index.layers.contains_key(digest) && !layers.contains(digest));
            drop(index);
            dead_layers || pinned.iter().any(|digest| !blobs.contains(digest) && self.store.has_blob(digest))
        };
        if orphans && let Err(error) = self.store.collect_with(&mut database) {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot discard what an unfinished image left, the next start does");
        }
    }
}

/// An image on its way in. Several layers may be taken in at once, from several threads.
#[derive(Debug)]
pub struct Ingest {
    store: Arc<Store>,
    directory: PathBuf,
    pins: Pins,
}

/// 64 random bits as a name.
pub(crate) fn random_name() -> String {
    let mut random = [0; 8];
    getrandom::fill(&mut random).expect("the kernel's random source cannot fail after boot");
    hex::encode(random)
}

impl Store {
    /// Starts bringing an image in.
    pub fn ingest(self: &Arc<Self>) -> Result<Ingest> {
        let directory = self.root.join("staging").join(random_name());
        std::fs::create_dir(&directory).at("create", directory.display())?;
        Ok(Ingest { store: Arc::clone(self), directory, pins: Pins::new(self) })
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if let Err(error) = self.store.discard(&self.directory) {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot discard a staging directory, the next start does");
        }
    }
}

impl Ingest {
    /// A layer that is here already, unpacked and with this blob: it is pinned, nothing needs to be fetched.
    pub fn known_layer(&self, digest: &Digest, diff_id: &Digest) -> Option<LayerBlob> {
        let found = self.pins.pin(|index| {
            let mut layers = index.images.values().flat_map(|image| &image.record.layers).chain(index.arrived.values());
            let found = layers.find(|layer| layer.digest == *digest && layer.diff_id == *diff_id).cloned();
            let found = found.filter(|layer| index.layers.contains_key(&layer.diff_id));
            (found.iter().flat_map(|layer| [layer.digest.clone(), layer.diff_id.clone()]).collect(), found)
        })?;
        // Files that someone deleted by hand are brought in again. In this order: a commit moves it from there to here.
        let there = self.store.partials.path(digest).exists() || self.store.has_blob(digest);
        (there && self.store.layer_path(diff_id).exists()).then_some(found)
    }

    /// As [`Ingest::known_layer`], by the blob alone.
    pub(crate) fn known_blob(&self, digest: &Digest) -> Option<LayerBlob> {
        let diff_id = {
            let index = self.store.index.read().expect("the index is not poisoned");
            let mut layers = index.images.values().flat_map(|image| &image.record.layers).chain(index.arrived.values());
            layers.find(|layer| layer.digest == *digest).map(|layer| layer.diff_id.clone())
        };
        self.known_layer(digest, &diff_id?)
    }

    /// The image turned out to be none: blobs that arrived in part for it, and that no other ingest counts on, go with it.
    pub fn spoil(&self) {
        self.pins.spoilt.store(true, Ordering::Relaxed);
    }

    /// How many bytes of a blob are here already: [`Ingest::fetch_layer`] will most likely ask for those after them.
    pub fn partial(&self, digest: &Digest) -> u64 {
        let whole = || std::fs::metadata(self.store.blob_path(digest));
        std::fs::metadata(self.store.partials.path(digest)).or_else(|_| whole()).map_or(0, |blob| blob.len())
    }

    /// Takes in a layer of the blob with `expected.digest` and `expected.size`, which are required.
    ///
    /// `open(offset)` gives the blob's bytes from `offset` on. It is called with an offset above 0 when an attempt before,
    /// of this process or one that was killed, left a part of the blob: that part passes first. It is called again when the
    /// stream fails or ends early, and gives up when it returns an error or three streams in a row give nothing. What
    /// arrived is kept for the next attempt, unless it turns out to be wrong. Two calls for one blob at a time fetch it once.
    pub fn fetch_layer(
        &self,
        expected: &Expected,
        open: &mut dyn FnMut(u64) -> io::Result<Box<dyn Read>>,
        progress: Report<'_>,
    ) -> Result<LayerBlob> {
        let (Some(digest), Some(size)) = (&expected.digest, expected.size) else {
            return Err(Error::invalid("layer", "a layer can only be fetched by its digest and size"));
        };
        let limit = self.store.limits.max_layer_size;
        if size > limit {
            return Err(Error::TooLarge { what: format!("layer {digest}"), limit: format!("{limit} bytes") });
        }
        let tell = |phase, current| {
            progress(Progress { layer: expected.diff_id.clone(), blob: Some(digest.clone()), phase, current, total: size });
        };
        self.pins.pin(|_| (vec![digest.clone()], ()));
        let _writing = self.store.partials.write(digest, &|current| tell(Phase::Downloading, current));
        if let Some(layer) = expected.diff_id.as_ref().and_then(|diff_id| self.known_layer(digest, diff_id)) {
            return Ok(layer);
        }
        let path = self.store.partials.path(digest);
        if std::fs::metadata(self.store.blob_path(digest)).is_ok_and(|blob| blob.len() == size) {
            // Only its unpacked files are missing.
            self.store.partials.remove(digest)?;
            match std::fs::hard_link(self.store.blob_path(digest), &path) {
                // A collection that began before the pin has just deleted it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result.at("link", path.display())?,
            }
        }
        loop {
            let file = File::options().read(true).append(true).create(true).open(&path).at("open", path.display())?;
            let mut have = file.metadata().at("look at", path.display())?.len();
            if have > size {
                file.set_len(0).at("empty", path.display())?;
                have = 0;
            }
            let replay = File::open(&path).at("open", path.display())?;
            let mut source = Resuming::new(replay, size, open);
            let phase = |current| if current <= have { Phase::Extracting } else { Phase::Downloading };
            let result = self.take_in(&mut source, Keep::Append(file, have), expected, &mut |current| tell(phase(current), current));
            match result {
                Ok(layer) => {
                    tell(Phase::Extracting, size);
                    return Ok(layer);
                }
                Err(error) if keeps(&error) => {
                    if self.partial(digest) == 0 {
                        self.store.partials.remove(digest)?;
                    }
                    return Err(error);
                }
                Err(error) => {
                    self.store.partials.remove(digest)?;
                    // The part that was here may have been what is wrong, e.g. after a power cut.
                    if have == 0 {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Takes in a layer from a stream. Its blob is kept as it comes.
    ///
    /// One that no registry takes as a layer (xz, bzip2) is kept as a plain tar instead: its digest and size are not known
    /// beforehand.
    pub fn layer(&self, source: &mut dyn Read, expected: &Expected, progress: Report<'_>) -> Result<LayerBlob> {
        let spool = self.spool_path();
        let tell = teller(expected, progress);
        let mut head = Vec::with_capacity(6);
        source.take(6).read_to_end(&mut head).map_err(Error::from_read)?;
        let compression = Compression::detect(&head);
        let mut whole = io::Cursor::new(head).chain(source);
        if !compression.is_foreign() {
            return self.take_in(&mut whole, Keep::New(&spool), expected, &mut |current| tell(current));
        }
        let expected = Expected { diff_id: expected.diff_id.clone(), ..Expected::default() };
        let mut plain = decompress(BufReader::with_capacity(BUFFER, whole), compression)?;
        self.take_in(&mut plain, Keep::New(&spool), &expected, &mut |current| tell(current))
    }

    pub(crate) fn spool_path(&self) -> PathBuf {
        self.directory.join(random_name())
    }

    fn space(&self) -> Result<Space> {
        Ok(Space::new(&self.directory, self.store.limits)?.flushing(self.store.flusher.as_ref()))
    }

    /// Passes a layer through, checks what it was announced to be and puts it in its place.
    fn take_in(&self, source: &mut dyn Read, keep: Keep<'_>, expected: &Expected, tell: &mut dyn FnMut(u64)) -> Result<LayerBlob> {
        let known = expected.diff_id.as_ref().is_some_and(|diff_id| self.pin_layer(diff_id));
        let (target, packed) = (self.spool_path(), self.spool_path());
        let spool = match &keep {
            Keep::New(path) => Some(path.to_path_buf()),
            Keep::Append(..) | Keep::Nothing => None,
        };
        if !known {
            std::fs::create_dir(&target).at("create", target.display())?;
            rustix::fs::chmodat(rustix::fs::CWD, &target, rustix::fs::Mode::from_raw_mode(0o755), rustix::fs::AtFlags::empty())
                .at("prepare", target.display())?;
        }
        let unpack_to = if known { None } else { Some((target.as_path(), self.space()?)) };
        let plan = Plan { keep, packed: &packed, target: unpack_to, space: self.space()?, limits: self.store.limits };
        let mut reported = 0;
        let outcome = pipeline::run(source, plan, &mut |current| {
            if current - reported >= REPORT_EVERY || expected.size == Some(current) {
                reported = current;
                tell(current);
            }
        });
        let settled = outcome.and_then(|outcome| {
            check_outcome(&outcome, expected)?;
            self.settle(outcome, &target, &packed, spool.as_deref(), expected)
        });
        if settled.is_err() {
            for left in [Some(&target), Some(&packed), Some(&aside_of(&packed)), spool.as_ref()].into_iter().flatten() {
                self.store.discard(left)?;
            }
        }
        settled
    }

    /// Puts a layer and its blob where they belong, pinned.
    fn settle(&self, outcome: Outcome, target: &Path, packed: &Path, spool: Option<&Path>, expected: &Expected) -> Result<LayerBlob> {
        let store = &self.store;
        let Outcome { digest, size, diff_id, compression, applied } = outcome;
        let media_type = expected.media_type.clone().unwrap_or_else(|| format!("{OCI_LAYER}{}", compression.suffix()));
        let layer = LayerBlob { diff_id, digest, size, media_type };
        // The database's lock keeps collections away while files have no pin yet.
        let _order = store.database.lock().expect("a database write does not panic");
        let known = store.index.read().expect("the index is not poisoned").layers.contains_key(&layer.diff_id)
            && store.layer_path(&layer.diff_id).exists();
        let fresh = applied.filter(|_| !known).map(|applied| LayerRecord { size: applied.size, root: applied.root });
        if fresh.is_some() {
            let path = store.layer_path(&layer.diff_id);
            // What lies there without a record was left by a crash.
            store.discard(&path)?;
            std::fs::rename(target, &path).at("put in place", path.display())?;
        } else {
            store.discard(target)?;
        }
        let (from, to) = match compression {
            Compression::None if applied.is_some() => (Some(packed), store.recipe_path(&layer.digest)),
            Compression::None => (Some(packed), store.packed_path(&layer.digest)),
            _ => (spool, store.blob_path(&layer.digest)),
        };
        if let Some(from) = from {
            let aside = aside_of(from);
            if store.has_blob(&layer.digest) {
                store.discard(from)?;
                store.discard(&aside)?;
            } else {
                if aside.exists() {
                    store.discard(&aside_of(&to))?;
                    std::fs::rename(&aside, aside_of(&to)).at("put in place", to.display())?;
                }
                std::fs::rename(from, &to).at("put in place", to.display())?;
            }
        }
        if compression == Compression::None {
            store.partials.remove(&layer.digest)?;
        }
        self.pins.pin(|index| {
            if let Some(record) = fresh {
                index.layers.insert(layer.diff_id.clone(), record);
                index.unrecorded.insert(layer.diff_id.clone());
            }
            index.arrived.entry(layer.digest.clone()).or_insert_with(|| layer.clone());
            (vec![layer.digest.clone(), layer.diff_id.clone()], ())
        });
        Ok(layer)
    }

    /// Pins a layer if it is here unpacked.
    fn pin_layer(&self, diff_id: &Digest) -> bool {
        let known = self.pins.pin(|index| {
            let known = index.layers.contains_key(diff_id);
            (Some(diff_id.clone()).filter(|_| known).into_iter().collect(), known)
        });
        known && self.store.layer_path(diff_id).exists()
    }

    /// Records an image whose layers were taken in.
    pub fn commit(&self, image: NewImage) -> Result<Digest> {
        ImageConfig::parse(&image.config)?.check_history()?;
        self.commit_child(image, None)
    }

    /// As [`Ingest::commit`], of an image that was made of another one here.
    pub(crate) fn commit_child(&self, new: NewImage, parent: Option<Digest>) -> Result<Digest> {
        let config = ImageConfig::parse(&new.config)?;
        let id = Digest::of(&new.config);
        if !new.layers.iter().map(|layer| &layer.diff_id).eq(&config.rootfs.diff_ids) {
            return Err(Error::invalid(format!("image {id}"), "its layers are not those its config names"));
        }
        let composed = new.manifest.is_none();
        let (manifest, manifest_type) =
            new.manifest.unwrap_or_else(|| (manifest::compose(&id, new.config.len() as u64, &new.layers), OCI_MANIFEST.to_owned()));
        if manifest.len() as u64 > MAX_METADATA {
            return Err(Error::TooLarge { what: "manifest".into(), limit: "4 MiB".into() });
        }
        let index = new.index.map(|(bytes, media_type)| index_blob(bytes, media_type)).transpose()?;
        let manifest_digest = Digest::of(&manifest);
        let record = ImageRecord {
            manifest: manifest_digest.clone(),
            manifest_type,
            composed,
            indexes: index.iter().map(|(_, blob)| blob.clone()).collect(),
            size: 0,
            layers: new.layers,
            last_tagged: None,
            parent,
            hidden: false,
        };
        let mut metadata = vec![(id.clone(), new.config), (manifest_digest, manifest)];
        metadata.extend(index.map(|(bytes, blob)| (blob.digest, bytes)));
        self.record(&id, record, config, &metadata, new.references)
    }

    /// Makes everything durable, then writes the record and the names.
    fn record(
        &self,
        id: &Digest,
        mut record: ImageRecord,
        config: ImageConfig,
        metadata: &[(Digest, Vec<u8>)],
        references: Vec<ImageRef>,
    ) -> Result<Digest> {
        let store = &self.store;
        let references: Vec<ImageRef> = references.iter().map(settled).collect();
        let fresh = self.write_metadata(metadata)? | self.has_unrecorded(&record.layers);
        if fresh {
            // One sync for all files of all layers: they are in place before a record speaks of them.
            let directory = open_dir(&self.directory).at("open", self.directory.display())?;
            rustix::fs::syncfs(&directory).at("sync", self.directory.display())?;
        }
        // The database's lock orders commits and removals; the index is only locked for the moment of the change.
        let mut database = store.database.lock().expect("a database write does not panic");
        let (unrecorded, existing) = {
            let index = store.index.read().expect("the index is not poisoned");
            if let Some(layer) = record.layers.iter().find(|layer| !index.layers.contains_key(&layer.diff_id)) {
                return Err(Error::invalid(format!("image {id}"), format!("its layer {} was not taken in", layer.diff_id)));
            }
            record.size = record.layers.iter().map(|layer| index.layers[&layer.diff_id].size).sum();
            let mut unrecorded: Vec<(Digest, LayerRecord)> = Vec::new();
            for layer in &record.layers {
                if index.unrecorded.contains(&layer.diff_id) && !unrecorded.iter().any(|(known, _)| *known == layer.diff_id) {
                    unrecorded.push((layer.diff_id.clone(), index.layers[&layer.diff_id].clone()));
                }
            }
            (unrecorded, index.images.get(id).map(|image| image.record.clone()))
        };
        if let Some(existing) = existing {
            record = merge(existing, record);
        }
        if fresh {
            self.place(&record.layers, metadata)?;
        }
        if !references.is_empty() {
            record.last_tagged = Some(Timestamp::now());
        }
        let mut changes = vec![Change::PutImage(id, &record)];
        changes.extend(unrecorded.iter().map(|(diff_id, layer)| Change::PutLayer(diff_id, layer)));
        changes.extend(references.iter().map(|reference| Change::PutReference(reference, id)));
        database.write(&changes)?;
        let mut index = store.index.write().expect("the index is not poisoned");
        for (diff_id, _) in &unrecorded {
            index.unrecorded.remove(diff_id);
        }
        for layer in &record.layers {
            index.arrived.remove(&layer.digest);
        }
        for reference in references {
            index.name(reference, id.clone());
        }
        index.broken.remove(id);
        index.images.insert(id.clone(), StoredImage { record, config: Arc::new(config) });
        Ok(id.clone())
    }

    /// Takes over a blob that was made of a layer which is here.
    pub(crate) fn adopt(&self, path: &Path, layer: &LayerBlob) -> Result<()> {
        let store = &self.store;
        let _order = store.database.lock().expect("a database write does not panic");
        if store.has_blob(&layer.digest) {
            store.discard(path)?;
        } else {
            let to = store.blob_path(&layer.digest);
            std::fs::rename(path, &to).at("put in place", to.display())?;
        }
        self.pins.pin(|index| {
            index.arrived.entry(layer.digest.clone()).or_insert_with(|| layer.clone());
            (vec![layer.digest.clone(), layer.diff_id.clone()], ())
        });
        Ok(())
    }

    /// Gives an image other blobs of the same layers, and a manifest composed of them.
    pub(crate) fn recompose(&self, id: &Digest, manifest: Vec<u8>, layers: Vec<LayerBlob>) -> Result<ImageRecord> {
        let metadata = [(Digest::of(&manifest), manifest)];
        self.write_metadata(&metadata)?;
        let directory = open_dir(&self.directory).at("open", self.directory.display())?;
        rustix::fs::syncfs(&directory).at("sync", self.directory.display())?;
        let mut database = self.store.database.lock().expect("a database write does not panic");
        let existing = self.store.index.read().expect("the index is not poisoned").images.get(id).map(|image| image.record.clone());
        let existing = existing.ok_or_else(|| Error::NoSuchImage { query: id.to_string() })?;
        self.place(&layers, &metadata)?;
        let [(manifest, _)] = metadata;
        let record = ImageRecord { manifest, manifest_type: OCI_MANIFEST.to_owned(), composed: true, layers, ..existing };
        database.write(&[Change::PutImage(id, &record)])?;
        let mut index = self.store.index.write().expect("the index is not poisoned");
        for layer in &record.layers {
            index.arrived.remove(&layer.digest);
        }
        if let Some(image) = index.images.get_mut(id) {
            image.record = record.clone();
        }
        Ok(record)
    }

    /// Writes what is not here yet to the staging directory; false when all of it is here.
    fn write_metadata(&self, metadata: &[(Digest, Vec<u8>)]) -> Result<bool> {
        // Pinned first: what is here must not go before the record holds it.
        self.pins.pin(|_| (metadata.iter().map(|(digest, _)| digest.clone()).collect(), ()));
        let mut fresh = false;
        let missing: Vec<&(Digest, Vec<u8>)> = {
            // A collection that began before the pins may be deleting them now.
            let _order = self.store.database.lock().expect("a database write does not panic");
            metadata.iter().filter(|(digest, _)| !self.store.has_blob(digest)).collect()
        };
        for (digest, bytes) in missing {
            let path = self.directory.join(digest.hex());
            std::fs::write(&path, bytes).at("write", path.display())?;
            fresh = true;
        }
        Ok(fresh)
    }

    /// True when a layer or its blob is not recorded yet.
    fn has_unrecorded(&self, layers: &[LayerBlob]) -> bool {
        let index = self.store.index.read().expect("the index is not poisoned");
        layers.iter().any(|layer| index.unrecorded.contains(&layer.diff_id) || index.arrived.contains_key(&layer.digest))
    }

    /// Gives blobs that wait elsewhere their places, durably.
    fn place(&self, layers: &[LayerBlob], metadata: &[(Digest, Vec<u8>)]) -> Result<()> {
        let store = &self.store;
        let staged = metadata.iter().map(|(digest, _)| (self.directory.join(digest.hex()), digest));
        let partial = layers.iter().map(|layer| (store.partials.path(&layer.digest), &layer.digest));
        for (from, digest) in staged.chain(partial).filter(|(_, digest)| !store.has_blob(digest)) {
            let to = store.blob_path(digest);
            match rustix::fs::renameat(rustix::fs::CWD, from, rustix::fs::CWD, &to) {
                Ok(()) => {}
                Err(Errno::NOENT) => return Err(Error::invalid("image", format!("its blob {digest} is missing"))),
                Err(errno) => return Err(errno).at("put in place", to.display()),
            }
        }
        for layer in layers {
            // A blob that was here all along was fetched for its lost layer.
            store.partials.remove(&layer.digest)?;
        }
        store.sync_places()
    }
}

/// What is known of an image, and what has come with it again.
///
/// A manifest that came replaces one that was composed here, and one whose layers are compressed any other: so an image that
/// was pulled goes out again under the digest it was pulled by.
fn merge(existing: ImageRecord, new: ImageRecord) -> ImageRecord {
    let compressed = new.layers.iter().all(LayerBlob::is_compressed);
    let better = !new.composed && (existing.composed || compressed);
    let mut indexes = existing.indexes.clone();
    indexes.extend(new.indexes.iter().filter(|index| !existing.indexes.contains(index)).cloned());
    let base = if better { new } else { existing.clone() };
    ImageRecord { indexes, hidden: false, last_tagged: existing.last_tagged, parent: existing.parent, ..base }
}

/// An index as it is kept, once it is seen to be one.
fn index_blob(bytes: Vec<u8>, media_type: String) -> Result<(Vec<u8>, IndexBlob)> {
    if bytes.len() as u64 > MAX_METADATA {
        return Err(Error::TooLarge { what: "image index".into(), limit: "4 MiB".into() });
    }
    let Document::Index(index) = manifest::parse("image index", &bytes)? else {
        return Err(Error::invalid("image index", "it is a manifest"));
    };
    let media_type = [media_type, index.media_type, OCI_INDEX.to_owned()].into_iter().find(|t| !t.is_empty());
    let blob =
        IndexBlob { digest: Digest::of(&bytes), size: bytes.len() as u64, media_type: media_type.expect("the last one is not empty") };
    Ok((bytes, blob))
}

/// Reports a layer that is here already.
fn teller<'a>(expected: &'a Expected, progress: Report<'a>) -> impl Fn(u64) + 'a {
    move |current| {
        progress(Progress {
            layer: expected.diff_id.clone(),
            blob: expected.digest.clone(),
            phase: Phase::Extracting,
            current,
            total: expected.size.unwrap_or(0),
        });
    }
}

fn check_outcome(outcome: &Outcome, expected: &Expected) -> Result<()> {
    check("layer", expected.digest.as_ref(), &outcome.digest)?;
    if let Some(size) = expected.size.filter(|size| *size != outcome.size) {
        let reason = format!("it has {} bytes, {size} were announced", outcome.size);
        return Err(Error::invalid(format!("layer {}", outcome.digest), reason));
    }
    check(&format!("unpacked layer {}", outcome.digest), expected.diff_id.as_ref(), &outcome.diff_id)
}

fn check(what: &str, expected: Option<&Digest>, found: &Digest) -> Result<()> {
    match expected {
        Some(expected) if expected != found => {
            Err(Error::DigestMismatch { what: what.into(), expected: expected.clone(), found: found.clone() })
        }
        _ => Ok(()),
    }
}
