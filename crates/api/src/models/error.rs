//! The one shape of errors.

/// `{"message": "…"}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct ErrorResponse {
    pub message: String,
}
