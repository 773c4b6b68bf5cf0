//! Commands about images.

pub mod history;
pub mod import;
pub mod inspect;
pub mod list;
pub mod load;
pub mod prune;
pub mod pull;
pub mod push;
pub mod remove;
pub mod save;
pub mod search;
pub mod tag;

use crate::cli::error::{Failure, Result};

/// `os[/architecture[/variant]]` as the JSON that newer parameters want.
pub fn platform_json(text: &str) -> Result<String> {
    let platform: naru_types::Platform = text.parse().map_err(|error: naru_types::ParseError| Failure::message(error.to_string()))?;
    let wire = naru_api::models::OciPlatform {
        architecture: platform.architecture,
        os: platform.os,
        variant: platform.variant.unwrap_or_default(),
        ..Default::default()
    };
    Ok(serde_json::to_string(&wire).expect("strings always serialise"))
}
