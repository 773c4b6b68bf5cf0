//! Attacks on what lies around containers: the engine's folders and sockets, host programs, values that become text in
//! files, links that move while files are copied, and an engine that is hostile to its client.

use naru_e2e::{BOX, Over, name, program, rounds, shared};
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

/// CVE-2014-3499, CVE-2021-41091: another user of the host reaches neither the engine's files nor its sockets.
#[test]
fn other_users_of_the_host_are_kept_out() {
    let daemon = shared();
    let name = name("kept-out");
    daemon.ok(&["run", "-d", "--name", &name, "-v", "/data", BOX, "sh", "-c", "touch /tmp/up; chmod 4755 /tmp/up; sleep 1000"]);
    let id = daemon.inspect(&name)["Id"].as_str().unwrap().to_owned();
    let mut sockets = 0;
    let mut folders = vec![daemon.root.join("d"), daemon.root.join("e")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(status) = entry.metadata() else { continue };
            if status.file_type().is_socket() {
                sockets += 1;
                assert_eq!(status.mode() & 0o002, 0, "{}", entry.path().display());
            } else if status.is_dir() && !entry.path().ends_with("upper") && !entry.path().ends_with("_data") {
                folders.push(entry.path());
            }
        }
    }
    assert!(sockets > 0, "a container that runs has a monitor with a socket");
    assert_eq!(std::fs::metadata(daemon.socket()).unwrap().mode() & 0o007, 0);
    let as_other = |script: &str| {
        const NOBODY: u32 = 65_534;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).current_dir("/").uid(NOBODY).gid(NOBODY);
        command.output().unwrap().status.success()
    };
    assert!(as_other("true"), "the check itself works");
    let (data, exec) = (daemon.root.join("d"), daemon.root.join("e"));
    for script in [
        format!("ls {}", data.display()),
        format!("ls {}", exec.display()),
        format!("ls {}/containers/{id}/upper/tmp/up", data.display()),
        format!("cat {}/logs/{id}/{id}-json.log", data.display()),
        format!("cat {}/naru.db", data.display()),
    ] {
        assert!(!as_other(&script), "{script}");
    }
    daemon.ok(&["rm", "-fv", &name]);
}

/// CVE-2020-15257: a container in the host's network finds no abstract socket of the engine.
#[test]
fn the_host_s_network_has_no_socket_of_the_engine() {
    let daemon = shared();
    let name = name("abstract");
    daemon.ok(&["run", "-d", "--name", &name, "--network", "host", BOX, "sleep", "1000"]);
    let sockets = daemon.ok(&["exec", &name, "cat", "/proc/net/unix"]);
    assert!(sockets.lines().count() > 1, "the check itself works");
    let own =
        |line: &&str| line.split_whitespace().nth(7).is_some_and(|path| path.starts_with('@') && path.to_lowercase().contains("naru"));
    assert_eq!(sockets.lines().find(own), None);
    daemon.ok(&["rm", "-f", &name]);
}

/// CVE-2016-3697, CVE-2024-40635, CVE-2026-30892: a number is a number, and none becomes root.
#[test]
fn numbers_of_users_mean_what_they_say() {
    let daemon = shared();
    let name = name("users");
    let names = "echo '1234:x:0:0::/:' >> /etc/passwd; echo '4294967296:x:0:0::/:' >> /etc/passwd; sleep 1000";
    daemon.ok(&["run", "-d", "--name", &name, BOX, "sh", "-c", names]);
    daemon.until("they are there", || daemon.run(&["exec", &name, "grep", "-q", "4294967296", "/etc/passwd"]).code == 0);
    for (user, id) in [("1", "1:0"), ("1234", "1234:0"), ("1:", "1:0"), ("2:3", "2:3"), ("bob", "1000:1000"), (":7", "0:7"), ("20", "20:0")]
    {
        let result = daemon.run(&["exec", "-u", user, &name, "sh", "-c", "echo $(id -u):$(id -g)"]);
        assert!(result.code != 0 || result.out.trim() == id, "{user}: {result:?}");
    }
    for user in ["4294967296", "4294967295", "2147483648", "-1", "1:4294967296", "0x0", "1e0", "root\n"] {
        let result = daemon.run(&["exec", "-u", user, &name, "id", "-u"]);
        assert!(result.code != 0 && !result.out.starts_with('0'), "{user}: {result:?}");
    }
    daemon.ok(&["rm", "-f", &name]);
}

/// CVE-2014-9357, CVE-2019-14271, CVE-2026-41567: nothing that an image brings is run by the engine.
#[test]
fn no_program_of_a_container_is_run_from_outside() {
    let daemon = shared();
    let name = name("helpers");
    let plant = "for p in xz unxz gzip gunzip zstd unpigz tar git nsenter ip iptables nft mount; do \
                 rm -f /bin/$p; printf '#!/bin/busybox sh\\necho ran >> /mark\\n' > /bin/$p; chmod 755 /bin/$p; done";
    daemon.ok(&["run", "--name", &name, BOX, "sh", "-c", plant]);
    let host = tempfile::tempdir().unwrap();
    let path = |file: &str| host.path().join(file).display().to_string();
    std::fs::write(path("file"), "x").unwrap();
    daemon.ok(&["start", &name]);
    daemon.ok(&["cp", &path("file"), &format!("{name}:/tmp/")]);
    daemon.ok(&["cp", &format!("{name}:/bin"), &path("back")]);
    daemon.ok(&["export", "-o", &path("export.tar"), &name]);
    let tag = format!("{name}:1");
    daemon.ok(&["commit", &name, &tag]);
    daemon.ok(&["save", "-o", &path("save.tar"), &tag]);
    daemon.ok(&["load", "-i", &path("save.tar")]);
    daemon.ok(&["run", "--rm", "-p", "127.0.0.1::80", "-v", "/data", "--tmpfs", "/t", &tag, "true"]);
    let changes = daemon.ok(&["diff", &name]);
    assert!(changes.contains("/bin/xz") && !changes.contains("/mark"), "{changes}");
    daemon.ok(&["rm", &name]);
    daemon.ok(&["rmi", &tag]);
}

/// CVE-2022-0811, CVE-2022-4318: a value never becomes a second line or a second setting.
#[test]
fn values_stay_values() {
    let daemon = shared();
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    for setting in [
        "kernel.shm_rmid_forced=1+kernel.core_pattern=|/x",
        "kernel.shm_rmid_forced=1\nkernel.core_pattern=|/x",
        "net.ipv4.ip_forward=1=2",
        "net/../kernel/core_pattern=|/x",
        "net.ipv4/../../kernel.core_pattern=|/x",
        "net.../kernel/core_pattern=|/x",
        "kernel.core_pattern=|/x",
    ] {
        daemon.run(&["run", "--rm", "--sysctl", setting, BOX, "true"]);
        assert_eq!(std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), pattern, "{setting:?}");
    }
    let line = "x\nevil:x:0:0::/:/bin/sh";
    let home = format!("HOME={line}");
    assert_eq!(daemon.ok(&["run", "--rm", "-e", &home, "-e", "USER=x\ny", BOX, "grep", "-c", "", "/etc/passwd"]), "2");
    for flags in [["--hostname", line], ["--add-host", "x\ny:1.2.3.4"], ["--dns-search", "x\nnameserver 6.6.6.6"]] {
        let script = "cat /etc/passwd /etc/hosts /etc/resolv.conf";
        let shown = daemon.run(&["run", "--rm", flags[0], flags[1], BOX, "sh", "-c", script]);
        let broken =
            |text: &str| text.lines().any(|line| line.starts_with("evil:") || line.starts_with("y:") || line.starts_with("nameserver 6.6"));
        assert!(!broken(&shown.out), "{flags:?}: {shown:?}");
    }
}

/// CVE-2018-15664: files that are copied while links move never come from, or go to, the host.
#[test]
fn links_that_move_lead_no_copy_outside() {
    let daemon = shared();
    let name = name("racer");
    let canary = tempfile::tempdir().unwrap();
    std::fs::write(canary.path().join("note"), "of the host").unwrap();
    let at = canary.path().display();
    let script = format!(
        "mkdir -p /real{at} /w; echo inside > /real{at}/note; ln -s {at} /link; mkdir -p /w/dir; echo inside > /w/note; mv /w/note /w/dir/note; \
         while :; do mv /w/dir /w/x; ln -s {at} /w/dir; rm /w/dir; mv /w/x /w/dir; done"
    );
    daemon.ok(&["run", "-d", "--name", &name, BOX, "sh", "-c", &script]);
    let host = tempfile::tempdir().unwrap();
    let planted = host.path().join("planted").display().to_string();
    std::fs::write(&planted, "planted").unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _over = Over(&over);
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                daemon.run(&["cp", &planted, &format!("{name}:/w/dir/")]);
            }
        });
        for round in 0..rounds(150) {
            let to = host.path().join(format!("back-{round}"));
            if daemon.run(&["cp", &format!("{name}:/w/dir/note"), &to.display().to_string()]).code == 0 {
                assert_eq!(std::fs::read_to_string(&to).unwrap(), "inside\n");
            }
        }
    });
    assert_eq!(std::fs::read_dir(canary.path()).unwrap().count(), 1, "nothing was planted");
    assert_eq!(std::fs::read_to_string(canary.path().join("note")).unwrap(), "of the host");
    daemon.ok(&["rm", "-f", &name]);
}

/// The client has ended, or there was none: the engine that waits for it ends by a connection without a request.
struct Ended<'a>(&'a Path);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        drop(UnixStream::connect(self.0));
    }
}

/// Answers `cp` as an engine would, with that archive, until the client has gone.
fn hostile_engine(listener: &UnixListener, stat: &str, archive: &[u8]) {
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let mut request = Vec::new();
        let mut byte = [0];
        while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count == 1) {
            request.push(byte[0]);
        }
        if request.is_empty() {
            return;
        }
        let head = request.starts_with(b"HEAD");
        let last = request.starts_with(b"GET") && String::from_utf8_lossy(&request).contains("/archive");
        let body: &[u8] = if last { archive } else { b"" };
        let headers = format!(
            "HTTP/1.1 200 OK\r\nApi-Version: 1.47\r\nOstype: linux\r\nConnection: close\r\nContent-Type: application/x-tar\r\n\
             X-Docker-Container-Path-Stat: {stat}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(headers.as_bytes()).ok();
        if !head {
            stream.write_all(body).ok();
        }
        if last {
            return;
        }
    }
}

/// CVE-2026-17106: an engine that lies about its archive writes nothing beside the destination. Of Naru's own client,
/// whichever the others use: Docker's follows links of the archive.
#[test]
fn a_hostile_engine_writes_only_where_its_client_copies_to() {
    // {"name":"x","size":4096,"mode":2147484141,"mtime":"2026-01-01T00:00:00Z","linkTarget":""}
    let stat = "eyJuYW1lIjoieCIsInNpemUiOjQwOTYsIm1vZGUiOjIxNDc0ODQxNDEsIm10aW1lIjoiMjAyNi0wMS0wMVQwMDowMDowMFoiLCJsaW5rVGFyZ2V0IjoiIn0=";
    let root = tempfile::tempdir().unwrap();
    let canary = root.path().join("canary");
    let at = canary.display().to_string();
    let entry = crate::image::entry;
    let folder = || entry(b'5', "x/", "", b"");
    for (what, entries) in [
        ("dots", vec![folder(), entry(b'0', "x/../../canary/planted", "", b"evil")]),
        ("absolute", vec![folder(), entry(b'0', &format!("{at}/planted"), "", b"evil")]),
        ("through a link", vec![folder(), entry(b'2', "x/l", &at, b""), entry(b'0', "x/l/planted", "", b"evil")]),
        ("through a link up", vec![folder(), entry(b'2', "x/l", "../../canary", b""), entry(b'0', "x/l/planted", "", b"evil")]),
        ("the folder as a link", vec![entry(b'2', "x", &at, b""), entry(b'0', "x/planted", "", b"evil")]),
        ("over a link", vec![folder(), entry(b'2', "x/f", &format!("{at}/note"), b""), entry(b'0', "x/f", "", b"evil")]),
        ("a hard link", vec![folder(), entry(b'1', "x/h", &format!("{at}/note"), b""), entry(b'0', "x/h", "", b"evil")]),
        ("a hard link up", vec![folder(), entry(b'1', "x/h", "x/../../canary/note", b""), entry(b'0', "x/h", "", b"evil")]),
    ] {
        std::fs::remove_dir_all(&canary).ok();
        std::fs::create_dir(&canary).unwrap();
        std::fs::write(canary.join("note"), "of the host").unwrap();
        let here = root.path().join("here");
        std::fs::remove_dir_all(&here).ok();
        std::fs::create_dir(&here).unwrap();
        let socket = root.path().join("s");
        std::fs::remove_file(&socket).ok();
        let listener = UnixListener::bind(&socket).unwrap();
        let archive = crate::image::archive(&entries);
        std::thread::scope(|scope| {
            scope.spawn(|| hostile_engine(&listener, stat, &archive));
            let _ended = Ended(&socket);
            let mut command = Command::new(program());
            command.args(["cp", "c1:/x", "."]).current_dir(&here).env("DOCKER_HOST", format!("unix://{}", socket.display()));
            let output = command.env("DOCKER_CONFIG", root.path().join("config")).stdin(Stdio::null()).output().unwrap();
            // A client that never came is a test that says nothing.
            assert!(!String::from_utf8_lossy(&output.stderr).contains("Cannot connect"), "{what}: {output:?}");
        });
        let left = |path: &Path| std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
        assert_eq!(left(&canary), ["note"], "{what}");
        assert_eq!(std::fs::read_to_string(canary.join("note")).unwrap(), "of the host", "{what}");
        assert_eq!(std::fs::metadata(canary.join("note")).unwrap().nlink(), 1, "{what}");
    }
}
