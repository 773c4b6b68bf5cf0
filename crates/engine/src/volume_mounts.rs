//! Volumes with driver options (`type`, `device`, `o`): mounted at their data directory when first used.

use crate::error::{EngineError, Result};
use crate::volumes::Volume;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::collections::BTreeSet;
use std::ffi::CString;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Which volumes are mounted by this daemon.
#[derive(Debug, Default)]
pub struct VolumeMounts(Mutex<BTreeSet<String>>);

impl VolumeMounts {
    /// Mounts a volume that has options; any other needs none.
    pub fn mount(&self, volume: &Volume, at: &Path) -> Result<()> {
        let Some(device) = volume.options.get("device") else { return Ok(()) };
        let mut mounted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if mounted.contains(&volume.name) || is_mount_point(at) {
            return Ok(());
        }
        let kind = volume.options.get("type").map_or("none", String::as_str);
        let (flags, data) = parse_options(volume.options.get("o").map_or("", String::as_str));
        let data = CString::new(data).map_err(|_| EngineError::invalid(format!("volume {}: options contain a NUL byte", volume.name)))?;
        mount(device.as_str(), at, kind, flags, data.as_c_str()).map_err(|errno| EngineError::Io {
            what: "mount the volume's device at",
            path: at.to_owned(),
            source: std::io::Error::other(format!("{kind} {device}: {errno}")),
        })?;
        mounted.insert(volume.name.clone());
        Ok(())
    }

    /// Unmounts a volume that is about to be deleted.
    pub fn unmount(&self, name: &str, at: &Path) -> Result<()> {
        let mut mounted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if mounted.remove(name) || is_mount_point(at) {
            unmount(at, UnmountFlags::DETACH).map_err(|errno| EngineError::io("unmount", at)(errno.into()))?;
        }
        Ok(())
    }
}

/// True when something is mounted at the directory.
fn is_mount_point(path: &Path) -> bool {
    let id = |path: &Path| {
        rustix::fs::statx(rustix::fs::CWD, path, rustix::fs::AtFlags::SYMLINK_NOFOLLOW, rustix::fs::StatxFlags::MNT_ID)
            .ok()
            .map(|stat| stat.stx_mnt_id)
    };
    path.parent().is_some_and(|parent| id(path).is_some() && id(path) != id(parent))
}

/// Flags the mount system call takes, and the rest for the file system.
fn parse_options(text: &str) -> (MountFlags, String) {
    let mut flags = MountFlags::empty();
    let mut data = Vec::new();
    for option in text.split(',').filter(|option| !option.is_empty()) {
        match option {
            "bind" => flags |= MountFlags::BIND,
            "rbind" => flags |= MountFlags::BIND | MountFlags::REC,
            "ro" => flags |= MountFlags::RDONLY,
            "nosuid" => flags |= MountFlags::NOSUID,
            "nodev" => flags |= MountFlags::NODEV,
            "noexec" => flags |= MountFlags::NOEXEC,
            "noatime" => flags |= MountFlags::NOATIME,
            "rw" | "suid" | "dev" | "exec" | "defaults" => {}
            other => data.push(other),
        }
    }
    (flags, data.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_split_into_flags_and_data() {
        let (flags, data) = parse_options("size=10m,ro,uid=1000,nosuid");
        assert_eq!(flags, MountFlags::RDONLY | MountFlags::NOSUID);
        assert_eq!(data, "size=10m,uid=1000");
    }
}
