//! `load`: archives of docker save (any version) and OCI layouts, also those that are both.
//!
//! [`Files`] takes the archive's files in; here its metadata is read: which images there are, of which layers, under which
//! names, and which of them are wanted.

use crate::config::{ImageConfig, null};
use crate::error::{Error, Result};
use crate::index::LayerBlob;
use crate::ingest::{Ingest, NewImage, Report};
use crate::manifest::{self, Descriptor, Document, Manifest, OCI_INDEX, OCI_MANIFEST, check_count, is_layer_type, matches};
use crate::spool::Files;
use crate::store::Store;
use naru_types::{Digest, ImageRef, Platform};
use serde::Deserialize;
use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;

/// Indexes within indexes.
const MAX_NESTING: usize = 4;

/// Descriptors that are followed in one archive.
const MAX_DESCRIPTORS: usize = 1000;

/// Settings of a load.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// The platforms whose images are wanted; when empty, that of the host, or what there is.
    pub platforms: Vec<Platform>,
}

/// What `load` brought in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loaded {
    /// An image under this name.
    Reference(ImageRef),
    /// An image without a name.
    Id(Digest),
    /// The image that had the name before; it is told before the one that has it now.
    Replaced {
        /// The name.
        name: ImageRef,
        /// Who had it.
        old: Digest,
    },
}

impl Store {
    /// Loads the images of an archive, plain or compressed.
    pub fn load(self: &Arc<Self>, source: &mut dyn Read, options: &LoadOptions, progress: Report<'_>) -> Result<Vec<Loaded>> {
        let ingest = self.ingest()?;
        let archive = Archive { files: Files::read(&ingest, source, progress)?, wanted: &options.platforms, host: Platform::host() };
        let mut loaded = Vec::new();
        for image in archive.images()? {
            let references = image.references.clone();
            let before: Vec<_> = references.iter().map(|name| self.find(&name.canonical()).ok().map(|image| image.id)).collect();
            let id = archive.take_in(&ingest, image)?;
            if references.is_empty() {
                loaded.push(Loaded::Id(id.clone()));
            }
            for (name, before) in references.into_iter().zip(before) {
                if let Some(old) = before.filter(|old| *old != id) {
                    loaded.push(Loaded::Replaced { name: name.clone(), old });
                }
                loaded.push(Loaded::Reference(name));
            }
        }
        Ok(loaded)
    }
}

/// Bytes of a manifest or index and their media type.
type Typed = (Vec<u8>, String);

struct Archive<'a> {
    files: Files,
    wanted: &'a [Platform],
    host: Platform,
}

/// A layer as the metadata describes it.
struct DescribedLayer {
    /// Name of its file in the archive.
    name: Vec<u8>,
    digest: Option<Digest>,
    size: Option<u64>,
    diff_id: Digest,
    media_type: Option<String>,
}

/// An image as the archive's metadata describes it.
struct Described {
    config: Vec<u8>,
    manifest: Option<Typed>,
    index: Option<Typed>,
    layers: Vec<DescribedLayer>,
    references: Vec<ImageRef>,
}

/// A manifest of a layout, and the index it was found in.
struct Found {
    manifest: Manifest,
    typed: Typed,
    index: Option<Typed>,
}

/// An element of docker-archive's `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerItem {
    config: String,
    #[serde(default, deserialize_with = "null")]
    repo_tags: Vec<String>,
    #[serde(default, deserialize_with = "null")]
    layers: Vec<String>,
}

fn invalid(reason: impl Into<String>) -> Error {
    Error::invalid("image archive", reason)
}

impl Archive<'_> {
    /// A manifest or config by its descriptor.
    fn read_blob(&self, descriptor: &Descriptor, what: &str) -> Result<Vec<u8>> {
        let read = self.files.metadata(&blob_name(&descriptor.digest))?;
        let (bytes, found) = read.ok_or_else(|| invalid(format!("{what} {} is missing", descriptor.digest)))?;
        if found != descriptor.digest {
            return Err(Error::DigestMismatch { what: what.into(), expected: descriptor.digest.clone(), found });
        }
        if bytes.len() as u64 != descriptor.size {
            let reason = format!("{what} {} has {} bytes, its descriptor says {}", descriptor.digest, bytes.len(), descriptor.size);
            return Err(invalid(reason));
        }
        Ok(bytes)
    }

    fn images(&self) -> Result<Vec<Described>> {
        if let Some((bytes, _)) = self.files.metadata(b"manifest.json")? {
            return self.docker_images(&bytes);
        }
        let Some((bytes, _)) = self.files.metadata(b"index.json")? else {
            return Err(invalid("it has neither manifest.json nor index.json"));
        };
        let Document::Index(index) = manifest::parse("index.json", &bytes)? else {
            return Err(invalid("index.json is not an index"));
        };
        self.oci_images(&index.manifests)
    }

    /// True when the user asked for an image of this platform.
    fn wants(&self, platform: &Platform) -> bool {
        self.wanted.iter().any(|wanted| matches(wanted, platform))
    }

    fn none_wanted(&self) -> Error {
        let wanted: Vec<String> = self.wanted.iter().map(Platform::to_string).collect();
        Error::NoSuchPlatform { what: "image archive".into(), platform: wanted.join(", ") }
    }

    fn docker_images(&self, bytes: &[u8]) -> Result<Vec<Described>> {
        let items: Vec<DockerItem> = serde_json::from_slice(bytes).map_err(|e| Error::invalid("manifest.json", e.to_string()))?;
        let manifests = self.manifests_of_layout();
        let mut images = Vec::new();
        for item in items {
            let read = self.files.metadata(item.config.as_bytes())?;
            let (config, id) = read.ok_or_else(|| invalid(format!("config {:?} is missing", item.config)))?;
            check_named(&item.config, &id)?;
            check_count(item.layers.len())?;
            let parsed = ImageConfig::parse(&config)?;
            if parsed.rootfs.diff_ids.len() != item.layers.len() {
                return Err(invalid(format!("it has {} layers, its config names {}", item.layers.len(), parsed.rootfs.diff_ids.len())));
            }
            if !self.wanted.is_empty() && !self.wants(&parsed.platform()) {
                continue;
            }
            let mut layers = Vec::new();
            for (name, diff_id) in item.layers.iter().zip(&parsed.rootfs.diff_ids) {
                let digest = name.strip_prefix("blobs/sha256/").and_then(|hex| format!("sha256:{hex}").parse().ok());
                let name = name.clone().into_bytes();
                layers.push(DescribedLayer { name, digest, size: None, diff_id: diff_id.clone(), media_type: None });
            }
            let references = item.repo_tags.iter().map(|tag| name_with_tag(tag)).collect::<Result<_, _>>()?;
            let mut image = Described { config, manifest: None, index: None, layers, references };
            if let Some(found) = manifests.get(&id) {
                self.add_manifest(&mut image, found);
            }
            images.push(image);
        }
        if images.is_empty() && !self.wanted.is_empty() {
            return Err(self.none_wanted());
        }
        Ok(images)
    }

    /// The layout's manifest is the image's only if it speaks of exactly the files of `manifest.json`.
    fn add_manifest(&self, image: &mut Described, found: &Found) {
        let same = found.manifest.layers.len() == image.layers.len()
            && found.manifest.layers.iter().zip(&image.layers).all(|(descriptor, layer)| {
                is_layer_type(&descriptor.media_type) && {
                    self.files.layer(&layer.name).is_ok_and(|blob| blob.digest == descriptor.digest && blob.size == descriptor.size)
                }
            });
        if !same {
            return;
        }
        image.manifest = Some(found.typed.clone());
        image.index.clone_from(&found.index);
        for (layer, descriptor) in image.layers.iter_mut().zip(&found.manifest.layers) {
            layer.media_type = Some(descriptor.media_type.clone()).filter(|t| !t.is_empty());
        }
    }

    /// Newer docker archives are OCI layouts as well: their manifests, by the image's id. What is not valid there does
    /// not count.
    fn manifests_of_layout(&self) -> HashMap<Digest, Found> {
        let mut found = HashMap::new();
        let index = match self.files.metadata(b"index.json") {
            Ok(Some((bytes, _))) => manifest::parse("index.json", &bytes),
            _ => return found,
        };
        let Ok(Document::Index(index)) = index else { return found };
        for descriptor in index.manifests.into_iter().take(MAX_DESCRIPTORS) {
            let mut all = Vec::new();
            self.follow(&descriptor, None, 0, &mut all, &mut |_| {}).ok();
            found.extend(all.into_iter().map(|one| (one.manifest.config.digest.clone(), one)));
        }
        found
    }

    /// All manifests that a descriptor leads to and that are in the archive. What is wrong below an index goes to `bad`.
    fn follow(
        &self,
        descriptor: &Descriptor,
        index: Option<&Typed>,
        depth: usize,
        found: &mut Vec<Found>,
        bad: &mut dyn FnMut(Error),
    ) -> Result<()> {
        if depth > MAX_NESTING {
            return Err(invalid("its indexes are nested too deep"));
        }
        let bytes = self.read_blob(descriptor, "manifest")?;
        match manifest::parse(&format!("manifest {}", descriptor.digest), &bytes)? {
            Document::Manifest(manifest) => {
                let media_type = first_of([&descriptor.media_type, &manifest.media_type], OCI_MANIFEST);
                found.push(Found { manifest, typed: (bytes, media_type), index: index.cloned() });
            }
            Document::Index(inner) => {
                let typed = (bytes, first_of([&descriptor.media_type, &inner.media_type], OCI_INDEX));
                // A copy of one platform has the whole index, but not the images of the others.
                let present = |d: &&Descriptor| !d.is_attestation() && self.files.has(&blob_name(&d.digest));
                for descriptor in inner.manifests.iter().filter(present) {
                    if found.len() >= MAX_DESCRIPTORS {
                        return Err(Error::TooLarge { what: "image archive".into(), limit: format!("{MAX_DESCRIPTORS} images") });
                    }
                    if let Err(error) = self.follow(descriptor, Some(&typed), depth + 1, found, bad) {
                        bad(error);
                    }
                }
            }
        }
        Ok(())
    }

    fn oci_images(&self, descriptors: &[Descriptor]) -> Result<Vec<Described>> {
        let candidates: Vec<&Descriptor> = descriptors.iter().filter(|d| !d.is_attestation()).collect();
        let runs = |d: &Descriptor| d.platform.as_ref().and_then(|p| p.parse()).is_none_or(|p| self.host.runs(&p));
        // Images for other machines are left out, unless they are asked for or there are no others.
        let all = !self.wanted.is_empty() || !candidates.iter().any(|d| runs(d));
        let mut images: Vec<Described> = Vec::new();
        for descriptor in candidates.into_iter().filter(|d| all || runs(d)) {
            let reference = name_of(descriptor)?;
            let (mut found, mut first_bad) = (Vec::new(), None);
            self.follow(descriptor, None, 0, &mut found, &mut |error| first_bad = first_bad.take().or(Some(error)))?;
            // Signatures and the like ride along as manifests of something else.
            let with_others = found.len();
            found.retain(|one| one.manifest.is_image());
            if found.is_empty() && with_others > 0 {
                continue;
            }
            if found.is_empty() {
                return Err(first_bad.unwrap_or_else(|| invalid(format!("index {} has no image for {}", descriptor.digest, self.host))));
            }
            for (rank, mut image) in self.chosen(found)? {
                // One name for several platforms means the image for this host.
                let taken = images.iter().any(|other| reference.as_ref().is_some_and(|name| other.references.contains(name)));
                image.references = reference.iter().filter(|_| rank == 0 && !taken).cloned().collect();
                images.push(image);
            }
        }
        if images.is_empty() {
            return Err(if self.wanted.is_empty() { invalid("it holds no image") } else { self.none_wanted() });
        }
        Ok(images)
    }

    /// Of one image's platforms those that are wanted, the best for this host first.
    fn chosen(&self, found: Vec<Found>) -> Result<Vec<(usize, Described)>> {
        let mut images = found.into_iter().map(|one| self.oci_image(one)).collect::<Result<Vec<_>>>()?;
        let rank = |platform: &Platform| match platform {
            p if (&p.os, &p.architecture) == (&self.host.os, &self.host.architecture) => 0,
            p if self.host.runs(p) => 1,
            _ => 2,
        };
        images.sort_by_key(|(platform, _)| rank(platform));
        let wanted: Vec<Described> = if self.wanted.is_empty() {
            images.into_iter().map(|(_, image)| image).take(1).collect()
        } else {
            images.into_iter().filter(|(platform, _)| self.wants(platform)).map(|(_, image)| image).collect()
        };
        Ok(wanted.into_iter().enumerate().collect())
    }

    fn oci_image(&self, found: Found) -> Result<(Platform, Described)> {
        let Found { manifest, typed, index } = found;
        let config = self.read_blob(&manifest.config, "config")?;
        let parsed = ImageConfig::parse(&config)?;
        if parsed.rootfs.diff_ids.len() != manifest.layers.len() {
            let (layers, named) = (manifest.layers.len(), parsed.rootfs.diff_ids.len());
            return Err(invalid(format!("its manifest has {layers} layers, its config names {named}")));
        }
        if let Some(other) = manifest.layers.iter().find(|layer| !is_layer_type(&layer.media_type)) {
            let (digest, media_type) = (&other.digest, other.media_type.chars().take(100).collect::<String>());
            return Err(invalid(format!("the media type {media_type:?} of {digest} is not that of a layer")));
        }
        let layer = |(descriptor, diff_id): (&Descriptor, &Digest)| DescribedLayer {
            name: blob_name(&descriptor.digest),
            digest: Some(descriptor.digest.clone()),
            size: Some(descriptor.size),
            diff_id: diff_id.clone(),
            media_type: Some(descriptor.media_type.clone()).filter(|t| !t.is_empty()),
        };
        let layers = manifest.layers.iter().zip(&parsed.rootfs.diff_ids).map(layer).collect();
        Ok((parsed.platform(), Described { config, manifest: Some(typed), index, layers, references: Vec::new() }))
    }

    /// Checks the layers against what the metadata says of them and records the image.
    fn take_in(&self, ingest: &Ingest, image: Described) -> Result<Digest> {
        let os = ImageConfig::parse(&image.config)?.os;
        if !matches!(os.as_str(), "linux" | "") {
            return Err(invalid(format!("cannot load {:?} image on linux", os.chars().take(40).collect::<String>())));
        }
        let mut layers: Vec<LayerBlob> = Vec::new();
        for described in image.layers {
            let mut layer = self.files.layer(&described.name)?;
            let what = format!("layer {}", layer.digest);
            if let Some(expected) = described.digest.filter(|digest| *digest != layer.digest) {
                return Err(Error::DigestMismatch { what: "layer".into(), expected, found: layer.digest });
            }
            if let Some(size) = described.size.filter(|size| *size != layer.size) {
                return Err(Error::invalid(what, format!("it has {} bytes, {size} were announced", layer.size)));
            }
            if described.diff_id != layer.diff_id {
                return Err(Error::DigestMismatch { what: format!("unpacked {what}"), expected: described.diff_id, found: layer.diff_id });
            }
            layer.media_type = described.media_type.unwrap_or(layer.media_type);
            layers.push(layer);
        }
        ingest.commit(NewImage { config: image.config, manifest: image.manifest, index: image.index, layers, references: image.references })
    }
}

fn first_of(types: [&String; 2], otherwise: &str) -> String {
    types.into_iter().find(|t| !t.is_empty()).cloned().unwrap_or_else(|| otherwise.to_owned())
}

/// A name of `manifest.json`. One with a digest must not become one with a tag that nobody spoke of.
fn name_with_tag(text: &str) -> Result<ImageRef> {
    match ImageRef::parse(text)? {
        reference if reference.digest.is_some() => Err(invalid(format!("{text:?} is not a name with a tag"))),
        reference => Ok(reference.tagged()),
    }
}

fn blob_name(digest: &Digest) -> Vec<u8> {
    format!("blobs/sha256/{}", digest.hex()).into_bytes()
}

/// A file called after a digest must have it: `<hex>.json`, `blobs/sha256/<hex>`.
fn check_named(name: &str, found: &Digest) -> Result<()> {
    let hex = name.strip_prefix("blobs/sha256/").or_else(|| name.strip_suffix(".json"));
    let Some(expected) = hex.and_then(|hex| format!("sha256:{hex}").parse::<Digest>().ok()) else { return Ok(()) };
    if expected != *found {
        return Err(Error::DigestMismatch { what: format!("file {name:?} of the image archive"), expected, found: found.clone() });
    }
    Ok(())
}

/// The name of an image in an OCI layout: containerd's annotation, or the standard one where it is a whole name.
fn name_of(descriptor: &Descriptor) -> Result<Option<ImageRef>> {
    let annotation = |key: &str| descriptor.annotations.get(key).filter(|name| !name.is_empty());
    let name = annotation("io.containerd.image.name")
        .or_else(|| annotation("org.opencontainers.image.ref.name").filter(|name| name.contains(['/', ':'])));
    Ok(match name {
        Some(name) => Some(ImageRef::parse(name)?).filter(|r| r.tag.is_some()).map(|r| r.tagged()),
        None => None,
    })
}
