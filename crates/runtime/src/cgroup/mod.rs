//! Control groups: v1, hybrid and v2 behind one model.
//!
//! A [`Cgroup`] is one path in every mounted hierarchy. All of them are created before the container's process exists and
//! limits are written before it runs; the process joins by clone3 (v2) and by its own write to `cgroup.procs` (v1).
//! A limit whose controller is not there is an error, never silently ignored.

mod devices;
mod hierarchy;
mod limits;
mod stats;

pub use hierarchy::{Layout, available_controllers, layout};
pub use stats::{BlockIoEntry, CpuStats, HugepageStats, MemoryStats, PidsStats, Stats};

use crate::error::{Error, Result, errno_of, ignore};
use crate::spec::{DeviceRule, Resources};
use hierarchy::{Hierarchy, Version, hierarchies};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The kernel needs a moment to let go of a cgroup whose last process has just ended.
const REMOVE_DEADLINE: Duration = Duration::from_secs(5);
const FREEZE_DEADLINE: Duration = Duration::from_secs(10);

pub(crate) fn warm() {
    drop(hierarchies());
}

/// Makes moving processes between cgroups cheap while the descriptor lives.
///
/// With v1 a new process can only be moved into its cgroups, and the first move in a while waits for a grace period of the
/// kernel (10 ms on a quiet machine). The option `favordynmods` of any hierarchy takes that wait away at the price of a
/// memory barrier for each fork. A private hierarchy without controllers carries it: it is never attached to the file tree
/// and vanishes with the descriptor. `None` where it is not needed (v2) or not known (before Linux 6.0).
pub(crate) fn cheap_moves() -> Option<OwnedFd> {
    use rustix::mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
    };
    if layout().ok()? == Layout::V2 {
        return None;
    }
    let context = fsopen("cgroup", FsOpenFlags::FSOPEN_CLOEXEC).ok()?;
    fsconfig_set_flag(&context, "none").ok()?;
    fsconfig_set_string(&context, "name", "naru").ok()?;
    fsconfig_set_flag(&context, "favordynmods").ok()?;
    fsconfig_create(&context).ok()?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).ok()
}

/// A cgroup in every hierarchy; this value owns nothing, [`Cgroup::remove`] is explicit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    path: String,
    directories: Vec<Directory>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Directory {
    version: Version,
    controllers: Vec<String>,
    root: PathBuf,
    path: PathBuf,
}

/// Descriptors by which a new process gets into the cgroup.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    /// For CLONE_INTO_CGROUP.
    pub unified: Option<OwnedFd>,
    /// The `cgroup.procs` of the v1 hierarchies.
    pub procs: Vec<OwnedFd>,
}

impl Cgroup {
    /// The cgroup at `path`, e.g. `/naru/<id>`; nothing is created. A relative path is below our own cgroup.
    pub fn new(path: &str) -> Result<Cgroup> {
        let invalid = || Error::Invalid(format!("invalid cgroup path {path:?}"));
        if path.contains('\0') || path.len() > 4000 {
            return Err(invalid());
        }
        let mut clean = PathBuf::new();
        for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
            if part == ".." {
                return Err(invalid());
            }
            clean.push(part);
        }
        if clean.as_os_str().is_empty() {
            return Err(invalid());
        }
        let relative = !path.starts_with('/');
        let mut directories = Vec::new();
        for hierarchy in hierarchies()?.iter() {
            let base = if relative { hierarchy.root.join(own_path(hierarchy)?.trim_start_matches('/')) } else { hierarchy.root.clone() };
            directories.push(Directory {
                version: hierarchy.version,
                controllers: hierarchy.controllers.clone(),
                path: base.join(&clean),
                root: hierarchy.root.clone(),
            });
        }
        if directories.is_empty() {
            return Err(Error::Unsupported("no cgroup hierarchy is mounted".into()));
        }
        Ok(Cgroup { path: format!("/{}", clean.display()), directories })
    }

    /// The path below the roots of the hierarchies.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Creates it in every hierarchy. An empty one left from before is taken over.
    pub fn create(&self) -> Result<()> {
        let result = self.directories.iter().try_for_each(Directory::create);
        if result.is_err() {
            for directory in &self.directories {
                // Only empty ones go: another container's is not ours to remove.
                drop(std::fs::remove_dir(&directory.path));
            }
        }
        result
    }

    /// Whether it exists in any hierarchy.
    pub fn exists(&self) -> bool {
        self.directories.iter().any(|directory| directory.path.is_dir())
    }

    /// Writes limits. Values absent or zero are left as they are.
    pub fn apply(&self, resources: &Resources) -> Result<()> {
        limits::apply(self, resources)?;
        if resources.devices.is_empty() { Ok(()) } else { self.apply_devices(&resources.devices) }
    }

    /// Changes the limits of a running container; device rules are left alone.
    pub fn update(&self, resources: &Resources) -> Result<()> {
        limits::apply(self, resources)
    }

    fn apply_devices(&self, rules: &[DeviceRule]) -> Result<()> {
        if let Some(directory) = self.v1("devices") {
            return devices::apply_v1(&directory.path, rules);
        }
        match self.unified() {
            Some(directory) if !self.hybrid() => devices::apply_v2(&directory.path, rules),
            _ if devices::allows_everything(rules) => Ok(()),
            _ => Err(missing("devices", "device access")),
        }
    }

    /// Stops all processes and waits until they have.
    pub fn freeze(&self) -> Result<()> {
        if let Some(directory) = self.v1("freezer") {
            let state = directory.path.join("freezer.state");
            let deadline = Instant::now() + FREEZE_DEADLINE;
            // A process that forks meanwhile leaves the state at FREEZING; writing again moves it on.
            loop {
                write(&state, "FROZEN")?;
                match read(&state)?.trim() {
                    "FROZEN" => return Ok(()),
                    _ if Instant::now() > deadline => {
                        write(&state, "THAWED")?;
                        return Err(Error::Unavailable(format!("cannot freeze {}: its processes do not stop", self.path)));
                    }
                    _ => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        }
        let Some(directory) = self.unified() else { return Err(missing("freezer", "pause")) };
        write(&directory.path.join("cgroup.freeze"), "1")?;
        let deadline = Instant::now() + FREEZE_DEADLINE;
        while keyed(&directory.path.join("cgroup.events"), "frozen") != Some(1) {
            if Instant::now() > deadline {
                write(&directory.path.join("cgroup.freeze"), "0")?;
                return Err(Error::Unavailable(format!("cannot freeze {}: its processes do not stop", self.path)));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Lets frozen processes go on.
    pub fn thaw(&self) -> Result<()> {
        if let Some(directory) = self.v1("freezer") {
            return write(&directory.path.join("freezer.state"), "THAWED");
        }
        match self.unified() {
            Some(directory) => write(&directory.path.join("cgroup.freeze"), "0"),
            None => Err(missing("freezer", "unpause")),
        }
    }

    /// Whether the processes are frozen.
    pub fn frozen(&self) -> bool {
        if let Some(directory) = self.v1("freezer") {
            return read(&directory.path.join("freezer.state")).is_ok_and(|state| state.trim() != "THAWED");
        }
        self.unified().is_some_and(|directory| keyed(&directory.path.join("cgroup.events"), "frozen") == Some(1))
    }

    /// All processes in it and below, as this pid namespace numbers them.
    pub fn pids(&self) -> Result<Vec<i32>> {
        let directory = self.unified().or_else(|| self.directories.first()).ok_or_else(|| missing("any", "listing processes"))?;
        let mut pids = Vec::new();
        collect_pids(&directory.path, &mut pids)?;
        Ok(pids)
    }

    /// Kills all processes in it and below; frozen ones too.
    pub fn kill(&self) -> Result<()> {
        let at_once = match self.unified() {
            Some(directory) => write(&directory.path.join("cgroup.kill"), "1").is_ok(),
            None => false,
        };
        if !at_once {
            // Before Linux 5.14: until no process is left that could fork another.
            for _ in 0..100 {
                let pids = match self.pids() {
                    Ok(pids) if !pids.is_empty() => pids,
                    _ => break,
                };
                for pid in pids {
                    ignore(naru_sys::process::kill(pid, libc::SIGKILL));
                }
            }
        }
        // A frozen process of v1 dies only when it is let go.
        if self.v1("freezer").is_some() && self.frozen() { self.thaw() } else { Ok(()) }
    }

    /// What the processes have used.
    pub fn stats(&self) -> Stats {
        stats::read(self)
    }

    /// How many processes the kernel has killed for want of memory.
    pub fn oom_kills(&self) -> u64 {
        let file = match self.v1("memory") {
            Some(directory) => directory.path.join("memory.oom_control"),
            None => match self.unified() {
                Some(directory) => directory.path.join("memory.events"),
                None => return 0,
            },
        };
        keyed(&file, "oom_kill").unwrap_or(0)
    }

    /// The file that tells of an out-of-memory kill: `(memory.oom_control, true)` for v1's eventfd,
    /// `(memory.events, false)` for inotify.
    pub(crate) fn oom_source(&self) -> Option<(PathBuf, bool)> {
        if let Some(directory) = self.v1("memory") {
            return Some((directory.path.clone(), true));
        }
        let path = self.unified()?.path.join("memory.events");
        path.exists().then_some((path, false))
    }

    /// Removes it and everything below; the processes must have ended. Absent is fine.
    pub fn remove(&self) -> Result<()> {
        let deadline = Instant::now() + REMOVE_DEADLINE;
        let mut failure = None;
        for directory in &self.directories {
            if let Err(error) = remove_tree(&directory.path, deadline) {
                failure.get_or_insert(error);
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// Opens what a new process needs to get in.
    pub(crate) fn entry(&self) -> Result<Entry> {
        let mut entry = Entry::default();
        for directory in &self.directories {
            match directory.version {
                Version::V2 => {
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                    let fd = rustix::fs::open(&directory.path, flags, Mode::empty()).map_err(Error::path("open", &directory.path))?;
                    entry.unified = Some(fd);
                }
                Version::V1 => {
                    let path = directory.path.join("cgroup.procs");
                    let fd =
                        rustix::fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).map_err(Error::path("open", &path))?;
                    entry.procs.push(fd);
                }
            }
        }
        Ok(entry)
    }

    /// The directories as a container sees them below `/sys/fs/cgroup`: name of the mount point, directory on the host.
    pub(crate) fn views(&self) -> Vec<(String, PathBuf)> {
        self.directories
            .iter()
            .map(|directory| {
                let name = directory.root.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                (name, directory.path.clone())
            })
            .collect()
    }

    /// Puts an existing process in.
    pub fn add(&self, pid: i32) -> Result<()> {
        self.directories.iter().try_for_each(|directory| write(&directory.path.join("cgroup.procs"), &pid.to_string()))
    }

    fn v1(&self, controller: &str) -> Option<&Directory> {
        self.directories
            .iter()
            .find(|directory| directory.version == Version::V1 && directory.controllers.iter().any(|name| name == controller))
    }

    fn unified(&self) -> Option<&Directory> {
        self.directories.iter().find(|directory| directory.version == Version::V2)
    }

    fn hybrid(&self) -> bool {
        self.directories.iter().any(|directory| directory.version == Version::V1)
    }
}

impl Directory {
    fn create(&self) -> Result<()> {
        match std::fs::create_dir(&self.path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                let mut pids = Vec::new();
                collect_pids(&self.path, &mut pids)?;
                if !pids.is_empty() {
                    return Err(Error::Conflict(format!("cgroup {} is in use by process {}", self.path.display(), pids[0])));
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                std::fs::create_dir_all(&self.path).map_err(|error| Error::path("create", &self.path)(errno_of(&error)))?;
            }
            Err(error) => return Err(Error::path("create", &self.path)(errno_of(&error))),
        }
        match self.version {
            Version::V1 if self.controllers.iter().any(|name| name == "cpuset") => self.inherit_cpuset(),
            Version::V2 if !self.controllers.is_empty() => self.delegate(),
            _ => Ok(()),
        }
    }

    /// The ancestors from the root's child down to this one.
    fn chain(&self) -> Vec<PathBuf> {
        let mut chain: Vec<PathBuf> =
            self.path.ancestors().take_while(|path| *path != self.root && path.starts_with(&self.root)).map(Path::to_path_buf).collect();
        chain.reverse();
        chain
    }

    /// A fresh cpuset of v1 is empty and takes no process; it gets its parent's CPUs and memory nodes.
    fn inherit_cpuset(&self) -> Result<()> {
        for path in self.chain() {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if read(&path.join(file))?.trim().is_empty() {
                    let parent = path.parent().expect("below the root").join(file);
                    write(&path.join(file), read(&parent)?.trim())?;
                }
            }
        }
        Ok(())
    }

    /// Lets the controllers reach down to this cgroup.
    fn delegate(&self) -> Result<()> {
        let mut parents = vec![self.root.clone()];
        let chain = self.chain();
        parents.extend(chain.into_iter().take_while(|path| *path != self.path));
        for parent in parents {
            let enabled = read(&parent.join("cgroup.subtree_control"))?;
            let available = read(&parent.join("cgroup.controllers"))?;
            for controller in available.split_whitespace() {
                if !enabled.split_whitespace().any(|known| known == controller) {
                    // One that cannot be had (a threaded or busy parent) is missed when a limit asks for it.
                    drop(write(&parent.join("cgroup.subtree_control"), &format!("+{controller}")));
                }
            }
        }
        Ok(())
    }
}

/// Our own cgroup in a hierarchy.
fn own_path(hierarchy: &Hierarchy) -> Result<String> {
    let text = read(Path::new("/proc/self/cgroup"))?;
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let same = match hierarchy.version {
            Version::V2 => controllers.is_empty(),
            Version::V1 => {
                !controllers.is_empty() && controllers.split(',').any(|name| hierarchy.controllers.iter().any(|known| known == name))
            }
        };
        if same {
            return Ok(path.to_owned());
        }
    }
    Ok("/".to_owned())
}

fn missing(controller: &str, what: &str) -> Error {
    Error::Unsupported(format!("{what} is not possible on this host: the cgroup controller {controller} is not mounted"))
}

fn write(path: &Path, value: &str) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(Error::path("open", path))?;
    rustix::io::write(&fd, value.as_bytes()).map(drop).map_err(Error::path("write to", path))
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| Error::path("read", path)(errno_of(&error)))
}

/// The value after `key` in a file of `key value` lines.
fn keyed(path: &Path, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

fn children(path: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::path("list", path)(errno_of(&error))),
    };
    Ok(entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect())
}

fn collect_pids(path: &Path, pids: &mut Vec<i32>) -> Result<()> {
    match read(&path.join("cgroup.procs")) {
        Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok())),
        // ENOTSUP: a threaded cgroup of v2, whose processes show in its parent.
        Err(Error::Path { errno: Errno::NOENT | Errno::NODEV | Errno::OPNOTSUPP, .. }) => {}
        Err(error) => return Err(error),
    }
    children(path)?.iter().try_for_each(|child| collect_pids(child, pids))
}

fn remove_tree(path: &Path, deadline: Instant) -> Result<()> {
    loop {
        match rustix::fs::rmdir(path) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY) => {
                for child in children(path)? {
                    remove_tree(&child, deadline)?;
                }
                if rustix::fs::rmdir(path).is_ok() {
                    return Ok(());
                }
                if Instant::now() > deadline {
                    return Err(Error::Path { action: "remove", path: path.to_path_buf(), errno: Errno::BUSY });
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(errno) => return Err(Error::path("remove", path)(errno)),
        }
    }
}
