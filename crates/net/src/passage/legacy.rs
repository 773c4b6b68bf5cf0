//! The way through `FORWARD` of `iptables-legacy`, whose tables are no nftables: the same rule, under the same conditions.
//!
//! A table is replaced as a whole, under the lock that `iptables-legacy` takes ([`super::lock`]), and the counters of all
//! entries are added to the new one as that program does. A host without such tables stays without: they are asked for
//! only where the kernel lists them. All of it is done in the network namespace of the calling thread.

use super::lock::Lock;
use super::xtables::Table;
use crate::error::{Error, Result};
use naru_sys::xtables::{self, Counters, Family, Layout};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

const TABLE: &str = "filter";
const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];
/// A larger table is left alone; a hundred thousand rules are a third of it.
const LARGEST: usize = 64 << 20;
/// How often a table may change between two questions about it.
const TRIES: usize = 10;
/// A change that the kernel refused is not tried again before: each try takes the lock, which
/// [`super::lock::LockWatch`] hears of.
const PAUSE: Duration = Duration::from_secs(10);
/// A look at a table reads all of it, in half a microsecond for a rule: one larger than this, of some hundred rules, is
/// taken for what it was when a container waits for it and nothing has moved in it.
const LARGE: usize = 64 << 10;

/// What there is time for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Haste {
    /// Everything.
    None,
    /// A container's start waits. What is not seen or done then, whoever hears of the lock sees to.
    Start,
}

impl Haste {
    /// How long others may have the lock; they need milliseconds. Kubernetes waits for two seconds, too.
    const fn patience(self) -> Duration {
        match self {
            Haste::None => Duration::from_secs(2),
            Haste::Start => Duration::from_millis(300),
        }
    }
}

/// What the kernel lists the tables of this thread's network namespace in.
const fn names(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "/proc/thread-self/net/ip_tables_names",
        Family::Ipv6 => "/proc/thread-self/net/ip6_tables_names",
    }
}

/// What the chain is called in messages.
const fn chain(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "iptables-legacy FORWARD",
        Family::Ipv6 => "ip6tables-legacy FORWARD",
    }
}

/// What [`Legacy::open`] found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// A chain has a rule of ours.
    pub open: bool,
    /// Chains that drop what containers send, and that could not be changed.
    pub closed: Vec<&'static str>,
    /// What went wrong with a chain; the other one is as it is said here.
    pub failed: Option<Error>,
}

/// Speaks of the tables.
#[derive(Debug, Default)]
pub(crate) struct Legacy {
    attempts: Mutex<Attempts>,
}

/// Held while a rule is put in.
#[derive(Debug, Default)]
struct Attempts {
    /// When the kernel last refused it.
    refused: Option<Instant>,
    /// It shall not be done any more. To take the rule out is heard of too.
    over: bool,
    /// How each family's table was laid out when it needed no change.
    good: [Option<Layout>; FAMILIES.len()],
}

/// How a family's chain stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing is refused there, or there is no such chain.
    Absent,
    Open,
    Closed,
}

impl Legacy {
    /// Puts the rule in the chains that need it; `own` is the engine's table. Chains that others keep locked for too long
    /// stay closed.
    pub fn open(&self, own: &str, haste: Haste) -> Found {
        let mut found = Found::default();
        for family in FAMILIES {
            match self.open_one(family, own, haste) {
                Ok(State::Absent) => {}
                Ok(State::Open) => found.open = true,
                Ok(State::Closed) => found.closed.push(chain(family)),
                Err(error) => found.failed = found.failed.or(Some(error)),
            }
        }
        found
    }

    fn open_one(&self, family: Family, own: &str, haste: Haste) -> Result<State> {
        let Some(kernel) = Kernel::find(family)? else { return Ok(State::Absent) };
        if haste == Haste::Start {
            let (layout, size) = kernel.info()?;
            // Packets have been marked since then.
            if size > LARGE && self.attempts().good[family as usize] == Some(layout) {
                return Ok(State::Absent);
            }
        }
        let table = kernel.read()?;
        let state = state_of(&table, own);
        let mut attempts = self.attempts();
        attempts.good[family as usize] = (state != State::Closed).then_some(table.layout);
        if state != State::Closed || attempts.over || attempts.refused.is_some_and(|when| when.elapsed() < PAUSE) {
            return Ok(state);
        }
        drop(attempts);
        let Some(_lock) = Lock::take(haste.patience())? else { return Ok(State::Closed) };
        let mut attempts = self.attempts();
        if attempts.over {
            return Ok(State::Closed);
        }
        let inserted = insert(&kernel, own);
        attempts.refused = inserted.is_err().then(Instant::now);
        match inserted {
            // The kernel may lack a match, and the engine may lack the right.
            Err(error) if matches!(error.errno(), Some(Errno::PERM | Errno::NOENT | Errno::PROTOTYPE)) => Ok(State::Closed),
            result => result,
        }
    }

    /// Takes the rule out of all chains, for good.
    pub fn close(&self, own: &str) -> Result<()> {
        self.attempts().over = true;
        let mut failed = None;
        for family in FAMILIES {
            failed = failed.or(remove(family, own).err());
        }
        failed.map_or(Ok(()), Err)
    }

    fn attempts(&self) -> MutexGuard<'_, Attempts> {
        self.attempts.lock().expect("an attempt does not panic")
    }
}

/// True when a chain refuses what containers send and has no rule of ours, or cannot be looked at.
pub(crate) fn is_closed(own: &str) -> bool {
    FAMILIES.iter().any(|family| !matches!(look(*family, own), Ok(State::Absent | State::Open)))
}

fn state_of(table: &Table, own: &str) -> State {
    match (table.refuses(), table.rule_of(own)) {
        (_, Some(_)) => State::Open,
        (true, None) => State::Closed,
        (false, None) => State::Absent,
    }
}

fn look(family: Family, own: &str) -> Result<State> {
    let Some(kernel) = Kernel::find(family)? else { return Ok(State::Absent) };
    Ok(state_of(&kernel.read()?, own))
}

/// For a holder of the lock.
fn insert(kernel: &Kernel, own: &str) -> Result<State> {
    kernel.change("let containers' packets pass", |table| {
        let (new, index) = (state_of(table, own) == State::Closed).then(|| table.with_rule(own))?;
        let carry = move |counters: &mut Vec<Counters>| counters.insert(index.min(counters.len()), Counters::default());
        Some((new, carry))
    })?;
    Ok(State::Open)
}

fn remove(family: Family, own: &str) -> Result<()> {
    if look(family, own)? != State::Open {
        return Ok(());
    }
    let Some(_lock) = Lock::take(Haste::None.patience())? else {
        return Err(Error::kernel("wait for the lock of", chain(family), Errno::TIMEDOUT));
    };
    let Some(kernel) = Kernel::find(family)? else { return Ok(()) };
    // A copy that somebody has restored beside it goes too.
    while kernel.change("delete the engine's rule from", |table| {
        let index = table.rule_of(own)?;
        let carry = move |counters: &mut Vec<Counters>| drop(counters.drain(index..=index));
        Some((table.without(index), carry))
    })? {}
    Ok(())
}

/// A family's table in the kernel.
struct Kernel {
    family: Family,
    socket: OwnedFd,
}

impl Kernel {
    /// None where there is no such table.
    fn find(family: Family) -> Result<Option<Kernel>> {
        let names = match std::fs::read(names(family)) {
            Ok(names) => names,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::File { action: "read", path: names(family).to_owned(), source }),
        };
        if !names.split(|byte| *byte == b'\n').any(|name| name == TABLE.as_bytes()) {
            return Ok(None);
        }
        let address = if family == Family::Ipv4 { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = rustix::net::socket_with(address, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::RAW));
        let socket = socket.map_err(|errno| Error::kernel("open a socket for", chain(family), errno))?;
        Ok(Some(Kernel { family, socket }))
    }

    fn info(&self) -> Result<(Layout, usize)> {
        xtables::info(self.socket.as_fd(), self.family, TABLE).map_err(|errno| Error::kernel("look at", chain(self.family), errno))
    }

    fn read(&self) -> Result<Table> {
        let fail = |errno| Error::kernel("read", chain(self.family), errno);
        let mut tries = 1..TRIES;
        loop {
            let (layout, size) = self.info()?;
            if size > LARGEST {
                return Err(fail(Errno::TOOBIG));
            }
            match xtables::entries(self.socket.as_fd(), self.family, TABLE, size) {
                // It has changed since.
                Err(Errno::AGAIN) if tries.next().is_some() => {}
                Err(errno) => return Err(fail(errno)),
                Ok(bytes) => {
                    let table = Table::read(self.family, layout, bytes);
                    return table.ok_or_else(|| Error::Answer { object: chain(self.family).to_owned() });
                }
            }
        }
    }

    /// Replaces the table by what `change` makes of it, and false when that is nothing. With the new table comes what makes
    /// the counters of the old one's entries those of the new one's.
    fn change<C>(&self, action: &'static str, change: impl Fn(&Table) -> Option<(Table, C)>) -> Result<bool>
    where
        C: FnOnce(&mut Vec<Counters>),
    {
        let fail = |errno| Error::kernel(action, chain(self.family), errno);
        let (socket, mut tries) = (self.socket.as_fd(), 1..TRIES);
        loop {
            let old = self.read()?;
            let Some((new, carry)) = change(&old) else { return Ok(false) };
            let replaced = xtables::replace(socket, self.family, TABLE, &new.layout, &new.bytes, old.layout.entries);
            let mut counters = match replaced {
                // Somebody without the lock.
                Err(Errno::AGAIN) if tries.next().is_some() => continue,
                result => result.map_err(fail)?,
            };
            carry(&mut counters);
            match xtables::add_counters(socket, self.family, TABLE, &counters) {
                // The table is another one already, with the rule: its counters are that one's concern.
                Err(Errno::INVAL) => {}
                result => result.map_err(fail)?,
            }
            return Ok(true);
        }
    }
}
