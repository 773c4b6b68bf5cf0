//! Archives and images written byte by byte, as no honest tool would.

use naru_e2e::busybox_archive;
use naru_types::Digest;

/// One entry of an archive, its name and link taken as they are.
pub fn entry(kind: u8, name: &str, link: &str, data: &[u8]) -> Vec<u8> {
    entry_with(kind, name, link, data, |_| ())
}

/// The same with a change of the header before it is summed.
pub fn entry_with(kind: u8, name: &str, link: &str, data: &[u8], change: impl Fn(&mut [u8])) -> Vec<u8> {
    let mut header = [0_u8; 512];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, if kind == b'5' { b"0000700" } else { b"0000755" });
    put(108, b"0000000");
    put(116, b"0000000");
    put(124, format!("{:011o}", data.len()).as_bytes());
    put(136, b"00000000000");
    put(156, &[kind]);
    put(157, link.as_bytes());
    put(257, b"ustar\x0000");
    put(329, b"0000000");
    put(337, b"0000000");
    change(&mut header);
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let mut all = header.to_vec();
    all.extend(data);
    all.resize(all.len().next_multiple_of(512), 0);
    all
}

/// Extended records for the entry after it.
pub fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut text = String::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length.to_string().len() + rest != length {
            length += 1;
        }
        text += &format!("{length} {key}={value}\n");
    }
    entry(b'x', "pax", "", text.as_bytes())
}

/// Entries as a whole archive.
pub fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut all = entries.concat();
    all.extend([0; 1024]);
    all
}

/// An archive of `docker save`: busybox with these layers on top, and the configuration's further members.
pub fn image(name: &str, layers: &[Vec<u8>], config: &str) -> Vec<u8> {
    let mut all = vec![busybox_archive().to_vec()];
    all.extend(layers.iter().cloned());
    let ids: Vec<String> = all.iter().map(|layer| format!("\"{}\"", Digest::of(layer))).collect();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{{config}}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        ids.join(",")
    );
    pack(name, &config, &all)
}

/// The same with a configuration of one's own.
pub fn pack(name: &str, config: &str, layers: &[Vec<u8>]) -> Vec<u8> {
    let paths: Vec<String> = (0..layers.len()).map(|number| format!("\"{number}.tar\"")).collect();
    let manifest = format!(r#"[{{"Config":"config.json","RepoTags":["{name}"],"Layers":[{}]}}]"#, paths.join(","));
    let mut entries = vec![entry(b'0', "manifest.json", "", manifest.as_bytes()), entry(b'0', "config.json", "", config.as_bytes())];
    entries.extend(layers.iter().enumerate().map(|(number, layer)| entry(b'0', &format!("{number}.tar"), "", layer)));
    archive(&entries)
}
