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
mod tree;

use crate::cli::error::{Failure, Result};
use crate::output::progress::{Target, show};
use naru_api::client::ByteStream;
use naru_api::models::ProgressMessage;
use naru_types::ImageRef;

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

/// What a pull or push is about; tells when the tag is the default one.
fn travelling(text: &str, all_tags: bool, quiet: bool) -> Result<ImageRef> {
    let reference = crate::parse::reference(text).map_err(Failure::message)?;
    let bare = ImageRef::is_bare(text);
    if all_tags && !bare {
        return Err(Failure::message("tag can't be used with --all-tags/-a"));
    }
    if bare && !all_tags && !quiet {
        crate::output::line("Using default tag: latest")?;
    }
    Ok(reference)
}

/// What was moved, for the last line: of all tags the repository only.
fn named(reference: &ImageRef, all_tags: bool) -> String {
    if all_tags { format!("{}/{}", reference.domain, reference.path) } else { reference.canonical() }
}

/// Shows a transfer, or only whether it failed.
async fn follow(stream: ByteStream, quiet: bool) -> Result<()> {
    if !quiet {
        return show(stream.json_lines(), Target::Stdout, drop).await;
    }
    let mut lines = stream.json_lines::<ProgressMessage>();
    while let Some(message) = lines.next().await? {
        if let Some(error) = message.error_detail {
            return Err(Failure::message(error.message));
        }
    }
    Ok(())
}
