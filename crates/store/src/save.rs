//! `save`: an archive that is an OCI layout and what `docker load` of any version reads, with the blobs as they came.
//! The same images give the same bytes.

use crate::error::{At, Error, Result};
use crate::images::Image;
use crate::manifest::{Descriptor, ImageIndex, OCI_INDEX, OCI_MANIFEST, PlatformField};
use crate::store::Store;
use crate::tar::{Entry, Kind, Writer};
use naru_types::{Digest, ImageRef};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write;

/// An element of docker-archive's `manifest.json`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerItem {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

impl Store {
    /// Writes the images with these names or ids; a name saves that name, an id none.
    pub fn save(&self, queries: &[String], sink: &mut dyn Write) -> Result<()> {
        let images = self.selected(queries)?;
        let mut blobs: BTreeMap<Digest, u64> = BTreeMap::new();
        let (mut index, mut docker) = (Vec::new(), Vec::new());
        let mut repositories: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for (image, references) in images.values() {
            let manifest = self.read_metadata(&image.manifest)?;
            blobs.insert(image.manifest.clone(), manifest.len() as u64);
            blobs.insert(image.id.clone(), image.config.raw().len() as u64);
            blobs.extend(image.blobs.iter().map(|layer| (layer.digest.clone(), layer.size)));
            let mut descriptor = Descriptor::new(&*image.manifest_type, image.manifest.clone(), manifest.len() as u64);
            descriptor.platform = Some(PlatformField::of(&image.config.platform()));
            if references.is_empty() {
                index.push(descriptor.clone());
            }
            for reference in references {
                let mut named = descriptor.clone();
                let tag = reference.tag.clone().unwrap_or_default();
                named.annotations.insert("io.containerd.image.name".into(), reference.canonical());
                named.annotations.insert("org.opencontainers.image.ref.name".into(), tag.clone());
                index.push(named);
                let top = image.layers.last().map(Digest::hex).unwrap_or_default();
                repositories.entry(reference.familiar_name()).or_default().insert(tag, top);
            }
            docker.push(DockerItem {
                config: blob_name(&image.id),
                repo_tags: references.iter().map(ImageRef::familiar).collect(),
                layers: image.blobs.iter().map(|layer| blob_name(&layer.digest)).collect(),
            });
        }
        let mut writer = Writer::new(sink);
        for directory in ["blobs/", "blobs/sha256/"] {
            writer.entry(&Entry::new(directory, Kind::Dir, 0o755))?;
        }
        for (digest, size) in blobs {
            let entry = Entry { size, ..Entry::new(blob_name(&digest), Kind::File, 0o644) };
            writer.file(&entry, &mut self.blob(&digest)?).at_blob(&digest)?;
        }
        let index = ImageIndex { schema_version: 2, media_type: OCI_INDEX.into(), manifests: index };
        writer.bytes("index.json", 0o644, &json(&index))?;
        writer.bytes("manifest.json", 0o644, &json(&docker))?;
        writer.bytes("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        if !repositories.is_empty() {
            writer.bytes("repositories", 0o644, &json(&repositories))?;
        }
        writer.finish()?;
        Ok(())
    }

    /// The images, each once, with the names they are saved under.
    fn selected(&self, queries: &[String]) -> Result<BTreeMap<Digest, (Image, Vec<ImageRef>)>> {
        let mut images: BTreeMap<Digest, (Image, Vec<ImageRef>)> = BTreeMap::new();
        for query in queries {
            let image = self.find(query)?;
            let named = ImageRef::parse(query).ok().filter(|reference| reference.digest.is_none());
            // `name` without a tag means latest, as everywhere.
            let named = named.map(|reference| reference.tagged()).filter(|reference| image.tags.contains(reference));
            let entry = images.entry(image.id.clone()).or_insert_with(|| (image, Vec::new()));
            if let Some(reference) = named.filter(|reference| !entry.1.contains(reference)) {
                entry.1.push(reference);
                entry.1.sort();
            }
        }
        Ok(images)
    }

    /// A manifest for `image` as it is pushed: bytes and media type.
    pub fn manifest(&self, image: &Image) -> Result<(Vec<u8>, String)> {
        let media_type = if image.manifest_type.is_empty() { OCI_MANIFEST.to_owned() } else { image.manifest_type.clone() };
        Ok((self.read_metadata(&image.manifest)?, media_type))
    }
}

trait AtBlob<T> {
    fn at_blob(self, digest: &Digest) -> Result<T>;
}

impl<T> AtBlob<T> for Result<T> {
    /// Reading fails with the blob's name, writing with that of the stream.
    fn at_blob(self, digest: &Digest) -> Result<T> {
        self.map_err(|error| match error {
            Error::Stream { action: "read", source } => Err::<(), _>(source).at("read blob", digest).expect_err("made of an error"),
            error => error,
        })
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("these have only string keys")
}
