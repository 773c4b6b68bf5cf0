//! Further processes in a running container (`docker exec`, health checks).

use crate::Inner;
use crate::container::{Container, View};
use crate::error::{EngineError, Result};
use crate::monitor;
use crate::oci;
use crate::phase::Phase;
use naru_runtime::monitor::{ExecRequest, Request, Response};
use naru_runtime::spec::{ConsoleSize, Process};
use naru_runtime::user::ResolvedUser;
use naru_types::{ContainerId, Signal};
use rustix::io::Errno;
use std::collections::{BTreeMap, HashMap};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// Ended execs remembered per container, so that `inspect` after the end finds the code.
const ENDED_KEPT: usize = 64;

/// How long a resize waits for the process to be there, as Docker does.
const START_PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// What to run.
#[derive(Debug, Clone, Default)]
pub struct ExecSpec {
    /// Program and arguments; not empty.
    pub args: Vec<String>,
    /// Added to the container's environment.
    pub env: Vec<String>,
    /// `user[:group]`; the container's when absent.
    pub user: Option<String>,
    /// Working directory; the container's when absent.
    pub cwd: Option<String>,
    /// Gets a terminal.
    pub tty: bool,
    /// The client writes to its input.
    pub stdin: bool,
    /// The client reads its output.
    pub stdout: bool,
    /// The client reads its errors.
    pub stderr: bool,
    /// All capabilities.
    pub privileged: bool,
    /// Keys that detach the client, as given.
    pub detach_keys: String,
    /// Rows and columns of the terminal.
    pub console_size: Option<(u16, u16)>,
}

/// What an exec is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecState {
    /// Made, not started.
    Created,
    /// Running as this pid of the daemon's namespace.
    Running(i32),
    /// Ended with a code.
    Ended(i32),
}

/// An exec.
#[derive(Debug)]
pub struct Exec {
    /// 64 hex digits.
    pub id: String,
    /// In which container.
    pub container: ContainerId,
    /// What it runs.
    pub spec: ExecSpec,
    state: watch::Sender<ExecState>,
}

impl Exec {
    /// What it is doing.
    pub fn state(&self) -> ExecState {
        *self.state.borrow()
    }

    /// Waits for its end.
    pub async fn wait(&self) -> i32 {
        let mut state = self.state.subscribe();
        loop {
            if let ExecState::Ended(code) = *state.borrow_and_update() {
                return code;
            }
            // The sender lives in `self`.
            if state.changed().await.is_err() {
                return -1;
            }
        }
    }
}

/// All execs.
#[derive(Debug, Default)]
pub struct Execs(Mutex<HashMap<String, Arc<Exec>>>);

impl Execs {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Exec>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The exec of that id.
    pub fn find(&self, id: &str) -> Result<Arc<Exec>> {
        self.lock().get(id).cloned().ok_or_else(|| EngineError::NoSuchExec(id.to_owned()))
    }

    /// Ids of a container's execs that have not ended.
    pub fn of(&self, container: &ContainerId) -> Vec<String> {
        let live = |exec: &&Arc<Exec>| exec.container == *container && !matches!(exec.state(), ExecState::Ended(_));
        self.lock().values().filter(live).map(|exec| exec.id.clone()).collect()
    }

    pub(crate) fn exited(&self, id: &str, code: i32) {
        if let Some(exec) = self.lock().get(id) {
            exec.state.send_replace(ExecState::Ended(code));
        }
    }

    /// With its container every exec ends.
    pub(crate) fn container_ended(&self, container: &ContainerId) {
        for exec in self.lock().values().filter(|exec| exec.container == *container) {
            if matches!(exec.state(), ExecState::Running(_)) {
                exec.state.send_replace(ExecState::Ended(137));
            }
        }
    }

    pub(crate) fn forget(&self, container: &ContainerId) {
        self.lock().retain(|_, exec| exec.container != *container);
    }

    fn insert(&self, exec: Arc<Exec>) {
        let mut execs = self.lock();
        let ended: Vec<String> = execs
            .values()
            .filter(|other| other.container == exec.container && matches!(other.state(), ExecState::Ended(_)))
            .map(|other| other.id.clone())
            .collect();
        if ended.len() >= ENDED_KEPT {
            for id in ended {
                execs.remove(&id);
            }
        }
        execs.insert(exec.id.clone(), exec);
    }
}

/// `name` is what the client calls it.
fn require_running(view: &View, name: &str) -> Result<()> {
    if view.state.is_paused() {
        return Err(EngineError::conflict(format!("Container {name} is paused, unpause the container before exec")));
    }
    if matches!(view.state.phase, Phase::Restarting(_)) {
        return Err(EngineError::conflict(format!("Container {name} is restarting, wait until the container is running")));
    }
    if !view.state.is_running() {
        return Err(EngineError::conflict(format!("container {} is not running", view.id)));
    }
    Ok(())
}

/// Makes an exec in a running container.
pub(crate) fn create(engine: &Inner, container: &Container, name: &str, spec: ExecSpec) -> Result<Arc<Exec>> {
    let view = container.view();
    require_running(&view, name)?;
    let id = ContainerId::random().as_str().to_owned();
    let exec = Arc::new(Exec { id, container: container.id.clone(), spec, state: watch::Sender::new(ExecState::Created) });
    engine.execs.insert(Arc::clone(&exec));
    let command = exec.spec.args.join(" ");
    engine.container_event(&view, format!("exec_create: {command}"), &[("execID", exec.id.clone())]);
    Ok(exec)
}

/// The container's view, if the exec can be started in it.
pub(crate) fn startable(engine: &Inner, exec: &Exec) -> Result<Arc<View>> {
    match exec.state() {
        ExecState::Created => {}
        ExecState::Running(_) => return Err(EngineError::conflict(format!("exec command {} is already running", exec.id))),
        ExecState::Ended(_) => return Err(EngineError::conflict(format!("exec command {} has already run", exec.id))),
    }
    let view = engine.find_by_id(&exec.container)?.view();
    require_running(&view, view.id.as_str())?;
    Ok(view)
}

/// Starts an exec. The stream carries its input and output; none when detached.
pub(crate) async fn start(engine: &Arc<Inner>, exec: &Arc<Exec>, detach: bool) -> Result<Option<StdUnixStream>> {
    let view = startable(engine, exec)?;
    // A client that is told of the failure on the stream asks for the code: it must not find none, which it takes for 0.
    let ended = |code| {
        exec.state.send_replace(ExecState::Ended(code));
    };
    let process = process(engine, &view, &exec.spec).await.inspect_err(|_| ended(CANNOT_RUN))?;
    let attached = |wanted: bool| wanted && !detach;
    let request = Request::Exec(Box::new(ExecRequest {
        id: exec.id.clone(),
        process,
        tty: exec.spec.tty,
        stdin: attached(exec.spec.stdin),
        stdout: attached(exec.spec.stdout),
        stderr: attached(exec.spec.stderr),
        privileged: exec.spec.privileged,
        detach,
        console_size: exec.spec.console_size,
    }));
    let answer = monitor::ask(&engine.run_directory(&view.id), &request).await;
    let (response, stream) = answer.inspect_err(|error| ended(exec_failure_code(&error.to_string())))?;
    let Response::ExecStarted { pid } = response else {
        return Err(EngineError::Gone("the container's monitor"));
    };
    // The end may have been reported already, on another connection.
    exec.state.send_if_modified(|state| {
        let created = *state == ExecState::Created;
        if created {
            *state = ExecState::Running(pid);
        }
        created
    });
    let command = exec.spec.args.join(" ");
    engine.container_event(&view, format!("exec_start: {command}"), &[("execID", exec.id.clone())]);
    if detach {
        return Ok(None);
    }
    stream.into_std().map(Some).map_err(EngineError::io("take over", engine.run_directory(&view.id)))
}

/// Docker's exit code for an exec whose program is there, or not looked for.
const CANNOT_RUN: i32 = 126;

/// Docker's exit code for an exec that could not start.
fn exec_failure_code(text: &str) -> i32 {
    if text.contains("permission denied") || text.contains("is a directory") { CANNOT_RUN } else { 127 }
}

fn live_pid(view: &View) -> Result<i32> {
    view.state.pid().ok_or_else(|| EngineError::conflict(format!("container {} is not running", view.id)))
}

/// Who a user is by the files of the container, whose process is `pid`. Blocks.
fn identity(id: &ContainerId, pid: i32, user: &str, groups: &[String]) -> Result<ResolvedUser> {
    let path = format!("/proc/{pid}/root");
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let root = rustix::fs::open(&path, flags, rustix::fs::Mode::empty()).map_err(|errno| match errno {
        // It has ended at this very moment.
        Errno::NOENT | Errno::SRCH => EngineError::conflict(format!("container {id} is not running")),
        errno => EngineError::io("open", &path)(errno.into()),
    })?;
    Ok(naru_runtime::user::resolve(std::os::fd::AsFd::as_fd(&root), user, groups)?)
}

/// Refuses an exec as somebody the container does not know: its client asks for it when it makes it, as it does of Docker.
pub(crate) async fn check_user(container: &Container, name: &str, user: &str) -> Result<()> {
    let view = container.view();
    require_running(&view, name)?;
    let (pid, user) = (live_pid(&view)?, user.to_owned());
    let id = view.id.clone();
    let job = tokio::task::spawn_blocking(move || identity(&id, pid, &user, &[]));
    let found = job.await.map_err(|_| EngineError::Gone("the thread that looked a user up"))?;
    found.map(drop).map_err(|error| match error {
        // The container is there: who is not found in it is no missing object to a client.
        EngineError::Runtime(error) => EngineError::invalid(error.to_string()),
        error => error,
    })
}

/// The process of an exec: the container's own, changed by what the exec asks for.
async fn process(engine: &Inner, view: &View, exec: &ExecSpec) -> Result<Process> {
    // A linked container that is gone has no variables any more.
    let linked: Vec<String> =
        crate::network::linked(engine, &view.spec).filter_map(Result::ok).flat_map(|link| link.environment()).collect();
    let spec = Arc::clone(&view.spec);
    let hostname = crate::launch::hostname(engine, view);
    let exec = exec.clone();
    let (id, pid) = (view.id.clone(), live_pid(view)?);
    // Files of the image are read: not on an async thread.
    let job = move || -> Result<Process> {
        let identity = identity(&id, pid, exec.user.as_deref().unwrap_or(&spec.process.user), &spec.process.groups)?;
        let mut env: BTreeMap<String, String> = BTreeMap::new();
        let mut order = Vec::new();
        for entry in linked.into_iter().chain(oci::base_env(&spec, &hostname, exec.tty)).chain(exec.env.iter().cloned()) {
            let key = entry.split('=').next().unwrap_or_default().to_owned();
            if env.insert(key.clone(), entry).is_none() {
                order.push(key);
            }
        }
        if !env.contains_key("HOME") {
            order.push("HOME".into());
            env.insert("HOME".into(), format!("HOME={}", identity.home));
        }
        let mut process = oci::process(&spec, &identity, exec.privileged || spec.security.privileged);
        process.args = exec.args.clone();
        process.env = order.iter().filter_map(|key| env.get(key).cloned()).collect();
        process.cwd = exec.cwd.clone().filter(|cwd| !cwd.is_empty()).unwrap_or_else(|| spec.process.cwd.clone());
        process.terminal = exec.tty;
        process.console_size = exec.console_size.map(|(height, width)| ConsoleSize { height, width });
        Ok(process)
    };
    tokio::task::spawn_blocking(job).await.map_err(|_| EngineError::Gone("the thread that prepared the exec"))?
}

/// Kills an exec; one that has ended is fine.
pub(crate) async fn kill(engine: &Inner, exec: &Exec) {
    let request = Request::ExecSignal { exec: exec.id.clone(), signal: Signal::KILL.number() };
    if let Err(error) = monitor::ask(&engine.run_directory(&exec.container), &request).await {
        tracing::debug!(exec = %exec.id, %error, "cannot kill an exec");
    }
}

/// Sets the size of an exec's terminal.
pub(crate) async fn resize(engine: &Inner, exec: &Exec, rows: u16, columns: u16) -> Result<()> {
    // A client asks as soon as it has its stream, which may be before the process is there.
    let mut state = exec.state.subscribe();
    drop(tokio::time::timeout(START_PATIENCE, state.wait_for(|state| !matches!(state, ExecState::Created))).await);
    if !matches!(exec.state(), ExecState::Running(_)) {
        return Err(EngineError::invalid(format!("exec process {} is not started or has ended", exec.id)));
    }
    let request = Request::Resize { exec: Some(exec.id.clone()), rows, columns };
    monitor::ask(&engine.run_directory(&exec.container), &request).await.map(drop)
}
