//! Lists that are being put together, in the files of Docker's client, so that either can go on with the other's work:
//!
//! ```text
//! <configuration>/manifests/<list>/<manifest>      names with - for : and _ for /
//! ```

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use naru_registry::ManifestInfo;
use naru_types::{Digest, ImageRef};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::config::write_private;

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// One manifest of a list.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Entry {
    #[serde(rename = "Ref")]
    pub reference: String,
    pub descriptor: Descriptor,
    /// Its bytes, in base64.
    #[serde(default)]
    raw: String,
    #[serde(rename = "SchemaV2Manifest", default, skip_serializing_if = "Option::is_none")]
    docker: Option<Box<RawValue>>,
    #[serde(rename = "OCIManifest", default, skip_serializing_if = "Option::is_none")]
    oci: Option<Box<RawValue>>,
}

/// What a list says of a manifest.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

/// What an image is for; configs say it with the same words.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Platform {
    pub architecture: String,
    pub os: String,
    #[serde(rename = "os.version", skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    #[serde(rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl Entry {
    /// What a registry has.
    pub fn of(reference: &ImageRef, info: &ManifestInfo) -> Result<Entry> {
        let platform = info.config.as_deref().map(serde_json::from_slice).transpose();
        let platform = platform.map_err(|error| Failure::message(format!("parse the config of {}: {error}", reference.familiar())))?;
        let manifest = serde_json::from_slice(&info.raw).ok();
        let (docker, oci) = if info.media_type == OCI_MANIFEST { (None, manifest) } else { (manifest, None) };
        let descriptor = Descriptor { media_type: info.media_type.clone(), digest: info.digest.clone(), size: info.size, platform };
        Ok(Entry { reference: reference.canonical(), descriptor, raw: STANDARD.encode(&info.raw), docker, oci })
    }

    /// The manifest's bytes, which must be those of its digest.
    pub fn manifest(&self) -> Result<Vec<u8>> {
        let bytes = STANDARD.decode(&self.raw).unwrap_or_default();
        if Digest::of(&bytes) != self.descriptor.digest {
            let reason = "is not complete in the local list: create the list again";
            return Err(Failure::message(format!("manifest {} {reason}", self.reference)));
        }
        Ok(bytes)
    }

    /// False for what clients of long ago wrote.
    pub fn is_complete(&self) -> bool {
        !self.raw.is_empty()
    }
}

/// An index of these manifests, byte by byte as Docker's client makes it.
pub fn index(entries: &[Entry]) -> (String, &'static str) {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Index<'a> {
        schema_version: u8,
        media_type: &'a str,
        manifests: Vec<Listed<'a>>,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Listed<'a> {
        media_type: &'a str,
        size: u64,
        digest: &'a Digest,
        platform: Platform,
    }
    let oci = entries.first().is_some_and(|entry| entry.descriptor.media_type == OCI_MANIFEST);
    let media_type = if oci { OCI_INDEX } else { DOCKER_LIST };
    let listed = entries.iter().map(|entry| &entry.descriptor).map(|descriptor| Listed {
        media_type: &descriptor.media_type,
        size: descriptor.size,
        digest: &descriptor.digest,
        platform: descriptor.platform.clone().unwrap_or_default(),
    });
    let index = Index { schema_version: 2, media_type, manifests: listed.collect() };
    let text = serde_json::to_string(&index).expect("strings and numbers always serialise");
    (crate::template::value::indent_json(&text, "", "   "), media_type)
}

/// The lists of a configuration.
pub struct Lists(PathBuf);

fn file_name(reference: &ImageRef) -> String {
    reference.canonical().replace(':', "-").replace('/', "_")
}

impl Lists {
    pub fn new(cx: Cx) -> Lists {
        Lists(cx.config_directory().join("manifests"))
    }

    fn folder(&self, list: &ImageRef) -> PathBuf {
        self.0.join(file_name(list))
    }

    /// The manifests of a list in the order of their files' names; nothing when there is no such list.
    pub fn all(&self, list: &ImageRef) -> Result<Option<Vec<Entry>>> {
        let folder = self.folder(list);
        let files = match std::fs::read_dir(&folder) {
            Ok(files) => files,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &folder, &error)),
        };
        let mut paths: Vec<PathBuf> = files.flatten().map(|file| file.path()).collect();
        paths.sort();
        paths.iter().map(|path| read(path)?.ok_or_else(|| failed("read", path, &"it is gone"))).collect::<Result<_>>().map(Some)
    }

    pub fn get(&self, list: &ImageRef, manifest: &ImageRef) -> Result<Option<Entry>> {
        read(&self.folder(list).join(file_name(manifest)))
    }

    pub fn put(&self, list: &ImageRef, manifest: &ImageRef, entry: &Entry) -> Result<()> {
        let folder = self.folder(list);
        std::fs::create_dir_all(&folder).map_err(|error| failed("create", &folder, &error))?;
        let path = folder.join(file_name(manifest));
        let text = serde_json::to_vec(entry).expect("strings and numbers always serialise");
        write_private(&path, &text).map_err(|error| failed("write", &path, &error))
    }

    pub fn remove(&self, list: &ImageRef) -> Result<()> {
        let folder = self.folder(list);
        std::fs::remove_dir_all(&folder).map_err(|error| failed("remove", &folder, &error))
    }
}

fn read(path: &Path) -> Result<Option<Entry>> {
    match std::fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| failed("parse", path, &error)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path, &error)),
    }
}

fn failed(what: &str, path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::message(format!("{what} {}: {error}", path.display()))
}

/// Docker's words for a list that is not here.
pub fn no_such(list: &ImageRef) -> String {
    format!("No such manifest: {}", list.canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Docker's client 28 wrote it.
    const ENTRY: &str = r#"{"Ref":"127.0.0.1:5000/box:1","Descriptor":{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2,"platform":{"architecture":"arm64","os":"linux","os.version":"7","os.features":["a","b"],"variant":"v8"}},"Raw":"e30=","OCIManifest":{"schemaVersion":2}}"#;

    #[test]
    fn files_are_those_of_dockers_client() {
        let entry: Entry = serde_json::from_str(ENTRY).unwrap();
        assert_eq!(serde_json::to_string(&entry).unwrap(), ENTRY);
        assert_eq!(entry.manifest().unwrap(), b"{}");
        for (name, file) in [("127.0.0.1:5000/team/box:1", "127.0.0.1-5000_team_box-1"), ("l2", "docker.io_library_l2-latest")] {
            assert_eq!(file_name(&super::super::reference(name).unwrap()), file);
        }
    }

    #[test]
    fn a_damaged_entry_is_not_sent() {
        let entry: Entry = serde_json::from_str(&ENTRY.replace("e30=", "e31=")).unwrap();
        assert!(entry.manifest().is_err());
        let old: Entry = serde_json::from_str(&ENTRY.replace(r#""Raw":"e30=","#, "")).unwrap();
        assert!(!old.is_complete() && old.manifest().is_err());
    }

    #[test]
    fn an_index_is_laid_out_as_dockers() {
        let entry: Entry = serde_json::from_str(ENTRY).unwrap();
        let (text, media_type) = index(std::slice::from_ref(&entry));
        assert!(media_type == OCI_INDEX && text.starts_with("{\n   \"schemaVersion\": 2,\n   \"mediaType\""), "{text}");
        let mut docker = entry;
        docker.descriptor.media_type = "application/vnd.docker.distribution.manifest.v2+json".into();
        assert_eq!(index(&[docker]).1, DOCKER_LIST);
    }
}
