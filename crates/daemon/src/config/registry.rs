//! The flags about registries become the client's settings.

use super::flags::RegistryFlags;
use super::{ConfigError, flag_error};
use naru_registry::{Proxies, RegistryConfig};
use std::collections::BTreeMap;

/// Checks the flags.
pub fn registry(flags: RegistryFlags) -> Result<RegistryConfig, ConfigError> {
    let mut mirrors: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for text in &flags.registry_mirror {
        let (registry, url) = match text.split_once('=') {
            Some((registry, url)) if !registry.contains("://") => (registry, url),
            _ => ("docker.io", text.as_str()),
        };
        if registry.is_empty() || !(url.starts_with("http://") || url.starts_with("https://")) {
            return Err(flag_error(format!("invalid --registry-mirror {text:?}: expected an http:// or https:// URL, or HOST=URL")));
        }
        mirrors.entry(registry.to_owned()).or_default().push(url.trim_end_matches('/').to_owned());
    }
    let environment = Proxies::from_environment();
    let defaults = RegistryConfig::default();
    let at_least_one = |flag: &str, number: usize| {
        if number == 0 { Err(flag_error(format!("invalid --{flag} 0: expected at least 1"))) } else { Ok(number) }
    };
    Ok(RegistryConfig {
        insecure: flags.insecure_registry.iter().map(|text| without_scheme(text)).collect(),
        mirrors,
        max_concurrent_downloads: at_least_one(
            "max-concurrent-downloads",
            flags.max_concurrent_downloads.unwrap_or(defaults.max_concurrent_downloads),
        )?,
        max_concurrent_uploads: at_least_one(
            "max-concurrent-uploads",
            flags.max_concurrent_uploads.unwrap_or(defaults.max_concurrent_uploads),
        )?,
        max_attempts: flags.max_download_attempts.unwrap_or(defaults.max_attempts).max(1),
        proxies: Proxies {
            http: flags.http_proxy.or(environment.http),
            https: flags.https_proxy.or(environment.https),
            none: flags.no_proxy.unwrap_or(environment.none),
        },
        ..defaults
    })
}

/// dockerd takes (and warns about) `http://host` too.
fn without_scheme(text: &str) -> String {
    let text = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")).unwrap_or(text);
    text.trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_by_registry() {
        let mirrors = ["https://m1/", "quay.io=http://m2", "https://m3"].map(str::to_owned).to_vec();
        let config = registry(RegistryFlags { registry_mirror: mirrors, ..RegistryFlags::default() }).unwrap();
        assert_eq!(config.mirrors["docker.io"], ["https://m1", "https://m3"]);
        assert_eq!(config.mirrors["quay.io"], ["http://m2"]);
        for bad in ["m1", "=https://m", "ftp://m"] {
            assert!(registry(RegistryFlags { registry_mirror: vec![bad.into()], ..RegistryFlags::default() }).is_err(), "{bad}");
        }
        assert!(registry(RegistryFlags { max_concurrent_downloads: Some(0), ..RegistryFlags::default() }).is_err());
    }
}
