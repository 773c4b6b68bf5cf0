//! Escapes that others have had, each tried here; a canary outside the root must stay untouched.

use crate::rig::{Builder, Running, command, directory, shell};
use naru_runtime::monitor::{self, Event};
use naru_runtime::spec::Mount;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A directory of the host with a secret that no container may see or change.
struct Canary(PathBuf);

impl Canary {
    fn new() -> Canary {
        let path = directory("canary");
        std::fs::create_dir(path.join("dir")).unwrap();
        std::fs::write(path.join("secret"), "canary").unwrap();
        Canary(path)
    }

    fn check(&self) {
        let mut names: Vec<String> =
            std::fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["dir", "secret"]);
        assert_eq!(std::fs::read_dir(self.0.join("dir")).unwrap().count(), 0);
        assert_eq!(std::fs::read_to_string(self.0.join("secret")).unwrap(), "canary");
    }
}

/// Whatever happens, it ends; the exit code if it ran.
fn outcome(builder: Builder) -> Result<(i32, String), String> {
    let mut running = builder.launch();
    match running.event() {
        Some(Event::Started { .. }) => {
            let output = running.finish();
            Ok((output.code, output.stdout))
        }
        Some(Event::StartFailed { message, .. }) => Err(message),
        other => panic!("{other:?}"),
    }
}

/// CVE-2019-5736: the program of every process that has not executed yet is not writable, in run and exec.
pub fn program_is_sealed() {
    let mut running = command(&["/probe", "probe", "watch-exe"]).with_probe().with(|b| b.init = true).start();
    running.read_until("watching");
    let end = std::time::Instant::now() + std::time::Duration::from_millis(1500);
    while std::time::Instant::now() < end {
        assert_eq!(running.exec_run(&["true"]).2, 0);
    }
    std::fs::write(running.rootfs.join("over"), "").unwrap();
    let output = running.finish();
    assert!(output.stdout.ends_with("done\n") && !output.stdout.contains("WRITABLE"), "{}", output.stdout);
    // A script whose interpreter is /proc/self/exe may run us, which is no more than running any program: it is read-only.
    let own = std::fs::read("/proc/self/exe").unwrap().len();
    let _ = outcome(command(&["/evil"]).with(|b| {
        std::fs::write(b.rootfs.join("evil"), "#!/proc/self/exe\n").unwrap();
        std::fs::set_permissions(b.rootfs.join("evil"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }));
    assert_eq!(std::fs::read("/proc/self/exe").unwrap().len(), own);
}

/// CVE-2015-3627, 2025-54867, 2026-41579: links in the image in place of what is made at start.
pub fn image_links_stay_inside() {
    let canary = Canary::new();
    for name in ["dev", "proc", "sys", "etc", "tmp", "dev/pts", "dev/shm", "dev/console", "dev/null", "proc/sys", "mnt"] {
        for target in [
            canary.0.join("dir").display().to_string(),
            "../../../../../../..".to_owned() + canary.0.join("dir").to_str().unwrap(),
            name.to_owned(),
        ] {
            let builder = shell("echo ran").with(|b| {
                let path = b.rootfs.join(name);
                let _ = std::fs::remove_dir_all(&path);
                if let Some(parent) = path.parent() {
                    let _ = std::fs::create_dir_all(parent);
                }
                symlink(&target, &path).unwrap();
                b.tty = name == "dev/console";
            });
            let builder = builder.mount("/mnt/inside", "tmpfs", "tmpfs", &[]).bind(&canary.0.join("secret"), "/mnt/file", &["ro"]);
            // It runs or fails with words; in neither case does anything appear outside.
            let _ = outcome(builder);
            canary.check();
        }
    }
    // proc and sysfs must be where programs and masks expect them.
    let message = outcome(shell("true").with(|b| {
        std::fs::remove_dir(b.rootfs.join("proc")).unwrap();
        symlink("tmp", b.rootfs.join("proc")).unwrap();
    }));
    assert!(message.unwrap_err().contains("must be mounted on ordinary directory"));
}

/// CVE-2024-21626: a working directory that leads out through a descriptor.
pub fn working_directory() {
    for number in 3..20 {
        let cwd = format!("/proc/self/fd/{number}");
        let result = outcome(shell("pwd; ls ../../../..").with(|b| b.spec.process.as_mut().unwrap().cwd = cwd.clone()));
        // The only descriptors that may be entered are those of the container's own root and mounts: up is its root.
        let inside = |(code, text): &(i32, String)| *code == 0 && text.ends_with("\nbin\ndev\netc\nproc\nroot\nsys\ntmp\n");
        assert!(result.as_ref().map_or(true, inside), "{cwd}: {result:?}");
    }
    let running = shell("sleep 100").start();
    for number in 3..20 {
        let mut request = Running::exec_request("cwd", &["ls", "../../.."]);
        request.process.cwd = format!("/proc/self/fd/{number}");
        let (_, response) = running.exec(request);
        assert!(matches!(response, monitor::Response::Error { .. }), "{number}: {response:?}");
    }
    running.kill(9);
    running.finish();
}

/// Masked files are empty devices, masked directories empty; read-only paths cannot be written.
pub fn masked_paths() {
    let list = naru_runtime::defaults::masked_paths().join(" ");
    let script = format!(
        "for p in {list}; do if [ -d $p ]; then ls $p | grep -q . && echo FULL $p; touch $p/x 2>/dev/null && echo WRITABLE $p; \
         elif [ -e $p ]; then [ -c $p ] || echo OPEN $p; head -c1 $p | grep -q . && echo READS $p; fi; done; \
         for p in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /proc/sys/vm/panic_on_oom; do (echo x > $p) 2>/dev/null && echo WROTE $p; done; echo end"
    );
    assert_eq!(shell(&script).run().stdout, "end\n");
}

/// CVE-2025-52565: /dev/console is our terminal whatever the image has in /dev.
pub fn console_of_a_lying_image() {
    let lying = |link: &'static str| {
        outcome(shell("readlink /dev/console; grep ' /dev/console ' /proc/self/mountinfo; tty").with(|b| {
            b.tty = true;
            // The image's own /dev, without a tmpfs over it, full of lies.
            b.spec.mounts.retain(|mount| mount.destination != "/dev");
            let dev = b.rootfs.join("dev");
            std::fs::create_dir_all(dev.join("pts")).unwrap();
            symlink("/proc/sys/kernel/core_pattern", dev.join(link)).unwrap();
        }))
    };
    for link in ["pts/0", "ptmx"] {
        let (code, output) = lying(link).unwrap();
        assert!(code == 0 && output.contains(" /0 /dev/console ") && output.contains("/dev/pts/0"), "{output}");
    }
    assert!(lying("console").unwrap_err().contains("/dev/console"));
}

/// CVE-2025-31133: /dev/null of the image as a link to a file of /proc must not be what masks are made of.
pub fn null_of_a_lying_image() {
    let before = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let result =
        outcome(shell("(echo '|/evil' > /proc/kcore) 2>/dev/null; stat -c %t:%T /proc/kallsyms; cat /proc/kallsyms | wc -c").with(|b| {
            b.spec.mounts.retain(|mount| !mount.destination.starts_with("/dev"));
            symlink("/proc/sys/kernel/core_pattern", b.rootfs.join("dev/null")).unwrap();
        }));
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), before);
    // Refused, as what is there is no null device.
    assert!(result.is_err(), "{result:?}");
    let output = shell("stat -c %t:%T /proc/kallsyms; cat /proc/kallsyms | wc -c").run();
    assert_eq!(output.stdout, "1:3\n0\n");
}

/// CVE-2022-24769 and relatives: no inheritable or ambient capabilities, none at all for a user.
pub fn capabilities() {
    let caps = |user: u32| {
        let output = shell("grep Cap /proc/self/status").with(|b| b.spec.process.as_mut().unwrap().user.uid = user).run();
        output.stdout.lines().map(|line| u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()).collect::<Vec<_>>()
    };
    let default = 0xa804_25fb;
    assert_eq!(caps(0), [0, default, default, default, 0]);
    assert_eq!(caps(1000), [0, 0, 0, default, 0]);
}

pub fn system_calls() {
    let output = command(&["/probe", "probe", "syscalls"]).with_probe().run();
    let (eperm, enosys) = (libc::EPERM, libc::ENOSYS);
    let expected = format!(
        "inet=0\nalg={eperm}\nalg-high={eperm}\nvsock={eperm}\nvsock-high={eperm}\npacket={eperm}\npacket-high={eperm}\nunshare={eperm}\n\
         clone3={enosys}\nkeyctl={eperm}\nio_uring={eperm}\nunknown={enosys}\nx32={enosys}\n"
    );
    assert_eq!(output.stdout, expected);
}

/// A FIFO, a device, a directory or a huge file as passwd: no hang, no memory, no escape.
pub fn passwd_traps() {
    let canary = Canary::new();
    for trap in ["fifo", "directory", "link", "huge", "device"] {
        let result = outcome(shell("grep Uid /proc/self/status").with(|b| {
            let path = b.rootfs.join("etc/passwd");
            std::fs::remove_file(&path).unwrap();
            b.spec.process.as_mut().unwrap().user.username = "1000".into();
            match trap {
                "fifo" => {
                    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o644), 0)
                        .unwrap()
                }
                "device" => rustix::fs::mknodat(
                    rustix::fs::CWD,
                    &path,
                    rustix::fs::FileType::CharacterDevice,
                    rustix::fs::Mode::from_raw_mode(0o644),
                    rustix::fs::makedev(1, 5),
                )
                .unwrap(),
                "directory" => std::fs::create_dir(&path).unwrap(),
                "link" => symlink(canary.0.join("secret"), &path).unwrap(),
                _ => std::fs::File::create(&path).unwrap().set_len(4 << 30).unwrap(),
            }
        }));
        assert_eq!(result, Ok((0, "Uid:\t1000\t1000\t1000\t1000\n".into())), "{trap}");
    }
}

/// CVE-2021-30465, 2019-19921, 2023-27561, 2024-45310: another container swaps a directory of a shared volume for a link
/// while mounts are made below it.
pub fn shared_volume_race() {
    let canary = Canary::new();
    let volume = directory("shared");
    std::fs::create_dir(volume.join("a")).unwrap();
    symlink("/".to_owned() + &"../".repeat(10) + canary.0.join("dir").to_str().unwrap(), volume.join("b")).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let swapping = {
        let (stop, a, b) = (stop.clone(), volume.join("a"), volume.join("b"));
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let _ = rustix::fs::renameat_with(rustix::fs::CWD, &a, rustix::fs::CWD, &b, rustix::fs::RenameFlags::EXCHANGE);
            }
        })
    };
    for _ in 0..60 {
        let mut builder = shell("true").bind(&volume, "/vol", &[]);
        for number in 0..8 {
            builder.spec.mounts.push(Mount {
                destination: format!("/vol/a/deep{number}"),
                kind: "tmpfs".into(),
                source: "tmpfs".into(),
                ..Mount::default()
            });
        }
        let _ = outcome(builder);
        canary.check();
    }
    stop.store(true, Ordering::Relaxed);
    swapping.join().unwrap();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(canary.0.to_str().unwrap()));
}

/// CVE-2025-52881: a fake /proc over the real one does not redirect what is written for the container.
pub fn sysctls_reach_only_their_files() {
    let fake = directory("fake-proc");
    std::fs::create_dir_all(fake.join("sys/net/ipv4")).unwrap();
    symlink("/canary", fake.join("sys/net/ipv4/ip_forward")).unwrap();
    let builder = shell("cat /canary").with(|b| {
        std::fs::write(b.rootfs.join("canary"), "untouched\n").unwrap();
        b.spec.linux_mut().sysctl.insert("net.ipv4.ip_forward".into(), "1".into());
        b.spec.linux_mut().masked_paths.clear();
        b.spec.linux_mut().readonly_paths.clear();
    });
    let output = outcome(builder.bind(&fake, "/proc", &[]));
    assert_eq!(output, Err("/proc cannot be mounted because it is inside /proc".into()));
    let without = command(&["cat", "/proc/sys/net/ipv4/ip_forward"])
        .with(|b| drop(b.spec.linux_mut().sysctl.insert("net.ipv4.ip_forward".into(), "1".into())));
    assert_eq!(without.run().stdout, "1\n");
    let (_, message) = command(&["true"]).with(|b| drop(b.spec.linux_mut().sysctl.insert("kernel.core_pattern".into(), "x".into()))).fail();
    assert_eq!(message, "sysctl \"kernel.core_pattern\" is not in a separate kernel namespace");
}

/// CVE-2016-9962, 2024-21626: no descriptor of the host, neither inherited nor to be seen in a process on its way in.
pub fn no_descriptors() {
    assert_eq!(shell("ls /proc/self/fd").run().stdout, "0\n1\n2\n3\n");
    let mut running = command(&["/probe", "probe", "watch-fds"]).with_probe().start();
    running.read_until("watching");
    let end = std::time::Instant::now() + std::time::Duration::from_millis(1500);
    while std::time::Instant::now() < end {
        assert_eq!(running.exec_run(&["true"]).2, 0);
    }
    std::fs::write(running.rootfs.join("over"), "").unwrap();
    let output = running.finish();
    assert_eq!(output.stdout.replace("watching\n", ""), "done\n");
}
