//! `save`: an archive that is an OCI layout and what `docker load` of any version reads, with the blobs as they came.
//! The same images give the same bytes.

use crate::error::{At, Error, Result};
use crate::images::Image;
use crate::index::{IndexBlob, LayerBlob};
use crate::ingest::Pins;
use crate::manifest::{Descriptor, ImageIndex, OCI_INDEX, OCI_MANIFEST, PlatformField, matches};
use crate::store::Store;
use crate::stream::Hashing;
use crate::tar::{Entry, Kind, Writer};
use naru_types::{Digest, ImageRef, Platform};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

/// An element of docker-archive's `manifest.json`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerItem {
    config: String,
    /// Null without any, as Go writes it.
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
    /// The image it was committed from, where that is in the archive, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<Digest>,
    /// By diff id, layers that travel as they are: Docker's all do.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    layer_sources: BTreeMap<Digest, LayerSource>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LayerSource {
    media_type: String,
    size: u64,
    digest: Digest,
}

/// Settings of a save.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SaveOptions {
    /// The platforms to save of images that are here for several; when empty, the image that the name means.
    pub platforms: Vec<Platform>,
}

/// An image to save: itself, or its variants for the platforms asked for.
struct Selected {
    variants: Vec<Image>,
    /// The index all of several variants are in.
    index: Option<IndexBlob>,
    references: Vec<ImageRef>,
}

/// What an archive consists of besides the blobs.
#[derive(Default)]
struct Listing {
    blobs: BTreeMap<Digest, u64>,
    index: Vec<Descriptor>,
    docker: Vec<DockerItem>,
    repositories: BTreeMap<String, BTreeMap<String, String>>,
}

impl Store {
    /// Writes the images with these names or ids; a name saves that name, an id none. Every blob is checked as it goes out.
    pub fn save(self: &Arc<Self>, queries: &[String], options: &SaveOptions, sink: &mut dyn Write) -> Result<()> {
        let pins = Pins::new(self);
        let images = self.selected(queries, options, &pins)?;
        let mut listing = Listing::default();
        for image in images.values() {
            self.list_image(image, &images, &mut listing)?;
        }
        let Listing { blobs, index, docker, repositories } = listing;
        let mut writer = Writer::new(sink);
        for directory in ["blobs/", "blobs/sha256/"] {
            writer.entry(&Entry::new(directory, Kind::Dir, 0o755))?;
        }
        for (digest, size) in blobs {
            let entry = Entry { size, ..Entry::new(blob_name(&digest), Kind::File, 0o644) };
            let mut blob = Hashing::new(self.blob(&digest)?, u64::MAX, "blob");
            writer.file(&entry, &mut blob).at_blob(&digest)?;
            let (found, ..) = blob.finish();
            if found != digest {
                return Err(Error::DigestMismatch { what: "a damaged blob in the store".into(), expected: digest, found });
            }
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

    fn list_image(&self, selected: &Selected, all: &BTreeMap<Digest, Selected>, listing: &mut Listing) -> Result<()> {
        let mut named = None;
        for (at, image) in selected.variants.iter().enumerate() {
            let manifest = self.read_metadata(&image.manifest)?;
            listing.blobs.insert(image.manifest.clone(), manifest.len() as u64);
            listing.blobs.insert(image.id.clone(), image.config.raw().len() as u64);
            listing.blobs.extend(image.blobs.iter().map(|layer| (layer.digest.clone(), layer.size)));
            let mut descriptor = Descriptor::new(&*image.manifest_type, image.manifest.clone(), manifest.len() as u64);
            descriptor.platform = Some(PlatformField::of(&image.config.platform()));
            named.get_or_insert(descriptor);
            let tags = selected.references.iter().map(ImageRef::familiar).collect();
            let plain = image.blobs.iter().filter(|layer| !layer.is_compressed());
            let source =
                |layer: &LayerBlob| LayerSource { media_type: layer.media_type.clone(), size: layer.size, digest: layer.digest.clone() };
            listing.docker.push(DockerItem {
                config: blob_name(&image.id),
                repo_tags: Some(tags).filter(|tags: &Vec<String>| at == 0 && !tags.is_empty()),
                layers: image.blobs.iter().map(|layer| blob_name(&layer.digest)).collect(),
                parent: image.parent.clone().filter(|parent| all.contains_key(parent)),
                layer_sources: plain.map(|layer| (layer.diff_id.clone(), source(layer))).collect(),
            });
        }
        if let Some(index) = &selected.index {
            listing.blobs.insert(index.digest.clone(), index.size);
            named = Some(Descriptor::new(&*index.media_type, index.digest.clone(), index.size));
        }
        let Some(named) = named else { return Ok(()) };
        if selected.references.is_empty() {
            listing.index.push(named.clone());
        }
        for reference in &selected.references {
            let mut named = named.clone();
            let tag = reference.tag.clone().unwrap_or_default();
            named.annotations.insert("io.containerd.image.name".into(), reference.canonical());
            named.annotations.insert("org.opencontainers.image.ref.name".into(), tag.clone());
            listing.index.push(named);
            let top = selected.variants.first().and_then(|image| image.layers.last()).map(Digest::hex).unwrap_or_default();
            listing.repositories.entry(reference.familiar_name()).or_default().insert(tag, top);
        }
        Ok(())
    }

    /// The images, each once, with the names they are saved under; all that is read of them is pinned.
    fn selected(&self, queries: &[String], options: &SaveOptions, pins: &Pins) -> Result<BTreeMap<Digest, Selected>> {
        let mut images: BTreeMap<Digest, Selected> = BTreeMap::new();
        for query in queries {
            let image = self.find(query)?;
            let named = ImageRef::parse(query).ok().filter(|reference| reference.digest.is_none());
            // `name` without a tag means latest, as everywhere.
            let named = named.map(|reference| reference.tagged()).filter(|reference| image.tags.contains(reference));
            let id = image.id.clone();
            if !images.contains_key(&id) {
                images.insert(id.clone(), self.variants(query, image, options, pins)?);
            }
            let references = &mut images.get_mut(&id).expect("it was inserted when it was absent").references;
            if let Some(reference) = named.filter(|reference| !references.contains(reference)) {
                references.push(reference);
                references.sort();
            }
        }
        Ok(images)
    }

    /// What is saved of an image.
    fn variants(&self, query: &str, image: Image, options: &SaveOptions, pins: &Pins) -> Result<Selected> {
        let mut index = None;
        let mut variants = vec![image.clone()];
        if !options.platforms.is_empty() {
            let wanted = |image: &Image| options.platforms.iter().any(|wanted| matches(wanted, &image.config.platform()));
            variants.retain(wanted);
            for (blob, others) in self.siblings(&image)? {
                let others: Vec<Image> = others.into_iter().filter(|other| wanted(other)).collect();
                if others.len() > variants.len() {
                    index = Some(blob).filter(|_| others.len() > 1);
                    variants = others;
                }
            }
        }
        if variants.is_empty() {
            let platform = options.platforms.iter().map(Platform::to_string).collect::<Vec<_>>().join(", ");
            return Err(Error::NoSuchPlatform { what: format!("image {query}"), platform });
        }
        // The one with the name comes first: it keeps it.
        variants.sort_by_key(|variant| (variant.id != image.id, variant.id.clone()));
        pins.pin(|_| {
            let of = |image: &Image| {
                let layers = image.blobs.iter().flat_map(|layer| [layer.digest.clone(), layer.diff_id.clone()]).collect::<Vec<_>>();
                layers.into_iter().chain([image.id.clone(), image.manifest.clone()])
            };
            (variants.iter().flat_map(of).chain(index.iter().map(|index| index.digest.clone())).collect(), ())
        });
        Ok(Selected { variants, index, references: Vec::new() })
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
