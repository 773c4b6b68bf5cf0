//! The OCI runtime specification 1.2 as data, as far as Linux uses it.
//!
//! Unknown fields are ignored, `null` means absent (Go writers emit it), absent values are not written back.

use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

/// `null` as the default value.
fn null<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

macro_rules! data {
    ($($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident : $type:ty),* $(,)? })*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name {
            $(
                $(#[$field_meta])*
                #[serde(deserialize_with = "null", skip_serializing_if = "is_zero")]
                pub $field: $type,
            )*
        }
    )*};
}

data! {
    /// The whole of `config.json`.
    Spec {
        oci_version: String,
        process: Option<Process>,
        root: Option<Root>,
        hostname: String,
        domainname: String,
        mounts: Vec<Mount>,
        hooks: Option<Hooks>,
        annotations: BTreeMap<String, String>,
        linux: Option<Linux>,
    }

    /// What to execute and with which rights.
    Process {
        terminal: bool,
        console_size: Option<ConsoleSize>,
        user: User,
        args: Vec<String>,
        env: Vec<String>,
        cwd: String,
        capabilities: Option<Capabilities>,
        rlimits: Vec<Rlimit>,
        no_new_privileges: bool,
        apparmor_profile: String,
        oom_score_adj: Option<i32>,
        selinux_label: String,
        scheduler: Option<Scheduler>,
        #[serde(rename = "ioPriority")]
        io_priority: Option<IoPriority>,
        #[serde(rename = "execCPUAffinity")]
        exec_cpu_affinity: Option<CpuAffinity>,
    }

    /// Rows and columns of a terminal.
    ConsoleSize {
        height: u16,
        width: u16,
    }

    /// Numeric identity of the process.
    User {
        uid: u32,
        gid: u32,
        umask: Option<u32>,
        additional_gids: Vec<u32>,
        /// `user[:group]` by name: when set it is looked up in the root file system at start and wins over the numbers.
        username: String,
    }

    /// Names as `CAP_CHOWN`.
    Capabilities {
        bounding: Vec<String>,
        effective: Vec<String>,
        inheritable: Vec<String>,
        permitted: Vec<String>,
        ambient: Vec<String>,
    }

    /// `type` is `RLIMIT_NOFILE` and so on.
    Rlimit {
        #[serde(rename = "type")]
        kind: String,
        hard: u64,
        soft: u64,
    }

    /// sched_setattr(2).
    Scheduler {
        policy: String,
        nice: i32,
        priority: i32,
        flags: Vec<String>,
        runtime: u64,
        deadline: u64,
        period: u64,
    }

    /// ioprio_set(2).
    IoPriority {
        class: String,
        priority: i32,
    }

    /// CPU sets of an exec.
    CpuAffinity {
        initial: String,
        #[serde(rename = "final")]
        last: String,
    }

    /// The root file system.
    Root {
        path: String,
        readonly: bool,
    }

    /// One mount, in order.
    Mount {
        destination: String,
        #[serde(rename = "type")]
        kind: String,
        source: String,
        options: Vec<String>,
        uid_mappings: Vec<IdMapping>,
        gid_mappings: Vec<IdMapping>,
    }

    /// Programs of the host run at stages of the life.
    Hooks {
        prestart: Vec<Hook>,
        create_runtime: Vec<Hook>,
        create_container: Vec<Hook>,
        start_container: Vec<Hook>,
        poststart: Vec<Hook>,
        poststop: Vec<Hook>,
    }

    /// One hook; `timeout` in seconds.
    Hook {
        path: String,
        args: Vec<String>,
        env: Vec<String>,
        timeout: Option<u64>,
    }

    /// Linux-only parts.
    Linux {
        uid_mappings: Vec<IdMapping>,
        gid_mappings: Vec<IdMapping>,
        sysctl: BTreeMap<String, String>,
        resources: Option<Resources>,
        cgroups_path: String,
        namespaces: Vec<Namespace>,
        devices: Vec<Device>,
        seccomp: Option<Seccomp>,
        rootfs_propagation: String,
        masked_paths: Vec<String>,
        readonly_paths: Vec<String>,
        mount_label: String,
        intel_rdt: Option<serde_json::Value>,
        personality: Option<Personality>,
        time_offsets: BTreeMap<String, TimeOffset>,
    }

    /// One range of ids.
    IdMapping {
        #[serde(rename = "containerID")]
        container_id: u32,
        #[serde(rename = "hostID")]
        host_id: u32,
        size: u32,
    }

    /// A device node.
    Device {
        path: String,
        #[serde(rename = "type")]
        kind: String,
        major: i64,
        minor: i64,
        file_mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
    }

    /// personality(2).
    Personality {
        domain: String,
        flags: Vec<String>,
    }

    /// Offset of a clock.
    TimeOffset {
        secs: i64,
        nanosecs: u32,
    }

    /// Limits of the cgroup.
    Resources {
        devices: Vec<DeviceRule>,
        memory: Option<Memory>,
        cpu: Option<Cpu>,
        pids: Option<Pids>,
        #[serde(rename = "blockIO")]
        block_io: Option<BlockIo>,
        hugepage_limits: Vec<HugepageLimit>,
        network: Option<Network>,
        rdma: BTreeMap<String, serde_json::Value>,
        unified: BTreeMap<String, String>,
    }

    /// Which devices may be used; evaluated in order.
    DeviceRule {
        allow: bool,
        #[serde(rename = "type")]
        kind: String,
        major: Option<i64>,
        minor: Option<i64>,
        access: String,
    }

    /// Bytes; -1 is unlimited.
    Memory {
        limit: Option<i64>,
        reservation: Option<i64>,
        swap: Option<i64>,
        kernel: Option<i64>,
        #[serde(rename = "kernelTCP")]
        kernel_tcp: Option<i64>,
        swappiness: Option<u64>,
        #[serde(rename = "disableOOMKiller")]
        disable_oom_killer: Option<bool>,
        use_hierarchy: Option<bool>,
        check_before_update: Option<bool>,
    }

    /// Times in microseconds.
    Cpu {
        shares: Option<u64>,
        quota: Option<i64>,
        burst: Option<u64>,
        period: Option<u64>,
        realtime_runtime: Option<i64>,
        realtime_period: Option<u64>,
        cpus: String,
        mems: String,
        idle: Option<i64>,
    }

    /// 0 or less is unlimited.
    Pids {
        limit: Option<i64>,
    }

    /// Weights 10 to 1000, rates in bytes or operations per second.
    BlockIo {
        weight: Option<u16>,
        leaf_weight: Option<u16>,
        weight_device: Vec<WeightDevice>,
        throttle_read_bps_device: Vec<ThrottleDevice>,
        throttle_write_bps_device: Vec<ThrottleDevice>,
        #[serde(rename = "throttleReadIOPSDevice")]
        throttle_read_iops_device: Vec<ThrottleDevice>,
        #[serde(rename = "throttleWriteIOPSDevice")]
        throttle_write_iops_device: Vec<ThrottleDevice>,
    }

    /// Weight of one device.
    WeightDevice {
        major: i64,
        minor: i64,
        weight: Option<u16>,
        leaf_weight: Option<u16>,
    }

    /// Rate of one device.
    ThrottleDevice {
        major: i64,
        minor: i64,
        rate: u64,
    }

    /// `page_size` as `2MB`.
    HugepageLimit {
        page_size: String,
        limit: u64,
    }

    /// net_cls and net_prio.
    Network {
        #[serde(rename = "classID")]
        class_id: Option<u32>,
        priorities: Vec<InterfacePriority>,
    }

    /// Priority of traffic on an interface.
    InterfacePriority {
        name: String,
        priority: u32,
    }
}

/// The kinds of namespaces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum NamespaceKind {
    #[default]
    Mount,
    Pid,
    Network,
    Uts,
    Ipc,
    User,
    Cgroup,
    Time,
}

impl NamespaceKind {
    /// The `CLONE_NEW*` flag.
    pub fn flag(self) -> u64 {
        (match self {
            NamespaceKind::Mount => libc::CLONE_NEWNS,
            NamespaceKind::Pid => libc::CLONE_NEWPID,
            NamespaceKind::Network => libc::CLONE_NEWNET,
            NamespaceKind::Uts => libc::CLONE_NEWUTS,
            NamespaceKind::Ipc => libc::CLONE_NEWIPC,
            NamespaceKind::User => libc::CLONE_NEWUSER,
            NamespaceKind::Cgroup => libc::CLONE_NEWCGROUP,
            NamespaceKind::Time => libc::CLONE_NEWTIME,
        }) as u64
    }

    /// The file in `/proc/<pid>/ns`.
    pub fn file(self) -> &'static str {
        match self {
            NamespaceKind::Mount => "mnt",
            NamespaceKind::Pid => "pid",
            NamespaceKind::Network => "net",
            NamespaceKind::Uts => "uts",
            NamespaceKind::Ipc => "ipc",
            NamespaceKind::User => "user",
            NamespaceKind::Cgroup => "cgroup",
            NamespaceKind::Time => "time",
        }
    }
}

/// A new namespace, or with a path an existing one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Namespace {
    /// Which resource it isolates.
    #[serde(rename = "type")]
    pub kind: NamespaceKind,
    /// An existing namespace to join.
    #[serde(default, deserialize_with = "null", skip_serializing_if = "is_zero")]
    pub path: String,
}

/// A system call filter. Hashable: compiled programs are cached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Seccomp {
    /// `SCMP_ACT_*` for calls that no rule names.
    pub default_action: String,
    /// The errno of a default action `SCMP_ACT_ERRNO`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_errno_ret: Option<u32>,
    /// `SCMP_ARCH_*`; the native one is always included.
    #[serde(deserialize_with = "null", skip_serializing_if = "is_zero")]
    pub architectures: Vec<String>,
    /// `SECCOMP_FILTER_FLAG_*`.
    #[serde(deserialize_with = "null", skip_serializing_if = "is_zero")]
    pub flags: Vec<String>,
    /// Where to send a notification descriptor.
    #[serde(deserialize_with = "null", skip_serializing_if = "is_zero")]
    pub listener_path: String,
    /// The rules.
    #[serde(deserialize_with = "null", skip_serializing_if = "is_zero")]
    pub syscalls: Vec<SeccompRule>,
}

/// One rule: all `args` must match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SeccompRule {
    /// System calls by name.
    #[serde(deserialize_with = "null")]
    pub names: Vec<String>,
    /// `SCMP_ACT_*`.
    pub action: String,
    /// The errno of `SCMP_ACT_ERRNO`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errno_ret: Option<u32>,
    /// Conditions on arguments.
    #[serde(deserialize_with = "null", skip_serializing_if = "is_zero")]
    pub args: Vec<SeccompArg>,
}

/// A condition on one argument.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SeccompArg {
    /// 0 to 5.
    pub index: u32,
    /// Operand; the mask of `SCMP_CMP_MASKED_EQ`.
    pub value: u64,
    /// The value of `SCMP_CMP_MASKED_EQ`.
    pub value_two: u64,
    /// `SCMP_CMP_*`.
    pub op: String,
}

impl Spec {
    /// The Linux part, made when absent.
    pub fn linux_mut(&mut self) -> &mut Linux {
        self.linux.get_or_insert_with(Linux::default)
    }

    /// The namespace of `kind` if the container does not share its parent's.
    pub fn namespace(&self, kind: NamespaceKind) -> Option<&Namespace> {
        self.linux.as_ref()?.namespaces.iter().find(|namespace| namespace.kind == kind)
    }
}
