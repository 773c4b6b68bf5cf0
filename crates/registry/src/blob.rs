//! A blob's bytes for the store, which reads them on a thread of its own: `open` and `read` block there, the network is
//! asynchronous here. What breaks is opened again where it broke, as long as it gets on.

use crate::error::{Error, Result, TransportError};
use crate::http::Call;
use crate::http::Reply;
use crate::manifest::Descriptor;
use crate::session::{Session, position};
use crate::url::Url;
use ::http::header::RANGE;
use bytes::{Buf, Bytes};
use std::io::{self, Read};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

/// Pieces between the network and the store; one has up to 128 KiB.
const PIECES: usize = 8;
/// A transfer that brought so much counts as one that works: attempts are counted anew.
const GETS_ON: u64 = 1 << 20;

/// Tells blocking threads that nobody waits for them any more: dropping it ends their reads.
#[derive(Debug)]
pub(crate) struct Alive(watch::Sender<()>);

impl Alive {
    pub fn new() -> Self {
        Alive(watch::channel(()).0)
    }

    pub fn watch(&self) -> watch::Receiver<()> {
        self.0.subscribe()
    }
}

/// One blob of a registry.
pub(crate) struct BlobSource {
    pub session: Session,
    pub blob: Descriptor,
    /// The registry has answered before: it is worth waiting for.
    pub patient: bool,
    runtime: Handle,
    gone: watch::Receiver<()>,
    on_pause: Box<dyn Fn(Duration) + Send>,
    /// An answer that came while something else was waited for, and the offset it is for.
    prepared: Option<(u64, Reply)>,
    failures: u32,
    opened: bool,
    /// Where the blob stood when failures were last counted from 0.
    last_offset: u64,
    /// Why reading failed: the store passes it on as text only.
    failure: Arc<Mutex<Option<Error>>>,
}

impl BlobSource {
    pub fn new(session: Session, blob: Descriptor, gone: watch::Receiver<()>, on_pause: Box<dyn Fn(Duration) + Send>) -> Self {
        BlobSource {
            session,
            blob,
            patient: true,
            runtime: Handle::current(),
            gone,
            on_pause,
            prepared: None,
            failures: 0,
            opened: false,
            last_offset: 0,
            failure: Arc::default(),
        }
    }

    /// Asks for the blob from `offset` on before anybody reads it.
    pub async fn prepare(&mut self, offset: u64) {
        if offset < self.blob.size {
            // A failure shows again when the blob is opened, and is told then.
            self.prepared = open_once(&self.session, &self.blob, offset).await.ok().map(|reply| (offset, reply));
        }
    }

    /// Why the last read or open failed.
    pub fn failure(&self) -> Option<Error> {
        self.failure.lock().expect("nothing panics while it is held").take()
    }

    /// Opens the blob at `offset`, on a blocking thread.
    pub fn open(&mut self, offset: u64) -> io::Result<BlobReader> {
        let prepared = self.prepared.take().filter(|(at, _)| *at == offset).map(|(_, reply)| reply);
        if offset.saturating_sub(self.last_offset) >= GETS_ON {
            self.failures = 0;
            self.last_offset = offset;
        }
        let again = std::mem::replace(&mut self.opened, true);
        let runtime = self.runtime.clone();
        let mut gone = self.gone.clone();
        let opened = runtime.block_on(async {
            tokio::select! {
                _ = gone.changed() => Err(Error::Cancelled("the transfer")),
                opened = self.open_patiently(offset, prepared, again) => opened,
            }
        });
        match opened {
            Ok(reply) => Ok(BlobReader::start(&runtime, reply, self.gone.clone(), self.failure.clone())),
            Err(error) => Err(fail(&self.failure, error)),
        }
    }

    async fn open_patiently(&mut self, offset: u64, prepared: Option<Reply>, again: bool) -> Result<Reply> {
        let mut broken = self.failure.lock().expect("nothing panics while it is held").take();
        if again && broken.is_none() {
            // The stream before this one ended too early, politely.
            let (method, url) = ("Get".to_owned(), format!("{}blobs/{}", self.session.base, self.blob.digest));
            broken = Some(Error::Transport { method, url, reason: TransportError::Broken("unexpected EOF".into()) });
        }
        let mut error = match (broken, prepared) {
            // The stream before this one broke.
            (Some(error), _) => error,
            (None, Some(reply)) => return Ok(reply),
            (None, None) => match open_once(&self.session, &self.blob, offset).await {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            },
        };
        loop {
            self.failures += 1;
            let Some(pause) = self.session.http.pause_after(&error, self.failures, self.patient) else { return Err(error) };
            tracing::debug!(blob = %self.blob.digest, error = &error as &dyn std::error::Error, "a transfer is tried again");
            (self.on_pause)(pause);
            tokio::time::sleep(pause).await;
            match open_once(&self.session, &self.blob, offset).await {
                Ok(reply) => return Ok(reply),
                Err(again) => error = again,
            }
        }
    }
}

/// From the registry; a foreign layer that it does not hold from where the manifest says, if that is allowed.
async fn open_once(session: &Session, blob: &Descriptor, offset: u64) -> Result<Reply> {
    let error = match session.open_blob(&blob.digest, offset, blob.size).await {
        Ok(reply) => return Ok(reply),
        Err(error) => error,
    };
    if blob.urls.is_empty()
        || !blob.is_foreign()
        || !matches!(error.kind(), naru_types::ErrorKind::NotFound | naru_types::ErrorKind::Internal)
    {
        return Err(error);
    }
    if !session.http.config.foreign_layers {
        return Err(Error::Request(format!(
            "layer {} is not in the registry but elsewhere ({}); allow such layers with the setting \"foreign-layers\"",
            blob.digest,
            crate::error::printable(&blob.urls[0], 200)
        )));
    }
    let mut last = error;
    for text in blob.urls.iter().take(4) {
        match open_foreign(session, blob, text, offset).await {
            Ok(reply) => return Ok(reply),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Without credentials, and only from where a registry may send us.
async fn open_foreign(session: &Session, blob: &Descriptor, text: &str, offset: u64) -> Result<Reply> {
    let mut call = Call::get(Url::parse(text)?);
    if offset > 0 {
        call = call.header(RANGE, &format!("bytes={offset}-"));
    }
    position(session.http.send(call, &session.base).await?, &blob.digest, offset, blob.size).await
}

fn fail(slot: &Mutex<Option<Error>>, error: Error) -> io::Error {
    let text = error.to_string();
    *slot.lock().expect("nothing panics while it is held") = Some(error);
    io::Error::other(text)
}

/// The bytes of an answer on a blocking thread.
pub(crate) struct BlobReader {
    pieces: mpsc::Receiver<Result<Bytes>>,
    rest: Bytes,
    failure: Arc<Mutex<Option<Error>>>,
}

impl BlobReader {
    fn start(runtime: &Handle, mut reply: Reply, mut gone: watch::Receiver<()>, failure: Arc<Mutex<Option<Error>>>) -> Self {
        let (sender, pieces) = mpsc::channel(PIECES);
        runtime.spawn(async move {
            loop {
                let piece = tokio::select! {
                    _ = gone.changed() => Err(Error::Cancelled("the transfer")),
                    piece = reply.chunk() => piece,
                };
                let ended = piece.is_err();
                let Some(piece) = piece.transpose() else { return };
                if sender.send(piece).await.is_err() || ended {
                    return;
                }
            }
        });
        BlobReader { pieces, rest: Bytes::new(), failure }
    }

    /// For who reads one blob outside of a pull.
    pub(crate) fn single(reply: Reply, alive: &Alive) -> Self {
        Self::start(&Handle::current(), reply, alive.watch(), Arc::default())
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.pieces.blocking_recv() {
                None => return Ok(0),
                Some(Ok(piece)) => self.rest = piece,
                Some(Err(error)) => return Err(fail(&self.failure, error)),
            }
        }
        let count = self.rest.len().min(buffer.len());
        self.rest.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
