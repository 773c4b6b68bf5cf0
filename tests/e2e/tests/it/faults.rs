//! What is killed at the worst moment leaves nothing behind and nothing unusable.

use naru_e2e::{BOX, Daemon, Over, busybox_archive, parent};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn kill(pid: i64) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// Everything listed can be looked at and removed, every image runs or goes; then nothing is left.
fn all_is_usable(daemon: &Daemon) {
    for id in daemon.ok(&["ps", "-aq"]).lines() {
        for args in [&["inspect", id][..], &["logs", "--tail", "1", id]] {
            let done = daemon.run(args);
            // One with `--rm` that has ended goes when the daemon is back.
            assert!(done.code == 0 || !daemon.ok(&["ps", "-aq"]).contains(id), "{args:?}: {done:?}\n{}", daemon.tail());
        }
    }
    for id in daemon.ok(&["images", "-q"]).lines() {
        if daemon.run(&["run", "--rm", id, "true"]).code != 0 {
            let listed = daemon.ok(&["images"]);
            assert!(listed.contains("naru/hello"), "image {id} does not run\n{listed}");
        }
    }
}

fn remove_all(daemon: &Daemon) {
    let ids = daemon.ok(&["ps", "-aq"]);
    if !ids.is_empty() {
        let mut args = vec!["rm", "-f"];
        args.extend(ids.lines());
        daemon.ok(&args);
    }
    assert_eq!(daemon.ok(&["ps", "-aq"]), "");
    daemon.until_clean();
}

#[test]
fn a_daemon_killed_at_any_moment_leaves_before_or_after() {
    let mut daemon = Daemon::start();
    let archive = daemon.command(&["save", BOX]).output().unwrap().stdout;
    let mut moment: u64 = 0x2545_f491_4f6c_dd1d;
    for round in 0..10 {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (daemon, over, archive) = (&daemon, &over, &archive);
            let again = |job: &dyn Fn()| {
                while !over.load(Ordering::Relaxed) {
                    job();
                }
            };
            scope.spawn(move || again(&|| drop(daemon.run(&["run", "--rm", "-p", "127.0.0.1::80", BOX, "true"]))));
            scope.spawn(move || {
                again(&|| {
                    daemon.run(&["run", "-d", "--name", "held", BOX, "sleep", "1000"]);
                    daemon.run(&["exec", "held", "true"]);
                    daemon.run(&["stop", "-t", "0", "held"]);
                    daemon.run(&["start", "held"]);
                    daemon.run(&["rm", "-f", "held"]);
                })
            });
            scope.spawn(move || {
                again(&|| {
                    daemon.run(&["create", "--name", "source", BOX, "true"]);
                    daemon.run(&["commit", "source", "made:1"]);
                    daemon.run(&["rm", "source"]);
                    daemon.run(&["rmi", "made:1"]);
                })
            });
            scope.spawn(move || again(&|| drop(daemon.feed(&["load"], archive))));
            // xorshift: the same moments in every run of the test.
            moment ^= moment << 13;
            moment ^= moment >> 7;
            moment ^= moment << 17;
            std::thread::sleep(Duration::from_millis(50 + moment % 700));
            let _over = Over(over);
            daemon.kill();
        });
        daemon.launch();
        all_is_usable(&daemon);
        if round % 3 == 2 {
            remove_all(&daemon);
        }
    }
    remove_all(&daemon);
    assert!(daemon.ok(&["images"]).contains("box"), "the image that was there from the start is still there");
}

#[test]
fn a_daemon_killed_while_it_loads_keeps_no_part_of_an_image() {
    let mut daemon = Daemon::start();
    // Random bytes: neither compression nor holes make it small.
    let mut state: u64 = 1;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_le_bytes()
    };
    let files: Vec<Vec<u8>> = (0..24)
        .map(|number| {
            let data: Vec<u8> = (0..1 << 17).flat_map(|_| random()).collect();
            crate::image::entry(b'0', &format!("file{number}"), "", &data)
        })
        .collect();
    let image = crate::image::image("big:1", &[crate::image::archive(&files)], "");
    let held = |daemon: &Daemon| {
        ["d/blobs/sha256", "d/layers"].map(|folder| {
            let mut names: Vec<_> = std::fs::read_dir(daemon.root.join(folder)).unwrap().map(|file| file.unwrap().file_name()).collect();
            names.sort();
            names
        })
    };
    let before = held(&daemon);
    let start = std::time::Instant::now();
    assert_eq!(daemon.feed(&["load"], &image).code, 0);
    let whole = start.elapsed();
    let full = held(&daemon);
    assert_ne!(full, before);
    daemon.ok(&["rmi", "big:1"]);
    assert_eq!(held(&daemon), before, "a removed image leaves nothing");
    for part in 1..=8 {
        std::thread::scope(|scope| {
            scope.spawn(|| daemon.feed(&["load"], &image));
            std::thread::sleep(whole * part / 9);
            daemon.kill();
        });
        daemon.launch();
        let listed = daemon.run(&["image", "inspect", "big:1"]).code == 0;
        if listed {
            assert_eq!(daemon.ok(&["run", "--rm", "big:1", "sh", "-c", "cat /file* | wc -c"]), (24_usize << 20).to_string());
            daemon.ok(&["rmi", "big:1"]);
        }
        daemon.until_clean();
        assert_eq!(held(&daemon), before, "killed after {part}/9, listed: {listed}");
    }
}

#[test]
fn a_killed_monitor_is_an_exit_with_137() {
    let daemon = Daemon::start();
    daemon.ok(&["run", "-d", "--name", "once", BOX, "sleep", "1000"]);
    daemon.ok(&["run", "-d", "--name", "again", "--restart", "always", BOX, "sleep", "1000"]);
    let pid = |name: &str| daemon.inspect(name)["State"]["Pid"].as_i64().unwrap();
    let (once, again) = (pid("once"), pid("again"));
    kill(parent(once));
    kill(parent(again));
    daemon.until("the end is seen", || daemon.inspect("once")["State"]["Status"] == "exited");
    assert_eq!(daemon.inspect("once")["State"]["ExitCode"], 137);
    daemon.until("the restart policy acts", || {
        let state = &daemon.inspect("again")["State"];
        state["Status"] == "running" && state["Pid"].as_i64() != Some(again)
    });
    assert_eq!(daemon.ok(&["exec", "again", "echo", "fine"]), "fine");
    daemon.until("the processes are gone", || [once, again].iter().all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()));
    remove_all(&daemon);
}

#[test]
fn a_killed_spawner_is_replaced() {
    let daemon = Daemon::start();
    daemon.ok(&["run", "-d", "--name", "before", BOX, "sleep", "1000"]);
    let own = i64::from(daemon.pid());
    let spawner = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i64>().ok())
        .find(|pid| parent(*pid) == own && std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "naru-spawner\n"))
        .expect("the daemon has a spawner");
    kill(spawner);
    daemon.until("containers start again", || daemon.run(&["run", "--rm", BOX, "true"]).code == 0);
    assert_eq!(daemon.ok(&["exec", "before", "echo", "fine"]), "fine");
    remove_all(&daemon);
}

#[test]
fn an_ended_daemon_keeps_its_containers() {
    let mut daemon = Daemon::start();
    daemon.ok(&["run", "-d", "--name", "kept", BOX, "sleep", "1000"]);
    let pid = daemon.inspect("kept")["State"]["Pid"].clone();
    let held = daemon.leftovers();
    for kind in ["process", "cgroup", "link", "directory"] {
        assert!(held.iter().any(|what| what.starts_with(kind)), "no {kind}: what the tests look for would not be found: {held:?}");
    }
    daemon.terminate();
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists(), "the container outlives the daemon");
    daemon.launch();
    let state = daemon.inspect("kept");
    assert_eq!((&state["State"]["Status"], &state["State"]["Pid"]), (&"running".into(), &pid));
    assert_eq!(daemon.ok(&["exec", "kept", "echo", "fine"]), "fine");
    remove_all(&daemon);
}

/// A daemon with nothing on a disk of 64 MiB.
fn on_a_small_disk() -> Daemon {
    let mut daemon = Daemon::start();
    daemon.terminate();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64m", "none"]).arg(daemon.data()).status().unwrap();
    assert!(mounted.success());
    daemon.launch();
    daemon
}

#[test]
fn an_engine_whose_own_image_has_no_room_starts_without_it() {
    let mut daemon = on_a_small_disk();
    daemon.ok(&["rmi", "naru/hello"]);
    // Less than the twentieth that stays free.
    let fill = daemon.data().join("fill");
    std::fs::write(&fill, vec![0; 61 << 20]).unwrap();
    daemon.terminate();
    daemon.launch();
    assert_eq!(daemon.ok(&["images", "-q"]), "");
    assert!(daemon.log().contains("the image that ships inside cannot be loaded"));
    daemon.ok(&["image", "prune", "-af"]);
    std::fs::remove_file(&fill).unwrap();
    daemon.terminate();
    daemon.launch();
    assert_eq!(daemon.ok(&["images", "--format", "{{.Repository}}"]), "naru/hello");
}

#[test]
fn a_full_disk_loses_no_container() {
    let mut daemon = on_a_small_disk();
    assert_eq!(daemon.feed(&["import", "-", BOX], busybox_archive()).code, 0);
    daemon.ok(&["run", "-d", "--name", "held", BOX, "sleep", "1000"]);
    daemon.ok(&["run", "-d", "--name", "ends", BOX, "sh", "-c", "until [ -e /tmp/go ]; do sleep 0.05; done; exit 6"]);
    daemon.ok(&["exec", "ends", "mkdir", "-p", "/tmp"]);
    daemon.run(&["run", "--name", "filler", BOX, "dd", "if=/dev/zero", "of=/big", "bs=64k"]);
    // What the records of the end have left is filled too.
    let more = daemon.run(&["exec", "held", "sh", "-c", "cat /dev/zero > /more; cat /dev/zero > /last"]);
    assert!(more.err.contains("No space left on device"), "{more:?}");

    // What reads and what ends goes on.
    assert_eq!(daemon.ok(&["ps", "-aq"]).lines().count(), 3);
    daemon.ok(&["logs", "held"]);
    daemon.ok(&["stop", "-t", "0", "held"]);
    assert_eq!(daemon.inspect("held")["State"]["Status"], "exited");
    let refused = daemon.run(&["run", "-d", "--name", "new", BOX, "sleep", "1000"]);
    assert!(refused.code == 0 || refused.err.trim().len() > 20, "{refused:?}");

    daemon.kill();
    daemon.launch();
    let names = daemon.ok(&["ps", "-a", "--format", "{{.Names}}"]);
    for name in ["held", "ends", "filler"] {
        assert!(names.lines().any(|line| line == name), "{name} of {names}");
        daemon.inspect(name);
    }
    assert_eq!(daemon.inspect("ends")["State"]["Status"], "running");
    assert_eq!(daemon.inspect("held")["State"]["Running"], false);
    daemon.ok(&["rm", "filler"]);
    daemon.ok(&["exec", "ends", "touch", "/tmp/go"]);
    assert_eq!(daemon.ok(&["wait", "ends"]), "6");
    // The files of what was removed go behind the answer.
    daemon.until("there is space again", || daemon.run(&["run", "--rm", BOX, "echo", "fine"]).out == "fine\n");
    remove_all(&daemon);
}

/// Two daemons that both mend the same rules would do so for ever, each against the other.
#[test]
fn a_second_daemon_on_a_bridge_is_refused() {
    let daemon = Daemon::start();
    let name = daemon.ok(&["run", "-d", BOX, "sleep", "1000"]);
    let place = |part: &str| daemon.root.join(format!("second-{part}")).display().to_string();
    let mut second = Command::new(naru_e2e::program());
    second.args(["daemon", "--config-file", "/dev/null", "-H", &format!("unix://{}", place("s")), "--bip", "10.252.7.1/24"]);
    second.args(["--data-root", &place("d"), "--exec-root", &place("e"), "--pidfile", &place("p"), "--bridge", &daemon.bridge()]);
    let refused = second.stdin(std::process::Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && text.contains(&daemon.bridge()) && text.contains("--bridge"), "{text}");
    // What it found it has left alone.
    daemon.ok(&["exec", &name, "ip", "route", "get", "192.0.2.1"]);
    daemon.ok(&["run", "--rm", BOX, "true"]);
    daemon.ok(&["rm", "-f", &name]);
    daemon.until_clean();
}
