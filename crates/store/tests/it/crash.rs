//! A process that is killed at any moment leaves a store that the next start makes whole: what was recorded is there and
//! sound, what was not is gone.

use crate::support::*;
use naru_store::{Driver, Expected, Limits, LoadOptions, NewImage, PruneOptions, RemoveOptions, Store, StoreConfig};
use naru_types::{ContainerId, Digest, ImageRef};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

const CHILD: &str = "NARU_STORE_CRASH_CHILD";
const ON_BTRFS: &str = "NARU_STORE_CRASH_ON_BTRFS";

/// xorshift: the test must not depend on a crate for this.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        Random((u64::from(time.subsec_nanos()) << 20) ^ u64::from(std::process::id()) | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn layer(seed: u64) -> Vec<u8> {
    let mut entries = vec![dir("d")];
    for number in 0..20 {
        entries.push(file(&format!("d/f{number}"), &format!("{seed} {number} ").repeat(100 * usize::try_from(seed).unwrap() + 1)));
    }
    // Some of it is written twice.
    entries.push(file("d/f3", "again"));
    tar(&entries)
}

fn store_at(root: &Path, driver: Driver) -> Arc<Store> {
    let config = StoreConfig { root: root.to_owned(), driver, limits: Limits { reserve: 0, ..Limits::default() } };
    reopen(&config)
}

fn tell(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

fn fetch(store: &Arc<Store>, random: &mut Random) {
    let ingest = store.ingest().unwrap();
    let mut layers = Vec::new();
    let seeds = [random.below(4), 4 + random.below(3)];
    for seed in seeds {
        let plain = layer(seed);
        let blob = gzip(&plain);
        let expected = Expected {
            digest: Some(Digest::of(&blob)),
            size: Some(blob.len() as u64),
            diff_id: Some(Digest::of(&plain)),
            media_type: None,
        };
        let mut open = |offset: u64| {
            let rest = blob[usize::try_from(offset).unwrap()..].to_vec();
            Ok(Box::new(std::io::Cursor::new(rest)) as Box<dyn Read>)
        };
        layers.push(ingest.fetch_layer(&expected, &mut open, &|_| {}).unwrap());
    }
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| layer.diff_id.clone()).collect();
    let name = format!("fetched{}", seeds[0]);
    let references = vec![ImageRef::parse(&name).unwrap()];
    tell(&format!("try {name}"));
    let id = ingest.commit(NewImage { config: config(&diff_ids, "").into_bytes(), layers, references, ..NewImage::default() }).unwrap();
    tell(&format!("is {name} {id}"));
}

/// The child: works on the store until it is killed. Without its variable it is no test.
#[test]
fn child() {
    let Some(root) = std::env::var_os(CHILD) else { return };
    let driver = if std::env::var_os(ON_BTRFS).is_some() { Driver::Btrfs } else { Driver::Overlay };
    let store = store_at(Path::new(&root), driver);
    let mut random = Random::new();
    let mut containers: Vec<ContainerId> = store.snapshots();
    tell("");
    loop {
        let image = {
            let images = store.list();
            if images.is_empty() { None } else { Some(images[usize::try_from(random.below(images.len() as u64)).unwrap()].clone()) }
        };
        match (random.below(9), image) {
            (0..=2, _) => fetch(&store, &mut random),
            (3 | 4, _) => {
                let seed = random.below(5);
                let name = format!("loaded{seed}");
                let archive = docker_archive(&name, &[layer(seed), layer(seed + 1)]);
                tell(&format!("try {name}"));
                store.load(&mut archive.as_slice(), &LoadOptions::default(), &|_| {}).unwrap();
                tell(&format!("is {name} {}", store.find(&name).unwrap().id));
            }
            (5, Some(image)) => {
                for tag in &image.tags {
                    tell(&format!("try {}", tag.familiar_name()));
                }
                store.remove(&image.id.to_string(), RemoveOptions { force: true, ..RemoveOptions::default() }, &|_| Vec::new()).unwrap();
            }
            (6, Some(image)) => drop(store.outgoing(&image.id, &mut |_| ()).unwrap()),
            (7, Some(image)) => {
                let id = ContainerId::random();
                store.prepare(&id, Some(&image.id)).unwrap();
                containers.push(id);
                if containers.len() > 3 {
                    store.remove_snapshot(&containers.remove(0)).unwrap();
                }
            }
            _ => {
                store.prune(PruneOptions { dangling_only: true }, &|_| true, &|_| Vec::new()).unwrap();
            }
        }
    }
}

#[test]
fn killed_at_any_moment() {
    // A kill loses nothing of what was written, so memory shows the same as a disk, without waiting for its syncs.
    let memory = Path::new("/dev/shm");
    let directory = if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() };
    let root: PathBuf = directory.path().join("root");
    kill(&root, Driver::Overlay, 200);
}

#[test]
fn killed_at_any_moment_on_btrfs() {
    if !has_btrfs() {
        return;
    }
    let memory = Path::new("/dev/shm");
    let directory = if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() };
    let btrfs = Btrfs::new(directory.path()).unwrap();
    kill(&btrfs.0.join("root"), Driver::Btrfs, 60);
}

fn kill(root: &Path, driver: Driver, rounds: usize) {
    let mut random = Random::new();
    // The image of each name, as far as it is certain.
    let mut certain: BTreeMap<String, Digest> = BTreeMap::new();
    for round in 0..rounds {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "crash::child", "--nocapture", "--test-threads=1"]).env(CHILD, root);
        if driver == Driver::Btrfs {
            child.env(ON_BTRFS, "1");
        }
        let mut child = child.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(10_000 + random.below(70_000)));
        child.kill().unwrap();
        let output = child.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!errors.contains("panicked"), "round {round}: {errors}");
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            match line.split(' ').collect::<Vec<_>>().as_slice() {
                // Under way: the name may mean the old image, the new one or none.
                ["try", name] => drop(certain.remove(*name)),
                ["is", name, id] => drop(certain.insert((*name).to_owned(), id.parse().unwrap())),
                _ => {}
            }
        }
        let store = store_at(root, driver);
        assert_eq!(store.check(true).unwrap(), [], "round {round}");
        for (name, id) in &certain {
            assert_eq!(store.find(name).map(|image| image.id).ok().as_ref(), Some(id), "round {round}: {name}");
        }
        for container in store.snapshots() {
            // One that was under way has no tree, perhaps, and goes as a leftover.
            match store.changes(&container, None) {
                Ok(changes) => assert_eq!(changes, [], "round {round}"),
                Err(_) => store.remove_snapshot(&container).unwrap(),
            }
        }
        let staging = std::fs::read_dir(root.join("staging")).unwrap().count();
        assert_eq!(staging, 0, "round {round}");
    }
    // In the end everything can be taken away.
    let store = store_at(root, driver);
    for container in store.snapshots() {
        store.remove_snapshot(&container).unwrap();
    }
    store.prune(PruneOptions::default(), &|_| true, &|_| Vec::new()).unwrap();
    store.sweep().unwrap();
    for part in ["blobs/sha256", "layers", "partial", "trash", "containers"] {
        assert_eq!(std::fs::read_dir(root.join(part)).unwrap().count(), 0, "{part}");
    }
}
