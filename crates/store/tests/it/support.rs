//! Stores in temporary directories, and images made of entries.

use flate2::write::GzEncoder;
use naru_store::tar::{Entry, Kind, Writer};
use naru_store::{Driver, Limits, LoadOptions, Store, StoreConfig};
use naru_types::Digest;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

pub struct Fixture {
    pub store: Option<Arc<Store>>,
    pub config: StoreConfig,
    _btrfs: Option<Btrfs>,
    _directory: tempfile::TempDir,
}

/// Opens a store that was open until now. Its lock may live on for a moment: in a process that was killed, or in one that
/// another test forks and that has not begun its program yet.
pub fn reopen(config: &StoreConfig) -> Arc<Store> {
    let start = Instant::now();
    loop {
        match Store::open(config) {
            Ok(store) => return Arc::new(store),
            Err(error) if start.elapsed() > Duration::from_secs(60) => panic!("{error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Does something when it is dropped, which a panic does too: threads that wait for it end with a test that fails.
pub struct AtEnd<R, F: FnMut() -> R>(pub F);

impl<R, F: FnMut() -> R> Drop for AtEnd<R, F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// A file system of btrfs in a file; unmounted when dropped, and with its mount goes its loop device.
pub struct Btrfs(pub PathBuf);

impl Btrfs {
    /// Makes one in `directory`; the error tells why this machine cannot.
    pub fn new(directory: &Path) -> Result<Btrfs, String> {
        let (image, mount) = (directory.join("btrfs.img"), directory.join("btrfs"));
        std::fs::File::create(&image).unwrap().set_len(512 << 20).unwrap();
        std::fs::create_dir(&mount).unwrap();
        run(Command::new("mkfs.btrfs").arg("-q").arg(&image))?;
        run(Command::new("mount").args(["-t", "btrfs", "-o", "loop"]).arg(&image).arg(&mount))?;
        Ok(Btrfs(mount))
    }
}

impl Drop for Btrfs {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).ok();
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{}: {}", command.get_program().display(), said.trim())) }
}

/// The drivers that this machine can be tested with: btrfs needs mkfs.btrfs and a loop device.
#[allow(clippy::print_stderr, reason = "what is not tested must be seen")]
pub fn drivers() -> Vec<Driver> {
    static BTRFS: OnceLock<Result<(), String>> = OnceLock::new();
    let btrfs = BTRFS.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        Btrfs::new(directory.path()).map(drop)
    });
    let mut drivers = vec![Driver::Overlay, Driver::Vfs];
    match btrfs {
        Ok(()) => drivers.push(Driver::Btrfs),
        Err(reason) => eprintln!("SKIPPED on btrfs, which this machine cannot make: {reason}"),
    }
    drivers
}

/// True when btrfs can be tested; says on stderr why not.
pub fn has_btrfs() -> bool {
    drivers().contains(&Driver::Btrfs)
}

impl std::ops::Deref for Fixture {
    type Target = Arc<Store>;
    fn deref(&self) -> &Arc<Store> {
        self.store.as_ref().expect("open")
    }
}

impl Fixture {
    pub fn new() -> Self {
        Self::with(Driver::Overlay, Limits::default())
    }

    pub fn with(driver: Driver, limits: Limits) -> Self {
        // The reserve would make tests depend on the host's disk.
        let directory = tempfile::tempdir().unwrap();
        let btrfs = (driver == Driver::Btrfs).then(|| Btrfs::new(directory.path()).unwrap());
        let root = btrfs.as_ref().map_or(directory.path(), |btrfs| &btrfs.0).join("root");
        let config = StoreConfig { root, driver, limits: Limits { reserve: 0, ..limits } };
        let store = Some(Arc::new(Store::open(&config).unwrap()));
        Fixture { store, config, _btrfs: btrfs, _directory: directory }
    }

    pub fn reopen(&mut self) {
        self.store = None;
        self.store = Some(reopen(&self.config));
    }

    /// Names of everything under the store's directories, for comparing before and after.
    pub fn files(&self) -> Vec<PathBuf> {
        self.sweep().unwrap();
        let mut files = Vec::new();
        let mut pending: Vec<PathBuf> =
            ["blobs", "layers", "containers", "partial", "staging", "trash", "init"].iter().map(|d| self.config.root.join(d)).collect();
        while let Some(directory) = pending.pop() {
            for entry in std::fs::read_dir(&directory).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    pending.push(entry.path());
                }
                files.push(entry.path().strip_prefix(&self.config.root).unwrap().to_owned());
            }
        }
        files.sort();
        files
    }
}

pub fn dir(path: &str) -> (Entry, Vec<u8>) {
    (Entry::new(path, Kind::Dir, 0o755), Vec::new())
}

pub fn file(path: &str, data: &str) -> (Entry, Vec<u8>) {
    (Entry { size: data.len() as u64, ..Entry::new(path, Kind::File, 0o644) }, data.into())
}

pub fn link(path: &str, kind: Kind, target: &str) -> (Entry, Vec<u8>) {
    (Entry { link: target.into(), ..Entry::new(path, kind, 0o777) }, Vec::new())
}

pub fn tar(entries: &[(Entry, Vec<u8>)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (entry, data) in entries {
        if entry.kind == Kind::File {
            writer.file(entry, &mut data.as_slice()).unwrap();
        } else {
            writer.entry(entry).unwrap();
        }
    }
    writer.finish().unwrap()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

/// A config that names the layers.
pub fn config(diff_ids: &[Digest], extra: &str) -> String {
    let ids: Vec<String> = diff_ids.iter().map(|id| format!("\"{id}\"")).collect();
    format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Cmd":["sh"]}}{extra},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        ids.join(",")
    )
}

/// A docker-archive of plain layers.
pub fn docker_archive(name: &str, layers: &[Vec<u8>]) -> Vec<u8> {
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
    docker_archive_of(name, layers, &config(&diff_ids, ""))
}

pub fn docker_archive_of(name: &str, blobs: &[Vec<u8>], config: &str) -> Vec<u8> {
    let mut entries = Vec::new();
    let mut names = Vec::new();
    for (at, blob) in blobs.iter().enumerate() {
        let name = format!("layer{at}/layer.tar");
        entries.push((Entry { size: blob.len() as u64, ..Entry::new(&*name, Kind::File, 0o644) }, blob.clone()));
        names.push(format!("\"{name}\""));
    }
    entries.push(file("config.json", config));
    let tags = if name.is_empty() { "null".into() } else { format!("[\"{name}\"]") };
    entries.push(file("manifest.json", &format!(r#"[{{"Config":"config.json","RepoTags":{tags},"Layers":[{}]}}]"#, names.join(","))));
    tar(&entries)
}

/// An OCI layout of blobs as they are; the digests of the blobs are right.
pub fn oci_layout(name: &str, blobs: &[Vec<u8>], diff_ids: &[Digest]) -> Vec<u8> {
    oci_layout_with(name, blobs, diff_ids, "application/vnd.oci.image.layer.v1.tar+gzip")
}

/// The same with another media type of the layers.
pub fn oci_layout_with(name: &str, blobs: &[Vec<u8>], diff_ids: &[Digest], layer_type: &str) -> Vec<u8> {
    let config = config(diff_ids, "");
    let descriptor =
        |kind: &str, bytes: &[u8]| format!(r#"{{"mediaType":"{kind}","digest":"{}","size":{}}}"#, Digest::of(bytes), bytes.len());
    let layers: Vec<String> = blobs.iter().map(|blob| descriptor(layer_type, blob)).collect();
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#,
        descriptor("application/vnd.oci.image.config.v1+json", config.as_bytes()),
        layers.join(",")
    );
    let named = format!(
        r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{}","size":{},"annotations":{{"io.containerd.image.name":"{name}"}}}}"#,
        Digest::of(manifest.as_bytes()),
        manifest.len()
    );
    let mut entries = vec![file("index.json", &format!(r#"{{"schemaVersion":2,"manifests":[{named}]}}"#))];
    for blob in blobs.iter().map(Vec::as_slice).chain([config.as_bytes(), manifest.as_bytes()]) {
        let path = format!("blobs/sha256/{}", Digest::of(blob).hex());
        entries.push((Entry { size: blob.len() as u64, ..Entry::new(path, Kind::File, 0o644) }, blob.to_vec()));
    }
    tar(&entries)
}

/// Loads one image of layers with these entries.
pub fn image(store: &Arc<Store>, name: &str, layers: &[&[(Entry, Vec<u8>)]]) -> Digest {
    let layers: Vec<Vec<u8>> = layers.iter().map(|entries| tar(entries)).collect();
    store.load(&mut docker_archive(name, &layers).as_slice(), &LoadOptions::default(), &|_| {}).unwrap();
    store.find(name).unwrap().id
}

/// A path through a mount that is in no mount table.
pub fn through(mount: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", mount.as_raw_fd()).into()
}
