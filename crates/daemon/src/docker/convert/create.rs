//! A create request becomes a specification: image defaults merged, everything checked once.
//!
//! The merged wire request is kept in the specification for `inspect`, with the defaults that Docker fills in.

use super::super::error::{ApiError, Result};
use super::{host, log, mounts, network, resources};
use crate::App;
use naru_api::models::{ContainerConfig, ContainerCreateRequest, HostConfig};
use naru_engine::spec::{ContainerSpec, DeviceSpec, NamespaceMode, NamespaceSpec, NetworkMode, NetworkSpec, ProcessSpec};
use naru_store::Image;
use naru_types::{Name, Signal};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What is kept of the request for `inspect`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Front {
    /// Merged with the image's defaults.
    pub config: ContainerConfig,
    /// With Docker's defaults filled in.
    pub host: HostConfig,
}

/// A checked request.
pub struct Checked {
    /// For the engine.
    pub spec: ContainerSpec,
    /// For the user.
    pub warnings: Vec<String>,
}

fn bad(text: impl Into<String>) -> ApiError {
    ApiError::invalid(text)
}

/// Checks and translates a create request.
pub fn spec(app: &App, request: ContainerCreateRequest, name: Option<Name>, image: Image) -> Result<Checked> {
    let (mut config, mut host, networking) = request.into_parts();
    let mut warnings = Vec::new();
    refuse_unbuilt(&host)?;
    check_exposed(&config, &host)?;
    merge_image(&mut config, &image);
    fill_defaults(app, &mut host);
    let labels = host::label_options(app, &host)?;
    if !labels.is_empty() {
        host.security_opt.get_or_insert_default().extend(labels);
    }
    let security = host::security(&host)?;
    warnings.extend(host::label_warning(app, &security));
    let mut network = network::spec(app.engine.networks(), &config, &host, &networking)?;
    settle_network_mode(app, &mut network.mode, &mut host);
    for mode in [&mut host.pid_mode, &mut host.ipc_mode] {
        settle_mode(app, mode);
    }
    warnings.extend(network::warnings(&network.mode, &config, &host, &networking));
    warnings.extend(host::health_warning(config.healthcheck.as_ref()));
    let process = process(&config, &host)?;
    let ipc = host::ipc(&host.ipc_mode)?;
    let uts = host::namespace(&host.uts_mode, "UTS", false)?;
    check_conflicts(&config, &network, &uts)?;
    let mut limits = resources::resources(&host)?;
    if limits.pids.is_none() {
        limits.pids = Some(naru_runtime::spec::Pids { limit: Some(resources::default_pids_limit()) });
    }
    warnings.extend(resources::warnings(host.memory_swappiness, host.oom_kill_disable, host.memory));
    if host.kernel_memory != 0 || host.kernel_memory_tcp != 0 {
        warnings.push("Specifying a kernel memory limit is deprecated and has no effect.".to_owned());
    }
    let shm_size = u64::try_from(host.shm_size).map_err(|_| bad("SHM size can not be less than 0"))?;
    let labels = config.labels.clone().unwrap_or_default();
    let spec = ContainerSpec {
        name,
        image_name: config.image.clone(),
        image: Some(image.id.clone()),
        hostname: Some(config.hostname.clone()).filter(|name| !name.is_empty()),
        domainname: config.domainname.clone(),
        security,
        namespaces: NamespaceSpec {
            pid: host::namespace(&host.pid_mode, "PID", true)?,
            cgroup: host::namespace(&host.cgroupns_mode, "cgroup namespace", false)?,
            ipc,
            uts,
        },
        mounts: mounts::mounts(&config, &host)?,
        volumes_from: volumes_from(&host)?,
        shm_size,
        devices: devices(&host)?,
        resources: limits,
        device_cgroup_rules: device_rules(&host)?,
        cgroup_parent: cgroup_parent(&host)?,
        ulimits: host::ulimits(&host, &app.config.default_ulimits)?,
        sysctls: Default::default(),
        oom_score_adj: oom_score(&host)?,
        restart: host::restart_policy(&host.restart_policy, host.auto_remove)?,
        auto_remove: host.auto_remove,
        health: host::health(config.healthcheck.as_ref(), config.shell.as_ref())?,
        log: log::log(&host.log_config, &labels, config.env.as_deref().unwrap_or_default(), &app.config.log)?,
        labels,
        annotations: host.annotations.clone().unwrap_or_default(),
        runtime: host.runtime.clone(),
        process,
        network,
        front: serde_json::Value::Null,
    };
    let sysctls = host::sysctls(&host, &spec.network.mode, &spec.namespaces.ipc, &spec.namespaces.uts)?;
    app.config.engine().runtime(&host.runtime)?;
    let front = serde_json::to_value(Front { config, host }).map_err(|error| bad(error.to_string()))?;
    Ok(Checked { spec: ContainerSpec { sysctls, front, ..spec }, warnings })
}

/// What the user exposes cannot be on another container's network; what only the image does is let pass (as in Docker).
fn check_exposed(config: &ContainerConfig, host: &HostConfig) -> Result<()> {
    let exposes = config.exposed_ports.as_ref().is_some_and(|ports| !ports.is_empty());
    let publishes = host.port_bindings.as_ref().is_some_and(|ports| !ports.is_empty());
    if exposes && !publishes && host.network_mode.starts_with("container:") {
        return Err(bad("conflicting options: port exposing and the container type network mode"));
    }
    Ok(())
}

/// Another container's network is that of its id, whatever that container is called later.
fn settle_network_mode(app: &App, mode: &mut NetworkMode, host: &mut HostConfig) {
    if let NetworkMode::Container(reference) = mode
        && let Ok(found) = app.engine.find(reference)
    {
        *reference = found.view().id.to_string();
        host.network_mode = format!("container:{reference}");
    }
}

/// The same of another container's processes or memory; one that is missing is told of by the start.
fn settle_mode(app: &App, mode: &mut String) {
    if let Some(found) = mode.strip_prefix("container:").and_then(|reference| app.engine.find(reference).ok()) {
        *mode = format!("container:{}", found.view().id);
    }
}

/// Options that exist in Docker and are not built: refused, never ignored.
fn refuse_unbuilt(host: &HostConfig) -> Result<()> {
    if host.annotations.as_ref().is_some_and(|annotations| annotations.contains_key("")) {
        return Err(bad("invalid Annotations: the empty string is not permitted as an annotation key"));
    }
    if let Some(request) = host.device_requests.iter().flatten().next() {
        let capabilities: Vec<String> = request.capabilities.iter().flatten().map(|set| format!("[{}]", set.join(" "))).collect();
        return Err(bad(format!("could not select device driver {:?} with capabilities: [{}]", request.driver, capabilities.join(" "))));
    }
    if host.storage_opt.as_ref().is_some_and(|options| !options.is_empty()) {
        return Err(bad("--storage-opt is not built into this version: the layers of a container share the data root's file system"));
    }
    if !matches!(host.userns_mode.as_str(), "" | "host") {
        return Err(bad(format!(
            "invalid USER mode: {:?}; user namespaces by --userns are not built into this version, host is",
            host.userns_mode
        )));
    }
    if !matches!(host.isolation.as_str(), "" | "default") {
        return Err(bad(format!("invalid isolation ({}): linux containers have only the default", host.isolation)));
    }
    if !host.cgroup.is_empty() {
        return Err(bad(format!("invalid cgroup spec: {:?}", host.cgroup)));
    }
    Ok(())
}

/// moby `daemon/config` merge: what the user leaves open is the image's.
fn merge_image(config: &mut ContainerConfig, image: &Image) {
    let defaults = &image.config.config;
    let empty = |list: &Option<Vec<String>>| list.as_ref().is_none_or(Vec::is_empty);
    if config.user.is_empty() {
        config.user.clone_from(&defaults.user);
    }
    if empty(&config.entrypoint) {
        if empty(&config.cmd) {
            config.cmd.clone_from(&defaults.cmd);
        }
        if config.entrypoint.is_none() {
            config.entrypoint.clone_from(&defaults.entrypoint);
        }
    }
    // `--entrypoint ""` clears the image's.
    if config.entrypoint.as_deref() == Some(&[String::new()]) {
        config.entrypoint = None;
    }
    let key = |entry: &String| entry.split('=').next().unwrap_or_default().to_owned();
    let mut env = config.env.take().unwrap_or_default();
    // What the user gives comes first, as `inspect` shows it.
    let of_image: Vec<String> = defaults.env.iter().filter(|entry| !env.iter().any(|mine| key(mine) == key(entry))).cloned().collect();
    env.extend(of_image);
    // A name without a value removes the image's variable.
    env.retain(|entry| entry.contains('='));
    config.env = Some(env);
    for (name, value) in &defaults.labels {
        config.labels.get_or_insert_default().entry(name.clone()).or_insert_with(|| value.clone());
    }
    for port in &defaults.exposed_ports {
        config.exposed_ports.get_or_insert_default().entry(port.clone()).or_default();
    }
    for target in &defaults.volumes {
        config.volumes.get_or_insert_default().entry(target.clone()).or_default();
    }
    if config.working_dir.is_empty() {
        config.working_dir.clone_from(&defaults.working_dir);
    }
    if config.stop_signal.is_empty() {
        config.stop_signal.clone_from(&defaults.stop_signal);
    }
    if config.shell.is_none() {
        config.shell.clone_from(&defaults.shell);
    }
    merge_health(config, defaults.healthcheck.as_ref());
}

fn merge_health(config: &mut ContainerConfig, image: Option<&naru_store::Healthcheck>) {
    let Some(image) = image else { return };
    let own = config.healthcheck.get_or_insert_default();
    if own.test.as_ref().is_none_or(Vec::is_empty) {
        own.test = Some(image.test.clone());
    }
    let or = |mine: &mut i64, theirs: i64| {
        if *mine == 0 {
            *mine = theirs;
        }
    };
    or(&mut own.interval, image.interval);
    or(&mut own.timeout, image.timeout);
    or(&mut own.start_period, image.start_period);
    or(&mut own.start_interval, image.start_interval);
    or(&mut own.retries, image.retries);
}

/// What Docker shows in `inspect` for options left open.
fn fill_defaults(app: &App, host: &mut HostConfig) {
    let or = |text: &mut String, default: &str| {
        if text.is_empty() {
            default.clone_into(text);
        }
    };
    if host.shm_size == 0 {
        host.shm_size = 64 << 20;
    }
    if host.network_mode == "default" {
        host.network_mode = String::new();
    }
    or(&mut host.network_mode, "bridge");
    or(&mut host.ipc_mode, "private");
    or(&mut host.cgroupns_mode, if host.privileged { "host" } else { "private" });
    or(&mut host.restart_policy.name, "no");
    or(&mut host.runtime, &app.config.default_runtime);
    host.log_config = log::merged(&host.log_config, &app.config.log);
    if !host.privileged {
        let list = |paths: &[&str]| Some(paths.iter().map(|path| (*path).to_owned()).collect());
        host.masked_paths = host.masked_paths.take().or_else(|| Some(naru_runtime::defaults::masked_paths()));
        host.readonly_paths = host.readonly_paths.take().or_else(|| list(naru_runtime::defaults::READONLY_PATHS));
    }
    if host.memory > 0 && host.memory_swap == 0 {
        host.memory_swap = host.memory.saturating_mul(2);
    }
    host.memory_swappiness = host.memory_swappiness.filter(|value| *value != -1);
    host.pids_limit = host.pids_limit.filter(|limit| *limit != 0);
    if host.init.is_none() && app.config.init {
        host.init = Some(true);
    }
}

fn process(config: &ContainerConfig, host: &HostConfig) -> Result<ProcessSpec> {
    let args: Vec<String> = config.entrypoint.iter().flatten().chain(config.cmd.iter().flatten()).cloned().collect();
    if args.is_empty() {
        return Err(bad("no command specified"));
    }
    if args[0].is_empty() {
        return Err(bad("no command specified: the program's name is empty"));
    }
    let env = config.env.clone().unwrap_or_default();
    if let Some(entry) = env.iter().find(|entry| entry.starts_with('=')) {
        return Err(bad(format!("invalid environment variable: {entry}")));
    }
    let names = [&config.user, &config.working_dir, &config.hostname, &config.domainname];
    if args.iter().chain(&env).chain(names).any(|text| text.contains('\0')) {
        return Err(bad("arguments, environment, user, directory and names cannot contain NUL bytes"));
    }
    let cwd = if config.working_dir.is_empty() { "/".to_owned() } else { config.working_dir.clone() };
    if !cwd.starts_with('/') {
        return Err(bad(format!("the working directory '{cwd}' is invalid, it needs to be an absolute path")));
    }
    let stop_signal = match config.stop_signal.as_str() {
        "" => Signal::TERM,
        text => text.parse().map_err(|_| bad(format!("invalid signal: {text}")))?,
    };
    let [rows, columns] = host.console_size;
    let side = |n: u32| u16::try_from(n).ok().filter(|n| *n > 0);
    Ok(ProcessSpec {
        args,
        env,
        user: config.user.clone(),
        groups: host.group_add.clone().unwrap_or_default(),
        cwd,
        tty: config.tty,
        console_size: side(rows).zip(side(columns)),
        open_stdin: config.open_stdin,
        stdin_once: config.stdin_once,
        init: host.init.unwrap_or(false),
        stop_signal,
        stop_timeout: config.stop_timeout,
    })
}

/// Options that contradict each other (docker/cli and moby `runconfig`).
fn check_conflicts(config: &ContainerConfig, network: &NetworkSpec, uts: &NamespaceMode) -> Result<()> {
    let container = matches!(network.mode, NetworkMode::Container(_));
    let host = network.mode == NetworkMode::Host;
    if !config.hostname.is_empty() && *uts == NamespaceMode::Host {
        return Err(bad("conflicting options: hostname and the UTS mode"));
    }
    if !config.domainname.is_empty() && *uts == NamespaceMode::Host {
        return Err(bad("conflicting options: domainname and the UTS mode"));
    }
    if container {
        for (set, text) in [
            (!config.hostname.is_empty(), "conflicting options: hostname and the network mode"),
            (!network.ports.is_empty() || network.publish_all, "conflicting options: port publishing and the container type network mode"),
            (!network.dns.is_empty(), "conflicting options: dns and the network mode"),
            (!network.extra_hosts.is_empty(), "conflicting options: custom host-to-IP mapping and the network mode"),
            (!config.mac_address.is_empty(), "conflicting options: mac-address and the network mode"),
        ] {
            if set {
                return Err(bad(text));
            }
        }
    }
    if host && !config.mac_address.is_empty() {
        return Err(bad("conflicting options: mac-address and the network mode"));
    }
    let labels_ok = config.hostname.len() <= 253 && !config.hostname.contains(|c: char| c.is_control() || c.is_whitespace() || c == '/');
    if !labels_ok {
        return Err(bad(format!("invalid hostname format: {:?}", config.hostname)));
    }
    if !container {
        return Ok(());
    }
    if config.exposed_ports.as_ref().is_some_and(|ports| !ports.is_empty()) && network.publish_all {
        return Err(bad("conflicting options: port exposing and the container type network mode"));
    }
    Ok(())
}

fn volumes_from(host: &HostConfig) -> Result<Vec<(String, bool)>> {
    let one = |text: &String| match text.rsplit_once(':') {
        None => Ok((text.clone(), false)),
        Some((name, "ro")) => Ok((name.to_owned(), true)),
        Some((name, "rw" | "z" | "Z")) => Ok((name.to_owned(), false)),
        Some((_, mode)) => Err(bad(format!("invalid mode for volumes-from: {mode}"))),
    };
    host.volumes_from.iter().flatten().map(one).collect()
}

fn devices(host: &HostConfig) -> Result<Vec<DeviceSpec>> {
    let one = |device: &naru_api::models::DeviceMapping| {
        let permissions = if device.cgroup_permissions.is_empty() { "rwm" } else { &device.cgroup_permissions };
        if !permissions.chars().all(|c| "rwm".contains(c)) {
            return Err(bad(format!("invalid device mode: {permissions}")));
        }
        if !device.path_on_host.starts_with('/') {
            return Err(bad(format!(
                "invalid device path: {:?} is not absolute (CDI devices are not built into this version)",
                device.path_on_host
            )));
        }
        let container = if device.path_in_container.is_empty() { &device.path_on_host } else { &device.path_in_container };
        Ok(DeviceSpec {
            host: PathBuf::from(&device.path_on_host),
            container: mounts::clean_target(container)?,
            permissions: permissions.to_owned(),
        })
    };
    host.devices.iter().flatten().map(one).collect()
}

fn device_rules(host: &HostConfig) -> Result<Vec<String>> {
    let one = |rule: &String| match naru_engine::parse_device_rule(rule) {
        Some(_) => Ok(rule.clone()),
        None => Err(bad(format!("invalid device cgroup rule format: '{rule}'"))),
    };
    host.device_cgroup_rules.iter().flatten().map(one).collect()
}

/// A cgroup path must stay below the root it is given in (`/../../x` would leave it).
fn cgroup_parent(host: &HostConfig) -> Result<Option<String>> {
    let parent = host.cgroup_parent.as_str();
    if parent.is_empty() {
        return Ok(None);
    }
    if parent.split('/').any(|part| part == ".." || part == ".") || parent.contains(['\0', '\n']) {
        return Err(bad(format!("invalid cgroup parent: {parent:?}")));
    }
    if parent.ends_with(".slice") {
        return Err(bad(format!("cgroup parent {parent:?} is a systemd slice; the cgroupfs driver takes a path")));
    }
    Ok(Some(format!("/{}", parent.trim_matches('/'))))
}

fn oom_score(host: &HostConfig) -> Result<Option<i32>> {
    match host.oom_score_adj {
        0 => Ok(None),
        score @ -1000..=1000 => Ok(i32::try_from(score).ok()),
        score => Err(bad(format!("Invalid value {score}, range for oom score adj is [-1000, 1000]"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup_parents_cannot_climb() {
        let parse = |text: &str| cgroup_parent(&HostConfig { cgroup_parent: text.into(), ..HostConfig::default() });
        assert_eq!(parse("a/b").unwrap().as_deref(), Some("/a/b"));
        for bad in ["/../../x", "a/./b", "x.slice"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn scores() {
        let parse = |score| oom_score(&HostConfig { oom_score_adj: score, ..HostConfig::default() });
        assert_eq!(parse(-500).unwrap(), Some(-500));
        assert!(parse(1001).is_err());
    }
}
