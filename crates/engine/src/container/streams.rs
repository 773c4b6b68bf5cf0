//! A container's standard streams and terminal, as clients see them; those who come before the start wait for it.

use super::{Actor, Streams};
use crate::error::{EngineError, Result};
use crate::monitor;
use crate::phase::Phase;
use naru_runtime::monitor::Request;
use naru_runtime::spawner::AttachStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;

impl Actor {
    /// `name` is what the client calls the container.
    pub(super) async fn attach(&mut self, name: &str, streams: Streams) -> Result<StdUnixStream> {
        match &self.view.state.phase {
            Phase::Running { paused: true, .. } => {
                Err(EngineError::conflict(format!("container {name} is paused, unpause the container before attach")))
            }
            Phase::Restarting(_) => {
                Err(EngineError::conflict(format!("container {name} is restarting, wait until the container is running")))
            }
            Phase::Removing => Err(EngineError::NoSuchContainer(self.view.id.to_string())),
            Phase::Running { .. } => {
                let Streams { stdin, stdout, stderr } = streams;
                let (_, stream) = monitor::ask(&self.directory, &Request::Attach { stdin, stdout, stderr }).await?;
                stream.into_std().map_err(EngineError::io("take over", &self.directory))
            }
            Phase::Created | Phase::Exited(_) => {
                let (ours, theirs) = StdUnixStream::pair().map_err(EngineError::io("make a stream for", &self.directory))?;
                ours.set_nonblocking(true).map_err(EngineError::io("make a stream for", &self.directory))?;
                self.waiting_attach.retain(|stream| !hung_up(&stream.socket));
                self.waiting_attach.push(AttachStream {
                    socket: OwnedFd::from(theirs),
                    stdin: streams.stdin && self.view.spec.process.open_stdin,
                    stdout: streams.stdout,
                    stderr: streams.stderr,
                });
                Ok(ours)
            }
        }
    }

    pub(super) async fn resize(&mut self, rows: u16, columns: u16) -> Result<()> {
        let not_running = || EngineError::conflict(format!("Container {} is not running", self.view.id));
        if !self.view.state.is_running() {
            return Err(not_running());
        }
        let asked = monitor::ask(&self.directory, &Request::Resize { exec: None, rows, columns }).await;
        asked.map_err(|error| if self.ended_under(&error) { not_running() } else { error })?;
        self.emit("resize", &[("height", rows.to_string()), ("width", columns.to_string())]);
        Ok(())
    }
}

/// True when the client at the other end has gone.
fn hung_up(socket: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut fds = [PollFd::new(socket, PollFlags::empty())];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok_and(|count| count > 0)
}
