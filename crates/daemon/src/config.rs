//! dockerd's flags and `daemon.json`, as far as they are built; what is not built is refused, never ignored.

use clap::Parser;
use naru_api::models::LogConfig;
use naru_engine::network::NetworkConfig;
use naru_engine::{EngineConfig, RuntimeConfig};
use naru_store::Driver;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

const DEFAULT_CONFIG: &str = "/etc/naru/daemon.json";

/// Naru's engine: the Docker API on a socket. Containers live on when it ends.
#[derive(Debug, Parser)]
#[command(
    name = "naru daemon",
    version,
    disable_help_subcommand = true,
    after_help = "Examples:\n  naru daemon\n  naru daemon -H unix:///run/a.sock --data-root /srv/a --exec-root /run/a --pidfile /run/a.pid --bridge naru-a --bip 10.9.0.1/24"
)]
struct Flags {
    /// Socket to listen on (unix://PATH, tcp://ADDRESS:PORT without TLS, fd:// from a service manager); repeatable
    #[arg(short = 'H', long = "host", value_name = "ADDRESS")]
    hosts: Vec<String>,
    /// Directory of images, volumes, logs and the database
    #[arg(long, value_name = "DIR")]
    data_root: Option<PathBuf>,
    /// Directory of what lives until the host's next boot
    #[arg(long, value_name = "DIR")]
    exec_root: Option<PathBuf>,
    /// File that holds the daemon's pid and its lock
    #[arg(short = 'p', long, value_name = "FILE")]
    pidfile: Option<PathBuf>,
    /// Address of the default bridge, e.g. 172.17.0.1/16
    #[arg(long, value_name = "CIDR")]
    bip: Option<String>,
    /// Name of the default bridge, made if missing; "none" for no bridge
    #[arg(short = 'b', long, value_name = "NAME")]
    bridge: Option<String>,
    /// Group that may use the unix socket
    #[arg(short = 'G', long, value_name = "GROUP")]
    group: Option<String>,
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    config_file: Option<PathBuf>,
    /// Runtime of containers that ask for none
    #[arg(long, value_name = "NAME")]
    default_runtime: Option<String>,
    /// Register an OCI runtime: name=path
    #[arg(long, value_name = "NAME=PATH")]
    add_runtime: Vec<String>,
    /// debug, info, warn, error or fatal
    #[arg(short = 'l', long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Log driver of containers that ask for none: json-file or none
    #[arg(long, value_name = "DRIVER")]
    log_driver: Option<String>,
    /// Option of that driver: key=value
    #[arg(long, value_name = "KEY=VALUE")]
    log_opt: Vec<String>,
    /// rlimit of all containers: name=soft[:hard]
    #[arg(long, value_name = "LIMIT")]
    default_ulimit: Vec<String>,
    /// Seconds that running requests may take when the daemon leaves
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    shutdown_timeout: Option<i64>,
    /// Log more
    #[arg(short = 'D', long)]
    debug: bool,
    /// Where containers' cgroups are made
    #[arg(long, value_name = "PATH")]
    cgroup_parent: Option<String>,
    /// overlay2 or vfs
    #[arg(short = 's', long, value_name = "DRIVER")]
    storage_driver: Option<String>,
    /// A reaper as first process of every container
    #[arg(long)]
    init: bool,
    /// MTU of the default bridge
    #[arg(long)]
    mtu: Option<u32>,
    /// Whether containers on the default bridge reach each other
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    icc: Option<bool>,
    /// Whether containers reach other hosts under the host's address
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    ip_masq: Option<bool>,
    /// Address that published ports bind to by default
    #[arg(long, value_name = "IP")]
    ip: Option<IpAddr>,
    /// Name server of containers
    #[arg(long, value_name = "IP")]
    dns: Vec<IpAddr>,
    /// resolv.conf option of containers
    #[arg(long, value_name = "OPTION")]
    dns_opt: Vec<String>,
    /// Search domain of containers
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// Always on: containers never depend on the daemon
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    live_restore: Option<bool>,
    /// Check the configuration and leave
    #[arg(long)]
    validate: bool,
}

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A unix socket.
    Unix(PathBuf),
    /// A TCP address.
    Tcp(SocketAddr),
    /// Sockets of a service manager.
    Inherited,
}

/// The configuration, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen.
    pub hosts: Vec<Address>,
    /// What lasts.
    pub data_root: PathBuf,
    /// What lives until the next boot.
    pub exec_root: PathBuf,
    /// The daemon's pid and lock.
    pub pid_file: PathBuf,
    /// Group of the unix socket.
    pub group: String,
    /// Runtime of containers that ask for none.
    pub default_runtime: String,
    /// Other runtimes.
    pub runtimes: BTreeMap<String, RuntimeConfig>,
    /// How much the daemon says.
    pub log_level: String,
    /// It says more.
    pub debug: bool,
    /// Log driver and options of containers that ask for none.
    pub log: LogConfig,
    /// rlimits of all containers: soft, hard.
    pub default_ulimits: BTreeMap<String, (i64, i64)>,
    /// Where containers' cgroups are made.
    pub cgroup_parent: String,
    /// How layers become a root file system.
    pub driver: Driver,
    /// How long running requests may take when the daemon leaves; none waits for ever.
    pub shutdown_timeout: Option<Duration>,
    /// A reaper as first process of every container.
    pub init: bool,
    /// The default bridge.
    pub network: NetworkConfig,
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The flags.
    #[error("{0}")]
    Flags(String),
    /// The file.
    #[error("{path}: {reason}")]
    File {
        /// Which.
        path: String,
        /// Why.
        reason: String,
    },
}

/// What the arguments ask for.
pub enum Loaded {
    /// A daemon.
    Run(Box<Config>),
    /// An answer: help, version, validation.
    Answer(String),
}

/// Writes to standard output.
pub fn print(text: &str) {
    // A closed pipe is no failure of a program that only wanted to tell.
    std::io::stdout().write_all(text.as_bytes()).ok();
}

/// Writes to standard error.
pub fn complain(text: &str) {
    std::io::stderr().write_all(format!("naru daemon: {text}\n").as_bytes()).ok();
}

fn flag_error(text: impl Into<String>) -> ConfigError {
    ConfigError::Flags(text.into())
}

/// Reads flags and file.
pub fn load(args: Vec<OsString>) -> Result<Loaded, ConfigError> {
    let flags = match Flags::try_parse_from(std::iter::once(OsString::from("naru daemon")).chain(args)) {
        Ok(flags) => flags,
        Err(error) if !error.use_stderr() => return Ok(Loaded::Answer(error.to_string())),
        Err(error) => return Err(flag_error(error.to_string().trim_end().to_owned())),
    };
    let (path, required) = match &flags.config_file {
        Some(path) => (path.clone(), true),
        None => (PathBuf::from(DEFAULT_CONFIG), false),
    };
    let file = match std::fs::read_to_string(&path) {
        Ok(text) => read_file(&path, &text)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => BTreeMap::new(),
        Err(error) => return Err(ConfigError::File { path: path.display().to_string(), reason: format!("cannot read: {error}") }),
    };
    let validate = flags.validate;
    let flags = merge(flags, file, &path)?;
    let config = check(flags)?;
    if validate { Ok(Loaded::Answer("configuration OK\n".into())) } else { Ok(Loaded::Run(Box::new(config))) }
}

/// Keys of daemon.json that are built.
const KEYS: [&str; 25] = [
    "bip",
    "bridge",
    "cgroup-parent",
    "data-root",
    "debug",
    "default-runtime",
    "default-ulimits",
    "dns",
    "dns-opts",
    "dns-search",
    "exec-root",
    "group",
    "hosts",
    "icc",
    "init",
    "ip",
    "ip-masq",
    "live-restore",
    "log-driver",
    "log-level",
    "log-opts",
    "mtu",
    "pidfile",
    "runtimes",
    "storage-driver",
];

fn read_file(path: &Path, text: &str) -> Result<BTreeMap<String, Value>, ConfigError> {
    let refused = |reason: String| ConfigError::File { path: path.display().to_string(), reason };
    if text.trim().is_empty() {
        return Ok(BTreeMap::new());
    }
    let map: BTreeMap<String, Value> = serde_json::from_str(text).map_err(|error| refused(format!("invalid JSON: {error}")))?;
    let unknown: Vec<&str> = map.keys().map(String::as_str).filter(|key| !KEYS.contains(key) && *key != "shutdown-timeout").collect();
    if !unknown.is_empty() {
        return Err(refused(format!(
            "the following directives don't match any configuration option that is built: {}",
            unknown.join(", ")
        )));
    }
    Ok(map)
}

/// Values of the file that no flag gives; both at once is an error, as dockerd's.
fn merge(mut flags: Flags, mut file: BTreeMap<String, Value>, path: &Path) -> Result<Flags, ConfigError> {
    let refused = |reason: String| ConfigError::File { path: path.display().to_string(), reason };
    let mut both = BTreeSet::new();
    let mut take = |key: &str, given: bool| -> Option<Value> {
        let value = file.remove(key)?;
        if given {
            both.insert(key.to_owned());
        }
        Some(value)
    };
    let wrong = |key: &str, what: &str| refused(format!("{key} must be {what}"));
    macro_rules! text {
        ($key:literal, $field:ident) => {
            if let Some(value) = take($key, flags.$field.is_some()) {
                let text = value.as_str().ok_or_else(|| wrong($key, "a string"))?;
                flags.$field = Some(text.parse().map_err(|_| wrong($key, "valid"))?);
            }
        };
    }
    macro_rules! list {
        ($key:literal, $field:ident) => {
            if let Some(value) = take($key, !flags.$field.is_empty()) {
                let items = value.as_array().ok_or_else(|| wrong($key, "a list of strings"))?;
                for item in items {
                    let text = item.as_str().ok_or_else(|| wrong($key, "a list of strings"))?;
                    flags.$field.push(text.parse().map_err(|_| wrong($key, "a list of valid values"))?);
                }
            }
        };
    }
    text!("data-root", data_root);
    text!("exec-root", exec_root);
    text!("pidfile", pidfile);
    text!("bip", bip);
    text!("bridge", bridge);
    text!("group", group);
    text!("default-runtime", default_runtime);
    text!("log-level", log_level);
    text!("log-driver", log_driver);
    text!("cgroup-parent", cgroup_parent);
    text!("storage-driver", storage_driver);
    text!("ip", ip);
    list!("hosts", hosts);
    list!("dns", dns);
    list!("dns-opts", dns_opt);
    list!("dns-search", dns_search);
    for (key, given) in [
        ("debug", flags.debug),
        ("init", flags.init),
        ("icc", flags.icc.is_some()),
        ("ip-masq", flags.ip_masq.is_some()),
        ("live-restore", flags.live_restore.is_some()),
    ] {
        let Some(value) = take(key, given) else { continue };
        let value = value.as_bool().ok_or_else(|| wrong(key, "true or false"))?;
        match key {
            "debug" => flags.debug = value,
            "init" => flags.init = value,
            "icc" => flags.icc = Some(value),
            "ip-masq" => flags.ip_masq = Some(value),
            _ => flags.live_restore = Some(value),
        }
    }
    if let Some(value) = take("mtu", flags.mtu.is_some()) {
        flags.mtu = Some(value.as_u64().and_then(|n| u32::try_from(n).ok()).ok_or_else(|| wrong("mtu", "a number"))?);
    }
    if let Some(value) = take("shutdown-timeout", flags.shutdown_timeout.is_some()) {
        flags.shutdown_timeout = Some(value.as_i64().ok_or_else(|| wrong("shutdown-timeout", "a number"))?);
    }
    if let Some(value) = take("log-opts", !flags.log_opt.is_empty()) {
        for (key, value) in value.as_object().ok_or_else(|| wrong("log-opts", "an object of strings"))? {
            flags.log_opt.push(format!("{key}={}", value.as_str().ok_or_else(|| wrong("log-opts", "an object of strings"))?));
        }
    }
    if let Some(value) = take("default-ulimits", !flags.default_ulimit.is_empty()) {
        for (name, limit) in value.as_object().ok_or_else(|| wrong("default-ulimits", "an object"))? {
            let side = |key: &str| {
                limit.get(key).and_then(Value::as_i64).ok_or_else(|| wrong("default-ulimits", "objects with Name, Soft and Hard"))
            };
            flags.default_ulimit.push(format!("{name}={}:{}", side("Soft")?, side("Hard")?));
        }
    }
    if let Some(value) = take("runtimes", false) {
        for (name, runtime) in value.as_object().ok_or_else(|| wrong("runtimes", "an object"))? {
            let path = runtime.get("path").and_then(Value::as_str).ok_or_else(|| wrong("runtimes", "objects with a path"))?;
            let args: Vec<&str> =
                runtime.get("runtimeArgs").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
            flags.add_runtime.push(format!("{name}={path}\n{}", args.join("\n")).trim_end().to_owned());
        }
    }
    if !both.is_empty() {
        let names: Vec<String> = both.into_iter().collect();
        return Err(refused(format!(
            "the following directives are specified both as a flag and in the configuration file: {}",
            names.join(", ")
        )));
    }
    Ok(flags)
}

fn parse_address(text: &str) -> Result<Address, ConfigError> {
    let bad = |reason: &str| flag_error(format!("invalid --host {text:?}: {reason}"));
    if let Some(path) = text.strip_prefix("unix://").or_else(|| text.starts_with('/').then_some(text)) {
        if !path.starts_with('/') {
            return Err(bad("the socket's path is not absolute"));
        }
        // sockaddr_un(7) has 108 bytes, one of them for the end.
        return if path.len() < 100 { Ok(Address::Unix(path.into())) } else { Err(bad("the socket's path is longer than 99 bytes")) };
    }
    if let Some(address) = text.strip_prefix("tcp://") {
        let with_port = if address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
            address.to_owned()
        } else {
            format!("{address}:2375")
        };
        let with_host =
            if with_port.starts_with(':') { format!("0.0.0.0{with_port}") } else { with_port.replace("localhost", "127.0.0.1") };
        return with_host.parse().map(Address::Tcp).map_err(|_| bad("expected tcp://ADDRESS:PORT"));
    }
    match text {
        "fd://" => Ok(Address::Inherited),
        _ => Err(bad("expected unix://PATH, tcp://ADDRESS:PORT or fd://")),
    }
}

fn pair<'a>(flag: &str, text: &'a str) -> Result<(&'a str, &'a str), ConfigError> {
    text.split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .ok_or_else(|| flag_error(format!("invalid {flag} {text:?}: expected key=value")))
}

fn check(flags: Flags) -> Result<Config, ConfigError> {
    if flags.live_restore == Some(false) {
        return Err(flag_error("--live-restore=false is not possible: containers never depend on the daemon"));
    }
    let level = flags.log_level.unwrap_or_else(|| "info".into());
    if !matches!(level.as_str(), "trace" | "debug" | "info" | "warn" | "error" | "fatal" | "panic") {
        return Err(flag_error(format!("invalid logging level: {level}; use debug, info, warn, error or fatal")));
    }
    let driver = match flags.storage_driver.as_deref() {
        None | Some("overlay2" | "overlay") => Driver::Overlay,
        Some("vfs") => Driver::Vfs,
        Some(other) => return Err(flag_error(format!("storage driver {other:?} is not built in; use overlay2 or vfs"))),
    };
    let mut runtimes = BTreeMap::new();
    for text in &flags.add_runtime {
        let (name, rest) = pair("--add-runtime", text)?;
        let mut parts = rest.split('\n').map(str::to_owned);
        let program = PathBuf::from(parts.next().unwrap_or_default());
        if name == "naru" {
            return Err(flag_error("runtime name 'naru' is reserved: it is the one built in"));
        }
        runtimes.insert(name.to_owned(), RuntimeConfig { program, args: parts.collect() });
    }
    let default_runtime = flags.default_runtime.unwrap_or_else(|| "naru".into());
    if default_runtime != "naru" && !runtimes.contains_key(&default_runtime) {
        return Err(flag_error(format!("specified default runtime '{default_runtime}' does not exist")));
    }
    let mut default_ulimits = BTreeMap::new();
    for text in &flags.default_ulimit {
        let (name, limits) = pair("--default-ulimit", text)?;
        let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
        let number =
            |text: &str| text.parse::<i64>().map_err(|_| flag_error(format!("invalid --default-ulimit {name}: {text:?} is no number")));
        default_ulimits.insert(name.to_owned(), (number(soft)?, number(hard)?));
    }
    let mut log_options = BTreeMap::new();
    for text in &flags.log_opt {
        let (key, value) = pair("--log-opt", text)?;
        log_options.insert(key.to_owned(), value.to_owned());
    }
    let log = LogConfig { r#type: flags.log_driver.unwrap_or_else(|| "json-file".into()), config: Some(log_options) };
    docker_log_check(&log)?;
    let exec_root = absolute("exec-root", flags.exec_root.unwrap_or_else(|| "/run/naru".into()))?;
    let hosts = if flags.hosts.is_empty() {
        vec![Address::Unix("/run/naru/naru.sock".into())]
    } else {
        flags.hosts.iter().map(|text| parse_address(text)).collect::<Result<_, _>>()?
    };
    let network = network(flags.bridge, flags.bip.as_deref())?;
    let network = NetworkConfig {
        mtu: flags.mtu.unwrap_or(1500),
        icc: flags.icc.unwrap_or(true),
        masquerade: flags.ip_masq.unwrap_or(true),
        default_host_ip: flags.ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        dns: flags.dns,
        dns_options: flags.dns_opt,
        dns_search: flags.dns_search,
        ..network
    };
    Ok(Config {
        hosts,
        data_root: absolute("data-root", flags.data_root.unwrap_or_else(|| "/var/lib/naru".into()))?,
        pid_file: flags.pidfile.unwrap_or_else(|| exec_root.join("naru.pid")),
        exec_root,
        group: flags.group.unwrap_or_else(|| "docker".into()),
        default_runtime,
        runtimes,
        log_level: level,
        debug: flags.debug,
        log,
        default_ulimits,
        cgroup_parent: format!("/{}", flags.cgroup_parent.unwrap_or_else(|| "naru".into()).trim_matches('/')),
        driver,
        shutdown_timeout: shutdown_timeout(flags.shutdown_timeout)?,
        init: flags.init,
        network,
    })
}

/// The spawner and the monitors have another working directory than the daemon was started in.
fn absolute(flag: &str, path: PathBuf) -> Result<PathBuf, ConfigError> {
    std::path::absolute(&path).map_err(|error| flag_error(format!("invalid --{flag} {}: {error}", path.display())))
}

/// dockerd's default is 15 seconds; -1 waits for ever.
fn shutdown_timeout(seconds: Option<i64>) -> Result<Option<Duration>, ConfigError> {
    match seconds.unwrap_or(15) {
        -1 => Ok(None),
        seconds => {
            let seconds =
                u64::try_from(seconds).map_err(|_| flag_error(format!("invalid --shutdown-timeout {seconds}: expected seconds, or -1")))?;
            Ok(Some(Duration::from_secs(seconds)))
        }
    }
}

fn docker_log_check(log: &LogConfig) -> Result<(), ConfigError> {
    crate::docker::check_log(log).map_err(|reason| flag_error(format!("invalid --log-driver or --log-opt: {reason}")))
}

/// The bridge's name and address.
fn network(bridge: Option<String>, bip: Option<&str>) -> Result<NetworkConfig, ConfigError> {
    let bridge = bridge.unwrap_or_else(|| "naru0".into());
    // IFNAMSIZ is 16 with its end.
    let valid = !bridge.is_empty() && bridge.len() <= 15 && !bridge.contains(|c: char| c == '/' || c.is_whitespace());
    if !valid {
        return Err(flag_error(format!("invalid --bridge {bridge:?}: an interface's name has 1 to 15 characters without / and blanks")));
    }
    let bip = bip.unwrap_or("172.30.0.1/16");
    let bad = || flag_error(format!("invalid --bip {bip:?}: expected an IPv4 address with a prefix, e.g. 172.18.0.1/16"));
    let (address, prefix) = bip.split_once('/').ok_or_else(bad)?;
    let (gateway, prefix): (Ipv4Addr, u8) = (address.parse().map_err(|_| bad())?, prefix.parse().map_err(|_| bad())?);
    if !(8..=29).contains(&prefix) || gateway.is_loopback() || gateway.is_unspecified() || gateway.is_multicast() {
        return Err(bad());
    }
    Ok(NetworkConfig::new(bridge, gateway, prefix))
}

impl Config {
    /// The engine's part.
    pub fn engine(&self) -> EngineConfig {
        EngineConfig {
            data_root: self.data_root.clone(),
            exec_root: self.exec_root.clone(),
            driver: self.driver,
            cgroup_parent: self.cgroup_parent.clone(),
            runtimes: self.runtimes.clone(),
            network: self.network.clone(),
        }
    }
}

/// An id that stays with the data root, in Docker's shape.
pub fn host_id(config: &Config) -> String {
    let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let hex = naru_types::Digest::of(format!("{machine}{}", config.data_root.display()).as_bytes()).hex();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..32])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Config, ConfigError> {
        let mut all: Vec<OsString> = vec!["--config-file".into(), "/dev/null".into()];
        all.extend(args.iter().map(OsString::from));
        match load(all)? {
            Loaded::Run(config) => Ok(*config),
            Loaded::Answer(text) => panic!("{text}"),
        }
    }

    #[test]
    fn addresses() {
        assert_eq!(parse_address("unix:///a.sock").unwrap(), Address::Unix("/a.sock".into()));
        assert_eq!(parse_address("tcp://127.0.0.1:1").unwrap(), Address::Tcp("127.0.0.1:1".parse().unwrap()));
        assert_eq!(parse_address("tcp://:2375").unwrap(), Address::Tcp("0.0.0.0:2375".parse().unwrap()));
        for bad in ["", "http://x", "unix://relative", "tcp://x:y", "ssh://h"] {
            assert!(parse_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn flags_are_checked() {
        let config = parse(&[
            "--bip",
            "10.1.2.1/24",
            "--log-opt",
            "max-size=1m",
            "--add-runtime",
            "runc=/usr/bin/runc",
            "--default-runtime",
            "runc",
        ])
        .unwrap();
        assert_eq!(config.network.gateway, Ipv4Addr::new(10, 1, 2, 1));
        assert_eq!(config.runtimes["runc"].program, Path::new("/usr/bin/runc"));
        for bad in [
            &["--bip", "10.1.2.1"][..],
            &["--bip", "10.1.2.1/33"],
            &["--log-level", "loud"],
            &["--log-opt", "nonsense"],
            &["--log-opt", "nonsense=1"],
            &["--log-driver", "syslog"],
            &["--default-runtime", "nosuch"],
            &["--bridge", "a-name-that-is-too-long"],
            &["--live-restore=false"],
            &["--userns-remap", "default"],
            &["--storage-driver", "zfs"],
            &["--shutdown-timeout", "-2"],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_file_fills_what_flags_leave() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("daemon.json");
        let read = |text: &str, args: &[&str]| {
            std::fs::write(&path, text).unwrap();
            let mut all: Vec<OsString> = vec!["--config-file".into(), path.clone().into()];
            all.extend(args.iter().map(OsString::from));
            load(all).map(|loaded| match loaded {
                Loaded::Run(config) => *config,
                Loaded::Answer(text) => panic!("{text}"),
            })
        };
        let text = r#"{"data-root":"/x","hosts":["unix:///y"],"log-opts":{"max-file":"2"},"runtimes":{"r":{"path":"/r","runtimeArgs":["--a"]}},"debug":true,"default-ulimits":{"nofile":{"Name":"nofile","Soft":1,"Hard":2}}}"#;
        let config = read(text, &[]).unwrap();
        assert_eq!((config.data_root.as_path(), config.debug), (Path::new("/x"), true));
        assert!(read("{}", &["--exec-root", "run"]).unwrap().exec_root.is_absolute());
        assert_eq!(config.runtimes["r"].args, ["--a"]);
        assert_eq!(config.default_ulimits["nofile"], (1, 2));
        for (text, args) in [
            ("{\"data-root\":\"/x\"}", &["--data-root", "/y"][..]),
            ("{\"nosuch\":1}", &[]),
            ("{", &[]),
            ("{\"debug\":\"yes\"}", &[]),
            ("{\"tls\":true}", &[]),
        ] {
            assert!(read(text, args).is_err(), "{text}");
        }
    }
}
