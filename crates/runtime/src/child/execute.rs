//! The last steps of every process, the first and that of an exec: streams, directory, rights, user, filter, exec.

use super::{Never, PROC_SUPER_MAGIC, Stdio, Step, failed, keyring, run_hooks, tolerated, write_proc};
use crate::error::{FailureReason, StartFailure};
use crate::handshake::ChildEnd;
use crate::identity::{self, Rights};
use crate::lookup::{self, errno_text};
use crate::mounts::{self, Options};
use crate::plan::{Gate, Plan, ProcessPlan};
use naru_sys::process::{self, SingleThread};
use rustix::fs::{FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// The streams of the process.
pub(crate) enum Streams {
    Pipes(Stdio),
    /// The slave's side.
    Terminal(OwnedFd),
}

/// The last part, common to a container's first process and an exec: identity, filter, exec.
pub(crate) struct Process<'a> {
    pub plan: &'a ProcessPlan,
    /// A proc mount of ours.
    pub proc: OwnedFd,
    /// The container's start; `None` for an exec.
    pub container: Option<&'a Plan>,
    pub threads: SingleThread,
}

impl Process<'_> {
    pub(super) fn execute(self, streams: Streams, channel: &mut ChildEnd) -> Step<Never> {
        let plan = self.plan;
        take_streams(streams, plan.uid)?;
        for (file, label) in &plan.labels {
            write_proc(Some(&self.proc), &Path::new("self").join(file), label.as_bytes())
                .map_err(failed(format!("apply the label {label:?}")))?;
        }
        if let Some(name) = &plan.keyring {
            keyring(name)?;
        }
        if let Some(score) = plan.oom_score_adj {
            self.set_oom_score(score)?;
        }
        if let Some(scheduling) = &plan.scheduling {
            process::set_scheduling(scheduling).map_err(failed("set the scheduling policy"))?;
        }
        if let Some((class, level)) = plan.io_priority {
            process::set_io_priority(class, level).map_err(failed("set the I/O priority"))?;
        }
        if let Some(persona) = plan.personality {
            process::set_personality(persona).map_err(failed("set the personality"))?;
        }
        for (resource, soft, hard) in &plan.rlimits {
            process::set_rlimit(*resource, *soft, *hard).map_err(failed(format!("error setting rlimit type {resource}")))?;
        }
        rustix::process::umask(Mode::from_raw_mode(plan.umask));
        let held = identity::held().map_err(failed("read the capabilities"))?;
        let rights = match &plan.rights {
            Some(rights) => {
                rights.bound().map_err(failed("drop capabilities from the bounding set"))?;
                rights.limited_to(held)
            }
            // No word about capabilities: none for a user, all for root, as the kernel does on exec.
            None => Rights { bounding: u64::MAX, effective: held, permitted: held, ..Rights::default() },
        };
        self.become_user(held, rights.effective)?;
        if plan.no_new_privileges {
            rustix::thread::set_no_new_privs(true).map_err(failed("set no-new-privileges"))?;
        }
        enter_directory(&plan.cwd)?;
        let search = plan.environment.iter().find_map(|entry| entry.strip_prefix("PATH="));
        let path = lookup::find(&plan.program, search)?;
        // Without a word about capabilities a user keeps none: the kernel clears them on exec of a non-root process.
        let environment = plan.environment.iter().filter_map(|entry| std::ffi::CString::new(entry.as_str()).ok()).collect();
        let environment = process::StringArray::new(environment);
        let is_filtered = self.wait_for_start(channel, held)?;
        if let Some(container) = self.container
            && !container.start_container_hooks.is_empty()
        {
            run_hooks("startContainer", &container.start_container_hooks, &container.hook_state)?;
        }
        channel.last_word().map_err(failed("report that the program comes next"))?;
        if !is_filtered {
            filter(plan, held)?;
        }
        restrict(plan, &rights)?;
        drop(self.proc);
        if self.container.is_some_and(|container| container.init) {
            crate::reaper::split(self.threads, plan.terminal).map_err(failed("start the program under the reaper"))?;
        }
        let errno = process::execve(&path, &plan.arguments, &environment);
        Err(lookup::explain(&path, errno))
    }

    fn set_oom_score(&self, score: i32) -> Step {
        let file = Path::new("self/oom_score_adj");
        match write_proc(Some(&self.proc), file, score.to_string().as_bytes()) {
            Ok(()) => Ok(()),
            // In a user namespace a process that is not dumpable does not own its files; the parent has set it.
            Err(Errno::ACCESS) if self.container.is_some_and(|plan| plan.id_maps.is_some()) => Ok(()),
            Err(errno) => Err(failed("set the OOM score")(errno)),
        }
    }

    /// Changes to the user while keeping the capabilities for the filter; what is effective is the program's already,
    /// so that looking the program up sees what the user may see.
    fn become_user(&self, held: u64, effective: u64) -> Step {
        let plan = self.plan;
        let groups: Vec<Gid> = plan.groups.iter().map(|group| Gid::from_raw(*group)).collect();
        match rustix::thread::set_thread_groups(&groups) {
            // Denied in a user namespace whose maker may not; with nothing to set that is fine.
            Err(Errno::PERM) if groups.is_empty() => {}
            other => other.map_err(failed("set the groups"))?,
        }
        rustix::thread::set_keep_capabilities(true).map_err(failed("keep the capabilities"))?;
        let (user, group) = (Uid::from_raw(plan.uid), Gid::from_raw(plan.gid));
        rustix::thread::set_thread_res_gid(group, group, group).map_err(failed("set the group"))?;
        rustix::thread::set_thread_res_uid(user, user, user).map_err(failed("set the user"))?;
        rustix::thread::set_keep_capabilities(false).map_err(failed("drop the capabilities"))?;
        let effective = if plan.rights.is_none() && plan.uid != 0 { 0 } else { effective };
        identity::set(effective, held, 0).map_err(failed("set the capabilities"))
    }

    /// Waits for its parent's word, or with `create` until `start` connects, which is answered from then on. Whether the
    /// filter is loaded: where that does not stand in the way of what is left to do, it need not be waited for later.
    fn wait_for_start(&self, channel: &mut ChildEnd, held: u64) -> Step<bool> {
        let Some(container) = self.container else { return Ok(false) };
        let report = |channel: &ChildEnd| channel.ready().map_err(failed("report that the container is created"));
        let listener = match &container.gate {
            Gate::Open => return Ok(false),
            Gate::Parent => {
                report(channel)?;
                let is_filtered = container.start_container_hooks.is_empty() && self.plan.seccomp.allows(CALLS_UNTIL_RESTRICTED);
                if is_filtered {
                    filter(self.plan, held)?;
                }
                return channel.leave().map(|()| is_filtered);
            }
            Gate::Listener(listener) => listener,
        };
        report(channel)?;
        loop {
            match rustix::net::accept_with(listener, rustix::net::SocketFlags::CLOEXEC) {
                Ok(connection) => {
                    *channel = ChildEnd::from_fd(connection);
                    return Ok(false);
                }
                Err(Errno::INTR | Errno::CONNABORTED | Errno::AGAIN) => {}
                Err(errno) => return Err(failed("wait for the start")(errno)),
            }
        }
    }
}

/// Makes the streams 0 to 2, owned by the user so that it can open /dev/stdout.
fn take_streams(streams: Streams, uid: u32) -> Step {
    let what = || failed("set up the standard streams");
    let (stdin, stdout, stderr) = match &streams {
        Streams::Terminal(slave) => {
            rustix::process::ioctl_tiocsctty(slave).map_err(failed("make the terminal the controlling one"))?;
            (slave.as_fd(), slave.as_fd(), slave.as_fd())
        }
        Streams::Pipes(stdio) => (stdio.stdin.as_fd(), stdio.stdout.as_fd(), stdio.stderr.as_fd()),
    };
    for fd in [stdin, stdout, stderr] {
        let status = rustix::fs::fstat(fd).map_err(what())?;
        let null = FileType::from_raw_mode(status.st_mode) == FileType::CharacterDevice && status.st_rdev == rustix::fs::makedev(1, 3);
        if !null && status.st_uid != uid {
            rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), None).or_else(tolerated).map_err(what())?;
        }
    }
    // The sources may themselves be 0 to 2 (an OCI command line hands its own on): copies above come first.
    let copies = [stdin, stdout, stderr].map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 3));
    for (number, copy) in copies.into_iter().enumerate() {
        process::inherit_as(copy.map_err(what())?.as_fd(), number as i32).map_err(what())?;
    }
    Ok(())
}

/// Enters the working directory and makes sure that it is inside the root (CVE-2024-21626).
fn enter_directory(cwd: &Path) -> Step {
    let failed = |errno: Errno| {
        let reason = if errno == Errno::NOENT { FailureReason::NotFound } else { lookup::reason_of(errno) };
        let message = format!("chdir to cwd ({:?}) set in config.json failed: {}", cwd.display().to_string(), errno_text(errno));
        StartFailure { reason, message }
    };
    rustix::process::chdir(cwd).map_err(failed)?;
    // The kernel names a directory outside the root "(unreachable)/..."; getcwd of the C library makes that ENOENT.
    match rustix::process::getcwd(Vec::new()) {
        Ok(path) if path.to_bytes().starts_with(b"/") => Ok(()),
        Ok(_) | Err(Errno::NOENT) => Err(StartFailure::other(
            "current working directory is outside of container mount namespace root -- possible container breakout detected",
        )),
        Err(errno) => Err(failed(errno)),
    }
}

/// What is called from the parent's word until [`restrict`], where a filter has always been loaded.
const CALLS_UNTIL_RESTRICTED: &[&str] = &["recvmsg", "sendmsg", "close", "brk", "mmap", "munmap"];

fn filter(plan: &ProcessPlan, held: u64) -> Step {
    if plan.seccomp.instructions.is_empty() {
        return Ok(());
    }
    // Loading needs CAP_SYS_ADMIN (or no-new-privileges), which the program will not have.
    identity::set(held, held, 0).map_err(failed("raise the capabilities"))?;
    naru_sys::seccomp::load(&plan.seccomp.instructions, plan.seccomp.flags).map_err(failed("load the seccomp filter"))
}

/// The last capabilities, and no descriptor left but the streams.
fn restrict(plan: &ProcessPlan, rights: &Rights) -> Step {
    if plan.rights.is_some() {
        rights.apply().map_err(failed("set the capabilities"))?;
    } else if plan.uid != 0 {
        identity::set(0, 0, 0).map_err(failed("drop the capabilities"))?;
    }
    // Nothing of ours is left to the program (CVE-2024-21626); the channel closes on exec, which is its last word.
    process::close_from(3 + plan.preserved_fds, true).map_err(failed("close descriptors"))
}

/// Runs an exec's process: the caller is a child in the container's namespaces.
pub(crate) fn run_exec(threads: SingleThread, plan: &ProcessPlan, streams: Streams, channel: &mut ChildEnd) -> StartFailure {
    let result = (|| {
        let proc = trusted_proc().map_err(failed("mount proc"))?;
        Process { plan, proc, container: None, threads }.execute(streams, channel)
    })();
    match result {
        Ok(never) => match never {},
        Err(failure) => failure,
    }
}

/// The container's own /proc may be a lie; a mount of ours is not. A user namespace may not make one while the visible
/// one is masked; there the visible one is checked to be the root of a proc file system.
fn trusted_proc() -> Result<OwnedFd, Errno> {
    const PROC_ROOT_INODE: u64 = 1;
    match mounts::make("proc", "proc", &Options::default(), 0) {
        Err(Errno::PERM) => {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let proc = rustix::fs::open("/proc", flags, Mode::empty())?;
            let real = rustix::fs::fstatfs(&proc)?.f_type == PROC_SUPER_MAGIC && rustix::fs::fstat(&proc)?.st_ino == PROC_ROOT_INODE;
            if real { Ok(proc) } else { Err(Errno::NODEV) }
        }
        other => other,
    }
}
