//! Which program holds a port of the host: asked only after the kernel has said that one does.

use crate::address::Protocol;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// Descriptors looked through at most; a host may have millions.
const MAX_DESCRIPTORS: usize = 200_000;

/// State of a listening TCP socket, as `/proc/net/tcp` has it.
const LISTENS: &str = "0A";

/// Name and number of the process, as `nginx (process 12)`.
pub(crate) fn of(protocol: Protocol, address: SocketAddr) -> Option<String> {
    let tables: &[&str] = match protocol {
        Protocol::Tcp => &["/proc/net/tcp", "/proc/net/tcp6"],
        Protocol::Udp => &["/proc/net/udp", "/proc/net/udp6"],
        Protocol::Sctp => return None,
    };
    let inode = tables.iter().find_map(|table| inode(&std::fs::read_to_string(table).ok()?, protocol, address))?;
    process_with(&format!("socket:[{inode}]"))
}

/// The inode of a socket that is in the way of this address.
fn inode(table: &str, protocol: Protocol, wanted: SocketAddr) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let mut words = line.split_whitespace();
        let (address, port) = words.nth(1)?.split_once(':')?;
        let state = words.nth(1)?;
        // After these: queues, timer, retransmissions, user, timeout.
        let inode = words.nth(5)?.parse().ok()?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let in_the_way = port == wanted.port() && (protocol == Protocol::Udp || state == LISTENS) && clashes(parse(address)?, wanted.ip());
        in_the_way.then_some(inode)
    })
}

/// An address as it lies in the kernel's memory: words of four bytes.
fn parse(hex: &str) -> Option<IpAddr> {
    let mut bytes = Vec::with_capacity(16);
    if !hex.len().is_multiple_of(8) {
        return None;
    }
    for word in hex.as_bytes().chunks(8) {
        bytes.extend(u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?.to_ne_bytes());
    }
    match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(bytes) => Some(IpAddr::from(bytes)),
        Err(_) => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    }
}

fn clashes(held: IpAddr, wanted: IpAddr) -> bool {
    // All of IPv6 may include all of IPv4.
    held.is_unspecified() && (held.is_ipv6() || wanted.is_ipv4())
        || wanted.is_unspecified() && wanted.is_ipv4() == held.is_ipv4()
        || held == wanted
}

fn process_with(link: &str) -> Option<String> {
    let mut left = MAX_DESCRIPTORS;
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(descriptors) = std::fs::read_dir(process.path().join("fd")) else { continue };
        for descriptor in descriptors.flatten() {
            left = left.checked_sub(1)?;
            if std::fs::read_link(descriptor.path()).is_ok_and(|to| to == Path::new(link)) {
                return name_of(pid);
            }
        }
    }
    None
}

/// Name and number of a process.
pub(crate) fn name_of(pid: u32) -> Option<String> {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    // A name is whatever the program says.
    let name: String = name.trim().chars().filter(|c| !c.is_control()).collect();
    Some(format!("{name} (process {pid})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1 0000000000000000 100 0 0 10 0
   1: 0100007F:1F91 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 12 1 0000000000000000 100 0 0 10 0
   2: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 13 1 0000000000000000 100 0 0 10 0
   garbage";

    #[test]
    fn the_socket_in_the_way() {
        let found = |address: &str| inode(TABLE, Protocol::Tcp, address.parse().unwrap());
        assert_eq!(found("127.0.0.1:8080"), Some(11));
        assert_eq!(found("0.0.0.0:8080"), Some(11));
        assert_eq!(found("127.0.0.2:8080"), None);
        assert_eq!(found("127.0.0.1:8081"), None, "a connection does not hold its port");
        assert_eq!(found("10.0.0.1:80"), Some(13));
        assert_eq!(found("[::]:80"), None);
        assert_eq!(parse("00000000000000000000000001000000"), Some("::1".parse().unwrap()));
        assert_eq!(parse("0100"), None);
    }

    #[test]
    fn this_process() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let holder = of(Protocol::Udp, socket.local_addr().unwrap()).unwrap();
        assert!(holder.ends_with(&format!("(process {})", std::process::id())), "{holder}");
    }
}
