//! The start of a daemon: takes up the containers a former one left, whatever happened to it.
//!
//! For each row of the database: a monitor that answers is adopted; an exit record tells how a run ended meanwhile; with
//! neither the run is over (host reboot, killed monitor). What has no row has no owner and is deleted.

use crate::Inner;
use crate::container::{self, Birth, View};
use crate::db::ContainerRow;
use crate::error::{EngineError, Result};
use crate::health::Health;
use crate::launch::{self, Run};
use crate::monitor;
use crate::network::Place;
use crate::phase::{Input, Phase, State};
use crate::spec::ContainerSpec;
use jiff::Timestamp;
use naru_runtime::monitor::{Request, Response};
use naru_types::ContainerId;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use tokio::net::UnixStream;

/// Exit code of a run whose end nobody saw.
const UNSEEN: i32 = 255;

/// Takes up all containers; those that their policy wants running are started in the background.
pub(crate) async fn recover(engine: &Arc<Inner>, rows: Vec<ContainerRow>) -> Result<()> {
    let mut known = BTreeSet::new();
    let mut wanted = Vec::new();
    let mut jobs = Vec::new();
    for row in rows {
        let Some(view) = read(&row) else { continue };
        known.insert(view.id.as_str().to_owned());
        let owner = Arc::clone(engine);
        jobs.push(tokio::spawn(async move { take_up(&owner, view).await }));
    }
    let mut taken_up = Vec::new();
    for job in jobs {
        taken_up.push(job.await.map_err(|_| EngineError::Gone("the recovery of a container"))?);
    }
    // A link that a killed daemon made and told nobody about must not stand in the way of one that is made now.
    let places: Vec<Arc<Run>> = taken_up.iter().filter_map(|(view, _)| view.run.clone()).collect();
    engine.networks.sweep(places.iter().map(|run| &run.place))?;
    for (mut view, watch) in taken_up {
        if view.state.phase == Phase::Removing || is_forsaken(&view) {
            // A removal was cut short, or comes now: finish it.
            if let Err(error) = launch::delete(engine, &view, view.spec.auto_remove).await {
                tracing::warn!(container = %view.id.short(), error = crate::chain(&error), "cannot remove the container");
            }
            engine.db.delete_container(view.id.as_str()).await?;
            launch::delete_rest(engine, &view.id);
            continue;
        }
        let name = view.name.clone();
        take_up_network(engine, &mut view);
        let container = container::spawn(Arc::clone(engine), Birth { view, watch, to_start: false });
        engine.adopt(Arc::clone(&container), &name);
        wanted.push(container);
    }
    let runs: Vec<Arc<Run>> = engine.views().iter().filter_map(|view| view.run.clone()).collect();
    engine.networks.restore(runs.iter().map(|run| &run.place))?;
    engine.networks.plan_shortcuts();
    let (owner, live) = (Arc::clone(engine), known.clone());
    tokio::task::spawn_blocking(move || sweep(&owner, &live)).await.map_err(|_| EngineError::Gone("the thread that cleans up"))?;
    for container in wanted {
        container.start_with_daemon();
    }
    Ok(())
}

/// Whether a container that goes with its end was made by a client whose start never came: nobody else knows of it (dockerd
/// deletes it as well).
fn is_forsaken(view: &View) -> bool {
    view.spec.auto_remove && view.state.phase == Phase::Created
}

/// Takes up a container's place on its networks; what changed of it is stored.
fn take_up_network(engine: &Inner, view: &mut View) {
    let Some(run) = view.run.clone() else { return };
    match engine.networks.adopt(&engine.spawner, view, &run.place) {
        Ok(place) if place == run.place => {}
        Ok(place) => {
            let run = Run { place, ..(*run).clone() };
            if let Err(error) = run.save(&engine.run_directory(&view.id)) {
                tracing::warn!(container = %view.id.short(), error = crate::chain(&error), "cannot store the container's network");
            }
            let state = serde_json::to_string(&view.state).expect("states are plain data");
            engine.db.put_state(view.id.as_str(), state, Some(serde_json::to_string(&run).expect("runs are plain data")), false);
            view.run = Some(Arc::new(run));
        }
        Err(error) => {
            tracing::warn!(container = %view.id.short(), error = crate::chain(&error), "cannot take up the container's network");
        }
    }
}

fn read(row: &ContainerRow) -> Option<View> {
    let parsed = (|| -> std::result::Result<View, Box<dyn std::error::Error>> {
        let spec: ContainerSpec = serde_json::from_str(&row.spec)?;
        let state: State = serde_json::from_str(&row.state)?;
        let run: Option<Run> = row.run.as_deref().map(serde_json::from_str).transpose()?;
        let id: ContainerId = row.id.parse()?;
        let name = spec.name.as_ref().map_or_else(|| id.short().to_owned(), |name| name.as_str().to_owned());
        let health = spec.health.as_ref().filter(|_| state.is_running()).map(|_| Health::starting());
        let created = Timestamp::from_nanosecond(i128::from(row.created))?;
        Ok(View { id, created, name, spec: Arc::new(spec), state, health, run: run.map(Arc::new), removed: false })
    })();
    parsed
        .inspect_err(|error| {
            tracing::error!(container = row.id, error = error.to_string(), "cannot read the container's record; it is left as it is")
        })
        .ok()
}

/// Finds out what became of a container since the former daemon.
async fn take_up(engine: &Arc<Inner>, mut view: View) -> (View, Option<UnixStream>) {
    let directory = engine.run_directory(&view.id);
    // The state is written after the start, so a daemon that died in between left a monitor and a row that says created.
    if let Some((pid, at, watch)) = find_monitor(&directory).await {
        if view.state.phase == Phase::Removing {
            finish_run(engine, &mut view, &directory).await;
            return (view, None);
        }
        if !view.state.is_running() {
            apply(&mut view, Input::Started { pid, at });
        }
        if view.run.is_none() {
            let unknown = || Run { place: Place::default(), cgroup: default_cgroup(engine, &view), mounts: vec![] };
            view.run = Some(Arc::new(Run::load(&directory).unwrap_or_else(unknown)));
        }
        return (view, Some(watch));
    }
    if view.state.is_running() || view.run.is_some() {
        finish_run(engine, &mut view, &directory).await;
    }
    (view, None)
}

fn default_cgroup(engine: &Inner, view: &View) -> String {
    let parent = view.spec.cgroup_parent.as_deref().unwrap_or(&engine.config.cgroup_parent);
    format!("/{}/{}", parent.trim_matches('/'), view.id)
}

fn apply(view: &mut View, input: Input) {
    match view.state.apply(input, &view.spec.restart, view.spec.auto_remove) {
        Ok((state, _)) => view.state = state,
        Err(denied) => tracing::warn!(container = %view.id.short(), reason = denied.reason, "unexpected state"),
    }
}

/// Ends a run that nobody watches any more.
async fn finish_run(engine: &Arc<Inner>, view: &mut View, directory: &Path) {
    let record = launch::exit_record(directory);
    if record.is_none()
        && let Err(error) = launch::kill_leftovers(view).await
    {
        tracing::debug!(container = %view.id.short(), error = crate::chain(&error), "nothing left to kill");
    }
    let (code, oom_killed, at) = record.unwrap_or((UNSEEN, false, Timestamp::now()));
    apply(view, Input::Ended { code, oom_killed, at });
    if let Some(run) = view.run.take() {
        launch::release(engine, &view.id, &run).await;
    }
    let state = serde_json::to_string(&view.state).expect("states are plain data");
    engine.db.put_state(view.id.as_str(), state, None, false);
}

/// A live monitor: pid, start time and a `Watch` connection.
async fn find_monitor(directory: &Path) -> Option<(i32, Timestamp, UnixStream)> {
    // Watching begins before asking, so that an end in between is seen by one of the two.
    let watch = monitor::open(directory, &Request::Watch).await.ok()?;
    let (response, _) = monitor::ask(directory, &Request::State).await.ok()?;
    let Response::State(state) = response else { return None };
    if state.exit.is_some() {
        // Its record is written; it may go.
        monitor::ask(directory, &Request::Shutdown).await.ok();
        return None;
    }
    Some((state.pid, state.started_at.parse().unwrap_or_else(|_| Timestamp::now()), watch))
}

/// Deletes what belongs to no container: run directories, logs, snapshots, cgroups.
fn sweep(engine: &Inner, known: &BTreeSet<String>) {
    for parent in [engine.config.exec_root.join("containers"), engine.config.data_root.join("logs")] {
        let Ok(entries) = std::fs::read_dir(&parent) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if known.contains(&name) || name.parse::<ContainerId>().is_err() {
                continue;
            }
            // Also of one that runs: the daemon died between the removal of its row and its end.
            launch::remove_cgroup_of_ended(&entry.path());
            if let Err(error) = crate::volumes::remove_tree(&entry.path()) {
                tracing::warn!(error = crate::chain(&error), "cannot delete what no container owns");
            }
        }
    }
    for id in engine.store.snapshots().iter().filter(|id| !known.contains(id.as_str())) {
        if let Err(error) = engine.store.remove_snapshot(id) {
            tracing::warn!(error = crate::chain(&error), "cannot delete a root file system that no container owns");
        }
    }
}
