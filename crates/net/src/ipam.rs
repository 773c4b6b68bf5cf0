//! Addresses: which subnet a network gets, which address a container gets. Pure; the caller keeps what must outlive it.

use crate::address::{IpNet, ip_to_number, number_to_ip};
use crate::error::{Error, Result};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// The address of a subnet that leads out of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gateway {
    /// The first of those that containers get.
    First,
    /// This one.
    At(IpAddr),
    /// The subnet needs none: all of its addresses are the containers'.
    Absent,
}

/// The addresses of one subnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    subnet: IpNet,
    range: IpNet,
    gateway: Option<IpAddr>,
    used: BTreeSet<u128>,
    /// All of the range below this is taken, so that the lowest free address is found without looking through them.
    full_below: u128,
}

impl Pool {
    /// A pool of `subnet`; containers get addresses of `range`.
    pub fn new(subnet: IpNet, range: Option<IpNet>, gateway: Gateway) -> Result<Pool> {
        let subnet = subnet.network();
        let range = range.map_or(subnet, |range| range.network());
        let bad = |address, reason| Error::BadAddress { address, subnet, reason };
        if subnet.first() == subnet.last() {
            return Err(bad(subnet.address(), "the subnet has a single address"));
        }
        if !subnet.contains(range.address()) || range.prefix() < subnet.prefix() {
            return Err(bad(range.address(), "the range is not within the subnet"));
        }
        let mut pool = Pool { subnet, range, gateway: None, used: BTreeSet::new(), full_below: range.first() };
        pool.gateway = match gateway {
            Gateway::At(gateway) if !subnet.contains(gateway) => return Err(bad(gateway, "the gateway is not within the subnet")),
            Gateway::At(gateway) if pool.is_special(ip_to_number(gateway)) => {
                return Err(bad(gateway, "the gateway is the network's own address"));
            }
            Gateway::At(gateway) => Some(gateway),
            // As Docker: the first address of the range, after the network's own.
            Gateway::First => {
                let first = range.first();
                Some(number_to_ip(if pool.is_special(first) { first + 1 } else { first }, subnet.is_ipv4()))
            }
            Gateway::Absent => None,
        };
        pool.used.extend(pool.gateway.map(ip_to_number));
        Ok(pool)
    }

    /// The subnet.
    pub fn subnet(&self) -> IpNet {
        self.subnet
    }

    /// The part containers get addresses of.
    pub fn range(&self) -> IpNet {
        self.range
    }

    /// The address that leads out of the subnet.
    pub fn gateway(&self) -> Option<IpAddr> {
        self.gateway
    }

    /// An address of this pool with the subnet's prefix.
    pub fn with_prefix(&self, address: IpAddr) -> IpNet {
        IpNet::new(address, self.subnet.prefix()).expect("the address is of the subnet's family")
    }

    /// The network's own address and, with IPv4, the broadcast address belong to nobody; in a subnet of two addresses
    /// both are usable.
    fn is_special(&self, number: u128) -> bool {
        let pair = self.subnet.last() - self.subnet.first() == 1;
        !pair && (number == self.subnet.first() || (self.subnet.is_ipv4() && number == self.subnet.last()))
    }

    /// The lowest free address, as Docker's engine gives them out.
    pub fn allocate(&mut self) -> Result<IpAddr> {
        let mut candidate = self.full_below;
        let mut taken = self.used.range(candidate.min(self.range.last())..=self.range.last()).copied().peekable();
        while candidate <= self.range.last() {
            if taken.peek() == Some(&candidate) {
                taken.next();
            } else if !self.is_special(candidate) {
                drop(taken);
                self.used.insert(candidate);
                self.full_below = candidate.saturating_add(1);
                return Ok(number_to_ip(candidate, self.subnet.is_ipv4()));
            }
            match candidate.checked_add(1) {
                Some(next) => candidate = next,
                None => break,
            }
        }
        drop(taken);
        self.full_below = candidate;
        Err(Error::PoolExhausted { subnet: self.subnet })
    }

    /// Takes a certain address, also outside the range.
    pub fn reserve(&mut self, address: IpAddr) -> Result<()> {
        let number = ip_to_number(address);
        if !self.subnet.contains(address) {
            return Err(Error::BadAddress { address, subnet: self.subnet, reason: "it is not within the subnet" });
        }
        if self.is_special(number) {
            return Err(Error::BadAddress { address, subnet: self.subnet, reason: "it is the network's own or its broadcast address" });
        }
        if self.used.insert(number) { Ok(()) } else { Err(Error::AddressInUse { address }) }
    }

    /// Gives an address back; the gateway stays taken.
    pub fn release(&mut self, address: IpAddr) {
        if self.gateway != Some(address) && address.is_ipv4() == self.subnet.is_ipv4() {
            let number = ip_to_number(address);
            if self.used.remove(&number) && self.range.contains(address) {
                self.full_below = self.full_below.min(number);
            }
        }
    }

    /// Number of addresses taken, the gateway included.
    pub fn used(&self) -> usize {
        self.used.len()
    }
}

/// Subnets for networks that name none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubnetPools(Vec<(IpNet, u8)>);

impl Default for SubnetPools {
    /// Docker's: 172.17.0.0/16 to 172.31.0.0/16, then 192.168.0.0/20 and on.
    fn default() -> Self {
        let pools = (17..=31).map(|n| (IpAddr::from([172, n, 0, 0]), 16, 16)).chain([(IpAddr::from([192, 168, 0, 0]), 16, 20)]);
        SubnetPools(pools.map(|(base, prefix, size)| (IpNet::new(base, prefix).expect("16 fits an IPv4 address"), size)).collect())
    }
}

impl SubnetPools {
    /// Each with the length of its subnets' prefixes.
    pub fn iter(&self) -> impl Iterator<Item = (IpNet, u8)> {
        self.0.iter().copied()
    }

    /// Pools as `base=172.30.0.0/16,size=24`.
    pub fn new(pools: Vec<(IpNet, u8)>) -> Result<Self> {
        for (base, size) in &pools {
            let most = if base.is_ipv4() { 32 } else { 128 };
            if *size < base.prefix() || *size > most {
                return Err(Error::BadAddress { address: base.address(), subnet: *base, reason: "the size of its subnets does not fit" });
            }
        }
        Ok(SubnetPools(pools))
    }

    /// The first subnet that overlaps nothing in `taken` (other networks, and what the host has routes to).
    pub fn allocate(&self, taken: &[IpNet], ipv4: bool) -> Result<IpNet> {
        let mut taken: Vec<&IpNet> = taken.iter().filter(|network| network.is_ipv4() == ipv4).collect();
        taken.sort_unstable_by_key(|network| network.first());
        for (base, size) in self.0.iter().filter(|(base, _)| base.is_ipv4() == ipv4) {
            let host_bits = u32::from(if ipv4 { 32 - *size } else { 128 - *size });
            let last_of = |first: u128| first | 1u128.checked_shl(host_bits).map_or(u128::MAX, |step| step - 1);
            let mut first = base.first();
            let mut in_the_way = taken.iter().peekable();
            let found = loop {
                // What ends before the candidate is not in the way of any later one either.
                while in_the_way.next_if(|other| other.last() < first).is_some() {}
                match in_the_way.peek() {
                    Some(other) if other.first() <= last_of(first) => {
                        // On after what is in the way, at the next multiple of the size.
                        match last_of(other.last().max(first)).checked_add(1).filter(|next| *next <= base.last()) {
                            Some(next) => first = next,
                            None => break None,
                        }
                    }
                    _ => break Some(first),
                }
            };
            if let Some(first) = found {
                return Ok(IpNet::new(number_to_ip(first, ipv4), *size).expect("the size was checked"));
            }
        }
        Err(Error::NoFreeSubnet)
    }
}

/// A pool as the daemon's options have it: `base=172.30.0.0/16,size=24`.
pub fn parse_pool(text: &str) -> Result<(IpNet, u8)> {
    let bad = |reason: &str| naru_types::ParseError::new("address pool", text, reason);
    let (mut base, mut size) = (None, None);
    for field in text.split(',') {
        match field.trim().split_once('=') {
            Some(("base", value)) => base = Some(value.parse::<IpNet>()?),
            Some(("size", value)) => size = Some(value.parse::<u8>().map_err(|_| bad("the size is not a number"))?),
            _ => return Err(bad("expected base=NETWORK,size=PREFIX").into()),
        }
    }
    let base = base.ok_or_else(|| bad("it has no base"))?.network();
    let size = size.ok_or_else(|| bad("it has no size"))?;
    SubnetPools::new(vec![(base, size)])?;
    Ok((base, size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn pool(subnet: &str) -> Pool {
        Pool::new(subnet.parse().unwrap(), None, Gateway::First).unwrap()
    }

    #[test]
    fn addresses_in_order() {
        let mut pool = pool("172.17.0.0/16");
        assert_eq!(pool.gateway().unwrap().to_string(), "172.17.0.1");
        assert_eq!(pool.allocate().unwrap().to_string(), "172.17.0.2");
        assert_eq!(pool.allocate().unwrap().to_string(), "172.17.0.3");
        pool.release("172.17.0.2".parse().unwrap());
        assert_eq!(pool.allocate().unwrap().to_string(), "172.17.0.2");
        pool.release(pool.gateway().unwrap());
        assert_eq!(pool.allocate().unwrap().to_string(), "172.17.0.4");
        let mut six = self::pool("fd00::/64");
        assert_eq!((six.gateway().unwrap().to_string(), six.allocate().unwrap().to_string()), ("fd00::1".into(), "fd00::2".into()));
    }

    #[test]
    fn a_subnet_without_a_gateway() {
        let of = |subnet: &str| Pool::new(subnet.parse().unwrap(), None, Gateway::Absent).unwrap();
        let mut pool = of("10.0.0.0/30");
        assert_eq!((pool.gateway(), pool.used()), (None, 0));
        for address in ["10.0.0.1", "10.0.0.2"] {
            assert_eq!(pool.allocate().unwrap().to_string(), address);
        }
        assert!(pool.allocate().is_err());
        pool.release("10.0.0.1".parse().unwrap());
        assert_eq!(pool.allocate().unwrap().to_string(), "10.0.0.1");
        assert_eq!(of("fd00::/64").allocate().unwrap().to_string(), "fd00::1");
    }

    #[test]
    fn refused() {
        let mut pool = pool("10.0.0.0/29");
        for (address, reason) in [("10.0.0.0", "own"), ("10.0.0.7", "broadcast"), ("10.0.0.8", "not within"), ("::1", "not within")] {
            assert!(pool.reserve(address.parse().unwrap()).unwrap_err().to_string().contains(reason), "{address}");
        }
        assert!(matches!(pool.reserve("10.0.0.1".parse().unwrap()), Err(Error::AddressInUse { .. })));
        for (subnet, range, gateway) in [
            ("10.0.0.0/32", None, None),
            ("10.0.0.0/24", Some("10.0.1.0/25"), None),
            ("10.0.0.0/24", Some("10.0.0.0/16"), None),
            ("10.0.0.0/24", None, Some("10.1.0.1")),
            ("10.0.0.0/24", None, Some("10.0.0.0")),
        ] {
            let range = range.map(|r| r.parse().unwrap());
            let gateway = gateway.map_or(Gateway::First, |g: &str| Gateway::At(g.parse().unwrap()));
            assert!(Pool::new(subnet.parse().unwrap(), range, gateway).is_err(), "{subnet}");
        }
    }

    #[test]
    fn default_subnets_avoid_what_is_taken() {
        let pools = SubnetPools::default();
        let mut taken: Vec<IpNet> = vec!["172.17.3.0/24".parse().unwrap(), "172.18.0.0/15".parse().unwrap()];
        let mut got = Vec::new();
        while let Ok(subnet) = pools.allocate(&taken, true) {
            taken.push(subnet);
            got.push(subnet.to_string());
        }
        assert_eq!(got[0], "172.20.0.0/16");
        assert_eq!(got.len(), 12 + 16);
        assert_eq!(got.last().unwrap(), "192.168.240.0/20");
        assert!(matches!(pools.allocate(&[], false), Err(Error::NoFreeSubnet)));
    }

    #[test]
    fn ranges_and_addresses_of_others() {
        let mut pool = Pool::new("10.88.9.0/24".parse().unwrap(), Some("10.88.9.128/30".parse().unwrap()), Gateway::First).unwrap();
        assert_eq!(pool.gateway().unwrap().to_string(), "10.88.9.128");
        pool.reserve("10.88.9.129".parse().unwrap()).unwrap();
        pool.reserve("10.88.9.5".parse().unwrap()).unwrap();
        let error = pool.reserve("10.88.9.5".parse().unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "Address already in use: 10.88.9.5");
        assert_eq!(pool.allocate().unwrap().to_string(), "10.88.9.130");
        assert_eq!(pool.allocate().unwrap().to_string(), "10.88.9.131");
        for _ in 0..2 {
            assert!(matches!(pool.allocate(), Err(Error::PoolExhausted { .. })));
        }
        // What is given back outside the range is not given out.
        pool.release("10.88.9.5".parse().unwrap());
        assert!(pool.allocate().is_err());
        pool.release("10.88.9.129".parse().unwrap());
        assert_eq!(pool.allocate().unwrap().to_string(), "10.88.9.129");
        let last = Pool::new("255.255.255.252/30".parse().unwrap(), None, Gateway::First).unwrap();
        assert_eq!(last.gateway().unwrap().to_string(), "255.255.255.253");
        let mut six = Pool::new("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127".parse().unwrap(), None, Gateway::First).unwrap();
        assert!(six.allocate().is_ok() && six.allocate().is_err() && six.allocate().is_err());
    }

    #[test]
    fn subnets_of_ipv6_and_of_several_sizes() {
        let base: IpNet = "fd00:7:8::/48".parse().unwrap();
        let first = parse_pool("base=10.200.0.0/23,size=24").unwrap();
        assert!(SubnetPools::new(vec![first]).unwrap().allocate(&[], false).is_err());
        let pools = SubnetPools::new(vec![first, (base, 64), ("10.201.0.0/16".parse().unwrap(), 20)]).unwrap();
        let mut taken = Vec::new();
        for expected in ["10.200.0.0/24", "10.200.1.0/24", "10.201.0.0/20", "10.201.16.0/20"] {
            let subnet = pools.allocate(&taken, true).unwrap();
            assert_eq!(subnet.to_string(), expected);
            taken.push(subnet);
        }
        let six = [
            pools.allocate(&taken, false).unwrap(),
            pools.allocate(&[base.nth(0).map(|a| IpNet::new(a, 64).unwrap()).unwrap()], false).unwrap(),
        ];
        assert!(six.iter().all(|subnet| subnet.prefix() == 64 && base.contains(subnet.address())) && !six[0].overlaps(&six[1]));
        for bad in [
            "",
            "base=10.0.0.0/8",
            "size=24",
            "base=10.0.0.0/24,size=16",
            "base=x,size=1",
            "base=10.0.0.0/8,size=33",
            "base=10.0.0.0/8,size=24,x=1",
        ] {
            assert!(parse_pool(bad).is_err(), "{bad}");
        }
        let all = SubnetPools::new(vec![("0.0.0.0/0".parse().unwrap(), 0), ("::/0".parse().unwrap(), 0)]).unwrap();
        assert_eq!(all.allocate(&[], false).unwrap().to_string(), "::/0");
        assert!(all.allocate(&["ffff::/16".parse().unwrap()], false).is_err());
        assert!(all.allocate(&["255.0.0.0/8".parse().unwrap()], true).is_err());
    }

    proptest! {
        #[test]
        fn no_address_is_given_twice(prefix in 24u8..=30, range in 0u8..4, steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 0..600)) {
            let subnet: IpNet = format!("10.1.2.0/{prefix}").parse().unwrap();
            let range_net: IpNet = format!("10.1.2.0/{}", (prefix + range).min(30)).parse().unwrap();
            let mut pool = Pool::new(subnet, Some(range_net), Gateway::First).unwrap();
            let mut held: HashSet<IpAddr> = HashSet::new();
            let capacity = usize::try_from(range_net.last() - range_net.first() + 1).unwrap() - if range_net.last() == subnet.last() { 3 } else { 2 };
            for (take, which) in steps {
                if take {
                    match pool.allocate() {
                        Ok(address) => {
                            let lowest = (range_net.first()..).find(|n| {
                                let candidate = number_to_ip(*n, true);
                                !pool.is_special(*n) && Some(candidate) != pool.gateway() && !held.contains(&candidate)
                            });
                            prop_assert_eq!(ip_to_number(address), lowest.unwrap());
                            prop_assert!(range_net.contains(address) && Some(address) != pool.gateway());
                            prop_assert!(held.insert(address));
                        }
                        Err(_) => prop_assert_eq!(held.len(), capacity),
                    }
                } else if !held.is_empty() {
                    let mut sorted: Vec<_> = held.iter().copied().collect();
                    sorted.sort();
                    let address = sorted[which.index(sorted.len())];
                    held.remove(&address);
                    pool.release(address);
                    prop_assert!(pool.reserve(address).is_ok());
                    pool.release(address);
                }
                prop_assert_eq!(pool.used(), held.len() + 1);
            }
        }

        #[test]
        fn subnets_never_overlap(taken in prop::collection::vec((any::<u32>(), 8u8..=30), 0..20)) {
            let mut taken: Vec<IpNet> = taken.into_iter().map(|(a, p)| IpNet::new(IpAddr::from(a.to_be_bytes()), p).unwrap()).collect();
            let pools = SubnetPools::default();
            for _ in 0..40 {
                let Ok(subnet) = pools.allocate(&taken, true) else { break };
                prop_assert!(taken.iter().all(|other| !subnet.overlaps(other)));
                prop_assert_eq!(subnet, subnet.network());
                taken.push(subnet);
            }
        }
    }
}
