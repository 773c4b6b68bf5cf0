//! A start that is prepared before it is asked for.
//!
//! `docker run` creates, attaches, waits and then starts; while the client is busy with its next request there is time for most
//! of a start. Whoever attaches to a container that does not run is about to start it, and so is who creates one that goes
//! with its end and wants its output. What is prepared is used by the next start, and taken back when something changes that
//! it was made from, or when no start comes for [`PATIENCE`].

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
pub(super) struct Ready {
    job: JoinHandle<crate::error::Result<Prepared>>,
    pub(super) until: Instant,
}

/// Whether a command changes what a start is made from, or what the container holds.
pub(super) fn concerns(command: &Command) -> bool {
    !matches!(command, Command::MakeReady | Command::Start(_) | Command::Attach(..) | Command::Resize { .. } | Command::Health(_))
}

impl Actor {
    pub(super) fn make_ready(&mut self) {
        let idle = matches!(self.view.state.phase, Phase::Created | Phase::Exited(_));
        if !idle || self.ready.is_some() || !launch::stands_alone(&self.view.spec) {
            return;
        }
        let (engine, view) = (Arc::clone(&self.engine), self.view.clone());
        let job = tokio::task::spawn_blocking(move || launch::prepare(&engine, &view));
        self.ready = Some(Ready { job, until: Instant::now() + PATIENCE });
    }

    /// What was prepared. Nothing if that failed: the start tries again, and its error is the one that counts.
    pub(super) async fn prepared(&mut self) -> Option<Prepared> {
        self.ready.take()?.job.await.ok()?.ok()
    }

    /// Takes back what was prepared.
    pub(super) async fn take_back(&mut self) {
        if let Some(prepared) = self.prepared().await
            && tokio::task::spawn_blocking(move || drop(prepared)).await.is_err()
        {
            tracing::error!(container = %self.view.id.short(), "the thread that took back a start panicked");
        }
    }
}
