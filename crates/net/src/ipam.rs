//! Addresses: which subnet a network gets, which address a container gets. Pure; the caller keeps what must outlive it.

use crate::address::{IpNet, ip_to_number, number_to_ip};
use crate::error::{Error, Result};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// The addresses of one subnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    subnet: IpNet,
    range: IpNet,
    gateway: IpAddr,
    used: BTreeSet<u128>,
}

impl Pool {
    /// A pool of `subnet`; containers get addresses of `range`. The gateway is the first address unless given.
    pub fn new(subnet: IpNet, range: Option<IpNet>, gateway: Option<IpAddr>) -> Result<Pool> {
        let subnet = subnet.network();
        let range = range.map_or(subnet, |range| range.network());
        let bad = |address, reason| Error::BadAddress { address, subnet, reason };
        if subnet.first() == subnet.last() {
            return Err(bad(subnet.address(), "the subnet has a single address"));
        }
        if !subnet.contains(range.address()) || range.prefix() < subnet.prefix() {
            return Err(bad(range.address(), "the range is not within the subnet"));
        }
        let mut pool = Pool { subnet, range, gateway: subnet.address(), used: BTreeSet::new() };
        pool.gateway = match gateway {
            Some(gateway) if !subnet.contains(gateway) => return Err(bad(gateway, "the gateway is not within the subnet")),
            Some(gateway) if pool.is_special(ip_to_number(gateway)) => {
                return Err(bad(gateway, "the gateway is the network's own address"));
            }
            Some(gateway) => gateway,
            // As Docker: the first address of the range, after the network's own.
            None => {
                let first = range.first();
                number_to_ip(if pool.is_special(first) { first + 1 } else { first }, subnet.is_ipv4())
            }
        };
        pool.used.insert(ip_to_number(pool.gateway));
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

    /// The host's address in the subnet.
    pub fn gateway(&self) -> IpAddr {
        self.gateway
    }

    /// The gateway with the subnet's prefix.
    pub fn gateway_net(&self) -> IpNet {
        self.with_prefix(self.gateway)
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

    /// The lowest free address.
    pub fn allocate(&mut self) -> Result<IpAddr> {
        let mut candidate = self.range.first();
        let mut taken = self.used.range(self.range.first()..=self.range.last()).copied().peekable();
        while candidate <= self.range.last() {
            if taken.peek() == Some(&candidate) {
                taken.next();
            } else if !self.is_special(candidate) {
                drop(taken);
                self.used.insert(candidate);
                return Ok(number_to_ip(candidate, self.subnet.is_ipv4()));
            }
            match candidate.checked_add(1) {
                Some(next) => candidate = next,
                None => break,
            }
        }
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
        if address != self.gateway && address.is_ipv4() == self.subnet.is_ipv4() {
            self.used.remove(&ip_to_number(address));
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
        for (base, size) in self.0.iter().filter(|(base, _)| base.is_ipv4() == ipv4) {
            let bits = if ipv4 { 32 } else { 128 };
            let step = 1u128.checked_shl(bits - u32::from(*size)).unwrap_or(0);
            let mut first = base.first();
            while first <= base.last() {
                let candidate = IpNet::new(number_to_ip(first, ipv4), *size).expect("the size was checked");
                match taken.iter().filter(|other| candidate.overlaps(other)).map(IpNet::last).max() {
                    None => return Ok(candidate),
                    // On after what is in the way, at the next multiple of the size.
                    Some(last) if step > 0 => {
                        let after = (last.max(candidate.last()) - base.first()) / step + 1;
                        match after.checked_mul(step).and_then(|offset| base.first().checked_add(offset)) {
                            Some(next) => first = next,
                            None => break,
                        }
                    }
                    Some(_) => break,
                }
            }
        }
        Err(Error::NoFreeSubnet)
    }
}

/// Refuses a subnet that overlaps another network of the engine.
pub fn check_overlap(subnet: IpNet, others: &[IpNet]) -> Result<()> {
    match others.iter().find(|other| subnet.overlaps(other)) {
        Some(other) => Err(Error::Overlap { subnet: subnet.network(), other: other.network() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn pool(subnet: &str) -> Pool {
        Pool::new(subnet.parse().unwrap(), None, None).unwrap()
    }

    #[test]
    fn addresses_in_order() {
        let mut pool = pool("172.17.0.0/16");
        assert_eq!(pool.gateway().to_string(), "172.17.0.1");
        assert_eq!(pool.allocate().unwrap().to_string(), "172.17.0.2");
        assert_eq!(pool.allocate().unwrap().to_string(), "172.17.0.3");
        pool.release("172.17.0.2".parse().unwrap());
        assert_eq!(pool.allocate().unwrap().to_string(), "172.17.0.2");
        pool.release(pool.gateway());
        assert_eq!(pool.allocate().unwrap().to_string(), "172.17.0.4");
        let mut six = self::pool("fd00::/64");
        assert_eq!((six.gateway().to_string(), six.allocate().unwrap().to_string()), ("fd00::1".into(), "fd00::2".into()));
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
            let gateway = gateway.map(|g| g.parse().unwrap());
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

    proptest! {
        #[test]
        fn no_address_is_given_twice(prefix in 24u8..=30, range in 0u8..4, steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 0..600)) {
            let subnet: IpNet = format!("10.1.2.0/{prefix}").parse().unwrap();
            let range_net: IpNet = format!("10.1.2.0/{}", (prefix + range).min(30)).parse().unwrap();
            let mut pool = Pool::new(subnet, Some(range_net), None).unwrap();
            let mut held: HashSet<IpAddr> = HashSet::new();
            let capacity = usize::try_from(range_net.last() - range_net.first() + 1).unwrap() - if range_net.last() == subnet.last() { 3 } else { 2 };
            for (take, which) in steps {
                if take {
                    match pool.allocate() {
                        Ok(address) => {
                            prop_assert!(range_net.contains(address) && address != pool.gateway());
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
