//! Errors of the store: one enum, each variant names what was attempted and on what.

use naru_types::{Digest, ErrorKind, ParseError};
use std::fmt;
use std::io;

/// What went wrong in the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No image answers to the name or id. The text is the one users of Docker know.
    #[error("No such image: {query}")]
    NoSuchImage {
        /// As it was asked for.
        query: String,
    },
    /// An id prefix that several images share.
    #[error("image id prefix {prefix} is ambiguous: {count} images have it")]
    Ambiguous {
        /// As it was asked for.
        prefix: String,
        /// How many images match.
        count: usize,
    },
    /// An image cannot be removed or changed now.
    #[error("conflict: unable to {action} {image} - {reason}")]
    Conflict {
        /// What was attempted.
        action: &'static str,
        /// The image as it was named.
        image: String,
        /// Why not.
        reason: String,
    },
    /// The container has no file system here.
    #[error("no file system of container {id} in the store")]
    NoSuchSnapshot {
        /// The container.
        id: String,
    },
    /// The container has a file system already.
    #[error("container {id} already has a file system in the store")]
    SnapshotExists {
        /// The container.
        id: String,
    },
    /// An archive or image from outside is not valid.
    #[error("invalid {what}: {reason}")]
    Invalid {
        /// What was read, e.g. `image archive`, `manifest sha256:…`.
        what: String,
        /// Why it is refused.
        reason: String,
    },
    /// An entry of a tar stream is refused.
    #[error("tar entry {entry:?} is refused: {reason}")]
    Entry {
        /// The entry's name, made printable and cut.
        entry: String,
        /// Why.
        reason: String,
    },
    /// Content does not have the digest it was announced with.
    #[error("{what} has digest {found}, expected {expected}")]
    DigestMismatch {
        /// What was read.
        what: String,
        /// As announced.
        expected: Digest,
        /// As computed.
        found: Digest,
    },
    /// A limit that protects the host is exceeded.
    #[error("{what} is larger than the limit of {limit}")]
    TooLarge {
        /// What was read.
        what: String,
        /// The limit with its unit.
        limit: String,
    },
    /// Writing on would leave the file system without its reserve.
    #[error("not enough space in {path}: {free} {unit} are free and {reserve} are kept as reserve")]
    NoSpace {
        /// The root of the store.
        path: String,
        /// `bytes`, or `inodes`, which small files use up first.
        unit: &'static str,
        /// How many are free.
        free: u64,
        /// How many are to be kept.
        reserve: u64,
    },
    /// A path inside a container or image is absent.
    #[error("Could not find the file {path} in the file system")]
    NoSuchPath {
        /// The path as asked for.
        path: String,
    },
    /// A path inside a container cannot be used as asked.
    #[error("cannot use {path}: {reason}")]
    BadPath {
        /// The path as asked for.
        path: String,
        /// Why.
        reason: String,
    },
    /// A text argument does not parse.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// An image or archive has nothing for the platforms asked for.
    #[error("{what} has no image for {platform}")]
    NoSuchPlatform {
        /// What was looked through.
        what: String,
        /// The platforms asked for.
        platform: String,
    },
    /// A change like `ENV a=b` does not parse.
    #[error("invalid change {text:?}: {reason}")]
    Change {
        /// The change as given.
        text: String,
        /// Why.
        reason: String,
    },
    /// The metadata database failed.
    #[error("cannot {action} the image database")]
    Database {
        /// What was attempted.
        action: &'static str,
        /// SQLite's error.
        source: rusqlite::Error,
    },
    /// The database was written by a newer version.
    #[error("the image database has format {found}, this version reads up to {supported}")]
    Format {
        /// On disk.
        found: i64,
        /// In this program.
        supported: i64,
    },
    /// The kernel or the disk refused.
    #[error("cannot {action} {path}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: String,
        /// The system's error.
        source: io::Error,
    },
    /// Reading from the client or writing to it failed.
    #[error("cannot {action} the stream")]
    Stream {
        /// `read` or `write`.
        action: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

impl Error {
    /// The class of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            // None is meant that clients could know: they go on to look for a name in a registry.
            Error::Ambiguous { .. }
            | Error::NoSuchImage { .. }
            | Error::NoSuchSnapshot { .. }
            | Error::NoSuchPath { .. }
            | Error::NoSuchPlatform { .. } => ErrorKind::NotFound,
            Error::Conflict { .. } | Error::SnapshotExists { .. } => ErrorKind::Conflict,
            Error::Invalid { .. }
            | Error::Entry { .. }
            | Error::DigestMismatch { .. }
            | Error::BadPath { .. }
            | Error::Parse(_)
            | Error::Change { .. } => ErrorKind::InvalidArgument,
            Error::TooLarge { .. } => ErrorKind::TooLarge,
            Error::NoSpace { .. } => ErrorKind::Unavailable,
            Error::Format { .. } => ErrorKind::Unsupported,
            Error::Stream { .. } => ErrorKind::InvalidArgument,
            Error::Database { .. } | Error::Io { .. } => ErrorKind::Internal,
        }
    }

    pub(crate) fn invalid(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Error::Invalid { what: what.into(), reason: reason.into() }
    }

    pub(crate) fn entry(entry: &[u8], reason: impl Into<String>) -> Self {
        Error::Entry { entry: printable(entry), reason: reason.into() }
    }

    /// The error for a failed `read`: our own errors travel through `io::Error` of wrapped readers unharmed.
    pub(crate) fn from_read(source: io::Error) -> Self {
        Self::from_stream("read", source)
    }

    pub(crate) fn from_write(source: io::Error) -> Self {
        Self::from_stream("write", source)
    }

    fn from_stream(action: &'static str, source: io::Error) -> Self {
        if source.get_ref().is_some_and(|inner| inner.is::<Error>()) {
            let inner = source.into_inner().expect("get_ref has just shown an inner error");
            return *inner.downcast::<Error>().expect("is::<Error>() has just held");
        }
        Error::Stream { action, source }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        io::Error::other(error)
    }
}

/// The store's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Adds what was attempted, and on what, to an error of the system.
pub(crate) trait At<T> {
    fn at(self, action: &'static str, path: impl fmt::Display) -> Result<T>;
}

impl<T> At<T> for rustix::io::Result<T> {
    fn at(self, action: &'static str, path: impl fmt::Display) -> Result<T> {
        self.map_err(|errno| Error::Io { action, path: path.to_string(), source: errno.into() })
    }
}

impl<T> At<T> for io::Result<T> {
    fn at(self, action: &'static str, path: impl fmt::Display) -> Result<T> {
        self.map_err(|source| {
            if source.get_ref().is_some_and(|inner| inner.is::<Error>()) {
                return Error::from_read(source);
            }
            Error::Io { action, path: path.to_string(), source }
        })
    }
}

pub(crate) trait Db<T> {
    fn db(self, action: &'static str) -> Result<T>;
}

impl<T> Db<T> for rusqlite::Result<T> {
    fn db(self, action: &'static str) -> Result<T> {
        self.map_err(|source| Error::Database { action, source })
    }
}

/// Bytes from outside, for an error text: lossy, without control characters, at most 200 characters.
pub(crate) fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(800)]).chars().map(|c| if c.is_control() { '?' } else { c }).take(200).collect()
}
