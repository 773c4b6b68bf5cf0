//! A container's end of a network, as it is remembered while the container runs.

use crate::error::EngineError;
use crate::spec::{NetworkSpec, Protocol};
use naru_net::{PortMap, Rate};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// An address of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The address.
    pub address: IpAddr,
    /// Length of the subnet's prefix.
    pub prefix: u8,
    /// Where the subnet leads out, if it does.
    pub gateway: Option<IpAddr>,
}

/// A container's end of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Id of the network.
    pub network: String,
    /// Its name.
    pub network_name: String,
    /// 64 hex digits.
    pub id: String,
    /// Its addresses, at most one of each family.
    pub addresses: Vec<Address>,
    /// Its hardware address; ipvlan has none of its own.
    pub mac: Option<[u8; 6]>,
    /// The interface at the host's end; none with macvlan and ipvlan.
    pub interface: Option<String>,
    /// The interface in the container.
    pub container_interface: String,
    /// Names that the network's resolver knows it by.
    pub names: Vec<String>,
    /// The network can lead to others.
    pub leads_out: bool,
    /// Published ports lead through the host to it.
    pub publishes: bool,
    /// The network with the highest one leads out.
    pub gateway_priority: i64,
    /// Most bits per second into the container.
    #[serde(default)]
    pub rate_in: Option<u64>,
    /// Most bits per second out of the container.
    #[serde(default)]
    pub rate_out: Option<u64>,
}

impl Endpoint {
    /// The hardware address as text; empty without one.
    pub fn mac_text(&self) -> String {
        self.mac.map(|bytes| bytes.map(|byte| format!("{byte:02x}")).join(":")).unwrap_or_default()
    }

    /// The address of a family.
    pub fn address(&self, ipv4: bool) -> Option<&Address> {
        self.addresses.iter().find(|address| address.address.is_ipv4() == ipv4)
    }
}

/// A port of the host that leads into a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// Port in the container.
    pub container_port: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// Address of the host; unspecified where it leads to the container's own address.
    pub host_ip: IpAddr,
    /// Port of the host; 0 where it leads to the container's own address.
    pub host_port: u16,
}

impl Published {
    /// It is open at the container's own address, no port of the host leads there: the network's mode is `routed`.
    pub fn is_routed(&self) -> bool {
        self.host_port == 0
    }
}

/// A running container's place on its networks; stored with the run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Its ends.
    pub endpoints: Vec<Endpoint>,
    /// Ports of the host that lead into it.
    #[serde(default)]
    pub ports: Vec<Published>,
    /// UDP and TCP port of its resolver's sockets, inside its namespace.
    #[serde(default)]
    pub resolver: Option<(u16, u16)>,
}

impl Place {
    /// Something of it is in the kernel that does not go with the container's namespace.
    pub fn leaves_rules(&self) -> bool {
        !self.ports.is_empty() || self.endpoints.iter().any(|endpoint| endpoint.rate_out.is_some())
    }

    /// The endpoint that leads out with a family: highest priority, then the network's name in alphabetical order.
    pub fn gateway(&self, ipv4: bool) -> Option<&Endpoint> {
        let leads = |endpoint: &&Endpoint| endpoint.leads_out && endpoint.address(ipv4).is_some_and(|address| address.gateway.is_some());
        self.endpoints.iter().filter(leads).min_by(|a, b| (b.gateway_priority, &a.network_name).cmp(&(a.gateway_priority, &b.network_name)))
    }

    /// Where a published port of the host leads: to the address of the same family, else (with a proxy) to the IPv4 one.
    pub fn target(&self, host_ip: IpAddr) -> Option<IpAddr> {
        let publishing = |ipv4: bool| self.gateway(ipv4).filter(|endpoint| endpoint.publishes).and_then(|endpoint| endpoint.address(ipv4));
        let target = if host_ip.is_ipv4() { publishing(true) } else { publishing(false).or_else(|| publishing(true)) };
        target.map(|address| address.address)
    }

    /// Kernel parameters of the interfaces, by their names in the container.
    pub fn sysctls(&self, spec: &NetworkSpec) -> crate::Result<Vec<(String, String)>> {
        let mut list = Vec::new();
        for (endpoint, attachment) in self.endpoints.iter().zip(&spec.attachments) {
            let options = EndpointOptions::parse(&attachment.options).map_err(EngineError::invalid)?;
            list.extend(options.sysctls.into_iter().map(|(name, value)| (name.replace("IFNAME", &endpoint.container_interface), value)));
        }
        Ok(list)
    }

    /// The ports the firewall rewrites: those whose address and target are of one family.
    pub fn port_maps(&self) -> Vec<PortMap> {
        self.ports
            .iter()
            .filter_map(|port| {
                let container_ip = self.target(port.host_ip).filter(|target| target.is_ipv4() == port.host_ip.is_ipv4())?;
                Some(PortMap {
                    protocol: port.protocol.into(),
                    host_ip: port.host_ip,
                    host_port: port.host_port,
                    container_ip,
                    container_port: port.container_port,
                })
            })
            .collect()
    }
}

impl From<Protocol> for naru_net::Protocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => naru_net::Protocol::Tcp,
            Protocol::Udp => naru_net::Protocol::Udp,
            Protocol::Sctp => naru_net::Protocol::Sctp,
        }
    }
}

/// Options of an endpoint: Docker's driver options, and Naru's bandwidth limits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointOptions {
    /// Kernel parameters of the interface: name (with `IFNAME`) and value.
    pub sysctls: Vec<(String, String)>,
    /// Name of the interface in the container.
    pub interface: Option<String>,
    /// Bandwidth.
    pub rate: Option<Rate>,
}

/// Docker's key for kernel parameters of an endpoint.
pub const SYSCTLS: &str = "com.docker.network.endpoint.sysctls";
/// Docker's key for the interface's name.
pub const INTERFACE: &str = "com.docker.network.endpoint.ifname";
/// Bandwidth into the container, in bits per second.
pub const RATE_IN: &str = "naru.network.rate.in";
/// Bandwidth out of the container, in bits per second.
pub const RATE_OUT: &str = "naru.network.rate.out";

impl EndpointOptions {
    /// Reads the options of an endpoint.
    pub fn parse(options: &std::collections::BTreeMap<String, String>) -> Result<Self, String> {
        let mut parsed = EndpointOptions::default();
        for (key, value) in options {
            match key.as_str() {
                SYSCTLS => {
                    for one in value.split(',').filter(|one| !one.is_empty()) {
                        parsed.sysctls.push(sysctl(one)?);
                    }
                }
                INTERFACE => {
                    value.parse::<naru_net::LinkName>().map_err(|error| error.to_string())?;
                    parsed.interface = Some(value.clone());
                }
                RATE_IN => parsed.rate.get_or_insert_default().ingress = Some(rate(value)?),
                RATE_OUT => parsed.rate.get_or_insert_default().egress = Some(rate(value)?),
                _ => return Err(format!("driver option {key} is not known; known are {SYSCTLS}, {INTERFACE}, {RATE_IN}, {RATE_OUT}")),
            }
        }
        Ok(parsed)
    }

    /// The kernel parameters as files below `/proc/sys`, with their values.
    pub fn parameters(&self, interface: &str) -> Vec<(String, &str)> {
        let file =
            |name: &str| name.split('.').map(|field| if field == "IFNAME" { interface } else { field }).collect::<Vec<_>>().join("/");
        self.sysctls.iter().map(|(name, value)| (file(name), value.as_str())).collect()
    }
}

/// `net.ipv4.conf.IFNAME.log_martians=1`. The docker CLI sends `ifname`.
fn sysctl(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("invalid sysctl {text:?}: expected name=value"))?;
    let name = name.split('.').map(|field| if field == "ifname" { "IFNAME" } else { field }).collect::<Vec<_>>().join(".");
    let fields: Vec<&str> = name.split('.').collect();
    // A parameter's name becomes a path.
    let is_plain =
        fields.iter().all(|field| !field.is_empty() && field.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte)));
    match fields[..] {
        _ if !is_plain => Err(format!("invalid sysctl {name:?}: a name has letters, digits, dots, '_' and '-'")),
        ["net", "ipv4" | "ipv6" | "mpls", "conf" | "neigh", "IFNAME", _] | ["net", "mpls", _, "IFNAME"] => {
            Ok((name.clone(), value.to_owned()))
        }
        _ => Err(format!("invalid sysctl {name:?}: expected net.ipv4.conf.IFNAME.<parameter> or the like")),
    }
}

/// Bits per second as tc(8) writes them: `800kbit`, `10mbit`, `1gbit`, `100mbps` (bytes), or a plain number.
pub fn rate(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: f64 = match unit.to_ascii_lowercase().as_str() {
        "" | "bit" => 1.0,
        "k" | "kbit" => 1e3,
        "m" | "mbit" => 1e6,
        "g" | "gbit" => 1e9,
        "bps" => 8.0,
        "kbps" => 8e3,
        "mbps" => 8e6,
        "gbps" => 8e9,
        _ => return Err(format!("invalid rate {text:?}: use a number with kbit, mbit, gbit (bits) or kbps, mbps, gbps (bytes)")),
    };
    let bits = number.parse::<f64>().map_err(|_| format!("invalid rate {text:?}: it does not begin with a number"))? * factor;
    // Below a packet in a second nothing works; above, the field of the kernel's message ends.
    if (8e3..=1e15).contains(&bits) { Ok(bits as u64) } else { Err(format!("invalid rate {text:?}: the least is 8kbit")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn endpoint(name: &str, priority: i64, leads_out: bool, addresses: &[&str]) -> Endpoint {
        let address = |text: &&str| {
            let address: IpAddr = text.parse().unwrap();
            Address { address, prefix: 24, gateway: Some(address) }
        };
        Endpoint {
            network: name.repeat(2),
            network_name: name.into(),
            id: String::new(),
            addresses: addresses.iter().map(address).collect(),
            mac: None,
            interface: None,
            container_interface: "eth0".into(),
            names: vec![],
            leads_out,
            publishes: true,
            gateway_priority: priority,
            rate_in: None,
            rate_out: None,
        }
    }

    #[test]
    fn who_leads_out() {
        let place = |endpoints: &[Endpoint]| Place { endpoints: endpoints.to_vec(), ..Place::default() };
        let (a, b) = (endpoint("a", 0, true, &["10.0.0.2"]), endpoint("b", 0, true, &["10.1.0.2", "fd00::2"]));
        assert_eq!(place(&[b.clone(), a.clone()]).gateway(true), Some(&a));
        assert_eq!(place(&[a.clone(), b.clone()]).gateway(false), Some(&b));
        let first = endpoint("z", 5, true, &["10.2.0.2"]);
        assert_eq!(place(&[a.clone(), first.clone()]).gateway(true), Some(&first));
        assert_eq!(place(&[endpoint("i", 9, false, &["10.3.0.2"])]).gateway(true), None);
    }

    #[test]
    fn where_ports_lead() {
        let port =
            |host_ip: &str| Published { container_port: 80, protocol: Protocol::Tcp, host_ip: host_ip.parse().unwrap(), host_port: 8080 };
        let mut place =
            Place { endpoints: vec![endpoint("a", 0, true, &["10.0.0.2"])], ports: vec![port("0.0.0.0"), port("::")], ..Place::default() };
        // IPv6 goes to the IPv4 address by a proxy: the firewall cannot rewrite it.
        assert_eq!(place.port_maps().len(), 1);
        assert_eq!(place.target("::".parse().unwrap()), Some("10.0.0.2".parse().unwrap()));
        place.endpoints.push(endpoint("b", 0, true, &["fd00::2"]));
        assert_eq!(place.port_maps().len(), 2);
        assert_eq!(place.target("::".parse().unwrap()), Some("fd00::2".parse().unwrap()));
        place.endpoints.clear();
        assert!(place.port_maps().is_empty());
    }

    #[test]
    fn options() {
        let parse = |pairs: &[(&str, &str)]| {
            EndpointOptions::parse(&pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<BTreeMap<_, _>>())
        };
        let parsed =
            parse(&[(SYSCTLS, "net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.conf.ifname.accept_ra=0"), (RATE_IN, "10mbit")]).unwrap();
        assert_eq!(parsed.sysctls.len(), 2);
        assert_eq!(parsed.rate, Some(Rate { ingress: Some(10_000_000), egress: None }));
        for (key, value) in
            [(SYSCTLS, "kernel.domainname=x"), (SYSCTLS, "net.ipv4.ip_forward=1"), (INTERFACE, "a/b"), (RATE_IN, "fast"), ("colour", "red")]
        {
            assert!(parse(&[(key, value)]).is_err(), "{key}={value}");
        }
    }

    #[test]
    fn rates() {
        for (text, bits) in
            [("800kbit", 800_000), ("10mbit", 10_000_000), ("1.5gbit", 1_500_000_000), ("1mbps", 8_000_000), ("64000", 64_000)]
        {
            assert_eq!(rate(text), Ok(bits), "{text}");
        }
        for text in ["", "mbit", "10 mbit", "-1mbit", "1parsec", "1bit", "99999999gbit"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }
}
