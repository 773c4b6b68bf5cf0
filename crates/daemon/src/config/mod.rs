//! dockerd's flags and `daemon.json`, as far as they are built; what is not built is refused, never ignored.

mod file;
mod flags;
mod network;
mod registry;

use clap::Parser;
use flags::Flags;
use naru_api::models::LogConfig;
use naru_engine::network::NetworkConfig;
use naru_engine::{EngineConfig, RuntimeConfig};
use naru_registry::RegistryConfig;
use naru_store::{Driver, Limits};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

const DEFAULT_CONFIG: &str = "/etc/naru/daemon.json";

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
    /// What an image from outside may cost.
    pub limits: Limits,
    /// How long running requests may take when the daemon leaves; none waits for ever.
    pub shutdown_timeout: Option<Duration>,
    /// A reaper as first process of every container.
    pub init: bool,
    /// Containers get SELinux labels; the kernel has SELinux then.
    pub selinux: bool,
    /// The default bridge and what goes for all networks.
    pub network: NetworkConfig,
    /// Mirrors, proxies, limits.
    pub registry: RegistryConfig,
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
        Ok(text) => file::read_file(&path, &text)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => BTreeMap::new(),
        Err(error) => return Err(ConfigError::File { path: path.display().to_string(), reason: format!("cannot read: {error}") }),
    };
    let validate = flags.validate;
    let flags = file::merge(flags, file, &path)?;
    let config = check(flags)?;
    if validate { Ok(Loaded::Answer("configuration OK\n".into())) } else { Ok(Loaded::Run(Box::new(config))) }
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
        let (soft, hard) = (number(soft)?, number(hard)?);
        crate::docker::check_ulimit(name, soft, hard).map_err(|reason| flag_error(format!("invalid --default-ulimit: {reason}")))?;
        default_ulimits.insert(name.to_owned(), (soft, hard));
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
    let data_root = absolute("data-root", flags.data_root.unwrap_or_else(|| "/var/lib/naru".into()))?;
    let driver = driver(flags.storage_driver.as_deref(), &data_root)?;
    let network = network::network(flags.network, &data_root)?;
    let registry = registry::registry(flags.registry)?;
    Ok(Config {
        hosts,
        data_root,
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
        limits: limits(flags.max_layer_size.as_deref())?,
        shutdown_timeout: shutdown_timeout(flags.shutdown_timeout)?,
        init: flags.init,
        selinux: flags.selinux_enabled.unwrap_or(false),
        network,
        registry,
    })
}

/// The spawner and the monitors have another working directory than the daemon was started in.
fn absolute(flag: &str, path: PathBuf) -> Result<PathBuf, ConfigError> {
    std::path::absolute(&path).map_err(|error| flag_error(format!("invalid --{flag} {}: {error}", path.display())))
}

/// The driver asked for; else btrfs on btrfs, and overlay2.
fn driver(name: Option<&str>, data_root: &Path) -> Result<Driver, ConfigError> {
    match name {
        None => Ok(Driver::for_root(data_root)),
        Some("overlay2" | "overlay") => Ok(Driver::Overlay),
        Some("vfs") => Ok(Driver::Vfs),
        Some("btrfs") => Ok(Driver::Btrfs),
        Some(other) => Err(flag_error(format!("storage driver {other:?} is not built in; use overlay2, btrfs or vfs"))),
    }
}

/// The largest layer; everything else stays as it is.
fn limits(size: Option<&str>) -> Result<Limits, ConfigError> {
    let Some(text) = size else { return Ok(Limits::default()) };
    let size: naru_types::ByteSize = text.parse().map_err(|error| flag_error(format!("invalid --max-layer-size: {error}")))?;
    if size.0 < 1 << 20 {
        return Err(flag_error(format!("invalid --max-layer-size {text}: the least is 1m")));
    }
    Ok(Limits { max_layer_size: size.0, ..Limits::default() })
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

impl Config {
    /// The engine's part.
    pub fn engine(&self) -> EngineConfig {
        EngineConfig {
            data_root: self.data_root.clone(),
            exec_root: self.exec_root.clone(),
            driver: self.driver,
            limits: self.limits,
            cgroup_parent: self.cgroup_parent.clone(),
            runtimes: self.runtimes.clone(),
            selinux: self.selinux,
            network: self.network.clone(),
            registry: self.registry.clone(),
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
    use std::net::Ipv4Addr;

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
        let text = r#"{"data-root":"/x","selinux-enabled":true,"allow-direct-routing":true,"hosts":["unix:///y"],"log-opts":{"max-file":"2"},"runtimes":{"r":{"path":"/r","runtimeArgs":["--a"]}},"debug":true,"default-ulimits":{"nofile":{"Name":"nofile","Soft":1,"Hard":2}}}"#;
        let config = read(text, &[]).unwrap();
        assert_eq!((config.data_root.as_path(), config.debug, config.selinux), (Path::new("/x"), true, true));
        assert!(config.network.firewall.direct_routing && !read("{}", &[]).unwrap().network.firewall.direct_routing);
        assert!(read("{}", &["--exec-root", "run"]).unwrap().exec_root.is_absolute());
        assert_eq!(config.runtimes["r"].args, ["--a"]);
        assert_eq!(config.default_ulimits["nofile"], (1, 2));
        assert_eq!(read("{}", &["--default-ulimit", "core=0:-1"]).unwrap().default_ulimits["core"], (0, -1));
        for (text, args) in [
            ("{\"data-root\":\"/x\"}", &["--data-root", "/y"][..]),
            ("{\"nosuch\":1}", &[]),
            ("{", &[]),
            ("{\"debug\":\"yes\"}", &[]),
            ("{\"tls\":true}", &[]),
            (r#"{"default-ulimits":{"nofile":{"Name":"nofile","Soft":2,"Hard":1}}}"#, &[]),
            ("{}", &["--default-ulimit", "nofile=2:1"]),
            ("{}", &["--default-ulimit", "nofile=-1:1"]),
            ("{}", &["--default-ulimit", "nosuch=1"]),
        ] {
            assert!(read(text, args).is_err(), "{text}");
        }
    }
}
