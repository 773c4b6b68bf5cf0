//! Who a process runs as: names looked up in the container's own `/etc/passwd` and `/etc/group`.
//!
//! Both files come from the image: only regular files are read, without blocking on a FIFO, never outside the root, and no
//! more than [`MAX_FILE_BYTES`] of them. A number is always a number, even when a user has it as name (CVE-2016-3697), and
//! must not exceed 2^31-1 (CVE-2024-40635).

use crate::error::{Error, Result};
use crate::rootfs::open_in;
use rustix::fs::{FileType, Mode, OFlags};
use std::collections::HashSet;
use std::io::Read;
use std::os::fd::BorrowedFd;
use std::path::Path;

/// What is read of each file; the rest is as if it were not there.
pub const MAX_FILE_BYTES: u64 = 1 << 20;
/// A longer line is skipped.
const MAX_LINE_BYTES: usize = 64 << 10;
const MAX_ID: u64 = i32::MAX as u64;

/// A user with everything a process needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedUser {
    /// Numeric user.
    pub uid: u32,
    /// Numeric primary group.
    pub gid: u32,
    /// All groups, the primary one first (CVE-2022-36109).
    pub additional_gids: Vec<u32>,
    /// Home directory, `/` when unknown.
    pub home: String,
    /// Name in `/etc/passwd`, if it has one.
    pub name: Option<String>,
}

struct User {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

/// Resolves `user[:group]` (empty: root) and further groups by name or number.
pub fn resolve(root: BorrowedFd<'_>, user: &str, extra_groups: &[String]) -> Result<ResolvedUser> {
    let passwd = users(&content(root, "/etc/passwd"));
    let groups = groups(&content(root, "/etc/group"));
    resolve_in(&passwd, &groups, user, extra_groups)
}

/// The home directory of a number, `/` when unknown.
pub(crate) fn home(root: BorrowedFd<'_>, uid: u32) -> String {
    let found = users(&content(root, "/etc/passwd")).into_iter().find(|known| known.uid == uid);
    found.map(|found| found.home).filter(|home| !home.is_empty()).unwrap_or_else(|| "/".to_owned())
}

fn resolve_in(users: &[User], groups: &[Group], text: &str, extra_groups: &[String]) -> Result<ResolvedUser> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, group),
        None => (text, ""),
    };
    let number = id(user)?;
    let found = users.iter().find(|known| match (user, number) {
        ("", _) => known.uid == 0,
        (_, Some(number)) => known.uid == number,
        (name, None) => known.name == name,
    });
    let (uid, mut gid) = match (found, number) {
        (Some(found), _) => (found.uid, found.gid),
        (None, Some(number)) => (number, 0),
        (None, None) if user.is_empty() => (0, 0),
        (None, None) => return Err(Error::NotFound(format!("unable to find user {user}: no matching entries in passwd file"))),
    };
    let mut listed = Vec::new();
    if group.is_empty() {
        if let Some(found) = found {
            listed.extend(groups.iter().filter(|group| group.members.contains(&found.name)).map(|group| group.gid));
        }
    } else {
        gid = group_id(groups, group)?;
    }
    for extra in extra_groups {
        listed.push(group_id(groups, extra)?);
    }
    listed.insert(0, gid);
    let mut seen = HashSet::new();
    let additional_gids: Vec<u32> = listed.into_iter().filter(|one| seen.insert(*one)).collect();
    // The image's files may say 2^32-1, too, which the kernel takes for "as it is": the process would stay root.
    if additional_gids.iter().chain([&uid]).any(|number| u64::from(*number) > MAX_ID) {
        return Err(out_of_range());
    }
    let home = found.map(|found| found.home.clone()).filter(|home| !home.is_empty()).unwrap_or_else(|| "/".to_owned());
    Ok(ResolvedUser { uid, gid, additional_gids, home, name: found.map(|found| found.name.clone()) })
}

fn group_id(groups: &[Group], text: &str) -> Result<u32> {
    if let Some(number) = id(text)? {
        return Ok(number);
    }
    let found = groups.iter().find(|group| group.name == text);
    found.map(|group| group.gid).ok_or_else(|| Error::NotFound(format!("unable to find group {text}: no matching entries in group file")))
}

/// A number, or `None` for a name. Anything of digits is a number, so that none is taken for a name.
fn id(text: &str) -> Result<Option<u32>> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u64>() {
        Ok(number) if number <= MAX_ID => Ok(Some(number as u32)),
        _ => Err(out_of_range()),
    }
}

fn out_of_range() -> Error {
    Error::Invalid("uids and gids must be in range 0-2147483647".into())
}

/// The beginning of a regular file inside the root; empty when there is none.
fn content(root: BorrowedFd<'_>, path: &str) -> String {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut bytes = Vec::new();
    // As a path first: opening a device may already do something.
    let regular = open_in(root, Path::new(path), OFlags::PATH, Mode::empty())
        .and_then(|handle| rustix::fs::fstat(&handle))
        .is_ok_and(|status| FileType::from_raw_mode(status.st_mode) == FileType::RegularFile);
    if regular && let Ok(file) = open_in(root, Path::new(path), flags, Mode::empty()) {
        let still = rustix::fs::fstat(&file).is_ok_and(|status| FileType::from_raw_mode(status.st_mode) == FileType::RegularFile);
        if still {
            // What could be read before an error counts.
            drop(std::fs::File::from(file).take(MAX_FILE_BYTES).read_to_end(&mut bytes));
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#') && line.len() <= MAX_LINE_BYTES)
}

/// `name:password:uid:gid:comment:home:shell`
fn users(text: &str) -> Vec<User> {
    lines(text)
        .filter_map(|line| {
            let parts: Vec<&str> = line.split(':').collect();
            let home = parts.get(5).copied().unwrap_or_default();
            Some(User {
                name: parts[0].to_owned(),
                uid: parts.get(2)?.parse().ok()?,
                // A record may be cut short, as Docker reads it.
                gid: parts.get(3).map_or(Some(0), |gid| gid.parse().ok())?,
                home: home.to_owned(),
            })
        })
        .collect()
}

/// `name:password:gid:members`
fn groups(text: &str) -> Vec<Group> {
    lines(text)
        .filter_map(|line| {
            let parts: Vec<&str> = line.split(':').collect();
            let members = parts.get(3).copied().unwrap_or_default().split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
            Some(Group { name: parts[0].to_owned(), gid: parts.get(2)?.parse().ok()?, members })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# comment\nbroken\napp:x:1000:1001::/home/app:/bin/sh\n1234:x:5:5::/evil:\n\
                          4294967296:x:0:0::/:\nnohome:x:7:7\n";
    const GROUP: &str = "root:x:0:\napp:x:1001:\nwheel:x:10:root,app\naudio:x:29:app\n";

    fn run(user: &str, extra: &[&str]) -> Result<ResolvedUser> {
        let extra: Vec<String> = extra.iter().map(|&name| name.to_owned()).collect();
        resolve_in(&users(PASSWD), &groups(GROUP), user, &extra)
    }

    #[test]
    fn as_docker() {
        for (text, extra, uid, gid, all, home) in [
            ("", &[][..], 0, 0, &[0, 10][..], "/root"),
            ("root", &[], 0, 0, &[0, 10], "/root"),
            ("app", &[], 1000, 1001, &[1001, 10, 29], "/home/app"),
            ("1000", &[], 1000, 1001, &[1001, 10, 29], "/home/app"),
            ("1000:5", &[], 1000, 5, &[5], "/home/app"),
            ("app:audio", &["wheel"], 1000, 29, &[29, 10], "/home/app"),
            (":audio", &[], 0, 29, &[29], "/root"),
            ("app:", &[], 1000, 1001, &[1001, 10, 29], "/home/app"),
            ("1234", &[], 1234, 0, &[0], "/"),
            ("4242", &["77", "wheel", "77"], 4242, 0, &[0, 77, 10], "/"),
            ("nohome", &[], 7, 7, &[7], "/"),
        ] {
            let got = run(text, extra).unwrap();
            assert_eq!((got.uid, got.gid, got.additional_gids.as_slice(), got.home.as_str()), (uid, gid, all, home), "{text}");
        }
    }

    #[test]
    fn refused() {
        for text in ["nobody", "app:nogroup", "4294967296", "2147483648", "-1", "1:4294967295", "1:-5"] {
            assert!(run(text, &[]).is_err(), "{text}");
        }
        assert!(run("", &["nogroup"]).is_err());
        assert_eq!(run("ghost", &[]).unwrap_err().to_string(), "unable to find user ghost: no matching entries in passwd file");
    }

    #[test]
    fn numbers_of_the_files_are_checked() {
        let passwd = "evil:x:4294967295:0::/:\nodd:x:0:4294967295::/:\nmember:x:1:1::/:\nplain:x:2:2::/:\n";
        let group = "all:x:4294967295:member\n";
        let run = |user: &str| resolve_in(&users(passwd), &groups(group), user, &[]);
        for user in ["evil", "odd", "member", "plain:all"] {
            assert!(run(user).is_err(), "{user}");
        }
        assert_eq!(run("plain").unwrap().uid, 2);
    }

    #[test]
    fn many_groups_are_taken() {
        let group: String = (0..90_000).map(|gid| format!("g::{gid}:u\n")).collect();
        let found = resolve_in(&users("u::1:0::/:\n"), &groups(&group), "u", &[]).unwrap();
        assert_eq!(found.additional_gids.len(), 90_000);
    }

    proptest! {
        #[test]
        fn hostile_files_never_panic(text in ".{0,200}", user in ".{0,20}") {
            let _ = resolve_in(&users(&text), &groups(&text), &user, &[]);
        }
    }
}
