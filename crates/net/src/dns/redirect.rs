//! Port 53 of the resolver's address inside a container's namespace.
//!
//! ```text
//! query, output   127.0.0.11, port 53 → the resolver's own port       before connections are tracked
//! answer, input   127.0.0.11, that port → port 53                      when nobody looks any more
//! ```
//!
//! The port is written into the packet. A `nat` chain would do the same, but have the kernel track every connection of the
//! container for it, which costs each of its packets more than all else in the namespace. Where a container tracks
//! connections by itself, it sees one connection, to the resolver's own port, in both directions.

use crate::address::Protocol;
use crate::dns::ADDRESS;
use crate::error::Result;
use crate::netlink::Socket;
use crate::nft::{self, End, Expression, Transaction};
use rustix::io::Errno;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

/// Name of the table in the container's namespace.
const TABLE: &str = "naru-dns";

/// The port that is asked.
const PORT: u16 = 53;

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
    use Expression::{DestinationIs, IsFamily, IsProtocol, PortIs, SetPort, SourceIs};
    let IpAddr::V4(address) = ADDRESS else { return };
    transaction.chain("output", nft::BEFORE_TRACKING_OUT);
    transaction.chain("input", nft::LAST_IN);
    for (protocol, port) in [(Protocol::Udp, udp_port), (Protocol::Tcp, tcp_port)] {
        let number = protocol.number();
        let to = [IsFamily(nft::IPV4), DestinationIs(address), IsProtocol(number)];
        let (asked, own) = (PortIs { end: End::Destination, port: PORT }, SetPort { end: End::Destination, port, protocol });
        transaction.rule("output", &[to[0], to[1], to[2], asked, own]);
        let from = [IsFamily(nft::IPV4), SourceIs(address), IsProtocol(number)];
        let (own, asked) = (PortIs { end: End::Source, port }, SetPort { end: End::Source, port: PORT, protocol });
        transaction.rule("input", &[from[0], from[1], from[2], own, asked]);
    }
}
