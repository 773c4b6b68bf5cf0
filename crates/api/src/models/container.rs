//! Containers: configuration, creation, inspection, lists and the answers of their verbs.

use std::collections::BTreeMap;

use super::{
    DeviceMapping, DeviceRequest, EndpointSettings, GraphDriver, HostConfig, NetworkSettings, OciDescriptor, RestartPolicy, Set, StringMap,
    ThrottleDevice, Ulimit, WeightDevice, is_none_or_empty, is_zero, string_or_list, wire,
};

wire! {
    /// The portable side of a container.
    pub struct ContainerConfig {
        pub hostname: String,
        pub domainname: String,
        pub user: String,
        pub attach_stdin: bool,
        pub attach_stdout: bool,
        pub attach_stderr: bool,
        #[serde(skip_serializing_if = "is_none_or_empty")]
        pub exposed_ports: Option<Set>,
        pub tty: bool,
        pub open_stdin: bool,
        pub stdin_once: bool,
        pub env: Option<Vec<String>>,
        #[serde(deserialize_with = "string_or_list")]
        pub cmd: Option<Vec<String>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub healthcheck: Option<HealthConfig>,
        #[serde(skip_serializing_if = "is_zero")]
        pub args_escaped: bool,
        pub image: String,
        pub volumes: Option<Set>,
        pub working_dir: String,
        #[serde(deserialize_with = "string_or_list")]
        pub entrypoint: Option<Vec<String>>,
        #[serde(skip_serializing_if = "is_zero")]
        pub network_disabled: bool,
        #[serde(skip_serializing_if = "is_zero")]
        pub mac_address: String,
        pub on_build: Option<Vec<String>>,
        pub labels: Option<StringMap>,
        #[serde(skip_serializing_if = "is_zero")]
        pub stop_signal: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub stop_timeout: Option<i64>,
        #[serde(skip_serializing_if = "is_none_or_empty", deserialize_with = "string_or_list")]
        pub shell: Option<Vec<String>>,
    }

    /// A health check; durations are nanoseconds, zero inherits.
    pub struct HealthConfig {
        #[serde(skip_serializing_if = "is_none_or_empty")]
        pub test: Option<Vec<String>>,
        #[serde(skip_serializing_if = "is_zero")]
        pub interval: i64,
        #[serde(skip_serializing_if = "is_zero")]
        pub timeout: i64,
        #[serde(skip_serializing_if = "is_zero")]
        pub start_period: i64,
        #[serde(skip_serializing_if = "is_zero")]
        pub start_interval: i64,
        #[serde(skip_serializing_if = "is_zero")]
        pub retries: i64,
    }

    /// Endpoints wished for at creation.
    pub struct NetworkingConfig {
        pub endpoints_config: Option<BTreeMap<String, Option<EndpointSettings>>>,
    }

    /// Body of `POST /containers/create`: the fields of [`ContainerConfig`] and two more. They are listed because
    /// a flattened struct would hide its field names from the case-insensitive reader.
    pub struct ContainerCreateRequest {
        pub hostname: String,
        pub domainname: String,
        pub user: String,
        pub attach_stdin: bool,
        pub attach_stdout: bool,
        pub attach_stderr: bool,
        #[serde(skip_serializing_if = "is_none_or_empty")]
        pub exposed_ports: Option<Set>,
        pub tty: bool,
        pub open_stdin: bool,
        pub stdin_once: bool,
        pub env: Option<Vec<String>>,
        #[serde(deserialize_with = "string_or_list")]
        pub cmd: Option<Vec<String>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub healthcheck: Option<HealthConfig>,
        #[serde(skip_serializing_if = "is_zero")]
        pub args_escaped: bool,
        pub image: String,
        pub volumes: Option<Set>,
        pub working_dir: String,
        #[serde(deserialize_with = "string_or_list")]
        pub entrypoint: Option<Vec<String>>,
        #[serde(skip_serializing_if = "is_zero")]
        pub network_disabled: bool,
        #[serde(skip_serializing_if = "is_zero")]
        pub mac_address: String,
        pub on_build: Option<Vec<String>>,
        pub labels: Option<StringMap>,
        #[serde(skip_serializing_if = "is_zero")]
        pub stop_signal: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub stop_timeout: Option<i64>,
        #[serde(skip_serializing_if = "is_none_or_empty", deserialize_with = "string_or_list")]
        pub shell: Option<Vec<String>>,
        pub host_config: Option<HostConfig>,
        pub networking_config: Option<NetworkingConfig>,
    }

    /// Answer to a creation.
    pub struct ContainerCreateResponse {
        pub id: String,
        pub warnings: Vec<String>,
    }

    /// Answer of `GET /containers/{id}/json`.
    pub struct ContainerInspect {
        pub id: String,
        pub created: String,
        pub path: String,
        pub args: Vec<String>,
        pub state: ContainerState,
        pub image: String,
        pub resolv_conf_path: String,
        pub hostname_path: String,
        pub hosts_path: String,
        pub log_path: String,
        pub name: String,
        pub restart_count: i64,
        pub driver: String,
        pub platform: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub image_manifest_descriptor: Option<OciDescriptor>,
        pub mount_label: String,
        pub process_label: String,
        pub app_armor_profile: String,
        #[serde(rename = "ExecIDs")]
        pub exec_ids: Option<Vec<String>>,
        pub host_config: HostConfig,
        pub graph_driver: GraphDriver,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub size_rw: Option<i64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub size_root_fs: Option<i64>,
        pub mounts: Vec<MountPoint>,
        pub config: ContainerConfig,
        pub network_settings: NetworkSettings,
    }

    /// What the container is doing.
    pub struct ContainerState {
        /// created, running, paused, restarting, removing, exited or dead.
        pub status: String,
        pub running: bool,
        pub paused: bool,
        pub restarting: bool,
        #[serde(rename = "OOMKilled")]
        pub oom_killed: bool,
        pub dead: bool,
        pub pid: i64,
        pub exit_code: i64,
        pub error: String,
        pub started_at: String,
        pub finished_at: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub health: Option<Health>,
    }

    /// Result of the health checks.
    pub struct Health {
        /// none, starting, healthy or unhealthy.
        pub status: String,
        pub failing_streak: i64,
        pub log: Vec<HealthcheckResult>,
    }

    /// One run of the health check.
    pub struct HealthcheckResult {
        pub start: String,
        pub end: String,
        pub exit_code: i64,
        pub output: String,
    }

    /// A row of `GET /containers/json`.
    pub struct ContainerSummary {
        pub id: String,
        pub names: Vec<String>,
        pub image: String,
        #[serde(rename = "ImageID")]
        pub image_id: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub image_manifest_descriptor: Option<OciDescriptor>,
        pub command: String,
        pub created: i64,
        pub ports: Vec<Port>,
        #[serde(skip_serializing_if = "is_zero")]
        pub size_rw: i64,
        #[serde(skip_serializing_if = "is_zero")]
        pub size_root_fs: i64,
        pub labels: StringMap,
        pub state: String,
        pub status: String,
        pub host_config: SummaryHostConfig,
        pub network_settings: Option<SummaryNetworkSettings>,
        pub mounts: Vec<MountPoint>,
    }

    /// The piece of [`HostConfig`] that lists carry.
    pub struct SummaryHostConfig {
        #[serde(skip_serializing_if = "is_zero")]
        pub network_mode: String,
        #[serde(skip_serializing_if = "is_none_or_empty")]
        pub annotations: Option<StringMap>,
    }

    /// The piece of [`NetworkSettings`] that lists carry.
    pub struct SummaryNetworkSettings {
        pub networks: BTreeMap<String, EndpointSettings>,
    }

    /// A port in a list of containers.
    pub struct Port {
        #[serde(rename = "IP", skip_serializing_if = "is_zero")]
        pub ip: String,
        pub private_port: u16,
        #[serde(skip_serializing_if = "is_zero")]
        pub public_port: u16,
        pub r#type: String,
    }

    /// A mount as it was made.
    pub struct MountPoint {
        #[serde(skip_serializing_if = "is_zero")]
        pub r#type: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub name: String,
        pub source: String,
        pub destination: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub driver: String,
        pub mode: String,
        #[serde(rename = "RW")]
        pub rw: bool,
        pub propagation: String,
    }

    /// Answer of `top`.
    pub struct ContainerTop {
        pub processes: Vec<Vec<String>>,
        pub titles: Vec<String>,
    }

    /// A changed path; kind 0 is modified, 1 added, 2 deleted.
    pub struct FilesystemChange {
        pub path: String,
        pub kind: u8,
    }

    /// Answer of `wait`.
    pub struct WaitResponse {
        #[serde(skip_serializing_if = "Option::is_none")]
        pub error: Option<WaitError>,
        pub status_code: i64,
    }

    /// Why a wait failed.
    pub struct WaitError {
        #[serde(skip_serializing_if = "is_zero")]
        pub message: String,
    }

    /// Body of `update`: the resources of [`HostConfig`] and a restart policy. Zero leaves a value as it is.
    pub struct UpdateRequest {
        pub cpu_shares: i64,
        pub memory: i64,
        pub nano_cpus: i64,
        pub cgroup_parent: String,
        pub blkio_weight: u16,
        pub blkio_weight_device: Option<Vec<WeightDevice>>,
        pub blkio_device_read_bps: Option<Vec<ThrottleDevice>>,
        pub blkio_device_write_bps: Option<Vec<ThrottleDevice>>,
        #[serde(rename = "BlkioDeviceReadIOps")]
        pub blkio_device_read_iops: Option<Vec<ThrottleDevice>>,
        #[serde(rename = "BlkioDeviceWriteIOps")]
        pub blkio_device_write_iops: Option<Vec<ThrottleDevice>>,
        pub cpu_period: i64,
        pub cpu_quota: i64,
        pub cpu_realtime_period: i64,
        pub cpu_realtime_runtime: i64,
        pub cpuset_cpus: String,
        pub cpuset_mems: String,
        pub devices: Option<Vec<DeviceMapping>>,
        pub device_cgroup_rules: Option<Vec<String>>,
        pub device_requests: Option<Vec<DeviceRequest>>,
        #[serde(skip_serializing_if = "is_zero")]
        pub kernel_memory: i64,
        #[serde(rename = "KernelMemoryTCP", skip_serializing_if = "is_zero")]
        pub kernel_memory_tcp: i64,
        pub memory_reservation: i64,
        pub memory_swap: i64,
        pub memory_swappiness: Option<i64>,
        pub oom_kill_disable: Option<bool>,
        pub pids_limit: Option<i64>,
        pub ulimits: Option<Vec<Ulimit>>,
        pub cpu_count: i64,
        pub cpu_percent: i64,
        #[serde(rename = "IOMaximumIOps")]
        pub io_maximum_iops: u64,
        #[serde(rename = "IOMaximumBandwidth")]
        pub io_maximum_bandwidth: u64,
        pub restart_policy: RestartPolicy,
    }

    /// Answer of `update`.
    pub struct UpdateResponse {
        pub warnings: Option<Vec<String>>,
    }

    /// Answer of `POST /containers/prune`.
    pub struct ContainersPruneReport {
        pub containers_deleted: Option<Vec<String>>,
        pub space_reclaimed: u64,
    }
}

/// What `X-Docker-Container-Path-Stat` carries, as base64 of JSON.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct PathStat {
    pub name: String,
    pub size: i64,
    /// Go's `os.FileMode`: permission bits, type bits from the top (directory is bit 31, symlink bit 27).
    pub mode: u32,
    pub mtime: String,
    #[serde(rename = "linkTarget")]
    pub link_target: String,
}

impl PathStat {
    /// Go's bit for a directory.
    pub const DIRECTORY: u32 = 1 << 31;
    /// Go's bit for a symbolic link.
    pub const SYMLINK: u32 = 1 << 27;

    /// Whether the path is a directory.
    pub fn is_directory(&self) -> bool {
        self.mode & Self::DIRECTORY != 0
    }

    /// Whether the path is a symbolic link.
    pub fn is_symlink(&self) -> bool {
        self.mode & Self::SYMLINK != 0
    }
}

impl ContainerCreateRequest {
    /// Joins the three parts of a creation.
    pub fn new(config: ContainerConfig, host: HostConfig, networking: NetworkingConfig) -> Self {
        let c = config;
        Self {
            hostname: c.hostname,
            domainname: c.domainname,
            user: c.user,
            attach_stdin: c.attach_stdin,
            attach_stdout: c.attach_stdout,
            attach_stderr: c.attach_stderr,
            exposed_ports: c.exposed_ports,
            tty: c.tty,
            open_stdin: c.open_stdin,
            stdin_once: c.stdin_once,
            env: c.env,
            cmd: c.cmd,
            healthcheck: c.healthcheck,
            args_escaped: c.args_escaped,
            image: c.image,
            volumes: c.volumes,
            working_dir: c.working_dir,
            entrypoint: c.entrypoint,
            network_disabled: c.network_disabled,
            mac_address: c.mac_address,
            on_build: c.on_build,
            labels: c.labels,
            stop_signal: c.stop_signal,
            stop_timeout: c.stop_timeout,
            shell: c.shell,
            host_config: Some(host),
            networking_config: Some(networking),
        }
    }

    /// Takes the parts apart again.
    pub fn into_parts(self) -> (ContainerConfig, HostConfig, NetworkingConfig) {
        let config = ContainerConfig {
            hostname: self.hostname,
            domainname: self.domainname,
            user: self.user,
            attach_stdin: self.attach_stdin,
            attach_stdout: self.attach_stdout,
            attach_stderr: self.attach_stderr,
            exposed_ports: self.exposed_ports,
            tty: self.tty,
            open_stdin: self.open_stdin,
            stdin_once: self.stdin_once,
            env: self.env,
            cmd: self.cmd,
            healthcheck: self.healthcheck,
            args_escaped: self.args_escaped,
            image: self.image,
            volumes: self.volumes,
            working_dir: self.working_dir,
            entrypoint: self.entrypoint,
            network_disabled: self.network_disabled,
            mac_address: self.mac_address,
            on_build: self.on_build,
            labels: self.labels,
            stop_signal: self.stop_signal,
            stop_timeout: self.stop_timeout,
            shell: self.shell,
        };
        (config, self.host_config.unwrap_or_default(), self.networking_config.unwrap_or_default())
    }
}
