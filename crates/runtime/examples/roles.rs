//! The roles of this crate as a program, without the daemon: the spawner, the OCI command line, and a stopwatch.
//!
//! `roles bench <busybox> <runs> <pause>` starts `busybox true` that many times, with a pause of that many milliseconds
//! before each, and prints the times from the request to `Started` and to `Exited`.

#![expect(clippy::print_stdout, reason = "it is a command line program")]

use naru_runtime::monitor::{self, Event};
use naru_runtime::spawner::{self, Rootfs, RuntimeKind, Spawner, StartRequest};
use naru_runtime::{defaults, seccomp};
use naru_types::ContainerId;
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
        Some("oci") => std::process::exit(naru_runtime::oci::main(args[1..].to_vec())),
        _ => println!("usage: roles oci ... | bench <busybox> <runs> <pause>"),
    }
}

fn bench(busybox: &Path, runs: u64, pause: Duration) {
    let directory = PathBuf::from(format!("/tmp/naru-bench-{}", std::process::id()));
    let rootfs = directory.join("rootfs");
    std::fs::create_dir_all(rootfs.join("bin")).expect("make the root file system");
    std::fs::copy(busybox, rootfs.join("bin/busybox")).expect("copy busybox");
    let spawner = Spawner::launch().expect("launch the spawner");
    let (mut started, mut exited) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        std::thread::sleep(pause);
        let id = ContainerId::random();
        let state = directory.join(id.as_str());
        std::fs::create_dir(&state).expect("make the state directory");
        let mut spec = defaults::spec();
        let names: Vec<String> = defaults::CAPABILITIES.iter().map(|&name| name.to_owned()).collect();
        spec.linux_mut().seccomp = Some(seccomp::default_profile(&names));
        spec.linux_mut().cgroups_path = format!("/naru-bench/{id}");
        spec.process.as_mut().expect("the default has one").args = vec!["/bin/busybox".into(), "true".into()];
        let begin = Instant::now();
        let mut watch = spawner
            .start(StartRequest {
                id,
                directory: state,
                spec,
                rootfs: Rootfs::Path(rootfs.clone()),
                network_namespace: None,
                tty: false,
                open_stdin: false,
                stdin_once: false,
                init: false,
                log: None,
                attach: Vec::new(),
                runtime: RuntimeKind::Native,
            })
            .expect("start");
        loop {
            match monitor::receive_event(&mut watch).expect("an event") {
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
    drop(spawner);
    // Everything in there was made above.
    drop(std::fs::remove_dir_all(&directory));
}
