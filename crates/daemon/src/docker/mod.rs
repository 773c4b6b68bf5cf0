//! The Docker Engine API: one function answers every request, one match is the table of routes.
//!
//! A request goes through: path clean-up and version prefix → [`route`] → a handler in the file of its resource →
//! [`error::ApiError`] for whatever failed. Handlers translate between wire types and the engine; they hold no state.

mod archive;
mod body;
mod containers;
mod convert;
mod error;
mod events;
mod execs;
mod hijack;
mod images;
mod inspect;
mod list;
mod logs;
mod networks;
mod registry;
mod stats;
mod store;
mod system;
mod volumes;

use crate::App;
use body::{RequestBody, Response};
use error::{ApiError, Result};
use http::{HeaderValue, Method, Request, StatusCode, header};
use hyper::body::Incoming;
use naru_api::query::Query;
use naru_api::version::ApiVersion;
use naru_types::ErrorKind;
use std::sync::Arc;

/// A request on its way to a handler.
struct Call {
    app: Arc<App>,
    version: ApiVersion,
    query: Query,
    request: Request<RequestBody>,
}

impl Call {
    /// Splits off the body.
    fn into_body(self) -> (http::HeaderMap, RequestBody) {
        let (parts, body) = self.request.into_parts();
        (parts.headers, body)
    }

    /// A numeric parameter; absent or empty is `None`.
    fn number<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>> {
        match self.query.get(key).filter(|text| !text.is_empty()) {
            None => Ok(None),
            Some(text) => {
                text.parse().map(Some).map_err(|_| ApiError::invalid(format!("invalid value for {key}: {text:?} is not a number")))
            }
        }
    }
}

/// Checks the log driver and options that containers get by default.
pub fn check_log(log: &naru_api::models::LogConfig) -> std::result::Result<(), String> {
    convert::log::log(&Default::default(), &Default::default(), &[], log).map(drop).map_err(|error| error.message)
}

/// Why a limit of processes cannot be the daemon's default.
pub fn check_ulimit(name: &str, soft: i64, hard: i64) -> std::result::Result<(), String> {
    convert::host::check_ulimit(name, soft, hard).map_err(|error| error.message)
}

/// Answers a request.
pub async fn answer(app: Arc<App>, request: Request<Incoming>) -> Response {
    let request = request.map(RequestBody::new);
    let path = request.uri().path();
    if request.method() == Method::OPTIONS {
        return with_headers(body::empty(StatusCode::OK));
    }
    if path.contains("//") || path.split('/').any(|part| matches!(part, "." | "..")) {
        return cleaned(path, request.uri().query());
    }
    let (version, rest) = split_version(path);
    let segments: Option<Vec<String>> = rest.split('/').skip(1).map(decode_segment).collect();
    let Some(segments) = segments else {
        return ApiError::invalid("the path is not valid percent-encoded UTF-8").response();
    };
    let old = version.is_some_and(|text| numbers(text) < numbers_of(ApiVersion::FLOOR));
    let version = match check_version(version) {
        Ok(version) => version,
        // Clients that old know no errors in JSON.
        Err(error) if old => return with_headers(body::text(error.status(), format!("{}\n", error.message))),
        Err(error) => return with_headers(error.response()),
    };
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let method = request.method().clone();
    let log = tracing::debug_span!("call", %method, path);
    let call = Call { app, version, query, request };
    let segments = with_slashes(segments);
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let owner = Arc::clone(&call.app);
    let _working = owner.requests.read().await;
    let outcome = route(call, &method, &segments).await;
    drop(log);
    match outcome {
        Ok(Some(response)) => with_headers(response),
        // moby's mux answers before the middleware: no Api-Version here.
        Ok(None) => ApiError::new(ErrorKind::NotFound, "page not found").response(),
        Err(error) => {
            if error.kind == ErrorKind::Internal {
                tracing::error!(error = error.message, "request failed");
            }
            // The server leaves out the body of an answer to HEAD, and keeps what the headers say of it.
            with_headers(error.response())
        }
    }
}

/// Nothing but an image has slashes in its name, but one may be asked for: clients that look for an object of any kind take
/// the name of an image for one of a container, and go on when the answer is that there is none.
fn with_slashes(mut segments: Vec<String>) -> Vec<String> {
    const CONTAINER: [&str; 19] = [
        "archive", "attach", "changes", "exec", "export", "json", "kill", "logs", "pause", "rename", "resize", "restart", "start", "stats",
        "stop", "top", "unpause", "update", "wait",
    ];
    let verbs: &[&str] = match segments.first().map(String::as_str) {
        Some("containers") => &CONTAINER,
        Some("networks") => &["connect", "disconnect"],
        Some("plugins") => &["json"],
        Some("volumes") => &[],
        _ => return segments,
    };
    let is_verb = |segment: &String| verbs.contains(&segment.as_str());
    let verb = match segments.as_slice() {
        [_, _, .., attach, ws] if attach == "attach" && ws == "ws" => 2,
        [_, _, .., last] if is_verb(last) => 1,
        _ => 0,
    };
    let checkpoints = segments.get(2).is_some_and(|segment| segment == "checkpoints");
    if !checkpoints && segments.len() > 2 + verb {
        let name = segments[1..segments.len() - verb].join("/");
        segments.splice(1..segments.len() - verb, [name]);
    }
    segments
}

/// gorilla/mux redirects to the cleaned path.
fn cleaned(path: &str, query: Option<&str>) -> Response {
    let mut clean: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(clean.pop()),
            part => clean.push(part),
        }
    }
    let mut location = format!("/{}", clean.join("/"));
    if let Some(query) = query {
        location.push('?');
        location.push_str(query);
    }
    let mut response = body::empty(StatusCode::MOVED_PERMANENTLY);
    if let Ok(value) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    response
}

/// `/v1.43/x` → (`1.43`, `/x`).
fn split_version(path: &str) -> (Option<&str>, &str) {
    let Some(rest) = path.strip_prefix("/v") else { return (None, path) };
    let end = rest.find('/').unwrap_or(rest.len());
    let digits = !rest[..end].is_empty() && rest[..end].bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if digits { (Some(&rest[..end]), &rest[end..]) } else { (None, path) }
}

fn check_version(version: Option<&str>) -> Result<ApiVersion> {
    let Some(text) = version else { return Ok(ApiVersion::MAX) };
    let asked = numbers(text);
    if asked < numbers_of(ApiVersion::FLOOR) {
        return Err(ApiError::invalid(format!(
            "client version {text} is too old. Minimum supported API version is {}, please upgrade your client to a newer version",
            ApiVersion::FLOOR
        )));
    }
    if asked > numbers_of(ApiVersion::MAX) {
        return Err(ApiError::invalid(format!("client version {text} is too new. Maximum supported API version is {}", ApiVersion::MAX)));
    }
    // Between the two every major number is 1, and a minor one is small.
    let minor = asked.get(1).and_then(|minor| u16::try_from(*minor).ok()).unwrap_or_default();
    Ok(ApiVersion::new(1, minor))
}

/// The numbers of a version, as Docker compares them: what is none is 0, and zeros at the end say nothing.
fn numbers(text: &str) -> Vec<u64> {
    let mut numbers: Vec<u64> = text.split('.').map(|part| part.parse().unwrap_or_default()).collect();
    while numbers.last() == Some(&0) {
        numbers.pop();
    }
    numbers
}

fn numbers_of(version: ApiVersion) -> Vec<u64> {
    vec![version.major.into(), version.minor.into()]
}

fn decode_segment(segment: &str) -> Option<String> {
    if !segment.contains('%') {
        return Some(segment.to_owned());
    }
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let hex = [rest.next()?, rest.next()?];
        bytes.push(u8::from_str_radix(std::str::from_utf8(&hex).ok()?, 16).ok()?);
    }
    String::from_utf8(bytes).ok()
}

/// The headers of every routed answer.
fn with_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert("Api-Version", HeaderValue::from_static("1.51"));
    headers.insert("Docker-Experimental", HeaderValue::from_static("false"));
    headers.insert("Ostype", HeaderValue::from_static("linux"));
    headers.insert(header::SERVER, HeaderValue::from_static(concat!("Naru/", env!("CARGO_PKG_VERSION"), " (linux)")));
    response
}

/// The table of routes. `None` is no such route.
async fn route(call: Call, method: &Method, path: &[&str]) -> Result<Option<Response>> {
    let (get, post) = (*method == Method::GET, *method == Method::POST);
    let (delete, put, head) = (*method == Method::DELETE, *method == Method::PUT, *method == Method::HEAD);
    let response = match path {
        ["_ping"] if get || head => system::ping(&call, head),
        ["version"] if get => system::version(&call),
        ["info"] if get => system::info(&call).await?,
        ["events"] if get => events::events(&call)?,
        ["system", "df"] if get => system::disk_usage(&call).await?,
        ["auth"] if post => registry::login(call).await?,
        ["commit"] if post => images::commit(call).await?,

        ["containers", "json"] if get => list::containers(&call).await?,
        ["containers", "create"] if post => containers::create(call).await?,
        ["containers", "prune"] if post => containers::prune(&call).await?,
        ["containers", id] if delete => containers::remove(&call, id).await?,
        ["containers", id, "json"] if get => inspect::container(&call, id).await?,
        ["containers", id, "start"] if post => containers::start(call, id).await?,
        ["containers", id, "stop"] if post => containers::stop(&call, id).await?,
        ["containers", id, "restart"] if post => containers::restart(&call, id).await?,
        ["containers", id, "kill"] if post => containers::kill(&call, id).await?,
        ["containers", id, "pause"] if post => containers::pause(&call, id).await?,
        ["containers", id, "unpause"] if post => containers::unpause(&call, id).await?,
        ["containers", id, "wait"] if post => containers::wait(&call, id)?,
        ["containers", id, "rename"] if post => containers::rename(&call, id).await?,
        ["containers", id, "update"] if post => containers::update(call, id).await?,
        ["containers", id, "resize"] if post => containers::resize(&call, id).await?,
        ["containers", id, "top"] if get => containers::top(&call, id).await?,
        ["containers", id, "changes"] if get => containers::changes(&call, id).await?,
        ["containers", id, "export"] if get => containers::export(&call, id)?,
        ["containers", id, "stats"] if get => stats::stats(&call, id).await?,
        ["containers", id, "logs"] if get => logs::logs(&call, id)?,
        ["containers", id, "attach"] if post => hijack::attach(call, id).await,
        ["containers", id, "archive"] if head => archive::stat(&call, id).await?,
        ["containers", id, "archive"] if get => archive::get(&call, id).await?,
        ["containers", id, "archive"] if put => archive::put(call, id).await?,
        ["containers", id, "exec"] if post => execs::create(call, id).await?,
        ["exec", id, "start"] if post => execs::start(call, id).await?,
        ["exec", id, "resize"] if post => execs::resize(&call, id).await?,
        ["exec", id, "json"] if get => execs::inspect(&call, id)?,

        ["images", "json"] if get => images::list(&call).await?,
        ["images", "create"] if post => images::create(call).await?,
        ["images", "load"] if post => images::load(call)?,
        ["images", "get"] if get => images::save_many(&call).await?,
        ["images", "prune"] if post => images::prune(&call).await?,
        ["images", "search"] if get => registry::search(&call).await?,
        ["images", name @ .., "json"] if get && !name.is_empty() => images::inspect(&call, &name.join("/")).await?,
        ["images", name @ .., "history"] if get && !name.is_empty() => images::history(&call, &name.join("/")).await?,
        ["images", name @ .., "get"] if get && !name.is_empty() => images::save(&call, &name.join("/")).await?,
        ["images", name @ .., "tag"] if post && !name.is_empty() => images::tag(&call, &name.join("/")).await?,
        ["images", name @ .., "push"] if post && !name.is_empty() => registry::push(&call, &name.join("/")).await?,
        ["images", name @ ..] if delete && !name.is_empty() => images::remove(&call, &name.join("/")).await?,

        ["volumes"] if get => volumes::list(&call)?,
        ["volumes", "create"] if post => volumes::create(call).await?,
        ["volumes", "prune"] if post => volumes::prune(&call).await?,
        ["volumes", name] if get => volumes::inspect(&call, name)?,
        ["volumes", name] if delete => volumes::remove(&call, name).await?,

        ["networks"] | ["networks", ""] if get => networks::list(&call)?,
        // There is no build cache yet.
        ["build", "prune"] if post => body::ok(&naru_api::models::BuildPruneReport::default()),
        ["networks", "create"] if post => networks::create(call).await?,
        ["networks", "prune"] if post => networks::prune(&call).await?,
        // A network's name may have slashes, which clients send as they are.
        ["networks", id @ .., "connect"] if post && !id.is_empty() => networks::connect(call, &id.join("/")).await?,
        ["networks", id @ .., "disconnect"] if post && !id.is_empty() => networks::disconnect(call, &id.join("/")).await?,
        ["networks", id @ ..] if get => networks::inspect(&call, &id.join("/"))?,
        ["networks", id @ ..] if delete && !id.is_empty() => networks::remove(&call, &id.join("/")).await?,

        // Naru's own: Docker has nothing like it.
        ["store", "check"] if post => store::check(&call).await?,

        ["swarm" | "nodes" | "services" | "tasks" | "secrets" | "configs", ..] => {
            return Err(ApiError::new(
                ErrorKind::Unavailable,
                "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.",
            ));
        }
        ["plugins"] if get => body::ok::<[(); 0]>(&[]),
        // There are none: clients that look for an object of any kind go on.
        ["plugins", name, "json"] if get => return Err(ApiError::new(ErrorKind::NotFound, format!("plugin {name:?} not found"))),
        ["plugins", ..] => return Err(ApiError::unsupported("managed plugins are not built into this version")),
        ["containers", id, "attach", "ws"] if get => {
            call.app.engine.find(id)?;
            return Err(ApiError::unsupported("attaching by WebSocket is not built into this version; use POST /containers/{id}/attach"));
        }
        ["distribution", name @ .., "json"] if get && !name.is_empty() => registry::distribution(&call, &name.join("/")).await?,
        ["volumes", _] if put => return Err(ApiError::unsupported("cluster volumes are not built into this version")),
        ["containers", _, "checkpoints", ..] => return Err(ApiError::unsupported("checkpoints are not built into this version")),
        ["build", ..] | ["session"] | ["grpc"] if post => {
            return Err(ApiError::unsupported("building images is not built into this version"));
        }
        _ => return Ok(None),
    };
    Ok(Some(response))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_in_paths() {
        assert_eq!(split_version("/v1.43/info"), (Some("1.43"), "/info"));
        assert_eq!(split_version("/volumes"), (None, "/volumes"));
        assert_eq!(split_version("/v1.43"), (Some("1.43"), ""));
        assert!(check_version(Some("1.23")).is_err());
        assert!(check_version(Some("1.99")).unwrap_err().message.contains("too new"));
        assert!(check_version(None).is_ok());
        let words = |text: &str| check_version(Some(text)).map_err(|error| error.message.chars().take(28).collect::<String>());
        assert_eq!(words("1.44.0.0").unwrap(), ApiVersion::new(1, 44));
        assert_eq!(words("1.44.1").unwrap(), ApiVersion::new(1, 44));
        assert_eq!(words("2").unwrap_err(), "client version 2 is too new.");
        assert_eq!(words("1.51.1").unwrap_err(), "client version 1.51.1 is too");
        for old in ["1", "1.", "..", "0.99", "1.2.3.4"] {
            assert!(words(old).unwrap_err().starts_with(&format!("client version {old} is")), "{old}");
        }
    }

    #[test]
    fn names_with_slashes() {
        for (path, expected) in [
            ("containers/a/json", &["containers", "a", "json"][..]),
            ("containers/a/b/json", &["containers", "a/b", "json"]),
            ("containers/h:1/a/b:c/json", &["containers", "h:1/a/b:c", "json"]),
            ("containers/a/b", &["containers", "a/b"]),
            ("containers/a/b/attach/ws", &["containers", "a/b", "attach", "ws"]),
            ("containers/a/attach/ws", &["containers", "a", "attach", "ws"]),
            ("containers/a/checkpoints/b", &["containers", "a", "checkpoints", "b"]),
            ("containers/json", &["containers", "json"]),
            ("networks/a/b/connect", &["networks", "a/b", "connect"]),
            ("networks/a/b", &["networks", "a/b"]),
            ("networks/", &["networks", ""]),
            ("volumes/a/b", &["volumes", "a/b"]),
            ("volumes", &["volumes"]),
            ("plugins/a/b/json", &["plugins", "a/b", "json"]),
            ("images/a/b/json", &["images", "a", "b", "json"]),
        ] {
            assert_eq!(with_slashes(path.split('/').map(str::to_owned).collect()), expected, "{path}");
        }
    }

    #[test]
    fn segments() {
        assert_eq!(decode_segment("a%2Fb").as_deref(), Some("a/b"));
        assert_eq!(decode_segment("%zz"), None);
        assert_eq!(decode_segment("%ff"), None);
        assert_eq!(decode_segment("%2"), None);
    }
}
