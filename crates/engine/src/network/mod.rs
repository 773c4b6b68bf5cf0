//! Networks as objects, and the containers' places on them.
//!
//! - [`record`]: what a network is, with its driver's options. [`create`]: what a user asks for becomes a record.
//! - [`entry`]: a network as it lives: addresses, members, names. [`endpoint`]: a container's end of it.
//! - [`attach`]: a container comes and goes, also while it runs. [`ports`]: ports of the host that lead into it.
//! - [`shortcuts`]: containers of one bridge send to each other directly.
//! - [`names`]: what its resolver answers. [`files`]: its hosts, hostname and resolv.conf.
//!
//! What the kernel is told is `naru-net`'s. A few network namespaces are kept ready, because making one is the dearest
//! part of a start.

mod attach;
mod config;
pub mod create;
pub mod endpoint;
pub mod entry;
mod files;
mod names;
mod ports;
pub mod record;
mod shortcuts;

pub(crate) use attach::Joined;
pub use config::NetworkConfig;
pub use create::{NetworkRequest, SubnetRequest};
pub(crate) use endpoint::SYSCTLS;
pub use endpoint::{Endpoint, Place, Published};
pub use entry::{Entry, Member};
pub(crate) use files::linked;
pub use record::{Driver, Network, predefined_id};

use crate::db::Db;
use crate::error::{EngineError, Result};
use crate::events::{EventBus, ObjectKind};
use create::Surroundings;
use jiff::Timestamp;
use naru_net::ports::Ports;
use naru_net::{Changed, Claim, Firewall, LinkName, Links, Watch};
use naru_runtime::spawner::{NetworkNamespace, Spawner};
use naru_types::ContainerId;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

/// Ready namespaces kept.
const WARM: usize = 4;

/// The networks of this daemon.
pub struct Networks {
    config: NetworkConfig,
    _claim: Claim,
    links: Links,
    firewall: Firewall,
    ports: Ports,
    entries: RwLock<BTreeMap<String, Arc<Entry>>>,
    /// One network is made at a time: subnets must not be chosen twice.
    creation: tokio::sync::Mutex<()>,
    /// Sockets and proxies of the containers' ports; dropping them gives the ports back.
    held: Mutex<HashMap<ContainerId, ports::Held>>,
    resolvers: Mutex<HashMap<ContainerId, attach::Resolver>>,
    warm: Mutex<Vec<NetworkNamespace>>,
    shortcuts: Mutex<shortcuts::State>,
}

impl Networks {
    /// Takes up the networks of the database and makes their links; rules are written by [`Networks::restore`].
    pub(crate) fn open(config: &NetworkConfig, rows: Vec<(String, String)>) -> Result<Self> {
        // First: links and rules of another engine must not be taken for a dead one's.
        let claim = Claim::take(&config.owner)?;
        naru_net::enable_forwarding(false)?;
        let networks = Networks {
            config: config.clone(),
            _claim: claim,
            links: Links::open(&format!("naru {}", config.owner))?,
            firewall: Firewall::open(&format!("naru-{}", config.owner), config.firewall)?,
            ports: Ports::new(),
            entries: RwLock::default(),
            creation: tokio::sync::Mutex::default(),
            held: Mutex::default(),
            resolvers: Mutex::default(),
            warm: Mutex::default(),
            shortcuts: Mutex::default(),
        };
        let mut records: Vec<Network> = config.predefined(Timestamp::now());
        for (id, row) in rows {
            match serde_json::from_str::<Network>(&row) {
                Ok(record) => records.push(record),
                Err(error) => tracing::error!(network = id, %error, "cannot read the network's record; it is left as it is"),
            }
        }
        for record in records {
            let (name, predefined) = (record.name.clone(), record.is_predefined());
            match networks.take_up(record) {
                Err(error) if predefined => return Err(error),
                // One broken network must not keep the others from working; it says so again when it is used.
                Err(error) => tracing::error!(network = name, error = crate::chain(&error), "cannot take up the network"),
                Ok(()) => {}
            }
        }
        Ok(networks)
    }

    fn take_up(&self, record: Network) -> Result<()> {
        let entry = Arc::new(Entry::new(record)?);
        self.entries.write().unwrap_or_else(PoisonError::into_inner).insert(entry.record.id.clone(), Arc::clone(&entry));
        self.make_link(&entry)
    }

    fn make_link(&self, entry: &Entry) -> Result<()> {
        if entry.record.config_only || matches!(entry.record.driver, Driver::Host | Driver::Null) {
            return Ok(());
        }
        if entry.record.ipv6 {
            naru_net::enable_forwarding(true)?;
        }
        entry.ensure_link(&self.links).map(drop)
    }

    /// All of them, by name.
    pub fn list(&self) -> Vec<Arc<Entry>> {
        let mut list: Vec<Arc<Entry>> = self.read().values().cloned().collect();
        list.sort_by(|a, b| a.record.name.cmp(&b.record.name));
        list
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<String, Arc<Entry>>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The network of that id, name, or unique id prefix.
    pub fn find(&self, reference: &str) -> Result<Arc<Entry>> {
        let entries = self.read();
        if let Some(entry) = entries.get(reference).or_else(|| entries.values().find(|entry| entry.record.name == reference)) {
            return Ok(Arc::clone(entry));
        }
        let mut matches = entries.values().filter(|entry| !reference.is_empty() && entry.record.id.starts_with(reference));
        match (matches.next(), matches.next()) {
            (Some(entry), None) => Ok(Arc::clone(entry)),
            (Some(_), Some(_)) => Err(EngineError::invalid(format!("network {reference} is ambiguous (several ids begin with it)"))),
            _ => Err(EngineError::NoSuchNetwork(reference.to_owned())),
        }
    }

    /// Lets containers' packets pass the chains that programs of the host share; returns those that drop what containers
    /// send nevertheless. May wait some seconds for a firewalld that does not answer.
    pub fn open_passages(&self) -> Vec<String> {
        let mut closed = self.firewall.open_passages().unwrap_or_else(|error| {
            tracing::warn!(error = crate::chain(&error), "cannot let containers' packets pass the rules of others");
            vec![]
        });
        if let Err(error) = self.firewall.trust_bridges() {
            tracing::warn!(error = crate::chain(&error), "firewalld does not let containers' packets pass");
            closed.push(naru_net::FIREWALLD_CHAIN.to_owned());
        }
        closed
    }

    /// Whether firewalld has to be asked for what passes.
    pub fn firewalld_decides(&self) -> bool {
        self.firewall.firewalld_decides()
    }

    /// Lets containers' packets pass the chains of `iptables-legacy`, of whose changes not everybody hears.
    pub(crate) fn open_legacy_passages(&self) {
        if let Err(error) = self.firewall.open_legacy_passages() {
            tracing::warn!(error = crate::chain(&error), "cannot let containers' packets pass the rules of iptables-legacy");
        }
    }

    /// Takes back what [`Networks::open_passages`] did.
    pub(crate) fn close_passages(&self) {
        // First, for it looks at the chains as if a way were wanted.
        self.distrust(None);
        if let Err(error) = self.firewall.close_passages() {
            tracing::warn!(error = crate::chain(&error), "cannot take the engine's rule out of the chains of others");
        }
    }

    fn distrust(&self, bridge: Option<&LinkName>) {
        if let Err(error) = self.firewall.distrust(bridge) {
            tracing::warn!(error = crate::chain(&error), "cannot have firewalld forget the networks' interfaces");
        }
    }

    /// How the default bridge is set up.
    pub fn config(&self) -> &NetworkConfig {
        &self.config
    }

    /// Makes a network.
    pub(crate) async fn create(self: &Arc<Self>, db: &Db, events: &EventBus, request: NetworkRequest) -> Result<Arc<Entry>> {
        let _one = self.creation.lock().await;
        let entry = Arc::new(Entry::new(self.plan(request)?)?);
        let record = &entry.record;
        let json = serde_json::to_string(record).expect("networks are plain data");
        // The row comes first: after a crash the next start makes the links, and a removal finds them.
        db.put_network(&record.id, json).await?;
        let (owner, made) = (Arc::clone(self), Arc::clone(&entry));
        let linked = tokio::task::spawn_blocking(move || owner.set_up(&made)).await;
        if let Err(error) = linked.map_err(|_| EngineError::Gone("the thread that makes networks")).flatten() {
            self.tear_down(&entry);
            db.delete_network(&record.id).await?;
            return Err(error);
        }
        self.entries.write().unwrap_or_else(PoisonError::into_inner).insert(record.id.clone(), Arc::clone(&entry));
        publish(events, &entry, "create", None);
        Ok(entry)
    }

    fn plan(&self, request: NetworkRequest) -> Result<Network> {
        let entries = self.read();
        let ours: HashSet<u32> = entries.values().filter_map(|entry| entry.known_link()).collect();
        let around = Surroundings {
            networks: entries.values().map(|entry| &entry.record).collect(),
            routed: self.links.foreign_networks(|index| ours.contains(&index))?,
            pools: &self.config.pools,
            unique_local: &self.config.unique_local,
        };
        create::plan(request, &around)
    }

    fn set_up(&self, entry: &Entry) -> Result<()> {
        self.make_link(entry)?;
        let Some(rules) = entry.rules() else { return Ok(()) };
        self.firewall.add_bridge(rules)?;
        if self.firewall.firewalld_decides() {
            self.open_passages();
        }
        Ok(())
    }

    fn tear_down(&self, entry: &Entry) {
        if let Some(bridge) = entry.bridge() {
            if let Err(error) = self.firewall.remove_bridge(&bridge.name) {
                tracing::warn!(network = entry.record.name, error = crate::chain(&error), "cannot remove the network's rules");
            }
            self.distrust(Some(&bridge.name));
        }
        entry.drop_links(|| {
            let own = entry.own_links().unwrap_or_default().into_iter().filter(|link| self.is_made_for(entry, link));
            for link in own.chain(self.made_parent(entry)) {
                if let Err(error) = self.links.remove(&link) {
                    tracing::warn!(network = entry.record.name, error = crate::chain(&error), "cannot remove the network's interface");
                }
            }
        });
    }

    /// Makes a network's bridge what it shall be again: there, with its addresses, and with the containers' links.
    fn mend(&self, entry: &Entry, damage: Damage) -> Result<()> {
        let Some(bridge) = entry.bridge() else { return Ok(()) };
        let index = match damage {
            Damage::Links => entry.known_link(),
            Damage::Bridge => entry.mend_link(&self.links)?,
        };
        let Some(index) = index else { return Ok(()) };
        self.gather(entry, bridge, index, &self.links.list()?)
    }

    /// Puts the containers' links on the bridge, of which another bridge was lost, and sets them up.
    fn gather(&self, entry: &Entry, bridge: &record::BridgeOptions, index: u32, links: &[naru_net::Link]) -> Result<()> {
        for interface in entry.members().into_iter().filter_map(|member| member.endpoint.interface) {
            if links.iter().any(|link| link.name == interface && (link.master != Some(index) || !link.up)) {
                self.links.rejoin(&interface.parse()?, index, !bridge.icc)?;
            }
        }
        Ok(())
    }

    /// The networks whose bridges others have damaged: deleted, set down, renamed, or taken an address from, or a container's link
    /// on it set down or taken off. A bridge that somebody else made is theirs to set down and to rename.
    fn damaged(&self, changed: &Changed) -> Vec<(String, Damage)> {
        let damage = |entry: &Entry| {
            let (bridge, index) = (entry.bridge()?, entry.known_link()?);
            let seen = changed.bridges.get(&index).filter(|seen| self.links.has_made(seen));
            if changed.bereft.contains(&index) || seen.is_some_and(|seen| !seen.up || seen.name != bridge.name.as_str()) {
                return Some(Damage::Bridge);
            }
            let has_strayed = |member: &Member| member.endpoint.interface.as_ref().is_some_and(|link| changed.strayed.contains(link));
            (!changed.strayed.is_empty() && entry.members().iter().any(has_strayed)).then_some(Damage::Links)
        };
        self.read().values().filter_map(|entry| Some((entry.record.id.clone(), damage(entry)?))).collect()
    }

    /// Whether the engine has made this link for the network: one that bears the name may be the host's, also a bridge that the
    /// network shares, or a link for another purpose. What cannot be looked at stays until the engine's next start.
    fn is_made_for(&self, entry: &Entry, link: &LinkName) -> bool {
        let found = self.links.find(link).ok().flatten();
        found.is_some_and(|found| self.links.has_made(&found) && (entry.bridge().is_none() || found.kind == "bridge"))
    }

    /// The interface of a VLAN that was made for this network and that no other stands on.
    fn made_parent(&self, entry: &Entry) -> Option<LinkName> {
        let parent = entry.parent()?;
        let is_shared = self.list().iter().any(|other| other.record.id != entry.record.id && other.parent() == Some(parent));
        // One that cannot be asked for stays until the engine's next start.
        (!is_shared && self.links.is_ours(parent).unwrap_or_default()).then(|| parent.clone())
    }

    /// Deletes a network that nobody is on.
    pub(crate) async fn remove(self: &Arc<Self>, db: &Db, events: &EventBus, reference: &str) -> Result<String> {
        let entry = self.find(reference)?;
        let record = &entry.record;
        if record.is_predefined() {
            let text = format!("{} is a pre-defined network and cannot be removed", record.name);
            return Err(EngineError::Denied { text, kind: naru_types::ErrorKind::Forbidden });
        }
        if let Some(user) = self.read().values().find(|other| record.config_only && other.record.config_from == record.name) {
            return Err(EngineError::conflict(format!("configuration network {:?} is in use by {}", record.name, user.record.name)));
        }
        entry.close()?;
        if let Err(error) = db.delete_network(&record.id).await {
            entry.reopen();
            return Err(error);
        }
        self.entries.write().unwrap_or_else(PoisonError::into_inner).remove(&record.id);
        let (owner, gone) = (Arc::clone(self), Arc::clone(&entry));
        if tokio::task::spawn_blocking(move || owner.tear_down(&gone)).await.is_err() {
            tracing::error!("the thread that removes networks panicked");
        }
        publish(events, &entry, "destroy", None);
        Ok(record.id.clone())
    }

    /// A fresh namespace, if possible one made beforehand.
    pub(crate) fn take_namespace(&self, spawner: &Spawner) -> Result<NetworkNamespace> {
        let ready = self.warm.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match ready {
            Some(namespace) => Ok(namespace),
            None => Ok(spawner.network_namespace()?),
        }
    }

    /// Fills the store of ready namespaces.
    pub(crate) fn warm_up(&self, spawner: &Spawner) {
        while self.warm.lock().unwrap_or_else(PoisonError::into_inner).len() < WARM {
            match spawner.network_namespace() {
                Ok(namespace) => self.warm.lock().unwrap_or_else(PoisonError::into_inner).push(namespace),
                Err(error) => {
                    tracing::warn!(error = crate::chain(&error), "cannot make a network namespace ahead of use");
                    return;
                }
            }
        }
    }

    /// Writes the rules of all networks and ports in one transaction and removes links that nobody owns.
    pub(crate) fn restore<'a>(&self, places: impl Iterator<Item = &'a Place> + Clone) -> Result<()> {
        let entries = self.list();
        let rules = entries.iter().filter_map(|entry| entry.rules()).collect();
        self.firewall.restore(rules, places.clone().flat_map(Place::port_maps).collect())?;
        let links = self.links.list()?;
        self.close_former_shortcuts(&links)?;
        for entry in &entries {
            if let (Some(bridge), Some(index)) = (entry.bridge(), entry.known_link()) {
                self.gather(entry, bridge, index, &links)?;
            }
        }
        self.sweep(places)
    }

    /// Removes links that neither a place nor a network owns.
    pub(crate) fn sweep<'a>(&self, places: impl Iterator<Item = &'a Place>) -> Result<()> {
        let endpoints = places.flat_map(|place| &place.endpoints);
        let mut keep: HashSet<LinkName> = endpoints.filter_map(|endpoint| endpoint.interface.as_ref()?.parse().ok()).collect();
        for entry in self.list() {
            keep.extend(entry.kept_links()?);
        }
        self.links.cleanup(&keep)?;
        Ok(())
    }

    /// Puts the rules back whenever another program has changed them, in a thread of its own.
    pub(crate) fn guard(self: &Arc<Self>) -> Result<()> {
        let watch = self.firewall.watch()?;
        // What nftables can do is done before the first container comes; the thread does it again and tells what fails.
        self.firewall.open_passages().ok();
        let (opened, is_opened) = std::sync::mpsc::channel();
        let networks = Arc::downgrade(self);
        std::thread::Builder::new()
            .name("naru-firewall".into())
            .stack_size(256 << 10)
            .spawn(move || {
                if let Some(networks) = networks.upgrade() {
                    for obstacle in networks.open_passages() {
                        tracing::warn!(
                            chain = obstacle,
                            "rules of the host drop forwarded packets: containers may not reach the outside or each other"
                        );
                    }
                }
                // Nobody may be waiting.
                opened.send(()).ok();
                keep(&networks, watch);
            })
            .map_err(EngineError::io("start the thread that guards", "the firewall"))?;
        if self.firewall.firewalld_decides() {
            // Mostly it answers at once, and then no container starts before; one that does not keeps nobody waiting.
            is_opened.recv_timeout(Duration::from_millis(300)).ok();
        }
        Ok(())
    }
}

/// Mends what others change, as long as there are networks.
fn keep(networks: &Weak<Networks>, mut watch: Watch) {
    let (mut quarrel, mut bridges) = (Quarrel::default(), Repairs::default());
    loop {
        let changed = match watch.wait(bridges.patience(Instant::now())) {
            Ok(changed) => changed,
            Err(error) => {
                let error = crate::chain(&error);
                tracing::error!(error, "the firewall is not watched any more; rules that others delete return with the next start");
                return;
            }
        };
        let Some(networks) = networks.upgrade() else { return };
        networks.damaged(&changed).into_iter().for_each(|(id, damage)| bridges.want(id, damage));
        let (damaged, pause) = bridges.take(Instant::now());
        for (id, damage) in &damaged {
            let Some(entry) = networks.read().get(id).cloned() else { continue };
            let (network, mended) = (&entry.record.name, networks.mend(&entry, *damage));
            match mended {
                Err(error) => tracing::error!(network, error = crate::chain(&error), "cannot make the network's {damage} again"),
                Ok(()) if pause.is_zero() => tracing::warn!(network, "another program changed the network's {damage}; restored"),
                Ok(()) => tracing::error!(network, ?pause, "another program changes the network's {damage} again and again; restored"),
            }
        }
        if changed.filtering || !changed.bridges.is_empty() || !damaged.is_empty() {
            // A bridge may have br_netfilter switched on for itself.
            networks.open_shortcuts();
        }
        if !changed.rules {
            continue;
        }
        let mut pause = Duration::ZERO;
        match networks.firewall.repair() {
            Ok(true) => {
                pause = quarrel.pause(Instant::now());
                if pause.is_zero() {
                    tracing::warn!("another program changed the firewall rules of the networks; they are restored");
                } else {
                    tracing::error!(
                        ?pause,
                        "another program changes the firewall rules of the networks again and again; they are restored"
                    );
                }
            }
            Ok(false) => {}
            Err(error) => tracing::error!(error = crate::chain(&error), "cannot restore the firewall rules of the networks"),
        }
        networks.open_passages();
        drop(networks);
        std::thread::sleep(pause);
    }
}

/// What others have changed of a network: the more of it the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Damage {
    /// Of containers on its bridge.
    Links,
    /// And perhaps the links on it.
    Bridge,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Damage::Links => "links",
            Damage::Bridge => "bridge",
        })
    }
}

/// The networks, by their ids, that are to be mended, which is put off while somebody breaks them again and again. Rules do not
/// wait meanwhile.
#[derive(Default)]
struct Repairs {
    quarrel: Quarrel,
    wanted: BTreeMap<String, Damage>,
    not_before: Option<Instant>,
}

impl Repairs {
    /// How long until they are due; none while there are none.
    fn patience(&self, now: Instant) -> Option<Duration> {
        let due = self.not_before.unwrap_or(now);
        (!self.wanted.is_empty()).then(|| due.saturating_duration_since(now))
    }

    fn want(&mut self, id: String, damage: Damage) {
        let known = self.wanted.entry(id).or_insert(damage);
        *known = damage.max(*known);
    }

    /// Those that are due, and how long the next ones wait.
    fn take(&mut self, now: Instant) -> (BTreeMap<String, Damage>, Duration) {
        if self.patience(now).is_none_or(|patience| !patience.is_zero()) {
            return (BTreeMap::new(), Duration::ZERO);
        }
        let pause = self.quarrel.pause(now);
        self.not_before = Some(now + pause);
        (std::mem::take(&mut self.wanted), pause)
    }
}

/// How often others changed our rules of late: who mends them at once every time may mend for ever, with a processor of its own.
#[derive(Default)]
struct Quarrel {
    times: u32,
    last: Option<Instant>,
}

impl Quarrel {
    /// So many repairs in a row are nothing out of the way: some programs write their rules in several steps.
    const TOLERATED: u32 = 10;
    const CALM: Duration = Duration::from_secs(10);
    const LONGEST: Duration = Duration::from_secs(5);

    /// How long to wait after a repair before the next one.
    fn pause(&mut self, now: Instant) -> Duration {
        let calm = self.last.is_none_or(|last| now.duration_since(last) > Self::CALM);
        self.times = if calm { 1 } else { self.times + 1 };
        self.last = Some(now);
        match self.times.checked_sub(Self::TOLERATED + 1) {
            None => Duration::ZERO,
            Some(over) => Self::LONGEST.min(Duration::from_millis(100) * (1 << over.min(8))),
        }
    }
}

/// Publishes an event about a network.
pub(crate) fn publish(events: &EventBus, entry: &Entry, action: &str, container: Option<&ContainerId>) {
    let record = &entry.record;
    let mut attributes = BTreeMap::from([("name".to_owned(), record.name.clone()), ("type".to_owned(), record.driver.as_str().to_owned())]);
    if let Some(container) = container {
        attributes.insert("container".into(), container.to_string());
    }
    events.publish(ObjectKind::Network, action, &record.id, attributes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarrel_is_slowed_down() {
        let (mut quarrel, start) = (Quarrel::default(), Instant::now());
        let pauses: Vec<Duration> = (0..18).map(|_| quarrel.pause(start)).collect();
        assert!(pauses[..10].iter().all(Duration::is_zero), "{pauses:?}");
        assert_eq!(pauses[10], Duration::from_millis(100));
        assert!(pauses[10..].is_sorted() && pauses[17] == Quarrel::LONGEST, "{pauses:?}");
        assert_eq!(quarrel.pause(start + Quarrel::CALM), Quarrel::LONGEST);
        assert_eq!(quarrel.pause(start + Quarrel::CALM * 3), Duration::ZERO);
    }

    #[test]
    fn repairs_wait_in_a_quarrel() {
        let (mut repairs, mut now) = (Repairs::default(), Instant::now());
        assert_eq!(repairs.patience(now), None);
        let (mut done, until) = (0, now + Duration::from_secs(60));
        while now < until {
            repairs.want("a".into(), Damage::Bridge);
            repairs.want("b".into(), Damage::Links);
            let (due, _) = repairs.take(now);
            assert!(due.is_empty() || due.len() == 2, "{due:?}");
            done += usize::from(!due.is_empty());
            now += Duration::from_millis(10);
        }
        assert!((10..40).contains(&done), "{done} repairs in a minute of quarrel");
        for damage in [Damage::Links, Damage::Bridge, Damage::Links] {
            repairs.want("c".into(), damage);
        }
        let patience = repairs.patience(now).unwrap();
        assert!(!patience.is_zero() && patience <= Quarrel::LONGEST, "{patience:?}");
        assert_eq!(repairs.take(now + patience).0["c"], Damage::Bridge);
    }
}
