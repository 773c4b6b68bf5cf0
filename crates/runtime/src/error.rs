//! Errors of the runtime and why a process could not be started.

use naru_types::ErrorKind;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Everything that can go wrong here.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call on a path.
    #[error("{action} {}: {errno}", path.display())]
    Path {
        /// What was attempted, e.g. `create`.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        errno: Errno,
    },
    /// A system call without a path.
    #[error("{action}: {errno}")]
    System {
        /// What was attempted.
        action: &'static str,
        /// Why not.
        errno: Errno,
    },
    /// The kernel does not take a limit: what was written, to which file, and why not.
    #[error("{0}")]
    Limit(String),
    /// The specification asks for something that makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The host cannot do what is asked.
    #[error("{0}")]
    Unsupported(String),
    /// The container's process could not be started.
    #[error("{0}")]
    Start(StartFailure),
    /// A monitor, or the spawner, does not answer.
    #[error("{0}")]
    Unavailable(String),
    /// The container is in another state.
    #[error("{0}")]
    Conflict(String),
    /// No such container, exec or user.
    #[error("{0}")]
    NotFound(String),
}

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The class of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Path { errno: Errno::NOENT, .. } | Error::NotFound(_) => ErrorKind::NotFound,
            Error::Path { .. } | Error::System { .. } | Error::Limit(_) => ErrorKind::Internal,
            Error::Invalid(_) | Error::Start(_) => ErrorKind::InvalidArgument,
            Error::Unsupported(_) => ErrorKind::Unsupported,
            Error::Unavailable(_) => ErrorKind::Unavailable,
            Error::Conflict(_) => ErrorKind::Conflict,
        }
    }

    pub(crate) fn path(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(Errno) -> Error {
        let path = path.into();
        move |errno| Error::Path { action, path, errno }
    }

    pub(crate) fn system(action: &'static str) -> impl FnOnce(Errno) -> Error {
        move |errno| Error::System { action, errno }
    }

    pub(crate) fn io(action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
        move |error| Error::System { action, errno: errno_of(&error) }
    }
}

/// The errno of a standard library error; `EIO` for those that have none.
pub(crate) fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO))
}

/// The class of a failed start; decides the exit code a client shows (127, 126, 128).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureReason {
    /// The program, its interpreter or the working directory does not exist: 127.
    NotFound,
    /// The program may not be executed: 126.
    PermissionDenied,
    /// The container (or exec) named is not there or not running.
    NotRunning,
    /// The request makes no sense.
    Invalid,
    /// Everything else: 128 for a run, 126 for an exec.
    Other,
}

/// A failed start in Docker's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartFailure {
    /// The class.
    pub reason: FailureReason,
    /// The text, without the chain of runtime names that Docker puts before it.
    pub message: String,
}

impl std::fmt::Display for StartFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl StartFailure {
    pub(crate) fn other(message: impl Into<String>) -> StartFailure {
        StartFailure { reason: FailureReason::Other, message: message.into() }
    }
}

impl From<Error> for StartFailure {
    fn from(error: Error) -> StartFailure {
        match error {
            Error::Start(failure) => failure,
            Error::Invalid(message) => StartFailure { reason: FailureReason::Invalid, message },
            other => StartFailure::other(other.to_string()),
        }
    }
}

/// Best effort: the call site says why its failure does not matter.
pub(crate) fn ignore<T, E>(_result: std::result::Result<T, E>) {}
