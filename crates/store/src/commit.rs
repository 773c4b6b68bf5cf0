//! New images made here: of a container's changes, and of a tar stream.

use crate::config::{HistoryEntry, ImageConfig};
use crate::diff::write_layer;
use crate::error::{Error, Result};
use crate::ingest::{Expected, NewImage};
use crate::patch::ConfigPatch;
use crate::pipeline::through;
use crate::store::Store;
use jiff::Timestamp;
use naru_types::{ContainerId, Digest, ImageRef, Platform};
use std::io::Read;
use std::os::fd::AsFd;
use std::sync::Arc;

/// Settings of a commit.
#[derive(Debug, Clone, Default)]
pub struct CommitOptions {
    /// Who made it.
    pub author: String,
    /// Why.
    pub comment: String,
    /// The command the container ran, for the history.
    pub created_by: String,
    /// Its name.
    pub reference: Option<ImageRef>,
}

/// Settings of an import.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// Its name.
    pub reference: Option<ImageRef>,
    /// Changes of the empty config.
    pub changes: ConfigPatch,
    /// Why, for the history.
    pub message: String,
    /// The platform; the host's when absent.
    pub platform: Option<Platform>,
}

/// Now, as image configs write it: RFC 3339 with nanoseconds.
fn now() -> String {
    Timestamp::now().to_string()
}

impl Store {
    /// Makes an image of what a container changed. `config` is the new image's; layers and history of `base` are put
    /// before those of the commit.
    pub fn commit(
        self: &Arc<Self>,
        container: &ContainerId,
        base: Option<&Digest>,
        config: ImageConfig,
        options: CommitOptions,
    ) -> Result<Digest> {
        let changes = self.changes(container, None)?;
        let top = self.top(&self.snapshot(container)?)?;
        let ingest = self.ingest()?;
        let base = base.map(|id| self.image(id)).transpose()?;
        let mut layers = Vec::new();
        let mut new = ImageConfig { config: config.config, ..ImageConfig::default() };
        if let Some(base) = &base {
            for blob in &base.blobs {
                let layer = ingest.known_layer(&blob.digest, &blob.diff_id);
                // Removed a moment ago, by someone else.
                layers.push(layer.ok_or_else(|| Error::NoSuchImage { query: base.id.to_string() })?);
            }
            new.history.clone_from(&base.config.history);
            new.rootfs.diff_ids.clone_from(&base.config.rootfs.diff_ids);
            new.os.clone_from(&base.config.os);
            new.architecture.clone_from(&base.config.architecture);
            new.variant.clone_from(&base.config.variant);
        } else {
            set_platform(&mut new, &Platform::host());
        }
        // As Docker: also a commit without changes gets a layer, which then is empty.
        let layer = through(|sink| write_layer(&changes, top.as_fd(), sink), |source| ingest.layer(source, &Expected::default(), &|_| {}))?;
        new.rootfs.diff_ids.push(layer.diff_id.clone());
        layers.push(layer);
        let created = now();
        new.history.push(HistoryEntry {
            created: Some(created.clone()),
            created_by: options.created_by,
            author: options.author.clone(),
            comment: options.comment.clone(),
            empty_layer: false,
        });
        new.created = Some(created);
        new.author = options.author;
        new.comment = options.comment;
        new.container = container.to_string();
        let references = options.reference.into_iter().map(|reference| reference.tagged()).collect();
        ingest.commit_child(NewImage { config: new.to_json(), layers, references, ..NewImage::default() }, base.map(|base| base.id))
    }

    /// Makes an image with one layer of a tar stream, plain or compressed.
    pub fn import(self: &Arc<Self>, source: &mut dyn Read, options: ImportOptions) -> Result<Digest> {
        let mut config = ImageConfig::default();
        options.changes.apply(&mut config.config)?;
        let ingest = self.ingest()?;
        let layer = ingest.layer(source, &Expected::default(), &|_| {})?;
        set_platform(&mut config, &options.platform.unwrap_or_else(Platform::host));
        config.rootfs.diff_ids.push(layer.diff_id.clone());
        config.created = Some(now());
        config.history.push(HistoryEntry { created: config.created.clone(), comment: options.message.clone(), ..HistoryEntry::default() });
        config.comment = options.message;
        let references = options.reference.into_iter().map(|reference| reference.tagged()).collect();
        ingest.commit(NewImage { config: config.to_json(), layers: vec![layer], references, ..NewImage::default() })
    }
}

fn set_platform(config: &mut ImageConfig, platform: &Platform) {
    config.os.clone_from(&platform.os);
    config.architecture.clone_from(&platform.architecture);
    config.variant = platform.variant.clone().unwrap_or_default();
}
