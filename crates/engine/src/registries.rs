//! Images that travel: pulls, pushes and questions to registries, with their events. The work is `naru-registry`'s.

use crate::Engine;
use crate::error::Result;
use crate::events::ObjectKind;
use naru_registry::{
    Credentials, LoginOutcome, ManifestInfo, PullEvent, PullOptions, Pulled, PushEvent, PushOptions, SearchFilters, SearchResult,
};
use naru_store::{LayerBlob, Repaired};
use naru_types::ImageRef;
use std::collections::HashMap;
use std::io::Read;

impl Engine {
    fn travel_event(&self, action: &str, name: &ImageRef) {
        let mut attributes = self.image(&name.canonical()).map(|image| crate::images::labels(&image)).unwrap_or_default();
        attributes.insert("name".to_owned(), name.familiar_name());
        self.events().publish(ObjectKind::Image, action, name.familiar(), attributes);
    }

    /// Pulls an image, or all tags of a repository. Dropping the future stops it; what has arrived is kept for the next.
    pub async fn pull(
        &self,
        reference: &ImageRef,
        all_tags: bool,
        options: PullOptions,
        progress: impl Fn(PullEvent) + Send + Sync,
    ) -> Result<Vec<Pulled>> {
        let client = &self.0.registries;
        let pulled = if all_tags {
            client.pull_all(self.store(), reference, options, progress).await?
        } else {
            vec![client.pull(self.store(), reference, options, progress).await?]
        };
        for one in &pulled {
            self.travel_event("pull", &one.reference);
        }
        Ok(pulled)
    }

    /// Pushes an image, or all tags of a repository.
    pub async fn push(
        &self,
        reference: &ImageRef,
        all_tags: bool,
        options: PushOptions,
        progress: impl Fn(PushEvent) + Send + Sync,
    ) -> Result<()> {
        let client = &self.0.registries;
        let pushed = if all_tags {
            client.push_all(self.store(), reference, options, progress).await?
        } else {
            vec![client.push(self.store(), reference, options, progress).await?]
        };
        for one in pushed {
            self.travel_event("push", &ImageRef { tag: Some(one.tag), ..reference.clone() });
        }
        Ok(())
    }

    /// A file of the web, to be read on a blocking thread.
    pub async fn download(&self, address: &str) -> Result<impl std::io::Read + Send + use<>> {
        Ok(self.0.registries.download(address).await?)
    }

    /// Checks credentials with a registry.
    pub async fn login(&self, registry: &str, credentials: &Credentials) -> Result<LoginOutcome> {
        Ok(self.0.registries.login(registry, credentials).await?)
    }

    /// Searches a registry.
    pub async fn search(
        &self,
        term: &str,
        limit: Option<u32>,
        filters: &SearchFilters,
        credentials: &Credentials,
    ) -> Result<Vec<SearchResult>> {
        Ok(self.0.registries.search(term, limit, filters, credentials).await?)
    }

    /// What a registry has under a name.
    pub async fn distribution(&self, reference: &ImageRef, credentials: &Credentials) -> Result<ManifestInfo> {
        Ok(self.0.registries.manifest(reference, credentials).await?)
    }
}

/// What a check of the store found, and what became of it.
#[derive(Debug)]
pub struct Finding {
    /// The damage in words.
    pub damage: String,
    /// Why it is still there; absent when it was repaired.
    pub unrepaired: Option<String>,
}

impl Engine {
    /// Looks for damage in the image store and, with credentials by registry, repairs what it can: from what is here, else
    /// from where it came. `deep` reads everything.
    pub async fn check_store(&self, deep: bool, repair: Option<HashMap<String, Credentials>>) -> Result<Vec<Finding>> {
        let (client, runtime) = (self.0.registries.clone(), tokio::runtime::Handle::current());
        self.with_store(move |store| {
            let mut findings = Vec::new();
            for damage in store.check(deep)? {
                let unrepaired = match &repair {
                    None => Some("not asked to repair it".to_owned()),
                    Some(credentials) => {
                        let mut refetch =
                            |blob: &LayerBlob, names: &[ImageRef]| runtime.block_on(refetch(&client, blob, names, credentials));
                        match store.repair(&damage, &mut refetch)? {
                            Repaired::Yes => None,
                            Repaired::No { reason } => Some(reason),
                        }
                    }
                };
                findings.push(Finding { damage: damage.to_string(), unrepaired });
            }
            Ok(findings)
        })
        .await
    }
}

/// Gets a blob from one of the places its images came from.
async fn refetch(
    client: &naru_registry::Client,
    blob: &LayerBlob,
    names: &[ImageRef],
    credentials: &HashMap<String, Credentials>,
) -> naru_store::Result<Box<dyn Read>> {
    let failed = |source: std::io::Error| naru_store::Error::Io { action: "fetch again", path: blob.digest.to_string(), source };
    let mut last = std::io::Error::other("its image was not pulled from a registry");
    for name in names {
        let who = credentials.get(&name.domain).cloned().unwrap_or_default();
        let is_manifest = blob.media_type.contains("manifest") || blob.media_type.contains("index");
        let found: naru_registry::Result<Box<dyn Read>> = if is_manifest {
            let exact = ImageRef { tag: None, digest: Some(blob.digest.clone()), ..name.clone() };
            client.manifest(&exact, &who).await.map(|info| Box::new(std::io::Cursor::new(info.raw)) as Box<dyn Read>)
        } else {
            client.fetch_blob(name, &blob.digest, blob.size, 0, &who).await.map(|stream| Box::new(stream) as Box<dyn Read>)
        };
        match found {
            Ok(bytes) => return Ok(bytes),
            Err(error) => last = std::io::Error::other(crate::chain(&error)),
        }
    }
    Err(failed(last))
}
