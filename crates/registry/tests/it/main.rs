//! The client against Debian's docker-registry: as it is, behind a proxy that spoils things, with TLS and with logins.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod auth;
mod faults;
mod hostile;
mod lies;
mod proxies;
mod proxy;
mod pull;
mod push;
mod support;
mod tls;
