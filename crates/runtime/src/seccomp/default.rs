//! The default profile: what Docker's allows and refuses, depending on the capabilities of the container.
//!
//! Beyond Docker's: AF_PACKET and AF_XDP sockets need an explicit wish, and 32-bit `socketcall(SYS_SOCKET)`, whose
//! arguments a filter cannot see, is refused except for images of the 32-bit platform.

use crate::spec::{Seccomp, SeccompArg, SeccompRule};

/// What the default profile grants beyond the safest form.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProfileOptions {
    /// AF_PACKET and AF_XDP sockets: `NET_RAW` was asked for by name, or the container administers its network.
    pub packet_sockets: bool,
    /// The image's platform is 32-bit x86, whose C libraries create sockets through `socketcall`.
    pub legacy_socketcall: bool,
}

/// Allowed for every container.
#[rustfmt::skip]
const ALWAYS: &[&str] = &[
    "accept", "accept4", "access", "adjtimex", "alarm", "arch_prctl", "bind", "brk", "cachestat", "capget", "capset", "chdir", "chmod",
    "chown", "chown32", "clock_adjtime", "clock_adjtime64", "clock_getres", "clock_getres_time64", "clock_gettime", "clock_gettime64",
    "clock_nanosleep", "clock_nanosleep_time64", "close", "close_range", "connect", "copy_file_range", "creat", "dup", "dup2", "dup3",
    "epoll_create", "epoll_create1", "epoll_ctl", "epoll_ctl_old", "epoll_pwait", "epoll_pwait2", "epoll_wait", "epoll_wait_old", "eventfd",
    "eventfd2", "execve", "execveat", "exit", "exit_group", "faccessat", "faccessat2", "fadvise64", "fadvise64_64", "fallocate",
    "fanotify_mark", "fchdir", "fchmod", "fchmodat", "fchmodat2", "fchown", "fchown32", "fchownat", "fcntl", "fcntl64", "fdatasync",
    "fgetxattr", "flistxattr", "flock", "fork", "fremovexattr", "fsetxattr", "fstat", "fstat64", "fstatat64", "fstatfs", "fstatfs64", "fsync",
    "ftruncate", "ftruncate64", "futex", "futex_requeue", "futex_time64", "futex_wait", "futex_waitv", "futex_wake", "futimesat", "getcpu",
    "getcwd", "getdents", "getdents64", "getegid", "getegid32", "geteuid", "geteuid32", "getgid", "getgid32", "getgroups", "getgroups32",
    "getitimer", "getpeername", "getpgid", "getpgrp", "getpid", "getppid", "getpriority", "getrandom", "getresgid", "getresgid32",
    "getresuid", "getresuid32", "getrlimit", "get_robust_list", "getrusage", "getsid", "getsockname", "getsockopt", "get_thread_area",
    "gettid", "gettimeofday", "getuid", "getuid32", "getxattr", "getxattrat", "inotify_add_watch", "inotify_init", "inotify_init1",
    "inotify_rm_watch", "io_cancel", "ioctl", "io_destroy", "io_getevents", "io_pgetevents", "io_pgetevents_time64", "ioprio_get",
    "ioprio_set", "io_setup", "io_submit", "ipc", "kill", "landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self", "lchown",
    "lchown32", "lgetxattr", "link", "linkat", "listen", "listmount", "listxattr", "listxattrat", "llistxattr", "_llseek", "lremovexattr",
    "lseek", "lsetxattr", "lstat", "lstat64", "madvise", "map_shadow_stack", "membarrier", "memfd_create", "memfd_secret", "mincore", "mkdir",
    "mkdirat", "mknod", "mknodat", "mlock", "mlock2", "mlockall", "mmap", "mmap2", "modify_ldt", "mprotect", "mq_getsetattr", "mq_notify",
    "mq_open", "mq_timedreceive", "mq_timedreceive_time64", "mq_timedsend", "mq_timedsend_time64", "mq_unlink", "mremap", "mseal", "msgctl",
    "msgget", "msgrcv", "msgsnd", "msync", "munlock", "munlockall", "munmap", "name_to_handle_at", "nanosleep", "newfstatat", "_newselect",
    "open", "openat", "openat2", "pause", "pidfd_open", "pidfd_send_signal", "pipe", "pipe2", "pkey_alloc", "pkey_free", "pkey_mprotect",
    "poll", "ppoll", "ppoll_time64", "prctl", "pread64", "preadv", "preadv2", "prlimit64", "process_mrelease", "process_vm_readv",
    "process_vm_writev", "pselect6", "pselect6_time64", "ptrace", "pwrite64", "pwritev", "pwritev2", "read", "readahead", "readlink",
    "readlinkat", "readv", "recv", "recvfrom", "recvmmsg", "recvmmsg_time64", "recvmsg", "remap_file_pages", "removexattr", "removexattrat",
    "rename", "renameat", "renameat2", "restart_syscall", "rmdir", "rseq", "rt_sigaction", "rt_sigpending", "rt_sigprocmask",
    "rt_sigqueueinfo", "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait", "rt_sigtimedwait_time64", "rt_tgsigqueueinfo",
    "sched_getaffinity", "sched_getattr", "sched_getparam", "sched_get_priority_max", "sched_get_priority_min", "sched_getscheduler",
    "sched_rr_get_interval", "sched_rr_get_interval_time64", "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler",
    "sched_yield", "seccomp", "select", "semctl", "semget", "semop", "semtimedop", "semtimedop_time64", "send", "sendfile", "sendfile64",
    "sendmmsg", "sendmsg", "sendto", "setfsgid", "setfsgid32", "setfsuid", "setfsuid32", "setgid", "setgid32", "setgroups", "setgroups32",
    "setitimer", "setpgid", "setpriority", "setregid", "setregid32", "setresgid", "setresgid32", "setresuid", "setresuid32", "setreuid",
    "setreuid32", "setrlimit", "set_robust_list", "setsid", "setsockopt", "set_thread_area", "set_tid_address", "setuid", "setuid32",
    "setxattr", "setxattrat", "shmat", "shmctl", "shmdt", "shmget", "shutdown", "sigaltstack", "signalfd", "signalfd4", "sigprocmask",
    "sigreturn", "socketpair", "splice", "stat", "stat64", "statfs", "statfs64", "statmount", "statx", "symlink", "symlinkat", "sync",
    "sync_file_range", "syncfs", "sysinfo", "tee", "tgkill", "time", "timer_create", "timer_delete", "timer_getoverrun", "timer_gettime",
    "timer_gettime64", "timer_settime", "timer_settime64", "timerfd_create", "timerfd_gettime", "timerfd_gettime64", "timerfd_settime",
    "timerfd_settime64", "times", "tkill", "truncate", "truncate64", "ugetrlimit", "umask", "uname", "unlink", "unlinkat", "uretprobe",
    "utime", "utimensat", "utimensat_time64", "utimes", "vfork", "vmsplice", "wait4", "waitid", "waitpid", "write", "writev",
];

/// Allowed with a capability.
#[rustfmt::skip]
const WITH: &[(&str, &[&str])] = &[
    ("CAP_DAC_READ_SEARCH", &["open_by_handle_at"]),
    ("CAP_SYS_ADMIN", &[
        "bpf", "clone", "clone3", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick", "lookup_dcookie", "lsm_get_self_attr",
        "lsm_list_modules", "lsm_set_self_attr", "mount", "mount_setattr", "move_mount", "open_tree", "perf_event_open", "quotactl",
        "quotactl_fd", "setdomainname", "sethostname", "setns", "syslog", "umount", "umount2", "unshare",
    ]),
    ("CAP_SYS_BOOT", &["reboot"]),
    ("CAP_SYS_CHROOT", &["chroot"]),
    ("CAP_SYS_MODULE", &["delete_module", "init_module", "finit_module"]),
    ("CAP_SYS_PACCT", &["acct"]),
    ("CAP_SYS_PTRACE", &["kcmp", "pidfd_getfd", "process_madvise"]),
    ("CAP_SYS_RAWIO", &["iopl", "ioperm"]),
    ("CAP_SYS_TIME", &["settimeofday", "stime", "clock_settime", "clock_settime64"]),
    ("CAP_SYS_TTY_CONFIG", &["vhangup"]),
    ("CAP_SYS_NICE", &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
    ("CAP_SYSLOG", &["syslog"]),
    ("CAP_BPF", &["bpf"]),
    ("CAP_PERFMON", &["perf_event_open"]),
];

/// Socket families below this are allowed (AF_UNIX to AF_X25 and older).
const FIRST_FAMILIES: u64 = 12;
/// Further families: those of loadable modules with a history of holes (AF_ALG 38, AF_VSOCK 40, ...) are absent.
const FAMILIES: &[u64] = &[13, 14, 15, 16, 18, 21, 22, 24, 26, 27, 28, 29, 30, 31, 32, 33, 35, 36, 39, 41, 42, 43, 45];
const AF_PACKET: u64 = 17;
const AF_XDP: u64 = 44;
/// The personalities of PER_LINUX, PER_LINUX32, UNAME26 with both, and the query.
const PERSONALITIES: &[u64] = &[0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// CLONE_NEW* of clone(2).
const CLONE_NAMESPACES: u64 = 0x7E02_0000;
const SYS_SOCKET: u64 = 1;

/// The profile for a process with these capabilities (names as `CAP_CHOWN`).
pub fn default_profile(capabilities: &[String]) -> Seccomp {
    let has = |name: &str| capabilities.iter().any(|known| known == name);
    let packet_sockets = has("CAP_NET_ADMIN") || has("CAP_SYS_ADMIN");
    default_profile_with(capabilities, &ProfileOptions { packet_sockets, legacy_socketcall: false })
}

/// The profile with explicit grants.
pub fn default_profile_with(capabilities: &[String], options: &ProfileOptions) -> Seccomp {
    let has = |name: &str| capabilities.iter().any(|known| known == name);
    let mut syscalls = vec![allow(ALWAYS, None)];
    for (capability, names) in WITH {
        if has(capability) {
            syscalls.push(allow(names, None));
        }
    }
    if !has("CAP_SYS_ADMIN") {
        syscalls.push(allow(&["clone"], Some((0, CLONE_NAMESPACES, "SCMP_CMP_MASKED_EQ"))));
        // The flags of clone3 lie in memory; with ENOSYS programs go back to clone.
        let names = vec!["clone3".to_owned()];
        syscalls.push(SeccompRule { names, action: "SCMP_ACT_ERRNO".into(), errno_ret: Some(libc::ENOSYS as u32), args: Vec::new() });
    }
    syscalls.push(allow(&["socket"], Some((0, FIRST_FAMILIES, "SCMP_CMP_LT"))));
    let packet: &[u64] = if options.packet_sockets { &[AF_PACKET, AF_XDP] } else { &[] };
    for family in FAMILIES.iter().chain(packet) {
        syscalls.push(allow(&["socket"], Some((0, *family, "SCMP_CMP_EQ"))));
    }
    let legacy = if options.legacy_socketcall { None } else { Some((0, SYS_SOCKET, "SCMP_CMP_NE")) };
    syscalls.push(allow(&["socketcall"], legacy));
    for persona in PERSONALITIES {
        syscalls.push(allow(&["personality"], Some((0, *persona, "SCMP_CMP_EQ"))));
    }
    let architectures: &[&str] = if cfg!(target_arch = "aarch64") {
        &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
    } else {
        &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    };
    Seccomp {
        default_action: "SCMP_ACT_ERRNO".into(),
        default_errno_ret: Some(libc::EPERM as u32),
        architectures: architectures.iter().map(|&name| name.to_owned()).collect(),
        syscalls,
        ..Seccomp::default()
    }
}

fn allow(names: &[&str], arg: Option<(u32, u64, &str)>) -> SeccompRule {
    SeccompRule {
        names: names.iter().map(|&name| name.to_owned()).collect(),
        action: "SCMP_ACT_ALLOW".into(),
        errno_ret: None,
        args: arg.map(|(index, value, op)| SeccompArg { index, value, value_two: 0, op: op.to_owned() }).into_iter().collect(),
    }
}
