//! The flags that `run` and `create` share.

use naru_api::models::{Mount, ThrottleDevice, Ulimit, WeightDevice};

use crate::cli::flags::{parse_bytes, parse_int, parse_swap};
use crate::parse::networks::Attachment;
use crate::parse::{devices, environment, mounts, networks, time};

#[derive(Debug, Default, clap::Args)]
pub struct ContainerFlags {
    /// Add a line to /etc/hosts (host:ip)
    #[arg(long, value_name = "list", value_parser = networks::extra_host)]
    pub add_host: Vec<String>,
    /// Add an annotation, passed to the OCI runtime
    #[arg(long, value_name = "map")]
    pub annotation: Vec<String>,
    /// Attach to STDIN, STDOUT or STDERR
    #[arg(short = 'a', long, value_name = "list", value_parser = crate::parse::attach_stream)]
    pub attach: Vec<String>,
    /// Block I/O weight, 10 to 1000, or 0 to disable (default 0)
    #[arg(long, value_name = "uint16", value_parser = crate::cli::flags::parse_u16)]
    pub blkio_weight: Option<u16>,
    /// Block I/O weight of one device (path:weight)
    #[arg(long, value_name = "list", value_parser = devices::weight)]
    pub blkio_weight_device: Vec<WeightDevice>,
    /// Add Linux capabilities
    #[arg(long, value_name = "list")]
    pub cap_add: Vec<String>,
    /// Drop Linux capabilities
    #[arg(long, value_name = "list")]
    pub cap_drop: Vec<String>,
    /// Parent cgroup of the container
    #[arg(long, value_name = "string")]
    pub cgroup_parent: Option<String>,
    /// Cgroup namespace: host, private, or empty for the daemon's default
    #[arg(long, value_name = "string")]
    pub cgroupns: Option<String>,
    /// Write the container's ID to this file
    #[arg(long, value_name = "string")]
    pub cidfile: Option<String>,
    /// CPU count (Windows only)
    #[arg(long, value_name = "int", hide = true)]
    pub cpu_count: Option<String>,
    /// CPU percent (Windows only)
    #[arg(long, value_name = "int", hide = true)]
    pub cpu_percent: Option<String>,
    /// Period of the CPU quota in microseconds
    #[arg(long, value_name = "int", value_parser = parse_int)]
    pub cpu_period: Option<i64>,
    /// CPU time per period in microseconds
    #[arg(long, value_name = "int", value_parser = parse_int)]
    pub cpu_quota: Option<i64>,
    /// Period of real-time scheduling in microseconds
    #[arg(long, value_name = "int", value_parser = parse_int)]
    pub cpu_rt_period: Option<i64>,
    /// Real-time CPU time per period in microseconds
    #[arg(long, value_name = "int", value_parser = parse_int)]
    pub cpu_rt_runtime: Option<i64>,
    /// CPU shares, relative to other containers
    #[arg(short = 'c', long, value_name = "int", value_parser = parse_int)]
    pub cpu_shares: Option<i64>,
    /// Number of CPUs
    #[arg(long, value_name = "decimal", value_parser = crate::parse::nano_cpus)]
    pub cpus: Option<i64>,
    /// CPUs to run on (0-3, 0,1)
    #[arg(long, value_name = "string")]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes to use (0-3, 0,1)
    #[arg(long, value_name = "string")]
    pub cpuset_mems: Option<String>,
    /// Give a device of the host to the container
    #[arg(long, value_name = "list")]
    pub device: Vec<String>,
    /// Add a rule to the devices cgroup
    #[arg(long, value_name = "list", value_parser = devices::cgroup_rule)]
    pub device_cgroup_rule: Vec<String>,
    /// Limit the read rate of a device in bytes per second
    #[arg(long, value_name = "list", value_parser = devices::rate_bytes)]
    pub device_read_bps: Vec<ThrottleDevice>,
    /// Limit the read rate of a device in operations per second
    #[arg(long, value_name = "list", value_parser = devices::rate_operations)]
    pub device_read_iops: Vec<ThrottleDevice>,
    /// Limit the write rate of a device in bytes per second
    #[arg(long, value_name = "list", value_parser = devices::rate_bytes)]
    pub device_write_bps: Vec<ThrottleDevice>,
    /// Limit the write rate of a device in operations per second
    #[arg(long, value_name = "list", value_parser = devices::rate_operations)]
    pub device_write_iops: Vec<ThrottleDevice>,
    /// Image verification is not part of the engine any more
    #[arg(long, value_name = "bool", hide = true)]
    pub disable_content_trust: Option<bool>,
    /// DNS servers
    #[arg(long, value_name = "list", value_parser = networks::address)]
    pub dns: Vec<String>,
    /// Options of resolv.conf
    #[arg(long, alias = "dns-opt", value_name = "list")]
    pub dns_option: Vec<String>,
    /// Search domains
    #[arg(long, value_name = "list", value_parser = networks::search_domain)]
    pub dns_search: Vec<String>,
    /// NIS domain name
    #[arg(long, value_name = "string")]
    pub domainname: Option<String>,
    /// Replace the image's ENTRYPOINT
    #[arg(long, value_name = "string")]
    pub entrypoint: Option<String>,
    /// Set environment variables
    #[arg(short = 'e', long, value_name = "list", value_parser = environment::variable)]
    pub env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long, value_name = "list")]
    pub env_file: Vec<String>,
    /// Expose a port or a range of ports
    #[arg(long, value_name = "list")]
    pub expose: Vec<String>,
    /// GPU devices to add ('all' for all GPUs)
    #[arg(long, value_name = "gpu-request")]
    pub gpus: Option<String>,
    /// Join more groups
    #[arg(long, value_name = "list")]
    pub group_add: Vec<String>,
    /// Command that checks health
    #[arg(long, value_name = "string")]
    pub health_cmd: Option<String>,
    /// Time between two checks (ms|s|m|h) (default 0s)
    #[arg(long, value_name = "duration", value_parser = time::duration)]
    pub health_interval: Option<i64>,
    /// Failures in a row that make the container unhealthy
    #[arg(long, value_name = "int", value_parser = parse_int)]
    pub health_retries: Option<i64>,
    /// Time between two checks while the container starts (ms|s|m|h) (default 0s)
    #[arg(long, value_name = "duration", value_parser = time::duration)]
    pub health_start_interval: Option<i64>,
    /// Time to start before failures count (ms|s|m|h) (default 0s)
    #[arg(long, value_name = "duration", value_parser = time::duration)]
    pub health_start_period: Option<i64>,
    /// Longest time one check may take (ms|s|m|h) (default 0s)
    #[arg(long, value_name = "duration", value_parser = time::duration)]
    pub health_timeout: Option<i64>,
    /// Host name of the container
    #[arg(short = 'h', long, value_name = "string")]
    pub hostname: Option<String>,
    /// Run an init that forwards signals and reaps processes
    #[arg(long, value_name = "bool")]
    pub init: Option<bool>,
    /// Keep STDIN open even if not attached
    #[arg(short = 'i', long)]
    pub interactive: bool,
    /// Bandwidth of the system drive (Windows only)
    #[arg(long, value_name = "bytes", hide = true)]
    pub io_maxbandwidth: Option<String>,
    /// Operations per second of the system drive (Windows only)
    #[arg(long, value_name = "uint", hide = true)]
    pub io_maxiops: Option<String>,
    /// IPv4 address (172.30.100.104)
    #[arg(long, value_name = "string")]
    pub ip: Option<String>,
    /// IPv6 address (2001:db8::33)
    #[arg(long, value_name = "string")]
    pub ip6: Option<String>,
    /// IPC namespace to use
    #[arg(long, value_name = "string")]
    pub ipc: Option<String>,
    /// Isolation technology
    #[arg(long, value_name = "string")]
    pub isolation: Option<String>,
    /// Kernel memory limit
    #[arg(long, value_name = "bytes", value_parser = parse_bytes, hide = true)]
    pub kernel_memory: Option<i64>,
    /// Set labels
    #[arg(short = 'l', long, value_name = "list", value_parser = crate::parse::label)]
    pub label: Vec<String>,
    /// Read labels from a file
    #[arg(long, value_name = "list")]
    pub label_file: Vec<String>,
    /// Link to another container
    #[arg(long, value_name = "list", value_parser = networks::link)]
    pub link: Vec<String>,
    /// Link-local addresses
    #[arg(long, value_name = "list", value_parser = networks::address)]
    pub link_local_ip: Vec<String>,
    /// Log driver
    #[arg(long, value_name = "string")]
    pub log_driver: Option<String>,
    /// Options of the log driver
    #[arg(long, value_name = "list")]
    pub log_opt: Vec<String>,
    /// MAC address (92:d0:c6:0a:29:33)
    #[arg(long, value_name = "string")]
    pub mac_address: Option<String>,
    /// Memory limit
    #[arg(short = 'm', long, value_name = "bytes", value_parser = parse_bytes)]
    pub memory: Option<i64>,
    /// Memory soft limit
    #[arg(long, value_name = "bytes", value_parser = parse_bytes)]
    pub memory_reservation: Option<i64>,
    /// Limit of memory and swap together; -1 for unlimited swap
    #[arg(long, value_name = "bytes", value_parser = parse_swap)]
    pub memory_swap: Option<i64>,
    /// Swappiness of the container's memory, 0 to 100 (default -1)
    #[arg(long, value_name = "int", value_parser = parse_int)]
    pub memory_swappiness: Option<i64>,
    /// Attach a filesystem mount
    #[arg(long, value_name = "mount", value_parser = mounts::mount)]
    pub mount: Vec<Mount>,
    /// Name of the container
    #[arg(long, value_name = "string")]
    pub name: Option<String>,
    /// Bandwidth of the container: RATE, or in=RATE,out=RATE (800kbit, 10mbit, 1gbit)
    #[arg(long, value_name = "rate", value_parser = networks::rate)]
    pub net_rate: Option<networks::NetRate>,
    /// Connect to a network
    #[arg(long, alias = "net", value_name = "network", value_parser = networks::network)]
    pub network: Vec<Attachment>,
    /// Add an alias on the network
    #[arg(long, alias = "net-alias", value_name = "list")]
    pub network_alias: Vec<String>,
    /// Switch the image's health check off
    #[arg(long)]
    pub no_healthcheck: bool,
    /// Switch the OOM killer off
    #[arg(long, value_name = "bool")]
    pub oom_kill_disable: Option<bool>,
    /// Preference of the host's OOM killer, -1000 to 1000
    #[arg(long, value_name = "int", value_parser = parse_int)]
    pub oom_score_adj: Option<i64>,
    /// PID namespace to use
    #[arg(long, value_name = "string")]
    pub pid: Option<String>,
    /// Limit of processes; -1 for unlimited
    #[arg(long, value_name = "int", value_parser = parse_int)]
    pub pids_limit: Option<i64>,
    /// Platform, when the engine offers several
    #[arg(long, value_name = "string")]
    pub platform: Option<String>,
    /// Give extended privileges to the container
    #[arg(long)]
    pub privileged: bool,
    /// Publish a port or a range of ports on the host
    #[arg(short = 'p', long, value_name = "list")]
    pub publish: Vec<String>,
    /// Publish all exposed ports to free ports of the host
    #[arg(short = 'P', long)]
    pub publish_all: bool,
    /// Pull the image before: always, missing, never (default missing)
    #[arg(long, value_name = "string")]
    pub pull: Option<String>,
    /// Do not show the progress of a pull
    #[arg(short = 'q', long)]
    pub quiet: bool,
    /// Mount the root filesystem read only
    #[arg(long)]
    pub read_only: bool,
    /// Restart policy when the container exits (default no)
    #[arg(long, value_name = "string")]
    pub restart: Option<String>,
    /// Remove the container and its anonymous volumes when it exits
    #[arg(long)]
    pub rm: bool,
    /// Runtime for this container
    #[arg(long, value_name = "string")]
    pub runtime: Option<String>,
    /// Security options
    #[arg(long, value_name = "list")]
    pub security_opt: Vec<String>,
    /// Size of /dev/shm
    #[arg(long, value_name = "bytes", value_parser = parse_bytes)]
    pub shm_size: Option<i64>,
    /// Signal that stops the container
    #[arg(long, value_name = "string")]
    pub stop_signal: Option<String>,
    /// Seconds to wait before the container is killed
    #[arg(long, value_name = "int", value_parser = parse_int)]
    pub stop_timeout: Option<i64>,
    /// Options of the storage driver
    #[arg(long, value_name = "list")]
    pub storage_opt: Vec<String>,
    /// Kernel parameters of the container's namespaces
    #[arg(long, value_name = "map", value_parser = networks::sysctl)]
    pub sysctl: Vec<String>,
    /// Mount a tmpfs directory
    #[arg(long, value_name = "list")]
    pub tmpfs: Vec<String>,
    /// Allocate a pseudo-terminal
    #[arg(short = 't', long)]
    pub tty: bool,
    /// Resource limits (name=soft[:hard])
    #[arg(long, value_name = "ulimit", value_parser = crate::parse::ulimit)]
    pub ulimit: Vec<Ulimit>,
    /// Give the container the engine's socket and credentials
    #[arg(long)]
    pub use_api_socket: bool,
    /// User, perhaps with a group (<name|uid>[:<group|gid>])
    #[arg(short = 'u', long, value_name = "string")]
    pub user: Option<String>,
    /// User namespace to use
    #[arg(long, value_name = "string")]
    pub userns: Option<String>,
    /// UTS namespace to use
    #[arg(long, value_name = "string")]
    pub uts: Option<String>,
    /// Bind mount a volume
    #[arg(short = 'v', long, value_name = "list")]
    pub volume: Vec<String>,
    /// Volume driver of the container
    #[arg(long, value_name = "string")]
    pub volume_driver: Option<String>,
    /// Mount the volumes of other containers
    #[arg(long, value_name = "list")]
    pub volumes_from: Vec<String>,
    /// Working directory inside the container
    #[arg(short = 'w', long, value_name = "string")]
    pub workdir: Option<String>,
}

impl ContainerFlags {
    /// All environment variables of the flags.
    pub fn environment(&self) -> crate::parse::Parsed<Vec<String>> {
        environment::variables(&self.env_file, &self.env)
    }

    /// Flags that no engine on Linux, or not this one, can honour: refused, never ignored.
    pub fn refuse_foreign(&self) -> Result<(), String> {
        for (flag, given) in [
            ("--cpu-count", self.cpu_count.is_some()),
            ("--cpu-percent", self.cpu_percent.is_some()),
            ("--io-maxbandwidth", self.io_maxbandwidth.is_some()),
            ("--io-maxiops", self.io_maxiops.is_some()),
        ] {
            if given {
                return Err(format!(
                    "\"{flag}\" is only supported on a Docker daemon running on windows, but the Docker daemon is running on linux"
                ));
            }
        }
        refuse_content_trust(self.disable_content_trust)
    }

    /// Flags that are not built: wrong use of the command line, as a flag that does not exist.
    pub fn refuse_unbuilt(&self) -> Result<(), String> {
        if self.gpus.is_some() {
            return Err("\"--gpus\" is not supported; name the devices with --device".to_owned());
        }
        if self.use_api_socket {
            return Err("\"--use-api-socket\" is not supported; mount the engine's socket with --volume".to_owned());
        }
        Ok(())
    }
}

/// `--disable-content-trust=false` asks for a check of signatures that does not exist.
pub fn refuse_content_trust(disabled: Option<bool>) -> Result<(), String> {
    if disabled == Some(false) { Err("content trust is not supported".to_owned()) } else { Ok(()) }
}
