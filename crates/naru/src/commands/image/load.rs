//! `load`, and how files become request bodies.

use bytes::Bytes;
use naru_api::Query;
use naru_api::client::Body;
use naru_api::models::ProgressMessage;
use tokio::io::AsyncReadExt as _;

use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::cli::verb::{Arguments, Verb, verb};
use crate::output::progress::{Target, show};
use crate::stream::terminal;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Read from a tar file, instead of STDIN
    #[arg(short = 'i', long, value_name = "string")]
    input: Option<String>,
    /// Load this platform only (os[/arch[/variant]])
    #[arg(long, value_name = "string")]
    platform: Option<String>,
    /// Do not show progress
    #[arg(short = 'q', long)]
    quiet: bool,
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["image load", "load"],
    "[OPTIONS]",
    "Load an image from a tar archive or STDIN",
    Arguments::None,
    "{} load -i web.tar\nzstd -dc web.tar.zst | {} load"
);

async fn run(cx: Cx, options: Options) -> Result<i32> {
    let body = match options.input.as_deref() {
        None | Some("") if terminal::stdin_is_terminal() => {
            return Err(Failure::message("requested load from stdin, but stdin is empty"));
        }
        None | Some("") => stdin_body("application/x-tar"),
        Some(path) => file_body(path, "application/x-tar").await?,
    };
    let quiet = options.quiet || !terminal::stdout_is_terminal();
    let mut query = Query::new();
    query.push("quiet", if quiet { "1" } else { "0" });
    if let Some(platform) = &options.platform {
        query.push("platform", super::platform_json(platform)?);
    }
    let stream = cx.client()?.image_load(&query, body).await?;
    show(stream.json_lines::<ProgressMessage>(), Target::Stdout, drop).await?;
    Ok(0)
}

/// Our stdin as a request's body.
pub fn stdin_body(content_type: &'static str) -> Body {
    let (sender, body) = Body::stream(content_type);
    let mut input = crate::stream::pump::read_stdin();
    tokio::task::spawn_local(async move {
        while let Some(chunk) = input.recv().await {
            if sender.send(Ok(chunk)).await.is_err() {
                return;
            }
        }
    });
    body
}

/// A file as a request's body.
pub async fn file_body(path: &str, content_type: &'static str) -> Result<Body> {
    const CHUNK: usize = 256 << 10;
    let mut file = tokio::fs::File::open(path).await.map_err(|error| Failure::message(crate::parse::open_error(path, &error)))?;
    if file.metadata().await?.is_dir() {
        return Err(Failure::message(format!("read {path}: is a directory")));
    }
    let (sender, body) = Body::stream(content_type);
    tokio::task::spawn_local(async move {
        loop {
            let mut buffer = vec![0; CHUNK];
            let chunk = match file.read(&mut buffer).await {
                Ok(0) => return,
                Ok(length) => {
                    buffer.truncate(length);
                    Ok(Bytes::from(buffer))
                }
                Err(error) => Err(error),
            };
            if sender.send(chunk).await.is_err() {
                return;
            }
        }
    });
    Ok(body)
}
