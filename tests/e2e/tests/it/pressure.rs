//! Clients that do not keep up: what they do not read is not gathered in the daemon.

use naru_e2e::{BOX, Daemon, name};
use std::io::Read;
use std::os::unix::net::UnixStream;

const MIB: u64 = 1 << 20;

/// What the process holds in memory.
fn resident(pid: i64) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Starts an exec that prints so many bytes and returns its stream, of which nothing but the head was read.
fn flood(daemon: &Daemon, name: &str, bytes: u64) -> UnixStream {
    let script = format!("head -c {bytes} /dev/zero");
    let body = format!(r#"{{"AttachStdout":true,"AttachStderr":true,"Cmd":["sh","-c","{script}"]}}"#);
    let (status, answer) = daemon.api("POST", &format!("/containers/{name}/exec"), Some(&body));
    assert_eq!(status, 201, "{answer}");
    let id = answer.split('"').nth(3).unwrap();
    daemon.upgraded(&format!("/exec/{id}/start"), "{}")
}

#[test]
fn output_that_nobody_reads_is_not_gathered() {
    // Its own: what others do at the same time is not to be measured. `NARU_E2E_FLOOD` is in MiB.
    let daemon = Daemon::start();
    let total = std::env::var("NARU_E2E_FLOOD").ok().and_then(|text| text.parse().ok()).unwrap_or(300) * MIB;
    let name = name("flood");
    daemon.ok(&["run", "-d", "--name", &name, BOX, "sleep", "1000"]);
    // What a first exec loads stays.
    flood(&daemon, &name, MIB).read_to_end(&mut vec![]).unwrap();
    let monitor = naru_e2e::parent(daemon.inspect(&name)["State"]["Pid"].as_i64().unwrap());
    let processes = [i64::from(daemon.pid()), monitor];
    let before = processes.map(resident);
    let most = |most: &mut [u64; 2]| {
        for (most, pid) in most.iter_mut().zip(processes) {
            *most = resident(pid).max(*most);
        }
    };
    let mut peak = before;
    let mut streams: Vec<UnixStream> = (0..3).map(|_| flood(&daemon, &name, total)).collect();
    // Nobody reads, while the daemon does other things.
    for _ in 0..20 {
        daemon.ok(&["exec", &name, "true"]);
        most(&mut peak);
    }
    // One is read to its end, slowly at first; two never.
    let (mut read, mut block) = (0, vec![0; 64 << 10]);
    let mut count = 0_u64;
    while let Ok(got @ 1..) = streams[0].read(&mut block) {
        read += got as u64;
        count += 1;
        if count < 50 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        if count.is_multiple_of(64) {
            most(&mut peak);
        }
    }
    // Frames have heads of eight bytes.
    assert!((total..total + total / 100).contains(&read), "{read} of {total}");
    for (what, peak, before) in [("daemon", peak[0], before[0]), ("monitor", peak[1], before[1])] {
        assert!(peak < before + 16 * MIB, "{what}: from {before} to {peak}");
    }
    drop(streams);
    daemon.ok(&["rm", "-f", &name]);
    daemon.until_clean();
}
