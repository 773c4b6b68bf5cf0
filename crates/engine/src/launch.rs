//! The effects of a container's life on the host: start, release, delete.
//!
//! A start is made ready by blocking functions on a worker thread. [`open`] forks a monitor, which makes the cgroup meanwhile;
//! [`prepare`] does the rest, in this order: root file system, namespaces to join, volumes, user, network, specification. With
//! that the monitor makes the container but for its program. What comes of it is [`Prepared`], perhaps before the start is asked
//! for; then the monitor is told to go on. Each step that leaves something outside this process has its undo in [`Undo`] or in
//! the monitor, which runs when a later step fails or the start is not asked for; after a kill -9 the monitor takes back what it
//! made, and the next start of the daemon the rest by [`crate::recover`].

use crate::Inner;
use crate::container::View;
use crate::error::{EngineError, Result};
use crate::network::{Joined, Place, SYSCTLS};
use crate::oci::{self, Facts};
use crate::rootfs;
use crate::spec::{ContainerSpec, DeviceSpec, IpcMode, LogSpec, MountSource, MountSpec, NamespaceMode, NetworkMode, Relabel};
use crate::volumes::remove_tree;
use crate::{RuntimeConfig, monitor};
use jiff::Timestamp;
use naru_runtime::FailureReason;
use naru_runtime::cgroup::Cgroup;
use naru_runtime::monitor::{Event, LogFile};
use naru_runtime::selinux;
use naru_runtime::spawner::{AttachStream, Loaded, NetworkNamespace, Pending, Preparation, Rootfs, RuntimeKind, StartRequest};
use naru_runtime::spec::{Device, Resources};
use naru_store::MountOptions;
use naru_types::{ContainerId, Digest};
use rustix::fs::{FileType, Mode, OFlags, major, minor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;

/// What a live run needs to be taken up again by another daemon; stored with the state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    /// Its place on its networks.
    #[serde(default)]
    pub place: Place,
    /// cgroup of the container.
    pub cgroup: String,
    /// What is mounted by path on the host for it: the root file system for another OCI runtime, shared memory.
    pub mounts: Vec<PathBuf>,
}

/// How long what nobody waits for is put off: processes that have just begun and clients that have just been answered come first.
const BEHIND: Duration = Duration::from_millis(8);

/// Name of the file in the run directory that holds the [`Run`].
const RUN_FILE: &str = "run.json";

impl Run {
    /// Writes it to the run directory.
    pub(crate) fn save(&self, directory: &Path) -> Result<()> {
        let text = serde_json::to_string(self).expect("runs are plain data");
        write_file(&directory.join(RUN_FILE), &text)
    }

    /// Reads it from the run directory.
    pub(crate) fn load(directory: &Path) -> Option<Run> {
        serde_json::from_str(&std::fs::read_to_string(directory.join(RUN_FILE)).ok()?).ok()
    }
}

/// A started container.
pub(crate) struct Launched {
    pub run: Run,
    pub pid: i32,
    pub at: Timestamp,
    pub watch: UnixStream,
}

/// What a failed launch has to take back.
struct Undo {
    engine: Arc<Inner>,
    id: ContainerId,
    place: Place,
    mounts: Vec<PathBuf>,
    armed: bool,
}

impl Drop for Undo {
    fn drop(&mut self) {
        if self.armed {
            let run = Run { place: std::mem::take(&mut self.place), cgroup: String::new(), mounts: std::mem::take(&mut self.mounts) };
            release_blocking(&self.engine, &self.id, &run);
        }
    }
}

/// A start that has a monitor and no more yet. Dropped, it is taken back, which blocks.
pub(crate) struct Opened {
    directory: PathBuf,
    runtime: Option<RuntimeConfig>,
    devices: Vec<(Device, String)>,
    cgroup: (String, Resources),
    pending: Pending,
}

/// A start but for its program. Dropped, it is taken back, which blocks.
pub(crate) struct Prepared {
    run: Run,
    // Taken back before what it stands on.
    loaded: Loaded,
    undo: Undo,
    held: Vec<OwnedFd>,
}

/// A start that the monitor has been told to carry out.
struct Begun {
    control: std::os::unix::net::UnixStream,
    run: Run,
    /// Needed until the process runs.
    _held: Vec<OwnedFd>,
}

impl Prepared {
    /// Nothing if it has failed already: the start tries again, and its error is the one that counts.
    fn sound(self) -> Option<Prepared> {
        if self.loaded.has_failed() { None } else { Some(self) }
    }

    /// Has the monitor run the program.
    fn start(mut self, attach: Vec<AttachStream>) -> Result<Begun> {
        let control = self.loaded.start(attach)?;
        self.undo.armed = false;
        Ok(Begun { control, run: self.run, _held: self.held })
    }
}

/// Whether a start can be prepared before it is asked for: what it takes from other containers may change until then.
pub(crate) fn stands_alone(spec: &ContainerSpec) -> bool {
    !matches!(spec.network.mode, NetworkMode::Container(_))
        && !matches!(spec.namespaces.pid, NamespaceMode::Container(_))
        && !matches!(spec.namespaces.ipc, IpcMode::Container(_))
        && spec.network.attachments.iter().all(|attachment| attachment.links.is_empty())
}

/// Makes what the next starts need and what is the same for all of them. Blocks.
pub(crate) fn warm_up(engine: &Inner) {
    engine.networks.warm_up(&engine.spawner);
    if let Err(error) = engine.spawner.warm_up() {
        tracing::warn!(error = crate::chain(&error), "cannot make a monitor ahead of use");
    }
}

/// The image of a container that is thrown away: who runs one so mostly does so again.
fn image_run_again(spec: &ContainerSpec) -> Option<Digest> {
    spec.image.clone().filter(|_| spec.auto_remove && spec.security.labels().1.is_none())
}

fn make_ahead(engine: &Inner, image: Option<&Digest>) {
    // It may have been removed meanwhile, and without it the next one only takes longer.
    if let Some(Err(error)) = image.map(|image| engine.store.make_ahead(image)) {
        tracing::debug!(error = crate::chain(&error), "cannot make the next container's files ahead of use");
    }
}

/// Starts the container, perhaps from what was prepared for it, and waits until its program runs.
pub(crate) async fn launch(engine: &Arc<Inner>, view: &View, prepared: Option<Prepared>, attach: Vec<AttachStream>) -> Result<Launched> {
    let (owner, job_view) = (Arc::clone(engine), view.clone());
    let start = move || {
        let prepared = prepared.and_then(Prepared::sound);
        prepared.map_or_else(|| prepare(&owner, &job_view, open(&owner, &job_view)?), Ok)?.start(attach)
    };
    let Begun { control, run, _held } =
        tokio::task::spawn_blocking(start).await.map_err(|_| EngineError::Gone("the thread that starts containers"))??;
    let outcome = first_event(control, &engine.run_directory(&view.id)).await;
    match outcome {
        Ok((pid, at, watch)) => {
            let (owner, image) = (Arc::clone(engine), image_run_again(&view.spec));
            tokio::spawn(async move {
                tokio::time::sleep(BEHIND).await;
                owner.networks.plan_shortcuts();
                tokio::task::spawn_blocking(move || {
                    warm_up(&owner);
                    make_ahead(&owner, image.as_ref());
                });
            });
            Ok(Launched { run, pid, at, watch })
        }
        Err(error) => {
            release(engine, &view.id, &run).await;
            Err(error)
        }
    }
}

async fn first_event(control: std::os::unix::net::UnixStream, directory: &Path) -> Result<(i32, Timestamp, UnixStream)> {
    let io = || EngineError::io("talk to the monitor at", directory);
    control.set_nonblocking(true).map_err(io())?;
    let mut watch = UnixStream::from_std(control).map_err(io())?;
    loop {
        match monitor::read::<Event>(&mut watch).await.map_err(io())? {
            Some(Event::Started { pid, at }) => {
                let at = at.parse().unwrap_or_else(|_| Timestamp::now());
                return Ok((pid, at, watch));
            }
            Some(Event::StartFailed { reason, message }) => {
                let exit_code = match reason {
                    FailureReason::NotFound => 127,
                    FailureReason::PermissionDenied => 126,
                    FailureReason::NotRunning | FailureReason::Invalid | FailureReason::Other => 128,
                };
                return Err(EngineError::StartFailed { message, exit_code });
            }
            Some(_) => {}
            None => return Err(EngineError::StartFailed { message: "the monitor ended before the process ran".into(), exit_code: 128 }),
        }
    }
}

/// The run directory, empty of what an earlier run has left: it would be taken for news of this one.
fn run_directory(engine: &Inner, id: &ContainerId) -> Result<PathBuf> {
    let directory = engine.run_directory(id);
    match std::fs::DirBuilder::new().mode(0o700).create(&directory) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        made => return made.map(|()| directory.clone()).map_err(EngineError::io("make", &directory)),
    }
    for stale in ["exit.json", "monitor.sock", RUN_FILE] {
        match std::fs::remove_file(directory.join(stale)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(EngineError::io("delete", directory.join(stale))(error));
            }
            _ => {}
        }
    }
    Ok(directory)
}

/// Forks the container's monitor, which makes the cgroup while the rest is made here. Blocks.
pub(crate) fn open(engine: &Inner, view: &View) -> Result<Opened> {
    let (id, spec) = (&view.id, &*view.spec);
    let runtime = engine.config.runtime(&spec.runtime)?.cloned();
    let directory = run_directory(engine, id)?;
    let devices = devices(spec)?;
    let cgroup = oci::cgroup(id, spec.cgroup_parent.as_ref().unwrap_or(&engine.config.cgroup_parent), spec, &devices);
    let pending = engine.spawner.prepare(Preparation {
        directory: directory.clone(),
        log: log_file(engine, view),
        cgroup: runtime.is_none().then(|| cgroup.clone()),
        // Who was told of its end may want to unmount what it had of the host.
        throwaway: spec.auto_remove && spec.mounts.iter().all(|mount| matches!(mount.source, MountSource::Tmpfs { .. })),
    })?;
    Ok(Opened { directory, runtime, devices, cgroup, pending })
}

/// Makes the container but for its program. Blocks.
pub(crate) fn prepare(engine: &Arc<Inner>, view: &View, opened: Opened) -> Result<Prepared> {
    let (id, spec) = (&view.id, &*view.spec);
    let Opened { directory, runtime, devices, cgroup, pending } = opened;
    let mut undo = Undo { engine: Arc::clone(engine), id: id.clone(), place: Place::default(), mounts: vec![], armed: true };
    let (_, label) = spec.security.labels();
    let root = engine.store.mount_with(id, MountOptions { label, throwaway: spec.auto_remove })?;
    let hostname = hostname(engine, view);
    let mut join = namespaces_to_join(engine, spec)?;
    if spec.namespaces.ipc == IpcMode::Shareable {
        let shared = shared_memory(&directory, spec.shm_size, label)?;
        undo.mounts.push(shared.clone());
        join.insert("shm", shared);
    }
    let Sources { paths: sources, held } = mount_sources(engine, spec, root.as_fd(), false)?;
    rootfs::make_dirs(root.as_fd(), &spec.process.cwd)?;
    // The container is there: who is not found in it is no missing object to a client.
    let identity = naru_runtime::user::resolve(root.as_fd(), &spec.process.user, &spec.process.groups)
        .map_err(|error| EngineError::Denied { text: error.to_string(), kind: naru_types::ErrorKind::Internal })?;
    let networks = join_network(engine, spec, &mut join)?;
    // All of them must run now; later, names of those that do not are left out.
    let links = crate::network::linked(engine, spec).collect::<Result<Vec<_>>>()?;
    let is_beside = runtime.is_none() && may_be_connected_later(spec);
    if !is_beside {
        attach(engine, view, networks.as_ref(), &mut undo)?;
    }
    let engine_files = engine.networks.write_files(engine, view, &directory, &hostname, (!is_beside).then_some(&undo.place))?;
    label_files(spec, &engine_files)?;
    let facts = Facts {
        identity,
        hostname,
        join,
        sources,
        engine_files,
        devices,
        links: links.iter().flat_map(|link| link.environment()).collect(),
        sysctls: undo.place.sysctls(&spec.network)?,
        cgroup,
    };
    let mut oci = oci::spec(spec, &facts)?;
    let (rootfs, kind) = root_for(runtime, root, &directory, &mut oci, &mut undo, spec.security.readonly_root)?;
    let request = StartRequest {
        id: id.clone(),
        spec: oci,
        rootfs,
        network_namespace: networks
            .as_ref()
            .map(|networks| networks.ns.try_clone())
            .transpose()
            .map_err(EngineError::io("duplicate", "a network namespace"))?,
        tty: spec.process.tty,
        open_stdin: spec.process.open_stdin,
        stdin_once: spec.process.stdin_once,
        init: spec.process.init,
        runtime: kind,
    };
    let loaded = engine.spawner.load(pending, request)?;
    if is_beside {
        attach(engine, view, networks.as_ref(), &mut undo)?;
        engine.networks.write_names(engine, view, &directory, &facts.hostname, &undo.place)?;
    }
    let run = Run { place: undo.place.clone(), cgroup: facts.cgroup.0, mounts: undo.mounts.clone() };
    // A daemon that is killed before the run is in the database finds it here.
    run.save(&directory)?;
    Ok(Prepared { run, loaded, undo, held })
}

/// The root file system as the one who runs the container takes it: a mount, or by path.
fn root_for(
    runtime: Option<RuntimeConfig>,
    root: OwnedFd,
    directory: &Path,
    oci: &mut naru_runtime::spec::Spec,
    undo: &mut Undo,
    readonly: bool,
) -> Result<(Rootfs, RuntimeKind)> {
    let Some(RuntimeConfig { program, args }) = runtime else { return Ok((Rootfs::Mount(root), RuntimeKind::Native)) };
    let bundle = directory.join("bundle");
    let path = mount_root(root, &bundle)?;
    undo.mounts.push(path.clone());
    oci.root = Some(naru_runtime::spec::Root { path: path.to_string_lossy().into_owned(), readonly });
    // Nothing newer is used, and older runtimes (crun 1.8) know no other version.
    oci.oci_version = "1.0.2".into();
    Ok((Rootfs::Path(path), RuntimeKind::External { program, args, bundle }))
}

/// Whether the container's networks can be made while its mounts are: it has some, and no parameters of their links are set
/// with the mounts.
fn may_be_connected_later(spec: &ContainerSpec) -> bool {
    let is_network = |name: &String| name.starts_with("net.") || name.starts_with("net/");
    let attachments = &spec.network.attachments;
    let sets_parameters =
        spec.sysctls.keys().any(is_network) || attachments.iter().any(|attachment| attachment.options.contains_key(SYSCTLS));
    !attachments.is_empty() && !sets_parameters
}

/// Puts a container that has a namespace of its own on its networks.
fn attach(engine: &Inner, view: &View, namespace: Option<&NetworkNamespace>, undo: &mut Undo) -> Result<()> {
    if let Some(namespace) = namespace {
        undo.place = engine.networks.attach(engine, view, namespace)?;
    }
    Ok(())
}

/// The container's network: a namespace of its own, or another one to join.
fn join_network(engine: &Inner, spec: &ContainerSpec, join: &mut BTreeMap<&'static str, PathBuf>) -> Result<Option<NetworkNamespace>> {
    match engine.networks.join(engine, spec)? {
        Joined::Own => return Ok(Some(engine.networks.take_namespace(&engine.spawner)?)),
        Joined::Host => {}
        Joined::Other(path) => {
            join.insert("net", path);
        }
    }
    Ok(None)
}

/// The host name in effect: the one asked for, the host's with `--uts host` or the host's network, that of whose network it
/// shares (there it is in `/etc/hosts`), else the short id.
pub(crate) fn hostname(engine: &Inner, view: &View) -> String {
    let spec = &view.spec;
    let donor = match &spec.network.mode {
        NetworkMode::Container(reference) => engine.find(reference).ok().map(|donor| donor.view()),
        _ => None,
    };
    match &spec.hostname {
        Some(name) => name.clone(),
        None if spec.namespaces.uts == NamespaceMode::Private
            && let Some(donor) = donor.filter(|donor| !shares_network(donor)) =>
        {
            hostname(engine, &donor)
        }
        None if spec.namespaces.uts == NamespaceMode::Host || spec.network.mode == NetworkMode::Host => {
            rustix::system::uname().nodename().to_string_lossy().into_owned()
        }
        None => view.id.short().to_owned(),
    }
}

/// Such a container has no network to give: a chain of them, or a circle, ends here.
fn shares_network(view: &View) -> bool {
    matches!(view.spec.network.mode, NetworkMode::Container(_))
}

/// Pid of a running container that another one joins.
pub(crate) fn running_pid(engine: &Inner, reference: &str, what: &str) -> Result<(ContainerId, i32)> {
    let other = engine.find(reference)?;
    let pid = other.view().state.pid();
    let pid =
        pid.ok_or_else(|| EngineError::conflict(format!("failed to join {what} namespace: container {} is not running", other.id)))?;
    Ok((other.id.clone(), pid))
}

fn namespaces_to_join(engine: &Inner, spec: &ContainerSpec) -> Result<BTreeMap<&'static str, PathBuf>> {
    let mut join = BTreeMap::new();
    if let NamespaceMode::Container(reference) = &spec.namespaces.pid {
        let (_, pid) = running_pid(engine, reference, "PID")?;
        join.insert("pid", PathBuf::from(format!("/proc/{pid}/ns/pid")));
    }
    if let IpcMode::Container(reference) = &spec.namespaces.ipc {
        let other = engine.find(reference)?;
        if !matches!(other.view().spec.namespaces.ipc, IpcMode::Shareable) {
            return Err(EngineError::invalid(format!(
                "can't join IPC of container {}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)",
                other.id
            )));
        }
        let (_, pid) = running_pid(engine, reference, "IPC")?;
        join.insert("ipc", PathBuf::from(format!("/proc/{pid}/ns/ipc")));
        join.insert("shm", engine.run_directory(&other.id).join(SHARED_MEMORY));
    }
    Ok(join)
}

/// A container's label for what it has for itself, or with all others.
fn label_for(relabel: Relabel, label: &str) -> Result<String> {
    match relabel {
        Relabel::Private => Ok(label.to_owned()),
        Relabel::Shared => Ok(label.parse::<selinux::Context>()?.shared().to_string()),
    }
}

/// Labels the engine's files for a container; those of a network that several are on, for all.
fn label_files(spec: &ContainerSpec, files: &[(PathBuf, &'static str)]) -> Result<()> {
    let (_, Some(label)) = spec.security.labels() else { return Ok(()) };
    let shared = matches!(spec.network.mode, NetworkMode::Container(_));
    let label = label_for(if shared { Relabel::Shared } else { Relabel::Private }, label)?;
    files.iter().try_for_each(|(path, _)| Ok(selinux::relabel(path, &label)?))
}

/// Labels the source of a mount where that was asked for and containers have labels.
fn relabel(spec: &ContainerSpec, mount: &MountSpec, source: &Path) -> Result<()> {
    let (Some(relabel), (_, Some(label))) = (mount.relabel, spec.security.labels()) else { return Ok(()) };
    selinux::relabel(source, &label_for(relabel, label)?)
        .map_err(|error| EngineError::invalid(format!("error setting label on mount source '{}': {error}", source.display())))
}

/// Host paths behind the mounts of a container.
pub(crate) struct Sources {
    /// In the order of the mounts; none where nothing of the host is mounted.
    pub paths: Vec<Option<PathBuf>>,
    /// Paths of parts of volumes lead through these: a container that has the volume too may swap a directory in it for a
    /// link after it was looked at, so that it is mounted as it was opened.
    pub held: Vec<OwnedFd>,
}

/// Host paths behind the mounts; makes missing directories where asked, fills new volumes from the image.
pub(crate) fn mount_sources(engine: &Inner, spec: &ContainerSpec, root: BorrowedFd<'_>, fill: bool) -> Result<Sources> {
    let mut held = Vec::new();
    let paths = spec
        .mounts
        .iter()
        .map(|mount| match &mount.source {
            MountSource::Tmpfs { .. } => Ok(None),
            MountSource::Bind { path, create, propagation, .. } => {
                if !path.exists() {
                    if !create {
                        return Err(EngineError::invalid(format!(
                            "invalid mount config for type \"bind\": bind source path does not exist: {}",
                            path.display()
                        )));
                    }
                    std::fs::create_dir_all(path).map_err(|error| {
                        let cause = crate::error::words(&error);
                        EngineError::invalid(format!("error while creating mount source path '{}': {cause}", path.display()))
                    })?;
                }
                crate::propagation::check(path, propagation)?;
                relabel(spec, mount, path)?;
                Ok(Some(path.clone()))
            }
            MountSource::Volume { name, copy, subpath, .. } => {
                let volume = engine.volumes.find(name)?;
                let data = engine.volumes.mountpoint(&volume.name);
                engine.volume_mounts.mount(&volume, &data)?;
                if fill && *copy && !mount.read_only {
                    let target = rootfs::open_root(&data)?;
                    naru_store::archive::copy_up(root, &mount.target, target.as_fd())?;
                }
                relabel(spec, mount, &data)?;
                match subpath.as_deref().filter(|path| !path.is_empty()) {
                    None => Ok(Some(data)),
                    Some(subpath) => {
                        let base = rootfs::open_root(&data)?;
                        let part = rootfs::open_part(base.as_fd(), subpath).map_err(|_| {
                            EngineError::invalid(format!("cannot access path {subpath:?} in volume {name}: no such directory or file"))
                        })?;
                        let path = format!("/proc/{}/fd/{}", std::process::id(), part.as_raw_fd());
                        held.push(part);
                        Ok(Some(path.into()))
                    }
                }
            }
        })
        .collect::<Result<_>>()?;
    Ok(Sources { paths, held })
}

/// Device nodes by their numbers on the host; a directory stands for all devices in it; privileged gets all of them.
fn devices(spec: &ContainerSpec) -> Result<Vec<(Device, String)>> {
    let mut list = Vec::new();
    if spec.security.privileged {
        // A terminal of the host is none of the container's business (as Docker does).
        collect_devices(Path::new("/dev"), "/dev", "rwm", &mut list, &|name| {
            !matches!(name, "pts" | "shm" | "fd" | "mqueue" | ".lxc" | ".lxd-mounts" | ".udev" | "console" | "ptmx" | "hugepages")
        });
    }
    for DeviceSpec { host, container, permissions } in &spec.devices {
        let target = std::fs::canonicalize(host).map_err(|error| {
            let cause = crate::error::words(&error);
            EngineError::invalid(format!("error gathering device information while adding custom device {:?}: {cause}", host.display()))
        })?;
        let before = list.len();
        if target.is_dir() {
            collect_devices(&target, container, permissions, &mut list, &|_| true);
        } else {
            list.extend(device_at(&target, container).map(|device| (device, permissions.clone())));
        }
        if list.len() == before {
            let text = format!("error gathering device information while adding custom device {:?}: not a device node", host.display());
            return Err(EngineError::invalid(text));
        }
    }
    Ok(list)
}

fn device_at(path: &Path, target: &str) -> Option<Device> {
    let stat = rustix::fs::stat(path).ok()?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice => "c",
        FileType::BlockDevice => "b",
        _ => return None,
    };
    Some(Device {
        path: target.to_owned(),
        kind: kind.to_owned(),
        major: i64::from(major(stat.st_rdev)),
        minor: i64::from(minor(stat.st_rdev)),
        file_mode: Some(Mode::from_raw_mode(stat.st_mode).as_raw_mode() & 0o777),
        uid: Some(stat.st_uid),
        gid: Some(stat.st_gid),
    })
}

fn collect_devices(directory: &Path, target: &str, permissions: &str, list: &mut Vec<(Device, String)>, wanted: &dyn Fn(&str) -> bool) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !wanted(&name) || entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
            continue;
        }
        let (path, inside) = (entry.path(), format!("{target}/{name}"));
        if path.is_dir() {
            collect_devices(&path, &inside, permissions, list, wanted);
        } else if let Some(device) = device_at(&path, &inside) {
            list.push((device, permissions.to_owned()));
        }
    }
}

fn log_file(engine: &Inner, view: &View) -> Option<LogFile> {
    match &view.spec.log {
        LogSpec::None => None,
        LogSpec::JsonFile { max_size, max_files, compress, attrs, queue, .. } => Some(LogFile {
            path: engine.log_path(&view.id),
            max_size: *max_size,
            max_files: *max_files,
            compress: *compress,
            attrs: attrs
                .iter()
                .map(|(key, value)| (key.clone(), if key == "tag" { log_tag(view, value) } else { value.clone() }))
                .collect(),
            queue: *queue,
        }),
    }
}

/// `--log-opt tag`, whose fields have been looked at when the container was created.
fn log_tag(view: &View, template: &str) -> String {
    let (id, spec) = (&view.id, &view.spec);
    let image = spec.image.as_ref().map(ToString::to_string).unwrap_or_default();
    let field = |name: &str| {
        Some(match name {
            "ID" => id.to_string()[..12].to_owned(),
            "FullID" => id.to_string(),
            "Name" => view.name.to_string(),
            "ImageID" => image.trim_start_matches("sha256:").chars().take(12).collect(),
            "ImageFullID" => image.clone(),
            "ImageName" => spec.image_name.clone(),
            "DaemonName" => "docker".to_owned(),
            _ => return None,
        })
    };
    crate::spec::log_tag(template, field).unwrap_or_else(|_| template.to_owned())
}

/// Attaches a detached root file system at `<bundle>/rootfs`, for runtimes that only take paths.
fn mount_root(root: OwnedFd, bundle: &Path) -> Result<PathBuf> {
    use rustix::mount::{MoveMountFlags, move_mount};
    let path = bundle.join("rootfs");
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(EngineError::io("make", &path))?;
    move_mount(&root, "", rustix::fs::CWD, &path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|errno| EngineError::io("mount the root file system at", &path)(errno.into()))?;
    Ok(path)
}

/// Name of the directory below a run directory where shared memory is mounted.
const SHARED_MEMORY: &str = "shm";

/// Mounts memory on the host that the container and those that join its IPC namespace bind as /dev/shm.
fn shared_memory(directory: &Path, size: u64, label: Option<&str>) -> Result<PathBuf> {
    use rustix::mount::{MountFlags, mount};
    let path = directory.join(SHARED_MEMORY);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(EngineError::io("make", &path))?;
    // Quoted, for it has a comma between categories.
    let context = label.map(|label| format!(",context=\"{label}\"")).unwrap_or_default();
    let options =
        std::ffi::CString::new(format!("mode=1777,size={size}{context}")).map_err(|error| EngineError::invalid(error.to_string()))?;
    mount("shm", &path, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, options.as_c_str())
        .map_err(|errno| EngineError::io("mount shared memory at", &path)(errno.into()))?;
    Ok(path)
}

/// Frees what a run held outside its processes.
pub(crate) async fn release(engine: &Arc<Inner>, id: &ContainerId, run: &Run) {
    if run.mounts.is_empty() && !run.place.leaves_rules() {
        // Only this process's memory: not worth another thread.
        return release_blocking(engine, id, run);
    }
    let (engine, id, run) = (Arc::clone(engine), id.clone(), run.clone());
    if tokio::task::spawn_blocking(move || release_blocking(&engine, &id, &run)).await.is_err() {
        tracing::error!("the thread that released a container's resources panicked");
    }
}

pub(crate) fn release_blocking(engine: &Inner, id: &ContainerId, run: &Run) {
    engine.networks.detach(id, &run.place);
    for path in &run.mounts {
        if let Err(errno) = rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH) {
            tracing::warn!(container = %id.short(), path = %path.display(), %errno, "cannot unmount");
        }
    }
}

/// Deletes the file system of a container that does not run, and volumes of its own.
pub(crate) async fn delete(engine: &Arc<Inner>, view: &View, volumes: bool) -> Result<()> {
    let (owner, id) = (Arc::clone(engine), view.id.clone());
    engine.execs.forget(&view.id);
    tokio::task::spawn_blocking(move || owner.store.remove_snapshot(&id))
        .await
        .map_err(|_| EngineError::Gone("the thread that deletes files"))??;
    if volumes {
        for mount in &view.spec.mounts {
            if let MountSource::Volume { name, anonymous: true, .. } = &mount.source
                && engine.volume_users(name, Some(&view.id)).is_empty()
                && let Err(error) = engine.remove_volume_of(name, &view.id).await
            {
                tracing::warn!(volume = name, error = crate::chain(&error), "cannot delete an anonymous volume");
            }
        }
    }
    Ok(())
}

/// Deletes the log and the run directory of a container that is no more, while its removal is answered already: on a disk
/// that takes its time each file is some of it. The next start of the daemon finds what a crash leaves.
pub(crate) fn delete_rest(engine: &Arc<Inner>, id: &ContainerId) {
    let (engine, id) = (Arc::clone(engine), id.clone());
    tokio::spawn(async move {
        tokio::time::sleep(BEHIND).await;
        tokio::task::spawn_blocking(move || {
            remove_cgroup_of_ended(&engine.run_directory(&id));
            for directory in [engine.run_directory(&id), engine.log_directory(&id)] {
                if let Err(error) = remove_tree(&directory) {
                    tracing::warn!(container = %id.short(), error = crate::chain(&error), "cannot delete what is left of a container");
                }
            }
        });
    });
}

/// The cgroup goes with the monitor, which takes its socket away last: where that is, the monitor was killed, or is slow.
pub(crate) fn remove_cgroup_of_ended(run_directory: &Path) {
    if !run_directory.join("monitor.sock").exists() {
        return;
    }
    let Some(run) = Run::load(run_directory) else { return };
    let removed = Cgroup::new(&run.cgroup).and_then(|cgroup| cgroup.kill().and_then(|()| cgroup.remove()));
    if let Err(error) = removed {
        tracing::debug!(cgroup = run.cgroup, error = crate::chain(&error), "cannot remove the cgroup of a container that has ended");
    }
}

/// What the monitor wrote at the end: code, OOM, time.
pub(crate) fn exit_record(directory: &Path) -> Option<(i32, bool, Timestamp)> {
    match naru_runtime::monitor::read_exit_record(directory) {
        Ok(record) => {
            record.map(|record| (record.code, record.oom_killed, record.finished_at.parse().unwrap_or_else(|_| Timestamp::now())))
        }
        Err(error) => {
            tracing::warn!(path = %directory.display(), error = crate::chain(&error), "cannot read the exit record");
            None
        }
    }
}

/// Kills the processes of a container whose monitor is gone.
pub(crate) async fn kill_leftovers(view: &View) -> Result<()> {
    let Some(run) = view.run.clone() else { return Ok(()) };
    tokio::task::spawn_blocking(move || -> Result<()> {
        let cgroup = Cgroup::new(&run.cgroup)?;
        cgroup.kill()?;
        cgroup.remove()?;
        Ok(())
    })
    .await
    .map_err(|_| EngineError::Gone("the thread that kills processes"))?
}

/// Freezes or thaws the container's cgroup.
pub(crate) async fn freeze(view: &View, freeze: bool) -> Result<()> {
    let Some(run) = view.run.clone() else { return Ok(()) };
    tokio::task::spawn_blocking(move || -> Result<()> {
        let cgroup = Cgroup::new(&run.cgroup)?;
        if freeze {
            cgroup.freeze()?
        } else {
            cgroup.thaw()?
        };
        Ok(())
    })
    .await
    .map_err(|_| EngineError::Gone("the thread that freezes containers"))?
}

/// Applies changed limits to a running container.
pub(crate) async fn update(view: &View, spec: &ContainerSpec) -> Result<()> {
    let (Some(run), resources) = (view.run.clone(), spec.resources.clone()) else { return Ok(()) };
    tokio::task::spawn_blocking(move || -> Result<()> {
        // Device rules stay as they are: an update never carries them.
        Cgroup::new(&run.cgroup)?.update(&resources)?;
        Ok(())
    })
    .await
    .map_err(|_| EngineError::Gone("the thread that updates limits"))?
}

/// Writes a small file of the engine for the container, readable by all in it.
pub(crate) fn write_file(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    let mut file = std::fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .custom_flags(i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default())
        .open(path)
        .map_err(EngineError::io("write", path))?;
    // The umask of the daemon must not hide it from the container's users.
    if file.metadata().is_ok_and(|meta| meta.mode() & 0o777 != 0o644) {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .map_err(EngineError::io("set the mode of", path))?;
    }
    file.write_all(text.as_bytes()).map_err(EngineError::io("write", path))
}
