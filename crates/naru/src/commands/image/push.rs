//! `push`

use naru_api::Query;

use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::cli::verb::{Arguments, Verb, verb};
use crate::commands::registry_auth;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Push all tags of the repository
    #[arg(short = 'a', long)]
    all_tags: bool,
    /// Image signing is not part of the engine any more
    #[arg(long, value_name = "bool", hide = true)]
    disable_content_trust: Option<bool>,
    /// Push this platform only (os[/arch[/variant]])
    #[arg(long, value_name = "string")]
    platform: Option<String>,
    /// Do not show progress
    #[arg(short = 'q', long)]
    quiet: bool,
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["image push", "push"],
    "[OPTIONS] NAME[:TAG]",
    "Upload an image to a registry",
    Arguments::Exactly(1),
    "{} push registry.example/web:2"
);

async fn run(cx: Cx, options: Options) -> Result<i32> {
    crate::commands::container::options::refuse_content_trust(options.disable_content_trust).map_err(Failure::message)?;
    let reference = super::travelling(&options.args[0], options.all_tags, options.quiet)?;
    if reference.digest.is_some() {
        return Err(Failure::message("cannot push a digest reference"));
    }
    let mut query = Query::new();
    if !options.all_tags {
        query.text("tag", reference.tag.as_deref().unwrap_or_default());
    }
    if let Some(platform) = &options.platform {
        query.push("platform", super::platform_json(platform)?);
    }
    let auth = registry_auth::header_for(cx, &reference.domain);
    let auth = if auth.is_empty() { registry_auth::encode(&Default::default()) } else { auth };
    let stream = cx.client()?.image_push(&reference.familiar_name(), &query, &auth).await?;
    super::follow(stream, options.quiet).await?;
    if options.quiet {
        crate::output::line(&super::named(&reference, options.all_tags))?;
    }
    Ok(0)
}
