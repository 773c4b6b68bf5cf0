//! A container's file system made ahead of its use: who runs an image once and throws the container away mostly does so again.
//!
//! There is one at most, of the image that was used last: the directories of a container in `ahead`, and the mount of them. The
//! next container of that image takes both by a rename. Whoever mounts otherwise loses the mount, not the directories.

use crate::error::{At, Result};
use crate::ingest::random_name;
use crate::overlay::{self, MountOptions};
use crate::root::open_dir;
use crate::store::{Driver, Store};
use naru_types::{ContainerId, Digest};
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;

/// The directory of it.
pub(crate) const DIRECTORY: &str = "ahead";

/// As it is mounted: it goes with the container. Labels differ from one container to the next.
const OPTIONS: MountOptions<'_> = MountOptions { label: None, throwaway: true };

/// Containers that were made so and do not run yet keep a mount each; more of them than that are made as others.
const MAX_MOUNTED: usize = 8;

/// What is made ahead, and what of it was taken.
#[derive(Debug, Default)]
pub(crate) struct Ahead(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    spare: Option<Spare>,
    mounted: HashMap<ContainerId, OwnedFd>,
}

#[derive(Debug)]
struct Spare {
    image: Digest,
    name: String,
    mount: OwnedFd,
}

impl Ahead {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().expect("what is made ahead does not panic")
    }

    /// The mount of a container that was made ahead, if it is mounted as wanted; it is nobody else's from then on.
    pub(crate) fn mount(&self, id: &ContainerId, options: MountOptions<'_>) -> Option<OwnedFd> {
        let mount = self.lock().mounted.remove(id);
        mount.filter(|_| options == OPTIONS)
    }

    /// Lets go of a container's mount.
    pub(crate) fn forget(&self, id: &ContainerId) {
        self.lock().mounted.remove(id);
    }
}

impl Store {
    /// Makes the file system of the next container of this image that is thrown away, unless it is there. Blocks.
    pub fn make_ahead(&self, image: &Digest) -> Result<()> {
        if self.driver != Driver::Overlay {
            return Ok(());
        }
        let mut state = self.ahead.lock();
        if state.spare.as_ref().is_some_and(|spare| spare.image == *image) || state.mounted.len() >= MAX_MOUNTED {
            return Ok(());
        }
        self.discard_ahead(state.spare.take())?;
        // Under the lock: a removal of the image that comes now finds what is made here, one that came before is seen.
        let (layers, meta) = self.layers_of(Some(image))?;
        let (name, directory) = (random_name(), self.root.join(DIRECTORY));
        let path = directory.join(&name);
        let parent = open_dir(&directory).at("open", directory.display())?;
        let made = self.make_files(parent.as_fd(), &name, Some(image), &layers, meta);
        let mounted = made.and_then(|()| {
            let lower: Vec<_> = layers.iter().cloned().chain([self.init_path(Some(image))]).collect();
            overlay::mount(&lower, &path.join("upper"), &path.join("work"), OPTIONS)
        });
        match mounted {
            Ok(mount) => state.spare = Some(Spare { image: image.clone(), name, mount }),
            Err(error) => {
                self.discard(&path)?;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Makes the file system of a container of what was made ahead for its image, if there is such.
    pub(crate) fn take_ahead(&self, id: &ContainerId, image: Option<&Digest>) -> bool {
        let mut state = self.ahead.lock();
        let Some(spare) = state.spare.take_if(|spare| Some(&spare.image) == image) else { return false };
        let from = self.root.join(DIRECTORY).join(&spare.name);
        if rustix::fs::renameat(rustix::fs::CWD, &from, &self.containers, id.as_str()).is_err() {
            // One is made as without it, and tells what is wrong.
            return false;
        }
        state.mounted.insert(id.clone(), spare.mount);
        true
    }

    /// Deletes what was made ahead, of one image or whatever it is of: its layers go or change.
    pub(crate) fn forget_ahead(&self, image: Option<&Digest>) -> Result<()> {
        let spare = self.ahead.lock().spare.take_if(|spare| image.is_none_or(|image| spare.image == *image));
        self.discard_ahead(spare)
    }

    fn discard_ahead(&self, spare: Option<Spare>) -> Result<()> {
        spare.map_or(Ok(()), |spare| self.discard(&self.root.join(DIRECTORY).join(&spare.name)))
    }
}
