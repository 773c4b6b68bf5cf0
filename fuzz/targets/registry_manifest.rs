//! Manifests and indexes of a registry; the first part is the media type it gives.
#![no_main]

use libfuzzer_sys::fuzz_target;
use naru_registry::manifest::{Document, candidates, parse, platforms};

fuzz_target!(|data: &[u8]| {
    let split = data.iter().position(|byte| *byte == 0).unwrap_or(0);
    let (content_type, body) = data.split_at(split);
    let content_type = std::str::from_utf8(content_type).unwrap_or_default();
    let Ok((document, media_type)) = parse("manifest", body.strip_prefix(b"\0").unwrap_or(body), content_type) else { return };
    match document {
        Document::Manifest(manifest) => assert!(media_type.contains("manifest.v") && manifest.layers.len() <= 499),
        Document::Index(entries) => {
            for platform in platforms(&entries) {
                assert!(candidates(&entries, &platform).len() <= entries.len());
            }
            let platform = "linux/arm/v7".parse().expect("a platform");
            assert!(candidates(&entries, &platform).iter().all(|entry| !entry.is_attestation()));
        }
    }
});
