//! Links and firewall on the real kernel, each test in network namespaces of its own. Needs root.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod children;
mod claim;
mod cycles;
mod dns;
mod firewall;
mod foreign;
mod links;
mod modes;
mod shortcut;
mod support;
