//! `load`: archives of docker save (any version) and OCI layouts, also those that are both.
//!
//! The order of an archive's files is arbitrary, so all are first spooled to the staging directory (where the layers'
//! blobs stay) and hashed; then the metadata is read. Names in the archive are keys of a map, never paths.

use crate::apply::components;
use crate::config::{ImageConfig, MAX_METADATA, null};
use crate::error::{At, Error, Result, printable};
use crate::index::LayerBlob;
use crate::ingest::{Expected, Ingest, NewImage, Report};
use crate::manifest::{self, Descriptor, Document, Manifest, OCI_MANIFEST, check_count};
use crate::store::Store;
use crate::stream::{BUFFER, Hashing, plain};
use crate::tar::{Kind, Reader};
use naru_types::{Digest, ImageRef, Platform};
use serde::Deserialize;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

/// Files in one archive; an image of 500 layers in the oldest format has 1500.
const MAX_FILES: usize = 100_000;

/// Indexes within indexes.
const MAX_NESTING: usize = 4;

/// What `load` brought in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loaded {
    /// An image under this name.
    Reference(ImageRef),
    /// An image without a name.
    Id(Digest),
}

impl Store {
    /// Loads all images of an archive, plain or compressed with gzip or zstd.
    pub fn load(self: &Arc<Self>, source: &mut dyn Read, progress: Report<'_>) -> Result<Vec<Loaded>> {
        let ingest = self.ingest()?;
        let archive = Archive::spool(&ingest, source)?;
        let mut loaded = Vec::new();
        for image in archive.images()? {
            let references = image.references.clone();
            let new = archive.take_in(&ingest, image, progress)?;
            let id = ingest.commit(new)?;
            if references.is_empty() {
                loaded.push(Loaded::Id(id));
            }
            loaded.extend(references.into_iter().map(Loaded::Reference));
        }
        Ok(loaded)
    }
}

struct Spooled {
    path: PathBuf,
    digest: Digest,
    size: u64,
}

/// The archive's files by their names.
struct Archive {
    files: HashMap<Vec<u8>, Spooled>,
    links: HashMap<Vec<u8>, Vec<u8>>,
}

/// An image as the archive's metadata describes it.
struct Described {
    config: Vec<u8>,
    manifest: Option<(Vec<u8>, String)>,
    /// Name of each layer's file in the archive.
    layers: Vec<(Vec<u8>, Expected)>,
    references: Vec<ImageRef>,
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

impl Archive {
    fn spool(ingest: &Ingest, source: &mut dyn Read) -> Result<Archive> {
        let (stream, _) = plain(source)?;
        let mut reader = Reader::new(BufReader::with_capacity(BUFFER, stream));
        let mut archive = Archive { files: HashMap::new(), links: HashMap::new() };
        let mut space = ingest.space()?;
        let mut buffer = vec![0; BUFFER];
        while let Some(entry) = reader.next_entry()? {
            let name = components(&entry.path)?.join(&b'/');
            if archive.files.len() + archive.links.len() >= MAX_FILES {
                return Err(Error::TooLarge { what: "image archive".into(), limit: format!("{MAX_FILES} files") });
            }
            match entry.kind {
                Kind::Dir => {}
                Kind::Symlink => {
                    let above = name.iter().rposition(|b| *b == b'/').map_or(&b""[..], |at| &name[..at]);
                    let target = if entry.link.starts_with(b"/") { entry.link.clone() } else { [above, b"/", &entry.link].concat() };
                    archive.links.insert(name, clean(&target));
                }
                Kind::Link => {
                    archive.links.insert(name, clean(&entry.link));
                }
                Kind::File if entry.sparse.is_none() => {
                    space.announce(entry.size)?;
                    let path = ingest.spool_path();
                    let file = File::create_new(&path).at("create", path.display())?;
                    let mut sink = Hashing::new(file, ingest.limits().max_layer_size, "file of an image archive");
                    loop {
                        let got = reader.read_data(&mut buffer)?;
                        if got == 0 {
                            break;
                        }
                        sink.write_all(&buffer[..got]).at("write", path.display())?;
                        space.wrote(got as u64)?;
                    }
                    let (digest, size, _) = sink.finish();
                    if let Some(before) = archive.files.insert(name, Spooled { path, digest, size }) {
                        std::fs::remove_file(&before.path).at("remove", before.path.display())?;
                    }
                }
                _ => return Err(Error::entry(&entry.path, "an image archive holds plain files only")),
            }
        }
        Ok(archive)
    }

    fn file(&self, name: &[u8]) -> Option<&Spooled> {
        let mut name = clean(name);
        // A link may point to a link, not in a circle.
        for _ in 0..8 {
            if let Some(file) = self.files.get(&name) {
                return Some(file);
            }
            name.clone_from(self.links.get(&name)?);
        }
        None
    }

    fn read(&self, name: &[u8]) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.file(name) else { return Ok(None) };
        if file.size > MAX_METADATA {
            return Err(Error::TooLarge { what: printable(name), limit: "4 MiB".into() });
        }
        Ok(Some(std::fs::read(&file.path).at("read", printable(name))?))
    }

    /// A manifest or config by its descriptor.
    fn read_blob(&self, descriptor: &Descriptor, what: &str) -> Result<Vec<u8>> {
        let bytes =
            self.read(&blob_name(&descriptor.digest))?.ok_or_else(|| invalid(format!("{what} {} is missing", descriptor.digest)))?;
        let found = Digest::of(&bytes);
        if found != descriptor.digest {
            return Err(Error::DigestMismatch { what: what.into(), expected: descriptor.digest.clone(), found });
        }
        if bytes.len() as u64 != descriptor.size {
            return Err(invalid(format!(
                "{what} {} has {} bytes, its descriptor says {}",
                descriptor.digest,
                bytes.len(),
                descriptor.size
            )));
        }
        Ok(bytes)
    }

    fn images(&self) -> Result<Vec<Described>> {
        if let Some(bytes) = self.read(b"manifest.json")? {
            return self.docker_images(&bytes);
        }
        let Some(bytes) = self.read(b"index.json")? else {
            return Err(invalid("it has neither manifest.json nor index.json"));
        };
        let Document::Index(index) = manifest::parse("index.json", &bytes)? else {
            return Err(invalid("index.json is not an index"));
        };
        self.oci_images(&index.manifests)
    }

    fn docker_images(&self, bytes: &[u8]) -> Result<Vec<Described>> {
        let items: Vec<DockerItem> = serde_json::from_slice(bytes).map_err(|e| Error::invalid("manifest.json", e.to_string()))?;
        let manifests = self.manifests_of_layout();
        let mut images = Vec::new();
        for item in items {
            let config = self.read(item.config.as_bytes())?.ok_or_else(|| invalid(format!("config {:?} is missing", item.config)))?;
            let id = Digest::of(&config);
            check_named(&item.config, &id)?;
            check_count(item.layers.len())?;
            let parsed = ImageConfig::parse(&config)?;
            if parsed.rootfs.diff_ids.len() != item.layers.len() {
                return Err(invalid(format!("it has {} layers, its config names {}", item.layers.len(), parsed.rootfs.diff_ids.len())));
            }
            let manifest = manifests.get(&id);
            let mut layers = Vec::new();
            for (at, name) in item.layers.iter().enumerate() {
                let file = self.file(name.as_bytes()).ok_or_else(|| invalid(format!("layer {name:?} is missing")))?;
                check_named(name, &file.digest)?;
                let descriptor = manifest.and_then(|(manifest, _, _)| manifest.layers.get(at)).filter(|d| d.digest == file.digest);
                let expected = Expected {
                    digest: Some(file.digest.clone()),
                    size: Some(file.size),
                    diff_id: Some(parsed.rootfs.diff_ids[at].clone()),
                    media_type: descriptor.map(|d| d.media_type.clone()).filter(|t| !t.is_empty()),
                };
                layers.push((name.clone().into_bytes(), expected));
            }
            // The layout's manifest is the image's only if it speaks of exactly these files.
            let manifest = manifest
                .filter(|(manifest, _, _)| {
                    manifest.layers.len() == layers.len()
                        && manifest
                            .layers
                            .iter()
                            .zip(&layers)
                            .all(|(d, (_, e))| Some(&d.digest) == e.digest.as_ref() && Some(d.size) == e.size)
                })
                .map(|(_, bytes, media_type)| (bytes.clone(), media_type.clone()));
            let references = item.repo_tags.iter().map(|tag| ImageRef::parse(tag).map(|r| r.tagged())).collect::<Result<_, _>>()?;
            images.push(Described { config, manifest, layers, references });
        }
        Ok(images)
    }

    /// Newer docker archives are OCI layouts as well: their manifests, by the image's id. What is not valid there does
    /// not count.
    fn manifests_of_layout(&self) -> HashMap<Digest, (Manifest, Vec<u8>, String)> {
        let mut found = HashMap::new();
        let index = match self.read(b"index.json") {
            Ok(Some(bytes)) => manifest::parse("index.json", &bytes),
            _ => return found,
        };
        let Ok(Document::Index(index)) = index else { return found };
        let mut pending: Vec<(usize, Descriptor)> = index.manifests.into_iter().map(|d| (0, d)).collect();
        let mut visited = 0;
        while let Some((depth, descriptor)) = pending.pop() {
            visited += 1;
            if visited > 1000 {
                break;
            }
            let Ok(bytes) = self.read_blob(&descriptor, "manifest") else { continue };
            match manifest::parse("manifest", &bytes) {
                Ok(Document::Manifest(manifest)) => {
                    let media_type = if descriptor.media_type.is_empty() { OCI_MANIFEST.into() } else { descriptor.media_type };
                    found.insert(manifest.config.digest.clone(), (manifest, bytes, media_type));
                }
                Ok(Document::Index(index)) if depth < MAX_NESTING => pending.extend(index.manifests.into_iter().map(|d| (depth + 1, d))),
                _ => {}
            }
        }
        found
    }

    fn oci_images(&self, descriptors: &[Descriptor]) -> Result<Vec<Described>> {
        let host = Platform::host();
        let candidates: Vec<&Descriptor> = descriptors.iter().filter(|d| !d.is_attestation()).collect();
        let runs = |d: &Descriptor| d.platform.as_ref().and_then(|p| p.parse()).is_none_or(|p| host.runs(&p));
        // Images for other machines are left out, unless there are no others.
        let some_run = candidates.iter().any(|d| runs(d));
        let mut images = Vec::new();
        for descriptor in candidates.into_iter().filter(|d| !some_run || runs(d)) {
            let (bytes, manifest, media_type) = self.resolve(descriptor, &host, 0)?;
            let references = match name_of(descriptor)? {
                Some(reference) => vec![reference],
                None => Vec::new(),
            };
            images.push(self.oci_image(bytes, &manifest, media_type, references)?);
        }
        if images.is_empty() {
            return Err(invalid("it holds no image"));
        }
        Ok(images)
    }

    /// The manifest a descriptor leads to; of an index the one for this host.
    fn resolve(&self, descriptor: &Descriptor, host: &Platform, depth: usize) -> Result<(Vec<u8>, Manifest, String)> {
        if depth > MAX_NESTING {
            return Err(invalid("its indexes are nested too deep"));
        }
        let bytes = self.read_blob(descriptor, "manifest")?;
        match manifest::parse(&format!("manifest {}", descriptor.digest), &bytes)? {
            Document::Manifest(manifest) => {
                let media_type = [&descriptor.media_type, &manifest.media_type].into_iter().find(|t| !t.is_empty()).cloned();
                Ok((bytes, manifest, media_type.unwrap_or_else(|| OCI_MANIFEST.into())))
            }
            Document::Index(index) => {
                let candidates: Vec<&Descriptor> = index.manifests.iter().filter(|d| !d.is_attestation()).collect();
                let platform = |d: &Descriptor| d.platform.as_ref().and_then(|p| p.parse());
                // An exact match before one that merely runs; only those that are in the archive.
                let present = |d: &&&Descriptor| self.file(&blob_name(&d.digest)).is_some();
                let exact = candidates
                    .iter()
                    .filter(present)
                    .find(|d| platform(d).is_some_and(|p| p.os == host.os && p.architecture == host.architecture));
                let close = || candidates.iter().filter(present).find(|d| platform(d).is_none_or(|p| host.runs(&p)));
                let any = || candidates.iter().find(present);
                let chosen = exact
                    .or_else(close)
                    .or_else(any)
                    .ok_or_else(|| invalid(format!("index {} has no image for {host}", descriptor.digest)))?;
                self.resolve(chosen, host, depth + 1)
            }
        }
    }

    fn oci_image(&self, bytes: Vec<u8>, manifest: &Manifest, media_type: String, references: Vec<ImageRef>) -> Result<Described> {
        let config = self.read_blob(&manifest.config, "config")?;
        let parsed = ImageConfig::parse(&config)?;
        if parsed.rootfs.diff_ids.len() != manifest.layers.len() {
            return Err(invalid(format!(
                "its manifest has {} layers, its config names {}",
                manifest.layers.len(),
                parsed.rootfs.diff_ids.len()
            )));
        }
        let layer = |(descriptor, diff_id): (&Descriptor, &Digest)| {
            let expected = Expected {
                digest: Some(descriptor.digest.clone()),
                size: Some(descriptor.size),
                diff_id: Some(diff_id.clone()),
                media_type: Some(descriptor.media_type.clone()).filter(|t| !t.is_empty()),
            };
            (blob_name(&descriptor.digest), expected)
        };
        let layers = manifest.layers.iter().zip(&parsed.rootfs.diff_ids).map(layer).collect();
        Ok(Described { config, manifest: Some((bytes, media_type)), layers, references })
    }

    fn take_in(&self, ingest: &Ingest, image: Described, progress: Report<'_>) -> Result<NewImage> {
        let mut layers: Vec<LayerBlob> = Vec::new();
        for (name, expected) in image.layers {
            let file = self.file(&name).ok_or_else(|| invalid(format!("layer {:?} is missing", printable(&name))))?;
            if let Some(digest) = expected.digest.as_ref().filter(|digest| **digest != file.digest) {
                return Err(Error::DigestMismatch {
                    what: format!("layer {:?}", printable(&name)),
                    expected: digest.clone(),
                    found: file.digest.clone(),
                });
            }
            layers.push(ingest.spooled_layer(&file.path, &file.digest, &expected, progress)?);
        }
        Ok(NewImage { config: image.config, manifest: image.manifest, index: None, layers, references: image.references })
    }
}

fn blob_name(digest: &Digest) -> Vec<u8> {
    format!("blobs/sha256/{}", digest.hex()).into_bytes()
}

/// A name in the archive without `.`, `..` and extra slashes.
fn clean(name: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
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
