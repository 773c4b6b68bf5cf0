//! TLS settings per registry: the host's certificate authorities, those of `certs.d/<host:port>/`, client certificates, and
//! no check at all for registries that are listed as insecure.

use crate::config::RegistryConfig;
use crate::error::{Error, Result, TransportError};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, InconsistentKeys, RootCertStore, SignatureScheme};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::SystemTime;

/// Certificates in one directory; more are a mistake.
const MAX_FILES: usize = 64;
/// The largest certificate or key file.
const MAX_FILE: u64 = 1 << 20;

/// The files of a `certs.d` directory as they were when a setting was made of them.
type Stamp = Vec<(PathBuf, Option<SystemTime>, u64)>;

/// Settings by registry; made once and again when the files change.
#[derive(Debug, Default)]
pub(crate) struct TlsConfigs {
    roots: OnceLock<Arc<RootCertStore>>,
    made: Mutex<HashMap<String, (Stamp, Arc<ClientConfig>)>>,
}

/// What is bound to one registry.
#[derive(Debug, Default)]
struct Extra {
    authorities: Vec<CertificateDer<'static>>,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

impl TlsConfigs {
    /// The settings for a registry, `authority` being `host` or `host:port`.
    pub fn for_host(&self, config: &RegistryConfig, authority: &str) -> Result<Arc<ClientConfig>> {
        let stamp = stamp(&config.certs_dirs, authority);
        let insecure = config.is_insecure(authority);
        // Hosts without anything of their own share one setting, and with it the sessions that can be resumed.
        let key = match (stamp.is_empty(), insecure) {
            (true, false) => "",
            (true, true) => "insecure",
            (false, _) => authority,
        };
        if let Some((known, made)) = self.made.lock().expect("nothing panics while it is held").get(key)
            && *known == stamp
        {
            return Ok(made.clone());
        }
        let extra = read_extra(&stamp)?;
        let made = Arc::new(self.make(extra, insecure)?);
        self.made.lock().expect("nothing panics while it is held").insert(key.to_owned(), (stamp, made.clone()));
        Ok(made)
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let load = || {
            let mut store = RootCertStore::empty();
            let found = rustls_native_certs::load_native_certs();
            store.add_parsable_certificates(found.certs);
            if store.is_empty() {
                tracing::info!("this host has no certificate authorities, those of Mozilla are used");
                store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
            }
            Arc::new(store)
        };
        self.roots.get_or_init(load).clone()
    }

    fn make(&self, extra: Extra, insecure: bool) -> Result<ClientConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let wrong = |reason: String| Error::Config { name: "certs.d".into(), value: String::new(), reason };
        let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let builder = builder.map_err(|e| wrong(e.to_string()))?.dangerous();
        let verifier: Arc<dyn ServerCertVerifier> = if insecure {
            Arc::new(Unchecked(provider.clone()))
        } else {
            let roots = if extra.authorities.is_empty() {
                self.roots()
            } else {
                let mut roots = (*self.roots()).clone();
                roots.add_parsable_certificates(extra.authorities.iter().cloned());
                Arc::new(roots)
            };
            let inner = WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build().map_err(|e| wrong(e.to_string()))?;
            Arc::new(Checked { inner, pinned: extra.authorities })
        };
        let builder = builder.with_custom_certificate_verifier(verifier);
        let mut made = match extra.identity {
            Some((chain, key)) => {
                let identity = identity(&provider, chain, key);
                let identity = identity.map_err(|e| wrong(format!("the client certificate cannot be used: {e}")))?;
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity)))
            }
            None => builder.with_no_client_auth(),
        };
        made.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(made)
    }
}

/// A client's certificate and its key. The server judges the certificate: that this library reads none of version 1, as
/// `openssl x509 -req` makes them, does not matter.
fn identity(
    provider: &CryptoProvider,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> std::result::Result<CertifiedKey, rustls::Error> {
    let identity = CertifiedKey::new(chain, provider.key_provider.load_private_key(key)?);
    match identity.keys_match() {
        Err(error @ (rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) | rustls::Error::NoCertificatesPresented)) => {
            Err(error)
        }
        _ => Ok(identity),
    }
}

/// The certificate files for a registry in all directories.
fn stamp(directories: &[PathBuf], authority: &str) -> Stamp {
    let mut found = Stamp::new();
    // The authority was parsed: it has no slash and is not `..`.
    for directory in directories.iter().map(|directory| directory.join(authority)) {
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        for entry in entries.flatten().take(MAX_FILES) {
            let path = entry.path();
            let wanted = path.extension().is_some_and(|extension| extension == "crt" || extension == "cert" || extension == "key");
            if let Some(metadata) = std::fs::metadata(&path).ok().filter(|metadata| wanted && metadata.is_file()) {
                found.push((path, metadata.modified().ok(), metadata.len()));
            }
        }
    }
    found.sort();
    found
}

fn read_extra(stamp: &Stamp) -> Result<Extra> {
    let mut extra = Extra::default();
    for (path, _, size) in stamp {
        let wrong = |reason: String| Error::Config { name: "certs.d".into(), value: path.display().to_string(), reason };
        if *size > MAX_FILE {
            return Err(wrong("it is larger than 1 MiB".into()));
        }
        let certificates = |path: &Path| -> Result<Vec<CertificateDer<'static>>> {
            let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
            read.map_err(|e| wrong(format!("no certificate can be read from it: {e}")))
        };
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => extra.authorities.extend(certificates(path)?),
            Some("cert") => {
                let key = path.with_extension("key");
                if !key.exists() {
                    return Err(wrong(format!("missing key {} for client certificate", key.display())));
                }
                let secret = PrivateKeyDer::from_pem_file(&key).map_err(|e| wrong(format!("its key cannot be read: {e}")))?;
                extra.identity = Some((certificates(path)?, secret));
            }
            Some("key") if !path.with_extension("cert").exists() => {
                return Err(wrong(
                    "missing client certificate for the key (client certificates end with .cert, authorities with .crt)".into(),
                ));
            }
            _ => {}
        }
    }
    Ok(extra)
}

/// The usual check; besides, a certificate that lies in `certs.d` itself is trusted for its names, as in Docker, although it
/// is not one of an authority.
#[derive(Debug)]
struct Checked {
    inner: Arc<WebPkiServerVerifier>,
    pinned: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Checked {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let result = self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match result {
            Err(rustls::Error::InvalidCertificate(reason))
                if !is_about_time(&reason) && self.pinned.iter().any(|pinned| pinned.as_ref() == end_entity.as_ref()) =>
            {
                rustls::client::verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// No trust makes up for these.
fn is_about_time(reason: &CertificateError) -> bool {
    matches!(
        reason,
        CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }
            | CertificateError::Revoked
    )
}

/// For insecure registries: whoever answers is believed.
#[derive(Debug)]
struct Unchecked(Arc<CryptoProvider>);

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A failed handshake in the words users know from Go.
pub(crate) fn handshake_error(authority: &str, error: &std::io::Error) -> TransportError {
    let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return TransportError::Broken(format!("tls handshake: {error}"));
    };
    let certificate = |reason: String| TransportError::Certificate { reason };
    match error {
        // The first byte of a TLS record is none of `HTTP/1.1 400`.
        rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => {
            TransportError::PlainHttp { host: authority.to_owned() }
        }
        rustls::Error::InvalidCertificate(error) => match error {
            CertificateError::UnknownIssuer => certificate(format!(
                "certificate signed by unknown authority (put its authority into /etc/docker/certs.d/{authority}/ca.crt)"
            )),
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                certificate("certificate has expired or is not yet valid: it has expired".into())
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                certificate("certificate has expired or is not yet valid: it is not yet valid (is this host's clock right?)".into())
            }
            CertificateError::NotValidForName => certificate(format!("certificate is not valid for {authority}")),
            CertificateError::NotValidForNameContext { presented, .. } => {
                let presented = crate::error::printable(&presented.join(", "), 200);
                certificate(format!("certificate is valid for {presented}, not {}", crate::config::host_of(authority)))
            }
            other => certificate(other.to_string()),
        },
        rustls::Error::AlertReceived(alert) => TransportError::Tls(format!(
            "the server ended the handshake: {alert:?} (does it want a client certificate? It goes to /etc/docker/certs.d/{authority}/client.cert and client.key)"
        )),
        other => TransportError::Tls(other.to_string()),
    }
}
