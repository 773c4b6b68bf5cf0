//! `GET /containers/{id}/logs`: the log, framed for clients, followed while the container lives.

use super::Call;
use super::body::{self, Response, Sender};
use super::convert::time;
use super::error::{ApiError, Result};
use crate::App;
use bytes::Bytes;
use naru_api::frames::{self, StreamKind};
use naru_api::version::ApiVersion;
use naru_engine::container::{Container, View};
use naru_engine::logs::{Line, LogQuery, LogReader};
use naru_engine::spec::LogSpec;
use std::path::Path;
use std::sync::Arc;
use tokio::net::unix::pipe::Receiver;

/// Bytes gathered before they are sent.
const BATCH: usize = 64 << 10;

/// How lines are written.
#[derive(Clone, Copy)]
struct Style {
    framed: bool,
    timestamps: bool,
    details: bool,
}

impl Style {
    fn write(self, line: &Line, out: &mut Vec<u8>) {
        let mut text = String::with_capacity(line.log.len() + 32);
        if self.timestamps {
            text.push_str(&time::rfc3339_fixed(line.time));
            text.push(' ');
        }
        if self.details {
            // As Go's url.QueryEscape.
            let escaped = |text: &str| naru_api::query::encode(text).replace("%20", "+");
            let pairs: Vec<String> = line.attrs.iter().map(|(key, value)| format!("{}={}", escaped(key), escaped(value))).collect();
            text.push_str(&pairs.join(","));
            text.push(' ');
        }
        text.push_str(&line.log);
        if self.framed {
            let kind = if line.stream == "stderr" { StreamKind::Stderr } else { StreamKind::Stdout };
            frames::encode(kind, text.as_bytes(), out);
        } else {
            out.extend_from_slice(text.as_bytes());
        }
    }
}

/// `GET /containers/{id}/logs`.
pub fn logs(call: &Call, id: &str) -> Result<Response> {
    let container = call.app.engine.find(id)?;
    let view = container.view();
    let wanted = |key: &str| call.query.boolean(key);
    if !wanted("stdout") && !wanted("stderr") {
        return Err(ApiError::invalid("Bad parameters: you must choose at least one stream"));
    }
    if view.spec.log == LogSpec::None {
        return Err(ApiError::unsupported("configured logging driver does not support reading"));
    }
    let tail = match call.query.get("tail").unwrap_or_default() {
        "" | "all" => None,
        // As Docker: what is no number means all.
        text => text.parse::<usize>().ok(),
    };
    let log_query = LogQuery {
        since: time::wire(call.query.get("since"), "since")?,
        until: time::wire(call.query.get("until"), "until")?.filter(|until| until.as_nanosecond() != 0),
        tail,
        stdout: wanted("stdout"),
        stderr: wanted("stderr"),
    };
    let tty = view.spec.process.tty;
    let style = Style { framed: !tty, timestamps: wanted("timestamps"), details: wanted("details") };
    let content_type = if !tty && call.version >= ApiVersion::new(1, 42) {
        "application/vnd.docker.multiplexed-stream"
    } else {
        "application/vnd.docker.raw-stream"
    };
    let (sender, response) = body::stream(content_type);
    let reader = LogReader::new(&call.app.engine.log_path(&view.id), log_query.clone());
    let follow = wanted("follow") && log_query.until.is_none_or(|until| until > jiff::Timestamp::now());
    let path = call.app.engine.log_path(&view.id);
    tokio::spawn(async move {
        // The headers go out at once.
        if sender.send(Ok(Bytes::new())).await.is_err() {
            return;
        }
        let failure = sender.clone();
        if let Err(error) = run(reader, &path, follow.then_some(container), log_query, style, sender).await {
            tracing::error!(error, "cannot read a container's log");
            let mut frame = Vec::new();
            frames::encode(StreamKind::SystemError, format!("Error grabbing logs: {error}\n").as_bytes(), &mut frame);
            failure.send(Ok(frame.into())).await.ok();
        }
    });
    Ok(response)
}

async fn run(
    reader: LogReader,
    path: &Path,
    follow: Option<Arc<Container>>,
    query: LogQuery,
    style: Style,
    sender: Sender,
) -> std::result::Result<(), String> {
    // Watched before the first read, so that nothing written in between is missed.
    let changes = match &follow {
        Some(_) => Some(watch(path).map_err(|error| format!("cannot watch {}: {error}", path.display()))?),
        None => None,
    };
    let mut reader = read(reader, style, sender.clone(), true).await?;
    let (Some(container), Some(changes)) = (follow, changes) else { return Ok(()) };
    let deadline = query.until.map(|until| {
        let left = std::time::Duration::try_from(until.duration_since(jiff::Timestamp::now())).unwrap_or_default();
        tokio::time::Instant::now() + left
    });
    loop {
        let running = container.view().state.is_running();
        if !running {
            // The monitor reports the end after its last line: one more read has all of it.
            read(reader, style, sender, false).await?;
            return Ok(());
        }
        let exits = container.view().state.exits;
        tokio::select! {
            ready = changes.readable() => {
                ready.map_err(|error| error.to_string())?;
                drain(&changes);
            }
            _ = container.wait_until(|view| !view.state.is_running() || view.state.exits != exits) => {}
            () = sender.closed() => return Ok(()),
            () = async { match deadline { Some(at) => tokio::time::sleep_until(at).await, None => std::future::pending().await } } => {
                return Ok(());
            }
        }
        reader = read(reader, style, sender.clone(), false).await?;
    }
}

/// Reads on a worker thread and sends in batches.
async fn read(mut reader: LogReader, style: Style, sender: Sender, past: bool) -> std::result::Result<LogReader, String> {
    let job = move || {
        let mut batch = Vec::with_capacity(BATCH * 2);
        let mut sink = |line: Line| {
            style.write(&line, &mut batch);
            if batch.len() < BATCH {
                return true;
            }
            let full = std::mem::replace(&mut batch, Vec::with_capacity(BATCH * 2));
            sender.blocking_send(Ok(full.into())).is_ok()
        };
        let result = if past { reader.read_past(&mut sink) } else { reader.read_more(&mut sink) };
        if !batch.is_empty() {
            sender.blocking_send(Ok(batch.into())).ok();
        }
        result.map(|()| reader).map_err(|error| naru_engine::chain(&error))
    };
    tokio::task::spawn_blocking(job).await.map_err(|_| "the thread that reads logs ended".to_owned())?
}

/// An inotify descriptor for changes of the log and of its directory (creation, rotation).
fn watch(path: &Path) -> std::io::Result<Receiver> {
    use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
    let fd = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    add_watch(&fd, directory, WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::MOVED_FROM)?;
    // Only readiness and read(2) are used, which an inotify descriptor has like a pipe.
    Receiver::from_owned_fd_unchecked(fd)
}

fn drain(changes: &Receiver) {
    let mut block = [0_u8; 4096];
    while changes.try_read(&mut block).is_ok_and(|count| count > 0) {}
}

/// The log so far, for `attach` with `logs=1`.
pub async fn replay(app: &App, view: &View, stdout: bool, stderr: bool) -> Result<Vec<Bytes>> {
    let mut reader = LogReader::new(&app.engine.log_path(&view.id), LogQuery { stdout, stderr, ..LogQuery::default() });
    let style = Style { framed: !view.spec.process.tty, timestamps: false, details: false };
    let job = move || {
        let mut out = Vec::new();
        reader.read_past(&mut |line| {
            style.write(&line, &mut out);
            // An attach replays what fits into memory comfortably; `logs` has the rest.
            out.len() < 16 << 20
        })?;
        Ok::<_, naru_engine::EngineError>(out)
    };
    let bytes = tokio::task::spawn_blocking(job)
        .await
        .map_err(|_| ApiError::new(naru_types::ErrorKind::Internal, "the thread that reads logs ended"))??;
    Ok(if bytes.is_empty() { vec![] } else { vec![bytes.into()] })
}
