//! Pulling an image: manifest, then config and layers at once, streamed into the store, which records them together.
//!
//! ```text
//! HEAD tag ── known? ──▶ up to date
//!    │ new
//! GET manifest (index → the platform's) ─┬─ GET config ───────────────┐
//!                                        └─ GET layers, some at once ─┴─▶ commit, with names
//! ```
//!
//! Layers are asked for before the config has told their diff ids, and unpacked when it has. What a pull that ended before
//! left in the store is not fetched again. Mirrors are asked first; what goes wrong there is told and the next is asked.

use crate::blob::{Alive, BlobSource};
use crate::client::{Client, Inner, manifest_name};
use crate::config::Credentials;
use crate::error::{Error, Result};
use crate::event::{LayerState, PullEvent};
use crate::flight::News;
use crate::manifest::{Descriptor, Document, Manifest, candidates, platforms, usable};
use crate::session::{Fetched, Session, explain_pull};
use crate::url::{Url, unescape};
use naru_store::{Expected, ImageConfig, Ingest, LayerBlob, NewImage, Phase, Progress, Store};
use naru_types::{Digest, ImageRef, Platform};
use std::collections::HashMap;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Indexes within indexes, and manifests looked at in them.
const MAX_NESTING: usize = 4;
const MAX_LOOKS: usize = 16;
/// How many fetched blobs are remembered.
const MAX_LATELY: usize = 4096;

/// How to pull.
#[derive(Debug, Clone, Default)]
pub struct PullOptions {
    /// The platform; the host's when absent.
    pub platform: Option<Platform>,
    /// Who we are.
    pub credentials: Credentials,
}

/// What a pull brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The image.
    pub id: Digest,
    /// The digest of the manifest or index that the reference names.
    pub digest: Digest,
    /// Nothing was new.
    pub up_to_date: bool,
    /// What was pulled.
    pub reference: ImageRef,
}

/// Two pulls with the same key are one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PullKey {
    store: PathBuf,
    reference: ImageRef,
    platform: Option<Platform>,
    credentials: Credentials,
}

impl Client {
    /// Pulls one image. Pulls of the same image at the same time are one; dropping the last of them stops it, and what has
    /// arrived is used by the next one.
    pub async fn pull(
        &self,
        store: &Arc<Store>,
        reference: &ImageRef,
        options: PullOptions,
        progress: impl Fn(PullEvent) + Send + Sync,
    ) -> Result<Pulled> {
        let key = PullKey {
            store: store.root().to_owned(),
            reference: reference.clone(),
            platform: options.platform.clone(),
            credentials: options.credentials.clone(),
        };
        let start = |news| {
            let told = AtomicBool::new(false);
            let pull = Pull { client: self.inner.clone(), store: store.clone(), reference: reference.clone(), options, news, told };
            async move { pull.run().await }
        };
        self.inner.pulls.join(&key, "the pull", start, progress).await
    }

    /// Pulls all tags of a repository, one after the other.
    pub async fn pull_all(
        &self,
        store: &Arc<Store>,
        repository: &ImageRef,
        options: PullOptions,
        progress: impl Fn(PullEvent) + Send + Sync,
    ) -> Result<Vec<Pulled>> {
        let mut pulled = Vec::new();
        for tag in self.tags(repository, &options.credentials).await? {
            let name = ImageRef { tag: Some(tag), digest: None, ..repository.clone() };
            // A registry's word for a tag is no tag before it parses.
            let name = ImageRef::parse(&name.canonical())?;
            pulled.push(self.pull(store, &name, options.clone(), &progress).await?);
        }
        Ok(pulled)
    }
}

struct Pull {
    client: Arc<Inner>,
    store: Arc<Store>,
    reference: ImageRef,
    options: PullOptions,
    news: Arc<News<PullEvent>>,
    told: AtomicBool,
}

/// The manifest of the image itself, and the index that led to it.
struct Chosen {
    manifest: Fetched,
    content: Manifest,
    index: Option<Fetched>,
}

impl Pull {
    async fn run(self) -> Result<Pulled> {
        let mirrors = self.client.config.mirrors.get(&self.reference.domain).cloned().unwrap_or_default();
        for mirror in mirrors {
            let session = self.mirror_session(&mirror)?;
            match self.pull_from(&session).await {
                Err(Error::Store(error)) => return Err(Error::Store(error)),
                Err(error) => {
                    let host = session.host();
                    tracing::warn!(mirror = host, error = &error as &dyn std::error::Error, "a mirror failed, the next registry is asked");
                    self.news.tell(PullEvent::Notice(format!("mirror {host} failed, trying the next: {error}")));
                }
                pulled => return pulled,
            }
        }
        let session = self.client.session(&self.reference, &self.options.credentials, "pull").await?;
        let pulled = self.pull_from(&session).await;
        pulled.map_err(|e| explain_pull(e, &self.reference.familiar(), &self.reference.familiar_name()))
    }

    /// A mirror gets no credentials but those of its own address.
    fn mirror_session(&self, mirror: &str) -> Result<Session> {
        let url = Url::parse(mirror)?;
        let mut credentials = Credentials::default();
        if let Some((username, password)) = url.userinfo.as_deref().and_then(|userinfo| userinfo.split_once(':')) {
            credentials = Credentials { username: unescape(username), password: unescape(password), ..credentials };
        }
        Ok(self.client.session_at(url, &self.reference, credentials, "pull"))
    }

    async fn pull_from(&self, session: &Session) -> Result<Pulled> {
        let top = match self.current(session).await? {
            Current::Here { id, digest } => {
                self.found();
                return Ok(self.done(id, digest, true));
            }
            Current::Fetch { name, wanted } => session.get_manifest(&name, wanted.as_ref()).await?,
        };
        self.found();
        let digest = top.digest.clone();
        let chosen = self.choose(session, top).await?;
        let id = self.take_in(session, chosen, &digest).await?;
        Ok(self.done(id, digest, false))
    }

    /// The reference exists: only now a pull has begun, as users of Docker see it.
    fn found(&self) {
        if !self.told.swap(true, Ordering::Relaxed) {
            self.news.tell(PullEvent::Pulling { reference: manifest_name(&self.reference), repository: self.reference.path.clone() });
        }
    }

    fn done(&self, id: Digest, digest: Digest, up_to_date: bool) -> Pulled {
        self.news.tell(PullEvent::Digest(digest.clone()));
        self.news.tell(PullEvent::Done { reference: self.reference.familiar(), up_to_date });
        if let (Some(wanted), Ok(image)) = (&self.options.platform, self.store.image(&id)) {
            let has = image.config.platform();
            if !usable(wanted).contains(&has) {
                let name = self.reference.familiar();
                let text = format!("does not match the specified platform ({wanted})");
                self.news
                    .tell(PullEvent::Notice(format!("WARNING: image with reference {name} was found but its platform ({has}) {text}")));
            }
        }
        Pulled { id, digest, up_to_date, reference: self.reference.clone() }
    }

    /// Looks whether the store has what the registry has: one HEAD, and only when there is something to compare with.
    async fn current(&self, session: &Session) -> Result<Current> {
        let name = manifest_name(&self.reference);
        if let Some(digest) = &self.reference.digest {
            return Ok(match self.here(digest) {
                Some(id) => Current::Here { id, digest: digest.clone() },
                None => Current::Fetch { name, wanted: Some(digest.clone()) },
            });
        }
        let Ok(tagged) = self.store.find(&self.reference.canonical()) else { return Ok(Current::Fetch { name, wanted: None }) };
        // A GET says better than a HEAD what is wrong.
        let Ok(Some(digest)) = session.head_manifest(&name).await else { return Ok(Current::Fetch { name, wanted: None }) };
        Ok(match self.here(&digest).filter(|id| *id == tagged.id) {
            Some(id) => Current::Here { id, digest },
            None => Current::Fetch { name: digest.to_string(), wanted: Some(digest) },
        })
    }

    /// The image that was pulled by this digest, if it is for the platform that is wanted now.
    fn here(&self, digest: &Digest) -> Option<Digest> {
        let name = ImageRef { tag: None, digest: Some(digest.clone()), ..self.reference.clone() };
        let image = self.store.find(&name.canonical()).ok()?;
        let wanted = self.platform();
        let has = image.config.platform();
        // An image that is the best of its index may be for another variant; asking again costs little.
        (has == wanted || image.manifest == *digest).then_some(image.id)
    }

    fn platform(&self) -> Platform {
        self.options.platform.clone().unwrap_or_else(Platform::host)
    }

    /// Follows indexes to the manifest for the platform.
    async fn choose(&self, session: &Session, top: Fetched) -> Result<Chosen> {
        let entries = match &top.document {
            Document::Manifest(content) => {
                let content = content.clone();
                return Ok(Chosen { manifest: top, content, index: None });
            }
            Document::Index(entries) => entries.clone(),
        };
        let platform = self.platform();
        let mut looks = 0;
        // Depth first, the best candidates first.
        let mut waiting: Vec<(Descriptor, usize)> =
            candidates(&entries, &platform).into_iter().rev().map(|entry| (entry.clone(), 1)).collect();
        while let Some((entry, depth)) = waiting.pop() {
            looks += 1;
            if looks > MAX_LOOKS || depth > MAX_NESTING {
                return Err(Error::invalid(format!("index {}", top.digest), "its indexes are nested too deeply"));
            }
            let fetched = session.get_manifest(&entry.digest.to_string(), Some(&entry.digest)).await?;
            if fetched.bytes.len() as u64 != entry.size {
                let reason = format!("it has {} bytes, {} were announced", fetched.bytes.len(), entry.size);
                return Err(Error::invalid(format!("manifest {}", entry.digest), reason));
            }
            match &fetched.document {
                Document::Manifest(content) => {
                    let content = content.clone();
                    return Ok(Chosen { manifest: fetched, content, index: Some(top) });
                }
                Document::Index(nested) => {
                    waiting.extend(candidates(nested, &platform).into_iter().rev().map(|entry| (entry.clone(), depth + 1)));
                }
            }
        }
        let found: Vec<String> = platforms(&entries).iter().map(ToString::to_string).collect();
        let hint = if found.is_empty() { String::new() } else { format!(" (it has {})", crate::error::printable(&found.join(", "), 300)) };
        Err(Error::NoPlatform { platform: platform.to_string(), hint })
    }

    /// Config and layers, then the record.
    async fn take_in(&self, session: &Session, chosen: Chosen, digest: &Digest) -> Result<Digest> {
        let config_type = &chosen.content.config.media_type;
        if !config_type.is_empty() && !matches!(config_type.as_str(), OCI_CONFIG | DOCKER_CONFIG | "application/octet-stream") {
            let media_type = crate::error::printable(config_type, 100);
            return Err(Error::Artifact { reference: self.reference.familiar(), media_type });
        }
        if let Some(other) = chosen.content.layers.iter().find(|layer| !layer.is_layer()) {
            let media_type = crate::error::printable(&other.media_type, 100);
            return Err(Error::invalid(format!("layer {}", other.digest), format!("its media type {media_type:?} is not that of a layer")));
        }
        let store = self.store.clone();
        let (ingest, known) = blocking(move || Ok((Arc::new(store.ingest()?), known_layers(&store)))).await?;
        let alive = Alive::new();
        let (diff_ids, told) = watch::channel(None);
        let config = self.config(session, &chosen.content, diff_ids);
        let layers = self.layers(session, &ingest, &chosen.content, &known, &alive, told);
        let judge = |error: &Error| {
            if error.condemns() {
                ingest.spoil();
            }
        };
        let (config, layers) = tokio::try_join!(config, layers).inspect_err(judge)?;
        let by_digest = ImageRef { tag: None, digest: Some(digest.clone()), ..self.reference.clone() };
        let mut references = vec![by_digest];
        if self.reference.digest.is_none() {
            references.push(self.reference.tagged());
        }
        let image = NewImage {
            config,
            manifest: Some((chosen.manifest.bytes.to_vec(), chosen.manifest.media_type)),
            index: chosen.index.map(|index| (index.bytes.to_vec(), index.media_type)),
            layers,
            references,
        };
        let recording = ingest.clone();
        blocking(move || Ok(recording.commit(image)?)).await.inspect_err(judge)
    }

    /// The config, and the diff ids to who waits for them.
    async fn config(&self, session: &Session, manifest: &Manifest, diff_ids: watch::Sender<DiffIds>) -> Result<Vec<u8>> {
        let bytes = session.get_blob("image config", &manifest.config.digest, manifest.config.size).await?;
        let what = format!("image config {}", manifest.config.digest);
        let config = ImageConfig::parse(&bytes)?;
        if !matches!(config.os.as_str(), "linux" | "") {
            let os = crate::error::printable(&config.os, 40);
            return Err(Error::invalid(what, format!("image operating system {os:?} cannot be used on this platform")));
        }
        let (named, has) = (config.rootfs.diff_ids.len(), manifest.layers.len());
        if named != has {
            return Err(Error::invalid(what, format!("it names {named} layers, the manifest has {has}")));
        }
        diff_ids.send_replace(Some(Arc::new(config.rootfs.diff_ids.clone())));
        Ok(bytes.to_vec())
    }

    /// All layers, in the manifest's order; one that occurs twice is fetched once.
    async fn layers(
        &self,
        session: &Session,
        ingest: &Arc<Ingest>,
        manifest: &Manifest,
        known: &HashMap<Digest, Digest>,
        alive: &Alive,
        told: watch::Receiver<DiffIds>,
    ) -> Result<Vec<LayerBlob>> {
        let mut here: HashMap<Digest, LayerBlob> = HashMap::new();
        let mut tasks = JoinSet::new();
        let mut asked: Vec<&Digest> = Vec::new();
        let layers = &manifest.layers;
        // Another name for an image that is here: its layers are no news.
        let another_name = self.store.find(&manifest.config.digest.to_string()).is_ok();
        let (mut present, mut missing) = (0_u64, Vec::new());
        for (at, layer) in layers.iter().enumerate().filter(|(_, layer)| !asked_before(&mut asked, &layer.digest)) {
            let news = LayerNews::new(self.news.clone(), &layer.digest);
            let found = known.get(&layer.digest).and_then(|diff_id| ingest.known_layer(&layer.digest, diff_id));
            if let Some(found) = found {
                if !another_name {
                    news.tell(LayerState::Exists);
                }
                present = present.saturating_add(layer.size);
                here.insert(layer.digest.clone(), LayerBlob { media_type: layer_type(layer, &found.media_type), ..found });
                continue;
            }
            news.tell(LayerState::Pulling);
            let task = LayerTask {
                client: self.client.clone(),
                session: session.clone(),
                ingest: ingest.clone(),
                layer: layer.clone(),
                at,
                news: Arc::new(news),
                gone: alive.watch(),
                told: told.clone(),
            };
            tasks.spawn(task.run());
            missing.push((layer.digest.short(), layer.size));
        }
        self.news.tell(PullEvent::Sizes { here: present, missing });
        while let Some(ended) = tasks.join_next().await {
            let blob = ended.map_err(|_| Error::Cancelled("the pull of a layer"))??;
            here.insert(blob.digest.clone(), blob);
        }
        let found = |layer: &Descriptor| {
            let wrong = |reason: String| Error::invalid(format!("layer {}", layer.digest), reason);
            let blob = here.get(&layer.digest).ok_or_else(|| wrong("it was fetched and is gone".into()))?;
            // One that was here has not been compared with this manifest yet.
            if blob.size != layer.size {
                return Err(wrong(format!("it has {} bytes, {} were announced", blob.size, layer.size)));
            }
            Ok(blob.clone())
        };
        layers.iter().map(found).collect()
    }
}

type DiffIds = Option<Arc<Vec<Digest>>>;

const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

enum Current {
    Here { id: Digest, digest: Digest },
    Fetch { name: String, wanted: Option<Digest> },
}

fn asked_before<'a>(asked: &mut Vec<&'a Digest>, digest: &'a Digest) -> bool {
    let before = asked.contains(&digest);
    asked.push(digest);
    before
}

/// The layers of all images here: digest of the blob → diff id.
fn known_layers(store: &Store) -> HashMap<Digest, Digest> {
    store.list().into_iter().flat_map(|image| image.blobs).map(|blob| (blob.digest, blob.diff_id)).collect()
}

fn layer_type(layer: &Descriptor, otherwise: &str) -> String {
    if layer.media_type.is_empty() { otherwise.to_owned() } else { layer.media_type.clone() }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Cancelled("work in the store"))?
}

/// Tells what a layer does, in Docker's order: all bytes first, then unpacking.
struct LayerNews {
    news: Arc<News<PullEvent>>,
    id: String,
    /// 0: bytes are missing; 1: all are there.
    stage: AtomicU8,
}

impl LayerNews {
    fn new(news: Arc<News<PullEvent>>, digest: &Digest) -> Self {
        LayerNews { news, id: digest.short(), stage: AtomicU8::new(0) }
    }

    fn tell(&self, state: LayerState) {
        self.news.tell(PullEvent::Layer { id: self.id.clone(), state });
    }

    fn progress(&self, progress: &Progress) {
        let (current, total) = (progress.current, progress.total);
        if current < total && progress.phase == Phase::Downloading {
            self.tell(LayerState::Downloading { current, total });
            return;
        }
        if current >= total && self.stage.swap(1, Ordering::Relaxed) == 0 {
            self.tell(LayerState::Verifying);
            self.tell(LayerState::Downloaded);
        }
        self.tell(LayerState::Extracting { current, total });
    }
}

/// Fetches one layer.
struct LayerTask {
    client: Arc<Inner>,
    session: Session,
    ingest: Arc<Ingest>,
    layer: Descriptor,
    at: usize,
    news: Arc<LayerNews>,
    gone: watch::Receiver<()>,
    told: watch::Receiver<DiffIds>,
}

/// Marks a blob as being fetched, for as long as it lives.
struct Fetching {
    client: Arc<Inner>,
    digest: Digest,
    /// Told when the store has begun with it; nothing when another pull fetches the blob.
    begun: Option<watch::Sender<bool>>,
}

impl Fetching {
    /// Waits while another pull is about to fetch the blob: once the store has begun with it, a second call there waits for
    /// the first and tells its progress.
    async fn new(client: &Arc<Inner>, digest: &Digest) -> Fetching {
        loop {
            let (begun, watched) = watch::channel(false);
            let other = {
                let mut fetching = client.fetching.lock().expect("nothing panics while it is held");
                match fetching.get(digest) {
                    Some(other) => Some(other.clone()),
                    None => {
                        fetching.insert(digest.clone(), watched);
                        None
                    }
                }
            };
            let fetching = |begun| Fetching { client: client.clone(), digest: digest.clone(), begun };
            match other {
                None => return fetching(Some(begun)),
                Some(mut other) => {
                    // An error: the other one ended, and with it its mark.
                    if other.wait_for(|begun| *begun).await.is_ok() {
                        return fetching(None);
                    }
                }
            }
        }
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        // Before the sender goes, so that who waits for it finds no mark.
        if self.begun.is_some() {
            self.client.fetching.lock().expect("nothing panics while it is held").remove(&self.digest);
        }
    }
}

impl LayerTask {
    async fn run(mut self) -> Result<LayerBlob> {
        let permit = match self.client.downloads.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                self.news.tell(LayerState::Waiting);
                let permit = self.client.downloads.clone().acquire_owned().await;
                permit.map_err(|_| Error::Cancelled("the pull of a layer"))?
            }
        };
        let fetching = Fetching::new(&self.client, &self.layer.digest).await;
        let lately = self.client.fetched.lock().expect("nothing panics while it is held").get(&self.layer.digest).cloned();
        let found = lately.and_then(|diff_id| self.ingest.known_layer(&self.layer.digest, &diff_id));
        if let Some(found) = found {
            self.news.tell(LayerState::Exists);
            return Ok(LayerBlob { media_type: layer_type(&self.layer, &found.media_type), ..found });
        }
        let paused = self.news.clone();
        let on_pause = Box::new(move |pause: Duration| paused.tell(LayerState::Retrying(pause)));
        let mut source = BlobSource::new(self.session.clone(), self.layer.clone(), self.gone.clone(), on_pause);
        let at = self.at;
        let diff_id = async {
            // Without the config the pull fails, and this task with it.
            let told = self.told.wait_for(Option::is_some).await.ok()?;
            told.as_ref().and_then(|diff_ids| diff_ids.get(at).cloned())
        };
        // Another pull fetches the blob: the store waits for that one, asking the registry would be in vain.
        let diff_id = if fetching.begun.is_some() {
            let here = self.ingest.partial(&self.layer.digest);
            tokio::join!(source.prepare(here), diff_id).1
        } else {
            diff_id.await
        };
        let expected = Expected {
            digest: Some(self.layer.digest.clone()),
            size: Some(self.layer.size),
            diff_id: Some(diff_id.ok_or(Error::Cancelled("the pull of a layer"))?),
            media_type: Some(self.layer.media_type.clone()).filter(|media_type| !media_type.is_empty()),
        };
        let (client, ingest, news) = (self.client, self.ingest, self.news.clone());
        let fetched = blocking(move || {
            // These end with the work, not with who waits for it.
            let _permit = permit;
            let fetching = fetching;
            let mut open = |offset| {
                if let Some(begun) = &fetching.begun {
                    begun.send_replace(true);
                }
                source.open(offset).map(|reader| Box::new(reader) as Box<dyn Read>)
            };
            let fetched = ingest.fetch_layer(&expected, &mut open as &mut dyn FnMut(u64) -> io::Result<Box<dyn Read>>, &|progress| {
                news.progress(&progress);
            });
            let fetched = fetched.map_err(|error| match error {
                // What broke is known better here.
                naru_store::Error::Stream { .. } => source.failure().unwrap_or(Error::Store(error)),
                error => Error::Store(error),
            })?;
            // Before the blob counts as no longer being fetched.
            let mut lately = client.fetched.lock().expect("nothing panics while it is held");
            if lately.len() >= MAX_LATELY {
                lately.clear();
            }
            lately.insert(fetched.digest.clone(), fetched.diff_id.clone());
            Ok(fetched)
        })
        .await?;
        self.news.tell(LayerState::Complete);
        Ok(fetched)
    }
}
