//! What the new process does between clone3 and exec.
//!
//! It was forked by a process with one thread and only performs system calls on what the plan holds. Order matters:
//!
//! 1. cgroup, id maps, namespaces; file systems that need them are made as detached mounts while the host's `/proc` is
//!    still visible (a user namespace may mount proc only then)
//! 2. the root file system is attached over `/` and pivoted to: from here on the host's file system is not reachable
//! 3. mounts, devices, sysctls, masks: every target opened inside the root, every mount attached by descriptor;
//!    `/proc` files are reached through the proc mount made here, never through the container's path (CVE-2025-52881)
//! 4. identity, filter, exec

mod execute;

pub(crate) use execute::{Process, Streams, run_exec};

use crate::error::{StartFailure, ignore};
use crate::handshake::ChildEnd;
use crate::lookup::errno_text;
use crate::mounts::{self, MS_PRIVATE, Options, Planned, What, attach, clone_of, mount_failure};
use crate::plan::Plan;
use crate::rootfs::{copy_tree, create_dir_all, create_file, open_in, open_plain};
use crate::selinux;
use naru_sys::mount::{SetAttr, attr, set_attributes};
use naru_sys::process::{self, SingleThread};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

type Step<T = ()> = Result<T, StartFailure>;

/// Standard streams of a process without a terminal.
#[derive(Debug)]
pub(crate) struct Stdio {
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

pub(crate) fn failed(what: impl std::fmt::Display) -> impl FnOnce(Errno) -> StartFailure {
    move |errno| StartFailure::other(format!("{what}: {}", errno_text(errno)))
}

/// Runs the child; comes back only with an error.
pub(crate) fn run(threads: SingleThread, plan: &mut Plan, stdio: Option<Stdio>, channel: &mut ChildEnd) -> StartFailure {
    match start(threads, plan, stdio, channel) {
        Ok(never) => match never {},
        Err(failure) => failure,
    }
}

pub(crate) enum Never {}

fn start(threads: SingleThread, plan: &mut Plan, stdio: Option<Stdio>, channel: &mut ChildEnd) -> Step<Never> {
    process::reset_signals();
    ignore(process::set_dumpable(false));
    join(threads, plan, channel)?;
    let mut child = Child { plan, proc: None, sys: None, devpts: None, null_attached: None };
    let prepared = child.prepare()?;
    child.enter_root()?;
    let root = root()?;
    child.mount_all(root.as_fd(), prepared)?;
    child.devices()?;
    child.sysctls()?;
    if !child.plan.create_container_hooks.is_empty() {
        run_hooks("createContainer", &child.plan.create_container_hooks, &child.plan.hook_state)?;
        child.pivot()?;
    }
    let root = self::root()?;
    let terminal = if child.plan.process.terminal { Some(child.terminal(root.as_fd())?) } else { None };
    child.protect(root.as_fd())?;
    child.finish_root(root.as_fd())?;
    if let Some(name) = &child.plan.hostname {
        rustix::system::sethostname(name.as_bytes()).map_err(failed("set the host name"))?;
    }
    if let Some(name) = &child.plan.domainname {
        rustix::system::setdomainname(name.as_bytes()).map_err(failed("set the domain name"))?;
    }
    let proc = child.proc.take().expect("made in prepare");
    let plan = &*child.plan;
    let stdio = match terminal {
        Some((master, slave)) => {
            if let Some((rows, columns)) = plan.process.console_size.filter(|(rows, columns)| *rows != 0 && *columns != 0) {
                set_size(master.as_fd(), rows, columns);
            }
            channel.terminal(master.as_fd()).map_err(failed("send the terminal"))?;
            drop(master);
            Streams::Terminal(slave)
        }
        None => Streams::Pipes(stdio.expect("a process without a terminal has streams")),
    };
    Process { plan: &plan.process, proc, container: Some(plan), threads }.execute(stdio, channel)
}

/// A new session keyring; kernels without keys and filters without keyctl are fine.
fn keyring(name: &std::ffi::CStr) -> Step {
    match process::new_session_keyring(name) {
        Ok(()) | Err(Errno::NOSYS | Errno::PERM | Errno::ACCESS) => Ok(()),
        Err(errno) => Err(failed("make a session keyring")(errno)),
    }
}

pub(crate) fn set_size(terminal: BorrowedFd<'_>, rows: u16, columns: u16) {
    let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // A terminal that has hung up has no size.
    ignore(rustix::termios::tcsetwinsize(terminal, size));
}

fn run_hooks(stage: &str, hooks: &[crate::spec::Hook], state: &str) -> Step {
    crate::hooks::run(stage, hooks, state).map_err(|error| StartFailure::other(error.to_string()))
}

fn root() -> Step<OwnedFd> {
    rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(failed("open the root"))
}

/// Cgroup, user and other namespaces.
fn join(threads: SingleThread, plan: &Plan, channel: &ChildEnd) -> Step {
    for procs in &plan.entry.procs {
        rustix::io::write(procs, b"0").map_err(failed("join the cgroup"))?;
    }
    if plan.id_maps.is_some() {
        channel.user_namespace()?;
        become_root()?;
    }
    for (namespace, flag) in &plan.joins {
        process::setns(namespace.as_fd(), *flag).map_err(failed("join a namespace"))?;
        if *flag == libc::CLONE_NEWUSER as u64 {
            become_root()?;
        }
    }
    if plan.new_cgroup_namespace {
        process::unshare(threads, libc::CLONE_NEWCGROUP as u64).map_err(failed("make a cgroup namespace"))?;
    }
    if plan.loopback {
        naru_sys::net::loopback_up().map_err(failed("set the loopback interface up"))?;
    }
    match rustix::process::setsid() {
        // Leader already: joined without a new pid.
        Ok(_) | Err(Errno::PERM) => {}
        Err(errno) => return Err(failed("make a session")(errno)),
    }
    if plan.runtime_hooks {
        channel.hooks()?;
    }
    Ok(())
}

/// Root of the user namespace just entered.
fn become_root() -> Step {
    let (user, group) = (Uid::ROOT, Gid::ROOT);
    rustix::thread::set_thread_res_gid(group, group, group).map_err(failed("become the namespace's root group"))?;
    rustix::thread::set_thread_res_uid(user, user, user).map_err(failed("become the namespace's root"))
}

/// Where the mounts made by us are, to reach files below them without a path of the container.
struct Child<'a> {
    plan: &'a mut Plan,
    proc: Option<OwnedFd>,
    sys: Option<OwnedFd>,
    devpts: Option<OwnedFd>,
    null_attached: Option<OwnedFd>,
}

impl Child<'_> {
    /// Makes the file systems as detached mounts, by index of the plan's mounts.
    fn prepare(&mut self) -> Step<Vec<Option<OwnedFd>>> {
        let mut prepared = Vec::with_capacity(self.plan.mounts.len());
        for planned in &self.plan.mounts {
            let mount = match &planned.what {
                What::FileSystem { kind } => Some(make_file_system(kind, planned)?),
                What::CgroupV1 { .. } => {
                    let mut data = planned.options.data.clone();
                    data.push(("mode".into(), Some("755".into())));
                    let options = Options { set: planned.options.set, data, ..Options::default() };
                    let made = mounts::make("tmpfs", "cgroup", &options, attr::RDONLY);
                    Some(made.map_err(|errno| mount_failure("cgroup", &planned.destination, errno))?)
                }
                What::Tree { .. } => None,
            };
            if let (Some(mount), What::FileSystem { kind }) = (&mount, &planned.what) {
                if let Some(label) = self.plan.mount_label.as_deref().filter(|_| kind == mounts::MESSAGE_QUEUES) {
                    selinux::label_mount(mount.as_fd(), label).map_err(failed(format!("label {}", planned.destination.display())))?;
                }
                let slot = match (kind.as_str(), planned.destination.to_str()) {
                    ("proc", Some("/proc")) => &mut self.proc,
                    ("sysfs", Some("/sys")) => &mut self.sys,
                    ("devpts", Some("/dev/pts")) => &mut self.devpts,
                    _ => {
                        prepared.push(Some(duplicate(mount)?));
                        continue;
                    }
                };
                *slot = Some(duplicate(mount)?);
            }
            prepared.push(mount);
        }
        if self.proc.is_none() {
            let made = mounts::make("proc", "proc", &Options::default(), 0);
            self.proc = Some(made.map_err(|errno| mount_failure("proc", Path::new("/proc"), errno))?);
        }
        Ok(prepared)
    }

    fn enter_root(&mut self) -> Step {
        // When the engine runs in a chroot, `/` is not the root of the mount namespace: pivoting there would leave the
        // host's file system in the namespace, where whoever enters it later would come out. Joining the namespace that
        // we are in leads to its very root.
        let proc = self.proc.as_ref().expect("made in prepare");
        rustix::fs::openat(proc, "self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .and_then(|namespace| process::setns(namespace.as_fd(), libc::CLONE_NEWNS as u64))
            .map_err(failed("go to the root of the mount namespace"))?;
        let here = root()?;
        set_attributes(here.as_fd(), SetAttr { propagation: MS_PRIVATE, recursive: true, ..SetAttr::default() })
            .map_err(failed("make all mounts private"))?;
        attach(self.plan.rootfs.as_fd(), here.as_fd()).map_err(failed("attach the root file system"))?;
        if self.plan.create_container_hooks.is_empty() {
            self.pivot()?;
        } else {
            // Those hooks are programs of the host: `/` stays the host's until they have run. Targets are opened inside
            // the new root all the same, as it is the working root of every lookup below.
            rustix::process::fchdir(&self.plan.rootfs).map_err(failed("enter the root file system"))?;
        }
        Ok(())
    }

    /// Makes the root file system `/` and lets go of the host's.
    fn pivot(&self) -> Step {
        rustix::process::fchdir(&self.plan.rootfs).map_err(failed("enter the root file system"))?;
        // The same directory twice: the old root ends up on top of the new one, from where it is unmounted.
        rustix::process::pivot_root(".", ".").map_err(failed("pivot_root"))?;
        rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(failed("unmount the host's root"))?;
        rustix::process::chdir("/").map_err(failed("enter the root file system"))
    }

    fn mount_all(&mut self, root: BorrowedFd<'_>, prepared: Vec<Option<OwnedFd>>) -> Step {
        // Before the pivot the new root is where the plan's mount is attached.
        let new_root = duplicate(&self.plan.rootfs)?;
        let root = if self.plan.create_container_hooks.is_empty() { root } else { new_root.as_fd() };
        for (planned, mount) in self.plan.mounts.iter().zip(prepared) {
            mount_one(root, planned, mount).map_err(|failure| match failure {
                Failed::Errno(errno) => mount_failure(&planned.source, &planned.destination, errno),
                Failed::Text(failure) => failure,
            })?;
        }
        Ok(())
    }

    fn root_of_lookups(&self) -> Step<OwnedFd> {
        if self.plan.create_container_hooks.is_empty() { root() } else { duplicate(&self.plan.rootfs) }
    }

    fn devices(&mut self) -> Step {
        let root = self.root_of_lookups()?;
        let root = root.as_fd();
        let Some(devices) = &self.plan.devices else { return Ok(()) };
        // Modes are meant as they are written.
        let umask = rustix::process::umask(Mode::empty());
        for device in devices {
            make_device(root, device).map_err(failed(format!("make the device {}", device.path.display())))?;
        }
        rustix::process::umask(umask);
        for (link, target) in [
            ("/dev/fd", "/proc/self/fd"),
            ("/dev/stdin", "/proc/self/fd/0"),
            ("/dev/stdout", "/proc/self/fd/1"),
            ("/dev/stderr", "/proc/self/fd/2"),
            ("/dev/core", "/proc/kcore"),
            ("/dev/ptmx", "pts/ptmx"),
        ] {
            if link == "/dev/core" && open_beneath(self.proc.as_ref(), Path::new("kcore")).is_err() {
                continue;
            }
            let (directory, name) = parent(root, Path::new(link)).map_err(failed(format!("make {link}")))?;
            match rustix::fs::symlinkat(target, &directory, name) {
                Ok(()) => {}
                // The image's or the user's own; /dev/ptmx of an image without a tmpfs on /dev must be ours.
                Err(Errno::EXIST) if link != "/dev/ptmx" => {}
                Err(Errno::EXIST) => {
                    ignore(rustix::fs::unlinkat(&directory, name, AtFlags::empty()));
                    rustix::fs::symlinkat(target, &directory, name).map_err(failed(format!("make {link}")))?;
                }
                Err(errno) => return Err(failed(format!("make {link}"))(errno)),
            }
        }
        Ok(())
    }

    fn sysctls(&self) -> Step {
        for (file, value) in &self.plan.sysctls {
            write_proc(self.proc.as_ref(), file, value.as_bytes()).map_err(failed(format!("set the sysctl {}", file.display())))?;
        }
        Ok(())
    }

    /// Opens a terminal of the container's own devpts and puts it on /dev/console.
    fn terminal(&self, root: BorrowedFd<'_>) -> Step<(OwnedFd, OwnedFd)> {
        let (master, slave) = open_terminal(root, self.devpts.as_ref().map(AsFd::as_fd))?;
        let what = || failed("set up /dev/console");
        rustix::fs::fchown(&slave, Some(Uid::from_raw(self.plan.process.uid)), None).or_else(tolerated).map_err(what())?;
        // By descriptor: the container's /dev/pts/<n> could be anything (CVE-2025-52565).
        let clone = clone_of(slave.as_fd(), false).map_err(what())?;
        let console = console_file(root).map_err(what())?;
        attach(clone.as_fd(), console.as_fd()).map_err(what())?;
        Ok((master, slave))
    }

    /// Masked and read-only paths.
    fn protect(&mut self, root: BorrowedFd<'_>) -> Step {
        let mut empty: Option<OwnedFd> = None;
        let (masked, readonly) = (std::mem::take(&mut self.plan.masked_paths), std::mem::take(&mut self.plan.readonly_paths));
        for path in &readonly {
            let Some(target) = self.target(root, path)? else { continue };
            let clone = clone_of(target.as_fd(), true).map_err(failed(format!("clone {}", path.display())))?;
            set_attributes(clone.as_fd(), SetAttr { set: attr::RDONLY, recursive: true, ..SetAttr::default() })
                .and_then(|()| attach(clone.as_fd(), target.as_fd()))
                .map_err(failed(format!("make {} read-only", path.display())))?;
        }
        for path in &masked {
            let Some(target) = self.target(root, path)? else { continue };
            let status = rustix::fs::fstat(&target).map_err(failed(format!("look at {}", path.display())))?;
            let kept = if FileType::from_raw_mode(status.st_mode) == FileType::Directory { &mut empty } else { &mut self.null_attached };
            let directory = FileType::from_raw_mode(status.st_mode) == FileType::Directory;
            // The first is the mount itself, later ones are clones of it (only attached mounts can be cloned before
            // Linux 6.15).
            let cover = match kept {
                Some(attached) => clone_of(attached.as_fd(), false),
                None if directory => mounts::empty_directory(self.plan.mount_label.as_deref()),
                None => duplicate_errno(&self.plan.null),
            };
            let cover = cover.and_then(|cover| attach(cover.as_fd(), target.as_fd()).map(|()| cover));
            *kept = Some(cover.map_err(failed(format!("mask {}", path.display())))?);
        }
        Ok(())
    }

    /// Opens what is to be protected, if it exists. Below our own proc and sysfs no link of the container matters.
    fn target(&self, root: BorrowedFd<'_>, path: &Path) -> Step<Option<OwnedFd>> {
        let below = |prefix: &str, mount: &Option<OwnedFd>| {
            Some((path.strip_prefix(prefix).ok()?.to_path_buf(), mount.as_ref()?.try_clone().ok()?))
        };
        let opened = match below("/proc", &self.proc).or_else(|| below("/sys", &self.sys)) {
            Some((rest, mount)) => open_in(mount.as_fd(), &rest, OFlags::PATH, Mode::empty()),
            None => open_in(root, path, OFlags::PATH, Mode::empty()),
        };
        match opened {
            Ok(target) => Ok(Some(target)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => Ok(None),
            Err(errno) => Err(failed(format!("open {}", path.display()))(errno)),
        }
    }

    /// Read-only root, propagation, and what was held back.
    fn finish_root(&self, root: BorrowedFd<'_>) -> Step {
        for planned in &self.plan.mounts {
            let held_back = match &planned.what {
                What::FileSystem { kind } => kind == "tmpfs" && planned.destination == Path::new("/dev"),
                _ => false,
            };
            if held_back && planned.options.set & attr::RDONLY != 0 {
                let mount = open_in(root, &planned.destination, OFlags::PATH, Mode::empty()).map_err(failed("open /dev"))?;
                set_attributes(mount.as_fd(), SetAttr { set: attr::RDONLY, ..SetAttr::default() })
                    .map_err(failed("make /dev read-only"))?;
            }
        }
        if self.plan.root_readonly {
            set_attributes(root, SetAttr { set: attr::RDONLY, ..SetAttr::default() }).map_err(failed("make the root read-only"))?;
        }
        if let Some((propagation, recursive)) = self.plan.root_propagation {
            set_attributes(root, SetAttr { propagation, recursive, ..SetAttr::default() }).map_err(failed("set the root's propagation"))?;
        }
        Ok(())
    }
}

/// The file that the terminal is put on: made here, or the image's own, but never the end of a link.
fn console_file(root: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let (directory, name) = parent(root, Path::new("/dev/console"))?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(&directory, name, flags, Mode::from_raw_mode(0o600)) {
        Ok(_) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    let file = rustix::fs::openat(&directory, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
        FileType::RegularFile | FileType::CharacterDevice => Ok(file),
        _ => Err(Errno::LOOP),
    }
}

fn duplicate(fd: &OwnedFd) -> Step<OwnedFd> {
    duplicate_errno(fd).map_err(failed("duplicate a descriptor"))
}

fn duplicate_errno(fd: &OwnedFd) -> Result<OwnedFd, Errno> {
    rustix::io::fcntl_dupfd_cloexec(fd, 3)
}

/// chown of a stream may be refused by its file system; the program then has what it was given.
fn tolerated(errno: Errno) -> Result<(), Errno> {
    match errno {
        Errno::INVAL | Errno::PERM | Errno::ROFS | Errno::NOSYS => Ok(()),
        other => Err(other),
    }
}

fn make_file_system(kind: &str, planned: &Planned) -> Step<OwnedFd> {
    // Devices are made in /dev before it becomes read-only.
    let hold_back = if planned.destination == Path::new("/dev") || planned.options.copy_up { attr::RDONLY } else { 0 };
    match mounts::make(kind, &planned.source, &planned.options, hold_back) {
        Ok(mount) => Ok(mount),
        // In a user namespace with a network namespace of others sysfs is refused: the host's, read-only, stands in.
        Err(Errno::PERM) if kind == "sysfs" => {
            let options = Options { recursive_bind: true, recursive_set: attr::RDONLY, set: planned.options.set, ..Options::default() };
            mounts::clone_tree(Path::new("/sys"), &options, None)
                .map(|(tree, _)| tree)
                .map_err(|errno| mount_failure(&planned.source, &planned.destination, errno))
        }
        Err(errno) => Err(mount_failure(&planned.source, &planned.destination, errno)),
    }
}

enum Failed {
    Errno(Errno),
    Text(StartFailure),
}

impl From<Errno> for Failed {
    fn from(errno: Errno) -> Failed {
        Failed::Errno(errno)
    }
}

const DIRECTORY_MODE: u32 = 0o755;

/// `f_type` of the real thing.
const PROC_SUPER_MAGIC: i64 = 0x9fa0;

/// Nothing but procfs is mounted on procfs, also not where a link of the image leads there: what guards the container would
/// be written to, or hidden by, a fake (CVE-2019-16884, CVE-2025-52881).
fn keep_proc(destination: &Path, target: BorrowedFd<'_>, procfs: bool) -> Result<(), Failed> {
    let over_itself = procfs && destination == Path::new("/proc");
    let allowed = || {
        destination.strip_prefix("/proc").is_ok_and(|rest| crate::defaults::MOUNTABLE_IN_PROC.iter().any(|path| rest == Path::new(path)))
    };
    if rustix::fs::fstatfs(target)?.f_type != PROC_SUPER_MAGIC || over_itself || allowed() {
        return Ok(());
    }
    Err(Failed::Text(StartFailure::other(format!("{} cannot be mounted because it is inside /proc", destination.display()))))
}

fn mount_one(root: BorrowedFd<'_>, planned: &Planned, mount: Option<OwnedFd>) -> Result<(), Failed> {
    let mode = Mode::from_raw_mode(DIRECTORY_MODE);
    match &planned.what {
        What::Tree { tree, directory } => {
            let target =
                if *directory { create_dir_all(root, &planned.destination, mode) } else { create_file(root, &planned.destination) }?;
            let status = rustix::fs::fstat(&target)?;
            if *directory != (FileType::from_raw_mode(status.st_mode) == FileType::Directory) {
                // The kernel would say EINVAL, which explains nothing.
                return Err(Errno::NOTDIR.into());
            }
            let procfs = rustix::fs::fstatfs(tree)?.f_type == PROC_SUPER_MAGIC;
            keep_proc(&planned.destination, target.as_fd(), procfs)?;
            attach(tree.as_fd(), target.as_fd())?;
        }
        What::FileSystem { kind } => {
            let mount = mount.expect("made in prepare");
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            let fresh = kind == "tmpfs" && matches!(open_in(root, &planned.destination, flags, Mode::empty()), Err(Errno::NOENT));
            let target = create_dir_all(root, &planned.destination, mode)?;
            if matches!(kind.as_str(), "proc" | "sysfs") {
                // Masks and programs reach them by name: a link in their place would make them miss (CVE-2019-19921).
                open_plain(root, &planned.destination, OFlags::PATH | OFlags::DIRECTORY).map_err(|_| {
                    Failed::Text(StartFailure::other(format!(
                        "filesystem {kind:?} must be mounted on ordinary directory: {} is not one",
                        planned.destination.display()
                    )))
                })?;
            }
            keep_proc(&planned.destination, target.as_fd(), kind == "proc")?;
            if kind == "tmpfs" {
                if fresh && rustix::fs::fstat(&target)?.st_dev == rustix::fs::fstat(root)?.st_dev {
                    open_to_all(target.as_fd())?;
                }
                if !fresh {
                    take_mode_over(&planned.options, target.as_fd(), mount.as_fd())?;
                }
            }
            if planned.options.copy_up {
                let from = open_in(root, &planned.destination, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
                let to = rustix::fs::openat(&mount, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
                copy_tree(from.as_fd(), to.as_fd(), 0)?;
                if planned.options.set & attr::RDONLY != 0 {
                    set_attributes(mount.as_fd(), SetAttr { set: attr::RDONLY, ..SetAttr::default() })?;
                }
            }
            attach(mount.as_fd(), target.as_fd())?;
            if let Some((propagation, recursive)) = planned.options.propagation {
                set_attributes(mount.as_fd(), SetAttr { propagation, recursive, ..SetAttr::default() })?;
            }
        }
        What::CgroupV1 { views } => {
            let mount = mount.expect("made in prepare");
            let target = create_dir_all(root, &planned.destination, mode)?;
            attach(mount.as_fd(), target.as_fd())?;
            for (name, tree) in views {
                let point = create_dir_all(mount.as_fd(), Path::new(name), mode)?;
                attach(tree.as_fd(), point.as_fd())?;
                for alias in name.split(',').filter(|_| name.contains(',')) {
                    match rustix::fs::symlinkat(name.as_str(), &mount, alias) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(errno) => return Err(errno.into()),
                    }
                }
            }
            if planned.options.set & attr::RDONLY != 0 {
                set_attributes(mount.as_fd(), SetAttr { set: attr::RDONLY, ..SetAttr::default() })?;
            }
        }
    }
    Ok(())
}

/// A tmpfs without a mode of its own gets that of the directory it covers, as with runc.
fn take_mode_over(options: &Options, target: BorrowedFd<'_>, mount: BorrowedFd<'_>) -> Result<(), Errno> {
    if options.data.iter().any(|(key, _)| key == "mode") || options.set & attr::RDONLY != 0 {
        return Ok(());
    }
    let status = rustix::fs::fstat(target)?;
    let inside = rustix::fs::openat(mount, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::fs::fchmod(&inside, Mode::from_raw_mode(status.st_mode & 0o7777))
}

/// A directory that was made only for a tmpfs gets the mode that the kernel gives a tmpfs: the next start finds it there and
/// takes its mode over.
fn open_to_all(target: BorrowedFd<'_>) -> Result<(), Errno> {
    let inside = rustix::fs::openat(target, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::fs::fchmod(&inside, Mode::from_raw_mode(0o1777))
}

/// The parent directory (made where missing) and the last component.
fn parent<'a>(root: BorrowedFd<'_>, path: &'a Path) -> Result<(OwnedFd, &'a std::ffi::OsStr), Errno> {
    let name = path.file_name().ok_or(Errno::INVAL)?;
    let directory = create_dir_all(root, path.parent().unwrap_or(Path::new("/")), Mode::from_raw_mode(DIRECTORY_MODE))?;
    Ok((directory, name))
}

fn make_device(root: BorrowedFd<'_>, device: &crate::plan::Device) -> Result<(), Errno> {
    if let Some(host) = &device.host {
        let target = create_file(root, &device.path)?;
        return attach(host.as_fd(), target.as_fd());
    }
    let (directory, name) = parent(root, &device.path)?;
    match rustix::fs::mknodat(&directory, name, device.kind, Mode::from_raw_mode(device.mode), device.number) {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            // Only when /dev is the image's own: what is there must be the very device.
            let status = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(status.st_mode) == device.kind && (status.st_rdev == device.number || device.kind == FileType::Fifo)
            {
                return Ok(());
            }
            return Err(Errno::EXIST);
        }
        Err(errno) => return Err(errno),
    }
    if device.uid != 0 || device.gid != 0 {
        let owner = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
        rustix::fs::chownat(&directory, name, Some(owner.0), Some(owner.1), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

/// Opens a terminal pair on `devpts`, or on the /dev/pts of a host whose /dev is mounted.
fn open_terminal(root: BorrowedFd<'_>, devpts: Option<BorrowedFd<'_>>) -> Step<(OwnedFd, OwnedFd)> {
    let what = || failed("open a terminal");
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = match devpts {
        Some(devpts) => rustix::fs::openat(devpts, "ptmx", flags | OFlags::NOFOLLOW, Mode::empty()),
        None => open_in(root, Path::new("/dev/pts/ptmx"), flags, Mode::empty()),
    };
    let master = master.map_err(what())?;
    // ptmx is character device 5:2 whatever its path; anything else must not be taken for a terminal.
    let status = rustix::fs::fstat(&master).map_err(what())?;
    if status.st_rdev != rustix::fs::makedev(5, 2) {
        return Err(what()(Errno::NODEV));
    }
    rustix::pty::unlockpt(&master).map_err(what())?;
    let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY | rustix::pty::OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).map_err(what())?;
    Ok((master, slave))
}

/// A terminal for an exec: on the container's /dev/pts, which must be a devpts.
pub(crate) fn exec_terminal() -> Step<(OwnedFd, OwnedFd)> {
    open_terminal(root()?.as_fd(), None)
}

fn open_beneath(proc: Option<&OwnedFd>, path: &Path) -> Result<OwnedFd, Errno> {
    open_plain(proc.ok_or(Errno::NOENT)?.as_fd(), path, OFlags::PATH)
}

/// Writes to a file of a proc mount that we have made, so that it is what its name says (CVE-2025-52881).
fn write_proc(proc: Option<&OwnedFd>, path: &Path, value: &[u8]) -> Result<(), Errno> {
    let proc = proc.ok_or(Errno::NOENT)?;
    // "self" is a link of the kernel's own: resolved by number instead.
    let path = match path.strip_prefix("self") {
        Ok(rest) => PathBuf::from(self_in(proc)?).join(rest),
        Err(_) => path.to_path_buf(),
    };
    let file = open_plain(proc.as_fd(), &path, OFlags::WRONLY)?;
    rustix::io::write(&file, value).map(drop)
}

/// Our number in the pid namespace of the proc mount.
fn self_in(proc: &OwnedFd) -> Result<String, Errno> {
    let target = rustix::fs::readlinkat(proc, "self", Vec::new())?;
    target.into_string().map_err(|_| Errno::PROTO)
}
