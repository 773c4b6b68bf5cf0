//! `wait`

use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::cli::verb::{Arguments, Names, Verb, verb};

pub const VERB: Verb = verb!(
    Names,
    run,
    ["container wait", "wait"],
    "CONTAINER [CONTAINER...]",
    "Block until one or more containers stop, then print their exit codes",
    Arguments::AtLeast(1),
    "{} wait web"
);

async fn run(cx: Cx, options: Names) -> Result<i32> {
    let client = cx.client()?;
    let mut errors = Vec::new();
    for name in &options.args {
        let outcome = async { client.container_wait(name, "").await?.finish().await }.await;
        match outcome {
            Ok(answer) => match answer.error {
                Some(error) if !error.message.is_empty() => errors.push(error.message),
                _ => crate::output::line(&answer.status_code.to_string())?,
            },
            Err(error) => errors.push(error.to_string()),
        }
    }
    if errors.is_empty() { Ok(0) } else { Err(Failure::message(errors.join("\n"))) }
}
