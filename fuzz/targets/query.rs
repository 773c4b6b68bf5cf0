//! Query strings and API versions.
#![no_main]

use libfuzzer_sys::fuzz_target;
use naru_api::{ApiVersion, Query};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let query = Query::parse(text);
    assert_eq!(Query::parse(&query.to_string()), query);
    query.boolean_or("all", true);
    if let Ok(version) = text.parse::<ApiVersion>() {
        assert_eq!(version.to_string().parse(), Ok(version));
    }
});
