//! The verbs that look at a container or act on its process and limits.

use super::arguments::{Arguments, Flag};
use super::state::{Container, Status, signal};
use super::{Context, say};
use crate::cgroup::{BlockIoEntry, Stats};
use crate::error::{Error, Result, errno_of, ignore};
use crate::spec::{Cpu, Memory, Pids, Resources};
use crate::{defaults, spec};
use naru_types::Signal;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

fn load(context: &Context, args: &[OsString], flags: &[Flag]) -> Result<(Arguments, Container)> {
    let arguments = Arguments::parse(args, flags)?;
    let container = Container::load(context, &arguments.id()?)?;
    Ok((arguments, container))
}

fn describe(container: &Container) -> Value {
    let status = container.status();
    let stored = &container.stored;
    let spec = container.spec().unwrap_or_default();
    json!({
        "ociVersion": if spec.oci_version.is_empty() { "1.2.0" } else { &spec.oci_version },
        "id": stored.id,
        "pid": if status == Status::Stopped { 0 } else { stored.pid },
        "status": status.name(),
        "bundle": stored.bundle,
        "rootfs": stored.rootfs,
        "created": stored.created,
        "annotations": spec.annotations,
        "owner": "root",
    })
}

pub(super) fn state(context: &Context, args: &[OsString]) -> Result<i32> {
    let (_, container) = load(context, args, &[])?;
    say(&format!("{:#}\n", describe(&container)))
}

pub(super) fn kill(context: &Context, args: &[OsString]) -> Result<i32> {
    // `kill --all id sig` and `kill id sig` are both in use; so is the option after the id.
    let all_after = args.iter().any(|arg| arg == "--all" || arg == "-a");
    let args: Vec<OsString> = args.iter().filter(|arg| *arg != "--all" && *arg != "-a").cloned().collect();
    let (arguments, container) = load(context, &args, &[])?;
    let text = arguments.rest.get(1).map_or_else(|| "SIGTERM".to_owned(), |text| text.to_string_lossy().into_owned());
    let number = text.parse::<Signal>().map_err(|error| Error::Invalid(error.to_string()))?.number();
    if all_after {
        if number == libc::SIGKILL {
            container.cgroup()?.kill()?;
            return Ok(0);
        }
        for pid in container.cgroup()?.pids()? {
            ignore(naru_sys::process::kill(pid, number));
        }
        return Ok(0);
    }
    let Some(pidfd) = container.pidfd() else { return Err(Error::Conflict("container not running".into())) };
    signal(&pidfd, number)?;
    if number == libc::SIGKILL && container.cgroup()?.frozen() {
        ignore(container.cgroup()?.thaw());
    }
    Ok(0)
}

pub(super) fn delete(context: &Context, args: &[OsString]) -> Result<i32> {
    let forced = args.iter().any(|arg| arg == "--force" || arg == "-f");
    let args: Vec<OsString> = args.iter().filter(|arg| *arg != "--force" && *arg != "-f").cloned().collect();
    let arguments = Arguments::parse(&args, &[])?;
    let id = arguments.id()?;
    let container = match Container::load(context, &id) {
        Ok(container) => container,
        Err(Error::NotFound(_)) if forced => {
            // A create that was killed half way leaves a directory without a state.
            super::state::check_id(&id)?;
            drop(std::fs::remove_dir_all(context.root.join(&id)));
            return Ok(0);
        }
        Err(error) => return Err(error),
    };
    let status = container.status();
    match status {
        Status::Stopped => {}
        Status::Created => end(&container)?,
        _ if forced => end(&container)?,
        _ => return Err(Error::Conflict(format!("cannot delete container {id} that is not stopped: {}", status.name()))),
    }
    container.remove()?;
    Ok(0)
}

/// Kills the container and waits until its process is gone.
fn end(container: &Container) -> Result<()> {
    const DEADLINE: Duration = Duration::from_secs(10);
    container.cgroup()?.kill()?;
    let deadline = Instant::now() + DEADLINE;
    while let Some(pidfd) = container.pidfd() {
        ignore(signal(&pidfd, libc::SIGKILL));
        if Instant::now() > deadline {
            return Err(Error::Unavailable("the container's process does not end".into()));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

pub(super) fn list(context: &Context, args: &[OsString]) -> Result<i32> {
    let arguments = Arguments::parse(args, &[Flag::value("format", "f"), Flag::switch("quiet", "q")])?;
    let mut ids: Vec<String> = match std::fs::read_dir(&context.root) {
        Ok(entries) => entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect(),
        Err(_) => Vec::new(),
    };
    ids.sort();
    let all: Vec<Value> = ids.iter().filter_map(|id| Container::load(context, id).ok()).map(|container| describe(&container)).collect();
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    if arguments.has("quiet") {
        return say(&all.iter().map(|one| text(one, "id") + "\n").collect::<String>());
    }
    match arguments.get("format").unwrap_or("table") {
        "json" => say(&format!("{}\n", Value::from(all))),
        "table" => {
            let mut table = format!("{:<20} {:<8} {:<10} {:<30} {}\n", "ID", "PID", "STATUS", "BUNDLE", "CREATED");
            for one in &all {
                let (id, status, bundle, created) = (text(one, "id"), text(one, "status"), text(one, "bundle"), text(one, "created"));
                table += &format!("{id:<20} {:<8} {status:<10} {bundle:<30} {created}\n", one["pid"]);
            }
            say(&table)
        }
        other => Err(Error::Invalid(format!("unknown format {other:?}"))),
    }
}

pub(super) fn ps(context: &Context, args: &[OsString]) -> Result<i32> {
    let (arguments, container) = load(context, args, &[Flag::value("format", "f")])?;
    let pids = container.cgroup()?.pids()?;
    if arguments.get("format") == Some("json") {
        return say(&format!("{}\n", Value::from(pids)));
    }
    let mut table = format!("{:<8} {:<8} {}\n", "PID", "STATE", "CMD");
    for pid in pids {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let state = read("status").lines().find_map(|line| line.strip_prefix("State:\t")?.chars().next()).unwrap_or('?');
        table += &format!("{pid:<8} {state:<8} {}\n", read("cmdline").trim_end_matches('\0').replace('\0', " "));
    }
    say(&table)
}

pub(super) fn pause(context: &Context, args: &[OsString]) -> Result<i32> {
    let (_, container) = load(context, args, &[])?;
    match container.status() {
        Status::Running | Status::Created => container.cgroup()?.freeze().map(|()| 0),
        status => Err(Error::Conflict(format!("cannot pause a container that is {}", status.name()))),
    }
}

pub(super) fn resume(context: &Context, args: &[OsString]) -> Result<i32> {
    let (_, container) = load(context, args, &[])?;
    match container.status() {
        Status::Paused => container.cgroup()?.thaw().map(|()| 0),
        _ => Err(Error::Conflict("container not paused".into())),
    }
}

pub(super) fn update(context: &Context, args: &[OsString]) -> Result<i32> {
    const FLAGS: &[Flag] = &[
        Flag::value("resources", "r"),
        Flag::value("blkio-weight", ""),
        Flag::value("cpu-period", ""),
        Flag::value("cpu-quota", ""),
        Flag::value("cpu-burst", ""),
        Flag::value("cpu-share", ""),
        Flag::value("cpu-rt-period", ""),
        Flag::value("cpu-rt-runtime", ""),
        Flag::value("cpuset-cpus", ""),
        Flag::value("cpuset-mems", ""),
        Flag::value("cpu-idle", ""),
        Flag::value("memory", ""),
        Flag::value("memory-reservation", ""),
        Flag::value("memory-swap", ""),
        Flag::value("pids-limit", ""),
        Flag::value("kernel-memory", ""),
        Flag::value("kernel-memory-tcp", ""),
    ];
    let (arguments, container) = load(context, args, FLAGS)?;
    let resources = match arguments.get("resources") {
        Some(path) => read_resources(path)?,
        None => Resources {
            memory: Some(Memory {
                limit: arguments.number("memory")?,
                reservation: arguments.number("memory-reservation")?,
                swap: arguments.number("memory-swap")?,
                ..Memory::default()
            }),
            cpu: Some(Cpu {
                shares: arguments.number("cpu-share")?,
                quota: arguments.number("cpu-quota")?,
                burst: arguments.number("cpu-burst")?,
                period: arguments.number("cpu-period")?,
                realtime_runtime: arguments.number("cpu-rt-runtime")?,
                realtime_period: arguments.number("cpu-rt-period")?,
                cpus: arguments.get("cpuset-cpus").unwrap_or_default().to_owned(),
                mems: arguments.get("cpuset-mems").unwrap_or_default().to_owned(),
                idle: arguments.number("cpu-idle")?,
            }),
            pids: Some(Pids { limit: arguments.number("pids-limit")? }),
            block_io: Some(spec::BlockIo { weight: arguments.number("blkio-weight")?, ..spec::BlockIo::default() }),
            ..Resources::default()
        },
    };
    container.cgroup()?.update(&resources)?;
    Ok(0)
}

fn read_resources(path: &str) -> Result<Resources> {
    let mut text = String::new();
    let read = if path == "-" {
        std::io::stdin().read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text))
    };
    read.map_err(|error| Error::path("read", path)(errno_of(&error)))?;
    serde_json::from_str(&text).map_err(|error| Error::Invalid(format!("{path}: {error}")))
}

pub(super) fn events(context: &Context, args: &[OsString]) -> Result<i32> {
    let (arguments, container) = load(context, args, &[Flag::switch("stats", ""), Flag::value("interval", "")])?;
    let id = container.stored.id.clone();
    let interval = arguments.get("interval").and_then(|text| text.trim_end_matches('s').parse().ok()).unwrap_or(5);
    loop {
        say(&format!("{}\n", json!({ "type": "stats", "id": id, "data": statistics(&container.cgroup()?.stats()) })))?;
        if arguments.has("stats") || container.status() == Status::Stopped {
            return Ok(0);
        }
        std::thread::sleep(Duration::from_secs(interval));
    }
}

/// In runc's form, which cAdvisor and containerd read.
fn statistics(stats: &Stats) -> Value {
    let block = |entries: &[BlockIoEntry]| -> Vec<Value> {
        entries.iter().map(|one| json!({ "major": one.major, "minor": one.minor, "op": one.operation, "value": one.value })).collect()
    };
    json!({
        "cpu": {
            "usage": { "total": stats.cpu.total, "percpu": stats.cpu.per_cpu, "kernel": stats.cpu.kernel, "user": stats.cpu.user },
            "throttling": {
                "periods": stats.cpu.periods, "throttledPeriods": stats.cpu.throttled_periods, "throttledTime": stats.cpu.throttled_time,
            },
        },
        "memory": {
            "usage": { "limit": stats.memory.limit, "usage": stats.memory.usage, "max": stats.memory.max_usage, "failcnt": stats.memory.failures },
            "raw": stats.memory.detail,
        },
        "pids": { "current": stats.pids.current, "limit": stats.pids.limit },
        "blkio": { "ioServiceBytesRecursive": block(&stats.block_bytes), "ioServicedRecursive": block(&stats.block_operations) },
        "hugetlb": stats.hugepages.iter().map(|(size, one)| {
            (size.clone(), json!({ "usage": one.usage, "max": one.max_usage, "failcnt": one.failures }))
        }).collect::<serde_json::Map<String, Value>>(),
    })
}

pub(super) fn spec(args: &[OsString]) -> Result<i32> {
    let arguments = Arguments::parse(args, &[Flag::value("bundle", "b"), Flag::switch("rootless", "")])?;
    let path = Path::new(arguments.get("bundle").unwrap_or(".")).join("config.json");
    if path.exists() {
        return Err(Error::Conflict(format!("{} exists: remove it first", path.display())));
    }
    let text = serde_json::to_string_pretty(&defaults::spec()).expect("the default specification is always JSON");
    std::fs::write(&path, text + "\n").map_err(|error| Error::path("write", path)(errno_of(&error)))?;
    Ok(0)
}

pub(super) fn features() -> Result<i32> {
    let namespaces = ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"];
    let actions = [
        "SCMP_ACT_ALLOW",
        "SCMP_ACT_ERRNO",
        "SCMP_ACT_KILL",
        "SCMP_ACT_KILL_PROCESS",
        "SCMP_ACT_KILL_THREAD",
        "SCMP_ACT_LOG",
        "SCMP_ACT_TRACE",
        "SCMP_ACT_TRAP",
    ];
    let operators = ["SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"];
    let options = [
        "atime",
        "bind",
        "defaults",
        "dev",
        "diratime",
        "exec",
        "noatime",
        "nodev",
        "nodiratime",
        "noexec",
        "nosuid",
        "nosymfollow",
        "private",
        "ratime",
        "rbind",
        "rdev",
        "relatime",
        "rexec",
        "rnoatime",
        "rnodev",
        "rnodiratime",
        "rnoexec",
        "rnosuid",
        "rnosymfollow",
        "ro",
        "rprivate",
        "rrelatime",
        "rro",
        "rrw",
        "rshared",
        "rslave",
        "rstrictatime",
        "rsuid",
        "runbindable",
        "rw",
        "shared",
        "slave",
        "strictatime",
        "suid",
        "symfollow",
        "tmpcopyup",
        "unbindable",
    ];
    let document = json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.2.0",
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": options.as_slice(),
        "linux": {
            "namespaces": namespaces,
            "capabilities": defaults::ALL_CAPABILITIES,
            "cgroup": { "v1": true, "v2": true, "systemd": false, "systemdUser": false },
            "seccomp": {
                "enabled": true,
                "actions": actions,
                "operators": operators,
                "archs": ["SCMP_ARCH_X86", "SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
                "knownFlags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"],
                "supportedFlags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"],
            },
            "apparmor": { "enabled": true },
            "selinux": { "enabled": true },
        },
    });
    say(&format!("{document:#}\n"))
}
