pub mod filters;
pub mod frames;
pub mod json;
pub mod models;
pub mod query;
pub mod version;

pub use filters::Filters;
pub use query::Query;
pub use version::ApiVersion;
