//! Commands about containers.

pub mod assemble;
pub mod attach;
pub mod commit;
pub mod cp;
pub mod create;
pub mod diff;
pub mod exec;
pub mod export;
pub mod inspect;
pub mod kill;
pub mod list;
pub mod logs;
pub mod options;
pub mod pause;
pub mod port;
pub mod prune;
pub mod remove;
pub mod rename;
pub mod resize;
pub mod restart;
pub mod run;
pub mod start;
pub mod stats;
pub mod stop;
pub mod top;
pub mod unpause;
pub mod update;
pub mod wait;

use std::future::Future;

use futures_util::StreamExt as _;

use crate::cli::error::{Failure, Result};

/// Calls in flight at once when a command names many objects.
const PARALLEL: usize = 50;

/// Does one thing to each of several objects at once; prints the names that it worked for, in their order, and ends with
/// the errors of the others.
pub async fn for_each<F, Fut>(names: &[String], act: F) -> Result<i32>
where
    F: Fn(String) -> Fut,
    Fut: Future<Output = Result<()>>,
{
    let mut results = futures_util::stream::iter(names.iter().map(|name| {
        let done = act(name.clone());
        async move { (name, done.await) }
    }))
    .buffered(PARALLEL);
    let mut errors = Vec::new();
    while let Some((name, outcome)) = results.next().await {
        match outcome {
            Ok(()) => crate::output::line(name)?,
            Err(Failure::BrokenPipe) => return Err(Failure::BrokenPipe),
            Err(Failure::Silent(_)) => {}
            Err(failure) => errors.push(failure.text().to_owned()),
        }
    }
    if errors.is_empty() { Ok(0) } else { Err(Failure::message(errors.join("\n"))) }
}
