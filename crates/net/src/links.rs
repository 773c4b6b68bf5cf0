//! Links, addresses and routes by rtnetlink.
//!
//! All links of one engine carry its group number, so that what a dead engine left can be told from everything else.
//! A container's pair is made in one message: host end with name, bridge and up, the other end with name and hardware
//! address already in the container's namespace. It vanishes with that namespace; only a detour for its rate is left then.
//!
//! Links with IPv6 get their link-local address here, as all others without duplicate detection: they are usable at once,
//! not a second later. Containers take no router advertisements, which any neighbour could send.

use crate::address::{IpNet, LinkName, MacAddress, octets};
use crate::error::{Error, Result};
use crate::netlink::{Answer, Batch, Socket, flags};
use crate::rates::{Rate, detour, shape, stray_detours};
use crate::rtnetlink::{
    GET_LINK, Link, NEW_LINK, OPER_UP, add_address, add_default_route, addresses_of, get_link, ifla, interface, link_at, link_local,
    link_of, look_at, looked_at, remove_address, remove_link, replace_default_route, routes, set_down, without_own_ipv6,
};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::collections::HashSet;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// RTMGRP_LINK: changes of links.
const LINK_CHANGES: u32 = 1;

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
    /// Default routes in the container, at most one of each family; none where another link has them, see
    /// [`Links::set_default_routes`].
    pub gateways: Vec<IpAddr>,
    /// The kernel's default when absent.
    pub mtu: Option<u32>,
    /// Containers of this bridge must not reach each other.
    pub isolated: bool,
    /// Limits, which the container cannot take away.
    pub rate: Option<Rate>,
}

/// The host's links, as one engine works with them.
#[derive(Debug)]
pub struct Links {
    socket: Mutex<Socket>,
    /// Removing a link takes a grace period of the kernel; what is made meanwhile does not wait for it here.
    removals: Mutex<Socket>,
    group: u32,
    /// Where they are.
    namespace: OwnedFd,
}

/// The group number of an engine: its name's hash, never one that people use.
fn group_of(owner: &str) -> u32 {
    0x4e00_0000 | (hash(owner.bytes()) & 0x00ff_ffff)
}

/// FNV-1a.
fn hash(bytes: impl Iterator<Item = u8>) -> u32 {
    bytes.fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// The same each time a bridge is made, for its neighbours remember it for a minute; none that a container gets.
fn hardware_address(bridge: &Bridge) -> MacAddress {
    let addresses = bridge.addresses.iter().flat_map(|address| octets(address.address()));
    let [a, b, c, d] = hash(bridge.name.as_str().bytes().chain(addresses)).to_be_bytes();
    MacAddress([2, 0x4e, a, b, c, d])
}

impl Links {
    /// Links of the host for the engine called `owner`, in the network namespace of the calling thread.
    pub fn open(owner: &str) -> Result<Links> {
        const OWN: &str = "/proc/thread-self/ns/net";
        let namespace = rustix::fs::open(OWN, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let fail = |errno: Errno| Error::File { action: "open", path: OWN.to_owned(), source: errno.into() };
        Ok(Links {
            socket: Mutex::new(Socket::route()?),
            removals: Mutex::new(Socket::route()?),
            group: group_of(owner),
            namespace: namespace.map_err(fail)?,
        })
    }

    pub(crate) fn group(&self) -> u32 {
        self.group
    }

    pub(crate) fn socket(&self) -> std::sync::MutexGuard<'_, Socket> {
        self.socket.lock().expect("an exchange does not panic")
    }

    /// Makes the bridge if it is missing, gives it these addresses, sets it up; returns its index. A bridge of this engine
    /// loses other addresses, one that somebody else made does not.
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
        let mac = hardware_address(bridge);
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
            batch.attribute(ifla::ADDRESS, &mac.0);
            batch.nest(ifla::LINKINFO, |b| {
                b.text(ifla::INFO_KIND, "bridge");
                b.nest(ifla::INFO_DATA, |b| b.u32(ifla::BRIDGE_STP, 0));
            });
        }
        if present.is_none() {
            without_own_ipv6(&mut batch, name);
        }
        look_at(&mut batch, name);
        let link = looked_at(&socket.request(batch)?, name)?;
        let old = if present.is_some() { addresses_of(&socket, link.index)? } else { vec![] };
        let is_ours = link.group == self.group;
        if is_ours {
            // A container would otherwise become a router of the host, by one packet (CVE-2020-13401).
            without_ipv6_is_fine(write_parameter(self.namespace.as_fd(), &format!("net/ipv6/conf/{name}/accept_ra"), "0"))?;
        }
        // A bridge that somebody else made keeps what it has.
        let own = if is_ours { missing_link_local(&bridge.addresses, link.mac) } else { None };
        let mut batch = Batch::default();
        let wanted: Vec<IpNet> = bridge.addresses.iter().copied().chain(own).collect();
        for address in old.iter().filter(|address| is_ours && !wanted.contains(address)) {
            remove_address(&mut batch, link.index, address, name);
        }
        for address in wanted.iter().filter(|address| !old.contains(address)) {
            add_address(&mut batch, link.index, address, name);
        }
        if !batch.is_empty() {
            socket.request(batch)?;
        }
        Ok(link.index)
    }

    /// Gives a bridge of this engine's that others have renamed its name back, its ports stay on it; true when it has another
    /// name no more. A bridge that is gone, or that somebody else made, is left alone.
    pub fn restore_name(&self, index: u32, name: &LinkName) -> Result<bool> {
        let socket = self.socket();
        let Some(link) = link_at(&socket, index)? else { return Ok(false) };
        if link.name == name.as_str() || link.kind != "bridge" || !self.has_made(&link) {
            return Ok(false);
        }
        let rename = || {
            let mut batch = Batch::default();
            batch.begin(NEW_LINK, flags::ACK, "give its name back to", link.name.as_str(), &interface(0, index, false));
            batch.text(ifla::IFNAME, name.as_str());
            socket.request(batch).map(drop)
        };
        match rename() {
            // Kernels before 6.2 rename what is down only.
            Err(error) if error.errno() == Some(Errno::BUSY) => {
                let mut batch = Batch::default();
                batch.begin(NEW_LINK, flags::ACK, "set down", link.name.as_str(), &set_down(index));
                socket.request(batch)?;
                rename()?;
            }
            renamed => renamed?,
        }
        Ok(true)
    }

    /// Connects a network namespace to a bridge. `route` is a routing socket opened in the namespace.
    pub fn attach(&self, plan: &VethPlan, namespace: BorrowedFd<'_>, route: BorrowedFd<'_>) -> Result<()> {
        self.make_pair(plan, namespace)?;
        self.finish(plan, route, || guard_ipv6(namespace, &plan.container_name, &plan.addresses))
    }

    /// The same for a namespace in which nobody is yet. `without_ipv6` is its `net/ipv6/conf/default/disable_ipv6`: that a link
    /// has no IPv6 from its birth takes no way into the namespace.
    pub fn attach_first(
        &self,
        plan: &VethPlan,
        namespace: BorrowedFd<'_>,
        route: BorrowedFd<'_>,
        without_ipv6: BorrowedFd<'_>,
    ) -> Result<()> {
        if has_ipv6(&plan.addresses) {
            return self.attach(plan, namespace, route);
        }
        let set = |value: &str| {
            let path = "/proc/sys/net/ipv6/conf/default/disable_ipv6".to_owned();
            let written = rustix::io::pwrite(without_ipv6, value.as_bytes(), 0).map(drop);
            written.map_err(|errno| Error::File { action: "write", path, source: errno.into() })
        };
        set("1")?;
        let made = self.make_pair(plan, namespace);
        // The links that the container makes are its own business.
        let back = set("0");
        made?;
        self.finish(plan, route, || back)
    }

    /// What comes after the pair; all or nothing.
    fn finish(&self, plan: &VethPlan, route: BorrowedFd<'_>, guard: impl FnOnce() -> Result<()>) -> Result<()> {
        let inside = Inside { name: &plan.container_name, addresses: &plan.addresses, gateways: &plan.gateways };
        let inside = guard().and_then(|()| configure(&inside, &Socket(route))).and_then(|()| match &plan.rate {
            Some(rate) if !rate.is_unlimited() => self.set_rate(&plan.host_name, rate),
            _ => Ok(()),
        });
        let inside = inside.and_then(|()| self.settle(plan));
        if inside.is_err() {
            self.remove(&plan.host_name)?;
        }
        inside
    }

    /// That a link has a carrier is seen to by a thread of the kernel, some time later; until then the bridge forwards
    /// nothing from it, and what is lost is sent again after a second. Asking for a link has it seen to at once with
    /// kernels that are new enough; others tell when they have done it.
    fn settle(&self, plan: &VethPlan) -> Result<()> {
        /// Without a carrier for so long there is none to come: a first packet may wait then, nothing else.
        const PATIENCE: Duration = Duration::from_millis(20);
        if self.is_settled(plan)? {
            return Ok(());
        }
        let changes = Socket::route_events(LINK_CHANGES)?;
        let deadline = Instant::now() + PATIENCE;
        // What has changed before they were listened to is seen by asking once more.
        while !self.is_settled(plan)? {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !changes.wait(left)? {
                break;
            }
        }
        Ok(())
    }

    fn is_settled(&self, plan: &VethPlan) -> Result<bool> {
        let mut batch = Batch::default();
        look_at(&mut batch, plan.host_name.as_str());
        batch.begin(GET_LINK, 0, "look at", "the bridge", &interface(0, plan.bridge, false));
        let up = |answer: &Answer| answer.attributes(16).any(|(kind, value)| kind == ifla::OPERSTATE && value == [OPER_UP]);
        Ok(self.socket().request(batch)?.iter().all(up))
    }

    fn make_pair(&self, plan: &VethPlan, namespace: BorrowedFd<'_>) -> Result<()> {
        let name = plan.host_name.as_str();
        let mut batch = Batch::default();
        batch.begin(NEW_LINK, flags::CREATE | flags::EXCL | flags::ACK, "make link", name, &interface(0, 0, true));
        batch.text(ifla::IFNAME, name);
        batch.u32(ifla::GROUP, self.group);
        batch.u32(ifla::MASTER, plan.bridge);
        one_queue(&mut batch);
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
                    one_queue(b);
                    if let Some(mtu) = plan.mtu {
                        b.u32(ifla::MTU, mtu);
                    }
                    b.attribute(ifla::NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
                });
            });
        });
        // The host has no address on its end, the bridge has.
        without_own_ipv6(&mut batch, name);
        set_port(&mut batch, name, plan.isolated);
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

    /// Puts the host's end of a pair, whose bridge was lost, on a bridge, and sets it up; absent is fine.
    pub fn rejoin(&self, host_name: &LinkName, bridge: u32, isolated: bool) -> Result<()> {
        let name = host_name.as_str();
        let mut batch = Batch::default();
        batch.begin(NEW_LINK, flags::ACK, "put on its bridge", name, &interface(0, 0, true));
        batch.text(ifla::IFNAME, name);
        batch.u32(ifla::MASTER, bridge);
        set_port(&mut batch, name, isolated);
        match self.socket().request(batch) {
            Err(error) if error.errno() == Some(Errno::NODEV) => Ok(()),
            done => done.map(drop),
        }
    }

    /// Limits what passes by the pair with this host's end from now on, or frees it. A limit of what the container sends
    /// needs a link beside the pair, which does not go with the container: [`Links::remove`] removes it, else the next
    /// such limit or [`Links::cleanup`] do.
    pub fn set_rate(&self, host_name: &LinkName, rate: &Rate) -> Result<()> {
        if rate.egress.is_some() {
            self.remove_stray_detours()?;
        }
        shape(&self.socket(), host_name, rate.ingress, rate.egress, self.group)
    }

    /// A link is made before its detour, so a detour without its link has outlived it.
    fn remove_stray_detours(&self) -> Result<()> {
        let strays = stray_detours(&self.socket(), self.group)?;
        let removals = self.removals.lock().expect("an exchange does not panic");
        strays.iter().try_for_each(|stray| remove_link(&removals, stray))
    }

    /// Whether there is a link of this name that this engine has made.
    pub fn is_ours(&self, name: &LinkName) -> Result<bool> {
        Ok(self.find(name)?.is_some_and(|link| self.has_made(&link)))
    }

    /// Whether this engine has made the link.
    pub fn has_made(&self, link: &Link) -> bool {
        link.group == self.group
    }

    /// Removes a link and what its rate needed; absent is fine.
    pub fn remove(&self, name: &LinkName) -> Result<()> {
        let socket = self.removals.lock().expect("an exchange does not panic");
        remove_link(&socket, name)?;
        remove_link(&socket, &detour(name))
    }

    /// Makes these the default routes of a network namespace, those of an engine that are not among them go: a network
    /// was connected or disconnected. At most one of each family; an unspecified address means by the link alone.
    /// `route` is a routing socket opened in the namespace.
    pub fn set_default_routes(route: BorrowedFd<'_>, wanted: &[(IpAddr, LinkName)]) -> Result<()> {
        let socket = Socket(route);
        let mut kept = Vec::new();
        for (gateway, name) in wanted {
            let link = get_link(&socket, name.as_str())?;
            let link = link.ok_or_else(|| Error::kernel("set default route by", name.as_str(), Errno::NODEV))?;
            let mut batch = Batch::default();
            replace_default_route(&mut batch, link.index, *gateway);
            socket.request(batch)?;
            kept.push((gateway.is_ipv4(), Some(link.index), Some(*gateway).filter(|gateway| !gateway.is_unspecified())));
        }
        let mut batch = Batch::default();
        for route in routes(&socket)?.iter().filter(|route| route.is_engines_default()) {
            if !kept.contains(&(route.is_ipv4, route.link, route.gateway)) {
                route.delete_default(&mut batch);
            }
        }
        if batch.is_empty() { Ok(()) } else { socket.request(batch).map(drop) }
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

    /// The networks the host has routes to, in all tables, default routes left out: new networks must not overlap them.
    /// Without what is on the links that `is_ours` says: the engine's own bridges, whose subnets it knows.
    pub fn foreign_networks(&self, is_ours: impl Fn(u32) -> bool) -> Result<Vec<IpNet>> {
        let routes = routes(&*self.socket())?;
        let counted = routes.iter().filter(|route| !route.is_local() && !route.link.is_some_and(&is_ours));
        let mut networks: Vec<IpNet> = counted.filter_map(|route| route.destination).collect();
        networks.sort_unstable();
        networks.dedup();
        Ok(networks)
    }

    /// Removes this engine's links except those in `keep`: what a dead engine left. Goes on after an error and returns
    /// the first.
    pub fn cleanup(&self, keep: &HashSet<LinkName>) -> Result<Vec<String>> {
        // What a kept link's rate needs is named after it.
        let detours: HashSet<LinkName> = keep.iter().map(detour).collect();
        let mut removed = Vec::new();
        let mut first_error = Ok(());
        for link in self.list()?.into_iter().filter(|link| link.group == self.group) {
            let Ok(name) = link.name.parse::<LinkName>() else { continue };
            if keep.contains(&name) || detours.contains(&name) {
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

/// How the bridge treats the host's end of a pair.
fn set_port(batch: &mut Batch, name: &str, isolated: bool) {
    let hairpin = bridges_are_filtered();
    if isolated || hairpin {
        batch.begin(NEW_LINK, flags::ACK, "set the bridge port of", name, &interface(0, 0, false));
        batch.text(ifla::IFNAME, name);
        batch.nest(ifla::LINKINFO, |b| {
            b.text(ifla::INFO_SLAVE_KIND, "bridge");
            b.nest(ifla::INFO_SLAVE_DATA, |b| {
                b.attribute(ifla::PORT_ISOLATED, &[u8::from(isolated)]);
                b.attribute(ifla::PORT_HAIRPIN, &[u8::from(hairpin)]);
            });
        });
    }
}

/// True when br_netfilter is at work: then a published port's packet from a container to itself does not leave the
/// bridge, which must be allowed to send it back where it came from.
fn bridges_are_filtered() -> bool {
    std::fs::read("/proc/sys/net/bridge/bridge-nf-call-iptables").is_ok_and(|text| text.starts_with(b"1"))
}

/// The kernel would make a queue for each processor, each with an object in sysfs and word to whoever listens, which is
/// most of the time a pair takes on a large machine; packets pass a pair without waiting in any.
fn one_queue(batch: &mut Batch) {
    batch.u32(ifla::TX_QUEUES, 1);
    batch.u32(ifla::RX_QUEUES, 1);
}

/// A container's link as its namespace sees it.
pub(crate) struct Inside<'a> {
    pub name: &'a LinkName,
    pub addresses: &'a [IpNet],
    pub gateways: &'a [IpAddr],
}

/// The link-local address that addresses of IPv6 need beside them.
fn missing_link_local(addresses: &[IpNet], mac: Option<MacAddress>) -> Option<IpNet> {
    let is_link_local = |address: &IpNet| matches!(address.address(), IpAddr::V6(v6) if v6.is_unicast_link_local());
    let needed = addresses.iter().any(|address| !address.is_ipv4()) && !addresses.iter().any(is_link_local);
    mac.filter(|_| needed).map(link_local)
}

/// Inside the container: the link up, its addresses, the default routes.
pub(crate) fn configure<Fd: AsFd>(plan: &Inside<'_>, socket: &Socket<Fd>) -> Result<()> {
    let name = plan.name.as_str();
    let mut batch = Batch::default();
    without_own_ipv6(&mut batch, name);
    batch.begin(NEW_LINK, flags::ACK, "set up", name, &interface(0, 0, true));
    batch.text(ifla::IFNAME, name);
    look_at(&mut batch, name);
    let link = looked_at(&socket.request(batch)?, name)?;
    let mut batch = Batch::default();
    for address in plan.addresses.iter().chain(&missing_link_local(plan.addresses, link.mac)) {
        add_address(&mut batch, link.index, address, name);
    }
    for gateway in plan.gateways {
        add_default_route(&mut batch, link.index, *gateway);
    }
    if batch.is_empty() { Ok(()) } else { socket.request(batch).map(drop) }
}

fn has_ipv6(addresses: &[IpNet]) -> bool {
    addresses.iter().any(|address| !address.is_ipv4())
}

/// A neighbour that may send what it likes could make itself the router of a container, also where the network has no
/// IPv6: so a link takes no advertisements, or has no IPv6 at all. Routing messages cannot say it.
pub(crate) fn guard_ipv6(namespace: BorrowedFd<'_>, name: &LinkName, addresses: &[IpNet]) -> Result<()> {
    let (file, value) = if has_ipv6(addresses) { ("accept_ra", "0") } else { ("disable_ipv6", "1") };
    without_ipv6_is_fine(write_parameter(namespace, &format!("net/ipv6/conf/{}/{file}", name.as_str()), value))
}

fn without_ipv6_is_fine(written: Result<()>) -> Result<()> {
    match written {
        // A kernel without IPv6.
        Err(Error::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(()),
        written => written,
    }
}

/// Sets a kernel parameter, as `net/ipv4/conf/eth0/log_martians`, of a network namespace. The file is that of the namespace of
/// who opens it: a thread goes there and ends.
pub fn write_parameter(namespace: BorrowedFd<'_>, parameter: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/{parameter}");
    let write = || -> Result<(), Errno> {
        move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))?;
        let file = rustix::fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(&file, value.as_bytes()).map(drop)
    };
    let written = std::thread::scope(|scope| {
        // Small, because it is made for each link.
        let thread = std::thread::Builder::new().stack_size(64 << 10).spawn_scoped(scope, write)?;
        Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?)
    });
    written.map_err(|source: std::io::Error| Error::File { action: "write", path, source })
}
