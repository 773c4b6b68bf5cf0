//! `docker cp`: stat, fetch and put files of a container as tar archives.

use super::Call;
use super::body::{self, BodyReader, BodyWriter, Response};
use super::convert::image::path_stat;
use super::error::{ApiError, Result};
use base64::Engine as _;
use http::{HeaderValue, StatusCode, header};
use std::io::Read;
use std::sync::Arc;

const STAT_HEADER: &str = "X-Docker-Container-Path-Stat";

fn path(call: &Call) -> Result<&str> {
    call.query.get("path").filter(|path| !path.is_empty()).ok_or_else(|| ApiError::invalid("missing \"path\" parameter"))
}

async fn stat_header(call: &Call, id: &str, path: &str) -> Result<HeaderValue> {
    let stat = path_stat(&call.app.engine.stat_path(id, path).await.map_err(|error| not_found(id, path, error))?);
    let json = serde_json::to_vec(&stat).map_err(|error| ApiError::new(naru_types::ErrorKind::Internal, error.to_string()))?;
    let text = base64::engine::general_purpose::STANDARD.encode(json);
    HeaderValue::from_str(&text).map_err(|error| ApiError::new(naru_types::ErrorKind::Internal, error.to_string()))
}

fn not_found(id: &str, path: &str, error: naru_engine::EngineError) -> ApiError {
    let error = ApiError::from(error);
    if error.kind == naru_types::ErrorKind::NotFound && !error.message.starts_with("No such container") {
        return ApiError::new(error.kind, format!("Could not find the file {path} in container {id}"));
    }
    error
}

/// `HEAD /containers/{id}/archive`.
pub async fn stat(call: &Call, id: &str) -> Result<Response> {
    let value = stat_header(call, id, path(call)?).await?;
    let mut response = body::empty(StatusCode::OK);
    response.headers_mut().insert(STAT_HEADER, value);
    Ok(response)
}

/// `GET /containers/{id}/archive`.
pub async fn get(call: &Call, id: &str) -> Result<Response> {
    let path = path(call)?.to_owned();
    let value = stat_header(call, id, &path).await?;
    let container = call.app.engine.find(id)?;
    let (sender, mut response) = body::stream("application/x-tar");
    response.headers_mut().insert(STAT_HEADER, value);
    let accepts = call.request.headers().get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let coding = Coding::best(accepts);
    if let Some(name) = coding.name() {
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static(name));
    }
    let (app, failure) = (Arc::clone(&call.app), sender.clone());
    tokio::spawn(async move {
        let writer = BodyWriter::new(sender);
        let (id, fast) = (container.id.as_str(), flate2::Compression::fast());
        let done = match coding {
            Coding::Plain => app.engine.copy_out(id, &path, writer).await,
            Coding::Gzip => app.engine.copy_out(id, &path, flate2::write::GzEncoder::new(writer, fast)).await,
            Coding::Deflate => app.engine.copy_out(id, &path, flate2::write::DeflateEncoder::new(writer, fast)).await,
        };
        match done {
            Ok(()) => app.engine.emit(&container, "archive-path"),
            Err(error) => drop(failure.send(Err(std::io::Error::other(naru_engine::chain(&error)))).await),
        }
    });
    Ok(response)
}

/// How an archive is packed for its way.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Coding {
    Plain,
    Gzip,
    Deflate,
}

impl Coding {
    /// What `Accept-Encoding` likes best; of equals the first of the list above.
    fn best(accepts: &str) -> Coding {
        let mut best = (Coding::Plain, 0.0);
        for coding in [Coding::Gzip, Coding::Deflate] {
            for part in accepts.split(',') {
                let (name, parameter) = part.split_once(';').unwrap_or((part, ""));
                let quality = parameter.trim().strip_prefix("q=").map_or(1.0, |text| text.trim().parse::<f32>().unwrap_or(0.0));
                let fits = name.trim() == "*" || coding.name() == Some(name.trim());
                if fits && quality > best.1 {
                    best = (coding, quality);
                }
            }
        }
        best.0
    }

    fn name(self) -> Option<&'static str> {
        match self {
            Coding::Plain => None,
            Coding::Gzip => Some("gzip"),
            Coding::Deflate => Some("deflate"),
        }
    }
}

/// `PUT /containers/{id}/archive`.
pub async fn put(call: Call, id: &str) -> Result<Response> {
    let path = path(&call)?.to_owned();
    let keep_kinds = call.query.boolean("noOverwriteDirNonDir");
    let as_user = call.query.boolean("copyUIDGID");
    let app = Arc::clone(&call.app);
    let container = app.engine.find(id)?;
    let mut stat = app.engine.stat_path(id, &path).await.map_err(|error| not_found(id, &path, error))?;
    if !stat.link_target.is_empty() {
        // A link takes what the directory behind it takes: `/lib` of a merged `/usr`, `/var/run`.
        stat = app.engine.stat_path(id, &format!("{path}/.")).await.map_err(|error| not_found(id, &path, error))?;
    }
    if !stat.is_dir() {
        return Err(ApiError::invalid("extraction point is not a directory"));
    }
    let (_, body) = call.into_body();
    let reader = Decompress::new(BodyReader::new(body));
    app.engine.copy_in(container.id.as_str(), &path, reader, keep_kinds, as_user).await?;
    app.engine.emit(&container, "extract-to-dir");
    Ok(body::empty(StatusCode::OK))
}

/// The archive may be gzipped; found out by its first two bytes when it is read.
struct Decompress(State);

enum State {
    Unknown(Option<BodyReader>),
    Plain(std::io::Chain<std::io::Cursor<Vec<u8>>, BodyReader>),
    Gzip(Box<flate2::read::MultiGzDecoder<std::io::Chain<std::io::Cursor<Vec<u8>>, BodyReader>>>),
}

impl Decompress {
    fn new(reader: BodyReader) -> Self {
        Decompress(State::Unknown(Some(reader)))
    }
}

impl Read for Decompress {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            match &mut self.0 {
                State::Plain(reader) => return reader.read(buffer),
                State::Gzip(reader) => return reader.read(buffer),
                State::Unknown(reader) => {
                    let Some(mut reader) = reader.take() else { return Ok(0) };
                    let mut magic = Vec::new();
                    (&mut reader).take(2).read_to_end(&mut magic)?;
                    let gzip = magic == [0x1f, 0x8b];
                    let whole = std::io::Cursor::new(magic).chain(reader);
                    self.0 = if gzip { State::Gzip(Box::new(flate2::read::MultiGzDecoder::new(whole))) } else { State::Plain(whole) };
                }
            }
        }
    }
}
