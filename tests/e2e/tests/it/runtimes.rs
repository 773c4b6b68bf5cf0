//! Other OCI runtimes beside the own one; each test does nothing where the runtime is not installed.

use naru_e2e::{BOX, Daemon};
use std::path::Path;

fn lives_a_life(program: &str) {
    if !Path::new(program).exists() {
        return;
    }
    let daemon = Daemon::with_flags(&["--add-runtime", &format!("other={program}")]);
    assert!(daemon.ok(&["info", "--format", "{{json .Runtimes}}"]).contains(program));
    // Docker's own name for it is the built-in one's, also where another is registered.
    assert_eq!(daemon.ok(&["run", "--rm", "--runtime", "runc", BOX, "echo", "built in"]), "built in");
    let first = daemon.run(&["run", "--rm", "--runtime", "other", BOX, "echo", "hi"]);
    if first.code != 0 {
        // A runtime may refuse the host's control groups: then it must be said, and nothing may stay.
        assert!(first.code == 125 && first.err.contains("cgroup"), "{first:?}\n{}", daemon.tail());
        assert_eq!(daemon.ok(&["ps", "-aq", "--filter", "status=running"]), "");
        let ids = daemon.ok(&["ps", "-aq"]);
        if !ids.is_empty() {
            daemon.ok(&["rm", "-f", &ids]);
        }
        daemon.until_clean();
        return;
    }
    assert_eq!(first.out, "hi\n");
    let run = |args: &[&str]| {
        let mut all = vec!["run", "--runtime", "other"];
        all.extend(args);
        daemon.run(&all)
    };
    assert_eq!(run(&["--rm", BOX, "sh", "-c", "exit 7"]).code, 7);
    assert_eq!(run(&["--rm", BOX, "nosuch"]).code, 127);
    let script = "trap 'exit 3' TERM; while :; do sleep 0.05; done";
    assert_eq!(run(&["-d", "--name", "life", "-m", "64m", BOX, "sh", "-c", script]).code, 0);
    assert_eq!(daemon.ok(&["exec", "-e", "A=1", "life", "sh", "-c", "echo $A"]), "1");
    assert_eq!(daemon.run(&["exec", "life", "sh", "-c", "exit 9"]).code, 9);
    let echoed = daemon.feed(&["exec", "-i", "life", "cat"], b"piped");
    assert_eq!((echoed.code, echoed.out.as_str()), (0, "piped"));
    assert_eq!(daemon.inspect("life")["HostConfig"]["Runtime"], "other");
    daemon.ok(&["stop", "life"]);
    assert_eq!(daemon.inspect("life")["State"]["ExitCode"], 3);
    daemon.ok(&["start", "life"]);
    daemon.ok(&["rm", "-f", "life"]);
    daemon.until_clean();
}

#[test]
fn crun_lives_a_life() {
    lives_a_life("/usr/bin/crun");
}

#[test]
fn runc_lives_a_life() {
    lives_a_life("/usr/sbin/runc");
}

#[test]
fn a_runtime_that_is_not_there_is_named() {
    let daemon = Daemon::with_flags(&["--add-runtime", "gone=/no/such/runtime"]);
    let error = daemon.fails(127, &["run", "--rm", "--runtime", "gone", BOX, "true"]);
    assert!(error.contains("/no/such/runtime"), "{error}");
    assert!(daemon.fails(125, &["run", "--rm", "--runtime", "unknown", BOX, "true"]).contains("unknown"));
    let ids = daemon.ok(&["ps", "-aq"]);
    if !ids.is_empty() {
        daemon.ok(&["rm", "-f", &ids]);
    }
    daemon.until_clean();
}
