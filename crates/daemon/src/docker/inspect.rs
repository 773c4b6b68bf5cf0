//! `GET /containers/{id}/json`: a view of phase and specification.

use super::body::{self, Response};
use super::convert::create::Front;
use super::convert::{self, time};
use super::error::Result;
use super::{Call, networks};
use crate::App;
use naru_api::models;
use naru_engine::container::View;
use naru_engine::phase::Phase;
use naru_engine::spec::{LogSpec, MountSource};

/// `GET /containers/{id}/json`.
pub async fn container(call: &Call, id: &str) -> Result<Response> {
    let view = call.app.engine.find(id)?.view();
    let mut answer = inspect(&call.app, &view);
    if call.query.boolean("size") {
        let id = view.id.clone();
        let sizes = call.app.engine.with_store(move |store| store.sizes(&id)).await?;
        answer.size_rw = i64::try_from(sizes.rw).ok();
        answer.size_root_fs = i64::try_from(sizes.root_fs).ok();
    }
    Ok(body::ok(&answer))
}

fn inspect(app: &App, view: &View) -> models::ContainerInspect {
    let spec = &view.spec;
    let Front { mut config, mut host } = serde_json::from_value(spec.front.clone()).unwrap_or_default();
    config.volumes = config.volumes.filter(|volumes| !volumes.is_empty());
    if config.hostname.is_empty() {
        config.hostname = app.engine.hostname(view);
    }
    if let Some(mac) = spec.network.attachments.first().and_then(|own| own.mac) {
        config.mac_address = networks::mac_text(&mac);
    }
    host.links = links(app, view);
    let run = app.engine.run_directory(&view.id);
    let file = |name: &str| run.join(name).to_string_lossy().into_owned();
    let execs = app.engine.execs_of(&view.id);
    models::ContainerInspect {
        id: view.id.to_string(),
        created: time::rfc3339(view.created),
        path: spec.process.args.first().cloned().unwrap_or_default(),
        args: spec.process.args.iter().skip(1).cloned().collect(),
        state: state(view),
        image: spec.image.as_ref().map(ToString::to_string).unwrap_or_default(),
        resolv_conf_path: file("resolv.conf"),
        hostname_path: file("hostname"),
        hosts_path: file("hosts"),
        log_path: match spec.log {
            LogSpec::None => String::new(),
            LogSpec::JsonFile { .. } => app.engine.log_path(&view.id).to_string_lossy().into_owned(),
        },
        name: format!("/{}", view.name),
        restart_count: i64::from(view.state.restart_count),
        driver: app.engine.store().driver().name().to_owned(),
        platform: "linux".into(),
        process_label: spec.security.process_label.clone(),
        mount_label: spec.security.mount_label.clone(),
        app_armor_profile: spec.security.apparmor_profile().to_owned(),
        exec_ids: Some(execs).filter(|list| !list.is_empty()),
        host_config: host,
        graph_driver: graph_driver(app, view),
        mounts: mounts(app, view),
        config,
        network_settings: networks::settings(app, view),
        ..models::ContainerInspect::default()
    }
}

/// Where the container's files lie. Its root is mounted nowhere on the host: the merged view is that of its process.
fn graph_driver(app: &App, view: &View) -> models::GraphDriver {
    let store = app.engine.store();
    // One that is being removed has none any more.
    let directories = store.container_directories(&view.id).ok().flatten();
    let mut driver = convert::image::graph_driver(store.driver(), directories);
    if let (Some(data), Some(pid)) = (&mut driver.data, view.state.pid()) {
        data.insert("MergedDir".into(), format!("/proc/{pid}/root"));
    }
    driver
}

/// The links of the default bridge, as `/container:/own/alias`; elsewhere they are the endpoint's.
fn links(app: &App, view: &View) -> Option<Vec<String>> {
    let one = |link: &String| {
        let (container, alias) = naru_engine::split_link(link);
        let name = app.engine.find(container).map_or_else(|_| container.to_owned(), |found| found.view().name.clone());
        format!("/{name}:/{}/{alias}", view.name)
    };
    Some(view.spec.network.links.iter().map(one).collect::<Vec<_>>()).filter(|links| !links.is_empty())
}

/// What the container is doing.
fn state(view: &View) -> models::ContainerState {
    let state = &view.state;
    let exit = match &state.phase {
        Phase::Exited(exit) | Phase::Restarting(exit) => Some(exit),
        // Why it did not start.
        Phase::Created => state.last_exit.as_ref(),
        _ => None,
    };
    let last = exit.or(state.last_exit.as_ref()).filter(|_| state.phase != Phase::Created);
    let or_never = |at: Option<jiff::Timestamp>| at.map_or_else(|| time::NEVER.to_owned(), time::rfc3339);
    let started = match state.phase {
        Phase::Running { started_at, .. } => Some(started_at),
        _ => last.and_then(|exit| exit.started_at),
    };
    models::ContainerState {
        status: state.status().to_owned(),
        // Docker calls a paused or restarting container running too.
        running: state.is_running() || matches!(state.phase, Phase::Restarting(_)),
        paused: state.is_paused(),
        restarting: matches!(state.phase, Phase::Restarting(_)),
        oom_killed: exit.is_some_and(|exit| exit.oom_killed),
        dead: false,
        pid: i64::from(state.pid().unwrap_or(0)),
        exit_code: exit.map_or(0, |exit| i64::from(exit.code)),
        error: exit.map(|exit| exit.error.clone()).unwrap_or_default(),
        started_at: or_never(started),
        finished_at: or_never(last.map(|exit| exit.finished_at)),
        health: view.health.as_ref().map(|health| models::Health {
            status: health.status.as_str().to_owned(),
            failing_streak: i64::from(health.failing_streak),
            log: health
                .log
                .iter()
                .map(|check| models::HealthcheckResult {
                    start: time::rfc3339(check.start),
                    end: time::rfc3339(check.end),
                    exit_code: i64::from(check.exit_code),
                    output: check.output.clone(),
                })
                .collect(),
        }),
    }
}

/// Targets and options of `-v source:target[:options]`.
fn binds(host: &models::HostConfig) -> impl Iterator<Item = (String, &str)> {
    host.binds.iter().flatten().filter_map(|bind| {
        let mut parts = bind.split(':').skip(1);
        Some((clean(parts.next()?), parts.next().unwrap_or_default()))
    })
}

/// The options as they were given.
fn mode_of_bind(host: &models::HostConfig, target: &str) -> Option<String> {
    binds(host).find(|(known, _)| known == target).map(|(_, options)| options.to_owned())
}

fn clean(target: &str) -> String {
    super::convert::mounts::clean_target(target).unwrap_or_default()
}

/// The mounts as they are made.
pub fn mounts(app: &App, view: &View) -> Vec<models::MountPoint> {
    let front: Front = serde_json::from_value(view.spec.front.clone()).unwrap_or_default();
    let by_mount = |target: &str| front.host.mounts.iter().flatten().any(|mount| clean(&mount.target) == target);
    let one = |mount: &naru_engine::spec::MountSpec| {
        let base = models::MountPoint { destination: mount.target.clone(), rw: !mount.read_only, ..models::MountPoint::default() };
        match &mount.source {
            MountSource::Bind { path, propagation, .. } => models::MountPoint {
                r#type: "bind".into(),
                source: path.to_string_lossy().into_owned(),
                mode: mode_of_bind(&front.host, &mount.target).unwrap_or_default(),
                propagation: if propagation.is_empty() { "rprivate".into() } else { propagation.clone() },
                ..base
            },
            MountSource::Volume { name, .. } => models::MountPoint {
                r#type: "volume".into(),
                name: name.clone(),
                source: app.engine.volumes().mountpoint(name).to_string_lossy().into_owned(),
                driver: "local".into(),
                // Volumes of images, of other containers and without a name have none.
                mode: mode_of_bind(&front.host, &mount.target).filter(|mode| !mode.is_empty()).unwrap_or_else(|| {
                    let asked = binds(&front.host).any(|(target, _)| target == mount.target) || by_mount(&mount.target);
                    if asked { "z".to_owned() } else { String::new() }
                }),
                ..base
            },
            MountSource::Tmpfs { .. } => models::MountPoint { r#type: "tmpfs".into(), ..base },
        }
    };
    // Docker shows a tmpfs of `--mount` here, one of `--tmpfs` in HostConfig only.
    let by_flag = |target: &str| view.spec.front.pointer("/host/Tmpfs").is_some_and(|tmpfs| tmpfs.get(target).is_some());
    let shown = |mount: &&naru_engine::spec::MountSpec| !(matches!(mount.source, MountSource::Tmpfs { .. }) && by_flag(&mount.target));
    view.spec.mounts.iter().filter(shown).map(one).collect()
}
