//! What a rule of nftables does with every packet, read from what the kernel tells of it.

use crate::netlink::attributes;

const DROP: u32 = 0;
const ACCEPT: u32 = 1;

/// The rule's word about every packet that comes to it: `Some(true)` when it refuses, `Some(false)` when it lets pass, and
/// `None` when it asks for something first or says neither. `message` is a rule's message without its netlink header; the
/// expressions are as iptables and nft write them (`nf_tables.h`).
pub(super) fn refuses(message: &[u8]) -> Option<bool> {
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
            b"reject\0" => word = Some(true),
            b"target\0" if name(data) == Some(b"REJECT\0") => word = Some(true),
            b"immediate\0" => {
                word = match verdict(data)? {
                    DROP => Some(true),
                    ACCEPT => Some(false),
                    _ => None,
                }
            }
            _ => return None,
        }
    }
    word
}

/// Name of a match or target of iptables.
fn name(data: &[u8]) -> Option<&[u8]> {
    const NAME: u16 = 1;
    attributes(data).find(|(kind, _)| *kind == NAME).map(|(_, value)| value)
}

fn verdict(immediate: &[u8]) -> Option<u32> {
    const DATA: u16 = 2;
    const VERDICT: u16 = 2;
    const CODE: u16 = 1;
    let inside = |bytes, wanted: u16| attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let code: &[u8] = inside(inside(inside(immediate, DATA)?, VERDICT)?, CODE)?;
    code.try_into().ok().map(u32::from_be_bytes)
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

    fn immediate(code: u32) -> Vec<u8> {
        let verdict = attribute(1, &code.to_be_bytes());
        expression("immediate", &[attribute(1, &[0; 4]), attribute(2, &attribute(2, &verdict))].concat())
    }

    fn rule(expressions: &[Vec<u8>]) -> Vec<u8> {
        [vec![2, 0, 0, 0], attribute(1, b"filter\0"), attribute(4, &expressions.concat())].concat()
    }

    #[test]
    fn words_for_every_packet() {
        const JUMP: u32 = -3_i32 as u32;
        let extension = |kind: &str, name: &str| expression(kind, &attribute(1, format!("{name}\0").as_bytes()));
        let counter = || expression("counter", &[]);
        for (expressions, expected) in [
            (vec![], None),
            (vec![counter()], None),
            (vec![counter(), extension("target", "REJECT")], Some(true)),
            (vec![extension("match", "comment"), counter(), expression("reject", &[])], Some(true)),
            (vec![counter(), immediate(DROP)], Some(true)),
            (vec![immediate(ACCEPT)], Some(false)),
            (vec![immediate(JUMP)], None),
            (vec![extension("match", "state"), immediate(DROP)], None),
            (vec![expression("meta", &[]), expression("cmp", &[]), immediate(DROP)], None),
            (vec![extension("target", "MARK")], None),
        ] {
            assert_eq!(refuses(&rule(&expressions)), expected, "{expressions:?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            refuses(&bytes);
            refuses(&rule(&[bytes]));
        }
    }
}
