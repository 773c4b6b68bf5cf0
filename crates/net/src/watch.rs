//! Hears of changes to the engine's table by others, and to the chains of others that containers' packets pass.
//!
//! The kernel tells every listener of every change of nftables, with the number of the socket that made it; what the
//! engine's own socket did is passed over. When more was told than the listener could hold, something of ours may have been
//! among it. Of changes by `iptables-legacy` it does not tell, but of that program's letting its lock go.

mod bridges;

use crate::error::{Error, Result};
use crate::firewall::Seen;
use crate::netlink::{Socket, attributes, message};
use crate::nft::SUBSYSTEM;
use crate::passage::lock::LockWatch;
use crate::passage::{self, legacy};
use crate::rtnetlink::Link;
use crate::shortcut::FilteringWatch;
use bridges::Bridges;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// NFNLGRP_NFTABLES, as a bit.
const GROUP: u32 = 1 << (7 - 1);

/// Changes come in bursts, and a container's start makes one, while the processors are wanted by the start. What is to be mended
/// bears to be mended so much later.
const BURST: Duration = Duration::from_millis(20);

/// The generation's number has no table in its first attribute.
const NEW_GENERATION: u16 = SUBSYSTEM | 15;

/// What others have changed.
#[derive(Debug, Default)]
pub struct Changed {
    /// Rules: [`crate::Firewall::repair`] makes the engine's anew, and [`crate::Firewall::open_passages`] the ways through chains
    /// of theirs.
    pub rules: bool,
    /// The indices of links that have lost an address, and of bridges that are gone.
    pub bereft: HashSet<u32>,
    /// Bridges that have changed in any way, as they are now, by their indices.
    pub bridges: HashMap<u32, Link>,
    /// The names of links that were set down, or taken off a bridge.
    pub strayed: HashSet<String>,
    /// Whether bridged packets are filtered, perhaps: see [`crate::Filtering`].
    pub filtering: bool,
}

/// Tells when something of ours was changed by others.
#[derive(Debug)]
pub struct Watch {
    socket: Socket,
    bridges: Bridges,
    lock: Option<LockWatch>,
    filtering: Option<FilteringWatch>,
    table: String,
    own_port: u32,
    seen: Arc<Seen>,
}

impl Watch {
    pub(crate) fn open(table: &str, own_port: u32, seen: Arc<Seen>) -> Result<Watch> {
        let socket = Socket::netfilter_events(GROUP)?;
        let (bridges, lock, filtering) = (Bridges::open()?, LockWatch::open(), FilteringWatch::open());
        Ok(Watch { socket, bridges, lock, filtering, table: table.to_owned(), own_port, seen })
    }

    /// Blocks until something that may be ours was changed by others, or for as long as there is `patience`.
    pub fn wait(&mut self, patience: Option<Duration>) -> Result<Changed> {
        let deadline = patience.map(|patience| Instant::now() + patience);
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let changed = self.wait_until_readable(left)?;
            let is_quiet = changed.bereft.is_empty() && changed.bridges.is_empty() && changed.strayed.is_empty();
            if changed.rules || changed.filtering || !is_quiet || left.is_some_and(|left| left.is_zero()) {
                return Ok(changed);
            }
        }
    }

    /// What has come so far; waits for the first of it, and for what comes with it.
    fn wait_until_readable(&mut self, patience: Option<Duration>) -> Result<Changed> {
        let fail = |errno| Error::kernel("listen to", "changes of nftables", errno);
        let timeout = patience.map(|patience| Timespec::try_from(patience).expect("nobody waits for ages"));
        let lock = self.lock.iter().map(|lock| PollFd::new(lock, PollFlags::IN));
        let filtering = self.filtering.iter().map(|filtering| PollFd::new(filtering, PollFlags::IN));
        let sockets = [&self.socket.0, &self.bridges.0.0].map(|socket| PollFd::new(socket, PollFlags::IN));
        let mut polled: Vec<PollFd<'_>> = sockets.into_iter().chain(lock).chain(filtering).collect();
        if rustix::io::retry_on_intr(|| poll(&mut polled, timeout.as_ref())).map_err(fail)? > 0 {
            std::thread::sleep(BURST);
        }
        let had = self.lock.is_some() && polled.get(2).is_some_and(|lock| !lock.revents().is_empty());
        if let Some(lock) = self.lock.as_ref().filter(|_| had) {
            lock.settle();
        }
        let filtering = self.filtering.as_ref().is_some_and(FilteringWatch::poll);
        let bridges::Told { bereft, bridges, strayed } = self.bridges.read()?;
        Ok(Changed { rules: self.poll()? || had && legacy::is_closed(&self.table), bereft, bridges, strayed, filtering })
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
