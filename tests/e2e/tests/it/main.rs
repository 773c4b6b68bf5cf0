//! The engine from outside, through a client, with real containers.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod api;
mod apparmor;
mod attach;
mod attacks;
mod behaviours;
mod clients;
mod faults;
mod files;
mod firewalld;
mod health_events;
mod hostile;
mod image;
mod images;
mod isolation;
mod lifecycle;
mod limits;
mod links;
mod logs;
mod networks;
mod networks_exact;
mod outside;
mod pressure;
mod races;
mod ready;
mod registries;
mod runtimes;
mod second_opinions;
mod secrets;
mod security;
mod selinux;
mod shortcuts;
mod sockets;
mod survival;
mod travel;
mod wires;
