//! What the processes of a cgroup have used. A number that cannot be read is zero: statistics never fail.

use super::{Cgroup, keyed};
use std::collections::BTreeMap;
use std::path::Path;

/// The numbers of all controllers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Time on the CPUs.
    pub cpu: CpuStats,
    /// Memory.
    pub memory: MemoryStats,
    /// Processes.
    pub pids: PidsStats,
    /// Bytes by device and operation.
    pub block_bytes: Vec<BlockIoEntry>,
    /// Operations by device and operation.
    pub block_operations: Vec<BlockIoEntry>,
    /// Huge pages by page size (`2MB`).
    pub hugepages: BTreeMap<String, HugepageStats>,
}

/// Nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuStats {
    /// User and kernel together.
    pub total: u64,
    /// In the kernel.
    pub kernel: u64,
    /// In the programs.
    pub user: u64,
    /// By CPU; v1 only.
    pub per_cpu: Vec<u64>,
    /// Periods with a quota.
    pub periods: u64,
    /// Periods in which the quota was used up.
    pub throttled_periods: u64,
    /// Time spent waiting for the next period.
    pub throttled_time: u64,
}

/// Bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// Now, page cache included.
    pub usage: u64,
    /// Most ever.
    pub max_usage: u64,
    /// The limit; `u64::MAX` when there is none.
    pub limit: u64,
    /// How often the limit was hit.
    pub failures: u64,
    /// Swap now.
    pub swap: u64,
    /// `memory.stat` as the kernel names its lines.
    pub detail: BTreeMap<String, u64>,
}

/// Processes and threads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PidsStats {
    /// Now.
    pub current: u64,
    /// The limit; 0 when there is none.
    pub limit: u64,
}

/// One device and operation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockIoEntry {
    /// Of the device.
    pub major: u64,
    /// Of the device.
    pub minor: u64,
    /// `read` or `write`.
    pub operation: String,
    /// Bytes or operations.
    pub value: u64,
}

/// Bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HugepageStats {
    /// Now.
    pub usage: u64,
    /// Most ever.
    pub max_usage: u64,
    /// How often the limit was hit.
    pub failures: u64,
}

pub(super) fn read(cgroup: &Cgroup) -> Stats {
    let mut stats = Stats::default();
    let unified = cgroup.unified().map(|directory| directory.path.as_path());
    let of = |controller: &str| match cgroup.v1(controller) {
        Some(directory) => (Some(directory.path.as_path()), false),
        None => (unified, true),
    };
    match of("cpuacct") {
        (Some(path), false) => cpu_v1(path, of("cpu").0, &mut stats.cpu),
        (Some(path), true) => cpu_v2(path, &mut stats.cpu),
        _ => {}
    }
    match of("memory") {
        (Some(path), false) => memory_v1(path, &mut stats.memory),
        (Some(path), true) => memory_v2(path, &mut stats.memory),
        _ => {}
    }
    if let (Some(path), _) = of("pids") {
        stats.pids.current = number(&path.join("pids.current"));
        stats.pids.limit = number(&path.join("pids.max"));
    }
    match of("blkio") {
        (Some(path), false) => {
            stats.block_bytes = block_v1(&path.join("blkio.throttle.io_service_bytes_recursive"));
            stats.block_operations = block_v1(&path.join("blkio.throttle.io_serviced_recursive"));
        }
        (Some(path), true) => block_v2(&path.join("io.stat"), &mut stats),
        _ => {}
    }
    if let (Some(path), v2) = of("hugetlb") {
        hugepages(path, v2, &mut stats.hugepages);
    }
    stats
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn number(path: &Path) -> u64 {
    text(path).trim().parse().unwrap_or(0)
}

fn cpu_v1(path: &Path, cpu: Option<&Path>, stats: &mut CpuStats) {
    /// `cpuacct.stat` counts in USER_HZ, which is 100 for every program.
    const NANOSECONDS_PER_TICK: u64 = 10_000_000;
    stats.total = number(&path.join("cpuacct.usage"));
    stats.per_cpu = text(&path.join("cpuacct.usage_percpu")).split_whitespace().filter_map(|value| value.parse().ok()).collect();
    stats.user = keyed(&path.join("cpuacct.stat"), "user").unwrap_or(0) * NANOSECONDS_PER_TICK;
    stats.kernel = keyed(&path.join("cpuacct.stat"), "system").unwrap_or(0) * NANOSECONDS_PER_TICK;
    if let Some(path) = cpu {
        let path = path.join("cpu.stat");
        stats.periods = keyed(&path, "nr_periods").unwrap_or(0);
        stats.throttled_periods = keyed(&path, "nr_throttled").unwrap_or(0);
        stats.throttled_time = keyed(&path, "throttled_time").unwrap_or(0);
    }
}

fn cpu_v2(path: &Path, stats: &mut CpuStats) {
    let path = path.join("cpu.stat");
    let micro = |key| keyed(&path, key).unwrap_or(0) * 1000;
    stats.total = micro("usage_usec");
    stats.user = micro("user_usec");
    stats.kernel = micro("system_usec");
    stats.periods = keyed(&path, "nr_periods").unwrap_or(0);
    stats.throttled_periods = keyed(&path, "nr_throttled").unwrap_or(0);
    stats.throttled_time = micro("throttled_usec");
}

fn detail(path: &Path) -> BTreeMap<String, u64> {
    text(&path.join("memory.stat"))
        .lines()
        .filter_map(|line| {
            let (key, value) = line.split_once(' ')?;
            Some((key.to_owned(), value.parse().ok()?))
        })
        .collect()
}

fn memory_v1(path: &Path, stats: &mut MemoryStats) {
    /// What v1 shows for no limit: the largest multiple of a page below 2^63.
    const NO_LIMIT: u64 = 0x7fff_ffff_ffff_f000;
    stats.usage = number(&path.join("memory.usage_in_bytes"));
    stats.max_usage = number(&path.join("memory.max_usage_in_bytes"));
    stats.failures = number(&path.join("memory.failcnt"));
    let limit = number(&path.join("memory.limit_in_bytes"));
    stats.limit = if limit >= NO_LIMIT { u64::MAX } else { limit };
    stats.swap = number(&path.join("memory.memsw.usage_in_bytes")).saturating_sub(stats.usage);
    stats.detail = detail(path);
}

fn memory_v2(path: &Path, stats: &mut MemoryStats) {
    stats.usage = number(&path.join("memory.current"));
    stats.max_usage = number(&path.join("memory.peak"));
    stats.failures = keyed(&path.join("memory.events"), "max").unwrap_or(0);
    stats.limit = text(&path.join("memory.max")).trim().parse().unwrap_or(u64::MAX);
    stats.swap = number(&path.join("memory.swap.current"));
    stats.detail = detail(path);
}

/// Lines as `8:0 Read 4096`.
fn block_v1(path: &Path) -> Vec<BlockIoEntry> {
    text(path)
        .lines()
        .filter_map(|line| {
            let mut parts = line.split_whitespace();
            let (major, minor) = parts.next()?.split_once(':')?;
            let operation = parts.next()?.to_ascii_lowercase();
            Some(BlockIoEntry { major: major.parse().ok()?, minor: minor.parse().ok()?, operation, value: parts.next()?.parse().ok()? })
        })
        .filter(|entry| matches!(entry.operation.as_str(), "read" | "write"))
        .collect()
}

/// Lines as `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`.
fn block_v2(path: &Path, stats: &mut Stats) {
    for line in text(path).lines() {
        let mut parts = line.split_whitespace();
        let Some((major, minor)) = parts.next().and_then(|device| device.split_once(':')) else { continue };
        let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else { continue };
        for part in parts {
            let Some((key, value)) = part.split_once('=') else { continue };
            let (list, operation) = match key {
                "rbytes" => (&mut stats.block_bytes, "read"),
                "wbytes" => (&mut stats.block_bytes, "write"),
                "rios" => (&mut stats.block_operations, "read"),
                "wios" => (&mut stats.block_operations, "write"),
                _ => continue,
            };
            list.push(BlockIoEntry { major, minor, operation: operation.to_owned(), value: value.parse().unwrap_or(0) });
        }
    }
}

fn hugepages(path: &Path, v2: bool, stats: &mut BTreeMap<String, HugepageStats>) {
    let ending = if v2 { ".current" } else { ".usage_in_bytes" };
    let Ok(entries) = std::fs::read_dir(path) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(size) = name.to_str().and_then(|name| name.strip_prefix("hugetlb.")?.strip_suffix(ending)) else { continue };
        if size.contains("rsvd") {
            continue;
        }
        let file = |ending: &str| path.join(format!("hugetlb.{size}.{ending}"));
        let one = if v2 {
            HugepageStats { usage: number(&file("current")), max_usage: 0, failures: keyed(&file("events"), "max").unwrap_or(0) }
        } else {
            HugepageStats {
                usage: number(&file("usage_in_bytes")),
                max_usage: number(&file("max_usage_in_bytes")),
                failures: number(&file("failcnt")),
            }
        };
        stats.insert(size.to_owned(), one);
    }
}
