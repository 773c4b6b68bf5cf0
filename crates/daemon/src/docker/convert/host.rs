//! Security, namespaces, health, restart, ports: the smaller parts of a create request.

use super::super::error::{ApiError, Result};
use crate::App;
use naru_api::models::{ContainerConfig, HealthConfig, HostConfig, RestartPolicy as WireRestart};
use naru_engine::spec::{
    HealthSpec, HealthTest, IpcMode, NamespaceMode, NetworkMode, PortSpec, Protocol, RestartMode, RestartPolicy, SeccompChoice,
    SecuritySpec,
};
use naru_runtime::selinux::Context;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

fn bad(text: impl Into<String>) -> ApiError {
    ApiError::invalid(text)
}

/// `always`, `on-failure:3`, …
pub fn restart_policy(wire: &WireRestart, auto_remove: bool) -> Result<RestartPolicy> {
    let mode = match wire.name.as_str() {
        "" | "no" => RestartMode::No,
        "always" => RestartMode::Always,
        "unless-stopped" => RestartMode::UnlessStopped,
        "on-failure" => RestartMode::OnFailure,
        other => {
            return Err(bad(format!(
                "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
            )));
        }
    };
    if wire.maximum_retry_count < 0 {
        return Err(bad("invalid restart policy: maximum retry count cannot be negative"));
    }
    if wire.maximum_retry_count > 0 && mode != RestartMode::OnFailure {
        return Err(bad("invalid restart policy: maximum retry count can only be used with 'on-failure'"));
    }
    if auto_remove && mode != RestartMode::No {
        return Err(bad("can't create 'AutoRemove' container with restart policy"));
    }
    let maximum_retries =
        u32::try_from(wire.maximum_retry_count).map_err(|_| bad("invalid restart policy: maximum retry count is too large"))?;
    Ok(RestartPolicy { mode, maximum_retries })
}

/// `CHOWN`, `cap_chown`, `ALL` to `CAP_CHOWN`, `ALL`.
fn capabilities(list: Option<&Vec<String>>) -> Result<Vec<String>> {
    let one = |name: &String| {
        let upper = name.to_ascii_uppercase();
        if upper == "ALL" {
            return Ok("ALL".to_owned());
        }
        let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
        if naru_runtime::defaults::ALL_CAPABILITIES.contains(&full.as_str()) {
            Ok(full)
        } else {
            Err(bad(format!("invalid capability: {name:?}")))
        }
    };
    list.into_iter().flatten().map(one).collect()
}

/// Privileges from `--privileged`, `--cap-*`, `--security-opt`.
pub fn security(host: &HostConfig) -> Result<SecuritySpec> {
    let mut security = SecuritySpec {
        privileged: host.privileged,
        cap_add: capabilities(host.cap_add.as_ref())?,
        cap_drop: capabilities(host.cap_drop.as_ref())?,
        seccomp: SeccompChoice::Default,
        apparmor: None,
        label: vec![],
        process_label: String::new(),
        mount_label: String::new(),
        no_new_privileges: false,
        masked_paths: host.masked_paths.clone(),
        readonly_paths: host.readonly_paths.clone(),
        readonly_root: host.readonly_rootfs,
    };
    for option in host.security_opt.iter().flatten() {
        let split = option.split_once('=').or_else(|| option.split_once(':'));
        match split {
            None if option == "no-new-privileges" => security.no_new_privileges = true,
            Some(("no-new-privileges", value)) => {
                security.no_new_privileges = value.parse().map_err(|_| bad(format!("invalid --security-opt 2: {option:?}")))?;
            }
            None if option == "disable" => security.label.push("disable".into()),
            Some(("seccomp", "unconfined")) => security.seccomp = SeccompChoice::Unconfined,
            Some(("seccomp", "builtin")) => security.seccomp = SeccompChoice::Default,
            Some(("seccomp", profile)) => {
                if !profile.trim_start().starts_with('{') {
                    return Err(bad(format!(
                        "Decoding seccomp profile failed: {profile:?} is no JSON; the client sends the file's content"
                    )));
                }
                naru_runtime::seccomp::from_json(profile, &[]).map_err(|error| bad(format!("Decoding seccomp profile failed: {error}")))?;
                security.seccomp = SeccompChoice::Profile(profile.to_owned());
            }
            Some(("apparmor", profile)) => security.apparmor = Some(profile.to_owned()),
            Some(("label", value)) => security.label.push(value.to_owned()),
            Some(("systempaths", "unconfined")) => {
                security.masked_paths = Some(vec![]);
                security.readonly_paths = Some(vec![]);
            }
            _ => return Err(bad(format!("invalid --security-opt 2: {option:?}"))),
        }
    }
    Ok(security)
}

/// The SELinux options that Docker adds where the user gives none: a container that sees all processes or memory of the
/// host cannot be kept from them, and one that joins another's has its label.
pub fn label_options(app: &App, host: &HostConfig) -> Result<Vec<String>> {
    if host.security_opt.iter().flatten().any(|option| option.starts_with("label=")) {
        return Ok(vec![]);
    }
    if host.privileged || host.pid_mode == "host" || host.ipc_mode == "host" {
        return Ok(vec!["label=disable".into()]);
    }
    let of = |mode: &str| -> Option<Vec<String>> {
        // One that is missing is told of by the start.
        let other = app.engine.find(mode.strip_prefix("container:")?).ok()?.view();
        let label: Context = other.spec.security.process_label.parse().ok()?;
        let parts = [("user", label.user), ("role", label.role), ("type", label.kind), ("level", label.level)];
        Some(parts.into_iter().filter(|(_, value)| !value.is_empty()).map(|(key, value)| format!("label={key}:{value}")).collect())
    };
    match (of(&host.pid_mode), of(&host.ipc_mode)) {
        (Some(pid), Some(ipc)) if pid != ipc => Err(bad("--ipc and --pid containers SELinux labels aren't the same")),
        (pid, ipc) => Ok(pid.or(ipc).unwrap_or_default()),
    }
}

/// Told where labels are asked for and the daemon gives none (as Docker's, which does not tell).
pub fn label_warning(app: &App, security: &SecuritySpec) -> Option<String> {
    let asked = security.label.iter().any(|option| option != "disable");
    (asked && !app.config.selinux && naru_runtime::selinux::enabled())
        .then(|| "SELinux labels are discarded: the daemon runs without --selinux-enabled.".to_owned())
}

fn container_reference(mode: &str) -> Option<Result<String>> {
    mode.strip_prefix("container:").map(|reference| {
        if reference.is_empty() { Err(bad(format!("invalid mode {mode:?}: the container is missing"))) } else { Ok(reference.to_owned()) }
    })
}

/// pid, uts and cgroup modes.
pub fn namespace(mode: &str, what: &str, joinable: bool) -> Result<NamespaceMode> {
    match mode {
        "" | "private" => Ok(NamespaceMode::Private),
        "host" => Ok(NamespaceMode::Host),
        mode if joinable => match container_reference(mode) {
            Some(reference) => reference.map(NamespaceMode::Container),
            None => Err(bad(format!("invalid {what} mode: {mode}"))),
        },
        mode => Err(bad(format!("invalid {what} mode: {mode}"))),
    }
}

/// ipc mode.
pub fn ipc(mode: &str) -> Result<IpcMode> {
    match mode {
        "" | "private" => Ok(IpcMode::Private),
        "shareable" => Ok(IpcMode::Shareable),
        "none" => Ok(IpcMode::None),
        "host" => Ok(IpcMode::Host),
        mode => match container_reference(mode) {
            Some(reference) => reference.map(IpcMode::Container),
            None => Err(bad(format!("invalid IPC mode: {mode}"))),
        },
    }
}

/// Network mode.
pub fn network_mode(mode: &str) -> Result<NetworkMode> {
    match mode {
        "" | "default" | "bridge" => Ok(NetworkMode::Bridge),
        "host" => Ok(NetworkMode::Host),
        "none" => Ok(NetworkMode::None),
        mode => match container_reference(mode) {
            Some(Ok(reference)) => Ok(NetworkMode::Container(reference)),
            Some(Err(_)) => Err(bad("invalid network mode: invalid container format container:<name|id>")),
            // It has to exist when the container starts, not before (as in Docker).
            None => Ok(NetworkMode::Network(mode.to_owned())),
        },
    }
}

/// A test of a type that there is not: the container has no health check then, in Docker without a word.
pub fn health_warning(wire: Option<&HealthConfig>) -> Option<String> {
    let kind = wire?.test.as_deref()?.first()?;
    let is_known = matches!(kind.as_str(), "NONE" | "CMD" | "CMD-SHELL");
    (!is_known)
        .then(|| format!("Unknown healthcheck type '{kind}' (expected 'CMD', 'CMD-SHELL' or 'NONE'): the container has no health check"))
}

/// The health check, with Docker's defaults; none for `["NONE"]`.
pub fn health(wire: Option<&HealthConfig>, shell: Option<&Vec<String>>) -> Result<Option<HealthSpec>> {
    let Some(wire) = wire else { return Ok(None) };
    let test = wire.test.as_deref().unwrap_or_default();
    for (name, value) in
        [("Interval", wire.interval), ("Timeout", wire.timeout), ("StartPeriod", wire.start_period), ("StartInterval", wire.start_interval)]
    {
        if value != 0 && value < 1_000_000 {
            return Err(bad(format!("{name} in Healthcheck cannot be less than 1ms")));
        }
    }
    if wire.retries < 0 {
        return Err(bad("Retries in Healthcheck cannot be negative"));
    }
    let test = match test {
        [] => return Ok(None),
        [kind] if kind == "CMD" => return Err(bad("a health check of the type CMD needs a command")),
        [kind, args @ ..] if kind == "CMD" => HealthTest::Exec(args.to_vec()),
        // The shell makes of them what it will, also of none.
        [kind, args @ ..] if kind == "CMD-SHELL" => match (shell.filter(|shell| !shell.is_empty()), args) {
            (None, [line]) => HealthTest::Shell(line.clone()),
            (None, args) => HealthTest::Exec(["/bin/sh".to_owned(), "-c".to_owned()].into_iter().chain(args.iter().cloned()).collect()),
            (Some(shell), args) => HealthTest::Exec(shell.iter().chain(args).cloned().collect()),
        },
        // `NONE`, or what [`health_warning`] tells of.
        [_, ..] => return Ok(None),
    };
    let or = |value: i64, default: u64| match u64::try_from(value) {
        Ok(0) | Err(_) => Duration::from_secs(default),
        Ok(nanoseconds) => Duration::from_nanos(nanoseconds),
    };
    Ok(Some(HealthSpec {
        test,
        interval: or(wire.interval, 30),
        timeout: or(wire.timeout, 30),
        start_period: or(wire.start_period, 0),
        start_interval: or(wire.start_interval, 5),
        retries: if wire.retries == 0 { 3 } else { u32::try_from(wire.retries).unwrap_or(u32::MAX) },
    }))
}

/// `80/tcp`, `80`, `53/udp`.
pub fn port(text: &str) -> Result<(u16, Protocol)> {
    let wrong = || bad(format!("invalid port specification: {text:?}"));
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return Err(wrong()),
    };
    let number = number.parse::<u16>().ok().filter(|number| *number > 0).ok_or_else(wrong)?;
    Ok((number, protocol))
}

/// Published ports.
pub fn ports(host: &HostConfig) -> Result<Vec<PortSpec>> {
    let mut list = Vec::new();
    for (key, bindings) in host.port_bindings.iter().flatten() {
        let (container_port, protocol) = port(key)?;
        for binding in bindings.iter().flatten() {
            let host_ip = match binding.host_ip.as_str() {
                "" => None,
                text => Some(text.parse::<IpAddr>().map_err(|_| bad(format!("invalid IP address in port binding: {text:?}")))?),
            };
            let wrong = || bad(format!("invalid port specification: {:?}", binding.host_port));
            let host_ports = match binding.host_port.as_str() {
                "" => (0, 0),
                text => {
                    let (first, last) = text.split_once('-').unwrap_or((text, text));
                    let (first, last): (u16, u16) = (first.parse().map_err(|_| wrong())?, last.parse().map_err(|_| wrong())?);
                    if last < first {
                        return Err(wrong());
                    }
                    (first, last)
                }
            };
            list.push(PortSpec { container_port, protocol, host_ip, host_ports });
        }
    }
    Ok(list)
}

/// Exposed ports of the image and the user.
pub fn exposed(config: &ContainerConfig) -> Result<Vec<(u16, Protocol)>> {
    config.exposed_ports.iter().flatten().map(|(text, _)| port(text)).collect()
}

/// Names of rlimits (setrlimit(2)).
const ULIMITS: [&str; 16] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
    "as",
];

/// A limit that the kernel knows, and takes.
pub fn check_ulimit(name: &str, soft: i64, hard: i64) -> Result<()> {
    if !ULIMITS.contains(&name) {
        return Err(bad(format!("invalid ulimit type: {name}")));
    }
    if unlimited(soft) > unlimited(hard) {
        let sides = if soft < 0 { format!("soft: {soft} (unlimited), hard: {hard}") } else { format!("{soft} > {hard}") };
        return Err(bad(format!("ulimit soft limit must be less than or equal to hard limit: {sides}")));
    }
    Ok(())
}

/// -1 is.
fn unlimited(limit: i64) -> u64 {
    u64::try_from(limit).unwrap_or(u64::MAX)
}

/// rlimits: name, soft, hard.
pub fn ulimits(host: &HostConfig, defaults: &BTreeMap<String, (i64, i64)>) -> Result<Vec<(String, u64, u64)>> {
    let mut all: BTreeMap<String, (i64, i64)> = defaults.clone();
    for limit in host.ulimits.iter().flatten() {
        check_ulimit(&limit.name, limit.soft, limit.hard)?;
        all.insert(limit.name.clone(), (limit.soft, limit.hard));
    }
    Ok(all.into_iter().map(|(name, (soft, hard))| (name, unlimited(soft), unlimited(hard))).collect())
}

/// Kernel parameters: only those of the container's own namespaces.
pub fn sysctls(host: &HostConfig, network: &NetworkMode, ipc: &IpcMode, uts: &NamespaceMode) -> Result<BTreeMap<String, String>> {
    let mut list = BTreeMap::new();
    for (key, value) in host.sysctls.iter().flatten() {
        let name = key.replace('/', ".");
        let own_network = !matches!(network, NetworkMode::Host | NetworkMode::Container(_));
        let own_ipc = !matches!(ipc, IpcMode::Host | IpcMode::Container(_));
        let is_ipc = name.starts_with("fs.mqueue.")
            || matches!(
                name.as_str(),
                "kernel.msgmax"
                    | "kernel.msgmnb"
                    | "kernel.msgmni"
                    | "kernel.sem"
                    | "kernel.shmall"
                    | "kernel.shmmax"
                    | "kernel.shmmni"
                    | "kernel.shm_rmid_forced"
            );
        let allowed = if name.starts_with("net.") {
            own_network
        } else if is_ipc {
            own_ipc
        } else {
            name == "kernel.domainname" && *uts == NamespaceMode::Private
        };
        if !allowed || name.split('.').any(|part| part.is_empty() || part == "..") || name.contains('\0') {
            return Err(bad(format!("sysctl {key:?} is not allowed: it is not in a namespace of the container's own")));
        }
        list.insert(name, value.clone());
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restart_policies() {
        let parse = |name: &str, count| restart_policy(&WireRestart { name: name.into(), maximum_retry_count: count }, false);
        assert_eq!(parse("on-failure", 3).unwrap().maximum_retries, 3);
        assert!(parse("always", 1).is_err() && parse("sometimes", 0).is_err() && parse("on-failure", -1).is_err());
        assert!(restart_policy(&WireRestart { name: "always".into(), maximum_retry_count: 0 }, true).is_err());
    }

    #[test]
    fn ports_and_health() {
        assert_eq!(port("53/UDP").unwrap(), (53, Protocol::Udp));
        assert!(port("0").is_err() && port("99999/tcp").is_err() && port("x").is_err() && port("1/icmp").is_err());
        let wire = HealthConfig { test: Some(vec!["CMD-SHELL".into(), "true".into()]), ..HealthConfig::default() };
        let spec = health(Some(&wire), None).unwrap().unwrap();
        assert_eq!((spec.interval.as_secs(), spec.retries, spec.start_interval.as_secs()), (30, 3, 5));
        assert_eq!(health(Some(&HealthConfig { test: Some(vec!["NONE".into()]), ..HealthConfig::default() }), None).unwrap(), None);
        let of = |test: &[&str], shell: Option<&[&str]>| {
            let strings = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<String>>();
            let wire = HealthConfig { test: Some(strings(test)), ..HealthConfig::default() };
            let told = health_warning(Some(&wire)).is_some();
            (health(Some(&wire), shell.map(strings).as_ref()).map(|spec| spec.map(|spec| spec.test)).map_err(|error| error.message), told)
        };
        let exec = |words: &[&str]| (Ok(Some(HealthTest::Exec(words.iter().map(|word| (*word).to_owned()).collect()))), false);
        assert_eq!(of(&["x", "y"], None), (Ok(None), true));
        assert_eq!(of(&["NONE", "x"], None), (Ok(None), false));
        assert_eq!(of(&["CMD"], None).0, Err("a health check of the type CMD needs a command".to_owned()));
        assert_eq!(of(&["CMD-SHELL"], None), exec(&["/bin/sh", "-c"]));
        assert_eq!(of(&["CMD-SHELL", "a", "b"], None), exec(&["/bin/sh", "-c", "a", "b"]));
        assert_eq!(of(&["CMD-SHELL", "a"], Some(&["ash", "-xc"])), exec(&["ash", "-xc", "a"]));
        assert!(health(Some(&HealthConfig { interval: 5, ..wire }), None).is_err());
    }

    #[test]
    fn sysctls_of_other_namespaces_are_refused() {
        let parse = |key: &str, network: NetworkMode| {
            let host = HostConfig { sysctls: Some(BTreeMap::from([(key.to_owned(), "1".to_owned())])), ..HostConfig::default() };
            sysctls(&host, &network, &IpcMode::Private, &NamespaceMode::Private)
        };
        assert!(parse("net.ipv4.ip_forward", NetworkMode::Bridge).is_ok());
        for key in ["kernel.core_pattern", "net/../kernel/core_pattern", "vm.swappiness", "net..x", "kernel.hostname"] {
            assert!(parse(key, NetworkMode::Bridge).is_err(), "{key}");
        }
        assert!(parse("net.ipv4.ip_forward", NetworkMode::Host).is_err());
    }

    #[test]
    fn security_options() {
        let parse = |option: &str| security(&HostConfig { security_opt: Some(vec![option.into()]), ..HostConfig::default() });
        assert!(parse("no-new-privileges").unwrap().no_new_privileges);
        assert!(!parse("no-new-privileges=false").unwrap().no_new_privileges);
        assert_eq!(parse("seccomp=unconfined").unwrap().seccomp, SeccompChoice::Unconfined);
        for bad in ["what", "what=1", "seccomp=/path", "seccomp={", "no-new-privileges=maybe"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
