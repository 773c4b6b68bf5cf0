//! `pause`

use crate::cli::context::Cx;
use crate::cli::error::Result;
use crate::cli::verb::{Arguments, Names, Verb, verb};

pub const VERB: Verb = verb!(
    Names,
    run,
    ["container pause", "pause"],
    "CONTAINER [CONTAINER...]",
    "Pause all processes within one or more containers",
    Arguments::AtLeast(1),
    "{} pause web"
);

async fn run(cx: Cx, options: Names) -> Result<i32> {
    let client = cx.client()?;
    super::for_each(&options.args, |name| async move { client.container_pause(&name).await.map_err(Into::into) }).await
}
