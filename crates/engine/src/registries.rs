//! Images that travel: pulls, pushes and questions to registries, with their events. The work is `naru-registry`'s.

use crate::Engine;
use crate::error::Result;
use crate::events::ObjectKind;
use naru_registry::{
    Credentials, LoginOutcome, ManifestInfo, PullEvent, PullOptions, Pulled, PushEvent, PushOptions, SearchFilters, SearchResult,
};
use naru_types::ImageRef;
use std::collections::BTreeMap;

impl Engine {
    fn travel_event(&self, action: &str, name: &ImageRef) {
        let name = name.familiar();
        self.events().publish(ObjectKind::Image, action, name.clone(), BTreeMap::from([("name".to_owned(), name)]));
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
