//! A container's file system that is made ahead of its use.

use crate::support::*;
use naru_store::{Driver, Limits, MountOptions, RemoveOptions, Store};
use naru_types::{ContainerId, Digest};

const THROWAWAY: MountOptions<'_> = MountOptions { label: None, throwaway: true };

fn fixture() -> (Fixture, Digest) {
    let fixture = Fixture::with(Driver::Overlay, Limits::default());
    let image = image(&fixture, "one", &[&[dir("etc"), file("etc/a", "a")], &[file("f", "1")]]);
    (fixture, image)
}

fn waiting(store: &Store) -> usize {
    std::fs::read_dir(store.root().join("ahead")).unwrap().count()
}

#[test]
fn the_next_container_takes_it_and_is_as_others() {
    let (fixture, image) = fixture();
    fixture.make_ahead(&image).unwrap();
    fixture.make_ahead(&image).unwrap();
    assert_eq!(waiting(&fixture), 1);
    let (first, second) = (ContainerId::random(), ContainerId::random());
    for id in [&first, &second] {
        fixture.prepare(id, Some(&image)).unwrap();
        assert_eq!(waiting(&fixture), 0);
        let mount = fixture.mount_with(id, THROWAWAY).unwrap();
        assert_eq!(std::fs::read_to_string(through(&mount).join("etc/a")).unwrap(), "a");
        std::fs::write(through(&mount).join("f"), "changed").unwrap();
        assert_eq!(fixture.changes(id, None).unwrap().len(), 1);
        assert_eq!(fixture.snapshot_image(id).unwrap(), Some(image.clone()));
    }
    let entries = |id: &ContainerId| {
        let path = fixture.root().join("containers").join(id.as_str());
        let mut names: Vec<_> = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(entries(&first), entries(&second));
}

/// Two mounts of the same files at a time would not see each other's changes.
#[test]
fn who_mounts_otherwise_has_the_only_mount() {
    let (fixture, image) = fixture();
    fixture.make_ahead(&image).unwrap();
    let id = ContainerId::random();
    fixture.prepare(&id, Some(&image)).unwrap();
    let upper = fixture.root().join("containers").join(id.as_str()).join("upper");
    let plain = fixture.mount(&id).unwrap();
    std::fs::write(through(&plain).join("new"), "n").unwrap();
    assert!(upper.join("new").exists());
    drop(plain);
    let again = fixture.mount_with(&id, THROWAWAY).unwrap();
    assert_eq!(std::fs::read_to_string(through(&again).join("new")).unwrap(), "n");
}

#[test]
fn it_goes_with_its_image_and_with_another_one() {
    let (fixture, one) = fixture();
    let two = image(&fixture, "two", &[&[file("g", "2")]]);
    fixture.make_ahead(&one).unwrap();
    fixture.make_ahead(&two).unwrap();
    assert_eq!(waiting(&fixture), 1);
    let id = ContainerId::random();
    fixture.prepare(&id, Some(&one)).unwrap();
    let mount = fixture.mount_with(&id, THROWAWAY).unwrap();
    assert!(through(&mount).join("etc/a").exists() && !through(&mount).join("g").exists());
    fixture.remove("two", RemoveOptions::default(), &|_| Vec::new()).unwrap();
    assert_eq!(waiting(&fixture), 0);
    assert!(fixture.make_ahead(&two).is_err(), "the image is gone");
    assert_eq!(waiting(&fixture), 0);
}

#[test]
fn what_a_killed_process_left_is_deleted() {
    let (mut fixture, image) = fixture();
    fixture.make_ahead(&image).unwrap();
    fixture.reopen();
    assert_eq!(waiting(&fixture), 0);
    let id = ContainerId::random();
    fixture.prepare(&id, Some(&image)).unwrap();
    assert!(through(&fixture.mount(&id).unwrap()).join("etc/a").exists());
}
