//! How a container ends: by itself, by a stop, a kill or a restart.
//!
//! A process may end at any moment, and its monitor tells of it a moment later: a request that comes between the two fails at
//! the kernel or at the monitor. [`Actor::ended_under`] tells such a failure from others; the request is then answered as if it
//! had come after the end.

use super::{Actor, KILL_PATIENCE, Reply, StopOptions, next_event, until};
use crate::error::{EngineError, Result};
use crate::launch;
use crate::monitor;
use crate::phase::{Input, Phase};
use crate::spec::ContainerSpec;
use jiff::Timestamp;
use naru_runtime::monitor::Request;
use naru_types::{ErrorKind, Signal};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Seconds between the stop signal and SIGKILL when nobody says otherwise.
const DEFAULT_STOP_TIMEOUT: i64 = 10;

impl Actor {
    pub(super) async fn on_end(&mut self, code: i32, oom_killed: bool, at: Timestamp) {
        self.leaving = self.watch.take();
        self.kill_at = None;
        if let Some(task) = self.health_task.take() {
            task.abort();
        }
        let started = match self.view.state.phase {
            Phase::Running { started_at, .. } => Some(started_at),
            _ => None,
        };
        let lasted = started.map_or(0, |started| at.duration_since(started).as_secs());
        self.emit("die", &[("exitCode", code.to_string()), ("execDuration", lasted.to_string())]);
        self.engine.execs.container_ended(&self.view.id);
        if std::mem::take(&mut self.stopping) {
            self.emit("stop", &[]);
        }
        if let Err(error) = self.apply(Input::Ended { code, oom_killed, at }).await {
            tracing::warn!(container = %self.view.id.short(), error = crate::chain(&error), "cannot finish the container's run");
        }
        for waiter in self.stop_waiters.drain(..) {
            waiter.send(Ok(())).ok();
        }
    }

    /// The monitor died: what it wrote last tells how the run ended.
    pub(super) async fn on_monitor_lost(&mut self) {
        self.watch = None;
        let record = launch::exit_record(&self.directory);
        if record.is_none() {
            tracing::warn!(container = %self.view.id.short(), "the monitor died; killing what is left of the container");
            if let Err(error) = launch::kill_leftovers(&self.view).await {
                tracing::warn!(container = %self.view.id.short(), error = crate::chain(&error), "cannot kill the container's processes");
            }
        }
        let (code, oom_killed, at) = record.unwrap_or((137, false, Timestamp::now()));
        self.on_end(code, oom_killed, at).await;
    }

    pub(super) async fn send_signal(&self, signal: Signal) -> Result<()> {
        monitor::ask(&self.directory, &Request::Signal { signal: signal.number() }).await?;
        if self.view.state.is_paused() {
            // A frozen process cannot receive its signal.
            self.freeze(false).await?;
        }
        Ok(())
    }

    /// Whether a request failed because the process ended meanwhile, of which the monitor is about to tell.
    pub(super) fn ended_under(&self, error: &EngineError) -> bool {
        let told = matches!(error, EngineError::Gone(_) | EngineError::Denied { kind: ErrorKind::Conflict, .. });
        told || self.view.state.pid().is_none_or(|pid| !Path::new(&format!("/proc/{pid}")).exists())
    }

    pub(super) fn not_running(&self) -> EngineError {
        EngineError::conflict(format!("container {} is not running", self.view.id))
    }

    pub(super) async fn on_stop(&mut self, options: StopOptions, reply: Reply<()>) {
        if let Err(error) = self.apply(Input::Stop).await {
            reply.send(Err(error)).ok();
            return;
        }
        if !self.view.state.is_running() {
            // It waited for a restart, which is called off.
            self.emit("stop", &[]);
            reply.send(Ok(())).ok();
            return;
        }
        self.stopping = true;
        let signal = options.signal.unwrap_or(self.view.spec.process.stop_signal);
        if let Err(error) = self.send_signal(signal).await {
            tracing::warn!(container = %self.view.id.short(), error = crate::chain(&error), "cannot send the stop signal; killing");
            self.kill_at = Some(Instant::now());
        } else {
            self.emit("kill", &[("signal", signal.number().to_string())]);
            let seconds = options.timeout.or(self.view.spec.process.stop_timeout).unwrap_or(DEFAULT_STOP_TIMEOUT);
            if let Ok(seconds) = u64::try_from(seconds) {
                let deadline = Instant::now() + Duration::from_secs(seconds);
                self.kill_at = Some(self.kill_at.map_or(deadline, |earlier| earlier.min(deadline)));
            }
        }
        self.stop_waiters.push(reply);
    }

    pub(super) async fn on_kill(&mut self, signal: Signal, reply: Reply<()>) {
        let deadly = signal == Signal::KILL || signal == self.view.spec.process.stop_signal;
        if matches!(self.view.state.phase, Phase::Restarting(_)) {
            // No process is there to get it; what it asks for is the end of the restarts.
            reply.send(self.apply(Input::Stop).await).ok();
            return;
        }
        if !self.view.state.is_running() {
            reply.send(Err(self.cannot_kill())).ok();
            return;
        }
        let result = match self.apply(if deadly { Input::Stop } else { Input::Signal }).await {
            Ok(()) => self.send_signal(signal).await.map_err(|error| if self.ended_under(&error) { self.cannot_kill() } else { error }),
            Err(error) => Err(error),
        };
        if result.is_ok() {
            self.emit("kill", &[("signal", signal.number().to_string())]);
            if signal == Signal::KILL {
                self.stop_waiters.push(reply);
                return;
            }
        }
        reply.send(result).ok();
    }

    pub(super) fn cannot_kill(&self) -> EngineError {
        EngineError::conflict(format!("cannot kill container: {}: container {} is not running", self.view.name, self.view.id))
    }

    /// Handles events until the live run has ended.
    pub(super) async fn await_end(&mut self, deadline: Option<Instant>) -> Result<()> {
        let mut deadline = deadline;
        while self.watch.is_some() {
            tokio::select! {
                event = next_event(&mut self.watch) => match event {
                    Some(event) => Box::pin(self.on_event(event)).await,
                    None => Box::pin(self.on_monitor_lost()).await,
                },
                () = until(deadline) => {
                    deadline = None;
                    // It may have ended at this very moment; its end is what is waited for.
                    if let Err(error) = self.kill_now().await {
                        tracing::debug!(container = %self.view.id.short(), error = crate::chain(&error), "cannot kill after the stop timeout");
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) async fn restart(&mut self, options: StopOptions) -> Result<()> {
        if self.view.state.is_running() {
            self.apply(Input::Stop).await?;
            self.stopping = true;
            let signal = options.signal.unwrap_or(self.view.spec.process.stop_signal);
            match self.send_signal(signal).await {
                Ok(()) => self.emit("kill", &[("signal", signal.number().to_string())]),
                // What is to end has ended.
                Err(error) if self.ended_under(&error) => {}
                Err(error) => return Err(error),
            }
            let seconds = options.timeout.or(self.view.spec.process.stop_timeout).unwrap_or(DEFAULT_STOP_TIMEOUT);
            let deadline = u64::try_from(seconds).ok().map(|seconds| Instant::now() + Duration::from_secs(seconds));
            // A container with --rm would be deleted by its end; a restart keeps it (as Docker does).
            let spec = Arc::clone(&self.view.spec);
            if spec.auto_remove {
                let kept = ContainerSpec { auto_remove: false, ..(*spec).clone() };
                self.view.spec = Arc::new(kept);
            }
            let ended = self.await_end(deadline).await;
            self.view.spec = spec;
            ended?;
        }
        self.apply(Input::Start).await?;
        self.emit("restart", &[]);
        Ok(())
    }

    pub(super) async fn kill_now(&mut self) -> Result<()> {
        self.send_signal(Signal::KILL).await?;
        self.emit("kill", &[("signal", Signal::KILL.number().to_string())]);
        Ok(())
    }

    /// Kills the container, which was `frozen` before its state said that it goes, and waits for its end.
    pub(super) async fn kill_all(&mut self, frozen: bool) -> Result<()> {
        if let Err(error) = self.kill_now().await
            && self.watch.is_some()
            && !self.ended_under(&error)
        {
            return Err(error);
        }
        // A frozen process cannot receive its signal.
        if frozen
            && let Err(error) = self.freeze(false).await
            && !self.ended_under(&error)
        {
            return Err(error);
        }
        let id = self.view.id.clone();
        match tokio::time::timeout(KILL_PATIENCE, self.await_end(None)).await {
            Ok(result) => result,
            Err(_) => Err(EngineError::conflict(format!("container {id} does not end although it was killed; is its storage stuck?"))),
        }
    }
}
