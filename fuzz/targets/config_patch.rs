//! `--change` of commit and import.
#![no_main]

use libfuzzer_sys::fuzz_target;
use naru_store::{ConfigPatch, RunConfig};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(patch) = ConfigPatch::parse(&[text]) {
        let mut config = RunConfig { env: vec!["PATH=/bin".into()], working_dir: "/srv".into(), ..RunConfig::default() };
        if patch.apply(&mut config).is_ok() {
            assert!(config.working_dir.starts_with('/'));
            assert!(config.env.iter().map(String::len).sum::<usize>() < 8 << 20);
        }
    }
});
