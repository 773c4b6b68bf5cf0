//! `daemon.json`: the same settings as the flags, in dockerd's keys.

use super::ConfigError;
use super::flags::Flags;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Keys of daemon.json that are built.
const KEYS: [&str; 43] = [
    "allow-direct-routing",
    "bip",
    "bridge",
    "cgroup-parent",
    "data-root",
    "debug",
    "default-address-pools",
    "default-network-opts",
    "default-runtime",
    "default-ulimits",
    "dns",
    "dns-opts",
    "dns-search",
    "exec-root",
    "firewall-mode",
    "fixed-cidr",
    "fixed-cidr-v6",
    "group",
    "host-gateway-ips",
    "hosts",
    "icc",
    "init",
    "insecure-registries",
    "ip",
    "ip-masq",
    "ipv6",
    "live-restore",
    "log-driver",
    "log-level",
    "log-opts",
    "max-concurrent-downloads",
    "max-concurrent-uploads",
    "max-download-attempts",
    "max-layer-size",
    "mtu",
    "pidfile",
    "proxies",
    "registry-mirrors",
    "runtimes",
    "selinux-enabled",
    "shutdown-timeout",
    "storage-driver",
    "userland-proxy",
];

pub fn read_file(path: &Path, text: &str) -> Result<BTreeMap<String, Value>, ConfigError> {
    let refused = |reason: String| ConfigError::File { path: path.display().to_string(), reason };
    if text.trim().is_empty() {
        return Ok(BTreeMap::new());
    }
    let map: BTreeMap<String, Value> = serde_json::from_str(text).map_err(|error| refused(format!("invalid JSON: {error}")))?;
    let unknown: Vec<&str> = map.keys().map(String::as_str).filter(|key| !KEYS.contains(key)).collect();
    if !unknown.is_empty() {
        return Err(refused(format!(
            "the following directives don't match any configuration option that is built: {}",
            unknown.join(", ")
        )));
    }
    Ok(map)
}

/// Values of the file that no flag gives; both at once is an error, as dockerd's.
pub fn merge(mut flags: Flags, mut file: BTreeMap<String, Value>, path: &Path) -> Result<Flags, ConfigError> {
    let refused = |reason: String| ConfigError::File { path: path.display().to_string(), reason };
    let mut both = BTreeSet::new();
    let mut take = |key: &str, given: bool| -> Option<Value> {
        let value = file.remove(key)?;
        if given {
            both.insert(key.to_owned());
        }
        Some(value)
    };
    let wrong = |key: &str, what: &str| refused(format!("{key} must be {what}"));
    macro_rules! text {
        ($key:literal, $($field:ident).+) => {
            if let Some(value) = take($key, flags.$($field).+.is_some()) {
                let text = value.as_str().ok_or_else(|| wrong($key, "a string"))?;
                flags.$($field).+ = Some(text.parse().map_err(|_| wrong($key, "valid"))?);
            }
        };
    }
    macro_rules! list {
        ($key:literal, $($field:ident).+) => {
            if let Some(value) = take($key, !flags.$($field).+.is_empty()) {
                let items = value.as_array().ok_or_else(|| wrong($key, "a list of strings"))?;
                for item in items {
                    let text = item.as_str().ok_or_else(|| wrong($key, "a list of strings"))?;
                    flags.$($field).+.push(text.parse().map_err(|_| wrong($key, "a list of valid values"))?);
                }
            }
        };
    }
    text!("data-root", data_root);
    text!("exec-root", exec_root);
    text!("pidfile", pidfile);
    text!("bip", network.bip);
    text!("bridge", network.bridge);
    text!("group", group);
    text!("default-runtime", default_runtime);
    text!("log-level", log_level);
    text!("log-driver", log_driver);
    text!("cgroup-parent", cgroup_parent);
    text!("storage-driver", storage_driver);
    text!("max-layer-size", max_layer_size);
    text!("ip", network.ip);
    list!("hosts", hosts);
    list!("dns", network.dns);
    list!("dns-opts", network.dns_opt);
    list!("dns-search", network.dns_search);
    text!("fixed-cidr", network.fixed_cidr);
    text!("fixed-cidr-v6", network.fixed_cidr_v6);
    text!("firewall-mode", network.firewall_mode);
    list!("host-gateway-ips", network.host_gateway_ip);
    list!("registry-mirrors", registry.registry_mirror);
    list!("insecure-registries", registry.insecure_registry);
    for (key, given) in [
        ("debug", flags.debug),
        ("init", flags.init),
        ("allow-direct-routing", flags.network.allow_direct_routing.is_some()),
        ("icc", flags.network.icc.is_some()),
        ("ip-masq", flags.network.ip_masq.is_some()),
        ("ipv6", flags.network.ipv6.is_some()),
        ("userland-proxy", flags.network.userland_proxy.is_some()),
        ("live-restore", flags.live_restore.is_some()),
        ("selinux-enabled", flags.selinux_enabled.is_some()),
    ] {
        let Some(value) = take(key, given) else { continue };
        let value = value.as_bool().ok_or_else(|| wrong(key, "true or false"))?;
        match key {
            "debug" => flags.debug = value,
            "init" => flags.init = value,
            "allow-direct-routing" => flags.network.allow_direct_routing = Some(value),
            "icc" => flags.network.icc = Some(value),
            "ip-masq" => flags.network.ip_masq = Some(value),
            "ipv6" => flags.network.ipv6 = Some(value),
            "userland-proxy" => flags.network.userland_proxy = Some(value),
            "selinux-enabled" => flags.selinux_enabled = Some(value),
            _ => flags.live_restore = Some(value),
        }
    }
    macro_rules! number {
        ($key:literal, $($field:ident).+) => {
            if let Some(value) = take($key, flags.$($field).+.is_some()) {
                flags.$($field).+ = Some(value.as_u64().and_then(|n| n.try_into().ok()).ok_or_else(|| wrong($key, "a number"))?);
            }
        };
    }
    number!("mtu", network.mtu);
    number!("max-concurrent-downloads", registry.max_concurrent_downloads);
    number!("max-concurrent-uploads", registry.max_concurrent_uploads);
    number!("max-download-attempts", registry.max_download_attempts);
    if let Some(value) = take("default-address-pools", !flags.network.default_address_pool.is_empty()) {
        let what = "a list of objects with base and size";
        for pool in value.as_array().ok_or_else(|| wrong("default-address-pools", what))? {
            let base = pool.get("base").and_then(Value::as_str).ok_or_else(|| wrong("default-address-pools", what))?;
            let size = pool.get("size").and_then(Value::as_u64).ok_or_else(|| wrong("default-address-pools", what))?;
            flags.network.default_address_pool.push(format!("base={base},size={size}"));
        }
    }
    if let Some(value) = take("default-network-opts", !flags.network.default_network_opt.is_empty()) {
        let what = "an object of drivers with objects of strings";
        for (driver, options) in value.as_object().ok_or_else(|| wrong("default-network-opts", what))? {
            for (key, value) in options.as_object().ok_or_else(|| wrong("default-network-opts", what))? {
                let value = value.as_str().ok_or_else(|| wrong("default-network-opts", what))?;
                flags.network.default_network_opt.push(format!("{driver}={key}={value}"));
            }
        }
    }
    if let Some(value) = take("proxies", false) {
        let what = "an object with http-proxy, https-proxy and no-proxy";
        for (key, value) in value.as_object().ok_or_else(|| wrong("proxies", what))? {
            let field = match key.as_str() {
                "http-proxy" => &mut flags.registry.http_proxy,
                "https-proxy" => &mut flags.registry.https_proxy,
                "no-proxy" => &mut flags.registry.no_proxy,
                _ => return Err(wrong("proxies", what)),
            };
            *field = Some(value.as_str().ok_or_else(|| wrong("proxies", what))?.to_owned());
        }
    }
    if let Some(value) = take("shutdown-timeout", flags.shutdown_timeout.is_some()) {
        flags.shutdown_timeout = Some(value.as_i64().ok_or_else(|| wrong("shutdown-timeout", "a number"))?);
    }
    if let Some(value) = take("log-opts", !flags.log_opt.is_empty()) {
        for (key, value) in value.as_object().ok_or_else(|| wrong("log-opts", "an object of strings"))? {
            flags.log_opt.push(format!("{key}={}", value.as_str().ok_or_else(|| wrong("log-opts", "an object of strings"))?));
        }
    }
    if let Some(value) = take("default-ulimits", !flags.default_ulimit.is_empty()) {
        for (name, limit) in value.as_object().ok_or_else(|| wrong("default-ulimits", "an object"))? {
            let side = |key: &str| {
                limit.get(key).and_then(Value::as_i64).ok_or_else(|| wrong("default-ulimits", "objects with Name, Soft and Hard"))
            };
            flags.default_ulimit.push(format!("{name}={}:{}", side("Soft")?, side("Hard")?));
        }
    }
    if let Some(value) = take("runtimes", false) {
        for (name, runtime) in value.as_object().ok_or_else(|| wrong("runtimes", "an object"))? {
            let path = runtime.get("path").and_then(Value::as_str).ok_or_else(|| wrong("runtimes", "objects with a path"))?;
            let args: Vec<&str> =
                runtime.get("runtimeArgs").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
            flags.add_runtime.push(format!("{name}={path}\n{}", args.join("\n")).trim_end().to_owned());
        }
    }
    if !both.is_empty() {
        let names: Vec<String> = both.into_iter().collect();
        return Err(refused(format!(
            "the following directives are specified both as a flag and in the configuration file: {}",
            names.join(", ")
        )));
    }
    Ok(flags)
}
