//! Calls about images.

use bytes::Bytes;
use http::{HeaderName, Method};

use super::{Body, ByteStream, Client, ClientError};
use crate::models::*;
use crate::query::Query;

const REGISTRY_CONFIG: HeaderName = HeaderName::from_static("x-registry-config");
const REGISTRY_AUTH: HeaderName = HeaderName::from_static("x-registry-auth");

/// What to pull, and as whom.
#[derive(Debug, Clone, Default)]
pub struct PullOptions {
    /// The name without tag.
    pub name: String,
    /// Tag or digest; empty pulls all tags.
    pub tag: String,
    pub platform: String,
    /// base64url of an [`AuthConfig`]; empty is nobody.
    pub auth: String,
}

/// The path of an image: its name may hold slashes, which stay. Of two in a row servers make one: such a name, as that of an
/// address, is encoded as a whole, so that the answer speaks of what was asked for.
fn image_path(name: &str, verb: &str) -> String {
    if name.contains("//") || name.ends_with('/') {
        return super::path("images", name, verb);
    }
    format!("/images/{}{verb}", name.split('/').map(crate::query::encode).collect::<Vec<_>>().join("/"))
}

impl Client {
    /// `GET /images/json`
    pub async fn image_list(&self, query: &Query) -> Result<Vec<ImageSummary>, ClientError> {
        self.json("list images", Method::GET, "/images/json", query, Body::empty()).await
    }

    /// `GET /images/{name}/json`, unparsed.
    pub async fn image_inspect_raw(&self, name: &str, query: &Query) -> Result<Bytes, ClientError> {
        self.bytes("inspect image", Method::GET, &image_path(name, "/json"), query, Body::empty()).await
    }

    /// `GET /images/{name}/history`
    pub async fn image_history(&self, name: &str, query: &Query) -> Result<Vec<HistoryItem>, ClientError> {
        self.json("image history", Method::GET, &image_path(name, "/history"), query, Body::empty()).await
    }

    /// `POST /images/{name}/tag`
    pub async fn image_tag(&self, name: &str, repository: &str, tag: &str) -> Result<(), ClientError> {
        let mut query = Query::new();
        query.push("repo", repository).text("tag", tag);
        self.done("tag image", Method::POST, &image_path(name, "/tag"), &query, Body::empty()).await
    }

    /// `DELETE /images/{name}`
    pub async fn image_remove(&self, name: &str, query: &Query) -> Result<Vec<ImageDeleteItem>, ClientError> {
        self.json("remove image", Method::DELETE, &image_path(name, ""), query, Body::empty()).await
    }

    /// `POST /images/load`; the answer is a progress stream, or plain text from old engines.
    pub async fn image_load(&self, query: &Query, body: Body) -> Result<ByteStream, ClientError> {
        self.stream("load images", Method::POST, "/images/load", query, body).await
    }

    /// `GET /images/get`
    pub async fn image_save(&self, query: &Query) -> Result<ByteStream, ClientError> {
        self.stream("save images", Method::GET, "/images/get", query, Body::empty()).await
    }

    /// `POST /images/create` with a body or a URL as source.
    pub async fn image_import(&self, query: &Query, body: Body) -> Result<ByteStream, ClientError> {
        self.stream("import image", Method::POST, "/images/create", query, body).await
    }

    /// `POST /images/create` from a registry. Naru's engine also tells what all layers weigh.
    pub async fn image_pull(&self, options: &PullOptions) -> Result<ByteStream, ClientError> {
        let mut query = Query::new();
        query
            .push("fromImage", options.name.clone())
            .text("tag", &options.tag)
            .text("platform", &options.platform.to_lowercase())
            .push("totals", "1");
        let auth = [(REGISTRY_AUTH, options.auth.as_str())];
        let headers = if options.auth.is_empty() { &[][..] } else { &auth[..] };
        let response = self.call("pull", Method::POST, "/images/create", &query, Body::empty(), headers).await?;
        Ok(ByteStream::new(response.into_body(), "pull"))
    }

    /// `POST /images/{name}/push`; engines want the header even when it is empty.
    pub async fn image_push(&self, name: &str, query: &Query, auth: &str) -> Result<ByteStream, ClientError> {
        let headers = [(REGISTRY_AUTH, auth)];
        let response = self.call("push", Method::POST, &image_path(name, "/push"), query, Body::empty(), &headers).await?;
        Ok(ByteStream::new(response.into_body(), "push"))
    }

    /// `POST /images/prune`
    pub async fn image_prune(&self, query: &Query) -> Result<ImagesPruneReport, ClientError> {
        self.json("prune images", Method::POST, "/images/prune", query, Body::empty()).await
    }

    /// `GET /images/search`
    pub async fn image_search(&self, query: &Query, auth: &str) -> Result<Vec<ImageSearchItem>, ClientError> {
        let auth = [(REGISTRY_AUTH, auth)];
        let headers = if auth[0].1.is_empty() { &[][..] } else { &auth[..] };
        let response = self.call("search", Method::GET, "/images/search", query, Body::empty(), headers).await?;
        let bytes = ByteStream::new(response.into_body(), "search").collect().await?;
        crate::json::from_slice(&bytes).map_err(|source| ClientError::Decode { what: "search", source })
    }

    /// `POST /commit`
    pub async fn commit(&self, query: &Query, config: &CommitRequest) -> Result<IdResponse, ClientError> {
        self.json("commit", Method::POST, "/commit", query, Body::json(config)).await
    }

    /// `POST /build/prune`
    pub async fn build_prune(&self, query: &Query) -> Result<BuildPruneReport, ClientError> {
        self.json("prune build cache", Method::POST, "/build/prune", query, Body::empty()).await
    }

    /// `POST /store/check`, Naru's own; `auth` is base64url of credentials by registry.
    pub async fn store_check(&self, query: &Query, auth: &str) -> Result<StoreCheckReport, ClientError> {
        let headers = [(REGISTRY_CONFIG, auth)];
        let response = self.call("check the store", Method::POST, "/store/check", query, Body::empty(), &headers).await?;
        let bytes = ByteStream::new(response.into_body(), "check the store").collect().await?;
        crate::json::from_slice(&bytes).map_err(|source| ClientError::Decode { what: "check the store", source })
    }
}
