//! Commands about the engine itself.

pub mod df;
pub mod dial;
pub mod events;
pub mod info;
pub mod prune;
pub mod version;
