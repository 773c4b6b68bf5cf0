//! The log of a container in Docker's json-file format.
//!
//! ```text
//! {"log":"text\n","stream":"stdout","attrs":{"k":"v"},"time":"2026-01-02T03:04:05.000000006Z"}
//! ```
//! A line longer than 16 KiB becomes several entries of which only the last ends with a newline. Rotated files are
//! `name.1` (newest) and up, with `.gz` when compressed, which a forked child does.
//!
//! What is read from the container at once is written at once: nothing waits in this process, so nothing is lost with it. Where
//! the container shall not wait for the disk, another process writes ([`queue`]).

mod queue;

use self::queue::Queue;
use super::protocol::Log;
use crate::error::{Error, Result, errno_of, ignore};
use crate::time::{STAMP_BYTES, stamp};
use naru_sys::process::{self, Fork, SingleThread};
use rustix::fs::{Mode, OFlags};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// Docker's limit of one entry.
const MAX_ENTRY_BYTES: usize = 16 << 10;
/// Entries are written when this many bytes of them have gathered.
const WRITE_BYTES: usize = 64 << 10;
const FILE_MODE: u32 = 0o640;

/// Where the output goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFile {
    /// The newest file.
    pub path: PathBuf,
    /// Rotate before a file gets longer than this; `None` is never.
    pub max_size: Option<u64>,
    /// How many files to keep, the newest included.
    pub max_files: u32,
    /// gzip rotated files.
    pub compress: bool,
    /// Put into every entry.
    pub attrs: BTreeMap<String, String>,
    /// The container never waits for the disk: so many bytes of its output may, what comes when they do is not logged.
    pub queue: Option<u64>,
}

/// The beginning of a line whose end has not come yet.
#[derive(Debug, Default)]
pub(super) struct Partial(Vec<u8>);

impl Partial {
    /// Adds what was read and hands on what is complete: lines, and pieces of lines that are too long.
    fn split(&mut self, mut bytes: &[u8], mut complete: impl FnMut(&[u8])) {
        while !bytes.is_empty() {
            let room = MAX_ENTRY_BYTES - self.0.len();
            let window = &bytes[..bytes.len().min(room)];
            let (taken, is_complete) = match find(window, newlines) {
                Some(at) => (at + 1, true),
                None if window.len() == room => (rune_boundary(&self.0, window), true),
                None => (window.len(), false),
            };
            let (now, later) = bytes.split_at(taken);
            bytes = later;
            if is_complete && self.0.is_empty() {
                complete(now);
                continue;
            }
            self.0.extend_from_slice(now);
            if is_complete {
                complete(&std::mem::take(&mut self.0));
            }
        }
    }
}

/// An open log.
pub(super) enum Sink {
    /// This process writes; a disk that takes its time holds the container up.
    Direct(Writer),
    Queued(Queue),
}

impl Sink {
    pub(super) fn open(settings: Log, threads: SingleThread) -> Result<Sink> {
        Ok(match settings.queue {
            Some(bytes) => Sink::Queued(Queue::open(settings, bytes, threads)?),
            None => Sink::Direct(Writer::open(settings, Some(threads))?),
        })
    }

    /// Takes output of one stream.
    pub(super) fn write(&mut self, stream: &'static str, partial: &mut Partial, bytes: &[u8]) {
        match self {
            Sink::Direct(writer) => writer.write(stream, partial, bytes),
            Sink::Queued(queue) => queue.write(stream, partial, bytes),
        }
    }

    /// Takes what is left of a stream that has ended.
    pub(super) fn end(&mut self, stream: &'static str, partial: &mut Partial) {
        if !partial.0.is_empty() {
            // All of it is complete now.
            let line = std::mem::take(&mut partial.0);
            match self {
                Sink::Direct(writer) => writer.write_entries(stream, &stamp(), &line),
                Sink::Queued(queue) => queue.write_entry(stream, &line),
            }
        }
    }

    /// Writes everything and waits for the compressor.
    pub(super) fn close(self) {
        match self {
            Sink::Direct(writer) => writer.close(),
            Sink::Queued(queue) => queue.close(),
        }
    }

    /// Gives buffers back.
    pub(super) fn relax(&mut self) {
        match self {
            Sink::Direct(writer) => writer.entries = Vec::new(),
            Sink::Queued(queue) => queue.relax(),
        }
    }
}

/// The files of a log.
pub(super) struct Writer {
    settings: Log,
    /// `"attrs":{...},` or nothing.
    attrs: Vec<u8>,
    file: OwnedFd,
    size: u64,
    entries: Vec<u8>,
    /// Without it (tests) nothing is compressed.
    threads: Option<SingleThread>,
    compressor: Option<i32>,
}

impl Writer {
    fn open(settings: Log, threads: Option<SingleThread>) -> Result<Writer> {
        let (file, size) = open(&settings.path, false)?;
        let mut attrs = Vec::new();
        if !settings.attrs.is_empty() {
            attrs.extend_from_slice(b"\"attrs\":");
            serde_json::to_writer(&mut attrs, &settings.attrs).expect("a map of strings is always JSON");
            attrs.push(b',');
        }
        Ok(Writer { settings, attrs, file, size, entries: Vec::new(), threads, compressor: None })
    }

    fn write(&mut self, stream: &'static str, partial: &mut Partial, bytes: &[u8]) {
        let time = stamp();
        partial.split(bytes, |line| self.entry(stream, line, &time));
        self.flush();
    }

    /// Writes lines; the last one may have no newline.
    fn write_entries(&mut self, stream: &'static str, time: &[u8; STAMP_BYTES], mut lines: &[u8]) {
        while !lines.is_empty() {
            let (line, rest) = lines.split_at(find(lines, newlines).map_or(lines.len(), |at| at + 1));
            self.entry(stream, line, time);
            lines = rest;
        }
        self.flush();
    }

    fn entry(&mut self, stream: &'static str, line: &[u8], time: &[u8; STAMP_BYTES]) {
        let start = self.entries.len();
        self.entries.extend_from_slice(b"{\"log\":\"");
        escape(&mut self.entries, line);
        self.entries.extend_from_slice(b"\",\"stream\":\"");
        self.entries.extend_from_slice(stream.as_bytes());
        self.entries.extend_from_slice(b"\",");
        self.entries.extend_from_slice(&self.attrs);
        self.entries.extend_from_slice(b"\"time\":\"");
        self.entries.extend_from_slice(time);
        self.entries.extend_from_slice(b"\"}\n");
        if let Some(limit) = self.settings.max_size
            && self.size + self.entries.len() as u64 > limit
        {
            // The entry that does not fit begins the next file.
            let entry = self.entries.split_off(start);
            self.flush();
            if self.size > 0 {
                self.rotate();
            }
            self.entries = entry;
        }
        if self.entries.len() >= WRITE_BYTES {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let mut rest = self.entries.as_slice();
        while !rest.is_empty() {
            match rustix::io::write(&self.file, rest) {
                Ok(count) => {
                    rest = &rest[count..];
                    self.size += count as u64;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => {
                    // A full disk: these entries are lost, but never half an entry left in the file.
                    let written = (self.entries.len() - rest.len()) as u64;
                    let whole = self.entries[..written as usize].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at as u64 + 1);
                    self.size -= written - whole;
                    ignore(rustix::fs::ftruncate(&self.file, self.size));
                    break;
                }
            }
        }
        self.entries.clear();
    }

    fn rotate(&mut self) {
        self.reap();
        let settings = &self.settings;
        let numbered = |number: u32, compressed: bool| {
            let mut name = settings.path.clone().into_os_string();
            name.push(format!(".{number}{}", if compressed { ".gz" } else { "" }));
            PathBuf::from(name)
        };
        let keep_old = settings.max_files > 1;
        for number in (1..settings.max_files.saturating_sub(1)).rev() {
            for compressed in [false, true] {
                // Absent is the usual case.
                drop(std::fs::rename(numbered(number, compressed), numbered(number + 1, compressed)));
            }
        }
        if keep_old {
            drop(std::fs::rename(&settings.path, numbered(1, false)));
        } else {
            // Who reads it reads on in the old file; cut to nothing it would be taken for one that has not grown.
            drop(std::fs::remove_file(&settings.path));
        }
        match open(&settings.path, !keep_old) {
            Ok((file, size)) => (self.file, self.size) = (file, size),
            // Without a new file the old one goes on.
            Err(_) => self.size = 0,
        }
        if let (true, true, Some(threads)) = (keep_old, settings.compress, self.threads) {
            let (plain, packed) = (numbered(1, false), numbered(1, true));
            match threads.fork() {
                Ok(Fork::Child) => process::exit_now(i32::from(compress(&plain, &packed).is_err())),
                Ok(Fork::Parent { pid }) => self.compressor = Some(pid),
                // It stays uncompressed.
                Err(_) => {}
            }
        }
    }

    fn reap(&mut self) {
        if let Some(pid) = self.compressor.take() {
            ignore(process::wait_child(pid, true));
        }
    }

    fn close(mut self) {
        self.flush();
        self.reap();
    }
}

fn open(path: &PathBuf, truncate: bool) -> Result<(OwnedFd, u64)> {
    let mut flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    if truncate {
        flags |= OFlags::TRUNC;
    }
    let file = rustix::fs::open(path, flags, Mode::from_raw_mode(FILE_MODE)).map_err(Error::path("open the log", path))?;
    let size = rustix::fs::fstat(&file).map_err(Error::path("look at the log", path))?.st_size as u64;
    Ok((file, size))
}

fn compress(plain: &PathBuf, packed: &PathBuf) -> std::io::Result<()> {
    let mut temporary = packed.clone().into_os_string();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let file =
        rustix::fs::open(&temporary, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC, Mode::from_raw_mode(FILE_MODE))?;
    let mut encoder = flate2::write::GzEncoder::new(File::from(file), flate2::Compression::default());
    std::io::copy(&mut File::open(plain)?, &mut encoder)?;
    encoder.finish()?.flush()?;
    std::fs::rename(&temporary, packed).map_err(|error| std::io::Error::from(errno_of(&error)))?;
    std::fs::remove_file(plain)
}

/// How much of `window` to take so that no UTF-8 sequence is cut; all of it when that is not text.
fn rune_boundary(before: &[u8], window: &[u8]) -> usize {
    const LONGEST: usize = 4;
    for back in 1..LONGEST.min(window.len()) {
        let byte = window[window.len() - back];
        if byte & 0xc0 == 0x80 {
            continue;
        }
        let length = match byte {
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf7 => 4,
            _ => 1,
        };
        return if length > back && (window.len() > back || !before.is_empty()) { window.len() - back } else { window.len() };
    }
    window.len()
}

/// JSON text of bytes that should be UTF-8, escaped as Go's encoder does.
fn escape(target: &mut Vec<u8>, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => escape_text(target, text.as_bytes()),
        Err(_) => escape_text(target, String::from_utf8_lossy(bytes).as_bytes()),
    }
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// The top bit of each zero byte; bits above the first one found may be wrong, which is fine for the first.
fn zeros(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & HIGHS
}

fn newlines(word: u64) -> u64 {
    zeros(word ^ (ONES * b'\n' as u64))
}

/// Bytes that JSON (as Go writes it) escapes.
fn specials(word: u64) -> u64 {
    let below_space = word.wrapping_sub(ONES * 0x20) & !word & HIGHS;
    b"\"\\<>&\x7f".iter().fold(below_space, |found, byte| found | zeros(word ^ (ONES * u64::from(*byte))))
}

/// The first byte that `marks` marks, eight at a time: logs are read by the gigabyte.
fn find(bytes: &[u8], marks: impl Fn(u64) -> u64) -> Option<usize> {
    let (words, rest) = bytes.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        let marked = marks(u64::from_le_bytes(*word));
        if marked != 0 {
            return Some(at * 8 + marked.trailing_zeros() as usize / 8);
        }
    }
    // Filled up with a letter that nothing marks.
    let mut last = [b'a'; 8];
    last[..rest.len()].copy_from_slice(rest);
    let marked = marks(u64::from_le_bytes(last));
    (marked != 0).then(|| words.len() * 8 + marked.trailing_zeros() as usize / 8)
}

fn escape_text(target: &mut Vec<u8>, text: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut rest = text;
    while let Some(at) = find(rest, specials) {
        target.extend_from_slice(&rest[..at]);
        match rest[at] {
            b'"' => target.extend_from_slice(b"\\\""),
            b'\\' => target.extend_from_slice(b"\\\\"),
            b'\n' => target.extend_from_slice(b"\\n"),
            b'\r' => target.extend_from_slice(b"\\r"),
            b'\t' => target.extend_from_slice(b"\\t"),
            byte => target.extend_from_slice(&[b'\\', b'u', b'0', b'0', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]),
        }
        rest = &rest[at + 1..];
    }
    target.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Read;

    fn writer(directory: &tempfile::TempDir, max_size: Option<u64>, max_files: u32) -> Writer {
        let path = directory.path().join("c.log");
        Writer::open(Log { path, max_size, max_files, compress: false, attrs: BTreeMap::new(), queue: None }, None).unwrap()
    }

    fn entries(text: &str) -> Vec<String> {
        text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["log"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn escapes_as_json() {
        let mut target = Vec::new();
        escape(&mut target, b"a\"\\\x01\t<\xff\xc3\xa4\n");
        assert_eq!(String::from_utf8(target).unwrap(), "a\\\"\\\\\\u0001\\t\\u003c\u{fffd}\u{e4}\\n");
    }

    proptest! {
        #[test]
        fn every_text_comes_back(text in "\\PC*|[\\x00-\\x7f]*") {
            let mut target = vec![b'"'];
            escape(&mut target, text.as_bytes());
            target.push(b'"');
            prop_assert_eq!(serde_json::from_slice::<String>(&target).unwrap(), text);
        }

        #[test]
        fn words_find_what_bytes_find(bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'a'), Just(b'\n')], 0..40)) {
            prop_assert_eq!(find(&bytes, newlines), bytes.iter().position(|byte| *byte == b'\n'));
            let special = |byte: &u8| *byte < 0x20 || b"\"\\<>&\x7f".contains(byte);
            prop_assert_eq!(find(&bytes, specials), bytes.iter().position(special));
        }

        #[test]
        fn runes_are_not_cut(text in "\\PC{1,40}", cut in 1usize..80) {
            let bytes = text.as_bytes();
            let cut = cut.min(bytes.len());
            if cut > 4 {
                let taken = rune_boundary(b"", &bytes[..cut]);
                prop_assert!(text.is_char_boundary(taken));
                prop_assert!(cut - taken < 4);
            }
        }
    }

    #[test]
    fn lines_split_and_rotate() {
        let directory = tempfile::tempdir().unwrap();
        let mut sink = Sink::Direct(writer(&directory, Some(200), 3));
        let mut partial = Partial::default();
        sink.write("stdout", &mut partial, b"one\ntw");
        sink.write("stdout", &mut partial, b"o\n");
        for number in 0..10 {
            sink.write("stderr", &mut partial, format!("line {number}\n").as_bytes());
        }
        sink.end("stdout", &mut partial);
        let mut text = String::new();
        File::open(directory.path().join("c.log")).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(entries(&text).last().unwrap(), "line 9\n");
        assert!(directory.path().join("c.log.2").exists() && !directory.path().join("c.log.3").exists());
    }
}
