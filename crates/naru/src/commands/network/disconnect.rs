//! `network disconnect`

use naru_api::models::NetworkDisconnectRequest;

use crate::cli::context::Cx;
use crate::cli::error::Result;
use crate::cli::verb::{Arguments, Verb, verb};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Force the container off the network
    #[arg(short = 'f', long)]
    force: bool,
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["network disconnect"],
    "[OPTIONS] NETWORK CONTAINER",
    "Disconnect a container from a network",
    Arguments::Exactly(2),
    "{} network disconnect back web"
);

async fn run(cx: Cx, options: Options) -> Result<i32> {
    let request = NetworkDisconnectRequest { container: options.args[1].clone(), force: options.force };
    cx.client()?.network_disconnect(&options.args[0], &request).await?;
    Ok(0)
}
