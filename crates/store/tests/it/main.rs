//! The store on the real kernel: images from tar streams, mounts, diffs, commits, archives. Needs root.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod ahead;
mod archive;
mod bombs;
mod btrfs;
mod check;
mod crash;
mod fetch;
mod hostile;
mod images;
mod programs;
mod snapshots;
mod support;
