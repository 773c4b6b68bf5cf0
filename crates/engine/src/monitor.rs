//! The engine's side of the monitor's protocol, without blocking: one connection per request or stream.

use crate::error::{EngineError, Result};
use naru_runtime::FailureReason;
use naru_runtime::monitor::{Event, Request, Response};
use naru_types::ErrorKind;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

/// The longest frame accepted from a monitor; they are under a kilobyte, error texts included.
const LONGEST_FRAME: u32 = 1 << 20;

/// The socket of the monitor that works in `directory`.
pub fn socket(directory: &Path) -> PathBuf {
    directory.join("monitor.sock")
}

fn io(directory: &Path) -> impl FnOnce(std::io::Error) -> EngineError {
    EngineError::io("talk to the monitor at", socket(directory))
}

/// Opens a connection and sends `request` on it.
pub async fn open(directory: &Path, request: &Request) -> Result<UnixStream> {
    // A local connect does not wait; the runtime's knows how to reach a path longer than sockaddr_un(7) takes.
    let stream = naru_runtime::monitor::connect(directory)?;
    stream.set_nonblocking(true).map_err(io(directory))?;
    let mut stream = UnixStream::from_std(stream).map_err(io(directory))?;
    let body = serde_json::to_vec(request).expect("requests are plain data");
    let mut frame = u32::try_from(body.len()).expect("requests are short").to_le_bytes().to_vec();
    frame.extend_from_slice(&body);
    stream.write_all(&frame).await.map_err(io(directory))?;
    Ok(stream)
}

/// Reads one frame; `None` at the end of the stream.
pub async fn read<T: DeserializeOwned>(stream: &mut UnixStream) -> std::io::Result<Option<T>> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length).await {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    };
    let length = u32::from_le_bytes(length);
    if length > LONGEST_FRAME {
        return Err(std::io::Error::other(format!("frame of {length} bytes from the monitor")));
    }
    let mut body = vec![0; length as usize];
    stream.read_exact(&mut body).await?;
    serde_json::from_slice(&body).map(Some).map_err(std::io::Error::other)
}

/// Sends `request` and reads the answer; an error answer becomes an error.
pub async fn ask(directory: &Path, request: &Request) -> Result<(Response, UnixStream)> {
    let mut stream = open(directory, request).await?;
    let response = read::<Response>(&mut stream).await.map_err(io(directory))?;
    match response {
        Some(Response::Error { kind, message }) => {
            let kind = match kind {
                FailureReason::NotFound | FailureReason::PermissionDenied | FailureReason::Invalid => ErrorKind::InvalidArgument,
                FailureReason::NotRunning => ErrorKind::Conflict,
                FailureReason::Other => ErrorKind::Internal,
            };
            Err(EngineError::Denied { text: message, kind })
        }
        Some(response) => Ok((response, stream)),
        None => Err(EngineError::Gone("the container's monitor")),
    }
}

/// Reads the events of a `Watch` connection in a task of its own (reading a frame must not be cancelled half-way).
/// The channel closes when the monitor is gone.
pub fn subscribe(mut stream: UnixStream) -> mpsc::UnboundedReceiver<Event> {
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            match read::<Event>(&mut stream).await {
                // Nothing comes after the end but the monitor's own, which who starts again waits for.
                Ok(Some(event)) => {
                    if sender.send(event).is_err() {
                        return;
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(%error, "lost the connection to a monitor");
                    return;
                }
            }
        }
    });
    receiver
}
