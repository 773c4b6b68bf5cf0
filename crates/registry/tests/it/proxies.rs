//! The way through an HTTP proxy: tunnels for HTTPS, whole addresses for HTTP, and the hosts that need none.

use crate::support::*;
use crate::tls::{Certificates, client_with, named};
use naru_registry::{Credentials, Error, Proxies, PullOptions, TransportError};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Sends everything to one upstream, whatever its name; wants `user:p@ss`.
struct HttpProxy {
    address: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl HttpProxy {
    async fn start(upstream: &str) -> HttpProxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = HttpProxy { address: listener.local_addr().unwrap().to_string(), heads: Arc::default() };
        let (upstream, heads) = (upstream.to_owned(), proxy.heads.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (upstream, heads) = (upstream.clone(), heads.clone());
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(stream.read_u8().await?);
                    }
                    let text = String::from_utf8_lossy(&head).into_owned();
                    heads.lock().unwrap().push(text.clone());
                    if !text.to_lowercase().contains("proxy-authorization: basic dxnlcjpwqhnz\r\n") {
                        return stream.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n").await;
                    }
                    let mut target = TcpStream::connect(&upstream).await?;
                    if text.starts_with("CONNECT ") {
                        stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
                    } else {
                        target.write_all(&head).await?;
                    }
                    tokio::io::copy_bidirectional(&mut stream, &mut target).await.map(|_| ())
                });
            }
        });
        proxy
    }

    fn settings(&self, userinfo: &str) -> Proxies {
        let url = Some(format!("http://{userinfo}{}", self.address));
        Proxies { http: url.clone(), https: url, none: String::new() }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn https_goes_through_a_tunnel() {
    let certificates = Certificates::new(&["registry.test"]);
    let registry = Registry::with(&RegistryOptions { tls: certificates.server(), ..Default::default() });
    let proxy = HttpProxy::start(&registry.address).await;
    let (authority, reference) = named(&registry);
    let certs = tempfile::tempdir().unwrap();
    std::fs::create_dir(certs.path().join(&authority)).unwrap();
    std::fs::copy(certificates.path("ca.crt"), certs.path().join(&authority).join("ca.crt")).unwrap();
    let client = |proxies: Proxies| client_with(certs.path(), move |config| config.proxies = proxies);
    let none = Credentials::default();
    let answer = client(proxy.settings("user:p%40ss@")).tags(&reference, &none).await;
    assert!(matches!(answer, Err(Error::NoSuchRepository { .. })), "{answer:?}");
    assert!(proxy.heads.lock().unwrap()[0].starts_with(&format!("CONNECT {authority} HTTP/1.1\r\n")));
    match client(proxy.settings("")).tags(&reference, &none).await {
        Err(Error::Transport { reason: TransportError::Proxy(text), .. }) => assert_eq!(text, "407 Proxy Authentication Required"),
        other => panic!("{other:?}"),
    }
    let before = proxy.heads.lock().unwrap().len();
    let direct = client(Proxies { none: "other.test,registry.test".into(), ..proxy.settings("user:p%40ss@") });
    assert!(matches!(direct.tags(&reference, &none).await, Err(Error::NoSuchRepository { .. })));
    assert_eq!(proxy.heads.lock().unwrap().len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn http_asks_for_whole_addresses() {
    let registry = Registry::start();
    let image = Image::noise(51, &[300_000]);
    put_image(&registry.address, "tls", "latest", &image).await;
    let proxy = HttpProxy::start(&registry.address).await;
    let (authority, reference) = named(&registry);
    let certs = tempfile::tempdir().unwrap();
    let client = client_with(certs.path(), |config| {
        config.proxies = proxy.settings("user:p%40ss@");
        config.insecure = vec!["registry.test".into()];
    });
    let fixture = Fixture::new();
    assert_eq!(pull(&client, &fixture.store, &reference, PullOptions::default()).await.0.unwrap().id, image.id());
    let heads = proxy.heads.lock().unwrap().clone();
    assert!(
        heads.iter().any(|head| head.starts_with(&format!("GET http://{authority}/v2/tls/manifests/latest HTTP/1.1\r\n"))),
        "{heads:?}"
    );
}
