//! Finding the program to execute, inside the container and with the rights of its user, in Docker's words.

use crate::error::{FailureReason, StartFailure};
use rustix::fs::{Access, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::CString;
use std::io::Read;

fn failure(reason: FailureReason, message: String) -> StartFailure {
    StartFailure { reason, message }
}

/// The text Go programs show for an errno.
pub(crate) fn errno_text(errno: Errno) -> String {
    match errno {
        Errno::NOENT => "no such file or directory".into(),
        Errno::ACCESS => "permission denied".into(),
        Errno::ISDIR => "is a directory".into(),
        Errno::NOTDIR => "not a directory".into(),
        Errno::LOOP => "too many levels of symbolic links".into(),
        Errno::NAMETOOLONG => "file name too long".into(),
        Errno::NOEXEC => "exec format error".into(),
        Errno::PERM => "operation not permitted".into(),
        Errno::TXTBSY => "text file busy".into(),
        Errno::NOMEM => "cannot allocate memory".into(),
        Errno::TOOBIG => "argument list too long".into(),
        other => {
            // "... (os error 5)" in lower case without the number.
            let text = std::io::Error::from(other).to_string();
            text.split(" (os error").next().unwrap_or_default().to_lowercase()
        }
    }
}

pub(crate) fn reason_of(errno: Errno) -> FailureReason {
    match errno {
        Errno::NOENT | Errno::NOTDIR => FailureReason::NotFound,
        Errno::ACCESS | Errno::ISDIR | Errno::PERM | Errno::NOEXEC => FailureReason::PermissionDenied,
        _ => FailureReason::Other,
    }
}

/// The path to execute for `name`; a name without a slash is looked up along `search`.
pub(crate) fn find(name: &str, search: Option<&str>) -> Result<CString, StartFailure> {
    let text = |path: &str| {
        CString::new(path)
            .map_err(|_| failure(FailureReason::Invalid, format!("exec: {name:?}: invalid argument: it contains a zero byte")))
    };
    if name.contains('/') {
        let path = text(name)?;
        return match executable(&path) {
            Ok(()) => Ok(path),
            Err((Errno::NOENT, _)) => {
                Err(failure(FailureReason::NotFound, format!("exec: {name:?}: stat {name}: no such file or directory")))
            }
            Err((errno, true)) => Err(failure(reason_of(errno), format!("exec: {name:?}: stat {name}: {}", errno_text(errno)))),
            Err((errno, false)) => Err(failure(reason_of(errno), format!("exec: {name:?}: {}", errno_text(errno)))),
        };
    }
    if !name.is_empty() {
        for directory in search.unwrap_or_default().split(':') {
            // An empty entry means the current directory; Docker refuses to run from there.
            if directory.is_empty() || directory == "." {
                continue;
            }
            let path = text(&format!("{}/{name}", directory.trim_end_matches('/')))?;
            if executable(&path).is_ok() {
                return Ok(path);
            }
        }
    }
    Err(failure(FailureReason::NotFound, format!("exec: {name:?}: executable file not found in $PATH")))
}

/// Whether it can be executed; the flag says that looking at it failed.
fn executable(path: &CString) -> Result<(), (Errno, bool)> {
    let status = rustix::fs::stat(path).map_err(|errno| (errno, true))?;
    if FileType::from_raw_mode(status.st_mode) == FileType::Directory {
        return Err((Errno::ISDIR, false));
    }
    rustix::fs::accessat(rustix::fs::CWD, path, Access::EXEC_OK, AtFlags::EACCESS).map_err(|errno| (errno, false))
}

/// Why exec refused a file that [`find`] had found.
pub(crate) fn explain(path: &CString, errno: Errno) -> StartFailure {
    let name = path.to_string_lossy();
    let head = head(path);
    let detail = match errno {
        Errno::NOENT => interpreter(&head).map(|interpreter| format!(": its interpreter {interpreter:?} does not exist in the container")),
        Errno::NOEXEC if head.is_empty() => Some(": the file is empty".to_owned()),
        Errno::NOEXEC => match machine(&head) {
            Some(machine) if machine != native() => Some(format!(": the file is for {machine}, this machine is {}", native())),
            Some(_) => None,
            None => Some(": neither an ELF program nor a script with an interpreter line".to_owned()),
        },
        _ => None,
    };
    failure(reason_of(errno), format!("exec {name}: {}{}", errno_text(errno), detail.unwrap_or_default()))
}

/// The beginning of a regular file; empty when it cannot be read.
fn head(path: &CString) -> Vec<u8> {
    const HEAD_BYTES: u64 = 4096;
    let mut bytes = Vec::new();
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    if let Ok(fd) = rustix::fs::open(path, flags, Mode::empty()) {
        drop(std::fs::File::from(fd).take(HEAD_BYTES).read_to_end(&mut bytes));
    }
    bytes
}

fn number(bytes: &[u8], at: usize, width: usize) -> Option<u64> {
    let part = bytes.get(at..at.checked_add(width)?)?;
    Some(part.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

/// The interpreter of a script or of a dynamic ELF program (little endian, 64 or 32 bits).
fn interpreter(head: &[u8]) -> Option<String> {
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next()?;
        let text = String::from_utf8_lossy(line);
        // A carriage return of a Windows editor is the usual culprit, so it is kept and shown escaped.
        return text.trim_start().split([' ', '\t']).next().map(str::to_owned);
    }
    const PT_INTERP: u64 = 3;
    if !head.starts_with(b"\x7fELF") || head.get(5) != Some(&1) {
        return None;
    }
    let wide = head.get(4) == Some(&2);
    let (table, size, count) = if wide {
        (number(head, 32, 8)?, number(head, 54, 2)?, number(head, 56, 2)?)
    } else {
        (number(head, 28, 4)?, number(head, 42, 2)?, number(head, 44, 2)?)
    };
    (0..count.min(64)).find_map(|index| {
        let at = usize::try_from(table.checked_add(index * size)?).ok()?;
        if number(head, at, 4)? != PT_INTERP {
            return None;
        }
        let (offset, length) = if wide {
            (number(head, at + 8, 8)?, number(head, at + 32, 8)?)
        } else {
            (number(head, at + 4, 4)?, number(head, at + 16, 4)?)
        };
        let (offset, length) = (usize::try_from(offset).ok()?, usize::try_from(length).ok()?);
        let text = head.get(offset..offset.checked_add(length)?)?;
        Some(String::from_utf8_lossy(text.strip_suffix(b"\0").unwrap_or(text)).into_owned())
    })
}

fn native() -> &'static str {
    if cfg!(target_arch = "aarch64") { "aarch64" } else { "x86_64" }
}

/// The machine of an ELF program.
fn machine(head: &[u8]) -> Option<&'static str> {
    if !head.starts_with(b"\x7fELF") {
        return None;
    }
    let big = head.get(5) == Some(&2);
    let code = if big { number(head, 18, 2)?.swap_bytes() >> 48 } else { number(head, 18, 2)? };
    Some(match code {
        3 => "i386",
        8 => "mips",
        20 => "ppc",
        21 => "ppc64",
        22 => "s390x",
        40 => "arm",
        62 => "x86_64",
        183 => "aarch64",
        243 => "riscv64",
        258 => "loongarch64",
        _ => "another machine",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dockers_words() {
        for (name, search, reason, message) in [
            ("foo", Some("/nonexistent:/usr"), FailureReason::NotFound, "exec: \"foo\": executable file not found in $PATH"),
            ("", Some("/usr"), FailureReason::NotFound, "exec: \"\": executable file not found in $PATH"),
            ("/x/y", None, FailureReason::NotFound, "exec: \"/x/y\": stat /x/y: no such file or directory"),
            ("/etc", None, FailureReason::PermissionDenied, "exec: \"/etc\": is a directory"),
            ("/etc/passwd", None, FailureReason::PermissionDenied, "exec: \"/etc/passwd\": permission denied"),
            ("/etc/passwd/x", None, FailureReason::NotFound, "exec: \"/etc/passwd/x\": stat /etc/passwd/x: not a directory"),
        ] {
            assert_eq!(find(name, search).unwrap_err(), StartFailure { reason, message: message.into() });
        }
        assert_eq!(find("sh", Some("/nonexistent:/bin")).unwrap().to_str().unwrap(), "/bin/sh");
    }

    #[test]
    fn what_a_file_is_for() {
        assert_eq!(interpreter(b"#! /bin/foo -x\nrest").as_deref(), Some("/bin/foo"));
        assert_eq!(interpreter(b"#!/bin/sh\r\n").as_deref(), Some("/bin/sh\r"));
        let shell = std::fs::read("/bin/bash").unwrap();
        assert_eq!(interpreter(&shell[..4096]).as_deref(), Some("/lib64/ld-linux-x86-64.so.2"));
        assert_eq!(machine(&shell[..64]), Some("x86_64"));
        let mut foreign = shell[..64].to_vec();
        foreign[18] = 183;
        assert_eq!(machine(&foreign), Some("aarch64"));
        let s390x = [b"\x7fELF\x02\x02\x01\0\0\0\0\0\0\0\0\0\0\x02\0\x16".as_slice(), &[0; 44]].concat();
        assert_eq!(machine(&s390x), Some("s390x"));
    }

    proptest! {
        #[test]
        fn hostile_heads_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), elf in any::<bool>()) {
            if elf && bytes.len() > 6 {
                bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
            }
            let _ = (interpreter(&bytes), machine(&bytes));
        }
    }
}
