//! What a rule of nftables does with every packet, read from what the kernel tells of it, and what a chain does by such rules.

use crate::netlink::attributes;
use std::collections::BTreeMap;

const DROP: i32 = 0;
const ACCEPT: i32 = 1;
const JUMP: i32 = -3;
const GOTO: i32 = -4;
const RETURN: i32 = -5;

/// Chains that lead to each other are followed so far; the kernel allows no more.
const DEEPEST: usize = 16;

/// A rule's word about every packet that comes to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Word {
    Refuse,
    Accept,
    /// Back to where the chain was called, which for the hook's own chain is its policy.
    Return,
    /// To a chain, and on with the next rule if that says nothing.
    Call(String),
    /// To a chain, and if that says nothing, back to where this one was called.
    GoTo(String),
}

/// The word of a rule; `None` when it asks for something first or says nothing. `message` is a rule's message without its
/// netlink header; the expressions are as iptables and nft write them (`nf_tables.h`).
pub(super) fn word(message: &[u8]) -> Option<Word> {
    const FAMILY_HEADER: usize = 4;
    const EXPRESSIONS: u16 = 4;
    let mut rule = attributes(message.get(FAMILY_HEADER..)?);
    let (_, list) = rule.find(|(kind, _)| *kind == EXPRESSIONS)?;
    let mut word = None;
    for (_, expression) in attributes(list) {
        const NAME: u16 = 1;
        const DATA: u16 = 2;
        let value = |wanted: u16| attributes(expression).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
        let data = value(DATA).unwrap_or_default();
        match value(NAME)? {
            // Of no consequence to the packet.
            b"counter\0" | b"log\0" => {}
            b"match\0" if name(data) == Some(b"comment\0") => {}
            b"reject\0" => word = Some(Word::Refuse),
            b"target\0" if name(data) == Some(b"REJECT\0") => word = Some(Word::Refuse),
            b"immediate\0" => word = verdict(data),
            _ => return None,
        }
    }
    word
}

/// Whether a chain refuses what none of its conditions is about: `Some(true)` when a rule for all packets does, here or in a
/// chain that it leads to, `Some(false)` when one accepts them, and `None` when no rule decides. `rules` lists the words of a
/// chain; each chain is asked for once.
pub(super) fn refuses<E>(chain: &str, rules: &mut impl FnMut(&str) -> Result<Vec<Word>, E>) -> Result<Option<bool>, E> {
    follow(chain, DEEPEST, &mut BTreeMap::new(), rules)
}

fn follow<E>(
    chain: &str,
    depth: usize,
    known: &mut BTreeMap<String, Option<bool>>,
    rules: &mut impl FnMut(&str) -> Result<Vec<Word>, E>,
) -> Result<Option<bool>, E> {
    if let Some(decided) = known.get(chain) {
        return Ok(*decided);
    }
    let Some(depth) = depth.checked_sub(1) else { return Ok(None) };
    let mut decided = None;
    for word in rules(chain)? {
        match word {
            Word::Refuse => decided = Some(true),
            Word::Accept => decided = Some(false),
            Word::Return => break,
            Word::Call(to) => decided = follow(&to, depth, known, rules)?,
            Word::GoTo(to) => {
                decided = follow(&to, depth, known, rules)?;
                break;
            }
        }
        if decided.is_some() {
            break;
        }
    }
    known.insert(chain.to_owned(), decided);
    Ok(decided)
}

/// Name of a match or target of iptables.
fn name(data: &[u8]) -> Option<&[u8]> {
    const NAME: u16 = 1;
    attributes(data).find(|(kind, _)| *kind == NAME).map(|(_, value)| value)
}

fn verdict(immediate: &[u8]) -> Option<Word> {
    const DATA: u16 = 2;
    const VERDICT: u16 = 2;
    const CODE: u16 = 1;
    const CHAIN: u16 = 2;
    let inside = |bytes, wanted: u16| attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let verdict: &[u8] = inside(inside(immediate, DATA)?, VERDICT)?;
    let chain = || {
        let name: &[u8] = inside(verdict, CHAIN)?;
        std::str::from_utf8(name.strip_suffix(b"\0").unwrap_or(name)).ok().map(str::to_owned)
    };
    match i32::from_be_bytes(inside(verdict, CODE)?.try_into().ok()?) {
        DROP => Some(Word::Refuse),
        ACCEPT => Some(Word::Accept),
        RETURN => Some(Word::Return),
        JUMP => chain().map(Word::Call),
        GOTO => chain().map(Word::GoTo),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len() + 4).unwrap();
        let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn expression(name: &str, data: &[u8]) -> Vec<u8> {
        let name = format!("{name}\0");
        attribute(1, &[attribute(1, name.as_bytes()), attribute(2, data)].concat())
    }

    fn immediate(code: i32, chain: &str) -> Vec<u8> {
        let chain = if chain.is_empty() { vec![] } else { attribute(2, format!("{chain}\0").as_bytes()) };
        let verdict = [attribute(1, &code.to_be_bytes()), chain].concat();
        expression("immediate", &[attribute(1, &[0; 4]), attribute(2, &attribute(2, &verdict))].concat())
    }

    fn rule(expressions: &[Vec<u8>]) -> Vec<u8> {
        [vec![2, 0, 0, 0], attribute(1, b"filter\0"), attribute(4, &expressions.concat())].concat()
    }

    #[test]
    fn words_for_every_packet() {
        use Word::{Accept, Call, GoTo, Refuse, Return};
        let extension = |kind: &str, name: &str| expression(kind, &attribute(1, format!("{name}\0").as_bytes()));
        let counter = || expression("counter", &[]);
        for (expressions, expected) in [
            (vec![], None),
            (vec![counter()], None),
            (vec![counter(), extension("target", "REJECT")], Some(Refuse)),
            (vec![extension("match", "comment"), counter(), expression("reject", &[])], Some(Refuse)),
            (vec![counter(), immediate(DROP, "")], Some(Refuse)),
            (vec![immediate(ACCEPT, "")], Some(Accept)),
            (vec![immediate(RETURN, "")], Some(Return)),
            (vec![counter(), immediate(JUMP, "mine")], Some(Call("mine".to_owned()))),
            (vec![immediate(GOTO, "mine")], Some(GoTo("mine".to_owned()))),
            (vec![immediate(JUMP, "")], None),
            (vec![extension("match", "state"), immediate(DROP, "")], None),
            (vec![extension("match", "state"), immediate(JUMP, "mine")], None),
            (vec![expression("meta", &[]), expression("cmp", &[]), immediate(DROP, "")], None),
            (vec![extension("target", "MARK")], None),
        ] {
            assert_eq!(word(&rule(&expressions)), expected, "{expressions:?}");
        }
    }

    /// Chains as lines `name: word word …`; the first is asked.
    fn asked(chains: &str) -> Option<bool> {
        let words = |chain: &str| -> Vec<Word> {
            let line = chains.lines().find_map(|line| line.trim().strip_prefix(chain)?.strip_prefix(':')).unwrap_or_default();
            let one = |text: &str| match text.split_at(1) {
                ("x", "") => Word::Refuse,
                ("a", "") => Word::Accept,
                ("r", "") => Word::Return,
                (">", to) => Word::Call(to.to_owned()),
                (_, to) => Word::GoTo(to.to_owned()),
            };
            line.split_whitespace().map(one).collect()
        };
        refuses("F", &mut |chain| Ok::<_, ()>(words(chain))).unwrap()
    }

    #[test]
    fn a_chain_refuses_where_it_leads_to_a_refusal() {
        for (chains, expected) in [
            ("F:", None),
            ("F: x", Some(true)),
            ("F: a x", Some(false)),
            ("F: r x", None),
            ("F: >A\nA: x", Some(true)),
            ("F: >A\nA: a x", Some(false)),
            ("F: >A x\nA: r x", Some(true)),
            ("F: >A a\nA:", Some(false)),
            ("F: =A x\nA:", None),
            ("F: =A a\nA: x", Some(true)),
            ("F: >A >B\nA: =C x\nC: r\nB: >C x", Some(true)),
            // One that is not there says nothing, as one that leads to itself, which the kernel does not allow.
            ("F: >gone x", Some(true)),
            ("F: >A x\nA: >A", Some(true)),
        ] {
            assert_eq!(asked(chains), expected, "{chains}");
        }
        let deep = |length: usize| {
            let middle: String = (0..length).map(|n| format!("C{n:03}: >C{:03}\n", n + 1)).collect();
            asked(&format!("F: >C000\n{middle}C{length:03}: x"))
        };
        assert_eq!((deep(DEEPEST - 2), deep(DEEPEST + 8)), (Some(true), None));
        // Each chain calls the next one twice: whoever follows every way does not come to an end.
        let wide: String = (0..15).map(|n| format!("W{n:02}: >W{:02} >W{:02}\n", n + 1, n + 1)).collect();
        assert_eq!(asked(&format!("F: >W00 x\n{wide}")), Some(true));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            word(&bytes);
            word(&rule(&[bytes]));
        }
    }
}
