//! Logins: basic against docker-registry, tokens against a token server of our own.

use crate::proxy::{Act, Proxy, json};
use crate::support::*;
use http::StatusCode;
use naru_registry::{Credentials, PullOptions, PushOptions};
use naru_types::{ErrorKind, ImageRef};
use std::sync::{Arc, Mutex};

fn account(username: &str, password: &str) -> Credentials {
    Credentials { username: username.into(), password: password.into(), ..Default::default() }
}

fn pull_as(credentials: Credentials) -> PullOptions {
    PullOptions { credentials, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn basic_logins() {
    let registry = Registry::with(&RegistryOptions { htpasswd: true, ..Default::default() });
    let client = client();
    let good = account("naru", "secret");
    assert_eq!(client.login(&registry.address, &good).await.unwrap().identity_token, None);
    let error = client.login(&registry.address, &account("naru", "wrong")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert_eq!(error.to_string(), format!("login attempt to http://{}/v2/ failed with status: 401 Unauthorized", registry.address));
    let fixture = Fixture::new();
    let reference = registry.reference("private:1");
    let options = naru_store::ImportOptions { reference: Some(reference.clone()), ..Default::default() };
    fixture.store.import(&mut &layer("f", &noise(31, 600_000))[..], options).unwrap();
    let error = push(&client, &fixture.store, &reference, PushOptions::default()).await.0.unwrap_err();
    assert!(error.to_string().contains("no basic auth credentials"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Forbidden);
    push(&client, &fixture.store, &reference, PushOptions { credentials: good.clone(), ..Default::default() }).await.0.unwrap();
    let other = Fixture::new();
    let error = pull(&client, &other.store, &reference, pull_as(account("naru", "wrong"))).await.0.unwrap_err();
    assert!(error.to_string().starts_with("unauthorized: "), "{error}");
    let error = pull(&client, &other.store, &reference, PullOptions::default()).await.0.unwrap_err();
    assert!(error.to_string().contains("no basic auth credentials"), "{error}");
    pull(&client, &other.store, &reference, pull_as(good)).await.0.unwrap();
}

/// What a token server was asked.
type Asked = Arc<Mutex<Vec<(String, String, Option<String>)>>>;

/// A registry whose proxy wants tokens of a token server: `token-<n>`, each good for `uses` requests.
async fn with_tokens(registry: &Registry, uses: usize) -> (Proxy, Proxy, Asked) {
    let asked: Asked = Arc::default();
    let issued = Arc::new(Mutex::new(0_usize));
    let (log, count) = (asked.clone(), issued.clone());
    let server = Proxy::start("127.0.0.1:9", move |seen, _| {
        let authorization = seen.header("authorization").map(str::to_owned);
        log.lock().unwrap().push((seen.method.clone(), seen.path.clone(), authorization.clone()));
        // `naru:wrong`
        if authorization.as_deref() == Some("Basic bmFydTp3cm9uZw==") {
            return json(StatusCode::UNAUTHORIZED, r#"{"details":"incorrect username or password"}"#);
        }
        let mut count = count.lock().unwrap();
        *count += 1;
        json(StatusCode::OK, &format!(r#"{{"token":"token-{count}","expires_in":300,"refresh_token":"refresh"}}"#))
    })
    .await;
    let realm = format!("http://{}/token", server.address);
    let used = Mutex::new(std::collections::HashMap::<String, usize>::new());
    let proxy = Proxy::start(&registry.address, move |seen, _| {
        let repository = seen.path.strip_prefix("/v2/").and_then(|rest| rest.split('/').next()).unwrap_or_default();
        let challenge = |error: &str| {
            let scope = if repository.is_empty() { String::new() } else { format!(",scope=\"repository:{repository}:pull\"") };
            let value = format!("Bearer realm=\"{realm}\",service=\"test\"{scope}{error}");
            Act::Answer(
                401,
                vec![("www-authenticate", value)],
                br#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#.to_vec(),
            )
        };
        if repository == "secret" {
            return challenge(",error=\"insufficient_scope\"");
        }
        match seen.header("authorization") {
            Some(token) if token.starts_with("Bearer token-") || token == "Bearer own" => {
                let mut used = used.lock().unwrap();
                let count = used.entry(token.to_owned()).or_default();
                *count += 1;
                if *count > uses { challenge(",error=\"invalid_token\"") } else { Act::Pass }
            }
            _ => challenge(""),
        }
    })
    .await;
    (proxy, server, asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_asked_for_once() {
    let registry = Registry::start();
    let image = Image::noise(32, &[50_000, 40_000, 30_000]);
    put_image(&registry.address, "tok", "latest", &image).await;
    let (proxy, _server, asked) = with_tokens(&registry, usize::MAX).await;
    let fixture = Fixture::new();
    let client = client();
    let reference = ImageRef::parse(&format!("{}/tok", proxy.address)).unwrap();
    pull(&client, &fixture.store, &reference, PullOptions::default()).await.0.unwrap();
    assert_eq!(*asked.lock().unwrap(), [("GET".to_owned(), "/token?scope=repository%3Atok%3Apull&service=test".to_owned(), None)]);
    // Another account has another token; the account is told.
    let error = pull(&client, &fixture.store, &reference, pull_as(account("naru", "wrong"))).await.0.unwrap_err();
    assert!(error.to_string().contains("unauthorized: incorrect username or password"), "{error}");
    assert!(asked.lock().unwrap().last().unwrap().1.contains("account=naru"));
    let secret = ImageRef::parse(&format!("{}/secret", proxy.address)).unwrap();
    let error = pull(&client, &fixture.store, &secret, PullOptions::default()).await.0.unwrap_err();
    let text = format!(
        "pull access denied for {}/secret, repository does not exist or may require 'docker login': denied: requested access to the resource is denied",
        proxy.address
    );
    assert_eq!((error.to_string(), error.kind()), (text, ErrorKind::NotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_end_are_renewed_in_the_midst_of_a_push() {
    let registry = Registry::start();
    let (proxy, _server, asked) = with_tokens(&registry, 3).await;
    let fixture = Fixture::new();
    let client = client();
    let reference = ImageRef::parse(&format!("{}/up:1", proxy.address)).unwrap();
    let options = naru_store::ImportOptions { reference: Some(reference.clone()), ..Default::default() };
    let id = fixture.store.import(&mut &layer("f", &noise(33, 2_000_000))[..], options).unwrap();
    push(&client, &fixture.store, &reference, PushOptions::default()).await.0.unwrap();
    assert!(asked.lock().unwrap().len() > 1);
    assert!(asked.lock().unwrap()[0].1.contains("scope=repository%3Aup%3Apush%2Cpull"), "{asked:?}");
    let other = ImageRef::parse(&format!("{}/again:1", proxy.address)).unwrap();
    fixture.store.tag(&id, &other).unwrap();
    push(&client, &fixture.store, &other, PushOptions::default()).await.0.unwrap();
    let scopes = "scope=repository%3Aagain%3Apush%2Cpull&scope=repository%3Aup%3Apull";
    assert!(asked.lock().unwrap().iter().any(|(_, path, _)| path.contains(scopes)), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn identity_and_registry_tokens() {
    let registry = Registry::start();
    let image = Image::noise(34, &[1000]);
    put_image(&registry.address, "id", "latest", &image).await;
    let (proxy, server, asked) = with_tokens(&registry, usize::MAX).await;
    let client = client();
    let outcome = client.login(&format!("http://{}/v1/", proxy.address), &account("naru", "secret")).await.unwrap();
    assert_eq!(outcome.identity_token.as_deref(), Some("refresh"));
    let first = asked.lock().unwrap()[0].clone();
    assert!(first.1.contains("account=naru") && first.1.contains("offline_token=true") && first.2.is_some(), "{first:?}");
    let error = client.login(&proxy.address, &account("naru", "wrong")).await.unwrap_err();
    assert_eq!(error.to_string(), "unauthorized: incorrect username or password");
    let reference = ImageRef::parse(&format!("{}/id", proxy.address)).unwrap();
    server.forget();
    let identity = Credentials { identity_token: "refresh".into(), ..Default::default() };
    pull(&client, &Fixture::new().store, &reference, pull_as(identity)).await.0.unwrap();
    assert_eq!(server.seen().iter().map(|seen| (seen.method.as_str(), seen.path.as_str())).collect::<Vec<_>>(), [("POST", "/token")]);
    server.forget();
    let own = Credentials { registry_token: "own".into(), ..Default::default() };
    pull(&client, &Fixture::new().store, &reference, pull_as(own)).await.0.unwrap();
    assert!(server.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_demand_for_tokens_ends() {
    let registry = Registry::start();
    let (proxy, _server, asked) = with_tokens(&registry, 0).await;
    let reference = ImageRef::parse(&format!("{}/x", proxy.address)).unwrap();
    let error = pull(&client(), &Fixture::new().store, &reference, PullOptions::default()).await.0.unwrap_err();
    assert!(error.to_string().starts_with("unauthorized: authentication required"), "{error}");
    assert!(asked.lock().unwrap().len() <= 3);
}
