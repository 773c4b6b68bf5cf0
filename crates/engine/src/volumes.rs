//! Local volumes: directories below `volumes/<name>/_data`, their records, who uses them.

use crate::db::Db;
use crate::error::{EngineError, Result};
use crate::events::{EventBus, ObjectKind};
use jiff::Timestamp;
use naru_types::{ContainerId, Name};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// A volume of the local driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name; 64 hex digits for an anonymous one.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// Data of the user.
    pub labels: BTreeMap<String, String>,
    /// Driver options: `type`, `device`, `o`.
    pub options: BTreeMap<String, String>,
    /// Nobody named it.
    pub anonymous: bool,
}

/// All volumes.
pub struct Volumes {
    root: PathBuf,
    records: RwLock<BTreeMap<String, Arc<Volume>>>,
}

impl Volumes {
    /// Takes up the volumes of the database; directories that nobody knows are left alone (they hold a user's data).
    pub(crate) fn open(root: PathBuf, rows: Vec<(String, String)>) -> Result<Self> {
        std::fs::DirBuilder::new().recursive(true).mode(0o701).create(&root).map_err(EngineError::io("make", &root))?;
        let mut records = BTreeMap::new();
        for (name, record) in rows {
            match serde_json::from_str::<Volume>(&record) {
                Ok(volume) => {
                    records.insert(name, Arc::new(volume));
                }
                Err(error) => tracing::warn!(volume = name, %error, "cannot read the volume's record; it is ignored"),
            }
        }
        Ok(Volumes { root, records: RwLock::new(records) })
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<String, Arc<Volume>>> {
        self.records.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of them, by name.
    pub fn list(&self) -> Vec<Arc<Volume>> {
        self.read().values().cloned().collect()
    }

    /// The one of that name.
    pub fn find(&self, name: &str) -> Result<Arc<Volume>> {
        self.read().get(name).cloned().ok_or_else(|| EngineError::NoSuchVolume(name.to_owned()))
    }

    /// Where its files are.
    pub fn mountpoint(&self, name: &str) -> PathBuf {
        self.root.join(name).join("_data")
    }

    /// Makes a volume, or finds the one that has the name already.
    pub(crate) async fn create(
        &self,
        db: &Db,
        events: &EventBus,
        name: Option<&str>,
        mut labels: BTreeMap<String, String>,
        options: BTreeMap<String, String>,
    ) -> Result<Arc<Volume>> {
        let anonymous = name.is_none_or(str::is_empty);
        let name = match name.filter(|name| !name.is_empty()) {
            Some(name) => name.parse::<Name>().map_err(|_| bad_name(name))?.as_str().to_owned(),
            None => ContainerId::random().as_str().to_owned(),
        };
        if let Some(key) = options.keys().find(|key| !matches!(key.as_str(), "type" | "device" | "o")) {
            return Err(EngineError::invalid(format!("create {name}: invalid option: {key:?}")));
        }
        if let Some(volume) = self.read().get(&name) {
            if !options.is_empty() && volume.options != options {
                return Err(EngineError::conflict(format!("create {name}: volume already exists with different options")));
            }
            return Ok(Arc::clone(volume));
        }
        if anonymous {
            // Docker's mark of what its `volume prune` deletes, which others look at, too.
            labels.insert("com.docker.volume.anonymous".into(), String::new());
        }
        let data = self.mountpoint(&name);
        // 0701 keeps other users from listing; the data directory is open to whom the container lets in.
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o701)
            .create(self.root.join(&name))
            .and_then(|()| std::fs::DirBuilder::new().recursive(true).mode(0o755).create(&data))
            .map_err(EngineError::io("make the volume's directory", &data))?;
        let volume = Arc::new(Volume { name: name.clone(), created: Timestamp::now(), labels, options, anonymous });
        let json = serde_json::to_string(&*volume).expect("volumes are plain data");
        db.put_volume(&name, json).await?;
        let volume = {
            let mut records = self.records.write().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(records.entry(name.clone()).or_insert(volume))
        };
        events.publish(ObjectKind::Volume, "create", name, driver());
        Ok(volume)
    }

    /// Deletes a volume that `users` does not name.
    pub(crate) async fn remove(&self, db: &Db, events: &EventBus, name: &str, users: &[String]) -> Result<()> {
        self.find(name)?;
        if !users.is_empty() {
            return Err(EngineError::conflict(format!("remove {name}: volume is in use - [{}]", users.join(", "))));
        }
        let directory = self.root.join(name);
        let gone = directory.clone();
        tokio::task::spawn_blocking(move || remove_tree(&gone)).await.map_err(|_| EngineError::Gone("the thread that deletes files"))??;
        db.delete_volume(name).await?;
        self.records.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        events.publish(ObjectKind::Volume, "destroy", name, driver());
        Ok(())
    }
}

fn driver() -> BTreeMap<String, String> {
    BTreeMap::from([("driver".to_owned(), "local".to_owned())])
}

fn bad_name(name: &str) -> EngineError {
    EngineError::invalid(format!(
        "create {name}: {name:?} includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
    ))
}

/// Deletes a directory and what is in it; one that does not exist is fine.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(EngineError::io("delete", path)(error)),
        _ => Ok(()),
    }
}
