//! What may pass between containers, host and world: one nf_tables table of the engine, never another's.
//!
//! ```text
//! prerouting, output   addr4/6: address . protocol . port → address . port     a port published on one host address
//!                      any4/6:  protocol . port → address . port                on all of them
//! postrouting          from subnets4/6 after a rewrite, or from masq4/6 to outside: masquerade
//! forward              established: accept
//!                      to a bridge: published, or between a pair of bridges: accept, else drop
//!                      from an internal bridge: drop
//! ```
//!
//! A bridge or a port is an element or a few of these sets, added or deleted in one transaction; the rules are written
//! once. What goes through no bridge of ours is not touched. 127.0.0.1 and ::1 are not rewritten (that would need
//! `route_localnet`, which opens the host's loopback services to containers): they are served by the sockets that hold
//! the ports, see [`crate::ports`] and [`crate::proxy`]. The table can be removed by others at any time; the state is
//! kept here, and [`Firewall::repair`] makes everything anew.

use crate::address::{IpNet, LinkName, Protocol, number_to_ip, octets};
use crate::error::{Error, Result};
use crate::netlink::Socket;
use crate::nft::{self, Element, Expression, Set, Transaction, kind};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;

/// How a network's bridge may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeRules {
    /// The bridge.
    pub name: LinkName,
    /// The subnets of its containers.
    pub subnets: Vec<IpNet>,
    /// Give packets to the outside the host's address.
    pub masquerade: bool,
    /// Containers may talk to each other.
    pub icc: bool,
    /// Nothing passes to or from the outside.
    pub internal: bool,
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

    /// The set and element for it; none for what only the proxy serves: loopback, and IPv6 to IPv4.
    fn element(&self) -> Option<(&'static str, Element)> {
        if self.host_ip.is_loopback() || self.host_ip.is_ipv4() != self.container_ip.is_ipv4() {
            return None;
        }
        let padded = |parts: &[&[u8]]| {
            let mut key = Vec::new();
            for part in parts {
                key.extend_from_slice(part);
                key.resize(key.len().next_multiple_of(4), 0);
            }
            key
        };
        let (protocol, port) = ([self.protocol.number()], self.host_port.to_be_bytes());
        let host = octets(self.host_ip);
        let (set, key) = match (self.host_ip.is_ipv4(), self.host_ip.is_unspecified()) {
            (true, true) => ("any4", padded(&[&protocol, &port])),
            (false, true) => ("any6", padded(&[&protocol, &port])),
            (true, false) => ("addr4", padded(&[&host, &protocol, &port])),
            (false, false) => ("addr6", padded(&[&host, &protocol, &port])),
        };
        let data = padded(&[&octets(self.container_ip), &self.container_port.to_be_bytes()]);
        Some((set, Element { key, data: Some(data), range_end: false }))
    }
}

impl BridgeRules {
    fn elements(&self) -> Vec<(&'static str, Vec<Element>)> {
        let plain = |key: Vec<u8>| Element { key, data: None, range_end: false };
        let name = self.name.padded().to_vec();
        let mut sets = vec![("bridges", vec![plain(name.clone())])];
        if self.internal {
            sets.push(("internal", vec![plain(name.clone())]));
        }
        if self.icc {
            sets.push(("pairs", vec![plain([name.as_slice(), name.as_slice()].concat())]));
        }
        for subnet in &self.subnets {
            let (all, masquerade) = if subnet.is_ipv4() { ("subnets4", "masq4") } else { ("subnets6", "masq6") };
            sets.push((all, range(subnet)));
            if self.masquerade && !self.internal {
                sets.push((masquerade, range(subnet)));
            }
        }
        sets
    }
}

/// A subnet as two ends; one that reaches to the last address has no second.
fn range(subnet: &IpNet) -> Vec<Element> {
    let key = |number| octets(number_to_ip(number, subnet.is_ipv4()));
    let mut ends = vec![Element { key: key(subnet.first()), data: None, range_end: false }];
    let most = if subnet.is_ipv4() { u128::from(u32::MAX) } else { u128::MAX };
    if subnet.last() < most {
        ends.push(Element { key: key(subnet.last() + 1), data: None, range_end: true });
    }
    ends
}

#[derive(Debug, Default)]
struct State {
    bridges: BTreeMap<LinkName, BridgeRules>,
    ports: BTreeSet<PortMap>,
}

/// The engine's table.
#[derive(Debug)]
pub struct Firewall {
    table: String,
    socket: Mutex<Socket>,
    state: Mutex<State>,
}

const fn set(name: &'static str, key_kind: u32, key_length: u32) -> Set {
    Set { name, key_kind, key_length, data: None, interval: false }
}

fn sets() -> Vec<Set> {
    let subnets = |name, kind, length| Set { interval: true, ..set(name, kind, length) };
    let map = |name, keys: &[u32], key_length, address: u32, data_length| Set {
        data: Some((kind::concat(&[address, kind::PORT]), data_length)),
        ..set(name, kind::concat(keys), key_length)
    };
    vec![
        set("bridges", kind::IFNAME, 16),
        set("internal", kind::IFNAME, 16),
        set("pairs", kind::concat(&[kind::IFNAME, kind::IFNAME]), 32),
        subnets("subnets4", kind::IPV4, 4),
        subnets("subnets6", kind::IPV6, 16),
        subnets("masq4", kind::IPV4, 4),
        subnets("masq6", kind::IPV6, 16),
        map("any4", &[kind::PROTOCOL, kind::PORT], 8, kind::IPV4, 8),
        map("any6", &[kind::PROTOCOL, kind::PORT], 8, kind::IPV6, 20),
        map("addr4", &[kind::IPV4, kind::PROTOCOL, kind::PORT], 12, kind::IPV4, 8),
        map("addr6", &[kind::IPV6, kind::PROTOCOL, kind::PORT], 24, kind::IPV6, 20),
    ]
}

fn write_rules(transaction: &mut Transaction<'_>) {
    use Expression::{
        Accept, Drop, In, IsFamily, LoadDestination, LoadInName, LoadOutName, LoadPort, LoadProtocol, LoadSource, Map, Masquerade, NotIn,
        RewriteDestination, StateIs, ToThisHost, WasRewritten,
    };
    const ESTABLISHED_OR_RELATED: u32 = 6;
    for (chain, hook) in [("prerouting", nft::DNAT_FROM_OUTSIDE), ("output", nft::DNAT_FROM_HOST)] {
        transaction.chain(chain, hook);
        // An address fills register 8 (IPv4) or 8 to 11 (IPv6); what a map yields has the port right after it.
        for (family, after, addr, any) in [(nft::IPV4, 9, "addr4", "any4"), (nft::IPV6, 12, "addr6", "any6")] {
            let rewrite = RewriteDestination { family, address: 1, port: after };
            let loads = [LoadDestination { family, register: 1 }, LoadProtocol { register: after }, LoadPort { register: after + 1 }];
            transaction.rule(chain, &[IsFamily(family), loads[0], loads[1], loads[2], Map(addr), rewrite]);
            let loads = [LoadProtocol { register: 8 }, LoadPort { register: 9 }];
            // 127.0.0.1 is an address of this host too: packets from it could not leave by a bridge.
            let not_loopback = if family == nft::IPV4 { "loopback4" } else { "loopback6" };
            let from = [LoadDestination { family, register: 1 }, NotIn(not_loopback)];
            transaction.rule(chain, &[IsFamily(family), ToThisHost, from[0], from[1], loads[0], loads[1], Map(any), rewrite]);
        }
    }
    transaction.chain("postrouting", nft::SNAT);
    for (family, subnets, masquerade) in [(nft::IPV4, "subnets4", "masq4"), (nft::IPV6, "subnets6", "masq6")] {
        let source = LoadSource { family, register: 1 };
        // A container that reaches itself or a neighbour by a published port: the answer must come back through here.
        transaction.rule("postrouting", &[IsFamily(family), source, In(subnets), WasRewritten, Masquerade]);
        transaction
            .rule("postrouting", &[IsFamily(family), source, In(masquerade), LoadOutName { register: 1 }, NotIn("bridges"), Masquerade]);
    }
    transaction.chain("forward", nft::FORWARD);
    transaction.rule("forward", &[StateIs(ESTABLISHED_OR_RELATED), Accept]);
    let to_bridge = [LoadOutName { register: 1 }, In("bridges")];
    transaction.rule(
        "forward",
        &[LoadInName { register: 1 }, In("internal"), LoadInName { register: 1 }, LoadOutName { register: 2 }, NotIn("pairs"), Drop],
    );
    transaction.rule("forward", &[to_bridge[0], to_bridge[1], WasRewritten, Accept]);
    transaction.rule("forward", &[LoadInName { register: 1 }, LoadOutName { register: 2 }, In("pairs"), Accept]);
    transaction.rule("forward", &[to_bridge[0], to_bridge[1], Drop]);
}

impl Firewall {
    /// The firewall of an engine; `table` is its name. Nothing is changed before [`Firewall::ensure`].
    pub fn open(table: &str) -> Result<Firewall> {
        Ok(Firewall { table: table.to_owned(), socket: Mutex::new(Socket::netfilter()?), state: Mutex::new(State::default()) })
    }

    /// Makes the table anew from what is known: at the start of the engine after all bridges and ports of the
    /// containers that still run were given to [`Firewall::restore`].
    pub fn ensure(&self) -> Result<()> {
        let state = self.state.lock().expect("a change does not panic");
        self.write_all(&state)
    }

    /// Takes bridges and ports up again after a restart of the engine, in one transaction.
    pub fn restore(&self, bridges: Vec<BridgeRules>, ports: Vec<PortMap>) -> Result<()> {
        let mut state = self.state.lock().expect("a change does not panic");
        let new = State {
            bridges: bridges.into_iter().map(|bridge| (bridge.name.clone(), bridge)).collect(),
            ports: ports.into_iter().collect(),
        };
        self.write_all(&new)?;
        *state = new;
        Ok(())
    }

    /// Adds a network's bridge; one that is there is replaced.
    pub fn add_bridge(&self, rules: BridgeRules) -> Result<()> {
        let mut state = self.state.lock().expect("a change does not panic");
        let old = state.bridges.insert(rules.name.clone(), rules.clone());
        if old.as_ref() == Some(&rules) {
            return Ok(());
        }
        let changed = self.change(&state, |transaction| {
            for (set, elements) in old.iter().flat_map(BridgeRules::elements) {
                transaction.delete(set, &elements);
            }
            for (set, elements) in rules.elements() {
                transaction.add(set, &elements);
            }
        });
        if changed.is_err() {
            state.bridges.remove(&rules.name);
            state.bridges.extend(old.map(|old| (old.name.clone(), old)));
        }
        changed
    }

    /// Removes a network's bridge; absent is fine.
    pub fn remove_bridge(&self, name: &LinkName) -> Result<()> {
        let mut state = self.state.lock().expect("a change does not panic");
        let Some(old) = state.bridges.remove(name) else { return Ok(()) };
        self.change(&state, |transaction| {
            for (set, elements) in old.elements() {
                transaction.delete(set, &elements);
            }
        })
    }

    /// Publishes ports, all or none.
    pub fn publish(&self, ports: &[PortMap]) -> Result<()> {
        let mut state = self.state.lock().expect("a change does not panic");
        let new: Vec<PortMap> = ports.iter().filter(|port| !state.ports.contains(port)).copied().collect();
        state.ports.extend(&new);
        let changed = self.change(&state, |transaction| {
            for (set, elements) in by_set(&new) {
                transaction.add(set, &elements);
            }
        });
        if changed.is_err() {
            for port in &new {
                state.ports.remove(port);
            }
        }
        changed
    }

    /// Takes ports back; absent ones are fine.
    pub fn unpublish(&self, ports: &[PortMap]) -> Result<()> {
        let mut state = self.state.lock().expect("a change does not panic");
        let old: Vec<PortMap> = ports.iter().filter(|port| state.ports.remove(port)).copied().collect();
        self.change(&state, |transaction| {
            for (set, elements) in by_set(&old) {
                transaction.delete(set, &elements);
            }
        })
    }

    /// Makes everything anew when the table is gone (`nft flush ruleset`, firewalld); true when it was.
    pub fn repair(&self) -> Result<bool> {
        let state = self.state.lock().expect("a change does not panic");
        if nft::table_exists(&self.socket.lock().expect("an exchange does not panic"), &self.table)? {
            return Ok(false);
        }
        self.write_all(&state)?;
        Ok(true)
    }

    /// Removes the table; absent is fine.
    pub fn remove(&self) -> Result<()> {
        let mut state = self.state.lock().expect("a change does not panic");
        *state = State::default();
        let mut transaction = Transaction::new(&self.table);
        transaction.delete_table();
        transaction.commit(&self.socket.lock().expect("an exchange does not panic"))
    }

    /// A change of elements. When the table or what should be in it is gone, `state`, which has the change already, is
    /// written whole.
    fn change(&self, state: &State, write: impl FnOnce(&mut Transaction<'_>)) -> Result<()> {
        let mut transaction = Transaction::new(&self.table);
        write(&mut transaction);
        let committed = transaction.commit(&self.socket.lock().expect("an exchange does not panic"));
        match committed {
            Err(Error::Kernel { source, .. }) if Errno::from_io_error(&source) == Some(Errno::NOENT) => self.write_all(state),
            result => result,
        }
    }

    fn write_all(&self, state: &State) -> Result<()> {
        let mut transaction = Transaction::new(&self.table);
        transaction.fresh_table();
        let loopback =
            [Set { interval: true, ..set("loopback4", kind::IPV4, 4) }, Set { interval: true, ..set("loopback6", kind::IPV6, 16) }];
        for (id, set) in (1..).zip(sets().iter().chain(&loopback)) {
            transaction.set(set, id);
        }
        for (set, network) in [("loopback4", "127.0.0.0/8"), ("loopback6", "::1/128")] {
            transaction.add(set, &range(&network.parse().expect("the text is a network")));
        }
        write_rules(&mut transaction);
        for bridge in state.bridges.values() {
            for (set, elements) in bridge.elements() {
                transaction.add(set, &elements);
            }
        }
        let ports: Vec<PortMap> = state.ports.iter().copied().collect();
        for (set, elements) in by_set(&ports) {
            transaction.add(set, &elements);
        }
        transaction.commit(&self.socket.lock().expect("an exchange does not panic"))
    }
}

fn by_set(ports: &[PortMap]) -> BTreeMap<&'static str, Vec<Element>> {
    let mut sets: BTreeMap<&'static str, Vec<Element>> = BTreeMap::new();
    for (set, element) in ports.iter().filter_map(PortMap::element) {
        sets.entry(set).or_default().push(element);
    }
    sets
}

/// Lets the host forward packets, as containers' networks need; written only where it is off.
pub fn enable_forwarding(ipv6: bool) -> Result<()> {
    let mut files = vec!["/proc/sys/net/ipv4/ip_forward"];
    if ipv6 {
        files.push("/proc/sys/net/ipv6/conf/all/forwarding");
    }
    for path in files {
        let fail = |action| move |source| Error::File { action, path: path.to_owned(), source };
        if std::fs::read(path).map_err(fail("read"))?.starts_with(b"0") {
            std::fs::write(path, "1").map_err(fail("write"))?;
        }
    }
    Ok(())
}
