//! The life of a container as a pure function: `State::apply(input) -> (next state, effects)`.
//!
//! ```text
//!            Start                    Exited (policy says no)
//!  Created ────────▶ Running(paused?) ───────────────────────▶ Exited ──▶ Running …
//!     │                 ▲      │ Exited (policy says again)       │
//!     │                 │      ▼                                  │
//!     │                 └── Restarting (back-off)                 │
//!     └────────────────────────── Removing ◀──────────────────────┘
//! ```
//! Variants own what is valid there: only a running container has a pid. Effects are carried out by the actor, outside
//! this module, so that the rules can be tested exhaustively.

use crate::spec::{RestartMode, RestartPolicy};
use jiff::Timestamp;
use naru_types::ErrorKind;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// First delay of a restart; doubled each time up to [`BACKOFF_MAX`] (moby restartmanager).
pub const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// Longest delay between two restarts.
pub const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// A run at least this long starts the back-off afresh.
pub const BACKOFF_RESET: Duration = Duration::from_secs(10);

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// 0-255; 128+n for a signal; 126/127/128 when the process could not be started.
    pub code: i32,
    /// The cgroup's OOM killer took a process of the container.
    pub oom_killed: bool,
    /// Why the process could not be started; empty after an ordinary end.
    pub error: String,
    /// When the run began, if it did.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Timestamp,
}

/// What a container is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Made, never started.
    Created,
    /// Its first process lives.
    Running {
        /// Pid in the daemon's pid namespace.
        pid: i32,
        /// When the process was executed.
        started_at: Timestamp,
        /// Frozen by `pause`.
        paused: bool,
    },
    /// Ended, and will be started again after a back-off.
    Restarting(Exit),
    /// Ended.
    Exited(Exit),
    /// Being deleted; nothing else is possible any more.
    Removing,
}

/// The phase and what outlives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// What the container is doing.
    pub phase: Phase,
    /// Restarts by policy since the last start by a user.
    pub restart_count: u32,
    /// A user stopped it: `unless-stopped` keeps it down, and no policy restarts this run.
    pub stopped_by_user: bool,
    /// The delay before the next restart, in milliseconds.
    pub backoff_ms: u64,
    /// Runs that have ended so far; `wait` for the next exit watches it.
    pub exits: u64,
    /// The last end, also while running again.
    pub last_exit: Option<Exit>,
}

/// What happens to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A user (or the daemon's start, for policies) wants it to run.
    Start,
    /// The monitor says that the process runs.
    Started {
        /// Of the first process, as the host numbers it.
        pid: i32,
        /// When it was executed.
        at: Timestamp,
    },
    /// The process could not be started.
    StartFailed {
        /// 126, 127 or 128.
        code: i32,
        /// Why.
        error: String,
        /// When.
        at: Timestamp,
    },
    /// The process ended.
    Ended {
        /// Exit code, 128 + signal.
        code: i32,
        /// The OOM killer took a process of it.
        oom_killed: bool,
        /// When.
        at: Timestamp,
    },
    /// A user wants it to end: stop, or a kill with a deadly signal.
    Stop,
    /// A signal that need not end it.
    Signal,
    /// Freeze.
    Pause,
    /// Thaw.
    Unpause,
    /// The back-off is over.
    RestartDue,
    /// Delete it.
    Remove {
        /// Kill it first if it runs.
        force: bool,
    },
}

/// What the actor has to do after a transition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Prepare everything and start the process; answered by `Started` or `StartFailed`.
    Launch,
    /// Free the network and the mounts of the ended run.
    Release,
    /// Wait, then `RestartDue`.
    ScheduleRestart(Duration),
    /// No restart any more, if one was scheduled.
    CancelRestart,
    /// Freeze the cgroup.
    Freeze,
    /// Thaw the cgroup.
    Thaw,
    /// Kill every process and wait for the end.
    KillAll,
    /// Delete every trace.
    Delete,
}

/// Why an input is not possible now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// Docker's words after `container <id>`.
    pub reason: &'static str,
    /// The class of refusal.
    pub kind: ErrorKind,
}

fn denied<T>(kind: ErrorKind, reason: &'static str) -> Result<T, Denied> {
    Err(Denied { reason, kind })
}

impl Default for State {
    fn default() -> Self {
        State { phase: Phase::Created, restart_count: 0, stopped_by_user: false, backoff_ms: 0, exits: 0, last_exit: None }
    }
}

impl State {
    /// The state after `input`, and what has to be done; or why not.
    pub fn apply(&self, input: Input, policy: &RestartPolicy, auto_remove: bool) -> Result<(State, Vec<Effect>), Denied> {
        let mut next = self.clone();
        let effects = match (&self.phase, input) {
            (Phase::Removing, Input::Ended { code, oom_killed, at }) => {
                // Who waits for the removal of a container that runs is told how it ended.
                next.exits += 1;
                next.last_exit = Some(Exit { code, oom_killed, error: String::new(), started_at: None, finished_at: at });
                vec![]
            }
            (Phase::Removing, Input::StartFailed { .. } | Input::RestartDue) => vec![],
            (Phase::Removing, Input::Remove { .. }) => return denied(ErrorKind::Conflict, "removal is already in progress"),
            (Phase::Removing, _) => return denied(ErrorKind::Conflict, "is marked for removal and cannot be changed"),

            (Phase::Running { paused: true, .. }, Input::Start) => {
                return denied(ErrorKind::Conflict, "cannot start a paused container, try unpause instead");
            }
            (Phase::Running { .. }, Input::Start) => return denied(ErrorKind::NotModified, "is already running"),
            (phase, Input::Start) => {
                next.stopped_by_user = false;
                next.restart_count = 0;
                next.backoff_ms = 0;
                let mut effects = vec![Effect::Launch];
                if matches!(phase, Phase::Restarting(_)) {
                    effects.insert(0, Effect::CancelRestart);
                }
                effects
            }
            (Phase::Restarting(_), Input::RestartDue) => vec![Effect::Launch],
            (_, Input::RestartDue) => vec![],

            (_, Input::Started { pid, at }) => {
                next.phase = Phase::Running { pid, started_at: at, paused: false };
                vec![]
            }
            (_, Input::StartFailed { code, error, at }) => {
                let exit = Exit { code, oom_killed: false, error, started_at: None, finished_at: at };
                // A start asked for by a user fails to that user; only a restart by policy is tried again.
                let retry = matches!(self.phase, Phase::Restarting(_));
                let effects = next.end(exit, retry, policy, auto_remove);
                // What never ran has not exited (as in Docker); why it did not start is in `last_exit`.
                if matches!((&self.phase, &next.phase), (Phase::Created, Phase::Exited(_))) {
                    next.phase = Phase::Created;
                }
                effects
            }
            (Phase::Running { started_at, .. }, Input::Ended { code, oom_killed, at }) => {
                let exit = Exit { code, oom_killed, error: String::new(), started_at: Some(*started_at), finished_at: at };
                next.end(exit, true, policy, auto_remove)
            }
            (_, Input::Ended { .. }) => vec![],

            (Phase::Running { .. }, Input::Stop) => {
                next.stopped_by_user = true;
                vec![]
            }
            (Phase::Restarting(exit), Input::Stop) => {
                next.stopped_by_user = true;
                next.phase = Phase::Exited(exit.clone());
                vec![Effect::CancelRestart]
            }
            (_, Input::Stop) => return denied(ErrorKind::NotModified, "is not running"),
            (Phase::Running { .. }, Input::Signal) => vec![],
            (_, Input::Signal) => return denied(ErrorKind::Conflict, "is not running"),

            (Phase::Running { paused: true, .. }, Input::Pause) => return denied(ErrorKind::Conflict, "is already paused"),
            (Phase::Running { pid, started_at, .. }, Input::Pause) => {
                next.phase = Phase::Running { pid: *pid, started_at: *started_at, paused: true };
                vec![Effect::Freeze]
            }
            (Phase::Restarting(_), Input::Pause) => {
                return denied(ErrorKind::Conflict, "is restarting, wait until the container is running");
            }
            (_, Input::Pause) => return denied(ErrorKind::Conflict, "is not running"),
            (Phase::Running { pid, started_at, paused: true }, Input::Unpause) => {
                next.phase = Phase::Running { pid: *pid, started_at: *started_at, paused: false };
                vec![Effect::Thaw]
            }
            (_, Input::Unpause) => return denied(ErrorKind::Conflict, "is not paused"),

            (Phase::Running { paused: true, .. }, Input::Remove { force: false }) => {
                return denied(ErrorKind::Conflict, "container is paused and must be unpaused first");
            }
            (Phase::Running { .. }, Input::Remove { force: false }) => {
                return denied(ErrorKind::Conflict, "container is running: stop the container before removing or force remove");
            }
            (Phase::Restarting(_), Input::Remove { force: false }) => {
                return denied(ErrorKind::Conflict, "container is restarting: stop the container before removing or force remove");
            }
            (phase, Input::Remove { .. }) => {
                let running = matches!(phase, Phase::Running { .. });
                next.phase = Phase::Removing;
                if running { vec![Effect::KillAll, Effect::Release, Effect::Delete] } else { vec![Effect::CancelRestart, Effect::Delete] }
            }
        };
        Ok((next, effects))
    }

    /// The end of a run: decides between restart, removal and rest.
    fn end(&mut self, exit: Exit, may_restart: bool, policy: &RestartPolicy, auto_remove: bool) -> Vec<Effect> {
        let mut effects = vec![Effect::Release];
        self.exits += 1;
        self.last_exit = Some(exit.clone());
        let again = may_restart && !self.stopped_by_user && self.wants_restart(&exit, policy);
        if again {
            let ran = exit
                .started_at
                .map_or(Duration::ZERO, |started| Duration::try_from(exit.finished_at.duration_since(started)).unwrap_or(Duration::ZERO));
            let delay = match Duration::from_millis(self.backoff_ms) {
                _ if ran >= BACKOFF_RESET => BACKOFF_FIRST,
                Duration::ZERO => BACKOFF_FIRST,
                last => (last * 2).min(BACKOFF_MAX),
            };
            self.backoff_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
            // Counted when it is decided, as Docker does: who looks during the wait sees the restart to come.
            self.restart_count += 1;
            self.phase = Phase::Restarting(exit);
            effects.push(Effect::ScheduleRestart(delay));
        } else if auto_remove {
            self.phase = Phase::Removing;
            effects.push(Effect::Delete);
        } else {
            self.phase = Phase::Exited(exit);
        }
        effects
    }

    fn wants_restart(&self, exit: &Exit, policy: &RestartPolicy) -> bool {
        match policy.mode {
            RestartMode::No => false,
            RestartMode::Always | RestartMode::UnlessStopped => true,
            RestartMode::OnFailure => exit.code != 0 && (policy.maximum_retries == 0 || self.restart_count < policy.maximum_retries),
        }
    }

    /// Whether the daemon's start brings this container up again, given that it is found not running.
    pub fn starts_with_daemon(&self, policy: &RestartPolicy) -> bool {
        match (&self.phase, policy.mode) {
            (Phase::Created | Phase::Removing, _) | (_, RestartMode::No) => false,
            (_, RestartMode::Always) => true,
            (_, RestartMode::UnlessStopped) => !self.stopped_by_user,
            (Phase::Restarting(_), RestartMode::OnFailure) => true,
            (_, RestartMode::OnFailure) => false,
        }
    }

    /// The pid, while there is one.
    pub fn pid(&self) -> Option<i32> {
        match self.phase {
            Phase::Running { pid, .. } => Some(pid),
            _ => None,
        }
    }

    /// True while the first process lives, frozen or not.
    pub fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running { .. })
    }

    /// True while frozen.
    pub fn is_paused(&self) -> bool {
        matches!(self.phase, Phase::Running { paused: true, .. })
    }

    /// Docker's word for the phase: created, running, paused, restarting, exited, removing.
    pub fn status(&self) -> &'static str {
        match self.phase {
            Phase::Created => "created",
            Phase::Running { paused: true, .. } => "paused",
            Phase::Running { .. } => "running",
            Phase::Restarting(_) => "restarting",
            Phase::Exited(_) => "exited",
            Phase::Removing => "removing",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn policy(mode: RestartMode, maximum_retries: u32) -> RestartPolicy {
        RestartPolicy { mode, maximum_retries }
    }

    fn run(state: &State, inputs: &[Input], policy: &RestartPolicy, auto_remove: bool) -> (State, Vec<Effect>) {
        inputs.iter().fold((state.clone(), vec![]), |(state, _), input| state.apply(input.clone(), policy, auto_remove).unwrap())
    }

    fn started() -> Input {
        Input::Started { pid: 7, at: at(0) }
    }

    fn ended(code: i32, second: i64) -> Input {
        Input::Ended { code, oom_killed: false, at: at(second) }
    }

    #[test]
    fn an_ordinary_life() {
        let never = policy(RestartMode::No, 0);
        let (state, effects) = run(&State::default(), &[Input::Start], &never, false);
        assert_eq!(effects, [Effect::Launch]);
        let (state, _) = run(&state, &[started()], &never, false);
        assert_eq!(state.pid(), Some(7));
        let (state, effects) = run(&state, &[ended(3, 1)], &never, false);
        assert_eq!((state.status(), effects), ("exited", vec![Effect::Release]));
        assert_eq!(state.last_exit.as_ref().map(|exit| exit.code), Some(3));
        let (state, effects) = run(&state, &[Input::Remove { force: false }], &never, false);
        assert_eq!(state.status(), "removing");
        assert!(effects.contains(&Effect::Delete));
    }

    #[test]
    fn backoff_doubles_is_capped_and_resets() {
        let always = policy(RestartMode::Always, 0);
        let mut state = run(&State::default(), &[Input::Start, started()], &always, false).0;
        let mut delays = vec![];
        for _ in 0..12 {
            let (next, effects) = run(&state, &[ended(1, 1)], &always, false);
            let [Effect::Release, Effect::ScheduleRestart(delay)] = effects[..] else { panic!("{effects:?}") };
            delays.push(delay.as_millis());
            state = run(&next, &[Input::RestartDue, started()], &always, false).0;
        }
        assert_eq!(delays[..5], [100, 200, 400, 800, 1600]);
        assert_eq!(*delays.last().unwrap(), 60_000);
        assert_eq!(state.restart_count, 12);
        assert_eq!(run(&state, &[ended(1, 1)], &always, false).0.restart_count, 13, "the wait counts already");
        let (_, effects) = run(&state, &[ended(1, 10)], &always, false);
        assert_eq!(effects[1], Effect::ScheduleRestart(BACKOFF_FIRST));
    }

    #[test]
    fn on_failure_counts() {
        let twice = policy(RestartMode::OnFailure, 2);
        let mut state = run(&State::default(), &[Input::Start, started()], &twice, false).0;
        for _ in 0..2 {
            state = run(&state, &[ended(1, 1), Input::RestartDue, started()], &twice, false).0;
        }
        assert_eq!(run(&state, &[ended(1, 1)], &twice, false).0.status(), "exited");
        assert_eq!(run(&state, &[ended(0, 1)], &twice, false).0.status(), "exited");
    }

    #[test]
    fn a_stop_by_the_user_is_final() {
        let always = policy(RestartMode::Always, 0);
        let state = run(&State::default(), &[Input::Start, started(), Input::Stop, ended(0, 1)], &always, false).0;
        assert_eq!(state.status(), "exited");
        assert!(!state.starts_with_daemon(&policy(RestartMode::UnlessStopped, 0)));
        assert!(state.starts_with_daemon(&always));
        let (state, effects) = run(&State::default(), &[Input::Start, started(), ended(0, 1), Input::Stop], &always, false);
        assert_eq!((state.status(), effects), ("exited", vec![Effect::CancelRestart]));
    }

    #[test]
    fn auto_remove_deletes_after_the_run_and_after_a_failed_start() {
        let never = policy(RestartMode::No, 0);
        let (state, effects) = run(&State::default(), &[Input::Start, started(), ended(0, 1)], &never, true);
        assert_eq!((state.status(), effects), ("removing", vec![Effect::Release, Effect::Delete]));
        let failed = Input::StartFailed { code: 127, error: "x".into(), at: at(0) };
        assert_eq!(run(&State::default(), &[Input::Start, failed], &never, true).0.status(), "removing");
    }

    #[test]
    fn refusals() {
        let never = policy(RestartMode::No, 0);
        let running = run(&State::default(), &[Input::Start, started()], &never, false).0;
        let paused = run(&running, &[Input::Pause], &never, false).0;
        for (state, input, kind) in [
            (&running, Input::Start, ErrorKind::NotModified),
            (&running, Input::Remove { force: false }, ErrorKind::Conflict),
            (&running, Input::Unpause, ErrorKind::Conflict),
            (&paused, Input::Pause, ErrorKind::Conflict),
            (&paused, Input::Start, ErrorKind::Conflict),
            (&State::default(), Input::Stop, ErrorKind::NotModified),
            (&State::default(), Input::Signal, ErrorKind::Conflict),
            (&State::default(), Input::Pause, ErrorKind::Conflict),
        ] {
            assert_eq!(state.apply(input.clone(), &never, false).unwrap_err().kind, kind, "{state:?} {input:?}");
        }
    }

    fn any_input() -> impl Strategy<Value = Input> {
        prop_oneof![
            Just(Input::Start),
            (1..100i32, 0..1000i64).prop_map(|(pid, s)| Input::Started { pid, at: at(s) }),
            (0..1000i64).prop_map(|s| Input::StartFailed { code: 127, error: "e".into(), at: at(s) }),
            (0..256i32, 0..1000i64).prop_map(|(code, s)| ended(code, s)),
            Just(Input::Stop),
            Just(Input::Signal),
            Just(Input::Pause),
            Just(Input::Unpause),
            Just(Input::RestartDue),
            any::<bool>().prop_map(|force| Input::Remove { force }),
        ]
    }

    proptest! {
        #[test]
        fn removal_is_final_and_counters_only_grow(inputs in proptest::collection::vec(any_input(), 0..40), auto_remove: bool) {
            let always = policy(RestartMode::Always, 0);
            let mut state = State::default();
            for input in inputs {
                let before = state.clone();
                if let Ok((next, effects)) = state.apply(input.clone(), &always, auto_remove) {
                    prop_assert!(next.exits >= before.exits);
                    if before.phase == Phase::Removing && !matches!(input, Input::Started { .. }) {
                        prop_assert_eq!(&next.phase, &Phase::Removing);
                    }
                    prop_assert_eq!(effects.contains(&Effect::Delete), next.phase == Phase::Removing && before.phase != Phase::Removing);
                    prop_assert!(next.backoff_ms <= BACKOFF_MAX.as_millis() as u64);
                    state = next;
                }
            }
        }
    }
}
