//! Starts our own daemon when nobody answers on its socket and we may: detached, its output in a log beside the socket.

use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;

/// The role that leaves our session before it becomes the daemon.
pub const LAUNCHER: &str = "naru-launcher";
/// How long a daemon may take to listen.
const PATIENCE: Duration = Duration::from_secs(15);
/// Between bind and listen a socket file is there and refuses: look again after this long.
const RETRY: Duration = Duration::from_millis(1);

/// Makes sure that somebody answers, as far as we can; the call that follows tells when we could not.
pub fn ensure(socket: &Path) {
    if UnixStream::connect(socket).is_ok() || !rustix::process::geteuid().is_root() {
        return;
    }
    if let Err(error) = start(socket) {
        crate::output::error_line(&format!("starting the naru daemon: {error}"));
    }
}

fn start(socket: &Path) -> std::io::Result<()> {
    let folder = socket.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(folder)?;
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    inotify::add_watch(&watch, folder, inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO)?;
    let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("daemon.log"))?;
    let mut daemon =
        Command::new("/proc/self/exe").arg0(LAUNCHER).current_dir("/").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
    let deadline = Instant::now() + PATIENCE;
    let mut bound = false;
    loop {
        if UnixStream::connect(socket).is_ok() {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(std::io::Error::other("it does not listen; see daemon.log beside its socket"));
        }
        if let Some(status) = daemon.try_wait()? {
            // Another client may have been faster, then this daemon gives way.
            if UnixStream::connect(socket).is_ok() {
                return Ok(());
            }
            return Err(std::io::Error::other(format!("it ended with {status}; see daemon.log beside its socket")));
        }
        bound = bound || socket.exists();
        let wait = if bound { RETRY } else { left.min(Duration::from_millis(100)) };
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) };
        let mut fds = [PollFd::new(&watch, PollFlags::IN)];
        if poll(&mut fds, Some(&timeout))? > 0 {
            let mut buffer = [std::mem::MaybeUninit::uninit(); 1024];
            let mut events = inotify::Reader::new(&watch, &mut buffer);
            while events.next().is_ok() {}
        }
    }
}

/// The launcher's role: a session of its own, then the daemon in this process.
pub fn launch() -> i32 {
    if let Err(error) = rustix::process::setsid() {
        crate::output::error_line(&format!("leaving the session: {error}"));
        return 1;
    }
    let error = Command::new("/proc/self/exe").arg0("naru").arg("daemon").exec();
    crate::output::error_line(&format!("starting the daemon: {error}"));
    1
}
