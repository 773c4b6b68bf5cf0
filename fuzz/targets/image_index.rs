//! An image index as a registry gives it: it is refused, or kept byte by byte and read again for the image's variants.
#![no_main]

use libfuzzer_sys::fuzz_target;
use naru_fuzz::scratch;
use naru_store::tar::Writer;
use naru_store::{Driver, Expected, Limits, NewImage, RemoveOptions, Store, StoreConfig};
use naru_types::Digest;
use std::sync::{Arc, LazyLock};

static STORE: LazyLock<Arc<Store>> = LazyLock::new(|| {
    let config = StoreConfig {
        root: scratch("image_index").join("store"),
        driver: Driver::Overlay,
        limits: Limits { reserve: 0, ..Limits::default() },
    };
    Arc::new(Store::open(&config).expect("a new store can be opened"))
});

fuzz_target!(|data: &[u8]| {
    let layer = Writer::new(Vec::new()).finish().expect("writing into memory does not fail");
    let config = format!(r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#, Digest::of(&layer));
    // `@` is the image's manifest, so that an index can list what is here.
    let manifest = format!(r#"{{"schemaVersion":2,"config":{{"digest":"{}","size":1}},"layers":[]}}"#, Digest::of(config.as_bytes()));
    let index = match std::str::from_utf8(data) {
        Ok(text) => text.replace('@', &Digest::of(manifest.as_bytes()).to_string()).into_bytes(),
        Err(_) => data.to_vec(),
    };
    let ingest = STORE.ingest().expect("an ingest can be started");
    let layers = vec![ingest.layer(&mut layer.as_slice(), &Expected::default(), &|_| {}).expect("an empty layer is one")];
    let manifest = Some((manifest.into_bytes(), String::new()));
    let image =
        NewImage { config: config.into_bytes(), manifest, index: Some((index.clone(), String::new())), layers, references: Vec::new() };
    let Ok(id) = ingest.commit(image) else { return };
    let image = STORE.image(&id).expect("it was just recorded");
    assert_eq!(STORE.read_metadata(&image.indexes[0].digest).expect("it is kept"), index);
    assert!(!STORE.variants_of(&image).expect("an index that was taken can be read").is_empty());
    STORE.siblings(&image).expect("an index that was taken can be read");
    STORE.remove(&id.to_string(), RemoveOptions { force: true, prune: true }, &|_| Vec::new()).expect("an unused image can be removed");
});
