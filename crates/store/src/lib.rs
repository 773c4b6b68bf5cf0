//! naru-store
