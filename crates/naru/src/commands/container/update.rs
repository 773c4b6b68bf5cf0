//! `update`

use naru_api::models::UpdateRequest;

use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::cli::flags::{parse_bytes, parse_int, parse_swap};
use crate::cli::verb::{Arguments, Verb, verb};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Block I/O weight, 10 to 1000, or 0 to disable (default 0)
    #[arg(long, value_name = "uint16", value_parser = crate::cli::flags::parse_u16)]
    blkio_weight: Option<u16>,
    /// Period of the CPU quota in microseconds
    #[arg(long, value_name = "int", value_parser = parse_int)]
    cpu_period: Option<i64>,
    /// CPU time per period in microseconds
    #[arg(long, value_name = "int", value_parser = parse_int)]
    cpu_quota: Option<i64>,
    /// Period of real-time scheduling in microseconds
    #[arg(long, value_name = "int", value_parser = parse_int)]
    cpu_rt_period: Option<i64>,
    /// Real-time CPU time per period in microseconds
    #[arg(long, value_name = "int", value_parser = parse_int)]
    cpu_rt_runtime: Option<i64>,
    /// CPU shares, relative to other containers
    #[arg(short = 'c', long, value_name = "int", value_parser = parse_int)]
    cpu_shares: Option<i64>,
    /// Number of CPUs
    #[arg(long, value_name = "decimal", value_parser = crate::parse::nano_cpus)]
    cpus: Option<i64>,
    /// CPUs to run on (0-3, 0,1)
    #[arg(long, value_name = "string")]
    cpuset_cpus: Option<String>,
    /// Memory nodes to use (0-3, 0,1)
    #[arg(long, value_name = "string")]
    cpuset_mems: Option<String>,
    /// Kernel memory limit
    #[arg(long, value_name = "bytes", value_parser = parse_bytes, hide = true)]
    kernel_memory: Option<i64>,
    /// Memory limit
    #[arg(short = 'm', long, value_name = "bytes", value_parser = parse_bytes)]
    memory: Option<i64>,
    /// Memory soft limit
    #[arg(long, value_name = "bytes", value_parser = parse_bytes)]
    memory_reservation: Option<i64>,
    /// Limit of memory and swap together; -1 for unlimited swap
    #[arg(long, value_name = "bytes", value_parser = parse_swap)]
    memory_swap: Option<i64>,
    /// Limit of processes; -1 for unlimited
    #[arg(long, value_name = "int", value_parser = parse_int)]
    pids_limit: Option<i64>,
    /// Restart policy when the container exits
    #[arg(long, value_name = "string")]
    restart: Option<String>,
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["container update", "update"],
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Update configuration of one or more containers",
    Arguments::AtLeast(1),
    "{} update -m 512m --memory-swap 1g web"
);

impl Options {
    /// Whether any flag is given, be it with the value that changes nothing.
    fn changes(&self) -> bool {
        let numbers = [
            self.cpu_period,
            self.cpu_quota,
            self.cpu_rt_period,
            self.cpu_rt_runtime,
            self.cpu_shares,
            self.cpus,
            self.kernel_memory,
            self.memory,
            self.memory_reservation,
            self.memory_swap,
            self.pids_limit,
        ];
        numbers.iter().any(Option::is_some)
            || self.blkio_weight.is_some()
            || self.cpuset_cpus.is_some()
            || self.cpuset_mems.is_some()
            || self.restart.is_some()
    }
}

async fn run(cx: Cx, o: Options) -> Result<i32> {
    if !o.changes() {
        return Err(Failure::message("you must provide one or more flags when using this command"));
    }
    let restart = o.restart.as_deref().map(crate::parse::restart_policy).transpose().map_err(Failure::message)?;
    let request = UpdateRequest {
        blkio_weight: o.blkio_weight.unwrap_or(0),
        cpu_period: o.cpu_period.unwrap_or(0),
        cpu_quota: o.cpu_quota.unwrap_or(0),
        cpu_realtime_period: o.cpu_rt_period.unwrap_or(0),
        cpu_realtime_runtime: o.cpu_rt_runtime.unwrap_or(0),
        cpu_shares: o.cpu_shares.unwrap_or(0),
        nano_cpus: o.cpus.unwrap_or(0),
        cpuset_cpus: o.cpuset_cpus.unwrap_or_default(),
        cpuset_mems: o.cpuset_mems.unwrap_or_default(),
        kernel_memory: o.kernel_memory.unwrap_or(0),
        memory: o.memory.unwrap_or(0),
        memory_reservation: o.memory_reservation.unwrap_or(0),
        memory_swap: o.memory_swap.unwrap_or(0),
        pids_limit: o.pids_limit.filter(|limit| *limit != 0),
        restart_policy: restart.unwrap_or_default(),
        ..UpdateRequest::default()
    };
    if o.kernel_memory.is_some() {
        crate::output::error_line("Flag --kernel-memory has been deprecated, and no longer supported by the kernel");
    }
    let client = cx.client()?;
    let mut warnings = Vec::new();
    let mut errors = Vec::new();
    for name in &o.args {
        match client.container_update(name, &request).await {
            Ok(answer) => {
                crate::output::line(name)?;
                warnings.extend(answer.warnings.unwrap_or_default());
            }
            Err(error) => errors.push(error.to_string()),
        }
    }
    if !warnings.is_empty() {
        crate::output::line(&warnings.join("\n"))?;
    }
    if errors.is_empty() { Ok(0) } else { Err(Failure::message(errors.join("\n"))) }
}
