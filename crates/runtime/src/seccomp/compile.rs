//! From a filter to classic BPF.
//!
//! The program is a binary tree over ranges of system call numbers with equal outcome, so that a call costs about ten
//! instructions and the kernel, which runs the program once for every number when it is loaded, is done quickly (a
//! linear list of 400 comparisons took 1.2 ms to load).
//!
//! ```text
//! architecture? ── native ──▶ number >= k? ─▶ ... ─▶ outcome: return, or compare arguments and return
//!               ├─ 32-bit ──▶ (its own tree)
//!               └─ other: kill
//! ```

use super::table;
use crate::error::{Error, Result};
use crate::spec::{Seccomp, SeccompArg};
use naru_sys::seccomp::{FLAG_LOG, FLAG_SPEC_ALLOW, Instruction};

/// A compiled filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Program {
    /// Empty: no filter.
    pub instructions: Vec<Instruction>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u64,
}

impl Program {
    /// Whether these calls pass, by their names and whatever their arguments, for a program of this machine's architecture.
    pub(crate) fn allows(&self, names: &[&str]) -> bool {
        let (arch, table) =
            if cfg!(target_arch = "aarch64") { (AUDIT_ARCH_AARCH64, table::AARCH64) } else { (AUDIT_ARCH_X86_64, table::X86_64) };
        let passes = |number| [0, u64::MAX].iter().all(|arg| self.answer(arch, number, [*arg; 6]) == Some(RET_ALLOW));
        let number = |name: &str| table.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
        self.instructions.is_empty() || names.iter().all(|name| number(name).is_some_and(passes))
    }

    /// What the kernel would answer to a call; nothing if this is no program of ours.
    fn answer(&self, arch: u32, number: u32, args: [u64; 6]) -> Option<u32> {
        let word = |offset: u32| match offset {
            OFFSET_NUMBER => number,
            OFFSET_ARCH => arch,
            OFFSET_ARGS.. => {
                let arg = args[((offset - OFFSET_ARGS) / 8) as usize % args.len()];
                if offset.is_multiple_of(8) { arg as u32 } else { (arg >> 32) as u32 }
            }
            _ => 0,
        };
        let (mut at, mut a) = (0, 0);
        loop {
            let i = self.instructions.get(at)?;
            at += 1;
            let branch = |yes: bool| at + usize::from(if yes { i.jt } else { i.jf });
            match i.code {
                LD_ABS => a = word(i.k),
                AND => a &= i.k,
                JA => at += i.k as usize,
                JEQ => at = branch(a == i.k),
                JGT => at = branch(a > i.k),
                JGE => at = branch(a >= i.k),
                RET => return Some(i.k),
                _ => return None,
            }
        }
    }
}

const LD_ABS: u16 = 0x20;
const JA: u16 = 0x05;
const JEQ: u16 = 0x15;
const JGT: u16 = 0x25;
const JGE: u16 = 0x35;
const AND: u16 = 0x54;
const RET: u16 = 0x06;

const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGS: u32 = 16;

const AUDIT_ARCH_X86_64: u32 = 0xC000_003E;
const AUDIT_ARCH_I386: u32 = 0x4000_0003;
const AUDIT_ARCH_AARCH64: u32 = 0xC000_00B7;

const RET_KILL_PROCESS: u32 = 0x8000_0000;
const RET_KILL_THREAD: u32 = 0;
const RET_TRAP: u32 = 0x0003_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_TRACE: u32 = 0x7ff0_0000;
const RET_LOG: u32 = 0x7ffc_0000;
const RET_ALLOW: u32 = 0x7fff_0000;

/// x32 calls have this bit and the architecture of x86-64.
const X32_BIT: u32 = 0x4000_0000;

struct Architecture {
    audit: u32,
    names: &'static [(&'static str, u32)],
    /// Arguments have 32 bits.
    narrow: bool,
    x32: bool,
}

fn architectures(filter: &Seccomp) -> Vec<Architecture> {
    let wants = |name: &str| filter.architectures.iter().any(|known| known == name);
    if cfg!(target_arch = "aarch64") {
        // The 32-bit Arm table is absent: such programs are killed, as with a filter that does not name SCMP_ARCH_ARM.
        return vec![Architecture { audit: AUDIT_ARCH_AARCH64, names: table::AARCH64, narrow: false, x32: false }];
    }
    let mut list = vec![Architecture { audit: AUDIT_ARCH_X86_64, names: table::X86_64, narrow: false, x32: true }];
    if wants("SCMP_ARCH_X86") {
        list.push(Architecture { audit: AUDIT_ARCH_I386, names: table::X86, narrow: true, x32: false });
    }
    list
}

pub(super) fn compile(filter: &Seccomp) -> Result<Program> {
    if !filter.listener_path.is_empty() {
        return Err(Error::Unsupported("seccomp: a listener for notifications is not supported".into()));
    }
    let default = action(&filter.default_action, filter.default_errno_ret)?;
    let rules = rules(filter)?;
    let mut program = vec![load(OFFSET_ARCH)];
    let blocks = architectures(filter)
        .iter()
        .map(|architecture| Ok((architecture.audit, block(architecture, &rules, default)?)))
        .collect::<Result<Vec<_>>>()?;
    for (audit, block) in blocks {
        // The jump over a block is longer than the 255 a conditional jump reaches.
        program.push(jump(JEQ, audit, 1, 0));
        program.push(Instruction { code: JA, jt: 0, jf: 0, k: block.len() as u32 });
        program.extend(block);
    }
    program.push(ret(RET_KILL_PROCESS));
    if program.len() > 4096 {
        return Err(Error::Invalid(format!("seccomp: the profile needs {} instructions, the kernel takes 4096", program.len())));
    }
    let mut flags = 0;
    for flag in &filter.flags {
        flags |= match flag.as_str() {
            "SECCOMP_FILTER_FLAG_LOG" => FLAG_LOG,
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => FLAG_SPEC_ALLOW,
            // All threads at once: there is one when the filter is loaded.
            "SECCOMP_FILTER_FLAG_TSYNC" => 0,
            other => return Err(Error::Invalid(format!("seccomp: unknown flag {other:?}"))),
        };
    }
    Ok(Program { instructions: program, flags })
}

/// One rule with its action resolved.
struct Rule<'a> {
    names: &'a [String],
    args: &'a [SeccompArg],
    action: u32,
}

fn rules(filter: &Seccomp) -> Result<Vec<Rule<'_>>> {
    filter
        .syscalls
        .iter()
        .map(|rule| {
            let errno = rule.errno_ret.or(filter.default_errno_ret);
            for arg in &rule.args {
                if arg.index > 5 {
                    return Err(Error::Invalid(format!("seccomp: argument index {} is not 0 to 5", arg.index)));
                }
                if !OPERATORS.contains(&arg.op.as_str()) {
                    return Err(Error::Invalid(format!("seccomp: unknown operator {:?}", arg.op)));
                }
            }
            Ok(Rule { names: &rule.names, args: &rule.args, action: action(&rule.action, errno)? })
        })
        .collect()
}

fn action(name: &str, errno: Option<u32>) -> Result<u32> {
    let data = errno.unwrap_or(libc::EPERM as u32) & 0xffff;
    Ok(match name {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => RET_KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => RET_KILL_PROCESS,
        "SCMP_ACT_TRAP" => RET_TRAP,
        "SCMP_ACT_ERRNO" => RET_ERRNO | data,
        "SCMP_ACT_TRACE" => RET_TRACE | data,
        "SCMP_ACT_ALLOW" => RET_ALLOW,
        "SCMP_ACT_LOG" => RET_LOG,
        "SCMP_ACT_NOTIFY" => return Err(Error::Unsupported("seccomp: the action SCMP_ACT_NOTIFY is not supported".into())),
        other => return Err(Error::Invalid(format!("seccomp: unknown action {other:?}"))),
    })
}

/// The code of a system call's outcome; equal codes share a range.
fn outcome(name: &str, number_rules: &[&Rule<'_>], narrow: bool, default: u32) -> Vec<Instruction> {
    // A rule without conditions decides the call, whatever others say; else the first whose conditions hold.
    if let Some(rule) = number_rules.iter().find(|rule| rule.args.is_empty()) {
        return vec![ret(rule.action)];
    }
    let mut code = Vec::new();
    for rule in number_rules {
        let mut conditions: Vec<Step> = Vec::new();
        for arg in rule.args {
            condition(&mut conditions, arg, narrow || is_int(name, arg.index));
        }
        let end = conditions.len() + 1;
        for (at, step) in conditions.iter().enumerate() {
            let to = |target: Target| match target {
                Target::Next => 0,
                Target::Skip(count) => count,
                Target::Fail => (end - at - 1) as u8,
            };
            code.push(match *step {
                Step::Plain(instruction) => instruction,
                Step::Jump { code, k, yes, no } => jump(code, k, to(yes), to(no)),
            });
        }
        code.push(ret(rule.action));
    }
    code.push(ret(default));
    code
}

/// The tree of one architecture; numbers are in the accumulator after the first instruction.
fn block(architecture: &Architecture, rules: &[Rule<'_>], default: u32) -> Result<Vec<Instruction>> {
    let known = architecture.names.iter().map(|(_, number)| *number).max().unwrap_or(0);
    let mut outcomes: Vec<Option<Vec<Instruction>>> = vec![None; known as usize + 1];
    for (name, number) in architecture.names {
        let matching: Vec<&Rule<'_>> = rules.iter().filter(|rule| rule.names.iter().any(|known| known == name)).collect();
        if !matching.is_empty() {
            outcomes[*number as usize] = Some(outcome(name, &matching, architecture.narrow, default));
        }
    }
    // Calls newer than the table: programs fall back on ENOSYS but give up on EPERM.
    let unknown = if default & 0xffff_0000 == RET_ERRNO { RET_ERRNO | libc::ENOSYS as u32 } else { default };
    let mut ranges: Vec<(u32, Vec<Instruction>)> = Vec::new();
    for (number, code) in outcomes.into_iter().enumerate() {
        let code = code.unwrap_or_else(|| vec![ret(default)]);
        if ranges.last().is_none_or(|(_, last)| *last != code) {
            ranges.push((number as u32, code));
        }
    }
    ranges.push((known + 1, vec![ret(unknown)]));
    if architecture.x32 {
        // x32 calls would slip past a tree of x86-64 numbers; practically nothing uses them.
        ranges.push((X32_BIT, vec![ret(unknown)]));
    }
    let mut code = vec![load(OFFSET_NUMBER)];
    tree(&ranges, &mut code);
    Ok(code)
}

fn tree(ranges: &[(u32, Vec<Instruction>)], code: &mut Vec<Instruction>) {
    if let [(_, only)] = ranges {
        code.extend_from_slice(only);
        return;
    }
    let (left, right) = ranges.split_at(ranges.len() / 2);
    let mut below = Vec::new();
    tree(left, &mut below);
    match u8::try_from(below.len()) {
        Ok(length) => code.push(jump(JGE, right[0].0, length, 0)),
        Err(_) => {
            code.push(jump(JGE, right[0].0, 0, 1));
            code.push(Instruction { code: JA, jt: 0, jf: 0, k: below.len() as u32 });
        }
    }
    code.extend(below);
    tree(right, code);
}

const OPERATORS: [&str; 7] =
    ["SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ"];

#[derive(Clone, Copy)]
enum Target {
    /// On with the next instruction.
    Next,
    /// Past that many instructions.
    Skip(u8),
    /// The rule does not match.
    Fail,
}

#[derive(Clone, Copy)]
enum Step {
    Plain(Instruction),
    Jump { code: u16, k: u32, yes: Target, no: Target },
}

/// Appends the comparison of one argument; running off its end means that it holds.
fn condition(steps: &mut Vec<Step>, arg: &SeccompArg, int: bool) {
    use Target::{Fail, Next, Skip};
    let low = OFFSET_ARGS + 8 * arg.index;
    let high = low + 4;
    let (value_low, value_high) = (arg.value as u32, (arg.value >> 32) as u32);
    let ld = |offset| Step::Plain(load(offset));
    let test = |code, k, yes, no| Step::Jump { code, k, yes, no };
    // A negative int is written sign-extended; a wider value can never equal an int and keeps the wide comparison.
    let int = int && (value_high == 0 || value_high == u32::MAX);
    match (arg.op.as_str(), int) {
        ("SCMP_CMP_EQ", true) => steps.extend([ld(low), test(JEQ, value_low, Next, Fail)]),
        ("SCMP_CMP_NE", true) => steps.extend([ld(low), test(JEQ, value_low, Fail, Next)]),
        ("SCMP_CMP_GT", true) => steps.extend([ld(low), test(JGT, value_low, Next, Fail)]),
        ("SCMP_CMP_GE", true) => steps.extend([ld(low), test(JGE, value_low, Next, Fail)]),
        ("SCMP_CMP_LT", true) => steps.extend([ld(low), test(JGE, value_low, Fail, Next)]),
        ("SCMP_CMP_LE", true) => steps.extend([ld(low), test(JGT, value_low, Fail, Next)]),
        ("SCMP_CMP_EQ", false) => {
            steps.extend([ld(high), test(JEQ, value_high, Next, Fail), ld(low), test(JEQ, value_low, Next, Fail)]);
        }
        ("SCMP_CMP_NE", false) => {
            steps.extend([ld(high), test(JEQ, value_high, Next, Skip(2)), ld(low), test(JEQ, value_low, Fail, Next)]);
        }
        ("SCMP_CMP_GT" | "SCMP_CMP_GE", false) => {
            let code = if arg.op == "SCMP_CMP_GT" { JGT } else { JGE };
            // Greater above decides; equal above leaves it to the low half.
            steps.extend([
                ld(high),
                test(JGT, value_high, Skip(3), Next),
                test(JEQ, value_high, Next, Fail),
                ld(low),
                test(code, value_low, Next, Fail),
            ]);
        }
        ("SCMP_CMP_LT" | "SCMP_CMP_LE", false) => {
            let code = if arg.op == "SCMP_CMP_LT" { JGE } else { JGT };
            steps.extend([
                ld(high),
                test(JGT, value_high, Fail, Next),
                test(JEQ, value_high, Next, Skip(2)),
                ld(low),
                test(code, value_low, Fail, Next),
            ]);
        }
        // MASKED_EQ: `value` is the mask.
        _ => {
            let (want_low, want_high) = (arg.value_two as u32, (arg.value_two >> 32) as u32);
            let and = |k| Step::Plain(Instruction { code: AND, jt: 0, jf: 0, k });
            if !int && (value_high != 0 || want_high != 0) {
                steps.extend([ld(high), and(value_high), test(JEQ, want_high, Next, Fail)]);
            }
            steps.extend([ld(low), and(value_low), test(JEQ, want_low, Next, Fail)]);
        }
    }
}

/// Whether the kernel reads only 32 bits of the argument.
fn is_int(name: &str, index: u32) -> bool {
    let ints: &[u32] = match name {
        "socket" => &[0, 1, 2],
        "socketpair" => &[0, 1, 2],
        "personality" | "socketcall" | "unshare" | "keyctl" | "bpf" | "prctl" | "syslog" | "seccomp" => &[0],
        "clone" | "ioperm" | "iopl" => &[0, 1],
        "ioctl" | "fcntl" | "fcntl64" | "setns" | "kill" | "tkill" | "open" | "umount2" | "fsconfig" => &[0, 1],
        "setsockopt" | "getsockopt" => &[0, 1, 2],
        "openat" | "madvise" | "tgkill" | "kcmp" | "msgctl" | "semctl" => &[0, 2],
        "shmctl" | "io_uring_register" | "futex" | "clock_settime" | "setpriority" => &[0, 1],
        "reboot" => &[0, 1, 2],
        "fanotify_init" | "perf_event_open" | "mknod" | "quotactl" => &[0],
        _ => &[],
    };
    ints.contains(&index)
}

fn load(offset: u32) -> Instruction {
    Instruction { code: LD_ABS, jt: 0, jf: 0, k: offset }
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}

fn ret(action: u32) -> Instruction {
    Instruction { code: RET, jt: 0, jf: 0, k: action }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::{ProfileOptions, default_profile, default_profile_with};
    use crate::spec::SeccompRule;
    use proptest::prelude::*;

    fn run(program: &Program, arch: u32, number: u32, args: [u64; 6]) -> u32 {
        program.answer(arch, number, args).expect("only codes that are compiled")
    }

    fn number(table: &[(&str, u32)], name: &str) -> u32 {
        table.iter().find(|(known, _)| *known == name).expect(name).1
    }

    fn caps() -> Vec<String> {
        crate::defaults::CAPABILITIES.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn the_default_profile_decides_as_docker_and_closes_its_holes() {
        let program = compile(&default_profile(&caps())).unwrap();
        let eperm = RET_ERRNO | 1;
        let enosys = RET_ERRNO | 38;
        let high = 1u64 << 32;
        let table: &[(&str, [u64; 2], u32)] = &[
            ("read", [0, 0], RET_ALLOW),
            ("execve", [0, 0], RET_ALLOW),
            ("mount", [0, 0], eperm),
            ("unshare", [0, 0], eperm),
            ("clone", [0x11, 0], RET_ALLOW),
            ("clone", [0x1000_0011, 0], eperm),
            ("clone3", [0, 0], enosys),
            ("socket", [2, 0], RET_ALLOW),
            ("socket", [16, 0], RET_ALLOW),
            ("socket", [38, 0], eperm),
            ("socket", [40, 0], eperm),
            ("socket", [high + 38, 0], eperm),
            ("socket", [high + 40, 0], eperm),
            ("personality", [0xffff_ffff, 0], RET_ALLOW),
            ("personality", [0x0040_0000, 0], eperm),
            ("io_uring_setup", [0, 0], eperm),
            ("userfaultfd", [0, 0], eperm),
            ("keyctl", [0, 0], eperm),
            ("chroot", [0, 0], RET_ALLOW),
            ("bpf", [0, 0], eperm),
        ];
        for (name, args, expected) in table {
            let got = run(&program, AUDIT_ARCH_X86_64, number(table::X86_64, name), [args[0], args[1], 0, 0, 0, 0]);
            assert_eq!(got, *expected, "{name} {args:x?}");
        }
        assert_eq!(run(&program, AUDIT_ARCH_X86_64, 5000, [0; 6]), enosys);
        assert_eq!(run(&program, AUDIT_ARCH_X86_64, X32_BIT | 1, [0; 6]), enosys);
        assert_eq!(run(&program, 0xC000_00F3, 1, [0; 6]), RET_KILL_PROCESS);
        let i386 = |name, first| run(&program, AUDIT_ARCH_I386, number(table::X86, name), [first, 0, 0, 0, 0, 0]);
        assert_eq!(i386("read", 0), RET_ALLOW);
        assert_eq!(i386("socket", 38), eperm);
        // SYS_SOCKET by socketcall hides the family in memory.
        assert_eq!(i386("socketcall", 1), eperm);
        assert_eq!(i386("socketcall", 3), RET_ALLOW);
        let legacy = compile(&default_profile_with(&caps(), &ProfileOptions { legacy_socketcall: true, ..Default::default() })).unwrap();
        assert_eq!(run(&legacy, AUDIT_ARCH_I386, number(table::X86, "socketcall"), [1, 0, 0, 0, 0, 0]), RET_ALLOW);
    }

    #[test]
    fn what_a_waiting_process_calls() {
        let calls = ["recvmsg", "sendmsg"];
        assert!(Program::default().allows(&calls));
        let allowing = |rules: Vec<SeccompRule>| {
            let filter = Seccomp { default_action: "SCMP_ACT_ERRNO".into(), syscalls: rules, ..Seccomp::default() };
            compile(&filter).unwrap().allows(&calls)
        };
        let rule = |names: &[&str], args| SeccompRule {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            action: "SCMP_ACT_ALLOW".into(),
            args,
            ..SeccompRule::default()
        };
        let flags = SeccompArg { index: 2, value: 0, value_two: 0, op: "SCMP_CMP_EQ".into() };
        assert!(compile(&default_profile(&caps())).unwrap().allows(&calls));
        assert!(allowing(vec![rule(&calls, vec![])]));
        assert!(!allowing(vec![rule(&["recvmsg"], vec![])]));
        assert!(!allowing(vec![rule(&["recvmsg"], vec![]), rule(&["sendmsg"], vec![flags])]), "some of them only");
    }

    #[test]
    fn packet_sockets_need_a_word() {
        let closed = compile(&default_profile(&caps())).unwrap();
        let open = compile(&default_profile_with(&caps(), &ProfileOptions { packet_sockets: true, ..Default::default() })).unwrap();
        for family in [17, 44] {
            assert_eq!(run(&closed, AUDIT_ARCH_X86_64, 41, [family, 3, 0, 0, 0, 0]), RET_ERRNO | 1);
            assert_eq!(run(&open, AUDIT_ARCH_X86_64, 41, [family, 3, 0, 0, 0, 0]), RET_ALLOW);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let rule = |action: &str, index, op: &str| Seccomp {
            default_action: "SCMP_ACT_ALLOW".into(),
            syscalls: vec![SeccompRule {
                names: vec!["read".into()],
                action: action.into(),
                args: vec![SeccompArg { index, op: op.into(), ..Default::default() }],
                ..Default::default()
            }],
            ..Default::default()
        };
        assert!(compile(&rule("SCMP_ACT_ERRNO", 0, "SCMP_CMP_EQ")).is_ok());
        for bad in [rule("SCMP_ACT_FOO", 0, "SCMP_CMP_EQ"), rule("SCMP_ACT_ERRNO", 6, "SCMP_CMP_EQ"), rule("SCMP_ACT_ERRNO", 0, "EQ")] {
            assert!(compile(&bad).is_err());
        }
        assert!(compile(&Seccomp::default()).is_err());
    }

    proptest! {
        /// The compiled comparison is the arithmetic one, at both widths.
        #[test]
        fn comparisons(value in prop_oneof![0u64..4, Just(u64::from(u32::MAX)), any::<u64>()], arg in prop_oneof![0u64..4, any::<u64>(), (0u64..4).prop_map(|v| v | 1 << 32)],
                       two in any::<u64>(), op in 0usize..7, int in any::<bool>()) {
            let name = if int { "socket" } else { "read" };
            let number = number(table::X86_64, name);
            let filter = Seccomp { default_action: "SCMP_ACT_ALLOW".into(), syscalls: vec![SeccompRule {
                names: vec![name.into()], action: "SCMP_ACT_ERRNO".into(), errno_ret: Some(1),
                args: vec![SeccompArg { index: 0, value, value_two: two, op: OPERATORS[op].into() }],
            }], ..Default::default() };
            let program = compile(&filter).unwrap();
            let narrow = int && matches!(value >> 32, 0 | 0xffff_ffff);
            let (a, v, t) = if narrow { (arg & 0xffff_ffff, value & 0xffff_ffff, two & 0xffff_ffff) } else { (arg, value, two) };
            let holds = match OPERATORS[op] {
                "SCMP_CMP_NE" => a != v, "SCMP_CMP_LT" => a < v, "SCMP_CMP_LE" => a <= v, "SCMP_CMP_EQ" => a == v,
                "SCMP_CMP_GE" => a >= v, "SCMP_CMP_GT" => a > v, _ => a & v == t,
            };
            let got = run(&program, AUDIT_ARCH_X86_64, number, [arg, 0, 0, 0, 0, 0]);
            prop_assert_eq!(got, if holds { RET_ERRNO | 1 } else { RET_ALLOW });
        }
    }
}
