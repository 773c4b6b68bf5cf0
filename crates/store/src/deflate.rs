//! Gzip by all processors: blocks of the input are compressed side by side, each to a member of its own (RFC 1952, section 2.2:
//! members one after the other are one file). The result depends on the input only, not on the number of threads: the same
//! layer gives the same blob everywhere.
//!
//! libdeflate compresses whole buffers alone, which is why a block is a member and none looks back into the one before it: that
//! costs 0.1 % of the size, and libdeflate needs half the time of zlib. Everything that reads layers reads members, as those of
//! eStargz and of bgzip.

use crate::error::{At, Error, Result};
use libdeflater::{CompressionLvl, Compressor};
use std::io::{Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Size of a block; smaller ones lose in size, larger ones cost memory.
const BLOCK: usize = 1 << 20;

/// More threads than this would only wait for the disk.
const MAX_THREADS: usize = 8;

/// A push waits for this, and the layers of an image that was pulled are not compressed again at all: libdeflate's fastest, which
/// is within 1 % of the size of zlib's level 3.
const LEVEL: i32 = 1;

/// Level of what is stored only.
const STORE: i32 = 0;

/// Bytes that are compressed to see whether it pays.
const TRIED: usize = 64 << 10;

/// A block and what becomes of it; it goes to a worker and back, and then to the next block.
#[derive(Default)]
struct Job {
    data: Vec<u8>,
    packed: Vec<u8>,
}

type Worker = (SyncSender<Job>, Receiver<Result<Job>>);

/// Compresses `source` to `sink`, which is returned.
pub(crate) fn gzip<W: Write>(source: &mut dyn Read, mut sink: W) -> Result<W> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
    std::thread::scope(|scope| {
        let mut workers = Vec::new();
        for _ in 0..threads {
            let (jobs, todo) = sync_channel::<Job>(1);
            let (done, packed) = sync_channel::<Result<Job>>(1);
            let thread = std::thread::Builder::new().name("store-gzip".into()).spawn_scoped(scope, move || work(&todo, &done));
            thread.at("start", "a compressing thread")?;
            workers.push((jobs, packed));
        }
        deal(source, &mut sink, &workers)
    })?;
    Ok(sink)
}

fn work(todo: &Receiver<Job>, done: &SyncSender<Result<Job>>) {
    let mut packer = Packer::new();
    while let Ok(mut job) = todo.recv() {
        let packed = packer.pack(&mut job).map(|()| job);
        if done.send(packed).is_err() {
            return;
        }
    }
}

/// What one thread compresses with.
struct Packer {
    compressor: Compressor,
    store: Compressor,
}

impl Packer {
    fn new() -> Packer {
        let [compressor, store] = [LEVEL, STORE].map(|level| Compressor::new(CompressionLvl::new(level).expect("libdeflate has it")));
        Packer { compressor, store }
    }

    /// Makes a member of a block. It has no name and no time: they would differ.
    fn pack(&mut self, job: &mut Job) -> Result<()> {
        let compressor = if self.is_dense(job)? { &mut self.store } else { &mut self.compressor };
        compress(compressor, &job.data, &mut job.packed)
    }

    /// True for what to compress would only cost time: archives, pictures, keys. Each byte is about as frequent as any other there,
    /// and the start of it, tried, does not become smaller.
    fn is_dense(&mut self, job: &mut Job) -> Result<bool> {
        if !is_even(&job.data) {
            return Ok(false);
        }
        let start = &job.data[..job.data.len().min(TRIED)];
        compress(&mut self.compressor, start, &mut job.packed)?;
        Ok(job.packed.len() >= start.len() - start.len() / 50)
    }
}

/// True when in a page of each sixteen all bytes are so frequent that no code saves 0.3 % (the sum of the squares of their shares
/// is within 1/32 of the least there can be). A few pages scatter more than that and never are.
fn is_even(block: &[u8]) -> bool {
    const PAGE: usize = 4 << 10;
    const STRIDE: usize = 16 * PAGE;
    let mut counts = [0u64; 256];
    for page in block.chunks(STRIDE).map(|stride| &stride[..stride.len().min(PAGE)]) {
        page.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
    }
    let total: u64 = counts.iter().sum();
    let squares: u64 = counts.iter().map(|count| count * count).sum();
    squares * 256 < total * total + total * total / 32
}

fn compress(compressor: &mut Compressor, data: &[u8], packed: &mut Vec<u8>) -> Result<()> {
    packed.resize(compressor.gzip_compress_bound(data.len()), 0);
    let size = compressor.gzip_compress(data, packed);
    let size = size.map_err(|e| Error::invalid("layer", format!("it cannot be compressed: {e}")))?;
    packed.truncate(size);
    Ok(())
}

/// Gives the blocks to the workers in turn and takes the results in the same order.
fn deal(source: &mut dyn Read, sink: &mut dyn Write, workers: &[Worker]) -> Result<()> {
    let lost = || Error::invalid("layer", "a compressing thread has ended");
    let mut take = |number: usize| -> Result<Job> {
        let job = workers[number % workers.len()].1.recv().map_err(|_| lost())??;
        sink.write_all(&job.packed).map_err(Error::from_write)?;
        Ok(job)
    };
    // Each worker has one block in its hands and one that waits.
    let ahead = 2 * workers.len();
    let (mut dealt, mut taken) = (0, 0);
    loop {
        let mut job = Job::default();
        if dealt - taken == ahead {
            job = take(taken)?;
            taken += 1;
        }
        job.data.clear();
        source.take(BLOCK as u64).read_to_end(&mut job.data).map_err(Error::from_read)?;
        let last = job.data.len() < BLOCK;
        // Nothing at all is a member, too; nothing after a whole block is the end.
        if !job.data.is_empty() || dealt == 0 {
            workers[dealt % workers.len()].0.send(job).map_err(|_| lost())?;
            dealt += 1;
        }
        if last {
            break;
        }
    }
    for number in taken..dealt {
        take(number)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn any_length_comes_back() {
        let mut state = 1u32;
        let mut noise = |length: usize| -> Vec<u8> {
            (0..length)
                .map(|at| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    // Half of it repeats.
                    if at % 2 == 0 { (state >> 24) as u8 } else { b'a' }
                })
                .collect()
        };
        for length in [0, 1, 1000, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 5 * BLOCK + 7] {
            let data = noise(length);
            let packed = gzip(&mut data.as_slice(), Vec::new()).unwrap();
            let mut back = Vec::new();
            flate2::bufread::MultiGzDecoder::new(packed.as_slice()).read_to_end(&mut back).unwrap();
            assert!(back == data, "{length}");
            // A member for each block, and nothing between or after them.
            let (mut rest, mut members) = (packed.as_slice(), 0);
            while !rest.is_empty() {
                let mut reader = flate2::bufread::GzDecoder::new(rest);
                reader.read_to_end(&mut Vec::new()).unwrap();
                rest = reader.into_inner();
                members += 1;
            }
            assert_eq!(members, length.div_ceil(BLOCK).max(1), "{length}");
            assert!(packed.len() < length * 3 / 4 + 1000, "{length}: {}", packed.len());
        }
    }

    #[test]
    fn what_cannot_become_smaller_is_stored() {
        let mut state = 1u64;
        let noise: Vec<u8> = (0..2 * BLOCK)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            })
            .collect();
        let again = noise[..30_000].repeat(40);
        let all_bytes: Vec<u8> = (0..=255).cycle().take(BLOCK).collect();
        let base64: Vec<u8> = noise.iter().map(|byte| b'0' + byte % 64).collect();
        for (what, data, stored) in
            [("noise", &noise, true), ("noise again", &again, false), ("all bytes", &all_bytes, false), ("fewer bytes", &base64, false)]
        {
            let packed = gzip(&mut data.as_slice(), Vec::new()).unwrap();
            // A header of ten bytes, then of a block: its last bit, and two of its kind, which is 0 for what is stored.
            assert_eq!(packed[10] & 6 == 0, stored, "{what}");
            assert!(packed.len() < data.len() + data.len() / 1000, "{what}: {} of {}", packed.len(), data.len());
            let mut back = Vec::new();
            flate2::bufread::MultiGzDecoder::new(packed.as_slice()).read_to_end(&mut back).unwrap();
            assert!(back == *data, "{what}");
        }
    }

    /// A layer that was pushed yesterday, or from another machine, must not be another blob today.
    #[test]
    fn the_bytes_are_always_the_same() {
        let data: Vec<u8> =
            (0..BLOCK + BLOCK / 2).map(|at| (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[at % 3]).collect();
        let digest = |packed: &[u8]| naru_types::Digest::of(packed).to_string();
        let packed = gzip(&mut data.as_slice(), Vec::new()).unwrap();
        // Changes with libdeflate's algorithm, of which the changelog then tells.
        assert_eq!(digest(&packed), "sha256:dc2e6ce31f413c783a6bd81a093e50674dca0cc3c5f699d725b39bd1665c125e");
        // However the source gives its bytes.
        struct Drops<'a>(&'a [u8]);
        impl Read for Drops<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let want = buffer.len().min(1234);
                self.0.read(&mut buffer[..want])
            }
        }
        assert_eq!(gzip(&mut Drops(&data), Vec::new()).unwrap(), packed);
    }

    #[test]
    fn a_failing_source_or_sink_is_an_error() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::ConnectionReset.into())
            }
        }
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let start = vec![1; 3 * BLOCK];
        assert!(gzip(&mut start.as_slice().chain(Broken), Vec::new()).is_err());
        assert!(gzip(&mut start.as_slice(), Broken).is_err());
    }
}
