//! Clients that hold on to a container: attach, terminals, detach keys, signals, sizes.

use naru_e2e::{BOX, Daemon, PATIENCE, client, name, shared};
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A client whose output is collected while it runs.
struct Session {
    child: Child,
    text: Arc<Mutex<String>>,
}

impl Session {
    fn new(mut command: Command) -> Session {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let text = Arc::new(Mutex::new(String::new()));
        let (mut pipe, sink) = (child.stdout.take().unwrap(), Arc::clone(&text));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(got @ 1..) = pipe.read(&mut buffer) {
                sink.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..got]));
            }
        });
        Session { child, text }
    }

    /// The client on a terminal of its own, of 33 rows and 77 columns.
    fn terminal(daemon: &Daemon, args: &[&str]) -> Session {
        let quoted: Vec<String> = args.iter().map(|arg| format!("'{arg}'")).collect();
        let line = format!("stty rows 33 cols 77; exec {} {}", client().0.display(), quoted.join(" "));
        let mut command = Command::new("script");
        command.args(["-qec", &line, "/dev/null"]).env("DOCKER_HOST", daemon.host()).env("SHELL", "/bin/sh").env("TERM", "xterm");
        Session::new(command)
    }

    fn text(&self) -> String {
        self.text.lock().unwrap().clone()
    }

    fn send(&mut self, bytes: &[u8]) {
        let pipe = self.child.stdin.as_mut().unwrap();
        pipe.write_all(bytes).unwrap();
        pipe.flush().unwrap();
    }

    #[track_caller]
    fn expect(&self, words: &str) {
        let start = Instant::now();
        while !self.text().contains(words) {
            assert!(start.elapsed() < PATIENCE, "{words:?} does not come: {:?}", self.text());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[track_caller]
    fn end(&mut self) -> i32 {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(start.elapsed() < PATIENCE, "the client does not end: {:?}", self.text());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn running(daemon: &Daemon, name: &str) -> bool {
    daemon.inspect(name)["State"]["Running"] == true
}

#[test]
fn attach_shows_what_comes_and_passes_the_code_on() {
    let daemon = shared();
    let name = name("attach");
    let script = "until [ -e /go ]; do echo tick; sleep 0.05; done; echo end; exit 5";
    daemon.ok(&["run", "-d", "--name", &name, BOX, "sh", "-c", script]);
    let mut first = Session::new(daemon.command(&["attach", "--no-stdin", &name]));
    let mut second = Session::new(daemon.command(&["attach", "--no-stdin", &name]));
    first.expect("tick");
    second.expect("tick");
    daemon.ok(&["exec", &name, "touch", "/go"]);
    assert_eq!((first.end(), second.end()), (5, 5));
    first.expect("end\n");
    second.expect("end\n");
    assert!(daemon.fails(1, &["attach", &name]).contains("cannot attach to a stopped container"));
    daemon.ok(&["rm", &name]);
}

#[test]
fn a_client_that_goes_leaves_the_container_alone() {
    let daemon = shared();
    let name = name("gone");
    let mut session =
        Session::new(daemon.command(&["run", "-i", "--name", &name, BOX, "sh", "-c", "while :; do echo tick; sleep 0.02; done"]));
    session.expect("tick");
    session.signal(rustix::process::Signal::KILL);
    session.end();
    let lines = || daemon.ok(&["logs", &name]).len();
    let before = lines();
    daemon.until("it goes on printing", || lines() > before + 50);
    assert!(running(daemon, &name));
    daemon.ok(&["rm", "-f", &name]);
}

#[test]
fn a_terminal_has_the_client_s_size_and_detaches() {
    let daemon = shared();
    let name = name("terminal");
    let mut session = Session::terminal(daemon, &["run", "-it", "--name", &name, BOX, "sh"]);
    session.expect("# ");
    session.send(b"echo $((40+2)) $(stty size)\r");
    session.expect("42 33 77");
    session.send(b"tty; test -t 0 && test -t 1 && echo yes-$((1+1))\r");
    session.expect("yes-2");
    session.send(b"\x10\x11");
    assert_eq!(session.end(), 0);
    assert!(running(daemon, &name), "detaching does not end it");

    // Again, with other keys; the old ones are then input like any other.
    let mut session = Session::terminal(daemon, &["attach", "--detach-keys", "ctrl-x,q", &name]);
    session.send(b"echo again-$((5+5))\r");
    session.expect("again-10");
    session.send(b"\x18q");
    session.end();
    assert!(running(daemon, &name));

    let mut session = Session::terminal(daemon, &["attach", &name]);
    session.send(b"exit 9\r");
    assert_eq!(session.end(), 9);
    daemon.ok(&["rm", &name]);
}

#[test]
fn an_exec_with_a_terminal() {
    let daemon = shared();
    let name = name("exec-terminal");
    daemon.ok(&["run", "-d", "--name", &name, BOX, "sleep", "1000"]);
    let mut session = Session::terminal(daemon, &["exec", "-it", &name, "sh"]);
    session.expect("# ");
    session.send(b"echo $(stty size)-$((1+1)); trap 'echo int-$((2+2))' INT\r");
    session.expect("33 77-2");
    session.send(b"\x03");
    session.expect("int-4");
    session.send(b"exit 6\r");
    assert_eq!(session.end(), 6);
    daemon.ok(&["rm", "-f", &name]);
}

#[test]
fn a_terminal_passes_its_code_and_merges_the_streams() {
    let daemon = shared();
    let mut session = Session::terminal(daemon, &["run", "--rm", "-it", BOX, "sh", "-c", "echo out; echo err >&2; exit 4"]);
    assert_eq!(session.end(), 4);
    session.expect("out\r\nerr\r\n");
    assert!(daemon.feed(&["run", "--rm", "-it", BOX, "true"], b"").err.contains("the input device is not a TTY"));
}

#[test]
fn signals_reach_the_process_unless_asked_otherwise() {
    let daemon = shared();
    let script = "trap 'echo got; exit 7' TERM; trap 'echo hup' HUP; echo ready; while :; do sleep 0.05; done";
    let first = name("signals");
    let mut session = Session::new(daemon.command(&["run", "--name", &first, BOX, "sh", "-c", script]));
    session.expect("ready");
    session.signal(rustix::process::Signal::HUP);
    session.expect("hup");
    session.signal(rustix::process::Signal::TERM);
    assert_eq!(session.end(), 7);
    session.expect("got");
    daemon.ok(&["rm", &first]);

    let second = name("signals");
    let session = Session::new(daemon.command(&["run", "--sig-proxy=false", "--name", &second, BOX, "sh", "-c", script]));
    session.expect("ready");
    session.signal(rustix::process::Signal::TERM);
    // Naru's client ends by it, Docker's waits for more; what counts is the container, after a whole exec later.
    daemon.ok(&["exec", &second, "sleep", "0.3"]);
    drop(session);
    assert!(running(daemon, &second), "the signal was for the client");
    assert!(!daemon.ok(&["logs", &second]).contains("got"));
    daemon.ok(&["rm", "-f", &second]);
}

/// By a raw client of the API, which leaves the keys to the daemon: both others watch for them themselves.
#[test]
fn the_daemon_knows_the_keys_too_and_keeps_what_was_typed_before() {
    let daemon = shared();
    let name = name("keys");
    daemon.ok(&["run", "-dit", "--name", &name, BOX, "cat"]);
    let mut stream = daemon.upgraded(&format!("/containers/{name}/attach?stream=1&stdin=1&stdout=1&detachKeys=ctrl-x,q"), "");
    stream.write_all(b"half \x18then other\rlast\r\x18q never\r").unwrap();
    // It is the daemon that ends the stream.
    stream.read_to_end(&mut vec![]).unwrap();
    daemon.until("all of it came", || daemon.ok(&["logs", &name]).matches("last").count() == 2);
    let logs = daemon.ok(&["logs", &name]);
    assert!(running(daemon, &name) && logs.contains("half \x18then other") && !logs.contains("never"), "{logs:?}");

    let (status, answer) = daemon.api(
        "POST",
        &format!("/containers/{name}/exec"),
        Some(r#"{"AttachStdin":true,"AttachStdout":true,"Tty":true,"DetachKeys":"a,b","Cmd":["sh","-c","read x; echo $x > /typed; exec sleep 1000"]}"#),
    );
    assert_eq!(status, 201, "{answer}");
    let id = answer.split('"').nth(3).unwrap().to_owned();
    let mut stream = daemon.upgraded(&format!("/exec/{id}/start"), r#"{"Tty":true}"#);
    stream.write_all(b"typed\rab").unwrap();
    stream.read_to_end(&mut vec![]).unwrap();
    daemon.until("the exec has read it", || daemon.run(&["exec", &name, "cat", "/typed"]).out == "typed\n");
    assert!(daemon.api("GET", &format!("/exec/{id}/json"), None).1.contains(r#""Running":true"#));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 1;
    let until = now.to_string();
    let events =
        daemon.ok(&["events", "--since", "0", "--until", &until, "--filter", &format!("container={name}"), "--format", "{{.Action}}"]);
    let actions: Vec<&str> = events.lines().collect();
    assert!(actions.contains(&"detach") && actions.contains(&"exec_detach"), "{actions:?}");
    for keys in ["nope", "ctrl-A", "a,,b"] {
        let (status, answer) = daemon.api("POST", &format!("/containers/{name}/attach?stream=1&stdin=1&detachKeys={keys}"), None);
        assert!(status == 400 && answer.contains("Invalid detach keys"), "{keys}: {status} {answer}");
    }
    daemon.ok(&["rm", "-f", &name]);
}

/// docker-py reads an answer's head through a buffer and what follows from the socket: what comes with the head is lost to it.
#[test]
fn output_does_not_come_with_the_head_of_the_answer() {
    let daemon = shared();
    let name = daemon.ok(&["run", "-d", BOX, "sleep", "1000"]);
    let (_, made) = daemon.api("POST", &format!("/containers/{name}/exec"), Some(r#"{"Cmd": ["echo", "word"], "AttachStdout": true}"#));
    let exec = serde_json::from_str::<serde_json::Value>(&made).unwrap()["Id"].as_str().unwrap().to_owned();
    let mut stream = std::os::unix::net::UnixStream::connect(daemon.socket()).unwrap();
    let body = r#"{"Detach": false}"#;
    let head = "Host: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Type: application/json";
    write!(stream, "POST /exec/{exec}/start HTTP/1.1\r\n{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    // The process and its output have come and gone before anything is read.
    daemon.until("the exec has ended", || {
        daemon.api("GET", &format!("/exec/{exec}/json"), None).1.contains(r#""Running":false,"ExitCode":0"#)
    });
    let mut buffer = [0; 4096];
    let count = stream.read(&mut buffer).unwrap();
    let answer = String::from_utf8_lossy(&buffer[..count]);
    assert!(answer.starts_with("HTTP/1.1 101") && answer.ends_with("\r\n\r\n"), "{answer}");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"\x01\0\0\0\0\0\0\x05word\n");
    daemon.ok(&["rm", "-f", &name]);
}

#[test]
fn a_client_that_a_signal_ends_has_the_status_of_it() {
    use rustix::process::Signal;
    use std::os::unix::process::ExitStatusExt;
    let daemon = shared();
    let name = name("ended");
    daemon.ok(&["run", "-d", "--name", &name, BOX, "sh", "-c", "echo ready; exec sleep 1000"]);
    for (signal, args) in [
        (Signal::TERM, &["logs", "-f", &name][..]),
        (Signal::INT, &["logs", "-f", &name]),
        (Signal::HUP, &["logs", "-f", &name]),
        (Signal::TERM, &["stats", "--format", "{{.Name}} ready", &name]),
    ] {
        // Docker's client takes a first signal of its statistics for nothing.
        if args[0] == "stats" && !client().1 {
            continue;
        }
        let mut session = Session::new(daemon.command(args));
        session.expect("ready");
        session.signal(signal);
        session.end();
        let status = session.child.wait().unwrap();
        // By the signal itself or by its number: a shell says the same of both.
        let shell = status.code().or(status.signal().map(|number| 128 + number));
        assert_eq!(shell, Some(128 + signal.as_raw()), "{args:?} {signal:?}");
    }
    assert!(running(daemon, &name));
    daemon.ok(&["rm", "-f", &name]);
}

#[test]
fn a_terminal_that_changes_its_size_tells_the_container() {
    let daemon = shared();
    let name = name("size");
    let run = format!("{} run --rm -it --name {name} {BOX} sh -c", client().0.display());
    let script = "trap \"stty size\" WINCH; echo ready; while :; do sleep 0.1; done";
    // A file says when, so that nothing is missed.
    let go = daemon.root.join("resize");
    let line = format!("(until [ -e {0} ]; do sleep 0.1; done; stty -F /dev/tty rows 41 cols 99) & exec {run} '{script}'", go.display());
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).env("DOCKER_HOST", daemon.host()).env("SHELL", "/bin/sh").env("TERM", "xterm");
    let session = Session::new(command);
    session.expect("ready");
    std::fs::write(&go, "").unwrap();
    session.expect("41 99");
    daemon.ok(&["rm", "-f", &name]);
    std::fs::remove_file(&go).unwrap();
}
