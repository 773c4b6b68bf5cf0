//! `GET /containers/{id}/stats`: a sample each second, or one.

use super::Call;
use super::body::{self, Response};
use super::convert::time;
use super::error::{ApiError, Result};
use naru_api::models;
use naru_engine::stats::Sample;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

fn cpu(sample: &Sample) -> models::CpuStats {
    let cpu = &sample.cgroup.cpu;
    models::CpuStats {
        cpu_usage: models::CpuUsage {
            total_usage: cpu.total,
            percpu_usage: Some(cpu.per_cpu.clone()),
            usage_in_kernelmode: cpu.kernel,
            usage_in_usermode: cpu.user,
        },
        system_cpu_usage: sample.system_cpu_ns,
        online_cpus: sample.cpus,
        throttling_data: models::ThrottlingData {
            periods: cpu.periods,
            throttled_periods: cpu.throttled_periods,
            throttled_time: cpu.throttled_time,
        },
    }
}

fn wire(id: &str, name: &str, now: Option<&Sample>, before: Option<&Sample>) -> models::ContainerStats {
    let mut stats = models::ContainerStats {
        id: id.to_owned(),
        name: format!("/{name}"),
        read: now.map_or_else(|| time::NEVER.to_owned(), |sample| time::rfc3339(sample.at)),
        preread: before.map_or_else(|| time::NEVER.to_owned(), |sample| time::rfc3339(sample.at)),
        ..models::ContainerStats::default()
    };
    if let Some(sample) = before {
        stats.precpu_stats = cpu(sample);
    }
    let Some(sample) = now else { return stats };
    stats.cpu_stats = cpu(sample);
    let cgroup = &sample.cgroup;
    stats.pids_stats = models::PidsStats { current: cgroup.pids.current, limit: cgroup.pids.limit };
    stats.memory_stats = models::MemoryStats {
        usage: cgroup.memory.usage,
        max_usage: cgroup.memory.max_usage,
        stats: Some(cgroup.memory.detail.clone()),
        failcnt: cgroup.memory.failures,
        // No limit of its own: the host's memory is the limit.
        limit: cgroup.memory.limit.min(sample.host_memory),
    };
    let entries = |list: &[naru_runtime::cgroup::BlockIoEntry]| {
        Some(
            list.iter()
                .map(|entry| models::BlkioEntry { major: entry.major, minor: entry.minor, op: entry.operation.clone(), value: entry.value })
                .collect::<Vec<_>>(),
        )
    };
    stats.blkio_stats.io_service_bytes_recursive = entries(&cgroup.block_bytes);
    stats.blkio_stats.io_serviced_recursive = entries(&cgroup.block_operations);
    let network = |counters: &naru_engine::stats::InterfaceStats| {
        let ([rx_bytes, rx_packets, rx_errors, rx_dropped], [tx_bytes, tx_packets, tx_errors, tx_dropped]) =
            (counters.received, counters.sent);
        let (rate_in, rate_out) = counters.rate;
        models::NetworkStats {
            rx_bytes,
            rx_packets,
            rx_errors,
            rx_dropped,
            tx_bytes,
            tx_packets,
            tx_errors,
            tx_dropped,
            rate_in: rate_in.unwrap_or_default(),
            rate_out: rate_out.unwrap_or_default(),
        }
    };
    let networks: BTreeMap<String, models::NetworkStats> =
        sample.interfaces.iter().map(|(name, counters)| (name.clone(), network(counters))).collect();
    stats.networks = Some(networks);
    stats
}

/// `GET /containers/{id}/stats`.
pub async fn stats(call: &Call, id: &str) -> Result<Response> {
    let container = call.app.engine.find(id)?;
    let (id, app) = (container.id.to_string(), Arc::clone(&call.app));
    let name = container.view().name.clone();
    if !call.query.boolean_or("stream", true) {
        let mut before = None;
        if !call.query.boolean("one-shot") {
            before = app.engine.sample(&id).await?;
            if before.is_some() {
                // Rates need two samples a known time apart; that is what the request asks for.
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        let now = app.engine.sample(&id).await?;
        return Ok(body::ok(&wire(&id, &name, now.as_ref(), before.as_ref())));
    }
    if call.query.boolean("one-shot") {
        return Err(ApiError::invalid("cannot have stream=true and one-shot=true"));
    }
    let (sender, response) = body::stream("application/json");
    tokio::spawn(async move {
        let mut before: Option<Sample> = None;
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = sender.closed() => return,
            }
            // Removed meanwhile: the stream ends.
            let Ok(now) = app.engine.sample(&id).await else { return };
            let mut line = serde_json::to_vec(&wire(&id, &name, now.as_ref(), before.as_ref())).unwrap_or_default();
            line.push(b'\n');
            if sender.send(Ok(line.into())).await.is_err() {
                return;
            }
            before = now;
        }
    });
    Ok(response)
}
