//! A network as it lives: its addresses, who is on it under which names, its links on the host.

use super::endpoint::{Address, Endpoint, EndpointOptions};
use super::record::{BridgeOptions, DirectKind, DirectOptions, Driver, Network, Options};
use crate::error::{EngineError, Result};
use crate::spec::Attachment;
use naru_net::ipam::{Gateway, Pool};
use naru_net::{Bridge, BridgeRules, GatewayMode, IpNet, IpvlanMode, LinkName, Links, MacAddress};
use naru_types::{ContainerId, ErrorKind};
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, PoisonError, RwLock};

/// A network and who is on it.
pub struct Entry {
    /// What it is.
    pub record: Network,
    pub(super) options: Options,
    /// `.name`, in lower case.
    suffix: String,
    members: RwLock<Members>,
    /// Index of the bridge or parent, once made.
    link: Mutex<Option<u32>>,
}

/// An endpoint on a network.
#[derive(Debug, Clone)]
pub struct Member {
    /// Whose it is.
    pub container: ContainerId,
    /// The container's name.
    pub container_name: String,
    /// The endpoint.
    pub endpoint: Endpoint,
}

#[derive(Default)]
struct Members {
    pools: Vec<Pool>,
    /// By endpoint id.
    endpoints: BTreeMap<String, Member>,
    /// Endpoint ids by lower-case name.
    names: HashMap<String, Vec<String>>,
    /// Being removed: nobody comes any more.
    closed: bool,
}

/// Who joins a network.
pub(super) struct Joining<'a> {
    pub container: &'a ContainerId,
    pub container_name: &'a str,
    pub attachment: &'a Attachment,
    /// The attachment's options, parsed.
    pub options: &'a EndpointOptions,
    /// The host name that was asked for.
    pub hostname: Option<&'a str>,
    pub container_interface: String,
}

impl Entry {
    pub(super) fn new(record: Network) -> Result<Entry> {
        let options = Options::parse(&record)?;
        let mut pools = Vec::new();
        for subnet in &record.subnets {
            let mut pool = Pool::new(subnet.subnet, subnet.range, subnet.gateway.map_or(Gateway::Absent, Gateway::At))?;
            for address in subnet.reserved.values() {
                pool.reserve(*address)?;
            }
            pools.push(pool);
        }
        let suffix = format!(".{}", record.name.to_ascii_lowercase());
        let members = RwLock::new(Members { pools, ..Members::default() });
        Ok(Entry { record, options, suffix, members, link: Mutex::default() })
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Members> {
        self.members.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Members> {
        self.members.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who is on it.
    pub fn members(&self) -> Vec<Member> {
        self.read().endpoints.values().cloned().collect()
    }

    /// True when nobody is on it.
    pub fn is_unused(&self) -> bool {
        self.read().endpoints.is_empty()
    }

    pub(super) fn bridge(&self) -> Option<&BridgeOptions> {
        match &self.options {
            Options::Bridge(bridge) if !self.record.config_only => Some(bridge),
            _ => None,
        }
    }

    pub(super) fn dns_suffix(&self) -> &str {
        &self.suffix
    }

    /// Whether its resolver knows names: not on the default bridge, as in Docker.
    pub(super) fn has_names(&self) -> bool {
        matches!(self.record.driver, Driver::Bridge | Driver::Macvlan | Driver::Ipvlan) && !self.record.is_default_bridge()
    }

    pub(super) fn resolve(&self, name: &str, found: &mut Vec<IpAddr>) {
        let members = self.read();
        for id in members.names.get(name).into_iter().flatten() {
            if let Some(member) = members.endpoints.get(id) {
                found.extend(member.endpoint.addresses.iter().map(|address| address.address));
            }
        }
    }

    /// `container.network`, as Docker answers reverse queries.
    pub(super) fn name_of(&self, address: IpAddr) -> Option<String> {
        let members = self.read();
        let member = members.endpoints.values().find(|member| member.endpoint.addresses.iter().any(|own| own.address == address))?;
        Some(format!("{}.{}", member.container_name, self.record.name))
    }

    /// No more endpoints; fails when there are some.
    pub(super) fn close(&self) -> Result<()> {
        let mut members = self.write();
        if let Some(member) = members.endpoints.values().next() {
            let text = format!(
                "error while removing network: network {} has active endpoints (name:{:?} id:{:?})",
                self.record.name,
                member.container_name,
                &member.endpoint.id[..12]
            );
            return Err(EngineError::Denied { text, kind: ErrorKind::Forbidden });
        }
        members.closed = true;
        Ok(())
    }

    pub(super) fn reopen(&self) {
        self.write().closed = false;
    }

    /// Gives addresses and names to one who joins.
    pub(super) fn join(&self, joining: Joining<'_>) -> Result<Endpoint> {
        let mut members = self.write();
        if members.closed {
            return Err(EngineError::NoSuchNetwork(self.record.name.clone()));
        }
        let addresses = members.allocate(&joining.attachment.addresses)?;
        let endpoint = self.endpoint(&joining, &addresses);
        members.insert(Member {
            container: joining.container.clone(),
            container_name: joining.container_name.to_owned(),
            endpoint: endpoint.clone(),
        });
        Ok(endpoint)
    }

    fn endpoint(&self, joining: &Joining<'_>, addresses: &[IpNet]) -> Endpoint {
        let wanted = joining.attachment;
        let ipv4 = addresses.iter().find_map(|net| match net.address() {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        });
        let mac = match self.record.driver {
            Driver::Ipvlan => None,
            _ => Some(wanted.mac.map_or_else(|| ipv4.map_or_else(MacAddress::random, MacAddress::of), MacAddress).0),
        };
        let rate = joining.options.rate;
        let mut names = vec![joining.container_name.to_owned()];
        names.extend(wanted.aliases.iter().cloned());
        names.push(joining.container.short().to_owned());
        names.extend(joining.hostname.map(str::to_owned));
        let mut seen = std::collections::HashSet::new();
        names.retain(|name| seen.insert(name.clone()));
        Endpoint {
            network: self.record.id.clone(),
            network_name: self.record.name.clone(),
            id: ContainerId::random().as_str().to_owned(),
            addresses: addresses
                .iter()
                .map(|net| Address { address: net.address(), prefix: net.prefix(), gateway: self.gateway(net.is_ipv4()) })
                .collect(),
            mac,
            interface: self.bridge().map(|_| LinkName::random_veth().as_str().to_owned()),
            container_interface: joining.container_interface.clone(),
            names,
            leads_out: self.record.leads_out(),
            publishes: self.bridge().is_some() && !self.record.internal,
            gateway_priority: wanted.gateway_priority,
            rate_in: rate.and_then(|rate| rate.ingress),
            rate_out: rate.and_then(|rate| rate.egress),
        }
    }

    /// The gateway of a family, where the network leads out; unspecified where the interface alone does.
    pub(super) fn gateway(&self, ipv4: bool) -> Option<IpAddr> {
        let is_alone = matches!(&self.options, Options::Direct(DirectOptions { parent: None, .. }));
        if self.record.internal || is_alone {
            return None;
        }
        if let Options::Direct(DirectOptions { kind: DirectKind::Ipvlan(IpvlanMode::L3 | IpvlanMode::L3s, _), .. }) = &self.options {
            let has = self.record.subnets.iter().any(|subnet| subnet.subnet.is_ipv4() == ipv4);
            return has.then_some(if ipv4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() });
        }
        self.record.subnets.iter().filter_map(|subnet| subnet.gateway).find(|gateway| gateway.is_ipv4() == ipv4)
    }

    /// Takes up an endpoint of a former daemon.
    pub(super) fn adopt(&self, container: &ContainerId, container_name: &str, endpoint: &Endpoint) -> Result<()> {
        let mut members = self.write();
        for address in &endpoint.addresses {
            members.pool_of(address.address)?.reserve(address.address)?;
        }
        members.insert(Member { container: container.clone(), container_name: container_name.to_owned(), endpoint: endpoint.clone() });
        Ok(())
    }

    pub(super) fn has(&self, endpoint: &str) -> bool {
        self.read().endpoints.contains_key(endpoint)
    }

    /// Takes an endpoint away.
    pub(super) fn leave(&self, endpoint: &Endpoint) {
        let mut members = self.write();
        if members.remove(&endpoint.id).is_none() {
            return;
        }
        for address in &endpoint.addresses {
            if let Ok(pool) = members.pool_of(address.address) {
                pool.release(address.address);
            }
        }
    }

    /// The container has another name now.
    pub(super) fn rename(&self, endpoint: &str, name: &str) {
        let mut members = self.write();
        if let Some(mut member) = members.remove(endpoint) {
            if let Some(first) = member.endpoint.names.first_mut() {
                *first = name.to_owned();
            }
            member.container_name = name.to_owned();
            members.insert(member);
        }
    }

    /// Makes the bridge or finds the parent; its index.
    pub(super) fn ensure_link(&self, links: &Links) -> Result<u32> {
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = *link {
            return Ok(index);
        }
        Ok(*link.insert(self.make_link(links)?))
    }

    /// Makes the bridge what it shall be again, whatever others did to it; its index. None when the network is going.
    pub(super) fn mend_link(&self, links: &Links) -> Result<Option<u32>> {
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        if self.read().closed {
            return Ok(None);
        }
        if let (Some(index), Some(bridge)) = (*link, self.bridge()) {
            links.restore_name(index, &bridge.name)?;
        }
        Ok(Some(*link.insert(self.make_link(links)?)))
    }

    /// Takes its links away by `remove`, so that nobody makes them again meanwhile; it must be closed.
    pub(super) fn drop_links(&self, remove: impl FnOnce()) {
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        *link = None;
        remove();
    }

    fn make_link(&self, links: &Links) -> Result<u32> {
        let index = match &self.options {
            Options::Bridge(bridge) => {
                let wanted = Bridge { name: bridge.name.clone(), addresses: self.bridge_addresses(bridge), mtu: bridge.mtu };
                links.ensure_bridge(&wanted)?
            }
            Options::Direct(direct) => match &direct.parent {
                Some(parent) if !self.record.internal => links.ensure_parent(parent.as_str())?.index,
                _ => links.ensure_dummy(&self.dummy_name()?)?.index,
            },
            Options::None => return Err(EngineError::invalid(format!("network {} has no interface", self.record.name))),
        };
        Ok(index)
    }

    /// The index of its bridge or parent, once made.
    pub(super) fn known_link(&self) -> Option<u32> {
        *self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The links that stay when those without an owner are removed: its own, and a VLAN's interface it stands on.
    pub(super) fn kept_links(&self) -> Result<Vec<LinkName>> {
        let mut kept = self.own_links()?;
        kept.extend(self.parent().cloned());
        Ok(kept)
    }

    /// The host's interface that its containers' hang on.
    pub(super) fn parent(&self) -> Option<&LinkName> {
        match &self.options {
            Options::Direct(direct) => direct.parent.as_ref(),
            _ => None,
        }
    }

    /// The interface of a macvlan or ipvlan network without a parent.
    fn dummy_name(&self) -> Result<LinkName> {
        Ok(format!("dm-{}", &self.record.id[..12]).parse()?)
    }

    /// The links on the host that belong to it alone.
    pub(super) fn own_links(&self) -> Result<Vec<LinkName>> {
        match &self.options {
            _ if self.record.config_only => Ok(vec![]),
            Options::Bridge(bridge) => Ok(vec![bridge.name.clone()]),
            Options::Direct(direct) if direct.parent.is_none() || self.record.internal => Ok(vec![self.dummy_name()?]),
            _ => Ok(vec![]),
        }
    }

    /// The gateways that the bridge itself is.
    fn bridge_addresses(&self, bridge: &BridgeOptions) -> Vec<IpNet> {
        let has = |ipv4: bool| {
            let mode = if ipv4 { bridge.mode_v4 } else { bridge.mode_v6 };
            mode != GatewayMode::Isolated && !(ipv4 && bridge.inhibit_v4)
        };
        let subnets = self.record.subnets.iter().filter(|subnet| has(subnet.subnet.is_ipv4()));
        subnets.filter_map(|subnet| IpNet::new(subnet.gateway?, subnet.subnet.prefix()).ok()).collect()
    }

    /// The firewall's rules of a bridge.
    pub(super) fn rules(&self) -> Option<BridgeRules> {
        let bridge = self.bridge()?;
        Some(BridgeRules {
            name: bridge.name.clone(),
            subnets: self.record.subnets.iter().map(|subnet| subnet.subnet).collect(),
            masquerade_v4: bridge.masquerade,
            masquerade_v6: bridge.masquerade,
            icc: bridge.icc,
            internal: self.record.internal,
            mode_v4: bridge.mode_v4,
            mode_v6: bridge.mode_v6,
            host_ip_v4: bridge.host_v4,
            host_ip_v6: bridge.host_v6,
            trusted: bridge.trusted.clone(),
        })
    }

    /// Whether a container may ask for an address: only of a subnet that the user chose (as in Docker).
    pub fn check_addresses(&self, wanted: &[IpAddr]) -> Result<()> {
        let mut wrong = Vec::new();
        for address in wanted {
            let same: Vec<_> = self.record.subnets.iter().filter(|subnet| subnet.subnet.is_ipv4() == address.is_ipv4()).collect();
            if self.record.is_predefined() {
                wrong.push("user specified IP address is supported on user defined networks only".to_owned());
            } else if !same.iter().any(|subnet| subnet.chosen) {
                wrong.push(
                    "user specified IP address is supported only when connecting to networks with user configured subnets".to_owned(),
                );
            }
            if !same.iter().any(|subnet| subnet.subnet.contains(*address)) {
                wrong.push(format!("no configured subnet or ip-range contain the IP address {address}"));
            }
        }
        match wrong.as_slice() {
            [] => Ok(()),
            [one] => Err(EngineError::invalid(format!("invalid endpoint settings:\n{one}"))),
            several => {
                let lines: Vec<String> = several.iter().map(|line| format!("* {line}")).collect();
                Err(EngineError::invalid(format!("invalid endpoint settings:\n{}", lines.join("\n"))))
            }
        }
    }
}

impl Members {
    fn insert(&mut self, member: Member) {
        let id = member.endpoint.id.clone();
        for name in &member.endpoint.names {
            self.names.entry(name.to_ascii_lowercase()).or_default().push(id.clone());
        }
        self.endpoints.insert(id, member);
    }

    fn remove(&mut self, id: &str) -> Option<Member> {
        let member = self.endpoints.remove(id)?;
        for name in &member.endpoint.names {
            let name = name.to_ascii_lowercase();
            if let Some(ids) = self.names.get_mut(&name) {
                ids.retain(|other| other != id);
                if ids.is_empty() {
                    self.names.remove(&name);
                }
            }
        }
        Some(member)
    }

    fn pool_of(&mut self, address: IpAddr) -> Result<&mut Pool> {
        self.pools
            .iter_mut()
            .find(|pool| pool.subnet().contains(address))
            .ok_or_else(|| EngineError::invalid(format!("no configured subnet or ip-range contain the IP address {address}")))
    }

    /// One address of each family: the one asked for, or a free one. Takes all or nothing.
    fn allocate(&mut self, wanted: &[IpAddr]) -> Result<Vec<IpNet>> {
        let mut taken: Vec<IpNet> = Vec::new();
        let result = (|| {
            for ipv4 in [true, false] {
                if !self.pools.iter().any(|pool| pool.subnet().is_ipv4() == ipv4) {
                    continue;
                }
                match wanted.iter().find(|address| address.is_ipv4() == ipv4) {
                    Some(address) => {
                        let pool = self.pool_of(*address)?;
                        pool.reserve(*address)?;
                        taken.push(pool.with_prefix(*address));
                    }
                    None => taken.push(self.allocate_any(ipv4)?),
                }
            }
            Ok(())
        })();
        match result {
            Ok(()) => Ok(taken),
            Err(error) => {
                for net in taken {
                    if let Ok(pool) = self.pool_of(net.address()) {
                        pool.release(net.address());
                    }
                }
                Err(error)
            }
        }
    }

    /// From the first pool that is not exhausted.
    fn allocate_any(&mut self, ipv4: bool) -> Result<IpNet> {
        let mut last = None;
        for pool in self.pools.iter_mut().filter(|pool| pool.subnet().is_ipv4() == ipv4) {
            match pool.allocate() {
                Ok(address) => return Ok(pool.with_prefix(address)),
                Err(error) => last = Some(error),
            }
        }
        Err(last.map_or_else(|| EngineError::invalid("the network has no addresses of that family"), EngineError::from))
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Subnet;
    use super::*;
    use jiff::Timestamp;

    fn entry() -> Entry {
        let subnet = |subnet: &str, gateway: &str| Subnet {
            subnet: subnet.parse().unwrap(),
            range: None,
            gateway: Some(gateway.parse().unwrap()),
            reserved: BTreeMap::new(),
            chosen: true,
        };
        Entry::new(Network {
            ipv6: true,
            subnets: vec![subnet("10.0.0.0/29", "10.0.0.1"), subnet("fd00::/64", "fd00::1")],
            ..Network::plain("cd".repeat(32), "Office".into(), Driver::Bridge, Timestamp::UNIX_EPOCH)
        })
        .unwrap()
    }

    fn join(entry: &Entry, name: &str, attachment: &Attachment) -> Result<Endpoint> {
        let container = ContainerId::random();
        entry.join(Joining {
            container: &container,
            container_name: name,
            attachment,
            options: &EndpointOptions::default(),
            hostname: Some("spare"),
            container_interface: "eth0".into(),
        })
    }

    fn resolve(entry: &Entry, name: &str) -> Vec<String> {
        let mut found = Vec::new();
        entry.resolve(name, &mut found);
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_come_and_go_with_endpoints() {
        let entry = entry();
        let aliased = Attachment { aliases: vec!["db".into(), "DB".into()], ..Attachment::default() };
        let (one, two) = (join(&entry, "One", &aliased).unwrap(), join(&entry, "two", &aliased).unwrap());
        assert_eq!(resolve(&entry, "one"), ["10.0.0.2", "fd00::2"]);
        assert_eq!(resolve(&entry, "spare").len(), 4, "host names are names, too");
        assert_eq!(
            resolve(&entry, "db").iter().filter(|address| address.starts_with("10.")).count(),
            4,
            "two names that differ in case, two containers"
        );
        assert_eq!(entry.name_of("10.0.0.3".parse().unwrap()).as_deref(), Some("two.Office"));
        entry.rename(&one.id, "uno");
        assert!(resolve(&entry, "one").is_empty());
        assert_eq!(resolve(&entry, "uno").len(), 2);
        entry.leave(&one);
        entry.leave(&one);
        assert!(resolve(&entry, "uno").is_empty());
        assert!(entry.close().unwrap_err().to_string().contains("has active endpoints (name:\"two\""));
        entry.leave(&two);
        entry.close().unwrap();
        assert!(join(&entry, "late", &Attachment::default()).is_err());
    }

    #[test]
    fn addresses_are_given_once_and_all_or_none() {
        let entry = entry();
        let at = |addresses: &[&str]| Attachment {
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            ..Attachment::default()
        };
        let held = join(&entry, "a", &at(&["fd00::9"])).unwrap();
        assert_eq!(held.addresses[1].address.to_string(), "fd00::9");
        let before = entry.members().len();
        // IPv4 was free, IPv6 is not: both stay as they were.
        assert!(join(&entry, "b", &at(&["10.0.0.5", "fd00::9"])).is_err());
        assert_eq!(entry.members().len(), before);
        join(&entry, "c", &at(&["10.0.0.5"])).unwrap();
        assert!(entry.check_addresses(&["10.0.0.6".parse().unwrap()]).is_ok());
        let error = entry.check_addresses(&["10.0.1.6".parse().unwrap()]).unwrap_err().to_string();
        assert_eq!(error, "invalid endpoint settings:\nno configured subnet or ip-range contain the IP address 10.0.1.6");
        for name in ["d", "e", "f"] {
            join(&entry, name, &Attachment::default()).unwrap();
        }
        assert!(join(&entry, "g", &Attachment::default()).is_err(), "six addresses, one is the gateway's");
    }
}
