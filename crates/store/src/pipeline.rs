//! A layer on its way: read, hashed, decompressed and unpacked by threads that pass each other buffers.
//!
//! ```text
//! feed (the caller's thread)         unpack                      apply
//! source → digest, size, blob file → decompression → diff id → tar → files (of a plain layer also its recipe)
//! ```
//!
//! The channels hold few buffers, and buffers go back when they are empty: a layer costs the same memory whatever its size.
//! When a stage fails, the stages before it stop at their next buffer, those after it see a stream that is cut off; the
//! error of the first stage that failed is the one that says why.

use crate::apply::{Applied, apply_layer};
use crate::error::{At, Error, Result};
use crate::limits::{Limits, Space};
use crate::recipe::{Recorded, Tape};
use crate::root::open_dir;
use crate::stream::{BUFFER, Compression, Hashing, decompress};
use crate::tar::Reader;
use naru_types::Digest;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Full buffers between two stages.
const DEPTH: usize = 8;

/// What happens with the blob's bytes.
#[derive(Debug)]
pub(crate) enum Keep<'a> {
    /// A compressed blob is written to a new file; a plain one is kept as its recipe.
    New(&'a Path),
    /// Nothing is kept of them.
    Nothing,
    /// The file has the first bytes already; what follows is added.
    Append(File, u64),
}

/// What to do with a layer.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub keep: Keep<'a>,
    /// Where the recipe of a plain blob is written, or its packed copy when nothing is unpacked.
    pub packed: &'a Path,
    /// The empty directory to unpack to; none when the layer is there already.
    pub target: Option<(&'a Path, Space)>,
    /// Watches the disk while the blob is written.
    pub space: Space,
    pub limits: Limits,
}

/// What has passed.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub digest: Digest,
    pub size: u64,
    pub diff_id: Digest,
    pub compression: Compression,
    pub applied: Option<Applied>,
}

/// Passes `source` through all stages. `progress` gets the number of the blob's bytes that were read.
pub(crate) fn run(source: &mut dyn Read, plan: Plan<'_>, progress: &mut dyn FnMut(u64)) -> Result<Outcome> {
    let Plan { keep, packed, target, space, limits } = plan;
    let (first, failed) = fill(source, Vec::new());
    let compression = Compression::detect(&first);
    let (copy, have) = match keep {
        Keep::New(path) if compression != Compression::None => (Some(File::create_new(path).at("create", path.display())?), 0),
        Keep::Append(file, have) => (Some(file), have),
        Keep::New(_) | Keep::Nothing => (None, 0),
    };
    let feed = Feed { hash: Sha256::new(), size: 0, copy, have, space, limits };
    std::thread::scope(|scope| {
        let (to_next, from_feed) = pipe();
        let apply_in = |chunks, (directory, space), recipe| start(scope, "store-apply", move || apply(chunks, directory, space, recipe));
        let (unpacker, applier) = match (compression, target) {
            (compression, _) if compression.is_foreign() => {
                return Err(Error::invalid("layer", "it is compressed with xz or bzip2, which no registry takes"));
            }
            (Compression::None, Some(target)) => (None, Some(apply_in(from_feed, target, Some(packed))?)),
            (Compression::None, None) => (Some(start(scope, "store-pack", move || pack(from_feed, packed))?), None),
            (compression, Some(target)) => {
                let (to_apply, from_unpack) = pipe();
                let unpacking = move || unpack(from_feed, compression, limits, Some(to_apply));
                (Some(start(scope, "store-unpack", unpacking)?), Some(apply_in(from_unpack, target, None)?))
            }
            (compression, None) => (Some(start(scope, "store-unpack", move || unpack(from_feed, compression, limits, None))?), None),
        };
        let fed = feed.all(source, (first, failed), to_next, progress);
        let unpacked = unpacker.map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        let applied = applier.map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        let (digest, size) = fed?;
        let diff_id = unpacked.transpose()?.flatten().unwrap_or_else(|| digest.clone());
        Ok(Outcome { digest, size, diff_id, compression, applied: applied.transpose()? })
    })
}

fn start<'scope, T: Send + 'scope>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<std::thread::ScopedJoinHandle<'scope, T>> {
    std::thread::Builder::new().name(name.into()).spawn_scoped(scope, work).at("start the thread", name)
}

/// Reads until the buffer is full, the stream ends (then it is shorter) or fails.
fn fill(source: &mut dyn Read, mut chunk: Vec<u8>) -> (Vec<u8>, Option<io::Error>) {
    chunk.resize(BUFFER, 0);
    let mut at = 0;
    while at < chunk.len() {
        match source.read(&mut chunk[at..]) {
            Ok(0) => break,
            Ok(got) => at += got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                chunk.truncate(at);
                return (chunk, Some(error));
            }
        }
    }
    chunk.truncate(at);
    (chunk, None)
}

/// The first stage.
struct Feed {
    hash: Sha256,
    size: u64,
    copy: Option<File>,
    have: u64,
    space: Space,
    limits: Limits,
}

impl Feed {
    fn all(
        mut self,
        source: &mut dyn Read,
        first: (Vec<u8>, Option<io::Error>),
        next: Sender,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(Digest, u64)> {
        let mut read = first;
        loop {
            let (chunk, failed) = read;
            let last = chunk.len() < BUFFER;
            // What came before the failure is worth keeping: the next attempt starts there.
            self.take(&chunk)?;
            if let Some(error) = failed {
                return Err(Error::from_read(error));
            }
            if !chunk.is_empty() {
                progress(self.size);
            }
            if !next.send(chunk) {
                // A later stage has ended early: its error says why.
                break;
            }
            if last {
                break;
            }
            read = fill(source, next.empty());
        }
        Ok((Digest::from_sha256(self.hash.finalize().into()), self.size))
    }

    fn take(&mut self, chunk: &[u8]) -> Result<()> {
        self.hash.update(chunk);
        let before = self.size;
        self.size += chunk.len() as u64;
        if self.size > self.limits.max_layer_size {
            return Err(Error::TooLarge { what: "layer".into(), limit: format!("{} bytes", self.limits.max_layer_size) });
        }
        if let Some(copy) = &mut self.copy {
            let known = usize::try_from(self.have.saturating_sub(before)).unwrap_or(usize::MAX).min(chunk.len());
            copy.write_all(&chunk[known..]).at("write", "a layer's blob")?;
            self.space.wrote((chunk.len() - known) as u64)?;
        }
        Ok(())
    }
}

/// The second stage of a compressed layer: returns the digest of the plain tar.
fn unpack(source: Chunks, compression: Compression, limits: Limits, next: Option<Sender>) -> Result<Option<Digest>> {
    let mut source = source;
    let diff_id = {
        let mut plain = Hashing::new(decompress(&mut source, compression)?, limits.max_layer_size, "unpacked layer");
        let mut chunk = Vec::new();
        loop {
            let failed;
            (chunk, failed) = fill(&mut plain, chunk);
            if let Some(error) = failed {
                return Err(Error::from_read(error));
            }
            let last = chunk.len() < BUFFER;
            if let Some(next) = &next {
                if !next.send(chunk) {
                    return Ok(None);
                }
                chunk = next.empty();
            }
            if last {
                break;
            }
        }
        plain.finish().0
    };
    // A decoder may stop before the end of its input.
    io::copy(&mut source, &mut io::sink()).map_err(Error::from_read)?;
    Ok(Some(diff_id))
}

/// The second stage of a plain layer that is unpacked already: its blob is kept packed.
fn pack(mut source: Chunks, path: &Path) -> Result<Option<Digest>> {
    let file = File::create_new(path).at("create", path.display())?;
    let mut packer = zstd::stream::write::Encoder::new(file, 1).at("compress", path.display())?;
    io::copy(&mut source, &mut packer).at("write", path.display())?;
    packer.finish().at("write", path.display())?;
    Ok(None)
}

/// The last stage.
fn apply(source: Chunks, directory: &Path, mut space: Space, recipe: Option<&Path>) -> Result<Applied> {
    let root = open_dir(directory).at("open", directory.display())?;
    let tape = recipe.map(Tape::create).transpose()?;
    let mut reader = Reader::new(Recorded { inner: source, tape: tape.clone() });
    let applied = apply_layer(&mut reader, root.as_fd(), &mut space, tape.clone())?;
    // What follows the end of the archive belongs to the diff id.
    io::copy(&mut reader.into_inner(), &mut io::sink()).map_err(Error::from_read)?;
    tape.map_or(Ok(()), Tape::finish)?;
    Ok(applied)
}

/// The giving end between two stages.
#[derive(Debug)]
struct Sender {
    full: SyncSender<Vec<u8>>,
    empty: Receiver<Vec<u8>>,
}

impl Sender {
    /// False when the other end is gone.
    fn send(&self, chunk: Vec<u8>) -> bool {
        chunk.is_empty() || self.full.send(chunk).is_ok()
    }

    /// A buffer that was used before, if there is one.
    fn empty(&self) -> Vec<u8> {
        self.empty.try_recv().unwrap_or_default()
    }
}

/// The taking end between two stages, also as a stream.
#[derive(Debug)]
pub(crate) struct Chunks {
    full: Receiver<Vec<u8>>,
    empty: SyncSender<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
}

fn pipe() -> (Sender, Chunks) {
    let (full, full_out) = sync_channel(DEPTH);
    let (empty_in, empty) = sync_channel(DEPTH + 2);
    (Sender { full, empty }, Chunks { full: full_out, empty: empty_in, chunk: Vec::new(), at: 0 })
}

impl Chunks {
    fn next(&mut self) -> Option<Vec<u8>> {
        self.full.recv().ok()
    }

    fn give_back(&self, chunk: Vec<u8>) {
        // A full pile of empty buffers needs no more of them.
        self.empty.try_send(chunk).ok();
    }

    /// Makes sure that there are bytes; false at the end.
    fn refill(&mut self) -> bool {
        while self.at == self.chunk.len() {
            let Some(next) = self.next() else { return false };
            let old = std::mem::replace(&mut self.chunk, next);
            self.at = 0;
            self.give_back(old);
        }
        true
    }
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.refill() {
            return Ok(0);
        }
        let count = buffer.len().min(self.chunk.len() - self.at);
        buffer[..count].copy_from_slice(&self.chunk[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

impl io::BufRead for Chunks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.refill();
        Ok(&self.chunk[self.at..])
    }

    fn consume(&mut self, count: usize) {
        self.at = (self.at + count).min(self.chunk.len());
    }
}

/// Runs `make`, which writes a stream, in a thread of its own and gives the stream to `take`.
pub(crate) fn through<T>(
    make: impl FnOnce(&mut dyn Write) -> Result<()> + Send,
    take: impl FnOnce(&mut dyn Read) -> Result<T>,
) -> Result<T> {
    struct Sink(Sender);
    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut chunk = self.0.empty();
            chunk.clear();
            chunk.extend_from_slice(bytes);
            if self.0.send(chunk) { Ok(bytes.len()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
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
        let (sender, chunks) = pipe();
        let (done, finished) = sync_channel(1);
        let maker = start(scope, "store-pack", move || {
            let mut sink = io::BufWriter::with_capacity(BUFFER, Sink(sender));
            make(&mut sink)?;
            sink.flush().map_err(Error::from_write)?;
            done.send(()).ok();
            Ok(())
        })?;
        let taken = take(&mut Source(chunks, finished));
        let made: Result<()> = maker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match (made, taken) {
            // The taker's error broke the pipe.
            (Err(Error::Stream { .. }), Err(taken)) => Err(taken),
            (Err(made), _) => Err(made),
            (Ok(()), taken) => taken,
        }
    })
}
