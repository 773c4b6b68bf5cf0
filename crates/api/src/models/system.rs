//! The engine about itself: version, information, disk use.

use std::collections::BTreeMap;

use super::{ContainerSummary, ImageSummary, StringMap, Volume, is_none_or_empty, is_zero, wire};

wire! {
    /// Answer of `GET /version`.
    pub struct SystemVersion {
        pub platform: VersionPlatform,
        pub components: Vec<VersionComponent>,
        pub version: String,
        pub api_version: String,
        #[serde(rename = "MinAPIVersion")]
        pub min_api_version: String,
        pub git_commit: String,
        pub go_version: String,
        pub os: String,
        pub arch: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub kernel_version: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub experimental: bool,
        #[serde(skip_serializing_if = "is_zero")]
        pub build_time: String,
    }

    /// The product's name.
    pub struct VersionPlatform {
        pub name: String,
    }

    /// A part of the engine.
    pub struct VersionComponent {
        pub name: String,
        pub version: String,
        #[serde(skip_serializing_if = "is_none_or_empty")]
        pub details: Option<StringMap>,
    }

    /// Answer of `GET /info`.
    pub struct SystemInfo {
        #[serde(rename = "ID")]
        pub id: String,
        pub containers: i64,
        pub containers_running: i64,
        pub containers_paused: i64,
        pub containers_stopped: i64,
        pub images: i64,
        pub driver: String,
        pub driver_status: Vec<[String; 2]>,
        #[serde(skip_serializing_if = "is_none_or_empty")]
        pub system_status: Option<Vec<[String; 2]>>,
        pub plugins: PluginsInfo,
        pub memory_limit: bool,
        pub swap_limit: bool,
        #[serde(skip_serializing_if = "is_zero")]
        pub kernel_memory: bool,
        #[serde(rename = "KernelMemoryTCP", skip_serializing_if = "is_zero")]
        pub kernel_memory_tcp: bool,
        pub cpu_cfs_period: bool,
        pub cpu_cfs_quota: bool,
        #[serde(rename = "CPUShares")]
        pub cpu_shares: bool,
        #[serde(rename = "CPUSet")]
        pub cpu_set: bool,
        pub pids_limit: bool,
        #[serde(rename = "IPv4Forwarding")]
        pub ipv4_forwarding: bool,
        pub debug: bool,
        pub n_fd: i64,
        pub oom_kill_disable: bool,
        pub n_goroutines: i64,
        pub system_time: String,
        pub logging_driver: String,
        pub cgroup_driver: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub cgroup_version: String,
        pub n_events_listener: i64,
        pub kernel_version: String,
        pub operating_system: String,
        #[serde(rename = "OSVersion")]
        pub os_version: String,
        #[serde(rename = "OSType")]
        pub os_type: String,
        pub architecture: String,
        pub index_server_address: String,
        pub registry_config: Option<RegistryConfig>,
        #[serde(rename = "NCPU")]
        pub n_cpu: i64,
        pub mem_total: i64,
        pub generic_resources: Option<Vec<serde_json::Value>>,
        pub docker_root_dir: String,
        pub http_proxy: String,
        pub https_proxy: String,
        pub no_proxy: String,
        pub name: String,
        pub labels: Vec<String>,
        pub experimental_build: bool,
        pub server_version: String,
        pub runtimes: BTreeMap<String, RuntimeInfo>,
        pub default_runtime: String,
        pub swarm: SwarmInfo,
        pub live_restore_enabled: bool,
        pub isolation: String,
        pub init_binary: String,
        pub containerd_commit: Commit,
        pub runc_commit: Commit,
        pub init_commit: Commit,
        pub security_options: Vec<String>,
        #[serde(skip_serializing_if = "is_zero")]
        pub product_license: String,
        #[serde(skip_serializing_if = "is_none_or_empty")]
        pub default_address_pools: Option<Vec<AddressPool>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub firewall_backend: Option<FirewallInfo>,
        #[serde(rename = "CDISpecDirs")]
        pub cdi_spec_dirs: Vec<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub containerd: Option<ContainerdInfo>,
        pub warnings: Option<Vec<String>>,
    }

    /// Plugins by kind.
    pub struct PluginsInfo {
        pub volume: Option<Vec<String>>,
        pub network: Option<Vec<String>>,
        pub authorization: Option<Vec<String>>,
        pub log: Option<Vec<String>>,
    }

    /// How registries are reached.
    pub struct RegistryConfig {
        pub index_configs: BTreeMap<String, IndexInfo>,
        #[serde(rename = "InsecureRegistryCIDRs")]
        pub insecure_registry_cidrs: Option<Vec<String>>,
        pub mirrors: Option<Vec<String>>,
    }

    /// One registry.
    pub struct IndexInfo {
        pub mirrors: Vec<String>,
        pub name: String,
        pub official: bool,
        pub secure: bool,
    }

    /// State of the swarm.
    pub struct SwarmInfo {
        #[serde(rename = "NodeID")]
        pub node_id: String,
        pub node_addr: String,
        pub local_node_state: String,
        pub control_available: bool,
        pub error: String,
        pub remote_managers: Option<Vec<serde_json::Value>>,
        #[serde(skip_serializing_if = "is_zero")]
        pub nodes: i64,
        #[serde(skip_serializing_if = "is_zero")]
        pub managers: i64,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub cluster: Option<serde_json::Value>,
    }

    /// A commit of a helper program.
    pub struct Commit {
        #[serde(rename = "ID")]
        pub id: String,
    }

    /// A pool that networks take subnets from.
    pub struct AddressPool {
        pub base: String,
        pub size: i64,
    }

    /// The firewall in use.
    pub struct FirewallInfo {
        pub driver: String,
        #[serde(skip_serializing_if = "is_none_or_empty")]
        pub info: Option<Vec<[String; 2]>>,
    }

    /// The containerd behind the engine, when there is one.
    pub struct ContainerdInfo {
        pub address: String,
        pub namespaces: ContainerdNamespaces,
    }

    /// Its namespaces.
    pub struct ContainerdNamespaces {
        pub containers: String,
        pub plugins: String,
    }

    /// Answer of `GET /system/df`.
    pub struct DiskUsage {
        pub layers_size: i64,
        pub images: Option<Vec<ImageSummary>>,
        pub containers: Option<Vec<ContainerSummary>>,
        pub volumes: Option<Vec<Volume>>,
        pub build_cache: Option<Vec<BuildCacheRecord>>,
    }

    /// One record of the build cache.
    pub struct BuildCacheRecord {
        #[serde(rename = "ID")]
        pub id: String,
        #[serde(skip_serializing_if = "is_none_or_empty")]
        pub parents: Option<Vec<String>>,
        pub r#type: String,
        pub description: String,
        pub in_use: bool,
        pub shared: bool,
        pub size: i64,
        pub created_at: String,
        pub last_used_at: Option<String>,
        pub usage_count: i64,
    }
}

/// A runtime that containers may ask for; lower-case keys.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct RuntimeInfo {
    #[serde(skip_serializing_if = "is_zero")]
    pub path: String,
    #[serde(rename = "runtimeArgs", skip_serializing_if = "is_none_or_empty")]
    pub runtime_args: Option<Vec<String>>,
    #[serde(skip_serializing_if = "is_none_or_empty")]
    pub status: Option<StringMap>,
}
