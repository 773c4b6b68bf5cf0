//! Loading, naming, saving and removing images.

use crate::support::*;
use naru_store::{CommitOptions, ImageConfig, ImageUser, LoadOptions, Loaded, PruneOptions, RemoveOptions, Removed, SaveOptions};
use naru_types::{ContainerId, Digest, ImageRef};

fn nobody(_: &Digest) -> Vec<ImageUser> {
    Vec::new()
}

fn base() -> Vec<u8> {
    tar(&[dir("bin"), file("bin/sh", "shell"), file("a", "1")])
}

#[test]
fn every_format_of_an_archive_is_the_same_image() {
    let layer = base();
    let diff_ids = [Digest::of(&layer)];
    let archive = docker_archive("one", std::slice::from_ref(&layer));
    for (what, bytes) in [
        ("plain", archive.clone()),
        ("gzip", gzip(&archive)),
        ("zstd", zstd(&archive)),
        ("gzip layer", docker_archive_of("one", &[gzip(&layer)], &config(&diff_ids, ""))),
        ("zstd layer", docker_archive_of("one", &[zstd(&layer)], &config(&diff_ids, ""))),
        ("oci", oci_layout("docker.io/library/one:latest", &[gzip(&layer)], &diff_ids)),
    ] {
        let fixture = Fixture::new();
        let loaded = fixture.load(&mut bytes.as_slice(), &LoadOptions::default(), &|_| {}).expect(what);
        assert_eq!(loaded, [Loaded::Reference(ImageRef::parse("one").unwrap())], "{what}");
        let image = fixture.find("one").unwrap();
        assert_eq!(image.layers, diff_ids, "{what}");
        assert_eq!(image.id, Digest::of(config(&diff_ids, "").as_bytes()), "{what}");
        assert_eq!(image.size, 6, "{what}");
        assert_eq!(std::fs::read(fixture.config.root.join("layers").join(diff_ids[0].hex()).join("bin/sh")).unwrap(), b"shell");
    }
}

#[test]
fn links_of_old_archives_and_unnamed_images() {
    let fixture = Fixture::new();
    let layer = base();
    let text = config(&[Digest::of(&layer), Digest::of(&layer)], "");
    let entries = [
        (
            naru_store::tar::Entry {
                size: layer.len() as u64,
                ..naru_store::tar::Entry::new("a/layer.tar", naru_store::tar::Kind::File, 0o644)
            },
            layer.clone(),
        ),
        link("b/layer.tar", naru_store::tar::Kind::Symlink, "../a/layer.tar"),
        file("config.json", &text),
        file("manifest.json", r#"[{"Config":"config.json","RepoTags":null,"Layers":["a/layer.tar","b/layer.tar"]}]"#),
    ];
    let loaded = fixture.load(&mut tar(&entries).as_slice(), &LoadOptions::default(), &|_| {}).unwrap();
    assert_eq!(loaded, [Loaded::Id(Digest::of(text.as_bytes()))]);
    assert_eq!(fixture.list().len(), 1);
}

#[test]
fn names_ids_and_prefixes() {
    let fixture = Fixture::new();
    let id = image(&fixture, "one", &[&[file("a", "1")]]);
    fixture.tag(&id, &ImageRef::parse("reg.example:5000/x/y:z").unwrap()).unwrap();
    let hex = id.hex();
    for query in [
        "one",
        "one:latest",
        "docker.io/library/one",
        "reg.example:5000/x/y:z",
        &hex,
        &hex[..1],
        &hex[..4],
        &format!("sha256:{}", &hex[..1]),
        &id.to_string(),
        &format!("sha256:{}", &hex[..12]),
    ] {
        assert_eq!(fixture.find(query).expect(query).id, id, "{query}");
    }
    for query in ["two", "one:other", &format!("{hex}0"), &"0".repeat(64), "reg.example:5000/x/y"] {
        assert_eq!(fixture.find(query).unwrap_err().kind(), naru_types::ErrorKind::NotFound, "{query}");
    }
    for query in ["", "../x", "sha256:", "Two", "one:two:three"] {
        assert_eq!(fixture.find(query).unwrap_err().kind(), naru_types::ErrorKind::InvalidArgument, "{query}");
    }
    assert_eq!(fixture.find("nope").unwrap_err().to_string(), "No such image: nope");
}

#[test]
fn removal_follows_dockers_rules() {
    let fixture = Fixture::new();
    let id = image(&fixture, "one", &[&[file("a", "1")]]);
    fixture.tag(&id, &ImageRef::parse("two").unwrap()).unwrap();
    let plain = RemoveOptions::default();
    assert!(fixture.remove(&id.hex(), plain, &nobody).unwrap_err().to_string().contains("image is referenced in multiple repositories"));
    assert_eq!(fixture.remove("two", plain, &nobody).unwrap(), [Removed::Untagged(ImageRef::parse("two").unwrap())]);
    let container = ContainerId::random();
    let stopped = |_: &Digest| vec![ImageUser { id: container.clone(), running: false }];
    let running = |_: &Digest| vec![ImageUser { id: container.clone(), running: true }];
    let force = RemoveOptions { force: true, ..plain };
    let message = fixture.remove("one", plain, &stopped).unwrap_err().to_string();
    assert!(message.contains("(must force)") && message.contains(container.short()), "{message}");
    let message = fixture.remove(&id.hex(), plain, &stopped).unwrap_err().to_string();
    assert!(message.contains("(must be forced) - "), "{message}");
    assert!(fixture.remove(&id.hex(), force, &running).unwrap_err().to_string().contains("cannot be forced"));
    // Its last name goes by force while a container runs; the image stays and is listed, without a name.
    let named = ImageRef::parse("one").unwrap();
    assert_eq!(fixture.remove("one", force, &running).unwrap(), [Removed::Untagged(named.clone())]);
    assert!(fixture.list().iter().any(|image| image.id == id && image.tags.is_empty()));
    fixture.tag(&id, &named).unwrap();
    let removed = fixture.remove(&id.short(), plain, &nobody).unwrap();
    let layer = Digest::of(&tar(&[file("a", "1")]));
    assert_eq!(removed, [Removed::Untagged(named), Removed::Deleted(id), Removed::Layer(layer)]);
    assert_eq!(fixture.files(), Fixture::new().files());
}

#[test]
fn an_image_that_others_were_made_of_stays_as_a_step_to_them() {
    let mut fixture = Fixture::new();
    let base = image(&fixture, "base", &[&[file("a", "1")]]);
    let child = |parent: &Digest, name: &str| {
        let container = ContainerId::random();
        fixture.prepare(&container, Some(parent)).unwrap();
        std::fs::write(through(&fixture.mount(&container).unwrap()).join(name), name).unwrap();
        let options = CommitOptions { reference: Some(ImageRef::parse(name).unwrap()), ..CommitOptions::default() };
        let id = fixture.commit(&container, Some(parent), ImageConfig::default(), options).unwrap();
        fixture.remove_snapshot(&container).unwrap();
        id
    };
    let middle = child(&base, "middle");
    let top = child(&middle, "top");
    // An archive tells of it where both are in it.
    let parents = |names: &[&str]| {
        let (names, mut bytes) = (names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(), Vec::new());
        fixture.save(&names, &SaveOptions::default(), &mut bytes).unwrap();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        text.matches(&format!(r#""Parent":"{middle}""#)).count() + 10 * text.matches(r#""Parent""#).count()
    };
    assert_eq!((parents(&["top", "middle"]), parents(&["top"]), parents(&["top", "base"])), (11, 0, 0));
    let options = RemoveOptions { force: true, prune: true };
    for id in [&base, &middle] {
        let message = fixture.remove(&id.hex(), options, &nobody).unwrap_err().to_string();
        assert!(message.contains("(cannot be forced) - image has dependent child images"), "{message}");
    }
    let untagged = |name: &str| Removed::Untagged(ImageRef::parse(name).unwrap());
    assert_eq!(fixture.remove("middle", options, &nobody).unwrap(), [untagged("middle")]);
    assert_eq!(fixture.prune(PruneOptions { dangling_only: true }, &|_| true, &nobody).unwrap().0, []);
    fixture.reopen();
    assert_eq!(fixture.list().len(), 3);
    assert_eq!(fixture.find(&middle.hex()).unwrap().tags, []);
    // The step goes with the last image that needs it; the base has a name of its own.
    let layers = fixture.find("top").unwrap().layers;
    let chain = |below: &Digest, layer: &Digest| Digest::of(format!("{below} {layer}").as_bytes());
    let second = chain(&layers[0], &layers[1]);
    let third = chain(&second, &layers[2]);
    let removed = fixture.remove("top", options, &nobody).unwrap();
    assert_eq!(removed, [untagged("top"), Removed::Deleted(top), Removed::Layer(third), Removed::Deleted(middle), Removed::Layer(second)]);
    assert_eq!(fixture.list().len(), 1);
    fixture.remove("base", options, &nobody).unwrap();
    assert_eq!(fixture.files(), Fixture::new().files());
}

#[test]
fn shared_layers_stay_until_the_last_image_goes() {
    let fixture = Fixture::new();
    let shared = [dir("bin"), file("bin/sh", "shell")];
    let one = image(&fixture, "one", &[&shared, &[file("a", "1")]]);
    image(&fixture, "two", &[&shared, &[file("b", "22")]]);
    assert_eq!(fixture.shared_size(&one), 5);
    assert_eq!(fixture.disk_usage().unwrap().layers, 8);
    fixture.remove("one", RemoveOptions::default(), &nobody).unwrap();
    assert_eq!(fixture.disk_usage().unwrap().layers, 7);
    let id = ContainerId::random();
    fixture.prepare(&id, Some(&fixture.find("two").unwrap().id)).unwrap();
    let mount = fixture.mount(&id).unwrap();
    assert_eq!(std::fs::read(through(&mount).join("bin/sh")).unwrap(), b"shell");
}

#[test]
fn a_forced_removal_leaves_a_containers_files() {
    let mut fixture = Fixture::new();
    let id = image(&fixture, "one", &[&[file("a", "1")]]);
    let container = ContainerId::random();
    fixture.prepare(&container, Some(&id)).unwrap();
    let removed = fixture.remove("one", RemoveOptions { force: true, ..RemoveOptions::default() }, &|_| {
        vec![ImageUser { id: container.clone(), running: false }]
    });
    assert_eq!(removed.unwrap(), [Removed::Untagged(ImageRef::parse("one").unwrap()), Removed::Deleted(id)], "the layer stays");
    assert!(fixture.list().is_empty() && fixture.find("one").is_err());
    fixture.reopen();
    assert!(fixture.list().is_empty());
    let mount = fixture.mount(&container).unwrap();
    assert_eq!(std::fs::read(through(&mount).join("a")).unwrap(), b"1");
    drop(mount);
    fixture.remove_snapshot(&container).unwrap();
    assert_eq!(fixture.files(), Fixture::new().files());
}

#[test]
fn a_new_image_takes_the_name() {
    let fixture = Fixture::new();
    let old = image(&fixture, "one", &[&[file("a", "1")]]);
    let new = image(&fixture, "one", &[&[file("a", "2")]]);
    assert_ne!(old, new);
    let dangling = fixture.find(&old.hex()).unwrap();
    assert!(dangling.tags.is_empty());
    let (removed, freed) = fixture.prune(PruneOptions { dangling_only: true }, &|_| true, &nobody).unwrap();
    let layer = Digest::of(&tar(&[file("a", "1")]));
    assert_eq!((removed, freed), (vec![Removed::Deleted(old), Removed::Layer(layer)], 1));
    assert_eq!(fixture.list().len(), 1);
}

#[test]
fn saved_bytes_are_the_same_and_load_again() {
    let layer = base();
    let other = tar(&[file("b", "2")]);
    let archive = docker_archive_of("one", &[gzip(&layer), other.clone()], &config(&[Digest::of(&layer), Digest::of(&other)], ""));
    let mut fixture = Fixture::new();
    fixture.load(&mut archive.as_slice(), &LoadOptions::default(), &|_| {}).unwrap();
    let save = |fixture: &Fixture, names: &[&str]| {
        let mut bytes = Vec::new();
        fixture.save(&names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>(), &SaveOptions::default(), &mut bytes).unwrap();
        bytes
    };
    let saved = save(&fixture, &["one"]);
    fixture.reopen();
    assert_eq!(save(&fixture, &["one", "one:latest"]), saved);
    let second = Fixture::new();
    assert_eq!(
        second.load(&mut saved.as_slice(), &LoadOptions::default(), &|_| {}).unwrap(),
        [Loaded::Reference(ImageRef::parse("one").unwrap())]
    );
    assert_eq!(save(&second, &["one"]), saved);
    let (a, b) = (fixture.find("one").unwrap(), second.find("one").unwrap());
    assert_eq!((a.id, a.manifest, a.blobs, a.layers), (b.id.clone(), b.manifest, b.blobs, b.layers));
    // What Docker writes beside the names of the files: of plain layers what they are, of names null when there is none.
    let (id, size, text) = (Digest::of(&other), other.len(), String::from_utf8_lossy(&saved).into_owned());
    let sources =
        format!(r#""LayerSources":{{"{id}":{{"mediaType":"application/vnd.oci.image.layer.v1.tar","size":{size},"digest":"{id}"}}}}}}]"#);
    assert!(text.contains(&sources) && text.contains(r#""RepoTags":["one:latest"]"#), "{sources}");
    assert!(String::from_utf8_lossy(&save(&fixture, &[&b.id.hex()])).contains(r#""RepoTags":null,"#));
    // By id no name is saved.
    let third = Fixture::new();
    assert_eq!(third.load(&mut save(&fixture, &[&b.id.hex()]).as_slice(), &LoadOptions::default(), &|_| {}).unwrap(), [Loaded::Id(b.id)]);
}

#[test]
fn history_gives_sizes_to_the_steps_that_made_layers() {
    let fixture = Fixture::new();
    let layers = [tar(&[file("a", "1")]), tar(&[file("b", "22")])];
    let ids: Vec<Digest> = layers.iter().map(|l| Digest::of(l)).collect();
    let history = r#","history":[{"created_by":"ADD a"},{"created_by":"ENV x","empty_layer":true},{"created_by":"ADD b"}]"#;
    fixture.load(&mut docker_archive_of("one", &layers, &config(&ids, history)).as_slice(), &LoadOptions::default(), &|_| {}).unwrap();
    let image = fixture.find("one").unwrap();
    let history = fixture.history(&image.id).unwrap();
    let lines: Vec<(&str, u64)> = history.iter().map(|line| (line.entry.created_by.as_str(), line.size)).collect();
    assert_eq!(lines, [("ADD b", 2), ("ENV x", 0), ("ADD a", 1)]);
    assert_eq!((history[0].id.as_ref(), history[1].id.as_ref()), (Some(&image.id), None));
}

#[test]
fn what_a_crash_leaves_is_removed_at_the_next_start() {
    let mut fixture = Fixture::new();
    let id = image(&fixture, "one", &[&[file("a", "1")]]);
    let before = fixture.files();
    let hex = Digest::of(b"x").hex();
    for leftover in ["staging/dead/layers/x", &format!("layers/{hex}"), "layers/odd", "trash/1-1/x"] {
        std::fs::create_dir_all(fixture.config.root.join(leftover)).unwrap();
    }
    for leftover in [format!("blobs/sha256/{hex}"), format!("blobs/sha256/{hex}.zst"), format!("init/{hex}")] {
        std::fs::write(fixture.config.root.join(leftover), "x").unwrap();
    }
    assert_ne!(fixture.files(), before);
    fixture.reopen();
    assert_eq!(fixture.files(), before);
    assert_eq!(fixture.find("one").unwrap().id, id);
}

#[test]
fn one_store_at_a_time() {
    let fixture = Fixture::new();
    let error = naru_store::Store::open(&fixture.config).unwrap_err();
    assert!(error.to_string().contains("another engine"), "{error}");
}

#[test]
fn the_disk_usage_is_what_du_says() {
    let fixture = Fixture::new();
    let big = "x".repeat(3_000_000);
    let shared: &[_] = &[dir("d"), file("d/big", &big), link("d/hard", naru_store::tar::Kind::Link, "d/big")];
    let small: Vec<_> = (0..300).map(|number| file(&format!("f{number}"), "some text")).collect();
    let one = image(&fixture, "one", &[shared, &small]);
    image(&fixture, "two", &[shared, &[file("b", &big)]]);
    let container = ContainerId::random();
    fixture.prepare(&container, Some(&one)).unwrap();
    std::fs::write(fixture.config.root.join("containers").join(container.as_str()).join("upper/written"), &big).unwrap();
    std::fs::write(fixture.config.root.join("partial").join("a".repeat(64)), &big).unwrap();
    let compare = || {
        fixture.sweep().unwrap();
        let du = std::process::Command::new("du").args(["-s", "-B1"]).arg(&fixture.config.root).output().unwrap();
        let text = String::from_utf8(du.stdout).unwrap();
        let du: u64 = text.split_whitespace().next().unwrap().parse().unwrap();
        let usage = fixture.disk_usage().unwrap();
        let total = usage.on_disk.total();
        assert!(total.abs_diff(du) <= du / 100, "{usage:?}, du says {du}");
        usage
    };
    let usage = compare();
    assert_eq!((usage.images, usage.active), (2, 1));
    assert!(usage.on_disk.containers >= 3_000_000 && usage.on_disk.unfinished >= 3_000_000);
    let reclaimable = usage.on_disk.reclaimable;
    assert!((3_000_000..4_000_000).contains(&reclaimable), "the layer that only the unused image has: {usage:?}");
    fixture.remove("two", RemoveOptions::default(), &nobody).unwrap();
    let after = compare();
    let freed = usage.on_disk.layers + usage.on_disk.blobs - after.on_disk.layers - after.on_disk.blobs;
    assert_eq!(freed, reclaimable);
}

#[test]
fn artifacts_beside_an_image_are_left_alone() {
    let layer = gzip(&base());
    let image = oci_layout("docker.io/library/one:latest", std::slice::from_ref(&layer), &[Digest::of(&base())]);
    let descriptor = |bytes: &[u8]| format!(r#""digest":"{}","size":{}"#, Digest::of(bytes), bytes.len());
    let artifact = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.empty.v1+json",{}}},"layers":[{{"mediaType":"text/plain",{}}}]}}"#,
        descriptor(b"{}"),
        descriptor(b"signed")
    );
    // The archive of the image, with one more descriptor and its blobs.
    let mut reader = naru_store::tar::Reader::new(image.as_slice());
    let (mut entries, mut alone) = (Vec::new(), Vec::new());
    while let Some(entry) = reader.next_entry().unwrap() {
        let mut data = vec![0; usize::try_from(entry.size).unwrap()];
        let mut at = 0;
        while at < data.len() {
            at += reader.read_data(&mut data[at..]).unwrap();
        }
        if entry.path == b"index.json" {
            let text = String::from_utf8(data).unwrap();
            let added = format!(r#""manifests":[{{{}}},"#, descriptor(artifact.as_bytes()));
            entries.push(file("index.json", &text.replace(r#""manifests":["#, &added)));
            alone.push(file("index.json", &format!(r#"{{"schemaVersion":2,"manifests":[{{{}}}]}}"#, descriptor(artifact.as_bytes()))));
        } else {
            entries.push((entry, data));
        }
    }
    for blob in [&artifact, "{}", "signed"] {
        let entry = file(&format!("blobs/sha256/{}", Digest::of(blob.as_bytes()).hex()), blob);
        entries.push(entry.clone());
        alone.push(entry);
    }
    let fixture = Fixture::new();
    let loaded = fixture.load(&mut tar(&entries).as_slice(), &LoadOptions::default(), &|_| {}).unwrap();
    assert_eq!(loaded, [Loaded::Reference(ImageRef::parse("one").unwrap())]);
    let error = fixture.load(&mut tar(&alone).as_slice(), &LoadOptions::default(), &|_| {}).unwrap_err();
    assert!(error.to_string().contains("holds no image"), "{error}");
}

#[test]
fn files_that_no_image_wants_do_no_harm() {
    let fixture = Fixture::new();
    let layer = base();
    let unwanted = tar(&[file("never", "seen")]);
    let big = "no layer and no metadata ".repeat(300_000);
    let text = config(&[Digest::of(&layer)], "");
    let blob = |name: &str, bytes: &[u8]| {
        let entry = naru_store::tar::Entry::new(name, naru_store::tar::Kind::File, 0o644);
        (naru_store::tar::Entry { size: bytes.len() as u64, ..entry }, bytes.to_vec())
    };
    let entries = [
        file("big", &big),
        file("big", &big),
        file("small", "1"),
        file("small", "2"),
        blob("unwanted.tar", &unwanted),
        blob("broken.tar", &unwanted[..700]),
        blob("packed.tar.gz", &gzip(b"something else")),
        blob("l", &layer),
        file("config.json", &text),
        file("manifest.json", r#"[{"Config":"config.json","RepoTags":["one"],"Layers":["l"]}]"#),
    ];
    fixture.load(&mut tar(&entries).as_slice(), &LoadOptions::default(), &|_| {}).unwrap();
    assert_eq!(fixture.check(true).unwrap(), []);
    assert_eq!(std::fs::read_dir(fixture.config.root.join("layers")).unwrap().count(), 1);
    fixture.remove("one", RemoveOptions::default(), &nobody).unwrap();
    assert_eq!(fixture.files(), Fixture::new().files());
}
