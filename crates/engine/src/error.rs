//! What can go wrong in the engine. The texts are Docker's where clients match on them (moby `daemon/errors.go`).

use naru_types::{ContainerId, ErrorKind};
use std::path::PathBuf;

/// A failed request to the engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No container of that id, name or prefix.
    #[error("No such container: {0}")]
    NoSuchContainer(String),
    /// An id prefix that several containers share.
    #[error("Multiple IDs found with provided prefix: {0}")]
    AmbiguousContainer(String),
    /// No exec of that id.
    #[error("No such exec instance: {0}")]
    NoSuchExec(String),
    /// No volume of that name.
    #[error("get {0}: no such volume")]
    NoSuchVolume(String),
    /// No network of that name or id.
    #[error("network {0} not found")]
    NoSuchNetwork(String),
    /// The name belongs to another container.
    #[error(
        "Conflict. The container name \"/{name}\" is already in use by container \"{holder}\". You have to remove (or rename) that container to be able to reuse that name."
    )]
    NameTaken {
        /// The name asked for.
        name: String,
        /// Who has it.
        holder: ContainerId,
    },
    /// The container's state does not allow it.
    #[error("{text}")]
    Denied {
        /// What was refused and why.
        text: String,
        /// The class of refusal.
        kind: ErrorKind,
    },
    /// The process could not be started.
    #[error("failed to create task for container: {message}")]
    StartFailed {
        /// The runtime's words.
        message: String,
        /// 126, 127 or 128.
        exit_code: i32,
    },
    /// The request itself is wrong.
    #[error("{0}")]
    Invalid(String),
    /// A value could not be parsed.
    #[error(transparent)]
    Parse(#[from] naru_types::ParseError),
    /// The image store failed.
    #[error(transparent)]
    Store(#[from] naru_store::Error),
    /// The runtime failed.
    #[error(transparent)]
    Runtime(#[from] naru_runtime::Error),
    /// The network failed.
    #[error(transparent)]
    Net(#[from] naru_net::Error),
    /// A registry, or the way to it, failed.
    #[error(transparent)]
    Registry(#[from] naru_registry::Error),
    /// The state database failed.
    #[error("the state database failed")]
    Db(#[from] rusqlite::Error),
    /// A record in the state database is of a version this program does not know.
    #[error(
        "state database {path}: written by a newer naru (format {found}, this one knows {known}); use that version or another --data-root"
    )]
    NewerFormat {
        /// The database.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The newest format known here.
        known: i64,
    },
    /// A system call failed.
    #[error("{what} {path}")]
    Io {
        /// What was attempted.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A part of the engine ended while it was asked.
    #[error("{0} ended while handling the request; try again")]
    Gone(&'static str),
}

/// An error with its causes, joined by colons: what a user reads.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.downcast_ref::<std::io::Error>().map_or_else(|| error.to_string(), words);
        // Some libraries repeat their cause.
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}

/// The words for a failed system call as Go's programs write them, which clients know: lower case, without the number.
pub fn words(error: &std::io::Error) -> String {
    let text = error.to_string();
    match error.raw_os_error() {
        Some(_) => text.split(" (os error").next().unwrap_or_default().to_lowercase(),
        None => text,
    }
}

/// A result of the engine.
pub type Result<T> = std::result::Result<T, EngineError>;

impl EngineError {
    /// An [`EngineError::Io`] about `path`.
    pub fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| EngineError::Io { what, path, source }
    }

    /// A refusal because of the present state.
    pub fn conflict(text: impl Into<String>) -> Self {
        EngineError::Denied { text: text.into(), kind: ErrorKind::Conflict }
    }

    /// A request that makes no sense.
    pub fn invalid(text: impl Into<String>) -> Self {
        EngineError::Invalid(text.into())
    }

    /// The class of the failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            EngineError::NoSuchContainer(_) | EngineError::NoSuchExec(_) | EngineError::NoSuchVolume(_) | EngineError::NoSuchNetwork(_) => {
                ErrorKind::NotFound
            }
            EngineError::AmbiguousContainer(_) | EngineError::Invalid(_) => ErrorKind::InvalidArgument,
            EngineError::NameTaken { .. } => ErrorKind::Conflict,
            EngineError::Denied { kind, .. } => *kind,
            EngineError::StartFailed { exit_code: 126 | 127, .. } => ErrorKind::InvalidArgument,
            EngineError::Parse(error) => error.kind(),
            EngineError::Store(error) => error.kind(),
            EngineError::Runtime(error) => error.kind(),
            EngineError::Net(error) => error.kind(),
            EngineError::Registry(error) => error.kind(),
            EngineError::StartFailed { .. }
            | EngineError::Db(_)
            | EngineError::NewerFormat { .. }
            | EngineError::Io { .. }
            | EngineError::Gone(_) => ErrorKind::Internal,
        }
    }
}
