//! AppArmor: the default profile, and whether the kernel has a profile.
//!
//! The kernel takes profiles compiled. Ours lies compiled beside its text, so that no parser is executed and none has to be
//! installed; it is loaded when a container first needs it, and again when somebody has removed it. One of the same name
//! that is loaded already is left as it is: the host's administrator may have a stricter one.

use crate::error::{Error, Result, errno_of};
use rustix::fs::{Mode, OFlags};
use std::path::Path;

/// The profile of containers that ask for none.
pub const DEFAULT_PROFILE: &str = "naru-default";

/// The word for no profile.
pub const UNCONFINED: &str = "unconfined";

/// `apparmor/naru-default.profile`, whose head has the command.
static COMPILED: &[u8] = include_bytes!("apparmor/naru-default.bin");

/// The kernel's interface, where securityfs is mounted.
const FOLDER: &str = "/sys/kernel/security/apparmor";

/// Whether the kernel confines processes by AppArmor and lets profiles be managed here. Inside a container it often does
/// not; there the outer profile holds.
pub fn enabled() -> bool {
    active() && Path::new(FOLDER).exists()
}

/// Whether the kernel has AppArmor and it is on.
pub(crate) fn active() -> bool {
    std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.first() == Some(&b'Y'))
}

/// Sees to it that `profile` can be applied: the default one is loaded, another one must be there.
pub(crate) fn require(profile: &str) -> Result<()> {
    // Profiles of another namespace and stacks of several are the kernel's to judge.
    if profile == UNCONFINED || profile.starts_with(':') || profile.contains("//&") {
        return Ok(());
    }
    let path = Path::new(FOLDER).join("profiles");
    let loaded = match std::fs::read_to_string(&path) {
        Ok(text) => is_listed(&text, profile),
        // Without securityfs in sight the kernel says so when the profile is applied.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::path("read", path)(errno_of(&error))),
    };
    match loaded {
        true => Ok(()),
        false if profile == DEFAULT_PROFILE => load(),
        false => Err(Error::Invalid(format!(
            "the AppArmor profile {profile:?} is not loaded; load it with `apparmor_parser -r FILE`, or use apparmor=unconfined"
        ))),
    }
}

/// Lines as `naru-default (enforce)`.
fn is_listed(list: &str, profile: &str) -> bool {
    list.lines().any(|line| line.rsplit_once(" (").is_some_and(|(name, _)| name == profile))
}

fn load() -> Result<()> {
    let path = Path::new(FOLDER).join(".replace");
    let file = rustix::fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).map_err(Error::path("open", &path))?;
    // All of it in one write, as the kernel wants it.
    rustix::io::write(&file, COMPILED).map(drop).map_err(Error::path("load the AppArmor profile naru-default by", &path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_found_by_their_whole_name() {
        let list = "naru-default (enforce)\n/usr/bin/man (enforce)\nname with (words) (complain)\n";
        for name in ["naru-default", "/usr/bin/man", "name with (words)"] {
            assert!(is_listed(list, name), "{name}");
        }
        for name in ["naru", "naru-default (enforce)", "", "man"] {
            assert!(!is_listed(list, name), "{name}");
        }
    }
}
