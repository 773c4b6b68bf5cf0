//! `HostConfig` and what hangs on it: the part of a container that belongs to this host.

use std::collections::BTreeMap;

use super::{StringMap, is_none_or_empty, is_zero, string_or_list, wire};

/// Where published ports lead: `"80/tcp"` to host addresses; `null` for a port that is only exposed.
pub type PortMap = BTreeMap<String, Option<Vec<PortBinding>>>;

wire! {
    /// The host's side of a container: resources, mounts, namespaces, restart policy.
    pub struct HostConfig {
        pub binds: Option<Vec<String>>,
        #[serde(rename = "ContainerIDFile")]
        pub container_id_file: String,
        pub log_config: LogConfig,
        pub network_mode: String,
        pub port_bindings: Option<PortMap>,
        pub restart_policy: RestartPolicy,
        pub auto_remove: bool,
        pub volume_driver: String,
        pub volumes_from: Option<Vec<String>>,
        /// Height and width of the terminal at creation.
        pub console_size: [u32; 2],
        #[serde(skip_serializing_if = "is_none_or_empty")]
        pub annotations: Option<StringMap>,
        #[serde(deserialize_with = "string_or_list")]
        pub cap_add: Option<Vec<String>>,
        #[serde(deserialize_with = "string_or_list")]
        pub cap_drop: Option<Vec<String>>,
        pub cgroupns_mode: String,
        pub dns: Option<Vec<String>>,
        pub dns_options: Option<Vec<String>>,
        pub dns_search: Option<Vec<String>>,
        pub extra_hosts: Option<Vec<String>>,
        pub group_add: Option<Vec<String>>,
        pub ipc_mode: String,
        pub cgroup: String,
        pub links: Option<Vec<String>>,
        pub oom_score_adj: i64,
        pub pid_mode: String,
        pub privileged: bool,
        pub publish_all_ports: bool,
        pub readonly_rootfs: bool,
        pub security_opt: Option<Vec<String>>,
        #[serde(skip_serializing_if = "is_none_or_empty")]
        pub storage_opt: Option<StringMap>,
        #[serde(skip_serializing_if = "is_none_or_empty")]
        pub tmpfs: Option<StringMap>,
        #[serde(rename = "UTSMode")]
        pub uts_mode: String,
        pub userns_mode: String,
        pub shm_size: i64,
        #[serde(skip_serializing_if = "is_none_or_empty")]
        pub sysctls: Option<StringMap>,
        #[serde(skip_serializing_if = "is_zero")]
        pub runtime: String,
        pub isolation: String,
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
        #[serde(skip_serializing_if = "is_none_or_empty")]
        pub mounts: Option<Vec<Mount>>,
        /// `null` asks for the defaults, an empty list for none (`systempaths=unconfined`).
        pub masked_paths: Option<Vec<String>>,
        pub readonly_paths: Option<Vec<String>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub init: Option<bool>,
    }

    /// Log driver and its options.
    pub struct LogConfig {
        pub r#type: String,
        pub config: Option<StringMap>,
    }

    /// `no`, `always`, `unless-stopped` or `on-failure[:n]`.
    pub struct RestartPolicy {
        pub name: String,
        pub maximum_retry_count: i64,
    }

    /// One host address of a published port.
    pub struct PortBinding {
        pub host_ip: String,
        pub host_port: String,
    }

    /// Weight of a block device.
    pub struct WeightDevice {
        pub path: String,
        pub weight: u16,
    }

    /// Rate of a block device.
    pub struct ThrottleDevice {
        pub path: String,
        pub rate: u64,
    }

    /// A host device inside the container.
    pub struct DeviceMapping {
        pub path_on_host: String,
        pub path_in_container: String,
        pub cgroup_permissions: String,
    }

    /// A request to a device driver (`--gpus`, CDI).
    pub struct DeviceRequest {
        pub driver: String,
        pub count: i64,
        #[serde(rename = "DeviceIDs")]
        pub device_ids: Option<Vec<String>>,
        pub capabilities: Option<Vec<Vec<String>>>,
        pub options: Option<StringMap>,
    }

    /// A resource limit; -1 is unlimited.
    pub struct Ulimit {
        pub name: String,
        pub hard: i64,
        pub soft: i64,
    }

    /// A mount as `--mount` describes it.
    pub struct Mount {
        #[serde(skip_serializing_if = "is_zero")]
        pub r#type: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub source: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub target: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub read_only: bool,
        #[serde(skip_serializing_if = "is_zero")]
        pub consistency: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub bind_options: Option<BindOptions>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub volume_options: Option<VolumeOptions>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub image_options: Option<ImageOptions>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub tmpfs_options: Option<TmpfsOptions>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub cluster_options: Option<super::Empty>,
    }

    /// Options of a bind mount.
    pub struct BindOptions {
        #[serde(skip_serializing_if = "is_zero")]
        pub propagation: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub non_recursive: bool,
        #[serde(skip_serializing_if = "is_zero")]
        pub create_mountpoint: bool,
        #[serde(skip_serializing_if = "is_zero")]
        pub read_only_non_recursive: bool,
        #[serde(skip_serializing_if = "is_zero")]
        pub read_only_force_recursive: bool,
    }

    /// Options of a volume mount.
    pub struct VolumeOptions {
        #[serde(skip_serializing_if = "is_zero")]
        pub no_copy: bool,
        #[serde(skip_serializing_if = "is_none_or_empty")]
        pub labels: Option<StringMap>,
        #[serde(skip_serializing_if = "is_zero")]
        pub subpath: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub driver_config: Option<Driver>,
    }

    /// A volume driver with options.
    pub struct Driver {
        #[serde(skip_serializing_if = "is_zero")]
        pub name: String,
        #[serde(skip_serializing_if = "is_none_or_empty")]
        pub options: Option<StringMap>,
    }

    /// Options of an image mount.
    pub struct ImageOptions {
        #[serde(skip_serializing_if = "is_zero")]
        pub subpath: String,
    }

    /// Options of a tmpfs mount.
    pub struct TmpfsOptions {
        #[serde(skip_serializing_if = "is_zero")]
        pub size_bytes: i64,
        #[serde(skip_serializing_if = "is_zero")]
        pub mode: u32,
        #[serde(skip_serializing_if = "is_none_or_empty")]
        pub options: Option<Vec<Vec<String>>>,
    }
}
