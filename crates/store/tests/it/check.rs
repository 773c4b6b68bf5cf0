//! Damage is found, named, and repaired from what is sound.

use crate::support::*;
use naru_store::tar::{Entry, Kind};
use naru_store::{Damage, Error, Expected, LayerBlob, LoadOptions, NewImage, RemoveOptions, Repaired, SaveOptions, Store, Wrong};
use naru_types::{ContainerId, Digest, ImageRef};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn entries() -> Vec<(Entry, Vec<u8>)> {
    let device = (Entry { device: (1, 3), ..Entry::new("null", Kind::Char, 0o666) }, Vec::new());
    let owned = (Entry { uid: 7, gid: 8, mtime: 1000, size: 3, ..Entry::new("d/owned", Kind::File, 0o4755) }, b"own".to_vec());
    vec![
        dir("d"),
        file("d/a", "content of a"),
        owned,
        link("d/link", Kind::Symlink, "a"),
        link("d/hard", Kind::Link, "d/a"),
        device,
        file("d/empty", ""),
        file("e", "e"),
    ]
}

/// A store with one image of one layer; the layer's directory and blob.
fn with_image(pack: fn(&[u8]) -> Vec<u8>) -> (Fixture, PathBuf, Vec<u8>) {
    let fixture = Fixture::new();
    let plain = tar(&entries());
    let blob = pack(&plain);
    let archive = docker_archive_of("one", std::slice::from_ref(&blob), &config(&[Digest::of(&plain)], ""));
    fixture.load(&mut archive.as_slice(), &LoadOptions::default(), &|_| {}).unwrap();
    let layer = fixture.config.root.join("layers").join(Digest::of(&plain).hex());
    (fixture, layer, blob)
}

fn nowhere(layer: &LayerBlob, _: &[ImageRef]) -> naru_store::Result<Box<dyn Read>> {
    Err(Error::NoSuchImage { query: layer.digest.to_string() })
}

fn repair_all(store: &Arc<Store>) -> Vec<Repaired> {
    store.check(true).unwrap().iter().map(|damage| store.repair(damage, &mut nowhere).unwrap()).collect()
}

fn set_time(path: &Path, time: std::time::SystemTime) {
    std::fs::File::open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn every_change_of_a_layer_is_found_and_undone() {
    type Harm = fn(&Path);
    let harms: [(&str, Wrong, Harm); 9] = [
        ("d/a", Wrong::Content, |layer| {
            let path = layer.join("d/a");
            let time = path.metadata().unwrap().modified().unwrap();
            std::fs::write(&path, "CONTENT of a").unwrap();
            set_time(&path, time);
        }),
        ("d/owned", Wrong::Metadata, |layer| {
            std::fs::set_permissions(layer.join("d/owned"), std::fs::Permissions::from_mode(0o755)).unwrap();
        }),
        ("d/owned", Wrong::Metadata, |layer| std::os::unix::fs::chown(layer.join("d/owned"), Some(0), None).unwrap()),
        ("d/empty", Wrong::Missing, |layer| std::fs::remove_file(layer.join("d/empty")).unwrap()),
        ("x", Wrong::Extra, |layer| std::fs::write(layer.join("x"), "").unwrap()),
        ("d/link", Wrong::Content, |layer| {
            std::fs::remove_file(layer.join("d/link")).unwrap();
            std::os::unix::fs::symlink("/etc/passwd", layer.join("d/link")).unwrap();
        }),
        ("null", Wrong::Kind, |layer| {
            std::fs::remove_file(layer.join("null")).unwrap();
            std::fs::write(layer.join("null"), "").unwrap();
        }),
        ("d", Wrong::Missing, |layer| std::fs::remove_dir_all(layer.join("d")).unwrap()),
        ("d", Wrong::Metadata, |layer| set_time(&layer.join("d"), std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(5))),
    ];
    for (path, wrong, harm) in harms {
        let (fixture, layer, _) = with_image(gzip);
        assert_eq!(fixture.check(true).unwrap(), [], "{path}");
        harm(&layer);
        let damage = fixture.check(true).unwrap();
        let [Damage::Layer { differences, repairable: true, .. }] = damage.as_slice() else { panic!("{path} {wrong:?}: {damage:?}") };
        assert!(differences.iter().any(|d| d.path == path.as_bytes() && d.wrong == wrong), "{path} {wrong:?}: {differences:?}");
        assert_eq!(repair_all(&fixture), [Repaired::Yes], "{path}");
        assert_eq!(fixture.check(true).unwrap(), [], "{path}");
        fixture.sweep().unwrap();
        assert_eq!(std::fs::read(layer.join("d/hard")).unwrap(), b"content of a");
    }
}

#[test]
fn a_layer_in_use_is_put_right_where_it_is() {
    let (fixture, layer, _) = with_image(gzip);
    let id = ContainerId::random();
    fixture.prepare(&id, Some(&fixture.find("one").unwrap().id)).unwrap();
    let mount = fixture.mount(&id).unwrap();
    std::fs::remove_file(layer.join("e")).unwrap();
    std::fs::write(layer.join("d/extra"), "").unwrap();
    assert_eq!(repair_all(&fixture), [Repaired::Yes]);
    assert_eq!(fixture.check(true).unwrap(), []);
    fixture.sweep().unwrap();
    drop(mount);
    let mount = fixture.mount(&id).unwrap();
    assert_eq!(std::fs::read(through(&mount).join("e")).unwrap(), b"e");
    assert!(!through(&mount).join("d/extra").exists());
}

#[test]
fn a_damaged_blob_is_fetched_again() {
    let (fixture, layer, blob) = with_image(gzip);
    let path = fixture.config.root.join("blobs/sha256").join(Digest::of(&blob).hex());
    for harm in ["flip", "cut", "remove"] {
        match harm {
            "flip" => {
                let mut bytes = blob.clone();
                bytes[blob.len() / 2] ^= 1;
                std::fs::write(&path, bytes).unwrap();
            }
            "cut" => std::fs::write(&path, &blob[..blob.len() - 1]).unwrap(),
            _ => std::fs::remove_file(&path).unwrap(),
        }
        let damage = fixture.check(true).unwrap();
        assert!(matches!(damage.as_slice(), [Damage::Blob { .. }]), "{harm}: {damage:?}");
        assert_eq!(fixture.check(false).unwrap().is_empty(), harm == "flip", "{harm}");
        assert!(matches!(fixture.repair(&damage[0], &mut nowhere).unwrap(), Repaired::No { .. }), "{harm}");
        let mut wrong = |_: &LayerBlob, _: &[ImageRef]| Ok(Box::new(&b"something else"[..]) as Box<dyn Read>);
        assert!(matches!(fixture.repair(&damage[0], &mut wrong).unwrap(), Repaired::No { .. }), "{harm}");
        let mut right = |layer: &LayerBlob, names: &[ImageRef]| {
            assert_eq!((&layer.digest, names), (&Digest::of(&blob), &[ImageRef::parse("one").unwrap()][..]));
            Ok(Box::new(std::io::Cursor::new(blob.clone())) as Box<dyn Read>)
        };
        assert_eq!(fixture.repair(&damage[0], &mut right).unwrap(), Repaired::Yes, "{harm}");
        assert_eq!(fixture.check(true).unwrap(), [], "{harm}");
    }
    assert!(layer.join("e").exists());
}

#[test]
fn a_plain_layer_is_its_own_blob() {
    let (fixture, layer, blob) = with_image(<[u8]>::to_vec);
    let time = layer.join("e").metadata().unwrap().modified().unwrap();
    // Metadata stands in the recipe.
    std::fs::set_permissions(layer.join("e"), std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(repair_all(&fixture), [Repaired::Yes]);
    // Content is there once.
    std::fs::write(layer.join("e"), "E").unwrap();
    set_time(&layer.join("e"), time);
    let damage = fixture.check(true).unwrap();
    assert!(matches!(damage.as_slice(), [Damage::Layer { repairable: false, .. }]), "{damage:?}");
    assert!(matches!(fixture.repair(&damage[0], &mut nowhere).unwrap(), Repaired::No { .. }));
    let mut bytes = Vec::new();
    assert!(fixture.save(&["one".into()], &SaveOptions::default(), &mut bytes).is_err(), "what is damaged is not given out");
    let mut right = |_: &LayerBlob, _: &[ImageRef]| Ok(Box::new(std::io::Cursor::new(blob.clone())) as Box<dyn Read>);
    assert_eq!(fixture.repair(&damage[0], &mut right).unwrap(), Repaired::Yes);
    std::fs::remove_dir_all(&layer).unwrap();
    let damage = fixture.check(false).unwrap();
    assert_eq!(fixture.repair(&damage[0], &mut right).unwrap(), Repaired::Yes);
    assert_eq!(fixture.check(true).unwrap(), []);
}

#[test]
fn metadata_orphans_and_records() {
    let (mut fixture, _, blob) = with_image(gzip);
    let image = fixture.find("one").unwrap();
    let blobs = fixture.config.root.join("blobs/sha256");
    std::fs::write(blobs.join(image.manifest.hex()), "{}").unwrap();
    std::fs::remove_file(blobs.join(image.id.hex())).unwrap();
    std::fs::write(blobs.join("0".repeat(64)), "").unwrap();
    std::fs::create_dir(fixture.config.root.join("layers/x")).unwrap();
    assert_eq!(fixture.check(false).unwrap().len(), 4);
    assert_eq!(repair_all(&fixture), vec![Repaired::Yes; 4]);
    assert_eq!(fixture.check(true).unwrap(), []);
    // With its config gone at the start the image is not listed, but what it needs stays.
    let config = std::fs::read(blobs.join(image.id.hex())).unwrap();
    std::fs::write(blobs.join(image.id.hex()), "{}").unwrap();
    fixture.reopen();
    assert!(fixture.list().is_empty() && fixture.has_blob(&Digest::of(&blob)));
    assert_eq!(fixture.check(true).unwrap(), [Damage::Record { image: image.id.clone(), reason: "its config cannot be read".into() }]);
    assert!(matches!(repair_all(&fixture).as_slice(), [Repaired::No { .. }]));
    let mut right = |layer: &LayerBlob, names: &[ImageRef]| {
        assert_eq!((&layer.digest, names), (&image.id, &[ImageRef::parse("one").unwrap()][..]));
        Ok(Box::new(std::io::Cursor::new(config.clone())) as Box<dyn Read>)
    };
    assert_eq!(fixture.repair(&fixture.check(true).unwrap()[0], &mut right).unwrap(), Repaired::Yes);
    assert_eq!(fixture.check(true).unwrap(), []);
    assert_eq!(fixture.find("one").unwrap().id, image.id);
    fixture.remove("one", RemoveOptions::default(), &|_| Vec::new()).unwrap();
    assert_eq!(fixture.files(), Fixture::new().files());
}

/// Archives in which the data of a file does not simply end up under its name.
#[test]
fn recipes_give_every_archive_back() {
    let sparse = include_bytes!("sparse.tar").to_vec();
    let twice = tar(&[
        file("a", "first"),
        link("h", Kind::Link, "a"),
        file("a", "second one"),
        dir("d"),
        dir("d/e"),
        file("d/e/f", "below"),
        file("d", "no directory"),
        file("a", ""),
        dir("d"),
        file("d/f", "again"),
    ]);
    let through_link = tar(&[
        dir("usr"),
        dir("usr/lib"),
        link("lib", Kind::Symlink, "usr/lib"),
        file("lib/x", "one"),
        file("usr/lib/x", "two"),
        file("lib/x", "three"),
        file("usr/lib/y", "why"),
        (Entry::new("lib", Kind::Dir, 0o755), Vec::new()),
        file("lib/x", "in a directory"),
    ]);
    let deletions = tar(&[dir("d"), file("d/.wh.x", "data of a deletion"), file(".wh..wh..opq", ""), file("y", &"y".repeat(200_000))]);
    let mut garbage = tar(&[file("a", "1")]);
    garbage.extend_from_slice(&[7; 100_000]);
    let empty = tar(&[]);
    let mut many = vec![dir("d")];
    for number in 0..3000 {
        many.push(file(&format!("d/f{}", number % 7), &format!("{number} ").repeat(number)));
    }
    many.extend([file("d", "a file"), dir("d"), file("d/f1", "last")]);
    let often = tar(&many);
    for (what, layer) in [
        ("sparse", sparse),
        ("twice", twice),
        ("through a link", through_link),
        ("deletions", deletions),
        ("garbage", garbage),
        ("empty", empty),
        ("often twice", often),
    ] {
        let mut fixture = Fixture::new();
        fixture.load(&mut docker_archive("one", std::slice::from_ref(&layer)).as_slice(), &LoadOptions::default(), &|_| {}).expect(what);
        fixture.reopen();
        let digest = Digest::of(&layer);
        let mut bytes = Vec::new();
        fixture.blob(&digest).unwrap().read_to_end(&mut bytes).expect(what);
        assert!(bytes == layer, "{what}: {} bytes of {}", bytes.len(), layer.len());
        for offset in [1, 600, layer.len() / 2, layer.len()] {
            let mut rest = Vec::new();
            fixture.blob_at(&digest, offset as u64).unwrap().read_to_end(&mut rest).expect(what);
            assert!(rest == layer[offset..], "{what} from {offset}");
        }
        assert_eq!(fixture.check(true).unwrap(), [], "{what}");
        let stored = std::fs::read_dir(fixture.config.root.join("blobs/sha256")).unwrap().count();
        assert!(stored >= 3, "{what}");
        fixture.remove("one", RemoveOptions::default(), &|_| Vec::new()).unwrap();
        assert_eq!(fixture.files(), Fixture::new().files(), "{what}");
    }
}

#[test]
fn what_goes_out_is_compressed_once_and_the_same_everywhere() {
    let (fixture, _, plain) = with_image(<[u8]>::to_vec);
    let id = fixture.find("one").unwrap().id;
    let first = fixture.outgoing(&id, &mut |_| ()).unwrap();
    assert_eq!(first.config.0, id);
    assert!(first.layers[0].digest != Digest::of(&plain) && first.layers[0].media_type.ends_with("+gzip"));
    let mut bytes = Vec::new();
    fixture.blob(&first.layers[0].digest).unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!((Digest::of(&bytes), bytes.len() as u64), (first.layers[0].digest.clone(), first.layers[0].size));
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut unpacked).unwrap();
    assert_eq!(unpacked, plain);
    let again = fixture.outgoing(&id, &mut |_| ()).unwrap();
    assert_eq!((&again.manifest, &again.layers), (&first.manifest, &first.layers));
    let (other, ..) = with_image(<[u8]>::to_vec);
    assert_eq!(other.outgoing(&id, &mut |_| ()).unwrap().manifest, first.manifest);
    drop((first, again));
    assert!(!fixture.has_blob(&Digest::of(&plain)), "the plain blob has done its duty");
    assert_eq!(fixture.check(true).unwrap(), []);
    // An image that came with a manifest goes out as it came.
    let third = Fixture::new();
    let layout = oci_layout("docker.io/library/one:latest", &[gzip(&plain)], &[Digest::of(&plain)]);
    third.load(&mut layout.as_slice(), &LoadOptions::default(), &|_| {}).unwrap();
    let image = third.find("one").unwrap();
    let out = third.outgoing(&image.id, &mut |_| ()).unwrap();
    assert_eq!(Digest::of(&out.manifest), image.manifest);
    // Taken away while it travels: the blobs stay until it has arrived.
    third.remove("one", RemoveOptions::default(), &|_| Vec::new()).unwrap();
    assert!(third.has_blob(&out.layers[0].digest));
    drop(out);
    assert_eq!(third.files(), Fixture::new().files());
}

#[test]
fn an_index_is_kept_whole() {
    let fixture = Fixture::new();
    let plain = tar(&entries());
    let ingest = fixture.ingest().unwrap();
    let layer = ingest.layer(&mut gzip(&plain).as_slice(), &Expected::default(), &|_| {}).unwrap();
    let manifests = format!(r#"[{{"digest":"{0}","size":1}},{{"digest":"{0}","size":2}}]"#, Digest::of(b"elsewhere"));
    let index = format!(r#"{{"schemaVersion":2, "manifests":{manifests} }}"#);
    let name = ImageRef::parse(&format!("one@{}", Digest::of(index.as_bytes()))).unwrap();
    let image = NewImage {
        config: config(&[Digest::of(&plain)], "").into_bytes(),
        index: Some((index.clone().into_bytes(), String::new())),
        layers: vec![layer],
        references: vec![name.clone()],
        ..NewImage::default()
    };
    let bad = NewImage { index: Some((b"{}".to_vec(), String::new())), ..image.clone() };
    assert!(ingest.commit(bad).is_err());
    let id = ingest.commit(image).unwrap();
    drop(ingest);
    let image = fixture.image(&id).unwrap();
    assert_eq!(image.digests, [name]);
    assert_eq!(fixture.read_metadata(&image.indexes[0].digest).unwrap(), index.as_bytes());
    assert_eq!(fixture.check(true).unwrap(), []);
}
