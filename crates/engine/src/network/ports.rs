//! Ports of the host that lead into containers: reserved by sockets, rewritten by the firewall, served by a proxy where
//! the firewall cannot.

use super::Networks;
use super::endpoint::{Place, Published};
use crate::error::{EngineError, Result};
use crate::spec::{NetworkSpec, PortSpec};
use naru_net::FirewallMode;
use naru_net::ports::Reservation;
use naru_net::proxy::{self, Proxy, Served};
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

    /// Holds the ports that `spec` asks for and leads them to `place`.
    pub(super) fn publish(&self, id: &ContainerId, name: &str, spec: &NetworkSpec, place: &mut Place) -> Result<()> {
        let binding = self.host_binding(place);
        let mut held = Held::default();
        let mut published = Vec::new();
        for port in wanted(spec) {
            let hosts = match port.host_ip {
                Some(address) => vec![address],
                None if binding.is_unspecified() && has_ipv6() => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
                None => vec![binding],
            };
            let hosts: Vec<IpAddr> = hosts.into_iter().filter(|host| place.target(*host).is_some()).collect();
            if hosts.is_empty() {
                continue;
            }
            let reservations = self.ports.reserve(port.protocol.into(), &hosts, port.host_ports, name)?;
            for reservation in &reservations {
                published.push(Published {
                    container_port: port.container_port,
                    protocol: port.protocol,
                    host_ip: reservation.address.ip(),
                    host_port: reservation.address.port(),
                });
            }
            held.keep(reservations, port.container_port);
            if self.config.firewall == FirewallMode::RespectHost && held.ports.last().is_some_and(|port| port.socket.is_none()) {
                let (port, protocol) = (port.container_port, port.protocol.as_str());
                return Err(EngineError::invalid(format!(
                    "port {port}/{protocol} cannot be published with --firewall-mode respect-host: sockets serve the ports then, and this kernel has none for {protocol}"
                )));
            }
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
        if !place.ports.is_empty() {
            self.held().insert(id.clone(), held);
        }
        Ok(())
    }

    /// Holds the ports of a container that a former daemon left running.
    pub(super) fn hold_again(&self, id: &ContainerId, name: &str, place: &Place) -> Result<()> {
        let mut held = Held::default();
        for port in &place.ports {
            let range = (port.host_port, port.host_port);
            let reservations = self.ports.reserve(port.protocol.into(), &[port.host_ip], range, name)?;
            held.keep(reservations, port.container_port);
        }
        held.serve(place)?;
        self.held().insert(id.clone(), held);
        Ok(())
    }

    /// Leads a container's ports to where another of its networks leads out.
    pub(super) fn move_ports(&self, id: &ContainerId, old: &Place, new: &Place) -> Result<()> {
        let maps = old.port_maps();
        if !maps.is_empty() {
            self.firewall.unpublish(&maps)?;
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

impl Held {
    /// Keeps reserved ports.
    fn keep(&mut self, reservations: Vec<Reservation>, container_port: u16) {
        self.ports.extend(reservations.into_iter().map(|mut reservation| {
            let socket = reservation.take_socket().map(Arc::new);
            Port { socket, reservation, container_port }
        }));
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
