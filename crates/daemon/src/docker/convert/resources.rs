//! Limits: from the flags of `docker run` and `update` to OCI resources, with Docker's checks and words
//! (moby `daemon/daemon_unix.go` verifyPlatformContainerResources).

use super::super::error::{ApiError, Result};
use naru_api::models::{HostConfig, ThrottleDevice, WeightDevice};
use naru_runtime::cgroup::Layout;
use naru_runtime::spec::{BlockIo, Cpu, Memory, Pids, Resources, ThrottleDevice as OciThrottle, WeightDevice as OciWeight};
use rustix::fs::{FileType, major, minor};

/// Less memory than this cannot start a process.
const MIN_MEMORY: i64 = 6 << 20;
/// Tasks of a container that asks for no limit: far above real use, far below what exhausts the host.
const DEFAULT_PIDS: i64 = 32_768;

/// The kernel's least quota, 1 ms, of a period of 100 ms.
const MIN_NANO_CPUS: i64 = 10_000_000;

/// The range of the kernel's `cpu.shares`.
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;

fn bad(text: impl Into<String>) -> ApiError {
    ApiError::invalid(text)
}

/// An error of the system without Rust's number.
fn words(error: std::io::Error) -> String {
    error.to_string().split(" (os error").next().unwrap_or_default().to_lowercase()
}

fn positive(value: i64) -> Option<i64> {
    (value != 0).then_some(value)
}

/// The OCI resources that `host` asks for. Fields at zero are absent.
pub fn resources(host: &HostConfig) -> Result<Resources> {
    for (flag, set) in [
        ("--cpu-count", host.cpu_count != 0),
        ("--cpu-percent", host.cpu_percent != 0),
        ("--io-maxiops", host.io_maximum_iops != 0),
        ("--io-maxbandwidth", host.io_maximum_bandwidth != 0),
    ] {
        if set {
            return Err(bad(format!("invalid option: {flag} is only supported on Windows")));
        }
    }
    Ok(Resources { memory: memory(host)?, cpu: cpu(host)?, pids: pids(host), block_io: block_io(host)?, ..Resources::default() })
}

/// What is dangerous, and what a host with cgroup version 2 has not and Docker discards, in its words.
pub fn warnings(swappiness: Option<i64>, oom_kill_disable: Option<bool>, memory: i64) -> Vec<String> {
    if naru_runtime::cgroup::layout().is_ok_and(|layout| layout != Layout::V2) {
        let endless = oom_kill_disable == Some(true) && memory == 0;
        let text = "OOM killer is disabled for the container, but no memory limit is set, \
                    this can result in the system running out of resources.";
        return if endless { vec![text.to_owned()] } else { vec![] };
    }
    let mut list = Vec::new();
    if swappiness.is_some_and(|value| value != -1) {
        list.push(
            "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded."
                .to_owned(),
        );
    }
    if oom_kill_disable == Some(true) {
        list.push("Your kernel does not support OomKillDisable. OomKillDisable discarded.".to_owned());
    }
    list
}

/// The default limit of tasks, a quarter of the kernel's pids at most.
pub fn default_pids_limit() -> i64 {
    static LIMIT: std::sync::OnceLock<i64> = std::sync::OnceLock::new();
    *LIMIT.get_or_init(|| {
        let pid_max = std::fs::read_to_string("/proc/sys/kernel/pid_max").ok().and_then(|text| text.trim().parse::<i64>().ok());
        DEFAULT_PIDS.min(pid_max.map_or(DEFAULT_PIDS, |max| max / 4))
    })
}

fn pids(host: &HostConfig) -> Option<Pids> {
    match host.pids_limit {
        Some(limit @ 1..) => Some(Pids { limit: Some(limit) }),
        Some(-1) => Some(Pids { limit: Some(-1) }),
        _ => None,
    }
}

fn memory(host: &HostConfig) -> Result<Option<Memory>> {
    let (limit, swap, reservation) = (host.memory, host.memory_swap, host.memory_reservation);
    if limit < 0 || reservation < 0 {
        return Err(bad("memory limits cannot be negative"));
    }
    if limit > 0 && limit < MIN_MEMORY {
        return Err(bad("Minimum memory limit allowed is 6MB"));
    }
    if limit > 0 && swap > 0 && swap < limit {
        return Err(bad("Minimum memoryswap limit should be larger than memory limit, see usage"));
    }
    if limit == 0 && swap > 0 {
        return Err(bad("You should always set the Memory limit when using Memoryswap limit, see usage"));
    }
    if swap < -1 {
        return Err(bad("memory-swap must be -1 (unlimited) or a size"));
    }
    if reservation > 0 && reservation < MIN_MEMORY {
        return Err(bad("Minimum memory reservation allowed is 6MB"));
    }
    if limit > 0 && limit < reservation {
        return Err(bad("Minimum memory limit can not be less than memory reservation limit, see usage"));
    }
    let swappiness = match host.memory_swappiness {
        None | Some(-1) => None,
        Some(value @ 0..=100) => u64::try_from(value).ok(),
        Some(value) => return Err(bad(format!("Invalid value: {value}, valid memory swappiness range is 0-100"))),
    };
    let disable_oom_killer = host.oom_kill_disable.filter(|disable| *disable);
    if limit == 0 && swap == 0 && reservation == 0 && swappiness.is_none() && disable_oom_killer.is_none() {
        return Ok(None);
    }
    Ok(Some(Memory {
        limit: positive(limit),
        reservation: positive(reservation),
        // Docker's default: as much swap as memory.
        swap: if limit > 0 && swap == 0 { Some(limit.saturating_mul(2)) } else { positive(swap) },
        swappiness,
        disable_oom_killer,
        ..Memory::default()
    }))
}

fn cpus_on_line() -> i64 {
    std::thread::available_parallelism().map_or(1, |n| i64::try_from(n.get()).unwrap_or(i64::MAX))
}

fn cpu(host: &HostConfig) -> Result<Option<Cpu>> {
    if host.nano_cpus != 0 {
        if host.cpu_period != 0 {
            return Err(bad("Conflicting options: Nano CPUs and CPU Period cannot both be set"));
        }
        if host.cpu_quota != 0 {
            return Err(bad("Conflicting options: Nano CPUs and CPU Quota cannot both be set"));
        }
        let cpus = cpus_on_line();
        if !(MIN_NANO_CPUS..=cpus * 1_000_000_000).contains(&host.nano_cpus) {
            return Err(bad(format!("range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available")));
        }
    }
    if host.cpu_shares < 0 {
        return Err(bad(format!("invalid CPU shares ({}): value must be a positive integer", host.cpu_shares)));
    }
    if host.cpu_shares != 0 && !(MIN_SHARES..=MAX_SHARES).contains(&host.cpu_shares) {
        return Err(bad(format!("invalid CPU shares ({}): the range is from {MIN_SHARES} to {MAX_SHARES}", host.cpu_shares)));
    }
    if host.cpu_period != 0 && !(1_000..=1_000_000).contains(&host.cpu_period) {
        return Err(bad("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"));
    }
    if host.cpu_realtime_period != 0 && host.cpu_realtime_runtime > host.cpu_realtime_period {
        return Err(bad("cpu real-time runtime cannot be higher than cpu real-time period"));
    }
    if host.cpu_quota > 0 && host.cpu_quota < 1_000 {
        return Err(bad("CPU cfs quota can not be less than 1ms (i.e. 1000)"));
    }
    let (period, quota) = match host.nano_cpus {
        0 => (u64::try_from(host.cpu_period).ok().filter(|n| *n > 0), positive(host.cpu_quota)),
        nano => (Some(100_000), Some(nano / 10_000)),
    };
    for (name, list, file) in [
        ("CPUs", &host.cpuset_cpus, "/sys/devices/system/cpu/online"),
        ("memory nodes", &host.cpuset_mems, "/sys/devices/system/node/online"),
    ] {
        check_set(name, list, file)?;
    }
    let cpu = Cpu {
        shares: u64::try_from(host.cpu_shares).ok().filter(|n| *n > 0),
        quota,
        period,
        realtime_runtime: positive(host.cpu_realtime_runtime),
        realtime_period: u64::try_from(host.cpu_realtime_period).ok().filter(|n| *n > 0),
        cpus: host.cpuset_cpus.clone(),
        mems: host.cpuset_mems.clone(),
        ..Cpu::default()
    };
    Ok((cpu != Cpu::default()).then_some(cpu))
}

/// `0-2,4` as a list of numbers, bounded.
fn numbers(list: &str) -> Option<Vec<u32>> {
    let mut all = Vec::new();
    for part in list.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if last < first || last > 8192 {
            return None;
        }
        all.extend(first..=last);
    }
    Some(all)
}

fn check_set(what: &str, wanted: &str, file: &str) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let list = numbers(wanted).ok_or_else(|| bad(format!("Invalid value {wanted} for cpuset {what}")))?;
    let online = std::fs::read_to_string(file).unwrap_or_else(|_| "0".into());
    let available = numbers(&online).unwrap_or_default();
    if list.iter().any(|number| !available.contains(number)) {
        return Err(bad(format!("Requested {what} are not available - requested {wanted}, available: {}", online.trim())));
    }
    Ok(())
}

fn block_device(path: &str) -> Result<(i64, i64)> {
    let stat = rustix::fs::stat(path).map_err(|errno| bad(format!("stat {path}: {}", words(errno.into()))))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::BlockDevice {
        return Err(bad(format!("{path} is not a block device")));
    }
    Ok((i64::from(major(stat.st_rdev)), i64::from(minor(stat.st_rdev))))
}

fn throttles(list: Option<&Vec<ThrottleDevice>>) -> Result<Vec<OciThrottle>> {
    let one = |device: &ThrottleDevice| {
        let (major, minor) = block_device(&device.path)?;
        Ok(OciThrottle { major, minor, rate: device.rate })
    };
    list.into_iter().flatten().map(one).collect()
}

fn block_io(host: &HostConfig) -> Result<Option<BlockIo>> {
    let weight_ok = |weight: u16| weight == 0 || (10..=1000).contains(&weight);
    if !weight_ok(host.blkio_weight) {
        return Err(bad("Range of blkio weight is from 10 to 1000"));
    }
    let weights = |device: &WeightDevice| {
        if !weight_ok(device.weight) {
            return Err(bad("Range of blkio weight is from 10 to 1000"));
        }
        let (major, minor) = block_device(&device.path)?;
        Ok(OciWeight { major, minor, weight: Some(device.weight), leaf_weight: None })
    };
    let block = BlockIo {
        weight: Some(host.blkio_weight).filter(|weight| *weight > 0),
        weight_device: host.blkio_weight_device.iter().flatten().map(weights).collect::<Result<_>>()?,
        throttle_read_bps_device: throttles(host.blkio_device_read_bps.as_ref())?,
        throttle_write_bps_device: throttles(host.blkio_device_write_bps.as_ref())?,
        throttle_read_iops_device: throttles(host.blkio_device_read_iops.as_ref())?,
        throttle_write_iops_device: throttles(host.blkio_device_write_iops.as_ref())?,
        ..BlockIo::default()
    };
    Ok((block != BlockIo::default()).then_some(block))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(change: impl FnOnce(&mut HostConfig)) -> HostConfig {
        let mut host = HostConfig::default();
        change(&mut host);
        host
    }

    #[test]
    fn memory_and_its_swap() {
        let limits = resources(&host(|h| h.memory = 64 << 20)).unwrap().memory.unwrap();
        assert_eq!((limits.limit, limits.swap), (Some(64 << 20), Some(128 << 20)));
        for wrong in [
            host(|h| h.memory = 1 << 20),
            host(|h| h.memory_swap = 64 << 20),
            host(|h| (h.memory, h.memory_swap) = (64 << 20, 32 << 20)),
            host(|h| h.memory_swappiness = Some(101)),
            host(|h| (h.memory, h.memory_reservation) = (64 << 20, 128 << 20)),
        ] {
            assert!(resources(&wrong).is_err());
        }
    }

    #[test]
    fn cpus_become_a_quota() {
        let limits = resources(&host(|h| h.nano_cpus = 500_000_000)).unwrap().cpu.unwrap();
        assert_eq!((limits.quota, limits.period), (Some(50_000), Some(100_000)));
        assert!(resources(&host(|h| (h.nano_cpus, h.cpu_quota) = (1, 1))).is_err());
        assert!(resources(&host(|h| h.nano_cpus = i64::MAX)).is_err());
        assert!(resources(&host(|h| h.cpuset_cpus = "0-9999".into())).is_err());
        assert!(resources(&host(|h| h.cpuset_cpus = "zz".into())).is_err());
        assert_eq!(resources(&HostConfig::default()).unwrap(), Resources::default());
    }
}
