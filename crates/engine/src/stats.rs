//! What a container uses: one sample of its cgroup and its interfaces.

use crate::Engine;
use crate::container::View;
use crate::error::{EngineError, Result};
use jiff::Timestamp;
use naru_runtime::cgroup::{Cgroup, Stats};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Traffic of one interface, as the container counts it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InterfaceStats {
    /// Bytes, packets, errors, drops received.
    pub received: [u64; 4],
    /// Bytes, packets, errors, drops sent.
    pub sent: [u64; 4],
    /// Bandwidth limits in bits per second, in and out, where there are any.
    pub rate: (Option<u64>, Option<u64>),
}

/// One sample.
#[derive(Debug, Clone)]
pub struct Sample {
    /// When it was taken.
    pub at: Timestamp,
    /// The cgroup's counters.
    pub cgroup: Stats,
    /// By interface, without the loopback.
    pub interfaces: BTreeMap<String, InterfaceStats>,
    /// CPU time of the host in nanoseconds, all states.
    pub system_cpu_ns: u64,
    /// CPUs that are on line.
    pub cpus: u32,
    /// Memory of the host in bytes.
    pub host_memory: u64,
}

/// `/proc/<pid>/net/dev`: name, then 8 counters received and 8 sent.
fn parse_interfaces(text: &str) -> BTreeMap<String, InterfaceStats> {
    let line = |line: &str| {
        let (name, counters) = line.split_once(':')?;
        let counters: Vec<u64> = counters.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        let four = |from: usize| counters.get(from..from + 4)?.try_into().ok();
        (name.trim() != "lo").then_some(())?;
        Some((name.trim().to_owned(), InterfaceStats { received: four(0)?, sent: four(8)?, rate: (None, None) }))
    };
    text.lines().filter_map(line).collect()
}

/// The `cpu` line of /proc/stat in nanoseconds, and the number of CPUs.
fn parse_cpu(text: &str) -> (u64, u32) {
    let ticks: u64 =
        text.lines().next().map_or(0, |line| line.split_whitespace().skip(1).take(8).filter_map(|n| n.parse::<u64>().ok()).sum());
    let cpus = text.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu ")).count();
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    (ticks * (1_000_000_000 / per_second), u32::try_from(cpus).unwrap_or(u32::MAX))
}

fn sample(view: &View) -> Result<Sample> {
    let not_running = || EngineError::conflict(format!("container {} is not running", view.id));
    let run = view.run.as_ref().ok_or_else(not_running)?;
    let pid = view.state.pid().ok_or_else(not_running)?;
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let (system_cpu_ns, cpus) = parse_cpu(&text("/proc/stat"));
    let memory = text("/proc/meminfo");
    let kib = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0);
    let mut interfaces = parse_interfaces(&text(&format!("/proc/{pid}/net/dev")));
    for endpoint in &run.place.endpoints {
        if let Some(interface) = interfaces.get_mut(&endpoint.container_interface) {
            interface.rate = (endpoint.rate_in, endpoint.rate_out);
        }
    }
    Ok(Sample { at: Timestamp::now(), cgroup: Cgroup::new(&run.cgroup)?.stats(), interfaces, system_cpu_ns, cpus, host_memory: kib * 1024 })
}

impl Engine {
    /// A sample of a container; none when it does not run.
    pub async fn sample(&self, reference: &str) -> Result<Option<Sample>> {
        let view = self.find(reference)?.view();
        if !view.state.is_running() {
            return Ok(None);
        }
        let view = Arc::clone(&view);
        let sampled = tokio::task::spawn_blocking(move || sample(&view)).await.map_err(|_| EngineError::Gone("the thread that samples"))?;
        sampled.map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files() {
        let text = "Inter-|   Receive\n face |bytes\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 10 2 3 4 0 0 0 0 50 6 7 8 0 0 0 0\n";
        let interfaces = parse_interfaces(text);
        assert_eq!(interfaces.len(), 1);
        assert_eq!(interfaces["eth0"], InterfaceStats { received: [10, 2, 3, 4], sent: [50, 6, 7, 8], rate: (None, None) });
        let (time, cpus) = parse_cpu("cpu  1 2 3 4 0 0 0 0 0 0\ncpu0 1 2 3 4\ncpu1 0 0 0 0\nintr 5\n");
        assert_eq!((time, cpus), (10 * (1_000_000_000 / rustix::param::clock_ticks_per_second()), 2));
    }
}
