//! Messages of rtnetlink that links of all kinds are made of: a link, an address, a route, and a link as it is read.

use crate::address::{IpNet, LinkName, MacAddress, octets};
use crate::error::{Error, Result};
use crate::netlink::{Answer, Batch, Socket, flags};
use rustix::io::Errno;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsFd;
use std::sync::LazyLock;

pub(crate) const NEW_LINK: u16 = 16;
pub(crate) const DEL_LINK: u16 = 17;
pub(crate) const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
pub(crate) const DEL_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;
const DEL_ROUTE: u16 = 25;
const GET_ROUTE: u16 = 26;
pub(crate) const NEW_QDISC: u16 = 36;
pub(crate) const NEW_FILTER: u16 = 44;

/// Parent of the queues `ingress` and `clsact`, for what arrives.
pub(crate) const INGRESS: u32 = 0xffff_fff1;
/// Handle of such a queue.
pub(crate) const INGRESS_HANDLE: u32 = 0xffff_0000;
/// Packets of all kinds, as a filter has it.
pub(crate) const ETHERTYPE_ALL: u32 = 3u16.to_be() as u32;

/// Attributes of a link (`IFLA_*`).
pub(crate) mod ifla {
    pub const ADDRESS: u16 = 1;
    pub const IFNAME: u16 = 3;
    pub const MTU: u16 = 4;
    pub const LINK: u16 = 5;
    pub const MASTER: u16 = 10;
    pub const OPERSTATE: u16 = 16;
    pub const LINKINFO: u16 = 18;
    pub const IFALIAS: u16 = 20;
    pub const AF_SPEC: u16 = 26;
    pub const GROUP: u16 = 27;
    pub const NET_NS_FD: u16 = 28;
    pub const TX_QUEUES: u16 = 31;
    pub const RX_QUEUES: u16 = 32;
    pub const INFO_KIND: u16 = 1;
    pub const INFO_DATA: u16 = 2;
    pub const INFO_SLAVE_KIND: u16 = 4;
    pub const INFO_SLAVE_DATA: u16 = 5;
    pub const VETH_PEER: u16 = 1;
    pub const BRIDGE_STP: u16 = 5;
    pub const PORT_HAIRPIN: u16 = 4;
    pub const PORT_ISOLATED: u16 = 33;
    pub const INET6_ADDR_GEN_MODE: u16 = 8;
    pub const VLAN_ID: u16 = 1;
    pub const MACVLAN_MODE: u16 = 1;
    pub const IPVLAN_MODE: u16 = 1;
    pub const IPVLAN_FLAGS: u16 = 2;
}

pub(crate) const UP: u32 = 1;
/// A link that carries packets (IF_OPER_UP).
pub(crate) const OPER_UP: u8 = 6;
pub(crate) const AF_INET: u8 = 2;
pub(crate) const AF_INET6: u8 = 10;
/// No link-local address, no router solicitations.
const GEN_MODE_NONE: u8 = 1;
/// No duplicate detection: the engine hands each address out once.
const ADDRESS_NO_DAD: u8 = 2;
const ROUTE_TABLE_MAIN: u8 = 254;
const ROUTE_TABLE_LOCAL: u8 = 255;
const ROUTE_PROTOCOL_STATIC: u8 = 4;
const ROUTE_SCOPE_UNIVERSE: u8 = 0;
const ROUTE_SCOPE_LINK: u8 = 253;
const ROUTE_SCOPE_NOWHERE: u8 = 255;
const ROUTE_UNICAST: u8 = 1;
const RTA_DESTINATION: u16 = 1;
const RTA_OUT_LINK: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;

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

pub(crate) fn interface(family: u8, index: u32, up: bool) -> Vec<u8> {
    let flags = if up { UP } else { 0 };
    let mut header = vec![family, 0, 0, 0];
    header.extend(index.to_ne_bytes());
    header.extend(flags.to_ne_bytes());
    header.extend(flags.to_ne_bytes());
    header
}

/// The same header for a link that shall be down.
pub(crate) fn set_down(index: u32) -> Vec<u8> {
    let mut header = interface(0, index, false);
    header[12..16].copy_from_slice(&UP.to_ne_bytes());
    header
}

/// Keeps the kernel from giving a link an address by itself: networks without IPv6 must have none, and where there is
/// IPv6 the link-local address comes without the second that duplicate detection takes. The kernel takes this for a
/// link that is there only, and for one with IPv6 at all, which none with an MTU below 1280 has.
pub(crate) fn without_own_ipv6(batch: &mut Batch, name: &str) {
    static KERNEL_HAS_IPV6: LazyLock<bool> = LazyLock::new(|| std::path::Path::new("/proc/sys/net/ipv6").exists());
    if *KERNEL_HAS_IPV6 {
        batch.begin(NEW_LINK, flags::ACK, "set up link", name, &interface(0, 0, false));
        batch.text(ifla::IFNAME, name);
        batch.nest(ifla::AF_SPEC, |b| {
            b.nest(AF_INET6.into(), |b| b.attribute(ifla::INET6_ADDR_GEN_MODE, &[GEN_MODE_NONE]));
        });
        batch.or_refused(Errno::AFNOSUPPORT);
    }
}

pub(crate) fn add_address(batch: &mut Batch, index: u32, address: &IpNet, link: &str) {
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

/// The addresses of a link.
pub(crate) fn addresses_of<Fd: AsFd>(socket: &Socket<Fd>, index: u32) -> Result<Vec<IpNet>> {
    const ADDRESS: u16 = 1;
    const LOCAL: u16 = 2;
    let mut batch = Batch::default();
    batch.begin(GET_ADDRESS, flags::DUMP, "list", "addresses", &[0; 8]);
    let answers = socket.dump(batch)?;
    let of_link = answers.iter().filter(|answer| answer.0.get(4..8) == Some(&index.to_ne_bytes()[..]));
    let address = |answer: &Answer| {
        let prefix = *answer.0.get(1)?;
        let of_kind = |wanted| answer.attributes(8).find(|(kind, _)| *kind == wanted).and_then(|(_, value)| ip_of(value));
        IpNet::new(of_kind(LOCAL).or_else(|| of_kind(ADDRESS))?, prefix).ok()
    };
    Ok(of_link.filter_map(address).collect())
}

pub(crate) fn remove_address(batch: &mut Batch, index: u32, address: &IpNet, link: &str) {
    let family = if address.is_ipv4() { AF_INET } else { AF_INET6 };
    let mut header = vec![family, address.prefix(), 0, 0];
    header.extend(index.to_ne_bytes());
    batch.begin(DEL_ADDRESS, flags::ACK, "remove address", format!("{address} from {link}"), &header);
    batch.attribute(2, &octets(address.address()));
}

fn ip_of(bytes: &[u8]) -> Option<IpAddr> {
    match bytes {
        [a, b, c, d] => Some(IpAddr::from([*a, *b, *c, *d])),
        bytes => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    }
}

/// The link-local address made of a hardware address (EUI-64).
pub(crate) fn link_local(mac: MacAddress) -> IpNet {
    let [a, b, c, d, e, f] = mac.0;
    let address = Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    IpNet::new(IpAddr::V6(address), 64).expect("64 fits an IPv6 address")
}

/// A default route. An unspecified gateway means that everything is on the link.
fn default_route(batch: &mut Batch, index: u32, gateway: IpAddr, how: u16, action: &'static str) {
    let family = if gateway.is_ipv4() { AF_INET } else { AF_INET6 };
    let on_link = gateway.is_unspecified();
    let scope = if on_link && gateway.is_ipv4() { ROUTE_SCOPE_LINK } else { ROUTE_SCOPE_UNIVERSE };
    let header = [family, 0, 0, 0, ROUTE_TABLE_MAIN, ROUTE_PROTOCOL_STATIC, scope, ROUTE_UNICAST, 0, 0, 0, 0];
    batch.begin(NEW_ROUTE, flags::CREATE | how | flags::ACK, action, format!("by {gateway}"), &header);
    if !on_link {
        batch.attribute(RTA_GATEWAY, &octets(gateway));
    }
    batch.u32(RTA_OUT_LINK, index);
}

/// The only default route of its family.
pub(crate) fn add_default_route(batch: &mut Batch, index: u32, gateway: IpAddr) {
    default_route(batch, index, gateway, flags::EXCL, "add default route");
}

/// Adds the default route or puts it in the place of the one there is.
pub(crate) fn replace_default_route(batch: &mut Batch, index: u32, gateway: IpAddr) {
    default_route(batch, index, gateway, flags::REPLACE, "set default route");
}

/// A route as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    /// Absent for default routes.
    pub destination: Option<IpNet>,
    pub gateway: Option<IpAddr>,
    pub link: Option<u32>,
    pub is_ipv4: bool,
    priority: Option<u32>,
    table: u8,
    protocol: u8,
}

impl Route {
    /// Routes to the host itself, to groups, and on a link alone say nothing about what is reached elsewhere.
    pub fn is_local(&self) -> bool {
        let address = self.destination.map(|network| network.address());
        self.table == ROUTE_TABLE_LOCAL
            || address.is_some_and(|a| a.is_multicast() || matches!(a, IpAddr::V6(v6) if v6.is_unicast_link_local()))
    }

    /// A default route as engines make them, in the main table.
    pub fn is_engines_default(&self) -> bool {
        self.destination.is_none() && self.table == ROUTE_TABLE_MAIN && self.protocol == ROUTE_PROTOCOL_STATIC
    }

    /// Removes exactly this default route.
    pub fn delete_default(&self, batch: &mut Batch) {
        let family = if self.is_ipv4 { AF_INET } else { AF_INET6 };
        // Nowhere as the scope means any.
        let header = [family, 0, 0, 0, self.table, self.protocol, ROUTE_SCOPE_NOWHERE, 0, 0, 0, 0, 0];
        let object = self.gateway.map_or_else(|| "on a link".to_owned(), |gateway| format!("by {gateway}"));
        batch.begin(DEL_ROUTE, flags::ACK, "remove default route", object, &header);
        if let Some(gateway) = self.gateway {
            batch.attribute(RTA_GATEWAY, &octets(gateway));
        }
        if let Some(link) = self.link {
            batch.u32(RTA_OUT_LINK, link);
        }
        if let Some(priority) = self.priority {
            batch.u32(RTA_PRIORITY, priority);
        }
    }
}

fn route_of(answer: &Answer) -> Option<Route> {
    let [family, prefix, _, _, table, protocol, ..] = *answer.0.first_chunk::<8>()?;
    let mut route = Route { destination: None, gateway: None, link: None, is_ipv4: family == AF_INET, priority: None, table, protocol };
    let number = |value: &[u8]| value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
    for (kind, value) in answer.attributes(12) {
        match kind {
            RTA_DESTINATION if prefix > 0 => route.destination = Some(IpNet::new(ip_of(value)?, prefix).ok()?),
            RTA_GATEWAY => route.gateway = ip_of(value),
            RTA_OUT_LINK => route.link = number(value),
            RTA_PRIORITY => route.priority = number(value),
            _ => {}
        }
    }
    // A prefix without an address is nothing we know.
    (prefix == 0 || route.destination.is_some()).then_some(route)
}

/// All routes of both families, of all tables.
pub(crate) fn routes<Fd: AsFd>(socket: &Socket<Fd>) -> Result<Vec<Route>> {
    let mut routes = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let mut batch = Batch::default();
        batch.begin(GET_ROUTE, flags::DUMP, "list", "routes", &[family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        routes.extend(socket.dump(batch)?.iter().filter_map(route_of));
    }
    Ok(routes)
}

/// The request to look at a link; [`looked_at`] reads its answer.
pub(crate) fn look_at(batch: &mut Batch, name: &str) {
    batch.begin(GET_LINK, 0, "look at link", name, &interface(0, 0, false));
    batch.text(ifla::IFNAME, name);
}

/// The link among the answers to a batch with [`look_at`].
pub(crate) fn looked_at(answers: &[Answer], name: &str) -> Result<Link> {
    answers.first().and_then(link_of).ok_or_else(|| Error::Answer { object: format!("link {name}") })
}

pub(crate) fn link_of(answer: &Answer) -> Option<Link> {
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

pub(crate) fn get_link<Fd: AsFd>(socket: &Socket<Fd>, name: &str) -> Result<Option<Link>> {
    let mut batch = Batch::default();
    look_at(&mut batch, name);
    match socket.request(batch) {
        Ok(answers) => looked_at(&answers, name).map(Some),
        Err(error) if error.errno() == Some(Errno::NODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// `struct tcmsg`: a queue or filter of a link.
pub(crate) fn traffic_control(link: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    let mut header = vec![0; 4];
    for number in [link, handle, parent, info] {
        header.extend(number.to_ne_bytes());
    }
    header
}

/// The link of an index.
pub(crate) fn link_at<Fd: AsFd>(socket: &Socket<Fd>, index: u32) -> Result<Option<Link>> {
    let mut batch = Batch::default();
    batch.begin(GET_LINK, 0, "look at link", format!("number {index}"), &interface(0, index, false));
    match socket.request(batch) {
        Ok(answers) => Ok(answers.first().and_then(link_of)),
        Err(error) if error.errno() == Some(Errno::NODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes a link; absent is fine.
pub(crate) fn remove_link<Fd: AsFd>(socket: &Socket<Fd>, name: &LinkName) -> Result<()> {
    let mut batch = Batch::default();
    batch.begin(DEL_LINK, flags::ACK, "remove link", name.as_str(), &interface(0, 0, false));
    batch.text(ifla::IFNAME, name.as_str());
    match socket.request(batch) {
        Err(error) if error.errno() == Some(Errno::NODEV) => Ok(()),
        result => result.map(drop),
    }
}

/// A kind of link the kernel does not know was left out when it was built, or its module is not there.
pub(crate) fn or_unsupported<T>(result: Result<T>, kind: &'static str) -> Result<T> {
    match result {
        Err(error) if error.errno() == Some(Errno::OPNOTSUPP) => Err(Error::Unsupported { kind }),
        result => result,
    }
}
