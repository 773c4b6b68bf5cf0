//! naru-api
