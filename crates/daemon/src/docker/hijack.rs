//! Connections that become raw streams: attach and exec.
//!
//! With `Upgrade: tcp` the answer is 101 and both directions are raw; without, it is 200 and the output is the body.
//! The monitor already speaks Docker's frames, so that bytes are only carried here; the one thing looked for is the
//! detach sequence, on standard input of a terminal.

use super::body::{self, Response};
use super::error::{ApiError, Result};
use super::{Call, logs};
use crate::lenient::Lenient;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use naru_api::version::ApiVersion;
use naru_engine::container::Streams;
use std::future::Future;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest, WriteHalf};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;

const RAW: &str = "application/vnd.docker.raw-stream";
const MULTIPLEXED: &str = "application/vnd.docker.multiplexed-stream";

/// The reason that Docker gives with 101.
const UPGRADED: hyper::ext::ReasonPhrase = hyper::ext::ReasonPhrase::from_static(b"UPGRADED");

/// Docker's default: ctrl-p, ctrl-q.
const DEFAULT_KEYS: &[u8] = &[16, 17];

/// `ctrl-p,ctrl-q` or single characters, separated by commas.
pub fn parse_keys(text: &str) -> Result<Vec<u8>> {
    if text.is_empty() {
        return Ok(DEFAULT_KEYS.to_vec());
    }
    let bad = || ApiError::invalid(format!("Invalid detach keys ({text}) provided"));
    text.split(',')
        .map(|key| match key.strip_prefix("ctrl-").map(str::as_bytes) {
            Some([letter @ b'a'..=b'z']) => Ok(letter - b'a' + 1),
            Some([b'@']) => Ok(0),
            Some([b'[']) => Ok(27),
            Some([b'\\']) => Ok(28),
            Some([b']']) => Ok(29),
            Some([b'^']) => Ok(30),
            Some([b'_']) => Ok(31),
            Some(_) => Err(bad()),
            None => match key.as_bytes() {
                [one] => Ok(*one),
                _ => Err(bad()),
            },
        })
        .collect()
}

/// Looks for the detach sequence in what a terminal sends.
struct DetachFilter {
    keys: Vec<u8>,
    seen: usize,
}

impl DetachFilter {
    /// The bytes to pass on, and whether the sequence is complete. A started sequence is held back until it is broken.
    fn feed(&mut self, input: &[u8]) -> (Vec<u8>, bool) {
        let mut output = Vec::with_capacity(input.len());
        for byte in input {
            if *byte == self.keys[self.seen] {
                self.seen += 1;
                if self.seen == self.keys.len() {
                    return (output, true);
                }
                continue;
            }
            output.extend_from_slice(&self.keys[..self.seen]);
            self.seen = 0;
            if *byte == self.keys[0] {
                self.seen = 1;
            } else {
                output.push(*byte);
            }
        }
        (output, false)
    }
}

/// How a stream is to be carried.
pub struct Carriage {
    /// A terminal: no frames come from it; detach keys on input.
    pub tty: bool,
    /// The client takes no frames.
    pub raw: bool,
    /// The client's detach keys.
    pub keys: Vec<u8>,
    /// The client writes.
    pub stdin: bool,
    /// The end of the client's input is the end of the process's. Where it is not, it is the end of the stream.
    pub once: bool,
}

/// What is left of a request whose connection is taken over.
pub struct Wire {
    /// Resolves to the raw connection.
    pub upgrade: hyper::upgrade::OnUpgrade,
    /// Headers of the request.
    pub headers: http::HeaderMap,
    /// API version of the request.
    pub version: ApiVersion,
}

/// Where the stream comes from: it is opened when the client has its answer, as Docker does. A failure is told in the stream.
pub type Opening = std::pin::Pin<Box<dyn Future<Output = std::result::Result<StdUnixStream, String>> + Send>>;

async fn open(opening: Opening, raw: bool) -> std::result::Result<UnixStream, Bytes> {
    let opened = opening.await.and_then(|stream| {
        stream
            .set_nonblocking(true)
            .and_then(|()| UnixStream::from_std(stream))
            .map_err(|error| format!("cannot use the container's stream: {error}"))
    });
    opened.map_err(|message| {
        let text = format!("{message}\r\n");
        if raw {
            return text.into();
        }
        let mut frame = Vec::new();
        naru_api::frames::encode(naru_api::frames::StreamKind::Stdout, text.as_bytes(), &mut frame);
        frame.into()
    })
}

/// Answers with the stream: 101 or 200, then bytes both ways. `ended` runs before the client sees the end of output;
/// `detached` when the client left by its keys.
pub fn carry(
    wire: Wire,
    opening: Opening,
    before: Vec<Bytes>,
    carriage: Carriage,
    ended: impl Future<Output = ()> + Send + 'static,
    detached: impl FnOnce() + Send + 'static,
) -> Response {
    let upgrade = wire.headers.contains_key(header::UPGRADE);
    let multiplexed = upgrade && !carriage.raw && wire.version >= ApiVersion::new(1, 42);
    let content_type = if multiplexed { MULTIPLEXED } else { RAW };
    if !upgrade {
        let (sender, response) = body::stream(RAW);
        tokio::spawn(async move {
            let (mut output, _input) = match open(opening, carriage.raw).await {
                Ok(stream) => stream.into_split(),
                Err(message) => return drop(sender.send(Ok(message)).await),
            };
            for chunk in before {
                sender.send(Ok(chunk)).await.ok();
            }
            let mut frames = Frames::new(&carriage);
            let mut block = vec![0; 32 << 10];
            while let Ok(count @ 1..) = output.read(&mut block).await {
                if sender.send(Ok(frames.of(&block[..count]))).await.is_err() {
                    return;
                }
            }
            ended.await;
        });
        return response;
    }
    tokio::spawn(async move {
        match wire.upgrade.await {
            Ok(client) => match client.downcast::<TokioIo<Lenient<UnixStream>>>() {
                Ok(parts) => {
                    let (client, read) = parts.io.into_inner().into_parts();
                    let early = std::io::Cursor::new([&*parts.read_buf, &read].concat());
                    let (reader, writer) = client.into_split();
                    take_over(early.chain(reader), writer, opening, before, carriage, ended, detached).await;
                }
                Err(client) => {
                    let (reader, writer) = tokio::io::split(TokioIo::new(client));
                    take_over(reader, writer, opening, before, carriage, ended, detached).await;
                }
            },
            Err(error) => tracing::debug!(%error, "the client left before the stream began"),
        }
    });
    let mut response = body::empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("tcp"));
    response.extensions_mut().insert(UPGRADED);
    response
}

/// The way to a client.
trait Way: AsyncWrite + Unpin {
    /// Waits until the client has read what was sent, where the kernel knows. Output that reaches a client together with the
    /// answer's head is lost where it reads heads through a buffer and the rest from the socket, as docker-py does.
    fn caught_up(&self) -> impl Future<Output = ()> + Send;
}

impl Way for OwnedWriteHalf {
    async fn caught_up(&self) {
        let socket: &UnixStream = self.as_ref();
        let is_unread = || naru_sys::net::is_unread(socket.as_fd()).unwrap_or(false);
        if !is_unread() {
            return;
        }
        // A registration of its own: what is forgotten of this one's readiness, a writer would wait for in vain.
        let Ok(watched) = socket.as_fd().try_clone_to_owned().and_then(|copy| UnixStream::from_std(copy.into())) else { return };
        while watched.writable().await.is_ok() {
            // In this order: a client that reads after the question makes the socket writable anew.
            watched.try_io(Interest::WRITABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into())).ok();
            if !is_unread() {
                return;
            }
        }
    }
}

impl Way for WriteHalf<TokioIo<Upgraded>> {
    fn caught_up(&self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

/// Opens the stream and carries it, or tells why there is none.
async fn take_over(
    reader: impl AsyncRead + Unpin,
    mut writer: impl Way,
    opening: Opening,
    before: Vec<Bytes>,
    carriage: Carriage,
    ended: impl Future<Output = ()>,
    detached: impl FnOnce(),
) {
    match open(opening, carriage.raw).await {
        Ok(stream) => pump(reader, writer, stream, before, carriage, ended, detached).await,
        Err(message) => {
            writer.caught_up().await;
            // The client may have gone meanwhile.
            writer.write_all(&message).await.ok();
            writer.shutdown().await.ok();
        }
    }
}

/// How a client ends its part.
enum Left {
    Detached,
    AtEnd,
}

/// Output as the client takes it, which need not be how it comes.
enum Frames {
    AsItComes,
    Added,
    /// Only standard output is left of it.
    Removed(naru_api::frames::Decoder),
}

impl Frames {
    fn new(carriage: &Carriage) -> Frames {
        match (carriage.tty, carriage.raw) {
            (true, false) => Frames::Added,
            (false, true) => Frames::Removed(naru_api::frames::Decoder::new()),
            _ => Frames::AsItComes,
        }
    }

    fn of(&mut self, bytes: &[u8]) -> Bytes {
        use naru_api::frames::{StreamKind, encode};
        let mut out = Vec::new();
        match self {
            Frames::AsItComes => return Bytes::copy_from_slice(bytes),
            Frames::Added => encode(StreamKind::Stdout, bytes, &mut out),
            Frames::Removed(decoder) => {
                decoder.feed(bytes);
                while let Ok(Some((kind, payload))) = decoder.next_frame() {
                    if kind == StreamKind::Stdout {
                        out.extend_from_slice(&payload);
                    }
                }
            }
        }
        out.into()
    }
}

/// Carries bytes both ways until the output ends or the client detaches.
async fn pump(
    mut reader: impl AsyncRead + Unpin,
    mut writer: impl Way,
    stream: UnixStream,
    before: Vec<Bytes>,
    carriage: Carriage,
    ended: impl Future<Output = ()>,
    detached: impl FnOnce(),
) {
    let (mut output, mut input) = stream.into_split();
    let mut frames = Frames::new(&carriage);
    let Carriage { tty, keys, stdin, once, .. } = carriage;
    let inward = async {
        let mut filter = (tty && !keys.is_empty()).then_some(DetachFilter { keys, seen: 0 });
        let mut block = vec![0; 32 << 10];
        loop {
            let count = match reader.read(&mut block).await {
                Ok(0) => break,
                Ok(count) => count,
                // The connection is broken: nobody will read the output either.
                Err(_) => return Left::Detached,
            };
            if !stdin {
                continue;
            }
            let (bytes, leave) = match &mut filter {
                Some(filter) => filter.feed(&block[..count]),
                None => (block[..count].to_vec(), false),
            };
            // What was typed before the keys counts.
            let gone = input.write_all(&bytes).await.is_err();
            if leave {
                return Left::Detached;
            }
            if gone {
                break;
            }
        }
        // The client has closed its half. Output goes on if that is the end of standard input too.
        if stdin && (tty || !once) {
            return Left::AtEnd;
        }
        input.shutdown().await.ok();
        std::future::pending().await
    };
    let outward = async {
        writer.caught_up().await;
        for chunk in before {
            if writer.write_all(&chunk).await.is_err() {
                return;
            }
        }
        let mut block = vec![0; 32 << 10];
        while let Ok(count @ 1..) = output.read(&mut block).await {
            if writer.write_all(&frames.of(&block[..count])).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = outward => ended.await,
        left = inward => if let Left::Detached = left { detached() },
    }
    // The client waits for the end of the stream; it may have gone.
    writer.shutdown().await.ok();
}

/// `POST /containers/{id}/attach`. Why there is no stream is told as text: that is what would have come on the stream.
pub async fn attach(call: Call, id: &str) -> Response {
    attached(call, id).await.unwrap_or_else(|error| {
        let mut response = body::text(error.status(), format!("{}\r\n", error.message));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(RAW));
        response
    })
}

async fn attached(mut call: Call, id: &str) -> Result<Response> {
    let upgrade = hyper::upgrade::on(&mut call.request);
    let wire = Wire { upgrade, headers: call.request.headers().clone(), version: call.version };
    let container = call.app.engine.find(id)?;
    let view = container.view();
    let keys = parse_keys(call.query.get("detachKeys").unwrap_or_default())?;
    let wanted = |key: &str| call.query.boolean(key);
    let streams = Streams { stdin: wanted("stdin"), stdout: wanted("stdout"), stderr: wanted("stderr") };
    let tty = view.spec.process.tty;
    let mut before = Vec::new();
    if wanted("logs") {
        before = logs::replay(&call.app, &view, streams.stdout, streams.stderr).await?;
    }
    let process = &view.spec.process;
    let carriage = Carriage { tty, raw: tty, keys, stdin: streams.stdin && process.open_stdin, once: process.stdin_once };
    if !wanted("stream") {
        let (ours, theirs) = StdUnixStream::pair().map_err(|error| ApiError::new(naru_types::ErrorKind::Internal, error.to_string()))?;
        drop(theirs);
        return Ok(carry(wire, Box::pin(async { Ok(ours) }), before, carriage, async {}, || {}));
    }
    let stream = container.attach(id, streams).await?;
    let app = std::sync::Arc::clone(&call.app);
    app.engine.emit(&container, "attach");
    let (owner, target) = (app, std::sync::Arc::clone(&container));
    Ok(carry(wire, Box::pin(async { Ok(stream) }), before, carriage, async {}, move || owner.engine.emit(&target, "detach")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        assert_eq!(parse_keys("").unwrap(), [16, 17]);
        assert_eq!(parse_keys("ctrl-a,x,ctrl-]").unwrap(), [1, b'x', 29]);
        assert!(parse_keys("ctrl-A").is_err());
        assert!(parse_keys("ab").is_err());
        assert!(parse_keys("a,,b").is_err());
    }

    #[test]
    fn the_sequence_is_found_across_reads_and_broken_ones_pass() {
        let mut filter = DetachFilter { keys: vec![16, 17], seen: 0 };
        assert_eq!(filter.feed(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(filter.feed(b"c"), (b"\x10c".to_vec(), false));
        assert_eq!(filter.feed(b"\x10\x10\x11"), (b"\x10".to_vec(), true));
    }
}
