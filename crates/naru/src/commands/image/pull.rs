//! `pull`

use naru_api::client::PullOptions;

use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::cli::verb::{Arguments, Verb, verb};
use crate::commands::registry_auth;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Pull all tags of the repository
    #[arg(short = 'a', long)]
    all_tags: bool,
    /// Image verification is not part of the engine any more
    #[arg(long, value_name = "bool", hide = true)]
    disable_content_trust: Option<bool>,
    /// Pull this platform (os[/arch[/variant]])
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
    ["image pull", "pull"],
    "[OPTIONS] NAME[:TAG|@DIGEST]",
    "Download an image from a registry",
    Arguments::Exactly(1),
    "{} pull debian:12\n{} pull registry.example/web@sha256:…"
);

async fn run(cx: Cx, options: Options) -> Result<i32> {
    crate::commands::container::options::refuse_content_trust(options.disable_content_trust).map_err(Failure::message)?;
    let reference = super::travelling(&options.args[0], options.all_tags, options.quiet)?;
    let request = PullOptions {
        name: reference.familiar_name(),
        tag: if options.all_tags {
            String::new()
        } else {
            reference.digest.as_ref().map(ToString::to_string).or(reference.tag.clone()).unwrap_or_default()
        },
        platform: options.platform.clone().or_else(|| std::env::var("DOCKER_DEFAULT_PLATFORM").ok()).unwrap_or_default(),
        auth: registry_auth::header_for(cx, &reference.domain),
    };
    let stream = cx.client()?.image_pull(&request).await?;
    super::follow(stream, options.quiet).await?;
    crate::output::line(&super::named(&reference, options.all_tags))?;
    Ok(0)
}
