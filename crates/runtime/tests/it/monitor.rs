//! The monitor: execs, clients, logs, and its life without a daemon.

use crate::rig::{Running, cgroup_parent, command, directory, read_streams, read_until, shell, spawner};
use naru_runtime::FailureReason;
use naru_runtime::cgroup::Cgroup;
use naru_runtime::monitor::{self, Event, LogFile, Request, Response};
use naru_runtime::spawner::{Preparation, RuntimeKind, Spawner};
use naru_types::ContainerId;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub fn exec() {
    let mut running = shell("sleep 1000").start();
    assert_eq!(running.exec_run(&["sh", "-c", "echo out; echo err >&2; exit 3"]), ("out\n".into(), "err\n".into(), 3));
    let (namespaces, _, _) =
        running.exec_run(&["sh", "-c", "for n in mnt pid net cgroup; do readlink /proc/self/ns/$n; readlink /proc/1/ns/$n; done"]);
    let lines: Vec<&str> = namespaces.lines().collect();
    assert_eq!(lines.len(), 8, "{namespaces}");
    for pair in lines.chunks(2) {
        assert_eq!(pair[0], pair[1]);
    }
    let (status, _, _) = running.exec_run(&[
        "sh",
        "-c",
        "grep -E 'CapInh|CapEff|Seccomp:' /proc/self/status; cat /proc/self/cgroup | sort -u; echo $HOME; ls /proc/self/fd",
    ]);
    assert!(status.contains("CapInh:\t0000000000000000\nCapEff:\t00000000a80425fb\nSeccomp:\t2\n"), "{status}");
    assert!(status.contains("/root\n0\n1\n2\n3\n"), "{status}");
    // Standard input and its end.
    let mut request = Running::exec_request("input", &["cat"]);
    request.stdin = true;
    let (mut stream, _) = running.exec(request);
    stream.write_all(b"hello").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_streams(&mut stream, false).0, "hello");
    // As a user of the image, detached.
    let mut request = Running::exec_request("detached", &["sh", "-c", "id -un > /tmp/who; sleep 0.1; exit 9"]);
    request.process.user.username = "app".into();
    request.detach = true;
    let (mut stream, response) = running.exec(request);
    assert!(matches!(response, Response::ExecStarted { pid } if pid > 1));
    assert_eq!(stream.read(&mut [0; 10]).unwrap(), 0);
    loop {
        if let Some(Event::ExecExited { id, code }) = running.event()
            && id == "detached"
        {
            break assert_eq!(code, 9);
        }
    }
    assert_eq!(std::fs::read_to_string(running.rootfs.join("tmp/who")).unwrap(), "app\n");
    running.kill(9);
    running.finish();
}

pub fn exec_terminal() {
    let running = shell("sleep 1000").start();
    let mut request = Running::exec_request("t", &["sh", "-c", "tty; stty size; read x; stty size; echo got $x; exit 4"]);
    request.tty = true;
    request.stdin = true;
    request.console_size = Some((30, 90));
    let (mut stream, response) = running.exec(request);
    assert!(matches!(response, Response::ExecStarted { .. }), "{response:?}");
    assert!(read_until(&mut stream, "30 90").contains("/dev/pts/0"));
    assert_eq!(running.ask(&Request::Resize { exec: Some("t".into()), rows: 10, columns: 40 }), Response::Ok);
    stream.write_all(b"word\n").unwrap();
    let (rest, _) = read_streams(&mut stream, true);
    assert!(rest.contains("10 40") && rest.contains("got word"), "{rest}");
    running.kill(9);
    running.finish();
}

pub fn exec_failures() {
    let running = shell("sleep 1000").start();
    for (program, kind, message) in [
        ("foo", FailureReason::NotFound, "exec: \"foo\": executable file not found in $PATH"),
        ("/etc", FailureReason::PermissionDenied, "exec: \"/etc\": is a directory"),
    ] {
        let (mut stream, response) = running.exec(Running::exec_request("bad", &[program]));
        assert_eq!(response, Response::Error { kind, message: message.into() });
        assert_eq!(stream.read(&mut [0; 10]).unwrap(), 0);
    }
    assert!(matches!(
        running.ask(&Request::ExecSignal { exec: "bad".into(), signal: 9 }),
        Response::Error { kind: FailureReason::NotRunning, .. }
    ));
    // An exec ends with its container.
    let (mut stream, _) = running.exec(Running::exec_request("long", &["sleep", "1000"]));
    match running.ask(&Request::State) {
        Response::State(state) => assert_eq!(state.execs.len(), 1),
        other => panic!("{other:?}"),
    }
    running.kill(9);
    assert_eq!(read_streams(&mut stream, false), (String::new(), String::new()));
    running.finish();
}

pub fn attach_and_watch() {
    let mut running = shell("read go; echo begin; read x; echo end $x")
        .with(|b| {
            b.stdin = true;
            b.stdin_once = false;
        })
        .start();
    let mut second = running.connect();
    monitor::send_request(&mut second, &Request::Attach { stdin: true, stdout: true, stderr: false }).unwrap();
    assert_eq!(monitor::receive_response(&mut second).unwrap(), Response::Ok);
    let mut watch = running.connect();
    monitor::send_request(&mut watch, &Request::Watch).unwrap();
    assert!(matches!(monitor::receive_event(&mut watch).unwrap(), Some(Event::Started { pid, .. }) if pid == running.pid));
    running.write("go\n");
    read_until(&mut second, "begin\n");
    running.read_until("begin\n");
    // Its own end does not close a container's standard input that others may use.
    running.end_input();
    second.write_all(b"done\n").unwrap();
    assert_eq!(read_streams(&mut second, false).0, "end done\n");
    let Some(Event::Exited(record)) = monitor::receive_event(&mut watch).unwrap() else { panic!("no exit") };
    assert_eq!(running.finish().record, record);
}

/// The daemon's connections close; the container does not notice, and what it writes is in the log.
pub fn survives_the_daemon() {
    let place = directory("log");
    let path = place.join("container.log");
    let log = LogFile {
        path: path.clone(),
        max_size: None,
        max_files: 1,
        compress: false,
        attrs: BTreeMap::from([("k".into(), "v".into())]),
        queue: None,
    };
    let running = shell("for i in $(seq 1 2000); do echo line $i; done; sleep 0.2; echo last; exit 5").with(|b| b.log = Some(log)).start();
    let (directory, pid) = (running.directory.clone(), running.pid);
    drop((running.watch, running.stream));
    let mut again = monitor::connect(&directory).unwrap();
    monitor::send_request(&mut again, &Request::Watch).unwrap();
    assert!(matches!(monitor::receive_event(&mut again).unwrap(), Some(Event::Started { pid: same, .. }) if same == pid));
    match monitor::receive_event(&mut again).unwrap() {
        Some(Event::Exited(record)) => assert_eq!(record.code, 5),
        other => panic!("{other:?}"),
    }
    assert!(monitor::connect(&directory).is_err());
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2001);
    assert_eq!(lines[0]["log"], "line 1\n");
    assert_eq!(lines[2000]["log"], "last\n");
    assert_eq!((lines[0]["stream"].as_str(), lines[0]["attrs"]["k"].as_str()), (Some("stdout"), Some("v")));
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
}

pub fn log_is_complete() {
    let path = directory("log").join("c.log");
    let log = LogFile { path: path.clone(), max_size: None, max_files: 1, compress: false, attrs: BTreeMap::new(), queue: None };
    let output =
        shell("seq 1 300000; printf 'no newline'; dd if=/dev/zero bs=40000 count=1 >&2 2>/dev/null").with(|b| b.log = Some(log)).run();
    let text = std::fs::read_to_string(&path).unwrap();
    let (mut stdout, mut stderr) = (String::new(), Vec::new());
    for line in text.lines() {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        let log = entry["log"].as_str().unwrap();
        if entry["stream"] == "stdout" {
            stdout += log;
        } else {
            stderr.push(log.len());
        }
    }
    assert_eq!(stdout, output.stdout);
    assert!(stdout.ends_with("300000\nno newline"));
    assert_eq!(stderr, [16384, 16384, 40000 - 2 * 16384]);
}

pub fn log_rotates() {
    let place = directory("log");
    let path = place.join("c.log");
    let log = LogFile { path: path.clone(), max_size: Some(20_000), max_files: 3, compress: true, attrs: BTreeMap::new(), queue: None };
    shell("seq 1 5000").with(|b| b.log = Some(log)).run();
    let mut names: Vec<String> =
        std::fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["c.log", "c.log.1.gz", "c.log.2.gz"]);
    let read = |name: &str| {
        let mut text = String::new();
        let bytes = std::fs::read(place.join(name)).unwrap();
        if name.ends_with(".gz") {
            flate2::read::GzDecoder::new(bytes.as_slice()).read_to_string(&mut text).unwrap();
            text
        } else {
            String::from_utf8(bytes).unwrap()
        }
    };
    let all = ["c.log.2.gz", "c.log.1.gz", "c.log"].map(read);
    assert!(all.iter().all(|text| text.len() <= 20_000));
    let numbers: Vec<u32> = all
        .concat()
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["log"].as_str().unwrap().trim().parse().unwrap())
        .collect();
    assert_eq!(*numbers.last().unwrap(), 5000);
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]));
}

/// While the disk is stuck (its writer is), a container with a queue goes on; what has room in the queue is not lost.
pub fn log_never_blocks() {
    let path = directory("log").join("c.log");
    let log = LogFile {
        path: path.clone(),
        max_size: None,
        max_files: 1,
        compress: false,
        attrs: BTreeMap::from([("k".into(), "v".into())]),
        queue: Some(64 << 10),
    };
    let script = "echo first; read go; seq 1 300000; echo fin > /tmp/fin; read go; echo last; printf end";
    let mut running = shell(script)
        .with(|b| {
            b.log = Some(log);
            b.stdin = true;
        })
        .start();
    running.read_until("first\n");
    let text = |pid: i32, file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let monitor: i32 = text(running.pid, "stat").rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap().parse().unwrap();
    let children = text(monitor, &format!("task/{monitor}/children"));
    let writer = children.split_whitespace().map(|pid| pid.parse().unwrap()).find(|pid| text(*pid, "comm") == "naru-log\n").unwrap();
    let signal = |signal| rustix::process::kill_process(rustix::process::Pid::from_raw(writer).unwrap(), signal).unwrap();
    let written = || std::fs::read_to_string(&path).unwrap();
    // Clients have a line sooner than the file.
    until("written what came first", || written().lines().count() == 1);
    signal(rustix::process::Signal::STOP);
    let mut stream = running.stream.try_clone().unwrap();
    let client = std::thread::spawn(move || read_streams(&mut stream, false).0);
    running.write("go\n");
    let fin = running.rootfs.join("tmp/fin");
    until("gone on", || fin.exists());
    assert_eq!(written().lines().count(), 1);
    signal(rustix::process::Signal::CONT);
    until("written what waited", || written().lines().count() > 2000);
    running.write("go\n");
    // Its stream has one reader at a time.
    assert_eq!(client.join().unwrap().lines().count(), 300_002, "clients get all");
    running.finish();
    let entries: Vec<serde_json::Value> = written().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(entries.iter().all(|entry| entry["attrs"]["k"] == "v"));
    let lines: Vec<&str> = entries.iter().map(|entry| entry["log"].as_str().unwrap()).collect();
    assert_eq!((lines[0], &lines[lines.len() - 2..]), ("first\n", &["last\n", "end"][..]));
    let numbers: Vec<u32> = lines.iter().filter_map(|line| line.trim_end().parse().ok()).collect();
    assert!((2000..250_000).contains(&numbers.len()), "{}", numbers.len());
    assert!(numbers[..2000].iter().copied().eq(1..=2000) && numbers.is_sorted(), "lines are whole and in their order");
    assert!(!std::path::Path::new(&format!("/proc/{writer}")).exists());
}

/// A client that does not read stops the stream at its buffer, not the container's other streams, and loses nothing.
pub fn slow_client() {
    let running = shell("yes 0123456789 | head -c 8000000; echo fin > /tmp/fin").start();
    let fin = running.rootfs.join("tmp/fin");
    std::thread::sleep(Duration::from_millis(300));
    assert!(!fin.exists(), "8 MB were buffered for a client that does not read");
    let output = running.finish();
    assert_eq!(output.stdout.len(), 8_000_000);
    // A client that goes away is dropped and the container goes on.
    let running = shell("yes 0123456789 | head -c 8000000; echo fin > /tmp/fin").start();
    let fin = running.rootfs.join("tmp/fin");
    let mut watch = running.watch;
    drop(running.stream);
    assert!(matches!(monitor::receive_event(&mut watch).unwrap(), Some(Event::Exited(_))));
    assert!(fin.exists());
}

pub fn signals() {
    let mut running = shell("trap 'echo usr1' USR1; trap 'exit 6' TERM; echo ready; while :; do sleep 0.02; done").start();
    running.read_until("ready");
    running.kill(10);
    running.read_until("usr1");
    assert!(matches!(running.ask(&Request::Signal { signal: 999 }), Response::Error { .. }));
    assert!(matches!(running.ask(&Request::Shutdown), Response::Error { .. }));
    running.kill(15);
    assert_eq!(running.finish().code, 6);
}

/// The children of a process with that name.
fn children(parent: u32, name: &str) -> Vec<u32> {
    let parent = format!("PPid:\t{parent}\n");
    let text = |pid: u32, file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let pids = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| text(*pid, "comm").trim() == name && text(*pid, "status").contains(&parent)).collect()
}

/// A spawner of its own, which answers, and its process; the guard keeps others from having one meanwhile.
fn own_spawner() -> (Spawner, u32, MutexGuard<'static, ()>) {
    static ONE: Mutex<()> = Mutex::new(());
    let guard = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    spawner().network_namespace().unwrap();
    let before = children(std::process::id(), "naru-spawner");
    let own = Spawner::launch().unwrap();
    own.network_namespace().unwrap();
    let new: Vec<u32> = children(std::process::id(), "naru-spawner").into_iter().filter(|pid| !before.contains(pid)).collect();
    let [pid] = new[..] else { panic!("{new:?}") };
    (own, pid, guard)
}

fn kill(pid: u32) {
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid as i32).unwrap(), rustix::process::Signal::KILL).unwrap();
}

#[track_caller]
fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "not {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn spawner_is_replaced() {
    let (own, pid, _guard) = own_spawner();
    let first = own.network_namespace().unwrap();
    kill(pid);
    let deadline = Instant::now() + Duration::from_secs(20);
    let second = loop {
        match own.network_namespace() {
            Ok(namespace) => break namespace,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    };
    assert_ne!(rustix::fs::fstat(&first.ns).unwrap().st_ino, rustix::fs::fstat(&second.ns).unwrap().st_ino);
}

/// The next container has the monitor that was forked before, if that lives; with the spawner's handle it ends.
pub fn forked_ahead() {
    let (own, pid, _guard) = own_spawner();
    let monitors = || children(pid, "naru-monitor");
    let prepare = || {
        let state = directory("ahead");
        let pending = own.prepare(Preparation { directory: state.clone(), log: None, cgroup: None, throwaway: false }).unwrap();
        until("made", || state.join("monitor.sock").exists());
        pending
    };
    own.warm_up().unwrap();
    own.warm_up().unwrap();
    until("forked", || monitors().len() == 1);
    let spare = monitors();
    let pending = prepare();
    assert_eq!(monitors(), spare, "another one was forked");
    drop(pending);
    own.warm_up().unwrap();
    until("forked", || monitors().len() == 1 && monitors() != spare);
    let spare = monitors();
    kill(spare[0]);
    until("dead", || monitors().is_empty());
    let pending = prepare();
    assert!(monitors().len() == 1 && monitors() != spare, "{:?}", monitors());
    drop(pending);
    own.warm_up().unwrap();
    until("forked", || monitors().len() == 1);
    let spare = monitors()[0];
    drop(own);
    // Whoever it is left to may be slow to reap it.
    until("ended", || !std::fs::read(format!("/proc/{spare}/cmdline")).is_ok_and(|words| !words.is_empty()));
}

/// Another runtime's program: this crate's own command line stands in for runc.
pub fn external() {
    let runtime = || RuntimeKind::External {
        program: std::fs::read_link("/proc/self/exe").unwrap(),
        args: vec!["oci".into()],
        bundle: directory("bundle"),
    };
    let mut running = shell("echo out; echo err >&2; read x; exit 6")
        .with(|b| {
            b.runtime = runtime();
            b.stdin = true;
        })
        .start();
    assert_eq!(running.exec_run(&["sh", "-c", "echo inside; exit 4"]), ("inside\n".into(), String::new(), 4));
    running.write("go\n");
    let output = running.finish();
    assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (6, "out\n", "err\n"));
    let (reason, message) = shell("")
        .with(|b| {
            b.runtime = runtime();
            b.spec.process.as_mut().unwrap().args = vec!["nothing".into()];
        })
        .fail();
    assert_eq!(reason, FailureReason::NotFound);
    assert!(message.contains("exec: \"nothing\": executable file not found in $PATH"), "{message}");
    let mut running = shell("tty; read x; echo got $x")
        .with(|b| {
            b.runtime = runtime();
            b.tty = true;
            b.stdin = true;
        })
        .start();
    running.read_until("/dev/pts/0");
    running.write("word\n");
    assert!(running.finish().stdout.contains("got word"));
}

/// A start that is called off takes back what the monitor has made for it. What it is told may be long: nobody reads it
/// before the fork.
pub fn called_off() {
    let state = directory("called-off");
    let cgroup = Cgroup::new(&format!("{}/called-off-{}", cgroup_parent(), std::process::id())).unwrap();
    let log = LogFile {
        path: state.join("log"),
        max_size: None,
        max_files: 1,
        compress: false,
        attrs: BTreeMap::from([("label".into(), "x".repeat(2 << 20))]),
        queue: Some(0),
    };
    let made = (cgroup.path().to_owned(), Default::default());
    let pending =
        spawner().prepare(Preparation { directory: state.clone(), log: Some(log), cgroup: Some(made), throwaway: false }).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !(cgroup.exists() && state.join("monitor.sock").exists()) {
        assert!(Instant::now() < deadline, "nothing is made");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(pending);
    assert!(!cgroup.exists() && !state.join("monitor.sock").exists());
}

/// All but the program is made before it may run; called off, nothing is left of it, and a failure is known before.
pub fn held() {
    let shared = directory("held");
    let container = || shell("echo ran > /shared/ran; echo said").bind(&shared, "/shared", &[]);
    // It waits for a word on the socket that its program will not have.
    let waits = |id: &ContainerId| {
        let pids = Cgroup::new(&format!("{}/{id}", cgroup_parent())).unwrap().pids().unwrap_or_default();
        let receives = format!("{} ", libc::SYS_recvmsg);
        pids.iter().any(|pid| std::fs::read_to_string(format!("/proc/{pid}/syscall")).is_ok_and(|call| call.starts_with(&receives)))
    };
    let mut first = container();
    let loaded = first.load();
    until("waiting", || waits(&first.id));
    assert!(!loaded.has_failed() && !shared.join("ran").exists());
    let mut running = first.launch_loaded(loaded);
    assert!(matches!(running.event(), Some(Event::Started { .. })));
    assert_eq!(running.finish().stdout, "said\n");
    assert_eq!(std::fs::read_to_string(shared.join("ran")).unwrap(), "ran\n");
    std::fs::remove_file(shared.join("ran")).unwrap();

    let mut second = container();
    let loaded = second.load();
    until("waiting", || waits(&second.id));
    let cgroup = Cgroup::new(&format!("{}/{}", cgroup_parent(), second.id)).unwrap();
    drop(loaded);
    assert!(!cgroup.exists() && !second.directory.join("monitor.sock").exists() && !shared.join("ran").exists());

    let mut third = command(&["/no/such/program"]);
    let loaded = third.load();
    until("failed", || loaded.has_failed());
    let mut running = third.launch_loaded(loaded);
    assert!(matches!(running.event(), Some(Event::StartFailed { reason: FailureReason::NotFound, .. })));
}

/// The end of a container that is not started again is told first; the end of the connection says that everything has gone.
/// Only where nobody hears of it is it written down.
pub fn thrown_away() {
    let mut running = shell("exit 3").with(|builder| builder.throwaway = true).start();
    let mut code = None;
    while let Some(event) = running.event() {
        if let Event::Exited(record) = event {
            assert_eq!(naru_runtime::monitor::read_exit_record(&running.directory).unwrap(), None);
            code = Some(record.code);
        }
    }
    assert_eq!(code, Some(3));
    assert!(!running.cgroup().exists() && !running.directory.join("monitor.sock").exists());

    let mut unheard = shell("read word; exit 4")
        .with(|builder| {
            builder.throwaway = true;
            builder.stdin = true;
        })
        .start();
    unheard.watch.shutdown(std::net::Shutdown::Both).unwrap();
    unheard.write("go\n");
    until("gone", || !unheard.directory.join("monitor.sock").exists());
    assert_eq!(naru_runtime::monitor::read_exit_record(&unheard.directory).unwrap().map(|record| record.code), Some(4));
    assert!(!unheard.cgroup().exists());
}
