//! Images that travel: pull, push, login, search, distribution.

use super::Call;
use super::body::{self, Response, Sender};
use super::error::{ApiError, Result};
use super::images::{failure, message, platform};
use crate::App;
use base64::Engine as _;
use http::{HeaderMap, HeaderName};
use naru_api::filters::Filters;
use naru_api::models;
use naru_api::version::ApiVersion;
use naru_engine::EngineError;
use naru_registry::{Credentials, Line, PullEvent, PullOptions, PushEvent, PushOptions, SearchFilters};
use naru_types::{ErrorKind, ImageRef};
use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use tokio::sync::mpsc;

/// Lines that wait for a slow client before progress is left out.
const PATIENCE: usize = 256;

/// `X-Registry-Auth`: base64url of an [`models::AuthConfig`], padded or not; what does not parse is nobody (moby
/// `api/types/registry/authconfig.go`).
fn credentials(headers: &HeaderMap) -> Credentials {
    let decoded = decode(headers, "x-registry-auth");
    decoded.and_then(|json| naru_api::json::from_slice::<models::AuthConfig>(&json).ok()).map(wire_credentials).unwrap_or_default()
}

fn decode(headers: &HeaderMap, name: &'static str) -> Option<Vec<u8>> {
    use base64::alphabet::{STANDARD, URL_SAFE};
    use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
    let text = headers.get(HeaderName::from_static(name))?.to_str().ok()?;
    let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    [URL_SAFE, STANDARD].iter().find_map(|alphabet| GeneralPurpose::new(alphabet, lenient).decode(text.trim()).ok())
}

/// `X-Registry-Config`: base64url of an object of [`models::AuthConfig`] by registry.
pub fn credentials_by_registry(headers: &HeaderMap) -> HashMap<String, Credentials> {
    let decoded = decode(headers, "x-registry-config");
    let all: HashMap<String, models::AuthConfig> = decoded.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default();
    all.into_iter()
        .map(|(registry, auth)| {
            let registry = if registry.contains("index.docker.io") { "docker.io".to_owned() } else { registry };
            (registry, wire_credentials(auth))
        })
        .collect()
}

fn wire_credentials(auth: models::AuthConfig) -> Credentials {
    let mut credentials = Credentials {
        username: auth.username,
        password: auth.password,
        identity_token: auth.identitytoken,
        registry_token: auth.registrytoken,
    };
    // `auth` is the pair as config.json keeps it.
    if credentials.username.is_empty()
        && let Ok(pair) = base64::engine::general_purpose::STANDARD.decode(auth.auth.trim())
        && let Some((username, password)) = String::from_utf8_lossy(&pair).split_once(':')
    {
        (credentials.username, credentials.password) = (username.to_owned(), password.to_owned());
    }
    credentials
}

/// A reference from the two parameters of old: name, and a tag or digest.
fn reference(name: &str, tag: &str) -> Result<ImageRef> {
    let text = match tag {
        "" => name.to_owned(),
        digest if digest.contains(':') => format!("{name}@{digest}"),
        tag => format!("{name}:{tag}"),
    };
    Ok(ImageRef::parse(&text)?)
}

fn wire_line(line: Line) -> models::ProgressMessage {
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let detail = match line.progress {
        Some((current, total)) => models::ProgressDetail { current: number(current), total: number(total), ..Default::default() },
        None => models::ProgressDetail::default(),
    };
    models::ProgressMessage {
        status: line.status,
        // Docker's stream has the object, empty, with every line that has an id.
        progress_detail: line.id.is_some().then_some(detail),
        id: line.id.unwrap_or_default(),
        ..models::ProgressMessage::default()
    }
}

/// Lines of a transfer on their way to the client.
#[derive(Clone)]
struct Lines(mpsc::UnboundedSender<models::ProgressMessage>, Arc<std::sync::atomic::AtomicUsize>);

impl Lines {
    fn send(&self, line: models::ProgressMessage) {
        let moving = line.progress_detail.as_ref().is_some_and(|detail| detail.total > 0);
        if moving && self.1.load(Relaxed) > PATIENCE {
            return;
        }
        self.1.fetch_add(1, Relaxed);
        // A client that has gone reads no news; the transfer ends with it.
        self.0.send(line).ok();
    }
}

/// A registry that does not know who we are: upon "unauthorized" Docker's client asks for a name and a password, and waits for
/// them even without a terminal.
fn refusal(error: EngineError) -> ApiError {
    let error = ApiError::from(error);
    let kind = if error.kind == ErrorKind::Unauthorized { ErrorKind::Forbidden } else { error.kind };
    ApiError { kind, ..error }
}

/// Runs a transfer. What fails before there is something to tell is the answer's status; later failures are in the stream.
/// When the client goes, the transfer is dropped.
async fn transfer<F, T>(
    start: impl FnOnce(Lines) -> F,
    finish: impl Fn(&T) -> Vec<models::ProgressMessage> + Send + 'static,
) -> Result<Response>
where
    F: Future<Output = naru_engine::Result<T>> + Send + 'static,
    T: Send + 'static,
{
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let waiting = Arc::default();
    let lines = Lines(sender, Arc::clone(&waiting));
    let mut work = Box::pin(start(lines));
    // The first line is told when something was found.
    let (first, done) = tokio::select! {
        biased;
        line = receiver.recv() => (line, None),
        result = &mut work => (None, Some(result.map_err(refusal)?)),
    };
    let (out, response) = body::stream("application/json");
    tokio::spawn(async move {
        if let Some(line) = first
            && out.send(Ok(message(&line))).await.is_err()
        {
            return;
        }
        let result = match done {
            Some(value) => Ok(value),
            None => loop {
                tokio::select! {
                    biased;
                    line = receiver.recv() => {
                        waiting.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
                        if let Some(line) = line && out.send(Ok(message(&line))).await.is_err() {
                            return;
                        }
                    }
                    result = &mut work => break result,
                    () = out.closed() => return,
                }
            },
        };
        end(&out, &mut receiver, result.map(|value| finish(&value))).await;
        // Buffers of megabytes were in use; the engine is to weigh little again.
        tokio::task::spawn_blocking(naru_sys::memory::trim);
    });
    Ok(response)
}

async fn end(
    out: &Sender,
    receiver: &mut mpsc::UnboundedReceiver<models::ProgressMessage>,
    result: naru_engine::Result<Vec<models::ProgressMessage>>,
) {
    while let Ok(line) = receiver.try_recv() {
        out.send(Ok(message(&line))).await.ok();
    }
    match result {
        Ok(lines) => {
            for line in lines {
                out.send(Ok(message(&line))).await.ok();
            }
        }
        Err(error) => {
            out.send(Ok(failure(naru_engine::chain(&error)))).await.ok();
        }
    }
}

/// `POST /images/create` with `fromImage`.
pub async fn pull(call: Call) -> Result<Response> {
    let name = call.query.get("fromImage").unwrap_or_default();
    let tag = call.query.get("tag").unwrap_or_default();
    let reference = reference(name, tag)?;
    let all_tags = tag.is_empty() && reference.digest.is_none() && ImageRef::is_bare(name);
    let platform = match call.query.get("platform").unwrap_or_default() {
        "" => None,
        text => Some(text.parse()?),
    };
    let options = PullOptions { platform, credentials: credentials(call.request.headers()) };
    let totals = call.query.boolean("totals");
    let engine = call.app.engine.clone();
    transfer(
        move |lines| async move {
            let repository = reference.familiar_name();
            let digest = reference.digest.as_ref().map(|_| reference.familiar());
            let news = Arc::new(AtomicBool::new(false));
            let (told, out) = (Arc::clone(&news), lines.clone());
            let tell = move |event: PullEvent| match event {
                // Docker says once what became of a repository.
                PullEvent::Done { up_to_date, .. } if all_tags => drop(told.fetch_or(!up_to_date, Relaxed)),
                // Only for who asks: Docker's stream has no such thing.
                PullEvent::Sizes { here, missing } if totals => {
                    let missing: HashMap<String, u64> = missing.into_iter().collect();
                    let aux = Some(serde_json::json!({ "Present": here, "Missing": missing }));
                    out.send(models::ProgressMessage { aux, ..models::ProgressMessage::default() });
                }
                PullEvent::Sizes { .. } => {}
                PullEvent::Pulling { reference, repository } => {
                    let event = PullEvent::Pulling { reference: digest.clone().unwrap_or(reference), repository };
                    out.send(models::ProgressMessage { progress_detail: None, ..wire_line(event.line()) });
                }
                event => out.send(wire_line(event.line())),
            };
            let pulled = engine.pull(&reference, all_tags, options, tell).await?;
            if all_tags {
                let done = PullEvent::Done { reference: repository, up_to_date: !news.load(Relaxed) };
                lines.send(wire_line(done.line()));
            }
            Ok(pulled)
        },
        |_| vec![],
    )
    .await
}

/// `POST /images/{name}/push`.
pub async fn push(call: &Call, name: &str) -> Result<Response> {
    let tag = call.query.get("tag").unwrap_or_default();
    let reference = reference(name, tag)?;
    let all_tags = tag.is_empty() && ImageRef::is_bare(name);
    let platform = match call.query.get("platform").unwrap_or_default() {
        text if !text.is_empty() && call.version >= ApiVersion::new(1, 46) => Some(platform(text)?),
        _ => None,
    };
    let options = PushOptions { platform, credentials: credentials(call.request.headers()) };
    let engine = call.app.engine.clone();
    if let Some(refused) = nothing_to_push(call, &reference, all_tags) {
        return Ok(refused);
    }
    let begun = AtomicBool::new(false);
    transfer(
        move |lines| async move {
            let tell = move |event: PushEvent| {
                // One line for a repository, however many tags go there.
                if matches!(event, PushEvent::Pushing { .. }) && begun.swap(true, Relaxed) {
                    return;
                }
                let aux = match &event {
                    PushEvent::Done { tag, digest, size } => {
                        Some(serde_json::json!({ "Tag": tag, "Digest": digest.to_string(), "Size": size }))
                    }
                    _ => None,
                };
                lines.send(wire_line(event.line()));
                if aux.is_some() {
                    let detail = Some(models::ProgressDetail::default());
                    lines.send(models::ProgressMessage { progress_detail: detail, aux, ..models::ProgressMessage::default() });
                }
            };
            engine.push(&reference, all_tags, options, tell).await
        },
        |()| vec![],
    )
    .await
}

/// Docker begins before it looks: that there is no such image is said in the stream.
fn nothing_to_push(call: &Call, reference: &ImageRef, all_tags: bool) -> Option<Response> {
    let name = reference.familiar_name();
    let images = call.app.engine.images();
    let tags: Vec<&ImageRef> = images.iter().flat_map(|image| &image.tags).filter(|tag| tag.familiar_name() == name).collect();
    let wanted = reference.tagged();
    let text = if tags.is_empty() {
        format!("An image does not exist locally with the tag: {name}")
    } else if reference.digest.is_none() && !all_tags && !tags.iter().any(|tag| tag.familiar() == wanted.familiar()) {
        format!("tag does not exist: {}", wanted.familiar())
    } else {
        return None;
    };
    let repository = format!("{}/{}", reference.domain, reference.path);
    let begin = PushEvent::Pushing { repository }.line();
    let mut bytes = message(&wire_line(begin)).to_vec();
    bytes.extend_from_slice(&failure(text));
    let mut response = body::text(http::StatusCode::OK, bytes);
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    Some(response)
}

/// `POST /auth`.
pub async fn login(call: Call) -> Result<Response> {
    let app: Arc<App> = Arc::clone(&call.app);
    let (_, body) = call.into_body();
    // Docker asks for no Content-Type here, and scripts with curl send none.
    let auth: models::AuthConfig = body::read_untyped_json(body).await?;
    let registry = auth.serveraddress.clone();
    let outcome = app.engine.login(if registry.is_empty() { "docker.io" } else { &registry }, &wire_credentials(auth)).await?;
    Ok(body::ok(&models::AuthResponse { status: "Login Succeeded".into(), identity_token: outcome.identity_token.unwrap_or_default() }))
}

/// `GET /images/search`.
pub async fn search(call: &Call) -> Result<Response> {
    let term = call.query.get("term").unwrap_or_default();
    if term.is_empty() {
        return Err(ApiError::invalid("the search term is missing"));
    }
    let limit: Option<u32> = call.number("limit")?;
    if limit.is_some_and(|limit| limit > 100) {
        return Err(ApiError::invalid(format!("limit {} is outside the range of [1, 100]", limit.unwrap_or_default())));
    }
    let filters = Filters::parse(call.query.get("filters").unwrap_or_default())?;
    filters.validate(&["is-automated", "is-official", "stars"])?;
    let flag = |key: &str| if filters.contains(key) { filters.boolean(key, false).map(Some) } else { Ok(None) };
    let stars =
        filters.values("stars").map(|text| text.parse::<u64>().map_err(|_| ApiError::invalid(format!("invalid filter 'stars={text}'"))));
    let wanted = SearchFilters {
        is_official: flag("is-official")?,
        is_automated: flag("is-automated")?,
        stars: stars.collect::<Result<Vec<_>>>()?.into_iter().max(),
    };
    let found = call.app.engine.search(term, limit.filter(|limit| *limit > 0), &wanted, &credentials(call.request.headers())).await;
    let found = found.map_err(refusal)?;
    let rows: Vec<models::ImageSearchItem> = found
        .into_iter()
        .map(|hit| models::ImageSearchItem {
            star_count: i64::try_from(hit.star_count).unwrap_or(i64::MAX),
            is_official: hit.is_official,
            name: hit.name,
            is_automated: hit.is_automated,
            description: hit.description,
        })
        .collect();
    Ok(body::ok(&rows))
}

/// `GET /distribution/{name}/json`.
pub async fn distribution(call: &Call, name: &str) -> Result<Response> {
    let reference = ImageRef::parse(name)?;
    let info = call.app.engine.distribution(&reference, &credentials(call.request.headers())).await?;
    let platforms: Vec<models::OciPlatform> = info
        .platforms
        .iter()
        .map(|platform| models::OciPlatform {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            variant: platform.variant.clone().unwrap_or_default(),
            ..models::OciPlatform::default()
        })
        .collect();
    let descriptor = models::OciDescriptor {
        media_type: info.media_type,
        digest: info.digest.to_string(),
        size: i64::try_from(info.size).unwrap_or(i64::MAX),
        ..models::OciDescriptor::default()
    };
    Ok(body::ok(&serde_json::json!({ "Descriptor": descriptor, "Platforms": platforms })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
    use http::HeaderValue;

    #[test]
    fn credentials_in_all_their_encodings() {
        let json = br#"{"username":"me","password":"s?>","serveraddress":"localhost:5000"}"#;
        for text in [URL_SAFE.encode(json), URL_SAFE_NO_PAD.encode(json), STANDARD.encode(json)] {
            let mut headers = HeaderMap::new();
            headers.insert("x-registry-auth", HeaderValue::from_str(&text).unwrap());
            let found = credentials(&headers);
            assert_eq!((found.username.as_str(), found.password.as_str()), ("me", "s?>"), "{text}");
        }
        let mut headers = HeaderMap::new();
        headers.insert("x-registry-auth", HeaderValue::from_static("bm9wZQ"));
        assert!(credentials(&headers).is_empty());
        let pair = models::AuthConfig { auth: STANDARD.encode("a:b:c"), ..models::AuthConfig::default() };
        assert_eq!(wire_credentials(pair).password, "b:c");
    }

    #[test]
    fn lines_are_docker_s() {
        let line = Line { id: Some("abc".into()), status: "Pull complete".into(), progress: None };
        let json = serde_json::to_string(&wire_line(line)).unwrap();
        assert_eq!(json, r#"{"status":"Pull complete","progressDetail":{},"id":"abc"}"#);
        let line = Line { id: Some("abc".into()), status: "Downloading".into(), progress: Some((1, 2)) };
        assert_eq!(
            serde_json::to_string(&wire_line(line)).unwrap(),
            r#"{"status":"Downloading","progressDetail":{"current":1,"total":2},"id":"abc"}"#
        );
    }
}
