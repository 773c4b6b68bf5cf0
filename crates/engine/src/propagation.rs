//! What a bind mount can pass on: mounts travel between peers of a shared mount, so that `shared` and `slave` of a source
//! that lies on a private one would silently do nothing (mount_namespaces(7)).

use crate::error::{EngineError, Result};
use std::path::{Path, PathBuf};

/// Refuses a propagation that the mount below `source` cannot have, in Docker's words.
pub(crate) fn check(source: &Path, propagation: &str) -> Result<()> {
    let slave_will_do = match propagation {
        "shared" | "rshared" => false,
        "slave" | "rslave" => true,
        _ => return Ok(()),
    };
    let real = source.canonicalize().map_err(EngineError::io("look at", source))?;
    let table = std::fs::read_to_string("/proc/self/mountinfo").map_err(EngineError::io("read", "/proc/self/mountinfo"))?;
    let Some((mount, kind)) = mount_of(&table, &real) else { return Ok(()) };
    if kind == Kind::Shared || kind == Kind::Slave && slave_will_do {
        return Ok(());
    }
    let wanted = if slave_will_do { "shared or slave" } else { "shared" };
    Err(EngineError::invalid(format!(
        "path {} is mounted on {} but it is not a {wanted} mount: use `mount --make-rshared {}`, or another propagation than {propagation}",
        source.display(),
        mount.display(),
        mount.display()
    )))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Shared,
    Slave,
    Private,
}

/// The mount that `path` lies on, from the text of mountinfo (proc_pid_mountinfo(5)); of several at one place the last, which
/// is on top.
fn mount_of(table: &str, path: &Path) -> Option<(PathBuf, Kind)> {
    let mounts = table.lines().filter_map(|line| {
        let (fields, _) = line.split_once(" - ")?;
        let mut fields = fields.split(' ').skip(4);
        let place = PathBuf::from(unescape(fields.next()?));
        let kind = fields.skip(1).fold(Kind::Private, |kind, field| match field.split_once(':') {
            Some(("shared", _)) => Kind::Shared,
            Some(("master", _)) if kind == Kind::Private => Kind::Slave,
            _ => kind,
        });
        path.starts_with(&place).then_some((place, kind))
    });
    mounts.max_by_key(|(place, _)| place.components().count())
}

/// Space, tab, newline and backslash are written as three octal digits.
fn unescape(text: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(text.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_below_a_path() {
        let table = "\
20 1 8:1 / / rw,relatime - ext4 /dev/a rw
21 20 0:5 / /srv rw shared:7 - tmpfs t rw
22 21 0:6 / /srv/a\\040b rw shared:8 master:7 - tmpfs t rw
23 20 0:7 / /mnt rw master:9 propagate_from:2 - tmpfs t rw
24 23 0:8 / /mnt rw - tmpfs over rw
";
        let cases = [
            ("/home/x", "/", Kind::Private),
            ("/srv", "/srv", Kind::Shared),
            ("/srvx", "/", Kind::Private),
            ("/srv/a b/c", "/srv/a b", Kind::Shared),
            ("/mnt/x", "/mnt", Kind::Private),
        ];
        for (path, mount, kind) in cases {
            assert_eq!(mount_of(table, Path::new(path)), Some((mount.into(), kind)), "{path}");
        }
        assert_eq!(mount_of("23 20 0:7 / /mnt rw master:9 - tmpfs t rw", Path::new("/mnt")), Some(("/mnt".into(), Kind::Slave)));
        assert_eq!(mount_of("garbage\n1 2\n", Path::new("/")), None);
    }
}
