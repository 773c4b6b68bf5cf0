//! Processes: clone3, fork, exec, signals.
//!
//! Forking is sound only while the process has one thread: another thread could hold the allocator's lock for ever in
//! the child. [`SingleThread`] is the proof; it is claimed once, at the start of a role that never starts threads.

use crate::{check, last_errno};
use rustix::io::Errno;
use std::ffi::{CStr, CString, c_char};
use std::marker::PhantomData;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// Proof that this process has exactly one thread.
#[derive(Debug, Clone, Copy)]
pub struct SingleThread(PhantomData<*const ()>);

impl SingleThread {
    /// Looks at `/proc/self/task`; `EBUSY` when there are other threads.
    pub fn claim() -> Result<SingleThread, Errno> {
        let status = rustix::fs::stat("/proc/self/task")?;
        // A directory has two links and one more for each entry.
        if status.st_nlink == 3 { Ok(SingleThread(PhantomData)) } else { Err(Errno::BUSY) }
    }

    /// fork(2).
    pub fn fork(self) -> Result<Fork, Errno> {
        // SAFETY: with one thread no lock can be held by another, so the child may run any code.
        match unsafe { libc::fork() } {
            -1 => Err(last_errno()),
            0 => Ok(Fork::Child),
            pid => Ok(Fork::Parent { pid }),
        }
    }

    /// clone3(2) without a new stack, i.e. fork with namespaces, a pidfd and a cgroup.
    ///
    /// `flags` are `CLONE_NEW*` and `CLONE_PARENT`; `CLONE_VM` and its relatives are refused.
    pub fn clone3(self, flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Clone3, Errno> {
        const SHARING: u64 =
            (libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_FILES | libc::CLONE_SIGHAND | libc::CLONE_THREAD | libc::CLONE_FS) as u64;
        const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
        if flags & SHARING != 0 {
            return Err(Errno::INVAL);
        }
        let mut pidfd: RawFd = -1;
        // SAFETY: clone_args is plain data for which zeros are valid.
        let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
        args.flags = flags | libc::CLONE_PIDFD as u64;
        args.pidfd = &raw mut pidfd as u64;
        // With CLONE_PARENT the exit signal is the parent's own and must not be given.
        args.exit_signal = if flags & libc::CLONE_PARENT as u64 == 0 { libc::SIGCHLD as u64 } else { 0 };
        if let Some(cgroup) = cgroup {
            args.flags |= CLONE_INTO_CGROUP;
            args.cgroup = cgroup.as_raw_fd() as u64;
        }
        // SAFETY: `args` and `pidfd` live across the call; without CLONE_VM the child gets a copy of the whole address
        // space and goes on on the same stack, as after fork; SingleThread rules out locks held elsewhere.
        let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) })?;
        if pid == 0 {
            return Ok(Clone3::Child);
        }
        // SAFETY: the kernel stored a new descriptor that nothing else owns.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        Ok(Clone3::Parent { pid: pid as i32, pidfd })
    }
}

/// Where fork returned.
#[derive(Debug)]
pub enum Fork {
    /// In the parent, with the child's pid.
    Parent {
        /// The child.
        pid: i32,
    },
    /// In the child.
    Child,
}

/// Where clone3 returned.
#[derive(Debug)]
pub enum Clone3 {
    /// In the parent.
    Parent {
        /// The child as the caller's pid namespace numbers it.
        pid: i32,
        /// A descriptor of the child.
        pidfd: OwnedFd,
    },
    /// In the child.
    Child,
}

/// `unshare(2)`; `flags` are `CLONE_NEW*` only.
pub fn unshare(_proof: SingleThread, flags: u64) -> Result<(), Errno> {
    const NEW: u64 = (libc::CLONE_NEWNS
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWTIME) as u64;
    if flags & !NEW != 0 {
        return Err(Errno::INVAL);
    }
    // SAFETY: only namespaces change; descriptors and memory stay shared as they were.
    check(unsafe { libc::syscall(libc::SYS_unshare, flags) }).map(drop)
}

/// Gives the calling thread a mount namespace of its own, and with it its own working directory and root.
pub fn unshare_mounts() -> Result<(), Errno> {
    // SAFETY: only what the thread's paths mean changes; descriptors and memory stay shared as they were.
    check(unsafe { libc::syscall(libc::SYS_unshare, (libc::CLONE_FS | libc::CLONE_NEWNS) as u64) }).map(drop)
}

/// `setns(2)` with a namespace descriptor (`flags` names its type or is 0) or a pidfd (`flags` is a set of `CLONE_NEW*`).
pub fn setns(fd: BorrowedFd<'_>, flags: u64) -> Result<(), Errno> {
    // SAFETY: setns takes plain integers and touches no memory of ours.
    check(unsafe { libc::syscall(libc::SYS_setns, fd.as_raw_fd(), flags) }).map(drop)
}

/// The null-terminated array of strings that exec takes.
#[derive(Debug)]
pub struct StringArray {
    // Owns what `pointers` points to; never changed after construction.
    #[expect(dead_code, reason = "keeps the strings alive")]
    strings: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl StringArray {
    /// Takes the strings in order.
    pub fn new(strings: Vec<CString>) -> StringArray {
        let mut pointers: Vec<*const c_char> = strings.iter().map(|s| s.as_ptr()).collect();
        pointers.push(std::ptr::null());
        StringArray { strings, pointers }
    }
}

/// `execve(2)`; returns only with an error.
pub fn execve(path: &CStr, arguments: &StringArray, environment: &StringArray) -> Errno {
    // SAFETY: all strings are null-terminated and both arrays end with a null pointer (StringArray).
    unsafe { libc::execve(path.as_ptr(), arguments.pointers.as_ptr(), environment.pointers.as_ptr()) };
    last_errno()
}

/// `execveat(2)` of the file `fd` itself; returns only with an error.
pub fn execveat(fd: BorrowedFd<'_>, arguments: &StringArray, environment: &StringArray) -> Errno {
    // SAFETY: as for execve; the path is the empty string.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            fd.as_raw_fd(),
            c"".as_ptr(),
            arguments.pointers.as_ptr(),
            environment.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    last_errno()
}

/// Ends the process at once: no destructors, no atexit handlers, no flushing.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit never returns and takes a plain integer.
    unsafe { libc::_exit(code) }
}

/// `close_range(2)` from `first` upwards; with `cloexec` the descriptors are only marked.
///
/// The caller must not use an owner of a closed descriptor afterwards: this is for the moments before exec and after
/// fork, where the owners of the parent's memory are never dropped.
pub fn close_from(first: u32, cloexec: bool) -> Result<(), Errno> {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    let flags = if cloexec { CLOSE_RANGE_CLOEXEC } else { 0 };
    // SAFETY: takes plain integers; the contract on owners is stated above.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, flags) }).map(drop)
}

/// Closes every descriptor from `first` upwards but those in `keep`. See [`close_from`] for the contract.
pub fn close_all_but(first: u32, keep: &mut [RawFd]) -> Result<(), Errno> {
    keep.sort_unstable();
    let mut from = first;
    for &fd in keep.iter() {
        let fd = fd as u32;
        if fd < from {
            continue;
        }
        if fd > from {
            // SAFETY: as in close_from.
            check(unsafe { libc::syscall(libc::SYS_close_range, from, fd - 1, 0) })?;
        }
        from = fd + 1;
    }
    close_from(from, false)
}

/// Makes `fd` survive exec under the number `number`.
pub fn inherit_as(fd: BorrowedFd<'_>, number: RawFd) -> Result<(), Errno> {
    if fd.as_raw_fd() == number {
        // SAFETY: clears a flag of a descriptor that is borrowed, hence open.
        return check(unsafe { libc::fcntl(number, libc::F_SETFD, 0) } as libc::c_long).map(drop);
    }
    // SAFETY: dup2 takes plain integers. What `number` referred to is replaced: callers use it for 0 to 2 and for
    // numbers they know to be free.
    check(unsafe { libc::dup2(fd.as_raw_fd(), number) } as libc::c_long).map(drop)
}

/// Takes ownership of an inherited descriptor.
///
/// `None` if the number is not open. The caller must be the only one to claim that number.
pub fn claim_fd(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: F_GETFD only looks.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } == -1 {
        return None;
    }
    // SAFETY: the descriptor is open, and by the contract nothing else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC).ok()?;
    Some(fd)
}

const LAST_SIGNAL: i32 = 64;

/// All signals to their default action and none blocked, as a program expects to be started.
pub fn reset_signals() {
    for signal in 1..=LAST_SIGNAL {
        // SAFETY: SIG_DFL is always a valid action; refused numbers (KILL, STOP, glibc's own) are harmless.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: both calls only fill and read the local set.
    unsafe {
        let mut none = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
    }
}

/// Ignores the signals.
pub fn ignore_signals(signals: &[i32]) {
    for &signal in signals {
        // SAFETY: SIG_IGN is always a valid action.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Default action for the signals.
pub fn default_signals(signals: &[i32]) {
    for &signal in signals {
        // SAFETY: SIG_DFL is always a valid action.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Blocks every signal that can be blocked.
pub fn block_signals() {
    // SAFETY: both calls only fill and read the local set.
    unsafe {
        let mut all = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigfillset(all.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, all.as_ptr(), std::ptr::null_mut());
    }
}

/// Waits for any signal (all must be blocked) for at most `timeout`; `None` when none came.
pub fn wait_signal(timeout: Option<Duration>) -> Option<i32> {
    // SAFETY: the set and the information are local and filled by the calls before they are read.
    let signal = unsafe {
        let mut all = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigfillset(all.as_mut_ptr());
        match timeout {
            Some(timeout) => {
                let limit = libc::timespec { tv_sec: timeout.as_secs() as libc::time_t, tv_nsec: timeout.subsec_nanos().into() };
                libc::sigtimedwait(all.as_ptr(), std::ptr::null_mut(), &raw const limit)
            }
            None => libc::sigwaitinfo(all.as_ptr(), std::ptr::null_mut()),
        }
    };
    (signal > 0).then_some(signal)
}

/// A signalfd for `signals`, which are blocked.
pub fn signal_fd(signals: &[i32]) -> Result<OwnedFd, Errno> {
    // SAFETY: the set is local and filled before it is read; the descriptor returned is new and owned by nobody else.
    unsafe {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        for &signal in signals {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
        let fd = libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd == -1 { Err(last_errno()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// `kill(2)`; `pid` as there (0 and negative numbers are groups).
pub fn kill(pid: i32, signal: i32) -> Result<(), Errno> {
    // SAFETY: takes plain integers.
    check(unsafe { libc::kill(pid, signal) } as libc::c_long).map(drop)
}

/// `pidfd_send_signal(2)` with any signal number, 0 included.
pub fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<(), Errno> {
    // SAFETY: takes plain integers and a null pointer that the call allows.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0) })
        .map(drop)
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By exit with this code.
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

impl Ended {
    /// The code a shell would report: 128 and the signal.
    pub fn code(self) -> i32 {
        match self {
            Ended::Exited(code) => code,
            Ended::Killed(signal) => 128 + signal,
        }
    }

    fn from_status(status: i32) -> Ended {
        if libc::WIFSIGNALED(status) { Ended::Killed(libc::WTERMSIG(status)) } else { Ended::Exited(libc::WEXITSTATUS(status)) }
    }
}

/// Waits for the child `pid` (-1: any); with `block` false returns `None` when none has ended.
pub fn wait_child(pid: i32, block: bool) -> Result<Option<(i32, Ended)>, Errno> {
    let mut status = 0;
    loop {
        let flags = if block { 0 } else { libc::WNOHANG } | libc::__WALL;
        // SAFETY: `status` is a local the call fills.
        match unsafe { libc::waitpid(pid, &raw mut status, flags) } {
            -1 if last_errno() == Errno::INTR => {}
            -1 => return Err(last_errno()),
            0 => return Ok(None),
            child => return Ok(Some((child, Ended::from_status(status)))),
        }
    }
}

/// A session keyring of its own under `name`, so that the keys of the engine's session are out of reach.
pub fn new_session_keyring(name: &CStr) -> Result<(), Errno> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: `name` is null-terminated and lives across the call.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) }).map(drop)
}

/// `prlimit(2)` on this process by the kernel's number of the resource.
pub fn set_rlimit(resource: u32, soft: u64, hard: u64) -> Result<(), Errno> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `limit` lives across the call; no old value is asked for.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, &raw const limit, std::ptr::null_mut::<libc::rlimit64>()) }).map(drop)
}

/// `prctl(PR_SET_NO_NEW_PRIVS)`, `PR_SET_DUMPABLE` and the like: options whose arguments are plain numbers.
pub fn set_dumpable(dumpable: bool) -> Result<(), Errno> {
    // SAFETY: plain integers.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, libc::c_ulong::from(dumpable), 0, 0, 0) } as libc::c_long).map(drop)
}

/// Reads this process's orphans' parent role: they are reparented to it.
pub fn become_subreaper() -> Result<(), Errno> {
    // SAFETY: plain integers.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) } as libc::c_long).map(drop)
}

/// `ioprio_set(2)` for this process.
pub fn set_io_priority(class: u32, level: u32) -> Result<(), Errno> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, (class << 13) | level) }).map(drop)
}

/// `sched_setattr(2)` for this process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scheduling {
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// Nice value of the normal policies.
    pub nice: i32,
    /// Priority of the real-time policies.
    pub priority: u32,
    /// Deadline policy, nanoseconds.
    pub runtime: u64,
    /// Deadline policy, nanoseconds.
    pub deadline: u64,
    /// Deadline policy, nanoseconds.
    pub period: u64,
}

/// `sched_setattr(2)` for this process.
pub fn set_scheduling(scheduling: &Scheduling) -> Result<(), Errno> {
    #[repr(C)]
    struct Attributes {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    let attributes = Attributes {
        size: size_of::<Attributes>() as u32,
        policy: scheduling.policy,
        flags: scheduling.flags,
        nice: scheduling.nice,
        priority: scheduling.priority,
        runtime: scheduling.runtime,
        deadline: scheduling.deadline,
        period: scheduling.period,
    };
    // SAFETY: the structure is the kernel's first version and lives across the call.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) }).map(drop)
}

/// `personality(2)`.
pub fn set_personality(persona: u32) -> Result<(), Errno> {
    // SAFETY: plain integer.
    check(unsafe { libc::personality(libc::c_ulong::from(persona)) } as libc::c_long).map(drop)
}
