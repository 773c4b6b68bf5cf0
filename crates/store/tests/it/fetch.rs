//! Layers fetched by their digests: resumed, shared, refused when they are wrong; images of several platforms.

use crate::support::*;
use naru_store::{Expected, Ingest, LayerBlob, LoadOptions, Loaded, NewImage, PruneOptions, RemoveOptions, SaveOptions, VariantKind};
use naru_types::{Digest, ErrorKind, ImageRef, Platform};
use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// A layer that does not compress, so that its blob has some length.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut data = Vec::with_capacity(length);
    while data.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        data.extend_from_slice(&state.to_le_bytes());
    }
    data.truncate(length);
    data
}

fn layer(seed: u64, length: usize) -> (Vec<u8>, Expected) {
    let data = noise(seed, length);
    let entry = naru_store::tar::Entry {
        size: length as u64,
        ..naru_store::tar::Entry::new(format!("f{seed}"), naru_store::tar::Kind::File, 0o644)
    };
    let plain = tar(&[(entry, data)]);
    let blob = gzip(&plain);
    let expected =
        Expected { digest: Some(Digest::of(&blob)), size: Some(blob.len() as u64), diff_id: Some(Digest::of(&plain)), media_type: None };
    (blob, expected)
}

/// Gives bytes up to `until`, then fails.
struct Cut {
    bytes: Vec<u8>,
    at: usize,
    until: usize,
}

impl Read for Cut {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = buffer.len().min(self.until - self.at).min(10_000);
        if got == 0 && self.until < self.bytes.len() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        buffer[..got].copy_from_slice(&self.bytes[self.at..self.at + got]);
        self.at += got;
        Ok(got)
    }
}

type Opened = io::Result<Box<dyn Read>>;

fn whole(blob: &[u8]) -> impl FnMut(u64) -> Opened {
    let blob = blob.to_vec();
    move |offset| Ok(Box::new(Cut { until: blob.len(), at: usize::try_from(offset).unwrap(), bytes: blob.clone() }))
}

fn image_of(ingest: &Ingest, layers: Vec<LayerBlob>, name: &str) -> Digest {
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| layer.diff_id.clone()).collect();
    let references = vec![ImageRef::parse(name).unwrap()];
    ingest.commit(NewImage { config: config(&diff_ids, "").into_bytes(), layers, references, ..NewImage::default() }).unwrap()
}

#[test]
fn an_interrupted_fetch_goes_on_where_it_stopped() {
    let mut fixture = Fixture::new();
    let (blob, expected) = layer(1, 1_000_000);
    let half = blob.len() / 2;
    // The source fails at once whenever it is asked again.
    let mut offsets = Vec::new();
    let ingest = fixture.ingest().unwrap();
    let mut failing = |offset: u64| -> Opened {
        offsets.push(offset);
        Ok(Box::new(Cut { bytes: blob.clone(), at: usize::try_from(offset).unwrap(), until: half }))
    };
    let error = ingest.fetch_layer(&expected, &mut failing, &|_| {}).unwrap_err();
    assert!(error.to_string().contains("stream"), "{error}");
    assert_eq!(offsets, [0, half as u64, half as u64], "it tries again from where it is");
    drop(ingest);
    fixture.reopen();
    let partial = fixture.config.root.join("partial").join(expected.digest.as_ref().unwrap().hex());
    assert_eq!(partial.metadata().unwrap().len(), half as u64);
    assert_eq!(fixture.ingest().unwrap().partial(expected.digest.as_ref().unwrap()), half as u64);
    // A stream that breaks now and then is one fetch.
    let ingest = fixture.ingest().unwrap();
    let mut offsets = Vec::new();
    let mut breaking = |offset: u64| -> Opened {
        offsets.push(offset);
        let at = usize::try_from(offset).unwrap();
        Ok(Box::new(Cut { bytes: blob.clone(), at, until: blob.len().min(at + blob.len() / 8) }))
    };
    let layer = ingest.fetch_layer(&expected, &mut breaking, &|_| {}).unwrap();
    assert_eq!(offsets[0], half as u64);
    assert!(offsets.windows(2).all(|pair| pair[1] == pair[0] + (blob.len() / 8) as u64), "{offsets:?}");
    // Until the image is recorded the blob survives everything.
    drop(ingest);
    fixture.reopen();
    assert_eq!(partial.metadata().unwrap().len(), blob.len() as u64);
    assert_eq!(std::fs::read_dir(fixture.config.root.join("layers")).unwrap().count(), 0);
    let ingest = fixture.ingest().unwrap();
    let again = ingest.fetch_layer(&expected, &mut |_| panic!("all of it is here"), &|_| {}).unwrap();
    assert_eq!(again, layer);
    image_of(&ingest, vec![again], "one");
    drop(ingest);
    assert!(!partial.exists());
    assert_eq!(fixture.check(true).unwrap(), []);
    let ingest = fixture.ingest().unwrap();
    assert!(ingest.known_layer(&layer.digest, &layer.diff_id).is_some());
    assert!(ingest.known_layer(&layer.diff_id, &layer.diff_id).is_none());
}

#[test]
fn a_fetch_that_never_began_leaves_nothing() {
    let fixture = Fixture::new();
    let (_, expected) = layer(1, 1000);
    let ingest = fixture.ingest().unwrap();
    ingest.fetch_layer(&expected, &mut |_| Err(std::io::Error::other("no route")), &|_| {}).unwrap_err();
    assert_eq!(ingest.partial(expected.digest.as_ref().unwrap()), 0);
    assert_eq!(std::fs::read_dir(fixture.config.root.join("partial")).unwrap().count(), 0);
}

#[test]
fn what_is_wrong_is_not_kept() {
    let fixture = Fixture::new();
    let (blob, expected) = layer(2, 300_000);
    let partial = fixture.config.root.join("partial").join(expected.digest.as_ref().unwrap().hex());
    let ingest = fixture.ingest().unwrap();
    let mut flipped = blob.clone();
    flipped[blob.len() / 2] ^= 1;
    let (other, _) = layer(3, 300_000);
    for (what, bytes) in
        [("flipped", &flipped), ("other", &other[..blob.len().min(other.len())].to_vec()), ("no layer", &vec![7; blob.len()])]
    {
        let error = ingest.fetch_layer(&expected, &mut whole(bytes), &|_| {}).expect_err(what);
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{what}: {error}");
        assert!(!partial.exists(), "{what}");
    }
    let wrong_diff_id = Expected { diff_id: Some(Digest::of(b"x")), ..expected.clone() };
    assert!(ingest.fetch_layer(&wrong_diff_id, &mut whole(&blob), &|_| {}).is_err());
    for required in [Expected { digest: None, ..expected.clone() }, Expected { size: None, ..expected.clone() }] {
        assert!(ingest.fetch_layer(&required, &mut whole(&blob), &|_| {}).is_err());
    }
    // A partial blob that is wrong (a power cut, a longer file) costs one more attempt, not the image.
    for bad in [vec![0; 1000], vec![1; blob.len() + 1], flipped] {
        std::fs::write(&partial, &bad).unwrap();
        let ingest = fixture.ingest().unwrap();
        ingest.fetch_layer(&expected, &mut whole(&blob), &|_| {}).unwrap();
        drop(ingest);
        assert_eq!(std::fs::read(&partial).unwrap(), blob);
    }
}

#[test]
fn one_blob_is_fetched_once_for_all() {
    let fixture = Fixture::new();
    let (blob, expected) = layer(4, 500_000);
    let opened = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for number in 0..6 {
            let (fixture, blob, expected, opened) = (&fixture, &blob, &expected, &opened);
            scope.spawn(move || {
                let ingest = fixture.ingest().unwrap();
                let mut open = |offset: u64| -> Opened {
                    opened.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(50));
                    whole(blob)(offset)
                };
                let layer = ingest.fetch_layer(expected, &mut open, &|_| {}).unwrap();
                image_of(&ingest, vec![layer], &format!("image{number}"));
            });
        }
    });
    assert_eq!(opened.load(Ordering::Relaxed), 1);
    assert_eq!(fixture.list()[0].tags.len(), 6);
    assert_eq!(fixture.check(true).unwrap(), []);
}

#[test]
fn several_layers_at_once_beside_removals() {
    let fixture = Fixture::new();
    let layers: Vec<_> = (10..14).map(|seed| layer(seed, 200_000)).collect();
    let working = AtomicUsize::new(3);
    std::thread::scope(|scope| {
        for worker in 0..3 {
            let (fixture, layers, done) = (&fixture, &layers, AtEnd(|| working.fetch_sub(1, Ordering::Relaxed)));
            scope.spawn(move || {
                let _done = done;
                for round in 0..12 {
                    let ingest = fixture.ingest().unwrap();
                    let ingest = &ingest;
                    let fetched: Vec<LayerBlob> = std::thread::scope(|scope| {
                        let fetch = |(blob, expected): &'_ (Vec<u8>, Expected)| {
                            let (blob, expected) = (blob.clone(), expected.clone());
                            scope.spawn(move || ingest.fetch_layer(&expected, &mut whole(&blob), &|_| {}).unwrap())
                        };
                        // Each worker has an image of its own, all share layers.
                        let threads: Vec<_> = layers.iter().skip(worker).map(fetch).collect();
                        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
                    });
                    let name = format!("image{worker}");
                    image_of(ingest, fetched, &name);
                    if round % 2 == 0 {
                        fixture.remove(&name, RemoveOptions::default(), &|_| Vec::new()).unwrap();
                    }
                }
            });
        }
        scope.spawn(|| {
            while working.load(Ordering::Relaxed) > 0 {
                fixture.prune(PruneOptions { dangling_only: true }, &|_| true, &|_| Vec::new()).unwrap();
                for image in fixture.list() {
                    fixture.blob(&image.blobs[0].digest).ok();
                }
                assert_eq!(fixture.check(false).unwrap(), []);
            }
        });
    });
    assert_eq!(fixture.list().len(), 3);
    assert_eq!(fixture.check(true).unwrap(), []);
    for worker in 0..3 {
        fixture.remove(&format!("image{worker}"), RemoveOptions::default(), &|_| Vec::new()).unwrap();
    }
    fixture.prune(PruneOptions::default(), &|_| true, &|_| Vec::new()).unwrap();
    assert_eq!(fixture.files(), Fixture::new().files());
}

#[test]
fn old_partial_blobs_go_by_themselves_and_all_by_a_prune() {
    let mut fixture = Fixture::new();
    let directory = fixture.config.root.join("partial");
    let (old, young) = (directory.join("a".repeat(64)), directory.join("b".repeat(64)));
    for path in [&old, &young] {
        std::fs::write(path, "part").unwrap();
    }
    let day = Duration::from_secs(24 * 60 * 60 + 1);
    std::fs::File::open(&old).unwrap().set_modified(std::time::SystemTime::now() - day).unwrap();
    fixture.reopen();
    for _ in 0..2000 {
        if !old.exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(!old.exists() && young.exists());
    let (blob, expected) = layer(5, 100_000);
    let held = fixture.ingest().unwrap();
    held.fetch_layer(&expected, &mut whole(&blob), &|_| {}).unwrap();
    let (_, freed) = fixture.prune(PruneOptions::default(), &|_| true, &|_| Vec::new()).unwrap();
    assert_eq!((freed, young.exists()), (4, false));
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1, "what is in use stays");
}

/// An OCI layout of one name for two platforms: `(architecture, layer)`.
fn two_platforms() -> (Vec<u8>, String) {
    let mut blobs: Vec<Vec<u8>> = Vec::new();
    let mut listed = Vec::new();
    for architecture in ["arm64", "amd64"] {
        let plain = tar(&[file("arch", architecture)]);
        let layer = gzip(&plain);
        let config = config(&[Digest::of(&plain)], "").replace("amd64", architecture).into_bytes();
        let descriptor = |bytes: &[u8]| format!(r#"{{"digest":"{}","size":{}}}"#, Digest::of(bytes), bytes.len());
        let manifest = format!(r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#, descriptor(&config), descriptor(&layer)).into_bytes();
        listed.push(descriptor(&manifest).replace('}', &format!(r#","platform":{{"os":"linux","architecture":"{architecture}"}}}}"#)));
        blobs.extend([layer, config, manifest]);
    }
    // A third one that was not copied, and an attestation.
    listed.push(format!(r#"{{"digest":"{}","size":9,"platform":{{"os":"linux","architecture":"s390x"}}}}"#, Digest::of(b"absent")));
    let index =
        format!(r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{}]}}"#, listed.join(","));
    blobs.push(index.clone().into_bytes());
    let top = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"{}","size":{},"annotations":{{"io.containerd.image.name":"docker.io/library/multi:latest"}}}}]}}"#,
        Digest::of(index.as_bytes()),
        index.len()
    );
    let mut entries = vec![file("index.json", &top), file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#)];
    for blob in blobs {
        let path = format!("blobs/sha256/{}", Digest::of(&blob).hex());
        entries.push((
            naru_store::tar::Entry { size: blob.len() as u64, ..naru_store::tar::Entry::new(path, naru_store::tar::Kind::File, 0o644) },
            blob,
        ));
    }
    (tar(&entries), index)
}

#[test]
fn platforms_are_chosen_when_loading_and_saving() {
    let (archive, index) = two_platforms();
    let (amd, arm): (Platform, Platform) = ("linux/amd64".parse().unwrap(), "linux/arm64".parse().unwrap());
    let load = |fixture: &Fixture, bytes: &[u8], platforms: &[&Platform]| {
        let options = LoadOptions { platforms: platforms.iter().map(|p| (*p).clone()).collect() };
        fixture.load(&mut &bytes[..], &options, &|_| {})
    };
    let architectures = |fixture: &Fixture| {
        let mut found: Vec<String> = fixture.list().iter().map(|image| image.config.architecture.clone()).collect();
        found.sort();
        found
    };
    let host = Platform::host().architecture;
    for (platforms, loaded, named) in [
        (vec![], vec![host.as_str()], host.as_str()),
        (vec![&arm], vec!["arm64"], "arm64"),
        (vec![&amd], vec!["amd64"], "amd64"),
        (vec![&arm, &amd], vec!["amd64", "arm64"], host.as_str()),
    ] {
        let fixture = Fixture::new();
        load(&fixture, &archive, &platforms).unwrap();
        assert_eq!(architectures(&fixture), loaded);
        assert_eq!(fixture.find("multi").unwrap().config.architecture, named);
        assert_eq!(fixture.check(true).unwrap(), []);
    }
    let fixture = Fixture::new();
    let error = load(&fixture, &archive, &[&"linux/s390x".parse().unwrap()]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert_eq!(fixture.files(), Fixture::new().files());

    load(&fixture, &archive, &[&amd, &arm]).unwrap();
    let image = fixture.find("multi").unwrap();
    assert_eq!(fixture.read_metadata(&image.indexes[0].digest).unwrap(), index.as_bytes());
    assert_eq!(fixture.siblings(&image).unwrap()[0].1.len(), 2);
    assert_eq!(fixture.target(&image).unwrap().digest, Digest::of(index.as_bytes()));
    let variants = fixture.variants_of(&image).unwrap();
    let here: Vec<(bool, String)> = variants
        .iter()
        .map(|variant| match &variant.kind {
            VariantKind::Image { platform: Some(platform) } => (variant.image.is_some(), platform.architecture.clone()),
            kind => panic!("{kind:?}"),
        })
        .collect();
    assert_eq!(here, [(true, "arm64".into()), (true, "amd64".into()), (false, "s390x".into())]);
    assert!(variants[0].content_size > 100 && variants[0].unpacked_size == 5 && variants[2].content_size == 0);
    let save = |fixture: &Fixture, platforms: &[&Platform]| {
        let mut bytes = Vec::new();
        let options = SaveOptions { platforms: platforms.iter().map(|p| (*p).clone()).collect() };
        fixture.save(&["multi".into()], &options, &mut bytes).map(|()| bytes)
    };
    for (platforms, expected) in [(vec![], vec![host.as_str()]), (vec![&arm], vec!["arm64"]), (vec![&amd, &arm], vec!["amd64", "arm64"])] {
        let bytes = save(&fixture, &platforms).unwrap();
        let other = Fixture::new();
        let loaded = load(&other, &bytes, &[]).unwrap();
        assert_eq!(loaded[0], Loaded::Reference(ImageRef::parse("multi").unwrap()));
        assert_eq!(architectures(&other), expected);
        assert_eq!(save(&other, &platforms).unwrap(), bytes, "the same content is the same archive");
        assert_eq!(other.check(true).unwrap(), []);
        if platforms.len() > 1 {
            assert_eq!(other.find("multi").unwrap().indexes, image.indexes, "the index is kept whole");
        }
    }
    assert_eq!(save(&fixture, &[&"linux/s390x".parse().unwrap()]).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn archives_compressed_with_xz_and_bzip2() {
    use std::io::Write;
    let xz = |bytes: &[u8]| {
        let mut writer = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).unwrap();
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap()
    };
    let bzip2 = |bytes: &[u8]| {
        let mut writer = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap()
    };
    let plain = tar(&[file("a", &"text ".repeat(1000))]);
    let archive = docker_archive("one", std::slice::from_ref(&plain));
    for (what, pack) in [("xz", &xz as &dyn Fn(&[u8]) -> Vec<u8>), ("bzip2", &bzip2)] {
        let inside = docker_archive_of("one", &[pack(&plain)], &config(&[Digest::of(&plain)], ""));
        for bytes in [pack(&archive), inside] {
            let fixture = Fixture::new();
            fixture.load(&mut bytes.as_slice(), &LoadOptions::default(), &|_| {}).expect(what);
            let image = fixture.find("one").unwrap();
            assert_eq!((image.blobs[0].digest.clone(), image.size), (Digest::of(&plain), 5000), "{what}");
            assert_eq!(fixture.check(true).unwrap(), [], "{what}");
        }
        let fixture = Fixture::new();
        fixture.import(&mut pack(&plain).as_slice(), Default::default()).expect(what);
        let cut = pack(&archive);
        assert!(fixture.load(&mut &cut[..cut.len() - 5], &LoadOptions::default(), &|_| {}).is_err(), "{what}");
        // No registry gives such a layer out, so one that is announced is refused.
        let blob = pack(&plain);
        let expected = Expected { digest: Some(Digest::of(&blob)), size: Some(blob.len() as u64), ..Expected::default() };
        assert!(fixture.ingest().unwrap().fetch_layer(&expected, &mut whole(&blob), &|_| {}).is_err(), "{what}");
    }
    // A dictionary of 1 GiB in the header of an xz stream.
    let fixture = Fixture::new();
    let mut bomb = lzma_rust2::XzOptions::with_preset(1);
    bomb.lzma_options.dict_size = 1 << 30;
    let mut writer = lzma_rust2::XzWriter::new(Vec::new(), bomb).unwrap();
    writer.write_all(&archive).unwrap();
    let error = fixture.load(&mut writer.finish().unwrap().as_slice(), &LoadOptions::default(), &|_| {}).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
}
