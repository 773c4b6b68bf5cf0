//! naru-engine
