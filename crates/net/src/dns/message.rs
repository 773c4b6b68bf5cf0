//! Messages of the domain name system, as much of them as a resolver between container and server needs: the question is
//! read and answered, everything else passes as it is.

use crate::dns::{Answer, Zone};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

/// Longest message: TCP's length has 16 bits.
pub const MAX_MESSAGE: usize = 65535;

/// What any client takes by UDP.
const MIN_UDP: usize = 512;

/// Seconds an answer may be kept, as Docker says.
const TIME_TO_LIVE: u32 = 600;

const HEADER: usize = 12;
const CLASS_IN: u16 = 1;
const CLASS_ANY: u16 = 255;
const TYPE_A: u16 = 1;
const TYPE_PTR: u16 = 12;
const TYPE_AAAA: u16 = 28;
const TYPE_OPT: u16 = 41;

/// Bits of the second 16 of a header.
const RESPONSE: u16 = 1 << 15;
const OPERATION: u16 = 0xf << 11;
const TRUNCATED: u16 = 1 << 9;
const RECURSION_DESIRED: u16 = 1 << 8;
const RECURSION_AVAILABLE: u16 = 1 << 7;
const CHECKING_DISABLED: u16 = 1 << 4;
const CODE: u16 = 0xf;

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    Good = 0,
    FormatError = 1,
    ServerFailure = 2,
    NotImplemented = 4,
    Refused = 5,
}

/// The way a query came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// An answer has the size the client takes.
    Udp,
    /// An answer has any size.
    Tcp,
}

/// What to do about bytes that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// They are no query.
    Nothing,
    /// This is the answer.
    Answer(Vec<u8>),
    /// Somebody else may know.
    Forward,
}

/// A query's question and what its sender can take.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Query {
    /// In lower case, without a final dot; absent when a label is no text.
    name: Option<String>,
    kind: u16,
    class: u16,
    /// Name, type and class.
    question: Range<usize>,
    /// The size of datagrams the client takes, when it said so.
    udp_size: Option<u16>,
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Reads a name without compression, which a question has no use for: the text, and where it ends.
fn name(bytes: &[u8], mut at: usize) -> Option<(Option<String>, usize)> {
    let (start, mut text) = (at, Some(String::new()));
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1;
        if length == 0 {
            return (at - start <= 255).then_some((text, at));
        }
        let label = bytes.get(at..at + length).filter(|_| length < 64 && at + length - start < 255)?;
        at += length;
        let is_text = label.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'.');
        text = text.filter(|_| is_text).map(|mut text| {
            if !text.is_empty() {
                text.push('.');
            }
            text.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
            text
        });
    }
}

/// Where a name ends that may be compressed.
fn skip_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let length = *bytes.get(at)?;
        match length {
            0 => return Some(at + 1),
            1..=63 => at += 1 + usize::from(length),
            0xc0.. => return Some(at + 2),
            _ => return None,
        }
    }
}

impl Query {
    /// Reads a query; its header was looked at.
    fn read(bytes: &[u8]) -> Option<Query> {
        if number(bytes, 4)? != 1 {
            return None;
        }
        let (name, end) = name(bytes, HEADER)?;
        let (kind, class) = (number(bytes, end)?, number(bytes, end + 2)?);
        let udp_size = Self::udp_size(bytes, end + 4);
        Some(Query { name, kind, class, question: HEADER..end + 4, udp_size })
    }

    /// The size said by the OPT record (EDNS), which is among the last records.
    fn udp_size(bytes: &[u8], mut at: usize) -> Option<u16> {
        let records: usize = [6, 8, 10].iter().map(|at| number(bytes, *at).map_or(0, usize::from)).sum();
        for _ in 0..records {
            at = skip_name(bytes, at)?;
            if number(bytes, at)? == TYPE_OPT {
                return number(bytes, at + 2);
            }
            at += 10 + usize::from(number(bytes, at + 8)?);
        }
        None
    }

    /// The longest answer the client takes.
    fn limit(&self, transport: Transport) -> usize {
        match transport {
            Transport::Udp => self.udp_size.map_or(MIN_UDP, |size| usize::from(size).max(MIN_UDP)),
            Transport::Tcp => MAX_MESSAGE,
        }
    }
}

/// Answers a query, as far as the zone can.
pub fn respond(bytes: &[u8], transport: Transport, zone: &dyn Zone) -> Reply {
    let Some(flags) = number(bytes, 2).filter(|_| (HEADER..=MAX_MESSAGE).contains(&bytes.len())) else { return Reply::Nothing };
    // An answer to an answer would be answered in its turn.
    if flags & RESPONSE != 0 {
        return Reply::Nothing;
    }
    if flags & OPERATION != 0 {
        return Reply::Answer(answer(bytes, None, &[], Code::NotImplemented, transport));
    }
    let Some(query) = Query::read(bytes) else { return Reply::Answer(answer(bytes, None, &[], Code::FormatError, transport)) };
    let Some(text) = query.name.as_deref().filter(|_| matches!(query.class, CLASS_IN | CLASS_ANY)) else { return Reply::Forward };
    let records: Vec<Vec<u8>> = if query.kind == TYPE_PTR {
        let Some(name) = reversed(text).and_then(|address| zone.reverse(address)).and_then(|name| encode(&name)) else {
            return Reply::Forward;
        };
        vec![name]
    } else {
        let Answer::Addresses(mut addresses) = zone.lookup(text) else { return Reply::Forward };
        addresses.retain(|address| query.kind == if address.is_ipv4() { TYPE_A } else { TYPE_AAAA });
        shuffle(&mut addresses);
        addresses.into_iter().map(crate::address::octets).collect()
    };
    Reply::Answer(answer(bytes, Some(&query), &records, Code::Good, transport))
}

/// An answer without records, for a query that was well formed.
pub(crate) fn failure(query: &[u8], code: Code) -> Vec<u8> {
    answer(query, Query::read(query).as_ref(), &[], code, Transport::Udp)
}

fn answer(bytes: &[u8], query: Option<&Query>, records: &[Vec<u8>], code: Code, transport: Transport) -> Vec<u8> {
    let asked = number(bytes, 2).unwrap_or_default();
    let mut flags = RESPONSE | asked & (OPERATION | RECURSION_DESIRED | CHECKING_DISABLED) | RECURSION_AVAILABLE | code as u16;
    let mut out = bytes.get(..2).unwrap_or(&[0; 2]).to_vec();
    out.extend([0; HEADER - 2]);
    let mut fitting = 0u16;
    if let Some(query) = query {
        out.extend_from_slice(bytes.get(query.question.clone()).unwrap_or_default());
        let extra = if query.udp_size.is_some() { 11 } else { 0 };
        let limit = query.limit(transport).min(MAX_MESSAGE) - extra;
        for record in records {
            // A pointer to the question's name, type, class, time to live, length.
            if out.len() + 12 + record.len() > limit {
                flags |= TRUNCATED;
                break;
            }
            out.extend([0xc0, 0x0c]);
            out.extend(query.kind.to_be_bytes());
            out.extend(CLASS_IN.to_be_bytes());
            out.extend(TIME_TO_LIVE.to_be_bytes());
            out.extend(u16::try_from(record.len()).expect("a name or an address is short").to_be_bytes());
            out.extend_from_slice(record);
            fitting += 1;
        }
        if query.udp_size.is_some() {
            // Who says what it takes is told what we take.
            out.extend([0, 0, TYPE_OPT as u8, 0x04, 0xd0, 0, 0, 0, 0, 0, 0]);
            out[11] = 1;
        }
        out[5] = 1;
    }
    out[2..4].copy_from_slice(&flags.to_be_bytes());
    out[6..8].copy_from_slice(&fitting.to_be_bytes());
    out
}

/// A name as it stands in a record.
fn encode(name: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(name.len() + 2);
    for label in name.trim_end_matches('.').split('.') {
        bytes.push(u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length))?);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    (bytes.len() <= 255).then_some(bytes)
}

/// The address of a name below `in-addr.arpa` or `ip6.arpa`.
fn reversed(name: &str) -> Option<IpAddr> {
    if let Some(digits) = name.strip_suffix(".in-addr.arpa") {
        let octets: Vec<u8> = digits.split('.').map(str::parse).collect::<Result<_, _>>().ok()?;
        let [d, c, b, a] = octets.try_into().ok()?;
        return Some(IpAddr::V4(Ipv4Addr::new(a, b, c, d)));
    }
    let digits = name.strip_suffix(".ip6.arpa")?;
    let mut nibbles = digits.split('.').rev();
    let mut address = 0u128;
    for _ in 0..32 {
        let nibble = nibbles.next().filter(|nibble| nibble.len() == 1)?;
        address = address << 4 | u128::from(u8::from_str_radix(nibble, 16).ok()?);
    }
    nibbles.next().is_none().then(|| IpAddr::V6(Ipv6Addr::from(address)))
}

/// Any order, so that the containers behind a name share the load.
fn shuffle(addresses: &mut [IpAddr]) {
    if addresses.len() < 2 {
        return;
    }
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).expect("the kernel's random source cannot fail after boot");
    let mut state = u64::from_ne_bytes(seed) | 1;
    for last in (1..addresses.len()).rev() {
        // xorshift: no secret depends on it.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let other = state % (last as u64 + 1);
        addresses.swap(last, usize::try_from(other).expect("it is not above an index"));
    }
}

/// The question's bytes in lower case: what is asked, whoever asks it.
pub(crate) fn question(query: &[u8]) -> Option<Vec<u8>> {
    Query::read(query).map(|read| query[read.question].to_ascii_lowercase())
}

/// True when these bytes answer the query that was sent under this identifier.
pub fn is_answer(query: &[u8], identifier: u16, bytes: &[u8]) -> bool {
    bytes.len() >= HEADER
        && number(bytes, 0) == Some(identifier)
        && number(bytes, 2).is_some_and(|flags| flags & RESPONSE != 0 && flags & OPERATION == 0)
        // A server that says only that it could not read the question need not repeat it.
        && (question(bytes).is_some_and(|answered| question(query) == Some(answered)) || (bytes.len() == HEADER && failed(bytes)))
}

/// True when another server may do better.
pub(crate) fn failed(answer: &[u8]) -> bool {
    let code = number(answer, 2).unwrap_or_default() & CODE;
    [Code::ServerFailure, Code::Refused, Code::NotImplemented, Code::FormatError].iter().any(|failure| *failure as u16 == code)
}

/// An answer of another server as the client may have it: under its own identifier, and no longer than it takes.
pub(crate) fn pass_on(query: &[u8], mut bytes: Vec<u8>, transport: Transport) -> Vec<u8> {
    let Some(read) = Query::read(query) else { return failure(query, Code::FormatError) };
    if bytes.len() > read.limit(transport) {
        let mut short = answer(query, Some(&read), &[], Code::Good, transport);
        let flags = number(&bytes, 2).unwrap_or_default() | TRUNCATED;
        short[2..4].copy_from_slice(&flags.to_be_bytes());
        return short;
    }
    bytes[..2].copy_from_slice(&query[..2]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::SocketAddr;

    struct Names(usize);

    impl Zone for Names {
        fn lookup(&self, name: &str) -> Answer {
            match name {
                "web" => Answer::Addresses(vec![address("10.0.0.2"), address("fd00::2")]),
                "four.net" => Answer::Addresses(vec![address("10.0.0.3")]),
                "many" => Answer::Addresses((0..self.0).map(|n| IpAddr::from([10, 1, (n / 250) as u8, (n % 250) as u8])).collect()),
                _ => Answer::NotOurs,
            }
        }

        fn reverse(&self, of: IpAddr) -> Option<String> {
            (of == address("10.0.0.2") || of == address("fd00::2")).then(|| "web.net".to_owned())
        }

        fn upstream(&self) -> Vec<SocketAddr> {
            vec![]
        }
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn query(name: &str, kind: u16, size: Option<u16>) -> Vec<u8> {
        let mut bytes = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(size.is_some())];
        bytes.extend(encode(name).unwrap());
        bytes.extend([kind.to_be_bytes(), CLASS_IN.to_be_bytes()].concat());
        if let Some(size) = size {
            bytes.extend([&[0, 0, 41][..], &size.to_be_bytes(), &[0; 6]].concat());
        }
        bytes
    }

    fn answered(name: &str, kind: u16) -> Vec<u8> {
        match respond(&query(name, kind, None), Transport::Udp, &Names(0)) {
            Reply::Answer(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_of_ours() {
        let answer = answered("WeB", TYPE_A);
        let expected = [
            &[0xab, 0xcd, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0][..],
            b"\x03WeB\0\0\x01\0\x01",
            &[0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 2, 88, 0, 4, 10, 0, 0, 2],
        ]
        .concat();
        assert_eq!(answer, expected, "the name as it was asked, 600 seconds");
        assert_eq!(answered("web", TYPE_AAAA)[7], 1);
        // A family it has not, MX, HTTPS, ANY: known, but nothing of that kind.
        for (name, kind) in [("four.net", TYPE_AAAA), ("web", 15), ("web", 65), ("web", 255)] {
            let answer = answered(name, kind);
            assert_eq!((answer[3] & 0xf, answer[7]), (0, 0), "{name} {kind}");
        }
        assert_eq!(respond(&query("other", TYPE_A, None), Transport::Udp, &Names(0)), Reply::Forward);
    }

    #[test]
    fn addresses_of_ours() {
        let answer = answered("2.0.0.10.in-addr.arpa", TYPE_PTR);
        assert!(answer.ends_with(b"\x03web\x03net\0"));
        let six = format!("{}{}", "2.", "0.".repeat(27));
        assert!(answered(&format!("{six}0.0.d.f.ip6.arpa"), TYPE_PTR).ends_with(b"\x03web\x03net\0"));
        for other in ["3.0.0.10.in-addr.arpa", "0.0.10.in-addr.arpa", "1.2.ip6.arpa", "x.0.0.10.in-addr.arpa", "2.0.0.10.in-addr.arpa.x"] {
            assert_eq!(respond(&query(other, TYPE_PTR, None), Transport::Udp, &Names(0)), Reply::Forward, "{other}");
        }
    }

    #[test]
    fn many_addresses_are_cut_and_mixed() {
        let ask = |size, transport| match respond(&query("many", TYPE_A, size), transport, &Names(100)) {
            Reply::Answer(answer) => answer,
            other => panic!("{other:?}"),
        };
        let short = ask(None, Transport::Udp);
        assert!(short.len() <= 512 && short[2] & 2 != 0 && short[7] == 30, "{} {}", short.len(), short[7]);
        let long = ask(Some(4096), Transport::Udp);
        assert!(long.len() > 1600 && long[2] & 2 == 0 && long[7] == 100 && long[11] == 1);
        // A size below what everybody takes is none.
        assert_eq!(ask(Some(100), Transport::Udp)[7], 29);
        assert_eq!(ask(None, Transport::Tcp)[7], 100);
        let first = |answer: &[u8]| answer[HEADER + 10 + 12..][..4].to_vec();
        assert!((0..50).any(|_| first(&ask(None, Transport::Tcp)) != first(&long)), "not always the same one first");
    }

    #[test]
    fn what_is_no_query() {
        let zone = Names(0);
        let mut response = query("web", TYPE_A, None);
        response[2] |= 0x80;
        for nothing in [&[][..], &[0; 11], &response] {
            assert_eq!(respond(nothing, Transport::Udp, &zone), Reply::Nothing);
        }
        let mut update = query("web", TYPE_A, None);
        update[2] |= 5 << 3;
        let mut two = query("web", TYPE_A, None);
        two[5] = 2;
        let mut pointer = query("web", TYPE_A, None);
        pointer[HEADER] = 0xc0;
        for (bad, code) in [(update, 4), (two, 1), (pointer, 1), (vec![0; HEADER], 1)] {
            let Reply::Answer(answer) = respond(&bad, Transport::Udp, &zone) else { panic!() };
            assert_eq!((answer.len(), answer[3] & 0xf), (HEADER, code));
        }
        // A label that is no text may mean something to another server.
        let mut dotted = query("web", TYPE_A, None);
        dotted[HEADER + 2] = b'.';
        assert_eq!(respond(&dotted, Transport::Udp, &zone), Reply::Forward);
    }

    #[test]
    fn answers_of_others() {
        let sent = query("Example.org", TYPE_A, Some(600));
        let mut good = query("eXample.org", TYPE_A, None);
        good[..4].copy_from_slice(&[0x12, 0x34, 0x81, 0x80]);
        assert!(is_answer(&sent, 0x1234, &good));
        assert!(!is_answer(&sent, 0x1235, &good));
        assert!(!is_answer(&query("example.com", TYPE_A, None), 0x1234, &good));
        assert!(!is_answer(&query("example.org", TYPE_AAAA, None), 0x1234, &good));
        assert!(!is_answer(&sent, 0xabcd, &sent), "the query itself is no answer");
        assert!(is_answer(&sent, 0x1234, &[0x12, 0x34, 0x81, 0x82, 0, 0, 0, 0, 0, 0, 0, 0]));
        assert!(!failed(&good) && failed(&failure(&sent, Code::ServerFailure)));
        let passed = pass_on(&sent, good.clone(), Transport::Udp);
        assert_eq!((&passed[..2], &passed[2..]), (&sent[..2], &good[2..]));
        good.resize(700, 7);
        let cut = pass_on(&sent, good.clone(), Transport::Udp);
        assert!(cut.len() < 100 && cut[2] & 2 != 0 && cut[7] == 0);
        assert_eq!(pass_on(&sent, good, Transport::Tcp).len(), 700);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..600), head in any::<bool>()) {
            let mut bytes = bytes;
            if head && bytes.len() >= HEADER {
                bytes[2..HEADER].copy_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
            }
            if let Reply::Answer(answer) = respond(&bytes, Transport::Udp, &Names(200)) {
                prop_assert_eq!(&answer[..2], &bytes[..2]);
                prop_assert!(answer.len() <= 65535);
            }
            is_answer(&query("web", TYPE_A, None), 1, &bytes);
        }
    }
}
