//! `rm`

use naru_api::Query;

use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::cli::verb::{Arguments, Verb, verb};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Remove running containers too (kills them)
    #[arg(short = 'f', long)]
    force: bool,
    /// Remove the link, not the container
    #[arg(short = 'l', long)]
    link: bool,
    /// Remove anonymous volumes of the container
    #[arg(short = 'v', long)]
    volumes: bool,
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["container rm", "container remove", "rm"],
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Remove one or more containers",
    Arguments::AtLeast(1),
    "{} rm web\n{} rm -fv web db"
);

async fn run(cx: Cx, options: Options) -> Result<i32> {
    let client = cx.client()?;
    let mut query = Query::new();
    query.flag("v", options.volumes).flag("link", options.link).flag("force", options.force);
    let force = options.force;
    super::for_each(&options.args, |name| {
        let query = &query;
        async move {
            let name = name.trim_matches('/').to_owned();
            if name.is_empty() {
                return Err(Failure::message("container name cannot be empty"));
            }
            match client.container_remove(&name, query).await {
                // With --force an absent container is a removed one; it is still said.
                Err(error) if force && matches!(error, naru_api::client::ClientError::Api { status: 404, .. }) => {
                    crate::output::error_line(&error.to_string());
                    Err(Failure::Silent(0))
                }
                other => other.map_err(Into::into),
            }
        }
    })
    .await
}
