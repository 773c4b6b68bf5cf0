//! How a command ends badly: a message for stderr and an exit status.

use std::io;

use naru_api::client::ClientError;

/// The result of a command.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// Exit status of usage errors and of a daemon that refuses a `run`.
pub const USAGE: i32 = 125;

/// Why a command ended.
#[derive(Debug)]
pub enum Failure {
    /// Print the message to stderr, exit with the status.
    Message { code: i32, text: String },
    /// Exit with the status; everything has been said.
    Silent(i32),
    /// The reader of stdout is gone: success.
    BrokenPipe,
}

impl Failure {
    /// A message with status 1.
    pub fn message(text: impl Into<String>) -> Self {
        Self::status(1, text)
    }

    /// A message with a status.
    pub fn status(code: i32, text: impl Into<String>) -> Self {
        Self::Message { code, text: text.into() }
    }

    /// An error of writing to stdout.
    pub fn from_stdout(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::BrokenPipe } else { Self::message(format!("write stdout: {error}")) }
    }

    /// The exit status.
    pub fn code(&self) -> i32 {
        match self {
            Self::Message { code, .. } | Self::Silent(code) => *code,
            Self::BrokenPipe => 0,
        }
    }

    /// The message.
    pub fn text(&self) -> &str {
        match self {
            Self::Message { text, .. } => text,
            Self::Silent(_) | Self::BrokenPipe => "",
        }
    }

    /// Adds Docker's pointer to the help of `run` and `create`, with another status.
    pub fn with_help(self, program: &str, verb: &str, code: i32) -> Self {
        match self {
            Self::Message { text, .. } => {
                let text = format!("{program}: {text}\n\nRun '{program} {verb} --help' for more information");
                Self::Message { code, text }
            }
            other => other,
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::message(error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::message(error.to_string())
    }
}

impl From<naru_types::ParseError> for Failure {
    fn from(error: naru_types::ParseError) -> Self {
        Self::message(error.to_string())
    }
}
