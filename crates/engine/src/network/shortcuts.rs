//! Containers of one bridge send to each other directly, see [`naru_net::Shortcuts`]: opened some time after they have started, for
//! who is gone by then needs none, and closed before their addresses can become another's.

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
    /// By endpoint id.
    open: HashMap<String, Way>,
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

/// Who may have one: its rate is not limited, and it has an interface on the host.
fn end(member: &Member) -> Option<(LinkName, MacAddress)> {
    let endpoint = &member.endpoint;
    let is_limited = endpoint.rate_in.is_some() || endpoint.rate_out.is_some();
    let (interface, mac) = (endpoint.interface.as_ref()?, endpoint.mac?);
    Some((interface.parse().ok()?, MacAddress(mac))).filter(|_| !is_limited)
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
            tokio::task::spawn_blocking(move || networks.open_shortcuts(false));
        });
    }

    fn shortcuts(&self) -> std::sync::MutexGuard<'_, State> {
        self.shortcuts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens those that are not open yet, or all again: bridges may be others, or be filtered now, or not any more.
    pub(super) fn open_shortcuts(&self, again: bool) {
        let filtering = Filtering::now();
        for entry in self.list() {
            let shares = entry.bridge().is_some_and(|bridge| bridge.icc && bridge.shortcut);
            let (true, Some(bridge)) = (shares, entry.known_link()) else { continue };
            let ends: Vec<_> = entry.members().iter().filter_map(|member| Some((member.endpoint.id.clone(), end(member)?))).collect();
            if ends.len() < 2 {
                continue;
            }
            for (id, (interface, mac)) in ends {
                let way = Way { bridge, mac };
                if let Err(error) = self.open_shortcut(&entry, &id, &interface, way, filtering, again) {
                    tracing::debug!(interface = interface.as_str(), error = crate::chain(&error), "no shortcut");
                }
            }
        }
    }

    fn open_shortcut(&self, entry: &Entry, id: &str, interface: &LinkName, way: Way, filtering: Filtering, again: bool) -> Result<()> {
        let mut state = self.shortcuts();
        // Who leaves does so before the shortcut is closed, for which the lock is needed.
        let former = state.open.get(id).copied();
        if !entry.has(id) || !again && former == Some(way) {
            return Ok(());
        }
        let Some(kernel) = state.kernel.get() else { return Ok(()) };
        if let Some(other) = former.filter(|former| *former != way) {
            kernel.close(other)?;
        }
        let opened = kernel.open(&self.links, interface, way, filtering);
        if opened.is_err() {
            kernel.close(way)?;
        }
        state.open.insert(id.to_owned(), way);
        Ok(opened?)
    }

    /// Takes an endpoint off its network, and its shortcut with it.
    pub(super) fn leave(&self, entry: &Entry, endpoint: &Endpoint) {
        entry.leave(endpoint);
        let mut state = self.shortcuts();
        if let (Some(way), Kernel::Able(shortcuts)) = (state.open.remove(&endpoint.id), &state.kernel)
            && let Err(error) = shortcuts.close(way)
        {
            tracing::warn!(error = crate::chain(&error), "cannot close a shortcut between containers");
        }
    }

    /// Removes what a former daemon opened: its table is not ours.
    pub(super) fn close_former_shortcuts(&self, links: &[Link]) -> Result<()> {
        Ok(self.links.close_shortcuts(links)?)
    }
}
