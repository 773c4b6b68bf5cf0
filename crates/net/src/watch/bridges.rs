//! Hears of what others do to bridges: deleted, set down, renamed, without an address they had; and to the links on them: set
//! down, taken off.
//!
//! Each container that comes or goes has the kernel tell of links a dozen times. A filter on the socket lets nothing of that
//! wake anybody but what is about bridges themselves, which have news with the first and the last container on them only. A
//! link that goes is set down and taken off its bridge, too, but in another way than by hand: that it runs no more is told with
//! the same message, and it leaves the bridge when it is down.

use crate::error::{Error, Result};
use crate::netlink::{Answer, Socket, message};
use crate::rtnetlink::{DEL_ADDRESS, DEL_LINK, Link, NEW_LINK, UP, ifla, link_of};
use naru_sys::seccomp::Instruction;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;

/// RTMGRP_LINK, RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR.
const GROUPS: u32 = 1 | 0x10 | 0x100;
/// The family of messages about a bridge's ports as such.
const AF_BRIDGE: u8 = 7;
const BRIDGE: &str = "bridge";

/// What others may have done to bridges.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Links without an address they had, and bridges that are gone, by their indices.
    pub bereft: HashSet<u32>,
    /// Bridges as they were when they were last told of, by their indices.
    pub bridges: HashMap<u32, Link>,
    /// The names of links that were set down, or taken off a bridge.
    pub strayed: HashSet<String>,
}

#[derive(Debug)]
pub(super) struct Bridges(pub Socket);

impl Bridges {
    pub fn open() -> Result<Bridges> {
        let socket = Socket::route()?;
        let fail = |errno| Error::kernel("choose among", "changes of links", errno);
        naru_sys::net::attach_filter(socket.0.as_fd(), &about_bridges_and_ports()).map_err(fail)?;
        // Nothing comes before the filter is there.
        Ok(Bridges(socket.listening(GROUPS, "changes of links")?))
    }

    /// What has come so far. When more was told than there was room for, what is missed is seen to when it is used.
    pub fn read(&self) -> Result<Told> {
        let mut buffer = vec![0; 64 << 10];
        let mut told = Told::default();
        loop {
            let got = match self.0.receive(&mut buffer, RecvFlags::DONTWAIT) {
                Ok(got) => got,
                Err(Errno::AGAIN) => return Ok(told),
                Err(Errno::NOBUFS | Errno::MSGSIZE) => continue,
                Err(errno) => return Err(Error::kernel("listen to", "changes of links", errno)),
            };
            let mut rest = &buffer[..got];
            while let Some((kind, _, payload, next)) = message(rest) {
                told.add(kind, payload);
                rest = next;
            }
        }
    }
}

impl Told {
    fn add(&mut self, kind: u16, payload: &[u8]) {
        let index = payload.get(4..8).map(|index| u32::from_ne_bytes([index[0], index[1], index[2], index[3]]));
        let link = || link_of(&Answer(payload.to_vec()));
        match (kind, index) {
            (DEL_LINK, Some(_)) if payload.first() == Some(&AF_BRIDGE) => self.strayed.extend(link().map(|link| link.name)),
            (DEL_ADDRESS | DEL_LINK, Some(index)) => {
                self.bereft.insert(index);
            }
            (NEW_LINK, Some(index)) => match link() {
                Some(link) if link.kind == BRIDGE => drop(self.bridges.insert(index, link)),
                link => self.strayed.extend(link.map(|link| link.name)),
            },
            _ => {}
        }
    }
}

/// A program for the kernel (classic BPF, linux/filter.h): a lost address, a link of the kind `bridge`, a link that was set down
/// or taken off a bridge by hand.
fn about_bridges_and_ports() -> [Instruction; 24] {
    const LOAD_WORD: u16 = 0x20;
    const LOAD_HALF: u16 = 0x28;
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_WORD_BEHIND_X: u16 = 0x40;
    const SET_A: u16 = 0x00;
    const SET_X: u16 = 0x01;
    const A_TO_X: u16 = 0x07;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const JUMP_IF_ANY: u16 = 0x45;
    const RETURN: u16 = 0x06;
    /// SKF_AD_OFF + SKF_AD_NLATTR: where the attribute of kind X is, among those that begin at A; else 0.
    const FIND_ATTRIBUTE: u32 = 0xffff_f000 + 12;
    /// The same among those in the attribute at A.
    const FIND_INSIDE: u32 = 0xffff_f000 + 16;
    /// A message's header has 16 bytes, that of a link as many.
    const KIND_AT: u32 = 4;
    const FAMILY_AT: u32 = 16;
    const FLAGS_AT: u32 = 24;
    const CHANGED_AT: u32 = 28;
    const ATTRIBUTES_AT: u32 = 32;
    const PASS: u32 = u32::MAX;
    let op = |code, k| Instruction { code, jt: 0, jf: 0, k };
    // Loads turn the network's order into the host's; netlink is in the host's.
    let kind = |kind: u16, jt, jf| Instruction { code: JUMP_IF_EQUAL, jt, jf, k: kind.to_be().into() };
    let when = |k, jt| Instruction { code: JUMP_IF_EQUAL, jt, jf: 0, k };
    let jump = |code, k, jt, jf| Instruction { code, jt, jf, k };
    [
        op(LOAD_HALF, KIND_AT),
        kind(DEL_ADDRESS, 20, 0),
        kind(NEW_LINK, 5, 0),
        kind(DEL_LINK, 0, 19),
        op(LOAD_BYTE, FAMILY_AT),
        jump(JUMP_IF_EQUAL, AF_BRIDGE.into(), 0, 6),
        op(LOAD_WORD, FLAGS_AT),
        jump(JUMP_IF_ANY, UP.to_be(), 14, 15),
        // That of a link that goes has IFF_RUNNING, too.
        op(LOAD_WORD, CHANGED_AT),
        jump(JUMP_IF_EQUAL, UP.to_be(), 0, 2),
        op(LOAD_WORD, FLAGS_AT),
        jump(JUMP_IF_ANY, UP.to_be(), 0, 10),
        op(SET_A, ATTRIBUTES_AT),
        op(SET_X, ifla::LINKINFO.into()),
        op(LOAD_WORD, FIND_ATTRIBUTE),
        when(0, 7),
        op(SET_X, ifla::INFO_KIND.into()),
        op(LOAD_WORD, FIND_INSIDE),
        when(0, 4),
        op(A_TO_X, 0),
        op(LOAD_WORD_BEHIND_X, 4),
        Instruction { code: JUMP_IF_EQUAL, jt: 0, jf: 1, k: u32::from_be_bytes(*b"brid") },
        op(RETURN, PASS),
        op(RETURN, 0),
    ]
}
