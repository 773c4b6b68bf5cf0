//! `container inspect`

use crate::cli::context::Cx;
use crate::cli::error::Result;
use crate::cli::verb::{Arguments, Verb, verb};
use crate::commands::inspect::{Printer, raw};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// 'json', or a Go template
    #[arg(short = 'f', long, value_name = "string")]
    format: Option<String>,
    /// Show sizes
    #[arg(short = 's', long)]
    size: bool,
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["container inspect"],
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Display detailed information on one or more containers",
    Arguments::AtLeast(1),
    "{} container inspect -f '{{.State.Status}}' web"
);

async fn run(cx: Cx, options: Options) -> Result<i32> {
    let client = cx.client()?;
    let mut printer = Printer::new(options.format.as_deref())?;
    for name in &options.args {
        if !printer.add(raw(client.container_inspect_raw(name, options.size).await)) {
            break;
        }
    }
    printer.finish()
}
