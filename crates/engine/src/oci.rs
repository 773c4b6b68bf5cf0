//! From a container's specification to the OCI runtime specification: pure, no I/O.

use crate::spec::{ContainerSpec, IpcMode, MountSource, NamespaceMode, NetworkMode, SeccompChoice};
use naru_runtime::defaults;
use naru_runtime::seccomp;
use naru_runtime::spec::{
    Capabilities, ConsoleSize, Device, DeviceRule, Linux, Mount, Namespace, NamespaceKind, Process, Resources, Rlimit, Root, Spec, User,
};
use naru_runtime::user::ResolvedUser;
use naru_types::ContainerId;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Docker's `PATH` for images that set none.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the launch has found out before the specification can be written.
pub struct Facts {
    /// Who runs.
    pub identity: ResolvedUser,
    /// Host name in effect.
    pub hostname: String,
    /// Paths of namespaces to join, by kind; no entry and not shared with the host means a new one.
    pub join: BTreeMap<&'static str, PathBuf>,
    /// Host paths behind the mounts of the specification, in the same order.
    pub sources: Vec<Option<PathBuf>>,
    /// Mounts of the engine: hosts, hostname, resolv.conf.
    pub engine_files: Vec<(PathBuf, &'static str)>,
    /// Devices with their numbers.
    pub devices: Vec<(Device, String)>,
    /// Variables that links to other containers set.
    pub links: Vec<String>,
    /// Kernel parameters of its networks' interfaces.
    pub sysctls: Vec<(String, String)>,
    /// The cgroup, see [`cgroup`].
    pub cgroup: (String, Resources),
}

/// The environment before an exec's additions: PATH, HOSTNAME, TERM, the image's and user's own.
pub fn base_env(spec: &ContainerSpec, hostname: &str, tty: bool) -> Vec<String> {
    let key = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let mut env = vec![DEFAULT_PATH.to_owned()];
    if !hostname.is_empty() {
        env.push(format!("HOSTNAME={hostname}"));
    }
    if tty {
        env.push("TERM=xterm".to_owned());
    }
    // What is given takes the place of what is there; a name without a value takes it away.
    for entry in &spec.process.env {
        match env.iter_mut().find(|known| key(known) == key(entry)) {
            Some(known) => *known = entry.clone(),
            None => env.push(entry.clone()),
        }
    }
    env.retain(|entry| entry.contains('='));
    env
}

/// The capabilities a container's root has: the default, all, plus and minus (moby `oci/caps`).
pub fn capabilities(spec: &ContainerSpec) -> Vec<String> {
    let security = &spec.security;
    let all = || defaults::ALL_CAPABILITIES.iter().map(|name| (*name).to_owned());
    if security.privileged {
        return all().collect();
    }
    let add_all = security.cap_add.iter().any(|name| name == "ALL");
    let drop_all = security.cap_drop.iter().any(|name| name == "ALL");
    let base: Vec<String> = match (add_all, drop_all) {
        (true, _) => all().collect(),
        (false, true) => vec![],
        (false, false) => defaults::CAPABILITIES.iter().map(|name| (*name).to_owned()).collect(),
    };
    let mut kept: Vec<String> = base.into_iter().filter(|name| !security.cap_drop.contains(name)).collect();
    for name in security.cap_add.iter().filter(|name| *name != "ALL") {
        if !kept.contains(name) {
            kept.push(name.clone());
        }
    }
    kept
}

/// A process with the container's rights; arguments, environment and directory are the first process's.
pub fn process(spec: &ContainerSpec, identity: &ResolvedUser, privileged: bool) -> Process {
    let bounding = if privileged { defaults::ALL_CAPABILITIES.iter().map(|name| (*name).to_owned()).collect() } else { capabilities(spec) };
    // Only root starts with capabilities; what a setuid program may gain is the bounding set. Inheritable and ambient
    // stay empty (CVE-2022-24769, CVE-2016-8867).
    let held = if identity.uid == 0 { bounding.clone() } else { vec![] };
    Process {
        terminal: spec.process.tty,
        console_size: spec.process.console_size.map(|(height, width)| ConsoleSize { height, width }),
        user: User { uid: identity.uid, gid: identity.gid, additional_gids: identity.additional_gids.clone(), ..User::default() },
        args: spec.process.args.clone(),
        cwd: spec.process.cwd.clone(),
        capabilities: Some(Capabilities { bounding, effective: held.clone(), permitted: held, ..Capabilities::default() }),
        rlimits: spec
            .ulimits
            .iter()
            .map(|(name, soft, hard)| Rlimit { kind: format!("RLIMIT_{}", name.to_ascii_uppercase()), soft: *soft, hard: *hard })
            .collect(),
        no_new_privileges: spec.security.no_new_privileges,
        apparmor_profile: spec.security.apparmor_profile().to_owned(),
        selinux_label: spec.security.labels().0.unwrap_or_default().to_owned(),
        oom_score_adj: spec.oom_score_adj,
        ..Process::default()
    }
}

fn namespaces(spec: &ContainerSpec, facts: &Facts) -> Vec<Namespace> {
    let mut list = vec![Namespace { kind: NamespaceKind::Mount, path: String::new() }];
    let mut add = |kind: NamespaceKind, host: bool| {
        let path = facts.join.get(kind.file()).map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
        if !host {
            list.push(Namespace { kind, path });
        }
    };
    add(NamespaceKind::Pid, spec.namespaces.pid == NamespaceMode::Host);
    add(NamespaceKind::Ipc, spec.namespaces.ipc == IpcMode::Host);
    add(NamespaceKind::Uts, spec.namespaces.uts == NamespaceMode::Host);
    add(NamespaceKind::Network, spec.network.mode == NetworkMode::Host);
    add(NamespaceKind::Cgroup, spec.namespaces.cgroup == NamespaceMode::Host);
    list
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    Mount {
        destination: destination.to_owned(),
        kind: kind.to_owned(),
        source: source.to_owned(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
        ..Mount::default()
    }
}

/// The mounts every container has, and /dev/shm as the IPC mode wants it.
fn base_mounts(spec: &ContainerSpec, facts: &Facts) -> Vec<Mount> {
    let privileged = spec.security.privileged;
    let sys = if privileged { "rw" } else { "ro" };
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", sys]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", sys]),
    ];
    let taken: Vec<&str> = spec.mounts.iter().map(|mount| mount.target.as_str()).collect();
    match &spec.namespaces.ipc {
        // The host's own queues and memory.
        IpcMode::Host => {
            // In the host's namespace this shows the host's queues, also where the host has not mounted them.
            mounts.push(mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]));
            mounts.push(mount("/dev/shm", "bind", "/dev/shm", &["rbind", "rprivate"]));
        }
        IpcMode::Container(_) => {
            mounts.push(mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]));
        }
        IpcMode::None => mounts.push(mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"])),
        // Memory that others may join is mounted by the engine, see `launch::shared_memory`.
        IpcMode::Shareable => mounts.push(mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"])),
        IpcMode::Private => {
            mounts.push(mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]));
            let size = format!("size={}", spec.shm_size);
            mounts.push(mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &size]));
        }
    }
    mounts.retain(|mount| !taken.contains(&mount.destination.as_str()));
    if let Some(shared) = facts.join.get("shm") {
        mounts.push(mount("/dev/shm", "bind", &shared.to_string_lossy(), &["rbind", "rprivate"]));
    }
    let access = if spec.security.readonly_root { "ro" } else { "rw" };
    for (source, target) in &facts.engine_files {
        if !taken.contains(target) {
            mounts.push(mount(target, "bind", &source.to_string_lossy(), &["rbind", access, "rprivate"]));
        }
    }
    mounts
}

fn user_mounts(spec: &ContainerSpec, facts: &Facts) -> Vec<Mount> {
    let mut mounts: Vec<Mount> = spec
        .mounts
        .iter()
        .zip(&facts.sources)
        .map(|(wanted, source)| {
            let access = if wanted.read_only { "ro" } else { "rw" };
            let source = source.as_ref().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
            match &wanted.source {
                MountSource::Bind { propagation, recursive, recursive_read_only, .. } => {
                    let bind = if *recursive { "rbind" } else { "bind" };
                    let propagation = if propagation.is_empty() { "rprivate" } else { propagation };
                    let access = if wanted.read_only && *recursive_read_only { "rro" } else { access };
                    mount(&wanted.target, "bind", &source, &[bind, access, propagation])
                }
                MountSource::Volume { .. } => mount(&wanted.target, "bind", &source, &["rbind", access, "rprivate"]),
                MountSource::Tmpfs { options } => {
                    let mut all = vec!["noexec", "nosuid", "nodev", access];
                    // What the user says comes last and wins (`exec` after `noexec`).
                    all.extend(options.iter().map(String::as_str));
                    mount(&wanted.target, "tmpfs", "tmpfs", &all)
                }
            }
        })
        .collect();
    // A mount below another must come after it.
    mounts.sort_by_key(|mount| mount.destination.matches('/').count() - usize::from(mount.destination == "/"));
    mounts
}

fn device_rules(spec: &ContainerSpec, devices: &[(Device, String)]) -> Vec<DeviceRule> {
    let all = |allow: bool| DeviceRule { allow, access: "rwm".into(), ..DeviceRule::default() };
    if spec.security.privileged {
        return vec![all(true)];
    }
    let mut rules = defaults::device_rules();
    for (device, permissions) in devices {
        rules.push(DeviceRule {
            allow: true,
            kind: device.kind.clone(),
            major: Some(device.major),
            minor: Some(device.minor),
            access: permissions.clone(),
        });
    }
    rules.extend(spec.device_cgroup_rules.iter().filter_map(|rule| parse_device_rule(rule)));
    rules
}

/// `c 1:3 rwm`, `a *:* rwm` as docker run takes them.
pub fn parse_device_rule(rule: &str) -> Option<DeviceRule> {
    let parts: Vec<&str> = rule.split_whitespace().collect();
    let [kind, numbers, access] = parts[..] else { return None };
    let (major, minor) = numbers.split_once(':')?;
    let number = |text: &str| if text == "*" { Some(None) } else { text.parse::<i64>().ok().filter(|n| *n >= 0).map(Some) };
    let valid = matches!(kind, "a" | "b" | "c") && !access.is_empty() && access.chars().all(|c| "rwm".contains(c));
    valid.then_some(())?;
    Some(DeviceRule { allow: true, kind: kind.to_owned(), major: number(major)?, minor: number(minor)?, access: access.to_owned() })
}

/// The container's cgroup below `parent`: its path and its limits.
pub fn cgroup(id: &ContainerId, parent: &str, spec: &ContainerSpec, devices: &[(Device, String)]) -> (String, Resources) {
    let resources = Resources { devices: device_rules(spec, devices), ..spec.resources.clone() };
    let parent = parent.trim_matches('/');
    (if parent.is_empty() { format!("/{id}") } else { format!("/{parent}/{id}") }, resources)
}

/// The whole specification.
pub fn spec(spec: &ContainerSpec, facts: &Facts) -> Result<Spec, naru_runtime::Error> {
    let security = &spec.security;
    let privileged = security.privileged;
    let caps = capabilities(spec);
    let filter = match &security.seccomp {
        SeccompChoice::Unconfined => None,
        _ if privileged && security.seccomp == SeccompChoice::Default => None,
        SeccompChoice::Default => Some(seccomp::default_profile(&caps)),
        SeccompChoice::Profile(json) => Some(seccomp::from_json(json, &caps)?),
    };
    let readonly: Vec<String> = defaults::READONLY_PATHS.iter().map(|path| (*path).to_owned()).collect();
    let masked = defaults::masked_paths();
    let paths = |own: &Option<Vec<String>>, list: &[String]| match own {
        Some(paths) => paths.clone(),
        None if privileged => vec![],
        None => list.to_vec(),
    };
    let mut process = process(spec, &facts.identity, privileged);
    process.env = base_env(spec, &facts.hostname, spec.process.tty);
    let linked: Vec<String> = facts.links.iter().filter(|entry| !process.env.contains(entry)).cloned().collect();
    process.env.extend(linked);
    // An empty one is none.
    process.env.retain(|entry| entry != "HOME=");
    if !process.env.iter().any(|entry| entry.starts_with("HOME=")) {
        process.env.push(format!("HOME={}", facts.identity.home));
    }
    let mut mounts = base_mounts(spec, facts);
    mounts.extend(user_mounts(spec, facts));
    let own_uts = spec.namespaces.uts == NamespaceMode::Private;
    let (cgroups_path, resources) = facts.cgroup.clone();
    Ok(Spec {
        oci_version: "1.2.0".into(),
        process: Some(process),
        root: Some(Root { path: "rootfs".into(), readonly: security.readonly_root }),
        hostname: if own_uts { facts.hostname.clone() } else { String::new() },
        domainname: if own_uts { spec.domainname.clone() } else { String::new() },
        mounts,
        hooks: None,
        annotations: spec.annotations.clone(),
        linux: Some(Linux {
            sysctl: spec.sysctls.clone().into_iter().chain(facts.sysctls.iter().cloned()).collect(),
            resources: Some(resources),
            cgroups_path,
            namespaces: namespaces(spec, facts),
            devices: facts.devices.iter().map(|(device, _)| device.clone()).collect(),
            seccomp: filter,
            masked_paths: paths(&security.masked_paths, &masked),
            readonly_paths: paths(&security.readonly_paths, &readonly),
            mount_label: security.labels().1.unwrap_or_default().to_owned(),
            ..Linux::default()
        }),
    })
}
