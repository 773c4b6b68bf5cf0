//! Another OCI runtime's program (`runc`, `crun`, `runsc`) in place of this crate's own start.
//!
//! The monitor becomes a subreaper, so that what the program leaves behind is its child; it has a mount namespace of its
//! own in which a detached root file system can be attached to the bundle without the host seeing it.

use super::process::{self as streams, Process};
use super::protocol::{ExecRequest, Start, StartRootfs};
use super::serve::Backend;
use super::start::{io_failure, main_process};
use crate::bytes::receive_with_fds;
use crate::child::Stdio;
use crate::error::{FailureReason, StartFailure};
use crate::spec::{Namespace, NamespaceKind, Root};
use naru_sys::process::{self, SingleThread};
use rustix::fs::{Mode, OFlags};
use rustix::process::PidfdFlags;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio as CommandStdio};

/// The program and where it works.
#[derive(Debug)]
pub(super) struct Runtime {
    pub program: PathBuf,
    pub args: Vec<String>,
    pub bundle: PathBuf,
}

/// A container run by it.
#[derive(Debug)]
pub(super) struct Handle {
    runtime: Runtime,
    id: String,
    /// The program's own state, log, pid files and sockets.
    directory: PathBuf,
}

/// A process it has started.
pub(super) struct Begun {
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub terminal: Option<OwnedFd>,
}

pub(super) fn begin(
    threads: SingleThread,
    start: &mut Start,
    directory: &Path,
    rootfs: Option<OwnedFd>,
    network_namespace: Option<OwnedFd>,
    runtime: Runtime,
) -> Result<(Process, Backend), StartFailure> {
    process::become_subreaper().map_err(|errno| StartFailure::other(format!("become a subreaper: {errno}")))?;
    let root = match &start.rootfs {
        StartRootfs::Path(path) => path.clone(),
        StartRootfs::Descriptor => attach_root(threads, &runtime.bundle, rootfs.as_ref())?,
    };
    start.spec.root.get_or_insert_with(Root::default).path = root.display().to_string();
    if let Some(namespace) = &network_namespace {
        // The program opens it by path while we hold it.
        let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
        let namespaces = &mut start.spec.linux_mut().namespaces;
        namespaces.retain(|namespace| namespace.kind != NamespaceKind::Network);
        namespaces.push(Namespace { kind: NamespaceKind::Network, path });
    }
    if let Some(process) = &mut start.spec.process {
        process.terminal = start.tty;
    }
    let directory = directory.join("runtime");
    std::fs::create_dir_all(&directory).map_err(|error| io_failure("make the runtime's directory", &error))?;
    let config = serde_json::to_vec(&start.spec).map_err(|error| StartFailure::other(format!("write config.json: {error}")))?;
    std::fs::write(runtime.bundle.join("config.json"), config).map_err(|error| io_failure("write config.json", &error))?;
    let handle = Handle { runtime, id: start.id.to_string(), directory };
    let (stdio, ends) = if start.tty {
        (None, None)
    } else {
        let (stdio, ends) = streams::pipes(start.open_stdin, true, true)?;
        (Some(stdio), Some(ends))
    };
    let begun = handle.create(stdio);
    let begun = begun.and_then(|begun| handle.run(handle.command("start").arg(&handle.id), None).map(|()| begun));
    let begun = begun.inspect_err(|_| handle.delete())?;
    let ends = match (&begun.terminal, ends) {
        (Some(terminal), _) => streams::terminal_ends(terminal, true)?,
        (None, Some(ends)) => ends,
        (None, None) => return Err(StartFailure::other("the runtime sent no terminal")),
    };
    Ok((main_process(begun.pid, begun.pidfd, begun.terminal, ends, start), Backend::External(handle)))
}

/// Attaches a detached root file system to the bundle, in a mount namespace of this process.
fn attach_root(threads: SingleThread, bundle: &Path, rootfs: Option<&OwnedFd>) -> Result<PathBuf, StartFailure> {
    let failed = |what: &'static str| move |errno| StartFailure::other(format!("{what}: {errno}"));
    let rootfs = rootfs.ok_or_else(|| StartFailure::other("the start request has no root file system"))?;
    process::unshare(threads, libc::CLONE_NEWNS as u64).map_err(failed("make a mount namespace"))?;
    let flags = rustix::mount::MountPropagationFlags::DOWNSTREAM | rustix::mount::MountPropagationFlags::REC;
    rustix::mount::mount_change("/", flags).map_err(failed("keep mounts to ourselves"))?;
    let path = bundle.join("rootfs");
    std::fs::create_dir_all(&path).map_err(|error| io_failure("make the bundle's rootfs", &error))?;
    let target = rustix::fs::open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed("open the bundle's rootfs"))?;
    crate::mounts::attach(rootfs.as_fd(), target.as_fd()).map_err(failed("attach the root file system"))?;
    Ok(path)
}

/// The message of the last error in a log of JSON objects: runc writes one a line, crun spreads each over several.
fn last_error(text: &str) -> Option<String> {
    let entries = serde_json::Deserializer::from_str(text).into_iter::<serde_json::Value>().map_while(Result::ok);
    entries.filter(|entry| entry["level"] == "error").filter_map(|entry| entry["msg"].as_str().map(str::to_owned)).last()
}

impl Handle {
    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.runtime.program);
        command.args(&self.runtime.args);
        command.arg("--root").arg(self.directory.join("state"));
        command.arg("--log").arg(self.directory.join("log")).args(["--log-format", "json"]);
        command.arg(verb).env_clear().env("PATH", crate::defaults::PATH);
        command
    }

    fn run(&self, command: &mut Command, stdio: Option<Stdio>) -> Result<(), StartFailure> {
        // A log of an earlier command must not explain this one.
        drop(std::fs::remove_file(self.directory.join("log")));
        match stdio {
            Some(stdio) => command
                .stdin(CommandStdio::from(stdio.stdin))
                .stdout(CommandStdio::from(stdio.stdout))
                .stderr(CommandStdio::from(stdio.stderr)),
            None => command.stdin(CommandStdio::null()).stdout(CommandStdio::null()).stderr(CommandStdio::null()),
        };
        let status = command.status().map_err(|error| io_failure(&format!("execute {}", self.runtime.program.display()), &error));
        // The command holds our ends of the pipes' other sides: dropped with its value by the caller, but not yet here.
        command.stdin(CommandStdio::null()).stdout(CommandStdio::null()).stderr(CommandStdio::null());
        if status?.success() { Ok(()) } else { Err(self.explain()) }
    }

    /// The last error in the program's log.
    fn explain(&self) -> StartFailure {
        let text = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        let message = last_error(&text).unwrap_or_else(|| format!("{} failed without a message", self.runtime.program.display()));
        let missing = message.contains("executable file") && message.contains("not found");
        let reason = if missing || (message.contains("exec") && message.contains("no such file or directory")) {
            FailureReason::NotFound
        } else if message.contains("permission denied") || message.contains("is a directory") {
            FailureReason::PermissionDenied
        } else {
            FailureReason::Other
        };
        StartFailure { reason, message }
    }

    fn create(&self, stdio: Option<Stdio>) -> Result<Begun, StartFailure> {
        let mut command = self.command("create");
        command.arg("--bundle").arg(&self.runtime.bundle);
        self.launch(command, stdio, |command| {
            command.arg(&self.id);
        })
    }

    /// Another process in the container.
    pub(super) fn exec(&self, request: &ExecRequest, stdio: Option<Stdio>) -> Result<Begun, StartFailure> {
        let path = self.directory.join("process.json");
        let mut process = request.process.clone();
        process.terminal = request.tty;
        let text = serde_json::to_vec(&process).map_err(|error| StartFailure::other(format!("write process.json: {error}")))?;
        std::fs::write(&path, text).map_err(|error| io_failure("write process.json", &error))?;
        let mut command = self.command("exec");
        command.arg("--detach").arg("--process").arg(path);
        self.launch(command, stdio, |command| {
            command.arg(&self.id);
        })
    }

    /// Runs a command that leaves a process behind and tells its pid in a file, its terminal over a socket.
    fn launch(&self, mut command: Command, stdio: Option<Stdio>, finish: impl FnOnce(&mut Command)) -> Result<Begun, StartFailure> {
        let pid_file = self.directory.join("pid");
        drop(std::fs::remove_file(&pid_file));
        command.arg("--pid-file").arg(&pid_file);
        let console = if stdio.is_none() { Some(self.console()?) } else { None };
        if let Some((path, _)) = &console {
            command.arg("--console-socket").arg(path);
        }
        finish(&mut command);
        self.run(&mut command, stdio)?;
        drop(command);
        let terminal = match console {
            Some((path, listener)) => {
                let (connection, _) = listener.accept().map_err(|error| io_failure("receive the terminal", &error))?;
                drop(std::fs::remove_file(path));
                let (_, fds) = receive_with_fds(connection.as_fd(), &mut [0; 4096])
                    .map_err(|errno| StartFailure::other(format!("receive the terminal: {errno}")))?;
                Some(fds.into_iter().next().ok_or_else(|| StartFailure::other("the runtime sent no terminal"))?)
            }
            None => None,
        };
        let text = std::fs::read_to_string(&pid_file).map_err(|error| io_failure("read the pid file", &error))?;
        let pid: i32 = text.trim().parse().map_err(|_| StartFailure::other(format!("the runtime's pid file holds {text:?}")))?;
        let known = rustix::process::Pid::from_raw(pid).ok_or_else(|| StartFailure::other("the runtime's pid is 0"))?;
        let pidfd = rustix::process::pidfd_open(known, PidfdFlags::empty())
            .map_err(|errno| StartFailure::other(format!("open the process: {errno}")))?;
        Ok(Begun { pid, pidfd, terminal })
    }

    /// A short path of its own: socket names hold 107 bytes.
    fn console(&self) -> Result<(PathBuf, UnixListener), StartFailure> {
        let path = PathBuf::from(format!("/run/naru-console-{}.sock", std::process::id()));
        drop(std::fs::remove_file(&path));
        let listener = UnixListener::bind(&path).map_err(|error| io_failure("bind the console socket", &error))?;
        Ok((path, listener))
    }

    pub(super) fn delete(&self) {
        // What it cannot delete it has never made.
        drop(self.run(self.command("delete").arg("--force").arg(&self.id), None));
        drop(std::fs::remove_dir_all(&self.directory));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_both_kinds_of_logs() {
        let runc = "{\"level\":\"warning\",\"msg\":\"w\"}\n{\"level\":\"error\",\"msg\":\"first\"}\n{\"level\":\"error\",\"msg\":\"last\"}\n{\"level\":\"info\",\"msg\":\"i\"}\n";
        assert_eq!(last_error(runc).as_deref(), Some("last"));
        let crun =
            "{\n    \"msg\": \"executable file `x` not found\",\n    \"level\": \"error\",\n    \"time\": \"2026-01-01T00:00:00Z\"\n}\n";
        assert_eq!(last_error(crun).as_deref(), Some("executable file `x` not found"));
        assert_eq!(last_error("no JSON"), None);
    }
}
