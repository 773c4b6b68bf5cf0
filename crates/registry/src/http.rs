//! One request and its answer: time limits, redirects, sizes, attempts. Everything a registry sends passes here.
//!
//! Limits: a head within 30 s (`idle_timeout`), small documents within a minute, streams for as long as something moves.
//! Redirects: ten, never from HTTPS to HTTP, and `Authorization` only goes to the origin it was made for.

use crate::config::RegistryConfig;
use crate::connect::{Connector, Dialer, Guard, proxy_authorization};
use crate::error::{Error, Refusal, Result, TransportError, printable};
use crate::headers::{challenges, retry_after};
use crate::resolve::Resolver;
use crate::tls::{TlsConfigs, handshake_error};
use crate::url::Url;
use ::http::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, LOCATION, PROXY_AUTHORIZATION, RETRY_AFTER, USER_AGENT, WWW_AUTHENTICATE,
};
use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client as Hyper;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Deserialize;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const MAX_REDIRECTS: usize = 10;
/// Heads of answers: fields and bytes.
const MAX_FIELDS: usize = 200;
const MAX_HEAD: usize = 128 << 10;
/// Error documents beyond this are cut.
const MAX_ERROR: usize = 64 << 10;
/// A small document has arrived by then.
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(60);
/// A registry may think so long about a blob that has arrived (it may be copying it to another storage).
const COMMIT_TIMEOUT: Duration = Duration::from_secs(300);
/// A stream that brings less than this in twice the idle time is stalled on purpose.
const SLOWEST: u64 = 1024;

pub(crate) type RequestBody = UnsyncBoxBody<Bytes, io::Error>;

/// What a request carries.
pub(crate) enum Payload {
    Empty,
    Bytes(Bytes),
    /// A stream that can be sent once; its length is in the headers.
    Stream(RequestBody),
}

/// Shows that a stream moves.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    pub bytes: AtomicU64,
    pub ended: AtomicBool,
}

/// A request.
pub(crate) struct Call {
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    pub payload: Payload,
    /// For requests whose answer may take long: it is waited for as long as this moves.
    pub activity: Option<Arc<Activity>>,
}

impl Call {
    pub fn new(method: Method, url: Url) -> Self {
        Call { method, url, headers: HeaderMap::new(), payload: Payload::Empty, activity: None }
    }

    pub fn get(url: Url) -> Self {
        Call::new(Method::GET, url)
    }

    /// Adds a header; a value with control characters is left out, which a registry then refuses by itself.
    pub fn header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.append(name, value);
        }
        self
    }

    pub fn bytes(mut self, bytes: Bytes) -> Self {
        self.payload = Payload::Bytes(bytes);
        self
    }

    /// The same request again, unless its body is gone.
    pub fn again(&self) -> Option<Call> {
        let payload = match &self.payload {
            Payload::Empty => Payload::Empty,
            Payload::Bytes(bytes) => Payload::Bytes(bytes.clone()),
            Payload::Stream(_) => return None,
        };
        let (method, url, headers) = (self.method.clone(), self.url.clone(), self.headers.clone());
        Some(Call { method, url, headers, payload, activity: self.activity.clone() })
    }
}

/// An answer whose body has not been read.
pub(crate) struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// Where it came from in the end.
    pub url: Url,
    pub method: Method,
    body: Incoming,
    idle: Duration,
    /// Time spent waiting for the body since it was last seen to move well, and the bytes that came in it.
    window: (Duration, u64),
    put_back: Option<Bytes>,
}

/// The way to registries.
pub(crate) struct Http {
    pub config: Arc<RegistryConfig>,
    direct: Hyper<Connector, RequestBody>,
    neighbour: Hyper<Connector, RequestBody>,
    guarded: Hyper<Connector, RequestBody>,
}

impl Http {
    pub fn new(config: Arc<RegistryConfig>) -> Self {
        let resolver = Resolver::new(config.hosts_file.clone(), config.resolv_conf.clone());
        let dialer = Arc::new(Dialer { config: config.clone(), resolver, tls: TlsConfigs::default() });
        let client = |guard| {
            Hyper::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(Duration::from_secs(30))
                .pool_max_idle_per_host(16)
                .http1_max_headers(MAX_FIELDS)
                .http1_max_buf_size(MAX_HEAD)
                .build(Connector { dialer: dialer.clone(), guard })
        };
        Http { direct: client(Guard::Open), neighbour: client(Guard::LinkLocal), guarded: client(Guard::ThisHost), config }
    }

    /// Sends a request and follows redirects of questions (GET, HEAD). `origin` is the registry on whose behalf it is sent:
    /// other hosts are asked under guard; of a registry on this host others here may be asked, too.
    pub async fn send(&self, call: Call, origin: &Url) -> Result<Reply> {
        let mut call = call;
        let credentials_for = call.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let again = call.again();
            let reply = self.once(call, origin).await?;
            let redirect = matches!(reply.status.as_u16(), 301 | 302 | 303 | 307 | 308);
            let question = matches!(reply.method, Method::GET | Method::HEAD);
            let Some(mut next) = again.filter(|_| redirect && (question || matches!(reply.status.as_u16(), 307 | 308))) else {
                return Ok(reply);
            };
            let host = reply.url.authority();
            let location = reply.text(&LOCATION).ok_or_else(|| Error::protocol(&host, "a redirect without Location"))?;
            let target =
                reply.url.join(location).map_err(|e| Error::protocol(&host, format!("a redirect that cannot be followed: {e}")))?;
            if reply.url.is_https() && !target.is_https() {
                return Err(Error::protocol(&host, format!("a redirect from https to {target} is not followed")));
            }
            if !target.same_origin(&credentials_for) {
                next.headers.remove(AUTHORIZATION);
            }
            next.url = target;
            call = next;
        }
        Err(Error::protocol(&origin.authority(), format!("stopped after {MAX_REDIRECTS} redirects")))
    }

    async fn once(&self, call: Call, origin: &Url) -> Result<Reply> {
        let Call { method, url, mut headers, payload, activity } = call;
        let transport = |reason| Error::Transport { method: title(&method), url: url.to_string(), reason };
        let body = match payload {
            Payload::Empty => Empty::new().map_err(|never| match never {}).boxed_unsync(),
            Payload::Bytes(bytes) => Full::new(bytes).map_err(|never| match never {}).boxed_unsync(),
            Payload::Stream(body) => body,
        };
        if let Ok(agent) = HeaderValue::from_str(&self.config.user_agent) {
            headers.insert(USER_AGENT, agent);
        }
        let proxy = self.config.proxies.for_url(&url)?.filter(|_| !url.is_https());
        if let Some(value) = proxy.as_ref().and_then(proxy_authorization).and_then(|value| HeaderValue::from_str(&value).ok()) {
            headers.insert(PROXY_AUTHORIZATION, value);
        }
        let text = format!("{}://{}{}", if url.is_https() { "https" } else { "http" }, url.authority(), url.path_and_query);
        let uri: ::http::Uri = text.parse().map_err(|_| Error::invalid(format!("address {url}"), "it cannot be asked for"))?;
        let mut request = Request::new(body);
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        let client = match Guard::of(&origin.host) {
            _ if origin.host == url.host => &self.direct,
            Guard::Open => &self.direct,
            Guard::LinkLocal => &self.neighbour,
            Guard::ThisHost => &self.guarded,
        };
        let answer = self.patiently(client.request(request), activity).await.map_err(transport)?;
        let answer = answer.map_err(|error| transport(transport_error(&error, &url.authority())))?;
        let (parts, body) = answer.into_parts();
        let reply = Reply {
            status: parts.status,
            headers: parts.headers,
            url,
            method,
            body,
            idle: self.config.idle_timeout,
            window: (Duration::ZERO, 0),
            put_back: None,
        };
        if let Some(encoding) = reply.text(&CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
            let reason = format!("it sent the content encoding {:?}, which was not asked for", printable(encoding, 40));
            return Err(Error::protocol(&reply.url.authority(), reason));
        }
        Ok(reply)
    }

    /// Waits for the head of the answer for as long as the request's body moves.
    async fn patiently<T>(&self, answer: impl Future<Output = T>, activity: Option<Arc<Activity>>) -> Result<T, TransportError> {
        let idle = self.config.idle_timeout;
        let Some(activity) = activity else {
            return tokio::time::timeout(idle, answer).await.map_err(|_| TransportError::Idle(idle));
        };
        tokio::pin!(answer);
        let mut seen = 0;
        let mut waited = Duration::ZERO;
        loop {
            if let Ok(answer) = tokio::time::timeout(idle, &mut answer).await {
                return Ok(answer);
            }
            let bytes = activity.bytes.load(Ordering::Relaxed);
            waited = if bytes == seen { waited + idle } else { Duration::ZERO };
            seen = bytes;
            let limit = if activity.ended.load(Ordering::Relaxed) { COMMIT_TIMEOUT } else { idle };
            if waited >= limit {
                return Err(TransportError::Idle(waited));
            }
        }
    }

    /// Tries until it works, the failure is final, or `max_attempts` is reached. A registry that is not there at all is
    /// given up after the second attempt, unless it has been there (`patient`).
    pub async fn retry<T, F: Future<Output = Result<T>>>(&self, patient: bool, mut attempt: impl FnMut() -> F) -> Result<T> {
        let mut count = 0;
        loop {
            let error = match attempt().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            count += 1;
            let Some(pause) = self.pause_after(&error, count, patient) else { return Err(error) };
            tracing::debug!(error = &error as &dyn std::error::Error, pause_ms = pause.as_millis() as u64, "a request is tried again");
            tokio::time::sleep(pause).await;
        }
    }

    /// How long to wait before the next attempt after `count` failed ones; nothing when there shall be none.
    pub fn pause_after(&self, error: &Error, count: u32, patient: bool) -> Option<Duration> {
        let absent = matches!(error, Error::Transport { reason, .. } if reason.is_absence());
        let attempts = if absent && !patient { self.config.max_attempts.min(2) } else { self.config.max_attempts };
        if count >= attempts || !error.is_transient() {
            return None;
        }
        if let Error::RateLimited { wait: Some(wait), .. } = error {
            return Some(*wait);
        }
        let doubled = self.config.first_pause.saturating_mul(1 << (count - 1).min(5)).min(Duration::from_secs(10));
        let mut random = [0; 2];
        getrandom::fill(&mut random).expect("the kernel's random source cannot fail after boot");
        // Between 75 % and 125 %, so that many clients do not come back at once.
        Some(doubled.mul_f64(0.75 + f64::from(u16::from_ne_bytes(random)) / f64::from(u16::MAX) / 2.0))
    }
}

/// `GET` as Go writes it in errors: `Get`.
pub(crate) fn title(method: &Method) -> String {
    let lower = method.as_str().to_ascii_lowercase();
    let mut letters = lower.chars();
    letters.next().map(|first| first.to_ascii_uppercase().to_string() + letters.as_str()).unwrap_or_default()
}

/// Finds what happened below hyper.
fn transport_error(error: &(dyn std::error::Error + 'static), authority: &str) -> TransportError {
    let mut cause = Some(error);
    let mut last = error.to_string();
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<TransportError>() {
            return found.clone();
        }
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse_too_large) {
            return TransportError::HeadTooLarge;
        }
        // TLS 1.3: the server refuses a client after the handshake.
        if let Some(error) = error.downcast_ref::<io::Error>()
            && error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
        {
            return handshake_error(authority, error);
        }
        last = error.to_string();
        cause = error.source();
    }
    TransportError::Broken(printable(&last, 300))
}

impl Reply {
    /// A header as text.
    pub fn text(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub fn content_length(&self) -> Option<u64> {
        self.text(&CONTENT_LENGTH).and_then(|text| text.parse().ok())
    }

    fn error(&self, reason: TransportError) -> Error {
        Error::Transport { method: title(&self.method), url: self.url.to_string(), reason }
    }

    /// The next piece of the body. Nothing for too long, or a trickle, is an error.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        if let Some(bytes) = self.put_back.take() {
            return Ok(Some(bytes));
        }
        loop {
            let began = tokio::time::Instant::now();
            let frame = match tokio::time::timeout(self.idle, self.body.frame()).await {
                Err(_) => return Err(self.error(TransportError::Idle(self.idle))),
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => return Err(self.error(transport_error(&error, &self.url.authority()))),
                Ok(Some(Ok(frame))) => frame,
            };
            let Ok(data) = frame.into_data() else { continue };
            // Only waiting counts: a reader that is slow itself is no fault of the registry.
            self.window.0 += began.elapsed();
            self.window.1 += data.len() as u64;
            if self.window.0 > self.idle * 2 {
                if self.window.1 < SLOWEST {
                    return Err(self.error(TransportError::Slow(self.window.0)));
                }
                self.window = (Duration::ZERO, 0);
            }
            return Ok(Some(data));
        }
    }

    /// Bytes that the next `chunk` gives again.
    pub fn put_back(&mut self, bytes: Bytes) {
        self.put_back = Some(bytes);
    }

    /// The whole body of a small document.
    pub async fn document(mut self, what: &str, limit: usize, limit_text: &'static str) -> Result<Bytes> {
        let too_large = || Error::TooLarge { what: what.to_owned(), limit: limit_text };
        if self.content_length().is_some_and(|length| length > limit as u64) {
            return Err(too_large());
        }
        let deadline = tokio::time::Instant::now() + DOCUMENT_TIMEOUT;
        let mut bytes = Vec::new();
        loop {
            match tokio::time::timeout_at(deadline, self.chunk()).await {
                Err(_) => return Err(self.error(TransportError::Slow(DOCUMENT_TIMEOUT))),
                Ok(chunk) => match chunk? {
                    Some(chunk) if bytes.len() + chunk.len() > limit => return Err(too_large()),
                    Some(chunk) => bytes.extend_from_slice(&chunk),
                    None => return Ok(bytes.into()),
                },
            }
        }
    }

    /// Reads the rest away, so that the connection can be used again; a long rest closes it.
    pub async fn finish(mut self) {
        for _ in 0..16 {
            match tokio::time::timeout(Duration::from_secs(2), self.chunk()).await {
                Ok(Ok(Some(_))) => {}
                _ => return,
            }
        }
    }

    /// The error that an answer with an unwelcome status is.
    pub async fn refusal(self) -> Error {
        let (status, method, url) = (self.status, title(&self.method), self.url.to_string());
        let wait = self.text(&RETRY_AFTER).and_then(|text| retry_after(text, jiff::Timestamp::now()));
        let oauth = oauth_refusal(&self.headers, status);
        let is_head = self.method == Method::HEAD;
        let body = if is_head { Bytes::new() } else { self.start(MAX_ERROR).await };
        let parsed = parse_refusal(status, &body);
        if status == StatusCode::TOO_MANY_REQUESTS || (status == StatusCode::SERVICE_UNAVAILABLE && wait.is_some()) {
            let message = parsed.map(|refusal| refusal.message).filter(|message| !message.is_empty());
            return Error::RateLimited { message: message.unwrap_or_else(|| "too many requests".into()), wait };
        }
        match oauth.or(parsed) {
            Some(refusal) => Error::Refused(refusal),
            None => match default_refusal(status) {
                Some(refusal) => Error::Refused(refusal),
                None => Error::Status { method, url, status: status_text(status) },
            },
        }
    }

    /// At most `limit` bytes of the body, however it ends.
    async fn start(mut self, limit: usize) -> Bytes {
        let mut bytes = Vec::new();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while bytes.len() < limit {
            match tokio::time::timeout_at(deadline, self.chunk()).await {
                Ok(Ok(Some(chunk))) => bytes.extend_from_slice(&chunk),
                _ => break,
            }
        }
        bytes.truncate(limit);
        bytes.into()
    }
}

/// `404 Not Found`.
pub(crate) fn status_text(status: StatusCode) -> String {
    format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or_default()).trim_end().to_owned()
}

/// RFC 6750: what the challenge of a 401 says of a token that was sent.
fn oauth_refusal(headers: &HeaderMap, status: StatusCode) -> Option<Refusal> {
    if status != StatusCode::UNAUTHORIZED {
        return None;
    }
    let all = headers.get_all(WWW_AUTHENTICATE).iter().take(8).filter_map(|value| value.to_str().ok()).flat_map(challenges);
    all.filter(|challenge| challenge.scheme == "bearer").find_map(|challenge| {
        let (code, message) = match challenge.parameter("error")? {
            "invalid_token" => ("UNAUTHORIZED", "authentication required"),
            "insufficient_scope" => ("DENIED", "requested access to the resource is denied"),
            _ => return None,
        };
        let message = challenge.parameter("error_description").map_or(message.to_owned(), |text| printable(text, 300));
        Some(Refusal { status: status.as_u16(), code: code.into(), message })
    })
}

/// What registries mean who say nothing.
fn default_refusal(status: StatusCode) -> Option<Refusal> {
    let (code, message) = match status.as_u16() {
        401 => ("UNAUTHORIZED", "authentication required"),
        403 => ("DENIED", "requested access to the resource is denied"),
        _ => return None,
    };
    Some(Refusal { status: status.as_u16(), code: code.into(), message: message.into() })
}

/// Reads `{"errors":[{"code":…,"message":…}]}`, and what token servers say instead.
fn parse_refusal(status: StatusCode, body: &[u8]) -> Option<Refusal> {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Item {
        code: Option<String>,
        message: Option<String>,
    }
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Document {
        errors: Option<Vec<Item>>,
        details: Option<String>,
        error: Option<String>,
        error_description: Option<String>,
    }
    let document: Document = serde_json::from_slice(body).ok()?;
    let first = document.errors.unwrap_or_default().into_iter().next();
    let (code, message) = match first {
        Some(item) => (item.code.unwrap_or_default(), item.message.unwrap_or_default()),
        None => {
            let code = default_refusal(status).map(|refusal| refusal.code).unwrap_or_default();
            (code, document.details.or(document.error_description).or(document.error)?)
        }
    };
    let refusal = Refusal { status: status.as_u16(), code: printable(&code, 60), message: printable(&message, 500) };
    (!refusal.code.is_empty() || !refusal.message.is_empty()).then_some(refusal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals() {
        for (status, body, text) in [
            (
                404,
                r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"x"}}]}"#,
                "manifest unknown: manifest unknown",
            ),
            (401, r#"{"details":"incorrect username or password"}"#, "unauthorized: incorrect username or password"),
            (400, r#"{"error":"invalid_grant","error_description":"bad\nnews"}"#, "bad news"),
            (403, r#"{"errors":[{"code":"DENIED","message":null}]}"#, "denied"),
        ] {
            let refusal = parse_refusal(StatusCode::from_u16(status).unwrap(), body.as_bytes()).unwrap();
            assert_eq!(refusal.to_string(), text);
        }
        for body in ["", "<html>", "null", "[]", "{}", r#"{"errors":[]}"#, r#"{"errors":[{}]}"#] {
            assert_eq!(parse_refusal(StatusCode::NOT_FOUND, body.as_bytes()), None, "{body}");
        }
        assert_eq!(title(&Method::HEAD), "Head");
    }

    #[test]
    fn pauses_grow_and_end() {
        let http = Http::new(Arc::new(RegistryConfig { max_attempts: 4, ..Default::default() }));
        let error = |reason| Error::Transport { method: "Get".into(), url: "https://x/".into(), reason };
        let broken = error(TransportError::Broken("cut".into()));
        let pauses: Vec<_> = (1..5).map(|count| http.pause_after(&broken, count, true)).collect();
        assert!(pauses[0].unwrap() < pauses[2].unwrap(), "{pauses:?}");
        assert_eq!(pauses[3], None);
        let refused = error(TransportError::ConnectionRefused { address: "x".into() });
        assert!(http.pause_after(&refused, 2, false).is_none() && http.pause_after(&refused, 2, true).is_some());
        let limited = |seconds| Error::RateLimited { message: String::new(), wait: Some(Duration::from_secs(seconds)) };
        assert_eq!(http.pause_after(&limited(7), 1, false), Some(Duration::from_secs(7)));
        assert_eq!(http.pause_after(&limited(3600), 1, false), None);
        assert!(limited(3600).to_string().contains("3600 s"));
    }
}
