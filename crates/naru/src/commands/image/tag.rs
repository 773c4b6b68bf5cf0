//! `tag`

use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::cli::verb::{Arguments, Names, Verb, verb};

pub const VERB: Verb = verb!(
    Names,
    run,
    ["image tag", "tag"],
    "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
    "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
    Arguments::Exactly(2),
    "{} tag web:latest registry.example/web:2"
);

async fn run(cx: Cx, options: Names) -> Result<i32> {
    let target = crate::parse::reference(&options.args[1]).map_err(|error| {
        Failure::message(format!("Error parsing reference: {:?} is not a valid repository/tag: {error}", options.args[1]))
    })?;
    if target.digest.is_some() {
        return Err(Failure::message("refusing to create a tag with a digest reference"));
    }
    cx.client()?.image_tag(&options.args[0], &target.familiar_name(), target.tagged().tag.as_deref().unwrap_or_default()).await?;
    Ok(0)
}
