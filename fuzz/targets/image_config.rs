//! An image's config: what was read is kept as it is, and what is written again reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use naru_store::ImageConfig;

fuzz_target!(|data: &[u8]| {
    let Ok(config) = ImageConfig::parse(data) else { return };
    assert_eq!(*config.raw(), *data);
    config.platform();
    let text = config.to_json();
    let again = ImageConfig::parse(&text).expect("our own config can be read");
    assert_eq!(again.to_json(), text);
});
