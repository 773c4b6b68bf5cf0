//! The one place where an error becomes an HTTP answer (moby `daemon/server/httpstatus`).

use super::body::{self, Response};
use http::StatusCode;
use naru_engine::EngineError;
use naru_types::ErrorKind;

/// An error on its way to a client.
#[derive(Debug)]
pub struct ApiError {
    /// The class, which decides the status.
    pub kind: ErrorKind,
    /// The text, in Docker's words where clients match on them.
    pub message: String,
}

/// A result of a handler.
pub type Result<T> = std::result::Result<T, ApiError>;

impl ApiError {
    /// An error of `kind` with `message`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        ApiError { kind, message: message.into() }
    }

    /// A request that makes no sense.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument, message)
    }

    /// Something that is not built.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// The status of the class.
    pub fn status(&self) -> StatusCode {
        match self.kind {
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::InvalidArgument => StatusCode::BAD_REQUEST,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::NotModified => StatusCode::NOT_MODIFIED,
            ErrorKind::Forbidden => StatusCode::FORBIDDEN,
            ErrorKind::Unauthorized => StatusCode::UNAUTHORIZED,
            ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
            ErrorKind::Cancelled => StatusCode::from_u16(499).expect("three digits"),
            ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The answer: `{"message": …}`; a 304 has no body.
    pub fn response(&self) -> Response {
        if self.kind == ErrorKind::NotModified {
            return body::empty(StatusCode::NOT_MODIFIED);
        }
        body::json(self.status(), &naru_api::models::ErrorResponse { message: self.message.clone() })
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let message = match &error {
            // Clients know the text with the tag that was meant.
            EngineError::Store(naru_store::Error::NoSuchImage { query }) => match naru_types::ImageRef::parse(query) {
                Ok(name) if naru_types::ImageRef::is_bare(query) => format!("No such image: {}", name.tagged().familiar()),
                _ => format!("No such image: {query}"),
            },
            other => naru_engine::chain(other),
        };
        ApiError { kind: error.kind(), message }
    }
}

impl From<naru_store::Error> for ApiError {
    fn from(error: naru_store::Error) -> Self {
        EngineError::from(error).into()
    }
}

impl From<naru_types::ParseError> for ApiError {
    fn from(error: naru_types::ParseError) -> Self {
        ApiError { kind: error.kind(), message: error.to_string() }
    }
}

impl From<naru_api::json::JsonError> for ApiError {
    fn from(error: naru_api::json::JsonError) -> Self {
        ApiError { kind: error.kind(), message: error.to_string() }
    }
}

impl From<naru_api::filters::FilterError> for ApiError {
    fn from(error: naru_api::filters::FilterError) -> Self {
        ApiError { kind: error.kind(), message: error.to_string() }
    }
}
