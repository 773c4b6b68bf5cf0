//! What may pass between containers, host and world: one nf_tables table of the engine, never another's.
//!
//! ```text
//! raw                  to a port published on 127.0.0.1, not from here: drop; only where there is one
//! prerouting           from a bridge of `quiet`: nothing is rewritten
//! prerouting, output   addr4/6: address . protocol . port → address . port     a port published on one host address
//!                      any4/6:  protocol . port → address . port                on all of them
//! postrouting          from subnets4/6 after a rewrite: masquerade; to outside, from snat4/6: the address it says,
//!                      from masq4/6: masquerade
//! input                from a bridge of `sealed`: drop; only where there is one
//! passing              from or to a bridge: the mark by which others' chains let it pass; only where there are such, see
//!                      `passage`
//! forward              established: accept
//!                      from an internal bridge: drop
//!                      to a bridge: published, or between a pair of bridges, or to open4/6 (address . protocol . port),
//!                      or ICMP to routed4/6, or from outside to unprotected4/6, or between a pair of `trusted` (from all that
//!                      is outside with `direct_routing`) to direct4/6 (address . protocol . port): accept, else drop
//! ```
//!
//! A bridge or a port is an element or a few of these sets, added or deleted in one transaction; the rules are written
//! once. What goes through no bridge of ours is not touched. Nothing from outside reaches a container's own address,
//! whoever routes to it, unless that is asked for: only a connection that was rewritten here, or one that began in the
//! container, passes.
//!
//! 127.0.0.1 and ::1 are not rewritten (that would need `route_localnet`, which opens the host's loopback services to
//! containers): they are served by the sockets that hold the ports, see [`crate::ports`] and [`crate::proxy`]. With
//! [`FirewallMode::RespectHost`] these sockets serve everything.
//!
//! The table can be removed or changed by others at any time (`nft flush ruleset`); the state is kept here,
//! [`Firewall::watch`] tells of it and [`Firewall::repair`] makes everything anew.

mod rules;

use crate::address::{IpNet, LinkName, Protocol, number_to_ip, octets};
use crate::conntrack;
use crate::error::{Error, Result};
use crate::netlink::Socket;
use crate::nft::{self, Element, Transaction};
use crate::passage::{self, firewalld, legacy::Haste, legacy::Legacy};
use crate::watch::Watch;
use rules::Chains;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// How a network is reached from outside, family by family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GatewayMode {
    /// By published ports of the host.
    #[default]
    Nat,
    /// By the containers' own addresses, published ports only; nothing is rewritten.
    Routed,
    /// By published ports of the host, and everything by the containers' own addresses.
    NatUnprotected,
    /// Not at all, the host included.
    Isolated,
}

/// Who decides over connections to published ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FirewallMode {
    /// Who publishes: packets are rewritten before the host's rules for itself see them. As Docker.
    #[default]
    Open,
    /// The host's rules for itself (`INPUT`): nothing is rewritten, the sockets that hold the ports serve all, as a
    /// program of the host would. That costs a copy through the engine, and containers see the gateway's address
    /// instead of the client's.
    RespectHost,
}

/// How a firewall decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FirewallConfig {
    /// Who decides over connections to published ports.
    pub mode: FirewallMode,
    /// Who routes to the bridges' subnets reaches published ports by the containers' own addresses, too.
    pub direct_routing: bool,
}

/// How a network's bridge may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeRules {
    /// The bridge.
    pub name: LinkName,
    /// The subnets of its containers.
    pub subnets: Vec<IpNet>,
    /// Give IPv4 packets to the outside the host's address.
    pub masquerade_v4: bool,
    /// Give IPv6 packets to the outside the host's address.
    pub masquerade_v6: bool,
    /// Containers may talk to each other.
    pub icc: bool,
    /// Nothing passes to or from the outside.
    pub internal: bool,
    /// How it is reached by IPv4.
    pub mode_v4: GatewayMode,
    /// How it is reached by IPv6.
    pub mode_v6: GatewayMode,
    /// The host's address that packets to the outside get, instead of that of the link they leave by.
    pub host_ip_v4: Option<IpAddr>,
    /// The same for IPv6.
    pub host_ip_v6: Option<IpAddr>,
    /// Links of the host from which published ports are reached by the containers' own addresses, too.
    pub trusted: Vec<LinkName>,
}

/// A published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortMap {
    /// tcp, udp or sctp.
    pub protocol: Protocol,
    /// The host's address; unspecified for all.
    pub host_ip: IpAddr,
    /// The host's port.
    pub host_port: u16,
    /// The container's address.
    pub container_ip: IpAddr,
    /// The container's port.
    pub container_port: u16,
}

impl PortMap {
    /// The host's end.
    pub fn host(&self) -> SocketAddr {
        SocketAddr::new(self.host_ip, self.host_port)
    }

    /// The container's end.
    pub fn container(&self) -> SocketAddr {
        SocketAddr::new(self.container_ip, self.container_port)
    }

    /// True when this is the host's end.
    pub(crate) fn is_at(&self, at: SocketAddr) -> bool {
        at.port() == self.host_port && at.is_ipv4() == self.host_ip.is_ipv4() && (self.host_ip.is_unspecified() || at.ip() == self.host_ip)
    }

    /// The element that rewrites it; none for what only the proxy serves: loopback, and IPv6 to IPv4.
    fn rewritten(&self) -> Option<(&'static str, Element)> {
        if self.host_ip.is_ipv4() != self.container_ip.is_ipv4() {
            return None;
        }
        let (protocol, port) = ([self.protocol.number()], self.host_port.to_be_bytes());
        let host = octets(self.host_ip);
        if self.host_ip.is_loopback() {
            let key = padded(&[&host, &protocol, &port]);
            return self.host_ip.is_ipv4().then_some(("local4", Element { key, data: None, range_end: false }));
        }
        let (set, key) = match (self.host_ip.is_ipv4(), self.host_ip.is_unspecified()) {
            (true, true) => ("any4", padded(&[&protocol, &port])),
            (false, true) => ("any6", padded(&[&protocol, &port])),
            (true, false) => ("addr4", padded(&[&host, &protocol, &port])),
            (false, false) => ("addr6", padded(&[&host, &protocol, &port])),
        };
        let data = padded(&[&octets(self.container_ip), &self.container_port.to_be_bytes()]);
        Some((set, Element { key, data: Some(data), range_end: false }))
    }

    /// The element that lets it pass to the container's own address.
    fn opened(&self) -> (&'static str, Element) {
        (if self.container_ip.is_ipv4() { "open4" } else { "open6" }, self.own())
    }

    /// The element that lets it pass there from trusted links.
    fn direct(&self) -> (&'static str, Element) {
        (if self.container_ip.is_ipv4() { "direct4" } else { "direct6" }, self.own())
    }

    /// The container's end.
    fn own(&self) -> Element {
        let key = padded(&[&octets(self.container_ip), &[self.protocol.number()], &self.container_port.to_be_bytes()]);
        Element { key, data: None, range_end: false }
    }
}

/// A concatenation: each part filled up to four bytes.
pub(crate) fn padded(parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::new();
    for part in parts {
        key.extend_from_slice(part);
        key.resize(key.len().next_multiple_of(4), 0);
    }
    key
}

impl BridgeRules {
    /// A bridge as Docker makes it when nothing else is asked for.
    pub fn new(name: LinkName, subnets: Vec<IpNet>) -> Self {
        BridgeRules {
            name,
            subnets,
            masquerade_v4: true,
            masquerade_v6: true,
            icc: true,
            internal: false,
            mode_v4: GatewayMode::Nat,
            mode_v6: GatewayMode::Nat,
            host_ip_v4: None,
            host_ip_v6: None,
            trusted: vec![],
        }
    }

    fn mode(&self, is_ipv4: bool) -> GatewayMode {
        if is_ipv4 { self.mode_v4 } else { self.mode_v6 }
    }

    fn is_isolated(&self) -> bool {
        [self.mode_v4, self.mode_v6].contains(&GatewayMode::Isolated)
    }

    /// Nothing leads in or out.
    fn is_closed(&self) -> bool {
        self.internal || self.is_isolated()
    }

    fn elements(&self) -> Vec<(&'static str, Vec<Element>)> {
        let plain = |key: Vec<u8>| Element { key, data: None, range_end: false };
        let name = self.name.padded().to_vec();
        let mut sets = vec![("bridges", vec![plain(name.clone())])];
        if self.is_isolated() {
            sets.push(("sealed", vec![plain(name.clone())]));
        }
        if self.is_closed() {
            sets.push(("internal", vec![plain(name.clone())]));
        } else if !self.trusted.is_empty() {
            let pair = |from: &LinkName| plain([from.padded().as_slice(), name.as_slice()].concat());
            sets.push(("trusted", self.trusted.iter().map(pair).collect()));
        }
        if self.icc {
            sets.push(("pairs", vec![plain([name.as_slice(), name.as_slice()].concat())]));
        } else {
            sets.push(("quiet", vec![plain(name.clone())]));
        }
        for subnet in &self.subnets {
            let is_ipv4 = subnet.is_ipv4();
            let of = |v4, v6| if is_ipv4 { v4 } else { v6 };
            sets.push((of("subnets4", "subnets6"), range(subnet, None)));
            if self.is_closed() {
                continue;
            }
            let mode = self.mode(is_ipv4);
            match mode {
                GatewayMode::Routed => sets.push((of("routed4", "routed6"), range(subnet, None))),
                GatewayMode::NatUnprotected => sets.push((of("unprotected4", "unprotected6"), range(subnet, None))),
                GatewayMode::Nat | GatewayMode::Isolated => {}
            }
            let masquerade = if is_ipv4 { self.masquerade_v4 } else { self.masquerade_v6 };
            if masquerade && mode != GatewayMode::Routed {
                let own = if is_ipv4 { self.host_ip_v4 } else { self.host_ip_v6 };
                match own.filter(|own| own.is_ipv4() == is_ipv4) {
                    Some(own) => sets.push((of("snat4", "snat6"), range(subnet, Some(own)))),
                    None => sets.push((of("masq4", "masq6"), range(subnet, None))),
                }
            }
        }
        sets
    }
}

/// A subnet as two ends; one that reaches to the last address has no second.
fn range(subnet: &IpNet, data: Option<IpAddr>) -> Vec<Element> {
    let key = |number| octets(number_to_ip(number, subnet.is_ipv4()));
    let mut ends = vec![Element { key: key(subnet.first()), data: data.map(octets), range_end: false }];
    let most = if subnet.is_ipv4() { u128::from(u32::MAX) } else { u128::MAX };
    if subnet.last() < most {
        ends.push(Element { key: key(subnet.last() + 1), data: None, range_end: true });
    }
    ends
}

/// How a port is published, which its network and the firewall's mode said when it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    from_all: FromAll,
    /// Some links are trusted to reach the container's own address, too.
    direct: bool,
}

/// The way of everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FromAll {
    Rewritten,
    /// To the container's own address.
    Opened,
    /// By the sockets alone.
    Served,
}

impl Way {
    /// It leads to the container's own end, as that of another port of the host may.
    fn is_shared(self) -> bool {
        self.direct || self.from_all == FromAll::Opened
    }
}

#[derive(Debug, Default)]
struct State {
    bridges: BTreeMap<LinkName, BridgeRules>,
    /// Which bridge has the subnet that begins here.
    subnets: BTreeMap<IpAddr, LinkName>,
    ports: BTreeMap<PortMap, Way>,
    /// In the table, as far as is known.
    chains: Chains,
}

impl State {
    fn insert_bridge(&mut self, rules: BridgeRules) -> Option<BridgeRules> {
        self.subnets.retain(|_, bridge| *bridge != rules.name);
        for subnet in &rules.subnets {
            self.subnets.insert(subnet.network().address(), rules.name.clone());
        }
        self.bridges.insert(rules.name.clone(), rules)
    }

    fn remove_bridge(&mut self, name: &LinkName) -> Option<BridgeRules> {
        self.subnets.retain(|_, bridge| bridge != name);
        self.bridges.remove(name)
    }

    fn bridge_of(&self, container: IpAddr) -> Option<&BridgeRules> {
        let (_, name) = self.subnets.range(..=container).next_back()?;
        self.bridges.get(name).filter(|bridge| bridge.subnets.iter().any(|subnet| subnet.contains(container)))
    }

    fn way(&self, port: &PortMap, config: FirewallConfig) -> Way {
        let bridge = self.bridge_of(port.container_ip);
        let from_all = match bridge.map(|bridge| bridge.mode(port.container_ip.is_ipv4())) {
            Some(GatewayMode::Routed) => FromAll::Opened,
            // A loopback address is kept from others in either mode.
            _ if config.mode == FirewallMode::Open || port.host_ip.is_loopback() => FromAll::Rewritten,
            _ => FromAll::Served,
        };
        let direct = |bridge: &BridgeRules| !bridge.is_closed() && (config.direct_routing || !bridge.trusted.is_empty());
        Way { from_all, direct: bridge.is_some_and(direct) }
    }
}

/// The engine's table.
#[derive(Debug)]
pub struct Firewall {
    table: String,
    config: FirewallConfig,
    socket: Mutex<Socket>,
    state: Mutex<State>,
    legacy: Legacy,
    /// What a [`Watch`] has seen since.
    seen: Arc<Seen>,
    firewalld_decides: AtomicBool,
}

/// What others did.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// They changed the table since it was last written whole.
    pub damaged: AtomicBool,
    /// Chains of theirs had to be passed: packets are marked for it.
    pub passed: AtomicBool,
}

impl Firewall {
    /// The firewall of an engine; `table` is its name. Nothing is changed before [`Firewall::ensure`].
    pub fn open(table: &str, config: FirewallConfig) -> Result<Firewall> {
        Ok(Firewall {
            table: table.to_owned(),
            config,
            socket: Mutex::new(Socket::netfilter()?),
            state: Mutex::default(),
            legacy: Legacy::default(),
            seen: Arc::default(),
            firewalld_decides: AtomicBool::default(),
        })
    }

    /// Tells of changes to the table by others; see [`Watch::wait`].
    pub fn watch(&self) -> Result<Watch> {
        let own_port = self.socket.lock().expect("an exchange does not panic").port()?;
        Watch::open(&self.table, own_port, self.seen.clone())
    }

    /// Lets containers' packets pass the chains that programs of the host share and that would drop them, and names those
    /// that drop them nevertheless, as `inet mine forward`: whoever wrote them should know that containers have no outside
    /// behind them, whatever is accepted here. firewalld's, when it has to be asked, is [`Firewall::trust_bridges`]' to open.
    /// The calling thread must be in the engine's network namespace.
    pub fn open_passages(&self) -> Result<Vec<String>> {
        let legacy = self.open_legacy(Haste::None);
        let passages = passage::open(&self.socket.lock().expect("an exchange does not panic"), &self.table)?;
        self.firewalld_decides.store(passages.firewalld_decides, Ordering::Release);
        if !passages.open.is_empty() {
            self.mark()?;
        }
        let closed = passages.closed.iter().map(ToString::to_string);
        Ok(closed.chain(legacy?).collect())
    }

    /// The same for the chains of `iptables-legacy` alone, which costs a few microseconds where there are none: the kernel
    /// does not tell of their changes, so that this is for every moment at which a way is needed.
    pub fn open_legacy_passages(&self) -> Result<()> {
        self.open_legacy(Haste::Start).map(drop)
    }

    fn open_legacy(&self, haste: Haste) -> Result<Vec<String>> {
        let found = self.legacy.open(&self.table, haste);
        if found.open {
            self.mark()?;
        }
        found.failed.map_or_else(|| Ok(found.closed.into_iter().map(str::to_owned).collect()), Err)
    }

    /// Marks containers' packets from now on.
    fn mark(&self) -> Result<()> {
        let mut state = self.state.lock().expect("a change does not panic");
        if self.seen.passed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let marked = self.change(&mut state, |transaction, _| rules::write_passing(transaction));
        self.seen.passed.store(marked.is_ok(), Ordering::Release);
        marked
    }

    /// Takes the rules of [`Firewall::open_passages`] back, for when no container is there any more and the engine ends.
    pub fn close_passages(&self) -> Result<()> {
        let legacy = self.legacy.close(&self.table);
        passage::close(&self.socket.lock().expect("an exchange does not panic"), &self.table)?;
        legacy
    }

    /// Whether [`Firewall::open_passages`] found a firewalld that lets nobody else write in its chains and has to be asked.
    pub fn firewalld_decides(&self) -> bool {
        self.firewalld_decides.load(Ordering::Acquire)
    }

    /// Has firewalld let pass what comes from the bridges, where it decides. Waits some seconds for it, if it must.
    pub fn trust_bridges(&self) -> Result<()> {
        if self.firewalld_decides() { firewalld::trust(&self.bridges()) } else { Ok(()) }
    }

    /// Takes [`Firewall::trust_bridges`] back, for one bridge or for all.
    pub fn distrust(&self, bridge: Option<&LinkName>) -> Result<()> {
        if !self.firewalld_decides() {
            return Ok(());
        }
        // One that has ended has forgotten all of them.
        self.open_passages()?;
        match bridge {
            _ if !self.firewalld_decides() => Ok(()),
            Some(bridge) => firewalld::forget([bridge]),
            None => firewalld::forget(&self.bridges()),
        }
    }

    /// A copy: nobody may wait for firewalld and hold the state.
    fn bridges(&self) -> Vec<LinkName> {
        self.state.lock().expect("a change does not panic").bridges.keys().cloned().collect()
    }

    /// Makes the table anew from what is known: at the start of the engine after all bridges and ports of the
    /// containers that still run were given to [`Firewall::restore`].
    pub fn ensure(&self) -> Result<()> {
        let mut state = self.state.lock().expect("a change does not panic");
        self.write_all(&mut state)
    }

    /// Takes bridges and ports up again after a restart of the engine, in one transaction.
    pub fn restore(&self, bridges: Vec<BridgeRules>, ports: Vec<PortMap>) -> Result<()> {
        let mut state = self.state.lock().expect("a change does not panic");
        let mut new = State::default();
        for bridge in bridges {
            new.insert_bridge(bridge);
        }
        new.ports = ports.into_iter().map(|port| (port, new.way(&port, self.config))).collect();
        self.write_all(&mut new)?;
        *state = new;
        Ok(())
    }

    /// Adds a network's bridge; one that is there is replaced.
    pub fn add_bridge(&self, rules: BridgeRules) -> Result<()> {
        let mut state = self.state.lock().expect("a change does not panic");
        let old = state.insert_bridge(rules.clone());
        let changed = match &old {
            Some(old) if *old == rules => return Ok(()),
            // Its ports may now be published in another way.
            Some(_) => {
                let ports: Vec<PortMap> = state.ports.keys().copied().collect();
                state.ports = ports.into_iter().map(|port| (port, state.way(&port, self.config))).collect();
                self.write_all(&mut state)
            }
            None => self.change(&mut state, |transaction, chains| {
                for (set, elements) in rules.elements() {
                    chains.write_for(set, transaction);
                    transaction.add(set, &elements);
                }
            }),
        };
        if changed.is_err() {
            state.remove_bridge(&rules.name);
            if let Some(old) = old {
                state.insert_bridge(old);
            }
        }
        changed
    }

    /// Removes a network's bridge; absent is fine.
    pub fn remove_bridge(&self, name: &LinkName) -> Result<()> {
        let mut state = self.state.lock().expect("a change does not panic");
        let Some(old) = state.remove_bridge(name) else { return Ok(()) };
        self.change(&mut state, |transaction, _| {
            for (set, elements) in old.elements() {
                transaction.delete(set, &elements);
            }
        })
    }

    /// Publishes ports, all or none.
    pub fn publish(&self, ports: &[PortMap]) -> Result<()> {
        let mut state = self.state.lock().expect("a change does not panic");
        let new: Vec<(PortMap, Way)> =
            ports.iter().filter(|port| !state.ports.contains_key(port)).map(|port| (*port, state.way(port, self.config))).collect();
        state.ports.extend(new.iter().copied());
        let changed = self.change(&mut state, |transaction, chains| {
            for (set, elements) in by_set(new.iter().copied()) {
                chains.write_for(set, transaction);
                transaction.add(set, &elements);
            }
        });
        if changed.is_err() {
            for (port, _) in &new {
                state.ports.remove(port);
            }
        }
        changed?;
        let new: Vec<PortMap> = new.into_iter().map(|(port, _)| port).collect();
        let socket = self.socket.lock().expect("an exchange does not panic");
        conntrack::forget_published(&socket, &new, |address| state.bridge_of(address).is_some())
    }

    /// Takes ports back; absent ones are fine.
    pub fn unpublish(&self, ports: &[PortMap]) -> Result<()> {
        let mut state = self.state.lock().expect("a change does not panic");
        let old: Vec<(PortMap, Way)> = ports.iter().filter_map(|port| state.ports.remove_entry(port)).collect();
        // Two published on different ports of the host may be open as one.
        let is_shared = |(_, way): &(&PortMap, &Way)| way.is_shared() && old.iter().any(|(_, way)| way.is_shared());
        let open: Vec<Element> = state.ports.iter().filter(is_shared).map(|(port, _)| port.own()).collect();
        self.change(&mut state, |transaction, _| {
            for (set, mut elements) in by_set(old.iter().copied()) {
                elements.retain(|element| !open.contains(element));
                transaction.delete(set, &elements);
            }
        })?;
        let old: Vec<PortMap> = old.into_iter().map(|(port, _)| port).collect();
        conntrack::forget_unpublished(&self.socket.lock().expect("an exchange does not panic"), &old)
    }

    /// Makes everything anew when the table is gone (`nft flush ruleset`), or was changed by others as a [`Watch`] saw;
    /// true when it was.
    pub fn repair(&self) -> Result<bool> {
        let mut state = self.state.lock().expect("a change does not panic");
        let damaged = self.seen.damaged.swap(false, Ordering::AcqRel);
        if !damaged && nft::table_exists(&self.socket.lock().expect("an exchange does not panic"), &self.table)? {
            return Ok(false);
        }
        let written = self.write_all(&mut state);
        self.seen.damaged.store(written.is_err(), Ordering::Release);
        written.map(|()| true)
    }

    /// Removes the table; absent is fine.
    pub fn remove(&self) -> Result<()> {
        let mut state = self.state.lock().expect("a change does not panic");
        *state = State::default();
        let mut transaction = Transaction::new(&self.table);
        transaction.delete_table();
        transaction.commit(&self.socket.lock().expect("an exchange does not panic"))
    }

    /// A change of elements, and of the chains that go with them. When the table or what should be in it is gone, `state`,
    /// which has the change already, is written whole.
    fn change(&self, state: &mut State, write: impl FnOnce(&mut Transaction<'_>, &mut Chains)) -> Result<()> {
        let mut transaction = Transaction::new(&self.table);
        let mut chains = state.chains;
        write(&mut transaction, &mut chains);
        if transaction.is_empty() {
            return Ok(());
        }
        let committed = transaction.commit(&self.socket.lock().expect("an exchange does not panic"));
        match committed {
            Err(Error::Kernel { source, .. }) if Errno::from_io_error(&source) == Some(Errno::NOENT) => self.write_all(state),
            result => result.map(|()| state.chains = chains),
        }
    }

    fn write_all(&self, state: &mut State) -> Result<()> {
        let mut transaction = Transaction::new(&self.table);
        transaction.fresh_table();
        for (id, set) in (1..).zip(&rules::sets()) {
            transaction.set(set, id);
        }
        for (set, network) in [("loopback4", "127.0.0.0/8"), ("loopback6", "::1/128")] {
            transaction.add(set, &range(&network.parse().expect("the text is a network"), None));
        }
        rules::write_rewriting(&mut transaction);
        rules::write_filters(&mut transaction, self.config.direct_routing);
        if self.seen.passed.load(Ordering::Acquire) {
            rules::write_passing(&mut transaction);
        }
        let bridges = state.bridges.values().flat_map(BridgeRules::elements);
        let mut chains = Chains::default();
        for (set, elements) in bridges.chain(by_set(state.ports.iter().map(|(port, way)| (*port, *way)))) {
            chains.write_for(set, &mut transaction);
            transaction.add(set, &elements);
        }
        let committed = transaction.commit(&self.socket.lock().expect("an exchange does not panic"));
        committed.map(|()| state.chains = chains)
    }
}

fn by_set(ports: impl Iterator<Item = (PortMap, Way)>) -> BTreeMap<&'static str, Vec<Element>> {
    let mut sets: BTreeMap<&'static str, Vec<Element>> = BTreeMap::new();
    for (port, way) in ports {
        let from_all = match way.from_all {
            FromAll::Rewritten => port.rewritten(),
            FromAll::Opened => Some(port.opened()),
            FromAll::Served => None,
        };
        for (set, element) in from_all.into_iter().chain(way.direct.then(|| port.direct())) {
            let elements = sets.entry(set).or_default();
            if !way.is_shared() || !elements.contains(&element) {
                elements.push(element);
            }
        }
    }
    sets
}

/// Lets the host forward packets, as containers' networks need; written only where it is off. A host that forwards IPv6
/// takes no more routes from advertisements, unless its links are told to: then they are, those that took them before.
pub fn enable_forwarding(ipv6: bool) -> Result<()> {
    let is_off = |path: &str| {
        let read = std::fs::read(path).map_err(|source| Error::File { action: "read", path: path.to_owned(), source });
        read.map(|text| text.starts_with(b"0"))
    };
    let write = |path: &str, value: &str| {
        std::fs::write(path, value).map_err(|source| Error::File { action: "write", path: path.to_owned(), source })
    };
    const IPV4: &str = "/proc/sys/net/ipv4/ip_forward";
    const IPV6: &str = "/proc/sys/net/ipv6/conf/all/forwarding";
    if is_off(IPV4)? {
        write(IPV4, "1")?;
    }
    if ipv6 && is_off(IPV6)? {
        let links = std::fs::read_dir("/proc/sys/net/ipv6/conf").into_iter().flatten().flatten();
        for link in links.filter(|link| !matches!(link.file_name().to_str(), Some("all" | "default" | "lo"))) {
            let path = link.path().join("accept_ra");
            // A link may go at any time.
            if std::fs::read(&path).is_ok_and(|text| text.starts_with(b"1")) {
                std::fs::write(&path, "2").ok();
            }
        }
        write(IPV6, "1")?;
    }
    Ok(())
}
