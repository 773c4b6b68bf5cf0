//! Tables of xtables, the elder of the kernel's two packet filters (`iptables-legacy`), by options of a raw socket.
//!
//! A table is read and replaced as a whole: a run of entries, each with its matches and its target, in the form of
//! `<linux/netfilter/x_tables.h>`. To ask for a table makes it, in the network namespace of the socket; so ask only for one
//! that `/proc/net/ip_tables_names` lists.

use crate::check;
use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `NF_INET_NUMHOOKS`.
pub const HOOKS: usize = 5;
/// `XT_TABLE_MAXNAMELEN`.
const NAME_SIZE: usize = 32;
/// `IPT_SO_SET_REPLACE` and `IP6T_SO_SET_REPLACE`.
const SET_REPLACE: libc::c_int = 64;
/// `IPT_SO_SET_ADD_COUNTERS` and `IP6T_SO_SET_ADD_COUNTERS`.
const SET_ADD_COUNTERS: libc::c_int = 65;
/// `IPT_SO_GET_INFO` and `IP6T_SO_GET_INFO`.
const GET_INFO: libc::c_int = 64;
/// `IPT_SO_GET_ENTRIES` and `IP6T_SO_GET_ENTRIES`.
const GET_ENTRIES: libc::c_int = 65;

/// Which packets a table filters, and which socket speaks of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// A socket of `AF_INET`.
    Ipv4,
    /// A socket of `AF_INET6`.
    Ipv6,
}

impl Family {
    fn level(self) -> libc::c_int {
        match self {
            Family::Ipv4 => libc::IPPROTO_IP,
            Family::Ipv6 => libc::IPPROTO_IPV6,
        }
    }
}

/// Where the chains of the hooks lie among a table's entries. Offsets are bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Layout {
    /// The hooks that the table hangs at, as bits.
    pub valid_hooks: u32,
    /// Where each one's chain begins.
    pub hook_entry: [u32; HOOKS],
    /// Where each one's policy is.
    pub underflow: [u32; HOOKS],
    /// How many entries there are.
    pub entries: u32,
}

/// What an entry has matched (`struct xt_counters`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// How many packets.
    pub packets: u64,
    /// Their length.
    pub bytes: u64,
}

/// `struct ipt_getinfo`.
#[repr(C)]
struct Info {
    name: [u8; NAME_SIZE],
    valid_hooks: u32,
    hook_entry: [u32; HOOKS],
    underflow: [u32; HOOKS],
    entries: u32,
    size: u32,
}

/// `struct ipt_get_entries`, before its entries.
#[repr(C)]
struct Wanted {
    name: [u8; NAME_SIZE],
    size: u32,
    entries: [u64; 0],
}

/// `struct ipt_replace`, before its entries.
#[repr(C)]
struct Replacement {
    name: [u8; NAME_SIZE],
    valid_hooks: u32,
    entries: u32,
    size: u32,
    hook_entry: [u32; HOOKS],
    underflow: [u32; HOOKS],
    old_entries: u32,
    old_counters: *mut Counters,
    first: [u64; 0],
}

/// `struct xt_counters_info`, before its counters.
#[repr(C)]
struct Addition {
    name: [u8; NAME_SIZE],
    count: u32,
    counters: [u64; 0],
}

fn padded(table: &str) -> Result<[u8; NAME_SIZE], Errno> {
    let mut name = [0; NAME_SIZE];
    // The last byte ends it.
    let room = name[..NAME_SIZE - 1].get_mut(..table.len()).ok_or(Errno::NAMETOOLONG)?;
    room.copy_from_slice(table.as_bytes());
    Ok(name)
}

fn length(bytes: usize) -> Result<u32, Errno> {
    u32::try_from(bytes).map_err(|_| Errno::TOOBIG)
}

/// `header` with `bytes` after it, and their length together. The words keep the header aligned.
fn message<H>(header: H, bytes: &[u8]) -> (Vec<u64>, usize) {
    let length = size_of::<H>() + bytes.len();
    let mut words = vec![0u64; length.div_ceil(size_of::<u64>())];
    // SAFETY: the words have room for the header and the bytes after it, and are aligned for the headers of this module,
    // which have no field wider than a word.
    unsafe {
        words.as_mut_ptr().cast::<H>().write(header);
        words.as_mut_ptr().cast::<u8>().add(size_of::<H>()).copy_from(bytes.as_ptr(), bytes.len());
    }
    (words, length)
}

fn get(socket: BorrowedFd<'_>, family: Family, option: libc::c_int, words: &mut [u64], bytes: usize) -> Result<(), Errno> {
    assert!(bytes <= size_of_val(words), "the kernel writes within the words");
    let mut length = length(bytes)?;
    // SAFETY: the pointer is good for `bytes`, and the kernel writes no more than the length it is told.
    check(
        unsafe { libc::getsockopt(socket.as_raw_fd(), family.level(), option, words.as_mut_ptr().cast(), &raw mut length) } as libc::c_long
    )
    .map(drop)
}

/// Asks for the layout of a table and the size of its entries.
pub fn info(socket: BorrowedFd<'_>, family: Family, table: &str) -> Result<(Layout, usize), Errno> {
    let question = Info { name: padded(table)?, valid_hooks: 0, hook_entry: [0; HOOKS], underflow: [0; HOOKS], entries: 0, size: 0 };
    let (mut words, bytes) = message(question, &[]);
    get(socket, family, GET_INFO, &mut words, bytes)?;
    // SAFETY: the words hold such a header, of numbers alone, for which any bytes are valid.
    let info = unsafe { words.as_ptr().cast::<Info>().read() };
    let layout = Layout { valid_hooks: info.valid_hooks, hook_entry: info.hook_entry, underflow: info.underflow, entries: info.entries };
    Ok((layout, info.size as usize))
}

/// Reads the entries of a table, with their counters; [`Errno::AGAIN`] when their size is another one by now.
pub fn entries(socket: BorrowedFd<'_>, family: Family, table: &str, size: usize) -> Result<Vec<u8>, Errno> {
    let header = Wanted { name: padded(table)?, size: length(size)?, entries: [] };
    let (mut words, bytes) = message(header, &vec![0; size]);
    get(socket, family, GET_ENTRIES, &mut words, bytes)?;
    // SAFETY: the words have `size` initialized bytes after the header.
    Ok(unsafe { std::slice::from_raw_parts(words.as_ptr().cast::<u8>().add(size_of::<Wanted>()), size) }.to_vec())
}

fn set(socket: BorrowedFd<'_>, family: Family, option: libc::c_int, words: &[u64], bytes: usize) -> Result<(), Errno> {
    assert!(bytes <= size_of_val(words), "the kernel reads within the words");
    // SAFETY: the pointer is good for `bytes`, which the kernel copies; a pointer that is among them is the caller's concern.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), family.level(), option, words.as_ptr().cast(), length(bytes)?) } as libc::c_long)
        .map(drop)
}

/// Replaces a table of `old` entries, whose counters it returns: the new ones begin at nothing, see [`add_counters`].
/// [`Errno::AGAIN`] when the table has another number of entries by now.
pub fn replace(
    socket: BorrowedFd<'_>,
    family: Family,
    table: &str,
    layout: &Layout,
    entries: &[u8],
    old: u32,
) -> Result<Vec<Counters>, Errno> {
    let mut counters = vec![Counters::default(); old as usize];
    let header = Replacement {
        name: padded(table)?,
        valid_hooks: layout.valid_hooks,
        entries: layout.entries,
        size: length(entries.len())?,
        hook_entry: layout.hook_entry,
        underflow: layout.underflow,
        old_entries: old,
        // The kernel writes as many as it was told, or nothing when the table has another number of them.
        old_counters: counters.as_mut_ptr(),
        first: [],
    };
    let (words, bytes) = message(header, entries);
    set(socket, family, SET_REPLACE, &words, bytes)?;
    Ok(counters)
}

/// Adds to the counters of all entries of a table; [`Errno::INVAL`] when it has another number of them by now.
pub fn add_counters(socket: BorrowedFd<'_>, family: Family, table: &str, counters: &[Counters]) -> Result<(), Errno> {
    let header = Addition { name: padded(table)?, count: length(counters.len())?, counters: [] };
    let numbers: Vec<u8> = counters.iter().flat_map(|one| [one.packets, one.bytes]).flat_map(u64::to_ne_bytes).collect();
    let (words, bytes) = message(header, &numbers);
    set(socket, family, SET_ADD_COUNTERS, &words, bytes)
}
