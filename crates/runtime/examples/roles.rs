//! The roles of this crate as a program, without the daemon: the spawner, the OCI command line, and a stopwatch.
//!
//! `roles bench <busybox> <runs> <pause>` starts `busybox true` that many times, with a pause of that many milliseconds
//! before each, and prints the times from the request to `Started` and to `Exited`. `roles memory` and `roles log` measure
//! the monitor.

#![expect(clippy::print_stdout, reason = "it is a command line program")]

use naru_runtime::monitor::{self, Event, LogFile};
use naru_runtime::spawner::{self, Preparation, Rootfs, RuntimeKind, Spawner, StartRequest};
use naru_runtime::{defaults, seccomp};
use naru_types::ContainerId;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn main() {
    let mut args = std::env::args_os();
    if args.next().is_some_and(|name| name == spawner::ROLE) {
        std::process::exit(spawner::main());
    }
    let args: Vec<_> = args.collect();
    match args.first().and_then(|role| role.to_str()) {
        Some("bench") => {
            let number = |at: usize, default: u64| args.get(at).and_then(|text| text.to_str()?.parse().ok()).unwrap_or(default);
            bench(Path::new(&args[1]), number(2, 20), Duration::from_millis(number(3, 0)));
        }
        Some("memory") => memory(Path::new(&args[1])),
        Some("log") => log(Path::new(&args[1])),
        Some("oci") => std::process::exit(naru_runtime::oci::main(args[1..].to_vec())),
        _ => println!("usage: roles oci ... | bench <busybox> <runs> <pause> | memory <busybox> | log <busybox>"),
    }
}

/// A root file system with busybox, and a spawner.
struct Bench {
    directory: PathBuf,
    rootfs: PathBuf,
    spawner: Spawner,
}

impl Bench {
    fn new(busybox: &Path) -> Bench {
        let directory = PathBuf::from(format!("/tmp/naru-bench-{}", std::process::id()));
        let rootfs = directory.join("rootfs");
        std::fs::create_dir_all(rootfs.join("bin")).expect("make the root file system");
        std::fs::copy(busybox, rootfs.join("bin/busybox")).expect("copy busybox");
        Bench { spawner: Spawner::launch().expect("launch the spawner"), directory, rootfs }
    }

    fn start(&self, args: &[&str], log: Option<LogFile>) -> UnixStream {
        let id = ContainerId::random();
        let state = self.directory.join(id.as_str());
        std::fs::create_dir(&state).expect("make the state directory");
        let mut spec = defaults::spec();
        let names: Vec<String> = defaults::CAPABILITIES.iter().map(|&name| name.to_owned()).collect();
        spec.linux_mut().seccomp = Some(seccomp::default_profile(&names));
        spec.linux_mut().cgroups_path = format!("/naru-bench/{id}");
        spec.process.as_mut().expect("the default has one").args = args.iter().map(|&arg| arg.to_owned()).collect();
        let linux = spec.linux_mut();
        let cgroup = (linux.cgroups_path.clone(), linux.resources.clone().unwrap_or_default());
        let pending = self.spawner.prepare(Preparation { directory: state, log, cgroup: Some(cgroup), throwaway: false }).expect("prepare");
        let request = StartRequest {
            id,
            spec,
            rootfs: Rootfs::Path(self.rootfs.clone()),
            network_namespace: None,
            tty: false,
            open_stdin: false,
            stdin_once: false,
            init: false,
            runtime: RuntimeKind::Native,
        };
        self.spawner.load(pending, request).and_then(|loaded| loaded.start(Vec::new())).expect("start")
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // Everything in there was made above.
        drop(std::fs::remove_dir_all(&self.directory));
    }
}

fn event(watch: &mut UnixStream) -> Option<Event> {
    monitor::receive_event(watch).expect("an event")
}

/// The private memory of the monitors of five idle containers.
fn memory(busybox: &Path) {
    let bench = Bench::new(busybox);
    let mut watches: Vec<UnixStream> = (0..5).map(|_| bench.start(&["/bin/busybox", "sleep", "3"], None)).collect();
    let pids: Vec<i32> =
        watches.iter_mut().filter_map(|watch| if let Some(Event::Started { pid, .. }) = event(watch) { Some(pid) } else { None }).collect();
    std::thread::sleep(Duration::from_millis(1500));
    for pid in pids {
        let parent = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let parent = parent.lines().find_map(|line| line.strip_prefix("PPid:\t")).unwrap_or_default().to_owned();
        let rollup = std::fs::read_to_string(format!("/proc/{parent}/smaps_rollup")).unwrap_or_default();
        let lines: Vec<&str> =
            rollup.lines().filter(|line| ["Pss:", "Private_Clean:", "Private_Dirty:"].iter().any(|name| line.starts_with(name))).collect();
        println!("monitor {parent}: {}", lines.join("  "));
    }
}

/// Two million lines of 80 bytes into a log: elapsed and CPU time of the monitor.
fn log(busybox: &Path) {
    let bench = Bench::new(busybox);
    let path = bench.directory.join("c.log");
    let log = LogFile {
        path: path.clone(),
        max_size: None,
        max_files: 1,
        compress: false,
        attrs: std::collections::BTreeMap::new(),
        queue: None,
    };
    let begin = Instant::now();
    let line = "x".repeat(79);
    let script = format!("/bin/busybox yes {line} | /bin/busybox head -n 2000000");
    let mut watch = bench.start(&["/bin/busybox", "sh", "-c", &script], Some(log));
    let Some(Event::Started { pid, .. }) = event(&mut watch) else { return println!("not started") };
    let parent = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let parent = parent.lines().find_map(|line| line.strip_prefix("PPid:\t")).unwrap_or_default().to_owned();
    let mut cpu = String::new();
    loop {
        if let Ok(stat) = std::fs::read_to_string(format!("/proc/{parent}/schedstat")) {
            cpu = stat;
        }
        watch.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
        match monitor::receive_event(&mut watch) {
            Ok(_) => break,
            Err(_) => continue,
        }
    }
    let nanoseconds: f64 = cpu.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or(0.0);
    let size = std::fs::metadata(&path).map_or(0, |meta| meta.len());
    println!("2,000,000 lines: {:?}, monitor's CPU {:.2} s, log {size} bytes", begin.elapsed(), nanoseconds / 1e9);
}

fn bench(busybox: &Path, runs: u64, pause: Duration) {
    let bench = Bench::new(busybox);
    let (mut started, mut exited) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        std::thread::sleep(pause);
        let begin = Instant::now();
        let mut watch = bench.start(&["/bin/busybox", "true"], None);
        loop {
            match event(&mut watch) {
                Some(Event::Started { .. }) => started.push(begin.elapsed()),
                Some(Event::Exited(_)) => break exited.push(begin.elapsed()),
                Some(other) => println!("{other:?}"),
                None => break println!("the monitor ended"),
            }
        }
    }
    for (name, times) in [("started", &mut started), ("exited", &mut exited)] {
        times.sort();
        if let (Some(first), Some(middle)) = (times.first(), times.get(times.len() / 2)) {
            println!("{name}: min {first:?} median {middle:?}");
        }
    }
}
