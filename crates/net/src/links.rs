//! Links, addresses and routes by rtnetlink.
//!
//! All links of one engine carry its group number, so that what a dead engine left can be told from everything else.
//! A container's pair is made in one message: host end with name, bridge and up, the other end with name and hardware
//! address already in the container's namespace. It vanishes with that namespace; nothing needs to be removed.

use crate::address::{IpNet, LinkName, MacAddress, octets};
use crate::error::{Error, Result};
use crate::netlink::{Answer, Batch, Socket, flags};
use rustix::io::Errno;
use std::collections::HashSet;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{LazyLock, Mutex};

const NEW_LINK: u16 = 16;
const DEL_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;

/// Attributes of a link (`IFLA_*`).
mod ifla {
    pub const ADDRESS: u16 = 1;
    pub const IFNAME: u16 = 3;
    pub const MTU: u16 = 4;
    pub const MASTER: u16 = 10;
    pub const LINKINFO: u16 = 18;
    pub const AF_SPEC: u16 = 26;
    pub const GROUP: u16 = 27;
    pub const NET_NS_FD: u16 = 28;
    pub const INFO_KIND: u16 = 1;
    pub const INFO_DATA: u16 = 2;
    pub const INFO_SLAVE_KIND: u16 = 4;
    pub const INFO_SLAVE_DATA: u16 = 5;
    pub const VETH_PEER: u16 = 1;
    pub const BRIDGE_STP: u16 = 5;
    pub const PORT_HAIRPIN: u16 = 4;
    pub const PORT_ISOLATED: u16 = 33;
    pub const INET6_ADDR_GEN_MODE: u16 = 8;
}

const UP: u32 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// No link-local address, no router solicitations: for links of networks without IPv6.
const GEN_MODE_NONE: u8 = 1;
/// No duplicate detection: the engine hands each address out once.
const ADDRESS_NO_DAD: u8 = 2;
const ROUTE_TABLE_MAIN: u8 = 254;
const ROUTE_PROTOCOL_STATIC: u8 = 4;
const ROUTE_UNICAST: u8 = 1;

/// A bridge and the host's addresses on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// Its name.
    pub name: LinkName,
    /// The gateways of the network.
    pub addresses: Vec<IpNet>,
    /// The kernel's default when absent.
    pub mtu: Option<u32>,
}

/// A container's connection to a bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VethPlan {
    /// The bridge, by the index [`Links::ensure_bridge`] returned.
    pub bridge: u32,
    /// Name of the host's end.
    pub host_name: LinkName,
    /// Name in the container, e.g. `eth0`.
    pub container_name: LinkName,
    /// Hardware address in the container.
    pub mac: MacAddress,
    /// Addresses in the container.
    pub addresses: Vec<IpNet>,
    /// Default routes in the container, at most one of each family.
    pub gateways: Vec<IpAddr>,
    /// The kernel's default when absent.
    pub mtu: Option<u32>,
    /// Containers of this bridge must not reach each other.
    pub isolated: bool,
}

/// What is known of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Hardware address, where it has one of six bytes.
    pub mac: Option<MacAddress>,
    /// Its MTU.
    pub mtu: u32,
    /// True when it is up.
    pub up: bool,
    /// The group; the engine's own for its links.
    pub group: u32,
    /// `bridge`, `veth`, ...; empty for hardware.
    pub kind: String,
    /// The bridge it belongs to.
    pub master: Option<u32>,
}

/// The host's links, as one engine works with them.
#[derive(Debug)]
pub struct Links {
    socket: Mutex<Socket>,
    group: u32,
}

/// The group number of an engine: its name's hash, never one that people use.
fn group_of(owner: &str) -> u32 {
    let hash = owner.bytes().fold(0x811c_9dc5u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    0x4e00_0000 | (hash & 0x00ff_ffff)
}

fn interface(family: u8, index: u32, up: bool) -> Vec<u8> {
    let flags = if up { UP } else { 0 };
    let mut header = vec![family, 0, 0, 0];
    header.extend(index.to_ne_bytes());
    header.extend(flags.to_ne_bytes());
    header.extend(flags.to_ne_bytes());
    header
}

/// Keeps the kernel from giving a link an address by itself. It takes this for a link that is there only, and for one
/// with IPv6 at all.
fn without_ipv6(batch: &mut Batch, name: &str) {
    static KERNEL_HAS_IPV6: LazyLock<bool> = LazyLock::new(|| std::path::Path::new("/proc/sys/net/ipv6").exists());
    if *KERNEL_HAS_IPV6 {
        batch.begin(NEW_LINK, flags::ACK, "set up link", name, &interface(0, 0, false));
        batch.text(ifla::IFNAME, name);
        batch.nest(ifla::AF_SPEC, |b| {
            b.nest(AF_INET6.into(), |b| b.attribute(ifla::INET6_ADDR_GEN_MODE, &[GEN_MODE_NONE]));
        });
    }
}

fn add_address(batch: &mut Batch, index: u32, address: &IpNet, link: &str) {
    let (family, flags) = if address.is_ipv4() { (AF_INET, 0) } else { (AF_INET6, ADDRESS_NO_DAD) };
    let mut header = vec![family, address.prefix(), flags, 0];
    header.extend(index.to_ne_bytes());
    batch.begin(NEW_ADDRESS, flags::CREATE | flags::EXCL | flags::ACK, "add address", format!("{address} to {link}"), &header);
    let bytes = octets(address.address());
    batch.attribute(2, &bytes);
    batch.attribute(1, &bytes);
    // The kernel adds no broadcast address by itself; without one nobody misses it but it is what people expect.
    if address.is_ipv4() && address.prefix() < 31 {
        batch.attribute(4, &u32::try_from(address.last()).expect("an IPv4 address has 32 bits").to_be_bytes());
    }
}

fn add_default_route(batch: &mut Batch, index: u32, gateway: IpAddr) {
    let family = if gateway.is_ipv4() { AF_INET } else { AF_INET6 };
    let header = [family, 0, 0, 0, ROUTE_TABLE_MAIN, ROUTE_PROTOCOL_STATIC, 0, ROUTE_UNICAST, 0, 0, 0, 0];
    batch.begin(NEW_ROUTE, flags::CREATE | flags::EXCL | flags::ACK, "add default route", format!("by {gateway}"), &header);
    batch.attribute(5, &octets(gateway));
    batch.u32(4, index);
}

fn link_of(answer: &Answer) -> Option<Link> {
    let number = |bytes: &[u8]| Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?));
    let mut link = Link {
        index: number(answer.0.get(4..)?)?,
        up: number(answer.0.get(8..)?)? & UP != 0,
        name: String::new(),
        mac: None,
        mtu: 0,
        group: 0,
        kind: String::new(),
        master: None,
    };
    let text = |value: &[u8]| String::from_utf8_lossy(value.split(|b| *b == 0).next().unwrap_or_default()).into_owned();
    for (kind, value) in answer.attributes(16) {
        match kind {
            ifla::IFNAME => link.name = text(value),
            ifla::ADDRESS => link.mac = value.try_into().ok().map(MacAddress),
            ifla::MTU => link.mtu = number(value)?,
            ifla::GROUP => link.group = number(value)?,
            ifla::MASTER => link.master = Some(number(value)?),
            ifla::LINKINFO => {
                let kind = crate::netlink::attributes(value).find(|(kind, _)| *kind == ifla::INFO_KIND);
                link.kind = kind.map(|(_, value)| text(value)).unwrap_or_default();
            }
            _ => {}
        }
    }
    Some(link)
}

fn get_link<Fd: AsFd>(socket: &Socket<Fd>, name: &str) -> Result<Option<Link>> {
    let mut batch = Batch::default();
    batch.begin(GET_LINK, 0, "look at link", name, &interface(0, 0, false));
    batch.text(ifla::IFNAME, name);
    match socket.request(batch) {
        Ok(answers) => {
            let link = answers.first().and_then(link_of);
            link.map(Some).ok_or_else(|| Error::Answer { object: format!("link {name}") })
        }
        Err(error) if error.errno() == Some(Errno::NODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Links {
    /// Links of the host for the engine called `owner`.
    pub fn open(owner: &str) -> Result<Links> {
        Ok(Links { socket: Mutex::new(Socket::route()?), group: group_of(owner) })
    }

    fn socket(&self) -> std::sync::MutexGuard<'_, Socket> {
        self.socket.lock().expect("an exchange does not panic")
    }

    /// Makes the bridge if it is missing, gives it the addresses it lacks, sets it up; returns its index.
    pub fn ensure_bridge(&self, bridge: &Bridge) -> Result<u32> {
        let socket = self.socket();
        let name = bridge.name.as_str();
        let present = get_link(&socket, name)?;
        if let Some(link) = present.as_ref().filter(|link| link.kind != "bridge") {
            let kind = if link.kind.is_empty() { "device" } else { &link.kind };
            return Err(Error::Kernel {
                action: "use as a bridge",
                object: name.to_owned(),
                source: std::io::Error::new(std::io::ErrorKind::AlreadyExists, format!("it is a {kind}")),
            });
        }
        let has_ipv6 = bridge.addresses.iter().any(|address| !address.is_ipv4());
        let mut batch = Batch::default();
        let create = if present.is_none() { flags::CREATE | flags::EXCL } else { 0 };
        batch.begin(NEW_LINK, create | flags::ACK, "set up bridge", name, &interface(0, 0, true));
        batch.text(ifla::IFNAME, name);
        if let Some(mtu) = bridge.mtu {
            batch.u32(ifla::MTU, mtu);
        }
        if present.is_none() {
            batch.u32(ifla::GROUP, self.group);
            // Without one of its own a bridge changes its hardware address with its ports.
            batch.attribute(ifla::ADDRESS, &MacAddress::random().0);
            batch.nest(ifla::LINKINFO, |b| {
                b.text(ifla::INFO_KIND, "bridge");
                b.nest(ifla::INFO_DATA, |b| b.u32(ifla::BRIDGE_STP, 0));
            });
        }
        if present.is_none() && !has_ipv6 {
            without_ipv6(&mut batch, name);
        }
        batch.begin(GET_LINK, 0, "look at bridge", name, &interface(0, 0, false));
        batch.text(ifla::IFNAME, name);
        let answers = socket.request(batch)?;
        let link = answers.first().and_then(link_of).ok_or_else(|| Error::Answer { object: format!("bridge {name}") })?;
        for address in &bridge.addresses {
            let mut batch = Batch::default();
            add_address(&mut batch, link.index, address, name);
            match socket.request(batch) {
                Err(error) if error.errno() == Some(Errno::EXIST) => {}
                result => drop(result?),
            }
        }
        Ok(link.index)
    }

    /// Connects a network namespace to a bridge. `route` is a routing socket opened in the namespace.
    pub fn attach(&self, plan: &VethPlan, namespace: BorrowedFd<'_>, route: BorrowedFd<'_>) -> Result<()> {
        self.make_pair(plan, namespace)?;
        let inside = configure(plan, &Socket(route));
        if inside.is_err() {
            self.remove(&plan.host_name)?;
        }
        inside
    }

    fn make_pair(&self, plan: &VethPlan, namespace: BorrowedFd<'_>) -> Result<()> {
        let name = plan.host_name.as_str();
        let mut batch = Batch::default();
        batch.begin(NEW_LINK, flags::CREATE | flags::EXCL | flags::ACK, "make link", name, &interface(0, 0, true));
        batch.text(ifla::IFNAME, name);
        batch.u32(ifla::GROUP, self.group);
        batch.u32(ifla::MASTER, plan.bridge);
        if let Some(mtu) = plan.mtu {
            batch.u32(ifla::MTU, mtu);
        }
        batch.nest(ifla::LINKINFO, |b| {
            b.text(ifla::INFO_KIND, "veth");
            b.nest(ifla::INFO_DATA, |b| {
                b.nest(ifla::VETH_PEER, |b| {
                    b.raw(&interface(0, 0, false));
                    b.text(ifla::IFNAME, plan.container_name.as_str());
                    b.attribute(ifla::ADDRESS, &plan.mac.0);
                    if let Some(mtu) = plan.mtu {
                        b.u32(ifla::MTU, mtu);
                    }
                    b.attribute(ifla::NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
                });
            });
        });
        // The host has no address on its end, the bridge has.
        without_ipv6(&mut batch, name);
        let hairpin = bridges_are_filtered();
        if plan.isolated || hairpin {
            batch.begin(NEW_LINK, flags::ACK, "set the bridge port of", name, &interface(0, 0, false));
            batch.text(ifla::IFNAME, name);
            batch.nest(ifla::LINKINFO, |b| {
                b.text(ifla::INFO_SLAVE_KIND, "bridge");
                b.nest(ifla::INFO_SLAVE_DATA, |b| {
                    b.attribute(ifla::PORT_ISOLATED, &[u8::from(plan.isolated)]);
                    b.attribute(ifla::PORT_HAIRPIN, &[u8::from(hairpin)]);
                });
            });
        }
        // The lock must be free again before the link is removed.
        let made = self.socket().request(batch);
        match made {
            Ok(_) => Ok(()),
            Err(error) => {
                // The pair may be there although a later request failed.
                if !matches!(error.errno(), Some(Errno::EXIST)) {
                    self.remove(&plan.host_name)?;
                }
                Err(error)
            }
        }
    }

    /// Removes a link; absent is fine.
    pub fn remove(&self, name: &LinkName) -> Result<()> {
        let mut batch = Batch::default();
        batch.begin(DEL_LINK, flags::ACK, "remove link", name.as_str(), &interface(0, 0, false));
        batch.text(ifla::IFNAME, name.as_str());
        match self.socket().request(batch) {
            Err(error) if error.errno() == Some(Errno::NODEV) => Ok(()),
            result => result.map(drop),
        }
    }

    /// A link by its name.
    pub fn find(&self, name: &LinkName) -> Result<Option<Link>> {
        get_link(&self.socket(), name.as_str())
    }

    /// All links of the host.
    pub fn list(&self) -> Result<Vec<Link>> {
        let mut batch = Batch::default();
        batch.begin(GET_LINK, flags::DUMP, "list", "links", &interface(0, 0, false));
        Ok(self.socket().dump(batch)?.iter().filter_map(link_of).collect())
    }

    /// The networks the host has routes to, default routes left out: new networks must not overlap them.
    pub fn routed_networks(&self) -> Result<Vec<IpNet>> {
        let mut networks = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let mut batch = Batch::default();
            batch.begin(GET_ROUTE, flags::DUMP, "list", "routes", &[family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            for answer in self.socket().dump(batch)? {
                let (Some(prefix), Some(table)) = (answer.0.get(1).copied(), answer.0.get(4).copied()) else { continue };
                let destination = answer.attributes(12).find(|(kind, _)| *kind == 1).map(|(_, value)| value.to_vec());
                let address = match destination.as_deref() {
                    Some([a, b, c, d]) => IpAddr::from([*a, *b, *c, *d]),
                    Some(bytes) => match <[u8; 16]>::try_from(bytes) {
                        Ok(bytes) => IpAddr::from(bytes),
                        Err(_) => continue,
                    },
                    None => continue,
                };
                let is_local = table == 255 || address.is_multicast() || matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
                if prefix > 0 && !is_local {
                    networks.extend(IpNet::new(address, prefix));
                }
            }
        }
        networks.sort_unstable();
        networks.dedup();
        Ok(networks)
    }

    /// Removes this engine's links except those in `keep`: what a dead engine left. Goes on after an error and returns
    /// the first.
    pub fn cleanup(&self, keep: &HashSet<LinkName>) -> Result<Vec<String>> {
        let mut removed = Vec::new();
        let mut first_error = Ok(());
        for link in self.list()?.into_iter().filter(|link| link.group == self.group) {
            let Ok(name) = link.name.parse::<LinkName>() else { continue };
            if keep.contains(&name) {
                continue;
            }
            match self.remove(&name) {
                Ok(()) => removed.push(link.name),
                Err(error) => first_error = first_error.and(Err(error)),
            }
        }
        first_error.map(|()| removed)
    }
}

/// True when br_netfilter is at work: then a published port's packet from a container to itself does not leave the
/// bridge, which must be allowed to send it back where it came from.
fn bridges_are_filtered() -> bool {
    std::fs::read("/proc/sys/net/bridge/bridge-nf-call-iptables").is_ok_and(|text| text.starts_with(b"1"))
}

/// Inside the container: the link up, its addresses, the default routes.
fn configure<Fd: AsFd>(plan: &VethPlan, socket: &Socket<Fd>) -> Result<()> {
    let name = plan.container_name.as_str();
    let mut batch = Batch::default();
    if plan.addresses.iter().all(IpNet::is_ipv4) {
        without_ipv6(&mut batch, name);
    }
    batch.begin(NEW_LINK, flags::ACK, "set up", name, &interface(0, 0, true));
    batch.text(ifla::IFNAME, name);
    batch.begin(GET_LINK, 0, "look at", name, &interface(0, 0, false));
    batch.text(ifla::IFNAME, name);
    let answers = socket.request(batch)?;
    let link = answers.first().and_then(link_of).ok_or_else(|| Error::Answer { object: format!("link {name}") })?;
    let mut batch = Batch::default();
    for address in &plan.addresses {
        add_address(&mut batch, link.index, address, name);
    }
    for gateway in &plan.gateways {
        add_default_route(&mut batch, link.index, *gateway);
    }
    if batch.is_empty() { Ok(()) } else { socket.request(batch).map(drop) }
}
