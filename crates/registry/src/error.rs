//! Errors of the registry client. Texts of registries are passed on as users of Docker know them, with the fix where
//! there is one.

use naru_types::{Digest, ErrorKind, ParseError};
use std::fmt;
use std::time::Duration;

/// What went wrong between a registry and the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The registry answers that the repository is not there, or not for us.
    #[error("pull access denied for {repository}, repository does not exist or may require 'docker login': {cause}")]
    PullDenied {
        /// The repository as users write it.
        repository: String,
        /// What the registry said.
        cause: Refusal,
    },
    /// The repository has no such tag or digest.
    #[error("manifest for {reference} not found: {cause}")]
    NoSuchManifest {
        /// The reference as users write it.
        reference: String,
        /// What the registry said.
        cause: Refusal,
    },
    /// The registry knows no such repository.
    #[error("repository {repository} not found: {cause}")]
    NoSuchRepository {
        /// The repository as users write it.
        repository: String,
        /// What the registry said.
        cause: Refusal,
    },
    /// The registry refused for another reason.
    #[error("{0}")]
    Refused(Refusal),
    /// Credentials are wanted and none were given.
    #[error("{method} {url:?}: no basic auth credentials (log in with: docker login {host})")]
    NoCredentials {
        /// Of the request.
        method: String,
        /// Of the request.
        url: String,
        /// The registry.
        host: String,
    },
    /// The credentials were not accepted at login.
    #[error("login attempt to {url} failed with status: {status}")]
    Login {
        /// What was asked.
        url: String,
        /// The status and its text.
        status: String,
    },
    /// A status that nothing expects.
    #[error("received unexpected HTTP status: {status} ({method} {url})")]
    Status {
        /// Of the request.
        method: String,
        /// Of the request.
        url: String,
        /// The status and its text.
        status: String,
    },
    /// The registry has had enough of us for now.
    #[error("toomanyrequests: {message}{}", wait_hint(*.wait))]
    RateLimited {
        /// What it said.
        message: String,
        /// How long it wants us to wait.
        wait: Option<Duration>,
    },
    /// No connection could be made, or it broke.
    #[error("{method} {url:?}: {reason}")]
    Transport {
        /// Of the request.
        method: String,
        /// Of the request.
        url: String,
        /// What happened, with the fix.
        reason: TransportError,
    },
    /// The registry breaks the protocol, or tries something it must not.
    #[error("{host} answered wrongly: {reason}")]
    Protocol {
        /// The registry.
        host: String,
        /// How.
        reason: String,
    },
    /// Content is not what its digest says.
    #[error("{what} has the digest {found}, {wanted} was expected")]
    DigestMismatch {
        /// The content.
        what: String,
        /// As it was announced.
        wanted: Digest,
        /// As it came.
        found: Digest,
    },
    /// A manifest, index or config is not valid.
    #[error("invalid {what}: {reason}")]
    Invalid {
        /// What was read.
        what: String,
        /// Why it is refused.
        reason: String,
    },
    /// Something is larger than it may be.
    #[error("{what} is larger than {limit}")]
    TooLarge {
        /// What.
        what: String,
        /// The limit.
        limit: &'static str,
    },
    /// The image is in the oldest format.
    #[error(
        "[DEPRECATION NOTICE] Docker Image Format v1 and Docker Image manifest version 2, schema 1 support is disabled by default and will be removed in an upcoming release. Suggest the author of {reference} to upgrade the image to the OCI Format or Docker Image manifest v2, schema 2. More information at https://docs.docker.com/go/deprecated-image-specs/"
    )]
    Schema1 {
        /// The image.
        reference: String,
    },
    /// The index has nothing for the platform.
    #[error("no matching manifest for {platform} in the manifest list entries{hint}")]
    NoPlatform {
        /// The platform asked for.
        platform: String,
        /// Which there are.
        hint: String,
    },
    /// The image here is for another platform.
    #[error("image with reference {reference} was found but does not provide the specified platform ({platform})")]
    OtherPlatform {
        /// The image.
        reference: String,
        /// The platform asked for.
        platform: String,
    },
    /// The reference is not an image but another artifact.
    #[error("{reference} is not a container image but an artifact of the type {media_type}")]
    Artifact {
        /// The reference.
        reference: String,
        /// The media type of its config.
        media_type: String,
    },
    /// Nothing here to be pushed under this name.
    #[error("An image does not exist locally with the tag: {repository}")]
    NothingToPush {
        /// The repository as users write it.
        repository: String,
    },
    /// The tag to be pushed is not here.
    #[error("tag does not exist: {reference}")]
    NoSuchTag {
        /// The reference as users write it.
        reference: String,
    },
    /// A registry has a blob in one repository and does not give it to another.
    #[error("{to} cannot have {digest} of {from}: the registry does not share it between repositories; push the image to {to} first")]
    NotTakenOver {
        /// The blob.
        digest: Digest,
        /// The repository that has it.
        from: String,
        /// The repository that wants it.
        to: String,
    },
    /// The request makes no sense.
    #[error("{0}")]
    Request(String),
    /// A setting is wrong.
    #[error("registry setting {name} {value:?}: {reason}")]
    Config {
        /// The setting.
        name: String,
        /// Its value.
        value: String,
        /// Why it is refused.
        reason: String,
    },
    /// The store refused.
    #[error(transparent)]
    Store(#[from] naru_store::Error),
    /// A text does not parse.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// The work was given up, because nobody waits for it any more or the program ends.
    #[error("{0} was cancelled")]
    Cancelled(&'static str),
    /// The same work, done for someone else at the same time, failed.
    #[error("{0}")]
    Shared(std::sync::Arc<Error>),
}

/// The registry client's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error answer of a registry, in Docker's words: `manifest unknown: manifest unknown`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// `MANIFEST_UNKNOWN`, `DENIED`, ... as the registry writes it; empty when it gave none.
    pub code: String,
    /// Its text, made printable and cut.
    pub message: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self.code.to_ascii_lowercase().replace('_', " ");
        match (code.is_empty(), self.message.is_empty()) {
            (false, false) => write!(f, "{code}: {}", self.message),
            (false, true) => f.write_str(&code),
            (true, false) => f.write_str(&self.message),
            (true, true) => write!(f, "status {}", self.status),
        }
    }
}

impl Refusal {
    /// The class of the refusal: by its status, as the code is free text.
    pub fn kind(&self) -> ErrorKind {
        match self.status {
            401 => ErrorKind::Unauthorized,
            403 => ErrorKind::Forbidden,
            404 => ErrorKind::NotFound,
            400 | 405..=412 | 414..=428 => ErrorKind::InvalidArgument,
            413 => ErrorKind::TooLarge,
            429 | 502..=504 => ErrorKind::Unavailable,
            _ => ErrorKind::Internal,
        }
    }
}

/// Why a connection could not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// The name has no address.
    #[error("dial tcp: lookup {host}: {reason}")]
    Lookup {
        /// The name.
        host: String,
        /// Why.
        reason: String,
    },
    /// The name does not exist; asking again does not help.
    #[error("dial tcp: lookup {host}: no such host")]
    NoSuchHost {
        /// The name.
        host: String,
    },
    /// Nothing listens there.
    #[error("dial tcp {address}: connect: connection refused")]
    ConnectionRefused {
        /// The address.
        address: String,
    },
    /// The address cannot be reached.
    #[error("dial tcp {address}: {reason}")]
    Connect {
        /// The address.
        address: String,
        /// Why.
        reason: String,
    },
    /// The address must not be asked on behalf of a registry.
    #[error("{host} has the address {address}, which a registry must not send us to")]
    ForbiddenAddress {
        /// The name.
        host: String,
        /// The address.
        address: String,
    },
    /// The other side speaks plain HTTP.
    #[error("http: server gave HTTP response to HTTPS client (if that is intended, list {host} under \"insecure-registries\")")]
    PlainHttp {
        /// The registry.
        host: String,
    },
    /// The certificate is not trusted.
    #[error("tls: failed to verify certificate: x509: {reason}")]
    Certificate {
        /// Why, in the words of Go, with the fix.
        reason: String,
    },
    /// The handshake failed for another reason.
    #[error("tls: {0}")]
    Tls(String),
    /// The proxy refused.
    #[error("proxyconnect tcp: {0}")]
    Proxy(String),
    /// Nothing came for too long.
    #[error("nothing came for {} s", .0.as_secs())]
    Idle(Duration),
    /// The whole answer took too long.
    #[error("the answer came too slowly, it was not complete after {} s", .0.as_secs())]
    Slow(Duration),
    /// The answer's head has more fields or bytes than we take.
    #[error("the head of the answer is too large")]
    HeadTooLarge,
    /// The connection broke, or what came is not HTTP.
    #[error("{0}")]
    Broken(String),
}

impl TransportError {
    /// Trying again can help.
    pub(crate) fn is_transient(&self) -> bool {
        !matches!(
            self,
            TransportError::NoSuchHost { .. }
                | TransportError::ForbiddenAddress { .. }
                | TransportError::PlainHttp { .. }
                | TransportError::Certificate { .. }
                | TransportError::Tls(_)
                | TransportError::HeadTooLarge
        )
    }

    /// Trying again at once hardly helps: nobody is there.
    pub(crate) fn is_absence(&self) -> bool {
        matches!(self, TransportError::ConnectionRefused { .. } | TransportError::Lookup { .. })
    }
}

impl Error {
    /// The class of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::PullDenied { .. }
            | Error::NoSuchManifest { .. }
            | Error::NoSuchRepository { .. }
            | Error::NoPlatform { .. }
            | Error::OtherPlatform { .. }
            | Error::NothingToPush { .. }
            | Error::NoSuchTag { .. }
            | Error::NotTakenOver { .. } => ErrorKind::NotFound,
            Error::Refused(refusal) => refusal.kind(),
            // Not "unauthorized": upon that the docker CLI asks for a name and a password, even without a terminal.
            Error::NoCredentials { .. } => ErrorKind::Forbidden,
            Error::Login { .. } => ErrorKind::Unauthorized,
            Error::RateLimited { .. } => ErrorKind::Unavailable,
            Error::Transport { .. } | Error::Status { .. } | Error::Protocol { .. } | Error::DigestMismatch { .. } => ErrorKind::Internal,
            Error::Invalid { .. } | Error::Schema1 { .. } | Error::Artifact { .. } | Error::Request(_) | Error::Config { .. } => {
                ErrorKind::InvalidArgument
            }
            Error::TooLarge { .. } => ErrorKind::TooLarge,
            Error::Store(error) => error.kind(),
            Error::Parse(error) => error.kind(),
            Error::Cancelled(_) => ErrorKind::Cancelled,
            Error::Shared(error) => error.kind(),
        }
    }

    /// The error itself, also when it came to us through work that was shared.
    pub fn root(&self) -> &Error {
        match self {
            Error::Shared(error) => error.root(),
            error => error,
        }
    }

    /// The image is wrong, not the way to it: another attempt would end the same, so nothing of it is worth keeping. A registry
    /// that breaks the protocol, or the storage it sends us to, says nothing against what others have sent.
    pub(crate) fn condemns(&self) -> bool {
        match self {
            Error::Invalid { .. } | Error::DigestMismatch { .. } | Error::TooLarge { .. } => true,
            Error::Store(error) => matches!(error.kind(), ErrorKind::InvalidArgument | ErrorKind::TooLarge),
            _ => false,
        }
    }

    pub(crate) fn protocol(host: &str, reason: impl Into<String>) -> Self {
        Error::Protocol { host: host.to_owned(), reason: reason.into() }
    }

    pub(crate) fn invalid(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Error::Invalid { what: what.into(), reason: reason.into() }
    }

    /// Another attempt can succeed.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Error::Transport { reason, .. } => reason.is_transient(),
            Error::Status { status, .. } => matches!(status.get(..3), Some("500" | "502" | "503" | "504" | "408")),
            Error::Refused(refusal) => matches!(refusal.status, 408 | 500 | 502 | 503 | 504),
            Error::RateLimited { wait, .. } => wait.is_none_or(|wait| wait <= LONGEST_WAIT),
            _ => false,
        }
    }
}

/// What a registry may ask us to wait between two attempts.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(60);

fn wait_hint(wait: Option<Duration>) -> String {
    let long = wait.filter(|wait| *wait > LONGEST_WAIT);
    long.map(|wait| format!(" (the registry asks to wait {} s; try again then, or log in for higher limits)", wait.as_secs()))
        .unwrap_or_default()
}

/// Text from outside, for messages: without control characters, at most `limit` characters.
pub(crate) fn printable(text: &str, limit: usize) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(limit).collect()
}
