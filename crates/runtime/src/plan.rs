//! Everything about a container's start that can be known before its process exists.
//!
//! Paths of the host are opened, mounts cloned, names turned into numbers, the filter compiled: an error here costs
//! nothing, and the child is left with system calls.

use crate::apparmor;
use crate::cgroup::{Cgroup, Entry, Layout, layout};
use crate::error::{Error, Result, StartFailure};
use crate::identity::{Rights, rlimits};
use crate::mounts::{self, MS_PRIVATE, Options, Planned};
use crate::seccomp::Program;
use crate::spec::{self, Hook, NamespaceKind, Process, Spec};
use crate::{defaults, selinux, user};
use naru_sys::process::{Scheduling, StringArray};
use rustix::fs::{FileType, Mode, OFlags};
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// What a start begins with.
pub(crate) struct Input<'a> {
    pub id: &'a str,
    pub spec: &'a Spec,
    /// A detached mount; without it the specification's root path is cloned.
    pub rootfs: Option<OwnedFd>,
    pub bundle: &'a Path,
    pub network_namespace: Option<OwnedFd>,
    pub cgroup: &'a Cgroup,
    pub seccomp: Program,
    pub terminal: bool,
    pub init: bool,
    pub new_keyring: bool,
    /// Descriptors 3 and up that the program inherits.
    pub preserved_fds: u32,
    pub gate: Gate,
}

/// What a process that is otherwise ready waits for before it runs its program.
#[derive(Debug)]
pub(crate) enum Gate {
    /// Whoever connects here: `start` does.
    Listener(OwnedFd),
    /// The word of its parent.
    Parent,
    /// Nothing.
    Open,
}

/// A container's start.
#[derive(Debug)]
pub(crate) struct Plan {
    /// For clone3; cgroup and time namespaces are made otherwise.
    pub clone_flags: u64,
    pub new_cgroup_namespace: bool,
    pub new_time_namespace: Option<String>,
    /// Joined by the child, the user namespace first.
    pub joins: Vec<(OwnedFd, u64)>,
    /// Joined by the parent, for its children.
    pub join_pid: Option<OwnedFd>,
    pub shared_pid_namespace: bool,
    pub id_maps: Option<(String, String)>,
    pub entry: Entry,
    pub loopback: bool,
    pub rootfs: OwnedFd,
    pub root_readonly: bool,
    pub root_propagation: Option<(u64, bool)>,
    pub mounts: Vec<Planned>,
    /// SELinux label of the mounts that are the container's own.
    pub mount_label: Option<String>,
    /// None when the host's /dev is mounted.
    pub devices: Option<Vec<Device>>,
    pub null: OwnedFd,
    pub masked_paths: Vec<PathBuf>,
    pub readonly_paths: Vec<PathBuf>,
    pub sysctls: Vec<(PathBuf, String)>,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    pub runtime_hooks: bool,
    pub create_container_hooks: Vec<Hook>,
    pub start_container_hooks: Vec<Hook>,
    /// The state for hooks that run in the child.
    pub hook_state: String,
    pub gate: Gate,
    pub init: bool,
    pub process: ProcessPlan,
}

/// A device node.
#[derive(Debug)]
pub(crate) struct Device {
    pub path: PathBuf,
    pub kind: FileType,
    pub number: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// The host's node, mounted where nodes cannot be made (user namespaces).
    pub host: Option<OwnedFd>,
}

/// A process of a container: the first or that of an exec.
#[derive(Debug)]
pub(crate) struct ProcessPlan {
    pub terminal: bool,
    pub console_size: Option<(u16, u16)>,
    pub program: String,
    pub arguments: StringArray,
    pub environment: Vec<String>,
    pub cwd: PathBuf,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    /// To be looked up in the root by whoever is inside first.
    pub username: String,
    pub umask: u32,
    pub rights: Option<Rights>,
    pub rlimits: Vec<(u32, u64, u64)>,
    pub no_new_privileges: bool,
    pub seccomp: Program,
    /// Files in `/proc/self` and what is written there.
    pub labels: Vec<(&'static str, String)>,
    /// Name of a new session keyring.
    pub keyring: Option<CString>,
    pub oom_score_adj: Option<i32>,
    pub scheduling: Option<Scheduling>,
    pub io_priority: Option<(u32, u32)>,
    pub personality: Option<u32>,
    pub preserved_fds: u32,
}

impl ProcessPlan {
    pub(crate) fn new(process: &Process, seccomp: Program, terminal: bool) -> Result<ProcessPlan> {
        let program = process.args.first().ok_or_else(|| Error::Invalid("the process has no arguments".into()))?.clone();
        let arguments = process
            .args
            .iter()
            .map(|argument| CString::new(argument.as_str()))
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(|_| Error::Invalid("an argument contains a zero byte".into()))?;
        if process.env.iter().any(|entry| entry.contains('\0')) {
            return Err(Error::Invalid("the environment contains a zero byte".into()));
        }
        if !process.cwd.starts_with('/') {
            return Err(Error::Invalid(format!("Cwd must be an absolute path: {:?}", process.cwd)));
        }
        if process.user.uid > i32::MAX as u32 || process.user.gid > i32::MAX as u32 {
            return Err(Error::Invalid("uids and gids must be in range 0-2147483647".into()));
        }
        Ok(ProcessPlan {
            terminal,
            console_size: process.console_size.as_ref().map(|size| (size.height, size.width)),
            program,
            arguments: StringArray::new(arguments),
            environment: environment(&process.env),
            cwd: PathBuf::from(&process.cwd),
            uid: process.user.uid,
            gid: process.user.gid,
            groups: process.user.additional_gids.clone(),
            username: process.user.username.clone(),
            umask: process.user.umask.unwrap_or(0o022) & 0o777,
            rights: process.capabilities.as_ref().map(Rights::new).transpose()?,
            rlimits: rlimits(&process.rlimits)?,
            no_new_privileges: process.no_new_privileges,
            seccomp,
            labels: labels(process)?,
            keyring: Some(c"_ses.exec".to_owned()),
            oom_score_adj: process.oom_score_adj,
            scheduling: process.scheduler.as_ref().map(scheduling).transpose()?,
            io_priority: process.io_priority.as_ref().map(io_priority).transpose()?,
            personality: None,
            preserved_fds: 0,
        })
    }

    /// Looks the user up and fills in `HOME`, as runc does from the numbers' entry in `/etc/passwd`.
    pub(crate) fn resolve_user(&mut self, root: BorrowedFd<'_>) -> Result<()> {
        let no_home = !self.environment.iter().any(|entry| entry.starts_with("HOME="));
        if self.username.is_empty() {
            if no_home {
                let home = user::home(root, self.uid);
                self.environment.push(format!("HOME={home}"));
            }
            return Ok(());
        }
        let extra: Vec<String> = self.groups.iter().map(u32::to_string).collect();
        let found = user::resolve(root, &self.username, &extra)?;
        (self.uid, self.gid, self.groups) = (found.uid, found.gid, found.additional_gids);
        if no_home {
            self.environment.push(format!("HOME={}", found.home));
        }
        Ok(())
    }
}

/// Of several values of a name the last one counts.
fn environment(entries: &[String]) -> Vec<String> {
    let mut result: Vec<String> = Vec::with_capacity(entries.len());
    for entry in entries {
        let Some((name, _)) = entry.split_once('=') else { continue };
        let same = |known: &String| known.split_once('=').is_some_and(|(known, _)| known == name);
        match result.iter().position(same) {
            Some(at) => result[at] = entry.clone(),
            None => result.push(entry.clone()),
        }
    }
    result
}

fn labels(process: &Process) -> Result<Vec<(&'static str, String)>> {
    if let Some(label) = selinux::require(&process.selinux_label)? {
        // Keys are the container's as its files are.
        return Ok(vec![("attr/exec", label.clone()), ("attr/keycreate", label)]);
    }
    let profile = process.apparmor_profile.as_str();
    if !profile.is_empty() {
        if apparmor::active() {
            apparmor::require(profile)?;
            // Kernels since 5.8 have the file that does not interfere with another security module.
            let file = if Path::new("/proc/self/attr/apparmor/exec").exists() { "attr/apparmor/exec" } else { "attr/exec" };
            return Ok(vec![(file, format!("exec {profile}"))]);
        }
        if profile != apparmor::UNCONFINED {
            return Err(Error::Unsupported(format!("cannot apply the AppArmor profile {profile:?}: the kernel has no AppArmor")));
        }
    }
    Ok(vec![])
}

fn scheduling(scheduler: &spec::Scheduler) -> Result<Scheduling> {
    let policy = match scheduler.policy.as_str() {
        "SCHED_OTHER" => 0,
        "SCHED_FIFO" => 1,
        "SCHED_RR" => 2,
        "SCHED_BATCH" => 3,
        "SCHED_ISO" => 4,
        "SCHED_IDLE" => 5,
        "SCHED_DEADLINE" => 6,
        other => return Err(Error::Invalid(format!("unknown scheduling policy {other:?}"))),
    };
    let flags = scheduler.flags.iter().try_fold(0, |flags, name| {
        Ok::<u64, Error>(
            flags
                | match name.as_str() {
                    "SCHED_FLAG_RESET_ON_FORK" => 1,
                    "SCHED_FLAG_RECLAIM" => 2,
                    "SCHED_FLAG_DL_OVERRUN" => 4,
                    "SCHED_FLAG_KEEP_POLICY" => 8,
                    "SCHED_FLAG_KEEP_PARAMS" => 16,
                    "SCHED_FLAG_UTIL_CLAMP_MIN" => 32,
                    "SCHED_FLAG_UTIL_CLAMP_MAX" => 64,
                    other => return Err(Error::Invalid(format!("unknown scheduling flag {other:?}"))),
                },
        )
    })?;
    let priority = u32::try_from(scheduler.priority).map_err(|_| Error::Invalid("the scheduling priority is negative".into()))?;
    Ok(Scheduling {
        policy,
        flags,
        nice: scheduler.nice,
        priority,
        runtime: scheduler.runtime,
        deadline: scheduler.deadline,
        period: scheduler.period,
    })
}

fn io_priority(priority: &spec::IoPriority) -> Result<(u32, u32)> {
    let class = match priority.class.as_str() {
        "IOPRIO_CLASS_RT" => 1,
        "IOPRIO_CLASS_BE" => 2,
        "IOPRIO_CLASS_IDLE" => 3,
        other => return Err(Error::Invalid(format!("unknown I/O priority class {other:?}"))),
    };
    match u32::try_from(priority.priority) {
        Ok(level @ 0..=7) => Ok((class, level)),
        _ => Err(Error::Invalid(format!("the I/O priority {} is not 0 to 7", priority.priority))),
    }
}

/// The namespaces of a plan.
#[derive(Default)]
struct Namespaces {
    clone_flags: u64,
    cgroup: bool,
    time: bool,
    user: bool,
    pid: bool,
    network: bool,
    joins: Vec<(OwnedFd, u64)>,
    join_pid: Option<OwnedFd>,
}

fn namespaces(linux: &spec::Linux, network: Option<OwnedFd>) -> Result<Namespaces> {
    let mut result = Namespaces::default();
    let mut mount = false;
    for namespace in &linux.namespaces {
        let kind = namespace.kind;
        if kind == NamespaceKind::Network && network.is_some() {
            continue;
        }
        if namespace.path.is_empty() {
            match kind {
                NamespaceKind::Cgroup => result.cgroup = true,
                NamespaceKind::Time => result.time = true,
                _ => result.clone_flags |= kind.flag(),
            }
            match kind {
                NamespaceKind::User => result.user = true,
                NamespaceKind::Pid => result.pid = true,
                NamespaceKind::Network => result.network = true,
                NamespaceKind::Mount => mount = true,
                _ => {}
            }
            continue;
        }
        let path = Path::new(&namespace.path);
        let fd =
            rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(Error::path("open the namespace", path))?;
        match kind {
            NamespaceKind::Pid => result.join_pid = Some(fd),
            NamespaceKind::Mount => return Err(Error::Unsupported("joining an existing mount namespace is not supported".into())),
            NamespaceKind::Time => result.joins.push((fd, kind.flag())),
            _ => result.joins.push((fd, kind.flag())),
        }
    }
    if !mount {
        return Err(Error::Invalid("a container needs a mount namespace of its own".into()));
    }
    if let Some(fd) = network {
        result.joins.push((fd, NamespaceKind::Network.flag()));
    }
    // The rights over the others come with the user namespace.
    result.joins.sort_by_key(|(_, flag)| *flag != NamespaceKind::User.flag());
    if result.joins.first().is_some_and(|(_, flag)| *flag == NamespaceKind::User.flag()) && result.pid {
        return Err(Error::Unsupported("joining a user namespace needs a pid namespace to join too".into()));
    }
    Ok(result)
}

fn id_map(ranges: &[spec::IdMapping]) -> String {
    ranges.iter().map(|range| format!("{} {} {}\n", range.container_id, range.host_id, range.size)).collect()
}

impl Plan {
    pub(crate) fn new(input: Input<'_>) -> Result<Plan> {
        let spec = input.spec;
        let process = spec.process.as_ref().ok_or_else(|| Error::Invalid("the specification has no process".into()))?;
        let empty = spec::Linux::default();
        let linux = spec.linux.as_ref().unwrap_or(&empty);
        let namespaces = namespaces(linux, input.network_namespace)?;
        let rootfs = match input.rootfs {
            Some(rootfs) => rootfs,
            None => clone_root(spec, input.bundle)?,
        };
        let mut process_plan = ProcessPlan::new(process, input.seccomp, input.terminal)?;
        process_plan.preserved_fds = input.preserved_fds;
        process_plan.keyring = if input.new_keyring { CString::new(format!("_ses.{}", input.id)).ok() } else { None };
        process_plan.personality = linux.personality.as_ref().map(personality).transpose()?;
        process_plan.resolve_user(rootfs.as_fd())?;
        let cgroup_v1 = match layout()? {
            Layout::V2 => None,
            Layout::V1 | Layout::Hybrid => Some(input.cgroup.views()),
        };
        let root_propagation = match linux.rootfs_propagation.as_str() {
            "" => None,
            name => Some(mounts::propagation(name).ok_or_else(|| Error::Invalid(format!("unknown propagation {name:?}")))?),
        };
        let mount_label = selinux::require(&linux.mount_label)?;
        let host = mounts::Host {
            bundle: input.bundle,
            cgroup_v1,
            keep_propagation: root_propagation.is_some_and(|(kind, _)| kind != MS_PRIVATE),
            user_namespace: None,
            label: mount_label.as_deref(),
        };
        let hooks = spec.hooks.clone().unwrap_or_default();
        let host_dev = spec.mounts.iter().any(|mount| {
            let options = Options::parse(&mount.options);
            mount.destination.trim_end_matches('/') == "/dev" && (options.bind || mount.kind == "bind")
        });
        Ok(Plan {
            clone_flags: namespaces.clone_flags,
            new_cgroup_namespace: namespaces.cgroup,
            new_time_namespace: namespaces.time.then(|| time_offsets(linux)),
            shared_pid_namespace: !namespaces.pid,
            joins: namespaces.joins,
            join_pid: namespaces.join_pid,
            id_maps: namespaces.user.then(|| (id_map(&linux.uid_mappings), id_map(&linux.gid_mappings))),
            entry: input.cgroup.entry()?,
            loopback: namespaces.network,
            root_readonly: spec.root.as_ref().is_some_and(|root| root.readonly),
            root_propagation,
            mounts: spec.mounts.iter().map(|mount| mounts::plan(mount, &host)).collect::<Result<Vec<_>>>()?,
            mount_label,
            devices: if host_dev { None } else { Some(devices(linux, namespaces.user)?) },
            null: mounts::null_device().map_err(Error::path("clone", "/dev/null"))?,
            masked_paths: linux.masked_paths.iter().map(PathBuf::from).collect(),
            readonly_paths: linux.readonly_paths.iter().map(PathBuf::from).collect(),
            sysctls: linux.sysctl.iter().map(|(name, value)| sysctl(spec, name, value)).collect::<Result<Vec<_>>>()?,
            hostname: Some(spec.hostname.clone()).filter(|name| !name.is_empty()),
            domainname: Some(spec.domainname.clone()).filter(|name| !name.is_empty()),
            runtime_hooks: !hooks.prestart.is_empty() || !hooks.create_runtime.is_empty(),
            create_container_hooks: hooks.create_container,
            start_container_hooks: hooks.start_container,
            hook_state: crate::hooks::state(input.id, "created", 0, &input.bundle.display().to_string(), spec),
            gate: input.gate,
            init: input.init,
            process: process_plan,
            rootfs,
        })
    }
}

fn clone_root(spec: &Spec, bundle: &Path) -> Result<OwnedFd> {
    let root = spec.root.as_ref().ok_or_else(|| Error::Invalid("the specification has no root".into()))?;
    let path = bundle.join(&root.path);
    let options = Options { recursive_bind: true, ..Options::default() };
    let (tree, directory) = mounts::clone_tree(&path, &options, None).map_err(Error::path("open the root file system", &path))?;
    if directory { Ok(tree) } else { Err(Error::Invalid(format!("the root file system {} is not a directory", path.display()))) }
}

fn personality(personality: &spec::Personality) -> Result<u32> {
    match personality.domain.as_str() {
        "LINUX" => Ok(0),
        "LINUX32" => Ok(8),
        other => Err(Error::Invalid(format!("unknown personality {other:?}"))),
    }
}

fn time_offsets(linux: &spec::Linux) -> String {
    linux.time_offsets.iter().map(|(clock, offset)| format!("{clock} {} {}\n", offset.secs, offset.nanosecs)).collect()
}

/// The file below `/proc` and its value; only what belongs to a namespace of the container.
fn sysctl(spec: &Spec, name: &str, value: &str) -> Result<(PathBuf, String)> {
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    // Both `net.ipv4.conf.eth0/1.forwarding` and `net/ipv4/conf/eth0.1/forwarding` are in use: the first separator decides.
    let slashes = name.find(['.', '/']).is_some_and(|at| name.as_bytes()[at] == b'/');
    let swap = |text: &str| {
        text.chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect::<String>()
    };
    let (dotted, path) = if slashes { (swap(name), name.to_owned()) } else { (name.to_owned(), swap(name)) };
    let kind = if IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
        NamespaceKind::Ipc
    } else if dotted.starts_with("net.") {
        NamespaceKind::Network
    } else if dotted == "kernel.domainname" || dotted == "kernel.hostname" {
        NamespaceKind::Uts
    } else {
        return Err(Error::Invalid(format!("sysctl {name:?} is not in a separate kernel namespace")));
    };
    if spec.namespace(kind).is_none() {
        return Err(Error::Invalid(format!("sysctl {name:?} not allowed in host {} namespace", kind.file())));
    }
    if path.split('/').any(|part| part.is_empty() || part == ".." || part == ".") {
        return Err(Error::Invalid(format!("invalid sysctl {name:?}")));
    }
    Ok((Path::new("sys").join(path), value.to_owned()))
}

fn devices(linux: &spec::Linux, user_namespace: bool) -> Result<Vec<Device>> {
    let mut all: Vec<spec::Device> = linux.devices.clone();
    for device in defaults::devices() {
        if !all.iter().any(|known| known.path == device.path) {
            all.push(device);
        }
    }
    all.iter().map(|device| plan_device(device, user_namespace)).collect()
}

fn plan_device(device: &spec::Device, user_namespace: bool) -> Result<Device> {
    let kind = match device.kind.as_str() {
        "c" | "u" => FileType::CharacterDevice,
        "b" => FileType::BlockDevice,
        "p" => FileType::Fifo,
        other => return Err(Error::Invalid(format!("unknown device type {other:?} of {}", device.path))),
    };
    let part = |number: i64| u32::try_from(number).map_err(|_| Error::Invalid(format!("invalid device number of {}", device.path)));
    let number = if kind == FileType::Fifo { 0 } else { rustix::fs::makedev(part(device.major)?, part(device.minor)?) };
    let host = if user_namespace && kind != FileType::Fifo {
        let path = Path::new(&device.path);
        let (tree, _) = mounts::clone_tree(path, &Options::default(), None).map_err(Error::path("clone the device", path))?;
        let status = rustix::fs::fstat(&tree).map_err(Error::path("look at", path))?;
        if FileType::from_raw_mode(status.st_mode) != kind || status.st_rdev != number {
            return Err(Error::Invalid(format!("the host's {} is another device than asked for", device.path)));
        }
        Some(tree)
    } else {
        None
    };
    Ok(Device {
        path: PathBuf::from(&device.path),
        kind,
        number,
        mode: device.file_mode.unwrap_or(0o666) & 0o7777,
        uid: device.uid.unwrap_or(0),
        gid: device.gid.unwrap_or(0),
        host,
    })
}

impl From<StartFailure> for Error {
    fn from(failure: StartFailure) -> Error {
        Error::Start(failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_of_a_name_counts() {
        let list = |entries: &[&str]| entries.iter().map(|&entry| entry.to_owned()).collect::<Vec<_>>();
        assert_eq!(environment(&list(&["A=1", "B=2", "A=3", "junk", "C="])), list(&["A=3", "B=2", "C="]));
    }

    #[test]
    fn sysctls_belong_to_namespaces() {
        let spec = defaults::spec();
        for (name, file) in [
            ("net.ipv4.ip_forward", "sys/net/ipv4/ip_forward"),
            ("net/ipv4/conf/eth0.1/forwarding", "sys/net/ipv4/conf/eth0.1/forwarding"),
            ("net.ipv4.conf.eth0/1.forwarding", "sys/net/ipv4/conf/eth0.1/forwarding"),
            ("kernel.shmmax", "sys/kernel/shmmax"),
            ("fs.mqueue.msg_max", "sys/fs/mqueue/msg_max"),
        ] {
            assert_eq!(sysctl(&spec, name, "1").unwrap().0, Path::new(file), "{name}");
        }
        for bad in ["kernel.core_pattern", "vm.swappiness", "net.ipv4...x", "net//x", "kernel", ""] {
            assert!(sysctl(&spec, bad, "1").is_err(), "{bad}");
        }
        assert!(sysctl(&Spec::default(), "net.ipv4.ip_forward", "1").is_err());
    }
}
