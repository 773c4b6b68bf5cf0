//! The default bridge and a container's place on it; `none`, `host` and other containers' networks.
//!
//! What the kernel is told is `naru-net`'s; here is who has which address and port, and the files that tell a container
//! about names. A few network namespaces are kept ready, because making one is the dearest part of a start.

use crate::Inner;
use crate::container::View;
use crate::error::{EngineError, Result};
use crate::launch::{running_pid, write_file};
use crate::spec::{ContainerSpec, NetworkMode, PortSpec, Protocol};
use naru_net::hosts::{self, HostEntry};
use naru_net::ipam::Pool;
use naru_net::ports::{Ports, Reservation};
use naru_net::proxy::{self, Proxy};
use naru_net::{Bridge, BridgeRules, Firewall, IpNet, LinkName, Links, MacAddress, PortMap, VethPlan, resolv};
use naru_runtime::spawner::{NetworkNamespace, Spawner};
use naru_types::ContainerId;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Ready namespaces kept.
const WARM: usize = 4;

/// The default bridge.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Name of the interface; `none` for no bridge.
    pub bridge: String,
    /// Its address, the containers' gateway.
    pub gateway: Ipv4Addr,
    /// Length of the subnet's prefix.
    pub prefix: u8,
    /// MTU of bridge and containers.
    pub mtu: u32,
    /// Containers reach each other.
    pub icc: bool,
    /// Containers reach other hosts under the host's address.
    pub masquerade: bool,
    /// Address that published ports bind to by default.
    pub default_host_ip: IpAddr,
    /// Name servers of containers that name none.
    pub dns: Vec<IpAddr>,
    /// Search domains of containers that name none.
    pub dns_search: Vec<String>,
    /// resolv.conf options of containers that name none.
    pub dns_options: Vec<String>,
}

impl NetworkConfig {
    /// Docker's defaults for a bridge.
    pub fn new(bridge: String, gateway: Ipv4Addr, prefix: u8) -> Self {
        NetworkConfig {
            bridge,
            gateway,
            prefix,
            mtu: 1500,
            icc: true,
            masquerade: true,
            default_host_ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            dns: vec![],
            dns_search: vec![],
            dns_options: vec![],
        }
    }

    /// The subnet as `172.30.0.0/16`.
    pub fn subnet(&self) -> String {
        let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
        format!("{}/{}", Ipv4Addr::from(u32::from(self.gateway) & mask), self.prefix)
    }
}

/// A port of the host that leads into a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// Port in the container.
    pub container_port: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// Address of the host.
    pub host_ip: IpAddr,
    /// Port of the host.
    pub host_port: u16,
}

/// A container's place on the bridge.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Endpoint {
    /// 64 hex digits.
    pub id: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Length of the prefix.
    pub prefix: u8,
    /// Where it sends what is not on the bridge.
    pub gateway: Ipv4Addr,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// The interface at the host's end.
    pub interface: String,
    /// Ports that lead into it.
    pub ports: Vec<Published>,
}

impl Endpoint {
    /// The hardware address as text.
    pub fn mac_text(&self) -> String {
        self.mac.map(|byte| format!("{byte:02x}")).join(":")
    }
}

/// Which network namespace a container uses.
pub enum Joined {
    /// One of its own.
    Own,
    /// The host's.
    Host,
    /// Another container's.
    Other(PathBuf),
}

/// The network of this daemon.
pub struct Network {
    config: NetworkConfig,
    bridge: Option<BridgeNetwork>,
    warm: Mutex<Vec<NetworkNamespace>>,
}

/// The default bridge and who is on it.
struct BridgeNetwork {
    name: LinkName,
    index: u32,
    links: Links,
    firewall: Firewall,
    pool: Mutex<Pool>,
    ports: Ports,
    /// Sockets and proxies of the containers' ports; dropping them gives the ports back.
    held: Mutex<HashMap<ContainerId, Held>>,
}

/// What holds a container's ports.
#[derive(Default)]
struct Held {
    _reservations: Vec<Reservation>,
    _proxies: Vec<Proxy>,
}

impl Network {
    /// Makes the bridge; what a former daemon left of it is taken over. Rules are written by [`Network::restore`].
    pub fn open(config: &NetworkConfig) -> Result<Self> {
        let bridge = if config.bridge == "none" { None } else { Some(BridgeNetwork::open(config)?) };
        Ok(Network { config: config.clone(), bridge, warm: Mutex::default() })
    }

    fn bridge(&self) -> Result<&BridgeNetwork> {
        self.bridge
            .as_ref()
            .ok_or_else(|| EngineError::invalid("this daemon has no bridge (--bridge none); use --network none, host or container:NAME"))
    }

    /// Which network namespace `spec` asks for.
    pub(crate) fn join(&self, engine: &Inner, spec: &ContainerSpec) -> Result<Joined> {
        match &spec.network.mode {
            NetworkMode::Host => Ok(Joined::Host),
            NetworkMode::None | NetworkMode::Bridge => Ok(Joined::Own),
            NetworkMode::Container(reference) => {
                let (_, pid) = running_pid(engine, reference, "network")?;
                Ok(Joined::Other(PathBuf::from(format!("/proc/{pid}/ns/net"))))
            }
        }
    }

    /// A fresh namespace, if possible one made beforehand.
    pub(crate) fn take_namespace(&self, spawner: &Spawner) -> Result<NetworkNamespace> {
        let ready = self.warm.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match ready {
            Some(namespace) => Ok(namespace),
            None => Ok(spawner.network_namespace()?),
        }
    }

    /// Fills the store of ready namespaces.
    pub(crate) fn warm_up(&self, spawner: &Spawner) {
        while self.warm.lock().unwrap_or_else(PoisonError::into_inner).len() < WARM {
            match spawner.network_namespace() {
                Ok(namespace) => self.warm.lock().unwrap_or_else(PoisonError::into_inner).push(namespace),
                Err(error) => {
                    tracing::warn!(error = crate::chain(&error), "cannot make a network namespace ahead of use");
                    return;
                }
            }
        }
    }

    /// Puts a container on the bridge: address, link, ports. Takes everything back when a step fails.
    pub(crate) fn attach(&self, id: &ContainerId, name: &str, spec: &ContainerSpec, namespace: &NetworkNamespace) -> Result<Endpoint> {
        let bridge = self.bridge()?;
        let address = bridge.pool().allocate()?;
        let attached = bridge.attach(&self.config, id, name, spec, namespace, address);
        if attached.is_err() {
            bridge.pool().release(address);
        }
        attached
    }

    /// Takes a container off the bridge. Its link has gone with its namespace, or goes now.
    pub(crate) fn detach(&self, id: &ContainerId, endpoint: &Endpoint) {
        let Ok(bridge) = self.bridge() else { return };
        let ports: Vec<PortMap> = endpoint.port_maps();
        if !ports.is_empty()
            && let Err(error) = bridge.firewall.unpublish(&ports)
        {
            tracing::warn!(container = %id.short(), error = crate::chain(&error), "cannot take back the container's ports");
        }
        bridge.held().remove(id);
        bridge.pool().release(IpAddr::V4(endpoint.address));
    }

    /// Takes up the place of a container that a former daemon put on the bridge; rules follow by [`Network::restore`].
    pub(crate) fn adopt(&self, id: &ContainerId, name: &str, endpoint: &Endpoint) -> Result<()> {
        let bridge = self.bridge()?;
        bridge.pool().reserve(IpAddr::V4(endpoint.address))?;
        let mut held = Held::default();
        for port in &endpoint.ports {
            let range = (port.host_port, port.host_port);
            let reservations = bridge.ports.reserve(wire(port.protocol), &[port.host_ip], range, name)?;
            held.keep(reservations, endpoint.address, port.container_port)?;
        }
        bridge.held().insert(id.clone(), held);
        Ok(())
    }

    /// Writes the rules of the bridge and of all endpoints in one transaction and removes links that nobody owns.
    pub(crate) fn restore<'a>(&self, endpoints: impl Iterator<Item = &'a Endpoint> + Clone) -> Result<()> {
        let Some(bridge) = &self.bridge else { return Ok(()) };
        let rules = BridgeRules {
            name: bridge.name.clone(),
            subnets: vec![bridge.pool().subnet()],
            masquerade: self.config.masquerade,
            icc: self.config.icc,
            internal: false,
        };
        bridge.firewall.restore(vec![rules], endpoints.clone().flat_map(Endpoint::port_maps).collect())?;
        let mut keep: HashSet<LinkName> = endpoints.filter_map(|endpoint| endpoint.interface.parse().ok()).collect();
        keep.insert(bridge.name.clone());
        bridge.links.cleanup(&keep)?;
        Ok(())
    }

    /// Writes the files that tell a container about names; returns them with their places.
    pub(crate) fn write_files(
        &self,
        engine: &Inner,
        view: &View,
        directory: &Path,
        hostname: &str,
        endpoint: Option<&Endpoint>,
    ) -> Result<Vec<(PathBuf, &'static str)>> {
        let places = |directory: &Path| {
            vec![
                (directory.join("resolv.conf"), "/etc/resolv.conf"),
                (directory.join("hostname"), "/etc/hostname"),
                (directory.join("hosts"), "/etc/hosts"),
            ]
        };
        let spec = &view.spec;
        if let NetworkMode::Container(reference) = &spec.network.mode {
            // Who shares a network shares its names.
            return Ok(places(&engine.run_directory(&engine.find(reference)?.id)));
        }
        let network = &spec.network;
        let or = |own: &[String], default: &[String]| if own.is_empty() { default.to_vec() } else { own.to_vec() };
        let dns = if network.dns.is_empty() { self.config.dns.clone() } else { network.dns.clone() };
        let (search, options) = (or(&network.dns_search, &self.config.dns_search), or(&network.dns_options, &self.config.dns_options));
        let host_resolv = resolv::host_text();
        let own_resolv = if network.mode == NetworkMode::Host && dns.is_empty() && search.is_empty() && options.is_empty() {
            std::fs::read_to_string("/etc/resolv.conf").unwrap_or(host_resolv)
        } else {
            resolv::render(&host_resolv, &dns, &search, &options)
        };
        write_file(&directory.join("resolv.conf"), &own_resolv)?;
        write_file(&directory.join("hostname"), &format!("{hostname}\n"))?;
        let extra = self.extra_hosts(spec)?;
        let hosts = if network.mode == NetworkMode::Host {
            let mut text = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
            for entry in &extra {
                text.push_str(&format!("{}\t{}\n", entry.address, entry.names.join(" ")));
            }
            text
        } else {
            let full = if spec.domainname.is_empty() { vec![] } else { vec![format!("{hostname}.{}", spec.domainname)] };
            let names: Vec<String> = full.into_iter().chain([hostname.to_owned()]).collect();
            let own = endpoint.map(|endpoint| HostEntry { address: IpAddr::V4(endpoint.address), names });
            hosts::render(&extra, own.as_slice())
        };
        write_file(&directory.join("hosts"), &hosts)?;
        Ok(places(directory))
    }

    fn extra_hosts(&self, spec: &ContainerSpec) -> Result<Vec<HostEntry>> {
        let gateway = if self.bridge.is_some() { IpAddr::V4(self.config.gateway) } else { IpAddr::V4(Ipv4Addr::LOCALHOST) };
        spec.network
            .extra_hosts
            .iter()
            .map(|line| {
                let (name, address) =
                    line.split_once(':').ok_or_else(|| EngineError::invalid(format!("bad format for add-host: {line:?}")))?;
                let address = match address.trim_matches(['[', ']']) {
                    "host-gateway" => gateway,
                    text => text.parse().map_err(|_| EngineError::invalid(format!("bad format for add-host: {line:?}")))?,
                };
                Ok(HostEntry { address, names: vec![name.to_owned()] })
            })
            .collect()
    }
}

impl BridgeNetwork {
    fn open(config: &NetworkConfig) -> Result<Self> {
        let name: LinkName = config.bridge.parse()?;
        let address = IpNet::new(IpAddr::V4(config.gateway), config.prefix)?;
        let links = Links::open(&format!("naru {name}"))?;
        naru_net::enable_forwarding(false)?;
        let index = links.ensure_bridge(&Bridge { name: name.clone(), addresses: vec![address], mtu: Some(config.mtu) })?;
        Ok(BridgeNetwork {
            firewall: Firewall::open(&format!("naru-{name}"))?,
            name,
            index,
            links,
            pool: Mutex::new(Pool::new(address.network(), None, Some(IpAddr::V4(config.gateway)))?),
            ports: Ports::new(),
            held: Mutex::default(),
        })
    }

    fn pool(&self) -> std::sync::MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> std::sync::MutexGuard<'_, HashMap<ContainerId, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attach(
        &self,
        config: &NetworkConfig,
        id: &ContainerId,
        name: &str,
        spec: &ContainerSpec,
        namespace: &NetworkNamespace,
        address: IpAddr,
    ) -> Result<Endpoint> {
        let IpAddr::V4(own) = address else { return Err(EngineError::invalid("the default bridge has IPv4 addresses only")) };
        let mac = spec.network.mac.map_or_else(|| MacAddress::of(own), MacAddress);
        // Ports first: they fail often, links do not.
        let (held, ports) = self.publish(config, name, spec, own)?;
        let plan = VethPlan {
            bridge: self.index,
            host_name: LinkName::random_veth(),
            container_name: "eth0".parse()?,
            mac,
            addresses: vec![IpNet::new(address, config.prefix)?],
            gateways: vec![IpAddr::V4(config.gateway)],
            mtu: Some(config.mtu),
            isolated: !config.icc,
        };
        let endpoint = Endpoint {
            id: ContainerId::random().as_str().to_owned(),
            address: own,
            prefix: config.prefix,
            gateway: config.gateway,
            mac: mac.0,
            interface: plan.host_name.as_str().to_owned(),
            ports,
        };
        self.links.attach(&plan, namespace.ns.as_fd(), namespace.route.as_fd())?;
        let maps = endpoint.port_maps();
        if !maps.is_empty()
            && let Err(error) = self.firewall.publish(&maps)
        {
            self.links.remove(&plan.host_name)?;
            return Err(error.into());
        }
        self.held().insert(id.clone(), held);
        Ok(endpoint)
    }

    /// Holds the ports of the host that `spec` asks for.
    fn publish(&self, config: &NetworkConfig, name: &str, spec: &ContainerSpec, own: Ipv4Addr) -> Result<(Held, Vec<Published>)> {
        let network = &spec.network;
        let mut wanted = network.ports.clone();
        if network.publish_all {
            let exposed = network
                .exposed
                .iter()
                .filter(|(port, protocol)| !network.ports.iter().any(|known| known.container_port == *port && known.protocol == *protocol));
            wanted.extend(exposed.map(|(port, protocol)| PortSpec {
                container_port: *port,
                protocol: *protocol,
                host_ip: None,
                host_ports: (0, 0),
            }));
        }
        let (mut held, mut published) = (Held::default(), Vec::new());
        for port in wanted {
            let hosts: Vec<IpAddr> = match port.host_ip {
                Some(address) => vec![address],
                None if config.default_host_ip.is_unspecified() && has_ipv6() => {
                    vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()]
                }
                None => vec![config.default_host_ip],
            };
            let reservations = self.ports.reserve(wire(port.protocol), &hosts, port.host_ports, name)?;
            published.extend(reservations.iter().map(|reservation| Published {
                container_port: port.container_port,
                protocol: port.protocol,
                host_ip: reservation.address.ip(),
                host_port: reservation.address.port(),
            }));
            held.keep(reservations, own, port.container_port)?;
        }
        Ok((held, published))
    }
}

impl Held {
    /// Keeps reserved ports and serves what the firewall does not rewrite.
    fn keep(&mut self, mut reservations: Vec<Reservation>, address: Ipv4Addr, port: u16) -> Result<()> {
        for reservation in &mut reservations {
            if let Some(socket) = reservation.take_socket() {
                self._proxies.push(proxy::start(reservation.protocol, socket, SocketAddr::new(IpAddr::V4(address), port))?);
            }
        }
        self._reservations.extend(reservations);
        Ok(())
    }
}

impl Endpoint {
    /// The ports the firewall rewrites: those of IPv4 addresses (the container has no other).
    fn port_maps(&self) -> Vec<PortMap> {
        self.ports
            .iter()
            .filter(|port| port.host_ip.is_ipv4())
            .map(|port| PortMap {
                protocol: wire(port.protocol),
                host_ip: port.host_ip,
                host_port: port.host_port,
                container_ip: IpAddr::V4(self.address),
                container_port: port.container_port,
            })
            .collect()
    }
}

fn wire(protocol: Protocol) -> naru_net::Protocol {
    match protocol {
        Protocol::Tcp => naru_net::Protocol::Tcp,
        Protocol::Udp => naru_net::Protocol::Udp,
        Protocol::Sctp => naru_net::Protocol::Sctp,
    }
}

/// The host speaks IPv6 at all.
fn has_ipv6() -> bool {
    Path::new("/proc/net/if_inet6").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_of_gateways() {
        let config = |address: [u8; 4], prefix| NetworkConfig::new("x".into(), Ipv4Addr::from(address), prefix).subnet();
        assert_eq!(config([172, 30, 0, 1], 16), "172.30.0.0/16");
        assert_eq!(config([10, 1, 2, 129], 25), "10.1.2.128/25");
    }
}
