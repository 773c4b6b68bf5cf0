//! Files of a container from outside: `cp`, `diff`, `export`. A running container is reached through the root of its
//! first process, a stopped one through a mount of its own that nobody else sees.

use crate::container::View;
use crate::error::{EngineError, Result};
use crate::spec::MountSource;
use crate::{Engine, Inner, rootfs};
use naru_store::Change;
use naru_store::archive::{self, PathStat, UnpackOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

/// The root file system of a container, as a directory descriptor.
fn open_root(engine: &Inner, view: &View) -> Result<OwnedFd> {
    match view.state.pid() {
        Some(pid) => rootfs::open_root(Path::new(&format!("/proc/{pid}/root"))),
        None => Ok(engine.store.mount(&view.id)?),
    }
}

impl Engine {
    async fn with_root<T: Send + 'static>(
        &self,
        reference: &str,
        work: impl FnOnce(&Inner, &View, OwnedFd) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let view = self.find(reference)?.view();
        let inner = Arc::clone(&self.0);
        let job = move || {
            let root = open_root(&inner, &view)?;
            work(&inner, &view, root)
        };
        tokio::task::spawn_blocking(job).await.map_err(|_| EngineError::Gone("the thread that works on files"))?
    }

    /// What is at `path` in the container.
    pub async fn stat_path(&self, reference: &str, path: &str) -> Result<PathStat> {
        let path = path.to_owned();
        self.with_root(reference, move |_, _, root| Ok(archive::stat(root.as_fd(), &path)?)).await
    }

    /// Writes what is at `path` as a tar archive.
    pub async fn copy_out(&self, reference: &str, path: &str, mut output: impl Write + Send + 'static) -> Result<()> {
        let path = path.to_owned();
        self.with_root(reference, move |_, _, root| Ok(archive::pack(root.as_fd(), &path, &mut output).map(drop)?)).await
    }

    /// Unpacks a tar archive into the directory `path`. `keep_kinds` refuses to put a directory in a file's place and the
    /// reverse; `as_user` gives the files to the container's user.
    pub async fn copy_in(
        &self,
        reference: &str,
        path: &str,
        mut input: impl Read + Send + 'static,
        keep_kinds: bool,
        as_user: bool,
    ) -> Result<()> {
        let path = path.to_owned();
        self.with_root(reference, move |_, view, root| {
            if view.spec.security.readonly_root && !below_writable_mount(view, &path) {
                return Err(EngineError::Denied {
                    text: "container rootfs is marked read-only".into(),
                    kind: naru_types::ErrorKind::Forbidden,
                });
            }
            let process = &view.spec.process;
            let owner = if as_user {
                let user = naru_runtime::user::resolve(root.as_fd(), &process.user, &process.groups)?;
                Some((user.uid, user.gid))
            } else {
                None
            };
            let options = UnpackOptions { no_overwrite_dir_non_dir: keep_kinds, owner };
            Ok(archive::unpack(root.as_fd(), &path, &mut input, options)?)
        })
        .await
    }

    /// What differs from the image.
    pub async fn changes(&self, reference: &str) -> Result<Vec<Change>> {
        self.with_root(reference, |engine, view, root| Ok(engine.store.changes(&view.id, Some(root.as_fd()))?)).await
    }

    /// Writes the whole root file system as a tar archive.
    pub async fn export(&self, reference: &str, mut output: impl Write + Send + 'static) -> Result<()> {
        let view = self.find(reference)?.view();
        let inner = Arc::clone(&self.0);
        // Of the layers, not of the process's view: volumes and /proc are no part of the container.
        let job = move || -> Result<()> {
            let root = inner.store.mount(&view.id)?;
            Ok(inner.store.export(root.as_fd(), &mut output)?)
        };
        tokio::task::spawn_blocking(job).await.map_err(|_| EngineError::Gone("the thread that exports"))?
    }
}

fn below_writable_mount(view: &View, path: &str) -> bool {
    view.spec.mounts.iter().any(|mount| {
        let inside = Path::new(path).starts_with(&mount.target);
        inside && !mount.read_only && !matches!(mount.source, MountSource::Tmpfs { .. })
    })
}
