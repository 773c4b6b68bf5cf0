//! `search`: Docker's old search interface, or the list of repositories where a registry has no search.

use crate::client::{Client, registry_name};
use crate::config::Credentials;
use crate::error::{Error, Result};
use crate::http::Call;
use crate::session::Session;
use crate::url::Url;
use ::http::header::ACCEPT;
use serde::Deserialize;

/// Docker's limits.
const DEFAULT_LIMIT: u32 = 25;
const MAX_LIMIT: u32 = 100;
const MAX_ANSWER: usize = 4 << 20;
/// The hub's search has a host of its own.
const HUB_SEARCH: &str = "https://index.docker.io/";

/// What of the results is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SearchFilters {
    /// Official images, or all others.
    pub is_official: Option<bool>,
    /// Automated builds, or all others.
    pub is_automated: Option<bool>,
    /// At least so many stars.
    pub stars: Option<u64>,
}

/// One repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SearchResult {
    /// As users write it.
    pub name: String,
    /// What it is.
    #[serde(deserialize_with = "null")]
    pub description: String,
    /// How many like it.
    #[serde(deserialize_with = "null")]
    pub star_count: u64,
    /// Made by Docker.
    #[serde(deserialize_with = "null")]
    pub is_official: bool,
    /// Built by the hub.
    #[serde(deserialize_with = "null")]
    pub is_automated: bool,
}

fn null<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl Client {
    /// Searches for `term`, which may begin with a registry: `debian`, `localhost:5000/app`.
    pub async fn search(
        &self,
        term: &str,
        limit: Option<u32>,
        filters: &SearchFilters,
        credentials: &Credentials,
    ) -> Result<Vec<SearchResult>> {
        let limit = limit.filter(|limit| *limit != 0).unwrap_or(DEFAULT_LIMIT);
        if limit > MAX_LIMIT {
            return Err(Error::Request(format!("limit {limit} is outside the range of [1, {MAX_LIMIT}]")));
        }
        if term.contains("://") {
            return Err(Error::Request(format!("invalid repository name ({term}), should not have a scheme")));
        }
        let (registry, term) = split(term);
        let base = if registry == "docker.io" { Url::parse(HUB_SEARCH)? } else { self.inner.base(&registry).await? };
        let session = Session {
            http: self.inner.http.clone(),
            auth: self.inner.auth.clone(),
            base,
            name: String::new(),
            scopes: vec!["registry:catalog:search".into()],
            credentials: credentials.clone(),
        };
        let found = match self.search_v1(&session, term, limit).await {
            Err(error) if registry != "docker.io" && is_absent(&error) => self.search_catalog(&session, &registry, term).await?,
            found => found?,
        };
        let wanted = |result: &SearchResult| {
            filters.is_official.is_none_or(|wanted| result.is_official == wanted)
                && filters.is_automated.is_none_or(|wanted| result.is_automated == wanted)
                && filters.stars.is_none_or(|least| result.star_count >= least)
        };
        Ok(found.into_iter().filter(wanted).take(limit as usize).collect())
    }

    async fn search_v1(&self, session: &Session, term: &str, limit: u32) -> Result<Vec<SearchResult>> {
        #[derive(Deserialize)]
        struct Page {
            #[serde(default)]
            results: Option<Vec<SearchResult>>,
        }
        let url = session.base.join("/v1/search")?.with_parameter("q", term).with_parameter("n", &limit.to_string());
        let reply = session.ask(false, &[200], || Call::get(url.clone()).header(ACCEPT, "application/json")).await?;
        let bytes = reply.document("search results", MAX_ANSWER, "4 MiB").await?;
        let page: Page = serde_json::from_slice(&bytes).map_err(|e| Error::invalid("search results", e.to_string()))?;
        Ok(page.results.unwrap_or_default())
    }

    async fn search_catalog(&self, session: &Session, registry: &str, term: &str) -> Result<Vec<SearchResult>> {
        let session = Session { scopes: vec!["registry:catalog:*".into()], ..session.clone() };
        let names = session.names("_catalog?n=1000", "repositories").await?;
        let matching = names.into_iter().filter(|name| name.contains(term));
        Ok(matching.map(|name| SearchResult { name: format!("{registry}/{name}"), ..SearchResult::default() }).collect())
    }
}

/// The registry has no such page (or says so with another status).
fn is_absent(error: &Error) -> bool {
    match error {
        Error::Status { status, .. } => matches!(status.get(..3), Some("404" | "405" | "501")),
        Error::Refused(refusal) => matches!(refusal.status, 404 | 405 | 501),
        Error::Invalid { .. } => true,
        _ => false,
    }
}

fn split(term: &str) -> (String, &str) {
    match term.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (registry_name(first), rest),
        _ => ("docker.io".to_owned(), term),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_may_name_a_registry() {
        for (term, registry, rest) in [
            ("debian", "docker.io", "debian"),
            ("naru/hello", "docker.io", "naru/hello"),
            ("docker.io/debian", "docker.io", "debian"),
            ("localhost:5000/app", "localhost:5000", "app"),
        ] {
            assert_eq!(split(term), (registry.to_owned(), rest));
        }
    }
}
