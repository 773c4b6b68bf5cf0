//! A start that is prepared before it is asked for.
//!
//! `docker run` creates, attaches, waits and then starts; while the client is busy with its next request there is time for most
//! of a start: all but the program. Whoever attaches to a container that does not run is about to start it, and so is who
//! creates one that goes with its end and wants its output. It begins when they have been answered: on a machine whose processors
//! are all busy an answer would come after it, and the client with it. What is prepared is used by the next start, and taken back
//! when something changes that it was made from, or when no start comes for [`PATIENCE`].

use super::{Actor, Command};
use crate::launch::{self, Prepared};
use crate::phase::Phase;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How long a start may be held ready: long for a client, short for a port or an address that nobody uses.
const PATIENCE: Duration = Duration::from_millis(500);

/// A start that is being prepared, or is.
pub(crate) struct Ready {
    job: Job,
    pub(super) until: Instant,
}

/// Prepares a start. Nothing comes of it if that fails: the start tries again, and its error is the one that counts.
pub(crate) type Job = JoinHandle<Option<Prepared>>;

impl Ready {
    pub(crate) fn new(job: Job) -> Ready {
        Ready { job, until: Instant::now() + PATIENCE }
    }

    async fn prepared(self) -> Option<Prepared> {
        self.job.await.ok()?
    }

    pub(crate) async fn take_back(self) {
        if let Some(prepared) = self.prepared().await
            && tokio::task::spawn_blocking(move || drop(prepared)).await.is_err()
        {
            tracing::error!("the thread that took back a start panicked");
        }
    }
}

/// Whether a command changes what a start is made from, or what the container holds.
pub(super) fn concerns(command: &Command) -> bool {
    !matches!(command, Command::Start(_) | Command::Attach { .. } | Command::Resize { .. } | Command::Health(_))
}

impl Actor {
    pub(super) fn make_ready(&mut self) {
        let idle = matches!(self.view.state.phase, Phase::Created | Phase::Exited(_));
        if !idle || self.ready.is_some() || !launch::stands_alone(&self.view.spec) {
            return;
        }
        let (engine, view) = (Arc::clone(&self.engine), self.view.clone());
        let prepare = move || launch::open(&engine, &view).and_then(|opened| launch::prepare(&engine, &view, opened)).ok();
        self.ready = Some(Ready::new(tokio::task::spawn_blocking(prepare)));
    }

    /// What was prepared, if it was.
    pub(super) async fn prepared(&mut self) -> Option<Prepared> {
        self.ready.take()?.prepared().await
    }

    /// Takes back what was prepared.
    pub(super) async fn take_back(&mut self) {
        if let Some(ready) = self.ready.take() {
            ready.take_back().await;
        }
    }
}
