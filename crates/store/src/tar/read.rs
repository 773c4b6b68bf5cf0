//! The reader: header block by header block, extensions folded into the entry they belong to.

use super::header::{Dialect, Header, until_nul};
use super::pax::{self, Records};
use super::{BLOCK, Entry, Extent, Kind, MAX_META};
use crate::error::{Error, Result};
use std::io::{self, Read};

/// Reads entries one after another; the data of the present entry through [`Reader::read_data`].
#[derive(Debug)]
pub struct Reader<R> {
    source: R,
    /// Bytes of the present entry's data not read yet, then its padding.
    left: u64,
    padding: usize,
    ended: bool,
}

/// The extensions collected before an entry's own header.
#[derive(Default)]
struct Extensions {
    records: Records,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    any: bool,
}

impl<R: Read> Reader<R> {
    /// A reader at the start of an archive. `source` should be buffered.
    pub fn new(source: R) -> Self {
        Reader { source, left: 0, padding: 0, ended: false }
    }

    /// The source, e.g. to drain it after the end.
    pub fn into_inner(self) -> R {
        self.source
    }

    /// The next entry; what was left of the one before is skipped. `None` at the end of the archive.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        if self.ended {
            return Ok(None);
        }
        let mut extensions = Extensions::default();
        loop {
            self.skip()?;
            let Some(block) = self.header_block()? else {
                self.ended = true;
                if extensions.any {
                    return Err(Error::invalid("tar archive", "it ends after an extended header"));
                }
                return Ok(None);
            };
            let header = Header(&block);
            if !header.checksum_holds() {
                return Err(Error::invalid("tar archive", "a header's checksum is wrong"));
            }
            let size = || match header.number(124, 12) {
                Some(size @ 0..) => Ok(size.unsigned_abs()),
                _ => Err(Error::entry(header.text(0, 100), "malformed size")),
            };
            match header.kind() {
                b'g' => {
                    // Global defaults: checked, but like Docker not applied.
                    let data = self.meta(size()?)?;
                    Records::parse(&data).map_err(|reason| Error::invalid("tar archive", reason))?;
                }
                b'x' => {
                    let data = self.meta(size()?)?;
                    extensions.records = Records::parse(&data).map_err(|reason| Error::invalid("tar archive", reason))?;
                    extensions.any = true;
                }
                b'L' => {
                    extensions.long_name = Some(until_nul(&self.meta(size()?)?).to_vec());
                    extensions.any = true;
                }
                b'K' => {
                    extensions.long_link = Some(until_nul(&self.meta(size()?)?).to_vec());
                    extensions.any = true;
                }
                _ => return self.entry(&header, extensions).map(Some),
            }
        }
    }

    /// Data of the present entry: for a sparse file only its extents, one after another.
    pub fn read_data(&mut self, buffer: &mut [u8]) -> Result<usize> {
        if self.left == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let got = read_some(&mut self.source, &mut buffer[..want])?;
        if got == 0 {
            return Err(truncated());
        }
        self.left -= got as u64;
        Ok(got)
    }

    /// Bytes of the present entry's data that are not read yet.
    pub fn left(&self) -> u64 {
        self.left
    }

    fn entry(&mut self, header: &Header<'_>, extensions: Extensions) -> Result<Entry> {
        let Extensions { mut records, long_name, long_link, .. } = extensions;
        let dialect = header.dialect();
        let name = records.path.take().or(long_name).unwrap_or_else(|| name_of(header, dialect));
        let refuse = |reason: &str| Error::entry(&name, reason);
        let number = |offset, length, what: &str| header.number(offset, length).ok_or_else(|| refuse(&format!("malformed {what}")));
        let kind = match header.kind() {
            b'0' | 0 | b'7' | b'S' if header.kind() != b'S' && name.ends_with(b"/") => Kind::Dir,
            b'0' | 0 | b'7' | b'S' => Kind::File,
            b'1' => Kind::Link,
            b'2' => Kind::Symlink,
            b'3' => Kind::Char,
            b'4' => Kind::Block,
            b'5' => Kind::Dir,
            b'6' => Kind::Fifo,
            other => return Err(refuse(&format!("unknown type {:?}", char::from(other)))),
        };
        let stored = match records.size {
            Some(size) => size,
            None => u64::try_from(number(124, 12, "size")?).map_err(|_| refuse("negative size"))?,
        };
        let device = match (kind, dialect) {
            (Kind::Char | Kind::Block, Dialect::V7) => return Err(refuse("a device needs a ustar header")),
            (Kind::Char | Kind::Block, _) => {
                // Linux has 12 and 20 bits; what is cut off from a larger number would make another device.
                let part = |offset, bits: u32| {
                    let number = u32::try_from(number(offset, 8, "device number")?).ok().filter(|number| number >> bits == 0);
                    number.ok_or_else(|| refuse("malformed device number"))
                };
                (part(329, 12)?, part(337, 20)?)
            }
            _ => (0, 0),
        };
        let (mtime, mtime_nanos) = match records.mtime {
            Some(time) => time,
            None => (number(136, 12, "mtime")?, 0),
        };
        let mut entry = Entry {
            kind,
            mode: u32::try_from(number(100, 8, "mode")? & 0o7777).expect("masked to 12 bits"),
            uid: records.uid.map_or_else(|| number(108, 8, "uid"), Ok)?,
            gid: records.gid.map_or_else(|| number(116, 8, "gid"), Ok)?,
            mtime,
            mtime_nanos,
            size: 0,
            link: records.link.take().or(long_link).unwrap_or_else(|| header.text(157, 100).to_vec()),
            device,
            xattrs: std::mem::take(&mut records.xattrs),
            sparse: None,
            path: name,
        };
        if kind == Kind::File {
            self.left = stored;
            self.padding = padding(stored);
            entry.size = stored;
            self.sparse(header, dialect, &mut records, &mut entry)?;
        }
        // Other kinds have no data, whatever their size field says (as in Go).
        Ok(entry)
    }

    /// Finds out whether the file is sparse and reads its map.
    fn sparse(&mut self, header: &Header<'_>, dialect: Dialect, records: &mut Records, entry: &mut Entry) -> Result<()> {
        let map;
        let stored = entry.size;
        if header.kind() == b'S' {
            if dialect != Dialect::Gnu {
                return Err(Error::entry(&entry.path, "a sparse file needs a GNU header"));
            }
            map = self.old_sparse(header, entry)?;
        } else if records.sparse.map_in_data() {
            let path = entry.path.clone();
            let refuse = |reason: &str| Error::entry(&path, reason);
            let mut consumed = 0u64;
            map = pax::map_of_lines(|| self.line(&mut consumed, &path), refuse)?;
            // The map is filled up to a whole block.
            let mut rest = vec![0; padding(consumed)];
            self.fill_data(&mut rest, &path)?;
            entry.size = records.sparse.size.ok_or_else(|| refuse("a sparse file without its size"))?;
        } else if records.sparse.present {
            let map_missing = records.sparse.map.is_empty() && stored > 0;
            entry.size = records.sparse.size.ok_or_else(|| Error::entry(&entry.path, "a sparse file without its size"))?;
            if map_missing {
                return Err(Error::entry(&entry.path, "a sparse file without its map"));
            }
            map = std::mem::take(&mut records.sparse.map);
        } else {
            return Ok(());
        }
        if let Some(name) = records.sparse.name.take() {
            entry.path = name;
        }
        let extents: Vec<Extent> = pax::extents(&map, entry.size, self.left).map_err(|reason| Error::entry(&entry.path, reason))?;
        entry.sparse = Some(extents);
        Ok(())
    }

    /// GNU's first sparse format: four extents in the header, 21 in each block that follows.
    fn old_sparse(&mut self, header: &Header<'_>, entry: &mut Entry) -> Result<Vec<u64>> {
        let refuse = |reason: &str| Error::entry(&entry.path, reason);
        let size = header.number(483, 12).and_then(|n| u64::try_from(n).ok()).ok_or_else(|| refuse("malformed sparse size"))?;
        let mut map = Vec::new();
        let mut part = |field: &[u8]| -> Result<()> {
            for pair in field.chunks_exact(24) {
                if pair[0] == 0 {
                    break;
                }
                for half in pair.chunks_exact(12) {
                    let number = super::header::number(half).and_then(|n| u64::try_from(n).ok());
                    map.push(number.ok_or_else(|| refuse("malformed sparse map"))?);
                }
            }
            if map.len() > 1 << 17 { Err(refuse("sparse map has too many parts")) } else { Ok(()) }
        };
        part(header.field(386, 96))?;
        let mut more = header.0[482] != 0;
        while more {
            let mut block = [0; BLOCK];
            fill(&mut self.source, &mut block)?;
            part(&block[..504])?;
            more = block[504] != 0;
        }
        entry.size = size;
        Ok(map)
    }

    /// One number and a newline from the entry's data.
    fn line(&mut self, consumed: &mut u64, path: &[u8]) -> Result<u64> {
        let mut digits = Vec::new();
        loop {
            let mut byte = [0];
            self.fill_data(&mut byte, path)?;
            *consumed += 1;
            match byte[0] {
                b'\n' => return pax::decimal(&digits).ok_or_else(|| Error::entry(path, "malformed sparse map")),
                digit if digits.len() < 20 => digits.push(digit),
                _ => return Err(Error::entry(path, "malformed sparse map")),
            }
        }
    }

    fn fill_data(&mut self, buffer: &mut [u8], path: &[u8]) -> Result<()> {
        let mut at = 0;
        while at < buffer.len() {
            match self.read_data(&mut buffer[at..])? {
                0 => return Err(Error::entry(path, "data ends within the sparse map")),
                got => at += got,
            }
        }
        Ok(())
    }

    /// Reads a whole extended header or long name.
    fn meta(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > MAX_META {
            return Err(Error::TooLarge { what: "an extended tar header".into(), limit: "1 MiB".into() });
        }
        let mut data = vec![0; usize::try_from(size).expect("at most 1 MiB")];
        fill(&mut self.source, &mut data)?;
        self.padding = padding(size);
        Ok(data)
    }

    fn skip(&mut self) -> Result<()> {
        let mut buffer = [0; 8192];
        while self.left > 0 {
            self.read_data(&mut buffer)?;
        }
        let padding = std::mem::take(&mut self.padding);
        // Some writers leave the padding of the last entry out.
        let mut at = 0;
        while at < padding {
            match read_some(&mut self.source, &mut buffer[..padding - at])? {
                0 => break,
                got => at += got,
            }
        }
        Ok(())
    }

    /// The next header block; `None` at two zero blocks or at the end of the stream.
    fn header_block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        if !fill_or_end(&mut self.source, &mut block)? {
            return Ok(None);
        }
        if block.iter().any(|b| *b != 0) {
            return Ok(Some(block));
        }
        if !fill_or_end(&mut self.source, &mut block)? {
            return Ok(None);
        }
        if block.iter().any(|b| *b != 0) {
            return Err(Error::invalid("tar archive", "an entry follows a block of zeroes"));
        }
        Ok(None)
    }
}

fn name_of(header: &Header<'_>, dialect: Dialect) -> Vec<u8> {
    let name = header.text(0, 100);
    let prefix = match dialect {
        Dialect::Ustar => header.text(345, 155),
        Dialect::Star => header.text(345, 131),
        Dialect::V7 | Dialect::Gnu => b"",
    };
    if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
}

fn padding(size: u64) -> usize {
    // The remainder of a division by 512 fits.
    (BLOCK - (size % BLOCK as u64) as usize) % BLOCK
}

fn truncated() -> Error {
    Error::invalid("tar archive", "it is cut off")
}

fn read_some(source: &mut impl Read, buffer: &mut [u8]) -> Result<usize> {
    loop {
        match source.read(buffer) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map_err(Error::from_read),
        }
    }
}

fn fill(source: &mut impl Read, buffer: &mut [u8]) -> Result<()> {
    if buffer.is_empty() || fill_or_end(source, buffer)? { Ok(()) } else { Err(truncated()) }
}

/// Fills the buffer; false when the stream ends right before it, an error when it ends within.
fn fill_or_end(source: &mut impl Read, buffer: &mut [u8]) -> Result<bool> {
    let mut at = 0;
    while at < buffer.len() {
        match read_some(source, &mut buffer[at..])? {
            0 if at == 0 => return Ok(false),
            0 => return Err(truncated()),
            got => at += got,
        }
    }
    Ok(true)
}
