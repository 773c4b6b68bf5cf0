//! `Content-Range`, `Range` of uploads, `Retry-After`, `Link`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use naru_registry::headers::{content_range, next_link, retry_after, upload_range};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some((first, last, size)) = content_range(text) {
        assert!(first <= last && size.is_none_or(|size| last < size));
    }
    upload_range(text);
    retry_after(text, "2026-01-01T00:00:00Z".parse().expect("a time"));
    if let Some(target) = next_link(text) {
        assert!(text.contains(&format!("<{target}>")));
    }
});
