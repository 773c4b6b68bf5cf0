//! `-v`, `--mount`, `--tmpfs` and image volumes to mounts, with Docker's words (moby `volume/mounts`).

use super::super::error::{ApiError, Result};
use naru_api::models::{ContainerConfig, HostConfig, Mount};
use naru_engine::spec::{MountSource, MountSpec, Relabel};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const PROPAGATIONS: [&str; 6] = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];

/// All mounts of a container: binds, `--mount`, tmpfs, then volumes for what is left of the image's.
pub fn mounts(config: &ContainerConfig, host: &HostConfig) -> Result<Vec<MountSpec>> {
    if !matches!(host.volume_driver.as_str(), "" | "local") {
        return Err(ApiError::invalid(format!("volume driver {:?} is not built in; only \"local\" is", host.volume_driver)));
    }
    let mut list = Vec::new();
    for bind in host.binds.iter().flatten() {
        add(&mut list, parse_bind(bind)?)?;
    }
    for mount in host.mounts.iter().flatten() {
        add(&mut list, from_mount(mount)?)?;
    }
    for (target, options) in host.tmpfs.iter().flatten() {
        let options: Vec<String> = options.split(',').filter(|option| !option.is_empty()).map(str::to_owned).collect();
        check_tmpfs_options(&options)?;
        let read_only = options.iter().any(|option| option == "ro");
        add(&mut list, MountSpec { target: clean_target(target)?, source: MountSource::Tmpfs { options }, read_only, relabel: None })?;
    }
    for target in config.volumes.iter().flatten().map(|(target, _)| target) {
        // `src:dst` in Volumes is an old way of binds that Docker refuses too.
        let target = clean_target(target)?;
        if !list.iter().any(|mount| mount.target == target) {
            list.push(MountSpec { target, source: anonymous(true), read_only: false, relabel: Some(Relabel::Shared) });
        }
    }
    Ok(list)
}

fn add(list: &mut Vec<MountSpec>, mount: MountSpec) -> Result<()> {
    if list.iter().any(|other| other.target == mount.target) {
        return Err(ApiError::invalid(format!("Duplicate mount point: {}", mount.target)));
    }
    list.push(mount);
    Ok(())
}

fn anonymous(copy: bool) -> MountSource {
    MountSource::Volume { name: String::new(), anonymous: true, copy, subpath: None, labels: BTreeMap::new(), options: BTreeMap::new() }
}

/// The target as an absolute path without `.`, `..` and doubled slashes; places the runtime keeps for itself are refused.
pub fn clean_target(target: &str) -> Result<String> {
    let bad = |reason: &str| ApiError::invalid(format!("invalid mount config: target {target:?}: {reason}"));
    if !target.starts_with('/') {
        return Err(ApiError::invalid(format!("invalid mount path: '{target}' mount path must be absolute")));
    }
    if target.contains('\0') {
        return Err(bad("contains a NUL byte"));
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    if parts.is_empty() {
        return Err(ApiError::invalid("invalid specification: destination can't be '/'"));
    }
    // A faked /proc would redirect what the runtime writes there (CVE-2019-16884, CVE-2019-19921).
    if parts == ["proc"] || parts == ["sys"] || parts == ["dev"] {
        return Err(bad("the runtime mounts that itself"));
    }
    if parts[0] == "proc" && !naru_runtime::defaults::MOUNTABLE_IN_PROC.contains(&parts[1..].join("/").as_str()) {
        return Err(bad("it is inside /proc"));
    }
    Ok(format!("/{}", parts.join("/")))
}

fn bad_bind(bind: &str) -> ApiError {
    ApiError::invalid(format!("invalid volume specification: '{bind}'"))
}

/// `[source:]target[:options]`.
fn parse_bind(bind: &str) -> Result<MountSpec> {
    let parts: Vec<&str> = bind.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => ("", target, ""),
        [source, target] if !target.is_empty() => (source, target, ""),
        [source, target, options] if !target.is_empty() => (source, target, options),
        _ => return Err(bad_bind(bind)),
    };
    if source.is_empty() && parts.len() > 1 {
        return Err(bad_bind(bind));
    }
    let target = clean_target(target)?;
    let (mut read_only, mut copy, mut propagation, mut access_seen) = (false, true, String::new(), false);
    // Volumes are there for all containers.
    let mut relabel = (!source.starts_with('/')).then_some(Relabel::Shared);
    let (mut relabel_seen, mut consistency_seen) = (false, false);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" | "rw" if !access_seen => {
                access_seen = true;
                read_only = option == "ro";
            }
            "nocopy" if !source.starts_with('/') => copy = false,
            "z" | "Z" if !relabel_seen => {
                relabel_seen = true;
                relabel = Some(if option == "z" { Relabel::Shared } else { Relabel::Private });
            }
            // Hints for hosts that share files with a virtual machine.
            "cached" | "delegated" | "consistent" if !consistency_seen => consistency_seen = true,
            option if PROPAGATIONS.contains(&option) && propagation.is_empty() && source.starts_with('/') => {
                propagation = option.to_owned()
            }
            _ => return Err(ApiError::invalid(format!("invalid mode: {options}"))),
        }
    }
    let source = match source {
        "" => anonymous(copy),
        path if path.starts_with('/') => {
            MountSource::Bind { path: PathBuf::from(path), create: true, propagation, recursive: true, recursive_read_only: false }
        }
        name => MountSource::Volume {
            name: volume_name(name)?,
            anonymous: false,
            copy,
            subpath: None,
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
        },
    };
    Ok(MountSpec { target, source, read_only, relabel })
}

fn volume_name(name: &str) -> Result<String> {
    if name.len() == 1 {
        return Err(ApiError::invalid(format!(
            "create {name}: volume name is too short, names should be at least two alphanumeric characters"
        )));
    }
    name.parse::<naru_types::Name>().map(|name| name.as_str().to_owned()).map_err(|_| {
        ApiError::invalid(format!(
            "create {name}: {name:?} includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
        ))
    })
}

fn from_mount(mount: &Mount) -> Result<MountSpec> {
    let bad = |reason: &str| ApiError::invalid(format!("invalid mount config for type {:?}: {reason}", mount.r#type));
    if mount.target.is_empty() {
        return Err(bad("field Target must not be empty"));
    }
    let target = clean_target(&mount.target).map_err(|error| bad(&error.message))?;
    let source = match mount.r#type.as_str() {
        "bind" => {
            if mount.source.is_empty() {
                return Err(bad("field Source must not be empty"));
            }
            if !mount.source.starts_with('/') {
                return Err(bad(&format!("invalid mount path: '{}' mount path must be absolute", mount.source)));
            }
            if mount.volume_options.is_some() || mount.tmpfs_options.is_some() {
                return Err(bad("field VolumeOptions or TmpfsOptions must not be specified"));
            }
            let options = mount.bind_options.clone().unwrap_or_default();
            if !options.propagation.is_empty() && !PROPAGATIONS.contains(&options.propagation.as_str()) {
                return Err(bad(&format!("invalid propagation mode: {}", options.propagation)));
            }
            let path = PathBuf::from(&mount.source);
            if !options.create_mountpoint && !path.exists() {
                return Err(bad(&format!("bind source path does not exist: {}", mount.source)));
            }
            MountSource::Bind {
                path,
                create: options.create_mountpoint,
                propagation: options.propagation,
                recursive: !options.non_recursive,
                recursive_read_only: options.read_only_force_recursive,
            }
        }
        "volume" => {
            if mount.bind_options.is_some() || mount.tmpfs_options.is_some() {
                return Err(bad("field BindOptions or TmpfsOptions must not be specified"));
            }
            let options = mount.volume_options.clone().unwrap_or_default();
            let driver = options.driver_config.unwrap_or_default();
            if !matches!(driver.name.as_str(), "" | "local") {
                return Err(bad(&format!("volume driver {:?} is not built in; only \"local\" is", driver.name)));
            }
            let outside = |part| !matches!(part, std::path::Component::Normal(_) | std::path::Component::CurDir);
            if Path::new(&options.subpath).components().any(outside) {
                return Err(bad("subpath must be a relative path within the volume"));
            }
            MountSource::Volume {
                name: if mount.source.is_empty() { String::new() } else { volume_name(&mount.source)? },
                anonymous: mount.source.is_empty(),
                copy: !options.no_copy,
                subpath: Some(options.subpath).filter(|path| !path.is_empty()),
                labels: options.labels.unwrap_or_default(),
                options: driver.options.unwrap_or_default(),
            }
        }
        "tmpfs" => {
            if !mount.source.is_empty() {
                return Err(bad("field Source must not be specified"));
            }
            let wanted = mount.tmpfs_options.clone().unwrap_or_default();
            let mut options = Vec::new();
            if wanted.size_bytes > 0 {
                options.push(format!("size={}", wanted.size_bytes));
            }
            if wanted.mode != 0 {
                options.push(format!("mode={:o}", wanted.mode));
            }
            options.extend(wanted.options.iter().flatten().map(|pair| pair.join("=")));
            check_tmpfs_options(&options)?;
            MountSource::Tmpfs { options }
        }
        "image" => return Err(bad("this type of mount is not built into this version; use bind, volume or tmpfs")),
        _ => return Err(bad("mount type unknown")),
    };
    let relabel = matches!(source, MountSource::Volume { .. }).then_some(Relabel::Shared);
    Ok(MountSpec { target, source, read_only: mount.read_only, relabel })
}

fn check_tmpfs_options(options: &[String]) -> Result<()> {
    for option in options {
        let key = option.split('=').next().unwrap_or_default();
        let flags = [
            "ro",
            "rw",
            "exec",
            "noexec",
            "suid",
            "nosuid",
            "dev",
            "nodev",
            "sync",
            "async",
            "atime",
            "noatime",
            "diratime",
            "nodiratime",
            "relatime",
            "norelatime",
            "strictatime",
            "nostrictatime",
            "defaults",
            "size",
            "mode",
            "uid",
            "gid",
            "nr_inodes",
            "nr_blocks",
            "mpol",
            "huge",
        ];
        if !(flags.contains(&key) || PROPAGATIONS.contains(&key) || key == "unbindable" || key == "runbindable") {
            return Err(ApiError::invalid(format!("invalid tmpfs option {option:?}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds() {
        let named = parse_bind("data:/x/../y/:ro,nocopy").unwrap();
        assert_eq!((named.target.as_str(), named.read_only), ("/y", true));
        assert!(matches!(named.source, MountSource::Volume { ref name, copy: false, .. } if name == "data"));
        let bind = parse_bind("/a:/b:rslave").unwrap();
        assert!(matches!(bind.source, MountSource::Bind { ref propagation, create: true, .. } if propagation == "rslave"));
        assert!(matches!(parse_bind("/only").unwrap().source, MountSource::Volume { anonymous: true, .. }));
    }

    #[test]
    fn for_whom_a_source_is_labelled() {
        for (bind, relabel) in [
            ("/a:/b", None),
            ("/a:/b:ro", None),
            ("/a:/b:z", Some(Relabel::Shared)),
            ("/a:/b:ro,Z", Some(Relabel::Private)),
            ("data:/b", Some(Relabel::Shared)),
            ("data:/b:Z", Some(Relabel::Private)),
            ("/b", Some(Relabel::Shared)),
        ] {
            assert_eq!(parse_bind(bind).unwrap().relabel, relabel, "{bind}");
        }
    }

    #[test]
    fn refused() {
        for bind in [
            "",
            ":",
            "a:",
            ":/x",
            "a:b",
            "a:/",
            "/a:/proc",
            "/a:/b:zz",
            "/a:/b:ro,rw",
            "/a:/b:z,Z",
            "/a:/b:cached,delegated",
            "a/b:/x",
            "a:/b:c:d",
            "/a:/b:nocopy",
            "../x:/y",
            "/a:/proc/sys",
            "/a:/x/../proc/self/attr",
        ] {
            assert!(parse_bind(bind).is_err(), "{bind}");
        }
        for (kind, words) in [("image", "not built"), ("cluster", "mount type unknown"), ("npipe", "mount type unknown")] {
            let mount = Mount { r#type: kind.into(), source: "box:1".into(), target: "/x".into(), ..Mount::default() };
            let told = from_mount(&mount).unwrap_err().message;
            assert!(told.starts_with(&format!("invalid mount config for type \"{kind}\": ")) && told.contains(words), "{told}");
        }
        let host = HostConfig { binds: Some(vec!["/a:/x".into(), "vol:/x/".into()]), ..HostConfig::default() };
        assert!(mounts(&ContainerConfig::default(), &host).unwrap_err().message.contains("Duplicate mount point"));
    }
}
