//! What only the btrfs driver does: shared data, subvolumes within containers, trees upon trees.

use crate::support::*;
use naru_store::tar::{Entry, Kind};
use naru_store::{Driver, Error, LayerBlob, Limits, RemoveOptions, Repaired, Store, StoreConfig};
use naru_types::{ContainerId, Digest, ImageRef};
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

fn fixture() -> Option<Fixture> {
    has_btrfs().then(|| Fixture::with(Driver::Btrfs, Limits::default()))
}

fn trees(fixture: &Fixture) -> Vec<String> {
    let names = std::fs::read_dir(fixture.config.root.join("init")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".tree")).collect()
}

fn btrfs(arguments: &[&str], path: &Path) {
    let output = Command::new("btrfs").args(arguments).arg(path).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Paths with type, mode, owner, time, content and group of hard links.
fn listing(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut first = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_owned();
            let stat = std::fs::symlink_metadata(&path).unwrap();
            let content = if stat.is_symlink() {
                format!("{:?}", std::fs::read_link(&path).unwrap())
            } else if stat.is_file() {
                std::fs::read_to_string(&path).unwrap()
            } else {
                String::new()
            };
            let links = if stat.is_dir() { None } else { Some(first.entry(stat.ino()).or_insert_with(|| stat.nlink()).to_owned()) };
            found.insert(name, format!("{:o} {} {} {content} {links:?}", stat.mode(), stat.uid(), stat.mtime()));
            if stat.is_dir() {
                pending.push(path);
            }
        }
    }
    found
}

/// Images that are one upon the other, and one that is not.
fn family(fixture: &Fixture) -> Vec<Digest> {
    let private = Entry { uid: 5, ..Entry::new("etc", Kind::Dir, 0o700) };
    let layers: [&[(Entry, Vec<u8>)]; 4] = [
        &[dir("a"), file("a/one", "1"), file("a/two", "2"), dir("gone"), file("gone/x", "x"), link("proc", Kind::Symlink, "a")],
        &[file(".wh.gone", ""), file("a/two", "22"), link("a/hard", Kind::Link, "a/two")],
        &[
            (private, Vec::new()),
            file("etc/hosts", "mine"),
            dir("a"),
            file("a/.wh..wh..opq", ""),
            file("a/three", "3"),
            file(".wh.dev", ""),
        ],
        &[file(".wh.proc", ""), file("dev", "a file"), link("sys", Kind::Symlink, "/a")],
    ];
    let names = ["one", "two", "three", "four"];
    let mut images: Vec<Digest> = names.iter().enumerate().map(|(at, name)| image(fixture, name, &layers[..=at])).collect();
    images.push(image(fixture, "other", &[layers[1], layers[0]]));
    images
}

#[test]
fn a_tree_upon_a_tree_is_what_a_copy_is() {
    let Some(fixture) = fixture() else { return };
    let copies = Fixture::with(Driver::Vfs, Limits::default());
    let (images, same) = (family(&fixture), family(&copies));
    assert_eq!(images, same);
    for image in &images {
        let id = ContainerId::random();
        fixture.prepare(&id, Some(image)).unwrap();
        copies.prepare(&id, Some(image)).unwrap();
        assert_eq!(fixture.changes(&id, None).unwrap(), []);
        let (mount, copy) = (fixture.mount(&id).unwrap(), copies.mount(&id).unwrap());
        assert_eq!(listing(&through(&mount)), listing(&through(&copy)));
    }
    assert_eq!(trees(&fixture).len(), images.len());
}

#[test]
fn data_is_there_once() {
    let Some(fixture) = fixture() else { return };
    let noise: String =
        (0..3_000_000u32).map(|n| char::from(b'a' + u8::try_from((n.wrapping_mul(2_654_435_761) >> 13) % 26).unwrap())).collect();
    let image = image(&fixture, "one", &[&[file("big", &noise)]]);
    let free = || {
        Command::new("sync").arg("-f").arg(&fixture.config.root).status().unwrap();
        let stat = rustix::fs::statvfs(&fixture.config.root).unwrap();
        stat.f_bavail * stat.f_frsize
    };
    let before = free();
    let containers: Vec<ContainerId> = (0..20).map(|_| ContainerId::random()).collect();
    for id in &containers {
        fixture.prepare(id, Some(&image)).unwrap();
    }
    let taken = before.saturating_sub(free());
    assert!(taken < 3_000_000, "{taken} bytes for 20 containers of 3 MB");
    std::fs::write(through(&fixture.mount(&containers[0]).unwrap()).join("new"), &noise[..1_000_000]).unwrap();
    let usage = fixture.disk_usage().unwrap().on_disk;
    assert_eq!(usage.containers, 1_000_000);
    assert!((3_000_000..4_000_000).contains(&usage.layers), "{usage:?}");
    // What one of them does, no other sees.
    std::fs::write(through(&fixture.mount(&containers[1]).unwrap()).join("big"), "mine").unwrap();
    assert_eq!(fixture.changes(&containers[2], None).unwrap(), []);
    assert_eq!(fixture.check(true).unwrap(), []);
}

#[test]
fn subvolumes_of_a_container_go_with_it() {
    let Some(fixture) = fixture() else { return };
    let image = image(&fixture, "one", &[&[file("f", "1")]]);
    let id = ContainerId::random();
    fixture.prepare(&id, Some(&image)).unwrap();
    {
        let mount = fixture.mount(&id).unwrap();
        // A program does not have the descriptor: the container's own directory is the same subvolume.
        let root = fixture.config.root.join("containers").join(id.as_str()).join("root");
        btrfs(&["subvolume", "create"], &root.join("sub"));
        std::fs::create_dir(root.join("sub/dir")).unwrap();
        btrfs(&["subvolume", "create"], &root.join("sub/dir/deep"));
        std::fs::write(root.join("sub/dir/deep/file"), "12").unwrap();
        btrfs(&["property", "set", "-ts", root.join("sub").to_str().unwrap(), "ro"], Path::new("true"));
        btrfs(&["property", "set", "-ts", root.to_str().unwrap(), "ro"], Path::new("true"));
        assert!(std::fs::write(through(&mount).join("x"), "").is_err());
        assert_eq!(fixture.sizes(&id).unwrap().rw, 2);
    }
    fixture.remove_snapshot(&id).unwrap();
    fixture.sweep().unwrap();
    for part in ["trash", "containers", "staging"] {
        assert_eq!(std::fs::read_dir(fixture.config.root.join(part)).unwrap().count(), 0, "{part}");
    }
}

#[test]
fn a_tree_goes_with_its_image() {
    let Some(mut fixture) = fixture() else { return };
    let images = family(&fixture);
    let id = ContainerId::random();
    fixture.prepare(&id, Some(&images[1])).unwrap();
    fixture.prepare(&ContainerId::random(), Some(&images[0])).unwrap();
    assert_eq!(trees(&fixture).len(), 2);
    let force = RemoveOptions { force: true, ..RemoveOptions::default() };
    fixture.remove("two", force, &|_| Vec::new()).unwrap();
    fixture.reopen();
    assert_eq!(trees(&fixture).len(), 2, "a container needs it");
    assert_eq!(fixture.changes(&id, None).unwrap(), []);
    fixture.remove_snapshot(&id).unwrap();
    assert_eq!(trees(&fixture), [format!("{}.tree", images[0].hex())]);
    fixture.sweep().unwrap();
    assert_eq!(std::fs::read_dir(fixture.config.root.join("trash")).unwrap().count(), 0);
    // What a crash left half made is no tree.
    let left = fixture.config.root.join("staging/left");
    std::os::unix::fs::symlink("/nowhere", &left).unwrap();
    fixture.reopen();
    assert_eq!(std::fs::read_dir(fixture.config.root.join("staging")).unwrap().count(), 0);
}

#[test]
fn a_repaired_layer_shows_in_new_containers() {
    let Some(fixture) = fixture() else { return };
    let image = image(&fixture, "one", &[&[dir("d"), file("d/f", "1"), file("g", "1")], &[file(".wh.g", "")]]);
    let layer = fixture.config.root.join("layers").join(fixture.find("one").unwrap().layers[0].hex());
    let mode = |id: &ContainerId| through(&fixture.mount(id).unwrap()).join("d/f").metadata().unwrap().mode() & 0o777;
    std::fs::set_permissions(layer.join("d/f"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let [old, new] = [ContainerId::random(), ContainerId::random()];
    fixture.prepare(&old, Some(&image)).unwrap();
    for damage in fixture.check(true).unwrap() {
        let mut refetch = |_: &LayerBlob, _: &[ImageRef]| panic!("what is wrong is known here");
        assert_eq!(fixture.repair(&damage, &mut refetch).unwrap(), Repaired::Yes);
    }
    let changes: Vec<Vec<u8>> = fixture.changes(&old, None).unwrap().into_iter().map(|change| change.path).collect();
    assert_eq!(changes, [&b"/d"[..], b"/d/f"], "without a tree the layers show what the image has");
    fixture.prepare(&new, Some(&image)).unwrap();
    assert_eq!((mode(&old), mode(&new)), (0o600, 0o644));
    assert_eq!(fixture.changes(&new, None).unwrap(), []);
}

#[test]
fn several_first_containers_at_once() {
    let Some(fixture) = fixture() else { return };
    let image = family(&fixture).pop().unwrap();
    let ids: Vec<ContainerId> = (0..8).map(|_| ContainerId::random()).collect();
    std::thread::scope(|scope| {
        for id in &ids {
            scope.spawn(|| fixture.prepare(id, Some(&image)).unwrap());
        }
    });
    for id in &ids {
        assert_eq!(fixture.changes(id, None).unwrap(), []);
    }
    assert_eq!(trees(&fixture).len(), 1);
    assert_eq!(std::fs::read_dir(fixture.config.root.join("staging")).unwrap().count(), 0);
}

#[test]
fn the_driver_for_a_root() {
    let plain = Fixture::new();
    let root = plain.config.root.clone();
    assert_eq!(Driver::for_root(&root), Driver::Overlay);
    let refused = Store::open(&StoreConfig { root: root.with_file_name("other"), driver: Driver::Btrfs, limits: Limits::default() });
    assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    for driver in drivers() {
        let fixture = Fixture::with(driver, Limits::default());
        let fresh = if driver == Driver::Btrfs { Driver::Btrfs } else { Driver::Overlay };
        assert_eq!(Driver::for_root(&fixture.config.root), fresh);
        assert_eq!(Driver::for_root(&fixture.config.root.join("not/there/yet")), fresh);
        fixture.prepare(&ContainerId::random(), None).unwrap();
        assert_eq!(Driver::for_root(&fixture.config.root), driver);
    }
    // Containers that are there already stay what they are.
    let Some(mut fixture) = fixture() else { return };
    fixture.config.driver = Driver::Overlay;
    fixture.reopen();
    fixture.prepare(&ContainerId::random(), None).unwrap();
    assert_eq!(Driver::for_root(&fixture.config.root), Driver::Overlay);
}

#[test]
fn preparing_on_btrfs() {
    let Some(fixture) = fixture() else { return };
    let image = family(&fixture).pop().unwrap();
    fixture.prepare(&ContainerId::random(), Some(&image)).unwrap();
    let mut times = Vec::new();
    for _ in 0..50 {
        let id = ContainerId::random();
        let start = std::time::Instant::now();
        fixture.prepare(&id, Some(&image)).unwrap();
        drop(fixture.mount(&id).unwrap());
        times.push(start.elapsed());
    }
    times.sort();
    eprintln!("btrfs: prepare and mount: best {:?}, median {:?}", times[0], times[25]);
}
