//! Resource use of a container; the keys are snake_case.

use std::collections::BTreeMap;

use super::{is_none_or_empty, is_zero};

macro_rules! stats {
    ($($(#[$meta:meta])* pub struct $name:ident { $($body:tt)* })+) => {
        $(
            #[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
            #[serde(default)]
            $(#[$meta])*
            pub struct $name { $($body)* }
        )+
    };
}

stats! {
    /// One sample, with the one before it for rates.
    pub struct ContainerStats {
        pub name: String,
        pub id: String,
        pub read: String,
        pub preread: String,
        pub pids_stats: PidsStats,
        pub blkio_stats: BlkioStats,
        pub num_procs: u32,
        pub storage_stats: super::Empty,
        pub cpu_stats: CpuStats,
        pub precpu_stats: CpuStats,
        pub memory_stats: MemoryStats,
        #[serde(skip_serializing_if = "is_none_or_empty")]
        pub networks: Option<BTreeMap<String, NetworkStats>>,
    }

    /// Number of processes.
    pub struct PidsStats {
        #[serde(skip_serializing_if = "is_zero")]
        pub current: u64,
        #[serde(skip_serializing_if = "is_zero")]
        pub limit: u64,
    }

    /// Block I/O by device.
    pub struct BlkioStats {
        pub io_service_bytes_recursive: Option<Vec<BlkioEntry>>,
        pub io_serviced_recursive: Option<Vec<BlkioEntry>>,
        pub io_queue_recursive: Option<Vec<BlkioEntry>>,
        pub io_service_time_recursive: Option<Vec<BlkioEntry>>,
        pub io_wait_time_recursive: Option<Vec<BlkioEntry>>,
        pub io_merged_recursive: Option<Vec<BlkioEntry>>,
        pub io_time_recursive: Option<Vec<BlkioEntry>>,
        pub sectors_recursive: Option<Vec<BlkioEntry>>,
    }

    /// One counter of one device.
    pub struct BlkioEntry {
        pub major: u64,
        pub minor: u64,
        pub op: String,
        pub value: u64,
    }

    /// Processor time.
    pub struct CpuStats {
        pub cpu_usage: CpuUsage,
        #[serde(skip_serializing_if = "is_zero")]
        pub system_cpu_usage: u64,
        #[serde(skip_serializing_if = "is_zero")]
        pub online_cpus: u32,
        pub throttling_data: ThrottlingData,
    }

    /// Processor time in nanoseconds.
    pub struct CpuUsage {
        pub total_usage: u64,
        #[serde(skip_serializing_if = "is_none_or_empty")]
        pub percpu_usage: Option<Vec<u64>>,
        pub usage_in_kernelmode: u64,
        pub usage_in_usermode: u64,
    }

    /// How often the quota stopped the container.
    pub struct ThrottlingData {
        pub periods: u64,
        pub throttled_periods: u64,
        pub throttled_time: u64,
    }

    /// Memory in bytes.
    pub struct MemoryStats {
        #[serde(skip_serializing_if = "is_zero")]
        pub usage: u64,
        #[serde(skip_serializing_if = "is_zero")]
        pub max_usage: u64,
        #[serde(skip_serializing_if = "is_none_or_empty")]
        pub stats: Option<BTreeMap<String, u64>>,
        #[serde(skip_serializing_if = "is_zero")]
        pub failcnt: u64,
        #[serde(skip_serializing_if = "is_zero")]
        pub limit: u64,
    }

    /// Traffic of one interface.
    pub struct NetworkStats {
        pub rx_bytes: u64,
        pub rx_packets: u64,
        pub rx_errors: u64,
        pub rx_dropped: u64,
        pub tx_bytes: u64,
        pub tx_packets: u64,
        pub tx_errors: u64,
        pub tx_dropped: u64,
        /// Naru's own: most bits per second into the container.
        #[serde(skip_serializing_if = "is_zero")]
        pub rate_in: u64,
        /// Naru's own: most bits per second out of the container.
        #[serde(skip_serializing_if = "is_zero")]
        pub rate_out: u64,
    }
}
