//! What a container gets when nobody says otherwise: Docker's defaults, hardened where no program can tell.

use crate::spec::{Capabilities, Device, DeviceRule, Linux, Mount, Namespace, NamespaceKind, Process, Resources, Root, Spec};
use std::sync::OnceLock;

/// Files of `/proc` that may be mounted over, as tools like lxcfs do; none of them guards or steers anything.
pub const MOUNTABLE_IN_PROC: [&str; 11] = [
    "cpuinfo",
    "diskstats",
    "loadavg",
    "meminfo",
    "net/dev",
    "slabinfo",
    "stat",
    "swaps",
    "sys/crypto/fips_enabled",
    "sys/kernel/ns_last_pid",
    "uptime",
];

/// Docker's 14 capabilities.
pub const CAPABILITIES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Every capability by number, from CAP_CHOWN (0).
pub const ALL_CAPABILITIES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// Hidden: an empty read-only directory or `/dev/null` is put over each. Docker's and podman's lists, and the files that
/// gave a container's root kernel addresses and the kernel's configuration. `*` stands for one number.
pub const MASKED_PATHS: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/config.gz",
    "/proc/interrupts",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/keys",
    "/proc/kpagecgroup",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/vmallocinfo",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
    "/sys/kernel/debug",
    "/sys/kernel/security",
    "/sys/kernel/tracing",
];

/// Masked too, once for each CPU present.
pub const MASKED_PER_CPU: &str = "/sys/devices/system/cpu/cpu*/thermal_throttle";

/// Read-only.
pub const READONLY_PATHS: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// `PATH` of a container whose image sets none.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The masked paths of this host, those of each CPU included.
pub fn masked_paths() -> Vec<String> {
    // Looked up once: opening a directory of sysfs waits while any network device goes away, tens of milliseconds.
    static PATHS: OnceLock<Vec<String>> = OnceLock::new();
    PATHS.get_or_init(find_masked_paths).clone()
}

fn find_masked_paths() -> Vec<String> {
    let mut paths: Vec<String> = MASKED_PATHS.iter().map(|&path| path.to_owned()).collect();
    if let Ok(entries) = std::fs::read_dir("/sys/devices/system/cpu") {
        for entry in entries.flatten() {
            let path = entry.path().join("thermal_throttle");
            let name = entry.file_name();
            let numbered =
                name.to_str().and_then(|name| name.strip_prefix("cpu")).is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()));
            if numbered && path.exists() {
                paths.push(path.display().to_string());
            }
        }
    }
    paths
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    Mount {
        destination: destination.into(),
        kind: kind.into(),
        source: source.into(),
        options: options.iter().map(|&option| option.to_owned()).collect(),
        ..Mount::default()
    }
}

/// The mounts every container has, `/dev/shm` with this many bytes.
pub fn mounts(shm_bytes: u64) -> Vec<Mount> {
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["ro", "nosuid", "noexec", "nodev", "nosymfollow"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &format!("size={shm_bytes}")]),
    ]
}

/// 64 MiB.
pub const SHM_BYTES: u64 = 64 << 20;

/// The nodes every container has.
pub fn devices() -> Vec<Device> {
    const ALL_MAY_READ_AND_WRITE: u32 = 0o666;
    [("/dev/null", 1, 3), ("/dev/zero", 1, 5), ("/dev/full", 1, 7), ("/dev/random", 1, 8), ("/dev/urandom", 1, 9), ("/dev/tty", 5, 0)]
        .into_iter()
        .map(|(path, major, minor)| Device {
            path: path.into(),
            kind: "c".into(),
            major,
            minor,
            file_mode: Some(ALL_MAY_READ_AND_WRITE),
            uid: Some(0),
            gid: Some(0),
        })
        .collect()
}

/// Which devices may be used: any node may be made, the default ones and terminals opened.
pub fn device_rules() -> Vec<DeviceRule> {
    let allow = |kind: &str, major: Option<i64>, minor: Option<i64>, access: &str| DeviceRule {
        allow: true,
        kind: kind.into(),
        major,
        minor,
        access: access.into(),
    };
    let mut rules = vec![
        DeviceRule { allow: false, access: "rwm".into(), ..DeviceRule::default() },
        allow("c", None, None, "m"),
        allow("b", None, None, "m"),
        // Pseudo-terminals, /dev/console, /dev/ptmx.
        allow("c", Some(136), None, "rwm"),
        allow("c", Some(5), Some(1), "rwm"),
        allow("c", Some(5), Some(2), "rwm"),
    ];
    rules.extend(devices().into_iter().map(|device| allow("c", Some(device.major), Some(device.minor), "rwm")));
    rules
}

/// All of them in every set but inheritable and ambient, which stay empty (CVE-2022-24769).
pub fn capabilities(names: &[&str]) -> Capabilities {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    Capabilities { bounding: names.clone(), effective: names.clone(), permitted: names, ..Capabilities::default() }
}

/// A complete specification that runs `sh` as root; the caller changes what it wants.
pub fn spec() -> Spec {
    let namespaces =
        [NamespaceKind::Mount, NamespaceKind::Network, NamespaceKind::Uts, NamespaceKind::Pid, NamespaceKind::Ipc, NamespaceKind::Cgroup];
    Spec {
        oci_version: "1.2.0".into(),
        process: Some(Process {
            args: vec!["sh".into()],
            env: vec![format!("PATH={PATH}")],
            cwd: "/".into(),
            capabilities: Some(capabilities(CAPABILITIES)),
            oom_score_adj: Some(0),
            ..Process::default()
        }),
        root: Some(Root { path: "rootfs".into(), readonly: false }),
        mounts: mounts(SHM_BYTES),
        linux: Some(Linux {
            namespaces: namespaces.into_iter().map(|kind| Namespace { kind, path: String::new() }).collect(),
            resources: Some(Resources { devices: device_rules(), ..Resources::default() }),
            masked_paths: masked_paths(),
            readonly_paths: READONLY_PATHS.iter().map(|&path| path.to_owned()).collect(),
            ..Linux::default()
        }),
        ..Spec::default()
    }
}
