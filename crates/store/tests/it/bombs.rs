//! Little input that wants to become much: of memory, of disk, of names. Disks are small tmpfs, so that a bomb that works is an
//! error here and not the end of the machine.

use crate::support::*;
use naru_store::tar::{Entry, Kind};
use naru_store::{Driver, Error, Limits, LoadOptions, Store, StoreConfig};
use naru_types::{Digest, ErrorKind};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A store on a disk of its own, with the limits that an engine has.
struct Disk {
    store: Option<Arc<Store>>,
    mount: PathBuf,
    _directory: tempfile::TempDir,
}

impl Disk {
    /// `options` are those of a tmpfs: `size=64m`.
    fn new(options: &str) -> Disk {
        let directory = tempfile::tempdir().unwrap();
        let mount = directory.path().join("disk");
        std::fs::create_dir(&mount).unwrap();
        let options = std::ffi::CString::new(options).unwrap();
        rustix::mount::mount("tmpfs", &mount, "tmpfs", rustix::mount::MountFlags::empty(), options.as_c_str()).expect("root may mount");
        let config = StoreConfig { root: mount.join("root"), driver: Driver::Overlay, limits: Limits::default() };
        Disk { store: Some(Arc::new(Store::open(&config).unwrap())), mount, _directory: directory }
    }

    fn load(&self, source: &mut dyn Read) -> naru_store::Result<()> {
        self.store.as_ref().unwrap().load(source, &LoadOptions::default(), &|_| {}).map(drop)
    }

    /// Bytes and files that are free; what was refused has been deleted.
    fn free(&self) -> (u64, u64) {
        self.store.as_ref().unwrap().sweep().unwrap();
        let stat = rustix::fs::statvfs(&self.mount).unwrap();
        (stat.f_bavail * stat.f_frsize, stat.f_ffree)
    }

    /// As much is free as was then, but for the database.
    fn is_as(&self, before: (u64, u64)) {
        let after = self.free();
        assert!(after.0 + (2 << 20) > before.0 && after.1 + 4 > before.1, "{before:?} {after:?}");
    }

    fn root(&self) -> &Path {
        &self.mount
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.store = None;
        rustix::mount::unmount(&self.mount, rustix::mount::UnmountFlags::DETACH).ok();
    }
}

/// Zeroes, compressed: members of 64 MiB, one after the other.
fn zeroes(size: u64) -> Vec<u8> {
    const MEMBER: usize = 64 << 20;
    assert_eq!(size % MEMBER as u64, 0);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&vec![0; MEMBER]).unwrap();
    encoder.finish().unwrap().repeat(usize::try_from(size / MEMBER as u64).unwrap())
}

/// The header of a file of that size, without its data.
fn header(name: &str, size: u64) -> Vec<u8> {
    let mut header = tar(&[file(name, "")]);
    header.truncate(512);
    header[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// The start of an archive in which one layer of that size follows.
fn before_layer(size: u64) -> Vec<u8> {
    header("layer.tar", size)
}

/// The most memory this process ever held, in bytes. The kernel counts per processor and sums up roughly: of two readings the
/// later can be the smaller one.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

fn grown_since(held: u64) -> u64 {
    peak().saturating_sub(held)
}

/// 4 MB of gzip that are a file of 4 GiB: it stops where the disk's reserve begins, and nothing of it stays.
#[test]
fn a_gzip_bomb_leaves_the_disk_its_reserve() {
    const SIZE: u64 = (4 << 30) - (64 << 20);
    let disk = Disk::new("size=256m");
    let before = disk.free();
    let bomb = [gzip(&header("zeroes", SIZE)), zeroes(SIZE)].concat();
    assert!(bomb.len() < 5 << 20, "{}", bomb.len());
    let archive = docker_archive_of("bomb", &[bomb], &config(&[Digest::of(b"never computed")], ""));
    let error = disk.load(&mut archive.as_slice()).unwrap_err();
    let Error::NoSpace { free, reserve, .. } = &error else { panic!("{error}") };
    // 5 % of the disk; it is looked at before much more is written.
    assert_eq!(*reserve, (256 << 20) / 20);
    assert!(*free < *reserve && *free > reserve - (4 << 20), "{error}");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    disk.is_as(before);
}

/// The same as what the archive itself is compressed with, over a layer that is plain.
#[test]
fn an_archive_that_is_a_bomb_leaves_the_disk_its_reserve() {
    const SIZE: u64 = 2 << 30;
    let disk = Disk::new("size=128m");
    let start = [before_layer(SIZE + 1024), header("zeroes", SIZE - 512)].concat();
    let bomb = [gzip(&start), zeroes(SIZE)].concat();
    let error = disk.load(&mut bomb.as_slice()).unwrap_err();
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    disk.free();
    // And a gzip within a gzip within a gzip is no layer of any registry.
    let nested = gzip(&gzip(&gzip(&tar(&[file("a", "x")]))));
    let archive = docker_archive_of("bomb", &[nested], &config(&[Digest::of(&tar(&[file("a", "x")]))], ""));
    assert_eq!(disk.load(&mut archive.as_slice()).unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert!(std::fs::read_dir(disk.root().join("root/layers")).unwrap().next().is_none());
}

/// A frame of few bytes whose window is 16 GiB: the memory is not asked for.
#[test]
fn a_zstd_window_of_sixteen_gigabytes_is_refused() {
    let fixture = Fixture::new();
    // Magic, no flags, a window of 2^(10 + 24), and a last block that repeats one byte.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 24 << 3, 0b0000_0011, 0x80, 0x00, 0x00];
    let archive = docker_archive_of("bomb", &[frame.to_vec()], &config(&[Digest::of(b"x")], ""));
    let before = fixture.files();
    for bytes in [archive, frame.to_vec()] {
        let error = fixture.load(&mut bytes.as_slice(), &LoadOptions::default(), &|_| {}).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        assert!(error.to_string().contains("emory") || error.to_string().contains("zstd"), "{error}");
    }
    assert_eq!(fixture.files(), before);
}

/// Metadata of a gigabyte is refused when its header is read, not when all of it has come.
#[test]
fn metadata_of_a_gigabyte_is_refused_at_its_header() {
    let fixture = Fixture::new();
    let before = fixture.files();
    for name in ["index.json", "manifest.json", "./index.json", "repositories", "oci-layout"] {
        let start = header(name, 1 << 30);
        let mut source = Counted { inner: start.as_slice().chain(std::io::repeat(b' ').take(1 << 30)), count: 0 };
        let error = fixture.load(&mut source, &LoadOptions::default(), &|_| {}).unwrap_err();
        assert!(matches!(error, Error::TooLarge { .. }), "{name}: {error}");
        assert!(error.to_string().contains(name.trim_start_matches("./")), "{error}");
        assert!(source.count < 1 << 20, "{name}: {} bytes were read", source.count);
    }
    // A config has any name: it passes, and is not kept.
    let held = peak();
    let start = header("config.json", 1 << 30);
    let rest = tar(&[file("manifest.json", r#"[{"Config":"config.json","Layers":[]}]"#)]);
    let mut source = start.as_slice().chain(std::io::repeat(b' ').take(1 << 30)).chain(rest.as_slice());
    let error = fixture.load(&mut source, &LoadOptions::default(), &|_| {}).unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    // Other tests need some at the same time.
    assert!(grown_since(held) < 512 << 20);
    assert_eq!(fixture.files(), before);
}

struct Counted<R> {
    inner: R,
    count: usize,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.count += got;
        Ok(got)
    }
}

/// A layer of so many entries, made while it is read.
struct Many {
    left: u32,
    kind: Kind,
    block: Vec<u8>,
    at: usize,
}

impl Many {
    const COUNT: u32 = 10_000_000;

    fn new(kind: Kind) -> Many {
        Many { left: Many::COUNT, kind, block: Vec::new(), at: 0 }
    }
}

impl Read for Many {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.at == self.block.len() && self.left > 0 {
            self.block.clear();
            self.at = 0;
            for number in self.left.saturating_sub(256)..self.left {
                let entry = Entry { size: 0, ..Entry::new(format!("{}/{number:08}", number % 97), self.kind, 0o755) };
                self.block.extend_from_slice(&tar(&[(entry, Vec::new())])[..512]);
            }
            self.left = self.left.saturating_sub(256);
        }
        let count = buffer.len().min(self.block.len() - self.at);
        buffer[..count].copy_from_slice(&self.block[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// Ten million empty files or directories on a disk that has not as many inodes: they end where the reserve of inodes begins,
/// nothing stays, and on the way there is no memory that grows with them.
#[test]
fn ten_million_entries_leave_the_disk_its_inodes() {
    for (kind, inodes) in [(Kind::File, 200_000), (Kind::Dir, 20_000)] {
        let disk = Disk::new(&format!("size=1g,nr_inodes={inodes}"));
        let before = disk.free();
        let held = peak();
        let start = before_layer(u64::from(Many::COUNT) * 512);
        let error = disk.load(&mut start.as_slice().chain(Many::new(kind))).unwrap_err();
        let Error::NoSpace { unit: "inodes", free, reserve, .. } = &error else { panic!("{kind:?}: {error:?}") };
        // It is looked at before many more are made.
        assert!(*reserve == inodes / 20 && *free < *reserve && *free + 512 > *reserve, "{kind:?}: {error}");
        // Other tests need some at the same time.
        let grown = grown_since(held);
        assert!(grown < 512 << 20, "{kind:?}: {grown} bytes");
        disk.is_as(before);
    }
}
