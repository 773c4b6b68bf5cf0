//! The client's configuration (`config.json`) and its contexts, read only when a command asks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::cli::error::{Failure, Result};
use crate::template::Value;

/// What the CLI reads from `config.json`. Other keys belong to other programs.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Config {
    pub auths: BTreeMap<String, naru_api::models::AuthConfig>,
    #[serde(rename = "HttpHeaders")]
    pub http_headers: BTreeMap<String, String>,
    pub ps_format: String,
    pub images_format: String,
    pub networks_format: String,
    pub volumes_format: String,
    pub stats_format: String,
    pub detach_keys: String,
    pub creds_store: String,
    pub cred_helpers: BTreeMap<String, String>,
    pub prune_filters: Vec<String>,
    pub proxies: BTreeMap<String, Proxy>,
    pub current_context: String,
    pub cli_plugins_extra_dirs: Vec<PathBuf>,
    pub aliases: BTreeMap<String, String>,
}

/// Proxies that containers are told about.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Proxy {
    pub http_proxy: String,
    pub https_proxy: String,
    pub no_proxy: String,
    pub ftp_proxy: String,
    pub all_proxy: String,
}

/// The folder of the configuration: `--config`, `DOCKER_CONFIG`, `~/.docker`.
pub fn directory(flag: Option<&str>) -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    match (flag, set("DOCKER_CONFIG")) {
        (Some(path), _) => PathBuf::from(path),
        (None, Some(path)) => PathBuf::from(path),
        (None, None) => set("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from).join(".docker"),
    }
}

impl Config {
    /// Reads `config.json`; an absent file is an empty configuration, a broken one a warning.
    pub fn load(directory: &Path) -> Self {
        let path = directory.join("config.json");
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Self::default(),
            Err(error) => {
                crate::output::error_line(&format!("WARNING: Error loading config file: {}: {error}", path.display()));
                return Self::default();
            }
        };
        serde_json::from_slice(&text).unwrap_or_else(|error| {
            crate::output::error_line(&format!("WARNING: Error parsing config file ({}): {error}", path.display()));
            Self::default()
        })
    }

    /// The proxy variables for containers of an engine: its own entry, or the default one.
    pub fn proxy_environment(&self, host: &str) -> Vec<(&'static str, String)> {
        let Some(proxy) = self.proxies.get(host).or_else(|| self.proxies.get("default")) else { return Vec::new() };
        let mut out = Vec::new();
        for (upper, lower, value) in [
            ("HTTP_PROXY", "http_proxy", &proxy.http_proxy),
            ("HTTPS_PROXY", "https_proxy", &proxy.https_proxy),
            ("NO_PROXY", "no_proxy", &proxy.no_proxy),
            ("FTP_PROXY", "ftp_proxy", &proxy.ftp_proxy),
            ("ALL_PROXY", "all_proxy", &proxy.all_proxy),
        ] {
            if !value.is_empty() {
                out.push((upper, value.clone()));
                out.push((lower, value.clone()));
            }
        }
        out
    }
}

/// A context on disk: where its engine is.
#[derive(Debug, Clone, PartialEq)]
pub struct ContextEntry {
    pub name: String,
    pub description: String,
    pub host: String,
    /// The whole of `meta.json`.
    pub meta: Value,
}

fn meta_directory(config: &Path) -> PathBuf {
    config.join("contexts").join("meta")
}

fn read_context(path: &Path) -> Option<ContextEntry> {
    let meta: Value = serde_json::from_slice(&std::fs::read(path.join("meta.json")).ok()?).ok()?;
    let host = meta.get("Endpoints").and_then(|e| e.get("docker")).and_then(|d| d.get("Host")).map(|h| h.text().to_owned());
    Some(ContextEntry {
        name: meta.get("Name")?.text().to_owned(),
        description: meta.get("Metadata").and_then(|m| m.get("Description")).map(|d| d.text().to_owned()).unwrap_or_default(),
        host: host.unwrap_or_default(),
        meta,
    })
}

/// All contexts on disk, by name.
pub fn contexts(config: &Path) -> Vec<ContextEntry> {
    let Ok(entries) = std::fs::read_dir(meta_directory(config)) else { return Vec::new() };
    let mut out: Vec<ContextEntry> = entries.flatten().filter_map(|entry| read_context(&entry.path())).collect();
    out.sort_by(|a, b| a.name.cmp(&b.name));
    out
}

/// One context; its folder is named by the SHA-256 of its name.
pub fn context(config: &Path, name: &str) -> Result<ContextEntry> {
    let folder = meta_directory(config).join(naru_types::Digest::of(name.as_bytes()).hex());
    read_context(&folder).ok_or_else(|| {
        Failure::message(format!(
            "context {name:?}: context not found: open {}: no such file or directory",
            folder.join("meta.json").display()
        ))
    })
}

/// The folder of a context's metadata.
pub fn context_folder(config: &Path, name: &str) -> PathBuf {
    meta_directory(config).join(naru_types::Digest::of(name.as_bytes()).hex())
}

/// The folder of a context's certificates.
pub fn context_tls(config: &Path, name: &str) -> PathBuf {
    config.join("contexts").join("tls").join(naru_types::Digest::of(name.as_bytes()).hex())
}

/// Changes one key of `config.json` and leaves the rest as it is; `None` removes the key.
pub fn edit(directory: &Path, change: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>)) -> Result<()> {
    let path = directory.join("config.json");
    let failed = |what: &str, error: &dyn std::fmt::Display| Failure::message(format!("{what} {}: {error}", path.display()));
    let mut document = match std::fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).map_err(|error| failed("parse", &error))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => serde_json::Map::new(),
        Err(error) => return Err(failed("read", &error)),
    };
    change(&mut document);
    let text = serde_json::to_string_pretty(&document).map_err(|error| failed("encode", &error))?.replace("  ", "\t");
    std::fs::create_dir_all(directory).map_err(|error| failed("create the folder of", &error))?;
    write_private(&path, text.as_bytes()).map_err(|error| failed("write", &error))
}

/// Writes a file that only its owner may read, whole or not at all.
pub fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let temporary = path.with_extension(format!("tmp{}", std::process::id()));
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)
}
