//! How clients come in: sockets that were there before the daemon, the host they ask for; and what is left when they go.

use naru_e2e::{BOX, Daemon, PATIENCE, name, program, shared};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const PING: &[u8] = b"GET /_ping HTTP/1.0\r\n\r\n";

fn answer(mut stream: impl Read + Write) -> String {
    stream.write_all(PING).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// A daemon that has its sockets from somebody else: `pid` is what it is told of whose they are.
fn activated(root: &std::path::Path, pid: &str, sockets: [OwnedFd; 2]) -> Command {
    // The passed ones are the first two after the standard streams, as for every service that a manager starts.
    let script = format!("exec 3<&0 4<&1 </dev/null >/dev/null; LISTEN_FDS=2 LISTEN_PID={pid} exec \"$@\"");
    let [first, second] = sockets;
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &script, "sh"]).arg(program());
    command.args(["daemon", "-H", "fd://", "--config-file", "/dev/null", "--bridge", "none"]);
    command.arg("--data-root").arg(root.join("d")).arg("--exec-root").arg(root.join("e")).arg("--pidfile").arg(root.join("pid"));
    command.stdin(Stdio::from(first)).stdout(Stdio::from(second)).stderr(std::fs::File::create(root.join("log")).unwrap());
    command
}

#[test]
fn a_manager_of_services_may_bring_the_sockets() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let (unix, tcp) = (UnixListener::bind(root.join("s")).unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let address = tcp.local_addr().unwrap();
    let sockets = || [unix.try_clone().unwrap().into(), tcp.try_clone().unwrap().into()];
    let log = || std::fs::read_to_string(root.join("log")).unwrap();

    // Those of another process are not taken.
    let refused = activated(root, "1", sockets()).status().unwrap();
    assert!(!refused.success() && log().contains("no sockets were passed"), "{}", log());

    let mut daemon = activated(root, "$$", sockets()).spawn().unwrap();
    // Both wait before the daemon listens: this is what such sockets are for.
    let (by_unix, by_tcp) = (UnixStream::connect(root.join("s")).unwrap(), TcpStream::connect(address).unwrap());
    by_unix.set_read_timeout(Some(PATIENCE)).unwrap();
    by_tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    for text in [answer(by_unix), answer(by_tcp)] {
        assert!(text.starts_with("HTTP/1.0 200 OK\r\n") && text.ends_with("\r\n\r\nOK"), "{text} {}", log());
    }
    let pid = rustix::process::Pid::from_child(&daemon);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(daemon.wait().unwrap().success(), "{}", log());
    assert!(root.join("s").exists(), "the socket is its manager's");
}

#[test]
fn the_socket_has_the_group_that_was_asked_for() {
    let daemon = Daemon::with_flags(&["--group", "12345"]);
    let meta = daemon.socket().metadata().unwrap();
    assert_eq!((meta.mode() & 0o777, meta.uid(), meta.gid()), (0o660, 0, 12345));
}

#[test]
fn the_host_that_is_asked_for_does_not_matter() {
    let daemon = shared();
    for host in [
        "Host: api.moby.localhost\r\n",
        "Host: localhost\r\n",
        "Host: \r\n",
        "Host: registry.example:5000\r\n",
        "Host: /run/x.sock\r\n",
        "",
    ] {
        // HTTP/1.1 wants one; Docker's server answers 400 without.
        let version = if host.is_empty() { "1.0" } else { "1.1" };
        let text = daemon.http(&format!("GET /_ping HTTP/{version}\r\n{host}Connection: close\r\n\r\n"));
        assert!(text.starts_with(&format!("HTTP/{version} 200 OK\r\n")), "{host:?}: {text}");
    }
}

#[test]
fn a_client_that_goes_before_its_answer_is_told_of() {
    let daemon = shared();
    let name = name("left");
    daemon.ok(&["run", "-d", "--name", &name, BOX, "sleep", "1000"]);
    let told = format!("method=POST path=\"/containers/{name}/stop\" status=499");
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    stream.write_all(format!("POST /containers/{name}/stop?t=2 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(!daemon.log().contains(&told), "it is still there");
    drop(stream);
    daemon.until("the log tells of it", || daemon.log().contains(&told));
    // What it asked for is done all the same.
    daemon.until("the container is stopped", || daemon.inspect(&name)["State"]["Running"] == false);
    daemon.ok(&["rm", &name]);
}

#[test]
fn a_container_that_does_not_mind_gets_ten_seconds() {
    let daemon = shared();
    let name = name("deaf");
    // The first process of a namespace does not end by a signal that it has no handler for.
    daemon.ok(&["run", "-d", "--name", &name, BOX, "sleep", "1000"]);
    let begin = Instant::now();
    daemon.ok(&["stop", &name]);
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(9_900) && took < Duration::from_secs(30), "{took:?}");
    assert_eq!(daemon.inspect(&name)["State"]["ExitCode"], 137);
    daemon.ok(&["rm", &name]);
}
