//! Waiting for a process in the foreground: signals go to it, and with a terminal both sides' bytes.

use crate::error::{Error, Result, ignore};
use naru_sys::process;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Our own terminal in raw mode, as long as this lives.
struct Raw(Option<Termios>);

impl Raw {
    fn enter() -> Raw {
        let stdin = rustix::stdio::stdin();
        let Ok(before) = rustix::termios::tcgetattr(stdin) else { return Raw(None) };
        let mut raw = before.clone();
        raw.make_raw();
        ignore(rustix::termios::tcsetattr(stdin, OptionalActions::Now, &raw));
        Raw(Some(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            ignore(rustix::termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, before));
        }
    }
}

/// Waits for the child and returns its exit code.
pub(super) fn wait(pid: i32, pidfd: &OwnedFd, terminal: Option<OwnedFd>) -> Result<i32> {
    let signals: Vec<i32> = (1..32).filter(|signal| !matches!(*signal, libc::SIGKILL | libc::SIGSTOP | libc::SIGCHLD)).collect();
    let signal_fd = process::signal_fd(&signals).map_err(Error::system("make a signalfd"))?;
    let raw = terminal.as_ref().map(|_| Raw::enter());
    let mut input_open = true;
    let mut output_open = terminal.is_some();
    loop {
        let mut polled = vec![PollFd::new(pidfd, PollFlags::IN), PollFd::new(&signal_fd, PollFlags::IN)];
        if let Some(terminal) = terminal.as_ref().filter(|_| output_open) {
            polled.push(PollFd::new(terminal, PollFlags::IN));
            if input_open {
                polled.push(PollFd::from_borrowed_fd(rustix::stdio::stdin(), PollFlags::IN));
            }
        }
        match rustix::event::poll(&mut polled, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::System { action: "wait for the process", errno }),
        }
        let ready: Vec<bool> = polled.iter().map(|one| !one.revents().is_empty()).collect();
        drop(polled);
        if ready[1] {
            forward_signal(&signal_fd, pidfd, terminal.as_ref());
        }
        if let Some(terminal) = &terminal {
            if ready.get(2) == Some(&true) {
                output_open = copy(terminal.as_fd(), rustix::stdio::stdout());
            }
            if ready.get(3) == Some(&true) {
                input_open = copy(rustix::stdio::stdin(), terminal.as_fd());
            }
        }
        if ready[0] && (!output_open || ready.get(2) != Some(&true)) {
            drop(raw);
            let ended = process::wait_child(pid, true).map_err(Error::system("wait for the process"))?;
            return Ok(ended.map_or(255, |(_, ended)| ended.code()));
        }
    }
}

fn forward_signal(signal_fd: &OwnedFd, pidfd: &OwnedFd, terminal: Option<&OwnedFd>) {
    /// signalfd_siginfo; the number is its first field.
    const INFO_BYTES: usize = 128;
    let mut info = [0; INFO_BYTES];
    let Ok(INFO_BYTES) = rustix::io::read(signal_fd, &mut info) else { return };
    let number = i32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
    match terminal {
        Some(terminal) if number == libc::SIGWINCH => {
            if let Ok(size) = rustix::termios::tcgetwinsize(rustix::stdio::stdin()) {
                ignore(rustix::termios::tcsetwinsize(terminal, size));
            }
        }
        // The process may have ended meanwhile.
        _ => ignore(process::pidfd_signal(pidfd.as_fd(), number)),
    }
}

/// One read and its writes; false at the end.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> bool {
    let mut buffer = [0; 16 << 10];
    let Ok(count @ 1..) = rustix::io::read(from, &mut buffer) else { return false };
    let mut rest = &buffer[..count];
    while !rest.is_empty() {
        match rustix::io::write(to, rest) {
            Ok(written) => rest = &rest[written..],
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    true
}
