//! `import`

use naru_api::Query;
use naru_api::client::Body;
use naru_api::models::ProgressMessage;

use super::load::{file_body, stdin_body};
use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::cli::verb::{Arguments, Verb, verb};
use crate::output::progress::{Target, show};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Apply a Dockerfile instruction to the image
    #[arg(short = 'c', long, value_name = "list")]
    change: Vec<String>,
    /// Commit message
    #[arg(short = 'm', long, value_name = "string")]
    message: Option<String>,
    /// Platform of the image, when the engine offers several
    #[arg(long, value_name = "string")]
    platform: Option<String>,
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["image import", "import"],
    "[OPTIONS] file|URL|- [REPOSITORY[:TAG]]",
    "Import the contents from a tarball to create a filesystem image",
    Arguments::Between(1, 2),
    "{} import -c 'CMD [\"sh\"]' root.tar small:latest"
);

async fn run(cx: Cx, options: Options) -> Result<i32> {
    let source = options.args[0].as_str();
    let is_url = source.starts_with("http://") || source.starts_with("https://");
    let body = match source {
        "-" => stdin_body("text/plain"),
        _ if is_url => Body::empty(),
        path => file_body(path, "text/plain").await?,
    };
    let mut query = Query::new();
    query.push("fromSrc", if is_url { source } else { "-" });
    query.text("message", options.message.as_deref().unwrap_or_default());
    query.text("platform", &options.platform.as_deref().unwrap_or_default().to_lowercase());
    if let Some(reference) = options.args.get(1) {
        crate::parse::reference(reference).map_err(Failure::message)?;
        query.push("repo", reference.clone());
    }
    for change in &options.change {
        query.push("changes", change.clone());
    }
    let stream = cx.client()?.image_import(&query, body).await?;
    show(stream.json_lines::<ProgressMessage>(), Target::Stdout, drop).await?;
    Ok(0)
}
