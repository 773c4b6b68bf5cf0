//! A table of `iptables-legacy` as the kernel gives it, and the same with one rule more or less.
//!
//! ```text
//! entry:  addresses, links, protocol │ target_offset │ next_offset │ counters │ match … │ target
//! chain:  hook_entry[hook] → entry, entry, …, underflow[hook] → the policy
//! table:  chains of the hooks, then those of users: an ERROR target with the name, entries, a return; at the end an ERROR
//! ```
//!
//! Jumps are offsets from the table's beginning: what comes to lie elsewhere is followed by all that point to it. Entries
//! of others are otherwise not looked into, and kept byte for byte. Whatever the bytes are, nothing here panics:
//! [`Table::read`] takes only a table in which every offset is the beginning of an entry.

use super::MARK;
use naru_sys::xtables::{Family, Layout};
use std::collections::BTreeMap;

/// `NF_INET_FORWARD`.
const FORWARD: usize = 2;
/// `struct xt_entry_match` and `struct xt_entry_target` before their data: size, name, revision.
const HEADER: usize = 32;
/// What verdicts that are no jumps say, as [`Entry::verdict`] has them.
const DROP: i32 = -1;
const ACCEPT: i32 = -2;
const RETURN: i32 = -5;
/// `struct xt_comment_info` is this long.
const COMMENT_SIZE: usize = 256;
/// Chains that lead to each other are followed so far.
const DEEPEST: usize = 32;
/// Sizes are multiples of it (`XT_ALIGN`).
const ALIGN: usize = 8;

/// Where the fields of a family's entries are: `struct ipt_entry`, `struct ip6t_entry`, as 64-bit kernels have them.
struct Fields {
    /// Length of what is said of addresses, links and protocol; nothing but zeros when it is nothing, but for `goto`.
    about: usize,
    /// Byte and bit there that tell a goto from a jump: `IPT_F_GOTO`, `IP6T_F_GOTO`.
    goto: (usize, u8),
    target_offset: usize,
    next_offset: usize,
    size: usize,
}

const fn fields(family: Family) -> Fields {
    match family {
        Family::Ipv4 => Fields { about: 84, goto: (82, 2), target_offset: 88, next_offset: 90, size: 112 },
        Family::Ipv6 => Fields { about: 136, goto: (131, 4), target_offset: 140, next_offset: 142, size: 168 },
    }
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    bytes.get(at..at + 2).map(|bytes| u16::from_ne_bytes([bytes[0], bytes[1]]).into())
}

/// A match or a target.
#[derive(Clone, Copy)]
struct Extension<'a> {
    name: &'a [u8],
    data: &'a [u8],
}

impl<'a> Extension<'a> {
    /// The first of those that begin here, and what is after it.
    fn read(bytes: &'a [u8]) -> Option<(Extension<'a>, &'a [u8])> {
        let size = number(bytes, 0).filter(|size| *size >= HEADER && *size <= bytes.len())?;
        Some((Extension { name: text(&bytes[2..HEADER - 1]), data: &bytes[HEADER..size] }, &bytes[size..]))
    }

    fn write(into: &mut Vec<u8>, name: &str, revision: u8, data: &[u8]) {
        let size = (HEADER + data.len()).next_multiple_of(ALIGN);
        let start = into.len();
        into.extend_from_slice(&u16::try_from(size).expect("extensions of ours are short").to_ne_bytes());
        into.extend_from_slice(name.as_bytes());
        into.resize(start + HEADER - 1, 0);
        into.push(revision);
        into.extend_from_slice(data);
        into.resize(start + size, 0);
    }
}

/// Up to the byte that ends it.
fn text(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// An entry whose offsets hold.
struct Entry<'a> {
    /// Of addresses, links and protocol.
    about: &'a [u8],
    matches: &'a [u8],
    target: Extension<'a>,
    /// What its target leads to does not come back here.
    is_goto: bool,
    /// All of it, matches and target included.
    size: usize,
    /// Where its target begins.
    target_offset: usize,
}

impl<'a> Entry<'a> {
    /// The first of those that begin here.
    fn read(family: Family, bytes: &'a [u8]) -> Option<Entry<'a>> {
        let fields = fields(family);
        let size = number(bytes, fields.next_offset).filter(|size| size.is_multiple_of(ALIGN))?;
        let bytes = bytes.get(..size)?;
        let target_offset = number(bytes, fields.target_offset)?;
        let matches = bytes.get(fields.size..target_offset)?;
        let (target, _) = Extension::read(&bytes[target_offset..])?;
        let about = &bytes[..fields.about];
        let (place, bit) = fields.goto;
        Some(Entry { about, matches, target, is_goto: about[place] & bit != 0, size, target_offset })
    }

    fn matches(&self) -> impl Iterator<Item = Extension<'a>> {
        let mut rest = self.matches;
        std::iter::from_fn(move || {
            let (one, after) = Extension::read(rest)?;
            rest = after;
            Some(one)
        })
    }

    /// Where the packet goes: to the entry at an offset, or to the kernel's own places, which are below zero. None when
    /// a module decides.
    fn verdict(&self) -> Option<i32> {
        let data = self.target.data.get(..4).filter(|_| self.target.name.is_empty())?;
        Some(i32::from_ne_bytes([data[0], data[1], data[2], data[3]]))
    }

    /// Every packet comes to the target. A comment matches always.
    fn is_unconditional(&self, family: Family) -> bool {
        let is_comment = |one: Extension<'_>| one.name == b"comment";
        let (place, bit) = fields(family).goto;
        let is_nothing = |(at, byte): (usize, &u8)| *byte == 0 || at == place && *byte == bit;
        self.about.iter().enumerate().all(is_nothing) && self.matches().all(is_comment)
    }

    fn has_comment(&self, comment: &str) -> bool {
        self.matches().any(|one| one.name == b"comment" && text(one.data) == comment.as_bytes())
    }
}

/// A table whose offsets hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    family: Family,
    pub layout: Layout,
    pub bytes: Vec<u8>,
    /// Where entries begin.
    starts: Vec<u32>,
}

impl Table {
    /// From what the kernel tells; none when it cannot be, or has no chain for forwarded packets.
    pub fn read(family: Family, layout: Layout, bytes: Vec<u8>) -> Option<Table> {
        // A verdict must tell any of the offsets.
        i32::try_from(bytes.len()).ok()?;
        let mut starts = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            starts.push(u32::try_from(at).ok()?);
            at += Entry::read(family, &bytes[at..])?.size;
        }
        let table = Table { family, layout, bytes, starts };
        let has = |hook: usize| layout.valid_hooks & 1 << hook != 0;
        let holds = |hook: usize| {
            let (entry, policy) = (table.index(layout.hook_entry[hook]), table.index(layout.underflow[hook]));
            !has(hook) || entry.zip(policy).is_some_and(|(entry, policy)| entry <= policy)
        };
        let jumps = || table.entries().filter_map(|entry| u32::try_from(entry.verdict()?).ok());
        let counted = usize::try_from(layout.entries) == Ok(table.starts.len());
        let sound = counted && has(FORWARD) && (0..layout.hook_entry.len()).all(holds) && jumps().all(|to| table.index(to).is_some());
        sound.then_some(table)
    }

    /// Which entry begins there.
    fn index(&self, offset: u32) -> Option<usize> {
        self.starts.binary_search(&offset).ok()
    }

    fn entry(&self, index: usize) -> Option<Entry<'_>> {
        Entry::read(self.family, self.bytes.get(*self.starts.get(index)? as usize..)?)
    }

    fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        (0..self.starts.len()).filter_map(|index| self.entry(index))
    }

    /// The indices of the rules for forwarded packets, without the policy.
    fn forward(&self) -> std::ops::Range<usize> {
        let ends = self.index(self.layout.hook_entry[FORWARD]).zip(self.index(self.layout.underflow[FORWARD]));
        ends.map_or(0..0, |(first, policy)| first..policy)
    }

    /// Forwarded packets that no condition is about are refused, by a rule for all of them, there or in a chain that it
    /// leads to, or by the policy.
    pub fn refuses(&self) -> bool {
        let rules = self.forward();
        let policy = || self.entry(rules.end).is_some_and(|entry| entry.verdict() == Some(DROP));
        self.follow(rules.start, DEEPEST, &mut BTreeMap::new()).unwrap_or_else(policy)
    }

    /// What the chain that begins at an entry says of every packet: refused or not, or nothing.
    fn follow(&self, start: usize, depth: usize, known: &mut BTreeMap<usize, Option<bool>>) -> Option<bool> {
        if let Some(decided) = known.get(&start) {
            return *decided;
        }
        let depth = depth.checked_sub(1)?;
        let mut decided = None;
        let rules = (start..self.starts.len()).filter_map(|index| self.entry(index));
        for entry in rules.filter(|entry| entry.is_unconditional(self.family)) {
            decided = match entry.verdict() {
                Some(ACCEPT) => Some(false),
                Some(DROP) => Some(true),
                Some(RETURN) => break,
                Some(to) if to >= 0 => {
                    let there = u32::try_from(to).ok().and_then(|to| self.index(to)).and_then(|to| self.follow(to, depth, known));
                    if entry.is_goto {
                        decided = there;
                        break;
                    }
                    there
                }
                _ if entry.target.name == b"ERROR" => break,
                _ => (entry.target.name == b"REJECT").then_some(true),
            };
            if decided.is_some() {
                break;
            }
        }
        known.insert(start, decided);
        decided
    }

    /// Which of the rules for forwarded packets has that comment.
    pub fn rule_of(&self, owner: &str) -> Option<usize> {
        self.forward().find(|index| self.entry(*index).is_some_and(|entry| entry.has_comment(owner)))
    }

    /// The table with a rule before all others for forwarded packets, and its index: what is marked is accepted. Its
    /// comment is the owner.
    pub fn with_rule(&self, owner: &str) -> (Table, usize) {
        let at = self.layout.hook_entry[FORWARD];
        let rule = rule(self.family, owner);
        let grown = i64::try_from(rule.len()).expect("a rule of ours is short");
        let mut table = self.moved(|offset| if offset >= at { grown } else { 0 });
        // Its chain begins with it.
        table.layout.hook_entry[FORWARD] = at;
        table.layout.entries += 1;
        table.bytes.splice(at as usize..at as usize, rule);
        table.restart();
        (table, self.forward().start)
    }

    /// The table without a rule that [`Table::rule_of`] has found.
    pub fn without(&self, index: usize) -> Table {
        let Some((at, size)) = self.starts.get(index).zip(self.entry(index).map(|entry| entry.size)) else { return self.clone() };
        let shrunk = -i64::try_from(size).expect("the kernel tells sizes in two bytes");
        // What led to the rule leads to the next one, which comes to lie there.
        let mut table = self.moved(|offset| if offset > *at { shrunk } else { 0 });
        table.layout.entries -= 1;
        table.bytes.drain(*at as usize..*at as usize + size);
        table.restart();
        table
    }

    /// The same entries, with all offsets changed by what `by` says of each.
    fn moved(&self, by: impl Fn(u32) -> i64) -> Table {
        let to = |offset: u32| u32::try_from(i64::from(offset) + by(offset)).unwrap_or(offset);
        let mut table = self.clone();
        for offset in table.layout.hook_entry.iter_mut().chain(&mut table.layout.underflow) {
            *offset = to(*offset);
        }
        for (start, entry) in self.starts.iter().zip(self.entries()) {
            let Some(jump) = entry.verdict().and_then(|verdict| u32::try_from(verdict).ok()) else { continue };
            let place = *start as usize + entry.target_offset + HEADER;
            table.bytes[place..place + 4].copy_from_slice(&to(jump).to_ne_bytes());
        }
        table
    }

    /// Finds again where entries begin.
    fn restart(&mut self) {
        let mut at = 0;
        self.starts.clear();
        while let Some(entry) = self.bytes.get(at..).and_then(|rest| Entry::read(self.family, rest)) {
            // It was a u32 when the table was read, and a rule more does not make it too long for one.
            self.starts.push(at as u32);
            at += entry.size;
        }
    }
}

/// `-m mark --mark MARK/MARK -m comment --comment <owner> -j ACCEPT`.
fn rule(family: Family, owner: &str) -> Vec<u8> {
    let fields = fields(family);
    let mut rule = vec![0; fields.size];
    // `struct xt_mark_mtinfo1`: mark, mask, whether to invert it.
    let mark = [MARK.to_ne_bytes(), MARK.to_ne_bytes(), [0; 4]].concat();
    Extension::write(&mut rule, "mark", 1, &mark);
    let mut comment = [0; COMMENT_SIZE];
    // The last byte ends it.
    for (to, from) in comment[..COMMENT_SIZE - 1].iter_mut().zip(owner.bytes()) {
        *to = from;
    }
    Extension::write(&mut rule, "comment", 0, &comment);
    let target_offset = u16::try_from(rule.len()).expect("the rule is short");
    Extension::write(&mut rule, "", 0, &ACCEPT.to_ne_bytes());
    let size = u16::try_from(rule.len()).expect("the rule is short");
    rule[fields.target_offset..fields.target_offset + 2].copy_from_slice(&target_offset.to_ne_bytes());
    rule[fields.next_offset..fields.next_offset + 2].copy_from_slice(&size.to_ne_bytes());
    rule
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OWN: &str = "naru-test";
    const QUEUE: i32 = -4;

    /// A rule of a table that is being written.
    #[derive(Debug, Clone)]
    enum Rule {
        /// A kernel's verdict, or a jump to the rule of that number, counted from the table's beginning.
        To(Target),
        /// The same for some packets.
        Some(Target),
        /// A jump of which no packet comes back to the rule behind it.
        Goto(usize),
        /// A module decides about all packets.
        Module(&'static str),
        /// The name of a chain.
        Name(&'static str),
        /// A comment before a verdict.
        Commented(&'static str, i32),
    }

    #[derive(Debug, Clone, Copy)]
    enum Target {
        Verdict(i32),
        Rule(usize),
    }
    use Target::{Rule as Jump, Verdict};

    /// Writes a table; `hooks` are the numbers of the first and the last rule of input, forward and output.
    fn table(family: Family, rules: &[Rule], hooks: [(usize, usize); 3]) -> (Layout, Vec<u8>) {
        let fields = fields(family);
        let size = |rule: &Rule| {
            fields.size
                + match rule {
                    Rule::To(_) | Rule::Some(_) | Rule::Goto(_) => 40,
                    Rule::Module(_) => 40,
                    Rule::Name(_) => 64,
                    Rule::Commented(..) => 40 + HEADER + COMMENT_SIZE,
                }
        };
        let starts: Vec<usize> = rules
            .iter()
            .scan(0, |at, rule| {
                *at += size(rule);
                Some(*at - size(rule))
            })
            .collect();
        let mut bytes = Vec::new();
        for (number, rule) in rules.iter().enumerate() {
            let mut entry = vec![0; fields.size];
            // Its counters.
            entry[fields.size - 16] = u8::try_from(number % 250 + 1).unwrap();
            if let Rule::Some(_) = rule {
                entry[3] = 10;
            }
            if let Rule::Goto(_) = rule {
                entry[fields.goto.0] = fields.goto.1;
            }
            if let Rule::Commented(text, _) = rule {
                let mut comment = [0; COMMENT_SIZE];
                comment[..text.len()].copy_from_slice(text.as_bytes());
                Extension::write(&mut entry, "comment", 0, &comment);
            }
            let target_offset = entry.len();
            match rule {
                Rule::To(Verdict(verdict)) | Rule::Some(Verdict(verdict)) | Rule::Commented(_, verdict) => {
                    Extension::write(&mut entry, "", 0, &verdict.to_ne_bytes());
                }
                Rule::To(Jump(number)) | Rule::Some(Jump(number)) | Rule::Goto(number) => {
                    Extension::write(&mut entry, "", 0, &i32::try_from(starts[*number]).unwrap().to_ne_bytes());
                }
                Rule::Module(name) => Extension::write(&mut entry, name, 0, &[0; 4]),
                Rule::Name(name) => {
                    let mut text = [0; 30];
                    text[..name.len()].copy_from_slice(name.as_bytes());
                    Extension::write(&mut entry, "ERROR", 0, &text);
                }
            }
            entry[fields.target_offset..][..2].copy_from_slice(&u16::try_from(target_offset).unwrap().to_ne_bytes());
            let size = u16::try_from(entry.len()).unwrap();
            entry[fields.next_offset..][..2].copy_from_slice(&size.to_ne_bytes());
            bytes.extend(entry);
        }
        let mut layout = Layout { valid_hooks: 0b1110, entries: u32::try_from(rules.len()).unwrap(), ..Layout::default() };
        for (hook, (first, last)) in (1..).zip(hooks) {
            layout.hook_entry[hook] = u32::try_from(starts[first]).unwrap();
            layout.underflow[hook] = u32::try_from(starts[last]).unwrap();
        }
        (layout, bytes)
    }

    /// Input, with a jump to a chain of a user; forward, with such a jump, these rules and that policy; output; two such chains,
    /// of which one jumps to the other.
    fn host(forward: &[Rule], policy: i32) -> (Vec<Rule>, [(usize, usize); 3]) {
        let mut rules = vec![Rule::Some(Jump(0)), Rule::To(Verdict(ACCEPT)), Rule::Some(Jump(0))];
        rules.extend_from_slice(forward);
        let end = rules.len();
        rules.extend([Rule::To(Verdict(policy)), Rule::Some(Verdict(QUEUE)), Rule::To(Verdict(ACCEPT))]);
        let chain = rules.len();
        rules.extend([Rule::Name("ONE"), Rule::Some(Jump(chain + 5)), Rule::Module("LOG"), Rule::To(Verdict(RETURN))]);
        rules.extend([Rule::Name("TWO"), Rule::Some(Verdict(DROP)), Rule::To(Verdict(RETURN)), Rule::Name("ERROR")]);
        for from in [0, 2] {
            rules[from] = Rule::Some(Jump(chain + 1));
        }
        (rules, [(0, 1), (2, end), (end + 1, end + 2)])
    }

    fn read(family: Family, (rules, hooks): &(Vec<Rule>, [(usize, usize); 3])) -> Table {
        let (layout, bytes) = table(family, rules, *hooks);
        Table::read(family, layout, bytes).unwrap()
    }

    const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];

    #[test]
    fn a_chain_refuses_by_policy_or_by_a_rule_for_all() {
        let refuses = |forward: &[Rule], policy| FAMILIES.map(|family| read(family, &host(forward, policy)).refuses());
        let cases: &[(&[Rule], i32, bool)] = &[
            (&[], ACCEPT, false),
            (&[], DROP, true),
            (&[Rule::Some(Verdict(DROP))], ACCEPT, false),
            (&[Rule::To(Verdict(DROP))], ACCEPT, true),
            (&[Rule::Module("REJECT")], ACCEPT, true),
            (&[Rule::Module("LOG"), Rule::Module("REJECT")], ACCEPT, true),
            (&[Rule::Commented("no more", DROP)], ACCEPT, true),
            (&[Rule::To(Verdict(ACCEPT))], DROP, false),
            (&[Rule::To(Verdict(ACCEPT)), Rule::Module("REJECT")], ACCEPT, false),
            (&[Rule::To(Verdict(RETURN)), Rule::Module("REJECT")], ACCEPT, false),
            (&[Rule::To(Verdict(RETURN))], DROP, true),
        ];
        for (forward, policy, expected) in cases {
            assert_eq!(refuses(forward, *policy), [*expected; 2], "{forward:?}, then {policy}");
        }
    }

    /// Forward leads to the chain that begins at rule 6, which may lead to the one at 12.
    fn led(by: Rule, one: &[Rule], two: Rule) -> (Vec<Rule>, [(usize, usize); 3]) {
        let mut rules = vec![Rule::To(Verdict(ACCEPT)), by, Rule::Module("LOG"), Rule::To(Verdict(ACCEPT)), Rule::To(Verdict(ACCEPT))];
        rules.push(Rule::Name("ONE"));
        rules.extend_from_slice(one);
        rules.resize(10, Rule::Module("LOG"));
        rules.extend([Rule::To(Verdict(RETURN)), Rule::Name("TWO"), two, Rule::To(Verdict(RETURN)), Rule::Name("ERROR")]);
        (rules, [(0, 0), (1, 3), (4, 4)])
    }

    #[test]
    fn a_chain_refuses_by_those_it_leads_to() {
        let (one, two) = (6, 12);
        let refuse = Rule::Module("REJECT");
        let pass = Rule::To(Verdict(ACCEPT));
        let back = Rule::To(Verdict(RETURN));
        let cases: &[(Rule, &[Rule], Rule, bool)] = &[
            (Rule::To(Jump(one)), std::slice::from_ref(&refuse), pass.clone(), true),
            (Rule::Goto(one), &[Rule::To(Verdict(DROP))], pass.clone(), true),
            // Only some packets go there, or are refused there.
            (Rule::Some(Jump(one)), std::slice::from_ref(&refuse), pass.clone(), false),
            (Rule::To(Jump(one)), &[Rule::Some(Verdict(DROP))], pass.clone(), false),
            // They come back before.
            (Rule::To(Jump(one)), &[back.clone(), refuse.clone()], pass.clone(), false),
            (Rule::To(Jump(one)), &[pass.clone(), refuse.clone()], refuse.clone(), false),
            // From chain to chain, and back to where they were led from; of a goto not even that.
            (Rule::To(Jump(one)), &[Rule::To(Jump(two))], refuse.clone(), true),
            (Rule::To(Jump(one)), &[Rule::To(Jump(two)), refuse.clone()], back.clone(), true),
            (Rule::To(Jump(one)), &[Rule::Goto(two), refuse.clone()], back.clone(), false),
            // The kernel has no loops; a table that has is looked at to an end.
            (Rule::To(Jump(one)), &[Rule::To(Jump(two))], Rule::To(Jump(one)), false),
        ];
        for (by, chain, other, expected) in cases {
            let refuses = FAMILIES.map(|family| read(family, &led(by.clone(), chain, other.clone())).refuses());
            assert_eq!(refuses, [*expected; 2], "{by:?} to {chain:?}, then {other:?}");
        }
    }

    #[test]
    fn a_rule_is_put_before_all_others_and_taken_out() {
        for family in FAMILIES {
            for forward in [&[][..], &[Rule::Some(Verdict(ACCEPT)), Rule::Commented("else", DROP)]] {
                let (rules, hooks) = host(forward, DROP);
                let old = read(family, &(rules.clone(), hooks));
                assert_eq!(old.rule_of(OWN), None);
                let (new, index) = old.with_rule(OWN);
                assert_eq!((index, new.rule_of(OWN), new.rule_of("naru-tes")), (2, Some(2), None));
                // What a program that knew of it from the beginning would have written: jumps in both directions are as they were.
                let shift = |target: Target| match target {
                    Jump(number) if number >= 2 => Jump(number + 1),
                    other => other,
                };
                let mut wanted: Vec<Rule> = rules
                    .iter()
                    .map(|rule| match rule {
                        Rule::To(target) => Rule::To(shift(*target)),
                        Rule::Some(target) => Rule::Some(shift(*target)),
                        other => other.clone(),
                    })
                    .collect();
                wanted.insert(2, Rule::Commented(OWN, ACCEPT));
                let wanted_hooks = [hooks[0], (2, hooks[1].1 + 1), (hooks[2].0 + 1, hooks[2].1 + 1)];
                let wanted = read(family, &(wanted, wanted_hooks));
                // Counters, and the match that the other rule does not have, apart.
                let plain = |table: &Table| -> Vec<(Vec<u8>, Option<i32>, usize)> {
                    let of = |entry: Entry<'_>| (entry.about.to_vec(), entry.verdict().map(|to| seen(table, to)), entry.target.data.len());
                    table.entries().map(of).collect()
                };
                fn seen(table: &Table, verdict: i32) -> i32 {
                    u32::try_from(verdict).map_or(verdict, |to| i32::try_from(table.index(to).unwrap()).unwrap())
                }
                assert_eq!(plain(&new), plain(&wanted));
                let ends = |table: &Table| {
                    [1, 2, 3].map(|hook| (table.index(table.layout.hook_entry[hook]), table.index(table.layout.underflow[hook])))
                };
                assert_eq!(ends(&new), ends(&wanted));
                // All others byte for byte, but for their jumps.
                let kept = |table: &Table, skip: Option<usize>| -> Vec<Vec<u8>> {
                    let rest = table.starts.iter().zip(table.entries()).enumerate().filter(|(number, _)| Some(*number) != skip);
                    let bytes = |(_, (start, entry)): (usize, (&u32, Entry<'_>))| {
                        let mut bytes = table.bytes[*start as usize..][..entry.size].to_vec();
                        if entry.verdict().is_some_and(|verdict| verdict >= 0) {
                            bytes[entry.target_offset + HEADER..][..4].fill(0);
                        }
                        bytes
                    };
                    rest.map(bytes).collect()
                };
                assert_eq!(kept(&new, Some(2)), kept(&old, None));
                assert_eq!(Table::read(family, new.layout, new.bytes.clone()).as_ref(), Some(&new));
                assert_eq!(new.without(index), old);
            }
        }
    }

    /// `iptables-legacy -A FORWARD -m mark --mark 0x20000000/0x20000000 -m comment --comment naru-test -j ACCEPT`.
    #[test]
    fn the_rule_is_what_iptables_writes() {
        let rule = rule(Family::Ipv4, OWN);
        let mut wanted = vec![0; 112];
        wanted[88..92].copy_from_slice(&[0xc0, 0x01, 0xe8, 0x01]);
        wanted.extend(b"\x30\0mark");
        wanted.resize(112 + 31, 0);
        wanted.extend(b"\x01\0\0\0\x20\0\0\0\x20\0\0\0\0\0\0\0\0");
        wanted.extend(b"\x20\x01comment");
        wanted.resize(160 + 32, 0);
        wanted.extend(b"naru-test");
        wanted.resize(448, 0);
        wanted.extend(b"\x28");
        wanted.resize(480, 0);
        wanted.extend(b"\xfe\xff\xff\xff\0\0\0\0");
        if cfg!(target_endian = "little") {
            assert_eq!(rule, wanted);
        }
    }

    #[test]
    fn a_long_name_is_cut() {
        let entry = rule(Family::Ipv6, &"x".repeat(400));
        let entry = Entry::read(Family::Ipv6, &entry).unwrap();
        assert!(entry.has_comment(&"x".repeat(255)) && entry.size == entry.about.len() + 32 + 48 + 288 + 40);
    }

    #[test]
    fn what_cannot_be_is_no_table() {
        let (rules, hooks) = host(&[], DROP);
        let (layout, bytes) = table(Family::Ipv4, &rules, hooks);
        let is_read = |layout: Layout, bytes: &[u8]| Table::read(Family::Ipv4, layout, bytes.to_vec()).is_some();
        assert!(is_read(layout, &bytes));
        assert!(!is_read(Layout { entries: layout.entries - 1, ..layout }, &bytes), "it has more entries");
        assert!(!is_read(Layout { valid_hooks: 0b1010, ..layout }, &bytes), "nothing is forwarded");
        assert!(!is_read(layout, &bytes[..bytes.len() - 8]), "it is cut");
        let mut moved = layout;
        moved.underflow[3] += 8;
        assert!(!is_read(moved, &bytes), "a policy is amid an entry");
        let mut turned = layout;
        turned.hook_entry[2] = layout.underflow[3];
        assert!(!is_read(turned, &bytes), "a chain ends before it begins");
        let mut jump = bytes.clone();
        jump[112 + HEADER] += 8;
        assert!(!is_read(layout, &jump), "a jump leads amid an entry");
        assert!(!is_read(Layout::default(), &[]));
    }

    fn any_family() -> impl Strategy<Value = Family> {
        prop_oneof![Just(Family::Ipv4), Just(Family::Ipv6)]
    }

    fn exercise(family: Family, layout: Layout, bytes: Vec<u8>) {
        let Some(table) = Table::read(family, layout, bytes) else { return };
        let _decided = table.refuses();
        if let Some(index) = table.rule_of(OWN) {
            let less = table.without(index);
            assert_eq!(Table::read(family, less.layout, less.bytes.clone()).as_ref(), Some(&less));
        } else {
            let (more, index) = table.with_rule(OWN);
            assert_eq!(Table::read(family, more.layout, more.bytes.clone()).as_ref(), Some(&more));
            assert_eq!(more.without(index), table);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            family in any_family(),
            valid_hooks in any::<u32>(),
            offsets in any::<[[u32; 5]; 2]>(),
            entries in 0..4u32,
            bytes in prop::collection::vec(any::<u8>(), 0..600),
        ) {
            exercise(family, Layout { valid_hooks, hook_entry: offsets[0], underflow: offsets[1], entries }, bytes);
        }

        #[test]
        fn a_damaged_table_never_panics(
            family in any_family(),
            policy in prop_oneof![Just(DROP), Just(ACCEPT)],
            own in any::<bool>(),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            offset in prop::option::of((0..5usize, any::<bool>(), any::<u32>())),
        ) {
            let comment = if own { OWN } else { "else" };
            let (rules, hooks) = host(&[Rule::Commented(comment, ACCEPT), Rule::Module("REJECT")], policy);
            let (mut layout, mut bytes) = table(family, &rules, hooks);
            for (place, byte) in damage {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            if let Some((hook, first, offset)) = offset {
                let offsets = if first { &mut layout.hook_entry } else { &mut layout.underflow };
                offsets[hook] = offset;
            }
            exercise(family, layout, bytes);
        }
    }
}
