//! Limits as a list of writes, made without touching anything, then carried out.
//!
//! The specification speaks the language of v1; for v2 it is translated here (`shares` to `cpu.weight`, memory plus swap
//! to swap alone, 10..1000 block weights to 1..10000).

use super::{Cgroup, missing, write};
use crate::error::{Error, Result};
use crate::lookup::errno_text;
use crate::spec::{BlockIo, Cpu, HugepageLimit, Memory, Network, Resources};
use rustix::io::Errno;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Write {
    controller: &'static str,
    file: String,
    value: String,
    /// What the user asked for, for messages.
    what: &'static str,
}

fn entry(controller: &'static str, file: impl Into<String>, value: impl ToString, what: &'static str) -> Write {
    Write { controller, file: file.into(), value: value.to_string(), what }
}

pub(super) fn apply(cgroup: &Cgroup, resources: &Resources) -> Result<()> {
    let v2 = |controller: &str| cgroup.v1(controller).is_none();
    let mut writes = Vec::new();
    if let Some(memory) = &resources.memory {
        writes.extend(if v2("memory") { memory_v2(memory)? } else { memory_v1(memory) });
    }
    if let Some(cpu) = &resources.cpu {
        writes.extend(if v2("cpu") { cpu_v2(cpu)? } else { cpu_v1(cpu) });
        writes.extend(cpuset(cpu));
    }
    if let Some(limit) = resources.pids.as_ref().and_then(|pids| pids.limit).filter(|limit| *limit != 0) {
        writes.push(entry("pids", "pids.max", unlimited(limit), "a limit of processes"));
    }
    if let Some(block) = &resources.block_io {
        let bfq = |controller: &str, file: &str| match if v2("blkio") { cgroup.unified() } else { cgroup.v1(controller) } {
            Some(directory) => directory.path.join(file).exists(),
            None => false,
        };
        writes.extend(if v2("blkio") {
            block_v2(block, bfq("io", "io.bfq.weight"))
        } else {
            block_v1(block, bfq("blkio", "blkio.bfq.weight"))
        });
    }
    writes.extend(hugepages(&resources.hugepage_limits, v2("hugetlb"))?);
    if let Some(network) = &resources.network {
        writes.extend(network_v1(network));
    }
    write_all(cgroup, &writes)?;
    for (file, value) in &resources.unified {
        let Some(directory) = cgroup.unified().filter(|_| !cgroup.hybrid()) else {
            return Err(Error::Unsupported(format!("setting {file} is not possible on this host: it has cgroup version 1")));
        };
        if file.contains('/') {
            return Err(Error::Invalid(format!("invalid cgroup file {file:?}")));
        }
        write(&directory.path.join(file), value).map_err(|error| refused(error, file, value))?;
    }
    Ok(())
}

/// A failed write as a user who knows the limit, not its file, can understand it.
fn refused(error: Error, file: &str, value: &str) -> Error {
    match error {
        Error::Path { errno, path, .. } => {
            Error::Limit(format!("failed to write {value:?} to {}: {}{}", path.display(), errno_text(errno), reason(file, errno)))
        }
        other => other,
    }
}

/// What the kernel means, which has one number for many things; empty where that is not known.
fn reason(file: &str, errno: Errno) -> &'static str {
    let of = |prefixes: &[&str]| prefixes.iter().any(|prefix| file.starts_with(prefix));
    match errno {
        Errno::BUSY if of(&["memory."]) => ": the container uses more than that now",
        Errno::INVAL if of(&["cpu.rt_"]) => ": a cgroup above the container's leaves it no such real-time runtime",
        Errno::INVAL if of(&["cpu.cfs_", "cpu.max"]) => {
            ": it is out of the kernel's range, or more than a cgroup above the container's has"
        }
        Errno::INVAL | Errno::ACCESS | Errno::NOSPC if of(&["cpuset."]) => {
            ": a cgroup above the container's does not have all of these, or they cannot be parted with"
        }
        Errno::NODEV | Errno::NXIO if of(&["blkio.", "io."]) => ": limits are for whole block devices, not for partitions and others",
        Errno::OPNOTSUPP if of(&["blkio.", "io."]) => ": the I/O scheduler of the device has no weights",
        _ => "",
    }
}

fn write_all(cgroup: &Cgroup, writes: &[Write]) -> Result<()> {
    let mut postponed = Vec::new();
    for one in writes {
        let directory = match cgroup.v1(one.controller) {
            Some(directory) => directory,
            None => match cgroup.unified() {
                Some(directory) if directory.controllers.iter().any(|name| name == v2_name(one.controller)) => directory,
                _ => return Err(missing(one.controller, one.what)),
            },
        };
        let path = directory.path.join(&one.file);
        match write(&path, &one.value) {
            Ok(()) => {}
            Err(Error::Path { errno: Errno::NOENT, .. }) => {
                return Err(Error::Unsupported(format!("{} is not possible on this host: the kernel has no {}", one.what, one.file)));
            }
            // Of two limits that bound each other (memory and memory+swap, quota and period) the other must move first.
            Err(Error::Path { errno: Errno::INVAL | Errno::BUSY, .. }) if postponed.is_empty() || one.controller == "memory" => {
                postponed.push((path, one));
            }
            Err(error) => return Err(refused(error, &one.file, &one.value)),
        }
    }
    postponed.into_iter().try_for_each(|(path, one)| write(&path, &one.value).map_err(|error| refused(error, &one.file, &one.value)))
}

fn v2_name(controller: &'static str) -> &'static str {
    if controller == "blkio" { "io" } else { controller }
}

/// -1 and below is the word for no limit.
fn unlimited(value: i64) -> String {
    if value < 0 { "max".into() } else { value.to_string() }
}

fn set(value: Option<i64>) -> Option<i64> {
    value.filter(|value| *value != 0)
}

fn memory_v1(memory: &Memory) -> Vec<Write> {
    let mut writes = Vec::new();
    if let Some(limit) = set(memory.limit) {
        writes.push(entry("memory", "memory.limit_in_bytes", limit, "a memory limit"));
    }
    if let Some(swap) = set(memory.swap) {
        writes.push(entry("memory", "memory.memsw.limit_in_bytes", swap, "a swap limit"));
    } else if set(memory.limit).is_some_and(|limit| limit < 0) {
        // Lifting the limit needs the sum lifted too; a kernel without swap accounting has no such file.
    }
    if let Some(reservation) = set(memory.reservation) {
        writes.push(entry("memory", "memory.soft_limit_in_bytes", reservation, "a memory reservation"));
    }
    if let Some(limit) = set(memory.kernel_tcp) {
        writes.push(entry("memory", "memory.kmem.tcp.limit_in_bytes", limit, "a limit of TCP memory"));
    }
    if let Some(swappiness) = memory.swappiness {
        writes.push(entry("memory", "memory.swappiness", swappiness, "memory swappiness"));
    }
    if memory.disable_oom_killer == Some(true) {
        writes.push(entry("memory", "memory.oom_control", 1, "disabling the OOM killer"));
    }
    writes
}

fn memory_v2(memory: &Memory) -> Result<Vec<Write>> {
    let mut writes = Vec::new();
    let limit = set(memory.limit);
    if let Some(swap) = set(memory.swap) {
        let value = match limit {
            _ if swap < 0 => "max".to_owned(),
            Some(limit) if limit < 0 => return Err(Error::Invalid("a swap limit needs a memory limit".into())),
            Some(limit) if swap < limit => return Err(Error::Invalid("memory+swap limit should be >= memory limit".into())),
            Some(limit) => (swap - limit).to_string(),
            None => return Err(Error::Invalid("a swap limit needs a memory limit".into())),
        };
        writes.push(entry("memory", "memory.swap.max", value, "a swap limit"));
    } else if limit.is_some_and(|limit| limit < 0) {
        writes.push(entry("memory", "memory.swap.max", "max", "a swap limit"));
    }
    if let Some(limit) = limit {
        writes.push(entry("memory", "memory.max", unlimited(limit), "a memory limit"));
    }
    if let Some(reservation) = set(memory.reservation) {
        writes.push(entry("memory", "memory.low", unlimited(reservation), "a memory reservation"));
    }
    Ok(writes)
}

fn cpu_v1(cpu: &Cpu) -> Vec<Write> {
    let mut writes = Vec::new();
    if let Some(shares) = cpu.shares.filter(|shares| *shares != 0) {
        writes.push(entry("cpu", "cpu.shares", shares, "a CPU share"));
    }
    if let Some(period) = cpu.period.filter(|period| *period != 0) {
        writes.push(entry("cpu", "cpu.cfs_period_us", period, "a CPU period"));
    }
    if let Some(quota) = set(cpu.quota) {
        writes.push(entry("cpu", "cpu.cfs_quota_us", quota, "a CPU quota"));
    }
    if let Some(burst) = cpu.burst.filter(|burst| *burst != 0) {
        writes.push(entry("cpu", "cpu.cfs_burst_us", burst, "a CPU burst"));
    }
    if let Some(period) = cpu.realtime_period.filter(|period| *period != 0) {
        writes.push(entry("cpu", "cpu.rt_period_us", period, "a real-time CPU period"));
    }
    if let Some(runtime) = set(cpu.realtime_runtime) {
        writes.push(entry("cpu", "cpu.rt_runtime_us", runtime, "a real-time CPU runtime"));
    }
    if let Some(idle) = cpu.idle {
        writes.push(entry("cpu", "cpu.idle", idle, "CPU idle scheduling"));
    }
    writes
}

/// 2..262144 shares to a weight of 1..10000.
fn weight_of_shares(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

fn cpu_v2(cpu: &Cpu) -> Result<Vec<Write>> {
    let mut writes = Vec::new();
    if let Some(shares) = cpu.shares.filter(|shares| *shares != 0) {
        writes.push(entry("cpu", "cpu.weight", weight_of_shares(shares), "a CPU share"));
    }
    let period = cpu.period.filter(|period| *period != 0);
    let quota = set(cpu.quota);
    if quota.is_some() || period.is_some() {
        let quota = quota.map_or_else(|| "max".into(), unlimited);
        writes.push(entry("cpu", "cpu.max", format!("{quota} {}", period.unwrap_or(100_000)), "a CPU quota"));
    }
    if let Some(burst) = cpu.burst.filter(|burst| *burst != 0) {
        writes.push(entry("cpu", "cpu.max.burst", burst, "a CPU burst"));
    }
    if let Some(idle) = cpu.idle {
        writes.push(entry("cpu", "cpu.idle", idle, "CPU idle scheduling"));
    }
    if set(cpu.realtime_runtime).is_some() || cpu.realtime_period.is_some_and(|period| period != 0) {
        return Err(Error::Unsupported("real-time CPU limits are not possible on this host: it has cgroup version 2".into()));
    }
    Ok(writes)
}

fn cpuset(cpu: &Cpu) -> Vec<Write> {
    let mut writes = Vec::new();
    if !cpu.cpus.is_empty() {
        writes.push(entry("cpuset", "cpuset.cpus", &cpu.cpus, "a set of CPUs"));
    }
    if !cpu.mems.is_empty() {
        writes.push(entry("cpuset", "cpuset.mems", &cpu.mems, "a set of memory nodes"));
    }
    writes
}

fn block_v1(block: &BlockIo, bfq: bool) -> Vec<Write> {
    let mut writes = Vec::new();
    let prefix = if bfq { "blkio.bfq." } else { "blkio." };
    if let Some(weight) = block.weight.filter(|weight| *weight != 0) {
        writes.push(entry("blkio", format!("{prefix}weight"), weight, "a block I/O weight"));
    }
    for device in &block.weight_device {
        if let Some(weight) = device.weight {
            let value = format!("{}:{} {weight}", device.major, device.minor);
            writes.push(entry("blkio", format!("{prefix}weight_device"), value, "a block I/O weight of a device"));
        }
    }
    let throttles = [
        ("read_bps", &block.throttle_read_bps_device),
        ("write_bps", &block.throttle_write_bps_device),
        ("read_iops", &block.throttle_read_iops_device),
        ("write_iops", &block.throttle_write_iops_device),
    ];
    for (name, devices) in throttles {
        for device in devices {
            let value = format!("{}:{} {}", device.major, device.minor, device.rate);
            writes.push(entry("blkio", format!("blkio.throttle.{name}_device"), value, "a block I/O rate"));
        }
    }
    writes
}

fn block_v2(block: &BlockIo, bfq: bool) -> Vec<Write> {
    let mut writes = Vec::new();
    let file = if bfq { "io.bfq.weight" } else { "io.weight" };
    // 10..1000 is BFQ's own scale.
    let weight_of = |weight: u16| if bfq { u64::from(weight) } else { 1 + (u64::from(weight).clamp(10, 1000) - 10) * 9999 / 990 };
    if let Some(weight) = block.weight.filter(|weight| *weight != 0) {
        writes.push(entry("blkio", file, format!("default {}", weight_of(weight)), "a block I/O weight"));
    }
    for device in &block.weight_device {
        if let Some(weight) = device.weight {
            let value = format!("{}:{} {}", device.major, device.minor, weight_of(weight));
            writes.push(entry("blkio", file, value, "a block I/O weight of a device"));
        }
    }
    let throttles = [
        ("rbps", &block.throttle_read_bps_device),
        ("wbps", &block.throttle_write_bps_device),
        ("riops", &block.throttle_read_iops_device),
        ("wiops", &block.throttle_write_iops_device),
    ];
    for (name, devices) in throttles {
        for device in devices {
            let rate = if device.rate == 0 { "max".to_owned() } else { device.rate.to_string() };
            let value = format!("{}:{} {name}={rate}", device.major, device.minor);
            writes.push(entry("blkio", "io.max", value, "a block I/O rate"));
        }
    }
    writes
}

fn hugepages(limits: &[HugepageLimit], v2: bool) -> Result<Vec<Write>> {
    let file = if v2 { "max" } else { "limit_in_bytes" };
    limits
        .iter()
        .map(|limit| {
            if limit.page_size.is_empty() || limit.page_size.contains('/') {
                return Err(Error::Invalid(format!("invalid huge page size {:?}", limit.page_size)));
            }
            Ok(entry("hugetlb", format!("hugetlb.{}.{file}", limit.page_size), limit.limit, "a limit of huge pages"))
        })
        .collect()
}

fn network_v1(network: &Network) -> Vec<Write> {
    let class = network.class_id.filter(|class| *class != 0).map(|class| entry("net_cls", "net_cls.classid", class, "a network class"));
    let priorities = network
        .priorities
        .iter()
        .map(|one| entry("net_prio", "net_prio.ifpriomap", format!("{} {}", one.name, one.priority), "a network priority"));
    class.into_iter().chain(priorities).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(writes: &[Write]) -> Vec<String> {
        writes.iter().map(|one| format!("{}={}", one.file, one.value)).collect()
    }

    #[test]
    fn memory_in_both_versions() {
        let memory = Memory { limit: Some(100), swap: Some(150), reservation: Some(50), ..Default::default() };
        assert_eq!(
            shown(&memory_v1(&memory)),
            ["memory.limit_in_bytes=100", "memory.memsw.limit_in_bytes=150", "memory.soft_limit_in_bytes=50"]
        );
        assert_eq!(shown(&memory_v2(&memory).unwrap()), ["memory.swap.max=50", "memory.max=100", "memory.low=50"]);
        let unlimited_swap = Memory { limit: Some(100), swap: Some(-1), ..Default::default() };
        assert_eq!(shown(&memory_v2(&unlimited_swap).unwrap()), ["memory.swap.max=max", "memory.max=100"]);
        assert!(memory_v2(&Memory { swap: Some(5), ..Default::default() }).is_err());
        assert!(memory_v2(&Memory { limit: Some(10), swap: Some(5), ..Default::default() }).is_err());
        assert!(memory_v1(&Memory { limit: Some(0), ..Default::default() }).is_empty());
    }

    #[test]
    fn cpu_in_both_versions() {
        let cpu = Cpu { shares: Some(1024), quota: Some(50_000), period: Some(100_000), cpus: "0-1".into(), ..Default::default() };
        assert_eq!(shown(&cpu_v1(&cpu)), ["cpu.shares=1024", "cpu.cfs_period_us=100000", "cpu.cfs_quota_us=50000"]);
        assert_eq!(shown(&cpu_v2(&cpu).unwrap()), ["cpu.weight=39", "cpu.max=50000 100000"]);
        assert_eq!(shown(&cpu_v2(&Cpu { quota: Some(-1), ..Default::default() }).unwrap()), ["cpu.max=max 100000"]);
        for (shares, weight) in [(2, 1), (1024, 39), (262_144, 10_000), (1, 1), (u64::MAX, 10_000)] {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
    }

    #[test]
    fn a_refusal_says_what_was_refused_and_why() {
        let told = |file: &str, value: &str, errno| {
            let path = std::path::Path::new("/cg").join(file);
            refused(Error::Path { action: "write to", path, errno }, file, value).to_string()
        };
        assert_eq!(
            told("memory.limit_in_bytes", "4096", Errno::BUSY),
            "failed to write \"4096\" to /cg/memory.limit_in_bytes: device or resource busy: the container uses more than that now"
        );
        assert_eq!(told("pids.max", "x", Errno::INVAL), "failed to write \"x\" to /cg/pids.max: invalid argument");
        assert!(told("cpu.rt_runtime_us", "100", Errno::INVAL).ends_with("real-time runtime"));
        assert!(told("io.max", "1:3 wbps=1", Errno::NODEV).contains("no such device: limits are for whole block devices"));
    }

    #[test]
    fn block_weights() {
        let block = BlockIo { weight: Some(500), ..Default::default() };
        assert_eq!(shown(&block_v2(&block, false)), ["io.weight=default 4950"]);
        assert_eq!(shown(&block_v2(&block, true)), ["io.bfq.weight=default 500"]);
        assert_eq!(shown(&block_v1(&block, false)), ["blkio.weight=500"]);
    }
}
