//! naru-daemon
