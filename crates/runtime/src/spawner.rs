//! The spawner: one small single-threaded process that forks monitors for the daemon and makes network namespaces.
//!
//! The daemon has threads and must not fork; the spawner is executed once from a read-only mount of the program (so
//! that no container can write to the program through `/proc/<pid>/exe`, CVE-2019-5736) and serves one seqpacket socket:
//!
//! | first byte | descriptors | effect |
//! |---|---|---|
//! | 1 | control connection | forks a monitor, which reads on the control connection what to make, what to start, and when; no reply |
//! | 2 | - | replies with a fresh network namespace and a route socket inside it |
//! | 3 | network namespace | replies with a route socket inside it |
//! | 4, two ports | network namespace | replies with a UDP and a listening TCP socket on 127.0.0.11 inside it, on these ports if they are free, and a netfilter socket |
//!
//! It ends when the daemon's end of the socket closes; monitors do not.

use crate::bytes::{receive_with_fds, send_with_fds};
use crate::error::{Error, Result, errno_of, ignore};
use crate::monitor::{self, Go, Log, LogFile, Opening, Start, StartRootfs, StartRuntime, encode};
use crate::program::protected;
use crate::{seccomp, spec};
use naru_sys::process::{self, Fork, SingleThread};
use naru_types::ContainerId;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, Resource, Rlimit};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// `argv[0]` of the role.
pub const ROLE: &str = "naru-spawner";

const OP_START: u8 = 1;
const OP_NETWORK_NAMESPACE: u8 = 2;
const OP_ROUTE_SOCKET: u8 = 3;
const OP_RESOLVER_SOCKETS: u8 = 4;
/// Where containers find their resolver, as in Docker.
const RESOLVER_ADDRESS: [u8; 4] = [127, 0, 0, 11];
/// Waiting TCP connections of a container to its resolver.
const RESOLVER_BACKLOG: i32 = 16;
/// A frame begins with its length.
const LENGTH_BYTES: usize = 4;
/// How long a monitor whose start is called off may take to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// What the kernel passes in one message (SCM_MAX_FD).
const MAX_DESCRIPTORS: usize = 253;

/// A handle on the spawner process; it is restarted when it has died.
#[derive(Debug)]
pub struct Spawner {
    /// The control connection of a monitor that was forked before anybody needs it.
    spare: Mutex<Option<UnixStream>>,
    connection: Mutex<Connection>,
    seccomp: seccomp::Cache,
}

#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    process: Child,
    /// Its limit of descriptors.
    descriptors: Rlimit,
}

/// A fresh network namespace; it vanishes with the last descriptor and process in it.
#[derive(Debug)]
pub struct NetworkNamespace {
    /// The namespace.
    pub ns: OwnedFd,
    /// A `NETLINK_ROUTE` socket opened inside it.
    pub route: OwnedFd,
    /// Its `net/ipv6/conf/default/disable_ipv6`, open for writing: what links are born with. Nothing's where the kernel has no
    /// IPv6.
    pub new_links_without_ipv6: OwnedFd,
}

/// Sockets for a resolver that lives in the daemon and is asked from inside a network namespace.
#[derive(Debug)]
pub struct ResolverSockets {
    /// Bound to 127.0.0.11.
    pub udp: OwnedFd,
    /// Listens on 127.0.0.11.
    pub tcp: OwnedFd,
    /// A `NETLINK_NETFILTER` socket, to lead port 53 to the two.
    pub netfilter: OwnedFd,
}

/// What a monitor makes before the start.
#[derive(Debug)]
pub struct Preparation {
    /// A directory of the container's own that exists (0700): `monitor.sock` and `exit.json` appear there.
    pub directory: PathBuf,
    /// Where output goes besides the clients.
    pub log: Option<LogFile>,
    /// Path and limits of the cgroup that the monitor makes and removes. None where another OCI runtime does.
    pub cgroup: Option<(String, spec::Resources)>,
    /// The container is not started again, and has no files of others: its end is told before its mounts and its cgroup go,
    /// which the socket outlives.
    pub throwaway: bool,
}

/// A monitor that waits for its start. Dropped, it ends and takes back what it made, which is waited for.
#[derive(Debug)]
pub struct Pending(Option<UnixStream>);

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(mut control) = self.0.take() {
            ignore(control.shutdown(std::net::Shutdown::Write));
            ignore(control.set_read_timeout(Some(PATIENCE)));
            ignore(control.read_to_end(&mut Vec::new()));
        }
    }
}

/// A container that is made but for its program, or is being made. Dropped, it is taken back, which is waited for.
#[derive(Debug)]
pub struct Loaded(Pending);

impl Loaded {
    /// Whether it is known already that the start fails, or has failed.
    pub fn has_failed(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let Some(control) = &self.0.0 else { return true };
        // The monitor says nothing before it is told to go on, unless it failed.
        poll(&mut [PollFd::new(control, PollFlags::IN)], Some(&Timespec::default())).is_ok_and(|count| count > 0)
    }

    /// Lets the program run. The connection returned is an open `Watch` connection: the first event is `Started` or
    /// `StartFailed`.
    pub fn start(mut self, attach: Vec<AttachStream>) -> Result<UnixStream> {
        let go = encode(&Go { attach: attach.iter().map(|client| (client.stdin, client.stdout, client.stderr)).collect() });
        if attach.len() > MAX_DESCRIPTORS {
            return Err(Error::Invalid("too many clients attached before the start".into()));
        }
        let clients: Vec<BorrowedFd<'_>> = attach.iter().map(|client| client.socket.as_fd()).collect();
        let control = self.0.0.take().expect("there until it is started or dropped");
        let sent = send_frame(&control, &go, &clients);
        drop(attach);
        match sent {
            // It has failed meanwhile; why, it has said before.
            Err(Errno::PIPE | Errno::CONNRESET) | Ok(()) => Ok(control),
            Err(errno) => Err(ended(errno)),
        }
    }
}

/// Everything a container's start needs but its clients.
#[derive(Debug)]
pub struct StartRequest {
    /// Its id.
    pub id: ContainerId,
    /// The whole specification.
    pub spec: spec::Spec,
    /// The root file system.
    pub rootfs: Rootfs,
    /// Joined instead of the one the specification asks for.
    pub network_namespace: Option<OwnedFd>,
    /// Give the process a terminal.
    pub tty: bool,
    /// Keep standard input open for clients.
    pub open_stdin: bool,
    /// Close standard input when the first client that had it has gone.
    pub stdin_once: bool,
    /// A small reaper as the first process.
    pub init: bool,
    /// Who runs the container.
    pub runtime: RuntimeKind,
}

/// A root file system.
#[derive(Debug)]
pub enum Rootfs {
    /// A detached mount.
    Mount(OwnedFd),
    /// A directory of the host.
    Path(PathBuf),
}

/// A client's connection.
#[derive(Debug)]
pub struct AttachStream {
    /// A stream socket; see [`monitor`] for what is spoken on it.
    pub socket: OwnedFd,
    /// Its bytes are standard input.
    pub stdin: bool,
    /// It receives standard output.
    pub stdout: bool,
    /// It receives standard error.
    pub stderr: bool,
}

/// Who runs the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuntimeKind {
    /// This crate.
    Native,
    /// Another OCI runtime's program on a bundle.
    External {
        /// The program.
        program: PathBuf,
        /// Its global arguments.
        args: Vec<String>,
        /// The bundle; `config.json` is written there.
        bundle: PathBuf,
    },
}

impl Spawner {
    /// Starts the process.
    pub fn launch() -> Result<Spawner> {
        let limit = rustix::process::getrlimit(Resource::Nofile);
        let connection = Mutex::new(Connection::open(limit)?);
        Ok(Spawner { spare: Mutex::default(), connection, seccomp: seccomp::Cache::default() })
    }

    /// Forks a monitor for the next container, unless one waits already: it ends with this handle.
    pub fn warm_up(&self) -> Result<()> {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.is_none() {
            *spare = Some(self.fork_monitor()?);
        }
        Ok(())
    }

    fn take_spare(&self) -> Option<UnixStream> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Its control connection; only the monitor reads it, so that the length of what is sent, of labels or device rules, is no
    /// matter.
    fn fork_monitor(&self) -> Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair().map_err(Error::io("make a socket pair"))?;
        self.tell(&[OP_START], &[theirs.as_fd()])?;
        Ok(ours)
    }

    /// A fresh network namespace with `lo` up.
    pub fn network_namespace(&self) -> Result<NetworkNamespace> {
        let mut fds = self.ask(&[OP_NETWORK_NAMESPACE], &[], 3)?.into_iter();
        let mut next = || fds.next().ok_or_else(|| Error::Unavailable("the spawner's reply lacks a descriptor".into()));
        Ok(NetworkNamespace { ns: next()?, route: next()?, new_links_without_ipv6: next()? })
    }

    /// A route socket inside an existing network namespace.
    pub fn route_socket(&self, ns: BorrowedFd<'_>) -> Result<OwnedFd> {
        let fds = self.ask(&[OP_ROUTE_SOCKET], &[ns], 1)?;
        fds.into_iter().next().ok_or_else(|| Error::Unavailable("the spawner's reply lacks a descriptor".into()))
    }

    /// Sockets for the resolver inside a network namespace; `ports` (UDP, TCP) are wishes, 0 is any.
    pub fn resolver_sockets(&self, ns: BorrowedFd<'_>, ports: (u16, u16)) -> Result<ResolverSockets> {
        let ([a, b], [c, d]) = (ports.0.to_be_bytes(), ports.1.to_be_bytes());
        let mut fds = self.ask(&[OP_RESOLVER_SOCKETS, a, b, c, d], &[ns], 3)?.into_iter();
        let mut next = || fds.next().ok_or_else(|| Error::Unavailable("the spawner's reply lacks a descriptor".into()));
        Ok(ResolverSockets { udp: next()?, tcp: next()?, netfilter: next()? })
    }

    /// Has a monitor make what is asked for while the caller prepares the rest. What it cannot make is told as the failure of
    /// the start.
    pub fn prepare(&self, preparation: Preparation) -> Result<Pending> {
        let opening = Opening {
            directory: preparation.directory,
            log: preparation.log.map(|log| Log {
                path: log.path,
                max_size: log.max_size,
                max_files: log.max_files,
                compress: log.compress,
                attrs: log.attrs,
                queue: log.queue,
            }),
            cgroup: preparation.cgroup,
            throwaway: preparation.throwaway,
        };
        let frame = encode(&opening);
        // One that somebody has killed while it waited takes nothing.
        if let Some(mut spare) = self.take_spare()
            && spare.write_all(&frame).is_ok()
        {
            return Ok(Pending(Some(spare)));
        }
        let mut control = self.fork_monitor()?;
        control.write_all(&frame).map_err(|error| ended(errno_of(&error)))?;
        Ok(Pending(Some(control)))
    }

    /// Has a monitor make the container, all but its program: its processes and mounts, where this crate runs it and no hook
    /// has to wait for the start.
    pub fn load(&self, pending: Pending, mut request: StartRequest) -> Result<Loaded> {
        let filter = match request.spec.linux.as_mut().and_then(|linux| linux.seccomp.take()) {
            Some(filter) if request.runtime == RuntimeKind::Native => self.seccomp.compile(&filter)?,
            Some(filter) => {
                // An external runtime compiles the filter itself.
                request.spec.linux_mut().seccomp = Some(filter);
                Default::default()
            }
            None => Default::default(),
        };
        let mut fds = Vec::new();
        let rootfs = match request.rootfs {
            Rootfs::Mount(fd) => {
                fds.push(fd);
                StartRootfs::Descriptor
            }
            Rootfs::Path(path) => StartRootfs::Path(path),
        };
        let network_namespace = request.network_namespace.is_some();
        fds.extend(request.network_namespace);
        let start = Start {
            id: request.id,
            spec: request.spec,
            rootfs,
            network_namespace,
            tty: request.tty,
            open_stdin: request.open_stdin,
            stdin_once: request.stdin_once,
            init: request.init,
            runtime: match request.runtime {
                RuntimeKind::Native => StartRuntime::Native,
                RuntimeKind::External { program, args, bundle } => StartRuntime::External { program, args, bundle },
            },
            seccomp_instructions: filter.instructions.len() as u32,
            seccomp_flags: filter.flags,
        };
        let mut payload = encode(&start);
        if payload.len() > monitor::MAX_FRAME_BYTES {
            return Err(Error::Invalid("the container's specification is too long".into()));
        }
        payload.extend(filter.instructions.iter().flat_map(|instruction| instruction.to_bytes()));
        let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        let control = pending.0.as_ref().expect("there until it is started or dropped");
        send_frame(control, &payload, &borrowed).map_err(ended)?;
        Ok(Loaded(pending))
    }

    fn tell(&self, message: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        connection.send(message, fds)
    }

    fn ask(&self, message: &[u8], fds: &[BorrowedFd<'_>], reply: usize) -> Result<Vec<OwnedFd>> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        connection.send(message, fds)?;
        let mut answer = [0; 256];
        let (count, received) =
            receive_with_fds(connection.socket.as_fd(), &mut answer).map_err(Error::system("receive from the spawner"))?;
        match answer[..count] {
            [] => Err(Error::Unavailable("the spawner has ended".into())),
            [0] if received.len() == reply => Ok(received),
            [1, a, b, c, d] => {
                Err(Error::System { action: "make a network namespace", errno: Errno::from_raw_os_error(i32::from_ne_bytes([a, b, c, d])) })
            }
            _ => Err(Error::Unavailable("the spawner's reply is not understood".into())),
        }
    }
}

fn ended(errno: Errno) -> Error {
    Error::Unavailable(format!("the monitor of the container ended: {errno}"))
}

/// The descriptors go with the frame's length, which is sent at once or not at all.
fn send_frame(mut control: &UnixStream, frame: &[u8], fds: &[BorrowedFd<'_>]) -> std::result::Result<(), Errno> {
    let (length, rest) = frame.split_at(LENGTH_BYTES);
    send_with_fds(control.as_fd(), length, fds)?;
    control.write_all(rest).map_err(|error| errno_of(&error))
}

impl Connection {
    fn open(descriptors: Rlimit) -> Result<Connection> {
        let program = protected(ROLE)?;
        let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(Error::system("make a socket pair"))?;
        let process = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
            .arg0(ROLE)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .map_err(Error::io("execute the spawner"))?;
        // Containers inherit it; the daemon may have raised its own since.
        rustix::process::prlimit(Some(Pid::from_child(&process)), Resource::Nofile, descriptors)
            .map_err(Error::system("set the spawner's limit of descriptors"))?;
        Ok(Connection { socket: ours, process, descriptors })
    }

    /// Sends; a spawner that has died (out of memory, an operator's mistake) is replaced once.
    fn send(&mut self, message: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        match send_with_fds(self.socket.as_fd(), message, fds) {
            Ok(()) => Ok(()),
            Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => {
                // It has closed its end, so it has ended: this only reaps it.
                drop(self.process.wait());
                *self = Connection::open(self.descriptors)?;
                send_with_fds(self.socket.as_fd(), message, fds).map_err(Error::system("send to the spawner"))
            }
            Err(errno) => Err(Error::System { action: "send to the spawner", errno }),
        }
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        let connection = self.connection.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Closing our end is what ends it; shutdown does it before the field is dropped, so that it can be reaped here.
        ignore(rustix::net::shutdown(&connection.socket, rustix::net::Shutdown::Both));
        drop(connection.process.wait());
    }
}

/// The role: serves until the daemon's end of the socket (descriptor 0) closes.
pub fn main() -> i32 {
    let Ok(threads) = SingleThread::claim() else { return 1 };
    // A process of a container must not read our memory or descriptors while it shares a pid namespace with a child
    // that has not yet executed; forked children inherit this, exec resets it.
    ignore(process::set_dumpable(false));
    // No session, no terminal; children that end are reaped by the kernel; signals meant for the daemon's group pass by.
    ignore(rustix::process::setsid());
    process::ignore_signals(&[libc::SIGCHLD, libc::SIGHUP, libc::SIGINT, libc::SIGTERM, libc::SIGPIPE]);
    let Some(first) = process::claim_fd(0) else { return 1 };
    // What the daemon was started with by mistake ends here.
    ignore(process::close_from(3, false));
    ignore(rustix::thread::set_name(c"naru-spawner"));
    let Ok(socket) = rustix::io::fcntl_dupfd_cloexec(&first, 3) else { return 1 };
    drop(first);
    // 0 is free now and must never be a descriptor that matters.
    match rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty()) {
        Ok(null) => drop(null.into_raw_fd()),
        Err(_) => return 1,
    }
    crate::cgroup::warm();
    let mut server = Server { threads, socket, home: None, _cheap_moves: crate::cgroup::cheap_moves() };
    server.serve()
}

type Sockets = std::result::Result<Vec<OwnedFd>, Errno>;

struct Server {
    threads: SingleThread,
    socket: OwnedFd,
    /// Our own network namespace, to come back to.
    home: Option<OwnedFd>,
    _cheap_moves: Option<OwnedFd>,
}

impl Server {
    fn serve(&mut self) -> i32 {
        loop {
            let mut message = [0; 16];
            let (count, fds) = match receive_with_fds(self.socket.as_fd(), &mut message) {
                Ok(received) => received,
                Err(Errno::INTR) => continue,
                Err(_) => return 1,
            };
            match message[..count] {
                [] => return 0,
                [OP_START] => {
                    // A message without its connection is nobody's, and if there is no fork it closes, which the daemon sees.
                    if let Some(control) = fds.into_iter().next()
                        && let Ok(Fork::Child) = self.threads.fork()
                    {
                        // Not a return: descriptors of this process's values are closed there behind their backs.
                        process::exit_now(monitor::main(self.threads, control));
                    }
                }
                [OP_NETWORK_NAMESPACE] => {
                    let reply = self.namespace();
                    self.reply(reply);
                }
                [OP_ROUTE_SOCKET] => {
                    let reply = match fds.first() {
                        Some(ns) => self.inside(ns.as_fd(), || Ok(vec![open_route_socket()?])),
                        None => Err(Errno::INVAL),
                    };
                    self.reply(reply);
                }
                [OP_RESOLVER_SOCKETS, a, b, c, d] => {
                    let ports = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
                    let reply = match fds.first() {
                        Some(ns) => self.inside(ns.as_fd(), || resolver_sockets(ports)),
                        None => Err(Errno::INVAL),
                    };
                    self.reply(reply);
                }
                _ => self.reply(Err(Errno::NOSYS)),
            }
        }
    }

    fn reply(&self, result: std::result::Result<Vec<OwnedFd>, Errno>) {
        // If the daemon is gone, the next receive says so.
        ignore(match result {
            Ok(fds) => {
                let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
                send_with_fds(self.socket.as_fd(), &[0], &borrowed)
            }
            Err(errno) => {
                let [a, b, c, d] = errno.raw_os_error().to_ne_bytes();
                send_with_fds(self.socket.as_fd(), &[1, a, b, c, d], &[])
            }
        });
    }

    fn home(&mut self) -> std::result::Result<BorrowedFd<'_>, Errno> {
        if self.home.is_none() {
            self.home = Some(own_network_namespace()?);
        }
        Ok(self.home.as_ref().expect("just set").as_fd())
    }

    /// Goes back to our own network namespace. There is no going on in a wrong one.
    fn return_home(&self) {
        let home = self.home.as_ref().expect("set before leaving");
        if process::setns(home.as_fd(), libc::CLONE_NEWNET as u64).is_err() {
            process::exit_now(1);
        }
    }

    fn namespace(&mut self) -> std::result::Result<Vec<OwnedFd>, Errno> {
        self.home()?;
        process::unshare(self.threads, libc::CLONE_NEWNET as u64)?;
        let result = (|| {
            naru_sys::net::loopback_up()?;
            free_for_all_users()?;
            Ok(vec![own_network_namespace()?, open_route_socket()?, new_links_without_ipv6()?])
        })();
        self.return_home();
        result
    }

    /// Opens sockets inside a network namespace.
    fn inside(&mut self, ns: BorrowedFd<'_>, open: impl FnOnce() -> Sockets) -> Sockets {
        self.home()?;
        process::setns(ns, libc::CLONE_NEWNET as u64)?;
        let result = open();
        self.return_home();
        result
    }
}

/// Docker's parameters of a container's own network: any user of it may listen on ports below 1024 and may ping, without
/// capabilities. Set here and not by the container's specification, because here nobody waits for it.
fn free_for_all_users() -> std::result::Result<(), Errno> {
    for (parameter, value) in [("ip_unprivileged_port_start", "0"), ("ping_group_range", "0 2147483647")] {
        let file = rustix::fs::open(format!("/proc/sys/net/ipv4/{parameter}"), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(&file, value.as_bytes())?;
    }
    Ok(())
}

fn own_network_namespace() -> std::result::Result<OwnedFd, Errno> {
    rustix::fs::open("/proc/self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

fn new_links_without_ipv6() -> std::result::Result<OwnedFd, Errno> {
    let open = |path: &str| rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    match open("/proc/sys/net/ipv6/conf/default/disable_ipv6") {
        Err(Errno::NOENT) => open("/dev/null"),
        opened => opened,
    }
}

/// NETLINK_ROUTE is protocol 0, the default.
fn open_route_socket() -> std::result::Result<OwnedFd, Errno> {
    rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)
}

fn resolver_sockets(ports: (u16, u16)) -> Sockets {
    use rustix::net::{Ipv4Addr, SocketAddrV4, bind, listen, netlink, socket_with, sockopt};
    let open = |kind: SocketType, port: u16| -> std::result::Result<OwnedFd, Errno> {
        let socket = socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
        if kind == SocketType::STREAM {
            // Connections of a former daemon may still wait for their end.
            sockopt::set_socket_reuseaddr(&socket, true)?;
        }
        let at = |port| SocketAddrV4::new(Ipv4Addr::from(RESOLVER_ADDRESS), port);
        match bind(&socket, &at(port)) {
            Err(Errno::ADDRINUSE) if port != 0 => bind(&socket, &at(0))?,
            result => result?,
        }
        Ok(socket)
    };
    let (udp, tcp) = (open(SocketType::DGRAM, ports.0)?, open(SocketType::STREAM, ports.1)?);
    listen(&tcp, RESOLVER_BACKLOG)?;
    let netfilter = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(netlink::NETFILTER))?;
    Ok(vec![udp, tcp, netfilter])
}
