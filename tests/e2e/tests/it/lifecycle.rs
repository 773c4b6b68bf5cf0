//! create, run, start, stop, kill, restart, pause, wait, rename, rm and their exit codes.

use naru_e2e::{BOX, name, rounds, shared};

#[test]
fn run_prints_and_passes_the_code_on() {
    let daemon = shared();
    assert_eq!(daemon.ok(&["run", "--rm", BOX, "echo", "hi"]), "hi");
    let result = daemon.run(&["run", "--rm", BOX, "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((result.code, result.out.as_str(), result.err.as_str()), (7, "out\n", "err\n"));
    // The kernel lets no process of a pid namespace kill its first one: it takes the client.
    assert_eq!(daemon.run(&["run", "--rm", BOX, "sh", "-c", "sh -c 'kill -9 $$'; exit $?"]).code, 137);
}

#[test]
fn the_image_inside_greets() {
    assert!(shared().ok(&["run", "--rm", "naru/hello"]).contains("Hello from Naru!"));
}

#[test]
fn standard_input_reaches_the_process() {
    let result = shared().feed(&["run", "-i", "--rm", BOX, "cat"], b"to be echoed");
    assert_eq!((result.code, result.out.as_str()), (0, "to be echoed"));
}

#[test]
fn what_cannot_run_says_why() {
    let daemon = shared();
    assert!(daemon.fails(127, &["run", "--rm", BOX, "nosuch"]).contains("exec: \"nosuch\": executable file not found in $PATH"));
    assert!(daemon.fails(127, &["run", "--rm", BOX, "/no/such"]).contains("no such file or directory"));
    assert!(daemon.fails(126, &["run", "--rm", BOX, "/etc"]).contains("is a directory"));
    assert!(daemon.fails(126, &["run", "--rm", BOX, "/etc/passwd"]).contains("permission denied"));
    assert!(daemon.fails(125, &["run", "--rm", "-u", "nosuch", BOX, "true"]).contains("unable to find user nosuch"));
    assert!(daemon.fails(125, &["run", "--rm", "-w", "relative", BOX, "true"]).contains("needs to be an absolute path"));
    assert!(daemon.fails(125, &["run", "--rm", "--nosuch", BOX]).contains("--nosuch"));
    let name = name("cannot");
    daemon.fails(127, &["run", "--rm", "--name", &name, BOX, "nosuch"]);
    // The words of a file that is not there, whichever it is.
    assert!(daemon.fails(127, &["run", "--rm", "--cidfile", "/no/such/file", BOX, "true"]).contains("open /no/such/file: no such file"));
    assert!(daemon.fails(125, &["run", "--rm", "--cidfile", "/etc/passwd/file", BOX, "true"]).contains("not a directory"));
    assert!(daemon.fails(125, &["run", "--rm", "--cidfile", "/etc/passwd", BOX, "true"]).contains("container ID file found"));
    assert!(daemon.fails(1, &["create", "--cidfile", "/no/such/file", BOX, "true"]).contains("failed to create the container ID file"));
    assert!(daemon.fails(1, &["inspect", &name]).contains("No such"), "what never ran is deleted like what did");
}

#[test]
fn names_are_unique_and_change() {
    let daemon = shared();
    let (first, second) = (name("first"), name("second"));
    daemon.ok(&["create", "--name", &first, BOX]);
    assert!(daemon.fails(125, &["run", "--name", &first, BOX, "true"]).contains("is already in use by container"));
    daemon.ok(&["rename", &first, &second]);
    assert!(daemon.fails(1, &["rename", &second, &second]).contains("same name as its current name"));
    assert!(daemon.run(&["inspect", &first]).code != 0);
    daemon.ok(&["rm", &second]);
}

#[test]
fn a_whole_life() {
    let daemon = shared();
    let name = name("life");
    daemon.ok(&["run", "-d", "--name", &name, BOX, "sh", "-c", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.1; done"]);
    assert_eq!(daemon.inspect(&name)["State"]["Status"], "running");
    daemon.until("it heeds signals", || daemon.ok(&["logs", &name]).contains("ready"));
    daemon.ok(&["pause", &name]);
    assert!(daemon.fails(1, &["pause", &name]).contains("is already paused"));
    assert!(daemon.fails(1, &["exec", &name, "true"]).contains("is paused"));
    daemon.ok(&["unpause", &name]);
    assert!(daemon.fails(1, &["rm", &name]).contains("container is running"));
    daemon.ok(&["stop", &name]);
    assert_eq!(daemon.inspect(&name)["State"]["ExitCode"], 3);
    assert!(daemon.fails(1, &["kill", &name]).contains("is not running"));
    daemon.ok(&["start", &name]);
    daemon.ok(&["restart", "-t", "5", &name]);
    daemon.ok(&["kill", &name]);
    assert_eq!(daemon.ok(&["wait", &name]), "137");
    daemon.ok(&["rm", &name]);
    assert!(daemon.fails(1, &["rm", &name]).contains("No such container"));
}

#[test]
fn a_container_to_be_deleted_keeps_its_files_when_it_is_restarted() {
    let daemon = shared();
    let name = name("kept");
    daemon.ok(&["run", "-d", "--rm", "--name", &name, BOX, "sh", "-c", "echo run >> /runs; exec sleep 1000"]);
    for runs in 1..4 {
        daemon.until("it has written", || daemon.run(&["exec", &name, "cat", "/runs"]).out == "run\n".repeat(runs));
        daemon.ok(&["restart", "-t", "0", &name]);
    }
    daemon.ok(&["stop", "-t", "0", &name]);
    daemon.until("it is deleted", || daemon.run(&["inspect", &name]).code == 1);
}

#[test]
fn an_exit_of_a_restarting_container_is_counted() {
    let daemon = shared();
    let name = name("again");
    daemon.ok(&["run", "-d", "--name", &name, "--restart", "on-failure:2", BOX, "sh", "-c", "exit 5"]);
    daemon.until("both restarts are used up", || daemon.inspect(&name)["State"]["Status"] == "exited");
    let state = daemon.inspect(&name);
    assert_eq!((&state["RestartCount"], &state["State"]["ExitCode"]), (&2.into(), &5.into()));
    daemon.ok(&["rm", &name]);
}

#[test]
fn exec_runs_beside_the_first_process() {
    let daemon = shared();
    let name = name("exec");
    daemon.ok(&["run", "-d", "--name", &name, "-e", "A=1", BOX, "sleep", "1000"]);
    assert_eq!(daemon.ok(&["exec", "-e", "B=2", &name, "sh", "-c", "echo $A$B"]), "12");
    assert_eq!(daemon.ok(&["exec", "-u", "bob", &name, "id", "-un"]), "bob");
    assert_eq!(daemon.ok(&["exec", "-w", "/etc", &name, "pwd"]), "/etc");
    assert_eq!(daemon.run(&["exec", &name, "sh", "-c", "exit 9"]).code, 9);
    assert_eq!(daemon.run(&["exec", &name, "nosuch"]).code, 127);
    // Nobody is no exec: it is refused when it is made.
    for (user, words) in [
        ("nobody-here", "unable to find user nobody-here: no matching entries in passwd file"),
        ("0:nobody-here", "unable to find group nobody-here: no matching entries in group file"),
        ("4294967296", "uids and gids must be in range 0-2147483647"),
    ] {
        assert!(daemon.fails(1, &["exec", "-u", user, &name, "true"]).contains(words), "{user}");
        assert!(daemon.fails(1, &["exec", "-d", "-u", user, &name, "true"]).contains(words), "{user}");
        let body = format!(r#"{{"Cmd":["true"],"User":"{user}"}}"#);
        let (status, text) = daemon.api("POST", &format!("/containers/{name}/exec"), Some(&body));
        assert!(status == 400 && text.contains(words), "{user}: {status} {text}");
    }
    let echoed = daemon.feed(&["exec", "-i", &name, "cat"], b"piped");
    assert_eq!((echoed.code, echoed.out.as_str()), (0, "piped"));
    daemon.ok(&["rm", "-f", &name]);
}

#[test]
fn a_paused_container_is_removed_by_force() {
    let daemon = shared();
    let name = name("frozen");
    daemon.ok(&["run", "-d", "--name", &name, BOX, "sleep", "1000"]);
    let pid = daemon.inspect(&name)["State"]["Pid"].to_string();
    daemon.ok(&["pause", &name]);
    assert!(daemon.fails(1, &["rm", &name]).contains("must be unpaused first"));
    daemon.ok(&["rm", "-f", &name]);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn requests_without_sense_are_refused_before_a_container_is_there() {
    let daemon = shared();
    let name = name("nonsense");
    for (flags, text) in [
        (vec!["--cpu-shares", "1"], "CPU shares"),
        (vec!["--volumes-from", "no-such-container"], "No such container: no-such-container"),
        (vec!["--link", "no-such-container:x"], "could not get container for no-such-container"),
        (vec!["--mount", "type=volume,src=nonsense,dst=/v,volume-subpath=../.."], "relative path within the volume"),
        (vec!["--device", "/dev/no-such-device"], "no such file or directory"),
        (vec!["--platform", "nonsense"], "platform"),
    ] {
        let result = daemon.run(&[vec!["run", "--pull", "never", "--rm", "--name", &name], flags.clone(), vec![BOX, "true"]].concat());
        assert!(matches!(result.code, 125 | 127) && result.err.contains(text), "{flags:?}: {result:?}");
        assert_ne!(daemon.run(&["inspect", &name]).code, 0, "{flags:?}");
    }
}

/// What was done to a container, in order, without its network's part.
fn actions(daemon: &naru_e2e::Daemon, name: &str) -> Vec<String> {
    let filter = format!("container={name}");
    let until = next_second();
    let text = daemon.ok(&["events", "--since", "0", "--until", &until, "--filter", &filter, "--format", "{{.Action}}"]);
    text.lines().map(str::to_owned).collect()
}

/// The next second, as `events` takes it.
fn next_second() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    (now.as_secs() + 1).to_string()
}

#[test]
fn restarts_by_policy_are_counted_seen_by_wait_and_called_off_by_kill() {
    let daemon = shared();
    let name = name("again");
    daemon.ok(&["run", "-d", "--restart", "on-failure:2", "--name", &name, BOX, "sh", "-c", "exit 3"]);
    daemon.until("it gives up", || daemon.inspect(&name)["State"]["Status"] == "exited");
    assert_eq!(daemon.inspect(&name)["RestartCount"], 2);
    assert_eq!(actions(daemon, &name), ["create", "start", "die", "start", "die", "start", "die"]);
    daemon.ok(&["rm", &name]);

    // The seventh wait is of more than three seconds: time to be asked in it.
    daemon.ok(&["run", "-d", "--restart", "always", "--name", &name, BOX, "sh", "-c", "exit 4"]);
    assert_eq!(daemon.ok(&["wait", &name]), "4", "an end is one, whatever the policy makes of it");
    daemon.until("it waits for long", || {
        let inspect = daemon.inspect(&name);
        inspect["RestartCount"].as_i64() >= Some(6) && inspect["State"]["Status"] == "restarting"
    });
    let count = daemon.inspect(&name)["RestartCount"].clone();
    daemon.ok(&["kill", &name]);
    let inspect = daemon.inspect(&name);
    assert_eq!((&inspect["State"]["Status"], &inspect["State"]["ExitCode"]), (&"exited".into(), &4.into()));
    assert_eq!(inspect["RestartCount"], count);
    daemon.ok(&["start", &name]);
    daemon.ok(&["stop", &name]);
    assert_eq!(actions(daemon, &name).last().map(String::as_str), Some("stop"));
    daemon.ok(&["rm", &name]);
}

#[test]
fn a_kill_is_no_stop() {
    let daemon = shared();
    let name = name("events");
    daemon.ok(&["run", "-d", "--name", &name, BOX, "sleep", "1000"]);
    daemon.ok(&["kill", &name]);
    daemon.ok(&["start", &name]);
    daemon.ok(&["stop", "-t", "0", &name]);
    assert_eq!(actions(daemon, &name), ["create", "start", "kill", "die", "start", "kill", "kill", "die", "stop"]);
    daemon.ok(&["rm", &name]);
}

/// A request may come while its process ends: after the kernel has ended it, before the engine has heard of that.
#[test]
fn a_request_at_the_very_end_is_answered_as_before_or_after_it() {
    let daemon = shared();
    for (method, call, allowed) in [
        ("DELETE", "?force=1", &[204][..]),
        ("POST", "/restart?t=0", &[204]),
        ("POST", "/stop?t=1", &[204, 304]),
        ("POST", "/kill?signal=KILL", &[204, 409]),
        ("POST", "/kill?signal=USR2", &[204, 409]),
        ("POST", "/pause", &[204, 409]),
        ("POST", "/resize?h=10&w=10", &[200, 409]),
        ("POST", "/update", &[200]),
        ("POST", "/exec", &[201, 409]),
        ("GET", "/archive?path=/bin/busybox", &[200]),
    ] {
        for round in 0..rounds(10) {
            let name = name("ending");
            daemon.ok(&["run", "-d", "--name", &name, "-t", BOX, "sleep", "1000"]);
            let pid = daemon.inspect(&name)["State"]["Pid"].as_i64().unwrap();
            let process = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
            rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
            std::thread::sleep(std::time::Duration::from_micros(u64::from(round % 10) * 300));
            let body = match call {
                "/update" => Some(r#"{"PidsLimit":50}"#),
                "/exec" => Some(r#"{"Cmd":["true"],"User":"root"}"#),
                _ => None,
            };
            let (status, text) = daemon.api(method, &format!("/v1.51/containers/{name}{call}"), body);
            assert!(allowed.contains(&status), "{call}: {status} {text}");
            if method != "DELETE" {
                daemon.ok(&["rm", "-f", &name]);
            }
        }
    }
}

/// The same of one that is removed by its end.
#[test]
fn files_of_a_container_that_goes_are_there_or_not() {
    let daemon = shared();
    for round in 0..rounds(20) {
        let name = name("going");
        daemon.ok(&["run", "-d", "--rm", "--name", &name, BOX, "sleep", "1000"]);
        let pid = daemon.inspect(&name)["State"]["Pid"].as_i64().unwrap();
        let process = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
        std::thread::sleep(std::time::Duration::from_micros(u64::from(round % 20) * 150));
        let (status, text) = daemon.api("HEAD", &format!("/v1.51/containers/{name}/archive?path=/bin/busybox"), None);
        assert!([200, 404].contains(&status), "{status} {text}");
    }
}
