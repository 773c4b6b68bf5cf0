//! `rename`

use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::cli::verb::{Arguments, Names, Verb, verb};

pub const VERB: Verb = verb!(
    Names,
    run,
    ["container rename", "rename"],
    "CONTAINER NEW_NAME",
    "Rename a container",
    Arguments::Exactly(2),
    "{} rename web old-web"
);

async fn run(cx: Cx, options: Names) -> Result<i32> {
    let [old, new] = options.args.as_slice() else { return Ok(1) };
    if old.trim().is_empty() || new.trim().is_empty() {
        return Err(Failure::message("Error: Neither old nor new names may be empty"));
    }
    cx.client()?
        .container_rename(old, new)
        .await
        .map(|()| 0)
        .map_err(|error| Failure::message(format!("{error}\nError: failed to rename container named {old}")))
}
