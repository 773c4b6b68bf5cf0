//! Real containers from a busybox root file system, on the real kernel; needs root and `/bin/busybox` (static).
//!
//! The program plays every role: the spawner (executed by the tests), `oci`, a probe inside containers, and the runner
//! of the tests, which takes the options of Rust's own (a filter, `--exact`, `--list`, `--nocapture` is always on).

#![expect(clippy::print_stdout, clippy::print_stderr, clippy::unwrap_used, reason = "a test program")]

mod limits;
mod monitor;
mod oci;
mod probe;
mod rig;
mod run;
mod security;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Name and function of each test.
type Test = (&'static str, fn());

/// Lists functions as tests.
macro_rules! tests {
    ($($module:ident :: { $($name:ident),* $(,)? })*) => {
        &[$($((concat!(stringify!($module), "::", stringify!($name)), $module::$name as fn())),*),*]
    };
}

const TESTS: &[Test] = tests! {
    run::{ exit_codes, streams, standard_input, terminal, start_failures, identity, file_systems, volumes, init_reaps_and_forwards,
           network_namespaces, user_namespace, hooks, keeps_nothing, joined_namespaces }
    monitor::{ exec, exec_terminal, exec_failures, attach_and_watch, survives_the_daemon, log_is_complete, log_rotates, log_never_blocks, slow_client, signals,
               spawner_is_replaced, forked_ahead, external, called_off, held, thrown_away }
    limits::{ memory, processes_and_cpu, devices, freeze_and_kill, hugepages, missing_controller }
    security::{ program_is_sealed, image_links_stay_inside, working_directory, masked_paths, console_of_a_lying_image, null_of_a_lying_image,
                capabilities, system_calls, passwd_traps, shared_volume_race, sysctls_reach_only_their_files, no_descriptors }
    oci::{ life_of_a_container, exec_and_failures, state_is_refused_when_unknown, selinux_labels }
};

fn main() {
    let mut args = std::env::args();
    if args.next().is_some_and(|name| name == naru_runtime::spawner::ROLE) {
        std::process::exit(naru_runtime::spawner::main());
    }
    let args: Vec<String> = args.collect();
    match args.first().map(String::as_str) {
        Some("oci") => std::process::exit(naru_runtime::oci::main(args[1..].iter().map(Into::into).collect())),
        Some("probe") => std::process::exit(probe::main(&args[1..])),
        _ => std::process::exit(runner(&args)),
    }
}

fn runner(args: &[String]) -> i32 {
    let filters: Vec<&str> = args.iter().map(String::as_str).filter(|arg| !arg.starts_with('-')).collect();
    let exact = args.iter().any(|arg| arg == "--exact");
    let wanted =
        |name: &str| filters.is_empty() || filters.iter().any(|filter| if exact { name == *filter } else { name.contains(filter) });
    let tests: Vec<&Test> = TESTS.iter().filter(|(name, _)| wanted(name)).collect();
    if args.iter().any(|arg| arg == "--list") {
        tests.iter().for_each(|(name, _)| println!("{name}: test"));
        return 0;
    }
    if !rustix::process::geteuid().is_root() || !std::path::Path::new("/bin/busybox").exists() {
        eprintln!("skipped: these tests need root and a static /bin/busybox");
        return 0;
    }
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some((name, test)) = tests.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let begin = Instant::now();
                    let passed = catch_unwind(AssertUnwindSafe(test)).is_ok();
                    println!("test {name} ... {} ({:.2?})", if passed { "ok" } else { "FAILED" }, begin.elapsed());
                    if !passed {
                        failed.lock().unwrap().push(*name);
                    }
                }
            });
        }
    });
    rig::clean_up();
    let failed = failed.into_inner().unwrap();
    println!(
        "\ntest result: {}. {} passed; {} failed {failed:?}",
        if failed.is_empty() { "ok" } else { "FAILED" },
        tests.len() - failed.len(),
        failed.len()
    );
    i32::from(!failed.is_empty())
}
