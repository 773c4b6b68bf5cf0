//! naru-sys
