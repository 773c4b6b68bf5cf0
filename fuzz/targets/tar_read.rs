//! The tar reader: any bytes, with the checksums of what looks like a header put right, for else most mutations would end
//! there; what was read is written again and must read the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use naru_store::tar::{Kind, Reader, Writer};

fuzz_target!(|data: &[u8]| {
    let mut data = data.to_vec();
    for block in data.chunks_exact_mut(512).filter(|block| &block[257..262] == b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    }
    let mut reader = Reader::new(&data[..]);
    let mut writer = Writer::new(Vec::new());
    let (mut entries, mut buffer) = (Vec::new(), [0; 700]);
    while let Ok(Some(entry)) = reader.next_entry() {
        let mut content = Vec::new();
        while let Ok(got @ 1..) = reader.read_data(&mut buffer) {
            content.extend_from_slice(&buffer[..got]);
        }
        assert!(content.len() <= data.len());
        if let Some(extents) = &entry.sparse {
            let mut end = 0;
            for extent in extents {
                assert!(extent.offset >= end, "extents overlap: {extents:?}");
                end = extent.offset.checked_add(extent.length).expect("an extent ends below 2^64");
            }
            assert!(end <= entry.size, "an extent ends outside the file");
        } else {
            let whole = entry.kind != Kind::File || entry.size == content.len() as u64;
            // The writer would fill up with zeroes what is missing.
            if !whole {
                return;
            }
            let written = if entry.kind == Kind::File { writer.file(&entry, &mut &content[..]) } else { writer.entry(&entry) };
            if written.is_err() {
                return;
            }
            entries.push((entry, content));
        }
    }
    let archive = writer.finish().expect("writing to memory does not fail");
    let mut again = Reader::new(&archive[..]);
    for (entry, content) in &entries {
        let read = again.next_entry().expect("our own archive can be read").expect("all entries are there");
        assert_eq!(read, *entry);
        let mut text = Vec::new();
        while let got @ 1.. = again.read_data(&mut buffer).expect("our own archive is whole") {
            text.extend_from_slice(&buffer[..got]);
        }
        assert_eq!(text, *content);
    }
    assert!(again.next_entry().expect("our own archive has an end").is_none());
});
