//! Port 53 of the resolver's address inside a container's namespace.

use crate::address::Protocol;
use crate::dns::ADDRESS;
use crate::error::Result;
use crate::firewall::padded;
use crate::netlink::Socket;
use crate::nft::{self, Element, Expression, Set, Transaction, kind};
use rustix::io::Errno;
use std::os::fd::OwnedFd;

/// Name of the table in the container's namespace.
const TABLE: &str = "naru-dns";

/// Sends 127.0.0.11:53 to the resolver's own ports. `nft` is a netlink socket for netfilter, opened in the container's
/// namespace; the rules live as long as that. Doing it again, with other ports, replaces them.
pub fn redirect(nft: OwnedFd, udp_port: u16, tcp_port: u16) -> Result<()> {
    let socket = Socket(nft);
    let mut transaction = Transaction::new(TABLE);
    transaction.new_table();
    write(&mut transaction, udp_port, tcp_port);
    match transaction.commit(&socket) {
        Err(error) if error.errno() == Some(Errno::EXIST) => {
            let mut transaction = Transaction::new(TABLE);
            transaction.fresh_table();
            write(&mut transaction, udp_port, tcp_port);
            transaction.commit(&socket)
        }
        written => written,
    }
}

fn write(transaction: &mut Transaction<'_>, udp_port: u16, tcp_port: u16) {
    const PORTS: &str = "ports";
    let address = crate::address::octets(ADDRESS);
    let element = |protocol: Protocol, port: u16| Element {
        key: padded(&[&address, &[protocol.number()], &53u16.to_be_bytes()]),
        data: Some(padded(&[&address, &port.to_be_bytes()])),
        range_end: false,
    };
    let set = Set {
        name: PORTS,
        key_kind: kind::concat(&[kind::IPV4, kind::PROTOCOL, kind::PORT]),
        key_length: 12,
        data: Some((kind::concat(&[kind::IPV4, kind::PORT]), 8)),
        interval: false,
    };
    transaction.set(&set, 1);
    transaction.chain("output", nft::DNAT_FROM_HOST);
    let family = nft::IPV4;
    transaction.rule(
        "output",
        &[
            Expression::IsFamily(family),
            Expression::LoadDestination { family, register: 1 },
            Expression::LoadProtocol { register: 9 },
            Expression::LoadPort { register: 10 },
            Expression::Map(PORTS),
            Expression::RewriteDestination { family, address: 1, port: 9 },
        ],
    );
    transaction.add(PORTS, &[element(Protocol::Udp, udp_port), element(Protocol::Tcp, tcp_port)]);
}
