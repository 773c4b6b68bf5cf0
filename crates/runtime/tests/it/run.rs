//! Starting, streams, identity, file systems, namespaces.

use crate::rig::{self, command, directory, shell, spawner};
use naru_runtime::FailureReason;
use naru_runtime::monitor::{Event, Request, Response};
use naru_runtime::spec::{Hook, Hooks, IdMapping, Namespace, NamespaceKind, Rlimit};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

pub fn exit_codes() {
    for code in [0, 42, 255] {
        let output = shell(&format!("exit {code}")).run();
        assert_eq!((output.code, output.record.signal), (code, None));
    }
    let running = shell("sleep 1000").start();
    running.kill(9);
    let output = running.finish();
    assert_eq!((output.code, output.record.signal), (137, Some(9)));
}

pub fn streams() {
    let output = shell("echo out; echo err >&2; echo again").run();
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\nagain\n", "err\n"));
    // What a child of the first process writes at the very end is not lost.
    let output = shell("seq 1 100000").run();
    assert_eq!(output.stdout.lines().count(), 100_000);
    assert!(output.stdout.ends_with("100000\n"));
}

pub fn standard_input() {
    let mut running = shell("cat; echo end").with(|b| b.stdin = true).start();
    running.write("one\n");
    running.write(&"x".repeat(300_000));
    running.end_input();
    let output = running.finish();
    assert_eq!(output.stdout.len(), 4 + 300_000 + 4);
    // Without standard input it is /dev/null.
    assert_eq!(shell("cat; readlink /proc/self/fd/0").run().stdout, "/dev/null\n");
    // A client that goes away ends it too when it was the only one to come.
    let running = shell("cat; echo end > /tmp/end").with(|b| b.stdin = true).start();
    let root = running.rootfs.clone();
    let mut watch = running.watch;
    drop(running.stream);
    while !matches!(naru_runtime::monitor::receive_event(&mut watch).unwrap(), Some(Event::Exited(_))) {}
    assert_eq!(std::fs::read_to_string(root.join("tmp/end")).unwrap(), "end\n");
}

pub fn terminal() {
    let mut running = shell("tty; stty size; ls -l /dev/console; test -t 2 && echo yes; read line; stty size; echo got $line")
        .with(|b| {
            b.tty = true;
            b.stdin = true;
            b.spec.process.as_mut().unwrap().console_size = Some(naru_runtime::spec::ConsoleSize { height: 33, width: 99 });
        })
        .start();
    let first = running.read_until("yes");
    assert!(first.contains("/dev/pts/0\r\n33 99\r\n"), "{first}");
    assert!(first.contains("/dev/console"), "{first}");
    assert_eq!(running.ask(&Request::Resize { exec: None, rows: 20, columns: 70 }), Response::Ok);
    running.write("word\n");
    let output = running.finish();
    assert_eq!(output.code, 0);
    assert!(output.stdout.contains("20 70\r\ngot word\r\n"), "{}", output.stdout);
}

pub fn start_failures() {
    let write = |b: &rig::Builder, name: &str, content: &[u8], mode: u32| {
        let path = b.rootfs.join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    };
    let mut foreign = std::fs::read("/bin/busybox").unwrap()[..4096].to_vec();
    foreign[18] = 183;
    for (program, reason, message) in [
        ("foo", FailureReason::NotFound, "exec: \"foo\": executable file not found in $PATH"),
        ("/x", FailureReason::NotFound, "exec: \"/x\": stat /x: no such file or directory"),
        ("/etc", FailureReason::PermissionDenied, "exec: \"/etc\": is a directory"),
        ("/etc/passwd", FailureReason::PermissionDenied, "exec: \"/etc/passwd\": permission denied"),
        (
            "/script",
            FailureReason::NotFound,
            "exec /script: no such file or directory: its interpreter \"/bin/nothing\" does not exist in the container",
        ),
        ("/foreign", FailureReason::PermissionDenied, "exec /foreign: exec format error: the file is for aarch64, this machine is x86_64"),
        (
            "/text",
            FailureReason::PermissionDenied,
            "exec /text: exec format error: neither an ELF program nor a script with an interpreter line",
        ),
    ] {
        let builder = command(&[program]);
        write(&builder, "script", b"#!/bin/nothing\n", 0o755);
        write(&builder, "foreign", &foreign, 0o755);
        write(&builder, "text", b"hello", 0o755);
        assert_eq!(builder.fail(), (reason, message.to_owned()));
    }
    let (reason, message) = command(&["true"]).with(|b| b.spec.process.as_mut().unwrap().cwd = "/nowhere".into()).fail();
    assert_eq!(reason, FailureReason::NotFound);
    assert!(message.contains("chdir to cwd (\"/nowhere\")"), "{message}");
    let (reason, message) = command(&["true"]).bind(Path::new("/nonexistent-naru"), "/mnt", &[]).fail();
    assert_eq!(reason, FailureReason::Other);
    assert_eq!(message, "error mounting \"/nonexistent-naru\" to rootfs at \"/mnt\": no such file or directory");
    let (_, message) = command(&["true"]).with(|b| b.spec.process.as_mut().unwrap().user.username = "ghost".into()).fail();
    assert_eq!(message, "unable to find user ghost: no matching entries in passwd file");
}

pub fn identity() {
    let user = |name: &str| {
        let name = name.to_owned();
        command(&["sh", "-c", "id -u; id -g; id -G; echo $HOME"])
            .with(|b| b.spec.process.as_mut().unwrap().user.username = name)
            .run()
            .stdout
    };
    assert_eq!(user("root"), "0\n0\n0\n/root\n");
    assert_eq!(user("app"), "1000\n1001\n1001 29\n/home/app\n");
    assert_eq!(user("1000:5"), "1000\n5\n5\n/home/app\n");
    assert_eq!(user("4242"), "4242\n0\n0\n/\n");
    let output = shell("umask; ulimit -n; cat /proc/self/oom_score_adj; grep NoNewPrivs /proc/self/status; pwd; hostname; cat /dev/stdin; echo x > /dev/stdout")
        .with(|b| {
            let process = b.spec.process.as_mut().unwrap();
            process.user.umask = Some(0o077);
            process.user.uid = 1000;
            process.rlimits = vec![Rlimit { kind: "RLIMIT_NOFILE".into(), soft: 100, hard: 200 }];
            process.oom_score_adj = Some(500);
            process.no_new_privileges = true;
            process.cwd = "/tmp".into();
            b.spec.hostname = "box".into();
        })
        .run();
    assert_eq!(output.stdout, "0077\n100\n500\nNoNewPrivs:\t1\n/tmp\nbox\nx\n", "{}", output.stderr);
}

pub fn file_systems() {
    let output = shell(
        "mount | grep -c 'on /proc/sys type proc (ro'; ls /dev | grep -v '^core$' | sort | tr '\\n' ' '; echo; mount | grep '/data ' ; touch /x; \
         cat /copied/inside; df -k /data | awk 'NR==2{print $2}'; stat -c %a /data /dev/shm; ls /sys/fs/cgroup | wc -l; touch /sys/fs/cgroup/x; \
         cat /proc/sys/net/ipv4/ip_forward; cat /proc/sys/kernel/shmmax",
    )
    .with(|b| {
        std::fs::create_dir(b.rootfs.join("copied")).unwrap();
        std::fs::write(b.rootfs.join("copied/inside"), "copied\n").unwrap();
        std::fs::create_dir(b.rootfs.join("data")).unwrap();
        std::fs::set_permissions(b.rootfs.join("data"), PermissionsExt::from_mode(0o751)).unwrap();
        b.spec.root.as_mut().unwrap().readonly = true;
        let sysctl = &mut b.spec.linux_mut().sysctl;
        sysctl.insert("net.ipv4.ip_forward".into(), "1".into());
        sysctl.insert("kernel.shmmax".into(), "12345".into());
    })
    .mount("/data", "tmpfs", "tmpfs", &["size=1024k", "noexec"])
    .mount("/copied", "tmpfs", "tmpfs", &["tmpcopyup", "ro"])
    .run();
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(lines[0], "1", "{output:?}");
    assert_eq!(lines[1], "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero ");
    assert!(lines[2].contains("noexec") && lines[2].contains("size=1024k"), "{}", lines[2]);
    assert_eq!(&lines[3..7], ["copied", "1024", "751", "1777"]);
    assert_ne!(lines[7], "0");
    assert_eq!(&lines[8..], ["1", "12345"]);
    assert!(output.stderr.contains("/x: Read-only file system") && output.stderr.contains("cgroup/x"), "{}", output.stderr);
}

pub fn volumes() {
    let volume = directory("volume");
    std::fs::write(volume.join("file"), "content").unwrap();
    let file = volume.join("file");
    let output = shell("cat /deep/er/vol/file; echo new > /deep/er/vol/new; echo x > /ro/file; cat /etc/one; mount | grep -c ' /ro '")
        .bind(&volume, "/deep/er/vol", &[])
        .bind(&volume, "/ro", &["rro", "nosuid"])
        .bind(&file, "/etc/one", &["ro"])
        .run();
    assert_eq!(output.stdout, "contentcontent1\n", "{}", output.stderr);
    assert!(output.stderr.contains("Read-only"), "{}", output.stderr);
    assert_eq!(std::fs::read_to_string(volume.join("new")).unwrap(), "new\n");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "content");
    // A file onto a directory.
    let (reason, message) = command(&["true"]).bind(&file, "/tmp", &[]).fail();
    assert_eq!(reason, FailureReason::Other);
    assert!(message.contains("not a directory"), "{message}");
}

pub fn init_reaps_and_forwards() {
    let mut running = shell(
        "(sleep 0.05 &) ; trap 'echo term; exit 7' TERM; echo pid $$; sleep 0.3; ps | grep -c '\\[sleep\\]'; while :; do sleep 0.05; done",
    )
    .with(|b| b.init = true)
    .start();
    running.read_until("pid ");
    let rest = running.read_until("0\n");
    assert!(!rest.contains("pid 1\n"), "{rest}");
    running.kill(15);
    let output = running.finish();
    assert_eq!((output.code, output.stdout.as_str()), (7, "term\n"));
    assert_eq!(command(&["nothing"]).with(|b| b.init = true).fail().1, "exec: \"nothing\": executable file not found in $PATH");
}

pub fn network_namespaces() {
    let namespace = spawner().network_namespace().unwrap();
    let again = spawner().route_socket(std::os::fd::AsFd::as_fd(&namespace.ns)).unwrap();
    let inode = rustix::fs::fstat(&namespace.ns).unwrap().st_ino;
    assert_ne!(inode, std::fs::metadata("/proc/self/ns/net").unwrap().ino());
    let output = shell("readlink /proc/self/ns/net; ip link show lo | head -1").with(|b| b.network = Some(namespace.ns)).run();
    assert!(output.stdout.contains(&format!("net:[{inode}]")), "{}", output.stdout);
    assert!(output.stdout.contains("UP"), "{}", output.stdout);
    drop((namespace.route, again));
    assert!(shell("ip link show lo").run().stdout.contains("UP"));
    let host = shell("readlink /proc/self/ns/net")
        .with(|b| b.spec.linux_mut().namespaces.retain(|namespace| namespace.kind != NamespaceKind::Network))
        .run();
    assert_eq!(host.stdout.trim(), std::fs::read_link("/proc/self/ns/net").unwrap().to_str().unwrap());
}

pub fn user_namespace() {
    let output = shell("id -u; cat /proc/self/uid_map; touch /tmp/made; echo x > /dev/null && echo null; mount | grep -c 'type proc'; cat /sys/kernel/mm/transparent_hugepage/enabled > /dev/null; ls /dev/pts")
        .with(|b| {
            let linux = b.spec.linux_mut();
            linux.namespaces.push(Namespace { kind: NamespaceKind::User, path: String::new() });
            linux.uid_mappings = vec![IdMapping { container_id: 0, host_id: 100_000, size: 65_536 }];
            linux.gid_mappings = linux.uid_mappings.clone();
        })
        .start();
    let root = output.rootfs.clone();
    let output = output.finish();
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(lines[0], "0", "{output:?}");
    assert_eq!(lines[1].split_whitespace().collect::<Vec<_>>(), ["0", "100000", "65536"]);
    assert_eq!(lines[2], "null", "{output:?}");
    assert_eq!(std::fs::metadata(root.join("tmp/made")).unwrap().uid(), 100_000);
}

pub fn hooks() {
    let place = directory("hooks");
    let hook = |name: &str, inside: bool| {
        let target = if inside { "/tmp/hook".to_owned() } else { place.join(name).display().to_string() };
        Hook {
            path: "/bin/sh".into(),
            args: vec!["sh".into(), "-c".into(), format!("cat >> {target}; echo {name} >> {target}")],
            ..Hook::default()
        }
    };
    let running = shell("cat /tmp/hook")
        .with(|b| {
            b.spec.hooks = Some(Hooks {
                prestart: vec![hook("prestart", false)],
                create_runtime: vec![hook("createRuntime", false)],
                create_container: vec![hook("createContainer", false)],
                start_container: vec![hook("startContainer", true)],
                poststart: vec![hook("poststart", false)],
                poststop: vec![hook("poststop", false)],
            });
        })
        .start();
    let (id, pid) = (running.id.clone(), running.pid);
    let output = running.finish();
    assert!(output.stdout.contains("startContainer"), "{output:?}");
    for (name, status) in [
        ("prestart", "creating"),
        ("createRuntime", "creating"),
        ("createContainer", "created"),
        ("poststart", "running"),
        ("poststop", "stopped"),
    ] {
        let text = std::fs::read_to_string(place.join(name)).unwrap();
        assert!(text.contains(id.as_str()) && text.contains(status) && text.ends_with(&format!("{name}\n")), "{text}");
        if name == "poststart" {
            assert!(text.contains(&format!("\"pid\":{pid}")), "{text}");
        }
    }
    let (_, message) = command(&["true"])
        .with(|b| {
            let failing = Hook { path: "/bin/false".into(), args: vec!["false".into()], ..Hook::default() };
            b.spec.hooks = Some(Hooks { prestart: vec![failing], ..Hooks::default() });
        })
        .fail();
    assert!(message.starts_with("prestart hook #0 (/bin/false)"), "{message}");
}

/// Neither the host's mounts nor processes nor namespaces remember a container.
pub fn keeps_nothing() {
    let mounts = || std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let before = mounts();
    let running = shell("true").start();
    let (id, directory) = (running.id.clone(), running.directory.clone());
    running.finish();
    let after = mounts();
    let new: Vec<&str> = after.lines().filter(|line| !before.contains(line) && line.contains(id.as_str())).collect();
    assert!(new.is_empty(), "{new:?}");
    let files: Vec<String> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(files, ["exit.json"]);
}

pub fn joined_namespaces() {
    let first = shell("sleep 100").start();
    let path = |kind: &str| format!("/proc/{}/ns/{kind}", first.pid);
    let output = shell("ps | grep -c '[s]leep 100'; hostname; readlink /proc/self/ns/net; readlink /proc/self/ns/ipc")
        .with(|b| {
            for namespace in &mut b.spec.linux_mut().namespaces {
                namespace.path = match namespace.kind {
                    NamespaceKind::Pid => path("pid"),
                    NamespaceKind::Network => path("net"),
                    NamespaceKind::Ipc => path("ipc"),
                    NamespaceKind::Uts => path("uts"),
                    _ => continue,
                };
            }
        })
        .run();
    let link = |kind: &str| std::fs::read_link(path(kind)).unwrap().display().to_string();
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(lines[0], "1", "{output:?}");
    assert_eq!(&lines[2..], [link("net"), link("ipc")]);
    first.kill(9);
    first.finish();
}
