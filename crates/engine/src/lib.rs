//! The engine: containers, images, volumes, networks, execs and events, and the rules that bind them.
//!
//! - [`Engine`] is the door: look-ups never wait, commands go to the container's own actor ([`container`]).
//! - [`phase`] is what may happen to a container, as a pure function; [`launch`] carries it out on the host.
//! - [`db`] keeps specifications and states; [`recover`] takes up what a former daemon left.
//! - The engine knows nothing of Docker's JSON: fronts translate.

#![warn(missing_docs)]

pub mod container;
mod db;
mod error;
pub mod events;
pub mod exec;
pub mod files;
pub mod health;
pub mod images;
mod journal;
mod labels;
mod launch;
pub mod logs;
mod migrate;
mod monitor;
pub mod network;
mod oci;
pub mod phase;
mod propagation;
mod recover;
pub mod registries;
mod rootfs;
pub mod spec;
pub mod stats;
pub mod top;
mod volume_mounts;
pub mod volumes;

pub use error::{EngineError, Result, chain};
pub use launch::Run;
pub use naru_net::{FIREWALLD_CHAIN, MARK as PACKET_MARK};
pub use oci::parse_device_rule;

use container::{Birth, Container, View};
use db::Db;
use events::{EventBus, ObjectKind};
use exec::{Exec, ExecSpec, Execs};
use jiff::Timestamp;
use naru_runtime::spawner::Spawner;
use naru_store::{Driver, Store, StoreConfig};
use naru_types::{ContainerId, Name};
use network::{NetworkConfig, NetworkRequest, Networks};
use phase::State;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use spec::{ContainerSpec, MountSource};
use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use volumes::{Volume, Volumes};

/// Another OCI runtime.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    /// The program.
    pub program: PathBuf,
    /// Arguments before the subcommand.
    pub args: Vec<String>,
}

/// How the engine is set up.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// What lasts: images, layers, volumes, logs, the database.
    pub data_root: PathBuf,
    /// What lives as long as the host is up: sockets and files of running containers.
    pub exec_root: PathBuf,
    /// How layers become a root file system.
    pub driver: Driver,
    /// What an image from outside may cost.
    pub limits: naru_store::Limits,
    /// Where the containers' cgroups are made.
    pub cgroup_parent: String,
    /// Other runtimes by name.
    pub runtimes: BTreeMap<String, RuntimeConfig>,
    /// New containers get SELinux labels.
    pub selinux: bool,
    /// The default bridge and what goes for all networks.
    pub network: NetworkConfig,
    /// Mirrors, proxies, limits of the way to registries.
    pub registry: naru_registry::RegistryConfig,
}

/// Names of the built-in runtime: its own, and those that clients of Docker give for the default one.
const BUILT_IN_RUNTIMES: [&str; 4] = ["", "naru", "runc", "io.containerd.runc.v2"];

impl EngineConfig {
    /// The runtime of that name; none for the built-in one.
    pub fn runtime(&self, name: &str) -> Result<Option<&RuntimeConfig>> {
        match self.runtimes.get(name) {
            None if !BUILT_IN_RUNTIMES.contains(&name) => Err(EngineError::invalid(format!("unknown or invalid runtime name: {name}"))),
            found => Ok(found),
        }
    }
}

/// The engine's state; shared by the actors and the fronts.
pub struct Inner {
    pub(crate) config: EngineConfig,
    pub(crate) store: Arc<Store>,
    pub(crate) db: Db,
    pub(crate) events: EventBus,
    pub(crate) spawner: Spawner,
    pub(crate) networks: Arc<Networks>,
    pub(crate) registries: naru_registry::Client,
    pub(crate) volumes: Volumes,
    pub(crate) volume_mounts: volume_mounts::VolumeMounts,
    pub(crate) execs: Execs,
    levels: labels::Levels,
    registry: RwLock<Registry>,
}

#[derive(Default)]
struct Registry {
    by_id: BTreeMap<ContainerId, Arc<Container>>,
    by_name: HashMap<String, ContainerId>,
}

impl Registry {
    fn named(&self, name: &str) -> Option<Arc<Container>> {
        self.by_name.get(name).and_then(|id| self.by_id.get(id)).cloned()
    }
}

/// The door to the engine; cheap to clone.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

/// A created container.
#[derive(Debug)]
pub struct Created {
    /// Its id.
    pub id: ContainerId,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Every published port and every client takes descriptors, and the 1024 that a shell or systemd gives are soon used up.
/// Containers keep what the daemon was started with, by the spawner.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    // Up to the hard limit it is never refused; and if it were, there would be fewer.
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).ok();
}

impl Engine {
    /// Opens the engine and takes up what a former daemon left. Call it inside a tokio runtime.
    pub async fn open(config: EngineConfig) -> Result<Engine> {
        for (path, mode) in [(&config.data_root, 0o710), (&config.exec_root, 0o711)] {
            std::fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(EngineError::io("make", path))?;
        }
        for path in [config.data_root.join("containers"), config.exec_root.join("containers")] {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(EngineError::io("make", &path))?;
        }
        let (db, loaded) = Db::open(&config.data_root.join("naru.db"))?;
        let store = Arc::new(Store::open(&StoreConfig { root: config.data_root.clone(), driver: config.driver, limits: config.limits })?);
        if config.selinux {
            labels::label_store(&config)?;
        }
        let volumes = Volumes::open(config.data_root.join("volumes"), loaded.volumes)?;
        let registries = naru_registry::Client::new(config.registry.clone())?;
        let spawner = Spawner::launch()?;
        raise_descriptor_limit();
        let networks = Arc::new(Networks::open(&config.network, loaded.networks)?);
        let events = EventBus::open(&config.data_root.join("events"));
        let inner = Arc::new(Inner {
            config,
            store,
            db,
            events,
            spawner,
            networks,
            registries,
            volumes,
            volume_mounts: volume_mounts::VolumeMounts::default(),
            execs: Execs::default(),
            levels: labels::Levels::default(),
            registry: RwLock::default(),
        });
        recover::recover(&inner, loaded.containers).await?;
        inner.networks.guard()?;
        let warm = Arc::clone(&inner);
        tokio::task::spawn_blocking(move || launch::warm_up(&warm));
        Ok(Engine(inner))
    }

    /// Makes a container; it does not run yet. Where its start is expected in a moment, that is made ready meanwhile; see
    /// [`container::ready`].
    pub async fn create(&self, mut spec: ContainerSpec, to_start: bool) -> Result<Created> {
        let inner = &self.0;
        for link in &mut spec.network.links {
            let (reference, alias) = split_link(link);
            // Not a "not found": clients would take that for the image's.
            let linked =
                inner.find(reference).map_err(|error| EngineError::invalid(format!("could not get container for {reference}: {error}")))?;
            // The container is meant, whatever it will be called.
            *link = format!("{}:{alias}", linked.view().id);
        }
        let id = ContainerId::random();
        let name = inner.name_for(&id, spec.name.as_ref())?;
        spec.name = name.parse::<Name>().ok();
        let result = inner.create_named(&id, &name, spec, to_start).await;
        if result.is_err() {
            inner.free_name(&name);
        }
        result
    }

    /// The container of that id, name, or unique id prefix.
    pub fn find(&self, reference: &str) -> Result<Arc<Container>> {
        self.0.find(reference)
    }

    /// All containers, newest first.
    pub fn containers(&self) -> Vec<Arc<View>> {
        let mut views: Vec<Arc<View>> = self.0.registry().by_id.values().map(|container| container.view()).collect();
        views.sort_by_key(|view| std::cmp::Reverse(view.created));
        views
    }

    /// The names that containers have by the links of others, as `owner/alias`.
    pub fn linked_names(&self) -> BTreeMap<ContainerId, Vec<String>> {
        let mut names: BTreeMap<ContainerId, Vec<String>> = BTreeMap::new();
        for view in self.containers() {
            for (reference, alias) in view.spec.network.links.iter().map(|link| split_link(link)) {
                if let Ok(target) = self.find(reference) {
                    names.entry(target.id.clone()).or_default().push(format!("{}/{alias}", view.name));
                }
            }
        }
        names.values_mut().for_each(|list| list.sort());
        names
    }

    /// Takes a link off the container that has it; it is named `owner/alias`.
    pub async fn unlink(&self, reference: &str) -> Result<()> {
        let name = reference.strip_prefix('/').unwrap_or(reference);
        let Some((owner, alias)) = name.split_once('/') else {
            self.find(name)?;
            return Err(EngineError::conflict("Conflict, cannot remove the default link name of the container"));
        };
        let owner = self.find(owner).map_err(|_| EngineError::NoSuchContainer(name.to_owned()))?;
        owner.unlink(alias).await
    }

    /// The host name that a container has inside.
    pub fn hostname(&self, view: &View) -> String {
        launch::hostname(&self.0, view)
    }

    /// Gives a container another name.
    pub async fn rename(&self, reference: &str, name: &str) -> Result<()> {
        let name = name.strip_prefix('/').unwrap_or(name);
        let name =
            name.parse::<Name>().map_err(|_| EngineError::invalid(format!("Error when allocating new name: {}", invalid_name(name))))?;
        self.find(reference)?.rename(name).await
    }

    /// Changes a container's specification, and its limits at once when it runs.
    pub async fn update(&self, reference: &str, change: impl FnOnce(&mut ContainerSpec) + Send + 'static) -> Result<()> {
        self.find(reference)?.update(Box::new(change)).await
    }

    /// Makes an exec in a running container.
    pub async fn exec_create(&self, reference: &str, spec: ExecSpec) -> Result<Arc<Exec>> {
        if spec.args.first().is_none_or(String::is_empty) {
            return Err(EngineError::invalid("No exec command specified"));
        }
        let container = self.find(reference)?;
        if let Some(user) = &spec.user {
            exec::check_user(&container, reference, user).await?;
        }
        exec::create(&self.0, &container, reference, spec)
    }

    /// The exec of that id.
    pub fn exec(&self, id: &str) -> Result<Arc<Exec>> {
        self.0.execs.find(id)
    }

    /// Execs of a container that run.
    pub fn execs_of(&self, container: &ContainerId) -> Vec<String> {
        self.0.execs.of(container)
    }

    /// Whether an exec can be started: it was not yet, and its container runs.
    pub fn exec_startable(&self, exec: &Exec) -> Result<()> {
        exec::startable(&self.0, exec).map(drop)
    }

    /// Starts an exec; the stream is absent when detached.
    pub async fn exec_start(&self, exec: &Arc<Exec>, detach: bool) -> Result<Option<std::os::unix::net::UnixStream>> {
        exec::start(&self.0, exec, detach).await
    }

    /// Sets the size of an exec's terminal.
    pub async fn exec_resize(&self, exec: &Exec, rows: u16, columns: u16) -> Result<()> {
        exec::resize(&self.0, exec, rows, columns).await
    }

    /// The event bus.
    pub fn events(&self) -> &EventBus {
        &self.0.events
    }

    /// Publishes that something was done to a container by a front.
    pub fn emit(&self, container: &Container, action: &str) {
        self.0.container_event(&container.view(), action, &[]);
    }

    /// Publishes an event of an exec by its action; that of a container that is gone concerns nobody.
    pub fn emit_exec(&self, exec: &Exec, action: &str) {
        if let Ok(container) = self.find(exec.container.as_str()) {
            self.0.container_event(&container.view(), action, &[("execID", exec.id.clone())]);
        }
    }

    /// Publishes that unused objects were deleted.
    pub fn emit_prune(&self, kind: ObjectKind, reclaimed: u64) {
        let attributes = BTreeMap::from([("reclaimed".to_owned(), reclaimed.to_string())]);
        self.0.events.publish(kind, "prune", "", attributes);
    }

    /// The volumes.
    pub fn volumes(&self) -> &Volumes {
        &self.0.volumes
    }

    /// Makes a volume, or finds the one of that name.
    pub async fn create_volume(
        &self,
        name: Option<&str>,
        labels: BTreeMap<String, String>,
        options: BTreeMap<String, String>,
    ) -> Result<Arc<Volume>> {
        self.0.volumes.create(&self.0.db, &self.0.events, name, labels, options).await
    }

    /// Deletes a volume that no container uses.
    pub async fn remove_volume(&self, name: &str) -> Result<()> {
        let users = self.0.volume_users(name, None);
        self.0.remove_volume(name, &users).await
    }

    /// Ids of the containers that use a volume.
    pub fn volume_users(&self, name: &str) -> Vec<String> {
        self.0.volume_users(name, None)
    }

    /// The networks.
    pub fn networks(&self) -> &Networks {
        &self.0.networks
    }

    /// The daemon leaves. Containers that run go on; without any, nothing of the host's is held for them.
    pub fn leave(&self) {
        if self.containers().iter().all(|view| view.state.pid().is_none()) {
            self.networks().close_passages();
        }
    }

    /// Makes a network.
    pub async fn create_network(&self, request: NetworkRequest) -> Result<Arc<network::Entry>> {
        self.0.networks.create(&self.0.db, &self.0.events, request).await
    }

    /// Deletes a network that nobody is on; returns its id.
    pub async fn remove_network(&self, reference: &str) -> Result<String> {
        self.0.networks.remove(&self.0.db, &self.0.events, reference).await
    }

    /// Connects a container to a network.
    pub async fn connect(&self, network: &str, container: &str, mut attachment: spec::Attachment) -> Result<()> {
        let entry = self.0.networks.find(network)?;
        attachment.network = entry.record.name.clone();
        self.find(container)?.connect(entry, attachment).await
    }

    /// Takes a container off a network.
    pub async fn disconnect(&self, network: &str, container: &str, force: bool) -> Result<()> {
        let entry = match self.0.networks.find(network) {
            // A network that is gone can still be named by a container, which could not start then.
            Err(EngineError::NoSuchNetwork(name)) => return self.forget_network(name, container).await,
            found => found?,
        };
        match self.find(container) {
            Ok(container) => container.disconnect(entry, force).await,
            // What is left of a container that is gone; nothing of ours stays behind, so there is nothing to do.
            Err(EngineError::NoSuchContainer(_)) if force => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// How the engine is set up.
    pub fn config(&self) -> &EngineConfig {
        &self.0.config
    }

    async fn forget_network(&self, name: String, container: &str) -> Result<()> {
        let container = self.find(container)?;
        if !container.view().spec.network.attachments.iter().any(|attachment| attachment.network == name) {
            return Err(EngineError::NoSuchNetwork(name));
        }
        container.update(Box::new(move |spec| spec.network.attachments.retain(|attachment| attachment.network != name))).await
    }

    /// The image store.
    pub fn store(&self) -> &Arc<Store> {
        &self.0.store
    }

    /// Where a container's log is, if it has one.
    pub fn log_path(&self, id: &ContainerId) -> PathBuf {
        self.0.log_path(id)
    }

    /// Where the engine's own files of a container are while it runs.
    pub fn run_directory(&self, id: &ContainerId) -> PathBuf {
        self.0.run_directory(id)
    }
}

/// `container:alias`, or the name alone for both.
pub fn split_link(link: &str) -> (&str, &str) {
    let (reference, alias) = link.split_once(':').unwrap_or((link, link));
    (reference.trim_start_matches('/'), alias.trim_start_matches('/'))
}

fn invalid_name(name: &str) -> EngineError {
    EngineError::invalid(format!("Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"))
}

impl Inner {
    fn registry(&self) -> std::sync::RwLockReadGuard<'_, Registry> {
        self.registry.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn registry_mut(&self) -> std::sync::RwLockWriteGuard<'_, Registry> {
        self.registry.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn events(&self) -> &EventBus {
        &self.events
    }

    pub(crate) fn run_directory(&self, id: &ContainerId) -> PathBuf {
        self.config.exec_root.join("containers").join(id.as_str())
    }

    pub(crate) fn log_directory(&self, id: &ContainerId) -> PathBuf {
        self.config.data_root.join("logs").join(id.as_str())
    }

    pub(crate) fn log_path(&self, id: &ContainerId) -> PathBuf {
        self.log_directory(id).join(format!("{id}-json.log"))
    }

    pub(crate) fn find(&self, reference: &str) -> Result<Arc<Container>> {
        let Some((owner, alias)) = reference.strip_prefix('/').unwrap_or(reference).split_once('/') else {
            return self.find_own(reference);
        };
        // Another one's name for it.
        let missing = || EngineError::NoSuchContainer(reference.to_owned());
        let owner = self.registry().named(owner).ok_or_else(missing)?.view();
        let link = owner.spec.network.links.iter().map(|link| split_link(link)).find(|(_, known)| *known == alias);
        self.find_own(link.ok_or_else(missing)?.0).map_err(|_| missing())
    }

    /// The container of that id, name of its own, or unique id prefix.
    fn find_own(&self, reference: &str) -> Result<Arc<Container>> {
        let missing = || EngineError::NoSuchContainer(reference.to_owned());
        let name = reference.strip_prefix('/').unwrap_or(reference);
        let registry = self.registry();
        if let Some(container) = reference.parse::<ContainerId>().ok().and_then(|id| registry.by_id.get(&id)) {
            return Ok(Arc::clone(container));
        }
        if let Some(container) = registry.named(name) {
            return Ok(container);
        }
        if reference.is_empty() || !reference.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(missing());
        }
        let mut matches = registry.by_id.values().filter(|container| container.id.as_str().starts_with(reference));
        match (matches.next(), matches.next()) {
            (Some(container), None) => Ok(Arc::clone(container)),
            (Some(_), Some(_)) => Err(EngineError::AmbiguousContainer(reference.to_owned())),
            _ => Err(missing()),
        }
    }

    pub(crate) fn find_by_id(&self, id: &ContainerId) -> Result<Arc<Container>> {
        self.registry().by_id.get(id).cloned().ok_or_else(|| EngineError::NoSuchContainer(id.to_string()))
    }

    pub(crate) fn views(&self) -> Vec<Arc<View>> {
        self.registry().by_id.values().map(|container| container.view()).collect()
    }

    pub(crate) fn reserve_name(&self, name: &str, id: &ContainerId) -> Result<()> {
        let mut registry = self.registry_mut();
        match registry.by_name.get(name) {
            Some(holder) => Err(EngineError::NameTaken { name: name.to_owned(), holder: holder.clone() }),
            None => {
                registry.by_name.insert(name.to_owned(), id.clone());
                Ok(())
            }
        }
    }

    pub(crate) fn free_name(&self, name: &str) {
        self.registry_mut().by_name.remove(name);
    }

    pub(crate) fn forget(&self, id: &ContainerId, name: &str) {
        let mut registry = self.registry_mut();
        registry.by_name.remove(name);
        registry.by_id.remove(id);
    }

    fn name_for(&self, id: &ContainerId, wanted: Option<&Name>) -> Result<String> {
        if let Some(name) = wanted {
            self.reserve_name(name.as_str(), id)?;
            return Ok(name.as_str().to_owned());
        }
        for _ in 0..6 {
            let name = naru_types::names::generate();
            if self.reserve_name(&name, id).is_ok() {
                return Ok(name);
            }
        }
        self.reserve_name(id.short(), id)?;
        Ok(id.short().to_owned())
    }

    async fn create_named(self: &Arc<Self>, id: &ContainerId, name: &str, mut spec: ContainerSpec, to_start: bool) -> Result<Created> {
        let _level = self.label(&mut spec)?;
        self.inherit_volumes(&mut spec)?;
        for mount in &mut spec.mounts {
            if let MountSource::Volume { name, anonymous, labels, options, .. } = &mut mount.source {
                let wanted = if *anonymous && name.is_empty() { None } else { Some(name.as_str()) };
                let volume = self.volumes.create(&self.db, &self.events, wanted, labels.clone(), options.clone()).await?;
                *name = volume.name.clone();
            }
        }
        let created = Timestamp::now();
        let view = View {
            id: id.clone(),
            created,
            name: name.to_owned(),
            spec: Arc::new(spec),
            state: State::default(),
            health: None,
            run: None,
            removed: false,
        };
        let json = serde_json::to_string(&*view.spec).expect("specifications are plain data");
        let state = serde_json::to_string(&view.state).expect("states are plain data");
        let nanoseconds = i64::try_from(created.as_nanosecond()).unwrap_or(i64::MAX);
        // At the same time: after a crash a row without files can be removed, and files without a row have no owner.
        let (owner, files_of) = (Arc::clone(self), view.clone());
        let files =
            tokio::task::spawn_blocking(move || owner.make_log_directory(&files_of.id).and_then(|()| owner.prepare_files(&files_of)));
        let (stored, filled) = tokio::join!(self.db.put_container(id.as_str(), nanoseconds, json, state), files);
        let made = stored.and(filled.map_err(|_| EngineError::Gone("the thread that makes containers")).flatten());
        if let Err(error) = made {
            launch::delete(self, &view, true).await.ok();
            launch::delete_rest(self, id);
            // On a full disk neither the one nor the other is written; the first error tells why.
            if let Err(left) = self.db.delete_container(id.as_str()).await {
                tracing::warn!(container = %id.short(), error = crate::chain(&left), "cannot delete the record of a container that was not made");
            }
            return Err(error);
        }
        let container = container::spawn(Arc::clone(self), Birth { view: view.clone(), watch: None, to_start });
        self.registry_mut().by_id.insert(id.clone(), container);
        self.container_event(&view, "create", &[]);
        Ok(Created { id: id.clone(), warnings: vec![] })
    }

    fn make_log_directory(&self, id: &ContainerId) -> Result<()> {
        let log = self.log_directory(id);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&log).map_err(EngineError::io("make", &log))
    }

    /// The container's layers, and what new volumes take from the image.
    fn prepare_files(&self, view: &View) -> Result<()> {
        self.store.prepare(&view.id, view.spec.image.as_ref())?;
        let (_, label) = view.spec.security.labels();
        if let Some(label) = label.filter(|_| !self.config.driver.labels_mounts()) {
            let root = self.store.mount(&view.id)?;
            naru_runtime::selinux::label_tree(std::os::fd::AsFd::as_fd(&root), label)
                .map_err(|errno| EngineError::io("label the files of container", view.id.as_str())(errno.into()))?;
        }
        if view.spec.mounts.iter().any(|mount| matches!(mount.source, MountSource::Volume { .. })) {
            let root = self.store.mount(&view.id)?;
            launch::mount_sources(self, &view.spec, std::os::fd::AsFd::as_fd(&root), true)?;
        }
        Ok(())
    }

    /// `--volumes-from`: the mounts of other containers, unless the target is taken.
    fn inherit_volumes(&self, spec: &mut ContainerSpec) -> Result<()> {
        for (reference, read_only) in spec.volumes_from.clone() {
            // Not as something missing, which clients take for the image.
            let other = self.find(&reference).map_err(|error| EngineError::invalid(error.to_string()))?.view();
            for mount in &other.spec.mounts {
                let inherits = !matches!(mount.source, MountSource::Tmpfs { .. });
                if inherits && !spec.mounts.iter().any(|own| own.target == mount.target) {
                    let mut mount = mount.clone();
                    mount.read_only |= read_only;
                    // They are labelled for the one that has them from its user.
                    mount.relabel = None;
                    if let MountSource::Volume { anonymous, .. } = &mut mount.source {
                        // Removed with the container it was made for, not with its guests.
                        *anonymous = false;
                    }
                    spec.mounts.push(mount);
                }
            }
        }
        Ok(())
    }

    pub(crate) fn volume_users(&self, name: &str, except: Option<&ContainerId>) -> Vec<String> {
        let uses = |view: &View| {
            view.spec.mounts.iter().any(|mount| matches!(&mount.source, MountSource::Volume { name: used, .. } if used == name))
        };
        self.views().iter().filter(|view| Some(&view.id) != except && !view.removed && uses(view)).map(|view| view.id.to_string()).collect()
    }

    async fn remove_volume(&self, name: &str, users: &[String]) -> Result<()> {
        if users.is_empty() {
            self.volume_mounts.unmount(name, &self.volumes.mountpoint(name))?;
        }
        self.volumes.remove(&self.db, &self.events, name, users).await
    }

    /// Deletes an anonymous volume together with its container.
    pub(crate) async fn remove_volume_of(&self, name: &str, container: &ContainerId) -> Result<()> {
        let users = self.volume_users(name, Some(container));
        self.remove_volume(name, &users).await
    }

    pub(crate) fn container_event(&self, view: &View, action: impl Into<String>, extra: &[(&str, String)]) {
        container::publish(self, view, action.into(), extra);
    }

    pub(crate) fn adopt(&self, container: Arc<Container>, name: &str) {
        let mut registry = self.registry_mut();
        registry.by_name.insert(name.to_owned(), container.id.clone());
        registry.by_id.insert(container.id.clone(), container);
    }
}
