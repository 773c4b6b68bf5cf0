//! The monitor's loop: one epoll over the container's streams, its processes and its clients.
//!
//! ```text
//! stdout, stderr, terminal ──▶ log ──▶ queues of clients (a full queue pauses the stream, never the other clients)
//! clients ──▶ standard input
//! pidfds ──▶ drain outputs ──▶ exit record ──▶ Exited ──▶ queues empty ──▶ end
//! ```

mod ending;
mod exec;

use super::external;
use super::files::Directory;
use super::log::Sink;
use super::process::{MAIN, Phase, Process};
use super::protocol::{Event, ExitRecord, Request, Response, State};
use super::sink::{Client, MAX_QUEUED_BYTES, Role, Subscription, take_frame};
use super::start::DRAIN;
use crate::cgroup::Cgroup;
use crate::child;
use crate::error::{Error, FailureReason, Result, StartFailure, ignore};
use crate::seccomp::Program;
use crate::spec::Hook;
use crate::time;
use naru_sys::process::{self, Ended, SingleThread};
use naru_types::ContainerId;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec};
use rustix::fs::{Mode, OFlags, inotify};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

/// After this much quiet, buffers are given back.
const IDLE: Duration = Duration::from_secs(1);
/// The capacity of a pipe.
const READ_BYTES: usize = 64 << 10;
const REQUEST_READ_BYTES: usize = 16 << 10;

/// Who runs the container.
pub(super) enum Backend {
    Native {
        cgroup: Cgroup,
        seccomp: Program,
        /// Which namespaces an exec enters.
        namespaces: u64,
        shared_pid_namespace: bool,
        poststop: Vec<Hook>,
        poststop_state: String,
    },
    External(external::Handle),
}

/// What an epoll event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Listener,
    Oom,
    Client(usize),
    Output(usize, usize),
    Input(usize),
    Pidfd(usize),
    Channel(usize),
}

impl Token {
    fn pack(self) -> EventData {
        let (kind, index) = match self {
            Token::Listener => (0, 0),
            Token::Oom => (1, 0),
            Token::Client(index) => (2, index),
            Token::Output(index, slot) => (3 + slot as u64, index),
            Token::Input(index) => (5, index),
            Token::Pidfd(index) => (6, index),
            Token::Channel(index) => (7, index),
        };
        EventData::new_u64(kind << 32 | index as u64)
    }

    fn unpack(data: EventData) -> Token {
        let data = data.u64();
        let index = data as u32 as usize;
        match data >> 32 {
            0 => Token::Listener,
            1 => Token::Oom,
            2 => Token::Client(index),
            slot @ 3..=4 => Token::Output(index, slot as usize - 3),
            5 => Token::Input(index),
            6 => Token::Pidfd(index),
            _ => Token::Channel(index),
        }
    }
}

/// The out-of-memory notice of the cgroup.
struct OomWatch {
    fd: OwnedFd,
    /// Kills seen.
    seen: u64,
}

pub(super) struct Monitor {
    threads: SingleThread,
    id: ContainerId,
    directory: Directory,
    epoll: OwnedFd,
    listener: UnixListener,
    log: Option<Sink>,
    backend: Backend,
    started_at: String,
    processes: Vec<Option<Process>>,
    clients: Vec<Option<Client>>,
    oom: Option<OomWatch>,
    /// Shared by all reads; empty while idle.
    buffer: Vec<u8>,
    exit: Option<ExitRecord>,
    /// It is not started again, so that who waits for its end need not wait for the cgroup's.
    throwaway: bool,
    /// When what is left of a container that is thrown away goes.
    put_away_at: Option<Instant>,
    /// Its mounts: as long as they are held here, their end, which waits for all processors, is not part of the process's.
    mounts: Option<OwnedFd>,
    /// When an ended container's monitor goes, whatever clients do.
    leave_at: Option<Instant>,
}

impl Monitor {
    #[expect(clippy::too_many_arguments, reason = "called once, with the parts of a start")]
    pub(super) fn new(
        threads: SingleThread,
        id: ContainerId,
        directory: Directory,
        listener: UnixListener,
        log: Option<Sink>,
        main: Process,
        backend: Backend,
        clients: Vec<(OwnedFd, Subscription)>,
    ) -> Result<Monitor, StartFailure> {
        let failed = |errno| StartFailure::from(Error::System { action: "make an epoll", errno });
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
        listener.set_nonblocking(true).map_err(|error| super::start::io_failure("listen", &error))?;
        let clients = clients.into_iter().map(|(socket, subscription)| Some(Client::new(socket, Role::Stream(subscription)))).collect();
        Ok(Monitor {
            threads,
            id,
            directory,
            epoll,
            listener,
            log,
            backend,
            started_at: time::now(),
            processes: vec![Some(main)],
            clients,
            oom: None,
            buffer: Vec::new(),
            exit: None,
            throwaway: false,
            put_away_at: None,
            mounts: None,
            leave_at: None,
        })
    }

    /// Tells the end before the container is put away.
    pub(super) fn throw_away(&mut self, pid: i32) {
        self.throwaway = true;
        // It may have ended already.
        self.mounts = rustix::fs::open(format!("/proc/{pid}/ns/mnt"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok();
    }

    /// Serves until the container has ended and everybody has been told.
    pub(super) fn serve(mut self, control: OwnedFd) -> i32 {
        let mut watcher = Client::new(control, Role::Watch);
        let main = self.processes[MAIN].as_ref().expect("there from the start");
        watcher.tell(&Event::Started { pid: main.pid, at: self.started_at.clone() });
        self.clients.push(Some(watcher));
        self.add(self.listener.as_fd(), Token::Listener, EventFlags::IN);
        let pidfd = self.processes[MAIN].as_ref().expect("there from the start").pidfd.as_fd();
        self.add(pidfd, Token::Pidfd(MAIN), EventFlags::IN);
        self.watch_oom();
        self.relax();
        loop {
            self.settle();
            if self.put_away_at.is_some_and(|time| time <= Instant::now()) {
                self.put_away();
                self.settle();
            }
            if self.finished() {
                return 0;
            }
            let mut events = [epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; 16];
            let count = match epoll::wait(&self.epoll, &mut events[..], self.timeout().as_ref()) {
                Ok(count) => count,
                Err(Errno::INTR) => continue,
                Err(_) => return 1,
            };
            if count == 0 {
                self.relax();
            }
            for event in &events[..count] {
                self.handle(Token::unpack(event.data), event.flags);
            }
        }
    }

    fn timeout(&self) -> Option<Timespec> {
        let now = Instant::now();
        let draining = self.processes.iter().flatten().filter_map(|process| match &process.phase {
            Phase::Draining { deadline, .. } => Some(*deadline),
            _ => None,
        });
        let idle = if self.buffer.is_empty() { None } else { Some(now + IDLE) };
        let next = draining.chain(self.leave_at).chain(self.put_away_at).chain(idle).min()?;
        let wait = next.saturating_duration_since(now);
        Some(Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) })
    }

    /// Gives memory back.
    fn relax(&mut self) {
        self.buffer = Vec::new();
        if let Some(log) = &mut self.log {
            log.relax();
        }
        naru_sys::memory::trim();
        naru_sys::memory::release_stack();
    }

    fn add(&self, fd: BorrowedFd<'_>, token: Token, flags: EventFlags) {
        // Only memory can be short, and then nothing better can be done.
        ignore(epoll::add(&self.epoll, fd, token.pack(), flags));
    }

    fn remove(&self, fd: BorrowedFd<'_>) {
        ignore(epoll::delete(&self.epoll, fd));
    }

    fn handle(&mut self, token: Token, flags: EventFlags) {
        match token {
            Token::Listener => self.accept(),
            Token::Oom => self.out_of_memory(),
            Token::Client(index) => self.client_ready(index, flags),
            Token::Output(index, slot) => self.output_ready(index, slot),
            Token::Input(index) => {
                if let Some(Some(process)) = self.processes.get_mut(index) {
                    process.write_input();
                }
            }
            Token::Pidfd(index) => self.process_ended(index),
            Token::Channel(index) => self.channel_ready(index),
        }
    }

    /// Brings registrations in line with what is wanted, drops clients that have gone, ends what is over.
    fn settle(&mut self) {
        let now = Instant::now();
        for index in 0..self.processes.len() {
            let Some(process) = &mut self.processes[index] else { continue };
            if let Phase::Draining { deadline, .. } = &process.phase {
                if *deadline <= now {
                    process.outputs = [None, None];
                }
                if process.drained() {
                    self.finish(index);
                }
            }
        }
        for index in 0..self.clients.len() {
            self.settle_client(index);
        }
        for index in 0..self.processes.len() {
            self.settle_process(index);
        }
    }

    fn settle_client(&mut self, index: usize) {
        let Some(client) = &mut self.clients[index] else { return };
        let done = matches!(client.role, Role::Closing) && client.queued() == 0;
        if client.gone || done {
            let subscription = match client.role {
                Role::Stream(subscription) => Some(subscription),
                _ => None,
            };
            let client = self.clients[index].take().expect("looked at above");
            if client.registered.is_some() {
                self.remove(client.fd());
            }
            if let Some(subscription) = subscription.filter(|subscription| subscription.stdin && !client.input_ended) {
                self.close_input(subscription.process);
            }
            return;
        }
        let reads = match &client.role {
            Role::Requests(_) | Role::Watch => true,
            Role::Stream(subscription) if !client.input_ended => match self.processes.get(subscription.process) {
                // Without stdin only its end matters; with it, what came before must have been taken.
                Some(Some(process)) => {
                    matches!(process.phase, Phase::Running)
                        && (!subscription.stdin || process.input.as_ref().is_none_or(|input| input.pending.is_empty()))
                }
                _ => false,
            },
            _ => false,
        };
        let mut wanted = EventFlags::empty();
        wanted.set(EventFlags::IN, reads && !client.input_ended);
        wanted.set(EventFlags::OUT, client.queued() > 0);
        if client.registered != Some(wanted) {
            let token = Token::Client(index).pack();
            ignore(match client.registered {
                Some(_) => epoll::modify(&self.epoll, &client.socket, token, wanted),
                None => epoll::add(&self.epoll, &client.socket, token, wanted),
            });
            client.registered = Some(wanted);
        }
    }

    fn settle_process(&mut self, index: usize) {
        let Some(process) = &self.processes[index] else { return };
        let starting = matches!(process.phase, Phase::Starting { .. });
        let paused = [0, 1].map(|slot| {
            starting
                || self.clients.iter().flatten().any(|client| match client.role {
                    Role::Stream(s) => {
                        s.process == index && (if slot == 0 { s.stdout } else { s.stderr }) && client.queued() >= MAX_QUEUED_BYTES
                    }
                    _ => false,
                })
        });
        let process = self.processes[index].as_mut().expect("looked at above");
        for (slot, paused) in paused.into_iter().enumerate() {
            let Some(output) = &mut process.outputs[slot] else { continue };
            // Hang-up is reported whatever the interest, so a paused stream is taken out altogether.
            if output.registered == paused {
                ignore(if paused {
                    epoll::delete(&self.epoll, &output.fd)
                } else {
                    epoll::add(&self.epoll, &output.fd, Token::Output(index, slot).pack(), EventFlags::IN)
                });
                output.registered = !paused;
            }
        }
        if let Some(input) = &mut process.input {
            let wanted = !input.pending.is_empty() && !starting;
            if wanted != input.registered {
                ignore(if wanted {
                    epoll::add(&self.epoll, &input.fd, Token::Input(index).pack(), EventFlags::OUT)
                } else {
                    epoll::delete(&self.epoll, &input.fd)
                });
                input.registered = wanted;
            }
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            self.add_client(Client::new(stream.into(), Role::Requests(Vec::new())));
        }
    }

    fn add_client(&mut self, client: Client) {
        match self.clients.iter().position(Option::is_none) {
            Some(free) => self.clients[free] = Some(client),
            None => self.clients.push(Some(client)),
        }
    }

    fn client_ready(&mut self, index: usize, flags: EventFlags) {
        let Some(Some(client)) = self.clients.get_mut(index) else { return };
        if flags.contains(EventFlags::OUT) {
            client.flush();
        }
        if flags.contains(EventFlags::IN) {
            self.client_speaks(index);
        }
        let Some(Some(client)) = self.clients.get_mut(index) else { return };
        if flags.intersects(EventFlags::HUP | EventFlags::ERR) && !flags.contains(EventFlags::IN) {
            client.gone = true;
        }
    }

    fn client_speaks(&mut self, index: usize) {
        let Some(Some(client)) = self.clients.get_mut(index) else { return };
        if self.buffer.is_empty() {
            self.buffer = vec![0; READ_BYTES];
        }
        let received = client.receive(&mut self.buffer[..REQUEST_READ_BYTES]);
        let count = match received {
            Ok(Some(count)) => count,
            Ok(None) => return,
            Err(_) => return client.gone = true,
        };
        match &mut client.role {
            Role::Requests(_) | Role::Watch if count == 0 => client.gone = true,
            Role::Requests(bytes) => {
                bytes.extend_from_slice(&self.buffer[..count]);
                self.requests(index);
            }
            Role::Watch | Role::Closing => {}
            Role::Stream(subscription) => {
                let subscription = *subscription;
                if count == 0 {
                    client.input_ended = true;
                    if subscription.stdin {
                        self.close_input(subscription.process);
                    }
                } else if subscription.stdin
                    && let Some(Some(process)) = self.processes.get_mut(subscription.process)
                    && let Some(input) = &mut process.input
                {
                    input.pending.extend_from_slice(&self.buffer[..count]);
                    process.write_input();
                }
            }
        }
    }

    /// A client's standard input has ended.
    fn close_input(&mut self, index: usize) {
        let Some(Some(process)) = self.processes.get_mut(index) else { return };
        // A terminal is never closed for want of a client; a pipe only where one client is all there will be.
        if process.tty || !process.input_once {
            return;
        }
        if let Some(input) = &mut process.input {
            input.closing = true;
            process.write_input();
        }
    }

    fn requests(&mut self, index: usize) {
        loop {
            let Some(Some(client)) = self.clients.get_mut(index) else { return };
            let Role::Requests(bytes) = &mut client.role else { return };
            let frame = match take_frame(bytes) {
                Ok(Some(frame)) => frame,
                Ok(None) => return,
                Err(()) => return client.gone = true,
            };
            match super::decode::<Request>(&frame) {
                Ok(request) => self.request(index, request),
                Err(error) => client.respond(&StartFailure::from(error).into()),
            }
        }
    }

    fn request(&mut self, index: usize, request: Request) {
        let response = match request {
            Request::Watch => return self.begin_watch(index),
            Request::State => Response::State(self.state()),
            Request::Signal { signal } => self.signal(None, signal),
            Request::ExecSignal { exec, signal } => self.signal(Some(&exec), signal),
            Request::Resize { exec, rows, columns } => self.resize(exec.as_deref(), rows, columns),
            Request::Attach { stdin, stdout, stderr } => return self.attach(index, stdin, stdout, stderr),
            Request::Exec(request) => return self.exec(index, &request),
            Request::Shutdown => {
                if self.exit.is_some() {
                    self.leave_at = Some(Instant::now());
                    Response::Ok
                } else {
                    Response::Error { kind: FailureReason::Invalid, message: "the container is running".into() }
                }
            }
        };
        if let Some(Some(client)) = self.clients.get_mut(index) {
            client.respond(&response);
        }
    }

    fn begin_watch(&mut self, index: usize) {
        let pid = self.processes[MAIN].as_ref().map(|main| main.pid);
        let Some(Some(client)) = self.clients.get_mut(index) else { return };
        client.role = Role::Watch;
        client.tell(&Event::Started { pid: pid.unwrap_or(0), at: self.started_at.clone() });
        if let Some(exit) = &self.exit {
            client.tell(&Event::Exited(exit.clone()));
            client.role = Role::Closing;
        }
    }

    fn state(&self) -> State {
        let execs: BTreeMap<String, i32> =
            self.processes.iter().flatten().filter_map(|process| Some((process.exec.clone()?, process.pid))).collect();
        let pid = self.processes[MAIN].as_ref().map_or(0, |main| main.pid);
        State { id: self.id.clone(), pid, started_at: self.started_at.clone(), execs, exit: self.exit.clone() }
    }

    /// The number of the container's own process or that of an exec.
    fn find(&self, exec: Option<&str>) -> Result<usize, Response> {
        let found = self.processes.iter().position(|process| process.as_ref().is_some_and(|process| process.exec.as_deref() == exec));
        found.ok_or_else(|| Response::Error {
            kind: FailureReason::NotRunning,
            message: match exec {
                Some(exec) => format!("no such exec: {exec}"),
                None => format!("container {} is not running", self.id),
            },
        })
    }

    fn signal(&self, exec: Option<&str>, signal: i32) -> Response {
        let index = match self.find(exec) {
            Ok(index) => index,
            Err(response) => return response,
        };
        let process = self.processes[index].as_ref().expect("found");
        match process::pidfd_signal(process.pidfd.as_fd(), signal) {
            Ok(()) => Response::Ok,
            Err(Errno::SRCH) => {
                Response::Error { kind: FailureReason::NotRunning, message: format!("container {} is not running", self.id) }
            }
            Err(errno) => Response::Error { kind: FailureReason::Other, message: format!("send signal {signal}: {errno}") },
        }
    }

    fn resize(&self, exec: Option<&str>, rows: u16, columns: u16) -> Response {
        match self.find(exec) {
            Ok(index) => {
                if let Some(terminal) = &self.processes[index].as_ref().expect("found").terminal {
                    child::set_size(terminal.as_fd(), rows, columns);
                }
                Response::Ok
            }
            Err(response) => response,
        }
    }

    fn attach(&mut self, index: usize, stdin: bool, stdout: bool, stderr: bool) {
        let raw = match self.find(None) {
            Ok(main) => self.processes[main].as_ref().expect("found").tty,
            Err(response) => {
                if let Some(Some(client)) = self.clients.get_mut(index) {
                    client.respond(&response);
                }
                return;
            }
        };
        if let Some(Some(client)) = self.clients.get_mut(index) {
            client.respond(&Response::Ok);
            let early = match std::mem::replace(&mut client.role, Role::Stream(Subscription { process: MAIN, stdin, stdout, stderr, raw }))
            {
                Role::Requests(early) => early,
                _ => Vec::new(),
            };
            self.early_input(index, MAIN, early);
        }
    }

    /// Bytes that came together with the request are standard input already.
    fn early_input(&mut self, client: usize, process: usize, early: Vec<u8>) {
        let has_stdin = matches!(self.clients.get(client), Some(Some(Client { role: Role::Stream(s), .. })) if s.stdin);
        if !early.is_empty()
            && has_stdin
            && let Some(Some(process)) = self.processes.get_mut(process)
            && let Some(input) = &mut process.input
        {
            input.pending.extend_from_slice(&early);
            if matches!(process.phase, Phase::Running) {
                process.write_input();
            }
        }
    }

    fn broadcast(&mut self, event: &Event) {
        for client in self.clients.iter_mut().flatten().filter(|client| matches!(client.role, Role::Watch)) {
            client.tell(event);
        }
    }

    fn output_ready(&mut self, index: usize, slot: usize) {
        if self.buffer.is_empty() {
            self.buffer = vec![0; READ_BYTES];
        }
        let Some(Some(process)) = self.processes.get_mut(index) else { return };
        let Some(output) = &mut process.outputs[slot] else { return };
        let stream = if slot == 0 { "stdout" } else { "stderr" };
        let count = match rustix::io::read(&output.fd, &mut self.buffer[..]) {
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => return,
            // EIO: the last holder of the terminal's other side has gone.
            Err(_) => 0,
        };
        let log = self.log.as_mut().filter(|_| index == MAIN);
        if count == 0 {
            // A terminal also says EIO between two holders (a shell's exec of a daemon); it ends with the process.
            if process.tty && matches!(process.phase, Phase::Running) {
                if output.registered {
                    ignore(epoll::delete(&self.epoll, &output.fd));
                }
                self.terminal_idle(index);
                return;
            }
            if let Some(log) = log {
                log.end(stream, &mut output.partial);
            }
            process.outputs[slot] = None;
            return;
        }
        let bytes = &self.buffer[..count];
        if let Some(log) = log {
            log.write(stream, &mut output.partial, bytes);
        }
        for client in self.clients.iter_mut().flatten() {
            if let Role::Stream(s) = client.role
                && s.process == index
                && (if slot == 0 { s.stdout } else { s.stderr })
            {
                client.output(slot as u8 + 1, s.raw, bytes);
            }
        }
    }

    /// Nobody holds the terminal's other side at the moment: looked at again when the process ends.
    fn terminal_idle(&mut self, index: usize) {
        let Some(Some(process)) = self.processes.get_mut(index) else { return };
        let Some(output) = process.outputs[0].take() else { return };
        if let Some(log) = self.log.as_mut().filter(|_| index == MAIN) {
            let mut partial = output.partial;
            log.end("stdout", &mut partial);
        }
    }

    fn process_ended(&mut self, index: usize) {
        let Some(Some(process)) = self.processes.get_mut(index) else { return };
        let ended = match process::wait_child(process.pid, false) {
            Ok(Some((_, ended))) => ended,
            Ok(None) | Err(Errno::INTR) => return,
            // Reaped by nobody we know; a code is better than a monitor that never ends.
            Err(_) => Ended::Exited(255),
        };
        ignore(epoll::delete(&self.epoll, &process.pidfd));
        if matches!(process.phase, Phase::Starting { .. }) {
            // The channel tells, then `exec_failed` reaps what this has reaped.
            return self.starting_ended(index, ended);
        }
        process.input = None;
        process.held = None;
        process.phase = Phase::Draining { ended, deadline: Instant::now() + DRAIN };
        if index == MAIN
            && let Backend::Native { cgroup, shared_pid_namespace: true, .. } = &self.backend
        {
            // Without a pid namespace of its own nothing else ends what the container has started.
            drop(cgroup.kill());
        }
        // What is in the pipes now is there; usually this reads to their end at once.
        for slot in [0, 1] {
            while self.processes[index].as_ref().is_some_and(|process| process.outputs[slot].is_some()) && self.read_more(index, slot) {}
        }
    }

    /// Reads once if there is something and room for it; whether to go on.
    fn read_more(&mut self, index: usize, slot: usize) -> bool {
        let full = self.clients.iter().flatten().any(|client| client.queued() >= MAX_QUEUED_BYTES);
        let ready = self.processes[index].as_ref().and_then(|process| process.outputs[slot].as_ref()).is_some_and(|output| {
            let mut poll = [rustix::event::PollFd::new(&output.fd, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut poll, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|count| count > 0)
        });
        if full || !ready {
            return false;
        }
        self.output_ready(index, slot);
        true
    }

    /// A process has ended and its output is complete.
    fn finish(&mut self, index: usize) {
        let Some(process) = self.processes[index].take() else { return };
        let Phase::Draining { ended, .. } = process.phase else { return };
        let terminal_gone = process.terminal;
        drop(terminal_gone);
        match process.exec {
            Some(id) => self.broadcast(&Event::ExecExited { id, code: ended.code() }),
            None => self.finish_container(ended),
        }
        for client in self.clients.iter_mut().flatten() {
            if matches!(client.role, Role::Stream(s) if s.process == index) {
                client.role = Role::Closing;
            }
        }
    }

    fn watch_oom(&mut self) {
        let Backend::Native { cgroup, .. } = &self.backend else { return };
        let Some((path, v1)) = cgroup.oom_source() else { return };
        let watch = || -> Result<OwnedFd, Errno> {
            if !v1 {
                let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
                inotify::add_watch(&fd, &path, inotify::WatchFlags::MODIFY)?;
                return Ok(fd);
            }
            let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            let open = |name: &str, flags| rustix::fs::open(path.join(name), flags | OFlags::CLOEXEC, Mode::empty());
            let control = open("memory.oom_control", OFlags::RDONLY)?;
            let text = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
            rustix::io::write(open("cgroup.event_control", OFlags::WRONLY)?, text.as_bytes())?;
            Ok(event)
        };
        // Without the notice the exit record still says it.
        if let Ok(fd) = watch() {
            self.add(fd.as_fd(), Token::Oom, EventFlags::IN);
            self.oom = Some(OomWatch { fd, seen: 0 });
        }
    }

    fn out_of_memory(&mut self) {
        let Backend::Native { cgroup, .. } = &self.backend else { return };
        let Some(watch) = &mut self.oom else { return };
        let mut bytes = [0; 4096];
        ignore(rustix::io::read(&watch.fd, &mut bytes));
        let kills = cgroup.oom_kills();
        if kills > watch.seen {
            watch.seen = kills;
            self.broadcast(&Event::OomKill);
        } else if !cgroup.exists() {
            // Removing the cgroup signals too, for ever.
            let watch = self.oom.take().expect("just looked at");
            self.remove(watch.fd.as_fd());
        }
    }

    // Execs.
}
