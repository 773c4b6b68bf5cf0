//! Images: inspection, lists, history, removal, commit.

use super::{HealthConfig, Set, StringMap, is_none_or_empty, is_zero, string_or_list, wire};

wire! {
    /// Answer of `GET /images/{name}/json`.
    pub struct ImageInspect {
        pub id: String,
        pub repo_tags: Vec<String>,
        pub repo_digests: Vec<String>,
        pub parent: String,
        pub comment: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub created: String,
        pub docker_version: String,
        pub author: String,
        pub config: Option<ImageConfig>,
        pub architecture: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub variant: String,
        pub os: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub os_version: String,
        pub size: i64,
        /// Written below API 1.44 only.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub virtual_size: Option<i64>,
        pub graph_driver: GraphDriver,
        #[serde(rename = "RootFS")]
        pub root_fs: RootFs,
        pub metadata: ImageMetadata,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub descriptor: Option<OciDescriptor>,
        #[serde(skip_serializing_if = "is_none_or_empty")]
        pub manifests: Option<Vec<serde_json::Value>>,
    }

    /// The configuration an image gives its containers.
    pub struct ImageConfig {
        pub user: String,
        #[serde(skip_serializing_if = "is_none_or_empty")]
        pub exposed_ports: Option<Set>,
        pub env: Option<Vec<String>>,
        #[serde(deserialize_with = "string_or_list")]
        pub cmd: Option<Vec<String>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub healthcheck: Option<HealthConfig>,
        #[serde(skip_serializing_if = "is_zero")]
        pub args_escaped: bool,
        pub volumes: Option<Set>,
        pub working_dir: String,
        #[serde(deserialize_with = "string_or_list")]
        pub entrypoint: Option<Vec<String>>,
        pub on_build: Option<Vec<String>>,
        pub labels: Option<StringMap>,
        #[serde(skip_serializing_if = "is_zero")]
        pub stop_signal: String,
        #[serde(skip_serializing_if = "is_none_or_empty", deserialize_with = "string_or_list")]
        pub shell: Option<Vec<String>>,
    }

    /// What the storage driver tells about a layer.
    pub struct GraphDriver {
        pub data: Option<StringMap>,
        pub name: String,
    }

    /// The layers of an image, lowest first.
    pub struct RootFs {
        #[serde(skip_serializing_if = "is_zero")]
        pub r#type: String,
        #[serde(skip_serializing_if = "is_none_or_empty")]
        pub layers: Option<Vec<String>>,
    }

    /// What this host knows about an image.
    pub struct ImageMetadata {
        #[serde(skip_serializing_if = "is_zero")]
        pub last_tag_time: String,
    }

    /// A row of `GET /images/json`.
    pub struct ImageSummary {
        pub containers: i64,
        pub created: i64,
        pub id: String,
        pub labels: Option<StringMap>,
        pub parent_id: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub descriptor: Option<OciDescriptor>,
        #[serde(skip_serializing_if = "is_none_or_empty")]
        pub manifests: Option<Vec<serde_json::Value>>,
        pub repo_digests: Option<Vec<String>>,
        pub repo_tags: Option<Vec<String>>,
        pub shared_size: i64,
        pub size: i64,
        /// Written below API 1.44 only.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub virtual_size: Option<i64>,
    }

    /// One step of an image's history.
    pub struct HistoryItem {
        pub comment: String,
        pub created: i64,
        pub created_by: String,
        pub id: String,
        pub size: i64,
        pub tags: Option<Vec<String>>,
    }

    /// One effect of a removal: exactly one field is set.
    pub struct ImageDeleteItem {
        #[serde(skip_serializing_if = "is_zero")]
        pub deleted: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub untagged: String,
    }

    /// `{"Id": …}`, the answer of several creations.
    pub struct IdResponse {
        pub id: String,
    }

    /// Answer of `POST /images/prune`.
    pub struct ImagesPruneReport {
        pub images_deleted: Option<Vec<ImageDeleteItem>>,
        pub space_reclaimed: u64,
    }

    /// Answer of `POST /build/prune`.
    pub struct BuildPruneReport {
        pub caches_deleted: Option<Vec<String>>,
        pub space_reclaimed: u64,
    }
}

/// The body of `POST /commit` is a [`super::ContainerConfig`]; the rest travels in the query.
pub type CommitRequest = super::ContainerConfig;

/// One hit of `GET /images/search`.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct ImageSearchItem {
    pub star_count: i64,
    pub is_official: bool,
    pub name: String,
    pub is_automated: bool,
    pub description: String,
}

/// An OCI descriptor (its keys are camelCase).
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OciDescriptor {
    pub media_type: String,
    pub digest: String,
    pub size: i64,
    #[serde(skip_serializing_if = "is_none_or_empty")]
    pub urls: Option<Vec<String>>,
    #[serde(skip_serializing_if = "is_none_or_empty")]
    pub annotations: Option<StringMap>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<OciPlatform>,
}

/// An OCI platform, also the JSON of the `platform` parameters.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct OciPlatform {
    pub architecture: String,
    pub os: String,
    #[serde(rename = "os.version", skip_serializing_if = "is_zero")]
    pub os_version: String,
    #[serde(rename = "os.features", skip_serializing_if = "is_none_or_empty")]
    pub os_features: Option<Vec<String>>,
    #[serde(skip_serializing_if = "is_zero")]
    pub variant: String,
}

/// Naru's own: what `POST /store/check` found.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct StoreCheckReport {
    pub damages: Vec<StoreDamage>,
}

/// One damage of the image store.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct StoreDamage {
    pub damage: String,
    pub repaired: bool,
    /// Why it is still there.
    pub reason: String,
}
