//! What a network is: its record as stored, and its driver's options, parsed and checked. Pure.
//!
//! The options are Docker's keys (`com.docker.network.…`, docs.docker.com/engine/network/drivers); one that is not known
//! here is refused.

use crate::error::{EngineError, Result};
use jiff::Timestamp;
use naru_net::{GatewayMode, IpNet, IpvlanFlag, IpvlanMode, LinkName, MacvlanMode};
use naru_types::Digest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// What makes a network work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// A bridge of the host, with NAT or routes.
    Bridge,
    /// Interfaces with hardware addresses of their own on a host's interface.
    Macvlan,
    /// Interfaces that share the hardware address of a host's interface.
    Ipvlan,
    /// The host's own network.
    Host,
    /// A loopback only.
    Null,
}

impl Driver {
    /// Docker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Driver::Bridge => "bridge",
            Driver::Macvlan => "macvlan",
            Driver::Ipvlan => "ipvlan",
            Driver::Host => "host",
            Driver::Null => "null",
        }
    }
}

/// Numbers and text between a value and its JSON string.
mod text {
    use serde::{Deserialize, Deserializer, Serializer};
    use std::fmt::Display;
    use std::str::FromStr;

    pub fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }

    pub mod option {
        use super::*;

        pub fn serialize<T: Display, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
            match value {
                Some(value) => serializer.collect_str(value),
                None => serializer.serialize_none(),
            }
        }

        pub fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
            Option::<String>::deserialize(deserializer)?.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
        }
    }
}

/// A subnet of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// The network's addresses.
    #[serde(with = "text")]
    pub subnet: IpNet,
    /// The part that containers get addresses of, where it is not the whole.
    #[serde(with = "text::option", default)]
    pub range: Option<IpNet>,
    /// Where containers send what goes elsewhere; none where nothing does.
    #[serde(default)]
    pub gateway: Option<IpAddr>,
    /// Addresses that belong to others.
    #[serde(default)]
    pub reserved: BTreeMap<String, IpAddr>,
    /// The user chose it: containers may ask for addresses of it.
    pub chosen: bool,
}

/// A network as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// 64 hex digits.
    pub id: String,
    /// Its name; any text that is not empty.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// What makes it work.
    pub driver: Driver,
    /// Has IPv4 addresses.
    pub ipv4: bool,
    /// Has IPv6 addresses.
    pub ipv6: bool,
    /// Its subnets, IPv4 first.
    pub subnets: Vec<Subnet>,
    /// Docker's word for where it is; kept for inspect.
    #[serde(default = "local")]
    pub scope: String,
    /// Reaches nothing outside.
    pub internal: bool,
    /// For swarm's containers; kept for inspect.
    pub attachable: bool,
    /// A set of options for other networks, no network itself.
    pub config_only: bool,
    /// The network its options come from.
    pub config_from: String,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
    /// Options of the address management; kept for inspect, which tells none from an empty list.
    pub ipam_options: Option<BTreeMap<String, String>>,
    /// Data of the user.
    pub labels: BTreeMap<String, String>,
}

/// The scope of networks of this host.
pub const LOCAL: &str = "local";

fn local() -> String {
    LOCAL.to_owned()
}

/// The id of a predefined network: the same on every host and start.
pub fn predefined_id(name: &str) -> String {
    Digest::of(format!("naru network {name}").as_bytes()).hex()
}

impl Network {
    /// A network of a user's with nothing said about it: IPv4, no subnets yet, no options.
    pub(super) fn plain(id: String, name: String, driver: Driver, created: Timestamp) -> Network {
        Network {
            id,
            name,
            created,
            driver,
            ipv4: true,
            ipv6: false,
            subnets: vec![],
            scope: local(),
            internal: false,
            attachable: false,
            config_only: false,
            config_from: String::new(),
            options: BTreeMap::new(),
            ipam_options: None,
            labels: BTreeMap::new(),
        }
    }

    /// `bridge`, `host` or `none`.
    pub fn is_predefined(&self) -> bool {
        matches!(self.name.as_str(), "bridge" | "host" | "none") && self.id == predefined_id(&self.name)
    }

    /// The default bridge, where names are not resolved (as in Docker).
    pub fn is_default_bridge(&self) -> bool {
        self.driver == Driver::Bridge && self.is_predefined()
    }

    /// Can lead containers to other networks and hosts.
    pub fn leads_out(&self) -> bool {
        !self.internal && !matches!(self.driver, Driver::Null)
    }
}

/// How the bridge driver behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeOptions {
    /// The interface.
    pub name: LinkName,
    /// MTU of bridge and containers.
    pub mtu: Option<u32>,
    /// Containers reach each other.
    pub icc: bool,
    /// Containers reach other hosts under the host's address.
    pub masquerade: bool,
    /// Address of the host that published ports bind to by default.
    pub host_binding: Option<IpAddr>,
    /// How IPv4 leads in and out.
    pub mode_v4: GatewayMode,
    /// How IPv6 leads in and out.
    pub mode_v6: GatewayMode,
    /// Address that containers are seen under, instead of the outgoing interface's.
    pub host_v4: Option<IpAddr>,
    /// The same with IPv6.
    pub host_v6: Option<IpAddr>,
    /// The bridge gets no IPv4 address.
    pub inhibit_v4: bool,
    /// Beginning of the names of containers' interfaces.
    pub interface_prefix: String,
    /// Containers may send to each other past the bridge, while nobody could notice.
    pub shortcut: bool,
    /// Interfaces of the host from which published ports are reached by the containers' own addresses, too.
    pub trusted: Vec<LinkName>,
}

/// On what a macvlan or ipvlan network stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectOptions {
    /// The host's interface; none makes a dummy, which leads nowhere.
    pub parent: Option<LinkName>,
    /// MTU of containers' interfaces.
    pub mtu: Option<u32>,
    /// Kind of interface.
    pub kind: DirectKind,
}

/// Kind of interface on a parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirectKind {
    /// With a hardware address of its own.
    Macvlan(MacvlanMode),
    /// Under the parent's hardware address.
    Ipvlan(IpvlanMode, IpvlanFlag),
}

/// A driver's options, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Options {
    /// Of a bridge.
    Bridge(BridgeOptions),
    /// Of macvlan and ipvlan.
    Direct(DirectOptions),
    /// `host` and `none` have none.
    None,
}

const BRIDGE: &str = "com.docker.network.bridge.";
const DRIVER_MTU: &str = "com.docker.network.driver.mtu";
const INTERFACE_PREFIX: &str = "com.docker.network.container_iface_prefix";
const SHORTCUT: &str = "naru.network.shortcut";
const HOST_IPV4: &str = "com.docker.network.host_ipv4";
const HOST_IPV6: &str = "com.docker.network.host_ipv6";
/// Docker's CLI and compose send these beside the fields of the same meaning.
const ENABLE: [&str; 2] = ["com.docker.network.enable_ipv4", "com.docker.network.enable_ipv6"];

fn boolean(key: &str, value: &str) -> Result<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(EngineError::invalid(format!("failed to parse {key} value: {value:?} is neither true nor false"))),
    }
}

fn parsed<T: std::str::FromStr>(key: &str, value: &str, wanted: &str) -> Result<T> {
    value.parse().map_err(|_| EngineError::invalid(format!("failed to parse {key} value: {value:?} is not {wanted}")))
}

fn mtu(key: &str, value: &str) -> Result<Option<u32>> {
    let mtu: u32 = parsed(key, value, "a number")?;
    match mtu {
        0 => Ok(None),
        68..=65535 => Ok(Some(mtu)),
        _ => Err(EngineError::invalid(format!("invalid {key} {mtu}: an MTU is between 68 and 65535"))),
    }
}

fn gateway_mode(key: &str, value: &str) -> Result<GatewayMode> {
    match value {
        "nat" => Ok(GatewayMode::Nat),
        "nat-unprotected" => Ok(GatewayMode::NatUnprotected),
        "routed" => Ok(GatewayMode::Routed),
        "isolated" => Ok(GatewayMode::Isolated),
        _ => Err(EngineError::invalid(format!("invalid {key} {value:?}: use nat, nat-unprotected, routed or isolated"))),
    }
}

fn unknown(driver: &str, key: &str, value: &str, known: &[&str]) -> EngineError {
    EngineError::invalid(format!("option {key}={value} of driver {driver} is not known; known are: {}", known.join(", ")))
}

impl Options {
    /// Reads the options of a network.
    pub fn parse(network: &Network) -> Result<Options> {
        match network.driver {
            Driver::Bridge => bridge(network).map(Options::Bridge),
            Driver::Macvlan | Driver::Ipvlan => direct(network).map(Options::Direct),
            Driver::Host | Driver::Null => Ok(Options::None),
        }
    }
}

fn bridge(network: &Network) -> Result<BridgeOptions> {
    let mut options = BridgeOptions {
        name: format!("br-{}", &network.id[..12]).parse()?,
        mtu: None,
        icc: true,
        masquerade: true,
        host_binding: None,
        mode_v4: GatewayMode::Nat,
        mode_v6: GatewayMode::Nat,
        host_v4: None,
        host_v6: None,
        inhibit_v4: false,
        interface_prefix: "eth".into(),
        shortcut: true,
        trusted: vec![],
    };
    for (key, value) in &network.options {
        match key.strip_prefix(BRIDGE).unwrap_or(key) {
            "name" => options.name = parsed(key, value, "a name for an interface (at most 15 bytes, no slash or space)")?,
            "enable_icc" => options.icc = boolean(key, value)?,
            "enable_ip_masquerade" => options.masquerade = boolean(key, value)?,
            "host_binding_ipv4" => options.host_binding = Some(parsed(key, value, "an address")?),
            "gateway_mode_ipv4" => options.mode_v4 = gateway_mode(key, value)?,
            "gateway_mode_ipv6" => options.mode_v6 = gateway_mode(key, value)?,
            "inhibit_ipv4" => options.inhibit_v4 = boolean(key, value)?,
            "trusted_host_interfaces" => options.trusted = trusted(key, value)?,
            // Set by the engine itself on the default bridge.
            "default_bridge" if network.is_predefined() => {}
            DRIVER_MTU => options.mtu = mtu(key, value)?,
            INTERFACE_PREFIX => options.interface_prefix = interface_prefix(key, value)?,
            SHORTCUT => options.shortcut = boolean(key, value)?,
            HOST_IPV4 => options.host_v4 = Some(IpAddr::V4(parsed(key, value, "an IPv4 address")?)),
            HOST_IPV6 => options.host_v6 = Some(IpAddr::V6(parsed(key, value, "an IPv6 address")?)),
            _ if ENABLE.contains(&key.as_str()) => {}
            _ => {
                let known = [
                    "com.docker.network.bridge.{name,enable_icc,enable_ip_masquerade,host_binding_ipv4,gateway_mode_ipv4,gateway_mode_ipv6,inhibit_ipv4,trusted_host_interfaces}",
                    DRIVER_MTU,
                    INTERFACE_PREFIX,
                    SHORTCUT,
                    HOST_IPV4,
                    HOST_IPV6,
                ];
                return Err(unknown("bridge", key, value, &known));
            }
        }
    }
    let isolated = options.mode_v4 == GatewayMode::Isolated || options.mode_v6 == GatewayMode::Isolated;
    if isolated && !network.internal {
        return Err(EngineError::invalid("gateway mode 'isolated' can only be used for an internal network"));
    }
    Ok(options)
}

fn interface_prefix(key: &str, value: &str) -> Result<String> {
    // Room for the number behind it.
    let _: LinkName = parsed(key, &format!("{value}99"), "the beginning of an interface's name (at most 13 bytes)")?;
    Ok(value.to_owned())
}

/// Names with colons between them; one twice, or none, is fine.
fn trusted(key: &str, value: &str) -> Result<Vec<LinkName>> {
    let mut names = Vec::new();
    for name in value.split(':').filter(|name| !name.is_empty()) {
        let name = parsed(key, name, "the name of an interface (at most 15 bytes, no slash or space)")?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

fn direct(network: &Network) -> Result<DirectOptions> {
    let driver = network.driver.as_str();
    let (mut parent, mut link_mtu, mut mode, mut flag) = (None, None, "", "");
    for (key, value) in &network.options {
        match key.as_str() {
            "parent" if value == "lo" => {
                return Err(EngineError::invalid(format!("loopback interface is not a valid {driver} parent link")));
            }
            "parent" => parent = Some(parsed(key, value, "the name of an interface")?),
            "macvlan_mode" | "mode" if network.driver == Driver::Macvlan => mode = value,
            "ipvlan_mode" | "mode" if network.driver == Driver::Ipvlan => mode = value,
            "ipvlan_flag" if network.driver == Driver::Ipvlan => flag = value,
            DRIVER_MTU => link_mtu = mtu(key, value)?,
            _ if ENABLE.contains(&key.as_str()) => {}
            _ => return Err(unknown(driver, key, value, &["parent", "macvlan_mode", "ipvlan_mode", "ipvlan_flag", DRIVER_MTU])),
        }
    }
    let bad = |what: &str, value: &str, known: &str| {
        EngineError::invalid(format!("requested {driver} {what} '{value}' is not valid, use {known}"))
    };
    let kind = if network.driver == Driver::Macvlan {
        DirectKind::Macvlan(match mode {
            "" | "bridge" => MacvlanMode::Bridge,
            "private" => MacvlanMode::Private,
            "vepa" => MacvlanMode::Vepa,
            "passthru" => MacvlanMode::Passthru,
            _ => return Err(bad("mode", mode, "bridge, private, vepa or passthru")),
        })
    } else {
        let mode = match mode {
            "" | "l2" => IpvlanMode::L2,
            "l3" => IpvlanMode::L3,
            "l3s" => IpvlanMode::L3s,
            _ => return Err(bad("mode", mode, "l2, l3 or l3s")),
        };
        let flag = match flag {
            "" | "bridge" => IpvlanFlag::Bridge,
            "private" => IpvlanFlag::Private,
            "vepa" => IpvlanFlag::Vepa,
            _ => return Err(bad("flag", flag, "bridge, private or vepa")),
        };
        DirectKind::Ipvlan(mode, flag)
    };
    Ok(DirectOptions { parent, mtu: link_mtu, kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(driver: Driver, options: &[(&str, &str)]) -> Network {
        Network {
            options: options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            ..Network::plain("ab".repeat(32), "n".into(), driver, Timestamp::UNIX_EPOCH)
        }
    }

    #[test]
    fn options_of_a_bridge() {
        let Options::Bridge(plain) = Options::parse(&network(Driver::Bridge, &[])).unwrap() else { panic!("a bridge") };
        assert_eq!((plain.name.as_str(), plain.icc, plain.masquerade, plain.mtu), ("br-abababababab", true, true, None));
        let given = [
            ("com.docker.network.bridge.name", "office0"),
            ("com.docker.network.bridge.enable_icc", "false"),
            ("com.docker.network.driver.mtu", "1400"),
            ("com.docker.network.bridge.gateway_mode_ipv6", "routed"),
            ("com.docker.network.bridge.trusted_host_interfaces", ":eth0:vxlan.1:eth0"),
        ];
        let Options::Bridge(options) = Options::parse(&network(Driver::Bridge, &given)).unwrap() else { panic!("a bridge") };
        assert_eq!((options.name.as_str(), options.icc, options.mtu, options.mode_v6), ("office0", false, Some(1400), GatewayMode::Routed));
        assert_eq!(options.trusted.iter().map(LinkName::as_str).collect::<Vec<_>>(), ["eth0", "vxlan.1"]);
        for (key, value) in [
            ("com.docker.network.bridge.enable_icc", "maybe"),
            ("com.docker.network.bridge.colour", "red"),
            ("com.docker.network.driver.mtu", "12"),
            ("com.docker.network.bridge.name", "a/b"),
            ("com.docker.network.bridge.gateway_mode_ipv4", "isolated"),
            ("com.docker.network.bridge.trusted_host_interfaces", "eth0:no name"),
        ] {
            assert!(Options::parse(&network(Driver::Bridge, &[(key, value)])).is_err(), "{key}={value}");
        }
    }

    #[test]
    fn options_of_direct_networks() {
        let Options::Direct(options) = Options::parse(&network(Driver::Ipvlan, &[("parent", "eth0.50"), ("ipvlan_mode", "l3")])).unwrap()
        else {
            panic!("an ipvlan")
        };
        assert_eq!(options.kind, DirectKind::Ipvlan(IpvlanMode::L3, IpvlanFlag::Bridge));
        assert_eq!(options.parent.unwrap().as_str(), "eth0.50");
        assert!(Options::parse(&network(Driver::Macvlan, &[("macvlan_mode", "tree")])).is_err());
        assert!(Options::parse(&network(Driver::Macvlan, &[("ipvlan_mode", "l2")])).is_err());
        assert!(
            Options::parse(&network(Driver::Macvlan, &[("parent", "lo")])).unwrap_err().to_string().contains("not a valid macvlan parent")
        );
    }

    #[test]
    fn records_are_read_again() {
        let mut record = network(Driver::Bridge, &[("com.docker.network.driver.mtu", "1400")]);
        record.subnets.push(Subnet {
            subnet: "10.1.0.0/16".parse().unwrap(),
            range: Some("10.1.2.0/24".parse().unwrap()),
            gateway: Some("10.1.0.1".parse().unwrap()),
            reserved: BTreeMap::from([("router".into(), "10.1.2.3".parse().unwrap())]),
            chosen: true,
        });
        record.subnets.push(Subnet { subnet: "fd00::/64".parse().unwrap(), range: None, gateway: None, ..record.subnets[0].clone() });
        let json = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Network>(&json).unwrap(), record);
    }
}
