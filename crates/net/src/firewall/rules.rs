//! The sets, chains and rules of the engine's table, see [`super`].
//!
//! What a packet of an established connection meets is what a container's requests cost: the tracking of connections, which
//! the rewriting needs, and `forward`, whose first rule is for it. Chains that few hosts need hang at their hook only once
//! something is there that they ask for, see [`Chains`].

use crate::nft::Expression;
use crate::nft::{self, Set, Transaction, kind};
use crate::passage;

/// Which of the chains that are made on demand are there. None of them goes before the table is written anew.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chains {
    raw: bool,
    input: bool,
}

impl Chains {
    /// Makes the chain that looks into a set which is about to get its first elements.
    pub fn write_for(&mut self, set: &str, transaction: &mut Transaction<'_>) {
        match set {
            "local4" if !self.raw => {
                write_raw(transaction);
                self.raw = true;
            }
            "sealed" if !self.input => {
                write_input(transaction);
                self.input = true;
            }
            _ => {}
        }
    }
}

/// Who asks for a port published on 127.0.0.1 from elsewhere. The kernel drops that by itself, unless somebody has set
/// route_localnet.
fn write_raw(transaction: &mut Transaction<'_>) {
    use Expression::{Drop, In, IsFamily, LoadDestination, LoadPort, LoadProtocol, NotFrom, ToLoopback};
    transaction.chain("raw", nft::RAW);
    let to = [LoadDestination { family: nft::IPV4, register: 1 }, LoadProtocol { register: 9 }, LoadPort { register: 10 }];
    // Every packet of the host comes here: most are through after one byte.
    transaction.rule("raw", &[IsFamily(nft::IPV4), ToLoopback, NotFrom("lo"), to[0], to[1], to[2], In("local4"), Drop]);
}

fn write_input(transaction: &mut Transaction<'_>) {
    use Expression::{Drop, In, LoadInName, StateIs};
    const NEW: u32 = 8;
    transaction.chain("input", nft::INPUT);
    transaction.rule("input", &[LoadInName { register: 1 }, In("sealed"), StateIs(NEW), Drop]);
}

const fn set(name: &'static str, key_kind: u32, key_length: u32) -> Set {
    Set { name, key_kind, key_length, data: None, interval: false }
}

/// The sets and maps.
pub(super) fn sets() -> Vec<Set> {
    let subnets = |name, kind, length| Set { interval: true, ..set(name, kind, length) };
    let map = |name, keys: &[u32], key_length, address: u32, data_length| Set {
        data: Some((kind::concat(&[address, kind::PORT]), data_length)),
        ..set(name, kind::concat(keys), key_length)
    };
    let snat = |name, kind, length| Set { data: Some((kind, length)), ..subnets(name, kind, length) };
    let open = |name, address, length| set(name, kind::concat(&[address, kind::PROTOCOL, kind::PORT]), length);
    vec![
        set("bridges", kind::IFNAME, 16),
        set("internal", kind::IFNAME, 16),
        set("sealed", kind::IFNAME, 16),
        set("quiet", kind::IFNAME, 16),
        set("pairs", kind::concat(&[kind::IFNAME, kind::IFNAME]), 32),
        subnets("subnets4", kind::IPV4, 4),
        subnets("subnets6", kind::IPV6, 16),
        subnets("routed4", kind::IPV4, 4),
        subnets("routed6", kind::IPV6, 16),
        subnets("unprotected4", kind::IPV4, 4),
        subnets("unprotected6", kind::IPV6, 16),
        subnets("masq4", kind::IPV4, 4),
        subnets("masq6", kind::IPV6, 16),
        snat("snat4", kind::IPV4, 4),
        snat("snat6", kind::IPV6, 16),
        open("open4", kind::IPV4, 12),
        open("open6", kind::IPV6, 24),
        open("direct4", kind::IPV4, 12),
        open("direct6", kind::IPV6, 24),
        set("trusted", kind::concat(&[kind::IFNAME, kind::IFNAME]), 32),
        open("local4", kind::IPV4, 12),
        subnets("loopback4", kind::IPV4, 4),
        subnets("loopback6", kind::IPV6, 16),
        map("any4", &[kind::PROTOCOL, kind::PORT], 8, kind::IPV4, 8),
        map("any6", &[kind::PROTOCOL, kind::PORT], 8, kind::IPV6, 20),
        map("addr4", &[kind::IPV4, kind::PROTOCOL, kind::PORT], 12, kind::IPV4, 8),
        map("addr6", &[kind::IPV6, kind::PROTOCOL, kind::PORT], 24, kind::IPV6, 20),
    ]
}

/// The chains that rewrite; only a connection's first packet comes to them.
pub(super) fn write_rewriting(transaction: &mut Transaction<'_>) {
    use Expression::{
        Accept, In, IsFamily, LoadDestination, LoadInName, LoadOutName, LoadPort, LoadProtocol, LoadSource, Map, Masquerade, NotIn,
        RewriteDestination, RewriteSource, ToThisHost, WasRewritten,
    };
    for (chain, hook) in [("prerouting", nft::DNAT_FROM_OUTSIDE), ("output", nft::DNAT_FROM_HOST)] {
        transaction.chain(chain, hook);
        if chain == "prerouting" {
            // With br_netfilter a packet rewritten to a neighbour does not leave the bridge, whose ports are isolated from
            // each other there: the sockets that hold the ports serve it.
            transaction.rule(chain, &[LoadInName { register: 1 }, In("quiet"), Accept]);
        }
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
    for (family, subnets, snat, masquerade) in [(nft::IPV4, "subnets4", "snat4", "masq4"), (nft::IPV6, "subnets6", "snat6", "masq6")] {
        let source = LoadSource { family, register: 1 };
        // A container that reaches itself or a neighbour by a published port: the answer must come back through here.
        transaction.rule("postrouting", &[IsFamily(family), source, In(subnets), WasRewritten, Masquerade]);
        let outside = [LoadOutName { register: 1 }, NotIn("bridges")];
        transaction.rule("postrouting", &[IsFamily(family), outside[0], outside[1], source, Map(snat), RewriteSource { family }]);
        transaction.rule("postrouting", &[IsFamily(family), source, In(masquerade), outside[0], outside[1], Masquerade]);
    }
}

/// The chain that decides about every packet from or to a bridge; `direct_routing` trusts all links that are no bridges of ours.
pub(super) fn write_filters(transaction: &mut Transaction<'_>, direct_routing: bool) {
    use Expression::{
        Accept, Drop, In, IsFamily, IsProtocol, LoadDestination, LoadInName, LoadOutName, LoadPort, LoadProtocol, NotIn, StateIs,
        WasRewritten,
    };
    const ESTABLISHED_OR_RELATED: u32 = 6;
    const ICMP: u8 = 1;
    const ICMPV6: u8 = 58;
    transaction.chain("forward", nft::FORWARD);
    transaction.rule("forward", &[StateIs(ESTABLISHED_OR_RELATED), Accept]);
    let to_bridge = [LoadOutName { register: 1 }, In("bridges")];
    transaction.rule(
        "forward",
        &[LoadInName { register: 1 }, In("internal"), LoadInName { register: 1 }, LoadOutName { register: 2 }, NotIn("pairs"), Drop],
    );
    transaction.rule("forward", &[to_bridge[0], to_bridge[1], WasRewritten, Accept]);
    transaction.rule("forward", &[LoadInName { register: 1 }, LoadOutName { register: 2 }, In("pairs"), Accept]);
    for (family, after, open, routed, unprotected, icmp) in
        [(nft::IPV4, 9, "open4", "routed4", "unprotected4", ICMP), (nft::IPV6, 12, "open6", "routed6", "unprotected6", ICMPV6)]
    {
        let destination = LoadDestination { family, register: 1 };
        let loads = [LoadProtocol { register: after }, LoadPort { register: after + 1 }];
        transaction.rule("forward", &[IsFamily(family), destination, loads[0], loads[1], In(open), Accept]);
        transaction.rule("forward", &[IsFamily(family), IsProtocol(icmp), destination, In(routed), Accept]);
        let from_outside = [LoadInName { register: 1 }, NotIn("bridges")];
        transaction.rule("forward", &[IsFamily(family), destination, In(unprotected), from_outside[0], from_outside[1], Accept]);
    }
    // Networks do not reach each other, whatever is trusted.
    let from_outside = [LoadInName { register: 1 }, NotIn("bridges")];
    let pair = [LoadInName { register: 1 }, LoadOutName { register: 2 }, In("trusted")];
    let trusted = if direct_routing { &[][..] } else { &pair };
    for (family, after, direct) in [(nft::IPV4, 9, "direct4"), (nft::IPV6, 12, "direct6")] {
        let end = [LoadDestination { family, register: 1 }, LoadProtocol { register: after }, LoadPort { register: after + 1 }];
        let whole = [&from_outside[..], trusted, &[IsFamily(family)], &end, &[In(direct), Accept]].concat();
        transaction.rule("forward", &whole);
    }
    transaction.rule("forward", &[to_bridge[0], to_bridge[1], Drop]);
}

/// The mark.
pub(super) fn write_passing(transaction: &mut Transaction<'_>) {
    use Expression::{Accept, In, LoadInName, LoadOutName, SetMark};
    transaction.chain("passing", nft::BEFORE_FORWARD);
    for load in [LoadInName { register: 1 }, LoadOutName { register: 1 }] {
        transaction.rule("passing", &[load, In("bridges"), SetMark(passage::MARK), Accept]);
    }
}
