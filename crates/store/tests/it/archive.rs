//! `cp` on mounted roots, also against links that want to lead out.

use crate::support::*;
use naru_store::archive::{self, UnpackOptions};
use naru_store::tar::{Entry, Kind, Reader};
use naru_types::{ContainerId, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;

struct Root {
    _fixture: Fixture,
    mount: OwnedFd,
    path: PathBuf,
}

fn root() -> Root {
    let fixture = Fixture::new();
    let id = ContainerId::random();
    fixture.prepare(&id, None).unwrap();
    let mount = fixture.mount(&id).unwrap();
    let path = through(&mount);
    std::fs::create_dir_all(path.join("d/sub")).unwrap();
    std::fs::write(path.join("d/f"), "data").unwrap();
    symlink("/d", path.join("abs")).unwrap();
    symlink("../../../../../../d/f", path.join("rel")).unwrap();
    symlink("/etc/shadow", path.join("out")).unwrap();
    symlink("loop", path.join("loop")).unwrap();
    Root { _fixture: fixture, mount, path }
}

fn packed(root: &Root, path: &str) -> Vec<(String, Kind, String)> {
    let mut bytes = Vec::new();
    archive::pack(root.mount.as_fd(), path, &mut bytes).unwrap();
    let mut reader = Reader::new(bytes.as_slice());
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        let mut data = vec![0; 100];
        let length = reader.read_data(&mut data).unwrap();
        entries.push((String::from_utf8(entry.path).unwrap(), entry.kind, String::from_utf8_lossy(&data[..length]).into_owned()));
    }
    entries
}

#[test]
fn stat_tells_what_a_path_is() {
    let root = root();
    let stat = |path: &str| archive::stat(root.mount.as_fd(), path).unwrap();
    let file = stat("/d/f");
    assert_eq!((file.name.as_str(), file.size, file.go_mode(), file.link_target.as_str()), ("f", 4, 0o644, ""));
    assert_eq!(stat("d").go_mode(), 1 << 31 | 0o755);
    assert_eq!((stat("/").name, stat("abs/").is_dir(), stat("abs/.").name), ("/".into(), true, ".".into()));
    for (path, target) in [("abs", "/d"), ("rel", "/d/f"), ("out", "/etc/shadow")] {
        let link = stat(path);
        assert_eq!((link.go_mode() & 1 << 27 != 0, link.link_target.as_str()), (true, target), "{path}");
    }
    assert_eq!(stat("/../../d/../d/f").name, "f");
    for path in ["/none", "/d/f/x", "/out/x", "abs/none"] {
        assert_eq!(archive::stat(root.mount.as_fd(), path).unwrap_err().kind(), ErrorKind::NotFound, "{path}");
    }
    for path in ["/loop/x", "/a\0b", &format!("/{}", "x".repeat(5000))] {
        assert_eq!(archive::stat(root.mount.as_fd(), path).unwrap_err().kind(), ErrorKind::InvalidArgument, "{}", &path[..6]);
    }
}

#[test]
fn names_in_the_archive_are_dockers() {
    let root = root();
    let names = |path: &str| packed(&root, path).into_iter().map(|(name, ..)| name).collect::<Vec<_>>();
    assert_eq!(names("/d"), ["d/", "d/f", "d/sub/"]);
    assert_eq!(names("/d/"), ["d/", "d/f", "d/sub/"]);
    assert_eq!(names("/d/."), ["./", "./f", "./sub/"]);
    assert_eq!(names("/abs/."), ["./", "./f", "./sub/"]);
    assert_eq!(packed(&root, "/d/f"), [("f".into(), Kind::File, "data".into())]);
    assert_eq!(packed(&root, "/abs/f"), [("f".into(), Kind::File, "data".into())]);
    assert_eq!(names("/abs"), ["abs"]);
    assert!(names("/").starts_with(&["/".into(), "/.dockerenv".into()]), "{:?}", names("/"));
}

#[test]
fn unpacking_stays_inside() {
    let root = root();
    let unpack = |directory: &str, entries: &[(Entry, Vec<u8>)], options| {
        archive::unpack(root.mount.as_fd(), directory, &mut tar(entries).as_slice(), options)
    };
    let plain = UnpackOptions::default();
    unpack("/d", &[file("new", "n"), dir("sub/deep"), file("sub/deep/x", "x")], plain).unwrap();
    assert_eq!(std::fs::read_to_string(root.path.join("d/sub/deep/x")).unwrap(), "x");
    unpack("/abs", &[file("through", "t"), file("missing/parents/y", "y")], plain).unwrap();
    assert_eq!(std::fs::read_to_string(root.path.join("d/through")).unwrap(), "t");
    // A link in the archive that leads out, then a file through it.
    let secret = tempfile::tempdir().unwrap();
    let outside = secret.path().to_str().unwrap();
    unpack("/d", &[link("esc", Kind::Symlink, outside), file("esc/x", "x")], plain).unwrap_err();
    unpack("/d", &[link("up", Kind::Symlink, "../../../../.."), file("up/tmp-x", "x")], plain).unwrap();
    assert!(root.path.join("tmp-x").exists());
    assert_eq!(std::fs::read_dir(secret.path()).unwrap().count(), 0);
    assert!(unpack("/d", &[file("../x", "x")], plain).is_err());
    // No layer: deletions are plain names here.
    unpack("/d", &[file(".wh.f", "w")], plain).unwrap();
    assert!(root.path.join("d/.wh.f").exists() && root.path.join("d/f").exists());
    assert_eq!(unpack("/none", &[], plain).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(unpack("/d/f", &[], plain).unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[test]
fn options_of_unpacking() {
    let root = root();
    let strict = UnpackOptions { no_overwrite_dir_non_dir: true, owner: Some((5, 6)) };
    let unpack =
        |entries: &[(Entry, Vec<u8>)], options| archive::unpack(root.mount.as_fd(), "/d", &mut gzip(&tar(entries)).as_slice(), options);
    let message = unpack(&[file("sub", "x")], strict).unwrap_err().to_string();
    assert!(message.contains("cannot overwrite directory with non-directory"), "{message}");
    assert!(unpack(&[dir("f")], strict).is_err());
    unpack(&[file("owned", "x"), file("f", "new")], strict).unwrap();
    let stat = std::fs::metadata(root.path.join("d/owned")).unwrap();
    assert_eq!((stat.uid(), stat.gid()), (5, 6));
    unpack(&[file("sub", "x")], UnpackOptions::default()).unwrap();
    assert!(root.path.join("d/sub").is_file());
}

#[test]
fn a_new_volume_is_filled_once() {
    let root = root();
    std::os::unix::fs::chown(root.path.join("d"), Some(3), Some(4)).unwrap();
    let volume = tempfile::tempdir().unwrap();
    let destination = std::fs::File::open(volume.path()).unwrap();
    assert!(archive::copy_up(root.mount.as_fd(), "/abs", destination.as_fd()).unwrap());
    assert_eq!(std::fs::read_to_string(volume.path().join("f")).unwrap(), "data");
    let stat = std::fs::metadata(volume.path()).unwrap();
    assert_eq!((stat.uid(), stat.gid(), stat.mode() & 0o7777), (3, 4, 0o755));
    assert!(!archive::copy_up(root.mount.as_fd(), "/d", destination.as_fd()).unwrap());
    let empty = tempfile::tempdir().unwrap();
    let destination = std::fs::File::open(empty.path()).unwrap();
    assert!(!archive::copy_up(root.mount.as_fd(), "/none", destination.as_fd()).unwrap());
}

#[test]
fn a_container_that_swaps_links_gains_nothing() {
    let root = root();
    let secret = tempfile::tempdir().unwrap();
    std::fs::write(secret.path().join("f"), "secret").unwrap();
    let outside = secret.path().to_owned();
    let path = root.path.clone();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::fs::create_dir(path.join("race")).unwrap();
    std::fs::write(path.join("race/f"), "data").unwrap();
    symlink(&outside, path.join("other")).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(rustix::fs::CWD, path.join("race"), rustix::fs::CWD, path.join("other"), flags).unwrap();
            }
        });
        let _stop = AtEnd(|| stop.store(true, std::sync::atomic::Ordering::Relaxed));
        for _ in 0..3000 {
            let mut bytes = Vec::new();
            archive::pack(root.mount.as_fd(), "/race/f", &mut bytes).ok();
            archive::pack(root.mount.as_fd(), "/race", &mut bytes).ok();
            assert!(!bytes.windows(6).any(|w| w == b"secret"));
            archive::unpack(root.mount.as_fd(), "/race", &mut tar(&[file("w", "x"), dir("w2")]).as_slice(), UnpackOptions::default()).ok();
        }
    });
    assert_eq!(std::fs::read_dir(secret.path()).unwrap().count(), 1);
}

/// Gives an archive, and does something before the first byte is read.
struct Before<'a, F: FnMut()> {
    act: Option<F>,
    archive: &'a [u8],
}

impl<F: FnMut()> std::io::Read for Before<'_, F> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if let Some(mut act) = self.act.take() {
            act();
        }
        self.archive.read(buffer)
    }
}

#[test]
fn a_directory_that_vanishes_is_not_made_again() {
    for archive in [tar(&[file("new", "x")]), tar(&[file("below/new", "x")]), tar(&[dir("new")]), tar(&[link("new", Kind::Symlink, "x")])] {
        let root = root();
        let gone = root.path.join("d/sub");
        let mut source = Before { act: Some(|| std::fs::remove_dir(&gone).unwrap()), archive: &archive };
        let error = archive::unpack(root.mount.as_fd(), "/d/sub", &mut source, UnpackOptions::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(error.to_string().contains("/d/sub"), "{error}");
        assert!(!gone.exists());
    }
}

/// Whatever an entry needs of the disk: that there is no more of it is not the entry's fault.
#[test]
fn a_full_disk_is_told_as_such() {
    let deep = |name: &str| format!("{}{name}", "x/".repeat(40));
    let many = |make: &dyn Fn(String) -> (Entry, Vec<u8>)| (0..40).map(|number| make(format!("n{number}"))).collect::<Vec<_>>();
    for (what, entries) in [
        ("directories that no entry names", vec![file(&deep("f"), "x")]),
        ("directories", many(&|name| dir(&name))),
        ("files", many(&|name| file(&name, ""))),
        ("links", many(&|name| link(&name, Kind::Symlink, &"t".repeat(2000)))),
        ("pipes", many(&|name| link(&name, Kind::Fifo, ""))),
    ] {
        let directory = tempfile::tempdir().unwrap();
        rustix::mount::mount("tmpfs", directory.path(), "tmpfs", rustix::mount::MountFlags::empty(), c"size=1m,nr_inodes=20").unwrap();
        let root = std::fs::File::open(directory.path()).unwrap();
        let error = archive::unpack(root.as_fd(), "/", &mut tar(&entries).as_slice(), UnpackOptions::default()).unwrap_err();
        rustix::mount::unmount(directory.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
        let full = matches!(&error, naru_store::Error::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull);
        assert!(full, "{what}: {error:?}");
    }
}
