//! Pushing an image: its layers at once, then config, then manifest. Blobs travel as they came, under the digest they have.

use crate::client::{Client, Inner};
use crate::config::Credentials;
use crate::error::{Error, Result};
use crate::event::{PushEvent, Replayed, UploadState};
use crate::flight::News;
use crate::session::Session;
use crate::upload::{Arrived, Source, Tell, Upload};
use bytes::Bytes;
use naru_store::{Image, LayerBlob, Store, VariantKind};
use naru_types::{Digest, ImageRef, Platform};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Repositories that are asked for a layer.
const MAX_MOUNTS: usize = 3;

/// How to push.
#[derive(Debug, Clone, Default)]
pub struct PushOptions {
    /// The platform the image must be for.
    pub platform: Option<Platform>,
    /// Who we are.
    pub credentials: Credentials,
}

/// What the registry has now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// The tag.
    pub tag: String,
    /// The digest of the manifest.
    pub digest: Digest,
    /// The size of the manifest.
    pub size: u64,
}

/// Two pushes with the same key are one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PushKey {
    store: PathBuf,
    reference: ImageRef,
    image: Digest,
    credentials: Credentials,
}

impl Replayed for PushEvent {
    fn subject(&self) -> Option<&str> {
        match self {
            PushEvent::Layer { id, .. } => Some(id),
            _ => None,
        }
    }
}

impl Client {
    /// Pushes the image that has this name.
    pub async fn push(
        &self,
        store: &Arc<Store>,
        reference: &ImageRef,
        options: PushOptions,
        progress: impl Fn(PushEvent) + Send + Sync,
    ) -> Result<Pushed> {
        if reference.digest.is_some() {
            return Err(Error::Request("cannot push a digest reference".into()));
        }
        let reference = reference.tagged();
        let image = find(store, &reference)?;
        let image = match options.platform.filter(|platform| *platform != image.config.platform()) {
            None => image,
            // Others of the index that the image came with may be here, too.
            Some(platform) => variant(store, &image, &platform)?
                .ok_or_else(|| Error::OtherPlatform { reference: reference.familiar(), platform: platform.to_string() })?,
        };
        let credentials = options.credentials;
        let key = PushKey {
            store: store.root().to_owned(),
            reference: reference.clone(),
            image: image.id.clone(),
            credentials: credentials.clone(),
        };
        let start = |news| {
            let push = Push { client: self.inner.clone(), store: store.clone(), reference, image, credentials, news };
            async move { push.run().await }
        };
        self.inner.pushes.join(&key, "the push", start, progress).await
    }

    /// Pushes all tags of a repository that are here, one after the other.
    pub async fn push_all(
        &self,
        store: &Arc<Store>,
        repository: &ImageRef,
        options: PushOptions,
        progress: impl Fn(PushEvent) + Send + Sync,
    ) -> Result<Vec<Pushed>> {
        let mut names: Vec<ImageRef> = store.list().into_iter().flat_map(|image| image.tags).collect();
        names.retain(|name| name.domain == repository.domain && name.path == repository.path);
        names.sort();
        if names.is_empty() {
            return Err(Error::NothingToPush { repository: repository.familiar_name() });
        }
        let mut pushed = Vec::new();
        for name in names {
            pushed.push(self.push(store, &name, options.clone(), &progress).await?);
        }
        Ok(pushed)
    }
}

/// The image for another platform that an image is one with.
fn variant(store: &Store, image: &Image, wanted: &Platform) -> Result<Option<Image>> {
    let fits = |found: &Platform| {
        found.os == wanted.os && found.architecture == wanted.architecture && (wanted.variant.is_none() || wanted.variant == found.variant)
    };
    let found = store.variants_of(image)?.into_iter().find_map(|variant| match variant.kind {
        VariantKind::Image { platform: Some(platform) } if fits(&platform) => variant.image,
        _ => None,
    });
    Ok(found.map(|id| store.image(&id)).transpose()?)
}

fn find(store: &Store, reference: &ImageRef) -> Result<Image> {
    let error = match store.find(&reference.canonical()) {
        Ok(image) => return Ok(image),
        Err(error) => error,
    };
    if !matches!(error, naru_store::Error::NoSuchImage { .. }) {
        return Err(error.into());
    }
    let same_repository = |name: &ImageRef| name.domain == reference.domain && name.path == reference.path;
    if store.list().iter().any(|image| image.tags.iter().any(same_repository)) {
        return Err(Error::NoSuchTag { reference: reference.familiar() });
    }
    Err(Error::NothingToPush { repository: reference.familiar_name() })
}

struct Push {
    client: Arc<Inner>,
    store: Arc<Store>,
    reference: ImageRef,
    image: Image,
    credentials: Credentials,
    news: Arc<News<PushEvent>>,
}

impl Push {
    async fn run(self) -> Result<Pushed> {
        self.news.tell(PushEvent::Pushing { repository: format!("{}/{}", self.reference.domain, self.reference.path) });
        // The uppermost first, as Docker's clients show them.
        for layer in self.image.layers.iter().rev() {
            self.news.tell(PushEvent::Layer { id: layer.short(), state: UploadState::Preparing });
        }
        let session = self.client.session(&self.reference, &self.credentials, "push,pull").await?;
        let (store, id) = (self.store.clone(), self.image.id.clone());
        let (ready, layers) = mpsc::unbounded_channel();
        let outgoing = tokio::task::spawn_blocking(move || {
            // Without a receiver the push has failed, and its error is told.
            store.outgoing(&id, &mut |layer| drop(ready.send(layer.clone())))
        });
        let outgoing = async { Ok(outgoing.await.map_err(|_| Error::Cancelled("the push"))??) };
        // Together: what is returned keeps the layers that are still on their way.
        let (outgoing, ()) = tokio::try_join!(outgoing, self.layers(&session, layers))?;
        let (digest, config) = &outgoing.config;
        let upload = Upload {
            session: session.clone(),
            digest: digest.clone(),
            size: config.len() as u64,
            source: Source::Bytes(Bytes::from(config.clone())),
            mounts: Vec::new(),
            tell: Arc::new(|_| ()),
        };
        upload.run().await?;
        let tag = self.reference.tag.clone().unwrap_or_else(|| "latest".into());
        let size = outgoing.manifest.len() as u64;
        let digest = session.put_manifest(&tag, &outgoing.media_type, outgoing.manifest.into()).await?;
        let pushed = Pushed { tag, digest, size };
        let by_digest = ImageRef { tag: None, digest: Some(pushed.digest.clone()), ..self.reference.clone() };
        let (store, id) = (self.store.clone(), self.image.id.clone());
        let named = tokio::task::spawn_blocking(move || store.tag(&id, &by_digest)).await;
        match named.map_err(|_| Error::Cancelled("the push"))? {
            // Removed meanwhile: it was pushed all the same.
            Ok(()) | Err(naru_store::Error::NoSuchImage { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let Pushed { tag, digest, size } = pushed.clone();
        self.news.tell(PushEvent::Done { tag, digest, size });
        Ok(pushed)
    }

    /// Sends the layers as they come; the first that fails ends all.
    async fn layers(&self, session: &Session, mut ready: mpsc::UnboundedReceiver<LayerBlob>) -> Result<()> {
        let mut tasks: JoinSet<Result<()>> = JoinSet::new();
        let mut known: Vec<Digest> = Vec::new();
        let images = self.store.list();
        loop {
            let layer = tokio::select! {
                layer = ready.recv() => layer,
                Some(ended) = tasks.join_next() => {
                    ended.map_err(|_| Error::Cancelled("the push of a layer"))??;
                    continue;
                }
            };
            let Some(layer) = layer else { break };
            if known.contains(&layer.digest) {
                continue;
            }
            known.push(layer.digest.clone());
            let (news, id) = (self.news.clone(), layer.diff_id.short());
            let tell: Tell = Arc::new(move |state| news.tell(PushEvent::Layer { id: id.clone(), state }));
            if layer.media_type.contains(".foreign.") || layer.media_type.contains(".nondistributable.") {
                tell(UploadState::Skipped);
                continue;
            }
            let upload = Upload {
                session: session.clone(),
                digest: layer.digest.clone(),
                size: layer.size,
                source: Source::Store(self.store.clone()),
                mounts: self.mounts(&images, &layer),
                tell: tell.clone(),
            };
            let uploads = self.client.uploads.clone();
            tasks.spawn(async move {
                let _permit = match uploads.clone().try_acquire_owned() {
                    Ok(permit) => permit,
                    Err(_) => {
                        tell(UploadState::Waiting);
                        uploads.acquire_owned().await.map_err(|_| Error::Cancelled("the push of a layer"))?
                    }
                };
                tell(match upload.run().await? {
                    Arrived::WasThere => UploadState::Exists,
                    Arrived::Mounted(from) => UploadState::Mounted { from },
                    Arrived::Uploaded => UploadState::Pushed,
                });
                Ok(())
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.map_err(|_| Error::Cancelled("the push of a layer"))??;
        }
        Ok(())
    }

    /// Other repositories of the registry whose images have the layer.
    fn mounts(&self, images: &[Image], layer: &LayerBlob) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        for image in images.iter().filter(|image| image.blobs.iter().any(|blob| blob.digest == layer.digest)) {
            // A digest shows that the registry has had it; a tag may be a wish.
            for name in image.digests.iter().chain(&image.tags) {
                if name.domain == self.reference.domain && name.path != self.reference.path && !found.contains(&name.path) {
                    found.push(name.path.clone());
                }
            }
        }
        found.truncate(MAX_MOUNTS);
        found
    }
}
