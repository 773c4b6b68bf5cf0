//! Images as the engine sees them: the store's, plus events and the containers that use them. All calls of the store
//! block and run on worker threads.

use crate::Engine;
use crate::error::{EngineError, Result};
use crate::events::ObjectKind;
use naru_store::{
    CommitOptions, Image, ImageConfig, ImageUser, ImportOptions, LoadOptions, Loaded, Progress, PruneOptions, RemoveOptions, Removed,
    SaveOptions, Store,
};
use naru_types::{ContainerId, Digest, ImageRef};
use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

/// The labels of an image as its events have them. Many events are kept: labels of megabytes are left out.
pub(crate) fn labels(image: &Image) -> BTreeMap<String, String> {
    const MAX: usize = 64 << 10;
    let labels = &image.config.config.labels;
    let size: usize = labels.iter().map(|(key, value)| key.len() + value.len()).sum();
    if size <= MAX { labels.clone() } else { BTreeMap::new() }
}

impl Engine {
    /// Runs `work` with the store on a worker thread.
    pub async fn with_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Store>) -> naru_store::Result<T> + Send + 'static,
    ) -> Result<T> {
        let store = Arc::clone(self.store());
        let result = tokio::task::spawn_blocking(move || work(&store)).await;
        Ok(result.map_err(|_| EngineError::Gone("the thread that works on images"))??)
    }

    /// What a container takes of the disk: its files and its log.
    pub async fn container_disk_usage(&self, id: &ContainerId) -> Result<u64> {
        let (id, log) = (id.clone(), self.0.log_directory(id));
        self.with_store(move |store| Ok(store.container_usage(&id)? + naru_store::blocks_below(&log)?)).await
    }

    /// What the engine's records take of the disk: its database, the space it keeps for a full disk, its events, and the
    /// directories that hold the rest.
    pub fn own_disk_usage(&self) -> u64 {
        // The first is the data root itself.
        let own = ["", "naru.db", "naru.db-wal", "naru.db-shm", "naru.reserve", "events", "events.old", "logs", "volumes"];
        let found = own.iter().filter_map(|name| std::fs::symlink_metadata(self.0.config.data_root.join(name)).ok());
        found.map(|file| file.blocks() * 512).sum()
    }

    fn image_event(&self, action: &str, id: &Digest, name: String) {
        let labels = self.store().image(id).map(|image| labels(&image)).unwrap_or_default();
        self.image_event_with(action, id, name, labels);
    }

    /// The labels of an image are attributes of its events; those of one that is gone are known to who removed it.
    fn image_event_with(&self, action: &str, id: &Digest, name: String, mut attributes: BTreeMap<String, String>) {
        attributes.insert("name".to_owned(), name);
        self.events().publish(ObjectKind::Image, action, id.to_string(), attributes);
    }

    /// All images.
    pub fn images(&self) -> Vec<Image> {
        self.store().list()
    }

    /// The image of that name, digest or id prefix.
    pub fn image(&self, query: &str) -> Result<Image> {
        Ok(self.store().find(query)?)
    }

    /// Gives an image another name.
    pub async fn tag_image(&self, query: &str, name: &ImageRef) -> Result<()> {
        let image = self.image(query)?;
        let (id, tag) = (image.id.clone(), name.clone());
        self.with_store(move |store| store.tag(&id, &tag)).await?;
        self.image_event("tag", &image.id, name.familiar());
        Ok(())
    }

    /// Containers made of an image, and whether any of them runs.
    pub fn image_users(&self, id: &Digest) -> Vec<ImageUser> {
        let uses = |view: &&Arc<crate::container::View>| view.spec.image.as_ref() == Some(id);
        self.containers().iter().filter(uses).map(|view| ImageUser { id: view.id.clone(), running: view.state.is_running() }).collect()
    }

    /// Deletes names of an image, and the image with its last one.
    pub async fn remove_image(&self, query: &str, force: bool, prune: bool) -> Result<Vec<Removed>> {
        let (engine, name) = (self.clone(), query.to_owned());
        let image = self.image(query)?;
        let removed = self
            .with_store(move |store| {
                store.remove(&name, RemoveOptions { force, prune }, &|id| {
                    // A running container keeps its image whatever is forced; a stopped one only without force.
                    engine.image_users(id)
                })
            })
            .await?;
        self.removal_events(&removed, &image.id, &labels(&image));
        Ok(removed)
    }

    /// Removes images that no container uses and that `selected` takes, and what pulls have left behind; tells the bytes freed.
    pub async fn prune_images(
        &self,
        dangling_only: bool,
        selected: impl Fn(&Image) -> bool + Send + 'static,
    ) -> Result<(Vec<Removed>, u64)> {
        let engine = self.clone();
        let labels: HashMap<Digest, _> = self.images().into_iter().map(|image| (image.id.clone(), labels(&image))).collect();
        let work = move |store: &Arc<Store>| store.prune(PruneOptions { dangling_only }, &selected, &|id| engine.image_users(id));
        let (removed, freed) = self.with_store(work).await?;
        for group in removed.split_inclusive(|item| matches!(item, Removed::Deleted(_))) {
            if let Some(Removed::Deleted(id)) = group.last() {
                self.removal_events(group, id, &labels.get(id).cloned().unwrap_or_default());
            }
        }
        Ok((removed, freed))
    }

    fn removal_events(&self, removed: &[Removed], id: &Digest, labels: &BTreeMap<String, String>) {
        for item in removed {
            match item {
                Removed::Untagged(name) => self.image_event_with("untag", id, name.familiar(), labels.clone()),
                Removed::Deleted(id) => self.image_event("delete", id, id.to_string()),
                Removed::Layer(_) => {}
            }
        }
    }

    /// Takes images from an archive.
    pub async fn load_images(
        &self,
        mut input: impl Read + Send + 'static,
        options: LoadOptions,
        progress: impl Fn(Progress) + Send + Sync + 'static,
    ) -> Result<Vec<Loaded>> {
        let loaded = self.with_store(move |store| store.load(&mut input, &options, &progress)).await?;
        for item in &loaded {
            if let Loaded::Reference(name) = item
                && let Ok(image) = self.image(&name.canonical())
            {
                self.image_event("load", &image.id, name.familiar());
            }
        }
        Ok(loaded)
    }

    /// Writes images as an archive.
    pub async fn save_images(&self, names: Vec<String>, options: SaveOptions, mut output: impl Write + Send + 'static) -> Result<()> {
        let mut images = Vec::new();
        for name in &names {
            images.push(self.image(name)?);
        }
        self.with_store(move |store| store.save(&names, &options, &mut output)).await?;
        for image in images {
            self.image_event("save", &image.id, image.id.to_string());
        }
        Ok(())
    }

    /// Makes an image of a root file system.
    pub async fn import_image(&self, mut input: impl Read + Send + 'static, options: ImportOptions) -> Result<Digest> {
        let name = options.reference.as_ref().map(ImageRef::familiar);
        let id = self.with_store(move |store| store.import(&mut input, options)).await?;
        self.image_event("import", &id, name.clone().unwrap_or_else(|| id.to_string()));
        if let Some(name) = name {
            self.image_event("tag", &id, name);
        }
        Ok(id)
    }

    /// Makes an image of a container's changes.
    pub async fn commit(&self, reference: &str, pause: bool, config: ImageConfig, options: CommitOptions) -> Result<Digest> {
        let container = self.find(reference)?;
        let view = container.view();
        // It may end, or go, before and after: its files are there all the same.
        let frozen = pause && view.state.is_running() && !view.state.is_paused() && container.pause().await.is_ok();
        let (id, base) = (view.id.clone(), view.spec.image.clone());
        let (comment, name) = (options.comment.clone(), options.reference.as_ref().map(ImageRef::familiar));
        let work = move |store: &Arc<Store>| {
            // An image without what is deleted meanwhile would look whole.
            let _held = store.hold(&id)?;
            store.commit(&id, base.as_ref(), config, options)
        };
        let result = self.with_store(work).await;
        if frozen
            && let Err(error) = container.unpause().await
            && container.view().state.is_paused()
        {
            tracing::warn!(container = %view.id.short(), error = crate::chain(&error), "cannot thaw a container after its commit");
        }
        let image = result?;
        self.image_event("create", &image, name.clone().unwrap_or_else(|| image.to_string()));
        if let Some(name) = &name {
            self.image_event("tag", &image, name.clone());
        }
        let about = [("comment", comment), ("imageID", image.to_string()), ("imageRef", name.unwrap_or_default())];
        crate::container::publish(&self.0, &view, "commit".into(), &about);
        Ok(image)
    }
}
