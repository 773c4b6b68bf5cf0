//! `volume rm`

use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::cli::verb::{Arguments, Verb, verb};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// No error when a volume does not exist
    #[arg(short = 'f', long)]
    force: bool,
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["volume rm", "volume remove"],
    "[OPTIONS] VOLUME [VOLUME...]",
    "Remove one or more volumes",
    Arguments::AtLeast(1),
    "{} volume rm data"
);

async fn run(cx: Cx, options: Options) -> Result<i32> {
    let client = cx.client()?;
    let mut errors = Vec::new();
    for name in &options.args {
        match client.volume_remove(name, options.force).await {
            Ok(()) => crate::output::line(name)?,
            Err(error) => errors.push(error.to_string()),
        }
    }
    if errors.is_empty() { Ok(0) } else { Err(Failure::message(errors.join("\n"))) }
}
