//! The end of a container: what is put away, and when those who wait for it hear of it.

use super::{Backend, Monitor};
use crate::hooks;
use crate::monitor::protocol::{Event, ExitRecord};
use crate::monitor::sink::Role;
use crate::time;
use naru_sys::process::Ended;
use std::time::{Duration, Instant};

/// How long clients that do not read may keep the monitor of an ended container.
const LINGER: Duration = Duration::from_secs(10);
/// How long the end of what is thrown away comes behind the news of it: on a machine whose processors are all busy, who hears
/// them would wait for this process.
const BEHIND: Duration = Duration::from_millis(3);

impl Monitor {
    /// Everything is put away before anyone hears of the end, so that the container can be started again at once; of one that
    /// is not started again that comes after, see [`Monitor::put_away`].
    pub(super) fn finish_container(&mut self, ended: Ended) {
        if let Some(log) = self.log.take() {
            log.close();
        }
        let (code, signal) = match ended {
            Ended::Exited(code) => (code, None),
            Ended::Killed(signal) => (128 + signal, Some(signal)),
        };
        let (mut oom_killed, mut oom_untold) = (false, false);
        let mut later = false;
        match &self.backend {
            Backend::Native { cgroup, poststop, poststop_state, .. } => {
                let kills = cgroup.oom_kills();
                oom_killed = kills > 0;
                oom_untold = self.oom.as_ref().is_some_and(|watch| kills > watch.seen);
                // Processes that left the pid namespace's reach (joined from outside) go too.
                if cgroup.pids().is_ok_and(|pids| !pids.is_empty()) {
                    drop(cgroup.kill());
                }
                later = self.throwaway && poststop.is_empty();
                if !later {
                    drop(cgroup.remove());
                }
                drop(hooks::run("poststop", poststop, poststop_state));
            }
            Backend::External(handle) => handle.delete(),
        }
        if oom_untold {
            self.broadcast(&Event::OomKill);
        }
        let record = ExitRecord { code, signal, oom_killed, finished_at: time::now() };
        // Who watches deletes what is thrown away; the record is for a daemon to come. Without room for it the event still tells.
        let is_watched = self.clients.iter().flatten().any(|client| matches!(client.role, Role::Watch) && !client.gone);
        if !(later && is_watched) {
            drop(self.directory.write_exit_record(&record));
        }
        if !later {
            self.directory.remove_socket();
        }
        self.broadcast(&Event::Exited(record.clone()));
        self.exit = Some(record);
        if later {
            self.put_away_at = Some(Instant::now() + BEHIND);
        } else {
            self.release_watchers();
        }
        self.leave_at = Some(Instant::now() + LINGER);
    }

    /// The end of a connection that watches says that everything is put away.
    fn release_watchers(&mut self) {
        for client in self.clients.iter_mut().flatten() {
            if !matches!(client.role, Role::Stream(_)) {
                client.role = Role::Closing;
            }
        }
    }

    /// What is left of a container that is thrown away.
    pub(super) fn put_away(&mut self) {
        self.put_away_at = None;
        self.mounts = None;
        if let Backend::Native { cgroup, .. } = &self.backend {
            drop(cgroup.remove());
        }
        // As long as it is there, the cgroup may be.
        self.directory.remove_socket();
        self.release_watchers();
    }

    /// Whether the container has ended and every client has what it is due, or has had its time.
    pub(super) fn finished(&self) -> bool {
        let nobody = self.clients.iter().all(Option::is_none) && self.processes.iter().all(Option::is_none);
        self.exit.is_some() && self.put_away_at.is_none() && (nobody || self.leave_at.is_some_and(|time| time <= Instant::now()))
    }
}
