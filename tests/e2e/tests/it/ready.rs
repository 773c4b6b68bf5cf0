//! A start that is made ready before it is asked for: used by the start, and taken back without one.

use naru_e2e::{BOX, Daemon};
use std::cell::Cell;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// A container as `docker run --rm -p` makes it, not started.
fn create(daemon: &Daemon, name: &str, port: u16) -> String {
    let body = format!(
        r#"{{"Image": "{BOX}", "Cmd": ["hostname"], "AttachStdout": true, "AttachStderr": true,
            "HostConfig": {{"AutoRemove": true, "PortBindings": {{"80/tcp": [{{"HostIp": "127.0.0.1", "HostPort": "{port}"}}]}}}}}}"#
    );
    let (status, answer) = daemon.api("POST", &format!("/containers/create?name={name}"), Some(&body));
    assert_eq!(status, 201, "{answer}");
    serde_json::from_str::<serde_json::Value>(&answer).unwrap()["Id"].as_str().unwrap().to_owned()
}

fn monitor(daemon: &Daemon, id: &str) -> PathBuf {
    daemon.root.join("e/containers").join(id).join("monitor.sock")
}

/// Below those that the kernel gives away: nobody gets it before its use.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(23_000);
    let free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::iter::repeat_with(|| NEXT.fetch_add(1, Ordering::Relaxed)).find(free).unwrap()
}

/// Waits until a start is held ready. It is for half a second, so that one may come and go unseen on a machine that has much
/// to do: an attach asks for another.
fn until_ready(daemon: &Daemon, id: &str) {
    let (socket, asked) = (monitor(daemon, id), Cell::new(Instant::now()));
    daemon.until("the start is ready", || {
        if asked.get().elapsed() > Duration::from_secs(2) {
            drop(daemon.upgraded(&format!("/containers/{id}/attach?stream=1&stdout=1"), ""));
            asked.set(Instant::now());
        }
        socket.exists()
    });
}

#[test]
fn a_start_that_does_not_come_is_taken_back() {
    let daemon = Daemon::start();
    let port = free_port();
    let id = create(&daemon, "later", port);
    let socket = monitor(&daemon, &id);
    until_ready(&daemon, &id);
    assert_eq!(daemon.inspect("later")["State"]["Status"], "created");
    daemon.until("it is taken back", || !socket.exists());
    // Its port is free for others, and it can still be started.
    daemon.ok(&["run", "--rm", "-p", &format!("127.0.0.1:{port}:80"), BOX, "true"]);
    assert_eq!(daemon.ok(&["start", "-a", "later"]), id[..12]);
    daemon.until_clean();
}

#[test]
fn what_a_start_is_made_from_may_change() {
    let daemon = Daemon::start();
    let port = free_port();
    create(&daemon, "before", port);
    daemon.ok(&["rename", "before", "after"]);
    daemon.ok(&["network", "create", "beside"]);
    daemon.ok(&["network", "connect", "--alias", "known", "beside", "after"]);
    let host = daemon.ok(&["start", "-a", "after"]);
    assert_eq!(host.len(), 12, "{host}");
    // Removed before its start, it leaves nothing, and its port at once.
    create(&daemon, "gone", port);
    daemon.ok(&["rm", "gone"]);
    daemon.ok(&["run", "--rm", "-p", &format!("127.0.0.1:{port}:80"), BOX, "true"]);
    daemon.ok(&["network", "rm", "beside"]);
    daemon.until_clean();
}

/// As dockerd does: who wanted it gone with its end has gone with the daemon.
#[test]
fn a_daemon_killed_with_a_start_ready_removes_what_goes_with_its_end() {
    let mut daemon = Daemon::start();
    let port = free_port();
    let id = create(&daemon, "ready", port);
    daemon.ok(&["create", "--name", "kept", BOX, "hostname"]);
    let socket = monitor(&daemon, &id);
    until_ready(&daemon, &id);
    daemon.kill();
    daemon.launch();
    daemon.until("its monitor has gone", || !socket.exists());
    assert_eq!(daemon.ok(&["ps", "-a", "--format", "{{.Names}} {{.State}}"]), "kept created");
    daemon.ok(&["run", "--rm", "--name", "ready", "-p", &format!("127.0.0.1:{port}:80"), BOX, "true"]);
    daemon.ok(&["start", "-a", "kept"]);
    daemon.ok(&["rm", "kept"]);
    daemon.until_clean();
}

/// One that stays is started by whoever comes.
#[test]
fn a_daemon_killed_with_a_start_ready_leaves_a_container_to_be_started() {
    let mut daemon = Daemon::start();
    let port = free_port();
    let publish = format!("127.0.0.1:{port}:80");
    let id = daemon.ok(&["create", "--name", "ready", "-p", &publish, BOX, "hostname"]);
    let socket = monitor(&daemon, &id);
    drop(daemon.upgraded(&format!("/containers/{id}/attach?stream=1&stdout=1"), ""));
    until_ready(&daemon, &id);
    daemon.kill();
    daemon.launch();
    daemon.until("its monitor has gone", || !socket.exists());
    assert_eq!(daemon.inspect("ready")["State"]["Status"], "created");
    daemon.ok(&["run", "--rm", "-p", &publish, BOX, "true"]);
    assert_eq!(daemon.ok(&["start", "-a", "ready"]), id[..12]);
    daemon.ok(&["rm", "ready"]);
    daemon.until_clean();
}

#[test]
fn files_come_and_go_before_a_start() {
    let daemon = Daemon::start();
    let id = create(&daemon, "filled", free_port());
    let socket = monitor(&daemon, &id);
    until_ready(&daemon, &id);
    let file = daemon.root.join("hosts-of-mine");
    std::fs::write(&file, "mine").unwrap();
    daemon.ok(&["cp", &file.display().to_string(), "filled:/etc/mine"]);
    assert!(!socket.exists(), "two mounts of the same files");
    let back = daemon.root.join("back");
    daemon.ok(&["cp", "filled:/etc/mine", &back.display().to_string()]);
    assert_eq!(std::fs::read_to_string(&back).unwrap(), "mine");
    daemon.ok(&["rm", "filled"]);
    daemon.until_clean();
}

/// The next container's files are made when one is thrown away, and are in nobody's way.
#[test]
fn files_made_ahead_are_the_next_containers_and_go_with_their_image() {
    let daemon = Daemon::start();
    let image = "made-ahead:1";
    daemon.feed(&["import", "-", image], naru_e2e::busybox_archive());
    let waiting = || std::fs::read_dir(daemon.root.join("d/ahead")).unwrap().count();
    for turn in ["first", "second", "third"] {
        let script = format!("test ! -e /left && touch /left && echo {turn}");
        assert_eq!(daemon.ok(&["run", "--rm", image, "sh", "-c", &script]), turn);
        daemon.until("the next one's files are there", || waiting() == 1);
    }
    // One that stays has them too, and is written to, looked into and committed as any.
    daemon.ok(&["run", "--name", "stays", image, "sh", "-c", "echo kept > /kept"]);
    assert_eq!(daemon.ok(&["diff", "stays"]), "A /kept");
    assert_eq!(daemon.ok(&["start", "-a", "stays"]), "");
    daemon.ok(&["rm", "stays"]);
    daemon.ok(&["run", "--rm", image, "true"]);
    daemon.until("the next one's files are there", || waiting() == 1);
    daemon.ok(&["rmi", image]);
    assert_eq!(waiting(), 0);
    daemon.until_clean();
}

/// A container with `--rm` is put away after its end was told; a restart waits for that.
#[test]
fn a_container_to_be_deleted_is_restarted_again_and_again() {
    let daemon = Daemon::start();
    daemon.ok(&["run", "-d", "--rm", "--name", "again", BOX, "sleep", "1000"]);
    for turn in 0..10 {
        daemon.ok(&["restart", "-t", "0", "again"]);
        assert_eq!(daemon.ok(&["exec", "again", "echo", &turn.to_string()]), turn.to_string());
    }
    daemon.ok(&["rm", "-f", "again"]);
    daemon.until_clean();
}
