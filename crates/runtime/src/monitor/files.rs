//! The files a monitor keeps in its container's directory.

use super::protocol::ExitRecord;
use crate::error::{Error, Result, ignore};
use rustix::fs::{AtFlags, Mode, OFlags};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

/// The monitor's socket.
pub(crate) const SOCKET: &str = "monitor.sock";
/// The exit record.
pub(crate) const EXIT_RECORD: &str = "exit.json";
const EXIT_RECORD_NEW: &str = "exit.json.new";
/// `sun_path` holds 108 bytes with the final zero.
pub(crate) const MAX_SOCKET_PATH: usize = 107;

/// The container's directory, opened once so that its path is never looked up again.
pub(crate) struct Directory(OwnedFd);

impl Directory {
    pub(crate) fn open(path: &Path) -> Result<Directory> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).map(Directory).map_err(Error::path("open", path))
    }

    /// Listens on the socket, in place of one that a dead monitor left.
    pub(crate) fn listen(&self) -> Result<UnixListener> {
        self.remove(SOCKET);
        self.remove(EXIT_RECORD);
        let path = format!("/proc/self/fd/{}/{SOCKET}", self.0.as_raw_fd());
        UnixListener::bind(path).map_err(Error::io("bind the monitor's socket"))
    }

    pub(crate) fn remove_socket(&self) {
        self.remove(SOCKET);
    }

    fn remove(&self, name: &str) {
        // Absent is fine; anything else shows when the name is used.
        ignore(rustix::fs::unlinkat(&self.0, name, AtFlags::empty()));
    }

    /// Writes the exit record under a temporary name and renames it.
    pub(crate) fn write_exit_record(&self, record: &ExitRecord) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(self.0.as_fd(), EXIT_RECORD_NEW, flags, Mode::RUSR | Mode::WUSR)
            .map_err(Error::path("create", EXIT_RECORD_NEW))?;
        let bytes = serde_json::to_vec(record).expect("a record is always JSON");
        std::fs::File::from(file).write_all(&bytes).map_err(Error::io("write the exit record"))?;
        rustix::fs::renameat(&self.0, EXIT_RECORD_NEW, &self.0, EXIT_RECORD).map_err(Error::path("rename to", EXIT_RECORD))
    }
}
