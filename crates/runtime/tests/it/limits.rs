//! Limits by cgroup.

use crate::rig::{command, shell};
use naru_runtime::cgroup::available_controllers;
use naru_runtime::monitor::Event;
use naru_runtime::spec::{Cpu, HugepageLimit, Memory, Pids};

fn has(controller: &str) -> bool {
    available_controllers().unwrap().iter().any(|name| name == controller)
}

pub fn memory() {
    let mut running = command(&["/probe", "probe", "memory", "200"])
        .with_probe()
        .with(|b| {
            // Memory and swap together: a host that has swap would else use it.
            let memory = Memory {
                limit: Some(64 << 20),
                swap: Some(64 << 20),
                reservation: Some(32 << 20),
                swappiness: Some(10),
                ..Memory::default()
            };
            b.spec.linux_mut().resources.as_mut().unwrap().memory = Some(memory);
        })
        .start();
    assert_eq!(running.event(), Some(Event::OomKill));
    let output = running.finish();
    assert_eq!((output.code, output.record.oom_killed), (137, true));
    let output = command(&["/probe", "probe", "memory", "20"]).with_probe().run();
    assert_eq!((output.stdout.as_str(), output.record.oom_killed), ("used 20\n", false));
}

pub fn processes_and_cpu() {
    let running = command(&["/probe", "probe", "fork-bomb"])
        .with_probe()
        .with(|b| {
            let resources = b.spec.linux_mut().resources.as_mut().unwrap();
            resources.pids = Some(Pids { limit: Some(20) });
            resources.cpu = Some(Cpu { shares: Some(512), quota: Some(50_000), period: Some(100_000), cpus: "0".into(), ..Cpu::default() });
        })
        .start();
    let output = running.finish();
    assert_eq!(output.stdout, "19\n");
    let mut running = shell("nproc; while :; do :; done")
        .with(|b| {
            b.spec.linux_mut().resources.as_mut().unwrap().cpu = Some(Cpu { quota: Some(20_000), cpus: "0".into(), ..Cpu::default() })
        })
        .start();
    running.read_until("1\n");
    let cgroup = running.cgroup();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let stats = cgroup.stats();
        let used = stats.cpu.total > 0 && stats.memory.usage > 0;
        // The other program has ended when its line is there, or soon after.
        if used && stats.cpu.throttled_periods > 0 && stats.pids.current == 1 {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{stats:?}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    running.kill(9);
    assert_eq!(running.finish().code, 137);
}

pub fn devices() {
    // Making a node is allowed, opening one that is not on the list is not.
    let script = "cd /tmp; mknod disk b 254 0; cat disk > /dev/null; echo $?; mknod n c 1 3; echo x > n; echo $?; mknod kmsg c 1 11; cat kmsg; echo $?";
    let output = shell(script).run();
    assert_eq!(output.stdout, "1\n0\n1\n", "{}", output.stderr);
    assert_eq!(output.stderr.matches("Operation not permitted").count(), 2, "{}", output.stderr);
}

pub fn freeze_and_kill() {
    let running = shell("sleep 1000 & sleep 1000 & while :; do sleep 0.01; done").start();
    let cgroup = running.cgroup();
    while cgroup.pids().unwrap().len() < 3 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    cgroup.freeze().unwrap();
    assert!(cgroup.frozen());
    assert!(cgroup.pids().unwrap().len() >= 3);
    cgroup.thaw().unwrap();
    assert!(!cgroup.frozen());
    cgroup.freeze().unwrap();
    cgroup.kill().unwrap();
    assert_eq!(running.finish().code, 137);
}

pub fn hugepages() {
    let free: u32 =
        std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages").map_or(0, |n| n.trim().parse().unwrap());
    if !has("hugetlb") || free < 4 {
        let required = std::env::var("NARU_E2E_REQUIRE").unwrap_or_default();
        assert!(!required.split(',').any(|name| name == "hugetlb"), "this host lacks hugetlb, or has {free} free pages");
        return;
    }
    let limit = HugepageLimit { page_size: "2MB".into(), limit: 4 << 20 };
    let output = shell("fallocate -l 2097152 /huge/one; echo $?; fallocate -l 4194304 /huge/two; echo $?")
        .with(|b| b.spec.linux_mut().resources.as_mut().unwrap().hugepage_limits = vec![limit])
        .mount("/huge", "hugetlbfs", "hugetlbfs", &["pagesize=2M"])
        .run();
    assert_eq!(output.stdout, "0\n1\n", "{}", output.stderr);
}

pub fn missing_controller() {
    if has("hugetlb") {
        return;
    }
    let limit = HugepageLimit { page_size: "2MB".into(), limit: 1 << 21 };
    let (_, message) = command(&["true"]).with(|b| b.spec.linux_mut().resources.as_mut().unwrap().hugepage_limits = vec![limit]).fail();
    assert_eq!(message, "a limit of huge pages is not possible on this host: the cgroup controller hugetlb is not mounted");
}
