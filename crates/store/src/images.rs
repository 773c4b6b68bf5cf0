//! Questions about images and their names, removal, and the collection of what nothing uses any more.

use crate::blobs::digest_of_file;
use crate::config::{HistoryEntry, ImageConfig};
use crate::error::{Error, Result};
use crate::index::{Database, Index, IndexBlob, LayerBlob, StoredImage, Write, settled};
use crate::store::Store;
use jiff::Timestamp;
use naru_types::{ContainerId, Digest, ImageRef};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// An image.
#[derive(Debug, Clone)]
pub struct Image {
    /// Digest of the config.
    pub id: Digest,
    /// Its config; `config.raw()` are the bytes as they came.
    pub config: Arc<ImageConfig>,
    /// Names with tags.
    pub tags: Vec<ImageRef>,
    /// Names with digests.
    pub digests: Vec<ImageRef>,
    /// Size of all layers, unpacked.
    pub size: u64,
    /// When it was made, as its config says.
    pub created: Option<Timestamp>,
    /// Diff ids, lowest layer first.
    pub layers: Vec<Digest>,
    /// When it was last given a name here.
    pub last_tagged: Option<Timestamp>,
    /// The image it was committed from.
    pub parent: Option<Digest>,
    /// Digest of its manifest.
    pub manifest: Digest,
    /// Media type of its manifest.
    pub manifest_type: String,
    /// Indexes it was found through; their bytes are blobs.
    pub indexes: Vec<IndexBlob>,
    /// The layers as its manifest names them.
    pub blobs: Vec<LayerBlob>,
}

/// One line of an image's history.
#[derive(Debug, Clone, PartialEq)]
pub struct History {
    /// The step.
    pub entry: HistoryEntry,
    /// Size of the layer it made, 0 for none.
    pub size: u64,
    /// The image, on the newest step.
    pub id: Option<Digest>,
    /// Names of that image.
    pub tags: Vec<ImageRef>,
}

/// A container that uses an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUser {
    /// The container.
    pub id: ContainerId,
    /// True while it runs.
    pub running: bool,
}

/// How to remove an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RemoveOptions {
    /// Also when it has several names or a stopped container uses it.
    pub force: bool,
    /// Also remove parents without names (those of commits).
    pub prune: bool,
}

/// What a removal did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// The name is gone.
    Untagged(ImageRef),
    /// The image is gone.
    Deleted(Digest),
    /// A layer that no other image has in this place is gone; by its chain id, as Docker tells it.
    Layer(Digest),
}

/// Which images a prune takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PruneOptions {
    /// Only images without a tag.
    pub dangling_only: bool,
}

impl Index {
    fn image(&self, id: &Digest, stored: &StoredImage) -> Image {
        Image {
            id: id.clone(),
            tags: self.tags_of(id).cloned().collect(),
            digests: self.digests_of(id).cloned().collect(),
            size: stored.record.size,
            created: stored.config.created.as_deref().and_then(|text| text.parse().ok()),
            layers: stored.config.rootfs.diff_ids.clone(),
            last_tagged: stored.record.last_tagged,
            parent: stored.record.parent.clone(),
            manifest: stored.record.manifest.clone(),
            manifest_type: stored.record.manifest_type.clone(),
            indexes: stored.record.indexes.clone(),
            blobs: stored.record.layers.clone(),
            config: stored.config.clone(),
        }
    }

    /// The image a name or id means.
    fn resolve(&self, query: &str) -> Result<Digest> {
        let absent = || Error::NoSuchImage { query: query.to_owned() };
        let visible = |id: &Digest| self.images.get(id).is_some_and(|image| !image.record.hidden);
        if let Ok(id) = query.parse::<Digest>() {
            return if visible(&id) { Ok(id) } else { Err(absent()) };
        }
        let parsed = ImageRef::parse(query);
        if let Ok(reference) = &parsed {
            let found = match &reference.digest {
                Some(_) => self.digests.get(&ImageRef { tag: None, ..reference.clone() }),
                None => self.tags.get(&reference.tagged()),
            };
            if let Some(id) = found.filter(|id| visible(id)) {
                return Ok(id.clone());
            }
        }
        let Some(prefix) = id_prefix(query) else { return Err(parsed.err().map_or_else(absent, Error::Parse)) };
        let mut matches = self.images.keys().filter(|id| visible(id) && id.hex().starts_with(prefix));
        match (matches.next(), matches.count()) {
            (Some(id), 0) => Ok(id.clone()),
            (Some(_), more) => Err(Error::Ambiguous { prefix: query.to_owned(), count: more + 1 }),
            (None, _) => Err(absent()),
        }
    }

    /// True when an image that is listed was made of this one.
    fn has_children(&self, id: &Digest) -> bool {
        self.images.values().any(|image| !image.record.hidden && image.record.parent.as_ref() == Some(id))
    }

    /// The layers, the topmost first, that only this stack of them needs; by their chain ids.
    fn lonely_layers(&self, stack: &[Digest]) -> Vec<Digest> {
        let shared = |count: usize| self.images.values().any(|image| image.config.rootfs.diff_ids.starts_with(&stack[..count]));
        let below = (0..=stack.len()).rev().find(|count| *count == 0 || shared(*count)).unwrap_or(0);
        chain_ids(stack).into_iter().skip(below).rev().collect()
    }

    fn named_by_id(&self, query: &str, id: &Digest) -> bool {
        let by_name = ImageRef::parse(query).is_ok_and(|reference| {
            self.tags.get(&reference.tagged()) == Some(id) && reference.digest.is_none() || reference.digest.is_some()
        });
        !by_name
    }
}

/// The chain ids of layers, lowest first: what a layer is called together with those below it.
fn chain_ids(layers: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::new();
    for layer in layers {
        let next = chain.last().map_or_else(|| layer.clone(), |below| Digest::of(format!("{below} {layer}").as_bytes()));
        chain.push(next);
    }
    chain
}

/// The digits of a query that can be the start of an id.
fn id_prefix(query: &str) -> Option<&str> {
    let digits = query.strip_prefix("sha256:").unwrap_or(query);
    let hex = digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    ((1..=64).contains(&digits.len()) && hex).then_some(digits)
}

fn conflict(query: &str, force: &str, reason: String) -> Error {
    Error::Conflict { action: "delete", image: format!("{query} ({force})"), reason }
}

impl Store {
    /// All images, the newest first.
    pub fn list(&self) -> Vec<Image> {
        let index = self.index.read().expect("the index is not poisoned");
        let mut images: Vec<Image> =
            index.images.iter().filter(|(_, stored)| !stored.record.hidden).map(|(id, stored)| index.image(id, stored)).collect();
        images.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
        images
    }

    /// The image that `query` means: `name[:tag]`, `name@digest`, an id, or the first 4 to 64 digits of an id.
    pub fn find(&self, query: &str) -> Result<Image> {
        let index = self.index.read().expect("the index is not poisoned");
        let id = index.resolve(query)?;
        let stored = index.images.get(&id).expect("resolve returns ids of the index");
        Ok(index.image(&id, stored))
    }

    /// The image with this id; also one that was removed while a container uses it.
    pub fn image(&self, id: &Digest) -> Result<Image> {
        let index = self.index.read().expect("the index is not poisoned");
        let stored = index.images.get(id).ok_or_else(|| Error::NoSuchImage { query: id.to_string() })?;
        Ok(index.image(id, stored))
    }

    /// Gives an image a name; an image that had the name loses it.
    pub fn tag(&self, id: &Digest, reference: &ImageRef) -> Result<()> {
        let reference = settled(reference);
        let mut database = self.database.lock().expect("a database write does not panic");
        let mut record = {
            let index = self.index.read().expect("the index is not poisoned");
            let stored = index.images.get(id).filter(|stored| !stored.record.hidden);
            stored.ok_or_else(|| Error::NoSuchImage { query: id.to_string() })?.record.clone()
        };
        record.last_tagged = Some(Timestamp::now());
        database.write(&[Write::PutReference(&reference, id), Write::PutImage(id, &record)])?;
        let mut index = self.index.write().expect("the index is not poisoned");
        index.name(reference, id.clone());
        if let Some(stored) = index.images.get_mut(id) {
            stored.record = record;
        }
        Ok(())
    }

    /// Removes a name, and the image with its last name; the rules are Docker's. `in_use` tells which containers use an
    /// image; a removal by force leaves its files until the last of them is gone.
    pub fn remove(&self, query: &str, options: RemoveOptions, in_use: &dyn Fn(&Digest) -> Vec<ImageUser>) -> Result<Vec<Removed>> {
        let (id, untag, keep) = {
            let index = self.index.read().expect("the index is not poisoned");
            let id = index.resolve(query)?;
            let tags: Vec<ImageRef> = index.tags_of(&id).cloned().collect();
            let digests: Vec<ImageRef> = index.digests_of(&id).cloned().collect();
            let users = in_use(&id);
            if index.named_by_id(query, &id) {
                if index.has_children(&id) {
                    return Err(conflict(&id.short(), "cannot be forced", "image has dependent child images".into()));
                }
                let repositories: HashSet<String> = tags.iter().chain(&digests).map(ImageRef::familiar_name).collect();
                let several = tags.len() > 1 || repositories.len() > 1;
                if several && !options.force {
                    return Err(conflict(&id.short(), "must be forced", "image is referenced in multiple repositories".into()));
                }
                check_users(&id, &users, options.force)?;
                (id, tags.into_iter().chain(digests).collect::<Vec<_>>(), false)
            } else {
                let named = settled(&ImageRef::parse(query)?);
                let mut untag = vec![named.clone()];
                let other_tags = tags.iter().filter(|tag| **tag != named);
                // Without a tag of the repository its digests name nothing the user asked for.
                if named.tag.is_some() && !other_tags.clone().any(|tag| tag.familiar_name() == named.familiar_name()) {
                    untag.extend(digests.iter().filter(|d| d.familiar_name() == named.familiar_name()).cloned());
                }
                // A tag and the digest it came with are one name: neither goes while a container needs the image.
                let one_name = tags.len() == 1 && digests.len() == 1 && tags[0].familiar_name() == digests[0].familiar_name();
                let last = one_name || tags.iter().chain(&digests).all(|reference| untag.contains(reference));
                if last && let Some(user) = users.first().filter(|_| !options.force) {
                    let reason = format!("container {} is using its referenced image {}", user.id.short(), id.short());
                    let image = format!("{query:?} (must force)");
                    return Err(Error::Conflict { action: "remove repository reference", image, reason });
                }
                // By force the name goes even while a container runs; the image stays, without a name (as in Docker).
                (id, untag, users.iter().any(|user| user.running))
            }
        };
        self.remove_references(&id, untag, keep, options)
    }

    /// Takes names away, and the image with its last one, unless it shall be kept.
    fn remove_references(&self, id: &Digest, untag: Vec<ImageRef>, keep: bool, options: RemoveOptions) -> Result<Vec<Removed>> {
        {
            let mut database = self.database.lock().expect("a database write does not panic");
            let writes: Vec<Write<'_>> = untag.iter().map(Write::DeleteReference).collect();
            database.write(&writes)?;
            let mut index = self.index.write().expect("the index is not poisoned");
            for reference in &untag {
                index.tags.remove(reference);
                index.digests.remove(reference);
            }
        }
        let mut removed: Vec<Removed> = untag.into_iter().map(Removed::Untagged).collect();
        let (needed, parent, layers) = {
            let index = self.index.read().expect("the index is not poisoned");
            let named = index.tags_of(id).next().is_some() || index.digests_of(id).next().is_some();
            let image = index.images.get(id);
            let layers = image.map(|image| image.config.rootfs.diff_ids.clone()).unwrap_or_default();
            (named || index.has_children(id), image.and_then(|image| image.record.parent.clone()), layers)
        };
        // An image that others were made of stays without a name, a step to them.
        if needed || keep {
            return Ok(removed);
        }
        self.delete_image(id)?;
        removed.push(Removed::Deleted(id.clone()));
        let lonely = self.index.read().expect("the index is not poisoned").lonely_layers(&layers);
        removed.extend(lonely.into_iter().map(Removed::Layer));
        if let Some(parent) = parent.filter(|_| options.prune) {
            let lonely = {
                let index = self.index.read().expect("the index is not poisoned");
                index.images.contains_key(&parent)
                    && index.tags_of(&parent).next().is_none()
                    && index.digests_of(&parent).next().is_none()
                    && !index.is_used(&parent)
                    && !index.has_children(&parent)
            };
            if lonely {
                removed.extend(self.remove_references(&parent, Vec::new(), false, options)?);
            }
        }
        Ok(removed)
    }

    /// Takes an image off the list; while a container uses it, it stays hidden.
    fn delete_image(&self, id: &Digest) -> Result<()> {
        let used = self.index.read().expect("the index is not poisoned").is_used(id);
        if !used {
            return self.forget_image(id);
        }
        let mut database = self.database.lock().expect("a database write does not panic");
        let mut index = self.index.write().expect("the index is not poisoned");
        if let Some(stored) = index.images.get_mut(id) {
            stored.record.hidden = true;
            database.write(&[Write::PutImage(id, &stored.record)])?;
        }
        Ok(())
    }

    /// Forgets an image, and discards what only it needed.
    pub(crate) fn forget_image(&self, id: &Digest) -> Result<()> {
        let mut database = self.database.lock().expect("a database write does not panic");
        database.write(&[Write::DeleteImage(id)])?;
        {
            let mut index = self.index.write().expect("the index is not poisoned");
            index.images.remove(id);
            index.broken.remove(id);
        }
        self.forget_ahead(Some(id))?;
        self.discard(&self.init_path(Some(id)))?;
        self.discard(&self.tree_path(Some(id)))?;
        self.collect_with(&mut database).map(drop)
    }

    /// Discards layers and blobs that no image needs any more; returns the bytes of the layers.
    pub(crate) fn collect(&self) -> Result<u64> {
        self.collect_with(&mut self.database.lock().expect("a database write does not panic"))
    }

    /// As [`Store::collect`], in one step with what made things useless.
    pub(crate) fn collect_with(&self, database: &mut Database) -> Result<u64> {
        let (dead, live_blobs, freed) = {
            let mut index = self.index.write().expect("the index is not poisoned");
            let live = index.live_layers();
            let dead: Vec<Digest> = index.layers.keys().filter(|id| !live.contains(id)).cloned().collect();
            let freed = dead.iter().filter_map(|id| index.layers.remove(id)).map(|layer| layer.size).sum();
            let live_blobs = index.live_blobs();
            index.unrecorded.retain(|id| live.contains(id));
            index.arrived.retain(|digest, _| live_blobs.contains(digest));
            (dead, live_blobs, freed)
        };
        if !dead.is_empty() {
            let writes: Vec<Write<'_>> = dead.iter().map(Write::DeleteLayer).collect();
            database.write(&writes)?;
        }
        for layer in &dead {
            self.discard(&self.layer_path(layer))?;
        }
        for name in self.names_in("blobs/sha256")? {
            if digest_of_file(&name).is_some_and(|digest| !live_blobs.contains(&digest)) {
                self.discard(&self.root.join("blobs/sha256").join(&name))?;
            }
        }
        Ok(freed)
    }

    /// The steps an image was made by, the newest first.
    pub fn history(&self, id: &Digest) -> Result<Vec<History>> {
        let index = self.index.read().expect("the index is not poisoned");
        let stored = index.images.get(id).ok_or_else(|| Error::NoSuchImage { query: id.to_string() })?;
        let mut sizes = stored.config.rootfs.diff_ids.iter().map(|layer| index.layers.get(layer).map_or(0, |layer| layer.size));
        let entries = stored.config.history.iter().cloned();
        let mut lines: Vec<History> = entries
            .map(|entry| {
                let size = if entry.empty_layer { 0 } else { sizes.next().unwrap_or(0) };
                History { entry, size, id: None, tags: Vec::new() }
            })
            .collect();
        // Layers that no step speaks of, e.g. in images of builders that write no history.
        lines.extend(sizes.map(|size| History { entry: HistoryEntry::default(), size, id: None, tags: Vec::new() }));
        if let Some(newest) = lines.last_mut() {
            newest.id = Some(id.clone());
            newest.tags = index.tags_of(id).cloned().collect();
        }
        lines.reverse();
        Ok(lines)
    }

    /// Removes images that no container uses and that `selected` takes; returns what was removed and the bytes freed.
    pub fn prune(
        &self,
        options: PruneOptions,
        selected: &dyn Fn(&Image) -> bool,
        in_use: &dyn Fn(&Digest) -> Vec<ImageUser>,
    ) -> Result<(Vec<Removed>, u64)> {
        let mut removed = Vec::new();
        let before = self.layers_size();
        let images = self.list();
        let parents: HashSet<Digest> = images.iter().filter_map(|image| image.parent.clone()).collect();
        for image in images {
            let nameless = image.tags.is_empty() && image.digests.is_empty();
            // A step to another image goes with that one.
            if nameless && parents.contains(&image.id) {
                continue;
            }
            if (options.dangling_only && !image.tags.is_empty()) || !in_use(&image.id).is_empty() || !selected(&image) {
                continue;
            }
            let untag = image.tags.into_iter().chain(image.digests).collect();
            removed.extend(self.remove_references(&image.id, untag, false, RemoveOptions { prune: true, ..RemoveOptions::default() })?);
        }
        let broken: Vec<Digest> = self.index.read().expect("the index is not poisoned").broken.keys().cloned().collect();
        for id in broken {
            self.forget_image(&id)?;
            removed.push(Removed::Deleted(id));
        }
        let partial = self.partials.sweep(Duration::ZERO)?;
        Ok((removed, before.saturating_sub(self.layers_size()) + partial))
    }
}

/// Docker's words for a container in the way.
fn check_users(id: &Digest, users: &[ImageUser], force: bool) -> Result<()> {
    if let Some(user) = users.iter().find(|user| user.running) {
        let reason = format!("image is being used by running container {}", user.id.short());
        return Err(conflict(&id.short(), "cannot be forced", reason));
    }
    match users.first().filter(|_| !force) {
        Some(user) => {
            let reason = format!("image is being used by stopped container {}", user.id.short());
            Err(conflict(&id.short(), "must be forced", reason))
        }
        None => Ok(()),
    }
}
