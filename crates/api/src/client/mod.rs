//! A typed client of the Docker Engine API over a unix socket, TCP or ssh.
//!
//! A connection carries one call at a time and is kept for the next; a call that finds none free opens another. The API
//! version is agreed on before the first call: the lower of ours and the server's, or what `DOCKER_API_VERSION` says.
//! Nothing is retried but a call that a kept connection refused before sending it.

mod body;
mod containers;
mod endpoint;
mod images;
mod system;

use std::sync::Mutex;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, UPGRADE, USER_AGENT};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use naru_types::ErrorKind;
use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;

pub use body::{Body, ByteStream, JsonLines};
pub use containers::{ArchiveOptions, AttachOptions, LogOptions, Wait};
pub use endpoint::{Connection, Endpoint, EndpointError};
pub use images::PullOptions;

use crate::models::ErrorResponse;
use crate::query::Query;
use crate::version::ApiVersion;

type Sender = SendRequest<UnsyncBoxBody<Bytes, std::io::Error>>;

/// A call that failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("Cannot connect to the Docker daemon at {endpoint}. Is the docker daemon running?")]
    Unreachable { endpoint: String, source: std::io::Error },
    #[error("permission denied while trying to connect to the Docker daemon socket at {endpoint}: {source}")]
    Forbidden { endpoint: String, source: std::io::Error },
    #[error("error during connect: {endpoint}: {source}")]
    Connect { endpoint: String, source: std::io::Error },
    #[error("Error response from daemon: {message}")]
    Api { status: u16, message: String },
    #[error("error during {what}: {source}")]
    Transport { what: &'static str, source: hyper::Error },
    #[error("unable to upgrade to tcp, received {status}")]
    NotUpgraded { status: u16 },
    #[error("error reading the answer of {what}: {source}")]
    Decode { what: &'static str, source: crate::json::JsonError },
    #[error("the answer of {what} has a line of more than {limit} bytes")]
    TooLong { what: &'static str, limit: usize },
    #[error("invalid {kind} name or ID: value is empty")]
    NoName { kind: &'static str },
    #[error("invalid request for {what}: {source}")]
    Request { what: &'static str, source: http::Error },
    #[error("the daemon's answer lacks {0}")]
    Incomplete(&'static str),
    #[error("\"{what}\" requires API version {needed}, but the Docker daemon API version is {have}")]
    TooOld { what: &'static str, needed: ApiVersion, have: ApiVersion },
}

impl ClientError {
    /// What kind of failure this is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unreachable { .. } | Self::Connect { .. } => ErrorKind::Unavailable,
            Self::Forbidden { .. } => ErrorKind::Forbidden,
            Self::Api { status, .. } => match status {
                304 => ErrorKind::NotModified,
                400 => ErrorKind::InvalidArgument,
                401 => ErrorKind::Unauthorized,
                403 => ErrorKind::Forbidden,
                404 => ErrorKind::NotFound,
                409 => ErrorKind::Conflict,
                413 => ErrorKind::TooLarge,
                501 => ErrorKind::Unsupported,
                503 => ErrorKind::Unavailable,
                _ => ErrorKind::Internal,
            },
            Self::TooOld { .. } => ErrorKind::Unsupported,
            Self::Request { .. } | Self::NoName { .. } => ErrorKind::InvalidArgument,
            Self::Transport { .. } | Self::NotUpgraded { .. } | Self::Decode { .. } | Self::TooLong { .. } | Self::Incomplete(_) => {
                ErrorKind::Internal
            }
        }
    }

    /// The daemon's own words, without the prefix.
    pub fn message(&self) -> String {
        match self {
            Self::Api { message, .. } => message.clone(),
            other => other.to_string(),
        }
    }
}

/// What `_ping` tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ping {
    pub api_version: Option<ApiVersion>,
    pub os_type: String,
    pub experimental: bool,
    pub builder_version: String,
    pub swarm: String,
}

/// A hijacked connection: raw bytes both ways. Split it with `tokio::io::split`; shutting down the write half is the
/// end of standard input.
pub struct Hijacked {
    pub io: TokioIo<hyper::upgrade::Upgraded>,
    /// Whether the output is cut into frames, when the server says so (API 1.42 and later).
    pub multiplexed: Option<bool>,
}

/// A client of one engine.
pub struct Client {
    endpoint: Endpoint,
    host: HeaderValue,
    headers: HeaderMap,
    wanted: Option<ApiVersion>,
    agreed: OnceCell<ApiVersion>,
    idle: Mutex<Vec<Sender>>,
}

impl Client {
    /// A client that has not connected yet.
    pub fn new(endpoint: Endpoint) -> Self {
        let host = HeaderValue::from_str(&endpoint.host_header()).unwrap_or(HeaderValue::from_static("localhost"));
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("Naru-Client/", env!("CARGO_PKG_VERSION"), " (linux)")));
        Self { endpoint, host, headers, wanted: None, agreed: OnceCell::new(), idle: Mutex::new(Vec::new()) }
    }

    /// Uses this version and asks nobody.
    pub fn with_version(mut self, version: ApiVersion) -> Self {
        self.wanted = Some(version);
        self
    }

    /// Adds a header to every request; one that is malformed is left out.
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
            self.headers.insert(name, value);
        }
        self
    }

    /// Where the engine is.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The version of the following calls.
    pub async fn version(&self) -> Result<ApiVersion, ClientError> {
        if let Some(version) = self.wanted {
            return Ok(version);
        }
        self.agreed
            .get_or_try_init(|| async {
                let server = self.ping().await?.api_version.unwrap_or(ApiVersion::FLOOR);
                Ok(server.min(ApiVersion::MAX))
            })
            .await
            .copied()
    }

    /// Refuses a call that the engine is too old for.
    pub async fn require(&self, what: &'static str, needed: ApiVersion) -> Result<(), ClientError> {
        let have = self.version().await?;
        if have < needed { Err(ClientError::TooOld { what, needed, have }) } else { Ok(()) }
    }

    /// Asks whether the engine is there: HEAD, and GET for proxies that refuse HEAD.
    pub async fn ping(&self) -> Result<Ping, ClientError> {
        for method in [Method::HEAD, Method::GET] {
            let request = self.request("ping", method.clone(), "/_ping".to_owned(), Body::empty(), &[])?;
            let response = self.send("ping", request).await?;
            let accepted = response.status().is_success() || response.status() == StatusCode::INTERNAL_SERVER_ERROR;
            if !accepted && method == Method::HEAD {
                continue;
            }
            let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
            let ping = Ping {
                api_version: header("api-version").parse().ok(),
                os_type: header("ostype"),
                experimental: header("docker-experimental") == "true",
                builder_version: header("builder-version"),
                swarm: header("swarm"),
            };
            if !response.status().is_success() {
                return Err(Self::refusal("ping", response).await);
            }
            ByteStream::new(response.into_body(), "ping").collect().await?;
            return Ok(ping);
        }
        Err(ClientError::Incomplete("an answer to ping"))
    }

    fn request(
        &self,
        what: &'static str,
        method: Method,
        path: String,
        body: Body,
        headers: &[(HeaderName, &str)],
    ) -> Result<Request<UnsyncBoxBody<Bytes, std::io::Error>>, ClientError> {
        if let Some(kind) = nameless(&path) {
            return Err(ClientError::NoName { kind });
        }
        let mut builder = Request::builder().method(method).uri(format!("{}{path}", self.endpoint.prefix()));
        if let Some(map) = builder.headers_mut() {
            map.extend(self.headers.clone());
            map.insert(HOST, self.host.clone());
            if let Some(kind) = body.content_type {
                map.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            }
        }
        for (name, value) in headers {
            builder = builder.header(name, *value);
        }
        builder.body(body.inner).map_err(|source| ClientError::Request { what, source })
    }

    async fn open(&self) -> Result<Sender, ClientError> {
        let endpoint = || self.endpoint.to_string();
        let stream = self.endpoint.connect().await.map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
                ClientError::Unreachable { endpoint: endpoint(), source }
            }
            std::io::ErrorKind::PermissionDenied => ClientError::Forbidden { endpoint: endpoint(), source },
            _ => ClientError::Connect { endpoint: endpoint(), source },
        })?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|source| ClientError::Transport { what: "connect", source })?;
        // The connection's own errors reach the call that waits on it.
        tokio::spawn(async move { drop(connection.with_upgrades().await) });
        Ok(sender)
    }

    fn idle_sender(&self) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        idle.retain(|sender| !sender.is_closed());
        let at = idle.iter().position(SendRequest::is_ready)?;
        Some(idle.swap_remove(at))
    }

    async fn send(
        &self,
        what: &'static str,
        mut request: Request<UnsyncBoxBody<Bytes, std::io::Error>>,
    ) -> Result<Response<Incoming>, ClientError> {
        // A connection whose answer was just read becomes free when its task has run once more.
        tokio::task::yield_now().await;
        loop {
            let (mut sender, kept) = match self.idle_sender() {
                Some(sender) => (sender, true),
                None => (self.open().await?, false),
            };
            match sender.try_send_request(request).await {
                Ok(response) => {
                    self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(sender);
                    return Ok(response);
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) if kept => request = unsent,
                    _ => return Err(ClientError::Transport { what, source: error.into_error() }),
                },
            }
        }
    }

    async fn refusal(what: &'static str, response: Response<Incoming>) -> ClientError {
        let status = response.status();
        let text = match ByteStream::new(response.into_body(), what).collect().await {
            Ok(text) => text,
            Err(error) => return error,
        };
        let message = match serde_json::from_slice::<ErrorResponse>(&text) {
            Ok(answer) => answer.message,
            Err(_) => String::from_utf8_lossy(&text).into_owned(),
        };
        let message = match message.trim() {
            "" => format!("request returned {status} for {what}, check if the server supports the requested API version"),
            text => text.to_owned(),
        };
        ClientError::Api { status: status.as_u16(), message }
    }

    /// One call: `path` without version, any body. Statuses from 400 on are errors, and so are redirects: an engine sends
    /// them for a path that it would have cleaned, and its answer has nothing of what was asked for.
    pub async fn call(
        &self,
        what: &'static str,
        method: Method,
        path: &str,
        query: &Query,
        body: Body,
        headers: &[(HeaderName, &str)],
    ) -> Result<Response<Incoming>, ClientError> {
        let version = self.version().await?;
        let target = if query.is_empty() { format!("/v{version}{path}") } else { format!("/v{version}{path}?{query}") };
        let request = self.request(what, method, target, body, headers)?;
        let response = self.send(what, request).await?;
        let redirected = response.status().is_redirection() && response.status() != StatusCode::NOT_MODIFIED;
        if redirected || response.status().is_client_error() || response.status().is_server_error() {
            return Err(Self::refusal(what, response).await);
        }
        Ok(response)
    }

    /// A call whose answer is one JSON value.
    pub async fn json<T: DeserializeOwned>(
        &self,
        what: &'static str,
        method: Method,
        path: &str,
        query: &Query,
        body: Body,
    ) -> Result<T, ClientError> {
        let bytes = self.bytes(what, method, path, query, body).await?;
        crate::json::from_slice(&bytes).map_err(|source| ClientError::Decode { what, source })
    }

    /// A call whose answer is read whole, unparsed.
    pub async fn bytes(&self, what: &'static str, method: Method, path: &str, query: &Query, body: Body) -> Result<Bytes, ClientError> {
        self.stream(what, method, path, query, body).await?.collect().await
    }

    /// A call whose answer does not matter.
    pub async fn done(&self, what: &'static str, method: Method, path: &str, query: &Query, body: Body) -> Result<(), ClientError> {
        self.bytes(what, method, path, query, body).await.map(drop)
    }

    /// A call whose answer is a stream.
    pub async fn stream(
        &self,
        what: &'static str,
        method: Method,
        path: &str,
        query: &Query,
        body: Body,
    ) -> Result<ByteStream, ClientError> {
        let response = self.call(what, method, path, query, body, &[]).await?;
        Ok(ByteStream::new(response.into_body(), what))
    }

    /// A call that turns its connection into a raw stream.
    pub async fn hijack(&self, what: &'static str, path: &str, query: &Query, body: Body) -> Result<Hijacked, ClientError> {
        let headers = [(CONNECTION, "Upgrade"), (UPGRADE, "tcp")];
        let response = self.call(what, Method::POST, path, query, body, &headers).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(ClientError::NotUpgraded { status: response.status().as_u16() });
        }
        let multiplexed = response.headers().get(CONTENT_TYPE).and_then(|kind| match kind.as_bytes() {
            b"application/vnd.docker.multiplexed-stream" => Some(true),
            _ => None,
        });
        let upgraded = hyper::upgrade::on(response).await.map_err(|source| ClientError::Transport { what, source })?;
        Ok(Hijacked { io: TokioIo::new(upgraded), multiplexed })
    }
}

/// Of which kind the object is whose name is missing in `path`: without it the path would be another one.
fn nameless(path: &str) -> Option<&'static str> {
    let kinds = [("/containers/", "container"), ("/images/", "image"), ("/networks/", "network"), ("/volumes/", "volume")];
    kinds.iter().find_map(|(prefix, kind)| path.strip_prefix(prefix)?.starts_with(['/', '?']).then_some(*kind)).or_else(|| {
        let bare = path.split('?').next().unwrap_or_default();
        kinds.iter().find_map(|(prefix, kind)| (bare == *prefix).then_some(*kind))
    })
}

/// The path of one object: its name is encoded.
fn path(kind: &str, name: &str, verb: &str) -> String {
    format!("/{kind}/{}{verb}", crate::query::encode(name))
}
