//! Limits that bite, whatever version of cgroups the host has; and devices.

use crate::health_events::{actions, events, now};
use naru_e2e::{BOX, Daemon, host_has, name, shared};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};

/// A running container that goes with its test.
struct Limited<'d>(&'d Daemon, String);

impl<'d> Limited<'d> {
    fn new(daemon: &'d Daemon, flags: &[&str], command: &[&str]) -> Limited<'d> {
        let name = name("limited");
        daemon.ok(&[&["run", "-d", "--name", &name], flags, &[BOX], command].concat());
        Limited(daemon, name)
    }

    fn stats(&self) -> Value {
        let (status, body) = self.0.api("GET", &format!("/containers/{}/stats?stream=0&one-shot=1", self.1), None);
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body[body.find('{').expect("an object")..=body.rfind('}').expect("an object")]).expect("stats are JSON")
    }

    fn cpu(&self) -> u64 {
        self.stats()["cpu_stats"]["cpu_usage"]["total_usage"].as_u64().expect("a number")
    }

    fn update(&self, flags: &[&str]) {
        self.0.ok(&[&["update"], flags, &[&self.1]].concat());
    }

    /// Whether a program in the container may fill that much memory. Where it may not it is killed, or told.
    fn takes(&self, size: &str) -> bool {
        let block = format!("bs={size}");
        self.0.run(&["exec", &self.1, "dd", "if=/dev/zero", "of=/dev/null", &block, "count=1"]).code == 0
    }
}

impl Drop for Limited<'_> {
    fn drop(&mut self) {
        self.0.run(&["rm", "-f", &self.1]);
    }
}

const SLEEP: &[&str] = &["sleep", "1000"];
const SPIN: &[&str] = &["sh", "-c", "while :; do :; done"];
const KILLED: i32 = 137;

/// The host is the one that the tests of version 2 are meant for.
#[test]
fn the_version_is_the_one_that_info_tells() {
    let pure = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let version = shared().ok(&["info", "--format", "{{.CgroupVersion}}"]);
    assert_eq!(version == "2", host_has("cgroup2", pure));
}

#[test]
fn memory_is_limited_and_its_end_is_told() {
    let daemon = shared();
    let killed = name("oom");
    let since = now();
    let flags = ["run", "--name", &killed, "-m", "16m", "--memory-swap", "16m", BOX, "dd", "if=/dev/zero", "of=/dev/null", "bs=64M"];
    let done = daemon.run(&flags);
    assert_eq!(done.code, KILLED, "{done:?}");
    let state = &daemon.inspect(&killed)["State"];
    assert_eq!((&state["OOMKilled"], &state["ExitCode"]), (&true.into(), &KILLED.into()));
    let told = actions(&events(daemon, &since, &[&format!("container={killed}")]));
    assert!(told.iter().any(|action| action == "oom"), "{told:?}");
    daemon.ok(&["rm", &killed]);

    let limited = Limited::new(daemon, &["-m", "64m", "--memory-swap", "64m"], SLEEP);
    assert!(limited.takes("32M"));
    assert!(!limited.takes("96M"));
    assert_eq!(limited.stats()["memory_stats"]["limit"], 64 << 20);
    limited.update(&["-m", "24m", "--memory-swap", "24m"]);
    assert!(!limited.takes("32M"));
    limited.update(&["-m", "128m", "--memory-swap", "128m"]);
    assert!(limited.takes("96M"));
    let inspected = daemon.inspect(&limited.1);
    assert_eq!((&inspected["HostConfig"]["Memory"], &inspected["State"]["Running"]), (&(128 << 20).into(), &true.into()));
    let stats = daemon.ok(&["stats", "--no-stream", "--format", "{{.MemUsage}}", &limited.1]);
    assert!(stats.contains("/ 128MiB"), "{stats}");
}

/// Version 2 knows neither: that is said, as Docker says it; version 1 takes both.
#[test]
fn what_the_version_has_not_is_told() {
    let daemon = shared();
    let pure = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let done = daemon.run(&["run", "--rm", "-m", "32m", "--memory-swappiness", "10", "--oom-kill-disable", BOX, "true"]);
    let told = ["Memory swappiness discarded", "OomKillDisable discarded"].map(|word| done.err.contains(word));
    assert_eq!((done.code, told), (0, [pure; 2]), "{done:?}");
}

#[test]
fn swap_is_what_memory_and_swap_leave() {
    if !host_has("swap", std::fs::read_to_string("/proc/swaps").unwrap().lines().count() > 1) {
        return;
    }
    let daemon = shared();
    let limited = Limited::new(daemon, &["-m", "24m", "--memory-swap", "96m"], SLEEP);
    assert!(limited.takes("48M"), "what is beyond the memory is swapped");
    assert!(!limited.takes("128M"));
    limited.update(&["-m", "24m", "--memory-swap", "24m"]);
    assert!(!limited.takes("48M"));
    limited.update(&["-m", "24m", "--memory-swap", "-1"]);
    assert!(limited.takes("128M"));
}

#[test]
fn processors_are_limited_and_shared_by_weight() {
    let daemon = shared();
    let limited = Limited::new(daemon, &["--cpus", "0.2", "--cpuset-cpus", "0"], SPIN);
    let periods = || limited.stats()["cpu_stats"]["throttling_data"]["throttled_periods"].as_u64().expect("a number");
    daemon.until("it is throttled", || periods() > 1);
    assert_eq!(daemon.ok(&["exec", &limited.1, "nproc"]), "1");
    limited.update(&["--cpu-quota", "-1", "--cpuset-cpus", "1"]);
    let allowed = daemon.ok(&["exec", &limited.1, "grep", "Cpus_allowed_list", "/proc/self/status"]);
    assert_eq!(allowed, "Cpus_allowed_list:\t1");
    drop(limited);

    let light = Limited::new(daemon, &["--cpu-shares", "128", "--cpuset-cpus", "0"], SPIN);
    let heavy = Limited::new(daemon, &["--cpu-shares", "2048", "--cpuset-cpus", "0"], SPIN);
    // The weights say something about the time in which both want the processor.
    let (light_before, heavy_before) = (light.cpu(), heavy.cpu());
    let used = || (light.cpu() - light_before, heavy.cpu() - heavy_before);
    daemon.until("they have used two seconds", || used().0 + used().1 > 2_000_000_000);
    let (light_used, heavy_used) = used();
    assert!(heavy_used > 2 * light_used, "{heavy_used} of the heavy one, {light_used} of the light one");
}

#[test]
fn tasks_are_limited_live() {
    let daemon = shared();
    let limited = Limited::new(daemon, &["--pids-limit", "50"], SLEEP);
    let many = "for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 1 & done; wait";
    let fork = || daemon.run(&["exec", &limited.1, "sh", "-c", many]);
    assert_eq!(fork().code, 0);
    limited.update(&["--pids-limit", "10"]);
    assert_eq!(limited.stats()["pids_stats"]["limit"], 10);
    let refused = fork();
    assert!(refused.code != 0 && refused.err.contains("fork"), "{refused:?}");
}

#[test]
fn devices_are_those_of_the_list() {
    let daemon = shared();
    // Not one of those that every container may use.
    let script = "mknod /tmp/k c 1 11; (: >> /tmp/k) && echo writes; (: < /tmp/k) && echo reads; (: >> /dev/null) && echo null; true";
    let ends = |flags: &[&str]| {
        let text = daemon.ok(&[&["run", "--rm", "--cap-add", "SYSLOG"], flags, &[BOX, "sh", "-c", script]].concat());
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(ends(&[]), "null");
    assert_eq!(ends(&["--device-cgroup-rule", "c 1:11 w"]), "writes null");
    assert_eq!(ends(&["--device-cgroup-rule", "c 1:* r"]), "reads null");
    assert_eq!(ends(&["--device-cgroup-rule", "a *:* rwm"]), "writes reads null");
    assert_eq!(ends(&["--device", "/dev/kmsg:/dev/log:rw"]), "writes reads null");
    assert_eq!(ends(&["--device", "/dev/kmsg:/dev/kmsg:r"]), "reads null");
    assert_eq!(ends(&["--privileged"]), "writes reads null");
}

/// `NARU_E2E_DISK` names a disk that may be read and that nothing else uses.
#[test]
fn a_disk_is_read_as_slowly_as_asked() {
    let disk = std::env::var("NARU_E2E_DISK").ok();
    if !host_has("disk", disk.is_some()) {
        return;
    }
    let daemon = shared();
    let disk = disk.unwrap();
    let rate = format!("{disk}:1mb");
    let flags = ["--device", &disk, "--device-read-bps", &rate, "-e", &format!("DISK={disk}")];
    let limited = Limited::new(daemon, &flags, SLEEP);
    let start = Instant::now();
    daemon.ok(&["exec", &limited.1, "sh", "-c", "dd if=$DISK of=/dev/null bs=64k count=48 iflag=direct"]);
    // Three mebibytes, less a burst at the beginning.
    assert!(start.elapsed() > Duration::from_millis(1500), "{:?}", start.elapsed());
    let stats = limited.stats();
    let entries = stats["blkio_stats"]["io_service_bytes_recursive"].as_array().expect("a list").clone();
    let read: u64 = entries.iter().filter(|entry| entry["op"] == "read").filter_map(|entry| entry["value"].as_u64()).sum();
    assert!(read >= 48 << 16, "{entries:?}");
}

#[test]
fn a_paused_container_stands_still() {
    let daemon = shared();
    let limited = Limited::new(daemon, &[], SPIN);
    daemon.until("it runs", || limited.cpu() > 0);
    daemon.ok(&["pause", &limited.1]);
    let used = limited.cpu();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(limited.cpu(), used);
    assert_eq!(daemon.inspect(&limited.1)["State"]["Status"], "paused");
    daemon.ok(&["unpause", &limited.1]);
    daemon.until("it runs again", || limited.cpu() > used);
}

/// A limit that the kernel does not take: what was written where, and why not.
#[test]
fn a_limit_that_cannot_be_is_explained() {
    let daemon = shared();
    if Path::new("/sys/fs/cgroup/cpu/cpu.rt_runtime_us").exists() {
        let told = daemon.fails(125, &["run", "--rm", "--cpu-rt-runtime", "100", BOX, "true"]);
        assert!(
            told.contains("failed to write \"100\" to /sys/fs/cgroup/cpu") && told.contains("/cpu.rt_runtime_us: invalid argument: "),
            "{told}"
        );
    }
    if Path::new("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists() {
        let one = Limited::new(daemon, &["--tmpfs", "/t"], &["sh", "-c", "head -c 40m /dev/zero > /t/x; touch /full; exec sleep 1000"]);
        daemon.until("it is full", || daemon.run(&["exec", &one.1, "test", "-e", "/full"]).code == 0);
        let told = daemon.fails(1, &["update", "--memory", "8m", "--memory-swap", "8m", &one.1]);
        assert!(told.contains("failed to write \"8388608\" to /sys/fs/cgroup/memory/"), "{told}");
        assert!(told.contains("device or resource busy: the container uses more than that now"), "{told}");
    }
}
