//! Reads a container's log back: Docker's json-file format, rotated files included, following while it grows.
//!
//! ```text
//! <id>-json.log.2.gz  <id>-json.log.1  <id>-json.log     oldest … newest
//! ```
//! The monitor writes; this only reads. Follow mode is woken by inotify, never by polling.

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
}

impl LogReader {
    /// Opens the log at `path`; a log that does not exist yet is empty.
    pub fn new(path: &Path, query: LogQuery) -> Self {
        LogReader { path: path.to_owned(), query, current: None, partial: Vec::new() }
    }

    /// Hands every message written so far to `sink`, which returns false to stop.
    pub fn read_past(&mut self, sink: &mut dyn FnMut(Line) -> bool) -> Result<()> {
        match self.query.tail {
            Some(0) => self.skip_to_end(),
            Some(count) => {
                let (older, start) = self.tail_start(count)?;
                self.scan(older, start, sink)
            }
            None => {
                let older = rotated_files(&self.path).into_iter().map(|path| Part { path, skip: 0 }).collect();
                self.scan(older, 0, sink)
            }
        }
    }

    /// Hands what was appended since the last read to `sink`; follows a rotation.
    pub fn read_more(&mut self, sink: &mut dyn FnMut(Line) -> bool) -> Result<()> {
        loop {
            if self.current.is_none() {
                self.current = open(&self.path)?.map(BufReader::new);
            }
            let Some(reader) = &mut self.current else { return Ok(()) };
            if !drain(reader, &mut self.partial, &self.query, sink).map_err(EngineError::io("read", &self.path))? {
                return Ok(());
            }
            if !rotated(reader.get_ref(), &self.path) {
                return Ok(());
            }
            self.current = None;
            self.partial.clear();
        }
    }

    fn skip_to_end(&mut self) -> Result<()> {
        if let Some(mut file) = open(&self.path)? {
            file.seek(SeekFrom::End(0)).map_err(EngineError::io("seek in", &self.path))?;
            self.current = Some(BufReader::new(file));
        }
        Ok(())
    }

    /// Where the last `count` lines begin: the older files that hold some of them, oldest first, and a place in the current one.
    /// Files of which none is wanted are not opened.
    fn tail_start(&self, count: usize) -> Result<(Vec<Part>, u64)> {
        let (mut missing, mut start) = (count, 0);
        if let Some(mut file) = open(&self.path)? {
            let found;
            (start, found) = last_lines(&mut file, missing).map_err(EngineError::io("read", &self.path))?;
            missing -= found;
        }
        let mut older = Vec::new();
        for path in rotated_files(&self.path).into_iter().rev() {
            if missing == 0 {
                break;
            }
            let Some(mut reader) = open_older(&path)? else { continue };
            let lines = count_lines(&mut reader).map_err(EngineError::io("read", &path))?;
            older.insert(0, Part { path, skip: lines.saturating_sub(missing) });
            missing = missing.saturating_sub(lines);
        }
        Ok((older, start))
    }

    fn scan(&mut self, older: Vec<Part>, start: u64, sink: &mut dyn FnMut(Line) -> bool) -> Result<()> {
        let mut go_on = true;
        for Part { path, skip } in older {
            let Some(mut reader) = open_older(&path)?.filter(|_| go_on) else { continue };
            let query = &self.query;
            let mut read = || -> std::io::Result<bool> {
                for _ in 0..skip {
                    reader.skip_until(b'\n')?;
                }
                drain(&mut reader, &mut Vec::new(), query, sink)
            };
            go_on = read().map_err(EngineError::io("read", &path))?;
        }
        if let Some(mut file) = open(&self.path)? {
            file.seek(SeekFrom::Start(start)).map_err(EngineError::io("read", &self.path))?;
            let mut reader = BufReader::with_capacity(256 << 10, file);
            if go_on {
                drain(&mut reader, &mut self.partial, &self.query, sink).map_err(EngineError::io("read", &self.path))?;
            }
            self.current = Some(reader);
        }
        Ok(())
    }
}

/// A rotated file, and how many of its lines are not wanted.
struct Part {
    path: PathBuf,
    skip: usize,
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

/// A rotated file, inflated where it is compressed.
fn open_older(path: &Path) -> Result<Option<Box<dyn BufRead>>> {
    let Some(file) = open(path)? else { return Ok(None) };
    let is_compressed = path.extension().is_some_and(|extension| extension == "gz");
    Ok(Some(if is_compressed { Box::new(BufReader::new(flate2::read::MultiGzDecoder::new(file))) } else { Box::new(BufReader::new(file)) }))
}

fn open(path: &Path) -> Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(EngineError::io("open", path)(error)),
    }
}

/// Rotated files, oldest first.
fn rotated_files(path: &Path) -> Vec<PathBuf> {
    let numbered = |number: u32, suffix: &str| PathBuf::from(format!("{}.{number}{suffix}", path.display()));
    let mut files: Vec<PathBuf> = (1..)
        .map_while(|number| [numbered(number, ""), numbered(number, ".gz")].into_iter().find(|candidate| candidate.exists()))
        .collect();
    files.reverse();
    files
}

/// True when the file read is no longer the one of that name.
fn rotated(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(ours), Ok(named)) => (ours.dev(), ours.ino()) != (named.dev(), named.ino()),
        _ => false,
    }
}

/// Reads whole lines; an unfinished last one stays in `partial`. False when the sink has enough.
fn drain(reader: &mut dyn BufRead, partial: &mut Vec<u8>, query: &LogQuery, sink: &mut dyn FnMut(Line) -> bool) -> std::io::Result<bool> {
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
            && query.wants(&line)
            && !sink(line)
        {
            return Ok(false);
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
}
