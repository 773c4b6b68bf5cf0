//! Streams between this terminal and a container: raw mode, the pump of a hijacked connection, forwarded signals.

pub mod detach;
pub mod pump;
pub mod signals;
pub mod terminal;
