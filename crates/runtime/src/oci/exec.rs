//! `exec`.

use super::arguments::{Arguments, Flag};
use super::create::{own_streams, send_terminal, wrapped};
use super::state::{Container, Status, write_pid_file};
use super::{Context, relay};
use crate::error::{Error, Result, StartFailure, errno_of, ignore};
use crate::exec::clone_exec;
use crate::handshake::Word;
use crate::plan::ProcessPlan;
use crate::seccomp;
use crate::spec::{Capabilities, Process, Spec};
use naru_sys::process::{self, SingleThread};
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::Path;

const FLAGS: &[Flag] = &[
    Flag::value("console-socket", ""),
    Flag::value("pidfd-socket", ""),
    Flag::value("cwd", ""),
    Flag::value("env", "e"),
    Flag::switch("tty", "t"),
    Flag::value("user", "u"),
    Flag::value("additional-gids", "g"),
    Flag::value("process", "p"),
    Flag::switch("detach", "d"),
    Flag::value("pid-file", ""),
    Flag::value("process-label", ""),
    Flag::value("apparmor", ""),
    Flag::switch("no-new-privs", ""),
    Flag::value("cap", "c"),
    Flag::value("preserve-fds", ""),
    Flag::value("cgroup", ""),
    Flag::switch("ignore-paused", ""),
];

pub(super) fn exec(context: &Context, args: &[OsString]) -> Result<i32> {
    let arguments = Arguments::parse(args, FLAGS)?;
    let threads = SingleThread::claim().map_err(Error::system("check that there is one thread"))?;
    let container = Container::load(context, &arguments.id()?)?;
    match container.status() {
        Status::Running | Status::Created => {}
        Status::Paused if arguments.has("ignore-paused") => {}
        Status::Paused => return Err(Error::Conflict("cannot exec in a paused container (use --ignore-paused to override)".into())),
        Status::Stopped => return Err(Error::Conflict("cannot exec in a stopped container".into())),
    }
    let spec = container.spec()?;
    let described = describe(&arguments, &spec)?;
    let filter = match spec.linux.as_ref().and_then(|linux| linux.seccomp.as_ref()) {
        Some(filter) => seccomp::compile(filter)?,
        None => seccomp::Program::default(),
    };
    let mut plan = ProcessPlan::new(&described, filter, described.terminal)?;
    plan.preserved_fds = arguments.number("preserve-fds")?.unwrap_or(0);
    let pidfd = container.pidfd().ok_or_else(|| Error::Conflict("cannot exec in a stopped container".into()))?;
    let stdio = if described.terminal { None } else { Some(own_streams()?) };
    let cgroup = container.cgroup()?;
    let namespaces = container.stored.namespaces;
    let (channel, pid, child) = clone_exec(threads, plan, stdio, &cgroup, pidfd.as_fd(), namespaces).map_err(Error::Start)?;
    drop(container);
    let mut terminal = None;
    let mut announced = false;
    let failure = loop {
        match channel.hear().map_err(Error::system("hear from the process"))? {
            Word::Exec => announced = true,
            Word::Terminal(fd) => terminal = Some(fd),
            Word::Gone if announced => break None,
            Word::Failed(failure) => break Some(failure),
            _ => break Some(StartFailure::other("the process ended while it was set up")),
        }
    };
    if let Some(failure) = failure {
        ignore(process::pidfd_signal(child.as_fd(), libc::SIGKILL));
        ignore(process::wait_child(pid, true));
        return Err(wrapped(failure));
    }
    if let (Some(terminal), Some(path)) = (&terminal, arguments.get("console-socket")) {
        send_terminal(Path::new(path), terminal)?;
    }
    if let Some(path) = arguments.get("pid-file") {
        write_pid_file(Path::new(path), pid)?;
    }
    if arguments.has("detach") {
        return Ok(0);
    }
    relay::wait(pid, &child, terminal.filter(|_| arguments.get("console-socket").is_none()))
}

/// The process as a file describes it, or the container's own with changes.
fn describe(arguments: &Arguments, spec: &Spec) -> Result<Process> {
    if let Some(path) = arguments.get("process") {
        let bytes = std::fs::read(path).map_err(|error| Error::path("read", path)(errno_of(&error)))?;
        return serde_json::from_slice(&bytes).map_err(|error| Error::Invalid(format!("{path}: {error}")));
    }
    let mut process = spec.process.clone().unwrap_or_default();
    process.args = arguments.rest.iter().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    if process.args.is_empty() {
        return Err(Error::Invalid("exec needs a command".into()));
    }
    process.terminal = arguments.has("tty");
    if let Some(cwd) = arguments.get("cwd") {
        process.cwd = cwd.to_owned();
    }
    process.env.extend(arguments.all("env").map(str::to_owned));
    if let Some(user) = arguments.get("user") {
        let (uid, gid) = user.split_once(':').unwrap_or((user, ""));
        let number = |text: &str| text.parse::<u32>().map_err(|_| Error::Invalid(format!("invalid user {user:?}: numbers are needed")));
        process.user.uid = number(uid)?;
        if !gid.is_empty() {
            process.user.gid = number(gid)?;
        }
        process.user.username.clear();
    }
    for gid in arguments.all("additional-gids") {
        process.user.additional_gids.push(gid.parse().map_err(|_| Error::Invalid(format!("invalid group {gid:?}")))?);
    }
    if let Some(profile) = arguments.get("apparmor") {
        process.apparmor_profile = profile.to_owned();
    }
    if let Some(label) = arguments.get("process-label") {
        process.selinux_label = label.to_owned();
    }
    process.no_new_privileges |= arguments.has("no-new-privs");
    // Added to all sets but inheritable and ambient, which stay as they are (CVE-2022-29162).
    let capabilities = process.capabilities.get_or_insert_with(Capabilities::default);
    for name in arguments.all("cap") {
        for set in [&mut capabilities.bounding, &mut capabilities.effective, &mut capabilities.permitted] {
            if !set.iter().any(|known| known == name) {
                set.push(name.to_owned());
            }
        }
    }
    Ok(process)
}
