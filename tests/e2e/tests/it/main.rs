//! The engine from outside, through a client, with real containers.

mod lifecycle;
mod survival;
