//! What travels when an image is pushed.
//!
//! An image that came with a manifest and compressed layers goes out as it came. Of any other the plain layers are
//! compressed, once: from then on the image consists of these blobs and of the manifest that names them. The same layer
//! gives the same blob, on every host.

use crate::deflate::gzip;
use crate::error::{At, Error, Result};
use crate::index::{ImageRecord, LayerBlob};
use crate::ingest::{Ingest, Pins};
use crate::manifest::{self, OCI_LAYER};
use crate::store::Store;
use crate::stream::Hashing;
use naru_types::Digest;
use std::cmp::Reverse;
use std::fs::File;
use std::sync::Arc;

/// An image as it is pushed. Its blobs stay in the store as long as this value lives.
#[derive(Debug)]
pub struct Outgoing {
    /// The manifest.
    pub manifest: Vec<u8>,
    /// Its media type.
    pub media_type: String,
    /// The config's digest and bytes.
    pub config: (Digest, Vec<u8>),
    /// The layers, lowest first; their bytes are [`Store::blob`].
    pub layers: Vec<LayerBlob>,
    _pins: Pins,
}

impl Store {
    /// What travels when the image is pushed. Each layer is told as soon as it can go, so that its way to the registry and the
    /// compression of the next take one time; its blob stays until the call returns, and then as long as what it returns.
    pub fn outgoing(self: &Arc<Self>, id: &Digest, ready: &mut dyn FnMut(&LayerBlob)) -> Result<Outgoing> {
        let pins = Pins::new(self);
        let record = pins.pin(|index| match index.images.get(id).filter(|image| !image.record.hidden) {
            Some(image) => {
                let blobs = image.record.layers.iter().flat_map(|layer| [layer.digest.clone(), layer.diff_id.clone()]);
                (blobs.chain([id.clone(), image.record.manifest.clone()]).collect(), Some(image.record.clone()))
            }
            None => (Vec::new(), None),
        });
        let mut record = record.ok_or_else(|| Error::NoSuchImage { query: id.to_string() })?;
        if record.layers.iter().any(|layer| !layer.is_compressed()) {
            record = self.compress_layers(id, &record, &pins, ready)?;
        } else {
            record.layers.iter().for_each(ready);
        }
        Ok(Outgoing {
            manifest: self.read_metadata(&record.manifest)?,
            media_type: record.manifest_type,
            config: (id.clone(), self.read_metadata(id)?),
            layers: record.layers,
            _pins: pins,
        })
    }

    /// Gives the image compressed layers and a manifest of them.
    fn compress_layers(
        self: &Arc<Self>,
        id: &Digest,
        record: &ImageRecord,
        pins: &Pins,
        ready: &mut dyn FnMut(&LayerBlob),
    ) -> Result<ImageRecord> {
        let ingest = self.ingest()?;
        let mut layers = record.layers.clone();
        // What can go goes first, and of what has to be compressed the largest: its way takes the longest.
        let mut order: Vec<usize> = (0..layers.len()).collect();
        order.sort_by_key(|at| (!layers[*at].is_compressed()).then_some(Reverse(layers[*at].size)));
        for at in order {
            layers[at] = self.compressed(&layers[at], &ingest, pins)?;
            ready(&layers[at]);
        }
        let manifest = manifest::compose(id, self.read_metadata(id)?.len() as u64, &layers);
        pins.pin(|_| (layers.iter().map(|layer| layer.digest.clone()).chain([Digest::of(&manifest)]).collect(), ()));
        ingest.recompose(id, manifest, layers)
    }

    /// The layer as it travels.
    fn compressed(self: &Arc<Self>, layer: &LayerBlob, ingest: &Ingest, pins: &Pins) -> Result<LayerBlob> {
        if layer.is_compressed() {
            return Ok(LayerBlob { media_type: manifest::oci_layer_type(&layer.media_type), ..layer.clone() });
        }
        let known = pins.pin(|index| {
            let all = index.images.values().flat_map(|image| &image.record.layers).chain(index.arrived.values());
            let found = all.filter(|other| other.diff_id == layer.diff_id && other.is_compressed()).min_by_key(|other| &other.digest);
            (found.iter().map(|other| other.digest.clone()).collect(), found.cloned())
        });
        if let Some(known) = known {
            return Ok(LayerBlob { media_type: manifest::oci_layer_type(&known.media_type), ..known });
        }
        let path = ingest.spool_path();
        let (digest, size) = self.compress(&layer.digest, &path)?;
        let blob = LayerBlob { diff_id: layer.diff_id.clone(), digest, size, media_type: format!("{OCI_LAYER}+gzip") };
        ingest.adopt(&path, &blob)?;
        Ok(blob)
    }

    /// Writes the gzip of a plain blob to `path`.
    fn compress(&self, digest: &Digest, path: &std::path::Path) -> Result<(Digest, u64)> {
        let file = File::create_new(path).at("create", path.display())?;
        let sink = Hashing::new(file, u64::MAX, "layer");
        let mut source = Hashing::new(self.blob(digest)?, u64::MAX, "layer");
        let (packed, size, _) = gzip(&mut source, sink)?.finish();
        let (found, ..) = source.finish();
        if found != *digest {
            return Err(Error::DigestMismatch { what: "a damaged layer in the store".into(), expected: digest.clone(), found });
        }
        Ok((packed, size))
    }
}
