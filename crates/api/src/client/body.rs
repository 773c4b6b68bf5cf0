//! Bodies: what a request sends (nothing, JSON, a stream) and what an answer streams (bytes, JSON lines).

use std::io;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};
use hyper::body::{Body as HttpBody, Frame, Incoming};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::ClientError;

/// Chunks in flight between a producer and the connection.
const CHUNKS: usize = 8;
/// The longest line of a JSON stream; a longer one is no answer of an engine.
const MAX_LINE: usize = 16 << 20;

/// The body of a request.
pub struct Body {
    pub(super) content_type: Option<&'static str>,
    pub(super) inner: UnsyncBoxBody<Bytes, io::Error>,
}

impl Body {
    /// No body.
    pub fn empty() -> Self {
        Self { content_type: None, inner: Empty::new().map_err(|never| match never {}).boxed_unsync() }
    }

    /// One JSON value.
    pub fn json<T: serde::Serialize>(value: &T) -> Self {
        let text = serde_json::to_vec(value).expect("wire structs always serialise: string keys, no failing types");
        Self { content_type: Some("application/json"), inner: Full::from(text).map_err(|never| match never {}).boxed_unsync() }
    }

    /// A stream of bytes: what is sent to the other end becomes the body; an error breaks the request off.
    pub fn stream(content_type: &'static str) -> (mpsc::Sender<io::Result<Bytes>>, Self) {
        let (sender, receiver) = mpsc::channel(CHUNKS);
        (sender, Self { content_type: Some(content_type), inner: ChannelBody(receiver).boxed_unsync() })
    }
}

struct ChannelBody(mpsc::Receiver<io::Result<Bytes>>);

impl HttpBody for ChannelBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(cx).map(|item| item.map(|chunk| chunk.map(Frame::data)))
    }
}

/// The body of an answer, chunk by chunk.
pub struct ByteStream {
    incoming: Incoming,
    what: &'static str,
}

impl ByteStream {
    pub(super) fn new(incoming: Incoming, what: &'static str) -> Self {
        Self { incoming, what }
    }

    /// The next chunk; `None` at the end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        while let Some(frame) = self.incoming.frame().await {
            let frame = frame.map_err(|source| ClientError::Transport { what: self.what, source })?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// Everything that is left.
    pub async fn collect(mut self) -> Result<Bytes, ClientError> {
        let Some(first) = self.chunk().await? else { return Ok(Bytes::new()) };
        let Some(second) = self.chunk().await? else { return Ok(first) };
        let mut all = BytesMut::from(&first[..]);
        all.extend_from_slice(&second);
        while let Some(chunk) = self.chunk().await? {
            all.extend_from_slice(&chunk);
        }
        Ok(all.freeze())
    }

    /// Reads the body as JSON values, one a line.
    pub fn json_lines<T: DeserializeOwned>(self) -> JsonLines<T> {
        JsonLines { stream: self, buffer: BytesMut::new(), scanned: 0, value: PhantomData }
    }
}

/// A stream of JSON values, one a line (progress, events, stats).
pub struct JsonLines<T> {
    stream: ByteStream,
    buffer: BytesMut,
    scanned: usize,
    value: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> JsonLines<T> {
    /// The next value; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<T>, ClientError> {
        Ok(self.next_raw().await?.map(|(value, _)| value))
    }

    /// The next value with its text.
    pub async fn next_raw(&mut self) -> Result<Option<(T, Bytes)>, ClientError> {
        loop {
            let line = match self.buffer[self.scanned..].iter().position(|&byte| byte == b'\n') {
                Some(at) => {
                    let line = self.buffer.split_to(self.scanned + at).freeze();
                    self.buffer.advance(1);
                    self.scanned = 0;
                    line
                }
                None => {
                    self.scanned = self.buffer.len();
                    if self.scanned > MAX_LINE {
                        return Err(ClientError::TooLong { what: self.stream.what, limit: MAX_LINE });
                    }
                    if let Some(chunk) = self.stream.chunk().await? {
                        self.buffer.extend_from_slice(&chunk);
                        continue;
                    }
                    self.scanned = 0;
                    if self.buffer.is_empty() {
                        return Ok(None);
                    }
                    self.buffer.split().freeze()
                }
            };
            // RFC 7464 puts a record separator before each text.
            let text = line.strip_prefix(b"\x1e").unwrap_or(&line).trim_ascii();
            if text.is_empty() {
                continue;
            }
            let value = crate::json::from_slice(text).map_err(|source| ClientError::Decode { what: self.stream.what, source })?;
            return Ok(Some((value, line.slice_ref(text))));
        }
    }
}
