//! A conversation with one registry about one repository: addresses, authorization, and the questions of the protocol.

use crate::auth::{Asker, Auth};
use crate::config::Credentials;
use crate::error::{Error, Refusal, Result, TransportError, printable};
use crate::headers::{content_range, next_link};
use crate::http::{Call, Http, Payload, Reply};
use crate::manifest::{self, Document, MAX_MANIFEST};
use crate::url::Url;
use ::http::Method;
use ::http::header::{ACCEPT, AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, LINK, RANGE};
use bytes::Bytes;
use naru_types::Digest;
use std::sync::Arc;

/// Tags and repositories that are listed at most, and the bytes of one page.
const MAX_NAMES: usize = 100_000;
const MAX_PAGE: usize = 4 << 20;

/// See the module.
#[derive(Clone)]
pub(crate) struct Session {
    pub http: Arc<Http>,
    pub auth: Arc<Auth>,
    /// `https://host[/prefix]`.
    pub base: Url,
    /// The repository, empty for questions about the registry.
    pub name: String,
    pub scopes: Vec<String>,
    pub credentials: Credentials,
}

/// A manifest or index whose digest was checked.
#[derive(Debug, Clone)]
pub(crate) struct Fetched {
    pub bytes: Bytes,
    pub media_type: String,
    pub digest: Digest,
    pub document: Document,
}

impl Session {
    pub fn host(&self) -> String {
        self.base.authority()
    }

    /// `<base>/v2/<name>/<rest>`.
    pub fn url(&self, rest: &str) -> Result<Url> {
        let prefix = self.base.path_and_query.trim_end_matches('/');
        let name = if self.name.is_empty() { String::new() } else { format!("{}/", self.name) };
        self.base.join(&format!("{prefix}/v2/{name}{rest}"))
    }

    /// Sends a request with what the registry wants to see. A 401 is answered twice at most.
    pub async fn send(&self, call: Call) -> Result<Reply> {
        self.send_with(call, &self.scopes).await
    }

    pub async fn send_with(&self, mut call: Call, scopes: &[String]) -> Result<Reply> {
        // Only the registry itself gets to see it; uploads may go elsewhere.
        if !call.url.same_origin(&self.base) {
            return self.http.send(call, &self.base).await;
        }
        let asker = Asker { origin: &self.base, scopes, credentials: &self.credentials };
        let mut sent = self.auth.known(&self.http, &asker).await?;
        // A token may have to be renewed, and its scope widened.
        for _ in 0..2 {
            if let Some(header) = &sent {
                call.headers.insert(AUTHORIZATION, header.clone());
            }
            let again = call.again();
            let reply = self.http.send(call, &self.base).await?;
            if reply.status.as_u16() != 401 {
                return Ok(reply);
            }
            let header = self.auth.answer(&self.http, &asker, &reply, sent.as_ref()).await?;
            let (Some(header), Some(again)) = (header, again) else { return Ok(reply) };
            reply.finish().await;
            sent = Some(header);
            call = again;
        }
        if let Some(header) = sent {
            call.headers.insert(AUTHORIZATION, header);
        }
        self.http.send(call, &self.base).await
    }

    /// Asks until one of the statuses `welcome` comes, or an error that stays.
    pub async fn ask(&self, patient: bool, welcome: &[u16], make: impl Fn() -> Call) -> Result<Reply> {
        self.http
            .retry(patient, || async {
                let reply = self.send(make()).await?;
                if welcome.contains(&reply.status.as_u16()) { Ok(reply) } else { Err(reply.refusal().await) }
            })
            .await
    }

    /// The digest that a tag has now, with one HEAD; nothing when the registry does not tell.
    pub async fn head_manifest(&self, reference: &str) -> Result<Option<Digest>> {
        let url = self.url(&format!("manifests/{reference}"))?;
        let reply = self.ask(false, &[200], || accepting_manifests(Call::new(Method::HEAD, url.clone()))).await?;
        Ok(content_digest(&reply))
    }

    /// A manifest or index by tag or digest.
    pub async fn get_manifest(&self, reference: &str, wanted: Option<&Digest>) -> Result<Fetched> {
        let url = self.url(&format!("manifests/{reference}"))?;
        let what = format!("manifest {reference}");
        self.http
            .retry(wanted.is_some(), || async {
                let reply = self.send(accepting_manifests(Call::get(url.clone()))).await?;
                if reply.status.as_u16() != 200 {
                    return Err(reply.refusal().await);
                }
                let announced = content_digest(&reply);
                let content_type = reply.text(&CONTENT_TYPE).unwrap_or_default();
                let content_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
                let bytes = reply.document(&what, MAX_MANIFEST, "4 MiB").await?;
                let found = Digest::of(&bytes);
                for wanted in wanted.into_iter().chain(announced.as_ref()) {
                    if *wanted != found {
                        return Err(Error::DigestMismatch { what: what.clone(), wanted: wanted.clone(), found });
                    }
                }
                let (document, media_type) = manifest::parse(&what, &bytes, &content_type)?;
                Ok(Fetched { bytes, media_type, digest: found, document })
            })
            .await
    }

    /// Brings a manifest or index there, under a tag or its digest.
    pub async fn put_manifest(&self, name: &str, media_type: &str, bytes: Bytes) -> Result<Digest> {
        let url = self.url(&format!("manifests/{name}"))?;
        let make = || Call::new(Method::PUT, url.clone()).header(CONTENT_TYPE, media_type).bytes(bytes.clone());
        let reply = self.ask(true, &[200, 201, 202, 204], make).await?;
        let digest = Digest::of(&bytes);
        match content_digest(&reply).filter(|told| *told != digest) {
            Some(found) => Err(Error::DigestMismatch { what: format!("manifest {name} in the registry"), wanted: digest, found }),
            None => Ok(digest),
        }
    }

    /// A blob's bytes from `offset` on, once: no attempts here. The answer is positioned: a registry that does not know
    /// ranges sends the whole blob, whose start is read away.
    pub async fn open_blob(&self, digest: &Digest, offset: u64, size: u64) -> Result<Reply> {
        let mut call = Call::get(self.url(&format!("blobs/{digest}"))?);
        if offset > 0 {
            call = call.header(RANGE, &format!("bytes={offset}-"));
        }
        position(self.send(call).await?, digest, offset, size).await
    }

    /// A small blob, whole and checked.
    pub async fn get_blob(&self, what: &str, digest: &Digest, size: u64) -> Result<Bytes> {
        if size > MAX_MANIFEST as u64 {
            return Err(Error::TooLarge { what: format!("{what} {digest}"), limit: "4 MiB" });
        }
        self.http
            .retry(true, || async {
                let reply = self.open_blob(digest, 0, size).await?;
                let url = reply.url.to_string();
                let bytes = reply.document(what, MAX_MANIFEST, "4 MiB").await?;
                if (bytes.len() as u64) < size {
                    let reason = TransportError::Broken("unexpected EOF".into());
                    return Err(Error::Transport { method: "Get".into(), url, reason });
                }
                if bytes.len() as u64 > size {
                    return Err(Error::invalid(format!("{what} {digest}"), format!("it has {} bytes, {size} were announced", bytes.len())));
                }
                let found = Digest::of(&bytes);
                if found != *digest {
                    return Err(Error::DigestMismatch { what: what.to_owned(), wanted: digest.clone(), found });
                }
                Ok(bytes)
            })
            .await
    }

    /// All pages of a list: `tags/list` or `_catalog`, whose names are under `key`.
    pub async fn names(&self, path: &str, key: &str) -> Result<Vec<String>> {
        let mut url = self.url(path)?;
        let mut names: Vec<String> = Vec::new();
        loop {
            let reply = self.ask(false, &[200], || Call::get(url.clone())).await?;
            let link = reply.text(&LINK).and_then(next_link).map(str::to_owned);
            let bytes = reply.document("list", MAX_PAGE, "4 MiB").await?;
            let mut page: serde_json::Map<String, serde_json::Value> =
                serde_json::from_slice(&bytes).map_err(|e| Error::invalid("list of names", e.to_string()))?;
            let list: Option<Vec<String>> =
                serde_json::from_value(page.remove(key).unwrap_or_default()).map_err(|e| Error::invalid("list of names", e.to_string()))?;
            let list = list.unwrap_or_default();
            let ended = list.is_empty();
            names.extend(list);
            if names.len() > MAX_NAMES {
                return Err(Error::TooLarge { what: "list of names".into(), limit: "100,000 names" });
            }
            let Some(link) = link.filter(|_| !ended) else { return Ok(names) };
            let next = url.join(&link)?;
            if !next.same_origin(&url) || next == url {
                return Err(Error::protocol(&self.host(), format!("the next page of a list is at {next}, which is not followed")));
            }
            url = next;
        }
    }
}

/// Checks that an answer to a request for bytes from `offset` on is that, and reads the start away if it is all of it.
pub(crate) async fn position(mut reply: Reply, digest: &Digest, offset: u64, size: u64) -> Result<Reply> {
    let host = reply.url.authority();
    let wrong = |reason: String| Err(Error::protocol(&host, format!("blob {digest}: {reason}")));
    match (reply.status.as_u16(), offset) {
        (206, 1..) => {
            let range = reply.text(&CONTENT_RANGE).unwrap_or_default().to_owned();
            match content_range(&range) {
                Some((first, _, total)) if first == offset && total.is_none_or(|total| total == size) => Ok(reply),
                _ => wrong(format!("bytes from {offset} of {size} were asked for, {:?} came", printable(&range, 60))),
            }
        }
        (200, _) => {
            if let Some(length) = reply.content_length().filter(|length| *length != size) {
                // Either lies, and which does not matter: the image cannot be had.
                return Err(Error::invalid(format!("blob {digest}"), format!("it has {length} bytes, {size} were announced")));
            }
            let mut skip = offset;
            while skip > 0 {
                let Some(chunk) = reply.chunk().await? else { return wrong(format!("it ended before byte {offset}")) };
                let count = skip.min(chunk.len() as u64);
                skip -= count;
                if count < chunk.len() as u64 {
                    reply.put_back(chunk.slice(count as usize..));
                }
            }
            Ok(reply)
        }
        (206, 0) => wrong("a part came, all of it was asked for".into()),
        _ => Err(reply.refusal().await),
    }
}

fn accepting_manifests(call: Call) -> Call {
    manifest::ACCEPTED.iter().fold(call, |call, media_type| call.header(ACCEPT, media_type))
}

/// `Docker-Content-Digest`, where it is one of ours.
fn content_digest(reply: &Reply) -> Option<Digest> {
    reply.headers.get("docker-content-digest").and_then(|value| value.to_str().ok()?.parse().ok())
}

/// What the registry's answer means for who asked for `reference` (both as users write them).
pub(crate) fn explain_pull(error: Error, reference: &str, repository: &str) -> Error {
    let refusal = match error {
        Error::Refused(refusal) => refusal,
        Error::Status { status, .. } if status.starts_with("404") => {
            Refusal { status: 404, code: "MANIFEST_UNKNOWN".into(), message: "manifest unknown".into() }
        }
        Error::Schema1 { .. } => return Error::Schema1 { reference: reference.to_owned() },
        other => return other,
    };
    match refusal.code.as_str() {
        "DENIED" => Error::PullDenied { repository: repository.to_owned(), cause: refusal },
        "MANIFEST_UNKNOWN" => Error::NoSuchManifest { reference: reference.to_owned(), cause: refusal },
        "NAME_UNKNOWN" => Error::NoSuchRepository { repository: repository.to_owned(), cause: refusal },
        _ => Error::Refused(refusal),
    }
}

/// An empty body of a request that must say so.
pub(crate) fn empty(call: Call) -> Call {
    Call { payload: Payload::Bytes(Bytes::new()), ..call }
}
