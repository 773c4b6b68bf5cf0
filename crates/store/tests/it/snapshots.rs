//! Containers' file systems, the same for all drivers.

use crate::support::*;
use naru_store::tar::{Entry, Kind};
use naru_store::{ChangeKind, CommitOptions, ConfigPatch, ImageConfig, ImportOptions, Limits};
use naru_types::{ContainerId, Digest, ImageRef};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

fn layered(fixture: &Fixture) -> Digest {
    image(
        fixture,
        "one",
        &[
            &[
                dir("etc"),
                file("etc/passwd", "root"),
                dir("gone"),
                file("gone/x", "x"),
                dir("opaque"),
                file("opaque/old", "o"),
                file("f", "1"),
                dir("kept"),
                file("kept/k", "k"),
            ],
            &[
                file(".wh.gone", ""),
                dir("opaque"),
                file("opaque/.wh..wh..opq", ""),
                file("opaque/new", "n"),
                file("f", "22"),
                link("l", Kind::Symlink, "f"),
                link("hard", Kind::Link, "f"),
            ],
        ],
    )
}

fn changes(fixture: &Fixture, id: &ContainerId) -> Vec<String> {
    let changes = fixture.changes(id, None).unwrap();
    changes.iter().map(|change| format!("{} {}", change.kind.letter(), String::from_utf8_lossy(&change.path))).collect()
}

#[test]
fn layers_are_merged() {
    for driver in drivers() {
        let fixture = Fixture::with(driver, Limits::default());
        let image = layered(&fixture);
        let id = ContainerId::random();
        fixture.prepare(&id, Some(&image)).unwrap();
        let mount = fixture.mount(&id).unwrap();
        let root = through(&mount);
        let read = |path: &str| std::fs::read_to_string(root.join(path)).ok();
        assert_eq!(read("etc/passwd").as_deref(), Some("root"), "{driver:?}");
        assert!(!root.join("gone").exists(), "{driver:?}");
        assert_eq!((read("opaque/old"), read("opaque/new").as_deref()), (None, Some("n")), "{driver:?}");
        assert_eq!((read("f").as_deref(), read("hard").as_deref()), (Some("22"), Some("22")), "{driver:?}");
        assert_eq!(std::fs::read_link(root.join("l")).unwrap(), Path::new("f"));
        for point in ["proc", "sys", "dev/pts", "etc/hosts", ".dockerenv"] {
            assert!(root.join(point).exists(), "{driver:?} {point}");
        }
        assert_eq!(changes(&fixture, &id), Vec::<String>::new(), "{driver:?}");
        // The mount is in nobody's table.
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!table.contains(fixture.config.root.to_str().unwrap()));
    }
}

#[test]
fn changes_are_dockers() {
    for driver in drivers() {
        let fixture = Fixture::with(driver, Limits::default());
        let image = layered(&fixture);
        let id = ContainerId::random();
        fixture.prepare(&id, Some(&image)).unwrap();
        let mount = fixture.mount(&id).unwrap();
        let root = through(&mount);
        std::fs::write(root.join("etc/new"), "n").unwrap();
        std::fs::write(root.join("etc/passwd"), "333").unwrap();
        std::fs::remove_dir_all(root.join("kept")).unwrap();
        std::fs::remove_file(root.join("opaque/new")).unwrap();
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("a/b/c"), "c").unwrap();
        let expected = ["A /a", "A /a/b", "A /a/b/c", "C /etc", "A /etc/new", "C /etc/passwd", "D /kept", "C /opaque", "D /opaque/new"];
        assert_eq!(changes(&fixture, &id), expected, "{driver:?}");
        let size = fixture.sizes(&id).unwrap();
        assert_eq!((size.rw, size.root_fs - size.rw), (5, fixture.find("one").unwrap().size), "{driver:?}");
    }
}

#[test]
fn a_replaced_directory_hides_what_was_in_it() {
    for driver in drivers() {
        let fixture = Fixture::with(driver, Limits::default());
        let image = layered(&fixture);
        let id = ContainerId::random();
        fixture.prepare(&id, Some(&image)).unwrap();
        let mount = fixture.mount(&id).unwrap();
        let root = through(&mount);
        std::fs::remove_dir_all(root.join("kept")).unwrap();
        std::fs::create_dir(root.join("kept")).unwrap();
        std::fs::write(root.join("kept/other"), "o").unwrap();
        assert_eq!(changes(&fixture, &id), ["C /kept", "D /kept/k", "A /kept/other"], "{driver:?}");
    }
}

#[test]
fn a_commit_is_what_the_container_saw() {
    for driver in drivers() {
        let fixture = Fixture::with(driver, Limits::default());
        let base = layered(&fixture);
        let id = ContainerId::random();
        fixture.prepare(&id, Some(&base)).unwrap();
        {
            let mount = fixture.mount(&id).unwrap();
            let root = through(&mount);
            std::fs::remove_dir_all(root.join("kept")).unwrap();
            std::fs::write(root.join("new"), "n").unwrap();
            std::fs::hard_link(root.join("new"), root.join("new2")).unwrap();
            symlink("/etc/passwd", root.join("sym")).unwrap();
            std::fs::set_permissions(root.join("new"), std::fs::Permissions::from_mode(0o4711)).unwrap();
            rustix::fs::setxattr(root.join("new"), "user.test", b"v", rustix::fs::XattrFlags::empty()).unwrap();
        }
        let mut config = ImageConfig::default();
        ConfigPatch::parse(&["CMD [\"a\"]", "ENV X=y"]).unwrap().apply(&mut config.config).unwrap();
        let options = CommitOptions {
            comment: "why".into(),
            author: "me".into(),
            created_by: "sh".into(),
            reference: Some(ImageRef::parse("new").unwrap()),
        };
        let committed = fixture.commit(&id, Some(&base), config, options).unwrap();
        let image = fixture.find("new").unwrap();
        assert_eq!((image.id.clone(), image.parent, image.layers.len()), (committed, Some(base), 3), "{driver:?}");
        assert_eq!((image.config.comment.as_str(), image.config.config.env.as_slice()), ("why", &["X=y".to_owned()][..]));
        assert_eq!(image.config.history.last().unwrap().created_by, "sh");
        let again = ContainerId::random();
        fixture.prepare(&again, Some(&image.id)).unwrap();
        let mount = fixture.mount(&again).unwrap();
        let root = through(&mount);
        assert!(!root.join("kept").exists());
        assert_eq!(std::fs::read_to_string(root.join("new2")).unwrap(), "n");
        let (a, b) = (std::fs::metadata(root.join("new")).unwrap(), std::fs::metadata(root.join("new2")).unwrap());
        assert_eq!((a.ino(), a.mode() & 0o7777), (b.ino(), 0o4711), "{driver:?}");
        assert_eq!(std::fs::read_link(root.join("sym")).unwrap(), Path::new("/etc/passwd"));
        let mut value = [0; 8];
        assert_eq!(rustix::fs::getxattr(root.join("new"), "user.test", &mut value[..]).unwrap(), 1);
        assert_eq!(changes(&fixture, &again), Vec::<String>::new(), "{driver:?}");
    }
}

#[test]
fn attributes_of_the_root_are_the_images() {
    for driver in drivers() {
        let fixture = Fixture::with(driver, Limits::default());
        let top = Entry { uid: 1000, gid: 1001, ..Entry::new("./", Kind::Dir, 0o700) };
        let image = image(&fixture, "one", &[&[(top, Vec::new()), file("a", "1")], &[file("b", "2")]]);
        let id = ContainerId::random();
        fixture.prepare(&id, Some(&image)).unwrap();
        let stat = rustix::fs::fstat(fixture.mount(&id).unwrap()).unwrap();
        assert_eq!((stat.st_mode & 0o7777, stat.st_uid, stat.st_gid), (0o700, 1000, 1001), "{driver:?}");
    }
}

#[test]
fn an_image_without_layers_and_no_image_at_all() {
    for driver in drivers() {
        let fixture = Fixture::with(driver, Limits::default());
        let empty = image(&fixture, "empty", &[]);
        for image in [Some(&empty), None] {
            let id = ContainerId::random();
            fixture.prepare(&id, image).unwrap();
            let mount = fixture.mount(&id).unwrap();
            std::fs::write(through(&mount).join("x"), "x").unwrap();
            assert_eq!(changes(&fixture, &id), ["A /x"], "{driver:?}");
            fixture.remove_snapshot(&id).unwrap();
            assert!(fixture.mount(&id).is_err());
        }
    }
}

#[test]
fn the_init_layer_respects_the_image() {
    for driver in drivers() {
        let fixture = Fixture::with(driver, Limits::default());
        let etc = Entry { uid: 7, ..Entry::new("etc", Kind::Dir, 0o750) };
        let image = image(
            &fixture,
            "one",
            &[&[(etc, Vec::new()), file("etc/hosts", "mine"), link("dev", Kind::Symlink, "/other"), file("proc", "a file")]],
        );
        let id = ContainerId::random();
        fixture.prepare(&id, Some(&image)).unwrap();
        let mount = fixture.mount(&id).unwrap();
        let root = through(&mount);
        assert_eq!(std::fs::read_to_string(root.join("etc/hosts")).unwrap(), "mine");
        let stat = std::fs::metadata(root.join("etc")).unwrap();
        assert_eq!((stat.uid(), stat.mode() & 0o7777), (7, 0o750));
        assert_eq!(std::fs::read_link(root.join("dev")).unwrap(), Path::new("/other"));
        assert_eq!(std::fs::read_to_string(root.join("proc")).unwrap(), "a file");
        assert!(root.join("etc/hostname").exists());
    }
}

#[test]
fn many_layers() {
    for driver in drivers() {
        let fixture = Fixture::with(driver, Limits::default());
        let layers: Vec<Vec<(Entry, Vec<u8>)>> =
            (0..300).map(|n| vec![file(&format!("f{n}"), "x"), file("same", &n.to_string())]).collect();
        let layers: Vec<&[(Entry, Vec<u8>)]> = layers.iter().map(Vec::as_slice).collect();
        let image = image(&fixture, "many", &layers);
        let id = ContainerId::random();
        fixture.prepare(&id, Some(&image)).unwrap();
        let mount = fixture.mount(&id).unwrap();
        assert_eq!(std::fs::read_to_string(through(&mount).join("same")).unwrap(), "299");
        assert!(through(&mount).join("f0").exists());
    }
}

#[test]
fn files_that_are_held_outlive_their_container() {
    for driver in drivers() {
        let fixture = Fixture::with(driver, Limits::default());
        let image = layered(&fixture);
        let (id, other) = (ContainerId::random(), ContainerId::random());
        fixture.prepare(&id, Some(&image)).unwrap();
        let store = fixture.store.as_ref().unwrap();
        let (first, second) = (store.hold(&id).unwrap(), store.hold(&id).unwrap());
        let mount = fixture.mount(&id).unwrap();
        fixture.remove_snapshot(&id).unwrap();
        assert!(store.hold(&id).is_err(), "{driver:?}: it is no more for those who come now");
        drop(first);
        fixture.sweep().unwrap();
        assert_eq!(std::fs::read(through(&mount).join("f")).unwrap(), b"22", "{driver:?}");
        drop(second);
        assert!(!fixture.has_snapshot(&id) && fixture.snapshots().is_empty(), "{driver:?}");
        // One that is not removed stays.
        fixture.prepare(&other, Some(&image)).unwrap();
        drop(store.hold(&other).unwrap());
        assert!(fixture.has_snapshot(&other), "{driver:?}");
        assert!(store.hold(&id).is_err());
    }
}

#[test]
fn export_is_deterministic_and_imports_again() {
    for driver in drivers() {
        let fixture = Fixture::with(driver, Limits::default());
        let image = layered(&fixture);
        let id = ContainerId::random();
        fixture.prepare(&id, Some(&image)).unwrap();
        let mount = fixture.mount(&id).unwrap();
        let export = || {
            let mut bytes = Vec::new();
            fixture.export(mount.as_fd(), &mut bytes).unwrap();
            bytes
        };
        let bytes = export();
        assert_eq!(bytes, export());
        for packed in [bytes.clone(), gzip(&bytes), zstd(&bytes)] {
            let options = ImportOptions {
                reference: Some(ImageRef::parse("in").unwrap()),
                changes: ConfigPatch::parse(&["USER 5"]).unwrap(),
                message: "m".into(),
                platform: None,
            };
            let imported = fixture.import(&mut packed.as_slice(), options).unwrap();
            let image = fixture.find("in").unwrap();
            assert_eq!((image.id, image.config.config.user.as_str(), image.config.os.as_str()), (imported.clone(), "5", "linux"));
            assert_eq!(image.layers, [Digest::of(&bytes)]);
            let again = ContainerId::random();
            fixture.prepare(&again, Some(&imported)).unwrap();
            let root = fixture.mount(&again).unwrap();
            assert_eq!(std::fs::read_to_string(through(&root).join("hard")).unwrap(), "22");
        }
    }
}

#[test]
fn a_tree_nested_without_end_can_be_removed() {
    for driver in drivers() {
        let fixture = Fixture::with(driver, Limits::default());
        let id = ContainerId::random();
        fixture.prepare(&id, None).unwrap();
        {
            let mut at = fixture.mount(&id).unwrap();
            for _ in 0..3000 {
                rustix::fs::mkdirat(&at, "d", rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
                at = rustix::fs::openat(&at, "d", rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
            }
        }
        assert!(fixture.changes(&id, None).is_err());
        fixture.sizes(&id).unwrap();
        fixture.remove_snapshot(&id).unwrap();
        fixture.sweep().unwrap();
        assert_eq!(fixture.files().iter().filter(|p| p.starts_with("trash") || p.starts_with("containers")).count(), 0);
    }
}

/// A container's files come and go without a write to the database, which would be a sync on the way of each start.
#[test]
fn containers_come_and_go_without_the_database() {
    let fixture = Fixture::new();
    let image = layered(&fixture);
    let written = || ["store.db", "store.db-wal"].map(|name| std::fs::read(fixture.config.root.join(name)).unwrap());
    let before = written();
    for _ in 0..5 {
        let id = ContainerId::random();
        fixture.prepare(&id, Some(&image)).unwrap();
        drop(fixture.mount(&id).unwrap());
        fixture.remove_snapshot(&id).unwrap();
    }
    assert!(written() == before);
}

#[test]
fn kinds_of_changes_have_letters() {
    assert_eq!([ChangeKind::Modified, ChangeKind::Added, ChangeKind::Deleted].map(ChangeKind::letter), ['C', 'A', 'D']);
}
