//! A message of the system bus, which may be cut, or followed by another.
#![no_main]

use libfuzzer_sys::fuzz_target;
use naru_net::bus_message::{HEADER, LONGEST, decode, length};

fuzz_target!(|data: &[u8]| {
    if let Some(length) = data.first_chunk().and_then(length) {
        assert!((HEADER..=LONGEST).contains(&length), "{length}");
    }
    let Some(message) = decode(data) else { return };
    for text in [&message.text, &message.error].into_iter().flatten() {
        assert!(text.len() < data.len());
    }
    // What comes after it is another's.
    assert_eq!(decode(&[data, data].concat()).as_ref(), Some(&message));
    decode(&data[..data.len() / 2]);
});
