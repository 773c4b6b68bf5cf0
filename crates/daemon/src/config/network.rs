//! The flags about networks become the engine's settings.

use super::flags::NetworkFlags;
use super::{ConfigError, flag_error, pair};
use naru_engine::network::NetworkConfig;
use naru_net::ipam::SubnetPools;
use naru_net::{FirewallConfig, FirewallMode, IpNet};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

/// Checks the flags.
pub fn network(flags: NetworkFlags, data_root: &Path) -> Result<NetworkConfig, ConfigError> {
    if flags.userland_proxy == Some(false) {
        return Err(flag_error(
            "--userland-proxy=false is not possible: published ports on loopback are served by the daemon, without processes",
        ));
    }
    let network = bridge(flags.bridge, flags.bip.as_deref())?;
    let unique_local = NetworkConfig::unique_local_of(data_root);
    let owner = if network.bridge == "none" {
        // Daemons without a bridge are told apart by their data.
        format!("none-{}", &naru_types::Digest::of(data_root.as_os_str().as_encoded_bytes()).hex()[..8])
    } else {
        network.bridge.clone()
    };
    let ipv6 = match &flags.fixed_cidr_v6 {
        Some(text) => Some(net("--fixed-cidr-v6", text, false)?),
        None if flags.ipv6 == Some(true) => Some(unique_local.allocate(&[], false).map_err(|error| flag_error(error.to_string()))?),
        None => None,
    };
    Ok(NetworkConfig {
        owner,
        mtu: flags.mtu.unwrap_or(1500),
        icc: flags.icc.unwrap_or(true),
        masquerade: flags.ip_masq.unwrap_or(true),
        default_host_ip: flags.ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        dns: flags.dns,
        dns_options: flags.dns_opt,
        dns_search: flags.dns_search,
        fixed_range: flags.fixed_cidr.as_deref().map(|text| net("--fixed-cidr", text, true)).transpose()?,
        ipv6: ipv6.filter(|_| flags.ipv6 != Some(false)),
        pools: pools(&flags.default_address_pool)?,
        unique_local,
        host_gateway: flags.host_gateway_ip,
        firewall: FirewallConfig {
            mode: firewall_mode(flags.firewall_mode.as_deref())?,
            direct_routing: flags.allow_direct_routing.unwrap_or_default(),
        },
        default_options: default_options(&flags.default_network_opt)?,
        ..network
    })
}

fn net(flag: &str, text: &str, ipv4: bool) -> Result<IpNet, ConfigError> {
    let family = if ipv4 { "IPv4" } else { "IPv6" };
    let parsed = text.parse::<IpNet>().ok().filter(|net| net.is_ipv4() == ipv4);
    parsed.ok_or_else(|| flag_error(format!("invalid {flag} {text:?}: expected an {family} network, e.g. ADDRESS/PREFIX")))
}

fn firewall_mode(text: Option<&str>) -> Result<FirewallMode, ConfigError> {
    match text {
        None | Some("open") => Ok(FirewallMode::Open),
        Some("respect-host") => Ok(FirewallMode::RespectHost),
        Some(other) => Err(flag_error(format!("invalid --firewall-mode {other:?}: use open or respect-host"))),
    }
}

/// `base=172.80.0.0/16,size=24`.
fn pools(texts: &[String]) -> Result<SubnetPools, ConfigError> {
    if texts.is_empty() {
        return Ok(SubnetPools::default());
    }
    let pools = texts.iter().map(|text| naru_net::ipam::parse_pool(text)).collect::<Result<_, _>>();
    let pools = pools.map_err(|error| flag_error(format!("invalid --default-address-pool: {error}")))?;
    SubnetPools::new(pools).map_err(|error| flag_error(format!("invalid --default-address-pool: {error}")))
}

/// `bridge=com.docker.network.driver.mtu=1400`, by driver.
fn default_options(texts: &[String]) -> Result<BTreeMap<String, BTreeMap<String, String>>, ConfigError> {
    let mut options: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for text in texts {
        let (driver, rest) = pair("--default-network-opt", text)?;
        let (key, value) = pair("--default-network-opt", rest)?;
        if !matches!(driver, "bridge" | "macvlan" | "ipvlan") {
            return Err(flag_error(format!("invalid --default-network-opt {text:?}: the driver is bridge, macvlan or ipvlan")));
        }
        options.entry(driver.to_owned()).or_default().insert(key.to_owned(), value.to_owned());
    }
    Ok(options)
}

/// The bridge's name and address.
fn bridge(bridge: Option<String>, bip: Option<&str>) -> Result<NetworkConfig, ConfigError> {
    let bridge = bridge.unwrap_or_else(|| "naru0".into());
    // IFNAMSIZ is 16 with its end.
    let valid = !bridge.is_empty() && bridge.len() <= 15 && !bridge.contains(|c: char| c == '/' || c.is_whitespace());
    if !valid {
        return Err(flag_error(format!("invalid --bridge {bridge:?}: an interface's name has 1 to 15 characters without / and blanks")));
    }
    let bip = bip.unwrap_or("172.30.0.1/16");
    let bad = || flag_error(format!("invalid --bip {bip:?}: expected an IPv4 address with a prefix, e.g. 172.18.0.1/16"));
    let (address, prefix) = bip.split_once('/').ok_or_else(bad)?;
    let (gateway, prefix): (Ipv4Addr, u8) = (address.parse().map_err(|_| bad())?, prefix.parse().map_err(|_| bad())?);
    if !(8..=29).contains(&prefix) || gateway.is_loopback() || gateway.is_unspecified() || gateway.is_multicast() {
        return Err(bad());
    }
    Ok(NetworkConfig::new(bridge, gateway, prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(change: impl FnOnce(&mut NetworkFlags)) -> Result<NetworkConfig, ConfigError> {
        let mut flags = NetworkFlags::default();
        change(&mut flags);
        network(flags, Path::new("/var/lib/naru"))
    }

    #[test]
    fn pools_and_options() {
        let config = parse(|flags| {
            flags.default_address_pool = vec!["base=10.50.0.0/16,size=24".into(), "base=fd00:7::/48,size=64".into()];
            flags.default_network_opt = vec!["bridge=com.docker.network.driver.mtu=1400".into()];
            flags.ipv6 = Some(true);
        })
        .unwrap();
        assert_eq!(config.pools.allocate(&[], true).unwrap().to_string(), "10.50.0.0/24");
        assert_eq!(config.default_options["bridge"]["com.docker.network.driver.mtu"], "1400");
        assert!(config.ipv6.is_some());
        assert!(parse(|flags| flags.default_address_pool = vec!["base=10.0.0.0/24,size=16".into()]).is_err());
        assert!(parse(|flags| flags.default_address_pool = vec!["size=16".into()]).is_err());
        assert!(parse(|flags| flags.firewall_mode = Some("wide".into())).is_err());
        assert!(parse(|flags| flags.userland_proxy = Some(false)).is_err());
        assert!(parse(|flags| flags.fixed_cidr_v6 = Some("10.0.0.0/8".into())).is_err());
    }
}
