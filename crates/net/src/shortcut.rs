//! A shortcut between the ports of a bridge: what one container sends to another goes from the one's link into the other's,
//! without a second queue and the bridge between them.
//!
//! An eBPF program looks at what arrives by the host's end of a container's pair. A packet whose destination is in the table
//! (bridge and hardware address) is handed to the link that it names; all others go the usual way: what is for everybody, for the
//! host, for other machines, and everything whenever somebody could notice the difference (see [`program`]), from the next packet
//! on and without help of the engine. Only that br_netfilter is switched on has to be told: [`Filtering`].
//!
//! Rules of tc at the host's end of the sender come first; where the receiver's end has some, or a queue, the packet takes the
//! bridge. What the bridge has learned is not asked: two with one address must be left out. Source: bpf-helpers(7), tc-bpf(8).

mod btf;
mod filtering;
mod program;

pub use filtering::Filtering;
pub(crate) use filtering::FilteringWatch;

use crate::address::{LinkName, MacAddress};
use crate::error::{Error, Result};
use crate::links::Links;
use crate::netlink::{Batch, flags};
use crate::rtnetlink::{ETHERTYPE_ALL, INGRESS, INGRESS_HANDLE, Link, NEW_FILTER, NEW_QDISC, traffic_control};
use naru_sys::bpf::{Table, load_packet_program};
use program::{ONE_HOOK_SLEEPS, Places};
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Where the kernel describes its types.
const TYPES: &str = "/sys/kernel/btf/vmlinux";
/// More containers than a machine has.
const MOST: u32 = 1 << 16;

const DEL_FILTER: u16 = 45;
/// Parent of filters for what arrives, of the queue `clsact`.
const ARRIVING: u32 = 0xffff_fff2;
/// After those of everybody else.
const PRIORITY: u32 = 0xc000;
const KIND: u16 = 1;
const OPTIONS: u16 = 2;

/// The end of a container's pair on a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// Index of the bridge.
    pub bridge: u32,
    /// The container's hardware address.
    pub mac: MacAddress,
}

impl Way {
    /// As the program writes it.
    fn key(self) -> [u8; program::KEY] {
        let mut key = [0; program::KEY];
        key[..6].copy_from_slice(&self.mac.0);
        key[8..].copy_from_slice(&self.bridge.to_ne_bytes());
        key
    }
}

/// The program and its table; the kernel keeps both as long as a link uses them.
#[derive(Debug)]
pub struct Shortcuts {
    program: OwnedFd,
    table: Table<{ program::KEY }>,
}

impl Shortcuts {
    /// Loads the program; an error where the kernel has no such programs, or does not describe itself as expected.
    pub fn load() -> Result<Shortcuts> {
        let text = std::fs::read(TYPES).map_err(|source| Error::File { action: "read", path: TYPES.to_owned(), source })?;
        let places = Places::of(&text).ok_or_else(|| Error::Answer { object: TYPES.to_owned() })?;
        let table = Table::new(MOST).map_err(|errno| Error::kernel("make", "a table for eBPF", errno))?;
        let program = program::assemble(&places, table.as_fd().as_raw_fd());
        let program = load_packet_program(&program).map_err(|errno| Error::kernel("load", "an eBPF program", errno))?;
        Ok(Shortcuts { program, table })
    }

    /// What others send to the container goes directly to it, and what it sends to those that are open, too. To be done again when
    /// the filtering of the bridge has changed.
    pub fn open(&self, links: &Links, host_name: &LinkName, way: Way, filtering: Filtering) -> Result<()> {
        let name = host_name.as_str();
        let Some(link) = links.find(host_name)? else { return Err(Error::kernel("look at", name, Errno::NODEV)) };
        let element = link.index | if filtering == Filtering::Asleep { ONE_HOOK_SLEEPS } else { 0 };
        self.table.set(&way.key(), element).map_err(|errno| Error::kernel("make a shortcut to", name, errno))?;
        let mut batch = Batch::default();
        let queue = traffic_control(link.index, INGRESS_HANDLE, INGRESS, 0);
        batch.begin(NEW_QDISC, flags::CREATE | flags::EXCL | flags::ACK, "make a queue for", name, &queue);
        batch.text(KIND, "clsact");
        batch.or_refused(Errno::EXIST);
        let filter = traffic_control(link.index, 1, ARRIVING, PRIORITY << 16 | ETHERTYPE_ALL);
        batch.begin(NEW_FILTER, flags::CREATE | flags::ACK, "make a shortcut for", name, &filter);
        batch.text(KIND, "bpf");
        batch.nest(OPTIONS, |b| {
            b.u32(6, self.program.as_raw_fd().cast_unsigned());
            b.text(7, "naru-shortcut");
            // What the program returns is what is done.
            b.u32(8, 1);
        });
        links.socket().request(batch).map(drop)
    }

    /// The container is reached by the bridge again.
    pub fn close(&self, way: Way) -> Result<()> {
        self.table.remove(&way.key()).map_err(|errno| Error::kernel("remove", "a shortcut", errno))
    }
}

impl Links {
    /// Takes the program of a former engine off those links that it has made; who has none is left as it is.
    pub fn close_shortcuts(&self, links: &[Link]) -> Result<()> {
        let mut batch = Batch::default();
        for link in links.iter().filter(|link| self.has_made(link) && link.kind == "veth") {
            let filter = traffic_control(link.index, 1, ARRIVING, PRIORITY << 16 | ETHERTYPE_ALL);
            batch.begin(DEL_FILTER, flags::ACK, "remove the shortcut of", &link.name, &filter);
            batch.text(KIND, "bpf");
            // No such filter; no queue that has filters; the link went meanwhile.
            [Errno::NOENT, Errno::INVAL, Errno::NODEV].into_iter().for_each(|errno| batch.or_refused(errno));
        }
        if batch.is_empty() { Ok(()) } else { self.socket().request(batch).map(drop) }
    }
}
