//! From the fork to the running container: makes the ground for it, reads the start frame, makes the container but for its
//! program, waits for leave to run that, serves.

use super::external;
use super::files::Directory;
use super::log::Sink;
use super::process::{self as streams, MAIN, Phase, Process};
use super::protocol::{Event, Go, Opening, Start, StartRootfs, StartRuntime, encode, read_body, read_frame};
use super::serve::{Backend, Monitor};
use super::sink::Subscription;
use crate::bytes::receive_with_fds;
use crate::cgroup::Cgroup;
use crate::error::{Error, Result, StartFailure, errno_of, ignore};
use crate::hooks;
use crate::launch::{HookContext, hold, launch};
use crate::plan::{Gate, Input, Plan};
use crate::seccomp::Program;
use crate::spec::{NamespaceKind, Resources};
use naru_sys::process::{self, SingleThread};
use naru_sys::seccomp::Instruction;
use rustix::fs::{Mode, OFlags};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The spawner's child, with the control connection.
pub(crate) fn main(threads: SingleThread, control: OwnedFd) -> i32 {
    ignore(rustix::process::setsid());
    ignore(rustix::thread::set_name(c"naru-monitor"));
    process::default_signals(&[libc::SIGCHLD]);
    process::close_all_but(3, &mut [control.as_raw_fd()]).ok();
    quiet();
    let mut control = UnixStream::from(control);
    // Made while the daemon prepares the rest; an error is told when it has.
    let ground = receive_opening(&mut control).map_err(StartFailure::from).and_then(|opening| Ground::make(threads, opening));
    let begun = match receive(&mut control) {
        // The start has failed before it came to us, or the daemon has died.
        Ok(None) => return 0,
        Ok(Some((start, program, fds))) => ground.and_then(|ground| begin(threads, ground, start, program, fds, &mut control)),
        Err(error) => Err(error.into()),
    };
    match begun {
        Ok(monitor) => {
            // What parsing and planning has touched goes back before the long wait.
            monitor.serve(control.into())
        }
        Err(failure) => {
            refuse(&mut control, failure);
            1
        }
    }
}

/// The daemon's standard error is not ours: its reader may go away.
fn quiet() {
    if let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        for number in 0..3 {
            ignore(process::inherit_as(null.as_fd(), number));
        }
    }
}

fn refuse(control: &mut UnixStream, failure: StartFailure) {
    // If the daemon is gone, nobody waits for the container.
    drop(control.write_all(&encode(&Event::StartFailed { reason: failure.reason, message: failure.message })));
    ignore(control.shutdown(std::net::Shutdown::Write));
    // What is on its way to us would break the connection before this is read; its reader closes it.
    drop(std::io::copy(control, &mut std::io::sink()));
}

fn receive_opening(control: &mut UnixStream) -> Result<Opening> {
    let frame = read_frame(control)?.ok_or_else(|| Error::Unavailable("the start request ended early".into()))?;
    super::decode(&frame)
}

/// A frame and the descriptors that come with its first byte; `None` when none comes.
fn receive_frame<T: serde::de::DeserializeOwned>(control: &mut UnixStream) -> Result<Option<(T, Vec<OwnedFd>)>> {
    let mut length = [0; 4];
    let (count, fds) = receive_with_fds(control.as_fd(), &mut length).map_err(Error::system("receive the start request"))?;
    if count == 0 {
        return Ok(None);
    }
    control.read_exact(&mut length[count..]).map_err(Error::io("read the start request"))?;
    Ok(Some((super::decode(&read_body(control, length)?)?, fds)))
}

/// The start frame, its descriptors, and the filter behind it.
fn receive(control: &mut UnixStream) -> Result<Option<(Start, Program, Vec<OwnedFd>)>> {
    let Some((start, fds)) = receive_frame::<Start>(control)? else { return Ok(None) };
    let mut program = Program { instructions: Vec::with_capacity(start.seccomp_instructions as usize), flags: start.seccomp_flags };
    let mut bytes = vec![0; start.seccomp_instructions as usize * 8];
    control.read_exact(&mut bytes).map_err(Error::io("read the seccomp program"))?;
    program.instructions.extend(bytes.as_chunks::<8>().0.iter().map(|bytes| Instruction::from_bytes(*bytes)));
    Ok(Some((start, program, fds)))
}

type Clients = Vec<(OwnedFd, Subscription)>;

/// Waits for leave to run the program; it comes with the clients of its streams.
fn receive_go(control: &mut UnixStream, raw: bool) -> Result<Clients> {
    let go = receive_frame::<Go>(control)?;
    let (go, fds) = go.ok_or_else(|| Error::Unavailable("the start was called off".into()))?;
    if go.attach.len() != fds.len() {
        return Err(Error::Invalid("the start request lacks a descriptor".into()));
    }
    let subscription = |(stdin, stdout, stderr)| Subscription { process: MAIN, stdin, stdout, stderr, raw };
    Ok(fds.into_iter().zip(go.attach.into_iter().map(subscription)).collect())
}

/// What a start stands on; gone again unless the container runs.
struct Ground {
    /// The container's directory by name, for hooks and other runtimes.
    path: PathBuf,
    directory: Socket,
    listener: UnixListener,
    log: Option<Sink>,
    cgroup: Option<NewCgroup>,
    throwaway: bool,
}

impl Ground {
    fn make(threads: SingleThread, opening: Opening) -> Result<Ground, StartFailure> {
        let directory = Directory::open(&opening.directory)?;
        let listener = directory.listen()?;
        let directory = Socket(Some(directory));
        let log = opening.log.map(|log| Sink::open(log, threads)).transpose()?;
        let cgroup = opening.cgroup.map(|(path, resources)| NewCgroup::make(&path, &resources)).transpose()?;
        Ok(Ground { path: opening.directory, directory, listener, log, cgroup, throwaway: opening.throwaway })
    }
}

/// The directory, with a socket in it that goes unless the start succeeds.
struct Socket(Option<Directory>);

impl Socket {
    fn keep(mut self) -> Directory {
        self.0.take().expect("taken once")
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(directory) = &self.0 {
            directory.remove_socket();
        }
    }
}

/// A cgroup that goes unless the start succeeds.
struct NewCgroup(Option<Cgroup>);

impl NewCgroup {
    fn make(path: &str, resources: &Resources) -> Result<NewCgroup> {
        let cgroup = Cgroup::new(path)?;
        cgroup.create()?;
        let made = NewCgroup(Some(cgroup));
        made.get().apply(resources)?;
        Ok(made)
    }

    fn get(&self) -> &Cgroup {
        self.0.as_ref().expect("there until it is kept")
    }

    fn keep(mut self) -> Cgroup {
        self.0.take().expect("taken once")
    }
}

impl Drop for NewCgroup {
    fn drop(&mut self) {
        if let Some(cgroup) = &self.0 {
            drop(cgroup.kill());
            drop(cgroup.remove());
        }
    }
}

/// Descriptors of a start, sorted out.
struct Descriptors {
    rootfs: Option<OwnedFd>,
    network_namespace: Option<OwnedFd>,
}

fn sort_out(start: &Start, fds: Vec<OwnedFd>) -> Result<Descriptors> {
    let mut fds = fds.into_iter();
    let mut next = || fds.next().ok_or_else(|| Error::Invalid("the start request lacks a descriptor".into()));
    let rootfs = match start.rootfs {
        StartRootfs::Descriptor => Some(next()?),
        StartRootfs::Path(_) => None,
    };
    let network_namespace = if start.network_namespace { Some(next()?) } else { None };
    Ok(Descriptors { rootfs, network_namespace })
}

fn begin(
    threads: SingleThread,
    mut ground: Ground,
    mut start: Start,
    program: Program,
    fds: Vec<OwnedFd>,
    control: &mut UnixStream,
) -> Result<Monitor, StartFailure> {
    let descriptors = sort_out(&start, fds)?;
    let begun = match std::mem::replace(&mut start.runtime, StartRuntime::Native) {
        StartRuntime::Native => {
            let cgroup = ground.cgroup.take().ok_or_else(|| StartFailure::other("the start request names no cgroup"))?;
            native(threads, &mut start, program, &ground.path, cgroup, descriptors, control)?
        }
        StartRuntime::External { program, args, bundle } => {
            let runtime = external::Runtime { program, args, bundle };
            let clients = receive_go(control, start.tty)?;
            let (main, backend) =
                external::begin(threads, &mut start, &ground.path, descriptors.rootfs, descriptors.network_namespace, runtime)?;
            Begun { main, backend, clients }
        }
    };
    let Ground { directory, listener, log, throwaway, .. } = ground;
    let pid = begun.main.pid;
    let mut monitor = Monitor::new(threads, start.id, directory.keep(), listener, log, begun.main, begun.backend, begun.clients)?;
    if throwaway {
        monitor.throw_away(pid);
    }
    Ok(monitor)
}

struct Begun {
    main: Process,
    backend: Backend,
    clients: Clients,
}

fn native(
    threads: SingleThread,
    start: &mut Start,
    program: Program,
    directory: &Path,
    cgroup: NewCgroup,
    descriptors: Descriptors,
    control: &mut UnixStream,
) -> Result<Begun, StartFailure> {
    if let StartRootfs::Path(path) = &start.rootfs {
        start.spec.root.get_or_insert_default().path = path.display().to_string();
    }
    let bundle = directory.display().to_string();
    let (stdio, ends) = if start.tty {
        (None, None)
    } else {
        let (stdio, ends) = streams::pipes(start.open_stdin, true, true)?;
        (Some(stdio), Some(ends))
    };
    // Hooks are told of a start that is asked for, not of one that may be.
    let early = start.spec.hooks.is_none();
    let clients = if early { None } else { Some(receive_go(control, start.tty)?) };
    let plan = Plan::new(Input {
        id: start.id.as_str(),
        spec: &start.spec,
        rootfs: descriptors.rootfs,
        bundle: directory,
        network_namespace: descriptors.network_namespace,
        cgroup: cgroup.get(),
        seccomp: program.clone(),
        terminal: start.tty,
        init: start.init,
        new_keyring: true,
        preserved_fds: 0,
        gate: if early { Gate::Parent } else { Gate::Open },
    })?;
    let namespaces = plan.clone_flags
        | plan.joins.iter().fold(0, |flags, (_, flag)| flags | flag)
        | if plan.new_cgroup_namespace { NamespaceKind::Cgroup.flag() } else { 0 };
    let shared_pid_namespace = plan.shared_pid_namespace;
    let context = HookContext { id: start.id.as_str(), bundle: &bundle, spec: &start.spec };
    let (launched, clients) = match clients {
        Some(clients) => (launch(threads, plan, stdio, &context)?, clients),
        None => {
            let held = hold(threads, plan, stdio, &context)?;
            let clients = receive_go(control, start.tty)?;
            (held.go_on(&context)?, clients)
        }
    };
    let ends = match (&launched.terminal, ends) {
        (Some(terminal), _) => streams::terminal_ends(terminal, true)?,
        (None, Some(ends)) => ends,
        (None, None) => return Err(StartFailure::other("the container's process sent no terminal")),
    };
    let poststart = start.spec.hooks.as_ref().map(|hooks| hooks.poststart.clone()).unwrap_or_default();
    if !poststart.is_empty() {
        let state = hooks::state(start.id.as_str(), "running", launched.pid, &bundle, &start.spec);
        if let Err(error) = hooks::run("poststart", &poststart, &state) {
            ignore(process::pidfd_signal(launched.pidfd.as_fd(), libc::SIGKILL));
            ignore(process::wait_child(launched.pid, true));
            return Err(error.into());
        }
    }
    let poststop = start.spec.hooks.as_ref().map(|hooks| hooks.poststop.clone()).unwrap_or_default();
    let poststop_state =
        if poststop.is_empty() { String::new() } else { hooks::state(start.id.as_str(), "stopped", 0, &bundle, &start.spec) };
    let backend = Backend::Native { cgroup: cgroup.keep(), seccomp: program, namespaces, shared_pid_namespace, poststop, poststop_state };
    Ok(Begun { main: main_process(launched.pid, launched.pidfd, launched.terminal, ends, start), backend, clients })
}

pub(super) fn main_process(pid: i32, pidfd: OwnedFd, terminal: Option<OwnedFd>, ends: streams::Ends, start: &Start) -> Process {
    Process {
        exec: None,
        pid,
        pidfd,
        tty: start.tty,
        terminal,
        held: ends.held,
        input: ends.input,
        input_once: start.stdin_once || !start.open_stdin,
        outputs: ends.outputs,
        phase: Phase::Running,
    }
}

/// How long the output of a process that has ended may be held open by others it has started.
pub(super) const DRAIN: Duration = Duration::from_secs(1);

/// An error of the standard library in the words of a failed start.
pub(super) fn io_failure(what: &str, error: &std::io::Error) -> StartFailure {
    StartFailure::other(format!("{what}: {}", crate::lookup::errno_text(errno_of(error))))
}
