//! Further processes in a container.

use super::body::{self, Response};
use super::error::{ApiError, Result};
use super::{Call, containers, hijack};
use http::StatusCode;
use naru_api::models;
use naru_api::version::ApiVersion;
use naru_engine::exec::{ExecSpec, ExecState};
use std::sync::Arc;

fn size(value: Option<[u32; 2]>) -> Option<(u16, u16)> {
    let [rows, columns] = value?;
    let side = |n: u32| u16::try_from(n).ok().filter(|n| *n > 0);
    Some((side(rows)?, side(columns)?))
}

/// `POST /containers/{id}/exec`.
pub async fn create(call: Call, id: &str) -> Result<Response> {
    let (app, version) = (Arc::clone(&call.app), call.version);
    let (headers, body) = call.into_body();
    let request: models::ExecCreateRequest = body::read_json(&headers, body).await?;
    hijack::parse_keys(&request.detach_keys)?;
    let env = request.env.unwrap_or_default();
    if let Some(bad) = env.iter().find(|entry| entry.starts_with('=') || entry.contains('\0')) {
        return Err(ApiError::invalid(format!("invalid environment variable: {bad}")));
    }
    let spec = ExecSpec {
        args: request.cmd.unwrap_or_default(),
        env,
        user: Some(request.user).filter(|user| !user.is_empty()),
        cwd: Some(request.working_dir).filter(|path| !path.is_empty()),
        tty: request.tty,
        stdin: request.attach_stdin,
        stdout: request.attach_stdout,
        stderr: request.attach_stderr,
        privileged: request.privileged,
        detach_keys: request.detach_keys,
        console_size: if version >= ApiVersion::new(1, 42) { size(request.console_size) } else { None },
    };
    let exec = app.engine.exec_create(id, spec).await?;
    Ok(body::json(StatusCode::CREATED, &models::IdResponse { id: exec.id.clone() }))
}

fn failed(message: &str) -> String {
    format!("OCI runtime exec failed: exec failed: unable to start container process: {message}")
}

/// `POST /exec/{id}/start`.
pub async fn start(call: Call, id: &str) -> Result<Response> {
    let exec = call.app.engine.exec(id)?;
    let Call { app, version, mut request, .. } = call;
    let upgrade = hyper::upgrade::on(&mut request);
    let (parts, body) = request.into_parts();
    let wish: models::ExecStartRequest = body::read_json(&parts.headers, body).await?;
    if wish.detach {
        app.engine.exec_startable(&exec)?;
        app.engine.exec_start(&exec, true).await.map_err(|error| {
            let error = ApiError::from(error);
            ApiError::new(error.kind, failed(&error.message))
        })?;
        return Ok(body::empty(StatusCode::OK));
    }
    let wire = hijack::Wire { upgrade, headers: parts.headers, version };
    app.engine.exec_startable(&exec)?;
    let keys = hijack::parse_keys(&exec.spec.detach_keys)?;
    // Whether a terminal comes framed is for this request to say: its client reads what it asked for here.
    let carriage = hijack::Carriage { tty: exec.spec.tty, raw: wish.tty, keys, stdin: exec.spec.stdin, once: true };
    let console_size = if wish.tty && version >= ApiVersion::new(1, 42) { size(wish.console_size) } else { None };
    let (started, ended, left) = (Arc::clone(&exec), Arc::clone(&exec), Arc::clone(&exec));
    let owner = Arc::clone(&app);
    let opening = async move {
        let stream = app.engine.exec_start(&started, false).await.map_err(|error| failed(&naru_engine::chain(&error)))?;
        if let (true, Some((rows, columns))) = (started.spec.tty, console_size) {
            // Too late for the first size is no failure: the client resizes again.
            app.engine.exec_resize(&started, rows, columns).await.ok();
        }
        stream.ok_or_else(|| failed("it has no streams"))
    };
    // The client asks for the exit code as soon as the stream ends: by then it must be known.
    let known = async move { drop(tokio::time::timeout(std::time::Duration::from_secs(5), ended.wait()).await) };
    Ok(hijack::carry(wire, Box::pin(opening), vec![], carriage, known, move || owner.engine.emit_exec(&left, "exec_detach")))
}

/// `POST /exec/{id}/resize`.
pub async fn resize(call: &Call, id: &str) -> Result<Response> {
    let exec = call.app.engine.exec(id)?;
    let (rows, columns) = containers::terminal_size(call)?;
    call.app.engine.exec_resize(&exec, rows, columns).await?;
    Ok(body::empty(StatusCode::OK))
}

/// `GET /exec/{id}/json`.
pub fn inspect(call: &Call, id: &str) -> Result<Response> {
    let exec = call.app.engine.exec(id)?;
    let (running, exit_code, pid) = match exec.state() {
        ExecState::Created => (false, None, 0),
        ExecState::Running(pid) => (true, None, i64::from(pid)),
        ExecState::Ended(code) => (false, Some(i64::from(code)), 0),
    };
    let spec = &exec.spec;
    Ok(body::ok(&models::ExecInspect {
        id: exec.id.clone(),
        running,
        exit_code,
        process_config: models::ProcessConfig {
            tty: spec.tty,
            entrypoint: spec.args.first().cloned().unwrap_or_default(),
            arguments: spec.args.iter().skip(1).cloned().collect(),
            privileged: Some(spec.privileged),
            user: spec.user.clone().unwrap_or_default(),
        },
        open_stdin: spec.stdin,
        open_stderr: spec.stderr,
        open_stdout: spec.stdout,
        can_remove: matches!(exec.state(), ExecState::Ended(_)),
        container_id: exec.container.to_string(),
        detach_keys: spec.detach_keys.clone(),
        pid,
    }))
}
