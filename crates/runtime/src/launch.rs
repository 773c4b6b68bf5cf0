//! The parent's side of a start: clone, then answer the child until its program runs.

use crate::child::{self, Stdio};
use crate::error::{Error, StartFailure, ignore};
use crate::handshake::{self, ParentEnd, Word};
use crate::hooks;
use crate::plan::Plan;
use crate::spec::{Hooks, Spec};
use naru_sys::process::{self, Clone3, SingleThread};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A process that runs its program, or waits for `start`.
#[derive(Debug)]
pub(crate) struct Launched {
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub terminal: Option<OwnedFd>,
}

/// A process that has said that it is ready, or runs its program. Dropped, it is killed.
pub(crate) struct Held {
    launched: Option<Launched>,
    channel: ParentEnd,
}

impl Held {
    /// Lets the program run that waits for this process.
    pub(crate) fn go_on(self, context: &HookContext<'_>) -> Result<Launched, StartFailure> {
        let pid = self.launched.as_ref().map_or(0, |launched| launched.pid);
        // If it has died, it is heard below.
        ignore(self.channel.go_on());
        let attending = Attending { pid, maps: None, oom_score_adj: None, context };
        match attending.attend(&self.channel) {
            Ok(_) => Ok(self.let_go()),
            Err(failure) => Err(failure.unwrap_or_else(|| died(self.kill()))),
        }
    }

    fn let_go(mut self) -> Launched {
        self.launched.take().expect("taken once")
    }

    fn kill(mut self) -> Result<Option<(i32, process::Ended)>, Errno> {
        self.launched.take().map_or(Ok(None), |launched| kill(launched.pid, &launched.pidfd))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(launched) = self.launched.take() {
            ignore(kill(launched.pid, &launched.pidfd));
        }
    }
}

fn kill(pid: i32, pidfd: &OwnedFd) -> Result<Option<(i32, process::Ended)>, Errno> {
    ignore(process::pidfd_signal(pidfd.as_fd(), libc::SIGKILL));
    process::wait_child(pid, true)
}

/// What the parent needs for hooks.
pub(crate) struct HookContext<'a> {
    pub id: &'a str,
    pub bundle: &'a str,
    pub spec: &'a Spec,
}

fn other(action: &'static str) -> impl FnOnce(Errno) -> StartFailure {
    move |errno| Error::System { action, errno }.into()
}

/// While this lives, children of this process are born in another pid namespace. It must not be left on: hooks and
/// compressors are children too.
pub(crate) struct ChildrenIn(Option<OwnedFd>);

impl ChildrenIn {
    /// `namespace` is a pid namespace or a pidfd of a process in it.
    pub(crate) fn enter(namespace: BorrowedFd<'_>) -> Result<ChildrenIn, StartFailure> {
        let own = rustix::fs::open("/proc/self/ns/pid", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(other("open the pid namespace"))?;
        process::setns(namespace, libc::CLONE_NEWPID as u64).map_err(other("join the pid namespace"))?;
        Ok(ChildrenIn(Some(own)))
    }

    fn nothing() -> ChildrenIn {
        ChildrenIn(None)
    }
}

impl Drop for ChildrenIn {
    fn drop(&mut self) {
        if let Some(own) = &self.0 {
            // The kernel always allows the way back to one's own.
            ignore(process::setns(own.as_fd(), libc::CLONE_NEWPID as u64));
        }
    }
}

/// Starts the container, until its program runs or, with `create`, waits for `start`. On failure nothing of it is left but
/// its cgroup.
pub(crate) fn launch(threads: SingleThread, plan: Plan, stdio: Option<Stdio>, context: &HookContext<'_>) -> Result<Launched, StartFailure> {
    hold(threads, plan, stdio, context).map(Held::let_go)
}

/// The same, for a process whose gate is its parent: it waits.
pub(crate) fn hold(threads: SingleThread, mut plan: Plan, stdio: Option<Stdio>, context: &HookContext<'_>) -> Result<Held, StartFailure> {
    let children = plan.join_pid.as_ref().map_or_else(|| Ok(ChildrenIn::nothing()), |namespace| ChildrenIn::enter(namespace.as_fd()))?;
    if let Some(offsets) = &plan.new_time_namespace {
        process::unshare(threads, libc::CLONE_NEWTIME as u64).map_err(other("make a time namespace"))?;
        if !offsets.is_empty() {
            std::fs::write("/proc/self/timens_offsets", offsets)
                .map_err(|error| StartFailure::other(format!("set the time offsets: {error}")))?;
        }
    }
    let (parent, mut channel) = handshake::pair().map_err(other("make a socket pair"))?;
    let clone = match threads.clone3(plan.clone_flags, plan.entry.unified.as_ref().map(AsFd::as_fd)) {
        Ok(clone) => clone,
        Err(errno) => return Err(other("clone the container's process")(errno)),
    };
    match clone {
        Clone3::Child => {
            // The parent's end would keep its end of file from us.
            drop(parent);
            let failure = child::run(threads, &mut plan, stdio, &mut channel);
            channel.failed(&failure);
            process::exit_now(1)
        }
        Clone3::Parent { pid, pidfd } => {
            drop((children, channel, stdio));
            let maps = plan.id_maps.take();
            let oom_score_adj = plan.process.oom_score_adj;
            // The rest of the plan is the child's; letting go of it releases mounts and descriptors.
            drop(plan);
            let attending = Attending { pid, maps, oom_score_adj, context };
            match attending.attend(&parent) {
                Ok(terminal) => Ok(Held { launched: Some(Launched { pid, pidfd, terminal }), channel: parent }),
                Err(failure) => {
                    let ended = kill(pid, &pidfd);
                    Err(failure.unwrap_or_else(|| died(ended)))
                }
            }
        }
    }
}

/// The child has ended without a word.
pub(crate) fn died(ended: Result<Option<(i32, process::Ended)>, Errno>) -> StartFailure {
    StartFailure::other(match ended {
        Ok(Some((_, process::Ended::Killed(libc::SIGKILL)))) => {
            "container init was killed while it was set up (out of memory: is the memory limit too low?)".to_owned()
        }
        Ok(Some((_, process::Ended::Killed(signal)))) => format!("container init was killed by signal {signal} while it was set up"),
        _ => "container init ended while it was set up".to_owned(),
    })
}

struct Attending<'a> {
    pid: i32,
    maps: Option<(String, String)>,
    oom_score_adj: Option<i32>,
    context: &'a HookContext<'a>,
}

impl Attending<'_> {
    /// Until the program runs, or waits; `None` as error means that the child died.
    fn attend(&self, channel: &ParentEnd) -> Result<Option<OwnedFd>, Option<StartFailure>> {
        let mut terminal = None;
        let mut announced = false;
        loop {
            match channel.hear().map_err(|errno| Some(other("hear from the container's process")(errno)))? {
                Word::UserNamespace => {
                    self.write_maps().map_err(Some)?;
                    channel.go_on().map_err(|_| None)?;
                }
                Word::Hooks => {
                    self.runtime_hooks().map_err(|error| Some(error.into()))?;
                    channel.go_on().map_err(|_| None)?;
                }
                Word::Terminal(fd) => terminal = Some(fd),
                Word::Exec => announced = true,
                Word::Ready => return Ok(terminal),
                Word::Failed(failure) => return Err(Some(failure)),
                Word::Gone if announced => return Ok(terminal),
                Word::Gone => return Err(None),
            }
        }
    }

    fn write_maps(&self) -> Result<(), StartFailure> {
        let write = |name: &str, text: &str| {
            let path = format!("/proc/{}/{name}", self.pid);
            std::fs::write(&path, text).map_err(|error| StartFailure::other(format!("write {path}: {error}")))
        };
        if let Some(score) = self.oom_score_adj {
            write("oom_score_adj", &score.to_string())?;
        }
        if let Some((users, groups)) = &self.maps {
            write("uid_map", users)?;
            write("gid_map", groups)?;
        }
        Ok(())
    }

    fn runtime_hooks(&self) -> Result<(), Error> {
        let empty = Hooks::default();
        let list = self.context.spec.hooks.as_ref().unwrap_or(&empty);
        let state = hooks::state(self.context.id, "creating", self.pid, self.context.bundle, self.context.spec);
        hooks::run("prestart", &list.prestart, &state)?;
        hooks::run("createRuntime", &list.create_runtime, &state)
    }
}

/// Enters the namespaces of a process: `flags` are the `CLONE_NEW*` that differ from ours.
pub(crate) fn enter(pidfd: BorrowedFd<'_>, flags: u64) -> Result<(), StartFailure> {
    let (user, rest) = (flags & libc::CLONE_NEWUSER as u64, flags & !(libc::CLONE_NEWUSER as u64) & !(libc::CLONE_NEWPID as u64));
    if rest | user == 0 {
        return Ok(());
    }
    process::setns(pidfd, rest | user).map_err(other("join the container's namespaces"))
}
