//! `create`, `start` and `run`.

use super::Context;
use super::arguments::{Arguments, Flag};
use super::relay;
use super::state::{self, Container, START_SOCKET, Status};
use crate::bytes::send_with_fds;
use crate::cgroup::Cgroup;
use crate::child::Stdio;
use crate::error::{Error, Result, StartFailure, errno_of, ignore};
use crate::handshake::{ParentEnd, Word};
use crate::launch::{HookContext, Launched, launch};
use crate::plan::{Gate, Input, Plan};
use crate::spec::{NamespaceKind, Resources, Spec};
use crate::{defaults, hooks, seccomp};
use naru_sys::process::{self, SingleThread};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

const FLAGS: &[Flag] = &[
    Flag::value("bundle", "b"),
    Flag::value("console-socket", ""),
    Flag::value("pidfd-socket", ""),
    Flag::value("pid-file", ""),
    Flag::value("preserve-fds", ""),
    Flag::switch("no-pivot", ""),
    Flag::switch("no-new-keyring", ""),
    Flag::switch("detach", "d"),
    Flag::switch("keep", ""),
    Flag::switch("no-subreaper", ""),
];

/// A container made by `create`: its process waits for `start`.
struct Created {
    directory: PathBuf,
    launched: Launched,
}

pub(super) fn create(context: &Context, args: &[OsString]) -> Result<i32> {
    let arguments = Arguments::parse(args, FLAGS)?;
    let created = make(context, &arguments)?;
    hand_over(&arguments, &created)?;
    Ok(0)
}

/// Gives terminal and pid to whoever asked for them.
fn hand_over(arguments: &Arguments, created: &Created) -> Result<()> {
    if let (Some(terminal), Some(path)) = (&created.launched.terminal, arguments.get("console-socket")) {
        send_terminal(Path::new(path), terminal)?;
    }
    match arguments.get("pid-file") {
        Some(path) => state::write_pid_file(Path::new(path), created.launched.pid),
        None => Ok(()),
    }
}

/// Sends a terminal to an engine's socket, with the name that engines expect.
pub(super) fn send_terminal(path: &Path, terminal: &OwnedFd) -> Result<()> {
    let socket = UnixStream::connect(path).map_err(|error| Error::path("connect to", path)(errno_of(&error)))?;
    send_with_fds(socket.as_fd(), b"/dev/ptmx", &[terminal.as_fd()]).map_err(Error::path("send the terminal to", path))
}

/// Undoes a reservation unless the container is made.
struct Rollback {
    directory: Option<PathBuf>,
    cgroup: Option<Cgroup>,
}

impl Drop for Rollback {
    fn drop(&mut self) {
        if let Some(cgroup) = &self.cgroup {
            ignore(cgroup.kill());
            ignore(cgroup.remove());
        }
        if let Some(directory) = &self.directory {
            drop(std::fs::remove_dir_all(directory));
        }
    }
}

fn make(context: &Context, arguments: &Arguments) -> Result<Created> {
    let threads = SingleThread::claim().map_err(Error::system("check that there is one thread"))?;
    let id = arguments.id()?;
    let bundle = match arguments.get("bundle") {
        Some(path) => std::path::absolute(path),
        None => std::env::current_dir(),
    };
    let bundle = bundle.map_err(Error::io("find the bundle"))?;
    let mut spec = state::read_spec(&bundle.join("config.json"))?;
    let terminal = spec.process.as_ref().is_some_and(|process| process.terminal);
    let directory = Container::reserve(context, &id)?;
    let mut rollback = Rollback { directory: Some(directory.clone()), cgroup: None };
    let cgroup_path =
        spec.linux.as_ref().map(|linux| linux.cgroups_path.clone()).filter(|path| !path.is_empty()).unwrap_or_else(|| format!("/{id}"));
    if cgroup_path.matches(':').count() == 2 && !cgroup_path.starts_with('/') {
        return Err(Error::Unsupported(format!("the cgroup path {cgroup_path:?} is for systemd: use the cgroupfs driver")));
    }
    let cgroup = Cgroup::new(&cgroup_path)?;
    cgroup.create()?;
    rollback.cgroup = Some(cgroup.clone());
    cgroup.apply(&resources(&spec))?;
    let launched =
        start_process(threads, &mut spec, arguments, Place { id: &id, bundle: &bundle, directory: &directory, cgroup: &cgroup, terminal })?;
    (rollback.directory, rollback.cgroup) = (None, None);
    Ok(Created { directory, launched })
}

struct Place<'a> {
    id: &'a str,
    bundle: &'a Path,
    directory: &'a Path,
    cgroup: &'a Cgroup,
    terminal: bool,
}

fn start_process(threads: SingleThread, spec: &mut Spec, arguments: &Arguments, place: Place<'_>) -> Result<Launched> {
    let filter = match spec.linux.as_ref().and_then(|linux| linux.seccomp.as_ref()) {
        Some(filter) => seccomp::compile(filter)?,
        None => seccomp::Program::default(),
    };
    let plan = Plan::new(Input {
        id: place.id,
        spec,
        rootfs: None,
        bundle: place.bundle,
        network_namespace: None,
        cgroup: place.cgroup,
        seccomp: filter,
        terminal: place.terminal,
        init: false,
        new_keyring: !arguments.has("no-new-keyring"),
        preserved_fds: arguments.number("preserve-fds")?.unwrap_or(0),
        gate: Gate::Listener(listen(place.directory)?),
    })?;
    let namespaces = plan.clone_flags
        | plan.joins.iter().fold(0, |flags, (_, flag)| flags | flag)
        | if plan.join_pid.is_some() { NamespaceKind::Pid.flag() } else { 0 }
        | if plan.new_cgroup_namespace { NamespaceKind::Cgroup.flag() } else { 0 };
    let stdio = if place.terminal { None } else { Some(own_streams()?) };
    let bundle = place.bundle.display().to_string();
    let launched = launch(threads, plan, stdio, &HookContext { id: place.id, bundle: &bundle, spec }).map_err(wrapped)?;
    let root = spec.root.as_ref().map(|root| place.bundle.join(&root.path)).unwrap_or_default();
    let stored = state::new(place.id, launched.pid, place.bundle, &root, place.cgroup.path(), namespaces);
    Container::save(place.directory, &stored, spec)?;
    Ok(launched)
}

/// The words engines look for around a failed start.
pub(super) fn wrapped(failure: StartFailure) -> Error {
    Error::Start(StartFailure {
        reason: failure.reason,
        message: format!("unable to start container process: error during container init: {failure}"),
    })
}

/// The specification's limits; the devices every container may use are added as runc does.
fn resources(spec: &Spec) -> Resources {
    let mut resources = spec.linux.as_ref().and_then(|linux| linux.resources.clone()).unwrap_or_default();
    // All rules but the first, which denies everything.
    let everything = resources
        .devices
        .iter()
        .any(|rule| rule.allow && matches!(rule.kind.as_str(), "" | "a") && rule.major.is_none_or(|major| major < 0));
    let extra = defaults::device_rules().into_iter().skip(usize::from(!resources.devices.is_empty()));
    if !everything {
        resources.devices.extend(extra);
    }
    resources
}

pub(super) fn own_streams() -> Result<Stdio> {
    let copy = |fd| rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(Error::system("duplicate a standard stream"));
    Ok(Stdio { stdin: copy(rustix::stdio::stdin())?, stdout: copy(rustix::stdio::stdout())?, stderr: copy(rustix::stdio::stderr())? })
}

/// The address of the start socket, however long the path of the directory is.
fn start_address(directory: &Path) -> Result<(OwnedFd, SocketAddrUnix)> {
    let handle = rustix::fs::open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(Error::path("open", directory))?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{START_SOCKET}", handle.as_raw_fd()))
        .map_err(Error::system("name the start socket"))?;
    Ok((handle, address))
}

fn socket() -> Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).map_err(Error::system("make a socket"))
}

fn listen(directory: &Path) -> Result<OwnedFd> {
    let (_handle, address) = start_address(directory)?;
    let socket = socket()?;
    rustix::net::bind(&socket, &address).map_err(Error::path("bind the start socket in", directory))?;
    rustix::fs::chmod(directory.join(START_SOCKET), Mode::from_raw_mode(0o600))
        .map_err(Error::path("protect the start socket in", directory))?;
    rustix::net::listen(&socket, 1).map_err(Error::path("listen in", directory))?;
    Ok(socket)
}

pub(super) fn start(context: &Context, args: &[OsString]) -> Result<i32> {
    let arguments = Arguments::parse(args, &[])?;
    let container = Container::load(context, &arguments.id()?)?;
    begin(&container)?;
    Ok(0)
}

/// Lets the waiting process go on.
fn begin(container: &Container) -> Result<()> {
    match container.status() {
        Status::Created => {}
        Status::Stopped => return Err(Error::Conflict("cannot start a container that has stopped".into())),
        Status::Running | Status::Paused => return Err(Error::Conflict("cannot start an already running container".into())),
    }
    let (_handle, address) = start_address(&container.directory)?;
    let socket = socket()?;
    rustix::net::connect(&socket, &address).map_err(Error::path("connect to the process of", &container.directory))?;
    drop(std::fs::remove_file(container.directory.join(START_SOCKET)));
    let channel = ParentEnd::from_fd(socket);
    let mut announced = false;
    loop {
        match channel.hear().map_err(Error::system("hear from the container's process"))? {
            Word::Exec => announced = true,
            Word::Failed(failure) => return Err(wrapped(failure)),
            Word::Gone if announced => break,
            Word::Gone => return Err(Error::Conflict("the container's process has ended before it could be started".into())),
            _ => return Err(Error::Invalid("the container's process is not understood".into())),
        }
    }
    let spec = container.spec()?;
    if let Some(list) = spec.hooks.as_ref().map(|hooks| &hooks.poststart).filter(|list| !list.is_empty()) {
        let bundle = container.stored.bundle.display().to_string();
        hooks::run("poststart", list, &hooks::state(&container.stored.id, "running", container.stored.pid, &bundle, &spec))?;
    }
    Ok(())
}

pub(super) fn run(context: &Context, args: &[OsString]) -> Result<i32> {
    let arguments = Arguments::parse(args, FLAGS)?;
    let detach = arguments.has("detach");
    if !arguments.has("no-subreaper") {
        ignore(process::become_subreaper());
    }
    let created = make(context, &arguments)?;
    hand_over(&arguments, &created)?;
    let id = arguments.id()?;
    let container = Container::load(context, &id)?;
    let started = begin(&container);
    drop(container);
    if let Err(error) = started {
        ignore(process::pidfd_signal(created.launched.pidfd.as_fd(), libc::SIGKILL));
        ignore(process::wait_child(created.launched.pid, true));
        ignore(Container::load(context, &id).and_then(Container::remove));
        return Err(error);
    }
    if detach {
        return Ok(0);
    }
    let terminal = created.launched.terminal.filter(|_| arguments.get("console-socket").is_none());
    let code = relay::wait(created.launched.pid, &created.launched.pidfd, terminal)?;
    if !arguments.has("keep") {
        Container::load(context, &id)?.remove()?;
    } else {
        debug_assert!(created.directory.exists());
    }
    Ok(code)
}
