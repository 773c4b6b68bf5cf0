//! Credentials for registries.

use super::is_zero;

/// Credentials as `X-Registry-Auth` and `POST /auth` carry them.
#[derive(Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct AuthConfig {
    #[serde(skip_serializing_if = "is_zero")]
    pub username: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub password: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub auth: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub email: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub serveraddress: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub identitytoken: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub registrytoken: String,
}

impl std::fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthConfig").field("username", &self.username).field("serveraddress", &self.serveraddress).finish_non_exhaustive()
    }
}

/// Answer of `POST /auth`.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct AuthResponse {
    pub status: String,
    pub identity_token: String,
}
