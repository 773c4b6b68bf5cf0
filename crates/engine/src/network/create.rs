//! What a user asks of a network becomes a record: names, subnets, gateways, options. Pure; texts as moby's
//! `daemon/network.go` and `libnetwork` where clients match on them.

use super::record::{DirectKind, DirectOptions, Driver, LOCAL, Network, Options, Subnet};
use crate::error::{EngineError, Result};
use jiff::Timestamp;
use naru_net::ipam::{Gateway, Pool, SubnetPools};
use naru_net::{GatewayMode, IpNet, IpvlanMode, LinkName, MacvlanMode};
use naru_types::{ContainerId, ErrorKind};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A subnet as asked for; everything may be left to the engine.
#[derive(Debug, Clone, Default)]
pub struct SubnetRequest {
    /// Addresses of the network.
    pub subnet: Option<IpNet>,
    /// The part that containers get addresses of.
    pub range: Option<IpNet>,
    /// The gateway.
    pub gateway: Option<IpAddr>,
    /// Addresses that belong to others, by name.
    pub reserved: BTreeMap<String, IpAddr>,
}

/// A network as asked for.
#[derive(Debug, Clone, Default)]
pub struct NetworkRequest {
    /// Its name.
    pub name: String,
    /// Name of the driver; empty is `bridge`.
    pub driver: String,
    /// Has IPv4 addresses; the default is yes.
    pub ipv4: Option<bool>,
    /// Has IPv6 addresses; the default is no.
    pub ipv6: Option<bool>,
    /// Its subnets.
    pub subnets: Vec<SubnetRequest>,
    /// Name of the address management; `default` or `null`.
    pub ipam_driver: String,
    /// Options of the address management.
    pub ipam_options: Option<BTreeMap<String, String>>,
    /// Where it is: any word but `swarm`; empty is `local`.
    pub scope: String,
    /// Reaches nothing outside.
    pub internal: bool,
    /// For swarm's containers.
    pub attachable: bool,
    /// Only a set of options.
    pub config_only: bool,
    /// The network its options come from.
    pub config_from: String,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
    /// Data of the user.
    pub labels: BTreeMap<String, String>,
}

/// What a new network must not collide with, and where its addresses come from.
pub(super) struct Surroundings<'a> {
    /// All networks there are.
    pub networks: Vec<&'a Network>,
    /// Subnets the host has routes to.
    pub routed: Vec<IpNet>,
    /// Subnets for networks that name none.
    pub pools: &'a SubnetPools,
    /// IPv6 subnets for networks that name none.
    pub unique_local: &'a SubnetPools,
}

fn forbidden(text: impl Into<String>) -> EngineError {
    EngineError::Denied { text: text.into(), kind: ErrorKind::Forbidden }
}

fn driver(name: &str) -> Result<Driver> {
    match name {
        "" | "bridge" => Ok(Driver::Bridge),
        "macvlan" => Ok(Driver::Macvlan),
        "ipvlan" => Ok(Driver::Ipvlan),
        "host" => Ok(Driver::Host),
        "null" => Ok(Driver::Null),
        "overlay" => Err(EngineError::Denied {
            text: "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.".into(),
            kind: ErrorKind::Forbidden,
        }),
        other => Err(EngineError::Denied {
            text: format!("plugin {other:?} not found: network drivers are bridge, macvlan and ipvlan"),
            kind: ErrorKind::NotFound,
        }),
    }
}

/// Checks a request and makes the record of the new network.
pub(super) fn plan(mut request: NetworkRequest, around: &Surroundings<'_>) -> Result<Network> {
    if request.name.trim().is_empty() {
        return Err(EngineError::invalid("invalid name: name is empty"));
    }
    if matches!(request.name.as_str(), "bridge" | "host" | "none" | "default") || request.name.starts_with("container:") {
        return Err(forbidden(format!("operation is not permitted on predefined {} network", request.name)));
    }
    if around.networks.iter().any(|network| network.name == request.name) {
        return Err(EngineError::conflict(format!("network with name {} already exists", request.name)));
    }
    take_config(&mut request, around)?;
    let driver = driver(&request.driver)?;
    // Docker takes every other word and does nothing else for it.
    if request.scope == "swarm" {
        return Err(forbidden("cannot create a swarm scoped network when swarm is not active"));
    }
    if matches!(driver, Driver::Host | Driver::Null) {
        return Err(forbidden(format!("only one instance of {:?} network is allowed", driver.as_str())));
    }
    match request.ipam_driver.as_str() {
        "" | "default" => {}
        other => {
            return Err(EngineError::Denied {
                text: format!("could not resolve IPAM driver {other:?}: only \"default\" is built in"),
                kind: ErrorKind::InvalidArgument,
            });
        }
    }
    let (ipv4, ipv6) = families(&request)?;
    let mut network = Network {
        id: ContainerId::random().as_str().to_owned(),
        name: request.name,
        created: Timestamp::now(),
        driver,
        ipv4,
        ipv6,
        subnets: vec![],
        scope: if request.scope.is_empty() { LOCAL.to_owned() } else { request.scope },
        internal: request.internal,
        attachable: request.attachable,
        config_only: request.config_only,
        config_from: request.config_from,
        options: request.options,
        ipam_options: request.ipam_options,
        labels: request.labels,
    };
    let options = Options::parse(&network)?;
    if network.config_only {
        // Subnets as they were given: those who use them check them.
        network.subnets = request.subnets.iter().filter_map(as_given).collect();
        return Ok(network);
    }
    check_mtu(&network, &options)?;
    check_links(&network, &options, around)?;
    network.subnets = subnets(&request.subnets, &network, &options, around)?;
    Ok(network)
}

/// Takes over what a `config-only` network says.
fn take_config(request: &mut NetworkRequest, around: &Surroundings<'_>) -> Result<()> {
    if request.config_from.is_empty() {
        return Ok(());
    }
    if request.config_only {
        return Err(forbidden("a configuration network cannot depend on another configuration network"));
    }
    let source = around.networks.iter().find(|network| network.name == request.config_from || network.id == request.config_from);
    let Some(source) = source.filter(|source| source.config_only) else {
        return Err(EngineError::Denied {
            text: format!("configuration network {:?} does not exist", request.config_from),
            kind: ErrorKind::NotFound,
        });
    };
    let says_families = request.ipv4 == Some(false) || request.ipv6 == Some(true);
    let manages = request.ipam_options.as_ref().is_some_and(|options| !options.is_empty()) || !request.subnets.is_empty();
    if says_families || manages || !request.labels.is_empty() {
        return Err(forbidden("user specified configurations are not supported if the network depends on a configuration network"));
    }
    if !request.options.is_empty() {
        return Err(forbidden("network driver options are not supported if the network depends on a configuration network"));
    }
    (request.ipv4, request.ipv6) = (Some(source.ipv4), Some(source.ipv6));
    request.options = source.options.clone();
    request.labels = source.labels.clone();
    request.ipam_options = source.ipam_options.clone();
    request.subnets = source
        .subnets
        .iter()
        .map(|subnet| SubnetRequest {
            subnet: Some(subnet.subnet),
            range: subnet.range,
            gateway: subnet.gateway,
            reserved: subnet.reserved.clone(),
        })
        .collect();
    Ok(())
}

fn as_given(request: &SubnetRequest) -> Option<Subnet> {
    let subnet = request.subnet?;
    Some(Subnet { subnet, range: request.range, gateway: request.gateway, reserved: request.reserved.clone(), chosen: true })
}

/// Which families a network has: those asked for, by switch, option or subnet.
fn families(request: &NetworkRequest) -> Result<(bool, bool)> {
    let option = |key: &str| request.options.get(key).map(|value| matches!(value.as_str(), "1" | "true" | "TRUE" | "True"));
    let given = |ipv4: bool| request.subnets.iter().filter_map(|subnet| subnet.subnet).any(|subnet| subnet.is_ipv4() == ipv4);
    let ipv4 = request.ipv4.or_else(|| option("com.docker.network.enable_ipv4")).unwrap_or(true);
    let ipv6 = request.ipv6.or_else(|| option("com.docker.network.enable_ipv6")).unwrap_or(false);
    if !ipv4 && given(true) {
        return Err(EngineError::invalid("an IPv4 subnet was given, but IPv4 is disabled"));
    }
    // A subnet that would never be used is a mistake of the user's.
    if !ipv6 && given(false) && request.ipv6 == Some(false) {
        return Err(EngineError::invalid("an IPv6 subnet was given, but IPv6 is disabled"));
    }
    let ipv6 = ipv6 || given(false);
    if !ipv4 && !ipv6 {
        return Err(EngineError::invalid("IPv4 or IPv6 must be enabled"));
    }
    Ok((ipv4, ipv6))
}

/// A link with a smaller MTU has no IPv6 (RFC 8200, section 5).
fn check_mtu(network: &Network, options: &Options) -> Result<()> {
    const LEAST: u32 = 1280;
    let mtu = match options {
        Options::Bridge(bridge) => bridge.mtu,
        Options::Direct(direct) => direct.mtu,
        Options::None => None,
    };
    match mtu.filter(|mtu| network.ipv6 && *mtu < LEAST) {
        Some(mtu) => Err(EngineError::invalid(format!("an MTU of {mtu} is too small for IPv6, which needs {LEAST}"))),
        None => Ok(()),
    }
}

/// Two networks must not use one interface.
fn check_links(network: &Network, options: &Options, around: &Surroundings<'_>) -> Result<()> {
    let used = |wanted: &dyn Fn(&Options) -> bool| {
        around.networks.iter().find(|other| !other.config_only && Options::parse(other).is_ok_and(|other| wanted(&other)))
    };
    match options {
        Options::Bridge(bridge) => {
            if let Some(other) = used(&|other| matches!(other, Options::Bridge(other) if other.name == bridge.name)) {
                return Err(forbidden(format!("conflicts with network {} ({}): networks have same bridge name", other.id, other.name)));
            }
        }
        Options::Direct(direct) => {
            check_passthru(direct, around)?;
            let same = |other: &LinkName| direct.parent.as_ref() == Some(other);
            if let Some(other) = used(
                &|other| matches!(other, Options::Direct(other) if other.parent.as_ref().is_some_and(same) && std::mem::discriminant(&other.kind) != std::mem::discriminant(&direct.kind)),
            ) {
                let name = &other.name;
                return Err(forbidden(format!(
                    "the parent interface is used by network {name} with another driver: a host interface carries macvlan or ipvlan, not both"
                )));
            }
        }
        Options::None => return Err(forbidden(format!("network {} cannot be made with driver {}", network.name, network.driver.as_str()))),
    }
    Ok(())
}

/// Whether something of the network has the address of a gateway, or containers send to one, without the user's naming it.
fn needs_gateway(network: &Network, options: &Options, ipv4: bool) -> bool {
    match options {
        Options::Bridge(bridge) => {
            let mode = if ipv4 { bridge.mode_v4 } else { bridge.mode_v6 };
            mode != GatewayMode::Isolated && !(ipv4 && bridge.inhibit_v4 && network.internal)
        }
        // It would be a machine of the network behind the parent.
        Options::Direct(direct) => {
            let leads_by_itself = matches!(direct.kind, DirectKind::Ipvlan(IpvlanMode::L3 | IpvlanMode::L3s, _));
            !network.internal && direct.parent.is_some() && !leads_by_itself
        }
        Options::None => false,
    }
}

/// A link that passes all it gets through to one interface carries no others.
fn check_passthru(direct: &DirectOptions, around: &Surroundings<'_>) -> Result<()> {
    const PASSTHRU: DirectKind = DirectKind::Macvlan(MacvlanMode::Passthru);
    let (Some(parent), DirectKind::Macvlan(_)) = (&direct.parent, direct.kind) else { return Ok(()) };
    for other in around.networks.iter().filter(|other| !other.config_only) {
        let Ok(Options::Direct(options)) = Options::parse(other) else { continue };
        if options.parent.as_ref() != Some(parent) {
            continue;
        }
        let id = &other.id;
        if direct.kind == PASSTHRU {
            return Err(forbidden(format!(
                "cannot use mode passthru, {} network {id} is already using parent interface {parent}",
                other.driver.as_str()
            )));
        }
        if options.kind == PASSTHRU {
            return Err(forbidden(format!("macvlan network {id} is already using parent interface {parent} in mode passthru")));
        }
    }
    Ok(())
}

/// The subnets of a network: those given, and one of each family that is lacking.
fn subnets(requests: &[SubnetRequest], network: &Network, options: &Options, around: &Surroundings<'_>) -> Result<Vec<Subnet>> {
    check_given(requests)?;
    let mut subnets = Vec::new();
    let others: Vec<(&Network, IpNet)> = around
        .networks
        .iter()
        .filter(|other| !other.config_only)
        .flat_map(|other| other.subnets.iter().map(|subnet| (*other, subnet.subnet)))
        .collect();
    for request in requests {
        let Some(wanted) = request.subnet else { continue };
        if let Some((other, taken)) = others.iter().find(|(_, taken)| taken.overlaps(&wanted)) {
            return Err(forbidden(format!(
                "invalid pool request: Pool overlaps with other one on this address space: {wanted} and {taken} of network {}",
                other.name
            )));
        }
        subnets.push(subnet(request, wanted, true, needs_gateway(network, options, wanted.is_ipv4()))?);
    }
    for ipv4 in [true, false] {
        let wanted = if ipv4 { network.ipv4 } else { network.ipv6 };
        if !wanted || subnets.iter().any(|subnet: &Subnet| subnet.subnet.is_ipv4() == ipv4) {
            continue;
        }
        let mut taken: Vec<IpNet> = others.iter().map(|(_, taken)| *taken).collect();
        taken.extend(&around.routed);
        taken.extend(subnets.iter().map(|subnet| subnet.subnet));
        let free = match around.pools.allocate(&taken, ipv4) {
            Err(_) if !ipv4 => around.unique_local.allocate(&taken, false)?,
            found => found?,
        };
        let request =
            requests.iter().find(|request| request.subnet.is_none() && request.gateway.is_none_or(|gateway| gateway.is_ipv4() == ipv4));
        subnets.push(subnet(&request.cloned().unwrap_or_default(), free, false, needs_gateway(network, options, ipv4))?);
    }
    subnets.sort_by_key(|subnet| !subnet.subnet.is_ipv4());
    Ok(subnets)
}

/// Everything that is wrong with the given subnets, in one error.
fn check_given(requests: &[SubnetRequest]) -> Result<()> {
    let mut wrong = Vec::new();
    for request in requests {
        let inside = |address: IpAddr| request.subnet.is_some_and(|subnet| subnet.contains(address));
        match request.subnet {
            Some(subnet) if subnet.network() != subnet => {
                wrong.push(format!("invalid subnet {subnet}: it should be {}", subnet.network()));
            }
            None if request.range.is_some() => wrong.push("a range of addresses needs its subnet: add --subnet".to_owned()),
            _ => {}
        }
        if let Some(range) = request.range {
            if range.network() != range {
                wrong.push(format!("invalid ip-range {range}: it should be {}", range.network()));
            }
            if request.subnet.is_some_and(|subnet| !subnet.contains(range.address()) || range.prefix() < subnet.prefix()) {
                wrong.push(format!("invalid ip-range {range}: it is not within the parent subnet"));
            }
        }
        if request.subnet.is_some() {
            if let Some(gateway) = request.gateway.filter(|gateway| !inside(*gateway)) {
                wrong.push(format!("invalid gateway {gateway}: parent subnet does not contain this address"));
            }
            for (name, address) in request.reserved.iter().filter(|(_, address)| !inside(**address)) {
                wrong.push(format!("invalid auxiliary address {name}={address}: parent subnet does not contain this address"));
            }
        }
    }
    for (at, request) in requests.iter().enumerate() {
        let Some(subnet) = request.subnet else { continue };
        if let Some(other) = requests[..at].iter().filter_map(|other| other.subnet).find(|other| other.overlaps(&subnet)) {
            wrong.push(format!("invalid subnet {subnet}: it overlaps with {other} of the same network"));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(EngineError::invalid(format!("invalid network config:\n{}", wrong.join("\n")))) }
}

fn subnet(request: &SubnetRequest, subnet: IpNet, chosen: bool, needs_gateway: bool) -> Result<Subnet> {
    let gateway = match request.gateway {
        Some(gateway) => Gateway::At(gateway),
        None if needs_gateway => Gateway::First,
        None => Gateway::Absent,
    };
    let mut pool = Pool::new(subnet, request.range, gateway)?;
    for address in request.reserved.values() {
        pool.reserve(*address)?;
    }
    Ok(Subnet { subnet, range: request.range, gateway: pool.gateway(), reserved: request.reserved.clone(), chosen })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn request(name: &str, subnet: Option<&str>) -> NetworkRequest {
        let subnets = subnet.map(|subnet| SubnetRequest { subnet: Some(net(subnet)), ..SubnetRequest::default() });
        NetworkRequest { name: name.into(), subnets: subnets.into_iter().collect(), ..NetworkRequest::default() }
    }

    fn plan_beside(request: NetworkRequest, others: &[&Network]) -> Result<Network> {
        let pools = SubnetPools::new(vec![(net("172.20.0.0/14"), 16)]).unwrap();
        let unique_local = SubnetPools::new(vec![(net("fd00:1:2::/48"), 64)]).unwrap();
        let around =
            Surroundings { networks: others.to_vec(), routed: vec![net("172.20.9.0/24")], pools: &pools, unique_local: &unique_local };
        plan(request, &around)
    }

    #[test]
    fn addresses_are_found() {
        let mut wanted = request("n", None);
        wanted.ipv6 = Some(true);
        let network = plan_beside(wanted, &[]).unwrap();
        let found: Vec<String> = network.subnets.iter().map(|subnet| format!("{} {}", subnet.subnet, subnet.gateway.unwrap())).collect();
        // The first /16 overlaps a route of the host.
        assert_eq!(found, ["172.21.0.0/16 172.21.0.1", "fd00:1:2::/64 fd00:1:2::1"]);
        let second = plan_beside(request("m", None), &[&network]).unwrap();
        assert_eq!(second.subnets[0].subnet, net("172.22.0.0/16"));
    }

    #[test]
    fn who_needs_no_gateway_has_none() {
        let gateways = |driver: &str, internal: bool, options: &[(&str, &str)], gateway: Option<&str>| {
            let mut wanted = request("n", Some("10.9.0.0/24"));
            wanted.subnets[0].gateway = gateway.map(|gateway| gateway.parse().unwrap());
            (wanted.ipv6, wanted.driver, wanted.internal) = (Some(true), driver.into(), internal);
            wanted.options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let network = plan_beside(wanted, &[]).unwrap();
            network.subnets.iter().map(|subnet| subnet.gateway.map_or("none".into(), |gateway| gateway.to_string())).collect::<Vec<_>>()
        };
        let (isolated_v4, isolated_v6) =
            (("com.docker.network.bridge.gateway_mode_ipv4", "isolated"), ("com.docker.network.bridge.gateway_mode_ipv6", "isolated"));
        let inhibited = ("com.docker.network.bridge.inhibit_ipv4", "true");
        let (parent, l3) = (("parent", "eth0"), ("ipvlan_mode", "l3"));
        let (own, none, both) = ("10.9.0.1", "none", ["10.9.0.1", "fd00:1:2::1"]);
        assert_eq!(gateways("bridge", false, &[], None), both);
        assert_eq!(gateways("bridge", true, &[], None), both);
        assert_eq!(gateways("bridge", true, &[isolated_v4, isolated_v6], None), [none, none]);
        assert_eq!(gateways("bridge", true, &[isolated_v4], None), [none, both[1]]);
        assert_eq!(gateways("bridge", true, &[isolated_v6], None), [own, none]);
        assert_eq!(gateways("bridge", true, &[inhibited], None), [none, both[1]]);
        assert_eq!(gateways("bridge", false, &[inhibited], None), both);
        assert_eq!(gateways("macvlan", false, &[parent], None), both);
        assert_eq!(gateways("macvlan", true, &[parent], None), [none, none]);
        assert_eq!(gateways("macvlan", false, &[], None), [none, none]);
        assert_eq!(gateways("ipvlan", false, &[parent], None), both);
        assert_eq!(gateways("ipvlan", true, &[parent], None), [none, none]);
        assert_eq!(gateways("ipvlan", false, &[parent, l3], None), [none, none]);
        // One that was asked for is kept for whom it is.
        assert_eq!(gateways("macvlan", true, &[], Some("10.9.0.7")), ["10.9.0.7", none]);
        assert_eq!(gateways("bridge", true, &[isolated_v4, isolated_v6], Some("10.9.0.1")), [own, none]);
    }

    #[test]
    fn what_cannot_be() {
        let first = plan_beside(request("first", Some("10.9.0.0/24")), &[]).unwrap();
        let text = |request: NetworkRequest| plan_beside(request, &[&first]).unwrap_err().to_string();
        assert_eq!(text(request("first", None)), "network with name first already exists");
        assert!(
            text(request("x", Some("10.9.0.128/25")))
                .starts_with("invalid pool request: Pool overlaps with other one on this address space")
        );
        assert_eq!(
            text(request("x", Some("10.8.0.5/24"))),
            "invalid network config:\ninvalid subnet 10.8.0.5/24: it should be 10.8.0.0/24"
        );
        assert_eq!(text(request("", None)), "invalid name: name is empty");
        assert_eq!(text(request("bridge", None)), "operation is not permitted on predefined bridge network");
        let with = |driver: &str| NetworkRequest { driver: driver.into(), ..request("x", None) };
        assert_eq!(text(with("host")), "only one instance of \"host\" network is allowed");
        assert!(text(with("overlay")).contains("not a swarm manager"));
        assert_eq!(plan_beside(with("nope"), &[]).unwrap_err().kind(), ErrorKind::NotFound);
        let mut neither = request("x", None);
        neither.ipv4 = Some(false);
        assert_eq!(text(neither), "IPv4 or IPv6 must be enabled");
        let mut gateway = request("x", Some("10.1.0.0/16"));
        gateway.subnets[0].gateway = Some("10.2.0.1".parse().unwrap());
        assert!(text(gateway).contains("parent subnet does not contain this address"));
        let same_bridge = |name: &str| {
            let mut wanted = request(name, None);
            wanted.options.insert("com.docker.network.bridge.name".into(), "office0".into());
            wanted
        };
        let office = plan_beside(same_bridge("office"), &[]).unwrap();
        assert!(plan_beside(same_bridge("other"), &[&office]).unwrap_err().to_string().contains("same bridge name"));
    }

    #[test]
    fn a_parent_that_passes_all_through_has_one_network() {
        let on = |parent: &str, mode: &str| {
            let mut wanted = request(&format!("{mode}-{parent}"), None);
            wanted.driver = "macvlan".into();
            wanted.options = BTreeMap::from([("parent".into(), parent.into()), ("macvlan_mode".into(), mode.into())]);
            wanted
        };
        let (through, bridge) = (plan_beside(on("eth0", "passthru"), &[]).unwrap(), plan_beside(on("eth1", "bridge"), &[]).unwrap());
        let text = |wanted| plan_beside(wanted, &[&through, &bridge]).unwrap_err().to_string();
        let in_use = format!("macvlan network {} is already using parent interface eth0 in mode passthru", through.id);
        assert_eq!(text(on("eth0", "vepa")), in_use);
        let in_the_way = format!("cannot use mode passthru, macvlan network {} is already using parent interface eth1", bridge.id);
        assert_eq!(text(on("eth1", "passthru")), in_the_way);
        assert!(plan_beside(on("eth1", "private"), &[&through, &bridge]).is_ok());
        assert!(plan_beside(on("eth2", "passthru"), &[&through, &bridge]).is_ok());
    }

    #[test]
    fn a_configuration_is_used_by_another_network() {
        let mut wanted = request("config", Some("10.5.0.0/24"));
        wanted.config_only = true;
        let config = plan_beside(wanted, &[]).unwrap();
        let mut user = request("user", None);
        user.config_from = "config".into();
        let network = plan_beside(user.clone(), &[&config]).unwrap();
        assert_eq!(network.subnets[0].subnet, net("10.5.0.0/24"));
        user.config_from = "nope".into();
        assert_eq!(plan_beside(user, &[&config]).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
