//! The OCI specification (`config.json` of a bundle).
#![no_main]

use libfuzzer_sys::fuzz_target;
use naru_runtime::spec::Spec;

fuzz_target!(|data: &[u8]| {
    if let Ok(spec) = serde_json::from_slice::<Spec>(data) {
        let text = serde_json::to_vec(&spec).expect("a specification is plain data");
        assert_eq!(serde_json::from_slice::<Spec>(&text).expect("our own JSON can be read"), spec);
    }
});
