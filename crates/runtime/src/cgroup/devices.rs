//! Which devices a container may use: `devices.allow` of v1, an eBPF program for v2.
//!
//! Rules are evaluated in order and the last that matches decides; what no rule matches is denied (GHSA-g54h: an empty
//! list must not mean everything).

use super::write;
use crate::error::{Error, Result};
use crate::spec::DeviceRule;
use naru_sys::bpf::{self, Instruction};
use rustix::fs::{Mode, OFlags};
use std::os::fd::AsFd;
use std::path::Path;

fn is_all(rule: &DeviceRule) -> bool {
    matches!(rule.kind.as_str(), "" | "a") && wild(rule.major) && wild(rule.minor)
}

fn wild(number: Option<i64>) -> bool {
    number.is_none_or(|number| number < 0)
}

fn all_access(rule: &DeviceRule) -> bool {
    rule.access.is_empty() || ["r", "w", "m"].iter().all(|letter| rule.access.contains(letter))
}

/// Whether the last word on every device is yes.
pub(super) fn allows_everything(rules: &[DeviceRule]) -> bool {
    match rules.iter().rposition(|rule| is_all(rule) && all_access(rule)) {
        Some(at) => rules[at].allow && rules[at..].iter().all(|rule| rule.allow),
        None => false,
    }
}

fn check(rule: &DeviceRule) -> Result<()> {
    if !matches!(rule.kind.as_str(), "" | "a" | "b" | "c" | "u" | "p") {
        return Err(Error::Invalid(format!("invalid device type {:?} in a device rule", rule.kind)));
    }
    if !rule.access.bytes().all(|letter| matches!(letter, b'r' | b'w' | b'm')) {
        return Err(Error::Invalid(format!("invalid access {:?} in a device rule", rule.access)));
    }
    Ok(())
}

pub(super) fn apply_v1(path: &Path, rules: &[DeviceRule]) -> Result<()> {
    for line in lines_v1(rules)? {
        let (allow, text) = line;
        write(&path.join(if allow { "devices.allow" } else { "devices.deny" }), &text)?;
    }
    Ok(())
}

/// The writes: whether to `devices.allow`, and the text. Everything before the last rule for all devices is moot.
fn lines_v1(rules: &[DeviceRule]) -> Result<Vec<(bool, String)>> {
    rules.iter().try_for_each(check)?;
    let start = rules.iter().rposition(|rule| is_all(rule) && all_access(rule));
    let mut lines = vec![(start.is_some_and(|at| rules[at].allow), "a".to_owned())];
    for rule in &rules[start.map_or(0, |at| at + 1)..] {
        let number = |number: Option<i64>| number.filter(|number| *number >= 0).map_or("*".to_owned(), |number| number.to_string());
        let access = if rule.access.is_empty() { "rwm" } else { &rule.access };
        let kinds: &[&str] = match rule.kind.as_str() {
            "" | "a" => &["b", "c"],
            "b" => &["b"],
            _ => &["c"],
        };
        for kind in kinds {
            lines.push((rule.allow, format!("{kind} {}:{} {access}", number(rule.major), number(rule.minor))));
        }
    }
    Ok(lines)
}

pub(super) fn apply_v2(path: &Path, rules: &[DeviceRule]) -> Result<()> {
    if allows_everything(rules) {
        return Ok(());
    }
    let program = program(rules)?;
    let cgroup =
        rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(Error::path("open", path))?;
    let loaded = bpf::load_device_program(&program).map_err(Error::system("load the device program"))?;
    bpf::attach_device_program(cgroup.as_fd(), loaded.as_fd()).map_err(Error::path("attach the device program to", path))
}

const LDX_W: u8 = 0x61;
const AND32_K: u8 = 0x54;
const RSH32_K: u8 = 0x74;
const MOV32_X: u8 = 0xbc;
const MOV64_K: u8 = 0xb7;
const JNE_K: u8 = 0x55;
const JNE_X: u8 = 0x5d;
const EXIT: u8 = 0x95;

fn insn(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: destination | source << 4, offset, immediate }
}

/// The context is { access << 16 | type, major, minor }; 1 allows. Last rule first, so that the first match decides.
fn program(rules: &[DeviceRule]) -> Result<Vec<Instruction>> {
    rules.iter().try_for_each(check)?;
    let mut code = vec![
        // r2 = type, r3 = access, r4 = major, r5 = minor
        insn(LDX_W, 2, 1, 0, 0),
        insn(AND32_K, 2, 0, 0, 0xffff),
        insn(LDX_W, 3, 1, 0, 0),
        insn(RSH32_K, 3, 0, 0, 16),
        insn(LDX_W, 4, 1, 4, 0),
        insn(LDX_W, 5, 1, 8, 0),
    ];
    for rule in rules.iter().rev() {
        let mut tests = Vec::new();
        match rule.kind.as_str() {
            "b" => tests.push(insn(JNE_K, 2, 0, 0, 1)),
            "c" | "u" | "p" => tests.push(insn(JNE_K, 2, 0, 0, 2)),
            _ => {}
        }
        if !all_access(rule) {
            let bits = |letter: char, bit: i32| if rule.access.contains(letter) { bit } else { 0 };
            let mask = bits('m', 1) | bits('r', 2) | bits('w', 4);
            // An allowing rule matches when it covers the whole access, a denying one when it covers any of it; both
            // are the comparison of the access with its masked part, the latter with zero.
            tests.push(insn(MOV32_X, 1, 3, 0, 0));
            tests.push(insn(AND32_K, 1, 0, 0, mask));
            tests.push(if rule.allow { insn(JNE_X, 1, 3, 0, 0) } else { insn(0x15, 1, 0, 0, 0) });
        }
        for (register, number) in [(4, rule.major), (5, rule.minor)] {
            if let Some(number) = number.filter(|number| *number >= 0) {
                let number = i32::try_from(number).map_err(|_| Error::Invalid(format!("device number {number} is too large")))?;
                tests.push(insn(JNE_K, register, 0, 0, number));
            }
        }
        // What follows a rule for everything is never reached, which the kernel's verifier refuses.
        let is_last_word = tests.is_empty();
        let length = tests.len() + 2;
        for (at, mut test) in tests.into_iter().enumerate() {
            if matches!(test.code, JNE_K | JNE_X | 0x15) {
                test.offset = (length - at - 1) as i16;
            }
            code.push(test);
        }
        code.push(insn(MOV64_K, 0, 0, 0, i32::from(rule.allow)));
        code.push(insn(EXIT, 0, 0, 0, 0));
        if is_last_word {
            return Ok(code);
        }
    }
    code.push(insn(MOV64_K, 0, 0, 0, 0));
    code.push(insn(EXIT, 0, 0, 0, 0));
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(allow: bool, kind: &str, major: Option<i64>, minor: Option<i64>, access: &str) -> DeviceRule {
        DeviceRule { allow, kind: kind.into(), major, minor, access: access.into() }
    }

    #[test]
    fn v1_lines() {
        let rules = [rule(false, "a", None, None, "rwm"), rule(true, "c", Some(1), Some(3), "rwm"), rule(true, "b", None, None, "m")];
        let lines = lines_v1(&rules).unwrap();
        let shown: Vec<(bool, &str)> = lines.iter().map(|(allow, text)| (*allow, text.as_str())).collect();
        assert_eq!(shown, [(false, "a"), (true, "c 1:3 rwm"), (true, "b *:* m")]);
        assert_eq!(lines_v1(&[]).unwrap(), [(false, "a".to_owned())]);
        assert!(allows_everything(&[rule(false, "a", None, None, "rwm"), rule(true, "a", None, None, "rwm")]));
        assert!(!allows_everything(&[rule(true, "a", None, None, "rwm"), rule(false, "c", Some(1), None, "w")]));
        assert!(!allows_everything(&[]));
        assert!(lines_v1(&[rule(true, "x", None, None, "r")]).is_err());
        assert!(lines_v1(&[rule(true, "c", None, None, "rx")]).is_err());
    }

    /// What the kernel would answer.
    fn run(program: &[Instruction], kind: i64, access: i64, major: i64, minor: i64) -> i64 {
        let mut r = [0i64; 16];
        let mut at = 0i64;
        loop {
            let i = program[at as usize];
            let (d, s) = ((i.registers & 15) as usize, (i.registers >> 4) as usize);
            at += 1;
            match i.code {
                LDX_W => r[d] = [access << 16 | kind, major, minor][(i.offset / 4) as usize],
                AND32_K => r[d] &= i64::from(i.immediate),
                RSH32_K => r[d] >>= i.immediate,
                MOV32_X => r[d] = r[s],
                MOV64_K => r[d] = i64::from(i.immediate),
                JNE_K if r[d] != i64::from(i.immediate) => at += i64::from(i.offset),
                JNE_X if r[d] != r[s] => at += i64::from(i.offset),
                0x15 if r[d] == i64::from(i.immediate) => at += i64::from(i.offset),
                JNE_K | JNE_X | 0x15 => {}
                EXIT => return r[0],
                other => panic!("unknown code {other:x}"),
            }
        }
    }

    #[test]
    fn v2_program() {
        let (block, char, m, r, w) = (1, 2, 1, 2, 4);
        let program = program(&[
            rule(false, "a", None, None, "rwm"),
            rule(true, "c", None, None, "m"),
            rule(true, "c", Some(1), Some(3), "rwm"),
            rule(true, "c", Some(136), None, "rw"),
            rule(false, "c", Some(136), Some(7), "w"),
        ])
        .unwrap();
        for (kind, access, major, minor, expected) in [
            (char, r, 1, 3, 1),
            (char, r | w, 1, 3, 1),
            (char, m, 9, 9, 1),
            (char, m | r, 9, 9, 0),
            (block, m, 8, 0, 0),
            (block, r, 8, 0, 0),
            (char, r | w, 136, 2, 1),
            (char, r | w, 136, 7, 0),
            (char, r, 136, 7, 1),
        ] {
            assert_eq!(run(&program, kind, access, major, minor), expected, "{kind} {access} {major}:{minor}");
        }
    }

    /// The verifier refuses what the interpreter above runs, e.g. instructions that are never reached.
    #[test]
    fn the_kernel_takes_the_program() {
        let (all, one) = (rule(false, "a", None, None, "rwm"), rule(true, "c", Some(1), Some(3), "rw"));
        for rules in [
            vec![],
            vec![all.clone()],
            vec![one.clone()],
            vec![all.clone(), one.clone(), rule(false, "b", None, None, "")],
            vec![one.clone(), rule(true, "", None, None, ""), one, rule(false, "a", None, Some(1), "m")],
        ] {
            bpf::load_device_program(&program(&rules).unwrap()).unwrap_or_else(|errno| panic!("{errno} for {rules:?}"));
        }
    }
}
