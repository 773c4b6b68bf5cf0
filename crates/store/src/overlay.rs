//! Detached mounts of overlayfs: in no mount table, gone with their last descriptor.
//!
//! Since Linux 6.8 lower directories are given one by one. Before, all of them stand in one string, which fsconfig(2)
//! cuts at 255 bytes; so there the mount is made by mount(2), which takes a page, in a mount namespace of a thread of its
//! own, and cloned out of it.

use crate::error::{At, Error, Result};
use crate::root::open_dir;
use rustix::fs::{AtFlags, CWD};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_fd,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_change, open_tree,
};
use rustix::thread::UnshareFlags;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Longest string fsconfig(2) takes.
const FSCONFIG_MAX: usize = 255;

/// Longest options mount(2) takes: a page, with its end mark.
const OPTIONS_MAX: usize = 4095;

/// Whatever the host's defaults are: a layer must mean the same when it is read without overlayfs.
const OFF: [&str; 3] = ["index", "metacopy", "redirect_dir"];

/// How a container's file system is mounted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MountOptions<'a> {
    /// One SELinux label for all files.
    pub label: Option<&'a str>,
    /// Nothing need be on the disk when the mount ends, nor after fsync(2): for a file system that is deleted then. Without
    /// it the end of a mount writes back all of the file system that the container lies on.
    pub throwaway: bool,
}

/// Left in the work directory by a mount that never writes back; a later one is refused where it lies.
const THROWN_AWAY: [(&str, AtFlags); 2] =
    [("work/incompat/volatile/dirty", AtFlags::empty()), ("work/incompat/volatile", AtFlags::REMOVEDIR)];

fn forget_thrown_away(work: &Path) -> Result<()> {
    for (name, flags) in THROWN_AWAY {
        match rustix::fs::unlinkat(CWD, work.join(name), flags) {
            Ok(()) => {}
            Err(Errno::NOENT) => break,
            Err(errno) => return Err(errno).at("delete", work.join(name).display()),
        }
    }
    Ok(())
}

/// Mounts layers, given lowest first, below `upper`.
pub(crate) fn mount(lowest_first: &[PathBuf], upper: &Path, work: &Path, options: MountOptions<'_>) -> Result<OwnedFd> {
    forget_thrown_away(work)?;
    if takes_any_option()? {
        return mount_in_thread(lowest_first, upper, work, options);
    }
    let context = open_context()?;
    for layer in lowest_first.iter().rev() {
        match set_directory(context.as_fd(), "lowerdir+", layer) {
            Ok(()) => {}
            Err(Errno::INVAL) => return mount_in_thread(lowest_first, upper, work, options),
            Err(errno) => return Err(errno).at("mount layer", layer.display()),
        }
    }
    set_directory(context.as_fd(), "upperdir", upper).at("mount", upper.display())?;
    set_directory(context.as_fd(), "workdir", work).at("mount", work.display())?;
    for option in OFF {
        fsconfig_set_string(context.as_fd(), option, "off").at("mount an overlay with", option)?;
    }
    if let Some(label) = options.label {
        fsconfig_set_string(context.as_fd(), "context", label).at("mount an overlay with the label", label)?;
    }
    if options.throwaway {
        fsconfig_set_flag(context.as_fd(), "volatile").at("mount an overlay that is", "volatile")?;
    }
    fsconfig_create(context.as_fd()).at("mount the overlay of", upper.display())?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).at("mount the overlay of", upper.display())
}

fn open_context() -> Result<OwnedFd> {
    fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).at("use", "overlayfs")
}

/// Before Linux 6.5 overlayfs only collects its options, whatever they are, until the mount is made of them: one that it
/// does not know is no error yet.
fn takes_any_option() -> Result<bool> {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    if let Some(known) = KNOWN.get() {
        return Ok(*known);
    }
    let takes = fsconfig_set_string(open_context()?.as_fd(), "naru", "unknown").is_ok();
    Ok(*KNOWN.get_or_init(|| takes))
}

fn set_directory(context: BorrowedFd<'_>, key: &str, path: &Path) -> Result<(), Errno> {
    if path.as_os_str().len() <= FSCONFIG_MAX {
        return fsconfig_set_string(context, key, path);
    }
    let directory = open_dir(path)?;
    match fsconfig_set_fd(context, key, &directory) {
        // Before Linux 6.13 only names are taken; the name through procfs is short.
        Err(Errno::INVAL) => fsconfig_set_string(context, key, fd_path(directory.as_fd())),
        result => result,
    }
}

fn fd_path(directory: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", directory.as_raw_fd())
}

/// The way of kernels before 6.8.
fn mount_in_thread(lowest_first: &[PathBuf], upper: &Path, work: &Path, wanted: MountOptions<'_>) -> Result<OwnedFd> {
    // Hidden by the mount in that namespace only.
    let place = upper.parent().unwrap_or(upper);
    let mounting = || -> Result<OwnedFd> {
        #[expect(deprecated, reason = "a mount namespace and a working directory of its own do not touch other threads' descriptors")]
        rustix::thread::unshare(UnshareFlags::NEWNS).at("make", "a mount namespace")?;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).at("make private", "the mounts of a thread")?;
        // Overlayfs takes directories of the present namespace only: they are opened here.
        let open = |path: &Path| open_dir(path).at("open", path.display());
        let lower = lowest_first.iter().rev().map(|path| open(path)).collect::<Result<Vec<_>>>()?;
        let (upper_fd, work_fd) = (open(upper)?, open(work)?);
        let list = lower.iter().map(|directory| fd_path(directory.as_fd())).collect::<Vec<_>>().join(":");
        let off = OFF.map(|option| format!(",{option}=off")).concat();
        // Quoted, for it has a comma between categories.
        let context = wanted.label.map(|label| format!(",context=\"{label}\"")).unwrap_or_default();
        let volatile = if wanted.throwaway { ",volatile" } else { "" };
        let (upper_path, work_path) = (fd_path(upper_fd.as_fd()), fd_path(work_fd.as_fd()));
        let options = format!("lowerdir={list},upperdir={upper_path},workdir={work_path}{off}{volatile}{context}");
        if options.len() > OPTIONS_MAX {
            return Err(Error::TooLarge {
                what: format!("image with {} layers", lowest_first.len() - 1),
                limit: "200 layers on Linux before 6.8".into(),
            });
        }
        let options = CString::new(options).expect("digits, words and a label have no NUL");
        rustix::mount::mount("overlay", place, "overlay", MountFlags::empty(), Some(options.as_c_str()))
            .at("mount the overlay of", upper.display())?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        open_tree(CWD, place, flags).at("clone the overlay of", upper.display())
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("store-mount".into()).spawn_scoped(scope, mounting);
        thread.at("start", "the mounting thread")?.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    type Mount = fn(&[PathBuf], &Path, &Path, MountOptions<'_>) -> Result<OwnedFd>;

    const PLAIN: MountOptions<'_> = MountOptions { label: None, throwaway: false };
    const THROWAWAY: MountOptions<'_> = MountOptions { label: None, throwaway: true };

    #[test]
    fn what_is_thrown_away_can_be_mounted_again() {
        for mount in [mount as Mount, mount_in_thread] {
            let directory = tempfile::tempdir().unwrap();
            let [lower, upper, work] = ["lower", "upper", "work"].map(|name| directory.path().join(name));
            for path in [&lower, &upper, &work] {
                std::fs::create_dir(path).unwrap();
            }
            let layers = [lower];
            for options in [THROWAWAY, THROWAWAY, PLAIN] {
                forget_thrown_away(&work).unwrap();
                let mounted = mount(&layers, &upper, &work, options).unwrap();
                assert_eq!(work.join(THROWN_AWAY[0].0).exists(), options.throwaway);
                let file = PathBuf::from(fd_path(mounted.as_fd())).join("f");
                std::fs::File::create(&file).unwrap().sync_all().unwrap();
            }
        }
    }

    #[test]
    fn both_ways_give_the_same_and_leave_no_trace() {
        for (what, mount) in [("one by one", mount as Mount), ("in one string", mount_in_thread)] {
            let directory = tempfile::tempdir().unwrap();
            let make = |name: String| {
                let path = directory.path().join(name);
                std::fs::create_dir(&path).unwrap();
                path
            };
            let lower: Vec<PathBuf> = (0..100).map(|n| make(format!("lower{n}"))).collect();
            for (n, layer) in lower.iter().enumerate() {
                std::fs::write(layer.join("same"), n.to_string()).unwrap();
                std::fs::write(layer.join(format!("f{n}")), "").unwrap();
            }
            let (upper, work) = (make("upper".into()), make("work".into()));
            let mounted = mount(&lower, &upper, &work, PLAIN).expect(what);
            let root = PathBuf::from(fd_path(mounted.as_fd()));
            assert_eq!(std::fs::read_to_string(root.join("same")).unwrap(), "99", "{what}");
            assert!(root.join("f0").exists() && root.join("f99").exists(), "{what}");
            std::fs::write(root.join("new"), "n").unwrap();
            assert_eq!(std::fs::read_to_string(upper.join("new")).unwrap(), "n", "{what}");
            let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
            assert!(!table.contains(directory.path().to_str().unwrap()), "{what}");
        }
    }

    #[test]
    fn a_root_with_a_long_path() {
        let directory = tempfile::tempdir().unwrap();
        let long = directory.path().join("n".repeat(200)).join("m".repeat(200));
        for name in ["lower", "upper", "work"] {
            std::fs::create_dir_all(long.join(name)).unwrap();
        }
        std::fs::write(long.join("lower/f"), "x").unwrap();
        let mounted = mount(&[long.join("lower")], &long.join("upper"), &long.join("work"), PLAIN).unwrap();
        assert_eq!(std::fs::read_to_string(PathBuf::from(fd_path(mounted.as_fd())).join("f")).unwrap(), "x");
    }
}
