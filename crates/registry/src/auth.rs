//! Who we are for a registry: challenges, tokens and where they are kept.
//!
//! A registry says with a 401 how it wants to be asked; that is remembered per registry, so that the next request carries
//! its token at once. Tokens are kept in memory until shortly before they expire, per token server, scope and account.

use crate::config::Credentials;
use crate::error::{Error, Result};
use crate::headers::{Challenge, challenges};
use crate::http::{Call, Http, Reply, title};
use crate::url::{Url, escape};
use ::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use ::http::{HeaderValue, Method};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Answers of token servers.
const MAX_TOKEN_ANSWER: usize = 1 << 20;
/// A token travels in a header of every request; registries take less than this.
const MAX_TOKEN: usize = 64 << 10;
/// What a token without a time is good for (distribution's token specification).
const DEFAULT_LIFETIME: u64 = 60;
const LONGEST_LIFETIME: u64 = 24 * 3600;
/// How many registries and tokens are remembered.
const MAX_KEPT: usize = 1024;
const CLIENT_ID: &str = "docker";

/// How a registry wants to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scheme {
    Basic,
    Bearer { realm: Url, service: Option<String>, scope: Option<String> },
}

/// What a token server gave.
#[derive(Debug, Clone)]
struct Token {
    header: HeaderValue,
    until: Instant,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct TokenKey {
    realm: Url,
    service: Option<String>,
    scopes: Vec<String>,
    credentials: Credentials,
}

/// Fetched once, however many requests wait for it.
type Slot = Arc<tokio::sync::Mutex<Option<Token>>>;

/// The memory of one client.
#[derive(Debug, Default)]
pub(crate) struct Auth {
    schemes: Mutex<HashMap<String, Scheme>>,
    tokens: Mutex<HashMap<TokenKey, Slot>>,
}

/// What is asked for, and on whose behalf.
pub(crate) struct Asker<'a> {
    /// The registry.
    pub origin: &'a Url,
    /// `repository:a/b:pull`.
    pub scopes: &'a [String],
    pub credentials: &'a Credentials,
}

fn origin_key(url: &Url) -> String {
    format!("{}://{}", if url.is_https() { "https" } else { "http" }, url.authority())
}

fn secret(text: &str) -> Result<HeaderValue> {
    let mut value =
        HeaderValue::from_str(text).map_err(|_| Error::Request("the credentials contain characters that no header can carry".into()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn basic(username: &str, password: &str) -> Result<HeaderValue> {
    secret(&format!("Basic {}", BASE64_STANDARD.encode(format!("{username}:{password}"))))
}

impl Auth {
    /// What a request should carry from what is known already; nothing when the registry has not asked yet.
    pub async fn known(&self, http: &Http, asker: &Asker<'_>) -> Result<Option<HeaderValue>> {
        if !asker.credentials.registry_token.is_empty() {
            return Ok(Some(secret(&format!("Bearer {}", asker.credentials.registry_token))?));
        }
        let scheme = self.schemes.lock().expect("nothing panics while it is held").get(&origin_key(asker.origin)).cloned();
        match scheme {
            Some(scheme) => self.header(http, asker, &scheme, None).await,
            None => Ok(None),
        }
    }

    /// What to send after a 401; nothing when no other answer is possible. `sent` is what was refused.
    pub async fn answer(&self, http: &Http, asker: &Asker<'_>, reply: &Reply, sent: Option<&HeaderValue>) -> Result<Option<HeaderValue>> {
        if !asker.credentials.registry_token.is_empty() {
            return Ok(None);
        }
        let Some(scheme) = read_scheme(reply, asker.origin)? else { return Ok(None) };
        {
            let mut schemes = self.schemes.lock().expect("nothing panics while it is held");
            if schemes.len() >= MAX_KEPT {
                schemes.clear();
            }
            schemes.insert(origin_key(asker.origin), scheme.clone());
        }
        if scheme == Scheme::Basic && asker.credentials.username.is_empty() {
            let (method, url) = (title(&reply.method), reply.url.to_string());
            return Err(Error::NoCredentials { method, url, host: asker.origin.authority() });
        }
        let header = self.header(http, asker, &scheme, sent).await?;
        Ok(header.filter(|header| Some(header) != sent))
    }

    async fn header(&self, http: &Http, asker: &Asker<'_>, scheme: &Scheme, refused: Option<&HeaderValue>) -> Result<Option<HeaderValue>> {
        let credentials = asker.credentials;
        match scheme {
            Scheme::Basic if credentials.username.is_empty() => Ok(None),
            Scheme::Basic => Ok(Some(basic(&credentials.username, &credentials.password)?)),
            Scheme::Bearer { realm, service, scope } => {
                let mut scopes = asker.scopes.to_vec();
                // A registry that names another scope after our token was refused knows better.
                if scopes.is_empty() || refused.is_some() {
                    let named = scope.iter().flat_map(|scope| scope.split(' ')).take(16);
                    let missing: Vec<String> =
                        named.filter(|named| !scopes.iter().any(|scope| covers(scope, named))).map(str::to_owned).collect();
                    scopes.extend(missing);
                }
                scopes.sort();
                scopes.dedup();
                let key = TokenKey { realm: realm.clone(), service: service.clone(), scopes, credentials: credentials.clone() };
                self.token(http, asker.origin, key, refused).await.map(Some)
            }
        }
    }

    async fn token(&self, http: &Http, origin: &Url, key: TokenKey, refused: Option<&HeaderValue>) -> Result<HeaderValue> {
        let slot = {
            let mut tokens = self.tokens.lock().expect("nothing panics while it is held");
            // One that is in use is being fetched.
            tokens.retain(|_, slot| slot.try_lock().map_or(true, |slot| slot.as_ref().is_some_and(|token| token.until > Instant::now())));
            if tokens.len() >= MAX_KEPT {
                tokens.clear();
            }
            tokens.entry(key.clone()).or_default().clone()
        };
        let mut slot = slot.lock().await;
        if let Some(token) = &*slot
            && token.until > Instant::now()
            && Some(&token.header) != refused
        {
            return Ok(token.header.clone());
        }
        let answer = fetch_token(http, origin, &key, false).await?;
        let token = Token { header: secret(&format!("Bearer {}", answer.token))?, until: answer.until };
        Ok(slot.insert(token).header.clone())
    }

    /// Asks for a refresh token as `docker login` does; nothing when the server gives none.
    pub async fn login(
        &self,
        http: &Http,
        origin: &Url,
        reply: &Reply,
        credentials: &Credentials,
    ) -> Result<Option<(HeaderValue, Option<String>)>> {
        Ok(match read_scheme(reply, origin)? {
            None => None,
            Some(Scheme::Basic) => Some((basic(&credentials.username, &credentials.password)?, None)),
            Some(Scheme::Bearer { realm, service, scope }) => {
                let scopes = scope.iter().flat_map(|scope| scope.split(' ')).map(str::to_owned).take(16).collect();
                let key = TokenKey { realm, service, scopes, credentials: credentials.clone() };
                let answer = fetch_token(http, origin, &key, true).await?;
                Some((secret(&format!("Bearer {}", answer.token))?, answer.refresh))
            }
        })
    }
}

/// `repository:a:push,pull` covers `repository:a:pull`.
fn covers(scope: &str, other: &str) -> bool {
    match (scope.rsplit_once(':'), other.rsplit_once(':')) {
        (Some((object, actions)), Some((other_object, other_actions))) => {
            object == other_object && other_actions.split(',').all(|action| actions.split(',').any(|known| known == action))
        }
        _ => scope == other,
    }
}

/// The challenge to be answered: bearer before basic, as every client has it.
fn read_scheme(reply: &Reply, origin: &Url) -> Result<Option<Scheme>> {
    let all: Vec<Challenge> =
        reply.headers.get_all(WWW_AUTHENTICATE).iter().take(8).filter_map(|value| value.to_str().ok()).flat_map(challenges).collect();
    if let Some(bearer) = all.iter().find(|challenge| challenge.scheme == "bearer") {
        let host = origin.authority();
        let realm = bearer.parameter("realm").ok_or_else(|| Error::protocol(&host, "a bearer challenge without a realm"))?;
        let realm =
            Url::parse(realm).map_err(|e| Error::protocol(&host, format!("a bearer challenge whose realm cannot be asked: {e}")))?;
        if origin.is_https() && !realm.is_https() {
            return Err(Error::protocol(&host, format!("it names the token server {realm}, which would see credentials over plain http")));
        }
        let text = |name: &str| bearer.parameter(name).filter(|text| !text.is_empty()).map(str::to_owned);
        return Ok(Some(Scheme::Bearer { realm, service: text("service"), scope: text("scope") }));
    }
    Ok(all.iter().any(|challenge| challenge.scheme == "basic").then_some(Scheme::Basic))
}

struct TokenAnswer {
    token: String,
    until: Instant,
    refresh: Option<String>,
}

/// With an identity token by POST (OAuth 2), else by GET with name and password, or without.
async fn fetch_token(http: &Http, origin: &Url, key: &TokenKey, offline: bool) -> Result<TokenAnswer> {
    http.retry(false, || async {
        if !key.credentials.identity_token.is_empty() {
            let reply = http.send(refresh_call(key), origin).await?;
            match reply.status.as_u16() {
                200 => return read_token(reply).await,
                // Token servers without OAuth 2.
                404 | 405 if !key.credentials.password.is_empty() => {}
                _ => return Err(reply.refusal().await),
            }
        }
        let reply = http.send(password_call(key, offline)?, origin).await?;
        if reply.status.as_u16() != 200 {
            return Err(reply.refusal().await);
        }
        read_token(reply).await
    })
    .await
}

fn refresh_call(key: &TokenKey) -> Call {
    let mut form = format!("grant_type=refresh_token&client_id={CLIENT_ID}&refresh_token={}", escape(&key.credentials.identity_token));
    for (name, value) in [("service", key.service.clone().unwrap_or_default()), ("scope", key.scopes.join(" "))] {
        if !value.is_empty() {
            form.push_str(&format!("&{name}={}", escape(&value)));
        }
    }
    Call::new(Method::POST, key.realm.clone())
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header(ACCEPT, "application/json")
        .bytes(Bytes::from(form))
}

fn password_call(key: &TokenKey, offline: bool) -> Result<Call> {
    let credentials = &key.credentials;
    let mut url = key.realm.clone();
    if !credentials.username.is_empty() {
        url = url.with_parameter("account", &credentials.username);
    }
    if offline {
        url = url.with_parameter("client_id", CLIENT_ID).with_parameter("offline_token", "true");
    }
    for scope in &key.scopes {
        url = url.with_parameter("scope", scope);
    }
    if let Some(service) = &key.service {
        url = url.with_parameter("service", service);
    }
    let mut call = Call::get(url).header(ACCEPT, "application/json");
    if !credentials.username.is_empty() {
        call.headers.insert(AUTHORIZATION, basic(&credentials.username, &credentials.password)?);
    }
    Ok(call)
}

async fn read_token(reply: Reply) -> Result<TokenAnswer> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(default)]
        token: Option<String>,
        #[serde(default)]
        access_token: Option<String>,
        #[serde(default)]
        expires_in: Option<f64>,
        #[serde(default)]
        refresh_token: Option<String>,
    }
    let host = reply.url.authority();
    let what = format!("the answer of the token server {host}");
    let bytes = reply.document(&what, MAX_TOKEN_ANSWER, "1 MiB").await?;
    let document: Document = serde_json::from_slice(&bytes).map_err(|e| Error::invalid(&*what, e.to_string()))?;
    let token = document.token.filter(|token| !token.is_empty()).or(document.access_token).filter(|token| !token.is_empty());
    let token = token.ok_or_else(|| Error::invalid(&*what, "authorization server did not include a token in the response"))?;
    let refresh = document.refresh_token.filter(|token| !token.is_empty());
    if token.len() > MAX_TOKEN || refresh.as_ref().is_some_and(|token| token.len() > MAX_TOKEN) {
        return Err(Error::TooLarge { what: format!("the token of {host}"), limit: "64 KiB" });
    }
    // Any number; what is no number at all lives for a minute.
    let lifetime = document.expires_in.filter(|seconds| *seconds >= 1.0).map_or(DEFAULT_LIFETIME, |seconds| seconds as u64);
    let lifetime = Duration::from_secs(lifetime.min(LONGEST_LIFETIME));
    Ok(TokenAnswer { token, until: Instant::now() + lifetime.mul_f64(0.9), refresh })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_that_hold_others() {
        assert!(covers("repository:a/b:push,pull", "repository:a/b:pull"));
        assert!(!covers("repository:a/b:pull", "repository:a/b:push,pull"));
        assert!(!covers("repository:a/b:pull", "repository:a:pull"));
        assert!(covers("x", "x") && !covers("x", "y"));
    }
}
