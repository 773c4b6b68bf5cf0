//! What an image from outside may cost: size of a layer, and the space that stays free.

use crate::error::{At, Error, Result};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::SyncSender;

/// Limits on what comes from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest layer, unpacked, in bytes; holes of sparse files count.
    pub max_layer_size: u64,
    /// Bytes of the file system that stay free, at most 5 % of it.
    pub reserve: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { max_layer_size: 64 << 30, reserve: 1 << 30 }
    }
}

/// Bytes of names that are remembered of one archive (directories whose times are set at the end, files of an image archive,
/// what was replaced): some 500,000 names as real images have them.
const MAX_NAMES: usize = 64 << 20;

/// Counts names that are held in memory.
#[derive(Debug, Default)]
pub(crate) struct Names(usize);

impl Names {
    pub fn remember(&mut self, name: &[u8], what: &str) -> Result<()> {
        // A name costs more than its bytes.
        self.0 += name.len() + 64;
        if self.0 > MAX_NAMES {
            return Err(Error::TooLarge { what: format!("the list of {what}"), limit: "64 MiB".into() });
        }
        Ok(())
    }
}

/// Bytes written between two looks at the free space, at most; where less than that is left it is half of the rest.
const CHECK_EVERY: u64 = 256 << 20;

/// Bytes written between two looks at least: by so much a layer may go below the reserve.
const CHECK_AT_MOST_EVERY: u64 = 1 << 20;

/// What an entry takes beside its data: a block of a directory, or the end of a file's last one. Ten million empty files fill a
/// disk, too.
const ENTRY: u64 = 4 << 10;

/// Inodes of the file system that stay free, at most 5 % of it: as many as ext4 has in a gibibyte. There is no limit on the
/// entries of a layer beside it.
const INODES: u64 = 64 << 10;

/// Bytes written before the disk is set to work: what it has by the end need not be waited for.
const FLUSH_EVERY: u64 = 64 << 20;

/// Watches one layer being written.
#[derive(Debug)]
pub(crate) struct Space {
    directory: Option<OwnedFd>,
    path: PathBuf,
    limits: Limits,
    written: u64,
    next_check: u64,
    flusher: Option<SyncSender<()>>,
    next_flush: u64,
}

impl Space {
    pub fn new(path: &Path, limits: Limits) -> Result<Space> {
        let directory = Some(crate::root::open_dir(path).at("open", path.display())?);
        let mut space =
            Space { directory, path: path.to_owned(), limits, written: 0, next_check: 0, flusher: None, next_flush: FLUSH_EVERY };
        space.check()?;
        Ok(space)
    }

    /// Wakes this thread every now and then.
    pub fn flushing(mut self, flusher: Option<&SyncSender<()>>) -> Space {
        self.flusher = flusher.cloned();
        self
    }

    /// For what the user writes into a container: only the file system limits it.
    pub fn unlimited() -> Space {
        let limits = Limits { max_layer_size: u64::MAX, reserve: 0 };
        Space { directory: None, path: PathBuf::new(), limits, written: 0, next_check: u64::MAX, flusher: None, next_flush: u64::MAX }
    }

    /// The layer will have `size` bytes at least.
    pub fn announce(&self, size: u64) -> Result<()> {
        if size > self.limits.max_layer_size {
            return Err(Error::TooLarge { what: "layer".into(), limit: format!("{} bytes", self.limits.max_layer_size) });
        }
        Ok(())
    }

    pub fn wrote(&mut self, bytes: u64) -> Result<()> {
        self.written += bytes;
        if let Some(flusher) = self.flusher.as_ref().filter(|_| self.written >= self.next_flush) {
            self.next_flush = self.written + FLUSH_EVERY;
            // It may be at work still.
            flusher.try_send(()).ok();
        }
        if self.written >= self.next_check {
            self.check()?;
        }
        Ok(())
    }

    /// An entry was made.
    pub fn made(&mut self) -> Result<()> {
        self.wrote(ENTRY)
    }

    fn check(&mut self) -> Result<()> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let stat = rustix::fs::fstatvfs(directory).at("look at the free space of", self.path.display())?;
        let spare = |unit, free: u64, reserve: u64| {
            let path = || self.path.display().to_string();
            free.checked_sub(reserve).ok_or_else(|| Error::NoSpace { path: path(), unit, free, reserve })
        };
        let all = stat.f_blocks.saturating_mul(stat.f_frsize);
        let mut spare_bytes = spare("bytes", stat.f_bavail.saturating_mul(stat.f_frsize), self.limits.reserve.min(all / 20))?;
        // btrfs has no number of them.
        if stat.f_files > 0 {
            let inodes = spare("inodes", stat.f_favail, INODES.min(stat.f_files / 20))?;
            spare_bytes = spare_bytes.min(inodes.saturating_mul(ENTRY));
        }
        self.next_check = self.written + (spare_bytes / 2).clamp(CHECK_AT_MOST_EVERY, CHECK_EVERY);
        Ok(())
    }
}
