//! The files of a container that does not run, as its processes would see them: the root with volumes and binds in place.
//!
//! The mounts live in a mount namespace of one thread, which nobody else sees and which goes with the thread: nothing has to
//! be unmounted, and a daemon that is killed meanwhile leaves nothing.

use crate::error::{Error, Result};
use crate::mounts::{Options, attach, clone_tree, mount_failure};
use crate::rootfs::{create_dir_all, create_file};
use naru_sys::mount::attr;
use naru_sys::process;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, mount_change};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// A part of the host inside a container's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// What is seen, by its path on the host.
    pub source: PathBuf,
    /// Where in the container.
    pub target: PathBuf,
    /// Whether it takes no writes.
    pub read_only: bool,
}

/// Works on `root`, a detached mount, with `parts` in their places.
pub fn with_parts<T: Send>(root: OwnedFd, parts: &[Part], work: impl FnOnce(BorrowedFd<'_>) -> T + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("naru-view".into()).spawn_scoped(scope, || {
            assemble(root.as_fd(), parts)?;
            Ok(work(root.as_fd()))
        });
        let thread = thread.map_err(|error| Error::Unavailable(format!("cannot start a thread for the container's files: {error}")))?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Moves this thread into a mount namespace of its own and puts the parts below the root there.
fn assemble(root: BorrowedFd<'_>, parts: &[Part]) -> Result<()> {
    let own = |errno: Errno| Error::Unavailable(format!("cannot make a mount namespace for the container's files: {errno}"));
    process::unshare_mounts().map_err(own)?;
    let mut trees = Vec::with_capacity(parts.len());
    for part in parts {
        let failed = |errno| Error::Start(mount_failure(&part.source.display().to_string(), &part.target, errno));
        let options = Options { set: if part.read_only { attr::RDONLY } else { 0 }, recursive_bind: true, ..Options::default() };
        trees.push(clone_tree(&part.source, &options, None).map_err(failed)?);
    }
    // In a chroot `/` may be no mount: joining the namespace that we are in leads to its very root.
    let namespace = rustix::fs::open("/proc/thread-self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(own)?;
    process::setns(namespace.as_fd(), libc::CLONE_NEWNS as u64).map_err(own)?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).map_err(own)?;
    let here = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(own)?;
    attach(root, here.as_fd()).map_err(own)?;
    for (part, (tree, directory)) in parts.iter().zip(trees) {
        let mode = Mode::from_raw_mode(0o755);
        let target = if directory { create_dir_all(root, &part.target, mode) } else { create_file(root, &part.target) };
        target
            .and_then(|target| attach(tree.as_fd(), target.as_fd()))
            .map_err(|errno| Error::Start(mount_failure(&part.source.display().to_string(), &part.target, errno)))?;
    }
    Ok(())
}
