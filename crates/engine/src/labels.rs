//! SELinux labels of containers: chosen when a container is made and kept in its specification, so that it has the same
//! ones all its life.
//!
//! The policy lets a container's processes use a container's files; that it is their own is said by the level, which has
//! two of 1024 categories (`s0:c7,c900`) that no other container has.

use crate::error::{EngineError, Result};
use crate::spec::ContainerSpec;
use crate::{EngineConfig, Inner};
use naru_runtime::selinux::{Context, Defaults, relabel_once};
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

const CATEGORIES: u32 = 1024;

/// Of the files of containers without a label for processes, as Docker has it: no confined container has these.
const UNCONFINED_LEVEL: &str = "s0:c1022,c1023";

/// Levels of containers that are being made, which nobody else knows yet.
#[derive(Debug, Default)]
pub(crate) struct Levels(Mutex<BTreeSet<String>>);

/// A level that no other container gets while this lives.
#[derive(Debug)]
pub(crate) struct Reserved<'a> {
    levels: &'a Levels,
    level: String,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.levels.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.level);
    }
}

impl Levels {
    /// A level that none of `known` is, which is asked for while no other level can be given away.
    fn reserve(&self, known: impl FnOnce() -> BTreeSet<String>) -> Result<Reserved<'_>> {
        let mut given = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known();
        let mut bytes = [0; 4];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .map_err(|errno| EngineError::io("read", "the kernel's random numbers")(errno.into()))?;
        // A random pair, or the next after it that is free.
        let (first, all) = (u32::from_ne_bytes(bytes) % (CATEGORIES * CATEGORIES), CATEGORIES * CATEGORIES);
        let level = (0..all)
            .map(|step| (first + step) % all)
            .filter_map(|number| level(number % CATEGORIES, number / CATEGORIES))
            .find(|level| !known.contains(level) && !given.contains(level))
            .ok_or_else(|| EngineError::conflict("every pair of SELinux categories is taken by a container; remove some"))?;
        given.insert(level.clone());
        Ok(Reserved { levels: self, level })
    }
}

/// The level of two categories, if they are two.
fn level(one: u32, other: u32) -> Option<String> {
    let level = format!("s0:c{},c{}", one.min(other), one.max(other));
    (one != other && level != UNCONFINED_LEVEL).then_some(level)
}

/// Labels what file systems of containers are made of. Overlayfs shows the container's label, but what is mapped into memory
/// the kernel judges by the file below.
pub(crate) fn label_store(config: &EngineConfig) -> Result<()> {
    let label = Defaults::read().layers.to_string();
    // Copied roots have their containers' labels.
    let containers = config.driver.labels_mounts().then_some("containers");
    for name in ["staging", "partial", "layers", "init"].into_iter().chain(containers) {
        let path = config.data_root.join(name);
        if path.exists() {
            relabel_once(&path, &label)?;
        }
    }
    Ok(())
}

/// Labels of a container's processes (empty for those of the daemon's choice, unconfined) and files.
#[derive(Debug, PartialEq, Eq)]
struct Labels {
    process: String,
    files: String,
}

/// What the options (`type:spc_t`, `disable`) make of the policy's contexts.
fn labels(options: &[String], defaults: &Defaults, level: &str) -> Result<Labels> {
    let (mut process, mut files) = (defaults.process.at(level), defaults.files.at(level));
    for option in options {
        if option == "disable" {
            return Ok(Labels { process: String::new(), files: defaults.files.at(UNCONFINED_LEVEL).to_string() });
        }
        let bad = || {
            EngineError::invalid(format!(
                "bad label option {option:?}, valid options 'disable' or \n'user, role, level, type, filetype' followed by ':' and a value"
            ))
        };
        let (key, value) = option.split_once(':').ok_or_else(bad)?;
        // It becomes a mount option and a line for the kernel: a level's signs are all it may have.
        if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.,:".contains(&byte)) {
            return Err(bad());
        }
        let value = value.to_owned();
        match key {
            "user" => (process.user, files.user) = (value.clone(), value),
            "role" => process.role = value,
            "type" => process.kind = value,
            "level" => (process.level, files.level) = (value.clone(), value),
            "filetype" => files.kind = value,
            _ => return Err(bad()),
        }
    }
    Ok(Labels { process: process.to_string(), files: files.to_string() })
}

impl Inner {
    /// Gives a new container its labels, where the engine labels containers. They are its own as long as what is returned
    /// lives, and from then on because the container is known.
    pub(crate) fn label(&self, spec: &mut ContainerSpec) -> Result<Option<Reserved<'_>>> {
        if !self.config.selinux {
            return Ok(None);
        }
        let level = |label: &str| label.parse::<Context>().ok().map(|context| context.level);
        let known = || self.views().iter().filter_map(|view| level(&view.spec.security.mount_label)).collect();
        let reserved = self.levels.reserve(known)?;
        let labels = labels(&spec.security.label, &Defaults::read(), &reserved.level)?;
        (spec.security.process_label, spec.security.mount_label) = (labels.process, labels.files);
        Ok(Some(reserved))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        let context = |text: &str| text.parse::<Context>().unwrap();
        let files = context("system_u:object_r:container_file_t:s0");
        let defaults = Defaults { process: context("system_u:system_r:container_t:s0"), layers: files.clone(), files };
        let of = |options: &[&str]| {
            let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
            labels(&options, &defaults, "s0:c1,c2").map(|labels| (labels.process, labels.files))
        };
        for (options, process, files) in [
            (&[][..], "system_u:system_r:container_t:s0:c1,c2", "system_u:object_r:container_file_t:s0:c1,c2"),
            (&["type:spc_t"], "system_u:system_r:spc_t:s0:c1,c2", "system_u:object_r:container_file_t:s0:c1,c2"),
            (&["user:u", "role:r"], "u:r:container_t:s0:c1,c2", "u:object_r:container_file_t:s0:c1,c2"),
            (&["level:s0:c7,c9"], "system_u:system_r:container_t:s0:c7,c9", "system_u:object_r:container_file_t:s0:c7,c9"),
            (&["level:s0"], "system_u:system_r:container_t:s0", "system_u:object_r:container_file_t:s0"),
            (&["filetype:svirt_file_t"], "system_u:system_r:container_t:s0:c1,c2", "system_u:object_r:svirt_file_t:s0:c1,c2"),
            (&["type:a", "type:b"], "system_u:system_r:b:s0:c1,c2", "system_u:object_r:container_file_t:s0:c1,c2"),
            (&["type:a", "disable"], "", "system_u:object_r:container_file_t:s0:c1022,c1023"),
        ] {
            assert_eq!(of(options).unwrap(), (process.to_owned(), files.to_owned()), "{options:?}");
        }
        for bad in ["", "type", "type:", "nested", "colour:red", "type:a b", "level:s0\",lowerdir=/", "type:a\0", "type:a\n"] {
            assert!(of(&[bad]).unwrap_err().to_string().starts_with("bad label option"), "{bad:?}");
        }
        let without = Defaults { process: context("u:r:t"), files: context("u:object_r:f"), layers: context("u:object_r:f") };
        assert_eq!(labels(&[], &without, "s0:c1,c2").unwrap(), Labels { process: "u:r:t".into(), files: "u:object_r:f".into() });
    }

    #[test]
    fn levels_are_two_categories_in_order() {
        assert_eq!(level(900, 7).as_deref(), Some("s0:c7,c900"));
        assert_eq!(level(7, 7), None);
        assert_eq!(level(1023, 1022), None);
    }

    #[test]
    fn a_level_is_nobody_else_s() {
        // All pairs but three are taken: by what is known, and by what is being made.
        let all: BTreeSet<String> = (0..CATEGORIES).flat_map(|one| (0..one).filter_map(move |other| level(one, other))).collect();
        assert_eq!(all.len(), 1024 * 1023 / 2 - 1);
        let free = ["s0:c0,c1", "s0:c5,c6", "s0:c1021,c1023"].map(str::to_owned);
        let taken: BTreeSet<String> = all.difference(&free.clone().into()).cloned().collect();
        let known = || taken.clone();
        let levels = Levels::default();
        let held: Vec<Reserved<'_>> = (0..3).map(|_| levels.reserve(known).unwrap()).collect();
        assert_eq!(held.iter().map(|reserved| reserved.level.clone()).collect::<BTreeSet<_>>(), free.clone().into());
        assert!(levels.reserve(known).unwrap_err().to_string().contains("every pair"));
        drop(held);
        assert!(free.contains(&levels.reserve(known).unwrap().level));
    }
}
