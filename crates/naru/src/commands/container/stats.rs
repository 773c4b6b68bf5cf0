//! `stats`: one stream per container, one table redrawn twice a second.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use naru_api::models::{ContainerStats, CpuStats, MemoryStats};
use naru_api::{Filters, Query};

use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::cli::verb::{Arguments, Verb, verb};
use crate::output::format::{Listing, Row};
use crate::output::units::{bytes_size, human_size_precision, short_id};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Show all containers (default shows just running)
    #[arg(short = 'a', long)]
    all: bool,
    /// 'table', 'table TEMPLATE', 'json', or a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Show one result and leave
    #[arg(long)]
    no_stream: bool,
    /// Do not cut the output
    #[arg(long)]
    no_trunc: bool,
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["container stats", "stats"],
    "[OPTIONS] [CONTAINER...]",
    "Display a live stream of container(s) resource usage statistics",
    Arguments::AtLeast(0),
    "{} stats --no-stream\n{} stats --format '{{.Name}}: {{.MemUsage}}' web"
);

const HEADERS: &[(&str, &str)] = &[
    ("Container", "CONTAINER"),
    ("ID", "CONTAINER ID"),
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
];
const DEFAULT: &str = "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}";
/// Between two drawings.
const REDRAW: Duration = Duration::from_millis(500);

/// The latest of one container.
#[derive(Debug, Clone, Default)]
struct Sample {
    container: String,
    id: String,
    name: String,
    cpu: f64,
    memory: f64,
    memory_limit: f64,
    received: f64,
    sent: f64,
    read: f64,
    written: f64,
    pids: u64,
    valid: bool,
    gone: bool,
}

type Shared = Rc<RefCell<BTreeMap<usize, Sample>>>;

async fn run(cx: Cx, options: Options) -> Result<i32> {
    let client = cx.client()?;
    let format = options.format.clone().unwrap_or_else(|| cx.config().stats_format.clone());
    let all = options.args.is_empty();
    let mut names = options.args.clone();
    let mut query = Query::new();
    query.flag("all", options.all);
    if all {
        names = client.container_list(&query).await?.into_iter().map(|container| container.id).collect();
    }
    let samples: Shared = Rc::default();
    let mut next = 0;
    let mut add = |name: String| {
        samples.borrow_mut().insert(next, Sample { container: name.clone(), id: name.clone(), ..Sample::default() });
        let task = tokio::task::spawn_local(follow(cx, name, next, samples.clone(), !options.no_stream));
        next += 1;
        task
    };
    let tasks: Vec<_> = names.iter().cloned().map(&mut add).collect();
    if options.no_stream {
        let mut errors = Vec::new();
        for task in tasks {
            if let Ok(Err(failure)) = task.await {
                errors.push(failure.text().to_owned());
            }
        }
        if !errors.is_empty() {
            return Err(Failure::message(errors.join(", ")));
        }
        crate::output::write(render(&samples, &format, options.no_trunc)?.as_bytes())?;
        return Ok(0);
    }
    stream(cx, &options, &format, all, &samples, tasks, &mut add).await
}

/// Redraws until nothing is left to show; with all containers, those that start later are added.
async fn stream(
    cx: Cx,
    options: &Options,
    format: &str,
    all: bool,
    samples: &Shared,
    tasks: Vec<tokio::task::JoinHandle<Result<()>>>,
    add: &mut impl FnMut(String) -> tokio::task::JoinHandle<Result<()>>,
) -> Result<i32> {
    let mut events = if all {
        let mut filters = Filters::new();
        filters.add("type", "container");
        filters.add("event", "start");
        let mut query = Query::new();
        query.push("filters", filters.to_json());
        Some(cx.client()?.events(&query).await?)
    } else {
        None
    };
    if !all {
        // A name that does not exist is an error before anything is drawn.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut errors = Vec::new();
        for task in tasks.into_iter().filter(tokio::task::JoinHandle::is_finished) {
            if let Ok(Err(failure)) = task.await {
                errors.push(failure.text().to_owned());
            }
        }
        if !errors.is_empty() {
            return Err(Failure::message(errors.join(", ")));
        }
    }
    let mut ticks = tokio::time::interval(REDRAW);
    loop {
        let started = async {
            match &mut events {
                Some(events) => events.next().await.ok().flatten(),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            event = started => match event {
                Some(event) => {
                    let known = samples.borrow().values().any(|sample| sample.id == event.actor.id && !sample.gone);
                    if !known {
                        add(event.actor.id);
                    }
                }
                None => events = None,
            },
            _ = ticks.tick() => {
                samples.borrow_mut().retain(|_, sample| !sample.gone);
                let text = render(samples, format, options.no_trunc)?;
                // Cleared line by line, so that nothing flickers.
                let drawn = text.replace('\n', "\x1b[K\n");
                crate::output::write(format!("\x1b[H{drawn}\x1b[J").as_bytes())?;
                if !all && samples.borrow().is_empty() {
                    return Ok(0);
                }
            }
        }
    }
}

/// Reads one container's samples into the table.
async fn follow(cx: Cx, name: String, at: usize, samples: Shared, stream: bool) -> Result<()> {
    let outcome = async {
        let mut lines = cx.client()?.container_stats(&name, stream).await?.json_lines::<ContainerStats>();
        while let Some(stats) = lines.next().await? {
            if let Some(sample) = samples.borrow_mut().get_mut(&at) {
                *sample = measure(&name, &stats);
            }
        }
        Ok(())
    }
    .await;
    if let Some(sample) = samples.borrow_mut().get_mut(&at) {
        sample.gone = stream || outcome.is_err();
    }
    outcome
}

#[expect(clippy::cast_precision_loss, reason = "shown with four digits")]
fn measure(container: &str, stats: &ContainerStats) -> Sample {
    let networks = stats.networks.iter().flatten();
    let (received, sent) = networks.fold((0, 0), |(rx, tx), (_, net)| (rx + net.rx_bytes, tx + net.tx_bytes));
    let mut blocks = (0, 0);
    for entry in stats.blkio_stats.io_service_bytes_recursive.iter().flatten() {
        match entry.op.as_bytes().first() {
            Some(b'r' | b'R') => blocks.0 += entry.value,
            Some(b'w' | b'W') => blocks.1 += entry.value,
            _ => {}
        }
    }
    Sample {
        container: container.to_owned(),
        id: stats.id.clone(),
        name: stats.name.trim_start_matches('/').to_owned(),
        cpu: cpu_percent(&stats.precpu_stats, &stats.cpu_stats),
        memory: memory_used(&stats.memory_stats) as f64,
        memory_limit: stats.memory_stats.limit as f64,
        received: received as f64,
        sent: sent as f64,
        read: blocks.0 as f64,
        written: blocks.1 as f64,
        pids: stats.pids_stats.current,
        valid: true,
        gone: false,
    }
}

#[expect(clippy::cast_precision_loss, reason = "a percentage is shown with two digits")]
fn cpu_percent(before: &CpuStats, now: &CpuStats) -> f64 {
    let used = now.cpu_usage.total_usage as f64 - before.cpu_usage.total_usage as f64;
    let passed = now.system_cpu_usage as f64 - before.system_cpu_usage as f64;
    let cpus = match now.online_cpus {
        0 => now.cpu_usage.percpu_usage.as_ref().map_or(0, Vec::len) as f64,
        count => f64::from(count),
    };
    if passed > 0.0 && used > 0.0 { used / passed * cpus * 100.0 } else { 0.0 }
}

/// Memory in use without the part of the page cache that can go at once.
fn memory_used(memory: &MemoryStats) -> u64 {
    let stat = |name: &str| memory.stats.as_ref().and_then(|stats| stats.get(name)).copied();
    for name in ["total_inactive_file", "inactive_file"] {
        if let Some(cache) = stat(name)
            && cache < memory.usage
        {
            return memory.usage - cache;
        }
    }
    memory.usage
}

fn render(samples: &Shared, format: &str, no_trunc: bool) -> Result<String> {
    let rows: Vec<Row> = samples.borrow().values().filter(|sample| !sample.gone).map(|sample| row(sample, no_trunc)).collect();
    Listing { kind: "*container.statsContext", headers: HEADERS, default: DEFAULT, raw: None }.render(format, &rows)
}

fn row(s: &Sample, no_trunc: bool) -> Row {
    let id = if no_trunc { s.id.clone() } else { short_id(&s.id).to_owned() };
    let or_dashes = |text: String, dashes: &str| if s.valid { text } else { dashes.to_owned() };
    let memory_percent = if s.memory_limit > 0.0 { s.memory / s.memory_limit * 100.0 } else { 0.0 };
    let pair = |a: f64, b: f64| format!("{} / {}", human_size_precision(a, 3), human_size_precision(b, 3));
    Row::new([
        ("Container", s.container.as_str().into()),
        ("ID", id.into()),
        ("Name", if s.name.is_empty() { "--".into() } else { s.name.as_str().into() }),
        ("CPUPerc", or_dashes(format!("{:.2}%", s.cpu), "--").into()),
        ("MemUsage", or_dashes(format!("{} / {}", bytes_size(s.memory), bytes_size(s.memory_limit)), "-- / --").into()),
        ("MemPerc", or_dashes(format!("{memory_percent:.2}%"), "--").into()),
        ("NetIO", or_dashes(pair(s.received, s.sent), "--").into()),
        ("BlockIO", or_dashes(pair(s.read, s.written), "--").into()),
        ("PIDs", or_dashes(s.pids.to_string(), "--").into()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_computed_as_docker_does() {
        let cpu = |total, system| CpuStats {
            cpu_usage: naru_api::models::CpuUsage { total_usage: total, ..Default::default() },
            system_cpu_usage: system,
            online_cpus: 2,
            ..CpuStats::default()
        };
        assert!((cpu_percent(&cpu(100, 1000), &cpu(200, 2000)) - 20.0).abs() < 1e-9);
        assert!(cpu_percent(&cpu(200, 2000), &cpu(100, 2000)).abs() < 1e-9);
        let memory = MemoryStats { usage: 100, stats: Some([("total_inactive_file".to_owned(), 40)].into()), ..MemoryStats::default() };
        assert_eq!(memory_used(&memory), 60);
    }
}
