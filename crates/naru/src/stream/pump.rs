//! The pump of a hijacked connection: stdin in, stdout and stderr out.
//!
//! stdin is read by a thread of its own because reading a terminal or a pipe blocks; the thread is left behind when the
//! program ends. Output is written at once while it is small and the reader is ready, else on a blocking thread, so that
//! a slow reader holds up neither input nor signals.

use std::io::{Read as _, Write as _};

use bytes::Bytes;
use naru_api::client::Hijacked;
use naru_api::frames::{Decoder, StreamKind};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::detach::{Watched, Watcher};
use crate::cli::error::{Failure, Result};

/// A pipe takes this much at once when poll says that it is writable.
const PIPE_BUF: usize = 4096;
const BUFFER: usize = 32 * 1024;

/// What is pumped.
pub struct Streams {
    pub tty: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// The notation of the keys that detach; watched only with a terminal.
    pub detach_keys: String,
}

/// How a pump ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The container closed its output.
    Closed,
    /// The detach keys were typed.
    Detached,
}

/// Pumps until the output ends or the user detaches.
pub async fn run(hijacked: Hijacked, streams: Streams) -> Result<End> {
    let multiplexed = hijacked.multiplexed.unwrap_or(!streams.tty);
    let (mut from, mut to) = tokio::io::split(hijacked.io);
    let watcher = if streams.tty { Some(Watcher::new(&streams.detach_keys).map_err(Failure::message)?) } else { None };
    let (detached, mut on_detach) = mpsc::channel::<()>(1);
    // Dropping the write half does not close the connection: the read half holds it too.
    if streams.stdin {
        let mut input = read_stdin();
        let mut watcher = watcher;
        tokio::task::spawn_local(async move {
            while let Some(chunk) = input.recv().await {
                let chunk = match &mut watcher {
                    None => chunk,
                    Some(watcher) => match watcher.feed(&chunk) {
                        Watched::Pass(bytes) => Bytes::from(bytes),
                        Watched::Detach(bytes) => {
                            drop(to.write_all(&bytes).await);
                            let _gone = detached.send(()).await;
                            return;
                        }
                    },
                };
                // A container that does not read any more is no error of ours.
                if to.write_all(&chunk).await.is_err() || to.flush().await.is_err() {
                    break;
                }
            }
            drop(to.shutdown().await);
            // The output decides when it is over.
            std::future::pending::<()>().await;
        });
    } else {
        drop(to);
    }
    let output = async {
        let mut decoder = Decoder::new();
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = match from.read(&mut buffer).await {
                Ok(0) => return Ok(End::Closed),
                Ok(length) => length,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(End::Closed),
                Err(error) => return Err(Failure::message(format!("read from the container: {error}"))),
            };
            if !multiplexed {
                if streams.stdout || streams.stderr {
                    write_out(&buffer[..length], false).await?;
                }
                continue;
            }
            decoder.feed(&buffer[..length]);
            frames(&mut decoder, streams.stdout, streams.stderr).await?;
        }
    };
    tokio::pin!(output);
    // A closed channel means that stdin has ended, not that somebody detached.
    tokio::select! {
        end = &mut output => end,
        Some(()) = on_detach.recv() => Ok(End::Detached),
    }
}

/// Writes all whole frames of a decoder to where they belong.
pub async fn frames(decoder: &mut Decoder, stdout: bool, stderr: bool) -> Result<()> {
    while let Some((kind, payload)) = decoder.next_frame().map_err(|error| Failure::message(error.to_string()))? {
        match kind {
            StreamKind::SystemError => {
                return Err(Failure::message(format!("error from daemon in stream: {}", String::from_utf8_lossy(&payload))));
            }
            StreamKind::Stderr if stderr => write_out(&payload, true).await?,
            StreamKind::Stdin | StreamKind::Stdout if stdout => write_out(&payload, false).await?,
            _ => {}
        }
    }
    Ok(())
}

/// Writes to stdout or stderr without ever blocking the other streams.
pub async fn write_out(bytes: &[u8], to_stderr: bool) -> Result<()> {
    let ready = |fd: &dyn rustix::fd::AsFd| {
        let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::OUT)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|count| count > 0)
    };
    let write = move |bytes: &[u8]| {
        if to_stderr {
            std::io::stderr().lock().write_all(bytes)
        } else {
            let mut out = std::io::stdout().lock();
            out.write_all(bytes).and_then(|()| out.flush())
        }
    };
    let small = bytes.len() <= PIPE_BUF && if to_stderr { ready(&std::io::stderr()) } else { ready(&std::io::stdout()) };
    let outcome = if small {
        write(bytes)
    } else {
        let bytes = bytes.to_vec();
        tokio::task::spawn_blocking(move || write(&bytes)).await.unwrap_or_else(|error| Err(std::io::Error::other(error)))
    };
    outcome.map_err(Failure::from_stdout)
}

/// Chunks of stdin, read by a thread.
pub fn read_stdin() -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut buffer = vec![0; BUFFER];
        let mut stdin = std::io::stdin().lock();
        loop {
            match stdin.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => {
                    if sender.blocking_send(Bytes::copy_from_slice(&buffer[..length])).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    });
    receiver
}
