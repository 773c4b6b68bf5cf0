//! A way through chains that programs of the host share by custom and that drop what they do not know: `FORWARD` of
//! iptables (ufw, and Docker, which sets its policy to drop), and `filter_FORWARD` of firewalld. These are chains of nftables
//! here; those of `iptables-legacy` are passed by [`legacy`].
//!
//! A packet passes a hook only when every chain there accepts it, so accepting it in a table of ours is not enough. The
//! engine's table marks what comes from or goes to its bridges ([`MARK`]), before those chains see it; where one of them
//! would drop it, one rule at its beginning accepts the mark there: the engine's table alone then decides. The rule carries
//! the table's name as its comment, which iptables and nft show, is put back when it is lost, and is all that is ever
//! written into a table of others. Chains that somebody wrote by hand are left alone: [`open`] only names them. A firewalld
//! that owns its table is asked instead, see [`firewalld`].

mod dbus;
pub(crate) mod firewalld;
pub(crate) mod legacy;
pub(crate) mod lock;
mod rules;
mod xtables;

/// For whoever tries the parser with bytes of all kinds.
pub use dbus::message as bus_message;

use crate::error::Result;
use crate::netlink::{Answer, Batch, Socket, attributes, flags};
use crate::nft::{self, Chain, IPV4, IPV6};
use rules::Word;
use rustix::io::Errno;

/// Set in the mark of packets that come from or go to containers, which are the engine's table's to decide about. One bit,
/// so that marks of others survive.
pub const MARK: u32 = 1 << 29;

/// firewalld's chain, as [`crate::Firewall::open_passages`] would name it.
pub const FIREWALLD_CHAIN: &str = "inet firewalld filter_FORWARD";

/// A chain that programs put their rules in side by side.
fn is_shared(chain: &Chain) -> bool {
    match chain.family {
        IPV4 | IPV6 => chain.table == "filter" && chain.name == "FORWARD",
        _ => chain.table == "firewalld" && chain.name == "filter_FORWARD",
    }
}

/// Ends in a refusal, as it is made: by its policy, or as firewalld's by its last rule.
fn refuses(chain: &Chain) -> bool {
    chain.drops || chain.table == "firewalld"
}

/// Ends in a refusal by a rule for all packets, as iptables' `-A FORWARD -j REJECT`, its own or of a chain that it leads to.
fn has_refusal(socket: &Socket, chain: &Chain, rules: &[Answer]) -> Result<bool> {
    let words = |rules: &[Answer]| rules.iter().filter_map(|rule| rules::word(&rule.0)).collect();
    let mut of = |name: &str| {
        if name == chain.name {
            return Ok(words(rules));
        }
        list(socket, &Chain { name: name.to_owned(), ..chain.clone() }).map(|rules| words(&rules))
    };
    Ok(rules::refuses(&chain.name, &mut of)? == Some(true))
}

/// True for news of a table that [`open`] has to do with: a chain appeared there, its policy changed, a chain, which may be
/// one that leads to another, got a rule for all packets that refuses or leads on, or lost one that ended it before; or,
/// `passed` telling that a rule of ours was put in one, something was deleted.
pub(crate) fn concerns(kind: u16, payload: &[u8], passed: bool) -> bool {
    const TABLE: u16 = 1;
    let Some(family) = payload.first() else { return false };
    let has =
        |wanted: u16, name: &[u8]| attributes(payload.get(4..).unwrap_or_default()).any(|(kind, value)| kind == wanted && value == name);
    if !(matches!(*family, IPV4 | IPV6) && has(TABLE, b"filter\0") || *family == nft::INET && has(TABLE, b"firewalld\0")) {
        return false;
    }
    match kind {
        nft::NEW_CHAIN => Chain::read(payload).is_some_and(|chain| is_shared(&chain) && refuses(&chain)),
        nft::NEW_RULE => matches!(rules::word(payload), Some(Word::Refuse | Word::Call(_) | Word::GoTo(_))),
        nft::DELETE_RULE => passed || matches!(rules::word(payload), Some(Word::Accept | Word::Return | Word::GoTo(_))),
        nft::DELETE_TABLE | nft::DELETE_CHAIN => passed,
        _ => false,
    }
}

/// What [`open`] found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Passages {
    /// Chains with a rule of ours.
    pub open: Vec<Chain>,
    /// Chains that drop what containers send: somebody's own, or such that nobody else may change.
    pub closed: Vec<Chain>,
    /// firewalld owns its table.
    pub firewalld_decides: bool,
}

/// Puts the rule in the chains that need it; `own` is the engine's table.
pub(crate) fn open(socket: &Socket, own: &str) -> Result<Passages> {
    let mut found = Passages::default();
    for chain in nft::forward_chains(socket)? {
        let is_own = chain.family == nft::INET && chain.table == own;
        if is_own {
            continue;
        }
        if !is_shared(&chain) {
            found.closed.extend(refuses(&chain).then_some(chain));
            continue;
        }
        let rules = list(socket, &chain)?;
        if !refuses(&chain) && !has_refusal(socket, &chain, &rules)? {
            continue;
        }
        if !ours(&rules, own).is_empty() {
            found.open.push(chain);
        } else {
            match insert(socket, &chain, own) {
                Ok(()) => found.open.push(chain),
                // A table may have an owner (nft's flag), and may go at any time.
                Err(error) if error.errno() == Some(Errno::PERM) && chain.table == "firewalld" => found.firewalld_decides = true,
                Err(error) if matches!(error.errno(), Some(Errno::PERM | Errno::NOENT)) => found.closed.push(chain),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(found)
}

/// Takes the rule out of all chains.
pub(crate) fn close(socket: &Socket, own: &str) -> Result<()> {
    for chain in nft::forward_chains(socket)?.iter().filter(|chain| is_shared(chain)) {
        for handle in ours(&list(socket, chain)?, own) {
            let mut batch = nft::begin(&chain.table);
            name(&mut batch, nft::DELETE_RULE, 0, "delete the engine's rule from", chain);
            batch.attribute(3, &handle);
            match nft::commit(batch, socket, &chain.table) {
                Err(error) if error.errno() == Some(Errno::NOENT) => {}
                result => result?,
            }
        }
    }
    Ok(())
}

fn name(batch: &mut Batch, kind: u16, flags: u16, action: &'static str, chain: &Chain) {
    batch.begin(kind, flags, action, chain.to_string(), &nft::header(chain.family, 0));
    batch.text(1, &chain.table);
    batch.text(2, &chain.name);
}

/// A rule's comment in its user data: type, length, text with its end mark (libnftnl's `NFTNL_UDATA_RULE_COMMENT`).
fn comment(own: &str) -> Vec<u8> {
    const COMMENT: u8 = 0;
    let text = [own.as_bytes(), b"\0"].concat();
    [&[COMMENT, u8::try_from(text.len()).unwrap_or(u8::MAX)], text.as_slice()].concat()
}

fn insert(socket: &Socket, chain: &Chain, own: &str) -> Result<()> {
    const USER_DATA: u16 = 7;
    let mut batch = nft::begin(&chain.table);
    // Without APPEND it comes first.
    name(&mut batch, nft::NEW_RULE, flags::CREATE, "let containers' packets pass", chain);
    batch.nest(4, |b| nft::write_all(b, &[nft::Expression::IsMarked(MARK), nft::Expression::Accept]));
    batch.attribute(USER_DATA, &comment(own));
    nft::commit(batch, socket, &chain.table)
}

/// Handles of our rules among these.
fn ours(rules: &[Answer], own: &str) -> Vec<Vec<u8>> {
    const HANDLE: u16 = 3;
    const USER_DATA: u16 = 7;
    let comment = comment(own);
    let is_ours = |answer: &Answer| answer.attributes(4).any(|(kind, value)| kind == USER_DATA && value == comment);
    let handle = |answer: &Answer| answer.attributes(4).find(|(kind, _)| *kind == HANDLE).map(|(_, value)| value.to_vec());
    rules.iter().filter(|rule| is_ours(rule)).filter_map(handle).collect()
}

/// The rules of a chain, which may have gone.
fn list(socket: &Socket, chain: &Chain) -> Result<Vec<Answer>> {
    let mut batch = Batch::default();
    name(&mut batch, nft::GET_RULE, flags::DUMP, "list the rules of", chain);
    match socket.dump(batch) {
        Err(error) if error.errno() == Some(Errno::NOENT) => Ok(vec![]),
        result => result,
    }
}
