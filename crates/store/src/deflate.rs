//! Gzip by all processors: blocks of the input are compressed side by side, each with the end of the block before it as its
//! dictionary, and put together as one stream (as pigz does it). The result depends on the input only, not on the number of
//! threads: the same layer gives the same blob everywhere.

use crate::error::{At, Error, Result};
use flate2::{Compress, Compression, Crc, FlushCompress, Status};
use std::io::{Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Size of a block; smaller ones lose in size, larger ones cost memory.
const BLOCK: usize = 1 << 20;

/// What deflate can look back.
const WINDOW: usize = 32 << 10;

/// More threads than this would only wait for the disk.
const MAX_THREADS: usize = 8;

/// Twice as fast as Docker's level 6 for a twenty-fifth more bytes: a push waits for this, and the layers of an image that was
/// pulled are not compressed again at all.
const LEVEL: u32 = 3;

/// No name, no time: they would differ.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

struct Block {
    dictionary: Vec<u8>,
    data: Vec<u8>,
    last: bool,
}

struct Packed {
    data: Vec<u8>,
    crc: Crc,
}

/// Compresses `source` to `sink`, which is returned.
pub(crate) fn gzip<W: Write>(source: &mut dyn Read, mut sink: W) -> Result<W> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
    sink.write_all(&HEADER).map_err(Error::from_write)?;
    let crc = std::thread::scope(|scope| {
        let mut workers = Vec::new();
        for _ in 0..threads {
            let (blocks, todo) = sync_channel::<Block>(1);
            let (done, packed) = sync_channel::<Result<Packed>>(1);
            let thread = std::thread::Builder::new().name("store-gzip".into()).spawn_scoped(scope, move || work(&todo, &done));
            thread.at("start", "a compressing thread")?;
            workers.push((blocks, packed));
        }
        deal(source, &mut sink, &workers)
    })?;
    sink.write_all(&crc.sum().to_le_bytes()).map_err(Error::from_write)?;
    // Modulo 2^32, as the format has it.
    sink.write_all(&crc.amount().to_le_bytes()).map_err(Error::from_write)?;
    Ok(sink)
}

fn work(todo: &Receiver<Block>, done: &SyncSender<Result<Packed>>) {
    while let Ok(block) = todo.recv() {
        if done.send(pack(&block)).is_err() {
            return;
        }
    }
}

fn pack(block: &Block) -> Result<Packed> {
    let failed = |reason: String| Error::invalid("layer", format!("it cannot be compressed: {reason}"));
    let mut packer = Compress::new(Compression::new(LEVEL), false);
    if !block.dictionary.is_empty() {
        packer.set_dictionary(&block.dictionary).map_err(|e| failed(e.to_string()))?;
    }
    let flush = if block.last { FlushCompress::Finish } else { FlushCompress::Sync };
    let mut data = Vec::with_capacity(block.data.len() / 2 + 1024);
    loop {
        let taken = usize::try_from(packer.total_in()).expect("a block fits into memory");
        let status = packer.compress_vec(&block.data[taken..], &mut data, flush).map_err(|e| failed(e.to_string()))?;
        // Space left over means that the flush is complete.
        let complete = data.len() < data.capacity();
        match status {
            Status::StreamEnd => break,
            Status::Ok | Status::BufError if complete && !block.last => break,
            Status::Ok | Status::BufError => data.reserve(64 << 10),
        }
    }
    let mut crc = Crc::new();
    crc.update(&block.data);
    Ok(Packed { data, crc })
}

/// Gives the blocks to the workers in turn and takes the results in the same order.
fn deal(source: &mut dyn Read, sink: &mut dyn Write, workers: &[(SyncSender<Block>, Receiver<Result<Packed>>)]) -> Result<Crc> {
    let lost = || Error::invalid("layer", "a compressing thread has ended");
    let mut crc = Crc::new();
    let mut take = |number: usize| -> Result<()> {
        let packed = workers[number % workers.len()].1.recv().map_err(|_| lost())??;
        crc.combine(&packed.crc);
        sink.write_all(&packed.data).map_err(Error::from_write)
    };
    let mut next = read_block(source)?;
    let (mut dictionary, mut dealt) = (Vec::new(), 0);
    loop {
        let data = next;
        let last = data.len() < BLOCK;
        next = if last { Vec::new() } else { read_block(source)? };
        let tail = data[data.len().saturating_sub(WINDOW)..].to_vec();
        if dealt >= workers.len() {
            take(dealt - workers.len())?;
        }
        let block = Block { dictionary: std::mem::replace(&mut dictionary, tail), data, last };
        workers[dealt % workers.len()].0.send(block).map_err(|_| lost())?;
        dealt += 1;
        if last {
            break;
        }
    }
    for number in dealt.saturating_sub(workers.len())..dealt {
        take(number)?;
    }
    Ok(crc)
}

fn read_block(source: &mut dyn Read) -> Result<Vec<u8>> {
    let mut data = Vec::with_capacity(BLOCK);
    source.take(BLOCK as u64).read_to_end(&mut data).map_err(Error::from_read)?;
    Ok(data)
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
                    // Half of it repeats, so that dictionaries matter.
                    if at % 2 == 0 { (state >> 24) as u8 } else { b'a' }
                })
                .collect()
        };
        for length in [0, 1, 1000, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 5 * BLOCK + 7] {
            let data = noise(length);
            let packed = gzip(&mut data.as_slice(), Vec::new()).unwrap();
            let mut back = Vec::new();
            // One member, and nothing after it.
            let mut reader = flate2::bufread::GzDecoder::new(packed.as_slice());
            reader.read_to_end(&mut back).unwrap();
            assert!(back == data, "{length}");
            assert!(reader.into_inner().is_empty(), "{length}");
            assert!(packed.len() < length * 3 / 4 + 1000, "{length}: {}", packed.len());
        }
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
