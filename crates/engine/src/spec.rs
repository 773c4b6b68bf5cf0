//! What a container shall be: validated once when it is created, stored as it is, never checked again.
//!
//! The words are Docker's and OCI's; the shapes are Naru's own. Fronts (the Docker API, later others) build a
//! [`ContainerSpec`] from their wire types.

use jiff::Timestamp;
use naru_runtime::spec::Resources;
use naru_types::{Digest, Name, Signal};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Everything that is asked of a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Its name, without a slash; made up when absent.
    pub name: Option<Name>,
    /// The image as the user wrote it.
    pub image_name: String,
    /// The image's id.
    pub image: Option<Digest>,
    /// What runs.
    pub process: ProcessSpec,
    /// Host name; the short id when absent.
    pub hostname: Option<String>,
    /// NIS domain name.
    pub domainname: String,
    /// Privileges and filters.
    pub security: SecuritySpec,
    /// Which namespaces are its own.
    pub namespaces: NamespaceSpec,
    /// Mounts in the order given.
    pub mounts: Vec<MountSpec>,
    /// Containers whose volumes it uses too: reference and read-only.
    pub volumes_from: Vec<(String, bool)>,
    /// Size of `/dev/shm` in bytes.
    pub shm_size: u64,
    /// Devices of the host.
    pub devices: Vec<DeviceSpec>,
    /// cgroup limits, device rules excluded.
    pub resources: Resources,
    /// Rules of the device cgroup, as `c 1:3 rwm`.
    pub device_cgroup_rules: Vec<String>,
    /// cgroup below which the container's own is made.
    pub cgroup_parent: Option<String>,
    /// rlimits: name without `RLIMIT_`, soft, hard.
    pub ulimits: Vec<(String, u64, u64)>,
    /// Kernel parameters of its namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// `/proc/self/oom_score_adj`.
    pub oom_score_adj: Option<i32>,
    /// What happens when it ends.
    pub restart: RestartPolicy,
    /// Delete it when it ends.
    pub auto_remove: bool,
    /// How to tell whether it works.
    pub health: Option<HealthSpec>,
    /// Where its output goes.
    pub log: LogSpec,
    /// How it is connected.
    pub network: NetworkSpec,
    /// Data of the user, never acted on.
    pub labels: BTreeMap<String, String>,
    /// OCI annotations.
    pub annotations: BTreeMap<String, String>,
    /// Name of the runtime; `naru` is built in.
    pub runtime: String,
    /// The request as the front received it, for the front's own `inspect`; the engine never reads it.
    pub front: serde_json::Value,
}

/// The first process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// Program and arguments; not empty.
    pub args: Vec<String>,
    /// `KEY=value`.
    pub env: Vec<String>,
    /// `user[:group]` by name or number; empty means root.
    pub user: String,
    /// Further groups by name or number.
    pub groups: Vec<String>,
    /// Working directory; made when missing.
    pub cwd: String,
    /// Gets a terminal.
    pub tty: bool,
    /// Rows and columns of the terminal.
    pub console_size: Option<(u16, u16)>,
    /// Standard input stays open.
    pub open_stdin: bool,
    /// Standard input ends with the first client.
    pub stdin_once: bool,
    /// A reaper is pid 1.
    pub init: bool,
    /// What `stop` sends.
    pub stop_signal: Signal,
    /// Seconds between that signal and SIGKILL; -1 waits for ever.
    pub stop_timeout: Option<i64>,
}

/// Which seccomp filter applies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeccompChoice {
    /// The built-in profile.
    Default,
    /// None.
    Unconfined,
    /// A Docker profile, as JSON.
    Profile(String),
}

/// Privileges and filters.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SecuritySpec {
    /// All capabilities and devices, no masks, no seccomp.
    pub privileged: bool,
    /// Capabilities beyond the default, `CAP_…` or `ALL`.
    pub cap_add: Vec<String>,
    /// Capabilities taken from the default, `CAP_…` or `ALL`.
    pub cap_drop: Vec<String>,
    /// System call filter.
    pub seccomp: SeccompChoice,
    /// AppArmor profile; the default one when absent.
    pub apparmor: Option<String>,
    /// SELinux label options (`user:…`, `disable`).
    pub label: Vec<String>,
    /// SELinux label of its processes, which the engine chooses by the options; empty without one.
    #[serde(default)]
    pub process_label: String,
    /// SELinux label of its files.
    #[serde(default)]
    pub mount_label: String,
    /// setuid programs gain nothing.
    pub no_new_privileges: bool,
    /// Paths hidden; Docker's list when absent.
    pub masked_paths: Option<Vec<String>>,
    /// Paths made read-only; Docker's list when absent.
    pub readonly_paths: Option<Vec<String>>,
    /// The root file system cannot be written.
    pub readonly_root: bool,
}

impl SecuritySpec {
    /// The AppArmor profile of its processes; empty where the kernel has none and none was asked for.
    pub fn apparmor_profile(&self) -> &str {
        use naru_runtime::apparmor::{DEFAULT_PROFILE, UNCONFINED, enabled};
        match self.apparmor.as_deref() {
            Some(profile) if !profile.is_empty() => profile,
            _ if !enabled() => "",
            _ if self.privileged => UNCONFINED,
            _ => DEFAULT_PROFILE,
        }
    }

    /// The SELinux labels of its processes and of its files, as far as it has them. On a host that has lost SELinux nothing
    /// can be labelled, and nothing has to be.
    pub fn labels(&self) -> (Option<&str>, Option<&str>) {
        let usable = |label: &str| !label.is_empty() && naru_runtime::selinux::enabled();
        (Some(&*self.process_label).filter(|label| usable(label)), Some(&*self.mount_label).filter(|label| usable(label)))
    }
}

/// Who may use what is mounted, where SELinux keeps containers apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Relabel {
    /// All containers (`z`).
    Shared,
    /// This one only (`Z`).
    Private,
}

/// Where a namespace comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceMode {
    /// Its own.
    Private,
    /// The host's.
    Host,
    /// Another container's, by reference.
    Container(String),
}

/// Where the IPC namespace comes from; Docker tells more cases apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum IpcMode {
    /// Its own, without `/dev/shm`.
    None,
    /// Its own, not to be joined.
    Private,
    /// Its own, others may join.
    Shareable,
    /// The host's.
    Host,
    /// Another container's.
    Container(String),
}

/// Which namespaces are the container's own.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NamespaceSpec {
    /// Processes.
    pub pid: NamespaceMode,
    /// System V IPC and POSIX queues.
    pub ipc: IpcMode,
    /// Host name.
    pub uts: NamespaceMode,
    /// View of the cgroup tree.
    pub cgroup: NamespaceMode,
}

/// Where a mount comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A path of the host.
    Bind {
        /// Absolute path.
        path: PathBuf,
        /// Made as a directory when missing (`-v`; `--mount` refuses).
        create: bool,
        /// `rprivate`, `rslave`, …; default `rprivate`.
        propagation: String,
        /// Bound with what is mounted below.
        recursive: bool,
        /// What is mounted below is made read-only too, where asked.
        recursive_read_only: bool,
    },
    /// A named or anonymous volume.
    Volume {
        /// Its name; made up for an anonymous one.
        name: String,
        /// It has no name of the user's: removed with the container by `rm -v` and `--rm`.
        anonymous: bool,
        /// Filled from the image when empty.
        copy: bool,
        /// Directory inside the volume.
        subpath: Option<String>,
        /// Labels for a volume that has to be made.
        labels: BTreeMap<String, String>,
        /// Driver options for a volume that has to be made.
        options: BTreeMap<String, String>,
    },
    /// Memory.
    Tmpfs {
        /// Mount options as tmpfs(5) takes them.
        options: Vec<String>,
    },
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSpec {
    /// Absolute, cleaned path in the container.
    pub target: String,
    /// Where it comes from.
    pub source: MountSource,
    /// Cannot be written.
    pub read_only: bool,
    /// For whom the source is labelled at each start.
    #[serde(default)]
    pub relabel: Option<Relabel>,
}

/// A device of the host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeviceSpec {
    /// Path on the host.
    pub host: PathBuf,
    /// Path in the container.
    pub container: String,
    /// Letters of `rwm`.
    pub permissions: String,
}

/// When a container is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartMode {
    /// Never.
    No,
    /// Whenever it ends.
    Always,
    /// Whenever it ends, unless a user stopped it.
    UnlessStopped,
    /// When it ends with a code other than 0.
    OnFailure,
}

/// When and how often a container is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartPolicy {
    /// When.
    pub mode: RestartMode,
    /// How often at most for `on-failure`; 0 is without bound.
    pub maximum_retries: u32,
}

/// A health check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthSpec {
    /// The program that tells.
    pub test: HealthTest,
    /// Between two checks.
    pub interval: Duration,
    /// Longest check.
    pub timeout: Duration,
    /// Failures within this time after the start do not count.
    pub start_period: Duration,
    /// Between two checks in the start period.
    pub start_interval: Duration,
    /// Failures in a row that make it unhealthy.
    pub retries: u32,
}

/// The program of a health check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HealthTest {
    /// Arguments for execve.
    Exec(Vec<String>),
    /// A line for the image's shell.
    Shell(String),
}

/// Where output goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogSpec {
    /// Nowhere.
    None,
    /// Docker's json-file format.
    JsonFile {
        /// Rotated at this size in bytes.
        max_size: Option<u64>,
        /// Files kept, the current one included.
        max_files: u32,
        /// Rotated files are gzipped.
        compress: bool,
        /// Extra attributes of each line.
        attrs: BTreeMap<String, String>,
        /// The container never waits for the log: so many bytes of its output may wait to be written, what is more is lost.
        #[serde(default)]
        queue: Option<u64>,
        /// The options as given, for inspect.
        options: BTreeMap<String, String>,
    },
}

/// What kind of network a container is on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkMode {
    /// The default bridge.
    Bridge,
    /// The host's network.
    Host,
    /// Only a loopback of its own.
    None,
    /// Another container's, by reference.
    Container(String),
    /// A network that a user made, by the reference given.
    Network(String),
}

/// A network that a container is on, and its wishes there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attachment {
    /// The network's name, or the reference the user gave.
    pub network: String,
    /// Addresses asked for.
    pub addresses: Vec<IpAddr>,
    /// Further addresses, of no subnet.
    pub link_local: Vec<IpAddr>,
    /// Further names.
    pub aliases: Vec<String>,
    /// Names for other containers: `container:alias`.
    pub links: Vec<String>,
    /// Hardware address asked for.
    pub mac: Option<[u8; 6]>,
    /// Options of the endpoint.
    pub options: BTreeMap<String, String>,
    /// The network with the highest one leads out.
    pub gateway_priority: i64,
    /// What was given, be it empty: clients are shown that again.
    pub given: Given,
    /// When it was connected, if that was while the container did not run.
    pub connected: Option<Timestamp>,
}

/// Parts of an [`Attachment`] that a client has given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// The addresses.
    pub addresses: bool,
    /// The aliases.
    pub aliases: bool,
    /// The links.
    pub links: bool,
    /// The options.
    pub options: bool,
}

/// tcp, udp or sctp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The lower-case name.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

/// A port of the host that leads into the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortSpec {
    /// Port in the container.
    pub container_port: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// Address of the host; all of them when absent.
    pub host_ip: Option<IpAddr>,
    /// First and last port of the host to try; (0, 0) lets the kernel choose.
    pub host_ports: (u16, u16),
}

/// How a container is connected.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// What kind of network.
    pub mode: NetworkMode,
    /// The networks it is on, that of `mode` first; empty with `host`, `none` and another container's.
    #[serde(default)]
    pub attachments: Vec<Attachment>,
    /// Containers of the default bridge that it knows by another name: `container:alias`.
    #[serde(default)]
    pub links: Vec<String>,
    /// Ports led into it.
    pub ports: Vec<PortSpec>,
    /// Every exposed port gets a port of the host.
    pub publish_all: bool,
    /// Ports the image or the user names.
    pub exposed: Vec<(u16, Protocol)>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// Search domains.
    pub dns_search: Vec<String>,
    /// resolv.conf options.
    pub dns_options: Vec<String>,
    /// Lines of /etc/hosts as `name:address`.
    pub extra_hosts: Vec<String>,
    /// It has left `none`, or come to it, since it was created; `mode` stays what was asked for then.
    #[serde(default)]
    pub none_changed: bool,
}

impl NetworkSpec {
    /// On `none`, beside which there can be no other network.
    pub fn is_on_none(&self) -> bool {
        (self.mode == NetworkMode::None) != self.none_changed
    }

    /// The network it is on that needs no endpoint.
    pub fn predefined(&self) -> Option<&'static str> {
        match self.mode {
            NetworkMode::Host => Some("host"),
            _ => self.is_on_none().then_some("none"),
        }
    }
}
/// Fields of a log's tag.
pub const LOG_TAG_FIELDS: [&str; 7] = ["ID", "FullID", "Name", "ImageID", "ImageFullID", "ImageName", "DaemonName"];

/// `{{.Name}}/{{.ID}}`: the one use of templates that there is on the daemon's side, so fields are all that it takes.
pub fn log_tag(template: &str, field: impl Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, action)) = rest.split_once("{{") {
        let (action, after) = action.split_once("}}").ok_or_else(|| format!("log opt tag {template:?}: unclosed action"))?;
        let name = action.trim().strip_prefix('.').filter(|name| LOG_TAG_FIELDS.contains(name));
        let value = name.and_then(&field).ok_or_else(|| {
            format!(
                "log opt tag {template:?}: {:?} is none of the fields {}",
                action.trim(),
                LOG_TAG_FIELDS.map(|name| format!(".{name}")).join(", ")
            )
        })?;
        out.push_str(before);
        out.push_str(&value);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}
