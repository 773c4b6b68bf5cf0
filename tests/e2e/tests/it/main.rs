//! The engine from outside, through a client, with real containers.

mod api;
mod files;
mod isolation;
mod lifecycle;
mod survival;
