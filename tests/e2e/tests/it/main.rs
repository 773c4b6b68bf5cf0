//! The engine from outside, through a client, with real containers.

mod api;
mod faults;
mod files;
mod hostile;
mod image;
mod isolation;
mod lifecycle;
mod security;
mod survival;
