//! Volumes.

use super::body::{self, Response};
use super::convert::{self, time};
use super::error::{ApiError, Result};
use super::{Call, networks};
use crate::App;
use http::StatusCode;
use naru_api::filters::Filters;
use naru_api::models;
use naru_engine::EngineError;
use naru_engine::events::ObjectKind;
use naru_engine::volumes::Volume;
use std::sync::Arc;

fn wire(app: &App, volume: &Volume) -> models::Volume {
    models::Volume {
        // Docker takes it from a directory, in whole seconds.
        created_at: jiff::Timestamp::from_second(volume.created.as_second()).ok().map(time::rfc3339),
        driver: "local".into(),
        labels: Some(volume.labels.clone()).filter(|labels| !labels.is_empty()),
        mountpoint: app.engine.volumes().mountpoint(&volume.name).to_string_lossy().into_owned(),
        name: volume.name.clone(),
        options: Some(volume.options.clone()).filter(|options| !options.is_empty()),
        scope: "local".into(),
        ..models::Volume::default()
    }
}

/// `GET /volumes`.
pub fn list(call: &Call) -> Result<Response> {
    let filters = Filters::parse(call.query.get("filters").unwrap_or_default())?;
    filters.validate(&["dangling", "driver", "label", "name"])?;
    let dangling = if filters.contains("dangling") { Some(filters.boolean("dangling", false)?) } else { None };
    let takes = |volume: &Volume| {
        let any = |key: &str, holds: &dyn Fn(&str) -> bool| !filters.contains(key) || filters.values(key).any(holds);
        any("name", &|wanted| networks::name_matches(&volume.name, wanted))
            && any("driver", &|wanted| wanted == "local")
            && filters.matches_labels("label", &volume.labels)
            && dangling.is_none_or(|dangling| dangling == call.app.engine.volume_users(&volume.name).is_empty())
    };
    let volumes = call.app.engine.volumes().list().iter().filter(|volume| takes(volume)).map(|volume| wire(&call.app, volume)).collect();
    Ok(body::ok(&models::VolumeListResponse { volumes, warnings: None }))
}

/// `POST /volumes/create`.
pub async fn create(call: Call) -> Result<Response> {
    let app = Arc::clone(&call.app);
    let (headers, body) = call.into_body();
    let request: models::VolumeCreateRequest = body::read_json(&headers, body).await?;
    if !matches!(request.driver.as_str(), "" | "local") {
        return Err(ApiError::new(
            naru_types::ErrorKind::NotFound,
            format!("error looking up volume plugin {}: plugin {:?} not found", request.driver, request.driver),
        ));
    }
    if request.cluster_volume_spec.is_some() {
        return Err(ApiError::unsupported("cluster volumes are not built into this version"));
    }
    let name = Some(request.name.as_str()).filter(|name| !name.is_empty());
    let volume = app.engine.create_volume(name, request.labels.unwrap_or_default(), request.driver_opts.unwrap_or_default()).await?;
    Ok(body::json(StatusCode::CREATED, &wire(&app, &volume)))
}

/// `GET /volumes/{name}`.
pub fn inspect(call: &Call, name: &str) -> Result<Response> {
    Ok(body::ok(&wire(&call.app, &*call.app.engine.volumes().find(name)?)))
}

/// `DELETE /volumes/{name}`.
pub async fn remove(call: &Call, name: &str) -> Result<Response> {
    match call.app.engine.remove_volume(name).await {
        Err(EngineError::NoSuchVolume(_)) if call.query.boolean("force") => {}
        other => other?,
    }
    Ok(body::empty(StatusCode::NO_CONTENT))
}

/// `POST /volumes/prune`: anonymous volumes nobody uses; all of them with `all`.
pub async fn prune(call: &Call) -> Result<Response> {
    let filters = Filters::parse(call.query.get("filters").unwrap_or_default())?;
    filters.validate(&["all", "label", "label!"])?;
    let all = filters.boolean("all", false)?;
    let Ok(_guard) = call.app.pruning.volumes.try_lock() else {
        return Err(ApiError::new(naru_types::ErrorKind::Conflict, "a prune operation is already running"));
    };
    let (mut deleted, mut space) = (Vec::new(), 0);
    for volume in call.app.engine.volumes().list() {
        if !(all || volume.anonymous)
            || !convert::labels_match(&filters, &volume.labels)
            || !call.app.engine.volume_users(&volume.name).is_empty()
        {
            continue;
        }
        let path = call.app.engine.volumes().mountpoint(&volume.name);
        let size = tokio::task::spawn_blocking(move || naru_store::blocks_below(&path)).await.map_or(0, |size| size.unwrap_or(0));
        if call.app.engine.remove_volume(&volume.name).await.is_ok() {
            deleted.push(volume.name.clone());
            space += size;
        }
    }
    call.app.engine.emit_prune(ObjectKind::Volume, space);
    Ok(body::ok(&models::VolumesPruneReport { volumes_deleted: Some(deleted), space_reclaimed: space }))
}

/// All volumes with their use, for `system df`.
pub fn usage(app: &App) -> Vec<models::Volume> {
    let one = |volume: &Arc<Volume>| {
        let size = naru_store::blocks_below(&app.engine.volumes().mountpoint(&volume.name));
        let users = app.engine.volume_users(&volume.name).len();
        models::Volume {
            usage_data: Some(models::VolumeUsage {
                ref_count: i64::try_from(users).unwrap_or(i64::MAX),
                // -1: not known, as when the mount does not answer.
                size: size.ok().and_then(|size| i64::try_from(size).ok()).unwrap_or(-1),
            }),
            ..wire(app, volume)
        }
    };
    app.engine.volumes().list().iter().map(one).collect()
}
