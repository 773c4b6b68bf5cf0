//! Mounts: from the specification's text to detached mounts, made as far as possible before the clone.
//!
//! Sources of bind mounts are cloned in the host's mount namespace by the parent; file systems that depend on the
//! container's namespaces are made by the child. Either way the result is a detached mount, attached by descriptor
//! ([`attach`]): no path is ever handed to mount(2), so no link or race inside the container can redirect one
//! (CVE-2021-30465, CVE-2019-19921, CVE-2023-27561).

use crate::error::{Error, FailureReason, Result, StartFailure};
use crate::lookup::errno_text;
use crate::spec;
use naru_sys::mount::{SetAttr, attr, set_attributes};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Options of one mount, by what becomes of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub set: u64,
    pub clear: u64,
    pub recursive_set: u64,
    pub recursive_clear: u64,
    /// `MS_*` and whether for the whole tree.
    pub propagation: Option<(u64, bool)>,
    pub bind: bool,
    pub recursive_bind: bool,
    /// Start with the content of the directory covered.
    pub copy_up: bool,
    /// An idmapped mount, and whether the whole tree.
    pub idmap: Option<bool>,
    /// For the file system itself; a value or a flag.
    pub data: Vec<(String, Option<String>)>,
}

const MS_UNBINDABLE: u64 = 1 << 17;
pub(crate) const MS_PRIVATE: u64 = 1 << 18;
const MS_SLAVE: u64 = 1 << 19;
const MS_SHARED: u64 = 1 << 20;

/// Name, bits to clear, bits to set.
const ATTRIBUTES: &[(&str, u64, u64)] = &[
    ("ro", 0, attr::RDONLY),
    ("rw", attr::RDONLY, 0),
    ("nosuid", 0, attr::NOSUID),
    ("suid", attr::NOSUID, 0),
    ("nodev", 0, attr::NODEV),
    ("dev", attr::NODEV, 0),
    ("noexec", 0, attr::NOEXEC),
    ("exec", attr::NOEXEC, 0),
    ("noatime", attr::ATIME, attr::NOATIME),
    ("atime", attr::ATIME, attr::RELATIME),
    ("relatime", attr::ATIME, attr::RELATIME),
    ("norelatime", attr::ATIME, attr::STRICTATIME),
    ("strictatime", attr::ATIME, attr::STRICTATIME),
    ("nostrictatime", attr::ATIME, attr::RELATIME),
    ("nodiratime", 0, attr::NODIRATIME),
    ("diratime", attr::NODIRATIME, 0),
    ("nosymfollow", 0, attr::NOSYMFOLLOW),
    ("symfollow", attr::NOSYMFOLLOW, 0),
];

/// Propagation by name.
pub(crate) fn propagation(name: &str) -> Option<(u64, bool)> {
    let (kind, recursive) = match name.strip_prefix('r') {
        Some(rest) => (rest, true),
        None => (name, false),
    };
    let flag = match kind {
        "private" => MS_PRIVATE,
        "slave" => MS_SLAVE,
        "shared" => MS_SHARED,
        "unbindable" => MS_UNBINDABLE,
        _ => return None,
    };
    Some((flag, recursive))
}

impl Options {
    pub(crate) fn parse(options: &[String]) -> Options {
        let mut parsed = Options::default();
        for option in options {
            let attribute = |name: &str| ATTRIBUTES.iter().find(|(known, ..)| *known == name);
            if let Some((_, clear, set)) = attribute(option) {
                (parsed.set, parsed.clear) = change(parsed.set, parsed.clear, *set, *clear);
            } else if let Some((_, clear, set)) = option.strip_prefix('r').and_then(attribute) {
                (parsed.recursive_set, parsed.recursive_clear) = change(parsed.recursive_set, parsed.recursive_clear, *set, *clear);
            } else if let Some(found) = propagation(option) {
                parsed.propagation = Some(found);
            } else {
                match option.as_str() {
                    "bind" => parsed.bind = true,
                    "rbind" => (parsed.bind, parsed.recursive_bind) = (true, true),
                    "tmpcopyup" => parsed.copy_up = true,
                    "idmap" => parsed.idmap = Some(false),
                    "ridmap" => parsed.idmap = Some(true),
                    // Words for the mount program, not for the kernel.
                    "" | "defaults" | "auto" | "noauto" | "nofail" | "_netdev" => {}
                    other => parsed.data.push(match other.split_once('=') {
                        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                        None => (other.to_owned(), None),
                    }),
                }
            }
        }
        parsed
    }

    pub(crate) fn has_changes(&self) -> bool {
        self.set | self.clear != 0
    }
}

/// The later option wins.
fn change(set: u64, clear: u64, more_set: u64, more_clear: u64) -> (u64, u64) {
    // The access-time values share a field, which is cleared as a whole whenever one is chosen.
    let set = set & !more_clear | more_set;
    let clear = (clear & !more_set) | more_clear;
    (set, clear)
}

/// A mount of the container, ready for the child.
#[derive(Debug)]
pub(crate) struct Planned {
    pub destination: PathBuf,
    /// For messages.
    pub source: String,
    pub what: What,
    pub options: Options,
}

#[derive(Debug)]
pub(crate) enum What {
    /// Cloned from the host.
    Tree { tree: OwnedFd, directory: bool },
    /// To be made in the child's namespaces.
    FileSystem { kind: String },
    /// A tmpfs with one directory per v1 hierarchy: its name and the container's part of it.
    CgroupV1 { views: Vec<(String, OwnedFd)> },
}

/// Docker's words for a mount that cannot be made.
pub(crate) fn mount_failure(source: &str, destination: &Path, errno: Errno) -> StartFailure {
    let hint = match errno {
        Errno::NOTDIR => {
            ": Are you trying to mount a directory onto a file (or vice-versa)? Check if the specified host path exists and is the expected type"
        }
        _ => "",
    };
    // Whatever is missing here, it is not the program: a client must not take it for exit code 127.
    StartFailure {
        reason: FailureReason::Other,
        message: format!("error mounting {source:?} to rootfs at {:?}: {}{hint}", destination.display().to_string(), errno_text(errno)),
    }
}

/// Clones a tree of the host, with its attributes changed as the options say.
pub(crate) fn clone_tree(source: &Path, options: &Options, user_namespace: Option<BorrowedFd<'_>>) -> Result<(OwnedFd, bool), Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if options.recursive_bind {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = rustix::mount::open_tree(rustix::fs::CWD, source, flags)?;
    let directory = FileType::from_raw_mode(rustix::fs::fstat(&tree)?.st_mode) == FileType::Directory;
    change_tree(tree.as_fd(), options, user_namespace)?;
    Ok((tree, directory))
}

/// Applies attributes and propagation to a detached tree; private all the way unless the options say otherwise.
fn change_tree(tree: BorrowedFd<'_>, options: &Options, user_namespace: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    if options.recursive_set | options.recursive_clear != 0 {
        set_attributes(
            tree,
            SetAttr { set: options.recursive_set, clear: options.recursive_clear, recursive: true, ..SetAttr::default() },
        )?;
    }
    if options.has_changes() {
        set_attributes(tree, SetAttr { set: options.set, clear: options.clear, ..SetAttr::default() })?;
    }
    let (propagation, recursive) = options.propagation.unwrap_or((MS_PRIVATE, true));
    set_attributes(tree, SetAttr { propagation, recursive, ..SetAttr::default() })?;
    if let (Some(recursive), Some(_)) = (options.idmap, user_namespace) {
        set_attributes(tree, SetAttr { set: attr::IDMAP, user_namespace, recursive, ..SetAttr::default() })?;
    }
    Ok(())
}

/// Makes a file system as a detached mount in the namespaces of the caller.
pub(crate) fn make(kind: &str, source: &str, options: &Options, hold_back: u64) -> Result<OwnedFd, Errno> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    if !source.is_empty() {
        rustix::mount::fsconfig_set_string(context.as_fd(), "source", source)?;
    }
    for (key, value) in &options.data {
        match value {
            // "newinstance" is history: every devpts is one.
            None if kind == "devpts" && key == "newinstance" => {}
            None => rustix::mount::fsconfig_set_flag(context.as_fd(), key.as_str())?,
            Some(value) => rustix::mount::fsconfig_set_string(context.as_fd(), key.as_str(), value.as_str())?,
        }
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::from_bits_retain(((options.set | options.recursive_set) & !hold_back) as u32);
    rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Attaches a detached mount (or moves an attached one) on top of what `target` refers to.
pub(crate) fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", target, "", flags)
}

/// A clone of the mount or file `of`, which must be in our mount namespace.
pub(crate) fn clone_of(of: BorrowedFd<'_>, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(of, "", flags)
}

/// What a plan of mounts needs to know of the container.
pub(crate) struct Host<'a> {
    /// Where relative sources start.
    pub bundle: &'a Path,
    /// The cgroup's directories if they are of v1 or hybrid.
    pub cgroup_v1: Option<Vec<(String, PathBuf)>>,
    /// Whether propagation of the root is shared or slave, which bind mounts without a word of their own then keep.
    pub keep_propagation: bool,
    /// For idmapped mounts.
    pub user_namespace: Option<BorrowedFd<'a>>,
    /// SELinux label of file systems that are made for the container.
    pub label: Option<&'a str>,
}

/// File systems that take no label as an option: one instance is seen by many (runc has the same list).
const LABELLED_BY_POLICY: [&str; 4] = ["proc", "sysfs", MESSAGE_QUEUES, "cgroup2"];

/// The file system of POSIX message queues: its root is labelled.
pub(crate) const MESSAGE_QUEUES: &str = "mqueue";

/// Plans one mount.
pub(crate) fn plan(mount: &spec::Mount, host: &Host<'_>) -> Result<Planned> {
    let mut options = Options::parse(&mount.options);
    let destination = PathBuf::from(&mount.destination);
    if mount.destination.is_empty() {
        return Err(Error::Invalid("a mount has no destination".into()));
    }
    let bind = options.bind || mount.kind == "bind";
    let what = if bind {
        if let Some((key, _)) = options.data.first() {
            return Err(Error::Invalid(format!("the bind mount of {:?} has an unknown option {key:?}", mount.source)));
        }
        if options.propagation.is_none() && host.keep_propagation {
            options.propagation = Some((MS_SLAVE, true));
        }
        let source = host.bundle.join(&mount.source);
        let (tree, directory) = clone_tree(&source, &options, host.user_namespace)
            .map_err(|errno| Error::Start(mount_failure(&mount.source, &destination, errno)))?;
        What::Tree { tree, directory }
    } else {
        let label = host.label.map(|label| ("context".to_owned(), Some(label.to_owned())));
        match (mount.kind.as_str(), &host.cgroup_v1) {
            ("cgroup" | "cgroup2", Some(views)) => {
                // Links such as cpu -> cpu,cpuacct live in the tmpfs.
                options.set &= !attr::NOSYMFOLLOW;
                options.data = label.into_iter().collect();
                let tree = |(name, path): &(String, PathBuf)| {
                    let failed = |errno| Error::Start(mount_failure(&path.display().to_string(), &destination, errno));
                    Ok((name.clone(), clone_tree(path, &options, None).map_err(failed)?.0))
                };
                What::CgroupV1 { views: views.iter().map(tree).collect::<Result<Vec<_>>>()? }
            }
            ("cgroup", None) => {
                options.data.clear();
                What::FileSystem { kind: "cgroup2".into() }
            }
            ("", _) => return Err(Error::Invalid(format!("the mount at {} has no type", destination.display()))),
            (kind, _) => {
                if !LABELLED_BY_POLICY.contains(&kind) {
                    options.data.extend(label);
                }
                What::FileSystem { kind: kind.into() }
            }
        }
    };
    Ok(Planned { destination, source: if mount.source.is_empty() { mount.kind.clone() } else { mount.source.clone() }, what, options })
}

/// A read-only, empty directory to hide others with.
pub(crate) fn empty_directory(label: Option<&str>) -> Result<OwnedFd, Errno> {
    let data = [("nr_blocks", "1"), ("nr_inodes", "1"), ("mode", "0555")].into_iter().chain(label.map(|label| ("context", label)));
    let options = Options {
        set: attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC,
        data: data.map(|(key, value)| (key.to_owned(), Some(value.to_owned()))).collect(),
        ..Options::default()
    };
    make("tmpfs", "tmpfs", &options, 0)
}

/// The host's `/dev/null` as a detached mount; checked to be the real one.
pub(crate) fn null_device() -> Result<OwnedFd, Errno> {
    let null = rustix::fs::open("/dev/null", OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let status = rustix::fs::fstat(&null)?;
    if FileType::from_raw_mode(status.st_mode) != FileType::CharacterDevice || status.st_rdev != rustix::fs::makedev(1, 3) {
        return Err(Errno::NODEV);
    }
    let clone = clone_of(null.as_fd(), false)?;
    set_attributes(clone.as_fd(), SetAttr { set: attr::NOSUID | attr::NOEXEC, propagation: MS_PRIVATE, ..SetAttr::default() })?;
    Ok(clone)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> Options {
        Options::parse(&options.iter().map(|&option| option.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn options_by_what_becomes_of_them() {
        assert_eq!(parse(&["ro", "nosuid"]).set, attr::RDONLY | attr::NOSUID);
        let later = parse(&["ro", "rw"]);
        assert_eq!((later.set, later.clear), (0, attr::RDONLY));
        let atime = parse(&["noatime", "strictatime"]);
        assert_eq!((atime.set, atime.clear), (attr::STRICTATIME, attr::ATIME));
        assert_eq!(parse(&["rro"]).recursive_set, attr::RDONLY);
        assert_eq!(parse(&["relatime"]).recursive_set, 0);
        let bind = parse(&["rbind", "rslave"]);
        assert!(bind.bind && bind.recursive_bind && bind.data.is_empty());
        assert_eq!(bind.propagation, Some((MS_SLAVE, true)));
        assert_eq!(parse(&["private"]).propagation, Some((MS_PRIVATE, false)));
        let data = parse(&["size=64m", "newinstance", "defaults"]).data;
        assert_eq!(data, [("size".to_owned(), Some("64m".to_owned())), ("newinstance".to_owned(), None)]);
    }
}
