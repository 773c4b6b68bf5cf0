//! Ports of the host that lead into containers: reserved by sockets, rewritten by the firewall, served by a proxy where
//! the firewall cannot.

use super::Networks;
use super::endpoint::{Place, Published};
use crate::error::{EngineError, Result};
use crate::spec::{NetworkSpec, PortSpec};
use naru_net::ports::Reservation;
use naru_net::proxy::{self, Proxy, Served};
use naru_net::{FirewallMode, GatewayMode};
use naru_types::ContainerId;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, PoisonError};

/// What holds a container's ports.
#[derive(Default)]
pub(super) struct Held {
    ports: Vec<Port>,
    proxy: Option<Proxy>,
}

/// A port of the host.
struct Port {
    reservation: Reservation,
    /// Absent with SCTP. Stays here, so that another proxy can serve it when the target changes.
    socket: Option<Arc<OwnedFd>>,
    container_port: u16,
}

impl Networks {
    pub(super) fn held(&self) -> std::sync::MutexGuard<'_, HashMap<ContainerId, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds the ports that `spec` asks for, of which it may have some, and leads them to `place`.
    pub(super) fn publish(&self, id: &ContainerId, name: &str, spec: &NetworkSpec, place: &mut Place, mut had: Held) -> Result<()> {
        let mut held = Held::default();
        let mut published = Vec::new();
        for port in wanted(spec) {
            let hosts = self.binding_addresses(&port, place).into_iter().filter(|host| place.target(*host).is_some());
            let (routed, hosts): (Vec<IpAddr>, Vec<IpAddr>) = hosts.partition(|host| self.is_routed(place, host.is_ipv4()));
            let ports = self.hold(&port, &hosts, name, &mut had)?;
            if self.config.firewall.mode == FirewallMode::RespectHost && ports.iter().any(|port| port.socket.is_none()) {
                let (port, protocol) = (port.container_port, port.protocol.as_str());
                return Err(EngineError::invalid(format!(
                    "port {port}/{protocol} cannot be published with --firewall-mode respect-host: sockets serve the ports then, and this kernel has none for {protocol}"
                )));
            }
            let mut ends: Vec<SocketAddr> = ports.iter().map(|port| port.reservation.address).collect();
            ends.extend(routed.into_iter().map(|host| SocketAddr::new(unspecified(host.is_ipv4()), 0)));
            ends.sort_by_key(SocketAddr::is_ipv6);
            published.extend(ends.into_iter().map(|end| Published {
                container_port: port.container_port,
                protocol: port.protocol,
                host_ip: end.ip(),
                host_port: end.port(),
            }));
            held.ports.extend(ports);
        }
        held.serve(place)?;
        place.ports = published;
        let maps = place.port_maps();
        if !maps.is_empty()
            && let Err(error) = self.firewall.publish(&maps)
        {
            place.ports.clear();
            return Err(error.into());
        }
        if !held.ports.is_empty() {
            self.held().insert(id.clone(), held);
        }
        Ok(())
    }

    /// The addresses of the host that a port shall be on.
    fn binding_addresses(&self, port: &PortSpec, place: &Place) -> Vec<IpAddr> {
        let binding = self.host_binding(place);
        match port.host_ip {
            Some(address) => vec![address],
            None if binding.is_unspecified() && has_ipv6() => vec![unspecified(true), unspecified(false)],
            None => vec![binding],
        }
    }

    /// A port on these addresses of the host, the same number on all; what is held already stays so.
    fn hold(&self, port: &PortSpec, hosts: &[IpAddr], owner: &str, had: &mut Held) -> Result<Vec<Port>> {
        let mut ports = had.take(port, hosts);
        let missing: Vec<IpAddr> =
            hosts.iter().copied().filter(|host| !ports.iter().any(|port| port.reservation.address.ip() == *host)).collect();
        let number = ports.first().map(|port| port.reservation.address.port());
        let range = number.map_or(port.host_ports, |number| (number, number));
        if !missing.is_empty() {
            let reserved = self.ports.reserve(port.protocol.into(), &missing, range, owner)?;
            ports.extend(reserved.into_iter().map(|reservation| Port::new(reservation, port.container_port)));
        }
        Ok(ports)
    }

    /// Whether a family leads to the container's own address: no port of the host leads there, as in Docker.
    fn is_routed(&self, place: &Place, ipv4: bool) -> bool {
        let gateway = place.gateway(ipv4).filter(|endpoint| endpoint.publishes);
        let entry = gateway.and_then(|endpoint| self.find(&endpoint.network).ok());
        let mode = entry.and_then(|entry| entry.bridge().map(|bridge| if ipv4 { bridge.mode_v4 } else { bridge.mode_v6 }));
        mode == Some(GatewayMode::Routed)
    }

    /// Holds the ports of a container that a former daemon left running.
    pub(super) fn hold_again(&self, id: &ContainerId, name: &str, place: &Place) -> Result<()> {
        let mut held = Held::default();
        for port in place.ports.iter().filter(|port| !port.is_routed()) {
            let range = (port.host_port, port.host_port);
            let reservations = self.ports.reserve(port.protocol.into(), &[port.host_ip], range, name)?;
            held.ports.extend(reservations.into_iter().map(|reservation| Port::new(reservation, port.container_port)));
        }
        held.serve(place)?;
        self.held().insert(id.clone(), held);
        Ok(())
    }

    /// Leads a container's ports to where another of its networks leads out. Ports of the host are held and given back where
    /// the new network asks for others than the old one.
    pub(super) fn move_ports(&self, id: &ContainerId, name: &str, spec: &NetworkSpec, old: &Place, new: &mut Place) -> Result<()> {
        let maps = old.port_maps();
        if !maps.is_empty() {
            self.firewall.unpublish(&maps)?;
        }
        let is_led = |place: &Place| [true, false].map(|ipv4| place.target(unspecified(ipv4)).is_some());
        let is_routed = |place: &Place| [true, false].map(|ipv4| self.is_routed(place, ipv4));
        if is_led(old) != is_led(new) || is_routed(old) != is_routed(new) {
            let had = self.held().remove(id).unwrap_or_default();
            return self.publish(id, name, spec, new, had);
        }
        if let Some(held) = self.held().get_mut(id) {
            held.serve(new)?;
        }
        let maps = new.port_maps();
        if maps.is_empty() { Ok(()) } else { Ok(self.firewall.publish(&maps)?) }
    }

    /// Leads no port to `place` any more.
    pub(super) fn unpublish(&self, id: &ContainerId, place: &Place) {
        let maps = place.port_maps();
        if !maps.is_empty()
            && let Err(error) = self.firewall.unpublish(&maps)
        {
            tracing::warn!(container = %id.short(), error = crate::chain(&error), "cannot take back the container's ports");
        }
        self.held().remove(id);
    }

    /// Address of the host that ports bind to when nobody says: the network's, else the daemon's.
    fn host_binding(&self, place: &Place) -> IpAddr {
        let gateway = place.gateway(true).or_else(|| place.gateway(false));
        let network = gateway.and_then(|endpoint| self.find(&endpoint.network).ok());
        network.and_then(|entry| entry.bridge()?.host_binding).unwrap_or(self.config.default_host_ip)
    }
}

/// The ports asked for, with those that `--publish-all` adds.
fn wanted(spec: &NetworkSpec) -> Vec<PortSpec> {
    let mut wanted = spec.ports.clone();
    if spec.publish_all {
        let known = |port: u16, protocol| spec.ports.iter().any(|known| known.container_port == port && known.protocol == protocol);
        let exposed = spec.exposed.iter().filter(|(port, protocol)| !known(*port, *protocol));
        wanted.extend(exposed.map(|(port, protocol)| PortSpec {
            container_port: *port,
            protocol: *protocol,
            host_ip: None,
            host_ports: (0, 0),
        }));
    }
    wanted
}

/// All addresses of a family.
fn unspecified(ipv4: bool) -> IpAddr {
    if ipv4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

impl Held {
    /// Takes out what was held for this wish on these addresses of the host.
    fn take(&mut self, wish: &PortSpec, hosts: &[IpAddr]) -> Vec<Port> {
        let (first, last) = wish.host_ports;
        let is_for = |port: &mut Port| {
            let (address, protocol) = (port.reservation.address, port.reservation.protocol);
            (port.container_port, protocol) == (wish.container_port, wish.protocol.into())
                && hosts.contains(&address.ip())
                && (first == 0 || (first..=last).contains(&address.port()))
        };
        let mut taken: Vec<Port> = Vec::new();
        // Two wishes may be alike: each takes one port, on each address.
        for port in self.ports.extract_if(.., is_for).collect::<Vec<_>>() {
            let number = taken.first().map(|first| first.reservation.address.port());
            let is_new = taken.iter().all(|other| other.reservation.address.ip() != port.reservation.address.ip());
            if is_new && number.is_none_or(|number| number == port.reservation.address.port()) {
                taken.push(port);
            } else {
                self.ports.push(port);
            }
        }
        taken
    }

    /// Serves what the firewall does not rewrite, anew when it was served before. The sockets stay open, so that no client
    /// is turned away meanwhile.
    fn serve(&mut self, place: &Place) -> Result<()> {
        self.proxy = None;
        let served: Vec<Served> = self.ports.iter().filter_map(|port| port.served(place)).collect();
        if !served.is_empty() {
            self.proxy = Some(proxy::serve(served)?);
        }
        Ok(())
    }
}

impl Port {
    fn new(mut reservation: Reservation, container_port: u16) -> Port {
        let socket = reservation.take_socket().map(Arc::new);
        Port { socket, reservation, container_port }
    }

    fn served(&self, place: &Place) -> Option<Served> {
        let target = place.target(self.reservation.address.ip())?;
        let target = SocketAddr::new(target, self.container_port);
        Some(Served { protocol: self.reservation.protocol, socket: Arc::clone(self.socket.as_ref()?), target })
    }
}

/// The host speaks IPv6 at all.
fn has_ipv6() -> bool {
    Path::new("/proc/net/if_inet6").exists()
}
