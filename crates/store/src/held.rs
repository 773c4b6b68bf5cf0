//! Containers' files that are being read, which a removal of the container leaves until then.
//!
//! A removal of what is held only makes a mark; the last holder removes. The mark is in memory alone: after a crash the files
//! are those of a container that the engine does not know.

use crate::error::{Error, Result};
use crate::store::Store;
use naru_types::ContainerId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Who holds which container's files.
#[derive(Debug, Default)]
pub(crate) struct Holders(pub(crate) Mutex<HashMap<ContainerId, Holder>>);

#[derive(Debug, Default)]
pub(crate) struct Holder {
    count: usize,
    /// The container is removed.
    pub(crate) removed: bool,
}

/// The files of a container, which stay as long as this does.
#[derive(Debug)]
pub struct Held {
    store: Arc<Store>,
    id: ContainerId,
}

impl Store {
    /// Keeps the files of a container, unless it is removed already.
    pub fn hold(self: &Arc<Self>, id: &ContainerId) -> Result<Held> {
        let mut holders = self.holders.0.lock().expect("holders are counted without a panic");
        let removed = holders.get(id).is_some_and(|holder| holder.removed);
        // In this order: a removal holds the lock until the files are not there.
        if removed || !self.has_snapshot(id) {
            return Err(Error::NoSuchSnapshot { id: id.to_string() });
        }
        holders.entry(id.clone()).or_default().count += 1;
        Ok(Held { store: Arc::clone(self), id: id.clone() })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Ok(mut holders) = self.store.holders.0.lock() else { return };
        let Some(holder) = holders.get_mut(&self.id) else { return };
        holder.count -= 1;
        if holder.count == 0 {
            let removed = holder.removed;
            holders.remove(&self.id);
            drop(holders);
            if removed {
                // What stays is found when the store is opened again.
                self.store.remove_snapshot(&self.id).ok();
            }
        }
    }
}
