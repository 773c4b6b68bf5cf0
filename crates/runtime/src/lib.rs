//! The container runtime: from an OCI specification to a running process, and the monitor that stays with it.
//!
//! ```text
//! daemon ── Spawner::start ──seqpacket──▶ spawner ──fork──▶ monitor ──clone3──▶ container process
//!    └────────── Watch connection, attach and exec streams ────┘
//! ```
//!
//! - [`spec`], [`defaults`]: what to run
//! - [`user`], [`seccomp`], [`apparmor`], [`selinux`], [`cgroup`]: parts of the plan
//! - `plan`, `child`, `rootfs`, `mounts`: everything computed before the clone, and what the child then does
//! - [`spawner`], [`monitor`]: the processes around a container
//! - [`oci`]: the same runtime as an OCI command line (`naru oci`)
//!
//! Nothing here uses threads or an async runtime: the spawner and the monitors fork.

#![warn(missing_docs)]

pub mod apparmor;
mod bytes;
pub mod cgroup;
mod child;
pub mod defaults;
mod error;
mod exec;
mod handshake;
mod hooks;
mod identity;
mod launch;
mod lookup;
pub mod monitor;
mod mounts;
pub mod oci;
mod plan;
mod program;
mod reaper;
pub mod rootfs;
pub mod seccomp;
pub mod selinux;
pub mod spawner;
#[expect(missing_docs, reason = "the fields are named and explained by the OCI specification")]
pub mod spec;
mod time;
pub mod user;
pub mod view;

pub use error::{Error, FailureReason, Result, StartFailure};
