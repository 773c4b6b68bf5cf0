//! Reads a container's log back: Docker's json-file format, rotated files included, following while it grows.
//!
//! ```text
//! <id>-json.log.2.gz  <id>-json.log.1  <id>-json.log     oldest … newest
//! ```
//! The monitor writes; this only reads. Follow mode is woken by inotify, never by polling. Files are opened before the first of
//! them is read, and found again by their inode, so that a log which turns over meanwhile loses no line, as long as the reader
//! is not slower than all files together.

use crate::error::{EngineError, Result};
use jiff::Timestamp;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// The longest line read; the monitor cuts at 16 KiB, escapes make it up to six times as long.
const LONGEST_LINE: u64 = 1 << 20;

/// One message of the log.
#[derive(Debug, Clone, Deserialize)]
pub struct Line {
    /// The text, with its newline unless it was cut.
    pub log: String,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// When it was written.
    pub time: Timestamp,
    /// Labels and environment chosen by log options.
    #[serde(default)]
    pub attrs: BTreeMap<String, String>,
}

/// Which messages are wanted.
#[derive(Debug, Clone, Default)]
pub struct LogQuery {
    /// From then on.
    pub since: Option<Timestamp>,
    /// Up to then.
    pub until: Option<Timestamp>,
    /// Only those among the last so many lines, whatever those are: as in Docker, they are counted before anything is chosen.
    pub tail: Option<usize>,
    /// Of standard output.
    pub stdout: bool,
    /// Of standard error.
    pub stderr: bool,
}

impl LogQuery {
    fn wants(&self, line: &Line) -> bool {
        let stream = if line.stream == "stderr" { self.stderr } else { self.stdout };
        stream && self.since.is_none_or(|since| line.time >= since) && self.until.is_none_or(|until| line.time <= until)
    }
}

/// Reads messages in order; keeps its place for following.
pub struct LogReader {
    path: PathBuf,
    query: LogQuery,
    current: Option<BufReader<File>>,
    partial: Vec<u8>,
    /// The newest message read: where a file that was compressed meanwhile has ended.
    last: Option<Timestamp>,
}

impl LogReader {
    /// Opens the log at `path`; a log that does not exist yet is empty.
    pub fn new(path: &Path, query: LogQuery) -> Self {
        LogReader { path: path.to_owned(), query, current: None, partial: Vec::new(), last: None }
    }

    /// Hands every message written so far to `sink`, which returns false to stop.
    pub fn read_past(&mut self, sink: &mut dyn FnMut(Line) -> bool) -> Result<()> {
        if self.query.tail == Some(0) {
            return self.skip_to_end();
        }
        let mut files = Files::open(&self.path, None)?;
        let start = self.query.tail.map_or(Ok(0), |count| files.keep_last(&self.path, count))?;
        let go_on = self.drain_older(files.older, None, sink)?;
        if let Some(mut file) = files.current {
            file.seek(SeekFrom::Start(start)).map_err(EngineError::io("read", &self.path))?;
            let mut reader = BufReader::with_capacity(256 << 10, file);
            if go_on {
                self.drain(&mut reader, sink)?;
            }
            self.current = Some(reader);
        }
        Ok(())
    }

    /// Hands what was appended since the last read to `sink`; follows a rotation.
    pub fn read_more(&mut self, sink: &mut dyn FnMut(Line) -> bool) -> Result<()> {
        loop {
            if self.current.is_none() {
                self.current = open(&self.path)?.map(BufReader::new);
            }
            let Some(mut reader) = self.current.take() else { return Ok(()) };
            let go_on = self.drain(&mut reader, sink)?;
            if !go_on || !rotated(reader.get_ref(), &self.path) {
                self.current = Some(reader);
                return Ok(());
            }
            // What came between its end and the turn is still in it.
            if !self.drain(&mut reader, sink)? {
                return Ok(());
            }
            self.partial.clear();
            let files = Files::open(&self.path, Some(reader.get_ref()))?;
            let after = if files.found { None } else { self.last };
            if !self.drain_older(files.older, after, sink)? {
                return Ok(());
            }
            self.current = files.current.map(BufReader::new);
        }
    }

    /// Reads the current file to its end. False when the sink has enough.
    fn drain(&mut self, reader: &mut BufReader<File>, sink: &mut dyn FnMut(Line) -> bool) -> Result<bool> {
        drain(reader, &mut self.partial, &self.query, &mut self.last, None, sink).map_err(EngineError::io("read", &self.path))
    }

    /// Reads files that have been turned over; messages up to `after` have been read.
    fn drain_older(&mut self, files: Vec<Older>, after: Option<Timestamp>, sink: &mut dyn FnMut(Line) -> bool) -> Result<bool> {
        for older in files {
            let (query, last) = (&self.query, &mut self.last);
            let mut read = || -> std::io::Result<bool> {
                let mut reader = older.reader()?;
                for _ in 0..older.skip {
                    reader.skip_until(b'\n')?;
                }
                drain(&mut reader, &mut Vec::new(), query, last, after, sink)
            };
            if !read().map_err(EngineError::io("read", &older.path))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn skip_to_end(&mut self) -> Result<()> {
        if let Some(mut file) = open(&self.path)? {
            file.seek(SeekFrom::End(0)).map_err(EngineError::io("seek in", &self.path))?;
            self.current = Some(BufReader::new(file));
            self.last = Some(Timestamp::now());
        }
        Ok(())
    }
}

/// A file that has been turned over.
struct Older {
    path: PathBuf,
    file: File,
    /// So many of its lines are not wanted.
    skip: usize,
}

impl Older {
    /// From its beginning, inflated where it is compressed.
    fn reader(&self) -> std::io::Result<Box<dyn BufRead + '_>> {
        (&self.file).seek(SeekFrom::Start(0))?;
        let is_compressed = self.path.extension().is_some_and(|extension| extension == "gz");
        Ok(if is_compressed {
            Box::new(BufReader::new(flate2::read::MultiGzDecoder::new(&self.file)))
        } else {
            Box::new(BufReader::new(&self.file))
        })
    }
}

/// All files of a log at one moment.
struct Files {
    /// Turned over, the oldest first.
    older: Vec<Older>,
    /// The one that is written to.
    current: Option<File>,
    /// The file asked for was met; what is older than it was not opened.
    found: bool,
}

impl Files {
    /// So often a log may turn over while its files are opened.
    const ATTEMPTS: u32 = 100;

    fn numbered(path: &Path, number: u32) -> Result<Option<Older>> {
        for suffix in ["", ".gz"] {
            let path = PathBuf::from(format!("{}.{number}{suffix}", path.display()));
            if let Some(file) = open(&path)? {
                return Ok(Some(Older { path, file, skip: 0 }));
            }
        }
        Ok(None)
    }

    /// Opens the newest file, then the older ones, up to `known`; anew when the log has turned over meanwhile.
    fn open(path: &Path, known: Option<&File>) -> Result<Files> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let mut files = Files { older: vec![], current: open(path)?, found: false };
            let mut moving = false;
            for number in 1.. {
                let Some(older) = Self::numbered(path, number)? else {
                    // The names move up one by one, the highest first.
                    moving = Self::numbered(path, number + 1)?.is_some();
                    break;
                };
                if known.is_some_and(|known| same(&older.file, known)) {
                    files.found = true;
                    break;
                }
                files.older.push(older);
            }
            files.older.reverse();
            let turned = match &files.current {
                Some(current) => rotated(current, path),
                // Between the old file's new name and the new file.
                None => !files.older.is_empty() || files.found,
            };
            if !(turned || moving) || attempts == Self::ATTEMPTS {
                return Ok(files);
            }
            std::thread::yield_now();
        }
    }

    /// Leaves the last `count` lines, in the files that hold some of them: where they begin in the current one.
    fn keep_last(&mut self, path: &Path, count: usize) -> Result<u64> {
        let (start, found) = match &mut self.current {
            Some(file) => last_lines(file, count).map_err(EngineError::io("read", path))?,
            None => (0, 0),
        };
        let (mut missing, mut needed) = (count - found, Vec::new());
        for mut older in std::mem::take(&mut self.older).into_iter().rev() {
            if missing == 0 {
                break;
            }
            let lines = older.reader().and_then(|mut reader| count_lines(&mut reader)).map_err(EngineError::io("read", &older.path))?;
            older.skip = lines.saturating_sub(missing);
            missing = missing.saturating_sub(lines);
            needed.insert(0, older);
        }
        self.older = needed;
        Ok(start)
    }
}

/// Where the last `count` lines of a file begin, and how many there are.
fn last_lines(file: &mut File, count: usize) -> std::io::Result<(u64, usize)> {
    let mut end = file.metadata()?.len();
    let (mut block, mut seen) = (vec![0; 64 << 10], 0);
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        let length = usize::try_from(end - start).expect("at most one block");
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block[..length])?;
        for at in (0..length).rev() {
            if block[at] == b'\n' {
                if seen == count {
                    return Ok((start + at as u64 + 1, count));
                }
                seen += 1;
            }
        }
        end = start;
    }
    Ok((0, seen))
}

fn count_lines(reader: &mut dyn BufRead) -> std::io::Result<usize> {
    let mut lines = 0;
    loop {
        let block = reader.fill_buf()?;
        if block.is_empty() {
            return Ok(lines);
        }
        let length = block.len();
        lines += block.iter().filter(|byte| **byte == b'\n').count();
        reader.consume(length);
    }
}

fn open(path: &Path) -> Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(EngineError::io("open", path)(error)),
    }
}

fn same(one: &File, other: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    matches!((one.metadata(), other.metadata()), (Ok(one), Ok(other)) if (one.dev(), one.ino()) == (other.dev(), other.ino()))
}

/// True when the file read is no longer the one of that name.
fn rotated(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(ours), Ok(named)) => (ours.dev(), ours.ino()) != (named.dev(), named.ino()),
        _ => false,
    }
}

/// Reads whole lines; an unfinished last one stays in `partial`. Messages up to `after` are skipped. False when the sink has
/// enough.
fn drain(
    reader: &mut dyn BufRead,
    partial: &mut Vec<u8>,
    query: &LogQuery,
    last: &mut Option<Timestamp>,
    after: Option<Timestamp>,
    sink: &mut dyn FnMut(Line) -> bool,
) -> std::io::Result<bool> {
    loop {
        let read = reader.take(LONGEST_LINE).read_until(b'\n', partial)?;
        if read == 0 {
            return Ok(true);
        }
        if partial.last() != Some(&b'\n') && (partial.len() as u64) < LONGEST_LINE {
            continue;
        }
        // A damaged line (full disk, power cut) is skipped: the rest of the log is still worth reading.
        if let Ok(line) = serde_json::from_slice::<Line>(partial)
            && after.is_none_or(|after| line.time > after)
        {
            *last = Some(line.time);
            if query.wants(&line) && !sink(line) {
                return Ok(false);
            }
        }
        partial.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn write(path: &Path, range: std::ops::Range<u32>) {
        let mut file = File::options().create(true).append(true).open(path).unwrap();
        for number in range {
            let stream = if number % 2 == 0 { "stdout" } else { "stderr" };
            writeln!(file, r#"{{"log":"{number}\n","stream":"{stream}","time":"2024-01-01T00:00:{:02}.5Z"}}"#, number % 60).unwrap();
        }
    }

    fn collect(reader: &mut LogReader, more: bool) -> Vec<String> {
        let mut lines = vec![];
        let mut sink = |line: Line| {
            lines.push(line.log.trim_end().to_owned());
            true
        };
        if more { reader.read_more(&mut sink) } else { reader.read_past(&mut sink) }.unwrap();
        lines
    }

    fn both() -> LogQuery {
        LogQuery { stdout: true, stderr: true, ..LogQuery::default() }
    }

    #[test]
    fn filters_and_tail() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        write(&path, 0..10);
        assert_eq!(collect(&mut LogReader::new(&path, both()), false).len(), 10);
        let tail = LogQuery { tail: Some(3), ..both() };
        assert_eq!(collect(&mut LogReader::new(&path, tail), false), ["7", "8", "9"]);
        let errors = LogQuery { tail: Some(3), stdout: false, ..both() };
        assert_eq!(collect(&mut LogReader::new(&path, errors), false), ["7", "9"]);
        let until = LogQuery { tail: Some(3), until: Some("2024-01-01T00:00:08Z".parse().unwrap()), ..both() };
        assert_eq!(collect(&mut LogReader::new(&path, until), false), ["7"]);
        let since = LogQuery { since: Some("2024-01-01T00:00:08Z".parse().unwrap()), ..both() };
        assert_eq!(collect(&mut LogReader::new(&path, since), false), ["8", "9"]);
    }

    #[test]
    fn a_tail_reaches_into_older_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        write(&dir.path().join("plain"), 0..3);
        let mut packed = flate2::write::GzEncoder::new(File::create(dir.path().join("log.2.gz")).unwrap(), flate2::Compression::fast());
        packed.write_all(&std::fs::read(dir.path().join("plain")).unwrap()).unwrap();
        packed.finish().unwrap();
        write(&dir.path().join("log.1"), 3..6);
        write(&path, 6..8);
        let tail = |count| collect(&mut LogReader::new(&path, LogQuery { tail: Some(count), ..both() }), false);
        for count in 0..8 {
            assert_eq!(tail(count), (8 - count..8).map(|number| number.to_string()).collect::<Vec<_>>());
        }
        assert_eq!(tail(100).len(), 8);
        // One that is damaged matters only where its lines are wanted.
        std::fs::write(dir.path().join("log.2.gz"), "damaged").unwrap();
        assert_eq!(tail(5), ["3", "4", "5", "6", "7"]);
        let mut reader = LogReader::new(&path, LogQuery { tail: Some(6), ..both() });
        assert!(reader.read_past(&mut |_| true).is_err());
    }

    #[test]
    fn following_survives_rotation_and_damage() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut reader = LogReader::new(&path, both());
        assert!(collect(&mut reader, false).is_empty());
        write(&path, 0..2);
        assert_eq!(collect(&mut reader, true), ["0", "1"]);
        std::fs::rename(&path, dir.path().join("log.1")).unwrap();
        write(&path, 2..4);
        assert_eq!(collect(&mut reader, true), ["2", "3"]);
        File::options().append(true).open(&path).unwrap().write_all(b"{broken\n").unwrap();
        write(&path, 4..5);
        assert_eq!(collect(&mut reader, true), ["4"]);
        assert_eq!(collect(&mut LogReader::new(&path, both()), false), ["0", "1", "2", "3", "4"]);
    }

    #[test]
    fn following_loses_nothing_when_the_log_turns_over_more_than_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let named = |number: u32| dir.path().join(format!("log.{number}"));
        let line = |number: u32| {
            let mut file = File::options().create(true).append(true).open(&path).unwrap();
            writeln!(file, r#"{{"log":"{number}\n","stream":"stdout","time":"2024-01-01T00:00:00.{number:03}Z"}}"#).unwrap();
        };
        let turn = || {
            drop(std::fs::rename(named(2), named(3)));
            drop(std::fs::rename(named(1), named(2)));
            std::fs::rename(&path, named(1)).unwrap();
        };
        let mut reader = LogReader::new(&path, both());
        line(1);
        assert_eq!(collect(&mut reader, false), ["1"]);
        // Its end has been read; more comes, and only then it turns over, twice.
        line(2);
        turn();
        line(3);
        turn();
        line(4);
        assert_eq!(collect(&mut reader, true), ["2", "3", "4"]);
        // Between two names nothing is lost either.
        line(5);
        turn();
        assert_eq!(collect(&mut reader, true), ["5"]);
        line(6);
        assert_eq!(collect(&mut reader, true), ["6"]);
        // Compressed meanwhile, the file that was read is found by what was read of it.
        turn();
        let mut packed = flate2::write::GzEncoder::new(File::create(dir.path().join("log.1.gz")).unwrap(), flate2::Compression::fast());
        packed.write_all(&std::fs::read(named(1)).unwrap()).unwrap();
        packed.finish().unwrap();
        std::fs::remove_file(named(1)).unwrap();
        line(7);
        assert_eq!(collect(&mut reader, true), ["7"]);
    }
}
