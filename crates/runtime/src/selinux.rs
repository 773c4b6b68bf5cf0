//! SELinux: whether the kernel has it, contexts as text, and the labels of files.
//!
//! The first process and execs get their label by `/proc/self/attr/exec`, mounts of the container's own by the option
//! `context`. Files of the host that a container shall use are labelled one by one: by descriptor, so that no link that
//! is put in the way leads anywhere, and never beyond the mount they lie on.

use crate::error::{Error, Result, errno_of};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, StatxFlags, XattrFlags};
use rustix::io::Errno;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::str::FromStr;

const ATTRIBUTE: &str = "security.selinux";

/// Directories within directories that are labelled; each is a descriptor.
const DEEPEST: usize = 400;

/// What the host itself needs as it is labelled: only what lies below may be given to containers (go-selinux has the same).
const NEVER: [&str; 24] = [
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/etc/passwd",
    "/etc/pki",
    "/etc/shadow",
    "/home",
    "/lib",
    "/lib64",
    "/media",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/var",
    "/var/lib",
    "/var/log",
];

/// Whether the kernel has SELinux and a policy for it.
pub fn enabled() -> bool {
    // Until a policy is loaded every label reads so.
    let without_policy = |label: &Vec<u8>| label.strip_suffix(b"\0").unwrap_or(label) == b"kernel";
    Path::new("/sys/fs/selinux/enforce").exists() && std::fs::read("/proc/self/attr/current").is_ok_and(|label| !without_policy(&label))
}

/// `user:role:type:level`; the level is empty where the policy has none.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are SELinux's")]
pub struct Context {
    pub user: String,
    pub role: String,
    pub kind: String,
    pub level: String,
}

impl Context {
    /// The same at another level; none where the policy has none.
    #[must_use]
    pub fn at(&self, level: &str) -> Context {
        let level = if self.level.is_empty() { String::new() } else { level.to_owned() };
        Context { level, ..self.clone() }
    }

    /// The same for the files that all containers may use.
    #[must_use]
    pub fn shared(&self) -> Context {
        self.at("s0")
    }
}

impl FromStr for Context {
    type Err = Error;

    fn from_str(text: &str) -> Result<Context> {
        let mut parts = text.splitn(4, ':').map(str::to_owned);
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(user), Some(role), Some(kind), level) => Ok(Context { user, role, kind, level: level.unwrap_or_default() }),
            _ => Err(Error::Invalid(format!(
                "{text:?} is no SELinux label: expected user:role:type, and :level where the policy has levels"
            ))),
        }
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.user, self.role, self.kind)?;
        if self.level.is_empty() { Ok(()) } else { write!(f, ":{}", self.level) }
    }
}

/// The policy's contexts for containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defaults {
    /// Of processes.
    pub process: Context,
    /// Of files.
    pub files: Context,
    /// Of the layers of images, which containers read and execute.
    pub layers: Context,
}

impl Defaults {
    /// What the policy's files say; what they leave open is named as container-selinux and the reference policy do.
    pub fn read() -> Defaults {
        let config = std::fs::read_to_string("/etc/selinux/config").unwrap_or_default();
        let kind = value(&config, "SELINUXTYPE").unwrap_or("targeted");
        let own = Path::new("/etc/selinux").join(kind).join("contexts/lxc_contexts");
        let text = std::fs::read_to_string("/usr/share/containers/selinux/contexts").or_else(|_| std::fs::read_to_string(own));
        Defaults::parse(&text.unwrap_or_default())
    }

    fn parse(text: &str) -> Defaults {
        let named = |key: &str| value(text, key).and_then(|label| label.parse::<Context>().ok());
        let default =
            |role: &str, kind: &str| Context { user: "system_u".into(), role: role.into(), kind: kind.into(), level: "s0".into() };
        let files = named("file").unwrap_or_else(|| default("object_r", "container_file_t"));
        Defaults {
            process: named("process").unwrap_or_else(|| default("system_r", "container_t")),
            layers: named("ro_file").unwrap_or_else(|| files.clone()),
            files,
        }
    }
}

/// The value of a line `key = "value"`.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let pair = |line: &'a str| line.split_once('=').map(|(key, value)| (key.trim(), value.trim().trim_matches('"')));
    text.lines().filter_map(pair).find(|(found, _)| *found == key).map(|(_, value)| value)
}

/// A label that a specification asks for, if any; it can only be had where there is SELinux.
pub(crate) fn require(label: &str) -> Result<Option<String>> {
    match label {
        "" => Ok(None),
        label if enabled() => Ok(Some(label.to_owned())),
        label => {
            Err(Error::Unsupported(format!("cannot apply the SELinux label {label:?}: the kernel has no SELinux, or no policy for it")))
        }
    }
}

/// Labels what is at `path`, and all below, for containers. A file system that has no labels is left as it is.
pub fn relabel(path: &Path, label: &str) -> Result<()> {
    let path = std::fs::canonicalize(path).map_err(|error| Error::path("find", path)(errno_of(&error)))?;
    if NEVER.iter().any(|kept| path == Path::new(kept)) {
        return Err(Error::Invalid(format!("SELinux relabeling of {} is not allowed", path.display())));
    }
    // What has become a link meanwhile leads nowhere.
    rustix::fs::openat2(rustix::fs::CWD, &path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::NO_SYMLINKS)
        .and_then(|top| label_tree(top.as_fd(), label))
        .map_err(Error::path("label", path))
}

/// The same, unless it has been done: what is made in a labelled directory has that label from the start.
pub fn relabel_once(path: &Path, label: &str) -> Result<()> {
    if present(path).as_deref() == Some(label) { Ok(()) } else { relabel(path, label) }
}

/// The same for what a descriptor stands for, wherever that is.
pub fn label_tree(top: BorrowedFd<'_>, label: &str) -> Result<(), Errno> {
    let (mount, kind) = place(top)?;
    match set(top, label) {
        Err(Errno::OPNOTSUPP) => return Ok(()),
        result => result?,
    }
    let mut open = Vec::new();
    if kind == FileType::Directory {
        open.push(directory(top)?);
    }
    while let Some(current) = open.last_mut() {
        let Some(entry) = current.read() else {
            open.pop();
            continue;
        };
        let entry = entry?;
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = match rustix::fs::openat(current.fd()?, entry.file_name(), flags, Mode::empty()) {
            // Deleted meanwhile.
            Err(Errno::NOENT) => continue,
            found => found?,
        };
        let (on, kind) = place(found.as_fd())?;
        if on != mount {
            continue;
        }
        set(found.as_fd(), label)?;
        if kind == FileType::Directory {
            if open.len() == DEEPEST {
                return Err(Errno::NAMETOOLONG);
            }
            open.push(directory(found.as_fd())?);
        }
    }
    Ok(())
}

/// Labels the root of a mount whose file system takes no `context`, because it belongs to a namespace.
pub(crate) fn label_mount(mount: BorrowedFd<'_>, label: &str) -> Result<(), Errno> {
    match set(mount, label) {
        Err(Errno::OPNOTSUPP) => Ok(()),
        result => result,
    }
}

/// The mount something is on, and what it is.
fn place(of: BorrowedFd<'_>) -> Result<(u64, FileType), Errno> {
    let stat = rustix::fs::statx(of, "", AtFlags::EMPTY_PATH, StatxFlags::TYPE | StatxFlags::MNT_ID)?;
    Ok((stat.stx_mnt_id, FileType::from_raw_mode(u32::from(stat.stx_mode))))
}

fn directory(of: BorrowedFd<'_>) -> Result<Dir, Errno> {
    let opened: OwnedFd = rustix::fs::openat(of, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    Dir::new(opened)
}

fn set(file: BorrowedFd<'_>, label: &str) -> Result<(), Errno> {
    // A descriptor that is only a path has no attributes of its own; procfs leads to the very file, also to a link.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    if present(path.as_ref()).as_deref() == Some(label) {
        return Ok(());
    }
    rustix::fs::setxattr(&path, ATTRIBUTE, label.as_bytes(), XattrFlags::empty())
}

/// The label that a file has, if it can be told.
fn present(path: &Path) -> Option<String> {
    let mut value = [0u8; 256];
    let length = rustix::fs::getxattr(path, ATTRIBUTE, &mut value[..]).ok()?;
    let label = std::str::from_utf8(&value[..length]).ok()?;
    Some(label.trim_end_matches('\0').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn contexts() {
        let full: Context = "system_u:system_r:container_t:s0:c1,c2".parse().unwrap();
        assert_eq!((full.kind.as_str(), full.level.as_str()), ("container_t", "s0:c1,c2"));
        assert_eq!(full.to_string(), "system_u:system_r:container_t:s0:c1,c2");
        assert_eq!(full.shared().to_string(), "system_u:system_r:container_t:s0");
        let without: Context = "u:r:t".parse().unwrap();
        assert_eq!(without.at("s0:c1,c2").to_string(), "u:r:t");
        for bad in ["", "kernel", "u:r"] {
            assert!(bad.parse::<Context>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_policy_s_contexts_come_first() {
        let text = "# for containers\nprocess = \"a:b:c:s0\"\ncontent = \"x:y:z:s0\"\nfile = \"d:e:f\"\nro_file=\"g:h:i\"\n";
        let read = Defaults::parse(text);
        assert_eq!([read.process, read.files, read.layers].map(|context| context.to_string()), ["a:b:c:s0", "d:e:f", "g:h:i"]);
        let none = Defaults::parse("process = junk\n");
        assert_eq!(none.process.to_string(), "system_u:system_r:container_t:s0");
        assert_eq!(none.files.to_string(), "system_u:object_r:container_file_t:s0");
        assert_eq!(none.layers, none.files);
    }

    #[test]
    fn the_host_s_own_directories_are_refused() {
        let refused = |path: &str| relabel(Path::new(path), "u:object_r:t:s0").unwrap_err().to_string();
        for path in ["/", "/etc", "/etc/", "/usr/../etc", "/var/lib", "/home"] {
            assert!(refused(path).starts_with("SELinux relabeling of /"), "{path}: {}", refused(path));
        }
        assert_eq!(refused("/usr/../etc/"), "SELinux relabeling of /etc is not allowed");
        let directory = tempfile::tempdir().unwrap();
        symlink("/etc", directory.path().join("link")).unwrap();
        assert_eq!(refused(directory.path().join("link").to_str().unwrap()), "SELinux relabeling of /etc is not allowed");
    }
}
