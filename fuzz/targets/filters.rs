//! The filters of lists.
#![no_main]

use libfuzzer_sys::fuzz_target;
use naru_api::Filters;
use std::collections::BTreeMap;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(filters) = Filters::parse(text) {
        assert_eq!(Filters::parse(&filters.to_json()), Ok(filters.clone()));
        filters.matches_labels("label", &BTreeMap::from([("a".to_owned(), "b".to_owned())]));
        let _ = (filters.boolean("dangling", true), filters.validate(&["label", "dangling"]));
    }
});
