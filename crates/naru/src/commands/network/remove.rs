//! `network rm`

use naru_api::client::ClientError;

use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::cli::verb::{Arguments, Verb, verb};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// No error when a network does not exist
    #[arg(short = 'f', long)]
    force: bool,
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["network rm", "network remove"],
    "NETWORK [NETWORK...]",
    "Remove one or more networks",
    Arguments::AtLeast(1),
    "{} network rm front back"
);

async fn run(cx: Cx, options: Options) -> Result<i32> {
    let client = cx.client()?;
    let mut status = 0;
    for name in &options.args {
        match client.network_remove(name).await {
            Ok(()) => crate::output::line(name)?,
            Err(ClientError::Api { status: 404, .. }) if options.force => {}
            Err(error) => {
                crate::output::error_line(&error.to_string());
                status = 1;
            }
        }
    }
    if status == 0 { Ok(0) } else { Err(Failure::status(1, "exit status 1")) }
}
