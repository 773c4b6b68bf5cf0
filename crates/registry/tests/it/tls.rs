//! Certificates: trusted, not trusted, of clients, and none at all.

use crate::support::*;
use naru_registry::{Client, Credentials, Error, PullOptions, RegistryConfig, TransportError};
use naru_types::ImageRef;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::path::{Path, PathBuf};

pub struct Certificates {
    directory: tempfile::TempDir,
}

impl Certificates {
    /// An authority, a server's certificate for 127.0.0.1 and a client's.
    pub fn new(server_names: &[&str]) -> Certificates {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| std::fs::write(directory.path().join(name), text).unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        write("ca.crt", ca.pem());
        let server_names: Vec<String> = server_names.iter().map(ToString::to_string).collect();
        for (name, names) in [("server", server_names), ("client", vec!["client".to_owned()])] {
            let key = KeyPair::generate().unwrap();
            let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &ca).unwrap();
            write(&format!("{name}.pem"), certificate.pem());
            write(&format!("{name}.key"), key.serialize_pem());
        }
        Certificates { directory }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn server(&self) -> Option<(PathBuf, PathBuf)> {
        Some((self.path("server.pem"), self.path("server.key")))
    }
}

/// The registry by a name that is not loopback's, which would need no certificate.
pub fn named(registry: &Registry) -> (String, ImageRef) {
    let authority = format!("registry.test:{}", registry.address.rsplit(':').next().unwrap());
    let reference = ImageRef::parse(&format!("{authority}/tls")).unwrap();
    (authority, reference)
}

pub fn client_with(certs: &Path, change: impl FnOnce(&mut RegistryConfig)) -> Client {
    let hosts = certs.join("hosts");
    std::fs::write(&hosts, "127.0.0.1 registry.test\n").unwrap();
    let mut config = RegistryConfig { certs_dirs: vec![certs.to_owned()], hosts_file: hosts, ..config() };
    change(&mut config);
    Client::new(config).unwrap()
}

async fn reason(client: &Client, reference: &ImageRef) -> String {
    match client.tags(reference, &Credentials::default()).await {
        Err(Error::Transport { reason, .. }) => reason.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_known_authority_is_trusted() {
    let certificates = Certificates::new(&["registry.test"]);
    let registry = Registry::with(&RegistryOptions { tls: certificates.server(), ..Default::default() });
    let (authority, reference) = named(&registry);
    let certs = tempfile::tempdir().unwrap();
    let client = client_with(certs.path(), |_| ());
    let text = reason(&client, &reference).await;
    assert!(text.starts_with("tls: failed to verify certificate: x509: certificate signed by unknown authority"), "{text}");
    assert!(text.contains(&format!("certs.d/{authority}/ca.crt")), "{text}");
    // A certificate that comes later is seen without a new client.
    let own = certs.path().join(&authority);
    std::fs::create_dir(&own).unwrap();
    std::fs::copy(certificates.path("ca.crt"), own.join("ca.crt")).unwrap();
    assert!(matches!(client.tags(&reference, &Credentials::default()).await, Err(Error::NoSuchRepository { .. })));
    // The server's own certificate will do, too.
    std::fs::copy(certificates.path("server.pem"), own.join("ca.crt")).unwrap();
    assert!(matches!(
        client_with(certs.path(), |_| ()).tags(&reference, &Credentials::default()).await,
        Err(Error::NoSuchRepository { .. })
    ));
    // Or no check at all.
    std::fs::remove_dir_all(&own).unwrap();
    let insecure = client_with(certs.path(), |config| config.insecure = vec!["registry.test".into()]);
    assert!(matches!(insecure.tags(&reference, &Credentials::default()).await, Err(Error::NoSuchRepository { .. })));
    let fixture = Fixture::new();
    assert!(pull(&insecure, &fixture.store, &reference, PullOptions::default()).await.0.is_err());
    let loopback = registry.reference("tls");
    assert!(matches!(client.tags(&loopback, &Credentials::default()).await, Err(Error::NoSuchRepository { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_for_another_name_is_refused() {
    let certificates = Certificates::new(&["other.test"]);
    let registry = Registry::with(&RegistryOptions { tls: certificates.server(), ..Default::default() });
    let (authority, reference) = named(&registry);
    let certs = tempfile::tempdir().unwrap();
    let own = certs.path().join(authority);
    std::fs::create_dir(&own).unwrap();
    for file in ["ca.crt", "server.pem"] {
        std::fs::copy(certificates.path(file), own.join("ca.crt")).unwrap();
        let text = reason(&client_with(certs.path(), |_| ()), &reference).await;
        assert!(text.contains("registry.test"), "{text}");
        assert!(text.contains("x509: certificate is "), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_wants_a_client_certificate() {
    let certificates = Certificates::new(&["registry.test"]);
    let options = RegistryOptions { tls: certificates.server(), client_ca: Some(certificates.path("ca.crt")), ..Default::default() };
    let registry = Registry::with(&options);
    let (authority, reference) = named(&registry);
    let certs = tempfile::tempdir().unwrap();
    let own = certs.path().join(authority);
    std::fs::create_dir(&own).unwrap();
    std::fs::copy(certificates.path("ca.crt"), own.join("ca.crt")).unwrap();
    let client = client_with(certs.path(), |_| ());
    let text = reason(&client, &reference).await;
    assert!(text.contains("does it want a client certificate?"), "{text}");
    std::fs::copy(certificates.path("client.key"), own.join("client.key")).unwrap();
    let text = reason(&client, &reference).await;
    assert!(text.contains("missing client certificate"), "{text}");
    std::fs::copy(certificates.path("client.pem"), own.join("client.cert")).unwrap();
    assert!(matches!(client.tags(&reference, &Credentials::default()).await, Err(Error::NoSuchRepository { .. })));
    std::fs::copy(certificates.path("server.key"), own.join("client.key")).unwrap();
    // The other client has a connection still.
    let text = reason(&client_with(certs.path(), |_| ()), &reference).await;
    assert!(text.contains("the client certificate cannot be used"), "{text}");
}

/// As `openssl x509 -req` makes certificates where nobody asks for extensions.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_of_version_1() {
    let certificates = Certificates::new(&["registry.test"]);
    let openssl = |command: &str| {
        let words = command.split_whitespace().map(|word| word.strip_prefix('@').map_or(word.into(), |name| certificates.path(name)));
        let output = std::process::Command::new("openssl").args(words).output().expect("this test needs openssl");
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    };
    openssl("req -x509 -newkey rsa:2048 -noenc -keyout @v1-ca.key -out @v1-ca.crt -subj /CN=authority -days 2");
    openssl("req -newkey rsa:2048 -noenc -keyout @v1.key -out @v1.csr -subj /CN=client");
    openssl("x509 -req -in @v1.csr -CA @v1-ca.crt -CAkey @v1-ca.key -out @v1.pem -days 2");
    let options = RegistryOptions { tls: certificates.server(), client_ca: Some(certificates.path("v1-ca.crt")), ..Default::default() };
    let registry = Registry::with(&options);
    let (authority, reference) = named(&registry);
    let certs = tempfile::tempdir().unwrap();
    let own = certs.path().join(authority);
    std::fs::create_dir(&own).unwrap();
    for (from, to) in [("ca.crt", "ca.crt"), ("v1.key", "client.key"), ("v1.pem", "client.cert")] {
        std::fs::copy(certificates.path(from), own.join(to)).unwrap();
    }
    let client = client_with(certs.path(), |_| ());
    let answer = client.tags(&reference, &Credentials::default()).await;
    assert!(matches!(answer, Err(Error::NoSuchRepository { .. })), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_is_for_insecure_registries_only() {
    let registry = Registry::start();
    let (_, reference) = named(&registry);
    let certs = tempfile::tempdir().unwrap();
    let text = reason(&client_with(certs.path(), |_| ()), &reference).await;
    assert!(text.starts_with("http: server gave HTTP response to HTTPS client"), "{text}");
    let insecure = client_with(certs.path(), |config| config.insecure = vec!["registry.test".into()]);
    assert!(matches!(insecure.tags(&reference, &Credentials::default()).await, Err(Error::NoSuchRepository { .. })));
    let unknown = ImageRef::parse("nowhere.invalid/x").unwrap();
    let nobody = client_with(certs.path(), |config| config.resolv_conf = "/nonexistent".into());
    assert!(matches!(
        nobody.tags(&unknown, &Credentials::default()).await,
        Err(Error::Transport { reason: TransportError::Lookup { .. } | TransportError::NoSuchHost { .. }, .. })
    ));
}

/// A registry with a certificate that gives everyone the same answer.
async fn secure_server(certificates: &Certificates, answer: String) -> String {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let chain = vec![CertificateDer::from_pem_file(certificates.path("server.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(certificates.path("server.key")).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = builder.with_no_client_auth().with_single_cert(chain, key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, answer) = (acceptor.clone(), answer.clone());
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await?;
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await?);
                }
                stream.write_all(answer.as_bytes()).await?;
                stream.shutdown().await
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_leads_from_https_to_http() {
    let inside = crate::proxy::Proxy::start("127.0.0.1:9", |_, _| crate::proxy::Act::Answer(200, vec![], b"{}".to_vec())).await;
    let certificates = Certificates::new(&["registry.test"]);
    for (answer, text) in [
        (format!("307 Temporary Redirect\r\nLocation: http://{}/x", inside.address), "a redirect from https"),
        (format!("401 Unauthorized\r\nWww-Authenticate: Bearer realm=\"http://{}/token\"", inside.address), "over plain http"),
    ] {
        let address = secure_server(&certificates, format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n")).await;
        let authority = format!("registry.test:{}", address.rsplit(':').next().unwrap());
        let certs = tempfile::tempdir().unwrap();
        std::fs::create_dir(certs.path().join(&authority)).unwrap();
        std::fs::copy(certificates.path("ca.crt"), certs.path().join(&authority).join("ca.crt")).unwrap();
        let client = client_with(certs.path(), |_| ());
        let credentials = Credentials { username: "u".into(), password: "p".into(), ..Default::default() };
        let error = client.tags(&ImageRef::parse(&format!("{authority}/x")).unwrap(), &credentials).await.unwrap_err();
        assert!(matches!(error, Error::Protocol { .. }) && error.to_string().contains(text), "{error}");
    }
    assert!(inside.seen().is_empty());
}
