//! How the networks are set up: the default bridge, and what other networks take their addresses from.

use super::record::{Driver, Network, Subnet, predefined_id};
use jiff::Timestamp;
use naru_net::ipam::SubnetPools;
use naru_net::{FirewallConfig, IpNet};
use naru_types::Digest;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The default bridge and what goes for all networks.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// What the links and rules of this daemon are known by; no other daemon may have the same.
    pub owner: String,
    /// Name of the default bridge's interface; `none` for no bridge.
    pub bridge: String,
    /// Its address, the containers' gateway.
    pub gateway: Ipv4Addr,
    /// Length of the subnet's prefix.
    pub prefix: u8,
    /// The part of the subnet that containers get addresses of.
    pub fixed_range: Option<IpNet>,
    /// IPv6 subnet of the default bridge, which has IPv6 then.
    pub ipv6: Option<IpNet>,
    /// MTU of the default bridge and its containers.
    pub mtu: u32,
    /// Containers of the default bridge reach each other.
    pub icc: bool,
    /// Containers of the default bridge reach other hosts under the host's address.
    pub masquerade: bool,
    /// Address that published ports bind to by default.
    pub default_host_ip: IpAddr,
    /// Name servers of containers that name none.
    pub dns: Vec<IpAddr>,
    /// Search domains of containers that name none.
    pub dns_search: Vec<String>,
    /// resolv.conf options of containers that name none.
    pub dns_options: Vec<String>,
    /// Subnets for networks that name none.
    pub pools: SubnetPools,
    /// IPv6 subnets for networks that name none.
    pub unique_local: SubnetPools,
    /// Addresses that `host-gateway` stands for; the default bridge's when empty.
    pub host_gateway: Vec<IpAddr>,
    /// Whether published ports pass the host's own rules, and who reaches them by the containers' own addresses.
    pub firewall: FirewallConfig,
    /// Options of new networks, by driver.
    pub default_options: BTreeMap<String, BTreeMap<String, String>>,
}

impl NetworkConfig {
    /// Docker's defaults for a bridge.
    pub fn new(bridge: String, gateway: Ipv4Addr, prefix: u8) -> Self {
        NetworkConfig {
            owner: bridge.clone(),
            bridge,
            gateway,
            prefix,
            fixed_range: None,
            ipv6: None,
            mtu: 1500,
            icc: true,
            masquerade: true,
            default_host_ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            dns: vec![],
            dns_search: vec![],
            dns_options: vec![],
            pools: SubnetPools::default(),
            unique_local: unique_local("naru"),
            host_gateway: vec![],
            firewall: FirewallConfig::default(),
            default_options: BTreeMap::new(),
        }
    }

    /// The IPv6 subnets of a daemon with this data root.
    pub fn unique_local_of(data_root: &std::path::Path) -> SubnetPools {
        let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
        unique_local(&format!("{}\n{}", machine.trim(), data_root.display()))
    }

    /// Addresses under which containers reach the host.
    pub(super) fn host_addresses(&self) -> Vec<IpAddr> {
        if !self.host_gateway.is_empty() {
            return self.host_gateway.clone();
        }
        if self.bridge == "none" { vec![] } else { vec![IpAddr::V4(self.gateway)] }
    }

    /// `bridge`, `host` and `none`.
    pub(super) fn predefined(&self, created: Timestamp) -> Vec<Network> {
        let plain = |name: &str, driver: Driver| Network::plain(predefined_id(name), name.to_owned(), driver, created);
        let mut list = vec![plain("host", Driver::Host), plain("none", Driver::Null)];
        if self.bridge != "none" {
            let mut bridge = plain("bridge", Driver::Bridge);
            bridge.ipv6 = self.ipv6.is_some();
            bridge.subnets = self.subnets();
            bridge.options = [
                ("com.docker.network.bridge.default_bridge", "true".to_owned()),
                ("com.docker.network.bridge.enable_icc", self.icc.to_string()),
                ("com.docker.network.bridge.enable_ip_masquerade", self.masquerade.to_string()),
                ("com.docker.network.bridge.host_binding_ipv4", self.default_host_ip.to_string()),
                ("com.docker.network.bridge.name", self.bridge.clone()),
                ("com.docker.network.driver.mtu", self.mtu.to_string()),
            ]
            .map(|(key, value)| (key.to_owned(), value))
            .into();
            list.push(bridge);
        }
        list
    }

    fn subnets(&self) -> Vec<Subnet> {
        let plain = |subnet: IpNet, gateway: IpAddr, range: Option<IpNet>| Subnet {
            subnet: subnet.network(),
            range,
            gateway: Some(gateway),
            reserved: BTreeMap::new(),
            chosen: false,
        };
        let ipv4 = IpNet::new(IpAddr::V4(self.gateway), self.prefix).ok().map(|net| plain(net, IpAddr::V4(self.gateway), self.fixed_range));
        let ipv6 = self.ipv6.and_then(|net| net.nth(1).map(|gateway| plain(net, gateway, None)));
        ipv4.into_iter().chain(ipv6).collect()
    }
}

/// A /48 of unique local addresses (RFC 4193) that belongs to this daemon alone, in subnets of /64. It follows from what
/// does not change, so that networks keep their addresses.
fn unique_local(seed: &str) -> SubnetPools {
    let hash = Digest::of(format!("naru unique local addresses\n{seed}").as_bytes());
    let random = u128::from_str_radix(&hash.hex()[..10], 16).expect("a digest is hexadecimal");
    let address = Ipv6Addr::from(0xfd << 120 | random << 80);
    let base = IpNet::new(IpAddr::V6(address), 48).expect("48 fits an IPv6 address");
    SubnetPools::new(vec![(base, 64)]).expect("64 is longer than 48")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unique_local_addresses_stay_and_differ() {
        let first = |seed: &str| unique_local(seed).allocate(&[], false).unwrap();
        assert_eq!(first("a"), first("a"));
        assert_ne!(first("a"), first("b"));
        assert!(first("a").to_string().starts_with("fd") && first("a").prefix() == 64);
    }

    #[test]
    fn the_default_bridge() {
        let config = NetworkConfig::new("naru0".into(), Ipv4Addr::new(172, 30, 0, 1), 16);
        let networks = config.predefined(Timestamp::UNIX_EPOCH);
        let bridge = networks.iter().find(|network| network.name == "bridge").unwrap();
        assert!(bridge.is_default_bridge() && bridge.subnets[0].subnet.to_string() == "172.30.0.0/16");
        let without = NetworkConfig { bridge: "none".into(), ..config };
        assert!(without.predefined(Timestamp::UNIX_EPOCH).iter().all(|network| network.name != "bridge"));
    }
}
