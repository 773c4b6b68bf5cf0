//! Known ways out of containers, each tried.

use crate::image::{archive, entry, image};
use naru_e2e::{BOX, Over, name, program, shared};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a host file would give away.
fn secret() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("secret"), "of the host").unwrap();
    let path = folder.path().join("secret").display().to_string();
    (folder, path)
}

/// Loads an image with a layer of these entries on busybox; its name.
fn hostile(entries: &[Vec<u8>]) -> String {
    let tag = format!("{}:1", name("cve"));
    let loaded = shared().feed(&["load"], &image(&tag, &[archive(entries)], r#""Cmd":["sh"]"#));
    assert_eq!(loaded.code, 0, "{loaded:?}");
    tag
}

/// CVE-2019-5736: the engine's program cannot be written through `/proc/<pid>/exe`.
#[test]
fn the_engine_s_program_is_out_of_reach() {
    let daemon = shared();
    let before = naru_types::Digest::of(&std::fs::read(program()).unwrap());
    let tag = hostile(&[entry(b'0', "bin/trap", "", b"#!/proc/self/exe\n"), entry(b'2', "bin/exe", "/proc/self/exe", b"")]);
    let name = name("writer");
    let script =
        "while :; do for p in /proc/[0-9]*; do if (: >> $p/exe) 2>/dev/null; then echo wrote $p $(readlink $p/exe); fi; done; done";
    daemon.ok(&["run", "-d", "--name", &name, &tag, "sh", "-c", script]);
    for _ in 0..10 {
        daemon.run(&["exec", &name, "/bin/trap", "sleep", "1"]);
        daemon.run(&["exec", &name, "/bin/exe", "version"]);
        daemon.run(&["exec", &name, "/bin/true"]);
    }
    assert_eq!(daemon.ok(&["logs", &name]), "");
    daemon.ok(&["rm", "-f", &name]);
    for entrypoint in ["/bin/trap", "/bin/exe", "/proc/self/exe"] {
        daemon.run(&["run", "--rm", "--entrypoint", entrypoint, &tag, "version"]);
    }
    daemon.ok(&["rmi", &tag]);
    assert_eq!(naru_types::Digest::of(&std::fs::read(program()).unwrap()), before);
}

/// CVE-2024-21626: no descriptor of the engine leads a working directory to the host.
#[test]
fn no_descriptor_is_a_way_to_the_host() {
    let daemon = shared();
    let (_folder, secret) = secret();
    let links: Vec<Vec<u8>> = (3..13).map(|fd| entry(b'2', &format!("fd{fd}"), &format!("/proc/self/fd/{fd}"), b"")).collect();
    let tag = hostile(&links);
    let name = name("exec");
    daemon.ok(&["run", "-d", "--name", &name, &tag, "sleep", "1000"]);
    let script = format!("cat ../../../../../../../..{secret} ./{secret}; ls -d ./dev/../etc/shadow; true");
    for fd in 3..13 {
        for folder in
            [format!("/proc/self/fd/{fd}"), format!("/fd{fd}"), format!("/proc/1/fd/{fd}"), format!("/proc/thread-self/fd/{fd}/..")]
        {
            for args in [vec!["run", "--rm", "-w", &folder, &tag], vec!["exec", "-w", &folder, &name]] {
                let mut args = args;
                args.extend(["/bin/busybox", "sh", "-c", &script]);
                let result = daemon.run(&args);
                assert!(!result.out.contains("of the host") && !result.out.contains("shadow"), "{args:?}: {result:?}");
            }
        }
    }
    assert_eq!(daemon.ok(&["exec", &name, "sh", "-c", "ls /proc/self/fd /proc/1/fd | grep -vE '^(/.*|[0-3]|)$' | wc -l"]), "0");
    daemon.ok(&["rm", "-f", &name]);
    daemon.ok(&["rmi", &tag]);
}

/// CVE-2025-31133, CVE-2025-52881: masks and read-only paths hold though the image has its own `/dev/null` and `/dev/console`.
#[test]
fn masks_hold_with_a_hostile_null_device() {
    let daemon = shared();
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let target = "/proc/sys/kernel/core_pattern";
    let tag = hostile(&[
        entry(b'5', "dev/", "", b""),
        entry(b'2', "dev/null", target, b""),
        entry(b'2', "dev/console", target, b""),
        entry(b'2', "dev/ptmx", target, b""),
        entry(b'2', "dev/zero", target, b""),
    ]);
    let script = r#"
for f in kcore keys timer_list sched_debug latency_stats interrupts; do [ -e /proc/$f ] && echo "$f $(head -c 1 /proc/$f 2>/dev/null | wc -c)"; done
for d in /proc/acpi /proc/scsi /proc/asound /sys/firmware /sys/devices/virtual/powercap; do [ -e $d ] && echo "$d $(ls -A $d | wc -l)"; done
for f in sys/kernel/core_pattern sysrq-trigger irq/default_smp_affinity sys/vm/drop_caches bus/x fs/x; do (echo x > /proc/$f) 2>/dev/null && echo "wrote $f"; done
(echo x > /sys/kernel/uevent_helper) 2>/dev/null && echo wrote uevent_helper
stat -c '%F %t %T' /dev/null /dev/zero; echo end"#;
    for flags in [&[][..], &["-t"]] {
        let mut args = vec!["run", "--rm"];
        args.extend(flags);
        args.extend([tag.as_str(), "/bin/busybox", "sh", "-c", script]);
        let text = daemon.ok(&args).replace('\r', "");
        assert!(text.ends_with("character special file 1 3\ncharacter special file 1 5\nend"), "{text}");
        assert!(text.contains("keys 0\n") && text.contains("/sys/firmware 0\n"), "{text}");
        for line in text.lines() {
            assert!(!line.starts_with("wrote"), "{text}");
            assert!(!(line.starts_with('/') || line.starts_with('k') || line.starts_with("timer")) || line.ends_with(" 0"), "{text}");
        }
        assert_eq!(std::fs::read_to_string(target).unwrap(), pattern);
    }
    daemon.ok(&["rmi", &tag]);
}

/// CVE-2025-52565: the console is the container's terminal, whatever the image has at `/dev/pts`.
#[test]
fn the_console_is_the_terminal() {
    let daemon = shared();
    let (folder, _) = secret();
    let host = folder.path().display().to_string();
    for trap in [
        vec![entry(b'2', "dev/pts", &host, b"")],
        vec![entry(b'2', "dev/pts", "/proc/sys", b"")],
        vec![entry(b'5', "dev/pts/", "", b""), entry(b'2', "dev/pts/0", "/proc/sysrq-trigger", b"")],
        vec![entry(b'2', "dev/console", "/proc/sys/kernel/hostname", b"")],
    ] {
        let tag = hostile(&trap);
        let text = daemon.ok(&["run", "--rm", "-t", &tag, "sh", "-c", "tty; grep ' /dev/console ' /proc/self/mountinfo; ls /dev/pts"]);
        assert!(text.starts_with("/dev/pts/0") && text.contains(" devpts ") && text.contains("ptmx"), "{text}");
        daemon.ok(&["rmi", &tag]);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// CVE-2015-3631, CVE-2019-16884: nothing is mounted over what guards the container.
#[test]
fn nothing_is_mounted_over_proc_and_sys() {
    let daemon = shared();
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().display().to_string();
    for target in ["/proc", "/proc/", "/proc/sys", "/proc/self/attr", "/proc/../proc/1", "/sys/../proc/self", "/", "/proc/self/exe"] {
        for flag in [vec!["-v".to_owned(), format!("{source}:{target}")], vec!["--mount".to_owned(), format!("type=tmpfs,dst={target}")]] {
            let result = daemon.run(&["run", "--rm", &flag[0], &flag[1], BOX, "true"]);
            assert!(result.code == 125 && result.err.trim().len() > 20, "{flag:?}: {result:?}");
        }
    }
    let tag = hostile(&[entry(b'2', "link", "/proc", b""), entry(b'2', "link2", "/proc/self", b"")]);
    for target in ["/link/sys", "/link2/attr", "/link"] {
        let result = daemon.run(&[
            "run",
            "--rm",
            "-v",
            &format!("{source}:{target}"),
            &tag,
            "cat",
            "/proc/self/attr/current",
            "/proc/sys/kernel/ostype",
        ]);
        assert!(result.out.contains("Linux") || (result.code == 125 && result.err.trim().len() > 20), "{target}: {result:?}");
    }
    daemon.ok(&["rmi", &tag]);
}

/// CVE-2022-24769: no capability is inheritable, in no kind of process.
#[test]
fn no_capability_is_inheritable() {
    let daemon = shared();
    let name = name("caps");
    let read = "grep CapInh /proc/self/status";
    let none = "CapInh:\t0000000000000000";
    daemon.ok(&["run", "-d", "--name", &name, "--health-cmd", read, "--health-interval", "200ms", BOX, "sleep", "1000"]);
    assert_eq!(daemon.ok(&["exec", &name, "grep", "CapInh", "/proc/1/status"]), none);
    assert_eq!(daemon.ok(&["exec", &name, "sh", "-c", read]), none);
    assert_eq!(daemon.ok(&["exec", "--privileged", &name, "sh", "-c", read]), none);
    assert_eq!(daemon.ok(&["exec", "-u", "bob", &name, "sh", "-c", read]), none);
    assert_eq!(daemon.ok(&["run", "--rm", "--privileged", BOX, "sh", "-c", read]), none);
    assert_eq!(daemon.ok(&["run", "--rm", "--cap-add", "ALL", "-u", "bob", BOX, "sh", "-c", read]), none);
    daemon.until("the health check has run", || daemon.inspect(&name)["State"]["Health"]["Log"][0]["Output"].is_string());
    assert_eq!(daemon.inspect(&name)["State"]["Health"]["Log"][0]["Output"].as_str().unwrap().trim_end(), none);
    daemon.ok(&["rm", "-f", &name]);
}

/// The default filter refuses what it should, also when an argument's upper half, which the kernel ignores, is set.
#[test]
fn the_filter_refuses_by_what_the_kernel_takes() {
    let folder = tempfile::tempdir().unwrap();
    let probe = folder.path().join("probe");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/probe.c");
    let Ok(built) = Command::new("gcc").args(["-static", "-O1", "-o"]).arg(&probe).arg(source).status() else { return };
    assert!(built.success(), "{source} does not compile");
    let tag = hostile(&[entry(b'0', "bin/probe", "", &std::fs::read(&probe).unwrap())]);
    let daemon = shared();
    let answers = |flags: &[&str]| -> std::collections::BTreeMap<String, i32> {
        let mut args = vec!["run", "--rm"];
        args.extend(flags);
        args.extend([tag.as_str(), "/bin/probe"]);
        let pair = |line: &str| line.split_once(' ').map(|(name, errno)| (name.to_owned(), errno.parse().unwrap()));
        daemon.ok(&args).lines().filter_map(pair).collect()
    };
    const EPERM: i32 = 1;
    const ENOSYS: i32 = 38;
    let guarded = answers(&[]);
    for (what, errno) in &guarded {
        let expected = match what.as_str() {
            "inet" => 0,
            "clone3" => ENOSYS,
            _ => EPERM,
        };
        assert_eq!(*errno, expected, "{what} of {guarded:?}");
    }
    assert!(guarded.len() > 25, "{guarded:?}");
    let open = answers(&["--security-opt", "seccomp=unconfined"]);
    assert!(open["keyctl"] != EPERM && open["unshare-user"] != EPERM && open["clone3"] != ENOSYS, "{open:?}");
    daemon.ok(&["rmi", &tag]);
}

#[test]
fn a_fork_bomb_ends_at_the_default_limit() {
    let daemon = shared();
    let name = name("bomb");
    let limit = "cat /sys/fs/cgroup/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids/pids.max";
    let limit: u64 = daemon.ok(&["run", "--rm", BOX, "sh", "-c", limit]).parse().expect("a limit, not max");
    assert!(limit <= 65536, "{limit}");
    daemon.ok(&["run", "-d", "--name", &name, "--pids-limit", "300", BOX, "sh", "-c", "f() { f | f & }; f; sleep 1000"]);
    let held = || daemon.ok(&["stats", "--no-stream", "--format", "{{.PIDs}}", &name]).trim().parse::<u64>().unwrap_or(0);
    daemon
        .until("the bomb has grown", || held() > 200 || daemon.ok(&["logs", &name]).len() + daemon.run(&["logs", &name]).err.len() > 1000);
    assert!(held() <= 300);
    assert_eq!(daemon.ok(&["run", "--rm", BOX, "echo", "fine"]), "fine");
    let start = std::time::Instant::now();
    daemon.ok(&["rm", "-f", &name]);
    assert!(start.elapsed() < std::time::Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn control_groups_are_read_only() {
    let daemon = shared();
    let script = r#"
for d in /sys/fs/cgroup /sys/fs/cgroup/*; do [ -d $d ] || continue
  mkdir $d/x 2>/dev/null && echo made $d
  (echo 1 > $d/cgroup.procs) 2>/dev/null && echo wrote $d
  (echo x > $d/release_agent) 2>/dev/null && echo agent $d
done
mount -o remount,rw /sys/fs/cgroup 2>/dev/null && echo remounted
grep -c cgroup /proc/mounts"#;
    for flags in [&[][..], &["--cgroupns", "host"]] {
        let mut args = vec!["run", "--rm"];
        args.extend(flags);
        args.extend([BOX, "sh", "-c", script]);
        let text = daemon.ok(&args);
        assert!(text.parse::<u32>().is_ok_and(|count| count > 0), "{text}");
    }
}

/// CVE-2021-30465, CVE-2024-45310: a directory swapped for a link during the start leads no mount and no file outside.
#[test]
fn a_swapped_directory_leads_no_mount_outside() {
    let daemon = shared();
    let (canary, _) = secret();
    let shared_folder = tempfile::tempdir().unwrap();
    let path = |name: &str| shared_folder.path().join(name);
    std::fs::create_dir(path("a")).unwrap();
    std::os::unix::fs::symlink(format!("../../../../../../..{}", canary.path().display()), path("b")).unwrap();
    let volume = format!("{}:/v", shared_folder.path().display());
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(rustix::fs::CWD, path("a"), rustix::fs::CWD, path("b"), rustix::fs::RenameFlags::EXCHANGE)
                    .unwrap();
            }
        });
        // The swapping ends, also when this fails.
        let _over = Over(&over);
        for round in 0..40 {
            let tmpfs = format!("/v/a/made{round}");
            let bind = format!("/etc/hostname:/v/a/file{round}");
            let result = daemon.run(&["run", "--rm", "-v", &volume, "--tmpfs", &tmpfs, "-v", &bind, "-w", "/v/a", BOX, "cat", "secret"]);
            assert!(!result.out.contains("of the host"), "{result:?}");
        }
    });
    assert_eq!(std::fs::read_dir(canary.path()).unwrap().count(), 1, "only the secret lies there");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&canary.path().display().to_string()), "{mounts}");
}
