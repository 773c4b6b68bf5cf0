//! The life of containers on a real engine; nothing is done unless `DOCKER_HOST` names one.

use std::process::{Command, Output, Stdio};

use crate::text;

/// A container that is removed however the test ends.
struct Container(String);

impl Container {
    fn new(purpose: &str) -> Self {
        Self(format!("naru-it-{purpose}-{}", std::process::id()))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        drop(cli(&["rm", "-fv", &self.0]));
    }
}

fn cli(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_naru")).args(args).stdin(Stdio::null()).output().unwrap()
}

fn ok(args: &[&str]) -> String {
    let output = cli(args);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn engine() -> bool {
    std::env::var_os("DOCKER_HOST").is_some()
}

#[test]
fn output_and_status_of_a_foreground_run() {
    if !engine() {
        return;
    }
    let output = cli(&["run", "--rm", "--network", "none", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((output.status.code(), text(&output.stdout), text(&output.stderr)), (Some(7), "out\n".to_owned(), "err\n".to_owned()));
    for (command, status) in [("nope", 127), ("/etc", 126), ("/etc/passwd", 126), ("/nope", 127)] {
        assert_eq!(cli(&["run", "--rm", "--network", "none", "busybox", command]).status.code(), Some(status), "{command}");
    }
}

#[test]
fn stdin_reaches_the_container() {
    use std::io::Write as _;
    if !engine() {
        return;
    }
    let mut child = Command::new(env!("CARGO_BIN_EXE_naru"))
        .args(["run", "--rm", "-i", "--network", "none", "busybox", "wc", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&vec![b'x'; 3_000_000]).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(text(&output.stdout).trim(), "3000000");
}

#[test]
fn a_container_lives_and_dies() {
    if !engine() {
        return;
    }
    let container = Container::new("life");
    let name = container.0.as_str();
    let id = ok(&["run", "-d", "--network", "none", "--name", name, "--label", "x=y", "busybox", "sleep", "1000"]);
    assert_eq!(ok(&["inspect", "-f", "{{.Id}}", name]), id);
    assert_eq!(
        ok(&["ps", "--filter", &format!("name={name}"), "--format", "{{.Names}} {{.State}} {{.Label \"x\"}}"]),
        format!("{name} running y\n")
    );
    let exec = cli(&["exec", "-e", "A=1", "-w", "/tmp", name, "sh", "-c", "echo $A; pwd; exit 4"]);
    assert_eq!((exec.status.code(), text(&exec.stdout)), (Some(4), "1\n/tmp\n".to_owned()));
    assert!(ok(&["top", name]).contains("sleep 1000"));
    assert_eq!(ok(&["pause", name]), format!("{name}\n"));
    assert_eq!(ok(&["inspect", "-f", "{{.State.Status}}", name]), "paused\n");
    ok(&["unpause", name]);
    ok(&["kill", name]);
    assert_eq!(ok(&["wait", name]), "137\n");
    assert_eq!(cli(&["rm", name]).status.code(), Some(0));
    assert_eq!(cli(&["inspect", name]).status.code(), Some(1));
}

#[test]
fn files_travel_both_ways() {
    if !engine() {
        return;
    }
    let container = Container::new("cp");
    let name = container.0.as_str();
    ok(&["create", "--network", "none", "--name", name, "busybox", "true"]);
    let folder = tempfile::tempdir().unwrap();
    let local = folder.path().join("tree");
    std::fs::create_dir_all(local.join("sub")).unwrap();
    std::fs::write(local.join("sub/file"), "content").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", local.join("link")).unwrap();
    ok(&["cp", local.to_str().unwrap(), &format!("{name}:/tmp/new")]);
    let back = folder.path().join("back");
    ok(&["cp", &format!("{name}:/tmp/new"), back.to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(back.join("sub/file")).unwrap(), "content");
    assert_eq!(std::fs::read_link(back.join("link")).unwrap().to_str(), Some("/etc/passwd"));
    let missing = cli(&["cp", &format!("{name}:/nope"), folder.path().to_str().unwrap()]);
    assert_eq!(text(&missing.stderr), format!("Error response from daemon: Could not find the file /nope in container {name}\n"));
}
