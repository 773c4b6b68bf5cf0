//! One container: a handle for everybody, an actor that owns its state.
//!
//! `ps` and `inspect` read the last [`View`] and never wait. Commands go to the actor's queue and are always answered,
//! also when the actor ends: a dropped reply is [`EngineError::Gone`]. The actor carries out the effects that
//! [`State::apply`] asks for; nothing else changes the state.

mod connect;
mod ending;
pub(crate) mod ready;
mod removal;
mod streams;

use crate::Inner;
use crate::error::{EngineError, Result};
use crate::events::ObjectKind;
use crate::health::{self, Health};
use crate::launch::{self, Run};
use crate::monitor;
use crate::network::Entry;
use crate::phase::{Effect, Input, Phase, State};
use crate::spec::{Attachment, ContainerSpec, RestartMode};
use jiff::Timestamp;
use naru_runtime::monitor::Event as MonitorEvent;
use naru_runtime::spawner::AttachStream;
use naru_types::{ContainerId, Name, Signal};
use std::collections::BTreeMap;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

/// How long a killed container may take to vanish before its removal fails.
const KILL_PATIENCE: Duration = Duration::from_secs(30);

/// What is known about a container at one moment.
#[derive(Debug, Clone)]
pub struct View {
    /// Its id.
    pub id: ContainerId,
    /// When it was made.
    pub created: Timestamp,
    /// Its name, without a slash.
    pub name: String,
    /// What was asked for.
    pub spec: Arc<ContainerSpec>,
    /// What it does.
    pub state: State,
    /// Its health, if it has a check.
    pub health: Option<Health>,
    /// The live run, while there is one.
    pub run: Option<Arc<Run>>,
    /// It is deleted; the last view of all.
    pub removed: bool,
}

/// How a container is asked to end.
#[derive(Debug, Clone, Copy, Default)]
pub struct StopOptions {
    /// Instead of the container's own signal.
    pub signal: Option<Signal>,
    /// Seconds until SIGKILL, instead of the container's own; negative waits for ever.
    pub timeout: Option<i64>,
}

/// Which streams a client wants.
#[derive(Debug, Clone, Copy, Default)]
pub struct Streams {
    /// Input.
    pub stdin: bool,
    /// Output.
    pub stdout: bool,
    /// Errors.
    pub stderr: bool,
}

type Reply<T> = oneshot::Sender<Result<T>>;

/// A command to the actor.
pub(crate) enum Command {
    /// Its files are about to be looked at from outside.
    TakeBack(Reply<()>),
    Start(Reply<()>),
    Stop(StopOptions, Reply<()>),
    Restart(StopOptions, Reply<()>),
    Kill(Signal, Reply<()>),
    Pause(Reply<()>),
    Unpause(Reply<()>),
    Connect(Arc<Entry>, Box<Attachment>, Reply<()>),
    Disconnect {
        network: Arc<Entry>,
        force: bool,
        reply: Reply<()>,
    },
    Unlink(String, Reply<()>),
    Rename(Name, Reply<()>),
    Update(Box<dyn FnOnce(&mut ContainerSpec) + Send>, Reply<()>),
    Remove {
        force: bool,
        volumes: bool,
        reply: Reply<()>,
    },
    Attach {
        name: String,
        streams: Streams,
        reply: Reply<StdUnixStream>,
    },
    Resize {
        rows: u16,
        columns: u16,
        reply: Reply<()>,
    },
    Health(health::Outcome),
    /// The daemon starts: bring it up if its policy says so.
    StartWithDaemon,
}

/// The handle of a container.
#[derive(Debug)]
pub struct Container {
    /// Its id.
    pub id: ContainerId,
    commands: mpsc::UnboundedSender<Command>,
    view: watch::Receiver<Arc<View>>,
}

impl Container {
    /// The present view.
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.borrow())
    }

    /// Views to come.
    pub fn watch(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let gone = || EngineError::NoSuchContainer(self.id.to_string());
        self.commands.send(command(reply)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Takes back what was made ready: two mounts of its files at a time would not see what the other one changes.
    pub(crate) async fn take_back(&self) -> Result<()> {
        self.ask(Command::TakeBack).await
    }

    /// Starts it.
    pub async fn start(&self) -> Result<()> {
        self.ask(Command::Start).await
    }

    /// Stops it and waits for its end.
    pub async fn stop(&self, options: StopOptions) -> Result<()> {
        self.ask(|reply| Command::Stop(options, reply)).await
    }

    /// Stops it if it runs, then starts it.
    pub async fn restart(&self, options: StopOptions) -> Result<()> {
        self.ask(|reply| Command::Restart(options, reply)).await
    }

    /// Sends a signal; waits for the end when it is SIGKILL.
    pub async fn kill(&self, signal: Signal) -> Result<()> {
        self.ask(|reply| Command::Kill(signal, reply)).await
    }

    /// Freezes it.
    pub async fn pause(&self) -> Result<()> {
        self.ask(Command::Pause).await
    }

    /// Thaws it.
    pub async fn unpause(&self) -> Result<()> {
        self.ask(Command::Unpause).await
    }

    /// Deletes it.
    pub async fn remove(&self, force: bool, volumes: bool) -> Result<()> {
        self.ask(|reply| Command::Remove { force, volumes, reply }).await
    }

    pub(crate) async fn connect(&self, network: Arc<Entry>, attachment: Attachment) -> Result<()> {
        self.ask(|reply| Command::Connect(network, Box::new(attachment), reply)).await
    }

    pub(crate) async fn disconnect(&self, network: Arc<Entry>, force: bool) -> Result<()> {
        self.ask(|reply| Command::Disconnect { network, force, reply }).await
    }

    pub(crate) async fn unlink(&self, alias: &str) -> Result<()> {
        let alias = alias.to_owned();
        self.ask(|reply| Command::Unlink(alias, reply)).await
    }

    pub(crate) async fn rename(&self, name: Name) -> Result<()> {
        self.ask(|reply| Command::Rename(name, reply)).await
    }

    pub(crate) async fn update(&self, change: Box<dyn FnOnce(&mut ContainerSpec) + Send>) -> Result<()> {
        self.ask(|reply| Command::Update(change, reply)).await
    }

    /// A stream to its standard streams; before its start the stream waits for it. Frames as Docker's without a tty.
    pub async fn attach(&self, name: &str, streams: Streams) -> Result<StdUnixStream> {
        let name = name.to_owned();
        self.ask(|reply| Command::Attach { name, streams, reply }).await
    }

    /// Sets the size of its terminal.
    pub async fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        self.ask(|reply| Command::Resize { rows, columns, reply }).await
    }

    pub(crate) fn health_result(&self, outcome: health::Outcome) {
        // A container that is gone needs no health.
        self.commands.send(Command::Health(outcome)).ok();
    }

    pub(crate) fn start_with_daemon(&self) {
        self.commands.send(Command::StartWithDaemon).ok();
    }

    /// Waits until it is deleted or `done` holds.
    pub async fn wait_until(&self, done: impl Fn(&View) -> bool) -> Arc<View> {
        let mut view = self.watch();
        // An error means that the actor ended; its last view is the answer then.
        let found = view.wait_for(|view| view.removed || done(view)).await.map(|found| Arc::clone(&found));
        found.unwrap_or_else(|_| self.view())
    }
}

/// What a new actor begins with.
pub(crate) struct Birth {
    pub view: View,
    /// A live run to take up: the connection to its monitor.
    pub watch: Option<UnixStream>,
    /// Its start is expected in a moment.
    pub to_start: bool,
}

/// Starts the actor of a container and returns its handle.
pub(crate) fn spawn(engine: Arc<Inner>, birth: Birth) -> Arc<Container> {
    let (commands, queue) = mpsc::unbounded_channel();
    let id = birth.view.id.clone();
    let running = birth.view.state.is_running();
    let (publisher, view) = watch::channel(Arc::new(birth.view.clone()));
    let container = Arc::new(Container { id, commands, view });
    let mut actor = Actor {
        directory: engine.run_directory(&container.id),
        engine,
        container: Arc::downgrade(&container),
        view: birth.view,
        publisher,
        watch: birth.watch.map(monitor::subscribe),
        leaving: None,
        waiting_attach: Vec::new(),
        ready: None,
        stop_waiters: Vec::new(),
        stopping: false,
        kill_at: None,
        restart_at: None,
        health_task: None,
    };
    if running {
        actor.begin_health();
    }
    tokio::spawn(async move {
        // Not before whoever makes it has been answered: a task of a worker that is busy with the answer comes after it.
        if birth.to_start {
            actor.make_ready();
        }
        actor.run(queue).await;
    });
    container
}

struct Actor {
    engine: Arc<Inner>,
    container: std::sync::Weak<Container>,
    directory: PathBuf,
    view: View,
    publisher: watch::Sender<Arc<View>>,
    /// Events of the monitor of the live run; closed when the monitor is gone.
    watch: Option<mpsc::UnboundedReceiver<MonitorEvent>>,
    /// Of a run that has ended, until its monitor has put everything away.
    leaving: Option<mpsc::UnboundedReceiver<MonitorEvent>>,
    /// Clients that attached before the start.
    waiting_attach: Vec<AttachStream>,
    /// A start that is prepared and not yet asked for.
    ready: Option<ready::Ready>,
    stop_waiters: Vec<Reply<()>>,
    /// The live run was asked to stop, not killed: its end is also a `stop` event.
    stopping: bool,
    kill_at: Option<Instant>,
    restart_at: Option<Instant>,
    health_task: Option<tokio::task::JoinHandle<()>>,
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

async fn next_event(watch: &mut Option<mpsc::UnboundedReceiver<MonitorEvent>>) -> Option<MonitorEvent> {
    match watch {
        Some(events) => events.recv().await,
        None => std::future::pending().await,
    }
}

impl Actor {
    async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Command>) {
        while !self.view.removed {
            tokio::select! {
                biased;
                event = next_event(&mut self.watch) => match event {
                    Some(event) => self.on_event(event).await,
                    None => self.on_monitor_lost().await,
                },
                () = until(self.kill_at) => {
                    self.kill_at = None;
                    if let Err(error) = self.kill_now().await {
                        tracing::warn!(container = %self.view.id.short(), error = crate::chain(&error), "cannot kill after the stop timeout");
                    }
                }
                () = until(self.restart_at) => {
                    self.restart_at = None;
                    if let Err(error) = self.apply(Input::RestartDue).await {
                        tracing::warn!(container = %self.view.id.short(), error = crate::chain(&error), "cannot restart");
                    }
                }
                () = until(self.ready.as_ref().map(|ready| ready.until)) => self.take_back().await,
                command = queue.recv() => match command {
                    Some(command) => self.on_command(command).await,
                    None => return,
                },
            }
        }
        // Commands that came too late are answered by dropping their replies.
    }

    fn publish_view(&self) {
        self.publisher.send_replace(Arc::new(self.view.clone()));
    }

    fn save_state(&self) {
        self.write_state(false);
    }

    fn write_state(&self, lazy: bool) {
        let state = serde_json::to_string(&self.view.state).expect("states are plain data");
        let run = self.view.run.as_ref().map(|run| serde_json::to_string(&**run).expect("runs are plain data"));
        self.engine.db.put_state(self.view.id.as_str(), state, run, lazy);
    }

    fn emit(&self, action: impl Into<String>, extra: &[(&str, String)]) {
        self.engine.container_event(&self.view, action, extra);
    }

    fn denied(&self, denied: crate::phase::Denied) -> EngineError {
        let View { id, name, .. } = &self.view;
        let text = match denied.reason {
            reason if reason.starts_with("container is") => format!("cannot remove container \"{name}\": {reason}"),
            reason if reason.starts_with("cannot") => reason.to_owned(),
            reason if reason.starts_with("removal") => format!("removal of container {name} is already in progress"),
            reason @ "is not running" => format!("container {id} {reason}"),
            reason => format!("Container {id} {reason}"),
        };
        EngineError::Denied { text, kind: denied.kind }
    }

    async fn on_command(&mut self, command: Command) {
        if ready::concerns(&command) {
            self.take_back().await;
        }
        // A reply whose asker has gone is dropped silently: `ok()` on sends below.
        match command {
            Command::TakeBack(reply) => {
                reply.send(Ok(())).ok();
            }
            Command::Start(reply) => {
                let result = self.apply(Input::Start).await;
                reply.send(result).ok();
            }
            Command::StartWithDaemon => {
                if let Err(error) = self.start_with_daemon().await {
                    tracing::warn!(container = %self.view.id.short(), error = crate::chain(&error), "cannot bring up the container");
                }
            }
            Command::Stop(options, reply) => self.on_stop(options, reply).await,
            Command::Restart(options, reply) => {
                let result = self.restart(options).await;
                reply.send(result).ok();
            }
            Command::Kill(signal, reply) => self.on_kill(signal, reply).await,
            Command::Pause(reply) => {
                let result = self.apply(Input::Pause).await;
                reply.send(result.inspect(|()| self.emit("pause", &[]))).ok();
            }
            Command::Unpause(reply) => {
                let result = self.apply(Input::Unpause).await;
                reply.send(result.inspect(|()| self.emit("unpause", &[]))).ok();
            }
            Command::Connect(network, attachment, reply) => {
                let result = self.connect(&network, *attachment).await;
                reply.send(result).ok();
            }
            Command::Disconnect { network, force, reply } => {
                let result = self.disconnect(&network, force).await;
                reply.send(result).ok();
            }
            Command::Unlink(alias, reply) => {
                let result = self.unlink(&alias).await;
                reply.send(result).ok();
            }
            Command::Rename(name, reply) => {
                let result = self.rename(name).await;
                reply.send(result).ok();
            }
            Command::Update(change, reply) => {
                let result = self.update(change).await;
                reply.send(result).ok();
            }
            Command::Remove { force, volumes, reply } => {
                let result = self.remove(force, volumes).await;
                reply.send(result).ok();
            }
            Command::Attach { name, streams, reply } => {
                let result = self.attach(&name, streams).await;
                let waits = result.is_ok() && !self.waiting_attach.is_empty();
                reply.send(result).ok();
                if waits {
                    // The answer first.
                    tokio::task::yield_now().await;
                    self.make_ready();
                }
            }
            Command::Resize { rows, columns, reply } => {
                let result = self.resize(rows, columns).await;
                reply.send(result).ok();
            }
            Command::Health(outcome) => self.on_health(outcome),
        }
    }

    /// Makes the transition and carries out its effects.
    async fn apply(&mut self, input: Input) -> Result<()> {
        let policy = self.view.spec.restart;
        let started = matches!(input, Input::Started { .. });
        let (state, effects) = self.view.state.apply(input, &policy, self.view.spec.auto_remove).map_err(|denied| self.denied(denied))?;
        let before = std::mem::replace(&mut self.view.state, state);
        for effect in effects {
            match effect {
                Effect::Launch => {
                    // The phase stays what it was until the process runs; a failure is an input of its own.
                    return Box::pin(self.launch()).await;
                }
                Effect::Release => self.release().await,
                Effect::ScheduleRestart(delay) => self.restart_at = Some(Instant::now() + delay),
                Effect::CancelRestart => self.restart_at = None,
                Effect::Freeze | Effect::Thaw => {
                    if let Err(error) = self.freeze(effect == Effect::Freeze).await {
                        self.view.state = before;
                        return Err(error);
                    }
                }
                Effect::KillAll => self.kill_all(before.is_paused()).await?,
                Effect::Delete => {
                    self.delete(self.view.spec.auto_remove).await?;
                }
            }
        }
        if !self.view.removed {
            self.write_state(started);
            self.publish_view();
        }
        Ok(())
    }

    /// Waits until the former run's monitor has gone: it removes cgroup and socket of the same names.
    async fn await_leaving(&mut self) {
        let Some(mut events) = self.leaving.take() else { return };
        let gone = async { while events.recv().await.is_some() {} };
        if tokio::time::timeout(KILL_PATIENCE, gone).await.is_err() {
            tracing::warn!(container = %self.view.id.short(), "the monitor of the former run does not end");
        }
    }

    async fn launch(&mut self) -> Result<()> {
        self.await_leaving().await;
        let attach = std::mem::take(&mut self.waiting_attach);
        let prepared = self.prepared().await;
        let outcome = launch::launch(&self.engine, &self.view, prepared, attach).await;
        match outcome {
            Ok(launched) => {
                self.watch = Some(monitor::subscribe(launched.watch));
                self.view.run = Some(Arc::new(launched.run));
                self.view.health = self.view.spec.health.as_ref().map(|_| Health::starting());
                Box::pin(self.apply(Input::Started { pid: launched.pid, at: launched.at })).await?;
                self.volume_events("mount");
                self.network_events("connect");
                self.emit("start", &[]);
                self.begin_health();
                Ok(())
            }
            Err(error) => {
                let code = match &error {
                    EngineError::StartFailed { exit_code, .. } => *exit_code,
                    _ => 128,
                };
                let text = crate::chain(&error);
                self.emit("die", &[("exitCode", code.to_string())]);
                Box::pin(self.apply(Input::StartFailed { code, error: text, at: Timestamp::now() })).await?;
                Err(error)
            }
        }
    }

    async fn on_event(&mut self, event: MonitorEvent) {
        match event {
            MonitorEvent::Exited(record) => {
                let at = record.finished_at.parse().unwrap_or_else(|_| Timestamp::now());
                self.on_end(record.code, record.oom_killed, at).await;
            }
            MonitorEvent::ExecExited { id, code } => {
                self.engine.execs.exited(&id, code);
                self.emit("exec_die", &[("execID", id), ("exitCode", code.to_string())]);
            }
            MonitorEvent::OomKill => self.emit("oom", &[]),
            MonitorEvent::Started { .. } | MonitorEvent::StartFailed { .. } => {}
        }
    }

    async fn release(&mut self) {
        self.network_events("disconnect");
        if let Some(run) = self.view.run.take() {
            launch::release(&self.engine, &self.view.id, &run).await;
            self.volume_events("unmount");
        }
    }

    async fn freeze(&self, freeze: bool) -> Result<()> {
        launch::freeze(&self.view, freeze).await.map_err(|error| if self.ended_under(&error) { self.not_running() } else { error })
    }

    async fn start_with_daemon(&mut self) -> Result<()> {
        if self.view.state.is_running() || !self.view.state.starts_with_daemon(&self.view.spec.restart) {
            return Ok(());
        }
        if self.view.spec.restart.mode == RestartMode::OnFailure {
            return self.apply(Input::RestartDue).await;
        }
        self.apply(Input::Start).await
    }

    async fn rename(&mut self, name: Name) -> Result<()> {
        let old = self.view.name.clone();
        if name.as_str() == old {
            return Err(EngineError::invalid("Renaming a container with the same name as its current name"));
        }
        let taken = |error: EngineError| EngineError::conflict(format!("Error when allocating new name: {error}"));
        self.engine.reserve_name(name.as_str(), &self.view.id).map_err(taken)?;
        let mut spec = (*self.view.spec).clone();
        spec.name = Some(name.clone());
        let json = serde_json::to_string(&spec).expect("specifications are plain data");
        if let Err(error) = self.engine.db.put_spec(self.view.id.as_str(), json).await {
            self.engine.free_name(name.as_str());
            return Err(error);
        }
        self.engine.free_name(&old);
        self.view.spec = Arc::new(spec);
        self.view.name = name.as_str().to_owned();
        if let Some(run) = &self.view.run {
            let mut run = (**run).clone();
            self.engine.networks.rename(&mut run.place, name.as_str());
            self.view.run = Some(Arc::new(run));
            self.save_state();
        }
        self.publish_view();
        self.emit("rename", &[("oldName", format!("/{old}"))]);
        Ok(())
    }

    async fn update(&mut self, change: Box<dyn FnOnce(&mut ContainerSpec) + Send>) -> Result<()> {
        let mut spec = (*self.view.spec).clone();
        change(&mut spec);
        if self.view.state.is_running() {
            match launch::update(&self.view, &spec).await {
                // Its cgroup is gone: the next start has the limits.
                Err(error) if self.ended_under(&error) => {}
                other => other?,
            }
        }
        let json = serde_json::to_string(&spec).expect("specifications are plain data");
        self.engine.db.put_spec(self.view.id.as_str(), json).await?;
        self.view.spec = Arc::new(spec);
        self.publish_view();
        self.emit("update", &[]);
        Ok(())
    }

    fn begin_health(&mut self) {
        if let (Some(check), Some(container)) = (self.view.spec.health.clone(), self.container.upgrade()) {
            let started = match self.view.state.phase {
                Phase::Running { started_at, .. } => started_at,
                _ => Timestamp::now(),
            };
            self.health_task = Some(tokio::spawn(health::watch(Arc::clone(&self.engine), container, check, started)));
        }
    }

    fn on_health(&mut self, outcome: health::Outcome) {
        let (Some(check), Some(health)) = (&self.view.spec.health, &mut self.view.health) else { return };
        let before = health.status;
        health.record(outcome, check);
        let after = health.status;
        self.publish_view();
        if before != after {
            self.emit(format!("health_status: {}", after.as_str()), &[]);
        }
    }
}

/// Attributes of a container's events.
pub(crate) fn event_attributes(view: &View, extra: &[(&str, String)]) -> BTreeMap<String, String> {
    let mut attributes = view.spec.labels.clone();
    attributes.insert("image".into(), view.spec.image_name.clone());
    attributes.insert("name".into(), view.name.clone());
    attributes.extend(extra.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
    attributes
}

/// Publishes an event about a container.
pub(crate) fn publish(engine: &Inner, view: &View, action: String, extra: &[(&str, String)]) {
    engine.events.publish(ObjectKind::Container, action, view.id.as_str(), event_attributes(view, extra));
}
