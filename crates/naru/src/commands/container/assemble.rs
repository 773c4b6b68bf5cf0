//! From the flags of `run` and `create` to the body of `POST /containers/create`.

use std::collections::BTreeMap;

use naru_api::models::*;

use super::options::ContainerFlags;
use crate::parse::devices::{Device, device, interface_request};
use crate::parse::mounts::{Volume, tmpfs_spec, volume_spec};
use crate::parse::networks::Attachment;
use crate::parse::{Parsed, environment, key_values, ports, security_options};

/// What a container is created from.
pub struct Assembled {
    pub config: ContainerConfig,
    pub host: HostConfig,
    pub networking: NetworkingConfig,
}

fn list<T: Clone>(items: &[T]) -> Option<Vec<T>> {
    (!items.is_empty()).then(|| items.to_vec())
}

fn text(value: &Option<String>) -> String {
    value.clone().unwrap_or_default()
}

/// Puts everything together. `args` are the image and the command.
pub fn assemble(flags: &ContainerFlags, args: &[String], proxies: &[(&'static str, String)]) -> Parsed<Assembled> {
    check_modes(flags)?;
    let (image, command) = args.split_first().ok_or("an image is required")?;
    let volumes = volumes(flags)?;
    let (mut exposed, bindings) = ports::publish(&flags.publish)?;
    exposed.extend(ports::expose(&flags.expose)?);
    let config = config(flags, image, command, proxies, volumes.anonymous, exposed)?;
    let (networking, network_mode) = networking(flags)?;
    let host = host(flags, volumes.binds, bindings, network_mode)?;
    if flags.rm && !matches!(host.restart_policy.name.as_str(), "" | "no") {
        return Err("conflicting options: cannot specify both --restart and --rm".to_owned());
    }
    Ok(Assembled { config, host, networking })
}

fn check_modes(flags: &ContainerFlags) -> Parsed<()> {
    let one_of = |value: &Option<String>, plain: &[&str], container: bool| match value.as_deref() {
        None | Some("") => true,
        Some(value) => plain.contains(&value) || (container && value.strip_prefix("container:").is_some_and(|name| !name.is_empty())),
    };
    if !one_of(&flags.pid, &["host"], true) {
        return Err("--pid: invalid PID mode".to_owned());
    }
    if !one_of(&flags.uts, &["host"], false) {
        return Err("--uts: invalid UTS mode".to_owned());
    }
    if !one_of(&flags.userns, &["host"], false) {
        return Err("--userns: invalid USER mode".to_owned());
    }
    if !one_of(&flags.cgroupns, &["host", "private"], false) {
        return Err("--cgroupns: invalid CGROUP mode".to_owned());
    }
    match flags.memory_swappiness {
        Some(value) if value != -1 && !(0..=100).contains(&value) => {
            Err(format!("invalid value: {value}. Valid memory swappiness range is 0-100"))
        }
        _ => Ok(()),
    }
}

struct Volumes {
    binds: Vec<String>,
    anonymous: Set,
}

fn volumes(flags: &ContainerFlags) -> Parsed<Volumes> {
    let mut out = Volumes { binds: Vec::new(), anonymous: Set::new() };
    for spec in &flags.volume {
        match volume_spec(spec)? {
            // The same twice is the same (scripts assemble their flags from parts).
            Volume::Bind(bind) if out.binds.contains(&bind) => {}
            Volume::Bind(bind) => out.binds.push(bind),
            Volume::Anonymous(path) => drop(out.anonymous.insert(path, Empty {})),
        }
    }
    Ok(out)
}

fn config(
    flags: &ContainerFlags,
    image: &str,
    command: &[String],
    proxies: &[(&'static str, String)],
    volumes: Set,
    exposed: Set,
) -> Parsed<ContainerConfig> {
    let attached = |name: &str| flags.attach.iter().any(|stream| stream == name);
    let all = flags.attach.is_empty();
    let attach_stdin = attached("stdin") || flags.interactive;
    let mut env = Vec::new();
    let own = flags.environment()?;
    for (name, value) in proxies {
        if !own.iter().any(|variable| variable.split('=').next() == Some(name)) {
            env.push(format!("{name}={value}"));
        }
    }
    env.extend(own);
    let labels = key_values(&environment::labels(&flags.label_file, &flags.label)?);
    Ok(ContainerConfig {
        hostname: text(&flags.hostname),
        domainname: text(&flags.domainname),
        user: text(&flags.user),
        attach_stdin,
        attach_stdout: attached("stdout") || all,
        attach_stderr: attached("stderr") || all,
        exposed_ports: Some(exposed),
        tty: flags.tty,
        open_stdin: flags.interactive,
        stdin_once: flags.interactive && attach_stdin,
        env: list(&env),
        cmd: list(command),
        healthcheck: health(flags)?,
        image: image.to_owned(),
        volumes: (!volumes.is_empty()).then_some(volumes),
        working_dir: text(&flags.workdir),
        // An empty entrypoint takes the image's away.
        entrypoint: flags.entrypoint.as_ref().map(|entrypoint| vec![entrypoint.clone()]),
        mac_address: String::new(),
        labels: Some(labels),
        stop_signal: text(&flags.stop_signal),
        stop_timeout: flags.stop_timeout,
        ..ContainerConfig::default()
    })
}

fn health(flags: &ContainerFlags) -> Parsed<Option<HealthConfig>> {
    let given = flags.health_cmd.as_ref().is_some_and(|command| !command.is_empty())
        || [flags.health_interval, flags.health_timeout, flags.health_start_period, flags.health_start_interval, flags.health_retries]
            .iter()
            .any(|value| value.is_some_and(|value| value != 0));
    if flags.no_healthcheck {
        if given {
            return Err("--no-healthcheck conflicts with --health-* options".to_owned());
        }
        return Ok(Some(HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() }));
    }
    if !given {
        return Ok(None);
    }
    for (name, value) in [
        ("--health-interval", flags.health_interval),
        ("--health-timeout", flags.health_timeout),
        ("--health-retries", flags.health_retries),
        ("--health-start-period", flags.health_start_period),
        ("--health-start-interval", flags.health_start_interval),
    ] {
        if value.is_some_and(|value| value < 0) {
            return Err(format!("{name} cannot be negative"));
        }
    }
    Ok(Some(HealthConfig {
        test: flags.health_cmd.as_ref().filter(|command| !command.is_empty()).map(|command| vec!["CMD-SHELL".to_owned(), command.clone()]),
        interval: flags.health_interval.unwrap_or(0),
        timeout: flags.health_timeout.unwrap_or(0),
        start_period: flags.health_start_period.unwrap_or(0),
        start_interval: flags.health_start_interval.unwrap_or(0),
        retries: flags.health_retries.unwrap_or(0),
    }))
}

fn host(flags: &ContainerFlags, binds: Vec<String>, bindings: PortMap, network_mode: String) -> Parsed<HostConfig> {
    let mut devices = Vec::new();
    let mut interfaces = Vec::new();
    for text in &flags.device {
        match device(text)? {
            Device::File(mapping) => devices.push(mapping),
            Device::Interface(name) => interfaces.push(name),
        }
    }
    let (security_opt, unconfined_paths) = security_options(&flags.security_opt)?;
    let paths = unconfined_paths.then(Vec::new);
    let map = |pairs: &[String]| (!pairs.is_empty()).then(|| key_values(pairs));
    if flags.storage_opt.iter().any(|option| !option.contains('=')) {
        return Err("invalid storage option".to_owned());
    }
    let log_options = key_values(&flags.log_opt);
    if flags.log_driver.as_deref() == Some("none") && !log_options.is_empty() {
        return Err("invalid logging opts for driver none".to_owned());
    }
    let tmpfs: BTreeMap<String, String> = flags.tmpfs.iter().map(|spec| tmpfs_spec(spec)).collect();
    Ok(HostConfig {
        binds: list(&binds),
        container_id_file: text(&flags.cidfile),
        log_config: LogConfig { r#type: text(&flags.log_driver), config: Some(log_options) },
        network_mode,
        port_bindings: Some(bindings),
        restart_policy: crate::parse::restart_policy(flags.restart.as_deref().unwrap_or("no"))?,
        auto_remove: flags.rm,
        volume_driver: text(&flags.volume_driver),
        volumes_from: list(&flags.volumes_from),
        annotations: map(&flags.annotation),
        cap_add: list(&capabilities(&flags.cap_add)),
        cap_drop: list(&capabilities(&flags.cap_drop)),
        cgroupns_mode: text(&flags.cgroupns),
        dns: Some(flags.dns.clone()),
        dns_options: Some(flags.dns_option.clone()),
        dns_search: Some(flags.dns_search.clone()),
        extra_hosts: list(&flags.add_host),
        group_add: list(&flags.group_add),
        ipc_mode: text(&flags.ipc),
        oom_score_adj: flags.oom_score_adj.unwrap_or(0),
        pid_mode: text(&flags.pid),
        privileged: flags.privileged,
        links: (!flags.link.is_empty()).then(|| flags.link.clone()),
        publish_all_ports: flags.publish_all,
        readonly_rootfs: flags.read_only,
        security_opt: list(&security_opt),
        storage_opt: map(&flags.storage_opt),
        tmpfs: (!tmpfs.is_empty()).then_some(tmpfs),
        uts_mode: text(&flags.uts),
        userns_mode: text(&flags.userns),
        shm_size: flags.shm_size.unwrap_or(0),
        sysctls: map(&flags.sysctl),
        runtime: text(&flags.runtime),
        isolation: text(&flags.isolation),
        cpu_shares: flags.cpu_shares.unwrap_or(0),
        memory: flags.memory.unwrap_or(0),
        nano_cpus: flags.cpus.unwrap_or(0),
        cgroup_parent: text(&flags.cgroup_parent),
        blkio_weight: flags.blkio_weight.unwrap_or(0),
        blkio_weight_device: Some(flags.blkio_weight_device.clone()),
        blkio_device_read_bps: Some(flags.device_read_bps.clone()),
        blkio_device_write_bps: Some(flags.device_write_bps.clone()),
        blkio_device_read_iops: Some(flags.device_read_iops.clone()),
        blkio_device_write_iops: Some(flags.device_write_iops.clone()),
        cpu_period: flags.cpu_period.unwrap_or(0),
        cpu_quota: flags.cpu_quota.unwrap_or(0),
        cpu_realtime_period: flags.cpu_rt_period.unwrap_or(0),
        cpu_realtime_runtime: flags.cpu_rt_runtime.unwrap_or(0),
        cpuset_cpus: text(&flags.cpuset_cpus),
        cpuset_mems: text(&flags.cpuset_mems),
        devices: Some(devices),
        device_cgroup_rules: list(&flags.device_cgroup_rule),
        device_requests: (!interfaces.is_empty()).then(|| vec![interface_request(interfaces)]),
        kernel_memory: flags.kernel_memory.unwrap_or(0),
        memory_reservation: flags.memory_reservation.unwrap_or(0),
        memory_swap: flags.memory_swap.unwrap_or(0),
        memory_swappiness: Some(flags.memory_swappiness.unwrap_or(-1)),
        oom_kill_disable: Some(flags.oom_kill_disable.unwrap_or(false)),
        pids_limit: Some(flags.pids_limit.unwrap_or(0)),
        ulimits: Some(flags.ulimit.clone()),
        mounts: list(&flags.mount),
        masked_paths: paths.clone(),
        readonly_paths: paths,
        init: flags.init,
        ..HostConfig::default()
    })
}

/// The endpoints of the container, and its network mode: the first network named.
fn networking(flags: &ContainerFlags) -> Parsed<(NetworkingConfig, String)> {
    let mut attachments = flags.network.clone();
    if attachments.is_empty() {
        attachments.push(Attachment { target: "default".to_owned(), ..Attachment::default() });
    }
    if attachments.iter().any(|attachment| attachment.target.is_empty()) {
        return Err("no name set for network".to_owned());
    }
    let several = attachments.len() > 1;
    let user_defined = |target: &str| !matches!(target, "default" | "bridge" | "host" | "none") && !target.starts_with("container:");
    if several
        && attachments
            .iter()
            .any(|attachment| !user_defined(&attachment.target) && attachment.target != "bridge" && attachment.target != "default")
    {
        return Err("conflicting options: cannot attach both user-defined and non-user-defined network-modes".to_owned());
    }
    if let Some(mac) = &flags.mac_address {
        crate::parse::networks::mac(mac)?;
    }
    let mode = attachments[0].target.clone();
    let own = user_defined(&mode);
    apply_plain_flags(flags, &mut attachments[0], own)?;
    if attachments.iter().any(|attachment| !attachment.aliases.is_empty() && !user_defined(&attachment.target)) {
        return Err("network-scoped aliases are only supported for user-defined networks".to_owned());
    }
    let mut endpoints = BTreeMap::new();
    for mut attachment in attachments {
        if let Some(rate) = &flags.net_rate {
            attachment.driver_options.extend(rate.options());
        }
        let endpoint = attachment.endpoint();
        if attachment.target == "default" && endpoint == EndpointSettings::default() {
            continue;
        }
        if endpoints.insert(attachment.target.clone(), Some(endpoint)).is_some() {
            return Err(format!("network {:?} is specified multiple times", attachment.target));
        }
    }
    // A mode that is no network takes no endpoint wishes.
    if let [only] = endpoints.keys().map(String::as_str).collect::<Vec<_>>().as_slice()
        && (matches!(*only, "host" | "none") || only.starts_with("container:"))
        && endpoints.values().flatten().all(|endpoint| *endpoint == EndpointSettings::default())
    {
        endpoints.clear();
    }
    Ok((NetworkingConfig { endpoints_config: Some(endpoints) }, mode))
}

/// `--ip`, `--network-alias` and their like belong to the first network.
fn apply_plain_flags(flags: &ContainerFlags, first: &mut Attachment, user_defined: bool) -> Parsed<()> {
    let conflict = |flag: &str| format!("conflicting options: cannot specify both --{flag} and per-network {flag}");
    if !flags.network_alias.is_empty() {
        if !first.aliases.is_empty() {
            return Err("conflicting options: cannot specify both --network-alias and per-network alias".to_owned());
        }
        first.aliases = flags.network_alias.clone();
    }
    // On the default bridge a link is the host configuration's.
    if !flags.link.is_empty() && user_defined {
        if !first.links.is_empty() {
            return Err(conflict("link"));
        }
        first.links = flags.link.clone();
    }
    for (flag, value, slot) in
        [("ip", &flags.ip, &mut first.ipv4), ("ip6", &flags.ip6, &mut first.ipv6), ("mac-address", &flags.mac_address, &mut first.mac)]
    {
        if let Some(value) = value {
            if !slot.is_empty() {
                return Err(conflict(flag));
            }
            slot.clone_from(value);
        }
    }
    if !flags.link_local_ip.is_empty() {
        if !first.link_local.is_empty() {
            return Err(conflict("link-local-ip"));
        }
        first.link_local = flags.link_local_ip.clone();
    }
    Ok(())
}

/// `net_raw` as `CAP_NET_RAW`, in order and once each, as docker's client sends them.
fn capabilities(names: &[String]) -> Vec<String> {
    let full = |name: &String| {
        let name = name.to_ascii_uppercase();
        if name == "ALL" || name.starts_with("CAP_") { name } else { format!("CAP_{name}") }
    };
    let sorted: std::collections::BTreeSet<String> = names.iter().map(full).collect();
    sorted.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args as _, FromArgMatches as _};

    #[derive(Debug, clap::Args)]
    struct Whole {
        #[command(flatten)]
        flags: ContainerFlags,
        #[arg(trailing_var_arg = true)]
        args: Vec<String>,
    }

    fn parse(line: &str) -> Parsed<Assembled> {
        let mut command = crate::cli::flags::with_manners(Whole::augment_args(clap::Command::new("x").no_binary_name(true)));
        let words = shlex::split(line).expect("a shell line");
        let matches = command.try_get_matches_from_mut(words).map_err(|error| crate::cli::flags::describe(&command, &error, ""))?;
        let whole = Whole::from_arg_matches(&matches).expect("what clap parsed fits");
        assemble(&whole.flags, &whole.args, &[])
    }

    #[test]
    fn flags_reach_their_fields() {
        let a = parse(
            "-it --name x -e A=1 -v /a:/b:ro -v /c -p 8080:80/udp --expose 90 -m 1g --memory-swap -1 --cpus 1.5 --init --rm \
             --network front --network-alias w --ip 10.0.0.9 --mount type=tmpfs,dst=/t --tmpfs /u:size=1m --entrypoint '' \
             --health-cmd 'true' --health-interval 5s --label a=b --ulimit nofile=1:2 --device /dev/null:/dev/x:r --sysctl net.a=1 \
             --security-opt systempaths=unconfined --add-host h:1.2.3.4 --dns 8.8.8.8 --log-opt max-size=1m --stop-timeout 0 \
             --pids-limit 10 --oom-kill-disable --restart no busybox sh -c 'echo --rm'",
        )
        .expect("parses");
        let (c, h) = (&a.config, &a.host);
        assert!(c.tty && c.open_stdin && c.stdin_once && c.attach_stdin && c.attach_stdout && c.attach_stderr);
        assert_eq!(c.cmd.as_deref(), Some(&["sh".to_owned(), "-c".to_owned(), "echo --rm".to_owned()][..]));
        assert_eq!((c.image.as_str(), c.entrypoint.as_deref()), ("busybox", Some(&[String::new()][..])));
        assert_eq!(
            c.exposed_ports.as_ref().map(|set| set.keys().cloned().collect::<Vec<_>>()),
            Some(vec!["80/udp".to_owned(), "90/tcp".to_owned()])
        );
        assert!(c.volumes.as_ref().is_some_and(|set| set.contains_key("/c")));
        assert_eq!(c.healthcheck.as_ref().map(|check| check.interval), Some(5_000_000_000));
        assert_eq!(c.stop_timeout, Some(0));
        assert_eq!(h.binds.as_deref(), Some(&["/a:/b:ro".to_owned()][..]));
        assert_eq!((h.memory, h.memory_swap, h.nano_cpus), (1 << 30, -1, 1_500_000_000));
        assert_eq!((h.init, h.auto_remove, h.network_mode.as_str()), (Some(true), true, "front"));
        assert_eq!((h.masked_paths.as_deref(), h.readonly_paths.as_deref()), (Some(&[][..]), Some(&[][..])));
        let endpoint = a.networking.endpoints_config.expect("endpoints").remove("front").flatten().expect("front");
        assert_eq!(endpoint.aliases, Some(vec!["w".to_owned()]));
        assert_eq!(endpoint.ipam_config.map(|config| config.ipv4_address), Some("10.0.0.9".to_owned()));
    }

    #[test]
    fn conflicts_have_dockers_words() {
        for (line, error) in [
            ("--rm --restart always busybox", "conflicting options: cannot specify both --restart and --rm"),
            ("--no-healthcheck --health-cmd x busybox", "--no-healthcheck conflicts with --health-* options"),
            ("--pid foo busybox", "--pid: invalid PID mode"),
            ("--memory-swappiness 101 busybox", "invalid value: 101. Valid memory swappiness range is 0-100"),
            ("--network a --network a busybox", "network \"a\" is specified multiple times"),
            ("--network name=a,ip=1.2.3.4 --ip 1.2.3.5 busybox", "conflicting options: cannot specify both --ip and per-network ip"),
            ("-a foo busybox", "invalid argument \"foo\" for \"-a, --attach\" flag: valid streams are STDIN, STDOUT and STDERR"),
            ("--log-driver none --log-opt a=b busybox", "invalid logging opts for driver none"),
            ("--health-retries=-1 busybox", "--health-retries cannot be negative"),
        ] {
            assert_eq!(parse(line).err().as_deref(), Some(error), "{line}");
        }
    }
}
