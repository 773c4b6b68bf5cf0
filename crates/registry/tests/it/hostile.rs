//! Registries that mean harm: every answer ends in a clear error, in bounded time and memory, and leaves nothing.

use crate::proxy::{Act, Proxy, raw_server};
use crate::support::*;
use naru_registry::{Client, Credentials, Error, PullOptions, RegistryConfig, TransportError};
use naru_types::{Digest, ImageRef};

async fn pull_error(address: &str, name: &str) -> Error {
    pull_error_with(&client(), address, name).await
}

async fn pull_error_with(client: &Client, address: &str, name: &str) -> Error {
    let fixture = Fixture::new();
    let reference = ImageRef::parse(&format!("{address}/{name}")).unwrap();
    let error = pull(client, &fixture.store, &reference, PullOptions::default()).await.0.unwrap_err();
    assert!(fixture.store.list().is_empty());
    let files = fixture.settled(<[String]>::is_empty).await;
    assert!(files.is_empty(), "{files:?}");
    error
}

fn answering(headers: Vec<(&'static str, String)>, bytes: Vec<u8>) -> impl Fn(&crate::proxy::Seen, usize) -> Act {
    move |seen, _| {
        if seen.path.contains("/manifests/") { Act::Answer(200, headers.clone(), bytes.clone()) } else { Act::Answer(200, vec![], vec![]) }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_that_are_none() {
    let d = Digest::of(b"x");
    let blob = format!(r#"{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{d}","size":1}}"#);
    let index_of_itself = |digest: &str| {
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{{"mediaType":"{OCI_INDEX}","digest":"{digest}","size":10}}]}}"#
        )
    };
    for (content_type, body, text) in [
        (OCI_MANIFEST, String::new(), "not a JSON object"),
        (OCI_MANIFEST, "null".into(), "not a JSON object"),
        (OCI_MANIFEST, "[".repeat(100_000), "not a JSON object"),
        (OCI_MANIFEST, r#"{"schemaVersion":2}"#.into(), "neither a manifest nor an index"),
        ("text/html", "<html>".into(), "text/html"),
        (OCI_MANIFEST, format!(r#"{{"schemaVersion":2,"config":{blob},"layers":[],"manifests":[]}}"#), "a manifest and an index at once"),
        (OCI_MANIFEST, format!(r#"{{"schemaVersion":2,"config":{blob},"layers":[{{"digest":"sha256:../../x","size":1}}]}}"#), "digest"),
        (OCI_MANIFEST, format!(r#"{{"schemaVersion":2,"config":{blob},"layers":[{{"digest":"{d}","size":-1}}]}}"#), "invalid"),
        (OCI_INDEX, index_of_itself(&d.to_string()), "has the digest"),
        ("application/vnd.docker.distribution.manifest.v1+prettyjws", "{}".into(), "[DEPRECATION NOTICE]"),
        (
            OCI_MANIFEST,
            format!(
                r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.cncf.helm.config.v1+json","digest":"{d}","size":1}},"layers":[]}}"#
            ),
            "not a container image but an artifact",
        ),
    ] {
        let proxy = Proxy::start("127.0.0.1:9", answering(vec![("content-type", content_type.into())], body.into_bytes())).await;
        let error = pull_error(&proxy.address, "x").await;
        assert!(error.to_string().contains(text), "{error} lacks {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_without_end() {
    let proxy = Proxy::start("127.0.0.1:9", |seen, _| if seen.path.contains("/manifests/") { Act::Endless } else { Act::Pass }).await;
    let error = pull_error(&proxy.address, "endless").await;
    assert!(matches!(error.root(), Error::TooLarge { .. }), "{error}");
    let announced = answering(vec![("content-type", OCI_MANIFEST.into())], vec![b' '; 5 << 20]);
    let error = pull_error(&Proxy::start("127.0.0.1:9", announced).await.address, "big").await;
    assert!(matches!(error.root(), Error::TooLarge { .. }), "{error}");
    // Heads: one field of a megabyte, and a hundred thousand fields.
    for head in
        [format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(1 << 20)), format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(100_000))]
    {
        let error = pull_error(&raw_server(head.into_bytes()).await, "head").await;
        assert!(matches!(error.root(), Error::Transport { .. }), "{error}");
    }
    for garbage in [
        b"\0\0\0\0".to_vec(),
        b"SSH-2.0-OpenSSH\r\n".to_vec(),
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef".to_vec(),
    ] {
        let error = pull_error(&raw_server(garbage).await, "garbage").await;
        assert!(matches!(error.root(), Error::Transport { .. } | Error::Invalid { .. }), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn digests_that_lie() {
    let registry = Registry::start();
    let image = Image::noise(41, &[10_000]);
    put_image(&registry.address, "lie", "latest", &image).await;
    let lie = Digest::of(b"lie");
    let proxy = Proxy::start(&registry.address, move |seen, _| {
        if seen.path.contains("/manifests/") { Act::Header("docker-content-digest", lie.to_string()) } else { Act::Pass }
    })
    .await;
    let error = pull_error(&proxy.address, "lie").await;
    assert!(matches!(error.root(), Error::DigestMismatch { .. }), "{error}");
    // By digest, other bytes come.
    let proxy = Proxy::start(&registry.address, |seen, _| if seen.path.contains("/manifests/") { Act::Flip } else { Act::Pass }).await;
    assert!(!pull_error(&proxy.address, &format!("lie@{}", image.digest())).await.to_string().is_empty());
    // The config is another.
    let config = image.id().to_string();
    let proxy = Proxy::start(&registry.address, move |seen, _| if seen.path.ends_with(&config) { Act::Flip } else { Act::Pass }).await;
    let error = pull_error(&proxy.address, "lie").await;
    assert!(matches!(error.root(), Error::DigestMismatch { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_is_not_what_the_config_says() {
    let registry = Registry::start();
    let mut image = Image::noise(42, &[10_000]);
    let mut config: serde_json::Value = serde_json::from_slice(&image.config).unwrap();
    config["rootfs"]["diff_ids"][0] = Digest::of(b"other").to_string().into();
    image.config = serde_json::to_vec(&config).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
    manifest["config"] = descriptor(&image.config, "application/vnd.oci.image.config.v1+json");
    image.manifest = serde_json::to_vec(&manifest).unwrap();
    put_image(&registry.address, "diff", "latest", &image).await;
    let error = pull_error(&registry.address, "diff").await;
    assert!(matches!(error.root(), Error::Store(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_that_lead_nowhere_good() {
    for (location, text) in [
        ("LOOP", "stopped after 10 redirects"),
        ("file:///etc/passwd", "cannot be followed"),
        ("ftp://127.0.0.1/x", "cannot be followed"),
        ("http://", "cannot be followed"),
        ("", "Location"),
    ] {
        let proxy = Proxy::start("127.0.0.1:9", move |seen, _| {
            let location = if location == "LOOP" { seen.path.clone() } else { location.to_owned() };
            let headers = if location.is_empty() { vec![] } else { vec![("location", location)] };
            if seen.path.contains("/manifests/") { Act::Answer(302, headers, vec![]) } else { Act::Answer(200, vec![], vec![]) }
        })
        .await;
        let error = pull_error(&proxy.address, "redirect").await;
        assert!(matches!(error.root(), Error::Protocol { .. }) && error.to_string().contains(text), "{error}");
        assert!(proxy.count("GET", "/manifests/") <= 11);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn token_servers_that_must_not_be_asked() {
    let megabytes = Proxy::start("127.0.0.1:9", |_, _| Act::Endless).await;
    let long_token =
        Proxy::start("127.0.0.1:9", |_, _| Act::Answer(200, vec![], format!(r#"{{"token":"{}"}}"#, "x".repeat(100 << 10)).into_bytes()))
            .await;
    let no_token = Proxy::start("127.0.0.1:9", |_, _| Act::Answer(200, vec![], b"{}".to_vec())).await;
    for (realm, text) in [
        ("file:///etc/passwd".to_owned(), "realm cannot be asked"),
        ("gopher://127.0.0.1/".to_owned(), "realm cannot be asked"),
        (format!("http://{}/", megabytes.address), "larger than 1 MiB"),
        (format!("http://{}/", long_token.address), "larger than 64 KiB"),
        (format!("http://{}/", no_token.address), "did not include a token"),
        (String::new(), "realm"),
    ] {
        let proxy = Proxy::start("127.0.0.1:9", move |_, _| {
            let challenge =
                if realm.is_empty() { "Bearer service=\"x\"".to_owned() } else { format!("Bearer realm=\"{realm}\",service=\"x\"") };
            Act::Answer(401, vec![("www-authenticate", challenge)], vec![])
        })
        .await;
        let error = pull_error(&proxy.address, "token").await;
        assert!(error.to_string().contains(text), "{error} lacks {text}");
    }
}

/// The registry is not on this host by its name, so it must not send us to this host's services.
#[tokio::test(flavor = "multi_thread")]
async fn a_distant_registry_cannot_make_us_ask_this_host() {
    let inside = Proxy::start("127.0.0.1:9", |_, _| Act::Answer(200, vec![], b"{}".to_vec())).await;
    let port = inside.address.clone();
    let proxy = Proxy::start("127.0.0.1:9", move |seen, _| {
        if seen.path.contains("/v2/realm/") {
            return Act::Answer(401, vec![("www-authenticate", format!("Bearer realm=\"http://{port}/token\""))], vec![]);
        }
        Act::Answer(307, vec![("location", format!("http://{port}/admin"))], vec![])
    })
    .await;
    let directory = tempfile::tempdir().unwrap();
    let hosts = directory.path().join("hosts");
    std::fs::write(&hosts, "127.0.0.1 distant.test\n").unwrap();
    let client = Client::new(RegistryConfig { hosts_file: hosts, insecure: vec!["distant.test".into()], ..config() }).unwrap();
    let address = format!("distant.test:{}", proxy.address.rsplit(':').next().unwrap());
    for name in ["realm", "redirect"] {
        let error = pull_error_with(&client, &address, name).await;
        assert!(matches!(error.root(), Error::Transport { reason: TransportError::ForbiddenAddress { .. }, .. }), "{error}");
    }
    assert!(inside.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_layers_are_fetched_only_when_allowed() {
    let registry = Registry::start();
    let storage = Registry::start();
    let image = Image::noise(43, &[20_000]);
    put_blob(&storage.address, "else", &image.layers[0].0).await;
    put_blob(&registry.address, "foreign", &image.config).await;
    let url = format!("http://{}/v2/else/blobs/{}", storage.address, image.layer_digest(0));
    let mut manifest: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
    manifest["layers"][0]["urls"] = serde_json::json!(["file:///etc/passwd", url]);
    manifest["layers"][0]["mediaType"] = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip".into();
    let manifest = serde_json::to_vec(&manifest).unwrap();
    let path = manifest.clone();
    let proxy = Proxy::start(&registry.address, move |seen, _| {
        if seen.path.contains("/manifests/") {
            Act::Answer(200, vec![("content-type", OCI_MANIFEST.into())], path.clone())
        } else {
            Act::Pass
        }
    })
    .await;
    let error = pull_error(&proxy.address, "foreign").await;
    assert!(error.to_string().contains("foreign-layers"), "{error}");
    let client = Client::new(RegistryConfig { foreign_layers: true, ..config() }).unwrap();
    let fixture = Fixture::new();
    let reference = ImageRef::parse(&format!("{}/foreign", proxy.address)).unwrap();
    assert_eq!(pull(&client, &fixture.store, &reference, PullOptions::default()).await.0.unwrap().digest, Digest::of(&manifest));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_encodings_are_refused() {
    let registry = Registry::start();
    let image = Image::noise(44, &[1000]);
    put_image(&registry.address, "enc", "latest", &image).await;
    let proxy = Proxy::start(&registry.address, |seen, _| {
        if seen.path.contains("/manifests/") { Act::Header("content-encoding", "gzip".into()) } else { Act::Pass }
    })
    .await;
    let error = pull_error(&proxy.address, "enc").await;
    assert!(matches!(error.root(), Error::Protocol { .. }), "{error}");
    let none = client().manifest(&ImageRef::parse(&format!("{}/enc", proxy.address)).unwrap(), &Credentials::default()).await;
    assert!(none.is_err());
}
