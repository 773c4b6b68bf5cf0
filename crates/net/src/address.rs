//! Networks, hardware addresses, link names, protocols: parsed once, valid from then on.

use naru_types::ParseError;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address with the length of its network's prefix, e.g. `172.17.0.1/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IpNet {
    address: IpAddr,
    prefix: u8,
}

impl IpNet {
    /// An address in a network; the prefix must not be longer than the address.
    pub fn new(address: IpAddr, prefix: u8) -> Result<Self, ParseError> {
        let most = if address.is_ipv4() { 32 } else { 128 };
        if prefix > most {
            return Err(ParseError::new("network", &format!("{address}/{prefix}"), format!("the prefix is longer than {most}")));
        }
        Ok(IpNet { address, prefix })
    }

    /// The address as it was given.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Length of the prefix.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The network alone: all bits after the prefix zero.
    pub fn network(&self) -> IpNet {
        IpNet { address: number_to_ip(self.first(), self.is_ipv4()), prefix: self.prefix }
    }

    /// True for IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }

    /// True when the address lies in the network.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_ipv4() && (self.first()..=self.last()).contains(&ip_to_number(address))
    }

    /// True when the networks share an address.
    pub fn overlaps(&self, other: &IpNet) -> bool {
        self.is_ipv4() == other.is_ipv4() && self.first() <= other.last() && other.first() <= self.last()
    }

    /// The address `offset` after the network's own, if it is in the network.
    pub fn nth(&self, offset: u128) -> Option<IpAddr> {
        let number = self.first().checked_add(offset)?;
        (number <= self.last()).then(|| number_to_ip(number, self.is_ipv4()))
    }

    pub(crate) fn first(&self) -> u128 {
        ip_to_number(self.address) & !self.host_mask()
    }

    pub(crate) fn last(&self) -> u128 {
        self.first() | self.host_mask()
    }

    fn host_mask(&self) -> u128 {
        let host_bits = if self.is_ipv4() { 32 } else { 128 } - u32::from(self.prefix);
        if host_bits == 128 { u128::MAX } else { (1 << host_bits) - 1 }
    }
}

pub(crate) fn ip_to_number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

pub(crate) fn number_to_ip(number: u128, is_ipv4: bool) -> IpAddr {
    match u32::try_from(number) {
        Ok(number) if is_ipv4 => IpAddr::V4(Ipv4Addr::from(number)),
        _ => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

impl FromStr for IpNet {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = |reason: &str| ParseError::new("network", text, reason);
        let (address, prefix) = text.split_once('/').ok_or_else(|| bad("expected address/prefix"))?;
        let address = address.parse().map_err(|_| bad("not an IP address"))?;
        let prefix = prefix.parse().ok().filter(|_| prefix.len() <= 3 && !prefix.starts_with('+'));
        IpNet::new(address, prefix.ok_or_else(|| bad("the prefix is not a number"))?)
    }
}

impl fmt::Display for IpNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// A hardware address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// The address Docker gives the endpoint with this IPv4 address: a reused address keeps its hardware address, so
    /// that neighbours' caches stay right.
    pub fn of(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        MacAddress([0x02, 0x42, a, b, c, d])
    }

    /// A random one, marked as given locally.
    pub fn random() -> Self {
        let mut bytes = [0; 6];
        getrandom::fill(&mut bytes).expect("the kernel's random source cannot fail after boot");
        bytes[0] = (bytes[0] & 0xfc) | 0x02;
        MacAddress(bytes)
    }
}

impl FromStr for MacAddress {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = |reason: &str| ParseError::new("MAC address", text, reason);
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(|| bad("expected six pairs of hex digits"))?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad("expected six pairs of hex digits"))?;
        }
        if parts.next().is_some() {
            return Err(bad("expected six pairs of hex digits"));
        }
        if bytes[0] & 1 != 0 {
            return Err(bad("it is a multicast address"));
        }
        Ok(MacAddress(bytes))
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A link's name: 1 to 15 bytes without slash, colon, white space.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkName(String);

impl LinkName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A fresh name for the host's end of a container's link.
    pub fn random_veth() -> Self {
        let mut bytes = [0; 4];
        getrandom::fill(&mut bytes).expect("the kernel's random source cannot fail after boot");
        LinkName(format!("veth{:08x}", u32::from_be_bytes(bytes)))
    }

    /// The name as the kernel compares it in sets: filled up with zeroes.
    pub(crate) fn padded(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..self.0.len()].copy_from_slice(self.0.as_bytes());
        bytes
    }
}

impl FromStr for LinkName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = |reason: &str| ParseError::new("interface name", text, reason);
        if text.is_empty() || text.len() > 15 {
            return Err(bad("it must have 1 to 15 bytes"));
        }
        if matches!(text, "." | "..") || text.bytes().any(|b| matches!(b, b'/' | b':' | b'%') || !b.is_ascii_graphic()) {
            return Err(bad("it contains a character that is not allowed"));
        }
        Ok(LinkName(text.to_owned()))
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A transport protocol that ports are published of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// IANA's number.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }
}

impl FromStr for Protocol {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Protocol::Tcp),
            "udp" => Ok(Protocol::Udp),
            "sctp" => Ok(Protocol::Sctp),
            _ => Err(ParseError::new("protocol", text, "expected tcp, udp or sctp")),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        let net: IpNet = "172.17.5.1/16".parse().unwrap();
        assert_eq!((net.network().to_string().as_str(), net.nth(2).unwrap().to_string().as_str()), ("172.17.0.0/16", "172.17.0.2"));
        assert!(net.contains("172.17.255.255".parse().unwrap()) && !net.contains("172.18.0.0".parse().unwrap()));
        assert_eq!(net.nth(65536), None);
        let all: IpNet = "::/0".parse().unwrap();
        assert!(all.contains("ffff::".parse().unwrap()) && !all.contains("1.1.1.1".parse().unwrap()));
        assert!(net.overlaps(&"172.0.0.0/8".parse().unwrap()) && !net.overlaps(&"172.18.0.0/16".parse().unwrap()));
        for bad in ["", "1.2.3.4", "1.2.3.4/33", "::/129", "1.2.3.4/", "1.2.3/8", "1.2.3.4/+8", "1.2.3.4/8/8"] {
            assert!(bad.parse::<IpNet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_and_hardware_addresses() {
        assert_eq!("02:42:ac:11:00:02".parse::<MacAddress>().unwrap(), MacAddress::of(Ipv4Addr::new(172, 17, 0, 2)));
        assert_eq!("02-42-AC-11-00-02".parse::<MacAddress>().unwrap().to_string(), "02:42:ac:11:00:02");
        for bad in ["", "02:42", "02:42:ac:11:00:02:03", "0g:00:00:00:00:00", "01:00:00:00:00:00", "2:42:ac:11:00:02"] {
            assert!(bad.parse::<MacAddress>().is_err(), "{bad}");
        }
        assert!("naru0".parse::<LinkName>().is_ok());
        for bad in ["", "sixteen-bytes-xx", "a/b", "a b", ".", "..", "a:b", "a\n"] {
            assert!(bad.parse::<LinkName>().is_err(), "{bad}");
        }
    }
}
