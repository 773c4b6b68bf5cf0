//! Links on a link of the host: macvlan and ipvlan for containers that are to be machines of the outer network, and the
//! parents they hang on.
//!
//! A child is made in one message, by name already in the container's namespace; the host never sees it, and it goes
//! with that namespace. Parents may be made: `eth0.50` is VLAN 50 on eth0, and a network without the outside hangs on a
//! link that leads nowhere. What was made carries the engine's group number; it stays until [`Links::remove`].

use crate::address::{IpNet, LinkName, MacAddress};
use crate::error::{Error, Result};
use crate::links::{Inside, Links, configure, guard_ipv6};
use crate::netlink::{Batch, Socket, flags};
use crate::rates::{Rate, shape};
use crate::rtnetlink::{NEW_LINK, get_link, ifla, interface, look_at, looked_at, or_unsupported, remove_link, without_own_ipv6};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

/// How macvlan links of one parent see each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MacvlanMode {
    /// As on a bridge.
    #[default]
    Bridge,
    /// Not at all.
    Private,
    /// By way of the switch outside.
    Vepa,
    /// There is only one, which has the parent for itself.
    Passthru,
}

/// On which layer ipvlan links work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IpvlanMode {
    /// As on a switch, with neighbours and broadcasts.
    #[default]
    L2,
    /// As behind a router, which the parent is.
    L3,
    /// The same, seen by the host's firewall.
    L3s,
}

/// How ipvlan links of one parent see each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IpvlanFlag {
    /// They do.
    #[default]
    Bridge,
    /// They do not.
    Private,
    /// By way of the switch outside.
    Vepa,
}

/// What a container's link on a link of the host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChildKind {
    /// With a hardware address of its own.
    Macvlan(MacvlanMode),
    /// With the parent's hardware address.
    Ipvlan {
        /// The layer.
        mode: IpvlanMode,
        /// Among each other.
        flag: IpvlanFlag,
    },
}

impl ChildKind {
    fn name(self) -> &'static str {
        match self {
            ChildKind::Macvlan(_) => "macvlan",
            ChildKind::Ipvlan { .. } => "ipvlan",
        }
    }

    fn write(self, batch: &mut Batch) {
        batch.text(ifla::INFO_KIND, self.name());
        batch.nest(ifla::INFO_DATA, |b| match self {
            ChildKind::Macvlan(mode) => b.u32(
                ifla::MACVLAN_MODE,
                match mode {
                    MacvlanMode::Private => 1,
                    MacvlanMode::Vepa => 2,
                    MacvlanMode::Bridge => 4,
                    MacvlanMode::Passthru => 8,
                },
            ),
            ChildKind::Ipvlan { mode, flag } => {
                let mode: u16 = match mode {
                    IpvlanMode::L2 => 0,
                    IpvlanMode::L3 => 1,
                    IpvlanMode::L3s => 2,
                };
                let flag: u16 = match flag {
                    IpvlanFlag::Bridge => 0,
                    IpvlanFlag::Private => 1,
                    IpvlanFlag::Vepa => 2,
                };
                b.attribute(ifla::IPVLAN_MODE, &mode.to_ne_bytes());
                b.attribute(ifla::IPVLAN_FLAGS, &flag.to_ne_bytes());
            }
        });
    }
}

/// A container's link on a link of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildPlan {
    /// What it is.
    pub kind: ChildKind,
    /// The link it hangs on, by the index [`Links::ensure_parent`] returned.
    pub parent: u32,
    /// Name in the container.
    pub container_name: LinkName,
    /// Hardware address; ipvlan has the parent's.
    pub mac: Option<MacAddress>,
    /// Addresses in the container.
    pub addresses: Vec<IpNet>,
    /// Default routes, at most one of each family; an unspecified address means by the link alone, as with ipvlan of
    /// layer 3, which has no neighbours to ask.
    pub gateways: Vec<IpAddr>,
    /// The parent's when absent.
    pub mtu: Option<u32>,
    /// Limits, which a container that may change its own network can take away.
    pub rate: Option<Rate>,
}

/// A link that others hang on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent {
    /// Its index.
    pub index: u32,
    /// It did not exist before.
    pub made: bool,
}

impl Links {
    /// Gives a network namespace a link on a link of the host. `route` is a routing socket opened in the namespace.
    pub fn attach_child(&self, plan: &ChildPlan, namespace: BorrowedFd<'_>, route: BorrowedFd<'_>) -> Result<()> {
        let name = plan.container_name.as_str();
        let mut batch = Batch::default();
        batch.begin(NEW_LINK, flags::CREATE | flags::EXCL | flags::ACK, "make link", name, &interface(0, 0, false));
        batch.text(ifla::IFNAME, name);
        batch.u32(ifla::LINK, plan.parent);
        batch.u32(ifla::GROUP, self.group());
        if let Some(mac) = plan.mac.filter(|_| matches!(plan.kind, ChildKind::Macvlan(_))) {
            batch.attribute(ifla::ADDRESS, &mac.0);
        }
        if let Some(mtu) = plan.mtu {
            batch.u32(ifla::MTU, mtu);
        }
        batch.nest(ifla::LINKINFO, |b| plan.kind.write(b));
        batch.attribute(ifla::NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
        or_unsupported(self.socket().request(batch), plan.kind.name())?;
        let inside = self.configure_child(plan, namespace, route);
        if inside.is_err() {
            Links::remove_in(route, &plan.container_name)?;
        }
        inside
    }

    fn configure_child(&self, plan: &ChildPlan, namespace: BorrowedFd<'_>, route: BorrowedFd<'_>) -> Result<()> {
        let inside = Inside { name: &plan.container_name, addresses: &plan.addresses, gateways: &plan.gateways };
        let socket = Socket(route);
        guard_ipv6(namespace, &plan.container_name, &plan.addresses)?;
        configure(&inside, &socket)?;
        match plan.rate.filter(|rate| !rate.is_unlimited()) {
            Some(rate) => shape(&socket, &plan.container_name, rate.egress, rate.ingress, self.group()),
            None => Ok(()),
        }
    }

    /// Removes a container's link in its namespace, which is all there is of a macvlan or ipvlan link; absent is fine.
    pub fn remove_in(route: BorrowedFd<'_>, container_name: &LinkName) -> Result<()> {
        let socket = Socket(route);
        remove_link(&socket, container_name)?;
        remove_link(&socket, &crate::rates::detour(container_name))
    }

    /// The link of this name, to hang others on. One that does not exist is made when it is a VLAN of one that does, as
    /// `eth0.50`.
    pub fn ensure_parent(&self, name: &str) -> Result<Parent> {
        let bad = || Error::BadParent { name: name.to_owned() };
        let link_name: LinkName = name.parse().map_err(|_| bad())?;
        let socket = self.socket();
        if let Some(link) = get_link(&socket, name)? {
            return Ok(Parent { index: link.index, made: false });
        }
        let (below, vlan) = name.rsplit_once('.').ok_or_else(bad)?;
        let vlan: u16 = vlan.parse().ok().filter(|number| (1..=4094).contains(number)).ok_or_else(bad)?;
        let below = get_link(&socket, below)?.ok_or_else(|| Error::NoParent { name: below.to_owned() })?;
        let index = or_unsupported(
            make(&socket, &link_name, self.group(), |batch| {
                batch.u32(ifla::LINK, below.index);
                batch.nest(ifla::LINKINFO, |b| {
                    b.text(ifla::INFO_KIND, "vlan");
                    b.nest(ifla::INFO_DATA, |b| b.attribute(ifla::VLAN_ID, &vlan.to_ne_bytes()));
                });
            }),
            "8021q",
        )?;
        Ok(Parent { index, made: true })
    }

    /// A link that leads nowhere, for networks without an outside.
    pub fn ensure_dummy(&self, name: &LinkName) -> Result<Parent> {
        let socket = self.socket();
        if let Some(link) = get_link(&socket, name.as_str())? {
            return Ok(Parent { index: link.index, made: false });
        }
        let of_kind = |kind: &'static str| {
            let made = make(&socket, name, self.group(), |batch| batch.nest(ifla::LINKINFO, |b| b.text(ifla::INFO_KIND, kind)));
            or_unsupported(made, kind)
        };
        // A link for detours to which nobody makes a detour drops everything, as a dummy does.
        let index = match of_kind("dummy") {
            Err(Error::Unsupported { .. }) => of_kind("ifb").map_err(|_| Error::Unsupported { kind: "dummy" })?,
            index => index?,
        };
        Ok(Parent { index, made: true })
    }
}

/// Makes a link and sets it up.
fn make(socket: &Socket, name: &LinkName, group: u32, kind: impl FnOnce(&mut Batch)) -> Result<u32> {
    let mut batch = Batch::default();
    batch.begin(NEW_LINK, flags::CREATE | flags::EXCL | flags::ACK, "make link", name.as_str(), &interface(0, 0, true));
    batch.text(ifla::IFNAME, name.as_str());
    batch.u32(ifla::GROUP, group);
    kind(&mut batch);
    without_own_ipv6(&mut batch, name.as_str());
    look_at(&mut batch, name.as_str());
    let answers = socket.request(batch)?;
    Ok(looked_at(&answers, name.as_str())?.index)
}
