//! `image inspect`

use naru_api::Query;

use crate::cli::context::Cx;
use crate::cli::error::Result;
use crate::cli::verb::{Arguments, Verb, verb};
use crate::commands::inspect::{Printer, raw};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// 'json', or a Go template
    #[arg(short = 'f', long, value_name = "string")]
    format: Option<String>,
    /// Inspect this platform (os[/arch[/variant]])
    #[arg(long, value_name = "string")]
    platform: Option<String>,
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["image inspect"],
    "[OPTIONS] IMAGE [IMAGE...]",
    "Display detailed information on one or more images",
    Arguments::AtLeast(1),
    "{} image inspect -f '{{json .Config}}' debian"
);

async fn run(cx: Cx, options: Options) -> Result<i32> {
    let mut query = Query::new();
    if let Some(platform) = &options.platform {
        query.push("platform", super::platform_json(platform)?);
    }
    let client = cx.client()?;
    let mut printer = Printer::new(options.format.as_deref())?;
    for name in &options.args {
        if !printer.add(raw(client.image_inspect_raw(name, &query).await)) {
            break;
        }
    }
    printer.finish()
}
