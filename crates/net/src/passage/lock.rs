//! The lock that `iptables-legacy` holds while it works, and word of its being let go: xtables itself tells nobody of changes.

use crate::error::{Error, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, Mode, OFlags, inotify};
use rustix::io::Errno;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// `XT_LOCK_NAME`: of all network namespaces, read-only for all but root.
const FOLDER: &str = "/run";
const NAME: &str = "xtables.lock";
const PATH: &str = "/run/xtables.lock";
/// Who has given no command for so long has given the last one. The next one of a script comes within a few milliseconds.
const QUIET: Duration = Duration::from_millis(50);
/// A way is wanted before, however long it goes on.
const LONGEST: Duration = Duration::from_millis(500);

/// The lock, held; what closes its descriptor lets it go.
#[derive(Debug)]
pub(super) struct Lock {
    _file: OwnedFd,
}

impl Lock {
    /// Takes it; none when another, be it a thread of ours, has it for longer than `patience`.
    pub fn take(patience: Duration) -> Result<Option<Lock>> {
        let fail = |errno| Error::kernel("lock", PATH, errno);
        let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::CLOEXEC;
        let file = rustix::fs::open(PATH, flags, Mode::RUSR | Mode::WUSR).map_err(fail)?;
        let start = Instant::now();
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Some(Lock { _file: file })),
                Err(Errno::WOULDBLOCK) if start.elapsed() < patience => std::thread::sleep(Duration::from_millis(10)),
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(fail(errno)),
            }
        }
    }
}

/// Tells when somebody has had the lock.
#[derive(Debug)]
pub(crate) struct LockWatch(OwnedFd);

impl LockWatch {
    /// None where the host gives no (more) watches: what others change is then seen when a container starts.
    pub fn open() -> Option<LockWatch> {
        let watch = LockWatch(inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).ok()?);
        // The file comes with the first use of it.
        inotify::add_watch(&watch.0, FOLDER, inotify::WatchFlags::CREATE | inotify::WatchFlags::ONLYDIR).ok()?;
        watch.find();
        Some(watch)
    }

    fn find(&self) {
        // Absent is fine.
        inotify::add_watch(&self.0, PATH, inotify::WatchFlags::CLOSE_NOWRITE | inotify::WatchFlags::CLOSE_WRITE).ok();
    }

    /// True when somebody has had the lock since; does not wait.
    pub fn poll(&self) -> bool {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.0, &mut buffer);
        let (mut had, mut made) = (false, false);
        while let Ok(event) = events.next() {
            let lost = event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW);
            made |= lost || event.file_name().is_some_and(|name| name.to_bytes() == NAME.as_bytes());
            had |= event.events().intersects(inotify::ReadFlags::CLOSE_NOWRITE | inotify::ReadFlags::CLOSE_WRITE);
        }
        if made {
            self.find();
        }
        had || made
    }
}

impl LockWatch {
    /// Waits while others take the lock time and again: a script that gives one command after the other may have an
    /// `iptables-legacy` that fails when it finds the lock taken.
    pub fn settle(&self) {
        let start = Instant::now();
        let quiet = Timespec { tv_sec: 0, tv_nsec: QUIET.as_nanos() as i64 };
        while start.elapsed() < LONGEST {
            self.poll();
            if poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&quiet)) == Ok(0) {
                return;
            }
        }
    }
}

impl AsFd for LockWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
