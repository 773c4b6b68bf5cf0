//! Debian's docker-registry as counterpart, images put into it without our client, and stores in temporary directories.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client as Hyper;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use naru_registry::{Client, PullEvent, PullOptions, Pulled, PushEvent, PushOptions, Pushed, RegistryConfig, Result};
use naru_store::{Limits, Store, StoreConfig};
use naru_types::{Digest, ImageRef};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// `naru:secret`.
const HTPASSWD: &str = "naru:$2y$05$CBtMr8a5mOt5wYyHAxe0y.rEq2J9kBZlXEH3u09G8auzclq2tHNWC\n";

/// A running docker-registry.
pub struct Registry {
    process: Child,
    /// `127.0.0.1:port`.
    pub address: String,
    _directory: tempfile::TempDir,
}

#[derive(Default)]
pub struct RegistryOptions {
    pub htpasswd: bool,
    /// Certificate and key files.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Certificate authority of clients.
    pub client_ca: Option<PathBuf>,
}

impl Registry {
    pub fn start() -> Registry {
        Registry::with(&RegistryOptions::default())
    }

    pub fn with(options: &RegistryOptions) -> Registry {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let mut config = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  delete:\n    enabled: true\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:0\n  secret: x\n",
            root.join("data").display()
        );
        if let Some((certificate, key)) = &options.tls {
            config.push_str(&format!("  tls:\n    certificate: {}\n    key: {}\n", certificate.display(), key.display()));
            if let Some(ca) = &options.client_ca {
                config.push_str(&format!("    clientcas:\n      - {}\n", ca.display()));
            }
        }
        if options.htpasswd {
            let file = root.join("htpasswd");
            std::fs::write(&file, HTPASSWD).unwrap();
            config.push_str(&format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", file.display()));
        }
        let file = root.join("config.yml");
        std::fs::write(&file, config).unwrap();
        let mut process = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .env_remove("OTEL_TRACES_EXPORTER")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("these tests need Debian's package docker-registry");
        let mut lines = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert!(lines.read_line(&mut line).unwrap() > 0, "docker-registry ended");
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.split(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':')).next().unwrap().to_owned();
            }
        };
        // It must never block on a full pipe.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Registry { process, address, _directory: directory }
    }

    pub fn reference(&self, name: &str) -> ImageRef {
        ImageRef::parse(&format!("{}/{name}", self.address)).unwrap()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// A store in a directory of its own.
pub struct Fixture {
    pub store: Arc<Store>,
    pub root: PathBuf,
    _directory: tempfile::TempDir,
}

impl Fixture {
    pub fn new() -> Fixture {
        Fixture::with(Limits { reserve: 0, ..Limits::default() })
    }

    pub fn with(limits: Limits) -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        let store = Arc::new(Store::open(&StoreConfig { root: root.clone(), limits, ..StoreConfig::default() }).unwrap());
        Fixture { store, root, _directory: directory }
    }

    /// Rows of all tables of the database: images, layers, names.
    pub fn records(&self) -> i64 {
        let database = rusqlite::Connection::open(self.root.join("store.db")).unwrap();
        let count = "SELECT (SELECT count(*) FROM image) + (SELECT count(*) FROM layer) + (SELECT count(*) FROM reference)";
        database.query_row(count, [], |row| row.get(0)).unwrap()
    }

    /// Files of blobs, layers and parts of blobs.
    pub fn files(&self) -> Vec<String> {
        self.store.sweep().unwrap();
        let mut files = Vec::new();
        for directory in ["blobs/sha256", "layers", "partial", "staging"] {
            for entry in std::fs::read_dir(self.root.join(directory)).unwrap() {
                let entry = entry.unwrap();
                // The name of a blob of which nothing came.
                if directory == "partial" && entry.metadata().is_ok_and(|metadata| metadata.len() == 0) {
                    continue;
                }
                files.push(format!("{directory}/{}", entry.file_name().to_string_lossy()));
            }
        }
        files.sort();
        files
    }

    /// Waits until what was given up has cleaned up after itself.
    pub async fn settled(&self, wanted: impl Fn(&[String]) -> bool) -> Vec<String> {
        for _ in 0..1200 {
            let files = self.files();
            if wanted(&files) {
                return files;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        self.files()
    }
}

pub fn open_store(root: &Path) -> Arc<Store> {
    let limits = Limits { reserve: 0, ..Limits::default() };
    Arc::new(Store::open(&StoreConfig { root: root.to_owned(), limits, ..StoreConfig::default() }).unwrap())
}

pub fn config() -> RegistryConfig {
    RegistryConfig { first_pause: Duration::from_millis(10), idle_timeout: Duration::from_secs(2), ..RegistryConfig::default() }
}

pub fn client() -> Client {
    Client::new(config()).unwrap()
}

/// Bytes that no compression makes smaller.
pub fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    next.flatten().take(size).collect()
}

/// A tar of one file.
pub fn layer(name: &str, content: &[u8]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, name, content).unwrap();
    builder.into_inner().unwrap()
}

#[derive(Clone, Copy)]
pub enum Packing {
    Plain,
    Gzip,
    Zstd,
}

pub fn pack(tar: &[u8], packing: Packing) -> (Vec<u8>, &'static str) {
    match packing {
        Packing::Plain => (tar.to_vec(), "application/vnd.oci.image.layer.v1.tar"),
        Packing::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(tar).unwrap();
            (encoder.finish().unwrap(), "application/vnd.oci.image.layer.v1.tar+gzip")
        }
        Packing::Zstd => (zstd::encode_all(tar, 1).unwrap(), "application/vnd.oci.image.layer.v1.tar+zstd"),
    }
}

/// An image as it travels.
#[derive(Clone)]
pub struct Image {
    pub config: Vec<u8>,
    pub layers: Vec<(Vec<u8>, &'static str)>,
    pub manifest: Vec<u8>,
    pub media_type: &'static str,
}

impl Image {
    /// Of plain tars.
    pub fn new(tars: &[Vec<u8>], packing: Packing) -> Image {
        Image::of(tars, packing, "amd64", OCI_MANIFEST)
    }

    /// Layers of noise.
    pub fn noise(seed: u64, sizes: &[usize]) -> Image {
        let tars: Vec<Vec<u8>> =
            sizes.iter().enumerate().map(|(at, size)| layer(&format!("file{at}"), &noise(seed + at as u64, *size))).collect();
        Image::new(&tars, Packing::Gzip)
    }

    pub fn of(tars: &[Vec<u8>], packing: Packing, architecture: &str, media_type: &'static str) -> Image {
        let diff_ids: Vec<Digest> = tars.iter().map(|tar| Digest::of(tar)).collect();
        let config = serde_json::json!({
            "architecture": architecture, "os": "linux", "config": {"Cmd": ["/x"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = serde_json::to_vec(&config).unwrap();
        let layers: Vec<_> = tars.iter().map(|tar| pack(tar, packing)).collect();
        let descriptors: Vec<_> = layers.iter().map(|(bytes, kind)| descriptor(bytes, kind)).collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": media_type,
            "config": descriptor(&config, "application/vnd.oci.image.config.v1+json"), "layers": descriptors,
        });
        Image { config, layers, manifest: serde_json::to_vec(&manifest).unwrap(), media_type }
    }

    pub fn id(&self) -> Digest {
        Digest::of(&self.config)
    }

    pub fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    pub fn layer_digest(&self, at: usize) -> Digest {
        Digest::of(&self.layers[at].0)
    }
}

pub fn descriptor(bytes: &[u8], media_type: &str) -> serde_json::Value {
    serde_json::json!({"mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len()})
}

/// An index of images by architecture, with an attestation.
pub fn index(images: &[(&str, &Image)]) -> Vec<u8> {
    let mut manifests: Vec<_> = images
        .iter()
        .map(|(architecture, image)| {
            let mut entry = descriptor(&image.manifest, image.media_type);
            let (architecture, variant) = architecture.split_once('/').unwrap_or((architecture, ""));
            entry["platform"] = serde_json::json!({"os": "linux", "architecture": architecture, "variant": variant});
            entry
        })
        .collect();
    let mut attestation = descriptor(b"attestation", OCI_MANIFEST);
    attestation["platform"] = serde_json::json!({"os": "unknown", "architecture": "unknown"});
    attestation["annotations"] = serde_json::json!({"vnd.docker.reference.type": "attestation-manifest"});
    manifests.push(attestation);
    serde_json::to_vec(&serde_json::json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests})).unwrap()
}

/// The simplest way to talk HTTP to a registry.
pub async fn request(method: &str, url: &str, headers: &[(&str, &str)], body: Vec<u8>) -> (u16, http::HeaderMap, Bytes) {
    let client: Hyper<HttpConnector, Full<Bytes>> = Hyper::builder(TokioExecutor::new()).build_http();
    let mut request = http::Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = client.request(request.body(Full::from(body)).unwrap()).await.unwrap();
    let (parts, body) = answer.into_parts();
    (parts.status.as_u16(), parts.headers, body.collect().await.unwrap().to_bytes())
}

pub async fn put_blob(address: &str, name: &str, bytes: &[u8]) {
    let (status, headers, _) = request("POST", &format!("http://{address}/v2/{name}/blobs/uploads/"), &[], vec![]).await;
    assert_eq!(status, 202);
    let location = headers["location"].to_str().unwrap();
    let url = format!("{location}&digest={}", Digest::of(bytes));
    assert_eq!(request("PUT", &url, &[("content-type", "application/octet-stream")], bytes.to_vec()).await.0, 201);
}

pub async fn put_manifest(address: &str, name: &str, tag: &str, bytes: &[u8], media_type: &str) {
    let url = format!("http://{address}/v2/{name}/manifests/{tag}");
    let (status, _, body) = request("PUT", &url, &[("content-type", media_type)], bytes.to_vec()).await;
    assert_eq!(status, 201, "{body:?}");
}

pub async fn put_image(address: &str, name: &str, tag: &str, image: &Image) {
    for bytes in image.layers.iter().map(|(bytes, _)| bytes).chain([&image.config]) {
        put_blob(address, name, bytes).await;
    }
    put_manifest(address, name, tag, &image.manifest, image.media_type).await;
}

/// Pulls and returns the lines that were told, too.
pub async fn pull(client: &Client, store: &Arc<Store>, reference: &ImageRef, options: PullOptions) -> (Result<Pulled>, Vec<PullEvent>) {
    let events = Mutex::new(Vec::new());
    let pulled = client.pull(store, reference, options, |event| events.lock().unwrap().push(event)).await;
    (pulled, events.into_inner().unwrap())
}

pub async fn push(client: &Client, store: &Arc<Store>, reference: &ImageRef, options: PushOptions) -> (Result<Pushed>, Vec<PushEvent>) {
    let events = Mutex::new(Vec::new());
    let pushed = client.push(store, reference, options, |event| events.lock().unwrap().push(event)).await;
    (pushed, events.into_inner().unwrap())
}

pub fn pull_lines(events: &[PullEvent]) -> Vec<String> {
    events
        .iter()
        // Docker has no line for it.
        .filter(|event| !matches!(event, PullEvent::Sizes { .. }))
        .map(|event| {
            let line = event.line();
            line.id.map(|id| format!("{id}: ")).unwrap_or_default() + &line.status
        })
        .collect()
}

pub fn push_lines(events: &[PushEvent]) -> Vec<String> {
    events
        .iter()
        .map(|event| {
            let line = event.line();
            line.id.map(|id| format!("{id}: ")).unwrap_or_default() + &line.status
        })
        .collect()
}
