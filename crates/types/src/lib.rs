//! naru-types
