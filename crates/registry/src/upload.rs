//! Bringing one blob to a registry: whole where that is possible, in pieces where it must be, and from where it broke.
//!
//! ```text
//! HEAD blob ── there? ──▶ done
//! POST uploads/?mount=…&from=… ── 201 ──▶ done        (for each repository that may have it)
//! POST uploads/ ──▶ Location ──▶ PATCH bytes ──▶ PUT ?digest=        (small blobs: PUT with the bytes)
//!                       ▲             │ broken, refused as too large
//!                       └── GET Location: how much is there ◀┘
//! ```

use crate::error::{Error, Result};
use crate::event::UploadState;
use crate::headers::upload_range;
use crate::http::{Activity, Call, Payload, Reply, RequestBody};
use crate::session::{Session, empty};
use crate::url::Url;
use ::http::Method;
use ::http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, SizeHint};
use naru_store::Store;
use naru_types::Digest;
use std::io::{self, Read};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::mpsc;

/// A blob up to this size goes with the request that ends its upload.
const SMALL: u64 = 256 << 10;
/// Pieces, once a registry (or what is before it) refused a whole blob as too large.
const PIECE: u64 = 16 << 20;
/// One read of the store.
const BUFFER: usize = 128 << 10;
/// Progress is told so often.
const TELL_EVERY: u64 = 512 << 10;
/// A transfer that brought so much counts as one that works.
const GETS_ON: u64 = 1 << 20;
/// Tokens that expire one after the other before something moves.
const MAX_RENEWALS: u32 = 3;
const OCTETS: &str = "application/octet-stream";

/// Takes news of the upload.
pub(crate) type Tell = Arc<dyn Fn(UploadState) + Send + Sync>;

/// Where the bytes come from.
#[derive(Clone)]
pub(crate) enum Source {
    Bytes(Bytes),
    Store(Arc<Store>),
}

/// One blob on its way.
pub(crate) struct Upload {
    pub session: Session,
    pub digest: Digest,
    pub size: u64,
    pub source: Source,
    /// Repositories of the same registry that may have it.
    pub mounts: Vec<String>,
    pub tell: Tell,
}

/// How the blob got there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Arrived {
    WasThere,
    Mounted(String),
    Uploaded,
}

/// An upload that a registry has opened.
struct Open {
    location: Url,
    offset: u64,
    /// The least a piece may have.
    least: u64,
}

impl Upload {
    pub async fn run(self) -> Result<Arrived> {
        if self.exists(false).await? {
            return Ok(Arrived::WasThere);
        }
        let mut open = None;
        for from in &self.mounts {
            match self.mount(from).await? {
                Mount::Done => return Ok(Arrived::Mounted(from.clone())),
                Mount::Opened(opened) => {
                    open = Some(opened);
                    break;
                }
                Mount::Refused => {}
            }
        }
        self.transfer(open).await?;
        Ok(Arrived::Uploaded)
    }

    /// Has the registry take the blob from another of its repositories; false when it would have to be sent.
    pub async fn take_over(self) -> Result<bool> {
        if self.exists(false).await? {
            return Ok(true);
        }
        for from in &self.mounts {
            if matches!(self.mount(from).await?, Mount::Done) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn exists(&self, patient: bool) -> Result<bool> {
        let url = self.session.url(&format!("blobs/{}", self.digest))?;
        let reply = self.session.ask(patient, &[200, 404], || Call::new(Method::HEAD, url.clone())).await?;
        let other_size = reply.content_length().is_some_and(|length| length != self.size);
        Ok(reply.status.as_u16() == 200 && !other_size)
    }

    async fn mount(&self, from: &str) -> Result<Mount> {
        let url = self.session.url("blobs/uploads/")?.with_parameter("mount", &self.digest.to_string()).with_parameter("from", from);
        let mut scopes = self.session.scopes.clone();
        scopes.push(format!("repository:{from}:pull"));
        // Whatever goes wrong, the blob can be sent.
        let Ok(reply) = self.session.send_with(empty(Call::new(Method::POST, url)), &scopes).await else { return Ok(Mount::Refused) };
        match reply.status.as_u16() {
            201 => Ok(Mount::Done),
            202 => Ok(Mount::Opened(self.opened(&reply)?)),
            _ => Ok(Mount::Refused),
        }
    }

    fn opened(&self, reply: &Reply) -> Result<Open> {
        let location =
            self.location(reply)?.ok_or_else(|| Error::protocol(&self.session.host(), "it opened an upload without Location"))?;
        let least = reply.headers.get("oci-chunk-min-length").and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(0);
        Ok(Open { location, offset: 0, least })
    }

    fn location(&self, reply: &Reply) -> Result<Option<Url>> {
        let Some(text) = reply.text(&LOCATION) else { return Ok(None) };
        let host = self.session.host();
        let target = reply.url.join(text).map_err(|e| Error::protocol(&host, format!("an upload that cannot be reached: {e}")))?;
        // Registries behind a proxy that ends TLS name themselves with http: it is the same place.
        if self.session.base.is_https() && !target.is_https() {
            if target.host == self.session.base.host {
                return self.session.base.join(&target.path_and_query).map(Some);
            }
            return Err(Error::protocol(&host, format!("it wants the upload over plain http at {target}")));
        }
        Ok(Some(target))
    }

    /// Sends the bytes until the registry has them all, going on after failures.
    async fn transfer(&self, mut open: Option<Open>) -> Result<()> {
        let (mut failures, mut renewals) = (0, 0);
        let mut best = 0;
        let mut piece = u64::MAX;
        loop {
            let error = match self.attempt(&mut open, piece).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let reached = open.as_ref().map_or(0, |open| open.offset);
            if reached >= best + GETS_ON {
                (failures, renewals, best) = (0, 0, reached);
            }
            failures += 1;
            let in_pieces = self.size > PIECE && piece > PIECE;
            let status = match &error {
                Error::Refused(refusal) => refusal.status,
                Error::Status { status, .. } => status.get(..3).and_then(|digits| digits.parse().ok()).unwrap_or(0),
                _ => 0,
            };
            let smaller = match status {
                413 => in_pieces,
                // What is before a registry may close the connection on large bodies without a word.
                0 => in_pieces && failures == 2 && best == 0 && matches!(error, Error::Transport { .. }),
                _ => false,
            };
            if smaller {
                piece = PIECE.max(open.as_ref().map_or(0, |open| open.least));
            }
            let pause = match status {
                413 if smaller => Some(Duration::ZERO),
                // The token expired on the way: the questions below get a new one.
                401 if renewals < MAX_RENEWALS => {
                    renewals += 1;
                    Some(Duration::ZERO)
                }
                // The upload was forgotten, or stands elsewhere.
                404 | 416 if failures == 1 => Some(Duration::ZERO),
                400 if failures == 1 && reached > 0 => {
                    open = None;
                    Some(Duration::ZERO)
                }
                _ => self.session.http.pause_after(&error, failures, true),
            };
            let Some(pause) = pause else { return Err(error) };
            tracing::debug!(blob = %self.digest, error = &error as &dyn std::error::Error, "an upload is tried again");
            if !pause.is_zero() {
                (self.tell)(UploadState::Retrying(pause));
                tokio::time::sleep(pause).await;
            }
            // The end may have arrived although its answer has not.
            if self.exists(true).await? {
                return Ok(());
            }
            if let Some(broken) = open.take() {
                open = self.ask_offset(broken).await;
            }
        }
    }

    /// How much of an upload has arrived; nothing when it must be begun anew.
    async fn ask_offset(&self, broken: Open) -> Option<Open> {
        let reply = self.session.send(Call::get(broken.location.clone())).await.ok()?;
        if !matches!(reply.status.as_u16(), 200 | 202 | 204) {
            return None;
        }
        let offset = reply.text(&RANGE).and_then(upload_range).filter(|offset| *offset <= self.size)?;
        let location = self.location(&reply).ok()?.unwrap_or(broken.location);
        Some(Open { location, offset, ..broken })
    }

    async fn attempt(&self, slot: &mut Option<Open>, piece: u64) -> Result<()> {
        if slot.is_none() {
            let url = self.session.url("blobs/uploads/")?;
            let reply = self.session.ask(true, &[202], || empty(Call::new(Method::POST, url.clone()))).await?;
            *slot = Some(self.opened(&reply)?);
            reply.finish().await;
        }
        let open = slot.as_mut().ok_or(Error::Cancelled("the upload"))?;
        if self.size <= SMALL && open.offset == 0 {
            let bytes = self.small().await?;
            return self.finish(open.location.clone(), bytes).await;
        }
        while open.offset < self.size {
            let count = (self.size - open.offset).min(piece);
            let activity = Arc::new(Activity::default());
            let body = self.body(open.offset, count, activity.clone());
            let mut call =
                Call::new(Method::PATCH, open.location.clone()).header(CONTENT_TYPE, OCTETS).header(CONTENT_LENGTH, &count.to_string());
            if open.offset > 0 || count < self.size {
                call = call.header(CONTENT_RANGE, &format!("{}-{}", open.offset, open.offset + count - 1));
            }
            call.payload = Payload::Stream(body);
            call.activity = Some(activity);
            let reply = self.session.send(call).await?;
            if !matches!(reply.status.as_u16(), 200..=204) {
                return Err(reply.refusal().await);
            }
            let reached = open.offset + count;
            if let Some(location) = self.location(&reply)? {
                open.location = location;
            }
            match reply.text(&RANGE).and_then(upload_range).filter(|has| *has > open.offset) {
                // Some count from the piece's start, some from the blob's; both are more than nothing.
                Some(has) if has < reached && piece == u64::MAX => open.offset = has,
                _ => open.offset = reached,
            }
            reply.finish().await;
        }
        self.finish(open.location.clone(), Bytes::new()).await
    }

    /// Ends the upload; the registry checks the digest.
    async fn finish(&self, location: Url, bytes: Bytes) -> Result<()> {
        // The registry may take its time: waiting is as for a stream that has ended.
        let activity = Arc::new(Activity::default());
        activity.ended.store(true, Ordering::Relaxed);
        let length = bytes.len().to_string();
        let mut call = Call::new(Method::PUT, location.with_parameter("digest", &self.digest.to_string()))
            .header(CONTENT_TYPE, OCTETS)
            .header(CONTENT_LENGTH, &length)
            .bytes(bytes);
        call.activity = Some(activity);
        let reply = self.session.send(call).await?;
        match reply.status.as_u16() {
            200..=204 => {
                reply.finish().await;
                Ok(())
            }
            _ => Err(reply.refusal().await),
        }
    }

    async fn small(&self) -> Result<Bytes> {
        match &self.source {
            Source::Bytes(bytes) => Ok(bytes.clone()),
            Source::Store(store) => {
                let (store, digest, size) = (store.clone(), self.digest.clone(), self.size);
                let read = tokio::task::spawn_blocking(move || -> Result<Bytes> {
                    let mut bytes = Vec::new();
                    let read = store.blob(&digest)?.take(size + 1).read_to_end(&mut bytes);
                    read.map_err(|e| Error::invalid(format!("blob {digest}"), e.to_string()))?;
                    if bytes.len() as u64 != size {
                        return Err(Error::invalid(format!("blob {digest}"), "its size in the store is not that of its manifest"));
                    }
                    Ok(bytes.into())
                });
                read.await.map_err(|_| Error::Cancelled("the upload"))?
            }
        }
    }

    fn body(&self, offset: u64, count: u64, activity: Arc<Activity>) -> RequestBody {
        let (sender, pieces) = mpsc::channel(4);
        let (source, digest) = (self.source.clone(), self.digest.clone());
        tokio::task::spawn_blocking(move || read_pieces(&source, &digest, offset, count, &sender));
        let body = StreamedBody { pieces, left: count, at: offset, total: self.size, told: offset, tell: self.tell.clone(), activity };
        body.boxed_unsync()
    }
}

enum Mount {
    Done,
    /// The registry did not mount it and opened an upload instead.
    Opened(Open),
    Refused,
}

/// Reads a part of a blob into a channel, until nobody takes it any more.
fn read_pieces(source: &Source, digest: &Digest, offset: u64, count: u64, sender: &mpsc::Sender<io::Result<Bytes>>) {
    let opened: io::Result<Box<dyn Read + Send>> = match source {
        Source::Bytes(bytes) => {
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
            Ok(Box::new(io::Cursor::new(bytes.slice(start..))))
        }
        Source::Store(store) => store.blob_at(digest, offset).map_err(io::Error::other),
    };
    let mut reader = match opened {
        Ok(reader) => reader.take(count),
        Err(error) => {
            sender.blocking_send(Err(error)).ok();
            return;
        }
    };
    loop {
        let mut buffer = vec![0; BUFFER];
        let piece = match reader.read(&mut buffer) {
            Ok(0) => return,
            Ok(got) => {
                buffer.truncate(got);
                Ok(buffer.into())
            }
            Err(error) => Err(error),
        };
        let ended = piece.is_err();
        if sender.blocking_send(piece).is_err() || ended {
            return;
        }
    }
}

/// The body of a `PATCH`; tells how far it is.
struct StreamedBody {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    left: u64,
    at: u64,
    total: u64,
    told: u64,
    tell: Tell,
    activity: Arc<Activity>,
}

impl Body for StreamedBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let piece = match ready!(self.pieces.poll_recv(cx)) {
            Some(Ok(piece)) => piece,
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            None if self.left > 0 => {
                self.left = 0;
                let error = io::Error::new(io::ErrorKind::UnexpectedEof, "the blob in the store is shorter than its manifest says");
                return Poll::Ready(Some(Err(error)));
            }
            None => return Poll::Ready(None),
        };
        let count = piece.len() as u64;
        self.left = self.left.saturating_sub(count);
        self.at += count;
        self.activity.bytes.fetch_add(count, Ordering::Relaxed);
        if self.left == 0 {
            self.activity.ended.store(true, Ordering::Relaxed);
        }
        if self.at - self.told >= TELL_EVERY || self.at == self.total {
            self.told = self.at;
            (self.tell)(UploadState::Pushing { current: self.at, total: self.total });
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
