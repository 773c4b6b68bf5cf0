//! `rmi`

use naru_api::Query;
use naru_api::client::ClientError;

use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::cli::verb::{Arguments, Verb, verb};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Remove images that are in use or have several tags
    #[arg(short = 'f', long)]
    force: bool,
    /// Keep parents without a tag
    #[arg(long)]
    no_prune: bool,
    /// Remove this platform only (os[/arch[/variant]])
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    platform: Vec<String>,
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["image rm", "image remove", "rmi"],
    "[OPTIONS] IMAGE [IMAGE...]",
    "Remove one or more images",
    Arguments::AtLeast(1),
    "{} rmi web:old"
);

async fn run(cx: Cx, options: Options) -> Result<i32> {
    let mut query = Query::new();
    query.flag("force", options.force).flag("noprune", options.no_prune);
    for platform in &options.platform {
        query.push("platforms", super::platform_json(platform)?);
    }
    let client = cx.client()?;
    let mut errors = Vec::new();
    let mut fatal = false;
    for name in &options.args {
        match client.image_remove(name, &query).await {
            Ok(items) => {
                let text: String = items
                    .iter()
                    .map(|item| {
                        if item.deleted.is_empty() {
                            format!("Untagged: {}\n", item.untagged)
                        } else {
                            format!("Deleted: {}\n", item.deleted)
                        }
                    })
                    .collect();
                crate::output::write(text.as_bytes())?;
            }
            Err(error) => {
                fatal = fatal || !matches!(error, ClientError::Api { status: 404, .. });
                errors.push(error.to_string());
            }
        }
    }
    if errors.is_empty() {
        return Ok(0);
    }
    let text = errors.join("\n");
    if options.force && !fatal {
        crate::output::error_line(&text);
        return Ok(0);
    }
    Err(Failure::message(text))
}
