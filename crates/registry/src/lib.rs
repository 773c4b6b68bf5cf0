//! Everything that travels between a registry and the store.
mod config;
mod connect;
mod error;
pub mod headers;
mod http;
mod resolve;
mod tls;
mod url;
pub use config::{Credentials, Proxies, RegistryConfig};
pub use error::{Error, Refusal, Result, TransportError};
