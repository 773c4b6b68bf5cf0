//! A process the monitor looks after: the container's first (number 0) or that of an exec, and its streams.

use super::log::Partial;
use crate::child::Stdio;
use crate::error::{Error, Result};
use crate::handshake::ParentEnd;
use naru_sys::process::Ended;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use std::os::fd::OwnedFd;
use std::time::Instant;

/// Its number in the monitor.
pub(super) const MAIN: usize = 0;

/// A process.
#[derive(Debug)]
pub(super) struct Process {
    /// The exec's id; `None` for the container's own.
    pub exec: Option<String>,
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub tty: bool,
    pub terminal: Option<OwnedFd>,
    /// The terminal's other side, held while the process runs: without any holder reading would fail for good.
    pub held: Option<OwnedFd>,
    pub input: Option<Input>,
    /// Standard input closes with the client that has it.
    pub input_once: bool,
    /// stdout (or the terminal) and stderr.
    pub outputs: [Option<Output>; 2],
    pub phase: Phase,
}

/// Where a process stands.
#[derive(Debug)]
pub(super) enum Phase {
    /// An exec on its way to its program; answers go to that client.
    Starting {
        channel: Option<ParentEnd>,
        announced: bool,
        client: usize,
        detach: bool,
    },
    Running,
    /// Ended; its output is awaited until then.
    Draining {
        ended: Ended,
        deadline: Instant,
    },
}

/// The way to standard input.
#[derive(Debug)]
pub(super) struct Input {
    pub fd: OwnedFd,
    pub pending: Vec<u8>,
    /// Close when `pending` is written.
    pub closing: bool,
    pub registered: bool,
}

/// One output stream.
#[derive(Debug)]
pub(super) struct Output {
    pub fd: OwnedFd,
    pub partial: Partial,
    pub registered: bool,
}

impl Input {
    pub(super) fn new(fd: OwnedFd) -> Input {
        Input { fd, pending: Vec::new(), closing: false, registered: false }
    }
}

impl Output {
    pub(super) fn new(fd: OwnedFd) -> Output {
        Output { fd, partial: Partial::default(), registered: false }
    }
}

/// The monitor's ends of the streams.
#[derive(Debug, Default)]
pub(super) struct Ends {
    pub input: Option<Input>,
    pub outputs: [Option<Output>; 2],
    pub held: Option<OwnedFd>,
}

/// Pipes for the streams wanted, `/dev/null` for the others.
pub(super) fn pipes(stdin: bool, stdout: bool, stderr: bool) -> Result<(Stdio, Ends)> {
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(Error::system("make a pipe"));
    let nonblocking = |fd: &OwnedFd| rustix::io::ioctl_fionbio(fd, true).map_err(Error::system("make a pipe non-blocking"));
    let mut ends = Ends::default();
    let stdin = if stdin {
        let (read, write) = pipe()?;
        nonblocking(&write)?;
        ends.input = Some(Input::new(write));
        read
    } else {
        null()?
    };
    let mut output = |wanted: bool, slot: usize| {
        if !wanted {
            return null();
        }
        let (read, write) = pipe()?;
        nonblocking(&read)?;
        ends.outputs[slot] = Some(Output::new(read));
        Ok(write)
    };
    let stdout = output(stdout, 0)?;
    let stderr = output(stderr, 1)?;
    Ok((Stdio { stdin, stdout, stderr }, ends))
}

fn null() -> Result<OwnedFd> {
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(Error::path("open", "/dev/null"))
}

/// The monitor's ends of a terminal.
pub(super) fn terminal_ends(terminal: &OwnedFd, stdin: bool) -> Result<Ends> {
    let copy = || rustix::io::fcntl_dupfd_cloexec(terminal, 3).map_err(Error::system("duplicate the terminal"));
    rustix::io::ioctl_fionbio(terminal, true).map_err(Error::system("make the terminal non-blocking"))?;
    let input = if stdin { Some(Input::new(copy()?)) } else { None };
    let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY | rustix::pty::OpenptFlags::CLOEXEC;
    let held = rustix::pty::ioctl_tiocgptpeer(terminal, flags).map_err(Error::system("open the terminal's other side"))?;
    Ok(Ends { input, outputs: [Some(Output::new(copy()?)), None], held: Some(held) })
}

impl Process {
    pub(super) fn drained(&self) -> bool {
        self.outputs.iter().all(Option::is_none)
    }

    /// Writes pending input; true when all of it is written.
    pub(super) fn write_input(&mut self) -> bool {
        let Some(input) = &mut self.input else { return true };
        while !input.pending.is_empty() {
            match rustix::io::write(&input.fd, &input.pending) {
                Ok(count) => drop(input.pending.drain(..count)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return false,
                Err(_) => {
                    // The program has closed its end: what is sent there from now on is lost, as with a shell's pipe.
                    self.input = None;
                    return true;
                }
            }
        }
        input.pending = Vec::new();
        if input.closing {
            self.input = None;
        }
        true
    }
}
