//! The client: settings and memory that all pulls and pushes share, and the questions that need no store.

use crate::auth::Auth;
use crate::blob::{Alive, BlobReader};
use crate::config::{Credentials, RegistryConfig};
use crate::error::{Error, Result, TransportError};
use crate::event::{PullEvent, PushEvent};
use crate::flight::Flights;
use crate::http::{Call, Http, status_text};
use crate::manifest::{Document, Manifest, platforms};
use crate::pull::{PullKey, Pulled};
use crate::push::{PushKey, Pushed};
use crate::session::{Session, explain_pull};
use crate::upload::{Source, Upload};
use crate::url::Url;
use ::http::header::AUTHORIZATION;
use bytes::Bytes;
use naru_store::ImageConfig;
use naru_types::{Digest, ImageRef, Platform};
use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, watch};

/// The registry whose name in references is not that of its host.
const HUB: &str = "docker.io";
const HUB_HOST: &str = "registry-1.docker.io";

/// An insecure registry may get a certificate while we run.
const SCHEME_VALID: Duration = Duration::from_secs(120);

/// The way between registries and the store; clones share everything.
#[derive(Clone)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub config: Arc<RegistryConfig>,
    pub http: Arc<Http>,
    pub auth: Arc<Auth>,
    pub downloads: Arc<Semaphore>,
    pub uploads: Arc<Semaphore>,
    /// `https` or not, of insecure registries that have answered, and when.
    schemes: Mutex<HashMap<String, (bool, Instant)>>,
    pub pulls: Flights<PullKey, PullEvent, Pulled>,
    pub pushes: Flights<PushKey, PushEvent, Pushed>,
    /// Blobs that are being fetched by some pull.
    pub fetching: Mutex<HashMap<Digest, watch::Receiver<bool>>>,
    /// Diff ids of blobs that pulls have fetched lately: an image that is not recorded yet may have brought them.
    pub fetched: Mutex<HashMap<Digest, Digest>>,
}

/// What a registry has under a reference.
#[derive(Debug, Clone)]
pub struct ManifestInfo {
    /// `application/vnd.oci.image.index.v1+json`, ...
    pub media_type: String,
    /// The digest of the bytes.
    pub digest: Digest,
    /// Their number.
    pub size: u64,
    /// The manifest or index as it came.
    pub raw: Vec<u8>,
    /// What it says.
    pub document: Document,
    /// The platforms it is for.
    pub platforms: Vec<Platform>,
    /// The config of an image.
    pub config: Option<Vec<u8>>,
}

/// What came of a login.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoginOutcome {
    /// To be kept instead of the password, where the registry gives one.
    pub identity_token: Option<String>,
}

/// A blob being read outside of a pull, on a blocking thread.
pub struct BlobStream {
    reader: BlobReader,
    _alive: Alive,
}

impl Read for BlobStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

impl Client {
    /// Checks the settings; nothing is connected yet.
    pub fn new(config: RegistryConfig) -> Result<Client> {
        config.check()?;
        let config = Arc::new(config);
        Ok(Client {
            inner: Arc::new(Inner {
                http: Arc::new(Http::new(config.clone())),
                auth: Arc::default(),
                downloads: Arc::new(Semaphore::new(config.max_concurrent_downloads)),
                uploads: Arc::new(Semaphore::new(config.max_concurrent_uploads)),
                schemes: Mutex::default(),
                pulls: Flights::new(),
                pushes: Flights::new(),
                fetching: Mutex::default(),
                fetched: Mutex::default(),
                config,
            }),
        })
    }

    /// What the registry has under a reference, without pulling it.
    pub async fn manifest(&self, reference: &ImageRef, credentials: &Credentials) -> Result<ManifestInfo> {
        let session = self.inner.session(reference, credentials, "pull").await?;
        let name = manifest_name(reference);
        let wanted = reference.digest.as_ref();
        let fetched = session.get_manifest(&name, wanted).await;
        let fetched = fetched.map_err(|e| explain_pull(e, &reference.familiar(), &reference.familiar_name()))?;
        let (platforms, config) = match &fetched.document {
            Document::Index(entries) => (platforms(entries), None),
            Document::Manifest(manifest) => {
                let config = session.get_blob("image config", &manifest.config.digest, manifest.config.size).await?;
                // Artifacts have configs of their own; they are for no platform.
                match ImageConfig::parse(&config).ok().filter(|config| !config.os.is_empty()) {
                    Some(parsed) => (vec![parsed.platform()], Some(config.to_vec())),
                    None => (Vec::new(), None),
                }
            }
        };
        Ok(ManifestInfo {
            media_type: fetched.media_type,
            digest: fetched.digest,
            size: fetched.bytes.len() as u64,
            raw: fetched.bytes.to_vec(),
            document: fetched.document,
            platforms,
            config,
        })
    }

    /// Brings a manifest or index to a registry under a tag or its digest. What it names has to be there.
    pub async fn put_manifest(&self, reference: &ImageRef, media_type: &str, bytes: Vec<u8>, credentials: &Credentials) -> Result<Digest> {
        let session = self.inner.session(reference, credentials, "push,pull").await?;
        session.put_manifest(&manifest_name(reference), media_type, bytes.into()).await
    }

    /// Has a registry take an image's blobs over from another of its repositories; nothing is sent.
    pub async fn take_over(&self, from: &ImageRef, to: &ImageRef, image: &Manifest, credentials: &Credentials) -> Result<()> {
        let session = self.inner.session(to, credentials, "push,pull").await?;
        for blob in image.layers.iter().filter(|layer| !layer.is_foreign()).chain([&image.config]) {
            let upload = Upload {
                session: session.clone(),
                digest: blob.digest.clone(),
                size: blob.size,
                source: Source::Bytes(Bytes::new()),
                mounts: vec![from.path.clone()],
                tell: Arc::new(|_| ()),
            };
            if !upload.take_over().await? {
                return Err(Error::NotTakenOver { digest: blob.digest.clone(), from: from.familiar_name(), to: to.familiar_name() });
            }
        }
        Ok(())
    }

    /// All tags of a repository.
    pub async fn tags(&self, reference: &ImageRef, credentials: &Credentials) -> Result<Vec<String>> {
        let session = self.inner.session(reference, credentials, "pull").await?;
        let tags = session.names("tags/list?n=1000", "tags").await;
        tags.map_err(|e| explain_pull(e, &reference.familiar(), &reference.familiar_name()))
    }

    /// A blob of a repository from `offset` on, for a store that has lost it. The reader's bytes are not checked.
    pub async fn fetch_blob(
        &self,
        reference: &ImageRef,
        digest: &Digest,
        size: u64,
        offset: u64,
        credentials: &Credentials,
    ) -> Result<BlobStream> {
        let session = self.inner.session(reference, credentials, "pull").await?;
        let reply = self.inner.http.retry(false, || session.open_blob(digest, offset, size)).await;
        let reply = reply.map_err(|e| explain_pull(e, &reference.familiar(), &reference.familiar_name()))?;
        let alive = Alive::new();
        Ok(BlobStream { reader: BlobReader::single(reply, &alive), _alive: alive })
    }

    /// Any file of the web, under the same guard and through the same proxies as a registry's.
    pub async fn download(&self, address: &str) -> Result<BlobStream> {
        let url = Url::parse(address)?;
        let reply = self.inner.http.send(Call::get(url.clone()), &url).await?;
        if !reply.status.is_success() {
            return Err(Error::Status { method: "Get".into(), url: url.to_string(), status: status_text(reply.status) });
        }
        let alive = Alive::new();
        Ok(BlobStream { reader: BlobReader::single(reply, &alive), _alive: alive })
    }

    /// Checks credentials with a registry (`docker.io`, `localhost:5000`, with or without a scheme).
    pub async fn login(&self, registry: &str, credentials: &Credentials) -> Result<LoginOutcome> {
        let base = self.inner.base(&registry_name(registry)).await?;
        let url = base.join("/v2/")?;
        let (reply, url) = (self.inner.http.retry(false, || self.inner.http.send(Call::get(url.clone()), &base)).await?, url);
        match reply.status.as_u16() {
            // It wants no login.
            200 => return Ok(LoginOutcome::default()),
            401 => {}
            _ => return Err(reply.refusal().await),
        }
        let Some((header, identity_token)) = self.inner.auth.login(&self.inner.http, &base, &reply, credentials).await? else {
            return Err(reply.refusal().await);
        };
        reply.finish().await;
        let mut call = Call::get(url.clone());
        call.headers.insert(AUTHORIZATION, header);
        let reply = self.inner.http.send(call, &base).await?;
        match reply.status.as_u16() {
            200 => Ok(LoginOutcome { identity_token }),
            401 | 403 => Err(Error::Login { url: url.to_string(), status: status_text(reply.status) }),
            _ => Err(reply.refusal().await),
        }
    }
}

impl Inner {
    /// A conversation about the reference's repository with the registry itself.
    pub async fn session(&self, reference: &ImageRef, credentials: &Credentials, actions: &str) -> Result<Session> {
        let base = self.base(&reference.domain).await?;
        Ok(self.session_at(base, reference, credentials.clone(), actions))
    }

    /// The same, with a mirror.
    pub fn session_at(&self, base: Url, reference: &ImageRef, credentials: Credentials, actions: &str) -> Session {
        Session {
            http: self.http.clone(),
            auth: self.auth.clone(),
            base,
            name: reference.path.clone(),
            scopes: vec![format!("repository:{}:{actions}", reference.path)],
            credentials,
        }
    }

    /// Where a registry is: HTTPS, unless it is insecure and speaks HTTP only.
    pub async fn base(&self, domain: &str) -> Result<Url> {
        let host = if domain == HUB { HUB_HOST } else { domain };
        let https = Url::new(true, host, "/")?;
        if !self.config.is_insecure(host) {
            return Ok(https);
        }
        let known = self.schemes.lock().expect("nothing panics while it is held").get(host).copied();
        if let Some((secure, _)) = known.filter(|(_, since)| since.elapsed() < SCHEME_VALID) {
            return Url::new(secure, host, "/");
        }
        let answer = self.http.send(Call::get(https.join("/v2/")?), &https).await;
        let secure = match &answer {
            Ok(_) => true,
            Err(Error::Transport { reason, .. }) => match reason {
                TransportError::PlainHttp { .. } | TransportError::Tls(_) | TransportError::Broken(_) => false,
                // Without a port, HTTP has another one.
                TransportError::ConnectionRefused { .. } if !host.trim_end_matches(|c: char| c.is_ascii_digit()).ends_with(':') => false,
                // Nobody is there now: the next attempt asks again.
                _ => return Ok(https),
            },
            Err(_) => true,
        };
        if let Ok(reply) = answer {
            reply.finish().await;
        }
        self.schemes.lock().expect("nothing panics while it is held").insert(host.to_owned(), (secure, Instant::now()));
        Url::new(secure, host, "/")
    }
}

/// The tag, or the digest where there is one.
pub(crate) fn manifest_name(reference: &ImageRef) -> String {
    match (&reference.digest, &reference.tag) {
        (Some(digest), _) => digest.to_string(),
        (None, Some(tag)) => tag.clone(),
        (None, None) => "latest".into(),
    }
}

/// The registry meant by what users and Docker's configuration write: `https://index.docker.io/v1/` is `docker.io`.
pub(crate) fn registry_name(text: &str) -> String {
    let text = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
    match text.split('/').next().unwrap_or_default() {
        "" | "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com" => HUB.to_owned(),
        name => name.to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_by_any_name() {
        for (text, name) in [
            ("", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("docker.io", "docker.io"),
            ("localhost:5000", "localhost:5000"),
            ("https://Reg.Example/v2/", "reg.example"),
        ] {
            assert_eq!(registry_name(text), name);
        }
    }
}
