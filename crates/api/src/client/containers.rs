//! Calls about containers and execs.

use base64::Engine as _;
use bytes::Bytes;
use http::Method;

use super::{Body, ByteStream, Client, ClientError, Hijacked, path};
use crate::models::*;
use crate::query::Query;

const PATH_STAT: &str = "x-docker-container-path-stat";

/// What to attach to.
#[derive(Debug, Clone, Default)]
pub struct AttachOptions {
    pub stream: bool,
    pub logs: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub detach_keys: String,
}

/// Which log lines to fetch.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    pub stdout: bool,
    pub stderr: bool,
    pub follow: bool,
    pub timestamps: bool,
    pub details: bool,
    /// Unix seconds with an optional fraction.
    pub since: String,
    pub until: String,
    pub tail: String,
}

/// How an archive is unpacked.
#[derive(Debug, Clone, Copy, Default)]
pub struct ArchiveOptions {
    pub no_overwrite_dir_non_dir: bool,
    pub copy_uid_gid: bool,
}

/// A wait that the engine has accepted.
pub struct Wait(ByteStream);

impl Wait {
    /// Waits for the answer.
    pub async fn finish(self) -> Result<WaitResponse, ClientError> {
        let bytes = self.0.collect().await?;
        crate::json::from_slice(&bytes).map_err(|source| ClientError::Decode { what: "wait", source })
    }
}

impl Client {
    /// `GET /containers/json`
    pub async fn container_list(&self, query: &Query) -> Result<Vec<ContainerSummary>, ClientError> {
        self.json("list containers", Method::GET, "/containers/json", query, Body::empty()).await
    }

    /// `POST /containers/create`
    pub async fn container_create(&self, query: &Query, request: &ContainerCreateRequest) -> Result<ContainerCreateResponse, ClientError> {
        self.json("create container", Method::POST, "/containers/create", query, Body::json(request)).await
    }

    /// `GET /containers/{id}/json`
    pub async fn container_inspect(&self, id: &str) -> Result<ContainerInspect, ClientError> {
        self.json("inspect container", Method::GET, &path("containers", id, "/json"), &Query::new(), Body::empty()).await
    }

    /// `GET /containers/{id}/json`, unparsed.
    pub async fn container_inspect_raw(&self, id: &str, size: bool) -> Result<Bytes, ClientError> {
        let mut query = Query::new();
        query.flag("size", size);
        self.bytes("inspect container", Method::GET, &path("containers", id, "/json"), &query, Body::empty()).await
    }

    async fn container_post(&self, what: &'static str, id: &str, verb: &str, query: &Query) -> Result<(), ClientError> {
        self.done(what, Method::POST, &path("containers", id, verb), query, Body::empty()).await
    }

    /// `POST /containers/{id}/start`
    pub async fn container_start(&self, id: &str, query: &Query) -> Result<(), ClientError> {
        self.container_post("start container", id, "/start", query).await
    }

    /// `POST /containers/{id}/stop`
    pub async fn container_stop(&self, id: &str, query: &Query) -> Result<(), ClientError> {
        self.container_post("stop container", id, "/stop", query).await
    }

    /// `POST /containers/{id}/restart`
    pub async fn container_restart(&self, id: &str, query: &Query) -> Result<(), ClientError> {
        self.container_post("restart container", id, "/restart", query).await
    }

    /// `POST /containers/{id}/kill`
    pub async fn container_kill(&self, id: &str, signal: &str) -> Result<(), ClientError> {
        let mut query = Query::new();
        query.text("signal", signal);
        self.container_post("kill container", id, "/kill", &query).await
    }

    /// `POST /containers/{id}/pause`
    pub async fn container_pause(&self, id: &str) -> Result<(), ClientError> {
        self.container_post("pause container", id, "/pause", &Query::new()).await
    }

    /// `POST /containers/{id}/unpause`
    pub async fn container_unpause(&self, id: &str) -> Result<(), ClientError> {
        self.container_post("unpause container", id, "/unpause", &Query::new()).await
    }

    /// `POST /containers/{id}/rename`
    pub async fn container_rename(&self, id: &str, name: &str) -> Result<(), ClientError> {
        let mut query = Query::new();
        query.push("name", name);
        self.container_post("rename container", id, "/rename", &query).await
    }

    /// `POST /containers/{id}/resize`
    pub async fn container_resize(&self, id: &str, rows: u16, columns: u16) -> Result<(), ClientError> {
        let mut query = Query::new();
        query.push("h", rows.to_string()).push("w", columns.to_string());
        self.container_post("resize container", id, "/resize", &query).await
    }

    /// `POST /containers/{id}/update`
    pub async fn container_update(&self, id: &str, request: &UpdateRequest) -> Result<UpdateResponse, ClientError> {
        self.json("update container", Method::POST, &path("containers", id, "/update"), &Query::new(), Body::json(request)).await
    }

    /// `POST /containers/{id}/wait`: returns when the engine has registered the wait.
    pub async fn container_wait(&self, id: &str, condition: &str) -> Result<Wait, ClientError> {
        let mut query = Query::new();
        query.text("condition", condition);
        self.stream("wait", Method::POST, &path("containers", id, "/wait"), &query, Body::empty()).await.map(Wait)
    }

    /// `DELETE /containers/{id}`
    pub async fn container_remove(&self, id: &str, query: &Query) -> Result<(), ClientError> {
        self.done("remove container", Method::DELETE, &path("containers", id, ""), query, Body::empty()).await
    }

    /// `GET /containers/{id}/logs`
    pub async fn container_logs(&self, id: &str, options: &LogOptions) -> Result<ByteStream, ClientError> {
        let mut query = Query::new();
        query.flag("stdout", options.stdout).flag("stderr", options.stderr).flag("follow", options.follow);
        query.flag("timestamps", options.timestamps).flag("details", options.details);
        query.text("since", &options.since).text("until", &options.until).text("tail", &options.tail);
        self.stream("container logs", Method::GET, &path("containers", id, "/logs"), &query, Body::empty()).await
    }

    /// `POST /containers/{id}/attach`
    pub async fn container_attach(&self, id: &str, options: &AttachOptions) -> Result<Hijacked, ClientError> {
        let mut query = Query::new();
        query.flag("stream", options.stream).flag("logs", options.logs).flag("stdin", options.stdin);
        query.flag("stdout", options.stdout).flag("stderr", options.stderr).text("detachKeys", &options.detach_keys);
        self.hijack("attach", &path("containers", id, "/attach"), &query, Body::empty()).await
    }

    /// `GET /containers/{id}/top`
    pub async fn container_top(&self, id: &str, ps_args: &str) -> Result<ContainerTop, ClientError> {
        let mut query = Query::new();
        query.text("ps_args", ps_args);
        self.json("top", Method::GET, &path("containers", id, "/top"), &query, Body::empty()).await
    }

    /// `GET /containers/{id}/stats`
    pub async fn container_stats(&self, id: &str, stream: bool) -> Result<ByteStream, ClientError> {
        let mut query = Query::new();
        query.push("stream", if stream { "1" } else { "0" });
        self.stream("container stats", Method::GET, &path("containers", id, "/stats"), &query, Body::empty()).await
    }

    /// `GET /containers/{id}/changes`
    pub async fn container_changes(&self, id: &str) -> Result<Option<Vec<FilesystemChange>>, ClientError> {
        self.json("diff", Method::GET, &path("containers", id, "/changes"), &Query::new(), Body::empty()).await
    }

    /// `GET /containers/{id}/export`
    pub async fn container_export(&self, id: &str) -> Result<ByteStream, ClientError> {
        self.stream("export", Method::GET, &path("containers", id, "/export"), &Query::new(), Body::empty()).await
    }

    /// `POST /containers/prune`
    pub async fn container_prune(&self, query: &Query) -> Result<ContainersPruneReport, ClientError> {
        self.json("prune containers", Method::POST, "/containers/prune", query, Body::empty()).await
    }

    fn path_stat(headers: &http::HeaderMap) -> Result<PathStat, ClientError> {
        let missing = || ClientError::Incomplete("the path's stat");
        let header = headers.get(PATH_STAT).ok_or_else(missing)?;
        let text = base64::engine::general_purpose::STANDARD.decode(header.as_bytes()).map_err(|_| missing())?;
        crate::json::from_slice(&text).map_err(|source| ClientError::Decode { what: "path stat", source })
    }

    /// `HEAD /containers/{id}/archive`
    pub async fn container_stat_path(&self, id: &str, inside: &str) -> Result<PathStat, ClientError> {
        let mut query = Query::new();
        query.push("path", inside);
        let response = self.call("stat path", Method::HEAD, &path("containers", id, "/archive"), &query, Body::empty(), &[]).await;
        match response {
            Ok(response) => Self::path_stat(response.headers()),
            // HEAD has no body to carry the reason.
            Err(ClientError::Api { status: 404, .. }) => {
                Err(ClientError::Api { status: 404, message: format!("Could not find the file {inside} in container {id}") })
            }
            Err(error) => Err(error),
        }
    }

    /// `GET /containers/{id}/archive`
    pub async fn container_archive(&self, id: &str, inside: &str) -> Result<(PathStat, ByteStream), ClientError> {
        let mut query = Query::new();
        query.push("path", inside);
        let response = self.call("copy", Method::GET, &path("containers", id, "/archive"), &query, Body::empty(), &[]).await?;
        let stat = Self::path_stat(response.headers())?;
        Ok((stat, ByteStream::new(response.into_body(), "copy")))
    }

    /// `PUT /containers/{id}/archive`
    pub async fn container_put_archive(&self, id: &str, inside: &str, options: ArchiveOptions, body: Body) -> Result<(), ClientError> {
        let mut query = Query::new();
        query.push("path", inside);
        if options.no_overwrite_dir_non_dir {
            query.push("noOverwriteDirNonDir", "true");
        }
        if options.copy_uid_gid {
            query.push("copyUIDGID", "true");
        }
        self.done("copy", Method::PUT, &path("containers", id, "/archive"), &query, body).await
    }

    /// `POST /containers/{id}/exec`
    pub async fn exec_create(&self, id: &str, request: &ExecCreateRequest) -> Result<IdResponse, ClientError> {
        self.json("exec", Method::POST, &path("containers", id, "/exec"), &Query::new(), Body::json(request)).await
    }

    /// `POST /exec/{id}/start`, attached.
    pub async fn exec_attach(&self, id: &str, request: &ExecStartRequest) -> Result<Hijacked, ClientError> {
        self.hijack("exec", &path("exec", id, "/start"), &Query::new(), Body::json(request)).await
    }

    /// `POST /exec/{id}/start`, detached.
    pub async fn exec_start(&self, id: &str, request: &ExecStartRequest) -> Result<(), ClientError> {
        self.done("exec", Method::POST, &path("exec", id, "/start"), &Query::new(), Body::json(request)).await
    }

    /// `GET /exec/{id}/json`
    pub async fn exec_inspect(&self, id: &str) -> Result<ExecInspect, ClientError> {
        self.json("inspect exec", Method::GET, &path("exec", id, "/json"), &Query::new(), Body::empty()).await
    }

    /// `POST /exec/{id}/resize`
    pub async fn exec_resize(&self, id: &str, rows: u16, columns: u16) -> Result<(), ClientError> {
        let mut query = Query::new();
        query.push("h", rows.to_string()).push("w", columns.to_string());
        self.done("resize exec", Method::POST, &path("exec", id, "/resize"), &query, Body::empty()).await
    }
}
