//! Streams on their way in: counting, hashing, limits, decompression. Nothing is executed for it.

use crate::error::{Error, Result};
use naru_types::Digest;
use sha2::{Digest as _, Sha256};
use std::io::{self, BufRead, BufReader, Read, Write};

/// Buffer of a stream: large enough that system calls do not count.
pub(crate) const BUFFER: usize = 128 << 10;

/// Window of a zstd frame, as a power of two: a frame that wants more memory is refused.
const ZSTD_WINDOW_LOG: u32 = 27;

/// Memory an xz stream may ask for, in KiB: `xz -9` takes 64 MiB.
const XZ_MEMORY_KIB: u32 = 160 << 10;

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
    Xz,
    Bzip2,
}

impl Compression {
    /// The end of the layer's media type.
    pub fn suffix(self) -> &'static str {
        match self {
            Compression::None => "",
            Compression::Gzip => "+gzip",
            Compression::Zstd => "+zstd",
            // Never kept as they are.
            Compression::Xz | Compression::Bzip2 => "",
        }
    }

    /// Decides by the first bytes.
    pub fn detect(magic: &[u8]) -> Compression {
        match magic {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            // A skippable frame: zstd:chunked streams and pzstd start or go on with one.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Xz,
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, ..] => Compression::Bzip2,
            _ => Compression::None,
        }
    }

    /// True for what no registry takes as a layer: such a stream is unpacked on its way in and kept as a plain tar.
    pub fn is_foreign(self) -> bool {
        matches!(self, Compression::Xz | Compression::Bzip2)
    }
}

/// The plain bytes of a stream and how it was compressed.
pub(crate) fn plain<'a>(source: impl Read + 'a) -> Result<(Box<dyn Read + 'a>, Compression)> {
    let mut head = Vec::with_capacity(6);
    let mut source = source;
    (&mut source).take(6).read_to_end(&mut head).map_err(Error::from_read)?;
    let compression = Compression::detect(&head);
    let whole = BufReader::with_capacity(BUFFER, io::Cursor::new(head).chain(source));
    Ok((decompress(whole, compression)?, compression))
}

pub(crate) fn decompress<'a>(source: impl BufRead + 'a, compression: Compression) -> Result<Box<dyn Read + 'a>> {
    Ok(match compression {
        Compression::None => Box::new(source),
        Compression::Gzip => Box::new(Named { inner: flate2::bufread::MultiGzDecoder::new(source), what: "gzip stream" }),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(source).map_err(|e| Error::invalid("zstd stream", e.to_string()))?;
            decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(|e| Error::invalid("zstd stream", e.to_string()))?;
            Box::new(Named { inner: decoder, what: "zstd stream" })
        }
        Compression::Xz => Box::new(Named { inner: xz(source), what: "xz stream" }),
        Compression::Bzip2 => Box::new(Named { inner: bzip2::bufread::MultiBzDecoder::new(source), what: "bzip2 stream" }),
    })
}

fn xz<R: Read>(source: R) -> lzma_rust2::XzReader<R> {
    lzma_rust2::XzReader::new_mem_limit(source, true, XZ_MEMORY_KIB)
}

/// Gives the errors of a decoder the name of the format; errors of the source pass through.
struct Named<R> {
    inner: R,
    what: &'static str,
}

impl<R: Read> Read for Named<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer).map_err(|e| match e.kind() {
            io::ErrorKind::Interrupted => e,
            _ if e.get_ref().is_some_and(|inner| inner.is::<Error>()) => e,
            _ => Error::invalid(self.what, e.to_string()).into(),
        })
    }
}

/// Hashes and counts what passes; more than `limit` bytes are an error.
pub(crate) struct Hashing<T> {
    inner: T,
    hash: Sha256,
    count: u64,
    limit: u64,
    what: &'static str,
}

impl<T> Hashing<T> {
    pub fn new(inner: T, limit: u64, what: &'static str) -> Self {
        Hashing { inner, hash: Sha256::new(), count: 0, limit, what }
    }

    /// The digest and number of the bytes that passed.
    pub fn finish(self) -> (Digest, u64, T) {
        (Digest::from_sha256(self.hash.finalize().into()), self.count, self.inner)
    }

    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.count += bytes.len() as u64;
        if self.count > self.limit {
            return Err(Error::TooLarge { what: self.what.into(), limit: format!("{} bytes", self.limit) }.into());
        }
        Ok(())
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.take(&buffer[..got])?;
        Ok(got)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let put = self.inner.write(bytes)?;
        self.take(&bytes[..put])?;
        Ok(put)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn read(bytes: &[u8]) -> Result<Vec<u8>> {
        let (mut reader, _) = plain(bytes)?;
        let mut out = Vec::new();
        reader.read_to_end(&mut out).map_err(Error::from_read)?;
        Ok(out)
    }

    #[test]
    fn every_format_is_recognised() {
        let text = b"some text".repeat(100);
        let zstd = zstd::encode_all(&text[..], 1).unwrap();
        let members = [gzip(b"some "), gzip(b"text")].concat();
        assert_eq!(read(&text).unwrap(), text);
        assert_eq!(read(&gzip(&text)).unwrap(), text);
        assert_eq!(read(&zstd).unwrap(), text);
        assert_eq!(read(&members).unwrap(), b"some text");
        assert_eq!(read(b"").unwrap(), b"");
        assert_eq!(read(b"abc").unwrap(), b"abc");
    }

    #[test]
    fn damage_is_an_error() {
        let text = b"some text".repeat(1000);
        for good in [gzip(&text), zstd::encode_all(&text[..], 1).unwrap()] {
            assert!(read(&good[..good.len() - 3]).is_err());
            assert!(read(&good[..good.len() / 2]).is_err());
        }
        let mut flipped = gzip(&text);
        let middle = flipped.len() / 2;
        flipped[middle] ^= 4;
        assert!(read(&flipped).is_err());
        assert!(read(b"\xfd7zXZ\0...").is_err());
    }

    #[test]
    fn the_limit_holds() {
        let mut reader = Hashing::new(&b"12345"[..], 4, "test");
        let error = Error::from_read(reader.read_to_end(&mut Vec::new()).unwrap_err());
        assert!(matches!(error, Error::TooLarge { .. }), "{error}");
        let mut reader = Hashing::new(&b"1234"[..], 4, "test");
        reader.read_to_end(&mut Vec::new()).unwrap();
        assert_eq!(reader.finish().0, Digest::of(b"1234"));
    }
}
