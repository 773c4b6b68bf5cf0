//! `commit`

use naru_api::Query;
use naru_api::models::CommitRequest;

use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::cli::verb::{Arguments, Verb, verb};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Author (John Hannibal Smith <hannibal@a-team.com>)
    #[arg(short = 'a', long, value_name = "string")]
    author: Option<String>,
    /// Apply a Dockerfile instruction to the image
    #[arg(short = 'c', long, value_name = "list")]
    change: Vec<String>,
    /// Commit message
    #[arg(short = 'm', long, value_name = "string")]
    message: Option<String>,
    /// Do not pause the container during the commit
    #[arg(long)]
    no_pause: bool,
    /// Pause the container during the commit (default true)
    #[arg(short = 'p', long, value_name = "bool", hide = true)]
    pause: Option<bool>,
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["container commit", "commit"],
    "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
    "Create a new image from a container's changes",
    Arguments::Between(1, 2),
    "{} commit -m 'with tools' web registry.example/web:2"
);

async fn run(cx: Cx, options: Options) -> Result<i32> {
    let mut query = Query::new();
    query.push("container", options.args[0].clone());
    if let Some(reference) = options.args.get(1).filter(|reference| !reference.is_empty()) {
        let reference = crate::parse::reference(reference).map_err(Failure::message)?;
        if reference.digest.is_some() {
            return Err(Failure::message("refusing to create a tag with a digest reference"));
        }
        query.push("repo", reference.familiar_name()).text("tag", reference.tagged().tag.as_deref().unwrap_or_default());
    }
    query.text("comment", options.message.as_deref().unwrap_or_default());
    query.text("author", options.author.as_deref().unwrap_or_default());
    for change in &options.change {
        query.push("changes", change.clone());
    }
    if options.no_pause || options.pause == Some(false) {
        query.push("pause", "0");
    }
    let id = cx.client()?.commit(&query, &CommitRequest::default()).await?.id;
    crate::output::line(&id)?;
    Ok(0)
}
