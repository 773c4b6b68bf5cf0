//! Settings of the client: which registries are insecure, which have mirrors, proxies, limits; and credentials.

use crate::error::{Error, Result};
use crate::url::Url;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Settings of the client.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    /// Registries whose certificate is not checked and that may speak plain HTTP: `host`, `host:port` or an address block
    /// (`10.0.0.0/8`). Loopback addresses always are.
    pub insecure: Vec<String>,
    /// Mirrors by registry (`docker.io` → addresses), asked in this order before the registry itself, for pulls only.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Directories with certificates per registry: `<dir>/<host:port>/{*.crt, client.cert, client.key}`.
    pub certs_dirs: Vec<PathBuf>,
    /// Blobs that are downloaded at the same time, over all pulls.
    pub max_concurrent_downloads: usize,
    /// Blobs that are uploaded at the same time, over all pushes.
    pub max_concurrent_uploads: usize,
    /// How often a request is tried.
    pub max_attempts: u32,
    /// The first pause between attempts; it doubles, with jitter.
    pub first_pause: Duration,
    /// A transfer on which nothing moves for so long is broken off and tried again.
    pub idle_timeout: Duration,
    /// Fetch layers that registries do not hold (`urls` of foreign layers) from where their manifest says, over HTTP(S),
    /// without credentials and never from loopback or link-local addresses.
    pub foreign_layers: bool,
    /// Proxies.
    pub proxies: Proxies,
    /// How we introduce ourselves.
    pub user_agent: String,
    /// Names of hosts, asked before DNS.
    pub hosts_file: PathBuf,
    /// The host's DNS servers.
    pub resolv_conf: PathBuf,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        RegistryConfig {
            insecure: Vec::new(),
            mirrors: BTreeMap::new(),
            certs_dirs: vec!["/etc/naru/certs.d".into(), "/etc/docker/certs.d".into()],
            max_concurrent_downloads: 6,
            max_concurrent_uploads: 5,
            max_attempts: 5,
            first_pause: Duration::from_millis(400),
            idle_timeout: Duration::from_secs(30),
            foreign_layers: false,
            proxies: Proxies::default(),
            user_agent: format!("naru/{}", env!("CARGO_PKG_VERSION")),
            hosts_file: "/etc/hosts".into(),
            resolv_conf: "/etc/resolv.conf".into(),
        }
    }
}

/// Proxies for the way to registries; values as in the environment variables.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For `http://`.
    pub http: Option<String>,
    /// For `https://`.
    pub https: Option<String>,
    /// Hosts asked directly: names, `.suffix`, `*.suffix`, addresses, address blocks, each with an optional port; `*` for all.
    pub none: String,
}

/// Proxies carry passwords.
impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |proxy: &Option<String>| proxy.as_deref().map(|text| text.rsplit('@').next().unwrap_or_default().to_owned());
        f.debug_struct("Proxies").field("http", &shown(&self.http)).field("https", &shown(&self.https)).field("none", &self.none).finish()
    }
}

impl Proxies {
    /// `HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY` (or lower case) of this process.
    pub fn from_environment() -> Self {
        let value = |name: &str| {
            let found = std::env::var(name).ok().filter(|value| !value.is_empty());
            found.or_else(|| std::env::var(name.to_ascii_lowercase()).ok().filter(|value| !value.is_empty()))
        };
        Proxies { http: value("HTTP_PROXY"), https: value("HTTPS_PROXY"), none: value("NO_PROXY").unwrap_or_default() }
    }

    /// The proxy on the way to `url`.
    pub(crate) fn for_url(&self, url: &Url) -> Result<Option<Url>> {
        let proxy = if url.is_https() { &self.https } else { &self.http };
        let Some(proxy) = proxy else { return Ok(None) };
        if is_loopback_name(&url.host) || self.bypasses(url) {
            return Ok(None);
        }
        let text = if proxy.contains("://") { proxy.clone() } else { format!("http://{proxy}") };
        let wrong = |reason: &str| Error::Config {
            name: "proxy".into(),
            value: proxy.rsplit('@').next().unwrap_or_default().to_owned(),
            reason: reason.into(),
        };
        let proxy = Url::parse(&text).map_err(|_| wrong("expected http://host:port or https://host:port"))?;
        Ok(Some(proxy))
    }

    fn bypasses(&self, url: &Url) -> bool {
        let address: Option<IpAddr> = url.host.trim_matches(['[', ']']).parse().ok();
        self.none.split([',', ' ']).map(str::trim).filter(|rule| !rule.is_empty()).any(|rule| {
            if rule == "*" {
                return true;
            }
            if let (Some(block), Some(address)) = (Block::parse(rule), address) {
                return block.contains(address);
            }
            let (name, port) = match rule.rsplit_once(':').and_then(|(name, port)| Some((name, port.parse::<u16>().ok()?))) {
                Some((name, port)) => (name, Some(port)),
                None => (rule, None),
            };
            if port.is_some_and(|port| port != url.port()) {
                return false;
            }
            let name = name.trim_start_matches('*').to_ascii_lowercase();
            match name.strip_prefix('.') {
                Some(suffix) => url.host.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.')),
                None => url.host == name || url.host.strip_suffix(&name).is_some_and(|rest| rest.ends_with('.')),
            }
        })
    }
}

/// What a user gave to be known by a registry.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// The account.
    pub username: String,
    /// Its password or access token.
    pub password: String,
    /// A refresh token from an earlier login; it is used instead of the password.
    pub identity_token: String,
    /// A bearer token that is sent as it is.
    pub registry_token: String,
}

impl Credentials {
    /// Nothing was given.
    pub fn is_empty(&self) -> bool {
        *self == Credentials::default()
    }
}

/// Secrets stay out of logs.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = |text: &str| if text.is_empty() { "" } else { "***" };
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .field("password", &hidden(&self.password))
            .field("identity_token", &hidden(&self.identity_token))
            .field("registry_token", &hidden(&self.registry_token))
            .finish()
    }
}

/// A block of addresses; a single address is one of full length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    network: u128,
    length: u32,
    v6: bool,
}

impl Block {
    pub fn parse(text: &str) -> Option<Block> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address.parse::<IpAddr>().ok()?, Some(length.parse::<u32>().ok()?)),
            None => (text.parse::<IpAddr>().ok()?, None),
        };
        let (v6, bits) = (address.is_ipv6(), if address.is_ipv6() { 128 } else { 32 });
        let length = length.unwrap_or(bits);
        (length <= bits).then(|| Block { network: number(address), length, v6 })
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        let bits = if self.v6 { 128 } else { 32 };
        let shift = bits - self.length;
        // A shift by all bits is not defined; a length of 0 contains everything.
        let cut = |value: u128| value.checked_shr(shift).unwrap_or(0);
        address.is_ipv6() == self.v6 && cut(self.network) == cut(number(address))
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

/// `localhost`, names below it, loopback addresses.
pub(crate) fn is_loopback_name(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']).trim_end_matches('.');
    host.eq_ignore_ascii_case("localhost")
        || host.to_ascii_lowercase().ends_with(".localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl RegistryConfig {
    /// The registry's certificate is not checked, and it may speak plain HTTP. `authority` is `host` or `host:port`.
    pub(crate) fn is_insecure(&self, authority: &str) -> bool {
        let host = host_of(authority);
        let address: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
        is_loopback_name(host)
            || self.insecure.iter().any(|rule| {
                rule.eq_ignore_ascii_case(authority)
                    || rule.eq_ignore_ascii_case(host)
                    || address.is_some_and(|address| Block::parse(rule).is_some_and(|block| block.contains(address)))
            })
    }

    /// Refuses settings that can never work.
    pub(crate) fn check(&self) -> Result<()> {
        let wrong = |name: &str, value: &str, reason: &str| Error::Config { name: name.into(), value: value.into(), reason: reason.into() };
        for rule in &self.insecure {
            if rule.contains("://") {
                return Err(wrong("insecure-registries", rule, "expected host, host:port or an address block, without a scheme"));
            }
        }
        for mirror in self.mirrors.values().flatten() {
            let url = Url::parse(mirror).map_err(|_| wrong("registry-mirrors", mirror, "expected http://host or https://host"))?;
            if url.path_and_query.contains('?') {
                return Err(wrong("registry-mirrors", mirror, "a mirror's address has no query"));
            }
        }
        for (name, value) in [
            ("max-concurrent-downloads", self.max_concurrent_downloads),
            ("max-concurrent-uploads", self.max_concurrent_uploads),
            ("max-download-attempts", self.max_attempts as usize),
        ] {
            if value == 0 {
                return Err(wrong(name, "0", "expected at least 1"));
            }
        }
        Ok(())
    }
}

/// `host` of `host:port`, `[v6]` of `[v6]:port`.
pub(crate) fn host_of(authority: &str) -> &str {
    match authority.rfind(']') {
        Some(end) => &authority[..=end],
        None => authority.split(':').next().unwrap_or(authority),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn insecure_registries_by_name_and_block() {
        let config =
            RegistryConfig { insecure: vec!["reg.example:5000".into(), "other.example".into(), "10.0.0.0/8".into()], ..Default::default() };
        for (authority, insecure) in [
            ("reg.example:5000", true),
            ("reg.example:5001", false),
            ("other.example:1", true),
            ("10.1.2.3:5000", true),
            ("11.1.2.3", false),
            ("localhost:5000", true),
            ("127.0.0.2", true),
            ("[::1]:5000", true),
            ("[2001:db8::1]:5000", false),
            ("localhost.example", false),
            ("docker.io", false),
        ] {
            assert_eq!(config.is_insecure(authority), insecure, "{authority}");
        }
        assert!(Block::parse("0.0.0.0/0").unwrap().contains("1.2.3.4".parse().unwrap()));
        assert!(Block::parse("::/0").unwrap().contains("::5".parse().unwrap()));
        assert!(Block::parse("1.2.3.4/33").is_none());
    }

    #[test]
    fn settings_are_checked() {
        assert!(RegistryConfig::default().check().is_ok());
        assert!(RegistryConfig { insecure: vec!["http://x".into()], ..Default::default() }.check().is_err());
        assert!(RegistryConfig { max_attempts: 0, ..Default::default() }.check().is_err());
        let mirrors = BTreeMap::from([("docker.io".to_owned(), vec!["ftp://x".to_owned()])]);
        assert!(RegistryConfig { mirrors, ..Default::default() }.check().is_err());
    }

    #[test]
    fn no_proxy_rules() {
        let proxies = Proxies {
            http: Some("user:secret@proxy:3128".into()),
            https: Some("http://proxy:3128".into()),
            none: "a.example, .b.example,*.c.example,10.0.0.0/8,d.example:444".into(),
        };
        for (url, proxied) in [
            ("https://x/", true),
            ("http://x/", true),
            ("https://a.example/", false),
            ("https://sub.a.example/", false),
            ("https://nota.example/", true),
            ("https://b.example/", true),
            ("https://x.b.example/", false),
            ("https://x.c.example/", false),
            ("https://10.2.3.4:5000/", false),
            ("https://d.example/", true),
            ("https://d.example:444/", false),
            ("http://localhost:5000/", false),
        ] {
            assert_eq!(proxies.for_url(&Url::parse(url).unwrap()).unwrap().is_some(), proxied, "{url}");
        }
        assert!(!format!("{proxies:?}").contains("secret"));
    }

    #[test]
    fn secrets_are_not_printed() {
        let credentials = Credentials {
            username: "u".into(),
            password: "hunter2".into(),
            identity_token: "hunter3".into(),
            registry_token: "hunter4".into(),
        };
        assert!(!format!("{credentials:?}").contains("hunter"));
    }
}
