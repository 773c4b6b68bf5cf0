//! `top`

use crate::cli::context::Cx;
use crate::cli::error::Result;
use crate::cli::verb::{Arguments, Verb, verb};

#[derive(Debug, clap::Args)]
pub struct Options {
    #[arg(trailing_var_arg = true)]
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["container top", "top"],
    "CONTAINER [ps OPTIONS]",
    "Display the running processes of a container",
    Arguments::AtLeast(1),
    "{} top web\n{} top web -o pid,cmd"
);

async fn run(cx: Cx, options: Options) -> Result<i32> {
    let top = cx.client()?.container_top(&options.args[0], &options.args[1..].join(" ")).await?;
    let mut text = top.titles.join("\t") + "\n";
    for process in &top.processes {
        text.push_str(&process.join("\t"));
        text.push('\n');
    }
    crate::output::write(crate::output::table::align_with(&text, 20, 3).as_bytes())?;
    Ok(0)
}
