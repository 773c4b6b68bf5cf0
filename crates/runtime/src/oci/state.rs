//! What `naru oci` keeps of a container between its commands.

use super::Context;
use crate::cgroup::Cgroup;
use crate::error::{Error, Result, errno_of, ignore};
use crate::spec::Spec;
use naru_sys::process;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

const VERSION: u32 = 1;
const STATE: &str = "state.json";
const CONFIG: &str = "config.json";
pub(super) const START_SOCKET: &str = "start.sock";

/// `state.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Stored {
    /// Of this format.
    pub version: u32,
    pub id: String,
    pub pid: i32,
    /// When the process was started, in clock ticks: a pid alone may come to mean another process.
    pub start_time: u64,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    pub created: String,
    pub cgroup: String,
    /// The `CLONE_NEW*` an exec enters.
    pub namespaces: u64,
}

/// Where a container stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub(super) fn name(self) -> &'static str {
        match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        }
    }
}

/// A container's directory below the root.
#[derive(Debug)]
pub(super) struct Container {
    pub directory: PathBuf,
    pub stored: Stored,
    /// Only one command at a time changes a container.
    _lock: OwnedFd,
}

pub(super) fn check_id(id: &str) -> Result<()> {
    let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'+' | b'-' | b'.');
    if id.is_empty() || id.len() > 1024 || id == "." || id == ".." || !id.bytes().all(word) {
        return Err(Error::Invalid(format!("invalid container ID format: {id:?}")));
    }
    Ok(())
}

fn lock(directory: &Path) -> Result<OwnedFd> {
    let handle = rustix::fs::open(directory, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(Error::path("open", directory))?;
    rustix::fs::flock(&handle, FlockOperation::LockExclusive).map_err(Error::path("lock", directory))?;
    Ok(handle)
}

impl Container {
    /// Makes the directory of a new container.
    pub(super) fn reserve(context: &Context, id: &str) -> Result<PathBuf> {
        check_id(id)?;
        let io = |error: std::io::Error, path: &Path| Error::path("create", path)(errno_of(&error));
        std::fs::create_dir_all(&context.root).map_err(|error| io(error, &context.root))?;
        let directory = context.root.join(id);
        match std::fs::create_dir(&directory) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(Error::Conflict(format!("container with given ID already exists: {id}")));
            }
            Err(error) => return Err(io(error, &directory)),
        }
        rustix::fs::chmod(&directory, Mode::from_raw_mode(0o711)).map_err(Error::path("change the mode of", &directory))?;
        Ok(directory)
    }

    pub(super) fn save(directory: &Path, stored: &Stored, spec: &Spec) -> Result<()> {
        let write = |name: &str, bytes: Vec<u8>| {
            let path = directory.join(name);
            let new = directory.join(format!("{name}.new"));
            std::fs::write(&new, bytes)
                .and_then(|()| std::fs::rename(&new, &path))
                .map_err(|error| Error::path("write", path)(errno_of(&error)))
        };
        let json = |error: serde_json::Error| Error::Invalid(format!("the container's specification: {error}"));
        write(CONFIG, serde_json::to_vec(spec).map_err(json)?)?;
        write(STATE, serde_json::to_vec(stored).map_err(json)?)
    }

    pub(super) fn load(context: &Context, id: &str) -> Result<Container> {
        check_id(id)?;
        let directory = context.root.join(id);
        let absent = || Error::NotFound(format!("container {id:?} does not exist"));
        if !directory.is_dir() {
            return Err(absent());
        }
        let lock = lock(&directory)?;
        let bytes = std::fs::read(directory.join(STATE)).map_err(|_| absent())?;
        let stored: Stored =
            serde_json::from_slice(&bytes).map_err(|error| Error::Invalid(format!("the state of container {id:?}: {error}")))?;
        if stored.version != VERSION {
            return Err(Error::Unsupported(format!("the state of container {id:?} has the unknown version {}", stored.version)));
        }
        Ok(Container { directory, stored, _lock: lock })
    }

    pub(super) fn spec(&self) -> Result<Spec> {
        read_spec(&self.directory.join(CONFIG))
    }

    pub(super) fn cgroup(&self) -> Result<Cgroup> {
        Cgroup::new(&self.stored.cgroup)
    }

    /// The process, if it still is the container's.
    pub(super) fn pidfd(&self) -> Option<OwnedFd> {
        let pid = Pid::from_raw(self.stored.pid)?;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // After the pidfd is there the number cannot change its meaning any more.
        match stat(self.stored.pid) {
            Some((state, started)) if started == self.stored.start_time && !matches!(state, 'Z' | 'X') => Some(pidfd),
            _ => None,
        }
    }

    pub(super) fn status(&self) -> Status {
        if self.pidfd().is_none() {
            return Status::Stopped;
        }
        if self.directory.join(START_SOCKET).exists() {
            return Status::Created;
        }
        if self.cgroup().is_ok_and(|cgroup| cgroup.frozen()) { Status::Paused } else { Status::Running }
    }

    /// Kills what is left and removes every trace.
    pub(super) fn remove(self) -> Result<()> {
        let cgroup = self.cgroup()?;
        if cgroup.exists() {
            if cgroup.pids().is_ok_and(|pids| !pids.is_empty()) {
                ignore(cgroup.kill());
            }
            cgroup.remove()?;
        }
        if let Ok(spec) = self.spec()
            && let Some(hooks) = &spec.hooks
        {
            let state = crate::hooks::state(&self.stored.id, "stopped", 0, &self.stored.bundle.display().to_string(), &spec);
            // The container is gone whatever they say.
            ignore(crate::hooks::run("poststop", &hooks.poststop, &state));
        }
        std::fs::remove_dir_all(&self.directory).map_err(|error| Error::path("remove", &self.directory)(errno_of(&error)))
    }
}

pub(super) fn new(id: &str, pid: i32, bundle: &Path, rootfs: &Path, cgroup: &str, namespaces: u64) -> Stored {
    Stored {
        version: VERSION,
        id: id.to_owned(),
        pid,
        start_time: stat(pid).map_or(0, |(_, started)| started),
        bundle: bundle.to_path_buf(),
        rootfs: rootfs.to_path_buf(),
        created: crate::time::now(),
        cgroup: cgroup.to_owned(),
        namespaces,
    }
}

pub(super) fn read_spec(path: &Path) -> Result<Spec> {
    let bytes = std::fs::read(path).map_err(|error| Error::path("read", path)(errno_of(&error)))?;
    serde_json::from_slice(&bytes).map_err(|error| Error::Invalid(format!("{}: {error}", path.display())))
}

/// State letter and start time of a process.
fn stat(pid: i32) -> Option<(char, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain anything; the fields after it do not.
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// A file with a pid, written whole or not at all.
pub(super) fn write_pid_file(path: &Path, pid: i32) -> Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    std::fs::write(&new, pid.to_string())
        .and_then(|()| std::fs::rename(&new, path))
        .map_err(|error| Error::path("write", path)(errno_of(&error)))
}

/// Sends a signal to a container's process.
pub(super) fn signal(pidfd: &OwnedFd, number: i32) -> Result<()> {
    use std::os::fd::AsFd;
    process::pidfd_signal(pidfd.as_fd(), number).map_err(Error::system("send the signal"))
}
