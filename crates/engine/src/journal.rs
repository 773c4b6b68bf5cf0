//! The last events on disk, so that `events --since` reaches over the daemon's end.
//!
//! ```text
//! <data-root>/events      lines of JSON, the newest last
//! <data-root>/events.old  the file before, full
//! ```
//! A line is one write without fsync: it outlives a killed daemon and costs a start a few microseconds. When a file is full
//! it becomes the old one, so that the two always hold the last [`KEPT`] events and never much more. Events are a convenience:
//! a disk that takes none, or a line cut by a crash, is no error.

use crate::events::{Event, KEPT};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The writing end.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: Option<File>,
    lines: usize,
    /// The last line may lack its end.
    torn: bool,
}

impl Journal {
    /// Opens the journal and reads what is there, the oldest first.
    pub(crate) fn open(path: &Path) -> (Journal, Vec<Event>) {
        let mut journal = Journal { path: path.to_owned(), file: None, lines: 0, torn: false };
        let mut events = read(&journal.old()).0;
        let newest = read(path);
        journal.lines = newest.0.len();
        journal.torn = newest.1;
        events.extend(newest.0);
        events.drain(..events.len().saturating_sub(KEPT));
        journal.file = journal.create();
        (journal, events)
    }

    fn old(&self) -> PathBuf {
        self.path.with_extension("old")
    }

    fn create(&self) -> Option<File> {
        let opened = File::options().create(true).append(true).mode(0o600).open(&self.path);
        opened.inspect_err(|error| tracing::warn!(path = %self.path.display(), %error, "events are not kept over the daemon's end")).ok()
    }

    /// Writes one event.
    pub(crate) fn append(&mut self, event: &Event) {
        if self.lines >= KEPT && std::fs::rename(&self.path, self.old()).is_ok() {
            (self.lines, self.torn) = (0, false);
            self.file = self.create();
        }
        let Some(file) = &mut self.file else { return };
        let mut line = if self.torn { b"\n".to_vec() } else { Vec::new() };
        serde_json::to_writer(&mut line, event).expect("events are plain data");
        line.push(b'\n');
        self.torn = file.write_all(&line).is_err();
        self.lines += 1;
    }
}

/// The events of a file, and whether its last line is cut.
fn read(path: &Path) -> (Vec<Event>, bool) {
    let bytes = std::fs::read(path).unwrap_or_default();
    let events = bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    (events, bytes.last().is_some_and(|byte| *byte != b'\n'))
}
