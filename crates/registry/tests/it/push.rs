//! Pushes, by what the registry has afterwards.

use crate::proxy::{Act, Proxy};
use crate::support::*;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use naru_registry::{Client, PullOptions, PushOptions, RegistryConfig};
use naru_store::ImportOptions;
use naru_types::{Digest, ErrorKind, ImageRef};
use std::io;
use std::sync::{Arc, Mutex};

fn at(address: &str, name: &str) -> ImageRef {
    ImageRef::parse(&format!("{address}/{name}")).unwrap()
}

/// Stores an image of noise under a name.
fn import(fixture: &Fixture, reference: &ImageRef, seed: u64, size: usize) -> Digest {
    let options = ImportOptions { reference: Some(reference.clone()), ..Default::default() };
    fixture.store.import(&mut &layer("file", &noise(seed, size))[..], options).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_pulled_is_pushed_under_its_digest() {
    let registry = Registry::start();
    let image = Image::noise(21, &[400_000, 1000]);
    put_image(&registry.address, "from", "1", &image).await;
    let fixture = Fixture::new();
    let client = client();
    let source = registry.reference("from:1");
    pull(&client, &fixture.store, &source, PullOptions::default()).await.0.unwrap();
    let other = Registry::start();
    let target = other.reference("to/here:2");
    fixture.store.tag(&image.id(), &target).unwrap();
    let (pushed, events) = push(&client, &fixture.store, &target, PushOptions::default()).await;
    let pushed = pushed.unwrap();
    assert_eq!((pushed.tag.as_str(), &pushed.digest, pushed.size), ("2", &image.digest(), image.manifest.len() as u64));
    let lines = push_lines(&events);
    assert_eq!(lines[0], format!("The push refers to repository [{}/to/here]", other.address));
    let short = fixture.store.image(&image.id()).unwrap().layers[0].short();
    for line in
        [format!("{short}: Preparing"), format!("{short}: Pushed"), format!("2: digest: {} size: {}", image.digest(), image.manifest.len())]
    {
        assert!(lines.contains(&line), "{line} not in {lines:#?}");
    }
    let names: Vec<String> = fixture.store.image(&image.id()).unwrap().digests.iter().map(ToString::to_string).collect();
    assert!(names.contains(&format!("{}/to/here@{}", other.address, image.digest())), "{names:?}");
    let back = Fixture::new();
    assert_eq!(pull(&client, &back.store, &target, PullOptions::default()).await.0.unwrap().digest, image.digest());

    let (again, events) = push(&client, &fixture.store, &target, PushOptions::default()).await;
    assert_eq!(again.unwrap().digest, image.digest());
    assert!(push_lines(&events).contains(&format!("{short}: Layer already exists")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_made_here_is_compressed_once_and_comes_back() {
    let registry = Registry::start();
    let fixture = Fixture::new();
    let client = client();
    let reference = registry.reference("made:1");
    let id = import(&fixture, &reference, 22, 3_000_000);
    let first = push(&client, &fixture.store, &reference, PushOptions::default()).await.0.unwrap();
    let second = push(&client, &fixture.store, &reference, PushOptions::default()).await.0.unwrap();
    assert_eq!(first.digest, second.digest);
    let back = Fixture::new();
    let pulled = pull(&client, &back.store, &reference, PullOptions::default()).await.0.unwrap();
    assert_eq!((pulled.id, pulled.digest), (id, first.digest));
    // What was pushed is what a pull would bring.
    assert!(pull(&client, &fixture.store, &reference, PullOptions::default()).await.0.unwrap().up_to_date);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_is_mounted_from_another_repository() {
    let registry = Registry::start();
    let proxy = Proxy::start(&registry.address, |_, _| Act::Pass).await;
    let fixture = Fixture::new();
    let client = client();
    let first = at(&proxy.address, "one:1");
    let id = import(&fixture, &first, 23, 500_000);
    push(&client, &fixture.store, &first, PushOptions::default()).await.0.unwrap();
    let second = at(&proxy.address, "two:1");
    fixture.store.tag(&id, &second).unwrap();
    proxy.forget();
    let (pushed, events) = push(&client, &fixture.store, &second, PushOptions::default()).await;
    pushed.unwrap();
    let short = fixture.store.image(&id).unwrap().layers[0].short();
    assert!(push_lines(&events).contains(&format!("{short}: Mounted from one")), "{events:?}");
    assert_eq!(proxy.count("PATCH", ""), 0);
}

/// docker-registry forgets an upload that breaks: it is begun anew.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_breaks_is_begun_anew() {
    let registry = Registry::start();
    let cut = std::sync::atomic::AtomicBool::new(false);
    let proxy = Proxy::start(&registry.address, move |seen, _| {
        let first = seen.method == "PATCH" && !cut.swap(true, std::sync::atomic::Ordering::Relaxed);
        if first { Act::CutRequest(1_000_000) } else { Act::Pass }
    })
    .await;
    let fixture = Fixture::new();
    let client = client();
    let reference = at(&proxy.address, "broken:1");
    let id = import(&fixture, &reference, 24, 4_000_000);
    push(&client, &fixture.store, &reference, PushOptions::default()).await.0.unwrap();
    assert_eq!(proxy.count("PATCH", ""), 2);
    let back = Fixture::new();
    assert_eq!(pull(&client, &back.store, &registry.reference("broken:1"), PullOptions::default()).await.0.unwrap().id, id);
}

/// A registry that remembers what has arrived of an upload goes on with it.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_breaks_goes_on_where_it_broke() {
    let registry = Uploads::start(1_000_000).await;
    let fixture = Fixture::new();
    let reference = at(&registry.address, "resumed:1");
    import(&fixture, &reference, 28, 4_000_000);
    push(&client(), &fixture.store, &reference, PushOptions::default()).await.0.unwrap();
    let ranges = registry.ranges.lock().unwrap().clone();
    assert_eq!(ranges.len(), 5, "{ranges:?}");
    assert_eq!(ranges[0], None);
    assert!(ranges[1].as_ref().unwrap().starts_with("1000000-"), "{ranges:?}");
}

/// The upload half of a registry; it breaks a connection after each `limit` bytes of a `PATCH`.
#[derive(Clone)]
struct Uploads {
    address: String,
    limit: usize,
    part: Arc<Mutex<Vec<u8>>>,
    blobs: Arc<Mutex<Vec<Digest>>>,
    ranges: Arc<Mutex<Vec<Option<String>>>>,
}

impl Uploads {
    async fn start(limit: usize) -> Uploads {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let uploads = Uploads { address, limit, part: Arc::default(), blobs: Arc::default(), ranges: Arc::default() };
        let shared = uploads.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = shared.clone();
                let service = service_fn(move |request| {
                    let shared = shared.clone();
                    async move { shared.serve(request).await }
                });
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        uploads
    }

    async fn serve(&self, request: Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
        let (parts, mut body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let answer = |status: u16| Response::builder().status(status).header("location", "/v2/resumed/blobs/uploads/one");
        let done = |builder: http::response::Builder| Ok(builder.body(Full::default()).unwrap());
        match (parts.method.as_str(), path.contains("/uploads/")) {
            ("HEAD", _) => {
                let here = self.blobs.lock().unwrap().iter().any(|digest| path.ends_with(&digest.to_string()));
                done(Response::builder().status(if here { 200 } else { 404 }))
            }
            ("POST", true) => {
                self.part.lock().unwrap().clear();
                done(answer(202))
            }
            ("PATCH", true) => {
                let range = parts.headers.get("content-range").map(|value| value.to_str().unwrap().to_owned());
                self.ranges.lock().unwrap().push(range);
                let mut taken = 0;
                while let Some(frame) = body.frame().await {
                    let data = frame.map_err(io::Error::other)?.into_data().unwrap_or_default();
                    let count = data.len().min(self.limit - taken);
                    self.part.lock().unwrap().extend_from_slice(&data[..count]);
                    taken += count;
                    if taken == self.limit {
                        return Err(io::Error::other("cut"));
                    }
                }
                done(answer(202))
            }
            ("GET", true) => {
                let last = self.part.lock().unwrap().len() - 1;
                done(answer(204).header("range", format!("0-{last}")))
            }
            ("PUT", true) => {
                let bytes = body.collect().await.map_err(io::Error::other)?.to_bytes();
                let digest = {
                    let mut part = self.part.lock().unwrap();
                    part.extend_from_slice(&bytes);
                    Digest::of(&part)
                };
                let wanted = parts.uri.query().unwrap_or_default().replace("digest=sha256%3A", "sha256:");
                if wanted != digest.to_string() {
                    return done(answer(400));
                }
                self.blobs.lock().unwrap().push(digest);
                done(answer(201))
            }
            ("PUT", false) => done(Response::builder().status(201)),
            _ => done(Response::builder().status(404)),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_refused_as_too_large_goes_in_pieces() {
    let registry = Registry::start();
    let proxy = Proxy::start(&registry.address, |seen, _| {
        let length: u64 = seen.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        if seen.method == "PATCH" && length > 20 << 20 { Act::Answer(413, vec![], b"too large".to_vec()) } else { Act::Pass }
    })
    .await;
    let fixture = Fixture::new();
    let client = client();
    let reference = at(&proxy.address, "large:1");
    let id = import(&fixture, &reference, 25, 40 << 20);
    push(&client, &fixture.store, &reference, PushOptions::default()).await.0.unwrap();
    assert!(proxy.count("PATCH", "") >= 3);
    let back = Fixture::new();
    assert_eq!(pull(&client, &back.store, &registry.reference("large:1"), PullOptions::default()).await.0.unwrap().id, id);
}

#[tokio::test(flavor = "multi_thread")]
async fn statuses_that_pass_do_not_end_a_push() {
    let registry = Registry::start();
    let proxy = Proxy::start(&registry.address, |seen, before| match (seen.method.as_str(), before) {
        ("POST" | "PUT", 0) => Act::Answer(503, vec![], vec![]),
        ("HEAD", 0) => Act::Answer(502, vec![], vec![]),
        _ => Act::Pass,
    })
    .await;
    let fixture = Fixture::new();
    let client = Client::new(RegistryConfig { max_attempts: 8, ..config() }).unwrap();
    let reference = at(&proxy.address, "flaky:1");
    import(&fixture, &reference, 26, 1_000_000);
    push(&client, &fixture.store, &reference, PushOptions::default()).await.0.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_pushed() {
    let registry = Registry::start();
    let fixture = Fixture::new();
    let client = client();
    let reference = registry.reference("app:1");
    let nothing = push(&client, &fixture.store, &reference, PushOptions::default()).await.0.unwrap_err();
    assert_eq!(nothing.to_string(), format!("An image does not exist locally with the tag: {}/app", registry.address));
    let id = import(&fixture, &reference, 27, 1000);
    let other = push(&client, &fixture.store, &registry.reference("app:2"), PushOptions::default()).await.0.unwrap_err();
    assert_eq!(other.to_string(), format!("tag does not exist: {}/app:2", registry.address));
    assert_eq!(other.kind(), ErrorKind::NotFound);
    let by_digest = registry.reference(&format!("app@{id}"));
    let refused = push(&client, &fixture.store, &by_digest, PushOptions::default()).await.0.unwrap_err();
    assert_eq!(refused.to_string(), "cannot push a digest reference");
    let options = PushOptions { platform: Some("linux/arm64".parse().unwrap()), ..Default::default() };
    let platform = push(&client, &fixture.store, &reference, options).await.0.unwrap_err();
    assert!(platform.to_string().contains("does not provide the specified platform (linux/arm64)"), "{platform}");
    fixture.store.tag(&id, &registry.reference("app:2")).unwrap();
    let all = client.push_all(&fixture.store, &registry.reference("app"), PushOptions::default(), |_| ()).await.unwrap();
    assert_eq!(all.iter().map(|pushed| pushed.tag.as_str()).collect::<Vec<_>>(), ["1", "2"]);
}
