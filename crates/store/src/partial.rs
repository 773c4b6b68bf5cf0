//! Blobs that have arrived in part: `partial/<hex>`.
//!
//! A blob that is fetched by its digest is written there and stays until its image is recorded, so that neither a failure of
//! another layer nor the end of the process costs a byte that was received; of an image that is wrong nothing stays. What
//! lies there is never believed: the next attempt passes it through all checks as if it came from the network. Nobody needs
//! it for a day, and it is deleted.

use crate::error::{At, Error, Result};
use naru_types::Digest;
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, SystemTime};

/// How long a partial blob waits for the next attempt.
pub(crate) const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// How often a source may fail without giving a byte in between.
const FAILURES: u32 = 3;

/// The directory, and who uses what of it.
#[derive(Debug)]
pub(crate) struct Partials {
    directory: PathBuf,
    users: Mutex<HashMap<Digest, User>>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct User {
    /// Ingests that will commit it.
    holders: usize,
    /// One of them writes it now.
    busy: bool,
}

/// The right to write one partial blob; given up when dropped.
#[derive(Debug)]
pub(crate) struct Writing<'a> {
    partials: &'a Partials,
    digest: &'a Digest,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        if let Some(user) = self.partials.users.lock().expect("no holder panics").get_mut(self.digest) {
            user.busy = false;
        }
        self.partials.freed.notify_all();
    }
}

impl Partials {
    pub fn new(directory: PathBuf) -> Self {
        Partials { directory, users: Mutex::new(HashMap::new()), freed: Condvar::new() }
    }

    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.directory.join(digest.hex())
    }

    /// Waits until nobody writes this blob; meanwhile `waiting` is told how much of it is there. The caller holds the blob
    /// already.
    pub fn write<'a>(&'a self, digest: &'a Digest, waiting: &dyn Fn(u64)) -> Writing<'a> {
        let mut users = self.users.lock().expect("no holder panics");
        while users.get(digest).is_some_and(|user| user.busy) {
            users = self.freed.wait_timeout(users, Duration::from_millis(200)).expect("no holder panics").0;
            if let Ok(metadata) = std::fs::metadata(self.path(digest)) {
                waiting(metadata.len());
            }
        }
        users.entry(digest.clone()).or_default().busy = true;
        Writing { partials: self, digest }
    }

    /// Keeps a blob from being deleted until it is released as often.
    pub fn hold(&self, digest: &Digest) {
        self.users.lock().expect("no holder panics").entry(digest.clone()).or_default().holders += 1;
    }

    /// Lets a blob go; by the last of its holders it is deleted if it is of no use to anybody.
    pub fn release(&self, digest: &Digest, useless: bool) {
        let mut users = self.users.lock().expect("no holder panics");
        if let Some(user) = users.get_mut(digest) {
            user.holders -= 1;
            if user.holders == 0 {
                users.remove(digest);
                if useless && let Err(error) = self.remove(digest) {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "cannot delete what arrived of a wrong image, the next prune does"
                    );
                }
            }
        }
    }

    pub fn remove(&self, digest: &Digest) -> Result<()> {
        remove(&self.path(digest))
    }

    /// Deletes what nobody holds and is older than `age`; returns the number of bytes.
    pub fn sweep(&self, age: Duration) -> Result<u64> {
        let users = self.users.lock().expect("no holder panics");
        let mut freed = 0;
        for entry in std::fs::read_dir(&self.directory).at("list", self.directory.display())? {
            let entry = entry.at("list", self.directory.display())?;
            let digest = entry.file_name().to_str().and_then(|hex| format!("sha256:{hex}").parse::<Digest>().ok());
            if digest.is_some_and(|digest| users.contains_key(&digest)) {
                continue;
            }
            let path = entry.path();
            let metadata = entry.metadata().at("look at", path.display())?;
            // A time in the future says nothing: such a file goes with the next prune.
            let since = metadata.modified().ok().and_then(|modified| SystemTime::now().duration_since(modified).ok());
            if age.is_zero() || since.is_some_and(|since| since >= age) {
                remove(&path)?;
                freed += metadata.len();
            }
        }
        Ok(freed)
    }
}

fn remove(path: &Path) -> Result<()> {
    match rustix::fs::unlink(path) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno).at("remove", path.display()),
    }
}

/// A blob from its partial file, and after it from the source, which is opened where the file ends and opened again when it
/// fails.
pub(crate) struct Resuming<'a> {
    replay: Option<File>,
    open: &'a mut dyn FnMut(u64) -> io::Result<Box<dyn Read>>,
    stream: Option<Box<dyn Read>>,
    at: u64,
    size: u64,
    failures: u32,
}

impl<'a> Resuming<'a> {
    /// `replay` is read from its start.
    pub fn new(replay: File, size: u64, open: &'a mut dyn FnMut(u64) -> io::Result<Box<dyn Read>>) -> Self {
        Resuming { replay: Some(replay), open, stream: None, at: 0, size, failures: 0 }
    }
}

impl Read for Resuming<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(file) = &mut self.replay {
            let got = file.read(buffer)?;
            self.at += got as u64;
            if got > 0 || buffer.is_empty() {
                return Ok(got);
            }
            self.replay = None;
        }
        loop {
            // Bytes after the announced size are not looked at.
            let left = usize::try_from(self.size.saturating_sub(self.at)).unwrap_or(usize::MAX).min(buffer.len());
            if left == 0 {
                return Ok(0);
            }
            let stream = match &mut self.stream {
                Some(stream) => stream,
                None => self.stream.insert((self.open)(self.at)?),
            };
            let error = match stream.read(&mut buffer[..left]) {
                Ok(0) => {
                    let reason = format!("the source ended after {} of {} bytes", self.at, self.size);
                    io::Error::new(io::ErrorKind::UnexpectedEof, reason)
                }
                Ok(got) => {
                    self.at += got as u64;
                    self.failures = 0;
                    return Ok(got);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            self.stream = None;
            self.failures += 1;
            if self.failures >= FAILURES {
                return Err(error);
            }
        }
    }
}

/// True for an error that says nothing against the bytes: what has arrived stays.
pub(crate) fn keeps(error: &Error) -> bool {
    matches!(error, Error::Stream { .. } | Error::Io { .. } | Error::NoSpace { .. } | Error::Database { .. })
}
