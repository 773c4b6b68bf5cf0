//! The writer: ustar headers, a PAX header before those that need one. The same entries give the same bytes.

use super::{BLOCK, Entry, Kind};
use crate::error::{Error, Result};
use std::io::{Read, Write};

/// Writes entries; [`Writer::finish`] ends the archive.
#[derive(Debug)]
pub struct Writer<W> {
    sink: W,
}

impl<W: Write> Writer<W> {
    /// A writer at the start of an archive.
    pub fn new(sink: W) -> Self {
        Writer { sink }
    }

    /// An entry with `entry.size` bytes of data, exactly; shorter data is an error, longer data is cut.
    pub fn file(&mut self, entry: &Entry, data: &mut dyn Read) -> Result<()> {
        self.header(entry)?;
        let mut left = entry.size;
        let mut buffer = vec![0; 128 << 10];
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let got = match data.read(&mut buffer[..want]) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                result => result.map_err(Error::from_read)?,
            };
            if got == 0 {
                // The file shrank while it was read: the size is written already, so the rest becomes zeroes.
                buffer.fill(0);
                while left > 0 {
                    let part = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                    self.write(&buffer[..part])?;
                    left -= part as u64;
                }
                break;
            }
            self.write(&buffer[..got])?;
            left -= got as u64;
        }
        self.pad(entry.size)
    }

    /// An entry without data.
    pub fn entry(&mut self, entry: &Entry) -> Result<()> {
        self.header(&Entry { size: 0, ..entry.clone() })
    }

    /// A file with the bytes given.
    pub fn bytes(&mut self, path: &str, mode: u32, data: &[u8]) -> Result<()> {
        let entry = Entry { size: data.len() as u64, ..Entry::new(path, Kind::File, mode) };
        self.file(&entry, &mut &data[..])
    }

    /// Writes the end of the archive.
    pub fn finish(mut self) -> Result<W> {
        self.write(&[0; 2 * BLOCK])?;
        self.sink.flush().map_err(Error::from_write)?;
        Ok(self.sink)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.sink.write_all(bytes).map_err(Error::from_write)
    }

    fn pad(&mut self, size: u64) -> Result<()> {
        let over = (size % BLOCK as u64) as usize;
        if over == 0 { Ok(()) } else { self.write(&[0; BLOCK][over..]) }
    }

    fn header(&mut self, entry: &Entry) -> Result<()> {
        let mut records = Vec::new();
        let name = split_name(&entry.path);
        if name.is_none() {
            record(&mut records, b"path", &entry.path);
        }
        if entry.link.len() > 100 {
            record(&mut records, b"linkpath", &entry.link);
        }
        for (key, value, digits) in [(&b"size"[..], entry.size.cast_signed(), 11), (b"uid", entry.uid, 7), (b"gid", entry.gid, 7)] {
            if !fits(value, digits) {
                record(&mut records, key, value.to_string().as_bytes());
            }
        }
        if !fits(entry.mtime, 11) || entry.mtime_nanos != 0 {
            record(&mut records, b"mtime", time_text(entry.mtime, entry.mtime_nanos).as_bytes());
        }
        for (key, value) in &entry.xattrs {
            record(&mut records, &[b"SCHILY.xattr.", key.as_slice()].concat(), value);
        }
        if !records.is_empty() {
            let header = Entry { size: records.len() as u64, mode: 0o644, ..Entry::new("PaxHeaders.0/entry", Kind::File, 0o644) };
            let block = block(&header, b'x', (b"", b"PaxHeaders.0/entry"));
            self.write(&block)?;
            self.write(&records)?;
            self.pad(header.size)?;
        }
        let kind = match entry.kind {
            Kind::File => b'0',
            Kind::Link => b'1',
            Kind::Symlink => b'2',
            Kind::Char => b'3',
            Kind::Block => b'4',
            Kind::Dir => b'5',
            Kind::Fifo => b'6',
        };
        let cut = &entry.path[..entry.path.len().min(100)];
        let block = block(entry, kind, name.unwrap_or((b"", cut)));
        self.write(&block)
    }
}

/// The name as prefix and name of a ustar header, when it fits.
fn split_name(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= 100 {
        return Some((b"", path));
    }
    // The last slash but one at most 155 bytes in; a trailing slash belongs to the name.
    (1..path.len().min(156))
        .rev()
        .find(|at| path[*at] == b'/' && path.len() - at - 1 <= 100 && at + 1 < path.len())
        .map(|at| (&path[..at], &path[at + 1..]))
}

fn fits(value: i64, octal_digits: u32) -> bool {
    value >= 0 && value < 1i64 << (3 * octal_digits)
}

fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + rest.to_string().len();
    if length.to_string().len() + rest != length {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(length.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn time_text(seconds: i64, nanos: u32) -> String {
    let text = match (seconds, nanos) {
        (_, 0) => return seconds.to_string(),
        (0.., _) => format!("{seconds}.{nanos:09}"),
        // -2 s + 0.5e9 ns is -1.5 s.
        _ => {
            let whole = (seconds + 1).unsigned_abs();
            format!("-{whole}.{:09}", 1_000_000_000 - nanos)
        }
    };
    text.trim_end_matches('0').to_owned()
}

fn block(entry: &Entry, kind: u8, (prefix, name): (&[u8], &[u8])) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |offset: usize, bytes: &[u8]| block[offset..offset + bytes.len()].copy_from_slice(bytes);
    // A value that does not fit stands in the PAX header.
    let octal = |value: i64, digits: usize| {
        let value = if fits(value, digits as u32) { value } else { 0 };
        format!("{value:0digits$o}\0").into_bytes()
    };
    put(0, name);
    put(100, &octal(i64::from(entry.mode & 0o7777), 7));
    put(108, &octal(entry.uid, 7));
    put(116, &octal(entry.gid, 7));
    put(124, &octal(entry.size.cast_signed(), 11));
    put(136, &octal(entry.mtime, 11));
    put(148, b"        ");
    put(156, &[kind]);
    put(157, &entry.link[..entry.link.len().min(100)]);
    put(257, b"ustar\x0000");
    put(329, &octal(i64::from(entry.device.0), 7));
    put(337, &octal(i64::from(entry.device.1), 7));
    put(345, prefix);
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}
