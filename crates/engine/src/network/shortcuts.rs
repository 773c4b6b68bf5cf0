//! Containers of one bridge send to each other directly, see [`naru_net::Shortcuts`]: opened some time after they have started,
//! for who is gone by then needs none, and closed when they leave, for their addresses become another's.

use super::entry::{Entry, Member};
use super::{Endpoint, Networks};
use crate::error::Result;
use naru_net::{Filtering, Link, LinkName, MacAddress, Shortcuts, Way};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// How long after a container has come its network is looked at.
const PAUSE: Duration = Duration::from_secs(1);

/// The shortcuts of the containers.
#[derive(Default)]
pub(super) struct State {
    kernel: Kernel,
    /// By endpoint id, with how the bridge was filtered.
    open: HashMap<String, (Way, Filtering)>,
    /// The networks will be looked at.
    planned: bool,
}

#[derive(Default)]
enum Kernel {
    /// Nobody has needed it yet.
    #[default]
    Unknown,
    /// It has no such programs.
    Unable,
    Able(Shortcuts),
}

impl Kernel {
    /// Loaded with the first use, for most hosts have no two containers that talk.
    fn get(&mut self) -> Option<&Shortcuts> {
        if let Kernel::Unknown = self {
            *self = match Shortcuts::load() {
                Ok(shortcuts) => Kernel::Able(shortcuts),
                Err(error) => {
                    tracing::info!(error = crate::chain(&error), "containers of one network send to each other by its bridge");
                    Kernel::Unable
                }
            };
        }
        match self {
            Kernel::Able(shortcuts) => Some(shortcuts),
            _ => None,
        }
    }
}

/// Who may have one.
struct End {
    entry: Arc<Entry>,
    /// The endpoint's.
    id: String,
    interface: LinkName,
    way: Way,
}

impl End {
    /// Its rate is not limited, and it has an interface on the host.
    fn of(entry: &Arc<Entry>, member: &Member, bridge: u32) -> Option<End> {
        let endpoint = &member.endpoint;
        let is_limited = endpoint.rate_in.is_some() || endpoint.rate_out.is_some();
        let (interface, mac) = (endpoint.interface.as_ref()?.parse().ok()?, MacAddress(endpoint.mac?));
        let end = End { entry: Arc::clone(entry), id: endpoint.id.clone(), interface, way: Way { bridge, mac } };
        (!is_limited).then_some(end)
    }
}

impl Networks {
    /// Has shortcuts opened a while after containers have come.
    pub(crate) fn plan_shortcuts(self: &Arc<Self>) {
        if std::mem::replace(&mut self.shortcuts().planned, true) {
            return;
        }
        let networks = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(PAUSE).await;
            let Some(networks) = networks.upgrade() else { return };
            networks.shortcuts().planned = false;
            tokio::task::spawn_blocking(move || networks.open_shortcuts());
        });
    }

    fn shortcuts(&self) -> std::sync::MutexGuard<'_, State> {
        self.shortcuts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens those that are not open yet, and anew those whose bridge is another, or is filtered now, or not any more. Bridges
    /// have news with each first container on them: who is open as it should be costs no request.
    pub(super) fn open_shortcuts(&self) {
        let filtering = Filtering::now();
        let mut ends = Vec::new();
        for entry in self.list() {
            let shares = entry.bridge().is_some_and(|bridge| bridge.icc && bridge.shortcut);
            let (true, Some(bridge)) = (shares, entry.known_link()) else { continue };
            let members: Vec<End> = entry.members().iter().filter_map(|member| End::of(&entry, member, bridge)).collect();
            if members.len() < 2 {
                continue;
            }
            match filtering.of(&self.links, bridge) {
                Ok(filtering) => ends.extend(members.into_iter().map(|end| (end, filtering))),
                Err(error) => tracing::debug!(bridge, error = crate::chain(&error), "no shortcuts"),
            }
        }
        for (end, filtering) in &ends {
            // Which of two that have one address, the bridge learns with each packet of theirs.
            let is_alone = ends.iter().filter(|(other, _)| other.way == end.way).count() == 1;
            if let Err(error) = if is_alone { self.open_shortcut(end, *filtering) } else { self.return_to_bridge(end) } {
                tracing::debug!(interface = end.interface.as_str(), error = crate::chain(&error), "no shortcut");
            }
        }
    }

    fn open_shortcut(&self, end: &End, filtering: Filtering) -> Result<()> {
        let mut state = self.shortcuts();
        // Who leaves does so before the shortcut is closed, for which the lock is needed.
        let former = state.open.get(&end.id).copied();
        if !end.entry.has(&end.id) || former == Some((end.way, filtering)) {
            return Ok(());
        }
        let Some(kernel) = state.kernel.get() else { return Ok(()) };
        if let Some((other, _)) = former.filter(|(former, _)| *former != end.way) {
            kernel.close(other)?;
        }
        let opened = kernel.open(&self.links, &end.interface, end.way, filtering);
        if opened.is_err() {
            kernel.close(end.way)?;
        }
        // Also what failed: it would fail again each time somebody comes.
        state.open.insert(end.id.clone(), (end.way, filtering));
        Ok(opened?)
    }

    /// Nothing goes to it directly any more, nor does what it sends: the bridge has to learn where it is.
    fn return_to_bridge(&self, end: &End) -> Result<()> {
        if !self.shortcuts().open.contains_key(&end.id) {
            return Ok(());
        }
        self.close_shortcut(&end.id)?;
        Ok(self.links.close_shortcuts(self.links.find(&end.interface)?.as_slice())?)
    }

    fn close_shortcut(&self, endpoint: &str) -> Result<()> {
        let mut state = self.shortcuts();
        let Some((way, _)) = state.open.remove(endpoint) else { return Ok(()) };
        // The address may have become another's meanwhile, whose shortcut this is then.
        let is_anothers = state.open.values().any(|(other, _)| *other == way);
        match &state.kernel {
            Kernel::Able(shortcuts) if !is_anothers => Ok(shortcuts.close(way)?),
            _ => Ok(()),
        }
    }

    /// Takes an endpoint off its network, and its shortcut with it.
    pub(super) fn leave(&self, entry: &Entry, endpoint: &Endpoint) {
        entry.leave(endpoint);
        if let Err(error) = self.close_shortcut(&endpoint.id) {
            tracing::warn!(error = crate::chain(&error), "cannot close a shortcut between containers");
        }
    }

    /// Removes what a former daemon opened: its table is not ours.
    pub(super) fn close_former_shortcuts(&self, links: &[Link]) -> Result<()> {
        Ok(self.links.close_shortcuts(links)?)
    }
}
