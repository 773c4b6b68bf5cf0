//! naru-runtime
