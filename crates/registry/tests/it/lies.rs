//! Images whose parts do not fit together: manifests, indexes, configs and layers that a registry serves as if they were
//! sound. Each pull ends in an error that says what is wrong, and leaves nothing: no file, no part, no record.

use crate::proxy::{Act, Proxy, Seen};
use crate::support::*;
use naru_registry::{Error, PullOptions};
use naru_store::Limits;
use naru_types::{Digest, ImageRef};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;

/// A registry that serves exactly these blobs and manifests, by tag (`latest`) or digest.
struct Liar {
    proxy: Proxy,
}

impl Liar {
    async fn start(content_type: &str, manifest: Vec<u8>, others: Vec<(&str, Vec<u8>)>) -> Liar {
        let typed = others.into_iter().map(|(kind, bytes)| (Digest::of(&bytes).to_string(), (kind.to_owned(), bytes)));
        let typed: HashMap<String, (String, Vec<u8>)> = typed.collect();
        let top = (content_type.to_owned(), manifest);
        let serve = move |seen: &Seen, _: usize| {
            let name = seen.path.rsplit('/').next().unwrap_or_default();
            let found = if name == "latest" { Some(&top) } else { typed.get(name) };
            match found {
                Some((kind, bytes)) => Act::Answer(200, vec![("content-type", kind.clone())], bytes.clone()),
                None if seen.path.contains("/blobs/") || seen.path.contains("/manifests/") => Act::Answer(404, vec![], vec![]),
                None => Act::Answer(200, vec![], vec![]),
            }
        };
        Liar { proxy: Proxy::start("127.0.0.1:9", serve).await }
    }

    /// Serves an image with another manifest.
    async fn with_manifest(image: &Image, manifest: Vec<u8>) -> Liar {
        Liar::start(image.media_type, manifest, blobs(image)).await
    }

    fn reference(&self) -> ImageRef {
        ImageRef::parse(&format!("{}/lie", self.proxy.address)).unwrap()
    }

    /// The error of a pull into an empty store, which stays empty.
    async fn refused(&self, what: &str) -> Error {
        self.refused_by(&Fixture::new(), what).await
    }

    async fn refused_by(&self, fixture: &Fixture, what: &str) -> Error {
        let reference = self.reference();
        let pulled = pull(&client(), &fixture.store, &reference, PullOptions::default()).await.0;
        let Err(error) = pulled else { panic!("{what}: it was taken") };
        assert!(fixture.store.list().is_empty(), "{what}");
        let files = fixture.settled(<[String]>::is_empty).await;
        assert!(files.is_empty(), "{what}: {error}: {files:?}");
        assert_eq!(fixture.records(), 0, "{what}");
        error
    }
}

fn blobs(image: &Image) -> Vec<(&'static str, Vec<u8>)> {
    let layers = image.layers.iter().map(|(bytes, _)| bytes.clone());
    layers.chain([image.config.clone()]).map(|bytes| ("application/octet-stream", bytes)).collect()
}

fn changed(image: &Image, change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut manifest: Value = serde_json::from_slice(&image.manifest).unwrap();
    change(&mut manifest);
    serde_json::to_vec(&manifest).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn descriptors_say_what_there_is() {
    let image = Image::noise(70, &[20_000, 10_000]);
    let text = String::from_utf8(image.manifest.clone()).unwrap();
    let layer_size = image.layers[0].0.len();
    let config_size = image.config.len();
    let digest = image.layer_digest(0).to_string();
    let layer = |key: &'static str, value: Value| changed(&image, move |manifest| manifest["layers"][0][key] = value);
    let config = |key: &'static str, value: Value| changed(&image, move |manifest| manifest["config"][key] = value);
    for (what, manifest, words) in [
        ("a layer longer than it is", layer("size", json!(layer_size + 7)), "were announced"),
        ("a layer shorter than it is", layer("size", json!(layer_size - 7)), "were announced"),
        ("an empty layer", layer("size", json!(0)), "has digest"),
        ("a layer of 2^62 bytes", layer("size", json!(1_u64 << 62)), "bytes"),
        ("a layer of less than nothing", layer("size", json!(-1)), "invalid"),
        ("a layer's size as text", layer("size", json!("12")), "invalid"),
        ("a layer's size as a fraction", layer("size", json!(1.5)), "invalid"),
        ("a config longer than it is", config("size", json!(config_size + 7)), "announced"),
        ("a config shorter than it is", config("size", json!(config_size - 7)), "announced"),
        ("a config of 2^62 bytes", config("size", json!(1_u64 << 62)), "bytes"),
        ("md5", layer("digest", json!("md5:d41d8cd98f00b204e9800998ecf8427e")), "digest"),
        ("sha1", layer("digest", json!("sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709")), "digest"),
        ("a short digest", layer("digest", json!("sha256:abcd")), "digest"),
        ("a digest in capitals", layer("digest", json!(digest.to_uppercase())), "digest"),
        ("a digest that is a path", config("digest", json!("sha256:../../../../etc/passwd")), "digest"),
        ("no digest", config("digest", json!("")), "digest"),
        ("layers that are no list", changed(&image, |manifest| manifest["layers"] = json!({})), "invalid"),
        ("a config that is a list", changed(&image, |manifest| manifest["config"] = json!([])), ""),
        ("a number for a media type", changed(&image, |manifest| manifest["mediaType"] = json!(5)), "invalid"),
        ("an index, it says", changed(&image, |manifest| manifest["mediaType"] = json!(OCI_INDEX)), "calls itself"),
        ("an unknown layer", layer("mediaType", json!("application/vnd.example.unknown")), "is not that of a layer"),
        ("a layer only almost known", layer("mediaType", json!("text/starlight")), "is not that of a layer"),
        ("a layer of another format", layer("mediaType", json!("application/vnd.oci.image.layer.v1.tar+zip")), "not that of a layer"),
        ("an encrypted layer", layer("mediaType", json!("application/vnd.oci.image.layer.v1.tar+encrypted")), "not that of a layer"),
        ("cut short", text.as_bytes()[..text.len() / 2].to_vec(), "EOF"),
        ("two documents", format!("{text}{text}").into_bytes(), "trailing"),
        ("bytes after the end", format!("{text}]").into_bytes(), "trailing"),
        ("a key twice", text.replacen("\"layers\"", "\"layers\":[],\"layers\"", 1).into_bytes(), "duplicate"),
        ("a key of a layer twice", text.replacen("\"size\"", "\"size\":1,\"size\"", 1).into_bytes(), "duplicate"),
    ] {
        let error = Liar::with_manifest(&image, manifest).await.refused(what).await;
        assert!(error.to_string().contains(words), "{what}: {error} lacks {words:?}");
    }
    let error = Liar::start(OCI_INDEX, image.manifest.clone(), blobs(&image)).await.refused("called an index").await;
    assert!(error.to_string().contains("media type") || error.to_string().contains("calls"), "{error}");
}

/// What is known of the image already is no reason to believe what its manifest says.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_here_does_not_come_again_with_another_word() {
    let image = Image::noise(71, &[20_000]);
    let honest = Liar::with_manifest(&image, image.manifest.clone()).await;
    let fixture = Fixture::new();
    pull(&client(), &fixture.store, &honest.reference(), PullOptions::default()).await.0.unwrap();
    let before = (fixture.files(), fixture.records());
    let size = image.layers[0].0.len();
    for (key, value, words) in [
        ("mediaType", json!("application/vnd.example.unknown"), "is not that of a layer"),
        ("size", json!(size + 7), "announced"),
        ("size", json!(size - 7), "announced"),
    ] {
        let liar = Liar::with_manifest(&image, changed(&image, |manifest| manifest["layers"][0][key] = value)).await;
        let error = pull(&client(), &fixture.store, &liar.reference(), PullOptions::default()).await.0.unwrap_err();
        assert!(error.to_string().contains(words), "{key}: {error}");
        assert_eq!((fixture.files(), fixture.records()), before, "{key}");
        assert!(fixture.store.find(&liar.reference().canonical()).is_err(), "{key}: it has the name");
    }
}

/// A layer that is here under a diff id of which the new config says another: the layer that came with it goes, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_is_here_does_not_pass_for_another() {
    let first = Image::noise(79, &[20_000]);
    let honest = Liar::with_manifest(&first, first.manifest.clone()).await;
    let fixture = Fixture::new();
    pull(&client(), &fixture.store, &honest.reference(), PullOptions::default()).await.0.unwrap();
    let before = (fixture.files(), fixture.records());
    let mut second = Image::noise(79, &[20_000, 30_000]);
    let mut config: Value = serde_json::from_slice(&second.config).unwrap();
    config["rootfs"]["diff_ids"][0] = json!(Digest::of(b"another"));
    second.config = serde_json::to_vec(&config).unwrap();
    let named = descriptor(&second.config, "application/vnd.oci.image.config.v1+json");
    let liar = Liar::with_manifest(&second, changed(&second, |manifest| manifest["config"] = named)).await;
    let error = pull(&client(), &fixture.store, &liar.reference(), PullOptions::default()).await.0.unwrap_err();
    assert!(error.to_string().contains("its layers are not those its config names"), "{error}");
    let files = fixture.settled(|files| files == before.0).await;
    assert_eq!((files, fixture.records()), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_layers_are_refused_before_any_is_asked_for() {
    let image = Image::noise(72, &[1000]);
    let many = changed(&image, |manifest| manifest["layers"] = vec![manifest["layers"][0].clone(); 5000].into());
    let liar = Liar::with_manifest(&image, many).await;
    let error = liar.refused("5,000 layers").await;
    assert!(error.to_string().contains("5000 layers"), "{error}");
    assert_eq!(liar.proxy.count("GET", "/blobs/"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn configs_are_what_they_should_be() {
    let image = Image::noise(73, &[10_000]);
    let text = String::from_utf8(image.config.clone()).unwrap();
    let other = |key: &str, value: Value| {
        let mut config: Value = serde_json::from_slice(&image.config).unwrap();
        config[key] = value;
        serde_json::to_string(&config).unwrap()
    };
    let diff_id = Digest::of(b"another");
    for (what, config, words) in [
        ("nothing", String::new(), ""),
        ("null", "null".into(), "not a JSON object"),
        ("a list", "[]".into(), "not a JSON object"),
        ("nothing known", "{}".into(), "it names 0 layers, the manifest has 1"),
        ("cut short", text[..text.len() / 2].to_owned(), "EOF"),
        ("two documents", format!("{text}{text}"), "trailing"),
        ("a key twice", text.replacen("\"os\"", "\"os\":\"linux\",\"os\"", 1), "duplicate"),
        ("deep", format!(r#"{{"history":{}"#, "[".repeat(200_000)), ""),
        ("wrong types", other("config", json!([1])), ""),
        ("history of numbers", other("history", json!([1, 2])), ""),
        ("more steps than layers", other("history", json!([{}, {"empty_layer": true}, {}])), "history"),
        ("a time that is none", other("created", json!("yesterday")), "not a time"),
        ("another system", other("os", json!("windows")), "operating system"),
        ("a system that is a path", other("os", json!("../../x")), "operating system"),
        ("another kind of root", other("rootfs", json!({"type": "zfs", "diff_ids": []})), "zfs"),
        ("a path for a layer", other("rootfs", json!({"type": "layers", "diff_ids": ["sha256:../../x"]})), "digest"),
        ("another layer", other("rootfs", json!({"type": "layers", "diff_ids": [diff_id]})), &*diff_id.to_string()),
        ("more layers", other("rootfs", json!({"type": "layers", "diff_ids": [diff_id, diff_id]})), "it names 2 layers"),
    ] {
        let config = config.into_bytes();
        let manifest = changed(&image, |manifest| manifest["config"] = descriptor(&config, "application/vnd.oci.image.config.v1+json"));
        let spoiled = Image { config, ..image.clone() };
        let error = Liar::with_manifest(&spoiled, manifest).await.refused(what).await;
        assert!(error.to_string().contains(words), "{what}: {error} lacks {words:?}");
    }
    // More than is read of any config, whatever its content.
    let huge = format!("{}{text}", " ".repeat(5 << 20)).into_bytes();
    let manifest = changed(&image, |manifest| manifest["config"] = descriptor(&huge, "application/vnd.oci.image.config.v1+json"));
    let error = Liar::with_manifest(&Image { config: huge, ..image.clone() }, manifest).await.refused("a huge config").await;
    assert!(error.to_string().contains("4 MiB"), "{error}");
}

/// Indexes within indexes, with an image at the bottom.
fn nested(image: &Image, depth: usize) -> (Vec<u8>, Vec<(&'static str, Vec<u8>)>) {
    let mut all = blobs(image);
    all.push((OCI_MANIFEST, image.manifest.clone()));
    let (mut top, mut kind) = (image.manifest.clone(), OCI_MANIFEST);
    for _ in 0..depth {
        top = serde_json::to_vec(&json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [descriptor(&top, kind)]})).unwrap();
        kind = OCI_INDEX;
        all.push((OCI_INDEX, top.clone()));
    }
    (top, all)
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_are_followed_only_so_far_and_only_to_what_they_say() {
    let image = Image::noise(74, &[5000]);
    let (top, all) = nested(&image, 4);
    let liar = Liar::start(OCI_INDEX, top, all).await;
    let fixture = Fixture::new();
    assert_eq!(pull(&client(), &fixture.store, &liar.reference(), PullOptions::default()).await.0.unwrap().id, image.id());
    for depth in [5, 30] {
        let (top, all) = nested(&image, depth);
        let error = Liar::start(OCI_INDEX, top, all).await.refused("too deep").await;
        assert!(error.to_string().contains("nested too deeply"), "{error}");
    }
    let entry = |change: &dyn Fn(&mut Value)| {
        let mut entry = descriptor(&image.manifest, OCI_MANIFEST);
        entry["platform"] = json!({"os": "linux", "architecture": naru_types::Platform::host().architecture});
        change(&mut entry);
        entry
    };
    let index =
        |entries: Vec<Value>| serde_json::to_vec(&json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})).unwrap();
    let size = image.manifest.len();
    for (what, top, words) in [
        ("a manifest longer than it is", index(vec![entry(&|entry| entry["size"] = json!(size + 7))]), "were announced"),
        ("a manifest shorter than it is", index(vec![entry(&|entry| entry["size"] = json!(size - 7))]), "were announced"),
        ("an entry that is not there", index(vec![entry(&|entry| entry["digest"] = json!(Digest::of(b"none")))]), "not found"),
        ("an entry of a path", index(vec![entry(&|entry| entry["digest"] = json!("sha256:../x"))]), "digest"),
        ("too many", index(vec![entry(&|_| ()); 1001]), "1001 entries"),
        ("none", index(vec![]), "no matching manifest"),
        ("null entries", br#"{"schemaVersion":2,"manifests":[null]}"#.to_vec(), "invalid"),
        ("other platforms only", index(vec![entry(&|entry| entry["platform"]["os"] = json!("plan9"))]), "no matching manifest"),
        (
            "attestations only",
            index(vec![entry(&|entry| entry["platform"] = json!({"os": "unknown", "architecture": "unknown"}))]),
            "no matching",
        ),
    ] {
        let mut others = blobs(&image);
        others.push((OCI_MANIFEST, image.manifest.clone()));
        let error = Liar::start(OCI_INDEX, top, others).await.refused(what).await;
        assert!(error.to_string().contains(words), "{what}: {error} lacks {words:?}");
    }
}

/// An image of one layer that travels as these bytes and is said to unpack to that.
fn image_of(blob: Vec<u8>, media_type: &'static str, diff_id: &Digest) -> Image {
    let config = json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [diff_id]}});
    let config = serde_json::to_vec(&config).unwrap();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": descriptor(&config, "application/vnd.oci.image.config.v1+json"), "layers": [descriptor(&blob, media_type)],
    });
    Image { config, layers: vec![(blob, media_type)], manifest: serde_json::to_vec(&manifest).unwrap(), media_type: OCI_MANIFEST }
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_are_none() {
    let plain = layer("f", &noise(75, 50_000));
    let id = Digest::of(&plain);
    let (gzip, gzip_type) = pack(&plain, Packing::Gzip);
    let (zstd, zstd_type) = pack(&plain, Packing::Zstd);
    let tar_type = "application/vnd.oci.image.layer.v1.tar";
    let mut up = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.as_old_mut().name[..4].copy_from_slice(b"../x");
    header.set_cksum();
    up.append(&header, &b"x"[..]).unwrap();
    let up = up.into_inner().unwrap();
    let second_member = [gzip.clone(), pack(&layer("g", b"hidden"), Packing::Gzip).0].concat();
    for (what, blob, media_type, diff_id) in [
        ("gzip cut short", gzip[..gzip.len() / 2].to_vec(), gzip_type, &id),
        ("gzip without its end", gzip[..gzip.len() - 4].to_vec(), gzip_type, &id),
        ("zstd cut short", zstd[..zstd.len() / 2].to_vec(), zstd_type, &id),
        ("tar cut short", plain[..plain.len() / 2].to_vec(), tar_type, &Digest::of(&plain[..plain.len() / 2])),
        ("bytes after gzip", [&gzip[..], b"more"].concat(), gzip_type, &id),
        ("a second member of gzip", second_member, gzip_type, &id),
        ("no archive", noise(76, 5000), tar_type, &Digest::of(&noise(76, 5000))),
        ("nothing", Vec::new(), gzip_type, &id),
        ("another layer", gzip.clone(), gzip_type, &Digest::of(b"another")),
        ("a way up", up.clone(), tar_type, &Digest::of(&up)),
    ] {
        let image = image_of(blob, media_type, diff_id);
        let error = Liar::with_manifest(&image, image.manifest.clone()).await.refused(what).await;
        assert!(matches!(error.root(), Error::Store(_) | Error::Transport { .. } | Error::Protocol { .. }), "{what}: {error}");
    }
    let image = image_of(gzip.clone(), gzip_type, &Digest::of(b"another"));
    let error = Liar::with_manifest(&image, image.manifest.clone()).await.refused("another").await.to_string();
    assert!(error.contains(&id.to_string()) && error.contains(&Digest::of(b"another").to_string()), "both digests are named: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_stop_at_the_limit() {
    let bomb = layer("zeros", &vec![0; 64 << 20]);
    let id = Digest::of(&bomb);
    for packing in [Packing::Gzip, Packing::Zstd, Packing::Plain] {
        let (blob, media_type) = pack(&bomb, packing);
        let image = image_of(blob, media_type, &id);
        let fixture = Fixture::with(Limits { max_layer_size: 8 << 20, reserve: 0 });
        let error = Liar::with_manifest(&image, image.manifest.clone()).await.refused_by(&fixture, media_type).await;
        assert!(error.to_string().contains("8388608 bytes"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_are_not_fetched_from_where_nobody_should_look() {
    let image = Image::noise(77, &[1000]);
    for (location, words) in [
        ("file:///etc/passwd", "cannot be followed"),
        ("http://169.254.169.254/latest/meta-data/", "169.254.169.254"),
        ("http://[fe80::1]/x", "fe80::1"),
        ("LOOP", "stopped after 10 redirects"),
    ] {
        let (manifest, config) = (image.manifest.clone(), image.config.clone());
        let (layer, id) = (image.layer_digest(0).to_string(), image.id().to_string());
        let proxy = Proxy::start("127.0.0.1:9", move |seen, _| match &seen.path {
            path if path.contains("/manifests/") => Act::Answer(200, vec![("content-type", OCI_MANIFEST.into())], manifest.clone()),
            path if path.ends_with(&id) => Act::Answer(200, vec![], config.clone()),
            path if path.contains(&layer) => {
                let target = if location == "LOOP" { path.clone() } else { location.to_owned() };
                Act::Answer(307, vec![("location", target)], vec![])
            }
            _ => Act::Answer(200, vec![], vec![]),
        })
        .await;
        let error = Liar { proxy }.refused(location).await;
        assert!(error.to_string().contains(words), "{location}: {error}");
    }
}

/// A pull that fails leaves what others have taken in alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_liar_harms_no_neighbour() {
    let image = Image::noise(78, &[400_000, 1000]);
    let honest = Liar::with_manifest(&image, image.manifest.clone()).await;
    let liar = Liar::with_manifest(&image, changed(&image, |manifest| manifest["layers"][1]["size"] = json!(7))).await;
    let fixture = Fixture::new();
    let (good, bad) = (honest.reference(), liar.reference());
    let client = Arc::new(client());
    let (taken, refused) = tokio::join!(
        pull(&client, &fixture.store, &good, PullOptions::default()),
        pull(&client, &fixture.store, &bad, PullOptions::default())
    );
    assert_eq!(taken.0.unwrap().id, image.id());
    assert!(refused.0.is_err());
    assert_eq!(fixture.store.check(true).unwrap(), []);
    assert_eq!(fixture.store.list().len(), 1);
}
