//! The frames between the daemon and a monitor, and the small synchronous client of them.

use crate::error::{Error, FailureReason, Result, StartFailure, errno_of};
use crate::spec;
use naru_types::ContainerId;
use rustix::fs::{Mode, OFlags};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// A frame longer than this is refused: no request is that long.
pub const MAX_FRAME_BYTES: usize = 8 << 20;

/// What may be asked of a monitor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Stay connected and hear the events.
    Watch,
    /// Where the container stands.
    State,
    /// Send a signal to the container's first process.
    Signal {
        /// Its number.
        signal: i32,
    },
    /// Set the size of the terminal.
    Resize {
        /// Of this exec instead of the container's own.
        exec: Option<String>,
        /// Height in characters.
        rows: u16,
        /// Width in characters.
        columns: u16,
    },
    /// Become a client of the container's streams.
    Attach {
        /// Forward the connection's bytes to standard input.
        stdin: bool,
        /// Receive standard output.
        stdout: bool,
        /// Receive standard error.
        stderr: bool,
    },
    /// Run another process in the container.
    Exec(Box<ExecRequest>),
    /// Send a signal to the process of an exec.
    ExecSignal {
        /// Its id.
        exec: String,
        /// The signal's number.
        signal: i32,
    },
    /// The exit has been seen: the monitor may go at once.
    Shutdown,
}

/// Another process in a running container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecRequest {
    /// The caller's name for it, unique in the container.
    pub id: String,
    /// The process; `terminal` is ignored in favour of `tty`.
    pub process: spec::Process,
    /// Give it a terminal.
    pub tty: bool,
    /// Forward the connection's bytes to its standard input.
    pub stdin: bool,
    /// Send its standard output.
    pub stdout: bool,
    /// Send its standard error.
    pub stderr: bool,
    /// Without the container's seccomp filter.
    pub privileged: bool,
    /// Do not stream: the connection ends after the response.
    pub detach: bool,
    /// First size of the terminal: rows, columns.
    pub console_size: Option<(u16, u16)>,
}

/// Where a container stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Its id.
    pub id: ContainerId,
    /// The first process as the host numbers it.
    pub pid: i32,
    /// When it was started, RFC 3339 with nanoseconds.
    pub started_at: String,
    /// Execs that run, by id, with their pid.
    pub execs: BTreeMap<String, i32>,
    /// How it ended, if it has.
    pub exit: Option<ExitRecord>,
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// Done.
    Ok,
    /// To `State`.
    State(State),
    /// To `Exec`.
    ExecStarted {
        /// As the host numbers it.
        pid: i32,
    },
    /// Not done.
    Error {
        /// The class.
        kind: FailureReason,
        /// Docker's words.
        message: String,
    },
}

impl From<StartFailure> for Response {
    fn from(failure: StartFailure) -> Response {
        Response::Error { kind: failure.reason, message: failure.message }
    }
}

/// What happens to a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The program runs (its exec succeeded).
    Started {
        /// As the host numbers it.
        pid: i32,
        /// RFC 3339 with nanoseconds.
        at: String,
    },
    /// The program could not be run; the monitor ends, nothing is left.
    StartFailed {
        /// The class.
        reason: FailureReason,
        /// Docker's words.
        message: String,
    },
    /// The first process has ended, all output is in the log and the record on the disk.
    Exited(ExitRecord),
    /// The process of an exec has ended.
    ExecExited {
        /// Its id.
        id: String,
        /// Exit code, 128 + signal.
        code: i32,
    },
    /// The kernel killed a process of the container for want of memory.
    OomKill,
}

/// How a container ended; the content of `exit.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// Exit code, 128 + signal.
    pub code: i32,
    /// The signal that killed it.
    pub signal: Option<i32>,
    /// Whether the kernel killed a process of it for want of memory.
    pub oom_killed: bool,
    /// RFC 3339 with nanoseconds.
    pub finished_at: String,
}

/// The first frame on the control connection: what the forked monitor makes while the start is being prepared.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Opening {
    pub directory: PathBuf,
    pub log: Option<Log>,
    /// Path and limits; another OCI runtime makes its own.
    pub cgroup: Option<(String, spec::Resources)>,
    /// It is not started again: its end is told before its mounts and its cgroup go.
    pub throwaway: bool,
}

/// The second frame, sent with the descriptors: the container.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Start {
    pub id: ContainerId,
    pub spec: spec::Spec,
    pub rootfs: StartRootfs,
    pub network_namespace: bool,
    pub tty: bool,
    pub open_stdin: bool,
    pub stdin_once: bool,
    pub init: bool,
    pub runtime: StartRuntime,
    /// Instructions of the compiled filter; its bytes follow the frame.
    pub seccomp_instructions: u32,
    pub seccomp_flags: u64,
}

/// The third frame, sent with the descriptors of clients: the program may run.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Go {
    /// stdin, stdout, stderr of each client passed along.
    pub attach: Vec<(bool, bool, bool)>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum StartRootfs {
    Descriptor,
    Path(PathBuf),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum StartRuntime {
    Native,
    External { program: PathBuf, args: Vec<String>, bundle: PathBuf },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Log {
    pub path: PathBuf,
    pub max_size: Option<u64>,
    pub max_files: u32,
    pub compress: bool,
    pub attrs: BTreeMap<String, String>,
    pub queue: Option<u64>,
}

/// A frame: length and JSON.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, value).expect("data without maps of odd keys is always JSON");
    let length = (frame.len() - 4) as u32;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    frame
}

/// The JSON of a frame (without its length).
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| Error::Invalid(format!("a frame of the monitor's protocol: {error}")))
}

/// Reads one frame; `None` at the end of the stream.
pub(crate) fn read_frame(stream: &mut impl Read) -> Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    let mut filled = 0;
    while filled < 4 {
        match stream.read(&mut length[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(Error::Unavailable("the connection to a monitor ended within a frame".into())),
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("read from a monitor")(error)),
        }
    }
    read_body(stream, length).map(Some)
}

/// Reads what follows a frame's length.
pub(crate) fn read_body(stream: &mut impl Read, length: [u8; 4]) -> Result<Vec<u8>> {
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_FRAME_BYTES {
        return Err(Error::Invalid(format!("a frame of {length} bytes is too long")));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).map_err(Error::io("read from a monitor"))?;
    Ok(bytes)
}

/// Connects to the monitor of the container in `directory`; `Unavailable` if there is none.
pub fn connect(directory: &Path) -> Result<UnixStream> {
    let absent = |error: std::io::Error| Error::Unavailable(format!("monitor in {}: {}", directory.display(), errno_of(&error)));
    let socket = directory.join(super::files::SOCKET);
    if socket.as_os_str().len() < super::files::MAX_SOCKET_PATH {
        return UnixStream::connect(&socket).map_err(absent);
    }
    let handle = rustix::fs::open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(Error::path("open", directory))?;
    UnixStream::connect(format!("/proc/self/fd/{}/{}", handle.as_raw_fd(), super::files::SOCKET)).map_err(absent)
}

/// Sends a request.
pub fn send_request(stream: &mut UnixStream, request: &Request) -> Result<()> {
    stream.write_all(&encode(request)).map_err(Error::io("write to a monitor"))
}

/// Receives the answer to a request.
pub fn receive_response(stream: &mut UnixStream) -> Result<Response> {
    let frame = read_frame(stream)?.ok_or_else(|| Error::Unavailable("the monitor ended without an answer".into()))?;
    decode(&frame)
}

/// Receives the next event of a `Watch` connection; `None` when the monitor has ended.
pub fn receive_event(stream: &mut UnixStream) -> Result<Option<Event>> {
    read_frame(stream)?.map(|frame| decode(&frame)).transpose()
}

/// The exit record in `directory`, if the container has ended.
pub fn read_exit_record(directory: &Path) -> Result<Option<ExitRecord>> {
    let path = directory.join(super::files::EXIT_RECORD);
    match std::fs::read(&path) {
        Ok(bytes) => {
            let record = serde_json::from_slice(&bytes).map_err(|error| Error::Invalid(format!("{}: {error}", path.display())))?;
            Ok(Some(record))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::path("read", path)(errno_of(&error))),
    }
}
