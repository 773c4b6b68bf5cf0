//! Commands about the image store, Naru's own.

pub mod check;
