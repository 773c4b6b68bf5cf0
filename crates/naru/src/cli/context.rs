//! What every command may ask for: the configuration, the engine, the program's name. All of it is made on demand.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use naru_api::client::{Client, Endpoint};
use naru_api::version::ApiVersion;

use super::error::{Failure, Result};
use crate::config::{self, Config};

/// Where Naru's own daemon listens.
pub const DEFAULT_SOCKET: &str = "/run/naru/naru.sock";

/// The global flags.
#[derive(Debug, Clone, Default)]
pub struct Globals {
    pub config: Option<String>,
    pub context: Option<String>,
    pub host: Option<String>,
    pub debug: bool,
    pub log_level: Option<String>,
    pub tls: bool,
}

/// The context of a command; it lives as long as the program.
pub type Cx = &'static Context;

/// See the module.
pub struct Context {
    /// `docker` when called so, else `naru`.
    pub program: String,
    pub globals: Globals,
    config_directory: OnceCell<PathBuf>,
    config: OnceCell<Config>,
    client: OnceCell<Client>,
}

impl Context {
    /// A context that lives for ever.
    pub fn leak(program: String, globals: Globals) -> Cx {
        Box::leak(Box::new(Self { program, globals, config_directory: OnceCell::new(), config: OnceCell::new(), client: OnceCell::new() }))
    }

    /// The folder of the configuration.
    pub fn config_directory(&self) -> &Path {
        self.config_directory.get_or_init(|| config::directory(self.globals.config.as_deref()))
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        self.config.get_or_init(|| Config::load(self.config_directory()))
    }

    /// The name of the context in use: flag, then none if a host is given, then environment, then configuration.
    pub fn context_name(&self) -> String {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        if let Some(name) = &self.globals.context {
            return name.clone();
        }
        if self.globals.host.is_some() || set("DOCKER_HOST").is_some() {
            return "default".to_owned();
        }
        if let Some(name) = set("DOCKER_CONTEXT") {
            return name;
        }
        match self.config().current_context.as_str() {
            "" => "default".to_owned(),
            name => name.to_owned(),
        }
    }

    /// The address of the engine, and whether it is our own default.
    pub fn host(&self) -> Result<(String, bool)> {
        if self.globals.host.is_some() && self.globals.context.is_some() {
            return Err(Failure::message("conflicting options: cannot specify both --host and --context"));
        }
        if let Some(host) = &self.globals.host {
            return Ok((host.clone(), false));
        }
        if self.globals.context.is_none()
            && let Ok(host) = std::env::var("DOCKER_HOST")
            && !host.is_empty()
        {
            return Ok((host, false));
        }
        match self.context_name().as_str() {
            "default" => Ok((format!("unix://{DEFAULT_SOCKET}"), true)),
            name => match config::context(self.config_directory(), name)
                .map_err(|failure| {
                    Failure::message(format!("Failed to initialize: unable to resolve docker endpoint: {}", failure.text()))
                })?
                .host
            {
                host if host.is_empty() => Ok((format!("unix://{DEFAULT_SOCKET}"), true)),
                host => Ok((host, false)),
            },
        }
    }

    /// The engine; our own daemon is started when it is wanted and nobody answers.
    pub fn client(&self) -> Result<&Client> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let (host, own) = self.host()?;
        let endpoint: Endpoint = host.parse().map_err(|error: naru_api::client::EndpointError| Failure::message(error.to_string()))?;
        let tls = self.globals.tls || std::env::var("DOCKER_TLS_VERIFY").is_ok_and(|value| !value.is_empty());
        // As with docker, local sockets and ssh need none.
        if tls && matches!(endpoint, Endpoint::Tcp { .. }) {
            return Err(Failure::message("TLS connections are not supported; use ssh:// or a unix socket"));
        }
        if own {
            super::autostart::ensure(Path::new(DEFAULT_SOCKET));
        }
        let mut client = Client::new(endpoint);
        if let Ok(version) = std::env::var("DOCKER_API_VERSION")
            && !version.is_empty()
        {
            let version: ApiVersion = version.parse().map_err(|_| Failure::message(format!("invalid API version: {version}")))?;
            client = client.with_version(version);
        }
        // The file of our own daemon's users rarely exists; looking for it costs one failed open.
        for (name, value) in &self.config().http_headers {
            if !name.eq_ignore_ascii_case("user-agent") {
                client = client.with_header(name, value);
            }
        }
        for pair in std::env::var("DOCKER_CUSTOM_HEADERS").unwrap_or_default().split(',').filter(|pair| !pair.is_empty()) {
            if let Some((name, value)) = pair.split_once('=') {
                client = client.with_header(name.trim(), value);
            }
        }
        Ok(self.client.get_or_init(|| client))
    }
}
