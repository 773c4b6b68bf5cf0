//! Everything that travels between a registry and the store: pull, push, login, search (OCI distribution-spec, and what
//! Docker's registries do besides).
//!
//! ```text
//! client    settings, memory, questions without a store      pull, push   images from and to the store
//!   │                                                          │  blob      bytes for the store's threads, opened again
//!   │                                                          │  upload    one blob to a registry
//!   └──────────────┬───────────────────────────────────────────┘  flight    the same work at once is done once
//! session   one registry, one repository: authorization, manifests, blobs, lists
//!   │  auth        challenges and tokens
//! http      one request: time limits, redirects, sizes, attempts
//!   │
//! connect   resolve (DNS without the C library), tls (certs.d), proxies
//! ```
//!
//! Nothing a registry says is believed: every digest is computed, every size has a bound, every wait an end. What a pull
//! brought before it failed stays in the store for the next one; an image appears whole or not at all.
//!
//! Deliberately absent: reading Docker's configuration and credential files (that is the client program's), and any state
//! on disk.

#![warn(missing_docs)]

mod auth;
mod blob;
mod client;
mod config;
mod connect;
mod error;
mod event;
mod flight;
pub mod headers;
mod http;
pub mod manifest;
mod pull;
mod push;
mod resolve;
mod search;
mod session;
mod tls;
mod upload;
mod url;

pub use client::{BlobStream, Client, LoginOutcome, ManifestInfo};
pub use config::{Credentials, Proxies, RegistryConfig};
pub use error::{Error, Refusal, Result, TransportError};
pub use event::{LayerState, Line, PullEvent, PushEvent, UploadState};
pub use pull::{PullOptions, Pulled};
pub use push::{PushOptions, Pushed};
pub use search::{SearchFilters, SearchResult};
