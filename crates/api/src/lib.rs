//! The Docker Engine API as data and as a client: wire structs, Go-like JSON, versions, filters, stream frames,
//! and a typed client over unix sockets and TCP. Routes and behaviour live in the daemon.

pub mod client;
pub mod filters;
pub mod frames;
pub mod json;
pub mod models;
pub mod query;
pub mod version;

pub use client::Client;
pub use filters::Filters;
pub use query::Query;
pub use version::ApiVersion;
