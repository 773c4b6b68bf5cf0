//! `diff`

use crate::cli::context::Cx;
use crate::cli::error::Result;
use crate::cli::verb::{Arguments, Names, Verb, verb};

pub const VERB: Verb = verb!(
    Names,
    run,
    ["container diff", "diff"],
    "CONTAINER",
    "Inspect changes to files or directories on a container's filesystem",
    Arguments::Exactly(1),
    "{} diff web"
);

async fn run(cx: Cx, options: Names) -> Result<i32> {
    let changes = cx.client()?.container_changes(&options.args[0]).await?.unwrap_or_default();
    let mut text = String::new();
    for change in changes {
        let kind = match change.kind {
            0 => "C",
            1 => "A",
            _ => "D",
        };
        text.push_str(&format!("{kind} {}\n", change.path));
    }
    crate::output::write(text.as_bytes())?;
    Ok(0)
}
