//! What images there are: an index in memory for every question, a SQLite database for the next start.
//!
//! A change is written to the database first (one transaction, synced), then to the index. The database holds JSON
//! records; its `user_version` is their format.

use crate::apply::RootMeta;
use crate::config::ImageConfig;
use crate::error::{Db, Error, Result};
use jiff::Timestamp;
use naru_types::{ContainerId, Digest, ImageRef};
use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

/// Format of the records and of the files they speak of. 2: recipes of blobs, indexes of images.
const FORMAT: i64 = 2;

/// A layer as an image's manifest names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerBlob {
    /// Digest of the plain tar stream.
    pub diff_id: Digest,
    /// Digest of the blob as it travels.
    pub digest: Digest,
    /// Size of the blob.
    pub size: u64,
    /// Media type of the blob.
    pub media_type: String,
}

impl LayerBlob {
    /// True when the blob travels compressed; what its media type says is not believed.
    pub fn is_compressed(&self) -> bool {
        self.digest != self.diff_id
    }
}

/// An image index that an image was found through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexBlob {
    /// Digest of its bytes.
    pub digest: Digest,
    /// Their number.
    pub size: u64,
    /// Its media type.
    pub media_type: String,
}

/// A name as it is kept: with a tag or with a digest.
pub(crate) fn settled(reference: &ImageRef) -> ImageRef {
    if reference.digest.is_some() { ImageRef { tag: None, ..reference.clone() } } else { reference.tagged() }
}

/// What the database knows of an image besides its config.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    pub manifest: Digest,
    pub manifest_type: String,
    /// The manifest did not come with the image.
    #[serde(default)]
    pub composed: bool,
    /// Indexes it was found through.
    #[serde(default)]
    pub indexes: Vec<IndexBlob>,
    pub layers: Vec<LayerBlob>,
    pub size: u64,
    pub last_tagged: Option<Timestamp>,
    pub parent: Option<Digest>,
    /// Removed by force while a container used it: it goes with the last container.
    pub hidden: bool,
}

/// An unpacked layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    pub size: u64,
    pub root: Option<RootMeta>,
}

#[derive(Debug)]
pub(crate) struct StoredImage {
    pub record: ImageRecord,
    pub config: Arc<ImageConfig>,
}

/// Everything that is known, in memory.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub images: BTreeMap<Digest, StoredImage>,
    /// Images whose config cannot be read: not listed, but what they need stays for a repair.
    pub broken: BTreeMap<Digest, ImageRecord>,
    /// `domain/path:tag` → image.
    pub tags: BTreeMap<ImageRef, Digest>,
    /// `domain/path@digest` → image.
    pub digests: BTreeMap<ImageRef, Digest>,
    pub layers: HashMap<Digest, LayerRecord>,
    /// Those of `layers` that the database does not know yet: they were taken in for an image that is not recorded.
    pub unrecorded: HashSet<Digest>,
    /// Layers of images that are not recorded yet, by the digest of their blob.
    pub arrived: HashMap<Digest, LayerBlob>,
    pub containers: HashMap<ContainerId, Option<Digest>>,
    /// Blobs and layers an unfinished ingest counts on.
    pub pins: HashMap<Digest, usize>,
}

impl Index {
    pub fn tags_of<'a>(&'a self, image: &'a Digest) -> impl Iterator<Item = &'a ImageRef> {
        self.tags.iter().filter(move |(_, id)| *id == image).map(|(reference, _)| reference)
    }

    pub fn digests_of<'a>(&'a self, image: &'a Digest) -> impl Iterator<Item = &'a ImageRef> {
        self.digests.iter().filter(move |(_, id)| *id == image).map(|(reference, _)| reference)
    }

    /// Gives an image a name; the image that had it loses it.
    pub fn name(&mut self, reference: ImageRef, image: Digest) {
        let map = if reference.digest.is_some() { &mut self.digests } else { &mut self.tags };
        map.insert(reference, image);
    }

    pub fn is_used(&self, image: &Digest) -> bool {
        self.containers.values().any(|used| used.as_ref() == Some(image))
    }

    fn records(&self) -> impl Iterator<Item = (&Digest, &ImageRecord)> {
        self.images.iter().map(|(id, image)| (id, &image.record)).chain(&self.broken)
    }

    /// Blobs that images or unfinished ingests need.
    pub fn live_blobs(&self) -> HashSet<Digest> {
        let mut live: HashSet<Digest> = self.pins.keys().cloned().collect();
        for (id, record) in self.records() {
            live.extend([id.clone(), record.manifest.clone()]);
            live.extend(record.indexes.iter().map(|index| index.digest.clone()));
            live.extend(record.layers.iter().map(|layer| layer.digest.clone()));
        }
        live
    }

    /// Unpacked layers that images or unfinished ingests need.
    pub fn live_layers(&self) -> HashSet<Digest> {
        let mut live: HashSet<Digest> = self.pins.keys().cloned().collect();
        live.extend(self.records().flat_map(|(_, record)| record.layers.iter().map(|layer| layer.diff_id.clone())));
        live
    }
}

/// The database.
#[derive(Debug)]
pub(crate) struct Database(Connection);

/// One change of the database.
#[derive(Debug)]
pub(crate) enum Write<'a> {
    PutImage(&'a Digest, &'a ImageRecord),
    DeleteImage(&'a Digest),
    PutLayer(&'a Digest, &'a LayerRecord),
    DeleteLayer(&'a Digest),
    PutReference(&'a ImageRef, &'a Digest),
    DeleteReference(&'a ImageRef),
}

impl Database {
    pub fn open(path: &Path) -> Result<Database> {
        let connection = Connection::open(path).db("open")?;
        connection.busy_timeout(std::time::Duration::from_secs(10)).db("open")?;
        connection.pragma_update(None, "journal_mode", "WAL").db("open")?;
        // Images are promised to the user: their records survive a power cut.
        connection.pragma_update(None, "synchronous", "FULL").db("open")?;
        let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).db("read the format of")?;
        if found > FORMAT {
            return Err(Error::Format { found, supported: FORMAT });
        }
        if found == 1 {
            // What is new has a default.
            connection.pragma_update(None, "user_version", FORMAT).db("set up")?;
        }
        if found == 0 {
            connection
                .execute_batch(&format!(
                    "BEGIN;
                     CREATE TABLE image(id TEXT PRIMARY KEY, record TEXT NOT NULL) STRICT;
                     CREATE TABLE layer(diff_id TEXT PRIMARY KEY, record TEXT NOT NULL) STRICT;
                     CREATE TABLE reference(name TEXT PRIMARY KEY, image TEXT NOT NULL) STRICT;
                     PRAGMA user_version = {FORMAT};
                     COMMIT;"
                ))
                .db("set up")?;
        }
        Ok(Database(connection))
    }

    pub fn write(&mut self, writes: &[Write<'_>]) -> Result<()> {
        let json = |value: serde_json::Result<String>| value.expect("a record has only string keys");
        let transaction = self.0.transaction().db("write to")?;
        for write in writes {
            match write {
                Write::PutImage(id, record) => {
                    let record = json(serde_json::to_string(record));
                    transaction.execute("INSERT OR REPLACE INTO image VALUES (?1, ?2)", params![id.to_string(), record])
                }
                Write::DeleteImage(id) => transaction.execute("DELETE FROM image WHERE id = ?1", params![id.to_string()]),
                Write::PutLayer(id, record) => {
                    let record = json(serde_json::to_string(record));
                    transaction.execute("INSERT OR REPLACE INTO layer VALUES (?1, ?2)", params![id.to_string(), record])
                }
                Write::DeleteLayer(id) => transaction.execute("DELETE FROM layer WHERE diff_id = ?1", params![id.to_string()]),
                Write::PutReference(name, image) => {
                    transaction.execute("INSERT OR REPLACE INTO reference VALUES (?1, ?2)", params![name.canonical(), image.to_string()])
                }
                Write::DeleteReference(name) => transaction.execute("DELETE FROM reference WHERE name = ?1", params![name.canonical()]),
            }
            .db("write to")?;
        }
        transaction.commit().db("write to")
    }

    pub fn images(&self) -> Result<Vec<(Digest, ImageRecord)>> {
        self.rows("SELECT id, record FROM image")
    }

    pub fn layers(&self) -> Result<Vec<(Digest, LayerRecord)>> {
        self.rows("SELECT diff_id, record FROM layer")
    }

    pub fn references(&self) -> Result<Vec<(ImageRef, Digest)>> {
        let mut statement = self.0.prepare("SELECT name, image FROM reference").db("read")?;
        let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))).db("read")?;
        rows.map(|row| {
            let (name, image) = row.db("read")?;
            Ok((name.parse()?, image.parse()?))
        })
        .collect()
    }

    fn rows<T: DeserializeOwned>(&self, query: &str) -> Result<Vec<(Digest, T)>> {
        let mut statement = self.0.prepare(query).db("read")?;
        let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))).db("read")?;
        rows.map(|row| {
            let (id, record) = row.db("read")?;
            let record = serde_json::from_str(&record).map_err(|e| Error::invalid(format!("database record of {id}"), e.to_string()))?;
            Ok((id.parse()?, record))
        })
        .collect()
    }
}
