//! Calls about networks, volumes and the engine itself.

use bytes::Bytes;
use http::Method;

use super::{Body, Client, ClientError, JsonLines, path};
use crate::models::*;
use crate::query::Query;

impl Client {
    /// `GET /networks`
    pub async fn network_list(&self, query: &Query) -> Result<Vec<Network>, ClientError> {
        self.json("list networks", Method::GET, "/networks", query, Body::empty()).await
    }

    /// `GET /networks/{id}`, unparsed.
    pub async fn network_inspect_raw(&self, id: &str, query: &Query) -> Result<Bytes, ClientError> {
        self.bytes("inspect network", Method::GET, &path("networks", id, ""), query, Body::empty()).await
    }

    /// `POST /networks/create`
    pub async fn network_create(&self, request: &NetworkCreateRequest) -> Result<NetworkCreateResponse, ClientError> {
        self.json("create network", Method::POST, "/networks/create", &Query::new(), Body::json(request)).await
    }

    /// `DELETE /networks/{id}`
    pub async fn network_remove(&self, id: &str) -> Result<(), ClientError> {
        self.done("remove network", Method::DELETE, &path("networks", id, ""), &Query::new(), Body::empty()).await
    }

    /// `POST /networks/{id}/connect`
    pub async fn network_connect(&self, id: &str, request: &NetworkConnectRequest) -> Result<(), ClientError> {
        self.done("connect network", Method::POST, &path("networks", id, "/connect"), &Query::new(), Body::json(request)).await
    }

    /// `POST /networks/{id}/disconnect`
    pub async fn network_disconnect(&self, id: &str, request: &NetworkDisconnectRequest) -> Result<(), ClientError> {
        self.done("disconnect network", Method::POST, &path("networks", id, "/disconnect"), &Query::new(), Body::json(request)).await
    }

    /// `POST /networks/prune`
    pub async fn network_prune(&self, query: &Query) -> Result<NetworksPruneReport, ClientError> {
        self.json("prune networks", Method::POST, "/networks/prune", query, Body::empty()).await
    }

    /// `GET /volumes`
    pub async fn volume_list(&self, query: &Query) -> Result<VolumeListResponse, ClientError> {
        self.json("list volumes", Method::GET, "/volumes", query, Body::empty()).await
    }

    /// `GET /volumes/{name}`, unparsed.
    pub async fn volume_inspect_raw(&self, name: &str) -> Result<Bytes, ClientError> {
        self.bytes("inspect volume", Method::GET, &path("volumes", name, ""), &Query::new(), Body::empty()).await
    }

    /// `POST /volumes/create`
    pub async fn volume_create(&self, request: &VolumeCreateRequest) -> Result<Volume, ClientError> {
        self.json("create volume", Method::POST, "/volumes/create", &Query::new(), Body::json(request)).await
    }

    /// `DELETE /volumes/{name}`
    pub async fn volume_remove(&self, name: &str, force: bool) -> Result<(), ClientError> {
        let mut query = Query::new();
        query.flag("force", force);
        self.done("remove volume", Method::DELETE, &path("volumes", name, ""), &query, Body::empty()).await
    }

    /// `POST /volumes/prune`
    pub async fn volume_prune(&self, query: &Query) -> Result<VolumesPruneReport, ClientError> {
        self.json("prune volumes", Method::POST, "/volumes/prune", query, Body::empty()).await
    }

    /// `GET /version`
    pub async fn server_version(&self) -> Result<SystemVersion, ClientError> {
        self.json("version", Method::GET, "/version", &Query::new(), Body::empty()).await
    }

    /// `GET /info`, unparsed: newer engines tell more than [`SystemInfo`] knows.
    pub async fn info_raw(&self) -> Result<Bytes, ClientError> {
        self.bytes("info", Method::GET, "/info", &Query::new(), Body::empty()).await
    }

    /// `GET /system/df`
    pub async fn disk_usage(&self, query: &Query) -> Result<DiskUsage, ClientError> {
        self.json("disk usage", Method::GET, "/system/df", query, Body::empty()).await
    }

    /// `GET /events`
    pub async fn events(&self, query: &Query) -> Result<JsonLines<EventMessage>, ClientError> {
        Ok(self.stream("events", Method::GET, "/events", query, Body::empty()).await?.json_lines())
    }

    /// `POST /auth`
    pub async fn login(&self, auth: &AuthConfig) -> Result<AuthResponse, ClientError> {
        self.json("login", Method::POST, "/auth", &Query::new(), Body::json(auth)).await
    }
}
