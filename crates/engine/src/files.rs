//! Files of a container from outside: `cp`, `diff`, `export`. A running container is reached through the root of its
//! first process, a stopped one through mounts of its own that nobody else sees. What is being read outlives the container.

use crate::container::View;
use crate::error::{EngineError, Result};
use crate::phase::Phase;
use crate::{Engine, Inner, launch, rootfs};
use naru_runtime::view::{self, Part};
use naru_store::Change;
use naru_store::archive::{self, PathStat, UnpackOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long the monitor of a process that has ended may take to say so.
const PATIENCE: Duration = Duration::from_secs(10);

/// Works on the files of a container that does not run as its processes would see them, volumes and binds included.
fn in_mounts<T: Send>(engine: &Inner, view: &View, work: impl FnOnce(BorrowedFd<'_>) -> Result<T> + Send) -> Result<T> {
    let _held = engine.store.hold(&view.id)?;
    let root = engine.store.mount(&view.id)?;
    let sources = launch::mount_sources(engine, &view.spec, root.as_fd(), false)?;
    let parts: Vec<Part> = view
        .spec
        .mounts
        .iter()
        .zip(&sources.paths)
        .filter_map(|(mount, source)| {
            Some(Part { source: source.clone()?, target: mount.target.clone().into(), read_only: mount.read_only })
        })
        .collect();
    if parts.is_empty() { work(root.as_fd()) } else { view::with_parts(root, &parts, work)? }
}

/// The same of one that runs, with its root.
fn in_root<T>(engine: &Inner, view: &View, root: &OwnedFd, work: impl FnOnce(BorrowedFd<'_>) -> Result<T>) -> Result<T> {
    let _held = engine.store.hold(&view.id)?;
    work(root.as_fd())
}

impl Engine {
    /// The view of a container, and the root of its first process. Of one that does not run nothing is mounted any more.
    async fn at_rest(&self, reference: &str) -> Result<(Arc<View>, Option<OwnedFd>)> {
        let container = self.find(reference)?;
        let mut view = container.view();
        while let Some(pid) = view.state.pid() {
            match rootfs::open_root(Path::new(&format!("/proc/{pid}/root"))) {
                // It has ended at this very moment: its monitor is about to say so, then it is at rest, runs again or is gone.
                Err(EngineError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                    let ended = container.wait_until(|view| view.state.pid() != Some(pid));
                    match tokio::time::timeout(PATIENCE, ended).await {
                        Ok(ended) => view = ended,
                        Err(_) => break,
                    }
                }
                root => return Ok((view, Some(root?))),
            }
        }
        container.take_back().await?;
        Ok((container.view(), None))
    }

    async fn with_root<T: Send + 'static>(
        &self,
        reference: &str,
        work: impl FnOnce(&View, BorrowedFd<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (view, root) = self.at_rest(reference).await?;
        let (inner, id) = (Arc::clone(&self.0), view.id.clone());
        let job = move || match root {
            Some(root) => in_root(&inner, &view, &root, |root| work(&view, root)),
            None => in_mounts(&inner, &view, |root| work(&view, root)),
        };
        let done = tokio::task::spawn_blocking(job).await.map_err(|_| EngineError::Gone("the thread that works on files"))?;
        // What fails because the container is removed meanwhile is answered as after its removal.
        let is_going = || self.find(id.as_str()).map_or(true, |found| found.view().state.phase == Phase::Removing);
        done.map_err(|error| if is_going() { EngineError::NoSuchContainer(reference.to_owned()) } else { error })
    }

    /// What is at `path` in the container.
    pub async fn stat_path(&self, reference: &str, path: &str) -> Result<PathStat> {
        let path = path.to_owned();
        self.with_root(reference, move |_, root| Ok(archive::stat(root, &path)?)).await
    }

    /// Writes what is at `path` as a tar archive.
    pub async fn copy_out(&self, reference: &str, path: &str, mut output: impl Write + Send + 'static) -> Result<()> {
        let path = path.to_owned();
        self.with_root(reference, move |_, root| Ok(archive::pack(root, &path, &mut output).map(drop)?)).await
    }

    /// Unpacks a tar archive into the directory `path`. `keep_kinds` refuses to put a directory in a file's place and the
    /// reverse; `as_user` gives the files to the container's user, if it names one.
    pub async fn copy_in(
        &self,
        reference: &str,
        path: &str,
        mut input: impl Read + Send + 'static,
        keep_kinds: bool,
        as_user: bool,
    ) -> Result<()> {
        let path = path.to_owned();
        self.with_root(reference, move |view, root| {
            writable(view, &path)?;
            let process = &view.spec.process;
            // Where nobody is named they stay whose they are.
            let owner = if as_user && !process.user.is_empty() {
                let user = naru_runtime::user::resolve(root, &process.user, &process.groups)?;
                Some((user.uid, user.gid))
            } else {
                None
            };
            let options = UnpackOptions { no_overwrite_dir_non_dir: keep_kinds, owner };
            Ok(archive::unpack(root, &path, &mut input, options)?)
        })
        .await
    }

    /// What differs from the image.
    pub async fn changes(&self, reference: &str) -> Result<Vec<Change>> {
        let view = self.find(reference)?.view();
        let inner = Arc::clone(&self.0);
        let job = move || {
            let _held = inner.store.hold(&view.id)?;
            Ok(inner.store.changes(&view.id, None)?)
        };
        tokio::task::spawn_blocking(job).await.map_err(|_| EngineError::Gone("the thread that compares files"))?
    }

    /// Writes the whole root file system as a tar archive.
    pub async fn export(&self, reference: &str, mut output: impl Write + Send + 'static) -> Result<()> {
        let (view, _) = self.at_rest(reference).await?;
        let inner = Arc::clone(&self.0);
        // Of the layers, not of the process's view: volumes and /proc are no part of the container.
        let job = move || -> Result<()> {
            let _held = inner.store.hold(&view.id)?;
            let root = inner.store.mount(&view.id)?;
            Ok(inner.store.export(root.as_fd(), &mut output)?)
        };
        tokio::task::spawn_blocking(job).await.map_err(|_| EngineError::Gone("the thread that exports"))?
    }
}

/// Refuses, in Docker's words, what the innermost mount around `path` does not take. A link may lead into another mount,
/// where the kernel refuses.
fn writable(view: &View, path: &str) -> Result<()> {
    let around = view.spec.mounts.iter().filter(|mount| Path::new(path).starts_with(&mount.target)).max_by_key(|mount| mount.target.len());
    let text = match around {
        Some(mount) if mount.read_only => "mounted volume is marked read-only",
        None if view.spec.security.readonly_root => "container rootfs is marked read-only",
        _ => return Ok(()),
    };
    Err(EngineError::Denied { text: text.into(), kind: naru_types::ErrorKind::Forbidden })
}
