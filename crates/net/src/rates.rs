//! Rates of a link: a token bucket where packets leave, and for those that arrive a detour by a link of its own.
//!
//! The kernel can delay what leaves a link, not what comes in. What comes in is therefore sent through an `ifb` link,
//! whose queue is a bucket, and goes on from there as if nothing had happened. For a container on a bridge both lie at
//! the host's end of its pair, where no container can take them away, whatever it may do in its own namespace.

use crate::address::LinkName;
use crate::error::{Error, Result};
use crate::netlink::{Batch, Socket, flags};
use crate::rtnetlink::{
    ETHERTYPE_ALL, GET_LINK, INGRESS, INGRESS_HANDLE, NEW_FILTER, NEW_LINK, NEW_QDISC, get_link, ifla, interface, link_of, look_at,
    looked_at, or_unsupported, remove_link, traffic_control, without_own_ipv6,
};
use rustix::io::Errno;
use std::os::fd::AsFd;

/// How much may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rate {
    /// Bits per second into the container.
    pub ingress: Option<u64>,
    /// Bits per second out of the container.
    pub egress: Option<u64>,
}

impl Rate {
    /// True when nothing is limited.
    pub fn is_unlimited(&self) -> bool {
        *self == Rate::default()
    }
}

const DEL_QDISC: u16 = 37;

const ROOT: u32 = 0xffff_ffff;

const KIND: u16 = 1;
const OPTIONS: u16 = 2;

/// A bucket holds ten milliseconds, but always a few of the largest packets the kernel makes of a TCP stream.
const BURST_PER_SECOND: u64 = 100;
const MIN_BURST: u64 = 128 << 10;

/// What waits longer than this is dropped.
const LATENCY_MS: u64 = 50;

/// Name of the detour of a link.
pub(crate) fn detour(link: &LinkName) -> LinkName {
    let hash = link.as_str().bytes().fold(0x811c_9dc5u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("ifb{hash:08x}").parse().expect("eleven letters and digits are a name")
}

/// Detours of this group whose link, which their alias names, is no more.
pub(crate) fn stray_detours<Fd: AsFd>(socket: &Socket<Fd>, group: u32) -> Result<Vec<LinkName>> {
    let mut batch = Batch::default();
    batch.begin(GET_LINK, flags::DUMP, "list", "links of kind ifb", &interface(0, 0, false));
    batch.nest(ifla::LINKINFO, |b| b.text(ifla::INFO_KIND, "ifb"));
    let mut strays = Vec::new();
    for answer in socket.dump(batch)? {
        let Some(link) = link_of(&answer).filter(|link| link.group == group && link.kind == "ifb") else { continue };
        let alias = answer.attributes(16).find(|(kind, _)| *kind == ifla::IFALIAS);
        let alias = alias.map(|(_, value)| String::from_utf8_lossy(value.split(|byte| *byte == 0).next().unwrap_or_default()));
        let (Some(Ok(of)), Ok(name)) = (alias.map(|alias| alias.parse::<LinkName>()), link.name.parse::<LinkName>()) else { continue };
        if detour(&of) == name && get_link(socket, of.as_str())?.is_none() {
            strays.push(name);
        }
    }
    Ok(strays)
}

/// Sets both rates of a link as they are to be from now on: what leaves it, and what arrives by it.
pub(crate) fn shape<Fd: AsFd>(socket: &Socket<Fd>, link: &LinkName, leaving: Option<u64>, arriving: Option<u64>, group: u32) -> Result<()> {
    let name = link.as_str();
    let found = get_link(socket, name)?.ok_or_else(|| Error::kernel("limit the rate of", name, Errno::NODEV))?;
    match leaving {
        Some(bits) => bucket(socket, found.index, name, bits)?,
        None => remove_queue(socket, found.index, ROOT, 0, name)?,
    }
    let by = detour(link);
    match arriving {
        Some(bits) => {
            let index = ensure_detour(socket, &by, link, group)?;
            bucket(socket, index, by.as_str(), bits)?;
            redirect(socket, found.index, index, name)
        }
        None => {
            remove_queue(socket, found.index, INGRESS, INGRESS_HANDLE, name)?;
            remove_link(socket, &by)
        }
    }
}

fn ensure_detour<Fd: AsFd>(socket: &Socket<Fd>, name: &LinkName, of: &LinkName, group: u32) -> Result<u32> {
    if let Some(link) = get_link(socket, name.as_str())? {
        return Ok(link.index);
    }
    let mut batch = Batch::default();
    batch.begin(NEW_LINK, flags::CREATE | flags::EXCL | flags::ACK, "make link", name.as_str(), &interface(0, 0, true));
    batch.text(ifla::IFNAME, name.as_str());
    batch.u32(ifla::GROUP, group);
    batch.nest(ifla::LINKINFO, |b| b.text(ifla::INFO_KIND, "ifb"));
    without_own_ipv6(&mut batch, name.as_str());
    batch.begin(NEW_LINK, flags::ACK, "name the purpose of", name.as_str(), &interface(0, 0, false));
    batch.text(ifla::IFNAME, name.as_str());
    batch.attribute(ifla::IFALIAS, of.as_str().as_bytes());
    look_at(&mut batch, name.as_str());
    let answers = or_unsupported(socket.request(batch), "ifb")?;
    Ok(looked_at(&answers, name.as_str())?.index)
}

/// A token bucket as the link's queue, in the place of what is there.
fn bucket<Fd: AsFd>(socket: &Socket<Fd>, link: u32, name: &str, bits: u64) -> Result<()> {
    const PARAMETERS: u16 = 1;
    const RATE64: u16 = 4;
    const BURST: u16 = 6;
    const ETHERNET: u8 = 1;
    // Nothing at all would pass with a rate of nothing.
    let bytes = (bits / 8).max(1);
    let burst = (bytes / BURST_PER_SECOND).clamp(MIN_BURST, 64 << 20);
    let limit = (bytes.saturating_mul(LATENCY_MS) / 1000).saturating_add(burst).min(1 << 30);
    let low = |number: u64| u32::try_from(number).unwrap_or(u32::MAX).to_ne_bytes();
    let rate_spec = |rate: u64| [&[0, ETHERNET, 0, 0, 0, 0, 0, 0][..], &low(rate)].concat();
    let mut parameters = [rate_spec(bytes), rate_spec(0)].concat();
    parameters.extend(low(limit));
    parameters.extend([0; 8]);
    let mut batch = Batch::default();
    let how = flags::CREATE | flags::REPLACE | flags::ACK;
    batch.begin(NEW_QDISC, how, "limit the rate of", name, &traffic_control(link, 0, ROOT, 0));
    batch.text(KIND, "tbf");
    batch.nest(OPTIONS, |b| {
        b.attribute(PARAMETERS, &parameters);
        b.attribute(RATE64, &bytes.to_ne_bytes());
        b.attribute(BURST, &low(burst));
    });
    // The kernel's word for a queue it does not know is that there is no such file.
    match socket.request(batch) {
        Err(error) if error.errno() == Some(Errno::NOENT) => Err(Error::Unsupported { kind: "sch_tbf" }),
        result => result.map(drop),
    }
}

/// Everything that arrives by a link goes through another one first.
fn redirect<Fd: AsFd>(socket: &Socket<Fd>, link: u32, by: u32, name: &str) -> Result<()> {
    const SELECTOR: u16 = 5;
    const ACTION: u16 = 7;
    const MIRRED_PARAMETERS: u16 = 2;
    const STOLEN: i32 = 4;
    const EGRESS_REDIRECT: i32 = 1;
    /// Priority 1, all protocols.
    const FIRST_OF_ALL: u32 = 1 << 16 | ETHERTYPE_ALL;
    let mut batch = Batch::default();
    let make = flags::CREATE | flags::EXCL | flags::ACK;
    batch.begin(NEW_QDISC, make, "limit the rate of", name, &traffic_control(link, INGRESS_HANDLE, INGRESS, 0));
    batch.text(KIND, "ingress");
    match socket.request(batch) {
        // It is there already, and with it the redirection.
        Err(error) if error.errno() == Some(Errno::EXIST) => return Ok(()),
        result => drop(result?),
    }
    // One key that every packet has: no bit of the first word is looked at.
    let mut selector = vec![1, 0, 1];
    selector.resize(16 + 16, 0);
    let mut mirred = Vec::new();
    for number in [0, 0, STOLEN, 0, 0, EGRESS_REDIRECT, by.cast_signed()] {
        mirred.extend(number.to_ne_bytes());
    }
    let mut batch = Batch::default();
    batch.begin(NEW_FILTER, make, "limit the rate of", name, &traffic_control(link, 0, INGRESS_HANDLE, FIRST_OF_ALL));
    batch.text(KIND, "u32");
    batch.nest(OPTIONS, |b| {
        b.attribute(SELECTOR, &selector);
        b.nest(ACTION, |b| {
            b.nest(1, |b| {
                b.text(KIND, "mirred");
                b.nest(OPTIONS, |b| b.attribute(MIRRED_PARAMETERS, &mirred));
            });
        });
    });
    socket.request(batch).map(drop)
}

/// Absent is fine; then the kernel has its own queue there, which nobody can remove.
fn remove_queue<Fd: AsFd>(socket: &Socket<Fd>, link: u32, parent: u32, handle: u32, name: &str) -> Result<()> {
    let mut batch = Batch::default();
    batch.begin(DEL_QDISC, flags::ACK, "free the rate of", name, &traffic_control(link, handle, parent, 0));
    match socket.request(batch) {
        Err(error) if matches!(error.errno(), Some(Errno::NOENT | Errno::INVAL)) => Ok(()),
        result => result.map(drop),
    }
}
