//! `network inspect`

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
    /// Show more, for diagnosis
    #[arg(short = 'v', long)]
    verbose: bool,
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["network inspect"],
    "[OPTIONS] NETWORK [NETWORK...]",
    "Display detailed information on one or more networks",
    Arguments::AtLeast(1),
    "{} network inspect -f '{{range .IPAM.Config}}{{.Subnet}}{{end}}' bridge"
);

async fn run(cx: Cx, options: Options) -> Result<i32> {
    let client = cx.client()?;
    let mut query = Query::new();
    if options.verbose {
        query.push("verbose", "true");
    }
    let mut printer = Printer::new(options.format.as_deref())?;
    for name in &options.args {
        if !printer.add(raw(client.network_inspect_raw(name, &query).await)) {
            break;
        }
    }
    printer.finish()
}
