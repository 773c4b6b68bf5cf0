//! `save`

use naru_api::Query;

use crate::cli::context::Cx;
use crate::cli::error::Result;
use crate::cli::verb::{Arguments, Verb, verb};
use crate::commands::container::export::{check_output, prefixed, save};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Write to a file, instead of STDOUT
    #[arg(short = 'o', long, value_name = "string")]
    output: Option<String>,
    /// Save this platform (os[/arch[/variant]])
    #[arg(long, value_name = "string")]
    platform: Option<String>,
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["image save", "save"],
    "[OPTIONS] IMAGE [IMAGE...]",
    "Save one or more images to a tar archive (streamed to STDOUT by default)",
    Arguments::AtLeast(1),
    "{} save -o web.tar web:latest\n{} save web | zstd > web.tar.zst"
);

async fn run(cx: Cx, options: Options) -> Result<i32> {
    check_output(options.output.as_deref()).map_err(|failure| prefixed("failed to save image", failure))?;
    let mut query = Query::new();
    for name in &options.args {
        query.push("names", name.clone());
    }
    if let Some(platform) = &options.platform {
        query.push("platform", super::platform_json(platform)?);
    }
    let stream = cx.client()?.image_save(&query).await?;
    save(stream, options.output.as_deref()).await?;
    Ok(0)
}
