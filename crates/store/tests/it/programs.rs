//! Archives as other programs write them: what they packed is what the layer has.

use crate::support::*;
use naru_types::Digest;
use std::collections::BTreeMap;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

/// A tree with what tar formats differ in.
fn tree(root: &Path) {
    let long = root.join("d".repeat(90)).join("e".repeat(120));
    std::fs::create_dir_all(&long).unwrap();
    std::fs::write(long.join("f".repeat(200)), "long").unwrap();
    std::fs::write(root.join("plain"), "x".repeat(1000)).unwrap();
    std::fs::write(root.join("ümläut"), "utf-8").unwrap();
    std::fs::set_permissions(root.join("plain"), std::fs::Permissions::from_mode(0o4751)).unwrap();
    std::os::unix::fs::chown(root.join("plain"), Some(123), Some(3_000_000)).unwrap();
    std::fs::set_permissions(root.join("plain"), std::fs::Permissions::from_mode(0o4751)).unwrap();
    std::fs::hard_link(root.join("plain"), root.join("second")).unwrap();
    symlink("t".repeat(150), root.join("link")).unwrap();
    let sparse = std::fs::File::create(root.join("sparse")).unwrap();
    for (at, data) in [(1u64 << 20, "middle"), (5 << 20, "later")] {
        sparse.write_all_at(data.as_bytes(), at).unwrap();
    }
    sparse.set_len(8 << 20).unwrap();
    assert!(Command::new("mkfifo").arg(root.join("pipe")).status().unwrap().success());
}

/// Everything that matters of every file, by path.
fn listing(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let stat = std::fs::symlink_metadata(&path).unwrap();
            let content = match () {
                () if stat.is_file() => Digest::of(&std::fs::read(&path).unwrap()).to_string(),
                () if stat.is_symlink() => format!("{:?}", std::fs::read_link(&path).unwrap()),
                () => String::new(),
            };
            if stat.is_dir() {
                pending.push(path.clone());
            }
            let name = path.strip_prefix(root).unwrap().display().to_string();
            let links = if stat.is_file() { stat.nlink() } else { 0 };
            found.insert(name, format!("{:o} {}:{} {} {links} {content}", stat.mode(), stat.uid(), stat.gid(), stat.mtime()));
        }
    }
    found
}

#[test]
fn gnu_tar_in_all_its_formats() {
    let source = tempfile::tempdir().unwrap();
    tree(source.path());
    let expected = listing(source.path());
    let archive = tempfile::NamedTempFile::new().unwrap();
    for options in [
        &["--format=gnu"][..],
        &["--format=gnu", "--sparse"],
        &["--format=posix"],
        &["--format=posix", "--sparse", "--sparse-version=1.0"],
        &["--format=posix", "--sparse", "--sparse-version=0.1"],
        &["--format=posix", "--sparse", "--sparse-version=0.0"],
        &["--format=posix", "--pax-option=globexthdr.name=g,comment=a", "--gzip"],
        &["--format=gnu", "--zstd"],
    ] {
        let made = Command::new("tar").args(options).arg("-cf").arg(archive.path()).arg("-C").arg(source.path()).arg(".").status();
        assert!(made.unwrap().success(), "{options:?}");
        let fixture = Fixture::new();
        let id = fixture.import(&mut std::fs::File::open(archive.path()).unwrap(), Default::default()).expect(options[0]);
        let layer = fixture.config.root.join("layers").join(fixture.image(&id).unwrap().layers[0].hex());
        assert_eq!(listing(&layer), expected, "{options:?}");
        let blocks = std::fs::metadata(layer.join("sparse")).unwrap().blocks();
        if options.contains(&"--sparse") {
            assert!(blocks * 512 < 1 << 20, "{options:?}: holes are written out, {blocks} blocks");
        }
    }
}

#[test]
fn what_is_exported_gnu_tar_reads() {
    use std::os::fd::AsFd;
    let source = tempfile::tempdir().unwrap();
    tree(source.path());
    let fixture = Fixture::new();
    let root = std::fs::File::open(source.path()).unwrap();
    let mut bytes = Vec::new();
    fixture.export(root.as_fd(), &mut bytes).unwrap();
    let target = tempfile::tempdir().unwrap();
    let archive = target.path().join("archive.tar");
    std::fs::write(&archive, bytes).unwrap();
    let out = target.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let read = Command::new("tar").arg("-xpf").arg(&archive).arg("--numeric-owner").arg("-C").arg(&out).output().unwrap();
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    assert_eq!(listing(&out), listing(source.path()));
}
