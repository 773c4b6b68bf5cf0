//! Host ports: each published port is held by a bound socket of the engine, so that no other program can take it, and
//! remembered with its owner, so that an error can name both.
//!
//! The sockets do not only hold: a TCP socket listens, and what the firewall does not rewrite (connections from
//! 127.0.0.1, from ::1, and everything while the table is gone) is served from it by [`crate::proxy`].

use crate::address::Protocol;
use crate::error::{Error, Result};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// The ports of one engine.
#[derive(Debug, Clone, Default)]
pub struct Ports(Arc<Mutex<Taken>>);

/// Who holds a port, on which addresses.
type Taken = HashMap<(Protocol, u16), Vec<(IpAddr, Arc<str>)>>;

/// A port that is held; dropping it gives the port back.
#[derive(Debug)]
pub struct Reservation {
    /// What is held.
    pub address: SocketAddr,
    /// tcp, udp or sctp.
    pub protocol: Protocol,
    socket: Option<OwnedFd>,
    ports: Ports,
}

impl Reservation {
    /// The bound socket (a listening one with TCP), for a proxy; absent once taken, and with SCTP where the kernel has none:
    /// then only the firewall can lead into the container. The port stays held.
    pub fn take_socket(&mut self) -> Option<OwnedFd> {
        self.socket.take()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut taken = self.ports.0.lock().expect("the map of ports is not poisoned");
        if let Some(held) = taken.get_mut(&(self.protocol, self.address.port())) {
            held.retain(|(address, _)| *address != self.address.ip());
            if held.is_empty() {
                taken.remove(&(self.protocol, self.address.port()));
            }
        }
    }
}

impl Ports {
    /// No port is held.
    pub fn new() -> Self {
        Ports::default()
    }

    /// Holds the first free port of `first..=last` on all of `hosts`, the same one; 0 to 0 lets the kernel choose.
    /// `owner` is named to whoever wants it next.
    pub fn reserve(&self, protocol: Protocol, hosts: &[IpAddr], (first, last): (u16, u16), owner: &str) -> Result<Vec<Reservation>> {
        if first == 0 {
            return self.reserve_any(protocol, hosts, owner);
        }
        let mut last_error = None;
        for port in first..=last {
            match self.reserve_port(protocol, hosts, port, owner) {
                Ok(held) => return Ok(held),
                Err(error) => last_error = Some(error),
            }
        }
        match last_error {
            Some(error) if first == last => Err(with_holder(error)),
            _ => Err(Error::NoFreePort { protocol, host: hosts.first().copied().unwrap_or(IpAddr::from([0; 4])), first, last }),
        }
    }

    /// The kernel chooses for the first address; the others must have the same port free.
    fn reserve_any(&self, protocol: Protocol, hosts: &[IpAddr], owner: &str) -> Result<Vec<Reservation>> {
        let Some((host, others)) = hosts.split_first() else { return Ok(Vec::new()) };
        for _ in 0..64 {
            let first = self.hold(protocol, SocketAddr::new(*host, 0), owner)?;
            let port = first.address.port();
            match self.reserve_port(protocol, others, port, owner) {
                Ok(mut held) => {
                    held.insert(0, first);
                    return Ok(held);
                }
                Err(Error::Bind { source, .. }) if source.kind() != std::io::ErrorKind::AddrInUse => {
                    return Err(Error::Bind { address: SocketAddr::new(others[0], port), protocol, source });
                }
                Err(_) => {}
            }
        }
        let (first, last) = ephemeral_range();
        Err(Error::NoFreePort { protocol, host: *host, first, last })
    }

    fn reserve_port(&self, protocol: Protocol, hosts: &[IpAddr], port: u16, owner: &str) -> Result<Vec<Reservation>> {
        hosts.iter().map(|host| self.hold(protocol, SocketAddr::new(*host, port), owner)).collect()
    }

    fn hold(&self, protocol: Protocol, address: SocketAddr, owner: &str) -> Result<Reservation> {
        let mut taken = self.0.lock().expect("the map of ports is not poisoned");
        let clashes = |held: &IpAddr| {
            held.is_ipv4() == address.is_ipv4() && (*held == address.ip() || held.is_unspecified() || address.ip().is_unspecified())
        };
        if let Some((_, owner)) = taken.get(&(protocol, address.port())).into_iter().flatten().find(|(held, _)| clashes(held)) {
            return Err(Error::PortAllocated { address, protocol, owner: owner.to_string() });
        }
        let bound = match protocol {
            // A port nobody asked for by number is chosen among those that no engine's container has.
            Protocol::Sctp => bind(protocol, pick_unused(address, &taken)),
            Protocol::Tcp | Protocol::Udp => bind(protocol, address),
        };
        let (socket, address) = match bound {
            Ok((socket, address)) => (Some(socket), address),
            // Not every kernel has SCTP; the firewall rewrites it without a socket.
            Err(Errno::PROTONOSUPPORT) if protocol == Protocol::Sctp => (None, pick_unused(address, &taken)),
            Err(errno) => return Err(Error::Bind { address, protocol, source: errno.into() }),
        };
        taken.entry((protocol, address.port())).or_default().push((address.ip(), owner.into()));
        Ok(Reservation { address, protocol, socket, ports: self.clone() })
    }

    /// Who holds a port.
    pub fn owner(&self, protocol: Protocol, address: SocketAddr) -> Option<String> {
        let taken = self.0.lock().expect("the map of ports is not poisoned");
        let held = taken.get(&(protocol, address.port()))?;
        held.iter().find(|(held, _)| *held == address.ip()).map(|(_, owner)| owner.to_string())
    }
}

/// The error with the name of the program that has the port, where it can be found out.
fn with_holder(error: Error) -> Error {
    match error {
        Error::Bind { address, protocol, source } if source.kind() == std::io::ErrorKind::AddrInUse => {
            match crate::holder::of(protocol, address) {
                Some(holder) => Error::PortHeld { address, protocol, holder },
                None => Error::Bind { address, protocol, source },
            }
        }
        error => error,
    }
}

fn pick_unused(address: SocketAddr, taken: &Taken) -> SocketAddr {
    if address.port() != 0 {
        return address;
    }
    let (first, last) = ephemeral_range();
    let free = (first..=last).find(|port| !taken.contains_key(&(Protocol::Sctp, *port)));
    free.map_or(address, |port| SocketAddr::new(address.ip(), port))
}

/// The kernel's range for ports nobody asked for by number.
fn ephemeral_range() -> (u16, u16) {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_whitespace().filter_map(|number| number.parse().ok());
    (numbers.next().unwrap_or(32768), numbers.next().unwrap_or(60999))
}

fn bind(protocol: Protocol, address: SocketAddr) -> Result<(OwnedFd, SocketAddr), Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let (kind, number) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, None),
        Protocol::Udp => (SocketType::DGRAM, None),
        // Asking for one would load the kernel's module, which the host may not want.
        Protocol::Sctp if !std::path::Path::new("/proc/sys/net/sctp").exists() => return Err(Errno::PROTONOSUPPORT),
        Protocol::Sctp => (SocketType::STREAM, Some(rustix::net::ipproto::SCTP)),
    };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, number)?;
    if address.is_ipv6() {
        // [::] must not take 0.0.0.0 along: each is held by itself.
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if protocol != Protocol::Udp {
        // Connections of an earlier container that linger are no obstacle; a listening socket still is.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    if protocol != Protocol::Udp {
        rustix::net::listen(&socket, BACKLOG)?;
    }
    let bound = rustix::net::getsockname(&socket)?;
    let bound = SocketAddr::try_from(bound).map_err(|_| Errno::INVAL)?;
    Ok((socket, bound))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn a_port_is_held_once_and_given_back() {
        let ports = Ports::new();
        let held = ports.reserve(Protocol::Tcp, &[LOOPBACK], (0, 0), "one").unwrap();
        let address = held[0].address;
        assert_ne!(address.port(), 0);
        assert_eq!(ports.owner(Protocol::Tcp, address).as_deref(), Some("one"));
        let again = |ports: &Ports| ports.reserve(Protocol::Tcp, &[LOOPBACK], (address.port(), address.port()), "two");
        let error = again(&ports).unwrap_err();
        assert_eq!(error.to_string(), format!("Bind for {address} failed: port is already allocated by one"));
        assert!(matches!(error, Error::PortAllocated { owner, .. } if owner == "one"));
        // All addresses include this one.
        let everywhere = ports.reserve(Protocol::Tcp, &["0.0.0.0".parse().unwrap()], (address.port(), address.port()), "two");
        assert!(matches!(everywhere, Err(Error::PortAllocated { .. })));
        // Another program sees it taken, and we see what another program takes.
        assert_eq!(std::net::TcpListener::bind(address).unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
        let error = again(&Ports::new()).unwrap_err();
        let (name, pid) = (std::fs::read_to_string("/proc/self/comm").unwrap(), std::process::id());
        let expected = format!("failed to bind host port {address}/tcp: address already in use by {} (process {pid})", name.trim());
        assert_eq!(error.to_string(), expected);
        assert!(ports.reserve(Protocol::Udp, &[LOOPBACK], (address.port(), address.port()), "udp").is_ok());
        drop(held);
        assert!(again(&ports).is_ok());
    }

    #[test]
    fn one_port_on_several_addresses() {
        let ports = Ports::new();
        let hosts: [IpAddr; 2] = ["0.0.0.0".parse().unwrap(), "::".parse().unwrap()];
        let held = ports.reserve(Protocol::Tcp, &hosts, (0, 0), "one").unwrap();
        assert_eq!(held[0].address.port(), held[1].address.port());
        let sctp = ports.reserve(Protocol::Sctp, &hosts, (0, 0), "one").unwrap();
        assert_eq!((sctp.len(), sctp[0].address.port()), (2, sctp[1].address.port()));
    }

    #[test]
    fn a_range_yields_its_first_free_port() {
        let ports = Ports::new();
        let first = ports.reserve(Protocol::Udp, &[LOOPBACK], (41000, 41050), "a").unwrap()[0].address.port();
        // The reservation above is dropped; hold the port and ask again.
        let _held = ports.reserve(Protocol::Udp, &[LOOPBACK], (first, first), "a").unwrap();
        let second = ports.reserve(Protocol::Udp, &[LOOPBACK], (41000, 41050), "b").unwrap();
        assert!(second[0].address.port() > first);
        let error = ports.reserve(Protocol::Udp, &[LOOPBACK], (first, first), "c").unwrap_err();
        assert!(matches!(error, Error::PortAllocated { .. }));
    }
}
