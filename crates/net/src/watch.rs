//! Hears of changes to the engine's table by others, and to the chains of others that containers' packets pass.
//!
//! The kernel tells every listener of every change of nftables, with the number of the socket that made it; what the
//! engine's own socket did is passed over. When more was told than the listener could hold, something of ours may have been
//! among it. Of changes by `iptables-legacy` it does not tell, but of that program's letting its lock go.
//!
//! That a bridge has gone is seen by its addresses, which go first: links would be told of with each container.

use crate::error::{Error, Result};
use crate::firewall::Seen;
use crate::netlink::{Socket, attributes, message};
use crate::nft::SUBSYSTEM;
use crate::passage::lock::LockWatch;
use crate::passage::{self, legacy};
use crate::shortcut::FilteringWatch;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// NFNLGRP_NFTABLES, as a bit.
const GROUP: u32 = 1 << (7 - 1);

/// The generation's number has no table in its first attribute.
const NEW_GENERATION: u16 = SUBSYSTEM | 15;

/// RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR.
const ADDRESSES: u32 = 0x10 | 0x100;
const DELETED_ADDRESS: u16 = 21;

/// What others have changed.
#[derive(Debug, Default)]
pub struct Changed {
    /// Rules: [`crate::Firewall::repair`] makes the engine's anew, and [`crate::Firewall::open_passages`] the ways through chains
    /// of theirs.
    pub rules: bool,
    /// The indices of links that have lost an address.
    pub links: HashSet<u32>,
    /// Whether bridged packets are filtered, perhaps: see [`crate::Filtering`].
    pub filtering: bool,
}

/// Tells when something of ours was changed by others.
#[derive(Debug)]
pub struct Watch {
    socket: Socket,
    addresses: Socket,
    lock: Option<LockWatch>,
    filtering: Option<FilteringWatch>,
    table: String,
    own_port: u32,
    seen: Arc<Seen>,
}

impl Watch {
    pub(crate) fn open(table: &str, own_port: u32, seen: Arc<Seen>) -> Result<Watch> {
        let (socket, addresses) = (Socket::netfilter_events(GROUP)?, Socket::route_events(ADDRESSES)?);
        Ok(Watch { socket, addresses, lock: LockWatch::open(), filtering: FilteringWatch::open(), table: table.to_owned(), own_port, seen })
    }

    /// Blocks until something that may be ours was changed by others.
    pub fn wait(&mut self) -> Result<Changed> {
        loop {
            let changed = self.wait_until_readable()?;
            if changed.rules || changed.filtering || !changed.links.is_empty() {
                return Ok(changed);
            }
        }
    }

    /// What has come so far; waits for the first of it.
    fn wait_until_readable(&mut self) -> Result<Changed> {
        let fail = |errno| Error::kernel("listen to", "changes of nftables", errno);
        let lock = self.lock.iter().map(|lock| PollFd::new(lock, PollFlags::IN));
        let filtering = self.filtering.iter().map(|filtering| PollFd::new(filtering, PollFlags::IN));
        let sockets = [&self.socket.0, &self.addresses.0].map(|socket| PollFd::new(socket, PollFlags::IN));
        let mut polled: Vec<PollFd<'_>> = sockets.into_iter().chain(lock).chain(filtering).collect();
        rustix::io::retry_on_intr(|| poll(&mut polled, None)).map_err(fail)?;
        let had = self.lock.is_some() && polled.get(2).is_some_and(|lock| !lock.revents().is_empty());
        if let Some(lock) = self.lock.as_ref().filter(|_| had) {
            lock.settle();
        }
        let filtering = self.filtering.as_ref().is_some_and(FilteringWatch::poll);
        Ok(Changed { rules: self.poll()? || had && legacy::is_closed(&self.table), links: self.bereft()?, filtering })
    }

    /// The links that have lost an address. When more was told than there was room for, those that are missed are seen to when
    /// they are used.
    fn bereft(&self) -> Result<HashSet<u32>> {
        let mut buffer = vec![0; 64 << 10];
        let mut links = HashSet::new();
        loop {
            let got = match self.addresses.receive(&mut buffer, RecvFlags::DONTWAIT) {
                Ok(got) => got,
                Err(Errno::AGAIN) => return Ok(links),
                Err(Errno::NOBUFS | Errno::MSGSIZE) => continue,
                Err(errno) => return Err(Error::kernel("listen to", "changes of addresses", errno)),
            };
            let mut rest = &buffer[..got];
            while let Some((kind, _, payload, next)) = message(rest) {
                if let (DELETED_ADDRESS, Some(index)) = (kind, payload.get(4..8)) {
                    links.insert(u32::from_ne_bytes([index[0], index[1], index[2], index[3]]));
                }
                rest = next;
            }
        }
    }

    /// Reads what has come, without waiting: true when something that is ours to mend was changed by others.
    pub fn poll(&mut self) -> Result<bool> {
        let mut buffer = vec![0; 64 << 10];
        let (mut ours, mut passages) = (false, false);
        loop {
            match self.socket.receive(&mut buffer, RecvFlags::DONTWAIT) {
                Ok(got) => {
                    let (more_ours, more_passages) = self.look(&buffer[..got]);
                    ours |= more_ours;
                    passages |= more_passages;
                }
                Err(Errno::AGAIN) => break,
                // What was lost may have been ours.
                Err(Errno::NOBUFS | Errno::MSGSIZE) => ours = true,
                Err(errno) => return Err(Error::kernel("listen to", "changes of nftables", errno)),
            }
        }
        if ours {
            self.seen.damaged.store(true, Ordering::Release);
        }
        passages |= self.lock.as_ref().is_some_and(LockWatch::poll) && legacy::is_closed(&self.table);
        Ok(ours || passages)
    }

    /// Whether others changed the engine's table, and the chains of theirs that it has to do with.
    fn look(&self, mut bytes: &[u8]) -> (bool, bool) {
        let (mut ours, mut passages) = (false, false);
        let passed = self.seen.passed.load(Ordering::Acquire);
        while let Some((kind, _, payload, next)) = message(bytes) {
            let by = bytes.get(12..16).map_or(0, |port| u32::from_ne_bytes([port[0], port[1], port[2], port[3]]));
            let named = || {
                attributes(payload.get(4..).unwrap_or_default())
                    .any(|(kind, value)| kind == 1 && value.strip_suffix(b"\0") == Some(self.table.as_bytes()))
            };
            if kind != NEW_GENERATION && by != self.own_port {
                ours |= named();
                passages |= passage::concerns(kind, payload, passed);
            }
            bytes = next;
        }
        (ours, passages)
    }
}
