//! Health checks: a program run in the container from time to time, its results, and what they add up to.
//!
//! Timers run on the monotonic clock; a check is never started while another runs.

use crate::Inner;
use crate::container::Container;
use crate::exec::{self, ExecSpec};
use crate::spec::{HealthSpec, HealthTest};
use jiff::Timestamp;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::time::Instant;

/// Results kept (moby `daemon/health.go`).
const RESULTS_KEPT: usize = 5;
/// Bytes of output kept of a check.
const OUTPUT_KEPT: usize = 4096;

/// What the checks add up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthStatus {
    /// Not known yet.
    Starting,
    /// The last check succeeded.
    Healthy,
    /// Too many checks in a row failed.
    Unhealthy,
}

impl HealthStatus {
    /// Docker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            HealthStatus::Starting => "starting",
            HealthStatus::Healthy => "healthy",
            HealthStatus::Unhealthy => "unhealthy",
        }
    }
}

/// One check that ran.
#[derive(Debug, Clone)]
pub struct CheckResult {
    /// When it began.
    pub start: Timestamp,
    /// When it ended.
    pub end: Timestamp,
    /// 0 is healthy; -1 means that it could not run or took too long.
    pub exit_code: i32,
    /// What it printed.
    pub output: String,
}

/// The outcome of a check and whether it happened in the start period.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The check.
    pub result: CheckResult,
    /// A failure does not count yet.
    pub in_start_period: bool,
}

/// The health of a container.
#[derive(Debug, Clone)]
pub struct Health {
    /// What the checks add up to.
    pub status: HealthStatus,
    /// Failures in a row.
    pub failing_streak: u32,
    /// The last checks, oldest first.
    pub log: VecDeque<CheckResult>,
}

impl Health {
    /// Nothing is known yet.
    pub fn starting() -> Self {
        Health { status: HealthStatus::Starting, failing_streak: 0, log: VecDeque::new() }
    }

    /// Takes a result into account.
    pub fn record(&mut self, outcome: Outcome, check: &HealthSpec) {
        if outcome.result.exit_code == 0 {
            self.failing_streak = 0;
            self.status = HealthStatus::Healthy;
        } else if !(self.status == HealthStatus::Starting && outcome.in_start_period) {
            self.failing_streak += 1;
            if self.failing_streak >= check.retries {
                self.status = HealthStatus::Unhealthy;
            }
        }
        if self.log.len() == RESULTS_KEPT {
            self.log.pop_front();
        }
        self.log.push_back(outcome.result);
    }
}

/// Runs the checks of a live container until the task is aborted.
pub(crate) async fn watch(engine: Arc<Inner>, container: Arc<Container>, check: HealthSpec, started: Timestamp) {
    let already = Duration::try_from(Timestamp::now().duration_since(started)).unwrap_or(Duration::ZERO);
    let start_period_ends = Instant::now() + check.start_period.saturating_sub(already);
    loop {
        let in_start_period = Instant::now() < start_period_ends;
        let starting = container.view().health.as_ref().is_none_or(|health| health.status == HealthStatus::Starting);
        let pause = if in_start_period && starting { check.start_interval } else { check.interval };
        tokio::time::sleep(pause).await;
        if container.view().state.is_paused() {
            continue;
        }
        let in_start_period = Instant::now() < start_period_ends;
        let result = run_check(&engine, &container, &check).await;
        container.health_result(Outcome { result, in_start_period });
    }
}

async fn run_check(engine: &Arc<Inner>, container: &Arc<Container>, check: &HealthSpec) -> CheckResult {
    let args = match &check.test {
        HealthTest::Exec(args) => args.clone(),
        HealthTest::Shell(line) => vec!["/bin/sh".to_owned(), "-c".to_owned(), line.clone()],
    };
    let start = Timestamp::now();
    let spec = ExecSpec { args, stdout: true, stderr: true, ..ExecSpec::default() };
    let (exit_code, output) = match collect(engine, container, spec, check.timeout).await {
        Ok(done) => done,
        Err(error) => (-1, error.to_string()),
    };
    CheckResult { start, end: Timestamp::now(), exit_code, output }
}

async fn collect(
    engine: &Arc<Inner>,
    container: &Arc<Container>,
    spec: ExecSpec,
    timeout: Duration,
) -> crate::error::Result<(i32, String)> {
    let exec = exec::create(engine, container, container.id.as_str(), spec)?;
    let stream = exec::start(engine, &exec, false).await?;
    let stream = stream.ok_or(crate::error::EngineError::Gone("the health check"))?;
    stream.set_nonblocking(true).map_err(crate::error::EngineError::io("read the output of", "a health check"))?;
    let mut stream =
        tokio::net::UnixStream::from_std(stream).map_err(crate::error::EngineError::io("read the output of", "a health check"))?;
    let mut output = Vec::new();
    let finished = tokio::time::timeout(timeout, async {
        let mut header = [0; 8];
        while stream.read_exact(&mut header).await.is_ok() {
            let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
            let mut frame = (&mut stream).take(u64::from(length));
            let mut block = [0; 4096];
            while let Ok(read @ 1..) = frame.read(&mut block).await {
                let room = OUTPUT_KEPT.saturating_sub(output.len());
                output.extend_from_slice(&block[..read.min(room)]);
            }
        }
        exec.wait().await
    })
    .await;
    let output = String::from_utf8_lossy(&output).into_owned();
    match finished {
        Ok(code) => Ok((code, output)),
        Err(_) => {
            exec::kill(engine, &exec).await;
            let colon = if output.is_empty() { "" } else { ": " };
            Ok((-1, format!("Health check exceeded timeout ({}){colon}{output}", go_duration(timeout))))
        }
    }
}

/// A duration as Go prints it for whole milliseconds, e.g. `1m30s` or `500ms`.
fn go_duration(duration: Duration) -> String {
    let (seconds, millis) = (duration.as_secs(), duration.subsec_millis());
    match (seconds, millis) {
        (0, millis) => format!("{millis}ms"),
        (seconds, 0) if seconds < 60 => format!("{seconds}s"),
        (seconds, 0) => format!("{}m{}s", seconds / 60, seconds % 60),
        (seconds, millis) => format!("{seconds}.{millis:03}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(retries: u32) -> HealthSpec {
        HealthSpec {
            test: HealthTest::Shell("true".into()),
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            start_period: Duration::ZERO,
            start_interval: Duration::from_secs(1),
            retries,
        }
    }

    fn outcome(exit_code: i32, in_start_period: bool) -> Outcome {
        let now = Timestamp::UNIX_EPOCH;
        Outcome { result: CheckResult { start: now, end: now, exit_code, output: String::new() }, in_start_period }
    }

    #[test]
    fn failures_count_after_the_start_period_and_in_a_row() {
        let mut health = Health::starting();
        health.record(outcome(1, true), &check(2));
        assert_eq!((health.status, health.failing_streak), (HealthStatus::Starting, 0));
        health.record(outcome(1, false), &check(2));
        assert_eq!(health.status, HealthStatus::Starting);
        health.record(outcome(0, false), &check(2));
        assert_eq!((health.status, health.failing_streak), (HealthStatus::Healthy, 0));
        for _ in 0..2 {
            health.record(outcome(1, false), &check(2));
        }
        assert_eq!(health.status, HealthStatus::Unhealthy);
        assert_eq!(health.log.len(), RESULTS_KEPT);
    }

    #[test]
    fn durations_as_go() {
        for (millis, text) in [(500, "500ms"), (30_000, "30s"), (90_000, "1m30s"), (1_500, "1.500s")] {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        }
    }
}
