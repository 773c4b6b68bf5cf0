//! Seccomp profiles: what compiles is a program the kernel would take.
#![no_main]

use libfuzzer_sys::fuzz_target;
use naru_runtime::seccomp::{compile, from_json};
use naru_runtime::spec::Seccomp;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(filter) = from_json(text, &["CAP_SYS_ADMIN".to_owned()]) {
        check(&filter);
    }
    if let Ok(filter) = serde_json::from_str::<Seccomp>(text) {
        check(&filter);
    }
});

/// The checks of `bpf_check_classic`: jumps stay inside, the end returns.
fn check(filter: &Seccomp) {
    let Ok(program) = compile(filter) else { return };
    let code = &program.instructions;
    assert!(code.len() <= 4096, "{} instructions", code.len());
    for (at, instruction) in code.iter().enumerate() {
        let left = code.len() - at - 1;
        match instruction.code {
            0x05 => assert!((instruction.k as usize) < left, "a jump leaves the program"),
            code if code & 7 == 5 => {
                assert!(usize::from(instruction.jt.max(instruction.jf)) < left, "a jump leaves the program");
            }
            _ => {}
        }
    }
    assert!(code.last().is_none_or(|last| last.code & 7 == 6), "the program has no end");
}
