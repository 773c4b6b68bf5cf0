//! A container comes to its networks and goes: at its start and end, and while it runs.
//!
//! What a container has on its networks is its [`Place`]; each step that fails takes back what the ones before it did.
//! Links vanish with the container's namespace, so that an end needs no message to the kernel for them.

use super::endpoint::{Endpoint, EndpointOptions, Place};
use super::entry::{Entry, Joining};
use super::names::ContainerZone;
use super::ports::Held;
use super::record::{DirectKind, Options};
use super::{Damage, Driver, Networks};
use crate::Inner;
use crate::container::View;
use crate::error::{EngineError, Result};
use crate::spec::{Attachment, ContainerSpec, NetworkMode};
use naru_net::{ChildKind, ChildPlan, IpNet, LinkName, Links, MacAddress, VethPlan, dns, resolv};
use naru_runtime::spawner::{NetworkNamespace, Spawner};
use naru_types::{ContainerId, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

/// Which network namespace a container uses.
pub(crate) enum Joined {
    /// One of its own.
    Own,
    /// The host's.
    Host,
    /// Another container's.
    Other(PathBuf),
}

/// The resolver of a container: answers as long as it is kept.
pub(super) struct Resolver {
    zone: Arc<ContainerZone>,
    _serving: dns::Serving,
}

/// A container's namespace, entered by descriptors.
struct Inside<'a> {
    ns: BorrowedFd<'a>,
    route: BorrowedFd<'a>,
    /// Of one in which nobody is yet, see [`NetworkNamespace`].
    without_ipv6: Option<BorrowedFd<'a>>,
}

impl Networks {
    /// Which network namespace `spec` asks for.
    pub(crate) fn join(&self, engine: &Inner, spec: &ContainerSpec) -> Result<Joined> {
        match &spec.network.mode {
            NetworkMode::Host => Ok(Joined::Host),
            NetworkMode::None | NetworkMode::Bridge | NetworkMode::Network(_) => Ok(Joined::Own),
            NetworkMode::Container(reference) => {
                let other = engine.find(reference).map_err(|error| EngineError::Denied {
                    text: format!("joining network namespace of container: {error}"),
                    kind: ErrorKind::NotFound,
                })?;
                let view = other.view();
                let pid = view.state.pid().ok_or_else(|| {
                    let text = "cannot join network namespace of a non running container";
                    EngineError::conflict(format!("{text}: container {} is {}", view.name, view.state.status()))
                })?;
                Ok(Joined::Other(PathBuf::from(format!("/proc/{pid}/ns/net"))))
            }
        }
    }

    /// Puts a container that starts on its networks: addresses, links, ports, names. All or nothing.
    pub(crate) fn attach(&self, engine: &Inner, view: &View, namespace: &NetworkNamespace) -> Result<Place> {
        let mut place = Place::default();
        let attached = self.attach_all(engine, view, namespace, &mut place);
        if attached.is_err() {
            self.detach(&view.id, &place);
        }
        attached.map(|()| place)
    }

    fn attach_all(&self, engine: &Inner, view: &View, namespace: &NetworkNamespace, place: &mut Place) -> Result<()> {
        let network = &view.spec.network;
        let mut joined = Vec::new();
        for attachment in &network.attachments {
            let entry = self.usable(attachment)?;
            let options = EndpointOptions::parse(&attachment.options).map_err(EngineError::invalid)?;
            place.endpoints.push(self.take_endpoint(&entry, view, attachment, &options, place)?);
            joined.push((entry, options, &attachment.link_local));
        }
        // Ports first: they fail often, links do not.
        self.publish(&view.id, &view.name, network, place, Held::default())?;
        let without_ipv6 = Some(namespace.new_links_without_ipv6.as_fd());
        let inside = Inside { ns: namespace.ns.as_fd(), route: namespace.route.as_fd(), without_ipv6 };
        for (endpoint, (entry, options, link_local)) in place.endpoints.iter().zip(&joined) {
            self.link(entry, endpoint, options, link_local, &gateways(place, endpoint), &inside)?;
        }
        if joined.iter().any(|(entry, ..)| entry.has_names()) {
            place.resolver = Some(self.start_resolver(&engine.spawner, view, place, namespace.ns.as_fd())?);
        }
        Ok(())
    }

    /// The network of an attachment, if containers can be on it.
    fn usable(&self, attachment: &Attachment) -> Result<Arc<Entry>> {
        let entry = self.find(&attachment.network).map_err(|error| match error {
            EngineError::NoSuchNetwork(name) if name == "bridge" => {
                EngineError::invalid("this daemon has no bridge (--bridge none); use --network none, host or container:NAME")
            }
            other => other,
        })?;
        if entry.record.config_only {
            return Err(EngineError::invalid(format!(
                "network {} is a configuration for other networks; containers cannot be on it",
                entry.record.name
            )));
        }
        if matches!(entry.record.driver, Driver::Host | Driver::Null) {
            return Err(EngineError::invalid(format!("a container cannot be connected to network {} and to others", entry.record.name)));
        }
        entry.check_addresses(&attachment.addresses).map_err(|error| match error {
            EngineError::Invalid(text) => EngineError::invalid(format!("invalid config for network {}: {text}", entry.record.name)),
            other => other,
        })?;
        Ok(entry)
    }

    fn take_endpoint(
        &self,
        entry: &Entry,
        view: &View,
        attachment: &Attachment,
        options: &EndpointOptions,
        place: &Place,
    ) -> Result<Endpoint> {
        let free = |name: &String| place.endpoints.iter().all(|endpoint| endpoint.container_interface != *name);
        let container_interface = match options.interface.clone() {
            Some(name) if !free(&name) => {
                return Err(EngineError::invalid(format!("two endpoints of the container want the interface {name}")));
            }
            Some(name) => name,
            None => {
                let prefix = entry.bridge().map_or("eth", |bridge| bridge.interface_prefix.as_str());
                (0..).map(|number| format!("{prefix}{number}")).find(free).expect("numbers do not end")
            }
        };
        let hostname = view.spec.hostname.as_deref();
        entry.join(Joining { container: &view.id, container_name: &view.name, attachment, options, hostname, container_interface })
    }

    /// Makes an endpoint's link.
    fn link(
        &self,
        entry: &Entry,
        endpoint: &Endpoint,
        options: &EndpointOptions,
        link_local: &[IpAddr],
        gateways: &[IpAddr],
        inside: &Inside<'_>,
    ) -> Result<()> {
        let parent = entry.ensure_link(&self.links)?;
        let mut addresses: Vec<IpNet> =
            endpoint.addresses.iter().map(|address| IpNet::new(address.address, address.prefix)).collect::<std::result::Result<_, _>>()?;
        for address in link_local {
            addresses.push(IpNet::new(*address, if address.is_ipv4() { 16 } else { 64 })?);
        }
        let container_name: LinkName = endpoint.container_interface.parse()?;
        match &entry.options {
            Options::Bridge(bridge) => {
                let host_name: LinkName = endpoint.interface.as_deref().unwrap_or_default().parse()?;
                let mac = endpoint.mac.map_or_else(MacAddress::random, MacAddress);
                let plan = VethPlan {
                    bridge: parent,
                    host_name,
                    container_name,
                    mac,
                    addresses,
                    gateways: gateways.to_vec(),
                    mtu: bridge.mtu,
                    isolated: !bridge.icc,
                    rate: options.rate,
                };
                let attach = |plan: &VethPlan| match inside.without_ipv6 {
                    Some(without_ipv6) => self.links.attach_first(plan, inside.ns, inside.route, without_ipv6),
                    None => self.links.attach(plan, inside.ns, inside.route),
                };
                let attached = attach(&plan);
                if attached.is_err() && self.links.find(&bridge.name)?.is_none() {
                    // Somebody has deleted the bridge: it is made again.
                    self.mend(entry, Damage::Bridge)?;
                    let plan = VethPlan { bridge: entry.ensure_link(&self.links)?, ..plan };
                    attach(&plan)?;
                } else {
                    attached?;
                }
                self.open_legacy_passages();
            }
            Options::Direct(direct) => {
                let kind = match direct.kind {
                    DirectKind::Macvlan(mode) => ChildKind::Macvlan(mode),
                    DirectKind::Ipvlan(mode, flag) => ChildKind::Ipvlan { mode, flag },
                };
                let plan = ChildPlan {
                    kind,
                    parent,
                    container_name,
                    mac: endpoint.mac.map(MacAddress),
                    addresses,
                    gateways: gateways.to_vec(),
                    mtu: direct.mtu,
                    rate: options.rate,
                };
                self.links.attach_child(&plan, inside.ns, inside.route)?;
            }
            Options::None => return Err(EngineError::invalid(format!("network {} has no interface", entry.record.name))),
        }
        Ok(())
    }

    /// Makes the link of a container that runs; what the runtime sets for one that starts is set here. Routes come after, for all
    /// networks at once.
    fn link_live(
        &self,
        entry: &Entry,
        endpoint: &Endpoint,
        options: &EndpointOptions,
        attachment: &Attachment,
        inside: &Inside<'_>,
    ) -> Result<()> {
        self.link(entry, endpoint, options, &attachment.link_local, &[], inside)?;
        for (parameter, value) in options.parameters(&endpoint.container_interface) {
            naru_net::write_parameter(inside.ns, &parameter, value)?;
        }
        Ok(())
    }

    /// Takes a container off its networks. Its links have gone with its namespace, or go now.
    pub(crate) fn detach(&self, id: &ContainerId, place: &Place) {
        self.resolvers().remove(id);
        self.unpublish(id, place);
        for endpoint in &place.endpoints {
            // What shapes its sending is a link of the host's, which does not go with the namespace.
            if endpoint.rate_out.is_some()
                && let Some(Ok(name)) = endpoint.interface.as_ref().map(|name| name.parse())
                && let Err(error) = self.links.remove(&name)
            {
                tracing::warn!(container = %id.short(), error = crate::chain(&error), "cannot remove the container's bandwidth limit");
            }
            // A network that is gone has no members either.
            if let Ok(entry) = self.find(&endpoint.network) {
                self.leave(&entry, endpoint);
            }
        }
    }

    /// Takes up the place of a container that a former daemon left running, and finishes what that daemon was doing to it:
    /// the specification says where it shall be. Rules follow by [`Networks::restore`].
    pub(crate) fn adopt(&self, spawner: &Spawner, view: &View, place: &Place) -> Result<Place> {
        let mut place = self.finish(spawner, view, place)?;
        for endpoint in &place.endpoints {
            let entry = self.find(&endpoint.network)?;
            if !entry.has(&endpoint.id) {
                entry.adopt(&view.id, &view.name, endpoint)?;
            }
        }
        if !place.ports.is_empty() {
            self.hold_again(&view.id, &view.name, &place)?;
        }
        if let (Some(pid), true) = (view.state.pid(), self.wants_resolver(&place)) {
            let ns = namespace_of(pid)?;
            place.resolver = Some(self.start_resolver(spawner, view, &place, ns.as_fd())?);
        }
        Ok(place)
    }

    /// Takes a running container off networks it shall not be on any more, and brings it to those it is not on yet.
    fn finish(&self, spawner: &Spawner, view: &View, place: &Place) -> Result<Place> {
        let attachments = &view.spec.network.attachments;
        let mut place = place.clone();
        let Some(pid) = view.state.pid() else { return Ok(place) };
        let of = |endpoint: &Endpoint, attachment: &Attachment| {
            endpoint.network_name == attachment.network
                || self.find(&attachment.network).is_ok_and(|entry| entry.record.id == endpoint.network)
        };
        let mut lost = Vec::new();
        let mut kept = Vec::new();
        for endpoint in std::mem::take(&mut place.endpoints) {
            let wanted = attachments.iter().any(|attachment| of(&endpoint, attachment));
            if wanted && self.is_linked(&endpoint)? { kept.push(endpoint) } else { lost.push(endpoint) }
        }
        place.endpoints = kept;
        let missing: Vec<&Attachment> =
            attachments.iter().filter(|attachment| !place.endpoints.iter().any(|endpoint| of(endpoint, attachment))).collect();
        if lost.is_empty() && missing.is_empty() {
            return Ok(place);
        }
        let ns = namespace_of(pid)?;
        let route = spawner.route_socket(ns.as_fd())?;
        let inside = Inside { ns: ns.as_fd(), route: route.as_fd(), without_ipv6: None };
        for endpoint in &lost {
            self.unlink(endpoint, &inside);
        }
        for attachment in missing {
            // It keeps the addresses it had.
            let had = lost.iter().find(|endpoint| of(endpoint, attachment));
            let addresses = had.map(|endpoint| endpoint.addresses.iter().map(|address| address.address).collect());
            let attachment = Attachment { addresses: addresses.unwrap_or_else(|| attachment.addresses.clone()), ..attachment.clone() };
            let entry = self.find(&attachment.network)?;
            let options = EndpointOptions::parse(&attachment.options).map_err(EngineError::invalid)?;
            let endpoint = self.take_endpoint(&entry, view, &attachment, &options, &place)?;
            self.link_live(&entry, &endpoint, &options, &attachment, &inside)?;
            place.endpoints.push(endpoint);
        }
        set_routes(&place, &inside)?;
        Ok(place)
    }

    /// The endpoint's link is there; of those inside the container alone nothing can be seen from here.
    fn is_linked(&self, endpoint: &Endpoint) -> Result<bool> {
        match &endpoint.interface {
            Some(interface) => Ok(self.links.find(&interface.parse()?)?.is_some()),
            None => Ok(true),
        }
    }

    fn wants_resolver(&self, place: &Place) -> bool {
        place.endpoints.iter().any(|endpoint| self.find(&endpoint.network).is_ok_and(|entry| entry.has_names()))
    }

    /// Connects a running container to a further network.
    pub(crate) fn connect(&self, spawner: &Spawner, view: &View, attachment: &Attachment, place: &Place) -> Result<Place> {
        let pid = view.state.pid().ok_or_else(|| EngineError::conflict(format!("container {} is not running", view.id)))?;
        let options = EndpointOptions::parse(&attachment.options).map_err(EngineError::invalid)?;
        let entry = self.usable(attachment)?;
        let ns = namespace_of(pid)?;
        let route = spawner.route_socket(ns.as_fd())?;
        let inside = Inside { ns: ns.as_fd(), route: route.as_fd(), without_ipv6: None };
        let endpoint = self.take_endpoint(&entry, view, attachment, &options, place)?;
        let mut new = place.clone();
        new.endpoints.push(endpoint.clone());
        let linked = self.link_live(&entry, &endpoint, &options, attachment, &inside);
        if let Err(error) = linked.and_then(|()| self.lead(view, place, &mut new, &inside)) {
            self.unlink(&endpoint, &inside);
            self.leave(&entry, &endpoint);
            // Routes and ports as they were; what fails here was wrong before.
            let mut back = place.clone();
            if let Err(second) = self.lead(view, &new, &mut back, &inside) {
                tracing::warn!(container = %view.id.short(), error = crate::chain(&second), "cannot take back a connection");
            }
            return Err(error);
        }
        self.refresh_resolver(spawner, view, &mut new, ns.as_fd())?;
        Ok(new)
    }

    /// Takes a running container off a network.
    pub(crate) fn disconnect(&self, spawner: &Spawner, view: &View, network: &str, place: &Place) -> Result<Place> {
        let pid = view.state.pid().ok_or_else(|| EngineError::conflict(format!("container {} is not running", view.id)))?;
        let mut new = place.clone();
        let Some(at) = place.endpoints.iter().position(|endpoint| endpoint.network == network) else { return Ok(new) };
        let endpoint = new.endpoints.remove(at);
        let ns = namespace_of(pid)?;
        let route = spawner.route_socket(ns.as_fd())?;
        let inside = Inside { ns: ns.as_fd(), route: route.as_fd(), without_ipv6: None };
        self.unlink(&endpoint, &inside);
        self.lead(view, place, &mut new, &inside)?;
        if let Ok(entry) = self.find(network) {
            self.leave(&entry, &endpoint);
        }
        self.refresh_resolver(spawner, view, &mut new, ns.as_fd())?;
        Ok(new)
    }

    fn unlink(&self, endpoint: &Endpoint, inside: &Inside<'_>) {
        let removed = match &endpoint.interface {
            Some(interface) => interface.parse().map_err(EngineError::from).and_then(|name| Ok(self.links.remove(&name)?)),
            None => {
                endpoint.container_interface.parse().map_err(EngineError::from).and_then(|name| Ok(Links::remove_in(inside.route, &name)?))
            }
        };
        if let Err(error) = removed {
            tracing::warn!(interface = endpoint.container_interface, error = crate::chain(&error), "cannot remove the link");
        }
    }

    /// Default routes and published ports follow the endpoint that leads out.
    fn lead(&self, view: &View, old: &Place, new: &mut Place, inside: &Inside<'_>) -> Result<()> {
        set_routes(new, inside)?;
        let moved = [true, false].into_iter().any(|ipv4| old.gateway(ipv4).map(|e| &e.id) != new.gateway(ipv4).map(|e| &e.id));
        if !moved {
            return Ok(());
        }
        if new.ports.is_empty() {
            // There was no network to publish on.
            return self.publish(&view.id, &view.name, &view.spec.network, new, Held::default());
        }
        self.move_ports(&view.id, &view.name, &view.spec.network, old, new)
    }

    fn resolvers(&self) -> std::sync::MutexGuard<'_, std::collections::HashMap<ContainerId, Resolver>> {
        self.resolvers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the resolver's sockets in the container's namespace and answers on them.
    fn start_resolver(&self, spawner: &Spawner, view: &View, place: &Place, ns: BorrowedFd<'_>) -> Result<(u16, u16)> {
        let sockets = spawner.resolver_sockets(ns, place.resolver.unwrap_or_default())?;
        let port = |socket: BorrowedFd<'_>| -> Result<u16> {
            let address = rustix::net::getsockname(socket).and_then(SocketAddr::try_from);
            Ok(address.map_err(|errno| EngineError::io("look at a socket of", "the resolver")(errno.into()))?.port())
        };
        let ports = (port(sockets.udp.as_fd())?, port(sockets.tcp.as_fd())?);
        dns::redirect(sockets.netfilter, ports.0, ports.1)?;
        let (upstream, chosen) = self.upstream(&view.spec.network.dns);
        let own = || ns.try_clone_to_owned().map(Arc::new).map_err(EngineError::io("keep open", "the container's network namespace"));
        let zone = Arc::new(ContainerZone { view: Default::default(), upstream, namespace: if chosen { Some(own()?) } else { None } });
        self.fill_zone(&zone, view, place);
        let serving = dns::serve(sockets.udp, sockets.tcp, Arc::clone(&zone) as Arc<dyn dns::Zone>)
            .map_err(EngineError::io("serve names in", "the container's network"))?;
        self.resolvers().insert(view.id.clone(), Resolver { zone, _serving: serving });
        Ok(ports)
    }

    /// Who is asked for names that are not ours: the container's servers, the daemon's, the host's; and whether somebody chose
    /// them for containers, from where they are asked then. The host's are asked from the host.
    fn upstream(&self, own: &[IpAddr]) -> (Vec<SocketAddr>, bool) {
        let dns = if own.is_empty() { &self.config.dns } else { own };
        (resolv::render_for_resolver(&resolv::host_text_as_it_is(), dns, &[], &[]).upstream, !dns.is_empty())
    }

    fn fill_zone(&self, zone: &ContainerZone, view: &View, place: &Place) {
        let networks: Vec<Arc<Entry>> = place.endpoints.iter().filter_map(|endpoint| self.find(&endpoint.network).ok()).collect();
        let links = view.spec.network.attachments.iter().flat_map(|attachment| &attachment.links).map(|link| {
            let (container, alias) = link.split_once(':').unwrap_or((link, link));
            (alias.to_ascii_lowercase(), container.to_ascii_lowercase())
        });
        let mut known = zone.view.write().unwrap_or_else(PoisonError::into_inner);
        known.leads_out = place.endpoints.iter().any(|endpoint| endpoint.leads_out);
        known.networks = networks.into_iter().filter(|entry| entry.has_names()).collect();
        known.links = links.collect();
        known.host = self.host_seen_from(place);
    }

    /// The addresses under which a container finds the host: by IPv6 alone its gateway, if that is the host.
    fn host_seen_from(&self, place: &Place) -> Vec<IpAddr> {
        let is_bridge = |endpoint: &&Endpoint| self.find(&endpoint.network).is_ok_and(|entry| entry.bridge().is_some());
        let only_ipv6 = self.config.host_gateway.is_empty() && place.gateway(true).is_none();
        let gateway = place.gateway(false).filter(|_| only_ipv6).filter(is_bridge).and_then(|endpoint| endpoint.address(false)?.gateway);
        gateway.map_or_else(|| self.config.host_addresses(), |gateway| vec![gateway])
    }

    /// What the resolver knows follows the networks; the first one with names brings it.
    fn refresh_resolver(&self, spawner: &Spawner, view: &View, place: &mut Place, ns: BorrowedFd<'_>) -> Result<()> {
        let zone = self.resolvers().get(&view.id).map(|resolver| Arc::clone(&resolver.zone));
        match zone {
            Some(zone) => self.fill_zone(&zone, view, place),
            None if self.wants_resolver(place) => {
                place.resolver = Some(self.start_resolver(spawner, view, place, ns)?);
            }
            None => {}
        }
        Ok(())
    }

    /// A running container's name has changed.
    pub(crate) fn rename(&self, place: &mut Place, name: &str) {
        for endpoint in &mut place.endpoints {
            if let Some(first) = endpoint.names.first_mut() {
                *first = name.to_owned();
            }
            if let Ok(entry) = self.find(&endpoint.network) {
                entry.rename(&endpoint.id, name);
            }
        }
    }
}

/// Makes the default routes those of the endpoints that lead out.
fn set_routes(place: &Place, inside: &Inside<'_>) -> Result<()> {
    let mut routes = Vec::new();
    for ipv4 in [true, false] {
        if let Some((endpoint, gateway)) = place.gateway(ipv4).and_then(|endpoint| Some((endpoint, endpoint.address(ipv4)?.gateway?))) {
            routes.push((gateway, endpoint.container_interface.parse::<LinkName>()?));
        }
    }
    Ok(Links::set_default_routes(inside.route, &routes)?)
}

/// The default routes that lead through an endpoint.
fn gateways(place: &Place, endpoint: &Endpoint) -> Vec<IpAddr> {
    [true, false]
        .into_iter()
        .filter_map(|ipv4| {
            let leading = place.gateway(ipv4).filter(|leading| leading.id == endpoint.id)?;
            leading.address(ipv4)?.gateway
        })
        .collect()
}

fn namespace_of(pid: i32) -> Result<std::os::fd::OwnedFd> {
    let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
    std::fs::File::open(&path).map(Into::into).map_err(EngineError::io("open the network namespace", path))
}
