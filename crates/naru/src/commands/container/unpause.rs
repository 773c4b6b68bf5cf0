//! `unpause`

use crate::cli::context::Cx;
use crate::cli::error::Result;
use crate::cli::verb::{Arguments, Names, Verb, verb};

pub const VERB: Verb = verb!(
    Names,
    run,
    ["container unpause", "unpause"],
    "CONTAINER [CONTAINER...]",
    "Unpause all processes within one or more containers",
    Arguments::AtLeast(1),
    "{} unpause web"
);

async fn run(cx: Cx, options: Names) -> Result<i32> {
    let client = cx.client()?;
    super::for_each(&options.args, |name| async move { client.container_unpause(&name).await.map_err(Into::into) }).await
}
