//! nf_tables' messages: tables, chains, sets, elements and rules as netlink requests of one transaction.
//!
//! Only what the firewall needs is here. Registers: 1 and 2 are 16 bytes each, 8 and on are 4 bytes each; 1 and 8 are
//! the same place.

use crate::address::Protocol;
use crate::error::Result;
use crate::netlink::{Batch, Socket, attributes, flags};
use std::net::Ipv4Addr;

pub(crate) const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEW_TABLE: u16 = SUBSYSTEM;
const GET_TABLE: u16 = SUBSYSTEM | 1;
pub(crate) const DELETE_TABLE: u16 = SUBSYSTEM | 2;
pub(crate) const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const GET_CHAIN: u16 = SUBSYSTEM | 4;
pub(crate) const DELETE_CHAIN: u16 = SUBSYSTEM | 5;
pub(crate) const NEW_RULE: u16 = SUBSYSTEM | 6;
pub(crate) const GET_RULE: u16 = SUBSYSTEM | 7;
pub(crate) const DELETE_RULE: u16 = SUBSYSTEM | 8;
const NEW_SET: u16 = SUBSYSTEM | 9;
const NEW_ELEMENT: u16 = SUBSYSTEM | 12;
const DELETE_ELEMENT: u16 = SUBSYSTEM | 14;

/// NFPROTO_INET: rules of one table for IPv4 and IPv6.
pub(crate) const INET: u8 = 1;
pub(crate) const IPV4: u8 = 2;
pub(crate) const IPV6: u8 = 10;

/// nft's numbers of data types; the kernel does not look at them, `nft list` does.
pub(crate) mod kind {
    pub const IPV4: u32 = 7;
    pub const IPV6: u32 = 8;
    pub const PROTOCOL: u32 = 12;
    pub const PORT: u32 = 13;
    pub const IFNAME: u32 = 41;

    /// A concatenation of types.
    pub fn concat(kinds: &[u32]) -> u32 {
        kinds.iter().fold(0, |whole, kind| whole << 6 | kind)
    }
}

/// A hook a chain hangs at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hook {
    pub kind: &'static str,
    pub number: u32,
    pub priority: i32,
}

pub(crate) const DNAT_FROM_OUTSIDE: Hook = Hook { kind: "nat", number: 0, priority: -100 };
pub(crate) const DNAT_FROM_HOST: Hook = Hook { kind: "nat", number: 3, priority: -100 };
pub(crate) const SNAT: Hook = Hook { kind: "nat", number: 4, priority: 100 };
/// Before connections are tracked.
pub(crate) const RAW: Hook = Hook { kind: "filter", number: 0, priority: -300 };
pub(crate) const INPUT: Hook = Hook { kind: "filter", number: 1, priority: 0 };
/// Before the chains in which others filter, at 0 or later.
pub(crate) const BEFORE_FORWARD: Hook = Hook { kind: "filter", number: 2, priority: -10 };
pub(crate) const FORWARD: Hook = Hook { kind: "filter", number: 2, priority: 0 };

/// Before connections are tracked, of what is sent from here.
pub(crate) const BEFORE_TRACKING_OUT: Hook = Hook { kind: "filter", number: 3, priority: -300 };
/// After all filters, of what arrives here.
pub(crate) const LAST_IN: Hook = Hook { kind: "filter", number: 1, priority: 300 };

/// One of the two ends of a packet's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Source,
    Destination,
}

/// A set or map.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Set {
    pub name: &'static str,
    pub key_kind: u32,
    pub key_length: u32,
    /// Type and length of the data of a map.
    pub data: Option<(u32, u32)>,
    /// Keys are ends of ranges.
    pub interval: bool,
}

/// An element: a key, and the data of a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Element {
    pub key: Vec<u8>,
    pub data: Option<Vec<u8>>,
    /// The key is the first that is no longer in the range.
    pub range_end: bool,
}

/// A part of a rule.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Expression {
    /// Family of the packet, into register 1.
    IsFamily(u8),
    /// The source address.
    LoadSource {
        family: u8,
        register: u32,
    },
    /// The destination address.
    LoadDestination {
        family: u8,
        register: u32,
    },
    /// The source of an IPv4 packet is this address.
    SourceIs(Ipv4Addr),
    /// The destination of an IPv4 packet is this address.
    DestinationIs(Ipv4Addr),
    /// The port of that end is this one.
    PortIs {
        end: End,
        port: u16,
    },
    /// Writes a port into the packet, and what it changes of the checksum.
    SetPort {
        end: End,
        port: u16,
        protocol: Protocol,
    },
    /// Number of the transport protocol.
    LoadProtocol {
        register: u32,
    },
    /// Destination port of tcp, udp or sctp.
    LoadPort {
        register: u32,
    },
    /// The transport protocol is this one.
    IsProtocol(u8),
    /// The packet did not come by this link.
    NotFrom(&'static str),
    /// Name of the link the packet came by.
    LoadInName {
        register: u32,
    },
    /// Name of the link the packet leaves by.
    LoadOutName {
        register: u32,
    },
    /// The destination is an address of this host.
    ToThisHost,
    /// The destination is in 127.0.0.0/8, of an IPv4 packet.
    ToLoopback,
    /// The connection's state is one of these bits.
    StateIs(u32),
    /// The connection's destination was rewritten.
    WasRewritten,
    /// Register 1 is in the set.
    In(&'static str),
    /// Register 1 is not in the set.
    NotIn(&'static str),
    /// Looks register 1 up in a map; the value replaces it.
    Map(&'static str),
    /// Rewrites the destination: address and port from registers.
    RewriteDestination {
        family: u8,
        address: u32,
        port: u32,
    },
    /// Rewrites the source to the address in register 1.
    RewriteSource {
        family: u8,
    },
    /// Rewrites the source to that of the link the packet leaves by.
    Masquerade,
    /// Adds this bit to the packet's mark.
    SetMark(u32),
    /// The packet's mark has this bit.
    IsMarked(u32),
    Accept,
    Drop,
}

/// A transaction on one table.
#[derive(Debug)]
pub(crate) struct Transaction<'a> {
    table: &'a str,
    batch: Batch,
}

pub(crate) fn header(family: u8, resource: u16) -> [u8; 4] {
    let resource = resource.to_be_bytes();
    [family, 0, resource[0], resource[1]]
}

impl<'a> Transaction<'a> {
    pub fn new(table: &'a str) -> Self {
        Transaction { table, batch: begin(table) }
    }

    /// Nothing but its beginning.
    pub fn is_empty(&self) -> bool {
        self.batch.len() == 1
    }

    fn begin(&mut self, kind: u16, flags: u16, action: &'static str, object: &str) {
        self.batch.begin(kind, flags, action, format!("{object} of nftables table {}", self.table), &header(INET, 0));
        self.batch.text(1, self.table);
    }

    /// Removes the table with everything in it and makes it anew, empty.
    pub fn fresh_table(&mut self) {
        // Made first, so that there is something to remove.
        self.begin(NEW_TABLE, flags::CREATE, "make", "the table");
        self.begin(DELETE_TABLE, 0, "remove", "the table");
        self.begin(NEW_TABLE, flags::CREATE, "make", "the table");
    }

    /// Makes the table, which must not exist. Removing one costs a grace period of the kernel, which is longer than all
    /// the rest together.
    pub fn new_table(&mut self) {
        self.begin(NEW_TABLE, flags::CREATE | flags::EXCL, "make", "the table");
    }

    pub fn delete_table(&mut self) {
        self.begin(NEW_TABLE, flags::CREATE, "make", "the table");
        self.begin(DELETE_TABLE, 0, "remove", "the table");
    }

    pub fn chain(&mut self, name: &str, hook: Hook) {
        self.begin(NEW_CHAIN, flags::CREATE, "make", name);
        self.batch.text(3, name);
        self.batch.nest(4, |b| {
            b.be32(1, hook.number);
            b.be32(2, hook.priority.cast_unsigned());
        });
        self.batch.text(7, hook.kind);
    }

    pub fn set(&mut self, set: &Set, id: u32) {
        const INTERVAL: u32 = 4;
        const MAP: u32 = 8;
        self.begin(NEW_SET, flags::CREATE, "make", set.name);
        self.batch.text(2, set.name);
        let flags = if set.interval { INTERVAL } else { 0 } | if set.data.is_some() { MAP } else { 0 };
        self.batch.be32(3, flags);
        self.batch.be32(4, set.key_kind);
        self.batch.be32(5, set.key_length);
        if let Some((kind, length)) = set.data {
            self.batch.be32(6, kind);
            self.batch.be32(7, length);
        }
        self.batch.be32(10, id);
        if set.key_kind < 64 {
            // For `nft list` only: the byte order of keys, names being in the host's.
            let order: u32 = if set.key_kind == kind::IFNAME { 1 } else { 2 };
            self.batch.attribute(13, &[&[0, 4][..], &order.to_ne_bytes()].concat());
        }
    }

    pub fn add(&mut self, set: &str, elements: &[Element]) {
        self.elements(NEW_ELEMENT, flags::CREATE, "add to", set, elements);
    }

    pub fn delete(&mut self, set: &str, elements: &[Element]) {
        self.elements(DELETE_ELEMENT, 0, "delete from", set, elements);
    }

    fn elements(&mut self, kind: u16, flags: u16, action: &'static str, set: &str, elements: &[Element]) {
        // A list's length has 16 bits.
        for elements in elements.chunks(500) {
            self.begin(kind, flags, action, set);
            self.batch.text(2, set);
            self.batch.nest(3, |b| {
                for element in elements {
                    b.nest(1, |b| {
                        if element.range_end {
                            b.be32(3, 1);
                        }
                        b.nest(1, |b| b.attribute(1, &element.key));
                        if let Some(data) = &element.data {
                            b.nest(2, |b| b.attribute(1, data));
                        }
                    });
                }
            });
        }
    }

    pub fn rule(&mut self, chain: &str, expressions: &[Expression]) {
        self.begin(NEW_RULE, flags::CREATE | flags::APPEND, "add a rule to", chain);
        self.batch.text(2, chain);
        self.batch.nest(4, |b| write_all(b, expressions));
    }

    /// Carries everything out, or nothing.
    pub fn commit(self, socket: &Socket) -> Result<()> {
        commit(self.batch, socket, self.table)
    }
}

/// The beginning of a transaction; `table` names it in errors.
pub(crate) fn begin(table: &str) -> Batch {
    let mut batch = Batch::default();
    batch.begin(BATCH_BEGIN, 0, "begin a change of nftables", table, &header(0, SUBSYSTEM >> 8));
    batch
}

/// Carries a transaction out.
pub(crate) fn commit(mut batch: Batch, socket: &Socket, table: &str) -> Result<()> {
    // The last request's answer comes after the transaction has succeeded.
    batch.acknowledge();
    batch.begin(BATCH_END, 0, "end a change of nftables", table, &header(0, SUBSYSTEM >> 8));
    socket.request(batch).map(drop)
}

/// True when the table exists.
pub(crate) fn table_exists(socket: &Socket, table: &str) -> Result<bool> {
    let mut batch = Batch::default();
    batch.begin(GET_TABLE, flags::ACK, "look for nftables table", table, &header(INET, 0));
    batch.text(1, table);
    match socket.request(batch) {
        Ok(_) => Ok(true),
        Err(error) if error.errno() == Some(rustix::io::Errno::NOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A chain at the forward hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chain {
    pub family: u8,
    pub table: String,
    pub name: String,
    /// Drops what none of its rules accepts.
    pub drops: bool,
}

impl std::fmt::Display for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let family = match self.family {
            IPV4 => "ip",
            IPV6 => "ip6",
            _ => "inet",
        };
        write!(f, "{family} {} {}", self.table, self.name)
    }
}

impl Chain {
    /// From the kernel's message; `None` when it hangs elsewhere, or filters something else than IP.
    pub fn read(message: &[u8]) -> Option<Chain> {
        const TABLE: u16 = 1;
        const NAME: u16 = 3;
        const HOOK: u16 = 4;
        const POLICY: u16 = 5;
        let family = message.first().copied().filter(|family| [INET, IPV4, IPV6].contains(family))?;
        let text = |value: &[u8]| String::from_utf8_lossy(value.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned();
        let mut chain = Chain { family, table: String::new(), name: String::new(), drops: false };
        let mut is_forward = false;
        for (kind, value) in attributes(message.get(4..)?) {
            match kind {
                TABLE => chain.table = text(value),
                NAME => chain.name = text(value),
                HOOK => is_forward = attributes(value).any(|(kind, value)| kind == 1 && value == FORWARD.number.to_be_bytes()),
                POLICY => chain.drops = value == 0u32.to_be_bytes(),
                _ => {}
            }
        }
        is_forward.then_some(chain)
    }
}

/// All chains at the forward hook.
pub(crate) fn forward_chains(socket: &Socket) -> Result<Vec<Chain>> {
    let mut batch = Batch::default();
    batch.begin(GET_CHAIN, flags::DUMP, "list", "chains of nftables", &header(0, 0));
    Ok(socket.dump(batch)?.iter().filter_map(|answer| Chain::read(&answer.0)).collect())
}

fn expression(b: &mut Batch, name: &str, data: impl FnOnce(&mut Batch)) {
    b.nest(1, |b| {
        b.text(1, name);
        b.nest(2, data);
    });
}

fn compare(b: &mut Batch, register: u32, equal: bool, value: &[u8]) {
    expression(b, "cmp", |b| {
        b.be32(1, register);
        b.be32(2, u32::from(!equal));
        b.nest(3, |b| b.attribute(1, value));
    });
}

fn meta(b: &mut Batch, key: u32, register: u32) {
    expression(b, "meta", |b| {
        b.be32(2, key);
        b.be32(1, register);
    });
}

fn payload(b: &mut Batch, base: u32, offset: u32, length: u32, register: u32) {
    expression(b, "payload", |b| {
        b.be32(1, register);
        b.be32(2, base);
        b.be32(3, offset);
        b.be32(4, length);
    });
}

/// Where the port is in the headers of tcp, udp and sctp.
const fn port_offset(end: End) -> u32 {
    match end {
        End::Source => 0,
        End::Destination => 2,
    }
}

fn set_port(b: &mut Batch, offset: u32, port: u16, protocol: Protocol) {
    const TRANSPORT: u32 = 2;
    /// `NFT_PAYLOAD_CSUM_INET`.
    const SUM_OF_WORDS: u32 = 1;
    expression(b, "immediate", |b| {
        b.be32(1, 1);
        b.nest(2, |b| b.attribute(1, &port.to_be_bytes()));
    });
    expression(b, "payload", |b| {
        b.be32(5, 1);
        b.be32(2, TRANSPORT);
        b.be32(3, offset);
        b.be32(4, 2);
        let checksum = match protocol {
            Protocol::Tcp => 16,
            Protocol::Udp => 6,
            // Another kind of checksum, which the kernel does not mend.
            Protocol::Sctp => return,
        };
        b.be32(6, SUM_OF_WORDS);
        b.be32(7, checksum);
    });
}

fn has_bits(b: &mut Batch, ct_key: u32, bits: u32) {
    expression(b, "ct", |b| {
        b.be32(2, ct_key);
        b.be32(1, 1);
    });
    bitwise(b, bits, 0);
    compare(b, 1, false, &[0; 4]);
}

/// Register 1 and `and`, then exclusive or `xor`.
fn bitwise(b: &mut Batch, and: u32, xor: u32) {
    expression(b, "bitwise", |b| {
        b.be32(1, 1);
        b.be32(2, 1);
        b.be32(3, 4);
        // The register holds the host's byte order.
        b.nest(4, |b| b.attribute(1, &and.to_ne_bytes()));
        b.nest(5, |b| b.attribute(1, &xor.to_ne_bytes()));
    });
}

fn lookup(b: &mut Batch, set: &str, inverted: bool, into: Option<u32>) {
    expression(b, "lookup", |b| {
        b.text(1, set);
        b.be32(2, 1);
        if let Some(register) = into {
            b.be32(3, register);
        }
        if inverted {
            b.be32(5, 1);
        }
    });
}

fn verdict(b: &mut Batch, code: i32) {
    expression(b, "immediate", |b| {
        b.be32(1, 0);
        b.nest(2, |b| b.nest(2, |b| b.be32(1, code.cast_unsigned())));
    });
}

/// The parts of a rule.
pub(crate) fn write_all(b: &mut Batch, parts: &[Expression]) {
    parts.iter().for_each(|part| write(b, *part));
}

fn write(b: &mut Batch, part: Expression) {
    const MARK: u32 = 3;
    const NETWORK: u32 = 1;
    const TRANSPORT: u32 = 2;
    let address = |family| if family == IPV4 { (12, 4) } else { (8, 16) };
    match part {
        Expression::IsFamily(family) => {
            meta(b, 15, 1);
            compare(b, 1, true, &[family]);
        }
        Expression::LoadSource { family, register } => {
            let (offset, length) = address(family);
            payload(b, NETWORK, offset, length, register);
        }
        Expression::LoadDestination { family, register } => {
            let (offset, length) = address(family);
            payload(b, NETWORK, offset + length, length, register);
        }
        Expression::SourceIs(own) | Expression::DestinationIs(own) => {
            let offset = if matches!(part, Expression::SourceIs(_)) { 12 } else { 16 };
            payload(b, NETWORK, offset, 4, 1);
            compare(b, 1, true, &own.octets());
        }
        Expression::PortIs { end, port } => {
            payload(b, TRANSPORT, port_offset(end), 2, 1);
            compare(b, 1, true, &port.to_be_bytes());
        }
        Expression::SetPort { end, port, protocol } => set_port(b, port_offset(end), port, protocol),
        Expression::LoadProtocol { register } => meta(b, 16, register),
        Expression::LoadPort { register } => payload(b, TRANSPORT, 2, 2, register),
        Expression::IsProtocol(protocol) => {
            meta(b, 16, 1);
            compare(b, 1, true, &[protocol]);
        }
        Expression::NotFrom(name) => {
            meta(b, 6, 1);
            let mut padded = [0; 16];
            padded[..name.len()].copy_from_slice(name.as_bytes());
            compare(b, 1, false, &padded);
        }
        Expression::LoadInName { register } => meta(b, 6, register),
        Expression::LoadOutName { register } => meta(b, 7, register),
        Expression::ToThisHost => {
            const DESTINATION: u32 = 2;
            const ADDRESS_TYPE: u32 = 3;
            const LOCAL: u32 = 2;
            expression(b, "fib", |b| {
                b.be32(3, DESTINATION);
                b.be32(2, ADDRESS_TYPE);
                b.be32(1, 1);
            });
            compare(b, 1, true, &LOCAL.to_ne_bytes());
        }
        Expression::ToLoopback => {
            payload(b, NETWORK, 16, 1, 1);
            compare(b, 1, true, &[127]);
        }
        Expression::StateIs(bits) => has_bits(b, 0, bits),
        Expression::WasRewritten => has_bits(b, 2, 0x20),
        Expression::In(set) => lookup(b, set, false, None),
        Expression::NotIn(set) => lookup(b, set, true, None),
        Expression::Map(map) => lookup(b, map, false, Some(1)),
        Expression::RewriteDestination { family, address, port } => expression(b, "nat", |b| {
            b.be32(1, 1);
            b.be32(2, family.into());
            b.be32(3, address);
            b.be32(5, port);
        }),
        Expression::RewriteSource { family } => expression(b, "nat", |b| {
            b.be32(1, 0);
            b.be32(2, family.into());
            b.be32(3, 1);
        }),
        Expression::Masquerade => expression(b, "masq", |_| {}),
        Expression::SetMark(bit) => {
            meta(b, MARK, 1);
            bitwise(b, !bit, bit);
            expression(b, "meta", |b| {
                b.be32(2, MARK);
                b.be32(3, 1);
            });
        }
        Expression::IsMarked(bit) => {
            meta(b, MARK, 1);
            bitwise(b, bit, 0);
            compare(b, 1, true, &bit.to_ne_bytes());
        }
        Expression::Accept => verdict(b, 1),
        Expression::Drop => verdict(b, 0),
    }
}
