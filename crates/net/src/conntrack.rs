//! Flows of UDP that the kernel remembers: where it once sent a client's datagrams it sends the next, whatever the rules
//! say now. When a port is published or taken back, what is remembered of it must go, or a client that keeps sending
//! talks to a container that is gone. Connections of TCP begin anew by themselves.

use crate::address::Protocol;
use crate::error::Result;
use crate::firewall::PortMap;
use crate::netlink::{Answer, Batch, Socket, attributes, flags};
use rustix::io::Errno;
use std::net::{IpAddr, SocketAddr};

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const FILTER: u16 = 25;
const TUPLE_PROTOCOL: u16 = 2;

/// Bits of a flow's status: its source, its destination was rewritten.
const SOURCE_REWRITTEN: u32 = 1 << 4;
const DESTINATION_REWRITTEN: u32 = 1 << 5;

/// One flow.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Flow {
    /// The tuple by which the kernel knows it.
    original: Vec<u8>,
    to: SocketAddr,
    answered_by: SocketAddr,
    status: u32,
}

/// Forgets flows that came to these ports and went elsewhere than the rules now say. `is_ours` knows the containers'
/// addresses.
pub(crate) fn forget_published(socket: &Socket, ports: &[PortMap], is_ours: impl Fn(IpAddr) -> bool) -> Result<()> {
    forget(socket, ports, |flow, port| {
        let rewritten = flow.status & DESTINATION_REWRITTEN != 0;
        let foreign = if rewritten { !is_ours(flow.answered_by.ip()) } else { flow.status & SOURCE_REWRITTEN != 0 };
        port.is_at(flow.to) && flow.answered_by != port.container() && !foreign
    })
}

/// Forgets flows that went to containers by these ports.
pub(crate) fn forget_unpublished(socket: &Socket, ports: &[PortMap]) -> Result<()> {
    forget(socket, ports, |flow, port| port.is_at(flow.to) && flow.answered_by == port.container())
}

fn forget(socket: &Socket, ports: &[PortMap], goes: impl Fn(&Flow, &PortMap) -> bool) -> Result<()> {
    let udp: Vec<&PortMap> = ports.iter().filter(|port| port.protocol == Protocol::Udp).collect();
    for (is_ipv4, family) in [(true, crate::nft::IPV4), (false, crate::nft::IPV6)] {
        let of_family: Vec<&&PortMap> = udp.iter().filter(|port| port.container_ip.is_ipv4() == is_ipv4).collect();
        if of_family.is_empty() {
            continue;
        }
        let flows = match flows(socket, family) {
            // A kernel that does not tell what it remembers.
            Err(error) if matches!(error.errno(), Some(Errno::OPNOTSUPP | Errno::INVAL)) => return Ok(()),
            flows => flows?,
        };
        for flow in flows.iter().filter(|flow| of_family.iter().any(|port| goes(flow, port))) {
            let mut batch = Batch::default();
            batch.begin(DELETE, flags::ACK, "forget a flow to", flow.to.to_string(), &[family, 0, 0, 0]);
            batch.attribute(TUPLE_ORIGINAL | 1 << 15, &flow.original);
            match socket.request(batch) {
                Err(error) if error.errno() == Some(Errno::NOENT) => {}
                result => drop(result?),
            }
        }
    }
    Ok(())
}

/// The flows of UDP, of one family.
fn flows(socket: &Socket, family: u8) -> Result<Vec<Flow>> {
    const BY_PROTOCOL: u32 = 1 << 3;
    let mut batch = Batch::default();
    batch.begin(GET, flags::DUMP, "list", "flows of UDP", &[family, 0, 0, 0]);
    // A kernel that cannot choose lists all; they are looked at again below.
    batch.nest(TUPLE_ORIGINAL, |b| b.nest(TUPLE_PROTOCOL, |b| b.attribute(1, &[Protocol::Udp.number()])));
    batch.nest(FILTER, |b| {
        b.u32(1, BY_PROTOCOL);
        b.u32(2, 0);
    });
    Ok(socket.dump(batch)?.iter().filter_map(flow_of).collect())
}

fn flow_of(answer: &Answer) -> Option<Flow> {
    let (mut original, mut to, mut answered_by, mut status) = (None, None, None, 0);
    for (kind, value) in answer.attributes(4) {
        match kind {
            TUPLE_ORIGINAL => (original, to) = (Some(value.to_vec()), ends(value)?.1.into()),
            TUPLE_REPLY => answered_by = Some(ends(value)?.0),
            STATUS => status = u32::from_be_bytes(*value.first_chunk()?),
            _ => {}
        }
    }
    Some(Flow { original: original?, to: to?, answered_by: answered_by?, status })
}

/// Source and destination of a tuple of UDP.
fn ends(tuple: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let address = |value: &[u8]| match value.len() {
        4 => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
    };
    let (mut ips, mut ports, mut is_udp) = ([None; 2], [None; 2], false);
    for (kind, value) in attributes(tuple) {
        for (inner, value) in attributes(value) {
            match (kind, inner) {
                (1, 1 | 3) => ips[0] = address(value),
                (1, 2 | 4) => ips[1] = address(value),
                (TUPLE_PROTOCOL, 1) => is_udp = value == [Protocol::Udp.number()],
                (TUPLE_PROTOCOL, 2) => ports[0] = value.first_chunk().map(|port| u16::from_be_bytes(*port)),
                (TUPLE_PROTOCOL, 3) => ports[1] = value.first_chunk().map(|port| u16::from_be_bytes(*port)),
                _ => {}
            }
        }
    }
    is_udp.then_some(())?;
    Some((SocketAddr::new(ips[0]?, ports[0]?), SocketAddr::new(ips[1]?, ports[1]?)))
}
