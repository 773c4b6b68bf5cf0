//! What the resolver of a container knows: the names on its networks, its own links, the host.

use super::Entry;
use naru_net::dns::{Answer, Zone};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError, RwLock};

/// The names under which a container finds its host, as Docker Desktop has them.
pub(super) const HOST_NAMES: [&str; 2] = ["host.docker.internal", "gateway.docker.internal"];

/// One container's view.
#[derive(Default)]
pub(super) struct ContainerZone {
    /// Changed by connect and disconnect.
    pub view: RwLock<ZoneView>,
    /// Where other names are asked.
    pub upstream: Vec<SocketAddr>,
    /// Its own network, where servers are asked that were chosen for it.
    pub namespace: Option<Arc<OwnedFd>>,
}

/// What changes when a container is connected or disconnected.
#[derive(Default)]
pub(super) struct ZoneView {
    /// Networks with names.
    pub networks: Vec<Arc<Entry>>,
    /// Its own names for other containers: alias, container.
    pub links: Vec<(String, String)>,
    /// It reaches the outside.
    pub leads_out: bool,
    /// The host's addresses.
    pub host: Vec<IpAddr>,
}

impl Zone for ContainerZone {
    fn lookup(&self, name: &str) -> Answer {
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        let linked = |name| view.links.iter().find(|(alias, _)| alias == name).map_or(name, |(_, container)| container.as_str());
        let target = linked(name);
        let mut found = Vec::new();
        for network in &view.networks {
            network.resolve(target, &mut found);
            // `container.network` names the network too.
            if let Some(host) = target.strip_suffix(network.dns_suffix()) {
                network.resolve(linked(host), &mut found);
            }
        }
        if !found.is_empty() {
            return Answer::Addresses(found);
        }
        if view.leads_out && !view.host.is_empty() && HOST_NAMES.contains(&name) {
            return Answer::Addresses(view.host.clone());
        }
        Answer::NotOurs
    }

    fn reverse(&self, address: IpAddr) -> Option<String> {
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        view.networks.iter().find_map(|network| network.name_of(address))
    }

    fn upstream(&self) -> Vec<SocketAddr> {
        // From its own network it gets no further than it does itself.
        let may = self.namespace.is_some() || self.view.read().unwrap_or_else(PoisonError::into_inner).leads_out;
        if may { self.upstream.clone() } else { vec![] }
    }

    fn namespace(&self) -> Option<Arc<OwnedFd>> {
        self.namespace.clone()
    }
}
