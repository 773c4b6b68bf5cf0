//! Manifests and indexes: OCI image-spec and Docker's schema 2, which differ in media types only.

use crate::config::{MAX_LAYERS, null};
use crate::error::{Error, Result};
use crate::index::LayerBlob;
use naru_types::{Digest, Platform};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// A reference to a blob.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default, deserialize_with = "null")]
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(default, deserialize_with = "null", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<PlatformField>,
}

impl Descriptor {
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Descriptor { media_type: media_type.into(), digest, size, annotations: BTreeMap::new(), platform: None }
    }

    /// Attestations ride along in indexes as if they were images.
    pub fn is_attestation(&self) -> bool {
        self.annotations.get("vnd.docker.reference.type").is_some_and(|kind| kind == "attestation-manifest")
            || self.platform.as_ref().is_some_and(|p| p.os == "unknown" && p.architecture == "unknown")
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PlatformField {
    #[serde(default, deserialize_with = "null")]
    pub architecture: String,
    #[serde(default, deserialize_with = "null")]
    pub os: String,
    #[serde(default, deserialize_with = "null", skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl PlatformField {
    pub fn of(platform: &Platform) -> Self {
        PlatformField {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            variant: platform.variant.clone().unwrap_or_default(),
        }
    }

    pub fn parse(&self) -> Option<Platform> {
        let variant = if self.variant.is_empty() { String::new() } else { format!("/{}", self.variant) };
        format!("{}/{}{variant}", self.os, self.architecture).parse().ok()
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub schema_version: u32,
    #[serde(default, deserialize_with = "null", skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    pub config: Descriptor,
    #[serde(default, deserialize_with = "null")]
    pub layers: Vec<Descriptor>,
    #[serde(default, deserialize_with = "null", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ImageIndex {
    pub schema_version: u32,
    #[serde(default, deserialize_with = "null", skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    #[serde(default, deserialize_with = "null")]
    pub manifests: Vec<Descriptor>,
}

impl Manifest {
    /// False for an artifact that only has the form of an image.
    pub fn is_image(&self) -> bool {
        matches!(self.config.media_type.as_str(), "" | OCI_CONFIG | "application/vnd.docker.container.image.v1+json")
    }
}

/// Layers are archives, plain or packed in a known way; signatures, charts and what is encrypted are none. Simple tools
/// leave the type out, or name the most general one.
pub fn is_layer_type(media_type: &str) -> bool {
    const ARCHIVES: [&str; 4] = [
        OCI_LAYER,
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
    ];
    const PACKINGS: [&str; 9] = ["", "+gzip", ".gzip", "+zstd", ".zstd", "+xz", ".xz", "+bzip2", ".bzip2"];
    let packed = |archive: &str| media_type.strip_prefix(archive).is_some_and(|packing| PACKINGS.contains(&packing));
    matches!(media_type, "" | "application/octet-stream") || ARCHIVES.iter().any(|archive| packed(archive))
}

/// What a manifest blob is.
#[derive(Debug)]
pub(crate) enum Document {
    Manifest(Manifest),
    Index(ImageIndex),
}

/// Reads a manifest or index; a document that could be both is refused (CVE-2021-41190).
pub(crate) fn parse(what: &str, bytes: &[u8]) -> Result<Document> {
    let bad = |e: serde_json::Error| Error::invalid(what, e.to_string());
    // Any of these present, whatever its value, says what the document is.
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        config: Option<serde::de::IgnoredAny>,
        layers: Option<serde::de::IgnoredAny>,
        manifests: Option<serde::de::IgnoredAny>,
        schema_version: Option<u32>,
    }
    if bytes.iter().find(|b| !b.is_ascii_whitespace()) != Some(&b'{') {
        return Err(Error::invalid(what, "it is not a JSON object"));
    }
    let shape: Shape = serde_json::from_slice(bytes).map_err(bad)?;
    if shape.schema_version != Some(2) {
        return Err(Error::invalid(what, "its schema version is not 2"));
    }
    let is_image = shape.config.is_some() || shape.layers.is_some();
    match (is_image, shape.manifests.is_some()) {
        (true, true) => Err(Error::invalid(what, "it is a manifest and an index at once")),
        (false, false) => Err(Error::invalid(what, "it is neither a manifest nor an index")),
        (true, false) => {
            let manifest: Manifest = serde_json::from_slice(bytes).map_err(bad)?;
            if !matches!(manifest.media_type.as_str(), "" | OCI_MANIFEST | DOCKER_MANIFEST) {
                return Err(Error::invalid(what, format!("media type {:?} is not that of an image manifest", manifest.media_type)));
            }
            check_count(manifest.layers.len())?;
            Ok(Document::Manifest(manifest))
        }
        (false, true) => {
            let index: ImageIndex = serde_json::from_slice(bytes).map_err(bad)?;
            if !matches!(index.media_type.as_str(), "" | OCI_INDEX | DOCKER_LIST) {
                return Err(Error::invalid(what, format!("media type {:?} is not that of an index", index.media_type)));
            }
            if index.manifests.len() > 1000 {
                return Err(Error::TooLarge {
                    what: format!("{what} with {} manifests", index.manifests.len()),
                    limit: "1000 manifests".into(),
                });
            }
            Ok(Document::Index(index))
        }
    }
}

/// True when an image of this platform is one of those asked for; a variant counts where both name one.
pub(crate) fn matches(wanted: &Platform, platform: &Platform) -> bool {
    (&wanted.os, &wanted.architecture) == (&platform.os, &platform.architecture)
        && (wanted.variant.is_none() || platform.variant.is_none() || wanted.variant == platform.variant)
}

/// More layers than overlayfs can stack are refused before anything is unpacked.
pub(crate) fn check_count(layers: usize) -> Result<()> {
    if layers > MAX_LAYERS {
        return Err(Error::TooLarge { what: format!("image with {layers} layers"), limit: format!("{MAX_LAYERS} layers") });
    }
    Ok(())
}

/// The OCI media type of a layer; Docker's own names mean the same.
pub(crate) fn oci_layer_type(media_type: &str) -> String {
    match media_type {
        "application/vnd.docker.image.rootfs.diff.tar.gzip" => format!("{OCI_LAYER}+gzip"),
        "application/vnd.docker.image.rootfs.diff.tar.zstd" => format!("{OCI_LAYER}+zstd"),
        "application/vnd.docker.image.rootfs.diff.tar" => OCI_LAYER.to_owned(),
        other => other.to_owned(),
    }
}

/// A manifest for an image that came without one.
pub(crate) fn compose(config: &Digest, config_size: u64, layers: &[LayerBlob]) -> Vec<u8> {
    let manifest = Manifest {
        schema_version: 2,
        media_type: OCI_MANIFEST.into(),
        config: Descriptor::new(OCI_CONFIG, config.clone(), config_size),
        layers: layers.iter().map(|layer| Descriptor::new(oci_layer_type(&layer.media_type), layer.digest.clone(), layer.size)).collect(),
        annotations: BTreeMap::new(),
    };
    serde_json::to_vec(&manifest).expect("a manifest has only string keys")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_have_one_meaning() {
        let d = Digest::of(b"x");
        let config = format!(r#"{{"digest":"{d}","size":1}}"#);
        let good = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{config}]}}"#);
        assert!(matches!(parse("m", good.as_bytes()), Ok(Document::Manifest(_))));
        assert!(matches!(parse("m", br#"{"schemaVersion":2,"manifests":[]}"#), Ok(Document::Index(_))));
        for bad in [
            "".to_owned(),
            "null".into(),
            "[]".into(),
            "{}".into(),
            r#"{"schemaVersion":2}"#.into(),
            r#"{"schemaVersion":1,"manifests":[]}"#.into(),
            format!(r#"{{"schemaVersion":2,"config":{config},"layers":[],"manifests":[]}}"#),
            format!(r#"{{"schemaVersion":2,"config":{config},"config":{config},"layers":[]}}"#),
            format!(r#"{{"schemaVersion":2,"config":{{"digest":"{d}","size":-1}},"layers":[]}}"#),
            r#"{"schemaVersion":2,"config":{"digest":"sha256:../x","size":1},"layers":[]}"#.into(),
            format!(r#"{{"schemaVersion":2,"mediaType":"text/html","config":{config},"layers":[]}}"#),
            format!("{good}{good}"),
            "[".repeat(200_000),
            format!(r#"{{"a":{}"#, "[".repeat(200_000)),
        ] {
            assert!(parse("m", bad.as_bytes()).is_err(), "{}", &bad[..bad.len().min(100)]);
        }
        let many = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#, vec![config.clone(); 501].join(","));
        assert!(matches!(parse("m", many.as_bytes()), Err(Error::TooLarge { .. })));
    }

    #[test]
    fn layers_are_archives() {
        for (media_type, is_layer) in [
            ("", true),
            ("application/vnd.oci.image.layer.v1.tar", true),
            ("application/vnd.oci.image.layer.v1.tar+zstd", true),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", true),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", true),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", true),
            ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", false),
            ("application/vnd.oci.image.layer.v1.tar+zip", false),
            ("text/plain", false),
            ("text/starlight", false),
            ("application/vnd.dev.cosign.simplesigning.v1+json", false),
        ] {
            assert_eq!(is_layer_type(media_type), is_layer, "{media_type}");
        }
    }
}
