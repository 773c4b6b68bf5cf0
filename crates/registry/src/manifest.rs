//! Manifests and indexes as they come from a registry: what they are, whether they are valid, which one is for a platform.

use crate::error::{Error, Result, printable};
use naru_store::MAX_LAYERS;
use naru_types::{Digest, Platform};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// What we can use, the best first.
pub(crate) const ACCEPTED: [&str; 4] = [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST];

/// The largest manifest (the same limit as the store's).
pub(crate) const MAX_MANIFEST: usize = 4 << 20;
const MAX_ENTRIES: usize = 1000;

/// A reference to a blob or manifest.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Its media type.
    #[serde(default, deserialize_with = "null")]
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size.
    pub size: u64,
    /// Where else it is, for layers that registries do not hold.
    #[serde(default, deserialize_with = "null")]
    pub urls: Vec<String>,
    /// Free data.
    #[serde(default, deserialize_with = "null")]
    pub annotations: BTreeMap<String, String>,
    #[serde(default)]
    platform: Option<PlatformField>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct PlatformField {
    #[serde(default, deserialize_with = "null")]
    architecture: String,
    #[serde(default, deserialize_with = "null")]
    os: String,
    #[serde(default, deserialize_with = "null")]
    variant: String,
}

fn null<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl Descriptor {
    /// Attestations ride along in indexes as if they were images.
    pub fn is_attestation(&self) -> bool {
        self.annotations.get("vnd.docker.reference.type").is_some_and(|kind| kind == "attestation-manifest")
            || self.platform.as_ref().is_some_and(|p| p.os == "unknown" && p.architecture == "unknown")
    }

    /// The platform it is for, in one spelling.
    pub fn platform(&self) -> Option<Platform> {
        let field = self.platform.as_ref()?;
        let variant = if field.variant.is_empty() { String::new() } else { format!("/{}", field.variant) };
        format!("{}/{}{variant}", field.os, field.architecture).parse().ok()
    }

    fn is_index(&self) -> bool {
        matches!(self.media_type.as_str(), OCI_INDEX | DOCKER_LIST)
    }

    /// Layers are archives, whatever packs them; signatures, charts and what is encrypted are not.
    pub fn is_layer(&self) -> bool {
        naru_store::is_layer_type(&self.media_type)
    }

    /// Registries need not hold it.
    pub fn is_foreign(&self) -> bool {
        self.media_type.contains(".foreign.") || self.media_type.contains(".nondistributable.")
    }
}

/// An image.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// Its config.
    pub config: Descriptor,
    /// Its layers, lowest first.
    pub layers: Vec<Descriptor>,
}

/// What a manifest blob is.
#[derive(Debug, Clone, PartialEq)]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// Several, by platform.
    Index(Vec<Descriptor>),
}

/// Reads a manifest or index; returns its media type, too. A document that could be both is refused (CVE-2021-41190), as is
/// one that is not what the registry says it is.
pub fn parse(what: &str, bytes: &[u8], content_type: &str) -> Result<(Document, String)> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Raw {
        schema_version: Option<u32>,
        #[serde(default, deserialize_with = "null")]
        media_type: String,
        config: Option<Descriptor>,
        layers: Option<Vec<Descriptor>>,
        manifests: Option<Vec<Descriptor>>,
        #[serde(rename = "fsLayers")]
        fs_layers: Option<serde::de::IgnoredAny>,
    }
    let invalid = |reason: String| Error::invalid(what, reason);
    if content_type.starts_with("application/vnd.docker.distribution.manifest.v1+") {
        return Err(Error::Schema1 { reference: what.to_owned() });
    }
    if bytes.iter().find(|b| !b.is_ascii_whitespace()) != Some(&b'{') {
        return Err(invalid(format!("it is not a JSON object (media type {:?})", printable(content_type, 80))));
    }
    let raw: Raw = serde_json::from_slice(bytes).map_err(|e| {
        let hint = if is_known(content_type) { String::new() } else { format!(" (media type {:?})", printable(content_type, 80)) };
        invalid(format!("{e}{hint}"))
    })?;
    match raw.schema_version {
        Some(2) => {}
        Some(1) if raw.fs_layers.is_some() => return Err(Error::Schema1 { reference: what.to_owned() }),
        _ => return Err(invalid("its schema version is not 2".into())),
    }
    let is_image = raw.config.is_some() || raw.layers.is_some();
    let document = match (is_image, raw.manifests) {
        (true, Some(_)) => return Err(invalid("it is a manifest and an index at once".into())),
        (false, None) => return Err(invalid("it is neither a manifest nor an index".into())),
        (true, None) => {
            let config = raw.config.ok_or_else(|| invalid("it has no config".into()))?;
            Document::Manifest(Manifest { config, layers: raw.layers.unwrap_or_default() })
        }
        (false, Some(manifests)) => Document::Index(manifests),
    };
    check(what, &document)?;
    let usual = match document {
        Document::Manifest(_) => [OCI_MANIFEST, DOCKER_MANIFEST],
        Document::Index(_) => [OCI_INDEX, DOCKER_LIST],
    };
    // Web servers without configuration say one of these.
    let vague = matches!(content_type, "" | "application/json" | "application/octet-stream" | "text/plain" | "binary/octet-stream");
    let media_type = match (vague, raw.media_type.is_empty()) {
        (true, true) => usual[0].to_owned(),
        (true, false) => raw.media_type,
        (false, true) => content_type.to_owned(),
        (false, false) if raw.media_type != content_type => {
            let shown = (printable(content_type, 80), printable(&raw.media_type, 80));
            return Err(invalid(format!("the registry calls it {:?}, it calls itself {:?}", shown.0, shown.1)));
        }
        (false, false) => raw.media_type,
    };
    if !usual.contains(&media_type.as_str()) {
        return Err(invalid(format!("its media type {:?} is not that of its content", printable(&media_type, 80))));
    }
    Ok((document, media_type))
}

fn is_known(content_type: &str) -> bool {
    ACCEPTED.contains(&content_type)
}

/// Counts and sizes that no image has.
fn check(what: &str, document: &Document) -> Result<()> {
    let descriptors: Vec<&Descriptor> = match document {
        Document::Manifest(manifest) => {
            if manifest.layers.len() > MAX_LAYERS {
                let reason = format!("it has {} layers, more than {MAX_LAYERS} cannot be stacked", manifest.layers.len());
                return Err(Error::invalid(what, reason));
            }
            manifest.layers.iter().chain([&manifest.config]).collect()
        }
        Document::Index(entries) if entries.len() > MAX_ENTRIES => {
            return Err(Error::invalid(what, format!("it has {} entries, at most {MAX_ENTRIES} are taken", entries.len())));
        }
        Document::Index(entries) => entries.iter().collect(),
    };
    match descriptors.iter().find(|descriptor| descriptor.size > 1 << 50) {
        Some(descriptor) => Err(Error::invalid(what, format!("{} has {} bytes", descriptor.digest, descriptor.size))),
        None => Ok(()),
    }
}

/// The entries of an index that `platform` can use, the best first (containerd's order: newer variants before older ones, 64
/// bit before 32). Entries without a platform and nested indexes come last.
pub fn candidates<'a>(entries: &'a [Descriptor], platform: &Platform) -> Vec<&'a Descriptor> {
    let wanted = usable(platform);
    let rank = |entry: &Descriptor| match entry.platform() {
        Some(found) => wanted.iter().position(|usable| *usable == found),
        None => (entry.platform.is_none() || entry.is_index()).then_some(wanted.len()),
    };
    let mut ranked: Vec<(usize, &Descriptor)> = entries
        .iter()
        .filter(|entry| !entry.is_attestation())
        .filter(|entry| entry.media_type.is_empty() || is_known(&entry.media_type))
        .filter_map(|entry| Some((rank(entry)?, entry)))
        .collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, entry)| entry).collect()
}

/// What runs on `platform`, the best first, in normal spelling.
pub(crate) fn usable(platform: &Platform) -> Vec<Platform> {
    let parse = |text: String| text.parse::<Platform>().ok();
    let os = &platform.os;
    let number = |default: u32| {
        platform.variant.as_deref().and_then(|variant| variant.strip_prefix('v')?.parse::<u32>().ok()).unwrap_or(default).min(16)
    };
    let texts: Vec<String> = match platform.architecture.as_str() {
        "amd64" => {
            let own = (1..=number(1)).rev().map(|v| format!("{os}/amd64/v{v}"));
            own.chain([format!("{os}/386")]).collect()
        }
        "arm64" => {
            let own = (8..=number(8).max(8)).rev().map(|v| format!("{os}/arm64/v{v}"));
            own.chain((5..=8).rev().map(|v| format!("{os}/arm/v{v}"))).collect()
        }
        "arm" => {
            let own = (5..=number(7).max(5)).rev().map(|v| format!("{os}/arm/v{v}"));
            // An image without a variant is for v7, as in containerd.
            let mut own: Vec<String> = own.collect();
            let at = own.iter().position(|text| text.ends_with("/v7")).map_or(own.len(), |at| at + 1);
            own.insert(at, format!("{os}/arm"));
            own
        }
        _ => Vec::new(),
    };
    let mut found: Vec<Platform> = texts.into_iter().filter_map(parse).collect();
    if found.is_empty() {
        found.push(platform.clone());
    }
    found
}

/// The platforms of an index, for messages: `linux/amd64, linux/arm64`.
pub fn platforms(entries: &[Descriptor]) -> Vec<Platform> {
    let mut found: Vec<Platform> = Vec::new();
    for platform in entries.iter().filter(|entry| !entry.is_attestation()).filter_map(Descriptor::platform) {
        if !found.contains(&platform) {
            found.push(platform);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(platforms: &[&str]) -> Vec<Descriptor> {
        let entry = |platform: &&str| {
            let mut parts = platform.split('/');
            let (os, architecture, variant) =
                (parts.next().unwrap_or_default(), parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            format!(
                r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{}","size":1,"platform":{{"os":"{os}","architecture":"{architecture}","variant":"{variant}"}}}}"#,
                Digest::of(platform.as_bytes())
            )
        };
        let entries: Vec<String> = platforms.iter().map(entry).collect();
        let text = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
        match parse("index", text.as_bytes(), OCI_INDEX).unwrap().0 {
            Document::Index(entries) => entries,
            Document::Manifest(_) => panic!("an index"),
        }
    }

    #[test]
    fn the_platform_is_chosen_as_docker_does() {
        let all =
            index(&["unknown/unknown", "linux/386", "linux/arm/v6", "linux/arm/v7", "linux/arm64/v8", "linux/amd64", "windows/amd64"]);
        for (wanted, chosen) in [
            ("linux/amd64", Some("linux/amd64")),
            ("linux/arm64", Some("linux/arm64")),
            ("linux/arm/v8", Some("linux/arm/v7")),
            ("linux/arm", Some("linux/arm/v7")),
            ("linux/arm/v6", Some("linux/arm/v6")),
            ("linux/arm/v5", None),
            ("linux/386", Some("linux/386")),
            ("linux/riscv64", None),
            ("windows/amd64", Some("windows/amd64")),
        ] {
            let found = candidates(&all, &wanted.parse().unwrap());
            let found = found.first().and_then(|entry| entry.platform()).map(|platform| platform.to_string());
            assert_eq!(found.as_deref(), chosen, "{wanted}");
        }
        let old = index(&["linux/386", "linux/arm/v6"]);
        let first = |wanted: &str| candidates(&old, &wanted.parse().unwrap())[0].platform().unwrap().to_string();
        assert_eq!((first("linux/amd64"), first("linux/arm64")), ("linux/386".to_owned(), "linux/arm/v6".to_owned()));
        assert_eq!(platforms(&all).len(), 6);
    }

    #[test]
    fn documents_have_one_meaning() {
        let d = Digest::of(b"x");
        let config = format!(r#"{{"digest":"{d}","size":1}}"#);
        let good = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{config}]}}"#);
        for (content_type, media_type) in
            [(OCI_MANIFEST, OCI_MANIFEST), (DOCKER_MANIFEST, DOCKER_MANIFEST), ("application/json", OCI_MANIFEST)]
        {
            assert_eq!(parse("m", good.as_bytes(), content_type).unwrap().1, media_type);
        }
        for bad in [
            "".to_owned(),
            "null".into(),
            "[]".into(),
            "{}".into(),
            r#"{"schemaVersion":2}"#.into(),
            format!(r#"{{"schemaVersion":2,"config":{config},"layers":[],"manifests":[]}}"#),
            format!(r#"{{"schemaVersion":2,"config":{config},"config":{config},"layers":[]}}"#),
            format!(r#"{{"schemaVersion":2,"config":{{"digest":"{d}","size":-1}},"layers":[]}}"#),
            format!(r#"{{"schemaVersion":2,"config":{{"digest":"{d}","size":4611686018427387904}},"layers":[]}}"#),
            r#"{"schemaVersion":2,"config":{"digest":"sha256:../x","size":1},"layers":[]}"#.into(),
            format!(r#"{{"schemaVersion":2,"mediaType":"{DOCKER_MANIFEST}","config":{config},"layers":[]}}"#),
            format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#, vec![config.clone(); MAX_LAYERS + 1].join(",")),
            format!("{good}{good}"),
            "[".repeat(200_000),
            format!(r#"{{"a":{}"#, "[".repeat(200_000)),
        ] {
            assert!(parse("m", bad.as_bytes(), OCI_MANIFEST).is_err(), "{}", &bad[..bad.len().min(100)]);
        }
        let html = parse("m", good.as_bytes(), "text/html").unwrap_err().to_string();
        assert!(html.contains("text/html"), "{html}");
        assert!(parse("m", good.as_bytes(), OCI_INDEX).is_err());
        let old = br#"{"schemaVersion":1,"name":"a","tag":"b","fsLayers":[]}"#;
        assert!(matches!(parse("m", old, "application/json"), Err(Error::Schema1 { .. })));
        assert!(matches!(parse("m", old, "application/vnd.docker.distribution.manifest.v1+prettyjws"), Err(Error::Schema1 { .. })));
    }
}
