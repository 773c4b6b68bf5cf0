//! firewalld, asked by D-Bus to let containers' packets pass: for one that owns its table, where the kernel refuses a rule of
//! anybody else (`NftablesTableOwner`, the default since 2.2).
//!
//! The bridges become interfaces of its zone `trusted`, which forwards what comes from them; answers and what goes to
//! published ports firewalld accepts by itself. Only what it holds at run time is changed, so that nothing of ours is kept on
//! its disk: a reload forgets it, of which nftables tells (`filter_FORWARD` is made anew), and it is said again. A bridge that
//! the user has put into a zone stays there.

use super::dbus::{Bus, Object};
use crate::address::LinkName;
use crate::error::{Error, Result};
use std::time::{Duration, Instant};

const SERVICE: &str = "org.fedoraproject.FirewallD1";
/// What it does now.
const RUNNING: Object = Object { service: SERVICE, path: "/org/fedoraproject/FirewallD1", interface: "org.fedoraproject.FirewallD1.zone" };
/// What its files say.
const PERMANENT: Object =
    Object { service: SERVICE, path: "/org/fedoraproject/FirewallD1/config", interface: "org.fedoraproject.FirewallD1.config" };
const ZONE: &str = "trusted";

/// All of an exchange. It answers within milliseconds, unless it is loading its rules.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two looks whether it has taken its name on the bus, which it does (2.5) when its table has been there for a while.
const AGAIN: Duration = Duration::from_millis(50);

/// Puts bridges that are in no zone into the one that is trusted.
pub(crate) fn trust<'l>(bridges: impl IntoIterator<Item = &'l LinkName>) -> Result<()> {
    for_each(bridges, |bus, bridge| {
        if bus.call(RUNNING, "getZoneOfInterface", &[bridge])?.is_empty() {
            bus.call(RUNNING, "addInterface", &[ZONE, bridge])?;
        }
        Ok(())
    })
}

/// Takes bridges out of it; what its files say stays.
pub(crate) fn forget<'l>(bridges: impl IntoIterator<Item = &'l LinkName>) -> Result<()> {
    for_each(bridges, |bus, bridge| {
        if bus.call(RUNNING, "getZoneOfInterface", &[bridge])? == ZONE && bus.call(PERMANENT, "getZoneOfInterface", &[bridge])?.is_empty() {
            bus.call(RUNNING, "removeInterface", &[ZONE, bridge])?;
        }
        Ok(())
    })
}

/// Does something for each bridge. That it is refused for one keeps it from no other.
fn for_each<'l>(bridges: impl IntoIterator<Item = &'l LinkName>, mut act: impl FnMut(&mut Bus, &str) -> Result<()>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut bus = Bus::connect(deadline)?;
    let mut result = Ok(());
    for bridge in bridges {
        let mut done = act(&mut bus, bridge.as_str());
        while matches!(done, Err(Error::NoService { .. })) && Instant::now() < deadline {
            std::thread::sleep(AGAIN);
            done = act(&mut bus, bridge.as_str());
        }
        match done {
            Err(error @ Error::Refused { .. }) => result = Err(error),
            done => done?,
        }
    }
    result
}
