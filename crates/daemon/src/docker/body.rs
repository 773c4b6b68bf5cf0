//! Bodies in and out: JSON with limits, streams with back-pressure, bridges to blocking readers and writers.

use super::error::{ApiError, Result};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use naru_types::ErrorKind;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, Read, Write};
use std::time::Duration;
use tokio::sync::mpsc;

/// The body of an answer.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;
/// An answer.
pub type Response = http::Response<Body>;

/// The largest JSON body; a create request with a seccomp profile is far below 1 MiB.
const MAX_JSON: usize = 32 << 20;
/// Chunks that wait between a producer and the connection.
const CHANNEL_DEPTH: usize = 16;

/// An answer without a body.
pub fn empty(status: StatusCode) -> Response {
    let mut response = http::Response::new(Full::default().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response
}

/// A plain text answer.
pub fn text(status: StatusCode, text: impl Into<Bytes>) -> Response {
    let mut response = http::Response::new(Full::new(text.into()).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// A JSON answer, ended by a newline as Docker's.
pub fn json<T: Serialize + ?Sized>(status: StatusCode, value: &T) -> Response {
    match serde_json::to_vec(value) {
        Ok(mut bytes) => {
            bytes.push(b'\n');
            let mut response = text(status, bytes);
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        Err(error) => ApiError::new(ErrorKind::Internal, format!("cannot write the answer: {error}")).response(),
    }
}

/// A JSON answer with status 200.
pub fn ok<T: Serialize + ?Sized>(value: &T) -> Response {
    json(StatusCode::OK, value)
}

/// The sending end of a streamed body.
pub type Sender = mpsc::Sender<io::Result<Bytes>>;

/// A streamed answer of that content type.
pub fn stream(content_type: &'static str) -> (Sender, Response) {
    let (sender, receiver) = mpsc::channel(CHANNEL_DEPTH);
    let frames = futures_util::stream::unfold(receiver, |mut receiver: mpsc::Receiver<io::Result<Bytes>>| async move {
        receiver.recv().await.map(|chunk| (chunk.map(Frame::data), receiver))
    });
    let mut response = http::Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    (sender, response)
}

/// A blocking writer into a streamed body; fails when the client has gone.
pub struct BodyWriter {
    sender: Sender,
    buffer: Vec<u8>,
}

impl BodyWriter {
    /// Bytes gathered before a chunk is sent.
    const CHUNK: usize = 256 << 10;

    /// A writer to `sender`.
    pub fn new(sender: Sender) -> Self {
        BodyWriter { sender, buffer: Vec::with_capacity(Self::CHUNK) }
    }
}

impl Write for BodyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= Self::CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = Bytes::from(std::mem::replace(&mut self.buffer, Vec::with_capacity(Self::CHUNK)));
        self.sender.blocking_send(Ok(chunk)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

impl Drop for BodyWriter {
    fn drop(&mut self) {
        // What a failed work has written so far is not worth an error of its own.
        self.flush().ok();
    }
}

/// How long the rest of a request's body is taken after its answer.
const LINGER: Duration = Duration::from_secs(2);

/// The body of a request. Whoever lets go of it before its end has answered: what the client still sends is then taken for
/// a moment and forgotten, as a client whose writing fails would tell of that and never read the answer.
pub struct RequestBody(Option<Incoming>);

impl RequestBody {
    /// Of what hyper gave.
    pub fn new(body: Incoming) -> Self {
        RequestBody(Some(body))
    }

    /// The next frame.
    async fn frame(&mut self) -> Option<std::result::Result<Frame<Bytes>, hyper::Error>> {
        self.0.as_mut()?.frame().await
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let Some(mut body) = self.0.take().filter(|body| !body.is_end_stream()) else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let rest = async { while let Some(Ok(_)) = body.frame().await {} };
                // A client that goes on sending has had its time to read.
                tokio::time::timeout(LINGER, rest).await.ok();
            });
        }
    }
}

/// A blocking reader of a request's body.
pub struct BodyReader {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    chunk: Bytes,
}

impl BodyReader {
    /// Pumps `body` into a reader for a worker thread.
    pub fn new(mut body: RequestBody) -> Self {
        let (sender, receiver) = mpsc::channel(CHANNEL_DEPTH);
        tokio::spawn(async move {
            while let Some(frame) = body.frame().await {
                let chunk = match frame {
                    Ok(frame) => frame.into_data().map_err(|_| io::Error::other("unexpected trailers")),
                    Err(error) => Err(io::Error::other(error)),
                };
                // Trailers are the end of the data; a reader that has gone ends the pump.
                let failed = chunk.is_err();
                if sender.send(chunk).await.is_err() || failed {
                    return;
                }
            }
        });
        BodyReader { receiver, chunk: Bytes::new() }
    }
}

impl Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.chunk = chunk?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.chunk.len());
        buffer[..count].copy_from_slice(&self.chunk.split_to(count));
        Ok(count)
    }
}

/// Reads a whole body, up to a limit.
pub async fn read_all(mut body: RequestBody) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ApiError::invalid(format!("cannot read the request's body: {error}")))?;
        if let Some(data) = frame.data_ref() {
            if bytes.len() + data.len() > MAX_JSON {
                return Err(ApiError::new(ErrorKind::TooLarge, format!("the request's body is longer than {MAX_JSON} bytes")));
            }
            bytes.extend_from_slice(data);
        }
    }
    Ok(bytes)
}

/// Refuses what is not JSON by its `Content-Type`, of which the letters' case and parameters say nothing.
fn check_media_type(content_type: &str) -> Result<()> {
    let malformed = |why: &str| Err(ApiError::invalid(format!("malformed Content-Type header ({content_type}): mime: {why}")));
    let mut parts = content_type.split(';').map(str::trim);
    let media = parts.next().unwrap_or_default();
    if media.is_empty() {
        return malformed("no media type");
    }
    let mut names = Vec::new();
    for parameter in parts.filter(|part| !part.is_empty()) {
        let Some((name, _)) = parameter.split_once('=').filter(|(name, value)| !name.is_empty() && !value.is_empty()) else {
            return malformed("invalid media parameter");
        };
        if names.contains(&name.to_ascii_lowercase()) {
            return malformed("duplicate parameter name");
        }
        names.push(name.to_ascii_lowercase());
    }
    if !media.eq_ignore_ascii_case("application/json") {
        return Err(ApiError::invalid(format!("unsupported Content-Type header ({content_type}): must be 'application/json'")));
    }
    Ok(())
}

/// Reads a JSON body as Go does; an empty one is the default value.
pub async fn read_json<T: DeserializeOwned + Default>(headers: &http::HeaderMap, body: RequestBody) -> Result<T> {
    let bytes = read_all(body).await?;
    if bytes.is_empty() {
        return Ok(T::default());
    }
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    check_media_type(content_type)?;
    Ok(naru_api::json::from_slice(&bytes)?)
}

/// The same, whatever the header says of the body.
pub async fn read_untyped_json<T: DeserializeOwned>(body: RequestBody) -> Result<T> {
    Ok(naru_api::json::from_slice(&read_all(body).await?)?)
}
