//! A log whose container never waits for the disk (`mode=non-blocking`).
//!
//! ```text
//! monitor ── messages of whole lines ──▶ queue (a seqpacket socket's, in the kernel) ──▶ writer (forked) ──▶ files
//! ```
//! A message that has no room in the queue is dropped. The queue outlives the monitor: the writer ends when it has written what
//! the monitor, whose end it sees, has left there.

use super::super::protocol::Log;
use super::{MAX_ENTRY_BYTES, Partial, Writer};
use crate::error::{Error, Result, ignore};
use crate::time::{STAMP_BYTES, stamp};
use naru_sys::process::{self, Fork, SingleThread};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// A message is one byte for the stream, a stamp, and lines.
const HEAD_BYTES: usize = 1 + STAMP_BYTES;
/// There is always room for one message.
const LEAST_BYTES: u64 = (HEAD_BYTES + MAX_ENTRY_BYTES) as u64;
/// The kernel counts a socket's room in 32 bits with a sign, and doubles what it is told, for its own part.
const MOST_BYTES: u64 = 1 << 30;
/// How long the end of the container waits for a writer that is held up; as Docker's.
const PATIENCE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// The monitor's side.
pub(in crate::monitor) struct Queue {
    settings: Log,
    bytes: u64,
    threads: SingleThread,
    socket: OwnedFd,
    writer: i32,
    message: Vec<u8>,
}

impl Queue {
    pub(super) fn open(settings: Log, bytes: u64, threads: SingleThread) -> Result<Queue> {
        let (socket, writer) = begin(settings.clone(), bytes, threads)?;
        Ok(Queue { settings, bytes, threads, socket, writer, message: Vec::new() })
    }

    pub(super) fn write(&mut self, stream: &'static str, partial: &mut Partial, bytes: &[u8]) {
        let time = stamp();
        partial.split(bytes, |line| self.add(stream, line, &time));
        self.send();
    }

    pub(super) fn write_entry(&mut self, stream: &'static str, line: &[u8]) {
        self.add(stream, line, &stamp());
        self.send();
    }

    fn add(&mut self, stream: &'static str, line: &[u8], time: &[u8; STAMP_BYTES]) {
        if self.message.len() + line.len() > HEAD_BYTES + MAX_ENTRY_BYTES {
            self.send();
        }
        if self.message.is_empty() {
            self.message.push(u8::from(stream == "stderr"));
            self.message.extend_from_slice(time);
        }
        self.message.extend_from_slice(line);
        // The next one is no part of this line.
        if !line.ends_with(b"\n") {
            self.send();
        }
    }

    fn send(&mut self) {
        if self.message.is_empty() {
            return;
        }
        if self.send_now() == Err(Errno::PIPE) {
            // Somebody has killed the writer.
            ignore(process::wait_child(self.writer, false));
            if let Ok((socket, writer)) = begin(self.settings.clone(), self.bytes, self.threads) {
                (self.socket, self.writer) = (socket, writer);
                ignore(self.send_now());
            }
        }
        self.message.clear();
    }

    fn send_now(&self) -> Result<(), Errno> {
        loop {
            match rustix::net::send(&self.socket, &self.message, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Err(Errno::INTR) => {}
                other => return other.map(drop),
            }
        }
    }

    /// Waits until all is written.
    pub(super) fn close(self) {
        let writer = Pid::from_raw(self.writer).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        drop(self.socket);
        if let Some(writer) = writer {
            ignore(poll(&mut [PollFd::new(&writer, PollFlags::IN)], Some(&PATIENCE)));
        }
        ignore(process::wait_child(self.writer, false));
    }

    pub(super) fn relax(&mut self) {
        self.message = Vec::new();
    }
}

/// Forks a writer: the way to it and its pid.
fn begin(settings: Log, bytes: u64, threads: SingleThread) -> Result<(OwnedFd, i32)> {
    let writer = Writer::open(settings, Some(threads))?;
    let pair = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let (ours, theirs) = pair.map_err(Error::system("make a queue for the log"))?;
    let room = bytes.clamp(LEAST_BYTES, MOST_BYTES) as usize;
    if sockopt::set_socket_send_buffer_size_force(&ours, room).is_err() {
        // Without the right to more it is what everybody may have.
        ignore(sockopt::set_socket_send_buffer_size(&ours, room));
    }
    match threads.fork().map_err(Error::system("fork the writer of the log"))? {
        Fork::Child => write(writer, &theirs),
        Fork::Parent { pid } => Ok((ours, pid)),
    }
}

/// The writer's life.
fn write(mut writer: Writer, queue: &OwnedFd) -> ! {
    ignore(rustix::thread::set_name(c"naru-log"));
    // The daemon and clients would take these for the monitor's.
    if process::close_all_but(3, &mut [queue.as_raw_fd(), writer.file.as_raw_fd()]).is_err() {
        process::exit_now(1);
    }
    let mut message = vec![0; HEAD_BYTES + MAX_ENTRY_BYTES];
    loop {
        match rustix::net::recv(queue.as_fd(), &mut message[..], RecvFlags::empty()) {
            Ok((length, _)) => {
                let Some((head, lines)) = message[..length].split_first_chunk::<HEAD_BYTES>() else { break };
                let [stream, time @ ..] = head;
                writer.write_entries(if *stream == 0 { "stdout" } else { "stderr" }, time, lines);
            }
            Err(Errno::INTR) => {}
            Err(_) => break,
        }
    }
    writer.close();
    process::exit_now(0)
}
