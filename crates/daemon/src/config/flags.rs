//! The daemon's flags, named as dockerd's.

use clap::{Args, Parser};
use std::net::IpAddr;
use std::path::PathBuf;

/// Naru's engine: the Docker API on a socket. Containers live on when it ends.
#[derive(Debug, Parser)]
#[command(
    name = "naru daemon",
    version,
    disable_help_subcommand = true,
    after_help = "Examples:\n  naru daemon\n  naru daemon -H unix:///run/a.sock --data-root /srv/a --exec-root /run/a --pidfile /run/a.pid --bridge naru-a --bip 10.9.0.1/24"
)]
pub struct Flags {
    /// Socket to listen on (unix://PATH, tcp://ADDRESS:PORT without TLS, fd:// from a service manager); repeatable
    #[arg(short = 'H', long = "host", value_name = "ADDRESS")]
    pub hosts: Vec<String>,
    /// Directory of images, volumes, logs and the database
    #[arg(long, value_name = "DIR")]
    pub data_root: Option<PathBuf>,
    /// Directory of what lives until the host's next boot
    #[arg(long, value_name = "DIR")]
    pub exec_root: Option<PathBuf>,
    /// File that holds the daemon's pid and its lock
    #[arg(short = 'p', long, value_name = "FILE")]
    pub pidfile: Option<PathBuf>,
    /// Group that may use the unix socket
    #[arg(short = 'G', long, value_name = "GROUP")]
    pub group: Option<String>,
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    pub config_file: Option<PathBuf>,
    /// Runtime of containers that ask for none
    #[arg(long, value_name = "NAME")]
    pub default_runtime: Option<String>,
    /// Register an OCI runtime: name=path
    #[arg(long, value_name = "NAME=PATH")]
    pub add_runtime: Vec<String>,
    /// debug, info, warn, error or fatal
    #[arg(short = 'l', long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Log driver of containers that ask for none: json-file or none
    #[arg(long, value_name = "DRIVER")]
    pub log_driver: Option<String>,
    /// Option of that driver: key=value
    #[arg(long, value_name = "KEY=VALUE")]
    pub log_opt: Vec<String>,
    /// rlimit of all containers: name=soft[:hard]
    #[arg(long, value_name = "LIMIT")]
    pub default_ulimit: Vec<String>,
    /// Seconds that running requests may take when the daemon leaves
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub shutdown_timeout: Option<i64>,
    /// Log more
    #[arg(short = 'D', long)]
    pub debug: bool,
    /// Where containers' cgroups are made
    #[arg(long, value_name = "PATH")]
    pub cgroup_parent: Option<String>,
    /// overlay2, btrfs or vfs; btrfs when the data root is on one, else overlay2
    #[arg(short = 's', long, value_name = "DRIVER")]
    pub storage_driver: Option<String>,
    /// Largest layer of an image, unpacked, e.g. 20g; larger ones are refused
    #[arg(long, value_name = "SIZE")]
    pub max_layer_size: Option<String>,
    /// A reaper as first process of every container
    #[arg(long)]
    pub init: bool,
    /// Always on: containers never depend on the daemon
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub live_restore: Option<bool>,
    #[command(flatten)]
    pub network: NetworkFlags,
    #[command(flatten)]
    pub registry: RegistryFlags,
    /// SELinux labels for containers, where the kernel has SELinux
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub selinux_enabled: Option<bool>,
    /// Check the configuration and leave
    #[arg(long)]
    pub validate: bool,
}

/// Flags about networks.
#[derive(Debug, Default, Args)]
pub struct NetworkFlags {
    /// Name of the default bridge, made if missing; "none" for no bridge
    #[arg(short = 'b', long, value_name = "NAME")]
    pub bridge: Option<String>,
    /// Address of the default bridge, e.g. 172.17.0.1/16
    #[arg(long, value_name = "CIDR")]
    pub bip: Option<String>,
    /// MTU of the default bridge
    #[arg(long)]
    pub mtu: Option<u32>,
    /// Whether containers on the default bridge reach each other
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub icc: Option<bool>,
    /// Whether containers reach other hosts under the host's address
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub ip_masq: Option<bool>,
    /// Address that published ports bind to by default
    #[arg(long, value_name = "IP")]
    pub ip: Option<IpAddr>,
    /// Name server of containers
    #[arg(long, value_name = "IP")]
    pub dns: Vec<IpAddr>,
    /// resolv.conf option of containers
    #[arg(long, value_name = "OPTION")]
    pub dns_opt: Vec<String>,
    /// Search domain of containers
    #[arg(long, value_name = "DOMAIN")]
    pub dns_search: Vec<String>,
    /// Part of the default bridge's subnet that containers get addresses of
    #[arg(long, value_name = "CIDR")]
    pub fixed_cidr: Option<String>,
    /// IPv6 on the default bridge, with unique local addresses unless --fixed-cidr-v6 is given
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub ipv6: Option<bool>,
    /// IPv6 subnet of the default bridge
    #[arg(long, value_name = "CIDR")]
    pub fixed_cidr_v6: Option<String>,
    /// Subnets for networks that name none: base=172.80.0.0/16,size=24; repeatable
    #[arg(long, value_name = "POOL")]
    pub default_address_pool: Vec<String>,
    /// Address that host-gateway stands for; the default bridge's without it
    #[arg(long, value_name = "IP")]
    pub host_gateway_ip: Vec<IpAddr>,
    /// open: published ports are open as in Docker; respect-host: the host's own firewall rules (INPUT) decide about them
    #[arg(long, value_name = "MODE")]
    pub firewall_mode: Option<String>,
    /// Whether who routes to containers reaches published ports by their own addresses, too
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub allow_direct_routing: Option<bool>,
    /// Option of new networks: driver=option=value; repeatable
    #[arg(long, value_name = "DRIVER=OPTION=VALUE")]
    pub default_network_opt: Vec<String>,
    /// Always on: loopback and IPv6-to-IPv4 ports are served within the daemon
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub userland_proxy: Option<bool>,
}

/// Flags about registries.
#[derive(Debug, Default, Args)]
pub struct RegistryFlags {
    /// Mirror of Docker Hub (URL), or of another registry (HOST=URL); repeatable, tried in order
    #[arg(long, value_name = "[HOST=]URL")]
    pub registry_mirror: Vec<String>,
    /// Registry (HOST[:PORT] or CIDR) that may have no TLS or an unknown certificate; repeatable
    #[arg(long, value_name = "REGISTRY")]
    pub insecure_registry: Vec<String>,
    /// Layers fetched at once by a pull
    #[arg(long, value_name = "NUMBER")]
    pub max_concurrent_downloads: Option<usize>,
    /// Layers sent at once by a push
    #[arg(long, value_name = "NUMBER")]
    pub max_concurrent_uploads: Option<usize>,
    /// Attempts to fetch a layer
    #[arg(long, value_name = "NUMBER")]
    pub max_download_attempts: Option<u32>,
    /// Proxy for http:// registries, instead of HTTP_PROXY
    #[arg(long, value_name = "URL")]
    pub http_proxy: Option<String>,
    /// Proxy for https:// registries, instead of HTTPS_PROXY
    #[arg(long, value_name = "URL")]
    pub https_proxy: Option<String>,
    /// Hosts reached without a proxy, instead of NO_PROXY
    #[arg(long, value_name = "LIST")]
    pub no_proxy: Option<String>,
}
