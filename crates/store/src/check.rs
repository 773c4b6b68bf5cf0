//! Is everything here that the records speak of, and is it still what it was?
//!
//! The quick check looks whether files are there and have their sizes. The deep one reads all: every blob must give its
//! digest, and every layer must be what its blob unpacks to. It may run beside everything else: what it looks at is pinned.

use crate::blobs::digest_of_file;
use crate::compare::{Difference, compare};
use crate::error::{At, Error, Result};
use crate::index::LayerBlob;
use crate::ingest::{Pins, random_name};
use crate::limits::Space;
use crate::manifest::OCI_CONFIG;
use crate::pipeline::{self, Keep, Outcome, Plan};
use crate::recipe::aside_of;
use crate::root::open_dir;
use crate::store::Store;
use naru_types::Digest;
use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damage {
    /// A config, manifest or index is missing or has other bytes.
    Metadata {
        /// Its digest.
        digest: Digest,
        /// Its media type.
        media_type: String,
        /// The image that needs it.
        image: Digest,
        /// What was found.
        reason: String,
    },
    /// The blob of a layer is missing or has other bytes.
    Blob {
        /// The layer.
        layer: LayerBlob,
        /// What was found.
        reason: String,
    },
    /// An unpacked layer is missing or differs from its blob.
    Layer {
        /// The layer.
        layer: LayerBlob,
        /// What was found.
        reason: String,
        /// The files that differ; of very many only the first.
        differences: Vec<Difference>,
        /// Its blob is sound and does not depend on these files.
        repairable: bool,
    },
    /// A record of the database cannot be used; the image is not listed.
    Record {
        /// The image.
        image: Digest,
        /// What was found.
        reason: String,
    },
    /// A file that no record speaks of.
    Orphan {
        /// Where, below the store's directory.
        path: PathBuf,
    },
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::Metadata { digest, image, reason, .. } => write!(f, "{digest} of image {}: {reason}", image.short()),
            Damage::Blob { layer, reason } => write!(f, "blob {}: {reason}", layer.digest),
            Damage::Layer { layer, reason, .. } => write!(f, "layer {}: {reason}", layer.diff_id),
            Damage::Record { image, reason } => write!(f, "record of image {}: {reason}", image.short()),
            Damage::Orphan { path } => write!(f, "{}: nothing needs it", path.display()),
        }
    }
}

/// A directory in `staging` that goes when this does.
pub(crate) struct Scratch {
    store: Arc<Store>,
    pub path: PathBuf,
}

impl Scratch {
    pub fn new(store: &Arc<Store>) -> Result<Scratch> {
        let path = store.root.join("staging").join(random_name());
        std::fs::create_dir(&path).at("create", path.display())?;
        Ok(Scratch { store: Arc::clone(store), path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = self.store.discard(&self.path) {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot discard a staging directory, the next start does");
        }
    }
}

/// What the records speak of.
struct Recorded {
    /// Digest, media type, image.
    metadata: BTreeMap<Digest, (String, Digest)>,
    layers: Vec<LayerBlob>,
}

impl Store {
    /// Looks for damage; the deep check reads everything.
    pub fn check(self: &Arc<Self>, deep: bool) -> Result<Vec<Damage>> {
        let pins = Pins::new(self);
        let recorded = pins.pin(|index| {
            let mut recorded = Recorded { metadata: BTreeMap::new(), layers: Vec::new() };
            for (id, image) in &index.images {
                let record = &image.record;
                recorded.metadata.insert(id.clone(), (OCI_CONFIG.to_owned(), id.clone()));
                recorded.metadata.insert(record.manifest.clone(), (record.manifest_type.clone(), id.clone()));
                for index in &record.indexes {
                    recorded.metadata.insert(index.digest.clone(), (index.media_type.clone(), id.clone()));
                }
                for layer in &record.layers {
                    if !recorded.layers.iter().any(|known| (&known.digest, &known.diff_id) == (&layer.digest, &layer.diff_id)) {
                        recorded.layers.push(layer.clone());
                    }
                }
            }
            let layers = recorded.layers.iter().flat_map(|layer| [layer.digest.clone(), layer.diff_id.clone()]);
            (recorded.metadata.keys().cloned().chain(layers).collect(), recorded)
        });
        let mut damage = self.records_without_image()?;
        for (digest, (media_type, image)) in recorded.metadata {
            if let Err(error) = self.read_metadata(&digest) {
                damage.push(Damage::Metadata { digest, media_type, image, reason: text(&error) });
            }
        }
        for layer in recorded.layers {
            let found = if deep { self.check_layer_deep(layer)? } else { self.check_layer(layer) };
            damage.extend(found);
        }
        damage.extend(self.orphans()?);
        Ok(damage)
    }

    /// Images of the database that could not be read when the store was opened, or whose layers have no record.
    fn records_without_image(&self) -> Result<Vec<Damage>> {
        let database = self.database.lock().expect("a database write does not panic");
        let index = self.index.read().expect("the index is not poisoned");
        let mut damage: Vec<Damage> = Vec::new();
        for image in index.broken.keys() {
            damage.push(Damage::Record { image: image.clone(), reason: "its config cannot be read".into() });
        }
        for (image, record) in database.images()? {
            if index.broken.contains_key(&image) {
                continue;
            }
            if !index.images.contains_key(&image) {
                damage.push(Damage::Record { image, reason: "it is in the database only".into() });
            } else if let Some(layer) = record.layers.iter().find(|layer| !index.layers.contains_key(&layer.diff_id)) {
                damage.push(Damage::Record { image, reason: format!("its layer {} has no record", layer.diff_id) });
            }
        }
        Ok(damage)
    }

    fn check_layer(&self, layer: LayerBlob) -> Option<Damage> {
        let size = std::fs::metadata(self.blob_path(&layer.digest)).map(|blob| blob.len());
        if !self.layer_path(&layer.diff_id).is_dir() {
            let repairable = size.is_ok() || self.packed_path(&layer.digest).exists();
            return Some(Damage::Layer { layer, reason: "it is missing".into(), differences: Vec::new(), repairable });
        }
        match size {
            Ok(size) if size != layer.size => {
                let reason = format!("it has {size} bytes, {} are recorded", layer.size);
                Some(Damage::Blob { layer, reason })
            }
            Err(_) if !self.has_blob(&layer.digest) => Some(Damage::Blob { layer, reason: "it is missing".into() }),
            _ => None,
        }
    }

    fn check_layer_deep(self: &Arc<Self>, layer: LayerBlob) -> Result<Option<Damage>> {
        if let Some(damage) = self.check_layer(layer.clone()) {
            return Ok(Some(damage));
        }
        // A recipe plays back what the files are now: then it is the files that are wrong.
        let made_of_files = !self.blob_path(&layer.digest).exists() && self.recipe_path(&layer.digest).exists();
        let scratch = Scratch::new(self)?;
        let unpacked = scratch.path.join("layer");
        let outcome = match self.unpack_blob(&layer, &unpacked) {
            Ok(outcome) => outcome,
            Err(error @ (Error::NoSpace { .. } | Error::Io { action: "create" | "start the thread", .. })) => return Err(error),
            Err(error) if made_of_files => {
                let reason = text(&error);
                return Ok(Some(Damage::Layer { layer, reason, differences: Vec::new(), repairable: false }));
            }
            Err(error) => return Ok(Some(Damage::Blob { layer, reason: text(&error) })),
        };
        if outcome.digest != layer.digest || outcome.diff_id != layer.diff_id {
            let found = if outcome.digest == layer.digest { outcome.diff_id } else { outcome.digest };
            let reason = format!("its content has digest {found}");
            return Ok(Some(if made_of_files {
                Damage::Layer { layer, reason, differences: Vec::new(), repairable: false }
            } else {
                Damage::Blob { layer, reason }
            }));
        }
        let open = |path: &Path| open_dir(path).at("open", path.display());
        let differences = compare(open(&self.layer_path(&layer.diff_id))?.as_fd(), open(&unpacked)?.as_fd())?;
        if differences.count == 0 {
            return Ok(None);
        }
        let first = differences.named.first().map(|first| crate::error::printable(&first.path)).unwrap_or_default();
        let reason = format!("{} files are not as in its blob, the first is {first}", differences.count);
        Ok(Some(Damage::Layer { layer, reason, differences: differences.named, repairable: true }))
    }

    /// Unpacks a layer's blob to a new directory.
    pub(crate) fn unpack_blob(&self, layer: &LayerBlob, target: &Path) -> Result<Outcome> {
        let mut blob = self.blob(&layer.digest)?;
        self.unpack_stream(&mut blob, Keep::Nothing, target)
    }

    /// Unpacks a stream to a new directory; the recipe of a plain one lies beside it with the extension `parts`.
    pub(crate) fn unpack_stream(&self, source: &mut dyn std::io::Read, keep: Keep<'_>, target: &Path) -> Result<Outcome> {
        std::fs::create_dir(target).at("create", target.display())?;
        rustix::fs::chmodat(rustix::fs::CWD, target, rustix::fs::Mode::from_raw_mode(0o755), rustix::fs::AtFlags::empty())
            .at("prepare", target.display())?;
        let space = || Space::new(&self.root, self.limits);
        let packed = target.with_extension("parts");
        let plan = Plan { keep, packed: &packed, target: Some((target, space()?)), space: space()?, limits: self.limits };
        pipeline::run(source, plan, &mut |_| {})
    }

    /// Blobs and layers that nothing speaks of.
    fn orphans(&self) -> Result<Vec<Damage>> {
        // Nothing is put in place or collected meanwhile.
        let _order = self.database.lock().expect("a database write does not panic");
        let (blobs, layers) = {
            let index = self.index.read().expect("the index is not poisoned");
            (index.live_blobs(), index.live_layers())
        };
        let mut orphans = Vec::new();
        for (directory, live) in [("blobs/sha256", &blobs), ("layers", &layers)] {
            for name in self.names_in(directory)? {
                if !digest_of_file(&name).is_some_and(|digest| live.contains(&digest)) {
                    orphans.push(Damage::Orphan { path: Path::new(directory).join(name) });
                }
            }
        }
        Ok(orphans)
    }

    /// Puts a recipe and what belongs to it in place of whatever keeps the blob.
    pub(crate) fn replace_recipe(&self, digest: &Digest, recipe: &Path) -> Result<()> {
        let to = self.recipe_path(digest);
        for old in [self.packed_path(digest), aside_of(&to), to.clone()] {
            self.discard(&old)?;
        }
        if aside_of(recipe).exists() {
            std::fs::rename(aside_of(recipe), aside_of(&to)).at("put in place", to.display())?;
        }
        std::fs::rename(recipe, &to).at("put in place", to.display())
    }
}

/// An error with its causes in one line.
pub(crate) fn text(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
