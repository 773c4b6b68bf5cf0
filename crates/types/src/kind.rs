//! What sort of failure an error is; one place (the daemon, the CLI) turns the kind into a code.

/// The class of an error, decided where the error is defined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum ErrorKind {
    /// The object named does not exist (HTTP 404).
    NotFound,
    /// The request makes no sense (HTTP 400).
    InvalidArgument,
    /// The request contradicts the present state (HTTP 409).
    Conflict,
    /// Nothing to do: already in the state asked for (HTTP 304).
    NotModified,
    /// Not allowed, whoever asks (HTTP 403).
    Forbidden,
    /// Not allowed without other credentials (HTTP 401).
    Unauthorized,
    /// Cannot be served now (HTTP 503).
    Unavailable,
    /// Not built, or not possible on this host (HTTP 501).
    Unsupported,
    /// The asker went away (HTTP 499).
    Cancelled,
    /// A limit of size or count is exceeded (HTTP 413).
    TooLarge,
    /// Everything else (HTTP 500).
    Internal,
}

/// A text from outside that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {what} {input:?}: {reason}")]
pub struct ParseError {
    /// What was being read, e.g. `image reference`.
    pub what: &'static str,
    /// The text as given, cut to a printable length.
    pub input: String,
    /// Why it was refused.
    pub reason: String,
}

impl ParseError {
    /// An error about `input`, which is cut to 128 characters so that hostile texts stay out of logs.
    pub fn new(what: &'static str, input: &str, reason: impl Into<String>) -> Self {
        ParseError { what, input: input.chars().take(128).collect(), reason: reason.into() }
    }

    /// Always [`ErrorKind::InvalidArgument`].
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidArgument
    }
}
