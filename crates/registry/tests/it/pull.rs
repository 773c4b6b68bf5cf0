//! Pulls that go well.

use crate::proxy::{Act, Proxy};
use crate::support::*;
use naru_registry::{Credentials, Error, PullOptions, RegistryConfig, SearchFilters};
use naru_types::{Digest, ErrorKind, ImageRef};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

fn options() -> PullOptions {
    PullOptions::default()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_comes_whole_and_a_second_pull_is_one_request() {
    let registry = Registry::start();
    let proxy = Proxy::start(&registry.address, |_, _| Act::Pass).await;
    let fixture = Fixture::new();
    let client = client();
    for (at, packing) in [Packing::Gzip, Packing::Zstd, Packing::Plain].into_iter().enumerate() {
        let seed = at as u64 * 10;
        let image = Image::new(&[layer("a", &noise(seed, 300_000)), layer("b", &noise(seed + 1, 100_000))], packing);
        let name = format!("app/p{at}");
        put_image(&registry.address, &name, "v1", &image).await;
        let reference = ImageRef::parse(&format!("{}/{name}:v1", proxy.address)).unwrap();
        proxy.forget();
        let (pulled, events) = pull(&client, &fixture.store, &reference, options()).await;
        let pulled = pulled.unwrap();
        assert_eq!((&pulled.id, &pulled.digest, pulled.up_to_date), (&image.id(), &image.digest(), false));
        assert_eq!(proxy.seen().iter().filter(|seen| seen.path.contains("/manifests/")).count(), 1);
        let lines = pull_lines(&events);
        let short = image.layer_digest(0).short();
        assert_eq!(lines[0], format!("v1: Pulling from {name}"));
        for line in [
            format!("{short}: Pulling fs layer"),
            format!("{short}: Verifying Checksum"),
            format!("{short}: Download complete"),
            format!("{short}: Pull complete"),
            format!("Digest: {}", image.digest()),
            format!("Status: Downloaded newer image for {}", reference.familiar()),
        ] {
            assert!(lines.contains(&line), "{line} not in {lines:#?}");
        }
        let stored = fixture.store.find(&reference.canonical()).unwrap();
        assert_eq!(stored.manifest, image.digest());
        assert_eq!(stored.blobs.iter().map(|blob| blob.digest.clone()).collect::<Vec<_>>(), [image.layer_digest(0), image.layer_digest(1)]);
        let content = std::fs::read(fixture.root.join("layers").join(stored.layers[0].hex()).join("a")).unwrap();
        assert_eq!(content, noise(seed, 300_000));

        proxy.forget();
        let (again, events) = pull(&client, &fixture.store, &reference, options()).await;
        assert!(again.unwrap().up_to_date);
        assert_eq!(proxy.seen().iter().map(|seen| seen.method.as_str()).collect::<Vec<_>>(), ["HEAD"]);
        assert_eq!(pull_lines(&events).last().unwrap(), &format!("Status: Image is up to date for {}", reference.familiar()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_are_here_are_not_asked_for() {
    let registry = Registry::start();
    let proxy = Proxy::start(&registry.address, |_, _| Act::Pass).await;
    let (base, more) = (layer("base", &noise(1, 200_000)), layer("more", &noise(2, 50_000)));
    let first = Image::new(std::slice::from_ref(&base), Packing::Gzip);
    // The same layer twice is fetched once.
    let second = Image::new(&[base, more.clone(), more], Packing::Gzip);
    put_image(&registry.address, "x", "1", &first).await;
    put_image(&registry.address, "x", "2", &second).await;
    let fixture = Fixture::new();
    let client = client();
    let named = |tag: &str| ImageRef::parse(&format!("{}/x:{tag}", proxy.address)).unwrap();
    pull(&client, &fixture.store, &named("1"), options()).await.0.unwrap();
    let (pulled, events) = pull(&client, &fixture.store, &named("2"), options()).await;
    assert_eq!(pulled.unwrap().id, second.id());
    assert_eq!(proxy.count("GET", &first.layer_digest(0).to_string()), 1);
    assert_eq!(proxy.count("GET", &second.layer_digest(1).to_string()), 1);
    assert!(pull_lines(&events).contains(&format!("{}: Already exists", first.layer_digest(0).short())));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_image_for_the_platform_is_taken() {
    let registry = Registry::start();
    let tars = |seed| [layer("f", &noise(seed, 10_000))];
    let amd = Image::of(&tars(1), Packing::Gzip, "amd64", OCI_MANIFEST);
    let arm = Image::of(&tars(2), Packing::Gzip, "arm64", DOCKER_MANIFEST);
    for image in [&amd, &arm] {
        put_image(&registry.address, "multi", "own", image).await;
    }
    put_blob(&registry.address, "multi", b"attestation").await;
    let list = index(&[("arm64/v8", &arm), ("amd64", &amd)]);
    let list = String::from_utf8(list).unwrap();
    // The registry refuses an index whose manifests it lacks; the attestation is not one of its manifests.
    let mut value: serde_json::Value = serde_json::from_str(&list).unwrap();
    value["manifests"].as_array_mut().unwrap().pop();
    let list = serde_json::to_vec(&value).unwrap();
    put_manifest(&registry.address, "multi", "latest", &list, OCI_INDEX).await;
    let reference = registry.reference("multi");
    let fixture = Fixture::new();
    let client = client();
    let for_platform = |platform: &str| PullOptions { platform: Some(platform.parse().unwrap()), ..options() };
    for (platform, image) in [("linux/amd64", &amd), ("linux/arm64", &arm), ("linux/amd64", &amd)] {
        let (pulled, _) = pull(&client, &fixture.store, &reference, for_platform(platform)).await;
        let pulled = pulled.unwrap();
        assert_eq!((&pulled.id, &pulled.digest), (&image.id(), &Digest::of(&list)), "{platform}");
        assert_eq!(fixture.store.find(&reference.canonical()).unwrap().id, image.id());
    }
    assert!(pull(&client, &fixture.store, &reference, for_platform("linux/amd64")).await.0.unwrap().up_to_date);
    let error = pull(&client, &fixture.store, &reference, for_platform("linux/riscv64")).await.0.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().starts_with("no matching manifest for linux/riscv64 in the manifest list entries"), "{error}");
    // An image without an index is taken as it is, with a warning.
    let own = registry.reference("multi:own");
    let (pulled, events) = pull(&client, &fixture.store, &own, for_platform("linux/amd64")).await;
    assert_eq!(pulled.unwrap().id, arm.id());
    let warning = "was found but its platform (linux/arm64) does not match the specified platform (linux/amd64)";
    assert!(pull_lines(&events).last().unwrap().ends_with(warning), "{events:?}");
    assert!(pull_lines(&pull(&client, &fixture.store, &own, for_platform("linux/arm64")).await.1).last().unwrap().starts_with("Status: "));
    let info = client.manifest(&reference, &Credentials::default()).await.unwrap();
    assert_eq!(info.platforms.iter().map(ToString::to_string).collect::<Vec<_>>(), ["linux/arm64", "linux/amd64"]);
    assert_eq!((info.digest, info.media_type.as_str(), info.raw), (Digest::of(&list), OCI_INDEX, list));
    let single = client.manifest(&registry.reference("multi:own"), &Credentials::default()).await.unwrap();
    assert_eq!(single.platforms.iter().map(ToString::to_string).collect::<Vec<_>>(), ["linux/arm64"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn by_digest_and_by_nothing() {
    let registry = Registry::start();
    let image = Image::noise(3, &[20_000]);
    put_image(&registry.address, "d", "t", &image).await;
    let fixture = Fixture::new();
    let client = client();
    let by_digest = registry.reference(&format!("d@{}", image.digest()));
    let (pulled, events) = pull(&client, &fixture.store, &by_digest, options()).await;
    assert_eq!(pulled.unwrap().id, image.id());
    assert_eq!(pull_lines(&events)[0], format!("{}: Pulling from d", image.digest()));
    let stored = fixture.store.find(&by_digest.canonical()).unwrap();
    assert!(stored.tags.is_empty());
    for (name, text) in [
        (format!("d@{}", Digest::of(b"other")), "not found: manifest unknown: manifest unknown"),
        ("d:nope".to_owned(), "d:nope not found: manifest unknown: manifest unknown"),
        ("nope".to_owned(), "manifest for"),
    ] {
        let (pulled, events) = pull(&client, &fixture.store, &registry.reference(&name), options()).await;
        let error = pulled.unwrap_err();
        assert!(events.is_empty(), "{events:?}");
        assert!(error.to_string().contains(text), "{error}");
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_catalog_blobs() {
    let registry = Registry::start();
    let image = Image::noise(4, &[30_000]);
    for tag in ["c", "a", "b"] {
        put_image(&registry.address, "team/tool", tag, &image).await;
    }
    let client = client();
    let none = Credentials::default();
    let mut tags = client.tags(&registry.reference("team/tool"), &none).await.unwrap();
    tags.sort();
    assert_eq!(tags, ["a", "b", "c"]);
    assert!(matches!(client.tags(&registry.reference("nope"), &none).await, Err(Error::NoSuchRepository { .. })));
    let fixture = Fixture::new();
    let all = client.pull_all(&fixture.store, &registry.reference("team/tool"), options(), |_| ()).await.unwrap();
    assert_eq!(all.len(), 3);
    assert_eq!(fixture.store.find(&registry.reference("team/tool:c").canonical()).unwrap().tags.len(), 3);
    let found = client.search(&format!("{}/too", registry.address), None, &Default::default(), &none).await.unwrap();
    assert_eq!(found.iter().map(|result| result.name.as_str()).collect::<Vec<_>>(), [format!("{}/team/tool", registry.address)]);
    let (bytes, _) = &image.layers[0];
    let stream = client.fetch_blob(&registry.reference("team/tool"), &Digest::of(bytes), bytes.len() as u64, 100, &none).await.unwrap();
    let read = tokio::task::spawn_blocking(move || {
        let (mut stream, mut read) = (stream, Vec::new());
        std::io::Read::read_to_end(&mut stream, &mut read).unwrap();
        read
    });
    assert_eq!(read.await.unwrap(), bytes[100..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_a_list_are_followed() {
    let registry = Registry::start();
    let proxy = Proxy::start(&registry.address, |seen, _| {
        let page = |link: &str, tags: &str| {
            Act::Answer(200, vec![("link", format!("<{link}>; rel=\"next\""))], format!(r#"{{"name":"x","tags":{tags}}}"#).into_bytes())
        };
        match seen.path.as_str() {
            "/v2/x/tags/list?n=1000" => page("/v2/x/tags/list?last=b&n=2", r#"["a","b"]"#),
            "/v2/x/tags/list?last=b&n=2" => page("?last=c", r#"["c"]"#),
            "/v2/x/tags/list?last=c" => page("?last=d", "null"),
            "/v2/y/tags/list?n=1000" => page("http://127.0.0.1:1/v2/y/tags/list", r#"["a"]"#),
            _ => Act::Pass,
        }
    })
    .await;
    let client = client();
    let named = |name: &str| ImageRef::parse(&format!("{}/{name}", proxy.address)).unwrap();
    assert_eq!(client.tags(&named("x"), &Credentials::default()).await.unwrap(), ["a", "b", "c"]);
    let error = client.tags(&named("y"), &Credentials::default()).await.unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_pull_twice_at_once_is_one() {
    let registry = Registry::start();
    let proxy = Proxy::start(&registry.address, |_, _| Act::Pass).await;
    let shared = layer("shared", &noise(5, 2_000_000));
    let one = Image::new(&[shared.clone(), layer("one", b"1")], Packing::Gzip);
    let two = Image::new(&[shared, layer("two", b"2")], Packing::Gzip);
    put_image(&registry.address, "s", "one", &one).await;
    put_image(&registry.address, "s", "two", &two).await;
    let fixture = Fixture::new();
    let client = client();
    let named = |tag: &str| ImageRef::parse(&format!("{}/s:{tag}", proxy.address)).unwrap();
    // Three of the same, and one of another image that shares a layer.
    let mut pulls = Vec::new();
    for tag in ["one", "one", "two", "one"] {
        let (client, store, reference) = (client.clone(), fixture.store.clone(), named(tag));
        pulls.push(tokio::spawn(async move { pull(&client, &store, &reference, PullOptions::default()).await }));
    }
    for (pull, id) in pulls.into_iter().zip([one.id(), one.id(), two.id(), one.id()]) {
        let (pulled, events) = pull.await.unwrap();
        assert_eq!(pulled.unwrap().id, id);
        assert!(pull_lines(&events).last().unwrap().starts_with("Status: "), "{events:?}");
    }
    assert_eq!(proxy.count("GET", &one.layer_digest(0).to_string()), 1);
    assert_eq!(proxy.count("GET", "/manifests/one"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_are_asked_first() {
    let registry = Registry::start();
    let image = Image::noise(6, &[10_000, 5_000]);
    put_image(&registry.address, "library/m", "latest", &image).await;
    let dead = "http://127.0.0.1:9".to_owned();
    let empty = Registry::start();
    let mirrors =
        BTreeMap::from([("docker.io".to_owned(), vec![dead, format!("http://{}", empty.address), format!("http://{}", registry.address)])]);
    let client = naru_registry::Client::new(RegistryConfig { mirrors, max_attempts: 1, ..config() }).unwrap();
    let fixture = Fixture::new();
    let reference = ImageRef::parse("m").unwrap();
    let (pulled, events) = pull(&client, &fixture.store, &reference, options()).await;
    assert_eq!(pulled.unwrap().id, image.id());
    let notices = pull_lines(&events).iter().filter(|line| line.starts_with("mirror ")).count();
    assert_eq!(notices, 2, "{events:?}");
    assert_eq!(fixture.store.find("m").unwrap().digests[0].familiar_name(), "m");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_nobody_waits_for_stops_and_is_taken_up_again() {
    let registry = Registry::start();
    let image = Image::noise(7, &[4_000_000]);
    put_image(&registry.address, "stop", "latest", &image).await;
    let digest = image.layer_digest(0);
    let path = format!("/v2/stop/blobs/{digest}");
    let proxy = Proxy::start(
        &registry.address,
        move |seen, before| {
            if seen.path == path && before == 0 { Act::Stall(2_000_000) } else { Act::Pass }
        },
    )
    .await;
    let fixture = Fixture::new();
    let client = client();
    let reference = ImageRef::parse(&format!("{}/stop", proxy.address)).unwrap();
    let (seen, mut moved) = tokio::sync::mpsc::unbounded_channel();
    let seen = Arc::new(Mutex::new(seen));
    let stopped = tokio::select! {
        _ = client.pull(&fixture.store, &reference, options(), |event| {
            if event.line().status == "Downloading" { seen.lock().unwrap().send(()).ok(); }
        }) => false,
        _ = moved.recv() => true,
    };
    assert!(stopped);
    // What is under way ends by itself, and leaves what has arrived.
    let files = fixture.settled(|files| !files.iter().any(|file| file.starts_with("staging/"))).await;
    assert_eq!(files, [format!("partial/{}", digest.hex())]);
    assert_eq!(pull(&client, &fixture.store, &reference, options()).await.0.unwrap().id, image.id());
    let ranges: Vec<_> = proxy
        .seen()
        .iter()
        .filter(|seen| seen.path.ends_with(&digest.to_string()))
        .map(|seen| seen.header("range").map(str::to_owned))
        .collect();
    assert!(ranges.iter().flatten().any(|range| range.starts_with("bytes=")), "{ranges:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn search_as_docker_s_registries_have_it() {
    let results = r#"{"num_results":3,"query":"app","results":[
        {"name":"app","description":"one","star_count":7,"is_official":true,"is_automated":false},
        {"name":"team/app","description":null,"star_count":3,"is_official":false},
        {"name":"old/app","star_count":1}]}"#;
    let registry = Proxy::start("127.0.0.1:9", move |seen, _| match seen.path.as_str() {
        "/v1/search?q=app&n=25" => Act::Answer(200, vec![], results.into()),
        "/v1/search?q=none%26x&n=2" => Act::Answer(200, vec![], b"{}".to_vec()),
        "/v2/" => Act::Answer(200, vec![], vec![]),
        _ => Act::Answer(500, vec![], vec![]),
    })
    .await;
    let client = client();
    let none = Credentials::default();
    let search = async |term: &str, limit, filters: SearchFilters| {
        let found = client.search(&format!("{}/{term}", registry.address), limit, &filters, &none).await;
        found.map(|results| results.into_iter().map(|result| result.name).collect::<Vec<_>>())
    };
    assert_eq!(search("app", None, SearchFilters::default()).await.unwrap(), ["app", "team/app", "old/app"]);
    let official = SearchFilters { is_official: Some(false), stars: Some(2), ..Default::default() };
    assert_eq!(search("app", None, official).await.unwrap(), ["team/app"]);
    assert!(search("none&x", Some(2), SearchFilters::default()).await.unwrap().is_empty());
    assert_eq!(search("app", Some(101), SearchFilters::default()).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert!(matches!(search("broken", None, SearchFilters::default()).await, Err(Error::Status { .. })));
}
