//! How long the store takes for a real image: `measure DIRECTORY [OCI-LAYOUT] [ARCHIVE…]`.
//!
//! A store is made in the directory (which says on which file system) and removed again. The layers of the layout are
//! fetched in parallel as a registry client would, then the archive is loaded; containers are made of each image, it is
//! saved and removed. Last, the archive is loaded while its image is being deleted. `DRIVER=vfs` and so on chooses the
//! driver; without it the directory's file system does.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program for the one who measures")]

use naru_store::{Driver, Expected, Ingest, Limits, LoadOptions, NewImage, RemoveOptions, SaveOptions, Store, StoreConfig};
use naru_types::{ContainerId, Digest, ImageRef};
use serde_json::Value;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default().trim().to_owned();
    println!("{what:<10} {:>8.1} ms, peak {peak}", start.elapsed().as_secs_f64() * 1e3);
    result
}

fn digest(value: &Value) -> Digest {
    value["digest"].as_str().unwrap().parse().unwrap()
}

fn blob(layout: &Path, digest: &Digest) -> PathBuf {
    layout.join("blobs/sha256").join(digest.hex())
}

fn json(path: &Path) -> (Vec<u8>, Value) {
    let bytes = std::fs::read(path).unwrap();
    let value = serde_json::from_slice(&bytes).unwrap();
    (bytes, value)
}

fn fetch(ingest: &Ingest, layout: &Path) {
    let (_, index) = json(&layout.join("index.json"));
    let (manifest, value) = json(&blob(layout, &digest(&index["manifests"][0])));
    let (config, parsed) = json(&blob(layout, &digest(&value["config"])));
    let diff_ids = parsed["rootfs"]["diff_ids"].as_array().unwrap();
    let layers = std::thread::scope(|scope| {
        let one = |(layer, diff_id): (&Value, &Value)| {
            let expected = Expected {
                digest: Some(digest(layer)),
                size: layer["size"].as_u64(),
                diff_id: Some(diff_id.as_str().unwrap().parse().unwrap()),
                media_type: layer["mediaType"].as_str().map(str::to_owned),
            };
            scope.spawn(move || {
                let path = blob(layout, expected.digest.as_ref().unwrap());
                let mut open = |offset| {
                    let mut file = File::open(&path)?;
                    file.seek(SeekFrom::Start(offset))?;
                    Ok(Box::new(file) as Box<dyn Read>)
                };
                let start = Instant::now();
                let layer = ingest.fetch_layer(&expected, &mut open, &|_| {}).unwrap();
                println!("  layer {} {:.1} ms", layer.digest.short(), start.elapsed().as_secs_f64() * 1e3);
                layer
            })
        };
        let threads: Vec<_> = value["layers"].as_array().unwrap().iter().zip(diff_ids).map(one).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let media_type = index["manifests"][0]["mediaType"].as_str().unwrap().to_owned();
    let references = vec![ImageRef::parse("measured:latest").unwrap()];
    timed("  commit", || {
        ingest.commit(NewImage { config, manifest: Some((manifest, media_type)), index: None, layers, references }).unwrap()
    });
}

fn driver(directory: &Path) -> Driver {
    let wanted = std::env::var("DRIVER").unwrap_or_default();
    let known = [Driver::Overlay, Driver::Vfs, Driver::Btrfs];
    known.into_iter().find(|driver| driver.name() == wanted).unwrap_or_else(|| Driver::for_root(directory))
}

fn use_and_remove(store: &Arc<Store>, name: &str) {
    let image = store.find(name).unwrap().id;
    let make = || {
        let id = ContainerId::random();
        store.prepare(&id, Some(&image)).unwrap();
        drop(store.mount(&id).unwrap());
        id
    };
    let mut containers = vec![timed("first", make)];
    timed("10 more", || containers.extend((0..10).map(|_| make())));
    timed("diff", || store.changes(&containers[0], None).unwrap());
    timed("discard", || containers.iter().for_each(|id| store.remove_snapshot(id).unwrap()));
    timed("sweep", || store.sweep().unwrap());
    timed("save", || store.save(&[name.to_owned()], &SaveOptions::default(), &mut File::create("/dev/null").unwrap()).unwrap());
    timed("remove", || store.remove(name, RemoveOptions::default(), &|_| Vec::new()).unwrap());
    timed("sweep", || store.sweep().unwrap());
}

fn main() {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let root = arguments[0].join(format!("naru-measure-{}", std::process::id()));
    let config = StoreConfig { root: root.clone(), driver: driver(&arguments[0]), limits: Limits::default() };
    let store = Arc::new(Store::open(&config).unwrap());
    if arguments[1].is_dir() {
        timed("fetch", || fetch(&store.ingest().unwrap(), &arguments[1]));
        use_and_remove(&store, "measured");
    }
    for archive in arguments[1..].iter().filter(|path| path.is_file()) {
        let loaded = timed("load", || store.load(&mut File::open(archive).unwrap(), &LoadOptions::default(), &|_| {}).unwrap());
        assert_eq!(loaded.len(), 1);
        timed("load again", || store.load(&mut File::open(archive).unwrap(), &LoadOptions::default(), &|_| {}).unwrap());
        let name = store.list()[0].id.hex();
        use_and_remove(&store, &name);
        let load = || store.load(&mut File::open(archive).unwrap(), &LoadOptions::default(), &|_| {}).unwrap();
        timed("load", load);
        let name = store.list()[0].id.hex();
        store.remove(&name, RemoveOptions::default(), &|_| Vec::new()).unwrap();
        timed("load while what was removed is deleted", load);
        timed("sweep", || store.sweep().unwrap());
    }
    drop(store);
    std::fs::remove_dir_all(root).unwrap();
}
