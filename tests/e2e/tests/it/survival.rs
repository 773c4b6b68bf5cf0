//! Containers do not depend on the daemon: it is killed, they go on, and nothing is lost.

use naru_e2e::{BOX, Daemon};

#[test]
fn twenty_containers_outlive_a_killed_daemon() {
    let mut daemon = Daemon::start();
    let script = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.01; done";
    for number in 0..18 {
        daemon.ok(&["run", "-d", "--name", &format!("go{number}"), "--network", "none", BOX, "sh", "-c", script]);
    }
    // One ends while nobody watches, one prints more than any pipe holds.
    daemon.ok(&["run", "-d", "--name", "ends", BOX, "sh", "-c", "sleep 1; exit 42"]);
    daemon.ok(&["run", "-d", "--name", "loud", BOX, "sh", "-c", "sleep 1; yes 0123456789abcdef | head -c 4000000; echo the end"]);
    daemon.ok(&["run", "-d", "--name", "again", "--restart", "always", BOX, "sleep", "1.5"]);
    let pids: Vec<i64> = (0..18).map(|number| daemon.inspect(&format!("go{number}"))["State"]["Pid"].as_i64().unwrap()).collect();

    daemon.kill();
    std::thread::sleep(std::time::Duration::from_secs(3));
    daemon.launch();

    for (number, pid) in pids.iter().enumerate() {
        let state = daemon.inspect(&format!("go{number}"));
        assert_eq!((&state["State"]["Status"], state["State"]["Pid"].as_i64()), (&"running".into(), Some(*pid)));
    }
    daemon.until("what ended is seen", || daemon.inspect("ends")["State"]["Status"] == "exited");
    assert_eq!(daemon.inspect("ends")["State"]["ExitCode"], 42);
    daemon.until("the loud one has ended", || daemon.inspect("loud")["State"]["Status"] == "exited");
    let loud = daemon.ok(&["logs", "loud"]);
    assert_eq!((loud.len(), loud.ends_with("the end")), (4_000_000 + "the end".len(), true));
    daemon.until("the restart policy goes on", || daemon.inspect("again")["State"]["Status"] == "running");

    // The lines of one that printed all the time are without a gap.
    let lines = daemon.ok(&["logs", "go0"]);
    for (index, line) in lines.lines().enumerate() {
        assert_eq!(line, format!("line {}", index + 1));
    }
    assert_eq!(daemon.ok(&["exec", "go1", "echo", "still here"]), "still here");
    daemon.ok(&["stop", "-t", "1", "go2"]);
    assert_eq!(daemon.inspect("go2")["State"]["ExitCode"], 137);
}
