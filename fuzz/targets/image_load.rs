//! `load` of an image archive into a real store. An input is a readable description (see the corpus), so that mutations
//! reach what lies behind the digests; any other input is taken as the archive itself.
//!
//! Sections are parted by a line `%%`; the first line of a section says what it is, `KIND [NAME]`: `file`, `blob`, `layer`
//! (one entry a line), `packed` (a layer with gzip) or `link` (symbolic). Without a name it is that of a blob. In a section
//! `@N` is the hex digest of section N before it and `#N` its size.
#![no_main]

use libfuzzer_sys::fuzz_target;
use naru_fuzz::scratch;
use naru_store::tar::{Entry, Kind, Writer};
use naru_store::{Driver, Limits, LoadOptions, RemoveOptions, SaveOptions, Store, StoreConfig};
use naru_types::{Digest, Platform};
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

static OUTSIDE: LazyLock<PathBuf> = LazyLock::new(|| scratch("image_load"));

static STORE: LazyLock<Arc<Store>> = LazyLock::new(|| {
    let limits = Limits { max_layer_size: 16 << 20, reserve: 0 };
    let config = StoreConfig { root: OUTSIDE.join("store"), driver: Driver::Overlay, limits };
    Arc::new(Store::open(&config).expect("a new store can be opened"))
});

fuzz_target!(|data: &[u8]| {
    let described = std::str::from_utf8(data).ok().and_then(archive);
    let archive = described.as_deref().unwrap_or(data);
    // Which platforms are wanted follows from the input, too.
    let both = ["linux/amd64", "linux/arm64"].map(|text| text.parse::<Platform>().expect("it is one"));
    let platforms = both.into_iter().enumerate().filter(|(bit, _)| data.len() >> bit & 1 == 1).map(|(_, platform)| platform).collect();
    let loaded = STORE.load(&mut &archive[..], &LoadOptions { platforms }, &|_| {});
    if loaded.is_ok() {
        assert_eq!(STORE.check(true).expect("a store can be checked"), []);
        for image in STORE.list() {
            let (name, options) = (image.id.to_string(), SaveOptions::default());
            STORE.save(&[name], &options, &mut std::io::sink()).expect("a loaded image can be saved");
            STORE.variants_of(&image).expect("a loaded image has variants");
            STORE.history(&image.id).expect("a loaded image has a history");
            STORE
                .remove(&image.id.to_string(), RemoveOptions { force: true, prune: true }, &|_| Vec::new())
                .expect("an unused image can be removed");
        }
    }
    assert!(STORE.list().is_empty());
    let beside = std::fs::read_dir(&*OUTSIDE).expect("the scratch directory is there").count();
    assert_eq!(beside, 1, "a file was made outside the store");
});

fn archive(text: &str) -> Option<Vec<u8>> {
    let mut made: Vec<(String, usize)> = Vec::new();
    let mut archive = Writer::new(Vec::new());
    for section in text.split("\n%%\n").take(10) {
        let (head, body) = section.split_once('\n').unwrap_or((section, ""));
        let mut body = body.to_owned();
        for (number, (hex, size)) in made.iter().enumerate() {
            body = body.replace(&format!("@{number}"), hex).replace(&format!("#{number}"), &size.to_string());
        }
        let (kind, name) = head.split_once(' ').unwrap_or((head, ""));
        let content = match kind {
            "layer" => layer(&body)?,
            "packed" => pack(&layer(&body)?),
            "file" | "blob" | "link" => body.into_bytes(),
            _ => return None,
        };
        let hex = Digest::of(&content).hex();
        let name = if name.is_empty() { format!("blobs/sha256/{hex}") } else { name.to_owned() };
        if kind == "link" {
            archive.entry(&Entry { link: content.clone(), ..Entry::new(name, Kind::Symlink, 0o777) }).ok()?;
        } else {
            archive.bytes(&name, 0o644, &content).ok()?;
        }
        made.push((hex, content.len()));
    }
    archive.finish().ok()
}

fn pack(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("packing into memory does not fail");
    encoder.finish().expect("packing into memory does not fail")
}

/// `TYPE PATH [ARGUMENT]` a line.
fn layer(text: &str) -> Option<Vec<u8>> {
    let mut layer = Writer::new(Vec::new());
    for line in text.lines() {
        let mut words = line.splitn(3, ' ');
        let (kind, path, argument) = (words.next()?, words.next()?, words.next().unwrap_or_default());
        let entry = |kind, mode| Entry::new(path, kind, mode);
        let written = match kind {
            "file" => layer.bytes(path, 0o644, argument.as_bytes()),
            "setuid" => layer.bytes(path, 0o4755, argument.as_bytes()),
            "dir" => layer.entry(&entry(Kind::Dir, 0o755)),
            "symlink" => layer.entry(&Entry { link: argument.into(), ..entry(Kind::Symlink, 0o777) }),
            "link" => layer.entry(&Entry { link: argument.into(), ..entry(Kind::Link, 0o644) }),
            "fifo" => layer.entry(&entry(Kind::Fifo, 0o644)),
            "char" => layer.entry(&Entry { device: (1, argument.parse().ok()?), ..entry(Kind::Char, 0o666) }),
            "xattr" => layer.entry(&Entry { xattrs: vec![(argument.into(), b"value".into())], ..entry(Kind::Dir, 0o755) }),
            "owner" => layer.entry(&Entry { uid: argument.parse().ok()?, ..entry(Kind::Dir, 0o755) }),
            _ => return None,
        };
        written.ok()?;
    }
    layer.finish().ok()
}
