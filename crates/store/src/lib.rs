//! Images, layers and containers' file systems.
#![warn(missing_docs)]
mod config;
mod error;
mod patch;
pub mod tar;
pub use config::{HistoryEntry, Healthcheck, ImageConfig, RootFs, RunConfig};
pub use error::{Error, Result};
pub use patch::ConfigPatch;
