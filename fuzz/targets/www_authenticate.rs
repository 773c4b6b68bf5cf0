//! `WWW-Authenticate` of a registry.
#![no_main]

use libfuzzer_sys::fuzz_target;
use naru_registry::headers::challenges;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let found = challenges(text);
    // What was understood, written out, is understood alike.
    let quoted = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"");
    let written: Vec<String> = found
        .iter()
        .map(|challenge| {
            let parameters: Vec<String> = challenge.parameters.iter().map(|(name, value)| format!("{name}=\"{}\"", quoted(value))).collect();
            format!("{} {}", challenge.scheme, parameters.join(","))
        })
        .collect();
    assert_eq!(challenges(&written.join(", ")), found, "{written:?}");
});
