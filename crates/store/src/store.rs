//! Opening a store, its directories, and deletion in the background.

use crate::ahead::{Ahead, DIRECTORY as AHEAD};
use crate::blobs::digest_of_file;
use crate::btrfs::TREE;
use crate::config::ImageConfig;
use crate::error::{At, Error, Result};
use crate::held::Holders;
use crate::index::{Database, Index, StoredImage};
use crate::ingest::random_name;
use crate::limits::Limits;
use crate::partial::{KEPT, Partials};
use crate::root::{names, open_dir, remove_tree_until};
use naru_types::{ContainerId, Digest};
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How containers' file systems are made of layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Driver {
    /// A mount of overlayfs.
    #[default]
    Overlay,
    /// A copy; for file systems overlayfs cannot lie upon.
    Vfs,
    /// A snapshot of a subvolume of btrfs.
    Btrfs,
}

impl Driver {
    /// The name users know it by.
    pub fn name(self) -> &'static str {
        match self {
            Driver::Overlay => "overlay2",
            Driver::Vfs => "vfs",
            Driver::Btrfs => "btrfs",
        }
    }

    /// Whether a container's file system is a mount of its own, which can have a label; else its files have them.
    pub fn labels_mounts(self) -> bool {
        self == Driver::Overlay
    }
}

/// Settings of a store.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoreConfig {
    /// The directory that holds everything.
    pub root: PathBuf,
    /// How file systems are made.
    pub driver: Driver,
    /// What images may cost.
    pub limits: Limits,
}

/// The images and containers' file systems under one directory.
#[derive(Debug)]
pub struct Store {
    pub(crate) root: PathBuf,
    pub(crate) driver: Driver,
    pub(crate) limits: Limits,
    pub(crate) index: RwLock<Index>,
    pub(crate) database: Mutex<Database>,
    pub(crate) containers: OwnedFd,
    pub(crate) holders: Holders,
    pub(crate) ahead: Ahead,
    pub(crate) partials: Arc<Partials>,
    /// Bytes on disk of layers that were counted.
    pub(crate) layer_blocks: Mutex<HashMap<Digest, u64>>,
    /// Held while an image's tree is made.
    pub(crate) building: Mutex<()>,
    trash: Arc<Trash>,
    wake: Option<Sender<()>>,
    sweeper: Option<JoinHandle<()>>,
    /// Wakes the thread that sets the disk to work while a layer still comes in.
    pub(crate) flusher: Option<SyncSender<()>>,
    flushing: Option<JoinHandle<()>>,
    _lock: OwnedFd,
}

/// The directory of what is being deleted.
#[derive(Debug)]
struct Trash {
    directory: OwnedFd,
    sweeping: Mutex<()>,
    /// The store is being closed: what is left is deleted at the next start.
    closing: AtomicBool,
}

impl Trash {
    fn sweep(&self) -> Result<()> {
        let _one_at_a_time = self.sweeping.lock().expect("a sweep does not panic");
        let mut result = Ok(());
        for name in names(&self.directory).at("list", "trash")? {
            // One that cannot go must not keep the others.
            let removed = remove_tree_until(self.directory.as_fd(), &name, &self.closing).at("delete", "trash");
            result = result.and(removed);
        }
        result
    }
}

const DIRECTORIES: [&str; 9] = ["blobs", "blobs/sha256", "layers", "init", "containers", AHEAD, "partial", "staging", "trash"];

impl Store {
    /// Opens the store, making it when it is new, and removes what a crash left behind.
    pub fn open(config: &StoreConfig) -> Result<Store> {
        let root = std::path::absolute(&config.root).at("find", config.root.display())?;
        std::fs::create_dir_all(&root).at("create", root.display())?;
        // Set-uid programs of images must not be reachable for the host's users.
        rustix::fs::chmodat(CWD, &root, Mode::from_raw_mode(0o700), AtFlags::empty()).at("protect", root.display())?;
        if config.driver == Driver::Btrfs {
            crate::btrfs::check_root(&root)?;
        }
        let lock = take_lock(&root.join("lock"))?;
        for directory in DIRECTORIES {
            let path = root.join(directory);
            match rustix::fs::mkdirat(CWD, &path, Mode::from_raw_mode(0o700)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno).at("create", path.display()),
            }
        }
        let open = |name: &str| open_dir(&root.join(name)).at("open", root.join(name).display());
        let trash = Arc::new(Trash { directory: open("trash")?, sweeping: Mutex::new(()), closing: AtomicBool::new(false) });
        let database = Database::open(&root.join("store.db"))?;
        let (wake, woken) = channel();
        let mut store = Store {
            driver: config.driver,
            limits: config.limits,
            index: RwLock::new(Index::default()),
            database: Mutex::new(database),
            containers: open("containers")?,
            holders: Holders::default(),
            ahead: Ahead::default(),
            layer_blocks: Mutex::new(HashMap::new()),
            partials: Arc::new(Partials::new(root.join("partial"))),
            building: Mutex::new(()),
            trash: trash.clone(),
            wake: Some(wake),
            sweeper: None,
            flusher: None,
            flushing: None,
            _lock: lock,
            root,
        };
        store.read_index()?;
        store.discard_leftovers()?;
        let partials = Arc::clone(&store.partials);
        let sweeper = std::thread::Builder::new().name("store-sweeper".into()).spawn(move || sweep_when_woken(&trash, &partials, &woken));
        let (flusher, woken) = sync_channel(1);
        let root = open_dir(&store.root).at("open", store.root.display())?;
        let flushing = std::thread::Builder::new().name("store-flusher".into()).spawn(move || {
            while woken.recv().is_ok() {
                // Only a head start: the commit syncs again, and tells of errors.
                rustix::fs::syncfs(&root).ok();
            }
        });
        (store.flusher, store.flushing) = (Some(flusher), Some(flushing.at("start", "the flusher thread")?));
        store.sweeper = Some(sweeper.at("start", "the sweeper thread")?);
        store.wake_sweeper();
        Ok(store)
    }

    /// The directory that holds everything.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// How file systems are made.
    pub fn driver(&self) -> Driver {
        self.driver
    }

    /// Deletes everything that was discarded, now; normally this happens in the background.
    pub fn sweep(&self) -> Result<()> {
        self.trash.sweep()
    }

    /// Moves `path` (in the store) out of sight; its space is freed later. Absent is fine.
    pub(crate) fn discard(&self, path: &Path) -> Result<()> {
        // A number of the process would meet what an earlier process with the same id left.
        match rustix::fs::renameat(CWD, path, &self.trash.directory, random_name()) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(errno).at("discard", path.display()),
        }
        self.wake_sweeper();
        Ok(())
    }

    /// Makes durable which files are in place.
    pub(crate) fn sync_places(&self) -> Result<()> {
        for directory in ["blobs/sha256", "layers"] {
            let path = self.root.join(directory);
            let open = open_dir(&path).at("open", path.display())?;
            rustix::fs::fsync(&open).at("sync", path.display())?;
        }
        Ok(())
    }

    fn wake_sweeper(&self) {
        if let Some(wake) = &self.wake {
            // The sweeper ends only after this sender is dropped.
            wake.send(()).ok();
        }
    }

    pub(crate) fn layer_path(&self, diff_id: &Digest) -> PathBuf {
        self.root.join("layers").join(diff_id.hex())
    }

    pub(crate) fn container_path(&self, id: &ContainerId) -> PathBuf {
        self.root.join("containers").join(id.as_str())
    }

    fn read_index(&mut self) -> Result<()> {
        let mut index = Index::default();
        {
            let database = self.database.lock().expect("a database read does not panic");
            index.layers = database.layers()?.into_iter().collect();
            for (id, record) in database.images()? {
                match self.read_metadata(&id).and_then(|bytes| ImageConfig::parse(&bytes)) {
                    Ok(config) => {
                        index.images.insert(id, StoredImage { record, config: Arc::new(config) });
                    }
                    // One damaged image must not keep the engine from starting.
                    Err(error) => {
                        tracing::warn!(image = %id, error = &error as &dyn std::error::Error, "an image cannot be read and is left out");
                        index.broken.insert(id, record);
                    }
                }
            }
            for (reference, image) in database.references()? {
                if index.images.contains_key(&image) {
                    if reference.digest.is_some() {
                        index.digests.insert(reference, image)
                    } else {
                        index.tags.insert(reference, image)
                    };
                }
            }
        }
        for name in names(&self.containers).at("list", "containers")? {
            let Some(id) = std::str::from_utf8(&name).ok().and_then(|name| name.parse::<ContainerId>().ok()) else { continue };
            let link = format!("{}/image", id.as_str());
            let image = match rustix::fs::readlinkat(&self.containers, link.as_str(), Vec::new()) {
                Ok(text) => text.to_str().ok().and_then(|text| text.parse().ok()),
                Err(_) => None,
            };
            index.containers.insert(id, image);
        }
        self.index = RwLock::new(index);
        Ok(())
    }

    /// Removes files without a record, and layers and hidden images that nothing uses.
    fn discard_leftovers(&self) -> Result<()> {
        for directory in ["staging", AHEAD] {
            for name in self.names_in(directory)? {
                self.discard(&self.root.join(directory).join(name))?;
            }
        }
        let hidden: Vec<Digest> = {
            let index = self.index.read().expect("the index is not poisoned");
            index.images.iter().filter(|(id, image)| image.record.hidden && !index.is_used(id)).map(|(id, _)| id.clone()).collect()
        };
        for image in hidden {
            self.forget_image(&image)?;
        }
        self.collect()?;
        let (blobs, layers) = {
            let index = self.index.read().expect("the index is not poisoned");
            (index.live_blobs(), index.live_layers())
        };
        for name in self.names_in("init")? {
            // Cheap to make again, so those of containers that are gone need not be told apart.
            let used = {
                let index = self.index.read().expect("the index is not poisoned");
                let name = name.strip_suffix(TREE).unwrap_or(&name);
                name == "none" || format!("sha256:{name}").parse::<Digest>().is_ok_and(|image| index.images.contains_key(&image))
            };
            if !used {
                self.discard(&self.root.join("init").join(name))?;
            }
        }
        let known =
            |name: &str, live: &std::collections::HashSet<Digest>| digest_of_file(name).is_some_and(|digest| live.contains(&digest));
        for (directory, live) in [("blobs/sha256", &blobs), ("layers", &layers)] {
            for name in self.names_in(directory)? {
                if !known(&name, live) {
                    self.discard(&self.root.join(directory).join(name))?;
                }
            }
        }
        Ok(())
    }

    pub(crate) fn names_in(&self, directory: &str) -> Result<Vec<String>> {
        let path = self.root.join(directory);
        let open = open_dir(&path).at("open", path.display())?;
        let names = names(&open).at("list", path.display())?;
        Ok(names.into_iter().filter_map(|name| String::from_utf8(name).ok()).collect())
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        (self.wake, self.flusher) = (None, None);
        self.trash.closing.store(true, Ordering::Relaxed);
        for thread in [self.sweeper.take(), self.flushing.take()].into_iter().flatten() {
            thread.join().ok();
        }
    }
}

/// How long the deletion of what was discarded is put off.
const BEHIND: Duration = Duration::from_millis(8);
/// Old partial blobs are looked for this often.
const LOOK_EVERY: Duration = Duration::from_secs(60 * 60);

fn sweep_when_woken(trash: &Trash, partials: &Partials, woken: &Receiver<()>) {
    let mut next_look = Instant::now();
    loop {
        match woken.recv_timeout(next_look.saturating_duration_since(Instant::now())) {
            Ok(()) => {
                // Who has discarded something is answered first, and what goes together is deleted together.
                if let Err(RecvTimeoutError::Disconnected) = woken.recv_timeout(BEHIND) {
                    return;
                }
                while woken.try_recv().is_ok() {}
            }
            Err(RecvTimeoutError::Timeout) => next_look = Instant::now() + LOOK_EVERY,
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if let Err(error) = partials.sweep(KEPT).and_then(|_| trash.sweep())
            && !trash.closing.load(Ordering::Relaxed)
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot delete discarded files, the next start tries again");
        }
    }
}

/// Two stores on one directory would delete each other's files.
fn take_lock(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::openat(CWD, path, flags, Mode::from_raw_mode(0o600)).at("open", path.display())?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => {
            Err(Error::Conflict { action: "open", image: path.display().to_string(), reason: "another engine uses this directory".into() })
        }
        Err(errno) => Err(errno).at("lock", path.display()),
    }
}
