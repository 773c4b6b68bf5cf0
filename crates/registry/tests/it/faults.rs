//! Networks that break and registries that are slow, full or confused: pulls and pushes arrive all the same.

use crate::proxy::{Act, Proxy, json};
use crate::support::*;
use http::StatusCode;
use naru_registry::{Client, Error, PullOptions, RegistryConfig, TransportError};
use naru_types::ImageRef;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const SIZE: usize = 3_000_000;

/// Pulls an image of one layer through a proxy that spoils requests for this layer.
async fn spoiled(
    rule: impl Fn(usize, Option<&str>) -> Act + Send + Sync + 'static,
) -> (Image, Proxy, Fixture, naru_registry::Result<naru_registry::Pulled>) {
    let registry = Registry::start();
    let image = Image::noise(11, &[SIZE]);
    put_image(&registry.address, "f", "latest", &image).await;
    let path = format!("/v2/f/blobs/{}", image.layer_digest(0));
    let proxy =
        Proxy::start(&registry.address, move |seen, before| if seen.path == path { rule(before, seen.header("range")) } else { Act::Pass })
            .await;
    let fixture = Fixture::new();
    let reference = ImageRef::parse(&format!("{}/f", proxy.address)).unwrap();
    let pulled = pull(&client(), &fixture.store, &reference, PullOptions::default()).await.0;
    (image, proxy, fixture, pulled)
}

fn ranges(proxy: &Proxy, image: &Image) -> Vec<Option<String>> {
    let digest = image.layer_digest(0).to_string();
    proxy.seen().iter().filter(|seen| seen.path.ends_with(&digest)).map(|seen| seen.header("range").map(str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_breaks_goes_on_where_it_broke() {
    let (image, proxy, _fixture, pulled) = spoiled(|before, _| if before == 0 { Act::Cut(1_000_000) } else { Act::Pass }).await;
    assert_eq!(pulled.unwrap().id, image.id());
    assert_eq!(ranges(&proxy, &image), [None, Some("bytes=1000000-".to_owned())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_breaks_often_but_gets_on_arrives() {
    let (image, proxy, _fixture, pulled) = spoiled(|_, _| Act::Cut(400_000)).await;
    assert_eq!(pulled.unwrap().id, image.id());
    assert_eq!(ranges(&proxy, &image).len(), SIZE.div_ceil(400_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_hardly_gets_on_is_given_up_and_its_part_stays() {
    let (image, proxy, fixture, pulled) = spoiled(|_, _| Act::Cut(1000)).await;
    let error = pulled.unwrap_err();
    assert!(error.to_string().contains("/v2/f/blobs/"), "{error}");
    assert_eq!(ranges(&proxy, &image).len(), 5);
    let files = fixture.settled(|files| files.len() == 1).await;
    assert_eq!(files, [format!("partial/{}", image.layer_digest(0).hex())]);
    assert!(fixture.store.list().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_ends_early_without_a_word_goes_on() {
    let (image, proxy, _fixture, pulled) = spoiled(|before, _| if before < 2 { Act::EndAfter(1_000_000) } else { Act::Pass }).await;
    assert_eq!(pulled.unwrap().id, image.id());
    assert_eq!(ranges(&proxy, &image).len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_that_ends_early_is_asked_for_again() {
    let registry = Registry::start();
    let image = Image::noise(16, &[1000]);
    put_image(&registry.address, "e", "latest", &image).await;
    let config = image.id().to_string();
    let proxy = Proxy::start(
        &registry.address,
        move |seen, before| {
            if seen.path.ends_with(&config) && before < 2 { Act::EndAfter(10) } else { Act::Pass }
        },
    )
    .await;
    let reference = ImageRef::parse(&format!("{}/e", proxy.address)).unwrap();
    let pulled = pull(&client(), &Fixture::new().store, &reference, PullOptions::default()).await.0;
    assert_eq!(pulled.unwrap().id, image.id());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_stalls_is_broken_off() {
    let (image, proxy, _fixture, pulled) = spoiled(|before, _| if before == 0 { Act::Stall(500_000) } else { Act::Pass }).await;
    assert_eq!(pulled.unwrap().id, image.id());
    assert_eq!(ranges(&proxy, &image)[1], Some("bytes=500000-".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_without_ranges_sends_all_again() {
    let (image, proxy, _fixture, pulled) = spoiled(|before, _| if before == 0 { Act::Cut(1_000_000) } else { Act::IgnoreRange }).await;
    assert_eq!(pulled.unwrap().id, image.id());
    assert_eq!(ranges(&proxy, &image).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_range_than_asked_for_is_refused() {
    let (_image, _proxy, fixture, pulled) =
        spoiled(
            |before, _| {
                if before == 0 { Act::Cut(1_000_000) } else { Act::Header("content-range", format!("bytes 0-{}/{SIZE}", SIZE - 1)) }
            },
        )
        .await;
    let error = pulled.unwrap_err();
    assert!(error.to_string().contains("bytes from 1000000 of"), "{error}");
    assert!(fixture.store.list().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn statuses_that_pass_are_waited_for() {
    let (image, proxy, _fixture, pulled) = spoiled(|before, _| match before {
        0 => json(StatusCode::SERVICE_UNAVAILABLE, "{}"),
        1 => Act::Answer(429, vec![("retry-after", "1".into())], br#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slowly"}]}"#.to_vec()),
        2 => json(StatusCode::INTERNAL_SERVER_ERROR, "{}"),
        _ => Act::Pass,
    })
    .await;
    assert_eq!(pulled.unwrap().id, image.id());
    // One more than the answers: what came before the layer was asked for in earnest is not counted as an attempt.
    assert!((4..=5).contains(&ranges(&proxy, &image).len()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_asks_for_too_much_patience_gets_none() {
    let (_image, proxy, _fixture, pulled) = spoiled(|_, _| {
        Act::Answer(
            429,
            vec![("retry-after", "3600".into())],
            br#"{"errors":[{"code":"TOOMANYREQUESTS","message":"pull rate limit"}]}"#.to_vec(),
        )
    })
    .await;
    let error = pulled.unwrap_err();
    assert!(error.to_string().starts_with("toomanyrequests: pull rate limit") && error.to_string().contains("3600 s"), "{error}");
    assert!(proxy.count("GET", "/blobs/") <= 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_leave_nothing() {
    for act in [Act::Flip, Act::Half] {
        let (_image, _proxy, fixture, pulled) = spoiled(move |_, _| act.clone()).await;
        assert!(pulled.is_err());
        let files = fixture.settled(<[String]>::is_empty).await;
        assert!(files.is_empty(), "{files:?}");
        assert!(fixture.store.list().is_empty());
    }
}

/// One layer's storage is broken: what came of the other one is not fetched again.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_answers_wrongly_costs_no_other_layer() {
    let registry = Registry::start();
    let image = Image::noise(19, &[SIZE, 200_000]);
    put_image(&registry.address, "w", "latest", &image).await;
    let (good, bad) = (format!("/v2/w/blobs/{}", image.layer_digest(0)), format!("/v2/w/blobs/{}", image.layer_digest(1)));
    let (part_came, mended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (came, whole) = (part_came.clone(), mended.clone());
    let proxy = Proxy::start(&registry.address, move |seen, before| match () {
        () if whole.load(Ordering::SeqCst) => Act::Pass,
        () if seen.path == good && before == 0 => Act::Cut(1_000_000),
        () if seen.path == good => {
            // It asks for the rest.
            came.store(true, Ordering::SeqCst);
            Act::Stall(0)
        }
        () if seen.path == bad => {
            tokio::task::block_in_place(|| {
                while !came.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
            Act::Answer(307, vec![("location", seen.path.clone())], vec![])
        }
        () => Act::Pass,
    })
    .await;
    let fixture = Fixture::new();
    let reference = ImageRef::parse(&format!("{}/w", proxy.address)).unwrap();
    let error = pull(&client(), &fixture.store, &reference, PullOptions::default()).await.0.unwrap_err();
    assert!(matches!(error.root(), Error::Protocol { .. }) && error.to_string().contains("redirects"), "{error}");
    let part = format!("partial/{}", image.layer_digest(0).hex());
    // The stream of the good layer ends on its own, in a thread.
    let held = || fixture.root.join(&part).metadata().map_or(0, |part| part.len());
    let files = fixture.settled(|files| *files == [part.clone()] && held() == 1_000_000).await;
    assert_eq!((files, held()), (vec![part.clone()], 1_000_000));
    mended.store(true, Ordering::SeqCst);
    let before = ranges(&proxy, &image).len();
    let pulled = pull(&client(), &fixture.store, &reference, PullOptions::default()).await.0;
    assert_eq!(pulled.unwrap().id, image.id());
    assert_eq!(ranges(&proxy, &image)[before..], [Some("bytes=1000000-".to_owned())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_to_other_hosts_go_without_authorization() {
    let registry = Registry::with(&RegistryOptions { htpasswd: false, ..Default::default() });
    let image = Image::noise(12, &[100_000]);
    put_image(&registry.address, "r", "latest", &image).await;
    let storage = Proxy::start(&registry.address, |_, _| Act::Pass).await;
    let target = storage.address.clone();
    let proxy = Proxy::start(&registry.address, move |seen, _| {
        if seen.header("authorization").is_none() {
            return Act::Answer(401, vec![("www-authenticate", "Basic realm=\"x\"".into())], vec![]);
        }
        if seen.path.contains("/blobs/") {
            return Act::Answer(307, vec![("location", format!("http://{target}{}", seen.path))], vec![]);
        }
        Act::Pass
    })
    .await;
    let fixture = Fixture::new();
    let reference = ImageRef::parse(&format!("{}/r", proxy.address)).unwrap();
    let credentials = naru_registry::Credentials { username: "u".into(), password: "p".into(), ..Default::default() };
    let (pulled, _) = pull(&client(), &fixture.store, &reference, PullOptions { credentials, ..Default::default() }).await;
    assert_eq!(pulled.unwrap().id, image.id());
    assert!(storage.seen().len() >= 2);
    assert!(storage.seen().iter().all(|seen| seen.header("authorization").is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_gone_is_told_so() {
    let address = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let fixture = Fixture::new();
    let reference = ImageRef::parse(&format!("{address}/x")).unwrap();
    let error = pull(&client(), &fixture.store, &reference, PullOptions::default()).await.0.unwrap_err();
    assert!(error.to_string().contains(&format!("dial tcp {address}: connect: connection refused")), "{error}");
}

/// A child that pulls and is killed: see the test below.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the other half of the test below"]
async fn killed_child() {
    let Ok(root) = std::env::var("NARU_TEST_ROOT") else { return };
    let store = open_store(std::path::Path::new(&root));
    let reference = ImageRef::parse(&std::env::var("NARU_TEST_REFERENCE").unwrap()).unwrap();
    let client = Client::new(RegistryConfig { idle_timeout: Duration::from_secs(600), ..config() }).unwrap();
    client.pull(&store, &reference, PullOptions::default(), |_| ()).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_engine_left_is_used() {
    let registry = Registry::start();
    let image = Image::noise(13, &[SIZE]);
    put_image(&registry.address, "k", "latest", &image).await;
    let proxy =
        Proxy::start(
            &registry.address,
            |seen, before| {
                if seen.path.contains("/blobs/") && before == 0 { Act::Stall(2_000_000) } else { Act::Pass }
            },
        )
        .await;
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    let reference = format!("{}/k", proxy.address);
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "faults::killed_child"])
        .env("NARU_TEST_ROOT", &root)
        .env("NARU_TEST_REFERENCE", &reference)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let partial = root.join("partial").join(image.layer_digest(0).hex());
    for _ in 0..2400 {
        if std::fs::metadata(&partial).is_ok_and(|metadata| metadata.len() >= 1_500_000) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let left = std::fs::metadata(&partial).unwrap().len();
    let store = open_store(&root);
    let pulled = pull(&client(), &store, &ImageRef::parse(&reference).unwrap(), PullOptions::default()).await.0;
    assert_eq!(pulled.unwrap().id, image.id());
    assert_eq!(ranges(&proxy, &image), [None, Some(format!("bytes={left}-"))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_layer_count_is_refused_before_layers_are_unpacked() {
    let registry = Registry::start();
    let mut image = Image::noise(14, &[10_000, 10_000]);
    let mut manifest: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
    manifest["layers"].as_array_mut().unwrap().pop();
    image.manifest = serde_json::to_vec(&manifest).unwrap();
    put_image(&registry.address, "c", "latest", &image).await;
    let fixture = Fixture::new();
    let error = pull(&client(), &fixture.store, &registry.reference("c"), PullOptions::default()).await.0.unwrap_err();
    assert!(matches!(error.root(), Error::Invalid { .. }), "{error}");
    assert!(error.to_string().contains("it names 2 layers, the manifest has 1"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trickle_is_broken_off() {
    let registry = Registry::start();
    let image = Image::noise(15, &[10_000]);
    put_image(&registry.address, "t", "latest", &image).await;
    for part in ["/blobs/", "/manifests/"] {
        let proxy = Proxy::start(&registry.address, move |seen, _| if seen.path.contains(part) { Act::Trickle } else { Act::Pass }).await;
        let client = Client::new(RegistryConfig { max_attempts: 1, idle_timeout: Duration::from_secs(2), ..config() }).unwrap();
        let fixture = Fixture::new();
        let reference = ImageRef::parse(&format!("{}/t", proxy.address)).unwrap();
        let error = pull(&client, &fixture.store, &reference, PullOptions::default()).await.0.unwrap_err();
        assert!(matches!(error.root(), Error::Transport { reason: TransportError::Slow(_), .. }), "{error}");
    }
}

/// Up to three faults of any kind on every address, in an order that the seed decides: a pull and a push arrive all the same.
#[tokio::test(flavor = "multi_thread")]
async fn any_mixture_of_passing_faults_is_survived() {
    let registry = Registry::start();
    let images: Vec<Image> = (0..3).map(|at| Image::noise(60 + at, &[1_500_000, 200_000, 3_000])).collect();
    for (at, image) in images.iter().enumerate() {
        put_image(&registry.address, "mix", &format!("v{at}"), image).await;
    }
    for seed in 0..6_u8 {
        let proxy = Proxy::start(&registry.address, move |seen, before| {
            let dice = naru_types::Digest::of(format!("{seed} {} {} {before}", seen.method, seen.path).as_bytes());
            let [kind, amount, ..] = *dice.as_bytes();
            let amount = usize::from(amount) * 5000;
            match kind % 12 {
                _ if before >= 3 => Act::Pass,
                0 => Act::Answer(503, vec![], vec![]),
                1 => Act::Answer(500, vec![], b"{}".to_vec()),
                2 => Act::Answer(429, vec![("retry-after", "0".into())], vec![]),
                3 if seen.method == "GET" => Act::Cut(amount),
                4 if seen.method == "GET" => Act::EndAfter(amount),
                5 if seen.method == "GET" => Act::IgnoreRange,
                6 if seen.method == "GET" && seed == 0 => Act::Stall(amount),
                7 if seen.method == "PATCH" => Act::CutRequest(amount.max(1)),
                _ => Act::Pass,
            }
        })
        .await;
        let client = Client::new(RegistryConfig { max_attempts: 12, idle_timeout: Duration::from_millis(500), ..config() }).unwrap();
        let fixture = Fixture::new();
        let pulls = (0..3).map(|at| {
            let (client, store) = (client.clone(), fixture.store.clone());
            let reference = ImageRef::parse(&format!("{}/mix:v{at}", proxy.address)).unwrap();
            tokio::spawn(async move { pull(&client, &store, &reference, PullOptions::default()).await.0 })
        });
        for (pull, image) in pulls.collect::<Vec<_>>().into_iter().zip(&images) {
            assert_eq!(pull.await.unwrap().unwrap().id, image.id(), "seed {seed}");
        }
        let target = ImageRef::parse(&format!("{}/back{seed}:1", proxy.address)).unwrap();
        fixture.store.tag(&images[0].id(), &target).unwrap();
        let pushed = push(&client, &fixture.store, &target, Default::default()).await.0.unwrap();
        assert_eq!(pushed.digest, images[0].digest(), "seed {seed}");
        let left = fixture.settled(|files| !files.iter().any(|file| file.starts_with("partial/") || file.starts_with("staging/"))).await;
        assert!(left.iter().all(|file| file.starts_with("blobs/") || file.starts_with("layers/")), "{left:?}");
    }
}
