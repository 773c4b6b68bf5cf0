//! One engine at a time has the links and rules of a name: two that both mend them would undo each other's work for ever, and
//! what one finds at its start it would take for a dead engine's.
//!
//! The claim is a locked file (flock(2)) in a directory of root's: the lock goes with its process. Its name has the number of the
//! network namespace, to which links and rules belong. An abstract socket would do the same without a file, but containers on
//! the host's network could take such a name.

use crate::error::{Error, Result};
use crate::holder;
use rustix::fs::{FlockOperation, Mode, OFlags, flock, fstat, open, stat};
use rustix::io::Errno;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

/// Where claims are.
const DIRECTORY: &str = "/run/naru-networks";

/// The claim of a name in this network namespace, as long as it lives.
#[derive(Debug)]
pub struct Claim {
    path: PathBuf,
    _locked: File,
}

impl Claim {
    /// Claims a name in the calling thread's network namespace; refused where another engine has it.
    pub fn take(name: &str) -> Result<Claim> {
        let fail = |errno| Error::kernel("claim", name, errno);
        let namespace = stat("/proc/thread-self/ns/net").map_err(fail)?.st_ino;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(DIRECTORY).map_err(|source| Error::File {
            action: "make",
            path: DIRECTORY.into(),
            source,
        })?;
        let path = PathBuf::from(format!("{DIRECTORY}/{namespace}-{name}"));
        loop {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut file = File::from(open(&path, flags, Mode::from_raw_mode(0o600)).map_err(fail)?);
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => {
                    let mut text = String::new();
                    // Who has just locked it may not have written yet.
                    file.read_to_string(&mut text).ok();
                    let holder = text.trim().parse().ok().and_then(holder::name_of);
                    return Err(Error::Claimed { name: name.to_owned(), holder: holder.unwrap_or_else(|| "another engine".into()) });
                }
                Err(errno) => return Err(fail(errno)),
            }
            // Whoever had it may have removed it between the two: then it is nobody's path any more.
            if !stat(&path).is_ok_and(|there| fstat(&file).is_ok_and(|own| own.st_ino == there.st_ino && own.st_dev == there.st_dev)) {
                continue;
            }
            file.set_len(0).and_then(|()| write!(file, "{}", std::process::id())).map_err(|source| Error::File {
                action: "write",
                path: path.display().to_string(),
                source,
            })?;
            return Ok(Claim { path, _locked: file });
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Removed while it is locked; what a killed engine leaves is locked by the next.
        std::fs::remove_file(&self.path).ok();
    }
}
