//! br_netfilter: whether packets that stay within a bridge are shown to iptables.

use crate::error::Result;
use crate::links::Links;
use crate::netlink::{Batch, attributes};
use crate::rtnetlink::{GET_LINK, ifla, interface};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Its switches, of which each network namespace has its own.
const SWITCHES: [&str; 3] = [
    "/proc/sys/net/bridge/bridge-nf-call-iptables",
    "/proc/sys/net/bridge/bridge-nf-call-ip6tables",
    "/proc/sys/net/bridge/bridge-nf-call-arptables",
];

/// What br_netfilter does in a network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filtering {
    /// The kernel does without it.
    Absent,
    /// It is there and switched off.
    Asleep,
    /// Packets that stay within a bridge pass iptables.
    Awake,
}

impl Filtering {
    /// As it is in the network namespace of the calling thread.
    pub fn now() -> Filtering {
        match SWITCHES.map(std::fs::read) {
            [Err(_), Err(_), Err(_)] => Filtering::Absent,
            switches if switches.iter().flatten().all(|text| text.trim_ascii() == b"0") => Filtering::Asleep,
            _ => Filtering::Awake,
        }
    }

    /// As it is for the packets of a bridge.
    pub fn of(self, links: &Links, bridge: u32) -> Result<Filtering> {
        Ok(if self == Filtering::Asleep && is_awake_for(links, bridge)? { Filtering::Awake } else { self })
    }
}

/// Whether a bridge has it switched on for itself.
fn is_awake_for(links: &Links, bridge: u32) -> Result<bool> {
    /// IFLA_BR_NF_CALL_IPTABLES to _ARPTABLES.
    const CALLS: std::ops::RangeInclusive<u16> = 36..=38;
    let mut batch = Batch::default();
    batch.begin(GET_LINK, 0, "look at", "the bridge", &interface(0, bridge, false));
    let answers = links.socket().request(batch)?;
    let of = |bytes, wanted| attributes(bytes).find(move |(kind, _)| *kind == wanted).map(|(_, value)| value);
    let data = answers.iter().filter_map(|answer| of(of(answer.0.get(16..)?, ifla::LINKINFO)?, ifla::INFO_DATA));
    Ok(data.flat_map(attributes).any(|(kind, value)| CALLS.contains(&kind) && value != [0]))
}

/// Hears of the switches. The kernel tells of writes to the file that is open: another look-up would otherwise have a new one.
#[derive(Debug)]
pub(crate) struct FilteringWatch {
    events: OwnedFd,
    _switches: Vec<File>,
}

impl FilteringWatch {
    /// None where there is no br_netfilter, or nothing to hear by.
    pub fn open() -> Option<FilteringWatch> {
        let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
        let open = |path: &&str| {
            let file = File::open(path).ok()?;
            inotify::add_watch(&events, *path, WatchFlags::MODIFY).ok().map(|_| file)
        };
        let switches: Vec<File> = SWITCHES.iter().filter_map(open).collect();
        (!switches.is_empty()).then_some(FilteringWatch { events, _switches: switches })
    }

    /// Whether one was written to since.
    pub fn poll(&self) -> bool {
        let mut heard = false;
        while matches!(rustix::io::read(&self.events, &mut [0; 1024]), Ok(1..)) {
            heard = true;
        }
        heard
    }
}

impl AsFd for FilteringWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}
