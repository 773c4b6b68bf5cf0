//! `logs`

use naru_api::client::LogOptions;
use naru_api::frames::Decoder;

use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::cli::verb::{Arguments, Verb, verb};
use crate::parse::time::moment;
use crate::stream::pump::{frames, write_out};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Show the attributes that the log driver added
    #[arg(long)]
    details: bool,
    /// Follow the output
    #[arg(short = 'f', long)]
    follow: bool,
    /// Show logs since a moment (2013-01-02T13:23:37Z) or a duration ago (42m)
    #[arg(long, value_name = "string")]
    since: Option<String>,
    /// Number of lines to show from the end (default "all")
    #[arg(short = 'n', long, value_name = "string")]
    tail: Option<String>,
    /// Show timestamps
    #[arg(short = 't', long)]
    timestamps: bool,
    /// Show logs before a moment (2013-01-02T13:23:37Z) or a duration ago (42m)
    #[arg(long, value_name = "string")]
    until: Option<String>,
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["container logs", "logs"],
    "[OPTIONS] CONTAINER",
    "Fetch the logs of a container",
    Arguments::Exactly(1),
    "{} logs -f --tail 20 web\n{} logs --since 10m web"
);

async fn run(cx: Cx, options: Options) -> Result<i32> {
    let client = cx.client()?;
    let container = client.container_inspect(&options.args[0]).await?;
    let when = |flag: &str, value: &Option<String>| match value.as_deref() {
        None | Some("") => Ok(String::new()),
        Some(text) => moment(text).map_err(|error| Failure::message(format!("invalid value for {flag:?}: {error}"))),
    };
    let request = LogOptions {
        stdout: true,
        stderr: true,
        follow: options.follow,
        timestamps: options.timestamps,
        details: options.details,
        since: when("since", &options.since)?,
        until: when("until", &options.until)?,
        tail: options.tail.unwrap_or_else(|| "all".to_owned()),
    };
    let mut stream = client.container_logs(&container.id, &request).await?;
    let mut decoder = Decoder::new();
    while let Some(chunk) = stream.chunk().await? {
        if container.config.tty {
            write_out(&chunk, false).await?;
        } else {
            decoder.feed(&chunk);
            frames(&mut decoder, true, true).await?;
        }
    }
    Ok(0)
}
