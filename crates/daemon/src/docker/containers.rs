//! The verbs of a container: create, start, stop, … Each is a look-up, a command to the engine, an answer.

use super::body::{self, BodyWriter, Response};
use super::error::{ApiError, Result};
use super::{Call, convert};
use http::StatusCode;
use naru_api::filters::Filters;
use naru_api::models;
use naru_api::version::ApiVersion;
use naru_engine::container::{StopOptions, View};
use naru_engine::events::ObjectKind;
use naru_engine::phase::Phase;
use naru_types::{ErrorKind, Name, Signal};
use std::sync::Arc;

/// `POST /containers/create`.
pub async fn create(call: Call) -> Result<Response> {
    let platform = call.query.get("platform").unwrap_or_default().to_owned();
    let (app, query, version) = (Arc::clone(&call.app), call.query.clone(), call.version);
    // Read first: a client that is answered while it still sends reports a broken connection instead of the answer.
    let (headers, body) = call.into_body();
    let request: Option<models::ContainerCreateRequest> = body::read_json(&headers, body).await?;
    // Of all bodies this one must be there.
    let request = request.ok_or_else(|| ApiError::invalid("config cannot be empty in order to create a container"))?;
    let name = match query.get("name").filter(|name| !name.is_empty()) {
        None => None,
        Some(text) => Some(parse_name(text)?),
    };
    let image = convert::image::find_for_create(&app, &request.image, &platform).await?;
    let attached = request.attach_stdout || request.attach_stderr;
    let has_old_mac = version >= ApiVersion::new(1, 44) && !request.mac_address.is_empty();
    let created = convert::create::spec(&app, request, name, image)?;
    // `docker run --rm`: nobody makes a container that goes with its end, and wants its output, to start it some day.
    let to_start = attached && created.spec.auto_remove;
    let answer = app.engine.create(created.spec, to_start).await?;
    let mut warnings = created.warnings;
    warnings.extend(answer.warnings);
    if has_old_mac {
        warnings
            .push("The container-wide MacAddress field is now deprecated. It should be specified in EndpointsConfig instead.".to_owned());
    }
    Ok(body::json(StatusCode::CREATED, &models::ContainerCreateResponse { id: answer.id.to_string(), warnings }))
}

fn parse_name(text: &str) -> Result<Name> {
    let name = text.strip_prefix('/').unwrap_or(text);
    name.parse().map_err(|_| ApiError::invalid(format!("Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")))
}

fn no_content() -> Response {
    body::empty(StatusCode::NO_CONTENT)
}

/// `POST /containers/{id}/start`.
pub async fn start(call: Call, id: &str) -> Result<Response> {
    if call.query.get("checkpoint").is_some_and(|name| !name.is_empty()) {
        return Err(ApiError::unsupported("checkpoints are not built into this version"));
    }
    let length = call.request.headers().get(http::header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
    // Clients of old send "null" or "{}"; moby refuses more than 7 bytes.
    if length.is_some_and(|length| length > 7) {
        return Err(ApiError::invalid(
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24",
        ));
    }
    call.app.engine.find(id)?.start().await?;
    Ok(no_content())
}

fn stop_options(call: &Call) -> Result<StopOptions> {
    let signal = match call.query.get("signal").filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => Some(text.parse::<Signal>().map_err(|_| ApiError::invalid(format!("invalid signal: {text}")))?),
    };
    Ok(StopOptions { signal, timeout: call.number("t")? })
}

/// `POST /containers/{id}/stop`.
pub async fn stop(call: &Call, id: &str) -> Result<Response> {
    let options = stop_options(call)?;
    call.app.engine.find(id)?.stop(options).await?;
    Ok(no_content())
}

/// `POST /containers/{id}/restart`.
pub async fn restart(call: &Call, id: &str) -> Result<Response> {
    let options = stop_options(call)?;
    call.app.engine.find(id)?.restart(options).await?;
    Ok(no_content())
}

/// `POST /containers/{id}/kill`.
pub async fn kill(call: &Call, id: &str) -> Result<Response> {
    let signal = match call.query.get("signal").filter(|text| !text.is_empty()) {
        None => Signal::KILL,
        Some(text) => {
            text.parse::<Signal>().map_err(|_| ApiError::invalid(format!("cannot kill container: {id}: invalid signal: {text}")))?
        }
    };
    call.app.engine.find(id)?.kill(signal).await?;
    Ok(no_content())
}

/// `POST /containers/{id}/pause`.
pub async fn pause(call: &Call, id: &str) -> Result<Response> {
    call.app.engine.find(id)?.pause().await?;
    Ok(no_content())
}

/// `POST /containers/{id}/unpause`.
pub async fn unpause(call: &Call, id: &str) -> Result<Response> {
    call.app.engine.find(id)?.unpause().await?;
    Ok(no_content())
}

/// `POST /containers/{id}/wait`: headers at once, the code when the condition holds.
pub fn wait(call: &Call, id: &str) -> Result<Response> {
    let container = call.app.engine.find(id)?;
    let before = container.view();
    let exits = before.state.exits;
    let condition = match call.query.get("condition").unwrap_or_default() {
        // Clients before that version know no conditions.
        _ if call.version < ApiVersion::new(1, 30) => Condition::NotRunning(exits),
        "" | "not-running" => Condition::NotRunning(exits),
        "next-exit" => Condition::NextExit(exits),
        "removed" => Condition::Removed,
        other => return Err(ApiError::invalid(format!("invalid condition: {other:?}"))),
    };
    let (sender, response) = body::stream("application/json");
    tokio::spawn(async move {
        // The first frame makes the server send the headers now, which clients wait for before they start the container.
        if sender.send(Ok(bytes::Bytes::new())).await.is_err() {
            return;
        }
        let view = tokio::select! {
            view = container.wait_until(|view| condition.holds(view)) => view,
            () = sender.closed() => return,
        };
        let exit = view.state.last_exit.as_ref();
        let code = exit.map_or(0, |exit| i64::from(exit.code));
        let mut answer = serde_json::to_vec(&models::WaitResponse { error: None, status_code: code }).unwrap_or_default();
        answer.push(b'\n');
        sender.send(Ok(answer.into())).await.ok();
    });
    Ok(response)
}

enum Condition {
    /// Not running, or the end of a run since: a policy that starts it again hides no end, as in Docker.
    NotRunning(u64),
    NextExit(u64),
    Removed,
}

impl Condition {
    fn holds(&self, view: &View) -> bool {
        match self {
            Condition::NotRunning(exits) => {
                // What is being removed may still run.
                !matches!(view.state.phase, Phase::Running { .. } | Phase::Restarting(_) | Phase::Removing)
                    || view.state.exits > *exits
                    || view.removed
            }
            Condition::NextExit(exits) => view.state.exits > *exits,
            Condition::Removed => view.removed,
        }
    }
}

/// `POST /containers/{id}/rename`.
pub async fn rename(call: &Call, id: &str) -> Result<Response> {
    let name = call.query.get("name").unwrap_or_default();
    if name.is_empty() {
        return Err(ApiError::invalid("Neither old nor new names may be empty"));
    }
    call.app.engine.rename(id, name).await?;
    Ok(no_content())
}

/// `POST /containers/{id}/update`.
pub async fn update(call: Call, id: &str) -> Result<Response> {
    let app = Arc::clone(&call.app);
    let (headers, body) = call.into_body();
    let request: models::UpdateRequest = body::read_json(&headers, body).await?;
    let view = app.engine.find(id)?.view();
    let warnings = convert::resources::warnings(request.memory_swappiness, request.oom_kill_disable, request.memory);
    let change = convert::update::change(&view, &request)?;
    app.engine.update(id, change).await?;
    Ok(body::ok(&models::UpdateResponse { warnings: Some(warnings) }))
}

/// `POST /containers/{id}/resize`.
pub async fn resize(call: &Call, id: &str) -> Result<Response> {
    let (rows, columns) = terminal_size(call)?;
    call.app.engine.find(id)?.resize(rows, columns).await?;
    Ok(body::empty(StatusCode::OK))
}

/// The `h` and `w` of a resize.
pub fn terminal_size(call: &Call) -> Result<(u16, u16)> {
    let side =
        |key: &str| -> Result<u16> { call.number::<u16>(key)?.ok_or_else(|| ApiError::invalid(format!("invalid resize {key}: missing"))) };
    Ok((side("h")?, side("w")?))
}

/// `GET /containers/{id}/top`.
pub async fn top(call: &Call, id: &str) -> Result<Response> {
    let args = call.query.get("ps_args").filter(|args| !args.is_empty()).unwrap_or("-ef");
    let table = call.app.engine.top(id, args).await?;
    let container = call.app.engine.find(id)?;
    call.app.engine.emit(&container, "top");
    Ok(body::ok(&models::ContainerTop { processes: table.rows, titles: table.titles }))
}

/// `GET /containers/{id}/changes`.
pub async fn changes(call: &Call, id: &str) -> Result<Response> {
    let changes = call.app.engine.changes(id).await?;
    let list: Vec<models::FilesystemChange> = changes.into_iter().map(convert::image::change).collect();
    // Docker answers null for no changes.
    if list.is_empty() { Ok(body::ok(&serde_json::Value::Null)) } else { Ok(body::ok(&list)) }
}

/// `GET /containers/{id}/export`.
pub fn export(call: &Call, id: &str) -> Result<Response> {
    let container = call.app.engine.find(id)?;
    let (sender, response) = body::stream("application/octet-stream");
    let (app, failure) = (Arc::clone(&call.app), sender.clone());
    tokio::spawn(async move {
        match app.engine.export(container.id.as_str(), BodyWriter::new(sender)).await {
            Ok(()) => app.engine.emit(&container, "export"),
            // An aborted body is the only way to tell a client that has its 200 already.
            Err(error) => drop(failure.send(Err(std::io::Error::other(naru_engine::chain(&error)))).await),
        }
    });
    Ok(response)
}

/// `DELETE /containers/{id}`.
pub async fn remove(call: &Call, id: &str) -> Result<Response> {
    if call.query.boolean("link") {
        call.app.engine.unlink(id).await?;
        return Ok(no_content());
    }
    let container = call.app.engine.find(id)?;
    container.remove(call.query.boolean("force"), call.query.boolean("v")).await?;
    Ok(no_content())
}

/// `POST /containers/prune`.
pub async fn prune(call: &Call) -> Result<Response> {
    let filters = Filters::parse(call.query.get("filters").unwrap_or_default())?;
    filters.validate(&["label", "label!", "until"])?;
    let guard = call.app.pruning.others.try_lock();
    let Ok(_guard) = guard else {
        return Err(ApiError::new(ErrorKind::Conflict, "a prune operation is already running"));
    };
    let until = convert::time::until_filter(&filters)?;
    let (mut deleted, mut space) = (Vec::new(), 0);
    for view in call.app.engine.containers() {
        let stopped = matches!(view.state.phase, Phase::Created | Phase::Exited(_));
        let old = until.is_none_or(|until| view.created < until);
        if !stopped || !old || !convert::labels_match(&filters, &view.spec.labels) {
            continue;
        }
        let id = view.id.clone();
        let size = call.app.engine.with_store(move |store| store.sizes(&id)).await.map_or(0, |sizes| sizes.rw);
        let Ok(container) = call.app.engine.find(view.id.as_str()) else { continue };
        if container.remove(false, false).await.is_ok() {
            deleted.push(view.id.to_string());
            space += size;
        }
    }
    call.app.engine.emit_prune(ObjectKind::Container, space);
    Ok(body::ok(&models::ContainersPruneReport {
        containers_deleted: Some(deleted).filter(|list| !list.is_empty()),
        space_reclaimed: space,
    }))
}
