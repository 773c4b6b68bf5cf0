//! Bringing an image in: layers are streamed, checked, unpacked in a staging directory, and appear all at once.
//!
//! A layer passes once: source → digest of the blob → file → decompression → diff id → (another thread) tar → files.
//! What an ingest found in the store already is pinned, so that a removal at the same time leaves it alone. Dropping an
//! ingest removes everything that was not committed.

use crate::apply::{Applied, apply_layer};
use crate::config::{ImageConfig, MAX_METADATA};
use crate::error::{At, Error, Result};
use crate::index::{ImageRecord, LayerBlob, LayerRecord, StoredImage, Write as Change};
use crate::limits::{Limits, Space};
use crate::manifest::{self, OCI_LAYER, OCI_MANIFEST};
use crate::root::open_dir;
use crate::store::Store;
use crate::stream::{BUFFER, Compression, Hashing, decompress};
use crate::tar::Reader;
use jiff::Timestamp;
use naru_types::{Digest, ImageRef};
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// How far a layer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The layer's diff id, where it is known beforehand.
    pub layer: Option<Digest>,
    /// Bytes of the blob that have passed.
    pub current: u64,
    /// Size of the blob, 0 when it is not known.
    pub total: u64,
}

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
pub(crate) struct NewImage {
    pub config: Vec<u8>,
    /// Bytes and media type; composed when absent.
    pub manifest: Option<(Vec<u8>, String)>,
    pub layers: Vec<LayerBlob>,
    pub references: Vec<ImageRef>,
    pub parent: Option<Digest>,
}

/// An image on its way in.
#[derive(Debug)]
pub struct Ingest<'s> {
    store: &'s Store,
    directory: PathBuf,
    pins: Vec<Digest>,
    /// Layers unpacked in the staging directory.
    staged: HashMap<Digest, LayerRecord>,
    /// Layers by the digest of their blob.
    blobs: HashMap<Digest, LayerBlob>,
}

impl Store {
    /// Starts bringing an image in.
    pub fn ingest(&self) -> Result<Ingest<'_>> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).expect("the kernel's random source cannot fail after boot");
        let directory = self.root.join("staging").join(hex::encode(random));
        for part in ["", "layers", "blobs", "spool"] {
            let path = directory.join(part);
            std::fs::create_dir(&path).at("create", path.display())?;
        }
        Ok(Ingest { store: self, directory, pins: Vec::new(), staged: HashMap::new(), blobs: HashMap::new() })
    }
}

impl Drop for Ingest<'_> {
    fn drop(&mut self) {
        {
            let mut index = self.store.index.write().expect("the index is not poisoned");
            for pin in self.pins.drain(..) {
                if let Some(count) = index.pins.get_mut(&pin) {
                    *count -= 1;
                    if *count == 0 {
                        index.pins.remove(&pin);
                    }
                }
            }
        }
        if let Err(error) = self.store.discard(&self.directory) {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot discard a staging directory, the next start does");
        }
    }
}

impl Ingest<'_> {
    /// A layer that is here already, with this blob: nothing needs to be fetched.
    pub fn known_layer(&mut self, digest: &Digest, diff_id: &Digest) -> Option<LayerBlob> {
        if let Some(layer) = self.blobs.get(digest).filter(|layer| layer.diff_id == *diff_id) {
            return Some(layer.clone());
        }
        let mut index = self.store.index.write().expect("the index is not poisoned");
        let mut layers = index.images.values().flat_map(|image| &image.record.layers);
        let found = layers.find(|layer| layer.digest == *digest && layer.diff_id == *diff_id).cloned()?;
        for pin in [digest, diff_id] {
            *index.pins.entry(pin.clone()).or_default() += 1;
            self.pins.push(pin.clone());
        }
        drop(index);
        self.blobs.insert(digest.clone(), found.clone());
        Some(found)
    }

    /// Takes a layer in. Its blob is kept as it comes.
    pub fn layer(&mut self, source: &mut dyn Read, expected: &Expected, progress: &dyn Fn(Progress)) -> Result<LayerBlob> {
        let spool = self.spool_path();
        let pumped = self.pump(source, Keep::As(&spool), expected, progress)?;
        self.settle(pumped, &spool, expected)
    }

    /// Takes in a layer whose blob lies in a file of the staging directory already; the file is used up.
    pub(crate) fn spooled_layer(
        &mut self,
        spool: &Path,
        digest: &Digest,
        expected: &Expected,
        progress: &dyn Fn(Progress),
    ) -> Result<LayerBlob> {
        if let Some(layer) = self.blobs.get(digest) {
            check(&format!("layer {digest}"), expected.diff_id.as_ref(), &layer.diff_id)?;
            return Ok(layer.clone());
        }
        let mut file = File::open(spool).at("open", spool.display())?;
        let pumped = self.pump(&mut file, Keep::Already(spool), expected, progress)?;
        self.settle(pumped, spool, expected)
    }

    pub(crate) fn spool_path(&self) -> PathBuf {
        let mut random = [0; 8];
        getrandom::fill(&mut random).expect("the kernel's random source cannot fail after boot");
        self.directory.join("spool").join(hex::encode(random))
    }

    pub(crate) fn limits(&self) -> Limits {
        self.store.limits
    }

    pub(crate) fn space(&self) -> Result<Space> {
        Space::new(&self.directory, self.store.limits)
    }

    /// Streams the blob through; unpacks it unless its layer is here.
    fn pump(&mut self, source: &mut dyn Read, keep: Keep<'_>, expected: &Expected, progress: &dyn Fn(Progress)) -> Result<Pumped> {
        let known = expected.diff_id.as_ref().is_some_and(|diff_id| self.pin_layer(diff_id));
        let target = self.directory.join("layers").join("unpacking");
        let space = if known {
            None
        } else {
            std::fs::create_dir(&target).at("create", target.display())?;
            rustix::fs::chmodat(rustix::fs::CWD, &target, rustix::fs::Mode::from_raw_mode(0o755), rustix::fs::AtFlags::empty())
                .at("prepare", target.display())?;
            Some((target.as_path(), self.space()?))
        };
        let result = pump(source, keep, space, self.store.limits, &mut |current| {
            progress(Progress { layer: expected.diff_id.clone(), current, total: expected.size.unwrap_or(0) });
        });
        if result.is_err() && !known {
            self.store.discard(&target)?;
        }
        result
    }

    /// Checks the digests and gives the layer and its blob their names in the staging directory.
    fn settle(&mut self, pumped: Pumped, spool: &Path, expected: &Expected) -> Result<LayerBlob> {
        let target = self.directory.join("layers").join("unpacking");
        let checked = (|| {
            check("layer", expected.digest.as_ref(), &pumped.digest)?;
            if expected.size.is_some_and(|size| size != pumped.size) {
                return Err(Error::invalid(
                    format!("layer {}", pumped.digest),
                    format!("it has {} bytes, {} were announced", pumped.size, expected.size.unwrap_or(0)),
                ));
            }
            check(&format!("unpacked layer {}", pumped.digest), expected.diff_id.as_ref(), &pumped.diff_id)
        })();
        if let Err(error) = checked {
            self.store.discard(&target)?;
            return Err(error);
        }
        if let Some(applied) = &pumped.applied {
            let path = self.directory.join("layers").join(pumped.diff_id.hex());
            if self.staged.contains_key(&pumped.diff_id) {
                self.store.discard(&target)?;
            } else {
                std::fs::rename(&target, &path).at("rename", path.display())?;
                self.staged.insert(pumped.diff_id.clone(), LayerRecord { size: applied.size, root: applied.root });
            }
        }
        let blob = self.directory.join("blobs");
        if pumped.compression == Compression::None {
            let path = blob.join(format!("{}.zst", pumped.digest.hex()));
            std::fs::rename(packed(spool), &path).at("rename", path.display())?;
            std::fs::remove_file(spool).or_else(absent_is_fine).at("remove", spool.display())?;
        } else {
            let path = blob.join(pumped.digest.hex());
            std::fs::rename(spool, &path).at("rename", path.display())?;
        }
        let layer = LayerBlob {
            media_type: expected.media_type.clone().unwrap_or_else(|| format!("{OCI_LAYER}{}", pumped.compression.suffix())),
            diff_id: pumped.diff_id,
            digest: pumped.digest,
            size: pumped.size,
        };
        self.blobs.insert(layer.digest.clone(), layer.clone());
        Ok(layer)
    }

    /// Pins a layer if the store has it unpacked.
    fn pin_layer(&mut self, diff_id: &Digest) -> bool {
        let mut index = self.store.index.write().expect("the index is not poisoned");
        let known = index.layers.contains_key(diff_id);
        if known {
            *index.pins.entry(diff_id.clone()).or_default() += 1;
            self.pins.push(diff_id.clone());
        }
        known || self.staged.contains_key(diff_id)
    }

    /// Records an image whose layers were taken in: config and manifest as they came, and its names.
    pub fn commit(
        &mut self,
        config: Vec<u8>,
        manifest: Option<(Vec<u8>, String)>,
        layers: Vec<LayerBlob>,
        references: Vec<ImageRef>,
    ) -> Result<Digest> {
        self.commit_image(NewImage { config, manifest, layers, references, parent: None })
    }

    pub(crate) fn commit_image(&mut self, new: NewImage) -> Result<Digest> {
        let config = ImageConfig::parse(&new.config)?;
        let id = Digest::of(&new.config);
        let diff_ids: Vec<&Digest> = new.layers.iter().map(|layer| &layer.diff_id).collect();
        if diff_ids != config.rootfs.diff_ids.iter().collect::<Vec<_>>() {
            return Err(Error::invalid(format!("image {id}"), "its layers are not those its config names"));
        }
        let (manifest, manifest_type) =
            new.manifest.unwrap_or_else(|| (manifest::compose(&id, new.config.len() as u64, &new.layers), OCI_MANIFEST.to_owned()));
        if manifest.len() as u64 > MAX_METADATA {
            return Err(Error::TooLarge { what: "manifest".into(), limit: "4 MiB".into() });
        }
        let manifest_digest = Digest::of(&manifest);
        let known = self.store.index.read().expect("the index is not poisoned").images.contains_key(&id);
        if !known {
            for (digest, bytes) in [(&id, &new.config), (&manifest_digest, &manifest)] {
                let path = self.directory.join("blobs").join(digest.hex());
                std::fs::write(&path, bytes).at("write", path.display())?;
            }
            // One sync for all files of all layers: they are in place before a record speaks of them.
            let directory = open_dir(&self.directory).at("open", self.directory.display())?;
            rustix::fs::syncfs(&directory).at("sync", self.directory.display())?;
        }
        // The database's lock orders commits and removals; the index is only locked for the moment of the change.
        let mut database = self.store.database.lock().expect("a database write does not panic");
        let (existing, missing) = {
            let index = self.store.index.read().expect("the index is not poisoned");
            let mut missing: Vec<Digest> = Vec::new();
            for diff_id in diff_ids.into_iter().filter(|diff_id| !index.layers.contains_key(*diff_id)) {
                if !missing.contains(diff_id) {
                    missing.push(diff_id.clone());
                }
            }
            (index.images.get(&id).map(|image| image.record.clone()), missing)
        };
        if existing.is_none() {
            self.place(&missing, &new.layers, [&id, &manifest_digest])?;
        }
        let now = Timestamp::now();
        let staged: Vec<(Digest, LayerRecord)> =
            missing.iter().filter_map(|diff_id| self.staged.get(diff_id).map(|record| (diff_id.clone(), record.clone()))).collect();
        let mut record = existing.unwrap_or_else(|| ImageRecord {
            manifest: manifest_digest,
            manifest_type,
            size: self.size_of(&new.layers),
            layers: new.layers,
            last_tagged: None,
            parent: new.parent,
            hidden: false,
        });
        record.hidden = false;
        if !new.references.is_empty() {
            record.last_tagged = Some(now);
        }
        let mut changes = vec![Change::PutImage(&id, &record)];
        changes.extend(staged.iter().map(|(diff_id, layer)| Change::PutLayer(diff_id, layer)));
        changes.extend(new.references.iter().map(|reference| Change::PutReference(reference, &id)));
        database.write(&changes)?;
        let mut index = self.store.index.write().expect("the index is not poisoned");
        index.layers.extend(staged);
        for reference in new.references {
            let map = if reference.digest.is_some() { &mut index.digests } else { &mut index.tags };
            map.insert(reference, id.clone());
        }
        index.images.insert(id.clone(), StoredImage { record, config: Arc::new(config) });
        Ok(id)
    }

    fn size_of(&self, layers: &[LayerBlob]) -> u64 {
        let index = self.store.index.read().expect("the index is not poisoned");
        let size = |id: &Digest| self.staged.get(id).or_else(|| index.layers.get(id)).map_or(0, |layer| layer.size);
        layers.iter().map(|layer| size(&layer.diff_id)).sum()
    }

    /// Renames layers and blobs from the staging directory to where they belong, durably.
    fn place(&self, missing: &[Digest], layers: &[LayerBlob], metadata: [&Digest; 2]) -> Result<()> {
        let store = self.store;
        for diff_id in missing {
            let (from, to) = (self.directory.join("layers").join(diff_id.hex()), store.layer_path(diff_id));
            // What lies there without a record was left by a crash or is being removed.
            store.discard(&to)?;
            std::fs::rename(&from, &to).at("put in place", to.display())?;
        }
        let blobs = store.root.join("blobs/sha256");
        let names = metadata.into_iter().map(Digest::hex);
        let names = names.chain(layers.iter().flat_map(|layer| [layer.digest.hex(), format!("{}.zst", layer.digest.hex())]));
        for name in names {
            let to = blobs.join(&name);
            match rustix::fs::renameat(rustix::fs::CWD, self.directory.join("blobs").join(&name), rustix::fs::CWD, &to) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno).at("put in place", to.display()),
            }
        }
        if let Some(layer) = layers.iter().find(|layer| !store.has_blob(&layer.digest)) {
            return Err(Error::invalid("image", format!("the blob of layer {} is missing", layer.digest)));
        }
        for directory in [blobs, store.root.join("layers")] {
            let open = open_dir(&directory).at("open", directory.display())?;
            rustix::fs::fsync(&open).at("sync", directory.display())?;
        }
        Ok(())
    }
}

fn absent_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn check(what: &str, expected: Option<&Digest>, found: &Digest) -> Result<()> {
    match expected {
        Some(expected) if expected != found => {
            Err(Error::DigestMismatch { what: what.into(), expected: expected.clone(), found: found.clone() })
        }
        _ => Ok(()),
    }
}

/// Where a plain blob's compressed copy is written meanwhile.
fn packed(spool: &Path) -> PathBuf {
    spool.with_extension("zst")
}

/// What happens with the blob's bytes.
#[derive(Debug, Clone, Copy)]
enum Keep<'a> {
    /// They are written to this file.
    As(&'a Path),
    /// They come from this file.
    Already(&'a Path),
}

impl Keep<'_> {
    fn path(&self) -> &Path {
        match self {
            Keep::As(path) | Keep::Already(path) => path,
        }
    }
}

#[derive(Debug)]
struct Pumped {
    digest: Digest,
    size: u64,
    diff_id: Digest,
    compression: Compression,
    applied: Option<Applied>,
}

/// Copies what is read.
struct Tee<'a> {
    source: &'a mut dyn Read,
    copy: Option<File>,
    progress: &'a mut dyn FnMut(u64),
    passed: u64,
    reported: u64,
}

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.source.read(buffer)?;
        if let Some(copy) = &mut self.copy {
            copy.write_all(&buffer[..got]).map_err(|source| Error::Io { action: "write", path: "a layer's blob".into(), source })?;
        }
        self.passed += got as u64;
        // Often enough for an eye, not so often that it costs.
        if self.passed - self.reported >= 1 << 20 || (got == 0 && self.passed > self.reported) {
            self.reported = self.passed;
            (self.progress)(self.passed);
        }
        Ok(got)
    }
}

fn pump(
    source: &mut dyn Read,
    keep: Keep<'_>,
    target: Option<(&Path, Space)>,
    limits: Limits,
    progress: &mut dyn FnMut(u64),
) -> Result<Pumped> {
    let mut head = Vec::with_capacity(6);
    source.take(6).read_to_end(&mut head).map_err(Error::from_read)?;
    let compression = Compression::detect(&head)?;
    let mut whole = io::Cursor::new(head).chain(source);
    let create = |path: &Path| File::create_new(path).at("create", path.display());
    let copy = match keep {
        Keep::As(path) if compression != Compression::None => Some(create(path)?),
        _ => None,
    };
    let mut packer = match compression {
        Compression::None => {
            let file = create(&packed(keep.path()))?;
            Some(zstd::stream::write::Encoder::new(file, 1).at("compress", "a layer")?)
        }
        _ => None,
    };
    let mut raw = Hashing::new(Tee { source: &mut whole, copy, progress, passed: 0, reported: 0 }, limits.max_layer_size, "layer");
    let (diff_id, applied) = {
        let plain = decompress(BufReader::with_capacity(BUFFER, &mut raw), compression)?;
        let plain = Hashing::new(plain, limits.max_layer_size, "unpacked layer");
        unpack(plain, target, &mut |bytes| match &mut packer {
            Some(packer) => packer.write_all(bytes).at("write", "a layer's blob"),
            None => Ok(()),
        })?
    };
    // A decoder may stop before the end of its input; the digest covers everything.
    io::copy(&mut raw, &mut io::sink()).map_err(Error::from_read)?;
    if let Some(packer) = packer {
        packer.finish().at("write", "a layer's blob")?;
    }
    let (digest, size, _) = raw.finish();
    Ok(Pumped { digest, size, diff_id, compression, applied })
}

/// Hashes the plain stream here and applies it in a thread of its own.
fn unpack(
    mut plain: Hashing<Box<dyn Read + '_>>,
    target: Option<(&Path, Space)>,
    each: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<(Digest, Option<Applied>)> {
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel::<Vec<u8>>(16);
        let (give_back, used) = sync_channel::<Vec<u8>>(32);
        let mut sender = Some(sender);
        let applier = match target {
            Some((directory, mut space)) => {
                let root = open_dir(directory).at("open", directory.display())?;
                let thread = std::thread::Builder::new().name("store-unpack".into()).spawn_scoped(scope, move || {
                    let mut reader = Reader::new(Chunks { receiver, give_back, chunk: Vec::new(), at: 0 });
                    let applied = apply_layer(&mut reader, root.as_fd(), &mut space)?;
                    // What follows the end of the archive belongs to the diff id.
                    io::copy(&mut reader.into_inner(), &mut io::sink()).map_err(Error::from_read)?;
                    Ok::<_, Error>(applied)
                });
                Some(thread.at("start", "the unpacking thread")?)
            }
            None => {
                sender = None;
                None
            }
        };
        let produced = (|| -> Result<()> {
            loop {
                let mut chunk = used.try_recv().unwrap_or_default();
                chunk.resize(BUFFER, 0);
                let got = match plain.read(&mut chunk) {
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                    result => result.map_err(Error::from_read)?,
                };
                if got == 0 {
                    return Ok(());
                }
                chunk.truncate(got);
                each(&chunk)?;
                if sender.as_ref().is_some_and(|sender| sender.send(chunk).is_err()) {
                    // The applier has ended early: its error says why.
                    return Ok(());
                }
            }
        })();
        drop(sender);
        let applied = applier.map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        produced?;
        let applied = applied.transpose()?;
        Ok((plain.finish().0, applied))
    })
}

/// Chunks from another thread as a stream.
struct Chunks {
    receiver: Receiver<Vec<u8>>,
    give_back: SyncSender<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.chunk.len() {
            let Ok(next) = self.receiver.recv() else { return Ok(0) };
            let old = std::mem::replace(&mut self.chunk, next);
            self.at = 0;
            // A full pile of empty buffers needs no more of them.
            self.give_back.try_send(old).ok();
        }
        let count = buffer.len().min(self.chunk.len() - self.at);
        buffer[..count].copy_from_slice(&self.chunk[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// Runs `make`, which writes a stream, in a thread of its own and gives the stream to `take`.
pub(crate) fn through<T>(
    make: impl FnOnce(&mut dyn Write) -> Result<()> + Send,
    take: impl FnOnce(&mut dyn Read) -> Result<T>,
) -> Result<T> {
    struct Sink(SyncSender<Vec<u8>>);
    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    /// Fails at its end unless the maker succeeded: a cut stream must not be taken for a whole one.
    struct Source(Chunks, Receiver<()>);
    impl Read for Source {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.0.read(buffer)? {
                0 if self.1.recv().is_err() => Err(io::ErrorKind::UnexpectedEof.into()),
                0 => {
                    // Asked again after the end, it is still the end.
                    let (sender, receiver) = sync_channel(1);
                    sender.try_send(()).ok();
                    self.1 = receiver;
                    Ok(0)
                }
                got => Ok(got),
            }
        }
    }
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(8);
        let (give_back, _used) = sync_channel(1);
        let (done, finished) = sync_channel(1);
        let maker = std::thread::Builder::new().name("store-pack".into()).spawn_scoped(scope, move || {
            let mut sink = io::BufWriter::with_capacity(BUFFER, Sink(sender));
            make(&mut sink)?;
            sink.flush().map_err(Error::from_write)?;
            done.send(()).ok();
            Ok(())
        });
        let maker = maker.at("start", "the packing thread")?;
        let taken = take(&mut Source(Chunks { receiver, give_back, chunk: Vec::new(), at: 0 }, finished));
        let made: Result<()> = maker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match (made, taken) {
            // The taker's error broke the pipe.
            (Err(Error::Stream { .. }), Err(taken)) => Err(taken),
            (Err(made), _) => Err(made),
            (Ok(()), taken) => taken,
        }
    })
}
