//! `volume inspect`

use crate::cli::context::Cx;
use crate::cli::error::Result;
use crate::cli::verb::{Arguments, Verb, verb};
use crate::commands::inspect::{Printer, raw};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// 'json', or a Go template
    #[arg(short = 'f', long, value_name = "string")]
    format: Option<String>,
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["volume inspect"],
    "[OPTIONS] VOLUME [VOLUME...]",
    "Display detailed information on one or more volumes",
    Arguments::AtLeast(1),
    "{} volume inspect -f '{{.Mountpoint}}' data"
);

async fn run(cx: Cx, options: Options) -> Result<i32> {
    let client = cx.client()?;
    let mut printer = Printer::new(options.format.as_deref())?;
    for name in &options.args {
        if !printer.add(raw(client.volume_inspect_raw(name).await)) {
            break;
        }
    }
    printer.finish()
}
