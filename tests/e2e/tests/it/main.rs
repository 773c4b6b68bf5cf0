//! The engine from outside, through a client, with real containers.

mod api;
mod attach;
mod faults;
mod files;
mod health_events;
mod hostile;
mod image;
mod isolation;
mod lifecycle;
mod logs;
mod runtimes;
mod security;
mod survival;
