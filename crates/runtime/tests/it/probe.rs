//! What the tests do inside containers that busybox cannot: raw system calls and watching `/proc`.

#![allow(unsafe_code, reason = "system calls with arguments that no safe function makes")]

use std::io::Write;

pub fn main(args: &[String]) -> i32 {
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["syscalls"] => syscalls(),
        ["watch-exe"] => watch_exe(),
        ["watch-fds"] => watch_fds(),
        ["memory", mebibytes] => memory(mebibytes.parse().unwrap()),
        ["fork-bomb"] => fork_bomb(),
        _ => 2,
    }
}

fn call(number: libc::c_long, args: [u64; 3]) -> i32 {
    // SAFETY: the calls made here either fail before they touch memory or take only integers.
    if unsafe { libc::syscall(number, args[0], args[1], args[2]) } == -1 {
        std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
    } else {
        0
    }
}

/// Prints the errno of calls that the default filter decides about.
fn syscalls() -> i32 {
    let high = 1u64 << 32;
    for (name, number, args) in [
        ("inet", libc::SYS_socket, [2, 1, 0]),
        ("alg", libc::SYS_socket, [38, 5, 0]),
        ("alg-high", libc::SYS_socket, [high + 38, 5, 0]),
        ("vsock", libc::SYS_socket, [40, 1, 0]),
        ("vsock-high", libc::SYS_socket, [high + 40, 1, 0]),
        ("packet", libc::SYS_socket, [17, 3, 0]),
        ("packet-high", libc::SYS_socket, [high + 17, 3, 0]),
        ("unshare", libc::SYS_unshare, [libc::CLONE_NEWUSER as u64, 0, 0]),
        ("clone3", libc::SYS_clone3, [0, 0, 0]),
        ("keyctl", libc::SYS_keyctl, [0, 0, 0]),
        ("io_uring", libc::SYS_io_uring_setup, [1, 0, 0]),
        ("unknown", 5000, [0, 0, 0]),
        ("x32", 0x4000_0000 | 39, [0, 0, 0]),
    ] {
        println!("{name}={}", call(number, args));
    }
    0
}

/// Until the test makes this file, in the container's root.
const OVER: &str = "/over";

/// Whether to watch on: until the test has seen enough, and not for ever.
fn watches(begun: std::time::Instant) -> bool {
    !std::path::Path::new(OVER).exists() && begun.elapsed() < std::time::Duration::from_secs(60)
}

/// Until it is over tries to write to the program of every process it sees; prints what it could open.
fn watch_exe() -> i32 {
    println!("watching");
    let begun = std::time::Instant::now();
    let mut seen = std::collections::BTreeSet::new();
    while watches(begun) {
        for pid in 1..40 {
            let path = format!("/proc/{pid}/exe");
            let Ok(target) = std::fs::read_link(&path) else { continue };
            let target = target.display().to_string();
            // Busybox and this probe are the image's own.
            if target.starts_with("/bin/busybox") || target.starts_with("/probe") {
                continue;
            }
            let writable = std::fs::OpenOptions::new().write(true).open(&path).and_then(|mut file| file.write(b"x"));
            seen.insert(format!("{target} {}", if writable.is_ok() { "WRITABLE" } else { "protected" }));
        }
    }
    for line in seen {
        println!("{line}");
    }
    println!("done");
    0
}

/// Until it is over looks at the descriptors of every process it sees; prints those above the streams that are not its own.
fn watch_fds() -> i32 {
    println!("watching");
    let own = std::process::id();
    let begun = std::time::Instant::now();
    let mut seen = std::collections::BTreeSet::new();
    while watches(begun) {
        for pid in (1..60).filter(|pid| *pid != own) {
            let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
            for entry in entries.flatten() {
                let number: u32 = entry.file_name().to_string_lossy().parse().unwrap_or(0);
                if let (3.., Ok(target)) = (number, std::fs::read_link(entry.path())) {
                    seen.insert(format!("{pid} {number} {}", target.display()));
                }
            }
        }
    }
    for line in seen {
        println!("LEAK {line}");
    }
    println!("done");
    0
}

/// Uses memory until there is none.
fn memory(mebibytes: usize) -> i32 {
    let mut all = Vec::new();
    for _ in 0..mebibytes {
        all.push(vec![1u8; 1 << 20]);
    }
    println!("used {}", all.len());
    0
}

/// Starts threads until there are no more; prints how many.
fn fork_bomb() -> i32 {
    let mut count = 0;
    while count < 1000 {
        let started = std::thread::Builder::new().stack_size(64 << 10).spawn(|| std::thread::sleep(std::time::Duration::from_secs(5)));
        match started {
            Ok(_) => count += 1,
            Err(_) => break,
        }
    }
    println!("{count}");
    std::process::exit(0)
}
