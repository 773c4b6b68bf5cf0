//! An image and its variants for other platforms: what the index it came through lists, and what of it is here.

use crate::error::{At, Result};
use crate::images::Image;
use crate::index::{IndexBlob, LayerBlob};
use crate::manifest::{self, Descriptor, Document};
use crate::store::Store;
use naru_types::{Digest, Platform};

/// A descriptor: what a manifest or index is called by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Media type.
    pub media_type: String,
    /// Digest of its bytes.
    pub digest: Digest,
    /// Their number.
    pub size: u64,
}

/// What a manifest of an index is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VariantKind {
    /// An image for a platform; the platform is missing when nothing names it.
    Image {
        /// As the config says when it is here, else as the index does.
        platform: Option<Platform>,
    },
    /// What a builder says of an image.
    Attestation {
        /// The manifest of that image.
        of: Option<Digest>,
    },
}

/// One manifest of those an image has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    /// The manifest.
    pub target: Target,
    /// What it is for.
    pub kind: VariantKind,
    /// The image, when it is here.
    pub image: Option<Digest>,
    /// Bytes of the blobs that are here: manifest, config, layers as they travel.
    pub content_size: u64,
    /// What of that is kept beside the unpacked layers: of a layer that travels plain only how to make it of its files again.
    pub stored_size: u64,
    /// Bytes of the unpacked layers that are here.
    pub unpacked_size: u64,
}

impl Store {
    /// What the image's name stands for in a registry: the index it came through, or its manifest.
    pub fn target(&self, image: &Image) -> Result<Target> {
        match image.indexes.last() {
            Some(index) => Ok(Target { media_type: index.media_type.clone(), digest: index.digest.clone(), size: index.size }),
            None => self.manifest_target(image),
        }
    }

    fn manifest_target(&self, image: &Image) -> Result<Target> {
        let size = std::fs::metadata(self.blob_path(&image.manifest)).at("look at blob", &image.manifest)?.len();
        Ok(Target { media_type: image.manifest_type.clone(), digest: image.manifest.clone(), size })
    }

    /// The manifests of an image: those of the index it came through, in its order, or its own.
    pub fn variants_of(&self, image: &Image) -> Result<Vec<Variant>> {
        let all = self.list();
        for blob in image.indexes.iter().rev() {
            let listed = self.listed(blob)?;
            if listed.iter().any(|descriptor| descriptor.digest == image.manifest) {
                let here = |descriptor: &Descriptor| all.iter().find(|image| image.manifest == descriptor.digest);
                return listed.iter().map(|descriptor| self.variant(descriptor, here(descriptor))).collect();
            }
        }
        let target = self.manifest_target(image)?;
        Ok(vec![self.variant(&Descriptor::new(target.media_type, target.digest, target.size), Some(image))?])
    }

    fn variant(&self, descriptor: &Descriptor, image: Option<&Image>) -> Result<Variant> {
        let media_type = image.map_or_else(|| descriptor.media_type.clone(), |image| image.manifest_type.clone());
        let kind = if descriptor.is_attestation() {
            let of = descriptor.annotations.get("vnd.docker.reference.digest").and_then(|text| text.parse().ok());
            VariantKind::Attestation { of }
        } else {
            let named = || descriptor.platform.as_ref().and_then(|platform| platform.parse());
            VariantKind::Image { platform: image.map(|image| image.config.platform()).or_else(named) }
        };
        let sum = |size: &dyn Fn(&LayerBlob) -> u64| {
            image.map_or(0, |image| image.blobs.iter().map(size).sum::<u64>() + image.config.raw().len() as u64 + descriptor.size)
        };
        let stored = |layer: &LayerBlob| std::fs::metadata(self.blob_path(&layer.digest)).map_or(0, |blob| blob.len());
        let kept = |layer: &LayerBlob| if layer.is_compressed() { layer.size } else { stored(layer).min(layer.size) };
        Ok(Variant {
            target: Target { media_type, digest: descriptor.digest.clone(), size: descriptor.size },
            kind,
            image: image.map(|image| image.id.clone()),
            content_size: sum(&|layer| layer.size),
            stored_size: sum(&kept),
            unpacked_size: image.map_or(0, |image| image.size),
        })
    }

    /// For each index an image was found through, the images of it that are here.
    pub fn siblings(&self, image: &Image) -> Result<Vec<(IndexBlob, Vec<Image>)>> {
        let all = self.list();
        let mut found = Vec::new();
        for blob in &image.indexes {
            let listed = self.listed(blob)?;
            let here = |image: &&Image| listed.iter().any(|descriptor| descriptor.digest == image.manifest);
            found.push((blob.clone(), all.iter().filter(here).cloned().collect()));
        }
        Ok(found)
    }

    fn listed(&self, blob: &IndexBlob) -> Result<Vec<Descriptor>> {
        let bytes = self.read_metadata(&blob.digest)?;
        Ok(match manifest::parse(&format!("index {}", blob.digest), &bytes)? {
            Document::Index(index) => index.manifests,
            Document::Manifest(_) => Vec::new(),
        })
    }
}
