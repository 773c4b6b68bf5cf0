//! Volumes.

use super::{StringMap, is_none_or_empty, wire};

wire! {
    /// A volume as inspected and listed.
    pub struct Volume {
        #[serde(skip_serializing_if = "Option::is_none")]
        pub created_at: Option<String>,
        pub driver: String,
        pub labels: Option<StringMap>,
        pub mountpoint: String,
        pub name: String,
        pub options: Option<StringMap>,
        pub scope: String,
        #[serde(skip_serializing_if = "is_none_or_empty")]
        pub status: Option<std::collections::BTreeMap<String, serde_json::Value>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub usage_data: Option<VolumeUsage>,
    }

    /// Use of a volume; -1 when it was not counted.
    pub struct VolumeUsage {
        pub ref_count: i64,
        pub size: i64,
    }

    /// Answer of `GET /volumes`.
    pub struct VolumeListResponse {
        pub volumes: Vec<Volume>,
        pub warnings: Option<Vec<String>>,
    }

    /// Body of `POST /volumes/create`.
    pub struct VolumeCreateRequest {
        #[serde(skip_serializing_if = "Option::is_none")]
        pub cluster_volume_spec: Option<serde_json::Value>,
        pub driver: String,
        pub driver_opts: Option<StringMap>,
        pub labels: Option<StringMap>,
        pub name: String,
    }

    /// Answer of `POST /volumes/prune`.
    pub struct VolumesPruneReport {
        pub volumes_deleted: Option<Vec<String>>,
        pub space_reclaimed: u64,
    }
}
