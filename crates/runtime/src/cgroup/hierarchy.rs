//! Which hierarchies are mounted; looked up once, as they do not change while the system runs.

use crate::error::{Error, Result};
use std::path::PathBuf;
use std::sync::OnceLock;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub version: Version,
    /// Of v1 those it was mounted with (`name=systemd` included), of v2 those available at the root.
    pub controllers: Vec<String>,
    pub root: PathBuf,
}

/// How the host has mounted its cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Version 1 only.
    V1,
    /// Controllers in version 1, version 2 for its other abilities.
    Hybrid,
    /// Version 2 only.
    V2,
}

static HIERARCHIES: OnceLock<Vec<Hierarchy>> = OnceLock::new();

pub(super) fn hierarchies() -> Result<&'static [Hierarchy]> {
    if let Some(known) = HIERARCHIES.get() {
        return Ok(known);
    }
    let text = std::fs::read_to_string("/proc/self/mountinfo").map_err(Error::io("read /proc/self/mountinfo"))?;
    Ok(HIERARCHIES.get_or_init(|| parse(&text)))
}

fn parse(mountinfo: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((mount, filesystem)) = line.split_once(" - ") else { continue };
        let mut mount = mount.split(' ');
        let (Some(root), Some(point)) = (mount.nth(3), mount.next()) else { continue };
        let mut filesystem = filesystem.split(' ');
        let (Some(kind), Some(_), Some(options)) = (filesystem.next(), filesystem.next(), filesystem.next()) else { continue };
        // Only mounts of whole hierarchies at their usual place; others belong to containers and chroots.
        if !point.starts_with("/sys/fs/cgroup") || root != "/" {
            continue;
        }
        let hierarchy = match kind {
            "cgroup2" => {
                let available = std::fs::read_to_string(format!("{point}/cgroup.controllers")).unwrap_or_default();
                let controllers = available.split_whitespace().map(str::to_owned).collect();
                Hierarchy { version: Version::V2, controllers, root: PathBuf::from(point) }
            }
            "cgroup" => {
                const NOT_CONTROLLERS: [&str; 8] =
                    ["rw", "ro", "xattr", "clone_children", "noprefix", "none", "cpuset_v2_mode", "favordynmods"];
                let names = options.split(',').filter(|name| !NOT_CONTROLLERS.contains(name) && !name.starts_with("release_agent="));
                Hierarchy { version: Version::V1, controllers: names.map(str::to_owned).collect(), root: PathBuf::from(point) }
            }
            _ => continue,
        };
        if !found.iter().any(|known| known.version == hierarchy.version && known.controllers == hierarchy.controllers) {
            found.push(hierarchy);
        }
    }
    found
}

/// The layout of this host.
pub fn layout() -> Result<Layout> {
    let all = hierarchies()?;
    let v1 = all.iter().any(|hierarchy| hierarchy.version == Version::V1);
    let v2 = all.iter().any(|hierarchy| hierarchy.version == Version::V2);
    match (v1, v2) {
        (true, true) => Ok(Layout::Hybrid),
        (true, false) => Ok(Layout::V1),
        (false, true) => Ok(Layout::V2),
        (false, false) => Err(Error::Unsupported("no cgroup hierarchy is mounted".into())),
    }
}

/// The controllers that limits can be set with, e.g. for `docker info`.
pub fn available_controllers() -> Result<Vec<String>> {
    let mut names: Vec<String> =
        hierarchies()?.iter().flat_map(|hierarchy| hierarchy.controllers.clone()).filter(|name| !name.starts_with("name=")).collect();
    names.sort();
    names.dedup();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_a_hybrid_host() {
        let text = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
                    40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime shared:3 - cgroup cgroup rw,xattr,release_agent=/x,name=systemd\n\
                    41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n\
                    46 45 0:29 / /opt/peers/sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
                    47 45 0:29 /x /sys/fs/cgroup/y rw - cgroup cgroup rw,memory\n";
        let found = parse(text);
        assert_eq!(found.len(), 3);
        assert_eq!(found[0].controllers, ["cpu", "cpuacct"]);
        assert_eq!(found[1].controllers, ["name=systemd"]);
        assert_eq!(found[2].version, Version::V2);
    }
}
