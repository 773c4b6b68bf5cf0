//! Layers and archives that want to harm the host, or mean two things. Each case ends in an error that leaves nothing
//! behind, or in an image whose files are all inside it.

use crate::support::*;
use naru_store::LoadOptions;
use naru_store::tar::{Entry, Kind};
use naru_store::{Driver, Limits};
use naru_types::{ContainerId, Digest, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// Loads an image of one layer with these bytes.
fn load_layer(fixture: &Fixture, layer: &[u8]) -> naru_store::Result<PathBuf> {
    fixture.load(&mut docker_archive("evil", &[layer.to_vec()]).as_slice(), &LoadOptions::default(), &|_| {})?;
    Ok(fixture.config.root.join("layers").join(Digest::of(layer).hex()))
}

fn with(entry: (Entry, Vec<u8>), change: impl Fn(&mut Entry)) -> (Entry, Vec<u8>) {
    let mut entry = entry;
    change(&mut entry.0);
    entry
}

/// A file whose header claims `size` bytes that are not there.
fn claims(size: u64) -> Vec<u8> {
    let mut layer = tar(&[file("big", "")]);
    layer[124..136].copy_from_slice(&[&[0x80, 0, 0, 0][..], &size.to_be_bytes()].concat());
    fix_checksum(&mut layer[..512]);
    layer
}

fn fix_checksum(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn sparse(size: &str) -> Vec<u8> {
    let record = |key: &str, value: &str| {
        let rest = key.len() + value.len() + 3;
        let length = rest + if rest > 97 { 3 } else { 2 };
        format!("{length} {key}={value}\n")
    };
    let records = [record("GNU.sparse.size", size), record("GNU.sparse.map", "0,3")].concat();
    let mut layer = tar(&[file("pax", &records), file("sparse", "abc")]);
    layer[156] = b'x';
    fix_checksum(&mut layer[..512]);
    layer
}

#[test]
fn refused_layers_leave_nothing() {
    let fixture = Fixture::new();
    let before = fixture.files();
    let canary = tempfile::tempdir().unwrap();
    let outside = canary.path().join("x").to_str().unwrap().to_owned();
    let long = "n".repeat(256);
    let deep = "d/".repeat(2100);
    let plain = tar(&[file("a", &"data".repeat(1000))]);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("dot dot", tar(&[file("../x", "x")])),
        ("dot dot in the middle", tar(&[file("a/../../x", "x")])),
        ("dot dot as a link's name", tar(&[link("a/../../l", Kind::Symlink, "/etc")])),
        ("hard link out", tar(&[link("l", Kind::Link, "../../../../etc/passwd")])),
        ("hard link to an absolute path", tar(&[link("l", Kind::Link, "/etc/passwd")])),
        ("hard link to a directory", tar(&[dir("d"), link("l", Kind::Link, "d")])),
        ("hard link to the root", tar(&[link("l", Kind::Link, "/")])),
        ("hard link to a later entry", tar(&[link("l", Kind::Link, "f"), file("f", "x")])),
        ("hard link through a link out", tar(&[link("s", Kind::Symlink, "/etc"), link("l", Kind::Link, "s/passwd")])),
        ("file through a link out", tar(&[link("s", Kind::Symlink, canary.path().to_str().unwrap()), file("s/x", "x")])),
        ("the root as a link", tar(&[link(".", Kind::Symlink, "/etc")])),
        ("the root as a file", tar(&[file("/", "x")])),
        ("an empty name", tar(&[link("", Kind::Symlink, "/etc")])),
        ("a long name", tar(&[file(&long, "x")])),
        ("a long path", tar(&[file(&format!("{deep}x"), "x")])),
        ("a link without target", tar(&[link("l", Kind::Symlink, "")])),
        ("a deletion of nothing", tar(&[file(".wh.", "")])),
        ("a deletion of .", tar(&[file(".wh..", "")])),
        ("a deletion of ..", tar(&[file(".wh...", "")])),
        ("a deletion of a deletion", tar(&[file(".wh..wh.x", "")])),
        ("a directory that is a deletion", tar(&[dir(".wh.x"), file(".wh.x/y", "")])),
        ("uid 2^32-1", tar(&[with(file("a", ""), |e| e.uid = 0xffff_ffff)])),
        ("uid 2^33", tar(&[with(file("a", ""), |e| e.uid = 1 << 33)])),
        ("negative gid", tar(&[with(dir("a"), |e| e.gid = -5)])),
        ("a device number out of range", tar(&[with(link("dev", Kind::Char, ""), |e| e.device = (5000, 1))])),
        ("a terabyte that is not there", claims(1 << 40)),
        ("an exabyte that is not there", claims(1 << 60)),
        ("more than is there", claims(10_000)),
        ("a sparse terabyte", sparse("1099511627776")),
        ("a sparse map beyond the file", sparse("2")),
        ("cut in the data", plain[..2000].to_vec()),
        ("cut in the header", plain[..300].to_vec()),
        ("gzip cut", gzip(&plain)[..40].to_vec()),
        ("xz cut", xz(&plain)[..60].to_vec()),
        ("bzip2 cut", bzip2(&plain)[..40].to_vec()),
        ("zstd cut", zstd(&plain)[..20].to_vec()),
        ("no tar", b"hello world".repeat(100)),
        ("xz", b"\xfd7zXZ\0 whatever follows here".to_vec()),
        ("a file below a file", tar(&[file("a", "x"), file("a/b", "x")])),
        ("a file below a missing link", tar(&[link("s", Kind::Symlink, "missing"), file("s/x", "x")])),
        ("a file below a loop", tar(&[link("s", Kind::Symlink, "s"), file("s/x", "x")])),
    ];
    for (what, layer) in cases {
        let started = std::time::Instant::now();
        let error = load_layer(&fixture, &layer).expect_err(what);
        assert!(matches!(error.kind(), ErrorKind::InvalidArgument | ErrorKind::TooLarge), "{what}: {error}");
        assert!(started.elapsed().as_secs() < 30, "{what}");
        assert_eq!(fixture.files(), before, "{what}: {error}");
        assert!(fixture.list().is_empty(), "{what}");
    }
    assert!(!PathBuf::from(outside).exists());
    assert_eq!(std::fs::read_dir(canary.path()).unwrap().count(), 0);
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut writer = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).unwrap();
    std::io::Write::write_all(&mut writer, bytes).unwrap();
    writer.finish().unwrap()
}

fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut writer = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    std::io::Write::write_all(&mut writer, bytes).unwrap();
    writer.finish().unwrap()
}

/// What unpackers other than ours would read as more than one archive.
#[test]
fn what_follows_the_archive_is_its_digest_s_business() {
    let fixture = Fixture::new();
    let before = fixture.files();
    let (layer, hidden) = (tar(&[file("a", "1")]), tar(&[file("hidden", "x")]));
    let diff_id = Digest::of(&layer);
    for (what, blob) in [
        ("a second member", [gzip(&layer), gzip(&hidden)].concat()),
        ("a second frame", [zstd(&layer), zstd(&hidden)].concat()),
        ("rubbish after gzip", [&gzip(&layer)[..], b"rubbish"].concat()),
        ("gzip within gzip", gzip(&gzip(&layer))),
    ] {
        let archive = docker_archive_of("x", &[blob], &config(std::slice::from_ref(&diff_id), ""));
        let error = fixture.load(&mut archive.as_slice(), &LoadOptions::default(), &|_| {}).expect_err(what);
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{what}: {error}");
        assert_eq!(fixture.files(), before, "{what}");
    }
}

#[test]
fn images_for_other_systems_and_layers_of_other_kinds_are_refused() {
    let fixture = Fixture::new();
    let before = fixture.files();
    let layer = tar(&[file("a", "1")]);
    let id = Digest::of(&layer);
    for os in ["windows", "../../x"] {
        let config = format!(r#"{{"architecture":"amd64","os":"{os}","rootfs":{{"type":"layers","diff_ids":["{id}"]}}}}"#);
        let archive = docker_archive_of("x", std::slice::from_ref(&layer), &config);
        let error = fixture.load(&mut archive.as_slice(), &LoadOptions::default(), &|_| {}).expect_err(os);
        assert!(error.to_string().contains(os), "{error}");
        assert_eq!(fixture.files(), before, "{os}");
    }
    // Of a layout with another word for its layer; with docker's own listing beside it that word does not count.
    let word = "application/vnd.oci.image.layer.v1.tar+gzip";
    let layout = oci_layout_with("x:y", &[gzip(&layer)], std::slice::from_ref(&id), "application/vnd.example.layer.v1.unknown+gzip");
    let error = fixture.load(&mut layout.as_slice(), &LoadOptions::default(), &|_| {}).unwrap_err();
    assert!(error.to_string().contains("is not that of a layer"), "{error}");
    assert_eq!(fixture.files(), before);
    fixture.load(&mut oci_layout_with("x:y", &[gzip(&layer)], &[id], word).as_slice(), &LoadOptions::default(), &|_| {}).unwrap();
}

#[test]
fn the_longest_names_and_rights_of_all_kinds_are_kept() {
    let fixture = Fixture::new();
    let name = "n".repeat(255);
    // Version 2: user rw, group r, mask r, other none, and user 1000 r.
    let acl: Vec<u8> = [[2, 0, 0, 0].as_slice(), &acl_entry(1, 6, u32::MAX), &acl_entry(2, 4, 1000), &acl_entry(4, 4, u32::MAX)]
        .into_iter()
        .chain([acl_entry(0x10, 4, u32::MAX).as_slice(), &acl_entry(0x20, 0, u32::MAX)])
        .flatten()
        .copied()
        .collect();
    let entries = [
        with(dir("./"), |e| (e.mode, e.uid) = (0, 1000)),
        file(&name, "x"),
        with(file("acl", "x"), |e| e.xattrs = vec![(b"system.posix_acl_access".to_vec(), acl.clone())]),
        with(file("old", "x"), |e| e.mtime = -5_000_000_000),
        with(file("future", "x"), |e| e.mtime = 1 << 40),
    ];
    let path = load_layer(&fixture, &tar(&entries)).unwrap();
    assert_eq!(std::fs::read_to_string(path.join(&name)).unwrap(), "x");
    let mut value = vec![0; 100];
    let length = rustix::fs::lgetxattr(path.join("acl"), "system.posix_acl_access", value.as_mut_slice()).unwrap();
    assert_eq!(value[..length], acl);
    let mtime = |name: &str| std::fs::metadata(path.join(name)).unwrap().mtime();
    // Whatever the file system's limits are: before its time is its beginning, after it its end.
    assert!(mtime("old") <= 0 && mtime("future") >= i64::from(i32::MAX), "{} {}", mtime("old"), mtime("future"));
    let id = ContainerId::random();
    fixture.prepare(&id, Some(&fixture.find("evil").unwrap().id)).unwrap();
    let root = std::fs::metadata(through(&fixture.mount(&id).unwrap())).unwrap();
    assert_eq!((root.mode() & 0o7777, root.uid()), (0, 1000));
    assert_eq!(fixture.check(true).unwrap(), []);
}

fn acl_entry(tag: u16, rights: u16, id: u32) -> [u8; 8] {
    let [t0, t1] = tag.to_le_bytes();
    let [r0, r1] = rights.to_le_bytes();
    let [i0, i1, i2, i3] = id.to_le_bytes();
    [t0, t1, r0, r1, i0, i1, i2, i3]
}

#[test]
fn nobody_but_root_gets_at_the_store() {
    let fixture = Fixture::new();
    load_layer(&fixture, &tar(&[with(file("su", "x"), |e| e.mode = 0o4755)])).unwrap();
    assert_eq!(std::fs::metadata(&fixture.config.root).unwrap().mode() & 0o7077, 0);
}

#[test]
fn clamped_layers_stay_inside() {
    let fixture = Fixture::new();
    let layer = tar(&[
        file("/abs/file", "1"),
        dir("real/lib"),
        link("lib", Kind::Symlink, "/real/lib"),
        file("lib/so", "2"),
        link("up", Kind::Symlink, "../../../../real"),
        file("up/there", "3"),
        link("etc", Kind::Symlink, "/../../../../abs"),
        file("etc/passwd", "4"),
        link("hard", Kind::Link, "/abs/file"),
    ]);
    let path = load_layer(&fixture, &layer).unwrap();
    for (name, data) in [("abs/file", "1"), ("real/lib/so", "2"), ("real/there", "3"), ("abs/passwd", "4"), ("hard", "1")] {
        assert_eq!(std::fs::read_to_string(path.join(name)).expect(name), data);
    }
}

#[test]
fn the_last_of_a_name_counts() {
    let fixture = Fixture::new();
    let layer = tar(&[
        file("a", "first"),
        file("a", "second"),
        dir("b"),
        file("b/x", "x"),
        file("b", "file"),
        file("c", "file"),
        dir("c"),
        file("c/x", "in c"),
        link("d", Kind::Symlink, "/etc/passwd"),
        file("d", "no link"),
        dir("e"),
        file("e/x", "kept"),
        dir("e"),
        file("f", "x"),
        link("g", Kind::Link, "f"),
        file("f", "changed"),
    ]);
    let path = load_layer(&fixture, &layer).unwrap();
    for (name, data) in [("a", "second"), ("b", "file"), ("c/x", "in c"), ("d", "no link"), ("e/x", "kept"), ("g", "x"), ("f", "changed")] {
        assert_eq!(std::fs::read_to_string(path.join(name)).expect(name), data, "{name}");
    }
    assert!(!std::fs::read_to_string("/etc/passwd").unwrap().contains("no link"));
}

#[test]
fn deletions_speak_of_lower_layers_only() {
    for driver in [Driver::Overlay, Driver::Vfs] {
        let fixture = Fixture::with(driver, Limits::default());
        let image = image(
            &fixture,
            "one",
            &[
                &[
                    file("a", "low"),
                    dir("d"),
                    file("d/low", "low"),
                    file("e", "low"),
                    dir("f"),
                    file("f/low", "low"),
                    dir("g"),
                    file("g/low", "low"),
                ],
                &[
                    // Before and after the entry of the same name, in both orders.
                    file(".wh.a", ""),
                    file("a", "high"),
                    dir("d"),
                    file("d/high", "high"),
                    file(".wh.d", ""),
                    file("e", "high"),
                    file(".wh.e", ""),
                    file(".wh.f", ""),
                    file("f/high", "high"),
                    file("g/.wh..wh..opq", ""),
                    file(".wh..wh.plnk/1.2", "aufs"),
                ],
            ],
        );
        let id = ContainerId::random();
        fixture.prepare(&id, Some(&image)).unwrap();
        let mount = fixture.mount(&id).unwrap();
        let root = through(&mount);
        for (name, data) in [("a", "high"), ("d/high", "high"), ("e", "high"), ("f/high", "high")] {
            assert_eq!(std::fs::read_to_string(root.join(name)).expect(name), data, "{driver:?} {name}");
        }
        for name in ["d/low", "f/low", "g/low", ".wh.a", ".wh..wh.plnk"] {
            assert!(!root.join(name).exists(), "{driver:?} {name}");
        }
        assert!(root.join("g").is_dir());
    }
}

#[test]
fn attributes_of_overlayfs_are_dropped_others_kept() {
    let fixture = Fixture::new();
    let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let entry = with(file("ping", "x"), |e| {
        e.uid = 12;
        e.mode = 0o4755;
        e.xattrs = vec![
            (b"trusted.overlay.redirect".to_vec(), b"/etc".to_vec()),
            (b"trusted.overlay.opaque".to_vec(), b"y".to_vec()),
            (b"trusted.overlay.metacopy".to_vec(), b"".to_vec()),
            (b"user.overlay.opaque".to_vec(), b"y".to_vec()),
            (b"security.selinux".to_vec(), b"label".to_vec()),
            (b"security.capability".to_vec(), capability.to_vec()),
            (b"user.mine".to_vec(), b"v".to_vec()),
        ];
    });
    let path =
        load_layer(&fixture, &tar(&[entry, with(dir("d"), |e| e.xattrs = vec![(b"trusted.overlay.opaque".to_vec(), b"y".to_vec())])]))
            .unwrap();
    let names = |file: &str| {
        let mut list = vec![0u8; 1000];
        let length = rustix::fs::llistxattr(path.join(file), list.as_mut_slice()).unwrap();
        let mut names: Vec<String> =
            list[..length].split(|b| *b == 0).filter(|n| !n.is_empty()).map(|n| String::from_utf8_lossy(n).into_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(names("ping"), ["security.capability", "user.mine"]);
    assert_eq!(names("d"), Vec::<String>::new());
    let stat = std::fs::metadata(path.join("ping")).unwrap();
    assert_eq!((stat.uid(), stat.mode() & 0o7777), (12, 0o4755));
}

#[test]
fn special_files_times_and_holes() {
    let fixture = Fixture::new();
    let whole = tar(&[
        with(link("null", Kind::Char, ""), |e| e.device = (1, 3)),
        with(link("disk", Kind::Block, ""), |e| e.device = (8, 300)),
        link("pipe", Kind::Fifo, ""),
        with(file("old", "x"), |e| e.mtime = -5_000_000_000),
        with(file("future", "x"), |e| e.mtime = 1 << 40),
        with(file("nanos", "x"), |e| (e.mtime, e.mtime_nanos) = (1_000_000_000, 123_456_789)),
        with(dir("d"), |e| e.mtime = 1_000_000),
        file("d/later", "x"),
    ]);
    // Without its end blocks, then a sparse file.
    let layer = [&whole[..whole.len() - 1024], &sparse("1073741824")].concat();
    let path = load_layer(&fixture, &layer).unwrap();
    let stat = |name: &str| std::fs::symlink_metadata(path.join(name)).unwrap();
    assert_eq!((stat("null").mode() & 0o170_000, stat("null").rdev()), (0o020_000, rustix::fs::makedev(1, 3)));
    assert_eq!((stat("disk").mode() & 0o170_000, stat("disk").rdev()), (0o060_000, rustix::fs::makedev(8, 300)));
    assert_eq!(stat("pipe").mode() & 0o170_000, 0o010_000);
    assert_eq!((stat("nanos").mtime(), stat("nanos").mtime_nsec()), (1_000_000_000, 123_456_789));
    assert_eq!(stat("d").mtime(), 1_000_000);
    let sparse = stat("sparse");
    assert_eq!(sparse.len(), 1 << 30);
    assert!(sparse.blocks() * 512 < 1 << 20, "the holes are written out");
}

#[test]
fn bombs_stop_at_the_limit() {
    let limits = Limits { max_layer_size: 10 << 20, ..Limits::default() };
    let fixture = Fixture::with(Driver::Overlay, limits);
    let before = fixture.files();
    let zeroes = "\0".repeat(4 << 20);
    let bomb = tar(&[file("a", &zeroes), file("b", &zeroes), file("c", &zeroes)]);
    let diff_id = Digest::of(&bomb);
    for blob in [bomb.clone(), gzip(&bomb), zstd(&bomb)] {
        let archive = docker_archive_of("bomb", &[blob], &config(std::slice::from_ref(&diff_id), ""));
        let error = fixture.load(&mut gzip(&archive).as_slice(), &LoadOptions::default(), &|_| {}).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
        assert_eq!(fixture.files(), before);
    }
    // Entries that add up beyond the limit, with holes.
    let error = load_layer(&fixture, &sparse("10485761")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
}

#[test]
fn a_flipped_bit_anywhere_is_found() {
    let fixture = Fixture::new();
    let before = fixture.files();
    let layer = tar(&[dir("d"), file("d/f", &"content ".repeat(500)), link("l", Kind::Symlink, "d/f")]);
    for blob in [gzip(&layer), zstd(&layer), layer.clone()] {
        for at in (0..blob.len()).step_by(blob.len() / 64 + 1) {
            let mut broken = blob.clone();
            broken[at] ^= 1 << (at % 8);
            let archive = docker_archive_of("x", &[broken], &config(&[Digest::of(&layer)], ""));
            // Compressed formats have bits that change nothing of the content: its digest is what counts.
            if fixture.load(&mut archive.as_slice(), &LoadOptions::default(), &|_| {}).is_ok() {
                assert_ne!(blob, layer, "byte {at}");
                let path = fixture.config.root.join("layers").join(Digest::of(&layer).hex());
                assert_eq!(std::fs::read_to_string(path.join("d/f")).unwrap(), "content ".repeat(500), "byte {at}");
                fixture.remove("x", Default::default(), &|_| Vec::new()).unwrap();
            }
            assert_eq!(fixture.files(), before, "byte {at}");
        }
    }
}

#[test]
fn hostile_archives() {
    let fixture = Fixture::new();
    let before = fixture.files();
    let layer = tar(&[file("a", "1")]);
    let id = Digest::of(&layer);
    let good = config(std::slice::from_ref(&id), "");
    let layer_entry = (Entry { size: layer.len() as u64, ..Entry::new("l", Kind::File, 0o644) }, layer.clone());
    let archive = |config: &str, manifest: &str| tar(&[layer_entry.clone(), file("c", config), file("manifest.json", manifest)]);
    let item = r#"[{"Config":"c","RepoTags":["x"],"Layers":["l"]}]"#;
    let oci = oci_layout("x:y", &[gzip(&layer)], std::slice::from_ref(&id));
    let replace = |bytes: &[u8], from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
        let mut changed = bytes.to_vec();
        changed[at..at + from.len()].copy_from_slice(to.as_bytes());
        changed
    };
    let size = format!("\"size\":{}", gzip(&layer).len());
    let wrong_size = format!("\"size\":{}", gzip(&layer).len() + 1);
    assert_eq!(size.len(), wrong_size.len());
    let many = format!(r#"[{{"Config":"c","Layers":[{}]}}]"#, vec!["\"l\""; 600].join(","));
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", Vec::new()),
        ("an empty tar", tar(&[])),
        ("no metadata", tar(std::slice::from_ref(&layer_entry))),
        ("null", archive(&good, "null")),
        ("not a list", archive(&good, "{}")),
        ("two documents", archive(&good, &format!("{item}{item}"))),
        ("deep nesting", archive(&good, &"[".repeat(200_000))),
        ("a huge manifest", archive(&good, &format!("{}{item}", " ".repeat(5 << 20)))),
        ("a huge config", archive(&format!("{}{good}", " ".repeat(5 << 20)), item)),
        ("config missing", tar(&[layer_entry.clone(), file("manifest.json", item)])),
        ("config is null", archive("null", item)),
        ("config is a link out", tar(&[layer_entry.clone(), link("c", Kind::Symlink, "/etc/passwd"), file("manifest.json", item)])),
        ("config is a link to itself", tar(&[layer_entry.clone(), link("c", Kind::Symlink, "c"), file("manifest.json", item)])),
        ("config out of the archive", archive(&good, r#"[{"Config":"../../../../etc/passwd","Layers":["l"]}]"#)),
        ("layer missing", archive(&good, r#"[{"Config":"c","Layers":["m"]}]"#)),
        ("layer out of the archive", archive(&good, r#"[{"Config":"c","Layers":["/etc/passwd"]}]"#)),
        ("fewer layers than the config", archive(&good, r#"[{"Config":"c","Layers":[]}]"#)),
        ("more layers than the config", archive(&good, r#"[{"Config":"c","Layers":["l","l"]}]"#)),
        ("too many layers", archive(&good, &many)),
        ("wrong diff id", archive(&config(&[Digest::of(b"other")], ""), item)),
        ("diff id with a path", archive(r#"{"rootfs":{"type":"layers","diff_ids":["sha256:../../x"]}}"#, item)),
        ("diff id of md5", archive(r#"{"rootfs":{"type":"layers","diff_ids":["md5:00"]}}"#, item)),
        ("a name with a digest", archive(&good, &format!(r#"[{{"Config":"c","RepoTags":["x@{id}"],"Layers":["l"]}}]"#))),
        ("a name with tag and digest", archive(&good, &format!(r#"[{{"Config":"c","RepoTags":["x:1@{id}"],"Layers":["l"]}}]"#))),
        ("a key twice in the config", archive(&good.replacen("{", r#"{"os":"linux","os":"linux","#, 1), item)),
        ("a key twice in the manifest", archive(&good, r#"[{"Config":"d","Config":"c","RepoTags":["x"],"Layers":["l"]}]"#)),
        ("more steps than layers", archive(&good.replacen("{", r#"{"history":[{},{}],"#, 1), item)),
        ("a time that is none", archive(&good.replacen("{", r#"{"created":"yesterday","#, 1), item)),
        ("a step at no time", archive(&good.replacen("{", r#"{"history":[{"created":"yesterday"}],"#, 1), item)),
        ("a name that is none", archive(&good, r#"[{"Config":"c","RepoTags":["../X y"],"Layers":["l"]}]"#)),
        (
            "a config called after another digest",
            tar(&[
                layer_entry.clone(),
                file(&format!("{}.json", id.hex()), &good),
                file("manifest.json", &format!(r#"[{{"Config":"{}.json","Layers":["l"]}}]"#, id.hex())),
            ]),
        ),
        ("a device", tar(&[link("d", Kind::Char, "")])),
        ("dot dot", tar(&[file("../manifest.json", item)])),
        ("blob with a wrong size", replace(&oci, &size, &wrong_size)),
        ("blob with a wrong digest", replace(&oci, &Digest::of(&gzip(&layer)).hex(), &"0".repeat(64))),
        ("index that is none", tar(&[file("index.json", "{}")])),
        (
            "index that is a manifest too",
            tar(&[file("index.json", &format!(r#"{{"schemaVersion":2,"manifests":[],"config":{{"digest":"{id}","size":1}}}}"#))]),
        ),
        ("index without images", tar(&[file("index.json", r#"{"schemaVersion":2,"manifests":[]}"#)])),
    ];
    for (what, bytes) in cases {
        let error = fixture.load(&mut bytes.as_slice(), &LoadOptions::default(), &|_| {}).expect_err(what);
        assert!(matches!(error.kind(), ErrorKind::InvalidArgument | ErrorKind::TooLarge), "{what}: {error}");
        assert_eq!(fixture.files(), before, "{what}");
        assert!(fixture.list().is_empty(), "{what}");
    }
    // The same archives without the harm are fine.
    fixture.load(&mut archive(&good, item).as_slice(), &LoadOptions::default(), &|_| {}).unwrap();
    fixture.load(&mut oci.as_slice(), &LoadOptions::default(), &|_| {}).unwrap();
}

#[test]
fn a_client_that_goes_away_leaves_nothing() {
    struct Broken<'a>(&'a [u8]);
    impl std::io::Read for Broken<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            if self.0.is_empty() {
                return Err(std::io::ErrorKind::ConnectionReset.into());
            }
            self.0.read(buffer)
        }
    }
    let fixture = Fixture::new();
    let before = fixture.files();
    let archive = docker_archive("x", &[tar(&[file("a", &"x".repeat(100_000))])]);
    for length in [0, 1, 5, 100, 511, 512, 50_000, archive.len() - 1] {
        assert!(fixture.load(&mut Broken(&archive[..length]), &LoadOptions::default(), &|_| {}).is_err(), "{length}");
        assert!(fixture.import(&mut Broken(&archive[..length]), Default::default()).is_err(), "{length}");
        assert_eq!(fixture.files(), before, "{length}");
    }
}

#[test]
fn bombs_in_every_format_stop_at_the_limit() {
    let limits = Limits { max_layer_size: 10 << 20, ..Limits::default() };
    let zeroes = tar(&[file("a", &"\0".repeat(6 << 20)), file("b", &"\0".repeat(6 << 20))]);
    let (xz, bzip2) = (xz(&zeroes), bzip2(&zeroes));
    // A frame header that asks for a window of 2 GiB.
    let window = [&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8][..], &[1, 0, 0]].concat();
    let diff_id = Digest::of(&zeroes);
    for (what, blob) in [("xz", xz), ("bzip2", bzip2), ("a window", window)] {
        let fixture = Fixture::with(Driver::Overlay, limits);
        let before = fixture.files();
        let archive = docker_archive_of("bomb", &[blob], &config(std::slice::from_ref(&diff_id), ""));
        let error = fixture.load(&mut archive.as_slice(), &LoadOptions::default(), &|_| {}).expect_err(what);
        assert!(matches!(error.kind(), ErrorKind::TooLarge | ErrorKind::InvalidArgument), "{what}: {error}");
        assert_eq!(fixture.files(), before, "{what}");
    }
}

#[test]
fn flipped_bits_in_xz_and_bzip2_are_found() {
    let layer = tar(&[file("f", &"content ".repeat(200))]);
    let archive = docker_archive("x", std::slice::from_ref(&layer));
    let fixture = Fixture::new();
    for (what, whole) in [("xz", xz(&archive)), ("bzip2", bzip2(&archive))] {
        for at in 0..whole.len() {
            let mut broken = whole.clone();
            broken[at] ^= 1 << (at % 8);
            if fixture.load(&mut broken.as_slice(), &LoadOptions::default(), &|_| {}).is_ok() {
                // What is not covered by a checksum must not matter.
                assert_eq!(fixture.find("x").expect(what).layers, [Digest::of(&layer)], "{what} {at}");
                fixture.remove("x", Default::default(), &|_| Vec::new()).unwrap();
            }
        }
    }
    assert_eq!(fixture.files(), Fixture::new().files());
}

#[test]
fn indexes_are_followed_only_so_far() {
    let layer = gzip(&tar(&[file("a", "1")]));
    let config = config(&[Digest::of(&tar(&[file("a", "1")]))], "");
    let descriptor = |bytes: &[u8]| format!(r#"{{"digest":"{}","size":{}}}"#, Digest::of(bytes), bytes.len());
    let manifest = format!(r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#, descriptor(config.as_bytes()), descriptor(&layer));
    let nested = |depth: usize, width: usize| {
        let mut blobs = vec![layer.clone(), config.clone().into_bytes(), manifest.clone().into_bytes()];
        let mut top = manifest.clone();
        for _ in 0..depth {
            let inside = vec![descriptor(top.as_bytes()); width].join(",");
            top = format!(r#"{{"schemaVersion":2,"manifests":[{inside}]}}"#);
            blobs.push(top.clone().into_bytes());
        }
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, descriptor(top.as_bytes()));
        let mut entries = vec![file("index.json", &index)];
        for blob in blobs {
            let path = format!("blobs/sha256/{}", Digest::of(&blob).hex());
            entries.push((Entry { size: blob.len() as u64, ..Entry::new(path, Kind::File, 0o644) }, blob));
        }
        tar(&entries)
    };
    for (depth, width, good) in [(1, 1, true), (4, 1, true), (5, 1, false), (40, 1, false), (1, 1001, false), (4, 30, false)] {
        let fixture = Fixture::new();
        let loaded = fixture.load(&mut nested(depth, width).as_slice(), &LoadOptions::default(), &|_| {});
        assert_eq!(loaded.is_ok(), good, "{depth} {width}: {loaded:?}");
        if !good {
            assert_eq!(fixture.files(), Fixture::new().files(), "{depth} {width}");
        }
    }
}

#[test]
fn names_are_not_remembered_without_end() {
    let fixture = Fixture::new();
    let before = fixture.files();
    let long = format!("{}/", "n".repeat(250)).repeat(15);
    // Directories in one layer, and files in one archive.
    let mut layer = naru_store::tar::Writer::new(Vec::new());
    for number in 0..18_000 {
        layer.entry(&Entry::new(format!("{long}{number}"), Kind::Dir, 0o755)).unwrap();
    }
    let error = load_layer(&fixture, &layer.finish().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
    let mut archive = naru_store::tar::Writer::new(Vec::new());
    for number in 0..18_000 {
        archive.entry(&Entry { link: b"x".into(), ..Entry::new(format!("{long}{number}"), Kind::Symlink, 0o777) }).unwrap();
    }
    let archive = archive.finish().unwrap();
    let error = fixture.load(&mut archive.as_slice(), &LoadOptions::default(), &|_| {}).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
    assert_eq!(fixture.files(), before);
}

#[test]
fn names_stay_the_bytes_they_are() {
    let fixture = Fixture::new();
    let long = [vec![b'd'; 120], b"/".to_vec(), vec![0xff; 120]].concat();
    let names = [b"caf\xe9".to_vec(), b"\xff\xfe".to_vec(), b"new\nline".to_vec(), long];
    let entries: Vec<_> =
        names.iter().map(|name| (Entry { size: 1, ..Entry::new(name.clone(), Kind::File, 0o644) }, b"x".to_vec())).collect();
    let path = load_layer(&fixture, &tar(&entries)).unwrap();
    for name in names {
        use std::os::unix::ffi::OsStringExt;
        assert_eq!(std::fs::read(path.join(std::ffi::OsString::from_vec(name))).unwrap(), b"x");
    }
    assert_eq!(fixture.check(true).unwrap(), []);
}

#[test]
fn a_directorys_group_is_not_inherited_by_what_the_layer_says_otherwise() {
    let fixture = Fixture::new();
    let entries = [
        with(dir("shared"), |e| (e.mode, e.gid) = (0o2775, 50)),
        file("shared/f", "x"),
        dir("shared/d"),
        link("shared/l", Kind::Symlink, "f"),
        with(file("shared/s", "x"), |e| e.mode = 0o4711),
        with(file("odd", "x"), |e| e.mode = 0o666),
    ];
    let path = load_layer(&fixture, &tar(&entries)).unwrap();
    let stat = |name: &str| {
        let stat = std::fs::symlink_metadata(path.join(name)).unwrap();
        (stat.mode() & 0o7777, stat.gid())
    };
    assert_eq!(stat("shared"), (0o2775, 50));
    assert_eq!([stat("shared/f"), stat("shared/d"), stat("shared/s")], [(0o644, 0), (0o755, 0), (0o4711, 0)]);
    assert_eq!((stat("shared/l").1, stat("odd").0), (0, 0o666));
    assert_eq!(fixture.check(true).unwrap(), []);
}
