//! `pull`

use naru_api::client::PullOptions;
use naru_api::models::ProgressMessage;

use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::cli::verb::{Arguments, Verb, verb};
use crate::commands::registry_auth;
use crate::output::progress::{Target, show};

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
    let given = crate::parse::reference(&options.args[0]).map_err(Failure::message)?;
    if options.all_tags && (given.tag.is_some() || given.digest.is_some()) {
        return Err(Failure::message("tag can't be used with --all-tags/-a"));
    }
    let reference = if options.all_tags { given.clone() } else { given.tagged() };
    if !options.all_tags && given.tag.is_none() && given.digest.is_none() && !options.quiet {
        crate::output::line(&format!("Using default tag: {}", reference.tag.as_deref().unwrap_or_default()))?;
    }
    let request = PullOptions {
        name: reference.familiar_name(),
        tag: reference.digest.as_ref().map(ToString::to_string).or(reference.tag.clone()).unwrap_or_default(),
        platform: options.platform.clone().or_else(|| std::env::var("DOCKER_DEFAULT_PLATFORM").ok()).unwrap_or_default(),
        auth: registry_auth::header_for(cx, &reference.domain),
    };
    let stream = cx.client()?.image_pull(&request).await?;
    if options.quiet {
        let mut lines = stream.json_lines::<ProgressMessage>();
        while let Some(message) = lines.next().await? {
            if let Some(error) = message.error_detail {
                return Err(Failure::message(error.message));
            }
        }
    } else {
        show(stream.json_lines(), Target::Stdout, drop).await?;
    }
    crate::output::line(&reference.canonical())?;
    Ok(0)
}
